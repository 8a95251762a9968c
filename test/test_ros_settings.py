"""Settings as text, and the settings files: nothing in them may drift from DetectorSettings."""

from __future__ import annotations

import argparse
import signal
from dataclasses import fields
from importlib.metadata import PackageNotFoundError

import pytest
import yaml

from cone_perception.errors import ConePerceptionError
from cone_perception.ros import node, transport
from cone_perception.settings import DetectorSettings, settings_help, settings_yaml


def parameters_of(path):
    return yaml.safe_load(path.read_text(encoding='utf-8'))['/**']['ros__parameters']


def test_shipped_settings_file_lists_every_default(repository):
    path = repository / 'config' / 'detector.yaml'
    values = parameters_of(path)
    assert list(values) == [entry.name for entry in fields(DetectorSettings)]
    assert DetectorSettings.from_mapping(values) == DetectorSettings()
    assert path.read_text(encoding='utf-8') == settings_yaml(), (
        'write it anew: python -m cone_perception.settings > config/detector.yaml'
    )


@pytest.mark.parametrize('name', ['zed2i.yaml'])
def test_camera_settings_are_valid(repository, name):
    settings = DetectorSettings.from_mapping(parameters_of(repository / 'config' / name))
    assert (settings.expected_width_px, settings.expected_height_px) == (1280, 720)
    assert all(topic.startswith('/zed/zed_node/') for topic in settings.topics)


def test_help_names_every_setting():
    text = settings_help()
    for entry in fields(DetectorSettings):
        assert f'  {entry.name} (' in text
        assert entry.metadata['description'] in text
    assert 'min_height_px (float, 0 to 16384, default 0.0, live)' in text
    assert 'engine (auto | tensorrt | tensorrt_rtx | openvino | onnxruntime' in text


def test_missing_ros_is_said_in_a_line(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(transport, 'version', version)
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    monkeypatch.delenv('FASTRTPS_DEFAULT_PROFILES_FILE', raising=False)
    monkeypatch.delenv('FASTDDS_DEFAULT_PROFILES_FILE', raising=False)
    with pytest.raises(ConePerceptionError, match=r'rclpy.*make setup'):
        node.run(argparse.Namespace(ros_arguments=[]))
