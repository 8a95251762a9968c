"""The search for the highest rate: which rates it tries, and what it says in the end."""

from __future__ import annotations

import pytest

from cone_perception.errors import SettingsError
from cone_perception.replay.max_rate import find_max_rate, judge_probe
from cone_perception.replay.traces import FrameTrace, Pace, Pass


def played(hz, lost=0, frames=100, sent_hz=None, out_hz=None, camera='camera'):
    """A pass at this rate; `lost` pictures are dropped, spread over it."""
    period_ns, out_ns = 1e9 / (sent_hz or hz), 1e9 / (out_hz or sent_hz or hz)
    dropped = {round(i * frames / lost) for i in range(lost)} if lost else set()
    traces = []
    for index in range(frames):
        sent_ns, located_ns = round(index * period_ns), round(5e6 + index * out_ns)
        if index in dropped:
            traces.append(FrameTrace(camera, index, index, 'dropped', sent_ns))
        else:
            answer = {'sent_ns': sent_ns, 'located_ns': located_ns}
            traces.append(FrameTrace(camera, index, index, 'answered', **answer))
    return Pass(Pace('hz', hz=hz), traces)


def search(limit_hz, **options):
    """Against a detector that keeps up with `limit_hz`."""
    tried = []

    def run_at(hz):
        tried.append(hz)
        return played(hz, lost=0 if hz <= limit_hz else 30)

    return find_max_rate(run_at, **options), tried


def test_window_is_halved_down_to_10_hz_and_then_climbed_in_steps_of_5():
    for limit_hz, hz in ((40, 38.125), (43.5, 43.125)):
        found, tried = search(limit_hz)
        assert tried == [55, 32.5, 43.75, 38.125, 43.125]  # 48.125 is above one that has failed
        assert found.hz == hz


def test_probes_say_what_was_found_at_each_rate():
    found, _ = search(40)
    assert [(p['hz'], p['passed']) for p in found.probes] == [
        (55, False),
        (32.5, True),
        (43.75, False),
        (38.125, True),
        (43.125, False),
    ]
    failed = found.probes[0]
    assert failed['missed_share'] == pytest.approx(0.3)
    assert failed['why'] == '30.0 % were missed'
    assert found.probes[1]['why'] == ''
    assert found.says == '38.125 Hz passes, 43.125 Hz does not'


@pytest.mark.parametrize(
    ('limit_hz', 'last_hz', 'hz', 'says'),
    [
        (5, 10, 0, 'even 10 Hz fails: 30.0 % were missed'),
        (500, 100, 100, '100 Hz, the highest rate tried, passes: the limit lies above'),
    ],
    ids=['below the lowest rate', 'above the highest rate'],
)
def test_limit_outside_of_the_range_is_said_so(limit_hz, last_hz, hz, says):
    found, tried = search(limit_hz)
    assert tried[-1] == last_hz
    assert (found.hz, found.says) == (hz, says)


def test_no_rate_is_tried_twice_nor_one_above_a_failed_one():
    for limit in range(5, 120, 3):
        found, tried = search(limit)
        assert len(tried) == len(set(tried))
        assert found.hz <= limit
        assert found.hz == max((hz for hz in tried if hz <= limit), default=0)
        if 10 <= limit < 100:
            assert limit - found.hz < 10


def test_interrupt_keeps_the_probes_so_far():
    def run_at(hz):
        if len(tried) == 2:
            raise KeyboardInterrupt
        tried.append(hz)
        return played(hz)

    tried = []
    found = find_max_rate(run_at)
    assert found.interrupted
    assert (found.hz, len(found.probes)) == (77.5, 2)
    assert found.says == 'ended early: 77.5 Hz is the highest that has passed so far'


def test_pass_that_was_interrupted_is_no_probe():
    def run_at(hz):
        whole = played(hz)
        return Pass(whole.pace, whole.frames[:3], interrupted=True)

    found = find_max_rate(run_at)
    assert found.interrupted
    assert (found.hz, found.probes) == (0, [])
    assert 'not known' in found.says


@pytest.mark.parametrize(
    ('options', 'why'),
    [
        ({'lost': 5}, ''),
        ({'lost': 6}, '6.0 % were missed'),
        ({'out_hz': 28}, ''),
        ({'out_hz': 25}, 'only 25.0 Hz came out'),
        ({'sent_hz': 20}, 'only 20.0 Hz were sent: the sender is too slow for this rate'),
    ],
)
def test_rate_passes_unless_something_is_missed_or_slow(options, why):
    probe = judge_probe(30, played(30, **options))
    assert (probe['passed'], probe['why']) == (not why, why)
    assert probe['missed_share'] == pytest.approx(options.get('lost', 0) / 100)
    if 'out_hz' in options:
        assert probe['rate_out_hz'] == pytest.approx(options['out_hz'])


def test_rates_are_those_of_the_slowest_camera():
    left, right = played(30, camera='left'), played(30, camera='right', lost=50, frames=100)
    probe = judge_probe(30, Pass(left.pace, [*left.frames, *right.frames]))
    assert probe['missed_share'] == pytest.approx(0.25)
    assert probe['rate_out_hz'] == pytest.approx(15, rel=0.05)


def test_pass_without_frames_or_answers_fails():
    assert not judge_probe(30, Pass(Pace('hz', hz=30), []))['passed']
    nothing = judge_probe(30, played(30, lost=100))
    assert (nothing['passed'], nothing['missed_share'], nothing['rate_out_hz']) == (False, 1, 0)


def test_range_that_is_none_is_refused():
    with pytest.raises(SettingsError, match='0 < low <= high'):
        find_max_rate(played, 50, 20)
    assert search(60, low_hz=20, high_hz=20)[0].hz == 20
