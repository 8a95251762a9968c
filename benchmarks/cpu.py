"""Frames a second on a CPU: a bundle's networks in each runtime, beside `ultralytics predict`.

    python benchmarks/cpu.py --bundle BUNDLE --weights best.pt --pictures FOLDER --json cpu.json

All take the same pictures, whole: letterbox, network, decoding. The rounds are interleaved, so that
what else the machine does falls on all alike; compare the ratios. Detections of all are compared
with FP32's in OpenVINO, or those of FP16 where a bundle has no FP32.

In its turn a runner gets one picture after a rest, as from a camera (--in-a-row 1), or several
without one, as from a film; then OpenVINO's networks are also given two at a time, as `detect` and
the node work, on the same threads. Needs the extras train and cpu.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from output import add_isa, benchmark_parser, limit_instructions, print_table, write_result
from peer_node import load_peer
from tqdm import tqdm

from cone_perception.engines import Engine
from cone_perception.engines.check import match_pairs, mean_and_p95
from cone_perception.engines.cpu.open import computes_bfloat16, networks_for_cpu, open_network
from cone_perception.engines.machine import describe_host
from cone_perception.filters import Filters
from cone_perception.model_card import Bundle, read_bundle
from cone_perception.pipeline import STATIONS, ConeDetector, stations_ms
from cone_perception.types import Arithmetic, CpuRuntime, Detections, Frame

WARM_UP_ROUNDS = 3
PEER = 'ultralytics predict'
Answer = tuple[Detections, dict[str, float]]
"""Detections, and milliseconds at each station; none where they are not known."""

Runner = Callable[[Sequence[Frame]], list[Answer]]
"""Searches the pictures of its turn."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = benchmark_parser(__doc__)
    parser.add_argument('--bundle', type=Path, required=True)
    parser.add_argument('--weights', type=Path, required=True, help='.pt that the bundle is from')
    parser.add_argument('--pictures', type=Path, required=True, help='folder of 720p pictures')
    parser.add_argument('--rounds', type=int, default=60)
    parser.add_argument('--in-a-row', type=int, default=1, help='pictures of one turn')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--confidence', type=float, default=0.25)
    add_isa(parser)
    args = parser.parse_args(argv)
    limits = limit_instructions(args.isa)
    bundle = read_bundle(args.bundle)
    frames = read_frames(args.pictures, (args.rounds + WARM_UP_ROUNDS) * args.in_a_row)
    size = max(bundle.card.height_px, bundle.card.width_px)
    peer = load_peer(args.weights, size, args.confidence, bundle.card.nms_iou, args.threads)

    def run_peer(frames: Sequence[Frame]) -> list[Answer]:
        found = [peer(frame.bgr).boxes.numpy() for frame in frames]
        return [(Detections(b.xyxy, b.conf, b.cls.astype(np.int64)), {}) for b in found]

    runners: dict[str, Runner] = {PEER: run_peer}
    for name, engine in open_all(bundle, args.threads, two_at_once=args.in_a_row > 1):
        runners[name] = bundle_runner(bundle, engine, args.confidence)
    load_before = os.getloadavg()[0]
    result = {
        'machine': {**describe_host(), 'load_before': load_before, 'threads': args.threads},
        'instructions_limited_by': limits,
        'bundle': {'name': bundle.card.name, 'quantised': bundle.card.training.get('quantised')},
        **measure(runners, frames, args.in_a_row),
    }
    show(result)
    write_result(args.json, result)
    return 0


def read_frames(folder: Path, count: int) -> list[Frame]:
    """Read `count` pictures of a folder, from the first one again where it has fewer."""
    paths = sorted(p for p in folder.rglob('*') if p.suffix.lower() in ('.jpg', '.png'))
    pictures = [cv2.imread(str(path)) for path in paths[:count]]
    if not pictures:
        sys.exit(f'{folder} holds no jpg or png picture.')
    return [Frame(np.asarray(pictures[i % len(pictures)], np.uint8)) for i in range(count)]


def open_all(bundle: Bundle, threads: int, two_at_once: bool) -> Iterator[tuple[str, Engine]]:
    """Open each network for one picture in each runtime and arithmetic that takes it.

    two_at_once: OpenVINO's also in two streams, half of the threads for each picture.
    """
    single = [network for network in bundle.card.networks if network.batch == 1]
    for network in sorted(single, key=lambda n: n.file):
        encoding = f' ({network.encoding})' if network.precision == 'int8' else ''
        runtimes: list[CpuRuntime] = ['openvino', 'onnxruntime']
        for runtime in runtimes[network.encoding == 'int8' :]:
            name = f'{runtime} {network.precision}{encoding}'
            yield name, open_network(bundle, network, runtime, threads)
    arithmetics: list[Arithmetic] = ['bfloat16'] if computes_bfloat16() else []
    for network in networks_for_cpu(bundle.card, 1):
        for arithmetic in arithmetics:
            engine = open_network(bundle, network, 'openvino', threads, arithmetic)
            yield f'openvino {engine.info.computes_in}', engine
        for both in ('float32', *arithmetics) if two_at_once else ():
            engine = open_network(bundle, network, 'openvino', threads, both, streams=2)
            yield f'openvino {engine.info.computes_in}, two at once', engine


