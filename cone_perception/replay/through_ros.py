"""A drive played over DDS to a node in another process, and the fate of each picture."""

from __future__ import annotations

import contextlib
import json
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from cone_perception.bags.cones3d import MessageCones, cones_of
from cone_perception.bags.reader import (
    bag_types,
    detections_of,
    header_stamp_ns,
    open_bag,
    read_messages,
)
from cone_perception.errors import OutputError, SourceError, told_as
from cone_perception.replay.load import LoadSampler
from cone_perception.replay.processes import (
    NodeCommand,
    ProcessError,
    ProcessGroup,
    private_domain,
    python_job,
    ros_environment,
)
from cone_perception.replay.traces import (
    MOMENTS,
    Drive,
    Fate,
    FrameTrace,
    LoadSample,
    Pace,
    Pass,
)
from cone_perception.types import Detections, Positions

READY_TIMEOUT_S = 900.0
"""A node may compile its engine first, which takes minutes on a small GPU."""

CONNECT_TIMEOUT_S = 120.0
"""Until node, monitor and player know each other. A node that does not say when it is ready may
still load its network."""

LAST_ANSWERS_S = 1.5
"""After the last picture: for its answer, and for diagnostics (1 Hz) that count it."""

Stamps = Literal['header', 'recorded']


def play_through_ros(
    drive: Drive,
    pace: Pace,
    node: NodeCommand,
    folder: Path,
    *,
    domain: int | None = None,
    stamps: Stamps = 'header',
    sample_load: bool = True,
) -> Pass:
    """Play the drive to the node, in processes of their own, and follow every picture.

    folder: of no play before; gets `sent.jsonl`, `received.jsonl`, the bag `answers` and the
    processes' logs in `log/`. domain: ROS_DOMAIN_ID; None takes one that is free. sample_load:
    needs psutil.
    KeyboardInterrupt while it plays ends it early: what was seen until then is in the Pass. So it
    is when the node dies, which its problems tell.
    Raises ProcessError when the node does not get ready, SourceError for a bag that cannot be
    played.
    """
    log = folder / 'log'
    with told_as(OutputError, f'{folder} cannot be written'):
        log.mkdir(parents=True, exist_ok=True)
    play = _Play(drive, pace, node, folder, stamps, sample_load)
    with contextlib.ExitStack() as stack:
        if domain is None:
            domain = stack.enter_context(private_domain())
        play.run(stack.enter_context(ProcessGroup(ros_environment(domain, log), log)))
    return play.result()


