"""The command `cone-perception node`: the process around the lifecycle node."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import traceback
from dataclasses import fields
from typing import get_args, get_type_hints

from cone_perception.errors import ConePerceptionError
from cone_perception.ros.transport import use_profile
from cone_perception.settings import DetectorSettings

EXIT_TIMEOUT_S = 2.0
"""From a signal to the end of the process, whatever still hangs in a load or an inference."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Explain the settings; they are ROS parameters, so the command itself has no options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = '%(prog)s [-h] [--ros-args -p SETTING:=VALUE --params-file FILE -r OLD:=NEW ...]'
    parser.epilog = settings_help()


def run(args: argparse.Namespace) -> int:
    """Run the node until SIGINT or SIGTERM; 0 then, 1 when something else ended it."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        use_profile()
        import rclpy
        from rclpy.executors import MultiThreadedExecutor
        from rclpy.signals import SignalHandlerOptions

        from cone_perception.ros.detector import DetectorNode
    except ImportError as error:
        raise ConePerceptionError(
            f'ROS 2 is not complete here ({error}). Source /opt/ros/DISTRO/setup.bash and install '
            'vision_msgs, or run `make setup` for ROS 2 from PyPI'
        ) from error
    try:
        # rclpy's own handlers would end the context under a frame that is being published.
        rclpy.init(
            args=['detector', *args.ros_arguments], signal_handler_options=SignalHandlerOptions.NO
        )
        node = DetectorNode()
    except Exception as error:  # rclpy has no base class of its own for these
        raise ConePerceptionError(f'the node cannot start: {error}') from error
    executor = MultiThreadedExecutor(num_threads=3)
    executor.add_node(node)
    status = 0

    def spin() -> None:
        nonlocal status
        try:
            executor.spin()
        except Exception:
            if not stop.is_set():
                traceback.print_exc()
                status = 1
        stop.set()

    spinning = threading.Thread(target=spin, name='executor', daemon=True)
    spinning.start()
    # Python runs signal handlers in the main thread only, so that one does nothing but wait.
    stop.wait()
    _end_soon(status)
    stopped = node.stop()
    stopped = executor.shutdown(timeout_sec=EXIT_TIMEOUT_S / 2) and stopped
    spinning.join(EXIT_TIMEOUT_S / 4)
    node.destroy_node()
    rclpy.try_shutdown()
    if not stopped or spinning.is_alive():
        _end_now(status)
    return status


def settings_help() -> str:
    """Every setting with its type, range and default, one below the other."""
    kinds = get_type_hints(DetectorSettings)
    lines = ['settings (ROS parameters; those marked live can change while the node runs):']
    for entry in fields(DetectorSettings):
        low, high = entry.metadata['low'], entry.metadata['high']
        default = list(entry.default) if isinstance(entry.default, tuple) else entry.default
        about = _kind_name(kinds[entry.name])
        about += f', {low:g} to {high:g}' if low is not None else ''
        about += f', default {default!r}'
        about += ', live' if entry.metadata['live'] else ''
        lines += [f'  {entry.name} ({about})', f'      {entry.metadata["description"]}']
    return '\n'.join(lines)


def _kind_name(kind: object) -> str:
    if isinstance(kind, type) and not get_args(kind):
        return kind.__name__
    parts = get_args(kind)
    return f'list of {parts[0].__name__}' if Ellipsis in parts else ' | '.join(parts)


def _end_soon(status: int) -> None:
    """A load or an inference inside a runtime cannot be interrupted: do not wait for it."""
    timer = threading.Timer(EXIT_TIMEOUT_S, _end_now, (status,))
    timer.daemon = True
    timer.start()


def _end_now(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
