"""The figures of a replay's load: CPU, memory and GPU. docs/replay.md explains each."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from cone_perception.accuracy.intervals import CONFIDENCE, Interval, draw_blocks
from cone_perception.replay.figures.statistics import (
    BLOCK_NS,
    MIN_BLOCKS,
    RESAMPLES,
    ratio_interval,
)
from cone_perception.replay.traces import MOMENTS, LoadSample, Pass

WARM_UP_S = 10.0
MIN_SLOPE_S = 50.0
"""Seconds after the warm-up that a slope of the memory needs."""

SLOPE_BLOCK_S = 5.0
SLOPE_BLOCKS = 600
"""A memory's samples are joined to medians of SLOPE_BLOCK_S, or longer where that makes more than
SLOPE_BLOCKS: samples that follow each other are alike, and all pairs are compared."""

GPU_FIGURES: Mapping[str, tuple[str, bool]] = {
    'gpu_load_percent': ('load_percent', False),
    'gpu_memory_peak_mb': ('memory_mb', True),
    'gpu_clock_mhz': ('clock_mhz', False),
    'gpu_temperature_max_c': ('temperature_c', True),
    'gpu_power_w': ('power_w', False),
}
"""Figure -> value of the samples, and True where the greatest counts instead of the mean."""


class _Busy(NamedTuple):
    """The cores that a process kept busy between two samples."""

    middle_ns: int
    passed_s: float
    cores: float


def load_figures(passes: Sequence[Pass], seed: int = 0) -> dict[str, Interval]:
    """Find CPU, memory and GPU of all passes together, of each process that was sampled.

    cpu_cores: mean over time while pictures were under way; its interval by the bootstrap of
    seconds, NaN for fewer than MIN_BLOCKS. memory_peak_mb: greatest of all samples.
    memory_slope_mb_per_min: of the pass where it grows fastest, see `slope_per_min`; NaN where no
    pass is long enough. GPU: while pictures were under way; means, but for the memory and the
    temperature, of which the greatest counts. The others have no interval.
    """
    by_who: dict[str, list[list[LoadSample]]] = defaultdict(list)
    busy: dict[str, list[list[_Busy]]] = defaultdict(list)
    on_gpu: list[LoadSample] = []
    for each in passes:
        first_ns, last_ns = _played_ns(each)
        of_pass: dict[str, list[LoadSample]] = defaultdict(list)
        for sample in each.load:
            of_pass[sample.who].append(sample)
        on_gpu += [s for s in of_pass.pop('gpu', []) if first_ns <= s.time_ns <= last_ns]
        for who, samples in of_pass.items():
            by_who[who].append(samples)
            busy[who].append([b for b in _spells(samples) if first_ns <= b.middle_ns <= last_ns])
    figures = {}
    for name, (of, greatest) in GPU_FIGURES.items():
        told = [sample.values[of] for sample in on_gpu if of in sample.values]
        if told:
            figures[name] = Interval(float(max(told) if greatest else np.mean(told)))
    for who, of_passes in by_who.items():
        figures[f'{who}_cpu_cores'] = _mean_cores(busy[who], seed)
        memory = [[sample.values['memory_mb'] for sample in samples] for samples in of_passes]
        figures[f'{who}_memory_peak_mb'] = Interval(max(map(max, memory)))
        slopes = (
            slope_per_min([sample.time_ns / 1e9 for sample in samples], memory_mb)
            for samples, memory_mb in zip(of_passes, memory, strict=True)
        )
        known = [slope for slope in slopes if not math.isnan(slope.value)]
        steepest = max(known, key=lambda slope: slope.value, default=Interval(math.nan))
        figures[f'{who}_memory_slope_mb_per_min'] = steepest
    return figures


def slope_per_min(times_s: Sequence[float], values: Sequence[float]) -> Interval:
    """Find how fast the values grow per minute: the median slope of all pairs (Theil, Sen 1968).

    Single jumps and spikes do not move it. The first WARM_UP_S seconds are left out; the others are
    joined to medians of SLOPE_BLOCK_S. The interval is Sen's. NaN when less than MIN_SLOPE_S
    seconds are left.
    """
    from scipy.stats import theilslopes

    times, all_values = np.asarray(times_s, np.float64), np.asarray(values, np.float64)
    kept = times >= times[:1] + WARM_UP_S
    times, all_values = times[kept], all_values[kept]
    if len(times) < 2 or times[-1] - times[0] < MIN_SLOPE_S:
        return Interval(math.nan)
    length_s = max(SLOPE_BLOCK_S, (times[-1] - times[0]) / SLOPE_BLOCKS)
    block = ((times - times[0]) // length_s).astype(np.int64)
    starts = np.flatnonzero(np.diff(block, prepend=-1))
    middle_s = [np.median(part) for part in np.split(times, starts[1:])]
    median = [np.median(part) for part in np.split(all_values, starts[1:])]
    slope, _, low, high = theilslopes(median, middle_s, CONFIDENCE)
    return Interval(float(slope * 60), float(low * 60), float(high * 60))


def _spells(samples: Sequence[LoadSample]) -> Iterable[_Busy]:
    for before, sample in pairwise(samples):
        if 'cpu_cores' in sample.values:
            passed_ns = sample.time_ns - before.time_ns
            middle_ns = before.time_ns + passed_ns // 2
            yield _Busy(middle_ns, passed_ns / 1e9, sample.values['cpu_cores'])


def _played_ns(each: Pass) -> tuple[float, float]:
    """Tell the times of the first picture and of the last thing that happened to one.

    Without pictures: from minus infinity to infinity.
    """
    moments = [
        at_ns
        for frame in each.frames
        for name in MOMENTS
        if (at_ns := getattr(frame, name)) is not None
    ]
    return (min(moments), max(moments)) if moments else (-math.inf, math.inf)


def _mean_cores(by_pass: Iterable[Sequence[_Busy]], seed: int) -> Interval:
    """Find the mean over time, with the interval of its seconds."""
    sums: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for number, spells in enumerate(by_pass):
        for each in spells:
            block = sums[number, (each.middle_ns - spells[0].middle_ns) // BLOCK_NS]
            block[0] += each.cores * each.passed_s
            block[1] += each.passed_s
    worked, passed = np.array(list(sums.values())).reshape(-1, 2).T
    if not passed.sum():
        return Interval(math.nan)
    value = float(worked.sum() / passed.sum())
    if len(passed) < MIN_BLOCKS:
        return Interval(value)
    draws = draw_blocks(len(passed), RESAMPLES, seed)
    return ratio_interval(value, draws, worked, passed, len(passed))
