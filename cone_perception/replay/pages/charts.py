"""A replay's charts: latency by station, lost frames, rates, load, the search for the rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cone_perception.pages.blocks import Chart
from cone_perception.pages.charts import (
    Trace,
    area,
    chart,
    dots,
    histogram,
    line,
    series_colour,
    strip,
)
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.traces import FATES, MOMENTS, STATIONS, Fate, FrameTrace, LoadSample


class Look(NamedTuple):
    """Name and colour of a station or a fate."""

    name: str
    colour: str


STATION_LOOKS = {
    'transport_in': Look('over DDS to the node', '--dim'),
    'wait': Look('waiting for the one before', '--yellow'),
    'preprocess': Look('message to network input', '--violet'),
    'inference': Look('network', '--blue'),
    'decode': Look('decoding', '--orange'),
    'publish': Look('publishing', '--green'),
    'transport_out': Look('over DDS to the monitor', '--teal'),
}
FATE_LOOKS: dict[Fate, Look] = {
    'answered': Look('answered', '--green'),
    'transport': Look('lost on the way to the node', '--violet'),
    'dropped': Look('dropped for a newer one', '--orange'),
    'failed': Look('failed', '--red'),
    'return': Look('lost on the way back', '--pink'),
    'unknown': Look('no answer, cause not known', '--dim'),
}

CAMERA_STEP = 1_000_000
"""Between the numbers of two cameras: the nearest picture to a frame is one of its own camera."""

MAX_FRAMES = 4000
"""Frames in a chart of latency; of more, the slowest of each few in a row is shown."""


class SentFrame(NamedTuple):
    """A frame on the time axis. number: of the camera's million, then among its frames sent."""

    number: int
    at_s: float
    frame: FrameTrace


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
            begins.append(begin_ns)
            starts.append(total_s)
            total_s += (max(map(_last_moment_ns, frames), default=0) - begin_ns) / 1e9
        return cls(tuple(begins), tuple(starts), max(total_s, 1e-3))

    def at_s(self, number: int, time_ns: int) -> float:
        """Place of a moment of this pass on the axis."""
        return self.starts_s[number] + (time_ns - self.begins_ns[number]) / 1e9

    def length_s(self, number: int) -> float:
        """Length of this pass."""
        return (*self.starts_s, self.total_s)[number + 1] - self.starts_s[number]

    def chart(self, name: str, traces: Iterable[Trace], y: str, **more: Any) -> Chart:
        """A chart along this axis, with a mark where each later pass begins."""
        marks = [(at_s, f'pass {number}') for number, at_s in enumerate(self.starts_s[1:], 2)]
        span = {'range': [0, self.total_s]}
        return chart(name, traces, x='s', y=y, marks=marks, x_axis=span, **more)

    def by_camera(self, passes: Sequence[Sequence[FrameTrace]]) -> dict[str, list[SentFrame]]:
        """Each camera's frames in the order of sending."""
        cameras: dict[str, list[SentFrame]] = {}
        for place, frames in enumerate(passes):
            for frame in frames:
                sent = cameras.setdefault(frame.camera, [])
                number = CAMERA_STEP * list(cameras).index(frame.camera) + len(sent)
                sent.append(SentFrame(number, self.at_s(place, frame.sent_ns), frame))
        return cameras


