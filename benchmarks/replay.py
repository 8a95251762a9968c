r"""Our node beside one that is written the straight way, on the same drives, through DDS.

    python benchmarks/replay.py --bag BAG... --bundle BUNDLE --weights best.pt --json replay.json

Every pass starts player, node and monitor anew (`cone-perception replay`'s own processes). Rounds
are interleaved, and each begins with another node, so that what else the machine does falls on all
alike: a ratio is the median over the rounds of both figures of one round. The nodes:

ours          cone-perception node with BUNDLE, on the CPU, whole pictures
ours+horizon  the same with `views: whole+horizon`
one core      ours, pinned to one core: for its own cost
straight      benchmarks/peer_node.py with the weights, in FP32
straight x2   the same at twice the size, 736x1280 for 720p; only as fast as possible
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
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from output import add_isa, benchmark_parser, limit_instructions, print_table, write_result

from cone_perception.accuracy.intervals import Float64, Interval
from cone_perception.engines.machine import describe_host
from cone_perception.model_card import Bundle, ModelCard, read_bundle
from cone_perception.replay.drive.open import open_drive
from cone_perception.replay.figures.accuracy import accuracy_figures
from cone_perception.replay.figures.statistics import pass_figures
from cone_perception.replay.figures.usage import load_figures
from cone_perception.replay.processes import NodeCommand, our_node
from cone_perception.replay.run import describe_bag
from cone_perception.replay.through_ros import play_through_ros
from cone_perception.replay.to_label.findings import published
from cone_perception.replay.traces import Drive, Pace, Pass

OURS, FAR, ONE_CORE = 'ours', 'ours+horizon', 'one core'
STRAIGHT, LARGE = 'straight', 'straight x2'
FAST = 'as fast as possible'

SETTLED_NS = 10**9
"""After the first picture. What no program has touched for a second answers slowly, on a virtual
machine several times so, and the nodes have waited for the player."""

ACCURACY = ('precision_answered', 'recall_answered', 'map50_answered')
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

NodeFor = Callable[[Drive], NodeCommand]
Passes = Mapping[tuple[str, str], Sequence[Pass]]
"""(node, pace) -> a pass for each round."""


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
    add_isa(parser)
    args = parser.parse_args(argv)
    limits = limit_instructions(args.isa)
    bundle = read_bundle(args.bundle)
    nodes: dict[str, NodeFor] = {
        name: partial(our_node, bundle=bundle, settings={'device': 'cpu', 'views': views})
        for name, views in ((OURS, 'whole'), (FAR, 'whole+horizon'))
    } | {
        name: partial(straight_node, bundle=bundle, weights=args.weights, times=times)
        for name, times in ((STRAIGHT, 1), (LARGE, 2))
    }
    for text in args.node:
        name, _, command = text.partition('=')
        nodes[name] = partial(foreign_node, bundle=bundle, command=command)
    load_before = os.getloadavg()[0]
    drives = []
    for bag in args.bag:
        drive = open_drive(bag, class_names=bundle.card.class_names)
        passes = measure(drive, nodes, args.rounds, args.faster_hz)
        drives.append(summarise(drive, passes, bundle.card, f'{args.faster_hz:g} Hz'))
    for of_drive in drives:
        print_tables(of_drive, f'{args.rounds} rounds{f", {args.isa} only" * bool(args.isa)}')
    told = {'rounds': args.rounds, 'load_before': load_before, 'host': describe_host()}
    told['instructions_limited_by'] = limits
    write_result(args.json, told | {'bundle': bundle.card.name, 'drives': drives})
    return 0


def foreign_node(drive: Drive, bundle: Bundle, command: str) -> NodeCommand:
    """Any node. command: a shell's words, in which {image} and {detections} become topics."""
    (camera,) = drive.cameras
    answers = f'/{camera.name}/detections'
    words = shlex.split(command.format(image=camera.topic, detections=answers))
    return NodeCommand(tuple(words), {camera.name: answers}, bundle.card.class_names)


def straight_node(drive: Drive, bundle: Bundle, weights: Path, times: int) -> NodeCommand:
    """The peer, with the lowest threshold of the card: it has one for all classes.

    times: so many times the size of our network.
    """
    card = bundle.card
    paths = map(str, (sys.executable, Path(__file__).with_name('peer_node.py')))
    command = (
        f'{shlex.join(paths)} --weights {shlex.quote(str(weights.resolve()))} '
        f'--imgsz {times * max(card.height_px, card.width_px)} --iou {card.nms_iou} '
        f'--confidence {min(card.thresholds.values())} '
        '--image-topic {image} --detections {detections}'
    )
    # What it logs when it is warm and subscribed.
    return replace(foreign_node(drive, bundle, command), ready='active: listening')


