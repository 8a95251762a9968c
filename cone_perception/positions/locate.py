"""Where the cones of one picture stand: from boxes and the other eye's picture to metres."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from cone_perception.errors import ConePerceptionError
from cone_perception.images import bgr_of
from cone_perception.positions.camera import CameraModel
from cone_perception.positions.fusion import along_rays, fuse
from cone_perception.positions.height import Boxes, class_sizes, height_range, look_at
from cone_perception.positions.matching import Disparities, cut, find
from cone_perception.positions.rig import Rig
from cone_perception.types import (
    RANGE_SOURCES,
    CameraPicture,
    Detections,
    Float64,
    Frame,
    Positions,
    UInt8,
)

STEREO, HEIGHT, GROUND = (RANGE_SOURCES.index(name) for name in ('stereo', 'height', 'ground'))

LEAST_CORRELATION = 0.75
MOST_APART_PX = 0.5
FLOOR_PX, NOISE, SHARE = 0.03, 1.6, 0.006
"""Standard deviation of a disparity: a floor, a factor on what the pixels' noise leaves of it, and
a share of it, since a cone is round. Fitted by `benchmarks/positions.py --fit`."""
SIDE_PX, SIDE_SHARE = 0.35, 0.02
FOOT_PX, FOOT_SHARE = 0.6, 0.04
"""Standard deviation of the middle of a box and of the foot in it: pixels, share of its size."""
DARK = 12.0
"""Mean grey level below which an eye is dark, if the other one is four times as bright."""


class Locator:
    """Places the cones of one rig. Any thread may call it.

    class_names: of the model card. yaw_correction_px: by how much a yaw between the eyes that the
    watch finds may be corrected.
    """

    def __init__(
        self, rig: Rig, class_names: Sequence[str], yaw_correction_px: float = 1.5
    ) -> None:
        self.rig = rig
        self._class_names = tuple(class_names)
        self._lock = threading.Lock()
        self._troubles: dict[str, str] = {}
        if rig.why_mono:
            self._troubles['rig'] = rig.why_mono
        if rig.right:
            rig.left.prepare()
            rig.right.prepare()

    @property
    def notes(self) -> Mapping[str, str]:
        """What is known of the rig, for the diagnostics."""
        return {}

    @property
    def warnings(self) -> Sequence[str]:
        """What an engineer must see; empty where all is well."""
        with self._lock:
            return tuple(self._troubles.values())

    def locate(
        self,
        found: Detections,
        picture: Frame | CameraPicture,
        partner: Frame | CameraPicture | None = None,
        eye: int = 0,
    ) -> Positions:
        """Place each detection of a picture: in the mount's frame, else in the optical one.

        partner: the right eye's picture of the same moment. eye: 1 where `picture` is the right
        eye's, alone.
        """
        camera = (self.rig.right or self.rig.left) if eye else self.rig.left
        n = len(found)
        boxes = self._boxes(found, camera, picture)
        by_height = height_range(boxes, camera.fy_px)
        matches = Disparities.none(n)
        if n and partner is not None and self.rig.right is not None and not eye:
            matches = self._match(boxes, picture, partner)
        by_stereo = self._stereo_range(matches)
        sources = (STEREO, HEIGHT)
        ranges = fuse(*(np.stack(part) for part in zip(by_stereo, by_height, strict=True)))
        known = np.isfinite(ranges.sigma_m) & np.isfinite(ranges.depth_m)
        source = np.where(known, np.array(sources)[ranges.source], 0)
        foot_px, across_px = _foot(boxes, camera, ranges.depth_m)
        focal_px = np.array([camera.fx_px, camera.fy_px])
        across_m = across_px * ranges.depth_m[:, None] / focal_px
        xyz_m, covariance = along_rays(
            camera.rays(foot_px), ranges.depth_m, ranges.sigma_m, across_m
        )
        xyz_m[~known] = np.nan
        covariance[~known] = np.nan
        counts = {
            **{str(name): int((source == k).sum()) for k, name in enumerate(RANGE_SOURCES)},
            'disagree': int(ranges.disagree.sum()),
        }
        positions = Positions(
            xyz_m, covariance, source.astype(np.int64), self.rig.optical_frame, counts
        )
        mount = self.rig.mount_of(eye)
        return positions if mount is None else mount.to_base(positions)

    def _boxes(
        self, found: Detections, camera: CameraModel, picture: Frame | CameraPicture
    ) -> Boxes:
        """The boxes in the rectified picture, by the middles of their sides."""
        edges = found.xyxy_px.astype(np.float64)
        left, top, right, bottom = (edges - 0.5).T
        middle, level = (left + right) / 2, (top + bottom) / 2
        sides = [(left, level), (middle, top), (right, level), (middle, bottom)]
        points = np.concatenate([np.column_stack(side) for side in sides])
        flat = camera.rectify_points(points).reshape(4, -1, 2)
        rectified = np.stack([flat[0, :, 0], flat[1, :, 1], flat[2, :, 0], flat[3, :, 1]], axis=1)
        sizes = class_sizes(self._class_names, found.class_id)
        return look_at(edges, rectified, sizes, picture.width_px, picture.height_px)

    def _match(
        self, boxes: Boxes, picture: Frame | CameraPicture, partner: Frame | CameraPicture
    ) -> Disparities:
        """Find the boxes in the partner; nothing where that cannot be, which is a trouble."""
        right = self.rig.right
        assert right is not None
        n = len(boxes.size_m)
        trouble = ''
        try:
            right.check_picture(partner.width_px, partner.height_px, 'right')
            pictures = bgr_of(picture), bgr_of(partner)
            trouble = _dark(*pictures)
        except ConePerceptionError as error:
            trouble = f'no stereo: {error}'
        self._tell('partner', trouble)
        usable = np.isfinite(boxes.rectified_px).all(axis=1) & (boxes.height_px > 2)
        if trouble or not usable.any():
            return Disparities.none(n)
        box = boxes.rectified_px[usable]
        size_m = boxes.size_m[usable]
        wide_m = 0.85 * 0.325
        expected = self.rig.baseline_m * np.maximum(
            (box[:, 3] - box[:, 1]) / size_m, (box[:, 2] - box[:, 0]) / wide_m
        )
        expected = expected * self.rig.left.fx_px / self.rig.left.fy_px
        zero = self.rig.zero_px
        low, high = zero + 0.55 * expected - 2, zero + 1.3 * expected + 2
        covered = boxes.covered[np.ix_(usable, usable)]
        seen = find(cut((self.rig.left, right), pictures, box, low, high, covered))
        return seen.spread(usable)

    def _stereo_range(self, matches: Disparities) -> tuple[Float64, Float64]:
        """(N,) depth and its standard deviation; infinite where there is no match to trust."""
        disparity = matches.disparity_px - self.rig.zero_px
        with np.errstate(invalid='ignore', divide='ignore'):
            good = (
                (matches.correlation > LEAST_CORRELATION)
                & (matches.apart_px < MOST_APART_PX * np.maximum(1, disparity / 8))
                & (disparity > 0.5)
            )
            sigma_px = np.sqrt(
                FLOOR_PX**2 + (NOISE * matches.sigma_px) ** 2 + (SHARE * disparity) ** 2
            )
            depth = self.rig.left.fx_px * self.rig.baseline_m / disparity
            sigma = depth * sigma_px / disparity
        return np.where(good, depth, 0.0), np.where(good, sigma, np.inf)

    def _tell(self, key: str, trouble: str) -> None:
        """Remember a trouble, or that it is over."""
        with self._lock:
            self._troubles.pop(key, None)
            if trouble:
                self._troubles[key] = trouble


def _foot(boxes: Boxes, camera: CameraModel, depth_m: Float64) -> tuple[Float64, Float64]:
    """(N, 2) rectified pixel of the middle of the cone's foot, and its standard deviations.

    A side that the picture's border cuts off is put where a cone of the class has it.
    """
    left, top, right, bottom = boxes.rectified_px.T
    high_px = camera.fy_px * boxes.size_m / depth_m
    wide_px = 0.8 * camera.fx_px * boxes.size_m / depth_m
    cut = boxes.cut
    middle = np.where(cut[:, 0] & ~cut[:, 2], right - wide_px / 2, (left + right) / 2)
    middle = np.where(cut[:, 2] & ~cut[:, 0], left + wide_px / 2, middle)
    foot = np.where(cut[:, 3] & ~cut[:, 1], top + high_px, bottom - 0.04 * (bottom - top))
    beside = np.where(boxes.hidden | cut[:, [0, 2]].any(axis=1), 0.15, SIDE_SHARE)
    below = np.where(boxes.hidden | cut[:, [1, 3]].any(axis=1) | boxes.lies, 0.15, FOOT_SHARE)
    across = np.stack(
        [np.hypot(SIDE_PX, beside * (right - left)), np.hypot(FOOT_PX, below * (bottom - top))],
        axis=1,
    )
    return np.stack([middle, foot], axis=1), across


def _dark(left: UInt8, right: UInt8) -> str:
    """Say that the right eye is dark; empty where it is not."""
    levels = [float(each[::16, ::16].mean()) for each in (left, right)]
    if levels[1] < DARK and levels[0] > 4 * levels[1]:
        return (
            f'no stereo: the right eye is dark (grey level {levels[1]:.0f}, left {levels[0]:.0f}): '
            'look at its lens, cable and exposure.'
        )
    return ''
