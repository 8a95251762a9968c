"""How a process ends: with its parent, and on SIGTERM as on Ctrl-C."""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Callable, Iterator

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that Linux sends a process when its parent ends."""


def end_with_parent() -> None:
    """Ask the kernel to send this process SIGTERM when its parent ends, however that ends.

    For a process just forked, e.g. as Popen's `preexec_fn`.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def on_sigterm(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` when this process is asked to end. Only a main thread can be told."""
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: act())
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
