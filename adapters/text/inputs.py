"""Which files of a source the text adapter reads, and as what; what is left out is counted."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...core.errors import DataError
from ...core.sources import JSON_SUFFIXES, TABLE_SUFFIXES, Notices, label, list_files, strip_gz, zip_members
from .settings import Settings

PROSE_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst", ".log")
_CODE = """
asm bash c cc clj cpp cs css cu cxx dart el erl ex exs f90 go groovy h hh hpp hs java jl js jsx kt kts lisp lua mjs ml
nim php pl pm proto ps1 py pyi r rb rs scala scss sh sql swift ts tsx vb vue zig zsh
"""
CODE_SUFFIXES = tuple(f".{ending}" for ending in _CODE.split())
PLAIN_SUFFIXES = (".txt", ".text", ".log")
"""Text that is never written in HTML: a web page under such a name is a failed download."""
PASSED_FOLDERS = frozenset({"node_modules", "__pycache__", "site-packages", "venv"})
"""Other people's code, copied into a project."""
WEB_PAGE = ("<!doctype html", "<html", "<head", "<body")


@dataclass(frozen=True, slots=True)
class Input:
    """One file, or one member of a zip archive."""

    name: str
    """For ids: the path inside the source."""
    path: Path
    member: str
    alone: bool
    """Whether it is the whole source, so that nothing about it can be passed over."""

    @property
    def label(self) -> str:
        return label(self.path, self.member)

    @property
    def plain_name(self) -> str:
        return strip_gz(self.name)

    @property
    def is_table(self) -> bool:
        return self.plain_name.endswith(TABLE_SUFFIXES)

    @property
    def is_code(self) -> bool:
        return self.plain_name.endswith(CODE_SUFFIXES)

    @property
    def may_be_settings(self) -> bool:
        """A .json in a folder may be a program's settings instead of data."""
        return not self.alone and self.plain_name.endswith(JSON_SUFFIXES[-1])


def known_suffixes(settings: Settings) -> tuple[str, ...]:
    """Endings of what is read."""
    return settings.suffixes or (*PROSE_SUFFIXES, *TABLE_SUFFIXES, *CODE_SUFFIXES)


def find_inputs(source: Path, settings: Settings, notices: Notices) -> Iterator[Input]:
    """Everything readable, in order of path. Empty files of a folder or archive are counted and left out."""
    suffixes = known_suffixes(settings)
    for path in list_files(source, ("",), notices):
        name = path.name if path == source else path.relative_to(source).as_posix()
        if path.suffix.lower() == ".zip":
            yield from _zip_inputs(path, name, suffixes, notices)
        elif path == source:
            yield Input(name, path, "", alone=True)
        elif _wanted(str(source), name, suffixes, notices):
            if path.stat().st_size:
                yield Input(name, path, "", alone=False)
            else:
                notices.count(str(path), "empty files, skipped")


def _zip_inputs(path: Path, name: str, suffixes: tuple[str, ...], notices: Notices) -> Iterator[Input]:
    members = zip_members(path, ("",), notices)
    with zipfile.ZipFile(path) as archive:
        empty = {entry.filename for entry in archive.infolist() if not entry.file_size}
    for member in members:
        if _wanted(str(path), member, suffixes, notices):
            if member in empty:
                notices.count(label(path, member), "empty files, skipped")
            else:
                yield Input(f"{name}/{member}", path, member, alone=False)


def _wanted(where: str, name: str, suffixes: tuple[str, ...], notices: Notices) -> bool:
    passed = PASSED_FOLDERS.intersection(PurePosixPath(name).parts[:-1])
    if passed:
        notices.count(where, f"files in {min(passed)} folders, not read")
        return False
    if strip_gz(name).endswith(suffixes):
        return True
    ending = PurePosixPath(strip_gz(name)).suffix
    notices.count(where, f"files ending in {ending}, not read" if ending else "files without an ending, not read")
    return False


def refuse_web_page(file: Input, lines: list[str]) -> None:
    """Raise DataError when a plain text file is a web page."""
    lead = next((line for line in lines if line.strip()), "").lstrip("\ufeff \t").lower()
    if lead.startswith(WEB_PAGE) and (file.alone or file.plain_name.endswith(PLAIN_SUFFIXES)):
        raise DataError(
            f"{file.label}: is a web page (HTML) saved under the name of a text file",
            "The download probably answered with an error or a login page: open it in a browser, download it again.",
        )
