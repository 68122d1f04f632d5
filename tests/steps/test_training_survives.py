"""The night's training, killed again and again: what it ends with is what it would have ended with."""

import importlib.metadata
import io
import logging
import multiprocessing
import random
import shutil
import time
import uuid
from datetime import UTC, datetime
from multiprocessing.context import ForkServerProcess

import numpy as np
import pytest
import torch

from fracture_ml.core.errors import Conflict, NotEnoughData, StorageUnavailable, TrainingDiverged
from fracture_ml.core.recipe import StudyPlan, TrainRecipe
from fracture_ml.core.records import Split
from fracture_ml.data.boxes import WHOLE
from fracture_ml.demo.dataset import write_inbox
from fracture_ml.model.bundle import Bundle
from fracture_ml.steps import choose_recipe, ingest, pixels, register, snapshot, train, tune
from fracture_ml.steps.context import open_configured_bucket, open_context
from fracture_ml.steps.keys import study_folder
from fracture_ml.steps.presets import NightlyWork
from fracture_ml.steps.settings import Settings

RECIPE = TrainRecipe(image_size_px=32, epochs=6, batch_size=32).to_json()
KILLS = 5
DIGEST_BYTES = 32  # before a checkpoint's content


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
    """Whether so many checkpoints came before the training ended: one before each step."""
    seen = {found.etag for found in stores.bucket.list("training/") if found.key.endswith("checkpoint.pt")}
    wanted += len(seen)
    while process.is_alive() and len(seen) < wanted:
        seen |= {found.etag for found in stores.bucket.list("training/") if found.key.endswith("checkpoint.pt")}
        time.sleep(0.02)
    return process.is_alive()


def step_of_checkpoint(stores, key: str) -> int:
    """How many steps the kept training has made; 0 where none is kept."""
    checkpoint = stores.bucket.find(key)
    if checkpoint is None:
        return 0
    return torch.load(io.BytesIO(checkpoint[DIGEST_BYTES:]), map_location="cpu", weights_only=True)["step"]


def test_a_training_killed_at_five_random_moments_ends_with_the_same_weights_to_the_bit(facts, snapshot_id):
    stores = open_context(Settings(_env_file=None, **facts))
    unkilled = start_training({**facts, "checkpoint_seconds": 3600}, snapshot_id)
    unkilled.join()
    assert unkilled.exitcode == 0
    (key,) = [found.key for found in stores.bucket.list("training/") if found.key.endswith("trained.json")]
    expected = trained_state(stores, key)
    stores.bucket.delete(key)

    chance = random.Random(3)
    at_steps = []
    for kill in range(KILLS):
        process = start_training(facts, snapshot_id)
        wanted = 2 if kill else 0  # one more step than the last one; the first dies before there is any
        assert wait_for_checkpoints(stores, process, wanted), "it ended before it was killed"
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.join()
        assert process.exitcode == -9
        at_steps.append(step_of_checkpoint(stores, key.replace("trained.json", "checkpoint.pt")))
    assert at_steps[0] < at_steps[1] < at_steps[2] < at_steps[3] < at_steps[4], "each goes on where the last one was"
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
    chosen = choose_recipe.choose_recipe(stores, settings, tuned=[tuned])
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
    choose_recipe.choose_recipe(stores, settings, tuned=[tuned])
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


def test_a_version_names_the_code_and_the_libraries_that_trained_it(facts, snapshot_id, monkeypatch):
    """An update may come between the training and the registration."""
    settings = Settings(_env_file=None, **facts)
    stores = open_context(settings)
    monkeypatch.setattr(train, "code_version", lambda: "9.9.9+before")
    recipe = {**RECIPE, "epochs": 1, "seed": 5}
    trained = train.train(stores, settings, snapshot_id=snapshot_id, recipe=recipe)
    monkeypatch.undo()
    asked = {"snapshot_id": snapshot_id, "study_name": None, "trained": trained}
    version = stores.registry.version_of(register.evaluate_and_register(stores, settings, **asked))
    assert version.code_version == "9.9.9+before"
    assert version.metrics["libraries"]["torch"] == importlib.metadata.version("torch")
    assert register.evaluate_and_register(stores, settings, **asked) == version.version
    again = train.train(stores, settings, snapshot_id=snapshot_id, recipe=recipe)
    other = register.evaluate_and_register(stores, settings, **{**asked, "trained": again})
    assert other != version.version


