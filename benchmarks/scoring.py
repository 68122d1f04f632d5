"""How much of the model's own speed an hour's scoring keeps: S3 to Postgres, heat maps on.

The arrangements take turns in each round, so that a machine whose speed drifts slows all of them; medians of the rounds
are quoted with their ranges. The first round warms up and does not count. JPEGs of 373 x 454, real or drawn; random
weights, with operating points that flag a fifth of the images.

    end_to_end_over_forward_only       `score_batch` (bundle opened, S3 read, heat maps, S3 and Postgres written) over
                                       the frozen network alone on ready batches, with the same threads
    end_to_end_over_one_by_one         over the usual script: PIL, torchvision transforms, float32, one image at a time,
                                       files in memory, no S3, no database, no heat map; in the machine's own
                                       environment, all else in that of the stack's tasks
    heat_map_cost                      share of the run's time: the same run with operating points that flag nothing
    with_large_originals_over_forward_only    12 % of the originals are 2304 x 2880
    max_probability_difference         to the plain float32 network on the same decoded input
    decisions_that_differ              at either operating point, where its score is further from it than 0.02
    workers_speed_up                   of two and of four processes of one thread over one of them, on one backlog: on
                                       two cores more than 2 cannot be had
    peak_memory_ratio                  resident memory at its highest of a process that scores many over one of few

    python -m benchmarks.scoring [--json FILE] [--data FOLDER] [--images 1536] [--rounds 3] [--image-size-px 224]
        [--worker-images 1024] [--memory-images 1000 10000] [--memory-image-size-px 64]
"""

import argparse
import io
import multiprocessing
import os
import re
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from benchmarks.radiographs import flagging_nothing, jpegs, mixed_jpegs, promote, random_bundle, receive, scored
from benchmarks.report import as_a_script, parser_of, start_as_a_task
from benchmarks.servers import Servers, report_with_servers
from fracture_ml.data.preprocess import to_model_input
from fracture_ml.evaluation.calibration import Calibration
from fracture_ml.imaging.decode import DecodeLimits
from fracture_ml.model.bundle import Bundle
from fracture_ml.model.device import autocast, choose_device
from fracture_ml.model.inference import freeze_for_inference
from fracture_ml.scoring.score import BATCH_SIZE
from fracture_ml.scoring.view import view_of
from fracture_ml.steps.context import open_context
from fracture_ml.steps.score import score_batch
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores

DIFFERENCE = 0.02
_ONE_BY_ONE_IMAGES = 48


def forward_only(bundle: Bundle, device: torch.device, images: int) -> Callable[[], float]:
    """Call it for images per second of the frozen network on a ready batch, one thread per core as in scoring."""
    network = freeze_for_inference(bundle.build_network(torch.device("cpu")), device)
    size, batch_size = bundle.preprocess.image_size_px, BATCH_SIZE[device.type]
    ready = torch.randn(batch_size, 1, size, size, device=device).contiguous(memory_format=torch.channels_last)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    batches = max(1, round(images / batch_size / threads))

    def forward_batches(_: int) -> None:
        with torch.inference_mode(), autocast(device):
            for _ in range(batches):
                logits = network(ready)
            logits.cpu()

    def measure() -> float:
        before = torch.get_num_threads()
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            started = time.perf_counter()
            list(pool.map(forward_batches, range(threads)))
            elapsed = time.perf_counter() - started
        torch.set_num_threads(before)
        return threads * batches * batch_size / elapsed

    return measure


def one_by_one(script: ProcessPoolExecutor, bundle: Bundle, files: Sequence[bytes]) -> Callable[[], float]:
    """Call it for images per second of the usual script, in a process of its own that nobody prepared for it."""
    return lambda: script.submit(_one_by_one, bundle, files).result()


