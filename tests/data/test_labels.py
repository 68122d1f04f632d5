"""Label files and folder names, as data sets and hospitals hand them over."""

import csv
import io
from datetime import UTC, datetime

import pytest

from fracture_ml.core.errors import UnreadableLabels
from fracture_ml.core.records import BodyPart, Box, LabelClaim, LabelSource, LabelValue
from fracture_ml.data.labels import claims_of_key, claims_of_label_file, is_label_file
from fracture_ml.imaging.deidentify import keyed_hash

SECRET = b"a secret of this site"


def read(text: str | bytes, key: str = "inbox/clinic/manifest.csv") -> list[LabelClaim]:
    return claims_of_label_file(key, text.encode() if isinstance(text, str) else text, site_secret=SECRET)


def refusal(text: str | bytes, key: str = "inbox/clinic/manifest.csv") -> str:
    with pytest.raises(UnreadableLabels) as caught:
        read(text, key)
    return str(caught.value)


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, value",
    [
        ("inbox/images/Fractured/IMG0000044.jpg", "positive"),
        ("inbox/images/Non_fractured/IMG0000001.jpg", "negative"),
        ("data/train/fracture/a.png", "positive"),
        ("data/train/no_fracture/a.png", "negative"),
        ("data/not fractured/10.jpg", "negative"),
        ("Not-Fractured/10.jpg", "negative"),
        ("inbox/fractured/wrist/a.png", "positive"),
        ("fracture/no_fracture/x.dcm", "negative"),
    ],
)
def test_a_folder_per_class_is_a_label(key, value):
    (claim,) = claims_of_key(key, site_secret=SECRET)
    assert (claim.subject_kind, claim.subject, claim.value, claim.meaning) == ("object_key", key, value, "fracture")
    assert claim.source is LabelSource.DATASET


def test_a_key_that_says_nothing_makes_no_claim():
    for key in (
        "inbox/a.png",
        "fracture.png",
        "clinic-fracture-ward/a.png",
        "normal/2026/b.dcm",
        "fracture/2026/c.dcm",
    ):
        assert claims_of_key(key, site_secret=SECRET) == []


def test_a_body_part_in_the_path_is_kept():
    assert claims_of_key("inbox/wrist/fractured/a.png", site_secret=SECRET)[0].body_part is BodyPart.WRIST


def test_a_mura_folder_labels_its_study_as_abnormal_and_names_nobody():
    key = "inbox/MURA-v1.1/train/XR_FINGER/patient00006/study1_positive/image1.png"
    (claim,) = claims_of_key(key, site_secret=SECRET)
    assert (claim.value, claim.meaning, claim.body_part) == (LabelValue.POSITIVE, "abnormal", BodyPart.HAND)
    (other_view,) = claims_of_key(key.replace("image1", "image2"), site_secret=SECRET)
    (other_region,) = claims_of_key(key.replace("XR_FINGER", "XR_WRIST"), site_secret=SECRET)
    assert other_view.study_key == claim.study_key != other_region.study_key
    assert other_region.patient_key == claim.patient_key
    assert "patient00006" not in claim.patient_key + claim.study_key
    lists = f"{key.removeprefix('inbox/').rsplit('/', 1)[0]}/,1\n"
    (of_list,) = read(lists, "inbox/MURA-v1.1/train_labeled_studies.csv")
    assert (of_list.subject_kind, of_list.subject, of_list.value) == ("study_key", claim.study_key, claim.value)
    assert "Line 2, column 2" in refusal(lists + lists.replace(",1", ",0"), "MURA-v1.1/train_labeled_studies.csv")


@pytest.mark.parametrize("part", ["elbow", "forearm", "hand", "humerus", "shoulder", "wrist"])
def test_a_mura_region_is_the_body_part_of_its_name(part):
    key = f"MURA-v1.1/valid/XR_{part.upper()}/patient11185/study1_negative/image1.png"
    (claim,) = claims_of_key(key, site_secret=SECRET)
    assert (claim.body_part, claim.value) == (BodyPart(part), LabelValue.NEGATIVE)


