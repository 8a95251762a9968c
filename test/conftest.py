"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from node_process import Observer

REPOSITORY = Path(__file__).resolve().parents[1]

# Before anything imports rclpy. Domains 1 to 101 leave Linux's ephemeral ports alone, and 0 is
# everybody's default; runs at the same time must not hear each other.
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 101)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ.setdefault('ROS_LOG_DIR', f'{tempfile.gettempdir()}/ros_log_of_tests_{os.getuid()}')

# A shell starts what runs in its background with SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='session')
def repository() -> Path:
    """Root of the checkout under test."""
    return REPOSITORY


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Recorded data beside the checkout; not part of the repository, so absent on most machines."""
    folder = REPOSITORY.parent / 'shared' / 'data'
    if not folder.is_dir():
        pytest.skip(f'needs the recorded data in {folder}')
    return folder


@pytest.fixture(scope='session')
def rendered_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small data sets, `pretrain` and `target`. Damage copies only."""
    from rendered_sets import render_sets

    return render_sets(tmp_path_factory.mktemp('rendered'))


@pytest.fixture(scope='session')
def ros() -> Iterator[None]:
    """rclpy, with the transport profile that the node uses."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from cone_perception.ros.transport import use_profile

    use_profile()
    # rclpy's own handlers would end it for all tests when one is interrupted as if by Ctrl-C.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    yield
    rclpy.try_shutdown()


@pytest.fixture(scope='session')
def observer(ros: None) -> Iterator[Observer]:
    """A ROS node in this process that sends pictures and keeps what it hears."""
    from node_process import Observer

    observer = Observer()
    yield observer
    observer.close()


LONG = {
    *('bag_dataset', 'campaign', 'cuda_kernels', 'data_gap', 'data_leaks', 'demo', 'engine_cpu'),
    *(
        'evaluate',
        'pages',
        'range',
        'region',
        'replay_compare',
        'replay_many',
        'replay_report',
        'report',
    ),
    *('simulate', 'stages'),
}
"""Files whose tests take a second or more: `make test-fast` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem.removeprefix('test_') in LONG:
            item.add_marker('long')
        if not any(item.iter_markers('ros')) and not any(item.iter_markers('slow')):
            item.add_marker('unit')