@dataclass(slots=True)
class _Play:
    """One play, and what was seen of it.

    node_died: of itself, while pictures were sent. ended_ns: when it was told to end, of the wall
    clock: its diagnostics from then on are of an empty node.
    """

    drive: Drive
    pace: Pace
    node: NodeCommand
    folder: Path
    stamps: Stamps
    sample_load: bool
    interrupted: bool = False
    node_died: bool = False
    process_failed: bool = False
    ended_ns: int = 0
    problems: list[str] = field(default_factory=list)
    load: list[LoadSample] = field(default_factory=list)

    def run(self, group: ProcessGroup) -> None:
        """Start node, monitor and player; end them when all was sent, or when something fails."""
        node = self.node
        refusals = {'node': node.refuses} if node.refuses else {}
        group.start('node', node.command)
        if node.ready:
            group.wait_for_text('node', node.ready, READY_TIMEOUT_S, refusals)
        logs = {'out': self.folder / 'answers', 'log': self.folder / 'received.jsonl'}
        group.start('monitor', python_job('monitor', logs | {'topics': node.topics}))
        group.wait_for_text('monitor', 'ready\n', CONNECT_TIMEOUT_S, refusals)
        group.start('player', self._player_command(), show=True)
        pids = {name: process.pid for name, process in group.running.items()}
        with LoadSampler(pids) if self.sample_load else contextlib.nullcontext() as sampler:
            self._wait(group)
        self.load = sampler.samples if sampler else []
        self.ended_ns = time.time_ns()
        for name in ('node', 'monitor'):  # what becomes of the node's last pictures is recorded
            try:
                group.stop(name)
            except ProcessError as error:
                self.process_failed = True
                if name != 'node' or not self.node_died:
                    self.problems.append(str(error))

    def result(self) -> Pass:
        """Join what player, node and monitor have said."""
        log = _read_lines(self.folder / 'sent.jsonl')
        for entry in log:
            if 'error' in entry:
                raise SourceError(entry['error'])
        self.problems += [entry['problem'] for entry in log if 'problem' in entry]
        sent = [entry for entry in log if 'sent_ns' in entry]
        answers = _read_answers(self.folder, self.node, self.ended_ns, self.problems)
        if not sent and not self.interrupted:
            raise ProcessError('\n'.join(['nothing was sent.', *self.problems]))
        return Pass(
            pace=self.pace,
            frames=find_fates(sent, answers, self.node, self.node_died, self.problems),
            load=self.load,
            health=answers.health,
            problems=tuple(self.problems),
            interrupted=self.interrupted,
            process_failed=self.process_failed,
        )

    def _wait(self, group: ProcessGroup) -> None:
        """Wait until all was sent and answered, or until a process ends that should not."""
        pace, drive = self.pace, self.drive
        each_s = {'bag': drive.duration_s / pace.rate, 'hz': drive.frames / (pace.hz or 1.0)}
        # A player that takes longer surely hangs.
        longest_s = 2 * CONNECT_TIMEOUT_S + 2 * each_s.get(pace.kind, float(drive.frames))
        try:
            group.wait('player', longest_s)
        except KeyboardInterrupt:
            self.interrupted = True
        except ProcessError as error:
            self.process_failed = True
            status = group.running['node'].poll()
            self.node_died = status is not None
            problem = str(error)
            if self.node_died:
                problem = (
                    f'the node ended by itself, with status {status}, while pictures were sent; '
                    f'the last lines of {self.folder / "log" / "node.log"}: '
                    + ' | '.join(group.last_words('node')[-3:])
                )
            self.problems.append(problem)
        if 'player' in group.running:
            with contextlib.suppress(ProcessError):
                group.stop('player')
        try:
            time.sleep(LAST_ANSWERS_S)
        except KeyboardInterrupt:
            self.interrupted = True

    def _player_command(self) -> list[str]:
        # Of several cameras only one is being worked on at a time; the others then have a picture
        # that waits for it, and none to push out.
        alone = len(self.drive.cameras) == 1 or self.node.pairs
        in_flight = self.pace.in_flight if alone else max(1, self.pace.in_flight - 1)
        job = {
            'drive': replace(self.drive, truth=None, places=None),
            'pace': replace(self.pace, in_flight=in_flight),
            'log': self.folder / 'sent.jsonl',
            'answers': self.node.detections,
            'timing': self.node.timing_topic,
            'stamps': self.stamps,
            'wait_s': CONNECT_TIMEOUT_S,
        }
        return python_job('player', job)


def _queues() -> Any:
    return field(default_factory=lambda: defaultdict(deque))


@dataclass(slots=True)
class Answers:
    """Messages of the node, in their order.

    found: (topic, stamp) -> cones. placed: the same -> cones in metres. returned_ns: the same ->
    the monitor's clock. told: (camera, stamp) -> what the node tells of a frame. health: part ->
    key -> value, the last.
    """

    found: dict[tuple[str, int], deque[Detections]] = _queues()
    placed: dict[tuple[str, int], deque[MessageCones]] = _queues()
    returned_ns: dict[tuple[str, int], deque[int]] = _queues()
    told: dict[tuple[str, int], deque[Mapping[str, str]]] = _queues()
    health: dict[str, Mapping[str, str]] = field(default_factory=dict)


