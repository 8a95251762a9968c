"""Chosen cones at chosen places on empty ground, seen by both eyes: for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cone_perception.classes import BLUE, LARGE_ORANGE, YELLOW
from training.simulate.bag import START_NS, DriveFrame
from training.simulate.camera import PinholeCamera, load_camera
from training.simulate.cone import Cone
from training.simulate.photo import Photo, apply_photo
from training.simulate.renderer import render
from training.simulate.rig.eyes import EYES, calibration, make_eyes
from training.simulate.scene import Scene, SimulateSettings, make_scene
from training.simulate.scenery.library import Library
from training.simulate.scenery.sketch import Colour

BODIES: dict[int, Colour] = {BLUE: (200.0, 90.0, 20.0), YELLOW: (30.0, 200.0, 240.0)}
ORANGE_BODY: Colour = (20.0, 90.0, 240.0)

Spot = tuple[float, float, int]
"""x and y in metres, class of the cone."""


def standing_cone(x_m: float, y_m: float, shape: int = BLUE) -> Cone:
    """A clean cone of Formula Student's size with one stripe; a large one has two."""
    body = BODIES.get(shape, ORANGE_BODY)
    light = 30.0 if shape == YELLOW else 240.0
    return Cone(
        position_m=(x_m, y_m),
        yaw_rad=0.3,
        axis=(0.0, 0.0, 1.0),
        lift_m=0.0,
        class_id=shape,
        shape=shape,
        body=body,
        stripe=(light, light, light),
        plate=body,
        stripes=((0.27, 0.43), (0.59, 0.75)) if shape == LARGE_ORANGE else ((0.4, 0.65),),
    )


def fence(distance_m: float, spacing_m: float, count: int, shape: int = BLUE) -> list[Spot]:
    """Equal cones in a row across the view, its middle straight ahead; left first."""
    aside = spacing_m * ((count - 1) / 2 - np.arange(count))
    return [(distance_m, y, shape) for y in aside.tolist()]


def stage_scene(spots: Sequence[Spot], library: Library, seed: int = 1) -> Scene:
    """Standing cones on ground without anything else. seed: of the ground and the light."""
    settings = SimulateSettings(clutter=0)
    scene = make_scene(np.random.default_rng(seed), settings, library, 'circuit')
    cones = tuple(standing_cone(*spot) for spot in spots)
    return replace(scene, cones=cones, things=(), haze=0.0)


def take_pair(
    scene: Scene,
    library: Library,
    settings: SimulateSettings,
    left: PinholeCamera | None = None,
    noise: float = 0.0,
    stamp_ns: int = START_NS,
) -> tuple[DriveFrame, DriveFrame]:
    """The scene through the left and the right eye at one moment.

    left: the left eye; None: that of zed2i.yaml at the origin, which looks along x, so that the
    frame of the car is the world. noise: standard deviation in grey levels, another in each eye.
    Of settings.rig the turns, focal lengths and baseline count, and the right eye's exposure:
    nothing moves here.
    """
    nominal = left or load_camera().resized(settings.width_px)
    eyes = make_eyes(nominal, settings.rig)
    frames = []
    for number, eye in enumerate(EYES):
        taken = render(scene, eyes[eye], library, settings)
        rng = np.random.default_rng([stamp_ns, number])
        light = settings.rig.right_exposure if eye == 'right' else 1.0
        photo = Photo(noise=noise, gains=(light, light, light))
        image = apply_photo(taken.image, photo, library.sensor, rng)
        made = (image, taken.labels, eyes[eye], photo.quality)
        info = calibration(nominal, eye)
        frames.append(DriveFrame(eye, stamp_ns, stamp_ns, *made, eyes, info))
    return frames[0], frames[1]
