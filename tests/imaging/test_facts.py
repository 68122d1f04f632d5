import hashlib

import pytest
from PIL import Image
from pydicom import Dataset

from fracture_ml.core.errors import InvalidSettings, Truncated
from fracture_ml.core.records import BodyPart, MediaType, Priority
from fracture_ml.imaging import decode as decoding
from fracture_ml.imaging.anatomy import body_part_of, laterality_of, view_of
from fracture_ml.imaging.deidentify import keyed_hash
from fracture_ml.imaging.facts import read_facts
from tests.imaging.made_files import SECRET, STUDY_UID, dicom_of, jpeg_of, limb, png_of


def test_a_jpeg_tells_its_size_and_who_it_is_by_its_bytes():
    data = jpeg_of(Image.fromarray(limb(900, 700)).convert("RGB"))
    facts = read_facts(data, site_secret=SECRET)
    assert (facts.sha256, facts.size_bytes, facts.media_type) == (
        hashlib.sha256(data).hexdigest(),
        len(data),
        MediaType.JPEG,
    )
    assert (facts.width_px, facts.height_px, facts.bits_stored, facts.photometric) == (700, 900, 8, "RGB")
    assert (facts.patient_key, facts.study_key, facts.body_part) == (None, None, BodyPart.UNKNOWN)


def test_a_dicom_tells_its_attributes_with_identity_hashed():
    data = dicom_of(
        PatientID="4711",
        IssuerOfPatientID="St. Elsewhere",
        PatientName="Doe^Jane",
        PatientBirthDate="19500630",
        StudyDate="20240629",
        PatientSex="F",
        BodyPartExamined="T-SPINE",
        ViewPosition="LL",
        Laterality="L",
        ImageLaterality="R",
        Manufacturer="ACME",
        RequestedProcedurePriority="HIGH",
        PhotometricInterpretation="MONOCHROME1",
    )
    facts = read_facts(data, site_secret=SECRET)
    assert facts.patient_key == keyed_hash(SECRET, "St. Elsewhere", "4711")
    assert facts.study_key == keyed_hash(SECRET, STUDY_UID)
    assert (facts.sex, facts.age_band, facts.manufacturer) == ("F", "70-79", "ACME")
    assert (facts.body_part, facts.view, facts.laterality) == (BodyPart.SPINE, "lateral", "R")
    assert (facts.ordered_priority, facts.photometric, facts.bits_stored) == (Priority.URGENT, "MONOCHROME1", 12)
    for identity in ("4711", "Elsewhere", "Doe", "1950", STUDY_UID):
        assert identity not in repr(facts)


@pytest.mark.parametrize(
    ("age", "band"), [("007Y", "0-9"), ("018M", "0-9"), ("089Y", "80-89"), ("104Y", "90+"), ("x", None)]
)
def test_ages_are_banded(age, band):
    assert read_facts(dicom_of(PatientAge=age), site_secret=SECRET).age_band == band


def test_patients_without_an_id_are_not_one_patient():
    for nobody in ("", " ", "ANONYMOUS", "unknown"):
        assert read_facts(dicom_of(PatientID=nobody), site_secret=SECRET).patient_key is None


def test_a_region_code_stands_in_for_a_missing_body_part():
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "70258002", "SCT", "Ankle joint"
    facts = read_facts(dicom_of(AnatomicRegionSequence=[region]), site_secret=SECRET)
    assert facts.body_part is BodyPart.ANKLE


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("HAND", BodyPart.HAND),
        ("Hand, left", BodyPart.HAND),
        ("LOWER LEG", BodyPart.LEG),
        ("UPPER ARM", BodyPart.HUMERUS),
        ("L-SPINE", BodyPart.SPINE),
        ("Lumbar Spine", BodyPart.SPINE),
        ("TIBIA/FIBULA", BodyPart.LEG),
        ("CALCANEUS", BodyPart.FOOT),
        ("FINGERS", BodyPart.HAND),
        ("SHOULDER R", BodyPart.SHOULDER),
        ("EXTREMITY", BodyPart.UNKNOWN),
        ("HIP AND KNEE", BodyPart.UNKNOWN),
        ("HANDSOME", BodyPart.UNKNOWN),
        ("", BodyPart.UNKNOWN),
        (None, BodyPart.UNKNOWN),
    ],
)
def test_body_parts_are_understood_as_hospitals_write_them(text, part):
    assert body_part_of(text) is part


def test_views_and_sides_are_understood():
    assert [view_of(text) for text in ("AP", "pa", "LL", "LLO", "Lateral", "JOHN", None)] == [
        "frontal",
        "frontal",
        "lateral",
        "oblique",
        "lateral",
        None,
        None,
    ]
    assert [laterality_of(text) for text in ("L", "r", "B", "U", "LEFT KNEE", None)] == [
        "L",
        "R",
        "B",
        None,
        None,
        None,
    ]


def test_an_object_is_decoded_once(monkeypatch):
    calls = []
    loaded = decoding._decoded
    monkeypatch.setattr(decoding, "_decoded", lambda *told: calls.append(1) or loaded(*told))
    for data in (jpeg_of(limb()), png_of(limb())):
        read_facts(data, site_secret=SECRET)
    assert len(calls) == 2


def test_a_truncated_tail_is_found_though_the_jpeg_is_decoded_small():
    data = jpeg_of(limb(1200, 900))
    for end in (len(data) - 1, len(data) - 2, len(data) - 300):
        with pytest.raises(Truncated):
            read_facts(data[:end], site_secret=SECRET)


def test_an_empty_secret_is_refused():
    with pytest.raises(InvalidSettings):
        read_facts(dicom_of(PatientID="4711"), site_secret=b"")


def test_the_real_cr_gives_its_facts(real_data):
    facts = read_facts((real_data / "dicom" / "RG3_J2KR.dcm").read_bytes(), site_secret=SECRET)
    assert (facts.width_px, facts.height_px, facts.bits_stored) == (1760, 1760, 10)
    assert (facts.photometric, facts.sex, facts.age_band) == ("MONOCHROME1", "F", "20-29")
    assert (facts.body_part, facts.view, facts.laterality) == (BodyPart.UNKNOWN, "frontal", "R")
    assert facts.manufacturer == "FUJI PHOTO FILM CO. LTD."
    assert facts.patient_key == keyed_hash(SECRET, "", "11RG3")


def test_of_the_real_jpegs_49_are_truncated_12_are_copies_and_every_other_one_is_a_radiograph(real_data):
    hashes, copies, truncated = {}, 0, 0
    for path in sorted((real_data / "fracatlas" / "images").glob("*/*.jpg")):
        try:
            facts = read_facts(path.read_bytes(), site_secret=SECRET)
        except Truncated:
            truncated += 1
            continue
        copies += facts.sha256 in hashes
        assert hashes.setdefault(facts.sha256, facts.perceptual_hash) == facts.perceptual_hash
    assert (len(hashes), copies, truncated) == (2793, 12, 49)
