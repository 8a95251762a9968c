"""Judges what a stage starts from, before its first epoch; Ultralytics does not.

Imports torch and ultralytics.
"""

from __future__ import annotations

from pathlib import Path

from training.ultralytics_cpu import prepare_ultralytics

prepare_ultralytics()

from ultralytics.nn.tasks import load_checkpoint  # noqa: E402

from cone_perception.dataset.layout import read_layout  # noqa: E402
from training.judging.validator import UnhurriedValidator  # noqa: E402
from training.recipe.load import find_model  # noqa: E402
from training.runs.record import MAP50  # noqa: E402
from training.stage.guards import named_endings  # noqa: E402
from training.stage.job import StageJob  # noqa: E402
from training.stage.sharded_trainer import all_cores  # noqa: E402


def validate_start(job: StageJob, on_target: bool) -> dict[str, dict[str, float] | None]:
    """Figures of the starting weights on the target's validation set and on the stage's own.

    None for an architecture without weights, and for weights of other classes.
    """
    model = find_model(str(job.model))
    unknown: dict[str, dict[str, float] | None] = {'target': None, 'own': None}
    if Path(model).suffix != '.pt':
        job.log('guard', 'start', 'the stage starts without weights: there is nothing to forget')
        return unknown
    names = load_checkpoint(str(model))[0].names
    if tuple(names.values()) != read_layout(job.target_yaml).names:
        job.log('guard', 'start', f'the starting weights know {len(names)} other classes')
        return unknown
    target = validate(job, job.target_yaml)
    own = target if on_target else validate(job, job.data_yaml)
    job.log('guard', 'start', f'starts from mAP50 {target[MAP50]:.4f} on the target', **target)
    return {'target': target, 'own': own}


def validate(job: StageJob, data_yaml: Path) -> dict[str, float]:
    """Ultralytics' figures of the job's starting weights on a validation split."""
    gpus = job.recipe.gpus
    settings = {
        'model': str(job.model),
        'data': str(data_yaml),
        'split': 'val',
        'imgsz': job.recipe.judging.imgsz,
        'batch': min(job.stage.batch, 32),
        'device': gpus[0] if gpus else 'cpu',
        'workers': job.recipe.workers,
        'plots': False,
        'nms': job.arguments()['nms'],
    }
    job.file.parent.mkdir(parents=True, exist_ok=True)
    with named_endings(job.stage), all_cores(not gpus):
        figures = UnhurriedValidator(save_dir=job.file.parent, args=settings)()
    return {name: round(float(value), 5) for name, value in figures.items()}
