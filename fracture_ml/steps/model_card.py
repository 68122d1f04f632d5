"""A version's model card: gathered from the registry and the bucket, and written beside the bundle."""

from dataclasses import asdict

from fracture_ml.core.errors import ObjectNotFound
from fracture_ml.core.records import LabelMeaning, Verdict
from fracture_ml.evaluation.model_card import render
from fracture_ml.steps import keys
from fracture_ml.stores import Stores

FIGURES = (
    "loss_plot",
    "accuracy_plot",
    "roc_plot",
    "precision_recall_plot",
    "reliability_plot",
    "confusion_plot",
    "score_histogram",
)
DOCUMENTS = {"model_card.html": "text/html", "model_card.md": "text/markdown"} | {
    f"{name}.png": "image/png" for name in FIGURES
}


def write_model_card(stores: Stores, version: int) -> str:
    """Write `model_card.html` and `model_card.md`, anew after each event. Returns the HTML's key.

    Raises: UnknownVersion.
    """
    model = stores.registry.version_of(version)
    snapshot = stores.snapshots.find(model.snapshot_id)
    verdict = stores.registry.last_verdict(version)
    folder = keys.bundle_folder(model.bundle_key)
    members = stores.snapshots.members_of(model.snapshot_id)
    subgroups = stores.radiographs.subgroups_of([member.radiograph_id for member in members])
    card = {
        "version": version,
        "created_at": f"{model.created_at:%Y-%m-%d %H:%M} UTC",
        "snapshot_id": model.snapshot_id,
        "recipe_id": model.recipe_id,
        "code_version": model.code_version,
        "bundle_sha256": model.bundle_sha256,
        "data": _counted(list(subgroups.values())),
        "splits": _splits(members),
        "left_out": snapshot["counts"]["left_out"],
        "not_readable": model.metrics.get("not_readable", {}),
        "positive_means": snapshot["counts"].get("positive_means", LabelMeaning.FRACTURE),  # older ones do not say it
        "labels": stores.snapshots.label_sources_of(model.snapshot_id),
        "leakage": _leakage(verdict),
        "looks_at_the_test_split": stores.snapshots.looks_of(model.snapshot_id),
        "recipe": model.recipe,
        "initial_weights": model.recipe["initial_weights"],
        "study_folder": model.study_name and keys.study_folder(model.study_name),
        "libraries": model.metrics.get("libraries"),
        "heat_map": model.metrics.get("heat_map"),
        "metrics": model.metrics,
        "subgroups": model.metrics["subgroups"],
        "operating_points": asdict(model.operating_points),
        "calibration": model.metrics["calibration"],
        "shortcut_audit": model.metrics["shortcut_audit"],
        "verdict": asdict(verdict) if verdict else None,
        "events": stores.registry.events_of(version),
        "figures": {name: png for name in FIGURES if (png := stores.bucket.find(f"{folder}/{name}.png")) is not None},
    }
    markdown, html = render(card)
    stores.bucket.write(f"{folder}/model_card.md", markdown.encode(), "text/markdown")
    stores.bucket.write(f"{folder}/model_card.html", html.encode(), "text/html")
    return f"{folder}/model_card.html"


def read_document(stores: Stores, version: int, name: str) -> tuple[bytes, str]:
    """A version's card or plot, and its media type. Raises: UnknownVersion, ObjectNotFound, StorageUnavailable."""
    if name not in DOCUMENTS:
        raise ObjectNotFound(f"There is no such document; there are {', '.join(DOCUMENTS)}.")
    folder = keys.bundle_folder(stores.registry.version_of(version).bundle_key)
    return stores.bucket.read(f"{folder}/{name}"), DOCUMENTS[name]


def _leakage(verdict: Verdict | None) -> str:
    if verdict is not None and not verdict.measures["checks"]["leakage"]["passed"]:
        return "a patient, study or near-duplicate stands on two sides, as is known now: the test figures are void."
    again = "" if verdict is None else ", and the gate looked again at what was known by then"
    return f"when the snapshot was frozen no patient, study or near-duplicate stood on two sides{again}."


def _counted(subgroups: list[dict[str, str]]) -> dict[str, dict[str, int]]:
    """How many radiographs have each value of each subgroup, the most frequent first."""
    counts: dict[str, dict[str, int]] = {}
    for of_image in subgroups:
        for kind, value in of_image.items():
            of_kind = counts.setdefault(kind, {})
            of_kind[value] = of_kind.get(value, 0) + 1
    return {kind: dict(sorted(of_kind.items(), key=lambda item: -item[1])) for kind, of_kind in sorted(counts.items())}


def _splits(members) -> dict[str, dict[str, int]]:
    splits: dict[str, dict[str, int]] = {}
    for member in members:
        of_split = splits.setdefault(member.split.value, {"positive": 0, "negative": 0})
        of_split["positive" if member.label else "negative"] += 1
    return splits
