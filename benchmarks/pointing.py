"""The pointing game (Zhang et al. 2016): does the AI's attention point at the fracture?

Over the fracture boxes of FracAtlas: the share of heat maps whose maximum lies inside a box of the image, the mean
overlap (IoU) of the highlighted box with the best of them, and what chance would reach: the share of the image that its
boxes cover. By the size of the image's boxes. Every image counts, whatever its score.

    python -m benchmarks.pointing --data FOLDER --bundle FILE [--images N] [--json FILE]
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.report import parser_of, report
from fracture_ml.core.records import Box, MediaType, OperatingPoints, Scored, StoredRadiograph
from fracture_ml.data.labels import claims_of_label_file
from fracture_ml.model.bundle import Bundle
from fracture_ml.model.device import choose_device
from fracture_ml.scoring.score import Scorer

COCO = "Annotations/COCO JSON/COCO_fracture_masks.json"
# Upper bounds of the share of the image that its boxes cover; FracAtlas's median is 0.4 %.
SIZES = {"under 0.5 %": 0.005, "0.5 to 2 %": 0.02, "2 % and more": 1.01}


@dataclass(frozen=True, kw_only=True)
class Pointed:
    """One image: whether its maximum lies in a box, the best overlap, and the share of it that the boxes cover."""

    hit: bool
    iou: float
    share: float


def boxes_by_name(folder: Path) -> dict[str, tuple[Box, ...]]:
    """File name -> its fracture boxes, in source pixels."""
    claims = claims_of_label_file(f"inbox/{COCO}", (folder / COCO).read_bytes(), site_secret=b"no identity is here")
    return {claim.subject.rsplit("/", 1)[-1]: claim.boxes for claim in claims if claim.boxes}


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


def measure(folder: Path, bundle: Bundle, images: int | None) -> dict:
    """Hit rate, chance and IoU, of all images and by size."""
    boxes = boxes_by_name(folder)
    paths = [path for path in sorted((folder / "images").rglob("*.jpg")) if path.name in boxes][:images]
    everything = OperatingPoints(t_sensitivity=0.0, t_specificity=0.0, target_sensitivity=0.95, target_specificity=0.95)
    pointed = []
    with Scorer(replace(bundle, operating_points=everything), choose_device()) as scorer:
        items = (
            (StoredRadiograph(radiograph_id=n, sha256="", object_key="", media_type=MediaType.JPEG), path.read_bytes)
            for n, path in enumerate(paths)
        )
        for path, outcome in zip(paths, scorer.score(items), strict=True):
            if isinstance(outcome, Scored) and outcome.heat_map_png is not None:
                with Image.open(path) as image:
                    pointed.append(point(outcome, boxes[path.name], *image.size))
    result = {"images": len(paths), "unreadable": len(paths) - len(pointed), "all": _summary(pointed)}
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
    parser.add_argument("--data", type=Path, required=True, help="a folder of FracAtlas")
    parser.add_argument("--bundle", type=Path, required=True, help="bundle.pt of a version, from the bucket")
    parser.add_argument("--images", type=int)
    options = parser.parse_args()
    content = options.bundle.read_bytes()
    bundle = Bundle.from_bytes(content, expected_sha256=hashlib.sha256(content).hexdigest())
    result = measure(options.data, bundle, options.images)
    report(result, options.json)


if __name__ == "__main__":
    main()
