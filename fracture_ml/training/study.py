"""The tuning study: cross-validated trials of recipes, kept by Optuna in Postgres, so that a night can be resumed.

Every worker that opens the same study pulls trials from it. A trial is one cell of the plan's grid; the cells are taken
in a shuffled order, so that fewer trials than cells are a random part of the grid. A model of the search space (TPE)
has nothing to learn from a dozen trials over some dozens of cells, and may draw a cell twice; this never does.
"""

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from torch import Tensor

from fracture_ml.core.errors import (
    DatabaseUnavailable,
    InvalidRecipe,
    NotEnoughData,
    OutOfTime,
    SchemaMismatch,
    TrainingDiverged,
)
from fracture_ml.core.recipe import StudyPlan, TrainRecipe, hash_of_json
from fracture_ml.training.loop import EpochRecord, on_device_if_it_fits, train

log = logging.getLogger(__name__)

SCHEMA = "optuna"  # of the product's database; made by the migrations, filled by Optuna
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_HEARTBEAT_S = 30
_GRACE_S = 120  # a trial without a heartbeat for so long belongs to a dead worker, and is taken up by another
_RETRIES = 2  # of a trial whose worker died without a word
# One-sided, over folds paired with the best trial's. The smallest p of two folds is 1/4, of three 1/8: at this bound a
# trial that is worse in both of its first two folds stops there. That is bold for a test, and cheap for a choice:
# stopping a trial that is as good as the best loses nothing, and one that is truly better by the standard deviation of
# a fold's difference is worse twice in a row in 2.5 of 100 cases.
_PRUNE_BELOW_P = 0.26


@dataclass(frozen=True, kw_only=True)
class StudyProgress:
    """Where a study stands, after each epoch of each fold."""

    trial: int  # from 0
    fold: int  # from 0
    folds: int
    epoch: int  # from 1
    epochs: int
    ended: int  # trials that ended in this study so far
    best: float | None  # the best mean over the folds so far
    seconds_left: float
    record: EpochRecord

    def __str__(self) -> str:
        best = "none yet" if self.best is None else f"{self.best:.3f}"
        return (
            f"trial {self.trial}, fold {self.fold + 1} of {self.folds}, epoch {self.epoch} of {self.epochs}: "
            f"validation accuracy {self.record.validation_accuracy:.3f}; best so far {best}; "
            f"{self.seconds_left:.0f} s left"
        )


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study found: the winner by the mean of its folds, and every trial's scores."""

    best_recipe: TrainRecipe
    best_value: float | None  # None: no trial ended in time, and best_recipe is the base recipe
    trials: tuple[dict[str, Any], ...]  # number, state, value, fold_scores, seconds, reason, and what was tried


def run_study(
    plan: StudyPlan,
    base_recipe: TrainRecipe,
    pixels: Tensor | np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    rows: np.ndarray,
    device: torch.device,
    *,
    storage_url: str,
    study_name: str,
    initial_state: Mapping[str, Tensor] | None = None,
    on_progress: Callable[[StudyProgress], None] | None = None,
) -> StudyResult:
    """Run the plan's trials until there are enough of them, the grid is exhausted or the time is up.

    A study that exists goes on where it stopped: what ended is not repeated, and of a trial that was cut off the folds
    that ended are kept. The budget counts from this call, and holds inside an epoch. A trial that diverges, or that the
    device has no memory for, counts as ended, without a value. Where the plan asks for fewer folds than there are,
    folds are joined (fold modulo plan.folds).

    Args:    pixels: uint8, (N, S, S), S = plan.image_size_px. labels: 0 or 1, (N,). rows: int, (n,), the rows
             of `pixels` that are the training split; folds: int, (n,), the fold of each.
             storage_url: of the product's Postgres, whose schema `optuna` is used.
    Raises:  InvalidRecipe: the name belongs to a study of other data or another plan. NotEnoughData: a fold is empty.
             DatabaseUnavailable. SchemaMismatch. WeightsUnavailable: `initial_state` is not a ResNet50's.
    """
    deadline = time.monotonic() + plan.time_budget_s
    rows, folds = np.asarray(rows, dtype=np.int64), np.asarray(folds, dtype=np.int64) % plan.folds
    for fold in range(plan.folds):
        if not (folds == fold).any():
            raise NotEnoughData(f"Fold {fold} of {plan.folds} is empty: ask for fewer folds, or add radiographs.")
    base_recipe = base_recipe.with_changes(
        epochs=plan.epochs,
        warmup_epochs=min(base_recipe.warmup_epochs, plan.epochs - 1),
        image_size_px=plan.image_size_px,
        first_size_px=0,
        selection_metric=plan.metric,
    )
    grid = {"batch_size": plan.batch_sizes, "peak_lr": plan.peak_lrs, "scheduler": plan.schedulers}
    sampler = optuna.samplers.GridSampler(grid, seed=base_recipe.seed)
    study = _open_study(storage_url, study_name, sampler, plan, _identity_of(plan, base_recipe, labels, rows, folds))
    pixels = on_device_if_it_fits(pixels, device)
    begun: list[int] = []  # numbers of the trials that this worker began

    def out_of_time() -> bool:
        return time.monotonic() >= deadline

    def score_fold(trial: optuna.Trial, fold: int, recipe: TrainRecipe) -> float:
        def on_epoch(record: EpochRecord) -> None:
            if on_progress is not None:
                on_progress(_progress(study, plan, trial.number, fold, record, deadline))

        trained = train(
            pixels,
            labels,
            rows[folds != fold],
            rows[folds == fold],
            recipe,
            device,
            initial_state=initial_state,
            on_epoch=on_epoch,
            should_stop=out_of_time,
        )
        if out_of_time() and len(trained.history) < recipe.epochs:
            raise OutOfTime("The study's time is up.")
        return trained.best_record.metric(plan.metric)

    def score_trial(trial: optuna.Trial) -> float:
        begun.append(trial.number)
        recipe = base_recipe.with_changes(**{name: trial.suggest_categorical(name, grid[name]) for name in grid})
        scores = dict(study.trials[trial.number].intermediate_values)  # of a trial that was cut off once
        for fold in range(plan.folds):
            if fold in scores:
                continue
            try:
                scores[fold] = score_fold(trial, fold, recipe)
            except (TrainingDiverged, torch.OutOfMemoryError) as error:
                trial.set_user_attr("reason", str(error))
                raise optuna.TrialPruned from None
            except OutOfTime:
                study.stop()
                raise
            trial.report(scores[fold], step=fold)
            if fold < plan.folds - 1 and trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean([scores[fold] for fold in range(plan.folds)]))

    try:
        try:
            if not _is_finished(study, sampler, plan):
                study.optimize(
                    score_trial,
                    timeout=max(deadline - time.monotonic(), 0.0),
                    callbacks=[MaxTrialsCallback(plan.trials, states=_ENDED)],
                    catch=(OutOfTime,),
                )
        finally:
            _queue_again(study, begun)
        return _result(study, base_recipe)
    except optuna.exceptions.StorageInternalError as error:
        raise DatabaseUnavailable("Postgres went away during the study; run it again, and it goes on.") from error


