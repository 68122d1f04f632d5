"""The tuning study, over a real Postgres: it ends on time, goes on where it stopped, and repeats nothing."""

import csv
import io
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from fracture_ml.core.connection import TOLD_TO_POSTGRES
from fracture_ml.core.errors import (
    DatabaseUnavailable,
    InvalidRecipe,
    NotEnoughData,
    OutOfTime,
    SchemaMismatch,
    TrainingDiverged,
)
from fracture_ml.core.recipe import StudyPlan, TrainRecipe
from fracture_ml.training import study as study_module
from fracture_ml.training.loop import TrainedNetwork
from fracture_ml.training.state import EpochRecord
from fracture_ml.training.study import StudyProgress, run_study
from fracture_ml.training.study_report import draw_study, trials_csv
from fracture_ml.training.study_result import StudyResult, open_storage, result_of

CPU = torch.device("cpu")
BASE = TrainRecipe(image_size_px=32, batch_size=32)
PLAN = StudyPlan(
    batch_sizes=(16, 32), peak_lrs=(1e-3, 1e-4), schedulers=("cosine",), trials=4, folds=2, epochs=1, image_size_px=32
)


class Night:
    """Runs studies on the drawn pixels, with trainings that are looked up instead of computed where a test says so."""

    def __init__(self, drawn, storage_url: str) -> None:
        self.pixels, self.labels, self.boxes = drawn
        self.rows = np.arange(48)
        self.folds = np.arange(48) // 2 % 4
        self.storage_url = storage_url

    def run(self, plan: StudyPlan, name: str, *, base: TrainRecipe = BASE, on_progress=None, **options) -> StudyResult:
        return run_study(
            plan, base, self.pixels, self.labels, self.boxes, self.folds, self.rows, CPU,
            storage_url=self.storage_url, study_name=name, on_progress=on_progress, **options,
        )  # fmt: skip


@pytest.fixture
def night(drawn, storage_url) -> Night:
    return Night(drawn, storage_url)


@pytest.fixture
def trainings(monkeypatch) -> list[tuple[int, float, int]]:
    """What was trained: (batch size, lr, images validated on). The accuracy is decided by the recipe."""
    done: list[tuple[int, float, int]] = []

    def train(pixels, labels, boxes, train_rows, validation_rows, recipe, device, *, on_epoch, **options):
        assert not set(train_rows) & set(validation_rows)
        done.append((recipe.batch_size, recipe.peak_lr, len(validation_rows)))
        record = EpochRecord(
            epoch=1, train_loss=1.0, train_accuracy=0.5, validation_loss=1.0, validation_balanced_accuracy=0.5,
            validation_accuracy=0.5 + recipe.peak_lr * 100 + recipe.batch_size / 1000,
            validation_auroc=0.5, lr=recipe.peak_lr, seconds=0.0,
        )  # fmt: skip
        on_epoch(record)
        return TrainedNetwork(state={}, best_epoch=1, history=(record,), spec=None)

    monkeypatch.setattr(study_module, "train", train)
    return done


def test_a_dead_workers_turn_ends_with_its_connection_as_everybody_elses(night):
    with open_storage(night.storage_url).engine.connect() as connection:
        kept = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in TOLD_TO_POSTGRES}
    assert kept == {  # in Postgres's own words
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "60000",
        "lock_timeout": "5min",
    }


def test_a_real_study_trains_every_fold_and_says_where_it_stands(night):
    told: list[StudyProgress] = []
    plan = StudyPlan(**{**PLAN.to_json(), "trials": 1})
    result = night.run(plan, "real", on_progress=told.append)
    (trial,) = result.trials
    assert trial["state"] == "complete" and set(trial["fold_scores"]) == {"0", "1"}
    assert result.best_value == pytest.approx(np.mean(list(trial["fold_scores"].values())))
    assert result.best_recipe.batch_size == trial["batch_size"] and result.best_recipe.peak_lr == trial["peak_lr"]
    assert [(progress.fold, progress.epoch) for progress in told] == [(0, 1), (1, 1)]
    assert "fold 2 of 2" in str(told[1])


