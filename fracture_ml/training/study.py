"""The tuning study: cross-validated trials of recipes, kept by Optuna in Postgres, so that a night can be resumed.

Every worker that opens the same study pulls trials from it. A trial is one cell of the plan's grid. The first one is
the winner of the newest earlier study with the same plan, else the base recipe's own cell, so that what follows is
compared with something good; the others come in a shuffled order, and no cell is given to two workers. A model of the
search space (TPE) has nothing to learn from a dozen trials over some dozens of cells, and may draw a cell twice. Where
others hold all that is left, a worker waits: should one of them die, its trial is taken up.

A trial stops inside a fold where it is left behind, after a fold where its mean is behind (pruning.py says what that
risks), and from its second fold on by Wilcoxon's test.
"""

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Any

import numpy as np
import optuna
import torch
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from torch import Tensor

from fracture_ml.core.errors import (
    DatabaseUnavailable,
    InvalidRecipe,
    NotEnoughData,
    OutOfMemory,
    OutOfTime,
    TrainingDiverged,
)
from fracture_ml.core.recipe import StudyPlan, TrainRecipe, hash_of_json
from fracture_ml.training.loop import on_device_if_it_fits, train
from fracture_ml.training.pruning import is_behind, is_left_behind
from fracture_ml.training.state import EpochRecord
from fracture_ml.training.study_result import (
    CURVE,
    CUT_OFF,
    StudyResult,
    best_trial,
    experimental_allowed,
    open_storage,
    queue_again,
    queue_unless_lost_too_often,
    read_result,
)

log = logging.getLogger(__name__)

_FORMAT = 2  # of a study's identity, and so part of its name
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_CUT_OFF = (OutOfTime, optuna.exceptions.StorageInternalError)  # a trial that ends so is whole, and goes on later
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
    metric: str  # what the study compares
    record: EpochRecord

    def __str__(self) -> str:
        best = "none yet" if self.best is None else f"{self.best:.3f}"
        return (
            f"trial {self.trial}, fold {self.fold + 1} of {self.folds}, epoch {self.epoch} of {self.epochs}: "
            f"validation {self.metric} {self.record.metric(self.metric):.3f}; best mean of the folds so far {best}; "
            f"{self.seconds_left:.0f} s left"
        )


