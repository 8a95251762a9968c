"""Textures and pictures of things, drawn from noise and shapes; made once per process and seed."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from training.simulate.scenery.sketch import Bytes
from training.simulate.scenery.sprites import KINDS


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
    sprites = {
        name: [_halved(kind.make(rng)) for _ in range(kind.count)] for name, kind in KINDS.items()
    }
    return Library(
        fine=(*fine, slabs),
        coarse=(*coarse, cracked),
        clouds=make_noise(rng, size, 256, 2, 0.62),
        grain=make_noise(rng, (512, 512), 64, 2, 0.8),
        sensor=sensor,
        sprites=sprites,
    )


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


def _halved(sprite: Bytes) -> tuple[Bytes, ...]:
    """The sprite and ever smaller copies of it, each half as large."""
    sizes = [sprite]
    while min(sizes[-1].shape[:2]) > 3:
        half = (sizes[-1].shape[1] // 2, sizes[-1].shape[0] // 2)
        sizes.append(np.asarray(cv2.resize(sizes[-1], half, interpolation=cv2.INTER_AREA)))
    return tuple(sizes)
