"""Pictures -> a row of numbers each: the mean over the picture of the backbone's last layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cone_perception.errors import DataError, InstallError, ModelError, told_as
from cone_perception.images import read_picture
from cone_perception.model_card import check_network_file, read_bundle
from cone_perception.preprocess import letterbox, to_planes
from cone_perception.types import Float32, Precision
from training.data.like_pictures import cut_frame

SIDE_PX = 640
EXACT_FIRST: tuple[Precision, ...] = ('fp32', 'fp16', 'int8')

Network = Callable[[Float32], Float32]
"""(1, 3, H, W) RGB, 0..1 -> (1, C, h, w) of the backbone's last layer."""


def embed_pictures(paths: Sequence[Path], weights: Path, cut_frames: bool = False) -> Float32:
    """(N, C) float32: per picture the mean of the backbone's last layer.

    weights: a model bundle's folder, an ONNX file, or a .pt of Ultralytics. cut_frames: without the
    frames around the pictures. Raises ModelError when the weights have no backbone that can be
    found, InstallError when a package is missing, DataError for a picture that cannot be decoded.
    """
    if not weights.exists():
        raise ModelError(
            f'{weights} does not exist. Give a .pt, an .onnx, or the folder of a model bundle.'
        )
    if weights.suffix == '.pt':
        network, height_px, width_px = _open_ultralytics(weights), SIDE_PX, SIDE_PX
    elif weights.suffix == '.onnx':
        network, height_px, width_px = _open_onnx(weights)
    else:
        bundle = read_bundle(weights)
        networks = [network for network in bundle.card.networks if network.encoding != 'int8']
        if not networks:
            raise ModelError(f'{bundle.folder} has TensorRT networks only: give a .pt or an .onnx.')
        exact = min(networks, key=lambda network: EXACT_FIRST.index(network.precision))
        network, height_px, width_px = _open_onnx(bundle.checked_path(exact))
    rows = []
    for path in tqdm(paths, unit='picture', desc='embed'):
        picture = read_picture(path, DataError)
        if cut_frames:
            picture = cut_frame(picture)
        planes = to_planes(letterbox(picture, height_px, width_px))
        rows.append(network(planes)[0].mean(axis=(1, 2)))
    return np.array(rows, np.float32)


def _open_onnx(path: Path) -> tuple[Network, int, int]:
    needs = f'{path} needs onnx and onnxruntime (pip install "cone_perception[train]")'
    with told_as(InstallError, needs, ImportError):
        import onnx
        import onnxruntime
    check_network_file(path)
    model = onnx.load(str(path))
    # The neck of every YOLO since version 5 starts by enlarging what the backbone puts out.
    tensor = next((node.input[0] for node in model.graph.node if node.op_type == 'Resize'), None)
    if tensor is None:
        raise ModelError(
            f'{path} has no layer that enlarges, so where its backbone ends is not known. '
            'Give the weights of a YOLO model.'
        )
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    on_cpu = options, ['CPUExecutionProvider']
    session = onnxruntime.InferenceSession(model.SerializeToString(), *on_cpu)
    entry = session.get_inputs()[0]
    sides = [side if isinstance(side, int) else SIDE_PX for side in entry.shape[2:]]
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else 1
    half = entry.type == 'tensor(float16)'

    def run(planes: Float32) -> Float32:
        filled = np.repeat(planes, batch, axis=0).astype(np.float16 if half else np.float32)
        return np.asarray(session.run([tensor], {entry.name: filled})[0][:1], np.float32)

    return run, sides[0], sides[1]


def _open_ultralytics(path: Path) -> Network:
    from training.ultralytics_cpu import check_weights

    needs = f'{path} needs ultralytics (pip install "cone_perception[train]")'
    with told_as(InstallError, needs, ImportError):
        check_weights(path)
        import torch
        from ultralytics import YOLO
    # Unpickling raises anything.
    with told_as(ModelError, f'{path} holds no YOLO model of Ultralytics', Exception):
        model = YOLO(str(path)).model.float().eval()
        layers = list(model.model)[: len(model.yaml['backbone'])]
    if any(layer.f != -1 for layer in layers):
        raise ModelError(f'{path} has a backbone whose layers do not follow each other.')
    backbone = torch.nn.Sequential(*layers)

    def run(planes: Float32) -> Float32:
        with torch.inference_mode():
            return np.asarray(backbone(torch.from_numpy(planes)).numpy(), np.float32)

    return run
