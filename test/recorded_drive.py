"""Small bags for the tests of the replay: pictures that say which they are, and their truth."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from cone_perception.bags.reader import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    DETECTIONS,
    IMAGE,
    CameraInfo,
    bag_types,
    camera_info_message,
    detections_message,
    image_message,
)
from cone_perception.types import Frame

START_NS = 1_700_000_000 * 10**9
PERIOD_NS = 100_000_000
WIDTH, HEIGHT = 32, 24
LATCHED = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    QosTime(0, 0),
    QosTime(0, 0),
    QosLiveliness.AUTOMATIC,
    QosTime(0, 0),
    False,
)


def at(index: float) -> int:
    return START_NS + round(index * PERIOD_NS)


def frame_at(stamp_ns: int, width: int = WIDTH, height: int = HEIGHT) -> Frame:
    pixels = np.full((height, width, 3), stamp_ns // PERIOD_NS % 256, np.uint8)
    return Frame(pixels, stamp_ns, 'camera')


def serialised(message) -> bytes:
    return bytes(bag_types().serialize_cdr(message, message.__msgtype__))


def image(stamp_ns: int, width: int = WIDTH, height: int = HEIGHT, encoding: str = 'bgr8') -> bytes:
    message = image_message(bag_types(), frame_at(stamp_ns, width, height), compressed=False)
    return serialised(replace(message, encoding=encoding))


def jpeg(stamp_ns: int) -> bytes:
    return serialised(image_message(bag_types(), frame_at(stamp_ns), compressed=True))


def camera_info(stamp_ns: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    matrices = ((0.0,) * 5, tuple(np.eye(3).flat), tuple(np.eye(3).flat), tuple(np.eye(3, 4).flat))
    info = CameraInfo(width, height, 'plumb_bob', *matrices)
    return serialised(camera_info_message(bag_types(), frame_at(stamp_ns, width, height), info))


def truth(stamp_ns: int, *cones: tuple[str, float, float, float, float], score: float = 1.0):
    """cones: (class, left, top, right, bottom) in pixels."""
    boxes = [(name, tuple(map(float, box))) for name, *box in cones]
    return serialised(detections_message(bag_types(), frame_at(stamp_ns), boxes, score))


def pictures(topic: str = '/camera/image', indices=range(10)) -> list[tuple[str, int, bytes]]:
    return [(topic, at(index), image(at(index))) for index in indices]


def truths(topic: str = '/camera/ground_truth', indices=range(10)) -> list[tuple[str, int, bytes]]:
    cone = ('blue_cone', 2, 4, 10, 20)
    return [(topic, at(index), truth(at(index), cone)) for index in indices]


def write(
    path: Path,
    messages: list[tuple[str, int, bytes]],
    types: dict[str, str] | None = None,
    storage: str = 'mcap',
    compression: str = 'NONE',
    latched: Collection[str] = (),
) -> Path:
    """A bag of (topic, recorded, message), sorted by time.

    The type goes by the topic's last part, or `types`: topic -> type; one that stands only there
    has no message.
    latched: topics whose last message stays valid for whoever comes later.
    """
    usual = {'compressed': COMPRESSED_IMAGE, 'camera_info': CAMERA_INFO}
    usual |= {'ground_truth': DETECTIONS, 'detections': DETECTIONS}
    writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(CompressionMode[compression], CompressionFormat.ZSTD)
    with writer:
        connections = {
            topic: writer.add_connection(
                topic,
                (types or {}).get(topic) or usual.get(topic.rpartition('/')[2], IMAGE),
                typestore=bag_types(),
                offered_qos_profiles=[LATCHED] if topic in latched else [],
            )
            for topic in dict.fromkeys([*(types or {}), *(topic for topic, _, _ in messages)])
        }
        for topic, time_ns, data in sorted(messages, key=lambda message: message[1]):
            writer.write(connections[topic], time_ns, data)
    return path


def data_file(bag: Path) -> Path:
    """The file of a bag that holds its messages."""
    return next(file for file in bag.iterdir() if file.name != 'metadata.yaml')


def cut_off(bag: Path, share: float) -> Path:
    """Leave only this share of the bag's file."""
    file = data_file(bag)
    file.write_bytes(file.read_bytes()[: round(file.stat().st_size * share)])
    return bag


def damage(bag: Path, index: int) -> None:
    """Spoil a message of a bag whose messages are compressed: no zstd from there on."""
    data = bytearray(data_file(bag).read_bytes())
    starts = [i for i in range(len(data)) if data.startswith(b'\x28\xb5\x2f\xfd', i)]
    data[starts[index]] = 0
    data_file(bag).write_bytes(data)
