"""The compressors that a model has to beat. They fork, so each test asks a process of its own."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from toys import log_documents

from slm_ar.core.prepare import floors
from slm_ar.core.prepare.pipeline import PreparedData

ASK = """
import json, sys
from slm_ar.core.prepare.floors import ppmd_bits_per_byte, xz_bits_per_byte
for train, documents in json.load(sys.stdin):
    raw = [document.encode() for document in documents]
    print(ppmd_bits_per_byte(train.encode(), raw, 6), xz_bits_per_byte(train.encode(), raw))
"""


def measured(*questions: tuple[str, list[str]]) -> list[tuple[float, float]]:
    """(PPMd, xz) for each (train, documents)."""
    answer = subprocess.run(
        [sys.executable, "-c", ASK], input=json.dumps(questions), capture_output=True, text=True, check=True, timeout=60
    )
    return [(float(line.split()[0]), float(line.split()[1])) for line in answer.stdout.splitlines()]


def test_floors_know_repetition_from_noise_and_never_carry_a_document_over() -> None:
    days = [document.text for document in log_documents(40)]
    train, fresh = "".join(days[:30]), days[30:]
    noise = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz012345", k=8000))
    repeated, seen, new, random_text, forward, backward, once, thrice = measured(
        (noise, [noise]),
        (train, days[:5]),
        (train, fresh),
        (train, [noise]),
        (train, fresh),
        (train, fresh[::-1]),
        (train, [noise]),
        (train, [noise, noise, noise]),
    )
    assert seen[0] < new[0] < 1 < random_text[0]
    assert seen[1] < new[1] < random_text[1]
    # Noise costs its five bits a letter, and next to nothing when it has been read before.
    assert 4.9 < random_text[0] < 7
    assert repeated[0] < 1
    # What one document taught must not help the next: neither their order nor a repetition changes PPMd's answer.
    assert forward[0] == backward[0]
    assert once[0] == pytest.approx(thrice[0], rel=1e-9)
    # xz reads them as one stream, which is why it is called adaptive.
    assert thrice[1] < 0.5 * once[1]


def test_prepare_writes_every_floor_into_the_manifest(tiny_data: PreparedData) -> None:
    assert set(tiny_data.manifest.floors) == {"ppmd-6", "ppmd-12", "xz (adaptive)"}
    assert all(0.5 < value < 5 for value in tiny_data.manifest.floors.values())
    assert not list(tiny_data.folder.glob("train.tail"))


def test_a_floor_that_cannot_be_measured_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "train").write_bytes(b"x" * 100)
    assert floors.measure_floors(tmp_path / "train", tmp_path / "missing.jsonl") == {}
