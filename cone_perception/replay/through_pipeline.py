"""A drive played through the detector in this process, without ROS and transport."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from cone_perception.answering.answer import Answer, Answering
from cone_perception.answering.inbox import Arrival
from cone_perception.answering.rigs import Rigs, info_topics
from cone_perception.bags.reader import header_stamp_ns, picture_message
from cone_perception.errors import EngineLostError, ImageError, SourceError
from cone_perception.pipeline import ConeDetector
from cone_perception.replay.drive.frames import DueFrame, ReadAhead, due_frames
from cone_perception.replay.load import LoadSampler
from cone_perception.replay.traces import Drive, FrameTrace, Pace, Pass
from cone_perception.settings import DetectorSettings
from cone_perception.views import Horizon


def play_through_pipeline(
    drive: Drive, pace: Pace, detector: ConeDetector, settings: DetectorSettings
) -> Pass:
    """One pass of the drive in this thread, which takes the newest picture of each camera.

    As in the node, a picture that waits is replaced by a newer one of its camera and counts as
    dropped, and with an engine for two pictures those of two cameras go together. At a fast pace
    each has its turn. Moments: sent is when it was due, or when it was read if that came later;
    received the same, since nothing lies between; started when the detector took it; prepared,
    inferred, decoded, located as in the node, where making a picture of the message belongs to
    preparing; published the same as located; returned is None. So `transport_in` and `publish` are
    zero. KeyboardInterrupt ends the pass; pictures without an outcome by then are not among its
    frames.
    Raises SourceError when the bag cannot be opened any more.
    """
    problems: list[str] = []
    frames = due_frames(drive, pace, problems)
    player = _Player(drive, pace, detector, settings, problems)
    sampler = LoadSampler({'replay': os.getpid()})
    info, interrupted = detector.engine.info, False
    engine = f'{info.runtime} on {info.device}, {info.computes_in}'
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
    if player.late_ms:
        problems.append(
            f'{len(player.late_ms)} pictures were read later than they were due, by up to '
            f'{max(player.late_ms):.0f} ms: the disk or the decompression is slower than this pace'
        )
    if settings.stereo or settings.mount_height_m:
        problems += [why for camera in drive.cameras for why in player.rigs.warnings(camera.name)]
    return Pass(
        pace=pace,
        frames=[trace for _, trace in sorted(player.traces.items())],
        load=sampler.samples,
        health={
            'pipeline': {
                'engine': engine,
                'model sha256': info.network_sha256,
                'views': detector.views,
            },
            **{
                camera.name: {
                    'message': '; '.join(player.rigs.warnings(camera.name)),
                    **player.rigs.notes(camera.name),
                }
                for camera in drive.cameras
            },
        },
        problems=tuple(text for text in dict.fromkeys(problems) if text not in drive.problems),
        interrupted=interrupted,
    )


class _Player:
    """Sends the pictures of one pass.

    problems: gets what is wrong with the bag. traces: of each, by its number among those sent.
    late_ms: of those that were read too late. rigs: what the bag's camera_info says.
    """

    def __init__(
        self,
        drive: Drive,
        pace: Pace,
        detector: ConeDetector,
        settings: DetectorSettings,
        problems: list[str],
    ) -> None:
        self._problems = problems
        horizons = {camera.name: Horizon.of(settings) for camera in drive.cameras}
        self._partners = tuple(horizons)[1:] if settings.stereo else ()
        self._paced = pace.kind != 'fast'
        self._filters = settings.filters
        topics = {camera.name: camera.topic for camera in drive.cameras}
        infos = info_topics(settings, topics)
        self.rigs = Rigs(settings, topics, infos, detector.card.class_names, horizons)
        self._answering = Answering(
            detector,
            horizons,
            read=lambda sent: picture_message(sent[1].message),
            stereo=settings.stereo,
            locators=self.rigs.locators,
        )
        self._inbox = self._answering.make_inbox(settings.stereo_tolerance_ms)
        self._bar: tqdm[Any] | None = None
        self._sent = 0
        self.traces: dict[int, FrameTrace] = {}
        self.late_ms: list[float] = []

    def play(self, ahead: ReadAhead, bar: tqdm[Any]) -> None:
        self._bar = bar
        upcoming = ahead.take()
        began_ns = time.monotonic_ns()
        while upcoming is not None:
            due_ns = began_ns + upcoming[0].due_ns
            if self._paced and (left_ns := due_ns - time.monotonic_ns()) > 0:
                # What came before goes first: the detector works while the next is not due yet.
                if batch := self._inbox.take():
                    self._answer(batch)
                else:
                    time.sleep(left_ns / 1e9)
                continue
            self._send(*upcoming, due_ns if self._paced else time.monotonic_ns())
            # Who waits for the disk can work meanwhile; at a fast pace each has its turn.
            while not (self._paced and ahead.ready()) and (batch := self._inbox.take()):
                self._answer(batch)
            upcoming = ahead.take()
        while batch := self._inbox.take():
            self._answer(batch)
        for left in self._inbox.clear():
            self._drop(left, 'the picture of the other camera did not come')

    def _send(self, due: DueFrame, read_ns: int, due_ns: int) -> None:
        # So much too late: it was held up by the disk or its decompression.
        if self._paced and read_ns - due_ns > 5e6:
            self.late_ms.append((read_ns - due_ns) / 1e6)
        sent_ns = max(due_ns, read_ns)
        try:
            stamp_ns = header_stamp_ns(due.message.data)
        except SourceError:  # it will fail when it is decoded
            stamp_ns = 0
        if (info := due.info) is not None:
            (camera,) = self._answering.cameras_of(due.camera)
            try:
                self.rigs.hear(camera, info.data, lambda: picture_message(info))
            except ImageError as error:
                self._problems.append(f'{info.topic}: {error}')
        arrival = Arrival(due.camera, stamp_ns, (self._sent, due), sent_ns)
        self._sent += 1
        for dropped in self._inbox.offer(arrival):
            self._drop(dropped)

    def _drop(self, arrival: Arrival, reason: str = '') -> None:
        (camera,) = self._answering.cameras_of(arrival.topic)
        self._end(Answer(camera, arrival, 'dropped', {'received_ns': arrival.received_ns}, reason))

    def _answer(self, batch: Sequence[Arrival]) -> None:
        for answers in self._answering.answer(batch, self._filters):
            for answer in answers:
                self._end(answer)

    def _end(self, answer: Answer) -> None:
        order, due = answer.arrival.message
        moments_ns: dict[str, Any] = dict(answer.moments_ns)
        if answer.outcome == 'answered':
            moments_ns['published_ns'] = moments_ns['located_ns']
        self.traces[order] = FrameTrace(
            camera=answer.camera,
            index=due.index,
            stamp_ns=answer.arrival.stamp_ns,
            fate=answer.outcome,
            sent_ns=answer.arrival.received_ns,
            reason=answer.reason,
            found=answer.found,
            positions=answer.positions,
            partner=answer.camera in self._partners,
            **moments_ns,
        )
        if self._bar is not None:
            self._bar.update()