def test_the_whole_grid_is_tried_once_and_the_best_mean_wins(night, trainings):
    plan = StudyPlan(**{**PLAN.to_json(), "prune": False, "trials": 27})
    result = night.run(plan, "grid")
    assert len(trainings) == 4 * 2
    assert {(batch, lr) for batch, lr, _ in trainings} == {(16, 1e-3), (16, 1e-4), (32, 1e-3), (32, 1e-4)}
    assert (result.best_recipe.batch_size, result.best_recipe.peak_lr) == (32, 1e-3)
    assert result.best_value == pytest.approx(0.632)
    assert night.run(plan, "grid") == result
    assert len(trainings) == 8


def test_more_trials_go_on_with_what_was_not_tried(night, trainings):
    plans = [StudyPlan(**{**PLAN.to_json(), "prune": False, "trials": trials}) for trials in (1, 3)]
    night.run(plans[0], "more")
    assert len(trainings) == 2
    assert len(night.run(plans[1], "more").trials) == 3
    assert len(trainings) == 6 and len(set(trainings)) == 3


def test_workers_of_one_study_try_every_recipe_once(night, trainings):
    plan = StudyPlan(
        batch_sizes=(8, 16, 24, 32), peak_lrs=(1e-3, 1e-4, 1e-5), schedulers=("cosine", "step"), trials=27, folds=2,
        epochs=1, image_size_px=32, prune=False,
    )  # fmt: skip
    with ThreadPoolExecutor(4) as workers:
        results = list(workers.map(lambda _: night.run(plan, "shared"), range(4)))
    whole = result_of(night.storage_url, "shared", BASE)
    tried = Counter((trial["batch_size"], trial["peak_lr"], trial["scheduler"]) for trial in whole.trials)
    assert len(tried) == 24 and set(tried.values()) == {1}
    assert {trial["state"] for trial in whole.trials} == {"complete"}
    assert whole.best_recipe.batch_size == 32 and whole.best_recipe.peak_lr == 1e-3
    assert all(result.best_recipe.batch_size == 32 for result in results)  # none ended before the last trial did


def test_workers_stop_at_the_number_of_trials_together(night, trainings):
    plan = StudyPlan(**{**PLAN.to_json(), "peak_lrs": (1e-3, 1e-4, 1e-5), "prune": False, "trials": 4})
    with ThreadPoolExecutor(3) as workers:
        list(workers.map(lambda _: night.run(plan, "enough"), range(3)))
    assert len(result_of(night.storage_url, "enough", BASE).trials) == 4


def test_a_worker_that_died_while_it_drew_a_trial_costs_nothing(night, trainings):
    plan = StudyPlan(**{**PLAN.to_json(), "prune": False, "trials": 27})
    night.run(StudyPlan(**{**plan.to_json(), "trials": 1}), "half drawn")
    storage = open_storage(night.storage_url)
    optuna.load_study(study_name="half drawn", storage=storage).ask()  # and no heartbeat ever
    result = night.run(plan, "half drawn")
    states = Counter(trial["state"] for trial in result.trials)
    assert states == {"complete": 4, "fail": 1}
    assert len(set(trainings)) == 4


def test_a_hopeless_trial_stops_after_two_folds(night, trainings):
    plan = StudyPlan(**{**PLAN.to_json(), "folds": 4})
    result = night.run(plan, "prune")
    states = {trial["state"]: len(trial["fold_scores"]) for trial in result.trials}
    assert states == {"complete": 4, "pruned": 2}
    assert len(trainings) < 4 * 4
    assert {trial["state"] for trial in result.trials if trial["value"] is None} == {"pruned"}  # not its last fold's


