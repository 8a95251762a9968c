"""A replay in a few sentences and figures: the top of its page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from cone_perception.pages.blocks import Banner, Block, Tile, Tiles, Tone
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.pages.charts import FATE_NAMES, STATION_NAMES
from cone_perception.replay.pages.figure_text import (
    UNKNOWN,
    figure_text,
    interval_text,
    value_text,
)
from cone_perception.replay.traces import FATES, STATIONS, Fate, FrameTrace

MANY_LOST_SHARE = 0.01

TILES = (
    ('latency_p50_ms', 'latency, median'),
    ('latency_p99_ms', 'latency, 99th percentile'),
    ('rate_out_hz', 'answers per second'),
    ('max_rate_hz', 'highest rate per camera'),
    ('recall_sent', 'of the cones found, all frames'),
    ('precision_sent', 'of what was found is right'),
)


def all_frames(result: ReplayResult) -> list[FrameTrace]:
    """Frames of all passes."""
    return list(chain.from_iterable(result.passes))


def count_fates(frames: Iterable[FrameTrace]) -> Counter[Fate]:
    """Number of frames by fate."""
    return Counter(frame.fate for frame in frames)


def count_reasons(frames: Iterable[FrameTrace]) -> Counter[str]:
    """Number of failed frames by reason."""
    return Counter(frame.reason for frame in frames if frame.fate == 'failed' and frame.reason)


def bag_name(result: ReplayResult) -> str:
    """Last part of the bag's path."""
    return Path(str(result.bag.get('path') or result.bag.get('bag') or 'a bag')).name


def subtitle(result: ReplayResult) -> str:
    """Cameras, passes, pace, way, model and time in one line."""
    configuration, model = result.configuration, result.model
    through = configuration.get('through')
    way = {
        'ros': 'sent over DDS by one process, searched for cones by a second, recorded by a third',
        'pipeline': 'through the detector without ROS',
    }.get(str(through), str(through or ''))
    cameras = list(dict.fromkeys(frame.camera for frame in all_frames(result)))
    parts = [
        f'{len(cameras)} cameras ({", ".join(cameras)})' if len(cameras) > 1 else '',
        f'{len(result.passes)} passes' if len(result.passes) > 1 else '',
        _pace(configuration.get('pace')),
        way,
        f'model {model["name"]}' if model.get('name') else '',
        str(configuration.get('started', '')).replace('T', ' ').replace('+00:00', ' UTC'),
    ]
    return '; '.join(part for part in parts if part) + '.'


def banners(result: ReplayResult, over_budget: Sequence[str] | None) -> list[Block]:
    """Messages that must be seen first. over_budget: reasons; None: there was no budget."""
    shown: list[Block] = []
    frames = all_frames(result)
    if result.interrupted:
        in_bag, repeat = result.bag.get('frames'), result.configuration.get('repeat', 1)
        of = f' of {in_bag * repeat}' if isinstance(in_bag, int) else ''
        shown.append(
            Banner(
                'Interrupted: somebody ended the replay early. The page tells of the '
                f'{len(frames)} frames sent until then{of}.',
                'unsure',
            )
        )
    if result.model.get('verdict') == 'FAILED':
        shown.append(
            Banner(
                'This model FAILED its gate: it loses more against FP32 than its limits allow. '
                'Do not drive with it.'
            )
        )
    if not any(frame.fate == 'answered' for frame in frames):
        shown.append(Banner('No frame was answered.'))
    if over_budget:
        shown.append(Banner('Over the budget:', items=over_budget))
    elif over_budget is not None:
        shown.append(Banner('Within the budget.', 'good'))
    return shown


def tiles(result: ReplayResult) -> Tiles:
    """Figures at a glance."""
    frames = all_frames(result)
    answered = count_fates(frames)['answered']
    lost = len(frames) - answered
    tone: Tone = 'bad' if lost > MANY_LOST_SHARE * len(frames) else ''
    share = answered / len(frames) if frames else math.nan
    return Tiles(
        [
            Tile(
                value_text('answered_share', share),
                f'{answered} of {len(frames)} frames answered',
                tone,
            ),
            Tile(str(lost), _where_lost(frames) or 'lost', tone),
            *(
                Tile(value_text(name, figure.value), text, small=interval_text(name, figure))
                for name, text in TILES
                if (figure := result.figures.get(name))
            ),
        ]
    )


