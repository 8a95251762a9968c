"""A campaign as its steps see it: folder, recipe, and what is known by now."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from training.judging.verdict import Outcome
from training.recipe.load import find_recipe, load_recipe
from training.recipe.recipe import Recipe, Stage, arms
from training.runs.folder import CampaignFolder, State
from training.stage.training_set import write_training_set


def is_finished(state: State) -> bool:
    """Tell whether nothing is left to do."""
    return state.outcome is not None and Outcome.of(state.outcome).finished


class CampaignStoppedError(Exception):
    """The campaign ends here, with an outcome that a person or the machine caused."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Run:
    """An arm trained with one seed. stages: in order, those that a guard stopped included."""

    id: str
    arm: str
    seed: int
    stages: tuple[Stage, ...]
    candidate: bool


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign at work; its steps write the folder and read each other's results in the state."""

    folder: CampaignFolder
    recipe: Recipe
    state: State

    def runs(self) -> list[Run]:
        """Every arm with every seed; a stage that a guard stopped is followed by its mitigation."""
        found = []
        for arm in arms(self.recipe):
            for seed in self.recipe.seeds:
                name = f'{arm.name}/seed{seed}'
                stages: list[Stage] = []
                for stage in arm.stages:
                    stages.append(stage)
                    recipe = self.state.result(f'{name}/{stage.name}').get('goes_on_with')
                    if recipe:
                        stages.append(mitigation_stage(stage, recipe))
                found.append(Run(name, arm.name, seed, tuple(stages), arm.candidate))
        return found

    def runs_by_arm(self) -> dict[str, list[Run]]:
        """Arm -> its runs, one per seed."""
        found: dict[str, list[Run]] = {}
        for run in self.runs():
            found.setdefault(run.arm, []).append(run)
        return found

    def trained_stages(self, run: Run) -> list[Stage]:
        """Stages of a run less those that the forgetting guard stopped."""
        return [
            stage
            for stage in run.stages
            if self.state.result(f'{run.id}/{stage.name}').get('stopped_by') != 'forgetting'
        ]

    def best(self, run: Run, stage: Stage | None = None) -> Path:
        """best.pt of a stage; of the last one if none is given."""
        name = f'{run.id}/{(stage or run.stages[-1]).name}'
        return self.folder.root / str(self.state.result(name)['best'])

    def stage_map50(self, run: Run, index: int, dataset: str) -> float | None:
        """mAP50 of a stage's weights on a data set's validation pictures; None: not evaluated."""
        stage = self.trained_stages(run)[index]
        what = f'{stage.name}_val' if stage.data == dataset else f'{stage.name}_target_val'
        result = self.state.result(f'{run.id}/{stage.name}/evaluate')
        return result[what]['map50'] if what in result else None

    def validation_map50(self, run: Run) -> float:
        """mAP50 of what a run trained, on the target's validation pictures."""
        return float(self.stage_map50(run, -1, self.recipe.target) or 0.0)

    def write_training_set(self, stage: Stage) -> tuple[Path, int]:
        """Write data.yaml and count of a stage's pictures, less those too like ones that judge."""
        excluded = self.state.result('leaks').get('excluded', {}).get(stage.data, [])
        pictures, verified = {Path(path) for path in excluded}, self.state.result('verify')['paths']
        return write_training_set(self.folder, stage, Path(verified[stage.data]), pictures)


def mitigation_stage(stage: Stage, recipe: str) -> Stage:
    """The stage with what a mitigation recipe changes, in a folder of its own.

    What that recipe leaves as `two_stage` has it stays as this campaign has it.
    """
    changed, usual = _stage_of(recipe, stage.name), _stage_of('two_stage', stage.name)
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
