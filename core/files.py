"""Listing and opening a person's files: plain, .gz and .zip, in whatever encoding they came.

The lower half of `core.sources`, which re-exports all that is public here; adapters import it from there.
Everything is read as a stream, nothing is ever unpacked to disk, and what cannot be read becomes one DataError
that names the file, the reason and the next step.
"""

from __future__ import annotations

import codecs
import difflib
import gzip
import io
import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, cast

from .errors import DataError

BOUNDARY = "<|endoftext|>"
"""What stands between documents of many text corpora."""
BLOCK_BYTES = 1 << 16
MAX_LINE_BYTES = 256 << 20
MAX_ZIP_ENTRIES = 10_000
MAX_ZIP_BYTES = 16 << 30
MAX_ZIP_RATIO = 300
SMALL_MEMBER_BYTES = 1 << 20
"""Below this size a high compression ratio is harmless, for example a column of zeros."""

PACKED_SUFFIXES = (".tar", ".tgz", ".bz2", ".tbz", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar", ".lz4", ".lzma")
"""Packed files that are never opened (a.tar.gz is one of them); .gz and .zip are, but not inside a .zip."""
MOST_NAMES = 5
"""Names that one notice lists."""

_READ_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, OSError)

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (codecs.BOM_UTF32_LE, "is UTF-32 text", "Save it as UTF-8."),
    (codecs.BOM_UTF32_BE, "is UTF-32 text", "Save it as UTF-8."),
    (b"\x1f\x8b", "is gzip-compressed although its name does not say so", "Rename it so that it ends in .gz."),
    (b"PK\x05\x06", "is an empty zip archive", "Export it again."),
    (b"PK\x03\x04", "is a zip archive under another name", "Rename it so that it ends in .zip."),
    (b"\xd0\xcf\x11\xe0", "is an old Excel workbook (xls)", "Open it in a spreadsheet and save it as CSV (UTF-8)."),
    (b"PAR1", "is a Parquet file under another name", "Rename it so that it ends in .parquet."),
    (b"%PDF", "is a PDF", "Export its text as .txt or its tables as .csv."),
    (b"\x89PNG", "is a picture (PNG)", "Remove it from the source folder."),
    (b"\xff\xd8\xff", "is a picture (JPEG)", "Remove it from the source folder."),
    (b"SQLite format 3", "is an SQLite database", "Export its table as .csv first."),
    (b"BZh", "is bzip2-compressed", "Unpack it first: bunzip2 FILE."),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "Unpack it, and name the folder as the source."),
    (b"Rar!\x1a\x07", "is a rar archive", "Unpack it, and name the folder as the source."),
    (b"\xfd7zXZ", "is xz-compressed", "Unpack it first: unxz FILE."),
    (b"\x28\xb5\x2f\xfd", "is zstd-compressed", "Unpack it first: unzstd FILE."),
)


