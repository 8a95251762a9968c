"""Makes pages for a person to look at, and measures how large and how fast they are.

    python benchmarks/pages.py                     # pages below build/pages, figures in pages.json

A drive and a data set are rendered, and the commands that write pages are run on them, without
ROS. The campaign and the errors of blocks in sensitivity.html are the invented ones of the tests.
The report of --frames frames is made of the replay's own, one pass after another. Opening is timed
in headless Chromium: from the navigation to the moment at which every chart is drawn.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

from cone_perception.cli import main as run
from cone_perception.files import write_json
from cone_perception.model_card import shipped_bundle
from cone_perception.replay.figures.result import ReplayResult, read_result
from cone_perception.replay.pages.report import write_report
from cone_perception.replay.traces import MOMENTS
from training.cli import main as run_training
from training.export.sensitivity import BlockSensitivity, write_evidence

TELL = (
    '<script>const asked = setInterval(() => { if (document.body.dataset.drawn) {'
    "clearInterval(asked); console.log('drawn after', performance.now()); } }, 5)</script></body>"
)


def main() -> None:
    """Make the pages, print and write a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--out', type=Path, default=Path('build/pages'))
    parser.add_argument('--frames', type=int, default=3000, help='of the long report (3000)')
    args = parser.parse_args()
    out: Path = args.out
    if not (out / 'drive').exists():
        make_pages(out)
    result = read_result(out / 'first' / 'result.json')
    (out / 'long').mkdir(exist_ok=True)
    write_report(out / 'long', lengthened(result, args.frames), None)
    rows = []
    for page in sorted(out.rglob('*.html')):
        seconds = min(opening_s(page) for _ in range(3))
        name, size = str(page.relative_to(out)), page.stat().st_size
        rows.append({'page': name, 'bytes': size, 'seconds': seconds})
        print(f'{name:32} {size / 1e6:6.1f} MB {seconds:6.2f} s')
    write_json(out / 'pages.json', rows)


def make_pages(out: Path) -> None:
    """Run the commands on a drive of a few seconds and a set of a few pictures."""
    drive = str(out / 'drive')
    run_training(['simulate', 'drive', '--out', drive, '--seconds', '6'])
    quick = ['--through', 'pipeline', '--as-fast-as-possible']
    for name in ('first', 'second'):
        run(['replay', drive, *quick, '--out', str(out / name)])
    other = shutil.copytree(drive, out / 'other')
    run(['replay', drive, str(other), *quick, '--out', str(out / 'many')])
    run(['replay', 'compare', str(out / 'first'), str(out / 'second'), '--out', str(out)])
    run(['bag', 'to-dataset', drive, '--limit', '12', '--out', str(out / 'to_label')])
    run(['verify-engine', '--out', str(out)])
    run(['demo', '--bag', drive, '--out', str(out / 'demo')])
    pictures, evaluated = str(out / 'set'), str(out / 'evaluated')
    run_training(['simulate', 'dataset', '--test', '12', '--out', pictures])
    run_training(['data', 'verify', pictures, '--plot', str(out / 'verified.html')])
    run_training(['data', 'gap', pictures, str(out / 'to_label'), '--out', str(out / 'gap')])
    run_training(['evaluate', str(shipped_bundle()), '--data', pictures, '--out', evaluated])
    run_training(['compare', evaluated, evaluated, '--plot', str(out / 'compared.html')])
    sys.path.append(str(Path(__file__).parents[1] / 'test'))
    from recorded_campaign import write_campaign

    campaign = str(write_campaign(out / 'campaign').root)
    run_training(['report', campaign, '--public', str(out / 'public')])
    blocks = [BlockSensitivity(f'model.{n}', (), 100, 0.04 / (n + 1)) for n in range(22)]
    write_evidence(out, blocks, ['model.0', 'model.1'])


def lengthened(result: ReplayResult, count: int) -> ReplayResult:
    """A result of `count` frames: its only pass again and again, without pictures."""
    frames = result.passes[0]
    period_ns = (frames[-1].sent_ns - frames[0].sent_ns) * len(frames) // (len(frames) - 1)
    longer = []
    for number, frame in enumerate(islice(cycle(frames), count)):
        later_ns = number // len(frames) * period_ns
        moments = {name: getattr(frame, name) for name in MOMENTS}
        moved = {name: value + later_ns for name, value in moments.items() if value is not None}
        longer.append(replace(frame, index=number, stamp_ns=frame.stamp_ns + later_ns, **moved))
    return replace(result, passes=[longer])


def opening_s(page: Path) -> float:
    """Seconds until all charts of a page are drawn in Chromium; of a page without any, 0."""
    text = page.read_text(encoding='utf-8')
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    if chromium is None or 'class="chart"' not in text:
        return 0.0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        timed = Path(folder, 'page.html')
        timed.write_text(text.replace('</body>', TELL), encoding='utf-8')
        command = [
            *(chromium, '--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-port=0'),
            *(f'--user-data-dir={folder}', '--enable-logging=stderr', timed.as_uri()),
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as browser:
            assert browser.stderr is not None
            found = (re.search(r'drawn after ([\d.]+)', line) for line in browser.stderr)
            drawn_ms = next((float(match[1]) for match in found if match), 0.0)
            browser.terminate()
        return drawn_ms / 1000


if __name__ == '__main__':
    main()
