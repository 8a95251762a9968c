"""A budget passes what keeps its limits, and says why not of everything else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from cone_perception.accuracy.intervals import Interval
from cone_perception.errors import SettingsError
from cone_perception.replay.figures.budget import load_budget, over_budget
from cone_perception.replay.figures.result import ReplayResult


def result_with(figures: Mapping[str, Interval]) -> ReplayResult:
    return ReplayResult({}, {}, {}, {}, figures, (), (), ())


def reasons(folder: Path, budget: str, **figures: Interval) -> list[str]:
    path = folder / 'budget.yaml'
    path.write_text(budget)
    return over_budget(result_with(figures), load_budget(path))


def test_figures_at_their_limits_are_within(tmp_path: Path) -> None:
    budget = 'latency_p99_ms: {max: 80}\nrecall_sent: {min: 0.9}'
    assert not reasons(tmp_path, budget, latency_p99_ms=Interval(80.0), recall_sent=Interval(0.9))


def test_reason_names_figure_value_limit_and_slowest_station(tmp_path: Path) -> None:
    (reason,) = reasons(
        tmp_path,
        'latency_p99_ms: {max: 80}',
        latency_p99_ms=Interval(95.25, 90, 101),
        station_wait_p99_ms=Interval(12),
        station_inference_p99_ms=Interval(71),
        station_inference_p50_ms=Interval(200),
    )
    for part in ('latency_p99_ms is 95.25 [90, 101], above the limit of 80', 'inference: 71 ms'):
        assert part in reason


def test_too_little_is_beyond_a_least_value(tmp_path: Path) -> None:
    (reason,) = reasons(tmp_path, 'recall_sent: {min: 0.9}', recall_sent=Interval(0.85))
    assert 'below the limit of 0.9' in reason


@pytest.mark.parametrize('end, kept', [('value', True), ('high', False), ('low', True)])
def test_the_end_of_the_interval_that_is_asked_for_decides(
    end: str, kept: bool, tmp_path: Path
) -> None:
    found = reasons(
        tmp_path,
        f'dropped_share: {{max: 0.05, end: {end}}}',
        dropped_share=Interval(0.04, 0.01, 0.1),
    )
    assert (not found) == kept


@pytest.mark.parametrize('figures', [{}, {'recall_sent': Interval(math.nan)}])
def test_what_is_not_known_is_over_budget_unless_optional(
    figures: dict[str, Interval], tmp_path: Path
) -> None:
    (reason,) = reasons(tmp_path, 'recall_sent: {min: 0.9}', **figures)
    assert 'recall_sent is not known' in reason
    assert not reasons(tmp_path, 'recall_sent: {min: 0.9, optional: true}', **figures)


def test_a_figure_without_interval_does_not_keep_a_limit_on_its_end(tmp_path: Path) -> None:
    budget = 'max_rate_hz: {min: 30, end: low}'
    (reason,) = reasons(tmp_path, budget, max_rate_hz=Interval(60))
    assert 'has no interval' in reason


@pytest.mark.parametrize(
    'budget, named',
    [
        ('latency_p98_ms: {max: 80}', 'latency_p98_ms'),
        ('latency_p99_ms: {maximum: 80}', 'maximum'),
        ('latency_p99_ms: {optional: true}', 'max or min'),
        ('latency_p99_ms: 80', 'latency_p99_ms'),
        ('latency_p99_ms: {max: fast}', 'fast'),
        ('latency_p99_ms: {max: true}', 'True'),
        ('latency_p99_ms: {max: .nan}', 'nan'),
        ('latency_p99_ms: {max: 1, min: 2}', 'min is above its max'),
        ('latency_p99_ms: {max: 1, end: upper}', 'upper'),
        ('latency_p99_ms: {max: 1, optional: maybe}', 'maybe'),
        ('- latency_p99_ms', 'no budget'),
        ('', 'no budget'),
        ('a: {', 'cannot be read'),
    ],
)
def test_what_is_wrong_in_a_budget_is_refused_by_name(
    budget: str, named: str, tmp_path: Path
) -> None:
    path = tmp_path / 'budget.yaml'
    path.write_text(budget)
    with pytest.raises(SettingsError, match=named) as caught:
        load_budget(path)
    assert str(path) in str(caught.value)


def test_missing_budget_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match='absent'):
        load_budget(tmp_path / 'absent.yaml')


def test_shipped_budget_limits_latency_losses_recall_and_memory(repository: Path) -> None:
    budget = load_budget(repository / 'config' / 'budget.yaml')
    limited = {name.split()[0] for name in budget}
    shares = {f'{fate}_share' for fate in ('transport', 'dropped', 'failed')}
    assert {'latency_p99_ms', 'recall_sent', 'node_memory_slope_mb_per_min', *shares} <= limited
    fine = dict.fromkeys((*shares, 'return_share'), Interval(0))
    fine['latency_p99_ms'] = Interval(50)
    assert not over_budget(result_with(fine), budget)
    assert len(over_budget(result_with({**fine, 'failed_share': Interval(0.001)}), budget)) == 1
