import io
import re
import warnings
from datetime import date

import numpy as np
import pydicom
import pytest
from PIL import Image, PngImagePlugin
from pydicom import DataElement, Dataset, uid
from pydicom.encaps import encapsulate, get_frame

from fracture_ml.core.errors import BurnedInIdentity
from fracture_ml.core.records import MediaType
from fracture_ml.imaging.decode import decode
from fracture_ml.imaging.deidentify import deidentify, hashed_uid, keyed_hash
from fracture_ml.imaging.facts import read_facts
from tests.imaging.made_files import (
    SECRET,
    SOP_UID,
    STUDY_UID,
    bytes_of,
    compressed,
    dicom_around_frame,
    dicom_dataset,
    dicom_of,
    jpeg_of,
    limb,
    png_of,
)

NAMES = b"Doe^Jane", b"4711", b"Elsewhere", b"ELSEWHERE", b"Dr House", b"19500630", b"20240629", b"XR-ROOM-3"


def identified(**attributes):
    """A DICOM that names its patient in every way that is usual, and in some that are not."""
    dataset = dicom_dataset(
        PatientName="Doe^Jane",
        PatientID="4711",
        IssuerOfPatientID="Elsewhere",
        OtherPatientIDs="4711-B",
        PatientBirthDate="19500630",
        PatientAge="074Y",
        PatientSex="F",
        PatientAddress="4711 Elsewhere Road",
        StudyDate="20240629",
        SeriesDate="20240629",
        AcquisitionDate="20240630",
        AcquisitionDateTime="20240630081500.123",
        StudyTime="081459",
        AccessionNumber="A4711",
        InstitutionName="ELSEWHERE GENERAL",
        ReferringPhysicianName="Dr House",
        StationName="XR-ROOM-3",
        StudyDescription="Fall of Doe^Jane",
        ImageComments="Doe^Jane, 4711",
        BodyPartExamined="WRIST",
        ViewPosition="PA",
        Laterality="L",
        Manufacturer="ACME",
        ManufacturerModelName="Ray 3000",
        Modality="CR",
        ImageType=["ORIGINAL", "PRIMARY", "DOE"],
        WindowCenter=[2000, 1000],
        WindowWidth=[3000, 500],
        WindowCenterWidthExplanation=["Doe^Jane", "B"],
        **attributes,
    )
    private = dataset.private_block(0x0011, "ELSEWHERE 1.0", create=True)
    private.add_new(0x01, "LO", "Doe^Jane")
    table = Dataset()
    table.LUTDescriptor, table.LUTExplanation = [4096, 0, 12], "Doe^Jane"
    table["LUTDescriptor"].VR = "US"
    table.add_new("LUTData", "US", list(range(4096)))
    dataset.VOILUTSequence = [table]
    dataset.add_new(0x60003000, "OW", b"Doe^Jane")
    return dataset


def read(data):
    return pydicom.dcmread(io.BytesIO(data))


def test_nothing_in_a_stored_dicom_names_the_patient():
    source = bytearray(bytes_of(identified()))
    source[:8] = b"Doe^Jane"  # the preamble
    source += b"\xfc\xff\xfc\xffOB\0\0\x08\0\0\0Doe^Jane"  # the padding behind the pixels
    stored = deidentify(bytes(source), MediaType.DICOM, site_secret=SECRET)
    for name in (*NAMES, STUDY_UID.encode(), SOP_UID.encode()):
        assert name in source or name == b"19500630"
        assert name not in stored
    assert not [element for element in read(stored).iterall() if element.tag.is_private]


def test_what_a_study_of_subgroups_needs_is_kept():
    source = identified(RequestedProcedurePriority="HIGH")
    stored = read(deidentify(bytes_of(source), MediaType.DICOM, site_secret=SECRET))
    assert (stored.RequestedProcedurePriority, stored.Modality) == ("HIGH", "CR")
    assert stored.PatientIdentityRemoved == "YES"
    assert (stored.PatientName, stored.PatientBirthDate, stored.AccessionNumber) == ("", "", "")
    assert (stored.BodyPartExamined, stored.ViewPosition, stored.Laterality) == ("WRIST", "PA", "L")
    assert (stored.Manufacturer, stored.ManufacturerModelName, stored.PatientSex) == ("ACME", "Ray 3000", "F")
    assert list(stored.ImageType) == ["ORIGINAL", "PRIMARY"]
    assert stored.PatientAge == "074Y"
    assert list(stored.WindowCenter) == [2000, 1000]


