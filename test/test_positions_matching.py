"""Positions of rendered cones: from two eyes, from one, and what must be refused."""

from dataclasses import replace

import numpy as np
import pytest
from placing import Pair, boxes_of, placed, rig_of, staged

from cone_perception.classes import BLUE, CLASS_NAMES, LARGE_ORANGE, YELLOW
from cone_perception.positions.camera import CameraModel
from cone_perception.positions.fusion import fuse
from cone_perception.positions.height import height_range
from cone_perception.positions.locate import HEIGHT, STEREO, Locator
from cone_perception.positions.matching import cut, find
from cone_perception.types import Frame, Positions
from training.simulate.staged import Spot

SPOTS: list[Spot] = [
    (4.0, 1.5, BLUE),
    (6.0, -1.5, YELLOW),
    (9.0, 1.5, BLUE),
    (10.0, -3.0, LARGE_ORANGE),
    (13.0, -1.5, YELLOW),
    (18.0, 1.5, BLUE),
    (24.0, -1.5, YELLOW),
]


@pytest.fixture(scope='module')
def pair() -> Pair:
    return staged(SPOTS)


def locate(pair: Pair, right: np.ndarray | None) -> tuple[Positions, np.ndarray]:
    """Positions with this right picture, and their errors."""
    locator, left = Locator(rig_of(pair), CLASS_NAMES), pair[0]
    partner = None if right is None else Frame(right)
    positions = locator.locate(boxes_of(left), Frame(left.image), partner)
    return positions, positions.xyz_m - left.feet_m('left')


def test_two_eyes_place_every_cone(pair: Pair) -> None:
    locator, positions, error = placed(pair)
    depth = pair[0].feet_m('left')[:, 2]
    assert positions.source.tolist() == [STEREO] * len(SPOTS)
    assert positions.counts['stereo'] == len(SPOTS)
    assert (np.abs(error[:, 2]) < 0.01 * depth + 0.0015 * depth**2).all()
    assert (np.abs(error[:, :2]) < 0.02 + 0.005 * depth[:, None]).all()
    deviation = np.sqrt(np.diagonal(positions.covariance_m2, axis1=1, axis2=2))
    assert (np.abs(error) < 4 * deviation).all()
    assert (deviation[:, 2] < 0.02 * depth + 0.003 * depth**2).all()
    assert not locator.warnings


def test_one_eye_places_cones_by_the_height_of_their_boxes(pair: Pair) -> None:
    positions, error = locate(pair, None)
    depth = pair[0].feet_m('left')[:, 2]
    assert set(positions.source.tolist()) == {HEIGHT}
    assert (np.abs(error[:, 2]) < 0.2 * depth).all()


def test_the_bias_of_heights_is_that_of_the_distance_whatever_the_focal_length(pair: Pair) -> None:
    rig = rig_of(pair)
    boxes = Locator(rig, CLASS_NAMES).boxes(boxes_of(pair[0]), rig.left)
    none, fy_px = np.zeros(len(boxes), bool), rig.left.fy_px
    depth_m, sigma_m = height_range(boxes, fy_px, none)
    for factor in (0.5, 2.0):
        larger = replace(boxes, rectified_px=boxes.rectified_px * factor)
        other_m, other_sigma_m = height_range(larger, fy_px * factor, none)
        np.testing.assert_allclose(other_m, depth_m)
        assert (other_sigma_m >= sigma_m * (1 - 1e-9)).all()


def test_a_grey_right_eye_matches_nothing(pair: Pair) -> None:
    positions, _ = locate(pair, np.full((720, 1280, 3), 120, np.uint8))
    assert set(positions.source.tolist()) == {HEIGHT}


def test_exposure_does_not_move_a_match(pair: Pair) -> None:
    bright = np.clip(pair[1].image * 0.6 + 20, 0, 255).astype(np.uint8)
    one, _ = locate(pair, pair[1].image)
    two, _ = locate(pair, bright)
    np.testing.assert_allclose(two.xyz_m[:, 2], one.xyz_m[:, 2], rtol=0.01)


