"""`cone-perception replay BAG`: measures latency, dropped frames and accuracy of a drive."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from cone_perception.answering.ration import ration_views
from cone_perception.detect import open_detector
from cone_perception.engines.events import print_warning
from cone_perception.errors import InstallError, SettingsError
from cone_perception.files import claim_folder
from cone_perception.filters import Filters
from cone_perception.model_card import Bundle, read_bundle
from cone_perception.process import on_sigterm
from cone_perception.replay.drive.open import open_drive
from cone_perception.replay.figures.accuracy import Answers, reference_answers
from cone_perception.replay.figures.budget import load_budget, over_budget
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.many.run import run_many
from cone_perception.replay.options import add_arguments as add_arguments
from cone_perception.replay.options import (
    command_words,
    read_settings,
    settings_for,
    words_for_each_bag,
)
from cone_perception.replay.output_folder import REPLAY_FILES, REPLAY_MARK
from cone_perception.replay.pages.pictures import write_film
from cone_perception.replay.pages.report import write_report
from cone_perception.replay.processes import NodeCommand, echo_node, our_node, parameters_of
from cone_perception.replay.run import Play, Replay
from cone_perception.replay.through_pipeline import play_through_pipeline
from cone_perception.replay.through_ros import play_through_ros
from cone_perception.replay.traces import LOST, Drive, FrameTrace, Pace, Pass
from cone_perception.settings import DetectorSettings
from cone_perception.types import Views


def run(args: argparse.Namespace) -> int:
    """Replay one bag or several: 0 when frames were answered and the budget is kept."""
    settings = read_settings(args)
    _check_way(args, settings)
    if len(args.bags) > 1 or args.ray:
        options = words_for_each_bag(args)
        return run_many(args.bags, options, args.out, args.jobs, args.ray, args.ray_cpus)
    bag: Path = args.bags[0]
    bundle = read_bundle(settings.model)
    settings.filters.check_classes(bundle.card)
    reference = None
    if args.reference:
        views = bundle.card.chosen_views(settings.views)
        reference = partial(ask_reference, read_bundle(args.reference), views)
    budget = load_budget(args.budget) if args.budget else None
    topics = args.topic or (settings.image_topics if args.params_file else ())
    names = bundle.card.class_names
    drive = open_drive(bag, topics, args.truth, args.labels, names, args.stamps)
    settings = settings_for(drive, settings)
    for problem in drive.problems:
        print_warning(problem)
    claim_folder(args.out, REPLAY_MARK, REPLAY_FILES, bag)
    with on_sigterm(), open_way(args, drive, bundle, settings) as (play, echo):
        replay = Replay(
            args, drive, bundle, settings, play, echo, reference and partial(reference, drive)
        )
        result = replay.run()
    print('drawing', flush=True)
    reasons = over_budget(result, budget) if budget else []
    page = write_report(args.out, result, bag, reasons if budget else None)
    if args.film and any(result.passes):
        write_film(args.out / 'annotated.mp4', result, bag)
    print(f'page: {page}   result: {args.out / "result.json"}')
    for reason in reasons:
        print(f'over budget: {reason}', file=sys.stderr)
    if 'recall_sent' in result.figures:
        print('precision, recall, map50: all boxes')
    print(summary_line(result), flush=True)
    if result.interrupted:
        return 130
    answered = bool(result.figures['frames_answered'].value)
    failed = any(each.process_failed for each in replay.passes)
    return 0 if answered and not reasons and not failed else 1


def ask_reference(
    bundle: Bundle, views: Views, drive: Drive, answered: Sequence[FrameTrace]
) -> Answers:
    """Let another model answer the drive in the same views, on the bands of these answers."""
    with open_detector(bundle, DetectorSettings(views=views)) as detector:
        return reference_answers(drive, detector, Filters(), answered)


@contextlib.contextmanager
def open_way(
    args: argparse.Namespace, drive: Drive, bundle: Bundle, settings: DetectorSettings
) -> Iterator[tuple[Play, Play | None]]:
    """Open the way that was asked for, ready to play, and through ROS one with a node that echoes.

    Through ROS player, node and monitor are processes of their own, with a folder per pass.
    Raises SettingsError.
    """
    if args.through == 'pipeline':
        with open_detector(bundle, settings) as detector:
            settings, ration = ration_views(detector, settings)
            if ration:
                print(ration, flush=True)
            yield partial(play_through_pipeline, drive, detector=detector, settings=settings), None
        return
    if args.node_command:
        topics, cameras = args.detections, drive.cameras
        if len(topics) != len(cameras):
            raise SettingsError(
                f'--node-command needs --detections for each camera: {len(cameras)} '
                f'({", ".join(camera.topic for camera in cameras)}), got {len(topics)}'
            )
        told = {camera.name: topic for camera, topic in zip(cameras, topics, strict=True)}
        command = command_words(args, 'node_command')
        node = NodeCommand(command, told, bundle.card.class_names)
    else:
        node = our_node(drive, bundle, parameters_of(settings))

    def play(node: NodeCommand, name: str, pace: Pace) -> Pass:
        folder: Path = args.out / name / str(len(list((args.out / name).glob('*'))))
        return play_through_ros(drive, pace, node, folder, domain=args.domain, stamps=args.stamps)

    node = node.started_by(*command_words(args, 'launch_prefix'))
    yield partial(play, node, 'passes'), partial(play, echo_node(drive), 'overhead')


def summary_line(result: ReplayResult) -> str:
    """Make the last line, to be read by programs."""
    lost = ' '.join(
        f'{fate}={sum(frame.fate == fate for frames in result.passes for frame in frames)}'
        for fate in LOST
    )
    text = 'replay: frames={frames_sent:.0f} answered={frames_answered:.0f} {lost} '
    if 'recall_sent' in result.figures:
        text += 'precision={precision_sent:.3f} recall={recall_sent:.3f} map50={map50_sent:.3f} '
    if 'max_rate_hz' in result.figures:
        text += 'max_rate_hz={max_rate_hz:.0f} '
    text += 'p50_ms={latency_p50_ms:.1f} p99_ms={latency_p99_ms:.1f}'
    known = {name: figure.value for name, figure in result.figures.items()}
    return text.format_map(defaultdict(lambda: math.nan, known, lost=lost))


def _check_way(args: argparse.Namespace, settings: DetectorSettings) -> None:
    """Raise SettingsError or InstallError for what cannot be done."""
    if settings.side_by_side:
        raise SettingsError(
            'side_by_side: a replay follows one camera per topic. Split the pictures, or replay '
            'another bag.'
        )
    if args.through == 'ros':
        if importlib.util.find_spec('rclpy') is None:
            raise InstallError(
                'rclpy is not installed, so nothing can be sent through ROS. Source ROS 2, or '
                "pip install 'cone_perception[ros]'; --through pipeline needs none."
            )
    elif args.node_command or args.launch_prefix or args.stamps == 'recorded':
        raise SettingsError(
            '--node-command, --launch-prefix and --stamps recorded belong to --through ros'
        )
    command_words(args, 'node_command')
    command_words(args, 'launch_prefix')
    if bool(args.node_command) != bool(args.detections):
        raise SettingsError('--node-command and --detections belong together')
