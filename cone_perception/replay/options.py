"""The options of `cone-perception replay`, and what they say together."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from cone_perception.arguments import (
    above_zero,
    add_fields,
    count,
    option,
    repeatable,
    words_of,
)
from cone_perception.detect import SETTINGS
from cone_perception.errors import SettingsError
from cone_perception.replay.traces import Drive, Pace
from cone_perception.settings import DetectorSettings, read_params_file

RIG = (
    *('stereo', 'rectified', 'base_frame', 'mount_height_m', 'mount_pitch_deg', 'mount_roll_deg'),
    *('mount_yaw_deg', 'mount_x_m', 'mount_y_m', 'yaw_correction_px'),
)
"""Settings that say where cones stand: a picture alone, as `detect` has it, has no calibration."""

REPLAYED = (*SETTINGS, *RIG)


@dataclass(frozen=True)
class ReplayOptions:
    """Options that each bag is replayed with, beside the detector's settings."""

    through: Literal['ros', 'pipeline'] = option(
        'ros', 'ros: player, DDS, the real node, monitor; pipeline: without ROS (ros)'
    )
    topic: tuple[str, ...] = repeatable('image topic; may be repeated (all)')
    in_flight: int = option(2, 'pictures per camera (2)', type=count)
    repeat: int = option(1, 'passes over the bag (1)', type=count)
    stamps: Literal['header', 'recorded'] = option(
        'header', 'recorded: replace stamps of zero by the times of recording (header)'
    )
    rate: float = option(1.0, 'times as fast as it was recorded (1)', type=above_zero)
    hz: float | None = option(None, 'each camera at this rate, evenly', type=above_zero)
    as_fast_as_possible: bool = option(
        False, 'the next picture as soon as fewer than --in-flight wait for their answers'
    )
    find_max_rate: bool = option(
        False,
        'search for the highest rate at which at most 5 % are missed, and replay at it',
    )
    truth: tuple[str, ...] = repeatable('topic of ground truth; one for each --topic')
    labels: Path | None = option(None, 'folder of YOLO labels instead')
    reference: Path | None = option(None, 'bundle that the answers are compared with')
    film: bool = option(False, 'also write annotated.mp4')
    budget: Path | None = option(None, 'limits (YAML); exit status 1 beyond them')
    overhead: bool = option(True, 'leave out the run with an echo')
    launch_prefix: str = option(
        '',
        "starts the node's process, as for ros2 launch: 'chrt --rr 10' (nothing)",
        metavar='COMMAND',
    )
    node_command: str | None = option(
        None, 'measure this one, that publishes vision_msgs/Detection2DArray'
    )
    detections: tuple[str, ...] = repeatable('its topic; one for each --topic')
    params_file: Path | None = option(None, "the car's settings (YAML), its image topics too")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument('bags', type=Path, nargs='+', metavar='BAG', help='rosbag2 folder or file')
    parser.add_argument(
        '--out', type=Path, default=Path('replay_output'), help='folder for the results'
    )
    add_fields(parser, ReplayOptions, ('through', 'topic', 'in_flight', 'repeat', 'stamps'))
    pace = parser.add_mutually_exclusive_group()
    add_fields(pace, ReplayOptions, ('rate', 'hz', 'as_fast_as_possible', 'find_max_rate'))
    accuracy = parser.add_argument_group('accuracy')
    add_fields(accuracy, ReplayOptions, ('truth', 'labels', 'reference', 'film'))
    more = parser.add_argument_group('limits and many bags')
    add_fields(more, ReplayOptions, ('budget', 'overhead', 'launch_prefix'))
    more.add_argument('--domain', type=int, help='ROS_DOMAIN_ID (one of its own)')
    more.add_argument('--jobs', type=count, default=1, help='bags at once (1)')
    more.add_argument(
        '--ray',
        metavar='ADDRESS',
        help='replay on a Ray cluster that can read the bags: auto, local, or host:port',
    )
    more.add_argument(
        '--ray-cpus', type=count, default=2, help='processors of a Ray worker that a bag takes (2)'
    )
    other = parser.add_argument_group("somebody else's node")
    add_fields(other, ReplayOptions, ('node_command', 'detections'))
    detector = parser.add_argument_group('the detector')
    add_fields(detector, ReplayOptions, ('params_file',))
    add_fields(detector, DetectorSettings, REPLAYED)


def words_for_each_bag(args: argparse.Namespace) -> list[str | Path]:
    """Give the options that differ from their defaults, as a command line for one bag has them."""
    model = Path(args.model).expanduser() if args.model else args.model
    each = argparse.Namespace(**{**vars(args), 'model': model})
    return words_of(ReplayOptions, each) + words_of(DetectorSettings, each, REPLAYED)


def pace_of(args: argparse.Namespace) -> Pace:
    """Tell when the pictures are sent."""
    if args.hz:
        return Pace('hz', hz=args.hz)
    if args.as_fast_as_possible:
        return Pace('fast', in_flight=args.in_flight)
    return Pace('bag', rate=args.rate)


def read_settings(args: argparse.Namespace) -> DetectorSettings:
    """Read the detector's settings: the file's, and over them the options that were given.

    Which cameras there are the bag says, see `settings_for`.
    """
    values = read_params_file(args.params_file) if args.params_file else {}
    usual = {entry.name: entry.default for entry in fields(DetectorSettings)}
    given = {name: getattr(args, name) for name in REPLAYED}
    values |= {name: value for name, value in given.items() if value != usual[name]}
    if values.get('stereo'):
        values = {'cameras': ['left', 'right']} | values
    return DetectorSettings.from_mapping(values)


def settings_for(drive: Drive, settings: DetectorSettings) -> DetectorSettings:
    """The same, with the cameras of the drive. Raises SettingsError: stereo needs two."""
    names, topics = zip(*((camera.name, camera.topic) for camera in drive.cameras), strict=True)
    if settings.stereo and len(names) != 2:
        raise SettingsError(
            f'stereo: {drive.bag} has {", ".join(topics)}. Name the topics of the left and of the '
            'right eye with --topic, in this order.'
        )
    return replace(settings, cameras=names, image_topics=topics)


def command_words(args: argparse.Namespace, name: str) -> tuple[str, ...]:
    """Split an option that is a command line. Raises SettingsError."""
    text = getattr(args, name) or ''
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        flag = f'--{name.replace("_", "-")}'
        raise SettingsError(f'{flag} is no command line, {error}: {text}') from error
