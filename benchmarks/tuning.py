"""What pruning saves, and what it costs: the same grid tuned exhaustively, and by the product's pruned study.

Both run one after the other on the same radiographs, folds and seeds; on a CPU the same cell gives the same scores in
both. The classes are balanced. Each study has a fresh SQLite file, so that nothing is known from earlier nights.

`fold_epochs_share`: epochs, over all folds, that the pruned study trained, over those of the grid. `best_score`: the
grid's best mean over the folds; `winner_score`: the pruned study's winner, by its mean in the grid;
`standard_error`: of the best mean, from its folds. `within_one_standard_error`: the winner is that near the best.

    python -m benchmarks.tuning [--json FILE] [--data FOLDER] [--images 200] [--epochs 3] [--folds 5]
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.labelled import labelled_radiographs
from benchmarks.report import parser_of, report
from fracture_ml.core.recipe import SCHEDULERS, StudyPlan, TrainRecipe
from fracture_ml.model.device import choose_device
from fracture_ml.training.study import StudyProgress, run_study
from fracture_ml.training.study_result import StudyResult

_NO_END_S = 7 * 24 * 3600


def tried(trial: dict) -> tuple:
    return trial["batch_size"], trial["peak_lr"], trial["scheduler"]


def measure(plan: StudyPlan, *, images: int, data: Path | None) -> dict[str, object]:
    """Both studies, and what they say of each other."""
    device = choose_device()

    def tell(progress: StudyProgress) -> None:
        print(progress, flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        radiographs = labelled_radiographs(images, data=data, folder=folder / "drawn")
        pixels, labels, boxes = radiographs.cached(plan.image_size_px, folder)
        rows = np.arange(len(labels))

        def study(*, prune: bool) -> tuple[StudyResult, float]:
            started = time.perf_counter()
            name = "pruned" if prune else "exhaustive"
            result = run_study(
                StudyPlan(**{**plan.to_json(), "prune": prune}),
                TrainRecipe(image_size_px=plan.image_size_px),
                pixels,
                labels,
                boxes,
                rows % plan.folds,  # the order is random
                rows,
                device,
                storage_url=f"sqlite:///{folder / name}.db",
                study_name=name,
                on_progress=tell,
            )
            return result, time.perf_counter() - started

        exhaustive, exhaustive_s = study(prune=False)
        pruned, pruned_s = study(prune=True)

    scores = {tried(trial): trial["value"] for trial in exhaustive.trials}
    best = max(exhaustive.trials, key=lambda trial: trial["value"])
    winner = pruned.best_recipe
    winner_score = scores[winner.batch_size, winner.peak_lr, winner.scheduler]
    standard_error = statistics.stdev(best["fold_scores"].values()) / plan.folds**0.5
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "data": "drawn" if data is None else data.name,
        "images": len(labels),
        "plan": plan.to_json(),
        "exhaustive_fold_epochs": exhaustive.fold_epochs,
        "pruned_fold_epochs": pruned.fold_epochs,
        "fold_epochs_share": pruned.fold_epochs / exhaustive.fold_epochs,
        "exhaustive_s": exhaustive_s,
        "pruned_s": pruned_s,
        "best": tried(best),
        "best_score": best["value"],
        "winner": [winner.batch_size, winner.peak_lr, winner.scheduler],
        "winner_score": winner_score,
        "standard_error": standard_error,
        "within_one_standard_error": winner_score >= best["value"] - standard_error,
        "exhaustive_trials": exhaustive.trials,
        "pruned_trials": pruned.trials,
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, help="a folder in FracAtlas's layout; without it, radiographs are drawn")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--image-size-px", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3, help="per fold")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--peak-lrs", type=float, nargs="+", default=[1e-3, 1e-4, 1e-5])
    parser.add_argument("--schedulers", choices=SCHEDULERS, nargs="+", default=SCHEDULERS)
    options = parser.parse_args()
    plan = StudyPlan(
        batch_sizes=tuple(options.batch_sizes),
        peak_lrs=tuple(options.peak_lrs),
        schedulers=tuple(options.schedulers),
        trials=1000,
        folds=options.folds,
        epochs=options.epochs,
        image_size_px=options.image_size_px,
        metric="auroc",
        time_budget_s=_NO_END_S,
    )
    result = measure(plan, images=options.images, data=options.data)
    shown = {key: value for key, value in result.items() if not key.endswith("_trials")}
    report(result, options.json, printed=shown)


if __name__ == "__main__":
    main()
