"""An evaluation on the disk: evaluation.npz with the arrays, evaluation.json with the figures."""

from __future__ import annotations

import json
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np

from cone_perception.errors import OutputError, SourceError
from cone_perception.files import whole_file, write_json
from training.judging.evaluation import ARRAYS, Evaluation, Origin
from training.judging.metrics import FIXED_CONFIDENCE, Confidence, metrics

SCHEMA = 1
ARRAYS_FILE = 'evaluation.npz'
FACTS_FILE = 'evaluation.json'


def save_evaluation(
    evaluation: Evaluation,
    folder: Path,
    confidence: Confidence = FIXED_CONFIDENCE,
) -> None:
    """Write evaluation.npz and evaluation.json. Raises OutputError when the folder takes neither.

    confidence: the fixed operating point of the figures, for all classes or for each.
    """
    arrays = {name: getattr(evaluation, name) for name in ARRAYS}
    arrays = {
        name: array.astype(np.int32) if array.dtype == np.int64 else array
        for name, array in arrays.items()
    }
    facts = {
        'schema': SCHEMA,
        'origin': evaluation.origin,
        'class_names': evaluation.class_names,
        'images': len(evaluation.image_names),
        'truths': evaluation.truth_count,
        'detections': len(evaluation.detection_score),
        'figures': metrics(evaluation, confidence=confidence),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / ARRAYS_FILE) as stream:
            np.savez_compressed(
                stream,
                class_names=np.array(evaluation.class_names, np.str_),
                image_names=np.array(evaluation.image_names, np.str_),
                **arrays,
            )
        write_json(folder / FACTS_FILE, facts)
    except OSError as error:
        raise OutputError(f'{folder} cannot take the evaluation: {error}') from error


def load_evaluation(folder: Path) -> Evaluation:
    """Read what `save_evaluation` wrote. Raises SourceError when that is not there, or damaged."""
    try:
        facts = json.loads((folder / FACTS_FILE).read_text(encoding='utf-8'))
        if facts['schema'] != SCHEMA:
            raise ValueError(f'schema {facts["schema"]} is not {SCHEMA}')
        raw = {name: facts['origin'][name] for name in (f.name for f in fields(Origin))}
        raw |= {'imgsz': tuple(raw['imgsz']), 'notes': tuple(raw['notes'])}
        with np.load(folder / ARRAYS_FILE, allow_pickle=False) as arrays:
            stored = {name: arrays[name] for name in ARRAYS}
            return Evaluation(
                origin=Origin(**raw),
                class_names=tuple(arrays['class_names'].tolist()),
                image_names=tuple(arrays['image_names'].tolist()),
                **{
                    name: array.astype(np.int64) if array.dtype.kind == 'i' else array
                    for name, array in stored.items()
                },
            )
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SourceError(
            f'{folder} holds no evaluation that can be read ({error}). '
            'Make it again with `cone-training evaluate ... --out`.'
        ) from error
