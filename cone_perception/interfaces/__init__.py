"""vision_msgs where apt does not provide it: definitions, and the command that builds them."""

from __future__ import annotations
