"""ROS packages of messages that teams have: built once from test/interfaces, kept in the cache."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest

from cone_perception.errors import InstallError
from cone_perception.interfaces.build import MessagePackage, check_prerequisites

DEFINITIONS = Path(__file__).parent / 'interfaces'


@cache
def provide(package: str) -> Path:
    """Make a package importable here; returns the folder that holds it, and its libraries in lib/.

    Skips the test where messages cannot be built: without a compiler, or with ROS from apt.
    """
    try:
        check_prerequisites()
        messages = MessagePackage(DEFINITIONS / package)
    except InstallError as error:
        pytest.skip(str(error))
    return unpack(messages.provide_wheel())


def unpack(wheel: Path) -> Path:
    """Unpack a wheel of messages and make it importable in this process."""
    folder = Path(tempfile.mkdtemp(prefix='messages-'))
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    (data,) = folder.glob('*.data/data')
    (data / 'lib').rename(folder / 'lib')
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    # The loader of a running process takes no new folder, but it takes what is loaded already:
    # again and again, because each needs others of them.
    left = list((folder / 'lib').glob('*.so'))
    while left:
        library = left.pop(0)
        try:
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
        except OSError as error:
            if not any(other.name in str(error) for other in left):
                raise
            left.append(library)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """What another process needs to import it."""
    return {
        name: os.pathsep.join(filter(None, (str(place), os.environ.get(name))))
        for name, place in (('PYTHONPATH', folder), ('LD_LIBRARY_PATH', folder / 'lib'))
    }
