"""The figures of a replay against cases computed by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from cone_perception.accuracy.intervals import Interval, expanded_tail
from cone_perception.replay.figures import accuracy as judged
from cone_perception.replay.figures.names import (
    FIGURES,
    NVIDIA_NAMES,
    FigureKind,
    in_nvidia_names,
    is_known,
    kind_of,
)
from cone_perception.replay.figures.positions import position_figures
from cone_perception.replay.figures.statistics import MIN_BLOCKS, blocks_of_frames, pass_figures
from cone_perception.replay.figures.usage import load_figures, slope_per_min
from cone_perception.replay.traces import STATIONS, FrameTrace, LoadSample, Pace, Pass
from cone_perception.types import Detections, Positions

MS = 10**6
SECOND = 10**9
T0 = 5_000 * SECOND
"""A monotonic clock does not start at zero."""


def answered(
    i: int, sent_ms: float, latency_ms: float = 10.0, camera: str = 'left', **stations_ms: float
) -> FrameTrace:
    """An answered frame; each station takes 1 ms unless told, the last one what is left."""
    at_ns = sent_ns = T0 + round(sent_ms * MS)
    moments = []
    for station in STATIONS[:-1]:
        at_ns += round(stations_ms.get(station, 1.0) * MS)
        moments.append(at_ns)
    returned_ns = sent_ns + round(latency_ms * MS)
    return FrameTrace(camera, i, i, 'answered', sent_ns, *moments, returned_ns)


def lost(i: int, sent_ms: float, fate: str, camera: str = 'left') -> FrameTrace:
    return FrameTrace(camera, i, i, fate, T0 + round(sent_ms * MS))  # type: ignore[arg-type]


def one_pass(frames: Sequence[FrameTrace], load: Sequence[LoadSample] = ()) -> Pass:
    return Pass(Pace(), frames, load)


def with_latencies(latencies_ms: Sequence[float], apart_ms: float = 100.0) -> Pass:
    return one_pass([answered(i, i * apart_ms, value) for i, value in enumerate(latencies_ms)])


def values(figures: dict[str, Interval]) -> dict[str, float]:
    return {name: figure.value for name, figure in figures.items()}


def test_latency_quantiles_are_those_computed_by_hand() -> None:
    # Sorted 11..20: position 9 q, in between in proportion.
    found = values(pass_figures([with_latencies([20, 11, 19, 12, 18, 13, 17, 14, 16, 15])]))
    wanted = {'min': 11, 'mean': 15.5, 'p50': 15.5, 'p90': 19.1, 'p95': 19.55, 'p99': 19.91}
    for name, ms in {**wanted, 'max': 20}.items():
        assert found[f'latency_{name}_ms'] == pytest.approx(ms), name


def test_passes_are_pooled() -> None:
    found = values(pass_figures([with_latencies([11, 12]), with_latencies([13, 20, 40])]))
    assert found['latency_p50_ms'] == 13
    assert found['frames_sent'] == 5


def test_jitter_is_the_mean_change_between_answers_of_one_camera() -> None:
    frames = [
        answered(0, 0, 10, 'left'),
        answered(0, 0, 50, 'right'),
        answered(1, 33, 13, 'left'),
        answered(1, 33, 50, 'right'),
        lost(2, 66, 'dropped', 'left'),
        answered(3, 100, 8, 'left'),
    ]
    # |13 - 10|, |8 - 13| of the left camera, |50 - 50| of the right one.
    assert values(pass_figures([one_pass(frames)]))['latency_jitter_ms'] == pytest.approx(8 / 3)


def test_jitter_does_not_reach_from_one_pass_into_the_next() -> None:
    passes = [with_latencies([10, 10]), with_latencies([90, 90])]
    assert values(pass_figures(passes))['latency_jitter_ms'] == 0


def test_a_slow_station_shows_in_that_station_only() -> None:
    usual = [answered(i, i * 33, 10) for i in range(90)]
    slow = [answered(i, i * 33, 15, decode=6.0) for i in range(90)]
    before, after = (values(pass_figures([one_pass(frames)])) for frames in (usual, slow))
    stations = {name for name in before if name.startswith('station_')}
    changed = {name for name in stations if abs(before[name] - after[name]) > 1e-9}
    assert changed == {'station_decode_p50_ms', 'station_decode_p99_ms'}
    assert after['station_decode_p50_ms'] == pytest.approx(6)
    assert after['latency_p50_ms'] - before['latency_p50_ms'] == pytest.approx(5)
    assert after['own_cost_p50_ms'] - before['own_cost_p50_ms'] == pytest.approx(5)


def test_own_cost_is_without_the_network_and_without_transport() -> None:
    frames = [answered(0, 0, 100, transport_in=30, wait=2, preprocess=3, inference=40, decode=4)]
    found = values(pass_figures([one_pass(frames)]))
    assert found['own_cost_p50_ms'] == pytest.approx(2 + 3 + 4 + 1 + 1)
    assert found['age_at_publish_p50_ms'] == pytest.approx(30 + 2 + 3 + 40 + 5 + 1)
    assert found['age_at_publish_max_ms'] == found['age_at_publish_p99_ms']


def test_a_node_that_tells_no_moments_has_no_stations() -> None:
    frames = [
        FrameTrace('left', i, i, 'answered', T0 + i * SECOND, returned_ns=T0 + i * SECOND + 7 * MS)
        for i in range(3)
    ]
    found = pass_figures([one_pass(frames)])
    left_out = ('station_', 'own_cost', 'age_at_publish', 'rate_received')
    assert not [name for name in found if name.startswith(left_out)]
    assert found['latency_p50_ms'].value == 7


def test_shares_by_fate_add_up() -> None:
    fates = ['answered'] * 12 + ['matched'] * 2 + ['dropped'] * 3 + ['transport'] * 2 + ['failed']
    frames = [
        answered(i, i * 100) if fate == 'answered' else lost(i, i * 100, fate)
        for i, fate in enumerate(fates)
    ]
    found = values(pass_figures([one_pass(frames)]))
    shares = {
        'answered': 12 / 18,
        'matched': 0.1,
        'dropped': 0.15,
        'transport': 0.1,
        'failed': 0.05,
    }
    for fate, share in {**shares, 'return': 0, 'unknown': 0}.items():
        assert found[f'{fate}_share'] == share
    assert (found['frames_sent'], found['frames_answered']) == (18, 12)


def test_a_planted_loss_of_five_percent_shows_as_transport_only() -> None:
    frames = [
        lost(i, i * 33, 'transport') if i % 20 == 7 else answered(i, i * 33) for i in range(600)
    ]
    found = pass_figures([one_pass(frames)])
    assert found['transport_share'].value == 0.05
    assert found['transport_share'].low < 0.05 < found['transport_share'].high
    assert found['dropped_share'].value == found['failed_share'].value == 0
    assert found['rate_out_hz'].value == pytest.approx(0.95 * found['rate_in_hz'].value)


def test_rates_count_intervals_and_add_cameras() -> None:
    left = [answered(i, i * 50.0) for i in range(21)]
    right = [answered(i, 7 + i * 100.0, camera='right') for i in range(11)]
    frames = sorted([*left, *right], key=lambda frame: frame.sent_ns)
    found = values(pass_figures([one_pass(frames)]))
    assert found['rate_in_hz'] == pytest.approx(20 + 10)
    assert found['rate_received_hz'] == pytest.approx(30)
    assert found['rate_out_hz'] == pytest.approx(30)


def test_a_node_that_stops_answering_does_not_look_fast() -> None:
    frames = [answered(i, i * 50.0) if i < 20 else lost(i, i * 50.0, 'unknown') for i in range(100)]
    found = values(pass_figures([one_pass(frames)]))
    assert found['rate_in_hz'] == pytest.approx(20)
    assert found['rate_out_hz'] == pytest.approx(4)


def test_a_growing_queue_does_not_look_fast() -> None:
    # Sent every 50 ms, answered every 100 ms: the last answer comes at 10 ms + 99 x 100 ms.
    frames = [answered(i, i * 50.0, 10 + i * 50.0) for i in range(100)]
    assert values(pass_figures([one_pass(frames)]))['rate_out_hz'] == pytest.approx(10)


def test_rates_of_passes_are_joined_by_frames_and_times() -> None:
    slow, fast = with_latencies([10] * 11, 100), with_latencies([10] * 11, 50)
    # 20 intervals in 1.5 s.
    assert values(pass_figures([slow, fast]))['rate_in_hz'] == pytest.approx(20 / 1.5)


@pytest.mark.parametrize('count', [0, 1])
def test_no_frame_and_one_frame_have_no_rate(count: int) -> None:
    found = pass_figures([with_latencies([10] * count)])
    assert math.isnan(found['rate_in_hz'].value)
    assert math.isnan(found['rate_out_hz'].value)
    assert math.isnan(found['latency_jitter_ms'].value)
    assert math.isnan(found['latency_p50_ms'].value) == (count == 0)
    assert found['frames_sent'].value == count


def test_without_an_answer_latency_is_not_known_and_the_rate_is_zero() -> None:
    frames = [lost(i, i * 33, 'transport') for i in range(300)]
    found = pass_figures([one_pass(frames)])
    assert math.isnan(found['latency_p99_ms'].value)
    assert found['rate_out_hz'].value == 0
    assert found['transport_share'] == Interval(1.0, pytest.approx(0.025 ** (1 / 300)), 1.0)


def test_a_share_of_zero_has_the_exact_binomial_bound() -> None:
    # Clopper and Pearson: (1 - high)^300 = 0.025.
    found = pass_figures([with_latencies([10] * 300)])['failed_share']
    assert (found.value, found.low) == (0, 0)
    assert (1 - found.high) ** 300 == pytest.approx(0.025)


def test_block_bootstrap_of_a_mean_agrees_with_its_known_spread() -> None:
    # Ten frames of each second are alike, so 400 frames tell as much as 40 values: the mean's
    # standard error is sigma / sqrt(40), three times that of 400 independent ones.
    rng = np.random.default_rng(1)
    levels = np.repeat(rng.normal(50, 5, 40), 10)
    found = pass_figures([with_latencies(levels, 100)])['latency_mean_ms']
    error = levels[::10].std() / math.sqrt(40)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert found.value == pytest.approx(levels.mean())


def test_block_bootstrap_of_a_median_agrees_with_its_known_spread() -> None:
    # Of n independent normal values the median's standard error is sigma sqrt(pi / 2 n).
    rng = np.random.default_rng(2)
    latencies = rng.normal(50, 5, 4000)
    found = pass_figures([with_latencies(latencies, 100)])['latency_p50_ms']
    error = 5 * math.sqrt(math.pi / 2 / 4000)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.25)
    assert found.low < 50 < found.high


def test_interval_of_a_quantile_is_that_of_resampled_frames_written_out() -> None:
    """The weighted quantile is NumPy's own of the blocks put together as they were drawn."""
    rng = np.random.default_rng(3)
    latencies = rng.exponential(20, 240) + 8
    played = with_latencies(latencies, 50)
    found = pass_figures([played], seed=11)['latency_p90_ms']
    blocks = [latencies[first : first + 20] for first in range(0, 240, 20)]
    drawn = np.random.default_rng(11).integers(0, 12, (1000, 12))
    p90 = [
        np.quantile(np.round(np.concatenate([blocks[block] for block in row]), 6), 0.9)
        for row in drawn
    ]
    tail = expanded_tail(12)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(p90, (tail, 1 - tail))))


