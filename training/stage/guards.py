"""Rules that hold while a stage trains, and the errors when they do not. No torch."""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from cone_perception.dataset.layout import Layout, read_layout
from cone_perception.errors import ConePerceptionError, DataError
from training.recipe.recipe import Guards, Stage

StopReason = Literal['forgetting', 'loss_not_finite', 'out_of_memory', 'disk_full', 'terminated']

MUON_HEAD = 3.0
"""MuSGD of Ultralytics trains the class head at this multiple of lr0."""


class GuardError(ConePerceptionError):
    """The training differs from what the recipe says."""


class StageStopped(ConePerceptionError):  # noqa: N818
    """A stage ended before its time; its last checkpoint is whole, and it can go on from there."""

    def __init__(self, reason: StopReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def arguments(stage: Stage) -> dict[str, Any]:
    """The stage's settings as arguments of Ultralytics: all but those that are ours."""
    ours = ('name', 'data', 'crops_per_picture', 'crop_widths')
    names = (entry.name for entry in fields(stage))
    return {name: getattr(stage, name) for name in names if name not in ours}


def check_arguments(used: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise GuardError if Ultralytics' arguments are not those that were asked for."""
    wrong = [
        f'{name} is {used.get(name)!r} instead of {value!r}'
        for name, value in wanted.items()
        if used.get(name) != value
    ]
    if wrong:
        raise GuardError(
            f'Ultralytics does not train what the recipe says: {"; ".join(wrong)}. Either it '
            'changed the setting by itself, or the folder holds a run of another recipe: '
            'give the campaign another name, or correct the recipe.'
        )


def rate_share(stage: Stage, epoch: int) -> float:
    """Learning rate of an epoch (from 0) after warm-up, as a share of its peak."""
    if stage.cos_lr:
        return 1 + (stage.lrf - 1) * (1 - math.cos(math.pi * epoch / stage.epochs)) / 2
    return max(1 - epoch / stage.epochs, 0.0) * (1 - stage.lrf) + stage.lrf


def warmup_batches(stage: Stage, batches: int) -> int:
    """Batches of the warm-up, when an epoch has `batches`; the last epoch is never part of it."""
    return round(max(min(stage.warmup_epochs, stage.epochs - 1), 0) * batches)


def expected_rate(stage: Stage, peak: float, bias: bool, batch: int, batches: int) -> float:
    """Learning rate of a parameter group in batch number `batch` (from 0) of the whole stage.

    peak: the group's highest. bias: biases warm up from warmup_bias_lr, all others from 0.
    """
    target = peak * rate_share(stage, batch // batches)
    warmup = warmup_batches(stage, batches)
    if not warmup or batch > warmup:
        return target
    start = stage.warmup_bias_lr if bias else 0.0
    return start + (target - start) * batch / warmup


def check_rates(
    stage: Stage, groups: Sequence[Mapping[str, Any]], batch: int, batches: int
) -> None:
    """Raise GuardError if a group of the optimizer does not learn at the recipe's rate."""
    peaks = (stage.lr0, stage.lr0 * MUON_HEAD) if stage.optimizer == 'MuSGD' else (stage.lr0,)
    for index, group in enumerate(groups):
        bias = group.get('param_group') == 'bias'
        rates = [expected_rate(stage, peak, bias, batch, batches) for peak in peaks]
        if not any(math.isclose(group['lr'], rate, rel_tol=1e-6, abs_tol=1e-12) for rate in rates):
            raise GuardError(
                f'parameter group {index} ({group.get("param_group", "?")}) learns at '
                f'{group["lr"]:.3g} in batch {batch} instead of {rates[0]:.3g}, as the recipe says.'
            )


def expected_accumulation(stage: Stage, batches: int) -> int:
    """Batches to one optimizer step after warm-up."""
    return min(max(round(stage.nbs / stage.batch), 1), batches * stage.epochs)


def forgotten(map50: Sequence[float], start: float | None, guards: Guards) -> bool:
    """Target mAP50 was too far below the starting weights' in each of the last epochs.

    map50: of each epoch so far. start: of the starting weights; None: they had none.
    """
    last = map50[-guards.forgetting_epochs :]
    if start is None or len(last) < guards.forgetting_epochs:
        return False
    return all(value < start - guards.forgetting_drop for value in last)


def check_data(data_yaml: Path, target_yaml: Path) -> bool:
    """Refuse data that would make the verdict worthless. Returns: val is the target's own val.

    Raises DataError for what is no data set, for one that would run code, when classes differ from
    the target's, or when a picture of a test split would be trained on or select the model.
    """
    data, target = (read_layout(path) for path in (data_yaml, target_yaml))
    if wrong := [str(problem) for problem in (*data.problems, *target.problems) if problem.fatal]:
        raise DataError(f'{data_yaml} cannot be trained on: {"; ".join(wrong)}')
    if data.names != target.names:
        raise DataError(
            f'{data_yaml} has the classes {data.names}, but the target {target_yaml} has '
            f'{target.names}: a model would learn wrong numbers. `cone-training data verify` says '
            'what to do.'
        )
    test = _files(data, 'test') | _files(target, 'test')
    for split in ('train', 'val'):
        if shared := _files(data, split) & test:
            raise DataError(
                f'{data_yaml}: {len(shared)} pictures of its split `{split}` are test pictures, '
                f'the first is {min(shared)}. A model that is judged on them must not see them.'
            )
    return _files(data, 'val') == _files(target, 'val')


def _files(layout: Layout, split: str) -> set[Path]:
    return {path.resolve() for path in layout.splits.get(split, ())}


def lacking(error: BaseException) -> StopReason | None:
    """Tell what the machine lacks, by an error; None: it is something else."""
    if isinstance(error, OSError):
        return 'disk_full' if error.errno in {errno.ENOSPC, errno.EDQUOT} else None
    text = str(error).lower()
    # What PyTorch says when a GPU's memory is full; the last two, Ultralytics takes so too.
    words = ('out of memory', 'cublas_status_alloc_failed', 'unable to find an engine')
    of_torch = isinstance(error, RuntimeError) and any(word in text for word in words)
    return 'out_of_memory' if of_torch or isinstance(error, MemoryError) else None


@contextlib.contextmanager
def named_endings(stage: Stage) -> Iterator[None]:
    """Turn a full disk and full memory into StageStopped."""
    try:
        yield
    except Exception as error:
        reason = lacking(error)
        if reason is None:
            raise
        message = f'no space is left ({error}). Make room, then go on: last.pt is whole.'
        if reason == 'out_of_memory':
            message = (
                f'out of memory with a batch of {stage.batch} at {stage.imgsz} px. Go on with '
                f'{stage.name}.batch={max(stage.batch // 2, 1)}: with nbs={stage.nbs} an optimizer '
                f'step sees as many pictures as before. ({str(error)[:200]})'
            )
        raise StageStopped(reason, message) from error