def run_study(
    plan: StudyPlan,
    base_recipe: TrainRecipe,
    pixels: Tensor | np.ndarray,
    labels: np.ndarray,
    boxes: np.ndarray,
    folds: np.ndarray,
    rows: np.ndarray,
    device: torch.device,
    *,
    storage_url: str,
    study_name: str,
    initial_state: Mapping[str, Tensor] | None = None,
    on_progress: Callable[[StudyProgress], None] | None = None,
    heartbeat_s: int = 30,
    grace_s: int = 120,
) -> StudyResult:
    """Run the plan's trials until there are enough of them, the grid is exhausted or the time is up.

    A study that exists goes on where it stopped: what ended is not repeated, and of a trial that was cut off the folds
    that ended are kept. The budget counts from this call, and holds inside an epoch. A trial that diverges, or that the
    device has no memory for, counts as ended, without a value. Where the plan asks for fewer folds than there are,
    folds are joined (fold modulo plan.folds). A fold without one of the classes judges nothing: it is trained on alone.

    Args:    pixels: uint8, (N, S, S), S = plan.image_size_px. labels: 0 or 1, (N,). boxes: float32,
             (N, K, 4), the fractures' places, as data/boxes.py makes them. rows: int, (n,), the rows of `pixels` that
             are the training split; folds: int, (n,), the fold of each.
             storage_url: of the product's Postgres, whose schema `optuna` is used; or of an SQLite file.
             heartbeat_s, grace_s: a trial without a heartbeat for `grace_s` belongs to a dead worker: the next worker
             that begins a trial takes it up, with the folds that ended.
    Raises:  InvalidRecipe: the name belongs to a study of other data or another plan. NotEnoughData: a fold is empty,
             or fewer than two have both classes. WeightsUnavailable: `initial_state` is not a ResNet50's.
             DatabaseUnavailable. SchemaMismatch.
    """
    deadline = time.monotonic() + plan.time_budget_s
    rows, folds = np.asarray(rows, dtype=np.int64), np.asarray(folds, dtype=np.int64) % plan.folds
    judged = _folds_to_judge_by(labels[rows], folds, plan.folds)
    base_recipe = _studied(plan, base_recipe)
    storage = open_storage(storage_url, heartbeat_s=heartbeat_s, grace_s=grace_s)
    identity = _identity_of(plan, base_recipe, labels, boxes, rows, folds)
    study = _open_study(storage, study_name, plan, base_recipe, identity)
    tuner = _Tuner(
        study=study,
        plan=plan,
        base_recipe=base_recipe,
        grid=_grid_of(plan),
        pixels=on_device_if_it_fits(pixels, device),
        labels=labels,
        boxes=boxes,
        folds=folds,
        rows=rows,
        judged=judged,
        device=device,
        initial_state=initial_state,
        on_progress=on_progress,
        deadline=deadline,
        grace_s=grace_s,
    )
    try:
        try:
            while not tuner.is_out_of_time():
                with ExitStack() as turn:
                    turn.enter_context(_alone(storage))
                    _give_up_the_dead(storage, study, tuner.grid)
                    work = _work_left(study, plan)
                    if work is _Work.OPEN:
                        _queue_a_cell(study, plan, base_recipe.seed)
                        tuner.run_next_trial(turn)
                if work is None:
                    break
                if work is _Work.HELD_BY_OTHERS:
                    time.sleep(min(heartbeat_s, tuner.seconds_left()))
        finally:
            tuner.queue_again_what_was_cut_off()
        return read_result(study, base_recipe)
    except optuna.exceptions.StorageInternalError as error:
        raise DatabaseUnavailable("Postgres went away during the study; run it again, and it goes on.") from error


