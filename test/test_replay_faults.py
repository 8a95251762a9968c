"""Bags that are damaged or recorded wrongly: an error, or a sentence, that names what is wrong."""

from __future__ import annotations

import hashlib

import mcap.writer
import numpy as np
import pytest
import yaml
from recorded_drive import (
    PERIOD_NS,
    at,
    camera_info,
    cut_off,
    damage,
    data_file,
    image,
    pictures,
    serialised,
    truths,
    write,
)
from rosbags.rosbag2 import StoragePlugin, Writer

from cone_perception.bags.reader import (
    CAMERA_INFO,
    IMAGE,
    bag_types,
    header_stamp_ns,
    image_message,
    is_bag,
    open_bag,
    read_messages,
)
from cone_perception.bags.report import inspect_bag
from cone_perception.errors import SourceError
from cone_perception.replay.drive.frames import due_frames
from cone_perception.replay.drive.open import open_drive
from cone_perception.replay.traces import Pace
from cone_perception.types import Frame

TOPIC = '/camera/image'
LEFT, RIGHT = '/camera/left/image', '/camera/right/image'
CLASS_NAMES = ('blue_cone', 'yellow_cone')


def opened(bag, **options):
    return open_drive(bag, class_names=CLASS_NAMES, **options)


def sentence(drive, *parts, kind=None):
    """The only problem of the drive holds all of these; `bag info` tells it, as of this kind."""
    (problem,) = drive.problems
    for part in parts:
        assert part in problem, problem
    if kind is not None:
        (found,) = inspect_bag(drive.bag).problems
        assert (found.kind, str(found)) == (kind, problem)


def kinds(bag):
    return [(problem.topic, problem.kind) for problem in inspect_bag(bag).problems]


def noise(index):
    """A picture that does not shrink when it is compressed, as a camera's."""
    rng = np.random.default_rng(index)
    frame = Frame(rng.integers(0, 256, (240, 320, 3), np.uint8), at(index), 'camera')
    return serialised(image_message(bag_types(), frame, compressed=False))


def noisy(count=30):
    return [(TOPIC, at(index), noise(index)) for index in range(count)]


# --- cut off ---


@pytest.mark.parametrize(
    ('storage', 'compression', 'metadata'),
    [
        ('mcap', 'NONE', True),
        ('mcap', 'NONE', False),
        ('mcap', 'MESSAGE', True),
        ('mcap', 'STORAGE', True),
        ('mcap', 'STORAGE', False),
        ('sqlite3', 'NONE', True),
        ('sqlite3', 'NONE', False),
        ('sqlite3', 'MESSAGE', True),
    ],
)
def test_bag_cut_off_in_the_middle_is_replayed_up_to_there_and_says_so(
    tmp_path, storage, compression, metadata
):
    bag = cut_off(write(tmp_path / 'bag', noisy(), None, storage, compression), 0.6)
    if not metadata:
        (bag / 'metadata.yaml').unlink()
    drive = opened(bag)
    # Whole chunks, which hold up to five of these pictures, are what is left.
    assert 12 <= drive.frames <= 18
    assert drive.duration_s == pytest.approx((drive.frames - 1) / 10)
    damage = [text for text in drive.problems if 'cut off' in text]
    assert len(damage) == 1
    assert str(bag) in damage[0]
    for pace in (Pace(), Pace('hz', hz=10)):
        problems = []
        frames = list(due_frames(drive, pace, problems))
        assert [frame.message.data for frame in frames] == [noise(i) for i in range(drive.frames)]
        assert problems == damage


def test_mcap_that_was_written_without_chunks_is_read_up_to_the_cut(tmp_path):
    # As rosbag2's preset `fastwrite` writes it.
    file = tmp_path / 'flat.mcap'
    writer = mcap.writer.Writer(str(file), use_chunking=False)
    writer.start('ros2')
    schema = writer.register_schema(
        IMAGE, 'ros2msg', bag_types().generate_msgdef(IMAGE)[0].encode()
    )
    channel = writer.register_channel(TOPIC, 'cdr', schema)
    for _, time_ns, data in noisy(10):
        writer.add_message(channel, time_ns, data, time_ns)
    writer.finish()
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 6 // 10])
    drive = opened(file)
    assert drive.frames in (5, 6)
    sentence(drive, 'flat.mcap is cut off')


