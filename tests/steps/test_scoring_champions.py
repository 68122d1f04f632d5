"""Who scores while champions change, and whose bundle is refused: the list goes back to no earlier one."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from fracture_ml.core.errors import BundleMismatch, NotReconciled
from fracture_ml.model import bundle as bundles
from fracture_ml.scoring.score import Batch, Item, Scorer
from fracture_ml.steps import champion, scoring_run
from fracture_ml.steps.bundle import open_bundle
from fracture_ml.steps.predict import predict_files
from fracture_ml.steps.score import score_batch
from fracture_ml.steps.worklist import rank_worklist
from fracture_ml.stores import Stores
from fracture_ml.stores.predictions import BLOCK_SIZE
from tests.steps.drawn_backlog import drawn_png, promote_drawn, receive_drawn
from tests.steps.scoring_place import Place, score_all, wait_for


def test_open_items_are_scored_anew_by_a_new_champion_and_what_was_read_keeps_its_score(place):
    ids = receive_drawn(place.stores, 6)
    first = promote_drawn(place.stores)
    score_all(place)
    stores = place.stores
    items = stores.worklist.open_items(limit=10)
    read = items[0]
    stores.worklist.act(
        read["study_key"],
        "report",
        actor="a reader",
        row_version=read["row_version"],
        details={"value": "positive", "comment": ""},
    )
    second = promote_drawn(stores, seed=1)
    # While a run of the old champion ends, no score disappears.
    rank_worklist(stores, place.settings, version=first.version)
    assert {row["model_version"] for row in stores.worklist.open_items(limit=10)} == {first.version}
    score_all(place)
    assert sorted(place.rows()) == [(one.version, i) for one in (first, second) for i in ids]
    still_open = stores.worklist.open_items(limit=10)
    assert {row["model_version"] for row in still_open} == {second.version} and len(still_open) == 5
    assert all(float(row["score"]) == pytest.approx(of(place, second.version, row), abs=1e-3) for row in still_open)
    kept = stores.worklist.item_of(read["study_key"])
    assert (kept["version"], kept["score"]) == (first.version, pytest.approx(float(read["score"]), abs=1e-3))


def test_a_new_champion_does_not_wait_for_the_one_whose_place_it_takes(place, monkeypatch):
    stores = place.stores
    ids = receive_drawn(stores, 3 * BLOCK_SIZE)
    first = promote_drawn(stores).version
    fed, may_go_on, submit = [], threading.Event(), Scorer.submit

    def waiting(scorer: Scorer, items: Sequence[Item]) -> Batch:
        fed.append(len(items))
        assert sum(fed) <= BLOCK_SIZE or may_go_on.wait(60)  # in its second block
        return submit(scorer, items)

    monkeypatch.setattr(Scorer, "submit", waiting)
    old = scoring_run.plan_scoring(stores)
    (batch,) = scoring_run.cut_batches(stores, batch_size=2000, **old)
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(score_batch, stores, place.settings, **batch)
        wait_for(lambda: sum(fed) > BLOCK_SIZE)
        second = promote_drawn(stores, seed=1).version
        may_go_on.set()
        done = worker.result(60)
    by_first = place.rows()
    assert BLOCK_SIZE < done["due"] == len(by_first) < len(ids)
    assert scoring_run.reconcile(stores, **old)["missing"] == len(ids) - len(by_first)
    rank_worklist(stores, place.settings, version=first)
    score_all(place)
    assert score_batch(stores, place.settings, **batch) == {"due": 0, "scored": 0, "rejected": 0}  # cleared in Airflow
    rows = place.rows()
    assert rows.items() >= by_first.items() and {version for version, _ in by_first} == {first}
    assert sorted(rows.keys() - by_first) == [(second, radiograph_id) for radiograph_id in ids]
    assert {row["model_version"] for row in stores.worklist.open_items(limit=2000)} == {second}


def test_a_champion_whose_bundle_was_changed_is_refused_and_the_one_before_keeps_scoring(place, tmp_path):
    stores = place.stores
    receive_drawn(stores, 4)
    first = promote_drawn(stores)
    score_all(place)
    second = promote_drawn(stores, seed=1)
    whole = stores.bucket.read(second.bundle_key)
    stores.bucket.write(second.bundle_key, whole[:-1] + b"x")
    late = receive_drawn(stores, 2)
    score_all(place)
    assert {version for version, _ in place.rows()} == {first.version}
    assert {radiograph_id for _, radiograph_id in place.rows()} >= set(late)
    assert {row["model_version"] for row in stores.worklist.open_items(limit=10)} == {first.version}
    (alert,) = stores.monitoring.open_alerts()
    assert (alert["kind"], alert["subject"]) == ("bundle", f"version {second.version}")
    (tmp_path / "one.png").write_bytes(drawn_png(0))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "one.png").write_bytes(drawn_png(1))
    paths = [tmp_path / "one.png", tmp_path / "gone.png", tmp_path / "other", tmp_path / "other" / "one.png"]
    told = list(predict_files(stores, place.settings, paths, overlays=tmp_path / "overlays"))
    assert [row[0] for row in told] == [str(path) for path in paths]  # two files of one name are told apart
    assert ["cannot be read" in row[1] for row in told] == [False, True, True, False]
    flagged = [f"{number}-one-attention.png" for number in (1, 4) if told[number - 1][2] != "below"]
    assert sorted(path.name for path in (tmp_path / "overlays").iterdir()) == flagged
    with pytest.raises(BundleMismatch):
        score_batch(stores, place.settings, version=second.version, first=1, last=9)

    with pytest.raises(BundleMismatch):
        open_bundle(stores, second)
    assert "nothing is scored with it" in stores.monitoring.open_alerts()[0]["sentence"]
    scoring_run.plan_scoring(stores)
    assert f"version {first.version} keeps scoring" in stores.monitoring.open_alerts()[0]["sentence"]

    stores.bucket.write(second.bundle_key, whole)
    score_all(place)
    assert stores.monitoring.open_alerts() == []
    assert {row["model_version"] for row in stores.worklist.open_items(limit=10)} == {second.version}


def promote_of_next_code(stores: Stores) -> int:
    """A champion whose bundle is what was registered, in a format that this code does not read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "FORMAT", bundles.FORMAT + 1)
        return promote_drawn(stores, seed=1).version


