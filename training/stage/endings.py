"""How a training ends before its time: said clearly, where a library would go on otherwise."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import signal
from collections.abc import Callable, Iterator

from training.recipe.recipe import Stage
from training.stage.guards import StageStopped

OUT_OF_MEMORY = ('out of memory', 'cublas_status_alloc_failed', 'unable to find an engine')
"""What PyTorch says when a GPU's memory is full; the last two, Ultralytics takes so too."""

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that the kernel sends when the parent ends."""


@contextlib.contextmanager
def named_endings(stage: Stage) -> Iterator[None]:
    """Turn a full disk and full memory into StageStopped."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise StageStopped(
            'disk_full',
            f'no space is left ({error}). The last checkpoint is whole: make room, then go on.',
        ) from error
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        raise StageStopped(
            'out_of_memory',
            f'out of memory with a batch of {stage.batch} at {stage.imgsz} px. Go on with '
            f'{stage.name}.batch={max(stage.batch // 2, 1)}: with nbs={stage.nbs} an optimizer '
            f'step sees as many pictures as before. ({str(error)[:200]})',
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    return any(words in str(error).lower() for words in OUT_OF_MEMORY)


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


def end_with_parent() -> None:
    """For a process just forked: the kernel ends it when its parent is gone, however that went."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
