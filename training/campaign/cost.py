"""Time and memory that a training picture costs: measured once, or here."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cone_perception.errors import RecipeError
from training.recipe.load import find_model
from training.recipe.recipe import Recipe, Stage

MEASURED_PX, MEASURED_BATCH = 320, 16
MEASURED = {
    ('yolo12n', True): (42, 1.1),
    ('yolo26n', True): (25, 1.1),
    ('yolo26n', False): (51, 1.6),
}
"""Network, amp (bfloat16) -> milliseconds per training image on a CPU, resident memory in GB.

Measured as `--measure` does, the quickest of two to four runs on two cores of an AMD EPYC with
avx512_bf16 and torch 2.13. Pictures are read, and validated, on top; beside other work it takes up
to twice as long.
"""

BASE_GB = 0.5
"""Memory without a picture. The rest grows with pixels: a YOLO12n at 640 px took, with batches
of 8 and 16 in bfloat16, 1.9 and 3.3 GB."""

STRATEGY_S_PER_IMAGE = 4.5 * 86400 / (200 * 19975 + 150 * 7120)
"""YOLO12n at 640 on the GPU of the strategy, which it does not name: 4 to 5 days in all."""

MEASURED_STEPS = 3
BOXES = 17
"""Per picture when steps are measured: the mean of FSOCO-12 (12,054 on 689 pictures)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Measured or estimated. s_per_image: of training alone; None: not known. basis: from what."""

    s_per_image: float | None
    memory_gb: float | None
    basis: str


def known_cost(recipe: Recipe, stage: Stage) -> Cost:
    """Cost of a training image from what was measured; time by area, memory by a batch's area.

    Memory is of one GPU, which has its share of the batch; what a CPU takes is taken for a GPU's.
    """
    network = Path(recipe.model).stem
    measured = MEASURED.get((network, recipe.amp))
    area = (stage.imgsz / MEASURED_PX) ** 2
    batch = stage.batch / max(len(recipe.gpus), 1)
    memory_gb = None
    if measured:
        memory_gb = BASE_GB + (measured[1] - BASE_GB) * area * batch / MEASURED_BATCH
    if recipe.gpus:
        if network != 'yolo12n':
            rough = 'rough, from a CPU; ' if measured else ''
            basis = f'{rough}{network} was timed on no GPU: --measure does it here'
            return Cost(None, memory_gb, basis)
        return Cost(
            STRATEGY_S_PER_IMAGE * (stage.imgsz / 640) ** 2 / len(recipe.gpus),
            memory_gb,
            "rough: time from the strategy's 4 to 5 days on one GPU that it does not name, memory "
            'from a CPU; --measure takes both here',
        )
    if not measured:
        told = f'{network} with amp={str(recipe.amp).lower()}'
        return Cost(None, None, f'{told} was not measured on a CPU: --measure does it here')
    kind = 'bfloat16 in hardware' if recipe.amp else 'float32'
    here = (stage.imgsz, stage.batch) == (MEASURED_PX, MEASURED_BATCH)
    scaled = '' if here else f' at {MEASURED_PX} px, scaled to {stage.imgsz} px, {stage.batch}'
    return Cost(
        measured[0] * area / 1000,
        memory_gb,
        f'measured on two cores with {kind}, batch {MEASURED_BATCH}{scaled}',
    )


def measure_cost(recipe: Recipe, stage: Stage) -> Cost:
    """Time a few training steps on noise; nothing is written, and no picture is read.

    On a CPU at most 16 pictures make a step, in bfloat16 with amp, shared among the cores as when a
    stage trains; memory is that of this process. Raises RecipeError when the network or the device
    cannot be had.
    """
    from training.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    import torch
    from ultralytics import YOLO
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel

    from training.stage.sharded_trainer import ShardedLoss

    path = Path(recipe.model)
    if path.suffix == '.pt' and path.is_file():
        model = YOLO(str(path)).model
    else:
        architecture = path.with_suffix('.yaml').name if path.suffix == '.pt' else recipe.model
        model = DetectionModel(str(find_model(architecture)), nc=5)
    device = f'cuda:{recipe.gpus[0]}' if recipe.gpus else 'cpu'
    if recipe.gpus and recipe.gpus[0] >= torch.cuda.device_count():
        raise RecipeError(f'{device} cannot be measured: torch sees none here (device=cpu)')
    batch = max(stage.batch // len(recipe.gpus), 1) if recipe.gpus else min(stage.batch, 16)
    model.args = get_cfg()
    model = model.to(device).train()
    for parameter in model.parameters():
        parameter.requires_grad = parameter.dtype.is_floating_point
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    pictures = {
        'img': torch.rand(batch, 3, stage.imgsz, stage.imgsz, device=device),
        'cls': torch.randint(0, 5, (batch * BOXES, 1), device=device).float(),
        'bboxes': 0.05 + 0.1 * torch.rand(batch * BOXES, 4, device=device),
        'batch_idx': torch.arange(batch, device=device).repeat_interleave(BOXES).float(),
    }
    loss_of = model
    if not recipe.gpus:  # as a stage trains
        model = model.to(memory_format=torch.channels_last)
        pictures['img'] = pictures['img'].contiguous(memory_format=torch.channels_last)
        loss_of = ShardedLoss(model, os.cpu_count() or 1, recipe.amp)
    start = 0.0
    for step in range(MEASURED_STEPS + 1):
        if step == 1:  # the first one warms up
            start = _now(torch, device)
        with torch.autocast('cuda', enabled=recipe.amp and bool(recipe.gpus)):
            loss = loss_of(pictures)[0].sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = (_now(torch, device) - start) / MEASURED_STEPS / batch / max(len(recipe.gpus), 1)
    used_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if recipe.gpus:
        used_bytes = torch.cuda.max_memory_allocated(device)
    return Cost(
        seconds,
        used_bytes / 1e9,
        f'{MEASURED_STEPS} steps of {batch} pictures measured on {device}',
    )


def _now(torch: Any, device: str) -> float:
    if device != 'cpu':
        torch.cuda.synchronize()
    return time.perf_counter()
