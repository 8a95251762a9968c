"""A campaign's report: one HTML page and its Markdown twin, from the campaign's files alone.

campaign folder -> CampaignRecord -> sections -> report.html, report.md
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.accuracy.intervals import Interval
from cone_perception.errors import OutputError
from cone_perception.files import write_whole
from cone_perception.pictures.draw import short_name
from training.campaign.status import duration
from training.judging.compare import against_published, outcome_of
from training.recipe.recipe import BASELINE
from training.report.blocks import (
    Block,
    Bullets,
    Chart,
    Folded,
    Listing,
    Picture,
    Report,
    Section,
    Table,
    Text,
    Tiles,
    Tone,
    render_html,
    render_markdown,
)
from training.report.charts import COLOURS, Bar, Series, forest_chart, line_chart
from training.runs.card import write_card
from training.runs.folder import CampaignFolder, Step
from training.runs.record import MAP50, MAP50_95, CampaignRecord, Training, read_campaign

FILES = 'report_files'
"""Charts beside report.md."""

EVENTS_SHOWN = 200
PROBLEMS_SHOWN = 10

OVERALL = {
    'map50': 'mAP50',
    'map50_95': 'mAP50-95',
    'precision': 'precision',
    'recall': 'recall',
    'precision_fixed': 'precision, fixed',
    'recall_fixed': 'recall, fixed',
}

TONES: Mapping[str, Tone] = {
    'better': 'good',
    'equal': 'unsure',
    'worse': 'bad',
    'inconclusive': 'unsure',
    'not compared': 'unsure',
    'better but below target': 'unsure',
}

MEANINGS = {
    'better': 'The 95 % interval of the difference lies above 0: the choice of test pictures does '
    'not explain the gain.',
    'equal': 'The whole 95 % interval lies within the margin: whatever the difference is, it is '
    'too small to matter, and the simpler model stays.',
    'worse': 'The 95 % interval of the difference lies below 0: the candidate lost accuracy.',
    'inconclusive': 'The interval holds 0 and reaches beyond the margin: better, equal and worse '
    'all remain possible. Not enough evidence is a result: the simpler model stays, and more '
    'pictures or more trainings are what could tell.',
    'better but below target': 'It beats the baseline, but not the figures that were set as '
    'success before the training.',
    'not compared': 'There was no baseline to compare with, so nothing is decided.',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('campaign', type=Path, help='folder of a campaign, as runs/two-stage')
    parser.add_argument(
        '--public',
        type=Path,
        metavar='DIR',
        help='also write NAME.md and its charts there, without any picture of the data and '
        'without paths of this machine',
    )


def run(args: argparse.Namespace) -> int:
    folder = CampaignFolder(args.campaign)
    page = write_report(folder)
    print(f'{page}\n{folder.report_md}\n{folder.card}')
    if args.public:
        print(write_public(folder, args.public))
    return 0


def write_report(folder: CampaignFolder) -> Path:
    """Write report.html, report.md and card.json of a campaign, finished or not; the page's path.

    What is not there is said on the page. Raises SourceError when there is no campaign.
    """
    record = read_campaign(folder)
    report = make_report(record)
    write_whole(folder.report_html, render_html(report))
    write_whole(folder.report_md, render_markdown(report, folder.root, FILES, private=True))
    write_card(record)
    return folder.report_html


def write_public(folder: CampaignFolder, out: Path) -> Path:
    """Write the Markdown and its charts for everybody to see. Raises OutputError."""
    record = read_campaign(folder)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f'{folder.name}.md'
    if path.resolve().is_relative_to(folder.root.resolve()):
        raise OutputError(f'{out} lies in the campaign itself: give a folder outside, as docs/.')
    text = render_markdown(make_report(record), out, folder.name, private=False)
    host = str(record.state.hardware.get('host') or '')
    write_whole(path, without_paths(text.replace(host, 'this machine') if host else text))
    return path


def without_paths(text: str) -> str:
    """The text with the last name of every absolute path only."""
    return re.sub(r'(?<![\w.:/~])/(?:[\w.@+=-]+/)+([\w.@+=-]+)', r'…/\1', text)


def make_report(record: CampaignRecord) -> Report:
    """Everything that the campaign's files say, in the order in which it is asked for."""
    state, outcome = record.state, _outcome(record)
    makers: Sequence[tuple[str, Callable[[CampaignRecord], Iterator[Block]]]] = (
        ('Verdict', _verdict),
        ('Against all baselines', _baselines),
        ('Success table', _gates),
        ('Per class', _per_class),
        ('Per size', _per_size),
        ('Stages', _stages),
        ('Curves', _curves),
        ('Size of the pre-training set', _sweep),
        ('Guards and warnings', _events),
        ('Data', _data),
        ('Leaks', _leaks),
        ('Pictures', _pictures),
        ('Recipe', _recipe),
        ('Machine, time and versions', _machine),
        ('Missing', _missing),
    )
    sections = []
    for title, make in makers:
        blocks = _all_of(title, make, record)
        if blocks:
            sections.append(Section(title, blocks))
    ended = f', ended {_time(state.ended)}' if state.ended else ''
    description = str(record.recipe.get('description') or '').rstrip('.')
    return Report(
        title=f'Campaign {state.name}',
        subtitle=f'{description}. Started {_time(state.started)}{ended}.'.removeprefix('. '),
        badge=outcome or ('failed' if _failed(record) else 'not finished'),
        tone=TONES.get(outcome, 'bad' if outcome or _failed(record) else 'unsure'),
        sections=sections,
    )


