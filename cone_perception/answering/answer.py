"""The walk from a batch of messages to its answers; the node and the replay both take it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from cone_perception.answering.inbox import Inbox, NewestFrames, StereoPairs
from cone_perception.answering.outcome import Answer, Arrival
from cone_perception.errors import EngineLostError, ImageError, describe
from cone_perception.filters import Filters
from cone_perception.images import as_sent, to_bgr
from cone_perception.pipeline import ConeDetector
from cone_perception.types import CameraPicture, Frame


def as_it_came(message: Any) -> Any:
    """Return the message itself: an arrival carries a sensor_msgs Image or CompressedImage."""
    return message


class Answering:
    """Decodes the pictures of messages and finds the cones in them. Any thread may call it.

    cameras: names, in the order of their topics. side_by_side: one topic carries two cameras, the
    left half of its pictures is the first. read: sensor_msgs Image or CompressedImage of what an
    arrival carries; raises ImageError.
    """

    def __init__(
        self,
        detector: ConeDetector,
        cameras: Sequence[str],
        side_by_side: bool = False,
        read: Callable[[Any], Any] = as_it_came,
    ) -> None:
        self.detector = detector
        self._cameras = tuple(cameras)
        self._side_by_side = side_by_side
        self._read = read

    def cameras_of(self, topic: int) -> tuple[str, ...]:
        """Names of the cameras whose pictures come on a topic."""
        return self._cameras if self._side_by_side else self._cameras[topic : topic + 1]

    def make_inbox(self, stereo_tolerance_ms: float) -> Inbox:
        """Make the inbox that fits the engine: pairs where it takes the pictures of two topics."""
        pairs = self.detector.batch == 2 and len(self._cameras) == 2 and not self._side_by_side
        return StereoPairs(round(stereo_tolerance_ms * 1e6)) if pairs else NewestFrames()

    def answer(self, arrivals: Sequence[Arrival], filters: Filters) -> Iterator[list[Answer]]:
        """Yield the answers of each batch, or its failures; first what cannot be decoded.

        Raises EngineLostError, after the failures of all pictures that are left.
        """
        started_ns = time.monotonic_ns()
        pictures: list[tuple[str, Arrival, Frame | CameraPicture]] = []
        for arrival in arrivals:
            try:
                pictures += self._decode(arrival)
            except Exception as error:  # a damaged message raises whatever its parser stumbles over
                cameras = self.cameras_of(arrival.topic)
                yield [_failure(camera, arrival, started_ns, error) for camera in cameras]
        size = self.detector.batch
        alone = size == 2 and len(pictures) == 1
        for first in range(0, len(pictures), size):
            batch = pictures[first : first + size]
            if first:  # until now these have waited for the batch before them
                started_ns = time.monotonic_ns()
            try:
                found, times = self.detector.detect([picture for *_, picture in batch], filters)
            except Exception as error:  # whatever a runtime raises, the next pictures may be fine
                lost = isinstance(error, EngineLostError)
                unanswered = pictures[first:] if lost else batch
                yield [
                    _failure(camera, arrival, started_ns, error, alone)
                    for camera, arrival, _ in unanswered
                ]
                if lost:
                    raise
                continue
            answers = []
            for (camera, arrival, picture), cones in zip(batch, found, strict=True):
                moments_ns = {'received_ns': arrival.received_ns, **asdict(times)}
                moments_ns['started_ns'] = started_ns  # decoding the message is part of preparing
                answer = Answer(camera, arrival, 'answered', moments_ns, '', alone, picture, cones)
                answers.append(answer)
            yield answers

    def _decode(self, arrival: Arrival) -> list[tuple[str, Arrival, Frame | CameraPicture]]:
        """Return the picture of each camera of the message. Raises ImageError."""
        message = self._read(arrival.message)
        frames: list[Frame | CameraPicture]
        if self._side_by_side:
            bgr = to_bgr(message)
            middle = bgr.shape[1] // 2
            if not middle:
                raise ImageError('a picture of one column cannot carry two cameras side by side')
            frames = [Frame(bgr[:, :middle]), Frame(bgr[:, middle:])]
        else:
            encodings = self.detector.encodings
            sent = as_sent(message, encodings) if encodings else None
            frames = [Frame(to_bgr(message)) if sent is None else sent]
        cameras = self.cameras_of(arrival.topic)
        return [(camera, arrival, frame) for camera, frame in zip(cameras, frames, strict=True)]


def _failure(
    camera: str, arrival: Arrival, started_ns: int, error: Exception, alone: bool = False
) -> Answer:
    moments_ns = {'received_ns': arrival.received_ns, 'started_ns': started_ns}
    return Answer(camera, arrival, 'failed', moments_ns, describe(error), alone, error=error)
