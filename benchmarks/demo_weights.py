"""Weights for the benchmarks' peers: those of the shipped model, taken back from its FP16 network.

    python benchmarks/demo_weights.py --out best.pt
    python benchmarks/demo_weights.py --out start.pt --train-on crops/train/images

Ultralytics loads the file like any other, in FP32. What FP16 rounded away stays lost: scores differ
from the trained weights' by 0.0002. The head without suppression is not in the network, so it is
not in the file either. With --train-on the file is a start for `cone-training demo-model train`:
it has batch normalisation again, and that head begins as a copy of the other. Needs the extra
train.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from cone_perception.images import read_picture
from cone_perception.model_card import read_bundle, shipped_bundle
from cone_perception.preprocess import to_planes


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, required=True, help='.pt to write')
    parser.add_argument('--train-on', type=Path, help='folder of the training pictures')
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
    if args.train_on:
        model = with_normalisation(model, args.train_on)
    torch.save({'model': model.eval(), 'train_args': {'task': 'detect'}}, args.out)
    return 0


def with_normalisation(fused: Any, pictures: Path, count: int = 192) -> Any:
    """The same function with batch normalisation, whose statistics are those of some pictures.

    A normalisation with a convolution's own mean and variance, and a scale and shift that undo
    them, changes nothing in evaluation; in training it starts from what the batches look like.
    """
    import torch
    from ultralytics.nn.modules.conv import Conv
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel('yolo26n.yaml', nc=len(fused.names), verbose=False)
    model.names = fused.names
    weights = fused.state_dict()

    def weight(name: str) -> Any:
        return weights[name if name in weights else name.replace('one2one_', '')]

    def normalise(fused_bias: Any) -> Any:
        def set_from(bn: Any, inputs: tuple[Any, ...]) -> None:
            var, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
            bn.running_mean.copy_(mean)
            bn.running_var.copy_(var)
            bn.weight.data.copy_((var + bn.eps).sqrt())
            bn.bias.data.copy_(fused_bias + mean)

        return set_from

    hooks = []
    fused_convolutions = set()
    for name, module in model.named_modules():
        if isinstance(module, Conv):
            module.conv.weight.data.copy_(weight(f'{name}.conv.weight'))
            bias = weight(f'{name}.conv.bias')
            hooks.append(module.bn.register_forward_pre_hook(normalise(bias)))
            fused_convolutions.add(f'{name}.conv')
        elif isinstance(module, torch.nn.Conv2d) and name not in fused_convolutions:
            module.weight.data.copy_(weight(f'{name}.weight'))
            if module.bias is not None:
                module.bias.data.copy_(weight(f'{name}.bias'))
    names = sorted(pictures.iterdir())
    chosen = np.random.default_rng(0).choice(len(names), min(count, len(names)), replace=False)
    batch = np.concatenate([to_planes(read_picture(names[index])) for index in chosen])
    model.train()  # both heads run
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        model(torch.from_numpy(batch))
    for hook in hooks:
        hook.remove()
    return model


if __name__ == '__main__':
    sys.exit(main())
