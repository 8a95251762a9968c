"""The figures of a replay's frames: latency, rates, what was lost. docs/replay.md explains each.

Quantiles are NumPy's `linear`: the value at (n - 1) q of the sorted ones, in between in proportion
(definition 7 of Hyndman and Fan 1996).

Intervals are those of 95 % by the block bootstrap (Efron and Tibshirani 1993, 8.6), as percentiles
that are expanded for few blocks (`expanded_tail`): frames that follow each other are alike, so that
whole seconds of a pass are drawn, with all frames of all cameras that were sent in them. Fewer than
MIN_BLOCKS seconds are cut into MIN_BLOCKS blocks, but none shorter than n^(1/3) frames, the rate at
which Hall, Horowitz and Jing (1995) let blocks grow. Where a figure's frames lie in fewer than
MIN_BLOCKS blocks, its interval is NaN: with fewer than some 30 frames, or when the node answered
for a few seconds only.
No bootstrap sees beyond what was seen: the upper end for a maximum is the maximum itself, so it is
no bound for the next drive; and a p99 of fewer than a few hundred frames is nearly the maximum.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cone_perception.accuracy.intervals import (
    Float64,
    Interval,
    draw_blocks,
    expanded_tail,
    percentile_interval,
    share_interval,
)
from cone_perception.replay.traces import FATES, STATIONS, Pass
from cone_perception.types import Int64

BLOCK_NS = 10**9
MIN_BLOCKS = 10
RESAMPLES = 1000

LATENCY_QUANTILES = {'min': 0.0, 'p50': 0.5, 'p90': 0.9, 'p95': 0.95, 'p99': 0.99, 'max': 1.0}

RATES = {'rate_in_hz': 'sent_ns', 'rate_received_hz': 'received_ns', 'rate_out_hz': 'answered_ns'}
"""Figure -> the moment of FrameTrace whose frames it counts."""


def pass_figures(passes: Sequence[Pass], seed: int = 0) -> dict[str, Interval]:
    """Figures of the frames of all passes together; names as in `replay.figures`.

    Times are those of frames where they are known: latency of the answered ones, a station where
    both of its moments were told. Stations that no frame tells of are left out, as are own_cost,
    age_at_publish and rate_received. Without an answer the latency is NaN. For the intervals see
    the module; counts have none.
    """
    frames = [frame for each in passes for frame in each.frames]
    resampled = Resamples(passes, seed)
    figures: dict[str, Interval] = {}

    latency = Series.of((i, frame.latency_ms) for i, frame in enumerate(frames))
    quantiles = resampled.quantiles(latency, LATENCY_QUANTILES.values())
    for name, figure in zip(LATENCY_QUANTILES, quantiles, strict=True):
        figures[f'latency_{name}_ms'] = figure
    figures['latency_mean_ms'] = resampled.mean(latency)
    figures['latency_jitter_ms'] = resampled.mean(_latency_changes(passes))

    times_ms: dict[str, list[tuple[int, float | None]]] = {
        **{f'station_{name}': [] for name in STATIONS},
        'own_cost': [(i, frame.own_cost_ms) for i, frame in enumerate(frames)],
        'age_at_publish': [
            (i, (frame.published_ns - frame.sent_ns) / 1e6)
            for i, frame in enumerate(frames)
            if frame.published_ns is not None
        ],
    }
    for i, frame in enumerate(frames):
        for name, value_ms in frame.stations_ms():
            times_ms[f'station_{name}'].append((i, value_ms))
    for name, values in times_ms.items():
        if len(series := Series.of(values)):
            p50, p99, greatest = resampled.quantiles(series, (0.5, 0.99, 1.0))
            figures |= {f'{name}_p50_ms': p50, f'{name}_p99_ms': p99}
            if name == 'age_at_publish':
                figures['age_at_publish_max_ms'] = greatest

    figures |= _rates(passes, resampled)
    fates = [frame.fate for frame in frames]
    figures['frames_sent'] = Interval(float(len(frames)))
    figures['frames_answered'] = Interval(float(fates.count('answered')))
    for fate in FATES:
        of_fate = Series.of((i, float(each == fate)) for i, each in enumerate(fates))
        figures[f'{fate}_share'] = resampled.share(of_fate)
    return figures


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Values of some of the frames.

    value: (N,) float64. frame: (N,) int64, number of the frame among those of all passes.
    """

    value: Float64
    frame: Int64

    @classmethod
    def of(cls, values: Iterable[tuple[int, float | None]]) -> Series:
        """Make a series from pairs of frame and value; None is left out."""
        known = [(frame, value) for frame, value in values if value is not None]
        return cls(
            np.array([value for _, value in known], np.float64),
            np.array([frame for frame, _ in known], np.int64),
        )

    def __len__(self) -> int:
        return len(self.value)


