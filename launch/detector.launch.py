"""The detector node with its settings file and transport profile; it activates itself."""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from cone_perception.ros.transport import profile_environment
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

DEFAULT_PARAMS = Path(get_package_share_directory('cone_perception')) / 'config' / 'detector.yaml'

ARGUMENTS = {
    'model': ('', 'bundle folder or its card.json; empty keeps the settings file'),
    'params_file': (str(DEFAULT_PARAMS), 'settings file'),
    'cameras': ('', 'names of the cameras, as left,right; empty keeps the settings file'),
    'image_topics': ('', 'their topics, as /a/image,/b/image; empty keeps the settings file'),
    'namespace': ('', 'namespace of the node and its topics'),
    'log_level': ('info', 'debug, info, warn or error'),
    'debug_image': ('', 'true or false; empty keeps the settings file'),
    'autostart': ('', 'true or false; empty keeps the settings file'),
    'use_sim_time': ('', "true takes the time of a bag player's /clock"),
}
SWITCHES = ('debug_image', 'autostart', 'use_sim_time')


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(
            name,
            default_value=default,
            description=description,
            choices=['', 'true', 'false'] if name in SWITCHES else None,
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
    if given['model']:
        settings['model'] = given['model']
    for name in ('cameras', 'image_topics'):
        if given[name]:
            settings[name] = [part.strip() for part in given[name].split(',')]
    for name in SWITCHES:
        if given[name]:
            settings[name] = given[name] == 'true'
    return [
        Node(
            package='cone_perception',
            executable='detector',
            namespace=given['namespace'],
            output='screen',
            parameters=[given['params_file'], *([settings] if settings else [])],
            ros_arguments=['--log-level', given['log_level']],
        )
    ]
