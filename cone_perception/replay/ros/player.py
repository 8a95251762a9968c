"""Plays a bag's topics over DDS at the pace asked for, and logs when it sent what.

`python -m cone_perception.replay.ros.player BAG --topic /camera/image --log sent.jsonl`
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import signal
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO, get_args

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from tqdm import tqdm
from vision_msgs.msg import Detection2DArray

from cone_perception.bags.reader import header_stamp_ns, open_bag
from cone_perception.errors import ConePerceptionError, SourceError
from cone_perception.replay.read_ahead import ReadAhead
from cone_perception.replay.schedule import DueFrame, due_frames
from cone_perception.replay.traces import Camera, Drive, Pace
from cone_perception.ros.memory import keep_freed_memory
from cone_perception.ros.transport import use_profile
from cone_perception.settings import Reliability

CLOCK_PERIOD_S = 0.01
SETTLE_S = 0.5
"""Between the discovery of the last subscriber and the first message: the other side of each
connection may learn of it a little later."""

DEPTH = 1000
"""Answers that may wait while this process is held up."""

ANSWER_TIMEOUT_S = 1.0
"""At the pace `fast`: a picture without an answer is given up after this."""

WAKE_PERIOD_S = 0.05
SWITCH_INTERVAL_S = 0.0005
"""How long the thread that reads may keep Python's lock while a message is due; usually 5 ms."""

LATE_S = 0.02
LATE_SHARE = 0.05
"""More messages than this share sent later than LATE_S: the pace was not kept."""

STAMPS_LOOKED_AT = 10
"""Messages of a topic after which it is clear whether its driver fills header.stamp."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument('bag', type=Path, help='rosbag2 folder or file')
    parser.add_argument('--topic', action='append', required=True, help='may be given repeatedly')
    parser.add_argument(
        '--log', type=Path, help='JSON lines: topic, index, stamp_ns, sent_ns (monotonic)'
    )
    parser.add_argument(
        '--wait-s', type=float, default=30.0, help='for a subscriber to every topic'
    )
    parser.add_argument('--clock', action='store_true', help='publish /clock for use_sim_time')
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument('--rate', type=float, default=1.0, help='times as fast as recorded')
    pace.add_argument('--hz', type=float, help='each topic at this rate, evenly')
    pace.add_argument(
        '--in-flight',
        type=int,
        help='the next message as soon as fewer than this many of its topic have no answer',
    )
    parser.add_argument(
        '--answers',
        action='append',
        default=[],
        metavar='TOPIC=CAMERA=DETECTIONS',
        help='for --in-flight: the camera that a topic is of, and the topic of its answers',
    )
    parser.add_argument(
        '--timing', help='for --in-flight: the topic on which the node tells of every frame'
    )
    parser.add_argument(
        '--stamps',
        choices=('header', 'recorded'),
        default='header',
        help='recorded: put the times of recording into the headers',
    )
    parser.add_argument('--reliability', choices=get_args(Reliability), default='reliable')
    parser.add_argument('--depth', type=int, default=10, help='history of each publisher')


def main(argv: Sequence[str] | None = None) -> int:
    """Play the bag; 0 when all that can be read of it was sent."""
    parser = argparse.ArgumentParser(prog='player', description=__doc__)
    add_arguments(parser)
    args = parser.parse_args(argv)
    keep_freed_memory()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        log = PlayLog(stack.enter_context(args.log.open('w', buffering=1)) if args.log else None)
        try:
            play(args, log)
        except ConePerceptionError as error:
            log.note(error=str(error))
            print(f'player: {error}', file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


class PlayLog:
    """What was sent, as JSON lines; `problem` and `error` say what went wrong."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def note(self, **entry: object) -> None:
        if self._stream is not None:
            self._stream.write(json.dumps(entry) + '\n')


