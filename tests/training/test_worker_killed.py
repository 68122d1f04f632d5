"""A tuning worker that is killed inside a trial: another one waits for it, takes the trial up, and the study ends."""

import multiprocessing
import time

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from fracture_ml.core.recipe import StudyPlan, TrainRecipe
from fracture_ml.training.study import StudyProgress, run_study
from fracture_ml.training.study_result import StudyResult, open_storage

PLAN = StudyPlan(
    batch_sizes=(16,), peak_lrs=(1e-3,), schedulers=("cosine", "step"), trials=2, folds=2, epochs=1, image_size_px=32,
    prune=False,
)  # fmt: skip


def work(drawn, storage_url: str, told: list[StudyProgress]) -> StudyResult:
    """A worker's whole share of the study, in the process that this is called in."""
    torch.set_num_threads(1)
    return run_study(
        PLAN, TrainRecipe(image_size_px=32), *drawn, np.arange(96) // 2 % 2, np.arange(96), torch.device("cpu"),
        storage_url=storage_url, study_name="killed", on_progress=told.append, heartbeat_s=1, grace_s=8,
    )  # fmt: skip


@pytest.mark.timeout(120)
def test_the_trial_of_a_worker_killed_in_its_second_fold_is_finished_by_another_worker(drawn, storage_url):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fracture_ml.training.study"])
    worker = context.Process(target=work, args=(drawn, storage_url, []), daemon=True)
    worker.start()
    storage = open_storage(storage_url)

    def running() -> list[optuna.trial.FrozenTrial]:
        known = {summary.study_name for summary in optuna.get_all_study_summaries(storage)}
        if "killed" not in known:
            return []
        study = optuna.load_study(study_name="killed", storage=storage)
        return [trial for trial in study.get_trials(states=(TrialState.RUNNING,)) if 0 in trial.intermediate_values]

    while not running():
        assert worker.is_alive(), "it ended before it was killed"
        time.sleep(0.02)
    worker.kill()
    worker.join()
    assert worker.exitcode == -9
    (cut_off,) = running()

    told: list[StudyProgress] = []
    result = work(drawn, storage_url, told)
    assert sorted(trial["state"] for trial in result.trials) == ["complete", "complete", "fail"]
    assert result.trials[cut_off.number]["state"] == "fail"
    (again,) = [trial for trial in result.trials if trial["number"] == told[-1].trial]
    assert again["scheduler"] == cut_off.params["scheduler"]
    assert again["fold_scores"]["0"] == cut_off.intermediate_values[0]
    assert [progress.fold for progress in told] == [0, 1, 1]  # the other trial first; then the second fold of this one
