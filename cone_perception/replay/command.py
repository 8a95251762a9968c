"""`cone-perception replay BAG`: how old, how complete and how good a drive's detections are."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from cone_perception.arguments import above_zero, count
from cone_perception.detect import SETTINGS, add_settings
from cone_perception.engines.events import print_event, print_warning
from cone_perception.engines.open import place_network
from cone_perception.errors import ConePerceptionError, InstallError, SettingsError
from cone_perception.filters import Filters
from cone_perception.model_card import Bundle, read_bundle, shipped_bundle
from cone_perception.pipeline import ConeDetector
from cone_perception.replay.drive import open_drive
from cone_perception.replay.figures.accuracy import (
    Answers,
    accuracy_figures,
    agreement_figures,
    consistency_figures,
    reference_answers,
)
from cone_perception.replay.figures.budget import load_budget, over_budget
from cone_perception.replay.figures.result import Figure, ReplayResult, write_result
from cone_perception.replay.figures.statistics import pass_figures
from cone_perception.replay.figures.usage import load_figures
from cone_perception.replay.host import describe_bag, describe_host, describe_model
from cone_perception.replay.many import add_many_arguments, jobs_at_once, options_for_each, run_many
from cone_perception.replay.max_rate import MaxRate, find_max_rate
from cone_perception.replay.output_folder import REPLAY_MARK, claim_folder
from cone_perception.replay.pages.film import write_film
from cone_perception.replay.pages.report import write_report
from cone_perception.replay.processes import NodeCommand, echo_node, our_node, signals_as_interrupt
from cone_perception.replay.through_pipeline import play_through_pipeline
from cone_perception.replay.through_ros import Stamps, play_through_ros
from cone_perception.replay.traces import FATES, Drive, Pace, Pass
from cone_perception.settings import DetectorSettings, read_params_file

LEFT_BY_EARLIER_RUNS = ('result.json', 'report.html', 'annotated.mp4', 'passes', 'overhead')

INTERRUPTED_STATUS = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument('bags', type=Path, nargs='+', metavar='BAG', help='rosbag2 folder or file')
    parser.add_argument(
        '--out', type=Path, default=Path('replay_output'), help='folder for the results'
    )
    parser.add_argument(
        '--through',
        choices=('ros', 'pipeline'),
        default='ros',
        help='ros: player, DDS, the real node, monitor; pipeline: without ROS (ros)',
    )
    parser.add_argument(
        '--topic', action='append', default=[], help='image topic; may be repeated (all)'
    )
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        '--rate', type=above_zero, default=1.0, help='times as fast as it was recorded (1)'
    )
    pace.add_argument('--hz', type=above_zero, help='each camera at this rate, evenly')
    pace.add_argument(
        '--as-fast-as-possible',
        action='store_true',
        help='the next picture as soon as fewer than --in-flight wait for their answers',
    )
    pace.add_argument(
        '--find-max-rate',
        action='store_true',
        help='search for the highest rate at which at most 5 %% are missed, and replay at it',
    )
    parser.add_argument('--in-flight', type=count, default=2, help='pictures per camera (2)')
    parser.add_argument('--repeat', type=count, default=1, help='passes over the bag (1)')
    parser.add_argument(
        '--stamps',
        choices=('header', 'recorded'),
        default='header',
        help='recorded: replace stamps of zero by the times of recording (header)',
    )
    truth = parser.add_argument_group('accuracy')
    truth.add_argument(
        '--truth', action='append', default=[], help='topic of ground truth; one for each --topic'
    )
    truth.add_argument('--labels', type=Path, help='folder of YOLO labels instead')
    truth.add_argument('--reference', type=Path, help='bundle that the answers are compared with')
    truth.add_argument('--film', action='store_true', help='also write annotated.mp4')
    more = parser.add_argument_group('judging and many bags')
    more.add_argument('--budget', type=Path, help='limits (YAML); exit status 1 beyond them')
    add_many_arguments(more)
    more.add_argument('--no-overhead', action='store_true', help='leave out the run with an echo')
    more.add_argument('--domain', type=int, help='ROS_DOMAIN_ID (one of its own)')
    more.add_argument(
        '--launch-prefix',
        default='',
        metavar='COMMAND',
        help="starts the node's process, as for ros2 launch: 'chrt --rr 10' (nothing)",
    )
    other = parser.add_argument_group("somebody else's node")
    other.add_argument(
        '--node-command', help='measure this one, that publishes vision_msgs/Detection2DArray'
    )
    other.add_argument(
        '--detections', action='append', default=[], help='its topic; one for each --topic'
    )
    detector = parser.add_argument_group('the detector')
    detector.add_argument(
        '--params-file', type=Path, help="the car's settings (YAML), its image topics too"
    )
    add_settings(detector)


def run(args: argparse.Namespace) -> int:
    """Replay one bag or several: 0 when frames were answered and the budget is kept."""
    settings = read_settings(args)
    _check_way(args, settings)
    if len(args.bags) > 1 or args.ray:
        options = options_for_each(args, add_arguments)
        return run_many(args.bags, options, args.out, args.jobs, args.ray, args.ray_cpus)
    bag: Path = args.bags[0]
    bundle = read_bundle(Path(settings.model) if settings.model else shipped_bundle())
    settings.filters.check_classes(bundle.card)
    budget = load_budget(args.budget) if args.budget else None
    topics = args.topic or (settings.image_topics if args.params_file else ())
    names = bundle.card.class_names
    drive = open_drive(bag, topics, args.truth, args.labels, names, args.stamps)
    for problem in drive.problems:
        print_warning(problem)
    claim_folder(args.out, REPLAY_MARK, LEFT_BY_EARLIER_RUNS, bag)
    with signals_as_interrupt(), open_way(args, drive, bundle, settings) as way:
        reference = answers_of_reference(args, drive)
        replay = Replay(args, drive, bundle, settings, way, reference)
        result = replay.run()
    print('drawing', flush=True)
    reasons = over_budget(result, budget) if budget else []
    page = write_report(args.out, result, bag, reasons if budget else None)
    if args.film and any(result.passes):
        write_film(args.out / 'annotated.mp4', result, bag)
    print(f'page: {page}   result: {args.out / "result.json"}')
    for reason in reasons:
        print(f'over budget: {reason}', file=sys.stderr)
    print(summary_line(result), flush=True)
    if result.interrupted:
        return INTERRUPTED_STATUS
    answered = bool(result.figures['frames_answered'].value)
    return 0 if answered and not reasons and not replay.process_failed else 1


class Way(Protocol):
    """How a drive gets through the detector."""

    def play(self, pace: Pace) -> Pass:
        """One pass; KeyboardInterrupt ends it early, and what was seen is in it."""
        ...

    def overhead(self, pace: Pace) -> Pass | None:
        """The same with a node that only answers; None without ROS."""
        ...


@dataclass(frozen=True, slots=True)
class ThroughRos:
    """Player, DDS, node and monitor, each a process of its own."""

    drive: Drive
    node: NodeCommand
    folder: Path
    domain: int | None
    stamps: Stamps

    def play(self, pace: Pace) -> Pass:
        return self._play(pace, self.node, 'passes')

    def overhead(self, pace: Pace) -> Pass | None:
        return self._play(pace, echo_node(self.drive), 'overhead')

    def _play(self, pace: Pace, node: NodeCommand, name: str) -> Pass:
        (self.folder / name).mkdir(exist_ok=True)
        folder = self.folder / name / str(len(list((self.folder / name).iterdir())))
        folder.mkdir()
        return play_through_ros(
            self.drive, pace, node, folder, domain=self.domain, stamps=self.stamps
        )


@dataclass(frozen=True, slots=True)
class ThroughPipeline:
    """The detector in this process, without ROS."""

    drive: Drive
    detector: ConeDetector
    filters: Filters

    def play(self, pace: Pace) -> Pass:
        played = play_through_pipeline(self.drive, pace, self.detector, self.filters)
        info = self.detector.engine.info
        said = {
            'engine': f'{info.runtime} on {info.device}, {info.computes_in}',
            'model sha256': info.network_sha256,
        }
        return replace(played, health={'pipeline': said})

    def overhead(self, pace: Pace) -> Pass | None:
        return None


@contextlib.contextmanager
def open_way(
    args: argparse.Namespace, drive: Drive, bundle: Bundle, settings: DetectorSettings
) -> Iterator[Way]:
    """The way that was asked for, ready to play."""
    if args.through == 'ros':
        if args.node_command:
            topics = args.detections
            if len(topics) != len(drive.cameras):
                raise SettingsError(
                    f'--node-command needs --detections for each camera: {len(drive.cameras)} '
                    f'({", ".join(camera.topic for camera in drive.cameras)}), got {len(topics)}'
                )
            names = [camera.name for camera in drive.cameras]
            node = NodeCommand(
                command=_words('--node-command', args.node_command),
                detections=dict(zip(names, topics, strict=True)),
                class_names=bundle.card.class_names,
            )
        else:
            node = our_node(drive, bundle, _as_parameters(settings))
        node = node.started_by(*_words('--launch-prefix', args.launch_prefix))
        yield ThroughRos(drive, node, args.out, args.domain, args.stamps)
        return
    placed = place_network(bundle, settings, print_event)
    if placed.why_cpu:
        print_warning(f'device: auto takes the CPU: {placed.why_cpu}')
    with ConeDetector(bundle.card, placed.engine) as detector:
        detector.warm_up()
        yield ThroughPipeline(drive, detector, settings.filters)


def _words(option: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise SettingsError(f'{option} is no command line, {error}: {text}') from error


class Replay:
    """One bag, one model: the passes, and what they come to."""

    def __init__(
        self,
        args: argparse.Namespace,
        drive: Drive,
        bundle: Bundle,
        settings: DetectorSettings,
        way: Way,
        reference: Answers | None,
    ) -> None:
        self._args = args
        self._drive = drive
        self._bundle = bundle
        self._settings = settings
        self._way = way
        self._reference = reference
        self._pace = pace_of(args)
        self._started = datetime.now(timezone.utc)
        self._host = describe_host()
        self._passes: list[Pass] = []
        self._figures = {'frames_sent': Figure(0), 'frames_answered': Figure(0)}
        self._per_pass: list[Mapping[str, Figure]] = []
        self._max_rate: MaxRate | None = None
        self._interrupted = False
        self._problems: list[str] = []

    def run(self) -> ReplayResult:
        """All passes; result.json is written after each, so that a kill loses one at most."""
        with_overhead = self._args.through == 'ros' and not self._args.no_overhead
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
        """Whether a process of a pass did not end as it should."""
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
            overhead = self._way.overhead(self._pace)
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
        result = self._result(finished)
        write_result(self._args.out / 'result.json', result)
        return result

    def _result(self, finished: bool) -> ReplayResult:
        drive, passes = self._drive, self._passes
        of_passes = (text for each in passes for text in each.problems)
        problems = list(dict.fromkeys((*drive.problems, *of_passes, *self._problems)))
        health = passes[-1].health if passes else {}
        return ReplayResult(
            configuration=self._configuration(),
            bag=describe_bag(drive),
            model=describe_model(self._bundle, health),
            host=self._host,
            figures=self._figures,
            per_pass=self._per_pass,
            passes=[each.frames for each in passes],
            load=[each.load for each in passes],
            truth=drive.truth,
            probes=self._max_rate.probes if self._max_rate else (),
            problems=problems,
            interrupted=self._interrupted or not finished,
            health=health,
        )

    def _measure(self) -> dict[str, Figure]:
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
            figures['max_rate_hz'] = Figure(self._max_rate.hz)
        return figures

    def _configuration(self) -> dict[str, Any]:
        return {
            'arguments': [
                str(self._drive.bag),
                *map(str, options_for_each(self._args, add_arguments)),
            ],
            'jobs': jobs_at_once(),
            'through': self._args.through,
            'pace': asdict(self._pace),
            'repeat': self._args.repeat,
            'cameras': [asdict(camera) for camera in self._drive.cameras],
            'settings': asdict(self._settings),
            'started': self._started.isoformat(timespec='seconds'),
        }


def _overhead_figures(echo: Pass) -> dict[str, Figure]:
    """What player, DDS and monitor cost: the latency of a node that does nothing."""
    echoed = {**pass_figures([echo]), **load_figures([echo])}
    return {
        f'overhead_{name}': echoed[name]
        for name in ('latency_p50_ms', 'latency_p99_ms', 'player_cpu_cores', 'monitor_cpu_cores')
        if name in echoed
    }


def pace_of(args: argparse.Namespace) -> Pace:
    """When the pictures are sent, as the options say."""
    if args.hz:
        return Pace('hz', hz=args.hz)
    if args.as_fast_as_possible:
        return Pace('fast', in_flight=args.in_flight)
    return Pace('bag', rate=args.rate)


def summary_line(result: ReplayResult) -> str:
    """The last line, to be read by programs."""
    figures = result.figures

    def number(name: str, digits: int) -> str:
        figure = figures.get(name)
        return 'nan' if figure is None else f'{figure.value:.{digits}f}'

    lost = ' '.join(
        f'{fate}={sum(frame.fate == fate for frames in result.passes for frame in frames)}'
        for fate in FATES[1:]
    )
    judged = ''
    if 'recall_sent' in figures:
        judged = (
            f'precision={number("precision_sent", 3)} recall={number("recall_sent", 3)} '
            f'map50={number("map50_sent", 3)} '
        )
    highest = f'max_rate_hz={number("max_rate_hz", 0)} ' if 'max_rate_hz' in figures else ''
    return (
        f'replay: frames={number("frames_sent", 0)} answered={number("frames_answered", 0)} {lost} '
        f'{judged}{highest}'
        f'p50_ms={number("latency_p50_ms", 1)} p99_ms={number("latency_p99_ms", 1)}'
    )


def read_settings(args: argparse.Namespace) -> DetectorSettings:
    """The detector's settings: of the file, and over them the options that were given."""
    values = read_params_file(args.params_file) if args.params_file else {}
    usual = {entry.name: entry.default for entry in fields(DetectorSettings)}
    given = {name: getattr(args, name) for name in SETTINGS}
    return DetectorSettings.from_mapping(
        values | {name: value for name, value in given.items() if value != usual[name]}
    )


