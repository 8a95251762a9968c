"""Does to a picture what lens, sensor and compression do."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from training.simulate.flare import NO_FLARE, Flare, draw_flare
from training.simulate.scenery.sketch import Bytes, Colour


@dataclass(frozen=True, slots=True)
class Photo:
    """One set of photometric changes.

    level: brightness the lower half of the picture is exposed to, 0 leaves it.
    gains: white balance factors (b, g, r). gamma: below 1 brightens the dark.
    contrast: factor around the middle. saturation: 0 grey, 1 as is.
    vignette: darkening of the corners, 0..1. veil: light spread over the whole picture, 0..255.
    blur_px, motion_px, sharpen, noise, quality: defocus sigma, motion length, strength of edges,
    standard deviation of the noise in grey levels, JPEG quality. softness: factor below 1 by
    which the picture is made smaller and larger again. motion_rad: direction of the motion.
    """

    level: float = 0.0
    gains: Colour = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    vignette: float = 0.0
    veil: float = 0.0
    blur_px: float = 0.0
    motion_px: float = 0.0
    motion_rad: float = 0.0
    softness: float = 1.0
    sharpen: float = 0.0
    noise: float = 0.0
    quality: int = 92
    glare: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    flare: Flare = NO_FLARE


def make_photo(rng: np.random.Generator, strength: float, width_px: int) -> Photo:
    """Changes by chance; strength 0 leaves the picture as it is, lengths scale with the width."""
    if strength == 0:
        return Photo()
    size = width_px / 1280

    def spread(low: float, high: float) -> float:
        return 1 + strength * (rng.uniform(low, high) - 1)

    def some(chance: float, low: float, high: float, unit: float = strength) -> float:
        return unit * rng.uniform(low, high) if rng.random() < chance else 0.0

    cast = rng.normal(0, 0.04, 3)
    kind = rng.random()
    if kind < 0.22:
        cast += np.array([0.1, 0.12, -0.12]) * rng.uniform(0.3, 1.3)  # green to cyan
    elif kind < 0.34:
        cast += np.array([-0.2, -0.03, 0.08]) * rng.uniform(0.3, 1.2)  # warm
    elif kind < 0.42:
        cast += np.array([0.09, -0.03, 0.05]) * rng.uniform(0.2, 1.0)  # purple
    gains = np.exp(strength * cast)
    level = 135 * math.exp(rng.normal(0, 0.2))
    extreme = rng.random()
    if extreme < 0.1:
        level *= rng.uniform(1.2, 1.6)
    elif extreme < 0.2:
        level *= rng.uniform(0.35, 0.8)
    photo = Photo(
        level=min(level, 195.0),
        gains=tuple(gains.tolist()),
        gamma=spread(0.8, 1.25),
        contrast=spread(0.85, 1.35),
        saturation=spread(0.55, 1.1) if rng.random() < 0.35 else spread(0.9, 1.45),
        vignette=some(0.4, 0, 0.5),
        veil=some(0.2, 0, 50),
        blur_px=size * strength * rng.uniform(*((0.8, 2.2) if rng.random() < 0.12 else (0, 0.5))),
        motion_px=some(0.1, 2, 12, size * strength),
        motion_rad=rng.normal(0, 0.3) + (math.pi / 2 if rng.random() < 0.2 else 0.0),
        softness=1 - some(0.12, 0.2, 0.6),
        sharpen=some(0.75, 0.3, 2.0),
        noise=strength * rng.uniform(*((3, 9) if rng.random() < 0.2 else (0.5, 4))),
        quality=round(95 - strength * rng.uniform(0, 60) * rng.random()),
    )
    if rng.random() >= 0.1:
        return photo
    place = (rng.random(), rng.uniform(0, 0.5), rng.uniform(0.15, 0.6))
    return replace(photo, glare=(*place, strength * rng.uniform(30, 130)))


def cast_photo(rng: np.random.Generator, photo: Photo, strength: float) -> Photo:
    """The photo as it is, or with a strong colour cast: pink mostly, else any."""
    kind = rng.random()
    if kind >= 0.1 * strength:
        return photo
    cast = np.array([0.17, -0.22, 0.2]) * rng.uniform(0.4, 1.1)
    if kind > 0.07 * strength:
        cast = rng.normal(0, 0.16, 3)
    return replace(photo, gains=tuple((np.array(photo.gains) * np.exp(cast)).tolist()))


def apply_photo(image: Bytes, photo: Photo, sensor: Bytes, rng: np.random.Generator) -> Bytes:
    """The picture as the camera gives it, before compression; sensor: noise around 128."""
    height, width = image.shape[:2]
    x, y, spot, power = photo.glare
    if power > 0:
        small = (max(width // 8, 1), max(height // 8, 1))
        xs = (np.arange(small[0], dtype=np.float32) / small[0] - x) / spot
        ys = (np.arange(small[1], dtype=np.float32) / small[1] - y) * height / width / spot
        glow = power * np.exp(-3 * (xs[None] ** 2 + ys[:, None] ** 2))
        glow = cv2.resize(glow.astype(np.uint8), (width, height))
        image = cv2.add(image, cv2.merge([glow, glow, glow]))
    if photo.flare[2] > 0:
        image = cv2.add(image, draw_flare(rng, width, height, photo.flare))
    if photo.softness < 1:
        small = (max(round(width * photo.softness), 8), max(round(height * photo.softness), 8))
        image = cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height))
    if photo.motion_px > 1:
        image = cv2.filter2D(image, -1, motion_kernel(photo.motion_px, photo.motion_rad))
    if photo.blur_px > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), photo.blur_px)
    exposure = 1.0
    if photo.level > 0:
        lower = image[height // 2 :: 8, ::8].max(2)
        mean = float(lower[lower > 8].mean()) if (lower > 8).any() else 128.0
        exposure = float(np.clip(photo.level / mean, 0.2, 6))
    if photo.saturation != 1 or photo.gains != (1.0, 1.0, 1.0):
        grey = np.array([0.114, 0.587, 0.299])
        mix = photo.saturation * np.eye(3) + (1 - photo.saturation) * grey[None]
        matrix = exposure * np.array(photo.gains)[:, None] * mix
        image = cv2.transform(image, matrix.astype(np.float32))
    elif exposure != 1:
        image = cv2.convertScaleAbs(image, alpha=exposure)
    if photo.noise > 0.4:
        top = int(rng.integers(0, max(sensor.shape[0] - 64, 1)))
        left = int(rng.integers(0, max(sensor.shape[1] - 64, 1)))
        tile = np.roll(sensor, (-top, -left), (0, 1))
        ways = (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1)
        tile = np.tile(tile, ways)[:height, :width]
        share = photo.noise / 24
        image = cv2.addWeighted(image, 1.0, tile, share, -128 * share)
    if photo.sharpen > 0:
        soft = cv2.GaussianBlur(image, (0, 0), 1.0)
        image = cv2.addWeighted(image, 1 + photo.sharpen, soft, -photo.sharpen, 0)
    curve = np.linspace(0, 1, 256) ** photo.gamma
    curve = (curve - 0.45) * photo.contrast + 0.45
    curve = photo.veil + curve * (255 - photo.veil)
    image = cv2.LUT(image, np.clip(curve, 0, 255).astype(np.uint8))
    if photo.vignette > 0:
        xs = np.square(np.linspace(-1, 1, width, dtype=np.float32))
        ys = np.square(np.linspace(-1, 1, height, dtype=np.float32))
        shade = (255 * (1 - photo.vignette * (xs[None] + ys[:, None]) / 2)).astype(np.uint8)
        image = cv2.multiply(image, cv2.merge([shade, shade, shade]), scale=1 / 255)
    return np.asarray(image, np.uint8)


def motion_kernel(length_px: float, angle_rad: float) -> npt.NDArray[np.float32]:
    """A symmetric line of the given length: objects stay where they are."""
    size = math.ceil(length_px) | 1
    kernel = np.zeros((size, size), np.float32)
    middle = size // 2
    dx, dy = math.cos(angle_rad) * length_px / 2, math.sin(angle_rad) * length_px / 2
    start = (round((middle - dx) * 16), round((middle - dy) * 16))
    end = (round((middle + dx) * 16), round((middle + dy) * 16))
    cv2.line(kernel, start, end, 1.0, 1, cv2.LINE_8, 4)
    symmetric = kernel + kernel[::-1, ::-1]
    return np.asarray(symmetric / symmetric.sum(), np.float32)
