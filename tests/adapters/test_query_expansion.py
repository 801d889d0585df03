"""The query expansion adapter: formats, order of lines, groups, rating, baselines."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zipfile
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_ar.adapters.query_expansion import QueryExpansionAdapter
from slm_ar.adapters.query_expansion.words import group_key, target_lines, tidy_query, write_lines
from slm_ar.core.contracts import Document, Questioner, Rater, SourceOptions
from slm_ar.core.errors import DataError
from slm_ar.core.recipe import load_shipped
from slm_ar.core.testing import check_adapter

SSH = {
    "query": "ssh key setup",
    "output": [
        ["hyde", "Run ssh-keygen."],
        ["lex", "public key auth"],
        ["vec", "how to log in\nwithout a password"],
        ["lex", "passwordless login"],
    ],
    "category": "tech",
}
SSH_TEXT = (
    "ssh key setup\nlex: public key auth\nlex: passwordless login\nvec: how to log in without a password\n"
    "hyde: Run ssh-keygen.\n"
)


def read(source: Path, **options: object) -> list[Document]:
    return list(QueryExpansionAdapter().documents(source, SourceOptions(options=options)))


def texts(source: Path, **options: object) -> list[tuple[str, str]]:
    return [(document.id, document.text) for document in read(source, **options)]


def answer_of(document: Document) -> str:
    (span,) = document.spans
    return document.text.encode()[span.start : span.end].decode()


def write_jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


# --- typed expansions ---------------------------------------------------------------------------


def test_typed_lines_come_in_one_order(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", SSH)
    adapter = QueryExpansionAdapter()
    (document,) = adapter.documents(path, SourceOptions())
    assert (document.id, document.text, document.group) == ("a.jsonl:1", SSH_TEXT, "key setup ssh")
    assert answer_of(document) == SSH_TEXT.partition("\n")[2].rstrip("\n")
    assert adapter.slices(document) == {
        "file": "a.jsonl",
        "lines": "lex+vec+hyde",
        "query_words": "3-5",
        "adds": "new words",
    }
    assert (adapter.record_count, adapter.notices) == (1, [])


LINES = [("lex", "a b"), ("lex", "c"), ("vec", "d")]


@pytest.mark.parametrize(
    ("value", "lines", "unread"),
    [
        ([["vec", "d"], ["LEX", "a  b"], ["lex", "c"]], LINES, 0),
        ({"vec": "d", "lex": ["a b", "c"]}, LINES, 0),
        ("vec: d\nlex: a b\n\nlex: c\n", LINES, 0),
        (["lex: a b", "vec: d", "lex: c"], LINES, 0),
        ('[["lex", "a b"], ["vec", "d"], ["lex", "c"]]', LINES, 0),
        ([["lex", "a b"], ["vec", "d"], ["lex", "c"], ["img", "x"], ["lex", " "], 7, "plain"], LINES, 4),
        ("one\n two  words\n", [("", "one"), ("", "two words")], 0),
        ("[1] not JSON", [("", "[1] not JSON")], 0),
        (None, [], 1),
        ([], [], 0),
        ("lex: \ud83d half", [("lex", "? half")], 0),
    ],
)
def test_expansions_in_other_shapes(value: object, lines: list[tuple[str, str]], unread: int) -> None:
    assert target_lines(value) == (lines, unread)


@pytest.mark.parametrize(
    ("query", "tidied", "key"),
    [
        (
            "Python  virtual environments only: lex",
            "Python virtual environments /only:lex",
            "environments python virtual",
        ),
        ("AWS Lambda /only:HYDE ", "AWS Lambda /only:hyde", "aws lambda"),
        ("the lambda of AWS?", "the lambda of AWS?", "aws lambda"),
        ("who is it", "who is it", "who is it"),
        ("C++ vs C#", "C++ vs C#", "c# c++ vs"),
        ("read only: lexer", "read only: lexer", "lexer read"),
    ],
)
def test_modes_and_groups_of_queries(query: str, tidied: str, key: str) -> None:
    assert tidy_query(query) == tidied
    assert group_key(query) == key == group_key(tidied)


def test_the_same_query_is_one_group_in_every_mode(tmp_path: Path) -> None:
    rows = [{**SSH, "query": f"{query}{mode}"} for query in ("SSH key setup", "setup of ssh key") for mode in
            ("", " only: lex", " /only:vec")]  # fmt: skip
    documents = read(write_jsonl(tmp_path / "a.jsonl", *rows))
    assert len(documents) == 6 and {document.group for document in documents} == {"key setup ssh"}
    assert documents[1].text.startswith("SSH key setup /only:lex\n")


def test_odd_rows_are_counted(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "a.jsonl",
        SSH,
        {"query": " ", "output": [["lex", "x"]]},
        {"query": "x"},
        {"query": "y", "output": []},
        None,
        5,
        {"query": 42, "output": [["lex", "answer"], ["pic", "x"]]},
        {"query": "red shoes", "output": "best shoes guide, red"},
    )
    adapter = QueryExpansionAdapter()
    documents = list(adapter.documents(path, SourceOptions()))
    assert [(document.text, len(document.spans)) for document in documents] == [
        (SSH_TEXT, 1),
        ("42\nlex: answer\n", 1),
        ("red shoes\nbest shoes guide, red\n", 0),
    ]
    assert adapter.record_count == 3
    assert {notice.partition(": ")[2] for notice in adapter.notices} == {
        "rows without a readable query, skipped: 1",
        "rows without a readable expansion, skipped: 2",
        "items without the wanted objects, skipped: 2",
        "parts of expansions that are neither lex, vec nor hyde, left out: 1",
        "pairs whose expansion adds only fillers to the query, kept as text without a task: 1",
    }


def test_pairs_of_fillers_are_dropped_on_request(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", SSH, {"query": "Red shoes", "output": [["lex", "best red shoes guide"]]})
    kept = read(path)
    assert [QueryExpansionAdapter().slices(document)["adds"] for document in kept] == ["new words", "fillers only"]
    assert read(path, fillers_only="drop") == kept[:1]


# --- pairs of other kinds -------------------------------------------------------------------------


def turn(raw: str, rewritten: str) -> dict[str, object]:
    return {"number": 1, "raw_utterance": raw, "manual_rewritten_utterance": rewritten}


CONVERSATIONS = [
    {
        "number": 31,
        "turn": [
            turn("What is throat cancer?", "What is throat cancer?"),
            turn("Is it treatable?", "Is throat cancer treatable?"),
        ],
    },
    {"number": 32, "turn": []},
    {"number": 33, "turn": [turn("And eels?", "Do eels feel pain?")]},
]
PATHS = {"source_column": "turn[].raw_utterance", "target_column": "turn[].manual_rewritten_utterance"}


def test_nested_json_by_path(tmp_path: Path) -> None:
    path = tmp_path / "topics.json"
    path.write_text(json.dumps(CONVERSATIONS, indent=1), encoding="utf-8")
    documents = read(path, **PATHS)
    assert [(document.id, document.text, document.group, len(document.spans)) for document in documents] == [
        ("topics.json:1.1", "What is throat cancer?\nWhat is throat cancer?\n", "topics.json:1", 0),
        ("topics.json:1.2", "Is it treatable?\nIs throat cancer treatable?\n", "topics.json:1", 1),
        ("topics.json:3.1", "And eels?\nDo eels feel pain?\n", "topics.json:3", 1),
    ]
    assert answer_of(documents[2]) == "Do eels feel pain?"
    columns = SourceOptions(columns={"source": PATHS["source_column"], "target": PATHS["target_column"]})
    assert list(QueryExpansionAdapter().documents(path, columns)) == documents
    assert check_adapter(QueryExpansionAdapter(), path, SourceOptions(options=PATHS)) == []
    lines = write_jsonl(tmp_path / "topics.jsonl", *CONVERSATIONS)
    assert [document.text for document in read(lines, **PATHS)] == [document.text for document in documents]
    only_source = read(path, source_column=PATHS["source_column"])
    assert [document.text for document in only_source] == [document.text for document in documents]


def test_lists_below_a_table_and_keys_with_dots(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": [{"query": "a", "to": {"text": "b"}}, {"query": "c"}]}), encoding="utf-8")
    documents = read(path, source_column="data[].query", target_column="data[].to.text")
    assert [(document.id, document.text, document.group) for document in documents] == [("a.json:1", "a\nb\n", "a")]
    with pytest.raises(DataError, match=r"It has: data\[\].query, data\[\].to") as caught:
        read(path)
    assert 'source_column = "data[].query"' in caught.value.hint
    with pytest.raises(DataError, match="lie in different lists"):
        read(path, source_column="data[].query", target_column="more[].text")
    with pytest.raises(DataError, match=r"no JSON objects under dat\[\]"):
        read(path, source_column="dat[].query", target_column="dat[].to")


@pytest.mark.parametrize("name", ["a.tsv", "a.txt"])
def test_tsv_without_a_header(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'\n"cars"\tvehicles\r\n\nfast "food\tburger\nlonely\n')
    adapter = QueryExpansionAdapter()
    documents = list(adapter.documents(path, SourceOptions()))
    assert [(document.id, document.text) for document in documents] == [
        (f"{name}:2", '"cars"\nvehicles\n'),
        (f"{name}:4", 'fast "food\nburger\n'),
    ]
    assert adapter.notices == [f"{name}: rows without a readable expansion, skipped: 1"]


def test_numbered_columns_and_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("31_1\tcars\tvehicles\n31_2\tfood\tburger\n", encoding="utf-8")
    assert [text for _, text in texts(path, source_column=2, target_column="3")] == [
        "cars\nvehicles\n",
        "food\nburger\n",
    ]
    groups = [document.group for document in read(path, source_column=2, target_column=3, group_column=1)]
    assert groups == ["31_1", "31_2"]
    with pytest.raises(DataError, match="It has: 1, 2, 3") as caught:
        read(path)
    assert 'source_column = "2"' in caught.value.hint
    path.write_text("31_1\tWhat is it?\n31_2\tAnd that?\n", encoding="utf-8")
    adapter = QueryExpansionAdapter()
    assert len(list(adapter.documents(path, SourceOptions()))) == 2
    assert "look like ids" in adapter.notices[0]
    asked = adapter.questions(path, SourceOptions())
    assert [question.text for question in asked] == ["What is it?\n", "And that?\n"]


def test_values_of_the_group_column_that_share_a_query_are_one_group(tmp_path: Path) -> None:
    asked = [("ann", "ssh key setup"), ("bob", "cheap food"), ("cid", "Setup key SSH"), ("dan", "cars"), ("", "cars")]
    asked += [("cid", "cheap   food"), ("eve", "zoo")]
    rows = [{"user": user, "query": query, "output": f"words {n}"} for n, (user, query) in enumerate(asked)]
    path = write_jsonl(tmp_path / "a.jsonl", *rows)
    adapter = QueryExpansionAdapter()
    documents = list(adapter.documents(path, SourceOptions(options={"group_column": "user"})))
    assert [document.group for document in documents] == ["ann", "ann", "ann", "dan", "dan", "ann", "eve"]
    assert [line for line in adapter.notices if "values that share a query with another" in line]
    assert [document.group for document in read(path)][:2] == ["key setup ssh", "cheap food"], "without the column"


def test_a_group_column_whose_values_share_nearly_every_query_is_refused(tmp_path: Path) -> None:
    rows = [{"user": f"u{n}", "query": query, "output": f"{n}"} for n in range(9) for query in ("cars", f"zoo {n}")]
    with pytest.raises(DataError, match="18 of 18 pairs would be one group") as error:
        read(write_jsonl(tmp_path / "a.jsonl", *rows), group_column="user")
    assert "Remove group_column" in error.value.hint


def test_tables_with_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('Query\tRewrite\n"a\tb"\tc\n', encoding="utf-8")
    (tmp_path / "b.csv").write_text('from;into\ncars;"lex: vehicles\nvec: which vehicles"\n', encoding="utf-8")
    assert texts(tmp_path / "a.tsv") == [("a.tsv:1", "a b\nc\n")]
    expected = [("b.csv:1", "cars\nlex: vehicles\nvec: which vehicles\n")]
    assert texts(tmp_path / "b.csv", source_column="from") == expected
    with pytest.raises(DataError, match=r"no column 'form'; it has: from, into\nDid you mean 'from'"):
        read(tmp_path / "b.csv", source_column="form")


def test_parquet_with_nested_lists(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"query": [SSH["query"], None], "output": [SSH["output"], None]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == [("a.parquet:1", SSH_TEXT)]


# --- folders --------------------------------------------------------------------------------------


def test_a_folder_with_other_files(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", SSH)
    write_jsonl(tmp_path / "templated.jsonl", {"query": "x", "output": "x guide"})
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"query": "cars", "output": "vehicles"}'))
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("in/c.tsv", "food\tburger\n")
    (tmp_path / "d.jsonl").write_bytes(b"")
    (tmp_path / "MANIFEST.tsv").write_text("path\tbytes\tlines\na.jsonl\t9\t1\n", encoding="utf-8")
    (tmp_path / "eval_queries.txt").write_text("# one per line\ncars\n", encoding="utf-8")
    adapter = QueryExpansionAdapter()
    documents = list(adapter.documents(tmp_path, SourceOptions(options={"skip": "templ*, z.jsonl"})))
    assert [document.id for document in documents] == ["a.jsonl:1", "b.jsonl.gz:1", "c.zip/in/c.tsv:1"]
    assert sorted(adapter.notices) == [
        f"{tmp_path / 'MANIFEST.tsv'}: files without the wanted columns (which columns hold the query and its "
        "expansion? It has: 1, 2, 3), skipped: 1",
        f"{tmp_path / 'd.jsonl'}: empty files, skipped: 1",
    ]
    assert len(read(tmp_path)) == 4
    assert check_adapter(QueryExpansionAdapter(), tmp_path) == []
    (tmp_path / "z.jsonl").write_text('{"query": ', encoding="utf-8")
    with pytest.raises(DataError, match=r"z\.jsonl, line 1: is not complete JSON"):
        read(tmp_path)


def test_pairs_whose_query_is_judged_are_left_out(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", SSH, {"query": "Cars!", "output": "vehicles"})
    write_jsonl(tmp_path / "docs.jsonl", {"id": "d1", "text": "a car"})
    write_jsonl(tmp_path / "queries.jsonl", {"_id": "q1", "text": "the cars"})
    (tmp_path / "qrels.tsv").write_text("q1\t0\td1\t1\n", encoding="utf-8")
    options = {"documents": "docs.jsonl", "queries": "queries.jsonl", "judgments": "qrels.tsv"}
    adapter = QueryExpansionAdapter()
    documents = list(adapter.documents(tmp_path, SourceOptions(options=options)))
    assert [document.id for document in documents] == ["a.jsonl:1"]
    assert adapter.notices == ["a.jsonl: pairs with a query that has judgments, left out: 1"]
    asked = adapter.questions(tmp_path / "queries.jsonl", SourceOptions())
    assert [question.text for question in asked] == ["the cars\n"]


# --- questions ------------------------------------------------------------------------------------


def test_questions_are_prompts(tmp_path: Path) -> None:
    path = tmp_path / "queries.txt"
    path.write_text("# comment\n\nauth /only:lex\n#hashtag größe\n#\nAWS  Lambda only: hyde\n", encoding="utf-8")
    adapter: Questioner = QueryExpansionAdapter()
    found = list(adapter.questions(path, SourceOptions()))
    assert [(question.id, question.text) for question in found] == [
        ("queries.txt:3", "auth /only:lex\n"),
        ("queries.txt:4", "#hashtag größe\n"),
        ("queries.txt:6", "AWS Lambda /only:hyde\n"),
    ]
    for question in found:
        (span,) = question.spans
        assert span.start == span.end == len(question.text.encode())


def test_questions_have_the_prompts_of_documents(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", SSH, {"query": "AWS only: lex", "output": [["lex", "cloud"]]})
    adapter = QueryExpansionAdapter()
    prompts = [text.encode()[: document.spans[0].start].decode() for document in read(path) if (text := document.text)]
    assert [question.text for question in adapter.questions(path, SourceOptions())] == prompts
    assert [adapter.prompt(query) for query in ("ssh  key setup", "AWS only: lex")] == prompts
    (tmp_path / "list.json").write_text('["ssh key setup", {"query": "AWS /only:lex"}, " "]', encoding="utf-8")
    assert [question.text for question in adapter.questions(tmp_path / "list.json", SourceOptions())] == prompts
    (tmp_path / "one.csv").write_text("what\nssh key setup\nAWS /only:lex\n", encoding="utf-8")
    assert [question.text for question in adapter.questions(tmp_path / "one.csv", SourceOptions())] == prompts


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b"", "the file is empty"),
        ("a.jsonl", b"\n \n", "nothing but blank lines"),
        ("a.jsonl", b"<!DOCTYPE html><html>", "is a web page"),
        ("a.tsv", b"\n<html>\t", "is a web page"),
        ("a.csv", b"<html>", "is a web page"),
        ("a.jsonl", b"PK\x03\x04 [Content_Types].xml xl/", "Excel workbook"),
        ("a.xlsx", b"PK\x03\x04 [Content_Types].xml xl/", "files ending in .xlsx are not read"),
        ("a.txt", b"PK\x03\x04 [Content_Types].xml xl/", "Excel workbook"),
        ("a.jsonl", json.dumps(SSH).encode() + b'\n\n{"query": "x", "out', "a.jsonl, line 3: is not complete JSON"),
        ("a.jsonl", b'{"query": "x", "output": [["lex", "y"', "a.jsonl, line 1: is not complete JSON"),
        ("a.json", b'[\n\n{"query": "x"},\n{"query"', "a.json, line 4: is not complete JSON"),
        ("a.json", b"[" * 100_000, "cannot be read as JSON|is not complete JSON"),
        ("a.jsonl", b'{"question": "x", "votes": 3, "site": 1}\n', "which columns hold the query and its expansion"),
        ("a.jsonl", b"1\n2\n", "is not complete JSON"),
        ("a.json", b"[]", "no JSON objects"),
        ("a.jsonl", b'{"query": "x", "output": []}\n', "holds no pair"),
        ("a.csv", b"query,output\n", "holds no pair"),
        ("a.txt", b"how to\nwhere\n", "queries but no expansions"),
        ("a.jsonl.gz", gzip.compress(b"x" * 9999)[:-9], "cut off"),
        ("a.zip", b"PK\x03\x04", "not a readable zip"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_files_that_are_no_pairs(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read(path)
    assert name in caught.value.message and caught.value.hint


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["query", "output", "turn", "lex", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(
    name=st.sampled_from(["a.jsonl", "a.json", "a.tsv", "a.csv", "a.txt", "a.jsonl.gz", "a.parquet"]),
    content=st.binary(max_size=40)
    | st.lists(JSON_VALUES.map(json.dumps), max_size=4).map(lambda lines: "\n".join(lines).encode())
    | st.text("ab\t\n\"'{[,", max_size=30).map(str.encode),
    options=st.sampled_from([{}, PATHS, {"source_column": "turn[].query"}, {"source_column": "1"}]),
)
def test_any_file_gives_documents_or_one_error(
    name: str, content: bytes, options: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    adapter = QueryExpansionAdapter()
    for call in (adapter.documents, adapter.questions):
        try:
            for document in call(path, SourceOptions(options=options)):
                assert document.text.strip() and document.group
        except DataError as error:
            assert name in error.message or "[data.options]" in error.message


def test_a_folder_without_pairs(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(DataError, match=r"holds no pairs of a query and its expansion\nRead are files ending in \.csv"):
        read(tmp_path)
    (tmp_path / "b.csv").write_text("a,b,c\n1,2,3\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"b.csv: which columns hold the query and its expansion\? It has: a, b, c"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colum": "x"}, "no option 'colum'"),
        ({"source_column": True}, "source_column = True must be a name"),
        ({"fillers_only": "no"}, "fillers_only = 'no' is unknown"),
        ({"skip": " "}, "skip = ' ' must be a name"),
        ({"documents": "d.jsonl", "judgments": "j.tsv"}, "has documents and judgments, but measuring retrieval needs"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, object], message: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", SSH)
    with pytest.raises(DataError, match=message) as caught:
        read(path, **options)
    assert caught.value.hint


def test_bad_tables_of_the_recipe(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", SSH)
    with pytest.raises(DataError, match="has no field 'sorce'\nDid you mean 'source'"):
        list(QueryExpansionAdapter().documents(path, SourceOptions(columns={"sorce": "a"})))
    with pytest.raises(DataError, match="queries have no dates"):
        list(QueryExpansionAdapter().documents(path, SourceOptions(since="2024-01-01")))


# --- rating -----------------------------------------------------------------------------------------

GOLD = "lex: public key auth\nlex: passwordless login\nvec: how to log in without a password\nhyde: Run ssh-keygen."
ADAPTER: Rater = QueryExpansionAdapter()


def rate(answer: str, prompt: str = "ssh key setup\n", gold: str = GOLD) -> dict[str, float]:
    return dict(ADAPTER.rate("expansion", prompt, gold, answer))


def test_gold_is_perfect_and_a_copy_finds_nothing_new() -> None:
    assert rate(GOLD) == {
        "new_term_recall": 1.0,
        "new_term_precision": 1.0,
        "key_term_coverage": pytest.approx(1 / 3),
        "format_valid": 1.0,
        "line_f1_at_0.3": 1.0,
        "line_f1_at_0.5": 1.0,
    }
    copied = rate("lex: ssh key setup\nvec: ssh key setup")
    assert (copied["new_term_recall"], copied["key_term_coverage"], copied["format_valid"]) == (0.0, 1.0, 1.0)
    assert set(rate("").values()) == {0.0} and set(rate("")) == set(copied)


def test_new_words_count_in_keyword_and_question_lines_only() -> None:
    """New in the gold: public auth passwordless login log password."""
    found = rate("lex: PUBLIC login\nvec: password\nhyde: auth passwordless log")
    assert found["new_term_recall"] == pytest.approx(3 / 6)
    assert found["new_term_precision"] == 1.0
    assert rate("public auth passwordless login log password")["new_term_recall"] == 0.0
    assert rate("lex: public zebra\nvec: zebra horse")["new_term_precision"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("prompt", "answer", "valid"),
    [
        ("q", "lex: a\nvec: b", True),
        ("q", "vec: b\n\n LEX:  a \nhyde: c\nhy", True),
        ("q", "lex: a\nvec: b\nhyde: c\nso", False),
        ("q", "lex: a\nlex: b", False),
        ("q", "lex: a\nvec:", False),
        ("q", "Sure! Here it is:\nlex: a\nvec: b", False),
        ("q", "", False),
        ("q /only:lex", "lex: a\nlex: b", True),
        ("q only: lex", "lex: a\nvec: b", False),
        ("q /only:hyde", "hyde: a", True),
    ],
)
def test_format(prompt: str, answer: str, valid: bool) -> None:
    assert rate(answer, prompt)["format_valid"] == valid


def test_lines_are_matched_within_their_kind() -> None:
    half = rate("lex: public key\nvec: passwordless login")
    assert half["line_f1_at_0.5"] == pytest.approx(2 * 0.5 * 0.25 / 0.75)  # 1 of 2 said, 1 of 4 wanted
    assert rate("lex: public key ssh agent forwarding")["line_f1_at_0.3"] == pytest.approx(2 * 1 * 0.25 / 1.25)
    assert rate("lex: public key ssh agent forwarding")["line_f1_at_0.5"] == 0.0


def test_a_long_list_of_words_gains_nothing() -> None:
    """The gold has 6 new words, so the first 12 of an answer count."""
    noise = " ".join(f"noise{number}" for number in range(12))
    wanted = "public auth passwordless login log password"
    assert rate(f"lex: {wanted} {noise}\nvec: x")["new_term_recall"] == 1.0
    assert rate(f"lex: {noise} {wanted}\nvec: x")["new_term_recall"] == 0.0
    assert rate(f"lex: ssh the best guide overview {noise[:41]} {wanted}\nvec: x")["new_term_recall"] == 1.0


def test_a_passage_counts_where_the_gold_has_nothing_else() -> None:
    found = rate("hyde: run away", "ssh /only:hyde\n", "hyde: Run ssh-keygen now")
    assert found["new_term_recall"] == pytest.approx(1 / 2)
    assert found["format_valid"] == 1.0


def test_plain_expansions() -> None:
    prompt, gold = "Is it treatable?\n", "Is throat cancer treatable?"
    assert rate("Is cancer treatable?", prompt, gold) == {
        "new_term_recall": 0.5,
        "new_term_precision": 1.0,
        "key_term_coverage": 1.0,
        "format_valid": 1.0,
        "line_f1_at_0.3": 1.0,
        "line_f1_at_0.5": 1.0,
    }
    assert rate("a\nb", prompt, gold)["format_valid"] == 0.0
    assert rate("a\nb", prompt, "x\ny\nz")["format_valid"] == 1.0
    assert rate("lex: throat cancer", prompt, gold)["new_term_recall"] == 1.0


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(prompt=TEXTS, gold=TEXTS, answer=TEXTS)
def test_any_text_gets_the_same_figures_between_0_and_1(prompt: str, gold: str, answer: str) -> None:
    figures = rate(answer, prompt, gold)
    assert set(figures) == set(rate(GOLD))
    assert all(0.0 <= value <= 1.0 for value in figures.values())


@given(
    query=TEXTS.filter(lambda text: bool(text.strip())),
    parts=st.lists(st.tuples(st.sampled_from(["lex", "vec", "hyde"]), TEXTS), min_size=1),
)
def test_any_pair_becomes_a_document_that_rates_itself_perfect(
    query: str, parts: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_jsonl(tmp_path_factory.mktemp("pairs") / "a.jsonl", {"query": query, "output": parts}, SSH)
    first = read(path)[0]
    lines = target_lines([list(part) for part in parts])[0]
    if not lines or first.text == SSH_TEXT:
        return
    assert first.text == f"{tidy_query(query)}\n{write_lines(lines)}\n"
    assert first.text.count("\n") == len(lines) + 1
    if first.spans:
        figures = rate(answer_of(first), first.text.partition("\n")[0] + "\n", answer_of(first))
        assert (figures["new_term_recall"], figures["new_term_precision"], figures["line_f1_at_0.5"]) == (1, 1, 1)


# --- baselines --------------------------------------------------------------------------------------


def split_pairs(documents: list[Document]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(train, held): (prompt, gold), a fifth of the groups held out by hash."""
    parts: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
    for document in documents:
        if document.spans:
            prompt = document.text.partition("\n")[0] + "\n"
            held = hashlib.sha256(document.group.encode()).digest()[0] < 51
            parts[held].append((prompt, answer_of(document)))
    return parts


