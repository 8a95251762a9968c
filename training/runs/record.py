"""Reads the files of a campaign, finished or not, for its report and its model's card."""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cone_perception.files import parse_yaml, read_json
from training.recipe.recipe import BASELINE, CANDIDATE
from training.runs.folder import CampaignFolder, State, Step

MAP50 = 'metrics/mAP50(B)'
MAP50_95 = 'metrics/mAP50-95(B)'
"""Ultralytics' names."""

Columns = Mapping[str, Sequence[float]]


def read_results(path: Path) -> dict[str, list[float]]:
    """Ultralytics' results.csv by column; a line that is being written is left out."""
    if not path.is_file():
        return {}
    with path.open(encoding='utf-8', errors='replace', newline='') as file:
        rows = list(csv.reader(file))
    names, *rows = rows or [[]]
    whole = [row for row in rows if len(row) == len(names)]
    return {name.strip(): [_number(row[i]) for row in whole] for i, name in enumerate(names)}


def epoch_seconds(columns: Columns) -> list[float]:
    """Seconds that each epoch took. A resumed training counts its time from zero."""
    found, before = [], 0.0
    for at in columns.get('time', ()):
        found.append(at - before if at > before else at)
        before = at
    return found


def total(columns: Columns, prefix: str) -> list[float]:
    """Add the columns that begin so, in each epoch."""
    parts = [values for name, values in columns.items() if name.startswith(prefix)]
    return [sum(row) for row in zip(*parts, strict=True)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


@dataclass(frozen=True, slots=True)
class Training:
    """One stage of one run, and its curves.

    run: `two-stage/seed0`. on_target: its validation pictures are the target's. pictures: that it
    trains on; 0: not known. start_map50: of the starting weights on the target's validation
    pictures. passes: pictures shown in the stages before it. columns: results.csv, by name; NaN
    where it is not a number. settings: of the stage. step: of campaign.json.
    """

    run: str
    arm: str
    stage: str
    data: str
    on_target: bool
    pictures: int
    passes: float
    start_map50: float | None
    columns: Columns
    settings: Mapping[str, Any]
    step: Step

    @property
    def epochs(self) -> Sequence[float]:
        return self.columns.get('epoch', ())

    def passes_at(self) -> list[float]:
        """Pictures shown at the end of each epoch, those of the stages before included."""
        return [self.passes + epoch * self.pictures for epoch in self.epochs]


@dataclass(slots=True)
class CampaignRecord:
    """Everything that is there.

    missing: what is not, in words. recipe: as it was written; empty: unreadable. verdict,
    comparison: as JSON; empty: not there. events: oldest first. evaluations: by run and by what was
    evaluated, evaluation.json. verifications: by data set. leaks: with the file's name.
    tracked: W&B runs.
    """

    folder: CampaignFolder
    state: State
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_text: str = ''
    verdict: dict[str, Any] = field(default_factory=dict)
    comparison: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    evaluations: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    verifications: dict[str, dict[str, Any]] = field(default_factory=dict)
    leaks: dict[Path, dict[str, Any]] = field(default_factory=dict)
    trainings: list[Training] = field(default_factory=list)
    tracked: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def target(self) -> str:
        return str(self.recipe.get('target', ''))

    @property
    def candidate(self) -> str:
        """The arm that the verdict is about."""
        found = self.comparison.get('candidate')
        arms = [training.arm for training in self.trainings if training.arm != BASELINE]
        return str(found or (arms[0] if arms else CANDIDATE))

    @property
    def judging(self) -> Mapping[str, Any]:
        """Settings of the recipe by which it is judged; empty: not known."""
        return self.recipe.get('judging') or {}

    @property
    def margin(self) -> float:
        return float(self.comparison.get('margin', self.judging.get('margin', 0.01)))

    def runs(self) -> dict[str, list[str]]:
        """Arm -> its runs, in the order of the campaign; given weights are arms too."""
        found: dict[str, list[str]] = {}
        for training in self.trainings:
            found.setdefault(training.arm, [])
            if training.run not in found[training.arm]:
                found[training.arm].append(training.run)
        for name in self.state.baselines:
            found[name] = [f'weights/{name}']
        return found

    @property
    def outcome(self) -> str:
        """Label of the outcome; '' while there is none."""
        return str(self.state.outcome or self.verdict.get('outcome') or '')


def read_campaign(folder: CampaignFolder) -> CampaignRecord:
    """Read all that is there. Raises SourceError when there is no campaign."""
    record = CampaignRecord(folder, folder.read_state())
    record.events = folder.read_events()
    if folder.recipe.is_file():
        record.recipe_text = folder.recipe.read_text(encoding='utf-8', errors='replace')
        with contextlib.suppress(ValueError):
            loaded = parse_yaml(record.recipe_text)
            record.recipe = loaded if isinstance(loaded, dict) else {}
    if not record.recipe:
        record.missing.append('`recipe.yaml` is not there, or cannot be read.')
    record.verdict = _json(record, folder.verdict, 'the verdict')
    record.comparison = _json(record, folder.comparison, 'the comparison with the baselines')
    for name in record.recipe.get('datasets') or {}:
        if (path := folder.data(name) / 'verify.json').is_file():
            record.verifications[name] = _json(record, path, name)
    for path in sorted(folder.data('leaks').glob('*.json')):
        if path.stem != 'hashes':
            record.leaks[path] = _json(record, path, 'leaks')
    for path in sorted((folder.root / 'evaluations').rglob('evaluation.json')):
        run = path.parents[1].relative_to(folder.root / 'evaluations').as_posix()
        found = _json(record, path, f'the evaluation of {run}')
        record.evaluations.setdefault(run, {})[path.parent.name] = found
    for path in sorted((folder.root / 'wandb').glob('*.json')):
        record.tracked.append(_json(record, path, 'the W&B run'))
    record.trainings = _trainings(record)
    unfinished = record.state.unfinished()
    record.missing += [f'Step `{name}`: {record.state.steps[name].status}.' for name in unfinished]
    return record


def _json(record: CampaignRecord, path: Path, what: str) -> dict[str, Any]:
    try:
        found = read_json(path)
    except FileNotFoundError:
        record.missing.append(f'There is no `{path.name}` yet: {what}.')
        return {}
    except (OSError, ValueError) as error:
        place = path.relative_to(record.folder.root)
        record.missing.append(f'`{place}` cannot be read: {error}.')
        return {}
    return found if isinstance(found, dict) else {}


def _trainings(record: CampaignRecord) -> list[Training]:
    found: list[Training] = []
    shown: dict[str, float] = {}
    verified = record.state.result('verify').get('pictures', {})
    for step in record.state.steps.values():
        about = step.result
        if 'stage' not in about:
            continue
        run, settings = about['run'], about['stage']
        whole = verified.get(settings['data'], {}).get('train', 0)  # until the stage is done
        share = settings['fraction'] * max(settings['crops_per_picture'], 1)
        training = Training(
            run=run,
            arm=about['arm'],
            stage=settings['name'],
            data=settings['data'],
            on_target=settings['data'] == record.target,
            pictures=int(about.get('pictures') or round(whole * share)),
            passes=shown.get(run, 0.0),
            start_map50=about.get('start_map50'),
            columns=read_results(record.folder.root / about['folder'] / 'results.csv'),
            settings=settings,
            step=step,
        )
        if about.get('stopped_by') != 'forgetting':
            shown[run] = (training.passes_at() or [training.passes])[-1]
        found.append(training)
    return found
