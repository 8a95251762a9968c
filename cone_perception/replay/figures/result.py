"""The result of a replay and its file, result.json; docs/replay.md describes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import from_json

from cone_perception.accuracy.intervals import Interval
from cone_perception.errors import OutputError, SourceError, hint, told_as
from cone_perception.files import to_json, whole_file
from cone_perception.replay.figures.names import in_nvidia_names
from cone_perception.replay.figures.rows import (
    ConeRow,
    Number,
    PositionRow,
    cone_rows,
    cones_from,
    position_cells,
    positions_from,
)
from cone_perception.replay.traces import MOMENTS, STATIONS, Fate, FrameTrace, LoadSample
from cone_perception.types import Detections, Positions

SCHEMA = 3
KIND = 'cone_perception replay'
"""The kind that result.json names: other JSON files carry a schema too."""

UNKNOWN = Interval(math.nan)


@dataclass(frozen=True, slots=True, eq=False)
class ReplayResult:
    """Everything a replay found, as result.json holds it.

    configuration: all that is needed to run the same again. bag, model, host: what was replayed,
    through what, where. figures: name -> value and interval, of all passes together;
    `replay.figures.names` has the names, units and what is better. per_pass: the same of each pass.
    probes: what the search for the highest rate tried. problems: one sentence each.
    passes: the frames of each pass. load: of each pass. truth, places: as in Drive.
    """

    configuration: Mapping[str, Any]
    bag: Mapping[str, Any]
    model: Mapping[str, Any]
    host: Mapping[str, Any]
    figures: Mapping[str, Interval]
    per_pass: Sequence[Mapping[str, Interval]]
    passes: Sequence[Sequence[FrameTrace]]
    load: Sequence[Sequence[LoadSample]]
    truth: Mapping[tuple[str, int], Detections] | None = None
    places: Mapping[tuple[str, int], Positions] | None = None
    probes: Sequence[Mapping[str, Any]] = ()
    problems: Sequence[str] = ()
    interrupted: bool = False
    health: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def frames(self) -> list[FrameTrace]:
        """The frames of all passes."""
        return list(chain.from_iterable(self.passes))

    def figure(self, name: str) -> Interval:
        """The figure of this name; UNKNOWN where there is none."""
        return self.figures.get(name, UNKNOWN)

    def slowest_station(self, at: str) -> tuple[str, float] | None:
        """The station with the greatest median or 99th percentile, in ms. at: p50 or p99."""
        times_ms = [(name, self.figure(f'station_{name}_{at}_ms').value) for name in STATIONS]
        known = [entry for entry in times_ms if math.isfinite(entry[1])]
        return max(known, key=lambda entry: entry[1], default=None)


class FrameRow(NamedTuple):
    """A FrameTrace in the file.

    sent_ns: after the pass's origin_ns. The later moments: after sent_ns. positions: a row for each
    of the cones. frame_id: of the positions.
    """

    camera: str
    index: int  # type: ignore[assignment]  # tuple has a method of this name
    stamp_ns: int
    fate: Fate
    sent_ns: int
    received_ns: int | None
    started_ns: int | None
    prepared_ns: int | None
    inferred_ns: int | None
    decoded_ns: int | None
    located_ns: int | None
    published_ns: int | None
    returned_ns: int | None
    reason: str
    band_px: Number
    cones: list[ConeRow] | None
    frame_id: str | None
    positions: list[PositionRow] | None
    partner: bool


class LoadRow(NamedTuple):
    """A LoadSample in the file."""

    who: str
    time_ns: int
    values: dict[str, Number]


class TruthRow(NamedTuple):
    """The cones of one picture in the file."""

    camera: str
    stamp_ns: int
    cones: list[ConeRow]


class PlaceRow(NamedTuple):
    """Where the cones of one picture's truth stand, row by row, in the file."""

    camera: str
    stamp_ns: int
    frame_id: str
    positions: list[PositionRow]


FRAME_COLUMNS = FrameRow._fields
LOAD_COLUMNS = LoadRow._fields
TRUTH_COLUMNS, PLACE_COLUMNS = TruthRow._fields, PlaceRow._fields

Row = TypeVar('Row')
Of = TypeVar('Of')


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra='forbid', allow_inf_nan=False)


