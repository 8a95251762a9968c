"""The calibration watch: finds the yaw error between the eyes from cones of known height.

A yaw error psi shifts the disparity of a point in column u by f psi (1 + ((u - cx) / f)^2), however
far away it is. The height of a cone's box says which disparity it should have. Many cones give the
offset, by `height's disparity = scale (disparity - offset (1 + ((u - cx) / f)^2)) + excess`. scale
stands for what is in proportion: the size of the cones, focal length and baseline. excess stands
for boxes that are all drawn too high by some pixels: in the middle of the picture that looks like a
yaw, but not at its sides.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from cone_perception.types import Float64

WINDOW = 2000
"""Sightings that are remembered: about a lap's worth. The oldest are forgotten first."""
LEAST = 300
"""Sightings from which the offset may be known."""
EVERY = 200
"""Sightings after which the offset is worked out anew."""
STEP_PX = 8.0
"""A picture is taken in when the median cone stands so far from every cone of the last one that
was, so that a car at rest does not count the same cones again and again."""
KNOWN_PX = 0.1
"""Standard deviation up to which the offset counts as known."""
ALARM_PX, CALM_PX = 0.3, 0.15
"""Offset from which there is a warning and a correction, and to which it must fall to end both."""
SHAPE_PX = 0.04
"""Standard deviation of the offset by what is left of the bias of heights: cones of another shape
than those it was learnt on. The scatter of the sightings does not show it."""
EXCESS_PX = 0.15
"""Standard deviation of `excess` over drives, whose light and blur differ."""
OUTLIER = 4.0
"""Normalised errors beyond which a sighting has no weight (Tukey's biweight)."""
ROUNDS = 12
BLOCKS = 20
"""Parts of the window whose scatter gives the standard deviation: what goes wrong with one cone
goes wrong in each of its pictures."""


class Sighting(NamedTuple):
    """The cones of one picture that the watch may learn from: one row each.

    foot_px: (N, 2), in the rectified left picture. disparity_px: (N,), as measured, not corrected.
    depth_m: (N,), depth that the height of the box gives, without its learned bias. share: (N,),
    its standard deviation as a share of it.
    """

    foot_px: Float64
    disparity_px: Float64
    depth_m: Float64
    share: Float64


