"""The result of a replay and its file, result.json; docs/replay.md describes it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.errors import OutputError, SourceError
from cone_perception.files import to_json, whole_file
from cone_perception.replay.figures.names import in_nvidia_names
from cone_perception.replay.traces import FATES, MOMENTS, FrameTrace, LoadSample
from cone_perception.types import Detections

SCHEMA = 1
KIND = 'cone_perception replay'
"""What result.json says of itself: other JSON files carry a schema too."""

PIXEL_DECIMALS = 2
SCORE_STEPS = 10_000

LATER_MOMENTS = MOMENTS[1:]

FRAME_COLUMNS = ('camera', 'index', 'stamp_ns', 'fate', *MOMENTS, 'reason', 'cones')
"""Of a frame's row. sent_ns counts from the pass's origin_ns, the later moments from the frame's
sending. cones: a row of CONE_COLUMNS each."""

CONE_COLUMNS = ('left_px', 'top_px', 'right_px', 'bottom_px', 'score', 'class_id')
LOAD_COLUMNS = ('who', 'time_ns', 'values')
TRUTH_COLUMNS = ('camera', 'stamp_ns', 'cones')


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
    """Write result.json; figures that are not known are null.

    Whoever reads `path` meanwhile, or after a crash, finds the old file or the new one, whole.
    Boxes are rounded to 0.01 px, scores up to 0.0001. Raises OutputError.
    """
    entries: dict[str, Any] = {
        'kind': KIND,
        'schema': result.schema,
        'interrupted': result.interrupted,
        'problems': list(result.problems),
        'configuration': result.configuration,
        'bag': result.bag,
        'model': result.model,
        'host': result.host,
        'figures': _figures_record(result.figures),
        'ros2_benchmark': in_nvidia_names(result.figures, result.per_pass),
        'per_pass': [_figures_record(figures) for figures in result.per_pass],
        'probes': list(result.probes),
        'health': result.health,
    }
    try:
        with whole_file(path, 'w') as stream:
            stream.write('{\n')
            for key, value in entries.items():
                stream.write(f'{json.dumps(key)}: {to_json(value, indent=1)},\n')
            stream.write('"passes": [')
            for number, frames in enumerate(result.passes):
                origin_ns = frames[0].sent_ns if frames else 0
                stream.write(',\n' if number else '\n')
                stream.write(f'{{"origin_ns": {origin_ns},\n"frames": ')
                stream.writelines(
                    _table(FRAME_COLUMNS, (_frame_row(frame, origin_ns) for frame in frames))
                )
                stream.write('}')
            stream.write('],\n"load": [')
            for number, samples in enumerate(result.load):
                stream.write(',\n' if number else '\n')
                rows = ([sample.who, sample.time_ns, sample.values] for sample in samples)
                stream.writelines(_table(LOAD_COLUMNS, rows))
            stream.write('],\n"truth": ')
            if result.truth is None:
                stream.write('null')
            else:
                stream.writelines(
                    _table(
                        TRUTH_COLUMNS,
                        (
                            [camera, stamp_ns, _cone_rows(cones)]
                            for (camera, stamp_ns), cones in result.truth.items()
                        ),
                    )
                )
            stream.write('\n}\n')
    except OSError as error:
        raise OutputError(f'{path} cannot be written: {error}. Give another --out.') from error


def result_file(path: Path) -> Path:
    """The file itself, or that of the replay's folder `path`."""
    return path / 'result.json' if path.is_dir() else path


def read_result(path: Path) -> ReplayResult:
    """Read result.json, or that of the replay's folder `path`.

    Raises SourceError when it is no such file, of another schema, or not whole.
    """
    file = result_file(path)
    try:
        text = file.read_text(encoding='utf-8')
        record = json.loads(text, parse_constant=_refuse_constant)
    except OSError as error:
        raise SourceError(
            f'{file} cannot be read: {error}. Give the result.json of a replay, or its folder.'
        ) from error
    except ValueError as error:
        raise SourceError(
            f'{file} is no result.json: {error}. It is damaged or another file: replay again.'
        ) from error
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
        return _result_from(_Place(record, ''))
    except _WrongEntryError as error:
        raise SourceError(
            f'{file} is damaged, or was not written by `cone-perception replay`: {error}. '
            'Replay again.'
        ) from error


class _WrongEntryError(Exception):
    """What is wrong in a record, and where."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A value of the record and where it stands, for the error's sake."""

    value: Any
    where: str

    def of(self, *kinds: type[Any]) -> Any:
        """The value, if it is of one of these types; bool is no number."""
        if type(self.value) not in kinds:
            names = ' or '.join(kind.__name__ for kind in kinds)
            raise _WrongEntryError(f'{self.where or "it"} must be {names}, got {self.value!r:.60}')
        return self.value

    def number(self) -> float:
        """A number; null is NaN."""
        return math.nan if self.value is None else float(self.of(int, float))

    def whole_or_none(self) -> int | None:
        return None if self.value is None else int(self.of(int))

    def entry(self, key: str) -> _Place:
        if key not in self.of(dict):
            raise _WrongEntryError(f'{self.where or "it"} has no "{key}"')
        return _Place(self.value[key], f'{self.where}.{key}'.lstrip('.'))

    def mapping(self) -> Iterator[tuple[str, _Place]]:
        for key, value in self.of(dict).items():
            yield key, _Place(value, f'{self.where}.{key}'.lstrip('.'))

    def items(self) -> Iterator[_Place]:
        for number, value in enumerate(self.of(list)):
            yield _Place(value, f'{self.where}[{number}]')

    def table(self, columns: Sequence[str]) -> Iterator[dict[str, _Place]]:
        """The rows of {"columns": [...], "rows": [[...], ...]}, column -> value."""
        named = self.entry('columns').of(list)
        if missing := [name for name in columns if name not in named]:
            raise _WrongEntryError(f'{self.where}.columns lacks {", ".join(missing)}')
        for row in self.entry('rows').items():
            if len(row.of(list)) != len(named):
                raise _WrongEntryError(
                    f'{row.where} has {len(row.value)} values for {len(named)} columns'
                )
            yield {
                name: _Place(value, f'{row.where} {name}')
                for name, value in zip(named, row.value, strict=True)
            }


