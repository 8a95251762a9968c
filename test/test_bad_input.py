"""What people and programs hand to the commands: bombs, pipes, loops, kills, each a sentence."""

from __future__ import annotations

import ast
import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cone_perception import cli
from cone_perception.dataset.layout import read_layout
from cone_perception.errors import InstallError, OutputError, SourceError
from cone_perception.files import (
    cache_folder,
    claim_folder,
    locked,
    parse_json,
    parse_yaml,
    read_yaml,
    whole_folder,
)
from cone_perception.pictures.sources import open_source

REPOSITORY = Path(__file__).resolve().parents[1]
OWN_PROCESSES = {
    *('apart', 'compile_process', 'tracking', 'through_ros', 'findings'),
    *('gate', 'dataset', '__main__', 'run'),
}
"""Modules that also read what this package itself has just written to a pipe or a log."""

TENFOLD = ', '.join(['*a{0}'] * 10)
BOMB = 'a0: &a0 [x]\n' + ''.join(f'a{n}: &a{n} [{TENFOLD.format(n - 1)}]\n' for n in range(1, 12))


@pytest.mark.parametrize(
    ('text', 'why'),
    [
        (BOMB, 'too large'),
        ('&a [*a]', 'nested more than'),
        ('[' * 5000 + ']' * 5000, 'nesting'),
        ('a: .inf', 'no number'),
        ('a: ' + '9' * 400, 'no number'),
        ('a: "x\\0y"', 'NUL'),
        ('? [a, b]\n: c', 'unhashable'),
        ('!!python/object/apply:os.system [ls]', 'constructor'),
    ],
)
def test_hostile_yaml_is_refused_at_once(text: str, why: str) -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match=why):
        parse_yaml(text)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ('text', 'why'),
    [
        ('[' * 200_000 + ']' * 200_000, 'nested'),
        ('[' * 500 + ']' * 500, 'nested'),
        ('[' + '1,' * 1_000_001 + '1]', 'more than 1000000 values'),
        ('1e999', 'no number'),
        ('{"a": NaN}', 'no number'),
        ('{"a": "\\u0000"}', 'NUL'),
    ],
)
def test_hostile_json_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_a_pipe_a_long_file_and_another_code_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'long').write_bytes(b' ' * (17 << 20))
    (tmp_path / 'code').write_bytes(b'\xff\xfe\x00')
    for name, why in (('pipe', 'ordinary'), ('long', 'longer'), ('code', 'decode')):
        with pytest.raises(SourceError, match=why):
            read_yaml(tmp_path / name, SourceError)


def test_a_pipe_called_a_video_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'a.mp4')
    with pytest.raises(SourceError, match='no ordinary file'):
        open_source(tmp_path / 'a.mp4')


def test_one_loader_reads_all_texts_from_outside() -> None:
    found = {
        path.stem
        for package in ('cone_perception', 'training')
        for path in (REPOSITORY / package).rglob('*.py')
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ('json.load', 'json.loads', 'yaml.load', 'yaml.safe_load')
    }
    assert found <= {'files', *OWN_PROCESSES}


def test_folders_in_circles_and_the_whole_disk_are_no_split(tmp_path: Path) -> None:
    images = tmp_path / 'set' / 'images'
    images.mkdir(parents=True)
    (images / 'a.png').touch()
    os.mkfifo(images / 'pipe.png')
    for name in 'bcd':
        (images / name).symlink_to(images)
    (tmp_path / 'list.txt').write_bytes(b'\xff\xfe\x00')
    (tmp_path / 'set' / 'data.yaml').write_text(
        'names: [a]\ntrain: images\nval: /\ntest: ../list.txt\n'
    )
    layout = read_layout(tmp_path / 'set')
    assert layout.splits['train'] == (images / 'a.png',)
    told = '\n'.join(str(problem) for problem in layout.problems if problem.fatal)
    assert '`val: /` cannot be read: the whole data set lies inside' in told
    assert 'list.txt` cannot be read' in told
    assert 'pipe.png is no ordinary file' in told


@pytest.mark.parametrize('error', [RuntimeError('odd'), RecursionError('deep'), MemoryError()])
def test_any_other_exception_is_one_line_and_a_trace(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, 'make_parser', fail)
    assert cli.main(['detect']) == 1
    (line,) = capsys.readouterr().err.splitlines()
    trace = Path(line.rpartition(': ')[2])
    assert type(error).__name__ in line
    assert 'Traceback' in trace.read_text()
    trace.unlink()


def test_a_name_too_long_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['detect', 'a' * 5000]) == 1
    assert 'too long' in capsys.readouterr().err


def test_what_another_command_writes_into_is_refused(tmp_path: Path) -> None:
    out = tmp_path / 'out'
    out.mkdir()
    with locked(out), pytest.raises(OutputError, match='held by another'):
        claim_folder(out, 'mark', (), None)
    with whole_folder(tmp_path / 'bag') as place:
        place.mkdir()
        with pytest.raises(OSError, match='held by another'), whole_folder(tmp_path / 'bag'):
            pass
    assert (tmp_path / 'bag').is_dir()


def test_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('HOME', 'XDG_CACHE_HOME'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, 'getpwuid', {}.__getitem__)
    with pytest.raises(InstallError, match='set HOME or XDG_CACHE_HOME'):
        cache_folder('engines')


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / 'lock').symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(OSError, match='symbolic'), locked(tmp_path / 'lock'):
        pass
    assert not (tmp_path / 'elsewhere').exists()


COMMAND = """
import sys, types
from cone_perception.cli import run_command
def run(args):
    import os, signal
    {body}
sys.modules['told'] = types.SimpleNamespace(add_arguments=lambda parser: None, run=run)
sys.exit(run_command('cone', {{'told': ('told', '')}}, {{}}, ['told']))
"""


@pytest.mark.parametrize(
    ('body', 'status', 'told'),
    [
        ('os.kill(os.getpid(), signal.SIGTERM)', 130, b'cone told: interrupted\n'),
        ('print("x" * 1_000_000)', 128 + signal.SIGPIPE, b''),
        ('print("caf\\udce9"); return 0', 0, b''),
    ],
)
def test_a_signal_a_closed_pipe_and_an_odd_name_end_a_command_in_order(
    body: str, status: int, told: bytes
) -> None:
    reader, writer = os.pipe()
    environment = {**os.environ, 'PYTHONIOENCODING': 'utf-8:strict'}
    command = [sys.executable, '-c', COMMAND.format(body=body)]
    if status > 130:
        os.close(reader)
    ended = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (status, told)
