"""Words for what pydantic finds wrong with a recipe: the key, the reason, and what is allowed.

Types of a recipe -> pydantic's errors -> (key, sentence). Knows no file; tree.py knows the lines.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import field, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import dataclass_transform

from cone_perception.errors import RecipeError

Key = tuple[str | int, ...]
"""Way to a value: names of fields, keys of mappings, names or places of items in a list."""

Problem = tuple[Key, str]
"""A value that cannot be, and why."""

Kind = TypeVar('Kind')

WANTED = {
    'string': 'a text',
    'path': 'a path',
    'int': 'a whole number without quotes',
    'float': 'a number without quotes, as 0.001 or 1e-3',
    'finite': 'a number without quotes, as 0.001 or 1e-3',
    'bool': 'true or false',
    'tuple': 'a list, as [0, 1]',
    'mapping': 'a mapping of `name: value`',
    'dict': 'a mapping of `name: value`',
    'dataclass': 'a mapping of `key: value`',
}
"""First word of pydantic's error -> what the value has to be."""

LIMITS = {'ge': 'at least', 'gt': 'above', 'le': 'at most', 'lt': 'below'}


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
    for limit, words in LIMITS.items():
        if limit in context:
            return f'{value} is not possible: it must be {words} {context[limit]:g}'
    if 'error' in context:
        return str(context['error'])
    wanted = WANTED.get(error.partition('_')[0])
    return f'must be {wanted}' if wanted else str(found['msg'])


def _fields_at(kind: Any, key: Key) -> list[str]:
    """Names of the fields of the dataclass at `key` within `kind`."""
    for part in key:
        if is_dataclass(kind):
            kind = get_type_hints(kind)[str(part)]
        else:  # of a tuple the item, of a mapping the value
            kind = [one for one in get_args(kind) if one is not Ellipsis][-1]
    return [entry.name for entry in fields(kind)]


def hint(name: str, known: Iterable[str]) -> str:
    """End of a sentence that refuses a name: the ones that it may have been, else all."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f'. Did you mean {" or ".join(close)}?'
    return f'. Known: {", ".join(names)}' if names else ': there is none'


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
