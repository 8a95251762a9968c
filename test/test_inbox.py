"""Frames that wait: which go next, which together, what is pushed out; threads and their order."""

from __future__ import annotations

import random
import threading
from collections import Counter
from itertools import pairwise

import pytest

from cone_perception.answering.inbox import Arrival, NewestFrames, StereoPairs, Worker

MS = 1_000_000


def frame(name):
    """`L20` is of the left camera, stamped 20 ms."""
    return Arrival('LR'.index(name[0]), round(float(name[1:]) * MS), name)


def contents(frames):
    return [frame.message for frame in frames]


def play(inbox, script):
    """Offer frames in this order, take at each `?`; returns the batches that were taken."""
    taken = []
    for word in script.split():
        if word == '?':
            taken.append('+'.join(contents(inbox.take())) or '-')
        else:
            inbox.offer(frame(word))
    return ' '.join(taken)


def test_newest_frame_replaces_the_one_that_waits():
    inbox = NewestFrames()
    assert inbox.offer(frame('L1')) == []
    assert contents(inbox.offer(frame('L2'))) == ['L1']
    assert contents(inbox.take()) == ['L2']
    assert inbox.take() == []


def test_frames_that_are_given_up_are_all_named():
    inbox = NewestFrames()
    play(inbox, 'R1 L2')
    assert contents(inbox.clear()) == ['R1', 'L2']
    assert inbox.take() == []
    pairs = StereoPairs(MS)
    play(pairs, 'L1 R1 L2')
    assert contents(pairs.clear()) == ['L1', 'R1', 'L2']
    assert pairs.take() == pairs.clear() == []


def test_fast_camera_does_not_starve_a_slow_one():
    assert play(NewestFrames(), 'R1 L0 L1 L2 L3 L4 ? R2 ?') == 'R1 L4'


@pytest.mark.parametrize(
    ('script', 'taken'),
    [
        pytest.param('R10 ? L10 ?', '- L10+R10', id='equal stamps go as one pair, left first'),
        pytest.param(
            'L0 ? R0 ? ? R10 ? L10 ? ? L20 ? R20 ? ? R30 ? L30 ?',
            '- L0+R0 - - L10+R10 - - L20+R20 - - L30+R30',
            id='order of arrival may change from pair to pair',
        ),
        pytest.param('L10 R12 ? L20 R22.1 ?', 'L10+R12 L20', id='tolerance is the most of a pair'),
        pytest.param('L10 R10 L20 ? R20 ?', 'L10+R10 L20+R20', id='half a pair breaks none'),
        pytest.param(
            'L10 ? L20 ? L30 ? L40 ? L50 ? R50 L60 ? R60 ?',
            '- L20 L30 L40 L50 R50 L60+R60',
            id='one dead camera does not blind the other',
        ),
        pytest.param(
            'L0 ? R10 ? L20 ? R30 ? L40 ? R50 ? L60 ? R70 ? L80 ? R90 ?',
            '- L0 R10 L20 R30 L40 R50 L60 R70 L80',
            id='cameras that are not synchronised are both answered',
        ),
        pytest.param('L1000 L10 R10 L20 R20 L30 R30 ?', 'L30+R30', id='bag that starts over'),
    ],
)
def test_pairs_within_two_ms(script, taken):
    assert play(StereoPairs(2 * MS), script) == taken


def test_newest_pair_replaces_the_one_that_waits():
    inbox = StereoPairs(2 * MS)
    play(inbox, 'L10 R10 L20')
    pushed_out = inbox.offer(frame('R20'))
    assert contents(pushed_out) == ['L10', 'R10']
    assert contents(inbox.take()) == ['L20', 'R20']


PERIOD_MS = 33.0
TOLERANCE_MS = 2.0
SECONDS = 4.0


