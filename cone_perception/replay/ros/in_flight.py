"""Holds pictures back, so that a fast play keeps the node busy and has none of them dropped."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from vision_msgs.msg import Detection2DArray

from cone_perception.bags.reader import header_stamp_ns
from cone_perception.replay.ros.process import WAKE_PERIOD_S

DEPTH = 1000
"""Answers that may wait while this process is held up."""

ANSWER_TIMEOUT_S = 1.0
"""A picture without an answer is given up after this."""


@dataclass(slots=True)
class _Flight:
    """Pictures of one camera without an answer: stamp -> when it was sent.

    last_s: when the last one was. round_trip_s: of the last answer; infinite before the first.
    """

    sent_s: dict[int, float] = field(default_factory=dict)
    last_s: float = 0.0
    round_trip_s: float = math.inf


class InFlight:
    """Holds a picture back until fewer than `limit` of its camera wait for their answers.

    An answer is the node's word on what became of it, after which the node takes the next one; of
    a node that does not tell of each, its detections. One that has none after ANSWER_TIMEOUT_S is
    given up. Two of a camera never go close after each other: the second would take the place of
    the first in a queue of one before the node could take it.
    """

    def __init__(
        self, node: Node, limit: int, answers: Mapping[str, str], timing: str | None
    ) -> None:
        """Subscribe. answers: camera -> topic of its detections. timing: where the node tells."""
        self._limit = limit
        self._cameras = {camera: _Flight() for camera in answers}
        self._given_up = 0
        self._changed = threading.Condition()
        if timing is not None:
            self.topics = [timing]
            node.create_subscription(DiagnosticArray, timing, self._on_timing, DEPTH)
            return
        self.topics = list(answers.values())
        for camera, topic in answers.items():
            node.create_subscription(
                Detection2DArray, topic, self._answer_of(camera), DEPTH, raw=True
            )

    def leave(self, camera: str, stamp_ns: int) -> None:
        """Note that a picture of this camera is sent."""
        with self._changed:
            flight = self._cameras[camera]
            flight.last_s = flight.sent_s[stamp_ns] = time.monotonic()

    def wait_for_room(self, camera: str) -> None:
        """Wait until one more picture of this camera may be sent."""
        flight = self._cameras[camera]
        self._wait(lambda: len(flight.sent_s) < self._limit)
        # A node that is kept busy answers at intervals of the round trip divided by the limit:
        # half of that slows nothing down.
        with self._changed:
            gap_s = flight.round_trip_s / (2 * self._limit)
            until_s = flight.last_s + gap_s
            while flight.sent_s and (left_s := until_s - time.monotonic()) > 0:
                self._changed.wait(min(left_s, WAKE_PERIOD_S))
                self._give_up()

    def wait_for_all(self) -> None:
        """Wait until every picture has its answer, or was given up."""
        self._wait(lambda: not any(flight.sent_s for flight in self._cameras.values()))

    def problems(self) -> list[str]:
        """Say how many pictures were given up."""
        if not self._given_up:
            return []
        return [
            f'{self._given_up} pictures had no answer after {ANSWER_TIMEOUT_S:g} s: '
            'the play went on without them'
        ]

    def _wait(self, fulfilled: Callable[[], bool]) -> None:
        with self._changed:
            while not fulfilled():
                self._changed.wait(WAKE_PERIOD_S)
                self._give_up()

    def _give_up(self) -> None:
        until_s = time.monotonic() - ANSWER_TIMEOUT_S
        for flight in self._cameras.values():
            for stamp_ns in [stamp for stamp, sent_s in flight.sent_s.items() if sent_s < until_s]:
                del flight.sent_s[stamp_ns]
                self._given_up += 1

    def _answer_of(self, camera: str) -> Callable[[bytes], None]:
        return lambda data: self._arrived(camera, header_stamp_ns(data))

    def _on_timing(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {entry.key: entry.value for entry in status.values}
            if values['camera'] in self._cameras:
                self._arrived(values['camera'], int(values['stamp_ns']))

    def _arrived(self, camera: str, stamp_ns: int) -> None:
        with self._changed:
            flight = self._cameras[camera]
            sent_s = flight.sent_s.pop(stamp_ns, None)
            if sent_s is not None:
                flight.round_trip_s = time.monotonic() - sent_s
            self._changed.notify_all()
