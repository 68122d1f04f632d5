"""A snapshot as training, tuning and evaluation see it: pixels, labels and boxes, row by row."""

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fracture_ml.core.errors import NotEnoughData
from fracture_ml.core.recipe import PreprocessSpec, TrainRecipe
from fracture_ml.core.records import SnapshotMember, Split
from fracture_ml.data.boxes import boxes_in_square
from fracture_ml.data.cache import PixelCache
from fracture_ml.model.inference import freeze_for_inference
from fracture_ml.model.network import build_network
from fracture_ml.steps.erase import drop_caches
from fracture_ml.steps.limits import decode_limits
from fracture_ml.steps.settings import Settings
from fracture_ml.steps.stored import read_stored
from fracture_ml.stores import Stores
from fracture_ml.training.loop import predict_logits

log = logging.getLogger(__name__)

_MOST_NOT_READABLE = 0.1  # of a snapshot; beyond it the bucket is at fault, and not single objects


@dataclass(frozen=True, kw_only=True)
class SnapshotPixels:
    """A snapshot's radiographs as one array, and where each member stands in it."""

    pixels: np.ndarray  # uint8, (N, S, S)
    labels: np.ndarray  # int64, (N,), 1 = fracture
    boxes: np.ndarray  # float32, (N, K, 4), the fractures' places, as data/boxes.py makes them
    members: tuple[SnapshotMember, ...]  # of each row
    not_readable: tuple[tuple[SnapshotMember, str], ...]  # members without a row, and why: "code: sentence"

    def not_readable_by_split(self) -> dict[str, dict[str, int]]:
        """How many members have no row, by split and code."""
        counts: dict[str, Counter[str]] = {}
        for member, reason in self.not_readable:
            counts.setdefault(member.split.value, Counter())[reason.partition(":")[0]] += 1
        return {split: dict(of_split) for split, of_split in sorted(counts.items())}

    def rows_of(self, split: Split) -> np.ndarray:
        return np.array([row for row, member in enumerate(self.members) if member.split == split], dtype=np.int64)


def open_pixels(stores: Stores, settings: Settings, *, snapshot_id: str, size_px: int) -> SnapshotPixels:
    """Decode the snapshot once per image size; the next task finds the array on disk.

    Raises: NotEnoughData: no such snapshot, or more than a tenth of it cannot be read. DiskFull, StorageUnavailable.
    """
    members = {member.sha256: member for member in stores.snapshots.members_of(snapshot_id)}
    if not members:
        raise NotEnoughData(f"There is no snapshot {snapshot_id}: `fracture snapshot` prints the whole id.")
    started = time.monotonic()
    drop_caches(stores, settings)
    cache = PixelCache.build(
        stores.radiographs.stored([member.radiograph_id for member in members.values()]),
        size_px,
        folder=settings.cache_dir,
        read=partial(read_stored, stores.bucket),
        limits=decode_limits(settings),
        max_bytes=int(settings.cache_max_gib * 2**30),
    )
    drop_caches(stores, settings)  # what was erased meanwhile: this training has begun with it, no other does
    log.info("pixels: %d at %d px, ready after %.1f s", len(cache.pixels), size_px, time.monotonic() - started)
    for sha256, reason in cache.failed.items():
        log.warning("radiograph %s is left out of training: %s", sha256[:12], reason)
    if len(cache.failed) > _MOST_NOT_READABLE * len(members):
        reasons = Counter(reason.partition(":")[0] for reason in cache.failed.values())
        raise NotEnoughData(
            f"{len(cache.failed)} of the snapshot's {len(members)} radiographs cannot be read "
            f"({', '.join(f'{code}: {count}' for code, count in reasons.most_common())}): restore them to the bucket."
        )
    rows = sorted(cache.row_of, key=cache.row_of.__getitem__)
    in_order = tuple(members[sha256] for sha256 in rows)
    size_of = stores.radiographs.sizes_of([member.radiograph_id for member in in_order])
    return SnapshotPixels(
        pixels=cache.pixels,
        labels=np.array([member.label for member in in_order], dtype=np.int64),
        boxes=boxes_in_square([(one.label, one.boxes, *size_of[one.radiograph_id]) for one in in_order]),
        members=in_order,
        not_readable=tuple((members[sha256], reason) for sha256, reason in sorted(cache.failed.items())),
    )


def logits_as_scored(
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
