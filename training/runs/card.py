"""card.json: the entries that `cone-training export --card` puts into its model's card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cone_perception.errors import SourceError, told_as
from cone_perception.files import read_json
from cone_perception.model_card import file_sha256
from training.runs.record import CampaignRecord, Training


def read_card(path: Path, weights: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries of a card.json about a stage's best.pt. Raises SourceError where it has none."""
    causes = (OSError, ValueError, KeyError, TypeError)
    advice = 'Give the card.json of a campaign folder; `cone-training report` writes it.'
    with told_as(SourceError, f'{path} is no card of a campaign', *causes, advice=advice):
        stored = read_json(path)
        training, metrics = (dict(stored[name]) for name in ('training', 'metrics'))
        trained = training['weights']
    names = {sha256: name for name, sha256 in trained.items()}
    name = names.get(file_sha256(weights)) if weights.is_file() else None
    if name is None:
        raise SourceError(
            f'{weights} is none of the weights that {path} describes: {", ".join(trained)}. Give '
            'the card of the campaign that trained it.'
        )
    run = name.rpartition('/')[0]
    training['run'] = run
    training['stages'] = [stage for stage in training['stages'] if stage['run'] == run]
    metrics['figures'] = metrics.pop('figures', {}).get(run.partition('/')[0], {})
    return training, metrics


def make_card(record: CampaignRecord) -> dict[str, Any]:
    """Plain JSON: how each model was trained, and what was measured, by arm."""
    state, recipe = record.state, record.recipe
    verify, leaks = state.result('verify'), state.result('leaks')
    verifications = record.verifications
    origins = [run.get('test', {}).get('origin', {}) for run in record.evaluations.values()]
    test_sha256 = [found for origin in origins if (found := origin.get('data_sha256'))]
    return {
        'schema': 1,
        'training': {
            'campaign': state.name,
            'architecture': recipe.get('model'),
            'recipe_sha256': state.recipe_sha256,
            'commit': state.commit,
            'versions': state.versions,
            'candidate': record.candidate,
            'weights': _weights(record),
            'stages': [_stage(training) for training in record.trainings],
            'data': {
                name: {
                    'manifest_sha256': verifications.get(name, {}).get('manifest_sha256') or None,
                    'pictures': verify.get('pictures', {}).get(name),
                    'left_out_as_leaks': len(leaks.get('excluded', {}).get(name, ())),
                }
                for name in recipe.get('datasets') or {}
            },
            'leaks': leaks.get('pairs', {}),
        },
        'metrics': {
            'test': record.target,
            'test_sha256': test_sha256[0] if test_sha256 else None,
            'interval': '95 %, bootstrap over pictures',
            'figures': _figures(record),
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


def _figures(record: CampaignRecord) -> dict[str, Any]:
    """Test figures with their intervals of each arm, mean over its trainings."""
    found = {record.candidate: record.comparison.get('own', {})}
    for comparison in record.comparison.get('comparisons', ()):
        found[comparison['b']] = {row['name']: row['b'] for row in comparison['differences']}
    return found


def _stage(training: Training) -> Mapping[str, Any]:
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


def _weights(record: CampaignRecord) -> dict[str, str]:
    """SHA-256 of best.pt of each stage that is done."""
    found = {}
    for training in record.trainings:
        best = record.folder.root / str(training.step.result.get('best', ''))
        if best.is_file():
            found[f'{training.run}/{training.stage}'] = file_sha256(best)
    return found
