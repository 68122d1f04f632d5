"""Radiographs as JPEGs of the sizes of FracAtlas, real or drawn, and a champion of random weights to score them."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fracture_ml.core.recipe import PreprocessSpec, SplitPlan, TrainRecipe, hash_of_json
from fracture_ml.core.records import (
    BodyPart,
    MediaType,
    ModelVersion,
    OperatingPoints,
    RadiographFacts,
    ReceivedObject,
    Scored,
    SnapshotDraft,
    StoredRadiograph,
)
from fracture_ml.demo.drawing import draw_study
from fracture_ml.imaging.decode import DecodeLimits
from fracture_ml.model.bundle import Bundle
from fracture_ml.model.network import build_network
from fracture_ml.scoring.score import Scorer
from fracture_ml.scoring.view import view_of
from fracture_ml.steps.ingest import NEAR_DUPLICATE_BITS
from fracture_ml.steps.keys import bundle_key
from fracture_ml.stores import Stores
from fracture_ml.stores.radiographs import Arrival

USUAL_PX = (373, 454)
LARGE_PX = (2304, 2880)
LARGE_SHARE = 0.12
FLAGGED_SHARE = 0.2
_DISTINCT_DRAWINGS = 24
_ROWS_AT_ONCE = 1000


def jpegs(count: int, *, size_px: tuple[int, int] = USUAL_PX, data: Path | None = None) -> list[bytes]:
    """`count` JPEGs, (width, height) = `size_px`: files of FracAtlas in `data` of this size, else drawn; repeated."""
    if data is not None:
        files = [path for path in sorted(data.rglob("*.jpg")) if _size_of(path) == size_px][:count]
        found = [content for content in (path.read_bytes() for path in files) if _is_whole(content)]
    else:
        found = [_drawn(number, size_px) for number in range(min(count, _DISTINCT_DRAWINGS))]
    return [found[number % len(found)] for number in range(count)]


def mixed_jpegs(count: int, *, data: Path | None = None) -> list[bytes]:
    """As `jpegs`, with 12 % of originals of 2304 x 2880 spread over them."""
    usual, large = jpegs(count, data=data), jpegs(count, size_px=LARGE_PX, data=data)
    takes_large = np.diff(np.floor(np.arange(count + 1) * LARGE_SHARE)) > 0
    return [large[n] if takes_large[n] else usual[n] for n in range(count)]


def receive(stores: Stores, files: Sequence[bytes]) -> None:
    """Each file becomes a radiograph of its own, also where its bytes repeat; equal bytes are one object."""
    arrivals = []
    for number, content in enumerate(files):
        stored_sha256 = hashlib.sha256(content).hexdigest()
        object_key = f"radiographs/{stored_sha256}.jpg"
        if number < 2 * _DISTINCT_DRAWINGS or stores.bucket.find(object_key) is None:
            stores.bucket.write(object_key, content, MediaType.JPEG)
        digest = hashlib.sha256(f"{number}".encode()).hexdigest()
        facts = RadiographFacts(
            sha256=digest,
            media_type=MediaType.JPEG,
            size_bytes=len(content),
            width_px=USUAL_PX[0],
            height_px=USUAL_PX[1],
            bits_stored=8,
            photometric="MONOCHROME2",
            perceptual_hash=int(digest[:16], 16),
        )
        received = ReceivedObject(key=f"inbox/{number}.jpg", etag=digest, size_bytes=len(content))
        arrivals.append(Arrival(received=received, facts=facts, object_key=object_key, stored_sha256=stored_sha256))
    for start in range(0, len(arrivals), _ROWS_AT_ONCE):
        stores.radiographs.record_radiographs(
            arrivals[start : start + _ROWS_AT_ONCE], near_duplicate_bits=NEAR_DUPLICATE_BITS
        )


def random_bundle(files: Sequence[bytes], *, image_size_px: int) -> Bundle:
    """Random weights whose operating points flag about a fifth of `files`, a quarter of those as urgent."""
    torch.manual_seed(0)
    squares = np.stack([view_of(one, DecodeLimits(), image_size_px=image_size_px).square for one in files])
    preprocess = PreprocessSpec(
        image_size_px=image_size_px, mean=squares.mean() / 255, std=max(squares.std() / 255, 0.01)
    )
    network = build_network()
    bundle = Bundle(
        state=network.state_dict(),
        recipe=TrainRecipe(image_size_px=image_size_px),
        preprocess=preprocess,
        calibration={"temperature": 1.0, "bias": 0.0},
        operating_points=_points(2.0, 2.0),
        code_version="benchmark",
        snapshot_id="0" * 64,
    )
    margins = np.array([np.log(one.probability / (1 - one.probability)) for one in scored(bundle, files)])
    scale = float(1 / margins.std())  # an untrained network hardly tells images apart: a trained one's spread
    bundle = replace(
        bundle,
        state={**bundle.state, "fc.weight": bundle.state["fc.weight"] * scale, "fc.bias": torch.zeros(2)},
    )
    scores = np.array([one.calibrated for one in scored(bundle, files)])
    lower, upper = np.quantile(scores, (1 - FLAGGED_SHARE, 1 - FLAGGED_SHARE / 4))
    return replace(bundle, operating_points=_points(float(lower), float(upper)))


def flagging_nothing(bundle: Bundle) -> Bundle:
    """The same weights with operating points that no score reaches: no heat map is drawn."""
    return replace(bundle, operating_points=_points(2.0, 2.0))


def scored(bundle: Bundle, files: Sequence[bytes]) -> list[Scored]:
    """The product's outcomes of whole files, without heat maps, on the CPU."""
    with Scorer(bundle, torch.device("cpu"), heat_maps=False) as scorer:
        items = [(_unstored(number), lambda content=content: content) for number, content in enumerate(files)]
        return list(scorer.score(items))


