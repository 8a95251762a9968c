"""The highest rate that a detector keeps up with, searched as NVIDIA's ros2_benchmark does it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from cone_perception.errors import SettingsError
from cone_perception.replay.traces import Pass

WINDOW_HZ = 10.0
"""Bisection ends when the answer is known to this."""
STEP_HZ = 5.0
"""Then the rate is raised in these steps until one fails."""
MISSED_SHARE = 0.05
RATE_SHARE = 0.9
"""Of the rate asked for: what must be sent, and come out. NVIDIA's 5 Hz would pass anything at
low rates."""


@dataclass(frozen=True, slots=True)
class MaxRate:
    """What the search found.

    hz: pictures per second of each camera; 0 when no probe has passed. probes: in their order, each
    {hz, passed, missed_share, rate_in_hz, rate_out_hz, why}; the rates are those of the slowest
    camera, why is empty where it has passed. says: one sentence. interrupted: somebody ended it
    early; hz is then the highest that has passed by that time.
    """

    hz: float
    probes: Sequence[dict[str, Any]]
    says: str
    interrupted: bool = False


def find_max_rate(
    run_at: Callable[[float], Pass], low_hz: float = 10.0, high_hz: float = 100.0
) -> MaxRate:
    """Search between `low_hz` and `high_hz`; run_at: one pass of the whole drive at that rate.

    Bisection until the window is at most WINDOW_HZ, then up from its lower end in steps of STEP_HZ
    until one fails. A rate passes with at most MISSED_SHARE of the pictures missed, and at least
    RATE_SHARE of it both sent and answered. KeyboardInterrupt keeps the probes so far.
    """
    if not 0 < low_hz <= high_hz:
        raise SettingsError(f'the rates must be 0 < low <= high, got {low_hz:g} and {high_hz:g}')
    search = _Search(run_at, low_hz, high_hz)
    try:
        search.run()
    except KeyboardInterrupt:
        search.interrupted = True
    finally:
        search.bar.close()
    return MaxRate(search.best_hz, search.probes, search.says(), search.interrupted)


def judge_probe(hz: float, played: Pass) -> dict[str, Any]:
    """Whether the pass at this rate counts as kept up with, and why not."""
    frames = played.frames
    cameras = sorted({frame.camera for frame in frames})
    answered = [frame for frame in frames if frame.fate == 'answered']
    missed = (len(frames) - len(answered)) / len(frames) if frames else 1.0
    rates_in, rates_out = [0.0], [0.0]
    if cameras:
        of = {name: [frame for frame in frames if frame.camera == name] for name in cameras}
        rates_in = [_rate_hz([f.sent_ns for f in each], hz) for each in of.values()]
        rates_out = [
            _rate_hz([_ended_ns(f) for f in each if f.fate == 'answered'], hz)
            for each in of.values()
        ]
    rate_in, rate_out = min(rates_in), min(rates_out)
    why = ''
    if rate_in < RATE_SHARE * hz:
        why = f'only {rate_in:.1f} Hz were sent: the sender is too slow for this rate'
    elif missed > MISSED_SHARE:
        why = f'{100 * missed:.1f} % were missed'
    elif rate_out < RATE_SHARE * hz:
        why = f'only {rate_out:.1f} Hz came out'
    return {
        'hz': hz,
        'passed': not why,
        'missed_share': missed,
        'rate_in_hz': rate_in,
        'rate_out_hz': rate_out,
        'why': why,
    }


class _Search:
    def __init__(self, run_at: Callable[[float], Pass], low_hz: float, high_hz: float) -> None:
        self._run_at = run_at
        self._low_hz = low_hz
        self._high_hz = high_hz
        self.probes: list[dict[str, Any]] = []
        self.best_hz = 0.0
        self.interrupted = False
        halvings = max(0, math.ceil(math.log2((high_hz - low_hz or 1) / WINDOW_HZ)))
        # At most: the last window in steps, and the lower end.
        self._most = halvings + math.ceil(WINDOW_HZ / STEP_HZ) + 1
        self.bar = tqdm(total=self._most, desc='highest rate', unit='probe', disable=None)

    def run(self) -> None:
        low_hz, high_hz = self._low_hz, self._high_hz
        while high_hz - low_hz > WINDOW_HZ and not self.interrupted:
            middle_hz = (low_hz + high_hz) / 2
            if self._probe(middle_hz):
                low_hz = middle_hz
            else:
                high_hz = middle_hz
        rate_hz = low_hz
        while rate_hz <= self._high_hz and not self.interrupted:
            if rate_hz != self.best_hz and not self._probe(rate_hz):
                return
            if rate_hz == self._high_hz:
                return
            rate_hz = min(rate_hz + STEP_HZ, self._high_hz)

    def _probe(self, hz: float) -> bool:
        """Whether the detector keeps up with this rate; what has failed once is not tried again."""
        for probe in self.probes:
            if not probe['passed'] and hz >= probe['hz']:
                return False
        played = self._run_at(hz)
        if played.interrupted:
            self.interrupted = True
            return False
        probe = judge_probe(hz, played)
        self.probes.append(probe)
        self.bar.update()
        verdict = 'kept up with' if probe['passed'] else probe['why']
        tqdm.write(f'{hz:g} Hz: {verdict}')
        if probe['passed']:
            self.best_hz = max(self.best_hz, hz)
        return bool(probe['passed'])

    def says(self) -> str:
        if not self.probes:
            return 'ended before the first probe: the highest rate is not known'
        if self.interrupted:
            return f'ended early: {self.best_hz:g} Hz is the highest that has passed so far'
        if not self.best_hz:
            return f'even {self._low_hz:g} Hz fails: {self.probes[-1]["why"]}'
        if self.best_hz == self._high_hz:
            return f'{self._high_hz:g} Hz, the highest rate tried, passes: the limit lies above'
        least = min(probe['hz'] for probe in self.probes if not probe['passed'])
        return f'{self.best_hz:g} Hz passes, {least:g} Hz does not'


def _rate_hz(moments_ns: list[int], asked_hz: float) -> float:
    """Of the moments; a single one has no rate, so it is taken to be as asked."""
    if not moments_ns:
        return 0.0
    span_ns = max(moments_ns) - min(moments_ns)
    return (len(moments_ns) - 1) * 1e9 / span_ns if span_ns else asked_hz


def _ended_ns(frame: Any) -> int:
    ended = frame.returned_ns if frame.returned_ns is not None else frame.decoded_ns
    return int(ended if ended is not None else frame.sent_ns)
