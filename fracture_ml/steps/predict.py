"""Scores files of this machine with the champion, and stores nothing."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from fracture_ml.core.errors import NoChampion
from fracture_ml.core.records import MediaType, Rejected, StoredRadiograph
from fracture_ml.model.bundle import Bundle
from fracture_ml.model.device import choose_device
from fracture_ml.scoring.score import Scorer
from fracture_ml.steps.ingest import decode_limits
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores


def predict_files(
    stores: Stores, settings: Settings, paths: Sequence[Path], *, overlays: Path | None = None
) -> Iterator[tuple[str, str, str, str]]:
    """One row per file, in order: its name, the calibrated score or the reason, the operating point, the box.

    Raises: NoChampion, BundleMismatch.
    """
    champion = stores.registry.find_champion()
    if champion is None:
        raise NoChampion("No model has been promoted yet: run `fracture train` and `fracture promote` first")
    bundle = Bundle.from_bytes(stores.bucket.read(champion.bundle_key), expected_sha256=champion.bundle_sha256)
    scorer = Scorer(bundle, choose_device(settings.device), limits=decode_limits(settings))
    if overlays is not None:
        overlays.mkdir(parents=True, exist_ok=True)
    for path, outcome in zip(paths, scorer.score(_read(paths)), strict=True):
        if isinstance(outcome, Rejected):
            yield path.name, outcome.reason, "", ""
            continue
        if overlays is not None and outcome.overlay_png is not None:
            (overlays / f"{path.stem}-attention.png").write_bytes(outcome.overlay_png)
        box = outcome.box
        yield (
            path.name,
            f"{outcome.calibrated:.3f}",
            outcome.operating_point.value,
            f"{box.x:.0f}, {box.y:.0f}, {box.width:.0f}, {box.height:.0f}" if box else "",
        )


def _read(paths: Sequence[Path]) -> Iterator[tuple[StoredRadiograph, bytes]]:
    for number, path in enumerate(paths):
        unstored = StoredRadiograph(radiograph_id=number, sha256="", object_key="", media_type=MediaType.PNG)
        yield unstored, path.read_bytes()
