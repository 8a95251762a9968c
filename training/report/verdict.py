"""Sections that judge a campaign: the verdict, the baselines, figures by class, size and sweep."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from cone_perception.accuracy.intervals import Interval
from cone_perception.files import from_json
from cone_perception.pages.blocks import Block, Bullets, Table, Text, Tile, Tiles, Tone
from cone_perception.pages.charts import chart, intervals, line
from training.judging.compare import Comparison
from training.judging.compare_command import comparison_blocks, difference_chart
from training.judging.metrics import PRIMARY, TITLES, Metrics
from training.judging.page import shown, span
from training.judging.verdict import Verdict, outcome_of
from training.runs.progress import duration
from training.runs.record import CampaignRecord

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

TONES: Mapping[str, Tone] = {**dict.fromkeys(MEANINGS, 'unsure'), 'better': 'good', 'worse': 'bad'}
"""Outcome -> colour."""


def verdict_of(record: CampaignRecord) -> Verdict | None:
    """The campaign's verdict; None: there is none yet."""
    return from_json(Verdict, record.verdict, 'verdict.json') if record.verdict else None


def tests_of(record: CampaignRecord) -> dict[str, dict[str, Metrics]]:
    """Test figures of each training that has any, by arm."""
    found: dict[str, dict[str, Metrics]] = {}
    for arm, runs in record.runs().items():
        for run in runs:
            stored = record.evaluations.get(run, {}).get('test', {}).get('figures')
            if stored:
                found.setdefault(arm, {})[run] = from_json(Metrics, stored, 'figures')
    return found


def own_map50(record: CampaignRecord) -> Interval | None:
    """Test mAP50 of the candidate, mean over its trainings; None: not compared yet."""
    stored = record.comparison.get('own', {}).get(PRIMARY)
    return from_json(Interval, stored, 'own') if stored else None


def verdict(record: CampaignRecord) -> Iterator[Block]:
    state, found, outcome = record.state, verdict_of(record), record.outcome
    sentence = found.sentence if found else state.message
    yield Text(sentence or 'There is no verdict yet.', strong=True)
    yield from _tiles(record, found)
    if not found:
        steps, left = state.steps, state.unfinished()
        words = f'{len(steps) - len(left)} of {len(steps)} steps are done'
        if left and steps[left[0]].status == 'failed':
            words += f'; `{left[0]}` failed. {state.message}'
        elif left:
            words += f'; `{left[0]}` is next or at work. This page shows what there is.'
        yield Text(words if left else f'{words}.')
        return
    if outcome and outcome != found.outcome:
        yield Text(f'The campaign ended otherwise: {outcome}. {state.message}')
    yield Text(f'What `{found.outcome}` means: {MEANINGS[found.outcome]}')
    yield from _forest(record, found)
    yield Bullets(found.reasons)
    if found.next_steps:
        command = re.compile(r'((?:cone-training|ros2) .*)$')
        yield Text('Next:')
        yield Bullets([command.sub(r'`\1`', each) for each in found.next_steps])
    for signature in state.signatures:
        remedies = ', '.join(f'`{name}`' for name in signature.get('remedies', ()))
        yield Text(
            f"The strategy's issue {signature['issue']} ({signature['name']}) shows in "
            f'{signature["run"]}: {signature["message"]} '
            + (f'Recipes to try: {remedies}.' if remedies else 'There is no recipe against it.')
        )


def _tiles(record: CampaignRecord, found: Verdict | None) -> Iterator[Block]:
    tiles = []
    if own := own_map50(record):
        tiles.append(Tile(shown(own.value), f'test mAP50 of {record.candidate}, all boxes'))
    if found and found.against:
        first = found.against[0]
        words = f'against {first.label}, 95 %: {span(first.difference)}'
        tiles.append(Tile(shown(first.difference.value, '+.4f'), words, TONES[first.outcome]))
    if found and found.gates:
        passed = [gate for gate in found.gates if gate.passed]
        unproven = sum(not gate.proven for gate in passed)
        note = f', {unproven} unproven' if unproven else ''
        tone: Tone = 'unsure' if unproven else 'good'
        tone = tone if len(passed) == len(found.gates) else 'bad'
        words = f'figures of the success table{note}'
        tiles.append(Tile(f'{len(passed)} of {len(found.gates)}', words, tone))
    if runs := {t.run for t in record.trainings if t.arm == record.candidate and t.epochs}:
        words = 'training of the candidate: judges these weights, not the strategy'
        words = 'trainings of the candidate' if len(runs) > 1 else words
        tiles.append(Tile(str(len(runs)), words))
    if seconds := sum(step.seconds for step in record.state.steps.values()):
        energy = record.state.energy_wh
        note = f', {energy / 1000:.2f} kWh of the GPUs' if energy is not None else ''
        tiles.append(Tile(duration(seconds), f'of work{note}'))
    yield Tiles(tiles)