def test_the_patient_is_grouped_as_the_facts_group_it():
    source = bytes_of(identified())
    stored = read(deidentify(source, MediaType.DICOM, site_secret=SECRET))
    facts = read_facts(source, site_secret=SECRET)
    assert stored.PatientID == facts.patient_key == keyed_hash(SECRET, "Elsewhere", "4711")
    assert stored.PatientID != keyed_hash(b"another site", "Elsewhere", "4711")
    assert stored.PatientID != keyed_hash(SECRET, "Elsew", "here4711")


def test_identifiers_become_valid_ones_and_the_same_ones_again():
    first = read(deidentify(bytes_of(identified()), MediaType.DICOM, site_secret=SECRET))
    second = read(deidentify(bytes_of(identified(SOPInstanceUID=SOP_UID + ".9")), MediaType.DICOM, site_secret=SECRET))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert re.fullmatch(r"2\.25\.[1-9][0-9]{0,38}", first[keyword].value)
        assert uid.UID(first[keyword].value).is_valid
    assert first.StudyInstanceUID == second.StudyInstanceUID == hashed_uid(SECRET, STUDY_UID)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID


def test_dates_move_together_for_a_patient_and_differently_for_another():
    def days(patient):
        source = identified()
        source.PatientID = patient
        stored = read(deidentify(bytes_of(source), MediaType.DICOM, site_secret=SECRET))
        return [date.fromisoformat(stored[keyword].value) for keyword in ("StudyDate", "AcquisitionDate")], stored

    (study, acquired), stored = days("4711")
    assert (acquired - study).days == 1
    assert 1 <= (date(2024, 6, 29) - study).days <= 3650
    assert stored.AcquisitionDateTime == acquired.strftime("%Y%m%d") + "081500"
    assert stored.StudyTime == "081459"
    assert days("4712")[0] != [study, acquired]


def test_the_dates_of_two_studies_that_name_no_patient_do_not_move_together():
    def study_date(study_uid: str) -> str:
        source = dicom_of(StudyInstanceUID=study_uid, StudyDate="20240629")
        return read(deidentify(source, MediaType.DICOM, site_secret=SECRET)).StudyDate

    assert study_date(STUDY_UID) == study_date(STUDY_UID) != study_date(STUDY_UID + ".1")


def test_a_date_that_cannot_be_moved_back_is_dropped_and_costs_nobody_the_image():
    source = dicom_of(StudyDate="00010102", AcquisitionDate="20240629", AcquisitionDateTime="00010102081500")
    stored = read(deidentify(source, MediaType.DICOM, site_secret=SECRET))
    assert stored.StudyDate == "" and stored.AcquisitionDate != "" and "AcquisitionDateTime" not in stored


def test_an_age_is_not_made_up_where_the_examination_is_dated_before_the_birth():
    source = dicom_of(PatientBirthDate="20240630", StudyDate="20240629")
    assert "PatientAge" not in read(deidentify(source, MediaType.DICOM, site_secret=SECRET))


def test_no_patients_dates_stay_where_they_were():
    """Of some thousand patients one has a number that leaves no remainder."""
    patient = next(
        name
        for name in map(str, range(100_000))
        if int(keyed_hash(SECRET, "days", keyed_hash(SECRET, "", name)), 16) % 3650 == 0
    )
    stored = read(deidentify(dicom_of(PatientID=patient, StudyDate="20240629"), MediaType.DICOM, site_secret=SECRET))
    assert stored.StudyDate == "20240628"


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ({"PatientAge": "093Y"}, "090Y"),
        ({"PatientAge": "", "PatientBirthDate": "19210101"}, "090Y"),
        ({"PatientAge": "", "PatientBirthDate": "20000630"}, "023Y"),
        ({"PatientAge": "", "PatientBirthDate": "20000629"}, "024Y"),
    ],
)
def test_ages_from_ninety_are_one_band(told, kept):
    source = identified()
    for keyword, value in told.items():
        setattr(source, keyword, value)
    assert read(deidentify(bytes_of(source), MediaType.DICOM, site_secret=SECRET)).PatientAge == kept


def test_words_typed_into_coded_attributes_are_dropped():
    source = identified()
    source.BodyPartExamined, source.ViewPosition, source.Laterality = "WRIST OF JANE", "JANE", "DOE"
    typed = ("RescaleType", "PresentationLUTShape", "LossyImageCompression", "LossyImageCompressionMethod")
    for keyword in typed:
        setattr(source, keyword, "DOE")
    source.LossyImageCompressionMethod = ["ISO_10918_1", "DOE"]
    source.VOILUTSequence[0].ModalityLUTType = "DOE"
    data = deidentify(bytes_of(source), MediaType.DICOM, site_secret=SECRET)
    stored = read(data)
    assert (stored.BodyPartExamined, stored.ViewPosition) == ("WRIST", "")
    assert not [keyword for keyword in ("Laterality", *typed) if keyword in stored]
    assert b"DOE" not in data


