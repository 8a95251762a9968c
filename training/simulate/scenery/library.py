"""Textures, and flat pictures of things that are not cones, drawn by chance from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from training.simulate.scenery.sketch import Bytes, Sketch, hsv_colour, random_colour, scaled


def stretched(
    rng: np.random.Generator, cells: tuple[int, int], size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Normal noise of (rows, columns) cells, drawn out to (width, height): (H, W)."""
    noise = rng.standard_normal(cells).astype(np.float32)
    return np.asarray(cv2.resize(noise, size), np.float32)


def make_building(rng: np.random.Generator) -> Bytes:
    """A house or a hall with windows, doors, gates, signs and pipes."""
    width, height = int(rng.integers(120, 420)), int(rng.integers(60, 220))
    sketch = Sketch(width, height, random_colour(rng, 0.35))
    sprite = sketch.bgra
    roof = int(height * 0.05)
    if rng.random() < 0.4:
        roof = int(height * rng.uniform(0.1, 0.35))
        sprite[:roof] = 0
        ridge = (width * rng.uniform(0, 0.4), 0), (width * rng.uniform(0.6, 1), 0)
        sketch.polygon([(0, roof), *ridge, (width, roof)], random_colour(rng, 0.4))
    columns, rows = int(rng.integers(2, 16)), int(rng.integers(1, 7))
    window, frame = random_colour(rng, 0.2), random_colour(rng, 0.1)
    cell_w, cell_h = width / columns, (height - roof) / rows
    fill_w, fill_h = rng.uniform(0.3, 0.95), rng.uniform(0.3, 0.85)
    for row in range(rows):
        for column in range(columns):
            if rng.random() < 0.1:
                continue
            x, y = int(column * cell_w + 2), int(roof + row * cell_h + 2)
            w, h = int(cell_w * fill_w), int(cell_h * fill_h)
            shade = rng.uniform(0.5, 2.2)
            sketch.box(x, y, x + w, y + h, scaled(window, 0.3 * shade))
            if rng.random() < 0.5:
                sketch.box(x, y, x + w, y + h, frame, 1)
    for _ in range(int(rng.integers(0, 7))):
        x, w = int(rng.integers(0, width)), int(rng.integers(3, 60))
        top = int(height * rng.uniform(0.2, 0.85))
        low = height if rng.random() < 0.6 else min(top + int(rng.integers(3, 30)), height)
        sketch.box(x, top, x + w, low, random_colour(rng, 0.5))
    if rng.random() < 0.3:
        step = int(rng.integers(2, 9))
        dark = sprite[:, ::step, :3].astype(np.float32) * rng.uniform(0.6, 0.95)
        sprite[:, ::step, :3] = dark.astype(np.uint8)
    if rng.random() < 0.3:
        for y in range(roof, height, int(rng.integers(3, 14))):
            sprite[y, :, :3] = (sprite[y, :, :3] * rng.uniform(0.6, 0.9)).astype(np.uint8)
    return sketch.mottled(rng, 0.08)


def make_stand(rng: np.random.Generator) -> Bytes:
    """A crowd, parked bicycles, stacked goods: many small specks of any colour."""
    width, height = 480, int(rng.integers(40, 120))
    sketch = Sketch(width, height, random_colour(rng, 0.2))
    vivid = rng.uniform(0.1, 0.55)
    tall = int(rng.integers(3, 10))
    for _ in range(int(rng.integers(150, 700))):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        right, low = x + int(rng.integers(1, tall)), y + int(rng.integers(2, tall * 2))
        sketch.box(x, y, right, low, random_colour(rng, vivid))
    return sketch.mottled(rng, 0.15)


