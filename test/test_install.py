"""Every way of installing gives ros2 the same two packages, with the same executables and files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ('cone_perception', 'training')
EXECUTABLES = sorted(
    f'{path.parent.name}/{path.name}' for path in (REPOSITORY / 'resource' / 'lib').glob('*/*')
)

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Installation:
    """prefix: what ament calls the prefix. python: the one that has the packages. environment: of a
    shell in which they are used."""

    prefix: Path
    python: Path
    environment: dict[str, str]

    def run(self, *command: str | Path) -> str:
        # Not in the checkout: nothing may be found through the working folder.
        return run(*command, cwd=self.prefix, env=self.environment)

    def eval(self, code: str) -> str:
        return self.run(self.python, '-c', code).strip()


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outer_environment() -> dict[str, str]:
    """This process's environment without what names another installation."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ('AMENT_PREFIX_PATH', 'COLCON_PREFIX_PATH', 'PYTHONPATH', 'VIRTUAL_ENV')
    }


@pytest.fixture(scope='module')
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that no build folder of an earlier build is taken in and none is left behind."""
    listed = run(
        *('git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'), cwd=REPOSITORY
    )
    copy = tmp_path_factory.mktemp('workspace') / 'src' / 'cone_perception'
    for name in filter(None, listed.split('\0')):
        if (REPOSITORY / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, copy / name)
    return copy


def install_with_pip(checkout: Path, venv: Path, how: str) -> Installation:
    environment = outer_environment()
    run(sys.executable, '-m', 'venv', venv, cwd=checkout, env=environment)
    python = venv / 'bin' / 'python'
    pip = (python, '-m', 'pip', 'install', '-q')
    if how == 'pip-setuptools-59':
        run(*pip, 'setuptools==59.6.0', 'wheel', cwd=checkout, env=environment)
    options = {
        'pip': ('--no-deps', '.'),
        'pip-editable': ('--no-deps', '-e', '.'),
        'pip-setuptools-59': ('--no-deps', '--no-build-isolation', '.'),
    }
    run(*pip, *options[how], cwd=checkout, env=environment)
    # The dependencies are those of the running environment, seen after the new one's packages.
    site_packages = Path(
        sysconfig.get_path('purelib', vars={'base': str(venv), 'platbase': str(venv)})
    )
    (site_packages / 'dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n')
    return Installation(venv, python, {**environment, 'AMENT_PREFIX_PATH': str(venv)})


def install_with_colcon(checkout: Path, base: Path, how: str) -> Installation:
    colcon = Path(sys.executable).parent / 'colcon'
    environment = {**outer_environment(), 'VIRTUAL_ENV': sys.prefix}
    options = ['--symlink-install'] if how == 'colcon-symlink' else []
    run(
        *(sys.executable, colcon, '--log-base', base / 'log', 'build', *options),
        *('--build-base', base / 'build', '--install-base', base / 'install'),
        cwd=checkout.parents[1],
        env=environment,
    )
    command = f'source {base}/install/setup.bash && env -0'
    sourced = run('bash', '-c', command, cwd=base, env=environment)
    environment = dict(entry.split('=', 1) for entry in filter(None, sourced.split('\0')))
    return Installation(base / 'install' / 'cone_perception', Path(sys.executable), environment)


@pytest.fixture(
    scope='module', params=['pip', 'pip-editable', 'pip-setuptools-59', 'colcon', 'colcon-symlink']
)
def installation(
    request: pytest.FixtureRequest, checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    if request.param == 'pip-setuptools-59' and sys.version_info >= (3, 12):
        pytest.skip("Humble's setuptools 59.6 does not run on Python 3.12")
    base = tmp_path_factory.mktemp(request.param)
    if request.param.startswith('pip'):
        return install_with_pip(checkout, base / 'venv', request.param)
    return install_with_colcon(checkout, base, request.param)


@pytest.mark.parametrize('package', PACKAGES)
def test_package_is_found_through_ament_index(installation: Installation, package: str) -> None:
    found = installation.eval(
        'from ament_index_python import get_package_prefix, get_package_share_directory as share;'
        f'print(get_package_prefix({package!r})); print(share({package!r}))'
    ).splitlines()
    assert found == [str(installation.prefix), str(installation.prefix / 'share' / package)]
    assert (installation.prefix / 'share' / package / 'package.xml').is_file()


def test_ros2_run_sees_exactly_the_executables(installation: Installation) -> None:
    # ros2 run lists the executable files of lib/<package> under the package's prefix.
    found = [
        f'{package}/{path.name}'
        for package in PACKAGES
        for path in (installation.prefix / 'lib' / package).rglob('*')
        if path.is_file() and os.access(path, os.X_OK)
    ]
    assert sorted(found) == EXECUTABLES


@pytest.mark.parametrize('executable', EXECUTABLES)
def test_executable_answers_help(installation: Installation, executable: str) -> None:
    assert 'usage:' in installation.run(installation.prefix / 'lib' / executable, '--help')


@pytest.mark.parametrize('folder', ['launch', 'config'])
def test_launch_and_settings_files_are_shared(
    installation: Installation, checkout: Path, folder: str
) -> None:
    installed = installation.prefix / 'share' / 'cone_perception' / folder
    expected = {path.name for path in (checkout / folder).glob('*') if path.is_file()}
    assert {path.name for path in installed.glob('*') if path.is_file()} == expected


def test_recipes_are_found(installation: Installation, checkout: Path) -> None:
    found = installation.eval(
        'from training.recipe.load import shipped_folder; '
        'print(*sorted(p.name for p in shipped_folder().iterdir()))'
    )
    folder = checkout / 'config' / 'training'
    assert found.split() == sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize('package', PACKAGES)
def test_files_beside_the_code_are_installed(
    installation: Installation, checkout: Path, package: str
) -> None:
    found = Path(installation.eval(f'import {package}; print({package}.__path__[0])'))
    assert REPOSITORY not in found.parents
    expected = {
        str(path.relative_to(checkout / package))
        for path in (checkout / package).rglob('*')
        if path.is_file() and path.name != 'package.xml' and '__pycache__' not in path.parts
    }
    if package == 'cone_perception':
        expected.add('interfaces/vision_msgs/package.xml')
    missing = {name for name in expected if not (found / name).is_file()}
    assert not missing


def test_console_commands_are_installed(installation: Installation) -> None:
    for command in ('cone-perception', 'cone-training'):
        assert 'usage:' in installation.run(installation.prefix / 'bin' / command, '--help')
