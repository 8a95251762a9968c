"""A replay's charts as SVG: they take the page's colours, light or dark, and need no library."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cone_perception.pages.old import legend, plain
from cone_perception.replay.traces import FATES, MOMENTS, STATIONS, Fate, FrameTrace, LoadSample

STATION_NAMES = {
    'transport_in': 'over DDS to the node',
    'wait': 'waiting for the one before',
    'preprocess': 'message to network input',
    'inference': 'network',
    'decode': 'decoding',
    'publish': 'publishing',
    'transport_out': 'over DDS to the monitor',
}
UNTOLD = 'untold'
STATION_COLOURS = {
    UNTOLD: 'var(--line)',
    'transport_in': 'var(--dim)',
    'wait': 'var(--yellow)',
    'preprocess': 'var(--violet)',
    'inference': 'var(--blue)',
    'decode': 'var(--orange)',
    'publish': 'var(--green)',
    'transport_out': 'var(--teal)',
}
FATE_NAMES: dict[Fate, str] = {
    'answered': 'answered',
    'transport': 'lost on the way to the node',
    'dropped': 'dropped for a newer one',
    'failed': 'failed',
    'return': 'lost on the way back',
    'unknown': 'no answer, cause not known',
}
FATE_COLOURS: dict[Fate, str] = {
    'answered': 'var(--green)',
    'transport': 'var(--violet)',
    'dropped': 'var(--orange)',
    'failed': 'var(--red)',
    'return': 'var(--pink)',
    'unknown': 'var(--dim)',
}
SERIES_COLOURS = ('blue', 'orange', 'green', 'violet', 'teal', 'pink', 'yellow', 'red')

SLOTS = 300
"""Bars across a chart; with more frames than that a bar stands for several."""

FULL_PX, HALF_PX = 1000, 480
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 52, 62, 18, 32


class Chart:
    """Axes with a grid, and what is drawn between them, in the units of the axes.

    x, y: lowest and highest value; what is beyond is drawn at their ends. whole: y counts things.
    """

    def __init__(
        self,
        name: str,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        x_name: str = '',
        y_name: str = '',
        width_px: int = FULL_PX,
        height_px: int = 240,
        whole: bool = False,
    ) -> None:
        self._name = name
        self._x_name, self._y_name = x_name, y_name
        self._low_x, high_x = x
        self._low_y, high_y = y
        self._span_x = (high_x - self._low_x) or 1.0
        self._span_y = (high_y - self._low_y) or 1.0
        self._width_px, self._height_px = width_px, height_px
        self._right_px = width_px - RIGHT_PX
        self._bottom_px = height_px - BOTTOM_PX
        self._whole = whole
        self._parts: list[str] = []
        self._marks: list[str] = []

    def x(self, value: float) -> float:
        """In px from the left."""
        share = min(max((value - self._low_x) / self._span_x, 0.0), 1.0)
        return LEFT_PX + share * (self._right_px - LEFT_PX)

    def y(self, value: float) -> float:
        """In px from the top."""
        share = min(max((value - self._low_y) / self._span_y, 0.0), 1.0)
        return self._bottom_px - share * (self._bottom_px - TOP_PX)

    def bars(
        self,
        spans: Iterable[tuple[float, float, float, float]],
        colour: str,
        min_height_px: float = 0.0,
    ) -> None:
        """Rectangles: from and to x, from and to y; one path, so that many stay small."""
        path = ''
        for start, end, low, high in spans:
            left, bottom = self.x(start), self.y(low)
            width = max(self.x(end) - left, 0.6)
            height = max(bottom - self.y(high), min_height_px)
            path += f'M{left:.1f} {bottom:.1f}v{-height:.1f}h{width:.1f}v{height:.1f}z'
        if path:
            self._parts.append(f'<path d="{path}" fill="{colour}"/>')

    def below(self, spans: Iterable[tuple[float, float]], colour: str) -> None:
        """Ticks under the x axis."""
        path = ''
        for start, end in spans:
            left = self.x(start)
            width = max(self.x(end) - left, 1.5)
            path += f'M{left:.1f} {self._bottom_px + 2}v6h{width:.1f}v-6z'
        if path:
            self._parts.append(f'<path d="{path}" fill="{colour}"/>')

    def line(
        self, points: Iterable[tuple[float, float]], colour: str, width_px: float = 2.0
    ) -> None:
        """Through all points; broken where y is not a number."""
        path, pen = '', 'M'
        for at, value in points:
            if math.isfinite(value):
                path += f'{pen}{self.x(at):.1f} {self.y(value):.1f}'
            pen = 'L' if math.isfinite(value) else 'M'
        if path:
            self._parts.append(
                f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width_px:g}" '
                'stroke-linejoin="round" stroke-linecap="round"/>'
            )

    def dot(self, at: float, value: float, colour: str, title: str) -> None:
        """A point that tells its title when pointed at."""
        self._parts.append(
            f'<circle cx="{self.x(at):.1f}" cy="{self.y(value):.1f}" r="5" fill="{colour}">'
            f'<title>{plain(title)}</title></circle>'
        )

    def level(self, value: float, text: str, lower_px: float = 4.0) -> None:
        """A dashed line across, named at its right end; nothing where it is not a number.

        lower_px: how far below the line the text stands.
        """
        if math.isfinite(value):
            y = self.y(value)
            self._marks.append(
                f'<path d="M{LEFT_PX} {y:.1f}H{self._right_px}" class="mark"/>'
                f'<text x="{self._right_px + 5}" y="{y + lower_px:.1f}">{plain(text)}</text>'
            )

    def mark(self, at: float, text: str, row: int = 0) -> None:
        """A dashed line upward, named at its upper end; nothing where it is not a number.

        row: of the text; -1 is above the chart.
        """
        if math.isfinite(at):
            x = self.x(at)
            self._marks.append(
                f'<path d="M{x:.1f} {TOP_PX - 4}V{self._bottom_px}" class="mark"/>'
                f'<text x="{x + 4:.1f}" y="{TOP_PX + 6 + 14 * row}">{plain(text)}</text>'
            )

    def tell(self, start: float, end: float, title: str) -> None:
        """A text that comes when the pointer is anywhere above this part of the x axis."""
        left = self.x(start)
        self._parts.append(
            f'<rect class="tell" x="{left:.1f}" y="{TOP_PX}" '
            f'width="{max(self.x(end) - left, 1.0):.1f}" height="{self._bottom_px - TOP_PX}">'
            f'<title>{plain(title)}</title></rect>'
        )

    def svg(self) -> str:
        """The whole of it."""
        wide = ' class="full"' if self._width_px == FULL_PX else ''
        return (
            f'<svg{wide} viewBox="0 0 {self._width_px} {self._height_px}" role="img" '
            f'aria-label="{plain(self._name)}">{self._grid()}'
            f'{"".join(self._parts + self._marks)}</svg>'
        )

    def _grid(self) -> str:
        grid = ''
        for value in ticks(self._low_y, self._low_y + self._span_y):
            if self._whole and value != round(value):
                continue
            y = self.y(value)
            grid += (
                f'<path d="M{LEFT_PX} {y:.1f}H{self._right_px}" class="grid"/>'
                f'<text x="{LEFT_PX - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
            )
        wanted = 10 if self._width_px == FULL_PX else 6
        for value in ticks(self._low_x, self._low_x + self._span_x, wanted):
            grid += (
                f'<text x="{self.x(value):.1f}" y="{self._bottom_px + 20}" '
                f'text-anchor="middle">{value:g}</text>'
            )
        return (
            f'{grid}<text x="{LEFT_PX - 6}" y="10" text-anchor="end">{plain(self._y_name)}</text>'
            f'<text x="{self._right_px + 18}" y="{self._bottom_px + 20}">'
            f'{plain(self._x_name)}</text>'
        )


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values from low to high, about as many as wanted."""
    step = round_up((high - low) / wanted)
    return [
        round(number * step, 9)
        for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def round_up(value: float) -> float:
    """To 1, 2 or 5 times a power of ten; of what is not above 0: 1."""
    if not (math.isfinite(value) and value > 0):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


@dataclass(frozen=True, slots=True)
class Timeline:
    """All passes one after another, the pauses between them left out.

    begins_ns: monotonic clock, at the first frame of each. starts_s: of each, along the axis.
    """

    begins_ns: tuple[int, ...]
    starts_s: tuple[float, ...]
    total_s: float

    @classmethod
    def of(cls, passes: Sequence[Sequence[FrameTrace]]) -> Timeline:
        """From the first to the last moment of each pass."""
        begins, starts, total_s = [], [], 0.0
        for frames in passes:
            begin_ns = min((frame.sent_ns for frame in frames), default=0)
            end_ns = max(map(_last_moment_ns, frames), default=0)
            begins.append(begin_ns)
            starts.append(total_s)
            total_s += (end_ns - begin_ns) / 1e9
        return cls(tuple(begins), tuple(starts), max(total_s, 1e-3))

    def at_s(self, number: int, time_ns: int) -> float:
        """Where a moment of this pass is on the axis."""
        return self.starts_s[number] + (time_ns - self.begins_ns[number]) / 1e9

    def length_s(self, number: int) -> float:
        """Of this pass."""
        return (*self.starts_s, self.total_s)[number + 1] - self.starts_s[number]

    def chart(
        self,
        name: str,
        high: float,
        y_name: str,
        *,
        width_px: int = FULL_PX,
        height_px: int = 200,
        whole: bool = False,
    ) -> Chart:
        """A chart along this axis, with a mark where each later pass begins."""
        chart = Chart(
            name,
            (0.0, self.total_s),
            (0.0, high),
            x_name='s',
            y_name=y_name,
            width_px=width_px,
            height_px=height_px,
            whole=whole,
        )
        for number, start_s in enumerate(self.starts_s[1:], 2):
            chart.mark(start_s, f'pass {number}', -1)
        return chart


@dataclass(frozen=True, slots=True)
class _Slot:
    """Frames that were sent one after another and share a bar; from and to, on the axis."""

    start_s: float
    end_s: float
    frames: Sequence[FrameTrace]

    @property
    def latencies_ms(self) -> list[float]:
        return [frame.latency_ms for frame in self.frames if frame.latency_ms is not None]


def latency_histogram(latencies_ms: Sequence[float], marks: Mapping[str, float]) -> str:
    """Answers by latency; those far beyond the 99th percentile share the last bar.

    marks: what to name on the axis, e.g. p50 and p99, in ms.
    """
    if not latencies_ms:
        return ''
    values = np.asarray(latencies_ms, np.float64)
    fastest_ms, p99_ms = float(values.min()), float(np.percentile(values, 99))
    end_ms = min(float(values.max()), 2 * p99_ms - fastest_ms)
    step_ms = round_up((end_ms - fastest_ms) / 40)
    first = math.floor(fastest_ms / step_ms)
    count = math.floor(end_ms / step_ms) - first + 1
    numbers = np.floor(values / step_ms).astype(int) - first
    heights = np.bincount(np.minimum(numbers, count))
    chart = Chart(
        'latency histogram',
        (max(first - 1, 0) * step_ms, (first + len(heights)) * step_ms),
        (0.0, float(heights.max()) * 1.05),
        x_name='ms',
        y_name='answers',
        width_px=HALF_PX,
        whole=True,
    )
    for colour, shown in (
        ('var(--blue)', range(min(count, len(heights)))),
        ('var(--red)', [count]),
    ):
        chart.bars(
            [
                ((first + n) * step_ms, (first + n + 0.92) * step_ms, 0.0, float(heights[n]))
                for n in shown
                if n < len(heights) and heights[n]
            ],
            colour,
            1.0,
        )
    for number, height in enumerate(heights):
        start_ms, stop_ms = ((first + number + more) * step_ms for more in (0, 1))
        reach = f'from {start_ms:g} ms' + (f' to {stop_ms:g} ms' if number < count else '')
        chart.tell(start_ms, stop_ms, f'{reach}: {height}')
    for row, (name, value) in enumerate(marks.items()):
        chart.mark(value, f'{name} {value:.1f}', row)
    return chart.svg()


def latency_series(
    passes: Sequence[Sequence[FrameTrace]], timeline: Timeline, marks: Mapping[str, float]
) -> str:
    """For each camera: a bar for each frame, or for several in a row, stacked by station.

    Frames that were lost are ticks below. marks: two levels to name, the lower one first, e.g. p50
    and p99, in ms.
    """
    lanes = _lanes(passes, timeline)
    latencies = [ms for slots in lanes.values() for slot in slots for ms in slot.latencies_ms]
    if not latencies:
        return ''
    highest_ms = max(latencies)
    high_ms = min(highest_ms, 3.0 * float(np.percentile(latencies, 99))) * 1.05
    several = any(len(slot.latencies_ms) > 1 for slots in lanes.values() for slot in slots)
    drawn, seen = '', set[str]()
    for camera, slots in lanes.items():
        chart = timeline.chart(
            f'latency of {camera} by station',
            high_ms,
            'ms',
            height_px=280 if len(lanes) == 1 else 200,
        )
        bars: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
        for slot in slots:
            base_ms = 0.0
            for station, mean_ms in _mean_stations_ms(slot.frames).items():
                bars[station].append((slot.start_s, slot.end_s, base_ms, base_ms + mean_ms))
                base_ms += mean_ms
        for station, colour in STATION_COLOURS.items():
            chart.bars(bars[station], colour)
        tops = [(s.start_s, s.end_s, max(s.latencies_ms)) for s in slots if s.latencies_ms]
        thin_ms = high_ms / 150
        if several:
            chart.bars([(at, to, top, top + thin_ms) for at, to, top in tops], 'var(--ink)')
        beyond = [(a, b, high_ms - 3 * thin_ms, high_ms) for a, b, top in tops if top > high_ms]
        chart.bars(beyond, 'var(--red)')
        lost = [(slot.start_s, slot.end_s) for slot in slots if _count_lost(slot.frames)]
        chart.below(lost, 'var(--red)')
        for lower_px, (name, value) in zip((11.0, -3.0), marks.items(), strict=False):
            chart.level(value, f'{name} {value:.1f}', lower_px)
        for slot in slots:
            chart.tell(slot.start_s, slot.end_s, _tell_latency(slot))
        drawn += (f'<h3>{plain(camera)}</h3>' if len(lanes) > 1 else '') + chart.svg()
        seen |= {station for station, spans in bars.items() if spans}
        seen |= {'lost'} if lost else set()
    names = {**STATION_NAMES, UNTOLD: 'not told apart'}
    entries = [(STATION_COLOURS[name], names[name]) for name in STATION_COLOURS if name in seen]
    if several:
        entries.append(('var(--ink)', 'the slowest of each bar (bar: mean)'))
    if highest_ms > high_ms:
        entries.append(('var(--red)', f'above: beyond the chart, up to {highest_ms:.0f} ms'))
    if 'lost' in seen:
        entries.append(('var(--red)', 'below: a frame was lost'))
    return drawn + legend(entries)


def loss_timeline(passes: Sequence[Sequence[FrameTrace]], timeline: Timeline) -> str:
    """For each camera: when frames were sent (strip), and how many of them were lost to what."""
    lanes = _lanes(passes, timeline)
    counts = [_count_lost(slot.frames).total() for slots in lanes.values() for slot in slots]
    high = max(counts, default=0)
    drawn, seen = '', Counter[Fate]()
    for camera, slots in lanes.items():
        chart = timeline.chart(
            f'lost frames of {camera}', max(high, 1), 'lost', height_px=130, whole=True
        )
        for fate in FATES[1:]:
            spans = []
            for slot in slots:
                lost = _count_lost(slot.frames)
                base = sum(lost[earlier] for earlier in FATES[1 : FATES.index(fate)])
                if lost[fate]:
                    spans.append((slot.start_s, slot.end_s, base, base + lost[fate]))
                    seen[fate] += lost[fate]
            chart.bars(spans, FATE_COLOURS[fate], 3.0)
        chart.below([(slot.start_s, slot.end_s) for slot in slots], FATE_COLOURS['answered'])
        for slot in slots:
            if text := _tell_lost(slot):
                chart.tell(slot.start_s, slot.end_s, text)
        drawn += f'<h3>{plain(camera)}</h3>{chart.svg()}'
    entries = [(FATE_COLOURS[fate], FATE_NAMES[fate]) for fate in FATES if seen[fate]]
    return drawn + legend([(FATE_COLOURS['answered'], 'frames were sent'), *entries])


def rate_series(passes: Sequence[Sequence[FrameTrace]], timeline: Timeline) -> str:
    """Frames per second: sent, received by the node, answered."""
    moments: dict[str, Callable[[FrameTrace], int | None]] = {
        'sent': lambda frame: frame.sent_ns,
        'received by the node': lambda frame: frame.received_ns,
        'answered': _answered_ns,
    }
    colours = ('var(--dim)', 'var(--violet)', 'var(--blue)')
    step_s = max(1.0, timeline.total_s / 150)
    series: dict[str, list[tuple[float, float]]] = {}
    for name, moment_of in moments.items():
        points: list[tuple[float, float]] = []
        for number, frames in enumerate(passes):
            times = [time_ns for frame in frames if (time_ns := moment_of(frame)) is not None]
            length_s = timeline.length_s(number)
            if length_s <= 0 or not times:
                continue
            bins = max(1, round(length_s / step_s))
            width_s, start_s = length_s / bins, timeline.starts_s[number]
            offsets_s = [timeline.at_s(number, time_ns) - start_s for time_ns in times]
            counts, _ = np.histogram(offsets_s, bins, (0.0, length_s))
            points.append((start_s, math.nan))  # the line is broken between two passes
            for index, count in enumerate(counts):
                points.append((start_s + index * width_s, count / width_s))
                points.append((start_s + (index + 1) * width_s, count / width_s))
        if points:
            series[name] = points
    if not series:
        return ''
    high = max(hz for points in series.values() for _, hz in points if math.isfinite(hz))
    chart = timeline.chart('rates over time', high * 1.05, 'Hz')
    entries = []
    for colour, name in zip(colours, moments, strict=True):
        if name in series:
            chart.line(series[name], colour)
            entries.append((colour, name))
    return chart.svg() + legend(entries)


def load_series(
    load: Sequence[Sequence[LoadSample]],
    timeline: Timeline,
    key: str,
    unit: str,
    width_px: int = FULL_PX,
    factor: float = 1.0,
) -> str:
    """One value of LoadSample over time, a line for each process; '' where nobody tells it."""
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for number, samples in enumerate(load):
        for who in {sample.who for sample in samples}:
            lines[who].append((timeline.starts_s[number], math.nan))
        for sample in samples:
            at_s = timeline.at_s(number, sample.time_ns)
            start_s = timeline.starts_s[number]
            if key in sample.values and 0 <= at_s - start_s <= timeline.length_s(number):
                lines[sample.who].append((at_s, factor * sample.values[key]))
    shown = {
        who: points
        for who, points in sorted(lines.items())
        if any(math.isfinite(value) for _, value in points)
    }
    if not shown:
        return ''
    shown = {who: _thinned(points) for who, points in shown.items()}
    high = max(value for points in shown.values() for _, value in points if math.isfinite(value))
    chart = timeline.chart(key, (high or 1.0) * 1.05, unit, width_px=width_px)
    entries = []
    for number, (who, points) in enumerate(shown.items()):
        colour = f'var(--{SERIES_COLOURS[number % len(SERIES_COLOURS)]})'
        chart.line(points, colour)
        entries.append((colour, plain(who)))
    return chart.svg() + legend(entries)


def probe_plot(probes: Sequence[Mapping[str, object]], found_hz: float) -> str:
    """What the search for the highest rate tried: frames missed, and the rate that came out."""
    tried = [probe for probe in probes if math.isfinite(_number(probe.get('hz')))]
    if not tried:
        return ''
    hz = [_number(probe['hz']) for probe in tried]
    pad = 0.06 * (max(hz) - min(hz)) or 1.0
    span = (max(min(hz) - pad, 0.0), max(hz) + pad)
    panels = ''
    for name, key, factor, unit in (
        ('missed', 'missed_share', 100.0, '%'),
        ('rate out', 'rate_out_hz', 1.0, 'Hz'),
    ):
        values = [factor * _number(probe.get(key)) for probe in tried]
        top = max((value for value in values if math.isfinite(value)), default=1.0)
        top = max(top, 10.0 if key == 'missed_share' else span[1]) * 1.05
        chart = Chart(
            f'{name} at each rate that was tried',
            span,
            (0.0, top),
            x_name='Hz in',
            y_name=unit,
            width_px=HALF_PX,
        )
        if key == 'missed_share':
            chart.level(5.0, '5 %')
        else:
            chart.line([(span[0], span[0]), (span[1], span[1])], 'var(--line)')
        chart.mark(found_hz, f'{found_hz:.1f} Hz')
        chart.line(sorted(zip(hz, values, strict=True)), 'var(--dim)', 1.0)
        for number, (probe, value) in enumerate(zip(tried, values, strict=True), 1):
            passed, in_hz = probe.get('passed') is True, _number(probe['hz'])
            verdict = 'passed' if passed else f'not passed: {probe.get("why") or "not told why"}'
            if math.isfinite(value):
                chart.dot(
                    in_hz,
                    value,
                    'var(--green)' if passed else 'var(--red)',
                    f'probe {number}: {in_hz:.1f} Hz in, {value:.1f} {unit} {name}, {verdict}',
                )
        panels += f'<div><h3>{name}</h3>{chart.svg()}</div>'
    entries = [('var(--green)', 'passed'), ('var(--red)', 'not passed')]
    return f'<div class="pair">{panels}</div>{legend(entries)}'


def station_bar(medians_ms: Mapping[str, float]) -> str:
    """The stations' medians one after another; '' where none is known."""
    known = {name: ms for name, ms in medians_ms.items() if math.isfinite(ms)}
    total_ms = sum(known.values())
    if total_ms <= 0:
        return ''
    at_px, bars = 0.0, ''
    for name, median_ms in known.items():
        width_px = 1000 * median_ms / total_ms
        bars += (
            f'<rect x="{at_px:.1f}" y="0" width="{width_px:.1f}" height="44" '
            f'fill="{STATION_COLOURS[name]}">'
            f'<title>{STATION_NAMES[name]}: {median_ms:.1f} ms</title></rect>'
        )
        at_px += width_px
    return f'<svg viewBox="0 0 1000 44" role="img" aria-label="median by station">{bars}</svg>'


def _lanes(passes: Sequence[Sequence[FrameTrace]], timeline: Timeline) -> dict[str, list[_Slot]]:
    """Of each camera by itself: two often send at the same moment."""
    cameras = dict.fromkeys(frame.camera for frames in passes for frame in frames)
    return {
        camera: list(_slots([[f for f in p if f.camera == camera] for p in passes], timeline))
        for camera in cameras
    }


def _slots(passes: Sequence[Sequence[FrameTrace]], timeline: Timeline) -> Iterator[_Slot]:
    """At most about SLOTS of them, from the first frame of each to that of the next."""
    total = sum(map(len, passes))
    size = math.ceil(total / SLOTS) or 1
    share = 0.9 if total <= SLOTS / 2 else 1.0  # with a gap between bars where they are wide
    for number, frames in enumerate(passes):
        ordered = sorted(frames, key=lambda frame: frame.sent_ns)
        starts_s = [timeline.at_s(number, frame.sent_ns) for frame in ordered[::size]]
        gaps_s = [after - before for before, after in pairwise(starts_s)]
        usual_s = float(np.median(gaps_s)) if gaps_s else timeline.length_s(number) or 1e-3
        for index, start_s in enumerate(starts_s):
            gap_s = min(gaps_s[index] if index < len(gaps_s) else usual_s, 2 * usual_s)
            yield _Slot(
                start_s, start_s + share * gap_s, ordered[index * size : (index + 1) * size]
            )


def _mean_stations_ms(frames: Sequence[FrameTrace]) -> dict[str, float]:
    """Of those answered; they sum up to the mean latency, UNTOLD being what no station tells."""
    answered = [frame for frame in frames if frame.latency_ms is not None]
    if not answered:
        return {}
    sums = dict.fromkeys((UNTOLD, *STATIONS), 0.0)
    for frame in answered:
        told = dict(frame.stations_ms())
        for name, value in told.items():
            sums[name] += value
        sums[UNTOLD] += max((frame.latency_ms or 0.0) - sum(told.values()), 0.0)
    return {name: total / len(answered) for name, total in sums.items() if total > 1e-6}


def _count_lost(frames: Sequence[FrameTrace]) -> Counter[Fate]:
    return Counter(frame.fate for frame in frames if frame.fate != 'answered')


def _tell_latency(slot: _Slot) -> str:
    latencies = slot.latencies_ms
    lines = [_tell_frames(slot)]
    if latencies:
        slowest = f', slowest {max(latencies):.1f} ms' if len(latencies) > 1 else ''
        lines.append(f'latency {np.mean(latencies):.1f} ms{slowest}')
        lines += [
            f'{STATION_NAMES.get(name, "not told apart")}: {mean_ms:.1f} ms'
            for name, mean_ms in _mean_stations_ms(slot.frames).items()
        ]
    return '\n'.join([*lines, _tell_lost(slot)]).strip()


def _tell_lost(slot: _Slot) -> str:
    counts = _count_lost(slot.frames)
    return '\n'.join(f'{FATE_NAMES[fate]}: {count}' for fate, count in counts.items())


def _tell_frames(slot: _Slot) -> str:
    first = slot.frames[0]
    if len(slot.frames) == 1:
        return f'{first.camera} frame {first.index}, stamp {first.stamp_ns / 1e9:.3f} s'
    return f'{len(slot.frames)} frames from {first.camera} {first.index}'


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about SLOTS / 2 of them: means of several in a row."""
    size = math.ceil(2 * len(points) / SLOTS)
    if size == 1:
        return list(points)
    rows = (np.asarray(points[start : start + size]) for start in range(0, len(points), size))
    return [(float(row[:, 0].mean()), float(row[:, 1].mean())) for row in rows]


def _answered_ns(frame: FrameTrace) -> int | None:
    """When its answer was there."""
    if frame.fate != 'answered':
        return None
    return frame.returned_ns if frame.returned_ns is not None else frame.decoded_ns


def _last_moment_ns(frame: FrameTrace) -> int:
    moments: list[int | None] = [getattr(frame, name) for name in MOMENTS]
    return max(moment for moment in moments if moment is not None)


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
