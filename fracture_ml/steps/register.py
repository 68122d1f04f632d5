"""A trained bundle is evaluated once on the locked test split, described, and registered as a version."""

import logging

import numpy as np
import torch

from fracture_ml.core.records import Split
from fracture_ml.evaluation import figures
from fracture_ml.evaluation.calibration import Calibration
from fracture_ml.evaluation.metrics import evaluate, interval_in_words, subgroup_table
from fracture_ml.evaluation.shortcuts import audit
from fracture_ml.model.bundle import Bundle
from fracture_ml.model.device import choose_device
from fracture_ml.steps import keys
from fracture_ml.steps.model_card import write_model_card
from fracture_ml.steps.pixels import SnapshotPixels, logits_as_scored, open_pixels
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores

log = logging.getLogger(__name__)

_TAGS = ("body_part", "view", "hardware", "sex", "age_band", "manufacturer")  # subgroups that no file fact tells


def evaluate_and_register(
    stores: Stores, settings: Settings, *, snapshot_id: str, study_name: str | None, trained: dict
) -> int:
    """Evaluate a trained bundle once on the locked test split, write its model card, and register it.

    Returns: the version; the same one for the same snapshot, recipe and code of the training.
    Raises:  BundleMismatch.
    """
    bundle = Bundle.from_bytes(stores.bucket.read(trained["bundle_key"]), expected_sha256=trained["bundle_sha256"])
    known = stores.registry.find_version(snapshot_id, trained["recipe_id"], bundle.code_version)
    if known is not None:
        log.info("already registered: version %d", known.version)
        write_model_card(stores, known.version)  # also after a kill between the two
        return known.version

    data = open_pixels(stores, settings, snapshot_id=snapshot_id, size_px=bundle.recipe.image_size_px)
    test = data.rows_of(Split.TEST)
    stores.snapshots.count_look(snapshot_id, "test", f"recipe {trained['recipe_id'][:12]}")
    logits = logits_as_scored(
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
    metrics["heat_map"] = "places" if bundle.build_network(torch.device("cpu")).knows_places else "evidence"
    metrics["libraries"] = trained.get("libraries")  # of the training, whatever is installed here by now
    metrics["not_readable"] = data.not_readable_by_split()

    for name, png in _figures(scores, labels, bundle).items():
        stores.bucket.write(f"{keys.bundle_folder(trained['bundle_key'])}/{name}.png", png, "image/png")
    version = stores.registry.register(
        snapshot_id=snapshot_id,
        recipe_id=trained["recipe_id"],
        recipe=bundle.recipe.to_json(),
        study_name=study_name,
        bundle_key=trained["bundle_key"],
        bundle_sha256=trained["bundle_sha256"],
        metrics=metrics,
        operating_points=bundle.operating_points,
        code_version=bundle.code_version,
        scores=[(i, label, float(score)) for i, label, score in zip(ids, labels.tolist(), scores, strict=True)],
        actor="retrain",
    ).version
    write_model_card(stores, version)
    for document in ("model_card.html", "loss_plot.png", "accuracy_plot.png"):
        log.info("in Airflow, behind the login: /fracture-worklist/models/%d/%s", version, document)
    log.info("version %d: test AUROC %s", version, interval_in_words(metrics["auroc"]))
    return version


def _shortcuts(stores: Stores, data: SnapshotPixels, test: np.ndarray, scores: np.ndarray) -> dict:
    """How well the files' own facts and tags, without the pixels, predict the label on the same test rows."""
    ids = [member.radiograph_id for member in data.members]
    facts, subgroups = stores.radiographs.file_facts_of(ids), stores.radiographs.subgroups_of(ids)
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
        tags=np.array([[subgroups[i][name] for name in _TAGS] for i in ids]),
        tag_names=_TAGS,
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