def _one_by_one(bundle: Bundle, files: Sequence[bytes]) -> float:
    device = choose_device()
    network = bundle.build_network(device).to(memory_format=torch.contiguous_format)
    size = bundle.preprocess.image_size_px
    transform = v2.Compose(
        [
            v2.Grayscale(),
            v2.Resize((size, size)),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([bundle.preprocess.mean], [bundle.preprocess.std]),
        ]
    )
    with torch.no_grad():
        for number, content in enumerate([files[0], *files]):
            if number == 1:  # the first one warms up
                started = time.perf_counter()
            x = transform(Image.open(io.BytesIO(content))).unsqueeze(0).to(device)  # (1, 1, S, S)
            torch.softmax(network(x), 1)[0, 1].item()
    return len(files) / (time.perf_counter() - started)


def end_to_end(stores: Stores, settings: Settings, bundle: Bundle, name: str) -> Callable[[], float]:
    """Call it for images per second of a whole `score_batch` over all that is stored, by a new version each time."""
    rounds = iter(range(10_000))

    def measure() -> float:
        version = promote(stores, bundle, f"{name} {next(rounds)}").version
        started = time.perf_counter()
        done = score_batch(stores, settings, version=version, first=1, last=stores.radiographs.newest_id())
        elapsed = time.perf_counter() - started
        missing = stores.predictions.reconcile(version)["missing"]
        if missing or not done["scored"]:
            raise SystemExit(f"{missing} images have no outcome, {done['scored']} have a score: nothing was measured")
        return done["due"] / elapsed

    return measure


def agreement(bundle: Bundle, files: Sequence[bytes]) -> dict:
    """The product's probabilities against the plain float32 network's on the same decoded input."""
    size = bundle.preprocess.image_size_px
    network, calibration = bundle.build_network(torch.device("cpu")), Calibration.from_json(bundle.calibration)
    ours = scored(bundle, files)
    logits = []
    with torch.inference_mode():
        for content in files:
            square = view_of(content, DecodeLimits(), image_size_px=size).square
            logits.append(network(to_model_input(torch.from_numpy(square)[None, None], bundle.preprocess)))
    logits = torch.cat(logits)  # (n, 2)
    plain = torch.softmax(logits, 1)[:, 1].numpy()
    calibrated = calibration.calibrated(logits.numpy())
    thresholds = (bundle.operating_points.t_sensitivity, bundle.operating_points.t_specificity)
    differ = sum(
        (one.calibrated >= threshold) != (float(score) >= threshold) and abs(float(score) - threshold) > DIFFERENCE
        for one, score in zip(ours, calibrated, strict=True)
        for threshold in thresholds
    )
    return {
        "max_probability_difference": float(np.abs(plain - [one.probability for one in ours]).max()),
        "decisions_that_differ": differ,
        "compared_images": len(files),
    }


def workers_speed_up(servers: Servers, bundle: Bundle, files: Sequence[bytes]) -> dict:
    """Images per second of processes that share a backlog, from the first one's start to the last one's end."""
    stores = servers.create("workers")
    receive(stores, files)
    settings = servers.settings("workers").model_copy(update={"threads": 1})
    rates = {}
    for count in (1, 2, 4):
        version = promote(stores, bundle, f"{count} workers").version
        spawn = multiprocessing.get_context("spawn")
        with spawn.Manager() as manager, ProcessPoolExecutor(count, mp_context=spawn) as pool:
            ready = manager.Barrier(count)
            times = list(pool.map(_times_of_a_run, *([one] * count for one in (settings, version, ready))))
        if missing := stores.predictions.reconcile(version)["missing"]:
            raise SystemExit(f"{missing} images have no outcome of {count} workers: nothing was measured")
        rates[count] = len(files) / (max(end for _, end in times) - min(start for start, _ in times))
    return {
        "workers_images_per_s": {str(count): rate for count, rate in rates.items()},
        "workers_speed_up": {str(count): rates[count] / rates[1] for count in (2, 4)},
    }


def _times_of_a_run(settings: Settings, version: int, ready: threading.Barrier) -> tuple[float, float]:
    stores = open_context(settings)
    ready.wait(timeout=120)
    started = time.monotonic()
    score_batch(stores, settings, version=version, first=1, last=stores.radiographs.newest_id())
    return started, time.monotonic()


