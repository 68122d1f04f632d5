"""Labels as data sets and hospitals hand them over: a folder's name, a CSV file, a JSON file.

Patients and studies leave this module as keyed hashes. A patient's hash is over (issuer, id), as for DICOM: the same
person gets the same key from both only where the issuer is the same, which a manifest writes as `issuer|id`. Readers
are staff, and kept as they are given. No message holds a value of a cell, which might name a person.
"""

import csv
import io
import json
import math
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from fracture_ml.core.errors import UnreadableLabels
from fracture_ml.core.records import BodyPart, Box, LabelClaim, LabelMeaning, LabelSource, LabelValue
from fracture_ml.imaging.anatomy import body_part_of
from fracture_ml.imaging.deidentify import keyed_hash

_KNOWN_LAYOUTS = "a manifest CSV, FracAtlas's dataset.csv, MURA's lists or COCO JSON (see the README)"

_MURA_STUDY = re.compile(
    r"(?:^|/)XR_(?P<region>[A-Z]+)/(?P<patient>patient\d+)/(?P<study>study\d+)_(?P<value>positive|negative)(?:/|$)"
)
# What a folder may be called that holds one class, lower case, with _ for spaces and hyphens.
_POSITIVE_FOLDERS = {"fracture", "fractures", "fractured", "with_fracture"}
_NEGATIVE_FOLDERS = {
    *(f"{no}{between}{fracture}" for no in ("no", "non", "not", "un", "without") for between in ("_", "")
      for fracture in ("fracture", "fractures", "fractured")),
    "negative_for_fracture",
}  # fmt: skip
_FRACATLAS_COLUMNS = {"image_id", "fractured", "hardware", "hand", "leg", "hip", "shoulder", "mixed"}
_TRUTHS = {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}
_LABEL_WORDS = {
    **{value.value: value for value in LabelValue},
    **{word: LabelValue.POSITIVE if truth else LabelValue.NEGATIVE for word, truth in _TRUTHS.items()},
    "": LabelValue.ABSENT,
}


def is_label_file(object_key: str) -> bool:
    """By its name: .csv or .json."""
    return PurePosixPath(object_key).suffix.lower() in (".csv", ".json")


def claims_of_key(object_key: str, *, site_secret: bytes) -> list[LabelClaim]:
    """What an image's folder says of it: MURA's layout, or a folder per class; [] where it says nothing.

    The folder is the one that the image lies in, or the one above a body part's: `fracture/wrist/a.png`. One further
    up may be a queue of a picture archive, in which images of every kind are on their way.
    """
    if found := _MURA_STUDY.search(object_key):
        return [replace(_mura_claim(found, site_secret), subject_kind="object_key", subject=object_key)]
    folders = [_class_word(part) for part in PurePosixPath(object_key).parts[:-1]]
    own = folders[-2:] if folders and folders[-1] in set(BodyPart) else folders[-1:]
    if not own or own[0] not in _POSITIVE_FOLDERS | _NEGATIVE_FOLDERS:
        return []
    return [
        LabelClaim(
            subject_kind="object_key",
            subject=object_key,
            value=LabelValue.POSITIVE if own[0] in _POSITIVE_FOLDERS else LabelValue.NEGATIVE,
            source=LabelSource.DATASET,
            body_part=next((BodyPart(part) for part in reversed(folders) if part in set(BodyPart)), None),
        )
    ]


