"""Settings: what is refused, and files and help, of which nothing may drift from the class."""

from __future__ import annotations

import argparse
import signal
from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError

import pytest
import yaml

from cone_perception.errors import ConePerceptionError, SettingsError
from cone_perception.filters import Filters
from cone_perception.ros import node, transport
from cone_perception.settings import DetectorSettings, settings_help, settings_yaml


def test_defaults_are_valid_and_name_one_camera():
    settings = DetectorSettings()
    assert settings.topics == ('camera/image',)
    assert settings.filters == Filters()


def test_unknown_setting_is_refused_by_name():
    with pytest.raises(SettingsError, match=r'no entry treshold; there are .*thresholds'):
        DetectorSettings.from_mapping({'treshold': 0.4})


@pytest.mark.parametrize(
    'values, message',
    [
        ({'queue_depth': 0}, r'queue_depth must lie in 1..100, got 0'),
        ({'queue_depth': '3'}, 'queue_depth must be of type int'),
        ({'queue_depth': True}, 'queue_depth must be of type int'),
        ({'engine': 'abacus'}, 'engine must be one of auto, tensorrt, .*, openvino, onnxruntime'),
        ({'device': 'gpu'}, 'device must be one of auto, cuda, cpu'),
        ({'device': 'cuda', 'engine': 'openvino'}, 'device is cuda, but engine openvino runs on'),
        ({'device': 'cpu', 'engine': 'tensorrt'}, 'device is cpu, but engine tensorrt runs on'),
        ({'build_only': True, 'device': 'cpu'}, 'build_only has nothing to build: .* on the CPU'),
        ({'build_only': True, 'build': 'never'}, 'build_only has nothing to build: .*build never'),
        ({'cameras': 'left'}, 'cameras must be a list of str'),
        ({'cameras': ['left', 'left']}, 'distinct'),
        ({'cameras': []}, 'distinct'),
        ({'image_topics': ['a', 'b']}, 'image_topics must name 1'),
        ({'side_by_side': True}, 'side_by_side needs two cameras'),
        ({'batch': 5}, r'batch must lie in 1..4'),
        ({'thresholds': ['blue_cone']}, "written 'blue_cone:0.4'"),
        ({'thresholds': ['blue_cone:1.4']}, r'must lie in 0..1, got 1.4'),
        ({'region': [0.1, 0.2]}, 'three corners'),
        ({'region': [0.0, 0.0, 2.0, 0.0, 1.0, 1.0]}, 'fractions'),
        ({'min_height_px': 50.0, 'max_height_px': 20.0}, 'no box could pass'),
        ({'silence_s': float('nan')}, 'silence_s must lie in'),
    ],
)
def test_impossible_value_is_refused_by_name(values, message):
    with pytest.raises(SettingsError, match=message):
        DetectorSettings.from_mapping(values)


def test_batch_that_is_never_full_is_refused():
    for batch, cameras in ((2, ('camera',)), (3, ('left', 'right')), (2, ('a', 'b', 'c'))):
        settings = DetectorSettings(batch=batch, cameras=cameras)
        with pytest.raises(SettingsError, match=f'batch is {batch}, but whole pictures'):
            settings.check_batch('whole')
        settings.check_batch('whole+horizon')
    eyes = DetectorSettings(batch=2, cameras=('left', 'right'))
    eyes.check_batch('whole')
    with pytest.raises(SettingsError, match=r"whole pictures of \['left'\] fill 1"):
        replace(eyes, stereo=True).check_batch('whole')
    replace(eyes, stereo=True).check_batch('whole+horizon')


def test_compressed_topics_are_told_by_their_name_or_by_the_setting():
    assert DetectorSettings().is_compressed('/cam/image/compressed')
    assert not DetectorSettings().is_compressed('/cam/image')
    assert DetectorSettings(transport='compressed').is_compressed('/cam/image')
    assert not DetectorSettings(transport='raw').is_compressed('/cam/compressed')


def test_thresholds_replace_only_the_classes_named():
    settings = DetectorSettings.from_mapping({'thresholds': ['blue_cone:0.4', 'yellow_cone: 0.3']})
    assert settings.filters.thresholds == {'blue_cone': 0.4, 'yellow_cone': 0.3}


def test_side_by_side_pair_comes_on_one_topic():
    settings = DetectorSettings(cameras=('left', 'right'), side_by_side=True)
    assert settings.topics == ('left/image',)


@pytest.mark.parametrize(
    ('values', 'asked_by'),
    [
        ({}, ''),
        ({'device': 'cuda'}, 'device: cuda'),
        ({'engine': 'tensorrt_rtx'}, 'engine: tensorrt_rtx'),
        ({'build_only': True}, 'build_only: true'),
        ({'device': 'cpu'}, ''),
        ({'engine': 'openvino'}, ''),
    ],
)
def test_setting_that_leaves_no_choice_but_the_gpu_is_known(values, asked_by):
    settings = DetectorSettings(**values)
    assert settings.gpu_asked_by == asked_by
    assert settings.runs_on_cpu == (values in ({'device': 'cpu'}, {'engine': 'openvino'}))


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