def arrivals_of(eye, chance):
    """Time (ms) and frame: a camera with its own stamps, delay, losses and perhaps a silence."""
    offset_ms, drift = chance.choice([0.0, chance.uniform(-40, 40)]), chance.gauss(0, 1e-3)
    clock = chance.choice(['own', 'own', 'own', 'zero', 'other'])
    delay_ms, jitter_ms = chance.uniform(0, 30), chance.choice([0, 1, 10, 40])
    loss = chance.choice([0.0, 0.0, 0.1, 0.4])
    dead_ms = chance.choice([1e9, chance.uniform(0, SECONDS * 1e3)])
    at_ms = 0.0
    for index in range(int(SECONDS * 1e3 / PERIOD_MS)):
        shot_ms = index * PERIOD_MS * (1 + drift)
        at_ms = max(at_ms + 0.01, shot_ms + delay_ms + chance.uniform(0, jitter_ms))
        if chance.random() < loss or dead_ms < shot_ms < dead_ms + 1000:
            continue
        stamp_ms = {'own': shot_ms + offset_ms, 'zero': 0.0, 'other': shot_ms - 1e9}[clock]
        yield at_ms, Arrival(eye, round(stamp_ms * MS), (eye, index))


class Network:
    """Takes a batch from an inbox whenever it is free.

    fates: content of a frame -> what became of it. batches: those taken, in their order.
    """

    def __init__(self, inbox, busy_ms):
        self.inbox, self.busy_ms, self.free_ms = inbox, busy_ms, 0.0
        self.fates, self.batches = {}, []
        self.newest = [None, None]
        self.offered, self.passed_over = [0, 0], [0, 0]  # since frames of the eye were taken

    def run_until(self, now_ms):
        while self.free_ms <= now_ms and (batch := self.inbox.take()):
            self.free_ms = max(self.free_ms, 0.0) + self.busy_ms
            self.batches.append(batch)
            self._end(batch, 'answered' if len(batch) == 2 else 'alone')
            for eye in (0, 1):
                if eye in [frame.topic for frame in batch]:
                    self.offered[eye] = self.passed_over[eye] = 0
                # Of two frames in a row at most one waits for a partner: the other is ready.
                elif self.offered[eye] > 1:
                    self.passed_over[eye] += 1
            assert max(self.passed_over) <= 1, 'an eye starves'
        self.free_ms = max(self.free_ms, now_ms)

    def offer(self, now_ms, frame):
        self.run_until(now_ms)
        self.offered[frame.topic] += 1
        self.newest[frame.topic] = frame
        pushed_out = self.inbox.offer(frame)
        assert not any(older is self.newest[older.topic] for older in pushed_out)
        self._end(pushed_out, 'pushed out')
        self.run_until(now_ms)

    def finish(self):
        self.run_until(1e9)
        self._end(self.inbox.clear(), 'left')
        assert self.inbox.take() == self.inbox.clear() == []

    def _end(self, frames, fate):
        for frame in frames:
            assert frame.message not in self.fates
            self.fates[frame.message] = fate


@pytest.mark.parametrize('busy_ms', [0.0, 25.0, 60.0, 150.0])
def test_every_frame_has_its_end_and_no_eye_starves_whatever_comes(busy_ms):
    seen = Counter()
    for seed in range(300):
        chance = random.Random(seed)
        arrivals = [each for eye in (0, 1) for each in arrivals_of(eye, chance)]
        network = Network(StereoPairs(round(TOLERANCE_MS * MS)), busy_ms)
        for now_ms, frame in sorted(arrivals, key=lambda each: each[0]):
            network.offer(now_ms, frame)
        network.finish()
        assert set(network.fates) == {frame.message for _, frame in arrivals}
        for pair in (batch for batch in network.batches if len(batch) == 2):
            assert [frame.topic for frame in pair] == [0, 1]
            assert abs(pair[0].stamp_ns - pair[1].stamp_ns) <= TOLERANCE_MS * MS
        for eye in (0, 1):
            fates = [fate for frame, fate in sorted(network.fates.items()) if frame[0] == eye]
            seen.update(fates)
            assert fates.count('left') <= 1
            if not busy_ms:
                assert ('pushed out', 'pushed out') not in set(pairwise(fates))
                assert 2 * (fates.count('answered') + fates.count('alone')) >= len(fates) - 2
    assert min(seen[fate] for fate in ('answered', 'alone', 'pushed out')) > 500


@pytest.mark.parametrize('earlier_ms', [3, 10, 17, 30])
@pytest.mark.parametrize('order', ['LR', 'RL'])
def test_eye_with_other_stamps_is_answered_as_often_and_waits_for_nobody(order, earlier_ms):
    network = Network(StereoPairs(2 * MS), 0.0)
    for index in range(300):
        stamp_ms = {'L': 33 * index, 'R': 33 * index - earlier_ms}
        for place, name in enumerate(order):
            network.offer(33 * index + place, frame(f'{name}{stamp_ms[name]}'))
    assert Counter(network.fates.values())['alone'] >= 598


