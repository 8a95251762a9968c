"""The ground as a camera sees it: texture, paint, shadows, puddles, haze."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from training.simulate.camera import PinholeCamera
from training.simulate.cone_view import ConeView, shadow_points
from training.simulate.scene import Scene
from training.simulate.scenery.library import Library
from training.simulate.scenery.sketch import Array, Bytes
from training.simulate.track import Paint


def _clip_project(points_m: Array, canvas: PinholeCamera) -> list[npt.NDArray[np.int32]]:
    """World polygons (N, K, 3) to pixels in 1/16: what is 0.15 m or more ahead of the camera."""
    optical = canvas.to_optical(points_m)
    near = 0.15
    ahead = optical[..., 2] > near
    if ahead.all():
        return list(_in_16ths(optical, canvas))
    polygons = []
    for polygon, in_front in zip(optical, ahead, strict=True):
        if in_front.all():
            polygons.append(_in_16ths(polygon, canvas))
        elif in_front.any():
            kept = []
            for here, after in zip(polygon, np.roll(polygon, -1, 0), strict=True):
                if here[2] > near:
                    kept.append(here)
                if (here[2] > near) != (after[2] > near):
                    t = (near - here[2]) / (after[2] - here[2])
                    kept.append(here + t * (after - here))
            polygons.append(_in_16ths(np.array(kept), canvas))
    return polygons


def _in_16ths(optical: Array, canvas: PinholeCamera) -> npt.NDArray[np.int32]:
    pixels = optical[..., :2] / optical[..., 2:] * (canvas.fx_px, canvas.fy_px)
    pixels += (canvas.cx_px, canvas.cy_px)
    return np.asarray(np.clip(np.round(pixels * 16), -2e6, 2e6), np.int32)


def _see(texture: Bytes, canvas: PinholeCamera, tile_m: float, turn: float, first: int) -> Bytes:
    """A ground texture, tile_m wide, as the camera sees it from row `first` down."""
    texel = texture.shape[0] / tile_m
    c, s = math.cos(turn) * texel, math.sin(turn) * texel
    x, y = canvas.position_m[:2]
    # Work near the origin: far coordinates overflow the 16 bit of the fast warp.
    offset_x = (c * x - s * y) % texture.shape[0]
    offset_y = (s * x + c * y) % texture.shape[0]
    to_texture = np.array([[c, -s, offset_x], [s, c, offset_y], [0, 0, 1]])
    # From ground (x_m, y_m, 1) to homogeneous pixels, without the lens.
    shift = -canvas.rotation @ np.array([0.0, 0.0, canvas.position_m[2]])
    to_pixels = canvas.matrix @ np.column_stack([canvas.rotation[:, :2], shift])
    down = np.array([[1, 0, 0], [0, 1, first], [0, 0, 1]], np.float64)
    matrix = to_texture @ np.linalg.inv(to_pixels) @ down
    return warp(texture, matrix, (canvas.width_px, canvas.height_px - first))


def warp(texture: Bytes, matrix: Array, size: tuple[int, int]) -> Bytes:
    """A picture of (width, height) px; matrix: (3, 3), its pixels to those of a tiled texture."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpPerspective(texture, matrix, size, flags=flags, borderMode=cv2.BORDER_WRAP)
    return np.asarray(seen, np.uint8)