def mean_figures(adapter: QueryExpansionAdapter, documents: list[Document]) -> dict[str, dict[str, float]]:
    """Baseline -> figure -> mean, the gold itself among them."""
    train, held = split_pairs(documents)
    answers = dict(adapter.baseline_answers("expansion", train, [prompt for prompt, _ in held]))
    answers["gold"] = [gold for _, gold in held]
    rows = {
        name: [adapter.rate("expansion", *pair, answer) for pair, answer in zip(held, each, strict=True)]
        for name, each in answers.items()
    }
    return {name: {key: fmean(row[key] for row in each) for key in each[0]} for name, each in rows.items()}


def test_baselines_are_ordered_by_what_they_know() -> None:
    adapter = QueryExpansionAdapter()
    figures = mean_figures(adapter, list(adapter.sample(5, 150_000)))
    recall = {name: row["new_term_recall"] for name, row in figures.items()}
    assert recall["copy"] == 0.0 and recall["gold"] == 1.0
    assert max(recall["fixed template"], recall["frequent words"]) + 0.1 < recall["nearest query"] < 0.7
    assert all(row["format_valid"] == 1.0 for row in figures.values())
    assert figures["copy"]["line_f1_at_0.3"] > figures["nearest query"]["line_f1_at_0.3"] * 0.2