class Notices:
    """Counts what was tolerated while reading, so that nothing is repaired in silence."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, where: str, what: str, number: int = 1) -> None:
        """Add `number` occurrences of `what` (a plural, like "ragged rows") in `where` (a file)."""
        self._counts[where, what] += number

    def lines(self) -> list[str]:
        """One sentence per file and kind, in order of first occurrence."""
        return [f"{where}: {what}: {number:,}" for (where, what), number in self._counts.items()]


def named_path(text: str, base: Path) -> Path:
    """The file or folder that a person names as `text` in a file in `base`; ~NAME is a home where somebody has it."""
    path = Path(text)
    with suppress(RuntimeError):
        path = path.expanduser()
    return base / path


def label(path: Path, member: str = "") -> str:
    """How errors name a file, or a member of a zip archive."""
    return f"{path}!{member}" if member else str(path)


def strip_gz(name: str) -> str:
    """The lower-case name without a final .gz."""
    return name.lower().removesuffix(".gz")


def list_files(source: Path, suffixes: Sequence[str], notices: Notices | None = None) -> list[Path]:
    """The readable files of a source in a stable order: sorted by relative path, hidden ones skipped.

    `suffixes` are like ".csv"; "a.csv.gz" matches ".csv" too. A source that is itself a file is returned as it is.
    Archives of other kinds than .zip, broken links, pipes and devices are skipped and counted in `notices`. Raises
    DataError when the source does not exist, or when a file's name is not UTF-8.
    """
    if source.is_file():
        _check_name(source.name)
        return [source]
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder", _nearest_sibling(source))
    endings = tuple(suffix.lower() for suffix in suffixes)
    found: list[Path] = []
    packed: list[str] = []
    for folder, subfolders, names in os.walk(source):
        subfolders[:] = [name for name in subfolders if not name.startswith((".", "__MACOSX"))]
        for name in names:
            if name.startswith("."):
                continue
            if strip_gz(name).endswith(PACKED_SUFFIXES):
                packed.append(Path(folder, name).relative_to(source).as_posix())
            elif strip_gz(name).endswith(endings) or name.lower().endswith(endings):
                found.append(Path(folder, name))
    _tell_packed(source, "packed files that are not read", packed, "unpack them there", notices)
    regular = [path for path in found if _is_regular(path, notices)]
    for path in regular:
        _check_name(str(path.relative_to(source)))
    return sorted(regular, key=lambda path: path.relative_to(source).parts)


def _tell_packed(where: Path, what: str, names: list[str], advice: str, notices: Notices | None) -> None:
    if not names or notices is None:
        return
    told = ", ".join(name[:80] for name in sorted(names)[:MOST_NAMES]) + ", ..." * (len(names) > MOST_NAMES)
    notices.count(str(where), f"{what} ({told}); {advice}", len(names))


def _is_regular(path: Path, notices: Notices | None) -> bool:
    """Whether it is a file with content, also through a link: opening a pipe would wait for ever."""
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return True
        reason = "no ordinary file (a pipe or a device), skipped"
    except OSError:
        reason = "a link that leads nowhere, skipped"
    if notices is not None:
        notices.count(str(path), reason)
    return False


def _check_name(name: str) -> None:
    """Names become ids of documents, so they have to be text. Raises DataError."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"the source holds a file whose name is not UTF-8: {name!r}", "Rename it.") from error


def _nearest_sibling(source: Path) -> str:
    try:
        names = sorted(entry.name for entry in source.absolute().parent.iterdir())
    except OSError:
        return f"The folder {source.parent} does not exist or cannot be read."
    near = difflib.get_close_matches(source.name, names, n=1)
    return f"Did you mean {source.parent / near[0]}?" if near else "Check the path that the recipe's [data] names."