def test_a_night_ends_on_time_inside_a_fold_and_the_next_one_finishes_its_trial(night, monkeypatch):
    late_s = 0.0
    monkeypatch.setattr(study_module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late_s))
    told: list[tuple[int, int, int]] = []  # trial, fold, epoch

    def until_the_second_fold(progress: StudyProgress) -> None:
        nonlocal late_s
        told.append((progress.trial, progress.fold, progress.epoch))
        if progress.fold == 1:
            late_s = 3600.0

    plan = StudyPlan(**{**PLAN.to_json(), "trials": 1, "epochs": 2, "time_budget_s": 600})
    first = night.run(plan, "on time", on_progress=until_the_second_fold)
    assert told == [(0, 0, 1), (0, 0, 2), (0, 1, 1)]
    assert first.best_value is None and first.best_recipe.batch_size == BASE.batch_size
    assert [trial["state"] for trial in first.trials] == ["fail", "waiting"]
    assert set(first.trials[1]["fold_scores"]) == {"0"}
    told.clear()
    late_s = 0.0
    second = night.run(plan, "on time", on_progress=lambda p: told.append((p.trial, p.fold, p.epoch)))
    assert told == [(1, 1, 1), (1, 1, 2)]
    assert second.trials[1]["state"] == "complete"
    assert second.trials[1]["fold_scores"]["0"] == first.trials[1]["fold_scores"]["0"]


def test_a_worker_that_fails_leaves_its_trial_to_the_next_one(night, trainings, monkeypatch):
    def fail(progress: StudyProgress) -> None:
        if progress.fold == 1:
            raise RuntimeError("killed")

    plan = StudyPlan(**{**PLAN.to_json(), "prune": False, "trials": 1})
    with pytest.raises(RuntimeError, match="killed"):
        night.run(plan, "killed", on_progress=fail)
    result = night.run(plan, "killed")
    assert result.best_value is not None
    assert len(trainings) == 3  # the first fold was kept


def test_a_recipe_that_crashes_whenever_it_is_tried_is_given_up_after_three_times(night, trainings, monkeypatch):
    working = study_module.train

    def train(pixels, labels, boxes, train_rows, validation_rows, recipe, *rest, **options):
        if (recipe.batch_size, recipe.peak_lr) == (BASE.batch_size, BASE.peak_lr):  # the first that a study tries
            raise RuntimeError("no kernel for this size")
        return working(pixels, labels, boxes, train_rows, validation_rows, recipe, *rest, **options)

    monkeypatch.setattr(study_module, "train", train)
    plan = StudyPlan(**{**PLAN.to_json(), "prune": False})
    for _ in range(3):
        with pytest.raises(RuntimeError, match="no kernel"):
            night.run(plan, "crashing")
    result = night.run(plan, "crashing")
    states = Counter((trial["state"], trial["reason"]) for trial in result.trials)
    assert states == {("fail", "crashed: RuntimeError"): 3, ("complete", None): 3}


def test_a_heartbeat_that_cannot_be_written_is_not_the_last(night, trainings, monkeypatch):
    beats = []
    beat = RDBStorage.record_heartbeat

    def first_fails(storage, trial_id):
        beats.append(trial_id)
        if len(beats) == 1:
            raise optuna.exceptions.StorageInternalError("the database is away")
        beat(storage, trial_id)

    def until_the_heart_beats_again(progress: StudyProgress) -> None:
        end = time.monotonic() + 30
        while len(beats) < 3 and time.monotonic() < end:
            time.sleep(0.05)

    monkeypatch.setattr(RDBStorage, "record_heartbeat", first_fails)
    plan = StudyPlan(**{**PLAN.to_json(), "trials": 1})
    assert night.run(plan, "heart", on_progress=until_the_heart_beats_again, heartbeat_s=1).best_value is not None
    assert len(beats) >= 3


@pytest.mark.parametrize("fold", [0, 1], ids=["in its first fold", "in its second fold"])
def test_a_worker_whose_silent_trial_was_given_away_goes_on_with_what_is_left(night, trainings, fold):
    plan = StudyPlan(**{**PLAN.to_json(), "prune": False})
    given_away = []

    def give_away(progress: StudyProgress) -> None:
        if progress.fold != fold or given_away:
            return
        given_away.append(progress.trial)
        storage = open_storage(night.storage_url)
        study = optuna.load_study(study_name=f"silent {fold}", storage=storage)
        frozen = study.trials[progress.trial]
        storage.set_trial_state_values(frozen._trial_id, state=TrialState.FAIL)  # as fail_stale_trials does
        storage.get_heartbeat_stale_trial_callback()(study, frozen)

    result = night.run(plan, f"silent {fold}", on_progress=give_away)
    states = Counter(trial["state"] for trial in result.trials)
    assert states == {"complete": 4, "fail": 1}
    assert result.trials[given_away[0]]["state"] == "fail"


