"""The node in a process of its own, and what a test needs to talk to it over DDS."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from tiny_network import write_tiny_bundle
from vision_msgs.msg import Detection2DArray

TIMEOUT_S = 20.0
"""For what must come: generous, because other work may share the machine."""

BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=5)
LATCHED = QoSProfile(depth=50, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def first_true(condition: Callable[[], Any], timeout_s: float) -> Any:
    """The first true value of `condition`, None where there is none in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.01)
    return None


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
    """The first true value of `condition`; fails the test when there is none in time."""
    value = first_true(condition, timeout_s)
    assert value, f'waited {timeout_s} s in vain for {what}'
    return value


def ask(client: Any, request: Any, timeout_s: float) -> Any:
    """The answer of a service, None where none comes in time. Another thread must spin."""
    answered = threading.Event()
    future = client.call_async(request)
    future.add_done_callback(lambda _: answered.set())
    return future.result() if answered.wait(timeout_s) else None


class LoggedProcess:
    """A process in a session of its own, with what it says in a file."""

    def __init__(self, log: Path, command: list[str], environment: dict[str, str]) -> None:
        self._log = log
        with log.open('w') as stream:
            self.process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        atexit.register(self.process.kill)  # also when a test fails before it stops its node

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for_output(self, text: str, count: int = 1) -> None:
        def heard() -> bool:
            return self.output.count(text) >= count or not self.is_alive()

        try:
            wait_for(heard, f'{count} times {text!r} in the log')
        except AssertionError as error:
            raise AssertionError(f'{error}:\n{self.output}') from error
        assert self.output.count(text) >= count, self.output

    def is_alive(self) -> bool:
        return self.process.poll() is None


class NodeProcess(LoggedProcess):
    """`cone-perception node` with these ROS arguments, on the CPU unless they say otherwise."""

    def __init__(
        self, log, parameters, *arguments, program=('-m', 'cone_perception.cli'), **environment
    ):
        """program: what Python runs; a test may put something in place before the command."""
        self._earlier_segments = set(Path('/dev/shm').glob('fast*'))
        values = {'device': 'cpu'} | parameters
        given = [part for name, value in values.items() for part in ('-p', f'{name}:={value}')]
        command = [sys.executable, *program, 'node', '--ros-args']
        super().__init__(log, [*command, *given, *arguments], environment)

    def stop(self, number: int = signal.SIGINT) -> tuple[int, float]:
        """Send a signal; returns exit status and seconds until the end."""
        started = time.monotonic()
        self.process.send_signal(number)
        try:
            status = self.process.wait(TIMEOUT_S)
        finally:
            if self.is_alive():
                self.process.kill()
        return status, time.monotonic() - started

    def shared_memory(self) -> dict[Path, int]:
        """Fast DDS segments that came with the process, and their bytes."""
        sizes = {}
        for line in Path(f'/proc/{self.process.pid}/maps').read_text().splitlines():
            if '/dev/shm/fast' in line:
                first, last = line.split()[0].split('-')
                sizes[Path(line.split()[-1])] = int(last, 16) - int(first, 16)
        return {path: size for path, size in sizes.items() if path not in self._earlier_segments}


@contextmanager
def running_node(
    factory: pytest.TempPathFactory, namespace: str, bundle: dict[str, Any], **parameters: str
) -> Iterator[NodeProcess]:
    """An active node in a namespace, that must end well and without a traceback.

    bundle: how its tiny network differs from the usual one.
    """
    folder = factory.mktemp('node')
    parameters['model'] = str(write_tiny_bundle(folder / 'tiny', **bundle))
    process = NodeProcess(folder / 'node.log', parameters, '-r', f'__ns:={namespace}')
    process.wait_for_output('active: listening')
    yield process
    status, _ = process.stop()
    assert status == 0, process.output
    assert 'Traceback' not in process.output


