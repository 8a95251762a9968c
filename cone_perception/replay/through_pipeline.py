"""A drive through the detector in this process: what it costs without ROS and transport."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from cone_perception.answering.inbox import Inbox, NewestFrames, StereoPairs, Waiting
from cone_perception.bags.reader import BagMessage, bag_types, header_stamp_ns
from cone_perception.errors import ConePerceptionError, EngineLostError, ImageError, SourceError
from cone_perception.filters import Filters
from cone_perception.images import as_sent, to_bgr
from cone_perception.pipeline import ConeDetector
from cone_perception.replay.load import LoadSampler
from cone_perception.replay.read_ahead import ReadAhead, ReadFrame
from cone_perception.replay.schedule import due_frames
from cone_perception.replay.traces import Drive, FrameTrace, Pace, Pass
from cone_perception.settings import DetectorSettings
from cone_perception.types import CameraPicture, Frame

LATE_MS = 5.0
"""A picture that was read this much too late was held up by the disk or its decompression."""


def play_through_pipeline(
    drive: Drive, pace: Pace, detector: ConeDetector, filters: Filters
) -> Pass:
    """One pass of the drive in this thread, which takes the newest picture of each camera.

    As in the node, a picture that waits is replaced by a newer one of its camera and counts as
    dropped, and with an engine for two pictures those of two cameras go together. At a fast pace
    each has its turn. Moments: sent is when it was due, or when it was read if that came later;
    received the same, since nothing lies between; started when the detector took it; prepared,
    inferred, decoded as in the node, where making a picture of the message belongs to preparing;
    published the same as decoded; returned is None. So `transport_in` and `publish` are zero.
    KeyboardInterrupt ends the pass; pictures without an outcome by then are not among its frames.
    Raises SourceError when the bag cannot be opened any more.
    """
    problems: list[str] = []
    frames = due_frames(drive, pace, problems)
    player = _Player(drive, pace, detector, filters)
    sampler = LoadSampler({'replay': os.getpid()})
    interrupted = False
    try:
        detector.warm_up()
        with (
            tqdm(total=drive.frames, desc='replaying', unit='picture', disable=None) as bar,
            ReadAhead(frames) as ahead,
        ):
            ahead.wait_until_full()
            with sampler:
                player.play(ahead, bar)
    except KeyboardInterrupt:
        interrupted = True
    except EngineLostError as error:
        problems.append(f'the replay ends early: {error}')
        interrupted = True
    problems += player.problems()
    return Pass(
        pace=pace,
        frames=player.traces(),
        load=sampler.samples,
        problems=tuple(text for text in dict.fromkeys(problems) if text not in drive.problems),
        interrupted=interrupted,
    )


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A picture that was sent. order: of sending. trace: what is known of it so far."""

    order: int
    trace: FrameTrace
    message: BagMessage


