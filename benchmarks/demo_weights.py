"""Weights for the benchmarks' peers: those of the shipped model, taken back from its FP16 network.

    python benchmarks/demo_weights.py --out best.pt

Ultralytics loads the file like any other, in FP32. What FP16 rounded away stays lost: scores differ
from the trained weights' by 0.0002. The head without suppression is not in the network, so it is
not in the file either. Needs the extra train.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from cone_perception.model_card import read_bundle, shipped_bundle


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, required=True, help='.pt to write')
    args = parser.parse_args(argv)
    import torch

    from training.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    bundle = read_bundle(shipped_bundle())
    names = bundle.card.class_names
    model = DetectionModel('yolo26n.yaml', nc=len(names), verbose=False)
    model.names = dict(enumerate(names))
    model.fuse(verbose=False)  # as it runs: batch normalisation in the convolutions
    network = onnx.load(bundle.checked_path(bundle.network('fp16', 'float')))
    arrays = {
        weight.name.removesuffix('_half'): numpy_helper.to_array(weight).astype(np.float32)
        for weight in network.graph.initializer
    }
    wanted = model.state_dict()
    wrong = [n for n, v in wanted.items() if n not in arrays or arrays[n].shape != tuple(v.shape)]
    if wrong:
        raise ValueError(f'{bundle.folder} is no YOLO26n: {wrong[0]} is not in it as such')
    model.load_state_dict({name: torch.from_numpy(arrays[name].copy()) for name in wanted})
    torch.save({'model': model.eval(), 'train_args': {'task': 'detect'}}, args.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
