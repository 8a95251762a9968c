"""The page of a replay, report.html: one file that needs no network."""

from __future__ import annotations

import base64
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from cone_perception.errors import OutputError, SourceError
from cone_perception.pages.old import plain, swatch, table, tiles, write_page
from cone_perception.pictures.draw import class_colour, short_name
from cone_perception.pictures.video import encode_picture
from cone_perception.replay.figures.accuracy import worst_frames
from cone_perception.replay.figures.names import kind_of
from cone_perception.replay.figures.result import Figure, ReplayResult
from cone_perception.replay.pages.charts import (
    FATE_NAMES,
    HALF_PX,
    STATION_COLOURS,
    STATION_NAMES,
    Timeline,
    latency_histogram,
    latency_series,
    load_series,
    loss_timeline,
    probe_plot,
    rate_series,
    station_bar,
)
from cone_perception.replay.pages.pictures import (
    Place,
    annotate,
    class_names,
    read_pictures,
    topics_of,
)
from cone_perception.replay.traces import FATES, STATIONS, FrameTrace, Pace, Pass

PAGE = 'report.html'
FILM = 'annotated.mp4'

PICTURES = 12
PICTURE_WIDTH_PX = 720
JPEG_QUALITY = 70

MANY_LOST_SHARE = 0.01
REASONS = 5
"""Causes of failure that the page lists."""

UNKNOWN = Figure(math.nan)

DIGITS = {'share': 1, 'ms': 1, 'Hz': 1, 'cores': 2, 'cones': 1, 'MB/min': 2}
"""After the point, by unit; none for the others."""

ACCURACY = re.compile(r'(precision|recall|map50|ap50)_(sent|answered)(?: (.+))?')
CONSISTENCY = re.compile(
    r'(flicker_share|detections_per_frame|agreement_(?:precision|recall|f1))(?: (.+))?'
)
BAND = ' px'


def write_report(
    folder: Path, result: ReplayResult, bag: Path | None, over_budget: Sequence[str] | None = None
) -> Path:
    """Write report.html; returns its path.

    bag: for the pictures of the worst frames. None, or a bag that is not there any more: the page
    says so instead. over_budget: what `budget.over_budget` says; None: there was no budget.
    Raises OutputError.
    """
    path = folder / PAGE
    timeline = Timeline.of(result.passes)
    sections = (
        _summary(result),
        _losses(result, timeline),
        _latency(result, timeline),
        _rates(result, timeline),
        _accuracy(result),
        _consistency(result),
        _worst(result, bag),
        _load(result, timeline),
        _probes(result),
        _per_pass(result),
        _figures(result),
        _about(result),
        _again(result),
    )
    parts = {
        'title': f'Replay of {plain(bag_name(result))}',
        'subtitle': plain(_subtitle(result)),
        'banners': _banners(result) + _budget(over_budget),
        'tiles': _tiles(result),
        'sections': ''.join(sections),
    }
    try:
        write_page(path, 'report.html', **parts)
    except OSError as error:
        raise OutputError(f'{path} cannot be written: {error}.') from error
    return path


def format_value(value: float, unit: str) -> str:
    """With its unit; shares in percent; a dash where it is not known."""
    if not math.isfinite(value):
        return '–'
    if unit == 'share':
        return f'{100 * value:.1f} %'
    digits = DIGITS.get(unit, 0 if unit else 3)
    return f'{value:.{digits}f} {unit}'.rstrip()


def format_interval(figure: Figure, unit: str) -> str:
    """Its two ends without the unit, e.g. `42.0 – 44.9`; '' without one."""
    if not (math.isfinite(figure.low) and math.isfinite(figure.high)):
        return ''
    ends = (format_value(end, unit) for end in (figure.low, figure.high))
    return ' – '.join(end.removesuffix('%').removesuffix(unit).rstrip() for end in ends)


def format_figure(name: str, figure: Figure) -> str:
    """Value and interval, e.g. `43.1 ms (42.0 – 44.9)`."""
    unit = kind_of(name).unit
    interval = format_interval(figure, unit)
    return format_value(figure.value, unit) + (f' ({interval})' if interval else '')