def peak_memory(servers: Servers, bundle: Bundle, files: Sequence[bytes], counts: Sequence[int]) -> dict:
    """Of a new process for each count: the highest resident memory while it scores a backlog of that many."""
    peaks = {}
    for count in counts:
        name = f"memory{count}"
        stores = servers.create(name)
        receive(stores, [files[number % len(files)] for number in range(count)])
        version = promote(stores, bundle, name).version
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            peaks[count] = pool.submit(_peak_of_a_run, servers.settings(name), version).result()
    few, many = min(counts), max(counts)
    return {
        "peak_memory_mib": {str(count): peaks[count] for count in counts},
        "peak_memory_ratio": peaks[many] / peaks[few],
    }


def _peak_of_a_run(settings: Settings, version: int) -> float:
    stores = open_context(settings)
    score_batch(stores, settings, version=version, first=1, last=stores.radiographs.newest_id())
    # getrusage would count the parent's memory too: it survives the start of a new program.
    (line,) = re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return int(line) / 1024


def measure(options: argparse.Namespace, servers: Servers) -> dict:
    """All of it, as one JSON object."""
    device = choose_device()
    usual = jpegs(options.images, data=options.data)
    bundle = random_bundle(usual[: min(256, len(usual))], image_size_px=options.image_size_px)
    receive(plain := servers.create("usual"), usual)
    receive(mixed := servers.create("mixed"), mixed_jpegs(options.images, data=options.data))
    with as_a_script():
        script = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        script.submit(os.getpid).result()  # it is there now
    arrangements = {
        "forward_only": forward_only(bundle, device, options.images),
        "end_to_end": end_to_end(plain, servers.settings("usual"), bundle, "maps"),
        "without_heat_maps": end_to_end(plain, servers.settings("usual"), flagging_nothing(bundle), "no maps"),
        "with_large_originals": end_to_end(mixed, servers.settings("mixed"), bundle, "large"),
        "one_by_one": one_by_one(script, bundle, usual[:_ONE_BY_ONE_IMAGES]),
    }
    rounds = [{name: run() for name, run in arrangements.items()} for _ in range(options.rounds + 1)][1:]
    script.shutdown()
    ratios = {
        "end_to_end_over_forward_only": [one["end_to_end"] / one["forward_only"] for one in rounds],
        "end_to_end_over_one_by_one": [one["end_to_end"] / one["one_by_one"] for one in rounds],
        "heat_map_cost": [1 - one["end_to_end"] / one["without_heat_maps"] for one in rounds],
        "with_large_originals_over_forward_only": [one["with_large_originals"] / one["forward_only"] for one in rounds],
    }
    result = {
        "device": str(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "images": options.images,
        "image_size_px": options.image_size_px,
        "rounds": options.rounds,
        "data": "real" if options.data else "drawn",
        "images_per_s": {name: statistics.median(one[name] for one in rounds) for name in arrangements},
    }
    for name, values in ratios.items():
        result |= {name: statistics.median(values), f"{name}_range": [min(values), max(values)]}
    result |= agreement(bundle, usual[: min(200, len(usual))])
    result |= workers_speed_up(servers, bundle, usual[: options.worker_images])
    small = random_bundle(usual[:64], image_size_px=options.memory_image_size_px)
    return result | peak_memory(servers, small, usual, options.memory_images)


def main() -> None:
    start_as_a_task()
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, help="a folder of FracAtlas; without it the radiographs are drawn")
    parser.add_argument("--images", type=int, default=1536)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image-size-px", type=int, default=224)
    parser.add_argument("--worker-images", type=int, default=1024)
    parser.add_argument("--memory-images", type=int, nargs=2, default=(1000, 10_000))
    parser.add_argument("--memory-image-size-px", type=int, default=64)
    report_with_servers(parser, measure)


if __name__ == "__main__":
    main()
