"""Hardware, versions and commit that a campaign ran on, and the energy that its GPUs used."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from cone_perception.engines.machine import installed_versions, processor_name, read_commit

PACKAGES = ('torch', 'torchvision', 'ultralytics', 'numpy', 'opencv-python', 'wandb')


def read_machine() -> tuple[dict[str, Any], dict[str, str], str]:
    """Hardware, versions of what is installed, commit of the checkout ('+': changed; '': none)."""
    pages, page_bytes = os.sysconf('SC_PHYS_PAGES'), os.sysconf('SC_PAGE_SIZE')
    hardware = {
        'host': platform.node(),
        'system': platform.platform(),
        'processor': processor_name(),
        'cores': os.cpu_count(),
        'memory_gb': round(pages * page_bytes / 1e9, 1),
        'gpus': read_gpus(),
    }
    versions = {'python': platform.python_version(), **installed_versions(PACKAGES)}
    commit, changed = read_commit(Path(__file__).resolve().parents[2])
    return hardware, versions, (commit or '') + ('+' if changed else '')


def read_gpus() -> list[dict[str, str]]:
    """Name, memory and driver of each NVIDIA GPU; empty without a driver."""
    keys = ('name', 'memory.total', 'driver_version')
    if not shutil.which('nvidia-smi'):
        return []
    done = subprocess.run(
        ['nvidia-smi', f'--query-gpu={",".join(keys)}', '--format=csv,noheader'],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        return []
    return [
        dict(zip(keys, (entry.strip() for entry in line.split(',')), strict=True))
        for line in done.stdout.splitlines()
    ]


def driver_numbers(gpus: tuple[int, ...]) -> tuple[int, ...]:
    """GPUs of a recipe as the NVIDIA driver counts them; none where that cannot be told."""
    visible = os.environ.get('CUDA_VISIBLE_DEVICES', '')
    listed = [entry.strip() for entry in visible.split(',')] if visible else []
    if not listed:
        return gpus
    if not all(entry.isdigit() for entry in listed) or max(gpus, default=0) >= len(listed):
        return ()
    return tuple(int(listed[number]) for number in gpus)


class EnergyMeter:
    """Energy that GPUs used since it was made, by their own counters, whoever used them.

    devices: numbers as the driver counts them. Before Volta there is no counter.
    """

    def __init__(self, devices: tuple[int, ...]) -> None:
        self._devices = devices
        self._start = self._read()

    def used_wh(self) -> float | None:
        """None: not measured."""
        end = self._read()
        if self._start is None or end is None:
            return None
        return (end - self._start) / 3_600_000  # from millijoules

    def _read(self) -> int | None:
        if not self._devices:
            return None
        try:
            nvml = importlib.import_module('pynvml')
        except ImportError:
            return None
        try:
            nvml.nvmlInit()
            handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in self._devices]
            return sum(int(nvml.nvmlDeviceGetTotalEnergyConsumption(entry)) for entry in handles)
        except nvml.NVMLError:
            return None
