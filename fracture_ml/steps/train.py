"""The final training of one recipe: trained, calibrated, its operating points chosen, its bundle stored."""

import importlib.metadata
import json
import logging

from fracture_ml.core.errors import StorageUnavailable, TrainingDiverged
from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.core.records import Split
from fracture_ml.evaluation import figures
from fracture_ml.evaluation.calibration import fit_temperature
from fracture_ml.evaluation.metrics import figure_in_words
from fracture_ml.evaluation.operating_points import choose
from fracture_ml.model.bundle import Bundle
from fracture_ml.model.device import choose_device
from fracture_ml.steps import keys
from fracture_ml.steps.context import code_version
from fracture_ml.steps.initial_weights import initial_weights
from fracture_ml.steps.pixels import logits_as_scored, open_pixels
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores
from fracture_ml.training.loop import train as train_network
from fracture_ml.training.state import EpochRecord

log = logging.getLogger(__name__)

_LIBRARIES = ("torch", "torchvision", "numpy", "optuna", "scikit-learn", "pydicom", "pillow")


def train(stores: Stores, settings: Settings, *, snapshot_id: str, recipe: dict) -> dict:
    """Train one recipe, calibrate it and choose its operating points on the validation split, and store its bundle.

    Returns: {"recipe_id", "bundle_key", "bundle_sha256", "folder", "best_epoch", "libraries"}; the folder holds the
             history, the bundle's the plots.
    """
    named = TrainRecipe.from_json(recipe)
    initial_state, weights_used = initial_weights(stores, settings, named)
    chosen = named.with_changes(initial_weights=weights_used)  # before anything is named by it: "auto" may change
    log.info("initial weights: %s", weights_used)
    folder = keys.training_folder(snapshot_id, chosen.id, code_version())
    checkpoint_key = f"{folder}/{keys.CHECKPOINT}"
    if (known := _find_json(stores, f"{folder}/trained.json")) is not None:
        log.info("already trained: %s", folder)
        stores.bucket.delete(checkpoint_key)
        return known
    data = open_pixels(stores, settings, snapshot_id=snapshot_id, size_px=chosen.image_size_px)
    device = choose_device(settings.device)
    validation = data.rows_of(Split.VALIDATION)
    try:
        trained = train_network(
            data.pixels,
            data.labels,
            data.boxes,
            data.rows_of(Split.TRAIN),
            validation,
            chosen,
            device,
            initial_state=initial_state,
            on_epoch=lambda record: _log_epoch(record, chosen.epochs),
            resume=stores.bucket.find(checkpoint_key),
            keep=lambda checkpoint: _keep(stores, checkpoint_key, checkpoint),
            keep_every_s=settings.checkpoint_seconds,
        )
    except TrainingDiverged:
        stores.bucket.delete(checkpoint_key)  # it may hold what has diverged already
        raise

    logits = logits_as_scored(trained.state, data, validation, trained.spec, chosen, device)
    calibration = fit_temperature(logits, data.labels[validation])
    bundle = Bundle(
        state=trained.state,
        recipe=chosen,
        preprocess=trained.spec,
        calibration=calibration.to_json(),
        operating_points=choose(
            calibration.calibrated(logits),
            data.labels[validation],
            target_sensitivity=chosen.target_sensitivity,
            target_specificity=chosen.target_specificity,
        ),
        code_version=code_version(),
        snapshot_id=snapshot_id,
    )
    content, sha256 = bundle.to_bytes()
    history = [record.to_json() for record in trained.history]
    bundle_key = keys.bundle_key(sha256)
    stores.bucket.write(bundle_key, content)
    stores.bucket.write(f"{folder}/history.json", json.dumps(history).encode(), "application/json")
    for name, picture in (("loss_plot", figures.loss_plot), ("accuracy_plot", figures.accuracy_plot)):
        png = picture(history, best_epoch=trained.best_epoch)
        stores.bucket.write(f"{keys.bundle_folder(bundle_key)}/{name}.png", png, "image/png")
    result = {
        "recipe_id": chosen.id,
        "bundle_key": bundle_key,
        "bundle_sha256": sha256,
        "folder": folder,
        "best_epoch": trained.best_epoch,
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
    stores.bucket.write(f"{folder}/trained.json", json.dumps(result).encode(), "application/json")
    stores.bucket.delete(checkpoint_key)
    return result


def _log_epoch(record: EpochRecord, epochs: int) -> None:
    log.info(
        "epoch %d of %d: train loss %.4f accuracy %.3f; validation loss %.4f accuracy %.3f AUROC %s; lr %.2g; %.1f s",
        record.epoch,
        epochs,
        record.train_loss,
        record.train_accuracy,
        record.validation_loss,
        record.validation_accuracy,
        figure_in_words(record.validation_auroc),
        record.lr,
        record.seconds,
    )


def _keep(stores: Stores, key: str, checkpoint: bytes) -> None:
    """A training does not end because its checkpoint cannot be written."""
    try:
        stores.bucket.write(key, checkpoint)
    except StorageUnavailable as error:
        log.warning("no checkpoint this time, the training goes on: %s", error)


def _find_json(stores: Stores, key: str) -> dict | None:
    content = stores.bucket.find(key)
    return None if content is None else json.loads(content)
