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
from cone_perception.engines.tensorrt.plans import read_passport
from cone_perception.errors import ConePerceptionError, PlanError
from cone_perception.files import cache_folder
from cone_perception.model_card import Bundle
from cone_perception.replay.figures.accuracy import (
    Answers,
    accuracy_figures,
    agreement_figures,
    consistency_figures,
    least_of_views,
)
from cone_perception.replay.figures.positions import (
    camera_in_car_m,
    position_figures,
    why_not_judged,
)
from cone_perception.replay.figures.result import ReplayResult, write_result
from cone_perception.replay.figures.statistics import pass_figures
from cone_perception.replay.figures.usage import load_figures
from cone_perception.replay.many.jobs import jobs_at_once
from cone_perception.replay.max_rate import MaxRate, find_max_rate
from cone_perception.replay.options import pace_of, words_for_each_bag
from cone_perception.replay.traces import Drive, FrameTrace, Pace, Pass
from cone_perception.settings import DetectorSettings

Play = Callable[[Pace], Pass]
"""One pass of a drive; KeyboardInterrupt ends it early, and what was seen is in it."""


@dataclass(slots=True, eq=False)
class Replay:
    """Plays the passes of a drive and joins them to a result.

    play: through the detector. echo: through a node that only answers; None without ROS. reference:
    another model's answers, on the bands of these frames; None: nobody asked.
    """

    args: argparse.Namespace
    drive: Drive
    bundle: Bundle
    settings: DetectorSettings
    play: Play
    echo: Play | None
    reference: Callable[[Sequence[FrameTrace]], Answers] | None
    passes: list[Pass] = field(default_factory=list)
    _started: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    _host: dict[str, Any] = field(default_factory=describe_host)
    _figures: dict[str, Interval] = field(
        default_factory=lambda: {'frames_sent': Interval(0), 'frames_answered': Interval(0)}
    )
    _per_pass: list[Mapping[str, Interval]] = field(default_factory=list)
    _reference: Answers | None = None
    _max_rate: MaxRate | None = None
    _pace: Pace = Pace()
    _interrupted: bool = False
    _problems: list[str] = field(default_factory=list)

    def run(self) -> ReplayResult:
        """Play all passes; result.json is written after each: a kill loses one at most."""
        self._pace, repeat = pace_of(self.args), self.args.repeat
        echo = self.echo if self.args.overhead else None
        if self.args.find_max_rate:  # then at the highest that has passed, or the last one tried
            found = find_max_rate(lambda hz: self.play(Pace('hz', hz=hz)))
            self._max_rate, self._interrupted = found, found.interrupted
            print(f'highest rate: {found.says}', flush=True)
            if found.probes:
                self._pace = Pace('hz', hz=found.hz or found.probes[-1]['hz'])
        for number in range(repeat):
            if self._interrupted:
                break
            if repeat > 1:
                print(f'pass {number + 1} of {repeat}', flush=True)
            played = self.play(self._pace)
            self.passes.append(played)
            self._per_pass.append({**pass_figures([played]), **load_figures([played])})
            self._figures = measure(self.passes, self.drive, self.bundle, self.settings)
            if self._max_rate is not None:
                self._figures['max_rate_hz'] = Interval(self._max_rate.hz)
            self._interrupted = played.interrupted
            if self.reference and not self._interrupted:
                self._compare(self.reference)
            if not self._interrupted and (echo or number + 1 < repeat):
                self._write(finished=False)
        if echo and not self._interrupted:
            self._measure_overhead(echo)
        return self._write(finished=True)

    def _compare(self, reference: Callable[[Sequence[FrameTrace]], Answers]) -> None:
        """Find the agreement with the reference, which answers after the first pass."""
        if self._reference is None:
            self._write(finished=False)  # it may take as long as the pass, and fail
            try:
                self._reference = reference(self.passes[0].frames)
            except KeyboardInterrupt:
                self._interrupted = True
                return
        self._figures |= agreement_figures(self.passes, self._reference)

    def _measure_overhead(self, echo: Play) -> None:
        """Find the cost of player, DDS and monitor: the latency of a node that does nothing."""
        print('the same with a node that only answers', flush=True)
        try:
            overhead = echo(self._pace)
        except ConePerceptionError as error:
            self._problems.append(f'what player and monitor cost is not known: {error}')
            return
        self._interrupted = overhead.interrupted
        if not self._interrupted:
            echoed = {**pass_figures([overhead]), **load_figures([overhead])}
            for name in (
                'latency_p50_ms',
                'latency_p99_ms',
                'player_cpu_cores',
                'monitor_cpu_cores',
            ):
                if name in echoed:
                    self._figures[f'overhead_{name}'] = echoed[name]

    def _write(self, finished: bool) -> ReplayResult:
        configuration = {
            'arguments': [str(self.drive.bag), *map(str, words_for_each_bag(self.args))],
            'jobs': jobs_at_once(),
            'through': self.args.through,
            'pace': asdict(self._pace),
            'repeat': self.args.repeat,
            'cameras': [asdict(camera) for camera in self.drive.cameras],
            'settings': asdict(self.settings),
            'started': self._started.isoformat(timespec='seconds'),
        }
        result = join_result(
            configuration, self.drive, self.bundle, self._host, self.passes, self._figures
        )
        result = replace(
            result,
            per_pass=self._per_pass,
            probes=self._max_rate.probes if self._max_rate else (),
            problems=[*result.problems, *self._problems],
            interrupted=self._interrupted or not finished,
        )
        write_result(self.args.out / 'result.json', result)
        return result


