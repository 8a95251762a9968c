"""Cones as a camera sees them, and how they are painted into the picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from cone_perception.classes import LARGE_ORANGE
from training.simulate.camera import PinholeCamera
from training.simulate.cone import Cone, Make, Stripes
from training.simulate.scene import Scene
from training.simulate.scenery.sketch import Array, Bytes

Ids = npt.NDArray[np.int16]
"""0, or the id of the cone that a pixel shows."""

_RING = 14
_SHADES = 64
_PLATE_SIDE, _PLATE_TOP, _BODY = 1, 2, 3
_TURNS = np.arange(_RING) * 2 * math.pi / _RING
_CIRCLE = np.stack([np.cos(_TURNS), np.sin(_TURNS)], axis=1)
# A square with cut corners, in half widths: its sides, and what is added times Make.corner.
_SIDES = np.array([[1, 0], [0, 1], [0, 1], [-1, 0], [-1, 0], [0, -1], [0, -1], [1, 0]])
_CORNERS = np.array([[0, 1], [1, 0], [-1, 0], [0, 1], [0, -1], [-1, 0], [1, 0], [0, -1]])
# Places across a cone, from its left edge to its right one, and how far they stand out.
_ACROSS = np.linspace(-1, 1, _SHADES)[:, None]
_FORTH = np.sqrt(np.maximum(1 - _ACROSS * _ACROSS, 0))


@lru_cache(maxsize=32)
def _sections(large: bool, make: Make, stripes: Stripes) -> tuple[Array, Array, list[bool]]:
    """Heights (fractions), radii (m) of the rings, and for each slice whether it is a stripe."""
    foot, top = (0.105, 0.030) if large else (0.083, 0.025)
    foot, top = foot * make.foot, top * make.tip
    start = 0.05 if large else 0.075

    def radius(s: float) -> float:
        return foot + (top - foot) * (s - 0.13) / 0.85

    heights, radii, marks = [start, 0.13], [foot * 1.16, foot], [False]
    for low, high in stripes:
        heights += [low, high]
        radii += [radius(low), radius(high)]
        marks += [False, True]
    heights += [0.98, 1.0]
    radii += [radius(0.98), top * 0.75]
    marks += [False, False]
    return np.array(heights), np.array(radii), marks


@dataclass(frozen=True, slots=True)
class ConeView:
    """A cone as one camera sees it, before the lens.

    cone_id: 1 + its index in the scene. plate_m: (2, 8, 3) world points of the base plate's lower
    and upper face. rings_m: (R, 14, 3), from base to tip. outline_px: (R * 14 + 16, 2) all in
    pixels. xyxy_px: the box around them. depth_m: distance along the optical axis. toward: cosine
    between axis and view, positive when the tip points at the camera.
    colours: (parts * 64, 4) uint8 BGR and cover, by part and by place across the cone.
    """

    cone_id: int
    cone: Cone
    rings_m: Array
    plate_m: Array
    outline_px: Array
    xyxy_px: tuple[float, float, float, float]
    toward: float
    depth_m: float
    colours: Bytes


def _dot(a: Array, b: Array) -> Array:
    """Dot products of (..., 3) vectors, (..., 1)."""
    return np.asarray((a[..., None, :] @ b[..., :, None])[..., 0])


def cone_points(cones: Sequence[Cone]) -> tuple[Array, Array, list[bool]]:
    """World points of N cones with the same number of stripes.

    Rings (N, R, 14, 3), base plates (N, 2, 8, 3), and the stripe marks of the R - 1 slices.
    """
    axis = np.array([cone.axis for cone in cones])
    lift = np.array([[cone.lift_m] for cone in cones])
    height = np.array([[cone.height_m] for cone in cones])
    side = np.cross(axis, np.where(np.abs(axis[:, :1]) < 0.8, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)))
    side /= np.sqrt(_dot(side, side))
    other = np.cross(axis, side)
    # A lying cone rests on an edge of its plate.
    yaws = [0.0 if cone.lift_m > 0 else cone.yaw_rad for cone in cones]
    c, s = (np.array([[turn(yaw)] for yaw in yaws]) for turn in (math.cos, math.sin))
    plane = np.stack([c * side + s * other, c * other - s * side], axis=1)
    base = np.column_stack([np.array([cone.position_m for cone in cones]), lift])[:, None, None]
    sections = [_sections(cone.shape == LARGE_ORANGE, cone.make, cone.stripes) for cone in cones]
    heights = np.array([heights for heights, _, _ in sections]) * height
    radii = np.array([radii for _, radii, _ in sections])
    rings = base + heights[..., None, None] * axis[:, None, None]
    rings = rings + radii[..., None, None] * (_CIRCLE @ plane)[:, None]
    half_plate = np.array([[cone.half_plate_m] for cone in cones])
    corner = np.array([[[cone.make.corner]] for cone in cones])
    square = half_plate[..., None] * ((_SIDES + corner * _CORNERS) @ plane)
    thick = (np.array([[cone.thick_m] for cone in cones]) * axis)[:, None]
    return rings, base + np.stack([square, 0.96 * square + thick], axis=1), sections[0][2]


def view_cones(scene: Scene, canvas: PinholeCamera) -> list[ConeView]:
    """The cones of a scene that are ahead of a camera without a lens and in its picture."""
    places = np.array([[*cone.position_m, 0.2] for cone in scene.cones]).reshape(-1, 3)
    pixels, depth = canvas.project(places)
    margin = 0.25 * canvas.width_px
    near = (depth < 3) & (depth > 0.2)
    inside = (pixels[:, 0] > -margin) & (pixels[:, 0] < canvas.width_px + margin)
    found = np.flatnonzero((depth > 0.3) & (depth < 120) & (inside | near)).tolist()
    views: list[ConeView] = []
    # Cones of one shape have the same number of points, and are looked at together.
    for stripes in {len(scene.cones[k].stripes) for k in found}:
        alike = [k for k in found if len(scene.cones[k].stripes) == stripes]
        views += _view_alike(alike, scene, canvas)
    return sorted(views, key=lambda view: view.cone_id)


def _view_alike(indices: list[int], scene: Scene, camera: PinholeCamera) -> Iterator[ConeView]:
    """Those of the scene's cones that are ahead; all have the same number of stripes."""
    cones = [scene.cones[k] for k in indices]
    sun, haze = np.array(scene.sun), scene.haze
    sunlight, skylight = 0.85 * scene.sunlight, 1.05 * scene.skylight
    horizon = np.array(scene.horizon, np.float32)
    rings, plates, marks = cone_points(cones)
    rings_px, depth = camera.project(rings)
    plates_px, plate_depth = camera.project(plates)
    parts_px = [points.reshape(len(cones), -1, 2) for points in (rings_px, plates_px)]
    outlines = np.concatenate(parts_px, axis=1)
    boxes = np.concatenate([outlines.min(1), outlines.max(1)], axis=1).tolist()
    ahead = (depth.min((1, 2)) >= 0.2) & (plate_depth.min((1, 2)) >= 0.2)
    # Below, each array has a row for every cone.
    axis = np.array([cone.axis for cone in cones])
    lift = np.array([[cone.lift_m] for cone in cones])
    height = np.array([[cone.height_m] for cone in cones])
    middle = np.column_stack([np.array([cone.position_m for cone in cones]), lift])
    middle += 0.5 * height * axis
    view = np.array(camera.position_m) - middle
    view /= np.sqrt(_dot(view, view))
    side = np.cross(axis, view)
    side /= np.maximum(np.sqrt(_dot(side, side)), 1e-6)
    front = np.cross(side, axis)
    normal = _ACROSS * side[:, None] + _FORTH * front[:, None]
    normal += 0.2 * axis[:, None]
    normal /= np.sqrt((normal * normal).sum(2, keepdims=True))
    direct = sunlight * np.array([[cone.lit] for cone in cones])
    # The lit ground throws light back at the cone, and thin plastic lets some through.
    around = skylight * (0.85 + 0.15 * normal[..., 2]) + 0.3 * direct
    light = around + 0.8 * direct * np.maximum(normal @ sun, 0)
    half = sun + view
    half /= np.sqrt(_dot(half, half))
    gloss = np.array([[cone.gloss] for cone in cones])
    shine = 255 * gloss * direct * np.maximum((normal @ half[..., None])[..., 0], 0) ** 24
    flat = skylight + direct * np.maximum(_dot(axis, sun), 0)
    wall = skylight * 0.75 + direct * (0.2 + 0.5 * np.maximum(_dot(view[:, :2], sun[:2]), 0))
    flat = np.where(lift > 0, 0.5 * (flat + skylight), flat)
    wall = np.where(lift > 0, 0.8 * skylight, wall)
    body = np.array([cone.body for cone in cones])[:, None]
    stripe = np.array([cone.stripe for cone in cones])[:, None]
    plate = np.array([cone.plate for cone in cones])
    sight = camera.to_optical(middle[:, None])[:, 0]
    optical_axis = (camera.rotation @ axis[..., None])[..., 0]
    toward = -_dot(optical_axis, sight) / np.maximum(np.sqrt(_dot(sight, sight)), 1e-6)
    # Side and top of the plate, body, stripe, and the tip: what is looked into from above.
    looks = np.empty((len(cones), 5, _SHADES, 4))
    looks[:, 0, :, :3] = (plate * wall)[:, None]
    looks[:, 1, :, :3] = (plate * flat)[:, None]
    looks[:, 2, :, :3] = light[..., None] * body + shine[..., None]
    looks[:, 3, :, :3] = light[..., None] * stripe + 0.6 * shine[..., None]
    looks[:, 4, :, :3] = looks[:, 2, :, :3] * 0.85
    looks[..., 3] = 255
    tables = np.clip(looks, 1, 255).astype(np.uint8)
    share = np.array([1 - math.exp(-haze * far / 100) for far in sight[:, 2].tolist()], np.float32)
    hazy = share > 0.01
    colours = tables[hazy, ..., :3].astype(np.float32)
    colours += share[hazy, None, None, None] * (horizon - colours)
    tables[hazy, ..., :3] = colours.astype(np.uint8)
    parts = [0, 1, *(3 if mark else 2 for mark in marks), 4]
    nothing = np.zeros((len(cones), 1, _SHADES, 4), np.uint8)
    tables = np.concatenate([nothing, tables[:, parts]], axis=1).reshape(len(cones), -1, 4)
    for k in np.flatnonzero(ahead).tolist():
        points = (rings[k], plates[k], outlines[k], tuple(boxes[k]))
        facing = float(toward[k, 0])
        yield ConeView(1 + indices[k], cones[k], *points, facing, float(sight[k, 2]), tables[k])