def measure(drive: Drive, nodes: Mapping[str, NodeFor], rounds: int, faster_hz: float) -> Passes:
    """All passes over one drive."""
    paces = {FAST: Pace('fast')} | {f'{hz} Hz': Pace('hz', hz=hz) for hz in (15, 30, 60)}
    ours = nodes[OURS](drive)
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
        for pace_name, pace in paces.items():
            for name in np.roll([*nodes], -number).tolist():
                if name != LARGE or pace_name == FAST:
                    play(name, nodes[name](drive), pace_name, pace)
        play(OURS, ours, f'{faster_hz:g} Hz', Pace('hz', hz=faster_hz))
        # Slow enough for one core: what is measured is the cost, not a queue.
        play(ONE_CORE, pinned, '10 Hz', Pace('hz', hz=10.0))
    return passes


def summarise(drive: Drive, passes: Passes, card: ModelCard, faster: str) -> dict[str, Any]:
    """Figures of one drive: of each node and pace, and the ratios."""
    named = {f'{name}, {pace}': seen for (name, pace), seen in passes.items()}
    per_round = {key: [figures_of([one], drive) for one in seen] for key, seen in named.items()}
    together = {key: figures_of(seen, drive) for key, seen in named.items()}
    names = [name for name in dict.fromkeys(n for n, _ in passes) if name != ONE_CORE]
    others = [name for name in names if name not in (OURS, FAR, LARGE)]
    ratios = []
    for mine, name in product((OURS, FAR), others):
        for figure, pace, title in COMPARED:
            keys = f'{mine}, {pace}', f'{name}, {pace}'
            ours, theirs = (
                np.array([of_round.get(figure, np.nan) for of_round in per_round[key]])
                for key in keys
            )
            of_rounds = np.divide(ours, theirs, out=np.full_like(ours, np.nan), where=theirs != 0)
            all_ours, all_theirs = (together[key].get(figure, math.nan) for key in keys)
            ratios.append(
                {
                    'what': title,
                    'node': mine,
                    'ours': median(ours),
                    'other': name,
                    'theirs': median(theirs),
                    'ratio': median(of_rounds),
                    'ratio_of_all_frames': all_ours / all_theirs,
                    'ratios': of_rounds.tolist(),
                }
            )
    return {
        'bag': describe_bag(drive),
        'ratios': ratios,
        'beside': beside(drive, passes, names, card, together),
        'figures': together,
        'per_round': per_round,
        'age_when_faster': age_when_faster(passes[OURS, faster]),
        'faster': faster,
    }


def figures_of(passes: Sequence[Pass], drive: Drive) -> dict[str, float]:
    """Name -> value of everything that `replay` knows of these passes."""
    figures = {**pass_figures(passes), **load_figures(passes)}
    settled = []
    for seen in passes:
        from_ns = seen.frames[0].sent_ns + SETTLED_NS
        settled.append(replace(seen, frames=[f for f in seen.frames if f.sent_ns >= from_ns]))
    if all(seen.frames for seen in settled):
        figures['settled_latency_p99_ms'] = pass_figures(settled)['latency_p99_ms']
    return {name: figure.value for name, figure in figures.items()}