def find_fates(
    sent: Sequence[Mapping[str, Any]],
    answers: Answers,
    node: NodeCommand,
    node_died: bool,
    problems: list[str],
) -> list[FrameTrace]:
    """Give every picture that was sent its fate, in that order. The answers are used up.

    sent: camera, index, stamp_ns and sent_ns of each, as the player logged them. Pictures with one
    stamp are told apart by their order only, which `problems` then says. Raises SourceError when
    most are such.
    """
    again = len(sent) - len({(entry['camera'], entry['stamp_ns']) for entry in sent})
    if again > len(sent) // 2:
        raise SourceError(
            'most pictures have the stamp of another one, so their answers cannot be told apart: '
            'does the driver fill header.stamp? Play it with --stamps recorded'
        )
    if again:
        problems.append(
            f'{again} pictures have the stamp of an earlier one: their answers are told apart by '
            'their order only'
        )
    last_word_ns = max(
        (int(record['received_ns']) for told in answers.told.values() for record in told), default=0
    )
    frames = []
    for entry in sent:
        camera, stamp_ns = entry['camera'], entry['stamp_ns']
        answer = (node.detections[camera], stamp_ns)
        record = _next(answers.told[camera, stamp_ns]) or {}
        returned_ns = _next(answers.returned_ns[answer])
        found = _next(answers.found[answer])
        fate: Fate
        if returned_ns is not None:
            fate = 'answered'
        elif record:
            told = record['outcome']
            fate = 'return' if told == 'answered' else cast('Fate', told)
        elif node.timing_topic is None or (node_died and entry['sent_ns'] > last_word_ns):
            fate = 'unknown'
        else:
            fate = 'transport'
        moments_ns: dict[str, Any] = {name: int(record[name]) for name in MOMENTS if name in record}
        reason = record.get('reason', '') if fate in ('failed', 'dropped') else ''
        found = found if fate == 'answered' else None
        if found is not None and 'band_px' in record:
            found = replace(found, band_px=float(record['band_px']))
        positions = None
        if found is not None and (
            placed := _next(answers.placed[node.cones.get(camera, ''), stamp_ns])
        ):
            positions = _positions(placed, record.get('range_sources', ''), len(found))
        partner = camera in node.partners
        now = {**entry, **moments_ns, 'returned_ns': returned_ns}
        frames.append(
            FrameTrace(
                fate=fate, reason=reason, found=found, positions=positions, partner=partner, **now
            )
        )
    unread = sum(frame.fate == 'answered' and frame.found is None for frame in frames)
    if unread:
        problems.append(f'{unread} answers came back, but were not recorded: they are not judged')
    return frames


def _positions(placed: MessageCones, sources: str, count: int) -> Positions:
    """Positions of each of the detections. sources: a digit for each, as ~/timing tells it."""
    positions = placed.of([str(row) for row in range(count)])
    if len(sources) != count:
        return positions
    source = np.where(positions.known, np.array([*map(int, sources)], np.int64), 0)
    return replace(positions, source=source)


def _next(waiting: deque[Any]) -> Any:
    return waiting.popleft() if waiting else None


def _read_answers(
    folder: Path, node: NodeCommand, health_until_ns: int, problems: list[str]
) -> Answers:
    """Read what the monitor has kept in the folder."""
    answers = Answers()
    for entry in _read_lines(folder / 'received.jsonl'):
        answers.returned_ns[entry['topic'], entry['stamp_ns']].append(entry['received_ns'])
    detections, cones = set(node.detections.values()), set(node.cones.values())
    try:
        with open_bag(folder / 'answers') as reader:
            for recorded in read_messages(reader, node.topics, problems=problems):
                message = bag_types().deserialize_cdr(recorded.data, recorded.type_name)
                if recorded.topic in detections:
                    stamp_ns = header_stamp_ns(recorded.data)
                    with told_as(SourceError, recorded.topic, ValueError):
                        found = detections_of(message, node.class_names)
                    answers.found[recorded.topic, stamp_ns].append(found)
                    continue
                if recorded.topic in cones:
                    with told_as(SourceError, recorded.topic, ValueError):
                        placed = cones_of(message)
                    answers.placed[recorded.topic, header_stamp_ns(recorded.data)].append(placed)
                    continue
                for status in message.status:
                    values = {entry.key: entry.value for entry in status.values}
                    if recorded.topic == node.timing_topic:
                        answers.told[values['camera'], int(values['stamp_ns'])].append(values)
                    elif recorded.time_ns <= health_until_ns:
                        answers.health[status.name] = {'message': status.message, **values}
    except SourceError as error:
        problems.append(f'the recorded answers are not complete: {error}')
    return answers


def _read_lines(log: Path) -> list[dict[str, Any]]:
    """Read the entries of a log that may end in the middle of a line, or not be there."""
    if not log.exists():
        return []
    lines = log.read_text(encoding='utf-8').split('\n')
    return [json.loads(line) for line in lines[:-1]]
