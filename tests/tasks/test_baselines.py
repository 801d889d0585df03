"""Baselines see what stands before the answer, learn from train alone, and answer the questions that models answer."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from slm_ar.core.contracts import Document, Span, Task
from slm_ar.core.errors import DataError
from slm_ar.core.prepare import answers
from slm_ar.core.prepare.answers import (
    TrainExample,
    choose_questions,
    collect_examples,
    example_of,
    fill_choices,
    number,
    read_answers,
    write_answers,
)
from slm_ar.core.prepare.heldout import HeldDocument
from slm_ar.core.sources import Notices
from slm_ar.core.tasks import baselines
from slm_ar.core.tasks.baselines import measure_baselines
from slm_ar.core.tasks.metrics import paired_interval
from slm_ar.core.tasks.predictions import read_predictions
from slm_ar.core.tasks.record_fields import FieldTable, record_fields, series_before

DELAY = Task("delay", "value", "mae", "min", bins=(0, 5, 10))
CAUSE = Task("cause", "choice", "accuracy", "max")


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests need to know that trees learn, not how far they come."""
    monkeypatch.setattr(baselines, "MOST_ROUNDS", 20)


def marked(identity: str, text: str, task: str = "delay") -> Document:
    """A document whose answers stand between [ and ]; the brackets are taken out."""
    parts, spans, at = [], [], 0
    for piece in text.split("["):
        gold, closing, rest = piece.partition("]")
        if closing:
            size = len(gold.encode())
            spans.append(Span(at, at + size, task))
            piece = gold + rest
        parts.append(piece)
        at += len(piece.encode())
    return Document(identity, "".join(parts), identity, None, tuple(spans))


def day(seed: int, task: str = "delay") -> Document:
    """A service day in which the line decides the delay, and the cause as well."""
    pick = random.Random(seed)
    lines = []
    for minute in range(300, 900, 40):
        line, stop = pick.choice(("A", "B", "C")), pick.choice(("Zoo", "Käthe-Platz"))
        answer = {"A": 2, "B": 12, "C": 30}[line] if task == "delay" else {"A": "door", "B": "crew", "C": "ice"}[line]
        lines.append(f"{minute // 60:02d}:{minute % 60:02d} {line} | {stop} | [{answer}] | 7\n")
    return marked(f"day {seed}", f"bus Mon Dec {seed % 28}\n" + "".join(lines), task)


def held(documents: Sequence[Document]) -> list[HeldDocument]:
    return [HeldDocument(document, {"parity": str(len(document.id) % 2)}) for document in documents]


# --- examples ---------------------------------------------------------------------------------


def test_an_example_ends_before_its_answer() -> None:
    document = marked("d", "bus Mon\n05:50 35 | Zoo | [12] | 20\n06:10 7 | Käthe | [3] | 1\n")
    first, second = (example_of(document, index, "value") for index in (0, 1))
    assert first == TrainExample("delay", "05:50 35 | Zoo | ", "12", None, "bus Mon")
    assert second == TrainExample("delay", "06:10 7 | Käthe | ", "3", "12", "bus Mon")


def test_an_answer_that_opens_its_line_is_told_by_the_line_before() -> None:
    document = marked("d", "title\nis it good?\n\n[yes]\n", "cause")
    assert example_of(document, 0, "choice").prompt_line == "is it good?\n\n"
    assert example_of(marked("d", "[yes] it is\n", "cause"), 0, "choice").prompt_line == ""


def test_a_generated_text_is_told_by_its_whole_prompt() -> None:
    document = marked("d", "query\nlex: a\n[vec: b]\n", "expand")
    assert example_of(document, 0, "generate") == TrainExample("expand", "query\nlex: a\n", "vec: b", None)


def test_answers_of_train_are_written_and_read_back(tmp_path: Path) -> None:
    documents = [day(seed) for seed in range(3)]
    path = tmp_path / "answers.jsonl"
    assert write_answers(path, iter(documents), [DELAY]) == 45
    examples = read_answers(path)
    assert [example.answer for example in examples[:15]] == [
        documents[0].text.encode()[span.start : span.end].decode() for span in documents[0].spans
    ]
    assert sum(example.previous_answer is None for example in examples) == 3


