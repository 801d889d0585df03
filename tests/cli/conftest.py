"""Commands run in the test's own process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands_in_process import Command, Ended

from slm_ar.core.cli.main import main


@pytest.fixture
def slm_ar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs one command in this process, in a folder of its own, and refuses tracebacks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["slm-ar"])

    def call(*arguments: str, folder: Path | None = None) -> Ended:
        if folder is not None:
            monkeypatch.chdir(folder)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        captured = capsys.readouterr()
        code = end.value.code
        ended = Ended(code if isinstance(code, int) else 0, captured.out, captured.err)
        assert "Traceback" not in ended.text
        return ended

    return call
