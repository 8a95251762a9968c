"""The CUDA kernels compiled by g++ and run on the CPU, for tests."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cone_perception.engines.cuda.request import (
    ANSWER,
    CANDIDATE_BYTES,
    MAX_BATCH,
    MAX_CANDIDATES,
    CameraJob,
    read_answer,
    upload_bytes,
    write_upload,
)
from cone_perception.preprocess import View, whole_view
from cone_perception.types import CameraPicture, Detections, Float32, OutputLayout, UInt8

HERE = Path(__file__).parent
KERNELS = HERE.parent / 'cone_perception' / 'engines' / 'cuda'
CLASSES = 5


def compile_kernels(folder: Path, half: bool) -> ctypes.CDLL:
    """The kernels as a library; skips the test where there is no g++."""
    compiler = shutil.which('g++')
    if compiler is None:
        pytest.skip('needs g++')
    library = folder / f'kernels_{half}.so'
    source = folder / 'kernels.cpp'
    source.write_text('#include "kernel_shim.hpp"\n')
    halves = ['-DINPUT_HALF', '-DOUTPUT_HALF'] if half else []
    done = subprocess.run(
        [
            *(compiler, '-std=c++20', '-O2', '-ffp-contract=off', '-Wall', *halves),
            *('-shared', '-fPIC', '-pthread', f'-I{KERNELS}', f'-I{HERE}'),
            *(str(source), '-o', str(library)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def compile_check(program: Path, sanitiser: str) -> None:
    """kernel_memory_check.cpp with a sanitiser; skips the test where g++ has none."""
    done = subprocess.run(
        [
            *(shutil.which('g++') or 'g++', '-std=c++20', '-O1', f'-fsanitize={sanitiser}'),
            *('-fno-sanitize-recover=all', '-pthread', f'-I{KERNELS}'),
            *(str(HERE / 'kernel_memory_check.cpp'), '-o', str(program)),
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode and 'cannot find' in done.stderr:
        pytest.skip(f'g++ has no sanitiser for {sanitiser}')
    assert done.returncode == 0, done.stderr


@dataclass
class Kernels:
    """The kernels as functions of numpy arrays."""

    library: ctypes.CDLL
    half: bool

    def letterbox(
        self,
        pictures: Sequence[CameraPicture],
        height: int,
        width: int,
        rgb: bool = True,
        views: Sequence[View] = (),
    ) -> Float32:
        """(MAX_BATCH, 3, height, width) of these views, or whole ones; -1 where there is none."""
        views = views or [whole_view(p.height, p.width, (height, width)) for p in pictures]
        upload = _upload(pictures, views, np.full(CLASSES, 0.25, np.float32), 0.6)
        kind = np.float16 if self.half else np.float32
        network = np.full((MAX_BATCH, 3, height, width), -1, kind)
        self.library.run_letterbox(
            _at(upload), _at(network), MAX_BATCH, width, height, int(rgb), ctypes.c_float(1 / 255)
        )
        return network.astype(np.float32)

    def answers(
        self, output: Float32, layout: OutputLayout, thresholds: Float32, nms_iou: float
    ) -> npt.NDArray[np.void]:
        """(B,) answers to a network's output (B, .., ..)."""
        batch = len(output)
        picture = CameraPicture.of_bgr(np.zeros((1, 1, 3), np.uint8))
        views = [whole_view(1, 1, (32, 32))] * batch
        upload = _upload([picture] * batch, views, thresholds, nms_iou)
        kind = np.float16 if self.half else np.float32
        output = np.ascontiguousarray(output, kind)
        candidates = np.zeros(batch * MAX_CANDIDATES * CANDIDATE_BYTES, np.uint8)
        answers = np.zeros(batch, ANSWER)
        boxes = output.shape[2] if layout == 'anchors' else output.shape[1]
        memory = (_at(output), _at(upload), _at(candidates), batch)
        if layout == 'anchors':
            self.library.run_select_anchors(*memory, len(thresholds), boxes)
        else:
            self.library.run_select_boxes(*memory, boxes)
        classes = len(thresholds) if layout == 'anchors' else 0
        self.library.run_suppress(*memory[:3], _at(answers), batch, classes, boxes, 8)
        return answers

    def decode(
        self, output: Float32, layout: OutputLayout, thresholds: Float32, nms_iou: float = 0.6
    ) -> Detections:
        found = read_answer(
            self.answers(output[None], layout, thresholds, nms_iou)[0], len(thresholds)
        )
        assert found is not None
        return found


def _at(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _upload(
    pictures: Sequence[CameraPicture], views: Sequence[View], thresholds: Float32, nms_iou: float
) -> UInt8:
    upload = np.full(upload_bytes(pictures), 0xEE, np.uint8)
    write_upload(upload, CameraJob(pictures, views, thresholds, nms_iou))
    return upload