def _all_of(
    title: str, make: Callable[[CampaignRecord], Iterator[Block]], record: CampaignRecord
) -> list[Block]:
    """A section's blocks up to the first that cannot be made; that one is said, not hidden."""
    blocks: list[Block] = []
    try:
        blocks.extend(make(record))
    except Exception as error:  # a page with a gap is worth more than none
        reason = f'{type(error).__name__}: {error}'
        record.missing.append(f'"{title}" is not whole: {reason}.')
        blocks.append(Text(f'The rest of this section cannot be shown ({reason}).'))
    return blocks


def _outcome(record: CampaignRecord) -> str:
    return str(record.state.outcome or record.verdict.get('outcome') or '')


def _failed(record: CampaignRecord) -> bool:
    return any(step.status == 'failed' for step in record.state.steps.values())


def _verdict(record: CampaignRecord) -> Iterator[Block]:
    state, verdict, outcome = record.state, record.verdict, _outcome(record)
    yield Text(str(verdict.get('sentence') or state.message or 'There is no verdict yet.'), True)
    yield from _tiles(record)
    if not verdict:
        yield from _standing(record)
        return
    ended = str(verdict.get('outcome', ''))
    if outcome and outcome != ended:
        yield Text(f'The campaign ended otherwise: {outcome}. {state.message}')
    if ended in MEANINGS:
        yield Text(f'What `{ended}` means: {MEANINGS[ended]}')
    yield from _forest(record)
    yield Bullets(verdict.get('reasons', ()))
    if steps := verdict.get('next_steps'):
        yield Text('Next:')
        yield Bullets([_command(step) for step in steps])
    for signature in state.signatures:
        remedies = ', '.join(f'`{name}`' for name in signature.get('remedies', ()))
        yield Text(
            f"The strategy's issue {signature['issue']} ({signature['name']}) shows in "
            f'{signature["run"]}: {signature["message"]} '
            + (f'Recipes to try: {remedies}.' if remedies else 'There is no recipe against it.')
        )


def _command(step: str) -> str:
    """A next step with its command as code."""
    return re.sub(r'((?:cone-training|ros2) .*)$', r'`\1`', step)


def _standing(record: CampaignRecord) -> Iterator[Block]:
    state = record.state
    step = next((name for name, one in state.steps.items() if one.status != 'done'), '')
    done = sum(1 for one in state.steps.values() if one.status == 'done')
    where = f'{done} of {len(state.steps)} steps are done'
    if not step:
        yield Text(f'{where}.')
    elif state.steps[step].status == 'failed':
        yield Text(f'{where}; `{step}` failed. {state.message}')
    else:
        yield Text(f'{where}; `{step}` is next or at work. This page shows what there is.')


def _tiles(record: CampaignRecord) -> Iterator[Block]:
    items: list[tuple[str, str, Tone]] = []
    own = record.comparison.get('own', {})
    if figure := own.get('map50'):
        items.append((_figure(figure['value']), f'test mAP50 of {record.candidate}', ''))
    if against := record.verdict.get('against'):
        first = against[0]
        found = first['difference']
        words = f'against {first["label"]}, 95 %: {_signed(found["low"])} to '
        items.append(
            (
                _signed(found['value']),
                words + _signed(found['high']),
                TONES.get(first['outcome'], ''),
            )
        )
    if gates := record.verdict.get('gates'):
        passed = sum(1 for gate in gates if gate['passed'])
        unproven = sum(1 for gate in gates if gate['passed'] and not gate['proven'])
        note = f', {unproven} unproven' if unproven else ''
        items.append(
            (
                f'{passed} of {len(gates)}',
                f'figures of the success table{note}',
                'bad' if passed < len(gates) else 'unsure' if unproven else 'good',
            )
        )
    runs = {t.run for t in record.trainings if t.arm == record.candidate and t.epochs}
    if runs:
        items.append(
            (
                str(len(runs)),
                'trainings of the candidate'
                if len(runs) > 1
                else 'training of the candidate: judges these weights, not the strategy',
                '',
            )
        )
    seconds = sum(step.seconds for step in record.state.steps.values())
    if seconds:
        energy = record.state.energy_wh
        note = f', {energy / 1000:.2f} kWh of the GPUs' if energy is not None else ''
        items.append((duration(seconds), f'of work{note}', ''))
    if items:
        yield Tiles(items)