def test_answers_of_the_baselines() -> None:
    adapter = QueryExpansionAdapter()
    train = [("red car\n", "lex: automobile\nvec: which car is red"), ("green tea /only:lex\n", "lex: sencha matcha")]
    prompts = ["blue car\n", "cup of tea /only:lex\n", "car /only:vec\n", "zebra\n"]
    answers = adapter.baseline_answers("expansion", train, prompts)
    assert answers["copy"] == ["lex: blue car\nvec: blue car", "lex: cup of tea", "vec: car", "lex: zebra\nvec: zebra"]
    assert answers["nearest query"] == [train[0][1], train[1][1], "vec: which car is red", train[0][1]]
    assert [answer.count("\n") for answer in answers["fixed template"]] == [5, 2, 1, 5]
    assert all("{" not in answer for answer in answers["fixed template"])
    plain = adapter.baseline_answers("expansion", [("a b\n", "c d")], ["b {x}\n"])
    assert answers["frequent words"][0].startswith("lex: blue car ") and "automobile" in answers["frequent words"][0]
    assert answers["frequent words"][2].startswith("vec: car ")
    assert plain["frequent words"] == ["b {x} c d"]
    assert plain["copy"] == ["b {x}"] and plain["nearest query"] == ["c d"]
    assert plain["fixed template"][0].startswith("b {x} overview")
    assert adapter.baseline_answers("expansion", [], ["x\n"])["nearest query"] == [""]


