"""A night after its snapshot: tune, train, evaluate, register. Each step finds its own output again after a kill."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fracture_ml.core.errors import ObjectNotFound, StorageUnavailable, WeightsUnavailable
from fracture_ml.core.recipe import PreprocessSpec, TrainRecipe
from fracture_ml.core.records import EvaluationScore, SnapshotMember, Split
from fracture_ml.data.boxes import boxes_in_square
from fracture_ml.data.cache import PixelCache
from fracture_ml.evaluation import figures
from fracture_ml.evaluation.calibration import Calibration, fit_temperature
from fracture_ml.evaluation.metrics import evaluate, subgroup_table
from fracture_ml.evaluation.operating_points import choose
from fracture_ml.evaluation.shortcuts import audit
from fracture_ml.model.bundle import Bundle
from fracture_ml.model.device import choose_device
from fracture_ml.model.inference import freeze_for_inference
from fracture_ml.model.network import build_network
from fracture_ml.model.weights import InitialWeights, load_initial_weights
from fracture_ml.steps.context import code_version
from fracture_ml.steps.ingest import decode_limits
from fracture_ml.steps.model_card import bundle_folder, study_folder, write_model_card
from fracture_ml.steps.presets import NightlyWork
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores
from fracture_ml.training.loop import predict_logits
from fracture_ml.training.loop import train as train_network
from fracture_ml.training.state import EpochRecord
from fracture_ml.training.study import run_study
from fracture_ml.training.study_report import draw_study, trials_csv

log = logging.getLogger(__name__)


# --- the pixels of a snapshot ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SnapshotPixels:
    """A snapshot's radiographs as one array, and where each member stands in it."""

    pixels: np.ndarray  # uint8, (N, S, S)
    labels: np.ndarray  # int64, (N,), 1 = fracture
    boxes: np.ndarray  # float32, (N, K, 4), the fractures' places, as data/boxes.py makes them
    members: tuple[SnapshotMember, ...]  # of each row

    def rows_of(self, split: Split) -> np.ndarray:
        return np.array([row for row, member in enumerate(self.members) if member.split == split], dtype=np.int64)


def open_pixels(stores: Stores, settings: Settings, *, snapshot_id: str, size_px: int) -> SnapshotPixels:
    """Decode the snapshot once per image size; the next task finds the array on disk."""
    members = {member.sha256: member for member in stores.snapshots.members_of(snapshot_id)}
    started = time.monotonic()
    cache = PixelCache.build(
        stores.radiographs.stored([member.radiograph_id for member in members.values()]),
        size_px,
        folder=settings.cache_dir,
        read=stores.bucket.read,
        limits=decode_limits(settings),
        max_bytes=int(settings.cache_max_gib * 2**30),
    )
    log.info("pixels: %d at %d px, ready after %.1f s", len(cache.pixels), size_px, time.monotonic() - started)
    for sha256, reason in cache.failed.items():
        log.warning("radiograph %s is left out of training: %s", sha256[:12], reason)
    rows = sorted(cache.row_of, key=cache.row_of.__getitem__)
    in_order = tuple(members[sha256] for sha256 in rows)
    size_of = stores.radiographs.sizes_of([member.radiograph_id for member in in_order])
    return SnapshotPixels(
        pixels=cache.pixels,
        labels=np.array([member.label for member in in_order], dtype=np.int64),
        boxes=boxes_in_square([(one.label, one.boxes, *size_of[one.radiograph_id]) for one in in_order]),
        members=in_order,
    )


# --- tune -----------------------------------------------------------------------------------------


def tune(stores: Stores, settings: Settings, *, snapshot_id: str, work: NightlyWork) -> dict:
    """Cross-validate recipes inside the training split.

    Returns: {"study_name", "recipe"}: the recipe of the final training, with the winner's batch size, learning rate
             and scheduler in it.
    """
    initial_state, weights_used = _initial_weights(stores, settings, work.recipe)
    base = work.recipe.with_changes(initial_weights=weights_used)
    data = open_pixels(stores, settings, snapshot_id=snapshot_id, size_px=work.study.image_size_px)
    rows = data.rows_of(Split.TRAIN)
    folds = np.array([data.members[row].fold for row in rows], dtype=np.int64)
    study_name = f"{snapshot_id[:16]}-{work.study.id[:16]}-{base.id[:16]}"
    result = run_study(
        work.study,
        base,
        data.pixels,
        data.labels,
        data.boxes,
        folds,
        rows,
        choose_device(settings.device),
        storage_url=settings.database_url.get_secret_value(),
        study_name=study_name,
        initial_state=initial_state,
        on_progress=lambda progress: log.info("tuning: %s", progress),
    )
    folder = study_folder(study_name)
    stores.bucket.write(f"{folder}/trials.json", json.dumps(result.trials, default=str).encode(), "application/json")
    stores.bucket.write(f"{folder}/trials.csv", trials_csv(result.trials).encode(), "text/csv")
    for name, png in draw_study(settings.database_url.get_secret_value(), study_name).items():
        stores.bucket.write(f"{folder}/{name}.png", png, "image/png")
    log.info("the table and the pictures of the study are in the bucket under %s/", folder)
    winner = result.best_recipe
    recipe = base.with_changes(batch_size=winner.batch_size, peak_lr=winner.peak_lr, scheduler=winner.scheduler)
    log.info(
        "the study's winner: batch %d, learning rate %g, %s; mean validation %s over the folds: %s",
        recipe.batch_size,
        recipe.peak_lr,
        recipe.scheduler,
        work.study.metric,
        "no trial ended in time" if result.best_value is None else f"{result.best_value:.3f}",
    )
    return {"study_name": study_name, "recipe": recipe.to_json()}


