"""Counts, rates and percentiles per camera, and the verdict that is made of them."""

from __future__ import annotations

import numpy as np

from cone_perception.answering.answer import Answer, Arrival
from cone_perception.answering.health import Health
from cone_perception.types import Frame

PICTURE = Frame(np.zeros((720, 1280, 3), np.uint8))
MS = 1_000_000


def ended(outcome, camera='left', reason=''):
    return Answer(camera, Arrival(0, 0, None), outcome, {'received_ns': 0}, reason)


def answered(inference_ms, age_ms=None):
    """Stations of 1, 2, inference_ms, 3 and 4 ms."""
    moments = {'received': 0, 'started': 1, 'prepared': 3, 'inferred': 3 + inference_ms}
    moments |= {'decoded': 6 + inference_ms, 'published': 10 + inference_ms}
    moments_ns = {f'{name}_ns': round(ms * MS) for name, ms in moments.items()}
    arrival = Arrival(0, 0, None, age_ms=age_ms)
    return Answer('left', arrival, 'answered', moments_ns, picture=PICTURE)


def test_rates_are_of_the_last_seconds_only():
    health = Health(['left'], 0.0)
    for tenth in range(100):
        health.received('left', tenth / 10)
        if tenth % 2:
            health.ended(answered(5.0), tenth / 10)
    report = health.report(9.95)['left']
    assert report.rate_in_hz == 10
    assert report.rate_out_hz == 5
    assert (report.counts['received'], report.counts['answered']) == (100, 50)
    assert health.report(30.0)['left'].rate_in_hz == 0


def test_rate_is_true_before_the_window_has_filled():
    health = Health(['left'], 100.0)
    for tenth in range(1, 11):
        health.received('left', 100 + tenth / 10)
    assert health.report(101.0)['left'].rate_in_hz == 10


def test_percentiles_are_by_station():
    health = Health(['left'], 0.0)
    for inference_ms in range(101):
        health.ended(answered(inference_ms), 1.0)
    latency_ms = health.report(1.0)['left'].latency_ms
    assert latency_ms['inference_ms'] == (50, 99)
    assert latency_ms['wait_ms'] == (1, 1)
    assert latency_ms['total_ms'] == (60, 109)


def test_age_counts_only_where_it_is_known():
    health = Health(['left'], 0.0)
    health.ended(answered(5.0), 1.0)
    assert 'age_ms' not in health.report(1.0)['left'].latency_ms
    health.ended(answered(5.0, age_ms=7.0), 1.0)
    assert health.report(1.0)['left'].latency_ms['age_ms'] == (7, 7)


def test_each_camera_is_counted_by_itself():
    health = Health(['left', 'right'], 0.0)
    health.ended(ended('failed', reason='corrupt'), 1.0)
    health.ended(ended('dropped', 'right'), 1.0)
    reports = health.report(1.0)
    assert reports['left'].counts == {'failed': 1}
    assert reports['right'].counts == {'dropped': 1}
    assert reports['left'].last_failure == 'corrupt'


def test_silence_is_counted_from_the_last_frame_or_the_start():
    health = Health(['left'], 10.0)
    assert health.report(13.0)['left'].silent_s == 3
    health.received('left', 14.0)
    assert health.report(14.5)['left'].silent_s == 0.5
