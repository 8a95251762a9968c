"""Weights & Biases beside a training that it can neither stop nor slow.

wandb blocks, prompts, hangs at exit, and starts a service that can die. So a process of its own
reads what the training writes anyway, and is killed when it does not end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from cone_perception.files import read_json, write_json
from training.recipe.recipe import Tracking
from training.runs.folder import CampaignFolder
from training.runs.record import read_results

INIT_S = int(os.environ.get('WANDB_INIT_TIMEOUT', '60'))  # to reach the server
GRACE_S = 10  # beyond wandb's own limit
FINISH_S = 60.0  # for the last upload
ORPHAN_S = 20  # for the process to end after the run, or when the training was killed


class TrackedRun:
    """The W&B run of a stage or an evaluation; a resumed stage goes on in the same run.

    Never raises, and never waits but in finish(), which has a limit. What fails is told to stderr
    and to the campaign's events, with its reason.

    about: arguments of wandb.init: group (the campaign), name (`two-stage/seed0/stage1`), job_type,
    config. source: folder of the stage, whose results.csv has the points of the curves and whose
    best.pt becomes an artifact, or of an evaluation with figures and pictures. folder: of the
    campaign; all files go below `folder/wandb`.

    record: file of an opened run: id, name, mode (offline or online, as it was opened last), url
    (of an online run), sent (points that wandb took, in all sittings).
    """

    def __init__(
        self, settings: Tracking, about: Mapping[str, Any], source: Path, folder: Path
    ) -> None:
        self.process: subprocess.Popen[str] | None = None
        self._source = source.resolve()
        self._warn = partial(_warn, folder, about['name'])
        name = re.sub('[^A-Za-z0-9.=-]+', '_', about['name'])
        self.record = folder.resolve() / 'wandb' / f'{name}.json'
        if settings.mode == 'off':
            return
        about = {**about, 'project': settings.project, 'entity': settings.entity or None}
        try:
            task = [settings.mode, self.record, self._source, len(self._epochs()), about]
            self.record.parent.mkdir(exist_ok=True, parents=True)
            with self.record.with_suffix('.log').open('a', encoding='utf-8') as log:
                self.process = subprocess.Popen(
                    [sys.executable, '-c', 'import training.stage.tracking as t; t.serve()'],
                    cwd=Path(__file__).parents[2],  # no module of the user's hides one of wandb's
                    stdin=subprocess.PIPE,
                    stdout=log,
                    text=True,
                    start_new_session=True,  # no terminal to ask at, no Ctrl-C
                )
            print(json.dumps(task, default=str), file=self.process.stdin, flush=True)
        except Exception as error:  # whatever it is, the training goes on
            self._warn(f'W&B cannot be started, nothing is tracked: {error!r}')

    def finish(self, failed: bool = False, limit_s: float = FINISH_S) -> None:
        """Wait at most `limit_s` seconds for wandb to end, then end it; tells what was not sent."""
        process, self.process = self.process, None
        if process is None or process.stdin is None:
            return
        try:
            with contextlib.suppress(OSError), process.stdin as stdin:
                stdin.write(f'{json.dumps(failed)}\n')
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self._warn(
                f'W&B did not end within {limit_s:.0f} s and was stopped. What it has not sent '
                f'lies in {self.record.parent}: send it with `wandb sync`.'
            )
            process.kill()
        if process.wait() not in (0, -signal.SIGKILL):
            log = self.record.with_suffix('.log')
            self._warn(f'W&B ended with status {process.returncode}; see {log}.')
        try:
            points = len(self._epochs()) or int((self._source / 'evaluation.json').is_file())
            lost = points - _read_record(self.record).get('sent', 0)
        except Exception as error:  # whatever it is, the training is done
            self._warn(f'W&B: nobody can tell whether all was sent: {error!r}')
            return
        if lost > 0:
            self._warn(f'W&B: {lost} of {points} points of this run were not sent.')

    def _epochs(self) -> list[float]:
        return read_results(self._source / 'results.csv').get('epoch', [])


def _read_record(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _warn(folder: Path, run: str, reason: str, stream: IO[str] | None = None) -> None:
    """Tell a reason, without the API key. stream: in place of stderr."""
    reason = reason.replace(os.environ.get('WANDB_API_KEY') or '\0', '***')
    training, _, step = run.rpartition('/')
    with contextlib.suppress(Exception):  # a full disk is not the training's end
        print(f'warning: {reason}', file=stream or sys.stderr, flush=True)
        CampaignFolder(folder).log_event('warning', 'tracking', reason, run=training, step=step)


def serve() -> None:
    """Tell wandb what the training writes, until stdin says how that ended, or closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a click on W&B's page ends no training either
    signal.signal(signal.SIGALRM, _give_up)
    task = json.loads(sys.stdin.readline())
    folder = Path(task[1]).parent
    os.environ['WANDB_ERROR_REPORTING'] = 'false'  # to a host of wandb's makers, offline too
    os.environ |= {'WANDB_DATA_DIR': f'{folder}/data', 'WANDB_CACHE_DIR': f'{folder}/cache'}
    told = os.fdopen(os.dup(2), 'w')
    os.dup2(1, 2)  # what wandb prints goes to the log
    warn = partial(_warn, folder.parent, task[4]['name'], stream=told)
    try:
        _track(task, warn, told)
    except ImportError as error:
        warn(f'{error}: nothing is tracked. pip install wandb, or set tracking.mode=off.')
    except Exception as error:
        warn(f'W&B fails: {error!r:.300}')
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(ORPHAN_S)  # wandb's hooks at exit may wait for ever


