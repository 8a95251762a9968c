"""Many bags, each a process of its own: one that fails, is killed or is finished already."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from waiting import is_running, wait_until

from cone_perception.errors import InstallError, OutputError, SettingsError
from cone_perception.replay.many.jobs import BagOutcome, plan_jobs
from cone_perception.replay.many.run import read_table, run_many
from cone_perception.replay.options import add_arguments, words_for_each_bag
from cone_perception.replay.output_folder import REPLAY_MARK

FAKE = """
import os, pathlib, signal, sys, time
from cone_perception.replay.output_folder import REPLAY_MARK
from cone_perception.accuracy.intervals import Interval
from cone_perception.replay.many.jobs import jobs_at_once
from cone_perception.replay.figures.result import ReplayResult, write_result

bag, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[sys.argv.index('--out') + 1])
print('replaying', *sys.argv[1:])
runs = bag.with_suffix('.runs')  # beside the bag, which must not change
with runs.open('a') as file:
    file.write(f'{os.getpid()} {jobs_at_once()}\\n')
does = bag.with_suffix('.does').read_text().split()
interrupted = False
try:
    if does[0] == 'meet':  # two that wait for each other run at the same time
        while not (bag.parent / f'{does[1]}.runs').exists():
            time.sleep(0.02)
    while does[0] == 'hang':
        time.sleep(0.02)
    if does[0] == 'kill-worker' and len(runs.read_text().splitlines()) <= int(does[1]):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(30)
except KeyboardInterrupt:
    interrupted = True
if does[0] == 'fail':
    print('cone-perception replay: it is no bag: give another.', file=sys.stderr)
    sys.exit(1)
if does[0] == 'crash':
    os.kill(os.getpid(), signal.SIGSEGV)
(out / 'log').mkdir(parents=True, exist_ok=True)
(out / REPLAY_MARK).touch()
(out / 'log' / 'node.log').write_text('node')
(out / 'report.html').write_text('report')
figures = {'latency_p99_ms': Interval(95.0), 'frames_sent': Interval(7),
           'recall_sent': Interval(0.5)}
write_result(out / 'result.json', ReplayResult({}, {}, {}, {}, figures, (), (), (),
                                               interrupted=interrupted or does[0] == 'stop'))
if does[0] == 'over':
    print('over budget: latency_p99_ms is 95.', file=sys.stderr)
    sys.exit(1)