def split(path, *parts):
    """A bag in several files, as a recorder that splits by size leaves it."""
    bags = [write(path.with_name(f'{path.name}_{i}'), part) for i, part in enumerate(parts)]
    path.mkdir()
    infos = []
    for bag in bags:
        data_file(bag).rename(path / f'{bag.name}.mcap')
        text = (bag / 'metadata.yaml').read_text()
        infos.append(yaml.safe_load(text)['rosbag2_bagfile_information'])
    whole, count = infos[0], sum(info['message_count'] for info in infos)
    whole['relative_file_paths'] = [f'{bag.name}.mcap' for bag in bags]
    whole['message_count'] = whole['topics_with_message_count'][0]['message_count'] = count
    whole['duration']['nanoseconds'] = parts[-1][-1][1] - parts[0][0][1]
    text = yaml.safe_dump({'rosbag2_bagfile_information': whole})
    (path / 'metadata.yaml').write_text(text)
    return path


def test_bag_of_several_files_is_one_drive(tmp_path):
    bag = split(tmp_path / 'bag', noisy(20)[:10], noisy(20)[10:])
    drive = opened(bag)
    assert (drive.frames, drive.problems) == (20, ())
    assert drive.duration_s == pytest.approx(1.9)
    content = b''.join((bag / f'bag_{i}.mcap').read_bytes() for i in range(2))
    assert drive.sha256 == hashlib.sha256(content).hexdigest()
    assert [frame.index for frame in due_frames(drive, Pace(), [])] == list(range(20))


@pytest.mark.parametrize('which', [0, 1])
def test_file_of_a_split_bag_that_is_cut_off_leaves_the_other_whole(tmp_path, which):
    bag = split(tmp_path / 'bag', noisy(20)[:10], noisy(20)[10:])
    file = bag / f'bag_{which}.mcap'
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    drive = opened(bag)
    assert 13 <= drive.frames < 20
    assert f'bag_{which}.mcap is cut off' in ' '.join(drive.problems)
    problems = []
    assert len(list(due_frames(drive, Pace(), problems))) == drive.frames


def test_bag_of_which_nothing_is_left_is_refused_with_a_way_out(tmp_path):
    bag = cut_off(write(tmp_path / 'bag', noisy(3)), 0.01)
    with pytest.raises(SourceError, match='cannot be read as a rosbag2.*reindex'):
        opened(bag)
    data_file(bag).write_bytes(b'')
    with pytest.raises(SourceError, match='cannot be read as a rosbag2'):
        opened(bag)


def test_bag_damaged_further_on_is_replayed_up_to_there(tmp_path):
    bag = write(tmp_path / 'bag', noisy(20), compression='MESSAGE')
    damage(bag, 12)
    drive = opened(bag)
    assert drive.frames == 12
    sentence(drive, 'is damaged, the rest of it cannot be read')


def test_reading_a_cut_bag_on_raises_where_nobody_asks_for_less(tmp_path):
    bag = cut_off(write(tmp_path / 'bag', noisy()), 0.6)
    with open_bag(bag) as reader:
        messages = read_messages(reader, [TOPIC])
        for _ in range(12):
            next(messages)
        with pytest.raises(SourceError, match='cut off after'):
            list(messages)
        problems = []
        assert len(list(read_messages(reader, [TOPIC], problems=problems))) >= 12
        assert len(problems) == 1


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_messages_written_out_of_order_come_by_their_times(tmp_path, storage):
    order = [index * 7 % 20 for index in range(20)]  # so that chunks overlap
    plugin = StoragePlugin[storage.upper()]
    with Writer(tmp_path / 'bag', version=9, storage_plugin=plugin) as writer:
        connection = writer.add_connection(TOPIC, IMAGE, typestore=bag_types())
        for index in order:
            writer.write(connection, at(index), noise(index))
    with open_bag(cut_off(tmp_path / 'bag', 0.8)) as reader:
        left = [at(index) for index in order[: reader.message_count]]
        found = list(read_messages(reader, [TOPIC], problems=[]))
        part = list(read_messages(reader, [TOPIC], at(5), at(11), problems=[]))
    assert 10 <= len(left) < 20
    assert [message.time_ns for message in found] == sorted(left)
    assert all(header_stamp_ns(message.data) == message.time_ns for message in found)
    assert part == [message for message in found if at(5) <= message.time_ns < at(11)]


# --- metadata ---


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_missing_metadata_is_named_and_the_file_replayed(tmp_path, storage):
    bag = write(tmp_path / 'bag', pictures(), storage=storage)
    (bag / 'metadata.yaml').unlink()
    assert is_bag(bag)
    drive = opened(bag)
    sentence(drive, 'metadata.yaml is missing', 'ros2 bag reindex', kind='metadata')
    report = inspect_bag(bag)
    assert (report.complete, report.count) == (True, 10)
    assert len(list(due_frames(drive, Pace(), []))) == 10


