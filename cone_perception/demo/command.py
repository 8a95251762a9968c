"""`cone-perception demo`: render a drive, play it to the node over DDS, judge the answers."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cone_perception.bags import COMPRESSED_IMAGE, DETECTIONS, choose_image_topic, is_bag, open_bag
from cone_perception.demo.page import write_page
from cone_perception.demo.pictures import make_pictures
from cone_perception.replay.processes import ProcessError, ProcessGroup, python_module
from cone_perception.demo.recording import (
    Exchange,
    Figures,
    judge,
    read_detections,
    read_exchanges,
    read_health,
    read_stations,
    truth_topic,
)
from cone_perception.demo.results import Results, write_results
from cone_perception.errors import OutputError, SourceError
from cone_perception.model_card import Bundle, file_sha256, read_bundle, shipped_bundle

CAMERA = 'camera'
DETECTIONS_TOPIC = f'/{CAMERA}/detections'
DIAGNOSTICS_TOPIC = '/diagnostics'
TIMING_TOPIC = '/detector/timing'
DIAGNOSTICS = 'diagnostic_msgs/msg/DiagnosticArray'

NODE_REFUSES = 'not configured: '
"""What the node logs when it stays alive without a model."""

RENDER_TIMEOUT_S = 600.0
READY_TIMEOUT_S = 60.0
LAST_ANSWERS_S = 1.5
"""After the last picture: for its answer, and for diagnostics (1 Hz) that count it."""

HASHED_UP_TO_BYTES = 2 * 2**30

MARK = '.cone_perception_demo'
"""A file that says that a folder is the demo's: only in such a one is anything replaced."""

LEFT_BY_EARLIER_RUNS = (
    *('drive', 'answers', 'log', 'sent.jsonl', 'received.jsonl'),
    *('demo.mp4', 'contact_sheet.png', 'index.html', 'demo.json'),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        '--out', type=Path, default=Path('demo_output'), help='folder for the results'
    )
    parser.add_argument(
        '--bag', type=Path, help='your own rosbag2 instead of a rendered drive; it is not judged'
    )
    parser.add_argument('--topic', help='image topic of --bag; needed where it has several')
    parser.add_argument('--model', type=Path, help='bundle folder; without it the shipped model')
    parser.add_argument('--seconds', type=float, default=10.0, help='length of the rendered drive')
    parser.add_argument('--hz', type=float, default=15.0, help='its pictures per second')
    parser.add_argument('--seed', type=int, default=3, help='of its track, weather and light')
    parser.add_argument(
        '--domain',
        type=int,
        help='ROS_DOMAIN_ID; without it one of its own, so that nobody else is disturbed',
    )


@dataclass(frozen=True, slots=True)
class Drive:
    """What is played. judged: whether its ground truth is known."""

    bag: Path
    topic: str
    compressed: bool
    judged: bool


def run(args: argparse.Namespace) -> int:
    """Run the demo: 0 when pictures were answered and none failed."""
    started = time.monotonic()
    bundle = read_bundle(args.model or shipped_bundle())
    for network in bundle.card.networks:
        bundle.checked_path(network)
    if args.bag is not None and not is_bag(args.bag):
        raise SourceError(f'{args.bag} is no rosbag2: give its folder, or a .mcap or .db3 file.')
    if args.bag is None and args.topic is not None:
        raise SourceError('--topic belongs to --bag: the rendered drive has one camera only.')
    out = _empty_folder(args.out, args.bag)
    with _signals_as_interrupt(), ProcessGroup(_environment(args.domain, out), out / 'log') as team:
        drive = _own_drive(args) if args.bag else _render(args, team, out)
        problem = _play(drive, bundle, team, out)
    exchanges = _read_answers(drive, bundle, out)
    health = read_health(out / 'answers', DIAGNOSTICS_TOPIC)
    camera_health = health.get(f'detector: {CAMERA}')
    if camera_health is None:
        raise ProcessError(f'the node sent no {DIAGNOSTICS_TOPIC}: see {out / "log" / "node.log"}')
    figures = judge(exchanges, int(camera_health['failed']), bundle.card)
    print('drawing', flush=True)
    pictures = make_pictures(out, drive.bag, drive.topic, exchanges, bundle.card)
    results = Results(
        figures=figures,
        exchanges=exchanges,
        health=health,
        about=_about(args, drive, bundle, health),
        card=bundle.card,
        wall_s=time.monotonic() - started,
    )
    write_results(out / 'demo.json', results)
    write_page(out / 'index.html', results, pictures)
    if problem:
        print(f'cone-perception demo: {problem}', file=sys.stderr, flush=True)
    _print_summary(out, figures, camera_health, time.monotonic() - started)
    return 1 if problem or figures.answered == 0 or figures.failed else 0


def _empty_folder(out: Path, bag: Path | None) -> Path:
    """The folder for the results, without what an earlier demo left in it.

    Raises OutputError when it holds the bag to be played, or anything that is not the demo's.
    """
    if bag is not None and out.resolve() in (bag.resolve(), *bag.resolve().parents):
        raise OutputError(f'{out} holds the bag {bag}: give another --out.')
    try:
        if out.exists() and not (out / MARK).exists() and any(out.iterdir()):
            raise OutputError(f'{out} holds other files: give a new or an empty folder as --out.')
        for name in LEFT_BY_EARLIER_RUNS:
            if (out / name).is_dir():
                shutil.rmtree(out / name)
            else:
                (out / name).unlink(missing_ok=True)
        (out / 'log').mkdir(parents=True)
        (out / MARK).touch()
    except OSError as error:
        raise OutputError(f'{out} cannot be written: {error}. Give another --out.') from error
    return out


