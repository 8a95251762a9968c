"""Cones in metres in the message type of a team, as a mapping file says."""

from __future__ import annotations

import array
import functools
import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.exceptions import NameValidationException
from rclpy.validate_topic_name import validate_topic_name

from cone_perception.classes import CLASS_NAMES, project_classes
from cone_perception.errors import SettingsError, hint, told_as
from cone_perception.files import from_json, read_yaml
from cone_perception.ros.cones import PlacedCones

SHIPPED = resources.files('cone_perception') / 'ros' / 'messages'

SOURCES: Mapping[str, int] = {
    **dict.fromkeys(('x', 'y', 'z', 'score', 'class', 'id'), 1),
    'covariance_xy': 4,
    'covariance_xyz': 9,
}
"""What a field of a cone can be filled with, and how many numbers that is."""

_FLOATS = {'float': (np.float32, 'f'), 'double': (np.float64, 'd')}
_INTEGERS = {f'{sign}int{bits}': bits for sign in ('', 'u') for bits in (8, 16, 32, 64)}


@dataclass(frozen=True, slots=True)
class ConeMapping:
    """How cones become a message; docs/messages.md explains a mapping file.

    type: package/msg/Name. lists: field that is a list of cones -> classes that go there. fields:
    field of a cone, dotted where it lies in another -> source. topic: empty takes ~/team_cones.
    class_values: class -> value of the source `class`; empty takes the names. leave_out: classes
    that are not published.
    """

    type: str
    lists: Mapping[str, tuple[str, ...]]
    fields: Mapping[str, str]
    topic: str = ''
    class_values: Mapping[str, Any] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r'\w+/msg/\w+', self.type):
            raise ValueError(f'type must be written package/msg/Name, got {self.type!r}')
        if self.topic:
            validate_topic_name(self.topic)
        if not self.lists or not self.fields:
            raise ValueError('lists and fields must not be empty')
        for source in self.fields.values():
            if source not in SOURCES:
                raise ValueError(f'there is no source {source!r}{hint(source, SOURCES)}')
        given = [name for names in (*self.lists.values(), self.leave_out) for name in names]
        for name in (*given, *self.class_values):
            if name not in CLASS_NAMES:
                raise ValueError(f'there is no class {name!r}{hint(name, CLASS_NAMES)}')
        for name in CLASS_NAMES:
            if given.count(name) != 1:
                raise ValueError(
                    f'{name} must stand once in lists or leave_out, not {given.count(name)} times'
                )
        lacking = set(CLASS_NAMES) - {*self.class_values, *self.leave_out}
        if self.class_values and lacking:
            raise ValueError(f'class_values lacks {", ".join(sorted(lacking))}')

    @classmethod
    def read(cls, name: str) -> ConeMapping:
        """Read a shipped mapping by its name, or a YAML file. Raises SettingsError."""
        if name.endswith(('.yaml', '.yml')):
            raw = read_yaml(Path(name).expanduser(), SettingsError)
            if isinstance(raw, dict) and 'like' in raw:
                raw = {**_shipped(str(raw.pop('like'))), **raw}
        else:
            raw = _shipped(name)
        causes = (TypeError, ValueError, NameValidationException)
        with told_as(SettingsError, f'cone_message {name}', *causes):
            made: ConeMapping = from_json(cls, raw, 'the mapping')
        return made


def _shipped(name: str) -> dict[str, Any]:
    """Entries of a shipped mapping. Raises SettingsError where there is none of this name."""
    names = sorted(entry.name.removesuffix('.yaml') for entry in SHIPPED.iterdir())
    if name not in names:
        raise SettingsError(
            'cone_message: a file of your own ends in .yaml, and there is no shipped mapping '
            f'{name!r}{hint(name, names)}'
        )
    with resources.as_file(SHIPPED / f'{name}.yaml') as path:
        return dict(read_yaml(path, SettingsError))


@dataclass(frozen=True, slots=True)
class _Slot:
    """Field of a cone: the fields that it lies in, its name, its source, and what fits it."""

    parents: Sequence[str]
    name: str
    source: str
    convert: Callable[[Any], Any]


