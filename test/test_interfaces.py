"""vision_msgs built from this repository's definitions is the vision_msgs that apt installs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cone_perception.bags.reader import DETECTIONS, bag_types
from cone_perception.interfaces import build

# Of vision_msgs 4.1.1's own definition, as its generated C code states it.
APT_TYPE_HASH = 'RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968'


def test_definitions_have_the_type_hash_of_apts() -> None:
    assert bag_types().hash_rihs01(DETECTIONS) == APT_TYPE_HASH


def fill(types: Any) -> Any:
    """A Detection2DArray of two detections made of `types`, rclpy's classes or rosbags'."""
    stamp = types.Time(sec=7, nanosec=123_456_789)
    header = types.Header(stamp=stamp, frame_id='left_camera')
    detections = []
    for index, name in enumerate(('blue_cone', 'yellow_cone')):
        pose = types.PoseWithCovariance(
            pose=types.Pose(
                position=types.Point(x=0.0, y=0.0, z=0.0),
                orientation=types.Quaternion(x=0.0, y=0.0, z=0.0, w=1.0),
            ),
            covariance=np.arange(36, dtype=np.float64),
        )
        hypothesis = types.ObjectHypothesis(class_id=name, score=0.75 + index / 8)
        center = types.Pose2D(position=types.Point2D(x=100.5 + index, y=20.25), theta=0.0)
        detections.append(
            types.Detection2D(
                header=header,
                results=[types.ObjectHypothesisWithPose(hypothesis=hypothesis, pose=pose)],
                bbox=types.BoundingBox2D(center=center, size_x=12.5, size_y=30.0),
                id=str(index),
            )
        )
    return types.Detection2DArray(header=header, detections=detections)


@pytest.mark.ros
def test_rclpy_and_rosbags_read_what_the_other_wrote() -> None:
    import builtin_interfaces.msg
    import geometry_msgs.msg
    import std_msgs.msg
    import vision_msgs.msg
    from rclpy.serialization import deserialize_message, serialize_message

    packages = (builtin_interfaces.msg, geometry_msgs.msg, std_msgs.msg, vision_msgs.msg)
    of_rclpy = SimpleNamespace()
    of_rosbags = SimpleNamespace()
    for package in packages:
        vars(of_rclpy).update(vars(package))
        prefix = package.__name__.replace('.', '/') + '/'
        for name, kind in bag_types().types.items():
            if name.startswith(prefix):
                setattr(of_rosbags, name.removeprefix(prefix), kind)
    message = fill(of_rclpy)
    expected = bytes(bag_types().serialize_cdr(fill(of_rosbags), DETECTIONS))
    # rclpy leaves old memory in the gaps between fields: read and written anew they are zero.
    read = bag_types().deserialize_cdr(serialize_message(message), DETECTIONS)
    assert bytes(bag_types().serialize_cdr(read, DETECTIONS)) == expected
    assert deserialize_message(expected, vision_msgs.msg.Detection2DArray) == message


def test_missing_compilers_are_named_with_the_way_to_get_them(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'cone_perception.interfaces.build', '--check'],
        env={**os.environ, 'PATH': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert 'gcc (sudo apt install gcc); g++ (sudo apt install g++)' in done.stderr


def test_missing_headers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build.sysconfig, 'get_config_var', lambda name: str(tmp_path))
    with pytest.raises(build.InstallError, match='python3-dev'):
        build.check_prerequisites()


def test_vision_msgs_of_apt_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'vision_msgs').mkdir()
    (tmp_path / 'vision_msgs' / '__init__.py').touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(build, '_installed_version', lambda distribution: None)
    monkeypatch.setattr(build, '_run', lambda *command: pytest.fail(f'ran {command}'))
    build.provide_vision_msgs()
    assert 'nothing to build' in capsys.readouterr().out


def test_without_ros_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, '_installed_version', lambda distribution: None)
    monkeypatch.setattr(build.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(build.InstallError, match=r'apt install ros-\$ROS_DISTRO-vision-msgs'):
        build.provide_vision_msgs()


@pytest.mark.ros
def test_second_set_up_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, '_run', lambda *command: pytest.fail(f'ran {command}'))
    build.provide_vision_msgs()