class FileTable(_Entry, Generic[Row]):
    """Rows with the names of their columns."""

    columns: list[str]
    rows: list[Row]

    @field_validator('columns')
    @classmethod
    def _names_of_rows(cls, columns: list[str]) -> list[str]:
        wanted = get_args(cls.model_fields['rows'].annotation)[0]._fields
        if tuple(columns) != wanted:
            raise ValueError(f'must be {", ".join(wanted)}')
        return columns


class PassEntry(_Entry):
    """One pass in the file. origin_ns: of the monotonic clock."""

    origin_ns: int
    frames: FileTable[FrameRow]


class FigureEntry(_Entry):
    """A figure with its 95 % interval in the file."""

    value: Number
    low: Number
    high: Number


def _frames_from(stored: PassEntry) -> list[FrameTrace]:
    frames = []
    for row in stored.frames.rows:
        sent_ns = stored.origin_ns + row.sent_ns
        entries = row._asdict()
        cones, band_px = entries.pop('cones'), entries.pop('band_px')
        frame_id = entries.pop('frame_id')
        if row.positions is not None:
            entries['positions'] = positions_from(row.positions, frame_id)
        later = {name: sent_ns + ns for name in MOMENTS[1:] if (ns := entries[name]) is not None}
        found = None if cones is None else replace(cones_from(cones), band_px=band_px)
        frames.append(FrameTrace(**entries | later | {'sent_ns': sent_ns, 'found': found}))
    return frames


def _load_from(stored: FileTable[LoadRow]) -> list[LoadSample]:
    return [
        LoadSample(who, ns, {key: math.nan if v is None else v for key, v in values.items()})
        for who, ns, values in stored.rows
    ]


def _truth_from(stored: FileTable[TruthRow]) -> dict[tuple[str, int], Detections]:
    return {(row.camera, row.stamp_ns): cones_from(row.cones) for row in stored.rows}


def _places_from(stored: FileTable[PlaceRow]) -> dict[tuple[str, int], Positions]:
    return {
        (row.camera, row.stamp_ns): positions_from(row.positions, row.frame_id)
        for row in stored.rows
    }


Figures = dict[
    str, Annotated[FigureEntry, AfterValidator(lambda stored: Interval.from_json(dict(stored)))]
]


class ResultEntries(_Entry):
    """What the file holds of a ReplayResult."""

    interrupted: bool
    problems: list[str]
    configuration: dict[str, Any]
    bag: dict[str, Any]
    model: dict[str, Any]
    host: dict[str, Any]
    figures: Figures
    per_pass: list[Figures]
    probes: list[dict[str, Any]]
    health: dict[str, dict[str, str]]
    passes: list[Annotated[PassEntry, AfterValidator(_frames_from)]]
    load: list[Annotated[FileTable[LoadRow], AfterValidator(_load_from)]]
    truth: Annotated[FileTable[TruthRow], AfterValidator(_truth_from)] | None
    places: Annotated[FileTable[PlaceRow], AfterValidator(_places_from)] | None


class ResultFile(ResultEntries):
    """The file as it is read; `ReplayResult` tells what the entries hold."""

    kind: Literal['cone_perception replay']
    version: Literal[3] = Field(alias='schema')
    ros2_benchmark: dict[str, float]


def write_result(path: Path, result: ReplayResult) -> None:
    """Write result.json; figures that are not known are null.

    Whoever reads `path` meanwhile, or after a crash, finds the old file or the new one, whole.
    Boxes are rounded to 0.01 px, scores up to 0.0001. Raises OutputError.
    """
    texts = {
        'passes': _list(map(_pass_text, result.passes)),
        'load': _list(_table(LOAD_COLUMNS, map(astuple, samples)) for samples in result.load),
    }
    for name, columns, rows in (
        ('truth', TRUTH_COLUMNS, _keyed(result.truth, lambda cones: (cone_rows(cones),))),
        ('places', PLACE_COLUMNS, _keyed(result.places, position_cells)),
    ):
        texts[name] = 'null' if rows is None else _table(columns, rows)
    nvidia = in_nvidia_names(result.figures, result.per_pass)
    entries = {'kind': KIND, 'schema': SCHEMA, 'ros2_benchmark': nvidia}
    entries |= {n: getattr(result, n) for n in ResultEntries.model_fields if n not in texts}
    texts = {name: to_json(entry, indent=1) for name, entry in entries.items()} | texts
    advice = '(give another --out)'
    with (
        told_as(OutputError, f'{path} cannot be written', advice=advice),
        whole_file(path, 'w') as stream,
    ):
        stream.write('{\n' + ',\n'.join(f'"{name}": {text}' for name, text in texts.items()))
        stream.write('\n}\n')