def play(args: argparse.Namespace, log: PlayLog) -> None:
    """Send every message of the topics with the bytes that were recorded, at the pace asked for.

    Where the bag is damaged the play ends, and the log says so.
    Raises SourceError when the bag lacks a topic, cannot be played so, or nobody subscribes in
    time.
    """
    drive, types = _look_into(args.bag, args.topic)
    pace = _pace(args)
    use_profile()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('bag_player')
    try:
        with contextlib.ExitStack() as stack:
            qos = QoSProfile(
                depth=args.depth, reliability=ReliabilityPolicy[args.reliability.upper()]
            )
            publishers = [
                node.create_publisher(_message_class(types[topic]), topic, qos)
                for topic in args.topic
            ]
            tick = _ClockTicker(node.create_publisher(Clock, '/clock', 10)) if args.clock else None
            flight = None
            if pace.kind == 'fast':
                answers = [text.split('=') for text in args.answers]
                by_topic = {topic: (camera, answer) for topic, camera, answer in answers}
                cameras = [by_topic[topic] for topic in args.topic]
                flight = InFlight(node, pace.in_flight, cameras, args.timing)
                stack.enter_context(_spinning(node))
            problems: list[str] = []
            frames = due_frames(drive, pace, problems)
            if args.stamps == 'recorded':
                frames = _with_recorded_stamps(frames)
            ahead = stack.enter_context(ReadAhead(frames))
            _wait_for_subscribers(node, publishers, flight, args.wait_s)
            lateness = Lateness()
            stamps = StampCheck(args.bag)
            ahead.wait_until_full()
            started_ns = time.monotonic_ns()
            in_time = _in_time(ahead, started_ns, pace, tick)
            for frame in tqdm(in_time, 'playing', drive.frames, unit='message'):
                if flight is not None:
                    flight.wait_for_room(frame.camera)
                topic = frame.message.topic
                stamp_ns = header_stamp_ns(frame.message.data)
                if flight is not None:
                    flight.leave(frame.camera, stamp_ns)
                sent_ns = time.monotonic_ns()
                publishers[frame.camera].publish(frame.message.data)
                log.note(topic=topic, index=frame.index, stamp_ns=stamp_ns, sent_ns=sent_ns)
                if args.log is not None:
                    stamps.check(topic, stamp_ns)
                if flight is None:
                    lateness.add(started_ns + frame.due_ns, sent_ns)
            if flight is not None:
                flight.wait_for_all()
                problems += flight.problems()
            for publisher in publishers:
                _wait_until_sent(publisher)
            for problem in (*problems, *lateness.problems()):
                log.note(problem=problem)
                print(f'player: {problem}', file=sys.stderr)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _look_into(bag: Path, topics: Sequence[str]) -> tuple[Drive, Mapping[str, str]]:
    """The topics as a drive, and topic -> type. Raises SourceError for one that is not there."""
    with open_bag(bag) as reader:
        types = {c.topic: c.msgtype for c in reader.connections}
        counts = Counter({c.topic: 0 for c in reader.connections})
        for connection in reader.connections:
            counts[connection.topic] += connection.msgcount
        duration_s = reader.duration / 1e9
    missing = sorted(set(topics) - set(types))
    if missing:
        raise SourceError(
            f'{bag} has no topic {", ".join(missing)}; it has {", ".join(sorted(types))}'
        )
    return Drive(
        bag=bag,
        sha256='',
        cameras=tuple(Camera(topic, topic, compressed=False) for topic in topics),
        frames=sum(counts[topic] for topic in topics),
        duration_s=duration_s,
        storage='',
    ), types


def _pace(args: argparse.Namespace) -> Pace:
    if args.hz:
        return Pace('hz', hz=args.hz)
    if args.in_flight:
        return Pace('fast', in_flight=args.in_flight)
    return Pace('bag', rate=args.rate)


def _with_recorded_stamps(
    frames: Generator[DueFrame, None, None],
) -> Generator[DueFrame, None, None]:
    """The same pictures, each with the time at which it was recorded as its header's stamp."""
    for frame in frames:
        data, time_ns = frame.message.data, frame.message.time_ns
        stamp = struct.pack('<iI' if data[1] & 1 else '>iI', *divmod(time_ns, 10**9))
        message = replace(frame.message, data=b''.join((data[:4], stamp, memoryview(data)[12:])))
        yield replace(frame, message=message)


