"""The command `cone-training status`: tells from any shell how far campaigns are."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cone_perception.errors import SourceError
from cone_perception.files import to_json
from training.runs.folder import CampaignFolder
from training.runs.progress import read_progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'campaign',
        type=Path,
        nargs='?',
        default=Path('runs'),
        help='folder of a campaign, or of several (default: runs)',
    )
    parser.add_argument('--json', action='store_true', help='for programs')
    parser.add_argument('--events', type=int, default=5, help='newest events shown (default: 5)')


def run(args: argparse.Namespace) -> int:
    path = args.campaign
    states = [path / 'campaign.json'] if (path / 'campaign.json').is_file() else []
    states = states or sorted(path.glob('*/campaign.json'))
    if not states:
        raise SourceError(f'there is no campaign in {path}. Give its folder, runs/NAME.')
    described = [describe(CampaignFolder(state.parent), args.events) for state in states]
    if args.json:
        print(to_json(described, indent=2))
    else:
        print('\n\n'.join('\n'.join(_lines(entry)) for entry in described))
    return 0


def describe(folder: CampaignFolder, events: int) -> dict[str, Any]:
    """Collect what `cone-training status` tells of a campaign."""
    state = folder.read_state()
    progress = read_progress(folder, state)
    told = ('name', 'started', 'ended', 'outcome', 'message', 'pid')
    return {
        'folder': str(folder.root),
        **{key: getattr(state, key) for key in told},
        'running': folder.is_locked(),
        'progress': {**asdict(progress), 'text': str(progress)},
        'steps': {name: step.status for name, step in state.steps.items()},
        'events': folder.read_events()[-events:] if events else [],
    }


def _lines(entry: Mapping[str, Any]) -> Iterator[str]:
    yield f'{entry["name"]} in {entry["folder"]}, started {entry["started"]}'
    if entry['running']:
        yield f'  running, process {entry["pid"]}'
    elif entry['outcome']:
        yield f'  ended {entry["ended"]}, {entry["outcome"]}: {entry["message"]}'
    else:
        yield f'  not running: process {entry["pid"]} is gone. --resume goes on.'
        if entry['message']:
            yield f'  {entry["message"]}'
    yield f'  {entry["progress"]["text"]}'
    for event in entry['events']:
        where = '/'.join(filter(None, (event['run'], event['step'])))
        yield f'  {event["time"]} {event["kind"]} {where}: {event["name"]}: {event["message"]}'
