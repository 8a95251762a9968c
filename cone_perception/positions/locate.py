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
from cone_perception.positions.foot import LYING_SHARE, feet_in, range_of_feet
from cone_perception.positions.fusion import along_rays, fuse
from cone_perception.positions.height import Bool, Boxes, height_range
from cone_perception.positions.matching import Disparities, cut, find
from cone_perception.positions.rig import EYES, Rig
from cone_perception.positions.watch import Sighting, YawWatch
from cone_perception.types import (
    RANGE_SOURCES,
    CameraPicture,
    Detections,
    Float64,
    Frame,
    Positions,
)

STEREO, HEIGHT, GROUND = (RANGE_SOURCES.index(name) for name in ('stereo', 'height', 'ground'))

LEAST_CORRELATION = 0.9
MOST_APART_PX = 0.6
"""Of the halves of a match that is believed; below that, their distance widens its deviation."""
FLOOR_PX, NOISE, APART, SHARE, CROSSED_PX = 0.008, 2.48, 0.3, 0.0017, 0.012
"""Standard deviation of a disparity: a floor, a factor on what the pixels' noise leaves of it, one
on how far the patch's halves are apart, a share of it, and what a box adds that overlaps another.
Fitted by `benchmarks/positions.py --fit`."""
BEHIND, BEHIND_NEAR_M = 0.030, 0.082
"""How far the foot lies behind what is matched, in heights of the cone, and what comes to that for
each 1 / depth: near cones are seen from above."""
CUT_M = 0.05
"""Standard deviation that the border adds to the depth of a cone that it cuts."""
LEAST_PX, LEAST_DISPARITY_PX = 2.0, 0.5
"""Height of a box that is looked for, and disparity that is believed."""
ROWS_REMEMBERED, ROWS_LEAST, ROWS_CORRELATION, ROWS_ALARM_PX = 400, 100, 0.6, 0.35
"""Cones whose rows in the two eyes are compared, how many it takes, how alike they must look, and
the median offset from which there is a warning."""
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
        """Place each detection of a picture: in the mount's frame, else in the left eye's
        optical one.

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
            by_source.append(range_of_feet(boxes, camera, mount, lost))
        ranges = fuse(*(np.stack(part) for part in zip(*by_source, strict=True)))
        known = np.isfinite(ranges.sigma_m) & np.isfinite(ranges.depth_m)
        source = np.where(known, np.array(sources)[ranges.source], 0)
        depth_m = np.where(known, ranges.depth_m, 1.0)
        foot_px, across_px = feet_in(boxes, camera, depth_m, lost)
        across_m = across_px * depth_m[:, None] / [camera.fx_px, camera.fy_px]
        across_m = np.hypot(across_m, (LYING_SHARE * boxes.lies * boxes.height_m)[:, None])
        xyz_m, covariance = along_rays(camera.rays(foot_px), depth_m, ranges.sigma_m, across_m)
        if eye and not mount:
            xyz_m[:, 0] += self.rig.baseline_m  # optical_frame is the left eye's
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
        box = boxes.rectified_px
        usable = np.isfinite(box).all(axis=1) & (boxes.height_px > LEAST_PX)
        first, _, last, _ = self.rig.left.reach_px
        usable &= (box[:, 2] > first) & (box[:, 0] < last - 1)
        try:
            pictures = None if trouble or not usable.any() else (bgr_of(picture), bgr_of(partner))
        except ConePerceptionError as error:
            pictures, trouble = None, str(error)
        self._tell('partner', trouble and f'no stereo: {trouble}')
        if pictures is None:
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

    def _stereo_range(
        self, boxes: Boxes, matches: Disparities, by_height: tuple[Float64, Float64]
    ) -> tuple[Float64, Float64]:
        """(N,) depth and its standard deviation; infinite where there is no match to trust.

        by_height: the same by the heights of the boxes, from which the calibration watch learns.
        """
        if not self.rig.baseline_m:
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
            yaw_sigma_px = self.watch.yaw_sigma_px
        good = believed & (disparity > LEAST_DISPARITY_PX)
        disparity = np.where(good, disparity, 1.0)
        sigma_px = np.sqrt(
            FLOOR_PX**2
            + (NOISE * matches.sigma_px) ** 2
            + (APART * matches.apart_px) ** 2
            + (SHARE * disparity) ** 2
            + (CROSSED_PX * boxes.crossed) ** 2
            + yaw_sigma_px**2
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