def _forest(record: CampaignRecord, found: Verdict) -> Iterator[Block]:
    """Differences from the baselines, beside the band that counts as equal."""
    rows: dict[tuple[str, str], list[tuple[str, float, float, float]]] = {}
    for each in found.against:
        known = each.difference
        if known.known:
            name = f'{each.baseline} (published)' if each.published else each.baseline
            kind = 'published' if each.published else 'paired'
            colour = '--dim' if known.low <= 0 <= known.high else '--blue'
            row = (name, known.value, known.low, known.high)
            rows.setdefault((kind, colour), []).append(row)
    if rows:
        traces = [
            intervals(kind, lines, colour, hollow=kind == 'published')
            for (kind, colour), lines in rows.items()
        ]
        note = 'Hollow: a published figure, not paired. Grey: the interval holds 0.'
        yield difference_chart('difference', traces, record.candidate, record.margin, note)


def baselines(record: CampaignRecord) -> Iterator[Block]:
    found, tests = verdict_of(record), tests_of(record)
    against = {line.baseline: line for line in (found.against if found else ())}
    rows: list[list[str]] = []
    strong = []
    for arm, runs in tests.items():
        values = [list(figures.overall.values()) for figures in runs.values()]
        if arm == record.candidate:
            strong.append(len(rows))
        line = against.get(arm)
        says = [line.difference.signed, line.outcome] if line else ['', '']
        rows.append([arm, str(len(runs)), *map(shown, np.mean(values, axis=0)), *says])
        if len(runs) > 1:
            for run, each in zip(runs, values, strict=True):
                rows.append([run, '', *map(shown, each), '', ''])
            scatter = map(shown, np.std(values, axis=0, ddof=1))
            rows.append([f'{arm}: standard deviation', '', *scatter, '', ''])
    own = own_map50(record)
    for name, printed in (record.judging.get('published') or {}).items():
        label, map50 = f'{name} (published, not paired)', printed.get(PRIMARY)
        says = ['', '']
        if own and map50 is not None:
            less = own - float(map50)
            says = [less.signed, outcome_of(less, record.margin).label]
        rows.append([label, '', *(shown(printed.get(metric)) for metric in TITLES), *says])
    if not rows:
        yield Text('No model has been evaluated on the test pictures yet.')
        return
    confidence = record.judging.get('confidence', 0.25)
    yield Table(
        ['model', 'trainings', *TITLES.values(), 'difference in mAP50', 'says'],
        rows,
        words=[len(TITLES) + 3],
        strong=strong,
        note='All boxes. Of several trainings: mean, then each. Difference: candidate minus that '
        'model. Precision and recall are at the best F1 of each model, so not at the same point; '
        f'fixed: at confidence {confidence:g} for all. A published figure is what somebody '
        'printed: its own error is unknown and nothing is paired.',
    )
    for comparison in record.comparison.get('comparisons', ()):
        yield from comparison_blocks(Comparison.from_json(comparison), record.margin)


def gates(record: CampaignRecord) -> Iterator[Block]:
    found = verdict_of(record)
    if found and found.gates:
        yield Table(
            ['figure', 'must exceed', 'is', '95 %', ''],
            [
                [TITLES[gate.metric], f'{gate.limit:g}', *_with_interval(gate.figure), gate.status]
                for gate in found.gates
            ],
            words=[4],
            note='The figure decides. Unproven: its 95 % interval holds the limit, so other '
            'pictures of the same kind could turn it.',
        )
    elif record.judging.get('success'):
        yield Text('The figures that the recipe asks for have not been judged yet.')


def figure_tables(
    table: Callable[[Metrics, str], Block], record: CampaignRecord
) -> Iterator[Block]:
    for runs in tests_of(record).values():
        yield from (table(figures, run) for run, figures in runs.items())


def sweep(record: CampaignRecord) -> Iterator[Block]:
    known: dict[str, Interval] = {}
    for stored in record.comparison.get('comparisons', ()):
        comparison = Comparison.from_json(stored)
        row = comparison[PRIMARY]
        known |= {comparison.a: row.a, comparison.b: row.b}
    for key in record.recipe.get('sweep') or {}:
        share = key.endswith('.fraction')
        title = 'pre-training pictures used, %' if share else key
        points = []
        for arm, tests in tests_of(record).items():
            name, _, value = arm.partition('=')
            if name == key and value:
                mean = float(np.mean([figures.map50 for figures in tests.values()]))
                figure = known.get(arm, Interval(mean))
                points.append((float(value) * (100 if share else 1), figure, len(tests)))
        points.sort(key=lambda point: point[0])
        if not points:
            yield Text(f'No arm of the sweep over `{key}` has been tested yet.')
            continue
        error = {
            'type': 'data',
            'symmetric': False,
            'array': [figure.high - figure.value for _, figure, _ in points],
            'arrayminus': [figure.value - figure.low for _, figure, _ in points],
        }
        at, figures = [x for x, _, _ in points], [figure.value for _, figure, _ in points]
        yield chart(
            f'sweep-{key.replace(".", "-")}',
            [line(key, at, figures, marks=True, error_y=error)],
            x=title,
            y='test mAP50',
            caption='Test mAP50, all boxes, with its 95 % interval over pictures.',
        )
        rows = [
            [f'{x:g}', *_with_interval(figure), str(trainings)] for x, figure, trainings in points
        ]
        yield Table([title, 'test mAP50, all boxes', '95 %', 'trainings'], rows)


def _with_interval(figure: Interval) -> tuple[str, str]:
    return shown(figure.value), span(figure, '.4f')
