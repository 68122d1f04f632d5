"""What a study leaves for people: a table of every trial, and three pictures."""

import csv
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import optuna
from matplotlib import pyplot as plt
from optuna.trial import TrialState
from optuna.visualization import matplotlib as drawings

from fracture_ml.training.study_result import open_storage

log = logging.getLogger(__name__)


def trials_csv(trials: Sequence[dict[str, Any]]) -> str:
    """A line for each trial of a StudyResult: what it tried, its mean, each fold's score and how far each fold came."""
    folds = sorted({fold for trial in trials for fold in trial["fold_curves"]} | _scored_folds(trials), key=int)
    tried = ("batch_size", "peak_lr", "scheduler")
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(
        ["number", "state", *tried, "value", "seconds"]
        + [f"fold_{int(fold) + 1}_score" for fold in folds]
        + [f"fold_{int(fold) + 1}_epochs" for fold in folds]
        + ["reason"]
    )
    for trial in trials:
        writer.writerow(
            [trial["number"], trial["state"], *(trial.get(name) for name in tried), trial["value"], trial["seconds"]]
            + [trial["fold_scores"].get(fold) for fold in folds]
            + [len(trial["fold_curves"].get(fold, ())) for fold in folds]
            + [trial["reason"]]
        )
    return table.getvalue()


def draw_study(storage_url: str, study_name: str) -> dict[str, bytes]:
    """PNGs by name: history, parallel_coordinate, and importances where the trials differ enough to tell.

    Raises: SchemaMismatch, DatabaseUnavailable.
    """
    study = optuna.load_study(study_name=study_name, storage=open_storage(storage_url))
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    pictures: dict[str, bytes] = {}
    if complete:
        pictures["history"] = _png(drawings.plot_optimization_history, study)
        pictures["parallel_coordinate"] = _png(drawings.plot_parallel_coordinate, study)
    if len({trial.value for trial in complete}) > 1:
        try:
            pictures["importances"] = _png(drawings.plot_param_importances, study)
        except (ValueError, RuntimeError) as error:
            log.info("no picture of the importances: %s", error)
    return pictures


def _scored_folds(trials: Sequence[dict[str, Any]]) -> set[str]:
    return {fold for trial in trials for fold in trial["fold_scores"]}


def _png(draw: Callable[[optuna.Study], Any], study: optuna.Study) -> bytes:
    with warnings.catch_warnings(), mpl.rc_context({"backend": "agg"}):
        warnings.simplefilter("ignore")
        draw(study)
        figure = plt.gcf()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        plt.close(figure)
    return buffer.getvalue()