@dataclass(frozen=True, kw_only=True)
class _Tuner:
    """One worker of a study: draws trials, one at a time, and scores each by its folds. The data are as run_study's."""

    study: optuna.Study
    plan: StudyPlan
    base_recipe: TrainRecipe
    grid: Mapping[str, tuple]
    pixels: Tensor | np.ndarray  # (N, S, S)
    labels: np.ndarray  # (N,)
    boxes: np.ndarray  # (N, K, 4)
    folds: np.ndarray  # (n,), of each row
    rows: np.ndarray  # (n,)
    judged: Sequence[int]  # the folds that have both classes
    device: torch.device
    initial_state: Mapping[str, Tensor] | None
    on_progress: Callable[[StudyProgress], None] | None
    deadline: float  # on the monotonic clock
    grace_s: int
    begun: list[int] = field(default_factory=list)  # numbers of the trials that this worker began
    crashed: list[int] = field(default_factory=list)  # those of them that an error of their own ended

    def is_out_of_time(self) -> bool:
        return time.monotonic() >= self.deadline

    def seconds_left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.0)

    def run_next_trial(self, turn: ExitStack) -> None:
        """Draw a trial while it is this worker's turn, which ends then, and score it."""
        try:
            self.study.optimize(partial(self._score_trial, turn), n_trials=1, catch=(OutOfTime,))
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):  # the second one at its last word
            if self.crashed:
                raise
            silent = self.begun.pop()
            log.warning("Trial %d was silent for %d s and belongs to another worker now.", silent, self.grace_s)

    def queue_again_what_was_cut_off(self) -> None:
        """Put those trials of this worker that were cut off back into the queue, with the folds that ended.

        One that crashes whenever it is tried is given up after `RETRIES` times.
        """
        for trial in self.study.get_trials(states=(TrialState.FAIL,)):
            if trial.number in self.crashed:
                queue_unless_lost_too_often(self.study, trial)
            elif trial.number in self.begun:
                queue_again(self.study, trial)

    def _score_trial(self, turn: ExitStack, trial: optuna.Trial) -> float:
        self.begun.append(trial.number)
        try:
            return self._mean_of_folds(turn, trial)
        except OutOfTime:
            trial.set_user_attr(CUT_OFF, trial.number)
            raise
        except (*_CUT_OFF, optuna.TrialPruned, optuna.exceptions.UpdateFinishedTrialError):
            raise
        except Exception as error:
            self.crashed.append(trial.number)
            trial.set_user_attr("reason", f"crashed: {type(error).__name__}")
            raise

    def _mean_of_folds(self, turn: ExitStack, trial: optuna.Trial) -> float:
        cell = {name: trial.suggest_categorical(name, values) for name, values in self.grid.items()}
        recipe = self.base_recipe.with_changes(**cell)
        turn.close()  # it is drawn: others may
        scores = dict(self.study.trials[trial.number].intermediate_values)  # of a trial that was cut off once
        for fold in self.judged:
            if fold in scores:
                continue
            try:
                scores[fold] = self._score_fold(trial, fold, recipe)
            except (TrainingDiverged, OutOfMemory) as error:
                trial.set_user_attr("reason", str(error))
                raise optuna.TrialPruned from None
            trial.report(scores[fold], step=fold)
            if self.plan.prune and fold != self.judged[-1] and self._is_hopeless(trial, scores):
                trial.set_user_attr("reason", f"behind the best trial over {len(scores)} of {len(self.judged)} folds")
                raise optuna.TrialPruned
        return float(np.mean([scores[fold] for fold in self.judged]))

    def _score_fold(self, trial: optuna.Trial, fold: int, recipe: TrainRecipe) -> float:
        """The metric of a network that is trained on the other folds. Raises: optuna.TrialPruned, OutOfTime."""
        best = best_trial(self.study) if self.plan.prune else None
        best_curve = [] if best is None else best.user_attrs.get(f"{CURVE}{fold}", [])
        own: list[float] = []

        def on_epoch(record: EpochRecord) -> None:
            own.append(record.metric(self.plan.metric))
            trial.set_user_attr(f"{CURVE}{fold}", own)
            if self.on_progress is not None:
                self.on_progress(self._progress(trial.number, fold, record))
            if is_left_behind(
                self.plan.metric,
                own,
                best_curve,
                epochs=recipe.epochs,
                warmup_epochs=recipe.warmup_epochs,
                **self._images_in([fold]),
            ):
                trial.set_user_attr("reason", f"left behind in fold {fold + 1} after epoch {record.epoch}")
                raise optuna.TrialPruned

        trained = train(
            self.pixels,
            self.labels,
            self.boxes,
            self.rows[self.folds != fold],
            self.rows[self.folds == fold],
            recipe,
            self.device,
            initial_state=self.initial_state,
            on_epoch=on_epoch,
            should_stop=self.is_out_of_time,
        )
        if self.is_out_of_time() and len(trained.history) < recipe.epochs:
            raise OutOfTime("The study's time is up.")
        return trained.best_record.metric(self.plan.metric)

    def _is_hopeless(self, trial: optuna.Trial, scores: Mapping[int, float]) -> bool:
        """scores: of the folds that ended."""
        best = best_trial(self.study)
        if best is None:
            return False
        both = [fold for fold in scores if fold in best.intermediate_values]
        own, others = ([of[fold] for fold in both] for of in (scores, best.intermediate_values))
        return is_behind(self.plan.metric, own, others, **self._images_in(both)) or trial.should_prune()

    def _images_in(self, some_folds: Iterable[int]) -> dict[str, int]:
        inside = self.labels[self.rows[np.isin(self.folds, list(some_folds))]]
        return {"positives": int(inside.sum()), "negatives": int(len(inside) - inside.sum())}

    def _progress(self, trial: int, fold: int, record: EpochRecord) -> StudyProgress:
        ended = self.study.get_trials(deepcopy=False, states=_ENDED)
        return StudyProgress(
            trial=trial,
            fold=fold,
            folds=self.plan.folds,
            epoch=record.epoch,
            epochs=self.plan.epochs,
            ended=len(ended),
            best=max((other.value for other in ended if other.state is TrialState.COMPLETE), default=None),
            seconds_left=self.seconds_left(),
            metric=self.plan.metric,
            record=record,
        )


