"""The share of wrong verdicts of `replay compare` on two replays of one model, simulated.

    python benchmarks/verdicts.py --passes 1 --assumed 0 --seconds 20

Latencies of 40 ms with disturbances that last about a second, the same in all passes but for their
scatter from run to run. Every `better` or `worse` is wrong, and every interval should hold 0.
"""

from __future__ import annotations

import numpy as np
from output import benchmark_parser, print_table, write_result
from tqdm import tqdm

from cone_perception.replay.figures import compare, statistics
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.figures.statistics import pass_figures
from cone_perception.replay.traces import FrameTrace, Pace, Pass

LATENCY_MS = 40.0
HZ = 15
CORRELATION = 0.93
"""Correlation of a frame's disturbance with the last one's: 1/e after 14 frames, a second."""

FIGURES = ('latency_mean_ms', 'latency_p50_ms', 'latency_p99_ms')


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument('--passes', type=int, default=1, help='of each replay (1)')
    parser.add_argument('--seconds', type=int, default=20, help='of each pass (20)')
    parser.add_argument('--scatter', type=float, default=0.05, help='from run to run (0.05)')
    parser.add_argument('--assumed', type=float, help='scatter assumed with one pass (as shipped)')
    parser.add_argument('--trials', type=int, default=300)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    if args.assumed is not None:
        compare.RUN_SCATTER = args.assumed
    statistics.RESAMPLES = 300
    rng = np.random.default_rng(args.seed)
    wrong, held = np.zeros((2, len(FIGURES)))
    for _ in tqdm(range(args.trials), disable=None):
        pair = []  # results without truth
        for _ in range(2):
            played = [simulate_pass(rng, args.seconds, args.scatter) for _ in range(args.passes)]
            per_pass = [pass_figures([each]) for each in played] if args.passes > 1 else []
            frames = [each.frames for each in played]
            pair.append(ReplayResult({}, {}, {}, {}, pass_figures(played), per_pass, frames, []))
        found = compare.compare(*pair).differences
        for column, name in enumerate(FIGURES):
            wrong[column] += found[name].verdict in ('better', 'worse')
            held[column] += found[name].difference.low <= 0 <= found[name].difference.high
    shares = zip(FIGURES, wrong / args.trials, held / args.trials, strict=True)
    rows = [(name, f'{w:.1%}', f'{h:.1%}') for name, w, h in shares]
    print_table(('', 'better or worse', 'interval holds 0'), rows)
    write_result(args.json, {'rows': rows})


def simulate_pass(rng: np.random.Generator, seconds: int, scatter: float) -> Pass:
    """scatter: standard deviation between whole passes, as a share of LATENCY_MS."""
    shift = rng.normal(0, scatter)
    count = seconds * HZ
    disturbance = np.zeros(count)
    for index in range(1, count):
        disturbance[index] = CORRELATION * disturbance[index - 1] + rng.normal()
    latency_ms = LATENCY_MS * (1 + shift) + disturbance + rng.gamma(2, 2, count)
    sent_ns = (np.arange(count) * (10**9 / HZ)).astype(int)
    returned_ns = sent_ns + (latency_ms * 1e6).astype(int)
    moments = zip(sent_ns.tolist(), returned_ns.tolist(), strict=True)
    frames = [
        FrameTrace('camera', index, index, 'answered', sent, returned_ns=back)
        for index, (sent, back) in enumerate(moments)
    ]
    return Pass(Pace(), frames)


if __name__ == '__main__':
    main()
