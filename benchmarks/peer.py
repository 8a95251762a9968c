"""`ultralytics predict` as a user calls it, in FP32 on the CPU: what ours is measured beside."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def load_peer(
    weights: Path, imgsz: int, confidence: float, iou: float, threads: int = 0
) -> Callable[[Any], Any]:
    """A function from picture, (H, W, 3) uint8 BGR, to Ultralytics' result; warm.

    imgsz: 640 makes 384x640 of a 720p picture. threads: 0 is one for each core.
    """
    from training.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    import torch
    from ultralytics import YOLO

    model = YOLO(weights)
    options = {'imgsz': imgsz, 'conf': confidence, 'iou': iou, 'device': 'cpu', 'verbose': False}
    grey = np.full((720, 1280, 3), 114, np.uint8)
    model.predict(grey, **options)
    # After the first call: that sets its own number of threads.
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    for _ in range(3):
        model.predict(grey, **options)
    return lambda bgr: model.predict(bgr, **options)[0]
