"""Textures and flat pictures of things that are not cones: what surrounds a track.

Everything is drawn from noise and shapes; made once per process from a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Colour = tuple[float, float, float]


def make_noise(
    rng: np.random.Generator, size: tuple[int, int], coarsest: int, finest: int, rough: float
) -> Bytes:
    """Noise of several octaves around 128, standard deviation about 30; tiles without a seam.

    size: (height, width). coarsest, finest: cell sizes in px. rough: weight of each finer octave
    relative to the one before.
    """
    total = np.zeros(size, np.float32)
    weight, cell = 1.0, coarsest
    while cell >= finest:
        grid = rng.standard_normal((size[0] // cell, size[1] // cell)).astype(np.float32)
        grid = np.pad(grid, 1, mode='wrap')
        big = cv2.resize(
            grid, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC if cell > 1 else 0
        )
        total += weight * big[cell : cell + size[0], cell : cell + size[1]]
        weight *= rough
        cell //= 2
    total *= 30 / max(float(total.std()), 1e-6)
    return np.clip(total + 128, 0, 255).astype(np.uint8)


def random_colour(rng: np.random.Generator, vivid: float = 0.5) -> Colour:
    """A colour (BGR): greyish with probability 1 - vivid, else any hue, cone hues more often."""
    if rng.random() > vivid:
        grey = rng.uniform(15, 245)
        b, g, r = np.clip(grey + rng.normal(0, 10, 3), 0, 255).tolist()
        return b, g, r
    hue = rng.choice([rng.uniform(0, 180), 110.0, 25.0, 5.0, 60.0], p=[0.5, 0.15, 0.15, 0.12, 0.08])
    pixel = np.array([[[hue, rng.uniform(90, 255), rng.uniform(60, 255)]]], np.uint8)
    b, g, r = cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return float(b), float(g), float(r)


def _blank(width: int, height: int) -> Bytes:
    return np.zeros((height, width, 4), np.uint8)


def _opaque(colour: Colour) -> tuple[float, float, float, float]:
    return (*colour, 255.0)


def _mottle(rng: np.random.Generator, sprite: Bytes, strength: float) -> Bytes:
    """Multiply the colours with noise."""
    height, width = sprite.shape[:2]
    cells = (max(height // int(rng.choice([2, 6, 16])), 2), max(width // 6, 2))
    noise = rng.normal(1, strength, cells).astype(np.float32)
    big = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    for k in range(3):
        sprite[..., k] = np.clip(sprite[..., k] * big, 0, 255).astype(np.uint8)
    return sprite


def make_building(rng: np.random.Generator) -> Bytes:
    width, height = int(rng.integers(120, 420)), int(rng.integers(60, 220))
    sprite = _blank(width, height)
    wall = random_colour(rng, 0.35)
    sprite[:] = _opaque(wall)
    if rng.random() < 0.4:
        roof = int(height * rng.uniform(0.1, 0.35))
        sprite[:roof] = 0
        points = np.array(
            [[0, roof], [width * rng.uniform(0, 0.4), 0], [width * rng.uniform(0.6, 1), 0],
             [width, roof]]
        )  # fmt: skip
        cv2.fillPoly(sprite, [points.astype(np.int32)], _opaque(random_colour(rng, 0.4)))
    else:
        roof = int(height * 0.05)
    columns, rows = int(rng.integers(2, 16)), int(rng.integers(1, 7))
    window = tuple(0.3 * c for c in random_colour(rng, 0.2))
    frame = random_colour(rng, 0.1)
    cell_w, cell_h = width / columns, (height - roof) / rows
    fill_w, fill_h = rng.uniform(0.3, 0.95), rng.uniform(0.3, 0.85)
    for row in range(rows):
        for column in range(columns):
            if rng.random() < 0.1:
                continue
            x, y = int(column * cell_w + 2), int(roof + row * cell_h + 2)
            w, h = int(cell_w * fill_w), int(cell_h * fill_h)
            shade = rng.uniform(0.5, 2.2)
            pane = (window[0] * shade, window[1] * shade, window[2] * shade, 255.0)
            cv2.rectangle(sprite, (x, y), (x + w, y + h), pane, -1)
            if rng.random() < 0.5:
                cv2.rectangle(sprite, (x, y), (x + w, y + h), _opaque(frame), 1)
    for _ in range(int(rng.integers(0, 7))):
        # Doors, gates, signs, pipes.
        x, w = int(rng.integers(0, width)), int(rng.integers(3, 60))
        top = int(height * rng.uniform(0.2, 0.85))
        low = height if rng.random() < 0.6 else min(top + int(rng.integers(3, 30)), height)
        cv2.rectangle(sprite, (x, top), (x + w, low), _opaque(random_colour(rng, 0.5)), -1)
    if rng.random() < 0.3:
        step = int(rng.integers(2, 9))
        dark = sprite[:, ::step, :3].astype(np.float32) * rng.uniform(0.6, 0.95)
        sprite[:, ::step, :3] = dark.astype(np.uint8)
    if rng.random() < 0.3:
        for y in range(roof, height, int(rng.integers(3, 14))):
            sprite[y, :, :3] = (sprite[y, :, :3] * rng.uniform(0.6, 0.9)).astype(np.uint8)
    return _mottle(rng, sprite, 0.08)


def make_stand(rng: np.random.Generator) -> Bytes:
    """A crowd, parked bicycles, stacked goods: many small specks of any colour."""
    width, height = 480, int(rng.integers(40, 120))
    sprite = _blank(width, height)
    sprite[:] = _opaque(random_colour(rng, 0.2))
    vivid = rng.uniform(0.1, 0.55)
    tall = int(rng.integers(3, 10))
    for _ in range(int(rng.integers(150, 700))):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        size = (x + int(rng.integers(1, tall)), y + int(rng.integers(2, tall * 2)))
        cv2.rectangle(sprite, (x, y), size, _opaque(random_colour(rng, vivid)), -1)
    return _mottle(rng, sprite, 0.15)


def make_mimic(rng: np.random.Generator) -> Bytes:
    """Tapered or upright like a cone, and none: bottles, bags, helmets, hydrants, buckets."""
    width, height = int(rng.integers(16, 50)), int(rng.integers(30, 60))
    sprite = _blank(width, height)
    top, middle = rng.uniform(0.3, 1.0), width / 2
    colour = random_colour(rng, 0.5)
    tone = random_colour(rng, 0.5)
    if rng.random() < 0.5:
        half = top * width / 2
        body = [[middle - half, 0], [middle + half, 0], [width, height], [0, height]]
        cv2.fillPoly(sprite, [np.array(body).astype(np.int32)], _opaque(colour))
        if top < 0.55 and max(colour) - min(colour) > 60:
            sprite[..., :3] = sprite[..., :3] // 3 + 60
    else:
        axes = (width // 2 - 1, height // 2 - 1)
        cv2.ellipse(sprite, (width // 2, height // 2), axes, 0, 0, 360, _opaque(colour), -1)
        y = int(rng.integers(0, height))
        inside = sprite[y : y + height // 4]
        inside[inside[..., 3] > 0] = _opaque(tone)
    return _mottle(rng, sprite, 0.15)


def make_tree(rng: np.random.Generator) -> Bytes:
    width, height = int(rng.integers(70, 160)), int(rng.integers(110, 220))
    sprite = _blank(width, height)
    trunk = (30 + rng.uniform(0, 50),) * 3
    middle = width // 2
    thick = max(int(width * rng.uniform(0.03, 0.07)), 2)
    cv2.rectangle(sprite, (middle - thick, height // 2), (middle + thick, height),
                  _opaque(trunk), -1)  # fmt: skip
    if rng.random() < 0.2:
        for _ in range(60):
            start = (middle, int(rng.uniform(0.3, 0.9) * height))
            end = (int(rng.uniform(0, width)), int(rng.uniform(0, 0.6) * height))
            cv2.line(sprite, start, end, _opaque(trunk), 1)
        return sprite
    slim = rng.random() < 0.25
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    x = (columns - middle) / (width * (0.25 if slim else 0.48))
    y = (rows - height * 0.42) / (height * 0.42)
    noise = cv2.resize(rng.standard_normal((14, 10)).astype(np.float32), (width, height))
    fine = cv2.resize(rng.standard_normal((50, 36)).astype(np.float32), (width, height))
    leafy = x * x + y * y + 0.22 * noise + 0.2 * fine < 0.95
    hue = rng.choice([rng.uniform(28, 70), rng.uniform(8, 28)], p=[0.85, 0.15])
    pixel = np.array([[[hue, rng.uniform(40, 200), rng.uniform(50, 150)]]], np.uint8)
    green = cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)
    light = 1 - 0.35 * y + 0.25 * noise + 0.4 * fine
    sprite[leafy, :3] = np.clip(green * light[..., None], 0, 255)[leafy].astype(np.uint8)
    sprite[leafy, 3] = 255
    return sprite


def make_forest(rng: np.random.Generator) -> Bytes:
    """A row of trees, a hedge or a hill: wide, ragged at the top."""
    width, height = 640, int(rng.integers(40, 140))
    edge = np.zeros(width, np.float32)
    for cells, size in ((5, 0.25), (30, 0.15), (120, 0.08)):
        edge += size * cv2.resize(rng.standard_normal((1, cells)).astype(np.float32), (width, 1))[0]
    window = np.clip(1.15 * np.sin(np.linspace(0, np.pi, width)) ** 0.5, 0, 1)
    rise = np.clip(0.72 - edge * rng.uniform(0.2, 1), 0.08, 1) * window
    top = (1 - rise) * height
    rows = np.arange(height, dtype=np.float32)[:, None]
    solid = rows > top[None]
    noise = cv2.resize(rng.standard_normal((12, 70)).astype(np.float32), (width, height))
    fine = rng.standard_normal((height // 2, width // 2)).astype(np.float32)
    fine = cv2.resize(fine, (width, height))
    pixel = np.array(
        [[[rng.uniform(25, 75), rng.uniform(20, 170), rng.uniform(40, 140)]]], np.uint8
    )
    green = cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)
    light = 1.1 - 0.4 * rows / height + 0.25 * noise + 0.25 * fine
    sprite = _blank(width, height)
    sprite[..., :3] = np.clip(green * light[..., None], 0, 255).astype(np.uint8)
    sprite[..., 3] = solid * 255
    return sprite


def make_person(rng: np.random.Generator) -> Bytes:
    width, height = 48, 130
    sprite = _blank(width, height)
    trousers, shirt = random_colour(rng, 0.35), random_colour(rng, 0.6)
    skin = (
        110.0 * rng.uniform(0.4, 1.5),
        140.0 * rng.uniform(0.5, 1.4),
        200 * rng.uniform(0.5, 1.2),
    )
    spread = int(rng.integers(2, 10))
    for side in (-1, 1):
        cv2.line(sprite, (24 + side * 3, 68), (24 + side * spread, 126), _opaque(trousers), 9)
        elbow = (24 + side * int(rng.integers(9, 17)), int(rng.integers(50, 75)))
        cv2.line(sprite, (24 + side * 8, 32), elbow, _opaque(shirt), 7)
        cv2.circle(sprite, elbow, 4, _opaque(skin), -1)
    cv2.rectangle(sprite, (15, 26), (33, 70), _opaque(shirt), -1)
    if rng.random() < 0.3:
        cv2.rectangle(sprite, (15, 40), (33, 48), _opaque(random_colour(rng, 0.7)), -1)
    cv2.circle(sprite, (24, 14), 9, _opaque(skin), -1)
    cv2.ellipse(sprite, (24, 11), (9, 7), 0, 180, 360, _opaque(random_colour(rng, 0.3)), -1)
    return _mottle(rng, sprite, 0.12)


def make_car(rng: np.random.Generator) -> Bytes:
    width, height = 220, 80 if rng.random() < 0.6 else 120
    sprite = _blank(width, height)
    paint = random_colour(rng, 0.5)
    base = height - 14
    belt = int(height * 0.45)
    cabin = np.array([[rng.uniform(10, 50), belt], [rng.uniform(50, 80), 3],
                      [rng.uniform(140, 200), 3], [rng.uniform(190, 215), belt]])  # fmt: skip
    cv2.fillPoly(sprite, [cabin.astype(np.int32)], _opaque(paint))
    cv2.rectangle(sprite, (4, belt), (width - 4, base), _opaque(paint), -1)
    glass = 0.8 * (cabin - cabin.mean(0)) + cabin.mean(0)
    cv2.fillPoly(sprite, [glass.astype(np.int32)], _opaque((60, 50, 45)))
    cv2.line(sprite, (115, 3), (115, base), _opaque(tuple(0.7 * c for c in paint)), 3)  # type: ignore[arg-type]
    for x in (48, 172):
        cv2.circle(sprite, (x, base - 2), 15, _opaque((25, 25, 25)), -1)
        cv2.circle(sprite, (x, base - 2), 8, _opaque((130, 130, 130)), -1)
    return _mottle(rng, sprite, 0.1)


def make_wall(rng: np.random.Generator) -> Bytes:
    """A barrier along the track: tyres, banners, red-white blocks, fence, planks or pallets."""
    width, height = 480, int(rng.integers(34, 80))
    sprite = _blank(width, height)
    kind = int(rng.integers(0, 6))
    if kind == 0:
        step = int(rng.integers(16, 34))
        layer = int(rng.integers(10, 20))
        cap = random_colour(rng, 0.9)
        sprite[:] = _opaque((18, 18, 18))
        for y in range(0, height, layer):
            painted = rng.random() < 0.35
            for x in range(0, width, step):
                shade = rng.uniform(20, 60)
                colour = cap if painted else (shade, shade, shade)
                cv2.rectangle(sprite, (x + 1, y + 1), (x + step - 2, y + layer - 2),
                              _opaque(colour), -1)  # fmt: skip
    elif kind == 1:
        x = 0
        while x < width:
            w = int(rng.integers(30, 160))
            cv2.rectangle(sprite, (x, 0), (x + w, height), _opaque(random_colour(rng, 0.6)), -1)
            text = ''.join(chr(int(c)) for c in rng.integers(65, 91, int(rng.integers(2, 9))))
            face, thick = int(rng.integers(0, 5)), int(rng.integers(1, 5))
            ink = _opaque(random_colour(rng, 0.5))
            cv2.putText(sprite, text, (x + 3, int(height * 0.75)), face, height / 45, ink, thick)
            x += w
    elif kind == 2:
        step = int(rng.integers(15, 70))
        pair = [random_colour(rng, 0.8), (235.0, 235.0, 235.0)]
        if rng.random() < 0.4:
            pair[0] = (40.0, 40.0, 220.0)
        for index, x in enumerate(range(0, width, step)):
            cv2.rectangle(sprite, (x, 0), (x + step, height), _opaque(pair[index % 2]), -1)
    elif kind == 3:
        metal = random_colour(rng, 0.1)
        step = int(rng.integers(5, 14))
        for x in range(0, width, step):
            cv2.line(sprite, (x, 0), (x, height), _opaque(metal), 1)
        for y in (1, height // 2, height - 2):
            cv2.line(sprite, (0, y), (width, y), _opaque(metal), 1)
        for x in range(0, width, step * 8):
            cv2.line(sprite, (x, 0), (x, height), _opaque(metal), 3)
    elif kind == 4:
        sprite[:] = _opaque(random_colour(rng, 0.4))
        for y in range(0, height, int(rng.integers(5, 20))):
            cv2.line(sprite, (0, y), (width, y), _opaque(random_colour(rng, 0.2)), 2)
    else:
        for x in range(0, width, 40):
            for y in range(0, height, 26):
                colour = (
                    60 * rng.uniform(0.7, 1.5),
                    110 * rng.uniform(0.7, 1.5),
                    150 * rng.uniform(0.7, 1.4),
                )
                cv2.rectangle(sprite, (x, y), (x + 37, y + 22), _opaque(colour), -1)
    return _mottle(rng, sprite, 0.12)


def make_thing(rng: np.random.Generator) -> Bytes:
    """Something small: a bin, a post, a barrel, a box, a sign, a trolley, in any colour."""
    width, height = int(rng.integers(12, 90)), int(rng.integers(24, 110))
    sprite = _blank(width, height)
    for _ in range(int(rng.integers(1, 6))):
        colour = _opaque(random_colour(rng, 0.65))
        x0, x1 = sorted(rng.integers(0, width, 2).tolist())
        y0, y1 = int(rng.integers(0, height * 3 // 4)), height
        kind = int(rng.integers(0, 5))
        if kind == 0:
            cv2.rectangle(sprite, (x0, y0), (x1 + 3, y1), colour, -1)
        elif kind == 1:
            middle = ((x0 + x1) // 2, (y0 + y1) // 2)
            axes = ((x1 - x0) // 2 + 2, (y1 - y0) // 2 + 2)
            cv2.ellipse(sprite, middle, axes, 0, 0, 360, colour, -1)
        elif kind == 2:
            cv2.fillPoly(
                sprite, [rng.integers(0, (width, height), (4, 2)).astype(np.int32)], colour
            )
        elif kind == 3:
            cv2.line(sprite, (x0, y1), (x1, y0), colour, int(rng.integers(1, 7)))
        else:
            cv2.rectangle(sprite, (0, y0), (width, y0 + height // 6), colour, -1)
    return _mottle(rng, sprite, 0.15)


def make_post(rng: np.random.Generator) -> Bytes:
    """A post or bollard, plain or banded: what a cone is most easily taken for."""
    width, height = 16, int(rng.integers(50, 140))
    sprite = _blank(width, height)
    half = int(rng.integers(2, 8))
    sprite[:, 8 - half : 8 + half] = _opaque(random_colour(rng, 0.6))
    if rng.random() < 0.6:
        band = random_colour(rng, 0.6)
        step = int(rng.integers(8, 40))
        for y in range(0, height, 2 * step):
            sprite[y : y + step, 8 - half : 8 + half] = _opaque(band)
    shade = np.linspace(1.15, 0.7, width, dtype=np.float32)
    sprite[..., :3] = np.clip(sprite[..., :3] * shade[None, :, None], 0, 255).astype(np.uint8)
    return sprite


def make_tent(rng: np.random.Generator) -> Bytes:
    width, height = 180, 120
    sprite = _blank(width, height)
    roof = random_colour(rng, 0.5) if rng.random() < 0.6 else (240.0, 240.0, 240.0)
    peak = rng.uniform(60, 120)
    cv2.fillPoly(sprite, [np.array([[0, 46], [int(peak), 2], [180, 46], [180, 58], [0, 58]])],
                 _opaque(roof))  # fmt: skip
    for x in (3, 88, 175):
        cv2.line(sprite, (x, 50), (x, 120), _opaque((180, 180, 180)), 3)
    if rng.random() < 0.5:
        cv2.rectangle(sprite, (5, 58), (174, 119), _opaque(tuple(0.5 * c for c in roof)), -1)  # type: ignore[arg-type]
    return _mottle(rng, sprite, 0.08)


def make_wheel(rng: np.random.Generator) -> Bytes:
    """A loose tyre on the ground."""
    sprite = _blank(60, 60)
    cv2.ellipse(sprite, (30, 30), (28, 28), 0, 0, 360, _opaque((28, 28, 30)), -1)
    if rng.random() < 0.7:
        cv2.ellipse(sprite, (30, 30), (14, 14), 0, 0, 360, _opaque(random_colour(rng, 0.5)), -1)
    return _mottle(rng, sprite, 0.2)


Maker = Callable[[np.random.Generator], Bytes]

# name: (maker, how many in the library, height range in metres)
KINDS: dict[str, tuple[Maker, int, tuple[float, float]]] = {
    'building': (make_building, 40, (3.0, 18.0)),
    'tree': (make_tree, 22, (2.5, 14.0)),
    'forest': (make_forest, 14, (2.0, 22.0)),
    'person': (make_person, 18, (1.5, 1.95)),
    'car': (make_car, 16, (1.4, 2.6)),
    'wall': (make_wall, 28, (0.4, 1.6)),
    'thing': (make_thing, 50, (0.2, 1.6)),
    'post': (make_post, 24, (0.4, 4.0)),
    'tent': (make_tent, 8, (2.5, 4.0)),
    'stand': (make_stand, 12, (1.5, 6.0)),
    'mimic': (make_mimic, 40, (0.15, 0.6)),
    'wheel': (make_wheel, 6, (0.4, 0.6)),
}


@dataclass(frozen=True, slots=True)
class Library:
    """All textures of one seed.

    fine: (1024, 1024) ground grain, 4 mm a px. coarse: (1024, 1024) stains, 5 cm a px.
    stones: like fine, of joints between slabs. clouds: (1024, 1024). grain: (512, 512) dirt.
    sensor: (768, 1024, 3) noise around 128. sprites: name -> BGRA pictures, each with its
    halved copies.
    """

    fine: tuple[Bytes, ...]
    coarse: tuple[Bytes, ...]
    clouds: Bytes
    grain: Bytes
    sensor: Bytes
    sprites: dict[str, list[tuple[Bytes, ...]]]


def _halved(sprite: Bytes) -> tuple[Bytes, ...]:
    """The sprite and ever smaller copies of it, each half as large."""
    sizes = [sprite]
    while min(sizes[-1].shape[:2]) > 3:
        half = (sizes[-1].shape[1] // 2, sizes[-1].shape[0] // 2)
        sizes.append(np.asarray(cv2.resize(sizes[-1], half, interpolation=cv2.INTER_AREA)))
    return tuple(sizes)


def make_library(seed: int) -> Library:
    rng = np.random.default_rng([seed, 7011])
    size = (1024, 1024)
    fine = [
        make_noise(rng, size, 32, 1, 1.25),
        make_noise(rng, size, 128, 1, 1.05),
        make_noise(rng, size, 8, 1, 1.1),
        make_noise(rng, size, 64, 1, 1.5),
    ]
    slabs = make_noise(rng, size, 32, 1, 1.2)
    pitch_x, pitch_y = int(rng.choice([32, 64, 128])), int(rng.choice([32, 64]))
    for row, y in enumerate(range(0, 1024, pitch_y)):
        slabs[y : y + 2] //= 2
        for x in range((row % 2) * pitch_x // 2, 1024, pitch_x):
            slabs[y : y + pitch_y, x : x + 2] //= 2
    fine.append(slabs)
    coarse = [make_noise(rng, size, 512, 2, 0.8), make_noise(rng, size, 128, 1, 0.95)]
    cracked = make_noise(rng, size, 512, 1, 0.85)
    for _ in range(24):
        walk = np.cumsum(rng.normal(0, 9, (60, 2)) + rng.normal(0, 7, 2), 0)
        line = (walk + rng.uniform(0, 1024, 2)).astype(np.int32)
        cv2.polylines(cracked, [line], False, float(rng.choice([40, 60, 190])), 1)
    coarse.append(cracked)
    sensor = np.clip(128 + 24 * rng.standard_normal((768, 1024, 3)), 0, 255).astype(np.uint8)
    sprites = {
        name: [_halved(maker(rng)) for _ in range(n)] for name, (maker, n, _) in KINDS.items()
    }
    return Library(
        fine=tuple(fine),
        coarse=tuple(coarse),
        clouds=make_noise(rng, size, 256, 2, 0.62),
        grain=make_noise(rng, (512, 512), 64, 2, 0.8),
        sensor=sensor,
        sprites=sprites,
    )


def make_ego(rng: np.random.Generator, width: int, height: int) -> Bytes | None:
    """The part of the own car in the picture: BGRA of the picture's lower end, or None."""
    style = int(rng.choice(7, p=[0.3, 0.2, 0.16, 0.07, 0.08, 0.05, 0.14]))
    if style == 0:
        return None
    tall = int(height * (rng.uniform(0.35, 0.55) if style == 6 else rng.uniform(0.08, 0.42)))
    sprite = _blank(width, tall)
    body = random_colour(rng, 0.3) if rng.random() < 0.5 else (rng.uniform(15, 50),) * 3
    middle = width * rng.uniform(0.42, 0.58)

    def poly(points: list[tuple[float, float]], colour: Colour) -> None:
        array = np.array(points) * (1, tall)
        cv2.fillPoly(sprite, [np.round(array).astype(np.int32)], _opaque(colour), cv2.LINE_AA)

    if style in (1, 2):
        top, base = width * rng.uniform(0.03, 0.1), width * rng.uniform(0.15, 0.33)
        poly([(middle - top, 0.05), (middle + top, 0.05), (middle + base, 1), (middle - base, 1)],
             body)  # fmt: skip
        bright = tuple(min(1.6 * c + 20, 255) for c in body)
        poly([(middle - 0.7 * top, 0.1), (middle + 0.7 * top, 0.1), (middle + 0.5 * base, 1),
              (middle - 0.5 * base, 1)], bright)  # type: ignore[arg-type]  # fmt: skip
        for _ in range(int(rng.integers(0, 7))):
            x, y = middle + rng.uniform(-0.5, 0.5) * base, rng.uniform(0.4, 0.9)
            w, h = rng.uniform(0.01, 0.05) * width, rng.uniform(0.03, 0.15)
            poly([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], random_colour(rng, 0.6))
    if style in (2, 5):
        for side in (-1, 1):
            x = middle + side * width * rng.uniform(0.28, 0.42)
            w = width * rng.uniform(0.05, 0.1)
            y = rng.uniform(0.1, 0.5)
            rubber = (rng.uniform(15, 45),) * 3
            poly([(x - w, y + 0.1), (x - 0.7 * w, y), (x + 0.7 * w, y), (x + w, y + 0.1),
                  (x + w, 1), (x - w, 1)], rubber)  # fmt: skip
            poly([(x - side * w, 0.6), (middle, 0.75), (middle, 0.8), (x - side * w, 0.68)], rubber)
    if style == 3:
        rim = width * (0.0 if rng.random() < 0.5 else 1.0)
        reach = width * rng.uniform(0.1, 0.3) * (1 if rim == 0 else -1)
        poly([(rim, 0), (rim + reach, 0.5), (rim + reach * 0.8, 1), (rim, 1)], body)
    if style == 4:
        half = width * rng.uniform(0.1, 0.5)
        tone = random_colour(rng, 0.3)
        poly([(middle - half, 1), (middle, 0.3), (middle + half, 1)], tone)
    if style == 6:
        # Seen from the roll hoop: wheels, arms, cockpit, and what lies in it.
        for side in (-1, 1):
            x, w = middle + side * width * rng.uniform(0.24, 0.34), width * rng.uniform(0.05, 0.09)
            centre = (int(x), int(tall * 0.55))
            size = (int(w), int(tall * rng.uniform(0.3, 0.45)))
            cv2.ellipse(sprite, centre, size, 0, 0, 360, _opaque((38, 38, 40)), -1, cv2.LINE_AA)
            inner = (int(x - side * w * 0.4), centre[1])
            hub = (int(w * 0.4), int(size[1] * 0.7))
            cv2.ellipse(sprite, inner, hub, 0, 0, 360, _opaque((22, 22, 24)), -1, cv2.LINE_AA)
            for y in (0.45, 0.6):
                end = (int(middle), int(tall * (y - 0.1)))
                cv2.line(
                    sprite, (int(x), int(tall * y)), end, _opaque((25, 25, 25)), 3, cv2.LINE_AA
                )
        nose, base = width * rng.uniform(0.04, 0.08), width * rng.uniform(0.16, 0.28)
        poly(
            [(middle - nose, 0.0), (middle + nose, 0.0), (middle + base, 1), (middle - base, 1)],
            body,
        )
        dash = tuple(0.5 * c for c in body)
        poly([(middle - 1.2 * nose, 0.35), (middle + 1.2 * nose, 0.35), (middle + 0.8 * base, 1),
              (middle - 0.8 * base, 1)], dash)  # type: ignore[arg-type]  # fmt: skip
        centre = (int(middle), int(tall * 0.75))
        wheel = (int(width * 0.07), int(tall * 0.18))
        cv2.ellipse(sprite, centre, wheel, 0, 0, 360, _opaque((20, 20, 20)), int(width / 110) + 1)
        for _ in range(int(rng.integers(2, 12))):
            spot = (int(middle + rng.uniform(-0.7, 0.7) * base), int(tall * rng.uniform(0.3, 1)))
            size = (int(width * rng.uniform(0.003, 0.02)), int(tall * rng.uniform(0.01, 0.08)))
            cv2.ellipse(sprite, spot, size, rng.uniform(0, 180), 0, 360,
                        _opaque(random_colour(rng, 0.6)), -1, cv2.LINE_AA)  # fmt: skip
    if rng.random() < 0.3:
        # Halo, antenna, cables.
        x = int(width * rng.random())
        lean = int(rng.normal(0, 0.1) * width)
        thick = int(rng.integers(1, max(width // 60, 2)))
        cv2.line(sprite, (x, 0), (x + lean, tall), _opaque((25, 25, 25)), thick, cv2.LINE_AA)
    # Light falls on it from above.
    fade = np.linspace(rng.uniform(0.9, 1.5), rng.uniform(0.5, 1.0), tall, dtype=np.float32)
    for k in range(3):
        sprite[..., k] = np.clip(sprite[..., k] * fade[:, None], 0, 255).astype(np.uint8)
    return _mottle(rng, sprite, 0.07)
