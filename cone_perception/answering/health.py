"""How the node is doing: counts, rates and latencies per camera. Knows no ROS."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Literal

import numpy as np

RATE_WINDOW_S = 5.0
LATENCY_FRAMES = 512
"""Latest frames whose latencies count: 17 s at 30 Hz, enough for a 99th percentile."""


Outcome = Literal['answered', 'dropped', 'failed']
"""What becomes of a frame that was received. dropped: a newer one took its place, or the node
was deactivated."""


@dataclass(frozen=True, slots=True)
class FrameMoments:
    """When one frame left each station, in nanoseconds of the monotonic clock; None: it did not.

    received: in the subscription's callback. started: the worker took it. prepared, inferred,
    decoded: see StationTimes. published: its answer was sent.
    """

    received_ns: int
    started_ns: int | None = None
    prepared_ns: int | None = None
    inferred_ns: int | None = None
    decoded_ns: int | None = None
    published_ns: int | None = None

    def items(self) -> Iterable[tuple[str, int]]:
        """Name and nanoseconds of each moment that came."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None:
                yield entry.name, int(value)


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """Milliseconds that one frame spent at each station.

    age_ms: from its stamp to its arrival; None where stamp and clock do not belong together.
    wait_ms: from its arrival to the start of its work.
    preprocess_ms: message to network input. publish_ms: building and sending the answer, after
    that of its partner in a batch. total_ms: from its arrival until its answer was sent, the sum of
    the five.
    """

    age_ms: float | None
    wait_ms: float
    preprocess_ms: float
    inference_ms: float
    decode_ms: float
    publish_ms: float
    total_ms: float

    def items(self) -> Iterable[tuple[str, float]]:
        """Name and milliseconds of each station that is known."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None:
                yield entry.name, float(value)

    @classmethod
    def of(cls, moments: FrameMoments, age_ms: float | None) -> FrameTimes:
        """Of a frame that was answered."""
        times_ns = [value for _, value in moments.items()]
        wait, preprocess, inference, decode, publish = (
            (after - before) / 1e6 for before, after in pairwise(times_ns)
        )
        total = (times_ns[-1] - times_ns[0]) / 1e6
        return cls(age_ms, wait, preprocess, inference, decode, publish, total)


@dataclass(frozen=True, slots=True)
class CameraReport:
    """State of one camera at one moment.

    rate_in_hz, rate_out_hz, recently_*: of the last RATE_WINDOW_S seconds.
    received, answered, dropped, failed, alone: since activation. alone: frames of a stereo pair
    that were run without their partner.
    silent_s: since the last frame, or since activation.
    latency_ms: station -> (p50, p99).
    size_px: (width, height) of the last picture; (0, 0) before it.
    """

    rate_in_hz: float
    rate_out_hz: float
    recently_answered: int
    recently_failed: int
    recently_alone: int
    received: int
    answered: int
    dropped: int
    failed: int
    alone: int
    last_failure: str
    silent_s: float
    size_px: tuple[int, int]
    latency_ms: Mapping[str, tuple[float, float]]


@dataclass(slots=True)
class _Camera:
    counts: Counter[str] = field(default_factory=Counter)
    times_s: dict[str, deque[float]] = field(default_factory=dict)
    latencies: deque[FrameTimes] = field(default_factory=lambda: deque(maxlen=LATENCY_FRAMES))
    last_failure: str = ''
    last_frame_s: float = 0.0
    size_px: tuple[int, int] = (0, 0)

    def count(self, what: str, now_s: float) -> None:
        self.counts[what] += 1
        times = self.times_s.setdefault(what, deque())
        times.append(now_s)
        self.recent(what, now_s)

    def recent(self, what: str, now_s: float) -> int:
        """How often within the last RATE_WINDOW_S seconds."""
        times = self.times_s.get(what, deque())
        while times and times[0] < now_s - RATE_WINDOW_S:
            times.popleft()
        return len(times)


class Health:
    """Counts what happens to the frames of each camera. May be called from any thread.

    Every `now_s` is of the monotonic clock.
    """

    def __init__(self, cameras: Iterable[str], now_s: float) -> None:
        self._lock = threading.Lock()
        self._started_s = now_s
        self._cameras = {name: _Camera(last_frame_s=now_s) for name in cameras}

    def received(self, camera: str, now_s: float) -> None:
        with self._lock:
            self._cameras[camera].count('received', now_s)
            self._cameras[camera].last_frame_s = now_s

    def dropped(self, camera: str, now_s: float) -> None:
        with self._lock:
            self._cameras[camera].count('dropped', now_s)

    def failed(self, camera: str, reason: str, now_s: float) -> None:
        with self._lock:
            self._cameras[camera].count('failed', now_s)
            self._cameras[camera].last_failure = reason

    def alone(self, camera: str, now_s: float) -> None:
        with self._lock:
            self._cameras[camera].count('alone', now_s)

    def answered(
        self, camera: str, times: FrameTimes, size_px: tuple[int, int], now_s: float
    ) -> None:
        with self._lock:
            self._cameras[camera].count('answered', now_s)
            self._cameras[camera].latencies.append(times)
            self._cameras[camera].size_px = size_px

    def report(self, now_s: float) -> dict[str, CameraReport]:
        """Camera name -> its state now."""
        with self._lock:
            return {name: self._report(camera, now_s) for name, camera in self._cameras.items()}

    def _report(self, camera: _Camera, now_s: float) -> CameraReport:
        window_s = max(0.1, min(RATE_WINDOW_S, now_s - self._started_s))
        answered = camera.recent('answered', now_s)
        return CameraReport(
            rate_in_hz=camera.recent('received', now_s) / window_s,
            rate_out_hz=answered / window_s,
            recently_answered=answered,
            recently_failed=camera.recent('failed', now_s),
            recently_alone=camera.recent('alone', now_s),
            received=camera.counts['received'],
            answered=camera.counts['answered'],
            dropped=camera.counts['dropped'],
            failed=camera.counts['failed'],
            alone=camera.counts['alone'],
            last_failure=camera.last_failure,
            silent_s=now_s - camera.last_frame_s,
            size_px=camera.size_px,
            latency_ms=percentiles(camera.latencies),
        )


def percentiles(frames: Iterable[FrameTimes]) -> dict[str, tuple[float, float]]:
    """Station -> 50th and 99th percentile in milliseconds, over the frames that know it."""
    values: dict[str, list[float]] = {}
    for times in frames:
        for name, value in times.items():
            values.setdefault(name, []).append(value)
    return {
        name: (float(np.percentile(of, 50)), float(np.percentile(of, 99)))
        for name, of in values.items()
    }