# --- train ----------------------------------------------------------------------------------------


def train(stores: Stores, settings: Settings, *, snapshot_id: str, recipe: dict) -> dict:
    """Train one recipe, calibrate it and choose its operating points on the validation split, and store its bundle.

    Returns: {"recipe_id", "bundle_key", "bundle_sha256", "folder"}; the folder holds history and plots.
    """
    chosen = TrainRecipe.from_json(recipe)
    folder = f"training/{snapshot_id[:16]}-{chosen.id[:16]}-{code_version().replace('+', '-')}"
    checkpoint_key = f"{folder}/checkpoint.pt"
    if (known := _find_json(stores, f"{folder}/trained.json")) is not None:
        log.info("already trained: %s", folder)
        stores.bucket.delete(checkpoint_key)
        return known
    initial_state, weights_used = _initial_weights(stores, settings, chosen)
    chosen = chosen.with_changes(initial_weights=weights_used)
    log.info("initial weights: %s", weights_used)
    data = open_pixels(stores, settings, snapshot_id=snapshot_id, size_px=chosen.image_size_px)
    device = choose_device(settings.device)
    validation = data.rows_of(Split.VALIDATION)
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
        resume=_find(stores, checkpoint_key),
        keep=lambda checkpoint: _keep(stores, checkpoint_key, checkpoint),
        keep_every_s=settings.checkpoint_seconds,
    )

    logits = _logits_as_scored(trained.state, data, validation, trained.spec, chosen, device)
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
    bundle_key = f"models/{sha256[:16]}/bundle.pt"
    stores.bucket.write(bundle_key, content)
    stores.bucket.write(f"{folder}/history.json", json.dumps(history).encode(), "application/json")
    for name, picture in (("loss_plot", figures.loss_plot), ("accuracy_plot", figures.accuracy_plot)):
        png = picture(history, best_epoch=trained.best_epoch)
        stores.bucket.write(f"models/{sha256[:16]}/{name}.png", png, "image/png")
    result = {
        "recipe_id": chosen.id,
        "bundle_key": bundle_key,
        "bundle_sha256": sha256,
        "folder": folder,
        "best_epoch": trained.best_epoch,
    }
    stores.bucket.write(f"{folder}/trained.json", json.dumps(result).encode(), "application/json")
    stores.bucket.delete(checkpoint_key)
    return result


def _initial_weights(stores: Stores, settings: Settings, recipe: TrainRecipe) -> InitialWeights:
    """The weights that the recipe names; "auto": those of the settings. A tuned recipe names what it was tuned with."""
    named = recipe.initial_weights
    source = settings.initial_weights if named == "auto" or named.startswith("file:") else named
    weights = load_initial_weights(source, stores.bucket.read)
    if named != "auto" and weights.used != named:
        raise WeightsUnavailable(
            f"The recipe begins with {named}, and FRACTURE_INITIAL_WEIGHTS gives {weights.used}: "
            "set it back, or tune anew."
        )
    return weights


def _logits_as_scored(
    state: Mapping[str, Tensor],
    data: SnapshotPixels,
    rows: np.ndarray,
    spec: PreprocessSpec,
    recipe: TrainRecipe,
    device: torch.device,
) -> np.ndarray:
    """float32, (n, 2), from the very network that scoring uses, so that thresholds chosen on them hold there."""
    network = build_network()
    network.load_state_dict(state)
    frozen = freeze_for_inference(network, device, mirrors=recipe.mirrored_scoring)
    return predict_logits(frozen, data.pixels, rows, spec, device)


def _log_epoch(record: EpochRecord, epochs: int) -> None:
    log.info(
        "epoch %d of %d: train loss %.4f accuracy %.3f; validation loss %.4f accuracy %.3f AUROC %s; lr %.2g; %.1f s",
        record.epoch,
        epochs,
        record.train_loss,
        record.train_accuracy,
        record.validation_loss,
        record.validation_accuracy,
        "undefined" if record.validation_auroc is None else f"{record.validation_auroc:.3f}",
        record.lr,
        record.seconds,
    )


