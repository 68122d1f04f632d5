"""Radiographs in, exactly one outcome each out: a score or a reason."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Self

import numpy as np
import torch

from fracture_ml.core.errors import FractureError, NoMemoryLeft, OutOfMemory, UnusableObject
from fracture_ml.core.records import OperatingPoint, Outcome, Rejected, Scored, StoredRadiograph
from fracture_ml.data.preprocess import to_model_input
from fracture_ml.evaluation.calibration import Calibration
from fracture_ml.imaging.decode import DecodeLimits
from fracture_ml.imaging.letterbox import LetterboxGeometry
from fracture_ml.model.bundle import Bundle
from fracture_ml.model.device import autocast
from fracture_ml.model.inference import freeze_for_inference
from fracture_ml.model.network import logits_of
from fracture_ml.scoring import heat_map
from fracture_ml.scoring.view import View, view_of

log = logging.getLogger(__name__)

# A radiograph, and how to get its bytes; that raises an UnusableObject where there are none.
Item = tuple[StoredRadiograph, Callable[[], bytes]]

BATCH_SIZE = {"cpu": 16, "cuda": 128}  # by device
_BATCHES_STAGED = 2  # fetched and decoded before the network asks for them
_MOST_WITHOUT_MEMORY = 3  # images of one scorer: with more of them it is the machine's fault
_FETCHING_THREADS = 4  # beyond one per core: they wait for the bucket most of the time


class Batch:
    """Items on their way through the network."""

    def __init__(self, future: Future[list[Rejected | Future[Outcome]]]) -> None:
        self._future = future

    def outcomes(self) -> list[Outcome]:
        """One per item, in order; waits for them. An error that is not an image's fault is raised."""
        found = self._future.result()
        return [outcome.result() if isinstance(outcome, Future) else outcome for outcome in found]

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._future.cancel()


