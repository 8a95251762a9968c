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

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from cone_perception.engines import Engine
from cone_perception.engines.check import match_boxes
from cone_perception.engines.cpu.fastest import networks_for_cpu
from cone_perception.engines.cpu.open import open_network
from cone_perception.engines.cpu.processor import computes_bfloat16, processor_name
from cone_perception.filters import Filters
from cone_perception.model_card import Bundle, read_bundle
from cone_perception.pipeline import ConeDetector
from cone_perception.types import Arithmetic, Detections, Frame

WARM_UP_ROUNDS = 3
REST_S = 0.05
"""Before each run: threads of the runtime before spin for a while when they have nothing to do."""

REFERENCES = 'openvino fp32', 'openvino fp16'
"""The first that is there."""
PEER = 'ultralytics predict'
TWO_AT_ONCE = ', two at once'
Answer = tuple[Detections, tuple[float, ...] | None]
"""Detections, and milliseconds of preprocessing, network and decoding where they are known."""

Runner = Callable[[Sequence[Frame]], list[Answer]]
"""Searches the pictures of its turn."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--bundle', type=Path, required=True)
    parser.add_argument('--weights', type=Path, required=True, help='.pt that the bundle is from')
    parser.add_argument('--pictures', type=Path, required=True, help='folder of 720p pictures')
    parser.add_argument('--rounds', type=int, default=60)
    parser.add_argument('--in-a-row', type=int, default=1, help='pictures of one turn')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--confidence', type=float, default=0.25)
    parser.add_argument('--json', type=Path)
    args = parser.parse_args(argv)
    bundle = read_bundle(args.bundle)
    frames = read_frames(args.pictures, (args.rounds + WARM_UP_ROUNDS) * args.in_a_row)
    runners = {PEER: ultralytics_runner(args.weights, bundle, args.threads, args.confidence)}
    for network in sorted(bundle.card.networks, key=lambda n: n.file):
        for engine in ('openvino', 'onnxruntime'):
            if network.batch == 1 and (network.encoding != 'int8' or engine == 'onnxruntime'):
                name = f'{engine} {network.precision}'
                name += f' ({network.encoding})' if network.precision == 'int8' else ''
                opened = open_network(bundle, network, engine, args.threads)
                runners[name] = bundle_runner(bundle, opened, args.confidence)
    for network in networks_for_cpu(bundle.card, 1) if computes_bfloat16() else []:
        opened = open_network(bundle, network, 'openvino', args.threads, 'bfloat16')
        name = f'openvino {opened.info.computes_in}'
        runners[name] = bundle_runner(bundle, opened, args.confidence)
    if args.in_a_row > 1:
        runners |= two_at_once(bundle, args.threads, args.confidence)
    result = measure(runners, frames, args.in_a_row)
    result['machine'] = {
        'processor': processor_name(),
        'cores': os.cpu_count(),
        'load_before': os.getloadavg()[0],
        'threads': args.threads,
        'python': platform.python_version(),
    }
    result['bundle'] = {
        'name': bundle.card.name,
        'quantised': bundle.card.training.get('quantised'),
    }
    print_table(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    return 0


def read_frames(folder: Path, count: int) -> list[Frame]:
    paths = sorted(p for p in folder.rglob('*') if p.suffix.lower() in ('.jpg', '.png'))
    pictures = [cv2.imread(str(path)) for path in paths[:count]]
    if not pictures:
        sys.exit(f'{folder} holds no jpg or png picture.')
    return [Frame(np.asarray(pictures[i % len(pictures)], np.uint8)) for i in range(count)]


def bundle_runner(bundle: Bundle, engine: Engine, confidence: float) -> Runner:
    detector = ConeDetector(bundle.card, engine)
    filters = Filters(thresholds=dict.fromkeys(bundle.card.class_names, confidence))
    pool = ThreadPoolExecutor(detector.at_once)

    def search(frame: Frame) -> Answer:
        (found,), times = detector.detect([frame], filters)
        return found, tuple(times.stations_ms().values())

    def run(frames: Sequence[Frame]) -> list[Answer]:
        return list(pool.map(search, frames) if detector.at_once > 1 else map(search, frames))

    return run


def two_at_once(bundle: Bundle, threads: int, confidence: float) -> dict[str, Runner]:
    """OpenVINO's networks in two streams: half of the threads for each picture."""
    arithmetics: tuple[Arithmetic, ...] = ('float32', 'bfloat16')[: 1 + computes_bfloat16()]
    runners = {}
    for network in networks_for_cpu(bundle.card, 1):
        for arithmetic in arithmetics:
            engine = open_network(bundle, network, 'openvino', threads, arithmetic, streams=2)
            name = f'openvino {engine.info.computes_in}{TWO_AT_ONCE}'
            runners[name] = bundle_runner(bundle, engine, confidence)
    return runners


