"""The figures of a replay: latency, rates, what was lost, load. docs/replay.md explains each.

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from cone_perception.accuracy.bootstrap import draw_blocks
from cone_perception.accuracy.intervals import Float64
from cone_perception.replay.figures.result import Figure
from cone_perception.replay.traces import (
    FATES,
    MOMENTS,
    STATIONS,
    FrameTrace,
    LoadSample,
    Pass,
)
from cone_perception.types import Int64

BLOCK_NS = 10**9
MIN_BLOCKS = 10
RESAMPLES = 1000
CONFIDENCE = 0.95
_NORMAL = NormalDist()

LATENCY_QUANTILES = {
    'min': 0.0,
    'p50': 0.5,
    'p90': 0.9,
    'p95': 0.95,
    'p99': 0.99,
    'max': 1.0,
}

WARM_UP_S = 10.0
MIN_SLOPE_S = 50.0
"""Seconds after the warm-up that a slope of the memory needs."""

SLOPE_BLOCK_S = 5.0
SLOPE_BLOCKS = 600
"""A memory's samples are joined to medians of SLOPE_BLOCK_S, or longer where that makes more than
SLOPE_BLOCKS: samples that follow each other are alike, and all pairs are compared."""


def pass_figures(passes: Sequence[Pass], seed: int = 0) -> dict[str, Figure]:
    """Figures of the frames of all passes together; names as in `replay.figures`.

    Times are those of frames where they are known: latency of the answered ones, a station where
    both of its moments were told. Stations that no frame tells of are left out, as are own_cost,
    age_at_publish and rate_received. Without an answer the latency is NaN. For the intervals see
    the module; counts have none.
    """
    frames = [frame for each in passes for frame in each.frames]
    resampled = _Resampled(passes, seed)
    figures: dict[str, Figure] = {}

    latency = _Series.of((i, frame.latency_ms) for i, frame in enumerate(frames))
    quantiles = resampled.quantiles(latency, LATENCY_QUANTILES.values())
    named = dict(zip(LATENCY_QUANTILES, quantiles, strict=True))
    figures['latency_min_ms'] = named.pop('min')
    figures['latency_mean_ms'] = resampled.mean(latency)
    figures |= {f'latency_{name}_ms': figure for name, figure in named.items()}
    figures['latency_jitter_ms'] = resampled.mean(_latency_changes(passes))

    stations: dict[str, list[tuple[int, float]]] = {name: [] for name in STATIONS}
    for i, frame in enumerate(frames):
        for name, value_ms in frame.stations_ms():
            stations[name].append((i, value_ms))
    for name, values in stations.items():
        if values:
            p50, p99 = resampled.quantiles(_Series.of(values), (0.5, 0.99))
            figures |= {f'station_{name}_p50_ms': p50, f'station_{name}_p99_ms': p99}
    own_cost = _Series.of((i, frame.own_cost_ms) for i, frame in enumerate(frames))
    if len(own_cost):
        p50, p99 = resampled.quantiles(own_cost, (0.5, 0.99))
        figures |= {'own_cost_p50_ms': p50, 'own_cost_p99_ms': p99}
    age = _Series.of((i, _age_at_publish_ms(frame)) for i, frame in enumerate(frames))
    if len(age):
        p50, p99, greatest = resampled.quantiles(age, (0.5, 0.99, 1.0))
        figures |= {'age_at_publish_p50_ms': p50, 'age_at_publish_p99_ms': p99}
        figures['age_at_publish_max_ms'] = greatest

    figures |= resampled.rates(_rates(passes), passes)
    fates = [frame.fate for frame in frames]
    figures['frames_sent'] = Figure(float(len(frames)))
    figures['frames_answered'] = Figure(float(fates.count('answered')))
    for fate in FATES:
        of_fate = _Series.of((i, float(each == fate)) for i, each in enumerate(fates))
        figures[f'{fate}_share'] = resampled.share(of_fate)
    return figures


def load_figures(passes: Sequence[Pass], seed: int = 0) -> dict[str, Figure]:
    """CPU, memory and GPU of all passes together, of each process that was sampled.

    cpu_cores: mean over time while pictures were under way; its interval by the bootstrap of
    seconds, NaN for fewer than MIN_BLOCKS. memory_peak_mb: greatest of all samples.
    memory_slope_mb_per_min: of the pass where it grows fastest, see `slope_per_min`; NaN where no
    pass is long enough. GPU: while pictures were under way; means, but for the memory and the
    temperature, of which the greatest counts. The others have no interval.
    """
    figures: dict[str, Figure] = {}
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
            spells = (_Busy.between(before, sample) for before, sample in pairwise(samples))
            busy[who].append([b for b in spells if b and first_ns <= b.middle_ns <= last_ns])
    figures |= _gpu_figures(on_gpu)
    for who, by_pass in by_who.items():
        figures[f'{who}_cpu_cores'] = _mean_cores(busy[who], seed)
        peaks = [sample.values['memory_mb'] for samples in by_pass for sample in samples]
        figures[f'{who}_memory_peak_mb'] = Figure(max(peaks))
        slopes = [
            slope_per_min(
                [sample.time_ns / 1e9 for sample in samples],
                [sample.values['memory_mb'] for sample in samples],
            )
            for samples in by_pass
        ]
        known = [slope for slope in slopes if not math.isnan(slope.value)]
        steepest = max(known, key=lambda slope: slope.value, default=Figure(math.nan))
        figures[f'{who}_memory_slope_mb_per_min'] = steepest
    return figures


def slope_per_min(times_s: Sequence[float], values: Sequence[float]) -> Figure:
    """How fast the values grow per minute: the median slope of all pairs (Theil 1950, Sen 1968).

    Single jumps and spikes do not move it. The first WARM_UP_S seconds are left out; the others are
    joined to medians of SLOPE_BLOCK_S. The interval is Sen's, of the rank correlation's normal
    approximation (Gilbert 1987, 16.4.2). NaN when less than MIN_SLOPE_S seconds are left.
    """
    times, all_values = np.asarray(times_s, np.float64), np.asarray(values, np.float64)
    kept = times >= times[:1] + WARM_UP_S
    times, all_values = times[kept], all_values[kept]
    if len(times) < 2 or times[-1] - times[0] < MIN_SLOPE_S:
        return Figure(math.nan)
    length_s = max(SLOPE_BLOCK_S, (times[-1] - times[0]) / SLOPE_BLOCKS)
    block = ((times - times[0]) // length_s).astype(np.int64)
    starts = np.flatnonzero(np.diff(block, prepend=-1))
    middle_s = np.array([np.median(part) for part in np.split(times, starts[1:])])
    median = np.array([np.median(part) for part in np.split(all_values, starts[1:])])
    one, other = np.triu_indices(len(middle_s), 1)
    slopes = np.sort((median[other] - median[one]) / (middle_s[other] - middle_s[one])) * 60
    n = len(middle_s)
    apart = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = max(0, math.floor((len(slopes) - apart) / 2) - 1)
    return Figure(float(np.median(slopes)), float(slopes[low]), float(slopes[-1 - low]))


class _Series:
    """Values of some of the frames.

    value: (N,) float64. frame: (N,) int64, number of the frame among those of all passes.
    """

    def __init__(self, value: Float64, frame: Int64) -> None:
        self.value = value
        self.frame = frame

    @classmethod
    def of(cls, values: Iterable[tuple[int, float | None]]) -> _Series:
        """From pairs of frame and value; None is left out."""
        known = [(frame, value) for frame, value in values if value is not None]
        return cls(
            np.array([value for _, value in known], np.float64),
            np.array([frame for frame, _ in known], np.int64),
        )

    def __len__(self) -> int:
        return len(self.value)


class _Resampled:
    """Figures of series with their bootstrap intervals. The same draws serve every figure."""

    def __init__(self, passes: Sequence[Pass], seed: int) -> None:
        self._block_of = blocks_of_frames(passes)
        self._blocks = int(self._block_of.max(initial=-1)) + 1
        # (RESAMPLES, blocks) float64: how often each block was drawn
        self._draws = draw_blocks(max(1, self._blocks), RESAMPLES, seed)

    def quantiles(self, series: _Series, quantiles: Iterable[float]) -> list[Figure]:
        """A figure for each of the quantiles, 0..1."""
        q = np.fromiter(quantiles, np.float64)
        if not len(series):
            return [Figure(math.nan)] * len(q)
        values = np.quantile(series.value, q)
        blocks = self._blocks_with(series)
        if blocks < MIN_BLOCKS:
            return [Figure(float(value)) for value in values]
        order = np.argsort(series.value, kind='stable')
        ascending = series.value[order]
        block = self._block_of[series.frame[order]]
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
        return [
            _with_interval(float(value), column, blocks)
            for value, column in zip(values, drawn.T, strict=True)
        ]

    def mean(self, series: _Series) -> Figure:
        if not len(series):
            return Figure(math.nan)
        value = float(series.value.mean())
        blocks = self._blocks_with(series)
        if blocks < MIN_BLOCKS:
            return Figure(value)
        block = self._block_of[series.frame]
        sums = self._draws @ np.bincount(block, series.value, self._blocks)
        counts = self._draws @ np.bincount(block, minlength=self._blocks)
        return _with_interval(
            value, np.divide(sums, counts, where=counts > 0, out=sums * np.nan), blocks
        )

    def share(self, series: _Series) -> Figure:
        """Of a series of 0 and 1.

        Where all are alike there is nothing to draw from. The end that is open then is that of
        Clopper and Pearson (1934), as if frames had nothing to do with each other.
        """
        figure = self.mean(series)
        if figure.value not in (0.0, 1.0):
            return figure
        least = ((1 - CONFIDENCE) / 2) ** (1 / len(series))
        return Figure(0.0, 0.0, 1 - least) if figure.value == 0 else Figure(1.0, least, 1.0)

    def rates(self, rates: Mapping[str, float], passes: Sequence[Pass]) -> dict[str, Figure]:
        """The rates with intervals: of the frames of the blocks drawn, over the blocks' times.

        A block lasts from its first frame to the first one of the next. In proportion to the rate,
        which is not quite that of all blocks together.
        """
        frames = [frame for each in passes for frame in each.frames]
        lasts_s = [
            (later - sent) / 1e9
            for each in passes
            for sent, later in pairwise([f.sent_ns for f in (*each.frames, *each.frames[-1:])])
        ]
        counted = {
            'rate_in_hz': [True] * len(frames),
            'rate_received_hz': [frame.received_ns is not None for frame in frames],
            'rate_out_hz': [frame.fate == 'answered' for frame in frames],
        }
        figures = {}
        for name, rate in rates.items():
            series = _Series.of((i, 1.0) for i, each in enumerate(counted[name]) if each)
            blocks = self._blocks_with(series)
            if math.isnan(rate) or blocks < MIN_BLOCKS:
                figures[name] = Figure(rate)
                continue
            of_block = np.bincount(self._block_of[series.frame], minlength=self._blocks)
            seconds = np.bincount(self._block_of, lasts_s, self._blocks)
            drawn = (self._draws @ of_block) / (self._draws @ seconds)
            figures[name] = _with_interval(
                rate, drawn * rate / (of_block.sum() / seconds.sum()), blocks
            )
        return figures

    def _blocks_with(self, series: _Series) -> int:
        """In how many blocks there are frames of it."""
        return len(np.unique(self._block_of[series.frame]))


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


def expanded_tail(blocks: int) -> float:
    """Share of the draws below the interval, so that few blocks make it as wide as Student's t.

    The plain percentiles of n blocks are too close together by t / z and sqrt(n / (n - 1)); the
    expanded ones (Hesterberg 2015, The American Statistician 69, 371) make up for it: 0.011
    instead of 0.025 for 12 blocks. t: Abramowitz and Stegun 26.7.5, right to 0.002 from 9 degrees.
    """
    z, degrees = _NORMAL.inv_cdf((1 + CONFIDENCE) / 2), blocks - 1
    t = (
        z
        + (z**3 + z) / 4 / degrees
        + (5 * z**5 + 16 * z**3 + 3 * z) / 96 / degrees**2
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / degrees**3
    )
    return _NORMAL.cdf(-math.sqrt(blocks / degrees) * t)


def _with_interval(value: float, drawn: Float64, blocks: int) -> Figure:
    tail = expanded_tail(blocks)
    low, high = np.nanquantile(drawn, (tail, 1 - tail))
    return Figure(value, float(low), float(high))


def _latency_changes(passes: Sequence[Pass]) -> _Series:
    """How far each latency is from that of the camera's answer before.

    Its mean is the jitter: the difference D of RFC 3550, 6.4.1, averaged over all instead of
    running. Frames lost in between are passed over.
    """
    changes: list[tuple[int, float]] = []
    first = 0
    for each in passes:
        of_camera: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for i, frame in enumerate(each.frames, first):
            if frame.latency_ms is not None:
                of_camera[frame.camera].append((i, frame.latency_ms))
        for answers in of_camera.values():
            changes += [(i, abs(later - before)) for (_, before), (i, later) in pairwise(answers)]
        first += len(each.frames)
    return _Series.of(changes)


def _rates(passes: Sequence[Pass]) -> dict[str, float]:
    """Frames per second that were sent, received and answered, summed over the cameras.

    Sent, of one camera: n - 1 frames in the time from its first to its last. Received and
    answered: their share of that, over the longer of that time and the time from the first to the
    last of their own, so that neither a node that stops nor a growing queue looks fast. Passes are
    joined by adding frames and times. NaN where no camera has sent two frames.
    """
    counts: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for camera in sorted({frame.camera for each in passes for frame in each.frames}):
        of_camera: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for each in passes:
            frames = [frame for frame in each.frames if frame.camera == camera]
            sent = [frame.sent_ns for frame in frames]
            for name, moments in (
                ('rate_in_hz', sent),
                ('rate_received_hz', [f.received_ns for f in frames if f.received_ns is not None]),
                ('rate_out_hz', [ns for f in frames if (ns := _answered_ns(f)) is not None]),
            ):
                if len(sent) > 1:
                    share = len(moments) / len(sent)
                    span_ns = max(_span_ns(sent), _span_ns(moments))
                    of_camera[name].append((share * (len(sent) - 1), span_ns / 1e9))
        for name, parts in of_camera.items():
            frames_counted, seconds = (sum(part) for part in zip(*parts, strict=True))
            counts[name].append((frames_counted, seconds))
    told = any(frame.received_ns is not None for each in passes for frame in each.frames)
    names = ('rate_in_hz', *(['rate_received_hz'] if told else []), 'rate_out_hz')
    return {
        name: sum(number / seconds for number, seconds in counts[name] if seconds > 0)
        if any(seconds > 0 for _, seconds in counts[name])
        else math.nan
        for name in names
    }


def _span_ns(moments: Sequence[int]) -> int:
    return max(moments) - min(moments) if moments else 0


def _answered_ns(frame: FrameTrace) -> int | None:
    """When its answer was there, as for the latency."""
    if frame.fate != 'answered':
        return None
    return frame.returned_ns if frame.returned_ns is not None else frame.decoded_ns


def _age_at_publish_ms(frame: FrameTrace) -> float | None:
    return None if frame.published_ns is None else (frame.published_ns - frame.sent_ns) / 1e6


@dataclass(frozen=True, slots=True)
class _Busy:
    """What a process worked between two samples."""

    middle_ns: int
    passed_s: float
    cores: float

    @classmethod
    def between(cls, before: LoadSample, sample: LoadSample) -> _Busy | None:
        if 'cpu_cores' not in sample.values:
            return None
        passed_ns = sample.time_ns - before.time_ns
        middle_ns = before.time_ns + passed_ns // 2
        return cls(middle_ns, passed_ns / 1e9, sample.values['cpu_cores'])


def _played_ns(each: Pass) -> tuple[float, float]:
    """From the first picture to the last thing that happened to one; always, without pictures."""
    moments = [
        at_ns
        for frame in each.frames
        for name in MOMENTS
        if (at_ns := getattr(frame, name)) is not None
    ]
    return (min(moments), max(moments)) if moments else (-math.inf, math.inf)


def _mean_cores(by_pass: Iterable[Sequence[_Busy]], seed: int) -> Figure:
    """Mean over time."""
    worked_s: dict[tuple[int, int], float] = defaultdict(float)
    passed_s: dict[tuple[int, int], float] = defaultdict(float)
    for number, spells in enumerate(by_pass):
        for each in spells:
            block = number, (each.middle_ns - spells[0].middle_ns) // BLOCK_NS
            worked_s[block] += each.cores * each.passed_s
            passed_s[block] += each.passed_s
    if not sum(passed_s.values()):
        return Figure(math.nan)
    worked, passed = (np.array(list(of.values())) for of in (worked_s, passed_s))
    value = float(worked.sum() / passed.sum())
    if len(passed) < MIN_BLOCKS:
        return Figure(value)
    draws = draw_blocks(len(passed), RESAMPLES, seed)
    return _with_interval(value, (draws @ worked) / (draws @ passed), len(passed))


def _gpu_figures(samples: Iterable[LoadSample]) -> dict[str, Figure]:
    told: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        for name, value in sample.values.items():
            told[name].append(value)
    made: Mapping[str, tuple[str, bool]] = {
        'gpu_load_percent': ('load_percent', False),
        'gpu_memory_peak_mb': ('memory_mb', True),
        'gpu_clock_mhz': ('clock_mhz', False),
        'gpu_temperature_max_c': ('temperature_c', True),
        'gpu_power_w': ('power_w', False),
    }
    return {
        name: Figure(float(max(told[of]) if greatest else np.mean(told[of])))
        for name, (of, greatest) in made.items()
        if told[of]
    }
