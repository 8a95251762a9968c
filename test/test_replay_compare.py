"""A difference between replays is found; where there is none, or no answer, none is told."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import open_page

from cone_perception.accuracy.intervals import Interval, subtract
from cone_perception.cli import main
from cone_perception.errors import SettingsError, SourceError
from cone_perception.replay.figures import accuracy as judged
from cone_perception.replay.figures import statistics
from cone_perception.replay.figures.accuracy import accuracy_figures
from cone_perception.replay.figures.compare import (
    ReplayComparison,
    compare,
    compare_results,
    verdict_of,
)
from cone_perception.replay.figures.names import FIGURES, UNITS
from cone_perception.replay.figures.result import ReplayResult, write_result
from cone_perception.replay.figures.statistics import pass_figures
from cone_perception.replay.pages.comparison import comparison_text, write_comparison
from cone_perception.replay.traces import Fate, FrameTrace, Pace, Pass
from cone_perception.types import Detections


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for these differences."""
    for module in (judged, statistics):
        monkeypatch.setattr(module, 'RESAMPLES', 200)


CLASSES = ('blue_cone', 'yellow_cone')
FRAMES, HZ = 400, 20
MS = 1_000_000

HOST = {'processor': 'A', 'cores_usable': 2, 'gpu': None, 'governor': 'performance', 'kernel': '6'}
Truth = dict[tuple[str, int], Detections]


def cones(count: int) -> Detections:
    """In a row, blue and yellow in turns, 40 px tall."""
    left = 50.0 * np.arange(count, dtype=np.float32)
    boxes = np.stack([left, left * 0 + 100, left + 20, left * 0 + 140], axis=1)
    score = np.full(count, 0.9, np.float32)
    return Detections(boxes, score, np.arange(count, dtype=np.int64) % 2)


def stamp(index: int) -> int:
    return 10**18 + index * 10**9 // HZ


TRUTH: Truth = {('left', stamp(i)): cones(6) for i in range(FRAMES)}


def drive(
    latency_ms: float = 40.0,
    seed: int = 0,
    fate: Callable[[int], Fate] = lambda index: 'answered',
    found: Callable[[int], Detections] = lambda index: cones(6),
    frames: int = FRAMES,
) -> Pass:
    """A pass whose latencies scatter by 5 ms."""
    noise = np.random.default_rng(seed).gamma(4, 1.25, frames)
    traces = []
    for index in range(frames):
        sent = index * 10**9 // HZ
        answered = fate(index) == 'answered'
        returned = sent + int((latency_ms - 5 + noise[index]) * MS) if answered else None
        cones_found = found(index) if answered else None
        which = ('left', index, stamp(index), fate(index), sent)
        traces.append(FrameTrace(*which, returned_ns=returned, found=cones_found))
    return Pass(Pace(), traces)


def result_of(*passes: Pass, truth: Truth | None = TRUTH, **changes: Any) -> ReplayResult:
    """A result as the command makes it. changes: of its fields, mappings joined."""
    thresholds = dict.fromkeys(CLASSES, 0.5)
    figures = dict(pass_figures(passes))
    if truth is not None:
        figures |= accuracy_figures(passes, truth, CLASSES, thresholds)
    made = ReplayResult(
        configuration={'through': 'ros', 'pace': {'kind': 'bag', 'rate': 1.0}, 'jobs': 1},
        bag={'sha256': 'b', 'path': 'bag'},
        model={'name': 'm', 'class_names': list(CLASSES), 'thresholds': thresholds},
        host=HOST,
        figures=figures,
        per_pass=[pass_figures([each]) for each in passes],
        passes=[each.frames for each in passes],
        load=[[] for _ in passes],
        truth=truth,
    )
    for name, change in changes.items():
        old = getattr(made, name)
        value = {**old, **change} if isinstance(old, Mapping) else change
        made = replace(made, **{name: value})
    return made


def verdicts(comparison: ReplayComparison) -> dict[str, str]:
    return {name: each.verdict for name, each in comparison.differences.items()}


def test_a_slower_model_is_worse_and_a_faster_one_better() -> None:
    fast, slow = result_of(drive(40)), result_of(drive(60, seed=1))
    for a, b, verdict, by in ((fast, slow, 'worse', 20), (slow, fast, 'better', -20)):
        found = compare(a, b)
        for name in ('latency_p50_ms', 'latency_mean_ms', 'latency_p99_ms'):
            assert found.differences[name].verdict == verdict
        difference = found.differences['latency_mean_ms'].difference
        assert difference.low < by < difference.high
        assert difference.value == pytest.approx(by, abs=1)


