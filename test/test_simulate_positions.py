from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from cone_perception.bags.cones3d import cones_message, cones_of
from cone_perception.bags.reader import bag_types, open_bag, read_messages
from cone_perception.classes import BLUE, CLASS_NAMES, LARGE_ORANGE, YELLOW
from cone_perception.errors import OutputError
from cone_perception.positions.stance import IN_CAMERA
from cone_perception.types import Frame, Positions
from training.simulate.bag import DriveFrame, drive_frames, write_drive
from training.simulate.camera import PinholeCamera, load_camera
from training.simulate.dataset import write_dataset
from training.simulate.rig.eyes import BASELINE_M
from training.simulate.scene import SimulateSettings
from training.simulate.scenery.library import make_library
from training.simulate.staged import fence, stage_scene, take_pair

SMALL = SimulateSettings(width_px=320, height_px=180, fallen=0)


def pixels(camera: PinholeCamera, points_m: np.ndarray) -> np.ndarray:
    """(N, 2) where world points lie in the picture; the upper left corner is 0, 0."""
    optical = camera.to_optical(points_m)
    return camera.distort(optical[:, :2] / optical[:, 2:]) + 0.5


@pytest.fixture(scope='module')
def drive() -> list[DriveFrame]:
    """Four pairs of pictures, the left eye's first."""
    frames = list(drive_frames(SMALL, 4, 1.0, 4, stereo=True))
    assert sum(len(frame.labels) for frame in frames) > 20
    return frames


def test_a_cone_keeps_its_number_and_its_place_from_picture_to_picture(drive) -> None:
    places: dict[int, set[tuple[float, ...]]] = {}
    for frame in drive:
        assert len({label.cone for label in frame.labels}) == len(frame.labels)
        for label in frame.labels:
            places.setdefault(label.cone, set()).add(label.foot_m)
    assert max(map(len, places.values())) == 1
    assert len(set.union(*places.values())) == len(places)
    assert all(foot[2] == 0 for feet in places.values() for foot in feet)


def test_the_eyes_are_one_baseline_apart(drive) -> None:
    for frame in drive:
        shift = frame.feet_m('left') - frame.feet_m('right')
        np.testing.assert_allclose(shift, [[BASELINE_M, 0, 0]] * len(frame.labels), atol=1e-9)


def test_the_nominal_mount_leads_from_the_eye_to_the_car() -> None:
    """Without pitch, roll and bounce of the car the camera's mount is that of its file."""
    file = load_camera()
    camera = replace(file, position_m=(30.0, -4.0, file.position_m[2]), yaw_rad=2.2)
    feet = np.array([[25.0, 1.0, 0.0], [20.0, 9.0, 0.0]])
    optical = camera.to_optical(feet)
    sin, cos = np.sin(file.pitch_rad), np.cos(file.pitch_rad)
    mount = np.array([[0, -sin, cos], [-1, 0, 0], [0, -cos, -sin]])
    base = optical @ mount.T + (0, 0, file.position_m[2])
    np.testing.assert_allclose(camera.to_level(feet), base, atol=1e-9)
    ahead = np.array([30 + 10 * np.cos(2.2), -4 + 10 * np.sin(2.2), 0.0])
    np.testing.assert_allclose(camera.to_level(ahead), [10, 0, 0], atol=1e-9)


def test_feet_project_to_the_foot_of_their_boxes(drive) -> None:
    across, below = [], []
    for frame in drive:
        camera = frame.camera
        feet = np.array([label.foot_m for label in frame.labels])
        away = feet - (*camera.position_m[:2], 0)
        # As far towards the camera as the plate of the largest cone may reach.
        near = feet - 0.21 * away / np.linalg.norm(away, axis=1, keepdims=True)
        x, y, lowest = (
            pixels(camera, feet)[:, 0],
            *(pixels(camera, at)[:, 1] for at in (feet, near)),
        )
        for k, label in enumerate(frame.labels):
            if label.visible > 0.98:
                left, _, right, bottom = label.xyxy_px
                across.append((left + right) / 2 - x[k])
                below.append(bottom - y[k])
                assert y[k] - 1 < bottom < lowest[k] + 2
    assert len(across) > 20
    assert np.median(np.abs(across)) < 0.05
    assert np.abs(across).max() < 1.0
    assert np.median(below) < 0.5


