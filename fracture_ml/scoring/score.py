"""Radiographs in, exactly one outcome each out: a score or a reason."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch

from fracture_ml.core.errors import UnusableObject
from fracture_ml.core.records import OperatingPoint, Outcome, Rejected, Scored, StoredRadiograph
from fracture_ml.data.preprocess import to_model_input
from fracture_ml.evaluation.calibration import Calibration
from fracture_ml.imaging.decode import DecodeLimits, decode, read_picture
from fracture_ml.imaging.letterbox import LetterboxGeometry, letterbox
from fracture_ml.model.bundle import Bundle
from fracture_ml.model.device import autocast
from fracture_ml.scoring import heat_map

log = logging.getLogger(__name__)

Item = tuple[StoredRadiograph, bytes | UnusableObject]
_BATCHES_AHEAD = 2


class Scorer:
    """A bundle, ready to score. One forward pass gives an image its logits and its attention."""

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device,
        *,
        limits: DecodeLimits | None = None,
        threads: int = 2,
        batch_size: int = 16,
        heat_maps: bool = True,
    ):
        """threads: that decode and draw. heat_maps: False leaves out maps, overlays and boxes."""
        self._network = bundle.build_network(device)
        self._spec = bundle.preprocess
        self._points = bundle.operating_points
        self._calibration = Calibration.from_json(bundle.calibration)
        self._device = device
        self._limits = limits or DecodeLimits()
        self._threads = threads
        self._batch_size = batch_size
        self._heat_maps = heat_maps

    def score(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """One outcome per item, in order. An unreadable image is an outcome, not a gap.

        While one batch is in the network, the next is fetched from `items` and decoded; no more than a few batches are
        held at a time, however many items there are. An error that is not an image's fault is raised.

        Args: items: a radiograph, and its bytes or the reason why there are none.
        """
        items = iter(items)
        waiting: deque[Future[list[Outcome]]] = deque()
        workers = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        network = ThreadPoolExecutor(1, thread_name_prefix="network")
        try:
            while batch := list(islice(items, self._batch_size)):
                squares = [workers.submit(self._square_of, content) for _, content in batch]
                waiting.append(network.submit(self._score_batch, batch, squares, workers))
                if len(waiting) >= _BATCHES_AHEAD:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            network.shutdown(cancel_futures=True)
            workers.shutdown(cancel_futures=True)

    def _square_of(self, content: bytes | UnusableObject) -> np.ndarray | UnusableObject:
        """The network's view of an image, uint8 (S, S), decoded as the pixel cache does; or why there is none."""
        if isinstance(content, UnusableObject):
            return content
        try:
            pixels = decode(content, self._limits, at_least_px=self._spec.image_size_px)
        except UnusableObject as fault:
            return fault
        return letterbox(pixels, self._spec.image_size_px)

    def _score_batch(
        self, batch: Sequence[Item], squares: Sequence[Future[np.ndarray | UnusableObject]], workers: ThreadPoolExecutor
    ) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        usable: list[tuple[int, np.ndarray]] = []
        for row, future in enumerate(squares):
            square = future.result()
            if isinstance(square, UnusableObject):
                outcomes[row] = Rejected(radiograph_id=batch[row][0].radiograph_id, reason=f"{square.code}: {square}")
            else:
                usable.append((row, square))
        if usable:
            logits, activations = self._forward(np.stack([square for _, square in usable]))
            drawn = [
                (row, workers.submit(self._outcome_of, *batch[row], logits[n], activations[n]))
                for n, (row, _) in enumerate(usable)
            ]
            outcomes |= {row: future.result() for row, future in drawn}
        return [outcomes[row] for row in range(len(batch))]

    def _forward(self, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (B, S, S) -> float32 logits (B, 2) and class activation maps (B, h, w)."""
        with torch.inference_mode():
            pixels = torch.from_numpy(squares).unsqueeze(1).to(self._device)  # (B, 1, S, S)
            x = to_model_input(pixels, self._spec).contiguous(memory_format=torch.channels_last)
            with autocast(self._device):
                feature_maps = self._network.feature_map(x)  # (B, 2048, h, w)
            logits = self._network.classify(feature_maps)
            activations = heat_map.class_activation_maps(feature_maps, self._network.fc.weight)
            return logits.float().cpu().numpy(), activations

    def _outcome_of(
        self, radiograph: StoredRadiograph, data: bytes, logits: np.ndarray, activation: np.ndarray
    ) -> Outcome:
        if not np.isfinite(logits).all():
            return Rejected(
                radiograph_id=radiograph.radiograph_id,
                reason="not_a_number: The network's output for this image is not a number; ask who runs the models.",
            )
        calibrated = float(self._calibration.calibrated(logits[None])[0])
        place = self._points.place(calibrated)
        attention = self._attention_of(radiograph, data, activation) if place != OperatingPoint.BELOW else {}
        return Scored(
            radiograph_id=radiograph.radiograph_id,
            probability=float(Calibration().calibrated(logits[None])[0]),
            calibrated=calibrated,
            operating_point=place,
            **attention,
        )

    def _attention_of(self, radiograph: StoredRadiograph, data: bytes, activation: np.ndarray) -> dict[str, Any]:
        """Box, heat map and overlay. A score stands without them: an urgent image is not lost for its picture."""
        if not self._heat_maps:
            return {}
        try:
            source = read_picture(data, self._limits, at_least_px=heat_map.LONGEST_SIDE_PX)
        except UnusableObject as fault:  # what was whole at the network's size may not be at a larger one
            log.warning("radiograph %d is scored without a heat map: %s", radiograph.radiograph_id, fault.code)
            return {}
        geometry = LetterboxGeometry.of(source.width_px, source.height_px, self._spec.image_size_px)
        attention = heat_map.to_source_aspect(activation, geometry)
        return {
            "box": heat_map.box_of(attention, source.width_px, source.height_px),
            "heat_map_png": heat_map.heat_map_png(attention),
            "overlay_png": heat_map.overlay_png(source.pixels, attention),
        }
