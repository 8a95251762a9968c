"""The machine and its software, as results tell of them.

Nothing here names a user, the machine or its network, and of the environment only what is listed is
told.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cone_perception
from cone_perception.engines.tensorrt.gpu import read_gpu
from cone_perception.errors import EngineError

PACKAGES = (
    'numpy', 'opencv-python', 'openvino', 'onnxruntime', 'tensorrt', 'tensorrt_cu12',
    'tensorrt_cu13', 'tensorrt-rtx', 'tensorrt-rtx-cu13-bindings', 'pycuda', 'cuda-bindings',
    'rosbags', 'rosbags-image', 'psutil',
)  # fmt: skip

NOT_TOLD = 'not told'
CPUINFO = Path('/proc/cpuinfo')


def describe_host() -> dict[str, Any]:
    """Describe the machine and its software; None where something is not there.

    processor, architecture, cores (of the machine), cores_usable (by this process), memory_gb,
    governor (of the cores' clocks; 'not told' in most virtual machines), gpu, driver, cuda (the
    newest that the driver knows), kernel, python, ros_distro, rmw (as asked for; the node's
    diagnostics have the one in use), versions (package -> version, of those that are installed),
    git_commit, git_dirty (of the checkout that this code is in).
    """
    pages, page_bytes = os.sysconf('SC_PHYS_PAGES'), os.sysconf('SC_PAGE_SIZE')
    commit, dirty = read_commit(Path(__file__).resolve().parents[2])
    gpu = None
    with contextlib.suppress(EngineError):
        gpu = read_gpu()
    names = (entry.metadata['Name'] or '' for entry in importlib.metadata.distributions())
    from_pypi = (name.split('-')[1] for name in names if re.fullmatch('ros-[a-z]+-rclpy', name))
    return {
        'processor': processor_name(),
        'architecture': platform.machine(),
        'cores': os.cpu_count(),
        'cores_usable': len(os.sched_getaffinity(0)),
        'memory_gb': round(pages * page_bytes / 1e9, 1),
        'governor': read_governor(Path('/sys')),
        'gpu': gpu.name if gpu else None,
        'driver': gpu.driver if gpu else None,
        'cuda': gpu.cuda if gpu else None,
        'kernel': f'{platform.system()} {platform.release()}',
        'python': platform.python_version(),
        'ros_distro': os.environ.get('ROS_DISTRO') or next(from_pypi, None),
        'rmw': os.environ.get('RMW_IMPLEMENTATION'),
        'versions': installed_versions(PACKAGES),
        'git_commit': commit,
        'git_dirty': dirty,
    }


def processor_name() -> str:
    """Name the processor as Linux does, or else by its architecture."""
    return _cpuinfo('model name') or platform.machine()


def vector_instructions() -> list[str]:
    """List the vector instructions that Linux knows of: avx2, avx512_vnni, amx_int8 ..."""
    flags = (_cpuinfo('flags') or _cpuinfo('Features')).split()
    return sorted(f for f in flags if f.startswith(('avx', 'amx', 'fma', 'asimd', 'sve', 'i8mm')))


def _cpuinfo(key: str) -> str:
    """Value of the first such line of cpuinfo; empty without one."""
    text = CPUINFO.read_text(encoding='utf-8') if CPUINFO.is_file() else ''
    found = re.search(rf'^{key}\s*:\s*(.+)$', text, re.MULTILINE)
    return found[1] if found else ''


def read_governor(sys_folder: Path) -> str:
    """The governors of the cores' clocks, as Linux tells them under /sys."""
    found = set()
    for file in sys_folder.glob('devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor'):
        with contextlib.suppress(OSError):  # of a core that was switched off meanwhile
            found.add(file.read_text(encoding='utf-8').strip())
    return ', '.join(sorted(found)) or NOT_TOLD


def read_commit(root: Path) -> tuple[str | None, bool | None]:
    """Read the commit of the git checkout at `root`; True where files differ from it.

    (None, None) where there is none, as for an installed package, or no git to ask.
    """
    if not (root / '.git').exists() or not shutil.which('git'):
        return None, None
    words = ('status', '--porcelain=v2', '--branch', '--untracked-files=no')
    command = ('git', '-C', str(root), *words)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10.0)
    except subprocess.TimeoutExpired:
        return None, None
    commit = re.search(r'^# branch\.oid ([0-9a-f]+)$', done.stdout, re.MULTILINE)
    if done.returncode or not commit:  # somebody else's checkout: git refuses
        return None, None
    return commit[1], bool(re.search(r'^[^#]', done.stdout, re.MULTILINE))


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Name the versions of cone_perception, and of each of these that is installed."""
    versions = {'cone_perception': cone_perception.__version__}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
