"""Reading and changing train.py as text."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slm_ar.core.agent.edits import (
    MAX_BYTES,
    MAX_LINES,
    check_train_py,
    code_lines,
    parse_knobs,
    revision_digest,
    set_knobs,
    template_digest,
    unified_diff,
)
from slm_ar.core.contracts import Knob, KnobValue
from slm_ar.core.errors import SlmArError, TrainingError

TRAIN_PY = '''"""A docstring that explains the syntax:

FAKE = 1  # knob: int 1..3
"""

import math

# Declare one like this: FAKE = 1  # knob: int 1..3
# knob: int 1..3
MATRIX_LR = 2e-2  # knob: float log 1e-4..1e-1
DEPTH = 4  # knob: int 1..12
HEADS: int = 2  # knob: int log 1..16
OFFSET = -0.5  #knob: float -1..1
BATCH_TOKENS = 1_024  # knob: choice 256 512 1024 2048
NAME = 'relu'  # knob: choice relu gelu größe
PLAIN = 7  # not a knob: int 1..9
TEXT = "# knob: int 1..3"; DROPOUT = 0  # knob: float 0..0.3
LONG = """
FAKE = 1  # knob: int 1..3
"""


def build_model(config):
    inner = 3  # knob: int 1..9
    return math.sqrt(inner)


def main():
    """Größe."""


if __name__ == "__main__":
    main()
'''
NAMES = ["MATRIX_LR", "DEPTH", "HEADS", "OFFSET", "BATCH_TOKENS", "NAME", "DROPOUT"]


def legal_values(knob: Knob) -> st.SearchStrategy[KnobValue]:
    if knob.kind == "choice":
        return st.sampled_from(knob.choices)
    assert knob.low is not None and knob.high is not None
    if knob.kind == "int":
        return st.integers(int(knob.low), int(knob.high))
    return st.floats(knob.low, knob.high)


assignments = st.fixed_dictionaries({}, optional={knob.name: legal_values(knob) for knob in parse_knobs(TRAIN_PY)})
line_ends = st.sampled_from(["\n", "\r\n", "\r"])


def values_of(text: str) -> dict[str, KnobValue]:
    return {knob.name: knob.value for knob in parse_knobs(text)}


def without_values(text: str) -> bytes:
    """The text with the right-hand sides of the knob lines cut out, by a way of its own."""
    lines = text.encode().split(b"\n")
    kept = []
    for line in lines:
        head, equals, tail = line.rpartition(b"DROPOUT =") if b"DROPOUT" in line else line.partition(b"=")
        name = head.split(b":")[0].strip().decode() if equals == b"=" else "DROPOUT" if equals else ""
        kept.append(head + equals + b" ?  #" + tail.partition(b"  #")[2] if name in NAMES else line)
    return b"\n".join(kept)


def test_knobs_are_found_where_they_are_declared_and_nowhere_else() -> None:
    knobs = {knob.name: knob for knob in parse_knobs(TRAIN_PY)}
    assert list(knobs) == NAMES
    assert knobs["MATRIX_LR"] == Knob("MATRIX_LR", "float", 0.02, 1e-4, 1e-1, log=True, line=10)
    assert knobs["DEPTH"] == Knob("DEPTH", "int", 4, 1, 12, line=11)
    assert knobs["HEADS"].log and knobs["HEADS"].kind == "int"
    assert knobs["OFFSET"].value == -0.5
    assert knobs["BATCH_TOKENS"].choices == (256, 512, 1024, 2048)
    assert knobs["NAME"].choices == ("relu", "gelu", "größe")
    assert repr(knobs["DROPOUT"].value) == "0.0"


@given(assignments, line_ends)
def test_what_was_set_is_read_again(values: dict[str, KnobValue], line_end: str) -> None:
    text = TRAIN_PY.replace("\n", line_end)
    read = values_of(set_knobs(text, values))
    for name, value in values_of(text).items():
        wanted = values.get(name, value)
        assert type(read[name]) is type(wanted)
        assert read[name] == (pytest.approx(wanted, rel=1e-5) if isinstance(wanted, float) else wanted)
    again = set_knobs(text, read)
    assert values_of(again) == read
    assert set_knobs(again, read) == again


@given(assignments)
def test_only_the_literals_change(values: dict[str, KnobValue]) -> None:
    assert without_values(set_knobs(TRAIN_PY, values)) == without_values(TRAIN_PY)


@given(line_ends)
def test_setting_the_present_values_changes_nothing(line_end: str) -> None:
    text = TRAIN_PY.replace("\n", line_end)
    assert set_knobs(text, values_of(text)) == text


@given(assignments, line_ends)
def test_the_template_does_not_depend_on_the_values(values: dict[str, KnobValue], line_end: str) -> None:
    text = TRAIN_PY.replace("\n", line_end)
    assert template_digest(set_knobs(text, values)) == template_digest(text)


def test_the_template_depends_on_everything_else() -> None:
    texts = [TRAIN_PY, TRAIN_PY.replace("1..12", "1..13"), TRAIN_PY.replace("PLAIN = 7", "PLAIN = 8"), TRAIN_PY + "\n"]
    assert len({template_digest(text) for text in texts}) == len(texts)


@given(st.floats(1e-4, 1e-1))
def test_floats_are_short(value: float) -> None:
    assume(value != values_of(TRAIN_PY)["MATRIX_LR"])  # a literal that has the value already stays as written
    line = set_knobs(TRAIN_PY, {"MATRIX_LR": value}).split("\n")[9]
    literal = line.split()[2]
    assert repr(float(literal)) == literal
    assert float(f"{float(literal):.6g}") == float(literal)


def test_rounding_never_leaves_the_range() -> None:
    text = "RATE = 0.2  # knob: float 0.12345643..0.98765467\n"
    for bound in (0.12345643, 0.98765467):  # the nearest numbers with 6 digits lie outside
        assert values_of(set_knobs(text, {"RATE": bound}))["RATE"] == bound


def test_a_string_keeps_its_quotes() -> None:
    assert "NAME = 'gelu'  # knob" in set_knobs(TRAIN_PY, {"NAME": "gelu"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"MATRIX_LRR": 0.1}, "Did you mean 'MATRIX_LR'?"),
        ({"DEPTH": 13}, "1..12"),
        ({"DEPTH": 4.0}, "kind int"),
        ({"DEPTH": True}, "kind int"),
        ({"DEPTH": "4"}, "kind int"),
        ({"MATRIX_LR": math.nan}, "0.0001..0.1"),
        ({"MATRIX_LR": math.inf}, "0.0001..0.1"),
        ({"BATCH_TOKENS": 300}, "256 512 1024 2048"),
        ({"BATCH_TOKENS": 512.0}, "256 512 1024 2048"),
        ({"NAME": "gelo"}, "Did you mean 'gelu'?"),
    ],
)
def test_values_that_are_not_allowed_are_refused(values: dict[str, KnobValue], message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        set_knobs(TRAIN_PY, values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "DEPTH = 4  # knob:",
        "DEPTH = 4  # knob: integer 1..12",
        "DEPTH = 4  # knob: int",
        "DEPTH = 4  # knob: int 1-12",
        "DEPTH = 4  # knob: int 1..12 log",
        "DEPTH = 4  # knob: int 12..1",
        "DEPTH = 4  # knob: int 1.5..12",
        "DEPTH = 4  # knob: int log 0..12",
        "DEPTH = 13  # knob: int 1..12",
        "DEPTH = 4.0  # knob: int 1..12",
        "DEPTH = '4'  # knob: int 1..12",
        "DEPTH = True  # knob: int 0..12",
        "DEPTH = 2 * 2  # knob: int 1..12",
        "DEPTH = OTHER = 4  # knob: int 1..12",
        "DEPTH += 4  # knob: int 1..12",
        "DEPTH: int  # knob: int 1..12",
        "DEPTH = 4;  # knob: int 1..3",
        "RATE = 0.1  # knob: float 0..1e999",
        "RATE = 1e999  # knob: float 0..1",
        "BATCH = 4  # knob: choice",
        "BATCH = 4  # knob: choice 4",
        "BATCH = 4  # knob: choice 4 4 8",
        "BATCH = 4  # knob: choice 4 many",
        "BATCH = 4  # knob: choice 8 16",
        "NAME = 'a'  # knob: choice 'a' 'b'",
        "DEPTH = 4  # knob: int 1..12\nDEPTH = 5",
        "DEPTH = 5\nDEPTH = 4  # knob: int 1..12",
    ],
)
def test_a_malformed_declaration_is_refused_with_its_line_and_an_example(line: str) -> None:
    with pytest.raises(TrainingError) as caught:
        parse_knobs("import math\n\n" + line + "\n")
    assert "train.py line 3: " in caught.value.message or "train.py line 4: " in caught.value.message
    assert "# knob: " in caught.value.hint


@given(st.text(st.sampled_from("A1=# knobitflche.\n\r\t\f;:(\"'\\é-")) | st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (parse_knobs, check_train_py, template_digest):
        try:
            read(text)
        except SlmArError as error:
            assert error.message
    assert revision_digest(text) and code_lines(text) >= 0


def test_revision_and_lines() -> None:
    assert revision_digest("") == "e3b0c44298fc1c14"
    assert code_lines("a = 1\n\n  # comment\n   \nb = 2  # comment") == 2


def test_a_good_train_py_passes() -> None:
    check_train_py(TRAIN_PY)
    check_train_py(TRAIN_PY.replace('"A doc', '"\\d doc'))


GUARD = 'if __name__ == "__main__":\n    main()\n'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def main", "def start", "no function main"),
        ("def build_model", "def make_model", "no function build_model"),
        (GUARD, "", "guard at the end is missing"),
        (GUARD, "main()\n", "line 32: this runs when the file is imported: main()"),
        (GUARD, GUARD + "else:\n    main()\n", "line 32: this runs"),
        ("import math\n", "import math\nmath.seed(1)\n", "line 7: this runs"),
        ("import math\n", "import math\nfor i in range(3): pass\n", "line 7: this runs"),
        ("import math\n", "import math\nreturn 3\n", "line 7: 'return' outside function"),
        ("import math\n", "import math\nx = = 3\n", "line 7: invalid syntax"),
        ("import math\n", "import math\0\n", "null byte"),
        ("import math\n", "import math  # \ud800\n", "no Python source"),
        ("DEPTH = 4", "DEPTH = 40", "line 11: Knob DEPTH cannot be 40"),
        ("import math\n", "import math\n" + "\n" * MAX_LINES, f"line {MAX_LINES + 1}: the file has"),
        ("import math\n", "import math  # " + "é" * (MAX_BYTES // 2) + "\n", "bytes in 33 lines"),
    ],
)
def test_a_bad_train_py_is_refused_with_its_line(old: str, new: str, message: str) -> None:
    assert old in TRAIN_PY
    with pytest.raises(TrainingError) as caught:
        check_train_py(TRAIN_PY.replace(old, new))
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("nested", ["if " + "not " * 900 + "A: B = 1", "-".join(["1"] * 900)])
def test_what_is_nested_too_deeply_to_be_read_is_refused(nested: str) -> None:
    with pytest.raises(TrainingError, match=r"nested too deeply|no Python source"):
        check_train_py(TRAIN_PY.replace(GUARD, f"{nested}\n{GUARD}"))


def test_the_longest_allowed_file_passes() -> None:
    check_train_py(TRAIN_PY + "\n" * (MAX_LINES - TRAIN_PY.count("\n")))


def test_the_difference_is_readable() -> None:
    diff = unified_diff(TRAIN_PY, set_knobs(TRAIN_PY, {"DEPTH": 6}))
    assert "-DEPTH = 4  # knob: int 1..12\n+DEPTH = 6  # knob: int 1..12\n" in diff
    assert unified_diff(TRAIN_PY, TRAIN_PY) == ""
    assert unified_diff("a", "a\n").endswith("-a\n\\ No newline at end of file\n+a\n")
