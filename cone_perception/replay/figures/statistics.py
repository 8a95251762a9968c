"""The figures of a replay's frames: latency, rates, what was lost. docs/replay.md explains each.

Quantiles are NumPy's `linear`: the value at (n - 1) q of the sorted ones, in between in proportion
(definition 7 of Hyndman and Fan 1996).

Intervals are those of 95 % by the block bootstrap (Efron and Tibshirani 1993, 8.6), as percentiles
that are expanded for few blocks (`expanded_tail`): frames that follow each other are alike, so that
whole seconds of a pass are drawn, with all frames of all cameras that were sent in them. Fewer than
MIN_BLOCKS seconds are cut into MIN_BLOCKS blocks, but none shorter than n^(1/3) frames, the rate at
which Hall, Horowitz and Jing (1995) let blocks grow. Where a figure's frames lie in fewer than
MIN_BLOCKS blocks, its interval is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from cone_perception.accuracy.intervals import (
    Float64,
    Interval,
    draw_blocks,
    expanded_tail,
    percentile_interval,
    share_interval,
)
from cone_perception.accuracy.matching import Bool
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

    latency_ms = np.array([frame.latency_ms for frame in frames], np.float64)  # None: NaN
    quantiles = resampled.quantiles(latency_ms, LATENCY_QUANTILES.values())
    for name, figure in zip(LATENCY_QUANTILES, quantiles, strict=True):
        figures[f'latency_{name}_ms'] = figure
    figures['latency_mean_ms'] = resampled.mean(latency_ms)
    figures['latency_jitter_ms'] = resampled.mean(_latency_changes(passes))

    stations_ms = [dict(frame.stations_ms()) for frame in frames]
    times_ms = {f'station_{name}': [told.get(name) for told in stations_ms] for name in STATIONS}
    times_ms['own_cost'] = [frame.own_cost_ms for frame in frames]
    times_ms['age_at_publish'] = [
        None if frame.published_ns is None else (frame.published_ns - frame.sent_ns) / 1e6
        for frame in frames
    ]
    for name, times in times_ms.items():
        if any(time is not None for time in times):
            values = np.array(times, np.float64)
            p50, p99, greatest = resampled.quantiles(values, (0.5, 0.99, 1.0))
            figures |= {f'{name}_p50_ms': p50, f'{name}_p99_ms': p99}
            if name == 'age_at_publish':
                figures['age_at_publish_max_ms'] = greatest

    figures |= _rates(passes, resampled)
    fates = np.array([frame.fate for frame in frames], np.str_)
    wanted = np.array([frame.wanted for frame in frames], bool)
    figures['frames_sent'] = Interval(float(wanted.sum()))
    figures['frames_answered'] = Interval(float((fates == 'answered').sum()))
    for fate in FATES:
        among = wanted if fate == 'answered' else np.ones(len(frames), bool)
        figures[f'{fate}_share'] = resampled.share(fates == fate, among)
    return figures


class Resamples:
    """Bootstrap intervals of values. The same draws of blocks serve every figure.

    values: (frames of all passes,) of each frame; NaN where it has none.
    """

    def __init__(self, passes: Sequence[Pass], seed: int) -> None:
        self._block_of = blocks_of_frames(passes)
        self._blocks = int(self._block_of.max(initial=-1)) + 1
        # (RESAMPLES, blocks) float64: how often each block was drawn
        self._draws = draw_blocks(max(1, self._blocks), RESAMPLES, seed)

    def quantiles(self, values: Float64, quantiles: Iterable[float]) -> list[Interval]:
        """Find a figure for each of the quantiles, 0..1."""
        q = np.fromiter(quantiles, np.float64)
        known = ~np.isnan(values)
        if not known.any():
            return [Interval(math.nan)] * len(q)
        ascending, block = values[known], self._block_of[known]
        found = np.quantile(ascending, q)
        blocks = len(np.unique(block))
        if blocks < MIN_BLOCKS:
            return [Interval(float(value)) for value in found]
        order = np.argsort(ascending, kind='stable')
        ascending, block = ascending[order], block[order]
        drawn = np.full((len(self._draws), len(q)), np.nan)
        # One resample at a time: memory stays that of the frames, however many there are.
        for row, times in zip(drawn, self._draws, strict=True):
            row[:] = repeated_quantiles(ascending, times[block], q)
        tail = expanded_tail(blocks)
        return [
            percentile_interval(float(value), column, tail)
            for value, column in zip(found, drawn.T, strict=True)
        ]

    def mean(self, values: Float64) -> Interval:
        """Find the mean; NaN of nothing."""
        known = ~np.isnan(values)
        if not known.any():
            return Interval(math.nan)
        block = self._block_of[known]
        sums, counts = self._sums(block, values[known]), self._sums(block)
        mean = float(values[known].mean())
        return ratio_interval(mean, self._draws, sums, counts, len(np.unique(block)))

    def share(self, frames: Bool, among: Bool) -> Interval:
        """Find the share of these among others.

        Where all are alike there is nothing to draw from. The interval then is that of Clopper and
        Pearson (1934), as if frames had nothing to do with each other.
        """
        figure = self.mean(np.where(among, frames, np.nan))
        if figure.value not in (0.0, 1.0):
            return figure
        return share_interval(int(frames.sum()), int(among.sum()))

    def rate(self, value: float, counted: Bool, lasts_s: Float64) -> Interval:
        """Give a rate (Hz) the interval of the frames of the drawn blocks over the blocks' times.

        counted: frames that count. lasts_s: (all frames,) seconds to the next frame.
        The interval is in proportion to the rate, which is not quite that of all blocks together.
        """
        block = self._block_of[counted]
        counts, seconds = self._sums(block), self._sums(self._block_of, lasts_s)
        per_second = counts.sum() / seconds.sum() if seconds.sum() else math.nan
        part = counts * value / (per_second or 1.0)
        return ratio_interval(value, self._draws, part, seconds, len(np.unique(block)))

    def _sums(self, block: Int64, values: Float64 | None = None) -> Float64:
        """(blocks,) sums of what is in each block; without values a count."""
        return np.bincount(block, values, self._blocks).astype(np.float64)


def repeated_quantiles(ascending: Float64, times: npt.NDArray[Any], q: Float64) -> Float64:
    """Quantiles of sorted values that each count so many times; NaN where all count 0.

    times: (N,) 0, 1, 2 ... of each value. q: (Q,) 0..1.
    """
    last = np.cumsum(times)
    if not len(last) or not last[-1]:
        return np.full(len(q), np.nan)
    at = (last[-1] - 1) * q
    below = np.floor(at)
    lower = ascending[np.searchsorted(last, below, side='right')]
    upper = ascending[np.searchsorted(last, np.ceil(at), side='right')]
    return np.asarray(lower + (upper - lower) * (at - below))


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


def _latency_changes(passes: Sequence[Pass]) -> Float64:
    """Find how far each latency is from that of the camera's answer before; NaN for its first.

    Its mean is the jitter: the difference D of RFC 3550, 6.4.1, averaged over all instead of
    running. Frames lost in between are passed over.
    """
    changes = []
    for each in passes:
        before: dict[str, float] = {}
        for frame in each.frames:
            latency_ms = math.nan if frame.latency_ms is None else frame.latency_ms
            changes.append(abs(latency_ms - before.get(frame.camera, math.nan)))
            if frame.latency_ms is not None:
                before[frame.camera] = latency_ms
    return np.array(changes)


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
        counted = np.array([getattr(frame, moment) is not None for frame in frames], bool)
        if name != 'rate_received_hz' or counted.any():
            figures[name] = resamples.rate(_rate_hz(passes, moment), counted, np.array(lasts_s))
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
