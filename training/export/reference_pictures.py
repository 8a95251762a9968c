"""Pictures that an engine is checked on before it may drive, with FP32's answers: reference.npz.

They are rendered drives and noise only, so that a bundle holds nobody's pictures.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from cone_perception.engines.check import REFERENCE_FILE, run_all
from cone_perception.engines.cpu.open import open_network
from cone_perception.errors import ModelError
from cone_perception.model_card import Bundle
from cone_perception.types import Float32, UInt8
from training.export.calibration import letterbox
from training.export.sensitivity import score_error
from training.simulate.bag import drive_frames
from training.simulate.settings import SimulateSettings

SEED = 7_041_776
DRIVE_S, DRIVE_HZ = 3.0, 1.0
NOISE_CELL_PX = 16
SAME_SCORE = 0.001
"""Mean score error between the exports for two batches of the same weights."""


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


def write_answers(bundle: Bundle) -> None:
    """Write reference.npz, and check that every batch's FP32 network agrees with it.

    Raises ModelError when the exports for two batches differ.
    """
    card = bundle.card
    pictures = reference_pictures(card.height_px, card.width_px)
    expected = None
    for network in [each for each in card.networks if each.precision == 'fp32']:
        engine = open_network(bundle, network, 'onnxruntime')
        try:
            outputs = run_all(engine, pictures)
        finally:
            engine.close()
        if expected is None:
            expected = outputs
            write_reference(bundle.folder, pictures, outputs)
        differs = max(
            score_error(*pair, card.output_layout) for pair in zip(expected, outputs, strict=True)
        )
        if not differs <= SAME_SCORE:
            raise ModelError(
                f'the export for batch {network.batch} gives scores that differ from those for '
                f'batch 1 by {differs:.3f}: this version of Ultralytics exports it wrongly. '
                'Install another.'
            )
