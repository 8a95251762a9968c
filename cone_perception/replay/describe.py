"""The bag that was replayed and the model that it went through, as a result tells of them.

Nothing here names a user. A bag's path is told as it was given.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cone_perception.engines.tensorrt.plans import PlanCache, read_passport
from cone_perception.errors import PlanError
from cone_perception.model_card import Bundle
from cone_perception.replay.traces import Drive


def describe_bag(drive: Drive) -> dict[str, Any]:
    """Describe a bag.

    path, sha256 (of its data), storage, frames, duration_s, cameras (name, topic, compressed,
    truth_topic), truth_frames (pictures whose cones are known), problems.
    """
    return {
        'path': str(drive.bag),
        'sha256': drive.sha256,
        'storage': drive.storage,
        'frames': drive.frames,
        'duration_s': drive.duration_s,
        'cameras': [asdict(camera) for camera in drive.cameras],
        'truth_frames': 0 if drive.truth is None else len(drive.truth),
        'problems': list(drive.problems),
    }


def describe_model(bundle: Bundle, health: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Describe a model.

    name, folder, card_sha256 (of the card as it is written), networks (that it lists),
    class_names, thresholds, verdict, licence, and what the node told: network_sha256 (of the file
    that ran), engine.

    passport: of the compiled engine that ran, see engines.plan; None on the CPU, where nothing is
    compiled beforehand. What the node did not tell is None.
    """
    card = bundle.card
    told = next((values for values in health.values() if 'engine' in values), {})
    network_sha256 = told.get('model sha256')
    on_gpu = told.get('engine', '').startswith('TensorRT')
    return {
        'name': card.name,
        'folder': _without_home(bundle.folder),
        'card_sha256': hashlib.sha256(card.to_json().encode()).hexdigest(),
        'networks': [asdict(network) for network in card.networks],
        'class_names': list(card.class_names),
        'thresholds': dict(card.thresholds),
        'verdict': card.verdict,
        'licence': card.licence,
        'network_sha256': network_sha256,
        'engine': told.get('engine'),
        'passport': _passport(network_sha256, PlanCache().folder) if on_gpu else None,
    }


def _without_home(path: Path) -> str:
    """The shipped model lies in the user's home as often as not, which names the user."""
    with contextlib.suppress(ValueError, RuntimeError):
        return str('~' / path.relative_to(Path.home()))
    return str(path)


def _passport(network_sha256: str | None, folder: Path) -> dict[str, Any] | None:
    """The newest passport in the cache of an engine made from this network."""
    for file in sorted(folder.glob('*.json'), key=lambda path: -path.stat().st_mtime):
        with contextlib.suppress(PlanError):  # other files lie there too
            passport = read_passport(file)
            if passport.key.network_sha256 == network_sha256:
                return asdict(passport)
    return None