def _give_up(*_: object) -> None:
    raise TimeoutError('no answer in time')


def _track(task: list[Any], warn: Callable[[str], None], told: IO[str]) -> None:
    import wandb

    wanted, record, source, epochs, about = task[0], Path(task[1]), Path(task[2]), *task[3:]
    known = {'id': secrets.token_hex(8), 'name': about['name'], 'url': None, 'sent': 0}
    known |= _read_record(record)
    about |= {'id': known['id'], 'resume': 'allow', 'allow_val_change': True}
    about['dir'] = str(record.parents[1])
    offline = f'It goes on offline; send it later: wandb sync {record.parent}/offline-*'
    for mode in dict.fromkeys((wanted, 'offline')):
        signal.alarm(INIT_S + GRACE_S)  # not every wandb keeps its own limit
        try:
            run = _open(wandb, mode, about)
            break
        except Exception as error:
            rest = 'Nothing is tracked.' if mode == 'offline' else offline
            warn(f'W&B does not work {mode}: {error!r:.300}. {rest}')
            with contextlib.suppress(Exception):
                signal.alarm(GRACE_S)
                wandb.teardown()  # the service would say that the run's id is in use
    else:
        return
    signal.alarm(0)
    known |= {'mode': mode, 'url': run.url if mode == 'online' else known['url']}
    with contextlib.suppress(OSError):  # the training is gone
        print(f'W&B: {run.url if mode == "online" else mode}', file=told, flush=True)
    for point in _points(source, min(known['sent'], epochs)):  # some may be trained again
        run.log(point)
        known['sent'] = int(point.get('epoch', 1))
        write_json(record, known)
    ending = sys.stdin.readline()
    signal.alarm(0 if ending else ORPHAN_S)  # nobody stops it when the training was killed
    failed = json.loads(ending or 'true')
    if not failed and (weights := source / 'weights' / 'best.pt').is_file():
        run.log_artifact(weights, re.sub(r'[^\w.-]+', '_', about['name']), 'model')
    run.finish(exit_code=int(failed))


def _open(wandb: Any, mode: str, about: Mapping[str, Any]) -> Any:
    settings = wandb.Settings(console='off', disable_code=True, disable_git=True)
    settings.x_stats_pid = os.getppid()
    settings.init_timeout = INIT_S
    if mode == 'offline':  # measurements of the machine begin with a question to a cloud's host
        settings.x_disable_stats, settings.init_timeout = True, 60
    run = wandb.init(**about, mode=mode, settings=settings)
    # Not wandb's own step: a resumed epoch would be refused because it was there before
    run.define_metric('epoch')
    run.define_metric('*', step_metric='epoch')
    return run


def _points(source: Path, sent: int) -> Iterator[dict[str, Any]]:
    """Yield an evaluation's one point, or a stage's epochs as they come, until stdin speaks."""
    if (source / 'evaluation.json').is_file():
        yield _evaluation(source)
        return
    ended = False
    while not ended:
        ended = bool(select.select([sys.stdin], [], [], 1)[0])
        columns = read_results(source / 'results.csv')
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        yield from rows[sent:]
        sent = len(rows)


def _evaluation(folder: Path) -> dict[str, Any]:
    """Figures, tables and the page of an evaluation, by name."""
    import wandb

    figures = read_json(folder / 'evaluation.json')['figures']
    shown = {name: figures[name] for name in ('map50', 'map50_95')}
    shown |= {name: figures['best_f1'][name] for name in ('confidence', 'precision', 'recall')}
    shown |= {f'{name}_fixed': figures['fixed'][name] for name in ('precision', 'recall')}
    classes = [{'class': name, **row} for name, row in figures['per_class'].items()]
    for name, rows in (('per class', classes), ('per box height', figures['bands'])):
        columns = [key for row in rows[:1] for key in row if not isinstance(row[key], dict)]
        shown[name] = wandb.Table(columns, [[row[key] for key in columns] for row in rows])
    if (page := folder / 'evaluation.html').is_file():
        shown['page'] = wandb.Html(str(page), inject=False)
    return {f'{folder.name}/{name}': value for name, value in shown.items() if value is not None}
