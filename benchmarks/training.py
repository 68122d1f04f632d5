"""How fast the training loop is: against the bare model, against the loop that a user would write, and the cache.

Everything takes turns, round by round, so that a machine whose speed drifts slows all of it; medians of the rounds
and of each round's ratios are quoted, with their range. The first round warms up and does not count.

`real_over_model_only`: images per second in the second epoch of the product's `train`, with the recipe of the nightly
preset (balanced sampling, augmentation, the boxes moved along, metrics, clipping; and validation on 2 images) over the
same network, losses and optimiser stepping on one batch that lies ready with its places. Validation is kept tiny
because it is no training; `--steps` makes the epoch long enough for it not to matter, as it does not in a real one.
Every fracture is given one box of a usual size: where it lies changes no arithmetic.

`real_over_reference_loop`: the same over a plain loop: torchvision's ImageFolder on JPEG files, transforms for each
image, a DataLoader with 4 workers (kept alive between the rounds), float32, three channels, torchvision's resnet50,
Adam, `.item()` in every step. Whole batches alone are counted.

`cache_over_decoder`: images per second of PixelCache.build over decoding and letterboxing the same bytes by the same
calls, in as many threads as there are cores, keeping nothing.

    python -m benchmarks.training [--json FILE] [--image-size-px 224] [--batch-size 32] [--rounds 3] [--data FOLDER]
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from benchmarks.labelled import LabelledRadiographs, labelled_radiographs
from benchmarks.report import parser_of, report
from fracture_ml.core.recipe import TrainRecipe
from fracture_ml.data.cache import PixelCache
from fracture_ml.imaging.decode import decode
from fracture_ml.imaging.letterbox import letterbox
from fracture_ml.model.device import choose_device, has_fast_bf16
from fracture_ml.model.network import build_network
from fracture_ml.steps.presets import PRESETS
from fracture_ml.training.gradients import BatchGradients
from fracture_ml.training.loop import train
from fracture_ml.training.optimizer import new_optimizer
from fracture_ml.training.places import places_of

VALIDATION = 2
A_BOX = (0.45, 0.45, 0.52, 0.51)  # 0.4 % of the square, as a fracture's median box
WORKERS = 4


def real_loop(
    pixels: np.ndarray, labels: np.ndarray, boxes: np.ndarray, recipe: TrainRecipe, steps: int
) -> Callable[[], float]:
    """Images per second of the second epoch; images come as often as the steps need."""
    device = choose_device()
    rows = np.resize(np.arange(VALIDATION, len(labels)), steps * recipe.batch_size)

    def run() -> float:
        trained = train(pixels, labels, boxes, rows, np.arange(VALIDATION), recipe, device)
        return len(rows) / trained.history[1].seconds

    return run


def model_only(recipe: TrainRecipe, steps: int) -> Callable[[], float]:
    """Images per second of the network and the optimiser on one batch that lies ready."""
    device = choose_device()
    network = build_network().to(device, memory_format=torch.channels_last).train()
    optimizer = new_optimizer(network, recipe.with_changes(peak_lr=1e-4))
    gradients = BatchGradients(network, location_weight=recipe.location_weight)
    shape = (recipe.batch_size, 1, recipe.image_size_px, recipe.image_size_px)
    batch = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
    truth = torch.arange(recipe.batch_size, device=device) % 2
    as_it_is = torch.eye(2, 3, device=device).expand(recipe.batch_size, 2, 3)
    boxes = torch.tensor(A_BOX, device=device) * truth[:, None, None]  # (B, 1, 4)
    places = places_of(as_it_is, boxes, torch.ones_like(truth, dtype=torch.bool), recipe.image_size_px)

    def run() -> float:
        started = time.perf_counter()
        for _ in range(steps):
            logits = gradients.compute(batch, truth, places)
            optimizer.step()
        logits.sum().item()
        return steps * recipe.batch_size / (time.perf_counter() - started)

    return run


def reference_loop(folder: Path, recipe: TrainRecipe) -> Callable[[], float]:
    """Images per second of an epoch of the loop that a user would write."""
    device = choose_device()
    size_px = recipe.image_size_px
    of_each_image = transforms.Compose(
        [
            transforms.Resize((size_px, size_px)),
            transforms.RandomAffine(15, translate=(0.08, 0.08), scale=(0.85, 1.15)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(brightness=0.2, contrast=0.2),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    loader = DataLoader(
        ImageFolder(folder, transform=of_each_image),
        batch_size=recipe.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )
    network = models.resnet50(num_classes=2).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    criterion = torch.nn.CrossEntropyLoss()

    def run() -> float:
        running_loss, correct, images = 0.0, 0, 0
        started = time.perf_counter()
        for on_host, classes in loader:
            truth = classes.to(device)
            optimizer.zero_grad()
            logits = network(on_host.to(device))
            loss = criterion(logits, truth)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            correct += (logits.argmax(1) == truth).sum().item()
            images += len(truth)
        return images / (time.perf_counter() - started)

    return run


def decoder(radiographs: LabelledRadiographs, size_px: int) -> Callable[[], float]:
    """Images per second of decoding and letterboxing on all cores."""

    def one(content: bytes) -> None:
        letterbox(decode(content, at_least_px=size_px, colours_checked=True), size_px)

    def run() -> float:
        started = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(one, radiographs.contents))
        return len(radiographs.contents) / (time.perf_counter() - started)

    return run


def cache(radiographs: LabelledRadiographs, size_px: int, folder: Path) -> Callable[[], float]:
    """Images per second of building a pixel cache, on the disk and checked."""
    stored = radiographs.stored()

    def run() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as empty:
            started = time.perf_counter()
            PixelCache.build(stored, size_px, folder=Path(empty), read=radiographs.read)
            return len(stored) / (time.perf_counter() - started)

    return run


def measure(
    *,
    image_size_px: int,
    batch_size: int,
    images: int,
    reference_images: int,
    steps: int,
    rounds: int,
    data: Path | None,
) -> dict[str, object]:
    """Images per second of all five, and their ratios."""
    device = choose_device()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        radiographs = labelled_radiographs(images, data=data, folder=folder / "drawn")
        radiographs.write_class_folders(folder / "classes", reference_images)
        pixels, labels, _ = radiographs.cached(image_size_px, folder)
        boxes = np.float32(A_BOX) * labels[:, None, None]  # (N, 1, 4)
        recipe = PRESETS["nightly"].recipe.with_changes(
            image_size_px=image_size_px, batch_size=batch_size, epochs=2, warmup_epochs=0
        )
        contestants = {
            "real": real_loop(pixels, labels, boxes, recipe, steps),
            "model_only": model_only(recipe, steps),
            "reference_loop": reference_loop(folder / "classes", recipe),
            "cache": cache(radiographs, image_size_px, folder),
            "decoder": decoder(radiographs, image_size_px),
        }
        table = [{name: run() for name, run in contestants.items()} for _ in range(rounds + 1)][1:]
    result: dict[str, object] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "bf16": has_fast_bf16(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "data": "drawn" if data is None else data.name,
        "images": len(radiographs.contents),
        "image_size_px": image_size_px,
        "batch_size": batch_size,
        "steps": steps,
        "rounds": rounds,
    }
    for name in contestants:
        rates = [of_round[name] for of_round in table]
        result[f"{name}_images_per_s"] = statistics.median(rates)
        result[f"{name}_images_per_s_range"] = [min(rates), max(rates)]
    for over, under in (("real", "model_only"), ("real", "reference_loop"), ("cache", "decoder")):
        ratios = [of_round[over] / of_round[under] for of_round in table]
        result[f"{over}_over_{under}"] = statistics.median(ratios)
        result[f"{over}_over_{under}_range"] = [min(ratios), max(ratios)]
    return result


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--image-size-px", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=512, help="radiographs of the cache")
    parser.add_argument("--reference-images", type=int, default=96, help="of them, those of the reference loop")
    parser.add_argument("--steps", type=int, default=12, help="of an epoch of the product's loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="a folder in FracAtlas's layout; without it, radiographs are drawn")
    options = parser.parse_args()
    result = measure(
        image_size_px=options.image_size_px,
        batch_size=options.batch_size,
        images=options.images,
        reference_images=options.reference_images,
        steps=options.steps,
        rounds=options.rounds,
        data=options.data,
    )
    report(result, options.json)


if __name__ == "__main__":
    main()
