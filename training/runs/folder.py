"""A campaign's folder: where everything lies, and the state that survives a kill."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from cone_perception.errors import OutputError, SourceError, told_as
from cone_perception.files import (
    LockedError,
    is_locked,
    locked,
    parse_json,
    read_json,
    to_json,
    write_json,
)
from training.recipe.recipe import CANDIDATE, Recipe, Stage

SCHEMA = 1
StepStatus = Literal['pending', 'running', 'done', 'failed']
EventKind = Literal['guard', 'step', 'warning', 'error']


@dataclass(slots=True)
class Step:
    """One step. started, ended: UTC, ISO 8601. result: JSON, what the step is about.

    seconds: time spent in it, of all sittings together. A training step's result: `folder`
    (relative to the campaign), `stage` (its settings) and what `StageResult` has.
    """

    status: StepStatus = 'pending'
    started: str | None = None
    ended: str | None = None
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class State:
    """Content of campaign.json.

    commit: of this software. versions: by package. hardware: what the machine has. pid: of the
    process that works, or worked last. outcome: `Outcome.label`; None: not ended. message: the
    outcome in a sentence. baselines: weights given on the command line, by name.
    steps: by id, in the order in which they run. signatures: those of the strategy's issues that
    were recognised (signatures.py). energy_wh: of the GPUs while steps ran; None: not measured.
    """

    name: str
    recipe_sha256: str
    started: str
    commit: str = ''
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    pid: int = 0
    ended: str | None = None
    outcome: str | None = None
    message: str = ''
    baselines: dict[str, str] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)
    signatures: list[dict[str, Any]] = field(default_factory=list)
    energy_wh: float | None = None

    def result(self, step: str) -> dict[str, Any]:
        """Result of a step; empty: it has none yet."""
        return self.steps[step].result if step in self.steps else {}

    def unfinished(self) -> list[str]:
        """Steps that are not done, in order."""
        return [name for name, step in self.steps.items() if step.status != 'done']


class CampaignFolder:
    """runs/<campaign>/ and everything in it. Makes no folder before something is written.

    run: `<arm>/seed<k>`, or `weights/<name>` for weights that were not trained here.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, root.name
        self.recipe = root / 'recipe.yaml'
        self.state = root / 'campaign.json'
        self.events = root / 'events.jsonl'
        self.lock_file = root / 'lock'
        self.comparison = root / 'comparison.json'
        self.verdict = root / 'verdict.json'
        self.report_html = root / 'report.html'
        self.report_md = root / 'report.md'
        self.card = root / 'card.json'

    def data(self, dataset: str) -> Path:
        """Folder of what is known about a data set; `leaks`, `crops`: about several."""
        return self.root / 'data' / dataset

    def data_yaml(self, dataset: str) -> Path:
        """The data set as it is evaluated: every split whole, the project's classes."""
        return self.data(dataset) / 'data.yaml'

    def training_set(self, stage: Stage) -> Path:
        """data.yaml to train on, without a test split; stages with the same pictures share it."""
        folder = self.data(stage.data)
        share = f'_{stage.fraction:g}' if stage.fraction < 1 else ''
        if stage.crops_per_picture:
            widths = '-'.join(map(str, stage.crop_widths))
            cut = f'{stage.crops_per_picture}x{stage.imgsz}of{widths}'
            folder = self.data('crops') / f'{stage.data}_{cut}{share}'
        return folder / f'training{share}.yaml'

    def stage(self, recipe: Recipe, run: str, stage: Stage) -> Path:
        """Ultralytics' folder of a stage: where the strategy says, if there is one candidate."""
        alone = len(recipe.seeds) == 1 and not recipe.sweep
        if alone and run.partition('/')[0] == CANDIDATE:
            return self.root / stage.folder
        return self.root / run / stage.folder

    def evaluation(self, run: str, what: str) -> Path:
        """Folder of one evaluation; what: `stage1_val`, `stage1_target_val`, `test`."""
        return self.root / 'evaluations' / run / what

    def read_state(self) -> State:
        """Raises SourceError when there is none, or it is not one."""
        if not self.state.exists():
            raise SourceError(f'{self.state} does not exist: there is no campaign in {self.root}.')
        told = f'{self.state} is not the state of a campaign'
        with told_as(SourceError, told, ValueError, KeyError, TypeError):
            stored = read_json(self.state)
            if stored.pop('schema') != SCHEMA:
                raise SourceError(f'{self.state} is of another release: use that one to go on.')
            steps = {name: Step(**step) for name, step in stored.pop('steps').items()}
            return State(**stored, steps=steps)

    def write_state(self, state: State) -> None:
        """Replace campaign.json: a kill at any moment leaves the old one or the new one."""
        write_json(self.state, {'schema': SCHEMA, **asdict(state)})

    def log_event(
        self,
        kind: EventKind,
        name: str,
        message: str,
        *,
        run: str = '',
        step: str = '',
        values: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one line to events.jsonl. Any process may, at any time."""
        event = {
            'time': now(),
            'run': run,
            'step': step,
            'kind': kind,
            'name': name,
            'message': message,
            'values': dict(values or {}),
        }
        self.root.mkdir(parents=True, exist_ok=True)
        with self.events.open('a+b') as file:
            file.seek(max(file.tell() - 1, 0))
            cut_short = file.read(1) not in (b'', b'\n')
            file.write(b'\n' * cut_short + to_json(event).encode() + b'\n')

    def read_events(self) -> list[dict[str, Any]]:
        """All events, oldest first. A line that a kill cut short is left out."""
        if not self.events.is_file():
            return []
        found = []
        for line in self.events.read_text(encoding='utf-8', errors='replace').splitlines():
            with contextlib.suppress(ValueError):
                found.append(parse_json(line))
        return found

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Work on this campaign alone, until the process dies. Raises OutputError: another does."""
        try:
            with locked(self.lock_file):
                yield
        except LockedError:
            raise OutputError(
                f'another process works on the campaign in {self.root}. '
                f'See `cone-training status {self.root}`; stop it before going on here.'
            ) from None

    def is_locked(self) -> bool:
        """Tell whether a process works on this campaign now."""
        return is_locked(self.lock_file)


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec='seconds')
