"""Radiographs that object storage does not hand over: one of them is an outcome, all of them are waited for."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from fracture_ml.core.errors import DatabaseRefused, NotReconciled, StorageUnavailable
from fracture_ml.scoring import score as scoring
from fracture_ml.steps import score, scoring_run
from fracture_ml.steps.monitor import watch
from fracture_ml.steps.score import score_batch
from fracture_ml.steps.worklist import rank_worklist
from fracture_ml.stores import Stores
from fracture_ml.stores.bucket import Bucket
from fracture_ml.stores.database import transaction
from tests.steps.drawn_backlog import promote_drawn, receive_drawn
from tests.steps.refusing import Refusing


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch):
    monkeypatch.setattr("fracture_ml.steps.patience._GIVE_UP_AFTER_S", 0.0)


def refusing(stores: Stores, code: str, radiograph_ids: list[int], *, status: int = 403) -> Stores:
    """The same stores, where the bucket refuses these radiographs, or fails at them."""
    keys = {radiograph.object_key for radiograph in stores.radiographs.stored(radiograph_ids)}
    return replace(
        stores, bucket=Bucket(Refusing(stores.bucket._client, code, keys, status=status), stores.bucket.name)
    )


def reasons(stores: Stores, version: int) -> dict[int, str]:
    """Radiograph -> the code of the reason why it has no score."""
    with transaction(stores.engine) as connection:
        rows = connection.execute(
            text("SELECT radiograph_id, reason FROM fracture.prediction WHERE version = :version AND reason <> ''"),
            {"version": version},
        ).all()
    return {radiograph_id: reason.split(":")[0] for radiograph_id, reason in rows}


def outcomes(stores: Stores) -> int:
    with transaction(stores.engine) as connection:
        return connection.execute(text("SELECT count(*) FROM fracture.prediction")).scalar_one()


@pytest.mark.parametrize("neighbours", [39, 0])
def test_an_object_that_the_bucket_refuses_costs_no_neighbour_its_score(stores, settings, neighbours):
    scored_before = receive_drawn(stores, 3)
    version = promote_drawn(stores).version
    score_batch(stores, settings, version=version, first=1, last=scored_before[-1])
    ids = receive_drawn(stores, 1 + neighbours)
    guarded = refusing(stores, "InvalidObjectState", ids[-1:])
    done = score_batch(guarded, settings, version=version, first=ids[0], last=ids[-1])
    assert done == {"due": 1 + neighbours, "scored": neighbours, "rejected": 1}
    assert reasons(stores, version) == {ids[-1]: "not_readable"}


def test_an_object_at_which_the_bucket_fails_costs_no_neighbour_its_score(stores, settings, monkeypatch):
    monkeypatch.setattr(score, "_FAILS_FOR_S", 1.5)
    monkeypatch.setattr("fracture_ml.steps.patience._GIVE_UP_AFTER_S", 120.0)
    ids = receive_drawn(stores, 20)
    version = promote_drawn(stores).version
    guarded = refusing(stores, "InternalError", [ids[7]], status=500)
    done = score_batch(guarded, settings, version=version, first=ids[0], last=ids[-1])
    assert done == {"due": 20, "scored": 19, "rejected": 1}
    assert reasons(stores, version) == {ids[7]: "not_readable"}


def test_old_radiographs_tell_too_that_the_fault_is_the_new_ones_own(stores, settings):
    old = receive_drawn(stores, 2)
    version = promote_drawn(stores).version
    score_batch(stores, settings, version=version, first=1, last=old[-1])
    new = receive_drawn(stores, 4)  # more than are tried of the newest
    done = score_batch(refusing(stores, "NoSuchKey", new), settings, version=version, first=new[0], last=new[-1])
    assert done == {"due": 4, "scored": 0, "rejected": 4}


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchKey"])
def test_where_no_radiograph_is_handed_over_none_is_to_blame(stores, settings, code):
    """A policy that hides the radiographs and not the models; a bucket of which half was restored."""
    ids = receive_drawn(stores, 2)
    version = promote_drawn(stores).version
    with pytest.raises(StorageUnavailable, match="FRACTURE_S3"):
        score_batch(refusing(stores, code, ids), settings, version=version, first=ids[0], last=ids[-1])
    assert outcomes(stores) == 0
    assert score_batch(stores, settings, version=version, first=ids[0], last=ids[-1])["scored"] == 2


def test_a_bucket_that_comes_back_while_another_radiograph_is_tried_costs_none_its_score(stores, settings, monkeypatch):
    ids = receive_drawn(stores, 5)
    version = promote_drawn(stores).version
    guarded = refusing(stores, "AccessDenied", ids[2:3])
    hands_over_another = score._Worker._hands_over_another

    def and_is_mended(worker, radiograph) -> bool:
        answer = hands_over_another(worker, radiograph)
        guarded.bucket._client._keys.clear()
        return answer

    monkeypatch.setattr(score._Worker, "_hands_over_another", and_is_mended)
    assert score_batch(guarded, settings, version=version, first=ids[0], last=ids[-1])["scored"] == 5


def test_a_radiograph_that_is_gone_is_an_outcome_and_is_scored_once_it_is_restored(stores, settings):
    ids = receive_drawn(stores, 3)
    version = promote_drawn(stores, flagged_from=0.0).version
    (gone,) = stores.radiographs.stored(ids[1:2])
    data = stores.bucket.read(gone.object_key)
    stores.bucket.delete(gone.object_key)

    def score_an_hour(retry: str | None = None) -> None:
        plan = scoring_run.plan_scoring(stores, retry_unscored=retry)
        for batch in scoring_run.cut_batches(stores, batch_size=2, **plan):
            score_batch(stores, settings, **batch)
        scoring_run.reconcile(stores, **plan)
        rank_worklist(stores, settings, version=version)
        watch(stores, at=datetime.now(UTC))

    def alerts() -> list[str]:
        return [alert["sentence"] for alert in stores.monitoring.open_alerts() if alert["kind"] == "unscored"]

    def unscored() -> int:
        return sum(study["images_unscored"] for study in stores.worklist.open_items(limit=10))

    score_an_hour()
    assert reasons(stores, version) == {ids[1]: "not_readable"} and unscored() == 1
    assert len(alerts()) == 1 and "could not be scored: 1 (not_readable: 1)." in alerts()[0]

    stores.bucket.write(gone.object_key, data)
    score_an_hour()
    assert unscored() == 1  # by itself nothing that was decided is looked at again
    score_an_hour("another code")
    assert unscored() == 1
    before = stores.predictions.prediction_of(version, ids[0])
    score_an_hour("not_readable")
    assert reasons(stores, version) == {} and unscored() == 0 and alerts() == []
    assert stores.predictions.prediction_of(version, ids[0]) == before
    with transaction(stores.engine) as connection:
        noted = connection.execute(text("SELECT version, radiograph_id, reason FROM fracture.retried_prediction")).all()
    assert [(row[0], row[1], row[2].split(":")[0]) for row in noted] == [(version, ids[1], "not_readable")]


def test_an_outcome_that_is_taken_back_is_missed_by_the_next_run(stores, settings):
    ids = receive_drawn(stores, 4)
    version = promote_drawn(stores).version
    score_batch(refusing(stores, "AccessDenied", ids[1:2]), settings, version=version, first=ids[0], last=ids[-1])
    assert stores.predictions.reconcile(version)["missing"] == 0
    assert stores.predictions.retry(version, "not_readable") == 1
    with pytest.raises(NotReconciled, match=f"1 of 4 radiographs have no outcome of version {version}: {ids[1]};"):
        scoring_run.reconcile(stores, version=version, through=ids[-1])
    assert stores.predictions.due_ranges(version, batch_size=10) == [(ids[1], ids[1])]


@pytest.mark.parametrize("noted", [True, False])
def test_a_score_cannot_be_taken_back_and_a_reason_not_without_a_note(stores, settings, noted):
    ids = receive_drawn(stores, 2)
    version = promote_drawn(stores).version
    score_batch(refusing(stores, "AccessDenied", ids[:1]), settings, version=version, first=ids[0], last=ids[-1])
    with pytest.raises(DatabaseRefused), transaction(stores.engine) as connection:
        if noted:
            columns = "version, radiograph_id, reason, scored_at"
            connection.execute(text(f"INSERT INTO fracture.retried_prediction ({columns}) VALUES (1, 1, '', now())"))
        which = "probability IS NOT NULL" if noted else "probability IS NULL"
        connection.execute(text(f"DELETE FROM fracture.prediction WHERE {which}"))
    assert outcomes(stores) == 2


def test_an_image_for_which_there_is_no_memory_costs_no_neighbour_its_score(stores, settings, monkeypatch):
    ids = receive_drawn(stores, 6)
    version = promote_drawn(stores).version
    sizes, read = [], scoring.view_of

    def without_memory(data: bytes, *limits, **options):
        sizes.append(len(data))
        if len(sizes) == 3:
            raise MemoryError
        return read(data, *limits, **options)

    monkeypatch.setattr(scoring, "view_of", without_memory)
    done = score_batch(stores, settings, version=version, first=ids[0], last=ids[-1])
    assert done == {"due": 6, "scored": 5, "rejected": 1}
    assert list(reasons(stores, version).values()) == ["out_of_memory"]
    scoring_run.plan_scoring(stores, retry_unscored="out_of_memory")
    assert score_batch(stores, settings, version=version, first=ids[0], last=ids[-1])["scored"] == 1