def latency_charts(
    passes: Sequence[Sequence[FrameTrace]], timeline: Timeline, levels: Mapping[str, float]
) -> list[Chart]:
    """For each camera the latency of its frames, stacked by station; lost frames at 0.

    levels: two to be drawn across, the lower one first, e.g. p50 and p99, in ms.
    """
    cameras = timeline.by_camera(passes)
    known = [ms for sent in cameras.values() for each in sent if (ms := each.frame.latency_ms)]
    if not known:
        return []
    slowest_ms = max(known)
    high_ms = 1.12 * min(slowest_ms, 3.0 * float(np.percentile(known, 99)))
    beyond = f'The slowest took {slowest_ms:.0f} ms: zoom out to see it.'
    charts = []
    for camera, sent in cameras.items():
        several = math.ceil(len(sent) / MAX_FRAMES)
        told = [beyond] if slowest_ms > high_ms else []
        told += [f'The slowest of each {several} in a row.'] if several > 1 else []
        charts.append(
            timeline.chart(
                f'latency of {camera} by station',
                _latency_traces(_slowest_of_each(sent, several)),
                'ms',
                title=camera if len(cameras) > 1 else '',
                height_px=320,
                levels=levels,
                hovermode='x unified',
                y_axis={'range': [0, high_ms]},
                caption=' '.join(told),
            )
        )
    return charts


def _latency_traces(shown: Sequence[SentFrame]) -> Iterator[Trace]:
    at_s = [each.at_s for each in shown]
    latency_ms = np.array([_or_nan(each.frame.latency_ms) for each in shown])
    stations = np.full((len(shown), len(STATIONS)), np.nan)
    for row, (_, _, frame) in zip(stations, shown, strict=True):
        if frame.latency_ms is not None:
            told = dict(frame.stations_ms())
            row[:] = [told.get(name, math.nan) for name in STATIONS]
    untold = np.maximum(latency_ms - np.nansum(stations, axis=1), 0.0)
    looks = [Look('not told apart', '--line'), *(STATION_LOOKS[name] for name in STATIONS)]
    for (name, colour), values in zip(looks, [untold, *stations.T], strict=True):
        if np.nanmax(values, initial=0.0) > 1e-3:
            yield area(name, at_s, values, colour, hovertemplate='%{y:.1f} ms')
    yield line(
        'latency',
        at_s,
        latency_ms,
        'rgba(0,0,0,0)',
        customdata=[each.number for each in shown],
        text=[_label(each.frame) for each in shown],
        hovertemplate='<b>%{y:.1f} ms</b>, %{text}',
        showlegend=False,
    )
    lost = [each for each in shown if each.frame.fate != 'answered']
    if lost:
        yield _frame_dots('lost', lost, [0.0] * len(lost), '--red')


def loss_chart(passes: Sequence[Sequence[FrameTrace]], timeline: Timeline) -> Chart:
    """A row for each camera: when frames were sent, and each lost frame by its cause."""
    cameras = timeline.by_camera(passes)
    traces: list[Trace] = []
    for camera, sent in cameras.items():
        at_s = np.array([each.at_s for each in sent])
        gaps_s = np.diff(at_s)
        if len(gaps_s):
            pauses = np.flatnonzero(gaps_s > 3 * np.median(gaps_s)) + 1
            at_s = np.insert(at_s, pauses, np.nan)
        look: dict[str, Any] = {'legendgroup': 'sent', 'showlegend': not traces}
        rows = [camera] * len(at_s)
        traces.append(line('frames were sent', at_s, rows, '--green', hoverinfo='skip', **look))
    for fate in FATES[1:]:
        lost = [s for sent in cameras.values() for s in sent if s.frame.fate == fate]
        if lost:
            rows = [each.frame.camera for each in lost]
            name, colour = FATE_LOOKS[fate]
            traces.append(_frame_dots(name, lost, rows, colour))
    height_px = 110 + 34 * len(cameras)
    rows_axis = {'type': 'category', 'range': [-0.6, len(cameras) - 0.4]}
    return timeline.chart('lost frames', traces, '', height_px=height_px, y_axis=rows_axis)