def _open_study(
    storage_url: str, study_name: str, sampler: optuna.samplers.BaseSampler, plan: StudyPlan, identity: str
) -> optuna.Study:
    """The study of this name, made where there is none. Raises: as run_study."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the progress says more, and a trial cut off is no failure
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        retry = RetryHeartbeatStaleTrialCallback(max_retry=_RETRIES, inherit_intermediate_values=True)
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=_PRUNE_BELOW_P) if plan.prune else optuna.pruners.NopPruner()
        try:
            storage = RDBStorage(
                storage_url,
                engine_kwargs={
                    "pool_size": 2,
                    "pool_pre_ping": True,
                    "connect_args": {"options": f"-csearch_path={SCHEMA}"},
                },
                heartbeat_interval=_HEARTBEAT_S,
                grace_period=_GRACE_S,
                heartbeat_stale_trial_callback=retry,
            )
            study = optuna.create_study(
                storage=storage,
                study_name=study_name,
                sampler=sampler,
                pruner=pruner,
                direction="maximize",
                load_if_exists=True,
            )
        except Exception as error:  # SQLAlchemy's and psycopg2's errors, which this room does not know by name
            if "no schema has been selected" in str(error):
                raise SchemaMismatch(f"The database has no schema {SCHEMA!r}: run `fracture migrate`.") from None
            raise DatabaseUnavailable("Postgres cannot be reached for the study; run it again when it can.") from error
    if study.user_attrs.setdefault("identity", identity) != identity:
        raise InvalidRecipe(
            f"The study {study_name!r} was begun with another plan, recipe or data: give it another name."
        )
    study.set_user_attr("identity", identity)
    return study


def _identity_of(plan: StudyPlan, recipe: TrainRecipe, labels: np.ndarray, rows: np.ndarray, folds: np.ndarray) -> str:
    """A hash of all that makes two trials comparable. How many there are, and for how long, may change."""
    compared = {
        name: value for name, value in plan.to_json().items() if name not in ("trials", "prune", "time_budget_s")
    }
    data = np.stack([rows, folds, np.asarray(labels, dtype=np.int64)[rows]])  # (3, n)
    return hash_of_json([compared, recipe.to_json(), data.tolist()])


def _is_finished(study: optuna.Study, sampler: optuna.samplers.GridSampler, plan: StudyPlan) -> bool:
    if len(study.get_trials(deepcopy=False, states=_ENDED)) >= plan.trials:
        return True
    return sampler.is_exhausted(study) and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,))


def _queue_again(study: optuna.Study, begun: list[int]) -> None:
    """Put those trials of this worker that were cut off back into the queue, with the folds that ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        queue = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
    for trial in study.get_trials(states=(TrialState.FAIL,)):
        if trial.number in begun:
            queue(study, trial)


def _progress(
    study: optuna.Study, plan: StudyPlan, trial: int, fold: int, record: EpochRecord, deadline: float
) -> StudyProgress:
    ended = study.get_trials(deepcopy=False, states=_ENDED)
    return StudyProgress(
        trial=trial,
        fold=fold,
        folds=plan.folds,
        epoch=record.epoch,
        epochs=plan.epochs,
        ended=len(ended),
        best=max((other.value for other in ended if other.state is TrialState.COMPLETE), default=None),
        seconds_left=max(deadline - time.monotonic(), 0.0),
        record=record,
    )


def _result(study: optuna.Study, base_recipe: TrainRecipe) -> StudyResult:
    trials = study.get_trials(deepcopy=False)
    table = tuple(
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            **trial.params,
            "value": trial.value,
            "fold_scores": {str(fold): score for fold, score in sorted(trial.intermediate_values.items())},
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            "reason": trial.user_attrs.get("reason"),
        }
        for trial in trials
    )
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if not complete:
        log.warning("No trial of the study %s ended in time: the base recipe is used as it is.", study.study_name)
        return StudyResult(best_recipe=base_recipe, best_value=None, trials=table)
    best = max(complete, key=lambda trial: (trial.value, -trial.number))  # the earlier of equals
    return StudyResult(best_recipe=base_recipe.with_changes(**best.params), best_value=best.value, trials=table)
