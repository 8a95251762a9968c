"""Measure the GPU engine's own part on an NVIDIA GPU: everything but the network.

    python benchmarks/gpu.py --out gpu.json

A small CUDA kernel takes the network's place, on the same stream and in the same graph, so that
neither TensorRT nor a model is needed. It prints a summary, writes JSON, and ends with status 1
when something is not as it must be. Needs pycuda, and NVRTC or nvcc. Under compute-sanitizer:

    compute-sanitizer python benchmarks/gpu.py --frames 50 --loads 2 --runs 3
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cone_perception.decode import decode
from cone_perception.engines.cuda.compile import KernelOptions, find_compiler
from cone_perception.engines.cuda.device import (
    LETTERBOX_BLOCK,
    SELECT_BLOCK,
    SUPPRESS_BLOCK,
    CameraJob,
    CudaDevice,
)
from cone_perception.engines.cuda.engine import CudaEngine
from cone_perception.engines.cuda.request import FIRST_PICTURE, FORMATS, read_answer
from cone_perception.errors import ConePerceptionError
from cone_perception.images import to_bgr
from cone_perception.model_card import NetworkFile, Preprocessing
from cone_perception.preprocess import Letterbox
from cone_perception.types import CameraPicture, Detections, Float32, UInt8

HEIGHT, WIDTH, CLASSES, CELL_PX = 384, 640, 5, 8
CELLS = HEIGHT // CELL_PX * (WIDTH // CELL_PX)
CAMERA = (720, 1280)
THRESHOLDS = np.full(CLASSES, 0.5, np.float32)
NMS_IOU = 0.6

WARM_UP_RUNS = 20

GROWTH_LIMIT_BYTES = 4 << 20
"""Of host or device memory over all frames; one leaked frame each would be gigabytes."""

COPY_RATIO_LIMIT = 1.5
"""Upload and letterbox together, beside a bare copy of the same bytes."""

WEIGHTS = np.array(
    [[-1, -1, 1], [0, 0, 0], [1, -1, -1], [0.5, 0.5, 0.5], [2 / 3, 2 / 3, -2]], np.float32
)
BIAS = np.array([0, 0, 0, -0.7, -0.4], np.float32)
"""Scores of a cell by its mean red, green and blue: what stand_in computes."""

STAND_IN = """
extern "C" __global__ void stand_in(const float *input, float *output, int height, int width)
{
    const float weights[5][3] = {{-1, -1, 1}, {0, 0, 0}, {1, -1, -1}, {0.5f, 0.5f, 0.5f},
                                 {2.0f / 3, 2.0f / 3, -2}};
    const float bias[5] = {0, 0, 0, -0.7f, -0.4f};
    const int columns = width / 8, cells = columns * (height / 8);
    const int cell = blockIdx.x * blockDim.x + threadIdx.x;
    if (cell >= cells)
        return;
    const int top = cell / columns * 8, left = cell % columns * 8;
    input += (long long)blockIdx.y * 3 * height * width;
    output += (long long)blockIdx.y * 9 * cells + cell;
    float mean[3];
    for (int plane = 0; plane < 3; plane++) {
        float sum = 0;
        for (int y = 0; y < 8; y++)
            for (int x = 0; x < 8; x++)
                sum += input[((long long)plane * height + top + y) * width + left + x];
        mean[plane] = sum / 64;
    }
    output[0] = left + 4;
    output[cells] = top + 4;
    output[2 * cells] = output[3 * cells] = 8;
    for (int k = 0; k < 5; k++) {
        float score = bias[k];
        for (int plane = 0; plane < 3; plane++)
            score += weights[k][plane] * mean[plane];
        output[(4 + k) * cells] = score < 0 ? 0 : score > 1 ? 1 : score;
    }
}
"""


class StandIn:
    """A device.Network without TensorRT: the mean colour of 8x8 px cells, one box each."""

    half_input = half_output = False

    def __init__(self, batch: int) -> None:
        import pycuda.driver as drv

        self._drv = drv
        self.input_shape: tuple[int, ...] = (batch, 3, HEIGHT, WIDTH)
        self.output_shape: tuple[int, ...] = (batch, 4 + CLASSES, CELLS)
        major, minor = drv.Context.get_device().compute_capability()
        code = find_compiler().compile(STAND_IN, KernelOptions(major * 10 + minor).arguments)
        self._module = drv.module_from_buffer(code)
        self._kernel = self._module.get_function('stand_in').prepare('PPii')

    def enqueue(self, stream: Any, input_address: int, output_address: int) -> None:
        self._kernel.prepared_async_call(
            (-(-CELLS // 256), self.input_shape[0], 1),
            (256, 1, 1),
            stream,
            *(input_address, output_address, HEIGHT, WIDTH),
        )

    def close(self) -> None:
        self._kernel = self._module = None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, help='where the JSON goes')
    parser.add_argument('--frames', type=int, default=10_000, help='of the search for leaks')
    parser.add_argument('--loads', type=int, default=50, help='of the search for leaked contexts')
    parser.add_argument('--runs', type=int, default=500, help='behind each median')
    args = parser.parse_args(argv)
    results: dict[str, Any] = {'command': ['benchmarks/gpu.py', *(argv or sys.argv[1:])]}
    try:
        results['machine'] = describe_machine()
        results['accuracy'] = measure_accuracy()
        results['stations'] = measure_stations(args.runs)
        results['frames'] = measure_frames(args.runs)
        results['leaks'] = search_leaks(args.frames, args.loads)
    except ConePerceptionError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    results['problems'] = problems = find_problems(results)
    text = json.dumps(results, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + '\n', encoding='utf-8')
    for problem in problems:
        print(f'not as it must be: {problem}', file=sys.stderr)
    return 1 if problems else 0


def find_problems(results: dict[str, Any]) -> list[str]:
    """What is not as it must be, in words."""
    accuracy, leaks = results['accuracy'], results['leaks']
    problems = []
    for name, case in accuracy['letterbox'].items():
        if case['worst_grey_levels'] > 1.0:
            problems.append(f'letterbox of {name}: {case["worst_grey_levels"]} grey levels off')
    for name, case in accuracy['boxes'].items():
        if not case['same_classes'] or case['worst_px'] > 0.5:
            problems.append(f'boxes of {name}: {case}')
    for name in ('host_growth_bytes', 'device_growth_bytes'):
        for what in ('frames', 'loads'):
            if leaks[what][name] > GROWTH_LIMIT_BYTES:
                problems.append(f'{name} of {what}: {leaks[what][name]}')
    ratio = results['stations']['upload_and_letterbox_over_copy']
    if ratio > COPY_RATIO_LIMIT:
        problems.append(f'upload and letterbox take {ratio:.2f} times a copy of the same bytes')
    return problems


@contextmanager
def open_device(batch: int = 1, use_graph: bool = True) -> Iterator[CudaDevice]:
    """The engine's device, driven by this thread."""
    device = CudaDevice(lambda: StandIn(batch), Preprocessing(), use_graph)
    try:
        yield device
    finally:
        device.close()


