"""The night's training, killed again and again: what it ends with is what it would have ended with."""

import logging
import multiprocessing
import random
import time
import uuid
from datetime import UTC, datetime
from multiprocessing.context import ForkServerProcess

import numpy as np
import pytest
import torch

from fracture_ml.core.errors import StorageUnavailable, TrainingDiverged
from fracture_ml.core.recipe import StudyPlan, TrainRecipe
from fracture_ml.data.boxes import WHOLE
from fracture_ml.demo.dataset import write_inbox
from fracture_ml.model.bundle import Bundle
from fracture_ml.steps import choose_recipe, ingest, pixels, snapshot, train, tune
from fracture_ml.steps.context import open_configured_bucket, open_context
from fracture_ml.steps.model_card import study_folder
from fracture_ml.steps.presets import NightlyWork
from fracture_ml.steps.settings import Settings

RECIPE = TrainRecipe(image_size_px=32, epochs=6, batch_size=32).to_json()
KILLS = 5


@pytest.fixture(scope="module")
def facts(database_url, s3, tmp_path_factory) -> dict:
    """What a place decides, for this module alone: the fields of Settings."""
    facts = {
        "database_url": database_url,
        "s3_bucket": f"test-{uuid.uuid4().hex[:12]}",
        "s3_endpoint_url": s3.endpoint_url,
        "s3_access_key": s3.access_key,
        "s3_secret_key": s3.secret_key,
        "site_secret": "a secret for the tests",
        "cache_dir": tmp_path_factory.mktemp("cache"),
        "initial_weights": "none",
        "device": "cpu",
        "checkpoint_seconds": 0,
    }
    open_configured_bucket(Settings(_env_file=None, **facts)).ensure()
    return facts


@pytest.fixture(scope="module")
def snapshot_id(facts, tmp_path_factory) -> str:
    settings = Settings(_env_file=None, **facts)
    stores = open_context(settings)
    folder = tmp_path_factory.mktemp("drawn")
    write_inbox(folder, patients=30, seed=11)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        stores.bucket.write(f"inbox/{path.relative_to(folder).as_posix()}", path.read_bytes())
    ingest.ingest_inbox(stores, settings)
    return snapshot.freeze_snapshot(stores, as_of=datetime.now(UTC))


def train_here(facts: dict, snapshot_id: str) -> None:
    """A whole training task, in the process that this is called in."""
    torch.set_num_threads(1)
    settings = Settings(_env_file=None, **facts)
    train.train(open_context(settings), settings, snapshot_id=snapshot_id, recipe=RECIPE)