def _forest(record: CampaignRecord) -> Iterator[Block]:
    bars = []
    for place, line in enumerate(record.verdict.get('against', ())):
        value, low, high = (_nan(line['difference'][key]) for key in ('value', 'low', 'high'))
        name = line['label'].replace('(published, not paired)', '(published)')
        bars.append(Bar(name, value, low, high, bool(line['published']), place == 0))
    svg = forest_chart(
        bars, record.margin, 'Differences from the baselines', 'difference in test mAP50'
    )
    if svg:
        yield Chart(
            'difference',
            svg,
            f'{record.candidate} minus each baseline, with 95 % intervals; right of 0 it is '
            f'better. Shaded: equal within {record.margin:g}. Hollow and dashed: a published '
            'figure, not paired.',
            wide=True,
        )


def _baselines(record: CampaignRecord) -> Iterator[Block]:
    rows: list[list[str]] = []
    strong: list[int] = []
    against = {line['baseline']: line for line in record.verdict.get('against', ())}
    for arm, runs in record.runs().items():
        tests = [test for run in runs if (test := record.test(run))]
        if not tests:
            continue
        if arm == record.candidate:
            strong.append(len(rows))
        figures = [
            statistics.mean(_nan(_overall(test)[name]) for test in tests) for name in OVERALL
        ]
        rows.append([arm, str(len(tests)), *map(_figure, figures), *_difference(against.get(arm))])
    for name, printed in record.published.items():
        published = [_figure(printed.get(metric)) for metric in OVERALL]
        label = f'{name} (published, not paired)'
        rows.append([label, '', *published, *_printed_difference(record, printed)])
    if not rows:
        yield Text('No model has been evaluated on the test pictures yet.')
        return
    confidence = _confidence(record)
    yield Table(
        ['model', 'trainings', *OVERALL.values(), 'difference in mAP50 (95 %)', 'says'],
        rows,
        words=[len(OVERALL) + 3],
        strong=strong,
        note='Of several trainings the mean. Difference: the candidate minus that model. Precision '
        'and recall are at the best F1 of each model, so not at the same point; fixed: at '
        f'confidence {confidence} for all. A published figure is what somebody printed: its own '
        'error is unknown and nothing is paired.',
    )
    for comparison in record.comparison.get('comparisons', ()):
        yield from _comparison(comparison)
    yield from _seeds(record)


def _confidence(record: CampaignRecord) -> str:
    judging = record.recipe.get('judging') or {}
    return f'{judging.get("confidence", 0.25):g}'


def _overall(figures: Mapping[str, Any]) -> dict[str, Any]:
    best, fixed = figures.get('best_f1', {}), figures.get('fixed', {})
    return {
        'map50': figures.get('map50'),
        'map50_95': figures.get('map50_95'),
        'precision': best.get('precision'),
        'recall': best.get('recall'),
        'precision_fixed': fixed.get('precision'),
        'recall_fixed': fixed.get('recall'),
    }


def _difference(line: Mapping[str, Any] | None) -> list[str]:
    if line is None:
        return ['', '']
    found = line['difference']
    return [f'{_signed(found["value"])} ({_range(found)})', str(line['outcome'])]


def _printed_difference(record: CampaignRecord, printed: Mapping[str, Any]) -> list[str]:
    """Of the candidate from a published figure, taken as exact."""
    own, figure = record.comparison.get('own', {}).get('map50'), printed.get('map50')
    if not own or figure is None:
        return ['', '']
    interval = Interval(*(_nan(own[key]) for key in ('value', 'low', 'high')))
    found = against_published({'map50': interval}, float(figure))
    outcome = outcome_of(found, record.margin).label
    return _difference({'difference': asdict(found), 'outcome': outcome})


def _comparison(comparison: Mapping[str, Any]) -> Iterator[Block]:
    a, b = comparison['a'], comparison['b']
    rows = []
    for row in comparison['differences']:
        if row['name'] in OVERALL:
            found = row['difference']
            rows.append(
                [
                    OVERALL[row['name']],
                    _figure(row['a']['value']),
                    _figure(row['b']['value']),
                    _signed(found['value']),
                    _range(found),
                    _range(row['strategy']) if row['strategy'] else '',
                ]
            )
    both = any(row[-1] for row in rows)
    columns = ['', a, b, 'difference', '95 % over pictures', '95 % over pictures and trainings']
    kept = slice(None) if both else slice(-1)
    yield Text(f'Paired with {b}: {comparison["meaning"]}')
    yield Table(
        columns[kept],
        [row[kept] for row in rows],
        strong=[0],
        note=f'{comparison["pictures"]} pictures with {comparison["cones"]} cones; '
        f'{comparison["resamples"]} resamples of {comparison["groups"]} groups (each a '
        f'{comparison["grouping"]}). Of so many intervals one is expected to miss the truth: mAP50 '
        f'decides, the others describe. {" ".join(comparison["warnings"])}',
    )


