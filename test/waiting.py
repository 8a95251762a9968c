"""Waiting in tests: for what is to come, and for the end of a process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_until(condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """The first true value of `condition`; fails the test when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f'waited {timeout_s} s in vain'
        time.sleep(0.02)
    return value


def is_running(pid: int | str) -> bool:
    """A process that ended and whose status nobody has read is no longer running."""
    status = Path('/proc', str(pid), 'stat')
    return status.exists() and status.read_text().rpartition(')')[2].split()[0] != 'Z'
