"""Measure the GPU engine's own part on an NVIDIA GPU: everything but the network.

What puts out the same boxes for every picture takes the network's place: no TensorRT, no model. It
prints a summary, writes JSON, and ends with status 1 when something is not as it must be. Needs
pycuda, and NVRTC or nvcc. Under compute-sanitizer: --frames 50 --loads 2 --runs 3.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timezone
from functools import partial
from itertools import cycle, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from output import benchmark_parser, write_result

from cone_perception.engines.check import WARM_UP_RUNS, measure_latencies, measure_rounds
from cone_perception.engines.cuda.compile import find_compiler
from cone_perception.engines.cuda.device import CudaDevice
from cone_perception.engines.cuda.engine import CudaEngine
from cone_perception.engines.cuda.request import (
    BYTES_PER_PIXEL,
    FIRST_PICTURE,
    FORMATS,
    MAX_BATCH,
    CameraJob,
    read_answer,
)
from cone_perception.engines.decode import decode
from cone_perception.engines.machine import describe_host
from cone_perception.engines.verify_command import difference_of
from cone_perception.errors import ConePerceptionError
from cone_perception.images import to_bgr
from cone_perception.model_card import NetworkFile, Preprocessing
from cone_perception.preprocess import View, whole_view
from cone_perception.types import CameraPicture, Float32, Int64
from cone_perception.views import views_around

HEIGHT, WIDTH, CLASSES, CELLS = 384, 640, 5, 3840
CAMERA = (720, 1280)

NMS_IOU = 0.6
THRESHOLDS = np.full(CLASSES, 0.5, np.float32)

GROWTHS = ('host_growth_bytes', 'device_growth_bytes')
GROWTH_LIMIT_BYTES = 4 << 20
"""Growth of host or device memory over all frames; one leaked frame each would be gigabytes."""

COPY_RATIO_LIMIT = 1.5
"""Upload and letterbox together, beside a bare copy of the same bytes."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = benchmark_parser(__doc__)
    parser.add_argument('--out', type=Path, dest='json', help='the same as --json')
    parser.add_argument('--frames', type=int, default=10_000, help='of the search for leaks')
    parser.add_argument('--loads', type=int, default=50, help='of the search for leaked contexts')
    parser.add_argument('--runs', type=int, default=500, help='behind each median')
    args = parser.parse_args(argv)
    try:
        with open_device(use_graph=False) as device:
            stations = time_stations(device, args.runs)
        results: dict[str, Any] = {
            'machine': describe_machine(),
            'accuracy': measure_accuracy(),
            'stations': stations,
            'frames': measure_frames(args.runs),
            'leaks': search_leaks(args.frames, args.loads),
        }
    except ConePerceptionError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    results['problems'] = problems = find_problems(results)
    write_result(args.json, results, show=True)
    for problem in problems:
        print(f'not as it must be: {problem}', file=sys.stderr)
    return 1 if problems else 0


def find_problems(results: dict[str, Any]) -> list[str]:
    """Name each figure that is not as it must be."""
    accuracy, leaks = results['accuracy'], results['leaks']
    problems = []
    for name, case in accuracy['letterbox'].items():
        if case['worst_grey_levels'] > 1.0:
            problems.append(f'letterbox of {name}: {case["worst_grey_levels"]} grey levels off')
    if accuracy['boxes']['difference']:
        problems.append(f'boxes: {accuracy["boxes"]["difference"]}')
    for what, name in product(('frames', 'loads'), GROWTHS):
        if leaks[what][name] > GROWTH_LIMIT_BYTES:
            problems.append(f'{name} of {what}: {leaks[what][name]}')
    ratio = results['stations']['upload_and_letterbox_over_copy']
    if ratio > COPY_RATIO_LIMIT:
        problems.append(f'upload and letterbox take {ratio:.2f} times a copy of the same bytes')
    return problems


class StandIn:
    """A Network of slot.py without TensorRT: the same crowded boxes, whatever goes in."""

    half_input = half_output = False

    def __init__(self, batch: int) -> None:
        import pycuda.driver as drv

        self._drv = drv
        self.input_shape: tuple[int, ...] = (batch, 3, HEIGHT, WIDTH)
        self.output_shape: tuple[int, ...] = (batch, 4 + CLASSES, CELLS)
        boxes = np.stack([crowded_boxes(np.random.default_rng(place)) for place in range(batch)])
        self._bytes = boxes.nbytes
        self._boxes = drv.to_device(boxes)

    def enqueue(self, stream: Any, input_address: int, output_address: int) -> None:
        self._drv.memcpy_dtod_async(output_address, int(self._boxes), self._bytes, stream)

    def close(self) -> None:
        self._boxes.free()


