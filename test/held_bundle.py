"""A bundle whose engines are held to the answers of a network that is known to be right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cone_perception.engines import Engine
from cone_perception.engines.check import REFERENCE_FILE, run_all
from cone_perception.engines.cpu.open import open_network
from cone_perception.model_card import Bundle, file_sha256, read_bundle
from cone_perception.types import UInt8


def open_cpu(bundle: Bundle) -> Engine:
    """The bundle's first network, not held to anything."""
    return open_network(bundle, bundle.card.networks[0], 'onnxruntime')


def hold_to(bundle: Bundle, engine: Engine, pictures: UInt8) -> Bundle:
    """The bundle with this engine's answers as its reference.npz; the engine is closed."""
    path = bundle.folder / REFERENCE_FILE
    np.savez_compressed(path, inputs=pictures, outputs=run_all(engine, pictures))
    engine.close()
    return list_reference(bundle)


def list_reference(bundle: Bundle) -> Bundle:
    """The bundle whose card has the hash of its reference.npz."""
    listed = {REFERENCE_FILE: file_sha256(bundle.folder / REFERENCE_FILE)}
    card = replace(bundle.card, other_files=listed)
    (bundle.folder / 'card.json').write_text(card.to_json())
    return read_bundle(bundle.folder)
