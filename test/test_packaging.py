"""Tests what setup.cfg, setup.py and the package.xml files promise."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cone_perception
from cone_perception import cli
from cone_perception.arguments import CommandParser
from cone_perception.cli import SUBCOMMANDS as ON_THE_CAR
from training.cli import EXAMPLES, SUBCOMMANDS, main

REPOSITORY = Path(__file__).resolve().parents[1]
SETUP_CFG = configparser.ConfigParser()
SETUP_CFG.read(REPOSITORY / 'setup.cfg')
EXTRAS = sorted(SETUP_CFG['options.extras_require'])
PROGRAMS = {'cone-perception': (ON_THE_CAR, cli.EXAMPLES), 'cone-training': (SUBCOMMANDS, EXAMPLES)}


def test_promised_extras_exist() -> None:
    assert {'ros', 'cpu', 'tensorrt', 'rtx', 'train', 'data', 'dev'} <= set(EXTRAS)


def test_every_requirement_has_a_lower_bound() -> None:
    lines = SETUP_CFG['options']['install_requires'].split('\n')
    for extra in EXTRAS:
        lines += SETUP_CFG['options.extras_require'][extra].split('\n')
    unbound = [line for line in lines if line and '>=' not in line]
    assert unbound == ['cone_perception[ros-kilted]']
    assert 'matplotlib>=' not in '\n'.join(lines)  # no module imports it


@pytest.mark.parametrize('lock', sorted((REPOSITORY / 'locks').glob('*.txt')), ids=lambda p: p.stem)
def test_lock_holds_what_setup_cfg_requires(lock: Path) -> None:
    what, _, *distro = lock.stem.split('-')
    (extras,) = re.findall(rf'^EXTRAS_{what} = (.*)$', (REPOSITORY / 'Makefile').read_text(), re.M)
    lines = SETUP_CFG['options']['install_requires'].split('\n')
    for extra in [*extras.split(','), *(f'ros-{name}' for name in distro)]:
        lines += SETUP_CFG['options.extras_require'][extra].split('\n')
    locked = dict(re.findall(r'^([a-z0-9-]+)==(\S+)', lock.read_text(), re.M))
    for line in filter(None, lines):
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name not in ('torch', 'torchvision'):  # the Makefile pins them
            assert requirement.specifier.contains(locked[name]), line


@pytest.mark.parametrize('path', ['package.xml', 'training/package.xml'])
def test_package_xml_states_the_same_version(path: str) -> None:
    root = ET.parse(REPOSITORY / path).getroot()
    assert root.findtext('version') == cone_perception.__version__
    assert root.findtext('export/build_type') == 'ament_python'


def write_fake_python(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text('#!/bin/sh\nprintf "%s|" "$0" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize('place', ['prefix', 'active', 'path'])
def test_executable_runs_in_the_nearest_python(place: str, tmp_path: Path) -> None:
    prefix = tmp_path / 'prefix'
    detector = prefix / 'lib' / 'cone_perception' / 'detector'
    shared = prefix / 'share' / 'cone_perception' / 'find_python.sh'
    for source, target in (('lib/cone_perception/detector', detector), ('find_python.sh', shared)):
        target.parent.mkdir(parents=True)
        shutil.copy(REPOSITORY / 'resource' / source, target)
    pythons = {'path': write_fake_python(tmp_path / 'path' / 'python3')}
    environment = {'PATH': f'{tmp_path / "path"}:/usr/bin:/bin'}
    if place in ('prefix', 'active'):
        pythons['active'] = write_fake_python(tmp_path / 'active' / 'bin' / 'python3')
        environment['VIRTUAL_ENV'] = str(tmp_path / 'active')
    if place == 'prefix':
        pythons['prefix'] = write_fake_python(prefix / 'bin' / 'python3')
    command = [detector, '--ros-args', '-p', 'model:=my model']
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    module = ['-m', 'cone_perception.cli', 'node']
    expected = [str(pythons[place]), *module, '--ros-args', '-p', 'model:=my model', '']
    assert done.stdout.split('|') == expected


@pytest.mark.parametrize(
    'package,command', [('training', 'cone-training'), ('cone_perception', 'cone-perception')]
)
def test_every_subcommand_is_an_executable_that_runs_it(package: str, command: str) -> None:
    folder = REPOSITORY / 'resource' / 'lib' / package
    # `replay compare` is `replay` with an argument; `node` is what launch knows as detector.
    wanted = {name.replace('-', '_'): name for name in PROGRAMS[command][0] if ' ' not in name}
    if 'node' in wanted:
        wanted['detector'] = wanted.pop('node')
    assert {path.name for path in folder.iterdir()} == {*wanted, command}
    for name, subcommand in wanted.items():
        last = (folder / name).read_text().splitlines()[-1]
        assert last == f'exec "$python" -m {package}.cli {subcommand} "$@"'
        assert os.access(folder / name, os.X_OK)


def parsers_below(parser: CommandParser) -> Iterator[CommandParser]:
    yield parser
    for below in parser.subcommands.values():
        yield from parsers_below(below)


@pytest.mark.parametrize('program,name', [(p, name) for p in PROGRAMS for name in PROGRAMS[p][0]])
def test_every_help_ends_with_an_example_that_can_be_typed(program: str, name: str) -> None:
    subcommands, examples = PROGRAMS[program]
    assert pytest.importorskip(subcommands[name][0]).run
    chosen = cli.make_parser(program, subcommands, examples, name)
    for parser in parsers_below(chosen.subcommands[name]):
        last = parser.format_help().splitlines()[-1].strip()
        words = re.sub('(replay compare|bag to-dataset)', r"'\1'", last)
        first, *arguments = shlex.split(words)
        assert first == program
        before_ros = [*arguments, '--ros-args'].index('--ros-args')
        chosen.parse_args(arguments[:before_ros])
        assert last.startswith(parser.prog), last


def test_subcommand_takes_what_ros2_run_appends(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(['plan', '--help', '--ros-args', '-r', '__node:=x'])
    assert ended.value.code == 0
    assert 'cone-training plan' in capsys.readouterr().out


def test_path_of_a_command_line_knows_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', '/home/somebody')
    parser = cli.make_parser('cone-perception', ON_THE_CAR, {}, 'detect')
    args = parser.parse_args(['detect', '~/drive.mp4', '--out=~/found'])
    assert str(args.source) == '/home/somebody/drive.mp4'
    assert str(args.out) == '/home/somebody/found'


def test_shell_completes_options_of_the_chosen_subcommand(tmp_path: Path) -> None:
    line = 'cone-perception detect --thr'
    environment = os.environ | {
        '_ARGCOMPLETE': '1',
        '_ARGCOMPLETE_IFS': ' ',
        '_ARGCOMPLETE_STDOUT_FILENAME': str(tmp_path / 'found'),
        'COMP_LINE': line,
        'COMP_POINT': str(len(line)),
    }
    subprocess.run([sys.executable, '-m', 'cone_perception.cli'], env=environment, check=True)
    assert '--thresholds' in (tmp_path / 'found').read_text().split()


@pytest.mark.parametrize('program, extras', cli.EXTRAS.items())
def test_command_whose_package_is_not_installed_says_what_to_install(
    program: str, extras: str, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {'go': ('no_such_package.command', 'a command of an extra')}
    assert cli.run_command(program, missing, {}, ['go']) == 1
    said = capsys.readouterr().err
    assert said.startswith(f'{program} go: no_such_package is not installed.')
    assert said.endswith(f"pip install -e '.[{extras}]'\n")
    assert set(extras.split(',')) <= set(EXTRAS)


def test_one_opencv_is_installed_here() -> None:
    names = {str(d.metadata['Name']).lower() for d in importlib.metadata.distributions()}
    assert [name for name in sorted(names) if name.startswith('opencv')] == ['opencv-python']


@pytest.fixture(scope='module')
def resolve(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], set[str]]:
    """Names of all distributions that an install of this package with `extras` would bring."""
    folder = tmp_path_factory.mktemp('resolve')
    # A pip that resolves from metadata: older ones download PyTorch, several GB, for a dry run.
    venv.create(folder / 'venv', with_pip=True)
    pip = [str(folder / 'venv' / 'bin' / 'python'), '-m', 'pip', 'install', '--quiet']
    subprocess.run([*pip, '--upgrade', 'pip'], check=True, capture_output=True)

    def resolve_extras(extras: str) -> set[str]:
        report = folder / f'{extras}.json'
        command = [*pip, '--dry-run', '--report', str(report), f'{REPOSITORY}[{extras}]']
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        installed = json.loads(report.read_text())['install']
        return {item['metadata']['name'].lower() for item in installed}

    return resolve_extras


@pytest.mark.slow
def test_no_extra_brings_a_second_opencv(resolve: Callable[[str], set[str]]) -> None:
    # TensorRT's wheels are on NVIDIA's index only; one environment holds one ROS distribution.
    names = resolve(','.join(sorted(set(EXTRAS) - {'tensorrt', 'ros-jazzy'})))
    assert {'torch', 'openvino', 'roboflow-slim', 'ros-kilted-rclpy'} <= names
    assert {name for name in names if re.match('opencv[-_]', name)} == {'opencv-python'}


@pytest.mark.slow
def test_what_runs_needs_no_training_packages(resolve: Callable[[str], set[str]]) -> None:
    names = resolve('ros,cpu')
    assert {'openvino', 'ros-kilted-rclpy'} <= names
    assert not names & {'torch', 'torchvision', 'ultralytics', 'wandb'}