def crowded_boxes(random: np.random.Generator) -> Float32:
    """(4 + CLASSES, CELLS): boxes around some places, one in twenty above the thresholds."""
    places = random.uniform(0, WIDTH, (2, CELLS // 80)).repeat(80, axis=1)
    centres = places + random.normal(0, 4, places.shape)
    sizes = random.uniform(30, 60, places.shape)
    scores = random.uniform(0, 0.4, (CLASSES, CELLS))
    scores[random.integers(0, CLASSES, CELLS // 20), ::20] = random.uniform(0.5, 1, CELLS // 20)
    return np.concatenate([centres, sizes, scores]).astype(np.float32)


def camera_picture(encoding: str = 'bgr8', height: int = 720, width: int = 1280) -> CameraPicture:
    """Soft noise as a camera sends it, rows padded by a few bytes."""
    channels = BYTES_PER_PIXEL[FORMATS[encoding]]
    shape = (1 + height // 16, 1 + width // 16, channels)
    small = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    soft = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    rows = np.pad(soft.reshape(height, -1), ((0, 0), (0, 5)))
    return CameraPicture(rows.reshape(-1), encoding, width, height, rows.shape[1])


def open_device(use_graph: bool = True, batch: int = 1) -> closing[CudaDevice]:
    """The engine's device, driven by this thread, for a with statement."""
    return closing(CudaDevice(lambda: StandIn(batch), Preprocessing(), use_graph))


def open_engine(batch: int = 1, use_graph: bool = True) -> closing[CudaEngine]:
    network = NetworkFile('stand_in', '0' * 64, 'fp32', 'float', batch)
    make = partial(StandIn, batch)
    return closing(CudaEngine(make, Preprocessing(), network, 'stand-in', use_graph=use_graph))


def describe_machine() -> dict[str, Any]:
    with open_device() as device:
        import pycuda.driver as drv

        return {
            **describe_host(),
            'time': datetime.now(timezone.utc).isoformat(timespec='seconds'),
            'gpu': device.name,
            'architecture': device.architecture,
            'pycuda_cuda': '.'.join(map(str, drv.get_version())),
            'compiler': find_compiler().version,
            'launches': device.launches,
        }


def all_views(picture: CameraPicture) -> list[View]:
    """The whole picture; beside it a band and a strip around its middle, where it is large."""
    size = picture.height, picture.width, (HEIGHT, WIDTH)
    return [whole_view(*size), *views_around(size[0] / 2, *size, 'whole+horizon+strip')]


def search(engine: CudaEngine, picture: CameraPicture) -> None:
    """Find the cones in one whole picture."""
    engine.detect([picture], all_views(picture)[:1], THRESHOLDS, NMS_IOU)


def measure_accuracy() -> dict[str, Any]:
    """Views and boxes beside the CPU's, every encoding and many sizes."""
    import pycuda.driver as drv

    sizes = [(1, 2), (2, 40), (41, 2), (37, 54), (200, 90), CAMERA, (384, 640), (3000, 4096)]
    cases = {f'{encoding} {CAMERA[1]}x{CAMERA[0]}': (encoding, *CAMERA) for encoding in FORMATS}
    cases |= {f'bgr8 {width}x{height}': ('bgr8', height, width) for height, width in sizes}
    letterboxed: dict[str, Any] = {}
    planes = np.empty((MAX_BATCH, 3, HEIGHT, WIDTH), np.float32)
    expected = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    with open_device(batch=MAX_BATCH) as device:
        for name, (encoding, height, width) in cases.items():
            picture = camera_picture(encoding, height, width)
            bgr, views = to_bgr(picture), all_views(picture)
            pictures = [picture] * len(views)
            device.start(0, CameraJob(pictures, views, THRESHOLDS, NMS_IOU, raw=True))
            answer = device.finish(0)
            drv.memcpy_dtoh(planes, device.slots[0].input)
            for index, view in enumerate(views):
                view.apply(bgr, expected)
                off = np.abs(np.rint(planes[index, ::-1].transpose(1, 2, 0) * 255) - expected)
                letterboxed[f'{name}, {index}: {view.name}'] = {
                    'worst_grey_levels': float(off.max()),
                    'share_that_differs': round(float((off > 0).mean()), 5),
                }
    # The boxes are the same for every picture, and fewer than the GPU's lists hold.
    assert answer.output is not None
    decoded = decode(answer.output[0], 'anchors', THRESHOLDS, NMS_IOU)
    found = read_answer(answer.answers[0], CLASSES)
    assert found is not None
    boxes = {'count': len(decoded), 'difference': difference_of(found, decoded)}
    return {'letterbox': letterboxed, 'boxes': boxes}


def time_stations(device: CudaDevice, runs: int) -> dict[str, Any]:
    """Each station alone, beside a bare copy of its bytes; launches included.

    Apart from what opens the device: what is taken here must be given back before that closes.
    """
    import pycuda.driver as drv

    picture = camera_picture()
    device.start(0, CameraJob([picture], all_views(picture)[:1], THRESHOLDS, NMS_IOU))
    device.finish(0)
    source_bytes = CAMERA[0] * CAMERA[1] * 3
    network_bytes = 3 * HEIGHT * WIDTH * 4
    output_bytes = (4 + CLASSES) * CELLS * 4
    slot, stream = device.slots[0], device.stream
    frame, request = slot.upload_host[:source_bytes], slot.upload_host[:FIRST_PICTURE]
    other = drv.mem_alloc(source_bytes)
    copy = partial(drv.memcpy_htod_async, slot.upload, frame, stream)
    letterbox = partial(device.letterbox, slot)
    inside = partial(drv.memcpy_dtod_async, other, slot.upload, source_bytes, stream)

    def decoding() -> None:
        drv.memcpy_htod_async(slot.upload, request, stream)  # its counters begin at zero
        device.decode(slot)

    def waited(*works: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            for work in works:
                work()
            stream.synchronize()

        return run

    works = [(), (inside,), (copy,), (copy, letterbox), (letterbox,), (decoding,)]
    times_ms = measure_rounds([waited(*each) for each in works], runs)
    nothing_ms, inside_ms, copy_ms, both_ms, letterbox_ms, decode_ms = (
        np.median(times_ms, axis=0).round(4).tolist()
    )
    other.free()
    device_gb_s = 2 * source_bytes / max(inside_ms - nothing_ms, 1e-6) / 1e6
    return {
        'what': 'median ms on the host clock, launch and wait included; a 1280x720 bgr8 frame',
        'wait_alone_ms': nothing_ms,
        'copy_of_the_frame_ms': copy_ms,
        'upload_gb_s': round(source_bytes / copy_ms / 1e6, 2),
        'upload_and_letterbox_ms': both_ms,
        'upload_and_letterbox_over_copy': round(both_ms / copy_ms, 3),
        'device_copy_gb_s': round(device_gb_s, 1),
        'letterbox_ms': letterbox_ms,
        'letterbox_floor_ms': round((source_bytes + network_bytes) / device_gb_s / 1e6, 5),
        'decode_ms': decode_ms,
        'decode_floor_ms': round(output_bytes / device_gb_s / 1e6, 5),
    }


def measure_frames(runs: int) -> dict[str, Any]:
    """A frame's views through the engine and its thread: graph and launches, one caller and two."""
    found: dict[str, Any] = {}
    picture = camera_picture()
    for batch, use_graph in product((1, 2, 4), (True, False)):
        with open_engine(batch, use_graph) as engine, ThreadPoolExecutor(2) as pool:
            shown = [picture] * batch, all_views(picture)[:batch]
            ask = partial(engine.detect, *shown, THRESHOLDS, NMS_IOU)
            (alone,) = measure_latencies([ask], runs)
            started = time.perf_counter()
            for answer in [pool.submit(ask) for _ in range(runs)]:
                answer.result()
            each_ms = (time.perf_counter() - started) / runs * 1e3
            found[f'batch {batch}, {"graph" if use_graph else "launches"}'] = {
                'launches': engine.launches,
                'one_caller_ms': round(alone.median_ms, 4),
                'two_callers_ms_per_frame': round(each_ms, 4),
            }
    return found


def search_leaks(frames: int, loads: int) -> dict[str, Any]:
    """Growth of memory over many frames of changing sizes, and over many loads."""
    sizes = (CAMERA, (1080, 1920), (376, 672))
    pictures = cycle(camera_picture('bgr8', *size) for size in sizes)

    def load() -> None:
        with open_engine() as engine:
            search(engine, next(pictures))

    with open_engine() as engine:
        by_frames = growth(
            lambda: search(engine, next(pictures)),
            frames,
            warm_up=len(sizes) * WARM_UP_RUNS,
        )
    return {'frames': by_frames, 'loads': growth(load, loads, warm_up=1)}


def growth(work: Callable[[], object], count: int, warm_up: int) -> dict[str, Any]:
    """Growth of memory while `work` is done `count` times, after some times more."""
    for _ in range(warm_up):
        work()
    before = memory_bytes()
    for _ in range(count):
        work()
    grown = (memory_bytes() - before).tolist()
    return {'count': count, **dict(zip(GROWTHS, grown, strict=True))}


def memory_bytes() -> Int64:
    """Resident memory of this process, and what is taken of the GPU."""
    import pycuda.driver as drv

    gc.collect()
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    context = drv.Device(0).retain_primary_context()
    context.push()
    try:
        free, total = drv.mem_get_info()
    finally:
        context.pop()
    context.detach()
    return np.array([pages * 4096, total - free], np.int64)


if __name__ == '__main__':
    sys.exit(main())
