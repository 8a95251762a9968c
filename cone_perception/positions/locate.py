"""Where the cones of one picture stand: from boxes and the other eye's picture to metres."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from cone_perception.classes import project_classes
from cone_perception.errors import CalibrationError, ConePerceptionError
from cone_perception.images import bgr_of
from cone_perception.positions.camera import CameraModel
from cone_perception.positions.fusion import along_rays, fuse
from cone_perception.positions.ground import ground_range
from cone_perception.positions.height import SLACK, Bool, Boxes, height_range
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

LEAST_CORRELATION = 0.9
MOST_APART_PX, APART_SHARE = 0.6, 0.075
"""Of a match that is believed. The halves of a near cone's patch may be farther apart: by this
share of the disparity."""
FLOOR_PX, NOISE, APART, SHARE, CROSSED_PX = 0.008, 2.48, 0.3, 0.0017, 0.012
"""Standard deviation of a disparity: a floor, a factor on what the pixels' noise leaves of it, one
on how far the patch's halves are apart, a share of it, and what a box adds that overlaps another.
Fitted by `benchmarks/positions.py --fit`."""
BEHIND, BEHIND_NEAR_M = 0.030, 0.082
"""How far the foot lies behind what is matched, in heights of the cone, and what comes to that for
each 1 / depth: near cones are seen from above."""
LYING_SHARE = 0.35
"""Standard deviation of where the foot of a lying cone is, in heights of the cone."""
CUT_M = 0.05
"""Standard deviation that the border adds to the depth of a cone that it cuts."""
SIDE_PX, SIDE_SLOPE_PX, SIDE_HIDDEN, SIDE_CUT, SIDE_SHAPE = 0.27, 65.0, 0.035, 0.12, 0.2
"""Standard deviation of the middle of a box h pixels high: pixels, (h / slope)^2, and shares of h
where a nearer cone hides a part or the border cuts it; a share of what is unusual in its width."""
UNSURE, SURE_SCORE = 0.34, 0.7
"""What is added to that for each point by which the score is lower, as a share of h: cones that lie
with their tip towards the camera are among them."""
FOOT_PX, FOOT_SHARE, FOOT_HIDDEN, FOOT_CUT, FOOT_LOST = 0.38, 0.017, 0.07, 0.15, 0.1
"""The same of the foot, with a share of h, and one where the right eye does not show the cone, as
the car itself may hide its foot."""
FOOT_UP, FOOT_UP_NEAR_PX = 0.03, 830.0
"""The foot lies so far above the lower side of a box, as a share of the height h, and h / so much
more: the front of the base plate lies lower."""
LEAST_PX, LEAST_DISPARITY_PX = 2.0, 0.5
"""Height of a box that is looked for, and disparity that is believed."""
ROWS_REMEMBERED, ROWS_LEAST, ROWS_CORRELATION, ROWS_ALARM_PX = 400, 100, 0.6, 0.35
"""Cones whose rows in the two eyes are compared, how many it takes, how alike they must look, and
the median offset from which there is a warning."""
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
        self._kinds = np.array(project_classes(class_names))
        self._lock = threading.Lock()
        self._troubles: dict[str, str] = {}
        self.watch = YawWatch(rig.left.fx_px, rig.left.cx_px, rig.baseline_m, yaw_correction_px)
        self._backward = 0
        self._rows: deque[float] = deque(maxlen=ROWS_REMEMBERED)
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
            rows = f'{np.median(self._rows):+.2f}' if self._rows else 'not known yet'
            return {'yaw offset (px)': self.watch.note, 'row offset (px)': rows}

    @property
    def warnings(self) -> Sequence[str]:
        """What an engineer must see; empty where all is well."""
        with self._lock:
            return (*self._troubles.values(), *filter(None, [self.watch.warning]))

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
        boxes = self.boxes(found, camera)
        matches, sought = Disparities.none(n), np.zeros(n, bool)
        if partner is not None and self.rig.right is not None and not eye:
            matches, sought = self.match(boxes, picture, partner)
        lost = sought & ~trusted(matches)
        by_height = height_range(boxes, camera.fy_px, lost)
        sources = [STEREO, HEIGHT]
        by_source = [self._stereo_range(boxes, matches, by_height), by_height]
        if mount:
            sources.append(GROUND)
            by_source.append(_ground_range(boxes, camera, mount, lost))
        ranges = fuse(*(np.stack(part) for part in zip(*by_source, strict=True)))
        known = np.isfinite(ranges.sigma_m) & np.isfinite(ranges.depth_m)
        source = np.where(known, np.array(sources)[ranges.source], 0)
        depth_m = np.where(known, ranges.depth_m, 1.0)
        foot_px, across_px = _foot(boxes, camera, depth_m)
        across_m = across_px * depth_m[:, None] / [camera.fx_px, camera.fy_px]
        across_m = np.hypot(across_m, (LYING_SHARE * boxes.lies * boxes.height_m)[:, None])
        xyz_m, covariance = along_rays(camera.rays(foot_px), depth_m, ranges.sigma_m, across_m)
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

    def boxes(self, found: Detections, camera: CameraModel) -> Boxes:
        """The boxes in the rectified picture, by the middles of their sides."""
        edges = found.xyxy_px.astype(np.float64)
        left, top, right, bottom = (edges - 0.5).T
        middle, level = (left + right) / 2, (top + bottom) / 2
        sides = [(left, level), (middle, top), (right, level), (middle, bottom)]
        points = np.concatenate([np.column_stack(side) for side in sides])
        flat = camera.rectify_points(points).reshape(4, -1, 2)
        rectified = np.stack([flat[0, :, 0], flat[1, :, 1], flat[2, :, 0], flat[3, :, 1]], axis=1)
        return Boxes.of(found, rectified, self._kinds[found.class_id], camera)

    def match(
        self, boxes: Boxes, picture: Frame | CameraPicture, partner: Frame | CameraPicture
    ) -> tuple[Disparities, Bool]:
        """Find the boxes in the partner, and say which of them it should show, (N,).

        Nothing where that cannot be, which is a trouble.
        """
        right = self.rig.right
        assert right is not None
        n = len(boxes)
        trouble = _size_trouble(right, partner, 'right')
        dark = None
        if not trouble:
            try:
                pictures = bgr_of(picture), bgr_of(partner)
                dark = self.dark_eye(*pictures)
            except ConePerceptionError as error:
                trouble = str(error)
        self._tell('partner', trouble and f'no stereo: {trouble}')
        box = boxes.rectified_px
        usable = np.isfinite(box).all(axis=1) & (boxes.height_px > LEAST_PX)
        first, _, last, _ = self.rig.left.reach_px
        usable &= (box[:, 2] > first) & (box[:, 0] < last - 1)
        if trouble or dark is not None or not usable.any():
            return Disparities.none(n), np.zeros(n, bool)
        # Of a box that is too slim or too low, the other side says how near the cone may be.
        high_px = np.maximum(
            boxes.height_px, boxes.width_px / boxes.usual_width_px * boxes.height_px
        )
        focal_ratio = self.rig.left.fx_px / self.rig.left.fy_px
        expected = (self.rig.baseline_m * focal_ratio * high_px / boxes.height_m)[usable]
        box = box[usable]
        with self._lock:
            zero = self.rig.zero_px + self.watch.shift_px((box[:, 0] + box[:, 2]) / 2)
        low, high = 0.55 * expected - 2, 1.3 * expected + 2
        covered = boxes.covered[usable][:, usable]

        def search(rows: Bool, sign: int) -> Disparities:
            least, most = (zero + sign * end for end in ((low, high) if sign > 0 else (high, low)))
            eyes, hidden = (self.rig.left, right), covered[rows][:, rows]
            return find(cut(eyes, pictures, box[rows], least[rows], most[rows], hidden))

        seen = search(np.ones(len(box), bool), 1)
        near = expected > NEAR_PX
        ahead = np.count_nonzero(trusted(seen)[near])
        if near.any():
            most = np.count_nonzero(near) / 2
            backward = ahead < most < np.count_nonzero(trusted(search(near, -1)))
            with self._lock:
                self._backward = self._backward + 1 if backward else 0
        swapped = self._backward >= SWAPPED
        self._tell('swapped', SWAPPED_TEXT if swapped else '')
        found = Disparities.none(n) if swapped else seen.spread(usable)
        # The right eye does not see what stands at the left border of the left one.
        usable[usable] = (box[:, 0] - zero - expected > 0) & ~swapped
        return found, usable

    def dark_eye(self, *pictures: UInt8) -> int | None:
        """Index of the eye that is dark while the other one is not, which is a trouble; or None."""
        levels = [float(each[::16, ::16].mean()) for each in pictures]
        dark, other = sorted(range(2), key=levels.__getitem__)
        if not (levels[dark] < DARK and levels[other] > 4 * levels[dark]):
            self._tell('dark', '')
            return None
        self._tell(
            'dark',
            f'no stereo: the {EYES[dark]} eye is dark (grey level {levels[dark]:.0f}, the '
            f'{EYES[other]} {levels[other]:.0f}): look at its lens, cable and exposure.',
        )
        return dark

    def _stereo_range(
        self, boxes: Boxes, matches: Disparities, by_height: tuple[Float64, Float64]
    ) -> tuple[Float64, Float64]:
        """(N,) depth and its standard deviation; infinite where there is no match to trust.

        by_height: the same by the heights of the boxes, from which the calibration watch learns.
        """
        if self.rig.right is None:
            return np.ones(len(boxes)), np.full(len(boxes), np.inf)
        disparity = matches.disparity_px - self.rig.zero_px
        believed = trusted(matches)
        height_m, height_sigma_m = by_height
        shows = believed & boxes.whole & ~boxes.crossed & np.isfinite(height_sigma_m)
        box = boxes.rectified_px
        foot_px = np.column_stack([(box[:, 0] + box[:, 2]) / 2, box[:, 3]])
        share = height_sigma_m / height_m
        learnt = (part[shows] for part in (foot_px, disparity, height_m, share))
        self._watch_rows(matches)
        with self._lock:
            self.watch.add(Sighting(*learnt))
            disparity = disparity - self.watch.shift_px(foot_px[:, 0])
            doubt_px = self.watch.doubt_px
        good = believed & (disparity > LEAST_DISPARITY_PX)
        disparity = np.where(good, disparity, 1.0)
        sigma_px = np.sqrt(
            FLOOR_PX**2
            + (NOISE * matches.sigma_px) ** 2
            + (APART * matches.apart_px) ** 2
            + (SHARE * disparity) ** 2
            + (CROSSED_PX * boxes.crossed) ** 2
            + doubt_px**2
        )
        seen_m = self.rig.left.fx_px * self.rig.baseline_m / disparity
        behind_m = boxes.height_m * (BEHIND + BEHIND_NEAR_M / seen_m)
        depth_m = seen_m + np.where(boxes.lies, 0.0, behind_m)
        sigma_m = np.sqrt(
            (seen_m * sigma_px / disparity) ** 2
            + (LYING_SHARE * boxes.lies * boxes.height_m) ** 2
            + (CUT_M * boxes.cut.any(axis=1)) ** 2
        )
        return depth_m, np.where(good, sigma_m, np.inf)

    def _watch_rows(self, seen: Disparities) -> None:
        """Tell where the same cones stand in other rows of the two rectified pictures."""
        alike = seen.row_px[seen.correlation > ROWS_CORRELATION]
        with self._lock:
            self._rows.extend(alike[np.isfinite(alike)].tolist())
            many = len(self._rows) >= ROWS_LEAST
            offset_px = float(np.median(self._rows)) if many else 0.0
        text = (
            f'cones stand {abs(offset_px):.1f} px {"lower" if offset_px > 0 else "higher"} in the '
            'right eye than in the left one: the pictures are not rectified as camera_info says. '
            'Calibrate the rig again, or look at the setting rectified.'
        )
        self._tell('rows', text if abs(offset_px) > ROWS_ALARM_PX else '')

    def _tell(self, key: str, trouble: str) -> None:
        """Remember a trouble, or that it is over."""
        with self._lock:
            self._troubles.pop(key, None)
            if trouble:
                self._troubles[key] = trouble


def _ground_range(
    boxes: Boxes, camera: CameraModel, mount: Mount, lost: Bool
) -> tuple[Float64, Float64]:
    """(N,) depth by the foot of the box, and its standard deviation; infinite where it is not seen.

    Of a cone that lies, the foot may be anywhere along it.
    """
    left, _, right, bottom = boxes.rectified_px.T
    feet_px = np.column_stack([(left + right) / 2, bottom])
    high = boxes.height_px * np.minimum(np.exp(boxes.stoutness), 1)  # as its width has it
    row_sigma_px = np.sqrt(
        FOOT_PX**2
        + (FOOT_SHARE * high) ** 2
        + (high / SIDE_SLOPE_PX) ** 4
        + (FOOT_LOST * lost * high) ** 2
    )
    depth_m, sigma_m = ground_range(camera, mount, feet_px, row_sigma_px, boxes.plate_m)
    sigma_m = np.hypot(sigma_m, LYING_SHARE * boxes.lies * boxes.height_m)
    return depth_m, np.where(boxes.cut[:, 3] | boxes.hidden, np.inf, sigma_m)


def _foot(boxes: Boxes, camera: CameraModel, depth_m: Float64) -> tuple[Float64, Float64]:
    """(N, 2) rectified pixel of the middle of the cone's foot, and its standard deviations.

    A side that the picture's border cuts off is put where a cone of the class has it.
    """
    left, top, right, bottom = boxes.rectified_px.T
    high = boxes.height_px
    whole_px = camera.fy_px * boxes.height_m / depth_m
    half_px = 0.5 * whole_px * boxes.usual_width_px / high
    cut = boxes.cut
    cut_beside, cut_below = cut[:, [0, 2]].any(axis=1), cut[:, 3]
    middle = np.where(cut[:, 0] & ~cut[:, 2], right - half_px, (left + right) / 2)
    middle = np.where(cut[:, 2] & ~cut[:, 0], left + half_px, middle)
    foot = bottom - high * (FOOT_UP + high / FOOT_UP_NEAR_PX)
    foot = np.where(cut_below & ~cut[:, 1], top + whole_px, foot)
    odd_px = np.maximum(np.abs(boxes.stoutness) - SLACK, 0) * boxes.usual_width_px
    unsure = UNSURE * np.maximum(SURE_SCORE - boxes.score, 0)
    beside = (
        SIDE_PX**2
        + (high / SIDE_SLOPE_PX) ** 4
        + (SIDE_HIDDEN * boxes.hidden * high) ** 2
        + (SIDE_CUT * cut_beside * high) ** 2
        + (SIDE_SHAPE * odd_px) ** 2
        + (unsure * high) ** 2
    )
    below = (
        FOOT_PX**2
        + (FOOT_SHARE * high) ** 2
        + (FOOT_HIDDEN * boxes.hidden * high) ** 2
        + (FOOT_CUT * cut_below * high) ** 2
    )
    return np.column_stack([middle, foot]), np.sqrt(np.column_stack([beside, below]))


def trusted(matches: Disparities) -> Bool:
    """(N,) bool: which matches are believed."""
    with np.errstate(invalid='ignore'):
        return np.asarray(
            (matches.correlation > LEAST_CORRELATION) & (matches.apart_px < MOST_APART_PX)
        )


def _size_trouble(camera: CameraModel, picture: Frame | CameraPicture, eye: str) -> str:
    """Say that a picture is not as large as its camera_info says; empty where it is."""
    try:
        camera.check_picture(picture.width_px, picture.height_px, eye)
    except CalibrationError as error:
        return str(error)
    return ''