def _class_word(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", name.strip().lower())


def claims_of_label_file(object_key: str, data: bytes, *, site_secret: bytes) -> list[LabelClaim]:
    """Every claim of a label file.

    Raises: UnreadableLabels: no known layout, or a row that cannot be read; names the line and the column.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableLabels(f"Line {line} is not UTF-8: save the file as UTF-8.") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UnreadableLabels(f"Line {line} holds a NUL character, which no text has: save the file as text.")
    if PurePosixPath(object_key).suffix.lower() == ".json":
        return _claims_of_coco(object_key, text)
    if claims := _claims_of_mura_list(text, site_secret):
        return claims
    columns, rows = _read_table(text)
    if columns >= _FRACATLAS_COLUMNS:
        return [_fracatlas_claim(row, scope=_folder_of(object_key)) for row in rows]
    if columns & {"object_key", "sha256"}:
        if "label" not in columns:
            raise UnreadableLabels("The manifest has no column label: add one; a cell may be left empty.")
        return _merged_boxes(_claims_of_manifest(rows, object_key, site_secret))
    raise UnreadableLabels(f"The columns are those of no known layout: {_KNOWN_LAYOUTS}.")


# --- tables ---------------------------------------------------------------------------------------


class _Row:
    """One row of a CSV file, which can say where it stands."""

    def __init__(self, line: int, cells: Mapping[str, str]) -> None:
        self.line = line
        self._cells = cells

    def text(self, column: str) -> str:
        """The cell without white space around it; "" where the file has no such column."""
        return self._cells.get(column, "").strip()

    def read(self, column: str, convert: Callable[[str], Any], expected: str) -> Any:
        """The cell, converted; None where it is empty. Raises: UnreadableLabels."""
        if not (text := self.text(column)):
            return None
        try:
            return convert(text)
        except (ValueError, KeyError):
            raise self.fault(column, expected) from None

    def fault(self, column: str, expected: str) -> UnreadableLabels:
        return UnreadableLabels(f"Line {self.line}, column {column}: expected {expected}.")


def _read_table(text: str) -> tuple[set[str], Iterator[_Row]]:
    """The columns and the rows of a CSV file with a header; comma, semicolon or tab."""
    header = text.lstrip().split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(
        io.StringIO(text.replace("\r\n", "\n").replace("\r", "\n"), newline=""), delimiter=delimiter, strict=True
    )
    lines = _lines(reader)
    _, names = next(lines, (0, []))
    names = [name.strip().lower() for name in names]

    def rows() -> Iterator[_Row]:
        for line, cells in lines:
            if len(cells) != len(names):
                raise UnreadableLabels(f"Line {line} has {len(cells)} cells for {len(names)} columns.")
            yield _Row(line, dict(zip(names, cells, strict=True)))

    return set(names), rows()


def _lines(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """(line on which the row begins, cells) of every row that is not blank. Raises: UnreadableLabels."""
    while True:
        begins = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UnreadableLabels(f"Line {begins} is not CSV: {error}.") from None
        if any(cell.strip() for cell in cells):
            yield begins, cells


def _truth(text: str) -> bool:
    return _TRUTHS[text.lower()]


# --- the generic manifest -------------------------------------------------------------------------


def _claims_of_manifest(rows: Iterator[_Row], manifest_key: str, site_secret: bytes) -> Iterator[LabelClaim]:
    """Raises: UnreadableLabels: also where a study names two patients, as numbers that begin anew for each of them do.

    On the worklist one patient's images would decide about the other's.
    """
    patient_of: dict[str, str] = {}
    for row in rows:
        claim = _manifest_claim(row, manifest_key, site_secret)
        if claim.study_key and claim.patient_key:
            if patient_of.setdefault(claim.study_key, claim.patient_key) != claim.patient_key:
                raise row.fault("study_key", "a study of one patient; put the patient's key before its number")
        yield claim


def _manifest_claim(row: _Row, manifest_key: str, site_secret: bytes) -> LabelClaim:
    kind, subject = "object_key", row.text("object_key")
    if subject:
        subject = _resolved_key(row, subject, manifest_key)
    else:
        kind, subject = "sha256", row.text("sha256").lower()
        if not re.fullmatch(r"[0-9a-f]{64}", subject):
            raise row.fault("object_key or sha256", "an object key, or 64 hexadecimal digits")
    value = _LABEL_WORDS.get(row.text("label").lower())
    if value is None:
        raise row.fault("label", "positive, negative, uncertain or absent (or 1, 0, yes, no)")
    patient, study = row.text("patient_key"), row.text("study_key")
    return LabelClaim(
        subject_kind=kind,
        subject=subject,
        value=value,
        source=row.read("label_source", lambda text: LabelSource(text.lower()), "one of " + ", ".join(LabelSource))
        or LabelSource.DATASET,
        meaning=row.read("meaning", lambda text: LabelMeaning(text.lower()), " or ".join(LabelMeaning))
        or LabelMeaning.FRACTURE,
        reader=row.text("labelled_by") or None,
        labelled_at=row.read("labelled_at", _moment, "a time as in 2026-03-01T08:30:00+01:00"),
        boxes=_box_of(row),
        patient_key=patient_key_of(site_secret, patient) if patient else None,
        study_key=keyed_hash(site_secret, study) if study else None,
        body_part=row.read("body_part", lambda text: BodyPart(text.lower()), "one of " + ", ".join(BodyPart)),
        laterality=row.read("laterality", lambda text: _LATERALITIES[text.upper()], "L, R or B"),
        view=row.text("view").lower() or None,
        hardware=row.read("hardware", _truth, "yes or no"),
    )


_LATERALITIES = {"L": "L", "LEFT": "L", "R": "R", "RIGHT": "R", "B": "B", "BOTH": "B"}


def patient_key_of(site_secret: bytes, text: str) -> str:
    """The keyed hash of a patient who is written as `issuer|id`, or as the id alone."""
    issuer, _, patient = text.rpartition("|")
    return keyed_hash(site_secret, issuer, patient)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _box_of(row: _Row) -> tuple[Box, ...]:
    """The row's box, if it has one. Raises: UnreadableLabels: some of the four numbers are missing or impossible."""
    names = ("box_x", "box_y", "box_w", "box_h")
    if not any(row.text(name) for name in names):
        return ()
    numbers = []
    for name, smallest in zip(names, (0, 0, 1e-9, 1e-9), strict=True):
        number = row.read(name, float, "a number of pixels")
        if number is None or not (math.isfinite(number) and number >= smallest):
            raise row.fault(name, "a number of pixels, and all of box_x, box_y, box_w, box_h")
        numbers.append(number)
    x, y, width, height = numbers
    return (Box(x=x, y=y, width=width, height=height),)


def _merged_boxes(claims: Iterator[LabelClaim]) -> list[LabelClaim]:
    """Rows that differ in their box alone are one claim with several boxes."""
    boxes: dict[LabelClaim, tuple[Box, ...]] = {}
    for claim in claims:
        without = replace(claim, boxes=())
        boxes[without] = boxes.get(without, ()) + claim.boxes
    return [replace(claim, boxes=found) for claim, found in boxes.items()]


def _resolved_key(row: _Row, text: str, manifest_key: str) -> str:
    """A key of the bucket: as it stands where it begins as the manifest's own does, or is an s3:// address, else below
    the manifest's folder."""
    top = manifest_key.split("/", 1)[0] + "/" if "/" in manifest_key else ""
    path = text.replace("\\", "/")
    address = re.match(r"s3a?://[^/]+/(?P<key>.*)", path)
    key = posixpath.normpath(address["key"] if address else path).lstrip("/")
    if key in ("", ".") or key.startswith("..") or ("://" in path and not (address and key.startswith(top))):
        raise row.fault("object_key", "a key of the inbox, or a path below the manifest's folder")
    is_absolute = address or (top and key.startswith(top))
    return key if is_absolute else _folder_of(manifest_key) + key


def _folder_of(object_key: str) -> str:
    """The key up to its last slash, which is included; "" at the top."""
    return object_key[: object_key.rfind("/") + 1]


# --- FracAtlas ------------------------------------------------------------------------------------


def _fracatlas_claim(row: _Row, *, scope: str) -> LabelClaim:
    def flag(column: str) -> bool:
        value = row.read(column, _truth, "0 or 1")
        if value is None:
            raise row.fault(column, "0 or 1")
        return value

    if not row.text("image_id"):
        raise row.fault("image_id", "a file name")
    regions = [region for region in (BodyPart.HAND, BodyPart.LEG, BodyPart.HIP, BodyPart.SHOULDER) if flag(region)]
    mixed = flag("mixed") or len(regions) > 1
    views = [view for view in ("frontal", "lateral", "oblique") if row.read(view, _truth, "0 or 1")]
    return LabelClaim(
        subject_kind="file_name",
        subject=row.text("image_id"),
        scope=scope,
        value=LabelValue.POSITIVE if flag("fractured") else LabelValue.NEGATIVE,
        source=LabelSource.DATASET,
        body_part=BodyPart.MIXED if mixed else next(iter(regions), None),
        view="+".join(views) or None,
        hardware=flag("hardware"),
    )


def _claims_of_coco(object_key: str, text: str) -> list[LabelClaim]:
    """One positive claim, with its boxes, for each image that has a fracture marked; nothing of the others."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise UnreadableLabels("The JSON is nested too deeply to be read.") from None
    except ValueError as error:
        where = f"Line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "The file"
        raise UnreadableLabels(f"{where} is not JSON.") from None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(part), list) for part in ("images", "annotations", "categories")
    ):
        raise UnreadableLabels(f"The JSON is of no known layout: {_KNOWN_LAYOUTS}.")
    fractures: set[Any] = set()
    names: dict[Any, str] = {}
    paths: dict[str, str] = {}
    boxes: dict[str, list[Box]] = {}

    def read_category(category: Any) -> None:
        name = _class_word(category["name"])
        if "fractur" in name and name not in _NEGATIVE_FOLDERS:
            fractures.add(category["id"])

    def read_image(image: Any) -> None:
        name = posixpath.basename(image["file_name"])
        if "\0" in name:  # an escape can write one
            raise ValueError
        name.encode()  # nor is half of a surrogate pair text: UnicodeEncodeError, a ValueError
        if paths.setdefault(name, image["file_name"]) != image["file_name"]:  # which of them a box means is not known
            raise UnreadableLabels("Two images of the COCO file have one name in two folders: use a manifest CSV.")
        names[image["id"]] = name

    def read_annotation(annotation: Any) -> None:
        if annotation["category_id"] in fractures:
            x, y, width, height = map(float, annotation["bbox"])
            if not all(map(math.isfinite, (x, y, width, height))):
                raise ValueError
            box = Box(x=x, y=y, width=width, height=height)
            boxes.setdefault(names[annotation["image_id"]], []).append(box)

    for part, read in (("categories", read_category), ("images", read_image), ("annotations", read_annotation)):
        for number, entry in enumerate(content[part], 1):
            try:
                read(entry)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                raise UnreadableLabels(f"Entry {number} of {part} is not as COCO has it.") from None
    if not fractures:
        raise UnreadableLabels("No category of the COCO file is called a fracture.")
    # The file lies beside the images' folder, not above it: <root>/Annotations/COCO JSON/x.json
    scope = re.sub(r"(?i)(^|/)annotations/.*$", r"\1", _folder_of(object_key))
    return [
        LabelClaim(
            subject_kind="file_name",
            subject=name,
            scope=scope,
            value=LabelValue.POSITIVE,
            source=LabelSource.DATASET,
            boxes=tuple(found),
        )
        for name, found in boxes.items()
    ]


# --- MURA -----------------------------------------------------------------------------------------


def _mura_claim(found: re.Match[str], site_secret: bytes) -> LabelClaim:
    """What a MURA study's folder says of the study: abnormal or not, which is more than fractures."""
    region, patient, study = found["region"], found["patient"], found["study"]
    study_key = keyed_hash(site_secret, "MURA", region, patient, study)
    return LabelClaim(
        subject_kind="study_key",
        subject=study_key,
        value=LabelValue(found["value"]),
        source=LabelSource.DATASET,
        meaning=LabelMeaning.ABNORMAL,
        patient_key=keyed_hash(site_secret, "MURA", patient),
        study_key=study_key,
        body_part=body_part_of(region),
    )


def _claims_of_mura_list(text: str, site_secret: bytes) -> list[LabelClaim]:
    """The studies of MURA's train_labeled_studies.csv or train_image_paths.csv, which have no header; [] for others."""
    if not (text and _MURA_STUDY.search(text.split("\n", 1)[0].split(",")[0])):
        return []
    claims: dict[str, LabelClaim] = {}
    for line, row in enumerate(text.splitlines(), 1):
        if not row.strip():
            continue
        path, _, label = row.partition(",")
        if not (found := _MURA_STUDY.search(path.strip())):
            raise UnreadableLabels(
                f"Line {line}, column 1: expected a path like XR_WRIST/patient00006/study1_positive/."
            )
        if label.strip() not in ("", "1" if found["value"] == "positive" else "0"):
            raise UnreadableLabels(
                f"Line {line}, column 2: expected what the folder's name says, 1 for positive, or 0."
            )
        claim = _mura_claim(found, site_secret)
        claims[claim.subject] = claim
    return list(claims.values())