def test_csv_and_json_are_label_files_whatever_their_case():
    assert is_label_file("a/b.CSV") and is_label_file("b.json")
    assert not is_label_file("a.png") and not is_label_file("csv/a")


# --- the generic manifest -------------------------------------------------------------------------

HEADER = (
    "object_key,sha256,patient_key,study_key,body_part,view,laterality,label,label_source,labelled_by,labelled_at,"
    "box_x,box_y,box_w,box_h\n"
)


def test_a_manifest_row_carries_everything_that_it_says():
    (claim,) = read(
        HEADER + "wrist/a.png,,HOSPITAL|4711,S-1,Wrist,Lateral,left,positive,radiologist,Dr. Reader,"
        "2026-03-01T08:30:00+01:00,1,2.5,30,40\n"
    )
    assert claim == LabelClaim(
        subject_kind="object_key",
        subject="inbox/clinic/wrist/a.png",
        value=LabelValue.POSITIVE,
        source=LabelSource.RADIOLOGIST,
        reader="Dr. Reader",
        labelled_at=datetime(2026, 3, 1, 7, 30, tzinfo=UTC),
        boxes=(Box(x=1, y=2.5, width=30, height=40),),
        patient_key=keyed_hash(SECRET, "HOSPITAL", "4711"),
        study_key=keyed_hash(SECRET, "S-1"),
        body_part=BodyPart.WRIST,
        laterality="L",
        view="lateral",
    )


def test_what_a_manifest_row_does_not_say_is_not_made_up():
    (claim,) = read("object_key,label,study_key\na.png,0,S-1\n")
    assert claim == LabelClaim(
        subject_kind="object_key",
        subject="inbox/clinic/a.png",
        value=LabelValue.NEGATIVE,
        source=LabelSource.DATASET,  # which any reader's word outranks
        meaning="fracture",
        study_key=keyed_hash(SECRET, "S-1"),
    )


def test_words_of_a_manifest_are_taken_for_what_they_mean():
    rows = ["object_key,label,meaning,laterality,hardware,labelled_at", "a.png,yes,Abnormal,right,no,2026-03-01T08:30"]
    rows += ["b.png,no,,B,yes,2026-03-01T08:30+02:00", "c.png,uncertain,fracture,R,,"]
    first, second, third = read("\n".join(rows))
    assert (first.value, first.meaning, first.laterality, first.hardware) == ("positive", "abnormal", "R", False)
    assert (second.value, second.meaning, second.laterality, second.hardware) == ("negative", "fracture", "B", True)
    assert (third.value, third.laterality, third.hardware, third.labelled_at) == ("uncertain", "R", None, None)
    assert first.labelled_at == datetime(2026, 3, 1, 8, 30, tzinfo=UTC)
    assert second.labelled_at == datetime(2026, 3, 1, 6, 30, tzinfo=UTC)


def test_a_key_is_absolute_or_below_the_manifests_folder():
    keys = ["a.png", "inbox/clinic/a.png", "./sub/a.png", "sub\\a.png", "/a.png", "s3://hospital/inbox/clinic/a.png"]
    claims = read("object_key,label\n" + "".join(f"{key},1\n" for key in keys))
    assert {claim.subject for claim in claims} == {"inbox/clinic/a.png", "inbox/clinic/sub/a.png"}
    (claim,) = read("object_key,label\ninbox/images/a.png,1\n", "inbox/labels/2026.csv")
    assert claim.subject == "inbox/images/a.png"
    for key in ("../other/a.png", "s3://hospital/elsewhere/a.png", "https://hospital/inbox/a.png"):
        assert "Line 2, column object_key" in refusal(f"object_key,label\n{key},1\n")


def test_order_byte_order_mark_line_ends_quotes_and_semicolons_do_not_matter():
    rows = [("a,b.png", "positive"), ('c "d".png', "negative"), ("e.png", "")]

    def manifest(delimiter: str, line_end: str, columns: tuple[int, int]) -> str:
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator=line_end)
        writer.writerow([("object_key", "Label")[column] for column in columns])
        writer.writerows([row[column] for column in columns] for row in rows)
        return buffer.getvalue()

    expected = read(manifest(",", "\n", (0, 1)))
    assert [claim.value for claim in expected] == [LabelValue.POSITIVE, LabelValue.NEGATIVE, LabelValue.ABSENT]
    for text in (
        b"\xef\xbb\xbf" + manifest(",", "\r\n", (1, 0)).encode(),
        manifest(";", "\r\n", (0, 1)),
        manifest("\t", "\r", (1, 0)) + "\n\n",
    ):
        assert read(text) == expected


