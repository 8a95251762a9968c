"""What is painted or lies flat on the ground: lines, patches, skid marks, grass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.simulate.scenery.sketch import Colour
from training.simulate.track import Track

Array = npt.NDArray[np.float64]

LINE_COLOURS: tuple[Colour, ...] = (
    (225.0, 225.0, 225.0),
    (60.0, 190.0, 225.0),
    (60.0, 60.0, 200.0),
    (90.0, 200.0, 90.0),
    (200.0, 120.0, 60.0),
    (30.0, 30.0, 30.0),
)
LINE_SHARES = (0.5, 0.17, 0.06, 0.07, 0.05, 0.15)
"""Colours of painted lines, and how often each is taken."""


@dataclass(frozen=True, slots=True)
class Paint:
    """A painted strip or patch on the ground: (N, 3) world points, colour BGR, opacity 0..1."""

    points_m: Array
    colour: Colour
    opacity: float


def make_paint(rng: np.random.Generator, track: Track) -> list[Paint]:
    """Paint and patches around a track, in the order in which they are laid."""
    paint: list[Paint] = []
    reach = 60.0
    middle = track.centre_m.mean(0) if track.closed else track.centre_m[len(track.centre_m) // 2]
    for _ in range(int(rng.integers(0, 4))):
        # Patches of other asphalt, concrete slabs, stains.
        start = middle + rng.uniform(-reach, reach, 2)
        tone = rng.uniform(40, 190)
        colour = (tone, tone * rng.uniform(0.95, 1.03), tone * rng.uniform(0.95, 1.06))
        patch = _strip(start, rng.uniform(0, 6.3), rng.uniform(5, 60), rng.uniform(1, 14))
        paint.append(Paint(patch, colour, rng.uniform(0.2, 0.8)))
    for _ in range(int(rng.integers(0, 9))):
        start = middle + rng.uniform(-reach / 1.5, reach / 1.5, 2)
        colour = LINE_COLOURS[int(rng.choice(len(LINE_COLOURS), p=LINE_SHARES))]
        heading, length = rng.uniform(0, 6.3), rng.uniform(4, 70)
        wide = rng.choice([0.05, 0.1, 0.15, 0.3])
        bend = rng.uniform(-0.06, 0.06) if rng.random() < 0.4 else 0.0
        line = _strip(start, heading, length, wide, bend)
        paint.append(Paint(line, colour, rng.uniform(0.3, 0.95)))
    if rng.random() < 0.2:
        # A line chalked where the cones stand.
        normal = np.stack([-np.sin(track.heading_rad), np.cos(track.heading_rad)], 1)
        for sign in (1.0, -1.0):
            line = track.centre_m + sign * track.width_m / 2 * normal
            colour = (120.0, 220.0, 120.0) if rng.random() < 0.4 else (210.0, 210.0, 210.0)
            for start_at in range(0, len(line) - 8, 40):
                part = slice(start_at, start_at + 41, 4)
                paint.append(Paint(_ribbon(line[part], normal[part] * 0.04), colour, 0.6))
    for _ in range(int(rng.integers(0, 3))):
        # Skid marks and shadows of things out of sight.
        start = middle + rng.uniform(-30, 30, 2)
        heading, length = rng.uniform(0, 6.3), rng.uniform(5, 40)
        mark = _strip(start, heading, length, rng.choice([0.2, 0.3, 4.0]), rng.uniform(-0.08, 0.08))
        paint.append(Paint(mark, (25.0, 25.0, 25.0), rng.uniform(0.2, 0.6)))
    for _ in range(int(rng.choice([0, 1, 2], p=[0.55, 0.3, 0.15]))):
        # Grass: a strip beyond the cones.
        far = rng.uniform(8, 40) + (np.ptp(track.centre_m[:, 1]) / 2 if track.closed else 0)
        turn = rng.uniform(0, 6.3)
        along, right = np.array(
            [(math.cos(turn), math.sin(turn)), (math.sin(turn), -math.cos(turn))]
        )
        start = middle + far * right - 100 * along + 40 * right
        colour = (rng.uniform(30, 85), rng.uniform(90, 160), rng.uniform(60, 140))
        paint.insert(0, Paint(_strip(start, turn, 200, 80), colour, 1.0))
    return paint


def _strip(start: Array, heading: float, length: float, wide: float, bend: float = 0.0) -> Array:
    """(N, 3) border of a strip on the ground, metres; bend: turn in radians a metre."""
    n = max(int(length / 1.5), 2)
    turn = heading + bend * np.linspace(0, length, n)
    steps = np.stack([np.cos(turn), np.sin(turn)], 1) * (length / (n - 1))
    normal = np.stack([-np.sin(turn), np.cos(turn)], 1) * wide / 2
    return _ribbon(start + np.cumsum(steps, axis=0), normal)


def _ribbon(line: Array, aside: Array) -> Array:
    """(2 N, 3) border of a ribbon around a line (N, 2) on the ground; aside: half its width."""
    flat = np.concatenate([line + aside, (line - aside)[::-1]])
    return np.column_stack([flat, np.zeros(len(flat))])