def test_percentiles_are_expanded_to_students_t() -> None:
    # t of 11 degrees is 2.201, of 9 degrees 2.262; the normal distribution beyond sqrt(n / n-1) t.
    normal = NormalDist()
    assert normal.inv_cdf(expanded_tail(12)) == pytest.approx(-2.201 * math.sqrt(12 / 11), abs=2e-3)
    assert normal.inv_cdf(expanded_tail(10)) == pytest.approx(-2.262 * math.sqrt(10 / 9), abs=3e-3)
    assert expanded_tail(100_000) == pytest.approx(0.025, abs=1e-5)


def test_interval_of_few_blocks_holds_the_mean_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(100):
        latencies = np.random.default_rng(seed).normal(50, 5, 48)
        sent_ns = [T0 + i * SECOND // 4 for i in range(48)]
        frames = [
            FrameTrace('left', i, i, 'answered', at_ns, returned_ns=at_ns + round(latency * MS))
            for i, (at_ns, latency) in enumerate(zip(sent_ns, latencies, strict=True))
        ]
        found = pass_figures([one_pass(frames)], seed)['latency_mean_ms']
        held += found.low <= 50 <= found.high
    assert 90 <= held <= 99


def test_same_seed_same_interval() -> None:
    played = with_latencies(np.random.default_rng(4).normal(50, 5, 300))
    assert pass_figures([played], 5) == pass_figures([played], 5)
    assert pass_figures([played], 5) != pass_figures([played], 6)


def test_intervals_hold_their_figures() -> None:
    rng = np.random.default_rng(6)
    played = with_latencies(rng.gamma(2, 10, 600), 33)
    for name, figure in pass_figures([played]).items():
        if not math.isnan(figure.low):
            assert figure.low <= figure.value <= figure.high, name


def test_blocks_are_seconds_of_a_pass_with_all_their_cameras() -> None:
    frames = [
        answered(i, i * 250.0, camera=camera) for i in range(44) for camera in ('left', 'right')
    ]
    passes = [one_pass(frames), one_pass(frames[:16])]
    blocks = blocks_of_frames(passes)
    assert blocks.tolist() == [*np.repeat(np.arange(11), 8), *np.repeat([11, 12], 8)]


def test_a_short_drive_is_cut_into_shorter_blocks() -> None:
    assert np.bincount(blocks_of_frames([with_latencies([10] * 45, 66)])).max() == 4
    fast = blocks_of_frames([with_latencies([10] * 2000, 4)])
    assert np.bincount(fast).tolist() == [200] * MIN_BLOCKS


def test_few_frames_have_no_interval() -> None:
    found = pass_figures([with_latencies(list(range(10, 30)))])
    assert found['latency_p50_ms'].value == 19.5
    assert math.isnan(found['latency_p50_ms'].low)


def test_answers_of_a_few_seconds_only_have_no_interval() -> None:
    frames = [answered(i, i * 50.0) if i < 40 else lost(i, i * 50.0, 'unknown') for i in range(600)]
    found = pass_figures([one_pass(frames)])
    assert math.isnan(found['latency_p50_ms'].low)
    assert found['answered_share'].low < 40 / 600 < found['answered_share'].high


def samples(who: str, **series: Sequence[float]) -> list[LoadSample]:
    rows = zip(*series.values(), strict=True)
    return [
        LoadSample(who, T0 + i * SECOND // 2, dict(zip(series, row, strict=True)))
        for i, row in enumerate(rows)
    ]


def test_load_is_averaged_over_time_and_peaks_are_kept() -> None:
    load = [
        LoadSample('node', T0, {'memory_mb': 90.0}),
        LoadSample('node', T0 + SECOND, {'memory_mb': 130.0, 'cpu_cores': 2.0}),
        LoadSample('player', T0 + SECOND, {'memory_mb': 50.0}),
        LoadSample('node', T0 + 4 * SECOND, {'memory_mb': 110.0, 'cpu_cores': 0.4}),
    ]
    found = load_figures([one_pass([], load)])
    assert found['node_cpu_cores'].value == pytest.approx((1 * 2.0 + 3 * 0.4) / 4)
    assert found['node_memory_peak_mb'].value == 130
    assert math.isnan(found['node_memory_slope_mb_per_min'].value)
    assert math.isnan(found['player_cpu_cores'].value)
    assert found['player_memory_peak_mb'].value == 50


def test_load_before_the_first_picture_and_after_the_last_answer_does_not_count() -> None:
    frames = [answered(0, 1000, 10), answered(1, 2990, 10)]
    idle, works = 0.1, 0.9
    cores = [idle, idle, idle, works, works, works, works, idle, idle]
    load = samples('node', memory_mb=[500.0, *[400.0] * 8], cpu_cores=cores)
    load += samples('gpu', load_percent=[0, 0, 50, 50, 50, 50, 50, 0, 0])
    found = load_figures([one_pass(frames, load)])
    assert found['node_cpu_cores'].value == pytest.approx(works)
    assert found['node_memory_peak_mb'].value == 500
    assert found['gpu_load_percent'].value == 50


def test_gpu_figures_are_of_what_it_tells() -> None:
    load = samples('gpu', load_percent=[20, 60], memory_mb=[900, 800], temperature_c=[50, 71])
    assert load_figures([one_pass([], load)]) == {
        'gpu_load_percent': Interval(40),
        'gpu_memory_peak_mb': Interval(900),
        'gpu_temperature_max_c': Interval(71),
    }


SLOPES = {
    'what follows the warm-up': (
        100,
        lambda s: np.where(s < 10, 50 * s, 500 + (s - 10) * 2 / 60),
        2,
    ),
    # After the warm-up: 5 blocks of 0, 6 of 10. Of the 55 pairs 25 are flat, so the median is the
    # third of the rising ones, least first: over 47.75 s, 45 s, 42.75 s (17.25 s to 60 s).
    'the pairs computed by hand': (60.5, lambda s: np.where(s < 35, 0.0, 10.0), 10 / 42.75 * 60),
    'one jump': (600, lambda s: np.where(s < 500, 400.0, 420.0), 0),
    'a whole day': (86_400, lambda s: s / 60, 1),
    'less than a minute': (59, lambda s: s, math.nan),
    'a minute': (61, lambda s: s, 60),
    'nothing': (0, lambda s: s, math.nan),
}


@pytest.mark.parametrize('lasts_s, memory_mb, slope', SLOPES.values(), ids=SLOPES)
def test_slope_is_per_minute(lasts_s: float, memory_mb: Callable[[Any], Any], slope: float) -> None:
    times_s = np.arange(0, lasts_s, 0.5)
    found = slope_per_min(times_s, memory_mb(times_s)).value
    assert found == pytest.approx(slope, nan_ok=True)


def test_slope_is_not_moved_by_spikes() -> None:
    times_s = np.arange(0, 600, 0.5)
    memory_mb = 400 + times_s / 60
    memory_mb[::50] += 300
    assert slope_per_min(times_s, memory_mb).value == pytest.approx(1, abs=0.05)


def test_slopes_interval_holds_the_slope_as_often_as_it_says() -> None:
    rng = np.random.default_rng(8)
    times_s = np.arange(0, 160, 0.5)
    held = 0
    for _ in range(200):
        found = slope_per_min(times_s, 400 + 3 * times_s / 60 + rng.normal(0, 2, len(times_s)))
        held += found.low <= 3 <= found.high
    assert 180 <= held <= 199


def test_a_memory_that_grows_is_shown_to_grow_and_a_flat_one_is_not() -> None:
    noise = np.random.default_rng(9).normal(0, 1, 300)
    times_s = np.arange(0, 150, 0.5)
    assert slope_per_min(times_s, 400 + 6 * times_s / 60 + noise).low > 5
    flat = slope_per_min(times_s, 400 + noise)
    assert flat.low < 0 < flat.high


def test_memory_slope_is_that_of_the_worst_pass() -> None:
    flat = samples('node', memory_mb=[400.0] * 180)
    grows = samples('node', memory_mb=[400 + i / 120 * 3 for i in range(180)])
    found = load_figures([one_pass([], flat), one_pass([], grows)])
    assert found['node_memory_slope_mb_per_min'].value == pytest.approx(3)


def test_cpu_interval_is_of_seconds_and_needs_ten_of_them() -> None:
    # Seconds of 1 and of 3 cores by turns: of n seconds the mean's standard error is 1 / sqrt(n).
    # The first sample tells of no time before it.
    by_turns = [1.0 + 2 * ((i + 1) // 2 % 2) for i in range(201)]
    found = load_figures([one_pass([], samples('node', memory_mb=by_turns, cpu_cores=by_turns))])
    cores = found['node_cpu_cores']
    assert cores.value == pytest.approx(2, abs=0.01)
    assert (cores.high - cores.low) / 2 == pytest.approx(1.96 / 10, rel=0.1)
    few = samples('node', memory_mb=by_turns[:12], cpu_cores=by_turns[:12])
    assert math.isnan(load_figures([one_pass([], few)])['node_cpu_cores'].low)


def test_rates_interval_is_of_the_frames_of_seconds() -> None:
    # Each second is answered wholly or not at all, half of them: the share's standard error is
    # 0.5 / sqrt(100), the rate's ten times that.
    frames = [
        answered(i, i * 100.0) if i // 10 % 2 else lost(i, i * 100.0, 'dropped')
        for i in range(1000)
    ]
    found = pass_figures([one_pass(frames)])
    rate = found['rate_out_hz']
    assert rate.value == pytest.approx(5)
    assert (rate.high - rate.low) / 2 == pytest.approx(1.96 * 0.5, rel=0.1)
    assert found['rate_in_hz'].high - found['rate_in_hz'].low < 0.05


def everything() -> Pass:
    cones = Detections(
        np.array([[10, 10, 30, 50]], np.float32), np.array([0.9], np.float32), np.array([0])
    )
    place = Positions(np.full((1, 3), 5.0), np.eye(3)[None], np.array([1]))
    frames = [replace(answered(i, i * 100.0), found=cones, positions=place) for i in range(120)]
    load = [
        sample
        for who in ('node', 'player', 'monitor', 'replay')
        for sample in samples(who, memory_mb=[400.0] * 150, cpu_cores=[1.0] * 150)
    ]
    told = ('load_percent', 'memory_mb', 'clock_mhz', 'temperature_c', 'power_w')
    load += samples('gpu', **{name: [1.0] * 4 for name in told})
    return one_pass(frames, load)


def test_figures_that_are_made_and_those_described_are_the_same() -> None:
    played = everything()
    truth = {(frame.camera, frame.stamp_ns): frame.found for frame in played.frames if frame.found}
    there = {(frame.camera, frame.stamp_ns): frame.positions for frame in played.frames}
    names = ('blue_cone', 'yellow_cone')
    made = {
        **pass_figures([played]),
        **load_figures([played]),
        **judged.accuracy_figures([played], truth, names, dict.fromkeys(names, 0.5)),
        **judged.consistency_figures([played], names),
        **judged.agreement_figures([played], truth),
        **position_figures([played], truth, there, (0.0, 0.0)),
        'max_rate_hz': Interval(50),
    }
    overhead = ('latency_p50_ms', 'latency_p99_ms', 'player_cpu_cores', 'monitor_cpu_cores')
    made |= {f'overhead_{name}': Interval(1) for name in overhead}
    assert [name for name in made if not is_known(name)] == []
    assert [p for p in FIGURES if not any(re.fullmatch(p, name) for name in made)] == []
    ends = {'ms': '_ms', 'Hz': '_hz', 'MB': '_mb', 'MB/min': '_mb_per_min', 'cores': '_cores'}
    for name in made:
        assert name.endswith(ends.get(kind_of(name).unit, ''))


def test_kinds_say_what_the_name_means() -> None:
    assert kind_of('latency_p99_ms') == FigureKind(
        'ms',
        'lower',
        '99 % of the answers took at most this time from sending a picture to the receipt of '
        'its cones',
    )
    assert 'station wait' in kind_of('station_wait_p50_ms').what
    assert kind_of('recall_sent blue_cone').what.endswith(', blue_cone only')
    assert kind_of('recall_sent 16-32 px').what.endswith(', 16-32 px only')
    assert kind_of('recall_sent').better == 'higher'
    assert not is_known('recall')
    assert not is_known('latency_p42_ms')


def test_a_figure_of_a_newer_version_still_has_a_unit() -> None:
    assert kind_of('wheel_spin_ms') == FigureKind('ms', None, 'not described by this version')
    assert kind_of('growth_mb_per_min').unit == 'MB/min'


def test_nvidia_names_carry_the_same_values_and_counts_of_a_pass() -> None:
    frames = [answered(0, 0, 10), answered(1, 100, 20), lost(2, 200, 'dropped')]
    passes = [one_pass(frames), one_pass(frames)]
    figures = pass_figures(passes)
    found = in_nvidia_names(figures, [pass_figures([each]) for each in passes])
    assert found['BasicPerformanceMetrics.NUM_FRAMES_SENT'] == 3
    assert found['BasicPerformanceMetrics.NUM_MISSED_FRAMES'] == 1
    assert found['BasicPerformanceMetrics.MEAN_LATENCY'] == pytest.approx(15)
    assert found['BasicPerformanceMetrics.MAX_LATENCY'] == pytest.approx(20)
    assert found['BasicPerformanceMetrics.MEAN_PLAYBACK_FRAME_RATE'] == pytest.approx(10)
    assert set(found) < set(NVIDIA_NAMES.values())