def test_of_a_view_the_letters_that_name_it_are_kept_and_words_of_the_standard_stay():
    source = identified()
    source.ViewPosition, source.RescaleType, source.LossyImageCompressionMethod = "p.a. 0312198012", "OD", "ISO_10918_1"
    source.VOILUTSequence[0].ModalityLUTType = "US"
    stored = read(deidentify(bytes_of(source), MediaType.DICOM, site_secret=SECRET))
    assert (stored.ViewPosition, stored.RescaleType, stored.LossyImageCompressionMethod) == ("PA", "OD", "ISO_10918_1")
    assert stored.VOILUTSequence[0].ModalityLUTType == "US"


@pytest.mark.parametrize(
    "syntax", [None, "ImplicitVRLittleEndian", "RLELossless", "JPEGLSLossless", "JPEG2000Lossless"]
)
def test_the_picture_is_the_same_before_and_after(syntax, tmp_path):
    source = bytes_of(identified(PhotometricInterpretation="MONOCHROME1"))
    if syntax:
        source = compressed(source, syntax, tmp_path)
    stored = deidentify(source, MediaType.DICOM, site_secret=SECRET)
    assert np.array_equal(decode(stored), decode(source))
    if syntax not in ("JPEGLSLossless", "JPEG2000Lossless", "RLELossless"):  # whose comments and gaps are gone
        assert read(stored).PixelData == read(source).PixelData
    assert deidentify(source, MediaType.DICOM, site_secret=SECRET) == stored


