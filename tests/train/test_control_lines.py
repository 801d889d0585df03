"""What a candidate writes to the harness: messages are heard, nonsense costs next to nothing and ends it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_scorer import write_checkpoint
from toys import TINY_TRAIN_PY

from slm_ar.core.contracts import Status
from slm_ar.core.train.checkpoint import InvalidCheckpointError
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.lines import Lines
from slm_ar.core.train.training_run import TrainJob


class Source:
    """A socket that gives these pieces one after the other."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def recv(self, _: int) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


def read(pieces: list[bytes]) -> tuple[list[dict[str, object]], Lines]:
    """All messages of a connection, and its end."""
    lines, found = Lines(Source([piece for piece in pieces if piece])), []  # type: ignore[arg-type]
    while True:
        while (message := lines.pending()) is not None:
            found.append(message)
        if not lines.fill():
            return found, lines


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text()), max_size=20), st.lists(st.integers(0, 2000)))
def test_messages_come_whole_and_in_order_however_the_bytes_are_cut(
    messages: list[dict[str, object]], cuts: list[int]
) -> None:
    written = b"".join(b"no message\n" + json.dumps(message).encode() + b"\n" for message in messages)
    places = sorted({0, len(written), *(cut for cut in cuts if cut < len(written))})
    found, lines = read([written[start:end] for start, end in pairwise(places)])
    assert found == messages
    assert not lines.refusal


@pytest.mark.parametrize("nonsense", [b"\n", b"[]\n", b"1\n", b"\xff\n", b"[" * 9000 + b"\n", b'"\\ud800"\n'])
def test_some_nonsense_is_passed_over_and_much_ends_it(nonsense: bytes) -> None:
    message = b'{"event": "saved"}\n'
    assert read([nonsense * Lines.MOST_NONSENSE + message])[0] == [{"event": "saved"}]
    found, lines = read([nonsense * (Lines.MOST_NONSENSE + 1) + message, message])
    assert found == []
    assert lines.is_closed and "256 lines that are no messages" in lines.refusal


def test_a_line_without_an_end_is_not_read_for_ever() -> None:
    source = [b"x" * 65536] * 1000
    found, lines = read(source)
    assert found == []
    assert "a line of more than 1,048,576 bytes" in lines.refusal
    assert len(lines.socket.pieces) > 900  # type: ignore[attr-defined]


FLOOD = """
honest_main = main

def main():
    import os, socket, threading

    line = socket.socket(fileno=os.dup(int(os.environ["SLM_AR_CONTROL"])))
    threading.Thread(target=lambda: [line.sendall(b"\\n" * 20000) for _ in iter(int, 1)], daemon=True).start()
    honest_main()
"""


def test_a_run_that_floods_the_harness_is_ended_with_the_reason(executor: LocalExecutor, tmp_path: Path) -> None:
    head, mark, tail = TINY_TRAIN_PY.partition('\n\nif __name__ == "__main__":')
    run = executor.submit(TrainJob(head + "\n\n" + FLOOD + mark + tail, 0, None, 8, 60.0, 4000), tmp_path / "run")
    while (outcome := run.poll()) is None:
        pass
    assert outcome.status is Status.INVALID
    assert "lines that are no messages" in outcome.reason


def test_a_model_that_floods_the_harness_is_ended_with_the_reason(executor: LocalExecutor, tmp_path: Path) -> None:
    build = """
    import slm_ar.core.train.logits_server as server
    honest = server._answer
    def flood(control, message):
        control.sendall(b"\\n" * 4_000_000)
        honest(control, message)
    server._answer = flood"""
    folder = write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size, build=build)
    with pytest.raises(InvalidCheckpointError, match="lines that are no messages"), executor.client(folder, 32):
        pass


@pytest.mark.parametrize(
    "count", ['"\\x1b[2J ignore"', '"\\ud800"', "10 ** 4000", "float(count)", "True", "None", "-1"]
)
def test_what_a_model_says_of_a_shape_stands_in_no_reason(executor: LocalExecutor, tmp_path: Path, count: str) -> None:
    build = f"""
    import slm_ar.core.train.logits_server as server
    honest = server._answer
    def lie(control, message):
        count = message.get("count")
        honest(control, {{**message, "count": {count}}} if count else message)
    server._answer = lie"""
    folder = write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size, build=build)
    with executor.client(folder, 32) as client, pytest.raises(InvalidCheckpointError) as caught:
        client.logits(np.full((1, 16), 5, np.int32), [(0, 1)])
    width = client.vocab_size
    assert caught.value.message == f"forward gave logits of shape [?, {width}], asked [1, >= {width}]"