def bag_name(result: ReplayResult) -> str:
    """Last part of the bag's path."""
    return Path(str(result.bag.get('path') or result.bag.get('bag') or 'a bag')).name


def _section(title: str, content: str, note: str = '') -> str:
    """'' where there is no content. title, note: HTML."""
    if not content:
        return ''
    below = f'<p>{note}</p>' if note else ''
    return f'<section><h2>{title}</h2>{content}{below}</section>\n'


def _details(title: str, content: str, opened: bool = False) -> str:
    if not content:
        return ''
    state = ' open' if opened else ''
    return (
        f'<section><details{state}><summary>{title}</summary>'
        f'<div class="wide">{content}</div></details></section>\n'
    )


def _get(result: ReplayResult, name: str) -> Figure:
    return result.figures.get(name, UNKNOWN)


def _text(result: ReplayResult, name: str) -> str:
    return plain(format_figure(name, _get(result, name)))


def _cell(name: str, figure: Figure) -> str:
    """For a table: the interval in small below the value."""
    unit = kind_of(name).unit
    interval = plain(format_interval(figure, unit))
    return plain(format_value(figure.value, unit)) + (f'<i>{interval}</i>' if interval else '')


def _frames(result: ReplayResult) -> list[FrameTrace]:
    return list(chain.from_iterable(result.passes))


def _subtitle(result: ReplayResult) -> str:
    configuration, model = result.configuration, result.model
    through = configuration.get('through')
    way = {
        'ros': 'sent over DDS by one process, searched for cones by a second, recorded by a third',
        'pipeline': 'through the detector without ROS',
    }.get(str(through), str(through or ''))
    cameras = list(dict.fromkeys(frame.camera for frame in _frames(result)))
    parts = [
        f'{len(cameras)} cameras ({", ".join(cameras)})' if len(cameras) > 1 else '',
        f'{len(result.passes)} passes' if len(result.passes) > 1 else '',
        _pace(configuration.get('pace')),
        way,
        f'model {model["name"]}' if model.get('name') else '',
        str(configuration.get('started', '')).replace('T', ' ').replace('+00:00', ' UTC'),
    ]
    return '; '.join(part for part in parts if part) + '.'


def _pace(pace: object) -> str:
    if not isinstance(pace, Mapping):
        return ''
    if pace.get('kind') == 'hz':
        return f'each camera at {pace.get("hz", 0):g} Hz'
    if pace.get('kind') == 'fast':
        return f'as fast as possible, {pace.get("in_flight")} in flight'
    rate = pace.get('rate', 1.0)
    return 'as recorded' if rate == 1 else f'{rate:g} times as fast as recorded'


def _banners(result: ReplayResult) -> str:
    banners = ''
    if result.interrupted:
        in_bag, repeat = result.bag.get('frames'), result.configuration.get('repeat', 1)
        sent = len(_frames(result))
        of = f' of {in_bag * repeat}' if isinstance(in_bag, int) else ''
        banners += (
            '<div class="banner note">Interrupted: somebody ended the replay early. The page '
            f'tells of the {sent} frames sent until then{plain(of)}.</div>'
        )
    if result.model.get('verdict') == 'FAILED':
        banners += (
            '<div class="banner">This model FAILED its gate: it loses more against FP32 than its '
            'limits allow. Do not drive with it.</div>'
        )
    if not any(frame.fate == 'answered' for frame in _frames(result)):
        banners += '<div class="banner">No frame was answered.</div>'
    return banners


def _budget(over_budget: Sequence[str] | None) -> str:
    if over_budget is None:
        return ''
    if not over_budget:
        return '<div class="banner good">Within the budget.</div>'
    reasons = _list([plain(reason) for reason in over_budget], 'says')
    return f'<div class="banner">Over the budget:{reasons}</div>'


