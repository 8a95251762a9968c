"""Lays out the ground: cones by the Formula Student rules or in loose groups, and paint.

Blue left, yellow right, small orange at entry and exit, four large orange at start and finish.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cone_perception.classes import BLUE, LARGE_ORANGE, ORANGE, YELLOW
from training.simulate.scenery.sketch import Array, Colour

Cones = list[tuple[Array, int]]


@dataclass(frozen=True, slots=True)
class Track:
    """A centre line and the cones beside it.

    centre_m: (N, 2) points about 0.25 m apart, in driving direction.
    heading_rad: (N,) direction of the centre line.
    cones_m: (M, 2) positions of the cones on the ground. cone_class: (M,) class ids.
    closed: the last point is followed by the first.
    """

    centre_m: Array
    heading_rad: Array
    cones_m: Array
    cone_class: npt.NDArray[np.int64]
    closed: bool
    width_m: float


def make_circuit(rng: np.random.Generator) -> Track:
    """A closed lap of 130 to 350 m with an entry lane, an exit lane and a start line."""
    while True:
        angle = np.linspace(0, 2 * math.pi, 4000, endpoint=False)
        radius = np.ones_like(angle)
        for order in range(2, 7):
            size = rng.uniform(0, 0.55) / order**1.1
            radius += size * np.cos(order * angle + rng.uniform(0, 2 * math.pi))
        radius *= rng.uniform(20, 42)
        line = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        centre, heading = _resample(line)
        turn = np.angle(np.exp(1j * (np.roll(heading, -4) - heading))) / 1.0
        if radius.min() > 8 and np.abs(turn).max() < 1 / 4.5:
            break
    if rng.random() < 0.5:
        centre, heading, turn = centre[::-1], heading[::-1] + math.pi, -turn[::-1]
    # The start line belongs where the track is straightest.
    smooth = np.convolve(np.concatenate([np.abs(turn)] * 3), np.ones(80), 'same')
    start = int(np.argmin(smooth[len(turn) : 2 * len(turn)]))
    centre, heading = np.roll(centre, -start, 0), np.roll(heading, -start)
    turn = np.roll(turn, -start)
    width = rng.uniform(3.0, 5.0)
    cones: Cones = []
    spacing = rng.uniform(2.8, 5.0)
    local = (spacing * np.clip(1.0 - 2.2 * np.abs(turn), 0.45, 1.0)).tolist()
    for side, cone_class in ((1.0, BLUE), (-1.0, YELLOW)):
        edge = centre + side * width / 2 * np.stack([-np.sin(heading), np.cos(heading)], axis=1)
        steps = np.hypot(*np.diff(edge, axis=0, append=edge[:1]).T).tolist()
        since = spacing
        for i in range(7, len(centre) - 6):
            if since + steps[i] > local[i]:
                cones.append((edge[i], cone_class))
                since = 0.0
            since += steps[i]
    gap = rng.uniform(0.4, 0.9)
    for side in (1.0, -1.0):
        for along in (-gap / 2, gap / 2):
            base = centre[0] + along * _direction(heading[0])
            cones.append((_beside(base, heading[0], side * (width / 2 + 0.15)), LARGE_ORANGE))
    for at, sign in ((-40, -1.0), (48, 1.0)):
        away = rng.choice([-1.0, 1.0]) * rng.uniform(0.35, 0.7)
        direction = heading[at] + sign * away
        for k in range(int(rng.integers(3, 6))):
            base = centre[at] + sign * (width + 1 + 3.0 * k) * _direction(direction)
            for side in (1.0, -1.0):
                cones.append((_beside(base, direction, side * width * 0.45), ORANGE))
    return _track(centre, heading, cones, True, width)


def make_straight(rng: np.random.Generator) -> Track:
    """An open track: orange entry, large orange start, blue and yellow, and the same at the end."""
    length = rng.uniform(50, 110)
    bend = rng.uniform(-0.012, 0.012) if rng.random() < 0.6 else 0.0
    s = np.arange(0, length, 0.25)
    heading = bend * s + 0.25 * rng.uniform(-1, 1) * np.sin(s / rng.uniform(8, 25))
    centre = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1) * 0.25, axis=0)
    width = rng.uniform(3.0, 5.0)
    spacing = rng.uniform(2.5, 5.0)
    entry, leave = rng.uniform(4, 25), length - rng.uniform(4, 40)
    cones: Cones = []
    for at in np.arange(0.5, length - 1, spacing).tolist():
        i = int(at / 0.25)
        for side, colour in ((1.0, BLUE), (-1.0, YELLOW)):
            place = _beside(centre[i], heading[i], side * width / 2)
            cones.append((place, colour if entry < at < leave else ORANGE))
    for at in (entry, leave):
        i = min(int(at / 0.25), len(centre) - 1)
        for along in (-0.3, 0.3):
            for side in (1.0, -1.0):
                base = centre[i] + along * _direction(heading[i])
                cones.append((_beside(base, heading[i], side * (width / 2 + 0.2)), LARGE_ORANGE))
    return _track(centre, heading, cones, False, width)


def make_group(rng: np.random.Generator) -> Track:
    """Loose cones ahead of the origin, as in test yards: every class, any place."""
    cones: Cones = []
    weights = rng.dirichlet(np.array([1.5, 1.5, 1.3, 0.0001, 1.5]))
    reach = rng.choice([8.0, 16.0, 35.0], p=[0.35, 0.4, 0.25])
    crowded = rng.uniform(0.0, 0.5) if rng.random() < 0.6 else 0.0
    for _ in range(int(rng.integers(2, 26))):
        distance = 1.2 + reach * rng.random() ** 1.3
        angle = rng.normal(0, 0.4)
        place = distance * np.array([math.cos(angle), math.sin(angle)])
        if cones and rng.random() < crowded:
            # Beside another one: cones hide each other in most yards.
            turn = rng.uniform(0, 2 * math.pi)
            beside = np.array([math.cos(turn), math.sin(turn)]) * rng.uniform(0.28, 0.7)
            place = cones[int(rng.integers(0, len(cones)))][0] + beside
        if place[0] > 0.8 and all(np.hypot(*(place - other)) > 0.26 for other, _ in cones):
            cones.append((place, int(rng.choice(5, p=weights))))
    s = np.arange(-10, 10, 0.25)
    centre = np.stack([s, np.zeros_like(s)], 1)
    return _track(centre, np.zeros_like(s), cones, False, 4.0)


LAYOUTS = {'circuit': make_circuit, 'straight': make_straight, 'group': make_group}


def _track(centre: Array, heading: Array, cones: Cones, closed: bool, width: float) -> Track:
    places = np.array([place for place, _ in cones], np.float64).reshape(-1, 2)
    cone_class = np.array([cone_class for _, cone_class in cones], np.int64)
    return Track(centre, heading, places, cone_class, closed, width)


def _resample(line: Array) -> tuple[Array, Array]:
    """Points 0.25 m apart on a closed line, and the direction in each."""
    line = np.concatenate([line, line[:1]])
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    at = np.arange(0, length[-1], 0.25)
    out = np.stack([np.interp(at, length, line[:, k]) for k in (0, 1)], axis=1)
    step = np.roll(out, -1, 0) - np.roll(out, 1, 0)
    return out, np.unwrap(np.arctan2(step[:, 1], step[:, 0]))


def _direction(heading: float) -> Array:
    return np.array([math.cos(heading), math.sin(heading)])


def _beside(point: Array, heading: float, left_m: float) -> Array:
    return np.asarray(point + left_m * np.array([-math.sin(heading), math.cos(heading)]))


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
    colour: Colour
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
