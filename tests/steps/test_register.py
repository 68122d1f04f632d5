"""What is registered is what was measured: on the locked test split, of the bundle that was trained."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sklearn.metrics import roc_auc_score
from sqlalchemy import text

from fracture_ml.core.errors import BundleMismatch
from fracture_ml.core.recipe import SplitPlan
from fracture_ml.core.records import SnapshotDraft, Split
from fracture_ml.data.splits import draft_snapshot
from fracture_ml.steps.register import evaluate_and_register
from fracture_ml.steps.score import score_batch
from fracture_ml.steps.settings import Settings
from fracture_ml.stores.database import transaction
from tests.steps.drawn_backlog import drawn_bundle, receive_drawn


@pytest.fixture
def settings(settings) -> Settings:
    return settings.model_copy(update={"prevalence": 0.03})


@pytest.fixture
def snapshot(stores) -> SnapshotDraft:
    """Of 40 patients with two images each, one with a fracture and one without."""
    for number in range(40):
        receive_drawn(stores, 2, patient_key=f"patient {number}")
    now = datetime.now(UTC)
    draft = draft_snapshot(stores.radiographs.candidates(as_of=now), SplitPlan())
    stores.snapshots.save(draft, SplitPlan(), as_of=now)
    return draft


@pytest.fixture
def trained(stores, snapshot) -> dict:
    """What a training hands on: a bundle whose calibration changes every score."""
    bundle = replace(drawn_bundle(), calibration={"temperature": 2.0, "bias": 0.75}, snapshot_id=snapshot.id)
    data, sha256 = bundle.to_bytes()
    stores.bucket.write("models/one/bundle.pt", data)
    return {"bundle_key": "models/one/bundle.pt", "bundle_sha256": sha256, "recipe_id": bundle.recipe.id}


def test_a_version_is_measured_on_the_test_split_by_the_scores_that_it_will_give(stores, settings, snapshot, trained):
    tested = [member for member in snapshot.members if member.split is Split.TEST]
    # A fact of the file tells the label in the test split, and the opposite in the training split.
    with transaction(stores.engine) as connection:
        for member in snapshot.members:
            size = 9000 if member.label == (member.split is Split.TEST) else 100
            update = "UPDATE fracture.radiograph SET size_bytes = :size WHERE radiograph_id = :id"
            connection.execute(text(update), {"size": size, "id": member.radiograph_id})
    asked = {"snapshot_id": snapshot.id, "study_name": None, "trained": trained}
    version = evaluate_and_register(stores, settings, **asked)

    rows = stores.registry.evaluation_scores_of(version)
    assert {row.radiograph_id: (row.label, row.group_key) for row in rows} == {
        member.radiograph_id: (member.label, member.group_key) for member in tested
    }
    ids = [row.radiograph_id for row in rows]
    stores.registry.promote(version, actor="a test", reason="a test")
    score_batch(stores, settings, version=version, first=min(ids), last=max(ids))
    live = [stores.predictions.prediction_of(version, id_)["calibrated"] for id_ in ids]
    assert [row.score for row in rows] == pytest.approx(live, abs=1e-3)
    assert len({round(score, 2) for score in live}) > 3  # they differ

    metrics = stores.registry.version_of(version).metrics
    assert (metrics["n"], metrics["groups"]) == (len(tested), len({member.group_key for member in tested}))
    assert metrics["groups"] < metrics["n"] and metrics["site_prevalence"] == 0.03
    auroc = roc_auc_score([row.label for row in rows], [row.score for row in rows])
    assert metrics["auroc"]["value"] == pytest.approx(auroc)
    assert metrics["shortcut_audit"]["auroc"]["value"] < 0.2, "it learns from the training split alone"
    assert stores.snapshots.looks_of(snapshot.id) == 1


def test_a_bundle_that_is_not_what_was_trained_is_not_registered(stores, settings, snapshot, trained):
    other, _ = drawn_bundle(seed=1).to_bytes()
    stores.bucket.write(trained["bundle_key"], other)
    with pytest.raises(BundleMismatch):
        evaluate_and_register(stores, settings, snapshot_id=snapshot.id, study_name=None, trained=trained)
    assert stores.registry.versions() == [] and stores.snapshots.looks_of(snapshot.id) == 0
