"""The notice on a log that changes its vocabulary, and its silence on one that does not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from toys import ToyAdapter, toy_recipe

from slm_ar.core.contracts import Document
from slm_ar.core.prepare import drift, pipeline
from slm_ar.core.prepare.drift import drift_notices, newest_groups
from slm_ar.core.prepare.heldout import read_split
from slm_ar.core.prepare.pipeline import prepare

WORDS = ("Mechanical", "Traffic", "Late crew", "Weather", "Door fault", "Medical")
CODES = ("MTO", "TFD", "CRL", "WTH", "DRF", "MED")


def day(seed: int, causes: tuple[str, ...] = WORDS, rows: int = 40, separator: str = " | ") -> str:
    pick = random.Random(seed)
    lines = [
        (f"{pick.randrange(24):02d}:{pick.randrange(60):02d}", f"route {pick.randrange(20)}", pick.choice(causes))
        for _ in range(rows)
    ]
    return f"day {seed}\n" + "".join(separator.join((*line, str(pick.randrange(10**6)))) + "\n" for line in lines)


@pytest.mark.parametrize("separator", [" | ", "\t"])
def test_a_field_that_turns_from_words_to_codes_is_told(separator: str) -> None:
    reference = [day(seed, separator=separator) for seed in range(60)]
    probe = [day(seed, separator=separator) for seed in range(60, 70)]
    later = [day(seed, CODES, separator=separator) for seed in range(70, 80)]
    (notice,) = drift_notices(reference, probe, {"dev": probe, "test": later})
    assert notice.startswith("field 3 of the records (such as '")
    assert any(f"such as '{word}'" in notice for word in WORDS)
    assert "100% in test, against 0% in the newest part" in notice
    assert "in dev" not in notice
    assert not any(code in notice for code in CODES), "nothing held out is quoted"


def test_a_log_that_goes_on_as_it_was_gives_no_notice() -> None:
    days = [day(seed) for seed in range(90)]
    assert drift_notices(days[:60], days[60:70], {"dev": days[70:80], "test": days[80:]}) == []


def test_prose_and_too_little_text_give_no_notice() -> None:
    prose = ["It was a dark night.\n" * 50] * 20
    assert drift_notices(prose, prose, {"dev": ["Quite other words here.\n" * 300]}) == []
    assert drift_notices([day(1)], [day(2, rows=5)], {"dev": [day(3, CODES)]}) == []
    assert drift_notices([], [], {"dev": [day(3)]}) == []


def test_a_field_of_numbers_has_no_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "MOST_VALUES", 1000)
    days = [f"x | {seed * 1000 + row}\n" for seed in range(40) for row in range(50)]
    assert (
        drift_notices(days[:1500], days[1500:1800], {"test": [f"x | {n}\n" for n in range(10**6, 10**6 + 300)]}) == []
    )


def test_only_the_newest_groups_are_compared_with() -> None:
    sizes = {f"g{number}": (f"2024-{number:03d}", number, 1_000_000) for number in range(50)}
    reference, probe = newest_groups(sizes)
    assert probe == {"g49"}
    assert reference == {f"g{number}" for number in range(42, 49)}
    assert newest_groups({}) == (set(), set())


@pytest.mark.parametrize(("split", "told"), [("time", True), ("order", True), ("group", False)])
def test_prepare_tells_it_for_splits_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, told: bool
) -> None:
    monkeypatch.setattr(pipeline, "measure_floors", lambda train, dev: {"ppmd-6": 2.0})
    documents = [
        Document(f"d{n}", day(n, WORDS if n < 105 else CODES), f"g{n}", f"2024-{1 + n // 28:02d}-{1 + n % 28:02d}")
        for n in range(120)
    ]
    source = tmp_path / "source"
    source.mkdir()
    (source / "log.txt").write_text("x\n", encoding="utf-8")
    recipe = toy_recipe(data={"split": split})
    data = prepare(recipe, ToyAdapter(documents), source, tmp_path / "work" / ".slm" / "data", lambda line: None)
    notices = [line for line in data.manifest.notices if line.startswith("field 3 of the records")]
    assert bool(notices) is told
    if told:
        assert "in test" in notices[0]
        held = {item.document.text for name in ("dev", "test") for item in read_split(data.held_folder, name)}
        assert any(code in text for code in CODES for text in held)
