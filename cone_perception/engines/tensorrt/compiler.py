"""Compile an ordered engine in a process of its own.

Neither a crash nor a hang of the compiler reaches the process that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cone_perception.engines.events import BuildEvent
from cone_perception.engines.tensorrt.order import BuildPolicy, EngineOrder
from cone_perception.errors import EngineError

MODULE = 'cone_perception.engines.tensorrt.compile_process'
"""Run as the process of its own."""

TIMEOUT_S = 1800.0
"""A build that takes longer hangs: an INT8 YOLO takes TensorRT a few minutes."""

_TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled network.

    data: the plan. convolutions: precision -> how many. layers: kind -> precision -> how many.
    """

    data: bytes
    convolutions: Mapping[str, int]
    layers: Mapping[str, Mapping[str, int]]
    build_s: float


def compile_apart(order: EngineOrder) -> Compiled:
    """Compile the ordered network in a process of its own.

    Raises EngineError when the compiler refuses, crashes, or takes longer than TIMEOUT_S.
    """
    key, policy = order.key, order.policy
    command = ['--target', f'SM{key.compute_capability.replace(".", "")}']
    command += ['--precision', key.precision]
    if key.gpu:  # else it is compiled for a GPU that is not here
        command += ['--inspect', '--timing-cache', str(policy.cache.timing_cache(key))]
    with tempfile.TemporaryDirectory(prefix='cone_perception_build_') as folder:
        plan = Path(folder) / 'plan'
        last = follow(_command(order, plan, command), policy)
        return Compiled(plan.read_bytes(), **last)


def inspect_apart(order: EngineOrder, plan: bytes) -> Compiled:
    """Count a plan's layers in a process of its own: a foreign plan may crash its reader.

    order: of the network whose convolutions are looked up. Raises EngineError.
    """
    with tempfile.TemporaryDirectory(prefix='cone_perception_plan_') as folder:
        file = Path(folder) / 'plan'
        file.write_bytes(plan)
        last = follow(
            _command(order, file, ['--count']),
            order.policy,
            name='what reads the plan',
            failed='the plan could not be read.',
        )
    return Compiled(plan, **last)


def follow(
    command: Sequence[str],
    policy: BuildPolicy,
    timeout_s: float = TIMEOUT_S,
    name: str = 'the compiler',
    failed: str = 'the network could not be compiled.',
) -> dict[str, Any]:
    """Run the compiler's process, pass its events on, and return its last line.

    name, failed: for the message of the EngineError that is raised when it gives no result.
    """
    # It ends when its standard input does: with this process, however this process ends.
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        start_new_session=True,
    )
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True).start()
    deadline = time.monotonic() + timeout_s
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    result: dict[str, Any] | None = None
    try:
        while True:
            if policy.cancelled():
                raise EngineError('the build of the engine was stopped before it was done.')
            if time.monotonic() > deadline:
                raise EngineError(
                    f'{name} did not answer within {timeout_s:.0f} s and was stopped. '
                    f'{_last_words(tail)}'
                )
            try:
                line = lines.get(timeout=0.2)
            except queue.Empty:
                continue
            if line is None:
                break
            entry = _entry(line)
            if entry is None:
                tail.append(line.strip())
            elif 'build_s' in entry:
                result = entry
            else:
                event = BuildEvent(**entry)
                if event.kind in ('warning', 'error'):
                    tail.append(event.message)
                policy.on_event(event)
        status = process.wait(timeout=10)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()
    if status < 0:
        number = signal.Signals(-status).name
        hint = ': has the memory run out?' if number == 'SIGKILL' else ''
        raise EngineError(f'{name} crashed ({number}{hint}). {_last_words(tail)}')
    if status or result is None:
        raise EngineError(f'{failed} {_last_words(tail)}')
    return result


def _command(order: EngineOrder, plan: Path, options: Sequence[str]) -> list[str]:
    network = order.bundle.checked_path(order.network)
    return [
        *(sys.executable, '-m', MODULE, str(network)),
        *('--provider', order.key.provider, '--plan', str(plan), *options),
    ]


def _read_lines(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed when the process is killed
        for line in stream:
            lines.put(line)
    lines.put(None)


def _entry(line: str) -> dict[str, Any] | None:
    """A line of the builder's own; None for what a library printed."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and {'kind', 'build_s'} & set(entry) else None


def _last_words(tail: Sequence[str]) -> str:
    return f'It last said: {" | ".join(list(tail)[-4:])}' if tail else 'It said nothing.'