class Resamples:
    """Bootstrap intervals of series. The same draws of blocks serve every figure."""

    def __init__(self, passes: Sequence[Pass], seed: int) -> None:
        self._block_of = blocks_of_frames(passes)
        self._blocks = int(self._block_of.max(initial=-1)) + 1
        # (RESAMPLES, blocks) float64: how often each block was drawn
        self._draws = draw_blocks(max(1, self._blocks), RESAMPLES, seed)

    def quantiles(self, series: Series, quantiles: Iterable[float]) -> list[Interval]:
        """Find a figure for each of the quantiles, 0..1."""
        q = np.fromiter(quantiles, np.float64)
        if not len(series):
            return [Interval(math.nan)] * len(q)
        values = np.quantile(series.value, q)
        block = self._block_of[series.frame]
        blocks = len(np.unique(block))
        if blocks < MIN_BLOCKS:
            return [Interval(float(value)) for value in values]
        order = np.argsort(series.value, kind='stable')
        ascending, block = series.value[order], block[order]
        drawn = np.full((len(self._draws), len(q)), np.nan)
        # One resample at a time: memory stays that of the frames, however many there are.
        for row, times in zip(drawn, self._draws, strict=True):
            last = np.cumsum(times[block])
            if last[-1] > 0:
                at = (last[-1] - 1) * q
                below = np.floor(at)
                lower = ascending[np.searchsorted(last, below, side='right')]
                upper = ascending[np.searchsorted(last, np.ceil(at), side='right')]
                row[:] = lower + (upper - lower) * (at - below)
        tail = expanded_tail(blocks)
        return [
            percentile_interval(float(value), column, tail)
            for value, column in zip(values, drawn.T, strict=True)
        ]

    def mean(self, series: Series) -> Interval:
        """Find the mean; NaN of nothing."""
        if not len(series):
            return Interval(math.nan)
        block = self._block_of[series.frame]
        sums, counts = self._sums(block, series.value), self._sums(block)
        mean = float(series.value.mean())
        return ratio_interval(mean, self._draws, sums, counts, len(np.unique(block)))

    def share(self, series: Series) -> Interval:
        """Find the share of a series of 0 and 1.

        Where all are alike there is nothing to draw from. The interval then is that of Clopper and
        Pearson (1934), as if frames had nothing to do with each other.
        """
        figure = self.mean(series)
        if figure.value not in (0.0, 1.0):
            return figure
        return share_interval(round(series.value.sum()), len(series))

    def rate(self, value: float, series: Series, lasts_s: Float64) -> Interval:
        """Give a rate (Hz) the interval of the frames of the drawn blocks over the blocks' times.

        series: the frames that are counted. lasts_s: (all frames,) seconds to the next frame.
        The interval is in proportion to the rate, which is not quite that of all blocks together.
        """
        block = self._block_of[series.frame]
        counts, seconds = self._sums(block), self._sums(self._block_of, lasts_s)
        per_second = counts.sum() / seconds.sum() if seconds.sum() else math.nan
        part = counts * value / (per_second or 1.0)
        return ratio_interval(value, self._draws, part, seconds, len(np.unique(block)))

    def _sums(self, block: Int64, values: Float64 | None = None) -> Float64:
        """(blocks,) sums of what is in each block; without values a count."""
        return np.bincount(block, values, self._blocks).astype(np.float64)


