"""Reads a page as a browser does, and opens it in headless Chromium: what came of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

VOID = {'meta', 'img', 'br', 'hr', 'input', 'link'}
UNSEEN = {'style', 'script', 'noscript'}


class ReadPage(HTMLParser):
    """A page's text, its tags, the texts of its table cells, and what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.parts: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        self.text = re.sub(r'\s+', ' ', ' '.join(self.parts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag in ('td', 'th') and not UNSEEN & set(self.open):
            self.cells.append('')

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag]
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if UNSEEN & set(self.open):
            return
        self.parts.append(data)
        if {'td', 'th'} & set(self.open):
            self.cells[-1] += data

    def titles(self) -> list[str]:
        return re.findall(r'<h2>(.*?)</h2>', self.source)

    def figures(self) -> list[dict[str, object]]:
        found = re.findall(r'<script type="application/json">(.*?)</script>', self.source)
        return [figure for text in found if 'data' in (figure := json.loads(text))]


CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
OWN = ('google.com', 'googleapis.com')
"""Hosts that Chromium itself asks for, whatever the page is; here it finds none of them."""


@dataclass(frozen=True)
class Opened:
    """dom: HTML when all scripts have run. console: its messages. hosts: those it asked for."""

    dom: str
    console: list[str]
    hosts: set[str]

    @property
    def drawn(self) -> int:
        """Charts that were drawn."""
        found = re.search(r'<body[^>]* data-drawn="(\d+)"', self.dom)
        return int(found[1]) if found else 0


def open_page(page: Path, dark: bool = False, script: str = '') -> Opened:
    """Open a page; `script` runs in it once its charts are drawn."""
    if CHROMIUM is None:
        pytest.skip('chromium is not installed: apt install chromium')
    with tempfile.TemporaryDirectory() as folder:
        opened, log = page, Path(folder, 'net.json')
        if script:
            waiting = f'<script>setTimeout(() => {{ {script} }}, 3000)</script></body>'
            opened = page.with_name('with_script.html')
            opened.write_text(page.read_text('utf-8').replace('</body>', waiting), 'utf-8')
        done = subprocess.run(
            [
                *(CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run'),
                *('--disable-background-networking', '--disable-component-update'),
                *('--disable-sync', '--host-resolver-rules=MAP * ~NOTFOUND'),
                *(f'--user-data-dir={folder}', f'--log-net-log={log}'),
                *('--enable-logging=stderr', '--virtual-time-budget=10000'),
                *(['--blink-settings=preferredColorScheme=0'] if dark else []),
                *('--dump-dom', opened.resolve().as_uri()),
            ],
            capture_output=True,
            text=True,
            timeout=240,
        )
        events = json.loads(log.read_text())['events']
    urls = {event.get('params', {}).get('url', '') for event in events}
    hosts = {urlsplit(url).hostname or '' for url in urls} - {''}
    return Opened(
        done.stdout,
        [line for line in done.stderr.splitlines() if ':CONSOLE' in line],
        {host for host in hosts if not host.endswith(OWN)},
    )