class YawWatch:
    """Watches one stereo rig. Not for two threads at once: whoever holds it locks it.

    focal_px, centre_px: fx and cx of the rectified left picture. limit_px: by how much of disparity
    it may correct. offset_px: by how much disparities in the middle of the picture are too large,
    sigma_px its standard deviation; NaN before they are known. scale: factor between what heights
    and what disparities say. correction_px: what is taken off in the middle of the picture.
    """

    def __init__(
        self, focal_px: float, centre_px: float, baseline_m: float, limit_px: float = 1.5
    ) -> None:
        self._focal_px = focal_px
        self._centre_px = centre_px
        self._baseline_m = baseline_m
        self._limit_px = limit_px
        self._rows = np.zeros((WINDOW, 4))
        self._last_px = np.zeros((0, 2))
        self._new = 0
        self.count = 0
        self.offset_px = self.sigma_px = math.nan
        self.scale = 1.0
        self._alarmed = False
        self._known_px = self._known_sigma_px = 0.0
        self._failed = False

    def add(self, seen: Sighting) -> None:
        """Take in a picture's cones: whole boxes that nothing hides, whose matches are believed."""
        usable = np.isfinite(np.column_stack(seen)).all(axis=1) & (seen.depth_m > 0)
        foot_px = seen.foot_px[usable]
        if not len(foot_px) or not self._has_moved(foot_px):
            return
        self._last_px = foot_px
        expected_px = self._focal_px * self._baseline_m / seen.depth_m[usable]
        disparity_px, share = seen.disparity_px[usable], seen.share[usable]
        for row in zip(self._lean(foot_px[:, 0]), disparity_px, expected_px, share, strict=True):
            self._rows[self.count % WINDOW] = row
            self.count += 1
        self._new += len(foot_px)
        if self._new >= EVERY and self.count >= LEAST:
            self._new = 0
            try:
                self._fit()
                self._failed = False
            except np.linalg.LinAlgError:  # cones that are all alike: the last answer stays
                self._failed = True

    def shift_px(self, column_px: Float64) -> Float64:
        """(N,) what to take off the disparities of points in these columns of the left picture."""
        return self.correction_px * self._lean(column_px)

    @property
    def correction_px(self) -> float:
        """By the last offset that was known to KNOWN_PX."""
        limit_px = self._limit_px
        return max(-limit_px, min(self._known_px, limit_px)) if self._alarmed else 0.0

    @property
    def yaw_sigma_px(self) -> float:
        """Standard deviation that yaw leaves in every disparity of a rig that is off."""
        if not self._alarmed:
            return 0.0
        return math.hypot(self._known_sigma_px, SHAPE_PX, self._known_px - self.correction_px)

    @property
    def note(self) -> str:
        """Say for the diagnostics what is known."""
        failed = ', the last fit failed' * self._failed
        if math.isnan(self.sigma_px):
            return f'not known yet, {self.count} of {LEAST} cones{failed}'
        text = f'{self.offset_px:+.2f} +- {self.sigma_px:.2f}, corrected {self.correction_px:+.2f}'
        return f'{text}, scale {self.scale:.3f}{failed}'

    @property
    def warning(self) -> str:
        """Say what an engineer must mend; empty: nothing."""
        if not self._alarmed:
            return ''
        turned = 'apart' if self._known_px > 0 else 'towards each other'
        angle_deg = math.degrees(abs(self._known_px) / self._focal_px)
        text = (
            f'the eyes look {turned} by {angle_deg:.2f} degree against their calibration: '
            f'disparities are {self._known_px:+.2f} px off'
        )
        left_px = self._known_px - self.correction_px
        if not self._limit_px:
            text += ', which is not corrected (yaw_correction_px is 0)'
        elif left_px:
            text += f', of which yaw_correction_px leaves {left_px:+.2f} px uncorrected'
        else:
            text += ', which is corrected'
        return f'{text}. Calibrate the rig again.'

    def _lean(self, column_px: Float64) -> Float64:
        """(N,) by how much more a yaw shifts these columns than the middle of the picture."""
        across: Float64 = 1 + ((column_px - self._centre_px) / self._focal_px) ** 2
        return across

    def _has_moved(self, foot_px: Float64) -> bool:
        """Tell whether these cones are other sightings than those of the last picture taken in."""
        if not len(self._last_px):
            return True
        apart_px = np.linalg.norm(foot_px[:, None] - self._last_px[None], axis=2).min(axis=1)
        return bool(np.median(apart_px) >= STEP_PX)

    def _fit(self) -> None:
        """Fit expected = scale * disparity + shift * lean + excess, without the outliers.

        The expected disparities are wrong by some percent, the measured ones by hundredths of a
        pixel: fitted the other way round, the errors of the heights would lower the scale.
        """
        kept = min(self.count, WINDOW)
        order = np.arange(self.count - kept, self.count) % WINDOW
        lean, disparity_px, expected_px, share = self._rows[order].T
        x = np.column_stack([disparity_px, lean, np.ones(kept)])
        known = np.diag([0, 0, 1 / EXCESS_PX**2])
        answer = np.array([1.0, 0.0, 0.0])
        for turn in range(ROUNDS):
            # of the fit, not of the sighting: a box that is too low would gain weight by that
            sigma_px = share * np.maximum(x @ answer, 1.0)
            error = (expected_px - x @ answer) / sigma_px
            error /= 1.4826 * np.median(np.abs(error)) + 1e-9
            weight = 1 / np.maximum(np.abs(error) / 1.345, 1)  # Huber's, to find the core
            if turn >= ROUNDS // 2:
                inner = np.minimum((error / OUTLIER) ** 2, 1)
                weight = (1 - inner) ** 2
            pull = x * (weight / sigma_px**2)[:, None]
            answer = np.linalg.solve(pull.T @ x + known, pull.T @ expected_px)
        pull *= (expected_px - x @ answer)[:, None]
        blocks = np.add.reduceat(pull, np.arange(BLOCKS) * kept // BLOCKS)
        bend = (1 - inner) * (1 - 5 * inner) / sigma_px**2
        inverse = np.linalg.pinv(x.T @ (x * bend[:, None]) + known)
        scatter = blocks.T @ blocks * BLOCKS / (BLOCKS - 3) + known
        covariance = inverse @ scatter @ inverse
        scale, shift, _ = answer
        slope = np.array([shift / scale**2, -1 / scale, 0])
        self.scale, self.offset_px = float(scale), float(-shift / scale)
        self.sigma_px = float(np.sqrt(slope @ covariance @ slope))
        if self.sigma_px <= KNOWN_PX:
            self._known_px, self._known_sigma_px = self.offset_px, self.sigma_px
            self._alarmed = abs(self.offset_px) > (CALM_PX if self._alarmed else ALARM_PX)
