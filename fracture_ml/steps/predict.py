"""Scores files of this machine with the version that scores, and stores nothing."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from fracture_ml.core.errors import NoChampion, UnusableObject
from fracture_ml.core.records import MediaType, Rejected, StoredRadiograph
from fracture_ml.model.device import choose_device
from fracture_ml.scoring.score import Item, Scorer
from fracture_ml.steps.bundle import open_bundle
from fracture_ml.steps.champion import find_scoring_version
from fracture_ml.steps.limits import decode_limits
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores


def predict_files(
    stores: Stores, settings: Settings, paths: Sequence[Path], *, overlays: Path | None = None
) -> Iterator[tuple[str, str, str, str]]:
    """One row per file, in order: its path, the calibrated score or the reason, the operating point, the box.

    Args:   overlays: a folder for the highlighted images, each with the number of its row before its name.
    Raises: NoChampion, BundleMismatch.
    """
    registered = find_scoring_version(stores)
    if registered is None:
        raise NoChampion("No model has been promoted yet: run `fracture train` and `fracture promote` first")
    bundle = open_bundle(stores, registered)
    if overlays is not None:
        overlays.mkdir(parents=True, exist_ok=True)
    limits = decode_limits(settings)
    with Scorer(bundle, choose_device(settings.device), limits=limits, threads=settings.threads) as scorer:
        for number, (path, outcome) in enumerate(zip(paths, scorer.score(_items(paths)), strict=True), 1):
            if isinstance(outcome, Rejected):
                yield str(path), outcome.reason, "", ""
                continue
            if overlays is not None and outcome.overlay_png is not None:
                (overlays / f"{number}-{path.stem}-attention.png").write_bytes(outcome.overlay_png)
            box = outcome.box
            yield (
                str(path),
                f"{outcome.calibrated:.3f}",
                outcome.operating_point.value,
                f"{box.x:.0f}, {box.y:.0f}, {box.width:.0f}, {box.height:.0f}" if box else "",
            )


def _items(paths: Sequence[Path]) -> Iterator[Item]:
    for number, path in enumerate(paths):
        unstored = StoredRadiograph(
            radiograph_id=number, sha256="", object_key="", media_type=MediaType.PNG, stored_sha256=None
        )
        yield unstored, partial(_read, path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise UnusableObject(f"The file cannot be read: {fault.strerror}.") from None
