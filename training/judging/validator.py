"""Weights (.pt) run by Ultralytics' own validator: its pictures, its batches, its overlaps removed.

The pictures and labels are ours: nothing is left out, nothing is written beside the data set, no
`download:` key is read, and the detections of each picture come out instead of mean figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from cone_perception.dataset.split import LabelledSplit
from cone_perception.errors import EngineError, ModelError, one_line, told_as
from cone_perception.model_card import file_sha256
from cone_perception.types import Detections
from training.judging.predictions import (
    LEAST_SCORE,
    NMS_IOU,
    Found,
    ModelOptions,
    Predictions,
    class_mapping,
    most_detections,
)
from training.ultralytics_cpu import check_weights, prepare_ultralytics

prepare_ultralytics()

import torch  # noqa: E402
import ultralytics  # noqa: E402
from ultralytics.data import YOLODataset  # noqa: E402
from ultralytics.models.yolo.detect import DetectionValidator  # noqa: E402
from ultralytics.utils.nms import non_max_suppression  # noqa: E402
from ultralytics.utils.torch_utils import select_device  # noqa: E402


def predict_weights(
    weights: Path, split: LabelledSplit, options: ModelOptions, mapping: Mapping[str, str]
) -> Predictions:
    """Run weights over a split at `options.imgsz` pixels, padded to rectangles. Raises ModelError.

    options.layout: `anchors` judges the head whose overlaps are removed afterwards; `end_to_end`
    the one that chooses by itself, which YOLO26 has and YOLO12 has not.
    """
    check_weights(weights)
    imgsz, device, layout = options.imgsz, options.device, options.layout
    no_memory = told_as(
        EngineError,
        f'{device} has no memory left to run {weights} at {imgsz} pixels',
        torch.OutOfMemoryError,
        advice='End what else uses it, or give --device cpu.',
    )
    with TemporaryDirectory() as folder:
        validator = _Validator(weights, split, options, mapping, Path(folder))
        try:
            select_device('' if device is None else device, verbose=False)
        except ValueError as error:
            raise EngineError(
                f'there is no device {device} here: {one_line(str(error)):.120} '
                'Give --device cpu, or the number of a GPU that torch sees.'
            ) from error
        with no_memory:
            validator(model=str(weights))
    lost = [name for name, found in zip(split.names, validator.found, strict=True) if found is None]
    if lost:
        raise ModelError(f'{weights} was not run on {len(lost)} pictures, {lost[0]} among them.')
    notes = []
    if layout == 'anchors':
        notes.append(f'boxes of one class that overlap by more than {NMS_IOU:g} are one cone')
    return Predictions(
        validator.class_names,
        tuple(each for each in validator.found if each is not None),
        file_sha256(weights),
        (imgsz, imgsz),
        layout,
        f'ultralytics {ultralytics.__version__}, torch {torch.__version__} on {validator.device}',
        'fp32',
        tuple(notes),
    )


class _Pictures(YOLODataset):  # type: ignore[misc]
    """Ultralytics' data set with every picture of the split, and labels that were read already."""

    def __init__(self, split: LabelledSplit, **settings: Any) -> None:
        self._split = split
        super().__init__(img_path='', **settings)

    def get_img_files(self, img_path: str) -> list[str]:
        return [str(path) for path in self._split.paths]

    def get_labels(self) -> list[dict[str, Any]]:
        return [
            {
                'im_file': str(path),
                'shape': (int(height), int(width)),
                'cls': rows[:, :1],
                'bboxes': rows[:, 1:],
                'segments': [],
                'keypoints': None,
                'normalized': True,
                'bbox_format': 'xywh',
            }
            for path, (width, height), rows in zip(
                self._split.paths, self._split.size_px, self._split.rows, strict=True
            )
        ]


