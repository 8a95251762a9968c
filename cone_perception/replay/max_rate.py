"""The highest rate that a detector keeps up with, searched as NVIDIA's ros2_benchmark does it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class MaxRate:
    """The search for the highest rate, and its result.

    probes: in their order, each {hz, passed, missed_share, rate_in_hz, rate_out_hz, why}; the rates
    are those of the slowest camera, why is empty where it has passed. interrupted: somebody ended
    it early.
    """

    low_hz: float
    high_hz: float
    probes: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False

    @property
    def hz(self) -> float:
        """The highest rate that has passed, in pictures per second of each camera; 0 for none."""
        return max((probe['hz'] for probe in self.probes if probe['passed']), default=0.0)

    @property
    def says(self) -> str:
        """The result in one sentence."""
        if not self.probes:
            return 'ended before the first probe: the highest rate is not known'
        if self.interrupted:
            return f'ended early: {self.hz:g} Hz is the highest that has passed so far'
        if not self.hz:
            return f'even {self.low_hz:g} Hz fails: {self.probes[-1]["why"]}'
        if self.hz == self.high_hz:
            return f'{self.hz:g} Hz, the highest rate tried, passes: the limit lies above'
        least_hz = min(probe['hz'] for probe in self.probes if not probe['passed'])
        return f'{self.hz:g} Hz passes, {least_hz:g} Hz does not'

    def rates_to_try(self) -> Iterator[float]:
        """Yield one rate after another, as the probe of the one before has ended."""
        lower_hz, upper_hz = self.low_hz, self.high_hz
        while upper_hz - lower_hz > WINDOW_HZ:
            middle_hz = (lower_hz + upper_hz) / 2
            yield middle_hz
            if self.probes[-1]['passed']:
                lower_hz = middle_hz
            else:
                upper_hz = middle_hz
        passed = {probe['hz'] for probe in self.probes if probe['passed']}
        rate_hz = lower_hz
        while all(probe['passed'] or rate_hz < probe['hz'] for probe in self.probes):
            if rate_hz not in passed:
                yield rate_hz
            if rate_hz == self.high_hz:
                return
            rate_hz = min(rate_hz + STEP_HZ, self.high_hz)


def find_max_rate(
    run_at: Callable[[float], Pass], low_hz: float = 10.0, high_hz: float = 100.0
) -> MaxRate:
    """Search between `low_hz` and `high_hz`; run_at: one pass of the whole drive at that rate.

    Bisection until the window is at most WINDOW_HZ, then up from its lower end in steps of STEP_HZ
    until one fails. A rate passes with at most MISSED_SHARE of the pictures missed, and at least
    RATE_SHARE of it both sent and answered. KeyboardInterrupt keeps the probes so far.
    Raises SettingsError: for rates that are no range.
    """
    if not 0 < low_hz <= high_hz:
        raise SettingsError(f'the rates must be 0 < low <= high, got {low_hz:g} and {high_hz:g}')
    found = MaxRate(low_hz, high_hz)
    halvings = max(0, math.ceil(math.log2((high_hz - low_hz or 1) / WINDOW_HZ)))
    most = halvings + math.ceil(WINDOW_HZ / STEP_HZ) + 1  # the last window in steps, its lower end
    with tqdm(total=most, desc='highest rate', unit='probe', disable=None) as bar:
        try:
            for hz in found.rates_to_try():
                played = run_at(hz)
                if played.interrupted:
                    raise KeyboardInterrupt
                probe = judge_probe(hz, played)
                found.probes.append(probe)
                bar.update()
                tqdm.write(f'{hz:g} Hz: {probe["why"] or "kept up with"}')
        except KeyboardInterrupt:
            found.interrupted = True
    return found


def judge_probe(hz: float, played: Pass) -> dict[str, Any]:
    """Judge whether the pass at this rate counts as kept up with, and say why not."""
    frames = played.frames
    missed = sum(frame.lost for frame in frames) / len(frames) if frames else 1.0
    rates_in, rates_out = [], []
    for camera in {frame.camera for frame in frames}:
        of_camera = [frame for frame in frames if frame.camera == camera]
        rates_in.append(_rate_hz([frame.sent_ns for frame in of_camera], hz))
        # A matched one came out when its partner did, or soon after it was sent.
        ends = [frame.answered_ns or frame.sent_ns for frame in of_camera if not frame.lost]
        rates_out.append(_rate_hz(ends, hz))
    rate_in, rate_out = min(rates_in, default=0.0), min(rates_out, default=0.0)
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


def _rate_hz(moments_ns: Sequence[int], asked_hz: float) -> float:
    """The rate of the moments; a single one has no rate, so it is taken to be as asked."""
    if not moments_ns:
        return 0.0
    span_ns = max(moments_ns) - min(moments_ns)
    return (len(moments_ns) - 1) * 1e9 / span_ns if span_ns else asked_hz
