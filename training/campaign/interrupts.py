"""Endings of a campaign from outside: signals, a full disk, no memory, a closed terminal."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from training.campaign.campaign import CampaignStoppedError
from training.judging.verdict import Outcome
from training.runs.folder import CampaignFolder

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP came."""


def ending_of(error: BaseException, folder: CampaignFolder) -> tuple[Outcome, str] | None:
    """Outcome and message of what a person or the machine can cause; None: something else."""
    again = f'Go on with --resume --runs {folder.root.parent} --name {folder.name}.'
    if isinstance(error, CampaignStoppedError):
        return error.outcome, str(error)
    if isinstance(error, KeyboardInterrupt):
        return Outcome.INTERRUPTED, f'interrupted. {again}'
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            return Outcome.OUT_OF_DISK, f'no space is left: {cause}. Make room. {again}'
        # torch.OutOfMemoryError, without importing torch for it.
        if isinstance(cause, MemoryError) or type(cause).__name__ == 'OutOfMemoryError':
            return (
                Outcome.OUT_OF_MEMORY,
                f'memory ran out: {_first_line(cause)}. Free the device, or give its stage a '
                f'smaller batch, as stage1.batch=16. {again}',
            )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip('.')


@contextlib.contextmanager
def raise_on_signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise Interrupted here; a second one ends the process at once.

    A signal that is ignored, SIGHUP under nohup say, stays so. Processes that were forked off get
    what they had been sent, not an exception.
    """
    owner = os.getpid()
    before: dict[signal.Signals, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        for name in before:
            signal.signal(name, signal.SIG_DFL)
        if os.getpid() != owner:
            signal.raise_signal(number)
        raise Interrupted(signal.Signals(number).name)

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is not signal.SIG_IGN:
            before[name] = signal.signal(name, stop)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def open_standard_streams() -> None:
    """Give a closed stdin, stdout or stderr to /dev/null: else a file of ours takes its number,
    and children inherit it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))  # noqa: PTH123, SIM115