def test_a_champion_whose_bundle_cannot_be_read_is_stood_in_for_until_it_can(place, monkeypatch):
    stores = place.stores
    receive_drawn(stores, 4)
    first = promote_drawn(stores).version
    score_all(place)
    second = promote_of_next_code(stores)
    with pytest.raises(BundleMismatch):
        score_all(place)
    (alert,) = stores.monitoring.open_alerts()
    late = receive_drawn(stores, 2)
    for _ in range(2):  # it is not chosen again each hour
        plan = scoring_run.plan_scoring(stores)
        assert (plan["version"], plan["champion"]) == (first, second)
        (same,) = stores.monitoring.open_alerts()
        assert same["alert_id"] == alert["alert_id"] and f"version {first} keeps scoring" in same["sentence"]
        score_all(place)
    assert {radiograph_id for version, radiograph_id in place.rows() if version == first} >= set(late)
    assert stores.monitoring.open_alerts() == [same]
    with monkeypatch.context() as patch:  # an update of the code
        patch.setattr(champion, "code_version", lambda: "other")
        assert scoring_run.plan_scoring(stores)["version"] == second
        assert stores.monitoring.open_alerts() == []
    with pytest.raises(BundleMismatch):
        score_all(place)
    receive_drawn(stores, 1)
    with monkeypatch.context() as patch:  # what could not be read before, can be now
        patch.setattr(bundles, "_WITHOUT_PLACES", bundles.FORMAT)
        patch.setattr(bundles, "FORMAT", bundles.FORMAT + 1)
        score_all(place)
        assert stores.monitoring.open_alerts() == []
        score_all(place)
    assert {row["model_version"] for row in stores.worklist.open_items(limit=10)} == {second}


