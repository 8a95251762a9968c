"""A replay in a few sentences and figures: the top of its page."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from cone_perception.pages.blocks import Banner, Block, Tile, Tiles, Tone
from cone_perception.replay.figures.compare import pace_text
from cone_perception.replay.figures.names import figure_text, interval_text, value_text
from cone_perception.replay.figures.result import UNKNOWN, ReplayResult
from cone_perception.replay.pages.charts import FATE_LOOKS, STATION_LOOKS
from cone_perception.replay.traces import LOST, FrameTrace

TILES = (
    ('latency_p50_ms', 'latency, median'),
    ('latency_p99_ms', 'latency, 99th percentile'),
    ('rate_out_hz', 'answers per second'),
    ('max_rate_hz', 'highest rate per camera'),
    ('recall_sent', 'of the cones found, all frames, all boxes'),
    ('precision_sent', 'of what was found is right, all boxes'),
    ('depth_p90_m 10 m', 'depth error at 10 m, 90 of 100 positions'),
)

SENTENCES = (
    (
        'latency_p50_ms',
        'Half of the answers came at most {latency_p50_ms} after their picture was sent, 99 of 100 '
        'at most {latency_p99_ms}.',
    ),
    ('largest_station', 'The slowest station: {largest_station} (median).'),
    ('own_cost_p50_ms', 'The node without the network, waiting included: {own_cost_p50_ms}.'),
    (
        'overhead_latency_p50_ms',
        'With a node that only sends headers back it takes {overhead_latency_p50_ms} in the median '
        'and {overhead_latency_p99_ms} at the 99th percentile: the cost of player, DDS, monitor.',
    ),
    (
        'rate_in_hz',
        'Pictures were sent at {rate_in_hz}, answers came at {rate_out_hz}, all cameras together.',
    ),
    ('max_rate_hz', 'The highest rate of a camera that was kept: {max_rate_hz}.'),
    (
        'recall_sent',
        'Of the cones in all frames sent {recall_sent} were found; of those found '
        '{precision_sent} are right. Boxes of every height count.',
    ),
    (
        'depth_p90_m 10 m',
        'At 10 m half of the positions are off by at most {depth_median_m 10 m} along the line of '
        'sight, 90 of 100 by at most {depth_p90_m 10 m}; {by_stereo_share} of all are by stereo.',
    ),
    (
        'agreement_recall',
        'Of the cones that the reference model found {agreement_recall} were found here too; of '
        'those found here it has {agreement_precision}.',
    ),
    ('flicker_share', '{flicker_share} of tracked cones flicker (missing for one frame).'),
)
"""Figure that a sentence needs, and the sentence."""


def count_reasons(frames: Iterable[FrameTrace]) -> Counter[str]:
    """Number of failed frames by reason."""
    return Counter(frame.reason for frame in frames if frame.fate == 'failed' and frame.reason)


def subtitle(result: ReplayResult) -> str:
    """Cameras, passes, pace, way, model and time in one line."""
    configuration, model = result.configuration, result.model
    through = configuration.get('through')
    way = {
        'ros': 'sent over DDS by one process, searched for cones by a second, recorded by a third',
        'pipeline': 'through the detector without ROS',
    }.get(str(through), str(through or ''))
    cameras = list(dict.fromkeys(frame.camera for frame in result.frames))
    parts = [
        f'{len(cameras)} cameras ({", ".join(cameras)})' if len(cameras) > 1 else '',
        f'{len(result.passes)} passes' if len(result.passes) > 1 else '',
        pace_text(configuration),
        way,
        f'model {model["name"]}' if model.get('name') else '',
        str(configuration.get('started', '')).replace('T', ' ').replace('+00:00', ' UTC'),
    ]
    return '; '.join(part for part in parts if part) + '.'


def banners(result: ReplayResult, over_budget: Sequence[str] | None) -> list[Block]:
    """Messages that must be seen first. over_budget: reasons; None: there was no budget."""
    frames = result.frames
    in_bag, repeat = result.bag.get('frames'), result.configuration.get('repeat', 1)
    of = f' of {in_bag * repeat}' if isinstance(in_bag, int) else ''
    interrupted = (
        'Interrupted: somebody ended the replay early. The page tells of the '
        f'{len(frames)} frames sent until then{of}.'
    )
    failed = (
        'This model FAILED its gate: it loses more against FP32 than its limits allow. '
        'Do not drive with it.'
    )
    shown = (
        (result.interrupted, Banner(interrupted, 'unsure')),
        (result.model.get('verdict') == 'FAILED', Banner(failed)),
        (all(f.fate != 'answered' for f in frames), Banner('No frame was answered.')),
        (bool(over_budget), Banner('Over the budget:', items=over_budget or ())),
        (over_budget is not None and not over_budget, Banner('Within the budget.', 'good')),
    )
    return [banner for applies, banner in shown if applies]


def tiles(result: ReplayResult) -> Tiles:
    """Figures at a glance."""
    wanted = [frame for frame in result.frames if frame.wanted]
    sent, lost = len(wanted), sum(frame.lost for frame in wanted)
    answered = sent - lost
    tone: Tone = 'bad' if lost > 0.01 * sent else ''
    share = value_text('answered_share', answered / sent if sent else math.nan)
    shown = [
        Tile(share, f'{answered} of {sent} frames answered', tone),
        Tile(str(lost), _where_lost(wanted) or 'lost', tone),
    ]
    for name, text in TILES:
        if figure := result.figures.get(name):
            small = interval_text(name, figure)
            shown.append(Tile(value_text(name, figure.value), text, small=small))
    return Tiles(shown)


def summary_items(result: ReplayResult) -> list[str]:
    """Sentences: frames, latency, rates, accuracy."""
    texts = defaultdict(lambda: figure_text('', UNKNOWN))
    for name, figure in result.figures.items():
        if math.isfinite(figure.value):
            texts[name] = figure_text(name, figure)
    if slowest := result.slowest_station('p50'):
        texts['largest_station'] = f'{STATION_LOOKS[slowest[0]].name}, {slowest[1]:.1f} ms'
    items = list(_frame_items(result))
    items += [text.format_map(texts) for needed, text in SENTENCES if needed in texts]
    if 'overhead_latency_p50_ms' not in texts and result.configuration.get('through') == 'ros':
        items.append('The cost of the measuring itself was not measured.')
    if 'recall_sent' not in result.figures:
        items.append('Accuracy was not judged: there is no ground truth.')
    return items


def _frame_items(result: ReplayResult) -> Iterator[str]:
    frames = result.frames
    if not frames:
        yield 'No frame was sent.'
        return
    answered = sum(frame.fate == 'answered' for frame in frames)
    wanted = [frame for frame in frames if frame.wanted]
    share = value_text('answered_share', answered / len(wanted) if wanted else math.nan)
    where = _where_lost(wanted)
    lost = f' The others: {where}.' if where else ' None was lost.'
    yield f'Of {len(wanted)} frames sent {answered} were answered ({share}).{lost}'
    if partners := [frame for frame in frames if not frame.wanted]:
        matched, where = sum(frame.fate == 'matched' for frame in partners), _where_lost(partners)
        lost = f' The others: {where}.' if where else ''
        yield (
            f'{matched} of {len(partners)} frames of the right eye were matched with those of the '
            f'left one.{lost}'
        )
    if dark := Counter(f.camera for f in frames if f.fate == 'matched' and f.reason):
        yield ', '.join(f'{n} frames of {camera}' for camera, n in dark.items()) + ' were dark.'
    for reason, count in count_reasons(frames).most_common(1):
        yield f'Most frequent cause of failure ({count}): {reason}'


def _where_lost(frames: Iterable[FrameTrace]) -> str:
    counts = Counter(frame.fate for frame in frames)
    return ', '.join(f'{counts[fate]} {FATE_LOOKS[fate].name}' for fate in LOST if counts[fate])