def test_rows_that_differ_in_their_box_alone_are_one_claim():
    (claim,) = read("sha256,label,box_x,box_y,box_w,box_h\n" + f"{'A' * 64},1,1,1,5,5\n{'a' * 64},1,9,9,5,5\n")
    assert claim.subject == "a" * 64
    assert [box.x for box in claim.boxes] == [1, 9]


def test_thousands_of_rows_are_read():
    assert (
        len(read("object_key,label\n" + "".join(f"{number}.png,{number % 2}\n" for number in range(20_000)))) == 20_000
    )


@pytest.mark.parametrize(
    "row, complaint",
    [
        ("a.png,,,,,,,maybe,,,,,,,", "Line 3, column label"),
        ("a.png,,,,,,,1,rumour,,,,,,", "Line 3, column label_source"),
        ("a.png,,,,,,,1,,,yesterday,,,,", "Line 3, column labelled_at"),
        ("a.png,,,,tentacle,,,1,,,,,,,", "Line 3, column body_part"),
        ("a.png,,,,,,up,1,,,,,,,", "Line 3, column laterality"),
        ("a.png,,,,,,,1,,,,1,2,,4", "Line 3, column box_w"),
        ("a.png,,,,,,,1,,,,1,nan,3,4", "Line 3, column box_y"),
        ("a.png,,,,,,,1,,,,-1,2,3,4", "Line 3, column box_x"),
        ("a.png,,,,,,,1,,,,1,2,3,0", "Line 3, column box_h"),
        (",12ab,,,,,,1,,,,,,,", "Line 3, column object_key or sha256"),
        ("a.png,,,1", "Line 3 has 4 cells for 15 columns"),
        ('a.png,,"x,,,,,1,,,,,,,', "Line 3 is not CSV"),
    ],
)
def test_a_malformed_row_is_named_by_line_and_column_and_not_by_its_content(row, complaint):
    message = refusal(HEADER + "ok.png,,,,,,,0,,,,,,,\n" + row + "\n")
    assert complaint in message
    assert not any(word in message for word in ("maybe", "rumour", "yesterday", "tentacle"))


def test_a_file_of_no_known_layout_says_which_are_known():
    assert "no known layout" in refusal("")
    assert "no known layout" in refusal("name,age\nx,1\n")
    assert "no column label" in refusal("object_key,lable\na.png,1\n")
    assert "not UTF-8" in refusal("object_key,label\nä.png,1\n".encode("latin-1"))
    assert "no known layout" in refusal('{"_via_img_metadata": {}}', "a/via.json")
    assert "Line 2 is not JSON" in refusal('{\n"images": ]', "a/b.json")
    assert "nested too deeply" in refusal("[" * 200_000, "a/b.json")
    assert "Line 3 holds a NUL" in refusal("object_key,label\na.png,1\nb\0.png,1\n")


# --- FracAtlas ------------------------------------------------------------------------------------

FRACATLAS = "image_id,hand,leg,hip,shoulder,mixed,hardware,multiscan,fractured,fracture_count,frontal,lateral,oblique\n"


def test_fracatlas_rows_speak_of_files_below_their_folder():
    one, two = read(
        FRACATLAS + "IMG1.jpg,0,1,0,0,0,1,1,1,2,1,1,0\nIMG2.jpg,1,1,0,0,0,0,0,0,0,0,0,0\n", "inbox/fa/dataset.csv"
    )
    assert (one.subject_kind, one.subject, one.scope) == ("file_name", "IMG1.jpg", "inbox/fa/")
    assert (one.value, one.body_part, one.view, one.hardware) == (
        LabelValue.POSITIVE,
        BodyPart.LEG,
        "frontal+lateral",
        True,
    )
    assert (two.value, two.body_part, two.view, two.hardware) == (LabelValue.NEGATIVE, BodyPart.MIXED, None, False)
    (several,) = read(FRACATLAS + "IMG3.jpg,0,1,0,0,1,0,0,0,0,0,0,0\n", "dataset.csv")
    assert (several.body_part, several.scope) == (BodyPart.MIXED, "")  # of several, only one has a column of its own
    assert "Line 2, column fractured" in refusal(FRACATLAS + "IMG1.jpg,0,1,0,0,0,1,1,2,2,1,1,0\n", "dataset.csv")


