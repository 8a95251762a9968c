"""Typed values of a YAML file, and every mistake in it with its file, line and key.

YAML text -> nodes, which know their lines -> merged with overrides -> dataclasses.
Knows nothing of recipes: the dataclasses say by their types what a file may hold.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

import yaml

from cone_perception.errors import RecipeError

Key = tuple[str | int, ...]
"""Way to a value: names of fields, keys of mappings, names or places of items in a list."""

Problem = tuple[Key, str]
"""A value that cannot be, and why."""

_FAILED: Any = object()


@dataclass(frozen=True, slots=True)
class Range:
    """Of a number, both ends allowed; `above` excludes its own value."""

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf

    def __str__(self) -> str:
        if math.isfinite(self.above):
            high = f' and at most {self.high:g}' if math.isfinite(self.high) else ''
            return f'above {self.above:g}{high}'
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f'from {self.low:g} to {self.high:g}'
        return f'at least {self.low:g}'

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high and value > self.above


@dataclass(frozen=True, slots=True)
class Refuse:
    """A text that is not allowed, and the reason."""

    text: str
    why: str


class Checked(Protocol):
    """A dataclass that can say what is wrong with its values."""

    def problems(self) -> Iterator[Problem]: ...


def check(value: Checked) -> None:
    """Raise RecipeError with everything that `value` says is wrong with it."""
    problems = list(value.problems())
    if problems:
        raise RecipeError('; '.join(f'{show_key(key)}: {what}' for key, what in problems))


_kinds: Callable[[Any], dict[str, Any]] = cache(partial(get_type_hints, include_extras=True))
"""Field -> annotated type of a dataclass."""


def field_problems(value: Any) -> Iterator[Problem]:
    """Fields outside what their annotated types allow: Range, Refuse, Literal."""
    kinds = _kinds(type(value))
    for entry in fields(value):
        yield from _value_problems(kinds[entry.name], getattr(value, entry.name), (entry.name,))


def _value_problems(kind: Any, value: Any, key: Key) -> Iterator[Problem]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        for limit in arguments[1:]:
            if isinstance(limit, Range) and _is_number(value) and not limit.holds(value):
                yield key, f'{value} is not possible: it must be {limit}'
            if isinstance(limit, Refuse) and value == limit.text:
                yield key, f'{value!r} is refused: {limit.why}'
                return
        yield from _value_problems(arguments[0], value, key)
    elif origin is Literal and value not in arguments:
        yield key, f'{value!r} is not known{_hint(str(value), map(str, arguments))}'
    elif origin is tuple:
        for place, item in enumerate(value):
            yield from _value_problems(arguments[0], item, (*key, place))
    elif origin is Mapping or (isinstance(origin, type) and issubclass(origin, Mapping)):
        for name, item in value.items():
            yield from _value_problems(arguments[1], item, (*key, name))
    elif origin in (Union, types.UnionType) and value is not None:
        inner = [one for one in arguments if get_origin(one) is Annotated]
        for one in inner:
            yield from _value_problems(one, value, key)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))  # of a union it may be something else


def show_key(key: Key) -> str:
    """A key as overrides write it: stage2.lr0, seeds[1]."""
    parts = key[1:] if len(key) > 1 and key[0] == 'stages' and isinstance(key[1], str) else key
    text = ''.join(f'[{part}]' if isinstance(part, int) else f'.{part}' for part in parts)
    return text.removeprefix('.')


class Mistakes:
    """What is wrong with a file and its overrides, collected to be told at once."""

    def __init__(self) -> None:
        self.lines: dict[str, None] = {}

    def add(self, node: yaml.Node, key: Key, what: str) -> None:
        mark = node.start_mark
        place = mark.name if mark.name.startswith(OVERRIDE) else f'{mark.name}:{mark.line + 1}'
        self.lines[f'{place}: {show_key(key)}: {what}' if key else f'{place}: {what}'] = None

    def add_problems(self, node: yaml.Node, key: Key, problems: Iterable[Problem]) -> None:
        for inner, what in problems:
            self.add(_locate(node, inner), (*key, *inner), what)

    def raise_if_any(self) -> None:
        if len(self.lines) == 1:
            raise RecipeError(next(iter(self.lines)))
        if self.lines:
            raise RecipeError('\n  '.join([f'{len(self.lines)} mistakes:', *self.lines]))


OVERRIDE = 'override '


def read_tree(path: Path, mistakes: Mistakes) -> yaml.MappingNode:
    """Nodes of a YAML file that holds a mapping. RecipeError when it cannot be read as one."""
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f'recipe {path} cannot be read: {error}') from error
    node = _compose(text, str(path))
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f'{path}: holds no mapping: write lines of `key: value`')
    _find_duplicates(node, (), mistakes, set())
    return node


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        loader = yaml.SafeLoader(text)
        loader.name = name
        node: yaml.Node | None = loader.get_single_node()
        return node
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        line = f':{mark.line + 1}' if mark is not None and not name.startswith(OVERRIDE) else ''
        problem = getattr(error, 'problem', None) or error
        raise RecipeError(f'{name}{line}: not YAML: {problem}') from error


def _find_duplicates(node: yaml.Node, key: Key, mistakes: Mistakes, seen: set[int]) -> None:
    if id(node) in seen:  # an alias, which may even contain itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for name, child in node.value:
            text = str(name.value)
            if text in first:
                mistakes.add(name, (*key, text), f'given twice, first in line {first[text]}')
            first.setdefault(text, name.start_mark.line + 1)
            _find_duplicates(child, (*key, text), mistakes, seen)
    elif isinstance(node, yaml.SequenceNode):
        for place, child in enumerate(node.value):
            _find_duplicates(child, (*key, _item_name(child) or place), mistakes, seen)


def children(node: yaml.Node | None) -> dict[str, yaml.Node]:
    """Key -> node of a mapping; nothing for any other node."""
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {str(name.value): child for name, child in node.value}


def _item_name(node: yaml.Node) -> str:
    name = children(node).get('name')
    return name.value if isinstance(name, yaml.ScalarNode) else ''


def _child(node: yaml.Node, part: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode):
        if isinstance(part, int):
            return node.value[part] if part < len(node.value) else None
        return next((item for item in node.value if _item_name(item) == part), None)
    return children(node).get(str(part))


def _locate(node: yaml.Node, key: Key) -> yaml.Node:
    for part in key:
        child = _child(node, part)
        if child is None:
            break
        node = child
    return node


def merge(base: yaml.Node, change: yaml.Node) -> yaml.Node:
    """`base` with what `change` says instead: mappings by key, lists of named items by name.

    Anything else, an empty mapping and an empty list too, is replaced. Nodes keep their lines.
    """
    if not (base.value and change.value):
        return change
    if isinstance(base, yaml.MappingNode) and isinstance(change, yaml.MappingNode):
        names = {str(name.value): name for name, _ in (*base.value, *change.value)}
        old, new = children(base), children(change)
        pairs = [
            (name, merge(old[key], new[key]) if key in old and key in new else (new | old)[key])
            for key, name in names.items()
        ]
        return yaml.MappingNode(change.tag, pairs, change.start_mark, change.end_mark)
    if isinstance(base, yaml.SequenceNode) and isinstance(change, yaml.SequenceNode):
        items = {_item_name(item): item for item in base.value}
        if '' in items or not all(map(_item_name, change.value)):
            return change
        for item in change.value:
            name = _item_name(item)
            items[name] = merge(items[name], item) if name in items else item
        return yaml.SequenceNode(
            change.tag, list(items.values()), change.start_mark, change.end_mark
        )
    return change


def override(kind: Any, tree: yaml.Node, text: str, mistakes: Mistakes) -> yaml.Node:
    """`tree`, which is to become a `kind`, with `key=value` applied to it.

    Items of the list `stages` go by their name alone: stage2.lr0=0.0005.
    """
    key, equals, value = text.partition('=')
    key = key.strip()
    name = f'{OVERRIDE}{text}'
    mark = yaml.Mark(name, 0, 0, 0, None, 0)
    if not equals or not key:
        problem = 'write KEY=VALUE, as stage2.lr0=0.0005'
        mistakes.add(yaml.ScalarNode('', '', mark, mark), (), problem)
        return tree
    leaf = _compose(value, name) or yaml.ScalarNode('tag:yaml.org,2002:str', '', mark, mark, "'")
    parts = key.split('.')
    stages = children(tree).get('stages')
    own = {entry.name for entry in fields(kind)}
    if stages is not None and parts[0] not in own and _child(stages, parts[0]) is not None:
        parts = ['stages', *parts]
    try:
        return merge(tree, _nest(kind, tree, parts, leaf, ()))
    except _UnknownKeyError as error:
        mistakes.add(leaf, (), str(error))
        return tree


class _UnknownKeyError(Exception):
    """An override names what is not there."""


def _nest(kind: Any, node: yaml.Node | None, parts: list[str], leaf: yaml.Node, key: Key) -> Any:
    """The tree that holds `leaf` at `parts` and nothing else, so that it can be merged."""
    if not parts:
        return leaf
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    origin, arguments = get_origin(kind), get_args(kind)
    head = parts[0]
    name = yaml.ScalarNode('tag:yaml.org,2002:str', head, leaf.start_mark, leaf.end_mark)
    inner = _child(node, head) if node is not None else None
    if is_dataclass(kind):
        kinds = _kinds(kind)
        if head not in kinds:
            known = [*kinds, *_names(children(node).get('stages'))]
            raise _unknown(key, head, known)
        return _mapping(leaf, [(name, _nest(kinds[head], inner, parts[1:], leaf, (*key, head)))])
    if origin is tuple and is_dataclass(arguments[0]):
        if inner is None:
            raise _unknown(key, head, _names(node))
        item = _nest(arguments[0], inner, parts[1:], leaf, (*key, head))
        title = yaml.ScalarNode('tag:yaml.org,2002:str', 'name', leaf.start_mark, leaf.end_mark)
        pairs = [*item.value] if isinstance(item, yaml.MappingNode) else []
        pairs = [(title, name), *((one, two) for one, two in pairs if one.value != 'name')]
        if parts[1:] == ['name'] or not isinstance(item, yaml.MappingNode):
            raise _UnknownKeyError(f'a name cannot be changed, and {head} needs a key: {head}.KEY')
        return yaml.SequenceNode('', [_mapping(leaf, pairs)], leaf.start_mark, leaf.end_mark)
    if origin is not None and issubclass(origin, Mapping):
        if not is_dataclass(arguments[1]):
            name.value = '.'.join(parts)  # a sweep's keys have dots of their own
            return _mapping(leaf, [(name, leaf)])
        if inner is None:
            raise _unknown(key, head, children(node))
        return _mapping(leaf, [(name, _nest(arguments[1], inner, parts[1:], leaf, (*key, head)))])
    raise _UnknownKeyError(f'{show_key(key)} is one value, it has no key {head!r}')


def _mapping(leaf: yaml.Node, pairs: list[tuple[yaml.Node, yaml.Node]]) -> yaml.MappingNode:
    return yaml.MappingNode('tag:yaml.org,2002:map', pairs, leaf.start_mark, leaf.end_mark)


def text_mapping(values: Mapping[str, str], at: yaml.Node) -> yaml.MappingNode:
    """A mapping of texts that a file does not say, with the place of `at`."""
    tag, marks = 'tag:yaml.org,2002:str', (at.start_mark, at.end_mark)
    pairs = [
        (yaml.ScalarNode(tag, name, *marks), yaml.ScalarNode(tag, value, *marks))
        for name, value in values.items()
    ]
    return yaml.MappingNode('tag:yaml.org,2002:map', pairs, *marks)


def _names(node: yaml.Node | None) -> list[str]:
    return [_item_name(item) for item in node.value] if isinstance(node, yaml.SequenceNode) else []


def _unknown(key: Key, name: str, known: Iterable[str]) -> _UnknownKeyError:
    where = f' in {show_key(key)}' if key else ''
    return _UnknownKeyError(f'no key {name!r}{where}{_hint(name, known)}')


def _hint(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f'. Did you mean {" or ".join(close)}?'
    return f'. Known: {", ".join(names)}' if names else ': there is none'


def build(kind: Any, node: yaml.Node, key: Key, mistakes: Mistakes) -> Any:
    """The value of type `kind` that `node` says. After a mistake the value is of no use.

    kind: a dataclass with `problems`, Mapping, tuple[X, ...], Literal, a union, or
    str, int, float, bool, Path, any of them Annotated.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return build(arguments[0], node, key, mistakes)
    if is_dataclass(kind):
        return _build_dataclass(kind, node, key, mistakes)
    if origin in (Union, types.UnionType):
        return _build_union(arguments, node, key, mistakes)
    if origin is tuple:
        if not isinstance(node, yaml.SequenceNode):
            mistakes.add(node, key, f'must be a list, as [{_example(arguments[0])}]')
            return _FAILED
        items = [
            build(arguments[0], item, (*key, _item_name(item) or place), mistakes)
            for place, item in enumerate(node.value)
        ]
        return _FAILED if _FAILED in items else tuple(items)
    if origin is not None and origin is not Literal:
        if not isinstance(node, yaml.MappingNode):
            mistakes.add(node, key, 'must be a mapping of `name: value`')
            return _FAILED
        values = {
            name: build(arguments[1], child, (*key, name), mistakes)
            for name, child in children(node).items()
        }
        return _FAILED if _FAILED in values.values() else values
    value = _scalar(str if origin is Literal else kind, node)
    if value is _FAILED:
        mistakes.add(node, key, f'must be {_WANTED[str if origin is Literal else kind]}')
    return value


