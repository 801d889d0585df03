"""Chooses the best sandbox that proves itself, and keeps the incubators of one command: one per purpose.

Used by executor.py, the commands that open a model, and doctor. Promises: no incubator is handed out whose sandbox has
not just stopped a probe; without a sandbox there is none at all, unless that was asked for in so many words.

An incubator outlives the processes that it starts, and some of what it has, a later one can see of an earlier one: how
far the process numbers of its namespace have come. So the processes that must not know of each other have incubators of
their own: the two of a score in a campaign, and those of different runs where `renew` is called between them.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import TrainingError
from ..process import Incubator
from .canaries import Proof, prove
from .plans import NO_BUBBLEWRAP, NONE, Plan, best_level, plans_here

ROLES = {"train": "train", "serve": "serve", "again": "serve"}
"""Purpose of an incubator -> its role. "again" serves what is asked a second time, to be compared."""


class NoSandboxError(TrainingError):
    """No sandbox holds here, or a weaker one than before."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """The level that was proved, and why nothing better was."""

    proof: Proof
    passed_over: tuple[tuple[Plan, str], ...]

    @property
    def level(self) -> int:
        return self.proof.plan.level

    @property
    def words(self) -> str:
        """For the journal and the report: "level 3 (bubblewrap)", or "none"."""
        plan = self.proof.plan
        return f"level {plan.level} ({plan.name})" if plan.is_isolated else "none"

    @property
    def line(self) -> str:
        """What is told at the start of a command."""
        plan = self.proof.plan
        return f"sandbox: {self.words}: {plan.promise}" if plan.is_isolated else f"no sandbox: {plan.promise}"

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "name": self.proof.plan.name,
            "promise": self.proof.plan.promise,
            "probes": {item.name: item.is_stopped for item in self.proof.outcomes},
            "passed_over": {plan.name: reason for plan, reason in self.passed_over},
        }


class Sandboxes:
    """The incubators of one command, in sandboxes of one kind. Use as a context manager, or `close` it."""

    def __init__(self, mode: str, device: str, environment: Mapping[str, str], may_be_unsafe: bool) -> None:
        self.mode, self.device, self.environment = mode, device, dict(environment)
        self.may_be_unsafe = may_be_unsafe
        self.isolation: Isolation | None = None
        self._incubators: dict[str, Incubator] = {}
        self._hatching: dict[str, Incubator] = {}

    def __enter__(self) -> Sandboxes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process."""
        for incubator in (*self._incubators.values(), *self._hatching.values()):
            incubator.close()
        self._incubators.clear()
        self._hatching.clear()

    def renew(self, place: Path) -> None:
        """Put fresh incubators in the place of all, each with a new sandbox and new folders.

        They come up at the same time: each spends two seconds on one core, importing torch.
        """
        self.close()
        if self.isolation is not None:
            for purpose in ROLES:
                with contextlib.suppress(OSError):  # told when it is tried again
                    self._hatching[purpose] = self._started(self.isolation.proof.plan, purpose, place)
        for purpose in ROLES:
            with contextlib.suppress(NoSandboxError):  # what failed by chance is started once more when it is asked for
                self.incubator(purpose, place)

    def incubator(self, purpose: str, place: Path) -> Incubator:
        """The incubator for `purpose`, started and proved if need be; `place` is where run folders lie.

        Raises NoSandboxError; TrainingError when not even an unprotected process comes up.
        """
        known = self._incubators.pop(purpose, None)
        if known is not None and known.is_alive:
            self._incubators[purpose] = known
            return known
        if known is not None:
            known.close()
        if self.isolation is None:
            self.isolation = self._choose(purpose, place)
        else:
            plan = self.isolation.proof.plan
            proof = self._try(plan, purpose, place)
            if proof.failure and plan.is_isolated:
                raise NoSandboxError(f"the sandbox ({plan.name}) does not hold any more: {proof.failure}", REPAIR)
        return self._incubators[purpose]

    def _choose(self, purpose: str, place: Path) -> Isolation:
        passed_over: list[tuple[Plan, str]] = []
        lost_device = ""
        for plan, reason in plans_here():
            if plan == NONE and not self.may_be_unsafe:
                break
            if not reason:
                proof = self._try(plan, purpose, place)
                if not proof.failure or plan == NONE:
                    return Isolation(proof, tuple(passed_over))
                reason = proof.failure
                lost_device = proof.lost_device or lost_device
            passed_over.append((plan, reason))
        if lost_device and self.device != "cpu":
            raise NoSandboxError(
                f"the {self.device} device is lost inside the sandbox: {lost_device}",
                'see docs/sandbox.md; or train on the CPU ([machine] device = "cpu"), or go on without walls with '
                "--allow-unsafe (results are then explored, not certified)",
            )
        why = "; ".join(f"{plan.name}: {reason}" for plan, reason in passed_over)
        raise NoSandboxError(f"no sandbox holds on this machine ({why})", REPAIR)

    def _started(self, plan: Plan, purpose: str, place: Path) -> Incubator:
        return Incubator(ROLES[purpose], self.mode, self.environment, plan, place, self.device)

    def _try(self, plan: Plan, purpose: str, place: Path) -> Proof:
        """Start an incubator by `plan` and probe it; it is kept when it may be used."""
        try:
            incubator = self._hatching.pop(purpose, None) or self._started(plan, purpose, place)
            incubator.hatch()
        except (TrainingError, OSError) as error:
            if plan == NONE:
                raise
            return Proof(plan, (), str(getattr(error, "message", error)))
        try:
            proof = prove(incubator, self.environment, place)
        except BaseException:
            incubator.close()
            raise
        if proof.failure and plan != NONE:
            incubator.close()
        else:
            self._incubators[purpose] = incubator
        return proof


def repair_lines(isolation: Isolation | None) -> list[str]:
    """How to get a better level on this machine; empty when there is none better."""
    system = platform.system()
    if isolation is not None and isolation.level >= best_level() > 0:
        return []
    if system == "Darwin":
        return ["Seatbelt did not hold: docs/sandbox.md says what it needs, and what --allow-unsafe means"]
    if system != "Linux":
        return ["on Windows: use WSL2 (the README has the line); there bubblewrap can be installed"]
    reasons = {plan.name: reason for plan, reason in isolation.passed_over} if isolation is not None else {}
    if reasons.get("bubblewrap") == NO_BUBBLEWRAP:
        return ["install bubblewrap: `sudo apt install bubblewrap`, or with dnf, pacman, zypper: the name is the same"]
    return [
        "Ubuntu 24.04 and newer: let bubblewrap make namespaces; docs/sandbox.md has the AppArmor profile",
        "in a container: allow user namespaces in it, or run slm-ar outside",
    ]


REPAIR = (
    "`slm-ar doctor` shows what was tried and how to mend it (on Debian and Ubuntu: sudo apt install bubblewrap); to "
    "go on without walls, so that results are explored and not certified, add --allow-unsafe"
)
