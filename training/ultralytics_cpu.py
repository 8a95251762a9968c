"""Ultralytics made importable, silent on the network, and whole beside a CPU build of torch."""

from __future__ import annotations

import importlib
import os
import tempfile
from pathlib import Path
from typing import Any

QUIET = {
    'YOLO_OFFLINE': '1',
    'YOLO_AUTOINSTALL': 'False',
    'YOLO_VERBOSE': 'False',
    'YOLO_CONFIG_DIR': str(Path(tempfile.gettempdir()) / 'cone_training_ultralytics'),
}
"""Ultralytics reads these when it is imported. A value that the user has set is kept."""


def prepare_ultralytics() -> None:
    """Call before the first import of ultralytics. Calling it again does nothing.

    PyPI's torchvision is built for CUDA; beside a CPU torch its import stops with "operator
    torchvision::nms does not exist". There the operators' schemas are defined first and
    Ultralytics' own NMS takes their place. A healthy torchvision is left alone.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    Path(os.environ['YOLO_CONFIG_DIR']).mkdir(parents=True, exist_ok=True)
    try:
        importlib.import_module('torchvision')
    except RuntimeError as error:
        if 'torchvision::nms' not in str(error):
            raise
        import torch

        schemas = torch.library.Library('torchvision', 'DEF')
        schemas.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        schemas.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        _kept.append(schemas)
        torchvision = importlib.import_module('torchvision')
        torchvision.ops.nms = importlib.import_module('ultralytics.utils.nms').TorchNMS.nms
    # Reading a data.yaml, it asks github.com for a font; nothing here draws with one.
    data: Any = importlib.import_module('ultralytics.data.utils')
    data.check_font = lambda font: None


_kept: list[object] = []
"""Schemas live as long as the object that defined them."""
