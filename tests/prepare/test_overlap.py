"""What train and the held-out parts share: counted as the definitions say, reported, and refused beyond the limit."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import ToyAdapter, log_documents, toy_recipe

from slm_ar.core.contracts import Document, DuplicatePolicy
from slm_ar.core.errors import DataError
from slm_ar.core.prepare import pipeline
from slm_ar.core.prepare.heldout import read_split
from slm_ar.core.prepare.near import NEAR, words_of
from slm_ar.core.prepare.overlap import NGRAM_WORDS, HeldIndex
from slm_ar.core.prepare.pipeline import PreparedData, prepare


@pytest.fixture(autouse=True)
def no_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "measure_floors", lambda train, dev: {"ppmd-6": 2.0})


def story(seed: int, words: int = 90) -> str:
    pick = random.Random(f"story {seed}")
    return " ".join("".join(pick.choices("abcdefghij", k=4)) for _ in range(words)) + "\n"


def nearly(text: str) -> str:
    words = text.split(" ")
    words[40] = "other"
    return " ".join(words)


def runs(text: str, size: int) -> list[tuple[str, ...]]:
    words = words_of(text)
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


def similarity(first: str, second: str) -> float:
    one, two = (set(runs(text, min(5, len(words_of(text))) or 1)) for text in (first, second))
    return len(one & two) / len(one | two) if one and two else 0.0


# --- the index ----------------------------------------------------------------------------------


texts = st.lists(st.lists(st.sampled_from("abc"), max_size=30).map(" ".join), max_size=8)


@given(texts, texts)
@settings(max_examples=150, deadline=None)
def test_the_report_is_what_the_definitions_give(held: list[str], train: list[str]) -> None:
    index = HeldIndex(("dev", str(number), text) for number, text in enumerate(held))
    for start in range(0, len(train), 3):
        index.note_train(train[start : start + 3])
    report = index.report()
    assert list(report) == (["dev"] if held else [])
    if not held:
        return
    near = [max((similarity(text, other) for other in train), default=0.0) >= NEAR for text in held]
    in_train = {run for text in train for run in runs(text, NGRAM_WORDS)}
    grams = [run in in_train for text in held for run in runs(text, NGRAM_WORDS)]
    # Equal held-out texts are one for `exact`; an equal text without words is not near but equal.
    assert report["dev"].documents == len(held)
    assert report["dev"].near >= sum(near)
    assert report["dev"].near - sum(near) <= report["dev"].exact
    assert report["dev"].ngram_percent == pytest.approx(100 * sum(grams) / len(grams) if grams else 0.0, abs=0.01)


def test_splits_are_counted_apart() -> None:
    index = HeldIndex([("dev", "a", story(1)), ("dev", "b", story(2)), ("test", "c", story(3)), ("test", "d", "")])
    index.note_train([story(1), nearly(story(3)), story(9)])
    report = index.report()
    assert (report["dev"].exact, report["dev"].near, report["dev"].near_percent) == (1, 1, 50)
    assert (report["test"].exact, report["test"].near) == (0, 1)
    assert report["dev"].ngram_percent == pytest.approx(50, abs=0.01)
    assert 70 < report["test"].ngram_percent < 100


def test_a_text_is_looked_up_without_being_noted() -> None:
    index = HeldIndex([("dev", "a", story(1)), ("test", "b", story(2))])
    assert index.equal(story(2).rstrip()) == 1 and index.equal(nearly(story(2))) is None
    assert index.near(nearly(story(2))) == 1 and index.near(story(3)) is None
    assert index.report()["test"].near == 0


def test_a_text_that_holds_a_held_out_one_or_stands_in_one_is_found() -> None:
    index = HeldIndex([("dev", "a", story(1)), ("test", "b", story(2)), ("test", "name", "Anna Bell\n")])
    whole = story(8) + story(2) + story(9)
    assert index.near(whole) is None and index.inside(whole) == 1
    assert index.inside(story(8) + nearly(story(1)) + story(9)) == 0
    assert index.inside(" ".join(story(1).split()[10:30])) == 0, "the other way round"
    assert index.inside("Carl Dell\nAnna Bell\n") == 2, "too short for word 5-grams: a line of its own"
    assert index.inside(story(8) + story(9)) is None and index.inside("Anna Bell came home") is None
    assert index.inside(" ".join(story(2).split()[:45]) + story(8)) is None, "half of it is not most of it"
    assert HeldIndex([]).inside(story(1)) is None


def test_nothing_held_out_is_nothing_shared() -> None:
    index = HeldIndex([])
    index.note_train(["some text"])
    index.note_train([])
    assert index.near("some text") is None and index.report() == {}


# --- prepare ------------------------------------------------------------------------------------


def prepared(tmp_path: Path, documents: list[Document], policy: str = "exact", **data: object) -> PreparedData:
    source = tmp_path / "source"
    source.mkdir(parents=True, exist_ok=True)
    (source / "days.txt").write_text("day\n", encoding="utf-8")
    adapter = ToyAdapter(documents)
    adapter.duplicates = DuplicatePolicy(policy)  # type: ignore[misc]
    recipe = toy_recipe(data=data)
    return prepare(recipe, adapter, source, tmp_path / "workspace" / ".slm" / "data", lambda line: None)


def with_near_copies(copies: int) -> list[Document]:
    """Days whose newest ones stand among the oldest as well, but for one word."""
    days = [Document(f"day {n}", story(n), f"group {n}", f"2024-{1 + n // 28:02d}-{1 + n % 28:02d}") for n in range(80)]
    old = [
        replace(day, id=f"copy of {day.id}", group=f"copy {day.group}", time="2020-01-01", text=nearly(day.text))
        for day in days[-copies:]
    ]
    return [*old, *days]


def test_the_manifest_tells_the_overlap_of_every_held_out_split(tmp_path: Path) -> None:
    data = prepared(tmp_path, log_documents(60))
    assert list(data.manifest.overlap) == ["dev", "hidden", "test"]
    for name, item in data.manifest.overlap.items():
        assert item.documents == data.manifest.splits[name].documents
        assert (item.exact, item.near) == (0, 0)
    assert not [line for line in data.manifest.warnings if "few words" in line]


def test_near_copies_are_counted_and_warned_of(tmp_path: Path) -> None:
    data = prepared(tmp_path, with_near_copies(2))
    assert data.manifest.overlap["test"].near == 2
    assert data.manifest.overlap["test"].ngram_percent > 10
    assert [line for line in data.manifest.warnings if "of the documents of test differ from one of train" in line]
    assert data.manifest.near_dropped == data.manifest.near_kept == 0


def test_shared_13_grams_are_warned_of_when_groups_are_dealt_by_hash(tmp_path: Path) -> None:
    words = story(1, 4000).split()
    windows = [
        Document(f"w{n}", " ".join(words[20 * n : 20 * n + 60]) + "\n", f"w{n}", f"2024-{1 + n // 28:02d}-01")
        for n in range(190)
    ]
    data = prepared(tmp_path / "a", windows, split="group")
    assert data.manifest.overlap["test"].near == 0 and data.manifest.overlap["test"].ngram_percent >= 40
    (line,) = [line for line in data.manifest.warnings if "13-grams of test stand in train" in line]
    assert "max_overlap_percent" in line
    assert not [line for line in prepared(tmp_path / "b", windows).manifest.warnings if "13-grams" in line], "by time"


def test_too_many_near_copies_are_refused_and_the_recipe_moves_the_limit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="documents of test") as error:
        prepared(tmp_path, with_near_copies(8))
    assert 'duplicates = "near"' in error.value.hint and "max_overlap_percent" in error.value.hint
    assert not list((tmp_path / "workspace" / ".slm" / "data").iterdir())
    assert prepared(tmp_path, with_near_copies(8), max_overlap_percent=100).manifest.overlap["test"].near_percent > 50
    with pytest.raises(DataError, match="limit: 2 %"):
        prepared(tmp_path, with_near_copies(3), max_overlap_percent=2)


def test_the_policy_near_drops_the_later_copy_before_the_split(tmp_path: Path) -> None:
    documents = with_near_copies(8)
    data = prepared(tmp_path, documents, "near", max_overlap_percent=0)
    assert data.manifest.duplicate_policy == "near"
    assert (data.manifest.near_dropped, data.manifest.duplicates_dropped) == (8, 0)
    assert sum(size.documents for size in data.manifest.splits.values()) == 80
    assert {item.near for item in data.manifest.overlap.values()} == {0}
    held = {item.document.id for name in ("dev", "hidden", "test") for item in read_split(data.held_folder, name)}
    assert not held & {document.id for document in documents[-8:]}, "the earlier copy stays, and it is old"


def test_the_policy_near_drops_what_differs_in_case_and_punctuation_alone(tmp_path: Path) -> None:
    documents = with_near_copies(1)[1:]
    shout = replace(documents[5], id="shout", text=documents[5].text.upper().replace(" ", ", "))
    assert prepared(tmp_path, [*documents, shout], "near").manifest.duplicates_dropped == 1
    assert prepared(tmp_path, [*documents, shout], "exact").manifest.duplicates_dropped == 0


def test_the_policy_report_keeps_and_counts(tmp_path: Path) -> None:
    documents = with_near_copies(2)
    again = replace(documents[10], id="again")  # in the same group, so nothing straddles
    data = prepared(tmp_path, [*documents, again], duplicates="report")
    assert (data.manifest.duplicates_kept, data.manifest.near_kept) == (1, 2)
    assert sum(size.documents for size in data.manifest.splits.values()) == 83


def test_the_recipe_may_choose_the_policy(tmp_path: Path) -> None:
    data = prepared(tmp_path, with_near_copies(2), "report", duplicates="near")
    assert (data.manifest.duplicate_policy, data.manifest.near_dropped) == ("near", 2)