def _modality_table() -> Dataset:
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 12]
    table["LUTDescriptor"].VR = "US"
    table.add_new("LUTData", "US", [4095 - value // 2 for value in range(4096)])
    return table


@pytest.mark.parametrize(
    "shown",
    [
        {"RescaleSlope": "-1", "RescaleIntercept": "4095", "WindowCenter": 2000, "WindowWidth": 1500},
        {"PresentationLUTShape": "INVERSE"},
        {"VOILUTFunction": "SIGMOID", "WindowCenter": 2000, "WindowWidth": 1500},
        {"PixelPaddingValue": 400, "PixelPaddingRangeLimit": 600},
        {"ModalityLUTSequence": [_modality_table()]},
    ],
    ids=lambda shown: next(iter(shown)),
)
def test_an_image_is_shown_after_as_its_file_said_before(shown):
    source, without = dicom_dataset(**shown), dicom_dataset()
    for keyword in ("WindowCenter", "WindowWidth"):
        if keyword in shown:
            setattr(without, keyword, shown[keyword])
    stored = deidentify(bytes_of(source), MediaType.DICOM, site_secret=SECRET)
    assert np.array_equal(decode(stored), decode(bytes_of(source)))
    assert not np.array_equal(decode(stored), decode(bytes_of(without))), "what was said makes a difference"


def test_two_files_that_name_no_study_are_not_one_study():
    nameless = {"StudyInstanceUID": None, "SeriesInstanceUID": None}
    files = [dicom_of(limb(seed=seed).astype(np.uint16) * 16, **nameless) for seed in (0, 1, 0)]
    one, other, same = (read(deidentify(data, MediaType.DICOM, site_secret=SECRET)) for data in files)
    for keyword in nameless:
        assert one[keyword].value == same[keyword].value != other[keyword].value


def test_what_hides_between_and_behind_the_pixels_is_gone_and_they_stay():
    exif = Image.Exif()
    exif[0x010E] = "Doe^Jane"
    jpeg = jpeg_of(limb(), exif=exif, comment=b"Doe^Jane") + b"Doe^Jane"
    plain = identified()
    plain.PixelData += b"Doe^Jane"
    stream = io.BytesIO()
    Image.fromarray(limb()).save(stream, "JPEG2000", no_jp2=True, irreversible=False, comment=b"Doe^Jane")
    wrapped = stream.getvalue()
    for source in (
        dicom_around_frame(jpeg, *limb().shape),
        bytes_of(plain),
        dicom_around_frame(wrapped, *limb().shape, transfer_syntax=uid.JPEG2000Lossless),
        dicom_around_frame(wrapped + b"Doe^Jane\xff\xd9", *limb().shape, transfer_syntax=uid.JPEG2000Lossless),
    ):
        stored = deidentify(source, MediaType.DICOM, site_secret=SECRET)
        assert b"Doe^Jane" in source and b"Doe^Jane" not in stored
        assert np.array_equal(decode(stored), decode(source))


def test_a_real_jpeg_2000_keeps_its_pixels_and_loses_its_comment(real_data):
    source = (real_data / "dicom" / "RG3_J2KR.dcm").read_bytes()
    stored = deidentify(source, MediaType.DICOM, site_secret=SECRET)
    assert np.array_equal(decode(stored), decode(source))
    assert b"Kakadu" in source and b"Kakadu" not in stored


def test_nothing_hides_behind_run_lengths_or_in_attributes_that_are_numbers(tmp_path):
    source = read(compressed(bytes_of(identified()), "RLELossless", tmp_path))
    frame = get_frame(source.PixelData, 0, number_of_frames=1)
    source.PixelData = encapsulate([frame + b"Doe^Jane"])
    source.add(DataElement(0x00280034, "LO", "Doe^Jane"))  # PixelAspectRatio
    source.add(DataElement(0x00282112, "LO", "Doe^Jane"))  # LossyImageCompressionRatio
    given = bytes_of(source)
    stored = deidentify(given, MediaType.DICOM, site_secret=SECRET)
    assert given.count(b"Doe^Jane") >= 3 and b"Doe^Jane" not in stored
    assert np.array_equal(decode(stored), decode(given))


@pytest.mark.parametrize("said", ["YES", "Yes", "y"])
def test_burned_in_identity_is_refused(said):
    with pytest.raises(BurnedInIdentity):
        deidentify(dicom_of(BurnedInAnnotation=said), MediaType.DICOM, site_secret=SECRET)


def test_no_warning_repeats_what_an_attribute_says(caplog):
    source = bytes_of(identified()).replace(STUDY_UID.encode(), b"Doe^Jane".ljust(len(STUDY_UID), b"!"))
    source = source.replace(b"074Y", b"Jane")
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        read_facts(source, site_secret=SECRET)
        deidentify(source, MediaType.DICOM, site_secret=SECRET)
    assert not [warning for warning in given if "Jane" in str(warning.message)]
    assert "Jane" not in caplog.text


def test_a_jpeg_loses_its_metadata_and_keeps_its_pixels():
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "Doe^Jane", 6
    source = jpeg_of(
        limb(), exif=exif, comment=b"Doe^Jane", icc_profile=b"Doe^Jane" * 20, xmp=b"<x>Doe^Jane</x>", dpi=(90, 90)
    )
    stored = deidentify(source + b"Doe^Jane", MediaType.JPEG, site_secret=SECRET)
    assert b"Doe" in source
    assert b"Doe" not in stored
    one, other = Image.open(io.BytesIO(source)), Image.open(io.BytesIO(stored))
    assert one.tobytes() == other.tobytes()
    assert dict(other.getexif()) == {0x0112: 6}
    assert np.array_equal(decode(source), decode(stored))
    assert deidentify(stored, MediaType.JPEG, site_secret=SECRET) == stored


def test_a_png_loses_its_metadata_and_keeps_its_pixels():
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "Doe^Jane")
    text.add_itxt("Name", "Doe^Jane", zip=True)
    exif = Image.Exif()
    exif[0x010E] = "Doe^Jane"
    source = png_of(limb(), pnginfo=text, exif=exif, dpi=(90, 90)) + b"Doe^Jane"
    stored = deidentify(source, MediaType.PNG, site_secret=SECRET)
    assert b"Doe" in source
    assert b"Doe" not in stored
    assert set(re.findall(rb"IHDR|IDAT|IEND|pHYs|tEXt|iTXt|eXIf", stored)) == {b"IHDR", b"IDAT", b"IEND", b"pHYs"}
    assert np.array_equal(decode(stored), limb())


def test_of_the_real_cr_nothing_that_names_is_left(real_data):
    source = (real_data / "dicom" / "RG3_J2KR.dcm").read_bytes()
    stored = deidentify(source, MediaType.DICOM, site_secret=SECRET)
    for name in (
        b"11RG3",
        b"CompressedSamples",
        b"HIGASHI",
        b"FUJI95706",
        b"19790408",
        b"fibroma",
        b"CLUNIE1",
        b"5457",
    ):
        assert name in source
        assert name not in stored
    assert np.array_equal(decode(stored), decode(source))
    assert read(stored).BodyPartExamined == "EXTREMITY"


def test_the_real_jpegs_keep_their_pixels(real_data):
    for path in sorted((real_data / "fracatlas" / "images" / "Non_fractured").glob("IMG00042*.jpg"))[::4]:
        source = path.read_bytes()
        if b"\xff\xd9" not in source:
            continue
        stored = deidentify(source, MediaType.JPEG, site_secret=SECRET)
        assert Image.open(io.BytesIO(source)).tobytes() == Image.open(io.BytesIO(stored)).tobytes()