def test_the_car_sees_the_same_cone_from_either_eye(drive) -> None:
    for left, right in zip(drive[::2], drive[1::2], strict=True):
        here, there = (
            dict(zip([label.cone for label in eye.labels], eye.feet_m('base'), strict=True))
            for eye in (left, right)
        )
        both = set(here) & set(there)
        assert both
        assert all((here[cone] == there[cone]).all() for cone in both)
        assert all(place[0] > 0 for place in here.values())


def test_a_staged_fence_stands_where_it_was_put() -> None:
    library = make_library(3)
    scene = stage_scene(fence(8.0, 0.7, 5, YELLOW), library)
    left, right = take_pair(scene, library, SimulateSettings(), noise=2.0)
    for eye in (left, right):
        assert [label.cone for label in eye.labels] == [0, 1, 2, 3, 4]
        assert {label.class_id for label in eye.labels} == {YELLOW}
        np.testing.assert_allclose(eye.feet_m('base')[:, 0], 8.0)
        np.testing.assert_allclose(eye.feet_m('base')[:, 1], [1.4, 0.7, 0, -0.7, -1.4], atol=1e-9)
    assert left.image.shape == (720, 1280, 3)
    apart = left.image[:200].astype(int) - right.image[:200]
    assert 2 < apart.std() < 8


def test_the_bag_tells_where_the_cones_stand_in_three_frames(tmp_path: Path, drive) -> None:
    write_drive(tmp_path / 'bag', SMALL, 4, 1.0, 4, compressed=True, stereo=True)
    frames = {
        '/camera/left': ('left', 'zed_left_camera_optical_frame'),
        '/camera/right': ('right', 'zed_right_camera_optical_frame'),
        '/camera': ('base', 'base_footprint'),
    }
    store = bag_types()
    messages: dict[str, list[Any]] = {f'{space}/ground_truth_3d': [] for space in frames}
    with open_bag(tmp_path / 'bag') as bag:
        for one in read_messages(bag, messages):
            messages[one.topic].append(store.deserialize_cdr(one.data, one.type_name))
    for space, (name, frame_id) in frames.items():
        told = messages[f'{space}/ground_truth_3d']
        taken = drive[1::2] if name == 'right' else drive[::2]
        assert [one.header.stamp.nanosec for one in told] == [one.stamp_ns % 10**9 for one in taken]
        for one, frame in zip(told, taken, strict=True):
            ids = [str(label.cone) for label in frame.labels]
            positions = cones_of(one).of(ids)
            assert positions.frame_id == frame_id
            assert positions.known.all()
            np.testing.assert_allclose(positions.xyz_m, frame.feet_m(name), atol=1e-9)
            assert (positions.covariance_m2 == 0).all()
            names = dict(zip(cones_of(one).ids, cones_of(one).class_names, strict=True))
            assert [names[cone] for cone in ids] == [CLASS_NAMES[x.class_id] for x in frame.labels]
    base = [set(cones_of(one).ids) for one in messages['/camera/ground_truth_3d']]
    seen = [{str(label.cone) for label in frame.labels} for frame in drive]
    assert base == [left | right for left, right in zip(seen[::2], seen[1::2], strict=True)]