def measure(
    passes: Sequence[Pass], drive: Drive, bundle: Bundle, settings: DetectorSettings
) -> dict[str, Interval]:
    """Find all figures of what became of the pictures, of the answers, and of the load."""
    names = bundle.card.class_names
    figures = {**pass_figures(passes), **consistency_figures(passes, names)}
    if drive.truth is not None:
        views = bundle.card.view_thresholds.values()
        thresholds = least_of_views(bundle.card.thresholds, views, settings.filters.thresholds)
        figures |= accuracy_figures(passes, drive.truth, names, thresholds)
        if drive.places is not None:
            camera_m = camera_in_car_m(asdict(settings))
            figures |= position_figures(passes, drive.truth, drive.places, camera_m)
    return figures | load_figures(passes)


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
    of_passes = [text for each in passes for text in each.problems]
    if drive.places and (
        why := why_not_judged((f for each in passes for f in each.frames), drive.places)
    ):
        of_passes.append(why)
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
        places=drive.places,
        problems=list(dict.fromkeys((*drive.problems, *of_passes))),
        health=health,
    )


def describe_bag(drive: Drive) -> dict[str, Any]:
    """Describe a bag. truth_frames: pictures whose cones are known."""
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
    """Describe a model as its card does and the node; what that did not tell is None.

    card_sha256: of the card as it is written. network_sha256: of the file that ran. views: what it
    saw. passport: the newest of an engine that was compiled of this network, see
    engines.tensorrt.plans; None on the CPU, where nothing is compiled beforehand.
    """
    card, folder = bundle.card, bundle.folder
    told = next((values for values in health.values() if 'engine' in values), {})
    passport = None
    if told.get('engine', '').startswith('TensorRT'):
        for file in sorted(
            cache_folder('engines').glob('*.json'), key=lambda path: path.stat().st_mtime
        ):
            with contextlib.suppress(PlanError):  # other files lie there too
                found = read_passport(file)
                if found.key.network_sha256 == told.get('model sha256'):
                    passport = asdict(found)
    # The shipped model lies in the user's home as often as not, which names the user.
    with contextlib.suppress(ValueError, RuntimeError):
        folder = '~' / folder.relative_to(Path.home())
    return {
        'name': card.name,
        'folder': str(folder),
        'card_sha256': hashlib.sha256(card.to_json().encode()).hexdigest(),
        'networks': [asdict(network) for network in card.networks],
        'class_names': list(card.class_names),
        'thresholds': dict(card.thresholds),
        'view_thresholds': {view: dict(least) for view, least in card.view_thresholds.items()},
        'verdict': card.verdict,
        'licence': card.licence,
        'network_sha256': told.get('model sha256'),
        'engine': told.get('engine'),
        'views': told.get('views'),
        'passport': passport,
    }
