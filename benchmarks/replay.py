r"""Our node beside one that is written the straight way, on the same drives, through DDS.

    python benchmarks/replay.py --bag BAG... --bundle BUNDLE --weights best.pt --json replay.json

Every pass starts player, node and monitor anew (`cone-perception replay`'s own processes). Rounds
are interleaved, and each begins with another node, so that what else the machine does falls on all
alike: a ratio is the median over the rounds of both figures of one round. The nodes:

ours          cone-perception node with BUNDLE, on the CPU
one core      the same, pinned to one core: for its own cost
straight      benchmarks/peer_node.py with the weights, in FP32
others        --node NAME=COMMAND: any node that answers the pictures of {image} with
              vision_msgs/Detection2DArray on {detections}

Prints Markdown tables. Needs the extras cpu, train and replay, and ROS 2.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.engines.machine import describe_host
from cone_perception.model_card import Bundle, ModelCard, read_bundle
from cone_perception.replay.describe import describe_bag
from cone_perception.replay.drive.open import open_drive
from cone_perception.replay.figures.accuracy import accuracy_figures
from cone_perception.replay.figures.statistics import pass_figures
from cone_perception.replay.figures.usage import load_figures
from cone_perception.replay.processes import NodeCommand, our_node
from cone_perception.replay.through_ros import play_through_ros
from cone_perception.replay.traces import Drive, FrameTrace, Pace, Pass

OURS, ONE_CORE, STRAIGHT = 'ours', 'one core', 'straight'
PEER_READY = 'active: listening'
"""What peer_node.py logs when it is warm and subscribed."""

FAST = 'as fast as possible'
ONE_CORE_HZ = 10.0
"""Slow enough for one core: what is measured is the cost, not a queue."""

SETTLED_NS = 10**9
"""After the first picture. What no program has touched for a second answers slowly, on a virtual
machine several times so, and the nodes have waited for the player."""

OWN_STATIONS = ('wait', 'preprocess', 'decode', 'publish')
ACCURACY = ('precision_answered', 'recall_answered', 'map50_answered')

COMPARED = (
    ('rate_out_hz', FAST, 'throughput (Hz)'),
    ('latency_p50_ms', '15 Hz', 'p50 latency at 15 Hz (ms)'),
    ('latency_p99_ms', '15 Hz', 'p99 latency at 15 Hz (ms)'),
    ('settled_latency_p99_ms', '15 Hz', 'the same after the first second (ms)'),
    ('latency_p50_ms', '30 Hz', 'p50 latency at 30 Hz (ms)'),
    ('latency_p99_ms', '30 Hz', 'p99 latency at 30 Hz (ms)'),
    ('settled_latency_p99_ms', '30 Hz', 'the same after the first second (ms)'),
    ('latency_p50_ms', '60 Hz', 'p50 latency at 60 Hz (ms)'),
    ('latency_p99_ms', '60 Hz', 'p99 latency at 60 Hz (ms)'),
    ('settled_latency_p99_ms', '60 Hz', 'the same after the first second (ms)'),
    ('node_memory_peak_mb', FAST, 'memory (MB)'),
    ('node_cpu_cores', '15 Hz', 'cores busy at 15 Hz'),
    ('answered_share', '15 Hz', 'answered at 15 Hz'),
    ('answered_share', '30 Hz', 'answered at 30 Hz'),
    ('answered_share', '60 Hz', 'answered at 60 Hz'),
)


@dataclass(frozen=True, slots=True)
class Contender:
    """A node to be measured. command_for: of a drive."""

    name: str
    command_for: Callable[[Drive], NodeCommand]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Everything that was seen on one drive. passes: (contender, pace) -> one for each round."""

    drive: Drive
    passes: Mapping[tuple[str, str], Sequence[Pass]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--bag', type=Path, nargs='+', required=True, help='of one camera each')
    parser.add_argument('--bundle', type=Path, required=True)
    parser.add_argument('--weights', type=Path, required=True, help='.pt that the bundle is from')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument(
        '--faster-hz', type=float, default=120.0, help='a rate that our engine does not reach'
    )
    parser.add_argument('--node', action='append', default=[], metavar='NAME=COMMAND')
    parser.add_argument('--json', type=Path)
    parser.add_argument('--plots', type=Path, help='folder for charts (PNG)')
    args = parser.parse_args(argv)
    bundle = read_bundle(args.bundle)
    contenders = [
        Contender(OURS, lambda drive: our_node(drive, bundle, {'device': 'cpu'})),
        Contender(STRAIGHT, lambda drive: straight_node(drive, bundle, args.weights)),
        *(Contender(*_named(text, bundle)) for text in args.node),
    ]
    load_before = os.getloadavg()[0]
    measured = [
        measure(
            open_drive(bag, class_names=bundle.card.class_names),
            contenders,
            args.rounds,
            args.faster_hz,
        )
        for bag in args.bag
    ]
    result = {
        'command': shlex.join(['python', *sys.argv]),
        'rounds': args.rounds,
        'load_before': load_before,
        'host': describe_host(),
        'bundle': bundle.card.name,
        'drives': [summarise(each, bundle.card, f'{args.faster_hz:g} Hz') for each in measured],
    }
    print_tables(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    if args.plots:
        draw(args.plots, result)
    return 0


def straight_node(drive: Drive, bundle: Bundle, weights: Path) -> NodeCommand:
    """The peer, with the lowest threshold of the card: it has one for all classes."""
    (camera,) = drive.cameras
    card = bundle.card
    options = {
        'weights': weights.resolve(),
        'image-topic': camera.topic,
        'detections': f'/{camera.name}/detections',
        'imgsz': max(card.height_px, card.width_px),
        'confidence': min(card.thresholds.values()),
        'iou': card.nms_iou,
    }
    script = Path(__file__).with_name('peer_node.py')
    given = [part for name, value in options.items() for part in (f'--{name}', str(value))]
    node = _foreign_node(drive, bundle, (sys.executable, str(script), *given))
    return replace(node, ready=PEER_READY)


def _named(text: str, bundle: Bundle) -> tuple[str, Callable[[Drive], NodeCommand]]:
    name, _, command = text.partition('=')

    def command_for(drive: Drive) -> NodeCommand:
        (camera,) = drive.cameras
        filled = command.format(image=camera.topic, detections=f'/{camera.name}/detections')
        return _foreign_node(drive, bundle, tuple(shlex.split(filled)))

    return name, command_for


def _foreign_node(drive: Drive, bundle: Bundle, command: tuple[str, ...]) -> NodeCommand:
    (camera,) = drive.cameras
    return NodeCommand(
        command=command,
        detections={camera.name: f'/{camera.name}/detections'},
        class_names=bundle.card.class_names,
    )


def measure(
    drive: Drive, contenders: Sequence[Contender], rounds: int, faster_hz: float
) -> Measured:
    """All passes over one drive."""
    paces = {FAST: Pace('fast')}
    paces |= {f'{hz} Hz': Pace('hz', hz=hz) for hz in (15, 30, 60)}
    ours = contenders[0].command_for(drive)
    pinned = ours.started_by('taskset', '-c', '0')
    passes: dict[tuple[str, str], list[Pass]] = {}

    def play(name: str, node: NodeCommand, pace_name: str, pace: Pace) -> None:
        print(f'{drive.bag.name}: {name}, {pace_name}', file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix='cone_benchmark_') as folder:
            seen = play_through_ros(drive, pace, node, Path(folder))
        if seen.interrupted:
            raise KeyboardInterrupt
        passes.setdefault((name, pace_name), []).append(seen)

    for number in range(rounds):
        shift = number % len(contenders)
        for pace_name, pace in paces.items():
            for contender in (*contenders[shift:], *contenders[:shift]):
                play(contender.name, contender.command_for(drive), pace_name, pace)
        play(OURS, ours, f'{faster_hz:g} Hz', Pace('hz', hz=faster_hz))
        play(ONE_CORE, pinned, f'{ONE_CORE_HZ:g} Hz', Pace('hz', hz=ONE_CORE_HZ))
    return Measured(drive, passes)


def summarise(measured: Measured, card: ModelCard, faster: str) -> dict[str, Any]:
    """Figures of one drive: of each contender and pace, and the ratios."""
    per_round = {
        key: [figures_of([seen], measured.drive, card) for seen in passes]
        for key, passes in measured.passes.items()
    }
    together = {
        key: figures_of(passes, measured.drive, card) for key, passes in measured.passes.items()
    }
    names = list(dict.fromkeys(name for name, _ in measured.passes))
    ratios = [
        {
            'what': title,
            'ours': median(_each(per_round[OURS, pace], figure)),
            'other': name,
            'theirs': median(_each(per_round[name, pace], figure)),
            'ratio': median(
                ours / theirs if theirs else math.nan
                for ours, theirs in zip(
                    _each(per_round[OURS, pace], figure),
                    _each(per_round[name, pace], figure),
                    strict=True,
                )
            ),
            'ratio_of_all_frames': together[OURS, pace][figure] / together[name, pace][figure],
            'ratios': [
                ours / theirs if theirs else math.nan
                for ours, theirs in zip(
                    _each(per_round[OURS, pace], figure),
                    _each(per_round[name, pace], figure),
                    strict=True,
                )
            ],
        }
        for name in names
        if name not in (OURS, ONE_CORE)
        for figure, pace, title in COMPARED
    ]
    return {
        'bag': describe_bag(measured.drive),
        'ratios': ratios,
        'accuracy': [
            accuracy_beside(measured, name, card)
            for name in names
            if name not in (OURS, ONE_CORE) and measured.drive.truth is not None
        ],
        'figures': {f'{name}, {pace}': values for (name, pace), values in together.items()},
        'per_round': {f'{name}, {pace}': values for (name, pace), values in per_round.items()},
        'age_when_faster': age_when_faster(measured.passes[OURS, faster]),
        'faster': faster,
    }


def figures_of(passes: Sequence[Pass], drive: Drive, card: ModelCard) -> dict[str, float]:
    """Name -> value of everything that `replay` knows of these passes."""
    figures = {**pass_figures(passes), **load_figures(passes)}
    settled = [_settled(seen) for seen in passes]
    if all(seen.frames for seen in settled):
        figures['settled_latency_p99_ms'] = pass_figures(settled)['latency_p99_ms']
    if drive.truth is not None:
        figures |= accuracy_figures(
            _equal(passes, card), drive.truth, card.class_names, card.thresholds
        )
    return {name: figure.value for name, figure in figures.items()}


def _settled(seen: Pass) -> Pass:
    """Without the pictures of the first second."""
    from_ns = seen.frames[0].sent_ns + SETTLED_NS
    return replace(seen, frames=[frame for frame in seen.frames if frame.sent_ns >= from_ns])


def accuracy_beside(measured: Measured, name: str, card: ModelCard) -> dict[str, Any]:
    """Accuracy of ours and of another, on the pictures of FAST that both answered."""
    ours, theirs = measured.passes[OURS, FAST], measured.passes[name, FAST]
    truth = measured.drive.truth
    assert truth is not None
    both: tuple[list[Pass], list[Pass]] = ([], [])
    for of_round in zip(ours, theirs, strict=True):
        answered = [
            {frame.stamp_ns for frame in seen.frames if frame.fate == 'answered'}
            for seen in of_round
        ]
        common = answered[0] & answered[1]
        for seen, kept in zip(of_round, both, strict=True):
            frames = [frame for frame in seen.frames if frame.stamp_ns in common]
            kept.append(replace(seen, frames=frames))
    figures = [
        accuracy_figures(_equal(kept, card), truth, card.class_names, card.thresholds)
        for kept in both
    ]
    return {
        'other': name,
        'pictures': sum(len(seen.frames) for seen in both[0]),
        'ours': {what: asdict(figures[0][what]) for what in ACCURACY},
        'theirs': {what: asdict(figures[1][what]) for what in ACCURACY},
    }


def _equal(passes: Sequence[Pass], card: ModelCard) -> list[Pass]:
    """What reaches the thresholds of the card: a peer with one for all publishes more."""
    return [replace(seen, frames=[_above(frame, card) for frame in seen.frames]) for seen in passes]


def _above(frame: FrameTrace, card: ModelCard) -> FrameTrace:
    """The frame with those cones only that reach the card's thresholds."""
    if frame.found is None:
        return frame
    least = np.array([card.thresholds[name] for name in card.class_names], np.float32)
    return replace(frame, found=frame.found[frame.found.score >= least[frame.found.class_id]])


def age_when_faster(passes: Sequence[Pass]) -> dict[str, float]:
    """Age of what is published while pictures come faster than the engine runs.

    bound: the picture's transport, plus two runs of the network: the one before it, which it may
    have to wait for, and its own. The last picture is left out: no newer one follows it.
    """
    ages: list[float] = []
    bounds: list[float] = []
    waits: list[float] = []
    runs: list[float] = []
    for seen in passes:
        before_ms = math.nan
        answered = sorted(
            (frame for frame in seen.frames if frame.published_ns is not None),
            key=lambda frame: frame.published_ns or 0,
        )
        for frame in answered:
            stations = dict(frame.stations_ms())
            run_ms = stations['inference']
            if not math.isnan(before_ms) and frame is not seen.frames[-1]:
                ages.append(((frame.published_ns or 0) - frame.sent_ns) / 1e6)
                bounds.append(stations['transport_in'] + before_ms + run_ms)
                waits.append(stations['wait'])
                runs.append(run_ms)
            before_ms = run_ms
    age, bound = np.array(ages), np.array(bounds)
    return {
        'frames': len(ages),
        'age_p50_ms': float(np.median(age)),
        'age_p99_ms': float(np.percentile(age, 99)),
        'inference_p50_ms': float(np.median(runs)),
        'inference_p99_ms': float(np.percentile(runs, 99)),
        'wait_p50_ms': float(np.median(waits)),
        'wait_p99_ms': float(np.percentile(waits, 99)),
        'older_than_bound': float((age > bound).sum()),
        'p99_of_age_over_bound': float(np.percentile(age / bound, 99)),
    }


def median(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def _each(rounds: Sequence[Mapping[str, float]], figure: str) -> list[float]:
    return [figures.get(figure, math.nan) for figures in rounds]


def print_tables(result: Mapping[str, Any]) -> None:
    for drive in result['drives']:
        bag, figures = drive['bag'], drive['figures']
        print(f'\n## {Path(str(bag["path"])).name}, {result["rounds"]} rounds\n')
        _print_table(
            ('', 'ours', 'other', '', 'ours / other', 'in the rounds', 'of all pictures'),
            [
                (
                    each['what'],
                    f'{each["ours"]:.4g}',
                    f'{each["theirs"]:.4g}',
                    each['other'],
                    f'{each["ratio"]:.2f}',
                    f'{min(each["ratios"]):.2f} to {max(each["ratios"]):.2f}',
                    f'{each["ratio_of_all_frames"]:.2f}',
                )
                for each in drive['ratios']
            ],
        )
        print('\nWhat became of the pictures, all rounds:\n')
        fates = ('answered', 'transport', 'dropped', 'failed', 'return', 'unknown')
        _print_table(
            ('', 'sent', *(f'{fate} %' for fate in fates)),
            [
                (name, f'{of["frames_sent"]:.0f}', *(f'{of[f"{f}_share"]:.2%}' for f in fates))
                for name, of in figures.items()
            ],
        )
        print('\nOwn cost, ms, p50 and p99 (everything from receipt to publishing but the run):\n')
        _print_table(
            ('', 'own cost', *OWN_STATIONS, 'inference', 'transport in'),
            [
                (
                    name,
                    _both(of, 'own_cost'),
                    *(
                        _both(of, f'station_{station}')
                        for station in (*OWN_STATIONS, 'inference', 'transport_in')
                    ),
                )
                for name, of in figures.items()
                if 'own_cost_p50_ms' in of
            ],
        )
        for each in drive['accuracy']:
            print(f'\nAccuracy on the {each["pictures"]} pictures that both answered:\n')
            _print_table(
                ('at the thresholds of the card', 'ours', each['other'], 'difference'),
                [
                    (
                        what.removesuffix('_answered'),
                        _with_interval(each['ours'][what]),
                        _with_interval(each['theirs'][what]),
                        f'{each["ours"][what]["value"] - each["theirs"][what]["value"]:+.4f}',
                    )
                    for what in ACCURACY
                ],
            )
        age = drive['age_when_faster']
        print(
            f'\nInput at {drive["faster"]}: age at publishing p50 {age["age_p50_ms"]:.1f} ms, p99 '
            f'{age["age_p99_ms"]:.1f} ms; the run of the network p50 '
            f'{age["inference_p50_ms"]:.1f} ms, p99 {age["inference_p99_ms"]:.1f} ms; '
            f'{age["older_than_bound"]:.0f} of {age["frames"]} answers are older than two runs '
            f'and their transport; the 99th percentile of age over that is '
            f'{age["p99_of_age_over_bound"]:.2f}.'
        )


def _both(figures: Mapping[str, float], name: str) -> str:
    return f'{figures[f"{name}_p50_ms"]:.2f}, {figures[f"{name}_p99_ms"]:.2f}'


def _with_interval(figure: Mapping[str, float]) -> str:
    return f'{figure["value"]:.4f} ({figure["low"]:.4f} to {figure["high"]:.4f})'


def _print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for row in (head, ['---'] * len(head), *rows):
        print(f'| {" | ".join(row)} |')


def draw(folder: Path, result: Mapping[str, Any]) -> None:
    """Charts of the figures; no picture of a camera is in them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    panels = (
        ('rate_out_hz', (FAST,), 'answers per second, as fast as possible'),
        ('latency_p50_ms', ('15 Hz', '30 Hz'), 'latency p50 (ms)'),
        ('latency_p99_ms', ('15 Hz', '30 Hz'), 'latency p99 (ms)'),
        ('node_memory_peak_mb', (FAST,), 'memory (MB)'),
    )
    for drive in result['drives']:
        name = Path(str(drive['bag']['path'])).name
        figures = drive['figures']
        nodes = list(dict.fromkeys(key.rpartition(', ')[0] for key in figures))
        nodes.remove(ONE_CORE)
        page = Figure(figsize=(12, 3.4), layout='constrained')
        FigureCanvasAgg(page)
        for axes, (figure, paces, title) in zip(page.subplots(1, len(panels)), panels, strict=True):
            labels = [
                f'{node}\n{pace}' if len(paces) > 1 else node for pace in paces for node in nodes
            ]
            values = [figures[f'{node}, {pace}'][figure] for pace in paces for node in nodes]
            colours = [f'C{index}' for _ in paces for index in range(len(nodes))]
            bars = axes.bar(range(len(values)), values, color=colours)
            axes.bar_label(bars, fmt='%.4g', fontsize=8)
            axes.set_xticks(range(len(values)), labels, fontsize=7)
            axes.set_title(title, fontsize=9)
            axes.spines[['top', 'right']].set_visible(False)
        page.suptitle(f'{name}: {result["rounds"]} interleaved rounds', fontsize=10)
        page.savefig(folder / f'{name}.png', dpi=110)
    page = Figure(figsize=(8, 2.6), layout='constrained')
    FigureCanvasAgg(page)
    axes = page.subplots()
    for row, drive in enumerate(result['drives']):
        of = drive['figures'][f'{ONE_CORE}, {ONE_CORE_HZ:g} Hz']
        left = 0.0
        for index, station in enumerate(OWN_STATIONS):
            value = of[f'station_{station}_p50_ms']
            axes.barh(row, value, left=left, color=f'C{index}', label=None if row else station)
            left += value
    axes.set_yticks(
        range(len(result['drives'])),
        [Path(str(drive['bag']['path'])).name for drive in result['drives']],
    )
    axes.set_xlabel('own cost on one core, medians of the stations (ms); 8 ms are allowed')
    page.legend(ncols=len(OWN_STATIONS), fontsize=8, loc='outside upper center')
    page.savefig(folder / 'own_cost.png', dpi=110)


if __name__ == '__main__':
    sys.exit(main())
