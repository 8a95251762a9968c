"""rosbag2 folders and files, read and written without ROS, and what their messages say."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from cone_perception.bags.bounded import TooLargeError, bound_libraries, check_database
from cone_perception.bags.cut_off import SQLITE, CutOffReader, is_sqlite
from cone_perception.errors import ImageError, SourceError, describe, told_as
from cone_perception.files import open_ordinary, read_yaml
from cone_perception.images import camera_info_topic
from cone_perception.positions.camera import COEFFICIENTS, CameraInfo
from cone_perception.types import Detections, Frame


def load_camera_info(path: Path) -> CameraInfo:
    """The calibration in a YAML file, as camera_calibration writes it. Raises SourceError."""
    read = read_yaml(path, SourceError)
    with told_as(SourceError, f'{path} is no camera calibration', KeyError, TypeError, ValueError):
        size, model = (read['image_width'], read['image_height']), read['distortion_model']
        if not all(isinstance(side, int) and side > 0 for side in size):
            raise ValueError(f'image_width and image_height must be pixels, not {size}')
        if model not in COEFFICIENTS:
            raise ValueError(f'distortion_model is {model!r}, not one of {list(COEFFICIENTS)}')
        numbers = []
        parts = {'distortion_coefficients': COEFFICIENTS[model], 'camera_matrix': (9,)}
        parts |= {'rectification_matrix': (9,), 'projection_matrix': (12,)}
        for name, lengths in parts.items():
            data = tuple(float(number) for number in read[name]['data'])
            if len(data) not in lengths or not all(map(math.isfinite, data)):
                wanted = ' or '.join(map(str, lengths))
                raise ValueError(f'{name} needs a list `data` of {wanted} finite numbers')
            numbers.append(data)
        info = CameraInfo(*size, model, *numbers)
        if info.k[0] <= 0 or info.k[4] <= 0:
            raise ValueError('camera_matrix has no focal length; the camera is uncalibrated')
    return info


IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
DETECTIONS = 'vision_msgs/msg/Detection2DArray'
CONES = 'vision_msgs/msg/Detection3DArray'
PICTURES = (IMAGE, COMPRESSED_IMAGE)
BAG_FILES = ('.mcap', '.db3')
MCAP = b'\x89MCAP0\r\n'

BagReader = Reader | CutOffReader
"""The reader of a whole bag, or of one that was cut off."""


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One message of a bag.

    time_ns: when it was recorded. data: serialised, as it travels over DDS (CDR).
    """

    topic: str
    type_name: str
    time_ns: int
    data: bytes


@cache
def bag_types() -> Any:
    """The rosbags typestore of ROS 2's own messages and of vision_msgs."""
    store = get_typestore(Stores.LATEST)
    folder = resources.files('cone_perception') / 'interfaces' / 'vision_msgs' / 'msg'
    for file in folder.iterdir():
        if file.name.endswith('.msg'):
            name = f'vision_msgs/msg/{file.name.removesuffix(".msg")}'
            store.register(get_types_from_msg(file.read_text(encoding='utf-8'), name))
    return store


def is_bag(path: Path) -> bool:
    """A rosbag2 folder or one of its files, by name or by content.

    Raises SourceError: for a bag of ROS 1.
    """
    if path.is_dir():
        return (path / 'metadata.yaml').is_file() or file_without_metadata(path) is not None
    if not path.is_file():
        return path.suffix.lower() in BAG_FILES
    with told_as(SourceError, f'{path} cannot be read'), open_ordinary(path) as stream:
        start = stream.read(16)
    if start.startswith(b'#ROSBAG'):
        raise SourceError(
            f'{path} is a bag of ROS 1: convert it with '
            f'`rosbags-convert --src {path} --dst {path.with_suffix("")}`.'
        )
    return path.suffix.lower() in BAG_FILES or start.startswith((MCAP, SQLITE))


def file_without_metadata(path: Path) -> Path | None:
    """The only bag file of a folder without metadata.yaml: it can be read alone. Otherwise None."""
    if not path.is_dir() or (path / 'metadata.yaml').is_file():
        return None
    files = [file for file in path.iterdir() if file.suffix.lower() in BAG_FILES]
    return files[0] if len(files) == 1 else None


def data_files(bag: Path) -> list[Path]:
    """The files that hold a bag's messages, compressed ones too, by name."""
    if not bag.is_dir():
        return [bag]
    kinds = (*BAG_FILES, *(f'{suffix}.zstd' for suffix in BAG_FILES))
    return sorted(file for file in bag.iterdir() if file.name.lower().endswith(kinds))


