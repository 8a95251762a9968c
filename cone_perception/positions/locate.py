"""Where the cones of one picture stand: from boxes and the other eye's picture to metres."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from cone_perception.classes import CONE_SIZES_M, project_classes
from cone_perception.errors import CalibrationError, ConePerceptionError
from cone_perception.images import bgr_of
from cone_perception.positions.camera import CameraModel
from cone_perception.positions.fusion import along_rays, fuse
from cone_perception.positions.ground import ground_range
from cone_perception.positions.height import Bool, Boxes, class_sizes, height_range, look_at
from cone_perception.positions.matching import Disparities, cut, find
from cone_perception.positions.rig import EYES, Mount, Rig
from cone_perception.positions.watch import Sighting, YawWatch
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
NEAR_PX = 6.0
"""Disparity that a box must make expect, so that a negative one is clearly another."""
SWAPPED = 5
"""Pictures, without a better one between, in which most near cones have a negative disparity."""
SWAPPED_TEXT = (
    'no stereo: the eyes are swapped: cones have negative disparities, as the right picture shows '
    'them farther right. Swap the two image_topics.'
)


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
        sizes_m = [CONE_SIZES_M[each] for each in project_classes(class_names)]
        self._plate_m = np.array(sizes_m)[:, 0]
        self._lock = threading.Lock()
        self._troubles: dict[str, str] = {}
        self._watch = YawWatch(rig.left.fx_px, rig.left.cx_px, rig.baseline_m, yaw_correction_px)
        self._backward = 0
        if rig.why_mono:
            self._troubles['rig'] = rig.why_mono
        if rig.right:
            rig.left.prepare()
            rig.right.prepare()

    @property
    def notes(self) -> Mapping[str, str]:
        """What is known of the rig, for the diagnostics."""
        if self.rig.right is None:
            return {}
        with self._lock:
            return {'yaw offset (px)': self._watch.note}

    @property
    def warnings(self) -> Sequence[str]:
        """What an engineer must see; empty where all is well."""
        with self._lock:
            return (*self._troubles.values(), *filter(None, [self._watch.warning]))

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
        mount = self.rig.mount_of(eye)
        trouble = _size_trouble(camera, picture, EYES[eye])
        self._tell(EYES[eye], trouble and f'no positions: {trouble}')
        if trouble:
            nowhere = np.full((n, 3), np.nan), np.full((n, 3, 3), np.nan), np.zeros(n, np.int64)
            frame_id = mount.frame_id if mount else self.rig.optical_frame
            return Positions(*nowhere, frame_id, {'none': n})
        boxes = self._boxes(found, camera, picture)
        by_height = height_range(boxes, camera.fy_px)
        matches = Disparities.none(n)
        if partner is not None and self.rig.right is not None and not eye:
            matches = self._match(boxes, picture, partner)
        by_stereo = self._stereo_range(boxes, matches, by_height)
        sources, by_source = [STEREO, HEIGHT], [by_stereo, by_height]
        if mount:
            sources.append(GROUND)
            by_source.append(_ground_range(boxes, camera, mount, self._plate_m[found.class_id]))
        ranges = fuse(*(np.stack(part) for part in zip(*by_source, strict=True)))
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
        trouble = _size_trouble(right, partner, 'right')
        if not trouble:
            try:
                pictures = bgr_of(picture), bgr_of(partner)
                trouble = _dark(*pictures)
            except ConePerceptionError as error:
                trouble = str(error)
        self._tell('partner', trouble and f'no stereo: {trouble}')
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
        with self._lock:
            zero = self.rig.zero_px + self._watch.shift_px((box[:, 0] + box[:, 2]) / 2)
        low, high = 0.55 * expected - 2, 1.3 * expected + 2
        covered = boxes.covered[usable][:, usable]

        def search(rows: Bool, sign: int) -> Disparities:
            least, most = (zero + sign * end for end in ((low, high) if sign > 0 else (high, low)))
            eyes, hidden = (self.rig.left, right), covered[rows][:, rows]
            return find(cut(eyes, pictures, box[rows], least[rows], most[rows], hidden))

        seen = search(np.ones(len(box), bool), 1)
        near = expected > NEAR_PX
        ahead = np.count_nonzero(_trusted(seen)[near])
        if near.any():
            most = np.count_nonzero(near) / 2
            backward = ahead < most < np.count_nonzero(_trusted(search(near, -1)))
            with self._lock:
                self._backward = self._backward + 1 if backward else 0
        swapped = self._backward >= SWAPPED
        self._tell('swapped', SWAPPED_TEXT if swapped else '')
        return Disparities.none(n) if swapped else seen.spread(usable)

    def _stereo_range(
        self, boxes: Boxes, matches: Disparities, by_height: tuple[Float64, Float64]
    ) -> tuple[Float64, Float64]:
        """(N,) depth and its standard deviation; infinite where there is no match to trust.

        by_height: the same by the heights of the boxes, from which the calibration watch learns.
        """
        disparity = matches.disparity_px - self.rig.zero_px
        trusted = _trusted(matches)
        height_m, height_sigma_m = by_height
        shows = trusted & boxes.whole & ~boxes.crossed & np.isfinite(height_sigma_m)
        box = boxes.rectified_px
        foot_px = np.column_stack([(box[:, 0] + box[:, 2]) / 2, box[:, 3]])
        share = height_sigma_m / height_m
        learnt = (part[shows] for part in (foot_px, disparity, height_m, share))
        with self._lock:
            self._watch.add(Sighting(*learnt))
            disparity = disparity - self._watch.shift_px(foot_px[:, 0])
            doubt_px = self._watch.doubt_px
        with np.errstate(invalid='ignore', divide='ignore'):
            good = trusted & (disparity > 0.5)
            sigma_px = np.sqrt(
                FLOOR_PX**2
                + (NOISE * matches.sigma_px) ** 2
                + (SHARE * disparity) ** 2
                + doubt_px**2
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


def _ground_range(
    boxes: Boxes, camera: CameraModel, mount: Mount, plate_m: Float64
) -> tuple[Float64, Float64]:
    """(N,) depth by the foot of the box, and its standard deviation; infinite where it is not seen.

    Of a cone that lies, the foot may be anywhere along it.
    """
    left, _, right, bottom = boxes.rectified_px.T
    feet_px = np.column_stack([(left + right) / 2, bottom])
    row_sigma_px = np.hypot(FOOT_PX, FOOT_SHARE * boxes.height_px)
    depth_m, sigma_m = ground_range(camera, mount, feet_px, row_sigma_px, plate_m)
    sigma_m = np.hypot(sigma_m, boxes.lies * boxes.size_m / 2)
    return depth_m, np.where(boxes.cut[:, 3] | boxes.hidden, np.inf, sigma_m)


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


def _trusted(matches: Disparities) -> Bool:
    """(N,) bool: which matches are believed."""
    with np.errstate(invalid='ignore'):
        return np.asarray(
            (matches.correlation > LEAST_CORRELATION)
            & (matches.apart_px < MOST_APART_PX * np.maximum(1, np.abs(matches.disparity_px) / 8))
        )


def _size_trouble(camera: CameraModel, picture: Frame | CameraPicture, eye: str) -> str:
    """Say that a picture is not as large as its camera_info says; empty where it is."""
    try:
        camera.check_picture(picture.width_px, picture.height_px, eye)
    except CalibrationError as error:
        return str(error)
    return ''


def _dark(*pictures: UInt8) -> str:
    """Say which of two eyes is dark; empty where none is."""
    levels = [float(each[::16, ::16].mean()) for each in pictures]
    dark, other = sorted(range(2), key=levels.__getitem__)
    if levels[dark] < DARK and levels[other] > 4 * levels[dark]:
        return (
            f'the {EYES[dark]} eye is dark (grey level {levels[dark]:.0f}, the {EYES[other]} '
            f'{levels[other]:.0f}): look at its lens, cable and exposure.'
        )
    return ''
