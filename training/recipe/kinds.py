"""Kinds of a recipe's values: what each may be, and the sentence that refuses another."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import dataclass_transform

from cone_perception.dataset.layout import SPLITS
from cone_perception.errors import RecipeError, hint
from training.recipe.sources import SOURCES

STRIDE_PX = 32
"""Stride of the network: an input's side is a multiple of it."""


def list_names(names: Iterable[str]) -> str:
    """Names for the end of a sentence."""
    return ', '.join(names) or 'there is none'


def refuse(
    wrong: Callable[[Any], object],
    why: str,
    when: Any = AfterValidator,
    known: Iterable[str] = (),
) -> Any:
    """A validator that raises ValueError where `wrong` holds.

    why: may show the `value`. known: names of which it has to be one.
    """

    def check(value: Any) -> Any:
        if wrong(value):
            raise ValueError(why.format(value=value) + (hint(value, known) if known else ''))
        return value

    return when(check)


def _check_device(device: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        found = validate(device)
    except ValidationError:
        found = ()
    if found == ():
        raise ValueError(f"{device!r} is no device: cpu, a GPU's number as 0, or [0, 1]")
    return found


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
Widths = Annotated[
    tuple[Pixels, ...], refuse(lambda widths: not widths, 'give at least one, as [640]')
]
InputSide = Annotated[Pixels, Field(multiple_of=STRIDE_PX)]
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
    refuse(lambda name: name and name not in SOURCES, '{value!r} cannot be fetched', known=SOURCES),
]
Split = Annotated[str, refuse(lambda name: name not in SPLITS, 'no such split', known=SPLITS)]
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
TrackingProject = Annotated[  # as wandb 0.31 takes it
    str,
    Field(max_length=128),
    refuse(
        lambda name: set(name) & set('/\\#?%:'), '{value!r} holds one of /\\#?%:, as W&B forbids'
    ),
]
Optimizer = Annotated[
    Literal['SGD', 'AdamW', 'Adam', 'MuSGD'],
    refuse(
        lambda name: name == 'auto',
        "'auto' is refused: it ignores lr0 and takes a learning rate of its own, 0.01 in a long "
        'run; name SGD, AdamW, Adam or MuSGD (why: docs/decisions/optimizer.md)',
        BeforeValidator,
    ),
]
"""Ultralytics' optimizers, less `auto`, which would ignore lr0."""


def gpu_numbers(device: str | int | tuple[int, ...]) -> tuple[int, ...]:
    """Numbers of the GPUs of a device; none on the CPU."""
    if isinstance(device, tuple):
        return device
    return () if isinstance(device, str) else (device,)


Key = tuple[str | int, ...]
"""Way to a value: names of fields, keys of mappings, names or places of items in a list."""

Problem = tuple[Key, str]
"""A value that cannot be, and why."""

Kind = TypeVar('Kind')


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def recipe_part(kind: type[Kind]) -> type[Kind]:
    """Make a frozen dataclass that pydantic checks; its constructor raises RecipeError."""
    config = ConfigDict(extra='forbid', coerce_numbers_to_str=True)
    made: Any = dataclass(frozen=True, slots=True, config=config)(kind)
    construct = made.__init__

    @functools.wraps(construct)
    def construct_checked(self: Kind, *values: Any, **named: Any) -> None:
        try:
            construct(self, *values, **named)
        except ValidationError as error:
            told = [f'{show_key(key)}: {what}' for key, what in problems_of(made, error)]
            raise RecipeError('; '.join(told)) from None

    made.__init__ = construct_checked
    checked: type[Kind] = made
    return checked


def problems_of(kind: Any, error: ValidationError) -> Iterator[Problem]:
    """Tell each of pydantic's errors. kind: the type that was validated."""
    for found in error.errors(include_url=False):
        key = tuple(part for part in found['loc'] if part != '[key]')
        yield key, _tell(kind, key, found)


def _tell(kind: Any, key: Key, found: Any) -> str:
    error, value, context = found['type'], found['input'], found.get('ctx', {})
    if error == 'missing':
        return 'is missing'
    if error == 'unexpected_keyword_argument':
        return f'unknown key{hint(str(key[-1]), _fields_at(kind, key[:-1]))}'
    if error == 'literal_error':
        allowed = re.findall("'(.*?)'", context['expected'])
        return f'{value!r} is not known{hint(str(value), allowed)}'
    if 'error' in context:
        return str(context['error'])
    told = found['msg'].replace('Input should be', 'it has to be')
    if error == 'multiple_of':
        near = max(value // STRIDE_PX, 1) * STRIDE_PX
        told += f', as {near} or {near + STRIDE_PX}'
    told = told.replace('tuple', 'list').replace('dictionary', 'mapping')  # as YAML's users say
    return f'{value!r:.60} is refused: {told}'


def _fields_at(kind: Any, key: Key) -> list[str]:
    """Names of the fields of the dataclass at `key` within `kind`.

    By pydantic: in Python 3.10 get_type_hints takes no class with KW_ONLY.
    """
    for part in key:
        if hasattr(kind, '__pydantic_fields__'):
            kind = kind.__pydantic_fields__[str(part)].annotation
        else:  # of a tuple the item, of a mapping the value
            kind = [one for one in get_args(kind) if one is not Ellipsis][-1]
    return [entry.name for entry in fields(kind)]


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise ValidationError with all of them, if there is any."""
    found = [
        InitErrorDetails(
            type=PydanticCustomError('problem', '{error}', {'error': what}), loc=key, input=None
        )
        for key, what in problems
    ]
    if found:
        raise ValidationError.from_exception_data('recipe', found)


def show_key(key: Key) -> str:
    """A key as overrides write it: stage2.lr0, seeds[1]."""
    parts = key[1:] if len(key) > 1 and key[0] == 'stages' and isinstance(key[1], str) else key
    text = ''.join(f'[{part}]' if isinstance(part, int) else f'.{part}' for part in parts)
    return text.removeprefix('.')