def ultralytics_runner(weights: Path, bundle: Bundle, threads: int, confidence: float) -> Runner:
    """`predict` as a user calls it; its rectangles make 384x640 of a 720p picture."""
    from training.stage.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    import torch
    from ultralytics import YOLO

    model = YOLO(weights)
    size = max(bundle.card.height_px, bundle.card.width_px)
    model.predict(np.zeros((720, 1280, 3), np.uint8), imgsz=size, verbose=False, device='cpu')
    torch.set_num_threads(threads)  # after the first call: that sets its own number

    def search(frame: Frame) -> Answer:
        (found,) = model.predict(
            frame.bgr,
            imgsz=size,
            conf=confidence,
            iou=bundle.card.nms_iou,
            verbose=False,
            device='cpu',
        )
        boxes = found.boxes
        return (
            Detections(
                boxes.xyxy.numpy().astype(np.float32),
                boxes.conf.numpy().astype(np.float32),
                boxes.cls.numpy().astype(np.int64),
            ),
            None,
        )

    return lambda frames: [search(frame) for frame in frames]


def measure(runners: dict[str, Runner], frames: Sequence[Frame], in_a_row: int) -> dict[str, Any]:
    """Run every runner on every frame, in turns that start with another one each round.

    in_a_row: frames that a runner gets in its turn, one right after the other.
    """
    names = list(runners)
    total_ms: dict[str, list[float]] = {name: [] for name in names}
    stations: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    answers: dict[str, list[Detections]] = {name: [] for name in names}
    rounds = [frames[start : start + in_a_row] for start in range(0, len(frames), in_a_row)]
    for index, of_round in enumerate(tqdm(rounds, unit='round')):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            time.sleep(REST_S)
            started = time.perf_counter()
            found = runners[name](of_round)
            took_ms = (time.perf_counter() - started) * 1e3
            if index >= WARM_UP_ROUNDS:
                total_ms[name].append(took_ms / len(of_round))
                answers[name] += [cones for cones, _ in found]
                stations[name] += [times for _, times in found if times is not None]
    peer_ms = statistics.median(total_ms[PEER])
    reference = next(name for name in REFERENCES if name in runners)
    return {
        'rounds': len(rounds) - WARM_UP_ROUNDS,
        'in_a_row': in_a_row,
        'runners': {
            name: {
                'median_ms': statistics.median(total_ms[name]),
                'p90_ms': float(np.percentile(total_ms[name], 90)),
                'times_faster_than_peer': peer_ms / statistics.median(total_ms[name]),
                'stations_median_ms': (
                    dict(
                        zip(
                            ('preprocess', 'network', 'decode'),
                            np.median(stations[name], axis=0).tolist(),
                            strict=True,
                        )
                    )
                    if stations[name]
                    else None
                ),
                'against_fp32': difference(answers[reference], answers[name]),
            }
            for name in names
        },
    }


def difference(reference: Sequence[Detections], found: Sequence[Detections]) -> dict[str, float]:
    """Boxes of the reference that were missed, boxes more than it has, and how the rest differ."""
    errors: list[float] = []
    overlaps: list[float] = []
    missed = extra = 0
    for wanted, given in zip(reference, found, strict=True):
        pairs = match_boxes(wanted, given)
        errors += [abs(float(wanted.score[i] - given.score[j])) for i, j, _ in pairs]
        overlaps += [overlap for _, _, overlap in pairs]
        missed += len(wanted) - len(pairs)
        extra += len(given) - len(pairs)
    return {
        'boxes': sum(map(len, reference)),
        'missed': missed,
        'extra': extra,
        'mean_iou': float(np.mean(overlaps)) if overlaps else float('nan'),
        'mean_score_error': float(np.mean(errors)) if errors else float('nan'),
    }


def print_table(result: dict[str, Any]) -> None:
    print(
        f'medians of {result["rounds"]} interleaved rounds, {result["in_a_row"]} in a row, '
        f'{result["machine"]["threads"]} threads'
    )
    print(
        f'{"":38}{"ms":>8}{"p90":>8}{"faster":>8}  preprocess, network, decode'
        f'{"missed":>10}{"extra":>7}{"IoU":>7}{"score":>8}'
    )
    for name, entry in result['runners'].items():
        parts = entry['stations_median_ms']
        text = ', '.join(f'{v:.2f}' for v in parts.values()) if parts else ''
        other = entry['against_fp32']
        print(
            f'{name:38}{entry["median_ms"]:8.1f}{entry["p90_ms"]:8.1f}'
            f'{entry["times_faster_than_peer"]:7.1f}x  {text:27}{other["missed"]:10}'
            f'{other["extra"]:7}{other["mean_iou"]:7.3f}{other["mean_score_error"]:8.3f}'
        )


if __name__ == '__main__':
    sys.exit(main())
