"""Command lines: argparse types, options derived from a dataclass, tables for the terminal."""

from __future__ import annotations

import argparse
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar('T')


class CommandParser(argparse.ArgumentParser):
    """A parser whose help ends with an example, and whose paths know `~`.

    examples: words after the program's name (`bag info`) -> a command line that works. Parsers of
    subcommands share them. `~` is expanded in every `type=Path`, also in `--out=~/x`, which no
    shell does.
    """

    def __init__(self, *words: Any, examples: Mapping[str, str] | None = None, **named: Any):
        super().__init__(*words, **named)
        self.examples = examples or {}
        self.register('type', Path, lambda text: Path(text).expanduser())

    def add_subparsers(self, **named: Any) -> Any:  # argparse's own type is private
        """Add subcommands whose parsers share the examples."""
        parser_class = partial(type(self), examples=self.examples)
        return super().add_subparsers(**{'parser_class': parser_class, **named})

    def format_help(self) -> str:
        """Argparse's help and the example of this subcommand."""
        example = self.examples.get(self.prog.partition(' ')[2])
        return super().format_help() + (f'\nexample:\n  {example}\n' if example else '')


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} must be a whole number from 1')
    return int(text)


def zero_or_more(text: str) -> float:
    """A finite number that is not negative."""
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f'{text} must be zero or more')
    return value


def above_zero(text: str) -> float:
    """A finite number above zero."""
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f'{text} must be more than zero')
    return value


def option(default: Any, description: str, **argparse_words: Any) -> Any:
    """Declare a dataclass field that is an option, too.

    argparse_words: passed on to `add_argument` (type, metavar, nargs ...), above what the field's
    type says.
    """
    metadata = {'description': description, 'argparse': argparse_words}
    return field(default=default, metadata=metadata)


def repeatable(description: str) -> Any:
    """Declare a dataclass field that is an option to be given several times; by default never."""
    words: dict[str, Any] = {'action': 'append', 'nargs': None, 'default': []}
    return field(default=(), metadata={'description': description, 'argparse': words})


def add_fields(
    parser: argparse._ActionsContainer, options: type, names: Container[str] | None = None
) -> None:
    """Declare an option for each field of a dataclass, or for those in `names`.

    `count_px: int = 3` becomes `--count-px`, whose default is 3. A Literal becomes choices, a
    tuple takes several words, False a flag, True a flag `--no-...`.
    """
    kinds = get_type_hints(options)
    for entry in fields(options):
        if names is None or entry.name in names:
            words = _words_of_field(entry, kinds[entry.name])
            parser.add_argument(
                _flag(entry.name, words),
                dest=entry.name,
                help=str(entry.metadata['description']).replace('%', '%%'),
                **words,
            )


def words_of(
    options: type, args: argparse.Namespace, names: Container[str] | None = None
) -> list[str | Path]:
    """Give the words of a command line that `add_fields` would read as `args` again.

    Options that have their defaults are left out. A path stands for itself.
    """
    kinds = get_type_hints(options)
    found: list[str | Path] = []
    for entry in fields(options):
        if names is None or entry.name in names:
            words = _words_of_field(entry, kinds[entry.name])
            flag, value = _flag(entry.name, words), getattr(args, entry.name)
            if value == words['default']:
                continue
            if words.get('action') == 'append':
                found += [f'{flag}={each}' for each in value]
            elif 'action' in words:
                found.append(flag)
            elif isinstance(value, (list, tuple)):
                found += [flag, *map(str, value)]
            else:
                found += [flag, value] if isinstance(value, Path) else [f'{flag}={value}']
    return found


def _words_of_field(entry: Field[Any], kind: Any) -> dict[str, Any]:
    """Join what a field's type says to argparse with what the field itself says."""
    return {**_argparse_words(entry.default, kind), **entry.metadata.get('argparse', {})}


def _flag(name: str, words: Mapping[str, Any]) -> str:
    flag = name.replace('_', '-')
    return f'--no-{flag}' if words.get('action') == 'store_false' else f'--{flag}'


def _argparse_words(default: Any, kind: Any) -> dict[str, Any]:
    if default is MISSING:
        raise TypeError('an option needs a default')
    words: dict[str, Any] = {'default': default}
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (each for each in get_args(kind) if each is not NoneType)
    if isinstance(default, bool):
        return {**words, 'action': 'store_false' if default else 'store_true'}
    if get_origin(kind) is tuple:
        words['nargs'] = '+'
        kind = get_args(kind)[0]
    choices = get_args(kind)
    words['type'] = type(choices[0]) if choices else kind
    return {**words, 'choices': choices} if choices else words


def read_fields(options: type[T], args: argparse.Namespace) -> T:
    """Make the dataclass from what `add_fields` declared."""
    return options(**{entry.name: getattr(args, entry.name) for entry in fields(options)})  # type: ignore[arg-type]


def text_table(rows: Sequence[Sequence[str]], words: Container[int]) -> Iterator[str]:
    """Make the lines of a table; columns in `words` are aligned to the left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if column in words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield '  '.join(cells).rstrip()
