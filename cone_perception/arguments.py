"""Command lines: argparse types, options derived from a dataclass, tables for the terminal."""

from __future__ import annotations

import argparse
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar('T')


class Options(Protocol):
    """A parser or a group of its options."""

    def add_argument(self, *flags: str, **words: Any) -> Any: ...


class CommandParser(argparse.ArgumentParser):
    """A parser whose help ends with an example, and whose paths know `~`.

    examples: words after the program's name (`bag info`) -> a command line that works. Parsers of
    subcommands share them. `~` is expanded in every `type=Path`, also in `--out=~/x`, which no
    shell does.
    """

    def __init__(self, *words: Any, examples: Mapping[str, str] | None = None, **named: Any):
        super().__init__(*words, **named)
        self.examples = examples or {}
        self.subcommands: Mapping[str, CommandParser] = {}
        self.register('type', Path, lambda text: Path(text).expanduser())

    def add_subparsers(self, **named: Any) -> Any:  # argparse's own type is private
        """Add subcommands whose parsers share the examples."""
        parser_class = partial(type(self), examples=self.examples)
        choices = super().add_subparsers(**{'parser_class': parser_class, **named})
        self.subcommands = choices.choices
        return choices

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
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f'{text} must be zero or more')
    return value


def above_zero(text: str) -> float:
    """A finite number above zero."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f'{text} must be more than zero')
    return value


def option(default: Any, description: str, /, **argparse_words: Any) -> Any:
    """Declare a dataclass field that is an option, too.

    argparse_words: passed on to `add_argument` (type, metavar, nargs ...), above what the field's
    type says.
    """
    return field(default=default, metadata={'description': description, 'argparse': argparse_words})


def repeatable(description: str) -> Any:
    """Declare a dataclass field that is an option to be given several times; by default never."""
    return option((), description, action='append', nargs=None, default=[])


def add_fields(
    parser: Options, options: type, names: Container[str] | None = None, prefix: str = ''
) -> None:
    """Declare an option for each field of a dataclass, or for those in `names`.

    `count_px: int = 3` becomes `--count-px`, whose default is 3. A Literal becomes choices, a
    tuple takes several words, False a flag, True a flag `--no-...`. prefix: of the options' names.
    """
    for entry, flag, words in _options(options, names, prefix):
        about = str(entry.metadata['description']).replace('%', '%%')
        dest = prefix.replace('-', '_') + entry.name
        parser.add_argument(flag, dest=dest, help=about, **words)


def words_of(
    options: type, args: argparse.Namespace, names: Container[str] | None = None
) -> list[str | Path]:
    """Give the words of a command line that `add_fields` would read as `args` again.

    Options that have their defaults are left out. A path stands for itself.
    """
    found: list[str | Path] = []
    for entry, flag, words in _options(options, names):
        value = getattr(args, entry.name)
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


def _options(
    options: type, names: Container[str] | None, prefix: str = ''
) -> Iterator[tuple[Field[Any], str, dict[str, Any]]]:
    """Yield fields, their flags, and the words that their types and they themselves say."""
    kinds = get_type_hints(options)
    for entry in fields(options):
        if names is None or entry.name in names:
            words = _argparse_words(entry.default, kinds[entry.name])
            words |= entry.metadata.get('argparse', {})
            no = 'no-' if words.get('action') == 'store_false' else ''
            yield entry, f'--{no}{prefix}{entry.name.replace("_", "-")}', words


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