def test_at_most_so_many_examples_are_kept_by_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [day(seed) for seed in range(6)]
    everything = collect_examples(documents, [DELAY])
    monkeypatch.setattr(answers, "MOST_EXAMPLES", 10)
    kept = collect_examples(documents, [DELAY])
    assert len(everything) == 90
    assert len(kept) == 10
    assert set(kept) <= set(everything)
    assert set(collect_examples(documents[::-1], [DELAY])) == set(kept)
    assert len({example.prompt_line[:5] for example in kept}) > 3


def test_a_gold_answer_that_is_no_number_names_its_document() -> None:
    with pytest.raises(DataError, match=r"document 'd' \(span 0\) is no number"):
        collect_examples([marked("d", "x | [late]\n")], [DELAY])


def test_a_missing_or_damaged_file_says_how_to_repair_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="slm-ar prepare"):
        read_answers(tmp_path / "answers.jsonl")
    (tmp_path / "answers.jsonl").write_text('{"task": 1}\n')
    with pytest.raises(DataError, match="cannot be read"):
        read_answers(tmp_path / "answers.jsonl")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        (" -0.5 ", -0.5),
        ("+3.", 3),
        (".5", 0.5),
        ("1e3", 1000),
        *((text, None) for text in ("1,5", "", "nan", "1e999", "٣", "1_000", "0x10", "--1", "12 min")),
    ],
)
def test_numbers_are_digits_sign_point_and_exponent(text: str, value: float | None) -> None:
    assert number(text) == value


def test_choices_are_the_most_frequent_answers_of_train() -> None:
    examples = [TrainExample("cause", "", f"c{n}", None) for n in range(100) for _ in range(100 - n)]
    filled = fill_choices(CAUSE, examples)
    assert filled.choices == tuple(f"c{n}" for n in range(64))
    rare = Task("cause", "choice", "pr_auc", "max", positive="c99")
    assert fill_choices(rare, examples).choices == (*(f"c{n}" for n in range(63)), "c99")
    given = Task("cause", "choice", "accuracy", "max", choices=("a",))
    assert fill_choices(given, examples) is given
    assert fill_choices(DELAY, examples) is DELAY


# --- fields -----------------------------------------------------------------------------------


def test_fields_have_names_or_places() -> None:
    example = TrainExample("t", "05:50 35 | JANE STATION | amount: 12.5 | label: ", "x", None, "bus Mon Dec 30")
    assert record_fields(example) == {
        "header 1": "bus",
        "header 2": "Mon",
        "header 3": "Dec",
        "header -1": "30",
        "header -2": "Dec",
        "header -3": "Mon",
        "hour": "5.833",
        "field 1": "35",
        "field 2": "JANE STATION",
        "amount": "12.5",
        "field 4": "label:",
    }


def test_a_series_in_a_record_is_seen() -> None:
    assert series_before(TrainExample("t", "product: P1 | last: 3 5 6 2 | next: ", "4", None)) == [3, 5, 6, 2]
    assert series_before(TrainExample("t", "05:50 35 | JANE | ", "4", None)) == []


def test_columns_are_numbers_or_categories() -> None:
    rows = [("1", "x"), ("2", "y"), ("many", "x"), ("4", "y"), ("?", "x")]
    examples = [TrainExample("t", f"n: {n} | c: {c} | same: 1 | ", "0", None) for n, c in rows * 2]
    table = FieldTable(examples)
    assert table.columns == ["c", "n"]
    assert table.is_categorical == [True, True]  # a quarter of n is no number
    numbers = FieldTable([example for example in examples if "many" not in example.prompt_line])
    assert numbers.is_categorical == [True, False]
    assert str(numbers.matrix(examples[-1:]).tolist()) == "[[0.0, nan]]"
    new = TrainExample("t", "n: 9 | c: never seen | ", "0", None)
    assert str(numbers.matrix([new]).tolist()) == "[[nan, 9.0]]"


