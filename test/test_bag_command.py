"""`cone-perception bag`: what it finds wrong with a bag, cuts from it, and makes."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from image_messages import write_video
from recorded_drive import LATCHED, at, camera_info, cut_off, damage, data_file, image, write
from rosbags.rosbag2 import StoragePlugin, Writer

from cone_perception.bags.command import FIRST_STAMP_NS
from cone_perception.bags.reader import (
    CAMERA_INFO,
    bag_types,
    header_stamp_ns,
    load_camera_info,
    open_bag,
    read_messages,
    write_image_bag,
)
from cone_perception.bags.report import inspect_bag
from cone_perception.cli import main
from cone_perception.errors import SourceError
from cone_perception.images import camera_info_topic
from cone_perception.pictures.sources import open_source
from cone_perception.types import Frame

TOPIC = '/camera/image'
CALIBRATION = """
image_width: 32
image_height: 24
camera_name: left
camera_matrix: {rows: 3, cols: 3, data: [30.0, 0, 16, 0, 31.0, 12, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0.001, 0.002, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [30.0, 0, 16, 0, 0, 31.0, 12, 0, 0, 0, 1, 0]}
"""


def transform(child):
    types = bag_types().types
    header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](1, 2), 'base')
    still = types['geometry_msgs/msg/Transform'](
        types['geometry_msgs/msg/Vector3'](1.0, 2.0, 3.0),
        types['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 1.0),
    )
    one = types['geometry_msgs/msg/TransformStamped'](header, child, still)
    tf = 'tf2_msgs/msg/TFMessage'
    return bytes(bag_types().serialize_cdr(types[tf]([one]), tf))


def pictures(topic=TOPIC, indices=range(20)):
    return [(topic, at(index), image(at(index))) for index in indices]


def contents(path):
    with open_bag(path) as reader:
        return [
            (m.topic, m.time_ns, m.data)
            for m in read_messages(reader, {c.topic for c in reader.connections})
        ]


def kinds(path):
    return [(problem.topic, problem.kind) for problem in inspect_bag(path).problems]


def run(*arguments):
    return main(['bag', *map(str, arguments)])


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_sound_bag_is_described_and_nothing_is_wrong(tmp_path, capsys, storage):
    bag = write(
        tmp_path / 'bag',
        [*pictures(), ('/camera/camera_info', at(0), camera_info(at(0)))],
        {'/camera/camera_info': CAMERA_INFO},
        storage,
    )
    assert run('info', bag, '--json') == 0
    report = json.loads(capsys.readouterr().out)
    assert (report['storage'], report['compression']) == (storage, 'none')
    assert (report['count'], report['complete'], report['problems']) == (21, True, [])
    assert report['duration_s'] == pytest.approx(1.9)
    assert report['size_bytes'] == sum(file.stat().st_size for file in bag.iterdir())
    info, seen = report['topics']
    assert (info['topic'], info['type_name']) == ('/camera/camera_info', CAMERA_INFO)
    assert info['rate_hz'] is None
    assert seen['rate_hz'] == pytest.approx(10)
    assert (seen['first_stamp_ns'], seen['last_stamp_ns']) == (at(0), at(19))
    assert seen['size_bytes'] == 20 * len(image(at(0)))
    assert seen['picture'] == {'width_px': 32, 'height_px': 24, 'encoding': 'bgr8'}


def test_table_names_topics_and_what_is_wrong(tmp_path, capsys):
    bag = write(tmp_path / 'bag', pictures(indices=[0, 1, 2, 3, 9, 10]))
    assert run('info', bag) == 0
    shown = capsys.readouterr().out
    assert '32x24 bgr8' in shown
    assert '1700000000.000000000' in shown
    assert f'wrong: {TOPIC}: 1 gaps' in shown
    assert 'the longest, 0.600 s, begins 0.300 s' in shown


@pytest.mark.parametrize('mode', ['FILE', 'MESSAGE', 'STORAGE'])
def test_compression_is_named(tmp_path, mode):
    report = inspect_bag(write(tmp_path / 'bag', pictures(), compression=mode))
    assert (report.compression, report.storage) == (f'{mode.lower()} zstd', 'mcap')
    assert report.problems == ()


def test_jpeg_is_described_by_its_own_size(tmp_path):
    frames = [Frame(np.zeros((24, 40, 3), np.uint8), at(i)) for i in range(3)]
    write_image_bag(tmp_path / 'bag', frames, '/camera/image/compressed', compressed=True)
    picture = inspect_bag(tmp_path / 'bag').topics[0].picture
    assert (picture.width_px, picture.height_px, picture.encoding) == (40, 24, 'jpeg')


def test_pause_of_three_periods_is_no_gap_and_of_four_is_one(tmp_path):
    write(tmp_path / 'three', pictures(indices=[0, 1, 2, 3, 6, 7]))
    write(tmp_path / 'four', pictures(indices=[0, 1, 2, 3, 7, 8]))
    assert kinds(tmp_path / 'three') == []
    assert kinds(tmp_path / 'four') == [(TOPIC, 'gap')]


def test_topic_of_the_wrong_type_is_named(tmp_path):
    bag = write(tmp_path / 'name', pictures(), {TOPIC: CAMERA_INFO})
    assert (TOPIC, 'type') in kinds(bag)
    noise = [('/camera/picture', at(i), b'\0\1\0\0\7') for i in range(3)]
    assert kinds(write(tmp_path / 'noise', noise)) == [('/camera/picture', 'type')] * 2


@pytest.mark.parametrize('metadata', [True, False])
@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_bag_cut_off_in_the_middle_exits_with_1(tmp_path, capsys, storage, metadata):
    bag = write(tmp_path / 'bag', pictures(indices=range(60)), storage=storage)
    file = data_file(cut_off(bag, 0.5))
    if not metadata:
        (bag / 'metadata.yaml').unlink()
    assert run('info', bag, '--json') == 1
    report = json.loads(capsys.readouterr().out)
    assert report['complete'] is False
    assert file.name in str(report) or str(bag) in str(report)
    assert run('info', bag) == 1
    shown = capsys.readouterr()
    assert str(bag) in shown.out + shown.err


def test_damage_further_on_exits_with_1_and_shows_what_came_before(tmp_path, capsys):
    bag = write(tmp_path / 'bag', pictures(), compression='MESSAGE')
    damage(bag, 12)
    assert run('info', bag, '--json') == 1
    report = json.loads(capsys.readouterr().out)
    assert (report['complete'], report['count']) == (False, 12)
    assert [problem['kind'] for problem in report['problems']] == ['damaged']
    assert run('info', bag) == 1
    shown = capsys.readouterr().out
    assert '32x24 bgr8' in shown
    assert 'is damaged, the rest of it cannot be read' in shown


def test_what_is_no_bag_exits_with_1(tmp_path, capsys):
    for command in (['bag', 'info'], ['replay']):
        assert main([*command, str(tmp_path / 'nothing')]) == 1
        told = capsys.readouterr().err
        assert f': {tmp_path}/nothing does not exist. Give a bag' in told
        assert 'Error' not in told
    assert run('info', tmp_path) == 1
    told = capsys.readouterr().err
    assert 'metadata.yaml' in told
    assert '..' not in told


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_cut_keeps_bytes_times_and_storage(tmp_path, storage):
    bag = write(tmp_path / 'bag', pictures(), storage=storage)
    assert run('cut', bag, '--start', 0.5, '--duration', 0.4, '--out', tmp_path / 'cut') == 0
    assert contents(tmp_path / 'cut') == contents(bag)[5:9]
    assert data_file(tmp_path / 'cut').suffix == data_file(bag).suffix
    assert kinds(tmp_path / 'cut') == []


@pytest.mark.parametrize('mode', ['FILE', 'MESSAGE', 'STORAGE'])
def test_cut_keeps_compression(tmp_path, mode):
    bag = write(tmp_path / 'bag', pictures(), compression=mode)
    assert run('cut', bag, '--start', 1, '--out', tmp_path / 'cut') == 0
    assert inspect_bag(tmp_path / 'cut').compression == f'{mode.lower()} zstd'
    assert contents(tmp_path / 'cut') == contents(bag)[10:]


def test_cut_of_a_single_file_keeps_types_that_are_not_ours(tmp_path):
    name = 'team_msgs/msg/Speed'
    with Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        told = {'msgdef': 'float32 mps\n', 'rihs01': 'RIHS01_' + '0' * 64}
        speed = writer.add_connection('/speed', name, **told)
        for index in range(5):
            writer.write(speed, at(index), b'\0\1\0\0' + bytes(4))
    assert run('cut', data_file(tmp_path / 'bag'), '--out', tmp_path / 'cut') == 0
    assert contents(tmp_path / 'cut') == contents(tmp_path / 'bag')
    with open_bag(tmp_path / 'cut') as reader:
        assert reader.connections[0].msgdef.data.strip() == 'float32 mps'


def latched_bag(path):
    return write(
        path,
        [
            ('/tf_static', at(0), transform('left')),
            ('/tf_static', at(0), transform('right')),
            ('/camera/camera_info', at(0), camera_info(at(0))),
            ('/map', at(0), image(1)),
            ('/map', at(1), image(2)),
            ('/other', at(1), image(at(1))),
            *pictures(indices=range(2, 20)),
        ],
        {'/tf_static': 'tf2_msgs/msg/TFMessage', '/camera/camera_info': CAMERA_INFO},
        latched=('/tf_static', '/map'),
    )


def test_cut_keeps_what_was_latched_before_it(tmp_path, capsys):
    bag = latched_bag(tmp_path / 'bag')
    assert run('cut', bag, '--start', 1, '--out', tmp_path / 'cut') == 0
    assert '14 messages, 4 of them' in capsys.readouterr().out
    found = contents(tmp_path / 'cut')
    held = sorted((topic, data) for topic, time_ns, data in found if topic != TOPIC)
    assert held[:2] == [('/camera/camera_info', camera_info(at(0))), ('/map', image(2))]
    assert held[2:] == sorted(('/tf_static', transform(side)) for side in ('left', 'right'))
    assert {time_ns for topic, time_ns, _ in found if topic != TOPIC} == {at(10)}
    with open_bag(tmp_path / 'cut') as reader:
        qos = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
    assert qos['/map'] == [LATCHED]
    assert qos[TOPIC] == []


def test_cut_of_one_topic_takes_its_camera_info_and_tf_static_along(tmp_path):
    bag = latched_bag(tmp_path / 'bag')
    assert run('cut', bag, '--start', 1, '--topic', TOPIC, '--out', tmp_path / 'cut') == 0
    topics = {topic for topic, _, _ in contents(tmp_path / 'cut')}
    assert topics == {TOPIC, '/camera/camera_info', '/tf_static'}


def test_camera_info_of_every_picture_is_not_doubled(tmp_path):
    info = '/camera/camera_info'
    messages = []
    for index in range(10):
        messages += [(info, at(index), camera_info(at(index))), *pictures(indices=[index])]
    bag = write(tmp_path / 'bag', messages, {info: CAMERA_INFO})
    assert run('cut', bag, '--start', 0.5, '--out', tmp_path / 'cut') == 0
    assert sorted(contents(tmp_path / 'cut')) == sorted(messages[10:])


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_storage_is_taken_from_the_files_where_metadata_does_not_name_it(tmp_path, storage):
    # As Humble's `ros2 bag reindex` leaves it.
    bag = write(tmp_path / 'bag', pictures(), storage=storage)
    before = contents(bag)
    text = (bag / 'metadata.yaml').read_text()
    assert f'storage_identifier: {storage}' in text
    nameless = text.replace(f'storage_identifier: {storage}', "storage_identifier: ''")
    (bag / 'metadata.yaml').write_text(nameless)
    report = inspect_bag(bag)
    assert (report.complete, report.storage, report.problems) == (True, storage, ())
    assert contents(bag) == before


def test_cut_refuses_and_leaves_nothing_behind(tmp_path, capsys):
    bag = write(tmp_path / 'bag', pictures())
    out = tmp_path / 'new' / 'cut'
    assert run('cut', bag, '--start', 60, '--out', out) == 1
    assert 'whole bag is 1.9 s long' in capsys.readouterr().err
    assert run('cut', bag, '--topic', '/radar', '--out', out) == 1
    assert f'no topic /radar; it has {TOPIC}' in capsys.readouterr().err
    cut_off(bag, 0.5)
    assert run('cut', bag, '--out', out) == 1
    assert list(out.parent.iterdir()) == []
    out.mkdir()
    assert run('cut', bag, '--out', out) == 1
    assert 'exists already' in capsys.readouterr().err
    assert out.is_dir()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for index in range(4):
        picture = np.full((24, 32, 3), 50 * index, np.uint8)
        cv2.imwrite(str(folder / f'{index}.png'), picture)
    return folder


def test_bag_from_images_holds_them_in_order_at_their_rate(tmp_path, folder):
    bag = tmp_path / 'bag'
    assert run('from-images', folder, '--out', bag, '--hz', 10, '--frame-id', 'left') == 0
    frames = list(open_source(bag, TOPIC).frames)
    assert [int(frame.bgr[0, 0, 0]) for frame in frames] == [0, 50, 100, 150]
    assert [frame.stamp_ns for frame in frames] == [FIRST_STAMP_NS + i * 10**8 for i in range(4)]
    assert {frame.frame_id for frame in frames} == {'left'}
    assert kinds(bag) == []


def test_camera_info_goes_beside_every_picture(tmp_path, folder):
    (tmp_path / 'left.yaml').write_text(CALIBRATION)
    bag = tmp_path / 'bag'
    arguments = ['--compressed', '--camera-info', tmp_path / 'left.yaml', '--storage', 'sqlite3']
    assert run('from-images', folder, '--out', bag, *arguments) == 0
    report = inspect_bag(bag)
    assert report.problems == ()
    assert report.storage == 'sqlite3'
    counts = {topic.topic: topic.count for topic in report.topics}
    assert counts == {'/camera/camera_info': 4, '/camera/image/compressed': 4}
    infos = [data for topic, _, data in contents(bag) if topic == '/camera/camera_info']
    message = bag_types().deserialize_cdr(infos[1], CAMERA_INFO)
    assert (message.width, message.height, message.distortion_model) == (32, 24, 'plumb_bob')
    assert message.k.tolist() == [30, 0, 16, 0, 31, 12, 0, 0, 1]
    assert message.p.tolist() == [30, 0, 16, 0, 0, 31, 12, 0, 0, 0, 1, 0]
    assert message.d.tolist() == [0.1, -0.2, 0.001, 0.002, 0]
    pictures = [data for topic, _, data in contents(bag) if topic != '/camera/camera_info']
    assert [header_stamp_ns(data) for data in infos] == [header_stamp_ns(p) for p in pictures]


def test_calibration_of_other_pictures_is_refused(tmp_path, folder, capsys):
    (tmp_path / 'left.yaml').write_text(CALIBRATION.replace('image_width: 32', 'image_width: 64'))
    bag = tmp_path / 'bag'
    assert run('from-images', folder, '--out', bag, '--camera-info', tmp_path / 'left.yaml') == 1
    assert '0.png has 32x24 pixels' in capsys.readouterr().err
    assert not bag.exists()


def test_unreadable_picture_is_left_out_named_and_keeps_its_time(tmp_path, folder, capsys):
    (folder / '1.png').write_bytes(b'not a picture')
    assert run('from-images', folder, '--out', tmp_path / 'bag', '--hz', 10) == 1
    assert 'left out: 1.png' in capsys.readouterr().err
    stamps = [frame.stamp_ns - FIRST_STAMP_NS for frame in open_source(tmp_path / 'bag').frames]
    assert stamps == [0, 200_000_000, 300_000_000]


VIDEO = [np.full((24, 32, 3), 25 * index, np.uint8) for index in range(8)]


@pytest.mark.parametrize(('hz', 'period_ms'), [((), 50), (('--hz', 10), 100)])
def test_bag_from_video_has_its_times_or_those_asked_for(tmp_path, hz, period_ms):
    video = write_video(tmp_path / 'drive.mp4', VIDEO)
    assert run('from-video', video, '--out', tmp_path / 'bag', *hz) == 0
    stamps = [frame.stamp_ns for frame in open_source(tmp_path / 'bag').frames]
    assert stamps[0] == FIRST_STAMP_NS
    assert np.diff(stamps) == pytest.approx([period_ms * 1e6] * 7)


def test_the_wrong_source_is_refused_with_the_right_action(tmp_path, folder, capsys):
    assert run('from-video', folder, '--out', tmp_path / 'bag') == 1
    assert 'from-images takes it' in capsys.readouterr().err
    video = write_video(tmp_path / 'a.mp4', VIDEO)
    assert run('from-images', video, '--out', tmp_path / 'bag') == 1
    assert 'from-video takes it' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('before', 'after', 'named'),
    [
        ('plumb_bob', 'magic', 'distortion_model'),
        ('image_height: 24', 'image_height: 0', 'image_height'),
        ('0.002, 0]', '0.002]', None),
        ('-0.2, 0.001, 0.002, 0]', ']', 'distortion_coefficients'),
        ('[30.0, 0, 16, 0, 31.0', '[.nan, 0, 16, 0, 31.0', 'no number'),
        ('[30.0, 0, 16, 0, 31.0', '[0, 0, 16, 0, 31.0', 'focal length'),
        ('projection_matrix', 'projection', 'projection_matrix'),
        ('image_width: 32', 'image_width: [', 'YAML'),
    ],
)
def test_calibration_that_cannot_be_is_refused_by_name(tmp_path, before, after, named):
    assert before in CALIBRATION
    path = tmp_path / 'left.yaml'
    path.write_text(CALIBRATION.replace(before, after))
    if named is None:
        assert len(load_camera_info(path).d) == 4
    else:
        with pytest.raises(SourceError, match=named):
            load_camera_info(path)


@pytest.mark.parametrize(
    ('image_topic', 'beside'),
    [
        ('/camera/image', '/camera/camera_info'),
        ('/zed/left/image_raw/compressed', '/zed/left/camera_info'),
        ('/image', '/camera_info'),
    ],
)
def test_camera_info_is_looked_for_beside_the_picture(image_topic, beside):
    assert camera_info_topic(image_topic) == beside