def test_the_ceiling_is_what_train_has_at_all() -> None:
    adapter = QueryExpansionAdapter()
    golds = [("ssh\n", "lex: key login"), ("tea\n", "lex: cup\nvec: which cup"), ("red\n", "lex: red")]
    assert adapter.ceiling("expansion", ["the key\n", "a Login\nx"], golds) == pytest.approx((1 + 0) / 2)
    assert adapter.ceiling("expansion", iter(["login"]), golds[:1]) == pytest.approx(1 / 2)
    assert adapter.ceiling("expansion", ["x"], golds[2:]) == 0.0


# --- sample, recipes, real data -----------------------------------------------------------------------


def test_the_sample_is_made_of_pairs_with_modes(tmp_path: Path) -> None:
    adapter = QueryExpansionAdapter()
    documents = list(adapter.sample(1, 60_000))
    slices = [adapter.slices(document)["lines"] for document in documents]
    assert set(slices) == {"lex+vec+hyde", "lex", "vec", "hyde"}
    assert all(document.spans for document in documents)
    assert len({document.group for document in documents}) > len(documents) / 2
    path = write_jsonl(tmp_path / "a.jsonl", SSH)
    assert check_adapter(adapter, path) == []


@pytest.mark.parametrize("name", ["query-expansion-laptop", "query-expansion-rtx5080"])
def test_the_recipes_fit_a_corpus_of_a_megabyte(name: str) -> None:
    recipe = load_shipped(name)
    assert recipe.data.adapter == "query_expansion"
    assert recipe.data.dev_kb + recipe.data.hidden_kb + recipe.data.test_kb <= 450
    assert recipe.tokenizer.vocab_size <= 4096


@pytest.fixture
def real_data() -> Path:
    named = os.environ.get("SLM_AR_REAL_DATA", "")
    folder = Path(named, "query_expansion")
    if not named or not folder.is_dir():
        pytest.skip("SLM_AR_REAL_DATA does not name a folder that holds query_expansion/")
    return folder


@pytest.mark.realdata
def test_the_real_pairs(real_data: Path) -> None:
    adapter = QueryExpansionAdapter()
    documents = list(adapter.documents(real_data, SourceOptions()))
    assert len(documents) == adapter.record_count == 2_972
    assert len({document.group for document in documents}) <= 2_176
    assert len(list(adapter.questions(real_data / "eval_queries.txt", SourceOptions()))) == 51
    recall = {
        name: row["new_term_recall"]
        for name, row in mean_figures(adapter, [each for each in documents if "v3" in each.id]).items()
    }
    assert recall["copy"] == 0.0 and recall["gold"] == 1.0
    assert max(recall["fixed template"], recall["frequent words"]) < recall["nearest query"] < 0.5
