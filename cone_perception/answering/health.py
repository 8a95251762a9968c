"""Counts, rates and latencies of each camera of the node."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from cone_perception.answering.answer import Answer

RATE_WINDOW_S = 5.0
LATENCY_FRAMES = 512
"""Latest frames whose latencies count: 17 s at 30 Hz, enough for a 99th percentile."""


@dataclass(frozen=True, slots=True)
class CameraReport:
    """State of one camera at one moment.

    counts: how many frames were received, answered, matched, dropped, failed, alone (of a stereo
    pair, but run without their partner), dark (of a pair, and of no use), unplaced (answered
    without positions, since something failed) and unsent (answered, but something beside the boxes
    was not sent) since activation; recently: in the last RATE_WINDOW_S seconds. rate_in_hz,
    rate_out_hz: received, and answered or matched, in that time. places_hz: what Positions.counts
    counts -> cones per second in that time. last: failed, dark, unplaced, unsent -> why, the last
    time. silent_s: since the last frame, or since activation. latency_ms: station -> (p50, p99),
    over the frames that know it. size_px: (width, height) of the last picture; (0, 0) before it.
    """

    counts: Mapping[str, int]
    recently: Mapping[str, int]
    rate_in_hz: float
    rate_out_hz: float
    places_hz: Mapping[str, float]
    last: Mapping[str, str]
    silent_s: float
    size_px: tuple[int, int]
    latency_ms: Mapping[str, tuple[float, ...]]


@dataclass(slots=True)
class _Camera:
    counts: Counter[str] = field(default_factory=Counter)
    times_s: dict[str, deque[float]] = field(default_factory=dict)
    places: deque[tuple[float, Mapping[str, int]]] = field(default_factory=deque)
    latencies: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=LATENCY_FRAMES))
    last: dict[str, str] = field(default_factory=dict)
    last_frame_s: float = 0.0
    size_px: tuple[int, int] = (0, 0)

    def count(self, what: str, now_s: float) -> None:
        self.counts[what] += 1
        self.times_s.setdefault(what, deque()).append(now_s)
        self.recent(what, now_s)

    def trouble(self, what: str, why: str, now_s: float) -> None:
        self.count(what, now_s)
        self.last[what] = why

    def recent(self, what: str, now_s: float) -> int:
        """Count within the last RATE_WINDOW_S seconds."""
        times = self.times_s[what]
        while times and times[0] < now_s - RATE_WINDOW_S:
            times.popleft()
        return len(times)

    def place(self, counts: Mapping[str, int], now_s: float) -> None:
        self.places.append((now_s, counts))
        while self.places[0][0] < now_s - RATE_WINDOW_S:
            self.places.popleft()

    def recent_places(self, now_s: float) -> Counter[str]:
        """Count cones by what says where they stand, within the last RATE_WINDOW_S seconds."""
        total: Counter[str] = Counter()
        for at_s, counts in self.places:
            if at_s >= now_s - RATE_WINDOW_S:
                total.update(counts)
        return total


class Health:
    """Counts what happens to the frames of each camera. May be called from any thread.

    Every `now_s` is of the monotonic clock.
    """

    def __init__(self, cameras: Iterable[str], now_s: float) -> None:
        self._lock = threading.Lock()
        self._started_s = now_s
        self._cameras = {name: _Camera(last_frame_s=now_s) for name in cameras}

    def received(self, camera: str, now_s: float) -> None:
        """Count a picture that came."""
        with self._lock:
            self._cameras[camera].count('received', now_s)
            self._cameras[camera].last_frame_s = now_s

    def ended(self, answer: Answer, now_s: float) -> None:
        """Count what became of a picture."""
        with self._lock:
            camera = self._cameras[answer.camera]
            camera.count(answer.outcome, now_s)
            if answer.alone:
                camera.count('alone', now_s)
            if answer.outcome == 'failed':
                camera.last['failed'] = answer.reason
            dark = answer.reason if answer.outcome == 'matched' else ''
            troubles = {'dark': dark, 'unplaced': answer.unplaced, 'unsent': answer.unsent}
            for what, why in troubles.items():
                if why:
                    camera.trouble(what, why, now_s)
            if answer.positions is not None:
                camera.place(answer.positions.counts, now_s)
            if answer.outcome == 'answered':
                camera.latencies.append(answer.times_ms())
            if answer.picture is not None:
                camera.size_px = (answer.picture.width_px, answer.picture.height_px)

    def unsent(self, camera: str, why: str, now_s: float) -> None:
        """Count what could not be sent of a picture that was answered."""
        with self._lock:
            self._cameras[camera].trouble('unsent', why, now_s)

    def report(self, now_s: float) -> dict[str, CameraReport]:
        """Camera name -> its state now."""
        with self._lock:
            return {name: self._report(camera, now_s) for name, camera in self._cameras.items()}

    def _report(self, camera: _Camera, now_s: float) -> CameraReport:
        window_s = max(0.1, min(RATE_WINDOW_S, now_s - self._started_s))
        recently = Counter({what: camera.recent(what, now_s) for what in camera.times_s})
        return CameraReport(
            counts=camera.counts.copy(),
            recently=recently,
            rate_in_hz=recently['received'] / window_s,
            rate_out_hz=(recently['answered'] + recently['matched']) / window_s,
            places_hz={w: n / window_s for w, n in camera.recent_places(now_s).items()},
            last=camera.last.copy(),
            silent_s=now_s - camera.last_frame_s,
            size_px=camera.size_px,
            latency_ms=percentiles(camera.latencies),
        )


def percentiles(frames: Collection[Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    """Station -> 50th and 99th percentile in milliseconds, over the frames that know it."""
    stations = dict.fromkeys(station for times_ms in frames for station in times_ms)
    known = {name: [times[name] for times in frames if name in times] for name in stations}
    return {name: tuple(np.percentile(of, (50, 99)).tolist()) for name, of in known.items()}