class Scorer:
    """A bundle, ready to score, with the threads that it needs; a context manager ends them.

    One forward pass gives an image its logits and its attention. On the CPU each core has a network thread of its own:
    none of them waits for another, as the parts of one operation would, while a core decodes (docs/LOG.md).
    """

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device,
        *,
        limits: DecodeLimits | None = None,
        threads: int = 0,
        batch_size: int | None = None,
        heat_maps: bool = True,
        colours_checked: bool = False,
    ):
        """What it scores with.

        Args: threads: cores to use; 0: all. batch_size: None: by device. heat_maps: False leaves out maps and boxes.
              colours_checked: all that is scored has been taken in before, where a photograph in colour is refused.
        """
        network = bundle.build_network(torch.device("cpu"))
        self._network = freeze_for_inference(network, device, mirrors=bundle.recipe.mirrored_scoring)
        self._shows_places = network.knows_places
        self._spec = bundle.preprocess
        self._points = bundle.operating_points
        self._calibration = Calibration.from_json(bundle.calibration)
        self._device = device
        self._limits = limits or DecodeLimits()
        self.batch_size = batch_size or BATCH_SIZE[device.type]
        self._heat_maps = heat_maps
        self._colours_checked = colours_checked
        self._without_memory = 0
        self._threads_before = torch.get_num_threads()
        cores = threads or self._threads_before
        in_network = cores if device.type == "cpu" else 1
        self._staged = threading.BoundedSemaphore(in_network + _BATCHES_STAGED)
        self._hands = ThreadPoolExecutor(cores + _FETCHING_THREADS, thread_name_prefix="decode")
        self._in_network = ThreadPoolExecutor(
            in_network, thread_name_prefix="network", initializer=torch.set_num_threads, initargs=(1,)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._in_network.shutdown(cancel_futures=True)
        self._hands.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads_before)  # the network threads' number was the default of all later ones

    def score(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """One outcome per item, in order. An unreadable image is an outcome, not a gap.

        While one batch is in the network, the next is fetched and decoded; no more than a few batches are held at a
        time, however many items there are.
        """
        items = iter(items)
        waiting: deque[Batch] = deque()
        try:
            while batch := list(islice(items, self.batch_size)):
                waiting.append(self.submit(batch))
                if len(waiting) > _BATCHES_STAGED:
                    yield from waiting.popleft().outcomes()
            while waiting:
                yield from waiting.popleft().outcomes()
        finally:
            for batch in waiting:
                batch.cancel()

    def submit(self, items: Sequence[Item]) -> Batch:
        """Begin with a batch, at most `batch_size` items. Waits while as many as may be held are under way."""
        self._staged.acquire()
        views = [self._hands.submit(self._view_of, read) for _, read in items]
        future = self._in_network.submit(self._score_batch, items, views)
        future.add_done_callback(lambda _: self._staged.release())
        return Batch(future)

    def _view_of(self, read: Callable[[], bytes]) -> View | UnusableObject:
        try:
            data = read()
        except UnusableObject as fault:
            return fault
        try:
            return view_of(
                data, self._limits, image_size_px=self._spec.image_size_px, colours_checked=self._colours_checked
            )
        except UnusableObject as fault:
            return fault
        except FractureError:
            raise
        except MemoryError:
            log.error("this machine has no memory left for an image of %d bytes", len(data))
            self._without_memory += 1
            if self._without_memory > _MOST_WITHOUT_MEMORY:
                raise OutOfMemory("The machine has no memory left to decode images: use fewer threads.") from None
            return NoMemoryLeft()
        except Exception as surprise:
            # A decoder's own bug must not hold up the other images: it is an outcome too, with its trace in the log.
            log.exception("an image of %d bytes could not be read", len(data))
            return UnusableObject(f"Reading it ended in {type(surprise).__name__}; the trace is in the scoring's log.")

    def _score_batch(
        self, items: Sequence[Item], futures: Sequence[Future[View | UnusableObject]]
    ) -> list[Rejected | Future[Outcome]]:
        """What cannot be scored, and what is being drawn, in the order of the items."""
        views = [future.result() for future in futures]
        usable = [row for row, view in enumerate(views) if isinstance(view, View)]
        answers = dict(zip(usable, self._forward([views[row].square for row in usable]), strict=True))
        return [
            self._hands.submit(self._outcome_of, radiograph, view, *answers[row])
            if isinstance(view, View)
            else Rejected(radiograph_id=radiograph.radiograph_id, reason=f"{view.code}: {view}")
            for row, ((radiograph, _), view) in enumerate(zip(items, views, strict=True))
        ]

    def _forward(self, squares: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each uint8 (S, S): float32 logits (2,) and what to show for them (h, w). Raises: OutOfMemory."""
        if not squares:
            return []
        try:
            return self._forward_together(squares)
        except torch.OutOfMemoryError:
            pass  # what the failed pass holds is let go of when this block ends
        if len(squares) == 1:
            raise OutOfMemory("The device has no memory for one image: free it, or set FRACTURE_DEVICE=cpu.")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what lies in pieces of the wrong size
        log.warning("The device's memory is full at %d images: going on with half of them at a time.", len(squares))
        half = len(squares) // 2
        return [*self._forward(squares[:half]), *self._forward(squares[half:])]

    def _forward_together(self, squares: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(squares)).unsqueeze(1).to(self._device)  # (B, 1, S, S)
            x = to_model_input(pixels, self._spec).contiguous(memory_format=torch.channels_last)
            with autocast(self._device):
                evidence, shown = self._network.attention(x, places=self._shows_places)  # (B, h, w) each
            return list(zip(logits_of(evidence).cpu().numpy(), shown.cpu().numpy(), strict=True))

    def _outcome_of(self, radiograph: StoredRadiograph, view: View, logits: np.ndarray, shown: np.ndarray) -> Outcome:
        if not np.isfinite(logits).all():
            return Rejected(
                radiograph_id=radiograph.radiograph_id,
                reason="not_a_number: The network's output for this image is not a number; ask who runs the models.",
            )
        calibrated = float(self._calibration.calibrated(logits[None])[0])
        place = self._points.place(calibrated)
        flagged = self._heat_maps and place != OperatingPoint.BELOW
        return Scored(
            radiograph_id=radiograph.radiograph_id,
            probability=float(Calibration().calibrated(logits[None])[0]),
            calibrated=calibrated,
            operating_point=place,
            **(self._attention_of(radiograph, view, shown) if flagged else {}),
        )

    def _attention_of(self, radiograph: StoredRadiograph, view: View, shown: np.ndarray) -> dict[str, Any]:
        """Box, heat map and overlay. A score stands without them: an urgent image is not lost for its picture."""
        try:
            picture = view.picture(self._limits)
            geometry = LetterboxGeometry.of(view.width_px, view.height_px, self._spec.image_size_px)
            attention = heat_map.to_source_aspect(shown, geometry)
            return {
                "box": heat_map.box_of(attention, view.width_px, view.height_px),
                "heat_map_png": heat_map.heat_map_png(attention),
                "overlay_png": heat_map.overlay_png(picture, attention),
            }
        except UnusableObject as fault:
            log.warning("radiograph %d is scored without a heat map: %s", radiograph.radiograph_id, fault.code)
        except FractureError:
            raise
        except Exception:  # no memory left, or a strip of 32 x 6400 pixels, with no room for the caption
            log.exception("radiograph %d is scored without a heat map", radiograph.radiograph_id)
        return {}
