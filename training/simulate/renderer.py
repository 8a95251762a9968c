"""From a scene and a camera to a picture and its labels: sky, ground, things, lens, own car."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from training.simulate.camera import Lens, PinholeCamera, make_lens
from training.simulate.cone import ConeView, paint_cone, shadow_points, view_cones
from training.simulate.labels import Label, find_labels
from training.simulate.scene import Paint, Scene, Thing
from training.simulate.scenery import Bytes, Library
from training.simulate.settings import SimulateSettings

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int16]

_FAR_M = 120.0
_STRIP = 32
"""Rows worked on at once where a float per pixel is needed: so few stay in the cache."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """image: (H, W, 3) BGR uint8. ids: (H, W) int16, 0 or 1 + index of the cone that is seen."""

    image: Bytes
    ids: Ids
    labels: list[Label]


def render(
    scene: Scene,
    camera: PinholeCamera,
    library: Library,
    settings: SimulateSettings,
    ego: Bytes | None = None,
    lens: Lens | None = None,
) -> Rendering:
    """Draw a scene. ego: BGRA picture of the own car, laid over the lower end."""
    lens = lens if lens is not None else make_lens(camera)
    canvas = replace(
        lens.canvas,
        position_m=camera.position_m,
        yaw_rad=camera.yaw_rad,
        pitch_rad=camera.pitch_rad,
        roll_rad=camera.roll_rad,
    )
    image = np.empty((canvas.height_px, canvas.width_px, 3), np.uint8)
    views = _cone_views(scene, canvas)
    line = _horizon(canvas)
    first = int(np.clip(math.floor(line.min()), 0, canvas.height_px))
    last = int(np.clip(math.ceil(line.max()) + 1, 0, canvas.height_px))
    _draw_sky(image[:last], scene, canvas, library)
    if first < canvas.height_px:
        ground = _draw_ground(scene, canvas, library, views, first)
        if last > first:
            below = np.arange(first, last)[:, None] > line[None]
            cv2.copyTo(ground[: last - first], below.astype(np.uint8), image[first:last])
        image[last:] = ground[last - first :]
    ids = np.zeros(image.shape[:2], np.int16)
    painted: list[tuple[int, ConeView, int]] = []
    queue: list[tuple[float, int, ConeView | _ThingView]] = [
        (view.depth_m, 1 + index, view) for index, view in views
    ]
    queue += [(thing.depth_m, 0, thing) for thing in _thing_views(scene, canvas)]
    queue.sort(key=lambda item: -item[0])
    for _, cone_id, item in queue:
        if isinstance(item, ConeView):
            pick = (cone_id * 7919 + int(item.cone.yaw_rad * 1000)) % 4096
            whole = paint_cone(image, ids, item, cone_id, library.grain, pick)
            if whole:
                painted.append((cone_id, item, whole))
        else:
            _draw_thing(image, ids, item, scene, library)
    if lens.map_a is not None and lens.map_b is not None:
        image = cv2.remap(
            image, lens.map_a, lens.map_b, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        ids = cv2.remap(ids, lens.map_a, None, cv2.INTER_NEAREST)
    if ego is not None:
        window = image[image.shape[0] - ego.shape[0] :]
        _overlay(window, ego)
        ids[ids.shape[0] - ego.shape[0] :] *= ego[..., 3] <= 127
    return Rendering(image, ids, find_labels(ids, painted, camera, canvas, settings))


def _overlay(window: Bytes, patch: Bytes) -> None:
    """Lay a BGRA patch over a part of the picture, in place."""
    cover = cv2.merge([cv2.extractChannel(patch, 3)] * 3)
    mixed = np.multiply(window, 255 - cover, dtype=np.uint16)
    mixed += np.multiply(cv2.cvtColor(patch, cv2.COLOR_BGRA2BGR), cover, dtype=np.uint16)
    mixed //= 255
    window[:] = mixed


def _cone_views(scene: Scene, canvas: PinholeCamera) -> list[tuple[int, ConeView]]:
    places = np.array([[*cone.position_m, 0.2] for cone in scene.cones]).reshape(-1, 3)
    pixels, depth = canvas.project(places)
    margin = 0.25 * canvas.width_px
    near = (depth < 3) & (depth > 0.2)
    inside = (pixels[:, 0] > -margin) & (pixels[:, 0] < canvas.width_px + margin)
    ahead = np.flatnonzero((depth > 0.3) & (depth < _FAR_M) & (inside | near)).tolist()
    views = view_cones(
        [scene.cones[index] for index in ahead],
        canvas,
        np.array(scene.sun),
        0.85 * scene.sunlight,
        1.05 * scene.skylight,
        scene.sky.horizon,
        scene.haze,
    )
    return [(index, view) for index, view in zip(ahead, views, strict=True) if view is not None]


def _horizon(canvas: PinholeCamera) -> npt.NDArray[np.float64]:
    """(W,) row of the horizon in each column."""
    row = canvas.rotation[:, 2]
    x = (np.arange(canvas.width_px) - canvas.cx_px) / canvas.fx_px
    down = row[1] if abs(row[1]) > 1e-6 else -1e-6
    y = -(row[0] * x + row[2]) / down
    return np.asarray(y * canvas.fy_px + canvas.cy_px, np.float64)


def _draw_sky(window: Bytes, scene: Scene, canvas: PinholeCamera, library: Library) -> None:
    height, width = window.shape[:2]
    if height == 0:
        return
    small = (max(width // 4, 1), max(height // 4, 1))
    down = canvas.rotation[:, 2]
    ys = (np.arange(small[1]) * 4 + 1.5 - canvas.cy_px) / canvas.fy_px
    up = np.clip((down[2] + ys * down[1]) / np.sqrt(1 + ys * ys), 0, 1)
    blend = (1 - np.exp(-4 * up))[:, None]
    gradient = (np.array(scene.sky.horizon) * (1 - blend) + np.array(scene.sky.zenith) * blend).T
    rotation = canvas.rotation
    plane = canvas.matrix @ np.column_stack(
        [rotation[:, 0], rotation[:, 1], rotation[:, 2] * 1500.0]
    )
    shrink = np.array([[0.25, 0, 0], [0, 0.25, 0], [0, 0, 1]])
    texel = np.array([[0.12, 0, scene.sky.wind_m[0]], [0, 0.12, scene.sky.wind_m[1]], [0, 0, 1]])
    matrix = texel @ np.linalg.inv(shrink @ plane)
    noise = cv2.warpPerspective(
        library.clouds,
        matrix,
        small,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_WRAP,
    ).astype(np.float32)
    share = np.clip((noise - 128) / 50 + 3 * scene.sky.cover - 1.2, 0, 1)
    share *= np.clip(up * 8, 0.15, 1)[:, None]
    cloud = np.array(scene.sky.cloud)[:, None, None] * (0.85 + 0.0012 * noise)
    sky = gradient[..., None] + share * (cloud - gradient[..., None])
    tiny = cv2.merge(list(np.clip(sky, 0, 255).astype(np.uint8)))
    window[:] = cv2.resize(tiny, (width, height), interpolation=cv2.INTER_LINEAR)


def _clip_project(points_m: Array, canvas: PinholeCamera) -> list[npt.NDArray[np.int32]]:
    """World polygons (N, K, 3) to pixels in 1/16, cut at 0.15 m ahead of the camera.

    Those behind it are left out.
    """
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


def _warp(texture: Bytes, canvas: PinholeCamera, tile_m: float, turn: float, first: int) -> Bytes:
    """A ground texture, tile_m wide, as the camera sees it from row `first` down."""
    texel = texture.shape[0] / tile_m
    c, s = math.cos(turn) * texel, math.sin(turn) * texel
    x, y = canvas.position_m[:2]
    # Work near the origin: far coordinates overflow the 16 bit of the fast warp.
    offset_x = (c * x - s * y) % texture.shape[0]
    offset_y = (s * x + c * y) % texture.shape[0]
    to_texture = np.array([[c, -s, offset_x], [s, c, offset_y], [0, 0, 1]])
    here = replace(canvas, position_m=(0.0, 0.0, canvas.position_m[2]))
    down = np.array([[1, 0, 0], [0, 1, first], [0, 0, 1]], np.float64)
    matrix = to_texture @ np.linalg.inv(here.ground_homography()) @ down
    size = (canvas.width_px, canvas.height_px - first)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpPerspective(texture, matrix, size, flags=flags, borderMode=cv2.BORDER_WRAP)
    return np.asarray(seen, np.uint8)


def _draw_ground(
    scene: Scene,
    canvas: PinholeCamera,
    library: Library,
    views: list[tuple[int, ConeView]],
    first: int,
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
    fine = _warp(library.fine[look.fine], canvas, look.fine_m, look.turn_rad, first)
    coarse = _warp(library.coarse[look.coarse], canvas, look.coarse_m, look.turn_rad + 0.7, first)
    direct = scene.sunlight * (0.35 + 0.65 * scene.sun[2])
    light = scene.skylight + direct
    dark = scene.skylight / max(light, 1e-3)
    shadow = np.full((height, width), 255, np.uint8)
    if look.shade < 256 and dark < 0.9:
        pattern = _warp(library.coarse[0], canvas, look.shade_m, look.turn_rad + 2.1, first)
        steps = np.clip((np.arange(256) - look.shade) / look.shade_soft + 0.5, 0, 1)
        shadow = cv2.LUT(pattern, (255 * (dark + (1 - dark) * steps)).astype(np.uint8))
    offset = (0, first * 16)
    near = [view for _, view in views if view.depth_m <= 45]
    if near:
        contact = np.stack([view.plate_m[0] for view in near])
        contact[..., :2] += 0.18 * (contact[..., :2] - contact[..., :2].mean(1, keepdims=True))
        contact[..., 2] = 0
        for polygon in _clip_project(contact, canvas):
            cv2.fillPoly(shadow, [polygon - offset], 190, cv2.LINE_AA, 4)
    if dark < 0.93:
        sun = np.array(scene.sun)
        shade = float(int(255 * dark))
        for polygon in _thing_shadows(scene.things, sun, canvas):
            cv2.fillPoly(shadow, [polygon - offset], shade, cv2.LINE_AA, 4)
        lit = [view for _, view in views if view.depth_m < 60 and view.cone.lit > 0]
        if lit:
            for polygon in _clip_project(shadow_points(lit, sun), canvas):
                hull = cv2.convexHull(polygon - offset)
                cv2.fillConvexPoly(shadow, hull, shade, cv2.LINE_AA, 4)
    shadow = cv2.blur(shadow, (3, 3))
    factor = np.empty((height, width), np.uint8)
    for top in range(0, height, _STRIP):
        rows = slice(top, top + _STRIP)
        grey = fine[rows].astype(np.float32)
        grey -= 128
        grey *= fine_weight.astype(np.float32)[rows, None]
        other = coarse[rows].astype(np.float32)
        other -= 128
        other *= coarse_weight.astype(np.float32)[rows, None]
        grey += other
        grey += 128
        grey *= shadow[rows]
        np.clip(grey, 0, 255 * 255, out=grey)
        cv2.convertScaleAbs(grey, factor[rows], alpha=1 / 255)
    result = cv2.multiply(base, cv2.merge([factor, factor, factor]), scale=light / 128)
    if look.wet > 0:
        # Puddles lie in the coarse pattern, and mirror more the flatter they are looked at.
        grazing = np.exp(-5 * np.minimum(fall, 1.0)).astype(np.float32)[:, None]
        pool = cv2.convertScaleAbs(coarse, alpha=4.0, beta=-420).astype(np.float32) / 255
        sky = np.array(scene.sky.horizon, np.float32) * min(light, 1.0)
        _mix_in(result, look.wet * grazing * (0.25 + 0.75 * pool), sky)
    if scene.haze > 0.02:
        share = (1 - np.exp(-scene.haze * distance / 100)).astype(np.float32)
        end = int(np.searchsorted(-share, -0.01))
        _mix_in(result[:end], share[:end, None], np.array(scene.sky.horizon, np.float32))
    return np.asarray(result, np.uint8)


def _mix_in(window: Bytes, share: npt.NDArray[np.float32], colour: npt.NDArray[np.float32]) -> None:
    """Blend a colour into (H, W, 3) pixels; share: (H, 1) or (H, W)."""
    flat = window.reshape(len(window), -1)
    wide = np.tile(colour, window.shape[1])
    for top in range(0, len(window), _STRIP):
        rows = slice(top, top + _STRIP)
        part = flat[rows].astype(np.float32)
        change = wide - part
        change *= share[rows] if share.shape[1] == 1 else np.repeat(share[rows], 3, axis=1)
        part += change
        flat[rows] = part.astype(np.uint8)


def _thing_shadows(
    things: Sequence[Thing], sun: Array, canvas: PinholeCamera
) -> list[npt.NDArray[np.int32]]:
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
    reach[:, :2] = -sun[:2] / max(float(sun[2]), 0.1) * tall
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


@dataclass(frozen=True, slots=True)
class _ThingView:
    """A thing as one camera sees it: (3, 2) pixels of its upper left, upper right, lower left."""

    thing: Thing
    depth_m: float
    corners_px: Array


def _thing_views(scene: Scene, canvas: PinholeCamera) -> list[_ThingView]:
    if not scene.things:
        return []
    places = np.array([[*thing.position_m, 0.0] for thing in scene.things])
    optical = canvas.to_optical(places)
    depths = optical[:, 2]
    half = np.array([thing.width_m / 2 + 0.1 * thing.height_m for thing in scene.things])
    edge = (max(canvas.cx_px, canvas.width_px - canvas.cx_px) + 2) / canvas.fx_px
    seen = (depths > 0.8) & (depths < 450) & (np.abs(optical[:, 0]) - half < edge * depths)
    things = [scene.things[k] for k in np.flatnonzero(seen)]
    wide = np.array([[thing.width_m] for thing in things]).reshape(-1, 1)
    up = np.array([[0.0, 0.0, thing.height_m] for thing in things]).reshape(-1, 3)
    aside = canvas.rotation[0] * (1.0, 1.0, 0.0) * wide / 2
    left, right = places[seen] - aside, places[seen] + aside
    corners, _ = canvas.project(np.stack([left + up, right + up, left], axis=1))
    return [
        _ThingView(thing, depth, corner)
        for thing, depth, corner in zip(things, depths[seen].tolist(), corners, strict=True)
    ]


def _draw_thing(image: Bytes, ids: Ids, view: _ThingView, scene: Scene, library: Library) -> None:
    thing, corners = view.thing, view.corners_px
    upper_left, upper_right, lower_left = corners
    tall = float(lower_left[1] - upper_left[1])
    wide = float(upper_right[0] - upper_left[0])
    if tall < 1.5 or wide < 1.0:
        return
    every = np.vstack([corners, upper_right + lower_left - upper_left])
    (x0, y0), (x1, y1) = np.floor(every.min(0)).tolist(), np.ceil(every.max(0)).tolist()
    left, right = max(int(x0), 0), min(int(x1) + 1, image.shape[1])
    upper, lower = max(int(y0), 0), min(int(y1) + 1, image.shape[0])
    if right <= left or lower <= upper:
        return
    for sprite in library.sprites[thing.name][thing.index]:
        if sprite.shape[0] <= 2.2 * tall or sprite.shape[1] <= 2.2 * wide:
            break
    if thing.mirrored:
        sprite = np.asarray(cv2.flip(sprite, 1), np.uint8)
    high, broad = sprite.shape[:2]
    sx = broad / wide
    source = np.array([[0, 0], [broad, 0], [0, high]], np.float32) - 0.5
    target = (corners - (left, upper)).astype(np.float32)
    matrix = cv2.getAffineTransform(target, source)
    patch = cv2.warpAffine(
        sprite,
        matrix,
        (right - left, lower - upper),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )
    if sx < 0.7:
        # Too few pixels for this size: grain keeps near things from looking smooth.
        grain = library.fine[1]
        fit = (min(patch.shape[0], grain.shape[0]), min(patch.shape[1], grain.shape[1]))
        piece = cv2.convertScaleAbs(grain[: fit[0], : fit[1]], alpha=0.4, beta=77)
        if fit != patch.shape[:2]:
            piece = cv2.resize(piece, patch.shape[1::-1])
        rough = cv2.merge([piece, piece, piece, np.full_like(piece, 128)])
        patch = cv2.multiply(patch, rough, scale=1 / 128)
    share = 1 - math.exp(-scene.haze * view.depth_m / 100)
    level = min(scene.skylight + 0.6 * scene.sunlight, 1.2)
    gain = np.array(thing.gain) * level * (1 - share)
    matrix_colour = np.zeros((4, 5), np.float32)
    matrix_colour[:3, :3] = np.diag(gain)
    matrix_colour[:3, 4] = share * np.array(scene.sky.horizon)
    matrix_colour[3, 3] = 1
    patch = cv2.transform(patch, matrix_colour)
    cover = cv2.extractChannel(patch, 3)
    window = image[upper:lower, left:right]
    if cover.min() > 250:
        window[:] = cv2.cvtColor(patch, cv2.COLOR_BGRA2BGR)
    else:
        _overlay(window, patch)
    ids[upper:lower, left:right] *= cover <= 127
