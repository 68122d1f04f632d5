"""One training, read from top to bottom: batch, loss, step, record."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss
from torch import Tensor

from fracture_ml.core.errors import NotEnoughData, OutOfMemory, OutOfTime, TrainingDiverged
from fracture_ml.core.recipe import PreprocessSpec, TrainRecipe
from fracture_ml.data.augment import draw_views
from fracture_ml.data.boxes import known_places
from fracture_ml.data.preprocess import measure_spec, to_model_input
from fracture_ml.evaluation.calibration import fit_temperature
from fracture_ml.evaluation.metrics import weighted_auroc
from fracture_ml.model.device import autocast
from fracture_ml.model.network import FractureNetwork, build_network
from fracture_ml.training.checkpoint import identity_of, restore, to_bytes
from fracture_ml.training.gradients import BatchGradients
from fracture_ml.training.optimizer import clip_in_the_step, new_optimizer
from fracture_ml.training.places import places_of
from fracture_ml.training.sampling import batch_sizes, shuffled_batches
from fracture_ml.training.state import EpochRecord, TrainingState

_SHARE_OF_FREE_MEMORY = 0.5  # what the pixels may take of a GPU; the rest is for the network
_EPOCHS_CHOSEN_BY = 3  # the epoch that is kept ends the best so many; the first ones have fewer
_STEP_AT = (1 / 3, 2 / 3)  # the step schedule divides the learning rate by ten here


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """The weights of the best epoch, on the CPU, and how they came about."""

    state: Mapping[str, Tensor]
    best_epoch: int  # from 1
    history: tuple[EpochRecord, ...]
    spec: PreprocessSpec

    @property
    def best_record(self) -> EpochRecord:
        return self.history[self.best_epoch - 1]


@contextmanager
def _naming_a_full_memory() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"The device's memory was full outside the gradients: ask for a smaller batch or image size ({error})."
        ) from error


@_naming_a_full_memory()
def train(
    pixels: Tensor | np.ndarray,
    labels: np.ndarray,
    boxes: np.ndarray,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    recipe: TrainRecipe,
    device: torch.device,
    *,
    initial_state: Mapping[str, Tensor] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    resume: bytes | None = None,
    keep: Callable[[bytes], None] | None = None,
    keep_every_s: float = 120.0,
) -> TrainedNetwork:
    """Train a ResNet50 on `train_rows`, and keep the epoch that ends the three which are best on `validation_rows`.

    On a CPU the same arguments give the same bits, and so does a training that was killed and goes on from a
    checkpoint. `should_stop` is asked before every batch: once it says yes, what the finished epochs gave is returned.

    Args:    pixels: uint8, (N, S, S), S = recipe.image_size_px; a memory map, or already on the device.
             labels: 0 or 1, (N,). boxes: float32, (N, K, 4), the fractures' places, as data/boxes.py makes them.
             train_rows, validation_rows: int, row numbers of `pixels`.
             keep: is handed a checkpoint between two batches whenever `keep_every_s` have passed since the last one,
             and when `should_stop` says yes. resume: such a checkpoint, or None; one that is damaged or of another
             training is not used, and the log says so.
    Raises:  NotEnoughData: fewer than two training rows, one class only among them, or no validation rows.
             TrainingDiverged: the loss is no longer finite. OutOfTime: stopped before the first epoch ended.
             WeightsUnavailable: `initial_state` is not a ResNet50's. OutOfMemory: not even one image fits, or memory
             ended outside the gradients, whose batch is halved.
    """
    _require_two_classes(labels[train_rows], len(validation_rows))
    spec = measure_spec(pixels, train_rows)
    pixels = on_device_if_it_fits(pixels, device)
    drawn = known_places(labels, boxes)  # (N,)
    asks_for_places = recipe.location_weight > 0 and bool((drawn & (labels == 1))[train_rows].any())
    state = _new_state(recipe, device, initial_state)
    identity = identity_of(recipe, spec, labels, boxes, train_rows, validation_rows, device)
    if resume is not None:
        restore(state, resume, identity)
    class_weights = _class_weights(labels[train_rows], device) if recipe.balance == "weighted_loss" else None
    gradients = BatchGradients(state.network, class_weights, location_weight=recipe.location_weight)
    steps_per_epoch = len(batch_sizes(len(train_rows), recipe.batch_size))
    targets = torch.as_tensor(labels, dtype=torch.int64).to(device)  # (N,)
    squares, known = torch.as_tensor(boxes).to(device), torch.as_tensor(drawn).to(device)  # (N, K, 4), (N,)
    kept_at = time.monotonic()

    while state.epoch <= recipe.epochs and not _waited_in_vain(state, recipe):
        began = time.perf_counter() - state.seconds
        state.network.train()
        size_px = image_size(recipe, state.epoch)
        batches = shuffled_batches(train_rows, labels, recipe, state.order)
        for on_host in islice(batches, state.batch, None):
            stopping = should_stop is not None and should_stop()
            if keep is not None and (stopping or time.monotonic() - kept_at >= keep_every_s):
                state.seconds = time.perf_counter() - began
                keep(to_bytes(state, identity))
                kept_at = time.monotonic()
            if stopping:
                return _result(state, spec)
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(recipe, (state.step + 1) / steps_per_epoch)
            rows = on_host.to(device, non_blocking=True)
            truth = targets[rows]  # (B,)
            batch = to_model_input(_take(pixels, on_host, device), spec)  # (B, 1, S, S)
            seen, theta = draw_views(batch, spec, recipe, state.distortion, size_px=size_px)
            places = places_of(theta, squares[rows], known[rows], size_px) if asks_for_places else None
            logits = gradients.compute(seen, truth, places)  # (B, 2)
            if recipe.gradient_clip_norm > 0:
                clip_in_the_step(state.optimizer, recipe.gradient_clip_norm)
            state.optimizer.step()
            state.step += 1
            state.batch += 1
            plain_loss = F.cross_entropy(logits, truth, reduction="sum")
            state.seen += torch.stack([plain_loss, (logits.argmax(1) == truth).sum(), torch.ones_like(truth).sum()])

        lr = learning_rate(recipe, state.step / steps_per_epoch)
        train_loss, train_correct, images = state.seen.tolist()
        if not math.isfinite(train_loss):
            raise TrainingDiverged(
                f"The loss is no longer finite in epoch {state.epoch}: lower the learning rate ({lr:g})."
            )
        answers = predict_logits(state.network, pixels, validation_rows, spec, device)  # (n, 2)
        record = EpochRecord(
            epoch=state.epoch,
            train_loss=train_loss / images,
            train_accuracy=train_correct / images,
            **_validation_measures(answers, labels[validation_rows], state.epoch),
            lr=lr,
            seconds=time.perf_counter() - began,
        )
        so_far, best = [*state.history, record], state.best_epoch
        state.end_epoch(record, is_best=not best or _rank(so_far, record.epoch, recipe) > _rank(so_far, best, recipe))
        if on_epoch is not None:
            on_epoch(record)
    return _result(state, spec)


@torch.inference_mode()
def predict_logits(
    network: FractureNetwork,
    pixels: Tensor | np.ndarray,
    rows: np.ndarray,
    spec: PreprocessSpec,
    device: torch.device,
    batch: int = 32,
) -> np.ndarray:
    """The network's answer for each row, in order. The network moves to the device and stays in evaluation mode.

    In the precision that scoring uses, so that thresholds chosen on these logits hold there.

    Args:    pixels: uint8, (N, S, S). rows: int, (n,).
    Returns: float32, (n, 2): logits of no fracture and fracture.
    """
    network.to(device, memory_format=torch.channels_last).eval()
    pixels = torch.as_tensor(pixels)
    answers = []
    for chunk in torch.as_tensor(np.ascontiguousarray(rows, dtype=np.int64)).to(pixels.device).split(batch):
        inputs = to_model_input(_take(pixels, chunk, device), spec)
        with autocast(device):
            answers.append(network(inputs))
    return torch.cat(answers).cpu().numpy() if answers else np.zeros((0, 2), dtype=np.float32)


def learning_rate(recipe: TrainRecipe, epochs_done: float) -> float:
    """The rate after `epochs_done` epochs (a fraction within one): a linear warm-up to the peak, then the schedule.

    cosine: down to zero along half a cosine (Loshchilov and Hutter, 2017). step: a tenth after each third.
    """
    if epochs_done < recipe.warmup_epochs:
        return recipe.peak_lr * epochs_done / recipe.warmup_epochs
    share = (epochs_done - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1)
    if recipe.scheduler == "cosine":
        return recipe.peak_lr * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    if recipe.scheduler == "step":
        return recipe.peak_lr * 0.1 ** sum(share > at for at in _STEP_AT)
    return recipe.peak_lr


def image_size(recipe: TrainRecipe, epoch: int) -> int:
    """The side in pixels at which an epoch, from 1, sees the images; they are validated at the full size throughout.

    The sizes from the smallest to the full one, 32 px apart, share the epochs equally: the first ones learn what is
    coarse for a fraction of the cost (progressive learning: Tan and Le, EfficientNetV2, 2021). Where there are fewer
    epochs than sizes, small ones are left out; the last epoch always has the full one.
    """
    full_px = recipe.image_size_px
    sizes_px = range(min(recipe.smallest_image_size_px or full_px, full_px), full_px + 1, 32)
    return sizes_px[-1 - (recipe.epochs - epoch) * len(sizes_px) // recipe.epochs]


def on_device_if_it_fits(pixels: Tensor | np.ndarray, device: torch.device) -> Tensor:
    """`pixels` as one tensor on the device, or, where a GPU has no room, as the memory map that it was.

    Args:    pixels: uint8, (N, S, S).
    """
    pixels = torch.as_tensor(pixels)
    if device.type == "cuda" and pixels.device.type != "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        if pixels.nbytes <= _SHARE_OF_FREE_MEMORY * free_bytes:
            return pixels.to(device)
    return pixels


def _require_two_classes(train_labels: np.ndarray, validation_size: int) -> None:
    if len(np.unique(train_labels)) < 2:
        raise NotEnoughData("The radiographs to train on are all of one class: add labelled radiographs of the other.")
    if validation_size == 0:
        raise NotEnoughData(
            "There is no radiograph to validate on: add labelled radiographs of more patients or studies."
        )


def _new_state(recipe: TrainRecipe, device: torch.device, initial_state: Mapping[str, Tensor] | None) -> TrainingState:
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.manual_seed(recipe.seed)
        network = build_network(initial_state=initial_state)
    network = network.to(device, memory_format=torch.channels_last)
    return TrainingState(
        network=network,
        optimizer=new_optimizer(network, recipe),
        order=torch.Generator().manual_seed(recipe.seed),
        distortion=torch.Generator(device).manual_seed(recipe.seed + 1),
        seen=torch.zeros(3, dtype=torch.float64, device=device),
    )


def _waited_in_vain(state: TrainingState, recipe: TrainRecipe) -> bool:
    at_full_size = sum(image_size(recipe, record.epoch) == recipe.image_size_px for record in state.history)
    return 0 < recipe.early_stopping_epochs <= min(len(state.history) - state.best_epoch, at_full_size)


def _class_weights(train_labels: np.ndarray, device: torch.device) -> Tensor:
    """float32, (2,): each class counts the same in total, an average image counts 1."""
    counts = np.bincount(train_labels, minlength=2)
    return torch.as_tensor(len(train_labels) / (2 * counts), dtype=torch.float32, device=device)


def _take(pixels: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """uint8, (B, 1, S, S) on the device."""
    taken = pixels[rows.to(pixels.device, non_blocking=True)].unsqueeze(1)
    if taken.device.type == "cpu" and device.type == "cuda":
        taken = taken.pin_memory()  # so that the copy does not hold up the host
    return taken.to(device, non_blocking=True)


def _validation_measures(logits: np.ndarray, truth: np.ndarray, epoch: int) -> dict[str, float | None]:
    """Of calibrated scores, as a bundle's are: a weighted loss teaches another prevalence than the data's."""
    if not np.isfinite(logits).all():
        raise TrainingDiverged(
            f"The network's answers are no longer finite after epoch {epoch}: lower the learning rate."
        )
    scores = fit_temperature(logits, truth).calibrated(logits).astype(np.float64)  # (n,)
    correct = (scores >= 0.5) == (truth == 1)
    both = 0 < truth.sum() < len(truth)
    margins = logits[:, 1] - logits[:, 0]
    return {
        "validation_loss": float(log_loss(truth, scores, labels=(0, 1))),
        "validation_accuracy": float(correct.mean()),
        "validation_balanced_accuracy": float((correct[truth == 0].mean() + correct[truth == 1].mean()) / 2)
        if both
        else None,
        "validation_auroc": float(weighted_auroc(margins, truth, np.ones((1, len(truth))))[0]) if both else None,
    }


def _rank(history: Sequence[EpochRecord], epoch: int, recipe: TrainRecipe) -> tuple[float, float]:
    """Better epochs rank higher: by the recipe's metric, then by the lower loss, each the mean of the last few epochs.

    The highest of many single epochs is lucky on the images that chose it, and no better on others (docs/LOG.md).
    """
    last = history[max(0, epoch - _EPOCHS_CHOSEN_BY) : epoch]
    return fmean(one.metric(recipe.selection_metric) for one in last), -fmean(one.validation_loss for one in last)


def _result(state: TrainingState, spec: PreprocessSpec) -> TrainedNetwork:
    if state.best_state is None:
        raise OutOfTime("The time ended before the first epoch did: allow more of it, or ask for a smaller image size.")
    return TrainedNetwork(state=state.best_state, best_epoch=state.best_epoch, history=tuple(state.history), spec=spec)
