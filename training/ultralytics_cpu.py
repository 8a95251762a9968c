"""Ultralytics made importable, silent on the network, and whole beside a CPU build of torch."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cone_perception.errors import ModelError, told_as
from cone_perception.model_card import check_kind

QUIET = {
    'YOLO_OFFLINE': '1',
    'YOLO_AUTOINSTALL': 'False',
    'YOLO_VERBOSE': 'False',
    'ULTRALYTICS_SAFE_LOAD': '1',  # weights are data: what they hold is not run
    'YOLO_CONFIG_DIR': str(Path(tempfile.gettempdir()) / 'cone_training_ultralytics'),
}
"""Ultralytics reads these when it is imported. A value that the user has set is kept."""


class Trust(argparse.Action):
    """The option --trust: weights may hold any pickle, which runs when they are loaded."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        about = 'load weights (.pt) that run code of whoever made them; by default they are refused'
        super().__init__(option_strings, dest, nargs=0, default=False, help=about)

    def __call__(self, *_: object) -> None:
        os.environ['ULTRALYTICS_SAFE_LOAD'] = '0'
        print('warning: --trust: what is inside of the weights is run as you', file=sys.stderr)


def check_weights(path: Path) -> None:
    """Raise ModelError for weights that are none for detection, or that would run code."""
    check_kind(path, '.pt')
    prepare_ultralytics()
    from ultralytics.nn import tasks

    safe = getattr(getattr(tasks, '_SafeLoad', None), 'SUPPORTED', False)
    trusted = os.environ['ULTRALYTICS_SAFE_LOAD'] == '0'
    if not safe and not trusted:
        raise ModelError(
            f'{path} could run code: this PyTorch or Ultralytics cannot load weights as data. '
            'Install torch 2.6 and ultralytics 8.4.190 or newer, or trust its maker: --trust.'
        )
    advice = 'Give weights that Ultralytics saved; where they hold more and you trust their maker: '
    # Unpickling raises anything.
    told = told_as(
        *(ModelError, f'{path} cannot be loaded as Ultralytics weights', Exception),
        advice=f'{advice}--trust.',
    )
    with told:
        loaded = tasks.torch_safe_load(path, safe_only=not trusted)[0]
        model = loaded.get('ema') or loaded['model']
        task = getattr(model, 'task', None) or tasks.guess_model_task(model)
    if task != 'detect':
        raise ModelError(f'{path} holds weights for {task}, not for detection of boxes.')


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