def test_missing_metadata_of_several_files_is_refused_with_a_way_out(tmp_path):
    bag = write(tmp_path / 'bag', pictures())
    (bag / 'metadata.yaml').unlink()
    (bag / 'bag_1.mcap').write_bytes(data_file(bag).read_bytes())
    with pytest.raises(SourceError, match='reindex'):
        opened(bag)


def test_metadata_of_another_file_is_named(tmp_path):
    bag = write(tmp_path / 'bag', pictures())
    metadata = bag / 'metadata.yaml'
    metadata.write_text(metadata.read_text().replace('message_count: 10', 'message_count: 25'))
    text = f'{TOPIC}: 25 messages are announced, but 10 are there'
    sentence(opened(bag), text, kind='count')


def test_compressed_messages_of_which_no_metadata_tells_are_named(tmp_path):
    bag = write(tmp_path / 'bag', pictures(), compression='MESSAGE')
    (bag / 'metadata.yaml').unlink()
    assert any('compressed (zstd); no metadata.yaml says so' in p for p in opened(bag).problems)


# --- stamps ---


def stamped(*stamps):
    return [(TOPIC, at(index), image(stamp)) for index, stamp in enumerate(stamps)]


def test_unsorted_stamps_are_named_and_the_order_of_recording_is_kept(tmp_path):
    drive = opened(write(tmp_path / 'bag', stamped(at(0), at(2), at(1), at(3))))
    text = f'{TOPIC}: 1 of 4 stamps are earlier than the one before, by up to 0.100 s'
    sentence(drive, text, kind='unsorted')
    assert [frame.due_ns for frame in due_frames(drive, Pace(), [])] == [
        index * PERIOD_NS for index in range(4)
    ]


@pytest.mark.parametrize(
    ('stamps', 'text', 'kind'),
    [
        ((at(0), 0, 0, at(3)), '2 of 4 stamps are zero', 'zero stamp'),
        ((at(0), at(1), at(1), at(3)), '1 of 4 stamps are those of another picture', 'equal stamp'),
    ],
    ids=['zero', 'equal'],
)
def test_stamps_of_zero_or_of_another_are_named_and_not_judged(tmp_path, stamps, text, kind):
    drive = opened(write(tmp_path / 'bag', stamped(*stamps) + truths(indices=range(4))))
    named, unjudged = drive.problems
    assert f'{TOPIC}: {text}' in named
    assert kinds(drive.bag) == [(TOPIC, kind)]
    assert '2 of 4 pictures of camera camera have no ground truth of their own' in unjudged
    assert sorted(stamp for _, stamp in drive.truth) == [at(0), at(3)]


def test_truth_that_says_two_things_of_one_picture_is_not_believed(tmp_path):
    drive = opened(write(tmp_path / 'bag', [*pictures(), *truths(), *truths(indices=[4])]))
    assert ('camera', at(4)) not in drive.truth
    sentence(drive, '1 of 10 pictures')


def test_labels_by_order_leave_equal_stamps_out(tmp_path):
    bag = write(tmp_path / 'bag', stamped(at(0), at(1), at(1), at(3)))
    labels = tmp_path / 'labels'
    labels.mkdir()
    for index in range(4):
        (labels / f'{index}.txt').write_text('0 .5 .5 .5 .5')
    drive = opened(bag, labels=labels)
    assert sorted(stamp for _, stamp in drive.truth) == [at(0), at(3)]
    all_zero = write(tmp_path / 'zero', stamped(0, 0, 0, 0))
    with pytest.raises(SourceError, match='equal stamps .--stamps recorded'):
        opened(all_zero, labels=labels)
    recorded = opened(all_zero, labels=labels, stamps='recorded')
    assert sorted(stamp for _, stamp in recorded.truth) == [at(index) for index in range(4)]


def test_truth_goes_by_the_stamps_that_are_sent(tmp_path):
    messages = [*stamped(at(10), at(11), 0, at(13)), *truths(indices=[10, 11, 12, 13])]
    drive = opened(write(tmp_path / 'bag', messages), stamps='recorded')
    assert sorted(stamp for _, stamp in drive.truth) == [at(0), at(1), at(3)]


def test_recorded_at_time_zero_is_named_and_waits_for_nothing(tmp_path):
    messages = [(TOPIC, 0 if index < 2 else at(index), image(at(index))) for index in range(5)]
    drive = opened(write(tmp_path / 'bag', messages))
    assert any('2 messages were recorded at time zero' in text for text in drive.problems)
    assert drive.duration_s == pytest.approx(0.2)
    assert [frame.due_ns for frame in due_frames(drive, Pace(), [])] == [
        0,
        0,
        0,
        PERIOD_NS,
        2 * PERIOD_NS,
    ]