def test_free_text_is_no_category() -> None:
    examples = [TrainExample("t", f"city: {'ab'[n % 2]} | message: {n} words | n: {n} | ", "0", None) for n in range(8)]
    assert FieldTable(examples).columns == ["city", "n"]


# --- baselines --------------------------------------------------------------------------------


def test_baselines_of_a_value() -> None:
    examples = collect_examples([day(seed) for seed in range(40)], [DELAY])
    found = measure_baselines([DELAY], examples, held([day(seed) for seed in range(100, 106)]), "dev")["delay"]
    assert list(found) == ["median", "last value", "gradient boosting"]
    assert found["gradient boosting"].metrics["mae"] < 2 < found["median"].metrics["mae"]
    assert found["gradient boosting"].metrics["accuracy"] > 0.95
    golds = [float(answer.gold) for answer in found["median"].answers]
    assert found["median"].metrics["mae"] == pytest.approx(sum(abs(gold - 12) for gold in golds) / len(golds))
    assert set(found["median"].slices) == {"parity"}


def test_the_last_value_is_the_answer_before_in_the_document() -> None:
    examples = collect_examples([marked("t", "a | [5]\na | [7]\na | [9]\n")], [DELAY])
    documents = held([marked("d", "a | [1]\na | [2]\na | [4]\n")])
    score = measure_baselines([DELAY], examples, documents, "dev")["delay"]["last value"]
    assert [answer.answer for answer in score.answers] == ["7.0", "1", "2"]


def test_a_series_brings_its_own_last_values() -> None:
    examples = collect_examples([marked(f"t{n}", f"sold: 1 2 3 | next: [{n}]\n") for n in range(9)], [DELAY])
    documents = held([marked("d", "sold: 4 5 9 | next: [7]\n")])
    found = measure_baselines([DELAY], examples, documents, "dev")["delay"]
    assert found["last value"].answers[0].answer == "9.0"
    assert found["mean of the last 8"].answers[0].answer == "6.0"


def test_baselines_of_a_choice() -> None:
    examples = collect_examples([day(seed, "cause") for seed in range(40)], [CAUSE])
    documents = held([day(seed, "cause") for seed in range(100, 106)])
    found = measure_baselines([CAUSE], examples, documents, "dev")["cause"]
    assert list(found) == ["most frequent answer", "last value", "TF-IDF + logistic regression", "gradient boosting"]
    for name in ("TF-IDF + logistic regression", "gradient boosting"):
        assert found[name].metrics["accuracy"] == 1
        assert found[name].metrics["log_loss"] < 0.2
    common = found["most frequent answer"]
    assert common.metrics["accuracy"] < 0.6
    assert len({answer.answer for answer in common.answers}) == 1
    assert "log_loss" not in found["last value"].metrics
    delta, low, high = paired_interval(CAUSE, found["gradient boosting"], common)
    assert 0 < low <= delta <= high


def test_words_that_say_nothing_cost_nothing() -> None:
    """Logistic regression is held back as strongly as train itself advises, or it would learn noise by heart."""
    pick = random.Random(5)

    def noise(n: int) -> Document:
        words = " ".join(str(pick.randrange(400)) for _ in range(8))
        return marked(f"d{n}", f"{words} | [{pick.choice('aaab')}]\n", "cause")

    examples = collect_examples([noise(n) for n in range(700)], [CAUSE])
    found = measure_baselines([CAUSE], examples, held([noise(n) for n in range(300)]), "dev")["cause"]
    learned, common = found["TF-IDF + logistic regression"], found["most frequent answer"]
    assert learned.metrics["log_loss"] < common.metrics["log_loss"] + 0.02


def test_the_shares_of_the_most_frequent_answer_are_those_of_train() -> None:
    examples = [TrainExample("cause", "", answer, None) for answer in "aaab"]
    task = Task("cause", "choice", "accuracy", "max", choices=("a", "b", "c"), positive="b")
    documents = held([marked("d", "x [b]\n", "cause")])
    score = measure_baselines([task], examples, documents, "dev")["cause"]["most frequent answer"]
    (answer,) = score.answers
    assert (answer.answer, answer.probability) == ("a", pytest.approx(2 / 7))


