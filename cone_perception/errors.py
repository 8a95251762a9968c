"""Every error that a user of this package can meet. Each says what, why and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

FAILURE_STATUS = 1
"""Exit status of a node that the launch file starts again."""

BUILD_FAILED_STATUS = 3
"""Exit status of a node that was only to build an engine and could not: it would fail again."""


class ConePerceptionError(Exception):
    """Base of all errors below; a command prints its message and exits with status 1."""


class SettingsError(ConePerceptionError):
    """A setting is unknown, of the wrong type, or out of its range."""


class ModelError(ConePerceptionError):
    """A network or its card is missing, damaged, or not what the other one says."""


class EngineError(ConePerceptionError):
    """The runtime of a network cannot be had, or failed while it ran."""


class PlanError(EngineError):
    """A compiled engine is damaged, or made for another network, machine or version."""


class RefusedPlanError(PlanError):
    """A compiled engine that belongs here is not the network that was measured: it may not drive.

    Compiled again it will hardly be another, so only a command that was asked to build tries.
    """


class UnloadablePlanError(PlanError):
    """TensorRT itself refuses a compiled engine whose passport fits: compiled again it may load."""


class GpuMemoryError(EngineError):
    """The GPU had no memory left for a frame. The engine loads its plan again, once."""


class EngineLostError(EngineError):
    """The GPU hangs or its context is broken: only a new process can use it again.

    Whoever meets it ends the process with a status that is not zero, and lets it be started again.
    """


class CalibrationError(ConePerceptionError):
    """What camera_info says of a camera, or of two eyes together, cannot be right."""


class SourceError(ConePerceptionError):
    """A picture, a video, or a bag cannot be read."""


class ImageError(ConePerceptionError):
    """One picture or image message cannot be decoded. Later ones may be fine."""


class InstallError(ConePerceptionError):
    """The set-up cannot be done on this machine: a tool, a package or a permission is missing."""


class OutputError(ConePerceptionError):
    """A result cannot be written where it was asked for."""


class DataError(ConePerceptionError):
    """A data set cannot be had, is no data set, or is not what its manifest says."""


class RecipeError(ConePerceptionError):
    """A training recipe says what is not known, not possible, or not there."""


def one_line(text: str) -> str:
    """Put a text of several lines into one."""
    return ' '.join(text.split())


def describe(error: Exception) -> str:
    """Say in one line what went wrong: of an error that is not ours, its type too."""
    ours = isinstance(error, ConePerceptionError)
    return one_line(str(error) if ours else f'{type(error).__name__}: {error}')


def hint(name: str, known: Iterable[str]) -> str:
    """End of a sentence that refuses a name: the ones that it may have been, else all."""
    names = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), names, n=3, cutoff=0.6)
    if close:
        return f'. Did you mean {" or ".join(names[one] for one in close)}?'
    return f'. Known: {", ".join(names.values())}' if names else ': there is none'


@contextmanager
def told_as(
    kind: type[ConePerceptionError], text: str, *causes: type[Exception], advice: str = ''
) -> Iterator[None]:
    """Raise what fails inside of `with` as an error of our own, `kind`.

    text: what failed; the cause follows it, then `advice`. causes: exceptions that are turned.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ConePerceptionError) or not isinstance(error, causes or OSError):
            raise
        cause = f'{text}: {error}'
        raise kind(f'{cause}. {advice}' if advice else cause) from error