@pytest.fixture
def gone(facts, snapshot_id):
    """Takes radiographs out of the bucket, and puts them back at the end."""
    stores = open_context(Settings(_env_file=None, **facts))
    taken: dict[str, bytes] = {}

    def take(members) -> None:
        for radiograph in stores.radiographs.stored([member.radiograph_id for member in members]):
            taken[radiograph.object_key] = stores.bucket.read(radiograph.object_key)
            stores.bucket.delete(radiograph.object_key)

    yield take
    for key, data in taken.items():
        stores.bucket.write(key, data)


def test_what_could_not_be_read_is_in_the_card_and_begins_a_study_of_its_own(facts, snapshot_id, gone, monkeypatch):
    settings = Settings(_env_file=None, **facts)
    stores = open_context(settings)
    monkeypatch.setattr(tune, "run_study", lambda *_, **__: None)
    work = NightlyWork(study=StudyPlan(image_size_px=96), recipe=TrainRecipe.from_json(RECIPE))

    def name_of_the_study() -> str:
        return tune.tune(stores, settings, snapshot_id=snapshot_id, work=work)["study_name"]

    whole = name_of_the_study()
    shutil.rmtree(settings.cache_dir)
    members = stores.snapshots.members_of(snapshot_id)
    tested, trained_on = ([m for m in members if m.split == split] for split in (Split.TEST, Split.TRAIN))
    gone(tested[:2])
    assert name_of_the_study() == whole
    shutil.rmtree(settings.cache_dir)
    gone(trained_on[:1])
    assert name_of_the_study().startswith(f"{whole}-without-")

    shutil.rmtree(settings.cache_dir)
    trained = train.train(stores, settings, snapshot_id=snapshot_id, recipe={**RECIPE, "epochs": 1, "seed": 6})
    version = register.evaluate_and_register(
        stores, settings, snapshot_id=snapshot_id, study_name=None, trained=trained
    )
    folder = trained["bundle_key"].rsplit("/", 1)[0]
    card = stores.bucket.read(f"{folder}/model_card.md").decode()
    assert stores.registry.version_of(version).metrics["n"] == len(tested) - 2
    assert "Of the test split 2 could not be read and were not used (missing: 2)." in card
    assert "Of the train split 1 could not be read and were not used (missing: 1)." in card

    shutil.rmtree(settings.cache_dir)
    gone(trained_on[1 : len(members) // 9])
    with pytest.raises(NotEnoughData, match=r"radiographs cannot be read \(missing: \d+\): restore them"):
        train.train(stores, settings, snapshot_id=snapshot_id, recipe={**RECIPE, "seed": 7})


def test_a_freeze_during_which_groups_change_is_done_again(facts, snapshot_id, monkeypatch):
    stores = open_context(Settings(_env_file=None, **facts))
    save, failures = stores.snapshots.save, [Conflict("New labels changed the groups."), None]

    def save_at_the_second_attempt(*asked, **named) -> None:
        if failure := failures.pop(0):
            raise failure
        save(*asked, **named)

    monkeypatch.setattr(stores.snapshots, "save", save_at_the_second_attempt)
    assert snapshot.freeze_snapshot(stores, as_of=datetime.now(UTC), force=True) == snapshot_id
    assert failures == []


def test_a_vault_is_kept_apart_from_all_other_splits(facts, snapshot_id):
    settings = Settings(_env_file=None, **facts, vault_share=0.2)
    stores = open_context(settings)
    plan = snapshot.split_plan(settings)
    with_vault = snapshot.freeze_snapshot(stores, as_of=datetime.now(UTC), force=True, plan=plan)
    sides, before = (
        {member.sha256: member.split for member in stores.snapshots.members_of(id)} for id in (with_vault, snapshot_id)
    )
    assert set(sides.values()) == set(Split)
    assert all(before[sha256] is Split.TRAIN for sha256, split in sides.items() if split is Split.VAULT)


def test_workers_that_tuned_two_studies_are_said_and_the_one_that_got_further_counts(facts, snapshot_id, caplog):
    settings = Settings(_env_file=None, **facts)
    stores = open_context(settings)
    plan = StudyPlan(batch_sizes=(32,), peak_lrs=(1e-3,), folds=2, epochs=1, image_size_px=32, prune=False)
    tuned = []
    for trials, seed in ((1, 0), (2, 1)):
        work = NightlyWork(
            study=StudyPlan(**{**plan.to_json(), "trials": trials}),
            recipe=TrainRecipe.from_json(RECIPE | {"seed": seed}),
        )
        tuned.append(tune.tune(stores, settings, snapshot_id=snapshot_id, work=work))
    chosen = choose_recipe.choose_recipe(stores, settings, tuned=tuned)
    assert chosen["study_name"] == tuned[1]["study_name"] != tuned[0]["study_name"]
    assert "did not begin with the same weights" in caplog.text