def test_one_class_or_no_field_leaves_learned_baselines_out() -> None:
    examples = [TrainExample("cause", "same | ", "a", None)] * 5
    documents = held([marked("d", "same | [a]\n", "cause")])
    assert list(measure_baselines([CAUSE], examples, documents, "dev")["cause"]) == ["most frequent answer"]
    examples = [TrainExample("delay", "same | ", str(n), None) for n in range(5)]
    documents = held([marked("d", "same | [3]\n")])
    assert list(measure_baselines([DELAY], examples, documents, "dev")["delay"]) == ["median"]


def test_tasks_without_examples_or_questions_are_absent() -> None:
    documents = held([day(1)])
    assert measure_baselines([DELAY], [], documents, "dev") == {}
    assert measure_baselines([CAUSE], collect_examples([day(1, "cause")], [CAUSE]), documents, "dev") == {}


class Expander:
    """An adapter that rates texts and offers a baseline."""

    def __init__(self, short: bool = False) -> None:
        self.short = short

    def rate(self, task: str, prompt: str, gold: str, answer: str) -> Mapping[str, float]:
        return {"recall": float(gold in answer)}

    def baseline_answers(
        self, task: str, train: Sequence[tuple[str, str]], prompts: Sequence[str]
    ) -> Mapping[str, Sequence[str]]:
        assert train[0] == ("red apple\n", "fruit")
        copies = [prompt.strip() for prompt in prompts]
        return {"copy": copies[1:] if self.short else copies}


EXPAND = Task("expand", "generate", "recall", "max")
PAIRS = (("red apple", "fruit"), ("red apple pie", "fruit"), ("blue whale", "animal"))


def expansions() -> tuple[list[TrainExample], list[HeldDocument]]:
    train = [marked(query, f"{query}\n[{target}]\n", "expand") for query, target in PAIRS]
    return collect_examples(train, [EXPAND]), held([marked("q", "the whale\n[animal]\n", "expand")])


def test_baselines_of_generated_text_come_from_neighbours_and_the_adapter() -> None:
    examples, documents = expansions()
    found = measure_baselines([EXPAND], examples, documents, "dev", Expander())["expand"]
    assert {name: score.answers[0].answer for name, score in found.items()} == {
        "most frequent answer": "fruit",
        "nearest neighbour": "animal",
        "copy": "the whale",
    }
    assert found["nearest neighbour"].metrics == {"recall": 1.0, "exact_match": 1.0}


def test_an_adapter_that_forgets_an_answer_is_told() -> None:
    examples, documents = expansions()
    with pytest.raises(DataError, match="gave 0 answers for 1 prompts under 'copy'"):
        measure_baselines([EXPAND], examples, documents, "dev", Expander(short=True))


def test_every_baseline_answers_every_question_in_the_same_order() -> None:
    examples = collect_examples([day(seed) for seed in range(10)], [DELAY])
    documents = held([day(seed) for seed in range(100, 160)])
    questions = [(question.document.id, question.index) for question in choose_questions(documents, DELAY)]
    assert len(questions) == 500
    for score in measure_baselines([DELAY], examples, documents, "dev")["delay"].values():
        assert [(answer.document, answer.span) for answer in score.answers] == questions


def test_the_house_of_baselines_knows_every_kind() -> None:
    assert set(baselines.BASELINES) == {"choice", "value", "generate"}


# --- a file of predictions --------------------------------------------------------------------