def _environment(domain: int | None, out: Path) -> dict[str, str]:
    """For the processes: nothing leaves this machine, and no other ROS on it is disturbed."""
    # Domains 1 to 101 keep clear of Linux's ephemeral ports.
    private = 1 + os.getpid() % 101
    # Humble knows only the older variable, which newer distributions warn of.
    humble = {'ROS_LOCALHOST_ONLY': '1'} if os.environ.get('ROS_DISTRO') == 'humble' else {}
    return (
        os.environ
        | humble
        | {
            'ROS_DOMAIN_ID': str(private if domain is None else domain),
            'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
            'ROS_LOG_DIR': str((out / 'log' / 'ros').resolve()),
            'PYTHONUNBUFFERED': '1',
        }
    )


def _own_drive(args: argparse.Namespace) -> Drive:
    with open_bag(args.bag) as reader:
        topic = choose_image_topic(reader, args.topic)
        types = {c.msgtype for c in reader.connections if c.topic == topic}
    return Drive(args.bag, topic, COMPRESSED_IMAGE in types, judged=False)


def _render(args: argparse.Namespace, team: ProcessGroup, out: Path) -> Drive:
    print(f'rendering a drive of {args.seconds:g} s at {args.hz:g} Hz', flush=True)
    options = ['--seconds', f'{args.seconds:g}', '--hz', f'{args.hz:g}', '--seed', str(args.seed)]
    bag = out / 'drive'
    command = python_module('training.simulate', 'drive', '--out', str(bag), *options)
    team.start('renderer', command, show=True)
    team.wait('renderer', RENDER_TIMEOUT_S)
    with open_bag(bag) as reader:
        return Drive(bag, choose_image_topic(reader, None), compressed=False, judged=True)


def _play(drive: Drive, bundle: Bundle, team: ProcessGroup, out: Path) -> str:
    """Play the drive to the node, and record what it says.

    Returns what went wrong when the node was ended: its answers are good all the same.
    """
    with open_bag(drive.bag) as reader:
        duration_s = reader.duration / 1e9
    print('starting the node, and a monitor of what it puts out', flush=True)
    settings = {
        'model': str(bundle.folder.resolve()),
        'cameras': f"['{CAMERA}']",
        'image_topics': f"['{drive.topic}']",
        'transport': 'compressed' if drive.compressed else 'raw',
    }
    parameters = [part for name, value in settings.items() for part in ('-p', f'{name}:={value}')]
    node = python_module('cone_perception.cli', 'node', '--ros-args', *parameters)
    topics = {
        DETECTIONS_TOPIC: DETECTIONS,
        DIAGNOSTICS_TOPIC: DIAGNOSTICS,
        TIMING_TOPIC: DIAGNOSTICS,
    }
    watched = [part for name, kind in topics.items() for part in ('--topic', f'{name}={kind}')]
    received = ['--log', str(out / 'received.jsonl')]
    sent = ['--log', str(out / 'sent.jsonl')]
    team.start('node', node)
    team.start(
        'monitor',
        python_module('cone_perception.ros.monitor', str(out / 'answers'), *watched, *received),
    )
    team.wait_for_text('monitor', 'ready', READY_TIMEOUT_S, {'node': NODE_REFUSES})
    player = [str(drive.bag), '--topic', drive.topic, *sent]
    team.start('player', python_module('cone_perception.ros.player', *player), show=True)
    team.wait('player', 2 * duration_s + READY_TIMEOUT_S)
    time.sleep(LAST_ANSWERS_S)
    team.stop('monitor')
    try:
        team.stop('node')
    except ProcessError as error:
        return str(error)
    return ''


def _read_answers(drive: Drive, bundle: Bundle, out: Path) -> list[Exchange]:
    names = bundle.card.class_names
    truth = truth_topic(drive.bag) if drive.judged else None
    return read_exchanges(
        out / 'sent.jsonl',
        out / 'received.jsonl',
        read_detections(out / 'answers', DETECTIONS_TOPIC, names),
        read_detections(drive.bag, truth, names) if truth else None,
        read_stations(out / 'answers', TIMING_TOPIC),
        DETECTIONS_TOPIC,
    )


@contextlib.contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: its processes first."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _about(
    args: argparse.Namespace, drive: Drive, bundle: Bundle, health: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """What one must know to run the same again."""
    node = health.get('detector: node', {})
    about = {
        'bag': str(drive.bag),
        'bag sha256': _bag_sha256(drive.bag),
        'image topic': drive.topic,
        'model': f'{bundle.card.name} ({bundle.folder})',
        'model sha256': node.get('model sha256', ''),
        'engine': node.get('engine', ''),
        'middleware': node.get('middleware', ''),
        'transport profile': node.get('transport profile', ''),
        'processor': f'{_processor()}, {os.cpu_count()} cores',
        'system': f'{platform.system()} {platform.release()}, Python {platform.python_version()}',
    }
    if drive.judged:
        about['drive'] = f'{args.seconds:g} s at {args.hz:g} Hz, seed {args.seed}'
    return about


def _bag_sha256(bag: Path) -> str:
    """Of the bag's data; empty where that is in several files, or takes too long to read."""
    files = [f for f in bag.iterdir() if f.name != 'metadata.yaml'] if bag.is_dir() else [bag]
    if len(files) != 1 or files[0].stat().st_size > HASHED_UP_TO_BYTES:
        return ''
    return file_sha256(files[0])


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.machine()


def _print_summary(
    out: Path, figures: Figures, camera_health: Mapping[str, str], wall_s: float
) -> None:
    print(f'page: {out / "index.html"}   film: {out / "demo.mp4"}   {wall_s:.0f} s altogether')
    if figures.failed:
        print(f'last failure: {camera_health.get("last failure", "")}')
    print(figures.line(), flush=True)
