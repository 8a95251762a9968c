"""How a training ends before its time: said clearly, where a library would go on otherwise."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from training.recipe.recipe import Stage
from training.stage.guards import StageStopped

OUT_OF_MEMORY = ('out of memory', 'cublas_status_alloc_failed', 'unable to find an engine')
"""What PyTorch says when a GPU's memory is full; the last two, Ultralytics takes so too."""


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
