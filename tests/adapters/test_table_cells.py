"""Cells of tables: numbers, missing values, moments."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_ar.adapters.table.cells import (
    PERIODS,
    Moment,
    Style,
    amount_text,
    cell_text,
    index_moment,
    label_text,
    limit_of,
    number_text,
    parse_moment,
)
from slm_ar.core.errors import DataError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", "1"),
        ("+3", "3"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("1.0", "1"),
        ("1.50", "1.5"),
        (".5", "0.5"),
        ("64236.62", "64240"),
        ("90213", "90213"),  # a code or an amount: whole numbers stay
        ("90213.0", "90213"),  # a data frame with gaps writes it like this
        ("0.000012345", "1.234e-05"),
        ("1e5", "100000"),
        ("-12.3456", "-12.35"),
    ],
)
def test_numbers_are_spelled_shortly(text: str, expected: str) -> None:
    assert number_text(text, 4) == expected


@pytest.mark.parametrize("text", ["007", "", "1,5", "5 min", "nan", "inf", "1e400", "--1", "0x1f", "١٢", "1.2.3"])
def test_what_is_no_number(text: str) -> None:
    assert number_text(text, 4) is None


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(1, 17))
def test_rounding_keeps_the_digits(value: float, digits: int) -> None:
    text = number_text(repr(value), digits)
    assert text is not None
    assert math.isclose(float(text), value, rel_tol=0.6 * 10 ** (1 - digits), abs_tol=5e-324)
    assert number_text(text, digits) == text


def test_decimal_comma() -> None:
    assert [number_text(text, 6, ",") for text in ("12,5", "1.234,56", "1.234", "7")] == [
        "12.5",
        "1234.56",
        "1234",
        "7",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("$1,299.00", "1299"), ("12 %", "12"), ("€ 3.50", "3.5"), ("-$5.25", "-5.25"), ("1,2", None), ("cheap", None)],
)
def test_amounts_of_answers(text: str, expected: str | None) -> None:
    assert amount_text(text, Style()) == expected


def test_cells_are_one_line_without_the_separator() -> None:
    assert cell_text(" a |\tb\nc ", Style()) == "a / b c"
    assert cell_text("a/b", Style(separator="/")) == "a\\b"
    assert cell_text("a ## b", Style(separator=" ## ")) == "a / b"
    assert [cell_text(text, Style()) for text in ("", " ", "N.A.", "NaN", "null", "?", "-")] == [*"??????", "-"]
    assert cell_text("x" * 5000, Style()) == "x" * 5000


def test_labels_may_be_called_none() -> None:
    assert [label_text(text, Style()) for text in ("None", "NA", "nan", "", "1.0")] == ["None", "NA", "", "", "1"]


@pytest.mark.parametrize(
    ("text", "when", "unit", "title"),
    [
        ("2024-01-31", "2024-01-31T00:00:00", "day", "Wed Jan 31"),
        ("2024-01-31 00:00:00", "2024-01-31T00:00:00", "day", "Wed Jan 31"),
        ("2005-06-03-15.42.50.675872", "2005-06-03T15:42:50", "clock", "Fri Jun 03 15:42"),
        ("20171223-22:15:29:606", "2017-12-23T22:15:29", "clock", "Sat Dec 23 22:15"),
        ("2024-01-02T03:04:05+02:00", "2024-01-02T03:04:05", "clock", "Tue Jan 02 03:04"),
        ("20240131", "2024-01-31T00:00:00", "day", "Wed Jan 31"),
        ("31.1.2024", "2024-01-31T00:00:00", "day", "Wed Jan 31"),
        ("31.01.99", "1999-01-31T00:00:00", "day", "Sun Jan 31"),
        ("01/31/2024 2:15 PM", "2024-01-31T14:15:00", "clock", "Wed Jan 31 14:15"),
        ("01/31/2024 12:05 AM", "2024-01-31T00:05:00", "clock", "Wed Jan 31 00:05"),
        ("16-May-2025", "2025-05-16T00:00:00", "day", "Fri May 16"),
        ("March 3, 2024", "2024-03-03T00:00:00", "day", "Sun Mar 03"),
        ("2024-03", "2024-03-01T00:00:00", "month", "Mar"),
        ("2024-Q2", "2024-04-01T00:00:00", "month", "Apr"),
        ("2015", "2015-01-01T00:00:00", "year", ""),
        ("1117838570", "2005-06-03T22:42:50", "clock", "Fri Jun 03 22:42"),
        ("1117838570123", "2005-06-03T22:42:50.123000", "clock", "Fri Jun 03 22:42"),
        ("17", "0001-01-18T00:00:00", "index", ""),
    ],
)
def test_moments(text: str, when: str, unit: str, title: str) -> None:
    moment = parse_moment(text)
    assert moment is not None
    assert (moment.when.isoformat(), moment.unit, moment.title) == (when, unit, title)


@pytest.mark.parametrize(
    "text",
    ["", "soon", "01/02/2024", "2024-13-02", "30.02.2024", "12:30", "31-Foo-2024", "13/13/2024", "01/31/2024 0:05 PM"],
)
def test_what_is_no_moment(text: str) -> None:
    assert parse_moment(text) is None


def test_the_order_of_slashes() -> None:
    dmy, mdy = parse_moment("03/04/2024", "dmy"), parse_moment("03/04/2024", "mdy")
    assert dmy and mdy and (dmy.period("day"), mdy.period("day")) == ("2024-04-03", "2024-03-04")


@given(st.datetimes(), st.sampled_from(PERIODS))
def test_periods_sort_like_time_and_hold_it(when: object, unit: str) -> None:
    from datetime import datetime

    assert isinstance(when, datetime)
    start = datetime.fromisoformat(Moment(when, "clock").period(unit))
    assert start <= when.replace(microsecond=0)


@given(st.integers(0, 999_999))
def test_numbered_periods_keep_their_order(number: int) -> None:
    assert index_moment(number).period("day") < index_moment(number + 1).period("day")


def test_limits() -> None:
    assert (limit_of("since", None), limit_of("since", "31.12.2024")) == (None, "2024-12-31")
    with pytest.raises(DataError, match="since = 'soon' is not a date"):
        limit_of("since", "soon")
