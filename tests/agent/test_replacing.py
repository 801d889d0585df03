"""Search/replace edits: exact and once, one second chance for white space, and a reason for everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import TINY_TRAIN_PY

from slm_ar.core.agent.replacing import MOST_BYTES, MOST_EDITS, Edit, apply_edits, fenced_edits
from slm_ar.core.errors import TrainingError

CODE = "def f():\n    a = 1\n    return a\n\n\ndef g():\n    a = 2\n    return a\n"
LINES = TINY_TRAIN_PY.splitlines()


def test_an_edit_replaces_what_stands_once() -> None:
    assert apply_edits(CODE, [Edit("a = 1", "a = 10")]) == CODE.replace("a = 1", "a = 10")


def test_edits_apply_one_after_the_other() -> None:
    after = apply_edits(CODE, [Edit("a = 1", "b = 1"), Edit("b = 1\n    return a", "return 1")])
    assert after.startswith("def f():\n    return 1\n")


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ([], "no edit"),
        ([Edit("return a", "return b")], "stands more than once, at lines 3, 8"),
        ([Edit("return c", "return b")], "does not stand in train.py: 'return c'"),
        ([Edit("", "x = 1")], "old text is empty"),
        ([Edit(" \n", "x = 1")], "old text is empty"),
        ([Edit("a = 1", "a = 1")], "change nothing"),
        ([Edit("a = 1", "a = 3"), Edit("a = 3", "a = 1")], "change nothing"),
        ([Edit("a = 1", "a = 3"), Edit("a = 1", "a = 4")], "Edit 2: its old text does not stand"),
        ([Edit("a = 1", "a = 3")] * (MOST_EDITS + 1), "are allowed"),
        ([Edit("a = 1", "x" * MOST_BYTES)], "bytes"),
    ],
)
def test_what_cannot_be_applied_says_why(edits: list[Edit], words: str) -> None:
    with pytest.raises(TrainingError, match=words) as caught:
        apply_edits(CODE, edits)
    assert caught.value.hint


def test_places_that_overlap_are_two() -> None:
    with pytest.raises(TrainingError, match="more than once"):
        apply_edits("aaa\n", [Edit("aa", "b")])


# --- the second chance ----------------------------------------------------------------------


def test_white_space_at_line_ends_and_a_common_indentation_are_forgiven() -> None:
    edit = Edit("a = 1  \nreturn a\t", "a = 5\nif a:\n    return a")
    assert apply_edits(CODE, [edit]).startswith("def f():\n    a = 5\n    if a:\n        return a\n\n\ndef g")


def test_a_text_that_is_alike_twice_is_refused() -> None:
    with pytest.raises(TrainingError, match="2 times with other white space"):
        apply_edits(CODE, [Edit("return a ", "return b")])


@pytest.mark.parametrize("old", ["a  = 1", "def f():\n  a = 1", "def f():\n\n    a = 1", "A = 1"])
def test_other_differences_are_not_forgiven(old: str) -> None:
    with pytest.raises(TrainingError, match="does not stand"):
        apply_edits(CODE, [Edit(old, "x")])


lines_of_it = st.integers(0, len(LINES) - 1).flatmap(lambda first: st.tuples(st.just(first), st.integers(1, 6)))


@given(lines_of_it, st.text(st.characters(codec="utf-8"), max_size=40))
def test_an_exact_edit_changes_that_place_alone(place: tuple[int, int], new: str) -> None:
    old = "\n".join(LINES[place[0] : sum(place)])
    if TINY_TRAIN_PY.count(old) != 1 or not old.strip() or new == old:
        return
    before, after = TINY_TRAIN_PY.split(old)
    try:
        changed = apply_edits(TINY_TRAIN_PY, [Edit(old, new)])
    except TrainingError as error:
        assert "more than once" in error.message  # places that overlap
        return
    assert changed == before + new + after


UNLIKE = "".join(
    f"def f{number}():\n    x{number} = 1\n\n    if x{number}:\n        y{number} = 2\n\n" for number in range(6)
)


@given(
    st.integers(0, 5),
    st.integers(-4, 8),
    st.sampled_from(["", " ", "\t", "\r"]),
    st.sampled_from(["", "\n", "\n \n"]),
)
def test_a_shifted_copy_of_whole_lines_finds_its_place(number: int, shift: int, tail: str, around: str) -> None:
    body = [f"x{number} = 1", "", f"if x{number}:", f"    y{number} = 2"]
    old = around + "\n".join(" " * (4 + shift) * bool(line) + line + tail for line in body) + around
    new = f"{' ' * (4 + shift)}z = 3\n{' ' * (8 + shift)}w = 4"
    expected = UNLIKE.replace("\n".join("    " * bool(line) + line for line in body), "    z = 3\n        w = 4")
    if old in UNLIKE:  # then it is no second chance, and nothing is moved
        return
    assert apply_edits(UNLIKE, [Edit(old, new)]) == expected


@given(st.lists(st.builds(Edit, st.text(max_size=60), st.text(max_size=60)), max_size=4), st.text(max_size=200))
def test_no_text_makes_anything_but_a_text_or_a_reason(edits: list[Edit], text: str) -> None:
    try:
        assert apply_edits(text, edits) != text
    except TrainingError as error:
        assert error.message and error.hint


# --- blocks in plain text -------------------------------------------------------------------


def block(old: str, new: str) -> str:
    return f"<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"


def test_blocks_are_read_in_order_and_prose_is_passed_over() -> None:
    text = f"I think:\n\n```python\n{block('a = 1', 'a = 2')}```\nand\n{block('b', '')}done"
    assert fenced_edits(text) == (Edit("a = 1", "a = 2"), Edit("b", ""))


@pytest.mark.parametrize(
    "text",
    [
        "<<<<<<< SEARCH\na\n=======\nb\n",
        "<<<<<<< SEARCH\na\n>>>>>>> REPLACE\n",
        block("a", "b") + "<<<<<<< SEARCH\n",
        ">>>>>>> REPLACE\n",
    ],
)
def test_a_broken_block_is_told(text: str) -> None:
    with pytest.raises(TrainingError, match="not complete"):
        fenced_edits(text)


clean = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=80).filter(
    lambda text: not any(line[:5] in ("<<<<<", "=====", ">>>>>") for line in text.split("\n"))
)


@given(st.lists(st.tuples(clean, clean), max_size=4))
def test_what_is_written_as_blocks_is_read_as_edits(pairs: list[tuple[str, str]]) -> None:
    text = "\n".join(block(old, new) for old, new in pairs)
    assert fenced_edits(text) == tuple(Edit(old, new) for old, new in pairs)


@given(st.text(alphabet="<=> SEARCHREPLACE\nab", max_size=300))
def test_no_answer_takes_long_or_breaks(text: str) -> None:
    try:
        assert all(isinstance(edit, Edit) for edit in fenced_edits(text))
    except TrainingError as error:
        assert error.hint


def test_a_hostile_answer_is_read_in_linear_time() -> None:
    with pytest.raises(TrainingError):
        fenced_edits("<<<<<<< SEARCH\n" * 20_000 + "=======\n" * 20_000)