def ratio_interval(
    value: float, draws: Float64, part: Float64, whole: Float64, blocks: int
) -> Interval:
    """Give a value the bootstrap interval of sum(part) / sum(whole).

    draws: (R, B) how often each block was drawn. part, whole: (B,) of each block. blocks: those
    with data; of fewer than MIN_BLOCKS there is no interval.
    """
    if blocks < MIN_BLOCKS:
        return Interval(value)
    wholes = draws @ whole
    drawn = np.divide(draws @ part, wholes, where=wholes > 0, out=np.full(len(draws), np.nan))
    return percentile_interval(value, drawn, expanded_tail(blocks))


def blocks_of_frames(passes: Sequence[Pass]) -> Int64:
    """(frames of all passes,) int64: block that each frame is drawn with, numbered from 0."""
    keys = [
        (number, (frame.sent_ns - each.frames[0].sent_ns) // BLOCK_NS)
        for number, each in enumerate(passes)
        for frame in each.frames
    ]
    if len(set(keys)) < MIN_BLOCKS:
        length = max(1, round(len(keys) ** (1 / 3)), len(keys) // MIN_BLOCKS)
        keys = [
            (number, place // length)
            for number, each in enumerate(passes)
            for place in range(len(each.frames))
        ]
    number_of: dict[tuple[int, int], int] = {}
    return np.array([number_of.setdefault(key, len(number_of)) for key in keys], np.int64)


def _latency_changes(passes: Sequence[Pass]) -> Series:
    """Find how far each latency is from that of the camera's answer before.

    Its mean is the jitter: the difference D of RFC 3550, 6.4.1, averaged over all instead of
    running. Frames lost in between are passed over.
    """
    of_camera: dict[tuple[int, str], list[tuple[int, float]]] = defaultdict(list)
    numbered = ((number, frame) for number, each in enumerate(passes) for frame in each.frames)
    for i, (number, frame) in enumerate(numbered):
        if frame.latency_ms is not None:
            of_camera[number, frame.camera].append((i, frame.latency_ms))
    return Series.of(
        (i, abs(later - before))
        for answers in of_camera.values()
        for (_, before), (i, later) in pairwise(answers)
    )


def _rates(passes: Sequence[Pass], resamples: Resamples) -> dict[str, Interval]:
    """Count frames per second that were sent, received and answered, summed over the cameras.

    Sent, of one camera: n - 1 frames in the time from its first to its last. Received and
    answered: their share of that, over the longer of that time and the time from the first to the
    last of their own, so that neither a node that stops nor a growing queue looks fast. Passes are
    joined by adding frames and times. NaN where no camera has sent two frames.
    """
    frames = [frame for each in passes for frame in each.frames]
    lasts_s = [
        (later - sent) / 1e9
        for each in passes
        for sent, later in pairwise([f.sent_ns for f in (*each.frames, *each.frames[-1:])])
    ]
    figures = {}
    for name, moment in RATES.items():
        told = ((i, getattr(frame, moment)) for i, frame in enumerate(frames))
        series = Series.of((i, None if at_ns is None else 1.0) for i, at_ns in told)
        if name != 'rate_received_hz' or len(series):
            figures[name] = resamples.rate(_rate_hz(passes, moment), series, np.array(lasts_s))
    return figures


def _rate_hz(passes: Sequence[Pass], moment: str) -> float:
    rates = []
    for camera in sorted({frame.camera for each in passes for frame in each.frames}):
        counted = seconds = 0.0
        for each in passes:
            frames = [frame for frame in each.frames if frame.camera == camera]
            sent = [frame.sent_ns for frame in frames]
            known = [at_ns for f in frames if (at_ns := getattr(f, moment)) is not None]
            if len(sent) > 1:
                counted += len(known) / len(sent) * (len(sent) - 1)
                seconds += max(np.ptp(sent), np.ptp(known or [0])) / 1e9
        if seconds > 0:
            rates.append(counted / seconds)
    return sum(rates) if rates else math.nan