def _seeds(record: CampaignRecord) -> Iterator[Block]:
    rows = []
    for arm, runs in record.runs().items():
        tests = [(run, test) for run in runs if (test := record.test(run))]
        if len(tests) > 1:
            rows += [[run, *(_figure(v) for v in _overall(test).values())] for run, test in tests]
            spread = [
                np.std([_nan(_overall(test)[name]) for _, test in tests], ddof=1)
                for name in OVERALL
            ]
            rows.append([f'{arm}: standard deviation', *map(_figure, spread)])
    if rows:
        yield Text('Each training:')
        yield Table(['training', *OVERALL.values()], rows)


def _gates(record: CampaignRecord) -> Iterator[Block]:
    gates = record.verdict.get('gates')
    if gates:
        yield Table(
            ['figure', 'must exceed', 'is', '95 %', ''],
            [
                [
                    OVERALL[gate['metric']],
                    f'{gate["limit"]:g}',
                    _figure(gate['figure']['value']),
                    _range(gate['figure'], signed=False),
                    str(gate['status']),
                ]
                for gate in gates
            ],
            words=[4],
            note='The figure decides. Unproven: its 95 % interval holds the limit, so other '
            'pictures of the same kind could turn it.',
        )
    elif (record.recipe.get('judging') or {}).get('success'):
        yield Text('The figures that the recipe asks for have not been judged yet.')


def _per_class(record: CampaignRecord) -> Iterator[Block]:
    names: list[str] = []
    for what in record.evaluations.values():
        names = names or list(what.get('test', {}).get('class_names', ()))

    def cells(test: Mapping[str, Any], name: str) -> tuple[Any, Any]:
        entry = test.get('per_class', {}).get(name, {})
        return entry.get('truths'), entry.get('ap50')

    labels = {name: (short_name(name), f'map50 {name}') for name in names}
    yield from _breakdown(record, 'class', labels, cells)
    tests = _mean_tests(record)
    if record.candidate in tests and names:
        rows = []
        for name in names:
            entries = [test['per_class'][name] for test in tests[record.candidate]]
            keys = ('ap50_95', 'precision', 'recall', 'fixed_precision', 'fixed_recall')
            values = [statistics.mean(_nan(entry[key]) for entry in entries) for key in keys]
            rows.append([short_name(name), *map(_figure, values)])
        yield Text(f'{record.candidate} in detail:')
        yield Table(
            ['class', 'AP50-95', 'precision', 'recall', 'precision, fixed', 'recall, fixed'], rows
        )


def _per_size(record: CampaignRecord) -> Iterator[Block]:
    first = next((t for tests in _mean_tests(record).values() for t in tests), {})
    bands = [(band['low_px'], band['high_px']) for band in first.get('bands', ())]
    labels = {}
    for low, high in bands:
        name = f'from {low:g} px' if high is None else f'{low:g}-{high:g} px'
        labels[str(low)] = (name, f'map50 {name}')

    def cells(test: Mapping[str, Any], low: str) -> tuple[Any, Any]:
        bands = test.get('bands', ())
        entry: Any = next((band for band in bands if str(band['low_px']) == low), {})
        return entry.get('truths'), entry.get('map50')

    yield from _breakdown(record, 'box height', labels, cells)
    if labels:
        yield Text('Heights as they would be in a picture 1280 pixels wide.')


def _breakdown(
    record: CampaignRecord,
    what: str,
    labels: Mapping[str, tuple[str, str]],
    cells: Callable[[Mapping[str, Any], str], tuple[Any, Any]],
) -> Iterator[Block]:
    """mAP50 of every model, row by row, and the paired difference from the deciding baseline.

    labels: key -> what is shown, and the figure's name in the comparison.
    """
    tests = _mean_tests(record)
    if not tests or not labels:
        return
    against = record.verdict.get('against') or [{}]
    comparisons = [
        comparison
        for comparison in record.comparison.get('comparisons', ())
        if comparison['b'] == against[0].get('baseline')
    ]
    rows = []
    for key, (label, figure) in labels.items():
        first = next(iter(tests.values()))[0]
        row = [label, _count(cells(first, key)[0])]
        for each in tests.values():
            row.append(_figure(statistics.mean(_nan(cells(test, key)[1]) for test in each)))
        for comparison in comparisons:
            found = [d for d in comparison['differences'] if d['name'] == figure]
            difference = found[0]['difference'] if found else None
            row.append(
                f'{_signed(difference["value"])} ({_range(difference)})' if difference else ''
            )
        rows.append(row)
    minus = [f'{c["a"]} minus {c["b"]} (95 %)' for c in comparisons]
    yield Table([what, 'cones', *(f'{name}, AP50' for name in tests), *minus], rows)