def result_file(path: Path) -> Path:
    """The file itself, or that of the replay's folder `path`."""
    return path / 'result.json' if path.is_dir() else path


def read_result(path: Path) -> ReplayResult:
    """Read result.json, or that of the replay's folder `path`.

    Raises SourceError when it is no such file, of another schema, or not whole.
    """
    file = result_file(path)
    advice = '(give the result.json of a replay, or its folder)'
    with told_as(SourceError, f'{file} cannot be read', advice=advice):
        content = file.read_bytes()
    advice = '(it is damaged or another file: replay again)'
    with told_as(SourceError, f'{file} is no result.json', ValueError, advice=advice):
        record = from_json(content, allow_inf_nan=False)
    if not isinstance(record, dict) or record.get('kind') != KIND:
        raise SourceError(
            f'{file} is not the result of a replay: its "kind" is not "{KIND}". '
            'Give the result.json that `cone-perception replay` wrote.'
        )
    schema = record.get('schema')
    if schema != SCHEMA:
        raise SourceError(
            f'{file} has schema {schema!r}, and this version reads schema {SCHEMA}. '
            'Read it with the version that wrote it (its "host" has the versions), '
            'or replay the bag again with this one.'
        )
    try:
        stored = ResultFile.model_validate_json(content)
    except ValidationError as error:
        raise SourceError(
            f'{file} is damaged, or was not written by `cone-perception replay` (replay again): '
            f'{first_mistake(error, record)}'
        ) from error
    return ReplayResult(**{name: getattr(stored, name) for name in ResultEntries.model_fields})


def first_mistake(error: ValidationError, record: Any) -> str:
    """Tell place, mistake and value: `passes[0].frames.rows[3] stamp_ns: Input ..., got 1.5`.

    An unknown key first: it may be a misspelt one, which is then missing.
    """
    errors = error.errors()
    first, place = min(errors, key=lambda one: one['type'] != 'extra_forbidden'), ''
    columns: list[str] = []
    for key in first['loc']:
        if isinstance(key, int) and columns and place.endswith(']'):
            place += f' {columns[key]}'
            columns = []
        else:
            place += f'[{key}]' if isinstance(key, int) else f'.{key}'
        if isinstance(record, dict):
            columns = record.get('columns', columns)
        try:
            record = record[key]
        except (KeyError, IndexError, TypeError):  # what is missing
            record = None
    told = f'{first["msg"]}, got {first["input"]!r:.60}'
    if first['type'] == 'extra_forbidden':
        beside = [one for one in errors if one['loc'][:-1] == first['loc'][:-1]]
        missing = [str(one['loc'][-1]) for one in beside if one['type'] == 'missing']
        told = 'unknown key' + (hint(str(first['loc'][-1]), missing) if missing else '')
    return f'{place.lstrip(".")}: {told}'.lstrip(': ')


def _pass_text(frames: Sequence[FrameTrace]) -> str:
    origin_ns, rows = frames[0].sent_ns if frames else 0, []
    for frame in frames:
        row = {name: getattr(frame, name, None) for name in FRAME_COLUMNS}
        row |= {name: ns - frame.sent_ns for name in MOMENTS[1:] if (ns := row[name]) is not None}
        row['sent_ns'] = frame.sent_ns - origin_ns
        row['cones'] = None if frame.found is None else cone_rows(frame.found)
        if frame.positions is not None:
            row['frame_id'], row['positions'] = position_cells(frame.positions)
        rows.append(list(row.values()))
    return f'{{"origin_ns": {origin_ns},\n"frames": {_table(FRAME_COLUMNS, rows)}}}'


def _keyed(
    of: Mapping[tuple[str, int], Of] | None, cells: Callable[[Of], tuple[Any, ...]]
) -> Iterable[Sequence[Any]] | None:
    """Rows that begin with camera and stamp; None of None."""
    return None if of is None else ((*key, *cells(each)) for key, each in of.items())


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The text of a table, a line for each row."""
    return f'{{"columns": {to_json(columns)}, "rows": {_list(map(to_json, rows))}}}'


def _list(texts: Iterable[str]) -> str:
    joined = ',\n'.join(texts)
    return f'[\n{joined}]' if joined else '[]'
