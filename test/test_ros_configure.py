"""A wrong model or setting leaves the node unconfigured and alive, and is named in one line."""

from __future__ import annotations

import json
import shutil

import pytest
from node_process import NodeProcess, wait_for
from tiny_network import CLASS_NAMES, change_card, write_tiny_bundle

from cone_perception.model_card import file_sha256
from cone_perception.ros.transport import PROFILE

pytestmark = pytest.mark.ros

NODE = '/faults/detector'


@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    return tmp_path_factory.mktemp('model') / 'tiny'


@pytest.fixture(scope='module')
def node(observer, bundle, tmp_path_factory):
    """A node that waits to be configured, with a model folder that each test fills anew."""
    folder = tmp_path_factory.mktemp('faults')
    process = NodeProcess(
        folder / 'node.log', {'model': bundle, 'autostart': 'false'}, *('-r', '__ns:=/faults')
    )
    wait_for(lambda: observer.node.count_services(f'{NODE}/get_state'), 'the node')
    yield process
    status, _ = process.stop()
    assert status == 0, process.output
    assert 'Traceback' not in process.output


def truncate(bundle):
    path = bundle / 'tiny.onnx'
    path.write_bytes(path.read_bytes()[:500])


def truncate_before_hashing(bundle):
    truncate(bundle)
    networks = json.loads((bundle / 'card.json').read_text())['networks']
    networks[0]['sha256'] = file_sha256(bundle / 'tiny.onnx')
    change_card(bundle, networks=networks)


def four_classes(bundle):
    """Act as if somebody had edited the card of a network of five."""
    change_card(bundle, class_names=CLASS_NAMES[:4], thresholds=dict.fromkeys(CLASS_NAMES[:4], 0.5))


FAULTS = {
    'truncated': (truncate, 'sha256'),
    'truncated before its card was made': (truncate_before_hashing, 'is damaged, or no ONNX file'),
    'network missing': (lambda bundle: (bundle / 'tiny.onnx').unlink(), 'is missing'),
    'bundle missing': (shutil.rmtree, 'does not exist'),
    'card not JSON': (lambda bundle: (bundle / 'card.json').write_text('{'), 'not a valid'),
    'another layout': (lambda b: change_card(b, output_layout='anchors'), 'but its card says'),
    'another size': (lambda b: change_card(b, height_px=640), 'but its card says'),
    'four classes': (four_classes, 'classes'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_model_fault_is_one_clear_line(observer, node, bundle, fault):
    spoil, complaint = FAULTS[fault]
    shutil.rmtree(bundle, ignore_errors=True)
    write_tiny_bundle(bundle)
    spoil(bundle)
    seen = len(node.output)
    assert not observer.change_state(NODE, 'configure')
    assert observer.state(NODE) == 'unconfigured'
    assert node.is_alive()
    wait_for(lambda: 'not configured' in node.output[seen:], 'the log')
    lines = [line for line in node.output[seen:].splitlines() if '[ERROR]' in line]
    assert len(lines) == 1
    assert complaint in lines[0]
    assert str(bundle) in lines[0]
    status = observer.wait_for_diagnostics(
        'faults/detector: node', lambda s: complaint in s.message
    )
    assert status.level == 2


def test_mended_model_configures_without_a_restart(observer, node, bundle):
    shutil.rmtree(bundle, ignore_errors=True)
    write_tiny_bundle(bundle)
    assert observer.change_state(NODE, 'configure')
    assert observer.state(NODE) == 'inactive'
    assert observer.change_state(NODE, 'cleanup')


def test_wrong_settings_are_refused_by_name(observer, tmp_path):
    """All at once, from a settings file and the command line; with the user's own profile."""
    settings = tmp_path / 'settings.yaml'
    settings.write_text('/**:\n  ros__parameters:\n    modle: tiny\n    region: []\n')
    profile = tmp_path / 'profile.xml'
    profile.write_text(PROFILE.read_text().replace('33554432', '50331648'))
    process = NodeProcess(
        tmp_path / 'node.log',
        {'threads': '1000', 'silence_s': '2'},
        *('--params-file', str(settings), '-r', '__ns:=/wrong'),
        FASTRTPS_DEFAULT_PROFILES_FILE=str(profile),
        FASTDDS_DEFAULT_PROFILES_FILE=str(profile),
    )
    process.wait_for_output('not configured')
    line = next(line for line in process.output.splitlines() if 'not configured' in line)
    for name in ('modle', 'threads', 'silence_s'):
        assert name in line
    assert 'region' not in line.partition('there are')[0]
    assert observer.state('/wrong/detector') == 'unconfigured'
    assert max(process.shared_memory().values()) > 48 * 2**20, "the user's profile was replaced"
    status, _ = process.stop()
    assert status == 0


@pytest.mark.parametrize(
    ('name', 'value', 'complaint'),
    [
        ('reliability', 'perhaps', 'reliability must be one of best_effort, reliable'),
        ('image_topics', '[not a topic]', 'not a topic'),
        ('batch', '2', "whole pictures of ['camera'] fill 1"),
    ],
)
def test_unusable_text_is_refused_by_name(observer, tmp_path, name, value, complaint):
    parameters = {'model': write_tiny_bundle(tmp_path / 'tiny'), name: value}
    process = NodeProcess(tmp_path / 'node.log', parameters, *('-r', '__ns:=/text'))
    process.wait_for_output('not configured')
    assert complaint in process.output
    assert process.is_alive()
    status, _ = process.stop()
    assert status == 0


@pytest.mark.parametrize(
    ('arguments', 'complaint'),
    [
        (('--params-file', '/nowhere.yaml'), '/nowhere.yaml'),
        (('-r', 'not a remap'), 'not a remap'),
    ],
)
def test_unusable_ros_arguments_end_the_command_with_a_line(ros, tmp_path, arguments, complaint):
    process = NodeProcess(tmp_path / 'node.log', {}, *arguments)
    assert process.process.wait(20) == 1
    assert complaint in process.output
    assert 'Traceback' not in process.output