def _as_parameters(settings: DetectorSettings) -> dict[str, str]:
    """What differs from the defaults, as ROS parameters; cameras and topics are the drive's."""
    by_drive = ('cameras', 'image_topics', 'transport', 'autostart', 'build_only')
    return {
        entry.name: json.dumps(value)
        for entry in fields(settings)
        if (value := getattr(settings, entry.name)) != entry.default and entry.name not in by_drive
    }


def answers_of_reference(args: argparse.Namespace, drive: Drive) -> Answers | None:
    """What the bundle of --reference finds in the same pictures; on the CPU, one by one."""
    if args.reference is None:
        return None
    bundle = read_bundle(args.reference)
    placed = place_network(bundle, DetectorSettings(), print_event)
    with ConeDetector(bundle.card, placed.engine) as detector:
        return reference_answers(drive, detector, Filters())


def _check_way(args: argparse.Namespace, settings: DetectorSettings) -> None:
    """Raise SettingsError or InstallError for what cannot be done."""
    if settings.side_by_side:
        raise SettingsError(
            'side_by_side: a replay follows one camera per topic. Split the pictures, or replay '
            'another bag.'
        )
    if args.through == 'ros':
        if importlib.util.find_spec('rclpy') is None:
            raise InstallError(
                'rclpy is not installed, so nothing can be sent through ROS. Source ROS 2, or '
                "pip install 'cone_perception[ros]'; --through pipeline needs none."
            )
    elif args.node_command or args.launch_prefix or args.stamps == 'recorded':
        raise SettingsError(
            '--node-command, --launch-prefix and --stamps recorded belong to --through ros'
        )
    _words('--node-command', args.node_command or '')
    _words('--launch-prefix', args.launch_prefix)
    if bool(args.node_command) != bool(args.detections):
        raise SettingsError('--node-command and --detections belong together')
