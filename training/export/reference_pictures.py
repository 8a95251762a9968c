"""Pictures that an engine is checked on before it may drive, with FP32's answers: reference.npz.

Rendered drives and noise only, so that a bundle holds nobody's pictures.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from cone_perception.engines.check import REFERENCE_FILE
from cone_perception.types import Float32, UInt8
from training.export.calibration import letterbox
from training.simulate.bag import drive_frames
from training.simulate.settings import SimulateSettings

SEED = 7_041_776
DRIVE_S, DRIVE_HZ = 3.0, 1.0
NOISE_CELL_PX = 16


def reference_pictures(height_px: int, width_px: int) -> UInt8:
    """(4, height_px, width_px, 3) uint8 BGR, letterboxed: three of a rendered drive, then noise."""
    drive = drive_frames(SimulateSettings(), SEED, DRIVE_S, DRIVE_HZ)
    pictures = [letterbox(np.asarray(f.image, np.uint8), height_px, width_px) for f in drive]
    random = np.random.default_rng(SEED)
    shape = (height_px // NOISE_CELL_PX, width_px // NOISE_CELL_PX, 3)
    coarse = random.integers(0, 256, shape, np.uint8)
    noise = cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_LINEAR)
    return np.stack([*pictures, noise.astype(np.uint8)])


def write_reference(folder: Path, pictures: UInt8, outputs: Float32) -> Path:
    """Write reference.npz: the pictures and what the FP32 network puts out for them."""
    path = folder / REFERENCE_FILE
    np.savez_compressed(path, inputs=pictures, outputs=outputs)
    return path
