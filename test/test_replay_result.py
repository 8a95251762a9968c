"""result.json: what is written comes back, and what is wrong with a file is said."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cone_perception.accuracy.intervals import Interval
from cone_perception.errors import OutputError, SourceError
from cone_perception.files import without_nan
from cone_perception.replay.figures.result import (
    FRAME_COLUMNS,
    KIND,
    LOAD_COLUMNS,
    SCHEMA,
    ReplayResult,
    read_result,
    write_result,
)
from cone_perception.replay.figures.rows import CONE_COLUMNS, PositionRow
from cone_perception.replay.traces import FATES, MOMENTS, STATIONS, FrameTrace, LoadSample
from cone_perception.types import Detections, Positions


def some_cones(rng: np.random.Generator, count: int) -> Detections:
    """As exact as the file holds them."""
    corners = rng.uniform(-5, 4000, (count, 4)).round(2).astype(np.float32)
    score = rng.uniform(0, 1, count).round(4).astype(np.float32)
    return Detections(corners, score, rng.integers(0, 5, count))


def some_positions(rng: np.random.Generator, count: int) -> Positions:
    """As exact as the file holds them; one in three is not known."""
    known = rng.random(count) < 0.7
    xyz_m = np.where(known[:, None], rng.uniform(-5, 30, (count, 3)).round(3), np.nan)
    covariance_m2 = np.full((count, 3, 3), np.nan)
    for one in covariance_m2[known]:
        one[:] = [[0.25, -0.000123456, 0.5], [-0.000123456, 1234.56, 0.0], [0.5, 0.0, 2.0]]
    source = np.where(known, rng.integers(1, 4, count), 0)
    return Positions(xyz_m, covariance_m2, source, str(rng.choice(['base_footprint', ''])))


def some_frame(rng: np.random.Generator, index: int) -> FrameTrace:
    """Any frame that the types allow: moments may be missing, or even run backwards."""
    moments = {
        name: int(rng.integers(0, 2**62)) if rng.random() < 0.7 else None for name in MOMENTS[1:]
    }
    band_px = float(rng.uniform(0, 3000)) if rng.random() < 0.5 else None
    found = replace(some_cones(rng, int(rng.integers(0, 4))), band_px=band_px)
    positions = some_positions(rng, len(found)) if rng.random() < 0.5 else None
    return FrameTrace(
        camera=str(rng.choice(['left', '_weird_топик', ''])),
        index=index,
        stamp_ns=int(rng.integers(-(2**62), 2**62)),
        fate=FATES[rng.integers(len(FATES))],
        sent_ns=int(rng.integers(0, 2**62)),
        reason=str(rng.choice(['', 'quote " and\nline', 'größer'])),
        found=found if rng.random() < 0.7 else None,
        positions=positions,
        partner=bool(rng.random() < 0.5),
        **moments,
    )


def some_figure(rng: np.random.Generator) -> Interval:
    return Interval(*(float(v) for v in np.where(rng.random(3) < 0.3, np.nan, rng.normal(size=3))))


def some_result(seed: int) -> ReplayResult:
    rng = np.random.default_rng(seed)
    figures = {name: some_figure(rng) for name in ('latency_p50_ms', 'recall_sent blue_cone')}
    passes = [
        [some_frame(rng, index) for index in range(rng.integers(0, 6))]
        for _ in range(rng.integers(0, 3))
    ]
    load = [
        [LoadSample('node', int(rng.integers(0, 2**62)), {'cpu_cores': float(rng.normal())})]
        for _ in passes
    ]
    truth = {('left', int(stamp)): some_cones(rng, 3) for stamp in rng.integers(0, 2**62, 3)}
    return ReplayResult(
        configuration={'arguments': {'rate': 1.5, 'topic': ['/a']}, 'none': None},
        bag={'sha256': 'ab', 'frames': 3},
        model={'name': 'demo'},
        host={'git_dirty': True},
        figures=figures,
        per_pass=[figures for _ in passes],
        passes=passes,
        load=load,
        truth=truth if rng.random() < 0.5 else None,
        places={key: some_positions(rng, 3) for key in truth} if rng.random() < 0.5 else None,
        probes=[{'hz': 10.0, 'passed': True}],
        problems=['the left camera stops after 3 s'],
        interrupted=bool(rng.random() < 0.5),
        health={'detector: node': {'engine': 'OpenVINO'}},
    )


@pytest.mark.parametrize('seed', range(20))
def test_what_is_written_comes_back(seed: int, tmp_path: Path) -> None:
    path = tmp_path / 'result.json'
    result = some_result(seed)
    write_result(path, result)
    assert without_nan(read_result(path)) == without_nan(result)


@pytest.mark.parametrize('seed', range(5))
def test_a_result_read_and_written_again_is_the_same_file(seed: int, tmp_path: Path) -> None:
    first, second = tmp_path / 'first.json', tmp_path / 'second.json'
    write_result(first, some_result(seed))
    write_result(second, read_result(first))
    assert second.read_text() == first.read_text()


def test_the_replays_folder_stands_for_its_result(tmp_path: Path) -> None:
    write_result(tmp_path / 'result.json', some_result(1))
    assert read_result(tmp_path).bag == {'sha256': 'ab', 'frames': 3}


def test_the_file_is_json_that_others_can_read(tmp_path: Path) -> None:
    """NaN and Infinity are no JSON: jq, JavaScript and others refuse them."""
    path = tmp_path / 'result.json'
    result = some_result(0)
    configuration = {'rate': math.inf, 'deep': ({'x': math.nan},), 'path': Path('a')}
    configuration['n'] = np.int64(3)
    write_result(path, replace(result, configuration=configuration))

    def refuse(name: str) -> None:
        pytest.fail(f'{name} in result.json')

    record = json.loads(path.read_text(), parse_constant=refuse)
    assert record['configuration'] == {'rate': None, 'deep': [{'x': None}], 'path': 'a', 'n': 3}


def test_nvidias_names_stand_beside_ours(tmp_path: Path) -> None:
    told = {'frames_sent': 20, 'frames_answered': 19, 'latency_mean_ms': 8}
    figures = {name: Interval(value) for name, value in told.items()}
    write_result(tmp_path / 'result.json', replace(some_result(1), figures=figures, per_pass=[]))
    record = json.loads((tmp_path / 'result.json').read_text())
    assert record['ros2_benchmark'] == {
        'BasicPerformanceMetrics.NUM_FRAMES_SENT': 20,
        'BasicPerformanceMetrics.NUM_MISSED_FRAMES': 1,
        'BasicPerformanceMetrics.MEAN_LATENCY': 8,
    }


def test_a_long_drive_stays_small(tmp_path: Path) -> None:
    """Ten minutes at 30 Hz with ten cones each stay below 12 MB: 600 bytes for each picture."""
    rng = np.random.default_rng(0)
    start_ns, period_ns = 10**15, 33_333_333
    frames = []
    for i in range(500):
        sent_ns = start_ns + i * period_ns
        later = [sent_ns + moment for moment in np.cumsum(rng.integers(1, 10**7, 7)).tolist()]
        stamp_ns = 1_700_000_000 * 10**9 + i * period_ns
        found = some_cones(rng, 10)
        frames.append(FrameTrace('left', i, stamp_ns, 'answered', sent_ns, *later, found=found))
    path = tmp_path / 'result.json'
    write_result(path, replace(some_result(1), passes=[frames], load=[[]], truth=None))
    assert path.stat().st_size / 500 < 600


def test_cones_are_rounded(tmp_path: Path) -> None:
    cones = Detections(
        np.array([[0.1249, 1279.996, -0.004, 3.3333]], np.float32),
        np.array([0.87652], np.float32),
        np.array([4]),
    )
    frame = FrameTrace('left', 0, 0, 'answered', 0, found=cones)
    path = tmp_path / 'result.json'
    write_result(path, replace(some_result(1), passes=[[frame]]))
    row = json.loads(path.read_text())['passes'][0]['frames']['rows'][0]
    assert row[FRAME_COLUMNS.index('cones')] == [[0.12, 1280.0, 0.0, 3.33, 0.8766, 4]]
    ((found,),) = read_result(path).passes
    assert found.found is not None
    np.testing.assert_allclose(found.found.xyxy_px, cones.xyxy_px, rtol=0, atol=0.0055)
    np.testing.assert_allclose(found.found.score, cones.score, rtol=0, atol=0.0001)


def test_no_cone_falls_below_the_threshold_that_it_passed(tmp_path: Path) -> None:
    """A threshold of the model card has two decimals; float32(0.47) is less than 0.47."""
    for threshold in np.arange(0.05, 1, 0.01).round(2):
        score = np.float32(threshold) + np.array([1e-5, 4e-5, 6e-5], np.float32)
        assert (score >= threshold).all()
        cones = Detections(np.zeros((3, 4), np.float32), score, np.zeros(3, np.int64))
        path = tmp_path / 'result.json'
        write_result(path, replace(some_result(1), passes=[], load=[], truth={('left', 1): cones}))
        found = (read_result(path).truth or {})['left', 1]
        assert (found.score >= threshold).all(), threshold


def test_a_reader_never_meets_half_a_file(tmp_path: Path) -> None:
    """Writing that fails half way leaves the old file, and nothing else."""
    path = tmp_path / 'result.json'
    write_result(path, some_result(1))
    before = path.read_text()
    unwritable = replace(some_result(2), health={'x': {'y': object()}})
    with pytest.raises(TypeError, match='object has no place in JSON'):
        write_result(path, unwritable)
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ['result.json']


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r'nowhere.result\.json cannot be written.*--out'):
        write_result(tmp_path / 'nowhere' / 'result.json', some_result(1))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match='cannot be read.*give the result.json'):
        read_result(tmp_path / 'none.json')


@pytest.mark.parametrize(
    'content', [b'', b'{"kind": ', b'no json', b'[NaN]', b'\x00', b'\x89PNG\r\n\xff\xfe']
)
def test_what_is_no_json_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / 'result.json'
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r'result\.json is no result'):
        read_result(path)


@pytest.mark.parametrize('record', [{}, [], {'schema': 1}, {'kind': 'card'}, 3])
def test_another_json_file_is_refused(record: Any, tmp_path: Path) -> None:
    path = tmp_path / 'card.json'
    path.write_text(json.dumps(record))
    with pytest.raises(SourceError, match='not the result of a replay'):
        read_result(path)


@pytest.mark.parametrize('schema', [SCHEMA + 1, 0, '1', None])
def test_another_schema_is_refused_with_advice(schema: Any, tmp_path: Path) -> None:
    path = tmp_path / 'result.json'
    path.write_text(json.dumps({'kind': KIND, 'schema': schema, 'later': 1}))
    with pytest.raises(SourceError, match=f'reads schema {SCHEMA}.*replay the bag again'):
        read_result(path)


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """A result with a frame, a sample, truth and a figure, as JSON."""
    frame = FrameTrace(
        'left', 0, 5, 'answered', 7, 8, found=some_cones(np.random.default_rng(0), 1)
    )
    result = replace(
        some_result(1),
        passes=[[frame]],
        per_pass=[],
        load=[[LoadSample('node', 3, {'memory_mb': 1.0})]],
        truth={('left', 5): Detections.empty()},
        places={('left', 5): some_positions(np.random.default_rng(0), 1)},
    )
    write_result(tmp_path / 'whole.json', result)
    found: dict[str, Any] = json.loads((tmp_path / 'whole.json').read_text())
    return found


def error_of(record: Any, path: Path) -> str:
    path.write_text(json.dumps(record))
    with pytest.raises(SourceError) as error:
        read_result(path)
    return str(error.value)


def test_docs_tell_of_every_key_column_fate_and_moment(record: dict[str, Any]) -> None:
    text = (Path(__file__).parents[1] / 'docs' / 'replay.md').read_text()
    moments = [name.removesuffix('_ns') for name in MOMENTS]
    columns = [c for c in FRAME_COLUMNS if c not in MOMENTS[1:]]
    names = [
        *record,
        *columns,
        *CONE_COLUMNS,
        *PositionRow._fields,
        *LOAD_COLUMNS,
        *FATES,
        *moments,
        *STATIONS,
    ]
    assert [name for name in names if f'`{name}`' not in text] == []


KEYS = [*(entry.name for entry in fields(ReplayResult)), 'ros2_benchmark']


@pytest.mark.parametrize('key', KEYS)
def test_a_missing_entry_is_named(key: str, record: dict[str, Any], tmp_path: Path) -> None:
    del record[key]
    assert f': {key}: Field required' in error_of(record, tmp_path / 'result.json')


@pytest.mark.parametrize('key', [key for key in KEYS if key not in ('truth', 'places')])
def test_an_entry_of_the_wrong_type_is_named(
    key: str, record: dict[str, Any], tmp_path: Path
) -> None:
    record[key] = 'text'
    assert f': {key}: Input should be' in error_of(record, tmp_path / 'result.json')


Damage = Callable[[dict[str, Any]], object]


def frames_of(record: dict[str, Any]) -> dict[str, Any]:
    frames: dict[str, Any] = record['passes'][0]['frames']
    return frames


def put(column: str, value: Any) -> Damage:
    def damage(record: dict[str, Any]) -> None:
        frames_of(record)['rows'][0][FRAME_COLUMNS.index(column)] = value

    return damage


@pytest.mark.parametrize(
    'damage, said',
    [
        (lambda r: r['figures'].update(a={'value': 1}), 'figures.a.low: Field required'),
        (
            lambda r: r['figures'].update(a={'value': 'x'}),
            'figures.a.value: Input should be a valid number',
        ),
        (lambda r: r['passes'][0].pop('origin_ns'), 'passes[0].origin_ns: Field required'),
        (
            lambda r: frames_of(r)['columns'].remove('stamp_ns'),
            'columns: Value error, must be camera, index, stamp_ns',
        ),
        (lambda r: frames_of(r)['rows'][0].pop(), 'rows[0] partner: Field required'),
        (put('positions', [[1, 2]]), 'rows[0] positions[0][2]: Field required'),
        (put('fate', 'eaten'), "rows[0] fate: Input should be 'answered', 'matched'"),
        (put('stamp_ns', 1.5), 'rows[0] stamp_ns: Input should be a valid integer, got 1.5'),
        (put('received_ns', 'x'), "rows[0] received_ns: Input should be a valid integer, got 'x'"),
        (put('camera', None), 'rows[0] camera: Input should be a valid string, got None'),
        (put('cones', [[1, 2, 3, 4, 0.5]]), 'rows[0] cones[0][5]: Field required'),
        (
            put('cones', [[1, 2, 3, 4, 0.5, 1.5]]),
            'rows[0] cones[0][5]: Input should be a valid int',
        ),
        (
            put('cones', [[1, 2, 3, 'x', 0.5, 1]]),
            'rows[0] cones[0][3]: Input should be a valid num',
        ),
        (put('cones', 'none'), 'rows[0] cones: Input should be a valid array'),
        (lambda r: r['load'][0]['rows'][0].__setitem__(1, None), 'load[0].rows[0] time_ns: Input'),
        (lambda r: r['truth']['rows'][0].__setitem__(0, 3), 'truth.rows[0] camera: Input'),
        (lambda r: r['health'].update(x={'y': 1}), 'health.x.y: Input should be a valid string'),
        (
            lambda r: r.update(figurs=r.pop('figures')),
            ': figurs: unknown key. Did you mean figures?',
        ),
        (lambda r: r['passes'][0].update(more=1), ': passes[0].more: unknown key'),
        (lambda r: r.update(interrupted=1), 'interrupted: Input should be a valid boolean, got 1'),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    damage: Damage, said: str, record: dict[str, Any], tmp_path: Path
) -> None:
    damage(record)
    assert said in error_of(record, tmp_path / 'result.json')


def test_a_file_cut_off_anywhere_is_refused(record: dict[str, Any], tmp_path: Path) -> None:
    whole = (tmp_path / 'whole.json').read_text()
    path = tmp_path / 'result.json'
    for end in range(0, len(whole) - 2, 37):
        path.write_text(whole[:end])
        with pytest.raises(SourceError):
            read_result(path)
