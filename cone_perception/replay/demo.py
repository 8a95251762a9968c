"""`cone-perception demo`: render a drive, play it to the node over DDS, judge the answers."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from cone_perception.arguments import add_fields, option
from cone_perception.bags.reader import choose_image_topic, is_bag, open_bag
from cone_perception.engines.machine import describe_host
from cone_perception.errors import SourceError
from cone_perception.files import claim_folder, write_whole
from cone_perception.model_card import Bundle, read_bundle
from cone_perception.pages.page import write_page
from cone_perception.pictures.draw import encode_picture
from cone_perception.process import on_sigterm
from cone_perception.replay.drive.open import open_drive
from cone_perception.replay.figures.result import ReplayResult, write_result
from cone_perception.replay.options import settings_for
from cone_perception.replay.pages.pictures import draw_frames, tile, write_film
from cone_perception.replay.pages.report import report_page
from cone_perception.replay.processes import (
    ProcessError,
    ProcessGroup,
    our_node,
    parameters_of,
    python_module,
)
from cone_perception.replay.run import join_result, measure
from cone_perception.replay.through_ros import play_through_ros
from cone_perception.replay.traces import Drive, Pace, Pass
from cone_perception.settings import DetectorSettings

RIG = DetectorSettings(
    cameras=('left', 'right'), stereo=True, mount_height_m=0.95, mount_pitch_deg=4.0
)
"""The rendered drive is of two eyes that stand so on their car: training/simulate/zed2i.yaml."""

RENDERED = ('seconds', 'hz', 'seed')
"""Options that say what is rendered."""

SHEET_PICTURES, SHEET_COLUMNS, SHEET_WIDTH_PX, SHEET_GAP_PX = 9, 3, 640, 8

MARK = '.cone_perception_demo'
"""A file that says that a folder is the demo's: only in such a one is anything replaced."""

LEFT_BY_EARLIER_RUNS = (
    *('drive', 'answers', 'log', 'sent.jsonl', 'received.jsonl'),
    *('demo.mp4', 'contact_sheet.png', 'index.html', 'demo.json'),
)


