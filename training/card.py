"""What a campaign says of its model: the `training` and `metrics` entries of its model card.

campaign folder -> card.json, which `cone-training export --card` puts into the bundle's card
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cone_perception.errors import SourceError
from training.campaign_record import CampaignRecord
from training.folder import write_text

ENTRIES = ('training', 'metrics')


def write_card(record: CampaignRecord) -> None:
    """Write card.json, with whatever is known by now."""
    write_text(record.folder.card, json.dumps(make_card(record), indent=2) + '\n')


def read_card(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two entries of a campaign's card.json. Raises SourceError."""
    try:
        stored = json.loads(path.read_text(encoding='utf-8'))
        training, metrics = (dict(stored[name]) for name in ENTRIES)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f'{path} is no card of a campaign ({error!r}). Give the card.json of a campaign '
            'folder; `cone-training report` writes it.'
        ) from error
    return training, metrics


def make_card(record: CampaignRecord) -> dict[str, Any]:
    """Plain JSON: how the candidate was trained, and what was measured."""
    state, recipe = record.state, record.recipe
    verify = state.steps['verify'].result if 'verify' in state.steps else {}
    leaks = state.steps['leaks'].result if 'leaks' in state.steps else {}
    manifests = verify.get('manifests', {})
    return {
        'schema': 1,
        'training': {
            'campaign': state.name,
            'architecture': recipe.get('model'),
            'recipe_sha256': state.recipe_sha256,
            'commit': state.commit,
            'versions': state.versions,
            'arm': record.candidate,
            'stages': [_stage(training) for training in record.trainings],
            'data': {
                name: {
                    'manifest_sha256': manifests.get(name)
                    or record.verifications.get(name, {}).get('manifest_sha256')
                    or None,
                    'pictures': verify.get('pictures', {}).get(name),
                    'left_out_as_leaks': len(leaks.get('excluded', {}).get(name, ())),
                }
                for name in recipe.get('datasets') or {}
            },
            'leaks': leaks.get('pairs', {}),
        },
        'metrics': {
            'test': record.target,
            'test_sha256': _test_sha256(record),
            'interval': '95 %, bootstrap over pictures',
            'figures': record.comparison.get('own', {}),
            'verdict': {key: record.verdict.get(key) for key in ('outcome', 'sentence', 'deploy')},
            'against': [
                {
                    'baseline': line['label'],
                    'baseline_map50': line['baseline_value'],
                    'difference': line['difference'],
                    'outcome': line['outcome'],
                }
                for line in record.verdict.get('against', ())
            ],
            'gates': {
                gate['metric']: {'limit': gate['limit'], 'status': gate['status']}
                for gate in record.verdict.get('gates', ())
            },
        },
    }


def _stage(training: Any) -> Mapping[str, Any]:
    about = training.step.result
    return {
        'run': training.run,
        'settings': dict(training.settings),
        'pictures': training.pictures,
        'epochs': len(training.epochs),
        'best_epoch': about.get('best_epoch'),
        'best_map50': about.get('best_map50'),
        'stopped_by': about.get('stopped_by'),
    }


def _test_sha256(record: CampaignRecord) -> str | None:
    for what in record.evaluations.values():
        if found := what.get('test', {}).get('origin', {}).get('data_sha256'):
            return str(found)
    return None
