"""Tests what a result says of machine, bag and model."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cone_perception.engines.machine import NOT_TOLD, describe_host, read_commit, read_governor
from cone_perception.engines.tensorrt.plans import Compiled, PlanKey, PlanPlace
from cone_perception.model_card import read_bundle, shipped_bundle
from cone_perception.replay.run import describe_bag, describe_model
from cone_perception.replay.traces import Camera, Drive
from cone_perception.types import Detections


def git(folder: Path, *arguments: str) -> str:
    who = ('-c', 'user.name=nobody', '-c', 'user.email=nobody@example.org')
    command = ['git', '-C', str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / 'checkout'
    folder.mkdir()
    git(folder, 'init', '-q')
    (folder / 'a.txt').write_text('a')
    git(folder, 'add', 'a.txt')
    git(folder, 'commit', '-q', '-m', 'a')
    return folder


def test_host_has_every_entry_and_is_json() -> None:
    found = describe_host()
    assert set(found) == {
        *('processor', 'architecture', 'cores', 'cores_usable', 'memory_gb', 'governor'),
        *('gpu', 'driver', 'cuda', 'kernel', 'python', 'ros_distro', 'rmw', 'versions'),
        *('git_commit', 'git_dirty'),
    }
    assert found['versions']['numpy'] == np.__version__
    assert found['python'] == platform.python_version()
    assert 1 <= found['cores_usable'] <= found['cores']
    assert json.loads(json.dumps(found)) == found


def test_host_names_neither_user_nor_machine_nor_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('API_TOKEN', 'very-secret-value')
    monkeypatch.setenv('USER', 'some-user-name')
    monkeypatch.setenv('LOGNAME', 'some-user-name')
    assert getpass.getuser() == 'some-user-name'
    text = json.dumps(describe_host())
    assert 'very-secret-value' not in text
    assert 'some-user-name' not in text
    assert str(Path.home()) + os.sep not in text
    if len(platform.node()) > 3:
        assert platform.node() not in text


def test_ros_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    monkeypatch.setenv('RMW_IMPLEMENTATION', 'rmw_cyclonedds_cpp')
    found = describe_host()
    assert (found['ros_distro'], found['rmw']) == ('jazzy', 'rmw_cyclonedds_cpp')


def test_governors_of_all_cores_are_told_once(tmp_path: Path) -> None:
    for core, governor in enumerate(['powersave', 'performance', 'powersave']):
        folder = tmp_path / f'devices/system/cpu/cpu{core}/cpufreq'
        folder.mkdir(parents=True)
        (folder / 'scaling_governor').write_text(f'{governor}\n')
    assert read_governor(tmp_path) == 'performance, powersave'


def test_a_machine_that_tells_no_governor_is_said_so(tmp_path: Path) -> None:
    assert read_governor(tmp_path) == NOT_TOLD


def test_commit_is_that_of_the_checkout(checkout: Path) -> None:
    assert read_commit(checkout) == (git(checkout, 'rev-parse', 'HEAD'), False)


def test_a_changed_file_makes_the_checkout_dirty(checkout: Path) -> None:
    (checkout / 'a.txt').write_text('b')
    assert read_commit(checkout)[1] is True


def test_a_new_file_that_git_does_not_know_does_not(checkout: Path) -> None:
    (checkout / 'notes.txt').write_text('b')
    assert read_commit(checkout)[1] is False


def test_an_installed_package_has_no_commit(checkout: Path) -> None:
    """Its folder lies in a checkout, in a virtual environment say, but is none itself."""
    installed = checkout / '.venv' / 'site-packages'
    installed.mkdir(parents=True)
    assert read_commit(installed) == (None, None)


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', '')
    assert read_commit(checkout) == (None, None)


def test_a_checkout_without_a_commit_is_no_error(tmp_path: Path) -> None:
    git(tmp_path, 'init', '-q')
    assert read_commit(tmp_path) == (None, None)


def test_bag_is_told_with_its_cameras(tmp_path: Path) -> None:
    drive = Drive(
        bag=Path('drives/a'),
        sha256='ab',
        cameras=(Camera('left', '/camera/left/image_raw', False, '/camera/left/truth'),),
        frames=3,
        duration_s=0.2,
        storage='mcap',
        truth={('left', 1): Detections.empty()},
        problems=('stamps are not sorted',),
    )
    assert json.loads(json.dumps(describe_bag(drive))) == {
        'path': 'drives/a',
        'sha256': 'ab',
        'storage': 'mcap',
        'frames': 3,
        'duration_s': 0.2,
        'cameras': [
            {
                'name': 'left',
                'topic': '/camera/left/image_raw',
                'compressed': False,
                'truth_topic': '/camera/left/truth',
            }
        ],
        'truth_frames': 1,
        'problems': ['stamps are not sorted'],
    }


def test_model_is_told_as_its_card_and_the_node_do() -> None:
    bundle = read_bundle(shipped_bundle())
    network = bundle.card.networks[0]
    health = {
        'detector: camera': {'answered': '3'},
        'detector: node': {'engine': 'OpenVINO 2025 on CPU, int8', 'model sha256': network.sha256},
    }
    found = describe_model(bundle, health)
    assert found['network_sha256'] == network.sha256
    assert found['engine'] == 'OpenVINO 2025 on CPU, int8'
    card = (shipped_bundle() / 'card.json').read_bytes()
    assert found['card_sha256'] == hashlib.sha256(card).hexdigest()
    assert found['networks'][0]['file'] == network.file
    assert found['thresholds'] == dict(bundle.card.thresholds)
    assert found['view_thresholds'] == bundle.card.view_thresholds
    assert found['passport'] is None
    assert json.loads(json.dumps(found)) == found


def test_a_node_that_tells_nothing_leaves_it_open() -> None:
    found = describe_model(read_bundle(shipped_bundle()), {})
    assert found['engine'] is found['network_sha256'] is found['passport'] is None


def test_a_model_in_the_home_folder_does_not_name_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('HOME', str(shipped_bundle().parents[1]))
    assert describe_model(read_bundle(shipped_bundle()), {})['folder'] == '~/models/demo'


def test_the_passport_is_that_of_the_network_that_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    (tmp_path / 'choice.json').write_text('{}')
    for sha256, gpu in (('aa', 'one GPU'), ('bb', 'another')):
        key = PlanKey(sha256, 'int8', 1, 'tensorrt', '10.1', gpu, '8.9', '550', '12.4')
        PlanPlace('demo', key).store(Compiled(b'plan', {}, {}))
    told = {'node': {'engine': 'TensorRT 10.1 on one GPU, int8', 'model sha256': 'aa'}}
    found = describe_model(read_bundle(shipped_bundle()), told)
    assert found['passport']['key']['gpu'] == 'one GPU'
    told = {'node': {'engine': 'TensorRT 10.1 on one GPU, int8', 'model sha256': 'cc'}}
    assert describe_model(read_bundle(shipped_bundle()), told)['passport'] is None