def _mean_tests(record: CampaignRecord) -> dict[str, list[dict[str, Any]]]:
    """Test figures of each arm's runs; arms without any are left out."""
    found = {
        arm: [test for run in runs if (test := record.test(run))]
        for arm, runs in record.runs().items()
    }
    return {arm: tests for arm, tests in found.items() if tests}


def _stages(record: CampaignRecord) -> Iterator[Block]:
    rows = []
    for training in record.trainings:
        about = training.step.result
        planned = training.settings.get('epochs', '?')
        best = about.get('best_map50')
        rows.append(
            [
                training.run,
                training.stage,
                training.data,
                _count(training.pictures) if training.pictures else '',
                ', '.join(filter(None, (f'{len(training.epochs)} / {planned}', _ending(training)))),
                _figure(training.start_map50),
                f'{_figure(best)} ({about.get("best_epoch")})' if best is not None else '',
                *(_validated(record, training, what) for what in ('val', 'target_val')),
                duration(training.step.seconds) if training.step.seconds else '',
            ]
        )
    if not rows:
        yield Text('No stage has begun.')
        return
    yield Table(
        [
            'training',
            'stage',
            'data',
            'pictures',
            'epochs',
            'start',
            'best (epoch)',
            'on own val',
            'on target',
            'time',
        ],
        rows,
        words=[1, 2, 4],
        note='Pictures: crops, where the stage trains on crops. The figures are mAP50. '
        "Start: of the weights that the stage started from, on the target's "
        "validation pictures. Best: of best.pt in training, on the stage's own. The last two: of "
        'best.pt, evaluated as the test is.',
    )
    worse = [
        f'{t.run} {t.stage}' for t in record.trainings if t.step.result.get('worse_than_start')
    ]
    if worse:
        yield Text(f'Worse than what they started from, even at their best: {", ".join(worse)}.')


def _ending(training: Training) -> str:
    stopped = training.step.result.get('stopped_by')
    if stopped:
        follows = training.step.result.get('goes_on_with')
        return f'{stopped}, then {follows}' if follows else str(stopped)
    return '' if training.step.status == 'done' else training.step.status


def _validated(record: CampaignRecord, training: Training, what: str) -> str:
    found = record.evaluations.get(training.run, {}).get(f'{training.stage}_{what}')
    if not found and what == 'target_val' and training.on_target:
        found = record.evaluations.get(training.run, {}).get(f'{training.stage}_val')
    return _figure(found['figures']['map50']) if found else ''


def _curves(record: CampaignRecord) -> Iterator[Block]:
    drawn = [training for training in record.trainings if training.epochs]
    if not drawn:
        yield Text('No epoch is finished yet.')
        return
    arms = list(dict.fromkeys(training.arm for training in drawn))
    legend = [(arm, COLOURS[place % len(COLOURS)]) for place, arm in enumerate(arms)]
    if any(not training.on_target for training in drawn):
        legend.append(('on the pre-training set', ''))
    words, crossings = _crossing(record)
    if words:
        yield Text(words)

    def series(values: Callable[[Training], Sequence[float]], by_epoch: bool) -> list[Series]:
        return [
            Series(
                f'{training.run} {training.stage}',
                training.epochs if by_epoch else training.passes_at(),
                values(training),
                colour=arms.index(training.arm),
                dashed=not training.on_target,
            )
            for training in drawn
            if len(values(training)) == len(training.epochs)
        ]

    def chart(
        name: str,
        caption: str,
        values: Callable[[Training], Sequence[float]],
        by_epoch: bool,
        log_y: bool = False,
    ) -> Iterator[Chart]:
        x_title = 'epoch of the stage' if by_epoch else 'pictures shown, all stages'
        marks = [(place, 'cross') for place in crossings if name == 'map50-by-passes']
        svg = line_chart(series(values, by_epoch), caption, x_title, log_y=log_y, verticals=marks)
        if svg:
            yield Chart(name, svg, caption, legend)

    def column(name: str) -> Callable[[Training], Sequence[float]]:
        return lambda training: training.columns.get(name, ())

    def total(prefix: str) -> Callable[[Training], Sequence[float]]:
        return lambda training: training.total(prefix)

    yield from chart('map50-by-passes', 'Validation mAP50 by pictures shown.', column(MAP50), False)
    yield from chart('map50-by-epoch', 'Validation mAP50 by epoch.', column(MAP50), True)
    yield from chart(
        'map50-95-by-passes', 'Validation mAP50-95 by pictures shown.', column(MAP50_95), False
    )
    yield from chart('map50-95-by-epoch', 'Validation mAP50-95 by epoch.', column(MAP50_95), True)
    for kind, words in (('train', 'Training'), ('val', 'Validation')):
        yield from chart(
            f'{kind}-loss-by-passes',
            f'{words} loss, all its parts added.',
            total(f'{kind}/'),
            False,
        )
    yield from chart(
        'learning-rate-by-passes',
        'Learning rate (first parameter group) by pictures shown.',
        column('lr/pg0'),
        False,
        True,
    )
    yield from chart(
        'learning-rate-by-epoch',
        'Learning rate (first parameter group) by epoch.',
        column('lr/pg0'),
        True,
        True,
    )

    parts: list[Chart] = []
    for name in dict.fromkeys(name for one in drawn for name in one.lines('train/')):
        part = name.removeprefix('train/')
        for kind, words in (('train', 'Training'), ('val', 'Validation')):
            caption = f'{words}: {part} by pictures shown.'
            parts += chart(f'{kind}-{part}', caption, column(f'{kind}/{part}'), False)
    yield Folded('Each part of the losses', parts)