QUESTIONS = held([marked("a", "x | [1]\n"), marked("b", "x | [2]\ny | [3]\n")])
GOOD = [
    {"document": "a", "answer": 1},
    {"document": "b", "span": 0, "answer": "2.5"},
    {"document": "b", "span": 1, "answer": 3},
]


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_file_of_answers_is_scored_on_the_same_questions(tmp_path: Path) -> None:
    rows = [*GOOD, {"document": "of another split", "answer": 4}]
    notices = Notices()
    path = write_rows(tmp_path / "vendor.jsonl", rows)
    score = read_predictions(path, QUESTIONS, DELAY, "dev", notices=notices)
    assert score.metrics["mae"] == pytest.approx(0.5 / 3)
    assert [answer.answer for answer in score.answers] == ["1", "2.5", "3"]
    assert notices.lines() == [f"{path}: lines about documents that are not in dev, ignored: 1"]


def test_a_table_will_do_too(tmp_path: Path) -> None:
    path = tmp_path / "vendor.csv"
    path.write_text("id,span,answer\na,,1\nb,0,2\nb,1.0,3\n", encoding="utf-8")
    assert read_predictions(path, QUESTIONS, DELAY, "dev").metrics["mae"] == 0


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (GOOD[:1], ["2 questions without an answer: document 'b' span 0; document 'b' span 1"]),
        (
            [{"document": "A", "answer": 1}, *GOOD[1:]],
            ["1 questions without an answer: document 'a' span 0", "1 lines about unknown documents: 'A'"],
        ),
        ([*GOOD[:2], {"document": "b", "answer": 3}], ["1 lines without a span: row 3: document 'b' has 2 answers"]),
        (
            [*GOOD, {"document": "b", "span": 7, "answer": 3}],
            ["1 spans that do not exist: row 4: document 'b' has no answer 7"],
        ),
        ([*GOOD[:2], {"document": "b", "span": 1, "answer": "late"}], ["1 answers that are no numbers: row 3: 'late'"]),
        ([*GOOD, GOOD[0]], ["1 questions answered twice: rows 1 and 4: document 'a'"]),
        ([GOOD[0] | {"probability": 7}, *GOOD[1:]], ["1 probabilities outside 0 to 1: row 1: '7'"]),
        (
            [{"document": "a"}, *GOOD[1:]],
            ["1 lines without an answer: row 1: document 'a'", "1 questions without an answer: document 'a' span 0"],
        ),
        (
            [GOOD[0] | {"probability": 0.7}, *GOOD[1:]],
            ["2 lines without a probability, where others have one: row 2; row 3"],
        ),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, rows: list[Mapping[str, object]], words: list[str]) -> None:
    path = write_rows(tmp_path / "vendor.jsonl", rows)
    with pytest.raises(DataError) as caught:
        read_predictions(path, QUESTIONS, DELAY, "dev")
    for expected in words:
        assert expected in caught.value.message
    assert "3 questions of task 'delay' in dev" in caught.value.message
    assert '{"document": "a", "span": 0, "answer": "12.5"}' in caught.value.hint


def test_every_problem_stands_in_one_error(tmp_path: Path) -> None:
    rows = [{"document": f"x{n}", "answer": "?"} for n in range(9)] + [{"document": "a", "answer": "?"}]
    path = write_rows(tmp_path / "vendor.jsonl", rows)
    path.write_text(path.read_text() + "[not json\n")
    with pytest.raises(DataError) as caught:
        read_predictions(path, QUESTIONS, DELAY, "dev")
    message = caught.value.message
    assert "9 lines about unknown documents: 'x0'; 'x1'; 'x2' ..." in message
    assert "1 answers that are no numbers" in message
    assert "3 questions without an answer" in message
    assert "1 damaged lines" in message


def test_columns_that_are_missing_are_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "vendor.jsonl", [{"doc": "a", "answer": 1}])
    with pytest.raises(DataError, match="has no column document; its columns are doc, answer"):
        read_predictions(path, QUESTIONS, DELAY, "dev")
    path = write_rows(tmp_path / "vendor.jsonl", [{"id": "a", "prediction": 1}])
    with pytest.raises(DataError, match="has no column answer"):
        read_predictions(path, QUESTIONS, DELAY, "dev")