def _result_from(record: _Place) -> ReplayResult:
    truth = record.entry('truth')
    return ReplayResult(
        configuration=record.entry('configuration').of(dict),
        bag=record.entry('bag').of(dict),
        model=record.entry('model').of(dict),
        host=record.entry('host').of(dict),
        figures=_figures_from(record.entry('figures')),
        per_pass=[_figures_from(figures) for figures in record.entry('per_pass').items()],
        passes=[_frames_from(frames) for frames in record.entry('passes').items()],
        load=[
            [_sample_from(row) for row in samples.table(LOAD_COLUMNS)]
            for samples in record.entry('load').items()
        ],
        truth=None
        if truth.value is None
        else {
            (row['camera'].of(str), row['stamp_ns'].of(int)): _cones_from(row['cones'])
            for row in truth.table(TRUTH_COLUMNS)
        },
        probes=[probe.of(dict) for probe in record.entry('probes').items()],
        problems=[problem.of(str) for problem in record.entry('problems').items()],
        interrupted=record.entry('interrupted').of(bool),
        health={
            part: {key: value.of(str) for key, value in values.mapping()}
            for part, values in record.entry('health').mapping()
        },
    )


def _figures_record(figures: Mapping[str, Figure]) -> dict[str, dict[str, float]]:
    return {
        name: {'value': figure.value, 'low': figure.low, 'high': figure.high}
        for name, figure in figures.items()
    }


def _figures_from(record: _Place) -> dict[str, Figure]:
    return {
        name: Figure(*(figure.entry(key).number() for key in ('value', 'low', 'high')))
        for name, figure in record.mapping()
    }


def _frame_row(frame: FrameTrace, origin_ns: int) -> list[Any]:
    later = (getattr(frame, name) for name in LATER_MOMENTS)
    return [
        frame.camera,
        frame.index,
        frame.stamp_ns,
        frame.fate,
        frame.sent_ns - origin_ns,
        *(None if moment is None else moment - frame.sent_ns for moment in later),
        frame.reason,
        None if frame.found is None else _cone_rows(frame.found),
    ]


def _frames_from(record: _Place) -> list[FrameTrace]:
    origin_ns = record.entry('origin_ns').of(int)
    frames = []
    for row in record.entry('frames').table(FRAME_COLUMNS):
        fate = row['fate'].of(str)
        if fate not in FATES:
            raise _WrongEntryError(
                f'{row["fate"].where} must be one of {", ".join(FATES)}: {fate!r}'
            )
        sent_ns = origin_ns + row['sent_ns'].of(int)
        later = {name: row[name].whole_or_none() for name in LATER_MOMENTS}
        frames.append(
            FrameTrace(
                camera=row['camera'].of(str),
                index=row['index'].of(int),
                stamp_ns=row['stamp_ns'].of(int),
                fate=fate,
                sent_ns=sent_ns,
                reason=row['reason'].of(str),
                found=None if row['cones'].value is None else _cones_from(row['cones']),
                **{name: None if ns is None else sent_ns + ns for name, ns in later.items()},
            )
        )
    return frames


def _sample_from(row: Mapping[str, _Place]) -> LoadSample:
    return LoadSample(
        row['who'].of(str),
        row['time_ns'].of(int),
        {key: value.number() for key, value in row['values'].mapping()},
    )


def _cone_rows(cones: Detections) -> list[list[float]]:
    """(N) rows of CONE_COLUMNS."""
    boxes = np.round(cones.xyxy_px.astype(np.float64), PIXEL_DECIMALS).tolist()
    # Up, so that no cone falls below the threshold that it passed; but for float32's own rounding.
    steps = np.ceil(cones.score.astype(np.float64) * SCORE_STEPS - 0.01)
    scores = (steps / SCORE_STEPS + 0.0).tolist()
    classes = cones.class_id.tolist()
    return [
        [*box, score, class_id] for box, score, class_id in zip(boxes, scores, classes, strict=True)
    ]


def _cones_from(rows: _Place) -> Detections:
    numbers = [
        [math.nan if value is None else value for value in row.of(list)] for row in rows.items()
    ]
    if any(len(row) != len(CONE_COLUMNS) for row in numbers):
        raise _WrongEntryError(f'{rows.where} needs rows of {", ".join(CONE_COLUMNS)}')
    table = np.array(numbers or np.zeros((0, len(CONE_COLUMNS))))
    if table.dtype.kind not in 'if' or not (table[:, 5] == np.floor(table[:, 5])).all():
        raise _WrongEntryError(f'{rows.where} has a cone that is not {", ".join(CONE_COLUMNS)}')
    return Detections(
        table[:, :4].astype(np.float32),
        table[:, 4].astype(np.float32),
        table[:, 5].astype(np.int64),
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """The text of a table, a line for each row."""
    yield f'{{"columns": {json.dumps(columns)}, "rows": ['
    for number, row in enumerate(rows):
        yield (',\n' if number else '\n') + to_json(row)
    yield ']}'


def _refuse_constant(name: str) -> None:
    raise ValueError(f'{name} is no JSON')
