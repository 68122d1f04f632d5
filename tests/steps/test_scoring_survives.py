"""Whatever dies while a backlog is scored, every radiograph has exactly one outcome, and every picture its row."""

import io
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import text

from fracture_ml.core.errors import DatabaseUnavailable
from fracture_ml.core.records import Box, OperatingPoint, Rejected, Scored
from fracture_ml.scoring.score import Batch, Item, Scorer
from fracture_ml.steps import scoring_run
from fracture_ml.steps.pictures import read_picture
from fracture_ml.steps.score import _row_of, score_batch
from fracture_ml.steps.worklist import rank_worklist
from fracture_ml.stores.bucket import Bucket
from fracture_ml.stores.database import connect, migrate, transaction
from fracture_ml.stores.predictions import BLOCK_SIZE, PredictionRow
from tests.running import (
    OWNER_PASSWORD,
    Running,
    bucket_on,
    new_postgres,
    new_s3,
)
from tests.steps.drawn_backlog import promote_drawn, receive_drawn
from tests.steps.scoring_place import (
    Place,
    finish,
    place_of,
    score_all,
    wait_for,
    wait_until_it_claims,
    wait_until_it_commits,
    wait_until_it_writes,
)


@pytest.fixture
def own_servers(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[tuple[Place, Running, Running]]:
    """A place on a Postgres and an S3 that the test may stop."""
    postgres, running_postgres = new_postgres(tmp_path_factory.mktemp("own-postgres"))
    s3, running_s3 = new_s3(tmp_path_factory.mktemp("own-s3"))
    try:
        url = postgres.url(role="fracture", password=OWNER_PASSWORD, database="fracture")
        migrate(url)
        yield place_of(url, s3, bucket_on(s3, "own"), tmp_path), running_postgres, running_s3
    finally:
        for running in (running_postgres, running_s3):
            if running.process.poll() is None:
                running.stop()
        s3.remove_sockets()


def test_a_worker_leaves_to_others_what_its_network_cannot_begin_with(place, monkeypatch):
    receive_drawn(place.stores, 2 * BLOCK_SIZE)
    version = promote_drawn(place.stores).version
    begun, may_go_on = threading.Event(), threading.Event()
    submit = Scorer.submit

    def waiting(scorer: Scorer, items: Sequence[Item]) -> Batch:
        begun.set()
        assert may_go_on.wait(60)
        return submit(scorer, items)

    monkeypatch.setattr(Scorer, "submit", waiting)
    last = place.stores.radiographs.newest_id()
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(score_batch, place.stores, place.settings, version=version, first=1, last=last)
        try:
            assert begun.wait(60)
            time.sleep(0.3)  # its other threads have come as far as they can
            newest = last // BLOCK_SIZE
            with place.stores.predictions.claim(version, newest) as first:
                assert first is None
            with place.stores.predictions.claim(version, newest - 1) as second:
                assert second is not None
        finally:
            may_go_on.set()
        assert worker.result()["due"] == 2 * BLOCK_SIZE


@pytest.mark.timeout(1200)
def test_a_scoring_worker_that_is_killed_again_and_again_leaves_exactly_one_outcome_per_radiograph(place):
    """At random moments: while it holds a claim and scores, while it writes pictures, after it has committed some."""
    backlog, kills = 2000, 20
    ids = receive_drawn(place.stores, backlog)
    version = promote_drawn(place.stores).version
    rng = random.Random(4)
    before: dict = {}
    for kill in range(kills):
        if len(ids) - len(before) < 3 * BLOCK_SIZE:  # a quick worker commits several blocks before its end
            ids += receive_drawn(place.stores, BLOCK_SIZE)
        worker = place.start_worker()
        if kill in (5, 12):
            wait_until_it_commits(place, worker, len(before))
        elif kill % 2:
            wait_until_it_writes(place, worker)
        else:
            wait_until_it_claims(place, worker)
        time.sleep(rng.uniform(0, 0.3))
        assert worker.poll() is None, f"nothing was left to do for kill {kill}"
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        now = place.rows()
        assert now.items() >= before.items(), f"an outcome changed after kill {kill}"
        before = now
    assert before, "no worker lived long enough to commit anything"
    score_all(place)
    rows = place.rows()
    assert rows.items() >= before.items()
    assert sorted(rows) == [(version, radiograph_id) for radiograph_id in ids]
    named, stored = place.pictures()
    assert len(place.heat_maps()) > len(ids) / 4  # one for about half of them
    assert named == stored


def test_workers_that_share_a_backlog_do_each_radiograph_once(place):
    ids = receive_drawn(place.stores, 2000)
    version = promote_drawn(place.stores).version
    workers = [place.start_worker() for _ in range(4)]
    for worker in workers:
        worker.communicate(timeout=200)  # one that ends while its neighbour still holds a block says what is missing
    assert sorted(place.rows()) == [(version, radiograph_id) for radiograph_id in ids]
    named, stored = place.pictures()
    assert named == stored
    assert place.stores.predictions.reconcile(version)["missing"] == 0
    heat_maps = place.heat_maps()
    assert len(heat_maps) > len(ids) / 4
    for radiograph_id, key in heat_maps.items():
        with Image.open(io.BytesIO(read_picture(place.stores.bucket, key, radiograph_id))) as heat_map:
            assert (heat_map.format, heat_map.mode, max(heat_map.size)) == ("PNG", "L", 112)


def test_a_block_that_another_worker_holds_is_passed_over_and_free_once_the_holder_is_gone(place):
    ids = receive_drawn(place.stores, 300)
    version = promote_drawn(place.stores).version
    work = {"version": version, "first": ids[0], "last": ids[-1]}
    holder = connect(place.environment["FRACTURE_DATABASE_URL"])
    with transaction(holder) as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:version, 0)"), {"version": version})
        done = score_batch(place.stores, place.settings, **work)
        assert done["due"] == len([one for one in ids if one >= 256])
        assert score_batch(place.stores, place.settings, **work) == {"due": 0, "scored": 0, "rejected": 0}
    assert score_batch(place.stores, place.settings, **work)["due"] == len([one for one in ids if one < 256])
    assert scoring_run.reconcile(place.stores, version=version, through=ids[-1])["missing"] == 0


