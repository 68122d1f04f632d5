"""A champion of random weights and a backlog of drawn radiographs, for the tests that score it."""

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import zoom

from fracture_ml.core.recipe import PreprocessSpec, TrainRecipe
from fracture_ml.core.records import ModelVersion, OperatingPoints
from fracture_ml.model.bundle import Bundle
from fracture_ml.model.network import build_network
from fracture_ml.steps.keys import bundle_key
from fracture_ml.stores import Stores
from tests.stores.stored_rows import arrival, claim, freeze, receive

SIZE_PX = 32


def drawn_png(number: int) -> bytes:
    noise = zoom(np.random.default_rng(number).normal(size=(8, 8)), 5, order=1)  # (40, 40)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noise * 50 + 120, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def drawn_bundle(seed: int = 0, flagged_from: float = 0.5) -> Bundle:
    """A network whose last layer is centred on drawn images, so that about half of them are flagged."""
    torch.manual_seed(seed)
    network = build_network().eval()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(drawn_png(n))).resize((SIZE_PX, SIZE_PX))) for n in range(24)])
    with torch.no_grad():
        network.fc.bias.zero_()
        logits = network(torch.from_numpy(pixels)[:, None].float().sub(120).div(50))
        margins = logits[:, 1] - logits[:, 0]
        network.fc.weight.div_(margins.std())
        network.fc.bias[1] = -margins.median() / margins.std()
    return Bundle(
        state=network.state_dict(),
        recipe=TrainRecipe(image_size_px=SIZE_PX),
        preprocess=PreprocessSpec(image_size_px=SIZE_PX, mean=120 / 255, std=50 / 255),
        calibration={"temperature": 1.0, "bias": 0.0},
        operating_points=OperatingPoints(
            t_sensitivity=flagged_from, t_specificity=0.8, target_sensitivity=0.95, target_specificity=0.95
        ),
        code_version=f"test {seed}",
        snapshot_id="0" * 64,
    )


def receive_drawn(stores: Stores, count: int, *, content: Callable[[int], bytes] = drawn_png, **facts) -> list[int]:
    """Store `count` drawn files and record them as radiographs, every second one labelled negative; their ids."""
    first = stores.radiographs.newest_id()
    arrivals = []
    for n in range(first, first + count):
        name, data = f"inbox/{n}.png", content(n)
        label = claim(name, "negative" if n % 2 else "positive")
        one = arrival(name, f"{n}", stored=data, claims=[label], **facts)
        stores.bucket.write(one.object_key, data)
        arrivals.append(one)
    return sorted(receive(stores, *arrivals))


def promote_drawn(stores: Stores, seed: int = 0, **options) -> ModelVersion:
    """Register a drawn bundle over the radiographs that are there, and make it the champion."""
    bundle = drawn_bundle(seed, **options)
    data, sha256 = bundle.to_bytes()
    key = bundle_key(sha256)
    stores.bucket.write(key, data)
    snapshot_id = freeze(stores)
    version = stores.registry.register(
        snapshot_id=snapshot_id,
        recipe_id=bundle.recipe.id,
        recipe=bundle.recipe.to_json(),
        study_name=None,
        bundle_key=key,
        bundle_sha256=sha256,
        metrics={},
        operating_points=bundle.operating_points,
        code_version=bundle.code_version,
        scores=(),
        actor="a test",
    )
    stores.registry.promote(version.version, actor="a test", reason="a test")
    return version