@contextmanager
def open_bag(path: Path) -> Iterator[BagReader]:
    """A rosbags reader of the bag at `path`: its folder, or a single .mcap or .db3 file.

    A bag that was cut off is read up to there; then `read_messages` says so.
    Raises SourceError when it is missing, no bag, or nothing of it can be read.
    """
    if not path.exists():
        raise SourceError(f'{path} does not exist. Give a bag: its folder, .mcap or .db3 file.')
    file = file_without_metadata(path) or path
    is_bag(file)
    bound_libraries()
    if file.is_dir() and (file / 'metadata.yaml').exists():
        read_yaml(file / 'metadata.yaml', SourceError)  # within limits, before rosbags does it
    with told_as(SourceError, f'{path} cannot be read'):
        databases = [each for each in data_files(file) if is_sqlite(each)]
    for database in databases:
        check_database(database)
    reader: BagReader
    try:
        if any(sign in str(database) for database in databases for sign in '%#?'):
            raise SourceError('rosbags would read another file')
        reader = Reader(file)
        reader.open()
    except Exception as error:  # a damaged bag raises whatever its parser tripped over
        try:
            reader = CutOffReader(file)
        except TooLargeError as large:
            raise SourceError(f'{path}: {large}') from large
        except Exception:
            raise SourceError(
                f'{path} cannot be read as a rosbag2: {describe(error).rstrip(".")}. '
                'Give its folder with metadata.yaml, or a complete .mcap or .db3 file; '
                '`ros2 bag reindex` repairs a recording that was cut off.'
            ) from error
    try:
        yield reader
    finally:
        reader.close()


def read_messages(
    reader: BagReader,
    topics: Iterable[str],
    start_ns: int | None = None,
    stop_ns: int | None = None,
    problems: list[str] | None = None,
) -> Iterator[BagMessage]:
    """Messages of these topics in the order of their times.

    start_ns, stop_ns: only those recorded from the one on, and before the other. problems: gets to
    know why, where the bag is damaged further on; without it SourceError is raised.
    """
    wanted = set(topics)
    connections = [c for c in reader.connections if c.topic in wanted]
    if not connections:
        return
    try:
        for connection, time_ns, data in reader.messages(connections, start_ns, stop_ns):
            # SQLite's columns take any value; a message without bytes is damaged, by itself.
            data = data if isinstance(data, bytes) else b''
            yield BagMessage(connection.topic, connection.msgtype, int(time_ns), data)
    except Exception as error:  # a damaged bag raises whatever its parser tripped over
        text = f'{reader.path} is damaged, the rest of it cannot be read: {describe(error)}'
        if problems is None:
            raise SourceError(text) from error
        problems.append(text)


def picture_message(recorded: BagMessage) -> Any:
    """The Image, CompressedImage or CameraInfo of a bag. Raises ImageError where it is damaged."""
    try:
        return bag_types().deserialize_cdr(recorded.data, recorded.type_name)
    except Exception as error:  # a damaged message raises whatever its parser tripped over
        raise ImageError(f'the message is damaged: {error!r}') from error


def header_stamp_ns(data: bytes) -> int:
    """Stamp of a serialised message whose first field is a std_msgs/Header.

    Four bytes say the byte order (RTPS 2.5, 10.2: odd is little), then follow sec and nanosec.
    Raises SourceError when it is too short for them.
    """
    if len(data) < 12:
        raise SourceError(f'a message of {len(data)} bytes has no header')
    sec, nanosec = struct.unpack_from('<iI' if data[1] & 1 else '>iI', data, 4)
    return int(sec) * 10**9 + int(nanosec)


def detections_of(message: Any, class_names: Sequence[str]) -> Detections:
    """The likeliest class of each detection of a Detection2DArray, whichever library read it.

    Raises ValueError for a class that is not named, and for a detection without any.
    """
    rows = []
    for index, detection in enumerate(message.detections):
        if not detection.results:
            raise ValueError(f'detection {index} of the message has no class')
        best = max(detection.results, key=lambda result: result.hypothesis.score).hypothesis
        if best.class_id not in class_names:
            raise ValueError(
                f'the message has the class {best.class_id!r}; known are {", ".join(class_names)}'
            )
        box = detection.bbox
        x, y, half = box.center.position.x, box.center.position.y, (box.size_x / 2, box.size_y / 2)
        corners = (x - half[0], y - half[1], x + half[0], y + half[1])
        rows.append((*corners, best.score, class_names.index(best.class_id)))
    xyxy_px, score, class_id = np.split(np.array(rows, np.float64).reshape(-1, 6), [4, 5], axis=1)
    return Detections(
        xyxy_px.astype(np.float32), score[:, 0].astype(np.float32), class_id[:, 0].astype(np.int64)
    )


def image_topics(reader: BagReader) -> dict[str, int]:
    """Topic -> number of pictures, of all topics with raw or compressed images."""
    counts: Counter[str] = Counter()
    for connection in reader.connections:
        if connection.msgtype in PICTURES:
            counts[connection.topic] += connection.msgcount
    return counts


