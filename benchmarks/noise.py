"""False keeps on real noise: records codes x seeds with the real pipeline, then replays nights on the recorded table.

    python -m benchmarks.noise record TABLE.json [--codes 8] [--seeds 6] [--steps 60]
    python -m benchmarks.noise replay TABLE.json [--nights 500]

The codes are the demo's train.py with its knobs moved at random. Budgets count steps, so that the table holds the luck
of seeds and not the load of the machine. In the replay all codes are worth the same: what is drawn is a score minus the
mean of its code over seeds, on dev and in every group of hidden. Every keep is therefore a false one.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from slm_ar.core.agent import gate, level
from slm_ar.core.agent.edits import parse_knobs, set_knobs
from slm_ar.core.agent.simulate import DEFAULT_POLICY, clopper_pearson
from slm_ar.core.contracts import Decision, GroupScore
from slm_ar.core.train.training_run import TrainJob

from .common import city_workspace, executor_for, facts, load, note, prepared, private_in, train, write

PROPOSALS = 100
WINDOW, CLAIM_EVERY = 32, 32
FEWEST_SEEDS = 5
"""With fewer the scores about their own mean are no sample of anything."""
LEVEL = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("record", "replay"))
    parser.add_argument("table", type=Path)
    parser.add_argument("--codes", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--nights", type=int, default=500)
    arguments = parser.parse_args()
    if arguments.what == "record":
        record(arguments)
    else:
        print(replay(json.loads(arguments.table.read_text(encoding="utf-8")), arguments.nights))


# --- recording ------------------------------------------------------------------------------


def record(arguments: argparse.Namespace) -> None:
    """Train what the table does not hold yet; it is written after every run, so that a break costs one."""
    path: Path = arguments.table
    table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": []}
    known = {(run["code"], run["seed"]) for run in table["runs"]}
    with tempfile.TemporaryDirectory(prefix="slm-ar-noise-") as name, private_in(Path(name)):
        folder = Path(name)
        workspace = city_workspace(folder / "noise")
        data, machine = prepared(workspace, folder / "noise"), workspace.machine()
        table |= {**facts(), "training": machine.facts, "steps": arguments.steps}
        codes = [moved(workspace.train_py, number) for number in range(arguments.codes)]
        with executor_for(workspace, data, machine) as executor:
            for seed in range(arguments.seeds):
                for number, text in enumerate(codes):
                    if (number, seed) in known:
                        continue
                    before = load()
                    job = TrainJob(text, seed, None, arguments.steps, 60, 0.8 * machine.memory_mb)
                    outcome = train(executor, job, folder / "run")
                    scores = {split: executor.score(folder / "run", split, 256) for split in ("dev", "hidden")}
                    groups = [[group.group, group.nats, group.byte_count] for group in scores["hidden"].groups]
                    run = {"code": number, "seed": seed, "dev": scores["dev"].bits_per_byte, "hidden": groups}
                    table["runs"].append({**run, "seconds": outcome.train_seconds, "load_before": before})
                    write(path, table)
                    note(f"{number} {seed} {scores['dev'].bits_per_byte}")


def moved(text: str, number: int) -> str:
    """Code 0 is the text itself, every other one has its learning rates and schedules moved by up to a fifth."""
    random = np.random.default_rng([number, 7])
    values = {}
    for knob in parse_knobs(text):
        if number and knob.kind == "float" and isinstance(knob.value, float) and knob.value > 0:
            value = knob.value * math.exp(random.uniform(-0.2, 0.2))
            values[knob.name] = min(max(value, knob.low or value), knob.high or value)
    return set_knobs(text, values)


# --- replaying ------------------------------------------------------------------------------


class Table:
    """Centred scores: dev[code, seed] in bits per byte, hidden[code, seed, group] in nats, and the groups' bytes."""

    def __init__(self, recorded: dict[str, Any]) -> None:
        runs = recorded["runs"]
        codes, seeds = (1 + max(run[key] for run in runs) for key in ("code", "seed"))
        self.dev = np.full((codes, seeds), math.nan)
        self.sizes = [int(size) for _, _, size in runs[0]["hidden"]]
        self.hidden = np.full((codes, seeds, len(self.sizes)), math.nan)
        for run in runs:
            self.dev[run["code"], run["seed"]] = run["dev"]
            self.hidden[run["code"], run["seed"]] = [nats for _, nats, _ in run["hidden"]]
        full = ~np.isnan(self.dev).any(axis=0)  # a recording that was cut off counts up to its last whole seed
        if full.sum() < FEWEST_SEEDS:
            raise SystemExit(f"{full.sum()} whole seeds are recorded, {FEWEST_SEEDS} are needed: record on")
        self.dev, self.hidden = self.dev[:, full], self.hidden[:, full]
        self.dev -= self.dev.mean(axis=1, keepdims=True)
        self.hidden -= self.hidden.mean(axis=1, keepdims=True)
        grown = math.sqrt(self.dev.shape[1] / (self.dev.shape[1] - 1))  # centring took a share of the variance away
        self.dev, self.hidden = self.dev * grown, self.hidden * grown

    @property
    def sigma(self) -> float:
        return float(np.sqrt((self.dev**2).mean()))

    @property
    def correlation(self) -> float:
        """Mean correlation of two codes over the same seeds."""
        matrix = np.corrcoef(self.dev)
        return float(matrix[np.triu_indices(len(matrix), 1)].mean())

    def groups(self, code: int, seed: int) -> tuple[GroupScore, ...]:
        nats = LEVEL * math.log(2) * np.array(self.sizes) + self.hidden[code, seed]
        return tuple(GroupScore(f"g{n}", float(value), self.sizes[n]) for n, value in enumerate(nats))