def promote(stores: Stores, bundle: Bundle, name: str) -> ModelVersion:
    """Register `bundle` as a new version, so that everything is due again, and make it the champion."""
    content, sha256 = bundle.to_bytes()
    key = bundle_key(sha256)
    stores.bucket.write(key, content)
    snapshot = SnapshotDraft(id=hash_of_json(["benchmark"]), members=())
    stores.snapshots.save(snapshot, SplitPlan(), as_of=datetime.now(UTC))
    version = stores.registry.register(
        snapshot_id=snapshot.id,
        recipe_id=bundle.recipe.id,
        recipe=bundle.recipe.to_json(),
        study_name=None,
        bundle_key=key,
        bundle_sha256=sha256,
        metrics={},
        operating_points=bundle.operating_points,
        code_version=name,
        scores=(),
        actor="benchmark",
    )
    stores.registry.promote(version.version, actor="benchmark", reason="benchmark")
    return version


def _points(lower: float, upper: float) -> OperatingPoints:
    return OperatingPoints(t_sensitivity=lower, t_specificity=upper, target_sensitivity=0.95, target_specificity=0.95)


def _unstored(number: int) -> StoredRadiograph:
    return StoredRadiograph(
        radiograph_id=number, sha256="", object_key="", media_type=MediaType.JPEG, stored_sha256=None
    )


def _drawn(number: int, size_px: tuple[int, int]) -> bytes:
    rng = np.random.default_rng(number)
    (drawn,) = draw_study(rng, body_part=BodyPart.WRIST, fractured=bool(number % 2), views=1)
    picture = Image.fromarray(drawn.pixels).resize(size_px, Image.Resampling.BICUBIC)
    noisy = np.asarray(picture, np.float32) + rng.normal(0, 3, (size_px[1], size_px[0])).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _is_whole(content: bytes) -> bool:
    try:
        Image.open(io.BytesIO(content)).load()
    except OSError:
        return False
    return True