def cones_charts(result: ReplayResult, timeline: Timeline) -> list[Chart]:
    """For each camera the cones found in each answered frame, and those that are there."""
    charts = []
    for camera, sent in timeline.by_camera(result.passes).items():
        frames = [each for each in sent if each.frame.found is not None]
        at_s, numbers = [each.at_s for each in frames], [each.number for each in frames]
        text = [_label(each.frame) for each in frames]
        found = np.array([len(each.frame.found or ()) for each in frames], np.float64)
        counts = [('found', found, '--blue')]
        if result.truth is not None:
            truth = [result.truth.get((f.camera, f.stamp_ns)) for _, _, f in frames]
            there = np.array([math.nan if t is None else len(t) for t in truth])
            counts.insert(0, ('there', there, '--dim'))
        told = '%{y}, %{text}'
        traces = [
            line(name, at_s, y, colour, customdata=numbers, text=text, hovertemplate=told)
            for name, y, colour in counts
        ]
        name = f'cones in each frame of {camera}'
        look: dict[str, Any] = {'hovermode': 'x', 'y_axis': {'rangemode': 'tozero'}}
        charts += [timeline.chart(name, traces, 'cones', title=camera, **look)] if frames else []
    return charts


def rate_chart(passes: Sequence[Sequence[FrameTrace]], timeline: Timeline) -> list[Chart]:
    """Frames per second: sent, received by the node, answered; empty where none is known."""
    moments = (
        ('sent', '--dim', 'sent_ns'),
        ('received by the node', '--violet', 'received_ns'),
        ('answered', '--blue', 'answered_ns'),
    )
    step_s = max(1.0, timeline.total_s / 150)
    traces = []
    for name, colour, moment in moments:
        x, y = [math.nan], [math.nan]  # the line is broken between two passes
        for number, frames in enumerate(passes):
            known = (getattr(frame, moment) for frame in frames)
            times = [time_ns for time_ns in known if time_ns is not None]
            start_s, length_s = timeline.starts_s[number], timeline.length_s(number)
            if length_s <= 0 or not times:
                continue
            count = max(1, round(length_s / step_s))
            at_s = [timeline.at_s(number, time_ns) for time_ns in times]
            counts, edges = np.histogram(at_s, count, (start_s, start_s + length_s))
            hz = counts * (count / length_s)
            x += [*edges.tolist(), math.nan]
            y += [*hz.tolist(), hz[-1], math.nan]
        if len(x) > 1:
            told = '%{y:.1f} Hz'
            traces.append(line(name, x, y, colour, shape='hv', hovertemplate=told))
    if not traces:
        return []
    from_zero = {'rangemode': 'tozero'}
    return [timeline.chart('rates over time', traces, 'Hz', hovermode='x', y_axis=from_zero)]