def _folds_to_judge_by(labels: np.ndarray, folds: np.ndarray, count: int) -> list[int]:
    """Those folds that have both classes. labels, folds: (n,), of the rows. Raises: NotEnoughData."""
    judged = []
    for fold in range(count):
        classes = set(labels[folds == fold].tolist())
        if not classes:
            raise NotEnoughData(f"Fold {fold} of {count} is empty: ask for fewer folds, or add radiographs.")
        if len(classes) == 2:
            judged.append(fold)
        else:
            kind = "negative" if classes == {1} else "positive"
            log.warning("Fold %d of %d has no %s radiograph: no trial is judged by it.", fold, count, kind)
    if len(judged) < 2:
        raise NotEnoughData(
            f"Of {count} folds {len(judged)} have both classes, and a study needs two: add radiographs of more "
            "patients, or ask for fewer folds."
        )
    return judged


def _open_study(
    storage: RDBStorage, study_name: str, plan: StudyPlan, base_recipe: TrainRecipe, identity: str
) -> optuna.Study:
    """The study of this name; where there is none, a new one, whose first trial is queued. Raises: as run_study."""
    with experimental_allowed():
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=_PRUNE_BELOW_P) if plan.prune else optuna.pruners.NopPruner()
    sampler = optuna.samplers.RandomSampler(base_recipe.seed)  # never asked: every trial is queued with its cell
    options = {"storage": storage, "study_name": study_name, "sampler": sampler, "pruner": pruner}
    try:
        with _alone(storage):
            study = optuna.create_study(direction="maximize", load_if_exists=True, **options)
            if study.user_attrs.get("identity", identity) != identity:
                raise InvalidRecipe(
                    f"The study {study_name!r} was begun with another plan, recipe or data: give it another name."
                )
            if "compared" not in study.user_attrs:
                study.set_user_attr("identity", identity)
                study.enqueue_trial(_promising_cell(storage, plan, base_recipe), skip_if_exists=True)
                study.set_user_attr("compared", _compared(plan))
            return study
    except optuna.exceptions.StorageInternalError as error:
        raise DatabaseUnavailable("Postgres went away as the study began; run it again, and it goes on.") from error


@contextmanager
def _alone(storage: RDBStorage) -> Iterator[None]:
    """Meanwhile no other worker opens a study or draws a trial. A dead worker's turn ends with its connection.

    Optuna's samplers do not know what another worker draws at the same moment (docs/LOG.md).
    """
    with ExitStack() as held:
        try:
            connection = held.enter_context(storage.engine.connect())
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('fracture: tuning', 0))")
        except Exception as error:  # SQLAlchemy's, which this room does not know by name
            raise optuna.exceptions.StorageInternalError("no turn: the database is away") from error
        yield


def _promising_cell(storage: RDBStorage, plan: StudyPlan, base_recipe: TrainRecipe) -> dict[str, Any]:
    """What a new study tries first: what won the newest earlier study of this plan, else the base recipe's cell."""
    earlier = [
        summary
        for summary in optuna.get_all_study_summaries(storage)
        if summary.user_attrs.get("compared") == _compared(plan) and summary.best_trial is not None
    ]
    if earlier:
        newest = max(earlier, key=lambda summary: summary.datetime_start)
        log.info("The study begins with what won the study %s.", newest.study_name)
        return dict(newest.best_trial.params)
    own = base_recipe.to_json()
    return {name: own[name] if own[name] in values else values[0] for name, values in _grid_of(plan).items()}


