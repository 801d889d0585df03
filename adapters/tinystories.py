"""The TinyStories adapter: one story is one document, and the last word of a story is the question.

Reads the layouts that the set is passed around in: text with `<|endoftext|>` after each story, text without it, and
tables (parquet, jsonl, csv) with a text column. `slm-ar` fetches hub sets into such a table first.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from random import Random

from ..core.contracts import Document, DuplicatePolicy, SourceOptions, Span, SplitRule, Task
from ..core.errors import DataError, did_you_mean
from ..core.sources import (
    BOUNDARY,
    TABLE_SUFFIXES,
    Notices,
    label,
    list_files,
    marked_pieces,
    open_text,
    read_table,
    strip_gz,
    zip_members,
)

TASK = "last_word"
ENDS = ("auto", "mark", "newline", "blank", "file")
OPTIONS = {
    "column": 'Column of a table that holds the story; default "text", else "story", else the only one.',
    "story_end": 'What ends a story in a text file: "mark" (<|endoftext|>), "newline" (a single one; blank lines part '
    'paragraphs), "blank" (a blank line) or "file"; default "auto". The mark always ends one.',
}
COLUMNS = ("text", "story", "content")
TEXT_SUFFIXES = (".txt", ".text")
PEEKED_CHARACTERS = 1 << 20
MAX_STORY_CHARACTERS = 4 << 20

# A word may hold apostrophes and hyphens; nothing but punctuation may follow the last one.
_LAST_WORD = re.compile(r"(?<![^\W_])[^\W\d_]+(?:['’-][^\W\d_]+)*(?=[\W_]*\Z)")
_FIRST_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_OPENING = re.compile(r"\W?(once|one (?:day|morning|night|summer)|there (?:was|lived)|in a|long ago)\b", re.IGNORECASE)
# UTF-8 that was read as Windows-1252 and saved again: curly quotes, accents, emoji, non-breaking blanks, a BOM.
_MOJIBAKE = re.compile("[âÂ][€\u0080-\u00bf]|[Ãã][\u0080-\u00bf]|ðŸ|ï»¿|\ufffd")
_ANY_WORD = re.compile(r"\w+")
_NO_WORDS = bytes(code for code in range(128) if not chr(code).isalnum() and not chr(code).isspace())
LONGEST_ENDING = 80
"""Characters in which the last word and the punctuation after it are looked for."""


@dataclass(frozen=True, slots=True)
class _Settings:
    column: str | None
    story_end: str


class TinyStoriesAdapter:
    """Stories, each a document with one question: its last word. See `describe`."""

    name = "tinystories"
    version = 2
    split = SplitRule.GROUP
    duplicates = DuplicatePolicy.NEAR
    tasks: tuple[Task, ...] = (Task(TASK, kind="generate", metric="exact_match", direction="max", min_effect=0.01),)
    slice_keys: tuple[str, ...] = ("length",)
    options: Mapping[str, str] = OPTIONS

    def __init__(self) -> None:
        self.record_count = 0
        """Stories yielded so far by the last call of `documents`."""
        self._counts = Notices()
        self._left_out: list[tuple[str, tuple[str, ...]]] = []
        """Name and columns of the tables of a folder that hold no stories by their names."""

    @property
    def notices(self) -> list[str]:
        """What the last call of `documents` skipped or tolerated; complete when it is exhausted."""
        return self._counts.lines()

    def documents(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        """One document per story, in order of file and line (tables: row). Raises DataError."""
        for identity, where, story in self._stories(source, options):
            text = story.strip() + "\n"
            if not text.isascii() and _MOJIBAKE.search(text):
                self._counts.count(where, "stories with mojibake such as â€™ for ’, left as they are")
            yield Document(identity, text, story_key(text), spans=last_word(text))

    def questions(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        """One question per story or line: what stands there is the beginning, and its next word is asked for."""
        for identity, _, story in self._stories(source, options):
            text = story.strip()
            end = len(text.encode())
            yield Document(identity, text, identity, spans=(Span(end, end, TASK),))

    def rate(self, task: str, prompt: str, gold: str, answer: str) -> Mapping[str, float]:
        """`first_word`: 1 when the answer begins with the gold word, whatever case and punctuation; else 0."""
        return {"first_word": float(_first_word(answer) == _first_word(gold) != "")}

    def slices(self, document: Document) -> Mapping[str, str]:
        """The length of the story in characters, in three steps."""
        size = len(document.text)
        return {"length": "under 600" if size < 600 else "600 to 1000" if size < 1000 else "over 1000"}

    def describe(self) -> str:
        """Plain words for program.md."""
        return (
            "Short stories for children in simple English. A document is one story: paragraphs with a blank line "
            "between them, and a newline at the end.\n"
            "The question is the last word of each story, all that stands before it being the prompt; bits per byte "
            "count on the whole text. A story names its people and things early and comes back to them at the end, "
            "so what counts is to keep names, things and who did what over 150 to 250 words."
        )

    def sample(self, seed: int, size: int) -> Iterator[Document]:
        """About `size` bytes of made-up stories whose last word follows from their beginning."""
        random = Random(f"tinystories {seed}")
        total, number = 0, 0
        while total < size:
            number += 1
            text = _made_up_story(random)
            total += len(text.encode())
            yield Document(f"sample.txt:{number}", text, story_key(text), spans=last_word(text))

    # --- files ----------------------------------------------------------------------------------

    def _stories(self, source: Path, options: SourceOptions) -> Iterator[tuple[str, str, str]]:
        """(id, label of the file, story) of every story that holds text."""
        self.record_count, self._counts, self._left_out = 0, Notices(), []
        settings = _settings(options)
        for name, path, member in self._inputs(source):
            where = label(path, member)
            if strip_gz(name).endswith(TABLE_SUFFIXES):
                found = self._table_stories(path, member, settings, alone=path == source and not member)
            else:
                found = self._text_stories(path, member, settings)
            repeated, previous = 0, 0
            for number, story in found:
                if not story.strip():
                    continue
                repeated = repeated + 1 if number == previous else 1
                previous = number
                self.record_count += 1
                yield f"{name}:{number}" + (f".{repeated}" if repeated > 1 else ""), where, story
        if not self.record_count and self._left_out:
            raise _which_column(*self._left_out[0])
        if not self.record_count:
            endings = " ".join((*TEXT_SUFFIXES, *TABLE_SUFFIXES, ".zip"))
            raise DataError(f"{source}: holds no story", f"Read are files ending in {endings} (and .gz of these).")

    def _inputs(self, source: Path) -> Iterator[tuple[str, Path, str]]:
        """(name for ids, file, member of the zip) of everything readable."""
        suffixes = (*TEXT_SUFFIXES, *TABLE_SUFFIXES)
        for path in list_files(source, (*suffixes, ".zip"), self._counts):
            name = path.name if path == source else path.relative_to(source).as_posix()
            if path.suffix.lower() == ".zip":
                for member in zip_members(path, suffixes, self._counts):
                    yield f"{name}/{member}", path, member
            elif path != source and path.stat().st_size == 0:
                self._counts.count(str(path), "empty files, skipped")
            else:
                yield name, path, ""

    def _table_stories(self, path: Path, member: str, settings: _Settings, alone: bool) -> Iterator[tuple[int, str]]:
        table = read_table(path, member=member, notices=self._counts)
        column = _story_column(table.name, table.columns, settings.column)
        if column is None:
            if alone:
                raise _which_column(table.name, table.columns)
            self._left_out.append((table.name, table.columns))
            self._counts.count(table.name, f"tables without a column called {', '.join(COLUMNS)}, not read")
            return
        for number, row in enumerate(table, start=1):
            story = row.get(column, "").replace("\r\n", "\n")
            if not story.strip():
                self._counts.count(table.name, f"rows without a story in '{column}', skipped")
            for piece in story.split(BOUNDARY):
                yield number, piece

    def _text_stories(self, path: Path, member: str, settings: _Settings) -> Iterator[tuple[int, str]]:
        lines = open_text(path, member=member, notices=self._counts)
        peeked = _peek(lines)
        name = label(path, member)
        lead = next((line for line in peeked if line.strip()), "")
        if lead.lstrip().lower().startswith(("<!doctype", "<html", "<head", "<body")):
            raise DataError(
                f"{name}: is a web page (HTML) saved under the name of a text file",
                "The download probably answered with an error page: open it in a browser, then download again.",
            )
        story_end = settings.story_end
        if story_end == "auto":
            story_end = _natural_end(peeked)
            if story_end != "mark":
                self._counts.count(name, _ENDING_NOTICES[story_end])
        return _cut(name, chain(peeked, lines), story_end)


_ENDING_NOTICES = {
    "newline": "files without <|endoftext|>, where a single newline was read as the end of a story",
    "blank": "files without <|endoftext|>, where a blank line was read as the end of a story",
}


# --- one story ----------------------------------------------------------------------------------


def last_word(text: str) -> tuple[Span, ...]:
    """The span of the last word, with the blank before it, which belongs to its token; () without such a word.

    All that follows it is punctuation. A story of one word gives none: nothing would stand before it.
    """
    match = _LAST_WORD.search(text, max(0, len(text) - LONGEST_ENDING))
    if match is None or not text[: match.start()].strip():
        return ()
    start = match.start() - (text[match.start() - 1] == " ")
    before = len(text[:start].encode())
    return (Span(before, before + len(text[start : match.end()].encode()), TASK),)


def story_key(text: str) -> str:
    """The group of a story: equal for stories that differ in case, punctuation, blanks or mojibake only."""
    words = b" ".join(text.lower().encode("ascii", "ignore").translate(None, _NO_WORDS).split())
    if not text.isascii() and len(text.encode("ascii", "ignore")) * 2 < len(text):
        # Another script, where what is left of ASCII are the blanks and a few names.
        words = " ".join(_ANY_WORD.findall(text.casefold())).encode()
    return hashlib.blake2b(words or text.encode(), digest_size=8).hexdigest()


def _first_word(text: str) -> str:
    match = _FIRST_WORD.search(text)
    return match[0].casefold() if match else ""


# --- options and columns ------------------------------------------------------------------------


def _settings(options: SourceOptions) -> _Settings:
    given = options.options
    for name in given:
        if name not in OPTIONS:
            raise DataError(
                f"the tinystories adapter has no option '{name}' in [data.options]", did_you_mean(name, list(OPTIONS))
            )
    for name in options.columns:
        if name != "text":
            raise DataError(f"[data.columns] has no field '{name}'", "The only field of a story is 'text'.")
    if options.since is not None or options.until is not None:
        raise DataError("since and until need dated documents, stories have no date", "Remove them from [data].")
    story_end = given.get("story_end", "auto")
    if story_end not in ENDS:
        raise DataError(
            f"[data.options] story_end = '{story_end}' is unknown", did_you_mean(str(story_end), list(ENDS))
        )
    column = given.get("column", options.columns.get("text"))
    if column is not None and not isinstance(column, str):
        raise DataError(f"[data.options] column = {column!r} must be a column's name", 'Write column = "NAME".')
    return _Settings(column, str(story_end))


def _story_column(name: str, columns: tuple[str, ...], wanted: str | None) -> str | None:
    """The column with the stories; None when it cannot be told. Raises DataError when the wanted one is missing."""
    if wanted is not None:
        if wanted not in columns:
            raise DataError(f"{name}: has no column '{wanted}'", did_you_mean(wanted, list(columns)))
        return wanted
    by_name = {column.lower(): column for column in reversed(columns)}
    return next((by_name[known] for known in COLUMNS if known in by_name), columns[0] if len(columns) == 1 else None)


def _which_column(name: str, columns: tuple[str, ...]) -> DataError:
    return DataError(
        f"{name}: which column holds the story? It has: {', '.join(columns)}",
        'Say so in recipe.toml: [data.options] column = "NAME"',
    )


# --- cutting text -------------------------------------------------------------------------------


def _peek(lines: Iterator[str]) -> list[str]:
    peeked: list[str] = []
    size = 0
    for line in lines:
        peeked.append(line)
        size += len(line)
        if size >= PEEKED_CHARACTERS:
            break
    return peeked


def _natural_end(lines: list[str]) -> str:
    """The mark where there is one; else whichever of single newlines and blank lines stands before more openings.

    The first release of the set parts stories by one newline and paragraphs by two; most people do it the other way.
    """
    if any(BOUNDARY in line for line in lines):
        return "mark"
    joints = {"newline": 0, "blank": 0}
    openings = {"newline": 0, "blank": 0}
    before = ""
    for line in lines:
        if not line.strip():
            before = "blank" if before else ""
            continue
        if before:
            joints[before] += 1
            openings[before] += _OPENING.match(line) is not None
        before = "newline"
    if not joints["newline"]:
        return "blank"
    shares = {kind: openings[kind] / max(1, count) for kind, count in joints.items()}
    return "blank" if shares["blank"] > shares["newline"] else "newline"


def _cut(name: str, lines: Iterable[str], story_end: str) -> Iterator[tuple[int, str]]:
    """(number of the first line, text) of each story."""
    held: list[str] = []
    start, size = 1, 0
    for number, piece, ends in marked_pieces(lines):
        filled = bool(piece.strip())
        after_text = bool(held) and bool(held[-1].strip())
        if held and ((story_end == "newline" and filled and after_text) or (story_end == "blank" and not filled)):
            yield start, "".join(held)
            held, size = [], 0
        if ends:
            yield start if held else number, "".join(held) + piece
            held, size = [], 0
        elif filled or held:
            start = start if held else number
            held.append(piece)
            size += len(piece)
        if size > MAX_STORY_CHARACTERS:
            raise DataError(
                f"{name}: the story from line {start} on is longer than {MAX_STORY_CHARACTERS:,} characters",
                'Say what ends a story: [data.options] story_end = "newline" or "blank". For other text use the '
                "adapter text.",
            )
    if held:
        yield start, "".join(held)


# --- sample -------------------------------------------------------------------------------------

_HEROES = (("cat", "Mia"), ("dog", "Rex"), ("bear", "Bo"), ("girl", "Sue"), ("boy", "Tim"), ("bird", "Pip"))
_THINGS = ("ball", "kite", "hat", "book", "bell", "boat", "doll", "drum", "cake", "flower")
_PLACES = ("park", "garden", "forest", "beach", "river", "farm")
_COLOURS = ("red", "blue", "green", "yellow", "little", "shiny")
_FRIENDS = ("Mom", "Dad", "Grandma", "Ben", "Anna")


def _made_up_story(random: Random) -> str:
    """Three short paragraphs; the last word is the thing, the place or the friend of the beginning."""
    (kind, name), thing, place = random.choice(_HEROES), random.choice(_THINGS), random.choice(_PLACES)
    colour, friend = random.choice(_COLOURS), random.choice(_FRIENDS)
    opening = random.choice(("Once upon a time, there was", "One day, there was", "In a small town lived"))
    middle = random.choice(
        (
            f'But then the {thing} was gone. {name} was sad. "Where is my {thing}?" asked {name}.',
            f"The wind took the {thing} away. {name} ran and ran, and began to cry.",
            f"{name} put the {thing} down to play. After that, {name} could not find it.",
        )
    )
    ending = random.choice(
        (
            f"{friend} came and helped. They found the {thing}. {name} was happy and hugged the {colour} {thing}.",
            f'"Do not cry," said {friend}. They looked all day at the {place}. At last {name} smiled and thanked '
            f"{friend}.",
            f"{friend} had seen it. The {thing} was under a tree. From then on they always went together to the "
            f"{place}!",
        )
    )
    return (
        f"{opening} a {kind} named {name}. {name} had a {colour} {thing}. {name} took it to the {place}.\n\n"
        f"{middle}\n\n{ending}\n"
    )
