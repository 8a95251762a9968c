"""The processes of a replay: started together, ended together, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from cone_perception.errors import ConePerceptionError
from cone_perception.files import LockedError, locked
from cone_perception.process import end_with_parent

STOP_TIMEOUT_S = 5.0
LOG_TAIL_LINES = 15
POLL_S = 0.05
DOMAINS = range(1, 102)
"""ROS domains that keep clear of Linux's ephemeral ports and of 0, which is everybody's default."""


class ProcessError(ConePerceptionError):
    """A process ended that should not have, or did not get ready."""


class ProcessGroup:
    """Processes that share an environment, write a log each, and all end when it is left."""

    def __init__(self, environment: Mapping[str, str], log_folder: Path) -> None:
        self._environment = dict(environment)
        self._log_folder = log_folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str], show: bool = False) -> None:
        """Start a process. show: its stderr, a progress bar say, goes to the terminal too.

        Raises ProcessError where there is no such command.
        """
        log = self._log(name).open('wb')
        with log:
            # A session of its own: Ctrl-C reaches this process only, which ends them in order.
            try:
                self._running[name] = subprocess.Popen(
                    command,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=None if show else subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=end_with_parent,
                )
            except OSError as error:
                raise ProcessError(f'{name} cannot be started: {command[0]}: {error}.') from error

    def wait(self, name: str, timeout_s: float) -> None:
        """Wait until a process has ended well. Raises ProcessError when any other one ends."""
        deadline = time.monotonic() + timeout_s
        while self._running[name].poll() is None:
            self._check_others(name)
            self._check_deadline(name, deadline, f'had not ended after {timeout_s:g} s')
            time.sleep(POLL_S)
        status = self._running.pop(name).returncode
        if status:
            raise ProcessError(f'{name} ended with status {status}.{self._log_tails()}')

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
                    raise ProcessError(f'{other} refuses to work.{self._log_tails()}')
            self._check_others('')
            self._check_deadline(name, deadline, f'was not ready after {timeout_s:g} s')
            time.sleep(POLL_S)

    def stop(self, name: str) -> None:
        """End a process with SIGTERM. Raises ProcessError when it does not end well by that."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise ProcessError(
                f'{name} did not end within {STOP_TIMEOUT_S:g} s of SIGTERM.{self._log_tails()}'
            ) from None
        if status:
            raise ProcessError(f'{name} ended with status {status}.{self._log_tails()}')

    def end(self, name: str) -> None:
        """End a process, whatever its status, unless it has ended."""
        if name in self._running:
            with contextlib.suppress(ProcessError):
                self.stop(name)

    def pid(self, name: str) -> int:
        """Of a process that was started and not stopped."""
        return self._running[name].pid

    def status(self, name: str) -> int | None:
        """Exit status of a process that was started and not stopped; None while it runs."""
        return self._running[name].poll()

    def last_words(self, name: str) -> list[str]:
        """The last lines that a process wrote."""
        return self._read_log(name).splitlines()[-LOG_TAIL_LINES:]

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in self._running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _kill(process)
        self._running.clear()

    def _check_others(self, but: str) -> None:
        for name, process in self._running.items():
            status = process.poll()
            if name != but and status is not None:
                raise ProcessError(
                    f'{name} ended too early, with status {status}.{self._log_tails()}'
                )

    def _check_deadline(self, name: str, deadline: float, problem: str) -> None:
        if time.monotonic() > deadline:
            raise ProcessError(f'{name} {problem}.{self._log_tails()}')

    def _log(self, name: str) -> Path:
        return self._log_folder / f'{name}.log'

    def _read_log(self, name: str) -> str:
        return self._log(name).read_text(encoding='utf-8', errors='replace')

    def _log_tails(self) -> str:
        """What the processes wrote last, for whoever reads the error."""
        text = ''
        for log in sorted(self._log_folder.glob('*.log')):
            lines = self.last_words(log.stem)
            if lines:
                text += f'\n--- the end of {log} ---\n' + '\n'.join(lines)
        return text


@contextlib.contextmanager
def private_domain() -> Iterator[int]:
    """A ROS_DOMAIN_ID that no other replay on this machine has at the same time."""
    for offset in range(len(DOMAINS)):
        domain = DOMAINS[(os.getpid() + offset) % len(DOMAINS)]
        path = Path(tempfile.gettempdir()) / f'cone_perception_domain_{domain}.lock'
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(path))
            except (LockedError, OSError):  # somebody's who uses it now, or another user's
                continue
            yield domain
            return
    raise ProcessError(f'all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use: give one.')


def ros_environment(domain: int, log_folder: Path) -> dict[str, str]:
    """For the processes: nothing leaves this machine, and no other ROS on it is disturbed."""
    # Humble knows only the older variable, which newer distributions warn of.
    humble = {'ROS_LOCALHOST_ONLY': '1'} if os.environ.get('ROS_DISTRO') == 'humble' else {}
    return (
        os.environ
        | humble
        | {
            'ROS_DOMAIN_ID': str(domain),
            'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
            'ROS_LOG_DIR': str((log_folder / 'ros').resolve()),
            'PYTHONUNBUFFERED': '1',
        }
    )


@contextlib.contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does, its processes in order."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this Python."""
    return [sys.executable, '-m', module, *arguments]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The whole session: what it may have started too."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
