"""What must hold of positions whatever rig, camera_info and cones there are."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from placing import TOPICS, Pair, boxes_of, drawn, mounted, placed, rig_of, staged

from cone_perception.classes import BLUE, CLASS_NAMES, LARGE_ORANGE, YELLOW
from cone_perception.errors import CalibrationError
from cone_perception.positions.camera import CameraInfo
from cone_perception.positions.locate import HEIGHT, STEREO, Locator
from cone_perception.positions.rig import Rig
from cone_perception.settings import DetectorSettings
from cone_perception.types import CameraPicture, Float64, Frame, Positions
from training.simulate.staged import Spot, fence

TRACK: list[Spot] = [
    (x, side * 1.5, colour)
    for x in (4.0, 7.0, 10.0, 14.0, 18.0, 23.0)
    for side, colour in ((1, BLUE), (-1, YELLOW))
]


@pytest.fixture(scope='module')
def track() -> Pair:
    return staged(TRACK)


def nearer(pair: Pair, than_m: float) -> npt.NDArray[np.bool_]:
    """(N,) bool: which labelled cones of the left eye are nearer; they come farthest first."""
    return np.array([label.depth_m < than_m for label in pair[0].labels])


def shares(errors_m: Float64, positions: Positions) -> Float64:
    """(N,) Mahalanobis distance of each known error, square root."""
    return np.array(
        [
            np.sqrt(error @ np.linalg.inv(covariance) @ error)
            for error, covariance in zip(errors_m, positions.covariance_m2, strict=True)
            if np.isfinite(error).all()
        ]
    )


# --- cones ---


@pytest.mark.parametrize('baseline_m', [0.12, 0.24])
@pytest.mark.parametrize('spacing_m', [0.24, 0.3, 0.5, 0.8])
@pytest.mark.parametrize('distance_m', [5.0, 9.0, 14.0])
def test_a_fence_of_equal_cones_is_not_taken_for_its_neighbour(
    distance_m: float, spacing_m: float, baseline_m: float
) -> None:
    pair = staged(fence(distance_m, spacing_m, 9), baseline_error_m=baseline_m - 0.12)
    _, positions, errors_m = placed(pair)
    assert (positions.source == STEREO).sum() >= 7
    assert np.nanmax(np.abs(errors_m[:, 2])) < 1
    assert shares(errors_m, positions).max() < 4


def test_a_fence_along_the_view_is_not_taken_for_its_neighbour() -> None:
    """From the side of a straight, cones of one border stand close together in the picture."""
    pair = staged([(4.0 + 1.2 * k, 1.2, BLUE) for k in range(12)])
    _, positions, errors_m = placed(pair)
    near = positions.known & nearer(pair, 14)
    assert near.sum() >= 8
    assert np.abs(errors_m[near, 2]).max() < 1
    assert shares(errors_m, positions).max() < 4


@pytest.mark.parametrize('aside_m', [-0.1, -0.08, 0.04, 0.08, 0.1])
@pytest.mark.parametrize(('near_m', 'far_m'), [(6.0, 6.4), (9.0, 9.3), (9.0, 9.6)])
def test_a_cone_half_behind_another_is_placed_with_an_honest_covariance(
    near_m: float, far_m: float, aside_m: float
) -> None:
    pair = staged([(near_m, 0.0, YELLOW), (far_m, aside_m, BLUE)])
    assert nearer(pair, near_m + 0.2).tolist() == [False, True]
    assert 0.3 < pair[0].labels[0].visible < 0.95
    _, positions, errors_m = placed(pair)
    assert positions.source[1] == STEREO
    assert abs(errors_m[1, 2]) < 0.15
    assert not abs(errors_m[0, 2]) > 0.25
    assert shares(errors_m, positions).max() < 3.5


def test_no_cone_and_one_cone() -> None:
    for spots in ([], [(8.0, 0.5, BLUE)]):
        locator, positions, errors_m = placed(staged(spots))
        assert len(positions) == len(spots)
        assert positions.source.tolist() == [STEREO] * len(spots)
        assert not (np.abs(errors_m) > 0.1).any()
        assert positions.frame_id == 'left_optical'
        assert not locator.warnings


def test_100_cones() -> None:
    """Scattered, so that few hide others."""
    rng = np.random.default_rng(3)
    place = rng.permutation(100)
    angle = np.radians(np.linspace(-44, 44, 100))
    spots = [
        (x, float(x * np.tan(turn)), BLUE if turn > 0 else YELLOW)
        for x, turn in zip((4.5 + 0.12 * place).tolist(), angle.tolist(), strict=True)
    ]
    pair = staged(spots)
    visible = np.array([label.visible for label in pair[0].labels])
    assert len(visible) >= 95
    _, positions, errors_m = placed(pair)
    whole = visible > 0.9
    assert whole.sum() > 60
    assert (positions.source[whole] == STEREO).mean() > 0.9
    matched = positions.source == STEREO
    assert np.abs(errors_m[whole & matched & nearer(pair, 15), 2]).max() < 1
    assert (shares(errors_m, positions) > 4).mean() < 0.03


# --- rigs that are not as they should be ---


def test_eyes_whose_pictures_are_swapped_are_named(track: Pair) -> None:
    """Their camera_info is right: only the pictures tell."""
    left, right = track
    locator = Locator(rig_of(track), CLASS_NAMES)
    found = boxes_of(right)
    for _ in range(10):
        positions = locator.locate(found, Frame(right.image), Frame(left.image))
    (warning,) = locator.warnings
    assert 'swapped' in warning
    assert 'negative' in warning
    # Nothing is believed that the right eye shows.
    assert STEREO not in positions.source
    assert (positions.source == HEIGHT).sum() >= len(found) - 1
    assert shares(positions.xyz_m - right.feet_m('right'), positions).max() < 4
    for _ in range(10):
        positions = locator.locate(boxes_of(left), Frame(left.image), Frame(right.image))
    assert not locator.warnings
    assert (positions.source == STEREO).mean() > 0.9


def test_a_right_eye_without_camera_info_leaves_one_eye(track: Pair) -> None:
    left, right = track
    rig = Rig.of(left.info, None, TOPICS, DetectorSettings(), None, 'left_optical')
    positions = Locator(rig, CLASS_NAMES).locate(
        boxes_of(left), Frame(left.image), Frame(right.image)
    )
    assert set(positions.source.tolist()) == {HEIGHT}
    assert shares(positions.xyz_m - left.feet_m('left'), positions).max() < 4


def contradicting(name: str, right: CameraInfo) -> tuple[CameraInfo, tuple[str, str]]:
    """The right eye's camera_info, and the topics, that contradict the left eye's."""
    p = np.array(right.p)
    if name == 'zero':
        p[3] = 0
    if name == 'swapped':
        p[3] *= -1
    if name == 'focal':
        p[[0, 3, 5]] *= 1.1
    if name == 'rows':
        p[6] += 3
    topics = ('/left/image_rect', '/right/image') if name == 'mixed' else TOPICS
    size = (640, 360) if name == 'size' else (right.width_px, right.height_px)
    return right._replace(p=tuple(p.tolist()), width_px=size[0], height_px=size[1]), topics


@pytest.mark.parametrize(
    ('name', 'told'),
    [
        ('zero', 'the baseline is zero'),
        ('swapped', 'the eyes are swapped'),
        ('focal', 'focal lengths fx'),
        ('rows', 'rows cy'),
        ('mixed', '/left/image_rect is rectified, but /right/image is raw'),
        ('size', '640x360'),
    ],
)
def test_eyes_that_contradict_each_other_go_on_with_one_and_say_why(
    track: Pair, name: str, told: str
) -> None:
    left, right = track
    info, topics = contradicting(name, right.info)
    rig = Rig.of(left.info, info, topics, DetectorSettings(), None, 'left_optical')
    locator, positions, errors_m = placed(track, rig)
    (warning,) = locator.warnings
    assert told in warning
    assert set(positions.source.tolist()) == {HEIGHT}
    assert positions.counts['height'] == len(positions)
    assert shares(errors_m, positions).max() < 4


@pytest.mark.filterwarnings('error')
def test_a_rig_that_is_made_without_a_baseline_has_no_stereo(track: Pair) -> None:
    _, positions, errors_m = placed(track, replace(rig_of(track), baseline_m=0.0))
    assert set(positions.source.tolist()) == {HEIGHT}
    assert shares(errors_m, positions).max() < 4


def test_a_left_eye_without_calibration_is_refused(track: Pair) -> None:
    info = track[0].info._replace(k=(0.0,) * 9, p=(0.0,) * 12)
    with pytest.raises(CalibrationError, match='/left/image: P and K of camera_info are zero'):
        Rig.of(info, None, TOPICS, DetectorSettings(), None)


# camera_info that changes makes a new Locator: test_rigs.py and test_ros_positions.py hold that.


def test_small_pictures_are_placed_by_stereo() -> None:
    pair = staged(TRACK, wide=640)
    locator, positions, errors_m = placed(pair)
    assert not locator.warnings
    near = nearer(pair, 11)
    assert (positions.source[near] == STEREO).all()
    assert np.abs(errors_m[near, 2]).max() < 0.5
    assert shares(errors_m, positions)[near].max() < 4


def test_a_right_picture_of_another_size_leaves_one_eye(track: Pair) -> None:
    left, right = track
    locator = Locator(rig_of(track), CLASS_NAMES)
    half = cv2.resize(right.image, None, fx=0.5, fy=0.5)
    positions = locator.locate(boxes_of(left), Frame(left.image), Frame(np.asarray(half, np.uint8)))
    (warning,) = locator.warnings
    assert '640x360' in warning
    assert 'right' in warning
    assert set(positions.source.tolist()) == {HEIGHT}
    assert shares(positions.xyz_m - left.feet_m('left'), positions).max() < 4


def test_mono_cameras_are_placed_without_a_stereo_pair(track: Pair) -> None:
    left, right = track
    positions = Locator(rig_of(track), CLASS_NAMES).locate(
        boxes_of(left), CameraPicture.of_bgr(left.image)
    )
    assert set(positions.source.tolist()) == {HEIGHT}
    assert shares(positions.xyz_m - left.feet_m('left'), positions).max() < 4
    # A grey camera matches, too.
    grey = [
        CameraPicture(
            np.ascontiguousarray(cv2.cvtColor(eye.image, cv2.COLOR_BGR2GRAY)).ravel(),
            'mono8',
            1280,
            720,
            1280,
        )
        for eye in (left, right)
    ]
    positions = Locator(rig_of(track), CLASS_NAMES).locate(boxes_of(left), *grey)
    errors_m = positions.xyz_m - left.feet_m('left')
    assert (positions.source == STEREO).mean() > 0.8
    assert np.abs(errors_m[nearer(track, 12), 2]).max() < 0.5


def test_with_a_mount_positions_are_in_the_cars_frame(track: Pair) -> None:
    _, positions, errors_m = placed(track, rig_of(track, mounted()))
    assert positions.frame_id == 'base_footprint'
    assert np.abs(errors_m[nearer(track, 11), 1:]).max() < 0.1
    assert shares(errors_m, positions).max() < 3.5


@pytest.mark.parametrize(('settings', 'frame'), [(None, 'left'), (mounted(), 'base')])
def test_the_right_eye_alone_places_cones_where_the_left_one_does(
    track: Pair, settings: DetectorSettings | None, frame: str
) -> None:
    right = track[1]
    locator = Locator(rig_of(track, settings), CLASS_NAMES)
    found = boxes_of(right)
    positions = locator.locate(found, Frame(right.image), eye=1)
    off_m = positions.xyz_m - right.feet_m(frame)
    assert positions.frame_id == ('base_footprint' if settings else 'left_optical')
    aside = 1 if settings else 0
    assert np.median(np.abs(off_m[:, aside])) < 0.04
    assert shares(off_m, positions).max() < 4


@pytest.mark.parametrize(
    ('kind', 'called', 'disagree'), [(LARGE_ORANGE, BLUE, 0), (BLUE, LARGE_ORANGE, 1)]
)
def test_a_cone_whose_size_is_mistaken_is_placed_by_stereo(
    kind: int, called: int, disagree: int
) -> None:
    """A box that is slim for its class says little of the range, so it contradicts nothing."""
    pair = staged([(9.0, 0.5, kind)])
    label = replace(pair[0].labels[0], class_id=called)
    wrong = (replace(pair[0], labels=[label]), pair[1])
    _, positions, errors_m = placed(wrong)
    assert positions.source.tolist() == [STEREO]
    assert positions.counts['disagree'] == disagree
    assert abs(errors_m[0, 2]) < 0.25
    assert shares(errors_m, positions).max() < 3.5


def test_an_eye_whose_partner_is_dark_is_placed_by_height(track: Pair) -> None:
    left = track[0]
    positions = Locator(rig_of(track), CLASS_NAMES).locate(boxes_of(left), Frame(left.image))
    assert set(positions.source.tolist()) == {HEIGHT}
    assert shares(positions.xyz_m - left.feet_m('left'), positions).max() < 4


def test_the_yaw_between_the_eyes_is_learnt_from_pictures_and_corrected() -> None:
    """0.1 degree, which is 0.92 px, from 60 pictures of ten cones."""
    rng = np.random.default_rng(5)
    locators: list[Locator] = []
    for _ in range(60):
        depths_m = rng.permutation(np.linspace(4, 20, 10))
        angle = np.radians(np.linspace(-40, 40, 10) + rng.uniform(-2, 2, 10))
        spots = [(x, x * np.tan(a), BLUE) for x, a in zip(depths_m, angle, strict=True)]
        left, right = pair = staged(spots, right_yaw_deg=-0.1)
        rig = rig_of(pair)
        locators = locators or [Locator(rig, CLASS_NAMES, limit_px) for limit_px in (1.5, 0.0)]
        corrected, watched = (
            each.locate(drawn(left), Frame(left.image), Frame(right.image)) for each in locators
        )
    for locator, told in zip(locators, ('is corrected', 'yaw_correction_px is 0'), strict=True):
        (warning,) = locator.warnings
        assert 'the eyes look apart' in warning
        assert told in warning
        offset_px = float(locator.notes['yaw offset (px)'].split()[0])
        assert offset_px == pytest.approx(rig.left.fx_px * np.radians(0.1), abs=0.1)
    for positions in (corrected, watched):
        assert shares(positions.xyz_m - left.feet_m('left'), positions).max() < 4
