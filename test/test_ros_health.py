"""Counts, rates and percentiles per camera, and the verdict that is made of them."""

from __future__ import annotations

from cone_perception.answering.health import FrameTimes, Health


def times(inference_ms, age_ms=None):
    return FrameTimes(age_ms, 1.0, 2.0, inference_ms, 3.0, 4.0, 10.0 + inference_ms)


def test_rates_are_of_the_last_seconds_only():
    health = Health(['left'], 0.0)
    for tenth in range(100):
        health.received('left', tenth / 10)
        if tenth % 2:
            health.answered('left', times(5.0), (1280, 720), tenth / 10)
    report = health.report(9.95)['left']
    assert report.rate_in_hz == 10
    assert report.rate_out_hz == 5
    assert (report.received, report.answered) == (100, 50)
    assert health.report(30.0)['left'].rate_in_hz == 0


def test_rate_is_true_before_the_window_has_filled():
    health = Health(['left'], 100.0)
    for tenth in range(1, 11):
        health.received('left', 100 + tenth / 10)
    assert health.report(101.0)['left'].rate_in_hz == 10


def test_percentiles_are_by_station():
    health = Health(['left'], 0.0)
    for inference_ms in range(101):
        health.answered('left', times(float(inference_ms)), (1280, 720), 1.0)
    latency_ms = health.report(1.0)['left'].latency_ms
    assert latency_ms['inference_ms'] == (50, 99)
    assert latency_ms['wait_ms'] == (1, 1)
    assert latency_ms['total_ms'] == (60, 109)


def test_age_counts_only_where_it_is_known():
    health = Health(['left'], 0.0)
    health.answered('left', times(5.0), (1280, 720), 1.0)
    assert 'age_ms' not in health.report(1.0)['left'].latency_ms
    health.answered('left', times(5.0, age_ms=7.0), (1280, 720), 1.0)
    assert health.report(1.0)['left'].latency_ms['age_ms'] == (7, 7)


def test_each_camera_is_counted_by_itself():
    health = Health(['left', 'right'], 0.0)
    health.failed('left', 'corrupt', 1.0)
    health.dropped('right', 1.0)
    reports = health.report(1.0)
    assert (reports['left'].failed, reports['left'].dropped) == (1, 0)
    assert (reports['right'].failed, reports['right'].dropped) == (0, 1)
    assert reports['left'].last_failure == 'corrupt'


def test_silence_is_counted_from_the_last_frame_or_the_start():
    health = Health(['left'], 10.0)
    assert health.report(13.0)['left'].silent_s == 3
    health.received('left', 14.0)
    assert health.report(14.5)['left'].silent_s == 0.5
