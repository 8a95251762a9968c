"""The demo's play as a replay's result, and its last line."""

from __future__ import annotations

import argparse
import math
from datetime import datetime, timezone

from cone_perception.engines.machine import describe_host
from cone_perception.model_card import Bundle
from cone_perception.replay.describe import describe_bag, describe_model
from cone_perception.replay.figures.accuracy import accuracy_figures, consistency_figures
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.figures.statistics import pass_figures
from cone_perception.replay.traces import Drive, Pass


def demo_result(args: argparse.Namespace, drive: Drive, bundle: Bundle, play: Pass) -> ReplayResult:
    """Result of the only pass, as `cone-perception replay` would tell it; args: the demo's."""
    card = bundle.card
    figures = {**pass_figures([play]), **consistency_figures([play], card.class_names)}
    if drive.truth is not None:
        figures |= accuracy_figures([play], drive.truth, card.class_names, card.thresholds)
    rendered = {} if args.bag else {name: getattr(args, name) for name in ('seconds', 'hz', 'seed')}
    return ReplayResult(
        configuration={
            'arguments': [str(drive.bag)],
            'through': 'ros',
            'pace': {'kind': 'bag', 'rate': 1.0},
            'started': datetime.now(timezone.utc).isoformat(timespec='seconds'),
            'rendered': rendered,
        },
        bag=describe_bag(drive),
        model={**describe_model(bundle, play.health), 'folder': str(bundle.folder)},
        host=describe_host(),
        figures=figures,
        per_pass=[figures],
        passes=[play.frames],
        load=[()],
        truth=drive.truth,
        problems=list(dict.fromkeys((*drive.problems, *play.problems))),
        health=play.health,
    )


def last_line(result: ReplayResult) -> str:
    """The demo's last line, to be read by programs."""

    def number(name: str, digits: int) -> str:
        figure = result.figures.get(name)
        return f'{math.nan if figure is None else figure.value:.{digits}f}'

    judged = ''
    if result.truth is not None:
        judged = f'precision={number("precision_sent", 2)} recall={number("recall_sent", 2)} '
    failed = sum(frame.fate == 'failed' for frame in result.passes[0])
    return (
        f'demo: frames={number("frames_sent", 0)} answered={number("frames_answered", 0)} '
        f'failed={failed} {judged}'
        f'p50_ms={number("latency_p50_ms", 1)} p99_ms={number("latency_p99_ms", 1)}'
    )
