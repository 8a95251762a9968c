"""Preprocess, engine and decode joined: pictures in, cones out. Knows nothing of ROS."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from cone_perception.decode import decode
from cone_perception.engines import Engine
from cone_perception.filters import Filters
from cone_perception.model_card import ModelCard
from cone_perception.preprocess import PAD_VALUE, Letterbox
from cone_perception.types import Detections, Frame


@dataclass(frozen=True, slots=True)
class StationTimes:
    """Milliseconds that a batch spent at each station."""

    preprocess_ms: float
    inference_ms: float
    decode_ms: float


class ConeDetector:
    """Finds cones with one engine. Not thread-safe: its input buffer is reused."""

    def __init__(self, card: ModelCard, engine: Engine) -> None:
        self.card = card
        self.engine = engine
        self.batch = engine.info.input_shape[0]
        shape = (self.batch, card.height_px, card.width_px, 3)
        self._pictures = np.full(shape, PAD_VALUE, np.uint8)

    def warm_up(self) -> None:
        """Run once on grey, so that the first real frame is not slower than the others."""
        grey = np.full((self.card.height_px, self.card.width_px, 3), PAD_VALUE, np.uint8)
        self.detect([Frame(grey)] * self.batch, Filters())

    def detect(
        self, frames: Sequence[Frame], filters: Filters
    ) -> tuple[list[Detections], StationTimes]:
        """Find the cones in up to `batch` frames, in source pixels, best score first.

        Raises EngineError or ModelError; then there is no answer for any of the frames.
        """
        if not 1 <= len(frames) <= self.batch:
            raise ValueError(f'a batch takes 1 to {self.batch} frames, got {len(frames)}')
        started = time.perf_counter_ns()
        boxes = [
            Letterbox(frame.height_px, frame.width_px, self.card.height_px, self.card.width_px)
            for frame in frames
        ]
        for letterbox, frame, picture in zip(boxes, frames, self._pictures, strict=False):
            letterbox.apply(frame.bgr, picture)
        prepared = time.perf_counter_ns()
        outputs = self.engine.run(self._pictures)
        inferred = time.perf_counter_ns()
        thresholds = filters.thresholds_for(self.card)
        found = []
        for letterbox, output in zip(boxes, outputs, strict=False):
            raw = decode(output, self.card.output_layout, thresholds, self.card.nms_iou)
            in_source = Detections(letterbox.to_source(raw.xyxy_px), raw.score, raw.class_id)
            found.append(
                filters.apply(
                    in_source, self.card, letterbox.source_width_px, letterbox.source_height_px
                )
            )
        decoded = time.perf_counter_ns()
        return found, StationTimes(
            (prepared - started) / 1e6, (inferred - prepared) / 1e6, (decoded - inferred) / 1e6
        )

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> ConeDetector:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