def test_a_trial_that_diverges_is_told_with_its_reason_and_not_repeated(night, trainings, monkeypatch):
    working = study_module.train

    def train(pixels, labels, boxes, train_rows, validation_rows, recipe, *rest, **options):
        if recipe.peak_lr == 1e-3:
            raise TrainingDiverged("The loss is no longer finite")
        return working(pixels, labels, boxes, train_rows, validation_rows, recipe, *rest, **options)

    monkeypatch.setattr(study_module, "train", train)
    result = night.run(StudyPlan(**{**PLAN.to_json(), "prune": False}), "diverging")
    assert result.best_recipe.peak_lr == 1e-4
    assert [trial["reason"] for trial in result.trials if trial["state"] == "pruned"] == [
        "The loss is no longer finite"
    ] * 2


def test_a_hopeless_fold_stops_inside_and_the_table_tells_every_epoch(night, monkeypatch):
    """The best recipe is at 1.0 from its second epoch on, every other one guesses."""
    epochs_of = []

    def train(pixels, labels, boxes, train_rows, validation_rows, recipe, device, *, on_epoch, **options):
        history = []
        for epoch in range(1, recipe.epochs + 1):
            value = 0.5 if recipe.peak_lr < BASE.peak_lr or epoch == 1 else 1.0
            history.append(
                EpochRecord(
                    epoch=epoch, train_loss=1.0, train_accuracy=0.5, validation_loss=1.0, validation_accuracy=value,
                    validation_balanced_accuracy=value, validation_auroc=value, lr=recipe.peak_lr, seconds=0.0,
                )
            )  # fmt: skip
            epochs_of.append(recipe.peak_lr)
            on_epoch(history[-1])
        return TrainedNetwork(state={}, best_epoch=recipe.epochs, history=tuple(history), spec=None)

    monkeypatch.setattr(study_module, "train", train)
    plan = StudyPlan(**{**PLAN.to_json(), "batch_sizes": (32,), "epochs": 6, "metric": "auroc"})
    result = night.run(plan, "inside")
    assert [trial["state"] for trial in result.trials] == ["complete", "pruned"]
    assert result.trials[0]["peak_lr"] == BASE.peak_lr  # the base recipe's cell comes first
    assert result.trials[1]["fold_curves"] == {"0": [0.5, 0.5]}
    assert result.trials[1]["reason"] == "left behind in fold 1 after epoch 2"
    assert result.fold_epochs == len(epochs_of) == 2 * 6 + 2
    table = list(csv.DictReader(io.StringIO(trials_csv(result.trials))))
    assert [(row["fold_1_epochs"], row["fold_2_epochs"], row["fold_1_score"]) for row in table] == [
        ("6", "6", "1.0"),
        ("2", "0", ""),
    ]


def test_a_new_study_begins_with_what_won_the_newest_earlier_one_and_draws_no_cell_twice(night, trainings):
    plan = StudyPlan(**{**PLAN.to_json(), "prune": False, "epochs": 3, "trials": 27})
    first = night.run(plan, "last night", base=BASE.with_changes(batch_size=16, peak_lr=1e-4))
    assert (first.trials[0]["batch_size"], first.trials[0]["peak_lr"]) == (16, 1e-4)
    night.run(StudyPlan(**{**plan.to_json(), "epochs": 2}), "another plan", base=BASE.with_changes(batch_size=16))
    trainings.clear()
    second = night.run(plan, "tonight", base=BASE.with_changes(batch_size=16, peak_lr=1e-4, seed=5))
    assert (first.best_recipe.batch_size, first.best_recipe.peak_lr) == (32, 1e-3)
    assert (second.trials[0]["batch_size"], second.trials[0]["peak_lr"]) == (32, 1e-3)
    assert len(second.trials) == 4 and len(trainings) == 8 and len(set(trainings)) == 4


