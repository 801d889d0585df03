"""Retrieval with and without expansions: BM25, feedback, figures, and the files they come from."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_ar.core.errors import DataError
from slm_ar.core.tasks.collection import load_collection, read_judgments, read_texts
from slm_ar.core.tasks.retrieval import (
    FEEDBACK,
    RAW,
    RetrievalReport,
    evaluate_retrieval,
    expansion_words,
    ndcg,
    paired_interval,
    words_of,
)

DOCUMENTS = [("d1", "Red apple pie"), ("d2", "green apples"), ("d3", "car")]


def evaluate(
    expansions: dict[str, dict[str, str]],
    queries: dict[str, str],
    judgments: dict[str, dict[str, int]],
    documents: list[tuple[str, str]] = DOCUMENTS,
) -> RetrievalReport:
    return evaluate_retrieval(documents, queries, judgments, expansions)


# --- a small example by hand ------------------------------------------------------------------


def test_a_ranking_and_its_figures_by_hand() -> None:
    """N = 3, mean length 2; idf(apple) = ln(1 + 1.5 / 2.5) = 0.470. d1: 0.470 * 1.9 / (1 + 0.9 * 1.2) = 0.429;
    d2: 0.470 * 1.9 / (1 + 0.9) = 0.470. So d2 stands before d1, and d3 is not found."""
    report = evaluate({}, {"q": "the apple"}, {"q": {"d1": 2, "d2": 1, "d3": 0}})
    raw = report.systems[0]
    found, ideal = 1 + 2 / math.log2(3), 2 + 1 / math.log2(3)
    assert raw.name == RAW
    assert raw.ndcg_10 == pytest.approx(found / ideal)
    assert (raw.recall_10, raw.recall_100, raw.difference, raw.helped, raw.hurt) == (1.0, 1.0, 0.0, 0.0, 0.0)
    assert (report.query_count, report.document_count, report.k1, report.b) == (1, 3, 0.9, 0.4)
    assert report.notices == ("interval: single queries, which have no interval: 1",)


def test_parameters_change_the_ranking() -> None:
    documents = [("long", "apple apple pear plum fig kiwi lime"), ("short", "apple")]
    judgments = {"q": {"long": 1}}
    plain = evaluate_retrieval(documents, {"q": "apple"}, judgments, {}, b=0.0).systems[0]
    normed = evaluate_retrieval(documents, {"q": "apple"}, judgments, {}, b=1.0).systems[0]
    assert plain.ndcg_10 == 1.0
    assert normed.ndcg_10 == pytest.approx(1 / math.log2(3))


def test_expansions_that_help_and_hurt() -> None:
    queries = {"a": "fruit", "b": "apple"}
    judgments = {"a": {"d2": 1}, "b": {"d2": 1}}
    texts = {"a": "lex: green apple -car\nvec: which apples are green", "b": "lex: red pie"}
    report = evaluate({"model": texts, "silent": {"a": " "}}, queries, judgments)
    raw, feedback, model, silent = report.systems
    assert [each.name for each in report.systems] == [RAW, FEEDBACK, "model", "silent"]
    assert (raw.ndcg_10, raw.recall_10) == (0.5, 0.5)
    assert (feedback.helped, feedback.hurt, feedback.difference) == (0.0, 0.0, 0.0)
    assert (model.helped, model.hurt) == (0.5, 0.5)
    assert model.difference == pytest.approx((1 + 1 / math.log2(3) - 1) / 2)
    assert model.low <= model.difference <= model.high
    assert silent.ndcg_10 == raw.ndcg_10
    assert "silent: queries without an expansion, searched raw: 2" in report.notices
    assert [line.split("  ")[0] for line in report.lines()[1:5]] == [each.name for each in report.systems]
    assert "-0." not in report.lines()[1] and "helped" in report.lines()[0]


def test_feedback_brings_words_of_the_best_documents() -> None:
    documents = [("d1", "jaguar cat prey"), ("d2", "cat prey forest"), ("d3", "engine oil")]
    raw, feedback = evaluate({}, {"q": "jaguar"}, {"q": {"d1": 1, "d2": 1}}, documents).systems
    assert raw.recall_100 == 0.5
    assert feedback.recall_100 == 1.0 and feedback.helped == 1.0


def test_feedback_leaves_out_words_of_many_documents() -> None:
    """Of 120 documents all hold "report"; only the rare word of the first one leads to its relative."""
    documents = [(f"d{number}", f"report number{number}") for number in range(118)]
    documents += [("first", "jaguar report"), ("second", "jaguar zoo report")]
    raw, feedback = evaluate({}, {"q": "zoo"}, {"q": {"first": 1}}, documents).systems
    assert (raw.recall_10, feedback.recall_10) == (0.0, 1.0)
    assert feedback.ndcg_10 == pytest.approx(1 / math.log2(3))


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Cities' boxes of GLASS, 2 buses", ["city", "boxe", "glass", "2", "buse"]),
        ("bus gas as is", ["bus", "ga"]),
        ("größe_x 東京", ["größe", "x", "東", "京"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_words_of_an_expansion() -> None:
    text = 'lex: "memory leak" python -java -"garbage day"\nVEC: well-known leaks\n-plain line'
    assert expansion_words(text) == ["memory", "leak", "python", "well", "known", "leak", "plain", "line"]


# --- properties -------------------------------------------------------------------------------

WORDS = st.lists(st.sampled_from(["fig", "lime", "pear", "plum", "kiwi"]), min_size=1, max_size=6)


@given(texts=st.lists(WORDS, min_size=1, max_size=8), query=WORDS, wanted=st.integers(0, 7))
def test_bm25_agrees_with_its_formula(texts: list[list[str]], query: list[str], wanted: int) -> None:
    documents = [(str(number), " ".join(words)) for number, words in enumerate(texts)]
    mean = sum(map(len, texts)) / len(texts)

    def score(words: list[str]) -> float:
        total = 0.0
        for word, weight in Counter(query).items():
            count, standing = words.count(word), sum(word in other for other in texts)
            inverse = math.log(1 + (len(texts) - standing + 0.5) / (standing + 0.5))
            total += weight * inverse * count * 2.2 / (count + 1.2 * (1 - 0.75 + 0.75 * len(words) / mean))
        return round(total, 9)

    relevant = str(wanted % len(texts))
    ranked = sorted(range(len(texts)), key=lambda number: (-score(texts[number]), number))
    rank = ranked.index(int(relevant)) + 1
    expected = 1 / math.log2(rank + 1) if score(texts[int(relevant)]) else 0.0
    report = evaluate_retrieval(documents, {"q": " ".join(query)}, {"q": {relevant: 1}}, {}, k1=1.2, b=0.75)
    scores = [score(words) for words in texts]
    if scores.count(scores[int(relevant)]) == 1:  # a sum in another order may break an exact tie
        assert report.systems[0].ndcg_10 == pytest.approx(expected)


@given(
    ranked=st.lists(st.sampled_from("abcdefgh"), unique=True),
    relevant=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 3), min_size=1),
)
def test_ndcg_is_a_share_and_one_for_the_ideal(ranked: list[str], relevant: dict[str, int]) -> None:
    assert 0 <= ndcg(ranked, relevant, 10) <= 1 + 1e-12
    ideal = sorted(relevant, key=lambda name: -relevant[name])
    assert ndcg(ideal, relevant, 10) == pytest.approx(1)


@given(values=st.lists(st.floats(-1, 1), min_size=2, max_size=30))
def test_the_interval_lies_inside_the_values(values: list[float]) -> None:
    low, high = paired_interval(values)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert paired_interval(values) == (low, high)


def test_the_interval_is_as_wide_as_the_spread_of_the_mean() -> None:
    values = [0.0, 1.0] * 50
    low, high = paired_interval(values)
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)
    assert paired_interval([0.3]) == (-math.inf, math.inf)


# --- files --------------------------------------------------------------------------------------


def test_a_collection_from_files(tmp_path: Path) -> None:
    rows = [{"_id": name, "title": "T", "text": text} for name, text in DOCUMENTS]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "q.tsv").write_text("q1\tapple\n\nq2\tcar\n", encoding="utf-8")
    (tmp_path / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td9\t1\nq2\td3\t1\nq3\td1\t1\n", encoding="utf-8"
    )
    options = {"documents": "docs.jsonl", "queries": "q.tsv", "judgments": "qrels.tsv", "skip": "x"}
    collection = load_collection(tmp_path, options)
    assert collection is not None
    assert next(collection.texts()) == ("d1", "T\nRed apple pie")
    report = evaluate_retrieval(collection.texts(), collection.queries, collection.judgments, {})
    assert (report.query_count, report.document_count) == (2, 3)
    assert report.notices == ("judgments: relevant documents that are not in the collection: 1",)
    assert load_collection(tmp_path / "docs.jsonl", options) == collection
    assert load_collection(tmp_path, {"skip": "x"}) is None


def test_texts_with_a_header_and_without(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('id\ttext\n1\t"x\ty"\n', encoding="utf-8")
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(b'1\t"x\ty"\n'))
    (tmp_path / "c.csv").write_text("qid,query\n7,seven\n", encoding="utf-8")
    assert list(read_texts(tmp_path / "a.tsv")) == [("1", "x\ty")]
    assert list(read_texts(tmp_path / "b.tsv.gz")) == [("1", '"x\ty"')]
    assert list(read_texts(tmp_path / "c.csv")) == [("7", "seven")]


def test_judgments_of_trec(tmp_path: Path) -> None:
    path = tmp_path / "qrels.txt"
    path.write_text("q1 0 d1 2\nq1 Q0 d2 0\nq2\t0\td1\t-1\n", encoding="utf-8")
    assert read_judgments(path) == {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1 0 d1 2\nq1 0 d2 yes\n", "qrels.txt, line 2: is not a relevance judgment"),
        ("q1 d1\n", "line 1: is not a relevance judgment"),
        ("a b c\n\nd e f\n", "line 3: is not a relevance judgment"),
        ("qid docid grade\n", "holds no relevance judgments"),
        ("", "is empty"),
    ],
)
def test_judgments_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "qrels.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_judgments(path)
    assert caught.value.hint


def test_texts_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"number": 1, "words": "x"}\n', encoding="utf-8")
    (tmp_path / "b.tsv").write_text("1\tx\nyz\n", encoding="utf-8")
    with pytest.raises(DataError, match="needs a column for the id and one for the text; it has: number, words"):
        list(read_texts(tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match=r"b.tsv, line 2: has no tab"):
        list(read_texts(tmp_path / "b.tsv"))


def test_options_that_do_not_make_a_collection(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="has documents, but measuring retrieval needs"):
        load_collection(tmp_path, {"documents": "docs.jsonl"})
    names = {"documents": "docs.jsonl", "queries": "q.jsonl", "judgments": "qrels.tsv"}
    with pytest.raises(DataError, match=r"q.jsonl: no such file \(\[data.options\] queries\)"):
        load_collection(tmp_path, names)


def test_ids_that_do_not_meet() -> None:
    with pytest.raises(
        DataError, match="none of the 1 queries has a relevant document among the 3 documents"
    ) as caught:
        evaluate({}, {"q": "apple"}, {"q": {"d9": 1}})
    assert "same ids" in caught.value.hint
    with pytest.raises(DataError, match="no documents"):
        evaluate({}, {"q": "apple"}, {"q": {"d1": 1}}, [])
    report = evaluate({}, {"q": "apple", "r": "x"}, {"q": {"d1": 1}}, [*DOCUMENTS, ("d1", "again")])
    assert set(report.notices[:2]) == {
        "documents: documents whose id occurred before, left out: 1",
        "queries: queries without a relevant document, not measured: 1",
    }
