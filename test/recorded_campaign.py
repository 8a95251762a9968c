"""A finished campaign as its own code would write it, made of figures that nobody trained."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import cv2
import numpy as np

from cone_perception.accuracy.matching import IOU_THRESHOLDS
from cone_perception.classes import CLASS_NAMES
from cone_perception.dataset.layout import write_data_yaml
from cone_perception.files import without_nan, write_json
from training.campaign import judge
from training.campaign.campaign import Campaign
from training.data.report import DataReport, SplitCounts
from training.judging.evaluation import Evaluation, Origin, save_evaluation
from training.judging.metrics import metrics
from training.recipe.load import load_recipe, recipe_sha256, save_recipe
from training.recipe.recipe import arms
from training.runs.folder import CampaignFolder, State, Step

RECIPE = Path(__file__).resolve().parents[1] / 'config' / 'training' / 'mini.yaml'
CONES = 6
"""In each picture."""


def invent_evaluation(pictures: int, quality: float, seed: int, data: str = '') -> Evaluation:
    """Cones that a model of that quality, 0..1, might have found; the cones are always the same."""
    there, rng = np.random.default_rng(0), np.random.default_rng(seed)
    count = pictures * CONES
    image = np.repeat(np.arange(pictures), CONES)
    classes = there.choice(len(CLASS_NAMES), count, p=[0.35, 0.05, 0.2, 0.05, 0.35])
    height = there.uniform(4, 90, count).astype(np.float32)
    left, top = there.uniform(0, 500, count), there.uniform(0, 200, count)
    boxes = np.stack([left, top, left + 0.7 * height, top + height], axis=1).astype(np.float32)
    skill = np.clip(quality + (height - 40) / 200 + rng.normal(0, 0.1, count), 0, 1)
    found = rng.random(count) < skill
    overlap = np.where(found, 0.5 + 0.5 * skill * rng.random(count) ** 0.5, 0)
    match = np.where(overlap[:, None] >= IOU_THRESHOLDS, np.arange(count)[:, None], -1)
    score = np.clip(0.3 + 0.6 * skill + rng.normal(0, 0.15, count), 0.01, 0.99)
    order = np.lexsort([-score, image])
    return Evaluation(
        origin=Origin('best.pt', 'a' * 64, data, 'b' * 64, 'test', (640, 640), 'anchors', 'torch'),
        class_names=CLASS_NAMES,
        image_names=tuple(f'team_{index:05}.jpg' for index in range(pictures)),
        image_size_px=np.tile(np.array([[640, 360]], np.int64), (pictures, 1)),
        band_px=np.full(pictures, np.nan),
        detection_image=image[order],
        detection_class=classes[order],
        detection_score=score[order].astype(np.float32),
        detection_box_px=boxes[order],
        detection_match=match[order],
        detection_overlaps=match[order, 0],
        truth_image=image,
        truth_class=classes,
        truth_box_px=boxes,
    )


def write_campaign(
    root: Path, gain: float = 0.05, overrides: tuple[str, ...] = (), pictures: int = 60
) -> CampaignFolder:
    """Write a campaign whose candidate is better than its baseline by about `gain`."""
    folder = CampaignFolder(root)
    recipe = load_recipe(RECIPE, ('judging.resamples=100', *overrides))
    root.mkdir(parents=True)
    save_recipe(recipe, folder.recipe)
    state = State(
        root.name,
        recipe_sha256(recipe),
        '2026-02-01T08:00:00+00:00',
        commit='0123456789abcdef',
        versions={'torch': '2.13.0', 'ultralytics': '8.4.190'},
        hardware={'host': 'bench', 'processor': 'A CPU', 'cores': 2, 'memory_gb': 16, 'gpus': []},
        ended='2026-02-01T20:10:00+00:00',
    )
    counts = {name: dict(entry.images) for name, entry in recipe.datasets.items()}
    state.steps['verify'] = Step('done', seconds=14.0, result={'pictures': counts})
    state.steps['leaks'] = Step(
        'done', seconds=9.0, result={'pairs': {'a/train b/test': 2}, 'excluded': {'a': ['x.jpg']}}
    )
    for name in recipe.datasets:
        _write_verification(folder, name, counts[name])
    _write_leaks(folder, list(recipe.datasets))
    images = write_data_yaml(root / 'tested', ['test']).parent / 'test' / 'images'
    images.mkdir(parents=True)
    for index in range(pictures):
        cv2.imwrite(str(images / f'team_{index:05}.jpg'), np.full((36, 64, 3), 90, np.uint8))
    runs: dict[str, list[str]] = {}
    for arm in arms(recipe):
        for seed in recipe.seeds:
            run = f'{arm.name}/seed{seed}'
            runs.setdefault(arm.name, []).append(run)
            best = 0.0
            for stage in arm.stages:
                place = folder.stage(recipe, run, stage)
                shown = counts[stage.data]['train'] * max(stage.crops_per_picture, 1)
                start, more = best, gain * 3 * arm.candidate - 0.05
                best = _write_results(place, stage.epochs, best, more, stage.lr0)
                weights = place / 'weights' / 'best.pt'
                weights.parent.mkdir()
                weights.write_text(f'{run} {stage.name}')
                state.steps[f'{run}/{stage.name}'] = Step(
                    'done',
                    seconds=3600.0 * stage.epochs / 5,
                    result={
                        'run': run,
                        'arm': arm.name,
                        'seed': seed,
                        'stage': without_nan(stage),
                        'folder': str(place.relative_to(root)),
                        'best': str(weights.relative_to(root)),
                        'pictures': shown,
                        'epochs': stage.epochs,
                        'stopped_by': None,
                        'start_map50': start or None,
                        'best_epoch': stage.epochs,
                        'best_map50': best,
                        'worse_than_start': False,
                    },
                )
                state.steps[f'{run}/{stage.name}/evaluate'] = Step('done', seconds=20.0)
                _save(folder, run, f'{stage.name}_val', 0.5, seed)
                if stage.data != recipe.target:
                    _save(folder, run, f'{stage.name}_target_val', 0.4, seed)
    for place_, (arm_name, names) in enumerate(runs.items()):
        quality = 0.55 + (0 if arm_name == 'single-stage' else gain * (1 + 0.2 * place_))
        for n, run in enumerate(names):
            map50 = _save(folder, run, 'test', quality, 10 * place_ + n, pictures)
            state.steps[f'{run}/test'] = Step('done', None, None, 30.0, {'test': {'map50': map50}})
    campaign = Campaign(folder, recipe, state)
    judge.compare(campaign)
    verdict = judge.decide(campaign)
    for name in ('compare', 'decide', 'report'):
        state.steps[name] = Step('done', seconds=5.0)
    state.outcome, state.message = verdict['outcome'], verdict['sentence']
    folder.write_state(state)
    said, run = "Ultralytics has the recipe's settings", 'two-stage/seed0'
    folder.log_event('guard', 'settings', said, run=run, step='stage1')
    folder.log_event('warning', 'checkpoint_damaged', 'last.pt is damaged', run=run, step='stage2')
    (root / 'wandb').mkdir()
    tracked = {'id': 'x', 'name': f'{run}/stage1', 'mode': 'offline', 'url': None}
    write_json(root / 'wandb' / 'two-stage_seed0_stage1.json', tracked)
    return folder


def _save(
    folder: CampaignFolder, run: str, what: str, quality: float, seed: int, pictures: int = 20
) -> float:
    """Invent and save an evaluation; its mAP50."""
    evaluation = invent_evaluation(pictures, quality, seed, str(folder.root / 'tested'))
    figures = metrics(evaluation)
    save_evaluation(evaluation, folder.evaluation(run, what), figures)
    if what == 'test':
        (folder.evaluation(run, what) / 'evaluation.html').write_text('its page')
    return figures.map50


def _write_results(folder: Path, epochs: int, start: float, gain: float, rate: float) -> float:
    """Ultralytics' results.csv; the best mAP50."""
    folder.mkdir(parents=True)
    best = 0.0
    with (folder / 'results.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        for epoch in range(1, epochs + 1):
            score = 0.7 * start + (0.5 + gain) * (1 - math.exp(-epoch / 3)) * (1 - 0.7 * start)
            loss = 1.5 * math.exp(-epoch / 6) + 1
            best = max(best, score)
            row = {
                'epoch': epoch,
                'time': 700.0 * epoch,
                'train/box_loss': loss,
                'train/cls_loss': loss * 1.2,
                'train/dfl_loss': 0.9,
                'metrics/precision(B)': 0.7,
                'metrics/recall(B)': 0.6,
                'metrics/mAP50(B)': score,
                'metrics/mAP50-95(B)': score * 0.6,
                'val/box_loss': loss * 1.1,
                'val/cls_loss': loss * 1.3,
                'val/dfl_loss': 1.0,
                'lr/pg0': rate * (1 - epoch / epochs * 0.95),
            }
            if epoch == 1:
                writer.writerow(row)
            writer.writerow(row.values())
    return best


def _write_verification(folder: CampaignFolder, name: str, counts: dict[str, int]) -> None:
    boxes = dict(zip(CLASS_NAMES, (900, 40, 300, 20, 880), strict=True))
    distributions = {
        'classes': [*boxes.values()],
        'box heights': [*range(39)],
        'boxes per picture': [*range(61)],
        'picture sizes': [[1280, 720, 40]],
    }
    report = DataReport(
        path=Path(f'/somewhere/{name}/data.yaml'),
        expected=counts,
        names=CLASS_NAMES,
        mapping=dict(enumerate(range(len(CLASS_NAMES)))),
        counts={
            split: SplitCounts(count, 3, 0, boxes, (8.0, 15.0, 24.0, 40.0, 90.0), distributions)
            for split, count in counts.items()
        },
        problems=(),
        would_drop=(),
        manifest_sha256='c' * 64,
        pictures={},
    )
    write_json(folder.data(name) / 'verify.json', report.to_json())


def _write_leaks(folder: CampaignFolder, names: list[str]) -> None:
    path = folder.data('leaks') / f'{"__".join(names)}.json'
    path.parent.mkdir(parents=True)
    a, b = names
    content = {
        'bits': 40,
        'sets': {name: {'path': f'/somewhere/{name}', 'pictures': {}} for name in names},
        'counts': [[f'{a}/train', f'{b}/test', 2]],
        'exclusions': {a: ['train/images/x.jpg', 'train/images/y.jpg']},
        'consecutive': [],
        'pairs': [],
    }
    write_json(path, content)
    sheet = np.random.default_rng(1).integers(0, 255, (200, 600, 3), np.uint8)
    cv2.imwrite(str(path.with_suffix('.png')), sheet)
