"""Haze, a sun that shines into the lens, and what the lens makes of it."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np

from training.simulate.camera import PinholeCamera
from training.simulate.scene import Scene
from training.simulate.scenery.sketch import Bytes, Colour, Point, hsv_colour

Flare = tuple[float, float, float]
"""The sun's x and y as fractions of the picture, also outside it, and its power: 0 none to 1."""
NO_FLARE: Flare = (0.0, 0.0, 0.0)


def make_weather(
    rng: np.random.Generator, scene: Scene, camera: PinholeCamera, strength: float
) -> tuple[Scene, Flare]:
    """The scene in haze or against a low sun by chance, and the flare that the sun gives.

    strength: factor on the chances, 0..1.
    """
    if rng.random() < 0.09 * strength:
        scene = replace(scene, haze=rng.uniform(0.5, 1.8))
    if rng.random() >= 0.08 * strength:
        return scene, NO_FLARE
    # In the sky of the picture or above it, never on the ground.
    horizon_px = camera.cy_px - math.tan(camera.pitch_rad) * camera.fy_px
    x, y = rng.uniform(-0.1, 1.1), min(rng.uniform(-0.2, 0.3), horizon_px / camera.height_px - 0.1)
    across = (x * camera.width_px - camera.cx_px) / camera.fx_px
    below = (y * camera.height_px - camera.cy_px) / camera.fy_px
    sun = camera.rotation.T @ np.array([across, below, 1.0])
    sun[2] = max(sun[2], 0.12 * math.hypot(sun[0], sun[1]))
    sun /= math.sqrt(sun @ sun)
    sunlight = max(scene.sunlight, rng.uniform(0.5, 1.0))
    scene = replace(scene, sun=tuple(sun.tolist()), sunlight=sunlight)
    return scene, (x, y, rng.uniform(0.3, 1.0))


def draw_flare(rng: np.random.Generator, width: int, height: int, flare: Flare) -> Bytes:
    """(height, width, 3) light to add: glow and rays of the sun, ghosts across it, and a veil."""
    x, y, power = flare
    small = (max(width // 4, 1), max(height // 4, 1))
    sun, middle = np.array([x * small[0], y * small[1]]), np.array(small) / 2
    ys, xs = np.ogrid[: small[1], : small[0]]
    far = np.hypot(xs - sun[0], ys - sun[1]) / small[0]
    glow = 255 * np.exp(-((far / rng.uniform(0.02, 0.1)) ** 2))
    glow = glow + power * rng.uniform(60, 200) * np.exp(-far / rng.uniform(0.08, 0.35))
    glow = glow + power * rng.uniform(5, 60)
    warm = np.array([rng.uniform(0.75, 1.05), rng.uniform(0.9, 1.0), 1.0])
    light = np.minimum(glow[..., None] * warm, 255).astype(np.uint8)

    def spot(place: Point, size: float, colour: Colour, thick: int) -> None:
        layer = np.zeros_like(light)
        centre = (round(place[0] * 16), round(place[1] * 16))
        cv2.circle(layer, centre, round(size * 16), colour, thick, cv2.LINE_AA, 4)
        cv2.add(light, layer, light)

    for _ in range(int(rng.integers(2, 12))):
        place = sun + rng.uniform(0.3, 2.4) * (middle - sun) + rng.normal(0, 1, 2)
        tone = power * rng.uniform(15, 110)
        colour = hsv_colour(rng.uniform(0, 180), rng.uniform(20, 170), tone)
        size = small[0] * rng.uniform(0.004, 0.06)
        spot(tuple(place.tolist()), size, colour, 1 if rng.random() < 0.25 else -1)
    if rng.random() < 0.6:
        rays = np.zeros_like(light)
        first, count = rng.uniform(0, math.pi), int(rng.integers(2, 9))
        for k in range(count):
            turn = first + k * math.pi / count
            reach = small[0] * rng.uniform(0.1, 0.9)
            ray = np.array([math.cos(turn), math.sin(turn)]) * reach
            ends = (np.round((sun + sign * ray) * 16).astype(int).tolist() for sign in (-1, 1))
            tone = power * rng.uniform(20, 120)
            cv2.line(rays, *ends, (tone, tone, tone), int(rng.integers(1, 4)), cv2.LINE_AA, 4)
        fade = np.exp(-far / rng.uniform(0.1, 0.4))[..., None]
        rays = (cv2.GaussianBlur(rays, (0, 0), 1.2) * fade).astype(np.uint8)
        cv2.add(light, rays, light)
    return np.asarray(cv2.resize(light, (width, height)), np.uint8)
