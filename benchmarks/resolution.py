"""What a larger image buys, and what it costs: one recipe at several sizes, on the same snapshot.

The data go the product's own way, from a bucket through ingest, snapshot, training and evaluation, each size a version.
A size is chosen by `validation_auroc`; what is said of the test split is for the reader. `difference_to_first`: test
AUROC less that of the first size, resampled together. Epochs grow from half of the size on.

    python -m benchmarks.resolution --data FOLDER [--json FILE] [--sizes 224 320 448] [--epochs 30] [--preset cpu]
"""

import argparse
import json
import logging
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks import pointing
from benchmarks.report import parser_of, start_as_a_task
from benchmarks.scoring import forward_only
from benchmarks.servers import Servers, report_with_servers
from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.core.records import EvaluationScore, Split
from fracture_ml.demo.run import upload
from fracture_ml.evaluation.metrics import auroc, interval_of, resampled_weights, weighted_auroc
from fracture_ml.model.bundle import Bundle
from fracture_ml.model.device import choose_device
from fracture_ml.steps.ingest import ingest_inbox
from fracture_ml.steps.presets import PRESETS
from fracture_ml.steps.register import evaluate_and_register
from fracture_ml.steps.settings import Settings
from fracture_ml.steps.snapshot import freeze_snapshot
from fracture_ml.steps.train import train
from fracture_ml.stores import Stores

_RESAMPLES = 1000
_FORWARD_IMAGES = 192


def recipe_at(size_px: int, *, preset: str, epochs: int) -> TrainRecipe:
    """The preset's recipe at this size; its first epochs see half of it."""
    half_px = max(32, size_px // 2 // 32 * 32)
    return PRESETS[preset].recipe.with_changes(image_size_px=size_px, smallest_image_size_px=half_px, epochs=epochs)


def measure_size(stores: Stores, settings: Settings, snapshot_id: str, recipe: TrainRecipe) -> dict:
    """Train, evaluate and register; what came of it."""
    started = time.perf_counter()
    trained = train(stores, settings, snapshot_id=snapshot_id, recipe=recipe.to_json())
    seconds = time.perf_counter() - started
    version = evaluate_and_register(stores, settings, snapshot_id=snapshot_id, study_name=None, trained=trained)
    registered = stores.registry.version_of(version)
    history = stores.bucket.read(f"{trained['folder']}/history.json")
    bundle = Bundle.from_bytes(stores.bucket.read(registered.bundle_key), expected_sha256=registered.bundle_sha256)
    measure_forward = forward_only(bundle, choose_device(settings.device), _FORWARD_IMAGES)
    measure_forward()  # warms up
    return {
        "version": version,
        "training_s": round(seconds),
        "best_epoch": trained["best_epoch"],
        "validation_auroc": best_of(history),
        "test": {name: registered.metrics[name] for name in ("auroc", "auprc", "brier", "ece")},
        "forward_images_per_s": round(measure_forward(), 1),
        "pointing": pointing.measure(stores, version, Split.TEST),
    }


def best_of(history: bytes) -> float:
    """The highest validation AUROC of an epoch."""
    return max(epoch["validation_auroc"] or 0.0 for epoch in json.loads(history))


def difference(ours: list[EvaluationScore], theirs: list[EvaluationScore]) -> dict[str, float | None]:
    """AUROC of the first less that of the second on the same radiographs, with its 95 % interval by group."""
    of = {row.radiograph_id: row.score for row in theirs}
    labels = np.array([row.label for row in ours])
    one, other = np.array([row.score for row in ours]), np.array([of[row.radiograph_id] for row in ours])
    weights = resampled_weights([row.group_key for row in ours], _RESAMPLES, 0)
    resampled = weighted_auroc(one, labels, weights) - weighted_auroc(other, labels, weights)
    return interval_of(auroc(one, labels) - auroc(other, labels), resampled)


def measure(options: argparse.Namespace, servers: Servers) -> dict:
    stores, settings = servers.create("resolution"), servers.settings("resolution")
    upload(Console(stderr=True), stores, options.data, prefix=settings.inbox_prefix)
    ingest_inbox(stores, settings)
    snapshot_id = freeze_snapshot(stores, as_of=datetime.now(UTC), force=True)
    sizes = {}
    for size_px in options.sizes:
        recipe = recipe_at(size_px, preset=options.preset, epochs=options.epochs)
        sizes[size_px] = measure_size(stores, settings, snapshot_id, recipe)
        scores = stores.registry.evaluation_scores_of(sizes[size_px]["version"])
        first = stores.registry.evaluation_scores_of(sizes[options.sizes[0]]["version"])
        sizes[size_px]["difference_to_first"] = difference(scores, first)
        print(size_px, sizes[size_px], file=sys.stderr, flush=True)  # hours may lie between two sizes
    return {"epochs": options.epochs, "preset": options.preset, "sizes": sizes}


def main() -> None:
    start_as_a_task()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of labelled radiographs, as FracAtlas")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 320, 448], help="pixels, multiples of 32")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu", help="whose recipe")
    report_with_servers(parser, measure)


if __name__ == "__main__":
    main()
