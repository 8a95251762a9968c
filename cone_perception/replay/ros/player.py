"""Plays the pictures of a drive over DDS at the pace asked for, and logs when it sent what."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tqdm import tqdm
from vision_msgs.msg import Detection2DArray

from cone_perception.bags.reader import BagMessage, header_stamp_ns
from cone_perception.errors import ConePerceptionError, SourceError
from cone_perception.process import keep_freed_memory
from cone_perception.replay.drive.frames import DueFrame, ReadAhead, due_frames, first_infos
from cone_perception.replay.traces import Camera, Drive, Pace
from cone_perception.ros.transport import use_profile

WAKE_PERIOD_S = 0.05
"""A signal that comes while ROS waits for messages is only seen after the wait."""

LATE_S = 0.02
LATE_SHARE = 0.05
"""More messages than this share sent later than LATE_S: the pace was not kept."""

STAMPS_LOOKED_AT = 10
"""Messages of a topic after which it is clear whether its driver fills header.stamp."""

INFO_AHEAD_S = 0.3
"""After the first camera_info: a node that waits for it makes its maps of the lens of it."""

ANSWERS_DEPTH = 1000
"""Answers that may wait while this process is held up."""

ANSWER_TIMEOUT_S = 1.0
"""A picture without an answer is given up after this."""


@contextlib.contextmanager
def ros_node(name: str) -> Iterator[Node]:
    """Make this process a ROS node; SIGTERM ends it as Ctrl-C does, by KeyboardInterrupt."""
    keep_freed_memory()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    use_profile()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(name)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def spin(node: Node) -> Iterator[None]:
    """Run the node's callbacks while the iterator is read; yields each WAKE_PERIOD_S or sooner."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while True:
            executor.spin_once(timeout_sec=WAKE_PERIOD_S)
            yield
    finally:
        executor.shutdown(timeout_sec=WAKE_PERIOD_S)


