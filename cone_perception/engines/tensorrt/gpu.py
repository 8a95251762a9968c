"""The machine's GPU, by its driver, and the Python packages of TensorRT that run on it.

TensorRT and TensorRT-RTX have the same interface. No context is made here, nothing is loaded.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from cone_perception.engines.events import BuildEvent, ignore
from cone_perception.errors import EngineError, told_as
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

DRIVER_VERSION_FILE = Path('/proc/driver/nvidia/version')


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU and what drives it.

    name: as the driver calls it. compute_capability: '8.9'. driver: version of the driver; empty
    where it does not say. cuda: newest CUDA that the driver knows, '12.4'.
    """

    name: str
    compute_capability: str
    driver: str
    cuda: str


def read_gpu() -> Gpu:
    """The first GPU that CUDA counts. Raises EngineError that says why there is none."""
    advice = "Install the GPU's driver, or run on the CPU."
    with told_as(EngineError, 'this machine has no NVIDIA driver', advice=advice):
        driver = ctypes.CDLL('libcuda.so.1')
    device, version, major, minor = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(256)
    for function, *arguments in (
        ('cuInit', 0),
        ('cuDeviceGet', ctypes.byref(device), 0),
        ('cuDeviceGetName', name, len(name), device),
        # From cuda.h: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
        ('cuDeviceGetAttribute', ctypes.byref(major), 75, device),
        ('cuDeviceGetAttribute', ctypes.byref(minor), 76, device),
        ('cuDriverGetVersion', ctypes.byref(version)),
    ):
        if status := getattr(driver, str(function))(*arguments):
            text = ctypes.c_char_p()
            driver.cuGetErrorString(status, ctypes.byref(text))
            reason = text.value.decode() if text.value else 'unknown error'
            raise EngineError(
                f'the NVIDIA driver gives no GPU: {function} says {reason} ({status}). Does '
                '`nvidia-smi` list one? CUDA_VISIBLE_DEVICES may hide it.'
            )
    capability = f'{major.value}.{minor.value}'
    cuda = f'{version.value // 1000}.{version.value % 1000 // 10}'
    return Gpu(name.value.decode('utf-8', 'replace'), capability, _driver_version(), cuda)


def _driver_version() -> str:
    """The driver's own version: of the management library, else of the kernel module."""
    try:
        library = ctypes.CDLL('libnvidia-ml.so.1')
        text = ctypes.create_string_buffer(80)
        if library.nvmlInit_v2() == 0 and not library.nvmlSystemGetDriverVersion(text, len(text)):
            return text.value.decode()
    except (OSError, AttributeError):
        pass  # some containers lack it
    if DRIVER_VERSION_FILE.is_file():
        found = re.search(r'\s(\d+\.\d+(?:\.\d+)?)\s', DRIVER_VERSION_FILE.read_text())
        return found[1] if found else ''
    return ''


def import_runtime(choice: GpuRuntimeChoice = 'auto') -> tuple[GpuRuntime, Any]:
    """The runtime and its bindings; auto: TensorRT where it is installed, else TensorRT-RTX.

    Raises EngineError when it is not installed, or when it or the libraries below do not load.
    """
    choices = get_args(GpuRuntimeChoice)
    if choice not in choices:
        raise EngineError(f'provider {choice!r} is not known; choose one of {", ".join(choices)}')
    wanted: tuple[GpuRuntime, ...] = get_args(GpuRuntime) if choice == 'auto' else (choice,)
    for provider in wanted:
        reasons = []
        for name in filter(importlib.util.find_spec, MODULES[provider]):
            try:
                return provider, importlib.import_module(name)
            except (ImportError, OSError) as error:
                reasons.append(f'{name}: {error}')
        if reasons:
            raise EngineError(f'{INSTALL[provider]} cannot be imported: {"; ".join(reasons)}.')
    raise EngineError(f'{" or ".join(INSTALL[name] for name in wanted)} is not installed.')


def make_logger(trt: Any, on_event: Callable[[BuildEvent], None] = ignore) -> Any:
    """A TensorRT logger that prints nothing and passes errors and warnings on, the latter once.

    errors: the last ones, a deque. layers: lines that say what each layer became.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=8)
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