def test_two_cones_in_one_box_give_the_place_of_the_nearer_one() -> None:
    pair = staged([(10.0, 0.06, YELLOW), (13.0, 0.06, YELLOW)])
    near, far = pair[0].labels if pair[0].labels[0].cone == 0 else pair[0].labels[::-1]
    found = boxes_of(pair[0])[:1]
    (left, _, right, bottom), top = near.xyxy_px, far.xyxy_px[1]
    found.xyxy_px[0] = left, top, right, bottom
    assert bottom - top > 1.15 * (near.xyxy_px[3] - near.xyxy_px[1])
    locator = Locator(rig_of(pair), CLASS_NAMES)
    positions = locator.locate(found, *(Frame(each.image) for each in pair))
    assert positions.source.tolist() == [STEREO]
    assert abs(positions.xyz_m[0, 2] - 10.0) < 0.3


def test_a_match_is_found_to_hundredths_of_a_pixel() -> None:
    rng = np.random.default_rng(1)
    fine = rng.uniform(0, 255, (40, 1200, 3)).astype(np.float32)
    kernel = np.hanning(23)[1:-1]
    smooth = np.stack(
        [
            [np.convolve(row, kernel / kernel.sum(), 'same') for row in fine[..., c]]
            for c in range(3)
        ],
        axis=2,
    )
    smooth = (smooth - smooth.mean()) * 3 + 128
    eye = CameraModel(240, 40, 500.0, 500.0, 120.0, 20.0)
    left = np.clip(smooth[:, 0:1200:5], 0, 255).astype(np.uint8)
    box = np.array([[100.0, 10.0, 112.0, 26.0]])
    for shift in (17, 23, 36):
        right = np.clip(smooth[:, shift : 1200 - 50 : 5], 0, 255).astype(np.uint8)
        right = np.pad(right, ((0, 0), (0, 240 - right.shape[1]), (0, 0)))
        patches = cut((eye, eye), (left, right), box, np.array([1.0]), np.array([12.0]))
        match = find(patches)
        assert abs(match.disparity_px[0] - shift / 5) < 0.05
        assert match.correlation[0] > 0.98
        assert match.apart_px[0] < 0.1


@pytest.mark.parametrize(('pitch_deg', 'told'), [(0.0, ''), (0.08, 'higher'), (-0.08, 'lower')])
def test_pictures_whose_rows_differ_are_told(pitch_deg: float, told: str) -> None:
    pair = staged(SPOTS, right_pitch_deg=pitch_deg)
    locator = Locator(rig_of(pair), CLASS_NAMES)
    left, right = (Frame(each.image) for each in pair)
    for _ in range(20):
        locator.locate(boxes_of(pair[0]), left, right)
    offset_px = float(locator.notes['row offset (px)'])
    assert abs(offset_px + pitch_deg * np.pi / 180 * 527) < 0.15
    assert [told in warning for warning in locator.warnings] == [True] * bool(told)


def test_ranges_are_weighted_by_their_covariances() -> None:
    depth = np.array([[10.0, 10.0, 10.0], [11.0, 20.0, 12.0]])
    sigma = np.array([[1.0, 0.1, np.inf], [1.0, 1.0, 2.0]])
    fused = fuse(depth, sigma)
    weight = np.array([10.0, 11.0]) ** 4  # of 1 / depth, whose deviations are sigma / depth^2
    mean = 1 / (weight @ [1 / 10, 1 / 11] / weight.sum())
    np.testing.assert_allclose(fused.depth_m, [mean, 10.0, 12.0])
    np.testing.assert_allclose(
        fused.sigma_m, [mean**2 / np.sqrt(weight.sum()), np.hypot(0.1, 5), 2.0]
    )
    assert fused.source.tolist() == [1, 0, 1]
    assert fused.disagree.tolist() == [False, True, False]


def test_a_range_that_is_left_out_is_no_source_and_counts_as_a_contradiction() -> None:
    inf = np.inf
    depth_m = np.array([[10.0, 10.0, 10.0, 10.0], [20.0, 10.1, 20.0, 10.0], [10, 20, 10.2, 10]])
    sigma_m = np.array([[1.0, 0.2, 1.0, inf], [0.5, 0.4, 0.5, 0.5], [inf, 0.1, 0.3, 0.2]])
    fused = fuse(depth_m, sigma_m)
    assert fused.source.tolist() == [0, 0, 2, 2]
    assert fused.disagree.tolist() == [True, True, True, False]
    assert fused.depth_m[0] == pytest.approx(10)
    assert fused.depth_m[1] == pytest.approx(10.02, abs=0.01)
    assert fused.sigma_m[1] < 0.2
