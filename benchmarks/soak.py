"""A long drive through the node: does anything grow?

    python benchmarks/soak.py --minutes 10 --out build/soak

Renders a short drive once, lengthens it to a bag of that many minutes (the same pictures again and
again, stamps going on), replays it through ROS with `cone-perception replay`, and fails when the
memory of node, player or monitor grows, or frames are lost in transport. Prints JSON. Pictures are
JPEG, or a raw bag of 10 minutes at 15 Hz would take 25 GB; --raw takes them as they are.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

from output import benchmark_parser, write_result
from rosbags.rosbag2 import StoragePlugin, Writer

from cone_perception.bags.reader import bag_types, header_stamp_ns, open_bag, read_messages
from cone_perception.replay.figures.result import read_result

BUDGET = """\
node_memory_slope_mb_per_min: {max: 1, end: low}
player_memory_slope_mb_per_min: {max: 1, end: low}
monitor_memory_slope_mb_per_min: {max: 1, end: low}
transport_share: {max: 0.01}
failed_share: {max: 0}
"""
"""`low`: only a slope that is shown to be one counts."""


def main() -> int:
    parser = benchmark_parser(__doc__)
    parser.add_argument('--minutes', type=float, default=10.0)
    parser.add_argument('--hz', type=float, default=15.0)
    parser.add_argument('--raw', action='store_true')
    parser.add_argument('--out', type=Path, default=Path('build/soak'))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kind = 'raw' if args.raw else 'jpeg'
    short = args.out / f'short_{kind}_{args.hz:g}hz'
    if not (short / 'metadata.yaml').exists():
        options = ['--seconds', '10', '--hz', f'{args.hz:g}']
        command = ['-m', 'training.cli', 'simulate', 'drive', '--out', short, *options]
        run(*command, *([] if args.raw else ['--compressed']))
    drive = args.out / f'drive_{kind}_{args.hz:g}hz_{args.minutes:g}min'
    if not (drive / 'metadata.yaml').exists():
        lengthen(short, drive, args.minutes)
    (args.out / 'budget.yaml').write_text(BUDGET, encoding='utf-8')
    replay = ['-m', 'cone_perception.cli', 'replay', drive, '--out', args.out / 'replay']
    options = ['--no-overhead', '--device', 'cpu', '--budget', args.out / 'budget.yaml']
    status = run(*replay, *options, check=False)
    result = read_result(args.out / 'replay' / 'result.json')
    wanted = ('frames_', 'transport_', 'dropped_', 'failed_', 'latency_p', 'rate_out')
    figures = {
        name: [figure.value, figure.low, figure.high]
        for name, figure in result.figures.items()
        if name.startswith(wanted) or '_memory_' in name
    }
    told = {'within_budget': status == 0, 'host': result.host, 'figures': figures}
    write_result(args.json, told, show=True)
    return status


def lengthen(short: Path, path: Path, minutes: float) -> None:
    """The same messages again and again, each time later by the drive's length."""
    with open_bag(short) as reader:
        types = {c.topic: c.msgtype for c in reader.connections}
        messages = list(read_messages(reader, types))
    times = sorted({message.time_ns for message in messages})
    length_ns = (times[-1] - times[0]) * len(times) // (len(times) - 1)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {
            topic: writer.add_connection(topic, type_name, typestore=bag_types())
            for topic, type_name in types.items()
        }
        for later_ns in range(0, round(minutes * 60e9), length_ns):
            for message in messages:
                data = bytearray(message.data)
                stamp_ns = header_stamp_ns(message.data) + later_ns
                struct.pack_into('<iI', data, 4, *divmod(stamp_ns, 10**9))
                writer.write(connections[message.topic], message.time_ns + later_ns, bytes(data))


def run(*arguments: object, check: bool = True) -> int:
    return subprocess.run([sys.executable, *map(str, arguments)], check=check).returncode


if __name__ == '__main__':
    sys.exit(main())