def choose_image_topic(reader: BagReader, topic: str | None) -> str:
    """The topic asked for, or the only image topic of the bag.

    Raises SourceError with the list of image topics when that is not one.
    """
    counts = image_topics(reader)
    listed = ', '.join(f'{name} ({count} pictures)' for name, count in sorted(counts.items()))
    if not counts:
        raise SourceError(f'{reader.path} has no topic of type {IMAGE} or {COMPRESSED_IMAGE}.')
    if topic is None:
        if len(counts) > 1:
            raise SourceError(f'{reader.path} has several image topics, choose one: {listed}.')
        return next(iter(counts))
    if topic not in counts:
        raise SourceError(f'{reader.path} has no image topic {topic}; it has {listed}.')
    return topic


def write_image_bag(
    path: Path,
    frames: Iterable[Frame],
    topic: str,
    compressed: bool = False,
    storage: str = 'mcap',
    camera_info: CameraInfo | None = None,
) -> int:
    """Write pictures into a new bag at `path`, recorded at their stamps; returns their number.

    compressed: JPEG in CompressedImage instead of bgr8 in Image. storage: mcap or sqlite3.
    camera_info: goes before each picture, on the topic beside it.
    Raises SourceError at a picture that has another size than camera_info.
    """
    store = bag_types()
    type_name = COMPRESSED_IMAGE if compressed else IMAGE
    count = 0
    with Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        connection = writer.add_connection(topic, type_name, typestore=store)
        if camera_info is not None:
            beside = writer.add_connection(camera_info_topic(topic), CAMERA_INFO, typestore=store)
        for frame in frames:
            if camera_info is not None:
                info = camera_info_message(store, frame, camera_info)
                writer.write(beside, frame.stamp_ns, store.serialize_cdr(info, CAMERA_INFO))
            message = image_message(store, frame, compressed)
            writer.write(connection, frame.stamp_ns, store.serialize_cdr(message, type_name))
            count += 1
    return count


def image_message(store: Any, frame: Frame, compressed: bool, quality: int = 95) -> Any:
    """Make an Image in bgr8, or a CompressedImage: JPEG of this quality."""
    header = message_header(store, frame)
    if compressed:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        encoded = cv2.imencode('.jpg', frame.bgr, options)[1].reshape(-1)
        return store.types[COMPRESSED_IMAGE](header, 'jpeg', encoded)
    size, pixels = (frame.height_px, frame.width_px), np.ascontiguousarray(frame.bgr).reshape(-1)
    return store.types[IMAGE](header, *size, 'bgr8', 0, frame.width_px * 3, pixels)


def camera_info_message(store: Any, frame: Frame, info: CameraInfo) -> Any:
    """Make the CameraInfo of a picture. Raises SourceError when the picture has another size."""
    if (frame.width_px, frame.height_px) != (info.width_px, info.height_px):
        raise SourceError(
            f'{frame.source} has {frame.width_px}x{frame.height_px} pixels, but the camera was '
            f'calibrated on {info.width_px}x{info.height_px}: give the calibration of these '
            'pictures.'
        )
    header, size = message_header(store, frame), (info.height_px, info.width_px)
    arrays = (np.array(numbers, np.float64) for numbers in (info.d, info.k, info.r, info.p))
    region = store.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    return store.types[CAMERA_INFO](header, *size, info.distortion_model, *arrays, 0, 0, region)


def detections_message(
    store: Any,
    frame: Frame,
    cones: Iterable[tuple[str, Sequence[float]]],
    score: float = 1.0,
    ids: Sequence[str] = (),
) -> Any:
    """Make the Detection2DArray of a picture; cones: class, and left, top, right, bottom in px.

    ids: of the cones, in their order; none are empty.
    """
    header, types = message_header(store, frame), store.types
    place = types['geometry_msgs/msg/Point'](0.0, 0.0, 0.0)
    turn = types['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 1.0)
    pose = types['geometry_msgs/msg/Pose'](place, turn)
    nowhere = types['geometry_msgs/msg/PoseWithCovariance'](pose, np.zeros(36))
    detections = []
    cones = list(cones)
    for (name, (left, top, right, bottom)), one in zip(
        cones, ids or [''] * len(cones), strict=True
    ):
        middle = types['vision_msgs/msg/Point2D']((left + right) / 2, (top + bottom) / 2)
        centre = types['vision_msgs/msg/Pose2D'](middle, 0.0)
        box = types['vision_msgs/msg/BoundingBox2D'](centre, right - left, bottom - top)
        guess = types['vision_msgs/msg/ObjectHypothesis'](name, score)
        result = types['vision_msgs/msg/ObjectHypothesisWithPose'](guess, nowhere)
        detections.append(types['vision_msgs/msg/Detection2D'](header, [result], box, one))
    return types[DETECTIONS](header, detections)


def message_header(store: Any, frame: Frame) -> Any:
    """Make the header of all messages about a picture."""
    stamp = store.types['builtin_interfaces/msg/Time'](*divmod(frame.stamp_ns, 10**9))
    return store.types['std_msgs/msg/Header'](stamp, frame.frame_id)
