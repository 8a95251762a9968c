from __future__ import annotations

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import Reader

from cone_perception.bags.reader import bag_types
from cone_perception.classes import CLASS_NAMES
from cone_perception.errors import OutputError
from training.simulate.bag import drive_frames, write_drive
from training.simulate.settings import SimulateSettings

SETTINGS = SimulateSettings(width_px=320, height_px=180)


def read_bag(path):
    store = bag_types()
    messages = {}
    with Reader(path) as reader:
        for connection, time_ns, data in reader.messages():
            message = store.deserialize_cdr(data, connection.msgtype)
            messages.setdefault(connection.topic, []).append((time_ns, message))
    return messages


def stamp_ns(message) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def test_bag_returns_pictures_stamps_and_truth(tmp_path) -> None:
    write_drive(tmp_path / 'bag', SETTINGS, seed=4, seconds=1.0, hz=5)
    frames = list(drive_frames(SETTINGS, 4, 1.0, 5))
    bag = read_bag(tmp_path / 'bag')
    assert set(bag) == {'/camera/image', '/camera/camera_info', '/camera/ground_truth'}
    assert sum(len(frame.labels) for frame in frames) > 0
    for topic in bag:
        assert [time for time, _ in bag[topic]] == [frame.stamp_ns for frame in frames]
    for k, frame in enumerate(frames):
        image = bag['/camera/image'][k][1]
        info = bag['/camera/camera_info'][k][1]
        truth = bag['/camera/ground_truth'][k][1]
        for message in (image, info, truth):
            assert stamp_ns(message) == frame.stamp_ns > 0
            assert message.header.frame_id == 'zed_left_camera_optical_frame'
        assert (image.encoding, image.step) == ('bgr8', 960)
        np.testing.assert_array_equal(image.data.reshape(180, 320, 3), frame.image)
        np.testing.assert_allclose(info.k.reshape(3, 3), frame.camera.matrix)
        assert len(truth.detections) == len(frame.labels)
        for detection, label in zip(truth.detections, frame.labels, strict=True):
            hypothesis = detection.results[0].hypothesis
            assert hypothesis.class_id == CLASS_NAMES[label.class_id]
            assert hypothesis.score == 1.0
            centre, box = detection.bbox.center.position, detection.bbox
            corners = (
                centre.x - box.size_x / 2,
                centre.y - box.size_y / 2,
                centre.x + box.size_x / 2,
                centre.y + box.size_y / 2,
            )
            np.testing.assert_allclose(corners, label.xyxy_px, atol=1e-9)


def test_car_moves_smoothly_along_its_track() -> None:
    frames = list(drive_frames(SETTINGS, 1, 2.0, 10))
    places = np.array([frame.camera.position_m for frame in frames])
    steps = np.hypot(*np.diff(places[:, :2], axis=0).T)
    assert (steps > 0.3).all()
    assert (steps < 1.5).all()
    yaw = np.unwrap([frame.camera.yaw_rad for frame in frames])
    assert np.abs(np.diff(yaw)).max() < 0.35


def test_drive_is_the_same_every_time_and_another_seed_is_another_drive() -> None:
    first, again, other = (next(iter(drive_frames(SETTINGS, seed, 1, 1))) for seed in (2, 2, 3))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.labels == again.labels
    assert first.stamp_ns != other.stamp_ns
    assert (first.image != other.image).any()


def test_stereo_eyes_share_stamps_and_see_a_parallax(tmp_path) -> None:
    write_drive(tmp_path / 'bag', SETTINGS, 4, 1.0, 3, compressed=True, stereo=True)
    bag = read_bag(tmp_path / 'bag')
    left, right = bag['/camera/left/image/compressed'], bag['/camera/right/image/compressed']
    assert [stamp_ns(m) for _, m in left] == [stamp_ns(m) for _, m in right]
    assert {m.header.frame_id for _, m in right} == {'zed_right_camera_optical_frame'}
    assert left[0][1].format == 'jpeg'
    assert cv2.imdecode(left[0][1].data, cv2.IMREAD_COLOR).shape == (180, 320, 3)
    info = bag['/camera/right/camera_info'][0][1]
    assert info.p[3] == pytest.approx(-0.12 * info.k[0])
    frames = list(drive_frames(SETTINGS, 4, 1.0, 3, stereo=True))
    here, there = frames[0], frames[1]
    near = min(here.labels, key=lambda label: label.depth_m)
    twin = min(there.labels, key=lambda label: abs(label.depth_m - near.depth_m))
    shift = (near.xyxy_px[0] + near.xyxy_px[2] - twin.xyxy_px[0] - twin.xyxy_px[2]) / 2
    assert shift == pytest.approx(0.12 * here.camera.fx_px / near.depth_m, rel=0.25, abs=0.6)


def test_existing_bag_is_not_overwritten(tmp_path) -> None:
    (tmp_path / 'bag').mkdir()
    with pytest.raises(OutputError, match='exists'):
        write_drive(tmp_path / 'bag', SETTINGS, 0, 1, 1)
