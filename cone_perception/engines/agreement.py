"""Comparison of what an engine loaded with the bundle's model card."""

from __future__ import annotations

import ast

from cone_perception.decode import read_layout
from cone_perception.engines import EngineInfo
from cone_perception.errors import ModelError
from cone_perception.model_card import Bundle


def class_names_from(metadata: str) -> tuple[str, ...]:
    """Class names that Ultralytics writes into an ONNX file: "{0: 'blue_cone', ...}"; or none."""
    try:
        names = ast.literal_eval(metadata) if metadata else {}
        return tuple(str(names[index]) for index in range(len(names)))
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise ModelError(
            f'the class names written in the network are not readable: {metadata!r:.80}'
        ) from error


def check_against_card(info: EngineInfo, bundle: Bundle, path: str, batch: int) -> None:
    """Raise ModelError when what was loaded from `path` is not what the bundle's card says."""
    card = bundle.card
    advice = 'File and card come from different exports: export again.'
    expected = (batch, 3, card.height_px, card.width_px)
    if info.input_shape != expected:
        raise ModelError(f'{path} takes {info.input_shape}, but its card says {expected}. {advice}')
    layout = read_layout(info.output_shape, len(card.class_names))
    if layout != card.output_layout or info.output_shape[0] != batch:
        raise ModelError(
            f'{path} outputs {info.output_shape} ({layout}), but its card says '
            f'{card.output_layout} with batch {batch}. {advice}'
        )
    if info.class_names and info.class_names != card.class_names:
        raise ModelError(
            f'{path} was trained on the classes {", ".join(info.class_names)}, but its card says '
            f'{", ".join(card.class_names)}. {advice}'
        )