def _keep(stores: Stores, key: str, checkpoint: bytes) -> None:
    """A training does not end because its checkpoint cannot be written."""
    try:
        stores.bucket.write(key, checkpoint)
    except StorageUnavailable as error:
        log.warning("no checkpoint this time, the training goes on: %s", error)


def _find(stores: Stores, key: str) -> bytes | None:
    try:
        return stores.bucket.read(key)
    except ObjectNotFound:
        return None


def _find_json(stores: Stores, key: str) -> dict | None:
    content = _find(stores, key)
    return None if content is None else json.loads(content)


# --- evaluate and register ------------------------------------------------------------------------


def evaluate_and_register(
    stores: Stores, settings: Settings, *, snapshot_id: str, study_name: str | None, trained: dict
) -> int:
    """Evaluate a trained bundle once on the locked test split, write its model card, and register it.

    Returns: the version; the same one for the same snapshot, recipe and code.
    Raises:  BundleMismatch.
    """
    known = stores.registry.find_version(snapshot_id, trained["recipe_id"], code_version())
    if known is not None:
        log.info("already registered: version %d", known.version)
        return known.version

    bundle = Bundle.from_bytes(stores.bucket.read(trained["bundle_key"]), expected_sha256=trained["bundle_sha256"])
    data = open_pixels(stores, settings, snapshot_id=snapshot_id, size_px=bundle.recipe.image_size_px)
    test = data.rows_of(Split.TEST)
    stores.snapshots.count_look(snapshot_id, "test", f"recipe {trained['recipe_id'][:12]}")
    logits = _logits_as_scored(
        bundle.state, data, test, bundle.preprocess, bundle.recipe, choose_device(settings.device)
    )
    scores = Calibration.from_json(bundle.calibration).calibrated(logits)

    members = [data.members[row] for row in test]
    ids = [member.radiograph_id for member in members]
    subgroups = stores.radiographs.subgroups_of(ids)
    labels = data.labels[test]
    metrics = evaluate(
        scores,
        labels,
        [member.group_key for member in members],
        bundle.operating_points,
        prevalence=settings.prevalence,
    )
    metrics["subgroups"] = subgroup_table(
        scores,
        labels,
        [subgroups[i] for i in ids],
        bundle.operating_points,
        groups=[member.group_key for member in members],
    )
    metrics["shortcut_audit"] = _shortcuts(stores, data, test, scores)
    metrics["calibration"] = dict(bundle.calibration)
    metrics["looks_at_the_test_split"] = stores.snapshots.looks_of(snapshot_id)

    for name, png in _figures(scores, labels, bundle).items():
        stores.bucket.write(f"{bundle_folder(trained['bundle_key'])}/{name}.png", png, "image/png")
    version = stores.registry.register(
        snapshot_id=snapshot_id,
        recipe_id=trained["recipe_id"],
        recipe=bundle.recipe.to_json(),
        study_name=study_name,
        bundle_key=trained["bundle_key"],
        bundle_sha256=trained["bundle_sha256"],
        metrics=metrics,
        operating_points=bundle.operating_points,
        code_version=code_version(),
        scores=[
            EvaluationScore(
                radiograph_id=member.radiograph_id,
                group_key=member.group_key,
                label=member.label,
                score=float(score),
                subgroups=subgroups[member.radiograph_id],
            )
            for member, score in zip(members, scores, strict=True)
        ],
        actor="retrain",
    ).version
    write_model_card(stores, version)
    for document in ("model_card.html", "loss_plot.png", "accuracy_plot.png"):
        log.info("in Airflow, behind the login: /fracture-worklist/models/%d/%s", version, document)
    auroc = metrics["auroc"]
    log.info(
        "version %d: test AUROC %s (%s to %s)", version, *(_rounded(auroc[key]) for key in ("value", "low", "high"))
    )
    return version


def _rounded(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _shortcuts(stores: Stores, data: SnapshotPixels, test: np.ndarray, scores: np.ndarray) -> dict:
    """How well the files' own facts, without the pixels, predict the label on the same test rows."""
    facts = stores.radiographs.file_facts_of([member.radiograph_id for member in data.members])
    names = sorted(next(iter(facts.values())))
    table = np.array(
        [[facts[member.radiograph_id][name] for name in names] for member in data.members], dtype=np.float64
    )
    return audit(
        table,
        names,
        data.labels,
        data.rows_of(Split.TRAIN),
        test,
        groups=[member.group_key for member in data.members],
        model_scores=scores,
    )


def _figures(scores: np.ndarray, labels: np.ndarray, bundle: Bundle) -> dict[str, bytes]:
    points = bundle.operating_points
    return {
        "roc_plot": figures.roc_plot(scores, labels, points),
        "precision_recall_plot": figures.precision_recall_plot(scores, labels, points),
        "reliability_plot": figures.reliability_plot(scores, labels),
        "confusion_plot": figures.confusion_plot(scores, labels, points),
        "score_histogram": figures.score_histogram(scores, labels, points),
    }