def _grid_of(plan: StudyPlan) -> dict[str, tuple]:
    return {"batch_size": plan.batch_sizes, "peak_lr": plan.peak_lrs, "scheduler": plan.schedulers}


def comparable_id(plan: StudyPlan, base_recipe: TrainRecipe) -> str:
    """A hash of what makes trials of two nights comparable, for a study's name: more of them, or more time, go on."""
    return hash_of_json([_FORMAT, _compared(plan), _studied(plan, base_recipe).to_json()])


def _studied(plan: StudyPlan, base_recipe: TrainRecipe) -> TrainRecipe:
    """The recipe that a study varies: what the plan decides is the plan's."""
    return base_recipe.with_changes(
        image_size_px=plan.image_size_px,
        epochs=plan.epochs,
        warmup_epochs=min(base_recipe.warmup_epochs, plan.epochs - 1),
        selection_metric=plan.metric,
    )


def _compared(plan: StudyPlan) -> dict[str, Any]:
    """The part of a plan that makes two trials comparable. How many there are, and for how long, may change."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in plan.to_json().items()
        if name not in ("trials", "prune", "time_budget_s")
    }


def _identity_of(
    plan: StudyPlan,
    recipe: TrainRecipe,
    labels: np.ndarray,
    boxes: np.ndarray,
    rows: np.ndarray,
    folds: np.ndarray,
) -> str:
    """A hash of all that makes two trials of a study comparable; of the data what is in `rows`, wherever they are."""
    data = np.stack([folds, np.asarray(labels, dtype=np.int64)[rows]])  # (2, n)
    return hash_of_json([_compared(plan), recipe.to_json(), data.tolist(), boxes[rows].tolist()])


def _give_up_the_dead(storage: RDBStorage, study: optuna.Study, grid: Mapping[str, tuple]) -> None:
    """Free what dead workers held. Only for whose turn it is: nobody alive is drawing a trial then."""
    with experimental_allowed():
        optuna.storages.fail_stale_trials(study)  # and queues them again
    half_drawn = [
        trial.number
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if trial.params.keys() != grid.keys()
    ]
    study_id = storage.get_study_id_from_name(study.study_name)
    for number in half_drawn:  # perhaps before the first heartbeat, without which Optuna calls nothing stale
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        storage.set_trial_state_values(trial_id, state=TrialState.FAIL)


class _Work(Enum):
    """What a study still asks of a worker."""

    OPEN = auto()
    HELD_BY_OTHERS = auto()


def _work_left(study: optuna.Study, plan: StudyPlan) -> _Work | None:
    """None: enough trials ended, or every cell of the grid was tried."""
    trials = study.get_trials(deepcopy=False)
    count = Counter(trial.state for trial in trials)
    ended = sum(count[state] for state in _ENDED)
    if ended >= plan.trials:
        return None
    if ended + count[TrialState.RUNNING] < plan.trials and (count[TrialState.WAITING] or _cells_left(trials, plan)):
        return _Work.OPEN
    return _Work.HELD_BY_OTHERS if count[TrialState.RUNNING] else None


def _cells_left(trials: Sequence[optuna.trial.FrozenTrial], plan: StudyPlan) -> list[dict[str, Any]]:
    """The cells of the grid that no trial has drawn, in the grid's order."""
    grid = _grid_of(plan)
    drawn = [trial.params for trial in trials]
    cells = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [cell for cell in cells if cell not in drawn]


def _queue_a_cell(study: optuna.Study, plan: StudyPlan, seed: int) -> None:
    """Where no trial waits, one of the cells that are left does now. Only for whose turn it is."""
    trials = study.get_trials(deepcopy=False)
    if all(trial.state is not TrialState.WAITING for trial in trials):
        cells = _cells_left(trials, plan)
        study.enqueue_trial(cells[np.random.default_rng([seed, len(trials)]).integers(len(cells))])