def play_job(job: Mapping[str, Any]) -> int:
    """Play the drive of a job; 0 when all that can be read of it was sent.

    job: `log`, a file of JSON lines: of each picture that was sent camera, index, stamp_ns and
    sent_ns (of the monotonic clock), each `problem`, the `error` that ended it; the others as in
    `play`.
    """
    # How long the thread that reads may keep Python's lock while a message is due; usually 5 ms.
    sys.setswitchinterval(0.0005)
    others = {name: job[name] for name in ('answers', 'timing', 'stamps', 'wait_s')}
    cameras = tuple(Camera(**camera) for camera in job['drive']['cameras'])
    drive = Drive(**{**job['drive'], 'bag': Path(job['drive']['bag']), 'cameras': cameras})
    with Path(job['log']).open('w', buffering=1) as log:

        def note(**entry: object) -> None:
            log.write(json.dumps(entry) + '\n')

        try:
            play(drive, Pace(**job['pace']), note, **others)
        except ConePerceptionError as error:
            note(error=str(error))
            print(f'player: {error}', file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


def play(
    drive: Drive,
    pace: Pace,
    note: Callable[..., None],
    answers: Mapping[str, str],
    timing: str | None,
    stamps: str,
    wait_s: float,
) -> None:
    """Send every picture with the bytes that were recorded, at the pace asked for.

    The camera_info of the bag goes before each, on the topic beside it; the first ones INFO_AHEAD_S
    before the first picture, so that this finds a node that knows its calibration.
    note: takes what is to be logged. answers, timing: see InFlight. stamps: 'recorded' puts the
    times of recording into the headers. wait_s: for a subscriber to every topic.
    Where the bag is damaged the play ends, and the log says so.
    Raises SourceError when the bag cannot be played so, or nobody subscribes in time.
    """
    problems: list[str] = []
    with ros_node('bag_player') as node, contextlib.ExitStack() as stack:
        publishers = []
        for camera in drive.cameras:
            kind = CompressedImage if camera.compressed else Image
            publishers.append(node.create_publisher(kind, camera.topic, QoSProfile(depth=10)))
        first = first_infos(drive)
        infos = {
            number: node.create_publisher(CameraInfo, info.topic, QoSProfile(depth=10))
            for number, info in first.items()
        }
        flight = None
        if pace.kind == 'fast':
            flight = InFlight(node, pace.in_flight, answers, timing)
            stack.enter_context(_spinning(node))
        frames = due_frames(drive, pace, problems)
        if stamps == 'recorded':
            frames = _with_recorded_stamps(frames)
        ahead = stack.enter_context(ReadAhead(frames))
        _wait_for_subscribers(node, publishers, flight, wait_s)
        for number, info in first.items():
            infos[number].publish(info.data)
        if any(publisher.get_subscription_count() for publisher in infos.values()):
            time.sleep(INFO_AHEAD_S)
        late_s: list[float] = []
        stamps_of: dict[str, list[int]] = {camera.topic: [] for camera in drive.cameras}
        ahead.wait_until_full()
        started_ns = time.monotonic_ns()
        for frame in tqdm(_in_time(ahead, started_ns), 'playing', drive.frames, unit='message'):
            camera = drive.cameras[frame.camera]
            stamp_ns = header_stamp_ns(frame.message.data)
            if flight is not None:
                flight.wait_for_room(camera.name)
                flight.leave(camera.name, stamp_ns)
            if frame.info is not None:
                infos[frame.camera].publish(frame.info.data)
            sent_ns = time.monotonic_ns()
            publishers[frame.camera].publish(frame.message.data)
            note(camera=camera.name, index=frame.index, stamp_ns=stamp_ns, sent_ns=sent_ns)
            _check_stamps(drive.bag, camera.topic, stamps_of[camera.topic], stamp_ns)
            if flight is None:
                late_s.append((sent_ns - started_ns - frame.due_ns) / 1e9)
        if flight is not None:
            flight.wait_for_all()
            problems += flight.problems()
        for publisher in publishers:  # reliable subscribers need it until they have the last
            publisher.wait_for_all_acked(Duration(seconds=2))
    for problem in (*problems, *_lateness(late_s)):
        note(problem=problem)
        print(f'player: {problem}', file=sys.stderr)


def _with_recorded_stamps(
    frames: Generator[DueFrame, None, None],
) -> Generator[DueFrame, None, None]:
    """Put the time at which each picture was recorded into its stamp, and its camera_info's."""
    for frame in frames:
        time_ns = frame.message.time_ns
        info = None if frame.info is None else _stamped(frame.info, time_ns)
        yield replace(frame, message=_stamped(frame.message, time_ns), info=info)


def _stamped(message: BagMessage, time_ns: int) -> BagMessage:
    data = message.data
    stamp = struct.pack('<iI' if data[1] & 1 else '>iI', *divmod(time_ns, 10**9))
    return replace(message, data=b''.join((data[:4], stamp, memoryview(data)[12:])))


def _in_time(ahead: ReadAhead, started_ns: int) -> Iterator[DueFrame]:
    """Yield each message when it is due, never before."""
    while (read := ahead.take()) is not None:
        due = read[0]
        while (left_ns := started_ns + due.due_ns - time.monotonic_ns()) > 0:
            time.sleep(left_ns / 1e9)
        yield due


@contextlib.contextmanager
def _spinning(node: Node) -> Iterator[None]:
    """Run the node's callbacks in a thread of their own, which also ends the executor.

    Ended by another one it would free what the thread waits for, and one that is about to wait
    then does so for ever.
    """
    done = threading.Event()

    def work() -> None:
        with contextlib.suppress(ExternalShutdownException):
            for _ in spin(node):
                if done.is_set():
                    break

    thread = threading.Thread(target=work, name='answers', daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _lateness(late_s: Sequence[float]) -> list[str]:
    """Say that the pace was not kept, if it was not. late_s: of each picture that was sent."""
    late = sum(each > LATE_S for each in late_s)
    if late <= LATE_SHARE * len(late_s):
        return []
    return [
        f'{late} of {len(late_s)} pictures were sent more than {LATE_S * 1e3:.0f} ms late, by up '
        f'to {max(late_s) * 1e3:.0f} ms: this machine is too busy for this pace'
    ]


def _check_stamps(bag: Path, topic: str, first: list[int], stamp_ns: int) -> None:
    """Raise SourceError when the first stamps of a topic, kept in `first`, are all the same.

    Answers are told apart by stamps: so a driver that does not fill them is found early.
    """
    if len(first) == STAMPS_LOOKED_AT:
        return
    first.append(stamp_ns)
    if len(first) == STAMPS_LOOKED_AT and len(set(first)) == 1:
        raise SourceError(
            f'{bag}: the pictures of {topic} all have the stamp {stamp_ns}, so their answers '
            'cannot be told apart. Play it with --stamps recorded: the times at which they were '
            'recorded instead'
        )


def _wait_for_subscribers(
    node: Node, publishers: Sequence[Any], flight: InFlight | None, wait_s: float
) -> None:
    deadline = time.monotonic() + wait_s
    answers = flight.topics if flight is not None else []
    while True:
        silent = [p.topic_name for p in publishers if p.get_subscription_count() == 0]
        mute = [topic for topic in answers if node.count_publishers(topic) == 0]
        if not silent and not mute:
            break
        if time.monotonic() > deadline:
            if not silent:
                raise SourceError(f'nobody published {", ".join(mute)} within {wait_s:g} s')
            raise SourceError(
                f'nobody subscribed to {", ".join(silent)} within {wait_s:g} s: is the node '
                'active, on this ROS_DOMAIN_ID, and set to this topic?'
            )
        time.sleep(0.02)
    # The other side of each connection may learn of it a little later.
    time.sleep(0.5)


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
            node.create_subscription(DiagnosticArray, timing, self._on_timing, ANSWERS_DEPTH)
            return
        self.topics = list(answers.values())
        for camera, topic in answers.items():
            node.create_subscription(
                Detection2DArray, topic, self._answer_of(camera), ANSWERS_DEPTH, raw=True
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
