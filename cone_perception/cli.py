"""The command `cone-perception`: each subcommand lives in a module of its own."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence

from cone_perception import __version__
from cone_perception.arguments import CommandParser
from cone_perception.errors import ConePerceptionError, InstallError, describe
from cone_perception.process import on_sigterm

SUBCOMMANDS = {
    'detect': ('cone_perception.detect', 'find cones in pictures, a video or a bag, without ROS'),
    'region': (
        'cone_perception.region.command',
        'a region mask that leaves out the own car, proposed from a drive',
    ),
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
        'cone_perception.replay.pages.comparison',
        'results of replays side by side, with a verdict for each figure',
    ),
    'bag to-dataset': (
        'cone_perception.replay.to_label.dataset',
        'frames of a drive that are worth labelling',
    ),
    'bag': (
        'cone_perception.bags.command',
        'look into bags, cut and make them, without ROS; see also bag to-dataset',
    ),
    'demo': ('cone_perception.replay.demo', 'a drive over DDS to the node and back, judged'),
}
"""Subcommand, of one word or two -> (module with add_arguments(parser) and run(args) -> int, one
line of help)."""

EXAMPLES = {
    '': 'cone-perception detect drive.mp4 --out found',
    'detect': 'cone-perception detect drive.mp4 --out found --thresholds blue_cone:0.4',
    'region': 'cone-perception region drive.mp4 --out region/drive',
    'node': 'cone-perception node --ros-args --params-file config/zed2i.yaml',
    'build-engine': 'cone-perception build-engine my_model --batch 2',
    'verify-engine': 'cone-perception verify-engine my_model --out verified',
    'replay': 'cone-perception replay drive_bag --topic /camera/image --out replayed',
    'replay compare': 'cone-perception replay compare replayed other --out compared',
    'bag': 'cone-perception bag info drive_bag',
    'bag info': 'cone-perception bag info drive_bag --json',
    'bag cut': 'cone-perception bag cut drive_bag --start 12 --duration 30 --out part',
    'bag from-images': 'cone-perception bag from-images pictures --hz 15 --out drive_bag',
    'bag from-video': 'cone-perception bag from-video drive.mp4 --out drive_bag',
    'bag to-dataset': 'cone-perception bag to-dataset drive_bag --limit 200 --out to_label',
    'demo': 'cone-perception demo --bag drive_bag --topic /camera/image',
}
"""Words after the program's name -> the example at the end of their help."""

EXTRAS = {'cone-perception': 'replay', 'cone-training': 'train,data'}
"""Program -> extras that have all that its commands import."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status."""
    return run_command('cone-perception', SUBCOMMANDS, EXAMPLES, argv)


def run_command(
    program: str,
    subcommands: Mapping[str, tuple[str, str]],
    examples: Mapping[str, str],
    argv: Sequence[str] | None,
) -> int:
    """Parse `argv`, import only the chosen subcommand's module, and run it.

    Nothing that goes wrong ends in a traceback; SIGTERM ends the command as Ctrl-C does.
    """
    for stream in (sys.stdout, sys.stderr):  # names of files need not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    arguments = list(sys.argv[1:] if argv is None else argv)
    # `ros2 run` and `ros2 launch` append remaps and parameters: they are for rclpy to read.
    split = arguments.index('--ros-args') if '--ros-args' in arguments else len(arguments)
    arguments, ros_arguments = arguments[:split], arguments[split:]
    if ' '.join(arguments[:2]) in subcommands:
        arguments[:2] = [' '.join(arguments[:2])]
    completing = '_ARGCOMPLETE' in os.environ
    words = os.environ['COMP_LINE'].split()[1:] if completing else arguments
    chosen = next((word for word in words if not word.startswith('-')), '')
    try:
        parser = make_parser(program, subcommands, examples, chosen)
        if completing:
            import argcomplete

            argcomplete.autocomplete(parser)
        args = parser.parse_args(arguments)
        args.ros_arguments = ros_arguments
        with on_sigterm():
            status = int(args.run(args))
            sys.stdout.flush()
            return status
    except BrokenPipeError:  # as in `... | head`: the exit's own flush would meet it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ConePerceptionError as error:
        print(f'{program} {chosen}: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'{program} {chosen}: interrupted', file=sys.stderr)
        return 130
    except Exception as error:
        print(f'{program} {chosen}: {_unforeseen(error)}', file=sys.stderr)
        return 1


def _unforeseen(error: Exception) -> str:
    """Say an error that is none of ours in one line; what is no matter of files has a trace."""
    if isinstance(error, OSError) and error.filename is not None:
        return f'{error.filename!s:.200}: {error.strerror}'
    text = f'unforeseen: {describe(error):.300}'
    with contextlib.suppress(OSError):
        descriptor, name = tempfile.mkstemp('.txt', 'cone_perception_trace_')
        with os.fdopen(descriptor, 'w', errors='backslashreplace') as file:
            traceback.print_exception(error, file=file)
        text += f'. Send its trace to the makers: {name}'
    return text


def make_parser(
    program: str,
    subcommands: Mapping[str, tuple[str, str]],
    examples: Mapping[str, str],
    chosen: str,
) -> CommandParser:
    """Make the parser of a program; only the chosen subcommand's module is imported.

    Raises InstallError: when a package that the subcommand needs is missing.
    """
    parser = CommandParser(prog=program, examples=examples)
    parser.add_argument('--version', action='version', version=__version__)
    choices = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, (module_name, summary) in subcommands.items():
        subparser = choices.add_parser(name, help=summary, description=summary)
        if name == chosen:
            try:
                module = importlib.import_module(module_name)
            except ModuleNotFoundError as error:
                missing = str(error.name).partition('.')[0]
                if missing in ('cone_perception', 'training'):
                    raise
                raise InstallError(
                    f'{missing} is not installed. Install what this command needs: '
                    f"pip install -e '.[{EXTRAS[program]}]'"
                ) from error
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


if __name__ == '__main__':
    sys.exit(main())
