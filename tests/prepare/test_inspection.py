"""What inspect finds in texts."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from slm_ar.core.contracts import Document
from slm_ar.core.prepare.inspection import look_at


def documents(*texts: str) -> list[Document]:
    return [Document(str(number), text, f"g{number}") for number, text in enumerate(texts)]


def test_counts_duplicates_and_entropy() -> None:
    facts = look_at(documents("ab\nab\n", "abab", "ab\nab\n"))
    assert (facts.documents, facts.groups, facts.exact_duplicates, facts.byte_count) == (3, 3, 1, 16)
    assert facts.lines == 5 and facts.longest_bytes == 6
    share = {"a": 6 / 16, "b": 6 / 16, "\n": 4 / 16}
    assert math.isclose(facts.byte_entropy, -sum(p * math.log2(p) for p in share.values()))


def test_languages_are_told_by_common_words_and_scripts() -> None:
    english = "it was the best of times and it was the worst of times for you and that was it"
    german = "das ist nicht der Tag und die Nacht auf den ich mit dir von der Bank ging"
    assert look_at(documents(english * 5)).languages == ("English",)
    assert look_at(documents(german * 5)).languages == ("German",)
    assert look_at(documents("привет как дела сегодня " * 9)).languages == ("Cyrillic",)
    assert look_at(documents("xq zv 12 34 kk" * 9)).languages == ()


def test_personal_data_look_like_what_they_are() -> None:
    text = "write to jo@shop.example or +44 20 7946 0958; "
    text += "card 4111 1111 1111 1111, not 4111 1111 1111 1112; 10.0.0.7 999.1.1.1"
    found = look_at(documents(text)).personal
    assert found == {"e-mail addresses": 1, "telephone numbers": 1, "card numbers": 1, "IP addresses": 1}


def test_fields_that_cannot_recur() -> None:
    lines = [f"2024-01-{1 + n % 28:02d} | id{n:07d} | shop {n % 3} | {n % 2}" for n in range(400)]
    found = look_at(documents("\n".join(lines) + "\n")).cannot_recur
    assert len(found) == 2
    assert found[0] == "field 1 holds absolute dates" and found[1].startswith("field 2 hardly ever repeats")


def test_mojibake_is_counted() -> None:
    assert look_at(documents("caf\u00c3\u00a9 au lait", "plain", "itâ€™s")).mojibake_documents == 2


@given(st.lists(st.text(max_size=40), max_size=8))
def test_any_text_can_be_looked_at(texts: list[str]) -> None:
    usable = [text.encode("utf-8", "ignore").decode("utf-8") for text in texts]
    facts = look_at(documents(*usable))
    assert facts.documents == len(usable)
    assert facts.byte_count == sum(len(text.encode()) for text in usable)
    assert 0 <= facts.byte_entropy <= 8