def _crossing(record: CampaignRecord) -> tuple[str, list[float]]:
    """Where the best mAP50 so far of candidate and baseline change places, by pictures shown.

    In words, and as numbers of pictures.
    """
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
            f'On the target, {candidate} is validated between {_span(curves[candidate])} pictures '
            f'shown, {other} between {_span(curves[other])}: nothing to lay over each other yet.'
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
    span = f'between {at[0]:,.0f} and {at[-1]:,.0f} pictures shown'
    if not places:
        return f'{measure}, {leader} leads everywhere {span}.', []
    crossed = ', '.join(f'{place:,.0f}' for place in places)
    return (
        f'{measure}, the curves of {candidate} and {other} cross at {crossed} pictures shown, and '
        f'{leader} leads at the end ({span}).',
        places,
    )


def _span(runs: Sequence[tuple[Any, Any]]) -> str:
    return f'{min(xs[0] for xs, _ in runs):,.0f} and {max(xs[-1] for xs, _ in runs):,.0f}'


def _best_so_far(record: CampaignRecord, arm: str) -> list[tuple[Any, Any]]:
    """Of each run of an arm: pictures shown, and the best mAP50 on the target until then."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for training in record.trainings:
        forgot = training.step.result.get('stopped_by') == 'forgetting'
        if training.arm != arm or not training.on_target or not training.epochs or forgot:
            continue
        xs, ys = found.setdefault(training.run, ([], []))
        if training.start_map50 is not None:
            xs.append(training.passes)
            ys.append(training.start_map50)
        pairs = zip(training.passes_at(), training.columns.get(MAP50, ()), strict=True)
        for x, y in pairs:
            if math.isfinite(y):
                xs.append(x)
                ys.append(y)
    return [(np.array(xs), np.maximum.accumulate(ys)) for xs, ys in found.values() if xs]


def _sweep(record: CampaignRecord) -> Iterator[Block]:
    intervals: dict[str, Mapping[str, Any]] = {}
    for comparison in record.comparison.get('comparisons', ()):
        for row in comparison['differences']:
            if row['name'] == 'map50':
                intervals[comparison['a']], intervals[comparison['b']] = row['a'], row['b']
    for key in record.recipe.get('sweep') or {}:
        points = []
        for arm, tests in _mean_tests(record).items():
            name, _, value = arm.partition('=')
            if name == key and value:
                mean = statistics.mean(_nan(test['map50']) for test in tests)
                known = intervals.get(arm, {})
                error = (_nan(known.get('low')), _nan(known.get('high')))
                points.append((float(value), mean, error, len(tests)))
        points.sort()
        if not points:
            yield Text(f'No arm of the sweep over `{key}` has been tested yet.')
            continue
        share = key.endswith('.fraction')
        scale = 100 if share else 1
        x_title = 'pre-training pictures used, %' if share else key
        line = Series(
            key,
            [x * scale for x, *_ in points],
            [y for _, y, *_ in points],
            marks=True,
            error=[error for *_, error, _ in points],
        )
        yield Chart(
            f'sweep-{key.replace(".", "-")}',
            line_chart([line], f'test mAP50 over {key}', x_title),
            'Test mAP50 with its 95 % interval over pictures.',
            wide=True,
        )
        yield Table(
            [x_title, 'test mAP50', '95 %', 'trainings'],
            [
                [
                    f'{x * scale:g}',
                    _figure(y),
                    _range({'low': low, 'high': high}, signed=False),
                    str(count),
                ]
                for x, y, (low, high), count in points
            ],
        )


def _events(record: CampaignRecord) -> Iterator[Block]:
    told = [event for event in record.events if event.get('kind') in ('warning', 'error')]
    checks = Counter(
        (str(event.get('run', '')), str(event.get('step', '')), str(event.get('name', '')))
        for event in record.events
        if event.get('kind') == 'guard'
    )
    last = {
        (str(event.get('run', '')), str(event.get('step', '')), str(event.get('name', ''))): event
        for event in record.events
        if event.get('kind') == 'guard'
    }
    if told:
        yield Text(f'Warnings and errors: {len(told)}.')
        yield Table(
            ['time', 'where', 'what', 'message'],
            [
                [
                    _time(event.get('time')),
                    ' '.join(filter(None, (event.get('run'), event.get('step')))),
                    f'{event["kind"]}: {event.get("name", "")}',
                    str(event.get('message', '')),
                ]
                for event in told[-EVENTS_SHOWN:]
            ],
            words=[1, 2, 3],
        )
    else:
        yield Text('No warning and no error.')
    if checks:
        yield Text('What the guards checked, and what they said last:')
        yield Table(
            ['run', 'stage', 'guard', 'times', 'last'],
            [
                [*key, str(count), str(last[key].get('message', ''))]
                for key, count in checks.items()
            ],
            words=[1, 2, 4],
        )


def _data(record: CampaignRecord) -> Iterator[Block]:
    expected = {
        name: entry.get('images') or {}
        for name, entry in (record.recipe.get('datasets') or {}).items()
    }
    rows = []
    classes = []
    for name, report in record.verifications.items():
        for split, counts in report.get('counts', {}).items():
            wanted = expected.get(name, {}).get(split)
            heights = counts.get('height_px') or []
            middle = f'{heights[2]:.0f}' if len(heights) == 5 else ''
            rows.append(
                [
                    f'{name} {split}',
                    _count(counts['pictures']),
                    _count(wanted) if wanted is not None else '',
                    _count(counts['background']),
                    _count(counts['dropped']),
                    _count(sum(counts['boxes'].values())),
                    middle,
                ]
            )
            classes.append([f'{name} {split}', *map(_count, counts['boxes'].values())])
    if not rows:
        yield Text('No data set has been verified yet.')
        return
    yield Table(
        ['', 'pictures', 'expected', 'background', 'dropped', 'cones', 'median height, px'],
        rows,
        note='Dropped: pictures that Ultralytics would leave out without a word, because a line of '
        'their label is wrong.',
    )
    some: dict[str, Any] = next(iter(record.verifications.values())).get('counts', {})
    first: dict[str, Any] = next(iter(some.values()), {})
    names = [short_name(name) for name in first.get('boxes', {})]
    yield Table(['cones', *names], classes)
    verify = record.state.steps.get('verify', Step()).result
    manifests = verify.get('manifests') or {}
    for name, report in record.verifications.items():
        if not report:
            continue
        manifest = manifests.get(name) or report.get('manifest_sha256') or 'none'
        renamed = [
            f'{own} is {project}'
            for own, project in (report.get('mapping') or {}).items()
            if own != project
        ]
        yield Text(
            f'{name}: {"verified" if report.get("ok") else "FAILED verification"}; manifest '
            f'sha256 `{manifest}`'
            + (f'; classes mapped: {", ".join(renamed)}' if renamed else '')
            + '.'
        )
        problems = report.get('problems') or []
        if problems:
            kinds = Counter(problem['kind'] for problem in problems)
            counted = ', '.join(f'{count} {kind}' for kind, count in kinds.most_common())
            yield Text(f'{len(problems)} findings in {name}: {counted}.')
            yield Table(
                ['file', 'kind', 'message'],
                [
                    [
                        str(p['file']),
                        f'{p["kind"]}{" (fatal)" if p["fatal"] else ""}',
                        str(p['message']),
                    ]
                    for p in problems[:PROBLEMS_SHOWN]
                ],
                words=[1, 2],
                note=f'All of them: data/{name}/verify.json.'
                if len(problems) > PROBLEMS_SHOWN
                else '',
            )
    for name in record.verifications:
        path = record.folder.distributions(name)
        if path.is_file():
            yield Picture(path, f'{name}: classes and sizes.', private=False)


def _leaks(record: CampaignRecord) -> Iterator[Block]:
    for path, report in record.leaks.items():
        if not report:
            continue
        counts = report.get('counts') or []
        sets = ', '.join(report.get('sets', {}))
        if counts:
            yield Table(
                ['pictures of', 'like pictures of', 'pairs'],
                [[str(a), str(b), _count(count)] for a, b, count in counts],
                words=[1],
                note=f'Pairs that differ in at most {report.get("bits")} of 256 bits of a '
                'difference hash, mirror images included.',
            )
        else:
            yield Text(f'{sets}: no two pictures differ in {report.get("bits")} bits or less.')
        excluded = {name: len(paths) for name, paths in report.get('exclusions', {}).items()}
        used = (record.recipe.get('leaks') or {}).get('exclude', True)
        verb = 'left out of training' if used else 'that stay in training (leaks.exclude: false)'
        yield Text(
            f'Training pictures like one of a val or test split, {verb}: '
            + (', '.join(f'{count} of {name}' for name, count in excluded.items()) or 'none')
            + '.'
        )
        if consecutive := report.get('consecutive'):
            yield Text(
                f'{len(consecutive)} pairs of consecutive file numbers lie in different splits: '
                'frames of one drive may judge what they trained.'
            )
        sheet = path.with_suffix('.png')
        if sheet.is_file():
            yield Picture(sheet, f'The closest pairs of {sets}.', private=True)
    if not record.leaks:
        yield Text('Near-duplicates have not been looked for yet.')


def _pictures(record: CampaignRecord) -> Iterator[Block]:
    runs = [run for names in record.runs().values() for run in names]
    for run in runs:
        place = record.folder.evaluation(run, 'test')
        for file, words in (
            ('pr_curves.png', 'precision over recall on the test pictures'),
            ('confusion.png', 'confusion on the test pictures'),
        ):
            if (place / file).is_file():
                yield Picture(place / file, f'{run}: {words}.', private=False, wide=False)
    for run in runs:
        sheet = record.folder.evaluation(run, 'test') / 'worst.jpg'
        if sheet.is_file():
            yield Picture(sheet, f'{run}: the test pictures with most errors.', private=True)


def _recipe(record: CampaignRecord) -> Iterator[Block]:
    recipe = record.recipe
    if recipe:
        yield Text(
            f'Starts from `{recipe.get("model")}`; target `{recipe.get("target")}`; seeds '
            f'{recipe.get("seeds")}; device {recipe.get("device")}; selected by '
            f'{recipe.get("select_by")}; sha256 `{record.state.recipe_sha256}`.'
        )
    rows = []
    for kind in ('stages', 'baseline'):
        for stage in recipe.get(kind) or ():
            rows.append(
                [
                    f'{"single-stage: " if kind == "baseline" else ""}{stage["name"]}',
                    str(stage['data']),
                    str(stage['epochs']),
                    str(stage['batch']),
                    str(stage['imgsz']),
                    str(stage['optimizer']),
                    f'{stage["lr0"]:g}',
                    f'{stage["lr0"] * stage["lrf"]:.3g}',
                    str(stage['patience']),
                    str(stage['freeze']),
                ]
            )
    if rows:
        yield Table(
            [
                'stage',
                'data',
                'epochs',
                'batch',
                'input, px',
                'optimizer',
                'peak rate',
                'last rate',
                'patience',
                'frozen',
            ],
            rows,
            words=[1, 5],
        )
    if record.recipe_text:
        yield Listing('recipe.yaml, as it was run', record.recipe_text, 'yaml')


def _machine(record: CampaignRecord) -> Iterator[Block]:
    state = record.state
    rows = [['commit', f'`{state.commit}`' if state.commit else 'not known']]
    for key, value in state.hardware.items():
        if key == 'gpus':
            value = '; '.join(' '.join(gpu.values()) for gpu in value) or 'none'
        rows.append([key.replace('_', ' '), str(value)])
    rows.append(['versions', ', '.join(f'{name} {v}' for name, v in state.versions.items())])
    energy = state.energy_wh
    rows.append(
        ['energy of the GPUs', f'{energy:.1f} Wh' if energy is not None else 'not measured']
    )
    yield Table(['what', 'is'], rows, words=[1])
    if record.tracked:
        yield Table(
            ['W&B run', 'mode', 'where'],
            [
                [
                    str(one.get('name', '')),
                    str(one.get('mode', 'not started')),
                    str(one.get('url') or 'in this folder: `wandb sync wandb/offline-run-*`'),
                ]
                for one in record.tracked
            ],
            words=[1, 2],
        )
    yield Table(
        ['step', 'status', 'time'],
        [
            [name, step.status, duration(step.seconds) if step.seconds else '']
            for name, step in state.steps.items()
        ],
        words=[1],
    )


def _missing(record: CampaignRecord) -> Iterator[Block]:
    # The report's own step is at work while this is written.
    shown = [text for text in record.missing if not text.startswith('Step `report`')]
    if shown:
        yield Bullets(shown)


def _nan(value: Any) -> float:
    return math.nan if value is None else float(value)


def _figure(value: Any) -> str:
    number = _nan(value)
    return f'{number:.4f}' if math.isfinite(number) else '–'


def _signed(value: Any) -> str:
    number = _nan(value)
    return f'{number:+.4f}' if math.isfinite(number) else '–'


def _range(found: Mapping[str, Any], signed: bool = True) -> str:
    show = _signed if signed else _figure
    return f'{show(found["low"])} to {show(found["high"])}'


def _time(text: Any) -> str:
    """2026-02-01T08:00:00+00:00 -> 2026-02-01 08:00 UTC."""
    return re.sub(r'T(\d\d:\d\d)(:\d\d)?\+00:00$', r' \1 UTC', str(text or ''))


def _count(value: Any) -> str:
    number = _nan(value)
    return f'{number:,.0f}' if math.isfinite(number) else '–'
