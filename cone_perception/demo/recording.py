"""What was sent, what came back when, and how good it was."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.accuracy import AccuracySummary, PictureMatch, match_picture, summarise
from cone_perception.bags import DETECTIONS, bag_types, header_stamp_ns, open_bag, read_messages
from cone_perception.errors import SourceError
from cone_perception.model_card import ModelCard
from cone_perception.types import Detections

MIN_HEIGHT_PX = 24.0
"""Cones lower than this need not be found: farther than about 10 m at 1280x720."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One picture of the drive and what the node made of it.

    sent_ns, received_ns: of the monotonic clock; received_ns and found are None without an answer.
    truth: None in a bag without ground truth.
    stations_ms: time that the node says it spent per station.
    """

    stamp_ns: int
    sent_ns: int
    received_ns: int | None = None
    found: Detections | None = None
    truth: Detections | None = None
    stations_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def transport_ms(self) -> float | None:
        """What is left of the latency after the node's own time."""
        if self.latency_ms is None or 'total_ms' not in self.stations_ms:
            return None
        return max(0.0, self.latency_ms - self.stations_ms['total_ms'])

    @property
    def latency_ms(self) -> float | None:
        """From the player's send to the monitor's receipt."""
        return None if self.received_ns is None else (self.received_ns - self.sent_ns) / 1e6


@dataclass(frozen=True, slots=True)
class Figures:
    """The demo's result.

    frames: sent. answered: with a message of detections. failed: as the node counted.
    accuracy: None in a bag without ground truth.
    p50_ms, p99_ms: of the latency; NaN without answers.
    """

    frames: int
    answered: int
    failed: int
    accuracy: AccuracySummary | None
    p50_ms: float
    p99_ms: float

    def line(self) -> str:
        """The demo's last line, to be read by programs."""
        judged = ''
        if self.accuracy is not None:
            overall = self.accuracy.overall
            judged = f'precision={overall.precision:.2f} recall={overall.recall:.2f} '
        return (
            f'demo: frames={self.frames} answered={self.answered} failed={self.failed} '
            f'{judged}p50_ms={self.p50_ms:.1f} p99_ms={self.p99_ms:.1f}'
        )


def read_exchanges(
    sent_log: Path,
    received_log: Path,
    answers: Mapping[int, Detections],
    truth: Mapping[int, Detections] | None,
    stations_ms: Mapping[int, Mapping[str, float]],
    detections_topic: str,
) -> list[Exchange]:
    """Every picture that was sent, in that order. answers, truth, stations_ms: by stamp.

    Raises SourceError when pictures have equal stamps.
    """
    received_ns = {
        entry['stamp_ns']: entry['received_ns']
        for entry in _read_lines(received_log)
        if entry['topic'] == detections_topic
    }
    sent = _read_lines(sent_log)
    if len({entry['stamp_ns'] for entry in sent}) < len(sent):
        raise SourceError(
            'pictures of this topic have equal stamps, so their answers cannot be told apart: '
            'does its driver fill header.stamp?'
        )
    return [
        Exchange(
            stamp_ns=(stamp := entry['stamp_ns']),
            sent_ns=entry['sent_ns'],
            received_ns=received_ns.get(stamp),
            found=answers.get(stamp),
            truth=None if truth is None else truth.get(stamp, Detections.empty()),
            stations_ms=stations_ms.get(stamp, {}),
        )
        for entry in sent
    ]


def judge(exchanges: Sequence[Exchange], failed: int, card: ModelCard) -> Figures:
    """Figures of the pictures answered; precision and recall at the card's thresholds."""
    latencies = [e.latency_ms for e in exchanges if e.latency_ms is not None]
    p50, p99 = np.percentile(latencies, [50, 99]) if latencies else (np.nan, np.nan)
    matches = [match_exchange(e, card) for e in exchanges if e.found is not None]
    judged = exchanges and all(e.truth is not None for e in exchanges)
    return Figures(
        frames=len(exchanges),
        answered=sum(e.found is not None for e in exchanges),
        failed=failed,
        accuracy=summarise(matches, card.class_names, card.thresholds) if judged else None,
        p50_ms=float(p50),
        p99_ms=float(p99),
    )


def match_exchange(exchange: Exchange, card: ModelCard) -> PictureMatch:
    """The answer to one picture against its truth, cones from MIN_HEIGHT_PX up."""
    return match_picture(
        exchange.found or Detections.empty(),
        exchange.truth or Detections.empty(),
        len(card.class_names),
        MIN_HEIGHT_PX,
    )


def read_detections(bag: Path, topic: str, class_names: Sequence[str]) -> dict[int, Detections]:
    """Stamp -> the cones of that message."""
    from cone_perception.ros.messages import from_message

    return {stamp_ns: from_message(message, class_names) for stamp_ns, message in _read(bag, topic)}


def truth_topic(bag: Path) -> str | None:
    """The bag's topic of ground truth, the only one of its type; None without one."""
    with open_bag(bag) as reader:
        topics = sorted({c.topic for c in reader.connections if c.msgtype == DETECTIONS})
    return topics[0] if len(topics) == 1 else None


def read_stations(bag: Path, topic: str) -> dict[int, dict[str, float]]:
    """Stamp -> milliseconds that the node spent at each station on that picture."""
    stations: dict[int, dict[str, float]] = {}
    for _, message in _read(bag, topic):
        for status in message.status:
            values = {entry.key: entry.value for entry in status.values}
            stations[int(values['stamp_ns'])] = {
                key: float(value) for key, value in values.items() if key.endswith('_ms')
            }
    return stations


def read_health(bag: Path, topic: str) -> dict[str, dict[str, str]]:
    """Name of each part of the node -> what its last diagnostics said."""
    health: dict[str, dict[str, str]] = defaultdict(dict)
    for _, message in _read(bag, topic):
        for status in message.status:
            values = {entry.key: entry.value for entry in status.values}
            health[status.name] = {'message': status.message, **values}
    return dict(health)


def _read(bag: Path, topic: str) -> Iterator[tuple[int, Any]]:
    """(stamp_ns, message) of each message of a topic."""
    with open_bag(bag) as reader:
        for recorded in read_messages(reader, [topic]):
            message = bag_types().deserialize_cdr(recorded.data, recorded.type_name)
            yield header_stamp_ns(recorded.data), message


def _read_lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding='utf-8').splitlines()]
