"""Opens a page in headless Chromium, and tells what came of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

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
