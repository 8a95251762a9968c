"""Asks the NVIDIA driver for the GPU: no context is made, nothing is loaded."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

from cone_perception.errors import EngineError

DRIVER_VERSION_FILE = Path('/proc/driver/nvidia/version')

# From cuda.h: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
_MAJOR, _MINOR = 75, 76


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


def read_gpu(index: int = 0) -> Gpu:
    """The GPU that CUDA counts as `index`. Raises EngineError that says why there is none."""
    try:
        driver = ctypes.CDLL('libcuda.so.1')
    except OSError as error:
        raise EngineError(
            f"this machine has no NVIDIA driver ({error}). Install the GPU's driver, or run on "
            'the CPU.'
        ) from error
    _call(driver, 'cuInit', 0)
    device, version, major, minor = (ctypes.c_int() for _ in range(4))
    _call(driver, 'cuDeviceGet', ctypes.byref(device), index)
    name = ctypes.create_string_buffer(256)
    _call(driver, 'cuDeviceGetName', name, len(name), device)
    _call(driver, 'cuDeviceGetAttribute', ctypes.byref(major), _MAJOR, device)
    _call(driver, 'cuDeviceGetAttribute', ctypes.byref(minor), _MINOR, device)
    _call(driver, 'cuDriverGetVersion', ctypes.byref(version))
    return Gpu(
        name=name.value.decode('utf-8', 'replace'),
        compute_capability=f'{major.value}.{minor.value}',
        driver=_driver_version(),
        cuda=f'{version.value // 1000}.{version.value % 1000 // 10}',
    )


def _call(driver: ctypes.CDLL, function: str, *arguments: object) -> None:
    status = getattr(driver, function)(*arguments)
    if status:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        reason = text.value.decode() if text.value else 'unknown error'
        raise EngineError(
            f'the NVIDIA driver gives no GPU: {function} says {reason} ({status}). Does '
            '`nvidia-smi` list one? CUDA_VISIBLE_DEVICES may hide it.'
        )


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