@pytest.mark.parametrize("away", ["postgres", "s3"])
@pytest.mark.timeout(300)
def test_a_server_that_is_away_in_the_middle_of_a_run_is_waited_for(own_servers, away):
    place, postgres, s3 = own_servers
    ids = receive_drawn(place.stores, 2000)
    version = promote_drawn(place.stores).version
    worker = place.start_worker()
    wait_for(lambda: any(place.pictures()[1]))
    server = {"postgres": postgres, "s3": s3}[away]
    server.stop()
    time.sleep(20)
    assert worker.poll() is None
    back = Running(server.program)
    try:
        said = finish(worker)
        assert "Trying again in" in said and "Traceback" not in said
        assert sorted(place.rows()) == [(version, radiograph_id) for radiograph_id in ids]
        named, stored = place.pictures()
        assert named == stored
    finally:
        back.stop()


def test_a_backlog_of_more_batches_than_airflow_maps_is_cut_into_larger_ones(place, monkeypatch):
    ids = receive_drawn(place.stores, 8)
    plan = {"version": promote_drawn(place.stores).version, "through": ids[6]}
    monkeypatch.setattr(scoring_run, "MAX_BATCHES", 3)
    batches = scoring_run.cut_batches(place.stores, batch_size=1, **plan)
    assert [(batch["first"], batch["last"]) for batch in batches] == [
        (ids[4], ids[6]),
        (ids[1], ids[3]),
        (ids[0], ids[0]),
    ]


