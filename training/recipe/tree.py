"""Values of a recipe's YAML with their lines: read, merged, changed from the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cone_perception.errors import RecipeError, hint, told_as
from cone_perception.files import LARGEST, read_text
from training.recipe.kinds import Key, Problem, show_key

LISTS = ('stages', 'baseline')
"""Lists of a recipe whose items an override may name."""

NAMED = (*((name,) for name in LISTS), ('datasets',), ('judging', 'published'))
"""Parts of a recipe in which an override names only what is there already."""

NULL = 'tag:yaml.org,2002:null'


class Named(dict[str, Any]):
    """A list whose items are mappings that have a name of their own each: name -> item."""


@dataclass(slots=True)
class Tree:
    """A recipe before it is checked.

    values: mappings, Named or other lists, texts, numbers, true, false and null. places: file and
    line, or the override, of each key. mistakes: found so far, in words; each once.
    """

    values: Any = None
    places: dict[Key, str] = field(default_factory=dict)
    mistakes: dict[str, None] = field(default_factory=dict)

    def add(self, place: str, key: Key, what: str) -> None:
        """Add a mistake."""
        self.mistakes[f'{place}: {show_key(key)}: {what}' if key else f'{place}: {what}'] = None

    def add_problems(self, problems: Iterable[Problem]) -> None:
        """Add each with the place of its key, or of the last part of the key that is there."""
        for key, what in problems:
            shown: Key = ()
            values = self.values
            for part in key:
                if isinstance(values, Named) and isinstance(part, int):
                    part = list(values)[part]
                shown = (*shown, part)
                with contextlib.suppress(LookupError, TypeError):
                    values = values[part]
            known = (shown[:end] for end in range(len(shown), -1, -1))
            self.add(next(self.places[one] for one in known if one in self.places), shown, what)

    def read(self, node: yaml.Node, key: Key = (), name: yaml.Node | None = None) -> Any:
        """Read the value of a node; note its places, and keys that are given twice.

        Not as YAML 1.1 reads it: there 1e-3 is a text, off is false and 010 is eight.
        Raises RecipeError for an alias within itself.
        """
        place = _place((name or node).start_mark)
        self.places[key] = place
        if len(key) > 50 or len(self.places) > 10_000:
            much = 'holds itself as an alias' if len(key) > 50 else 'aliases make too much of it'
            raise RecipeError(f'{place}: {show_key(key[:3])}: {much}')
        if isinstance(node, yaml.MappingNode):
            first: dict[str, int] = {}
            found = {}
            for name, child in node.value:
                text = str(name.value)
                if text in first:
                    twice = f'given twice, first in line {first[text]}'
                    self.add(_place(name.start_mark), (*key, text), twice)
                first.setdefault(text, name.start_mark.line + 1)
                found[text] = self.read(child, (*key, text), name)
            return found
        if isinstance(node, yaml.SequenceNode):
            names = [_name(item) for item in node.value]
            if all(names) and len(set(names)) == len(names):
                pairs = zip(names, node.value, strict=True)
                return Named({name: self.read(item, (*key, name)) for name, item in pairs})
            return [self.read(item, (*key, place)) for place, item in enumerate(node.value)]
        return _scalar(node)

    def change(self, text: str, known: Sequence[str]) -> None:
        """Apply `key=value`. Stages go by name: stage2.lr0=0.0005. known: keys of a recipe."""
        key, equals, value = text.partition('=')
        place, parts = f'override {text}', key.strip().split('.')
        stages = self.values.get('stages')
        stages = list(stages) if isinstance(stages, Named) else []
        if parts[0] in stages:
            parts = ['stages', *parts]
        if parts[0] == 'sweep' and len(parts) > 1:
            parts = ['sweep', '.'.join(parts[1:])]  # its keys have dots of their own
        if not equals or not parts[0]:
            self.add(place, (), 'write KEY=VALUE, as stage2.lr0=0.0005')
        elif parts[0] not in known:
            self.add(place, (), f'no key {parts[0]!r}{hint(parts[0], [*known, *stages])}')
        elif wrong := _wrong_name(self.values, parts):
            self.add(place, (), wrong)
        else:
            node = compose(value, place)
            changed = self.read(node, tuple(parts)) if node is not None else ''
            for end in range(len(parts), 0, -1):
                self.places.setdefault(tuple(parts[:end]), place)
                changed = {parts[end - 1]: changed}
            self.values = merge(self.values, changed)


def compose(text: str, name: str) -> yaml.Node | None:
    """Nodes of a YAML text. Raises RecipeError, with `name`, when it is none."""
    try:
        loader = yaml.SafeLoader(text)
        loader.name = name
        return loader.get_single_node()
    except RecursionError:
        raise RecipeError(f'{name}: not YAML: nested too deep') from None
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        problem = getattr(error, 'problem', None) or error
        raise RecipeError(f'{_place(mark) if mark else name}: not YAML: {problem}') from error


def _place(mark: Any) -> str:
    return mark.name if mark.name.startswith('override ') else f'{mark.name}:{mark.line + 1}'


def read_tree(path: Path) -> Tree:
    """The values of a YAML file that holds a mapping. Raises RecipeError when it cannot be read."""
    with told_as(RecipeError, f'recipe {path} cannot be read', OSError, ValueError):
        text = read_text(path, 100_000)
    node = compose(text, str(path))
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f'{path}: holds no mapping: write lines of `key: value`')
    tree = Tree()
    tree.values = tree.read(node)
    return tree


def _name(node: yaml.Node) -> str:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((str(child.value) for name, child in pairs if name.value == 'name'), '')


def _scalar(node: yaml.Node) -> Any:
    text = str(node.value)
    if node.tag == NULL or getattr(node, 'style', None) is not None:
        return None if node.tag == NULL else text
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return number if abs(number := kind(text)) < LARGEST else text
    return text


def merge(base: Any, change: Any) -> Any:
    """`base` with what `change` says instead: mappings by key, lists of named items by name.

    Anything else, an empty mapping and an empty list too, is replaced.
    """
    alike = isinstance(base, Named) or not isinstance(change, Named)
    if not (base and change and isinstance(base, dict) and isinstance(change, dict) and alike):
        return change
    changed = {
        key: merge(base[key], value) if key in base else value for key, value in change.items()
    }
    return type(base)({**base, **changed})


def _wrong_name(values: Any, parts: Sequence[str]) -> str:
    """Tell why an override addresses what cannot be changed, or is not there; '' where it may."""
    if parts[0] in LISTS and parts[2:] in ([], ['name']) and len(parts) > 1:
        return f'a name cannot be changed, and {parts[1]} needs a key: {parts[1]}.KEY'
    for place, part in enumerate(parts):
        above = tuple(parts[:place])
        if values is not None and not isinstance(values, dict):
            return f'{show_key(above)} is one value, it has no key {part!r}'
        names = values or {}
        if above in NAMED and part not in names:
            return f'no key {part!r} in {show_key(above)}{hint(part, names)}'
        values = names.get(part)
    return ''


def plain_values(values: Any) -> Any:
    """The values with lists where items have names."""
    if isinstance(values, Named):
        return [plain_values(item) for item in values.values()]
    if isinstance(values, dict):
        return {key: plain_values(item) for key, item in values.items()}
    return values