class Observer:
    """A ROS node in the test's process that sends pictures and keeps what it hears."""

    def __init__(self) -> None:
        self.node = rclpy.create_node('observer')
        self._heard: dict[str, list[Any]] = {}
        self._publishers: dict[Any, Any] = {}
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self._stamp_ns = time.time_ns()

    def close(self) -> None:
        # Woken by a task, not by shutdown(), which frees what the thread waits for.
        self._done.set()
        self._executor.create_task(lambda: None)
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()

    def _spin(self) -> None:
        while not self._done.is_set():
            self._executor.spin_once()

    def listen(self, topic: str, message_type: type, qos: QoSProfile = RELIABLE) -> list[Any]:
        """Messages of a topic, kept from the first call on."""
        if topic not in self._heard:
            self._heard[topic] = []
            self.node.create_subscription(message_type, topic, self._heard[topic].append, qos)
        return self._heard[topic]

    def publisher(self, topic: str, message_type: type, qos: QoSProfile = RELIABLE) -> Any:
        key = (topic, message_type, qos.reliability)
        if key not in self._publishers:
            self._publishers[key] = self.node.create_publisher(message_type, topic, qos)
        return self._publishers[key]

    def forget(self, topic: str) -> None:
        """Take back every publisher of a topic."""
        for key in [key for key in self._publishers if key[0] == topic]:
            self.node.destroy_publisher(self._publishers.pop(key))

    def answer(self, topic: str, stamp_ns: int) -> Any:
        """The answer on a topic to the picture with this stamp, or None."""
        answers = list(self.listen(topic, Detection2DArray))
        return next((a for a in reversed(answers) if stamp_ns_of(a) == stamp_ns), None)

    def next_stamp_ns(self) -> int:
        """A stamp of now, different from every earlier one."""
        self._stamp_ns = max(self._stamp_ns + 1, time.time_ns())
        return self._stamp_ns

    def call(self, service: str, kind: Any, request: Any) -> Any:
        """The answer to a request that does no harm when it comes twice.

        Now and then a client has found a node that has not found the client yet: its answer gets
        lost, so the request is repeated.
        """
        with self._client(service, kind) as client:
            return wait_for(lambda: ask(client, request, 2), f'the answer of {service}')

    def change_state(self, node: str, transition: str) -> bool:
        request = ChangeState.Request()
        request.transition.id = getattr(Transition, f'TRANSITION_{transition.upper()}')
        service = f'{node}/change_state'
        with self._client(service, ChangeState) as client:
            self.state(node)  # a client announced later was found: so was this one
            answer = ask(client, request, TIMEOUT_S)
            assert answer, f'waited {TIMEOUT_S} s in vain for the answer of {service}'
            return bool(answer.success)

    @contextmanager
    def _client(self, service: str, kind: Any) -> Iterator[Any]:
        client = self.node.create_client(kind, service)
        assert client.wait_for_service(TIMEOUT_S), f'no service {service}'
        try:
            yield client
        finally:
            self.node.destroy_client(client)

    def state(self, node: str) -> str:
        answer = self.call(f'{node}/get_state', GetState, GetState.Request())
        return str(answer.current_state.label)

    def set_parameter(self, node: str, name: str, value: Any) -> str:
        """Empty when it was taken, else the reason."""
        kind = Parameter.Type.STRING_ARRAY if value == [] else None
        parameter = Parameter(name, kind, value) if kind else Parameter(name, value=value)
        request = SetParameters.Request(parameters=[parameter.to_parameter_msg()])
        result = self.call(f'{node}/set_parameters', SetParameters, request).results[0]
        return '' if result.successful else str(result.reason)

    def describe_parameter(self, node: str, name: str) -> Any:
        request = DescribeParameters.Request(names=[name])
        return self.call(f'{node}/describe_parameters', DescribeParameters, request).descriptors[0]

    def diagnostics(self, name: str) -> Any:
        """The newest status with this name: level (int), message, values (dict); None before."""
        for array in reversed(list(self.listen('/diagnostics', DiagnosticArray))):
            for status in array.status:
                if status.name == name:
                    values = {v.key: v.value for v in status.values}
                    level, message = status.level[0], status.message
                    return SimpleNamespace(level=level, message=message, values=values)
        return None

    def wait_for_diagnostics(self, name: str, condition: Callable[[Any], bool]) -> Any:
        """The first status with this name, from now on, that fulfils `condition`."""
        self.listen('/diagnostics', DiagnosticArray).clear()

        def look() -> Any:
            status = self.diagnostics(name)
            return status if status is not None and condition(status) else None

        try:
            return wait_for(look, f'the diagnostics of {name}')
        except AssertionError as error:
            raise AssertionError(f'{error}; last: {self.diagnostics(name)}') from error


def ros_message(fields: SimpleNamespace, stamp_ns: int, frame_id: str = 'camera_link') -> Any:
    """sensor_msgs Image or CompressedImage with the fields of image_messages.py."""
    if hasattr(fields, 'format'):
        message = CompressedImage(format=fields.format)
    else:
        message = Image(**{name: value for name, value in vars(fields).items() if name != 'data'})
    message.data.frombytes(bytes(fields.data))
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    message.header.frame_id = frame_id
    return message


def values_of(message: DiagnosticArray) -> dict[str, str]:
    """Values of the only status of a record of ~/timing."""
    return {entry.key: entry.value for entry in message.status[0].values}


def stamp_ns_of(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
