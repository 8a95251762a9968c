"""Rendered cones whose places are known, and what a Locator makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cone_perception.classes import CLASS_NAMES
from cone_perception.positions.camera import CameraModel
from cone_perception.positions.height import ASIDE_PX, BIAS, KNOTS_PX
from cone_perception.positions.locate import Locator
from cone_perception.positions.rig import Mount, Rig
from cone_perception.settings import DetectorSettings
from cone_perception.types import Detections, Float64, Frame, Positions
from training.simulate.bag import DriveFrame
from training.simulate.camera import load_camera
from training.simulate.rig.settings import RigSettings
from training.simulate.scene import SimulateSettings
from training.simulate.scenery.library import make_library
from training.simulate.staged import Spot, stage_scene, take_pair

Pair = tuple[DriveFrame, DriveFrame]
TOPICS = ('/left/image', '/right/image')
LIBRARY = make_library(3)


def staged(spots: Sequence[Spot], noise: float = 2.0, wide: int = 1280, **errors: float) -> Pair:
    """Both eyes' pictures, `wide` pixels wide, of cones on empty ground. errors: of RigSettings."""
    rig = RigSettings(**errors)
    settings = SimulateSettings(width_px=wide, height_px=wide * 9 // 16, rig=rig)
    return take_pair(stage_scene(spots, LIBRARY), LIBRARY, settings, noise=noise)


def rig_of(
    pair: Pair, settings: DetectorSettings | None = None, topics: Sequence[str] = TOPICS
) -> Rig:
    """The rig as its camera_info describes it, its baseline as it is."""
    left, right = pair
    apart_m = np.subtract(right.camera.position_m, left.camera.position_m)
    p = list(right.info.p)
    p[3] = -p[0] * float(np.linalg.norm(apart_m))
    settings = settings or DetectorSettings()
    infos = left.info, right.info._replace(p=tuple(p))
    return Rig.of(*infos, topics, settings, Mount.of(settings), 'left_optical')


def boxes_of(frame: DriveFrame) -> Detections:
    """The labels as if a network had found them."""
    box = np.array([label.xyxy_px for label in frame.labels], np.float32).reshape(-1, 4)
    class_id = np.array([label.class_id for label in frame.labels], np.int64)
    return Detections(box, np.full(len(box), 0.9, np.float32), class_id)


def drawn(frame: DriveFrame) -> Detections:
    """The labels with the heights that a network draws, by the bias that was learnt of it.

    That bias is one of heights in the rectified picture.
    """
    found, camera, depth_m = boxes_of(frame), frame.camera, frame.feet_m('left')[:, 2]
    high = np.linspace(200, 4, 2000)
    reach_m = camera.fy_px * 0.325 / high * np.exp(np.interp(high, KNOTS_PX, BIAS))
    box = found.xyxy_px
    model = CameraModel.of(frame.info, rectified=False)
    middle = (box[:, 0] + box[:, 2]) / 2
    top, foot = (model.rectify_points(np.column_stack([middle, box[:, k]])) for k in (1, 3))
    aside = ((foot[:, 0] - model.cx_px) / model.fx_px) ** 2
    flat_px = np.interp(depth_m, reach_m, high) + ASIDE_PX * aside
    box[:, 1] = box[:, 3] - flat_px * (box[:, 3] - box[:, 1]) / (foot[:, 1] - top[:, 1])
    return found


def placed(pair: Pair, rig: Rig | None = None) -> tuple[Locator, Positions, Float64]:
    """The locator, the positions of the labelled cones of the left eye, and their errors in m."""
    left, right = pair
    locator = Locator(rig or rig_of(pair), CLASS_NAMES)
    positions = locator.locate(boxes_of(left), Frame(left.image), Frame(right.image))
    frame = 'left' if positions.frame_id == 'left_optical' else 'base'
    return locator, positions, positions.xyz_m - left.feet_m(frame)


def mounted() -> DetectorSettings:
    """Settings of the mount at which the staged pictures are taken."""
    camera = load_camera()
    return DetectorSettings(
        mount_height_m=camera.position_m[2], mount_pitch_deg=float(np.degrees(camera.pitch_rad))
    )
