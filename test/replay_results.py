"""Results of replays as the tests of its page and film need them, without a replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from recorded_drive import serialised, write

from cone_perception.accuracy.intervals import Interval
from cone_perception.bags.reader import bag_types, image_message
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.traces import STATIONS, Fate, FrameTrace, LoadSample
from cone_perception.types import Detections, Frame

NAMES = ('blue_cone', 'large_orange_cone', 'orange_cone', 'unknown_cone', 'yellow_cone')
PERIOD_NS = 50_000_000
MS = 1_000_000
STATIONS_MS = (1.0, 2.0, 3.0, 20.0, 1.0, 0.5, 0.5, 1.0)
FIRST_STAMP_NS = 1_700_000_000 * 10**9


def cones(
    *boxes: tuple[float, float, float, float], class_id: int = 0, score: float = 0.9
) -> Detections:
    n = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(n, 4),
        np.full(n, score, np.float32),
        np.full(n, class_id, np.int64),
    )


NEAR = (20.0, 20.0, 40.0, 50.0)


def trace(
    index: int,
    fate: Fate = 'answered',
    *,
    camera: str = 'left',
    start_ns: int = 10**9,
    factor: float = 1.0,
    reason: str = '',
    found: Detections | None = None,
) -> FrameTrace:
    """A frame sent at its place in the drive; each station takes STATIONS_MS times `factor`."""
    sent_ns = start_ns + index * PERIOD_NS
    moments = sent_ns + np.cumsum([round(ms * factor * MS) for ms in STATIONS_MS])
    stamp_ns = FIRST_STAMP_NS + index * PERIOD_NS
    if fate == 'answered':
        seen = cones(NEAR) if found is None else found
        return FrameTrace(camera, index, stamp_ns, fate, sent_ns, *map(int, moments), reason, seen)
    received_ns = None if fate in ('transport', 'unknown') else int(moments[0])
    return FrameTrace(camera, index, stamp_ns, fate, sent_ns, received_ns, reason=reason)


def load(count: int, start_ns: int = 10**9) -> list[LoadSample]:
    """Samples of node, player and GPU, twice a second."""
    samples = []
    for number in range(count):
        time_ns = start_ns + number * 10**9 // 2
        samples += [
            LoadSample('node', time_ns, {'cpu_cores': 1.2 + number % 2, 'memory_mb': 300.0}),
            LoadSample('player', time_ns, {'cpu_cores': 0.1, 'memory_mb': 80.0}),
            LoadSample('gpu', time_ns, {'load_percent': 50.0, 'clock_mhz': 1500.0}),
        ]
    return samples


def result(passes: Sequence[Sequence[FrameTrace]], **changes: Any) -> ReplayResult:
    """With the figures that the page names in its summary, of these passes."""
    frames = [frame for each in passes for frame in each]
    latencies = [frame.latency_ms for frame in frames if frame.latency_ms is not None]
    figures = {
        'frames_sent': Interval(len(frames)),
        'frames_answered': Interval(len(latencies)),
        **{
            f'latency_p{at}_ms': _figure(np.percentile(latencies, at) if latencies else np.nan)
            for at in (50, 99)
        },
        **{
            f'station_{name}_p{at}_ms': _figure(ms)
            for name, ms in zip(STATIONS, STATIONS_MS, strict=True)
            for at in (50, 99)
        },
        'rate_in_hz': _figure(20.0),
        'rate_out_hz': _figure(19.0),
    }
    whole = ReplayResult(
        configuration={
            'arguments': ['/bags/drive', '--hz', '20'],
            'through': 'ros',
            'pace': {'kind': 'hz', 'hz': 20.0},
        },
        bag={
            'path': '/bags/drive',
            'frames': 40,
            'cameras': [
                {'name': name, 'topic': f'/camera/{name}/image_raw'} for name in ('left', 'right')
            ],
        },
        model={'name': 'tiny', 'class_names': list(NAMES), 'verdict': 'passed'},
        host={'processor': 'a processor', 'versions': {'numpy': '2.0'}},
        figures=figures,
        per_pass=[figures for _ in passes],
        passes=passes,
        load=[load(6) for _ in passes],
    )
    return replace(whole, **changes)


def write_bag(path: Path, counts: dict[str, int], shape: tuple[int, int] = (96, 128)) -> Path:
    """A bag with `counts` pictures per camera, each by 10 brighter than the one before."""
    messages = []
    for camera, count in counts.items():
        for index in range(count):
            stamp_ns = FIRST_STAMP_NS + index * PERIOD_NS
            frame = Frame(np.full((*shape, 3), 40 + 10 * index % 200, np.uint8), stamp_ns, camera)
            message = serialised(image_message(bag_types(), frame, False))
            messages.append((f'/camera/{camera}/image_raw', stamp_ns, message))
    return write(path, messages)


def _figure(value: float) -> Interval:
    return Interval(float(value), float(value) * 0.95, float(value) * 1.05)
