"""The Fast DDS profile that lets raw camera pictures through. Needs no ROS to be imported."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from importlib.metadata import version
from pathlib import Path

PROFILE = Path(__file__).with_name('fastdds_shared_memory.xml')
"""For whoever sends pictures."""

NODE_PROFILE = Path(__file__).with_name('fastdds_node.xml')
"""For the detector node: two debug images of 1280x720 fit into its segment."""

PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
"""Humble and Jazzy read only the first. Kilted and later read the second, and warn of the first."""

KILTED = 9
"""Major version of its rclpy; Jazzy has 7, Humble 3. ROS_DISTRO is not set where ROS comes from
PyPI, but rclpy's version is known everywhere."""

SEGMENT_BYTES = 32 * 2**20
"""Shared memory that the profile takes for each process, as written in PROFILE."""

NODE_SEGMENT_BYTES = 6 * 2**20
"""As written in NODE_PROFILE. Fast DDS touches it all, so that it counts as memory of the node."""


def rclpy_version() -> int:
    """The major version of rclpy. Raises ImportError where it is not installed."""
    return int(version('rclpy').partition('.')[0])


def profile_environment(environment: Mapping[str, str], profile: Path = PROFILE) -> dict[str, str]:
    """Return the variable that makes Fast DDS load `profile`; none where the user set either.

    PROFILE is not the user's: a launch file sets it for all that it starts.
    Raises ImportError where rclpy is not installed.
    """
    if any(environment.get(name, '') not in ('', str(PROFILE)) for name in PROFILE_VARIABLES):
        return {}
    return {PROFILE_VARIABLES[rclpy_version() >= KILTED]: str(profile)}


def use_profile(
    environment: MutableMapping[str, str] = os.environ, profile: Path = PROFILE
) -> None:
    """Set the variable in this process. Call it before rclpy.init, which reads it."""
    environment.update(profile_environment(environment, profile))


def profile_in_use(environment: Mapping[str, str]) -> str:
    """Return the path of the profile that was asked for, or an empty text."""
    return next((environment[n] for n in reversed(PROFILE_VARIABLES) if environment.get(n)), '')


def shared_memory_shortage(folder: Path = Path('/dev/shm')) -> str:
    """Say what is wrong with the size of the shared memory, or return an empty text.

    A camera's driver and this node take a segment each; Docker's default of 64 MiB holds both
    only when nothing else uses it.
    """
    try:
        size = os.statvfs(folder)
    except OSError as error:
        return f'{folder} cannot be read ({error.strerror}): shared memory is not available'
    total, free = size.f_frsize * size.f_blocks, size.f_frsize * size.f_bavail
    if total > 2 * SEGMENT_BYTES and free >= SEGMENT_BYTES:
        return ''
    return (
        f'{folder} has {total / 2**20:.0f} MiB, {free / 2**20:.0f} MiB of it free, but every '
        f'process needs {SEGMENT_BYTES / 2**20:.0f} MiB: '
        'in Docker pass --shm-size=512m or --ipc=host'
    )
