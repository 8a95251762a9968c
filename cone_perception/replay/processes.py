"""The node under test and the other processes of a replay, which start and end together."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from subprocess import Popen
from typing import cast

from cone_perception.bags.reader import CONES, DETECTIONS
from cone_perception.errors import ConePerceptionError, told_as
from cone_perception.files import locked, to_json
from cone_perception.model_card import Bundle
from cone_perception.process import start_apart, wait_or_kill
from cone_perception.replay.traces import Drive
from cone_perception.settings import DetectorSettings
from cone_perception.types import ViewsChoice
from cone_perception.views import views_per_picture

STOP_TIMEOUT_S = 5.0
DOMAINS = range(1, 102)
"""ROS domains that keep clear of Linux's ephemeral ports and of 0, which is everybody's default."""


BY_DRIVE = ('cameras', 'image_topics', 'info_topics', 'transport', 'autostart', 'build_only')
"""Settings of the node under test that follow from the drive and the way of starting it."""


class ProcessError(ConePerceptionError):
    """A process ended that should not have, or did not get ready."""


class ProcessGroup:
    """Processes that share an environment, write a log each, and all end when it is left.

    running: those that were started, and have not been stopped or waited for.
    """

    def __init__(self, environment: Mapping[str, str], log_folder: Path) -> None:
        self._environment = dict(environment)
        self._log_folder = log_folder
        self.running: dict[str, Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str], show: bool = False) -> None:
        """Start a process. show: its stderr, a progress bar say, goes to the terminal too.

        Raises ProcessError where there is no such command.
        """
        log = self._log_folder / f'{name}.log'
        with told_as(ProcessError, f'{name} cannot be started: {command[0]}'):
            log.parent.mkdir(parents=True, exist_ok=True)
            self.running[name] = start_apart(command, self._environment, log, show)

    def wait(self, name: str, timeout_s: float) -> None:
        """Wait until a process has ended well. Raises ProcessError when any other one ends."""
        deadline = time.monotonic() + timeout_s
        while self.running[name].poll() is None:
            self._keep_waiting(name, deadline, f'had not ended after {timeout_s:g} s', but=name)
        status = self.running.pop(name).returncode
        if status:
            raise self._error(f'{name} ended with status {status}')

    def wait_for_text(
        self, name: str, text: str, timeout_s: float, refusals: Mapping[str, str] | None = None
    ) -> None:
        """Wait until a process has written this to its stdout.

        refusals: process -> text; once that has written it, there is nothing to wait for.
        Raises ProcessError.
        """
        deadline = time.monotonic() + timeout_s
        while text not in self._read_log(name):
            for other, refusal in (refusals or {}).items():
                if refusal in self._read_log(other):
                    raise self._error(f'{other} refuses to work')
            self._keep_waiting(name, deadline, f'was not ready after {timeout_s:g} s')

    def stop(self, name: str) -> None:
        """End a process with SIGTERM. Raises ProcessError when it does not end well by that."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        status = wait_or_kill(process, STOP_TIMEOUT_S)
        if status is None:
            raise self._error(f'{name} did not end within {STOP_TIMEOUT_S:g} s of SIGTERM')
        if status:
            raise self._error(f'{name} ended with status {status}')

    def last_words(self, name: str) -> list[str]:
        """Return the last lines that a process wrote."""
        return self._read_log(name).splitlines()[-15:]

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in self.running.values():
            wait_or_kill(process, max(0.0, deadline - time.monotonic()))
        self.running.clear()

    def _keep_waiting(self, name: str, deadline: float, problem: str, but: str = '') -> None:
        """Sleep a little. Raises ProcessError past the deadline, or when any but one has ended."""
        for other, process in self.running.items():
            status = process.poll()
            if other != but and status is not None:
                raise self._error(f'{other} ended too early, with status {status}')
        if time.monotonic() > deadline:
            raise self._error(f'{name} {problem}')
        time.sleep(0.05)

    def _read_log(self, name: str) -> str:
        log = self._log_folder / f'{name}.log'
        return log.read_text(encoding='utf-8', errors='replace')

    def _error(self, problem: str) -> ProcessError:
        """Make an error with the last lines of all logs, for whoever reads it."""
        tails = [
            '\n'.join([f'\n--- the end of {log} ---', *lines])
            for log in sorted(self._log_folder.glob('*.log'))
            if (lines := self.last_words(log.stem))
        ]
        return ProcessError(f'{problem}.{"".join(tails)}')


@contextlib.contextmanager
def private_domain() -> Iterator[int]:
    """Hold a ROS_DOMAIN_ID that no other replay on this machine has at the same time."""
    for offset in range(len(DOMAINS)):
        domain = DOMAINS[(os.getpid() + offset) % len(DOMAINS)]
        path = Path(tempfile.gettempdir()) / f'cone_perception_{os.getuid()}_domain_{domain}.lock'
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(path))
            except OSError:  # somebody uses it now, or put a file of that name there
                continue
            yield domain
            return
    raise ProcessError(f'all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use: give one.')


