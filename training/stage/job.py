"""The order of a stage, its record while it trains, and its result. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from cone_perception.files import read_json, write_json, write_whole
from training.recipe.recipe import Recipe, Stage
from training.runs.folder import CampaignFolder, EventKind
from training.runs.record import MAP50, MAP50_95, read_results
from training.stage.guards import StageStopped, arguments, forgotten


@dataclass(frozen=True, slots=True)
class StageJob:
    """One training of a campaign, with a record beside its checkpoints.

    root: folder of the campaign. run: `two-stage/seed0`. stage: of the recipe, or a mitigation,
    with a fraction of 1. model: weights (.pt) or architecture (.yaml) to start from.
    data_yaml: pictures of the stage.
    """

    root: Path
    recipe: Recipe
    run: str
    stage: Stage
    model: str | Path
    data_yaml: Path
    seed: int = 0

    @property
    def campaign(self) -> CampaignFolder:
        return CampaignFolder(self.root)

    @property
    def file(self) -> Path:
        """File of the job for Ultralytics' child processes; outside of `folder`."""
        return self.root / 'jobs' / self.run / f'{self.stage.name}.json'

    @property
    def record_file(self) -> Path:
        return self.file.with_suffix('.state.json')

    @property
    def target_yaml(self) -> Path:
        """data.yaml of the data set that counts."""
        return self.campaign.data_yaml(self.recipe.target)

    @property
    def folder(self) -> Path:
        """Folder that Ultralytics writes and may delete."""
        return self.campaign.stage(self.recipe, self.run, self.stage)

    @property
    def weights(self) -> Path:
        return self.folder / 'weights'

    @property
    def results(self) -> Path:
        """Ultralytics' own table, a row an epoch."""
        return self.folder / 'results.csv'

    @property
    def fitness(self) -> str:
        """Name of the figure that selects best.pt."""
        return MAP50 if self.recipe.select_by == 'map50' else MAP50_95

    def arguments(self) -> dict[str, Any]:
        """Ultralytics' arguments that make the result what it is.

        nms: YOLO26 is judged by the head that `export` deploys and `evaluate` judges.
        deterministic: costs a fifth of the time on a CPU, and gives the same figures there.
        """
        return {
            **arguments(self.stage),
            'seed': self.seed,
            'amp': self.recipe.amp,
            'split': 'val',
            'nms': None,
            'pretrained': True,
            'deterministic': self.recipe.device != 'cpu',
            'plots': False,
        }

    def log(self, kind: EventKind, name: str, message: str, **values: Any) -> None:
        """Append an event to the campaign's."""
        where = {'run': self.run, 'step': self.stage.name}
        self.campaign.log_event(kind, name, message, **where, values=values)

    def record(self) -> dict[str, Any]:
        """Facts of the stage so far; empty: none yet.

        start: Ultralytics' figures of the starting weights, on the `target` and on its `own`
        validation set; None: there is nothing to compare with. on_target, seconds: as in
        StageResult. ending: why the last sitting ended early. result: StageResult.
        """
        stored = self.record_file
        return read_json(stored) if stored.is_file() else {}

    def note(self, **values: Any) -> None:
        """Replace the record's file by one with these values."""
        write_json(self.record_file, {**self.record(), **values})

    def result(self) -> StageResult | None:
        """Read the result of a finished stage; None where it or its weights are not there."""
        stored = self.record().get('result')
        if stored is None or not Path(stored['best']).is_file():
            return None
        return TypeAdapter(StageResult).validate_python(stored)

    def make_result(self) -> StageResult:
        """Read the result off the epochs of a stage that is trained to its end."""
        known, epochs = self.record(), read_results(self.results)
        fitness = epochs[self.fitness]
        best = max(range(len(fitness)), key=lambda row: (fitness[row], row))
        target, own = known['start']['target'], known['start']['own']
        return StageResult(
            best=self.weights / 'best.pt',
            last=self.weights / 'last.pt',
            epochs=len(fitness),
            stopped_by=None if len(fitness) >= self.stage.epochs else 'patience',
            start_map50=None if target is None else target[MAP50],
            best_epoch=int(epochs['epoch'][best]),
            best_map50=epochs[MAP50][best],
            best_map50_95=epochs[MAP50_95][best],
            on_target=known['on_target'],
            worse_than_start=own is not None and fitness[best] < own[self.fitness],
            seconds=known['seconds'],
        )

    def check_forgetting(self) -> None:
        """Raise StageStopped if the stage unlearns what its starting weights knew of the target."""
        known, guards = self.record(), self.recipe.guards
        if not known['on_target'] or known['start']['target'] is None:
            return
        start = known['start']['target'][MAP50]
        history = read_results(self.results).get(MAP50, [])
        if forgotten(history, start, guards):
            raise StageStopped(
                'forgetting',
                f'mAP50 on the target is {history[-1]:.3f} after epoch {len(history)}; it was '
                f'{start:.3f} at the start, and more than {guards.forgetting_drop} lower for '
                f'{guards.forgetting_epochs} epochs.',
            )

    def keep_rows(self, epochs: int) -> None:
        """Take out what was written after the last checkpoint: those epochs are trained again."""
        if not self.results.is_file():
            return
        header, *lines = self.results.read_text(encoding='utf-8').splitlines()
        kept = [
            line
            for line in lines
            if line.count(',') == header.count(',') and int(line.split(',')[0]) <= epochs
        ]
        write_whole(self.results, '\n'.join([header, *kept]) + '\n')


def read_job(path: Path) -> StageJob:
    return TypeAdapter(StageJob).validate_json(path.read_bytes())


@dataclass(frozen=True, slots=True)
class StageResult:
    """Results of a finished stage.

    epochs: trained. stopped_by: `patience`, or None: all epochs. start_map50: of the starting
    weights on the target's validation set; None: they do not know its classes. best_epoch: of
    best.pt, from 1. best_map50, best_map50_95: of best.pt on the stage's own validation set.
    on_target: that set is the target's. worse_than_start: best.pt is worse than what the stage
    started from, on that set. seconds: training and validation, all sittings together.
    """

    best: Path
    last: Path
    epochs: int
    stopped_by: str | None
    start_map50: float | None
    best_epoch: int
    best_map50: float
    best_map50_95: float
    on_target: bool
    worse_than_start: bool
    seconds: float