class TeamMessage:
    """Fills a team's message; its objects are kept and filled anew, see AnswerPublishers.

    kind: class of the message. topic: where the mapping names none. Raises SettingsError where the
    type is not importable, or not made as the mapping says.
    """

    def __init__(
        self, mapping: ConeMapping, class_names: Sequence[str], topic: str = '~/team_cones'
    ) -> None:
        self.topic = mapping.topic or topic
        self.kind = _import_type(mapping.type)
        names = [CLASS_NAMES[each] for each in project_classes(class_names)]
        lists = {name: entry for entry, names in mapping.lists.items() for name in names}
        self._entries = list(mapping.lists)
        self._entry_of = [lists.get(name) for name in names]
        self._values = [mapping.class_values.get(name, name) for name in names]
        text = f'cone_message: {mapping.type} is not what its mapping says'
        with told_as(SettingsError, text, ValueError):
            cones = [_list_entry(self.kind, entry) for entry in mapping.lists]
            self._cone = cones[0]
            if len(set(cones)) > 1:
                raise ValueError(f'its lists hold {", ".join(sorted({c.__name__ for c in cones}))}')
            self._slots = [self._slot(*item) for item in mapping.fields.items()]
        self._has_header = _fields(self.kind).get('header') == 'std_msgs/Header'
        self._kept: list[tuple[Any, list[Any]]] = []

    def fill(self, placed: PlacedCones) -> Any:
        """The message of a picture, good until the next one is filled."""
        while len(self._kept) < len(placed):
            cone = self._cone()
            owners = [functools.reduce(getattr, slot.parents, cone) for slot in self._slots]
            self._kept.append((cone, owners))
        lists: dict[str, list[Any]] = {entry: [] for entry in self._entries}
        columns = [map(slot.convert, self._column(placed, slot.source)) for slot in self._slots]
        kept = self._kept[: len(placed)]
        for (cone, owners), classes, *values in zip(kept, placed.classes, *columns, strict=True):
            for owner, slot, value in zip(owners, self._slots, values, strict=True):
                setattr(owner, slot.name, value)
            if (entry := self._entry_of[classes[0][0]]) is not None:
                lists[entry].append(cone)
        message = self.kind(**lists)
        if self._has_header:
            message.header = placed.header
        return message

    def _column(self, placed: PlacedCones, source: str) -> Iterable[Any]:
        """What a source says of each cone."""
        if source in ('covariance_xy', 'covariance_xyz'):
            side = len(source.removeprefix('covariance_'))
            return placed.covariance_m2[:, :side, :side].reshape(-1, side * side)
        if source in ('x', 'y', 'z'):
            column: list[float] = placed.xyz_m[:, 'xyz'.index(source)].tolist()
            return column
        if source == 'id':
            return placed.rows
        likeliest = [classes[0] for classes in placed.classes]
        if source == 'score':
            return [probability for _, probability in likeliest]
        return [self._values[class_id] for class_id, _ in likeliest]

    def _slot(self, target: str, source: str) -> _Slot:
        """Raise ValueError where the cone has no such field, or the source does not fit it."""
        *parents, name = target.split('.')
        owner = self._cone
        for part in parents:
            kind = _field(owner, part)
            if not re.fullmatch(r'\w+/\w+', kind):
                raise ValueError(f'{target}: {part} is {kind}, which has no fields')
            owner = _import_type(kind)
        kind = _field(owner, name)
        return _Slot(parents, name, source, self._converter(target, kind, source))

    def _converter(self, target: str, kind: str, source: str) -> Callable[[Any], Any]:
        count = SOURCES[source]
        if source == 'class' and all(
            _holds(kind, value)
            for value, entry in zip(self._values, self._entry_of, strict=True)
            if entry is not None
        ):
            return lambda value: value
        if source == 'id' and (kind == 'string' or _INTEGERS.get(kind, 0) > 8):
            return str if kind == 'string' else int
        if source in ('x', 'y', 'z', 'score') and kind in _FLOATS:
            return float
        for name, (dtype, code) in _FLOATS.items():
            if count > 1 and kind == f'{name}[{count}]':
                return functools.partial(np.asarray, dtype=dtype)
            if count > 1 and kind == f'sequence<{name}>':
                return functools.partial(array.array, code)
        raise ValueError(f'{target} is {kind}, which cannot hold {source}')


def _holds(kind: str, value: Any) -> bool:
    """Tell whether a field of this kind can hold the value of a class."""
    if kind in _INTEGERS:
        span = np.iinfo(kind)
        return type(value) is int and span.min <= value <= span.max
    return type(value) is {'string': str, 'boolean': bool, 'float': float, 'double': float}.get(
        kind
    )


def _fields(kind: type[Any]) -> Mapping[str, str]:
    """Fields of a message's class, and their kinds."""
    fields: Mapping[str, str] = kind.get_fields_and_field_types()
    return fields


def _field(kind: type[Any], name: str) -> str:
    """Kind of a field. Raises ValueError where there is none of this name."""
    if name not in _fields(kind):
        raise ValueError(f'{kind.__name__} has no field {name!r}{hint(name, _fields(kind))}')
    return _fields(kind)[name]


def _list_entry(kind: type[Any], entry: str) -> type[Any]:
    """Class of the messages in a list. Raises ValueError where the field is none."""
    found = re.fullmatch(r'sequence<(\w+/\w+)>', _field(kind, entry))
    if not found:
        raise ValueError(f'{entry} is {_field(kind, entry)}, not a list of messages of any length')
    return _import_type(found[1])


def _import_type(name: str) -> type[Any]:
    """Class of a message, called package/msg/Name or package/Name. Raises SettingsError."""
    package, *_, last = name.split('/')
    try:
        module = importlib.import_module(f'{package}.msg')
    except ImportError as error:
        raise SettingsError(
            f'cone_message needs {name}, but {package} cannot be imported ({error}). Build that '
            'package and source its install/setup.bash in the shell that starts the node; where '
            f'apt has it: sudo apt install ros-$ROS_DISTRO-{package.replace("_", "-")}.'
        ) from error
    kinds = {key: value for key, value in vars(module).items() if isinstance(value, type)}
    if last not in kinds:
        raise SettingsError(f'cone_message: {package} has no message {last!r}{hint(last, kinds)}')
    return kinds[last]