def _tiles(result: ReplayResult) -> str:
    frames = _frames(result)
    answered = sum(frame.fate == 'answered' for frame in frames)
    lost = len(frames) - answered
    many_lost = lost > MANY_LOST_SHARE * len(frames)
    shown: list[tuple[str, str, bool]] = [
        (
            format_value(answered / len(frames) if frames else math.nan, 'share'),
            f'{answered} of {len(frames)} frames answered',
            many_lost,
        ),
        (str(lost), _lost_where(frames) or 'lost', many_lost),
    ]
    for name, text in (
        ('latency_p50_ms', 'latency, median'),
        ('latency_p99_ms', 'latency, 99th percentile'),
        ('rate_out_hz', 'answers per second'),
        ('max_rate_hz', 'highest rate per camera'),
        ('recall_sent', 'of the cones found, all frames'),
        ('precision_sent', 'of what was found is right'),
    ):
        if name in result.figures:
            figure, unit = result.figures[name], kind_of(name).unit
            interval = format_interval(figure, unit)
            below = f'<i>{plain(interval)}</i>' if interval else ''
            shown.append((plain(format_value(figure.value, unit)), text + below, False))
    return tiles(shown)


def _lost_where(frames: Iterable[FrameTrace]) -> str:
    counts = Counter(frame.fate for frame in frames)
    return ', '.join(f'{counts[fate]} {FATE_NAMES[fate]}' for fate in FATES[1:] if counts[fate])


def _summary(result: ReplayResult) -> str:
    sentences = [
        *_say_frames(result),
        *_say_latency(result),
        *_say_rates(result),
        *_say_accuracy(result),
    ]
    problems = [plain(problem) for problem in dict.fromkeys(result.problems)]
    content = _list(sentences, 'says')
    if problems:
        content += f'<h3>Problems</h3>{_list(problems, "says problems")}'
    return _section('What it comes to', content)


def _list(sentences: Sequence[str], kind: str) -> str:
    if not sentences:
        return ''
    return f'<ul class="{kind}">{"".join(f"<li>{text}</li>" for text in sentences)}</ul>'


def _say_frames(result: ReplayResult) -> Iterator[str]:
    frames = _frames(result)
    if not frames:
        yield 'No frame was sent.'
        return
    answered = sum(frame.fate == 'answered' for frame in frames)
    share = format_value(answered / len(frames), 'share')
    where = _lost_where(frames)
    lost = f' The others: {where}.' if where else ' None was lost.'
    yield f'Of {len(frames)} frames sent {answered} were answered ({share}).{lost}'
    for reason, count in _reasons(frames).most_common(1):
        yield f'Most frequent cause of failure ({count}): {plain(reason)}'


def _say_latency(result: ReplayResult) -> Iterator[str]:
    if not math.isfinite(_get(result, 'latency_p50_ms').value):
        return
    yield (
        f'Half of the answers came at most {_text(result, "latency_p50_ms")} after their picture '
        f'was sent, 99 of 100 at most {_text(result, "latency_p99_ms")}.'
    )
    stations = {name: _get(result, f'station_{name}_p50_ms').value for name in STATIONS}
    known = {name: value for name, value in stations.items() if math.isfinite(value)}
    if known:
        largest = max(known, key=known.__getitem__)
        own = _get(result, 'own_cost_p50_ms')
        cost = (
            f' The node without the network, waiting included: {_text(result, "own_cost_p50_ms")}.'
            if math.isfinite(own.value)
            else ''
        )
        yield f'Most of it: {STATION_NAMES[largest]}, {known[largest]:.1f} ms (median).{cost}'
    if 'overhead_latency_p50_ms' in result.figures:
        yield (
            'With a node that only sends headers back it takes '
            f'{_text(result, "overhead_latency_p50_ms")} in the median and '
            f'{_text(result, "overhead_latency_p99_ms")} at the 99th percentile: what player, DDS '
            'and monitor cost.'
        )
    elif result.configuration.get('through') == 'ros':
        yield 'What the measuring itself costs was not measured.'


