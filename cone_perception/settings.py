"""Every setting of the node, once: ROS parameters, YAML files and --help are derived from here.

`python -m cone_perception.settings > config/detector.yaml` writes the settings file anew.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from cone_perception.errors import SettingsError, told_as
from cone_perception.files import from_json, read_yaml
from cone_perception.filters import Filters
from cone_perception.types import (
    BuildChoice,
    CpuRuntime,
    Device,
    GpuRuntime,
    PrecisionChoice,
    RuntimeChoice,
    Views,
    ViewsChoice,
)

Transport = Literal['auto', 'raw', 'compressed']
Reliability = Literal['best_effort', 'reliable']
RectifiedChoice = Literal['auto', 'yes', 'no']
MountChoice = Literal['auto', 'settings', 'tf']


def _setting(
    default: Any, description: str, span: tuple[float, float] | None = None, live: bool = False
) -> Any:
    """Declare a setting with what its ROS parameter needs to know.

    span: least and greatest value. live: may change while the node runs.
    """
    return field(default=default, metadata={'description': description, 'span': span, 'live': live})


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """Settings of the detector node, validated when made; SettingsError names what is wrong."""

    model: str = _setting('', 'Bundle folder or its card.json; empty takes the shipped demo model.')
    device: Device = _setting(
        'auto',
        'Where the network runs: on the NVIDIA GPU or the CPU. auto takes the GPU where it can, '
        'else says why not and takes the CPU; cuda never takes the CPU.',
    )
    engine: RuntimeChoice = _setting(
        'auto', 'Runtime of the network there; one that is named settles the device too.'
    )
    precision: PrecisionChoice = _setting(
        'best',
        'Of the network. best: on the GPU the faster of INT8 and FP16, of those that passed the '
        'gate; on the CPU what is surely faster than INT8 there, of what passed, else INT8. The '
        'command detect takes INT8 on a CPU unless told.',
    )
    build: BuildChoice = _setting(
        'auto',
        'Compile the engine for the GPU when there is none that fits; with never, the node '
        'refuses instead.',
    )
    build_only: bool = _setting(
        False, 'Compile the engine for the GPU, say where it lies, and end.'
    )
    threads: int = _setting(
        0, 'CPU threads of the network; 0 lets the runtime choose.', span=(0, 256)
    )
    streams: int = _setting(
        2,
        'Runs of the network at the same time, which share the threads of the CPU; a run by itself '
        'gets all of them. 2 answer more frames, and two cameras without waiting; 1 saves memory.',
        span=(1, 16),
    )
    batch: int = _setting(
        1,
        'Network pictures per run: views of a picture. Two cameras are paired where it takes all '
        'views of both. The model needs a network of this batch.',
        span=(1, 4),
    )
    views: ViewsChoice = _setting(
        'auto',
        'What the network sees of a picture: the whole, a band around the horizon that shows twice '
        'as much, a strip that shows twice as much again. auto: what the model card says.',
    )
    horizon: float = _setting(
        0.0,
        'Row of the band as a share of the height, until cones were seen. With 0 the whole picture '
        'is looked at first until then, which takes twice as long. Stills always are.',
        span=(0.0, 1.0),
    )
    far_every: int = _setting(
        1, 'Each so many frames of a camera get the second look, the others none.', span=(1, 100)
    )
    max_latency_ms: float = _setting(
        0.0,
        'What finding the cones of a frame may take in the mean. Where the node measures more when '
        'it starts, it raises far_every, or takes whole pictures only. 0 does not measure.',
        span=(0.0, 10_000.0),
    )
    mount_height_m: float = _setting(
        0.0,
        'Height of the cameras above the ground. With it and camera_info the band lies right from '
        'the first frame; 0: not known.',
        span=(0.0, 10.0),
    )
    mount_pitch_deg: float = _setting(
        0.0, 'By how much the cameras look down; negative where they look up.', span=(-45.0, 45.0)
    )
    mount_roll_deg: float = _setting(
        0.0, 'By how much the cameras are turned clockwise, seen from behind.', span=(-45.0, 45.0)
    )
    mount_yaw_deg: float = _setting(
        0.0, 'By how much the cameras look to the left.', span=(-180.0, 180.0)
    )
    mount_x_m: float = _setting(
        0.0, 'How far the (left) camera stands before the origin of base_frame.', span=(-10.0, 10.0)
    )
    mount_y_m: float = _setting(
        0.0, 'How far it stands to the left of that origin.', span=(-10.0, 10.0)
    )
    mount_from: MountChoice = _setting(
        'auto',
        'Where the mounting comes from: these settings, or tf. auto: the settings where '
        'mount_height_m is set, else tf where tf2_ros is installed.',
    )
    base_frame: str = _setting(
        'base_footprint', "The car's frame on the ground, in which ~/cones is published."
    )
    stereo: bool = _setting(
        False,
        'The two cameras are the left and the right eye of one rig: cones are searched in the left '
        'picture, and found again in the right one for their distance.',
    )
    rectified: RectifiedChoice = _setting(
        'auto',
        'Whether the pictures are rectified already. auto: where a part of the topic begins with '
        'rect, or ends with _rect or _rect_color; else camera_info says whether there is a '
        'distortion.',
    )
    yaw_correction_px: float = _setting(
        1.5,
        'By how many pixels of disparity the calibration watch may correct the yaw between the '
        'eyes; 0 only watches.',
        span=(0.0, 10.0),
    )
    cone_message: str = _setting(
        '',
        'Mapping to the message type of your team: a shipped name, or a YAML file; empty publishes '
        'none.',
    )
    cameras: tuple[str, ...] = _setting(
        ('camera',), 'Names of the cameras; outputs go to NAME/detections and NAME/debug_image.'
    )
    image_topics: tuple[str, ...] = _setting(
        (), 'Image topic of each camera in turn; empty takes NAME/image.'
    )
    info_topics: tuple[str, ...] = _setting(
        (),
        'Topic of the camera_info of each camera in turn; empty takes the one beside its image '
        'topic, of a stereo pair side by side NAME/camera_info.',
    )
    side_by_side: bool = _setting(
        False, 'One topic carries two cameras side by side: its left half is the first camera.'
    )
    transport: Transport = _setting(
        'auto',
        'Message type of the topics; auto reads compressed where the name ends in /compressed.',
    )
    reliability: Reliability = _setting(
        'best_effort', 'Of the image subscriptions; best_effort hears reliable publishers too.'
    )
    queue_depth: int = _setting(
        2,
        'History depth of the image subscriptions. With 1, a frame is silently lost when the '
        'callback is late by a frame period. The newest frame is searched with any depth.',
        span=(1, 100),
    )
    stereo_tolerance_ms: float = _setting(
        2.0, 'Frames of two cameras with stamps closer than this are one pair.', span=(0.0, 1000.0)
    )
    expected_width_px: int = _setting(
        0, 'Warn when pictures come narrower than this; 0 never warns.', span=(0, 16384)
    )
    expected_height_px: int = _setting(
        0, 'Warn when pictures come lower than this; 0 never warns.', span=(0, 16384)
    )
    silence_s: float = _setting(
        2.0, 'Without a frame for this long the diagnostics say why.', span=(0.1, 3600.0)
    )
    autostart: bool = _setting(True, 'Configure and activate without being asked.')
    debug_image: bool = _setting(
        True, 'Publish NAME/debug_image while somebody subscribes to it.', live=True
    )
    thresholds: tuple[str, ...] = _setting(
        (), "Least scores that replace the model card's, as 'blue_cone:0.4'.", live=True
    )
    classes: tuple[str, ...] = _setting(
        (), 'Class names to publish; empty publishes all.', live=True
    )
    region: tuple[float, ...] = _setting(
        (),
        'Corners x, y, x, y, ... of a polygon in fractions of the picture; cones that stand '
        'outside are left out; empty keeps all.',
        live=True,
    )
    min_height_px: float = _setting(
        0.0, 'Leave out boxes lower than this, in source pixels.', span=(0.0, 16384.0), live=True
    )
    max_height_px: float = _setting(
        0.0, 'Leave out boxes higher than this; 0 keeps all.', span=(0.0, 16384.0), live=True
    )

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, span = getattr(self, entry.name), entry.metadata['span']
            if span and not span[0] <= value <= span[1]:
                raise SettingsError(f'{entry.name} must lie in {span[0]}..{span[1]}, got {value!r}')
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise SettingsError(f'cameras must be distinct names, got {list(self.cameras)}')
        if self.stereo and len(self.cameras) != 2:
            raise SettingsError(f'stereo needs two cameras (left, right), got {list(self.cameras)}')
        if self.side_by_side and len(self.cameras) != 2:
            raise SettingsError(
                f'side_by_side needs two cameras (left, right), got {list(self.cameras)}'
            )
        topic_count = 1 if self.side_by_side else len(self.cameras)
        if self.image_topics and len(self.image_topics) != topic_count:
            raise SettingsError(
                f'image_topics must name {topic_count} topics, one for each camera'
                f'{" pair" if self.side_by_side else ""}, got {list(self.image_topics)}'
            )
        if self.info_topics and len(self.info_topics) != len(self.cameras):
            raise SettingsError(
                f'info_topics must name {len(self.cameras)} topics, one for each camera, got '
                f'{list(self.info_topics)}'
            )
        if self.device == 'cuda' and self.engine in get_args(CpuRuntime):
            raise SettingsError(f'device is cuda, but engine {self.engine} runs on the CPU')
        if self.device == 'cpu' and self.engine in get_args(GpuRuntime):
            raise SettingsError(f'device is cpu, but engine {self.engine} runs on the NVIDIA GPU')
        if self.build_only and (self.runs_on_cpu or self.build == 'never'):
            raise SettingsError(
                'build_only has nothing to build: the network '
                + ('is to run on the CPU' if self.runs_on_cpu else 'is not to be built')
                + f' (device {self.device}, engine {self.engine}, build {self.build})'
            )
        _ = self.filters

    def check_batch(self, views: Views) -> None:
        """Raise SettingsError where a run would never be full. views: also where it is auto."""
        # Of a stereo rig only the left eye goes through the network.
        cameras = list(self.cameras[:1] if self.stereo else self.cameras)
        most = 2 if len(cameras) == 2 else 1
        if views == 'whole' and self.batch > most:
            raise SettingsError(
                f'batch is {self.batch}, but whole pictures of {cameras} fill {most}: '
                'set that, or more views'
            )

    @property
    def runs_on_cpu(self) -> bool:
        """Tell whether the CPU was asked for."""
        return self.device == 'cpu' or self.engine in get_args(CpuRuntime)

    @property
    def gpu_asked_by(self) -> str:
        """The setting that wants the NVIDIA GPU and nothing else, as 'device: cuda'; or none."""
        if self.device == 'cuda':
            return 'device: cuda'
        if self.engine in get_args(GpuRuntime):
            return f'engine: {self.engine}'
        return 'build_only: true' if self.build_only else ''

    @property
    def filters(self) -> Filters:
        """Filters of the settings, which may change while the node runs."""
        thresholds = {}
        for text in self.thresholds:
            name, _, number = text.rpartition(':')
            wrong = f"thresholds are written 'blue_cone:0.4', got {text!r}"
            with told_as(SettingsError, wrong, ValueError):
                thresholds[name.strip()] = float(number)
        return Filters(
            thresholds=thresholds,
            classes=self.classes,
            region=self.region,
            min_height_px=self.min_height_px,
            max_height_px=self.max_height_px,
        )

    @property
    def topics(self) -> tuple[str, ...]:
        """Image topics: one per camera, or one for both when side by side."""
        return self.image_topics or tuple(
            f'{name}/image' for name in (self.cameras[:1] if self.side_by_side else self.cameras)
        )

    def is_compressed(self, topic: str) -> bool:
        """Tell whether `topic` carries CompressedImage."""
        if self.transport == 'auto':
            return topic.endswith('/compressed')
        return self.transport == 'compressed'

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> DetectorSettings:
        """Make settings from names and values, lists taken as tuples. Unknown names are refused."""
        try:
            made: DetectorSettings = from_json(cls, values, 'settings')
        except ValueError as error:
            raise SettingsError(str(error)) from error
        return made


KINDS = get_type_hints(DetectorSettings)
"""Setting -> its type."""


def read_params_file(path: Path) -> dict[str, Any]:
    """Read name -> value of the detector in a ROS parameter file, whatever its node is called.

    Raises SettingsError when it cannot be read, or holds several nodes' parameters.
    """
    nodes = read_yaml(path, SettingsError)
    text, advice = f'{path} is no file of ROS parameters', 'See config/detector.yaml.'
    with told_as(SettingsError, text, TypeError, LookupError, ValueError, advice=advice):
        found = [dict(node['ros__parameters']) for node in dict(nodes).values()]
    if len(found) != 1:
        raise SettingsError(f'{path} has parameters of {len(found)} nodes; give those of one.')
    return found[0]


def settings_help() -> str:
    """List every setting with its type, range and default."""
    lines = ['settings (ROS parameters; those marked live can change while the node runs):']
    for entry in fields(DetectorSettings):
        default = list(entry.default) if isinstance(entry.default, tuple) else entry.default
        lines += [
            f'  {entry.name} ({_about(entry, f", default {default!r}")})',
            f'      {entry.metadata["description"]}',
        ]
    return '\n'.join(lines)


HEAD = """\
# Every setting with its default, written by: python -m cone_perception.settings
# [] is an empty list; in a launch file and with `ros2 param set`, write it as [''].
"""


def settings_yaml(values: Mapping[str, Any] | None = None, head: str = HEAD) -> str:
    """Write settings below `head`, as a ROS parameter file for a node of any name.

    values: setting -> value of those to write; None: every setting, with its default.
    """
    lines = [f'{head}/**:', '  ros__parameters:']
    for entry in fields(DetectorSettings):
        if values is None or entry.name in values:
            about = f'{entry.metadata["description"]} ({_about(entry)})'
            lines += [f'    # {line}' for line in textwrap.wrap(about, 90)]
            value = entry.default if values is None else values[entry.name]
            lines.append(f'    {entry.name}: {json.dumps(value)}')
    return '\n'.join(lines) + '\n'


def _about(entry: Field[Any], default: str = '') -> str:
    """Type, range and `default` of a setting, and whether it is live."""
    kind, span = KINDS[entry.name], entry.metadata['span']
    parts = get_args(kind) or (kind.__name__,)
    text = f'list of {parts[0].__name__}' if Ellipsis in parts else ' | '.join(parts)
    text += ', {:g} to {:g}'.format(*span) if span else ''
    return text + default + (', live' if entry.metadata['live'] else '')


if __name__ == '__main__':
    print(settings_yaml(), end='')