def test_pairs_come_back_after_a_loss_and_after_a_silence():
    network = Network(StereoPairs(2 * MS), 0.0)
    for index in range(100):
        for name in 'LR':
            if not (name == 'R' and (index in (10, 20) or 50 <= index < 60)):
                network.offer(33 * index, frame(f'{name}{33 * index}'))
    lone = [int(batch[0].stamp_ns / 33 / MS) for batch in network.batches if len(batch) == 1]
    assert sorted(set(lone)) == [11, 21, *range(51, 61)]


LIMIT_S = 10.0


class Station:
    """Answers frames named by a letter; each stays inside until the test lets it out."""

    def __init__(self, threads):
        self.inside, self.out, self.let_out = (
            {name: threading.Event() for name in 'ABCDEF'} for _ in range(3)
        )
        self.answered, self.failing = [], ''
        self.worker = Worker(NewestFrames(), self._answer, threads)

    def _answer(self, batch, wait_for_turn):
        (frame,) = batch
        self.inside[frame.message].set()
        assert self.let_out[frame.message].wait(LIMIT_S)
        self.out[frame.message].set()
        if frame.message in self.failing:
            return
        wait_for_turn()
        self.answered.append(frame.message)

    def offer(self, name, topic=0):
        return [frame.message for frame in self.worker.offer(Arrival(topic, 0, name))]

    def begin(self, *names):
        for name in names:
            assert self.offer(name) == []
            assert self.inside[name].wait(LIMIT_S)

    def end(self):
        for event in self.let_out.values():
            event.set()
        assert self.worker.stop(LIMIT_S)
        return ''.join(self.answered)


def test_one_thread_takes_one_frame_at_a_time():
    station = Station(1)
    station.begin('A')
    assert station.offer('B') == []
    assert station.offer('C') == ['B']
    assert not station.inside['C'].is_set()
    station.let_out['A'].set()
    assert station.inside['C'].wait(LIMIT_S)
    assert station.end() == 'AC'


def test_two_threads_overlap_and_answer_in_order():
    station = Station(2)
    station.begin('A', 'B')
    assert station.offer('C') == []
    assert station.offer('D') == ['C']  # as with one thread: only the newest waits
    station.let_out['B'].set()
    assert station.out['B'].wait(LIMIT_S)
    assert station.answered == []
    station.let_out['A'].set()
    assert station.inside['D'].wait(LIMIT_S)
    assert station.end() == 'ABD'


@pytest.mark.parametrize('failing, answered', [('A', 'BC'), ('B', 'AC'), ('AB', 'C')])
def test_frame_that_fails_holds_nobody_up(failing, answered):
    station = Station(2)
    station.failing = failing
    station.begin('A', 'B')
    for name in 'BA':
        station.let_out[name].set()
        assert station.out[name].wait(LIMIT_S)
    station.begin('C')
    assert station.end() == answered


def test_frame_waits_until_a_thread_has_answered_its_own():
    station = Station(2)
    station.begin('A', 'B')
    station.offer('C')
    station.let_out['B'].set()
    assert station.out['B'].wait(LIMIT_S)
    assert not station.inside['C'].wait(0.1)  # a newer one may take its place until then
    assert station.offer('D') == ['C']
    station.let_out['A'].set()
    assert station.inside['D'].wait(LIMIT_S)
    assert station.end() == 'ABD'


def test_frames_of_two_cameras_overlap():
    station = Station(2)
    station.offer('A', topic=0)
    station.offer('B', topic=1)
    assert station.inside['A'].wait(LIMIT_S)
    assert station.inside['B'].wait(LIMIT_S)
    assert station.end() == 'AB'


def test_end_does_not_wait_for_a_hang_and_takes_no_more_frames():
    station = Station(2)
    station.begin('A', 'B')
    station.offer('C')
    assert not station.worker.stop(0.05)
    assert [frame.message for frame in station.worker.clear()] == ['C']
    station.offer('D')
    assert station.end() == 'AB'
    assert not station.inside['C'].is_set()
    assert not station.inside['D'].is_set()
