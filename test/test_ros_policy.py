"""The SROS 2 policy allows the node all that it has, and nothing that it never has."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from node_process import NodeProcess, wait_for

pytestmark = pytest.mark.ros

KINDS = {
    'publish': 'get_publisher_names_and_types_by_node',
    'subscribe': 'get_subscriber_names_and_types_by_node',
    'reply': 'get_service_names_and_types_by_node',
    'request': 'get_client_names_and_types_by_node',
}
"""What a rule allows -> the question to the graph."""

CASES = {
    'one': {'use_sim_time': 'true'},
    'one, compressed': {'image_topics': '[camera/image/compressed]'},
    'two': {'cameras': '[left, right]'},
    'stereo, compressed': {
        'cameras': '[left, right]',
        'stereo': 'true',
        'image_topics': '[left/image/compressed, right/image/compressed]',
    },
}
ELSEWHERE = {f'/car/detector/{place}team_cones' for place in ('', 'left/', 'right/')} | {
    '/tf',
    '/tf_static',
}
"""With packages that need not be here: the team's messages, tf2_ros."""


def allowed(repository, namespace):
    """Kind -> full names that the policy allows to a node in this namespace."""
    policy = ElementTree.parse(repository / 'config' / 'sros2' / 'detector_policy.xml')
    (profile,) = policy.iter('profile')
    own = f'{namespace}/{profile.attrib["node"]}/'
    found = {kind: set() for kind in KINDS}
    for rules in profile:
        for kind, rule in rules.attrib.items():
            assert rule == 'ALLOW'
            for entry in rules:
                name = str(entry.text)
                full = name if name[0] == '/' else f'{namespace}/{name}'
                found[kind].add(own + name[1:] if name[0] == '~' else full)
    return found


@pytest.fixture(scope='module')
def seen(observer, tmp_path_factory):
    """Kind -> full names that the node really has, in any of the cases."""
    found = {kind: set() for kind in KINDS}
    for name, parameters in CASES.items():
        log = tmp_path_factory.mktemp('policy') / 'node.log'
        node = NodeProcess(log, parameters, '-r', '__ns:=/car')
        node.wait_for_output('active: listening')
        camera = 'left' if 'cameras' in parameters else 'camera'

        def ask(kind):
            try:
                question = getattr(observer.node, KINDS[kind])
                return {name for name, _ in question('detector', '/car')}
            except Exception:  # rclpy's error is private: the node is not found yet
                return set()

        def all_there(camera=camera):
            return (
                f'/car/{camera}/camera_info' in ask('subscribe')
                and '/car/detector/timing' in ask('publish')
                and '/car/detector/set_parameters_atomically' in ask('reply')
            )

        wait_for(all_there, f'the node in the graph: {name}')
        for kind in KINDS:
            found[kind] |= ask(kind)
        assert node.stop()[0] == 0, node.output
    return found


@pytest.mark.parametrize('kind', KINDS)
def test_policy_is_what_the_node_has(repository, seen, kind):
    policy = allowed(repository, '/car')
    assert seen[kind] <= policy[kind]
    assert policy[kind] <= seen[kind] | ELSEWHERE
    assert seen[kind] or kind == 'request'
