"""What the benchmarks train on: labelled radiographs of a folder, or drawn ones."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fracture_ml.core.errors import UnusableObject
from fracture_ml.core.records import LabelValue, MediaType, StoredRadiograph
from fracture_ml.data.boxes import boxes_in_square
from fracture_ml.data.cache import PixelCache
from fracture_ml.data.labels import claims_of_label_file
from fracture_ml.demo.drawing import DRAWN_BODY_PARTS, draw_study
from fracture_ml.imaging.decode import decode

_SEED = 0


@dataclass(frozen=True, kw_only=True)
class LabelledRadiographs:
    """Different, readable JPEGs, in memory, half of them fractured, in random order."""

    contents: tuple[bytes, ...]
    labels: np.ndarray  # int64, (N,), 1 = fracture

    def stored(self) -> list[StoredRadiograph]:
        """As the pixel cache wants them; the id is the number."""
        return [
            StoredRadiograph(
                radiograph_id=number,
                sha256=hashlib.sha256(content).hexdigest(),
                object_key="",
                media_type=MediaType.JPEG,
                stored_sha256=None,
            )
            for number, content in enumerate(self.contents)
        ]

    def cached(self, size_px: int, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The product's pixel cache of them, in its own order: pixels, uint8, (N, S, S), labels, (N,), and boxes.

        The boxes, float32, (N, 1, 4), are those of fractures that nobody drew.
        """
        stored = self.stored()
        cache = PixelCache.build(stored, size_px, folder=folder, read=self.read)
        label_of = {one.sha256: label for one, label in zip(stored, self.labels, strict=True)}
        labels = np.array([label_of[sha256] for sha256 in cache.row_of], dtype=np.int64)
        return cache.pixels, labels, boxes_in_square([(label, (), 1, 1) for label in labels])

    def read(self, radiograph: StoredRadiograph) -> bytes:
        """The bytes of one of those that are `stored`."""
        return self.contents[radiograph.radiograph_id]

    def write_class_folders(self, folder: Path, images: int) -> None:
        """The first so many, as torchvision's ImageFolder wants them."""
        for number, (content, label) in enumerate(zip(self.contents[:images], self.labels, strict=False)):
            of_class = folder / ("fracture" if label else "no_fracture")
            of_class.mkdir(parents=True, exist_ok=True)
            (of_class / f"{number:05d}.jpg").write_bytes(content)


def labelled_radiographs(images: int, *, data: Path | None, folder: Path) -> LabelledRadiographs:
    """So many radiographs, or as many as there are, of a folder in FracAtlas's layout, else drawn into `folder`."""
    paths_of = _draw(images, folder) if data is None else _labelled_files(data)
    contents_of = {label: _first_usable(paths, images // 2) for label, paths in paths_of.items()}
    each = min(len(contents) for contents in contents_of.values())
    chosen = [(content, label) for label, contents in contents_of.items() for content in contents[:each]]
    order = np.random.default_rng(_SEED).permutation(len(chosen))
    return LabelledRadiographs(
        contents=tuple(chosen[at][0] for at in order),
        labels=np.array([chosen[at][1] for at in order], dtype=np.int64),
    )


def _labelled_files(data: Path) -> dict[int, list[Path]]:
    """The images that dataset.csv names, by label, shuffled."""
    claims = claims_of_label_file("dataset.csv", (data / "dataset.csv").read_bytes(), site_secret=b"benchmark")
    label_of = {claim.subject: int(claim.value is LabelValue.POSITIVE) for claim in claims}
    found: dict[int, list[Path]] = {0: [], 1: []}
    for path in sorted((data / "images").rglob("*.jpg")):
        if path.name in label_of:
            found[label_of[path.name]].append(path)
    rng = np.random.default_rng(_SEED)
    return {label: [paths[at] for at in rng.permutation(len(paths))] for label, paths in found.items()}


def _draw(images: int, folder: Path) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = {0: [], 1: []}
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        rng = np.random.default_rng([_SEED, number])
        body_part = DRAWN_BODY_PARTS[number // 2 % len(DRAWN_BODY_PARTS)]
        (drawn,) = draw_study(rng, body_part=body_part, fractured=number % 2 == 1, views=1)
        path = folder / f"{number}.jpg"
        Image.fromarray(drawn.pixels).save(path, quality=90)
        found[number % 2].append(path)
    return found


def _first_usable(paths: list[Path], wanted: int) -> list[bytes]:
    """The contents of the first files that can be decoded, each content once."""
    contents: dict[bytes, None] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), 64):
            if len(contents) >= wanted:
                break
            contents |= {content: None for content in pool.map(_usable, paths[start : start + 64]) if content}
    return list(contents)[:wanted]


def _usable(path: Path) -> bytes | None:
    content = path.read_bytes()
    try:
        decode(content)
    except UnusableObject:
        return None
    return content
