"""What a study has found by now: read from Optuna's tables, without torch."""

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from tenacity import Retrying, stop_after_attempt, wait_fixed

from fracture_ml.core.connection import KEPT_ALIVE, TOLD_TO_POSTGRES
from fracture_ml.core.errors import DatabaseUnavailable, SchemaMismatch
from fracture_ml.core.recipe import TrainRecipe

log = logging.getLogger(__name__)

SCHEMA = "optuna"  # of the product's database; made by the migrations, filled by Optuna
CURVE = "metric by epoch of fold "  # and its number: a user attribute of a trial
CUT_OFF = "cut off"  # a user attribute: the number of a trial that the end of the night ended: no fault of its own
RETRIES = 2  # of a trial whose worker died without a word, or that crashed


class _Storage(RDBStorage):
    """Optuna's, whose heart goes on beating when one beat could not be written: Optuna's own thread would end."""

    def record_heartbeat(self, trial_id: int) -> None:
        try:
            super().record_heartbeat(trial_id)
        except optuna.exceptions.StorageInternalError:
            log.warning("A heartbeat of the tuning could not be written; the next one is tried.", exc_info=True)


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study found: the winner by the mean of its folds, and every trial's scores."""

    best_recipe: TrainRecipe
    best_value: float | None  # None: no trial ended in time, and best_recipe is the base recipe
    metric: str  # what the values are
    # number, state, value, fold_scores, fold_curves (the metric by epoch), seconds, reason, and what was tried
    trials: tuple[dict[str, Any], ...]

    @property
    def fold_epochs(self) -> int:
        """Epochs that were trained, over all folds of all trials."""
        return sum(len(curve) for trial in self.trials for curve in trial["fold_curves"].values())


def experimental_allowed() -> warnings.catch_warnings:
    """Meanwhile Optuna does not warn of what it calls experimental."""
    return warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning)


def open_storage(storage_url: str, *, heartbeat_s: int = 30, grace_s: int = 120) -> RDBStorage:
    """Optuna's tables. Raises: SchemaMismatch, DatabaseUnavailable."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the progress says more, and a trial cut off is no failure
    told = TOLD_TO_POSTGRES | {"search_path": SCHEMA}
    postgres = {
        "pool_size": 2,
        "pool_pre_ping": True,
        "connect_args": KEPT_ALIVE | {"options": " ".join(f"-c {name}={value}" for name, value in told.items())},
    }
    with experimental_allowed():
        try:
            # Once more, since of two workers that make the tables at the same moment one fails.
            for attempt in Retrying(stop=stop_after_attempt(2), wait=wait_fixed(0.5), reraise=True):
                with attempt:
                    return _Storage(
                        storage_url,
                        engine_kwargs={} if storage_url.startswith("sqlite:") else postgres,
                        heartbeat_interval=heartbeat_s,
                        grace_period=grace_s,
                        heartbeat_stale_trial_callback=queue_unless_lost_too_often,
                    )
        except Exception as error:  # SQLAlchemy's and psycopg2's errors, which this room does not know by name
            if "no schema has been selected" in str(error):
                raise SchemaMismatch(f"The database has no schema {SCHEMA!r}: run `fracture migrate`.") from None
            if "optuna storage upgrade" in str(error):
                raise SchemaMismatch(
                    "The studies' tables are of an older Optuna: run `optuna storage upgrade --storage "
                    f'"$FRACTURE_DATABASE_URL?options=-csearch_path%3D{SCHEMA}"`, after a back-up.'
                ) from None
            raise DatabaseUnavailable("Postgres cannot be reached for the study; run it again when it can.") from error


def queue_again(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Queue a trial that failed once more, with the folds that ended."""
    with experimental_allowed():
        RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def queue_unless_lost_too_often(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Queue it again, unless it and those that it repeats were lost more than `RETRIES` times.

    A night that ended in the middle of it is no loss.
    """
    by_number = {each.number: each for each in study.get_trials(deepcopy=False)}
    tried = [*(by_number[number] for number in trial.system_attrs.get("retry_history", ())), trial]
    if sum(each.user_attrs.get(CUT_OFF) != each.number for each in tried) <= RETRIES:
        queue_again(study, trial)


def result_of(storage_url: str, study_name: str, base_recipe: TrainRecipe) -> StudyResult:
    """What a study has found by now, whoever worked on it.

    Args:    base_recipe: what the winner's batch size, learning rate and scheduler are put into.
    Raises:  DatabaseUnavailable. SchemaMismatch. KeyError: there is no such study.
    """
    return read_result(optuna.load_study(study_name=study_name, storage=open_storage(storage_url)), base_recipe)


def best_trial(study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """The best trial that ended with a value so far."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)  # the earlier of equals


def read_result(study: optuna.Study, base_recipe: TrainRecipe) -> StudyResult:
    """The winner by now, put into `base_recipe`, and every trial's scores."""
    trials = study.get_trials(deepcopy=False)
    table = tuple(
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            **trial.params,
            "value": trial.value if trial.state is TrialState.COMPLETE else None,  # else it would be the last fold's
            "fold_scores": {str(fold): score for fold, score in sorted(trial.intermediate_values.items())},
            "fold_curves": {
                name.removeprefix(CURVE): curve
                for name, curve in sorted(trial.user_attrs.items())
                if name.startswith(CURVE)
            },
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            "reason": None if trial.state is TrialState.COMPLETE else trial.user_attrs.get("reason"),
        }
        for trial in trials
    )
    metric = study.user_attrs["compared"]["metric"]
    best = best_trial(study)
    if best is None:
        log.warning("No trial of the study %s ended in time: the base recipe is used as it is.", study.study_name)
        return StudyResult(best_recipe=base_recipe, best_value=None, metric=metric, trials=table)
    best_recipe = base_recipe.with_changes(**best.params)
    return StudyResult(best_recipe=best_recipe, best_value=best.value, metric=metric, trials=table)