def bundle_runner(bundle: Bundle, engine: Engine, confidence: float) -> Runner:
    """Letterbox, network and decoding of this package."""
    detector = ConeDetector(bundle.card, engine, 'whole')  # as the peer sees it
    filters = Filters(thresholds=dict.fromkeys(bundle.card.class_names, confidence))
    pool = ThreadPoolExecutor(detector.at_once)

    def search(frame: Frame) -> Answer:
        (found,), moments_ns = detector.detect([frame], filters)
        return found, stations_ms(moments_ns)

    def run(frames: Sequence[Frame]) -> list[Answer]:
        return list(pool.map(search, frames) if detector.at_once > 1 else map(search, frames))

    return run


def measure(runners: dict[str, Runner], frames: Sequence[Frame], in_a_row: int) -> dict[str, Any]:
    """Run each runner on `in_a_row` frames in its turn; each round starts with another runner."""
    names = list(runners)
    total_ms: dict[str, list[float]] = {name: [] for name in names}
    answers: dict[str, list[Answer]] = {name: [] for name in names}
    rounds = [frames[start : start + in_a_row] for start in range(0, len(frames), in_a_row)]
    for index, of_round in enumerate(tqdm(rounds, unit='round')):
        for name in np.roll(names, -index).tolist():
            time.sleep(0.05)  # threads of the runtime before it spin for a while when idle
            started = time.perf_counter()
            found = runners[name](of_round)
            took_ms = (time.perf_counter() - started) * 1e3
            if index >= WARM_UP_ROUNDS:
                total_ms[name].append(took_ms / len(of_round))
                answers[name] += found
    median_ms = {name: float(np.median(total_ms[name])) for name in names}
    cones = {name: [found for found, _ in answers[name]] for name in names}
    reference = next(name for name in ('openvino fp32', 'openvino fp16') if name in runners)
    return {
        'rounds': len(rounds) - WARM_UP_ROUNDS,
        'in_a_row': in_a_row,
        'runners': {
            name: {
                'median_ms': median_ms[name],
                'p90_ms': float(np.percentile(total_ms[name], 90)),
                'times_faster_than_peer': median_ms[PEER] / median_ms[name],
                'stations_median_ms': {
                    station: float(np.median([times[station] for _, times in answers[name]]))
                    for station in answers[name][0][1]
                },
                'against_fp32': difference(cones[reference], cones[name]),
            }
            for name in names
        },
    }


def difference(reference: Sequence[Detections], found: Sequence[Detections]) -> dict[str, float]:
    """Boxes of the reference that were missed, boxes more than it has, and how the rest differ."""
    errors, overlaps = [], []
    for wanted, given in zip(reference, found, strict=True):
        i, j, overlap = match_pairs(wanted, given)
        errors += np.abs(wanted.score[i] - given.score[j]).tolist()
        overlaps += overlap.tolist()
    boxes = sum(map(len, reference))
    return {
        'boxes': boxes,
        'missed': boxes - len(errors),
        'extra': sum(map(len, found)) - len(errors),
        'mean_iou': mean_and_p95(overlaps)[0],
        'mean_score_error': mean_and_p95(errors)[0],
    }


def show(result: dict[str, Any]) -> None:
    """Print a row for each runner."""
    rows = [
        (
            f'{name}|{of["median_ms"]:.1f}|{of["p90_ms"]:.1f}|{of["times_faster_than_peer"]:.1f}x|'
            f'{", ".join(f"{each:.2f}" for each in of["stations_median_ms"].values())}|'
            '{missed}, {extra}|{mean_iou:.3f}|{mean_score_error:.3f}'.format(**of['against_fp32'])
        ).split('|')
        for name, of in result['runners'].items()
    ]
    stations = ', '.join(STATIONS)
    print_table(
        ('', 'ms', 'p90', 'faster', stations, 'missed, extra', 'IoU', 'score error'),
        rows,
        f'medians of {result["rounds"]} interleaved rounds, {result["in_a_row"]} in a row, '
        f'{result["machine"]["threads"]} threads',
    )


if __name__ == '__main__':
    sys.exit(main())
