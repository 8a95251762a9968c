"""DetectorSettings as ROS parameters: declared, read and changed, all from the one dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, get_args

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from cone_perception.settings import KINDS, DetectorSettings

_TYPES = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
    tuple[str, ...]: Parameter.Type.STRING_ARRAY,
    tuple[float, ...]: Parameter.Type.DOUBLE_ARRAY,
}


def declare_settings(node: Node) -> list[str]:
    """Declare every setting; returns what is wrong with the values that the user gave.

    A wrong value must not keep the node from coming up: it is declared with its default, and
    configuring is refused with the text returned here.
    """
    problems = []
    for entry in fields(DetectorSettings):
        # A list that is empty has no type in ROS: such a parameter is declared but not set.
        default = list(entry.default) if isinstance(entry.default, tuple) else entry.default
        value = _TYPES.get(KINDS[entry.name], Parameter.Type.STRING) if default == [] else default
        descriptor = _descriptor(entry.name, entry.metadata, KINDS[entry.name])
        try:
            node.declare_parameter(entry.name, value, descriptor)
        except ParameterException as error:
            problems.append(f'{entry.name}: {error}')
            if node.has_parameter(entry.name):
                node.undeclare_parameter(entry.name)
            node.declare_parameter(entry.name, value, descriptor, ignore_override=True)
    # rclpy drops what nobody declares without a word: a misspelt setting would seem to work.
    unknown = sorted(
        name
        for name in node._parameter_overrides
        if not node.has_parameter(name) and not name.startswith('qos_overrides.')
    )
    if unknown:
        known = ', '.join(entry.name for entry in fields(DetectorSettings))
        problems.append(f'there is no setting {", ".join(unknown)}; there are {known}')
    return problems


def read_settings(node: Node) -> DetectorSettings:
    """Read the settings as they are now. Raises SettingsError."""
    values = {}
    for entry in fields(DetectorSettings):
        parameter = node.get_parameter_or(entry.name, Parameter(entry.name))
        if parameter.type_ != Parameter.Type.NOT_SET:
            values[entry.name] = from_parameter(parameter.value)
    return DetectorSettings.from_mapping(values)


def changed_settings(settings: DetectorSettings, parameters: Mapping[str, Any]) -> DetectorSettings:
    """Return `settings` with the values of these parameters, all settings. Raises SettingsError."""
    return replace(settings, **{name: from_parameter(value) for name, value in parameters.items()})


def from_parameter(value: Any) -> Any:
    """Turn a parameter's value into a setting's: lists become tuples, [''] is empty."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return () if value is None else value
    return () if list(value) == [''] else tuple(value)


def _descriptor(name: str, metadata: Mapping[str, Any], kind: Any) -> ParameterDescriptor:
    choices = get_args(kind) if _TYPES.get(kind) is None else ()
    descriptor = ParameterDescriptor(
        name=name,
        description=metadata['description'],
        additional_constraints=f'one of {", ".join(choices)}' if choices else '',
        read_only=not metadata['live'],
    )
    low, high = metadata['low'], metadata['high']
    if low is not None and kind is int:
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    elif low is not None:
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)
        ]
    return descriptor