def paint_cone(image: Bytes, ids: Ids, view: ConeView, grain: Bytes) -> int:
    """Paint a cone over the picture, anti-aliased, and its id where it covers half a pixel.

    grain: uint8 noise around 128 for dirt.
    Returns the number of pixels that it would cover were nothing in front and no border.
    """
    outline = view.outline_px
    x0, y0, x1, y1 = view.xyxy_px
    full_left, full_top = math.floor(x0 + 0.5) - 1, math.floor(y0 + 0.5) - 1
    full_right, full_bottom = math.ceil(x1 + 0.5) + 1, math.ceil(y1 + 0.5) + 1
    left, top = max(full_left, 0), max(full_top, 0)
    right, bottom = min(full_right, image.shape[1]), min(full_bottom, image.shape[0])
    size = max(x1 - x0, y1 - y0)
    if right - left < 1 or bottom - top < 1:
        return 0
    scale = 4 if size < 24 else 3 if size < 60 else 2 if size < 400 else 1
    shape = ((bottom - top) * scale, (right - left) * scale)
    part = np.zeros(shape, np.uint8)
    # Pixel centres lie at whole numbers; a fine pixel's centre at (i + 0.5) / scale - 0.5.
    shifted = ((outline - (left - 0.5, top - 0.5)) * scale - 0.5) * 16
    fine = np.round(shifted).astype(np.int32)
    rings, plate = fine[:-16].reshape(-1, _RING, 2), fine[-16:]
    slices = list(range(len(rings) - 1))

    def fill(points: npt.NDArray[np.int32], value: int) -> None:
        cv2.fillConvexPoly(part, cv2.convexHull(points), value, cv2.LINE_8, 4)

    def paint_plate() -> None:
        fill(plate, _PLATE_SIDE)
        if view.toward > 0:
            fill(plate[8:], _PLATE_TOP)

    if view.toward >= 0:
        paint_plate()
    for k in slices if view.toward >= 0 else slices[::-1]:
        fill(rings[k : k + 2].reshape(-1, 2), _BODY + k)
    if view.toward > 0:
        fill(rings[-1], _BODY + len(slices))
    else:
        paint_plate()
    base, tip = rings[0].sum(0) / _RING / 16, rings[-1].sum(0) / _RING / 16
    along = tip - base
    length = max(float(np.hypot(*along)), 0.5)
    along /= length
    aside = np.array([-along[1], along[0]])
    widths = [rings[k] @ aside for k in (0, -2)]
    foot, end = (0.5 * (width.max() - width.min()) / 16 for width in widths)
    xs, ys = np.arange(shape[1]) - base[0], np.arange(shape[0]) - base[1]
    place = aside[0] * xs + (along[0] * ys)[:, None]
    local = along[0] * xs + (along[1] * ys)[:, None]
    radius = np.clip(local / length, 0, 1) * (end - foot) + foot
    across = np.clip(place / (radius + 0.5) * 31.5 + 32, 0, _SHADES - 1)
    index = across.astype(np.intp) + np.multiply(part, _SHADES, dtype=np.intp)
    colour = view.colours.view(np.uint32)[:, 0].take(index).view(np.uint8).reshape(*shape, 4)
    if size > 14:
        reach = max(shape)
        step = grain.shape[0] // 4
        pick = (view.cone_id * 7919 + int(view.cone.yaw_rad * 1000)) % 4096
        offset = pick % (grain.shape[0] - step)
        zoom = grain[offset : offset + step, offset : offset + step]
        zoom = cv2.convertScaleAbs(zoom, alpha=view.cone.dirt, beta=128 * (1 - view.cone.dirt))
        dirt = cv2.resize(zoom, (reach, reach))[: shape[0], : shape[1]]
        clean = np.full(shape, 128, np.uint8)
        colour = cv2.multiply(colour, cv2.merge([dirt, dirt, dirt, clean]), scale=1 / 128)
    if scale > 1:
        target = (right - left, bottom - top)
        colour = cv2.resize(colour, target, interpolation=cv2.INTER_AREA)
    cover = cv2.extractChannel(colour, 3)
    window = image[top:bottom, left:right]
    behind = np.multiply(window, 255 - cv2.merge([cover, cover, cover]), dtype=np.uint16)
    mixed = (behind + 127) // 255 + cv2.cvtColor(colour, cv2.COLOR_BGRA2BGR)
    window[:] = np.minimum(mixed, 255)
    solid = cover >= 120
    ids[top:bottom, left:right][solid] = view.cone_id
    count = int(np.count_nonzero(solid))
    whole = (full_right - full_left) * (full_bottom - full_top)
    return (
        max(count, round(hull_area(outline))) if (right - left) * (bottom - top) < whole else count
    )


def hull_area(points_px: Array) -> float:
    """Area of the convex hull around (N, 2) points."""
    return float(cv2.contourArea(cv2.convexHull(points_px.astype(np.float32))))


def shadow_points(views: Sequence[ConeView], sun: Array) -> Array:
    """(len(views), N, 3) points on the ground around each cone's shadow; sun: unit vector to it."""
    rings = np.stack([view.rings_m[[0, -2, -1]] for view in views])
    plates = np.stack([view.plate_m for view in views])
    parts = [points.reshape(len(views), -1, 3) for points in (rings, plates)]
    points = np.concatenate(parts, axis=1)
    points = points - points[..., 2:] / max(float(sun[2]), 0.08) * sun
    points[..., 2] = 0
    return np.asarray(points, np.float64)
