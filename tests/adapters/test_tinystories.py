"""The TinyStories adapter: what ends a story, the last-word question, mojibake, and the layouts of the set."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_ar.adapters.tinystories import TinyStoriesAdapter, last_word, story_key
from slm_ar.core.contracts import Document, DuplicatePolicy, Questioner, Rater, SourceOptions
from slm_ar.core.errors import DataError
from slm_ar.core.testing import check_adapter

REAL_DATA = Path(os.environ.get("SLM_AR_REAL_DATA", "/nonexistent"))

ANN = 'Once there was Ann. She had a hat.\n\n"Oh no," said Ann. The wind took the hat.'
BEN = "One day, Ben met a dog.\nThey were happy."
MARKED = f"{ANN}\n<|endoftext|>\n{BEN}\n<|endoftext|>\n\n<|endoftext|>"


def read(source: Path, **options: object) -> list[Document]:
    return list(TinyStoriesAdapter().documents(source, SourceOptions(options=options)))


def answers(documents: list[Document]) -> list[str]:
    return [document.text.encode()[span.start : span.end].decode() for document in documents for span in document.spans]


def save(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_mark_ends_a_story_and_blank_lines_do_not(tmp_path: Path) -> None:
    path = save(tmp_path / "a.txt", MARKED)
    adapter = TinyStoriesAdapter()
    documents = list(adapter.documents(path, SourceOptions()))
    assert [(document.id, document.text) for document in documents] == [
        ("a.txt:1", ANN + "\n"),
        ("a.txt:5", BEN + "\n"),
    ]
    assert answers(documents) == [" hat", " happy"]
    assert adapter.record_count == 2
    assert adapter.notices == []
    assert adapter.slices(documents[0]) == {"length": "under 600"}
    assert not any("<|" in document.text for document in documents)
    assert check_adapter(TinyStoriesAdapter(), path) == []


def test_marks_within_a_line(tmp_path: Path) -> None:
    path = save(tmp_path / "a.txt", "a cat.<|endoftext|>a dog.<|endoftext|>\na\n\ncow.")
    assert [(document.id, document.text) for document in read(path)] == [
        ("a.txt:1", "a cat.\n"),
        ("a.txt:1.2", "a dog.\n"),
        ("a.txt:2", "a\n\ncow.\n"),
    ]


def test_without_marks_the_first_release_parts_stories_by_one_newline(tmp_path: Path) -> None:
    path = save(tmp_path / "a.txt", f"{ANN}\nOne day, a cat sat.\n \nThe end.\nOnce there was a cow.\r\n")
    adapter = TinyStoriesAdapter()
    documents = list(adapter.documents(path, SourceOptions()))
    assert [document.text for document in documents] == [
        ANN + "\n",
        "One day, a cat sat.\n \nThe end.\n",
        "Once there was a cow.\n",
    ]
    (notice,) = adapter.notices
    assert "a single newline was read as the end of a story" in notice


def test_without_marks_most_people_part_stories_by_a_blank_line(tmp_path: Path) -> None:
    path = save(tmp_path / "a.txt", f"{BEN}\n\nOnce there was a cow.\nIt was big.\n\nOne day, it ran.\n")
    adapter = TinyStoriesAdapter()
    assert [document.text for document in adapter.documents(path, SourceOptions())] == [
        BEN + "\n",
        "Once there was a cow.\nIt was big.\n",
        "One day, it ran.\n",
    ]
    assert "a blank line was read as the end of a story" in adapter.notices[0]


@pytest.mark.parametrize(("story_end", "count"), [("newline", 3), ("blank", 2), ("file", 1), ("mark", 1)])
def test_a_person_may_say_what_ends_a_story(tmp_path: Path, story_end: str, count: int) -> None:
    path = save(tmp_path / "a.txt", "one cat\ntwo cats\n\nthree cats\nfour cats\n")
    adapter = TinyStoriesAdapter()
    documents = list(adapter.documents(path, SourceOptions(options={"story_end": story_end})))
    assert len(documents) == count
    assert adapter.notices == []


def test_all_layouts_give_the_same_stories(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    source = tmp_path / "stories"
    source.mkdir()
    save(source / "a.txt", MARKED)
    (source / "b.txt.gz").write_bytes(gzip.compress(MARKED.encode("utf-8-sig")))
    save(source / "c.jsonl", "".join(json.dumps({"n": 1, "text": story}) + "\n" for story in (ANN, BEN)))
    parquet.write_table(pyarrow.table({"text": [ANN, BEN, None, " "]}), source / "d.parquet")
    with zipfile.ZipFile(source / "e.zip", "w") as archive:
        archive.writestr("e.csv", f'Story\n"{ANN.replace(chr(34), chr(34) * 2)}"\n"{BEN}"\n')
    (source / "empty.txt").write_bytes(b"")
    adapter = TinyStoriesAdapter()
    documents = list(adapter.documents(source, SourceOptions()))
    assert [document.text for document in documents] == [ANN + "\n", BEN + "\n"] * 5
    assert len({document.group for document in documents}) == 2
    assert sorted(adapter.notices) == [
        f"{source / 'd.parquet'}: rows without a story in 'text', skipped: 2",
        f"{source / 'empty.txt'}: empty files, skipped: 1",
    ]
    assert check_adapter(TinyStoriesAdapter(), source) == []


def test_near_duplicates_share_a_group() -> None:
    assert story_key("“Hello,” said Ben.\n") == story_key('"hello" SAID  Ben') == story_key("â€œHello,â€ said Ben.")
    assert story_key("Ben said hello.") != story_key("Ben said hello twice.")
    assert story_key("你好") != story_key("再见")
    assert TinyStoriesAdapter.duplicates is DuplicatePolicy.NEAR


def test_stories_in_another_script_have_groups_of_their_own() -> None:
    """Each holds the same few ASCII words, which must not be all that tells them apart."""
    stories = [f"Жил-был кот {name} и его друг Tom. Они нашли {name * 2}, 2 раза." for name in ("Вася", "Петя", "Юра")]
    assert len({story_key(story) for story in stories}) == 3
    assert story_key("Кот сказал: «Привет!»") == story_key("кот СКАЗАЛ привет")
    assert len({story_key(f"{name}住在森林里。OK.") for name in ("小猫", "小狗")}) == 2


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("They were happy.\n", " happy"),
        ('She said, "Good night!"\n', " night"),
        ("It was Tim's.\n", " Tim's"),
        ("It was Tim’s.\n", " Tim’s"),
        ("He saw a merry-go-round.\n", " merry-go-round"),
        ("He was a café\n", " café"),
        ("A\n\nEnd.\n", "End"),
        ('They sang "la."\n', "la"),
        ("They had 3 cats and 4.\n", None),
        ("Happy.\n", None),
        ("...\n", None),
    ],
)
def test_the_last_word(text: str, answer: str | None) -> None:
    spans = last_word(text)
    assert [text.encode()[span.start : span.end].decode() for span in spans] == ([answer] if answer else [])


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_the_last_word_is_a_word_that_only_punctuation_follows(text: str) -> None:
    raw = text.encode()
    for span in last_word(text):
        before, word, after = raw[: span.start].decode(), raw[span.start : span.end].decode(), raw[span.end :].decode()
        assert before.strip()
        assert word.strip()[0].isalnum() and not word.strip()[0].isdecimal()
        assert not any(character.isalnum() for character in after)


def test_questions_end_where_the_answer_is_to_come(tmp_path: Path) -> None:
    path = save(tmp_path / "prompts.txt", "Tim and the\nShe ate a big, café \n")
    adapter = TinyStoriesAdapter()
    assert isinstance(adapter, Questioner)
    questions = list(adapter.questions(path, SourceOptions()))
    assert [(question.id, question.text) for question in questions] == [
        ("prompts.txt:1", "Tim and the"),
        ("prompts.txt:2", "She ate a big, café"),
    ]
    for question in questions:
        (span,) = question.spans
        assert span.start == span.end == len(question.text.encode())


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [(" hat", " hat.\n", 1.0), (" hat", " Hat and so on", 1.0), (" hat", " ball", 0.0), (" hat", "", 0.0)],
)
def test_answers_are_rated_by_their_first_word(gold: str, answer: str, right: float) -> None:
    adapter = TinyStoriesAdapter()
    assert isinstance(adapter, Rater)
    assert adapter.rate("last_word", "The wind took the", gold, answer) == {"first_word": right}


def test_mojibake_is_counted_and_kept(tmp_path: Path) -> None:
    story = "Once â€œHelloâ€\x9d said Ben. He was gone."
    path = save(tmp_path / "a.txt", f"{story}\n<|endoftext|>\nOnce “Hello” said the café â la carte.\n<|endoftext|>\n")
    adapter = TinyStoriesAdapter()
    documents = list(adapter.documents(path, SourceOptions()))
    assert documents[0].text == story + "\n"
    assert [notice.rpartition(": ")[2] for notice in adapter.notices] == ["1"]


def test_the_samples_are_stories_with_an_answer_from_their_beginning() -> None:
    documents = list(TinyStoriesAdapter().sample(3, 5000))
    assert len(answers(documents)) == len(documents) > 10
    for document, answer in zip(documents, answers(documents), strict=True):
        assert answer.strip() in document.text[: document.text.rindex(answer)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": "text"}, "no option 'columns' in .*\nDid you mean 'column'"),
        ({"column": 3}, "column = 3 must be a column's name"),
        ({"story_end": "dot"}, "story_end = 'dot' is unknown"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(save(tmp_path / "a.txt", MARKED), **options)


def test_bad_recipe_tables(tmp_path: Path) -> None:
    path = save(tmp_path / "a.txt", MARKED)
    with pytest.raises(DataError, match="stories have no date"):
        list(TinyStoriesAdapter().documents(path, SourceOptions(since="2024-01-01")))
    with pytest.raises(DataError, match="has no field 'story'"):
        list(TinyStoriesAdapter().documents(path, SourceOptions(columns={"story": "a"})))


def test_bad_columns(tmp_path: Path) -> None:
    path = save(tmp_path / "a.csv", "title,tale\nx,once\n")
    with pytest.raises(DataError, match=r"a\.csv: which column holds the story\? It has: title, tale"):
        read(path)
    with pytest.raises(DataError, match="no column 'tail'\nDid you mean 'tale'"):
        read(path, column="tail")
    assert [document.text for document in read(path, column="tale")] == ["once\n"]


def test_lists_of_files_beside_the_stories_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "MANIFEST.tsv", "path\tbytes\na.txt\t3\n")
    save(tmp_path / "README.md", "# about\n")
    with pytest.raises(DataError, match=r"MANIFEST\.tsv: which column holds the story\? It has: path, bytes"):
        read(tmp_path)
    save(tmp_path / "a.txt", MARKED)
    adapter = TinyStoriesAdapter()
    assert len(list(adapter.documents(tmp_path, SourceOptions()))) == 2
    name = tmp_path / "MANIFEST.tsv"
    assert adapter.notices == [f"{name}: tables without a column called text, story, content, not read: 1"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\n \n", "holds no story"),
        ("a.txt", b"<html>", "web page"),
        ("a.txt", b"PK\x03\x04 [Content_Types].xml", "Excel"),
        ("a.txt", b"a\0b", "binary"),
        ("a.jsonl", b"once upon a time", "not JSON"),
        ("a.parquet", b"PAR1", "cut off"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_files_that_are_no_stories(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*{reason}"):
        read(path)


def test_a_story_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_ar.adapters.tinystories.MAX_STORY_CHARACTERS", 100)
    path = save(tmp_path / "a.txt", "word\n" * 50)
    with pytest.raises(DataError, match="the story from line 1 on is longer than 100"):
        read(path, story_end="mark")


@given(stories=st.lists(st.text(st.characters(categories=["L", "Zs", "P"]), max_size=40), min_size=1, max_size=8))
def test_no_marked_story_is_lost(stories: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("stories") / "a.txt"
    save(path, "x\n<|endoftext|>\n" + "\n<|endoftext|>\n".join(stories))
    expected = ["x\n", *(story.strip() + "\n" for story in stories if story.strip())]
    assert [document.text for document in read(path)] == expected


@pytest.mark.realdata
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="SLM_AR_REAL_DATA names no folder")
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("derived_tinystories_cased.jsonl", 200),
        ("derived_tinystories_cased.parquet", 1097),
        ("derived_tinystories_cased_endoftext.txt", 1097),
        ("tinystories_v1_cased.txt", 1092),  # five stories hold a line of blanks, where the derived files cut them
        ("tinystories_v1_lower_mojibake.txt.gz", 2913),
    ],
)
def test_real_stories(name: str, count: int) -> None:
    path = REAL_DATA / "tinystories" / name
    adapter = TinyStoriesAdapter()
    documents = list(adapter.documents(path, SourceOptions()))
    assert len(documents) == count
    assert sum(len(document.spans) for document in documents) > 0.98 * count
    assert any("mojibake" in notice for notice in adapter.notices)
    assert check_adapter(TinyStoriesAdapter(), path) == []
