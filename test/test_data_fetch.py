"""Downloads through Roboflow's real client, answered by a local server that speaks as it does."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from planted_data import COUNTS, DATA_YAML, plant

from cone_perception.errors import DataError, InstallError
from cone_perception.files import locked
from training.cli import main
from training.data import fetch
from training.data.manifest import check_manifest, read_manifest
from training.recipe.sources import SOURCES

KEY = 'pr1vateKey42'
SOURCE = SOURCES['FSOCO-12']
EXPECT = ['--expect', *(f'{split}={count}' for split, count in COUNTS.items())]


class Roboflow(ThreadingHTTPServer):
    """Answers as Roboflow's API and its storage do.

    packing: answers before the archive is ready. cuts: bytes after which successive transfers
    break. hold: a transfer waits after its first half. thinking: the API waits. status: of it.
    """

    daemon_threads = True

    def __init__(self, archive: bytes) -> None:
        super().__init__(('127.0.0.1', 0), Answer)
        self.archive = archive
        self.mark = '"one"'
        self.packing = 0
        self.cuts: list[int] = []
        self.hold, self.thinking = threading.Event(), threading.Event()
        self.hold.set()
        self.thinking.set()
        self.status = 200
        self.storage_status: list[int] = []
        self.asked: list[str] = []
        self.ranges: list[str] = []
        self.announce = True

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}'


class Answer(BaseHTTPRequestHandler):
    server: Roboflow
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args: object) -> None:
        """Silence."""

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        self.server.asked.append(self.path)
        if place.path == '/storage/roboflow.zip':
            self._send_archive()
            return
        self.server.thinking.wait(60)
        assert place.path == '/fmdv/fsoco-kxq3s/12/yolov11'
        if self.server.status != 200 or parse_qs(place.query)['api_key'] != [KEY]:
            status = self.server.status if self.server.status != 200 else 401
            self._send_json(status, {'error': f'This API key does not exist: {self.path}'})
        elif self.server.packing:
            self.server.packing -= 1
            self._send_json(202, {'progress': 0.5})
        else:
            link = f'{self.server.url}/storage/roboflow.zip?key=s1gned&expires=9'
            self._send_json(200, {'export': {'format': 'yolov11', 'link': link}})

    def _send_json(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_archive(self) -> None:
        server = self.server
        if server.storage_status:
            self._send_json(server.storage_status.pop(0), {})
            return
        wanted = self.headers.get('Range', '')
        server.ranges.append(wanted)
        start = 0
        if wanted and self.headers.get('If-Range') == server.mark:
            start = int(wanted.removeprefix('bytes=').removesuffix('-'))
        body = server.archive[start:]
        self.send_response(206 if start else 200)
        length = ('Content-Length', str(len(body)))
        self.send_header(*(length if server.announce else ('Connection', 'close')))
        if server.mark:
            self.send_header('ETag', server.mark)
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(body)
        half = len(body) // 2 if not server.hold.is_set() else cut
        self.wfile.write(body[: min(half, cut)])
        self.wfile.flush()
        server.hold.wait(60)
        self.wfile.write(body[half:cut])
        if cut < len(body) or not server.announce:
            self.close_connection = True


def pack(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, 'w') as archive:
        for path in sorted(folder.rglob('*')):
            archive.write(path, path.relative_to(folder))
    return packed.getvalue()


@pytest.fixture(scope='module')
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    source = plant(tmp_path_factory.mktemp('source') / 'FSOCO-12')
    (source / 'README.roboflow.txt').write_bytes(bytes(500_000))  # several blocks
    return pack(source)


@pytest.fixture
def roboflow(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Roboflow]:
    rfapi = pytest.importorskip('roboflow.adapters.rfapi')
    server = Roboflow(archive)
    worker = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.05})
    worker.start()
    monkeypatch.setattr(rfapi, 'API_URL', server.url)
    monkeypatch.setenv('ROBOFLOW_API_KEY', KEY)
    monkeypatch.setattr(fetch, 'BLOCK', 1000)
    monkeypatch.setattr(fetch.time, 'sleep', lambda seconds: None)
    yield server
    server.hold.set()
    server.thinking.set()
    server.shutdown()
    server.server_close()
    worker.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / 'datasets' / 'FSOCO-12'


def part(folder: Path) -> Path:
    return folder.with_name('FSOCO-12.part')


def fetch_whole(folder: Path) -> None:
    fetch.fetch_dataset(SOURCE, folder, COUNTS)
    assert not check_manifest(folder, full=True)


def refuse(folder: Path, reason: str, counts: Mapping[str, int] = COUNTS) -> None:
    with pytest.raises(DataError, match=reason):
        fetch.fetch_dataset(SOURCE, folder, counts)
    assert not folder.exists()


def command(folder: Path, *more: str) -> list[str]:
    return ['data', 'fetch', 'FSOCO-12', '--to', str(folder.parent), *EXPECT, *more]


def test_set_arrives_whole_with_its_manifest(roboflow, folder, capfd):
    roboflow.packing = 2
    assert main(command(folder)) == 0
    assert not check_manifest(folder, full=True)
    assert len([file for file in read_manifest(folder).files if file.split == 'test']) == 4
    assert not part(folder).exists()
    assert main(['data', 'verify', str(folder), *EXPECT]) == 0
    asked = len(roboflow.asked)
    assert main(command(folder)) == 0
    assert len(roboflow.asked) == asked
    out, err = capfd.readouterr()
    assert KEY not in out + err
    assert 's1gned' not in out + err


def test_broken_connection_is_continued(roboflow, folder):
    roboflow.cuts = [1000, 2000]
    fetch.fetch_dataset(SOURCE, folder, COUNTS)
    assert roboflow.ranges == ['', 'bytes=1000-', 'bytes=3000-']
    assert not check_manifest(folder, full=True)


def test_other_version_on_the_server_starts_anew(roboflow, folder):
    roboflow.cuts = [1000] + [0] * fetch.ATTEMPTS
    refuse(folder, 'goes on from there')
    assert (part(folder) / 'roboflow.zip.part').stat().st_size == 1000
    roboflow.mark = '"two"'
    fetch_whole(folder)


@pytest.mark.parametrize('mark', ['', 'W/"weak"'])
def test_without_a_firm_mark_nothing_is_continued(roboflow, folder, mark):
    roboflow.mark, roboflow.cuts = mark, [1000]
    fetch.fetch_dataset(SOURCE, folder, COUNTS)
    assert roboflow.ranges == ['', '']


def test_link_that_expires_is_asked_for_again(roboflow, folder):
    roboflow.storage_status = [403, 503]
    fetch.fetch_dataset(SOURCE, folder, COUNTS)
    assert len([path for path in roboflow.asked if 'api_key' in path]) == 3


def test_archive_of_unknown_length_is_judged_by_its_content(roboflow, folder):
    roboflow.announce = False
    roboflow.cuts = [5000]
    refuse(folder, 'damaged')
    assert not (part(folder) / 'roboflow.zip').exists()
    fetch_whole(folder)


@pytest.mark.parametrize(
    ('limit', 'silent', 'message'),
    [('SILENCE_S', 'hold', 'stopped at'), ('ANSWER_S', 'thinking', 'no answer within')],
)
def test_storage_or_api_that_falls_silent_is_not_waited_for(
    roboflow, folder, limit, silent, message, monkeypatch
):
    monkeypatch.setattr(fetch, limit, 0.2)
    getattr(roboflow, silent).clear()
    refuse(folder, message)


def test_unpacking_that_was_interrupted_starts_again_without_network(roboflow, folder, monkeypatch):
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch, '_check_content', interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch.fetch_dataset(SOURCE, folder, COUNTS)
    assert not folder.exists()
    (part(folder) / 'content' / 'train' / 'labels' / 'train_0.txt').unlink()
    (part(folder) / 'content' / 'train' / 'labels' / 'left_over.txt').touch()
    monkeypatch.delenv('ROBOFLOW_API_KEY')
    fetch.fetch_dataset(SOURCE, folder, COUNTS)
    assert (folder / 'train' / 'labels' / 'train_0.txt').exists()
    assert not (folder / 'train' / 'labels' / 'left_over.txt').exists()


def test_damaged_archive_is_noticed_and_downloaded_again(roboflow, folder, archive):
    place = archive.index(b'\xff\xd8\xff') + 200
    roboflow.archive = archive[:place] + bytes([archive[place] ^ 1]) + archive[place + 1 :]
    refuse(folder, 'damaged')
    roboflow.archive = archive
    fetch_whole(folder)


def test_other_counts_than_expected_are_refused(roboflow, folder):
    refuse(folder, 'test holds 2 pictures instead of 689', SOURCE.images)


def test_download_key_is_refused(roboflow, folder, tmp_path):
    source = plant(tmp_path / 'source')
    (source / 'data.yaml').write_text(DATA_YAML + 'download: print("executed")\n')
    roboflow.archive = pack(source)
    refuse(folder, 'download-key')


def test_archive_does_not_write_beside_its_folder(roboflow, folder, archive):
    packed = io.BytesIO(archive)
    with zipfile.ZipFile(packed, 'a') as evil:
        evil.writestr('../../escaped.txt', 'text')
    roboflow.archive = packed.getvalue()
    fetch.fetch_dataset(SOURCE, folder, COUNTS)
    assert [path.parent for path in folder.parents[1].rglob('escaped.txt')] == [folder]


def test_partial_folder_is_no_success(roboflow, folder, capsys):
    plant(folder)
    (folder / 'train' / 'images' / 'train_1.jpg').unlink()
    assert main(command(folder)) == 1
    assert 'train holds 5 pictures instead of 6' in capsys.readouterr().err
    assert roboflow.asked == []
    assert main(command(folder, '--again')) == 0
    assert not check_manifest(folder, full=True)
    (old,) = folder.parent.glob('FSOCO-12.old-*')
    assert not (old / 'train' / 'images' / 'train_1.jpg').exists()


def test_whole_folder_without_manifest_gets_one(roboflow, folder):
    plant(folder)
    assert main(command(folder)) == 0
    assert not check_manifest(folder)
    assert roboflow.asked == []


def test_folder_that_changed_is_said(roboflow, folder, capsys):
    assert main(command(folder)) == 0
    (folder / 'test' / 'labels' / 'test_0.txt').write_text('')
    assert main(command(folder)) == 1
    assert '1 have changed' in capsys.readouterr().err


def test_two_downloads_at_once_are_refused(roboflow, folder):
    part(folder).mkdir(parents=True)
    with locked(part(folder) / 'lock'), pytest.raises(DataError, match='another download'):
        fetch.fetch_dataset(SOURCE, folder, COUNTS)


@pytest.mark.parametrize('value', [None, '', ' '])
def test_without_key_the_variable_is_named(folder, monkeypatch, value):
    monkeypatch.delenv('ROBOFLOW_API_KEY', raising=False)
    if value is not None:
        monkeypatch.setenv('ROBOFLOW_API_KEY', value)
    refuse(folder, 'ROBOFLOW_API_KEY')


def test_without_the_client_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setenv('ROBOFLOW_API_KEY', KEY)
    monkeypatch.setitem(sys.modules, 'roboflow.adapters', None)
    with pytest.raises(InstallError, match=r'cone_perception\[data\]'):
        fetch.fetch_dataset(SOURCE, folder, COUNTS)


@pytest.mark.parametrize('fault', ['no network', 'refused key', 'server error', 'refused archive'])
def test_key_is_in_no_error_log_or_traceback(roboflow, folder, monkeypatch, caplog, capfd, fault):
    caplog.set_level(logging.DEBUG)
    if fault == 'no network':
        rfapi = sys.modules['roboflow.adapters.rfapi']
        monkeypatch.setattr(rfapi, 'API_URL', 'http://127.0.0.1:9')
    roboflow.status = {'refused key': 401, 'server error': 500}.get(fault, 200)
    roboflow.storage_status = [400]
    with pytest.raises(DataError) as caught:
        fetch.fetch_dataset(SOURCE, folder, COUNTS)
    error = caught.value
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown = ''.join(told.format())
    linked = [repr(link) for link in (error.__cause__, error.__context__)]
    out, err = capfd.readouterr()
    everything = '\n'.join([shown, *linked, caplog.text, out, err, str(error)])
    assert KEY not in everything
    assert 's1gned' not in everything
    assert '***' in str(error) or fault == 'refused archive'


def test_key_is_found_however_it_is_quoted():
    key = fetch.ApiKey('a+b/c')
    text = 'a+b/c a%2Bb/c a%2Bb%2Fc http://host/place?x=1&sig=2 what?'
    assert key.redact(text) == '*** *** *** http://host/place?*** what?'
    assert 'a+b' not in repr(key)


def test_killed_download_goes_on(roboflow, folder, repository, tmp_path):
    places = {'API_URL': roboflow.url, 'HOME': str(tmp_path), 'PYTHONPATH': str(repository)}
    roboflow.hold.clear()
    words = [sys.executable, '-m', 'training.cli', *command(folder)]
    running = subprocess.Popen(words, env=os.environ | places)
    archive = part(folder) / 'roboflow.zip.part'
    deadline = time.monotonic() + 120
    while not archive.exists() or not archive.stat().st_size:
        assert running.poll() is None
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not folder.exists()
    roboflow.hold.set()
    assert main(command(folder)) == 0
    assert roboflow.ranges[1].startswith('bytes=')
    assert not check_manifest(folder, full=True)