def naive(table: Table, random: np.random.Generator, margin: float = 0.0) -> int:
    """Keep what beats the best score so far by `margin` sigmas; a fresh seed each. Returns the false keeps."""
    codes, seeds = table.dev.shape
    best, kept = math.inf, -1
    for _ in range(PROPOSALS + 1):
        score = table.dev[random.integers(codes), random.integers(seeds)]
        if score < best - (margin * table.sigma if kept >= 0 else 0.0):
            best, kept = score, kept + 1
    return kept


def shipped(table: Table, random: np.random.Generator) -> int:
    """Windows, claims and verdicts as the campaign has them. Returns the false certificates."""
    codes, seeds = table.dev.shape
    rung = head = int(random.integers(codes))
    drawn = random.integers(seeds, size=5)
    noise = gate.noise_from_calibration([LEVEL + table.dev[rung, seed] for seed in drawn])
    search_noise = level.WindowNoise(noise.sigma)
    claims = proven = unclear = 0
    for number in range(1, PROPOSALS + 1):
        if number % WINDOW == 1:
            seed = int(random.integers(seeds))
            own = float(table.dev[head, seed])
            window = level.Window.opened(search_noise, head, own)
        candidate = int(random.integers(codes))
        score = float(table.dev[candidate, seed])
        # a code that comes up again repeats its run exactly: it is never an edit of itself
        is_kept = candidate != window.code and window.keeps(score, 1, 1)
        window = level.follow(window, candidate, score, is_kept)
        head, search_noise = window.code, window.noise
        if head == rung or (number % CLAIM_EVERY and number < PROPOSALS):
            continue
        alpha, decision = gate.claim_alpha(DEFAULT_POLICY, 0, claims), Decision.MORE_PAIRS
        pairs: list[gate.PairScore] = []
        for luck in random.permutation(seeds)[: DEFAULT_POLICY.looks[-1]].tolist():  # every pair a seed of its own
            pairs.append(gate.PairScore(table.groups(rung, luck), table.groups(head, luck)))
            more = len(pairs) < min(seeds, DEFAULT_POLICY.looks[-1])
            decision = gate.judge_claim(pairs, noise, DEFAULT_POLICY, alpha, more_allowed=more).decision
            if decision is not Decision.MORE_PAIRS:
                break
        claims, noise = claims + 1, noise.pooled_with(gate.paired_differences(pairs))
        unclear = unclear + 1 if decision is Decision.UNCLEAR else 0
        if decision is Decision.CERTIFY:
            proven, rung = proven + 1, head
        elif decision is Decision.REJECT or not gate.goes_on(DEFAULT_POLICY, unclear):
            head, unclear = rung, 0
    return proven


RULES: dict[str, Callable[[Table, np.random.Generator], int]] = {
    "naive: lower is better": naive,
    "at least 1 sigma better": lambda table, random: naive(table, random, 1.0),
    "at least 2 sigma better": lambda table, random: naive(table, random, 2.0),
    "the shipped gate (certificates)": shipped,
}


def replay(recorded: dict[str, Any], nights: int) -> str:
    """The table of false keeps as Markdown."""
    table = Table(recorded)
    codes, seeds = table.dev.shape
    spread = statistics.fmean(float(np.std(row, ddof=1)) for row in table.dev)
    lines = [
        f"{codes} codes x {seeds} seeds, {recorded['steps']} steps each, {len(table.sizes)} groups in hidden; "
        f"sigma {spread:.4f} bits per byte, correlation of two codes over seeds {table.correlation:.2f}.",
        "",
        "| rule | false keeps per 100 proposals | nights with at least one | 95 % bounds |",
        "|---|---|---|---|",
    ]
    for name, rule in RULES.items():
        kept = [rule(table, random) for random in np.random.default_rng(31).spawn(nights)]
        hit = sum(count > 0 for count in kept)
        low, high = clopper_pearson(hit, nights)
        share = f"{100 * hit / nights:.1f} % | {100 * low:.1f} to {100 * high:.1f} %"
        lines.append(f"| {name} | {statistics.fmean(kept):.2f} | {share} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
