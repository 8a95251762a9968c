"""A campaign's report: one HTML page and its Markdown twin, from the campaign's files.

campaign folder -> CampaignRecord -> sections of blocks -> report.html, report.md
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cone_perception.errors import OutputError
from cone_perception.files import write_json, write_whole
from cone_perception.pages.blocks import Block, Gallery, Page, Picture, Section, Text
from cone_perception.pages.page import render_page
from training.judging.page import class_table, height_table
from training.report import curves, inputs, verdict
from training.report.inputs import time_text
from training.report.markdown import render_markdown
from training.report.verdict import TONES
from training.runs.card import make_card
from training.runs.folder import CampaignFolder
from training.runs.record import CampaignRecord, read_campaign

SECTIONS: Mapping[str, Callable[[CampaignRecord], Iterator[Block]]] = {
    'Verdict': verdict.verdict,
    'Against all baselines': verdict.baselines,
    'Success table': verdict.gates,
    'Per class': partial(verdict.figure_tables, class_table),
    'Per size': partial(verdict.figure_tables, height_table),
    'Stages': curves.stages,
    'Curves': curves.curves,
    'Size of the pre-training set': verdict.sweep,
    'Guards and warnings': inputs.events,
    'Data': inputs.data,
    'Leaks': inputs.leaks,
    'Pictures': inputs.pictures,
    'Recipe': inputs.recipe,
    'Machine, time and versions': inputs.machine,
    'Missing': inputs.missing,
}
"""In the order in which they are asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('campaign', type=Path, help='folder of a campaign, as runs/two-stage')
    parser.add_argument(
        '--public',
        type=Path,
        metavar='DIR',
        help='also write NAME.html and NAME.md there, without any picture of the data and '
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
    """Write report.html, report.md, card.json, however far it is; the page's path. SourceError."""
    record = read_campaign(folder)
    page = make_page(record)
    write_whole(folder.report_html, render_page(page))
    write_whole(folder.report_md, render_markdown(page, folder.report_html.name))
    write_json(record.folder.card, make_card(record))
    return folder.report_html


def write_public(folder: CampaignFolder, out: Path) -> Path:
    """Write the page and its Markdown for everybody to see; the latter's path. OutputError."""
    record = read_campaign(folder)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f'{folder.name}.md'
    if path.resolve().is_relative_to(folder.root.resolve()):
        raise OutputError(f'{out} lies in the campaign itself: give a folder outside, as docs/.')
    page = _for_everybody(make_page(record), str(record.state.hardware.get('host') or ''))
    write_whole(path.with_suffix('.html'), render_page(page))
    write_whole(path, render_markdown(page, f'{folder.name}.html'))
    return path


def _for_everybody(value: Any, host: str) -> Any:
    """A page, or a part of it, without pictures, without paths, and without the host's name."""
    if isinstance(value, str):
        named = value.replace(host, 'this machine') if host else value
        # Of every absolute path the last name is left.
        return re.sub(r'(?<![\w.:/~])/(?:[\w.@+=-]+/)+([\w.@+=-]+)', r'…/\1', named)
    if isinstance(value, list | tuple):
        shown = (each for each in value if not isinstance(each, Picture | Gallery))
        return [_for_everybody(each, host) for each in shown]
    if is_dataclass(value) and not isinstance(value, type):
        parts = {part.name: getattr(value, part.name) for part in fields(value)}
        return replace(value, **{name: _for_everybody(parts[name], host) for name in parts})
    return value


def make_page(record: CampaignRecord) -> Page:
    """Everything that the campaign's files say."""
    state, outcome = record.state, record.outcome
    failed = any(step.status == 'failed' for step in state.steps.values())
    ended = f', ended {time_text(state.ended)}' if state.ended else ''
    description = str(record.recipe.get('description') or '').rstrip('.')
    return Page(
        title=f'Campaign {state.name}',
        subtitle=f'{description}. Started {time_text(state.started)}{ended}.'.removeprefix('. '),
        badge=outcome or ('failed' if failed else 'not finished'),
        tone=TONES.get(outcome, 'bad' if outcome or failed else 'unsure'),
        wide=True,
        sections=[section for title in SECTIONS if (section := _section(title, record)).blocks],
    )


def _section(title: str, record: CampaignRecord) -> Section:
    """A section's blocks up to the first that cannot be made; that one is said, not hidden."""
    blocks: list[Block] = []
    try:
        blocks.extend(SECTIONS[title](record))
    except Exception as error:  # a page with a gap is worth more than none
        reason = f'{type(error).__name__}: {error}'
        record.missing.append(f'"{title}" is not whole: {reason}.')
        blocks.append(Text(f'The rest of this section cannot be shown ({reason}).'))
    return Section(title, blocks)
