"""`cone-perception demo`: render a drive, play it to the node over DDS, judge the answers."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cone_perception.bags.reader import choose_image_topic, is_bag, open_bag
from cone_perception.errors import SourceError
from cone_perception.model_card import Bundle, read_bundle, shipped_bundle
from cone_perception.replay.demo.figures import Figures, judge
from cone_perception.replay.demo.page import write_page
from cone_perception.replay.demo.pictures import make_pictures
from cone_perception.replay.demo.results import Results, write_results
from cone_perception.replay.drive.open import open_drive
from cone_perception.replay.host import describe_host
from cone_perception.replay.output_folder import claim_folder
from cone_perception.replay.processes import (
    ProcessError,
    ProcessGroup,
    our_node,
    python_module,
    signals_as_interrupt,
)
from cone_perception.replay.through_ros import play_through_ros
from cone_perception.replay.traces import Drive, Pace, Pass

RENDER_TIMEOUT_S = 600.0

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
    claim_folder(args.out, MARK, LEFT_BY_EARLIER_RUNS, args.bag)
    out: Path = args.out
    with signals_as_interrupt():
        if args.bag is None:
            _render(args, out / 'drive', out / 'log')
        drive = _open(args, out / 'drive', bundle)
        print('starting the node, and a monitor of what it puts out', flush=True)
        node = our_node(drive, bundle)
        play = play_through_ros(drive, Pace(), node, out, domain=args.domain, sample_load=False)
    if play.interrupted:
        raise KeyboardInterrupt
    if not play.health:
        raise ProcessError(f'the node sent no diagnostics: see {out / "log" / "node.log"}')
    figures = judge(play.frames, drive.truth, bundle.card)
    print('drawing', flush=True)
    pictures = make_pictures(out, drive, play.frames, bundle.card)
    results = Results(
        figures=figures,
        frames=play.frames,
        truth=drive.truth,
        health=play.health,
        about=_about(args, drive, bundle, play.health),
        card=bundle.card,
        wall_s=time.monotonic() - started,
    )
    write_results(out / 'demo.json', results)
    write_page(out / 'index.html', results, pictures)
    for problem in (*drive.problems, *play.problems):
        print(f'cone-perception demo: {problem}', file=sys.stderr, flush=True)
    _print_summary(out, figures, play, time.monotonic() - started)
    return 1 if play.process_failed or figures.answered == 0 or figures.failed else 0


def _render(args: argparse.Namespace, bag: Path, log: Path) -> None:
    print(f'rendering a drive of {args.seconds:g} s at {args.hz:g} Hz', flush=True)
    options = ['--seconds', f'{args.seconds:g}', '--hz', f'{args.hz:g}', '--seed', str(args.seed)]
    command = python_module('training.cli', 'simulate', 'drive', '--out', str(bag), *options)
    with ProcessGroup(os.environ, log) as team:
        team.start('renderer', command, show=True)
        team.wait('renderer', RENDER_TIMEOUT_S)


def _open(args: argparse.Namespace, rendered: Path, bundle: Bundle) -> Drive:
    """One camera of the bag that is played; its truth only where it was rendered."""
    bag = args.bag or rendered
    with open_bag(bag) as reader:
        topic = choose_image_topic(reader, args.topic)
    drive = open_drive(bag, [topic], class_names=bundle.card.class_names)
    return replace(drive, truth=None) if args.bag else drive


def _about(
    args: argparse.Namespace, drive: Drive, bundle: Bundle, health: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """What one must know to run the same again."""
    node = next((values for values in health.values() if 'engine' in values), {})
    host = describe_host()
    about = {
        'bag': str(drive.bag),
        'bag sha256': drive.sha256,
        'image topic': drive.cameras[0].topic,
        'model': f'{bundle.card.name} ({bundle.folder})',
        'model sha256': node.get('model sha256', ''),
        'engine': node.get('engine', ''),
        'middleware': node.get('middleware', ''),
        'transport profile': node.get('transport profile', ''),
        'processor': f'{host["processor"]}, {host["cores"]} cores',
        'system': f'{host["kernel"]}, Python {host["python"]}',
    }
    if drive.truth is not None:
        about['drive'] = f'{args.seconds:g} s at {args.hz:g} Hz, seed {args.seed}'
    return about


def _print_summary(out: Path, figures: Figures, play: Pass, wall_s: float) -> None:
    print(f'page: {out / "index.html"}   film: {out / "demo.mp4"}   {wall_s:.0f} s altogether')
    if figures.failed:
        reason = [frame.reason for frame in play.frames if frame.fate == 'failed'][-1]
        print(f'last failure: {reason}')
    print(figures.line(), flush=True)
