"""`cone-perception replay compare`: results side by side -> a table, JSON and a page."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple
from itertools import chain
from pathlib import Path

from cone_perception.arguments import text_table
from cone_perception.errors import OutputError, told_as
from cone_perception.files import write_json
from cone_perception.pages.blocks import Bullets, Cell, Chart, Page, Section, Table, Text, Tone
from cone_perception.pages.charts import chart, forest, intervals, series_colour, shares
from cone_perception.pages.page import write_page
from cone_perception.replay.figures.compare import (
    MACHINE,
    SOFTWARE,
    ComparedResults,
    FigureDifference,
    ReplayComparison,
    Verdict,
    compare_results,
    pace_text,
)
from cone_perception.replay.figures.names import (
    figure_cell,
    interval_text,
    name_cell,
    number_text,
    unit_of,
)
from cone_perception.replay.figures.positions import QUANTILES, RANGES_M
from cone_perception.replay.traces import STATIONS

MAIN_FIGURES = (
    *('latency_p50_ms', 'latency_p99_ms', 'own_cost_p50_ms', 'age_at_publish_p99_ms'),
    *('answered_share', 'transport_share', 'dropped_share', 'failed_share', 'rate_out_hz'),
    *('precision_sent', 'recall_sent', 'map50_sent', 'precision_answered', 'recall_answered'),
    *('map50_answered', 'flicker_share', 'agreement_f1', 'max_rate_hz'),
    *('depth_median_m 10 m', 'depth_p90_m 10 m', 'position_nees', 'position_share'),
    'wrong_over_1m_share',
    *('node_cpu_cores', 'node_memory_peak_mb', 'node_memory_slope_mb_per_min'),
)
"""Printed in any case; of the others those with a clear verdict."""

TIMES = (
    *(f'latency_{name}_ms' for name in ('mean', 'p50', 'p90', 'p95', 'p99')),
    *(f'station_{name}_{at}_ms' for name in STATIONS for at in ('p50', 'p99')),
    *('own_cost_p50_ms', 'own_cost_p99_ms', 'age_at_publish_p50_ms', 'age_at_publish_p99_ms'),
)

DEPTHS = tuple(f'depth_{at}_m {range_m} m' for range_m in RANGES_M for at in QUANTILES)

TONES: dict[Verdict, Tone] = {'better': 'good', 'worse': 'bad', 'equal': ''}
"""Of the verdicts; the others are grey."""


def write_comparison(folder: Path, compared: ComparedResults) -> None:
    """Write comparison.json and comparison.html. Raises OSError, OutputError."""
    results = zip(compared.names, compared.paths, strict=True)
    stored = {
        'schema': 1,
        'baseline': compared.names[0],
        'results': [{'name': name, 'path': path} for name, path in results],
        'comparisons': [
            {**asdict(each), 'differences': list(each.differences.values())}
            for each in compared.comparisons
        ],
    }
    write_json(folder / 'comparison.json', stored, indent=1)
    write_page(folder / 'comparison.html', comparison_page(compared))


def comparison_page(compared: ComparedResults) -> Page:
    """Page of a comparison."""
    names = compared.comparisons[0].differences
    accuracy = [name for name in names if name.startswith(('precision', 'recall', 'map50', 'ap50'))]
    depths = [name for name in DEPTHS if name in names]
    return Page(
        'Replays compared',
        f'{", ".join(compared.names[1:])} against {compared.names[0]}',
        sections=[
            *map(_summary, compared.comparisons),
            Section('Latency of each answer', list(_latency_charts(compared))),
            Section('Latency by figure and station', _forest(compared, TIMES, 'ms')),
            Section('Accuracy', _forest(compared, accuracy, ''), 'All boxes, or those named.'),
            Section('Depth error over range', _forest(compared, depths, 'm')),
            Section(
                'All figures',
                [_figures_table(compared)],
                'Small: the 95 % interval. Difference: less the baseline. Equal: all of the '
                'interval is within the margin; better or worse: all of it is on one side of 0, '
                'and it reaches beyond the margin. Of 20 intervals one misses the truth.',
            ),
            Section('What was compared', [_facts_table(compared)]),
        ],
        wide=True,
    )


def comparison_text(compared: ComparedResults) -> str:
    """For a terminal: what limits the comparison first, then the figures that matter."""
    lines = []
    for comparison in compared.comparisons:
        twins = '_answered' if comparison.sent == comparison.answered else 'none'
        shown = [
            each
            for each in comparison.differences.values()
            if (each.name in MAIN_FIGURES or each.verdict in ('better', 'worse'))
            and twins not in each.name
        ]
        others = [each for each in comparison.differences.values() if each not in shown]
        table = text_table(list(map(_row, shown)), words=(0, 4, 6, 7))
        lines += [
            f'{comparison.name} against {compared.names[0]}',
            *(f'  ! {note}' for note in comparison.notes),
            *(f'  {line}' for line in (_frames(comparison), *table)),
            *([f'The other {len(others)} figures: {_counts(others)}.'] if others else []),
            '',
        ]
    lines.append(
        'Difference: less the baseline; in brackets 95 % intervals. Of 20 one misses the truth.'
    )
    return '\n'.join(lines)


def _row(each: FigureDifference) -> list[str]:
    name, interval = each.name, interval_text(each.name, each.difference, signed=True)
    return [
        *(name, number_text(name, each.baseline.value), '->', number_text(name, each.other.value)),
        *(unit_of(name), number_text(name, each.difference.value, signed=True)),
        *(f'[{interval}]' if interval else '', f'{each.verdict}{_because(each)}'),
    ]


def _because(each: FigureDifference) -> str:
    """In short; what is assumed of single runs is among the notes."""
    short = each.why.partition(',')[0]
    return '' if each.verdict == 'equal' or 'paired' in short else f' ({short})'


def _frames(comparison: ReplayComparison) -> str:
    if not comparison.sent:
        return 'No frame in common.'
    return f'{comparison.sent} frames both were sent, {comparison.answered} both answered.'


def _counts(differences: Iterable[FigureDifference]) -> str:
    counts = Counter(each.verdict for each in differences)
    return ', '.join(f'{count} {verdict}' for verdict, count in counts.most_common())


def _summary(comparison: ReplayComparison) -> Section:
    clear = []
    for name, each in comparison.differences.items():
        if each.verdict in ('better', 'worse') and name in MAIN_FIGURES:
            change = f'{number_text(name, each.difference.value, signed=True)} {unit_of(name)}'
            text = f'{each.verdict} {name}: {change}{_because(each)}'
            clear.append(Cell(text, tone=TONES[each.verdict]))
    counts = f'{_frames(comparison)} All figures: {_counts(comparison.differences.values())}.'
    return Section(comparison.name, [Bullets(comparison.notes), Text(counts), Bullets(clear)])


def _latency_charts(compared: ComparedResults) -> Iterator[Chart | Text]:
    """Share of the answers that came within a time: all of them, and the last tenth."""
    latencies = [
        [ms for frame in result.frames if (ms := frame.latency_ms) is not None]
        for result in compared.results
    ]
    if not any(latencies):
        yield Text('No answers.')
        return
    for low, title in ((0.0, 'all answers'), (90.0, 'the last tenth')):
        curves = [
            shares(name, values, series_colour(number), low)
            for number, (name, values) in enumerate(zip(compared.names, latencies, strict=True))
        ]
        yield chart(title, curves, title=title, x='ms', y='%', half=True, showlegend=True)


def _forest(compared: ComparedResults, names: Sequence[str], unit: str) -> list[Chart | Text]:
    """A row for each figure, in it each result with its interval."""
    results = compared.results
    shown = [name for name in names if any(math.isfinite(r.figure(name).value) for r in results)]
    if not shown:
        return [Text('Nothing is known of these.')] if names else []
    traces = []
    for number, (who, result) in enumerate(zip(compared.names, results, strict=True)):
        rows = [(name, *astuple(result.figure(name))) for name in shown]
        traces.append(intervals(who, rows, series_colour(number), unit=unit))
    return [forest('figures with intervals', traces, unit)]


def _figures_table(compared: ComparedResults) -> Table:
    """All figures; for each result but the first its difference and its verdict."""
    head = ['figure', '', compared.names[0]]
    for name in compared.names[1:]:
        head += [name, 'difference', 'verdict']
    rows = []
    names = chain.from_iterable(each.differences for each in compared.comparisons)
    for name in dict.fromkeys(names):
        row: list[Cell | str] = [name_cell(name), unit_of(name)]
        row.append(figure_cell(name, compared.results[0].figure(name), unit=False))
        for comparison, result in zip(compared.comparisons, compared.results[1:], strict=True):
            each = comparison.differences.get(name)
            if each is None:
                row += ['', '', '']
                continue
            why = f'{each.why}; equal within {number_text(name, each.margin)}'
            row += [
                figure_cell(name, result.figure(name), unit=False),
                figure_cell(name, each.difference, unit=False, signed=True),
                Cell(each.verdict, tone=TONES.get(each.verdict, 'dim'), title=why),
            ]
        rows.append(row)
    return Table(head, rows)


def _facts_table(compared: ComparedResults) -> Table:
    """Facts of the results; a row in which they differ is strong."""
    results = compared.results
    facts: dict[str, list[object]] = {
        'result': list(compared.paths),
        'bag': [result.bag.get('path') for result in results],
        'its sha256': [str(result.bag.get('sha256'))[:16] for result in results],
        'through': [result.configuration.get('through') for result in results],
        'pace': [pace_text(result.configuration) for result in results],
        'passes': [len(result.passes) for result in results],
        'model': [result.model.get('name') for result in results],
        'engine': [result.model.get('engine') for result in results],
        'network': [str(result.model.get('network_sha256'))[:16] for result in results],
        'views': [result.model.get('views') for result in results],
    }
    facts |= {what: [r.host.get(what) for r in results] for what in (*MACHINE, *SOFTWARE)}
    rows = [
        [title, *('–' if value is None else str(value) for value in values)]
        for title, values in facts.items()
    ]
    differ = [number for number, (_, *cells) in enumerate(rows) if len(set(cells)) > 1]
    return Table(['', *compared.names], rows, range(1, len(results) + 1), strong=differ)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        'results',
        type=Path,
        nargs='+',
        metavar='RESULT',
        help='result.json of a replay, or its folder; the first is the baseline',
    )
    parser.add_argument(
        '--out', type=Path, help='folder for comparison.json and comparison.html (none)'
    )


def run(args: argparse.Namespace) -> int:
    """Print the comparison, and write it where --out says."""
    compared = compare_results(args.results)
    print(comparison_text(compared))
    if args.out:
        with told_as(OutputError, f'{args.out} cannot be written'):
            args.out.mkdir(parents=True, exist_ok=True)
            write_comparison(args.out, compared)
        print(f'page: {args.out / "comparison.html"}')
    return 0
