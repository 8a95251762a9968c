"""The steps of a campaign: in which order, and what each does.

Each writes files, returns what campaign.json keeps of it, and may be cut short and done again.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from cone_perception.errors import RecipeError
from cone_perception.files import without_nan, write_json, write_whole
from training.campaign.status import read_epochs, say
from training.judging.signatures import RunFigures, Signature, find_signatures
from training.judging.verdict import Outcome
from training.recipe.find import find_model, find_recipe
from training.recipe.load import load_recipe
from training.recipe.recipe import BASELINE, Figures, Recipe, Stage, arms, used_datasets
from training.runs.folder import CampaignFolder, State, Step, run_id
from training.stage.training_set import write_splits, write_training_set

WEIGHTS = 'weights'
"""Arm of the models that were not trained here."""


class CampaignStoppedError(Exception):
    """The campaign ends here, with an outcome that a person or the machine caused."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Task:
    """One step to do. work: returns its result. about: what is known of it before it runs."""

    id: str
    title: str
    work: Callable[[], dict[str, Any]]
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """An arm trained with one seed. stages: in order, those that a guard stopped included."""

    id: str
    arm: str
    seed: int
    stages: tuple[Stage, ...]
    candidate: bool


class Steps:
    """What a campaign does, step by step, given what its state says is done."""

    def __init__(self, folder: CampaignFolder, recipe: Recipe, state: State) -> None:
        self.folder = folder
        self.recipe = recipe
        self.state = state

    def check(self) -> None:
        """Refuse what would fail after hours. Raises RecipeError or DataError."""
        find_model(self.recipe.model)
        for name, weights in self.state.baselines.items():
            if not Path(weights).exists():
                raise RecipeError(
                    f'the weights of the baseline {name} are not there: {weights}. Give that of '
                    'a .pt or .onnx file or of a model bundle.'
                )
        for name in used_datasets(self.recipe):
            self.recipe.check_data_folder(name)
        check_device(self.recipe.device)

    def tasks(self) -> list[Task]:
        """All steps that are known by now, in order."""
        return list(self._tasks())

    def outcome(self) -> tuple[Outcome, str]:
        """How a campaign ended whose steps are all done."""
        result = self._result('decide')
        return Outcome.of(result['outcome']), result['sentence']

    def _tasks(self) -> Iterator[Task]:
        runs = self.runs()
        yield Task('verify', 'every label and every picture', self._verify)
        yield Task('leaks', 'near-duplicates between and within the data sets', self._find_leaks)
        if any(stage.crops_per_picture for run in runs for stage in run.stages):
            yield Task('crops', 'training crops', self._cut_crops)
        for run in runs:
            model: str | Path | None = self.recipe.model
            for stage in run.stages:
                name = f'{run.id}/{stage.name}'
                yield self._training(run, stage, model)
                result = self._result(name)
                if result.get('stopped_by') == 'forgetting':
                    continue
                model = self.folder.root / result['best'] if 'best' in result else None
                yield Task(
                    f'{name}/evaluate',
                    'figures on validation pictures',
                    partial(self._evaluate_stage, run, stage),
                )
        for run in runs:
            yield Task(
                f'{run.id}/test',
                f'figures on the test pictures of {self.recipe.target}',
                partial(self._test_run, run),
            )
        for name, path in self.state.baselines.items():
            yield Task(
                f'{WEIGHTS}/{name}/test',
                f'figures of {path} on the same pictures',
                partial(self._test, f'{WEIGHTS}/{name}', Path(path)),
            )
        yield Task('compare', 'paired differences with intervals', self._compare)
        yield Task('decide', 'the verdict', self._decide)
        yield Task('report', 'pages and model card', self.report)

    def runs(self) -> list[Run]:
        """Every arm with every seed; a stage that a guard stopped is followed by its mitigation."""
        found = []
        for arm in arms(self.recipe):
            for seed in self.recipe.seeds:
                name = run_id(arm.name, seed)
                stages: list[Stage] = []
                for stage in arm.stages:
                    stages.append(stage)
                    recipe = self._result(f'{name}/{stage.name}').get('goes_on_with')
                    if recipe:
                        stages.append(mitigation_stage(stage, recipe))
                found.append(Run(name, arm.name, seed, tuple(stages), arm.candidate))
        return found

    def _result(self, step: str) -> dict[str, Any]:
        return self.state.steps.get(step, Step()).result

    def _path(self, name: str) -> Path:
        """data.yaml of the verified copy."""
        return Path(self._result('verify')['paths'][name])

    def _weights(self, run: Run) -> Path:
        """What a run trained: best.pt of its last stage."""
        return self._best_of(run, run.stages[-1])

    def _best_of(self, run: Run, stage: Stage) -> Path:
        return self.folder.root / str(self._result(f'{run.id}/{stage.name}')['best'])

    def _verify(self) -> dict[str, Any]:
        """Check every data set, and link what is usable of it into the campaign's folder.

        So the data sets themselves stay as they are, though Ultralytics mends pictures in place and
        writes its caches beside the labels.
        """
        from training.data.distributions import write_distributions
        from training.data.normalise import write_normalised
        from training.data.verify import verify_dataset

        pictures, paths, manifests, failed = {}, {}, {}, []
        for name in used_datasets(self.recipe):
            images = self.recipe.datasets[name].images
            report = verify_dataset(self.recipe.data_folder(name), images)
            text = json.dumps(report.to_json(), indent=2) + '\n'
            write_whole(self.folder.verification(name), text)
            write_distributions(report, self.folder.distributions(name))
            pictures[name] = {split: counts.pictures for split, counts in report.counts.items()}
            manifests[name] = report.manifest_sha256
            fatal = [str(p) for p in report.problems if p.fatal or p.kind == 'to-label']
            say(f'{name}: {pictures[name]}, {len(fatal)} fatal of {len(report.problems)} problems')
            if name == self.recipe.target and not pictures[name].get('test'):
                fatal.append('data.yaml: the target has no test split, which judges')
            for line in fatal[:10]:
                say(f'  {line}')
            if fatal:
                failed.append(f'{name}: {len(fatal)} fatal, the first {fatal[0]}')
                continue
            paths[name] = str(write_normalised(report, self.folder.data(name) / 'linked'))
            write_splits(self.folder.data_yaml(name), Path(paths[name]))
        if failed:
            raise CampaignStoppedError(
                Outcome.VERIFICATION_FAILED,
                f'{"; ".join(failed)}. All of them: {self.folder.root}/data/*/verify.json. Mend '
                'the data, then give --resume.',
            )
        return {'pictures': pictures, 'paths': paths, 'manifests': manifests}

    def _find_leaks(self) -> dict[str, Any]:
        from training.data.leaks import find_leaks

        names = tuple(used_datasets(self.recipe))
        place = self.folder.leaks(*names)
        report = find_leaks(
            {name: self._path(name) for name in names},
            self.recipe.leaks.bits,
            cache=place.with_name('hashes.json'),
        )
        write_json(place, report.to_json(), indent=1)
        report.write_contact_sheet(self.folder.leaks_sheet(*names))
        excluded = {name: sorted(map(str, report.excluded(name))) for name in names}
        for name, paths in excluded.items():
            if paths:
                verb = 'are left out' if self.recipe.leaks.exclude else 'stay (leaks.exclude=false)'
                message = f'{len(paths)} training pictures of {name} are like val or test: {verb}'
                say(message)
                self.folder.log_event('warning', 'leaks', message, step='leaks')
        return {
            'pairs': {f'{a} {b}': count for (a, b), count in report.counts.items()},
            'excluded': excluded if self.recipe.leaks.exclude else {},
        }

    def _excluded(self, dataset: str) -> set[Path]:
        """Pictures that no training sees because they are too like ones that judge."""
        return {Path(path) for path in self._result('leaks').get('excluded', {}).get(dataset, [])}

    def _cut_crops(self) -> dict[str, Any]:
        counts = {}
        for run in self.runs():
            for stage in run.stages:
                if stage.crops_per_picture:
                    data_yaml, count = self._write_training_set(stage)
                    counts[data_yaml.parent.name] = count
        return {'crops': counts}

    def _write_training_set(self, stage: Stage) -> tuple[Path, int]:
        path = self._path(stage.data)
        return write_training_set(self.folder, stage, path, self._excluded(stage.data))

    def _training(self, run: Run, stage: Stage, model: str | Path | None) -> Task:
        place = self.folder.stage(self.recipe, run.id, stage)
        about = {
            'run': run.id,
            'arm': run.arm,
            'seed': run.seed,
            'stage': without_nan(stage),
            'folder': str(place.relative_to(self.folder.root)),
        }
        return Task(
            f'{run.id}/{stage.name}',
            f'{stage.epochs} epochs on {stage.data}',
            partial(self._train, run, stage, model, place),
            about,
        )

    def _train(
        self, run: Run, stage: Stage, model: str | Path | None, place: Path
    ) -> dict[str, Any]:
        from training.stage.guards import GuardError, StageStopped
        from training.stage.job import StageJob
        from training.stage.trainer import train_stage

        data_yaml, pictures = self._write_training_set(stage)
        recipe = self.recipe
        job = StageJob(
            run=run.id,
            # The list of training pictures is cut already.
            stage=replace(stage, fraction=1.0),
            model=find_model(str(model)),
            data_yaml=data_yaml,
            target_yaml=self.folder.data_yaml(recipe.target),
            folder=place,
            events=self.folder.events,
            campaign=self.folder.name,
            seed=run.seed,
            device=recipe.device,
            amp=recipe.amp,
            workers=recipe.workers,
            cache=recipe.cache,
            select_by=recipe.select_by,
            guards=recipe.guards,
            tracking=recipe.tracking,
            imgsz_val=recipe.judging.imgsz,
        )
        try:
            result = train_stage(job)
        except StageStopped as stop:
            return self._stopped(run, stage, stop.reason, str(stop), stop.mitigation)
        except GuardError as error:
            raise CampaignStoppedError(Outcome.STOPPED_BY_GUARD, str(error)) from error
        found: dict[str, Any] = without_nan(result)
        for name in ('best', 'last'):
            found[name] = str(Path(found[name]).relative_to(self.folder.root))
        return {**found, 'pictures': pictures}

    def _stopped(
        self, run: Run, stage: Stage, reason: str, message: str, mitigation: tuple[str, ...]
    ) -> dict[str, Any]:
        """What follows from a guard's stop: another recipe's stage in its place, or the end."""
        recipe = self.recipe.guards.on_forgetting
        planned = {entry.name for arm in arms(self.recipe) for entry in arm.stages}
        if reason == 'forgetting' and recipe != 'stop' and stage.name in planned:
            following = mitigation_stage(stage, recipe)
            self.folder.log_event(
                'guard',
                'mitigation',
                f'{message} The campaign goes on with {recipe}: {following.name}.',
                run=run.id,
                step=stage.name,
            )
            say(f'{run.id}/{stage.name} forgot; goes on with {recipe}: {following.name}')
            return {'stopped_by': reason, 'goes_on_with': recipe, 'message': message}
        if reason == 'forgetting':
            figures = RunFigures(forgot=True)
            found = find_signatures(run.id, figures, self.recipe.guards, self.recipe.judging.margin)
            self.state.signatures = [signature.to_json() for signature in found]
        outcome = {
            'disk_full': Outcome.OUT_OF_DISK,
            'out_of_memory': Outcome.OUT_OF_MEMORY,
            'terminated': Outcome.INTERRUPTED,
        }.get(reason, Outcome.STOPPED_BY_GUARD)
        tried = f' Recipes to try: {", ".join(mitigation)}.' if mitigation else ''
        raise CampaignStoppedError(outcome, f'{run.id}/{stage.name}: {message}{tried}')

    def _evaluate_stage(self, run: Run, stage: Stage) -> dict[str, Any]:
        """A stage's best.pt on its own validation set and on the target's."""
        weights, what = self._best_of(run, stage), f'{stage.name}_val'
        found = {what: self._evaluate(run.id, what, weights, stage.data)}
        if stage.data != self.recipe.target:
            what = f'{stage.name}_target_val'
            found[what] = self._evaluate(run.id, what, weights, self.recipe.target)
        return found

    def _test_run(self, run: Run) -> dict[str, Any]:
        return self._test(run.id, self._weights(run))

    def _test(self, run: str, weights: Path) -> dict[str, Any]:
        from training.stage.tracking import TrackedRun

        found = {'test': self._evaluate(run, 'test', weights, self.recipe.target, 'test')}
        TrackedRun(
            self.recipe.tracking,
            {'group': self.folder.name, 'job_type': 'test', 'name': f'{run}/test'},
            self.folder.evaluation(run, 'test'),
            self.folder.root,
            lambda message: self.folder.log_event(
                'warning', 'tracking', message, run=run, step='test'
            ),
        ).finish()
        return found

    def _evaluate(
        self, run: str, what: str, weights: Path, dataset: str, split: str = 'val'
    ) -> dict[str, float]:
        """Evaluate, save everything below evaluations/, and return the figures."""
        from training.judging.evaluate import evaluate, write_evaluation
        from training.judging.metrics import metrics
        from training.judging.predictions import ModelOptions

        judging, device = self.recipe.judging, self.recipe.device
        device = device[0] if isinstance(device, tuple) else device
        evaluation = evaluate(
            weights,
            self.folder.data_yaml(dataset),
            split,
            ModelOptions(judging.imgsz, None if device is None else str(device)),
        )
        write_evaluation(evaluation, self.folder.evaluation(run, what), judging.confidence)
        found = metrics(evaluation, confidence=judging.confidence)
        say(f'{run} {what}: mAP50 {found.map50:.4f}, mAP50-95 {found.map50_95:.4f}')
        return {
            'map50': found.map50,
            'map50_95': found.map50_95,
            'precision': found.best_f1.precision,
            'recall': found.best_f1.recall,
        }

    def _compare(self) -> dict[str, Any]:
        """The candidate against every other arm and every given baseline, on the test pictures.

        Of several candidates, the arms of a sweep, it is the one that did best in validation.
        """
        from training.judging.compare import compare, interval, meaning
        from training.judging.stored import load_evaluation

        arms_runs = self._runs_by_arm()
        candidate = self._best_candidate()
        names = {**arms_runs, **{name: [f'{WEIGHTS}/{name}'] for name in self.state.baselines}}
        tests = {
            name: [load_evaluation(self.folder.evaluation(run, 'test')) for run in runs]
            for name, runs in names.items()
        }
        judging = self.recipe.judging
        settings: dict[str, Any] = {
            'resamples': judging.resamples,
            'block': judging.block,
            'confidence': judging.confidence,
        }
        comparisons = [
            compare(tests[candidate], test, **settings, names=(candidate, name))
            for name, test in tests.items()
            if name != candidate
        ]
        own = comparisons[0].own if comparisons else interval(tests[candidate], **settings)
        stored = {
            'margin': judging.margin,
            'candidate': candidate,
            'runs': names,
            'comparisons': [
                {**each.to_json(), 'meaning': meaning(each, judging.margin)} for each in comparisons
            ],
            'own': {name: asdict(figure) for name, figure in own.items()},
        }
        write_json(self.folder.comparison, stored)
        for each in comparisons:
            say(meaning(each, judging.margin))
        return {'candidate': candidate}

    def _runs_by_arm(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for run in self.runs():
            found.setdefault(run.arm, []).append(run.id)
        return found

    def _best_candidate(self) -> str:
        """Of the arms that are candidates, the one that did best in validation on the target."""
        scores: dict[str, list[float]] = {}
        for run in self.runs():
            if run.candidate:
                scores.setdefault(run.arm, []).append(self._validation(run))
        return max(scores, key=lambda arm: statistics.mean(scores[arm]))

    def _validation(self, run: Run) -> float:
        """mAP50 of what a run trained, on the target's validation pictures."""
        return float(self._stage_figure(run, -1, self.recipe.target) or 0.0)

    def _stage_figure(self, run: Run, index: int, dataset: str) -> float | None:
        """mAP50 of a stage's weights on a data set's validation pictures; None: not evaluated."""
        stages = [stage for stage in run.stages if not self._forgot(run, stage)]
        stage = stages[index]
        what = f'{stage.name}_val' if stage.data == dataset else f'{stage.name}_target_val'
        result = self._result(f'{run.id}/{stage.name}/evaluate')
        return result[what]['map50'] if what in result else None

    def _forgot(self, run: Run, stage: Stage) -> bool:
        return self._result(f'{run.id}/{stage.name}').get('stopped_by') == 'forgetting'

    def _decide(self) -> dict[str, Any]:
        from cone_perception.accuracy.intervals import Interval
        from training.judging.compare import Comparison
        from training.judging.decide import decide
        from training.judging.verdict import CampaignCandidate

        stored = json.loads(self.folder.comparison.read_text(encoding='utf-8'))
        name = stored['candidate']
        comparisons = [Comparison.from_json(entry) for entry in stored['comparisons']]
        runs = [run for run in self.runs() if run.arm == name]
        signatures = [each for run in runs for each in self._signatures(run)]
        self.state.signatures = [signature.to_json() for signature in signatures]
        others = {stage.data for run in runs for stage in run.stages} - {self.recipe.target}
        best = {
            arm: max((run for run in self.runs() if run.arm == arm), key=self._validation)
            for arm in self._runs_by_arm()
        }
        first = best[name].stages[0]
        verdict = decide(
            CampaignCandidate(
                name=name,
                figures={
                    figure: Interval(*(math.nan if v is None else v for v in values.values()))
                    for figure, values in stored['own'].items()
                },
                weights={
                    **{arm: self._weights(run) for arm, run in best.items()},
                    **{given: Path(path) for given, path in self.state.baselines.items()},
                },
                data=self.recipe.data_folder(self.recipe.target),
                pretraining=self.recipe.data_folder(min(others)) if others else None,
                first_stage=self._best_of(best[name], first)
                if len(best[name].stages) > 1
                else None,
                recipe=str(self.folder.recipe),
                card=self.folder.card,
                seeds=len(runs),
                signatures=sorted({signature.name for signature in signatures}),
            ),
            comparisons,
            self.recipe.judging,
        )
        write_json(self.folder.verdict, verdict.to_json())
        say(verdict.sentence)
        for step in verdict.next_steps:
            say(f'  next: {step}')
        return {'outcome': verdict.outcome.label, 'sentence': verdict.sentence}

    def _signatures(self, run: Run) -> tuple[Signature, ...]:
        """The strategy's issues that a run of the candidate shows."""
        stages = [stage for stage in run.stages if not self._forgot(run, stage)]
        first, last = stages[0], stages[-1]
        target, judging = self.recipe.target, self.recipe.judging
        base = [other for other in self.runs() if other.arm == BASELINE and not other.candidate]
        tests = [self._result(f'{other.id}/test')['test']['map50'] for other in base]
        given = self._result(f'{WEIGHTS}/{BASELINE}/test')
        published = judging.published.get(BASELINE, Figures()).map50
        results = self.folder.stage(self.recipe, run.id, last) / 'results.csv'
        return find_signatures(
            run.id,
            RunFigures(
                source_val=(
                    self._stage_figure(run, 0, first.data) if first.data != target else None
                ),
                start=self._stage_figure(run, -2, target) if len(stages) > 1 else None,
                target_val=self._stage_figure(run, -1, target),
                test=self._result(f'{run.id}/test')['test']['map50'],
                baseline=statistics.mean(map(self._validation, base)) if base else None,
                baseline_test=(
                    statistics.mean(tests)
                    if tests
                    else given['test']['map50']
                    if given
                    else published
                ),
                val_losses=read_epochs(results).val_losses,
                forgot=len(stages) < len(run.stages),
            ),
            self.recipe.guards,
            judging.margin,
        )

    def report(self) -> dict[str, Any]:
        """Write the pages from what lies in the folder, however far the campaign is."""
        from training.report.page import write_report

        page = write_report(self.folder)
        say(f'report: {page}')
        return {'page': str(page.relative_to(self.folder.root))}


def mitigation_stage(stage: Stage, recipe: str) -> Stage:
    """The stage with what a mitigation recipe changes, in a folder of its own.

    What that recipe leaves as `two_stage` has it stays as this campaign has it.
    """
    changed = _stage_of(recipe, stage.name)
    usual = _stage_of('two_stage', stage.name)
    values = {
        entry.name: getattr(changed, entry.name)
        for entry in fields(Stage)
        if getattr(changed, entry.name) != getattr(usual, entry.name)
    }
    name = f'{stage.name}_{Path(recipe).stem.replace("-", "_")}'
    return replace(stage, **{**values, 'name': name, 'data': stage.data})


def _stage_of(recipe: str, name: str) -> Stage:
    """The stage of that name in a recipe, or its last one."""
    stages = load_recipe(find_recipe(recipe)).stages
    return next((stage for stage in stages if stage.name == name), stages[-1])


def check_device(device: str | int | tuple[int, ...]) -> None:
    """Raises RecipeError when the machine does not have it."""
    if device == 'cpu':
        return
    from training.stage.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    import torch

    wanted = device if isinstance(device, tuple) else (device,)
    count = torch.cuda.device_count()
    if not torch.cuda.is_available() or any(int(number) >= count for number in wanted):
        raise RecipeError(
            f'device {device}: PyTorch {torch.__version__} sees {count} CUDA devices here. Give '
            'device=cpu, or install a CUDA build of PyTorch and its driver.'
        )