sys.exit(130 if interrupted else 0)
"""


@pytest.fixture
def fake(tmp_path: Path) -> tuple[str, ...]:
    script = tmp_path / 'fake_replay.py'
    script.write_text(FAKE)
    return (str(script),)


def make_bags(folder: Path, **does: str) -> list[Path]:
    bags = []
    for name, what in does.items():
        (folder / name).mkdir(parents=True)
        (folder / name / 'metadata.yaml').write_text('a bag')
        (folder / f'{name}.does').write_text(what)
        bags.append(folder / name)
    return bags


def runs(bag: Path) -> list[list[str]]:
    """Process and jobs at once of each run."""
    path = bag.with_suffix('.runs')
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def states(out: Path) -> dict[str, str]:
    return {outcome.name: outcome.state for outcome in read_table(out)}


def only(outcomes: Sequence[BagOutcome], name: str) -> BagOutcome:
    return next(outcome for outcome in outcomes if outcome.name == name)


def test_bags_that_fail_are_reported_and_the_others_go_on(
    fake: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bags = make_bags(tmp_path, a='fail', b='crash', c='stop', d='over', e='work')
    out = tmp_path / 'out'
    assert run_many(bags, ['--hz=60'], out, 2, command=fake) == 1
    found = read_table(out)
    assert states(out) == {
        **dict.fromkeys('abc', 'failed'),
        'd': 'over budget',
        'e': 'done',
    }
    assert only(found, 'a').reason.startswith('it is no bag: give another. (status 1')
    assert 'SIGSEGV' in only(found, 'b').reason
    assert only(found, 'd').reason == 'latency_p99_ms is 95.'
    assert only(found, 'e').figures['frames_sent'].value == 7
    assert '--hz=60' in (out / 'log' / 'e.log').read_text()
    page = (out / 'table.html').read_text()
    assert 'precision, recall, mAP50: all boxes' in page
    assert 'it is no bag' in page
    assert 'e/report.html' in page
    printed = capsys.readouterr()
    assert 'a: it is no bag' in printed.out
    assert 'disturb each other' in printed.err


@pytest.mark.parametrize(
    ('workers', 'does'),
    [(1, ('work', 'work')), (2, ('meet b', 'meet a'))],
    ids=['alone', 'at once'],
)
def test_jobs_run_as_many_at_once_as_asked_and_know_of_it(
    fake: tuple[str, ...], tmp_path: Path, workers: int, does: tuple[str, str]
) -> None:
    bags = make_bags(tmp_path, a=does[0], b=does[1])
    assert run_many(bags, [], tmp_path / 'out', workers, command=fake) == 0
    assert [jobs for bag in bags for _, jobs in runs(bag)] == [str(workers)] * 2


def test_finished_bags_are_not_run_again_with_the_same_options(
    fake: tuple[str, ...], tmp_path: Path
) -> None:
    out, bags = tmp_path / 'out', make_bags(tmp_path, a='work', b='fail', c='over', d='stop')
    model = tmp_path / 'model'
    model.write_text('weights')

    def run(*options: str) -> list[int]:
        """Count how often each bag has been run by then."""
        assert run_many(bags, ['--model', model, *options], out, 1, command=fake) == 1
        return [len(runs(bag)) for bag in bags]

    assert run() == [1, 1, 1, 1]
    assert run() == [1, 2, 1, 2]
    assert only(read_table(out), 'c').state == 'over budget'
    assert run('--hz=60') == [2, 3, 2, 3]
    model.write_text('other weights')
    assert run('--hz=60') == [3, 4, 3, 4]
    (bags[0] / 'metadata.yaml').write_text('another bag')
    assert run('--hz=60') == [4, 5, 3, 5]
    (out / 'c' / 'result.json').unlink()
    assert run('--hz=60') == [4, 6, 4, 6]


def start_many(bags: Sequence[Path], out: Path, fake: Sequence[str]) -> subprocess.Popen[str]:
    program = (
        'import sys; from pathlib import Path\n'
        'from cone_perception.replay.many.run import run_many\n'
        f'sys.exit(run_many([Path(b) for b in {list(map(str, bags))}], [], Path({str(out)!r}), 2, '
        f'command={tuple(fake)}))'
    )
    return subprocess.Popen(
        [sys.executable, '-c', program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_killed_run_goes_on_where_it_was(fake: tuple[str, ...], tmp_path: Path) -> None:
    out, bags = tmp_path / 'out', make_bags(tmp_path, a='work', b='hang', c='hang', d='work')
    many = start_many(bags, out, fake)
    wait_until(lambda: runs(bags[2]) and states(out).get('a') == 'done')
    many.kill()
    many.communicate()
    # Linux ended its children, and no half of theirs counts as finished.
    wait_until(lambda: not any(is_running(pid) for bag in bags for pid, *_ in runs(bag)))
    for name in 'bc':
        (tmp_path / f'{name}.does').write_text('work')
    assert run_many(bags, [], out, 2, command=fake) == 0
    assert [len(runs(bag)) for bag in bags] == [1, 2, 2, 1]


@pytest.mark.parametrize('by', [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_the_replays_and_still_writes_the_table(
    by: signal.Signals, fake: tuple[str, ...], tmp_path: Path
) -> None:
    out, bags = tmp_path / 'out', make_bags(tmp_path, a='work', b='hang', c='hang', d='work')
    many = start_many(bags, out, fake)
    wait_until(lambda: runs(bags[1]) and runs(bags[2]) and states(out).get('a') == 'done')
    many.send_signal(by)
    printed, _ = many.communicate(timeout=60)
    assert many.returncode == 130, printed
    assert states(out) == {'a': 'done', 'b': 'interrupted', 'c': 'interrupted', 'd': 'not run'}
    # They could still report what they saw.
    assert (out / 'b' / 'report.html').exists()
    assert not any(is_running(pid) for bag in bags for pid, *_ in runs(bag))
    assert 'not run' in (out / 'table.html').read_text()


def test_equal_names_get_distinct_folders(tmp_path: Path) -> None:
    bags = [
        bag
        for day in ('friday', 'saturday')
        for bag in make_bags(tmp_path / day, drive='work', **{day + '_only': 'work'})
    ]
    bags.append(tmp_path / 'friday' / 'drive.mcap')
    bags[-1].write_text('a file')
    names = [job.name for job in plan_jobs(bags, [], tmp_path / 'out', ['x'])]
    assert names == [
        *('friday_drive', 'friday_only', 'saturday_drive', 'saturday_only', 'drive.mcap')
    ]
    assert plan_jobs(bags[2:3], [], tmp_path / 'out', ['x'])[0].name == 'drive'


def test_a_bag_given_twice_is_refused_by_name(tmp_path: Path) -> None:
    (bag,) = make_bags(tmp_path, a='work')
    with pytest.raises(SettingsError, match='given twice'):
        plan_jobs([bag, bag / '..' / 'a'], [], tmp_path / 'out', ['x'])


def test_two_runs_into_one_folder_are_refused(fake: tuple[str, ...], tmp_path: Path) -> None:
    out, bags = tmp_path / 'out', make_bags(tmp_path, a='hang')
    many = start_many(bags, out, fake)
    try:
        wait_until(lambda: runs(bags[0]))
        with pytest.raises(OutputError, match='another replay'):
            run_many(bags, [], out, 1, command=fake)
    finally:
        many.kill()
        many.communicate()


def test_a_table_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / 'table.json').write_text('[]')
    with pytest.raises(OutputError, match='table.json'):
        read_table(tmp_path)


def test_a_file_in_place_of_the_folder_is_told(fake: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / 'out').write_text('a file')
    with pytest.raises(OutputError, match=r'out cannot be written.*Give another --out'):
        run_many(make_bags(tmp_path, a='work', b='work'), [], tmp_path / 'out', 1, command=fake)


def test_home_in_the_models_path_is_that_of_the_user() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = words_for_each_bag(parser.parse_args(['bag', '--model=~/model']))
    assert words == ['--model', Path.home() / 'model']


def test_options_that_differ_from_their_defaults_reach_each_bag() -> None:
    line = ['a', 'b', '--out', 'c', '--jobs', '2', '--hz', '60', '--film', '--topic', '/x']
    line += ['--topic', '/y', '--classes', 'blue', 'red', '--labels', 'd', '--model', 'e']
    line += ['--no-overhead', '--through', 'ros', '--repeat', '3']
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = words_for_each_bag(parser.parse_args([*line, '--node-command', 'run -x y']))
    assert words == [
        *('--topic=/x', '--topic=/y', '--repeat=3', '--hz=60.0', '--labels', Path('d'), '--film'),
        *('--no-overhead', '--node-command=run -x y', '--model', Path('e')),
        *('--classes', 'blue', 'red'),
    ]
    again = parser.parse_args(['a', *map(str, words)])
    assert (again.topic, again.classes, again.overhead) == (['/x', '/y'], ['blue', 'red'], False)


def test_without_ray_the_extra_is_named(
    fake: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(InstallError, match='extra `ray`'):
        run_many(make_bags(tmp_path, a='work'), [], tmp_path / 'out', 1, 'auto', command=fake)


@pytest.fixture(scope='module')
def cluster() -> Iterator[str]:
    """Address of a Ray cluster of two workers with two CPUs each."""
    ray = pytest.importorskip('ray')
    from ray.cluster_utils import Cluster

    workers = Cluster()
    try:
        for _ in range(2):
            workers.add_node(
                num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, num_gpus=0
            )
        yield workers.address
    finally:
        ray.shutdown()
        workers.shutdown()


@pytest.mark.slow
def test_ray_workers_bring_results_back_and_survive_a_dead_worker(
    cluster: str, fake: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / 'out'
    does = {'a': 'meet b', 'b': 'meet a', 'c': 'fail', 'd': 'kill-worker 1', 'e': 'kill-worker 9'}
    bags = make_bags(tmp_path, **does, f='over')
    gone = tmp_path / 'gone'
    assert run_many([*bags, gone], [], out, 1, cluster, command=fake) == 1
    found = read_table(out)
    assert states(out) == {
        **dict.fromkeys('abd', 'done'),
        **dict.fromkeys('ce', 'failed'),
        'f': 'over budget',
        'gone': 'failed',
    }
    assert 'it is no bag' in only(found, 'c').reason
    assert 'worker died' in only(found, 'e').reason
    assert f'{gone} is not there on the worker' in only(found, 'gone').reason
    assert [len(runs(bag)) for bag in bags] == [1, 1, 1, 2, 2, 1]
    assert {path.name for path in (out / 'a').iterdir()} == {
        *('result.json', 'report.html', 'log', REPLAY_MARK)
    }
    assert (out / 'a' / 'log' / 'node.log').read_text() == 'node'
    assert 'replaying' in (out / 'log' / 'a.log').read_text()


@pytest.mark.slow
def test_a_bag_that_no_ray_worker_has_cpus_for_is_refused(
    cluster: str, fake: tuple[str, ...], tmp_path: Path
) -> None:
    bags = make_bags(tmp_path, a='work')
    with pytest.raises(SettingsError, match='2 CPUs'):
        run_many(bags, [], tmp_path / 'out', 1, cluster, cpus=3, command=fake)


@pytest.mark.parametrize('address', ['127.0.0.1:1', 'somewhere', 'ray://127.0.0.1:1'])
def test_a_ray_address_without_a_cluster_is_refused_by_name(
    address: str, fake: tuple[str, ...], tmp_path: Path
) -> None:
    pytest.importorskip('ray')
    bags = make_bags(tmp_path, a='work')
    with pytest.raises(SettingsError, match=address):
        run_many(bags, [], tmp_path / 'out', 1, address, command=fake)
