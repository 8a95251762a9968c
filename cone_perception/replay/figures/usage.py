"""The figures of a replay's load: CPU, memory and GPU. docs/replay.md explains each."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from cone_perception.accuracy.intervals import CONFIDENCE, Interval, draw_blocks
from cone_perception.replay.figures.statistics import BLOCK_NS, RESAMPLES, ratio_interval
from cone_perception.replay.traces import LoadSample, Pass, span_ns

WARM_UP_S = 10.0
MIN_SLOPE_S = 50.0
"""Seconds after the warm-up that a slope of the memory needs."""

SLOPE_BLOCK_S = 5.0
SLOPE_BLOCKS = 600
"""A memory's samples are joined to medians of SLOPE_BLOCK_S, or longer where that makes more than
SLOPE_BLOCKS: samples that follow each other are alike, and all pairs are compared."""

GPU_FIGURES: Mapping[str, tuple[str, Callable[[list[float]], Any]]] = {
    'gpu_load_percent': ('load_percent', np.mean),
    'gpu_memory_peak_mb': ('memory_mb', max),
    'gpu_clock_mhz': ('clock_mhz', np.mean),
    'gpu_temperature_max_c': ('temperature_c', max),
    'gpu_power_w': ('power_w', np.mean),
}
"""Figure -> value of the samples, and what is made of them."""

Played = tuple[float, float, list[LoadSample]]
"""When the first picture of a pass was sent, the last thing that happened to one, the samples."""


def load_figures(passes: Sequence[Pass]) -> dict[str, Interval]:
    """Find CPU, memory and GPU of all passes together, of each process that was sampled.

    cpu_cores: mean over time while pictures were under way; its interval by the bootstrap of
    seconds, NaN for fewer than MIN_BLOCKS. memory_peak_mb: greatest of all samples.
    memory_slope_mb_per_min: of the pass where it grows fastest, see `slope_per_min`; NaN where no
    pass is long enough. GPU: while pictures were under way; means, but for the memory and the
    temperature, of which the greatest counts. The others have no interval.
    """
    by_who: dict[str, list[Played]] = defaultdict(list)
    for each in passes:
        span = span_ns(each.frames) if each.frames else (-math.inf, math.inf)
        for who in dict.fromkeys(sample.who for sample in each.load):
            by_who[who].append((*span, [sample for sample in each.load if sample.who == who]))
    figures = {}
    on_gpu = [
        sample.values
        for first_ns, last_ns, samples in by_who.pop('gpu', [])
        for sample in samples
        if first_ns <= sample.time_ns <= last_ns
    ]
    for name, (of, join) in GPU_FIGURES.items():
        if told := [values[of] for values in on_gpu if of in values]:
            figures[name] = Interval(float(join(told)))
    for who, played in by_who.items():
        figures[f'{who}_cpu_cores'] = _mean_cores(played)
        peaks = [sample.values['memory_mb'] for *_, samples in played for sample in samples]
        figures[f'{who}_memory_peak_mb'] = Interval(max(peaks))
        slopes = []
        for *_, samples in played:
            times_s = [sample.time_ns / 1e9 for sample in samples]
            memory_mb = [sample.values['memory_mb'] for sample in samples]
            slopes.append(slope_per_min(times_s, memory_mb))
        steepest = max(slopes, key=lambda slope: np.nan_to_num(slope.value, nan=-math.inf))
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


def _mean_cores(by_pass: Iterable[Played]) -> Interval:
    """Find the mean over time while pictures were under way, with the interval of its seconds."""
    sums: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for number, (first_ns, last_ns, samples) in enumerate(by_pass):
        start_ns: int | None = None
        for before, sample in pairwise(samples):
            middle_ns = (before.time_ns + sample.time_ns) // 2
            if 'cpu_cores' in sample.values and first_ns <= middle_ns <= last_ns:
                start_ns = middle_ns if start_ns is None else start_ns
                passed_s = (sample.time_ns - before.time_ns) / 1e9
                block = sums[number, (middle_ns - start_ns) // BLOCK_NS]
                block[0] += sample.values['cpu_cores'] * passed_s
                block[1] += passed_s
    worked, passed = np.array(list(sums.values())).reshape(-1, 2).T
    if not passed.sum():
        return Interval(math.nan)
    draws = draw_blocks(len(passed), RESAMPLES, seed=0)
    mean = float(worked.sum() / passed.sum())
    return ratio_interval(mean, draws, worked, passed, len(passed))
