"""The tables and charts of benchmarks/replay.py, made of its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from output import print_table

from cone_perception.accuracy.intervals import Interval

FAST = 'as fast as possible'
ONE_CORE = 'one core'
ONE_CORE_HZ = 10.0
"""Slow enough for one core: what is measured is the cost, not a queue."""

OWN_STATIONS = ('wait', 'preprocess', 'decode', 'publish')
ACCURACY = ('precision_answered', 'recall_answered', 'map50_answered')


def print_tables(result: Mapping[str, Any]) -> None:
    """Print every table of docs/results/replay.md."""
    for drive in result['drives']:
        figures = drive['figures']
        print_table(
            ('', 'ours', 'other', '', 'ours / other', 'in the rounds', 'of all pictures'),
            [
                (
                    each['what'],
                    f'{each["ours"]:.4g}',
                    f'{each["theirs"]:.4g}',
                    each['other'],
                    f'{each["ratio"]:.2f}',
                    f'{min(each["ratios"]):.2f} to {max(each["ratios"]):.2f}',
                    f'{each["ratio_of_all_frames"]:.2f}',
                )
                for each in drive['ratios']
            ],
            f'## {Path(str(drive["bag"]["path"])).name}, {result["rounds"]} rounds',
        )
        fates = ('answered', 'transport', 'dropped', 'failed', 'return', 'unknown')
        print_table(
            ('', 'sent', *(f'{fate} %' for fate in fates)),
            [
                (name, f'{of["frames_sent"]:.0f}', *(f'{of[f"{f}_share"]:.2%}' for f in fates))
                for name, of in figures.items()
            ],
            'What became of the pictures, all rounds:',
        )
        stations = {'own cost': 'own_cost'}
        stations |= {each: f'station_{each}' for each in (*OWN_STATIONS, 'inference')}
        stations['transport in'] = 'station_transport_in'
        print_table(
            ('', *stations),
            [
                (
                    name,
                    *(
                        f'{of[f"{n}_p50_ms"]:.2f}, {of[f"{n}_p99_ms"]:.2f}'
                        for n in stations.values()
                    ),
                )
                for name, of in figures.items()
                if 'own_cost_p50_ms' in of
            ],
            'Own cost, ms, p50 and p99 (everything from receipt to publishing but the run):',
        )
        for each in drive['accuracy']:
            ours, theirs = (
                {n: Interval(**f) for n, f in each[w].items()} for w in ('ours', 'theirs')
            )
            print_table(
                ('at the thresholds of the card', 'ours', each['other'], 'difference'),
                [
                    (
                        what.removesuffix('_answered'),
                        str(ours[what]),
                        str(theirs[what]),
                        f'{ours[what].value - theirs[what].value:+.4f}',
                    )
                    for what in ACCURACY
                ],
                f'Accuracy on the {each["pictures"]} pictures that both answered:',
            )
        age = drive['age_when_faster']
        print(
            f'\nInput at {drive["faster"]}: age at publishing p50 {age["age_p50_ms"]:.1f} ms, p99 '
            f'{age["age_p99_ms"]:.1f} ms; the run of the network p50 '
            f'{age["inference_p50_ms"]:.1f} ms, p99 {age["inference_p99_ms"]:.1f} ms; '
            f'{age["older_than_bound"]:.0f} of {age["frames"]} answers are older than two runs '
            f'and their transport; the 99th percentile of age over that is '
            f'{age["p99_of_age_over_bound"]:.2f}.'
        )


def draw(folder: Path, result: Mapping[str, Any]) -> None:
    """Charts of the figures; no picture of a camera is in them."""
    panels = (
        ('rate_out_hz', (FAST,), 'answers per second, as fast as possible'),
        ('latency_p50_ms', ('15 Hz', '30 Hz'), 'latency p50 (ms)'),
        ('latency_p99_ms', ('15 Hz', '30 Hz'), 'latency p99 (ms)'),
        ('node_memory_peak_mb', (FAST,), 'memory (MB)'),
    )
    names = [Path(str(drive['bag']['path'])).name for drive in result['drives']]
    for name, drive in zip(names, result['drives'], strict=True):
        figures = drive['figures']
        nodes = [n for n in dict.fromkeys(k.rpartition(', ')[0] for k in figures) if n != ONE_CORE]
        with drawing(folder / f'{name}.png', 12, 3.4) as page:
            for axes, (figure, paces, title) in zip(page.subplots(1, 4), panels, strict=True):
                bars = [(node, pace) for pace in paces for node in nodes]
                labels = [f'{node}\n{pace}' if len(paces) > 1 else node for node, pace in bars]
                drawn = axes.bar(
                    range(len(bars)),
                    [figures[f'{node}, {pace}'][figure] for node, pace in bars],
                    color=[f'C{nodes.index(node)}' for node, _ in bars],
                )
                axes.bar_label(drawn, fmt='%.4g', fontsize=8)
                axes.set_xticks(range(len(bars)), labels, fontsize=7)
                axes.set_title(title, fontsize=9)
                axes.spines[['top', 'right']].set_visible(False)
            page.suptitle(f'{name}: {result["rounds"]} interleaved rounds', fontsize=10)
    with drawing(folder / 'own_cost.png', 8, 2.6) as page:
        axes = page.subplots()
        left = np.zeros(len(names))
        for station in OWN_STATIONS:
            key = f'{ONE_CORE}, {ONE_CORE_HZ:g} Hz'
            width = [d['figures'][key][f'station_{station}_p50_ms'] for d in result['drives']]
            axes.barh(names, width, left=left, label=station)
            left += width
        axes.set_xlabel('own cost on one core, medians of the stations (ms); 8 ms are allowed')
        page.legend(ncols=len(OWN_STATIONS), fontsize=8, loc='outside upper center')


@contextmanager
def drawing(path: Path, width_in: float, height_in: float) -> Iterator[Any]:
    """A figure of matplotlib that is written to `path` at the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    page = Figure(figsize=(width_in, height_in), layout='constrained')
    FigureCanvasAgg(page)
    yield page
    page.savefig(path, dpi=110)