def start_training(facts: dict, snapshot_id: str) -> ForkServerProcess:
    """In a process of its own. The server that it is forked from has torch imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fracture_ml.steps.train"])
    process = context.Process(target=train_here, args=(facts, snapshot_id), daemon=True)
    process.start()
    return process


def trained_state(stores, key: str) -> dict[str, torch.Tensor]:
    result = train._find_json(stores, key)
    return Bundle.from_bytes(stores.bucket.read(result["bundle_key"]), expected_sha256=result["bundle_sha256"]).state


def wait_for_checkpoints(stores, process: ForkServerProcess, wanted: int) -> bool:
    """Whether so many checkpoints came before the training ended."""
    seen = {found.etag for found in stores.bucket.list("training/") if found.key.endswith("checkpoint.pt")}
    wanted += len(seen)
    while process.is_alive() and len(seen) < wanted:
        seen |= {found.etag for found in stores.bucket.list("training/") if found.key.endswith("checkpoint.pt")}
        time.sleep(0.02)
    return process.is_alive()


def test_a_training_killed_at_five_random_moments_ends_with_the_same_weights_to_the_bit(facts, snapshot_id):
    stores = open_context(Settings(_env_file=None, **facts))
    unkilled = start_training({**facts, "checkpoint_seconds": 3600}, snapshot_id)
    unkilled.join()
    assert unkilled.exitcode == 0
    (key,) = [found.key for found in stores.bucket.list("training/") if found.key.endswith("trained.json")]
    expected = trained_state(stores, key)
    stores.bucket.delete(key)

    chance = random.Random(3)
    for _ in range(KILLS):
        process = start_training(facts, snapshot_id)
        assert wait_for_checkpoints(stores, process, chance.randint(0, 1)), "it ended before it was killed"
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.join()
        assert process.exitcode == -9
    last = start_training({**facts, "checkpoint_seconds": 3600}, snapshot_id)
    last.join()
    assert last.exitcode == 0

    state = trained_state(stores, key)
    assert state.keys() == expected.keys()
    assert [name for name in state if not torch.equal(state[name], expected[name])] == []
    assert [found.key for found in stores.bucket.list("training/") if found.key.endswith("checkpoint.pt")] == []


def test_a_study_leaves_its_table_and_its_pictures_in_the_bucket(facts, snapshot_id):
    settings = Settings(_env_file=None, **facts)
    stores = open_context(settings)
    plan = StudyPlan(
        batch_sizes=(32,), peak_lrs=(1e-3,), schedulers=("cosine", "step"), folds=2, epochs=1, image_size_px=32
    )
    recipe = TrainRecipe.from_json(RECIPE)
    work = NightlyWork(study=plan, recipe=recipe)
    tuned = tune.tune(stores, settings, snapshot_id=snapshot_id, work=work)
    chosen = choose_recipe.choose_recipe(stores, settings, **tuned)
    winner = TrainRecipe.from_json(chosen["recipe"])
    assert winner.with_changes(scheduler=recipe.scheduler, initial_weights=recipe.initial_weights) == recipe
    folder = study_folder(tuned["study_name"])
    left = {found.key.removeprefix(f"{folder}/") for found in stores.bucket.list(f"{folder}/")}
    assert left >= {"trials.json", "trials.csv", "history.png", "parallel_coordinate.png"}
    assert stores.bucket.read(f"{folder}/trials.csv").decode().count("\n") == 3
    assert tune.tune(stores, settings, snapshot_id=snapshot_id, work=work) == tuned
    # More time and more trials go on with what a night has found: the final training's length is none of its business.
    longer = StudyPlan(**{**plan.to_json(), "time_budget_s": 2 * plan.time_budget_s, "trials": plan.trials + 1})
    again = NightlyWork(study=longer, recipe=recipe.with_changes(epochs=recipe.epochs + 1))
    assert tune.tune(stores, settings, snapshot_id=snapshot_id, work=again)["study_name"] == tuned["study_name"]
    choose_recipe.choose_recipe(stores, settings, **tuned)
    assert stores.bucket.read(f"{folder}/trials.csv").decode().count("\n") == 3


def test_a_training_that_diverged_leaves_no_checkpoint_to_go_on_from(facts, snapshot_id, monkeypatch):
    settings = Settings(_env_file=None, **facts)
    stores = open_context(settings)

    def diverge(*data, keep, **options):
        keep(b"weights that are not finite any more")
        assert [found.key for found in stores.bucket.list("training/") if found.key.endswith("checkpoint.pt")]
        raise TrainingDiverged("The loss is no longer finite.")

    monkeypatch.setattr(train, "train_network", diverge)
    with pytest.raises(TrainingDiverged):
        train.train(stores, settings, snapshot_id=snapshot_id, recipe={**RECIPE, "seed": 77})
    assert [found.key for found in stores.bucket.list("training/") if found.key.endswith("checkpoint.pt")] == []


def test_the_pixels_of_a_snapshot_come_with_the_places_of_its_fractures(facts, snapshot_id):
    settings = Settings(_env_file=None, **facts)
    data = pixels.open_pixels(open_context(settings), settings, snapshot_id=snapshot_id, size_px=64)
    assert data.boxes.shape[::2] == (len(data.labels), 4)
    np.testing.assert_array_equal(data.boxes.any(axis=(1, 2)), data.labels == 1)
    anywhere = (data.boxes == np.array(WHOLE, np.float32)).all(axis=2).any(axis=1)
    undrawn = [bool(member.label) and not member.boxes for member in data.members]
    np.testing.assert_array_equal(anywhere, undrawn)
    assert anywhere.mean() < 0.1  # of nearly every drawn radiograph the place is known


def test_a_full_bucket_costs_the_checkpoint_and_not_the_training(facts, snapshot_id, monkeypatch, caplog):
    settings = Settings(_env_file=None, **facts)
    stores = open_context(settings)
    write = stores.bucket.write

    def refuse_checkpoints(key: str, data: bytes, *media_type: str) -> None:
        if key.endswith("checkpoint.pt"):
            raise StorageUnavailable("Object storage has no space left: make room behind FRACTURE_S3_ENDPOINT_URL.")
        write(key, data, *media_type)

    monkeypatch.setattr(stores.bucket, "write", refuse_checkpoints)
    with caplog.at_level(logging.WARNING):
        recipe = {**RECIPE, "epochs": 1}
        trained = train.train(stores, settings, snapshot_id=snapshot_id, recipe=recipe)
    assert trained["best_epoch"] == 1
    assert "no checkpoint this time, the training goes on: Object storage has no space left" in caplog.text
