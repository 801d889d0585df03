"""What is spent is known after kills, never too low, and priced from a dated list."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_ar.core.agent.proposers import spending
from slm_ar.core.agent.proposers.spending import (
    Tokens,
    Transcript,
    most_tokens,
    price_list,
    refuse_beyond_night,
    refuse_overspending,
)
from slm_ar.core.errors import BudgetError, ProposerError

MOST = most_tokens(10_000, 1000)


def test_the_price_list_is_dated_and_names_its_source() -> None:
    prices = price_list()
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", prices.as_of) and prices.source.startswith("https://")
    assert prices.default in prices.models
    for price in prices.models.values():
        assert 0 < price.cache_read < price.input < price.cache_write < price.output
        assert price.cache_write == pytest.approx(2 * price.input), "an hour in the cache costs twice the input"


def test_dollars_follow_from_tokens() -> None:
    price = price_list().models["claude-sonnet-5-5"]
    assert price.dollars(Tokens(1_000_000, 0, 0, 0)) == 2.0
    assert price.dollars(Tokens(0, 100_000, 1_000_000, 10_000)) == pytest.approx(0.4 + 0.1 + 0.1)


def test_a_call_counts_as_the_most_until_its_end_is_known(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path)
    assert transcript.spent("c").words == "0 calls, 0 tokens, $0.00"
    first = transcript.begin("c", "claude-sonnet-5-5", "host", "digest", MOST)
    assert transcript.spent("c").tokens == MOST
    transcript.end(first, Tokens(10, 0, 0, 5), {"content": []})
    assert transcript.spent("c").tokens == Tokens(10, 0, 0, 5)
    second = transcript.begin("c", "claude-sonnet-5-5", "host", "digest", MOST)
    transcript.end(second, None, {"error": "cut"})
    spent = Transcript(tmp_path).spent("c")
    assert (spent.calls, spent.tokens.total) == (2, 15 + MOST.total)
    assert spent.dollars is not None
    assert Transcript(tmp_path).spent("other").calls == 0


def test_calls_of_a_model_without_a_price_are_told_apart(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path)
    for model in ("claude-sonnet-5-5", "qwen"):
        transcript.end(transcript.begin("c", model, "host", "digest", MOST), Tokens(1), {})
    assert transcript.spent("c").words == "2 calls, 2 tokens, $0.00 and 1 of unknown cost"
    transcript.end(transcript.begin("d", "qwen", "host", "digest", MOST), Tokens(1), {})
    assert transcript.spent("d").words == "1 call, 1 tokens, cost unknown"


def test_a_model_without_a_price_lifts_no_cap_of_one_that_has_one(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path)
    for model, count in (("qwen", 1), ("claude-sonnet-5-5", 1_000_000)):
        transcript.end(transcript.begin("c", model, "host", "digest", MOST), Tokens(count), {})
    with pytest.raises(BudgetError, match=r"\$2.00 of this campaign's \$2.01"):
        refuse_overspending(transcript.spent("c"), MOST, "claude-sonnet-5-5", 10**9, 2.01)


def test_a_long_prompt_can_cost_more_per_token() -> None:
    price = price_list().models["claude-haiku-5-5"]
    assert price.dollars(Tokens(100_000, output=1000)) == pytest.approx(0.0105)
    assert price.dollars(Tokens(90_001, 5000, 5000, 1000)) > 5 * 0.0090


def test_a_line_cut_short_by_a_power_failure_is_passed_over(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path)
    transcript.end(transcript.begin("c", "m", "host", "d", MOST), Tokens(7), {})
    with (tmp_path / "proposer.jsonl").open("ab") as file:
        file.write(b'{"event": "sent", "call": 2, "cam')
    assert transcript.spent("c").tokens.total == 7
    assert transcript.begin("c", "m", "host", "d", MOST) == 2
    assert transcript.spent("c").tokens.total == 7 + MOST.total


@pytest.mark.parametrize("line", ["nonsense", "{}", '{"event": "sent", "call": 1}', "[1]", '"x"'])
def test_a_transcript_that_was_tampered_with_stops_the_counting(tmp_path: Path, line: str) -> None:
    (tmp_path / "proposer.jsonl").write_text(line + "\n")
    with pytest.raises(ProposerError, match=r"proposer\.jsonl, line 1") as caught:
        Transcript(tmp_path).spent("c")
    assert "move it away" in caught.value.hint


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**6))
def test_no_call_begins_that_could_end_above_the_cap(spent: int, body: int, cap: int) -> None:
    from slm_ar.core.agent.proposers.spending import Spent

    most = most_tokens(body, 1000)
    try:
        refuse_overspending(Spent(1, Tokens(spent), 0.0, 1), most, "m", cap, 1.0)
    except BudgetError:
        assert spent + most.total > cap
    else:
        assert spent + most.total <= cap


def test_tokens_add_up() -> None:
    total = Tokens(1, 2, 3, 4) + Tokens(10, 20, 30, 40)
    assert asdict(total) == {"input": 11, "cache_write": 22, "cache_read": 33, "output": 44} and total.total == 110


# --- reading --------------------------------------------------------------------------------


def test_a_line_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A night has hundreds of calls with whole answers, and each is asked about several times."""
    transcript = Transcript(tmp_path)
    read = 0
    loads = spending.json.loads

    def counted(line: bytes) -> object:
        nonlocal read
        read += 1
        return loads(line)

    monkeypatch.setattr(spending.json, "loads", counted)
    for _ in range(5):
        transcript.end(transcript.begin("c", "m", "host", "d", MOST), Tokens(1), {})
        transcript.spent("c")
        list(transcript.calls())
    assert read == 10
    assert transcript.spent("c") == Transcript(tmp_path).spent("c")