def summary_items(result: ReplayResult) -> list[str]:
    """Sentences: frames, latency, rates, accuracy."""
    return [
        *_frame_items(result),
        *_latency_items(result),
        *_rate_items(result),
        *_accuracy_items(result),
    ]


def _frame_items(result: ReplayResult) -> Iterator[str]:
    frames = all_frames(result)
    if not frames:
        yield 'No frame was sent.'
        return
    answered = count_fates(frames)['answered']
    share = value_text('answered_share', answered / len(frames))
    where = _where_lost(frames)
    lost = f' The others: {where}.' if where else ' None was lost.'
    yield f'Of {len(frames)} frames sent {answered} were answered ({share}).{lost}'
    for reason, count in count_reasons(frames).most_common(1):
        yield f'Most frequent cause of failure ({count}): {reason}'


def _latency_items(result: ReplayResult) -> Iterator[str]:
    if not _known(result, 'latency_p50_ms'):
        return
    yield (
        f'Half of the answers came at most {_text(result, "latency_p50_ms")} after their picture '
        f'was sent, 99 of 100 at most {_text(result, "latency_p99_ms")}.'
    )
    stations = [name for name in STATIONS if _known(result, f'station_{name}_p50_ms')]
    if stations:
        medians = {name: result.figures[f'station_{name}_p50_ms'].value for name in stations}
        largest = max(medians, key=medians.__getitem__)
        own = ''
        if _known(result, 'own_cost_p50_ms'):
            own = f' The node without the network: {_text(result, "own_cost_p50_ms")}.'
        yield f'Most of it: {STATION_NAMES[largest]}, {medians[largest]:.1f} ms (median).{own}'
    if 'overhead_latency_p50_ms' in result.figures:
        yield (
            'With a node that only sends headers back it takes '
            f'{_text(result, "overhead_latency_p50_ms")} in the median and '
            f'{_text(result, "overhead_latency_p99_ms")} at the 99th percentile: the cost of '
            'player, DDS and monitor.'
        )
    elif result.configuration.get('through') == 'ros':
        yield 'The cost of the measuring itself was not measured.'


def _rate_items(result: ReplayResult) -> Iterator[str]:
    if _known(result, 'rate_in_hz'):
        yield (
            f'Pictures were sent at {_text(result, "rate_in_hz")}, answers came at '
            f'{_text(result, "rate_out_hz")}, all cameras together.'
        )
    if 'max_rate_hz' in result.figures:
        yield f'The highest rate of a camera that was kept: {_text(result, "max_rate_hz")}.'


def _accuracy_items(result: ReplayResult) -> Iterator[str]:
    if 'recall_sent' in result.figures:
        yield (
            f'Of the cones in all frames sent {_text(result, "recall_sent")} were found; of those '
            f'found {_text(result, "precision_sent")} are right.'
        )
    else:
        yield 'Accuracy was not judged: there is no ground truth.'
    if 'agreement_recall' in result.figures:
        yield (
            f'Of the cones that the reference model found {_text(result, "agreement_recall")} were '
            f'found here too; of those found here it has {_text(result, "agreement_precision")}.'
        )
    if _known(result, 'flicker_share'):
        yield f'{_text(result, "flicker_share")} of tracked cones flicker (missing for one frame).'


def _where_lost(frames: Iterable[FrameTrace]) -> str:
    counts = count_fates(frames)
    return ', '.join(f'{counts[fate]} {FATE_NAMES[fate]}' for fate in FATES[1:] if counts[fate])


def _pace(pace: object) -> str:
    if not isinstance(pace, Mapping):
        return ''
    if pace.get('kind') == 'hz':
        return f'each camera at {pace.get("hz", 0):g} Hz'
    if pace.get('kind') == 'fast':
        return f'as fast as possible, {pace.get("in_flight")} in flight'
    rate = pace.get('rate', 1.0)
    return 'as recorded' if rate == 1 else f'{rate:g} times as fast as recorded'


def _known(result: ReplayResult, name: str) -> bool:
    return math.isfinite(result.figures.get(name, UNKNOWN).value)


def _text(result: ReplayResult, name: str) -> str:
    return figure_text(name, result.figures.get(name, UNKNOWN))