def _say_rates(result: ReplayResult) -> Iterator[str]:
    if math.isfinite(_get(result, 'rate_in_hz').value):
        yield (
            f'Pictures were sent at {_text(result, "rate_in_hz")}, answers came at '
            f'{_text(result, "rate_out_hz")}, all cameras together.'
        )
    if 'max_rate_hz' in result.figures:
        yield f'The highest rate of a camera that was kept: {_text(result, "max_rate_hz")}.'


def _say_accuracy(result: ReplayResult) -> Iterator[str]:
    if 'recall_sent' in result.figures:
        yield (
            f'Of the cones in all frames sent {_text(result, "recall_sent")} were found; of those '
            f'found {_text(result, "precision_sent")} are right.'
        )
    else:
        yield 'How right the cones are was not judged: there is no ground truth.'
    if 'agreement_recall' in result.figures:
        yield (
            f'Of the cones that the reference model found {_text(result, "agreement_recall")} were '
            f'found here too; of those found here it has {_text(result, "agreement_precision")}.'
        )
    if math.isfinite(_get(result, 'flicker_share').value):
        yield (
            'Of the cones seen before and after a frame '
            f'{_text(result, "flicker_share")} are not seen in it.'
        )


def _reasons(frames: Iterable[FrameTrace]) -> Counter[str]:
    return Counter(frame.reason for frame in frames if frame.fate == 'failed' and frame.reason)


def _losses(result: ReplayResult, timeline: Timeline) -> str:
    frames = _frames(result)
    if not frames:
        return ''
    every = Counter(frame.fate for frame in frames)
    fates = [fate for fate in FATES if every[fate] or fate == 'answered']
    by_camera: dict[str, Counter[str]] = {}
    for frame in frames:
        by_camera.setdefault(frame.camera, Counter())[frame.fate] += 1
    rows = [
        [plain(camera), str(counts.total()), *(str(counts[fate]) for fate in fates)]
        for camera, counts in by_camera.items()
    ]
    if len(rows) > 1:
        rows.append(['all', str(len(frames)), *(str(every[fate]) for fate in fates)])
    head = ['camera', 'sent', *(FATE_NAMES[fate] for fate in fates)]
    content = _wide(table(head, rows))
    if len(fates) > 1 or len(by_camera) > 1:
        content = loss_timeline(result.passes, timeline) + content
    reasons = [
        [f'<code>{plain(reason)}</code>', str(count)]
        for reason, count in _reasons(frames).most_common(REASONS)
    ]
    if reasons:
        content += f'<h3>Why frames failed</h3>{table(["reason", "frames"], reasons)}'
    return _section('Which frames were lost, and to what', content)


def _latency(result: ReplayResult, timeline: Timeline) -> str:
    latencies = [ms for frame in _frames(result) if (ms := frame.latency_ms) is not None]
    if not latencies:
        return _section('Latency', '<p>No frame was answered, so there is no latency to show.</p>')
    marks = {name: _get(result, f'latency_{name}_ms').value for name in ('p50', 'p99')}
    series = latency_series(result.passes, timeline, marks)
    medians = {name: _get(result, f'station_{name}_p50_ms').value for name in STATIONS}
    rows = [
        [
            swatch(STATION_COLOURS[name], STATION_NAMES[name]),
            *(_at(result, f'station_{name}', at) for at in ('p50', 'p99')),
        ]
        for name in STATIONS
        if _get(result, f'station_{name}_p99_ms').value > 0
    ]
    for name, text in (
        ('own_cost', 'the node without the network'),
        ('latency', 'all together'),
        ('overhead_latency', 'with a node that only answers'),
    ):
        if f'{name}_p50_ms' in result.figures:
            rows.append([swatch('none', text), *(_at(result, name, at) for at in ('p50', 'p99'))])
    stations = station_bar(medians) + _wide(table(['station', 'median', 'p99'], rows))
    histogram = latency_histogram(latencies, marks)
    more = ('min', 'mean', 'p90', 'p95', 'max', 'jitter')
    others = [
        [name, _at(result, 'latency', name)]
        for name in more
        if f'latency_{name}_ms' in result.figures
    ]
    return (
        _section(
            'Latency of each frame, by station',
            series,
            'From the sending of a picture to the receipt of its cones, in milliseconds.',
        )
        + '<div class="pair">'
        + _section('How often which latency', histogram + table([], others))
        + _section('Where the time goes', stations)
        + '</div>'
    )