def _build_dataclass(kind: Any, node: yaml.Node, key: Key, mistakes: Mistakes) -> Any:
    if not isinstance(node, yaml.MappingNode):
        mistakes.add(node, key, 'must be a mapping of `key: value`')
        return _FAILED
    kinds = _kinds(kind)
    given = children(node)
    for name, _ in node.value:
        if name.value not in kinds:
            mistakes.add(name, (*key, str(name.value)), f'unknown key{_hint(name.value, kinds)}')
    values: dict[str, Any] = {}
    for entry in fields(kind):
        value = _FAILED
        if entry.name in given:
            value = build(kinds[entry.name], given[entry.name], (*key, entry.name), mistakes)
        elif entry.default is MISSING and entry.default_factory is MISSING:
            mistakes.add(node, (*key, entry.name), 'is missing')
        if value is _FAILED and entry.default is not MISSING:
            value = entry.default
        elif value is _FAILED and entry.default_factory is not MISSING:
            value = entry.default_factory()
        values[entry.name] = value
    if _FAILED in values.values():
        return _FAILED
    # Not through the constructor, which refuses at the first object that is wrong: all mistakes
    # of a file are told at once. What has any never leaves Mistakes.raise_if_any.
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    mistakes.add_problems(node, key, made.problems())
    return made