def ros_environment(domain: int, log_folder: Path) -> dict[str, str]:
    """Environment that keeps the processes' ROS on this machine and apart from any other."""
    # Humble knows only the older variable, which newer distributions warn of.
    humble = {'ROS_LOCALHOST_ONLY': '1'} if os.environ.get('ROS_DISTRO') == 'humble' else {}
    return {
        **os.environ,
        **humble,
        'ROS_DOMAIN_ID': str(domain),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'ROS_LOG_DIR': str((log_folder / 'ros').resolve()),
        'PYTHONUNBUFFERED': '1',
    }


def python_module(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this Python."""
    return [sys.executable, '-m', module, *arguments]


def python_job(name: str, job: Mapping[str, object]) -> list[str]:
    """Return the command that does a job of `replay.ros`."""
    return python_module('cone_perception.replay.ros', name, to_json(job))


@dataclass(frozen=True, slots=True)
class NodeCommand:
    """A node under test.

    command: starts it. detections, cones: camera's name -> its topic of Detection2DArray, and of
    Detection3DArray, whose ids are rows of the former; the eyes of a rig share one.
    class_names: of its answers. timing_topic: where it tells of every frame that it received, as
    ours does; health_topic: of its diagnostics. ready, refuses: what it prints when it can take
    pictures, and when it never will. pairs: it works on pictures of all cameras at once. partners:
    cameras in whose pictures it finds the cones of another one again.
    """

    command: tuple[str, ...]
    detections: Mapping[str, str]
    class_names: tuple[str, ...]
    timing_topic: str | None = None
    health_topic: str | None = None
    ready: str | None = None
    refuses: str | None = None
    pairs: bool = False
    partners: tuple[str, ...] = ()
    cones: Mapping[str, str] = field(default_factory=dict)

    @property
    def topics(self) -> dict[str, str]:
        """Topic -> type of all that the node says."""
        told = filter(None, (self.timing_topic, self.health_topic))
        diagnostics = dict.fromkeys(told, 'diagnostic_msgs/msg/DiagnosticArray')
        cones = dict.fromkeys(self.cones.values(), CONES)
        return dict.fromkeys(self.detections.values(), DETECTIONS) | cones | diagnostics

    def started_by(self, *prefix: str) -> NodeCommand:
        """Return the same node, started by another command, as ('taskset', '-c', '0')."""
        return replace(self, command=(*prefix, *self.command))


def parameters_of(settings: DetectorSettings) -> dict[str, str]:
    """Settings that differ from their defaults, as `ros2 param` would write them.

    Those that the drive says are left out.
    """
    return {
        entry.name: json.dumps(value)
        for entry in fields(settings)
        if entry.name not in BY_DRIVE and (value := getattr(settings, entry.name)) != entry.default
    }


def our_node(
    drive: Drive, bundle: Bundle, settings: Mapping[str, str] | None = None
) -> NodeCommand:
    """`cone-perception node` for the cameras of this drive.

    settings: name -> value as `ros2 param` would write it.
    """
    forms = {camera.compressed for camera in drive.cameras}
    names = [camera.name for camera in drive.cameras]
    settings = {
        **(settings or {}),
        'model': str(bundle.folder.resolve()),
        'cameras': json.dumps(names),
        'image_topics': json.dumps([camera.topic for camera in drive.cameras]),
        'transport': 'auto' if len(forms) > 1 else 'compressed' if True in forms else 'raw',
    }
    named = settings.get('views', 'auto').strip('"')
    views = bundle.card.chosen_views(cast(ViewsChoice, named))
    stereo = settings.get('stereo') == 'true'
    one_rig = stereo or len(names) == 1
    parameters = [part for name, value in settings.items() for part in ('-p', f'{name}:={value}')]
    return NodeCommand(
        command=tuple(python_module('cone_perception.cli', 'node', '--ros-args', *parameters)),
        detections={name: f'/{name}/detections' for name in names},
        class_names=bundle.card.class_names,
        timing_topic='/detector/timing',
        health_topic='/diagnostics',
        ready='active: listening to',
        refuses='not configured: ',  # logged where it stays alive without a model
        cones={name: '/detector/cones' if one_rig else f'/detector/{name}/cones' for name in names},
        partners=tuple(names[1:]) if stereo else (),
        pairs=stereo
        or (len(names) == 2 and int(settings.get('batch', 1)) >= 2 * views_per_picture(views)),
    )


def echo_node(drive: Drive) -> NodeCommand:
    """Return the node that answers every picture at once, without any cones."""
    return NodeCommand(
        command=tuple(python_job('echo', {'cameras': drive.cameras})),
        detections={camera.name: f'/{camera.name}/detections' for camera in drive.cameras},
        class_names=(),
    )
