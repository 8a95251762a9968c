"""The result of a replay and its file, result.json; docs/replay.md describes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cone_perception.replay.traces import FrameTrace, LoadSample
from cone_perception.types import Detections

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure with its 95 % interval; NaN where it is not known.

    Its unit is the end of its name: _ms, _hz, _share, _mb, ...
    """

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True, eq=False)
class ReplayResult:
    """Everything a replay found, as result.json holds it.

    configuration: all that is needed to run the same again. bag, model, host: what was replayed,
    through what, where. figures: name -> figure, of all passes together; `replay.figures` has the
    names and what is better. per_pass: the same of each pass.
    probes: what the search for the highest rate tried. problems: one sentence each.
    passes: the frames of each pass. load: of each pass. truth: as in Drive.
    """

    configuration: Mapping[str, Any]
    bag: Mapping[str, Any]
    model: Mapping[str, Any]
    host: Mapping[str, Any]
    figures: Mapping[str, Figure]
    per_pass: Sequence[Mapping[str, Figure]]
    passes: Sequence[Sequence[FrameTrace]]
    load: Sequence[Sequence[LoadSample]]
    truth: Mapping[tuple[str, int], Detections] | None = None
    probes: Sequence[Mapping[str, Any]] = ()
    problems: Sequence[str] = ()
    interrupted: bool = False
    schema: int = SCHEMA
    health: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def write_result(path: Path, result: ReplayResult) -> None:
    """Write result.json atomically; figures that are not known are null."""
    raise NotImplementedError


def read_result(path: Path) -> ReplayResult:
    """Read result.json. Raises SourceError when it is no such file, or of another schema."""
    raise NotImplementedError