def _at(result: ReplayResult, name: str, percentile: str) -> str:
    whole = f'{name}_{percentile}_ms'
    return _cell(whole, _get(result, whole))


def _rates(result: ReplayResult, timeline: Timeline) -> str:
    return _section(
        'Rates over time',
        rate_series(result.passes, timeline),
        'Frames per second, all cameras together.',
    )


def _accuracy(result: ReplayResult) -> str:
    rows: dict[str, dict[tuple[str, str], str]] = {}
    for name, figure in result.figures.items():
        if match := ACCURACY.fullmatch(name):
            what, whose, of = match.groups()
            rows.setdefault(of or '', {})[what.replace('map50', 'ap50'), whose] = _cell(
                name, figure
            )
    if not rows:
        return ''
    none_lost = all(frame.fate == 'answered' for frame in _frames(result))
    over = ('sent',) if none_lost else ('sent', 'answered')
    columns = [(what, whose) for whose in over for what in _ACCURACY_COLUMNS]
    head = [
        _ACCURACY_COLUMNS[what] + ('' if none_lost else f', {whose}') for what, whose in columns
    ]
    classes = [of for of in rows if of and not of.endswith(BAND)]
    bands = [of for of in rows if of.endswith(BAND)]

    def cells(of: str) -> list[str]:
        return [rows[of].get(column, '–') for column in columns]

    by_class = [
        *([swatch(_class_colour(of), plain(short_name(of))), *cells(of)] for of in classes),
        *([swatch('none', 'all'), *cells('')] for _ in [0] if '' in rows),
    ]
    content = _wide(table(['class', *head], by_class))
    if bands:
        by_height = [[plain(of), *cells(of)] for of in bands]
        content += f'<h3>By height of the cone</h3>{_wide(table(["height", *head], by_height))}'
    return _section(
        'How right it was',
        content,
        (
            'No frame was lost, so all are judged. '
            if none_lost
            else 'Sent: over all frames sent, where a lost frame misses all of its cones. '
            'Answered: over the frames answered. '
        )
        + 'Right: same class, and the boxes share half of what they cover together. '
        'In small: 95 % interval.',
    )


_ACCURACY_COLUMNS = {'precision': 'precision', 'recall': 'recall', 'ap50': 'mAP50'}


def _class_colour(name: str) -> str:
    blue, green, red = class_colour(name)
    return f'rgb({red},{green},{blue})'


def _consistency(result: ReplayResult) -> str:
    found = {
        match.groups(): _cell(name, figure)
        for name, figure in result.figures.items()
        if (match := CONSISTENCY.fullmatch(name))
    }
    if not found:
        return ''
    names = list(dict.fromkeys(what for what, _ in found))
    rows = [
        [
            swatch(_class_colour(of), plain(short_name(of))) if of else swatch('none', 'all'),
            *(found.get((what, of), '–') for what in names),
        ]
        for of in sorted({of for _, of in found}, key=lambda of: (not of, of or ''))
    ]
    meanings = [f'{_headline(name)}: {plain(kind_of(name).what)}.' for name in names]
    return _section(
        'How steady it was',
        _wide(table(['class', *map(_headline, names)], rows)),
        ' '.join(meanings),
    )


def _headline(name: str) -> str:
    return name.removesuffix('_share').replace('_', ' ')


@dataclass(frozen=True, slots=True, eq=False)
class _Shown:
    """A frame to be shown as a picture. number: of its pass, from 0."""

    number: int
    frame: FrameTrace
    why: str

    @property
    def place(self) -> Place:
        return (self.frame.camera, self.frame.index)


