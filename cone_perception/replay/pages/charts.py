"""A replay's charts: latency by station, lost frames, rates, load, the search for the rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cone_perception.pages.blocks import Chart
from cone_perception.pages.charts import Trace, area, chart, dots, histogram, line, series_colour
from cone_perception.replay.figures.accuracy import Answers
from cone_perception.replay.traces import LOST, STATIONS, Fate, FrameTrace, LoadSample, span_ns


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
    'locate': Look('where the cones stand', '--pink'),
    'publish': Look('publishing', '--green'),
    'transport_out': Look('over DDS to the monitor', '--teal'),
}
FATE_LOOKS: dict[Fate, Look] = {
    'answered': Look('answered', '--green'),
    'matched': Look('matched with the other eye', '--blue'),
    'transport': Look('lost on the way to the node', '--violet'),
    'dropped': Look('dropped for a newer one', '--orange'),
    'failed': Look('failed', '--red'),
    'return': Look('lost on the way back', '--pink'),
    'unknown': Look('no answer, cause not known', '--dim'),
}

CAMERA_STEP = 1_000_000
"""Between the numbers of two cameras: the nearest picture to a frame is one of its own camera."""

FROM_ZERO = {'rangemode': 'tozero'}
LOST_LOOK: dict[str, Any] = {'hovertemplate': '%{text}<extra></extra>', 'cliponaxis': False}
"""The look of an axis, and of the dots of lost frames."""

MAX_FRAMES = 4000
"""Frames in a chart of latency; of more, the slowest of each few in a row is shown."""


class SentFrame(NamedTuple):
    """A frame on the time axis. number: of the camera's million, then among its frames sent."""

    number: int
    at_s: float
    frame: FrameTrace


def describe(frame: FrameTrace) -> str:
    """A caption: which picture, and what became of it."""
    which = f'{frame.camera} {frame.index}  {frame.stamp_ns / 1e9:.3f} s  '
    if frame.fate != 'answered':
        return which + FATE_LOOKS[frame.fate].name
    latency = '' if frame.latency_ms is None else f'{frame.latency_ms:.0f} ms  '
    return f'{which}{latency}{len(frame.found or ())} cones'


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """All passes one after another, the pauses between them left out.

    begins_ns: monotonic clock, at the first frame of each pass. edges_s: where each begins along
    the axis, and where the last one ends. cameras: the frames of each, in the order of sending.
    """

    begins_ns: Sequence[float]
    edges_s: Sequence[float]
    cameras: Mapping[str, Sequence[SentFrame]]

    @classmethod
    def of(cls, passes: Sequence[Sequence[FrameTrace]]) -> Timeline:
        """From the first to the last moment of each pass."""
        spans_ns = [span_ns(frames) if frames else (0, 0) for frames in passes]
        edges_s = [0.0, *accumulate((end - begin) / 1e9 for begin, end in spans_ns)]
        edges_s[-1] = max(edges_s[-1], 1e-3)
        cameras: dict[str, list[SentFrame]] = {}
        timeline = cls([begin for begin, _ in spans_ns], edges_s, cameras)
        for place, frame in ((n, frame) for n, frames in enumerate(passes) for frame in frames):
            sent = cameras.setdefault(frame.camera, [])
            number = CAMERA_STEP * list(cameras).index(frame.camera) + len(sent)
            sent.append(SentFrame(number, timeline.at_s(place, frame.sent_ns), frame))
        return timeline

    def at_s(self, number: int, time_ns: int) -> float:
        """Place of a moment of this pass on the axis."""
        return self.edges_s[number] + (time_ns - self.begins_ns[number]) / 1e9

    def chart(self, name: str, traces: Iterable[Trace], y: str, **more: Any) -> Chart:
        """A chart along this axis, with a mark where each later pass begins."""
        marks = [(at_s, f'pass {number}') for number, at_s in enumerate(self.edges_s[1:-1], 2)]
        span = {'range': [0, self.edges_s[-1]]}
        return chart(name, traces, x='s', y=y, marks=marks, x_axis=span, **more)


