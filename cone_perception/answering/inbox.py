"""Messages that wait: which go next, which go together, and the threads that answer them."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message that waits for its answer.

    topic: index of the topic that it came on. stamp_ns: of the picture. received_ns: of the
    monotonic clock. age_ms: from its stamp to its arrival; None where stamp and clock do not
    belong together.
    """

    topic: int
    stamp_ns: int
    message: Any
    received_ns: int = 0
    age_ms: float | None = None


class NewestFrames:
    """Inbox that gives out one frame at a time; the topic that has waited longest goes first.

    offer returns the frames that the new one pushed out unanswered; take those to run now, as one
    batch, empty when there is nothing to do yet; clear gives up all that wait and returns them.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, Arrival] = {}

    def offer(self, frame: Arrival) -> list[Arrival]:
        older = self._waiting.get(frame.topic)
        # A key that is there keeps its place: a fast camera cannot overtake a slow one.
        self._waiting[frame.topic] = frame
        return [] if older is None else [older]

    def take(self) -> list[Arrival]:
        return [self._waiting.pop(next(iter(self._waiting)))] if self._waiting else []

    def clear(self) -> list[Arrival]:
        left = list(self._waiting.values())
        self._waiting.clear()
        return left


class StereoPairs:
    """Inbox that gives out pairs of topics 0 and 1 whose stamps differ by `tolerance_ns` at most.

    A frame waits for its partner until the other topic is past it, or its own topic brings the
    next; then it goes alone, or is pushed out. Frames of a topic whose last one waited in vain do
    not wait, until stamps of both topics lie together again: neither a dead camera nor one with
    other stamps holds up its neighbour. What is ready is pushed out by its own topic only, and two
    topics take turns.
    """

    def __init__(self, tolerance_ns: int) -> None:
        self._tolerance_ns = tolerance_ns
        self._waiting: dict[int, Arrival] = {}  # for their partners
        self._ready: list[list[Arrival]] = []  # a topic is in one of them at most
        self._newest_ns: dict[int, int] = {}  # stamp of each topic since the last pair
        self._waits = [True, True]  # whether frames of this topic do
        self._went_last: int | None = None  # topic whose frame did, alone

    def offer(self, frame: Arrival) -> list[Arrival]:
        topic, other = frame.topic, 1 - frame.topic
        self._newest_ns[topic] = frame.stamp_ns
        pushed_out = self._stop_waiting(topic)
        ahead_ns = frame.stamp_ns - self._newest_ns.get(other, -math.inf)
        if abs(ahead_ns) <= self._tolerance_ns:
            self._waits = [True, True]
            if partner := self._waiting.pop(other, None):
                self._newest_ns.clear()
                pair = [frame, partner] if topic == 0 else [partner, frame]
                return pushed_out + self._make_ready(pair)
        if ahead_ns > self._tolerance_ns:  # the other topic may still bring the partner
            pushed_out += self._make_ready(self._stop_waiting(other))
            if self._waits[topic]:
                self._waiting[topic] = frame
                return pushed_out
        return pushed_out + self._make_ready([frame])

    def _stop_waiting(self, topic: int) -> list[Arrival]:
        """Give up the frame of this topic that waits for its partner, if one does."""
        if topic not in self._waiting:
            return []
        self._waits[topic] = False
        return [self._waiting.pop(topic)]

    def _make_ready(self, batch: list[Arrival]) -> list[Arrival]:
        """Let frames go together; returns those of the same topics that they push out."""
        topics = {frame.topic for frame in batch}
        pushed_out = [f for older in self._ready for f in older if f.topic in topics]
        left = [[f for f in older if f.topic not in topics] for older in self._ready]
        self._ready = [each for each in (*left, batch) if each]
        return pushed_out

    def take(self) -> list[Arrival]:
        if not self._ready:
            return []
        batch = min(self._ready, key=lambda ready: ready[0].topic == self._went_last)
        self._ready.remove(batch)
        self._went_last = batch[0].topic if len(batch) == 1 else None
        return batch

    def clear(self) -> list[Arrival]:
        left = [frame for batch in self._ready for frame in batch]
        left += self._waiting.values()
        self._ready.clear()
        self._waiting.clear()
        return left


Inbox = NewestFrames | StereoPairs


class Worker:
    """Hands what the inbox gives out to `answer`, one batch in a thread.

    `answer` gets a batch, and `wait_for_turn`, which returns when every batch taken before is done
    with: what comes after it is done in the order of the frames. `answer` must not raise: an
    exception would end its thread. One thread sees a frame through, because handing it on would
    mean waiting for another thread to be woken: on busy cores that takes as long as a network.
    """

    def __init__(
        self,
        inbox: Inbox,
        answer: Callable[[list[Arrival], Callable[[], None]], None],
        threads: int = 1,
    ) -> None:
        self._inbox = inbox
        self._answer = answer
        lock = threading.Lock()
        self._frames = threading.Condition(lock)
        self._turns = threading.Condition(lock)
        self._under_way: deque[object] = deque()
        self._stopping = False
        # Daemons, because a network that hangs must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._work, name='worker', daemon=True) for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def offer(self, frame: Arrival) -> list[Arrival]:
        """Put a frame into the inbox; returns those that it pushed out unanswered."""
        with self._frames:
            pushed_out = self._inbox.offer(frame)
            self._frames.notify()
        return pushed_out

    def stop(self, timeout_s: float) -> bool:
        """Let each thread end after the batch that it works on; False when one has not by then."""
        until_s = time.monotonic() + timeout_s
        with self._frames:
            self._stopping = True
            self._frames.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def clear(self) -> list[Arrival]:
        """Take out what still waits; nobody will answer it."""
        with self._frames:
            return self._inbox.clear()

    def _work(self) -> None:
        while True:
            turn = object()
            with self._frames:
                batch: list[Arrival] = []
                while not self._stopping and not (batch := self._inbox.take()):
                    self._frames.wait()
                if self._stopping:
                    return
                self._under_way.append(turn)
            try:
                self._answer(batch, functools.partial(self._wait_for, turn))
            finally:
                with self._turns:
                    self._under_way.remove(turn)
                    self._turns.notify_all()

    def _wait_for(self, turn: object) -> None:
        with self._turns:
            self._turns.wait_for(lambda: self._under_way[0] is turn)
