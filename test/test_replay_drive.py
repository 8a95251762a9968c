"""A bag as a drive: its cameras, its ground truth, its labels, its hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from recorded_drive import (
    HEIGHT,
    WIDTH,
    at,
    data_file,
    jpeg,
    pictures,
    truth,
    truths,
    write,
)

from cone_perception.bags.reader import read_messages
from cone_perception.errors import SourceError
from cone_perception.replay.drive.frames import due_frames
from cone_perception.replay.drive.open import bag_sha256, camera_names, open_drive
from cone_perception.replay.traces import Pace

CLASS_NAMES = ('blue_cone', 'orange_cone', 'yellow_cone')
LEFT, RIGHT = '/camera/left/image', '/camera/right/image'


def opened(bag: Path, **options):
    return open_drive(bag, class_names=CLASS_NAMES, **options)


def write_labels(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


# --- cameras ---


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('compression', ['NONE', 'FILE', 'MESSAGE'])
def test_drive_is_described_whatever_its_storage(tmp_path, storage, compression):
    bag = write(tmp_path / 'bag', pictures() + truths(), None, storage, compression)
    drive = opened(bag)
    (camera,) = drive.cameras
    assert (camera.name, camera.topic, camera.compressed) == ('camera', '/camera/image', False)
    assert camera.truth_topic == '/camera/ground_truth'
    assert (drive.frames, drive.storage, drive.problems) == (10, storage, ())
    assert drive.duration_s == pytest.approx(0.9)
    assert drive.sha256 == hashlib.sha256(data_file(bag).read_bytes()).hexdigest()
    assert len(drive.truth) == 10
    cones = drive.truth['camera', at(3)]
    assert cones.xyxy_px.tolist() == [[2, 4, 10, 20]]
    assert cones.class_id.tolist() == [CLASS_NAMES.index('blue_cone')]


def test_camera_is_named_by_the_part_before_the_last_where_that_is_unique():
    assert camera_names(['/a/left/image_raw', '/a/right/image_raw/compressed', '/front']) == {
        '/a/left/image_raw': 'left',
        '/a/right/image_raw/compressed': 'right',
        '/front': 'front',
    }
    assert camera_names(['/a/camera/image', '/b/camera/image']) == {
        '/a/camera/image': 'a_camera_image',
        '/b/camera/image': 'b_camera_image',
    }


def test_without_topics_every_camera_is_replayed_and_with_them_in_their_order(tmp_path):
    bag = write(tmp_path / 'bag', pictures(LEFT) + pictures(RIGHT))
    assert [camera.name for camera in opened(bag).cameras] == ['left', 'right']
    assert [camera.name for camera in opened(bag, topics=[RIGHT, LEFT]).cameras] == [
        'right',
        'left',
    ]
    drive = opened(bag, topics=[RIGHT])
    assert ([camera.name for camera in drive.cameras], drive.frames) == (['right'], 10)


def test_compressed_camera_is_told_apart(tmp_path):
    topic = '/camera/image/compressed'
    bag = write(tmp_path / 'bag', [(topic, at(i), jpeg(at(i))) for i in range(3)])
    (camera,) = opened(bag).cameras
    assert (camera.name, camera.topic, camera.compressed) == ('camera', topic, True)


def test_raw_and_compressed_of_one_camera_are_refused_until_one_is_chosen(tmp_path):
    raw, compressed = '/camera/image', '/camera/image/compressed'
    bag = write(
        tmp_path / 'bag', pictures(raw) + [(compressed, at(i), jpeg(at(i))) for i in range(3)]
    )
    with pytest.raises(SourceError, match=f'{raw} and {compressed} are the same pictures'):
        opened(bag)
    assert opened(bag, topics=[compressed]).frames == 3


def test_topic_that_is_not_there_or_no_picture_is_refused_by_name(tmp_path):
    bag = write(tmp_path / 'bag', pictures() + truths())
    with pytest.raises(SourceError, match='no topic /front; those with pictures: /camera/image'):
        opened(bag, topics=['/front'])
    with pytest.raises(SourceError, match='/camera/ground_truth is of type vision_msgs'):
        opened(bag, topics=['/camera/ground_truth'])


def test_bag_without_a_camera_is_refused(tmp_path):
    bag = write(tmp_path / 'bag', truths())
    with pytest.raises(SourceError, match='no topic of type sensor_msgs/msg/Image'):
        opened(bag)


def test_hash_is_of_all_files_by_name_and_not_of_the_metadata(tmp_path):
    bag = tmp_path / 'bag'
    bag.mkdir()
    (bag / 'bag_1.mcap').write_bytes(b'second')
    (bag / 'bag_0.mcap').write_bytes(b'first ')
    (bag / 'metadata.yaml').write_text('anything')
    assert bag_sha256(bag) == hashlib.sha256(b'first second').hexdigest()
    assert bag_sha256(bag / 'bag_1.mcap') == hashlib.sha256(b'second').hexdigest()


def test_bag_is_read_once(tmp_path, monkeypatch):
    bag = write(tmp_path / 'bag', pictures() + truths())
    seen = []

    def count(*arguments, **options):
        for message in read_messages(*arguments, **options):
            seen.append(message.topic)
            yield message

    monkeypatch.setattr('cone_perception.bags.report.read_messages', count)
    opened(bag)
    assert sorted(seen) == ['/camera/ground_truth'] * 10 + ['/camera/image'] * 10


# --- ground truth ---


def test_each_camera_has_the_truth_of_its_namespace(tmp_path):
    left, right = '/camera/left/ground_truth', '/camera/right/ground_truth'
    cone = ('yellow_cone', 0, 0, 4, 8)
    bag = write(
        tmp_path / 'bag',
        pictures(LEFT)
        + pictures(RIGHT)
        + truths(left)
        + [(right, at(i), truth(at(i), cone)) for i in range(10)],
    )
    drive = opened(bag)
    assert [camera.truth_topic for camera in drive.cameras] == [left, right]
    assert drive.truth['left', at(0)].class_id.tolist() == [0]
    assert drive.truth['right', at(0)].class_id.tolist() == [2]
    alone = opened(bag, topics=[RIGHT])
    assert alone.cameras[0].truth_topic == right


def test_truth_of_another_camera_is_not_taken(tmp_path):
    bag = write(
        tmp_path / 'bag', pictures(LEFT) + pictures(RIGHT) + truths('/camera/left/ground_truth')
    )
    drive = opened(bag, topics=[RIGHT])
    assert drive.truth is None
    assert 'is not clear' in drive.problems[0]
    assert '--truth' in drive.problems[0]


def test_only_truth_of_a_bag_with_one_camera_is_taken_from_anywhere(tmp_path):
    bag = write(tmp_path / 'bag', pictures() + truths('/labels/ground_truth'))
    assert len(opened(bag).truth) == 10


def test_truth_asked_for_goes_by_namespace_or_by_the_order_of_the_topics(tmp_path):
    a, b = '/labels/a/ground_truth', '/labels/b/ground_truth'
    bag = write(tmp_path / 'bag', pictures(LEFT) + pictures(RIGHT) + truths(a) + truths(b))
    drive = opened(bag, topics=[RIGHT, LEFT], truth_topics=[a, b])
    assert [(c.name, c.truth_topic) for c in drive.cameras] == [('right', a), ('left', b)]
    with pytest.raises(SourceError, match='which camera it is of is not clear'):
        opened(bag, truth_topics=[a, b])
    with pytest.raises(SourceError, match='--truth /labels/c is not there'):
        opened(bag, truth_topics=['/labels/c'])
    with pytest.raises(SourceError, match='is of type sensor_msgs'):
        opened(bag, truth_topics=[LEFT])
    with pytest.raises(SourceError, match='each camera has its own'):
        opened(bag, topics=[RIGHT, LEFT], truth_topics=[a, a])


def test_recorded_detections_are_taken_for_truth_only_when_asked_for(tmp_path):
    topic = '/camera/detections'
    found = [(topic, at(i), truth(at(i), ('blue_cone', 0, 0, 4, 8), score=0.7)) for i in range(10)]
    bag = write(tmp_path / 'bag', pictures() + found)
    drive = opened(bag)
    assert (drive.truth, drive.cameras[0].truth_topic) == (None, None)
    assert drive.problems == (
        f'{topic} is not taken for ground truth, for it has scores between 0 and 1 or classes that '
        f'the model does not know: --truth {topic} takes it',
    )
    assert len(opened(bag, truth_topics=[topic]).truth) == 10


def test_class_in_the_truth_that_the_model_does_not_know_is_named(tmp_path):
    topic = '/camera/ground_truth'
    bag = write(tmp_path / 'bag', [*pictures(), (topic, at(0), truth(at(0), ('cow', 0, 0, 4, 8)))])
    with pytest.raises(SourceError, match="no ground truth for this model.*'cow'"):
        opened(bag, truth_topics=[topic])


def test_pictures_without_a_message_of_truth_are_not_judged(tmp_path):
    bag = write(tmp_path / 'bag', pictures() + truths(indices=range(7)))
    drive = opened(bag)
    assert sorted(stamp for _, stamp in drive.truth) == [at(i) for i in range(7)]
    assert '3 of 10 pictures of camera camera have no ground truth' in drive.problems[0]


def test_truth_that_fits_no_picture_is_refused_when_asked_for(tmp_path):
    bag = write(tmp_path / 'bag', pictures() + truths(indices=[0.5, 1.5]))
    assert opened(bag).truth is None
    with pytest.raises(SourceError, match="its header must be the picture's own"):
        opened(bag, truth_topics=['/camera/ground_truth'])


# --- labels ---


def test_labels_named_by_stamp_belong_to_that_picture(tmp_path):
    bag = write(tmp_path / 'bag', pictures())
    labels = write_labels(
        tmp_path / 'labels', {f'{at(4)}.txt': '2 0.5 0.5 0.25 0.5\n', f'{at(6)}.txt': ''}
    )
    drive = opened(bag, labels=labels)
    assert set(drive.truth) == {('camera', at(4)), ('camera', at(6))}
    cones = drive.truth['camera', at(4)]
    assert cones.xyxy_px.tolist() == [[0.375 * WIDTH, 0.25 * HEIGHT, 0.625 * WIDTH, 0.75 * HEIGHT]]
    assert (cones.class_id.tolist(), cones.score.tolist()) == ([2], [1.0])
    assert len(drive.truth['camera', at(6)]) == 0
    assert '8 of 10 pictures of camera camera have no label file' in drive.problems[0]


def test_labels_with_other_names_belong_to_the_pictures_in_order(tmp_path):
    bag = write(tmp_path / 'bag', pictures(indices=range(3)))
    files = {f'frame_{i:02d}.txt': f'{i} 0.5 0.5 0.5 0.5' for i in range(3)}
    files['._frame_00.txt'] = 'AppleDouble'
    drive = opened(bag, labels=write_labels(tmp_path / 'labels', files))
    assert [drive.truth['camera', at(i)].class_id[0] for i in range(3)] == [0, 1, 2]
    (tmp_path / 'labels' / 'frame_02.txt').unlink()
    with pytest.raises(SourceError, match=r'has 2 label files.*the bag has 3 pictures'):
        opened(bag, labels=tmp_path / 'labels')


@pytest.mark.parametrize(
    ('files', 'why'),
    [
        (
            {'frame_1.txt': '', 'frame_10.txt': '', 'frame_2.txt': ''},
            'frame_10.txt is before frame_2.txt.*Pad',
        ),
        ({f'{at(0)}.txt': '', f'{at(0) + 1}.txt': ''}, 'either by stamp or by order'),
        (
            {'a.txt': '', 'data.yaml': 'names: [a]', 'classes.txt': 'b'},
            'name the classes differently',
        ),
    ],
    ids=['order not clear', 'some are stamps', 'names contradict'],
)
def test_labels_that_can_be_understood_in_two_ways_are_refused(tmp_path, files, why):
    count = sum(name.endswith('.txt') and name != 'classes.txt' for name in files)
    bag = write(tmp_path / 'bag', pictures(indices=range(count)))
    with pytest.raises(SourceError, match=why):
        opened(bag, labels=write_labels(tmp_path / 'labels', files))


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('data.yaml', 'names: [yellow_cone, cow, blue_cone]'),
        ('data.yaml', 'names: {0: yellow_cone, 1: cow, 2: blue_cone}'),
        ('classes.txt', 'yellow_cone\ncow\nblue_cone\n'),
    ],
)
@pytest.mark.parametrize('place', ['labels', '.', '..'])
def test_names_beside_the_labels_say_what_their_numbers_mean(tmp_path, name, text, place):
    bag = write(tmp_path / 'bag', pictures(indices=range(2)))
    labels = tmp_path / 'set' / 'test' / 'labels'
    write_labels(labels, {'a.txt': '0 .5 .5 .5 .5', 'b.txt': '2 .5 .5 .5 .5'})
    where = {'labels': labels, '.': labels.parent, '..': labels.parent.parent}[place]
    (where / name).write_text(text)
    drive = opened(bag, labels=labels)
    assert [drive.truth['camera', at(i)].class_id[0] for i in range(2)] == [2, 0]
    (labels / 'b.txt').write_text('1 .5 .5 .5 .5')
    with pytest.raises(SourceError, match=r'b.txt: the model does not know the class cow'):
        opened(bag, labels=labels)


@pytest.mark.parametrize(
    ('line', 'why'),
    [
        ('0 .5 .5 .5', 'has 4 columns; a box has 5'),
        ('0 .5 .5 .5 .5 .9', 'has 6 columns; a box has 5'),
        ('blue .5 .5 .5 .5', 'is no row of numbers'),
        ('0.5 .5 .5 .5 .5', 'class 0.5 is no whole number'),
        ('3 .5 .5 .5 .5', 'class 3 does not exist: there are 3'),
        ('-1 .5 .5 .5 .5', '-1 is negative'),
        ('0 16 12 8 8', '16 lies outside of the picture'),
        ('0 .5 .5 -1 .5', '-1 is negative'),
        ('0 nan .5 .5 .5', 'nan lies outside of the picture'),
    ],
)
def test_line_that_is_no_label_is_refused_with_file_and_line(tmp_path, line, why):
    bag = write(tmp_path / 'bag', pictures(indices=range(1)))
    labels = write_labels(tmp_path / 'labels', {'a.txt': f'0 .5 .5 .5 .5\n\n{line}\n'})
    with pytest.raises(SourceError, match=f'a.txt, line 3: .*{why}'):
        opened(bag, labels=labels)


def test_labels_are_read_as_those_of_a_data_set(tmp_path):
    bag = write(tmp_path / 'bag', pictures(indices=range(1)))
    rows = '0 .5 .5 .5 .5\n0.0 .5 .5 .5 .5\n2 .2 .2 .1 .1\n2 .2 .2 .1 .1\n'
    labels = write_labels(tmp_path / 'labels', {'a.txt': rows})
    assert opened(bag, labels=labels).truth['camera', at(0)].class_id.tolist() == [0, 2]


def test_labels_of_several_cameras_lie_in_a_folder_of_each(tmp_path):
    bag = write(tmp_path / 'bag', pictures(LEFT, indices=[0]) + pictures(RIGHT, indices=[0]))
    labels = tmp_path / 'labels'
    write_labels(labels / 'left', {'a.txt': '0 .5 .5 .5 .5'})
    with pytest.raises(SourceError, match='has no folder right'):
        opened(bag, labels=labels)
    write_labels(labels / 'right', {'a.txt': '2 .5 .5 .5 .5'})
    truth_of = opened(bag, labels=labels).truth
    assert [truth_of[name, at(0)].class_id[0] for name in ('left', 'right')] == [0, 2]


def test_labels_that_to_dataset_has_named_find_their_pictures_in_one_folder(tmp_path):
    bag = write(tmp_path / 'my drive.v2', pictures(LEFT) + pictures(RIGHT))
    labels = write_labels(
        tmp_path / 'labels',
        {
            'my_drive_left_000003.txt': '0 .5 .5 .5 .5',
            'my_drive_left_000007.txt': '',
            'my_drive_right_000003.txt': '2 .5 .5 .5 .5',
        },
    )
    drive = opened(bag, labels=labels)
    assert {place: cones.class_id.tolist() for place, cones in drive.truth.items()} == {
        ('left', at(3)): [0],
        ('left', at(7)): [],
        ('right', at(3)): [2],
    }
    assert set(opened(bag, topics=[RIGHT], labels=labels / '.').truth) == {('right', at(3))}
    (labels / 'other_left_000004.txt').write_text('')
    with pytest.raises(SourceError, match='other_left_000004.txt is not: of which picture'):
        opened(bag, labels=labels)


def test_labels_and_truth_at_once_are_refused(tmp_path):
    bag = write(tmp_path / 'bag', pictures() + truths())
    labels = write_labels(tmp_path / 'labels', {'a.txt': ''})
    with pytest.raises(SourceError, match='leave one out'):
        opened(bag, labels=labels, truth_topics=['/camera/ground_truth'])
    with pytest.raises(SourceError, match='no folder of labels'):
        opened(bag, labels=tmp_path / 'nothing')
    (labels / 'a.txt').unlink()
    with pytest.raises(SourceError, match='holds no label files'):
        opened(bag, labels=labels)


# --- when each picture is due ---


def due(drive, pace):
    return [
        (drive.cameras[frame.camera].name, frame.index, frame.due_ns / 1e6)
        for frame in due_frames(drive, pace, [])
    ]


def test_bag_pace_keeps_the_gaps_and_rate_divides_them(tmp_path):
    drive = opened(write(tmp_path / 'bag', pictures(indices=[0, 1, 5])))
    assert [ms for _, _, ms in due(drive, Pace())] == [0, 100, 500]
    assert [ms for _, _, ms in due(drive, Pace(rate=2.0))] == [0, 50, 250]


def test_hz_sends_each_camera_evenly_whatever_its_own_rate(tmp_path):
    bag = write(tmp_path / 'bag', pictures(LEFT, range(6)) + pictures(RIGHT, [2, 5]))
    assert due(opened(bag), Pace('hz', hz=50)) == [
        ('left', 0, 0),
        ('right', 0, 0),
        ('left', 1, 20),
        ('right', 1, 20),
        *(('left', index, index * 20) for index in range(2, 6)),
    ]


def test_fast_pace_has_the_order_of_the_bag_and_no_times(tmp_path):
    bag = write(tmp_path / 'bag', pictures(LEFT, [0, 2]) + pictures(RIGHT, [1]))
    assert due(opened(bag), Pace('fast')) == [('left', 0, 0), ('right', 0, 0), ('left', 1, 0)]
