"""Weights & Biases beside a training that it can neither stop nor slow.

results.csv, evaluation.json -> a process of its own -> wandb

wandb blocks, prompts, hangs at exit, and starts a service that can die. So a process of its own
reads what the training writes anyway, and is killed when it does not end. It learns from stdin how
the training ended, and says on stdout, as JSON lines, what wandb took and what failed.
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
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from cone_perception.files import write_json
from training.recipe.recipe import Tracking
from training.runs.record import read_results

INIT_S = int(os.environ.get('WANDB_INIT_TIMEOUT', '60'))  # to reach the server
GRACE_S = 10  # beyond wandb's own limit
FINISH_S = 60.0  # for the last upload
ORPHAN_S = 20  # for the process to end after the run, or when the training was killed


class TrackedRun:
    """The W&B run of a stage or an evaluation; a resumed stage goes on in the same run.

    Never raises, and never waits but in finish(), which has a limit. Tells each failure once, with
    its reason, to stderr and to `warn`, perhaps from another thread.

    about: arguments of wandb.init: group (the campaign), name (`two-stage/seed0/stage1`), job_type,
    config. source: folder of the stage, whose results.csv has the points of the curves and whose
    best.pt becomes an artifact, or of an evaluation with figures and pictures. folder: of the
    campaign; all files go below `folder/wandb`.

    mode: off, offline or online, as it is now; off too when wandb did not start. url: of an online
    run. sent: points that wandb took, in all sittings of the run. warnings: what failed.
    """

    def __init__(
        self,
        settings: Tracking,
        about: Mapping[str, Any],
        source: Path,
        folder: Path,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.mode: str = settings.mode
        self.url: str | None = None
        self.sent = 0
        self.warnings: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        name = re.sub('[^A-Za-z0-9.=-]+', '_', about['name'])
        self._record = folder.resolve() / 'wandb' / f'{name}.json'
        self._source, self._warn = source.resolve(), warn
        if settings.mode == 'off':
            return
        about = {**about, 'project': settings.project, 'entity': settings.entity or None}
        try:
            task = [self.mode, self._record, self._source, len(self._epochs()), about]
            self._record.parent.mkdir(exist_ok=True, parents=True)
            with self._record.with_suffix('.log').open('a', encoding='utf-8') as log:
                self.process = process = subprocess.Popen(
                    [sys.executable, '-c', 'import training.stage.tracking as t; t.serve()'],
                    cwd=Path(__file__).parents[2],  # no module of the user's hides one of wandb's
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,  # no terminal to ask at, no Ctrl-C
                )
            self._listener = threading.Thread(target=self._hear, args=[process.stdout], daemon=True)
            self._listener.start()
            print(json.dumps(task, default=str), file=process.stdin, flush=True)
        except Exception as error:  # whatever it is, the training goes on
            self.mode = 'off'
            self._fail(f'W&B cannot be started, nothing is tracked: {error!r}')

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
            self._fail(
                f'W&B did not end within {limit_s:.0f} s and was stopped. What it has not sent '
                f'lies in {self._record.parent}: send it with `wandb sync`.'
            )
            process.kill()
        self._listener.join(5)
        if process.wait() not in (0, -signal.SIGKILL):
            log = self._record.with_suffix('.log')
            self._fail(f'W&B ended with status {process.returncode}; see {log}.')
        points = len(self._epochs()) or int((self._source / 'evaluation.json').is_file())
        if self.sent < points:
            self._fail(f'W&B: {points - self.sent} of {points} points of this run were not sent.')

    def _epochs(self) -> list[float]:
        return read_results(self._source / 'results.csv').get('epoch', [])

    def _hear(self, stdout: IO[str]) -> None:
        """Take what the process says, in a thread, until it ends."""
        for line in stdout:
            match json.loads(line):
                case ['sent', count]:
                    self.sent = count
                case ['failed', reason]:
                    self._fail(reason)
                case ['opened', mode, url]:
                    self.mode, self.url = mode, url
                    print(f'W&B: {url or mode}', flush=True)

    def _fail(self, reason: str) -> None:
        """Tell a reason the first time that it is met, without the API key."""
        reason = reason.replace(os.environ.get('WANDB_API_KEY') or '\0', '***')
        if reason in self.warnings:
            return
        self.warnings.append(reason)
        with contextlib.suppress(Exception):  # a full disk under the log is not the training's end
            print(f'warning: {reason}', file=sys.stderr, flush=True)
            self._warn(reason)


def serve() -> None:
    """Tell wandb what the training writes, until stdin says how that ended, or closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a click on W&B's page ends no training either
    signal.signal(signal.SIGALRM, _give_up)
    task = json.loads(sys.stdin.readline())
    folder = Path(task[1]).parent
    os.environ['WANDB_ERROR_REPORTING'] = 'false'  # to a host of wandb's makers, offline too
    os.environ |= {'WANDB_DATA_DIR': f'{folder}/data', 'WANDB_CACHE_DIR': f'{folder}/cache'}
    events = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what wandb prints goes to the log

    def say(*event: object) -> None:
        with contextlib.suppress(OSError):  # the training is gone
            print(json.dumps(event), file=events, flush=True)

    try:
        _track(task, say)
    except ImportError as error:
        say('failed', f'{error}: nothing is tracked. pip install wandb, or set tracking.mode=off.')
        say('opened', 'off', None)
    except Exception as error:
        say('failed', f'W&B fails: {error!r:.300}')
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(ORPHAN_S)  # wandb's hooks at exit may wait for ever


def _give_up(*_: object) -> None:
    raise TimeoutError('no answer in time')


def _track(task: list[Any], say: Callable[..., None]) -> None:
    import wandb

    wanted, record, source, epochs, about = task[0], Path(task[1]), Path(task[2]), *task[3:]
    known = {'id': secrets.token_hex(8), 'name': about['name'], 'url': None, 'sent': 0}
    if record.is_file():
        known |= json.loads(record.read_text(encoding='utf-8'))
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
            say('failed', f'W&B does not work {mode}: {error!r:.300}. {rest}')
            with contextlib.suppress(Exception):
                signal.alarm(GRACE_S)
                wandb.teardown()  # the service would say that the run's id is in use
    else:
        say('opened', 'off', None)
        return
    signal.alarm(0)
    known |= {'mode': mode, 'url': run.url if mode == 'online' else known['url']}
    say('opened', mode, run.url if mode == 'online' else None)
    for point in _points(source, min(known['sent'], epochs)):  # some may be trained again
        run.log(point)
        known['sent'] = int(point.get('epoch', 1))
        write_json(record, known)
        say('sent', known['sent'])
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

    figures = json.loads((folder / 'evaluation.json').read_text(encoding='utf-8'))['figures']
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
