"""Ultralytics' detection trainer, made quick on a CPU and steered by the clock.

Imports torch and ultralytics: import it only after `prepare_ultralytics()`.

What makes it quick (AMD EPYC with avx512_bf16, two cores, yolo26n at 320 px, batch 16): bfloat16
convolutions in channels-last memory, and every core at work (Ultralytics leaves one free): 25 ms a
picture with both cores free, 45 ms beside other work, where Ultralytics' own way takes 158.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import time
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from ultralytics.data.dataset import YOLODataset
from ultralytics.models.yolo.detect import DetectionTrainer

from cone_perception.errors import ModelError
from cone_perception.types import UInt8

EPOCHS = 100_000
"""Never reached: the clock ends the training."""

LOG_EVERY_S = 15.0
PREVIOUS = 'previous.pt'
"""The checkpoint before last.pt."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate and its like as functions of the share of the time budget used, 0..1.

    A slow or shared machine trains fewer steps, but the schedule always completes.

    budget_s: training time. final: learning rate at the end as a share of its peak.
    warmup: share of the time in which the rate rises from 0 to its peak.
    plain: share at the end without mosaic. checkpoint_s: time between two checkpoints.
    """

    budget_s: float
    final: float = 0.01
    warmup: float = 0.02
    plain: float = 0.15
    checkpoint_s: float = 120.0

    def rate(self, used: float) -> float:
        """Learning rate as a share of its peak: a linear rise, then half a cosine."""
        if used < self.warmup:
            return max(used / self.warmup, 1e-3)
        fall = min((used - self.warmup) / (1 - self.warmup), 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * fall))

    def one_to_many(self, used: float) -> float:
        """Weight of YOLO26's auxiliary head: 0.8 falling to 0.1, as Ultralytics does by epoch."""
        return 0.8 - 0.7 * min(used, 1.0)


@dataclass(slots=True)
class Progress:
    """What a run has done so far. Saved beside each checkpoint."""

    trained_s: float = 0.0
    pictures: int = 0


class CameraFaults:
    """What cameras do to a picture and a renderer does not: applied to training pictures only."""

    def __call__(self, labels: dict[str, Any]) -> dict[str, Any]:
        labels['img'] = spoil(labels['img'])
        return labels


def spoil(bgr: UInt8) -> UInt8:
    """A copy of the picture with random exposure, white balance, blur, noise and compression."""
    chance = random.random
    picture = bgr
    if chance() < 0.5:  # white balance and exposure per channel, then a tone curve
        gain = np.random.uniform(0.88, 1.12, 3) * random.uniform(0.75, 1.3)
        ramp = np.linspace(0, 1, 256)[:, None] ** random.uniform(0.7, 1.4)
        curves = np.clip(ramp * gain * 255 + random.uniform(-15, 15), 0, 255).astype(np.uint8)
        picture = cv2.LUT(picture, curves[:, None])
    if chance() < 0.15:
        grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        picture = cv2.addWeighted(picture, keep := random.uniform(0.3, 1.0), grey, 1 - keep, 0)
    height, width = picture.shape[:2]
    blur = chance()
    if blur < 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.4, 1.3))
    elif blur < 0.35:  # fewer pixels than the network's
        share = random.uniform(0.5, 0.9)
        small = cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    elif blur < 0.55:  # the sharpening of camera firmware
        soft = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.7, 1.5))
        amount = random.uniform(0.3, 1.5)
        picture = cv2.addWeighted(picture, 1 + amount, soft, -amount, 0)
    if chance() < 0.3:
        noise = np.empty(picture.shape, np.int16)
        cv2.randn(noise, 0, random.uniform(2, 12))
        picture = cv2.add(picture, noise, dtype=cv2.CV_8U)
    if chance() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, random.randint(30, 90)]
        picture = cv2.imdecode(cv2.imencode('.jpg', picture, quality)[1], cv2.IMREAD_COLOR)
    return np.ascontiguousarray(picture)


class SpoiledDataset(YOLODataset):  # type: ignore[misc]
    """Ultralytics' dataset whose training pictures pass through CameraFaults."""

    def build_transforms(self, hyp: Any = None) -> Any:
        transforms = super().build_transforms(hyp)
        if self.augment:
            transforms.insert(len(transforms.transforms) - 1, CameraFaults())
        return transforms


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

    bfloat16: of the convolutions on a CPU.
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
        """Write best.pt, then last.pt, so that a kill or a full disk leaves whole files.

        The last.pt of before becomes previous.pt.
        """
        last, best = self.last, self.best
        self.last, self.best = last.with_suffix('.part'), best.with_suffix('.part')
        try:
            super().save_model()
            if self.best.is_file():
                replace_file(self.best, best)
            sync_file(self.last)
            if last.is_file():
                last.replace(last.with_name(PREVIOUS))  # killed here, that one is gone on from
            self.last.replace(last)
        finally:
            for part in (self.last, self.best):
                part.unlink(missing_ok=True)
            self.last, self.best = last, best
        return True