def test_what_another_one_wrote_is_seen(tmp_path: Path) -> None:
    mine, other = Transcript(tmp_path), Transcript(tmp_path)
    first = mine.begin("c", "m", "host", "d", MOST)
    assert other.begin("c", "m", "host", "d", MOST) == first + 1
    mine.end(first, Tokens(3), {})
    assert mine.spent("c") == other.spent("c") == Transcript(tmp_path).spent("c")


def test_a_file_that_was_moved_away_or_cut_is_read_anew(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path)
    file = tmp_path / "proposer.jsonl"
    for _ in range(3):
        transcript.end(transcript.begin("c", "m", "host", "d", MOST), Tokens(1), {})
    whole = file.read_text()
    file.write_text("".join(whole.splitlines(keepends=True)[:2]))
    assert transcript.spent("c").calls == 1
    file.rename(tmp_path / "moved.jsonl")
    assert transcript.spent("c").calls == 0
    file.write_text(whole)
    assert transcript.spent("c").calls == 3
    file.write_text(whole + "nonsense\n")
    for _ in range(2):
        with pytest.raises(ProposerError, match="line 7"):
            transcript.spent("c")


def test_another_file_in_its_place_is_read_from_its_beginning(tmp_path: Path) -> None:
    """Also one that is longer, as a copy that was put back."""
    first, other = Transcript(tmp_path), Transcript(tmp_path / "other")
    first.end(first.begin("c", "m", "host", "d", MOST), Tokens(1), {})
    assert first.spent("c").tokens == Tokens(1)
    for _ in range(2):
        other.end(other.begin("c", "m", "host", "d", MOST), Tokens(5), {})
    (tmp_path / "other" / "proposer.jsonl").replace(tmp_path / "proposer.jsonl")
    assert first.spent("c").tokens == Tokens(10)


# --- the cap of a night ---------------------------------------------------------------------


def test_a_night_has_a_cap_of_its_own() -> None:
    dear = Tokens(cache_write=500_000)  # two dollars at most
    refuse_beyond_night(spending.Spent(1, Tokens(), 7.5, 0), 7.0, dear, "claude-sonnet-5-5", 2.5)
    with pytest.raises(BudgetError, match=r"\$2\.00; \$0\.60 of this night's \$2\.50 \(--budget-usd\) are spent"):
        refuse_beyond_night(spending.Spent(1, Tokens(), 7.6, 0), 7.0, dear, "claude-sonnet-5-5", 2.5)
    with pytest.raises(BudgetError):
        refuse_beyond_night(spending.Spent(0, Tokens(), 0.0, 0), 0.0, MOST, "of unknown cost", 1e9)