def _worst(result: ReplayResult, bag: Path | None) -> str:
    shown = _choose(result)
    if not shown:
        return ''
    title = 'The frames to look at'
    if bag is None or not bag.exists():
        why = 'the bag was not given' if bag is None else f'{plain(bag)} is not there any more'
        listed = [plain(f'{each.frame.camera} {each.frame.index}: {each.why}') for each in shown]
        return _section(title, f'<p>No pictures: {why}.</p>{_list(listed, "says")}')
    pictures, trouble = _draw(result, bag, shown)
    figures = ''
    for each in shown:
        told = pictures.get(each.place, 'it was not found in the bag')
        which = f'pass {each.number + 1}, ' if len(result.passes) > 1 else ''
        caption = f'{which}{each.frame.camera} {each.frame.index}: {each.why}'
        if isinstance(told, bytes):
            data = base64.b64encode(told).decode('ascii')
            image = f'<img alt="{plain(caption)}" src="data:image/jpeg;base64,{data}">'
        else:
            image = f'<p>No picture: {plain(told)}.</p>'
        figures += f'<figure>{image}<figcaption>{plain(caption)}</figcaption></figure>'
    dashes = '' if result.truth is None else ' Dashes: cones that are there.'
    note = f'The slowest, the most wrong, and those where cones vanished.{dashes}'
    if trouble:
        note += f' The bag could not be read to its end: {plain(trouble)}'
    return _section(title, f'<div class="pictures">{figures}</div>', note)


def _choose(result: ReplayResult) -> list[_Shown]:
    """The worst of every pass in turns; each picture of the bag once."""
    names = class_names(result)
    chosen: dict[tuple[str, int], _Shown] = {}
    by_pass = []
    for number, frames in enumerate(result.passes):
        traces = {(frame.camera, frame.stamp_ns): frame for frame in reversed(frames)}
        worst = worst_frames(Pass(Pace(), frames), result.truth, names, PICTURES)
        by_pass.append(
            [_Shown(number, traces[each.camera, each.stamp_ns], each.why) for each in worst]
        )
    for each in chain.from_iterable(zip_longest(*by_pass)):
        if each is not None:
            chosen.setdefault(each.place, each)
    return list(chosen.values())[:PICTURES]


def _draw(
    result: ReplayResult, bag: Path, shown: Sequence[_Shown]
) -> tuple[dict[Place, bytes | str], str]:
    """Place -> JPEG, or why there is none; and what is wrong with the bag, '' if nothing."""
    frames = {each.place: each.frame for each in shown}
    names, truth = class_names(result), result.truth or {}
    pictures: dict[Place, bytes | str] = {}
    problems: list[str] = []
    try:
        for place, picture in read_pictures(bag, topics_of(result), frames, problems):
            if isinstance(picture, str):
                pictures[place] = picture
                continue
            frame = frames[place]
            there = truth.get((frame.camera, frame.stamp_ns))
            drawn = annotate(picture, frame, names, there, PICTURE_WIDTH_PX)
            pictures[place] = encode_picture('.jpg', drawn, JPEG_QUALITY)
    except SourceError as error:
        problems.append(str(error))
    return pictures, ' '.join(problems)


def _load(result: ReplayResult, timeline: Timeline) -> str:
    machine = [[s for s in samples if s.who != 'gpu'] for samples in result.load]
    gpu = [[s for s in samples if s.who == 'gpu'] for samples in result.load]
    panels = [
        ('Processor', load_series(machine, timeline, 'cpu_cores', 'cores', HALF_PX)),
        ('Memory', load_series(machine, timeline, 'memory_mb', 'MB', HALF_PX)),
        ('GPU load', load_series(gpu, timeline, 'load_percent', '%', HALF_PX)),
        ('GPU memory', load_series(gpu, timeline, 'memory_mb', 'MB', HALF_PX)),
        ('GPU clock', load_series(gpu, timeline, 'clock_mhz', 'MHz', HALF_PX)),
        ('GPU temperature', load_series(gpu, timeline, 'temperature_c', '°C', HALF_PX)),
        ('GPU power', load_series(gpu, timeline, 'power_w', 'W', HALF_PX)),
    ]
    drawn = ''.join(f'<div><h3>{title}</h3>{chart}</div>' for title, chart in panels if chart)
    costs = [
        f'{who} {_text(result, name)}'
        for who in ('player', 'monitor')
        if (name := f'overhead_{who}_cpu_cores') in result.figures
    ]
    return _section(
        'What it cost',
        f'<div class="pair">{drawn}</div>' if drawn else '',
        f'With a node that only sends headers back: {", ".join(costs)}.' if costs else '',
    )


