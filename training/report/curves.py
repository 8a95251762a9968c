"""Sections about the trainings: each stage, and the curves over all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cone_perception.pages.blocks import Block, Chart, Section, Table, Text
from cone_perception.pages.charts import Trace, chart, line, series_colour
from training.judging.page import shown
from training.recipe.recipe import BASELINE
from training.runs.progress import duration
from training.runs.record import MAP50, MAP50_95, CampaignRecord, Training, total


def stages(record: CampaignRecord) -> Iterator[Block]:
    if not record.trainings:
        yield Text('No stage has begun.')
        return
    columns = ['training', 'stage', 'data', 'pictures', 'epochs', 'start', 'best (epoch)']
    yield Table(
        [*columns, 'on own val', 'on target', 'time'],
        [_stage_row(record, training) for training in record.trainings],
        words=[1, 2, 4],
        note='Pictures: crops, where the stage trains on crops. The figures are mAP50, all boxes. '
        "Start: of the weights that the stage started from, on the target's "
        "validation pictures. Best: of best.pt in training, on the stage's own. The last two: of "
        'best.pt, evaluated as the test is.',
    )
    worse = [
        f'{t.run} {t.stage}' for t in record.trainings if t.step.result.get('worse_than_start')
    ]
    if worse:
        yield Text(f'Worse than what they started from, even at their best: {", ".join(worse)}.')


def _stage_row(record: CampaignRecord, training: Training) -> list[str]:
    about = training.step.result
    ended = '' if training.step.status == 'done' else str(training.step.status)
    if stopped := about.get('stopped_by'):
        follows = about.get('goes_on_with')
        ended = f'{stopped}, then {follows}' if follows else str(stopped)
    epochs = f'{len(training.epochs)} / {training.settings.get("epochs", "?")}'
    best = about.get('best_map50')
    evaluated = record.evaluations.get(training.run, {})
    own = evaluated.get(f'{training.stage}_val')
    on_target = own if training.on_target else None
    on_target = evaluated.get(f'{training.stage}_target_val') or on_target
    return [
        training.run,
        training.stage,
        training.data,
        f'{training.pictures:,.0f}' if training.pictures else '',
        ', '.join(filter(None, (epochs, ended))),
        shown(training.start_map50),
        f'{shown(best)} ({about.get("best_epoch")})' if best is not None else '',
        *(shown(found['figures']['map50']) if found else '' for found in (own, on_target)),
        duration(training.step.seconds) if training.step.seconds else '',
    ]


def curves(record: CampaignRecord) -> Iterator[Block]:
    drawn = [training for training in record.trainings if training.epochs]
    if not drawn:
        yield Text('No epoch is finished yet.')
        return
    words, crossings = crossing(record)
    if words:
        yield Text(words)

    for name, caption, columns in (
        ('map50', 'Validation mAP50', MAP50),
        ('map50-95', 'Validation mAP50-95', MAP50_95),
        ('train-loss', 'Training loss, all its parts added,', 'train/'),
        ('val-loss', 'Validation loss, all its parts added,', 'val/'),
        ('learning-rate', 'Learning rate (first parameter group)', 'lr/pg0'),
    ):
        at, log_y = crossings if name == 'map50' else (), name == 'learning-rate'
        yield from curve_chart(f'{name}-by-passes', caption, drawn, columns, log_y=log_y, at=at)
        if not name.endswith('loss'):
            yield from curve_chart(f'{name}-by-epoch', caption, drawn, columns, True, log_y=log_y)
    parts: list[Block] = []
    names = dict.fromkeys(name for training in drawn for name in training.columns)
    for part in [name.removeprefix('train/') for name in names if name.startswith('train/')]:
        for kind, words in (('train', 'Training'), ('val', 'Validation')):
            parts += curve_chart(f'{kind}-{part}', f'{words}: {part}', drawn, f'{kind}/{part}')
    yield Section('Each part of the losses', parts, folded=True)


def curve_chart(
    name: str,
    caption: str,
    drawn: Sequence[Training],
    columns: str,
    by_epoch: bool = False,
    *,
    log_y: bool = False,
    at: Sequence[float] = (),
) -> Iterator[Chart]:
    """A curve per training; nothing where no value is known.

    columns: start of the names of those whose sum it is. A colour per arm, dashed on the
    pre-training set. at: pictures shown where curves cross.
    """
    arms = list(dict.fromkeys(training.arm for training in drawn))
    traces: list[Trace] = []
    for training in drawn:
        ys = np.array(total(training.columns, columns), np.float64)
        if log_y:
            ys[~(ys > 0)] = math.nan
        if len(ys) != len(training.epochs) or not np.isfinite(ys).any():
            continue
        group = training.arm if training.on_target else f'{training.arm}, on the pre-training set'
        groups = {trace['legendgroup'] for trace in traces}
        traces.append(
            line(
                group,
                training.epochs if by_epoch else training.passes_at(),
                ys,
                series_colour(arms.index(training.arm)),
                dash='solid' if training.on_target else 'dash',
                marks=np.isfinite(ys).sum() == 1,
                legendgroup=group,
                showlegend=group not in groups,
                hovertemplate=f'{training.run} {training.stage}, %{{x}}: %{{y:.4g}}<extra></extra>',
            )
        )
    if traces:
        yield chart(
            name,
            traces,
            x='epoch of the stage' if by_epoch else 'pictures shown, all stages',
            caption=f'{caption} by {"epoch" if by_epoch else "pictures shown"}.',
            half=True,
            marks=[(place, 'cross') for place in at],
            y_axis={'type': 'log' if log_y else 'linear'},
            x_axis={'rangemode': 'tozero'},
            legend={'orientation': 'h', 'x': 0, 'y': 1.02, 'yanchor': 'bottom'},
        )


def crossing(record: CampaignRecord) -> tuple[str, list[float]]:
    """Find where the best mAP50 so far of two arms cross: in words, and by pictures shown."""
    candidate, other = record.candidate, BASELINE
    curves = {arm: _best_so_far(record, arm) for arm in (candidate, other)}
    if candidate == other or not all(curves.values()):
        return '', []
    low = max(xs[0] for runs in curves.values() for xs, _ in runs)
    high = min(xs[-1] for runs in curves.values() for xs, _ in runs)
    at = np.unique(np.concatenate([xs for runs in curves.values() for xs, _ in runs]))
    at = at[(at >= low) & (at <= high)]
    if len(at) < 2:
        return (
            f'On the target, {candidate} is validated between {_reach(curves[candidate])} pictures '
            f'shown, {other} between {_reach(curves[other])}: nothing to lay over each other yet.'
        ), []
    mean = {
        arm: np.mean([np.interp(at, xs, ys) for xs, ys in runs], axis=0)
        for arm, runs in curves.items()
    }
    lead = mean[candidate] - mean[other]
    places = [
        float(at[i] + (at[i + 1] - at[i]) * lead[i] / (lead[i] - lead[i + 1]))
        for i in np.flatnonzero((lead[1:] > 0) != (lead[:-1] > 0))
    ]
    leader = candidate if lead[-1] > 0 else other
    measure = 'By the best validation mAP50 so far on the target, mean over the trainings of an arm'
    reach = f'between {at[0]:,.0f} and {at[-1]:,.0f} pictures shown'
    if not places:
        return f'{measure}, {leader} leads everywhere {reach}.', []
    crossed = ', '.join(f'{place:,.0f}' for place in places)
    return (
        f'{measure}, the curves of {candidate} and {other} cross at {crossed} pictures shown, and '
        f'{leader} leads at the end ({reach}).',
        places,
    )


def _reach(runs: Sequence[tuple[Any, Any]]) -> str:
    return f'{min(xs[0] for xs, _ in runs):,.0f} and {max(xs[-1] for xs, _ in runs):,.0f}'


def _best_so_far(record: CampaignRecord, arm: str) -> list[tuple[Any, Any]]:
    """Pictures shown, and the best mAP50 on the target until then, of each run of an arm."""
    found: dict[str, list[tuple[float, float]]] = {}
    for training in record.trainings:
        forgot = training.step.result.get('stopped_by') == 'forgetting'
        if training.arm != arm or not training.on_target or not training.epochs or forgot:
            continue
        points = found.setdefault(training.run, [])
        if training.start_map50 is not None:
            points.append((training.passes, training.start_map50))
        pairs = zip(training.passes_at(), training.columns.get(MAP50, ()), strict=True)
        points += [(x, y) for x, y in pairs if math.isfinite(y)]
    arrays = [np.array(points).T for points in found.values() if points]
    return [(xs, np.maximum.accumulate(ys)) for xs, ys in arrays]
