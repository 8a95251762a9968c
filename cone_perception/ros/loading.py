"""Loading: the settings from ROS parameters, and the network warm where it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields
from typing import Any, get_args

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from cone_perception.answering.ration import ration_views
from cone_perception.engines.events import BuildEvent
from cone_perception.engines.open import PlacedEngine, place_network
from cone_perception.errors import EngineError, SettingsError, one_line
from cone_perception.model_card import ModelCard, read_bundle
from cone_perception.pipeline import ConeDetector, warm_detector
from cone_perception.process import give_back_free_memory
from cone_perception.ros.team_message import ConeMapping, TeamMessage
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


def from_parameter(value: Any) -> Any:
    """Turn a parameter's value into a setting's: lists become tuples, [''] is empty."""
    if isinstance(value, (bool, int, float, str)):
        return value
    return () if value is None or list(value) == [''] else tuple(value)


def _descriptor(name: str, metadata: Mapping[str, Any], kind: Any) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        name=name, description=metadata['description'], read_only=not metadata['live']
    )
    if kind not in _TYPES:
        descriptor.additional_constraints = f'one of {", ".join(get_args(kind))}'
    low, high = metadata['span'] or (None, None)
    if low is not None and kind is int:
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    elif low is not None:
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return descriptor


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings as they are used, and the network warm where it runs.

    ration: what was measured of the second look, and decided; empty where nothing was.
    """

    settings: DetectorSettings
    detector: ConeDetector
    placed: PlacedEngine
    ration: str = ''


class Loader:
    """Loads in a thread that can be left behind: no runtime lets its load be interrupted.

    setting_problems: what is wrong with the values that the user gave; nothing loads with any.
    progress: of the engine's build that is under way, or empty.
    """

    def __init__(self, node: Node, setting_problems: Sequence[str]) -> None:
        self.progress = ''
        self._node = node
        self._setting_problems = setting_problems
        self._stopping = threading.Event()
        self._loading: Future[Loaded] | None = None
        self._logged_s = 0.0

    def load(self) -> Loaded:
        """Load. Raises ConePerceptionError, or what a runtime raises."""
        # Its thread is no daemon, but the process ends without waiting for it: see node.py.
        self._loading = loading = ThreadPoolExecutor(1, 'load').submit(self._load)
        while not self._stopping.is_set():
            if wait([loading], timeout=0.05).done:
                return loading.result()
        raise EngineError('the node was stopped while it loaded')

    def stop(self, timeout_s: float) -> bool:
        """Give up a load, a build with its compiler; False when it could not be stopped."""
        self._stopping.set()
        return self._loading is None or bool(wait([self._loading], timeout=timeout_s).done)

    def _load(self) -> Loaded:
        if self._setting_problems:
            raise SettingsError('; '.join(self._setting_problems))
        values = {}
        for entry in fields(DetectorSettings):
            parameter = self._node.get_parameter_or(entry.name, Parameter(entry.name))
            if parameter.type_ != Parameter.Type.NOT_SET:
                values[entry.name] = from_parameter(parameter.value)
        settings = DetectorSettings.from_mapping(values)
        logger = self._node.get_logger()
        started = time.monotonic()
        bundle = read_bundle(settings.model)
        settings.filters.check_classes(bundle.card)
        if settings.cone_message:  # refused before the network is loaded, which takes long
            TeamMessage(ConeMapping.read(settings.cone_message), bundle.card.class_names)
        settings.check_batch(bundle.card.chosen_views(settings.views))
        logger.info(f'loading {bundle.card.name} from {bundle.folder}')
        if bundle.card.verdict == 'FAILED':
            logger.error(why_failed(bundle.card))
        try:
            placed = place_network(
                bundle, settings, self._on_build_event, self._stopping.is_set, settings.streams
            )
        finally:
            self.progress = ''
        for warning in placed.warnings:
            logger.warning(one_line(warning))
        detector = warm_detector(bundle.card, placed.engine, settings.views)
        try:
            settings, ration = ration_views(detector, settings)
        except BaseException:
            detector.close()
            raise
        if ration:
            logger.info(ration)
        give_back_free_memory()
        info = placed.engine.info
        logger.info(
            f'{bundle.card.name} runs on {info.runtime}, {info.device}, {info.computes_in}, batch '
            f'{settings.batch}; loaded and warm after {time.monotonic() - started:.1f} s'
        )
        return Loaded(settings, detector, placed, ration)

    def _on_build_event(self, event: BuildEvent) -> None:
        """Log an event of the build, of the steps of one phase one in five seconds. Any thread."""
        message = one_line(event.message)
        same_phase = event.kind == 'phase' and self.progress.startswith(message)
        self.progress = f'{message} {event.done}/{event.of}' if event.of else message
        now_s = time.monotonic()
        if same_phase and now_s < self._logged_s + 5.0:
            return
        self._logged_s = now_s
        logger = self._node.get_logger()
        # One call for each level: rclpy refuses a line of code that changes its level.
        text = f'building the engine: {self.progress}'
        if event.kind == 'error':
            logger.error(text)
        elif event.kind == 'warning':
            logger.warning(text)
        else:
            logger.info(text)


def why_failed(card: ModelCard) -> str:
    """Say why the gate failed a model; the card's `gate` may hold anything."""
    figures = card.gate.get('figures')
    reasons = [
        f'{kind}: {", ".join(map(str, found.get("failures", [])))}'
        for kind, found in (figures.items() if isinstance(figures, dict) else ())
        if isinstance(found, dict) and not (found.get('passed') is True or found.get('optional'))
    ]
    return (
        f'{card.name} FAILED the gate: it loses more against FP32 than its limits allow'
        f'{"".join(f"; {reason}" for reason in reasons)}. Drive with a model that passed'
    )
