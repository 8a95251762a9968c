"""Pictures, videos and bags as sources of frames."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from image_messages import write_video
from recorded_drive import cut_off, data_file, serialised, write

from cone_perception.bags.reader import (
    COMPRESSED_IMAGE,
    IMAGE,
    bag_types,
    image_message,
    write_image_bag,
)
from cone_perception.errors import SourceError
from cone_perception.pictures.sources import Unreadable, open_source
from cone_perception.types import Frame

TOPIC = '/camera/image'


def frames(count=4, height=48, width=64):
    """Smooth pictures that tell their index by their brightness, 15 a second."""
    return [
        Frame(
            np.full((height, width, 3), 20 * (index + 1), np.uint8),
            stamp_ns=1_700_000_000_000_000_000 + index * 66_666_667,
            frame_id='camera_left',
        )
        for index in range(count)
    ]


def messages(count=4):
    """The same pictures as messages of a bag."""
    return [
        (TOPIC, frame.stamp_ns, serialised(image_message(bag_types(), frame, compressed=False)))
        for frame in frames(count)
    ]


def brightness(frame):
    return round(float(frame.bgr.mean()))


def write_picture(path, value=80, height=48, width=64):
    cv2.imwrite(str(path), np.full((height, width, 3), value, np.uint8))
    return path


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.bmp', '.tif', '.webp'])
def test_one_picture_is_a_source(tmp_path, suffix):
    source = open_source(write_picture(tmp_path / f'cone{suffix}'))
    (frame,) = source.frames
    assert (source.kind, source.count) == ('pictures', 1)
    assert frame.source == f'cone{suffix}'
    assert frame.bgr.shape == (48, 64, 3)
    assert abs(brightness(frame) - 80) <= 2


def test_grey_picture_with_alpha_or_16_bits_becomes_bgr(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((10, 12), 70, np.uint8))
    cv2.imwrite(str(tmp_path / 'b.png'), np.full((10, 12, 4), 70, np.uint8))
    cv2.imwrite(str(tmp_path / 'c.png'), np.full((10, 12), 70 * 257, np.uint16))
    for frame in open_source(tmp_path).frames:
        assert frame.bgr.shape == (10, 12, 3), frame.source
        assert brightness(frame) == 70, frame.source


def test_folder_gives_its_pictures_in_order_of_their_names(tmp_path):
    for name in ('b.png', 'a.jpg', 'c.PNG'):
        write_picture(tmp_path / name)
    (tmp_path / 'labels.txt').write_text('0 0.5 0.5 0.1 0.1')
    source = open_source(tmp_path)
    assert source.count == 3
    assert [frame.source for frame in source.frames] == ['a.jpg', 'b.png', 'c.PNG']


def test_what_a_mac_writes_beside_its_pictures_is_passed_over(tmp_path):
    write_picture(tmp_path / 'cone.jpg')
    (tmp_path / '._cone.jpg').write_bytes(b'\0\5\x16\7')
    source = open_source(tmp_path)
    assert source.count == 1
    assert [frame.source for frame in source.frames] == ['cone.jpg']


def test_picture_that_cannot_be_read_is_named_and_the_next_one_follows(tmp_path):
    write_picture(tmp_path / 'a.png')
    (tmp_path / 'b.png').write_bytes(b'not a picture')
    (tmp_path / 'c.jpg').write_bytes(b'')
    write_picture(tmp_path / 'd.png')
    good, broken, empty, last = open_source(tmp_path).frames
    assert (good.source, last.source) == ('a.png', 'd.png')
    assert isinstance(broken, Unreadable)
    assert isinstance(empty, Unreadable)
    assert (broken.source, empty.source) == ('b.png', 'c.jpg')
    assert broken.reason
    assert empty.reason


def test_jpeg_that_was_cut_off_is_not_taken_for_a_whole_one(tmp_path):
    rng = np.random.default_rng(0)
    whole = cv2.imencode('.jpg', rng.integers(0, 255, (96, 96, 3), np.uint8))[1].tobytes()
    (tmp_path / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
    (picture,) = open_source(tmp_path).frames
    assert isinstance(picture, Unreadable)


def jpeg_with_thumbnail():
    """A picture of noise whose EXIF-like segment holds a whole small JPEG."""
    rng = np.random.default_rng(0)
    whole = cv2.imencode('.jpg', rng.integers(0, 255, (96, 96, 3), np.uint8))[1].tobytes()
    small = cv2.imencode('.jpg', np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    segment = b'\xff\xe2' + (len(small) + 2).to_bytes(2, 'big') + small
    return whole[:2] + segment + whole[2:]


def test_end_of_a_thumbnail_is_not_taken_for_the_end_of_the_picture(tmp_path):
    whole = jpeg_with_thumbnail()
    (tmp_path / 'a_whole.jpg').write_bytes(whole)
    (tmp_path / 'b_cut.jpg').write_bytes(whole[: len(whole) * 2 // 3])
    good, cut = open_source(tmp_path).frames
    assert isinstance(good, Frame)
    assert isinstance(cut, Unreadable)
    assert 'Premature end' in cut.reason


def test_what_a_phone_appends_to_a_jpeg_is_ignored(tmp_path):
    (tmp_path / 'photo.jpg').write_bytes(jpeg_with_thumbnail() + bytes(range(256)) * 4)
    (frame,) = open_source(tmp_path).frames
    assert frame.bgr.shape == (96, 96, 3)


def test_photo_is_turned_upright_as_its_exif_says(tmp_path):
    plain = cv2.imencode('.jpg', np.zeros((40, 60, 3), np.uint8))[1].tobytes()
    # One entry: tag 0x112, orientation, a short with the value 6: turn by a quarter clockwise.
    entry = b'\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00'
    body = b'Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00' + entry + b'\x00\x00\x00\x00'
    segment = b'\xff\xe1' + (len(body) + 2).to_bytes(2, 'big') + body
    (tmp_path / 'photo.jpg').write_bytes(plain[:2] + segment + plain[2:])
    (frame,) = open_source(tmp_path).frames
    assert (frame.width_px, frame.height_px) == (40, 60)


@pytest.mark.parametrize(
    'name,topic,message',
    [
        ('inner', None, 'holds no pictures'),
        ('nowhere.mp4', None, r'nowhere\.mp4 does not exist'),
        ('notes.txt', None, 'neither as a picture'),
        ('cone.png', TOPIC, 'no topic /camera/image'),
    ],
)
def test_what_is_no_source_is_refused_by_name(tmp_path, name, topic, message):
    (tmp_path / 'inner').mkdir()
    (tmp_path / 'notes.txt').write_text('hello')
    write_picture(tmp_path / 'cone.png')
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / name, topic)


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / 'drive.mp4', (frame.bgr for frame in frames(6)))


def test_video_gives_each_frame_with_its_time(video):
    source = open_source(video)
    found = list(source.frames)
    assert (source.kind, source.count, source.rate_hz) == ('video', 6, 20.0)
    assert [round(frame.stamp_ns / 1e6) for frame in found] == [0, 50, 100, 150, 200, 250]
    assert all(abs(brightness(frame) - 20 * (index + 1)) < 6 for index, frame in enumerate(found))
    assert {frame.source for frame in found} == {'drive.mp4'}


def test_video_without_its_end_is_refused(video):
    video.write_bytes(video.read_bytes()[:-200])
    with pytest.raises(SourceError, match=r'drive\.mp4'):
        open_source(video)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('compressed', [False, True])
def test_bag_gives_each_image_with_stamp_and_frame_id(tmp_path, storage, compressed):
    write_image_bag(tmp_path / 'bag', frames(), TOPIC, compressed, storage)
    source = open_source(tmp_path / 'bag')
    found = list(source.frames)
    assert (source.kind, source.count) == ('bag', 4)
    assert source.rate_hz == pytest.approx(15, abs=0.1)
    assert [frame.stamp_ns for frame in found] == [frame.stamp_ns for frame in frames()]
    assert {(frame.frame_id, frame.source) for frame in found} == {('camera_left', TOPIC)}
    assert [brightness(frame) for frame in found] == pytest.approx([20, 40, 60, 80], abs=2)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_single_file_of_a_bag_is_a_source(tmp_path, storage):
    file = data_file(write(tmp_path / 'bag', messages(), storage=storage))
    assert len(list(open_source(file).frames)) == 4


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('name', ['drive.{}', 'DRIVE.{}', 'drive'])
def test_file_of_a_bag_is_known_by_its_content_and_in_any_letter_case(tmp_path, storage, name):
    file = data_file(write(tmp_path / 'bag', messages(), storage=storage))
    suffix = file.suffix[1:]
    file = file.rename(tmp_path / name.format(suffix.upper() if name.isupper() else suffix))
    assert open_source(file).kind == 'bag'
    assert [brightness(frame) for frame in open_source(file).frames] == [20, 40, 60, 80]


def test_bag_of_ros_1_is_no_video_but_refused_with_a_way_out(tmp_path):
    jpeg = cv2.imencode('.jpg', np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
    (tmp_path / 'drive.bag').write_bytes(b'#ROSBAG V2.0\n' + jpeg * 20)
    with pytest.raises(SourceError, match='bag of ROS 1: convert it with `rosbags-convert'):
        open_source(tmp_path / 'drive.bag')
    (tmp_path / 'drive.raw').write_bytes(jpeg * 20)
    with pytest.raises(SourceError, match='nor as a video'):
        open_source(tmp_path / 'drive.raw')


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('mode', ['FILE', 'MESSAGE'])
def test_compressed_bag_is_a_source(tmp_path, storage, mode):
    bag = write(tmp_path / 'bag', messages(), storage=storage, compression=mode)
    found = list(open_source(bag).frames)
    assert [brightness(frame) for frame in found] == [20, 40, 60, 80]


TWO_TOPICS = {
    '/left/image': IMAGE,
    '/right/image/compressed': COMPRESSED_IMAGE,
    '/points': 'sensor_msgs/msg/PointCloud2',
}


def test_bag_with_several_image_topics_lists_them(tmp_path):
    bag = write(tmp_path / 'bag', [], TWO_TOPICS)
    with pytest.raises(SourceError, match='/left/image .*, /right/image/compressed'):
        open_source(bag)
    assert open_source(bag, '/left/image').count == 0


def test_topic_that_the_bag_lacks_is_refused_with_those_it_has(tmp_path):
    bag = write(tmp_path / 'bag', [], TWO_TOPICS)
    with pytest.raises(SourceError, match='no image topic /points; it has /left/image'):
        open_source(bag, '/points')


def test_bag_without_images_is_refused(tmp_path):
    bag = write(tmp_path / 'bag', [], {'/points': TWO_TOPICS['/points']})
    with pytest.raises(SourceError, match='no topic of type sensor_msgs/msg/Image'):
        open_source(bag)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_bag_that_was_cut_off_is_refused_by_name(tmp_path, storage):
    bag = cut_off(write(tmp_path / 'bag', messages(), storage=storage), 0.5)
    with pytest.raises(SourceError, match='bag'):
        list(open_source(bag).frames)


def test_broken_message_in_a_bag_is_named_and_the_next_one_follows(tmp_path):
    first, (topic, time_ns, data), last = messages(3)
    bag = write(tmp_path / 'bag', [first, (topic, time_ns, data[:100]), last])
    good, broken, next_one = open_source(bag).frames
    assert isinstance(broken, Unreadable)
    assert broken.source == f'{TOPIC} message 1'
    assert (brightness(good), brightness(next_one)) == (20, 60)
