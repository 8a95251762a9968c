"""The page of a replay, report.html: its sections, from what was lost to how to run it again."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cone_perception.pages.blocks import (
    Block,
    Bullets,
    Cell,
    Listing,
    Page,
    Piece,
    Section,
    Table,
    Text,
)
from cone_perception.pages.charts import strip
from cone_perception.pages.page import write_page
from cone_perception.pictures.draw import class_colour, short_name
from cone_perception.replay.figures.names import (
    figure_cell,
    figure_text,
    interval_text,
    kind_of,
    value_text,
)
from cone_perception.replay.figures.result import UNKNOWN, ReplayResult
from cone_perception.replay.pages import charts, summary
from cone_perception.replay.pages.charts import FATE_LOOKS, STATION_LOOKS, Look, Timeline
from cone_perception.replay.pages.pictures import frame_sections
from cone_perception.replay.pages.positions import position_sections
from cone_perception.replay.traces import FATES

PAGE = 'report.html'

ACCURACY = re.compile(r'((?:precision|recall|map50|ap50)_(?:sent|answered))(?: (.+))?')
ACCURACY_COLUMNS = {'precision': 'precision', 'recall': 'recall', 'ap50': 'mAP50'}
CONSISTENCY = re.compile(
    r'(flicker_share|detections_per_frame|agreement_(?:precision|recall|f1))(?: (.+))?'
)
BAND = ' px'

LATENCIES = {f'station_{name}': look for name, look in STATION_LOOKS.items()} | {
    'own_cost': Look('the node without the network', 'none'),
    'latency': Look('all together', 'none'),
    'overhead_latency': Look('with a node that only answers', 'none'),
}
"""Figures of time, without their percentile, as the table shows them."""

LOADS = (
    ('Processor', False, 'cpu_cores', 'cores'),
    ('Memory', False, 'memory_mb', 'MB'),
    ('GPU load', True, 'load_percent', '%'),
    ('GPU memory', True, 'memory_mb', 'MB'),
    ('GPU clock', True, 'clock_mhz', 'MHz'),
    ('GPU temperature', True, 'temperature_c', '°C'),
    ('GPU power', True, 'power_w', 'W'),
)
"""Title, whether it is the GPU's, key of LoadSample, unit."""


def write_report(
    folder: Path, result: ReplayResult, bag: Path | None, over_budget: Sequence[str] | None = None
) -> Path:
    """Write report.html; returns its path.

    bag: for the pictures. None, or a bag that is not there any more: the page says so instead.
    over_budget: the reasons of `budget.over_budget`; None: there was no budget.
    Raises OutputError: when the page cannot be written.
    """
    path = folder / PAGE
    write_page(path, report_page(result, bag, over_budget))
    return path


def report_page(
    result: ReplayResult,
    bag: Path | None,
    over_budget: Sequence[str] | None = None,
    files: Mapping[str, str] = MappingProxyType({'result.json': 'all of this as data'}),
) -> Page:
    """The page of a replay, see write_report. files: name and meaning of those it links to."""
    timeline = Timeline.of(result.passes)
    problems = Bullets(list(dict.fromkeys(result.problems)), 'bad', 'Problems')
    max_rate_hz = result.figure('max_rate_hz').value
    return Page(
        f'Replay of {Path(str(result.bag.get("path") or "a bag")).name}',
        summary.subtitle(result),
        sections=[
            Section('', [*summary.banners(result, over_budget), summary.tiles(result)]),
            Section('Summary', [Bullets(summary.summary_items(result)), problems]),
            _losses(result, timeline),
            *_latency(result, timeline),
            *frame_sections(result, bag, timeline),
            *position_sections(result, bag),
            Section(
                'Rates over time',
                [charts.rate_chart(result.passes, timeline)],
                'Frames per second, all cameras together.',
            ),
            Section('Cones in each frame', list(charts.cones_charts(timeline, result.truth))),
            _accuracy(result),
            _consistency(result),
            _load(result, timeline),
            Section(
                'The search for the highest rate',
                list(charts.probe_charts(result.probes, max_rate_hz)),
                'Each point is a replay of the whole bag at that rate per camera. It passes when '
                'at most 5 % are missed and as much comes out as goes in (grey lines).',
            ),
            _per_pass(result),
            _all_figures(result),
            *_facts(result),
            _command(result, files),
        ],
    )


