"""Messages that wait for the network: never more than the newest of each topic."""

from __future__ import annotations

from typing import Protocol

from cone_perception.answering.outcome import Arrival


class Inbox(Protocol):
    """Takes frames as they come and gives out what shall run together."""

    def offer(self, frame: Arrival) -> list[Arrival]:
        """Take a frame in; returns those that it pushed out unanswered."""
        ...

    def take(self) -> list[Arrival]:
        """Frames to run now, as one batch; empty when there is nothing to do yet."""
        ...

    def clear(self) -> list[Arrival]:
        """Give up every frame that waits; returns them."""
        ...


class NewestFrames:
    """Gives out one frame at a time; the topic that has waited longest goes first."""

    def __init__(self) -> None:
        self._waiting: dict[int, Arrival] = {}

    def offer(self, frame: Arrival) -> list[Arrival]:
        older = self._waiting.get(frame.topic)
        # A key that is there keeps its place: a fast camera cannot overtake a slow one.
        self._waiting[frame.topic] = frame
        return [] if older is None else [older]

    def take(self) -> list[Arrival]:
        if not self._waiting:
            return []
        return [self._waiting.pop(next(iter(self._waiting)))]

    def clear(self) -> list[Arrival]:
        left = list(self._waiting.values())
        self._waiting.clear()
        return left


class StereoPairs:
    """Gives out pairs of topics 0 and 1 whose stamps differ by `tolerance_ns` at most.

    A frame whose partner cannot come any more, because the other camera is already past it or
    has fallen silent, goes alone: one dead camera does not blind the other.
    """

    def __init__(self, tolerance_ns: int) -> None:
        self._tolerance_ns = tolerance_ns
        self._waiting: dict[int, Arrival] = {}
        self._ready: list[Arrival] = []
        self._other_came = [True, True]  # since this topic's last frame

    def offer(self, frame: Arrival) -> list[Arrival]:
        topic, other = frame.topic, 1 - frame.topic
        replaced = self._waiting.pop(topic, None)
        pushed_out = [] if replaced is None else [replaced]
        partner = self._waiting.get(other)
        expects_partner = self._other_came[topic]
        self._other_came[topic] = False
        self._other_came[other] = True
        if partner is not None and abs(partner.stamp_ns - frame.stamp_ns) <= self._tolerance_ns:
            del self._waiting[other]
            self._other_came = [True, True]  # whichever of them was first this time
            pair = [frame, partner] if topic == 0 else [partner, frame]
            return pushed_out + self._make_ready(pair)
        if partner is not None and partner.stamp_ns < frame.stamp_ns:
            del self._waiting[other]
            self._waiting[topic] = frame
            return pushed_out + self._make_ready([partner])
        if partner is not None or not expects_partner:
            return pushed_out + self._make_ready([frame])
        self._waiting[topic] = frame
        return pushed_out

    def take(self) -> list[Arrival]:
        ready, self._ready = self._ready, []
        return ready

    def clear(self) -> list[Arrival]:
        left = [*self.take(), *self._waiting.values()]
        self._waiting.clear()
        return left

    def _make_ready(self, frames: list[Arrival]) -> list[Arrival]:
        pushed_out, self._ready = self._ready, frames
        return pushed_out
