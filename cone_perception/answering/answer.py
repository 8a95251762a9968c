"""From a message that arrived, by way of those that wait, to the answer of each of its pictures."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cone_perception import pipeline
from cone_perception.errors import EngineLostError, ImageError, describe
from cone_perception.filters import Filters
from cone_perception.images import as_sent, to_bgr
from cone_perception.pipeline import ConeDetector
from cone_perception.types import CameraPicture, Detections, Frame, Positions
from cone_perception.views import Horizon

Outcome = Literal['answered', 'matched', 'dropped', 'failed']
"""matched: of the right eye, the cones of the left one were found again in it. dropped: a newer
picture took its place, or the node was deactivated."""

STATIONS = ('wait', *pipeline.STATIONS, 'locate', 'publish')
"""Between the moments of a published answer. wait: from arrival to the start of its work.
preprocess: message to network input. locate: finding where the cones stand. publish: building and
sending the answer, after that of its partner in a batch."""


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


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Outcome of one picture of one camera.

    moments_ns: name -> nanoseconds of the monotonic clock, in the order of: received_ns; started_ns
    (its work began); prepared_ns, inferred_ns, decoded_ns (of ConeDetector.detect); located_ns (its
    cones were placed, or nobody places them); published_ns (the answer was sent). Those that never
    came are missing.
    reason, error: why it was not answered. alone: it lacked the partner of its stereo pair.
    picture, found: None unless it was answered. positions: None where nothing says where cones are.
    """

    camera: str
    arrival: Arrival
    outcome: Outcome
    moments_ns: Mapping[str, int]
    reason: str = ''
    alone: bool = False
    picture: Frame | CameraPicture | None = None
    found: Detections | None = None
    positions: Positions | None = None
    error: Exception | None = None

    def instead(self, outcome: Outcome, reason: str, error: Exception | None = None) -> Answer:
        """Return the same picture, but dropped or failed after the network had answered it."""
        moments_ns = {name: self.moments_ns[name] for name in ('received_ns', 'started_ns')}
        alone = self.alone
        return Answer(self.camera, self.arrival, outcome, moments_ns, reason, alone, error=error)

    def times_ms(self) -> dict[str, float]:
        """Station -> milliseconds, of an answer that was published; total_ms: sum of STATIONS.

        age_ms is missing where it is not known.
        """
        times = pipeline.stations_ms(self.moments_ns, STATIONS)
        age = {} if self.arrival.age_ms is None else {'age_ms': self.arrival.age_ms}
        named = {f'{station}_ms': spent_ms for station, spent_ms in times.items()}
        return {**age, **named, 'total_ms': sum(times.values())}


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
        pushed_out = [self._waiting.pop(topic)] if topic in self._waiting else []
        partner = self._waiting.get(other)
        expects_partner = self._other_came[topic]
        self._other_came[topic] = False
        self._other_came[other] = True
        if partner is None and expects_partner:
            self._waiting[topic] = frame
            return pushed_out
        ready = [frame]
        if partner is not None and abs(partner.stamp_ns - frame.stamp_ns) <= self._tolerance_ns:
            self._waiting.clear()
            self._other_came = [True, True]  # whichever of them was first this time
            ready = [frame, partner] if topic == 0 else [partner, frame]
        elif partner is not None and partner.stamp_ns < frame.stamp_ns:
            self._waiting = {topic: frame}
            ready = [partner]
        pushed_out += self._ready
        self._ready = ready
        return pushed_out

    def take(self) -> list[Arrival]:
        ready, self._ready = self._ready, []
        return ready

    def clear(self) -> list[Arrival]:
        left = [*self.take(), *self._waiting.values()]
        self._waiting.clear()
        return left


Inbox = NewestFrames | StereoPairs


@dataclass(frozen=True, slots=True)
class Answering:
    """Decodes the pictures of messages and finds the cones in them. Any thread may call it.

    horizons: camera name -> where its band lies, in the order of the topics. They are kept from
    picture to picture. side_by_side: one topic carries two cameras, the left half of its pictures
    is the first. read: sensor_msgs Image or CompressedImage of what an arrival carries, None where
    it carries that itself; raises ImageError.
    """

    detector: ConeDetector
    horizons: Mapping[str, Horizon]
    side_by_side: bool = False
    read: Callable[[Any], Any] | None = None

    def cameras_of(self, topic: int) -> tuple[str, ...]:
        """Names of the cameras whose pictures come on a topic."""
        cameras = tuple(self.horizons)
        return cameras if self.side_by_side else cameras[topic : topic + 1]

    @property
    def pairs(self) -> bool:
        """Tell whether two cameras are looked at in one run."""
        return self.detector.frames_per_run > 1 and len(self.horizons) == 2

    def make_inbox(self, stereo_tolerance_ms: float) -> Inbox:
        """Make the inbox that fits the engine: pairs where a run takes pictures of two topics."""
        pairs = self.pairs and not self.side_by_side
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
        size = self.detector.frames_per_run
        alone = self.pairs and len(pictures) == 1
        for first in range(0, len(pictures), size):
            batch = pictures[first : first + size]
            if first:  # until now these have waited for the batch before them
                started_ns = time.monotonic_ns()
            try:
                frames = [picture for *_, picture in batch]
                horizons = [self.horizons[camera] for camera, *_ in batch]
                found, moments = self.detector.detect(frames, filters, horizons)
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
            moments['started_ns'] = started_ns  # decoding the message is part of preparing
            moments['located_ns'] = moments['decoded_ns']
            answers = []
            for (camera, arrival, picture), cones in zip(batch, found, strict=True):
                moments_ns = {'received_ns': arrival.received_ns, **moments}
                answer = Answer(camera, arrival, 'answered', moments_ns, '', alone, picture, cones)
                answers.append(answer)
            yield answers

    def _decode(self, arrival: Arrival) -> list[tuple[str, Arrival, Frame | CameraPicture]]:
        """Return the picture of each camera of the message. Raises ImageError."""
        message = self.read(arrival.message) if self.read else arrival.message
        frames: list[Frame | CameraPicture]
        if self.side_by_side:
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