def _in_time(
    ahead: ReadAhead, started_ns: int, pace: Pace, tick: _ClockTicker | None
) -> Iterator[DueFrame]:
    """Each message when it is due, never before."""
    first_ns: int | None = None
    while (read := ahead.take()) is not None:
        frame = read.due
        first_ns = frame.message.time_ns if first_ns is None else first_ns
        due_ns = started_ns + frame.due_ns
        while (left_s := (due_ns - time.monotonic_ns()) / 1e9) > 0:
            if tick is not None and pace.kind == 'bag':
                tick.publish(first_ns + round((time.monotonic_ns() - started_ns) * pace.rate))
                left_s = min(left_s, CLOCK_PERIOD_S)
            time.sleep(left_s)
        if tick is not None:
            tick.publish(frame.message.time_ns)
        yield frame


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
        self, node: Node, limit: int, cameras: Sequence[tuple[str, str]], timing: str | None
    ) -> None:
        """cameras: (name, topic of its detections) of each. timing: where the node tells."""
        self._limit = limit
        self._cameras = [_Flight() for _ in cameras]
        self._index_of = {name: index for index, (name, _) in enumerate(cameras)}
        self._given_up = 0
        self._changed = threading.Condition()
        if timing is not None:
            self.topics = [timing]
            node.create_subscription(DiagnosticArray, timing, self._on_timing, DEPTH)
            return
        self.topics = [answer for _, answer in cameras]
        for index, answer in enumerate(self.topics):
            node.create_subscription(
                Detection2DArray, answer, self._answer_of(index), DEPTH, raw=True
            )

    def leave(self, camera: int, stamp_ns: int) -> None:
        """A picture of this camera is sent."""
        with self._changed:
            flight = self._cameras[camera]
            flight.last_s = flight.sent_s[stamp_ns] = time.monotonic()

    def wait_for_room(self, camera: int) -> None:
        """Until one more picture of this camera may be sent."""
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
        """Until every picture has its answer, or was given up."""
        self._wait(lambda: not any(flight.sent_s for flight in self._cameras))

    def problems(self) -> list[str]:
        """What is to be told of the play."""
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
        for flight in self._cameras:
            for stamp_ns in [stamp for stamp, sent_s in flight.sent_s.items() if sent_s < until_s]:
                del flight.sent_s[stamp_ns]
                self._given_up += 1

    def _answer_of(self, camera: int) -> Callable[[bytes], None]:
        return lambda data: self._arrived(camera, header_stamp_ns(data))

    def _on_timing(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {entry.key: entry.value for entry in status.values}
            if (camera := self._index_of.get(values['camera'])) is not None:
                self._arrived(camera, int(values['stamp_ns']))

    def _arrived(self, camera: int, stamp_ns: int) -> None:
        with self._changed:
            flight = self._cameras[camera]
            sent_s = flight.sent_s.pop(stamp_ns, None)
            if sent_s is not None:
                flight.round_trip_s = time.monotonic() - sent_s
            self._changed.notify_all()


@contextlib.contextmanager
def _spinning(node: Node) -> Iterator[None]:
    """Callbacks of the node, in a thread of their own.

    Not ended by the executor's shutdown(): that frees what the thread waits for, and one that is
    about to wait then does so for ever.
    """
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    done = threading.Event()

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            while not done.is_set():
                executor.spin_once(timeout_sec=WAKE_PERIOD_S)

    thread = threading.Thread(target=spin, name='answers', daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        executor.shutdown()


class Lateness:
    """How well the pace was kept."""

    def __init__(self) -> None:
        self._count = 0
        self._late = 0
        self._worst_s = 0.0

    def add(self, due_ns: int, sent_ns: int) -> None:
        late_s = (sent_ns - due_ns) / 1e9
        self._count += 1
        self._late += late_s > LATE_S
        self._worst_s = max(self._worst_s, late_s)

    def problems(self) -> list[str]:
        """What is to be told of the play."""
        if self._late <= LATE_SHARE * self._count:
            return []
        return [
            f'{self._late} of {self._count} pictures were sent more than {LATE_S * 1e3:.0f} ms '
            f'late, by up to {self._worst_s * 1e3:.0f} ms: this machine is too busy for this pace'
        ]


class StampCheck:
    """Answers are told apart by their stamps: a driver that does not fill them is found early."""

    def __init__(self, bag: Path) -> None:
        self._bag = bag
        self._stamps: dict[str, list[int]] = {}

    def check(self, topic: str, stamp_ns: int) -> None:
        """Raises SourceError when the first stamps of a topic are all the same."""
        stamps = self._stamps.setdefault(topic, [])
        if len(stamps) == STAMPS_LOOKED_AT:
            return
        stamps.append(stamp_ns)
        if len(stamps) == STAMPS_LOOKED_AT and len(set(stamps)) == 1:
            raise SourceError(
                f'{self._bag}: the pictures of {topic} all have the stamp {stamp_ns}, so their '
                'answers cannot be told apart. Play it with --stamps recorded: the times at which '
                'they were recorded instead'
            )


class _ClockTicker:
    """Publishes the bag's time; never backwards."""

    def __init__(self, publisher: Any) -> None:
        self._publisher = publisher
        self._last_ns = -1

    def publish(self, time_ns: int) -> None:
        if time_ns > self._last_ns:
            self._last_ns = time_ns
            sec, nanosec = divmod(time_ns, 10**9)
            self._publisher.publish(Clock(clock=Time(sec=sec, nanosec=nanosec)))


def _message_class(type_name: str) -> Any:
    """`sensor_msgs/msg/Image` -> its class."""
    package, _, name = type_name.split('/')
    return getattr(importlib.import_module(f'{package}.msg'), name)


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
    time.sleep(SETTLE_S)


def _wait_until_sent(publisher: Any) -> None:
    """Let reliable subscribers acknowledge the last messages before the publisher goes."""
    publisher.wait_for_all_acked(Duration(seconds=2))


if __name__ == '__main__':
    sys.exit(main())