class _Player:
    """What happens during one pass."""

    def __init__(self, drive: Drive, pace: Pace, detector: ConeDetector, filters: Filters) -> None:
        self._cameras = [camera.name for camera in drive.cameras]
        self._paced = pace.kind != 'fast'
        self._detector = detector
        self._filters = filters
        self._bar: tqdm[Any] | None = None
        self._traces: dict[int, FrameTrace] = {}
        self._sent = 0
        self._late_ms: list[float] = []
        self._inbox: Inbox[_Arrival] = NewestFrames()
        if detector.batch == 2 and len(self._cameras) == 2:
            tolerance_ms = DetectorSettings().stereo_tolerance_ms
            self._inbox = StereoPairs(round(tolerance_ms * 1e6))

    def traces(self) -> list[FrameTrace]:
        """In the order in which they were sent."""
        return [trace for _, trace in sorted(self._traces.items(), key=lambda item: item[0])]

    def problems(self) -> Iterator[str]:
        if self._late_ms:
            yield (
                f'{len(self._late_ms)} pictures were read later than they were due, by up to '
                f'{max(self._late_ms):.0f} ms: the disk or the decompression is slower than this '
                'pace'
            )

    def play(self, ahead: ReadAhead, bar: tqdm[Any]) -> None:
        self._bar = bar
        upcoming = ahead.take()
        began_ns = time.monotonic_ns()
        while upcoming is not None:
            due_ns = began_ns + upcoming.due.due_ns
            if self._paced and (left_ns := due_ns - time.monotonic_ns()) > 0:
                # What came before goes first: the detector works while the next is not due yet.
                if batch := self._inbox.take():
                    self._answer(batch)
                else:
                    time.sleep(left_ns / 1e9)
                continue
            self._send(upcoming, due_ns if self._paced else time.monotonic_ns())
            # Who waits for the disk can work meanwhile; at a fast pace each has its turn.
            while not (self._paced and ahead.ready()) and (batch := self._inbox.take()):
                self._answer(batch)
            upcoming = ahead.take()
        while batch := self._inbox.take():
            self._answer(batch)
        for left in self._inbox.clear():
            self._drop(left.content, 'the picture of the other camera did not come')

    def _send(self, read: ReadFrame, due_ns: int) -> None:
        due, message = read.due, read.due.message
        if self._paced and read.read_ns - due_ns > LATE_MS * 1e6:
            self._late_ms.append((read.read_ns - due_ns) / 1e6)
        sent_ns = max(due_ns, read.read_ns)
        try:
            stamp_ns = header_stamp_ns(message.data)
        except SourceError:  # it will fail when it is decoded
            stamp_ns = 0
        trace = FrameTrace(
            camera=self._cameras[due.camera],
            index=due.index,
            stamp_ns=stamp_ns,
            fate='dropped',
            sent_ns=sent_ns,
            received_ns=sent_ns,
        )
        arrival = _Arrival(self._sent, trace, message)
        self._sent += 1
        for dropped in self._inbox.offer(Waiting(due.camera, stamp_ns, arrival)):
            self._drop(dropped.content)

    def _drop(self, arrival: _Arrival, reason: str = '') -> None:
        self._end(arrival, replace(arrival.trace, reason=reason))

    def _end(self, arrival: _Arrival, trace: FrameTrace) -> None:
        self._traces[arrival.order] = trace
        if self._bar is not None:
            self._bar.update()

    def _fail(self, arrivals: Sequence[_Arrival], started_ns: int, reason: str) -> None:
        for arrival in arrivals:
            self._end(
                arrival,
                replace(arrival.trace, fate='failed', started_ns=started_ns, reason=reason),
            )

    def _answer(self, batch: Sequence[Waiting[_Arrival]]) -> None:
        """As the node's worker does it."""
        started_ns = time.monotonic_ns()
        arrivals: list[_Arrival] = []
        pictures: list[Frame | CameraPicture] = []
        for waiting in batch:
            arrival = waiting.content
            try:
                pictures.append(self._picture(arrival.message))
                arrivals.append(arrival)
            except ImageError as error:
                self._fail([arrival], started_ns, str(error))
            except Exception as error:  # a damaged message raises whatever its parser tripped over
                self._fail([arrival], started_ns, f'the message is damaged: {error!r}')
        for first in range(0, len(pictures), self._detector.batch):
            these = slice(first, first + self._detector.batch)
            handed_in_ns = time.monotonic_ns()
            try:
                found, times = self._detector.detect(pictures[these], self._filters)
            except EngineLostError as error:
                self._fail(arrivals[first:], started_ns, str(error))
                raise
            except ConePerceptionError as error:
                self._fail(arrivals[these], started_ns, str(error))
                continue
            except Exception as error:  # the node goes on too
                self._fail(arrivals[these], started_ns, f'{type(error).__name__}: {error}')
                continue
            prepared_ns = handed_in_ns + round(times.preprocess_ms * 1e6)
            inferred_ns = prepared_ns + round(times.inference_ms * 1e6)
            decoded_ns = inferred_ns + round(times.decode_ms * 1e6)
            for arrival, cones in zip(arrivals[these], found, strict=True):
                self._end(
                    arrival,
                    replace(
                        arrival.trace,
                        fate='answered',
                        started_ns=started_ns,
                        prepared_ns=prepared_ns,
                        inferred_ns=inferred_ns,
                        decoded_ns=decoded_ns,
                        published_ns=decoded_ns,
                        found=cones,
                    ),
                )

    def _picture(self, recorded: BagMessage) -> Frame | CameraPicture:
        message = bag_types().deserialize_cdr(recorded.data, recorded.type_name)
        encodings = self._detector.encodings
        sent = as_sent(message, encodings) if encodings else None
        return Frame(to_bgr(message)) if sent is None else sent
