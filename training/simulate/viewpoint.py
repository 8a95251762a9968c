"""Where a data set's camera stands in its scene, and which lens it has."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from cone_perception.classes import LARGE_ORANGE
from training.simulate.camera import PinholeCamera, load_camera
from training.simulate.scene import Scene, SimulateSettings

Pose = tuple[float, float, float]
"""x and y in metres, heading in radians."""


def make_camera(
    rng: np.random.Generator, settings: SimulateSettings, scene: Scene
) -> PinholeCamera:
    """A camera somewhere on the track of the scene, looking along it, or at one of its cones.

    With settings.vary_camera every camera differs: 0.25 to 2 m high, 45 to 118 degrees wide, level
    or held by hand, looking ahead or down.
    """
    width, height = settings.width_px, settings.height_px
    x, y, heading = _along_track(rng, scene)
    if not settings.vary_camera:
        camera = load_camera().resized(width)
        return replace(camera, position_m=(x, y, camera.position_m[2]), yaw_rad=heading)
    fov = math.radians(float(np.clip(rng.normal(80, 17), 45, 115)))
    longer = max(width, height)  # a portrait picture is the same camera, turned
    focal = longer / 2 / math.tan(fov / 2)
    # Up to 4 / (27 r^2) a lens of k1 alone shows every place once; r: the corner's radius.
    corner = ((width / 2) ** 2 + (height / 2) ** 2) / focal**2
    barrel = min(0.2, 0.08 / corner)
    k1, k2 = rng.uniform(-barrel, 0.2 * barrel) if rng.random() < 0.6 else 0.0, 0.0
    wide = rng.random() < 0.13
    if wide:
        focal, k1, k2 = _wide_lens(rng, longer)
    up = float(rng.choice([rng.uniform(0.55, 1.35), rng.uniform(0.25, 0.6), rng.uniform(1.2, 2.0)],
                          p=[0.7, 0.13, 0.17]))  # fmt: skip
    place = rng.uniform(0.02, 0.2) if rng.random() < 0.22 else rng.uniform(0.18, 0.6)
    pitch = math.atan((0.5 - place) * height / focal)
    roll = rng.normal(0, 0.025)
    if rng.random() < (0.5 if wide else 0.09):
        # Down at the cones: near ones lean at the edges of the picture.
        pitch = math.radians(rng.uniform(14, 32))
    if rng.random() < 0.13:  # held by hand
        roll = math.radians(rng.uniform(-12, 12))
    centre_x = width / 2 + rng.normal(0, 0.01) * width
    centre_y = height / 2 + rng.normal(0, 0.01) * height
    camera = PinholeCamera(
        *(width, height, focal, focal * rng.uniform(0.98, 1.02), centre_x, centre_y),
        distortion=(k1, k2, 0.0, 0.0, 0.0),
        position_m=(x, y, up),
        yaw_rad=heading,
        pitch_rad=pitch,
        roll_rad=roll,
    )
    aim = rng.random()
    return _before_cone(rng, scene, camera, aim < 0.18) if aim < 0.4 and scene.cones else camera


def _along_track(rng: np.random.Generator, scene: Scene) -> Pose:
    track = scene.track
    if track.width_m == 4.0 and len(track.centre_m) == 80 and len(track.cones_m):  # a group
        return rng.normal(0, 0.3), rng.normal(0, 0.3), rng.normal(0, 0.12)
    at = int(rng.integers(0, len(track.centre_m)))
    if not track.closed:
        at = int(rng.uniform(0, 0.75) * len(track.centre_m))
    elif rng.random() < 0.35:
        # The start line with its large cones would be a rare sight otherwise.
        at = -int(rng.uniform(8, 100))
    heading = float(track.heading_rad[at]) + rng.normal(0, 0.12)
    left = rng.normal(0, 0.4)
    if rng.random() < 0.15:
        left += rng.uniform(-4, 4)
        heading += rng.normal(0, 0.5)
    x, y = track.centre_m[at] + left * np.array([-math.sin(heading), math.cos(heading)])
    return float(x), float(y), heading


def _wide_lens(rng: np.random.Generator, width_px: int) -> tuple[float, float, float]:
    """Focal length in px, k1 and k2 of a lens 98 to 118 degrees wide with a strong barrel.

    With k2 = 0.75 k1^2 a place farther out always lies farther out in the picture.
    """
    edge = math.tan(math.radians(rng.uniform(98, 118)) / 2)
    bend = rng.uniform(0.0, 0.25)
    k1, k2 = -bend / edge**2, 0.75 * bend**2 / edge**4
    return width_px / 2 / (edge * (1 - bend + 0.75 * bend**2)), k1, k2


def _before_cone(
    rng: np.random.Generator, scene: Scene, camera: PinholeCamera, large: bool
) -> PinholeCamera:
    """The camera moved to where it sees a cone: a large one from 6 to 20 m, or any from nearby.

    Many of the near ones are cut by a side or the lower edge of the picture.
    """
    chosen = [cone for cone in scene.cones if cone.shape == LARGE_ORANGE] if large else []
    cone = (chosen or scene.cones)[int(rng.integers(0, len(chosen or scene.cones)))]
    edge = camera.width_px / 2 / camera.fx_px
    down = camera.pitch_rad + math.atan(camera.height_px / 2 / camera.fy_px)
    distance, aside = rng.uniform(0.8, 3.5), rng.uniform(-0.95, 0.95)
    cut = rng.random()
    if chosen:
        distance = rng.uniform(6, 20)
    elif cut < 0.3:
        aside = float(rng.choice([-1, 1])) * rng.uniform(0.92, 1.06)
    elif cut < 0.65 and down > 0.15:
        # Where the lower edge meets the ground, a cone's foot is cut.
        distance = max(camera.position_m[2] / math.tan(down) * rng.uniform(0.7, 1.0), 0.5)
    yaw = camera.yaw_rad + rng.normal(0, 0.3)
    turn = yaw + math.atan(edge * aside)
    away = distance / math.cos(turn - yaw)
    x, y = cone.position_m
    place_m = (x - away * math.cos(turn), y - away * math.sin(turn), camera.position_m[2])
    return replace(camera, position_m=place_m, yaw_rad=yaw)
