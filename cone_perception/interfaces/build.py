"""`python -m cone_perception.interfaces.build`: makes vision_msgs importable beside ROS from PyPI.

ROS from PyPI lacks vision_msgs. Where apt's is importable nothing is done. Else the definitions in
vision_msgs/ are generated and compiled once, in an environment of their own, packed as a wheel in
the user's cache, and installed from there into this environment and into every later one.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from cone_perception.errors import InstallError
from cone_perception.files import cache_folder, write_whole

DEFINITIONS = Path(__file__).parent / 'vision_msgs'

DISTROS = ('jazzy', 'kilted')
"""ROS distributions of PyPI; build-DISTRO.txt locks what builds messages for each."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog='python -m cone_perception.interfaces.build')
    only = 'only look whether Python and compilers suffice'
    parser.add_argument('--check', action='store_true', help=only)
    work = check_prerequisites if parser.parse_args(argv).check else provide_vision_msgs
    try:
        work()
    except InstallError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


def check_prerequisites() -> None:
    """Raise InstallError that names everything missing for building messages, and how to get it."""
    missing = []
    if sys.version_info < (3, 10):  # noqa: UP036 (run by whatever python3 is there)
        missing.append(f'Python 3.10 or newer (this is {sys.version.split()[0]})')
    if not all(importlib.util.find_spec(module) for module in ('venv', 'ensurepip')):
        missing.append("Python's venv module (sudo apt install python3-venv)")
    if not Path(sysconfig.get_config_var('INCLUDEPY'), 'Python.h').exists():
        missing.append("Python's headers (sudo apt install python3-dev)")
    for variable, program in (('CC', 'gcc'), ('CXX', 'g++')):
        if not shutil.which(os.environ.get(variable, program)):
            missing.append(f'{os.environ.get(variable, program)} (sudo apt install {program})')
    if missing:
        raise InstallError(
            f'{sys.executable} cannot build the ROS messages. Missing: {"; ".join(missing)}.'
        )


def provide_vision_msgs() -> None:
    """Install vision_msgs into this environment unless it is there. Raises InstallError."""
    installed = _installed_version('cone_perception_vision_msgs')
    if installed is None and importlib.util.find_spec('vision_msgs'):
        print('vision_msgs: found, nothing to build')
        return
    package = MessagePackage(DEFINITIONS)
    if installed == package.version:
        return
    wheel = package.provide_wheel()
    _run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index', str(wheel)])
    print(f'vision_msgs: installed from {wheel}')


class MessagePackage:
    """A ROS package of messages, called as the folder of its definitions, for ROS from PyPI.

    definitions: holds msg/*.msg; CMakeLists.txt and package.xml are those of vision_msgs, with its
    name. Raises InstallError where ROS is not from PyPI.
    """

    def __init__(self, definitions: Path) -> None:
        self.name = definitions.name
        self.distribution = f'cone_perception_{self.name}'
        distro = next((name for name in DISTROS if _installed_version(f'ros-{name}-rclpy')), None)
        if distro is None:
            raise InstallError(
                f'{self.name} is not importable and ROS from PyPI is not installed here. With ROS '
                f'from apt: sudo apt install ros-$ROS_DISTRO-{self.name.replace("_", "-")}. '
                'Without: pip install cone_perception[ros].'
            )
        self._distro = distro
        self._sources = {
            Path(name): (DEFINITIONS / name).read_text().replace('vision_msgs', self.name).encode()
            for name in ('CMakeLists.txt', 'package.xml')
        } | {p.relative_to(definitions): p.read_bytes() for p in definitions.glob('msg/*.msg')}
        digest = hashlib.sha256()
        for path, content in sorted(self._sources.items()):
            digest.update(path.name.encode() + b'\0' + content + b'\0')
        self.version = f'4.1.1+{distro}.{digest.hexdigest()[:12]}'

    def provide_wheel(self) -> Path:
        """Build the wheel into the user's cache unless it is there. Raises InstallError."""
        name = f'{self.distribution}-{self.version}-{_wheel_tag()}.whl'
        wheel = cache_folder('messages') / name
        if not wheel.exists():
            check_prerequisites()
            about = f'building for ROS 2 {self._distro}, once, about a minute'
            print(f'{self.name}: {about}', flush=True)
            self._build_wheel(wheel)
        return wheel

    def _build_wheel(self, wheel: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=f'{self.name}-') as folder:
            root = Path(folder)
            tools, installed = root / 'venv', root / 'installed'
            for path, content in self._sources.items():
                target = root / self.name / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            venv.create(tools, with_pip=True)
            python = str(tools / 'bin' / 'python')
            lock = str(Path(__file__).with_name(f'build-{self._distro}.txt'))
            pip = [python, '-m', 'pip', 'install', '-qq', '--require-hashes', '--no-deps']
            _run([*pip, '-r', lock])
            environment = {
                **os.environ,
                'AMENT_PREFIX_PATH': str(tools),
                'CMAKE_PREFIX_PATH': str(tools),
                'PATH': f'{tools / "bin"}{os.pathsep}{os.environ["PATH"]}',
                'LD_LIBRARY_PATH': str(tools / 'lib'),
            }
            environment.pop('PYTHONPATH', None)
            source, build = str(root / self.name), str(root / 'build')
            configure = ['cmake', '-G', 'Ninja', '-S', source, '-B', build]
            configure += ['-DBUILD_TESTING=OFF', f'-DCMAKE_INSTALL_PREFIX={installed}']
            configure += [f'-DPython3_EXECUTABLE={python}']
            _run(configure, environment)
            _run(['cmake', '--build', build, '--target', 'install'], environment)
            self._lay_out_wheel(installed, root / 'wheel')
            _run([python, '-m', 'wheel', 'pack', '-d', str(root), str(root / 'wheel')])
            write_whole(wheel, (root / wheel.name).read_bytes())

    def _lay_out_wheel(self, installed: Path, wheel: Path) -> None:
        """Copy what is needed to run, not to compile against, into the folders of a wheel."""
        release = f'{self.distribution}-{self.version}'
        data = wheel / f'{release}.data' / 'data'
        (package,) = installed.glob(f'lib/python*/site-packages/{self.name}')
        shutil.copytree(
            package, wheel / self.name, ignore=shutil.ignore_patterns('*.c', '__pycache__')
        )
        for pattern in (
            'lib/*.so',
            f'share/{self.name}/package.xml',
            f'share/{self.name}/msg/*.msg',
            'share/ament_index/resource_index/packages/*',
            'share/ament_index/resource_index/rosidl_interfaces/*',
        ):
            for source in installed.glob(pattern):
                target = data / source.relative_to(installed)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        info = wheel / f'{release}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(
            f'Metadata-Version: 2.1\nName: {self.distribution}\nVersion: {self.version}\n'
            'License: Apache-2.0\n'
        )
        (info / 'WHEEL').write_text(
            'Wheel-Version: 1.0\nGenerator: cone_perception\nRoot-Is-Purelib: false\n'
            f'Tag: {_wheel_tag()}\n'
        )


def _installed_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _wheel_tag() -> str:
    python = f'cp{sys.version_info.major}{sys.version_info.minor}'
    return f'{python}-{python}-{sysconfig.get_platform().replace("-", "_").replace(".", "_")}'


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a build step; its output is shown only when it fails."""
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise InstallError(
            f'building the messages failed at: {" ".join(command)}\n{done.stdout[-4000:]}\n'
            'Is PyPI reachable, and are gcc and g++ whole?'
        )


if __name__ == '__main__':
    sys.exit(main())
