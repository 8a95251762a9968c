"""Kinds of a recipe's values: what each may be, and the sentence that refuses another."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from cone_perception.dataset.layout import SPLITS
from training.recipe.sources import SOURCES

STRIDE_PX = 32
"""Stride of the network: an input's side is a multiple of it."""

PROJECT_NEVER = frozenset('/\\#?%:')
PROJECT_LENGTH = 128
"""Signs that wandb 0.31 refuses in a project's name, and the most letters that it may have."""


def list_names(names: Iterable[str]) -> str:
    """Names for the end of a sentence."""
    return ', '.join(names) or 'there is none'


def refuse(wrong: Callable[[Any], object], why: str) -> AfterValidator:
    """A validator that raises ValueError where `wrong` holds. why: may show the `value`."""

    def check(value: Any) -> Any:
        if wrong(value):
            raise ValueError(why.format(value=value))
        return value

    return AfterValidator(check)


def _check_side(side_px: int) -> int:
    if side_px % STRIDE_PX:
        below = side_px // STRIDE_PX * STRIDE_PX
        raise ValueError(
            f'{side_px} is no multiple of {STRIDE_PX}, the stride of the network: take '
            f'{below} or {below + STRIDE_PX}'
        )
    return side_px


def _refuse_auto(optimizer: Any) -> Any:
    if optimizer == 'auto':
        raise ValueError(
            "'auto' is refused: it ignores lr0 and takes a learning rate of its own, 0.01 in a "
            'long run; name SGD, AdamW, Adam or MuSGD (why: docs/decisions/optimizer.md)'
        )
    return optimizer


def _check_project(name: str) -> str:
    if wrong := sorted(set(name) & PROJECT_NEVER):
        raise ValueError(f'{name!r} holds {list_names(wrong)}, which W&B never takes')
    if len(name) > PROJECT_LENGTH:
        raise ValueError(f'has {len(name)} letters, W&B takes {PROJECT_LENGTH}')
    return name


def _check_device(device: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        found = validate(device)
    except ValidationError:
        found = ()
    if found == ():
        raise ValueError(f"{device!r} is no device: cpu, a GPU's number as 0, or [0, 1]")
    return found


def check_dataset(name: str, datasets: Iterable[str] | None) -> str:
    """The name of a data set. Raises ValueError where it is none of `datasets`; None: unknown."""
    if datasets is not None and name not in datasets:
        raise ValueError(f'{name!r} is not among the datasets: {list_names(datasets)}')
    return name


def _twice(values: Sequence[int]) -> bool:
    return len(set(values)) != len(values)


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1)]
NotNegative = Annotated[Number, Field(ge=0)]
Momentum = Annotated[Number, Field(ge=0, le=0.9999)]
Degrees = Annotated[Number, Field(ge=0, le=180)]
Count = Annotated[int, Field(strict=True, ge=1)]
CountOrZero = Annotated[int, Field(strict=True, ge=0)]
Pixels = Annotated[int, Field(strict=True, ge=STRIDE_PX)]
InputSide = Annotated[Pixels, AfterValidator(_check_side)]
FilePath = Annotated[
    Path, AfterValidator(Path.expanduser), refuse(lambda path: path == Path(), 'must be a path')
]
FolderName = Annotated[
    str,
    refuse(
        lambda name: not re.fullmatch(r'\w[\w-]*', name, re.ASCII),
        '{value!r} becomes part of folder names: letters, digits, _ and - only',
    ),
]
SourceName = Annotated[
    str,
    refuse(
        lambda name: name and name not in SOURCES,
        f'{{value!r}} cannot be fetched: {list_names(SOURCES)} can',
    ),
]
Split = Annotated[
    str, refuse(lambda name: name not in SPLITS, 'no such split: train, val and test are')
]
Model = Annotated[
    str,
    AfterValidator(os.path.expanduser),
    refuse(
        lambda name: not name.endswith(('.yaml', '.yml', '.pt')),
        '{value!r} is neither an architecture (.yaml) nor weights (.pt)',
    ),
]
Sweep = Mapping[str, tuple[Number, ...]]
Seeds = Annotated[
    tuple[CountOrZero, ...],
    refuse(lambda seeds: not seeds, 'give at least one, as [0]'),
    refuse(_twice, '{value} names one twice'),
]
Device = Annotated[
    Literal['cpu']
    | CountOrZero
    | Annotated[tuple[CountOrZero, ...], refuse(_twice, '{value} names one twice')],
    WrapValidator(_check_device),
]
TrackingProject = Annotated[str, AfterValidator(_check_project)]
Optimizer = Annotated[Literal['SGD', 'AdamW', 'Adam', 'MuSGD'], BeforeValidator(_refuse_auto)]
"""Ultralytics' optimizers, less `auto`, which would ignore lr0."""

SelectBy = Literal['map50', 'map50_95']
TrackingMode = Literal['off', 'offline', 'online']


def gpu_numbers(device: str | int | tuple[int, ...]) -> tuple[int, ...]:
    """Numbers of the GPUs of a device; none on the CPU."""
    if isinstance(device, tuple):
        return device
    return () if isinstance(device, str) else (device,)
