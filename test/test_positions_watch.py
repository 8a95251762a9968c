"""The calibration watch on synthetic cones, whose yaw error is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from cone_perception.positions.watch import EVERY, LEAST, SHAPE_PX, WINDOW, Sighting, YawWatch

FOCAL_PX, CENTRE_PX, BASELINE_M, HEIGHT_M = 527.0, 640.0, 0.12, 0.325
CAMERA_M = 0.95
TENTH_DEGREE = math.radians(0.1)
LAP = 2000
"""Sightings of a lap: 120 cones of both borders, each in some 17 pictures that count."""


def pictures(
    rng: np.random.Generator,
    yaw: Callable[[int], float] = lambda n: 0.0,
    sightings: int = LAP,
    scale: float = 1.0,
    wild: float = 0.0,
    box_px: float = 0.6,
    excess_px: float = 0.0,
) -> list[Sighting]:
    """Cones on both borders as the car passes them, eight in a picture, until there are so many.

    yaw: radian, by the count of sightings. scale: of what heights say. wild: share of wrong matches
    and of boxes that are cut. box_px: error of a box's height; excess_px: its mean.
    """
    made: list[Sighting] = []
    while (done := 8 * len(made)) < sightings:
        z_m = rng.uniform(4, 26, 8)
        x_m = np.clip(rng.normal(0, 0.55, 8), -1.15, 1.15) * z_m
        lean = 1 + (x_m / z_m) ** 2
        disparity_px = FOCAL_PX * BASELINE_M / z_m + FOCAL_PX * yaw(done) * lean
        disparity_px += rng.normal(0, 0.06, 8) * rng.choice([1, 4], 8, p=[0.9, 0.1])
        box_height_px = FOCAL_PX * HEIGHT_M / z_m * scale * rng.normal(1, 0.05, 8)
        box_height_px += rng.normal(excess_px, box_px, 8)
        disparity_px += (rng.random(8) < wild / 2) * rng.uniform(-6, 6, 8)
        box_height_px *= 1 - (rng.random(8) < wild / 2) * rng.uniform(0.2, 0.6, 8)
        depth_m = FOCAL_PX * HEIGHT_M / box_height_px
        foot_px = np.column_stack(
            [CENTRE_PX + FOCAL_PX * x_m / z_m, 360 + FOCAL_PX * CAMERA_M / z_m]
        )
        share = np.hypot(0.05, box_px * z_m / (FOCAL_PX * HEIGHT_M))
        made.append(Sighting(foot_px, disparity_px, depth_m, share))
    return made


def watched(seen: list[Sighting], limit_px: float = 1.5) -> YawWatch:
    watch = YawWatch(FOCAL_PX, CENTRE_PX, BASELINE_M, limit_px)
    for sighting in seen:
        watch.add(sighting)
    return watch


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('sign', [-1, 1])
@pytest.mark.parametrize(('scale', 'wild'), [(1.0, 0.0), (0.93, 0.1), (1.05, 0.2)])
def test_a_tenth_of_a_degree_is_found_in_a_lap(
    seed: int, sign: int, scale: float, wild: float
) -> None:
    yaw = sign * TENTH_DEGREE
    seen = pictures(np.random.default_rng(seed), lambda n: yaw, scale=scale, wild=wild)
    watch = watched(seen)
    assert LAP - 80 <= watch.count <= LAP
    assert watch.offset_px == pytest.approx(FOCAL_PX * yaw, abs=0.1)
    assert watch.sigma_px < 0.06
    assert watch.scale == pytest.approx(scale, abs=0.03)
    assert watch.correction_px == watch.offset_px
    assert ('apart' if sign > 0 else 'towards each other') in watch.warning
    assert 'Calibrate' in watch.warning


def test_sigma_is_honest() -> None:
    errors = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        watch = watched(pictures(rng, lambda n: TENTH_DEGREE, sightings=600))
        errors.append((watch.offset_px - FOCAL_PX * TENTH_DEGREE) / watch.sigma_px)
    assert 0.7 < np.sqrt(np.mean(np.square(errors))) < 1.4


@pytest.mark.parametrize('excess_px', [-0.5, 0.5])
@pytest.mark.parametrize('seed', range(5))
def test_boxes_that_are_all_too_high_are_not_taken_for_a_yaw(seed: int, excess_px: float) -> None:
    """Half a pixel of height is as much as 0.18 px of disparity in the middle of the picture."""
    rng = np.random.default_rng(seed)
    watch = watched(pictures(rng, lambda n: TENTH_DEGREE, excess_px=excess_px))
    assert watch.offset_px == pytest.approx(FOCAL_PX * TENTH_DEGREE, abs=0.1)


def test_a_narrow_picture_cannot_tell_high_boxes_from_a_yaw() -> None:
    """So the standard deviation of the offset stays large, and nothing is corrected."""
    seen = [
        each._replace(foot_px=np.column_stack([each.foot_px[:, 0] / 10 + 576, each.foot_px[:, 1]]))
        for each in pictures(np.random.default_rng(1))
    ]
    watch = watched(seen)
    assert 0.1 < watch.sigma_px < 0.25
    assert watch.correction_px == 0


@pytest.mark.parametrize('wild', [0.0, 0.2])
@pytest.mark.parametrize('seed', range(5))
def test_a_good_rig_is_not_corrected(seed: int, wild: float) -> None:
    watch = watched(pictures(np.random.default_rng(seed), wild=wild, scale=0.95))
    assert abs(watch.offset_px) < 0.1
    assert watch.correction_px == 0
    assert watch.warning == ''
    assert watch.yaw_sigma_px == 0
    assert watch.note.endswith(f'corrected +0.00, scale {watch.scale:.3f}')


def test_the_correction_takes_the_yaw_out_of_every_column() -> None:
    seen = pictures(np.random.default_rng(1), lambda n: TENTH_DEGREE)
    watch = watched(seen)
    left_px = []
    for sighting in pictures(np.random.default_rng(2), lambda n: TENTH_DEGREE, box_px=0.01):
        # rows say the depth: the camera looks level
        z_m = FOCAL_PX * CAMERA_M / (sighting.foot_px[:, 1] - 360)
        corrected_px = sighting.disparity_px - watch.shift_px(sighting.foot_px[:, 0])
        left_px.append(corrected_px - FOCAL_PX * BASELINE_M / z_m)
    columns = np.concatenate([sighting.foot_px[:, 0] for sighting in seen])
    wide = np.abs(columns - CENTRE_PX) > 250
    assert wide.sum() > 100
    assert abs(np.median(np.concatenate(left_px)[wide])) < 0.1
    assert abs(np.median(np.concatenate(left_px)[~wide])) < 0.1
    assert watch.yaw_sigma_px == pytest.approx(math.hypot(watch.sigma_px, SHAPE_PX))


def test_what_exceeds_the_limit_is_told_and_widens_the_covariance() -> None:
    watch = watched(pictures(np.random.default_rng(3), lambda n: 3 * TENTH_DEGREE), limit_px=1.5)
    assert watch.offset_px == pytest.approx(3 * FOCAL_PX * TENTH_DEGREE, abs=0.1)
    assert watch.correction_px == 1.5
    assert watch.yaw_sigma_px == pytest.approx(watch.offset_px - 1.5, abs=0.02)
    assert f'leaves {watch.offset_px - 1.5:+.2f} px uncorrected' in watch.warning


def test_with_limit_0_it_only_watches() -> None:
    watch = watched(pictures(np.random.default_rng(4), lambda n: -TENTH_DEGREE), limit_px=0)
    assert watch.correction_px == 0
    assert not watch.shift_px(np.array([0.0, 640.0])).any()
    assert watch.yaw_sigma_px == pytest.approx(FOCAL_PX * TENTH_DEGREE, abs=0.1)
    assert 'yaw_correction_px is 0' in watch.warning


def test_slow_drift_is_followed_and_its_end_too() -> None:
    def yaw(n: int) -> float:
        return TENTH_DEGREE * min(n / (4 * LAP), 1)

    seen = pictures(np.random.default_rng(5), yaw, sightings=6 * LAP)
    watch = watched(seen[: len(seen) // 2])
    # a window follows at the half of its length
    there = FOCAL_PX * yaw(3 * LAP - WINDOW // 2)
    assert watch.offset_px == pytest.approx(there, abs=0.1)
    for sighting in seen[len(seen) // 2 :]:
        watch.add(sighting)
    assert watch.offset_px == pytest.approx(FOCAL_PX * TENTH_DEGREE, abs=0.1)
    for sighting in pictures(np.random.default_rng(6), sightings=WINDOW):
        watch.add(sighting)
    assert watch.warning == ''
    assert watch.correction_px == 0


def test_a_car_at_rest_does_not_count_its_cones_again() -> None:
    rng = np.random.default_rng(7)
    first = pictures(rng, sightings=8)[0]
    watch = YawWatch(FOCAL_PX, CENTRE_PX, BASELINE_M)
    for _ in range(500):
        jitter_px = first.foot_px + rng.normal(0, 1, first.foot_px.shape)
        watch.add(first._replace(foot_px=jitter_px))
    assert watch.count == 8
    assert watch.note == f'not known yet, 8 of {LEAST} cones'
    assert math.isnan(watch.offset_px)
    assert watch.correction_px == 0


def test_few_cones_and_broken_ones_say_nothing() -> None:
    watch = watched(pictures(np.random.default_rng(8), lambda n: TENTH_DEGREE, sightings=200))
    assert watch.correction_px == 0
    assert watch.warning == ''
    count = watch.count
    nothing = np.zeros(0)
    watch.add(Sighting(np.zeros((0, 2)), nothing, nothing, nothing))
    broken = np.array([math.nan, 9.0])
    watch.add(Sighting(np.array([[1.0, 1], [2, 2]]), broken, broken[::-1], np.full(2, 0.1)))
    assert watch.count == count


def test_an_offset_that_is_known_no_more_keeps_the_last_known_correction() -> None:
    watch = watched(pictures(np.random.default_rng(9), lambda n: TENTH_DEGREE))
    correction_px, yaw_sigma_px = watch.correction_px, watch.yaw_sigma_px
    assert correction_px > 0.8
    for each in pictures(np.random.default_rng(10), sightings=WINDOW + 200):
        narrow_px = np.column_stack([each.foot_px[:, 0] / 10 + 576, each.foot_px[:, 1]])
        turned_px = each.disparity_px + FOCAL_PX * TENTH_DEGREE
        watch.add(each._replace(foot_px=narrow_px, disparity_px=turned_px))
    assert watch.sigma_px > 0.1
    assert watch.offset_px != watch.correction_px
    assert watch.correction_px == pytest.approx(correction_px, abs=0.05)
    assert watch.yaw_sigma_px == pytest.approx(yaw_sigma_px, abs=0.05)
    assert f'corrected {watch.correction_px:+.2f}' in watch.note
    assert f'{watch.correction_px:+.2f} px off, which is corrected' in watch.warning


def test_cones_that_are_all_alike_leave_the_last_answer() -> None:
    """They say nothing of a scale and an offset: the equations have no solution."""
    watch = watched(pictures(np.random.default_rng(11), lambda n: TENTH_DEGREE))
    answers = []
    for k in range(2 * WINDOW):
        alike = np.array([4.0])
        foot_px = np.array([[CENTRE_PX, 400.0 + 20 * (k % 2)]])
        watch.add(Sighting(foot_px, alike, FOCAL_PX * BASELINE_M / alike, np.array([0.25])))
        if watch.note.endswith(', the last fit failed'):
            answers.append((watch.offset_px, watch.sigma_px, watch.scale, watch.correction_px))
    assert len(answers) >= WINDOW - 2 * EVERY
    assert len(set(answers)) == 1
    assert np.isfinite(answers[0]).all()
    for sighting in pictures(np.random.default_rng(12), lambda n: TENTH_DEGREE):
        watch.add(sighting)
    assert watch.offset_px == pytest.approx(FOCAL_PX * TENTH_DEGREE, abs=0.1)
    assert 'failed' not in watch.note
