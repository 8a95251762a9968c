"""A simulated Formula Student drive: labelled pictures and rosbags, seeded and deterministic."""

from __future__ import annotations

from training.simulate.command import add_arguments, run

__all__ = ['add_arguments', 'run']