class UnhurriedValidator(DetectionValidator):  # type: ignore[misc]
    """Ultralytics' validator that takes the time it needs to remove overlaps.

    Its own gives up after 2 s and 0.05 s a picture, and then the rest of the batch has no
    detections at all, with a line in the log: the figures would depend on how busy the machine is.
    """

    def postprocess(self, preds: Any) -> list[dict[str, torch.Tensor]]:
        kept = non_max_suppression(
            preds,
            self.args.conf,
            self.args.iou,
            multi_label=True,
            agnostic=self.args.single_cls or self.args.agnostic_nms,
            max_det=self.args.max_det,
            max_time_img=math.inf,
            end2end=self.end2end,
        )
        return [
            {'bboxes': each[:, :4], 'conf': each[:, 4], 'cls': each[:, 5], 'extra': each[:, 6:]}
            for each in kept
        ]


class _Validator(UnhurriedValidator):
    """Keeps each picture's detections, in the split's order, and the loaded model's class names."""

    def __init__(
        self,
        weights: Path,
        split: LabelledSplit,
        options: ModelOptions,
        mapping: Mapping[str, str],
        folder: Path,
    ) -> None:
        (folder / 'images').mkdir()
        names = list(split.class_names)
        content = {'path': str(folder), 'train': 'images', 'val': 'images', 'names': names}
        (folder / 'data.yaml').write_text(yaml.safe_dump(content), encoding='utf-8')
        super().__init__(
            save_dir=folder,
            args={
                'model': str(weights),
                'data': str(folder / 'data.yaml'),
                'split': 'val',
                'task': 'detect',
                'mode': 'val',
                'imgsz': options.imgsz,
                'batch': 16,  # of similar shape; they share the padding: Ultralytics' own size
                'rect': True,
                'device': options.device,
                'conf': LEAST_SCORE,
                'iou': NMS_IOU,
                'max_det': most_detections(split),
                'nms': False if options.layout == 'end_to_end' else None,
                'plots': False,
                'workers': 2,
            },
        )
        self.class_names: tuple[str, ...] = ()
        self.found: list[Found | None] = [None] * len(split)
        self._split = split
        self._weights = weights
        self._layout = options.layout
        self._mapping = mapping
        self._index = {str(path): index for index, path in enumerate(split.paths)}
        self._progress = tqdm(total=len(split), desc='detect', unit='picture', delay=1)

    def build_dataset(self, img_path: str, mode: str = 'val', batch: int | None = None) -> Any:
        return _Pictures(
            self._split,
            imgsz=self.args.imgsz,
            batch_size=batch,
            augment=False,
            hyp=self.args,
            rect=True,
            stride=self.stride,
            pad=0.5,
            task='detect',
            data=self.data,
        )

    def init_metrics(self, model: Any) -> None:
        super().init_metrics(model)
        if self._layout == 'end_to_end' and not self.end2end:
            raise ModelError(
                f'{self._weights} has no end-to-end head (YOLO26 and YOLOv10 have): judge it with '
                '--layout anchors.'
            )
        self.class_names = tuple(str(model.names[index]) for index in range(len(model.names)))
        class_mapping(self.class_names, self._split, self._mapping)

    def update_metrics(self, preds: list[dict[str, torch.Tensor]], batch: dict[str, Any]) -> None:
        for position, prediction in enumerate(preds):
            self.seen += 1
            picture = self._prepare_batch(position, batch)
            index = self._index[picture['im_file']]
            labelled = picture['cls'].cpu().numpy().astype(np.int64)
            if not np.array_equal(labelled, self._split.truth_class(index)):
                raise ModelError(f'Ultralytics changed the labels of {picture["im_file"]}.')
            score = prediction['conf'].cpu().numpy().astype(np.float32)
            order = np.argsort(-score, kind='stable')
            box = prediction['bboxes'].cpu().numpy().astype(np.float32)[order]
            (gain_y, gain_x), (pad_x, pad_y) = picture['ratio_pad']
            pad = np.array([pad_x, pad_y] * 2, np.float32)
            gain = np.array([gain_x, gain_y] * 2, np.float32)
            class_id = prediction['cls'].cpu().numpy().astype(np.int64)[order]
            self.found[index] = Found(
                Detections(((box - pad) / gain).astype(np.float32), score[order], class_id),
                box,
                picture['bboxes'].cpu().numpy().astype(np.float32).reshape(-1, 4),
            )
        self._progress.update(len(preds))

    def get_stats(self) -> dict[str, Any]:
        self._progress.close()
        return {}

    def print_results(self) -> None:
        """Print nothing: the figures are made of the detections."""
