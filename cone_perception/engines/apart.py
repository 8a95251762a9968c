"""Work in a process of its own: neither its crash nor its hang reaches the process that asked.

The module that works prints lines of JSON: events, at last its result.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from cone_perception.engines.events import BuildEvent, ignore
from cone_perception.errors import ConePerceptionError, EngineError
from cone_perception.files import to_json, without_nan

TIMEOUT_S = 1800.0
"""Work that takes longer hangs: an INT8 YOLO takes TensorRT a few minutes."""


def run_apart(module: str, words: Mapping[str, Any], *told: Any, **named: Any) -> Any:
    """Run a module that calls `serve`, as `follow` does. words: what its work gets."""
    return follow([sys.executable, '-m', module, to_json(words)], *told, **named)


def follow(
    command: Sequence[str],
    name: str,
    failed: str,
    on_event: Callable[[BuildEvent], None] = ignore,
    cancelled: Callable[[], bool] = lambda: False,
    timeout_s: float = TIMEOUT_S,
) -> Any:
    """Run a command that prints as `serve` does, pass its events on, and return its result.

    name, failed: begin the message of the EngineError that is raised when it crashes, hangs or is
    cancelled, and when it ends without a result.
    """
    deadline = time.monotonic() + timeout_s
    stopped, tail = '', deque[str](maxlen=4)
    result: list[Any] = []

    def watch() -> None:
        """Kill the process when it is cancelled or late: its output ends then."""
        nonlocal stopped
        while process.poll() is None and not stopped:
            if cancelled():
                stopped = 'was stopped before it was done.'
            elif time.monotonic() > deadline:
                stopped = f'did not answer within {timeout_s:.0f} s and was stopped.'
            time.sleep(0.1)
        _kill(process)

    # It ends when its standard input does: with this process, however this process ends.
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        start_new_session=True,
    ) as process:
        threading.Thread(target=watch, daemon=True).start()
        try:
            for line in process.stdout or ():
                try:
                    entry = json.loads(line)
                except ValueError:
                    entry = None
                if not isinstance(entry, dict) or not {'kind', 'result'} & set(entry):
                    tail.append(line.strip())  # a library printed it
                elif 'result' in entry:
                    result = [entry['result']]
                else:
                    event = BuildEvent(**entry)
                    if event.kind in ('warning', 'error'):
                        tail.append(event.message)
                    on_event(event)
            status = process.wait(timeout=10)
        finally:
            _kill(process)
    said = f'It last said: {" | ".join(tail)}' if tail else 'It said nothing.'
    if stopped:
        raise EngineError(f'{name} {stopped} {said}')
    if status < 0:
        number = signal.Signals(-status).name
        hint = ': has the memory run out?' if number == 'SIGKILL' else ''
        raise EngineError(f'{name} crashed ({number}{hint}). {said}')
    if status or not result:
        raise EngineError(f'{failed} {said}')
    return result[0]


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill the process, and what it started, unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def serve(work: Callable[..., Any]) -> NoReturn:
    """Do the work in the process of its own.

    work: takes the words by name, and `on_event`; what it returns goes back as JSON.
    """
    threading.Thread(target=end_with_parent, daemon=True).start()
    warnings.simplefilter('ignore')
    status = 0
    try:
        _print({'result': work(**json.loads(sys.argv[1]), on_event=_print)})
    except ConePerceptionError as error:
        _print(BuildEvent('error', str(error)))
        status = 1
    os._exit(status)  # a library that crashes while it is taken down has done its work


def end_with_parent() -> None:
    """Leave when whoever started this process is gone: its end of our standard input closes."""
    while os.read(0, 1):  # not sys.stdin: its lock would be held when Python ends
        pass
    os._exit(3)


def _print(entry: Mapping[str, Any] | BuildEvent) -> None:
    print(json.dumps(without_nan(entry)), flush=True)
