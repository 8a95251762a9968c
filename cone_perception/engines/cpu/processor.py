"""Name of the processor, and the instructions that a network's speed depends on."""

from __future__ import annotations

import platform
import re
from pathlib import Path

CPUINFO = Path('/proc/cpuinfo')


def processor_name() -> str:
    """Name the processor as Linux does, or else by its architecture."""
    return _line('model name') or platform.machine()


def vector_instructions() -> list[str]:
    """List the vector instructions that Linux knows of: avx2, avx512_vnni, amx_int8 ..."""
    flags = (_line('flags') or _line('Features')).split()
    return sorted(f for f in flags if f.startswith(('avx', 'amx', 'fma', 'asimd', 'sve', 'i8mm')))


def computes_bfloat16() -> bool:
    """Tell whether this CPU has instructions for bfloat16; elsewhere it is imitated, and slow."""
    import openvino

    return 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')


def _line(key: str) -> str:
    """Value of the first such line of cpuinfo; empty without one."""
    text = CPUINFO.read_text(encoding='utf-8') if CPUINFO.is_file() else ''
    found = re.search(rf'^{key}\s*:\s*(.+)$', text, re.MULTILINE)
    return found[1] if found else ''