def test_bag_that_was_recorded_in_one_moment_has_no_pace_of_its_own(tmp_path):
    drive = opened(write(tmp_path / 'bag', [(TOPIC, 0, image(at(i))) for i in range(3)]))
    with pytest.raises(SourceError, match='recorded at one moment.*--hz'):
        next(due_frames(drive, Pace(), []))
    assert len(list(due_frames(drive, Pace('hz', hz=20), []))) == 3


# --- types and contents ---


def test_topic_with_a_camera_s_name_and_another_type_is_named(tmp_path):
    info = [('/front/image_raw', at(i), camera_info(at(i))) for i in range(10)]
    bag = write(tmp_path / 'bag', [*pictures(), *info], {'/front/image_raw': CAMERA_INFO})
    drive = opened(bag)
    assert [camera.topic for camera in drive.cameras] == [TOPIC]
    sentence(drive, '/front/image_raw', f'is of type {CAMERA_INFO}', IMAGE)
    with pytest.raises(SourceError, match=f'/front/image_raw is of type {CAMERA_INFO}'):
        opened(bag, topics=['/front/image_raw'])


def test_messages_of_another_type_than_the_topic_s_are_named(tmp_path):
    drive = opened(write(tmp_path / 'bag', [(TOPIC, at(i), b'\0\1\0\0\7') for i in range(3)]))
    first, headless = drive.problems
    assert f'{TOPIC}: the first message is no {IMAGE}' in first
    assert f'{TOPIC}: 3 messages are too short' in headless


def test_pictures_that_nobody_can_decode_are_named(tmp_path):
    depth = [(TOPIC, at(i), image(at(i), encoding='32FC1')) for i in range(3)]
    sentence(opened(write(tmp_path / 'bag', depth)), TOPIC, 'the first picture', "'32FC1'")


def test_picture_with_less_data_than_its_rows_is_named(tmp_path):
    message = bag_types().deserialize_cdr(image(at(0)), IMAGE)
    message.height = 100
    drive = opened(write(tmp_path / 'bag', [(TOPIC, at(0), serialised(message))]))
    assert kinds(drive.bag) == [(TOPIC, 'picture')]
    assert all(text.startswith(f'{TOPIC}: the first') for text in drive.problems)
    assert any('rows need' in text for text in drive.problems)


@pytest.mark.parametrize('count', [8, 2])
def test_camera_that_stops_before_the_other_is_named(tmp_path, count):
    messages = pictures(LEFT, range(20)) + pictures(RIGHT, range(count))
    drive = opened(write(tmp_path / 'bag', messages))
    text = f'{RIGHT}: stops {(20 - count) / 10:.3f} s before another camera'
    sentence(drive, text, kind='stopped')
    assert [camera.name for camera in drive.cameras] == ['left', 'right']
    assert drive.frames == 20 + count


def test_camera_without_a_picture_is_named_and_a_bag_without_one_refused(tmp_path):
    bag = write(tmp_path / 'bag', [*pictures(LEFT), (RIGHT, at(0), image(at(0)))])
    assert any(text.startswith(RIGHT) for text in opened(bag).problems)
    write(tmp_path / 'empty', [], {TOPIC: IMAGE})
    with pytest.raises(SourceError, match=f'has no picture on {TOPIC}'):
        opened(tmp_path / 'empty')
    assert kinds(tmp_path / 'empty') == [(TOPIC, 'empty')]


def test_camera_info_of_another_size_is_named(tmp_path):
    messages = [('/camera/camera_info', at(0), camera_info(at(0), 64, 48)), *pictures()]
    drive = opened(write(tmp_path / 'bag', messages))
    sentence(drive, f'{TOPIC}: ', '32x24', '64x48', kind='camera_info')


def test_faults_of_topics_that_are_not_replayed_are_left_out(tmp_path):
    gaps = pictures(RIGHT, [0, 1, 2, 9])
    bag = write(tmp_path / 'bag', pictures(LEFT) + gaps)
    assert len(opened(bag).problems) == 1
    assert opened(bag, topics=[LEFT]).problems == ()


def test_damaged_message_of_truth_is_named(tmp_path):
    messages = [*pictures(), ('/camera/ground_truth', at(0), truths()[0][2][:30])]
    with pytest.raises(SourceError, match='/camera/ground_truth: a message is no vision_msgs'):
        opened(write(tmp_path / 'bag', messages))
