"""What a try of a train.py gave, before its first training run: smoke_run.py makes it, journal and reports keep it.

It stands alone, so that whoever only reads journals need not load what runs them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..contracts import Status


@dataclass(frozen=True, slots=True)
class Smoke:
    """What became of a try. Nothing in it is a score."""

    status: Status | None
    """None: it works. DISTURBED: it was too slow, but the machine was busy, so that nobody knows."""
    reason: str
    step_seconds: float
    """Median time of the steps after the first, or of the first where there is no other; 0 where it failed."""
    tokens_per_step: int
    """By the candidate's own count."""
    parameters: int
    peak_memory_mb: float
    wall_seconds: float = 0.0
    """What the try cost, start-up and question included."""
    may_work: bool = False
    """It failed in a way in which what is tried for two steps may fail and still work in its run."""

    @property
    def is_failure(self) -> bool:
        """Whether its run would have failed too, so that it need not begin."""
        return self.status not in (None, Status.DISTURBED) and not self.may_work
