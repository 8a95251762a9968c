"""The report of a campaign: whole, true to the figures, and there whatever else is missing."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from browser import ReadPage, open_page
from plotly.offline import get_plotlyjs
from recorded_campaign import write_campaign

from cone_perception.accuracy.intervals import Interval
from cone_perception.errors import OutputError, SourceError
from cone_perception.pages.blocks import Chart, Page, Section, Table, Text
from training.cli import main
from training.judging.decide import decide
from training.judging.verdict import CampaignCandidate
from training.recipe.recipe import Figures, Judging
from training.report.curves import curve_chart
from training.report.markdown import render_markdown
from training.report.page import write_public, write_report
from training.runs.card import read_card
from training.runs.folder import CampaignFolder, Step
from training.runs.record import Training, read_campaign, read_results

PUBLISHED = 'judging.published={single-stage: {map50: 0.7081, recall: 0.6542}}'
SECTIONS = (
    *('Verdict', 'Against all baselines', 'Success table', 'Per class', 'Per size', 'Stages'),
    *('Curves', 'Guards and warnings', 'Data', 'Leaks', 'Pictures', 'Recipe'),
    'Machine, time and versions',
)


@pytest.fixture(scope='module')
def campaign(tmp_path_factory: pytest.TempPathFactory) -> CampaignFolder:
    folder = write_campaign(tmp_path_factory.mktemp('runs') / 'mini', overrides=(PUBLISHED,))
    write_report(folder)
    return folder


@pytest.fixture
def copied(campaign: CampaignFolder, tmp_path: Path) -> CampaignFolder:
    """One that a test may spoil."""
    shutil.copytree(campaign.root, tmp_path / 'runs' / 'mini')
    return CampaignFolder(tmp_path / 'runs' / 'mini')


def report_text(folder: CampaignFolder) -> str:
    """The Markdown of a report that is written now."""
    write_report(folder)
    return folder.report_md.read_text()


def figures(folder: CampaignFolder) -> dict[str, Any]:
    """Charts of the page by name, as Plotly gets them."""
    page = folder.report_html.read_text()
    drawn = (
        r'class="chart"[^>]* aria-label="([^"]+)".*?<script type="application/json">(.*?)</script>'
    )
    return {name: json.loads(chart) for name, chart in re.findall(drawn, page, re.S)}


def markdown_cells(text: str) -> list[str]:
    rows = [line for line in text.splitlines() if line.startswith('| ')]
    rows = [row for row in rows if not set(row) <= set('|-: ')]
    cells = [cell.strip() for row in rows for cell in row[1:-1].split(' |')]
    return [cell.removeprefix('**').removesuffix('**').replace('`', '') for cell in cells]


def test_page_is_whole_and_needs_nothing_beside_it(campaign: CampaignFolder) -> None:
    page = campaign.report_html.read_text()
    parsed = ReadPage(page)
    assert parsed.open == []
    addresses = [tag.get('src') or tag.get('href') for _, tag in parsed.tags]
    assert any(addresses)
    assert all(one.startswith(('#', 'data:image/')) for one in addresses if one)
    own = page.replace(get_plotlyjs(), '')
    for outside in ('@import', 'url(', '<script src', '<link'):
        assert outside not in own
    for title in SECTIONS:
        assert f'<h2>{title}</h2>' in page
    assert '<h2>Missing</h2>' not in page


def test_markdown_has_the_same_figures(campaign: CampaignFolder) -> None:
    text = campaign.report_md.read_text()
    parsed = ReadPage(campaign.report_html.read_text())
    assert [cell.strip() for cell in parsed.cells] == markdown_cells(text)
    for title in SECTIONS:
        assert f'\n## {title}\n' in text
    assert re.findall(r'\]\(([^)]+)\)', text) == ['report.html']


def test_figures_are_those_of_the_files(campaign: CampaignFolder) -> None:
    text = campaign.report_md.read_text()
    verdict = json.loads(campaign.verdict.read_text())
    comparison = json.loads(campaign.comparison.read_text())
    assert verdict['sentence'] in text
    for reason in verdict['reasons']:
        assert reason.replace('>', '&gt;') in text
    for gate in verdict['gates']:
        assert f'| {gate["figure"]["value"]:.4f} |' in text
        assert f'| {gate["status"]} |' in text
    for row in comparison['comparisons'][0]['differences']:
        if row['difference']['value'] is not None:
            assert f'{row["difference"]["value"]:+.4f}' in text
    evaluation = campaign.evaluation('two-stage/seed1', 'test') / 'evaluation.json'
    assert f'{json.loads(evaluation.read_text())["figures"]["map50"]:.4f}' in text


def test_published_baseline_is_labelled_and_compared_with_the_printed_figure(
    campaign: CampaignFolder,
) -> None:
    own = json.loads(campaign.comparison.read_text())['own']['map50']
    row = next(
        line
        for line in campaign.report_md.read_text().splitlines()
        if line.startswith('| single-stage (published, not paired)')
    )
    assert '| 0.7081 |' in row
    assert '| 0.6542 |' in row
    assert f'{own["value"] - 0.7081:+.4f}' in row


def test_curves_go_on_over_the_stages_by_pictures_shown(campaign: CampaignFolder) -> None:
    record = read_campaign(campaign)
    first, second = (t for t in record.trainings if t.run == 'two-stage/seed0')
    assert first.passes_at()[0] == first.pictures
    assert second.passes == first.passes_at()[-1]
    assert second.passes_at()[0] == second.passes + second.pictures


def test_crossing_of_the_arms_is_named(copied: CampaignFolder) -> None:
    for training in read_campaign(copied).trainings:
        path = copied.root / training.step.result['folder'] / 'results.csv'
        scores = [0.1, 0.2, 0.3, 0.4, 0.4, 0.4] if training.arm == 'two-stage' else [0.25] * 9
        rows = zip(range(1, 20), scores, strict=False)
        path.write_text(
            'epoch,metrics/mAP50(B)\n' + ''.join(f'{epoch},{score}\n' for epoch, score in rows)
        )
    state = copied.read_state()
    for step in state.steps.values():
        if 'start_map50' in step.result:
            step.result |= {'start_map50': None, 'pictures': 100}
    copied.write_state(state)
    # Pre-training shows 600 pictures; 0.25 lies midway between the second and the third epoch.
    assert 'cross at 850 pictures shown, and two-stage leads' in report_text(copied)


def test_unfinished_campaign_says_what_is_missing(copied: CampaignFolder) -> None:
    state = copied.read_state()
    state.outcome, state.message, state.ended = None, '', None
    for place, step in enumerate(state.steps.values()):
        step.status = 'done' if place < 4 else 'running' if place == 4 else 'pending'
    copied.write_state(state)
    for path in (copied.verdict, copied.comparison):
        path.unlink()
    shutil.rmtree(copied.root / 'evaluations')
    shutil.rmtree(copied.root / 'single-stage')
    text = report_text(copied)
    assert '**not finished**' in text
    assert 'There is no verdict yet.' in text
    assert '4 of 21 steps are done; `two-stage/seed0/stage2` is next' in text
    assert '## Missing' in text
    assert 'There is no `verdict.json` yet' in text
    assert 'Step `compare`: pending.' in text


def test_failed_campaign_says_why(copied: CampaignFolder) -> None:
    state = copied.read_state()
    state.outcome, state.message = 'out of memory', 'memory ran out: 3 GB were free.'
    state.steps['two-stage/seed0/stage1'].status = 'failed'
    copied.write_state(state)
    copied.verdict.unlink()
    text = report_text(copied)
    assert '**out of memory**' in text
    assert 'memory ran out: 3 GB were free.' in text
    assert '`two-stage/seed0/stage1` failed' in text


@pytest.mark.parametrize(
    'path',
    [
        'recipe.yaml',
        'verdict.json',
        'comparison.json',
        'events.jsonl',
        'data/fsoco_mini/verify.json',
        'evaluations/two-stage/seed0/test/evaluation.json',
        'data/leaks/cone_detector_mini__fsoco_mini.json',
        'data/leaks/cone_detector_mini__fsoco_mini.png',
        'two-stage/seed0/stage1_cone_detector_mini_5ep/results.csv',
        'evaluations/two-stage/seed0/test/evaluation.npz',
        'tested/data.yaml',
    ],
)
@pytest.mark.parametrize('content', [None, '', '{"half": ', '{}', '[]', 'a,b\n1'])
def test_no_missing_or_broken_file_stops_the_report(
    path: str, content: str | None, copied: CampaignFolder
) -> None:
    broken = copied.root / path
    assert broken.is_file()
    if content is None:
        broken.unlink()
    else:
        broken.write_text(content)
    write_report(copied)
    assert ReadPage(copied.report_html.read_text()).open == []


def test_a_section_that_cannot_be_made_is_named(copied: CampaignFolder) -> None:
    stored = json.loads(copied.comparison.read_text())
    del stored['comparisons'][0]['differences'][0]['a']
    copied.comparison.write_text(json.dumps(stored))
    text = report_text(copied)
    assert '"Against all baselines" is not whole: TypeError' in text
    assert '## Machine, time and versions' in text


def test_names_are_escaped(copied: CampaignFolder) -> None:
    evil = '<script>alert("1")</script>|**'
    state = copied.read_state()
    state.message = evil
    state.hardware['processor'] = evil
    copied.write_state(state)
    copied.log_event('warning', evil, evil, run=evil)
    copied.verdict.unlink()
    write_report(copied)
    page, text = copied.report_html.read_text(), copied.report_md.read_text()
    assert evil not in page
    assert '&lt;script&gt;' in page
    assert '<script' not in text
    row = next(line for line in text.splitlines() if line.startswith('| processor'))
    assert row.replace('\\|', '').count('|') == 3


def test_campaign_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match='no campaign'):
        write_report(CampaignFolder(tmp_path))
    assert main(['report', str(tmp_path)]) == 1


def test_public_twin_shows_no_picture_of_the_data_and_no_path(
    copied: CampaignFolder, tmp_path: Path
) -> None:
    state = copied.read_state()
    state.message = f'see {copied.root}/data/x/verify.json'
    copied.write_state(state)
    copied.verdict.unlink()
    path = write_public(copied, tmp_path / 'results')
    text = path.read_text()
    assert path.name == 'mini.md'
    assert str(tmp_path) not in text
    assert '/somewhere' not in text
    assert 'bench' not in text
    assert '…/verify.json' in text
    assert re.findall(r'\]\(([^)]+)\)', text) == ['mini.html']
    page = path.with_suffix('.html').read_text()
    assert str(tmp_path) not in page
    assert 'aria-label="map50-by-passes"' in page
    assert 'aria-label="precision over recall two-stage/seed0"' in page
    assert '<h3>single-stage/seed1</h3>' in page
    assert 'data:image' not in page.replace(get_plotlyjs(), '')
    assert 'missed (red)' not in page
    assert 'closest pairs' not in page


def test_public_twin_does_not_mix_with_the_campaign(copied: CampaignFolder) -> None:
    with pytest.raises(OutputError, match='lies in the campaign'):
        write_public(copied, copied.root / 'public')


def test_sweep_has_its_curve(tmp_path: Path) -> None:
    folder = write_campaign(
        tmp_path / 'sizes', overrides=('sweep={stage1.fraction: [0, 0.5, 1]}', 'seeds=[0]')
    )
    text = report_text(folder)
    section = text.partition('## Size of the pre-training set')[2].partition('\n## ')[0]
    rows = [line for line in section.splitlines() if re.match(r'\| (0|50|100) \|', line)]
    assert len(rows) == 3
    assert all(re.search(r'0\.\d{4} to 0\.\d{4}', row) for row in rows)
    (curve,) = figures(folder)['sweep-stage1-fraction']['data']
    assert curve['x'] == [0, 50, 100]
    assert len(curve['y']) == len(curve['error_y']['array']) == 3


def test_command_writes_all_three_files(
    copied: CampaignFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (copied.report_html, copied.report_md, copied.card):
        path.unlink()
    assert main(['report', str(copied.root)]) == 0
    for path in (copied.report_html, copied.report_md, copied.card):
        assert path.is_file()
        assert str(path) in capsys.readouterr().out or path != copied.report_html


def test_card_has_the_figures_of_the_weights_that_are_exported(campaign: CampaignFolder) -> None:
    comparison = json.loads(campaign.comparison.read_text())
    difference = comparison['comparisons'][0]['differences'][0]
    for arm, stages, figure in (('two-stage', 2, 'a'), ('single-stage', 1, 'b')):
        folder = sorted((campaign.root / arm / 'seed1').iterdir())[-1]
        training, metrics = read_card(campaign.card, folder / 'weights' / 'best.pt')
        assert training['run'] == f'{arm}/seed1'
        assert len(training['stages']) == stages
        assert training['architecture'] == 'yolo26n.yaml'
        assert training['data']['fsoco_mini']['manifest_sha256'] == 'c' * 64
        assert metrics['figures']['map50'] == difference[figure]
        assert metrics['verdict']['outcome'] == json.loads(campaign.verdict.read_text())['outcome']


@pytest.mark.parametrize('own', [True, False])
def test_export_that_is_proposed_takes_the_card_of_weights_trained_here(
    own: bool, tmp_path: Path
) -> None:
    weights = (tmp_path if own else Path('/elsewhere')) / 'run' / 'best.pt'
    figures = dict.fromkeys(('map50', 'map50_95', 'precision', 'recall'), Interval(0.9, 0.89, 0.91))
    verdict = decide(
        CampaignCandidate('a', figures, {'a': weights}, card=tmp_path / 'card.json'),
        [],
        Judging(published={'single-stage': Figures(map50=0.5)}),
    )
    assert verdict.deploy == 'a'
    assert (f'--card {tmp_path}/card.json' in verdict.next_steps[0]) == own


def test_card_of_other_weights_is_refused(campaign: CampaignFolder, tmp_path: Path) -> None:
    other = tmp_path / 'other.pt'
    other.write_bytes(b'trained elsewhere')
    with pytest.raises(SourceError, match='none of the weights'):
        read_card(campaign.card, other)
    with pytest.raises(SourceError, match='no card of a campaign'):
        read_card(campaign.recipe, other)


def test_half_written_row_of_results_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / 'results.csv'
    path.write_text('  epoch, metrics/mAP50(B)\n1, 0.5\n2, nan\n3')
    columns = read_results(path)
    assert columns['epoch'] == [1, 2]
    assert columns['metrics/mAP50(B)'][0] == 0.5
    assert math.isnan(columns['metrics/mAP50(B)'][1])


def test_charts_leave_out_what_is_not_known() -> None:
    def drawn(scores: list[float], log_y: bool = False) -> list[Chart]:
        columns = {'epoch': [float(epoch + 1) for epoch in range(len(scores))], 'score': scores}
        one = Training('a/seed0', 'a', 's', 'd', True, 10, 0.0, None, columns, {}, Step('done'))
        return list(curve_chart('n', 'c', [one], 'score', log_y=log_y))

    assert drawn([math.nan]) == []
    (chart,) = drawn([1e-3, 0.0, 1e-5], log_y=True)
    assert np.isnan(chart.figure['data'][0]['y']).tolist() == [False, True, False]
    assert chart.figure['data'][0]['mode'] == 'lines'
    (single,) = drawn([0.5])
    assert single.figure['data'][0]['mode'] == 'lines+markers'


@pytest.mark.parametrize('low, colour', [(-0.1, '--dim'), (0.05, '--blue')])
def test_interval_that_holds_zero_is_not_coloured(
    low: float, colour: str, copied: CampaignFolder
) -> None:
    stored = json.loads(copied.verdict.read_text())
    stored['against'] = stored['against'][:1]
    stored['against'][0]['difference'] = {'value': 0.1, 'low': low, 'high': 0.2}
    copied.verdict.write_text(json.dumps(stored))
    write_report(copied)
    (row,) = figures(copied)['difference']['data']
    assert row['marker']['color'] == row['error_x']['color'] == colour


def test_code_and_links_are_marked_up_once() -> None:
    blocks = [Text('run `a < b` at https://host/run/1.'), Table(['a|b'], [['c\nd']])]
    page = Page('A & B', badge='equal', tone='unsure', sections=[Section('One', blocks)])
    text = render_markdown(page, 'page.html')
    assert '`a < b`' in text
    assert 'https://host/run/1.' in text
    assert '| a\\|b |' in text
    assert '| c d |' in text


def test_recipe_in_the_page_is_the_one_that_was_run(campaign: CampaignFolder) -> None:
    text = campaign.report_md.read_text()
    listed = text.partition('```yaml\n')[2].partition('\n```')[0]
    assert yaml.safe_load(listed) == yaml.safe_load(campaign.recipe.read_text())


def test_browser_draws_every_chart_and_asks_no_host(campaign: CampaignFolder) -> None:
    opened = open_page(campaign.report_html)
    assert opened.drawn == len(figures(campaign)) > 10
    assert (opened.console, opened.hosts) == ([], set())
