"""How complete, how fast and how good the answers were: the demo's last line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cone_perception.accuracy.matching import Matches
from cone_perception.accuracy.summary import AccuracySummary, summarise
from cone_perception.model_card import ModelCard
from cone_perception.replay.figures.accuracy import BANDS_PX
from cone_perception.replay.traces import FrameTrace
from cone_perception.types import Detections

Truth = Mapping[tuple[str, int], Detections]
"""(camera, stamp) -> the cones that are there, as in replay.Drive."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The demo's result.

    frames: sent. answered: with a message of detections. failed: as the node told.
    accuracy: of all boxes; None in a bag without ground truth. by_height: of the boxes of each
    height, in pixels of the picture.
    p50_ms, p99_ms: of the latency; NaN without answers.
    """

    frames: int
    answered: int
    failed: int
    accuracy: AccuracySummary | None
    p50_ms: float
    p99_ms: float
    by_height: tuple[AccuracySummary, ...] = ()

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
    every: list[AccuracySummary] = []
    if truth is not None and frames:
        matches = Matches.of(
            ((f.found, truth_of(f, truth)) for f in frames if f.found is not None),
            len(card.class_names),
        )
        every = [
            summarise(matches, card.class_names, card.thresholds, *band)
            for band in ((0.0, math.inf), *BANDS_PX)
        ]
    return Figures(
        frames=len(frames),
        answered=sum(frame.found is not None for frame in frames),
        failed=sum(frame.fate == 'failed' for frame in frames),
        accuracy=every[0] if every else None,
        p50_ms=float(p50),
        p99_ms=float(p99),
        by_height=tuple(every[1:]),
    )


def truth_of(frame: FrameTrace, truth: Truth) -> Detections:
    """The cones that are in this picture."""
    return truth.get((frame.camera, frame.stamp_ns), Detections.empty())
