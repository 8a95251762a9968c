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

import math
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from output import benchmark_parser, write_result
from replay_tables import ACCURACY, FAST, ONE_CORE, ONE_CORE_HZ, draw, print_tables

from cone_perception.accuracy.intervals import Float64
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

OURS, STRAIGHT = 'ours', 'straight'
PEER_READY = 'active: listening'
"""Line that peer_node.py logs when it is warm and subscribed."""

SETTLED_NS = 10**9
"""After the first picture. What no program has touched for a second answers slowly, on a virtual
machine several times so, and the nodes have waited for the player."""

OWN = (OURS, ONE_CORE)
COMPARED = (
    ('rate_out_hz', FAST, 'throughput (Hz)'),
    *(
        row
        for pace in ('15 Hz', '30 Hz', '60 Hz')
        for row in (
            ('latency_p50_ms', pace, f'p50 latency at {pace} (ms)'),
            ('latency_p99_ms', pace, f'p99 latency at {pace} (ms)'),
            ('settled_latency_p99_ms', pace, 'the same after the first second (ms)'),
            ('answered_share', pace, f'answered at {pace}'),
        )
    ),
    ('node_memory_peak_mb', FAST, 'memory (MB)'),
    ('node_cpu_cores', '15 Hz', 'cores busy at 15 Hz'),
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
    parser = benchmark_parser(__doc__)
    parser.add_argument('--bag', type=Path, nargs='+', required=True, help='of one camera each')
    parser.add_argument('--bundle', type=Path, required=True)
    parser.add_argument('--weights', type=Path, required=True, help='.pt that the bundle is from')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument(
        '--faster-hz', type=float, default=120.0, help='a rate that our engine does not reach'
    )
    parser.add_argument('--node', action='append', default=[], metavar='NAME=COMMAND')
    parser.add_argument('--plots', type=Path, help='folder for charts (PNG)')
    args = parser.parse_args(argv)
    bundle = read_bundle(args.bundle)
    contenders = [
        Contender(OURS, lambda drive: our_node(drive, bundle, {'device': 'cpu'})),
        Contender(STRAIGHT, lambda drive: straight_node(drive, bundle, args.weights)),
        *(Contender(*_named(text, bundle)) for text in args.node),
    ]
    load_before = os.getloadavg()[0]
    drives = []
    for bag in args.bag:
        drive = open_drive(bag, class_names=bundle.card.class_names)
        measured = measure(drive, contenders, args.rounds, args.faster_hz)
        drives.append(summarise(measured, bundle.card, f'{args.faster_hz:g} Hz'))
    result = {
        'rounds': args.rounds,
        'load_before': load_before,
        'host': describe_host(),
        'bundle': bundle.card.name,
        'drives': drives,
    }
    print_tables(result)
    write_result(args.json, result)
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
        f'{name}, {pace}': [figures_of([seen], measured.drive, card) for seen in passes]
        for (name, pace), passes in measured.passes.items()
    }
    together = {
        f'{name}, {pace}': figures_of(passes, measured.drive, card)
        for (name, pace), passes in measured.passes.items()
    }
    others = [name for name in dict.fromkeys(n for n, _ in measured.passes) if name not in OWN]
    ratios = []
    for name in others:
        for figure, pace, title in COMPARED:
            keys = f'{OURS}, {pace}', f'{name}, {pace}'
            ours, theirs = (
                np.array([of_round.get(figure, np.nan) for of_round in per_round[key]])
                for key in keys
            )
            of_rounds = np.divide(ours, theirs, out=np.full_like(ours, np.nan), where=theirs != 0)
            all_ours, all_theirs = (together[key].get(figure, math.nan) for key in keys)
            ratios.append(
                {
                    'what': title,
                    'ours': median(ours),
                    'other': name,
                    'theirs': median(theirs),
                    'ratio': median(of_rounds),
                    'ratio_of_all_frames': all_ours / all_theirs,
                    'ratios': of_rounds.tolist(),
                }
            )
    return {
        'bag': describe_bag(measured.drive),
        'ratios': ratios,
        'accuracy': [
            accuracy_beside(measured, name, card)
            for name in others
            if measured.drive.truth is not None
        ],
        'figures': together,
        'per_round': per_round,
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
    truth = measured.drive.truth
    assert truth is not None
    kept: tuple[list[Pass], list[Pass]] = ([], [])
    both = (measured.passes[OURS, FAST], measured.passes[name, FAST])
    for of_round in zip(*both, strict=True):
        answered = [{f.stamp_ns for f in p.frames if f.fate == 'answered'} for p in of_round]
        common = set.intersection(*answered)
        for seen, passes in zip(of_round, kept, strict=True):
            frames = [frame for frame in seen.frames if frame.stamp_ns in common]
            passes.append(replace(seen, frames=frames))
    ours, theirs = (
        accuracy_figures(_equal(passes, card), truth, card.class_names, card.thresholds)
        for passes in kept
    )
    return {
        'other': name,
        'pictures': sum(len(seen.frames) for seen in kept[0]),
        'ours': {what: asdict(ours[what]) for what in ACCURACY},
        'theirs': {what: asdict(theirs[what]) for what in ACCURACY},
    }


def _equal(passes: Sequence[Pass], card: ModelCard) -> list[Pass]:
    """Keep the cones that reach the card's thresholds: a peer with one for all publishes more."""
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
    rows = []
    for seen in passes:
        answered = sorted(
            (frame for frame in seen.frames if frame.published_ns is not None),
            key=lambda frame: frame.published_ns or 0,
        )
        stations = [dict(frame.stations_ms()) for frame in answered]
        for frame, of, before in zip(answered[1:], stations[1:], stations, strict=False):
            if frame is not seen.frames[-1]:
                age_ms = ((frame.published_ns or 0) - frame.sent_ns) / 1e6
                run_ms = of['inference']
                bound_ms = of['transport_in'] + before['inference'] + run_ms
                rows.append((age_ms, bound_ms, of['wait'], run_ms))
    age, bound, wait, run = np.array(rows, np.float64).reshape(-1, 4).T
    return {
        'frames': len(rows),
        **{
            f'{name}_p{percent}_ms': float(np.percentile(values, percent))
            for name, values in (('age', age), ('inference', run), ('wait', wait))
            for percent in (50, 99)
        },
        'older_than_bound': float((age > bound).sum()),
        'p99_of_age_over_bound': float(np.percentile(age / bound, 99)),
    }


def median(values: Float64) -> float:
    """Median of the known values; NaN without one."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else math.nan


if __name__ == '__main__':
    sys.exit(main())