def test_runs_of_the_same_model_are_equal_in_what_is_known_well() -> None:
    a, b = (result_of(*(drive(seed=seed) for seed in seeds)) for seeds in ((1, 2, 3), (4, 5, 6)))
    found = compare(a, b)
    for name in ('latency_p50_ms', 'latency_mean_ms', 'answered_share', 'dropped_share'):
        assert found.differences[name].verdict == 'equal', found.differences[name]
    assert not {'better', 'worse'} & set(verdicts(found).values())


def test_a_result_against_itself_is_equal_in_accuracy() -> None:
    lossy = result_of(drive(found=lambda index: cones(index % 7)))
    found = compare(lossy, lossy)
    for name in ('recall_sent', 'map50_answered', 'precision_sent blue_cone'):
        assert found.differences[name].verdict == 'equal'
        assert found.differences[name].difference == Interval(0, 0, 0)


def test_planted_loss_is_worse_where_it_belongs() -> None:
    every_twentieth = result_of(drive(fate=lambda index: 'answered' if index % 20 else 'dropped'))
    found = compare(result_of(drive()), every_twentieth)
    assert found.differences['dropped_share'].verdict == 'worse'
    assert found.differences['dropped_share'].difference.value == pytest.approx(0.05)
    assert found.differences['transport_share'].verdict == 'equal'
    # A lost frame is a miss among those sent, and none among those answered.
    assert found.differences['recall_sent'].verdict == 'worse'
    assert found.differences['recall_answered'].verdict == 'equal'
    assert (found.sent, found.answered) == (FRAMES, FRAMES * 19 // 20)


def test_accuracy_is_paired_by_frame() -> None:
    """Both are bad in the same seconds: only pairing sees that one is a little better."""

    def found_by(extra: int) -> Callable[[int], Detections]:
        return lambda index: cones((1 if index // HZ % 2 else 4) + (extra if index % 4 == 0 else 0))

    found = compare(result_of(drive(found=found_by(0))), result_of(drive(found=found_by(1))))
    recall = found.differences['recall_answered']
    assert recall.verdict == 'better'
    assert recall.difference.value == pytest.approx(1 / 24)
    # As two independent figures they would not be told apart.
    assert verdict_of('recall_answered', subtract(recall.other, recall.baseline), 0.01) == (
        'inconclusive'
    )


def test_only_frames_that_both_answered_count_among_the_answered() -> None:
    """The baseline answers only frames that are easy: that alone must not make it better."""
    easy: Callable[[int], Fate] = lambda index: 'answered' if index % 2 else 'dropped'  # noqa: E731
    hard: Callable[[int], Detections] = lambda index: cones(6 if index % 2 else 1)  # noqa: E731
    found = compare(result_of(drive(fate=easy, found=hard)), result_of(drive(found=hard)))
    assert found.differences['recall_answered'].verdict == 'equal'
    assert found.differences['recall_answered'].why == f'paired by frame: {FRAMES // 2} frames'
    assert found.differences['recall_sent'].verdict == 'better'


@pytest.mark.parametrize(
    'change, named, times, answers',
    [
        ({'bag': {'sha256': 'c'}}, 'Not the same bag', False, False),
        ({'host': {'processor': 'B'}}, 'processor: A and B', False, True),
        ({'host': {'governor': 'powersave'}}, 'governor', False, True),
        ({'configuration': {'pace': {'kind': 'hz', 'hz': 60}}}, 'pace', False, True),
        ({'configuration': {'through': 'pipeline'}}, 'ros and pipeline', False, True),
        ({'configuration': {'jobs': 2}}, 'jobs at once', False, True),
        ({'model': {'class_names': ['cone']}}, 'classes', True, False),
        ({'configuration': {'settings': {'threads': 2}}}, 'threads: None and 2', True, True),
        ({'host': {'kernel': '7'}}, 'software: kernel', True, True),
        ({'interrupted': True}, 'interrupted', True, True),
    ],
)
def test_what_the_runs_differ_in_is_told_and_stops_what_hangs_on_it(
    change: dict[str, Any], named: str, times: bool, answers: bool
) -> None:
    found = compare(result_of(drive()), result_of(drive(), **change))
    assert any(named in note for note in found.notes)
    for name, comparable in (('latency_p99_ms', times), ('recall_answered', answers)):
        assert (found.differences[name].verdict != 'not comparable') == comparable
    # A lost frame is a miss: this hangs on time and on answers.
    assert (found.differences['recall_sent'].verdict != 'not comparable') == (times and answers)


def test_other_labels_make_accuracy_incomparable() -> None:
    other = {**TRUTH, ('left', stamp(0)): cones(5)}
    found = compare(result_of(drive()), result_of(drive(), truth=other))
    assert found.differences['recall_answered'].verdict == 'not comparable'
    assert found.differences['latency_p50_ms'].verdict != 'not comparable'


def test_figures_that_one_does_not_have_are_not_comparable() -> None:
    found = compare(result_of(drive()), result_of(drive(), truth=None), ('a', 'b'))
    assert found.differences['recall_sent'].verdict == 'not comparable'
    assert found.differences['recall_sent'].why == 'not known of b'


def test_passes_that_scatter_make_a_difference_inconclusive() -> None:
    """Each pass is known well, but passes differ by more than the two results do."""
    a = result_of(*(drive(ms, seed) for seed, ms in enumerate((35, 40, 45))))
    b = result_of(*(drive(ms, seed) for seed, ms in enumerate((37, 42, 47))))
    found = compare(a, b)
    assert found.differences['latency_p50_ms'].verdict == 'inconclusive'
    assert found.differences['latency_p50_ms'].why == 'over passes'
    assert not any('One pass' in note for note in found.notes)


def test_one_run_of_each_does_not_decide_what_runs_may_differ_by() -> None:
    for ms, verdict in ((43, 'inconclusive'), (50, 'worse')):
        found = compare(result_of(drive(40)), result_of(drive(ms)))
        assert found.differences['latency_p50_ms'].verdict == verdict
        assert 'from run to run assumed' in found.differences['latency_p50_ms'].why
        assert any('One pass' in note for note in found.notes)
    # By hand: 1.96 sqrt(2) 5 % of 40 ms are 5.5 ms, and the frames' own error adds little.
    difference = found.differences['latency_mean_ms'].difference
    width = difference.high - difference.value
    assert width == pytest.approx(5.6, abs=0.2)


def test_each_side_counts_what_its_node_published_in_any_view() -> None:
    """The threshold is 0.5; the band of the other side publishes yellow from 0.3 up."""
    sure, faint = cones(6), np.where(cones(6).class_id == 1, 0.4, 0.9).astype(np.float32)
    plain = result_of(drive(found=lambda _: replace(sure, score=faint)))
    lower = replace(plain, model={**plain.model, 'view_thresholds': {'horizon': {CLASSES[1]: 0.3}}})
    found = compare(plain, lower)
    recall = found.differences['recall_sent']
    assert (recall.baseline.value, recall.other.value) == (0.5, 1)
    assert any('The thresholds differ' in note for note in found.notes)
    assert not any('The thresholds differ' in note for note in compare(lower, lower).notes)


def test_interval_over_passes_is_students() -> None:
    """By hand: means 41 and 51, variances 1, so an error of sqrt(2/3), 2 degrees of freedom."""

    def result_with(mean_mb: float) -> ReplayResult:
        of_passes = [{'node_memory_peak_mb': Interval(mean_mb + d)} for d in (-1, 0, 1)]
        made = result_of(*[drive()] * 3, truth=None, figures=of_passes[1])
        return replace(made, per_pass=of_passes)

    found = compare(result_with(41), result_with(51))
    found = found.differences['node_memory_peak_mb'].difference
    half = 4.302653 * math.sqrt(2 / 3)
    assert (found.low, found.high) == pytest.approx((10 - half, 10 + half))


def test_difference_of_independent_figures_is_movers() -> None:
    """By hand: 3-4-5 and 5-12-13 triangles."""
    found = subtract(Interval(20, 17, 32), Interval(10, 5, 14))
    assert found == Interval(10, 5, 23)


def test_figures_without_an_interval_say_how_to_get_one() -> None:
    a, b = (result_of(drive(), figures={'node_memory_peak_mb': Interval(m)}) for m in (300, 900))
    found = compare(a, b).differences['node_memory_peak_mb']
    assert found.verdict == 'inconclusive'
    assert '--repeat' in found.why


def test_highest_rates_lie_between_what_passed_and_what_failed() -> None:
    def with_rate(hz: float, failed: float) -> ReplayResult:
        probes = [{'hz': hz, 'passed': True}, {'hz': failed, 'passed': False}]
        return replace(result_of(drive(), figures={'max_rate_hz': Interval(hz)}), probes=probes)

    for b, verdict in ((with_rate(60, 65), 'better'), (with_rate(35, 40), 'inconclusive')):
        found = compare(with_rate(30, 35), b)
        assert found.differences['max_rate_hz'].verdict == verdict


@pytest.mark.parametrize(
    'name, low, high, verdict',
    [
        ('latency_p50_ms', -2.0, 2.0, 'equal'),
        ('latency_p50_ms', 0.5, 2.0, 'equal'),
        ('latency_p50_ms', 0.5, 2.1, 'worse'),
        ('latency_p50_ms', -3.0, -0.1, 'better'),
        ('latency_p50_ms', -0.1, 3.0, 'inconclusive'),
        ('recall_sent', 0.5, 3.0, 'better'),
        ('recall_sent', -3.0, -0.5, 'worse'),
        ('detections_per_frame', 0.5, 3.0, 'higher'),
        ('detections_per_frame', -3.0, -0.5, 'lower'),
        ('latency_p50_ms', math.nan, math.nan, 'inconclusive'),
    ],
)
def test_verdict_goes_by_the_interval_and_the_margin(
    name: str, low: float, high: float, verdict: str
) -> None:
    assert verdict_of(name, Interval((low + high) / 2, low, high), 2.0) == verdict


def test_every_unit_has_a_margin() -> None:
    assert {kind.unit for kind in FIGURES.values()} <= set(UNITS)
    assert (UNITS['ms'].margin(40), UNITS['ms'].margin(4)) == (2, 0.5)


def written(folder: Path, **results: ReplayResult) -> list[Path]:
    for name, result in results.items():
        (folder / name).mkdir()
        write_result(folder / name / 'result.json', result)
    return [folder / name for name in results]


def test_three_results_are_compared_with_the_first_and_written(tmp_path: Path) -> None:
    paths = written(
        tmp_path,
        base=result_of(drive()),
        slow=result_of(drive(60, seed=1)),
        other=result_of(drive(seed=2), host={'processor': 'B <x>'}),
    )
    compared = compare_results([paths[0], paths[1] / 'result.json', paths[2]])
    assert compared.names == ('base', 'slow', 'other')
    write_comparison(tmp_path, compared)
    stored = json.loads((tmp_path / 'comparison.json').read_text())
    slow, other = stored['comparisons']
    assert slow['name'] == 'slow'
    by_name: dict[str, Any] = {each['name']: each for each in slow['differences']}
    assert by_name['latency_p50_ms']['verdict'] == 'worse'
    assert any('Not the same machine' in note for note in other['notes'])
    page = (tmp_path / 'comparison.html').read_text()
    assert 'B &lt;x&gt;' in page
    opened = open_page(tmp_path / 'comparison.html')
    assert opened.drawn == 4
    assert (opened.console, opened.hosts) == ([], set())
    text = comparison_text(compared)
    lines = text.splitlines()
    at = lines.index('other against base')
    assert 'Not the same machine' in lines[at + 1]
    assert any(line.split()[0] == 'latency_p50_ms' and 'worse' in line for line in lines if line)


def test_equal_folder_names_are_told_apart(tmp_path: Path) -> None:
    for day in ('friday', 'saturday'):
        (tmp_path / day).mkdir()
    paths = [written(tmp_path / day, out=result_of(drive()))[0] for day in ('friday', 'saturday')]
    assert compare_results(paths).names == ('friday/out', 'saturday/out')
    assert len(set(compare_results([paths[0], paths[0]]).names)) == 2


def test_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = written(tmp_path, a=result_of(drive()), b=result_of(drive(60)))
    line = ['replay', 'compare', *map(str, paths), '--out', str(tmp_path / 'out')]
    assert main(line) == 0
    assert 'b against a' in capsys.readouterr().out
    assert (tmp_path / 'out' / 'comparison.html').exists()


def test_one_result_or_none_is_refused(tmp_path: Path) -> None:
    (path,) = written(tmp_path, a=result_of(drive()))
    with pytest.raises(SettingsError, match='nothing to compare'):
        compare_results([path])
    with pytest.raises(SourceError, match='absent'):
        compare_results([path, tmp_path / 'absent.json'])