def test_the_older_images_of_a_late_view_are_scored_with_it(place):
    """A new champion owes a score to the archive, and the study shows its score once all of the images have one."""
    stores = place.stores
    early = receive_drawn(stores, 1, study_key="a study of two days")
    receive_drawn(stores, 3 * BLOCK_SIZE)
    promote_drawn(stores)
    late = receive_drawn(stores, 1, study_key="a study of two days")
    plan = scoring_run.plan_scoring(stores)
    newest, *rest = scoring_run.cut_batches(stores, batch_size=10, **plan)
    assert early[0] < newest["first"] <= late[0] and len(rest) > 40
    done = score_batch(stores, place.settings, **newest)
    rank_worklist(stores, place.settings, version=plan["version"])
    here = {id_ for id_ in range(early[0], late[0] + 1) if id_ // BLOCK_SIZE >= newest["first"] // BLOCK_SIZE}
    assert {id_ for _, id_ in place.rows()} == here | {*early} and done["due"] == len(here) + 1  # and no more
    study = stores.worklist.item_of("a study of two days")
    assert (study["images_unscored"], study["version"]) == (0, plan["version"])


def test_pictures_of_what_was_scored_before_stay_when_a_neighbour_arrives_late(place):
    receive_drawn(place.stores, 4)
    version = promote_drawn(place.stores, flagged_from=0.0).version
    score_all(place)
    first = place.heat_maps()
    (late,) = receive_drawn(place.stores, 1)
    score_all(place)
    named, stored = place.pictures()
    assert named == stored and len(named) == 4  # a heat map and an overlay, twice
    assert place.heat_maps().items() > first.items()
    for radiograph_id in (*first, late):
        outcome = place.stores.predictions.prediction_of(version, radiograph_id)
        with Image.open(io.BytesIO(read_picture(place.stores.bucket, outcome["heat_map_key"], radiograph_id))) as found:
            assert (found.mode, max(found.size)) == ("L", 112)
        with Image.open(io.BytesIO(read_picture(place.stores.bucket, outcome["overlay_key"], radiograph_id))) as found:
            assert found.mode == "P" and max(found.size) > 320


def test_a_row_holds_all_that_its_outcome_says():
    box = Box(x=1.0, y=2.0, width=3.0, height=4.0)
    outcome = Scored(
        radiograph_id=7, probability=0.25, calibrated=0.75, operating_point=OperatingPoint.URGENT, box=box,
        heat_map_png=b"a", overlay_png=b"b",
    )  # fmt: skip
    assert _row_of(outcome, {7: "heat map", 8: "another"}, {7: "overlay", 8: "another"}) == PredictionRow(
        radiograph_id=7, probability=0.25, calibrated=0.75, operating_point=OperatingPoint.URGENT, box=box,
        heat_map_key="heat map", overlay_key="overlay",
    )  # fmt: skip
    reason = "truncated: the file ends early"
    rejected = _row_of(Rejected(radiograph_id=7, reason=reason), {}, {})
    assert rejected == PredictionRow(radiograph_id=7, reason=reason)


def test_a_worker_whose_claim_was_lost_writes_no_picture_and_no_row(place, monkeypatch):
    """Its block may be another's by now, whose pictures it could take for leftovers."""
    ids = receive_drawn(place.stores, 4)
    version = promote_drawn(place.stores, flagged_from=0.0).version
    outcomes, told = Batch.outcomes, []

    def lost(batch: Batch):
        found = outcomes(batch)
        if not told:
            told.append(len(found))
            lose_claims(place)
        return found

    monkeypatch.setattr(Batch, "outcomes", lost)
    monkeypatch.setattr("fracture_ml.steps.patience._GIVE_UP_AFTER_S", 0.0)
    with pytest.raises(DatabaseUnavailable):
        score_batch(place.stores, place.settings, version=version, first=ids[0], last=ids[-1])
    assert told == [4] and place.rows() == {} and place.pictures() == (set(), set())


def lose_claims(place: Place) -> None:
    with transaction(connect(place.environment["FRACTURE_DATABASE_URL"])) as connection:
        connection.execute(text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"))


@pytest.mark.parametrize("arriving", [0, 1])
@pytest.mark.parametrize("hangs_in", ["write", "list"])
def test_a_worker_that_loses_its_claim_while_it_hangs_leaves_the_next_ones_pictures(
    place, monkeypatch, hangs_in, arriving
):
    """It hangs for so long that Postgres lets go of its claim, and another one does the block meanwhile."""
    ids = receive_drawn(place.stores, 4)
    version = promote_drawn(place.stores, flagged_from=0.0).version
    hung: list[str] = []

    class Hanging(Bucket):
        def hang(self) -> None:
            if not hung:
                hung.append(hangs_in)
                lose_claims(place)
                ids.extend(receive_drawn(place.stores, arriving) if arriving else [])
                score_batch(place.stores, place.settings, version=version, first=1, last=ids[-1])

        def list(self, prefix: str):
            if hangs_in == "list":
                self.hang()
            return super().list(prefix)

        def write(self, key: str, data: bytes, media_type: str = "application/octet-stream") -> None:
            if hangs_in == "write":
                self.hang()
            super().write(key, data, media_type)

    bucket = place.stores.bucket
    hanging = replace(place.stores, bucket=Hanging(bucket._client, bucket.name))
    monkeypatch.setattr("fracture_ml.steps.patience._GIVE_UP_AFTER_S", 0.0)
    with pytest.raises(DatabaseUnavailable):
        score_batch(hanging, place.settings, version=version, first=ids[0], last=ids[-1])
    assert sorted(place.rows()) == [(version, radiograph_id) for radiograph_id in ids]
    named, stored = place.pictures()
    assert named == stored and len(place.heat_maps()) == 4 + arriving


def test_what_arrives_while_the_archive_is_scored_anew_goes_before_it(place):
    stores = place.stores
    archive = receive_drawn(stores, 3)
    version = promote_drawn(stores).version
    plan = scoring_run.plan_scoring(stores)
    newest, *rest = scoring_run.cut_batches(stores, batch_size=2, **plan)
    assert (newest["first"], newest["last"]) == (archive[1], archive[2]) and len(rest) == 1
    (arrived,) = receive_drawn(stores, 1)
    score_batch(stores, place.settings, **newest)
    rank_worklist(stores, place.settings, version=version)  # as the task of the batch does
    assert stores.predictions.prediction_of(version, arrived) is not None
    (study,) = [row for row in stores.worklist.open_items(limit=10) if row["radiograph_id"] == arrived]
    assert study["score"] is not None