def test_coco_boxes_become_one_claim_for_each_image_with_a_fracture():
    text = """{"images": [{"id": 3, "file_name": "a.jpg"}, {"id": 4, "file_name": "b.jpg"}],
        "categories": [{"id": 0, "name": "fractured"}, {"id": 1, "name": "implant"}],
        "annotations": [{"image_id": 3, "category_id": 0, "bbox": [1, 2, 3, 4]},
            {"image_id": 3, "category_id": 0, "bbox": [5, 6, 7, 8]},
            {"image_id": 4, "category_id": 1, "bbox": [1, 1, 1, 1]}]}"""
    (claim,) = read(text, "inbox/fa/Annotations/COCO JSON/boxes.json")
    assert (claim.subject, claim.scope, claim.value) == ("a.jpg", "inbox/fa/", LabelValue.POSITIVE)
    assert claim.boxes[1] == Box(x=5, y=6, width=7, height=8)
    assert read(text, "Annotations/boxes.json")[0].scope == ""
    no_fracture = text.replace("implant", "Non fractured")
    assert read(no_fracture, "Annotations/boxes.json") == read(text, "Annotations/boxes.json")
    same_name = text.replace('"a.jpg"', '"train/a.jpg"').replace('"b.jpg"', '"valid/a.jpg"')
    assert "one name in two folders" in refusal(same_name, "a/b.json")
    for wrong in ("[5, 6]", "[5, 6, 7, NaN]", "[5, 6, 7, 1e999]", f"[5, 6, 7, {10**400}]"):
        assert "Entry 2 of annotations" in refusal(text.replace("[5, 6, 7, 8]", wrong), "a/b.json")
    for escape in ("\\u0000", "\\ud800"):
        assert "Entry 1 of images" in refusal(text.replace('"a.jpg"', f'"a{escape}.jpg"'), "a/b.json")


def test_the_real_fracatlas_files_are_read_whole(real_data):
    root = real_data / "fracatlas"
    rows = read((root / "dataset.csv").read_bytes(), "inbox/dataset.csv")
    present = {path.name: path.parent.name for path in root.glob("images/*/*.jpg")}
    claimed = {claim.subject: claim for claim in rows}
    assert set(present) <= set(claimed)
    disagreeing = [
        name for name, folder in present.items() if (folder == "Fractured") != (claimed[name].value == "positive")
    ]
    assert 1 <= len(disagreeing) <= 5  # the data set's own mistakes, which end as contradicted labels
    boxes = read(
        (root / "Annotations/COCO JSON/COCO_fracture_masks.json").read_bytes(),
        "inbox/Annotations/COCO JSON/COCO_fracture_masks.json",
    )
    assert sum(len(claim.boxes) for claim in boxes) == 574
    assert {claim.scope for claim in boxes} == {"inbox/"}
    assert {claim.subject for claim in boxes if claimed[claim.subject].value == "negative"} <= set(disagreeing)


def test_a_study_that_names_two_patients_is_refused_with_its_line():
    """Else one patient's images would decide about the other's study on the worklist."""
    rows = ["object_key,label,patient_key,study_key", "a.png,1,p1,study1", "b.png,0,p1,study1", "c.png,0,p2,study1"]
    with pytest.raises(UnreadableLabels, match="Line 4, column study_key: expected a study of one patient"):
        claims_of_label_file("inbox/m.csv", "\n".join(rows).encode(), site_secret=SECRET)
    assert len(claims_of_label_file("inbox/m.csv", "\n".join(rows[:3]).encode(), site_secret=SECRET)) == 2
