"""The Python packages of TensorRT and TensorRT-RTX, whose interface is the same."""

from __future__ import annotations

import importlib
import importlib.util
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast, get_args

from cone_perception.engines.events import BuildEvent, ignore
from cone_perception.errors import EngineError
from cone_perception.types import GpuRuntime, GpuRuntimeChoice

MODULES: Mapping[GpuRuntime, tuple[str, ...]] = {
    'tensorrt': ('tensorrt',),
    'tensorrt_rtx': ('tensorrt_rtx', 'tensorrt_rtx_bindings'),
}
"""Names under which the bindings are installed: the wheel of PyPI has the last."""

INSTALL = {
    'tensorrt': "TensorRT, version 10 or 11 (pip install 'cone_perception[tensorrt]')",
    'tensorrt_rtx': "TensorRT-RTX (pip install 'cone_perception[rtx]')",
}

_KEPT_ERRORS = 8


def choose_provider(choice: GpuRuntimeChoice = 'auto') -> GpuRuntime:
    """The runtime to use; auto: TensorRT where it is installed, else TensorRT-RTX.

    Raises EngineError when it is not installed.
    """
    choices = get_args(GpuRuntimeChoice)
    if choice not in choices:
        raise EngineError(f'provider {choice!r} is not known; choose one of {", ".join(choices)}')
    wanted = get_args(GpuRuntime) if choice == 'auto' else (choice,)
    for provider in wanted:
        if any(importlib.util.find_spec(name) for name in MODULES[provider]):
            return cast(GpuRuntime, provider)
    raise EngineError(f'{" or ".join(INSTALL[name] for name in wanted)} is not installed.')


def import_provider(provider: GpuRuntime) -> Any:
    """The bindings. Raises EngineError when they, or the libraries below them, do not load."""
    reasons = []
    for name in MODULES[provider]:
        if importlib.util.find_spec(name):
            try:
                return importlib.import_module(name)
            except (ImportError, OSError) as error:
                reasons.append(f'{name}: {error}')
    raise EngineError(
        f'{INSTALL[provider]} cannot be imported: {"; ".join(reasons) or "it is not installed"}.'
    )


def make_logger(trt: Any, on_event: Callable[[BuildEvent], None] = ignore) -> Any:
    """A TensorRT logger that prints nothing and passes errors and warnings on, the latter once.

    errors: the last ones, a deque. layers: lines that say what each layer became.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=_KEPT_ERRORS)
            self.layers: list[str] = []
            self._told: set[str] = set()

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message.strip())
                on_event(BuildEvent('error', message))
            elif severity == trt.ILogger.WARNING:
                if message not in self._told:
                    self._told.add(message)
                    on_event(BuildEvent('warning', message))
            elif 'LayerType: ' in message:
                self.layers += [line for line in message.splitlines() if 'LayerType: ' in line]

        def take_errors(self) -> str:
            """The errors since the last call as one text."""
            text = ' | '.join(self.errors) or 'it does not say why'
            self.errors.clear()
            return text

    return Logger()