def replace_file(part: Path, whole: Path) -> None:
    """Put a file that was written to the end in the place of another."""
    sync_file(part)
    part.replace(whole)


def sync_file(path: Path) -> None:
    """Wait until a file that was written to the end is on the disk."""
    with path.open('rb') as file:
        os.fsync(file.fileno())


def last_checkpoint(weights: Path) -> Path | None:
    """The newest checkpoint in a folder that can be read; None: nothing was saved yet.

    Raises ModelError when there are some and all are damaged.
    """
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


class ClockedTrainer(ShardedTrainer):
    """Trains until the schedule's time is used up; killed and started again, it goes on.

    There is no validation inside: the result is the averaged weights at the schedule's end, and
    what they are worth is for `cone-training judge` to say.
    """

    def __init__(self, overrides: dict[str, Any], schedule: Schedule, workers: int) -> None:
        super().__init__(overrides={**overrides, 'epochs': EPOCHS, 'val': False, 'plots': False})
        self.args.workers = workers
        self.schedule = schedule
        self.progress = Progress()
        self._mosaic_closed = False
        self.progress_file = self.save_dir / 'progress.json'
        if self.resume and self.progress_file.is_file():
            self.progress = Progress(**json.loads(self.progress_file.read_text()))
        self.add_callback('on_train_start', ClockedTrainer._start_clock)
        self.add_callback('on_train_epoch_start', ClockedTrainer._close_mosaic_in_time)
        self.add_callback('on_train_batch_end', ClockedTrainer._tick)

    @property
    def used(self) -> float:
        """Share of the time budget that is used up."""
        return self.progress.trained_s / self.schedule.budget_s

    def build_dataset(self, img_path: str, mode: str = 'train', batch: int | None = None) -> Any:
        return SpoiledDataset(
            img_path=img_path,
            imgsz=self.args.imgsz,
            batch_size=batch,
            augment=mode == 'train',
            hyp=copy(self.args),
            rect=False,
            cache=self.args.cache if mode == 'train' else None,
            stride=32,
            pad=0.0,
            task='detect',
            data=self.data,
        )

    def _setup_train(self) -> None:
        super()._setup_train()
        self.model.criterion = None  # Ultralytics would weigh the heads by epoch, not by the clock

    def optimizer_step(self) -> None:
        used = self.used
        for group in self.optimizer.param_groups:
            group['lr'] = group['initial_lr'] * self.schedule.rate(used)
        for criterion in self.model.loss.criteria:
            if hasattr(criterion, 'o2m'):  # YOLO26's two heads
                criterion.o2m = self.schedule.one_to_many(used)
                criterion.o2o = 1 - criterion.o2m
        super().optimizer_step()

    def validate(self) -> tuple[dict[str, float], float]:
        return {}, 0.0

    def final_eval(self) -> None:
        """Nothing: the last checkpoint is the result."""

    def save_model(self) -> bool:
        self.fitness = 0.0
        super().save_model()
        partial = self.progress_file.with_suffix('.part')
        partial.write_text(json.dumps(asdict(self.progress)))
        partial.replace(self.progress_file)
        return True

    def _start_clock(self) -> None:
        self._tick_at = self._saved_at = self._logged_at = time.monotonic()
        self._logged_pictures = self.progress.pictures

    def _close_mosaic_in_time(self) -> None:
        if self.used >= 1 - self.schedule.plain and not self._mosaic_closed:
            self._mosaic_closed = True
            self._close_dataloader_mosaic()
            self.train_loader.reset()

    def _tick(self) -> None:
        now = time.monotonic()
        self.progress.trained_s += now - self._tick_at
        self.progress.pictures += self.batch_size
        self._tick_at = now
        if now - self._logged_at > LOG_EVERY_S:
            self._log(now)
        if self.used >= 1:
            self.stop = True
        elif now - self._saved_at > self.schedule.checkpoint_s:
            self._saved_at = now
            self.save_model()

    def _log(self, now: float) -> None:
        done = self.progress.pictures - self._logged_pictures
        losses = ' '.join(f'{name} {float(loss):.3f}' for name, loss in self.tloss.items())
        left_min = (self.schedule.budget_s - self.progress.trained_s) / 60
        print(
            f'{time.strftime("%H:%M:%S")} {self.used:6.1%}  {self.progress.pictures} pictures, '
            f'{(now - self._logged_at) / done * 1000:.0f} ms each, {left_min:.1f} min left; '
            f'lr {self.optimizer.param_groups[0]["lr"]:.2e}; {losses}',
            flush=True,
        )
        self._logged_at, self._logged_pictures = now, self.progress.pictures


def train(overrides: dict[str, Any], schedule: Schedule, workers: int, folder: Path) -> Path:
    """Train into `folder`, or go on with what lies there. Returns the last checkpoint's path."""
    last = folder / 'weights' / 'last.pt'
    if checkpoint := last_checkpoint(last.parent):
        overrides = {'resume': str(checkpoint), 'save_dir': str(folder)}
    trainer = ClockedTrainer(overrides, schedule, workers)
    if trainer.used < 1:
        trainer.train()
    return last


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
