"""What was stored is what is read: another object in its place, or a damaged one, is never taken for a patient's."""

import hashlib
import io
from datetime import UTC, datetime

import pytest
from PIL import Image, PngImagePlugin

from fracture_ml.core.errors import Altered
from fracture_ml.imaging.decode import decode
from fracture_ml.steps.ai_report import ai_report
from fracture_ml.steps.erase import erase
from fracture_ml.steps.export import export_results
from fracture_ml.steps.ingest import ingest_inbox
from fracture_ml.steps.pixels import open_pixels
from fracture_ml.steps.worklist import image_png
from tests.imaging.made_files import bytes_of, dicom_dataset, dicom_of, jpeg_of, limb, png_of
from tests.steps.drawn_backlog import SIZE_PX, promote_drawn
from tests.steps.small_hospital import WHO, all_rows, radiograph_of, score_all, sql, study_of
from tests.stores.stored_rows import freeze


def dicom(seed: int) -> bytes:
    names = {"PatientName": "Doe^Jane", "StudyInstanceUID": f"1.2.{seed}"}
    dataset = dicom_dataset(limb(seed=seed).astype("uint16") * 16, **names)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{seed}"
    return bytes_of(dataset)


FILES = {f"{seed}.png": png_of(limb(seed=seed)) for seed in range(1, 5)} | {
    f"{seed}.dcm": dicom(seed) for seed in range(5, 8)
}


def take_in(stores, settings, bucket) -> None:
    """Four PNGs and three DICOMs, labelled."""
    for name, data in FILES.items():
        bucket.write(f"inbox/{name}", data)
    rows = [f"{name},{number % 2}" for number, name in enumerate(FILES)]
    bucket.write("inbox/labels.csv", "\n".join(["object_key,label", *rows]).encode())
    assert ingest_inbox(stores, settings)["radiograph"] == len(FILES)


@pytest.fixture
def taken_in(stores, settings, bucket) -> int:
    """They are here, and a champion that has scored nothing. Returns: its version."""
    take_in(stores, settings, bucket)
    return promote_drawn(stores, flagged_from=0.0).version


def swap(stores, bucket, one: str, other: str) -> None:
    first, second = (radiograph_of(stores, name).object_key for name in (one, other))
    there = bucket.read(first), bucket.read(second)
    bucket.write(second, there[0])
    bucket.write(first, there[1])


def flip_a_bit_of_the_pixels(stores, bucket, name: str) -> None:
    key = radiograph_of(stores, name).object_key
    data = bytearray(bucket.read(key))
    data[-1000] ^= 4
    decode(bytes(data))  # nobody else would notice
    bucket.write(key, bytes(data))


def reasons_of(stores, version: int) -> dict[str, str]:
    ids = {name: radiograph_of(stores, name).radiograph_id for name in FILES}
    found = {name: stores.predictions.prediction_of(version, id_) for name, id_ in ids.items()}
    assert all((one["reason"] is None) == (one["calibrated"] is not None) for one in found.values())
    return {name: one["reason"] for name, one in found.items() if one["reason"] is not None}


def test_the_hash_is_of_what_is_in_the_bucket(stores, settings, bucket):
    named = PngImagePlugin.PngInfo()
    named.add_text("Comment", "Jane Doe")
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe"
    bare = {"bare.png": png_of(limb(seed=1)), "bare.jpg": jpeg_of(limb(seed=2))}
    changed = {
        "named.png": png_of(limb(seed=3), pnginfo=named),
        "named.jpg": jpeg_of(limb(seed=4), exif=exif),
        "named.dcm": dicom_of(PatientName="Doe^Jane"),
    }
    for name, data in (bare | changed).items():
        bucket.write(f"inbox/{name}", data)
    assert ingest_inbox(stores, settings)["radiograph"] == 5
    for name in bare | changed:
        row = radiograph_of(stores, name)
        assert row.stored_sha256 == hashlib.sha256(bucket.read(row.object_key)).hexdigest(), name
        assert (row.stored_sha256 == row.sha256) == (name in bare), name


@pytest.mark.parametrize(("one", "other"), [("1.png", "3.png"), ("5.dcm", "6.dcm")])
def test_two_objects_that_were_swapped_get_a_reason_and_their_neighbours_a_score(
    stores, settings, bucket, taken_in, one, other
):
    swap(stores, bucket, one, other)
    assert score_all(stores, settings) == {"radiographs": 7, "scored": 5, "rejected": 2, "missing": 0}
    reasons = reasons_of(stores, taken_in)
    assert sorted(reasons) == [one, other]
    assert all(reason.startswith("altered: ") and "back-up" in reason for reason in reasons.values())
    listed = {row["study_key"]: row["ai"] for row in stores.worklist.open_items()}
    assert listed[study_of(stores, one)] == listed[study_of(stores, other)] == "AI unavailable"


