"""Whatever dies while a backlog is scored, every radiograph has exactly one outcome, and every picture its row."""

import io
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import text

from fracture_ml.core.errors import BundleMismatch, DatabaseUnavailable, NotReconciled
from fracture_ml.core.records import Box, OperatingPoint, Rejected, Scored
from fracture_ml.model import bundle as bundles
from fracture_ml.scoring.score import Batch, Item, Scorer
from fracture_ml.steps import champion, scoring_run
from fracture_ml.steps.bundle import open_bundle
from fracture_ml.steps.pictures import read_picture
from fracture_ml.steps.predict import predict_files
from fracture_ml.steps.score import _row_of, score_batch
from fracture_ml.steps.settings import Settings
from fracture_ml.steps.worklist import rank_worklist
from fracture_ml.stores import Stores, open_stores
from fracture_ml.stores.bucket import Bucket
from fracture_ml.stores.database import connect, migrate, transaction
from fracture_ml.stores.predictions import BLOCK_SIZE, PredictionRow
from tests.running import (
    OWNER_PASSWORD,
    Running,
    bucket_on,
    environment_of,
    new_postgres,
    new_s3,
    settings_of,
    start_fracture,
)
from tests.steps.drawn_backlog import drawn_png, promote_drawn, receive_drawn


@dataclass(frozen=True, kw_only=True)
class Place:
    """Servers, settings and stores of one test."""

    stores: Stores
    settings: Settings
    environment: dict[str, str]

    def start_worker(self) -> subprocess.Popen:
        """`fracture score`, as a process of its own."""
        return start_fracture(self.environment, "score")

    def rows(self) -> dict[tuple[int, int], tuple]:
        """(version, radiograph) -> the whole outcome, with when it was written."""
        with transaction(self.stores.engine) as connection:
            rows = connection.execute(text("SELECT * FROM fracture.prediction")).mappings().all()
        return {(row["version"], row["radiograph_id"]): tuple(map(str, row.values())) for row in rows}

    def pictures(self) -> tuple[set[str], set[str]]:
        """Keys that rows name, and keys that are in the bucket."""
        with transaction(self.stores.engine) as connection:
            named = connection.execute(
                text("SELECT unnest(ARRAY[heat_map_key, overlay_key]) FROM fracture.prediction")
            ).scalars()
            return {key for key in named if key}, {found.key for found in self.stores.bucket.list("attention/")}

    def heat_maps(self) -> dict[int, str]:
        """Radiograph -> the key of the object that has its heat map."""
        with transaction(self.stores.engine) as connection:
            rows = connection.execute(
                text("SELECT radiograph_id, heat_map_key FROM fracture.prediction WHERE heat_map_key IS NOT NULL")
            ).all()
        return {radiograph_id: key for radiograph_id, key in rows}


def place_of(database_url: str, s3, bucket, folder: Path) -> Place:
    environment = environment_of(database_url, s3, bucket, folder)
    return Place(
        stores=open_stores(database_url=database_url, bucket=bucket),
        settings=settings_of(environment),
        environment=environment,
    )


@pytest.fixture
def place(create_database: Callable[[], str], s3, bucket, tmp_path: Path) -> Place:
    url = create_database()
    migrate(url)
    return place_of(url, s3, bucket, tmp_path)


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


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


def wait_until_it_commits(place: Place, worker: subprocess.Popen, rows_before: int) -> None:
    wait_for(lambda: len(place.rows()) > rows_before or worker.poll() is not None)


def wait_until_it_writes(place: Place, worker: subprocess.Popen) -> None:
    """Until there are pictures that no row names yet, or nothing was left to do."""

    def writes() -> bool:
        named, stored = place.pictures()
        return bool(stored - named) or worker.poll() is not None

    wait_for(writes)


def wait_until_it_claims(place: Place, worker: subprocess.Popen) -> None:
    def claims() -> bool:
        with transaction(place.stores.engine) as connection:
            held = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted")
            return connection.execute(held).scalar_one() > 0 or worker.poll() is not None

    wait_for(claims)


def finish(worker: subprocess.Popen, timeout_s: float = 200.0) -> str:
    said, _ = worker.communicate(timeout=timeout_s)
    assert worker.returncode == 0, said
    return said


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


def score_all(place: Place) -> None:
    """What an hour does: plan, score, reconcile, rank."""
    plan = scoring_run.plan_scoring(place.stores)
    for batch in scoring_run.cut_batches(place.stores, batch_size=2000, **plan):
        score_batch(place.stores, place.settings, **batch)
    assert scoring_run.reconcile(place.stores, **plan)["missing"] == 0
    rank_worklist(place.stores, place.settings, version=plan["version"])


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
