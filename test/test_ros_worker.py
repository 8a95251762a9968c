"""The threads that answer frames: order, overlap, and an end that does not wait for a hang."""

from __future__ import annotations

import threading

import pytest

from cone_perception.answering.answer import Arrival, NewestFrames
from cone_perception.answering.worker import Worker

LIMIT_S = 10.0


class Station:
    """Answers frames named by a letter; each stays inside until the test lets it out."""

    def __init__(self, threads):
        self.inside, self.out, self.let_out = {}, {}, {}
        for name in 'ABCDEF':
            self.inside[name] = threading.Event()
            self.let_out[name] = threading.Event()
            self.out[name] = threading.Event()
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
