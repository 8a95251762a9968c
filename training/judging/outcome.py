"""How a campaign can end, and the exit code of `cone-training two-stage` for each way."""

from __future__ import annotations

from enum import IntEnum


class Outcome(IntEnum):
    """Exit codes. 1 and 2 are any command's: something asked for cannot be done, wrong arguments.

    BETTER to BETTER_BUT_BELOW_TARGET: the campaign is finished, and starting it again changes
    nothing. The last one misses a figure that the recipe sets as success.
    VERIFICATION_FAILED and STOPPED_BY_GUARD: a person has to look. The others: `--resume` goes on,
    once there is room on the disk or in memory again.
    """

    BETTER = 0
    EQUAL = 10
    WORSE = 11
    INCONCLUSIVE = 12
    NOT_COMPARED = 13
    BETTER_BUT_BELOW_TARGET = 14
    VERIFICATION_FAILED = 20
    STOPPED_BY_GUARD = 21
    OUT_OF_DISK = 30
    OUT_OF_MEMORY = 31
    INTERRUPTED = 75

    @property
    def label(self) -> str:
        """As campaign.json and the report have it: `stopped by guard`."""
        return self.name.lower().replace('_', ' ')

    @property
    def finished(self) -> bool:
        """Nothing is left to do."""
        return self < Outcome.VERIFICATION_FAILED

    @classmethod
    def of(cls, label: str) -> Outcome:
        """The outcome of that label."""
        return cls[label.upper().replace(' ', '_')]