def zip_members(path: Path, suffixes: Sequence[str], notices: Notices | None = None) -> list[str]:
    """Names of the archive's members with one of these suffixes, sorted. Nothing is extracted.

    Raises DataError for archives that are damaged, encrypted, too large, suspiciously compressible, or that hold
    absolute or climbing names. Hidden files are never opened, nor are archives and packed files inside it: these are
    counted in `notices`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (*_READ_ERRORS, NotImplementedError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not a readable zip archive ({error})", "Download or pack it again.") from error
    if len(entries) > MAX_ZIP_ENTRIES:
        raise DataError(f"{path}: has {len(entries)} entries, at most {MAX_ZIP_ENTRIES} are read", "Unpack it.")
    total = sum(entry.file_size for entry in entries)
    if total > MAX_ZIP_BYTES:
        raise DataError(f"{path}: unpacks to {total:,} bytes, at most {MAX_ZIP_BYTES:,} are read", "Unpack it.")
    endings = tuple(suffix.lower() for suffix in suffixes)
    for entry in entries:
        _check_member(path, entry)
    names = [
        entry.filename
        for entry in entries
        if not entry.is_dir()
        and not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(entry.filename).parts)
    ]
    packed = [name for name in names if name.lower().endswith((".zip", ".gz", *PACKED_SUFFIXES))]
    advice = "unpack it, and name the folder as the source"
    _tell_packed(path, "archives and packed files inside it, not read", packed, advice, notices)
    inner = set(packed)
    return sorted(name for name in names if name.lower().endswith(endings) and name not in inner)


def _check_member(path: Path, entry: zipfile.ZipInfo) -> None:
    parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
    if ".." in parts or (parts and (parts[0] == "/" or parts[0].endswith(":"))):
        raise DataError(
            f"{path}: holds a member with an unsafe name, '{entry.filename}'",
            "Pack it again from inside its folder, with relative names.",
        )
    if entry.flag_bits & 1:
        raise DataError(f"{path}: member '{entry.filename}' is encrypted", "Unpack the archive with its password.")
    if entry.file_size > SMALL_MEMBER_BYTES and entry.file_size > MAX_ZIP_RATIO * max(1, entry.compress_size):
        raise DataError(
            f"{path}: member '{entry.filename}' unpacks to more than {MAX_ZIP_RATIO} times its packed size",
            "That looks like a zip bomb. If you trust it, unpack it and name the folder as the source.",
        )


@contextmanager
def open_bytes(path: Path, member: str = "") -> Iterator[IO[bytes]]:
    """A binary stream of a file, of what a .gz holds, or of one member of a .zip. Raises DataError."""
    name = label(path, member)
    try:
        if member:
            with zipfile.ZipFile(path) as archive:
                if member not in archive.namelist():
                    raise DataError(f"{name}: the archive has no such member", f"List them with: unzip -l {path}")
                with archive.open(member) as inner:
                    yield inner
        elif path.name.lower().endswith(".gz"):
            _require_gzip(path)
            with gzip.open(path, "rb") as unpacked:
                yield cast(IO[bytes], unpacked)
        else:
            with path.open("rb") as plain:
                yield plain
    except EOFError as error:
        raise DataError(
            f"{name}: ends too early, the compressed data is cut off", "Download or copy it again."
        ) from error
    except (zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise DataError(f"{name}: the compressed data is damaged ({error})", "Download or copy it again.") from error
    except NotImplementedError as error:  # what zipfile says of Deflate64 and other compressions
        raise DataError(
            f"{name}: is packed in a way that is not read ({error})", "Unpack it and name the folder as the source."
        ) from error
    except OSError as error:
        raise DataError(
            f"{name}: cannot be read ({error.strerror or error})", "Check the path and its rights."
        ) from error


def _require_gzip(path: Path) -> None:
    with path.open("rb") as raw:
        head = raw.read(2)
    if not head:
        raise DataError(f"{path}: the file is empty (0 bytes)", "Download it again or remove it.")
    if head != b"\x1f\x8b":
        raise DataError(f"{path}: is named .gz but is not gzip-compressed", "Rename it without the .gz ending.")


def check_head(name: str, head: bytes) -> None:
    """Raise DataError when the first bytes of a would-be text file show that it is something else."""
    if not head:
        raise DataError(f"{name}: the file is empty (0 bytes)", "Download it again or remove it.")
    if head.startswith(b"PK\x03\x04") and (b"[Content_Types].xml" in head or b"xl/" in head):
        raise DataError(
            f"{name}: is an Excel workbook (xlsx) under another name",
            "Open it in a spreadsheet and save the sheet as CSV (UTF-8).",
        )
    for magic, reason, advice in _MAGIC:
        if head.startswith(magic):
            raise DataError(f"{name}: {reason}", advice)
    if head[257:262] == b"ustar":
        raise DataError(f"{name}: is a tar archive", "Unpack it (tar -xf FILE), and name the folder as the source.")
    if b"\0" in head and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        offset = head.index(b"\0")
        if head[:64].count(b"\0") * 3 > len(head[:64]):
            raise DataError(
                f"{name}: looks like UTF-16 text without a byte order mark (zero byte at offset {offset})",
                "Save it as UTF-8: iconv -f UTF-16LE -t UTF-8 FILE > NEW",
            )
        raise DataError(f"{name}: is binary, not text (zero byte at offset {offset})", "Export it as text (UTF-8).")


def open_text(path: Path, *, member: str = "", notices: Notices | None = None) -> Iterator[str]:
    """The lines of a text file, each with its newline, split at \\n only.

    UTF-8 with or without byte order mark and UTF-16 with one. A line that is not UTF-8 is read as Windows-1252 (or
    Latin-1) and counted in `notices`. Raises DataError with file and byte offset.
    """
    name = label(path, member)
    offset = 0
    with open_bytes(path, member) as stream:
        try:
            head = stream.read(BLOCK_BYTES)
            check_head(name, head)
            if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                yield from _utf16_lines(name, head, stream)
                return
            block = head + _rest_of_line(name, stream, offset)
            while block:
                text = _decode_block(name, block, notices)
                yield from io.StringIO(text.removeprefix("\ufeff") if offset == 0 else text, newline="\n")
                offset += len(block)
                block = stream.read(BLOCK_BYTES)
                if block:
                    block += _rest_of_line(name, stream, offset)
        except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
            raise DataError(
                f"{name}: the compressed data is cut off or damaged after byte {offset:,} of its text ({error})",
                "Download or copy it again.",
            ) from error


def marked_pieces(lines: Iterable[str]) -> Iterator[tuple[int, str, bool]]:
    """(line number from 1, text, whether a document ends here): lines, cut at `BOUNDARY`, which is left out.

    What follows the last mark of a line, or a line without one, ends nothing. Lines end in \\n, also those that end in
    \\r\\n in the file.
    """
    for number, line in enumerate(lines, start=1):
        plain = line[:-2] + "\n" if line.endswith("\r\n") else line
        *ended, rest = plain.split(BOUNDARY)
        for piece in ended:
            yield number, piece, True
        yield number, rest, False


def _rest_of_line(name: str, stream: IO[bytes], offset: int) -> bytes:
    rest = stream.readline(MAX_LINE_BYTES)
    if len(rest) == MAX_LINE_BYTES and not rest.endswith(b"\n"):
        raise _line_too_long(name, offset)
    return rest


def _line_too_long(name: str, offset: int) -> DataError:
    return DataError(
        f"{name}: a line at byte {offset:,} is longer than {MAX_LINE_BYTES:,} bytes",
        "Break the text into lines, one paragraph each.",
    )


def _decode_block(name: str, block: bytes, notices: Notices | None) -> str:
    try:
        return block.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(_decode_line(name, line, notices) for line in io.BytesIO(block))


def _decode_line(name: str, line: bytes, notices: Notices | None) -> str:
    """UTF-8, else Windows-1252: line by line, because one folder and even one file mix both."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        if notices is not None:
            notices.count(name, "lines that are not UTF-8, read as Windows-1252")
    try:
        return line.decode("cp1252")
    except UnicodeDecodeError:  # five byte values are undefined there
        return line.decode("latin-1")


def _utf16_lines(name: str, head: bytes, stream: IO[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-16")()
    offset, began, block = 0, 0, head
    pending: list[str] = []
    try:
        while block:
            text = decoder.decode(block)
            offset += len(block)
            cut = text.rfind("\n") + 1
            if cut:
                yield from io.StringIO("".join([*pending, text[:cut]]), newline="\n")
                pending, began = [], offset
            pending.append(text[cut:])
            if offset - began > MAX_LINE_BYTES:
                raise _line_too_long(name, began)
            block = stream.read(BLOCK_BYTES)
        pending.append(decoder.decode(b"", final=True))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: is not valid UTF-16 near byte {offset:,} ({error.reason})", "Save it again as UTF-8."
        ) from error
    if rest := "".join(pending):
        yield rest
