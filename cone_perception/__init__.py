"""Cone detection for Formula Student driverless cars: what runs on the car."""

from __future__ import annotations

__version__ = '0.1.0'