def draw_ground(
    scene: Scene, canvas: PinholeCamera, library: Library, views: list[ConeView], first: int
) -> Bytes:
    height, width = canvas.height_px - first, canvas.width_px
    look = scene.ground
    up = canvas.position_m[2]
    ys = (np.arange(first, canvas.height_px) - canvas.cy_px) / canvas.fy_px
    down = canvas.rotation[:, 2]
    fall = np.maximum(-(down[2] + ys * down[1]), 1e-4)
    distance = np.minimum(up / fall, 3000.0)
    step = distance**2 / (up * canvas.fy_px)
    base = np.empty((height, width, 3), np.uint8)
    base.reshape(height, -1)[:] = np.tile(np.array(look.colour).astype(np.uint8), width)
    for paint in scene.paint:
        _draw_paint(base, paint, canvas, first)
    fine_texel, coarse_texel = look.fine_m / 1024, look.coarse_m / 1024
    fine_weight = look.fine_strength / (1 + step / (8 * fine_texel))
    coarse_weight = look.coarse_strength / (1 + (step / (12 * coarse_texel)) ** 1.5)
    fine = _see(library.fine[look.fine], canvas, look.fine_m, look.turn_rad, first)
    coarse = _see(library.coarse[look.coarse], canvas, look.coarse_m, look.turn_rad + 0.7, first)
    direct = scene.sunlight * (0.35 + 0.65 * scene.sun[2])
    light = scene.skylight + direct
    dark = scene.skylight / max(light, 1e-3)
    shadow = np.full((height, width), 255, np.uint8)
    if look.shade < 256 and dark < 0.9:
        pattern = _see(library.coarse[0], canvas, look.shade_m, look.turn_rad + 2.1, first)
        steps = np.clip((np.arange(256) - look.shade) / look.shade_soft + 0.5, 0, 1)
        shadow = cv2.LUT(pattern, (255 * (dark + (1 - dark) * steps)).astype(np.uint8))
    offset = (0, first * 16)
    near = [view for view in views if view.depth_m <= 45]
    if near:
        contact = np.stack([view.plate_m[0] for view in near])
        contact[..., :2] += 0.18 * (contact[..., :2] - contact[..., :2].mean(1, keepdims=True))
        contact[..., 2] = 0
        for polygon in _clip_project(contact, canvas):
            cv2.fillPoly(shadow, [polygon - offset], 190, cv2.LINE_AA, 4)
    if dark < 0.93:
        sun = np.array(scene.sun)
        shade = float(int(255 * dark))
        for polygon in _thing_shadows(scene, canvas):
            cv2.fillPoly(shadow, [polygon - offset], shade, cv2.LINE_AA, 4)
        lit = [view for view in views if view.depth_m < 60 and view.cone.lit > 0]
        if lit:
            for polygon in _clip_project(shadow_points(lit, sun), canvas):
                hull = cv2.convexHull(polygon - offset)
                cv2.fillConvexPoly(shadow, hull, shade, cv2.LINE_AA, 4)
    shadow = cv2.blur(shadow, (3, 3))
    grey = (fine.astype(np.float32) - 128) * fine_weight.astype(np.float32)[:, None]
    grey += (coarse.astype(np.float32) - 128) * coarse_weight.astype(np.float32)[:, None]
    grey = np.clip((grey + 128) * shadow, 0, 255 * 255)
    factor = cv2.convertScaleAbs(grey, alpha=1 / 255)
    result = cv2.multiply(base, cv2.merge([factor, factor, factor]), scale=light / 128)
    if look.wet > 0:
        # Puddles lie in the coarse pattern, and mirror more the flatter they are looked at.
        grazing = np.exp(-5 * np.minimum(fall, 1.0)).astype(np.float32)[:, None]
        pool = cv2.convertScaleAbs(coarse, alpha=4.0, beta=-420).astype(np.float32) / 255
        sky = np.array(scene.horizon, np.float32) * min(light, 1.0)
        _mix_in(result, look.wet * grazing * (0.25 + 0.75 * pool), sky)
    if scene.haze > 0.02:
        share = (1 - np.exp(-scene.haze * distance / 100)).astype(np.float32)
        end = int(np.searchsorted(-share, -0.01))
        _mix_in(result[:end], share[:end, None], np.array(scene.horizon, np.float32))
    return np.asarray(result, np.uint8)


def _mix_in(window: Bytes, share: npt.NDArray[np.float32], colour: npt.NDArray[np.float32]) -> None:
    """Blend a colour into (H, W, 3) pixels; share: (H, 1) or (H, W)."""
    part = window.astype(np.float32)
    part += (colour - part) * share[..., None]
    window[:] = part.astype(np.uint8)


def _thing_shadows(scene: Scene, canvas: PinholeCamera) -> list[npt.NDArray[np.int32]]:
    things, sun = scene.things, scene.sun
    places = np.array([[*thing.position_m, 0.0] for thing in things]).reshape(-1, 3)
    sizes = np.array([[thing.width_m, thing.height_m] for thing in things]).reshape(-1, 2)
    away = places[:, :2] - canvas.position_m[:2]
    distance = np.hypot(away[:, 0], away[:, 1])
    near = (distance <= 60) & (sizes[:, 1] <= 20)
    places, away, distance = places[near], away[near], distance[near, None]
    wide, tall = sizes[near, :1], sizes[near, 1:]
    aside = np.zeros_like(places)
    aside[:, :2] = away[:, ::-1] * (-1, 1) / np.maximum(distance, 1e-3) * wide * 0.4
    reach = np.zeros_like(places)
    reach[:, :2] = -np.array(sun[:2]) / max(sun[2], 0.1) * tall
    corners = [places - aside, places + aside, places + aside + reach, places - aside + reach]
    return _clip_project(np.stack(corners, axis=1), canvas)


def _draw_paint(base: Bytes, paint: Paint, canvas: PinholeCamera, first: int) -> None:
    seen = _clip_project(paint.points_m[None], canvas)
    if not seen:
        return
    polygon = seen[0] - (0, first * 16)
    low, high = polygon.min(0) // 16, polygon.max(0) // 16 + 2
    left, top = max(int(low[0]), 0), max(int(low[1]), 0)
    right, bottom = min(int(high[0]), base.shape[1]), min(int(high[1]), base.shape[0])
    if right <= left or bottom <= top:
        return
    window = base[top:bottom, left:right]
    over = window.copy()
    cv2.fillPoly(over, [polygon - (left * 16, top * 16)], paint.colour, cv2.LINE_AA, 4)
    cv2.addWeighted(over, paint.opacity, window, 1 - paint.opacity, 0, dst=window)
