"""A process: the memory it keeps, and how it ends: with its parent, and on SIGTERM as on Ctrl-C."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path


def end_with_parent() -> None:
    """Ask the kernel to send this process SIGTERM when its parent ends, however that ends.

    For a process just forked, e.g. as Popen's `preexec_fn`.
    """
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, see prctl(2)


def start_apart(
    command: Sequence[str], environment: Mapping[str, str], log: Path, show: bool = False
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, which ends with this one and writes a log.

    Ctrl-C reaches this process only, which ends the others in order. show: its stderr goes to the
    terminal. Raises OSError.
    """
    with log.open('wb') as stream:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=None if show else subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )


def wait_or_kill(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    """Return the exit status; None where the whole session of the process had to be killed.

    What interrupts the wait kills it, too.
    """
    try:
        return process.wait(timeout_s)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            return None
        raise


@contextlib.contextmanager
def on_sigterm(act: Callable[[], None] | None = None) -> Iterator[None]:
    """Call `act` when this process is asked to end; by default SIGTERM is taken for Ctrl-C.

    Only a main thread can be told.
    """
    owner = os.getpid()

    def handler(*_: object) -> None:
        if os.getpid() != owner:  # a child that was forked: it ends as if nobody listened
            os._exit(128 + signal.SIGTERM)
        if act is None:
            raise KeyboardInterrupt
        act()

    try:
        before = signal.signal(signal.SIGTERM, handler)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""mallopt(3)."""

LARGEST_KEPT_BYTES, KEPT_BYTES = 32 << 20, 256 << 20
"""The first is glibc's own limit (DEFAULT_MMAP_THRESHOLD_MAX): a bgra8 frame of 3840x2160 fits."""


def keep_freed_memory() -> None:
    """Let glibc keep what a frame needed instead of giving it back to the kernel.

    A 720p frame is copied three times between DDS and the network. Given back each time, its 2,000
    pages fault anew with every frame, which on a virtual machine can take longer than the search
    for cones (docs/results/replay.md). All threads share one arena: what loading the network left
    in its own would never be used again, 20 of the node's 300 MB. Call it at a process's start,
    before there are threads. Does nothing where there is no mallopt.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_ARENA_MAX, 1)


def give_back_free_memory() -> None:
    """Return free memory to the kernel. Call it when the network is loaded and warm.

    Reading and compiling it needs memory that no frame ever will. Does nothing where there is no
    malloc_trim.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
