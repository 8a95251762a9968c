"""From a scene and a camera to a picture: sky, ground, things, lens, own car; and its labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy import ndimage

from cone_perception.classes import UNKNOWN
from training.simulate.camera import Lens, PinholeCamera, make_lens
from training.simulate.cone_view import ConeView, Ids, hull_area, paint_cone, view_cones
from training.simulate.ground import draw_ground, warp
from training.simulate.rig.shutter import Shutter
from training.simulate.scene import Scene, SimulateSettings, Thing
from training.simulate.scenery.library import Library
from training.simulate.scenery.sketch import Array, Bytes


@dataclass(frozen=True, slots=True)
class Label:
    """One visible cone. xyxy_px: left, top, right, bottom, edges of pixels, whole picture is
    0, 0, width, height. visible: fraction of its pixels in view. depth_m: of the middle of the
    cone, along the optical axis. cone: its index in the scene, the same in every picture of it.
    foot_m: (x, y, z) in the world of the ground below the middle of its base plate.
    """

    class_id: int
    xyxy_px: tuple[float, float, float, float]
    visible: float
    depth_m: float
    cone: int
    foot_m: tuple[float, float, float]


def find_labels(
    ids: Ids,
    views: list[tuple[ConeView, int]],
    camera: PinholeCamera,
    canvas: PinholeCamera,
    settings: SimulateSettings,
    shutter: Shutter | None = None,
) -> list[Label]:
    """Labels from the ids of the finished picture.

    views: for each cone its view in the canvas, and the pixels of it without occlusion.
    A side of a box that nothing hides is taken from geometry, to a fraction of a pixel; any other
    from the pixels that show the cone.
    """
    height, width = ids.shape
    scale = width / 1280
    if not views:
        return []
    points = np.concatenate([view.outline_px for view, _ in views])
    flat = (points - (canvas.cx_px, canvas.cy_px)) / (canvas.fx_px, canvas.fy_px)
    if shutter:
        depths_m = np.repeat([v.depth_m for v, _ in views], [len(v.outline_px) for v, _ in views])
        flat = shutter.seen(flat, depths_m, camera)
    through_lens = camera.distort(flat)
    ends = np.cumsum([len(view.outline_px) for view, _ in views])
    shown = ndimage.find_objects(ids)
    labels = []
    for (view, whole), seen in zip(views, np.split(through_lens, ends[:-1]), strict=True):
        place = shown[view.cone_id - 1] if view.cone_id <= len(shown) else None
        if place is None:
            continue
        low, high = (seen.min(0) + 0.5).tolist(), (seen.max(0) + 0.5).tolist()
        rows, columns = place
        count = int(np.count_nonzero(ids[place] == view.cone_id))
        grown = hull_area(seen) / max(hull_area(view.outline_px), 1e-6)
        visible = min(count / max(whole * grown, 1e-6), 1.0)
        slack = max(1.25, 0.12 * (high[1] - low[1]) if high[1] - low[1] < 24 else 1.25)
        pixels = np.array([columns.start, rows.start, columns.stop, rows.stop], np.float64)
        edges = np.clip([*low, *high], 0, (width, height, width, height))
        x0, y0, x1, y1 = np.where(np.abs(edges - pixels) <= slack, edges, pixels).tolist()
        tall = y1 - y0
        if visible < settings.min_visible or tall < settings.min_height_px * scale:
            continue
        if x1 - x0 < 0.4 * settings.min_height_px * scale:
            continue
        # Of one that lies with its foot to the camera nobody could tell the colour.
        bare = view.cone.lift_m > 0 and view.toward < -0.8
        class_id = UNKNOWN if bare else view.cone.class_id
        about = (view.cone_id - 1, (*view.cone.position_m, 0.0))
        labels.append(Label(class_id, (x0, y0, x1, y1), visible, view.depth_m, *about))
    return labels


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
    shutter: Shutter | None = None,
) -> Rendering:
    """Draw a scene. ego: BGRA picture of the own car, laid over the lower end.

    shutter: how the camera moves while it reads the rows; None: it reads them all at once.
    """
    lens = lens or make_lens(camera)
    fx_px, fy_px = lens.focal_px
    canvas = replace(camera, fx_px=fx_px, fy_px=fy_px, distortion=(0.0, 0.0, 0.0, 0.0, 0.0))
    image = np.empty((canvas.height_px, canvas.width_px, 3), np.uint8)
    views = view_cones(scene, canvas)
    line = _horizon(canvas)
    first = int(np.clip(math.floor(line.min()), 0, canvas.height_px))
    last = int(np.clip(math.ceil(line.max()) + 1, 0, canvas.height_px))
    _draw_sky(image[:last], scene, canvas, library)
    if first < canvas.height_px:
        ground = draw_ground(scene, canvas, library, views, first)
        if last > first:
            below = np.arange(first, last)[:, None] > line[None]
            cv2.copyTo(ground[: last - first], below.astype(np.uint8), image[first:last])
        image[last:] = ground[last - first :]
    ids = np.zeros(image.shape[:2], np.int16)
    painted: list[tuple[ConeView, int]] = []
    queue: list[ConeView | _ThingView] = [*views, *_thing_views(scene, canvas)]
    for view in sorted(queue, key=lambda view: -view.depth_m):
        if isinstance(view, _ThingView):
            _draw_thing(image, ids, view, scene, library)
        elif whole := paint_cone(image, ids, view, library.grain):
            painted.append((view, whole))
    if shutter:
        still = cv2.remap(ids, lens.maps[0], None, cv2.INTER_NEAREST) if lens.maps else ids
        depths_m = np.ones(len(scene.cones) + 1)
        depths_m[[view.cone_id for view in views]] = [view.depth_m for view in views]
        places = shutter.sources(lens, still, depths_m, camera)
        image = cv2.remap(image, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        ids = cv2.remap(ids, places, None, cv2.INTER_NEAREST)
    elif lens.maps:
        image = cv2.remap(image, *lens.maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        ids = cv2.remap(ids, lens.maps[0], None, cv2.INTER_NEAREST)
    if ego is not None:
        window = image[image.shape[0] - ego.shape[0] :]
        _overlay(window, ego)
        ids[ids.shape[0] - ego.shape[0] :] *= ego[..., 3] <= 127
    return Rendering(image, ids, find_labels(ids, painted, camera, canvas, settings, shutter))


def _overlay(window: Bytes, patch: Bytes) -> None:
    """Lay a BGRA patch over a part of the picture, in place."""
    cover = cv2.merge([cv2.extractChannel(patch, 3)] * 3)
    behind = np.multiply(window, 255 - cover, dtype=np.uint16)
    before = np.multiply(cv2.cvtColor(patch, cv2.COLOR_BGRA2BGR), cover, dtype=np.uint16)
    window[:] = (behind + before) // 255


def _horizon(canvas: PinholeCamera) -> Array:
    """(W,) row of the horizon in each column."""
    right, down, forward = canvas.rotation[:, 2]
    x = (np.arange(canvas.width_px) - canvas.cx_px) / canvas.fx_px
    y = -(right * x + forward) / (down if abs(down) > 1e-6 else -1e-6)
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
    gradient = (np.array(scene.horizon) * (1 - blend) + np.array(scene.zenith) * blend).T
    plane = canvas.matrix @ (canvas.rotation * (1.0, 1.0, 1500.0))
    shrink = np.array([[0.25, 0, 0], [0, 0.25, 0], [0, 0, 1]])
    texel = np.array([[0.12, 0, scene.wind_m[0]], [0, 0.12, scene.wind_m[1]], [0, 0, 1]])
    matrix = texel @ np.linalg.inv(shrink @ plane)
    noise = warp(library.clouds, matrix, small).astype(np.float32)
    share = np.clip((noise - 128) / 50 + 3 * scene.cover - 1.2, 0, 1)
    share *= np.clip(up * 8, 0.15, 1)[:, None]
    cloud = np.array(scene.cloud)[:, None, None] * (0.85 + 0.0012 * noise)
    sky = gradient[..., None] + share * (cloud - gradient[..., None])
    tiny = cv2.merge(list(np.clip(sky, 0, 255).astype(np.uint8)))
    window[:] = cv2.resize(tiny, (width, height), interpolation=cv2.INTER_LINEAR)


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
    source = np.array([[0, 0], [broad, 0], [0, high]], np.float32) - 0.5
    target = (corners - (left, upper)).astype(np.float32)
    matrix = cv2.getAffineTransform(target, source)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(sprite, matrix, (right - left, lower - upper), flags=flags)
    if broad / wide < 0.7:
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
    matrix_colour[:3, 4] = share * np.array(scene.horizon)
    matrix_colour[3, 3] = 1
    patch = cv2.transform(patch, matrix_colour)
    cover = cv2.extractChannel(patch, 3)
    window = image[upper:lower, left:right]
    if cover.min() > 250:
        window[:] = cv2.cvtColor(patch, cv2.COLOR_BGRA2BGR)
    else:
        _overlay(window, patch)
    ids[upper:lower, left:right] *= cover <= 127