def _probes(result: ReplayResult) -> str:
    found_hz = _get(result, 'max_rate_hz').value
    plot = probe_plot(result.probes, found_hz)
    return _section(
        'The search for the highest rate',
        plot,
        'Each point is a replay of the whole bag at that rate per camera. It passes when at most '
        '5 % are missed and as much comes out as goes in (grey line).',
    )


def _per_pass(result: ReplayResult) -> str:
    if len(result.per_pass) < 2:
        return ''
    shown = ('latency_p50_ms', 'latency_p99_ms', 'latency_max_ms', 'rate_out_hz', 'recall_sent')
    names = [name for name in shown if any(name in figures for figures in result.per_pass)]
    rows = [
        [
            str(number),
            str(len(frames)),
            str(sum(frame.fate == 'answered' for frame in frames)),
            *(_cell(name, figures.get(name, UNKNOWN)) for name in names),
        ]
        for number, (figures, frames) in enumerate(
            zip(result.per_pass, result.passes, strict=True), 1
        )
    ]
    head = ['pass', 'sent', 'answered', *(name.replace('_', ' ') for name in names)]
    return _section('Each pass', _wide(table(head, rows)))


def _figures(result: ReplayResult) -> str:
    rows = []
    for name, figure in result.figures.items():
        kind = kind_of(name)
        rows.append(
            [
                f'<code>{plain(name)}</code>',
                plain(format_value(figure.value, kind.unit)),
                plain(format_interval(figure, kind.unit)),
                kind.better or '',
                plain(kind.what),
            ]
        )
    head = ['figure', 'value', '95 % interval', 'better', 'what it is']
    content = f'<div class="figures">{table(head, rows)}</div>' if rows else ''
    return _details(f'All {len(rows)} figures', content)


def _about(result: ReplayResult) -> str:
    parts: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ('Configuration', result.configuration),
        ('Bag', result.bag),
        ('Model', result.model),
        ('Host', result.host),
        ("The node's last diagnostics", result.health),
    )
    return ''.join(_details(title, _facts(facts)) for title, facts in parts)


def _facts(facts: Mapping[str, Any]) -> str:
    rows = [
        [plain(key), f'<code>{plain(value)}</code>']
        for key, value in _leaves(facts)
        if value not in ('', None)
    ]
    return f'<div class="about">{table([], rows)}</div>' if rows else ''


def _leaves(facts: Mapping[str, Any], above: str = '') -> Iterator[tuple[str, object]]:
    """Every value below, its keys joined; lists as JSON."""
    for key, value in facts.items():
        name = f'{above}{key}'
        if isinstance(value, Mapping):
            yield from _leaves(value, f'{name} · ')
        elif isinstance(value, (list, tuple)):
            yield name, json.dumps(value, default=str, ensure_ascii=False) if value else ''
        else:
            yield name, value


def _again(result: ReplayResult) -> str:
    arguments = [str(argument) for argument in result.configuration.get('arguments', ())]
    command = f'<pre>cone-perception replay {plain(shlex.join(arguments))}</pre>'
    film = f' <a href="{FILM}">{FILM}</a>: the drive as a film.' if '--film' in arguments else ''
    return _section(
        'The same again',
        command,
        f'<a href="result.json">result.json</a>: all of this as data.{film}',
    )


def _wide(content: str) -> str:
    return f'<div class="wide">{content}</div>'
