"""A bag -> the drive that is replayed: its cameras, its ground truth, and what is wrong with it."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from cone_perception.bags.reader import (
    COMPRESSED_IMAGE,
    CONES,
    DETECTIONS,
    IMAGE,
    PICTURES,
    BagMessage,
    bag_types,
    data_files,
    header_stamp_ns,
    image_topics,
    open_bag,
)
from cone_perception.bags.report import inspect_bag
from cone_perception.errors import ImageError, SourceError
from cone_perception.images import camera_info_topic, raw_topic, to_bgr
from cone_perception.replay.drive.labels import read_labels
from cone_perception.replay.drive.truth import (
    PictureStamps,
    PlacesTopic,
    TruthTopic,
    choose_truth,
    places_topic,
)
from cone_perception.replay.traces import Camera, Drive
from cone_perception.types import Detections, Positions


def open_drive(
    bag: Path,
    topics: Sequence[str] = (),
    truth_topics: Sequence[str] = (),
    labels: Path | None = None,
    class_names: Sequence[str] = (),
    stamps: Literal['header', 'recorded'] = 'header',
) -> Drive:
    """Look through the bag at `bag`: which cameras to replay, against which ground truth.

    topics: the cameras, in this order; none takes every image topic. truth_topics: of
    Detection2DArray, one for each of `topics`, or each in the namespace of its camera
    (/camera/left/image_raw, /camera/left/ground_truth); none takes those that cannot be meant
    otherwise, see `choose_truth`. labels: a folder of YOLO labels instead, see `read_labels`.
    class_names: of the model; the truth is told in its indices. stamps: those that the pictures
    are sent with; the truth goes by them.

    The bag is read once: the messages of the cameras, of their camera_info and truth by this
    thread, all bytes of its files, for the hash, by another one beside it, so that the disk is
    asked about once. What is wrong with the bag goes into `problems`.
    Raises SourceError for what cannot be replayed, or is asked for and not there.
    """
    if labels is not None and truth_topics:
        raise SourceError('--truth and --labels are two answers to one question: leave one out.')
    with open_bag(bag) as reader:
        counts = image_topics(reader)
        types: dict[str, str] = {}
        for connection in reader.connections:
            # Of a topic with several types, which the report names, the one of pictures.
            if types.get(connection.topic) not in PICTURES:
                types[connection.topic] = connection.msgtype
    chosen = _choose_topics(bag, types, topics)
    names = camera_names(chosen)
    truths: dict[str, TruthTopic] = {}
    problems: list[str] = []
    if labels is None:
        truths = choose_truth(bag, types, chosen, truth_topics, bool(topics), problems)
    stamps_of: dict[str, list[PictureStamps]] = {names[topic]: [] for topic in chosen}
    times_ns: list[int] = []
    unreadable: list[str] = []
    by_truth = {truth.topic: truth for truth in truths.values()}
    beside = {truth.topic: places_topic(types, truth.topic) for truth in by_truth.values()}
    places_of = {topic: PlacesTopic(topic) for topic in beside.values() if topic}
    total = sum(counts[topic] for topic in chosen)
    bar = tqdm(total=total, desc='reading', unit='picture', disable=None, leave=False)

    def see(message: BagMessage) -> None:
        if message.topic in by_truth and message.type_name == DETECTIONS:
            by_truth[message.topic].take(message, class_names)
        elif message.topic in places_of and message.type_name == CONES:
            places_of[message.topic].take(message)
        elif message.topic in names and message.type_name in PICTURES:
            header_ns = 0
            with contextlib.suppress(SourceError):
                header_ns = header_stamp_ns(message.data)
            seen = stamps_of[names[message.topic]]
            if not seen and message.type_name == IMAGE and (why := _why_unreadable(message)):
                unreadable.append(f'{message.topic}: the first picture: {why}')
            recorded = stamps == 'recorded'
            seen.append(PictureStamps(header_ns, message.time_ns if recorded else header_ns))
            if message.time_ns:  # recorded at time zero says nothing of the duration
                times_ns.append(message.time_ns)
            bar.update()

    infos = {camera_info_topic(topic) for topic in chosen}
    stop = threading.Event()
    with bar, ThreadPoolExecutor(1, 'hash') as pool:
        hashing = pool.submit(bag_sha256, bag, stop)
        try:
            report = inspect_bag(bag, {*chosen, *infos, *by_truth, *places_of}, see)
        except BaseException:
            stop.set()
            raise
        sha256 = hashing.result()
    problems[:0] = [*map(str, report.problems), *unreadable]
    frames = sum(map(len, stamps_of.values()))
    if not frames:
        raise SourceError(f'{bag} has no picture on {", ".join(chosen)}.')
    truth: dict[tuple[str, int], Detections] = {}
    places: dict[tuple[str, int], Positions] = {}
    judged: dict[str, str] = {}
    if labels is not None:
        sizes = {}
        for entry in report.topics:
            if entry.topic not in names:
                continue
            if entry.picture is None:
                raise SourceError(
                    f'camera {names[entry.topic]}: its first picture cannot be read, so the size '
                    'that its labels are fractions of is not known.'
                )
            sizes[names[entry.topic]] = (entry.picture.width_px, entry.picture.height_px)
        truth = read_labels(labels, bag, stamps_of, sizes, class_names, problems)
    for topic, one in truths.items():
        if found := one.match(names[topic], stamps_of[names[topic]], problems):
            judged[topic] = one.topic
            truth |= found
            if there := beside[one.topic]:
                places |= places_of[there].match(names[topic], one)
    problems += [each.problem for each in places_of.values() if each.problem]
    return Drive(
        bag=bag,
        sha256=sha256,
        cameras=tuple(
            Camera(names[topic], topic, types[topic] == COMPRESSED_IMAGE, judged.get(topic))
            for topic in chosen
        ),
        frames=frames,
        duration_s=(max(times_ns) - min(times_ns)) / 1e9 if times_ns else 0.0,
        storage=report.storage,
        truth=truth or None,
        places=places or None,
        problems=tuple(problems),
    )


def camera_names(topics: Sequence[str]) -> dict[str, str]:
    """Topic -> the camera's name: the second-last part of its topic's, where that is unique.

    /camera/left/image_raw is left, and so is /camera/left/image_raw/compressed.
    """
    short = {topic: raw_topic(topic).strip('/').split('/')[-2:][0] for topic in topics}
    counts = Counter(short.values())
    return {
        topic: name if counts[name] == 1 else topic.strip('/').replace('/', '_')
        for topic, name in short.items()
    }


def bag_sha256(bag: Path, stop: threading.Event | None = None) -> str:
    """Hash the bag's data files, one after another by name: `cat BAG/*.mcap | sha256sum`.

    Neither their names nor metadata.yaml count. `stop` ends it early, with an empty answer.
    """
    digest = hashlib.sha256()
    for file in data_files(bag):
        with file.open('rb') as stream:
            while block := stream.read(4 * 2**20):
                if stop is not None and stop.is_set():
                    return ''
                digest.update(block)
    return digest.hexdigest()


def _choose_topics(bag: Path, types: Mapping[str, str], topics: Sequence[str]) -> list[str]:
    """The topics asked for, or all with pictures. Raises SourceError."""
    there = sorted(topic for topic, kind in types.items() if kind in PICTURES)
    listed = ', '.join(there) or 'none'
    for topic in topics:
        if topic not in types:
            raise SourceError(f'{bag} has no topic {topic}; those with pictures: {listed}.')
        if types[topic] not in PICTURES:
            raise SourceError(
                f'{bag}: {topic} is of type {types[topic]}, which is no picture; '
                f'those with pictures: {listed}.'
            )
    chosen = list(dict.fromkeys(topics)) or there
    if not chosen:
        raise SourceError(f'{bag} has no topic of type {IMAGE} or {COMPRESSED_IMAGE}.')
    base: dict[str, str] = {}
    for topic in chosen:
        other = base.setdefault(raw_topic(topic), topic)
        if other != topic:
            raise SourceError(
                f'{bag}: {other} and {topic} are the same pictures in two forms: '
                'choose one of them with --topic.'
            )
    return chosen


def _why_unreadable(message: BagMessage) -> str:
    """Tell why a raw picture cannot be decoded; '' when it can, or is none, as the report tells."""
    try:
        to_bgr(bag_types().deserialize_cdr(message.data, message.type_name))
    except ImageError as error:
        return str(error)
    except Exception:  # no Image at all
        return ''
    return ''
