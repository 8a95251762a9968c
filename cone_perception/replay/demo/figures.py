"""How complete, how fast and how good the answers were: the demo's last line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cone_perception.accuracy.matching import (
    AccuracySummary,
    PictureMatch,
    match_picture,
    summarise,
)
from cone_perception.model_card import ModelCard
from cone_perception.replay.traces import FrameTrace
from cone_perception.types import Detections

MIN_HEIGHT_PX = 24.0
"""Cones lower than this need not be found: farther than about 10 m at 1280x720."""

Truth = Mapping[tuple[str, int], Detections]
"""(camera, stamp) -> the cones that are there, as in replay.Drive."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The demo's result.

    frames: sent. answered: with a message of detections. failed: as the node told.
    accuracy: None in a bag without ground truth.
    p50_ms, p99_ms: of the latency; NaN without answers.
    """

    frames: int
    answered: int
    failed: int
    accuracy: AccuracySummary | None
    p50_ms: float
    p99_ms: float

    def line(self) -> str:
        """The demo's last line, to be read by programs."""
        judged = ''
        if self.accuracy is not None:
            overall = self.accuracy.overall
            judged = f'precision={overall.precision:.2f} recall={overall.recall:.2f} '
        return (
            f'demo: frames={self.frames} answered={self.answered} failed={self.failed} '
            f'{judged}p50_ms={self.p50_ms:.1f} p99_ms={self.p99_ms:.1f}'
        )


def judge(frames: Sequence[FrameTrace], truth: Truth | None, card: ModelCard) -> Figures:
    """Figures of the pictures answered; precision and recall at the card's thresholds."""
    latencies = [frame.latency_ms for frame in frames if frame.latency_ms is not None]
    p50, p99 = np.percentile(latencies, [50, 99]) if latencies else (np.nan, np.nan)
    accuracy = None
    if truth is not None and frames:
        matches = [match_frame(f, truth, card) for f in frames if f.found is not None]
        accuracy = summarise(matches, card.class_names, card.thresholds)
    return Figures(
        frames=len(frames),
        answered=sum(frame.found is not None for frame in frames),
        failed=sum(frame.fate == 'failed' for frame in frames),
        accuracy=accuracy,
        p50_ms=float(p50),
        p99_ms=float(p99),
    )


def match_frame(frame: FrameTrace, truth: Truth, card: ModelCard) -> PictureMatch:
    """The answer to one picture against its truth, cones from MIN_HEIGHT_PX up."""
    return match_picture(
        frame.found or Detections.empty(),
        truth_of(frame, truth),
        len(card.class_names),
        MIN_HEIGHT_PX,
    )


def truth_of(frame: FrameTrace, truth: Truth) -> Detections:
    """The cones that are in this picture."""
    return truth.get((frame.camera, frame.stamp_ns), Detections.empty())


def tall(cones: Detections) -> Detections:
    """Those that are judged: of at least MIN_HEIGHT_PX."""
    return cones[cones.height_px >= MIN_HEIGHT_PX]
