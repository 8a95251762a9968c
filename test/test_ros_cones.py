"""What is published in metres: ~/cones, ~/markers, and the message of a team."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import rclpy
from image_messages import encode
from message_packages import environment, provide
from node_process import NodeProcess, first_true, ros_message, stamp_ns_of, wait_for
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tiny_network import CLASS_NAMES, painted, write_tiny_bundle
from vision_msgs.msg import Detection2DArray, Detection3DArray
from visualization_msgs.msg import Marker, MarkerArray

from cone_perception.answering.answer import Answer, Arrival
from cone_perception.answering.health import Health
from cone_perception.answering.rigs import Rigs
from cone_perception.bags.cones3d import cones_of
from cone_perception.classes import BLUE, LARGE_ORANGE, ORANGE, UNKNOWN, YELLOW, ClassCalibration
from cone_perception.engines.open import open_engine
from cone_perception.errors import SettingsError
from cone_perception.model_card import read_bundle
from cone_perception.pipeline import ConeDetector
from cone_perception.positions.stance import ORIENTATION_VARIANCE_RAD2
from cone_perception.ros.cones import ConesMessage, PlacedCones
from cone_perception.ros.diagnostics import camera_status
from cone_perception.ros.publishing import AnswerPublishers
from cone_perception.ros.team_message import ConeMapping, TeamMessage
from cone_perception.settings import DetectorSettings
from cone_perception.types import Detections, Frame, Positions
from cone_perception.views import Horizon

pytestmark = pytest.mark.ros

CLASSES = (BLUE, YELLOW, LARGE_ORANGE, ORANGE, UNKNOWN)
"""Of the cones of `cones`, in turn; the third has no position."""
PLACED = (0, 1, 3, 4)


def cones(frame_id='base_footprint'):
    """Five detections, and where four of them stand."""
    n = len(CLASSES)
    left = np.arange(n, dtype=np.float32) * 100
    boxes = np.stack([left, left + 300, left + 20, left + 340], axis=1)
    score = np.linspace(0.9, 0.5, n).astype(np.float32)
    found = Detections(boxes, score, np.array(CLASSES, np.int64))
    xyz_m = np.stack([5.0 + np.arange(n), np.arange(n) - 2.5, np.full(n, 0.02)], axis=1)
    spread = np.array([[0.04, 0.01, 0.003], [0.01, 0.02, 0.002], [0.003, 0.002, 0.001]])
    covariance = spread * (1 + np.arange(n)[:, None, None])
    source = np.array([1, 2, 0, 1, 3], np.int64)
    xyz_m[2], covariance[2] = np.nan, np.nan
    return found, Positions(xyz_m, covariance, source, frame_id)


NOTHING = Positions(np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros(0, np.int64), 'base_footprint')


def answer(observer, found, positions, camera='left'):
    """An answer to a picture that came just now."""
    message = Image(header=Header(frame_id='left_optical'))
    stamp_ns = observer.next_stamp_ns()
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    names = ('received', 'started', 'prepared', 'inferred', 'decoded', 'located')
    moments_ns = {f'{name}_ns': at for at, name in enumerate(names)}
    picture = Frame(np.zeros((720, 1280, 3), np.uint8))
    arrival = Arrival(0, stamp_ns, message)
    return Answer(
        camera, arrival, 'answered', moments_ns, '', False, picture, found, positions=positions
    )


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    bundle = read_bundle(write_tiny_bundle(tmp_path_factory.mktemp('model') / 'tiny'))
    with ConeDetector(bundle.card, open_engine(bundle, threads=1)) as made:
        yield made


@contextmanager
def publishing(detector, name, **settings):
    """The publishers of a node /NAME with a camera left, and right in a stereo rig."""
    node = rclpy.create_node(name)
    publishers = AnswerPublishers(node, DetectorSettings(**settings), detector)
    try:
        yield publishers
    finally:
        publishers.close()
        node.destroy_node()


STEREO = {'stereo': True, 'cameras': ('left', 'right')}


def hear(observer, publishers, topic, kind, *answers):
    """Publish; returns the messages on a topic that came with these answers."""
    heard = observer.listen(topic, kind)
    info = observer.node.get_publishers_info_by_topic
    wait_for(lambda: info(topic), f'the publisher of {topic}')
    first = answer(observer, *cones())

    def reached():
        publishers.publish(first)
        publishers.publish_markers(first)
        return heard

    wait_for(reached, f'a first message on {topic}')
    heard.clear()
    for each in answers:
        publishers.publish(each)
        publishers.publish_markers(each)
    last = answer(observer, *cones())
    publishers.publish(last)
    publishers.publish_markers(last)

    def stamp(message):
        header = message.header if hasattr(message, 'header') else message.markers[0].header
        return header.stamp

    wait_for(lambda: any(stamp(m) == last.arrival.message.header.stamp for m in list(heard)), 'it')
    known = [first.arrival.message.header.stamp, last.arrival.message.header.stamp]
    return [message for message in heard if stamp(message) not in known]


def test_cones_carry_place_covariance_class_and_the_id_of_their_box(observer, detector):
    found, positions = cones()
    sent = answer(observer, found, positions)
    with publishing(detector, 'placing', **STEREO) as publishers:
        boxes = observer.listen('/left/detections', Detection2DArray)
        (message,) = hear(observer, publishers, '/placing/cones', Detection3DArray, sent)
        stamp = sent.arrival.message.header.stamp
        wait_for(lambda: any(m.header.stamp == stamp for m in list(boxes)), 'the boxes')
    assert message.header == Header(stamp=stamp, frame_id='base_footprint')
    assert [cone.id for cone in message.detections] == [str(row) for row in PLACED]
    (seen,) = [m for m in boxes if m.header.stamp == stamp]
    assert [box.id for box in seen.detections] == [str(row) for row in range(len(CLASSES))]
    for row, cone in zip(PLACED, message.detections, strict=True):
        assert cone.header == message.header
        (result,) = cone.results
        assert result.hypothesis.class_id == CLASS_NAMES[CLASSES[row]]
        assert result.hypothesis.score == pytest.approx(found.score[row])
        place = result.pose.pose.position
        assert [place.x, place.y, place.z] == positions.xyz_m[row].tolist()
        assert result.pose.pose.orientation.w == 1.0
        expected = np.zeros((6, 6))
        expected[:3, :3] = positions.covariance_m2[row]
        expected[3:, 3:] = np.eye(3) * ORIENTATION_VARIANCE_RAD2
        np.testing.assert_array_equal(result.pose.covariance.reshape(6, 6), expected)
        size, middle = cone.bbox.size, cone.bbox.center.position
        assert (size.x, size.y, size.z) == (0.228, 0.228, 0.325)
        assert (middle.x, middle.y) == (place.x, place.y)
        assert middle.z == pytest.approx(place.z + 0.325 / 2)


def test_message_is_read_as_it_was_meant(observer, detector):
    found, positions = cones()
    placed = PlacedCones.of(answer(observer, found, positions), detector.card, 'base_footprint')
    message = ConesMessage(CLASS_NAMES).fill(placed)
    read = cones_of(message).of([str(row) for row in range(len(found))])
    assert read.frame_id == 'base_footprint'
    np.testing.assert_array_equal(read.known, positions.known)
    np.testing.assert_array_equal(read.xyz_m, positions.xyz_m)
    np.testing.assert_array_equal(read.covariance_m2, positions.covariance_m2)


def test_hypotheses_are_the_likely_classes_with_calibrated_probabilities(observer, detector):
    found, positions = cones()
    scores = np.full((len(CLASSES), len(CLASS_NAMES)), 0.001, np.float32)
    scores[range(len(CLASSES)), CLASSES] = found.score
    scores[0, UNKNOWN] = 0.6  # beside 0.9 of blue
    found = replace(found, class_score=scores)
    calibration = ClassCalibration(slope=0.8, offset=-0.2, temperature=2.0)
    card = replace(detector.card, class_calibration=calibration)
    placed = PlacedCones.of(answer(observer, found, positions), card, 'base_footprint')
    first, *others = (cone.results for cone in ConesMessage(CLASS_NAMES).fill(placed).detections)
    assert [result.hypothesis.class_id for result in first] == ['blue_cone', 'unknown_cone']
    assert all(len(results) == 1 for results in others)
    told = [result.hypothesis.score for result in first]
    expected = calibration.probabilities(found, len(CLASS_NAMES))[0, [BLUE, UNKNOWN]]
    np.testing.assert_allclose(told, expected)
    assert first[0].pose == first[1].pose


def test_no_message_says_no_cones_unless_none_was_seen(observer, detector):
    found, _ = cones()
    unplaced = Positions(
        np.full((5, 3), np.nan), np.full((5, 3, 3), np.nan), np.zeros(5, np.int64), 'base_footprint'
    )
    sent = [
        answer(observer, found, None),
        answer(observer, Detections.empty(), None),
        answer(observer, found, unplaced),
        answer(observer, Detections.empty(), NOTHING),
    ]
    with publishing(detector, 'saying', **STEREO) as publishers:
        (message,) = hear(observer, publishers, '/saying/cones', Detection3DArray, *sent)
    assert message.header.stamp == sent[-1].arrival.message.header.stamp
    assert len(message.detections) == 0


class Broken:
    """Of which nothing can be filled."""

    def fill(self, placed):
        raise ValueError('no\nidea')


def test_boxes_come_first_and_whatever_becomes_of_the_cones(observer, detector):
    provide('fs_msgs')
    with publishing(detector, 'boxes_first', cone_message='fs_msgs', **STEREO) as publishers:
        rig = publishers._rigs['left']
        sent = []
        rig._message = Broken()
        rig._team_cones.publish = lambda message: sent.append('team')
        publishers._detections['left'].publish = lambda message: sent.append('boxes')
        published = publishers.publish(answer(observer, *cones()))
        assert sent == ['boxes', 'team']
        assert published.unsent == '/boxes_first/cones: ValueError: no idea'
        rig._team = Broken()
        both = publishers.publish(answer(observer, *cones())).unsent.split('; ')
        assert both[1] == '/boxes_first/team_cones: ValueError: no idea'
        assert sent == ['boxes', 'team', 'boxes']
    settings, health = DetectorSettings(**STEREO), Health(('left', 'right'), 0.0)
    topics = {'left': '/l/image', 'right': '/r/image'}
    horizons = {camera: Horizon() for camera in topics}
    rigs = Rigs(settings, topics, topics, CLASS_NAMES, horizons)
    health.ended(published, 1.0)
    health.unsent('left', 'markers: no idea', 1.0)
    about = health.report(1.0)['left'], settings, '', None, rigs
    status = camera_status('left', 'left', *about)
    told = '2 messages in the last 5 s were not sent, lastly: markers: no idea'
    assert (status.level, status.message) == (status.WARN, told)
    assert health.report(1.0)['left'].counts == {'answered': 1, 'unsent': 2}


def test_fewer_cones_leave_nothing_of_more_behind(observer, detector):
    found, positions = cones()
    one = Positions(positions.xyz_m[4:], positions.covariance_m2[4:], positions.source[4:], 'odd')
    sent = [answer(observer, found, positions), answer(observer, found[4:], one)]
    with publishing(detector, 'fewer', **STEREO) as publishers:
        many, few = hear(observer, publishers, '/fewer/cones', Detection3DArray, *sent)
    assert (len(many.detections), len(few.detections)) == (4, 1)
    (cone,) = few.detections
    assert (cone.id, cone.results[0].hypothesis.class_id) == ('0', 'unknown_cone')
    assert cone.header.frame_id == few.header.frame_id == 'odd'


def test_each_camera_that_is_no_eye_of_a_rig_has_topics_of_its_own(observer, detector):
    sent = answer(observer, *cones(), camera='right')
    with publishing(detector, 'several', cameras=('left', 'right')) as publishers:
        heard = observer.listen('/several/right/cones', Detection3DArray)
        quiet = hear(observer, publishers, '/several/left/cones', Detection3DArray, sent)
        wait_for(lambda: heard, 'the cones of the right camera')
    assert not quiet


def test_right_eye_alone_speaks_for_its_rig(observer, detector):
    sent = answer(observer, *cones(), camera='right')
    with publishing(detector, 'alone', **STEREO) as publishers:
        (message,) = hear(observer, publishers, '/alone/cones', Detection3DArray, sent)
    assert len(message.detections) == len(PLACED)


def test_without_a_mount_a_cone_stands_up_in_the_optical_frame(observer, detector):
    found, positions = cones('left_optical')
    with publishing(detector, 'optical', **STEREO) as publishers:
        sent = answer(observer, found, positions)
        (message,) = hear(observer, publishers, '/optical/cones', Detection3DArray, sent)
    assert message.header.frame_id == 'left_optical'
    cone = message.detections[0]
    foot, middle = cone.results[0].pose.pose.position, cone.bbox.center.position
    assert (middle.x, middle.z) == (foot.x, foot.z)
    assert middle.y == pytest.approx(foot.y - 0.325 / 2)  # y points down
    turn = cone.bbox.center.orientation
    axis = rotated(turn, np.array([0.0, 0.0, 1.0]))
    np.testing.assert_allclose(axis, [0, -1, 0], atol=1e-12)


def rotated(turn, vector):
    """A vector turned by a geometry_msgs/Quaternion."""
    part = np.array([turn.x, turn.y, turn.z])
    return vector + 2 * np.cross(part, np.cross(part, vector) + turn.w * vector)


@pytest.mark.parametrize('frame_id, ground', [('base_footprint', (0, 1)), ('optical', (0, 2))])
def test_markers_show_cones_and_where_they_may_stand(observer, detector, frame_id, ground):
    found, positions = cones(frame_id)
    sent = [answer(observer, found, positions), answer(observer, Detections.empty(), NOTHING)]
    with publishing(detector, 'marking', **STEREO) as publishers:
        full, empty = hear(observer, publishers, '/marking/markers', MarkerArray, *sent)
    for message in (full, empty):
        assert [m.action for m in message.markers].count(Marker.DELETEALL) == 1
        assert message.markers[0].action == Marker.DELETEALL
    assert len(empty.markers) == 1
    bodies = [m for m in full.markers if m.ns == 'cone']
    discs = [m for m in full.markers if m.ns == 'uncertainty']
    assert [m.id for m in bodies] == [m.id for m in discs] == list(PLACED)
    assert all(m.header.frame_id == frame_id and m.lifetime.sec for m in bodies + discs)
    blue, yellow = bodies[0].color, bodies[1].color
    assert blue.b > 2 * blue.r
    assert yellow.r > 2 * yellow.b
    for row, disc in zip(PLACED, discs, strict=True):
        covariance = positions.covariance_m2[row][np.ix_(ground, ground)]
        axes = [rotated(disc.pose.orientation, axis)[list(ground)] for axis in np.eye(3)[:2]]
        lengths_m = np.array([disc.scale.x, disc.scale.y]) / 4  # two sigma to each side
        made = sum(
            length**2 * np.outer(axis, axis) for length, axis in zip(lengths_m, axes, strict=True)
        )
        np.testing.assert_allclose(made, covariance, atol=1e-9)


def test_markers_are_made_only_while_somebody_listens(observer, detector, monkeypatch):
    monkeypatch.setattr(
        'cone_perception.ros.publishing.cone_markers', lambda *_: pytest.fail('nobody listens')
    )
    with publishing(detector, 'unheard', **STEREO) as publishers:
        publishers.publish_markers(answer(observer, *cones()))


def test_eufs_message_holds_each_cone_in_the_list_of_its_class(observer, detector):
    provide('eufs_msgs')
    from eufs_msgs.msg import ConeArrayWithCovariance

    found, positions = cones()
    sent = [answer(observer, found, positions), answer(observer, found, cones('optical')[1])]
    with publishing(detector, 'eufs', **STEREO, cone_message='eufs_msgs') as publishers:
        heard = hear(observer, publishers, '/eufs/team_cones', ConeArrayWithCovariance, *sent)
    (message,) = heard  # none in a camera's frame: a planner would drive by it
    assert message.header == Header(
        stamp=sent[0].arrival.message.header.stamp, frame_id='base_footprint'
    )
    lists = {
        BLUE: message.blue_cones,
        YELLOW: message.yellow_cones,
        ORANGE: message.orange_cones,
        LARGE_ORANGE: message.big_orange_cones,
        UNKNOWN: message.unknown_color_cones,
    }
    assert len(message.big_orange_cones) == 0  # it has no position
    for row in PLACED:
        (cone,) = lists[CLASSES[row]]
        assert [cone.point.x, cone.point.y, cone.point.z] == positions.xyz_m[row].tolist()
        expected = positions.covariance_m2[row][:2, :2].ravel()
        np.testing.assert_array_equal(cone.covariance, expected)


def test_fs_message_holds_a_number_for_each_colour(observer, detector):
    provide('fs_msgs')
    from fs_msgs.msg import Cone, Track

    found, positions = cones()
    placed = PlacedCones.of(answer(observer, found, positions), detector.card, 'base_footprint')
    made = TeamMessage(ConeMapping.read('fs_msgs'), CLASS_NAMES).fill(placed)
    message = sent_through_dds(observer, Track, made)
    colours = [Cone.BLUE, Cone.YELLOW, Cone.ORANGE_SMALL, Cone.UNKNOWN]
    assert [cone.color for cone in message.track] == colours
    places = [[cone.location.x, cone.location.y, cone.location.z] for cone in message.track]
    assert places == positions.xyz_m[list(PLACED)].tolist()


def sent_through_dds(observer, kind, message):
    """The message as a subscriber gets it."""
    topic = '/test_ros_cones'
    heard = observer.listen(topic, kind)
    publisher = observer.publisher(topic, kind)
    wait_for(publisher.get_subscription_count, 'the subscription')
    heard.clear()
    publisher.publish(message)
    received = wait_for(lambda: list(heard), 'the message')[0]
    observer.forget(topic)
    return received


def mapping(tmp_path, **entries):
    """A mapping file; vision_msgs is a package of messages that is always there."""
    given = {
        'type': 'vision_msgs/msg/Detection3DArray',
        'lists': {'detections': list(CLASS_NAMES)},
        'fields': {'bbox.center.position.x': 'x', 'id': 'class'},
    }
    path = tmp_path / 'ours.yaml'
    path.write_text(json.dumps({k: v for k, v in {**given, **entries}.items() if v is not None}))
    return str(path)


def test_own_mapping_fills_what_it_names(observer, detector, tmp_path):
    fields = {'bbox.center.position.y': 'y', 'bbox.size.x': 'score', 'id': 'class'}
    lists = {'detections': [name for name in CLASS_NAMES if name != 'yellow_cone']}
    leave_out = ['yellow_cone']
    path = mapping(tmp_path, fields=fields, lists=lists, leave_out=leave_out, topic='/slam/cones')
    message = TeamMessage(ConeMapping.read(path), CLASS_NAMES)
    found, positions = cones()
    placed = PlacedCones.of(answer(observer, found, positions), detector.card, 'base_footprint')
    made = message.fill(placed).detections
    assert message.topic == '/slam/cones'
    rows = [row for row in PLACED if CLASSES[row] != YELLOW]
    assert [cone.id for cone in made] == [CLASS_NAMES[CLASSES[row]] for row in rows]
    assert [cone.bbox.center.position.y for cone in made] == positions.xyz_m[rows, 1].tolist()
    assert [cone.bbox.size.x for cone in made] == pytest.approx(found.score[rows].tolist())


def test_shipped_mapping_serves_a_copy_of_the_type_in_another_package(tmp_path):
    path = tmp_path / 'ours.yaml'
    path.write_text('like: eufs_msgs\ntype: our_msgs/msg/Cones\ntopic: /cones\n')
    ours, shipped = ConeMapping.read(str(path)), ConeMapping.read('eufs_msgs')
    assert (ours.type, ours.topic) == ('our_msgs/msg/Cones', '/cones')
    assert (ours.lists, ours.fields) == (shipped.lists, shipped.fields)


NINE = {'fields': {'results': 'covariance_xyz'}}
TRUE = dict.fromkeys(CLASS_NAMES, True)


@pytest.mark.parametrize(
    ('entries', 'complaint'),
    [
        ({'type': None}, "missing 1 required positional argument: 'type'"),
        ({'type': 'vision_msgs/Detection3DArray'}, 'package/msg/Name'),
        ({'type': 'our_msgs/msg/Cones'}, 'our_msgs cannot be imported'),
        ({'type': 'our_msgs/msg/Cones'}, 'sudo apt install ros-$ROS_DISTRO-our-msgs'),
        ({'type': 'vision_msgs/msg/Detection3DArrey'}, 'Did you mean Detection3DArray'),
        ({'lists': {}}, 'must not be empty'),
        ({'lists': {'detections': ['blue_cone']}}, 'large_orange_cone must stand once'),
        ({'lists': {'detections': [*CLASS_NAMES, 'blue_cone']}}, 'not 2 times'),
        ({'lists': {'detections': ['blu_cone']}}, 'Did you mean blue_cone'),
        ({'lists': {'detection': list(CLASS_NAMES)}}, "has no field 'detection'"),
        ({'lists': {'header': list(CLASS_NAMES)}}, 'header is std_msgs/Header, not a list'),
        ({'fields': {'bbox.center.position.w': 'x'}}, "Point has no field 'w'"),
        ({'fields': {'id': 'colour'}}, "there is no source 'colour'"),
        ({'fields': {'id': 'x'}}, 'id is string, which cannot hold x'),
        ({'fields': {'bbox.size.x': 'id'}}, 'bbox.size.x is double, which cannot hold id'),
        (NINE, 'cannot hold covariance_xyz'),
        ({'fields': {'id.x': 'x'}}, 'id.x: id is string, which has no fields'),
        ({'class_values': {'blue_cone': 'b'}}, 'class_values lacks large_orange_cone'),
        ({'class_values': TRUE}, 'id is string, which cannot hold class'),
        ({'topic': 'no topic'}, 'Invalid topic name'),
        ({'topics': '/cones'}, 'there is no entry topics'),
    ],
)
def test_wrong_mapping_is_refused_by_name(ros, tmp_path, entries, complaint):
    with pytest.raises(SettingsError) as refused:
        TeamMessage(ConeMapping.read(mapping(tmp_path, **entries)), CLASS_NAMES)
    assert complaint in str(refused.value)
    assert str(refused.value).startswith('cone_message')


@pytest.mark.parametrize('name, complaint', [('eufs', 'eufs_msgs'), ('/no.yaml', '/no.yaml')])
def test_mapping_that_is_not_there_is_named(name, complaint):
    with pytest.raises(SettingsError, match=complaint):
        ConeMapping.read(name)


def test_number_that_does_not_fit_its_field_is_refused(ros, tmp_path):
    provide('fs_msgs')
    values = dict.fromkeys(CLASS_NAMES, 300)
    path = tmp_path / 'ours.yaml'
    path.write_text(f'like: fs_msgs\nclass_values: {json.dumps(values)}\n')
    with pytest.raises(SettingsError, match='color is uint8, which cannot hold class'):
        TeamMessage(ConeMapping.read(str(path)), CLASS_NAMES)


def test_node_refuses_a_type_that_it_cannot_import(observer, tmp_path):
    parameters = {'model': write_tiny_bundle(tmp_path / 'tiny'), 'cone_message': 'eufs_msgs'}
    process = NodeProcess(tmp_path / 'node.log', parameters, *('-r', '__ns:=/unbuilt'))
    process.wait_for_output('not configured')
    assert 'cone_message needs eufs_msgs/msg/ConeArrayWithCovariance' in process.output
    assert 'source its install/setup.bash' in process.output
    assert process.stop()[0] == 0


def test_node_takes_a_type_of_the_sourced_workspace(observer, tmp_path):
    parameters = {'model': write_tiny_bundle(tmp_path / 'tiny'), 'cone_message': 'eufs_msgs'}
    sourced = environment(provide('eufs_msgs'))
    process = NodeProcess(tmp_path / 'node.log', parameters, *('-r', '__ns:=/built'), **sourced)
    process.wait_for_output('active: listening')
    info = observer.node.get_publishers_info_by_topic
    (publisher,) = wait_for(lambda: info('/built/detector/team_cones'), 'the topic')
    assert publisher.topic_type == 'eufs_msgs/msg/ConeArrayWithCovariance'
    assert process.stop()[0] == 0


FOCAL_PX, BASELINE_M, HEIGHT_M = 700.0, 0.12, 0.325
"""Of a rig as high as a cone: all three ranges of the painted cone are 3.55 m."""


def calibration(side):
    """camera_info of an eye with rectified pictures."""
    info = CameraInfo(width=1280, height=720, distortion_model='plumb_bob', d=[0.0] * 5)
    info.header.frame_id = f'{side}_optical'
    shift = -FOCAL_PX * BASELINE_M if side == 'right' else 0.0
    info.k = [FOCAL_PX, 0.0, 640.0, 0.0, FOCAL_PX, 360.0, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [FOCAL_PX, 0.0, 640.0, shift, 0.0, FOCAL_PX, 360.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


class DrivenRig:
    """Sends pairs with a yellow cone before the car to a node in /rig, until they are answered."""

    def __init__(self, observer):
        self.observer = observer
        self.boxes = observer.listen('/rig/left/detections', Detection2DArray)
        self.cones = observer.listen('/rig/detector/cones', Detection3DArray)
        for side in ('left', 'right'):
            wait_for(self._publisher(side, Image).get_subscription_count, f'eye {side}')

    def _publisher(self, side, kind):
        topic = f'/rig/{side}/{"image" if kind is Image else "camera_info"}'
        return self.observer.publisher(topic, kind)

    def calibrate(self):
        for side in ('left', 'right'):
            self._publisher(side, CameraInfo).publish(calibration(side))

    def send(self, cones=True):
        """One pair; returns its stamp."""
        stamp_ns = self.observer.next_stamp_ns()
        for side, left in (('left', 640), ('right', 640 - 24)):
            seen = [('yellow_cone', left, 360, 64, 64)] if cones else []
            message = ros_message(encode(painted(*seen), 'bgr8'), stamp_ns, f'{side}_optical')
            self._publisher(side, Image).publish(message)
        return stamp_ns

    def ask(self, heard, cones=True):
        """What comes on a topic for one of the pairs that are sent."""

        def once():
            self.calibrate()
            stamp_ns = self.send(cones)
            return first_true(
                lambda: [m for m in list(heard) if stamp_ns_of(m) == stamp_ns], timeout_s=2.0
            )

        return wait_for(once, 'an answer')[0]


def test_node_of_a_stereo_rig_tells_the_team_what_it_tells_others(observer, tmp_path):
    folder = provide('eufs_msgs')
    from eufs_msgs.msg import ConeArrayWithCovariance

    parameters = {
        'model': write_tiny_bundle(tmp_path / 'tiny'),
        'cone_message': 'eufs_msgs',
        'cameras': '[left, right]',
        'stereo': 'true',
        'mount_height_m': str(HEIGHT_M),
    }
    log, place = tmp_path / 'node.log', ('-r', '__ns:=/rig')
    process = NodeProcess(log, parameters, *place, **environment(folder))
    process.wait_for_output('active: listening')
    rig = DrivenRig(observer)
    team = observer.listen('/rig/detector/team_cones', ConeArrayWithCovariance)
    wait_for(lambda: observer.node.count_publishers('/rig/detector/team_cones'), 'the team topic')
    message = rig.ask(rig.cones)
    stamp_ns = stamp_ns_of(message)
    boxes = wait_for(lambda: observer.answer('/rig/left/detections', stamp_ns), 'the boxes')
    (theirs,) = wait_for(lambda: [m for m in list(team) if stamp_ns_of(m) == stamp_ns], 'theirs')
    assert theirs.header == message.header
    assert message.header.frame_id == 'base_footprint'
    (cone,), (box,), (seen,) = message.detections, boxes.detections, theirs.yellow_cones
    assert cone.id == box.id == '0'
    assert cone.results[0].hypothesis.class_id == 'yellow_cone'
    pose = cone.results[0].pose
    assert seen.point == pose.pose.position
    assert 3 < seen.point.x < 4.5
    np.testing.assert_array_equal(seen.covariance, pose.covariance.reshape(6, 6)[:2, :2].ravel())
    assert len(rig.ask(rig.cones, cones=False).detections) == 0
    status, _ = process.stop()
    assert status == 0, process.output
    assert 'Traceback' not in process.output
