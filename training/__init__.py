"""Offline tools: simulate drives, train, quantise, judge. Never installed on the car's node."""

from __future__ import annotations
