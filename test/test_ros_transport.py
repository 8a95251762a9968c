"""The transport profile is chosen by distribution, and never over the user's own."""

from __future__ import annotations

import os
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from cone_perception.ros import transport

RAW_720P_BYTES = 1280 * 720 * 3


@pytest.mark.parametrize(
    ('rclpy_version', 'variable'),
    [
        ('3.3.15', 'FASTRTPS_DEFAULT_PROFILES_FILE'),
        ('7.1.6', 'FASTRTPS_DEFAULT_PROFILES_FILE'),
        ('9.1.2', 'FASTDDS_DEFAULT_PROFILES_FILE'),
        ('10.0.0', 'FASTDDS_DEFAULT_PROFILES_FILE'),
    ],
)
def test_variable_is_the_one_that_the_distribution_reads(monkeypatch, rclpy_version, variable):
    monkeypatch.setattr(transport, 'version', lambda name: rclpy_version)
    assert transport.profile_environment({}) == {variable: str(transport.PROFILE)}


@pytest.mark.parametrize('variable', transport.PROFILE_VARIABLES)
def test_profile_of_the_user_stays(monkeypatch, variable):
    monkeypatch.setattr(transport, 'version', lambda name: '9.1.2')
    environment = {variable: '/my/profile.xml', 'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'}
    before = dict(environment)
    transport.use_profile(environment)
    assert environment == before
    assert transport.profile_in_use(environment) == '/my/profile.xml'


@pytest.mark.parametrize('variable', transport.PROFILE_VARIABLES)
def test_node_takes_its_own_profile_where_a_launch_file_has_set_the_shipped_one(
    monkeypatch, variable
):
    monkeypatch.setattr(transport, 'version', lambda name: '9.1.2')
    environment = {variable: str(transport.PROFILE)}
    transport.use_profile(environment, transport.NODE_PROFILE)
    assert transport.profile_in_use(environment) == str(transport.NODE_PROFILE)


@pytest.mark.parametrize(
    ('profile', 'segment_bytes', 'pictures'),
    [
        (transport.PROFILE, transport.SEGMENT_BYTES, 8),
        (transport.NODE_PROFILE, transport.NODE_SEGMENT_BYTES, 2),
    ],
)
def test_profile_holds_raw_pictures_and_is_what_the_messages_say(profile, segment_bytes, pictures):
    root = ElementTree.fromstring(profile.read_text(encoding='utf-8'))
    values = {element.tag.rpartition('}')[2]: element.text for element in root.iter()}
    assert int(values['segment_size']) == segment_bytes >= pictures * RAW_720P_BYTES
    assert int(values['maxMessageSize']) > RAW_720P_BYTES
    assert values['useBuiltinTransports'] == 'false'


@pytest.mark.parametrize(
    ('total_mib', 'free_mib', 'complaint'),
    [(64, 60, '64 MiB'), (1024, 20, '20 MiB of it free'), (1024, 900, '')],
)
def test_shared_memory_of_docker_is_too_small(monkeypatch, total_mib, free_mib, complaint):
    size = SimpleNamespace(f_frsize=2**20, f_blocks=total_mib, f_bavail=free_mib)
    monkeypatch.setattr(os, 'statvfs', lambda folder: size)
    shortage = transport.shared_memory_shortage()
    assert complaint in shortage
    assert bool(shortage) == bool(complaint)


def test_missing_shared_memory_is_named(tmp_path):
    assert 'nowhere' in transport.shared_memory_shortage(tmp_path / 'nowhere')
