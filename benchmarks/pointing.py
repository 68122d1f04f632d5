"""The pointing game (Zhang et al. 2016): does the AI's attention point at the fracture?

Over the images of a version's locked test split whose fractures labels drew (FracAtlas): the share of heat maps whose
maximum lies inside a box of the image, the mean overlap (IoU) of the highlighted box with the best of them, and what
chance would reach: the share of the image that its boxes cover. By the size of the image's boxes. Every image counts,
whatever its score. The servers are those of the settings (`make up`).

    python -m benchmarks.pointing [--version N] [--split test] [--json FILE]
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image

from benchmarks.report import parser_of, report
from fracture_ml.core.records import Box, OperatingPoints, Scored, Split
from fracture_ml.model.device import choose_device
from fracture_ml.scoring.score import Scorer
from fracture_ml.steps.bundle import open_bundle
from fracture_ml.steps.context import open_context
from fracture_ml.steps.stored import read_stored
from fracture_ml.stores import Stores

# Upper bounds of the share of the image that its boxes cover; FracAtlas's median is 0.4 %.
SIZES = {"under 0.5 %": 0.005, "0.5 to 2 %": 0.02, "2 % and more": 1.01}


@dataclass(frozen=True, kw_only=True)
class Pointed:
    """One image: whether its maximum lies in a box, the best overlap, and the share of it that the boxes cover."""

    hit: bool
    iou: float
    share: float


def point(outcome: Scored, boxes: Sequence[Box], width_px: int, height_px: int) -> Pointed:
    """Where the maximum and the box of the outcome's attention lie."""
    attention = np.asarray(Image.open(io.BytesIO(outcome.heat_map_png)))  # (h, w)
    row, column = np.argwhere(attention == attention.max()).mean(axis=0) + 0.5
    x, y = column * width_px / attention.shape[1], row * height_px / attention.shape[0]
    covered = np.zeros((height_px, width_px), bool)
    for box in boxes:
        covered[int(box.y) : int(box.y + box.height) + 1, int(box.x) : int(box.x + box.width) + 1] = True
    return Pointed(
        hit=outcome.box is not None  # no attention anywhere points at nothing
        and any(box.x <= x <= box.x + box.width and box.y <= y <= box.y + box.height for box in boxes),
        iou=max(_iou(outcome.box, box) for box in boxes) if outcome.box else 0.0,
        share=float(covered.mean()),
    )


def _iou(one: Box, other: Box) -> float:
    across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    common = max(across, 0.0) * max(down, 0.0)
    return common / (one.width * one.height + other.width * other.height - common)


def measure(stores: Stores, version: int | None, split: Split) -> dict:
    """Hit rate, chance and IoU, of all images and by size. `version` None: the champion."""
    registered = stores.registry.find_champion() if version is None else stores.registry.version_of(version)
    if registered is None:
        raise SystemExit("There is no champion: name a --version.")
    members = [one for one in stores.snapshots.members_of(registered.snapshot_id) if one.split is split and one.boxes]
    sizes = stores.radiographs.sizes_of([one.radiograph_id for one in members])
    stored = stores.radiographs.stored([one.radiograph_id for one in members])
    stores.snapshots.count_look(registered.snapshot_id, split, "the pointing game")
    everything = OperatingPoints(t_sensitivity=0.0, t_specificity=0.0, target_sensitivity=0.95, target_specificity=0.95)
    bundle = replace(open_bundle(stores, registered), operating_points=everything)
    with Scorer(bundle, choose_device()) as scorer:
        items = [(one, partial(read_stored, stores.bucket, one)) for one in stored]
        pointed = [
            point(outcome, member.boxes, *sizes[member.radiograph_id])
            for member, outcome in zip(members, scorer.score(items), strict=True)
            if isinstance(outcome, Scored) and outcome.heat_map_png is not None
        ]
    result = {
        "version": registered.version,
        "split": split.value,
        "image_size_px": bundle.recipe.image_size_px,
        "images": len(members),
        "unreadable": len(members) - len(pointed),
        "all": _summary(pointed),
    }
    smallest = 0.0
    for name, largest in SIZES.items():
        result[name] = _summary([one for one in pointed if smallest <= one.share < largest])
        smallest = largest
    return result


def _summary(pointed: Sequence[Pointed]) -> dict:
    if not pointed:
        return {"n": 0}
    return {
        "n": len(pointed),
        "hit_rate": round(float(np.mean([one.hit for one in pointed])), 3),
        "chance": round(float(np.mean([one.share for one in pointed])), 4),
        "mean_iou": round(float(np.mean([one.iou for one in pointed])), 3),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--version", type=int, help="of the model; without it, the champion")
    parser.add_argument("--split", type=Split, choices=list(Split), default=Split.TEST)
    options = parser.parse_args()
    report(measure(open_context(), options.version, options.split), options.json)


if __name__ == "__main__":
    main()
