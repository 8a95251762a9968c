"""What a replay ran on, what it replayed, and through what: for its result and its report.

Nothing here names a user, the machine or its network, and of the environment only what is listed is
told. A bag's path is told as it was given.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cone_perception
from cone_perception.engines.cpu.processor import processor_name
from cone_perception.engines.tensorrt.gpu import read_gpu
from cone_perception.engines.tensorrt.plans import PlanCache, read_passport
from cone_perception.errors import EngineError, PlanError
from cone_perception.model_card import Bundle
from cone_perception.replay.traces import Drive

PACKAGES = (
    'numpy',
    'opencv-python',
    'openvino',
    'onnxruntime',
    'tensorrt',
    'tensorrt-rtx',
    'pycuda',
    'rosbags',
    'rosbags-image',
    'psutil',
)

NOT_TOLD = 'not told'
GIT_TIMEOUT_S = 10.0


def describe_host() -> dict[str, Any]:
    """The machine and its software; None where something is not there.

    processor, architecture, cores (of the machine), cores_usable (by this process), memory_gb,
    governor (of the cores' clocks; 'not told' in most virtual machines), gpu, driver, cuda (the
    newest that the driver knows), kernel, python, ros_distro, rmw (as asked for; the node's
    diagnostics have the one in use), versions (package -> version, of those that are installed),
    git_commit, git_dirty (of the checkout that this code is in).
    """
    pages, page_bytes = os.sysconf('SC_PHYS_PAGES'), os.sysconf('SC_PAGE_SIZE')
    commit, dirty = read_commit(Path(__file__).resolve().parents[2])
    try:
        gpu = read_gpu()
    except EngineError:
        gpu = None
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
        'ros_distro': _ros_distro(),
        'rmw': os.environ.get('RMW_IMPLEMENTATION'),
        'versions': installed_versions(PACKAGES),
        'git_commit': commit,
        'git_dirty': dirty,
    }


def describe_bag(drive: Drive) -> dict[str, Any]:
    """path, sha256 (of its data), storage, frames, duration_s, cameras (name, topic, compressed,
    truth_topic), truth_frames (pictures whose cones are known), problems.
    """
    return {
        'path': str(drive.bag),
        'sha256': drive.sha256,
        'storage': drive.storage,
        'frames': drive.frames,
        'duration_s': drive.duration_s,
        'cameras': [asdict(camera) for camera in drive.cameras],
        'truth_frames': 0 if drive.truth is None else len(drive.truth),
        'problems': list(drive.problems),
    }


def describe_model(bundle: Bundle, health: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """name, folder, card_sha256 (of the card as it is written), networks (that it lists),
    class_names, thresholds, verdict, licence, and what the node told: network_sha256 (of the file
    that ran), engine.

    passport: of the compiled engine that ran, see engines.plan; None on the CPU, where nothing is
    compiled beforehand. What the node did not tell is None.
    """
    card = bundle.card
    told = next((values for values in health.values() if 'engine' in values), {})
    network_sha256 = told.get('model sha256')
    on_gpu = told.get('engine', '').startswith('TensorRT')
    return {
        'name': card.name,
        'folder': _without_home(bundle.folder),
        'card_sha256': hashlib.sha256(card.to_json().encode()).hexdigest(),
        'networks': [asdict(network) for network in card.networks],
        'class_names': list(card.class_names),
        'thresholds': dict(card.thresholds),
        'verdict': card.verdict,
        'licence': card.licence,
        'network_sha256': network_sha256,
        'engine': told.get('engine'),
        'passport': _passport(network_sha256, PlanCache().folder) if on_gpu else None,
    }


def read_governor(sys_folder: Path) -> str:
    """The governors of the cores' clocks, as Linux tells them under /sys."""
    files = sys_folder.glob('devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor')
    found = set()
    for file in files:
        with contextlib.suppress(OSError):  # of a core that was switched off meanwhile
            found.add(file.read_text(encoding='utf-8').strip())
    return ', '.join(sorted(found)) or NOT_TOLD


def read_commit(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the git checkout at `root`, and whether files differ from it.

    (None, None) where there is none, as for an installed package, or no git to ask.
    """
    if not (root / '.git').exists() or not shutil.which('git'):
        return None, None
    git = ('git', '-C', str(root))
    try:
        head = subprocess.run(
            [*git, 'rev-parse', 'HEAD'], capture_output=True, text=True, timeout=GIT_TIMEOUT_S
        )
        changed = subprocess.run(
            [*git, 'status', '--porcelain', '--untracked-files=no'],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return None, None
    if head.returncode or changed.returncode:  # somebody else's checkout: git refuses
        return None, None
    return head.stdout.strip(), bool(changed.stdout.strip())


def _without_home(path: Path) -> str:
    """The shipped model lies in the user's home as often as not, which names the user."""
    with contextlib.suppress(ValueError, RuntimeError):
        return str('~' / path.relative_to(Path.home()))
    return str(path)


def _ros_distro() -> str | None:
    """Of the environment that was sourced, else of the packages from PyPI."""
    if distro := os.environ.get('ROS_DISTRO'):
        return distro
    names = (entry.metadata['Name'] or '' for entry in importlib.metadata.distributions())
    found = (re.fullmatch(r'ros-([a-z]+)-rclpy', name) for name in names)
    return next((match[1] for match in found if match), None)


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Of cone_perception, and of each of these that is installed."""
    versions = {'cone_perception': cone_perception.__version__}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _passport(network_sha256: str | None, folder: Path) -> dict[str, Any] | None:
    """The newest passport in the cache of an engine made from this network."""
    for file in sorted(folder.glob('*.json'), key=lambda path: -path.stat().st_mtime):
        with contextlib.suppress(PlanError):  # other files lie there too
            passport = read_passport(file)
            if passport.key.network_sha256 == network_sha256:
                return asdict(passport)
    return None
