"""The steps over real stores: each is run twice, and bad input is one sentence."""

from datetime import UTC, datetime

import pytest
from numpy.random import default_rng
from PIL import Image

from fracture_ml.core.errors import BundleMismatch, NoChampion, NotEnoughData, StorageUnavailable
from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.demo.dataset import write_inbox
from fracture_ml.steps import ingest, monitor, promote, register, score, scoring_run, snapshot, train
from fracture_ml.steps.model_card import write_model_card
from fracture_ml.steps.predict import predict_files
from fracture_ml.steps.report import counts_table, metrics_table, worklist_table
from fracture_ml.steps.worklist import rank_worklist
from fracture_ml.stores.bucket import open_bucket

RECIPE = TrainRecipe(image_size_px=32, epochs=1, batch_size=32).to_json()


def fill_inbox(stores, folder, *, patients: int):
    facts = write_inbox(folder, patients=patients, seed=11)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        stores.bucket.write(f"inbox/drawn/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return facts


def test_an_empty_bucket_is_no_error_and_no_snapshot(stores, settings):
    counts = ingest.ingest_inbox(stores, settings)
    assert counts["listed"] == counts["new"] == 0
    with pytest.raises(NotEnoughData, match="label"):
        snapshot.freeze_snapshot(stores, as_of=datetime.now(UTC))


def test_one_class_only_is_said(stores, settings, tmp_path):
    for number in range(12):
        path = tmp_path / f"{number}.png"
        Image.fromarray(default_rng(number).integers(0, 255, (64, 64), dtype="uint8")).save(path)
        stores.bucket.write(f"inbox/set/fracture/{number}.png", path.read_bytes())
    assert ingest.ingest_inbox(stores, settings)["radiograph"] == 12
    with pytest.raises(NotEnoughData, match="add negative ones"):
        snapshot.freeze_snapshot(stores, as_of=datetime.now(UTC))


def test_fewer_patients_than_folds_is_said(stores, settings, tmp_path):
    rows = ["object_key,patient_key,label"]
    for number in range(16):
        path = tmp_path / f"{number}.png"
        Image.fromarray(default_rng(number).integers(0, 255, (64, 64), dtype="uint8")).save(path)
        stores.bucket.write(f"inbox/few/{number}.png", path.read_bytes())
        rows.append(f"{number}.png,patient {number % 3},{('negative', 'positive')[number % 2]}")
    stores.bucket.write("inbox/few/manifest.csv", "\n".join(rows).encode())
    assert ingest.ingest_inbox(stores, settings)["radiograph"] == 16
    with pytest.raises(NotEnoughData, match="add radiographs of more patients"):
        snapshot.freeze_snapshot(stores, as_of=datetime.now(UTC))


def test_what_was_quarantined_is_tried_again_where_a_changed_setting_admits_it_and_its_history_is_kept(
    stores, settings, tmp_path
):
    for name, side in (("small", 64), ("large", 600)):
        path = tmp_path / f"{name}.png"
        Image.fromarray(default_rng(side).integers(0, 255, (side, side), dtype="uint8")).save(path)
        stores.bucket.write(f"inbox/{name}.png", path.read_bytes())
    stores.bucket.write("inbox/empty.png", b"")
    strict = settings.model_copy(update={"max_pixels": 100_000})
    assert ingest.ingest_inbox(stores, strict)["quarantined"] == 2
    counts = ingest.ingest_inbox(stores, strict, retry_quarantined="too_large")
    assert (counts["retried"], counts["new"], counts["quarantined"]) == (1, 1, 1), "the setting has not changed"
    counts = ingest.ingest_inbox(stores, settings, retry_quarantined="too_large")
    assert (counts["retried"], counts["new"], counts["radiograph"]) == (1, 1, 1)
    counts = ingest.ingest_inbox(stores, settings, retry_quarantined="too_large")
    assert (counts["retried"], counts["new"]) == (0, 0)
    now = stores.radiographs.counts()
    assert (now["received"], now["radiographs"], now["quarantined_by_code"]) == (3, 2, {"empty": 1})
    with stores.engine.connect() as connection:
        kept = connection.exec_driver_sql("SELECT object_key, code FROM fracture.retried_object").all()
    assert kept == [("inbox/large.png", "too_large")] * 2


def test_a_wrong_s3_key_names_the_setting(s3, bucket):
    wrong = open_bucket(
        name=bucket.name, endpoint_url=s3.endpoint_url, region="us-east-1", access_key="nobody", secret_key="wrong"
    )
    with pytest.raises(StorageUnavailable, match="FRACTURE_S3_ACCESS_KEY"):
        list(wrong.list("inbox/"))


def test_the_whole_line_twice_gives_the_same_rows(stores, settings, tmp_path):
    facts = fill_inbox(stores, tmp_path / "drawn", patients=45)
    first = ingest.ingest_inbox(stores, settings)
    assert (
        first["listed"] == first["radiograph"] + first["copy"] + first["labels"] + first["quarantined"] == facts.files
    )
    counts = stores.radiographs.counts()
    assert ingest.ingest_inbox(stores, settings)["new"] == 0
    assert stores.radiographs.counts() == counts

    # Before there is a model: every study is listed, as "AI unavailable".
    plan = scoring_run.plan_scoring(stores)
    assert plan["version"] is None and scoring_run.cut_batches(stores, batch_size=50, **plan) == []
    assert scoring_run.reconcile(stores, **plan)["missing"] == 0
    assert set(rank_worklist(stores, settings)) == {"ranked", "unavailable"}
    with pytest.raises(NoChampion):
        list(predict_files(stores, settings, []))

    as_of = datetime.now(UTC)
    snapshot_id = snapshot.freeze_snapshot(stores, as_of=as_of)
    assert snapshot.freeze_snapshot(stores, as_of=as_of) == snapshot_id
    trained = train.train(stores, settings, snapshot_id=snapshot_id, recipe=RECIPE)
    assert train.train(stores, settings, snapshot_id=snapshot_id, recipe=RECIPE) == trained
    asked = {"snapshot_id": snapshot_id, "study_name": None, "trained": trained}
    version = register.evaluate_and_register(stores, settings, **asked)
    assert register.evaluate_and_register(stores, settings, **asked) == version
    assert stores.snapshots.looks_of(snapshot_id) == 1  # the second call found the version, and looked at nothing
    assert snapshot.freeze_snapshot(stores, as_of=datetime.now(UTC)) is None  # nothing is new

    assert promote.find_undecided(stores) == version
    verdict = promote.judge_challenger(stores, settings, version=version)
    card = write_model_card(stores, version)
    stores.bucket.delete(card)  # as after a kill between the verdict and its card
    assert promote.judge_challenger(stores, settings, version=version) == verdict
    assert b"Not judged yet" not in stores.bucket.read(card)
    for _ in range(2):
        promote.promote(stores, version=version, actor="a test", approved=True)
    assert [event["event"] for event in stores.registry.events_of(version)].count("promoted") == 1

    plan = scoring_run.plan_scoring(stores)
    batches = scoring_run.cut_batches(stores, batch_size=60, **plan)
    assert sum(score.score_batch(stores, settings, **batch)["due"] for batch in batches) == counts["radiographs"]
    assert score.score_batch(stores, settings, **batches[0])["due"] == 0
    outcomes = scoring_run.reconcile(stores, **plan)
    assert outcomes["missing"] == 0 and outcomes["scored"] + outcomes["rejected"] == counts["radiographs"]
    assert rank_worklist(stores, settings)["ranked"] == len(stores.worklist.open_items(limit=10_000))
    assert rank_worklist(stores, settings) == {"ranked": 0}
    reports = [monitor.write_report(stores, settings, at=datetime.now(UTC)) for _ in range(2)]
    assert reports[0] == reports[1] and reports[0]["version"] == version
    for table in (counts_table(counts, outcomes), metrics_table(stores.registry.find_champion())):
        assert table.row_count > 0
    assert worklist_table(stores, limit=5).row_count == 5

    # A bundle that is not what was registered is refused, and no outcome is written.
    champion = stores.registry.find_champion()
    stores.bucket.write(champion.bundle_key, b"something else")
    (tmp_path / "late").mkdir()
    picture = tmp_path / "late" / "late.png"
    Image.fromarray(default_rng(99).integers(0, 255, (80, 80), dtype="uint8")).save(picture)
    stores.bucket.write("inbox/late.png", picture.read_bytes())
    ingest.ingest_inbox(stores, settings)
    plan = scoring_run.plan_scoring(stores)
    with pytest.raises(BundleMismatch):
        score.score_batch(stores, settings, **scoring_run.cut_batches(stores, batch_size=60, **plan)[0])
    assert stores.predictions.reconcile(version)["missing"] == 1
    assert {alert["kind"] for alert in stores.monitoring.open_alerts()} == {"quarantine", "bundle"}
