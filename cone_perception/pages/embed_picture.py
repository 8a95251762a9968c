"""Picture files inside a page."""

from __future__ import annotations

from pathlib import Path

import cv2

from cone_perception.pages.page import embed

PNG_BYTES = 300_000
"""A PNG of at most so many bytes, a drawing as a rule, stays one; others become JPEG."""


def embed_picture(path: Path, width_px: int) -> str:
    """A picture file as a data URI, at most `width_px` wide; '' when it is none."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        return ''
    if bgr.shape[1] > width_px:
        height = round(bgr.shape[0] * width_px / bgr.shape[1])
        bgr = cv2.resize(bgr, (width_px, height), interpolation=cv2.INTER_AREA)
    if path.suffix.lower() == '.png' and path.stat().st_size < PNG_BYTES:
        return embed(cv2.imencode('.png', bgr)[1].tobytes(), 'png')
    return embed(cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes())
