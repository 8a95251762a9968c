"""The detector node with its settings file and transport profile; it activates itself.

A node that ends with a status other than 0, as when its GPU is lost, is started again; not one that
was only to build an engine (`build_only`, here or in the settings file), and could not.
"""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    OpaqueFunction,
    SetEnvironmentVariable,
    TimerAction,
)
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from cone_perception.errors import BUILD_FAILED_STATUS
from cone_perception.ros.transport import profile_environment
from cone_perception.settings import DetectorSettings
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

DEFAULT_PARAMS = Path(get_package_share_directory('cone_perception')) / 'config' / 'detector.yaml'

SWITCHES = ('build_only', 'autostart', 'debug_image', 'stereo')
LISTS = ('cameras', 'image_topics')
SETTINGS = ('model', 'device', 'precision', 'build', 'cone_message', *SWITCHES, *LISTS)
"""Settings of the node that are arguments too; a list is written as left,right."""

DESCRIPTIONS = {entry.name: entry.metadata['description'] for entry in fields(DetectorSettings)}
ARGUMENTS = {
    'params_file': (str(DEFAULT_PARAMS), 'settings file'),
    'namespace': ('', 'namespace of the node and its topics'),
    'log_level': ('info', 'debug, info, warn or error'),
    'use_sim_time': ('', "true takes the time of a bag player's /clock"),
    **{name: ('', f'{DESCRIPTIONS[name]} Not given: the settings file.') for name in SETTINGS},
}


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(
            name,
            default_value=default,
            description=description,
            choices=['', 'true', 'false'] if name in (*SWITCHES, 'use_sim_time') else None,
        )
        for name, (default, description) in ARGUMENTS.items()
    ]
    profile = [
        SetEnvironmentVariable(name, value)
        for name, value in profile_environment(os.environ).items()
    ]
    return LaunchDescription([*arguments, *profile, OpaqueFunction(function=detector)])


def detector(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    settings: dict[str, object] = {}
    for name in (*SETTINGS, 'use_sim_time'):
        text = given[name]
        if text and name in LISTS:
            settings[name] = [part.strip() for part in text.split(',')]
        elif text:
            settings[name] = {'true': True, 'false': False}.get(text, text)

    def start_again(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        # respawn=True would also start a node again that was stopped on purpose.
        ended = event.returncode in (0, BUILD_FAILED_STATUS) or settings.get('build_only')
        if ended or context.is_shutdown:
            return []
        # Long enough for a driver to take back what a process left that died.
        return [TimerAction(period=2.0, actions=[node()])]

    def node() -> Node:
        return Node(
            package='cone_perception',
            executable='detector',
            namespace=given['namespace'],
            output='screen',
            parameters=[given['params_file'], *([settings] if settings else [])],
            ros_arguments=['--log-level', given['log_level']],
            on_exit=start_again,
        )

    return [node()]
