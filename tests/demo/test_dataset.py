"""A drawn inbox is what it says it is, and its files do not give the labels away."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from fracture_ml.core.errors import UnusableObject
from fracture_ml.core.records import LabelValue, MediaType
from fracture_ml.data.labels import claims_of_label_file
from fracture_ml.demo.dataset import MANIFEST, InboxFacts, write_inbox
from fracture_ml.imaging.decode import decode
from fracture_ml.imaging.facts import read_facts
from fracture_ml.imaging.fingerprint import NEAR_DUPLICATE_BITS, perceptual_hash

SECRET = b"a secret for tests only"


@pytest.fixture(scope="module")
def inbox(tmp_path_factory) -> tuple[Path, InboxFacts]:
    folder = tmp_path_factory.mktemp("drawn") / "inbox"
    return folder, write_inbox(folder, patients=60, seed=7)


@pytest.fixture(scope="module")
def decoded(inbox) -> dict[str, np.ndarray | str]:
    """Path -> pixels, or the code of why there are none."""
    folder, _ = inbox
    outcomes: dict[str, np.ndarray | str] = {}
    for path in _files(folder):
        try:
            outcomes[path] = decode((folder / path).read_bytes())
        except UnusableObject as error:
            outcomes[path] = error.code
    return outcomes


@pytest.fixture(scope="module")
def claims(inbox):
    folder, _ = inbox
    found = claims_of_label_file(f"inbox/{MANIFEST}", (folder / MANIFEST).read_bytes(), site_secret=SECRET)
    return {claim.subject.removeprefix("inbox/"): claim for claim in found}


def _files(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if path != MANIFEST)


def _hashes(folder: Path) -> dict[str, str]:
    return {path: hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in [*_files(folder), MANIFEST]}


def test_the_facts_count_every_file(inbox, decoded):
    folder, facts = inbox
    assert len(decoded) + 1 == facts.files
    refused = Counter(outcome for outcome in decoded.values() if isinstance(outcome, str))
    assert refused == facts.quarantined_by_code
    hashes = Counter(value for path, value in _hashes(folder).items() if not isinstance(decoded.get(path, ""), str))
    assert len(hashes) == facts.radiographs == sum(facts.by_media_type.values())
    assert hashes.total() - len(hashes) == facts.exact_copies
    assert set(facts.by_media_type) == set(MediaType)


def test_the_manifest_labels_what_it_should_and_holds_back_the_arrivals(inbox, decoded, claims):
    _, facts = inbox
    usable = {path: claim for path, claim in claims.items() if not isinstance(decoded[path], str)}
    values = Counter(claim.value for claim in usable.values())
    assert values == {
        LabelValue.POSITIVE: facts.positive,
        LabelValue.NEGATIVE: facts.negative,
        LabelValue.UNCERTAIN: facts.uncertain,
        LabelValue.ABSENT: facts.arrivals,
    }
    assert {path for path, claim in claims.items() if claim.value is LabelValue.ABSENT} == set(facts.held_back)
    assert 0.2 < facts.positive / (facts.positive + facts.negative) < 0.5
    for path, claim in usable.items():
        height, width = decoded[path].shape
        for box in claim.boxes:
            assert 0 <= box.x < box.x + box.width <= width
            assert 0 <= box.y < box.y + box.height <= height


def test_a_dicom_and_the_manifest_name_the_same_patient_and_study(inbox, claims):
    folder, _ = inbox
    seen = set()
    for path, claim in claims.items():
        if path.endswith(".dcm"):
            facts = read_facts((folder / path).read_bytes(), site_secret=SECRET)
            assert (facts.patient_key, facts.study_key) == (claim.patient_key, claim.study_key)
            assert (facts.body_part, facts.view, facts.laterality) == (claim.body_part, claim.view, claim.laterality)
            seen.add(facts.photometric)
    assert seen == {"MONOCHROME1", "MONOCHROME2"}


def test_bone_is_bright_whatever_the_format(decoded):
    pixels = {path: outcome for path, outcome in decoded.items() if not isinstance(outcome, str)}
    for suffix in (".png", ".jpg", ".dcm"):
        values = [picture for path, picture in pixels.items() if path.endswith(suffix)]
        assert np.mean([np.percentile(picture, 98) for picture in values]) > 180
        assert np.mean([np.percentile(picture, 2) for picture in values]) < 60


def test_near_duplicates_are_found_and_nothing_else_is(inbox, decoded):
    _, facts = inbox
    pixels = {path: outcome for path, outcome in decoded.items() if not isinstance(outcome, str)}
    copies = {path for path in pixels if path.startswith("resent/COPY")}
    paths = [path for path in pixels if path not in copies]
    values = np.array([perceptual_hash(pixels[path]) for path in paths], np.uint64)
    linked = {
        frozenset((path, paths[other]))
        for path, value in zip(paths, values, strict=True)
        for other in np.flatnonzero(np.bitwise_count(values ^ value) <= NEAR_DUPLICATE_BITS)
        if paths[other] != path
    }
    assert len(linked) == facts.near_duplicates
    assert all(any(path.startswith("resent/SCALED") for path in pair) for pair in linked)


def test_the_same_seed_writes_the_same_bytes_on_any_number_of_processes(tmp_path):
    few = {"patients": 4, "seed": 3, "truncated_png": 1, "truncated_jpeg": 1, "exact_copies": 1, "near_duplicates": 1}
    one = write_inbox(tmp_path / "one", workers=1, **few)
    two = write_inbox(tmp_path / "two", workers=2, **few)
    assert one == two
    assert _hashes(tmp_path / "one") == _hashes(tmp_path / "two")


def test_what_a_file_shows_without_its_pixels_does_not_tell_its_label(inbox, decoded, claims):
    folder, _ = inbox
    rows, labels, groups = [], [], []
    for path, claim in claims.items():
        if isinstance(decoded[path], str) or claim.patient_key is None or claim.value not in ("positive", "negative"):
            continue
        facts = read_facts((folder / path).read_bytes(), site_secret=SECRET)
        area = facts.width_px * facts.height_px
        size = (facts.size_bytes, facts.size_bytes / area, facts.width_px, facts.height_px, area)
        said = (facts.bits_stored, hash(facts.photometric) % 7, len(facts.media_type), len(facts.ordered_priority))
        shown = (len(claim.view), claim.laterality == "L", claim.hardware, len(path), claim.labelled_at.hour)
        rows.append([*size, *said, *shown])
        labels.append(claim.value is LabelValue.POSITIVE)
        groups.append(claim.patient_key)
    guess = cross_val_predict(
        RandomForestClassifier(300, min_samples_leaf=8, random_state=0),
        np.array(rows, float),
        labels,
        groups=groups,
        cv=GroupKFold(5),
        method="predict_proba",
    )[:, 1]
    assert 0.4 <= roc_auc_score(labels, guess) <= 0.6
