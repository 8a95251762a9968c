"""`cone-perception build-engine`: compile a bundle for this machine's GPU, check it, keep it."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import get_args

from cone_perception.engines.events import print_event
from cone_perception.engines.tensorrt.fastest import build_engines, describe_plan, keep_fastest
from cone_perception.engines.tensorrt.order import BuildPolicy, make_orders, target_gpu
from cone_perception.engines.tensorrt.plans import passport_path
from cone_perception.engines.tensorrt.provide import adopt_plan, provide_plan
from cone_perception.model_card import read_bundle, shipped_bundle
from cone_perception.types import GpuRuntime, GpuRuntimeChoice, PrecisionChoice


def add_order(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'bundle',
        type=Path,
        nargs='?',
        default=shipped_bundle(),
        help="model bundle's folder (default: the shipped model)",
    )
    provider = 'compiler and runtime; auto: TensorRT where it is installed, else TensorRT-RTX'
    choices = get_args(GpuRuntimeChoice)
    parser.add_argument('--provider', choices=choices, default='auto', help=provider)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_order(parser)
    parser.add_argument(
        '--precision',
        choices=get_args(PrecisionChoice),
        default='best',
        help='best: INT8 and FP16, whichever this GPU runs faster (default)',
    )
    parser.add_argument('--batch', type=int, default=1, help='network pictures a run (default: 1)')
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        '--for',
        dest='target',
        default='',
        metavar='SM89',
        help='compile for a GPU that is not here (RTX 4060: SM89); TensorRT-RTX only',
    )
    instead.add_argument(
        '--plan',
        type=Path,
        metavar='FILE',
        help='compile nothing: check this .engine of Ultralytics, or .plan, and take it',
    )
    parser.add_argument('--out', type=Path, help='also copy plan and passport into this folder')


def run(args: argparse.Namespace) -> int:
    bundle = read_bundle(args.bundle)
    policy = BuildPolicy(on_event=print_event)
    asked = bundle, args.precision, args.batch, policy
    if args.plan:
        precision = None if args.precision == 'best' else args.precision
        order, plan = adopt_plan(bundle, args.plan, precision, args.batch, policy)
        print(describe_plan(order, plan))
        plans = [plan]
    elif args.target:
        provider: GpuRuntime = 'tensorrt' if args.provider == 'tensorrt' else 'tensorrt_rtx'
        orders = make_orders(*asked, provider, target_gpu(args.target, provider))
        plans = [provide_plan(order) for order in orders]
        for order, plan in zip(orders, plans, strict=True):
            print(describe_plan(order, plan))
        print(f'Not compared with FP32: that needs a GPU of {args.target}.')
    else:
        built = build_engines(make_orders(*asked, args.provider), print)
        for engine in built:
            print(engine)
        plans = [keep_fastest(built, print).plan if args.precision == 'best' else built[0].plan]
    for plan in plans:
        print(plan.path)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            for file in (plan.path, passport_path(plan.path)):
                shutil.copy(file, args.out)
    return 0
