"""How much of the model's own speed the training loop keeps.

`real_over_model_only`: images per second of the product's loop (augmentation, metrics, clipping, everything in an
epoch) over the same network and optimiser stepping on one ready batch. The two take turns, so that a machine whose
speed drifts slows both; the median of the rounds is quoted. The first round warms up and does not count.

    python -m benchmarks.training [--json FILE] [--image-size-px 64] [--batch-size 16] [--rounds 5]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.model.device import autocast, choose_device
from fracture_ml.model.network import build_network
from fracture_ml.training.loop import train

IMAGES = 128
VALIDATION = 2


def measure(*, image_size_px: int, batch_size: int, rounds: int) -> dict:
    """Images per second of both, and their ratio, round by round."""
    device = choose_device()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (IMAGES + VALIDATION, image_size_px, image_size_px), dtype=np.uint8)
    labels = np.arange(IMAGES + VALIDATION) % 2
    recipe = TrainRecipe(image_size_px=image_size_px, batch_size=batch_size, epochs=1, warmup_epochs=0)

    network = build_network().to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    batch = torch.randn(batch_size, 1, image_size_px, image_size_px, device=device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    truth = torch.as_tensor(labels[:batch_size], device=device)

    def real() -> float:
        record = train(pixels, labels, np.arange(IMAGES), np.arange(IMAGES, IMAGES + VALIDATION), recipe, device)
        return IMAGES / record.history[0].seconds

    def model_only() -> float:
        started = time.perf_counter()
        for _ in range(IMAGES // batch_size):
            with autocast(device):
                loss = F.cross_entropy(network(batch), truth)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()
        return IMAGES // batch_size * batch_size / (time.perf_counter() - started)

    pairs = [(real(), model_only()) for _ in range(rounds + 1)][1:]
    ratios = [ours / bare for ours, bare in pairs]
    return {
        "device": str(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "image_size_px": image_size_px,
        "batch_size": batch_size,
        "real_images_per_s": statistics.median(ours for ours, _ in pairs),
        "model_only_images_per_s": statistics.median(bare for _, bare in pairs),
        "real_over_model_only": statistics.median(ratios),
        "real_over_model_only_range": [min(ratios), max(ratios)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--image-size-px", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    result = measure(image_size_px=options.image_size_px, batch_size=options.batch_size, rounds=options.rounds)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