def load_chart(
    load: Sequence[Sequence[LoadSample]], timeline: Timeline, title: str, key: str, unit: str
) -> list[Chart]:
    """One value of LoadSample over time, a line for each process; empty where nobody tells it."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for number, samples in enumerate(load):
        for points in lines.values():
            points.append((timeline.starts_s[number], math.nan))
        for sample in samples:
            at_s = timeline.at_s(number, sample.time_ns)
            inside = 0 <= at_s - timeline.starts_s[number] <= timeline.length_s(number)
            if inside and math.isfinite(sample.values.get(key, math.nan)):
                lines.setdefault(sample.who, []).append((at_s, sample.values[key]))
    traces = []
    for number, (who, points) in enumerate(sorted(lines.items())):
        seconds, values = zip(*points, strict=True)
        told = f'%{{y}} {unit}'
        traces.append(line(who, seconds, values, series_colour(number), hovertemplate=told))
    look: dict[str, Any] = {'half': True, 'showlegend': True, 'y_axis': {'rangemode': 'tozero'}}
    return [timeline.chart(title, traces, unit, title=title, **look)] if traces else []


def probe_charts(probes: Sequence[Mapping[str, object]], found_hz: float) -> list[Chart]:
    """Show the search for the highest rate: frames missed at each, and the rate found."""
    tried = [probe for probe in probes if math.isfinite(_number(probe.get('hz')))]
    if not tried:
        return []
    ends = np.array([0.0, 1.05 * max(_number(probe['hz']) for probe in tried)])
    charts = []
    for name, key, factor, unit, limit in (
        ('missed', 'missed_share', 100.0, '%', np.full(2, 5.0)),
        ('rate out', 'rate_out_hz', 1.0, 'Hz', ends),
    ):
        traces = [line('limit', ends, limit, '--line', hoverinfo='skip')]
        for said, colour in (('passed', '--green'), ('not passed', '--red')):
            some = [each for each in enumerate(tried, 1) if _verdict(each[1]).startswith(said)]
            x = [_number(probe['hz']) for _, probe in some]
            y = [factor * _number(probe.get(key)) for _, probe in some]
            text = [f'probe {number}: {_verdict(probe)}' for number, probe in some]
            told = f'%{{x:.1f}} Hz in, %{{y:.1f}} {unit} {name}, %{{text}}<extra></extra>'
            traces += [dots(said, x, y, colour, text=text, hovertemplate=told)] if some else []
        charts.append(
            chart(
                f'{name} at each rate that was tried',
                traces,
                title=name,
                x='Hz in',
                y=unit,
                marks=[(found_hz, f'{found_hz:.1f} Hz')],
                half=True,
            )
        )
    return charts


def latency_histogram(latencies_ms: Sequence[float], marks: Mapping[str, float]) -> Chart:
    """Answers by latency; those far beyond the 99th percentile share the last bar.

    latencies_ms: at least one. marks: what to name on the axis, e.g. p50 and p99, in ms.
    """
    values = np.asarray(latencies_ms, np.float64)
    fastest_ms, slowest_ms = float(values.min()), float(values.max())
    end_ms = min(slowest_ms, 2 * float(np.percentile(values, 99)) - fastest_ms)
    span = (fastest_ms, max(end_ms, fastest_ms + 1e-3))
    counts, edges = np.histogram(np.minimum(values, end_ms), 40, span)
    slower = f'The last bar holds the slower ones too, up to {slowest_ms:.0f} ms.'
    return chart(
        'latency histogram',
        [histogram('answers', edges, counts)],
        x='ms',
        y='answers',
        marks=[(value, name) for name, value in marks.items()],
        caption=slower if slowest_ms > end_ms else '',
    )


def station_bar(medians_ms: Mapping[str, float]) -> list[Chart]:
    """The stations' medians one after another; empty where none is known."""
    parts = [
        (STATION_LOOKS[name].name, ms, STATION_LOOKS[name].colour)
        for name, ms in medians_ms.items()
        if math.isfinite(ms) and ms > 0
    ]
    return [strip('median by station', parts, 'ms')] if parts else []


def _frame_dots(name: str, sent: Sequence[SentFrame], y: ArrayLike, colour: str) -> Trace:
    """A dot for each frame, which tells what became of it and shows its picture on a click."""
    return dots(
        name,
        [each.at_s for each in sent],
        y,
        colour,
        customdata=[each.number for each in sent],
        text=[f'{_label(each.frame)}: {FATE_LOOKS[each.frame.fate].name}' for each in sent],
        hovertemplate='%{text}<extra></extra>',
        cliponaxis=False,
    )


def _verdict(probe: Mapping[str, object]) -> str:
    """`passed`, or `not passed: ` and why."""
    if probe.get('passed') is True:
        return 'passed'
    return f'not passed: {probe.get("why") or "not told why"}'


def _slowest_of_each(sent: Sequence[SentFrame], several: int) -> list[SentFrame]:
    def latency(each: SentFrame) -> float:
        return each.frame.latency_ms or math.inf  # a lost frame is worse than a slow one

    groups = (sent[start : start + several] for start in range(0, len(sent), several))
    return [max(group, key=latency) for group in groups]


def _label(frame: FrameTrace) -> str:
    return f'{frame.camera} frame {frame.index}, stamp {frame.stamp_ns / 1e9:.3f} s'


def _last_moment_ns(frame: FrameTrace) -> int:
    moments: list[int | None] = [getattr(frame, name) for name in MOMENTS]
    return max(moment for moment in moments if moment is not None)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