def test_one_bit_of_the_pixels_is_enough(stores, settings, bucket, taken_in):
    flip_a_bit_of_the_pixels(stores, bucket, "6.dcm")
    assert score_all(stores, settings) == {"radiographs": 7, "scored": 6, "rejected": 1, "missing": 0}
    assert reasons_of(stores, taken_in)["6.dcm"].startswith("altered: ")


def test_what_was_stored_before_the_hash_was_kept_is_read_as_before(stores, settings, bucket, taken_in):
    sql(stores, "UPDATE fracture.radiograph SET stored_sha256 = NULL RETURNING 1")
    flip_a_bit_of_the_pixels(stores, bucket, "6.dcm")
    assert score_all(stores, settings) == {"radiographs": 7, "scored": 7, "rejected": 0, "missing": 0}


def test_nothing_is_learned_from_another_object_until_the_right_one_is_back(stores, settings, bucket, monkeypatch):
    monkeypatch.setattr("fracture_ml.steps.pixels._MOST_NOT_READABLE", 0.5)
    take_in(stores, settings, bucket)
    snapshot_id = freeze(stores, as_of=datetime.now(UTC))

    def left_out() -> dict[str, str]:
        data = open_pixels(stores, settings, snapshot_id=snapshot_id, size_px=SIZE_PX)
        assert len(data.pixels) + len(data.not_readable) == len(FILES)
        return {member.sha256: reason.partition(":")[0] for member, reason in data.not_readable}

    swapped = [radiograph_of(stores, name).sha256 for name in ("1.png", "5.dcm")]
    swap(stores, bucket, "1.png", "5.dcm")
    assert left_out() == left_out() == dict.fromkeys(swapped, "altered")
    swap(stores, bucket, "1.png", "5.dcm")
    assert left_out() == {}


def test_another_object_is_not_shown_nor_named_by(stores, settings, bucket, taken_in, tmp_path):
    score_all(stores, settings)
    study, image = study_of(stores, "5.dcm"), radiograph_of(stores, "5.dcm")
    shown = image_png(stores, settings, image.radiograph_id)
    swap(stores, bucket, "5.dcm", "6.dcm")
    with pytest.raises(Altered, match="back-up"):
        image_png(stores, settings, image.radiograph_id)
    assert "The image is not shown" in ai_report(stores, settings, study, made_for="a reader")
    counts = export_results(stores, settings, study, folder=tmp_path / "out", dicom=True)
    assert (counts["images"], counts["gone"], counts["reports"]) == (1, 1, 0)
    swap(stores, bucket, "5.dcm", "6.dcm")
    assert image_png(stores, settings, image.radiograph_id) == shown
    assert export_results(stores, settings, study, folder=tmp_path / "again", dicom=True)["gone"] == 0


@pytest.mark.parametrize("known", ["NULL", "repeat('0', 64)"])  # before the hash was kept; as other code wrote it
def test_the_same_file_that_comes_again_is_stored_again_with_its_hash(stores, settings, bucket, taken_in, known):
    before = radiograph_of(stores, "5.dcm")
    sql(stores, f"UPDATE fracture.radiograph SET stored_sha256 = {known} WHERE radiograph_id = :id RETURNING 1",
        id=before.radiograph_id)  # fmt: skip
    flip_a_bit_of_the_pixels(stores, bucket, "5.dcm")
    bucket.write("inbox/again.dcm", FILES["5.dcm"])
    assert ingest_inbox(stores, settings)["copy"] == 1
    assert radiograph_of(stores, "5.dcm") == before
    assert Image.open(io.BytesIO(image_png(stores, settings, before.radiograph_id))).size == (80, 96)


def test_the_hash_goes_with_who_is_erased(stores, settings, bucket, taken_in):
    image = radiograph_of(stores, "5.dcm")
    assert [table for table, line in all_rows(stores) if image.stored_sha256 in line] == ["radiograph"]
    erase(stores, settings, object_key="inbox/5.dcm", **WHO)
    assert [table for table, line in all_rows(stores) if image.stored_sha256 in line] == []
