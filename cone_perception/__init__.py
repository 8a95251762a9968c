"""Cone detection for Formula Student driverless cars: what runs on the car."""

from __future__ import annotations

import os
import sys

__version__ = '0.1.0'

# OpenVINO's sender of usage data looks up a host in every process that imports OpenVINO. Where it
# cannot be imported, OpenVINO takes a stub that sends nothing.
sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]

MOST_PIXELS = 1 << 26
"""Largest compressed picture that is decoded, 200 MB as bgr8; 1 MB of PNG can hold 3 GB."""
os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(MOST_PIXELS))  # read when cv2 is imported
