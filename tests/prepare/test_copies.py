"""What becomes of a text that was there before: dropped, dealt together or kept; and the disk that reading takes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from toys import toy_recipe

from slm_ar.adapters.table import TableAdapter
from slm_ar.adapters.text import TextAdapter
from slm_ar.core.contracts import Document, DuplicatePolicy, SourceOptions, Span, SplitRule
from slm_ar.core.errors import BudgetError, DataError
from slm_ar.core.prepare import pipeline, spool
from slm_ar.core.prepare.groups import GroupTable
from slm_ar.core.prepare.heldout import ensure_private, private_root, read_split
from slm_ar.core.prepare.joints import Joints, asked_text
from slm_ar.core.prepare.pipeline import PreparedData, prepare
from slm_ar.core.prepare.split import GroupInfo
from slm_ar.core.prepare.spool import Spool

HELD = ("mix", "dev", "hidden", "test")


@pytest.fixture(autouse=True)
def no_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "measure_floors", lambda train, dev: {"ppmd-6": 2.0})


# --- tables -------------------------------------------------------------------------------------


def frauds(rows: int, *, amounts: int) -> Iterator[str]:
    """Payments of few columns, 1 % of them fraud; the fewer `amounts`, the more rows are equal."""
    dice = random.Random(7)
    for number in range(rows):
        country = dice.choices(("DE", "FR", "NL", "AT"), (8, 4, 2, 1))[0]
        yield f"{number % 900},{country},{dice.randrange(amounts)},{'yes' if dice.random() < 0.01 else 'no'}"


def prepared_table(tmp_path: Path, rows: list[str], columns: str, **options: str) -> PreparedData:
    tmp_path.mkdir(exist_ok=True)
    source = tmp_path / "payments.csv"
    source.write_text("card,country,amount,fraud\n" + "\n".join(rows) + "\n", encoding="utf-8")
    tables = {"data.options": {"label": "fraud", "positive": "yes", "columns": columns, **options}}
    recipe = toy_recipe(data={"adapter": "table"}, **tables)
    return prepare(recipe, TableAdapter(), source, tmp_path / "w" / ".slm" / "data", lambda line: None)


def shares(data: PreparedData) -> dict[str, float]:
    """Held-out part -> share of its rows that are frauds."""
    texts = {name: [held.document.text for held in read_split(data.held_folder, name)] for name in HELD[1:]}
    return {name: sum("fraud: yes" in text for text in found) / len(found) for name, found in texts.items()}


@pytest.mark.parametrize("amounts", [3, 40, 3000])
def test_a_table_of_few_columns_keeps_its_rare_answer_as_rare_as_it_is(tmp_path: Path, amounts: int) -> None:
    rows = list(frauds(12_000, amounts=amounts))
    data = prepared_table(tmp_path, rows, "country,amount")
    sizes = data.manifest.splits
    assert sum(size.documents for size in sizes.values()) == len(rows)
    assert data.manifest.duplicates_dropped == 0 and data.manifest.duplicates_kept > 0
    held = sum(sizes[name].documents for name in HELD[1:])
    assert held > 1500
    share = sum(value * sizes[name].documents for name, value in shares(data).items()) / held
    assert 0.005 < share < 0.017, "1 %, give or take what 30 groups of rows can"


def test_rare_equal_rows_are_dealt_together_and_common_ones_one_by_one(tmp_path: Path) -> None:
    many = prepared_table(tmp_path / "many", list(frauds(12_000, amounts=3000)), "country,amount")
    assert {item.exact for item in many.manifest.overlap.values()} == {0}
    assert not [line for line in many.manifest.notices if "one by one" in line]
    few = prepared_table(tmp_path / "few", list(frauds(12_000, amounts=3)), "country,amount")
    assert all(item.exact_percent > 98 for item in few.manifest.overlap.values())
    assert [line for line in few.manifest.notices if "12,000 groups hold what stands in many others too" in line]
    assert [line for line in few.manifest.warnings if "% of the documents of dev stand word for word" in line]
    assert [line for line in few.manifest.warnings if "% of the documents of dev stand in another" in line]


def test_equal_rows_of_many_cards_do_not_make_one_group_of_all(tmp_path: Path) -> None:
    data = prepared_table(tmp_path, list(frauds(12_000, amounts=40)), "country,amount", group="card")
    assert data.manifest.splits["hidden"].groups >= 30
    assert sum(size.documents for size in data.manifest.splits.values()) == 12_000
    for name in HELD[1:]:
        assert 0.003 < shares(data)[name] < 0.025


def test_rows_that_differ_in_their_answer_alone_count_as_equal() -> None:
    rows = [
        Document(f"r{n}", f"a: 1 | b: {answer}\n", f"r{n}", spans=(Span(10, 11, "label"),))
        for n, answer in enumerate("xyx")
    ]
    assert {asked_text(row) for row in rows} == {"a: 1 | b: "}
    inner = replace(rows[0], text=rows[0].text + "more\n")
    assert asked_text(inner) == inner.text, "an answer inside a text is not all that the text says"
    begins = Document("q", "x\n", "q", spans=(Span(0, 1, "label"),))
    assert asked_text(begins) == "x\n", "nothing is asked"


def test_a_corpus_of_copies_is_refused_with_their_number(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("the same again\n\n" * 50, encoding="utf-8")
    with pytest.raises(
        DataError, match=r"a\.txt: the corpus is too small to split: 1 group.*; 49 documents were dropped"
    ):
        prepare(toy_recipe(), TextAdapter(), source, tmp_path / "w" / ".slm" / "data", lambda line: None)


# --- groups that share texts ----------------------------------------------------------------------


def group(name: str, size: int = 10) -> GroupInfo:
    return GroupInfo(name, size, None, int(name[1:]))


def joints(*shared: tuple[str, ...]) -> Joints:
    """Each tuple names groups that hold the same text."""
    found = Joints()
    for number, names in enumerate(shared):
        for name in names:
            found.look(Document(f"{number} {name}", f"text {number}", name))
    return found


def test_groups_that_share_texts_are_one_also_over_others() -> None:
    found = joints(("g1", "g2"), ("g3", "g4"), ("g2", "g4"), ("g5",))
    joined = found.join([group(f"g{n}") for n in range(1, 6)], 1000)
    assert [(item.name, item.byte_count) for item in joined.groups] == [("g1", 40), ("g5", 10)]
    assert joined.roots == dict.fromkeys(("g1", "g2", "g3", "g4"), "g1") and joined.apart == 0


def test_a_common_text_joins_nothing_but_large_copies_do() -> None:
    common = tuple(f"g{n}" for n in range(40))
    found = joints(common, ("g40", "g41"), ("g0", "g40"))
    groups = [*(group(name) for name in common), group("g40", 900), group("g41", 900)]
    joined = found.join(groups, 3000)
    assert joined.apart == 40 and len(joined.groups) == 40
    assert joined.roots == dict.fromkeys(("g0", "g40", "g41"), "g0"), "what is rare is joined all the same"
    assert found.join(groups, 300_000).apart == 0


def test_a_chain_of_many_groups_is_left_apart_when_it_would_fill_a_part() -> None:
    chain = joints(*((f"g{n}", f"g{n + 1}") for n in range(40)))
    groups = [group(f"g{n}", 100) for n in range(41)]
    assert len(chain.join(groups, 10_000).groups) == 1
    left = chain.join(groups, 5000)
    assert left.apart == len(left.groups) == 41 and not left.roots
    assert len(chain.join(groups[:20], 100).groups) == 1, "few groups are copies, however large"


# --- the spool ------------------------------------------------------------------------------------


class Lines:
    """An adapter of given documents."""

    def __init__(self, documents: list[Document]) -> None:
        self.name, self.given = "lines", documents

    def documents(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        yield from self.given

    def slices(self, document: Document) -> dict[str, str]:
        return {}


def filled(
    documents: list[Document], *, sample: int | None = None, need: int = 10**6, rule: SplitRule = SplitRule.GROUP
) -> tuple[Spool, GroupTable]:
    scratch = ensure_private(private_root() / "scratch" / "test")
    table = GroupTable(rule, need, sample)
    found = Spool(scratch, table, DuplicatePolicy.EXACT, rule)
    found.read(Lines(documents), Path("nowhere"), SourceOptions(), lambda line: None)  # type: ignore[arg-type]
    return found, table


def dealt_to_train(found: Spool, table: GroupTable, parts: Path) -> list[str]:
    """Ids of all documents of all groups that are left."""
    parts.mkdir()
    found.sort_out({item.name: "train" for item in table.groups()}, {}, parts)
    return [held.document.id for held in read_split(parts, "train")]


@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_copy_stays_when_its_original_is_left_out_by_the_sample(tmp_path: Path, count: int) -> None:
    """Every group holds the same text and one of its own; whichever groups are sampled, the text is there once."""
    documents = [
        Document(f"{kind} {n}", "the same in all\n" if kind == "copy" else f"only in {n}\n", f"group {n}")
        for n in range(12)
        for kind in ("copy", "own")
    ]
    found, table = filled(documents, sample=count)
    assert table.total_bytes == 16 + sum(len(f"only in {g.name[6:]}\n") for g in table.groups())
    kept = dealt_to_train(found, table, tmp_path / "parts")
    assert sum(name.startswith("copy") for name in kept) == 1
    assert len(kept) == count + 1


def test_what_was_given_up_is_taken_off_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "COMPACT_BYTES", 20_000)
    monkeypatch.setattr(spool, "LEAST_FREE_BYTES", 0)
    documents = [Document(f"d{n}", f"line {n}\n" * 20, f"day {n}", f"2024-{n:05d}") for n in range(1000)]
    found, table = filled(documents, need=8000, rule=SplitRule.TIME)
    size = (private_root() / "scratch" / "test" / "documents.jsonl").stat().st_size
    assert size < 3 * 20_000, "the whole source takes ten times as much"
    kept = dealt_to_train(found, table, tmp_path / "parts")
    assert kept == [f"d{n}" for n in range(1000 - len(kept), 1000)] and len(kept) >= 8000 // 200


@pytest.mark.parametrize("backwards", [False, True])
def test_by_time_what_was_given_up_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backwards: bool
) -> None:
    """A text recurs every 50 documents and twice in each group, so that digests matter on both sides of a rewrite."""
    monkeypatch.setattr(spool, "LEAST_FREE_BYTES", 0)
    days = range(3000, 0, -1) if backwards else range(3000)
    documents = [
        Document(f"d{day}.{n}", f"line {(3 * day + n) % 50}\n" * 5, f"day {day}", f"2024-{day:05d}")
        for day in days
        for n in (0, 1, 1)
    ]
    whole, table = filled(documents, need=4000, rule=SplitRule.TIME)
    held = len(whole._starts)
    expected = dealt_to_train(whole, table, tmp_path / "whole")
    monkeypatch.setattr(spool, "COMPACT_BYTES", 20_000)
    found, table = filled(documents, need=4000, rule=SplitRule.TIME)
    assert dealt_to_train(found, table, tmp_path / "rewritten") == expected and len(expected) > 50
    assert found.dropped == whole.dropped > 0
    assert len(found._starts) == len(found._groups) == len(found._is_dropped) < 1000
    assert backwards or held == 6000


def test_one_group_that_outgrows_everything_is_refused_while_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "COMPACT_BYTES", 20_000)
    monkeypatch.setattr(spool, "LEAST_FREE_BYTES", 0)
    endless = [Document(f"d{n}", f"line {n}\n" * 20, "one file") for n in range(1000)]
    with pytest.raises(DataError, match="group 'one file' alone holds more than") as error:
        filled(endless, need=2000)
    assert "max_train_mb" in error.value.hint


def test_a_disk_that_is_nearly_full_is_told_before_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "COMPACT_BYTES", 20_000)
    monkeypatch.setattr(spool, "LEAST_FREE_BYTES", 1 << 60)
    documents = [Document(f"d{n}", f"line {n}\n" * 20, f"day {n}") for n in range(300)]
    with pytest.raises(BudgetError, match="nearly full"):
        filled(documents)