def test_another_vocabulary_is_refused_and_a_strange_word_is_wrong(tmp_path: Path) -> None:
    task = Task("cause", "choice", "accuracy", "max", choices=("ham", "spam"), positive="spam")
    documents = held(
        [marked(name, f"x [{gold}]\n", "cause") for name, gold in zip("abcd", ["ham"] * 3 + ["spam"], strict=True)]
    )

    def rows(*labels: str) -> list[Mapping[str, object]]:
        return [{"id": name, "answer": label} for name, label in zip("abcd", labels, strict=True)]

    path = write_rows(tmp_path / "vendor.jsonl", rows("Ham", "Ham", "Ham", "spam"))
    with pytest.raises(DataError, match="3 answers that are none of the choices: row 1: 'Ham' Did you mean 'ham'"):
        read_predictions(path, documents, task, "dev")
    path = write_rows(tmp_path / "vendor.jsonl", rows("ham", "ham", "no idea", "spam"))
    notices = Notices()
    score = read_predictions(path, documents, task, "dev", notices=notices)
    assert score.metrics["accuracy"] == 0.75
    assert score.metrics["f1"] == 1
    assert notices.lines() == [f"{path}: answers that are none of the choices, counted as wrong: 1"]
    path = tmp_path / "vendor.csv"
    path.write_text("id, answer\n" + "".join(f"{row['id']}, {row['answer']}\n" for row in rows(*["ham"] * 3, "spam")))
    assert read_predictions(path, documents, task, "dev").metrics["accuracy"] == 1


def test_a_choice_that_has_blanks_itself_is_found(tmp_path: Path) -> None:
    task = Task("cause", "choice", "accuracy", "max", choices=(" ham", "spam"))
    path = write_rows(tmp_path / "vendor.jsonl", [{"id": "a", "answer": " ham"}, {"id": "b", "answer": "spam "}])
    documents = held([marked("a", "x [ ham]\n", "cause"), marked("b", "x [spam]\n", "cause")])
    assert read_predictions(path, documents, task, "dev").metrics["accuracy"] == 1


def test_a_file_may_answer_several_tasks(tmp_path: Path) -> None:
    """As `slm-ar predict` writes them: a line says which task it answers."""
    rows = [row | {"task": "delay"} for row in GOOD] + [{"document": "a", "task": "cause", "answer": "rain"}]
    path = write_rows(tmp_path / "vendor.jsonl", rows)
    notices = Notices()
    assert read_predictions(path, QUESTIONS, DELAY, "dev", notices=notices).metrics["mae"] == pytest.approx(0.5 / 3)
    assert notices.lines() == [f"{path}: lines about other tasks, ignored: 1"]
    path = write_rows(tmp_path / "other.jsonl", [row | {"task": "delays"} for row in GOOD])
    with pytest.raises(DataError, match="3 lines about other tasks: 'delays'; 'delays'"):
        read_predictions(path, QUESTIONS, DELAY, "dev")


def test_escape_sequences_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;gone\x07\u202e"
    wrong_rows = [{"document": f"{evil}x", "answer": 1}, {"document": "a", "answer": evil}]
    for rows in (wrong_rows, [{evil: 1}], [{"document": "a", "answer": 1, "task": evil}]):
        path = write_rows(tmp_path / "vendor.jsonl", rows)
        with pytest.raises(DataError) as caught:
            read_predictions(path, QUESTIONS, DELAY, "dev")
        told = str(caught.value)
        assert told.replace("\n", "").isprintable()
        assert "\\x1b]0;gone\\x07\\u202e" in told


def test_a_file_for_a_task_that_the_split_does_not_ask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no answer of task 'cause'"):
        read_predictions(tmp_path / "any.jsonl", QUESTIONS, CAUSE, "dev")


def test_texts_of_a_vendor_are_rated(tmp_path: Path) -> None:
    _, documents = expansions()
    path = write_rows(tmp_path / "vendor.jsonl", [{"id": "q", "answer": "an animal"}])
    score = read_predictions(path, documents, EXPAND, "dev", rater=Expander())
    assert score.metrics == {"recall": 1.0, "exact_match": 0.0}
