"""A checkpoint before it is loaded: what is no safetensors file, holds more than tensors or is too large is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from slm_ar.core.contracts import Status
from slm_ar.core.train import checkpoint
from slm_ar.core.train.checkpoint import inspect_checkpoint


def safetensors(header: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234",
        safetensors(b"{}", 1 << 40),
        safetensors(b"not json"),
        safetensors(b"[1, 2]"),
        safetensors(b'"text"'),
        safetensors(b'{"w": 3}'),
        safetensors(b'{"w": {"dtype": "F32"}}'),
        safetensors(b'{"w": {"shape": 5}}'),
        safetensors(b'{"w": {"shape": ["many"]}}'),
        safetensors(b'{"w": {"shape": [null]}}'),
        safetensors(b"[" * 100_000),
        safetensors(b"\xff\xfe"),
    ],
)
def test_a_malformed_checkpoint_is_invalid_and_never_an_exception(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    status, reason, parameters = inspect_checkpoint(tmp_path)
    assert status is Status.INVALID
    assert reason
    assert parameters == 0


@pytest.mark.parametrize("name", ["\ud800", "\x1b[2J", "\u202e", "a\nb"])
@pytest.mark.parametrize("tensor", [{"shape": 5, "data_offsets": [0, 1]}, {"shape": [], "dtype": "\udfff\x07"}, {}])
def test_a_reason_holds_nothing_unprintable_of_the_checkpoint(
    tmp_path: Path, name: str, tensor: dict[str, Any]
) -> None:
    header = json.dumps({name: {"data_offsets": [0, 1], **tensor}}).encode()
    (tmp_path / "model.safetensors").write_bytes(safetensors(header))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert inspect_checkpoint(tmp_path)[1].isprintable()


@pytest.mark.parametrize("config", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_malformed_config_is_invalid(tmp_path: Path, config: bytes) -> None:
    with_tensors(tmp_path, w=floats([2, 3], 0, 24))
    (tmp_path / "config.json").write_bytes(config)
    assert inspect_checkpoint(tmp_path)[0] is Status.INVALID


def test_parameters_are_counted_from_the_header(tmp_path: Path) -> None:
    with_tensors(tmp_path, w=floats([2, 3], 0, 24), b=floats([], 24, 28))
    assert inspect_checkpoint(tmp_path) == (None, "", 7)


def test_a_pipe_in_place_of_the_checkpoint_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert inspect_checkpoint(tmp_path)[0] is Status.INVALID


def with_tensors(folder: Path, extra: bytes = b"", **tensors: dict[str, Any]) -> Path:
    size = max([0, *(tensor["data_offsets"][1] for tensor in tensors.values())])
    (folder / "model.safetensors").write_bytes(safetensors(json.dumps(tensors).encode()) + bytes(size) + extra)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


def floats(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_what_safetensors_writes_is_accepted(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(5, dtype=torch.bfloat16), "none": torch.zeros(0, 4)}
    save_file(tensors, str(tmp_path / "model.safetensors"), {"format": "pt"})
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert inspect_checkpoint(tmp_path) == (None, "", 11)


@pytest.mark.parametrize(
    ("tensors", "extra", "reason"),
    [
        ({"w": floats([2, 3], 0, 24)}, b"a payload", "take 24 bytes, the file holds 33"),
        ({"w": floats([2, 3], 0, 24), "v": floats([2], 30, 38)}, b"", "leave gaps"),
        ({"w": floats([2, 3], 0, 24), "v": floats([2, 3], 0, 24)}, b"", "overlap"),
        ({"w": floats([2, 3], 0, 20)}, b"", "another size than its shape"),
        ({"w": floats([2, 3], 24, 0)}, b"", "another size than its shape"),
        ({"w": floats([2, 3], 0, 24, "PICKLE")}, b"", "unknown type 'PICKLE'"),
    ],
)
def test_tensors_fill_the_file_exactly(tmp_path: Path, tensors: dict[str, Any], extra: bytes, reason: str) -> None:
    status, told, _ = inspect_checkpoint(with_tensors(tmp_path, extra, **tensors))
    assert status is Status.INVALID
    assert reason in told


@pytest.mark.parametrize("extent", [1, (1 << 40) - 1])
def test_many_dimensions_are_refused_before_they_are_multiplied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extent: int
) -> None:
    def multiplied(shape: list[int]) -> int:
        raise AssertionError(len(shape))

    with_tensors(tmp_path, w=floats([extent] * (checkpoint.MOST_DIMENSIONS + 1), 0, 4))
    monkeypatch.setattr(checkpoint.math, "prod", multiplied)
    assert "no valid shape" in inspect_checkpoint(tmp_path)[1]


def test_a_header_has_a_cap_however_large_the_file(tmp_path: Path) -> None:
    header = b'{"w": {"dtype": "F32", "shape": [' + b"9," * (checkpoint.LARGEST_HEADER_BYTES // 2) + b"9]}}"
    (tmp_path / "model.safetensors").write_bytes(safetensors(header))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert "damaged header" in inspect_checkpoint(tmp_path)[1]


def test_a_tensor_of_sixteen_dimensions_is_accepted(tmp_path: Path) -> None:
    assert inspect_checkpoint(with_tensors(tmp_path, w=floats([1] * 16, 0, 4))) == (None, "", 1)


def test_a_header_is_no_place_for_weights(tmp_path: Path) -> None:
    header = {"__metadata__": {"weights": "0" * checkpoint.MOST_METADATA_BYTES}}
    (tmp_path / "model.safetensors").write_bytes(safetensors(json.dumps(header).encode()))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert "more than tensors" in inspect_checkpoint(tmp_path)[1]


def test_a_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    status, told, _ = inspect_checkpoint(tmp_path)
    assert status is Status.INVALID
    assert "safetensors" in told


def test_parameters_have_a_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tensors(tmp_path, w=floats([10, 10], 0, 100, "I8"))
    assert inspect_checkpoint(tmp_path) == (None, "", 100)
    monkeypatch.setattr(checkpoint, "MOST_PARAMETERS", 99)
    assert inspect_checkpoint(tmp_path) == (Status.INVALID, "the model has 100 parameters, at most 99 are allowed", 0)


def test_bytes_have_a_cap(tmp_path: Path) -> None:
    with_tensors(tmp_path)
    with (tmp_path / "model.safetensors").open("ab") as file:
        file.truncate(checkpoint.LARGEST_CHECKPOINT_BYTES + 1)  # sparse: it takes no room
    assert inspect_checkpoint(tmp_path)[0] is Status.QUOTA
