"""One bag, one model: the passes, and the result of them together.

Nothing in a result names a user. A bag's path is told as it was given.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cone_perception.accuracy.intervals import Interval
from cone_perception.engines.machine import describe_host
from cone_perception.engines.tensorrt.plans import PlanCache, read_passport
from cone_perception.errors import ConePerceptionError, PlanError
from cone_perception.model_card import Bundle
from cone_perception.replay.figures.accuracy import (
    Answers,
    accuracy_figures,
    agreement_figures,
    consistency_figures,
)
from cone_perception.replay.figures.result import ReplayResult, write_result
from cone_perception.replay.figures.statistics import pass_figures
from cone_perception.replay.figures.usage import load_figures
from cone_perception.replay.many.jobs import jobs_at_once
from cone_perception.replay.max_rate import MaxRate, find_max_rate
from cone_perception.replay.options import pace_of, words_for_each_bag
from cone_perception.replay.traces import Drive, Pace, Pass
from cone_perception.settings import DetectorSettings


@dataclass(frozen=True, slots=True)
class Way:
    """The way of a drive through the detector.

    play: one pass; KeyboardInterrupt ends it early, and what was seen is in it. overhead: the same
    with a node that only answers; None without ROS.
    """

    play: Callable[[Pace], Pass]
    overhead: Callable[[Pace], Pass] | None = None


@dataclass(slots=True, eq=False)
class Replay:
    """Plays the passes and joins them to a result."""

    _args: argparse.Namespace
    _drive: Drive
    _bundle: Bundle
    _settings: DetectorSettings
    _way: Way
    _reference: Answers | None
    _started: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    _host: dict[str, Any] = field(default_factory=describe_host)
    _passes: list[Pass] = field(default_factory=list)
    _figures: dict[str, Interval] = field(
        default_factory=lambda: {'frames_sent': Interval(0), 'frames_answered': Interval(0)}
    )
    _per_pass: list[Mapping[str, Interval]] = field(default_factory=list)
    _max_rate: MaxRate | None = None
    _pace: Pace = Pace()
    _interrupted: bool = False
    _problems: list[str] = field(default_factory=list)

    def run(self) -> ReplayResult:
        """Play all passes; result.json is written after each: a kill loses one at most."""
        self._pace = pace_of(self._args)
        with_overhead = self._way.overhead is not None and self._args.overhead
        if self._args.find_max_rate:
            self._search()
        for number in range(self._args.repeat):
            if self._interrupted:
                break
            if self._args.repeat > 1:
                print(f'pass {number + 1} of {self._args.repeat}', flush=True)
            self._take(self._way.play(self._pace))
            if not self._interrupted and (with_overhead or number + 1 < self._args.repeat):
                self._write(finished=False)
        if with_overhead and not self._interrupted:
            self._measure_overhead()
        return self._write(finished=True)

    @property
    def process_failed(self) -> bool:
        """A process of a pass did not end as it should."""
        return any(each.process_failed for each in self._passes)

    def _take(self, played: Pass) -> None:
        """One more pass: its figures, and those of all together."""
        self._passes.append(played)
        self._per_pass.append({**pass_figures([played]), **load_figures([played])})
        self._figures = self._measure()
        self._interrupted = played.interrupted

    def _measure_overhead(self) -> None:
        print('the same with a node that only answers', flush=True)
        try:
            overhead = self._way.overhead(self._pace) if self._way.overhead else None
        except ConePerceptionError as error:
            self._problems.append(f'what player and monitor cost is not known: {error}')
            return
        if overhead is not None and overhead.interrupted:
            self._interrupted = True
            return
        if overhead is not None:
            self._figures |= _overhead_figures(overhead)

    def _search(self) -> None:
        """Go on at the highest rate that has passed, or at the last one tried."""
        found = find_max_rate(lambda hz: self._way.play(Pace('hz', hz=hz)))
        self._max_rate, self._interrupted = found, found.interrupted
        print(f'highest rate: {found.says}', flush=True)
        if found.probes:
            self._pace = Pace('hz', hz=found.hz or found.probes[-1]['hz'])

    def _write(self, finished: bool) -> ReplayResult:
        result = join_result(
            *(self._configuration(), self._drive, self._bundle, self._host),
            *(self._passes, self._figures),
        )
        result = replace(
            result,
            per_pass=self._per_pass,
            probes=self._max_rate.probes if self._max_rate else (),
            problems=[*result.problems, *self._problems],
            interrupted=self._interrupted or not finished,
        )
        write_result(self._args.out / 'result.json', result)
        return result

    def _measure(self) -> dict[str, Interval]:
        passes, card = self._passes, self._bundle.card
        figures = {
            **pass_figures(passes),
            **load_figures(passes),
            **consistency_figures(passes, card.class_names),
        }
        if self._drive.truth is not None:
            thresholds = {**card.thresholds, **self._settings.filters.thresholds}
            figures |= accuracy_figures(passes, self._drive.truth, card.class_names, thresholds)
        if self._reference is not None:
            figures |= agreement_figures(passes, self._reference, card.class_names)
        if self._max_rate is not None:
            figures['max_rate_hz'] = Interval(self._max_rate.hz)
        return figures

    def _configuration(self) -> dict[str, Any]:
        return {
            'arguments': [str(self._drive.bag), *map(str, words_for_each_bag(self._args))],
            'jobs': jobs_at_once(),
            'through': self._args.through,
            'pace': asdict(self._pace),
            'repeat': self._args.repeat,
            'cameras': [asdict(camera) for camera in self._drive.cameras],
            'settings': asdict(self._settings),
            'started': self._started.isoformat(timespec='seconds'),
        }


def _overhead_figures(echo: Pass) -> dict[str, Interval]:
    """Give the cost of player, DDS and monitor: the latency of a node that does nothing."""
    echoed = {**pass_figures([echo]), **load_figures([echo])}
    return {
        f'overhead_{name}': echoed[name]
        for name in ('latency_p50_ms', 'latency_p99_ms', 'player_cpu_cores', 'monitor_cpu_cores')
        if name in echoed
    }


def join_result(
    configuration: dict[str, Any],
    drive: Drive,
    bundle: Bundle,
    host: dict[str, Any],
    passes: Sequence[Pass],
    figures: dict[str, Interval],
) -> ReplayResult:
    """Join the passes of a drive to a result. figures: of all passes together."""
    health = passes[-1].health if passes else {}
    of_passes = (text for each in passes for text in each.problems)
    return ReplayResult(
        configuration=configuration,
        bag=describe_bag(drive),
        model=describe_model(bundle, health),
        host=host,
        figures=figures,
        per_pass=[figures],
        passes=[each.frames for each in passes],
        load=[each.load for each in passes],
        truth=drive.truth,
        problems=list(dict.fromkeys((*drive.problems, *of_passes))),
        health=health,
    )


def describe_bag(drive: Drive) -> dict[str, Any]:
    """Describe a bag.

    path, sha256 (of its data), storage, frames, duration_s, cameras (name, topic, compressed,
    truth_topic), truth_frames (pictures whose cones are known), problems.
    """
    return {
        'path': str(drive.bag),
        'sha256': drive.sha256,
        'storage': drive.storage,
        'frames': drive.frames,
        'duration_s': drive.duration_s,
        'cameras': [asdict(camera) for camera in drive.cameras],
        'truth_frames': 0 if drive.truth is None else len(drive.truth),
        'problems': list(drive.problems),
    }


def describe_model(bundle: Bundle, health: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Describe a model.

    name, folder, card_sha256 (of the card as it is written), networks (that it lists),
    class_names, thresholds, verdict, licence, and what the node told: network_sha256 (of the file
    that ran), engine.

    passport: of the compiled engine that ran, see engines.plan; None on the CPU, where nothing is
    compiled beforehand. What the node did not tell is None.
    """
    card = bundle.card
    told = next((values for values in health.values() if 'engine' in values), {})
    network_sha256 = told.get('model sha256')
    on_gpu = told.get('engine', '').startswith('TensorRT')
    return {
        'name': card.name,
        'folder': _without_home(bundle.folder),
        'card_sha256': hashlib.sha256(card.to_json().encode()).hexdigest(),
        'networks': [asdict(network) for network in card.networks],
        'class_names': list(card.class_names),
        'thresholds': dict(card.thresholds),
        'verdict': card.verdict,
        'licence': card.licence,
        'network_sha256': network_sha256,
        'engine': told.get('engine'),
        'passport': _passport(network_sha256, PlanCache().folder) if on_gpu else None,
    }


def _without_home(path: Path) -> str:
    """The shipped model lies in the user's home as often as not, which names the user."""
    with contextlib.suppress(ValueError, RuntimeError):
        return str('~' / path.relative_to(Path.home()))
    return str(path)


def _passport(network_sha256: str | None, folder: Path) -> dict[str, Any] | None:
    """The newest passport in the cache of an engine made from this network."""
    for file in sorted(folder.glob('*.json'), key=lambda path: -path.stat().st_mtime):
        with contextlib.suppress(PlanError):  # other files lie there too
            passport = read_passport(file)
            if passport.key.network_sha256 == network_sha256:
                return asdict(passport)
    return None
