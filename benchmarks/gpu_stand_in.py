"""A network that needs neither TensorRT nor a model, and pictures that it finds something in."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from cone_perception.engines.cuda.compile import KernelOptions, find_compiler
from cone_perception.engines.cuda.request import FORMATS
from cone_perception.types import CameraPicture, Float32, UInt8

HEIGHT, WIDTH, CLASSES, CELL_PX = 384, 640, 5, 8
CELLS = HEIGHT // CELL_PX * (WIDTH // CELL_PX)
CAMERA = (720, 1280)

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
    """A Network of slot.py without TensorRT: the mean colour of 8x8 px cells, one box each."""

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


def scores_on_cpu(bgr: UInt8) -> Float32:
    """Compute the stand-in's output for a letterboxed picture, (9, CELLS)."""
    planes = bgr[..., ::-1].astype(np.float32) / 255
    rows, columns = HEIGHT // CELL_PX, WIDTH // CELL_PX
    mean = planes.reshape(rows, CELL_PX, columns, CELL_PX, 3).mean((1, 3)).reshape(CELLS, 3)
    scores = np.clip(mean @ WEIGHTS.T + BIAS, 0, 1).T
    y, x = np.divmod(np.arange(CELLS), columns)
    size = np.full(CELLS, CELL_PX)
    box = np.stack([x * CELL_PX + CELL_PX / 2, y * CELL_PX + CELL_PX / 2, size, size])
    return np.concatenate([box, scores]).astype(np.float32)


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