def make_mimic(rng: np.random.Generator) -> Bytes:
    """Tapered or upright like a cone, and none: bottles, bags, helmets, hydrants, buckets."""
    width, height = int(rng.integers(16, 50)), int(rng.integers(30, 60))
    sketch = Sketch(width, height)
    top, middle = rng.uniform(0.3, 1.0), width / 2
    colour, tone = random_colour(rng, 0.5), random_colour(rng, 0.5)
    if rng.random() < 0.5:
        left, right = middle - top * width / 2, middle + top * width / 2
        sketch.polygon([(left, 0), (right, 0), (width, height), (0, height)], colour)
        if top < 0.55 and max(colour) - min(colour) > 60:
            sketch.bgra[..., :3] = sketch.bgra[..., :3] // 3 + 60
    else:
        centre = (width // 2, height // 2)
        sketch.ellipse(centre, (width // 2 - 1, height // 2 - 1), colour)
        y = int(rng.integers(0, height))
        inside = sketch.bgra[y : y + height // 4]
        inside[inside[..., 3] > 0] = (*tone, 255.0)
    return sketch.mottled(rng, 0.15)


def make_tree(rng: np.random.Generator) -> Bytes:
    """A tree with leaves, or a bare one."""
    width, height = int(rng.integers(70, 160)), int(rng.integers(110, 220))
    sketch = Sketch(width, height)
    sprite = sketch.bgra
    trunk = (30 + rng.uniform(0, 50),) * 3
    middle = width // 2
    thick = max(int(width * rng.uniform(0.03, 0.07)), 2)
    sketch.box(middle - thick, height // 2, middle + thick, height, trunk)
    if rng.random() < 0.2:
        for _ in range(60):
            start = (middle, rng.uniform(0.3, 0.9) * height)
            end = (rng.uniform(0, width), rng.uniform(0, 0.6) * height)
            sketch.line(start, end, trunk)
        return sprite
    slim = rng.random() < 0.25
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    x = (columns - middle) / (width * (0.25 if slim else 0.48))
    y = (rows - height * 0.42) / (height * 0.42)
    noise = stretched(rng, (14, 10), (width, height))
    fine = stretched(rng, (50, 36), (width, height))
    leafy = x * x + y * y + 0.22 * noise + 0.2 * fine < 0.95
    hue = rng.choice([rng.uniform(28, 70), rng.uniform(8, 28)], p=[0.85, 0.15])
    green = np.array(hsv_colour(hue, rng.uniform(40, 200), rng.uniform(50, 150)), np.float32)
    light = 1 - 0.35 * y + 0.25 * noise + 0.4 * fine
    sprite[leafy, :3] = np.clip(green * light[..., None], 0, 255)[leafy].astype(np.uint8)
    sprite[leafy, 3] = 255
    return sprite


def make_forest(rng: np.random.Generator) -> Bytes:
    """A row of trees, a hedge or a hill: wide, ragged at the top."""
    width, height = 640, int(rng.integers(40, 140))
    edge = np.zeros(width, np.float32)
    for cells, size in ((5, 0.25), (30, 0.15), (120, 0.08)):
        edge += size * stretched(rng, (1, cells), (width, 1))[0]
    window = np.clip(1.15 * np.sin(np.linspace(0, np.pi, width)) ** 0.5, 0, 1)
    rise = np.clip(0.72 - edge * rng.uniform(0.2, 1), 0.08, 1) * window
    top = (1 - rise) * height
    rows = np.arange(height, dtype=np.float32)[:, None]
    noise = stretched(rng, (12, 70), (width, height))
    fine = stretched(rng, (height // 2, width // 2), (width, height))
    green = hsv_colour(rng.uniform(25, 75), rng.uniform(20, 170), rng.uniform(40, 140))
    light = 1.1 - 0.4 * rows / height + 0.25 * noise + 0.25 * fine
    sprite = np.zeros((height, width, 4), np.uint8)
    colours = np.array(green, np.float32) * light[..., None]
    sprite[..., :3] = np.clip(colours, 0, 255).astype(np.uint8)
    sprite[..., 3] = (rows > top[None]) * 255
    return sprite


def make_person(rng: np.random.Generator) -> Bytes:
    """Somebody who stands."""
    sketch = Sketch(48, 130)
    trousers, shirt = random_colour(rng, 0.35), random_colour(rng, 0.6)
    darkest, lightest = (44.0, 70.0, 100.0), (165.0, 196.0, 240.0)
    skin = tuple(rng.uniform(darkest, lightest).tolist())
    spread = int(rng.integers(2, 10))
    for side in (-1, 1):
        sketch.line((24 + side * 3, 68), (24 + side * spread, 126), trousers, 9)
        elbow = (24 + side * int(rng.integers(9, 17)), int(rng.integers(50, 75)))
        sketch.line((24 + side * 8, 32), elbow, shirt, 7)
        cv2.circle(sketch.bgra, elbow, 4, (*skin, 255.0), -1)
    sketch.box(15, 26, 33, 70, shirt)
    if rng.random() < 0.3:
        sketch.box(15, 40, 33, 48, random_colour(rng, 0.7))
    cv2.circle(sketch.bgra, (24, 14), 9, (*skin, 255.0), -1)
    sketch.ellipse((24, 11), (9, 7), random_colour(rng, 0.3), first_deg=180)
    return sketch.mottled(rng, 0.12)


def make_car(rng: np.random.Generator) -> Bytes:
    """A parked car or van, from its side."""
    width, height = 220, 80 if rng.random() < 0.6 else 120
    sketch = Sketch(width, height)
    paint = random_colour(rng, 0.5)
    base, belt = height - 14, int(height * 0.45)
    low, high = rng.uniform(10, 50), rng.uniform(50, 80)
    cabin = np.array([[low, belt], [high, 3], [rng.uniform(140, 200), 3],
                      [rng.uniform(190, 215), belt]])  # fmt: skip
    sketch.polygon(cabin, paint)
    sketch.box(4, belt, width - 4, base, paint)
    sketch.polygon(0.8 * (cabin - cabin.mean(0)) + cabin.mean(0), (60, 50, 45))
    sketch.line((115, 3), (115, base), scaled(paint, 0.7), 3)
    for x in (48, 172):
        for radius, tone in ((15, 25.0), (8, 130.0)):
            cv2.circle(sketch.bgra, (x, base - 2), radius, (tone, tone, tone, 255.0), -1)
    return sketch.mottled(rng, 0.1)


def make_wall(rng: np.random.Generator) -> Bytes:
    """A barrier along the track: tyres, banners, red-white blocks, fence, planks or pallets."""
    width, height = 480, int(rng.integers(34, 80))
    sketch = Sketch(width, height)
    kind = int(rng.integers(0, 6))
    if kind == 0:
        _draw_tyres(rng, sketch, width, height)
    elif kind == 1:
        _draw_banners(rng, sketch, width, height)
    elif kind == 2:  # blocks
        step = int(rng.integers(15, 70))
        pair = [random_colour(rng, 0.8), (235.0, 235.0, 235.0)]
        if rng.random() < 0.4:
            pair[0] = (40.0, 40.0, 220.0)
        for index, x in enumerate(range(0, width, step)):
            sketch.box(x, 0, x + step, height, pair[index % 2])
    elif kind == 3:
        _draw_fence(rng, sketch, width, height)
    elif kind == 4:  # planks
        sketch.bgra[:] = (*random_colour(rng, 0.4), 255.0)
        for y in range(0, height, int(rng.integers(5, 20))):
            sketch.line((0, y), (width, y), random_colour(rng, 0.2), 2)
    else:  # pallets
        for x in range(0, width, 40):
            for y in range(0, height, 26):
                blue, green = 60 * rng.uniform(0.7, 1.5), 110 * rng.uniform(0.7, 1.5)
                sketch.box(x, y, x + 37, y + 22, (blue, green, 150 * rng.uniform(0.7, 1.4)))
    return sketch.mottled(rng, 0.12)


def _draw_tyres(rng: np.random.Generator, sketch: Sketch, width: int, height: int) -> None:
    step, layer = int(rng.integers(16, 34)), int(rng.integers(10, 20))
    cap = random_colour(rng, 0.9)
    sketch.bgra[:] = (18, 18, 18, 255)
    for y in range(0, height, layer):
        painted = rng.random() < 0.35
        for x in range(0, width, step):
            shade = rng.uniform(20, 60)
            colour = cap if painted else (shade, shade, shade)
            sketch.box(x + 1, y + 1, x + step - 2, y + layer - 2, colour)


def _draw_banners(rng: np.random.Generator, sketch: Sketch, width: int, height: int) -> None:
    x = 0
    while x < width:
        w = int(rng.integers(30, 160))
        sketch.box(x, 0, x + w, height, random_colour(rng, 0.6))
        text = ''.join(chr(int(c)) for c in rng.integers(65, 91, int(rng.integers(2, 9))))
        face, thick = int(rng.integers(0, 5)), int(rng.integers(1, 5))
        ink, place = (*random_colour(rng, 0.5), 255.0), (x + 3, int(height * 0.75))
        cv2.putText(sketch.bgra, text, place, face, height / 45, ink, thick)
        x += w


def _draw_fence(rng: np.random.Generator, sketch: Sketch, width: int, height: int) -> None:
    metal = random_colour(rng, 0.1)
    step = int(rng.integers(5, 14))
    for x in range(0, width, step):
        sketch.line((x, 0), (x, height), metal)
    for y in (1, height // 2, height - 2):
        sketch.line((0, y), (width, y), metal)
    for x in range(0, width, step * 8):
        sketch.line((x, 0), (x, height), metal, 3)


def make_thing(rng: np.random.Generator) -> Bytes:
    """Something small: a bin, a post, a barrel, a box, a sign, a trolley, in any colour."""
    width, height = int(rng.integers(12, 90)), int(rng.integers(24, 110))
    sketch = Sketch(width, height)
    for _ in range(int(rng.integers(1, 6))):
        colour = random_colour(rng, 0.65)
        x0, x1 = sorted(rng.integers(0, width, 2).tolist())
        y0, y1 = int(rng.integers(0, height * 3 // 4)), height
        kind = int(rng.integers(0, 5))
        if kind == 0:
            sketch.box(x0, y0, x1 + 3, y1, colour)
        elif kind == 1:
            middle = ((x0 + x1) // 2, (y0 + y1) // 2)
            sketch.ellipse(middle, ((x1 - x0) // 2 + 2, (y1 - y0) // 2 + 2), colour)
        elif kind == 2:
            sketch.polygon(rng.integers(0, (width, height), (4, 2)), colour)
        elif kind == 3:
            sketch.line((x0, y1), (x1, y0), colour, int(rng.integers(1, 7)))
        else:
            sketch.box(0, y0, width, y0 + height // 6, colour)
    return sketch.mottled(rng, 0.15)


def make_post(rng: np.random.Generator) -> Bytes:
    """A post or bollard, plain or banded: what a cone is most easily taken for."""
    width, height = 16, int(rng.integers(50, 140))
    sketch = Sketch(width, height)
    half = int(rng.integers(2, 8))
    pole = sketch.bgra[:, 8 - half : 8 + half]
    pole[:] = (*random_colour(rng, 0.6), 255.0)
    if rng.random() < 0.6:
        band = random_colour(rng, 0.6)
        step = int(rng.integers(8, 40))
        for y in range(0, height, 2 * step):
            pole[y : y + step] = (*band, 255.0)
    sketch.shade(np.linspace(1.15, 0.7, width, dtype=np.float32)[None])
    return sketch.bgra


def make_tent(rng: np.random.Generator) -> Bytes:
    """A pavilion, open or closed."""
    sketch = Sketch(180, 120)
    roof = random_colour(rng, 0.5) if rng.random() < 0.6 else (240.0, 240.0, 240.0)
    peak = rng.uniform(60, 120)
    sketch.polygon([(0, 46), (peak, 2), (180, 46), (180, 58), (0, 58)], roof)
    for x in (3, 88, 175):
        sketch.line((x, 50), (x, 120), (180, 180, 180), 3)
    if rng.random() < 0.5:
        sketch.box(5, 58, 174, 119, scaled(roof, 0.5))
    return sketch.mottled(rng, 0.08)


def make_wheel(rng: np.random.Generator) -> Bytes:
    """A loose tyre on the ground."""
    sketch = Sketch(60, 60)
    sketch.ellipse((30, 30), (28, 28), (28, 28, 30))
    if rng.random() < 0.7:
        sketch.ellipse((30, 30), (14, 14), random_colour(rng, 0.5))
    return sketch.mottled(rng, 0.2)


KINDS: dict[str, tuple[Callable[[np.random.Generator], Bytes], int, tuple[float, float]]] = {
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
"""Kind of thing -> what draws one, pictures in the library, least and greatest height in metres."""


@dataclass(frozen=True, slots=True)
class Library:
    """All textures of one seed.

    fine: (1024, 1024) ground grain, 4 mm a px; the last one has joints between slabs. coarse:
    (1024, 1024) stains, 5 cm a px. clouds: (1024, 1024). grain: (512, 512) dirt.
    sensor: (768, 1024, 3) noise around 128. sprites: name -> BGRA pictures, each with its
    halved copies.
    """

    fine: tuple[Bytes, ...]
    coarse: tuple[Bytes, ...]
    clouds: Bytes
    grain: Bytes
    sensor: Bytes
    sprites: dict[str, list[tuple[Bytes, ...]]]


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
        smooth = cv2.INTER_CUBIC if cell > 1 else cv2.INTER_NEAREST
        big = cv2.resize(grid, None, fx=cell, fy=cell, interpolation=smooth)
        total += weight * big[cell : cell + size[0], cell : cell + size[1]]
        weight *= rough
        cell //= 2
    total *= 30 / max(float(total.std()), 1e-6)
    return np.clip(total + 128, 0, 255).astype(np.uint8)


def make_library(seed: int) -> Library:
    """Draw all textures of a seed."""
    rng = np.random.default_rng([seed, 7011])
    size = (1024, 1024)
    octaves = ((32, 1.25), (128, 1.05), (8, 1.1), (64, 1.5))
    fine = [make_noise(rng, size, coarsest, 1, rough) for coarsest, rough in octaves]
    slabs = make_noise(rng, size, 32, 1, 1.2)
    pitch_x, pitch_y = int(rng.choice([32, 64, 128])), int(rng.choice([32, 64]))
    for row, y in enumerate(range(0, 1024, pitch_y)):
        slabs[y : y + 2] //= 2
        for x in range((row % 2) * pitch_x // 2, 1024, pitch_x):
            slabs[y : y + pitch_y, x : x + 2] //= 2
    coarse = [make_noise(rng, size, 512, 2, 0.8), make_noise(rng, size, 128, 1, 0.95)]
    cracked = make_noise(rng, size, 512, 1, 0.85)
    for _ in range(24):
        walk = np.cumsum(rng.normal(0, 9, (60, 2)) + rng.normal(0, 7, 2), 0)
        line = (walk + rng.uniform(0, 1024, 2)).astype(np.int32)
        cv2.polylines(cracked, [line], False, float(rng.choice([40, 60, 190])), 1)
    sensor = np.clip(128 + 24 * rng.standard_normal((768, 1024, 3)), 0, 255).astype(np.uint8)
    sprites: dict[str, list[tuple[Bytes, ...]]] = {name: [] for name in KINDS}
    for name, (make, count, _) in KINDS.items():
        for _ in range(count):
            sizes = [make(rng)]
            while min(sizes[-1].shape[:2]) > 3:
                half = (sizes[-1].shape[1] // 2, sizes[-1].shape[0] // 2)
                smaller = cv2.resize(sizes[-1], half, interpolation=cv2.INTER_AREA)
                sizes.append(np.asarray(smaller, np.uint8))
            sprites[name].append(tuple(sizes))
    clouds = make_noise(rng, size, 256, 2, 0.62)
    grain = make_noise(rng, (512, 512), 64, 2, 0.8)
    return Library((*fine, slabs), (*coarse, cracked), clouds, grain, sensor, sprites)