def test_a_fold_that_lost_a_class_is_said_and_judges_no_trial(night, trainings, caplog):
    night.folds = np.where(np.arange(48) % 4 == 0, 0, 1 + np.arange(48) // 4 % 2)  # no positive in fold 0
    plan = StudyPlan(**{**PLAN.to_json(), "folds": 3, "trials": 1})
    (trial,) = night.run(plan, "lost class").trials
    assert set(trial["fold_scores"]) == {"1", "2"} and trial["state"] == "complete"
    assert "Fold 0 of 3 has no positive radiograph" in caplog.text


def test_a_study_is_drawn_in_three_pictures(night, trainings):
    night.run(StudyPlan(**{**PLAN.to_json(), "prune": False}), "drawn")
    pictures = draw_study(night.storage_url, "drawn")
    assert set(pictures) == {"history", "parallel_coordinate", "importances"}
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())


def test_a_study_of_other_data_or_another_plan_is_not_continued(night, trainings):
    night.run(PLAN, "mine")
    with pytest.raises(InvalidRecipe, match="begun with another"):
        night.run(StudyPlan(**{**PLAN.to_json(), "epochs": 2}), "mine")
    drawn = night.boxes
    night.boxes = drawn / 2
    with pytest.raises(InvalidRecipe, match="begun with another"):
        night.run(PLAN, "mine")
    night.boxes, night.labels = drawn, 1 - night.labels
    with pytest.raises(InvalidRecipe, match="begun with another"):
        night.run(PLAN, "mine")


def test_what_a_study_cannot_do_without_is_said_in_a_sentence(night, trainings, create_database):
    night.folds = np.zeros(48, dtype=int)
    with pytest.raises(NotEnoughData, match="Fold 1 of 2 is empty"):
        night.run(PLAN, "one fold")
    night.folds = np.arange(48) % 2  # the classes take turns as well
    with pytest.raises(NotEnoughData, match="Of 2 folds 0 have both classes"):
        night.run(PLAN, "no class")
    night.folds = np.arange(48) // 2 % 2
    night.storage_url = create_database()
    with pytest.raises(SchemaMismatch, match="fracture migrate"):
        night.run(PLAN, "no schema")
    night.storage_url = "postgresql+psycopg2://nobody@127.0.0.1:1/nothing"
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        night.run(PLAN, "no server")


def one_trial_of(work_left):
    """A worker that asks once: its night ends with the first trial."""
    asked = iter([work_left])
    return lambda *args: found(*args) if (found := next(asked, None)) else None


def test_nights_that_ended_inside_a_trial_do_not_count_as_its_crashes(night, trainings, monkeypatch):
    working = study_module.train
    plan = StudyPlan(**{**PLAN.to_json(), "prune": False, "trials": 1})

    def end_with(error: Exception):
        def train(*_, **__):
            raise error

        return train

    for _ in range(3):
        monkeypatch.setattr(study_module, "train", end_with(OutOfTime("The study's time is up.")))
        with monkeypatch.context() as once:
            once.setattr(study_module, "_work_left", one_trial_of(study_module._work_left))
            night.run(plan, "short nights")
    monkeypatch.setattr(study_module, "train", end_with(RuntimeError("once")))
    with pytest.raises(RuntimeError, match="once"):
        night.run(plan, "short nights")
    monkeypatch.setattr(study_module, "train", working)
    result = night.run(plan, "short nights")
    assert Counter(trial["state"] for trial in result.trials) == {"fail": 4, "complete": 1}


def test_progress_tells_what_the_study_compares(night):
    told: list[str] = []
    plan = StudyPlan(**{**PLAN.to_json(), "trials": 1, "metric": "auroc"})
    night.run(
        plan, "told", on_progress=lambda progress: told.append(f"{progress} {progress.record.validation_auroc:.3f}")
    )
    sentence, value = told[-1].rsplit(" ", 1)
    assert f"validation auroc {value}; best mean of the folds so far" in sentence