def _losses(result: ReplayResult, timeline: Timeline) -> Section:
    every = Counter(frame.fate for frame in result.frames)
    fates = [fate for fate in FATES if every[fate] or fate == 'answered']
    counts = {
        camera: Counter(each.frame.fate for each in sent)
        for camera, sent in timeline.cameras.items()
    }
    several = len(fates) > 1 or len(counts) > 1
    if len(counts) > 1:
        counts['all'] = every
    rows = [
        [camera, str(count.total()), *(str(count[fate]) for fate in fates)]
        for camera, count in counts.items()
    ]
    table = Table(['camera', 'sent', *(FATE_LOOKS[fate].name for fate in fates)], rows)
    causes = summary.count_reasons(result.frames).most_common(5)
    reasons = [[text, str(count)] for text, count in causes]
    failed = Table(['reason', 'frames'], reasons, title='Why frames failed')
    chart = [charts.loss_chart(timeline)] if several else []
    return Section('Lost frames, and where', [*chart, table, failed])


def _latency(result: ReplayResult, timeline: Timeline) -> Iterator[Section]:
    latencies = [ms for frame in result.frames if (ms := frame.latency_ms) is not None]
    if not latencies:
        yield Section('Latency', [Text('No frame was answered, so there is no latency to show.')])
        return
    levels = {at: result.figure(f'latency_{at}_ms').value for at in ('p50', 'p99')}
    medians = [
        (text, ms, colour)
        for name, (text, colour) in STATION_LOOKS.items()
        if (ms := result.figure(f'station_{name}_p50_ms').value) > 0
    ]
    rows: list[list[Piece]] = []
    for name, (text, colour) in LATENCIES.items():
        whole = (f'{name}_p50_ms', f'{name}_p99_ms')
        if result.figure(whole[1]).value > 0:
            cells = [figure_cell(each, result.figure(each)) for each in whole]
            rows.append([Cell(text, colour=colour), *cells])
    others: list[list[Piece]] = [
        [at, figure_cell(name, result.figures[name])]
        for at in ('min', 'mean', 'p90', 'p95', 'max', 'jitter')
        if (name := f'latency_{at}_ms') in result.figures
    ]
    yield Section(
        'Latency of each frame, by station',
        charts.latency_charts(timeline, levels),
        'From the sending of a picture to the receipt of its cones, in milliseconds.',
    )
    histogram = charts.latency_histogram(latencies, levels)
    yield Section('Distribution of the latency', [histogram, Table([], others)], half=True)
    stations = Table(['station', 'median', 'p99'], rows)
    bar = strip('median by station', medians, 'ms')
    yield Section('Where the time goes', [bar, stations], half=True)


def _accuracy(result: ReplayResult) -> Section:
    none_lost = not any(frame.lost for frame in result.frames)
    over = ('sent',) if none_lost else ('sent', 'answered')
    columns = [f'{what}_{whose}' for whose in over for what in ACCURACY_COLUMNS]
    head = [
        title + ('' if none_lost else f', {whose}')
        for whose in over
        for title in ACCURACY_COLUMNS.values()
    ]
    grid = _by_class(result, ACCURACY)
    by_class, bands = (_class_rows(grid, columns, bands) for bands in (False, True))
    counted = (
        'No frame was lost, so all are judged. '
        if none_lost
        else 'Sent: over all frames sent, where a lost frame misses all of its cones. '
        'Answered: over the frames answered. '
    )
    note = (
        'Right: same class, and the boxes share half of what they cover together. '
        'In small: 95 % interval.'
    )
    by_height = Table(['height', *head], bands, title='By height of the cone')
    tables = [Table(['class', *head], by_class, title='By class, all boxes'), by_height]
    return Section('Accuracy', tables, counted + note)


def _consistency(result: ReplayResult) -> Section:
    grid = _by_class(result, CONSISTENCY)
    names = list(dict.fromkeys(what for row in grid.values() for what in row))
    titles = [name.removesuffix('_share').replace('_', ' ') for name in names]
    meanings = [f'{title}: {kind_of(n).what}.' for title, n in zip(titles, names, strict=True)]
    table = Table(['class', *titles], _class_rows(grid, names))
    return Section('Steadiness and agreement', [table], ' '.join(meanings))