def latency_charts(timeline: Timeline, levels: Mapping[str, float]) -> list[Chart]:
    """For each camera the latency of its frames, stacked by station; lost frames at 0.

    One frame at least is answered. levels: two to be drawn across, the lower first, in ms.
    """
    frames = [each.frame for sent in timeline.cameras.values() for each in sent]
    known = [ms for frame in frames if (ms := frame.latency_ms) is not None]
    slowest_ms = max(known)
    high_ms = 1.12 * min(slowest_ms, 3.0 * float(np.percentile(known, 99)))
    beyond = f'The slowest took {slowest_ms:.0f} ms: zoom out to see it.'
    charts = []
    for camera, every in timeline.cameras.items():
        if not (sent := [each for each in every if each.frame.wanted]):
            continue
        several = math.ceil(len(sent) / MAX_FRAMES)
        told = [beyond] if slowest_ms > high_ms else []
        told += [f'The slowest of each {several} in a row.'] if several > 1 else []
        groups = (sent[start : start + several] for start in range(0, len(sent), several))
        # A lost frame is worse than a slow one.
        shown = [max(group, key=lambda s: s.frame.latency_ms or math.inf) for group in groups]
        charts.append(
            timeline.chart(
                f'latency of {camera} by station',
                _latency_traces(shown),
                'ms',
                title=camera if len(timeline.cameras) > 1 else '',
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
    latency_ms = np.array([each.frame.latency_ms for each in shown], np.float64)  # None: NaN
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
    told_ms = '<b>%{y:.1f} ms</b>, %{text}'
    clear = 'rgba(0,0,0,0)'
    yield _framed(line, 'latency', shown, latency_ms, clear, told_ms, showlegend=False)
    if lost := [each for each in shown if each.frame.lost]:
        yield _framed(dots, 'lost', lost, [0.0] * len(lost), '--red', **LOST_LOOK)


def loss_chart(timeline: Timeline) -> Chart:
    """A row for each camera: when frames were sent, and each lost frame by its cause."""
    traces: list[Trace] = []
    for camera, sent in timeline.cameras.items():
        at_s = np.array([each.at_s for each in sent])
        gaps_s = np.diff(at_s)
        if len(gaps_s):
            pauses = np.flatnonzero(gaps_s > 3 * np.median(gaps_s)) + 1
            at_s = np.insert(at_s, pauses, np.nan)
        look: dict[str, Any] = {'legendgroup': 'sent', 'showlegend': not traces}
        rows = [camera] * len(at_s)
        traces.append(line('frames were sent', at_s, rows, '--green', hoverinfo='skip', **look))
    for fate in LOST:
        lost = [s for sent in timeline.cameras.values() for s in sent if s.frame.fate == fate]
        if lost:
            (name, colour), rows = FATE_LOOKS[fate], [each.frame.camera for each in lost]
            traces.append(_framed(dots, name, lost, rows, colour, **LOST_LOOK))
    cameras = len(timeline.cameras)
    rows_axis = {'type': 'category', 'range': [-0.6, cameras - 0.4]}
    return timeline.chart('lost frames', traces, '', height_px=110 + 34 * cameras, y_axis=rows_axis)


def cones_charts(timeline: Timeline, truth: Answers | None) -> Iterator[Chart]:
    """For each camera the cones found in each answered frame, and those that are there."""
    for camera, sent in timeline.cameras.items():
        frames = [each for each in sent if each.frame.found is not None]
        there = [(truth or {}).get((f.camera, f.stamp_ns)) for _, _, f in frames]
        counts = [] if truth is None else [('there', '--dim', there)]
        counts.append(('found', '--blue', [each.frame.found for each in frames]))
        traces = []
        for what, colour, cones in counts if frames else ():
            y = [math.nan if each is None else len(each) for each in cones]
            traces.append(_framed(line, what, frames, y, colour, '%{y}, %{text}'))
        name = f'cones in each frame of {camera}'
        yield timeline.chart(name, traces, 'cones', title=camera, hovermode='x', y_axis=FROM_ZERO)


def rate_chart(passes: Sequence[Sequence[FrameTrace]], timeline: Timeline) -> Chart:
    """Frames per second: sent, received by the node, answered."""
    moments = (
        ('sent', '--dim', 'sent_ns'),
        ('received by the node', '--violet', 'received_ns'),
        ('answered', '--blue', 'answered_ns'),
    )
    step_s = max(1.0, timeline.edges_s[-1] / 150)
    traces = []
    for name, colour, moment in moments:
        x, y = [math.nan], [math.nan]  # the line is broken between two passes
        for number, frames in enumerate(passes):
            known = (getattr(frame, moment) for frame in frames)
            at_s = [timeline.at_s(number, time_ns) for time_ns in known if time_ns is not None]
            start_s, end_s = timeline.edges_s[number : number + 2]
            if start_s < end_s and at_s:
                count = max(1, round((end_s - start_s) / step_s))
                counts, edges = np.histogram(at_s, count, (start_s, end_s))
                hz = counts / np.diff(edges)
                x += [*edges.tolist(), math.nan]
                y += [*hz.tolist(), hz[-1], math.nan]
        if len(x) > 1:
            told = '%{y:.1f} Hz'
            traces.append(line(name, x, y, colour, shape='hv', hovertemplate=told))
    return timeline.chart('rates over time', traces, 'Hz', hovermode='x', y_axis=FROM_ZERO)


def load_chart(
    load: Sequence[Sequence[LoadSample]], timeline: Timeline, title: str, key: str, unit: str
) -> Chart:
    """One value of LoadSample over time, a line for each process."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for number, samples in enumerate(load):
        start_s, end_s = timeline.edges_s[number : number + 2]
        for points in lines.values():
            points.append((start_s, math.nan))
        for sample in samples:
            at_s = timeline.at_s(number, sample.time_ns)
            if start_s <= at_s <= end_s and math.isfinite(sample.values.get(key, math.nan)):
                lines.setdefault(sample.who, []).append((at_s, sample.values[key]))
    traces = []
    for number, (who, points) in enumerate(sorted(lines.items())):
        seconds, values = zip(*points, strict=True)
        told = f'%{{y}} {unit}'
        traces.append(line(who, seconds, values, series_colour(number), hovertemplate=told))
    look: dict[str, Any] = {'half': True, 'showlegend': True, 'y_axis': FROM_ZERO}
    return timeline.chart(title, traces, unit, title=title, **look)


def probe_charts(probes: Sequence[Mapping[str, Any]], found_hz: float) -> Iterator[Chart]:
    """Show the search for the highest rate: frames missed at each, and the rate found."""
    ends = np.array([0.0, 1.05 * max((probe['hz'] for probe in probes), default=0.0)])
    for name, key, factor, unit, limit in (
        ('missed', 'missed_share', 100.0, '%', np.full(2, 5.0)),
        ('rate out', 'rate_out_hz', 1.0, 'Hz', ends),
    ):
        traces = [line('limit', ends, limit, '--line', hoverinfo='skip')]
        for passed, said, colour in ((True, 'passed', '--green'), (False, 'not passed', '--red')):
            some = [each for each in enumerate(probes, 1) if each[1]['passed'] == passed]
            whys = ['' if passed else f': {p.get("why") or "not told why"}' for _, p in some]
            text = [f'probe {n}: {said}{why}' for (n, _), why in zip(some, whys, strict=True)]
            y = np.array([probe.get(key) for _, probe in some], np.float64)  # None: NaN
            told = f'%{{x:.1f}} Hz in, %{{y:.1f}} {unit} {name}, %{{text}}<extra></extra>'
            x = [probe['hz'] for _, probe in some]
            if some:
                traces.append(dots(said, x, factor * y, colour, text=text, hovertemplate=told))
        yield chart(
            f'{name} at each rate that was tried',
            traces if probes else [],
            title=name,
            x='Hz in',
            y=unit,
            marks=[(found_hz, f'{found_hz:.1f} Hz')],
            half=True,
        )


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


def _framed(
    make: Callable[..., Trace],
    name: str,
    sent: Sequence[SentFrame],
    y: ArrayLike,
    colour: str,
    hovertemplate: str,
    **more: Any,
) -> Trace:
    """A trace with a point for each frame, which tells of it and shows its picture on a click."""
    numbers, at_s = [each.number for each in sent], [each.at_s for each in sent]
    more |= {'customdata': numbers, 'text': [describe(each.frame) for each in sent]}
    return make(name, at_s, y, colour, hovertemplate=hovertemplate, **more)