def _build_union(kinds: Sequence[Any], node: yaml.Node, key: Key, mistakes: Mistakes) -> Any:
    # A number is a number before it is a text.
    for kind in sorted(kinds, key=lambda one: one is str):
        if kind is type(None):
            if node.tag == 'tag:yaml.org,2002:null':
                return None
            continue
        value = build(kind, node, key, Mistakes())
        if value is not _FAILED:
            return value
    wanted = ' or '.join(_WANTED.get(_bare(kind), 'a list of them') for kind in kinds)
    mistakes.add(node, key, f'must be {wanted}')
    return _FAILED


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


_WANTED: dict[Any, str] = {
    str: 'a text',
    Path: 'a path',
    int: 'a whole number without quotes',
    float: 'a number without quotes, as 0.001 or 1e-3',
    bool: 'true or false',
    type(None): 'null',
}


def _scalar(kind: Any, node: yaml.Node) -> Any:
    """The text of a plain scalar read as `kind`.

    Not what YAML 1.1 makes of it: there 1e-3 is a text, off is false and 010 is eight.
    """
    if not isinstance(node, yaml.ScalarNode) or node.tag == 'tag:yaml.org,2002:null':
        return _FAILED
    text = node.value
    if kind is str:
        return text
    if kind is Path:
        return Path(text) if text else _FAILED
    if node.style is not None:
        return _FAILED
    if kind is bool:
        return {'true': True, 'false': False}.get(text.lower(), _FAILED)
    try:
        value = kind(text)
    except ValueError:
        return _FAILED
    return value if math.isfinite(value) else _FAILED


def _example(kind: Any) -> str:
    return {int: '0, 1', float: '0.25, 1.0', str: 'one, two'}.get(_bare(kind), '{name: ...}')


def plain(value: Any) -> Any:
    """Dataclasses, mappings, tuples and paths as what YAML and JSON hold."""
    if is_dataclass(value):
        return {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
