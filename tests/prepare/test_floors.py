"""The n-grams and compressors that a model has to beat. Those that fork are asked in a process of their own."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from toys import log_documents

from slm_ar.core.prepare import floors, ngram
from slm_ar.core.prepare.heldout import HeldDocument, read_split
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.prepare.tokenizer import BOS, cut_at_spans, encode_texts, load_tokenizer

ASK = """
import json, sys
from slm_ar.core.prepare.floors import ppmd_bits_per_byte, xz_bits_per_byte
for train, documents in json.load(sys.stdin):
    raw = [document.encode() for document in documents]
    print(ppmd_bits_per_byte(train.encode(), raw, 6), xz_bits_per_byte(train.encode(), raw))
"""


Held = Callable[[str], list[HeldDocument]]


@pytest.fixture
def held_of_tiny(tiny_data: PreparedData) -> Held:
    return lambda split: list(read_split(tiny_data.held_folder, split))


def bytes_floor(train: list[HeldDocument]) -> Callable[[Sequence[HeldDocument]], float]:
    return partial(floors.byte_ngram_bits_per_byte, [held.document.text.encode() for held in train])


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
    assert set(tiny_data.manifest.floors) == {"ppmd-6", "ppmd-12", "ngram (tokens)", "ngram (bytes)", "xz (adaptive)"}
    assert all(0.5 < value < 5 for value in tiny_data.manifest.floors.values())
    assert not list(tiny_data.folder.glob("train.tail"))


def test_the_ngrams_are_static_floors_in_bits_per_raw_byte(tiny_data: PreparedData, held_of_tiny: Held) -> None:
    dev = held_of_tiny("dev")
    for measure in (partial(floors.token_ngram_bits_per_byte, tiny_data.folder), bytes_floor(held_of_tiny("mix"))):
        whole = measure(dev)
        sizes = [len(held.document.text.encode()) for held in dev]
        apart = sum(measure([held]) * size for held, size in zip(dev, sizes, strict=True)) / sum(sizes)
        assert whole == pytest.approx(apart, rel=1e-9) == pytest.approx(measure(dev[::-1]), rel=1e-9)
        assert 0.3 < whole < 4


def test_the_floor_of_tokens_is_that_of_the_model_over_the_texts_own_bytes(
    tiny_data: PreparedData, held_of_tiny: Held
) -> None:
    dev, tokenizer = held_of_tiny("dev"), load_tokenizer(tiny_data.folder / "tokenizer.json")
    size = tiny_data.manifest.vocab_size
    model = ngram.of_shards(tiny_data.folder, tiny_data.manifest.token_dtype, size)
    bits = 0.0
    for held in dev:
        (ids,) = encode_texts(tokenizer, [cut_at_spans(held.document.text, held.document.spans)])
        rows = model.probabilities(model.contexts_after([[BOS, *ids[:place]] for place in range(len(ids))]))
        bits -= np.log2(rows[np.arange(len(ids)), ids].astype(float)).sum()
    expected = bits / sum(len(held.document.text.encode()) for held in dev)
    assert floors.token_ngram_bits_per_byte(tiny_data.folder, dev) == pytest.approx(expected, rel=1e-4)
    assert tiny_data.manifest.floors["ngram (tokens)"] == pytest.approx(expected, abs=1e-4)


def test_a_floor_that_cannot_be_measured_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("", encoding="utf-8")
    assert floors.measure_floors(tmp_path / "train", tmp_path / "missing.jsonl") == {}


def test_a_command_that_is_told_to_end_does_not_wait_for_its_floors(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/$$.pid\nexec sleep 600\n", encoding="utf-8")
    slow.chmod(0o755)
    code = (
        "from pathlib import Path; from types import SimpleNamespace; from slm_ar.core.prepare import floors\n"
        f"floors.sys = SimpleNamespace(executable={str(slow)!r}); floors.usable_cores = lambda: {{0, 1}}\n"
        "floors.measure_floors(Path('train'), Path('dev'))"
    )
    command = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while len([file for file in tmp_path.glob("*.pid") if file.read_text()]) < 2:
        assert command.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)  # both are noted by then
    command.send_signal(signal.SIGINT)
    _, error = command.communicate(timeout=60)
    assert error.rstrip().endswith("KeyboardInterrupt")
    started = [int(file.stem) for file in tmp_path.glob("*.pid")]
    assert len(started) == 2 and not any(map(psutil.pid_exists, started))
