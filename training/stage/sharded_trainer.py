"""Ultralytics' detection trainer, made quick on a CPU; its checkpoints are whole or not there.

Import it only after `prepare_ultralytics()`. bfloat16, channels-last memory and every core make
25 ms a picture, 45 beside other work, where Ultralytics alone takes 158 (AMD EPYC with
avx512_bf16, two cores, yolo26n at 320 px, batch 16).
"""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from ultralytics.models.yolo.detect import DetectionTrainer

from cone_perception.errors import ModelError

PREVIOUS = 'previous.pt'
"""The last.pt of before."""


def sync_file(path: Path) -> None:
    """Wait until a file that was written to the end is on the disk."""
    with path.open('rb') as file:
        os.fsync(file.fileno())


def last_checkpoint(weights: Path) -> Path | None:
    """The newest checkpoint that can be read; None: none yet. Raises ModelError: all damaged."""
    saved = [path for name in ('last.pt', PREVIOUS) if (path := weights / name).is_file()]
    for path in saved:
        if is_whole(path):
            return path
    if saved:
        raise ModelError(
            f'{" and ".join(map(str, saved))} cannot be read: the disk failed, or another program '
            f'wrote there. Delete {weights.parent} to train it from its start.'
        )
    return None


def is_whole(checkpoint: Path) -> bool:
    """A checkpoint was written to its end, and nothing in it has changed since."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, EOFError, zlib.error):
        return False


@contextlib.contextmanager
def all_cores(apply: bool) -> Iterator[None]:
    """Ultralytics leaves a core free."""
    threads = torch.get_num_threads()
    if apply:
        torch.set_num_threads(os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class ShardedLoss:
    """A model's loss and its gradients, each shard of a batch in a thread of its own.

    Takes the place of `model.loss`. Torch's own threads wait for each other after every operator,
    so that one busy core slows all of them six-fold; shards wait once per step. The gradients are
    added up here, and the loss that is returned has none left to give.

    bfloat16: of the convolutions; the loss itself is always computed in float32.
    """

    def __init__(self, model: Any, shards: int, bfloat16: bool = True) -> None:
        self.model = model
        self.criteria = [model.init_criterion() for _ in range(shards)]
        self.bfloat16 = bfloat16
        self._threads = ThreadPoolExecutor(shards, initializer=torch.set_num_threads, initargs=(1,))

    def __call__(self, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        shards = split_batch(batch, len(self.criteria))
        losses, items = zip(
            *self._threads.map(self._backward, self.criteria[: len(shards)], shards), strict=True
        )
        mean = {name: sum(item[name] for item in items) / len(items) for name in items[0]}
        return sum(losses).requires_grad_(), mean

    def update(self) -> None:
        """Ultralytics' turn to the next epoch: YOLO26 shifts weight from one head to the other."""
        for criterion in self.criteria:
            if hasattr(criterion, 'update'):
                criterion.update()

    def _backward(
        self, criterion: Any, batch: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.autocast('cpu', torch.bfloat16, enabled=self.bfloat16):
            predictions = self.model.forward(batch['img'])
        loss, items = criterion(_float32(predictions), batch)  # bfloat16 is too coarse for boxes
        loss.sum().backward()
        return loss.detach().sum(), items


def split_batch(batch: dict[str, Any], shards: int) -> list[dict[str, Any]]:
    """Split an Ultralytics batch by pictures; a shard without pictures is left out."""
    parts = []
    for indices in torch.arange(len(batch['img'])).chunk(shards):
        first, last = int(indices[0]), int(indices[-1])
        inside = (batch['batch_idx'] >= first) & (batch['batch_idx'] <= last)
        parts.append(
            {
                'img': batch['img'][first : last + 1],
                'cls': batch['cls'][inside],
                'bboxes': batch['bboxes'][inside],
                'batch_idx': batch['batch_idx'][inside] - first,
            }
        )
    return parts


def _float32(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _float32(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_float32(entry) for entry in value)
    return value


class ShardedTrainer(DetectionTrainer):  # type: ignore[misc]
    """Ultralytics' trainer: quick on a CPU, as ever on a GPU, and its checkpoints are whole files.

    bfloat16: of the convolutions on a CPU. `_setup_train` is private to Ultralytics 8.4, which has
    no public place after the model and its averaged copy are made.
    """

    bfloat16 = True
    last: Path
    best: Path
    best_fitness: float | None

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        model = super().get_model(cfg, weights, verbose)
        if self.device.type == 'cpu':
            model = model.to(memory_format=torch.channels_last)
        return model

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch = super().preprocess_batch(batch)
        if self.device.type == 'cpu':
            batch['img'] = batch['img'].contiguous(memory_format=torch.channels_last)
        return batch

    def _setup_train(self) -> None:
        """The averaged weights, which are validated and saved, are copied before the loss is."""
        super()._setup_train()
        if self.device.type == 'cpu':
            loss = ShardedLoss(self.model, os.cpu_count() or 1, self.bfloat16)
            for _ in range(self.start_epoch):
                loss.update()
            self.model.loss = self.model.criterion = loss

    def save_model(self) -> bool:
        """Write best.pt, then last.pt, so that a kill or a full disk leaves whole files."""
        last, best = self.last, self.best
        self.last, self.best = last.with_suffix('.part'), best.with_suffix('.part')
        try:
            super().save_model()
            if self.best.is_file():
                sync_file(self.best)
                self.best.replace(best)
            sync_file(self.last)
            if last.is_file():
                last.replace(last.with_name(PREVIOUS))  # killed here, that one is gone on from
            self.last.replace(last)
        finally:
            for part in (self.last, self.best):
                part.unlink(missing_ok=True)
            self.last, self.best = last, best
        return True
