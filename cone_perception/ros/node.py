"""The command `cone-perception node`: the process around the lifecycle node."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import traceback
from typing import NoReturn

from cone_perception.errors import ConePerceptionError
from cone_perception.process import keep_freed_memory
from cone_perception.ros.transport import NODE_PROFILE, use_profile
from cone_perception.settings import settings_help

EXIT_TIMEOUT_S = 2.0
"""From a signal to the end of the process, whatever still hangs in a load or an inference."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Explain the settings; they are ROS parameters, so the command itself has no options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = '%(prog)s [-h] [--ros-args -p SETTING:=VALUE --params-file FILE -r OLD:=NEW ...]'
    parser.epilog = settings_help()


def run(args: argparse.Namespace) -> NoReturn:
    """Run the node until SIGINT or SIGTERM ends the process with 0, or the node with its status."""
    keep_freed_memory()
    # OpenVINO does without its converter of models where that is not there: 5 MB never used here.
    sys.modules.setdefault('openvino.tools.ovc', None)  # type: ignore[arg-type]
    stop = threading.Event()
    status = 0

    def end(exit_status: int) -> None:
        nonlocal status
        if not stop.is_set():
            status = exit_status
            stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        use_profile(profile=NODE_PROFILE)
        import rclpy
        from rclpy.executors import Executor
        from rclpy.signals import SignalHandlerOptions

        from cone_perception.ros.detector import DetectorNode
        from cone_perception.ros.rclpy_repairs import FramesExecutor, OtherExecutor
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
        node = DetectorNode(end)
    except Exception as error:  # rclpy has no base class of its own for these
        raise ConePerceptionError(f'the node cannot start: {error}') from error
    frames = FramesExecutor(node, node.frames_group)
    others = OtherExecutor(frames)
    others.add_node(node)

    def spin(executor: Executor) -> None:
        while not stop.is_set() and rclpy.ok():
            try:
                executor.spin()
            except Exception:  # of one callback, passed on by rclpy: the node goes on
                if not stop.wait(0.1):
                    node.get_logger().error(traceback.format_exc())
        stop.set()

    spinning = [
        threading.Thread(target=spin, args=[executor], name=name, daemon=True)
        for name, executor in (('frames', frames), ('others', others))
    ]
    for thread in spinning:
        thread.start()
    # Python runs signal handlers in the main thread only, so that one does nothing but wait.
    stop.wait()
    # A load or an inference inside a runtime cannot be interrupted.
    end_soon = threading.Timer(EXIT_TIMEOUT_S, _end_now, [status])
    end_soon.daemon = True
    end_soon.start()
    node.stop()
    for executor in (frames, others):
        executor.shutdown(timeout_sec=EXIT_TIMEOUT_S)
    for thread in spinning:  # while they spin, they keep what destroy_node frees
        thread.join(EXIT_TIMEOUT_S)
    node.destroy_node()
    rclpy.try_shutdown()
    # Never by way of the interpreter's end: a thread that is still inside a runtime would meet it
    # there, and the process would abort.
    _end_now(status)


def _end_now(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