def _by_class(result: ReplayResult, pattern: re.Pattern[str]) -> dict[str, dict[str, Cell]]:
    """Class or band of heights, '' for all -> name of a figure without it -> the figure."""
    grid: dict[str, dict[str, Cell]] = {}
    for name, figure in result.figures.items():
        if match := pattern.fullmatch(name):
            what, of = match.groups(default='')
            grid.setdefault(of, {})[what.replace('map50', 'ap50')] = figure_cell(name, figure)
    return grid


def _class_rows(
    grid: Mapping[str, Mapping[str, Cell]], columns: Sequence[str], bands: bool = False
) -> list[list[Piece]]:
    """A row for each class, or for each band; the one for all classes is the last."""
    rows: list[list[Piece]] = []
    for of in sorted((of for of in grid if of.endswith(BAND) == bands), key=lambda of: not of):
        shown = of if bands else Cell('all classes', colour='none')
        if of and not bands:
            blue, green, red = class_colour(of)
            shown = Cell(short_name(of), colour=f'rgb({red},{green},{blue})')
        rows.append([shown, *(grid[of].get(column, '–') for column in columns)])
    return rows


def _load(result: ReplayResult, timeline: Timeline) -> Section:
    blocks: list[Block] = []
    for title, gpu, key, unit in LOADS:
        samples = [[s for s in each if (s.who == 'gpu') == gpu] for each in result.load]
        blocks.append(charts.load_chart(samples, timeline, title, key, unit))
    costs = [
        f'{who} {figure_text(name, result.figures[name])}'
        for who in ('player', 'monitor')
        if (name := f'overhead_{who}_cpu_cores') in result.figures
    ]
    note = f'With a node that only sends headers back: {", ".join(costs)}.' if costs else ''
    return Section('Load of the machine', blocks, note)


def _per_pass(result: ReplayResult) -> Section:
    shown = ('latency_p50_ms', 'latency_p99_ms', 'latency_max_ms', 'rate_out_hz', 'recall_sent')
    names = [name for name in shown if any(name in figures for figures in result.per_pass)]
    rows: list[list[Piece]] = []
    for figures, frames in zip(result.per_pass, result.passes, strict=True):
        answered = sum(frame.fate == 'answered' for frame in frames)
        cells = [figure_cell(name, figures.get(name, UNKNOWN)) for name in names]
        rows.append([str(len(rows) + 1), str(len(frames)), str(answered), *cells])
    head = ['pass', 'sent', 'answered', *(name.replace('_', ' ') for name in names)]
    note = 'Recall: all boxes.' if 'recall_sent' in names else ''
    return Section('Each pass', [Table(head, rows, note=note)] if len(rows) > 1 else [])


def _all_figures(result: ReplayResult) -> Section:
    rows: list[list[Piece]] = []
    for name, figure in result.figures.items():
        (_, better, what), interval = kind_of(name), interval_text(name, figure)
        value = value_text(name, figure.value)
        rows.append([Cell(f'`{name}`'), value, interval, better or '', what])
    head = ['figure', 'value', '95 % interval', 'better', 'what it is']
    return Section(f'All {len(rows)} figures', [Table(head, rows, words=[4])], folded=True)


def _facts(result: ReplayResult) -> Iterator[Section]:
    facts: Mapping[str, Any]
    for title, facts in (
        ('Configuration', result.configuration),
        ('Bag', result.bag),
        ('Model', result.model),
        ('Host', result.host),
        ("The node's last diagnostics", result.health),
    ):
        rows = [[key, str(value)] for key, value in _leaves(facts) if value not in ('', None)]
        yield Section(title, [Table([], rows, words=[1])], folded=True)


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


def _command(result: ReplayResult, files: Mapping[str, str]) -> Section:
    arguments = [str(argument) for argument in result.configuration.get('arguments', ())]
    if '--film' in arguments:
        files = {**files, 'annotated.mp4': 'the drive as a film'}
    command = Listing('', f'cone-perception replay {shlex.join(arguments)}')
    links = [Text([Cell(name, href=name), f': {meaning}']) for name, meaning in files.items()]
    return Section('The same again', [command, *links])