def beside(
    drive: Drive,
    passes: Passes,
    names: Sequence[str],
    card: ModelCard,
    figures: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """What one gets of each node, and for what.

    right, wrong: cones per picture and boxes that are none, of the pictures of FAST that all nodes
    answered; recall and precision as rows with intervals. Only where the truth is known.
    """
    kept: dict[str, list[Pass]] = {name: [] for name in names}
    for of_round in zip(*(passes[name, FAST] for name in names), strict=True):
        answered = [{f.stamp_ns for f in p.frames if f.fate == 'answered'} for p in of_round]
        common = set.intersection(*answered)
        for name, seen in zip(names, of_round, strict=True):
            frames = [frame for frame in seen.frames if frame.stamp_ns in common]
            kept[name].append(replace(seen, frames=frames))
    rows: dict[str, Any] = {}
    for name in names:
        fast, slow = figures[f'{name}, {FAST}'], figures.get(f'{name}, 15 Hz', {})
        rows[name] = {
            'ms_per_picture': 1e3 / fast['rate_out_hz'],
            'latency_p50_15hz_ms': slow.get('latency_p50_ms', math.nan),
            'memory_mb': fast['node_memory_peak_mb'],
        }
        if drive.truth is not None:
            seen = kept[name] if name in (OURS, FAR) else cut_to_card(kept[name], card)
            everything = dict.fromkeys(card.class_names, 0.0)
            of_node = accuracy_figures(seen, drive.truth, card.class_names, everything)
            precision, recall, _ = accuracy = [of_node[what] for what in ACCURACY]
            counts = [len(drive.truth[f.camera, f.stamp_ns]) for one in seen for f in one.frames]
            right = recall.value * float(np.mean(counts))
            rows[name] |= {'right': right, 'wrong': right / precision.value - right}
            rows[name] |= {what: asdict(a) for what, a in zip(ACCURACY, accuracy, strict=True)}
    return {'pictures': sum(len(seen.frames) for seen in kept[OURS]), 'nodes': rows}


def cut_to_card(passes: Sequence[Pass], card: ModelCard) -> list[Pass]:
    """The passes without boxes below their class's threshold: a peer has one for all classes."""
    least = np.array([card.thresholds[name] for name in card.class_names], np.float32)
    return [
        replace(seen, frames=[published(frame, least) for frame in seen.frames]) for seen in passes
    ]


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


def print_tables(drive: Mapping[str, Any], conditions: str) -> None:
    """Print every table of docs/results/replay.md for one drive."""
    figures = drive['figures']
    print(f'\n## {Path(str(drive["bag"]["path"])).name}, {conditions}')
    nodes = drive['beside']['nodes']
    of_straight = nodes[STRAIGHT].get('right', math.nan)
    accuracy = (what.removesuffix('_answered') for what in ACCURACY)
    print_table(
        ('', 'ms per picture', 'p50 at 15 Hz', 'MB', 'right', '/ straight', 'wrong', *accuracy),
        (
            (
                name,
                *(f'{of[key]:.1f}' for key in ('ms_per_picture', 'latency_p50_15hz_ms')),
                f'{of["memory_mb"]:.0f}',
                f'{of.get("right", math.nan):.2f}',
                f'{of.get("right", math.nan) / of_straight:.2f}',
                f'{of.get("wrong", math.nan):.2f}',
                *(str(Interval(**of[what])) if what in of else '' for what in ACCURACY),
            )
            for name, of in nodes.items()
        ),
        f'Right and wrong cones per picture, of the {drive["beside"]["pictures"]} that all '
        'answered as fast as possible, at the thresholds of the card:',
    )
    for mine in (OURS, FAR):
        print_table(
            ('', mine, 'other', '', f'{mine} / other', 'in the rounds', 'of all pictures'),
            (
                f'{each["what"]}|{each["ours"]:.4g}|{each["theirs"]:.4g}|{each["other"]}|'
                f'{each["ratio"]:.2f}|{min(each["ratios"]):.2f} to {max(each["ratios"]):.2f}|'
                f'{each["ratio_of_all_frames"]:.2f}'.split('|')
                for each in drive['ratios']
                if each['node'] == mine
            ),
            f'`{mine}` beside other nodes:',
        )
    fates = ('answered', 'transport', 'dropped', 'failed', 'return', 'unknown')
    print_table(
        ('', 'sent', *(f'{fate} %' for fate in fates)),
        (
            (name, f'{of["frames_sent"]:.0f}', *(f'{of[f"{f}_share"]:.2%}' for f in fates))
            for name, of in figures.items()
        ),
        'Fate of the frames, all rounds:',
    )
    own = ('wait', 'preprocess', 'decode', 'publish')
    stations = ('own_cost', *(f'station_{n}' for n in (*own, 'inference', 'transport_in')))
    print_table(
        ('', *(name.removeprefix('station_').replace('_', ' ') for name in stations)),
        (
            (name, *(f'{of[f"{n}_p50_ms"]:.2f}, {of[f"{n}_p99_ms"]:.2f}' for n in stations))
            for name, of in figures.items()
            if 'own_cost_p50_ms' in of
        ),
        'Own cost, ms, p50 and p99 (from receipt to publishing, without the run):',
    )
    print(
        '\nInput at {faster}: age at publishing p50 {age_p50_ms:.1f} ms, p99 {age_p99_ms:.1f} ms; '
        'the run of the network p50 {inference_p50_ms:.1f} ms, p99 {inference_p99_ms:.1f} ms; '
        '{older_than_bound:.0f} of {frames} answers are older than two runs and their transport; '
        'the 99th percentile of age over that is {p99_of_age_over_bound:.2f}.'.format(
            faster=drive['faster'], **drive['age_when_faster']
        )
    )


if __name__ == '__main__':
    sys.exit(main())