@dataclass(frozen=True)
class DemoOptions:
    """The drive of the demo, and the model that finds its cones."""

    out: Path = option(Path('demo_output'), 'folder for the results (demo_output)')
    bag: Path | None = option(
        None, 'your own rosbag2 instead of a rendered drive; it is not judged'
    )
    topic: str | None = option(None, 'image topic of --bag; needed where it has several')
    model: Path | None = option(None, 'bundle folder; without it the shipped model')
    seconds: float = option(10.0, 'length of the rendered drive (10)')
    hz: float = option(15.0, 'its pictures per second (15)')
    seed: int = option(3, 'of its track, weather and light (3)')
    domain: int | None = option(
        None, 'ROS_DOMAIN_ID; without it one of its own, so that nobody else is disturbed'
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_fields(parser, DemoOptions)


def run(args: argparse.Namespace) -> int:
    """Run the demo: 0 when pictures were answered and none failed."""
    started = time.monotonic()
    bundle = read_bundle(args.model)
    for network in bundle.card.networks:
        bundle.checked_path(network)
    if args.bag is not None and not is_bag(args.bag):
        raise SourceError(f'{args.bag} is no rosbag2: give its folder, or a .mcap or .db3 file.')
    if args.bag is None and args.topic is not None:
        raise SourceError('--topic belongs to --bag: of the rendered drive both eyes are taken.')
    claim_folder(args.out, MARK, LEFT_BY_EARLIER_RUNS, args.bag)
    out: Path = args.out
    with on_sigterm():
        if args.bag is None:
            print(f'rendering a drive of {args.seconds:g} s at {args.hz:g} Hz', flush=True)
            options = [f'--{name}={getattr(args, name)}' for name in RENDERED]
            words = ['simulate', 'drive', '--stereo', '--out', str(out / 'drive'), *options]
            with ProcessGroup(os.environ, out / 'log') as team:
                team.start('renderer', python_module('training.cli', *words), show=True)
                team.wait('renderer', timeout_s=600.0)
        bag = args.bag or out / 'drive'
        topics, settings = [], RIG
        if args.bag:
            settings = DetectorSettings()
            with open_bag(bag) as reader:
                topics = [choose_image_topic(reader, args.topic)]
        drive = open_drive(bag, topics, class_names=bundle.card.class_names)
        settings = settings_for(drive, settings)
        if args.bag:  # only what was rendered is judged
            drive = replace(drive, truth=None, places=None)
        print('starting the node, and a monitor of what it puts out', flush=True)
        node = our_node(drive, bundle, parameters_of(settings))
        play = play_through_ros(drive, Pace(), node, out, domain=args.domain, sample_load=False)
    if play.interrupted:
        raise KeyboardInterrupt
    if not play.health:
        raise ProcessError(f'the node sent no diagnostics: see {out / "log" / "node.log"}')
    result = demo_result(args, drive, bundle, settings, play)
    print('drawing', flush=True)
    write_results(out, result, drive.bag)
    for problem in result.problems:
        print(f'cone-perception demo: {problem}', file=sys.stderr, flush=True)
    wall_s = time.monotonic() - started
    print(f'page: {out / "index.html"}   film: {out / "demo.mp4"}   {wall_s:.0f} s altogether')
    failed = [frame.reason for frame in play.frames if frame.fate == 'failed']
    if failed:
        print(f'last failure: {failed[-1]}')
    if result.truth is not None:
        print('precision, recall: all boxes')
    print(last_line(result), flush=True)
    answered = any(frame.fate == 'answered' for frame in play.frames)
    return 0 if answered and not failed and not play.process_failed else 1


def demo_result(
    args: argparse.Namespace,
    drive: Drive,
    bundle: Bundle,
    settings: DetectorSettings,
    play: Pass,
) -> ReplayResult:
    """Result of the only pass, as `cone-perception replay` would tell it; args: the demo's."""
    figures = measure([play], drive, bundle, settings)
    configuration = {
        'arguments': [str(drive.bag)],
        'through': 'ros',
        'pace': {'kind': 'bag', 'rate': 1.0},
        'settings': asdict(settings),
        'started': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'rendered': {} if args.bag else {name: getattr(args, name) for name in RENDERED},
    }
    result = join_result(configuration, drive, bundle, describe_host(), [play], figures)
    return replace(result, model={**result.model, 'folder': str(bundle.folder)})


def last_line(result: ReplayResult) -> str:
    """The demo's last line, to be read by programs."""
    text = 'demo: frames={frames_sent:.0f} answered={frames_answered:.0f} failed={failed} '
    if result.truth is not None:
        text += 'precision={precision_sent:.2f} recall={recall_sent:.2f} '
    text += 'p50_ms={latency_p50_ms:.1f} p99_ms={latency_p99_ms:.1f}'
    if result.truth is not None:
        text += f' depth_p90_10m={result.figure("depth_p90_m 10 m").value:.2f}'
    failed = sum(frame.fate == 'failed' for frame in result.passes[0])
    values = {name: figure.value for name, figure in result.figures.items()}
    return text.format_map(values | {'failed': failed})


def write_results(out: Path, result: ReplayResult, bag: Path) -> None:
    """Write demo.json, demo.mp4, contact_sheet.png and index.html. Raises OutputError."""
    write_result(out / 'demo.json', result)
    frames = [frame for frame in result.passes[0] if frame.wanted]
    write_film(out / 'demo.mp4', result, bag)
    shown = np.linspace(0, len(frames) - 1, min(SHEET_PICTURES, len(frames))).round()
    chosen = [frames[int(at)] for at in np.unique(shown)]
    drawn = draw_frames(result, bag, chosen, SHEET_WIDTH_PX, [])
    pictures = [picture for _, picture in drawn if not isinstance(picture, str)]
    if pictures:
        sheet = tile(pictures, SHEET_COLUMNS, pictures[0].shape[:2], SHEET_GAP_PX, 255)
        write_whole(out / 'contact_sheet.png', encode_picture('.png', sheet))
    files = {
        'demo.json': 'all of this as data',
        'demo.mp4': 'the drive as a film',
        'contact_sheet.png': 'the drive at a glance',
    }
    page = report_page(result, bag, files=files)
    write_page(out / 'index.html', replace(page, title='A drive through the detector'))