def open_engine(batch: int = 1, use_graph: bool = True) -> CudaEngine:
    nothing = NetworkFile('stand_in', '0' * 64, 'fp32', 'float', batch)
    return CudaEngine(
        lambda: StandIn(batch), Preprocessing(), nothing, 'stand-in', use_graph=use_graph
    )


def describe_machine() -> dict[str, Any]:
    with open_device() as device:
        import pycuda
        import pycuda.driver as drv

        return {
            'time': datetime.now(timezone.utc).isoformat(timespec='seconds'),
            'gpu': device.name,
            'architecture': device.architecture,
            'driver_cuda': drv.get_driver_version(),
            'pycuda': pycuda.VERSION_TEXT,
            'pycuda_cuda': '.'.join(map(str, drv.get_version())),
            'compiler': find_compiler().version,
            'launches': device.launches,
            'python': platform.python_version(),
            'cpu': platform.processor() or platform.machine(),
        }


# --- accuracy ---


def road(random: np.random.Generator, height: int, width: int) -> UInt8:
    """A picture with cones of flat colours on soft noise, (H, W, 3) uint8 BGR."""
    small = random.integers(70, 140, (1 + height // 16, 1 + width // 16, 3), np.uint8)
    bgr = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    for _ in range(12):
        top, left = random.integers(0, height), random.integers(0, width)
        size = max(2, height // 12)
        colours = ((255, 0, 0), (0, 0, 255), (0, 255, 255))
        bgr[top : top + size, left : left + size] = colours[random.integers(0, 3)]
    return bgr


def as_camera(random: np.random.Generator, encoding: str, height: int, width: int) -> CameraPicture:
    """A picture as a camera sends it, rows padded by a few bytes."""
    bgr = road(random, height, width)
    if encoding in ('bgr8', 'rgb8'):
        rows = bgr if encoding == 'bgr8' else bgr[..., ::-1]
    elif encoding in ('bgra8', 'rgba8'):
        kind = cv2.COLOR_BGR2BGRA if encoding == 'bgra8' else cv2.COLOR_BGR2RGBA
        rows = cv2.cvtColor(bgr, kind)
    elif encoding == 'mono8':
        rows = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)[..., None]
    else:
        yuv = cv2.cvtColor(bgr, cv2.COLOR_BGR2YCrCb)[..., [0, 2, 1]]
        luma, chroma = yuv[..., 0], yuv[..., 1:].copy()
        chroma[:, 1::2, 0] = chroma[:, ::2, 1]
        first, second = (chroma[..., 0], luma) if FORMATS[encoding] == 5 else (luma, chroma[..., 0])
        rows = np.stack([first, second], axis=-1)
    flat = np.ascontiguousarray(rows).reshape(height, -1)
    padded = np.pad(flat, ((0, 0), (0, 5)))
    return CameraPicture(padded.reshape(-1), encoding, width, height, padded.shape[1])


def measure_accuracy() -> dict[str, Any]:
    """Letterboxed pictures and boxes beside the CPU's, every encoding and many sizes."""
    import pycuda.driver as drv

    random = np.random.default_rng(3)
    sizes = [(1, 2), (2, 40), (41, 2), (37, 54), (200, 90), CAMERA, (384, 640), (3000, 4096)]
    cases = {f'{encoding} {CAMERA[1]}x{CAMERA[0]}': (encoding, *CAMERA) for encoding in FORMATS}
    cases |= {f'bgr8 {width}x{height}': ('bgr8', height, width) for height, width in sizes}
    letterboxed, boxes = {}, {}
    with open_device() as device:
        for name, (encoding, height, width) in cases.items():
            picture = as_camera(random, encoding, height, width)
            device.start(0, CameraJob([picture], THRESHOLDS, NMS_IOU, raw=True))
            answer = device.finish(0)
            planes = np.empty((1, 3, HEIGHT, WIDTH), np.float32)
            drv.memcpy_dtoh(planes, device._slots[0].input)
            expected = np.empty((HEIGHT, WIDTH, 3), np.uint8)
            Letterbox(height, width, HEIGHT, WIDTH).apply(to_bgr(picture), expected)
            off = np.abs(np.rint(planes[0, ::-1].transpose(1, 2, 0) * 255) - expected)
            letterboxed[name] = {
                'worst_grey_levels': float(off.max()),
                'share_that_differs': round(float((off > 0).mean()), 5),
            }
            output = answer.output
            assert output is not None
            found = read_answer(answer.answers[0], CLASSES)
            if found is None:  # more than the lists hold: the engine decodes on the CPU then
                found = decode(output[0], 'anchors', THRESHOLDS, NMS_IOU)
            boxes[name] = compare(found, decode(output[0], 'anchors', THRESHOLDS, NMS_IOU))
            whole = decode(scores_on_cpu(expected), 'anchors', THRESHOLDS, NMS_IOU)
            boxes[name]['found_from_the_cpu_s_picture'] = len(whole)
    return {'letterbox': letterboxed, 'boxes': boxes}


def compare(found: Detections, expected: Detections) -> dict[str, Any]:
    same = np.array_equal(found.class_id, expected.class_id)
    off = np.abs(found.xyxy_px - expected.xyxy_px).max() if same and len(expected) else 0.0
    return {'boxes': len(expected), 'same_classes': same, 'worst_px': round(float(off), 4)}


def scores_on_cpu(bgr: UInt8) -> Float32:
    """What the stand-in computes from a letterboxed picture, (9, CELLS)."""
    planes = bgr[..., ::-1].astype(np.float32) / 255
    rows, columns = HEIGHT // CELL_PX, WIDTH // CELL_PX
    mean = planes.reshape(rows, CELL_PX, columns, CELL_PX, 3).mean((1, 3)).reshape(CELLS, 3)
    scores = np.clip(mean @ WEIGHTS.T + BIAS, 0, 1).T
    y, x = np.divmod(np.arange(CELLS), columns)
    size = np.full(CELLS, CELL_PX)
    box = np.stack([x * CELL_PX + CELL_PX / 2, y * CELL_PX + CELL_PX / 2, size, size])
    return np.concatenate([box, scores]).astype(np.float32)


# --- times ---


def camera_job(count: int = 1) -> CameraJob:
    picture = CameraPicture.of_bgr(road(np.random.default_rng(1), *CAMERA))
    return CameraJob([picture] * count, THRESHOLDS, NMS_IOU)


def median_ms(work: Callable[[], object], runs: int) -> float:
    """Median time of calling `work`, which must wait for the GPU itself."""
    for _ in range(WARM_UP_RUNS):
        work()
    times_ms = []
    for _ in range(runs):
        started = time.perf_counter_ns()
        work()
        times_ms.append((time.perf_counter_ns() - started) / 1e6)
    return round(statistics.median(times_ms), 4)


def measure_stations(runs: int) -> dict[str, Any]:
    """Each station alone, beside a bare copy of its bytes on this machine; launches included."""
    with open_device(use_graph=False) as device:
        device.start(0, camera_job())
        device.finish(0)
        return time_stations(device, runs)


def time_stations(device: CudaDevice, runs: int) -> dict[str, Any]:
    """With what lies in the device's first slot; gives back what it takes before it returns."""
    import pycuda.driver as drv

    source_bytes = CAMERA[0] * CAMERA[1] * 3
    network_bytes = 3 * HEIGHT * WIDTH * 4
    output_bytes = (4 + CLASSES) * CELLS * 4
    slot, kernels, stream = device._slots[0], device._kernels, drv.Stream(1)
    frame, request = slot.upload_host[:source_bytes], slot.upload_host[:FIRST_PICTURE]
    other = drv.mem_alloc(source_bytes)
    upload, planes, output = int(slot.upload), int(slot.input), int(slot.output)
    candidates, answers = int(slot.candidates), int(slot.answers)
    grid = (-(-WIDTH // LETTERBOX_BLOCK[0]), -(-HEIGHT // LETTERBOX_BLOCK[1]), 1)
    cells = (-(-CELLS // SELECT_BLOCK[0]), 1, 1)

    def copy() -> None:
        drv.memcpy_htod_async(slot.upload, frame, stream)

    def letterbox() -> None:
        kernels['letterbox'].prepared_async_call(
            grid, LETTERBOX_BLOCK, stream, upload, planes, WIDTH, HEIGHT, 1, 1 / 255
        )

    def decoding() -> None:
        drv.memcpy_htod_async(slot.upload, request, stream)  # its counters begin at zero
        kernels['select_anchors'].prepared_async_call(
            cells, SELECT_BLOCK, stream, output, upload, candidates, CLASSES, CELLS
        )
        kernels['suppress'].prepared_async_call(
            (1, 1, 1), SUPPRESS_BLOCK, stream, upload, candidates, answers, 1
        )
        drv.memcpy_dtoh_async(slot.answers_host, slot.answers, stream)

    def inside() -> None:
        drv.memcpy_dtod_async(other, slot.upload, source_bytes, stream)

    def timed(*work: Callable[[], None]) -> float:
        def run() -> None:
            for one in work:
                one()
            stream.synchronize()

        return median_ms(run, runs)

    copy_ms, both_ms = timed(copy), timed(copy, letterbox)
    letterbox_ms, decode_ms = timed(letterbox), timed(decoding)
    nothing_ms, inside_ms = timed(), timed(inside)
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
    """Whole frames through the engine and its thread: graph and launches, one caller and two."""
    found: dict[str, Any] = {}
    for batch in (1, 2):
        pictures = camera_job(batch).pictures
        for use_graph in (True, False):
            engine = open_engine(batch, use_graph)

            def ask(engine: CudaEngine = engine, pictures: Any = pictures) -> object:
                return engine.detect(pictures, THRESHOLDS, NMS_IOU)

            name = f'batch {batch}, {"graph" if use_graph else "launches"}'
            found[name] = {'launches': engine.launches, 'one_caller_ms': median_ms(ask, runs)}
            with ThreadPoolExecutor(2) as pool:
                started = time.perf_counter()
                list(pool.map(lambda _: ask(), range(runs)))
                each_ms = (time.perf_counter() - started) / runs * 1e3
            found[name]['two_callers_ms_per_frame'] = round(each_ms, 4)
            engine.close()
    return found


# --- leaks ---


def search_leaks(frames: int, loads: int) -> dict[str, Any]:
    """Growth of memory over many frames of changing sizes, and over many loads."""
    random = np.random.default_rng(5)
    pictures = [
        CameraPicture.of_bgr(road(random, *size)) for size in (CAMERA, (1080, 1920), (376, 672))
    ]
    engine = open_engine()
    for picture in pictures * WARM_UP_RUNS:
        engine.detect([picture], THRESHOLDS, NMS_IOU)
    before = memory_bytes()
    for index in range(frames):
        engine.detect([pictures[index % 3]], THRESHOLDS, NMS_IOU)
    after = memory_bytes()
    engine.close()
    open_engine().close()
    loads_before = memory_bytes()
    for _ in range(loads):
        engine = open_engine()
        engine.detect([pictures[0]], THRESHOLDS, NMS_IOU)
        engine.close()
    loads_after = memory_bytes()
    return {
        'frames': {'count': frames, **growth(before, after)},
        'loads': {'count': loads, **growth(loads_before, loads_after)},
    }


def growth(before: tuple[int, int], after: tuple[int, int]) -> dict[str, int]:
    return {
        'host_growth_bytes': after[0] - before[0],
        'device_growth_bytes': after[1] - before[1],
    }


def memory_bytes() -> tuple[int, int]:
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
    return pages * 4096, total - free


if __name__ == '__main__':
    sys.exit(main())