def test_positions_are_written_and_read_back_by_id() -> None:
    rng = np.random.default_rng(3)
    spread = rng.normal(0, 0.2, (3, 3, 3))
    covariance_m2 = spread @ spread.transpose(0, 2, 1)
    feet = np.array([[5.0, 1.0, 0.0], [np.nan] * 3, [9.0, -2.0, 0.1]])
    positions = Positions(feet, covariance_m2, np.array([1, 0, 2]), 'base_footprint')
    frame = Frame(np.zeros((4, 4, 3), np.uint8), 1_500_000_000)
    written = cones_message(
        bag_types(), frame, ['0', '1', '2'], [BLUE, BLUE, LARGE_ORANGE], positions
    )
    store, kind = bag_types(), 'vision_msgs/msg/Detection3DArray'
    message = store.deserialize_cdr(store.serialize_cdr(written, kind), kind)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1, 500_000_000)
    assert [one.id for one in message.detections] == ['0', '2']
    large = message.detections[1].bbox
    assert (large.size.x, large.size.y, large.size.z) == (0.285, 0.285, 0.505)
    assert large.center.position.z == pytest.approx(0.1 + 0.505 / 2)
    read = cones_of(message).of(['2', '7', '0'])
    np.testing.assert_allclose(read.xyz_m, feet[[2, 1, 0]])
    np.testing.assert_allclose(read.covariance_m2[[0, 2]], covariance_m2[[2, 0]])
    assert read.known.tolist() == [True, False, True]
    assert cones_of(message).class_names == ('blue_cone', 'large_orange_cone')
    one = Positions(feet[:1], covariance_m2[:1], np.ones(1, np.int64), 'camera_optical_frame')
    in_camera = cones_message(bag_types(), frame, ['0'], [BLUE], one, IN_CAMERA)
    assert in_camera.detections[0].bbox.center.position.y == pytest.approx(1.0 - 0.325 / 2)
    message.detections[1].id = '0'
    with pytest.raises(ValueError, match='several cones with the id 0'):
        cones_of(message)
    message.detections[1].results = []
    message.detections[1].id = '5'
    with pytest.raises(ValueError, match="'5' of the message has no result"):
        cones_of(message)


def test_a_data_set_tells_where_its_cones_stand(tmp_path: Path) -> None:
    """Also of a picture with a border, whose principal point lies elsewhere."""
    settings = SimulateSettings(fallen=0, clutter=0, photo=0)
    counts = {'train': 5, 'val': 0, 'test': 0}
    write_dataset(tmp_path, settings, 8, counts, positions=True)
    misses = []
    for file in sorted(tmp_path.glob('train/positions/*.json')):
        told = json.loads(file.read_text(), object_hook=lambda one: SimpleNamespace(**one))
        lines = (tmp_path / 'train/labels' / f'{file.stem}.txt').read_text().splitlines()
        rows = np.array([line.split() for line in lines], np.float64).reshape(-1, 5)
        assert told.ground_truth_3d_optical.header.frame_id == 'zed_left_camera_optical_frame'
        assert told.ground_truth_3d.header.frame_id == 'base_footprint'
        cones = cones_of(told.ground_truth_3d_optical)
        assert cones.ids == cones_of(told.ground_truth_3d).ids
        assert [CLASS_NAMES.index(name) for name in cones.class_names] == rows[:, 0].tolist()
        foot_m, base_m = cones.positions.xyz_m, cones_of(told.ground_truth_3d).positions.xyz_m
        np.testing.assert_allclose(base_m[:, 2], 0)
        away = np.linalg.norm(base_m[:, :2], axis=1)
        assert (np.linalg.norm(foot_m, axis=1) > away).all()  # the eye is above the ground
        if not len(rows):
            continue
        info = told.camera_info
        matrix, size = np.array(info.k).reshape(3, 3), (info.width, info.height)
        feet_px = cv2.projectPoints(foot_m, np.zeros(3), np.zeros(3), matrix, np.array(info.d))[0]
        misses += (rows[:, 1] * size[0] - feet_px.reshape(-1, 2)[:, 0] - 0.5).tolist()
    assert len(misses) > 30
    assert np.quantile(np.abs(misses), 0.9) < 1.0
    with pytest.raises(OutputError, match='another positions'):
        write_dataset(tmp_path, settings, 8, counts)
