"""Positions of rendered cones: from two eyes, from one, and what must be refused."""

from dataclasses import replace

import numpy as np
import pytest

from cone_perception.classes import BLUE, CLASS_NAMES, LARGE_ORANGE, YELLOW
from cone_perception.positions.camera import CameraModel
from cone_perception.positions.fusion import fuse
from cone_perception.positions.locate import GROUND, HEIGHT, STEREO, Locator
from cone_perception.positions.matching import cut, find
from cone_perception.positions.rig import Rig
from cone_perception.settings import DetectorSettings
from cone_perception.types import Detections, Frame
from training.simulate.bag import DriveFrame
from training.simulate.scene import SimulateSettings
from training.simulate.scenery.library import Library, make_library
from training.simulate.staged import Spot, fence, stage_scene, take_pair

SPOTS: list[Spot] = [
    (4.0, 1.5, BLUE),
    (6.0, -1.5, YELLOW),
    (9.0, 1.5, BLUE),
    (10.0, -3.0, LARGE_ORANGE),
    (13.0, -1.5, YELLOW),
    (18.0, 1.5, BLUE),
    (24.0, -1.5, YELLOW),
]
Pair = tuple[DriveFrame, DriveFrame]


@pytest.fixture(scope='module')
def library() -> Library:
    return make_library(3)


@pytest.fixture(scope='module')
def pair(library: Library) -> Pair:
    return take_pair(stage_scene(SPOTS, library), library, SimulateSettings(), noise=2.0)


def rig_of(pair: Pair, baseline_m: float | None = None) -> Rig:
    left, right = (eye.info for eye in pair)
    settings = DetectorSettings()
    rig = Rig.of(left, right, ['/left', '/right'], settings, None, 'zed_left')
    return rig if baseline_m is None else replace(rig, baseline_m=baseline_m)


def boxes_of(frame: DriveFrame) -> Detections:
    """The labels as if a network had found them."""
    box = np.array([label.xyxy_px for label in frame.labels], np.float32).reshape(-1, 4)
    class_id = np.array([label.class_id for label in frame.labels], np.int64)
    return Detections(box, np.full(len(box), 0.9, np.float32), class_id)


def locate(pair: Pair, right: Frame | None = None, **kwargs: float) -> tuple[Locator, dict]:
    locator = Locator(rig_of(pair, **kwargs), CLASS_NAMES)
    left = pair[0]
    return locator, locator.locate(boxes_of(left), Frame(left.image), right)


def errors_m(pair: Pair, positions) -> np.ndarray:
    return positions.xyz_m - pair[0].feet_m('left')


def test_two_eyes_place_every_cone(pair: Pair) -> None:
    locator, positions = locate(pair, Frame(pair[1].image))
    error = errors_m(pair, positions)
    depth = pair[0].feet_m('left')[:, 2]
    assert positions.frame_id == 'zed_left'
    assert positions.source.tolist() == [STEREO] * len(SPOTS)
    assert positions.counts['stereo'] == len(SPOTS)
    assert (np.abs(error[:, 2]) < 0.01 * depth + 0.0015 * depth**2).all()
    assert (np.abs(error[:, :2]) < 0.02 + 0.005 * depth[:, None]).all()
    deviation = np.sqrt(np.diagonal(positions.covariance_m2, axis1=1, axis2=2))
    assert (np.abs(error) < 4 * deviation).all()
    assert (deviation[:, 2] < 0.02 * depth + 0.003 * depth**2).all()
    assert not locator.warnings


def test_one_eye_places_cones_by_the_height_of_their_boxes(pair: Pair) -> None:
    locator, positions = locate(pair)
    error = errors_m(pair, positions)
    depth = pair[0].feet_m('left')[:, 2]
    assert set(positions.source.tolist()) == {HEIGHT}
    assert (np.abs(error[:, 2]) < 0.2 * depth).all()
    assert not locator.warnings


@pytest.mark.parametrize(
    ('right', 'told'),
    [
        (np.full((720, 1280, 3), 2, np.uint8), 'the right eye is dark'),
        (np.full((360, 640, 3), 120, np.uint8), '640x360'),
    ],
    ids=['dark', 'other size'],
)
def test_a_useless_right_eye_leaves_one_eye_and_is_told(pair: Pair, right, told: str) -> None:
    locator, positions = locate(pair, Frame(right))
    assert set(positions.source.tolist()) == {HEIGHT}
    (warning,) = locator.warnings
    assert told in warning
    locator.locate(boxes_of(pair[0]), Frame(pair[0].image), Frame(pair[1].image))
    assert not locator.warnings


def test_a_grey_right_eye_matches_nothing(pair: Pair) -> None:
    _, positions = locate(pair, Frame(np.full((720, 1280, 3), 120, np.uint8)))
    assert set(positions.source.tolist()) == {HEIGHT}


def test_no_cone_and_one_cone(pair: Pair) -> None:
    locator = Locator(rig_of(pair), CLASS_NAMES)
    left, right = (Frame(each.image) for each in pair)
    nothing = locator.locate(Detections.empty(), left, right)
    assert len(nothing) == 0
    assert nothing.frame_id == 'zed_left'
    assert len(locator.locate(boxes_of(pair[0])[:1], left, right)) == 1


@pytest.mark.parametrize('distance_m', [6.0, 12.0])
def test_a_fence_of_equal_cones_is_not_matched_by_one_off(
    library: Library, distance_m: float
) -> None:
    scene = stage_scene(fence(distance_m, 0.3, 9), library)
    pair = take_pair(scene, library, SimulateSettings(), noise=2.0)
    _, positions = locate(pair, Frame(pair[1].image))
    placed = positions.source == STEREO
    assert placed.sum() >= 8
    assert np.abs(errors_m(pair, positions)[placed, 2]).max() < 0.03 * distance_m


def test_exposure_does_not_move_a_match(pair: Pair) -> None:
    bright = np.clip(pair[1].image * 0.6 + 20, 0, 255).astype(np.uint8)
    _, one = locate(pair, Frame(pair[1].image))
    _, two = locate(pair, Frame(bright))
    np.testing.assert_allclose(two.xyz_m[:, 2], one.xyz_m[:, 2], rtol=0.01)


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
    assert GROUND != HEIGHT
