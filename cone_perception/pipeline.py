"""Preprocess, engine and decode joined: pictures in, cones out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from queue import SimpleQueue

import numpy as np

from cone_perception.decode import decode
from cone_perception.engines import Engine, FrameEngine
from cone_perception.filters import Filters
from cone_perception.images import bgr_of
from cone_perception.model_card import ModelCard
from cone_perception.preprocess import PAD_VALUE, Letterbox
from cone_perception.types import CameraPicture, Detections, Frame, UInt8

STATIONS = ('preprocess', 'inference', 'decode')


def stations_ms(
    moments_ns: Mapping[str, int], stations: Sequence[str] = STATIONS
) -> dict[str, float]:
    """Station -> milliseconds spent there, of the moments before, between and after them."""
    between = zip(stations, pairwise(moments_ns.values()), strict=True)
    return {station: (after - before) / 1e6 for station, (before, after) in between}


class ConeDetector(contextlib.AbstractContextManager['ConeDetector']):
    """Finds cones with one engine. Any thread may call `detect`; the engine is used in turns."""

    def __init__(self, card: ModelCard, engine: Engine) -> None:
        self.card = card
        self.engine = engine
        # Asked once: a protocol's isinstance looks at every member.
        self._frame_engine = engine if isinstance(engine, FrameEngine) else None
        self.batch = engine.info.input_shape[0]
        shape = (self.batch, card.height_px, card.width_px, 3)
        self._inputs: SimpleQueue[UInt8] = SimpleQueue()  # as many as may be in work
        for _ in range(self.at_once):
            self._inputs.put(np.full(shape, PAD_VALUE, np.uint8))

    @property
    def encodings(self) -> frozenset[str]:
        """Encodings of sensor_msgs/Image that the engine reads as they were sent; none on a CPU."""
        return self._frame_engine.encodings if self._frame_engine is not None else frozenset()

    @property
    def at_once(self) -> int:
        """Number of batches in work at once: on a GPU the next picture goes up meanwhile."""
        return self.engine.info.at_once if self._frame_engine is None else 2

    def warm_up(self) -> None:
        """Run on grey, every stream once, so that no real frame is slower than the others.

        Once alone before: an engine may hold back others until its first run is done.
        """
        grey = np.full((self.card.height_px, self.card.width_px, 3), PAD_VALUE, np.uint8)
        batch, streams = [Frame(grey)] * self.batch, self.engine.info.at_once
        self.detect(batch, Filters())
        if streams > 1:
            with ThreadPoolExecutor(streams) as pool:
                list(pool.map(lambda _: self.detect(batch, Filters()), range(streams)))

    def detect(
        self, frames: Sequence[Frame | CameraPicture], filters: Filters
    ) -> tuple[list[Detections], dict[str, int]]:
        """Find the cones in up to `batch` frames, in source pixels, best score first.

        Beside them the moments at which work began, and the batch left each station, in nanoseconds
        of the monotonic clock. An engine that takes the camera's own bytes does all three: it
        counts as inference.
        Raises EngineError, ModelError or, for a camera's picture that cannot be read, ImageError;
        then there is no answer for any of the frames.
        """
        if not 1 <= len(frames) <= self.batch:
            raise ValueError(f'a batch takes 1 to {self.batch} frames, got {len(frames)}')
        started = time.monotonic_ns()
        boxes = [
            Letterbox(frame.height_px, frame.width_px, self.card.height_px, self.card.width_px)
            for frame in frames
        ]
        thresholds = filters.thresholds_for(self.card)
        if self._frame_engine is not None:
            prepared = started
            pictures = [
                frame
                if isinstance(frame, CameraPicture) and frame.encoding in self.encodings
                else CameraPicture.of_bgr(bgr_of(frame))
                for frame in frames
            ]
            with self._turn():
                in_network = self._frame_engine.detect(pictures, thresholds, self.card.nms_iou)
            inferred = time.monotonic_ns()
        else:
            with self._turn() as batch:
                for letterbox, frame, picture in zip(boxes, frames, batch, strict=False):
                    letterbox.apply(bgr_of(frame), picture)
                prepared = time.monotonic_ns()
                outputs = self.engine.run(batch)
                inferred = time.monotonic_ns()
            in_network = [
                decode(output, self.card.output_layout, thresholds, self.card.nms_iou)
                for output in outputs[: len(frames)]
            ]
        found = []
        for frame, letterbox, raw in zip(frames, boxes, in_network, strict=True):
            in_source = Detections(letterbox.to_source(raw.xyxy_px), raw.score, raw.class_id)
            found.append(filters.apply(in_source, self.card, frame.width_px, frame.height_px))
        moments_ns = {'started_ns': started, 'prepared_ns': prepared, 'inferred_ns': inferred}
        return found, {**moments_ns, 'decoded_ns': time.monotonic_ns()}

    @contextlib.contextmanager
    def _turn(self) -> Iterator[UInt8]:
        """Wait for the engine; the network's input to fill, which is the caller's for a run."""
        batch = self._inputs.get()
        try:
            yield batch
        finally:
            self._inputs.put(batch)

    def close(self) -> None:
        self.engine.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def warm_detector(card: ModelCard, engine: Engine) -> ConeDetector:
    """Make a detector and warm it up; where that fails, the engine is closed."""
    detector = ConeDetector(card, engine)
    try:
        detector.warm_up()
    except BaseException:
        detector.close()
        raise
    return detector