def test_a_roll_back_settles_what_could_not_be_read_and_without_another_the_run_fails(place):
    stores = place.stores
    receive_drawn(stores, 2)
    unread = promote_of_next_code(stores)
    for _ in range(2):
        with pytest.raises(BundleMismatch):
            score_all(place)
    (alert,) = stores.monitoring.open_alerts()
    assert (alert["kind"], scoring_run.plan_scoring(stores)["version"]) == ("bundle", unread)
    whole = promote_drawn(stores).version
    score_all(place)
    assert stores.monitoring.open_alerts() == []
    stores.registry.promote(unread, actor="a test", reason="again")
    receive_drawn(stores, 1)
    with pytest.raises(BundleMismatch):
        score_all(place)
    stores.registry.roll_back(actor="a test", reason="it cannot be read")
    assert scoring_run.plan_scoring(stores)["version"] == whole
    assert stores.monitoring.open_alerts() == []


def test_the_command_lists_and_names_what_it_could_not_score_and_fails(place):
    stores = place.stores
    ids = receive_drawn(stores, 2)
    promote_of_next_code(stores)
    worker = place.start_worker()
    said, _ = worker.communicate(timeout=100)
    assert worker.returncode == 1, said
    assert f"2 of 2 radiographs have no outcome of version 1: {ids[0]}, {ids[1]};" in said
    assert said.index("have no outcome") < said.index("BundleMismatch: The bundle of version 1 is refused")
    assert [row["ai"] for row in stores.worklist.open_items(limit=10)] == ["AI unavailable"] * 2


def test_after_a_roll_back_nobody_is_asked_to_look_at_the_bundle_that_was_refused(place):
    stores = place.stores
    first, second = promote_drawn(stores), promote_drawn(stores, seed=1)
    stores.bucket.write(second.bundle_key, b"something else")
    assert scoring_run.plan_scoring(stores)["version"] == first.version
    assert [alert["subject"] for alert in stores.monitoring.open_alerts()] == [f"version {second.version}"]
    stores.registry.roll_back(actor="a test", reason="its bundle is broken")
    assert scoring_run.plan_scoring(stores)["version"] == first.version
    assert stores.monitoring.open_alerts() == []


def of(place: Place, version: int, row: dict) -> float:
    return place.stores.predictions.prediction_of(version, row["radiograph_id"])["calibrated"]


def test_a_version_that_is_rolled_back_scores_nothing_more_and_shows_nothing(place):
    first_ids = receive_drawn(place.stores, 12)
    kept = promote_drawn(place.stores).version
    score_batch(place.stores, place.settings, version=kept, first=first_ids[0], last=first_ids[-1])
    withdrawn = promote_drawn(place.stores, seed=1).version
    score_batch(place.stores, place.settings, version=withdrawn, first=first_ids[0], last=first_ids[-1])
    place.stores.registry.roll_back(actor="a test", reason="worse")
    rank_worklist(place.stores, place.settings, version=withdrawn)
    assert {row["model_version"] for row in place.stores.worklist.open_items()} == {kept}
    late = receive_drawn(place.stores, 1)
    work = {"version": withdrawn, "first": late[0], "last": late[-1]}
    assert score_batch(place.stores, place.settings, **work) == {"due": 0, "scored": 0, "rejected": 0}
    assert scoring_run.reconcile(place.stores, version=withdrawn, through=late[-1])["missing"] == 1
    with pytest.raises(NotReconciled, match=f"1 of 13 radiographs have no outcome of version {kept}: {late[0]};"):
        scoring_run.reconcile(place.stores, version=kept, through=late[-1])
