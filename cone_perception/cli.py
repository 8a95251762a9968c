"""The command `cone-perception`: each subcommand lives in a module of its own."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from cone_perception import __version__
from cone_perception.errors import ConePerceptionError

SUBCOMMANDS = {
    'detect': ('cone_perception.detect', 'find cones in pictures, a video or a bag, without ROS'),
    'node': (
        'cone_perception.ros.node',
        'run the ROS 2 node, as `ros2 run cone_perception detector`',
    ),
    'build-engine': (
        'cone_perception.engines.build_command',
        "compile a model for this machine's NVIDIA GPU",
    ),
    'verify-engine': (
        'cone_perception.engines.verify_command',
        'build, compare and time the engines of a model: one page to send back',
    ),
    'replay': (
        'cone_perception.replay.command',
        "a drive's latency, losses and accuracy on one page",
    ),
    'replay compare': (
        'cone_perception.replay.figures.compare',
        'results of replays side by side, with a verdict for each figure',
    ),
    'bag': ('cone_perception.bags.command', 'look into bags, cut and make them, without ROS'),
    'demo': ('cone_perception.replay.demo', 'a drive over DDS to the node and back, judged'),
}
"""Subcommand, of one word or two -> (module with add_arguments(parser) and run(args) -> int, one
line of help)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status."""
    return run_command('cone-perception', SUBCOMMANDS, argv)


def run_command(
    program: str, subcommands: dict[str, tuple[str, str]], argv: Sequence[str] | None
) -> int:
    """Parse `argv`, import only the chosen subcommand's module, and run it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # `ros2 run` and `ros2 launch` append remaps and parameters: they are for rclpy to read.
    split = arguments.index('--ros-args') if '--ros-args' in arguments else len(arguments)
    arguments, ros_arguments = arguments[:split], arguments[split:]
    if ' '.join(arguments[:2]) in subcommands:
        arguments[:2] = [' '.join(arguments[:2])]
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument('--version', action='version', version=__version__)
    choices = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    chosen = next((a for a in arguments if not a.startswith('-')), '')
    try:
        for name, (module_name, summary) in subcommands.items():
            subparser = choices.add_parser(name, help=summary, description=summary)
            if name == chosen:
                module = importlib.import_module(module_name)
                module.add_arguments(subparser)
                subparser.set_defaults(run=module.run)
        args = parser.parse_args(arguments)
        args.ros_arguments = ros_arguments
        return int(args.run(args))
    except ConePerceptionError as error:
        print(f'{program} {chosen}: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'{program} {chosen}: interrupted', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
