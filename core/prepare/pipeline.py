"""prepare: a recipe and an adapter become shards in the workspace and held-out parts outside it.

Called by the command line before any training. Promises: one pass over the adapter, bounded memory (documents wait on
disk), dedup before the split, the tokenizer sees train alone, the manifest is written last, equal inputs touch nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ..contracts import Adapter, DuplicatePolicy, Settler, SourceOptions, SplitRule, Task, TaskFinder
from ..errors import DISK_FULL, BudgetError, DataError
from ..recipe import Recipe
from ..registry import adapter_mistakes
from ..spilling import spilling_into
from . import heldout, split
from .answers import ANSWERS_FILE
from .drift import drift_notices, newest_groups
from .extra import Extra, HeldGroups
from .floors import TRAIN_BYTES, measure_floors
from .groups import GroupTable
from .heldout import HeldDocument
from .inputs import check_source, extra_source, input_key, workspace_of
from .manifest import (
    FORMAT,
    MANIFEST_FILE,
    PUBLIC_FILES,
    SHARD_FILES,
    TOKENIZER_FILE,
    ExtraSize,
    Manifest,
    Overlap,
    PreparedData,
    Progress,
    SplitSize,
)
from .overlap import HeldIndex, overlap_warnings
from .public_part import PublicPart, write_tasks
from .spool import Spool
from .tokenizer import TOKEN_SPLITS

__all__ = [
    "FORMAT",
    "MANIFEST_FILE",
    "PUBLIC_FILES",
    "SHARD_FILES",
    "TOKENIZER_FILE",
    "Manifest",
    "PreparedData",
    "Progress",
    "SplitSize",
    "newest_prepared",
    "open_prepared",
    "prepare",
]

SERIES_TASK = "next"
"""The task of windows over a series, of kind value."""


def prepare(recipe: Recipe, adapter: Adapter, source: Path, data_root: Path, progress: Progress) -> PreparedData:
    """Prepare `source` below `data_root` (WORKSPACE/.slm/data), or return what equal inputs made before.

    Raises DataError (source, split, leak) and BudgetError (disk).
    """
    check_source(source, data_root)
    for table in recipe.data.extra:
        check_source(extra_source(table, workspace_of(data_root)), data_root, "[[data.extra]]")
    progress("reading the source")
    key = input_key(recipe, adapter, source, workspace_of(data_root))
    found = open_prepared(data_root, key)
    if found is not None:
        progress("unchanged: using what was prepared before")
        return found
    data_root.mkdir(parents=True, exist_ok=True)
    for left in data_root.glob("unfinished-*"):
        shutil.rmtree(left, ignore_errors=True)
    staging = data_root / f"unfinished-{key}"
    try:
        staging.mkdir()
        with heldout.private_scratch() as scratch, spilling_into(scratch):
            manifest = _Preparation(recipe, adapter, source, key, staging, scratch, progress).run()
        (staging / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
        shutil.rmtree(data_root / key, ignore_errors=True)
        staging.replace(data_root / key)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise BudgetError(
                f"the disk is full: preparing {source} stopped in {data_root}", "free some space and run it again"
            ) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    prepared = open_prepared(data_root, key)
    assert prepared is not None
    return prepared


def open_prepared(data_root: Path, key: str) -> PreparedData | None:
    """The complete prepared data with this key, or None: also when an older slm-ar made them or a part is gone."""
    folder = data_root / key
    try:
        manifest = Manifest.from_json((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        shards = heldout.digest_files(folder / name for name in SHARD_FILES)
        answers = heldout.digest_files([folder / ANSWERS_FILE])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    held_folder = heldout.held_folder(manifest.held_digest)
    whole = (
        manifest.format == FORMAT
        and shards == manifest.shard_digest
        and answers == manifest.answers_digest
        and heldout.held_digest(held_folder) == manifest.held_digest
    )
    return PreparedData(data_root / key, held_folder, manifest) if whole else None


def newest_prepared(data_root: Path) -> PreparedData | None:
    """What was prepared last in this workspace, or None."""
    manifests = sorted(data_root.glob(f"*/{MANIFEST_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return open_prepared(data_root, manifests[0].parent.name) if manifests else None


class _Preparation:
    """One run of prepare; its methods are the steps, in the order of `run`."""

    def __init__(
        self,
        recipe: Recipe,
        adapter: Adapter,
        source: Path,
        key: str,
        staging: Path,
        scratch: Path,
        progress: Progress,
    ) -> None:
        self.recipe, self.adapter, self.source, self.key = recipe, adapter, source, key
        self.staging, self.scratch, self.progress = staging, scratch, progress
        self.parts = heldout.ensure_private(scratch / "parts")
        """The documents of every split, one file each: never inside the workspace."""
        data = recipe.data
        self.options = SourceOptions(columns=data.columns, since=data.since, until=data.until, options=data.options)
        self.is_against_time = False
        """Whether the recipe asks for another split than the one by time that the adapter finds right."""
        self.rule = self._rule()
        self.policy = DuplicatePolicy(data.duplicates) if data.duplicates != "auto" else adapter.duplicates
        self.sizes = split.SplitSizes(
            dev=data.dev_kb * 1000,
            hidden=data.hidden_kb * 1000,
            test=data.test_kb * 1000,
            mix=data.mix_kb * 1000,
            mix_share=data.mix_percent / 100,
            train=int(data.max_train_mb * 1e6),
        )
        need = self.sizes.dev + self.sizes.hidden + self.sizes.test + self.sizes.train
        # Near duplicates are found when all is read, so more has to be kept until then.
        self.table = GroupTable(self.rule, need * (1 + (self.policy is DuplicatePolicy.NEAR)), data.sample_groups)
        self.spool = Spool(scratch, self.table, self.policy, self.rule)
        self.extras: list[Extra] = []

    def _rule(self) -> SplitRule:
        finds = getattr(self.adapter, "split_rule", None)
        with adapter_mistakes(self.adapter):
            found = SplitRule(finds(self.source, self.options)) if finds is not None else self.adapter.split
        if self.recipe.data.split == "auto":
            return found
        asked = SplitRule(self.recipe.data.split)
        self.is_against_time = finds is not None and found is SplitRule.TIME and asked is not SplitRule.TIME
        return asked

    def _refuse_series(self, tasks: tuple[Task, ...]) -> None:
        """A window of a series shows the values before it, which are the answers of earlier windows."""
        if self.is_against_time and any(task.kind == "value" and task.name == SERIES_TASK for task in tasks):
            raise DataError(
                f'split = "{self.rule.value}" would show in train what is held out: windows of later periods hold the '
                "values that earlier ones ask for",
                'set [data] split = "auto" or "time" in recipe.toml',
            )

    def run(self) -> Manifest:
        tasks = self.adapter.tasks
        if isinstance(self.adapter, TaskFinder):
            with adapter_mistakes(self.adapter):
                tasks = self.adapter.find_tasks(self.source, self.options)
        self._refuse_series(tasks)
        settled: dict[str, Any] = {}
        if isinstance(self.adapter, Settler):
            with adapter_mistakes(self.adapter):
                settled = dict(self.adapter.settle(self.source, self.options))
        self.spool.read(self.adapter, self.source, self.options, self.progress)
        # An adapter that keeps copies of its own accord means equal records: near ones cost more to count than to read.
        if self.policy is DuplicatePolicy.NEAR or self.recipe.data.duplicates == "report":
            self.progress("looking for near duplicates")
            self.spool.find_near_duplicates()
        try:
            dealt, roots = self._deal()
        except DataError as error:
            dropped = self.spool.dropped + self.spool.near_duplicates * (self.policy is DuplicatePolicy.NEAR)
            why = f"; {dropped:,} documents were dropped because they repeat an earlier one" if dropped else ""
            raise DataError(f"{self.source}: {error.message}{why}", error.hint) from error
        beyond_cap = self.table.left_out + len(self.table.groups()) - len(dealt)
        sizes = self.spool.sort_out(dealt, roots, self.parts)
        self.progress("checking that nothing held out stands in train")
        index = self._held_index()
        self._note_train(index)
        drift = self._drift(dealt)
        extra = self._read_extra(index, self._held_groups(dealt), sizes)
        overlap = self._overlap(index)
        train_bytes = sizes[split.TRAIN].byte_count
        read = train_bytes + sum(size.byte_count * item.copies for size, item in zip(extra, self.extras, strict=True))
        public = PublicPart(self.staging, self.recipe.tokenizer, self._train_documents, read, self.progress)
        tasks = write_tasks(self.staging / ANSWERS_FILE, self._documents(split.TRAIN), tasks)
        self.progress("training the tokenizer on train alone")
        public.train_tokenizer(self._declared_split())
        self.progress("encoding train")
        public.write_shards()
        self.progress("measuring what n-grams and compressors reach on dev")
        floors = self._floors(train_bytes)
        held_digest = heldout.publish(self.parts)
        return Manifest(
            key=self.key,
            format=FORMAT,
            adapter=self.adapter.name,
            adapter_version=self.adapter.version,
            split_rule=self.rule.value,
            splits=sizes,
            vocab_size=public.vocab_size,
            vocab_asked=public.vocab_asked,
            token_split=public.token_split,
            token_dtype=public.token_dtype,
            train_tokens=public.token_count,
            bytes_per_token=round(public.byte_count / max(1, public.token_count), 4),
            duplicates_dropped=self.spool.dropped,
            duplicates_kept=self.spool.kept,
            groups_beyond_cap=beyond_cap,
            notices=self._notices(drift),
            floors=floors,
            shard_digest=heldout.digest_files(self.staging / name for name in SHARD_FILES),
            answers_digest=heldout.digest_files([self.staging / ANSWERS_FILE]),
            held_digest=held_digest,
            warnings=self._warnings(sizes, public, overlap, extra),
            duplicate_policy=self.policy.value,
            near_dropped=self.spool.near_duplicates if self.policy is DuplicatePolicy.NEAR else 0,
            near_kept=self.spool.near_duplicates if self.policy is DuplicatePolicy.REPORT else 0,
            overlap=overlap,
            vocab_measured=public.vocab_measured,
            extra=extra,
            tasks=tasks,
            settled=settled,
        )

    def _deal(self) -> tuple[dict[str, str], dict[str, str]]:
        """(group -> split, group -> the group that it was joined with)."""
        groups, total = self.table.groups(), self.table.total_bytes
        if self.spool.joints is None:
            return split.deal(groups, self.rule, self.sizes, total), {}
        joined = self.spool.joints.join(groups, min(split.part_caps(self.sizes, total).values()))
        dealt = split.deal(joined.groups, self.rule, self.sizes, total)
        if joined.apart:
            self.spool.notices.append(
                f"{joined.apart:,} groups hold what stands in many others too; together they would fill the held-out "
                "parts, so they are dealt one by one, and what recurs may stand in train and in what is held out"
            )
        for name, root in joined.roots.items():
            if root in dealt:
                dealt[name] = dealt[root]
        return dealt, joined.roots

    def _held_index(self) -> HeldIndex:
        return HeldIndex(
            (name, held.document.id, held.document.text)
            for name in (*split.HELD_OUT, split.MIX)
            for held in self._documents(name)
        )

    def _held_groups(self, dealt: dict[str, str]) -> HeldGroups:
        names = frozenset(name for name, where in dealt.items() if where != split.TRAIN)
        since = None
        if self.rule is SplitRule.TIME:
            held = (group for group in self.table.groups() if dealt.get(group.name) in split.HELD_OUT)
            since = min(split.time_of(group, self.rule) for group in held)
        return HeldGroups(self.adapter.name, names, since)

    def _note_train(self, index: HeldIndex) -> None:
        """Hold train, without auxiliary text, against what is held out.

        Raises DataError for equal texts, but where they are recurrences: by time, and where the policy keeps them.
        """
        recurs = self.rule is SplitRule.TIME or self.policy is DuplicatePolicy.REPORT
        leaks: list[tuple[int, str]] = []
        for chunk in heldout.in_chunks(self._documents(split.TRAIN)):
            for held in chunk:
                equal = index.equal(held.document.text)
                if equal is not None and index.splits[equal] in split.HELD_OUT and not recurs:
                    leaks.append((equal, held.document.id))
            index.note_train([held.document.text for held in chunk])
        if leaks:
            place, train_id = leaks[0]
            raise DataError(
                f"{len(leaks)} document(s) of train also stand in a held-out split: "
                f"'{index.ids[place]}' ({index.splits[place]}) has the same text as '{train_id}' (train)",
                'set [data] duplicates = "exact" in recipe.toml, or group the copies together in the adapter',
            )

    def _overlap(self, index: HeldIndex) -> dict[str, Overlap]:
        """What `index` has noted of dev, hidden and test. Raises DataError beyond the recipe's limit."""
        found = {name: item for name, item in index.report().items() if name in split.HELD_OUT}
        limit = self.recipe.data.max_overlap_percent
        for name, item in found.items():
            if item.changed_percent > limit:
                raise DataError(
                    f"{item.near - item.exact:,} of the {item.documents:,} documents of {name} "
                    f"({item.changed_percent:.0f} %) differ "
                    f"from one of train in a few words: scores would measure copying (limit: {limit:g} %)",
                    'set [data] duplicates = "near" in recipe.toml to drop such copies, group them together in the '
                    "adapter, or raise max_overlap_percent if the data are like that",
                )
        return found

    def _drift(self, dealt: dict[str, str]) -> list[str]:
        if self.rule is SplitRule.GROUP:
            return []
        sizes = {
            group.name: (split.time_of(group, self.rule), group.order, group.byte_count)
            for group in self.table.groups()
            if dealt.get(group.name) == split.TRAIN
        }
        reference, probe = newest_groups(sizes)

        def texts(part: str, groups: set[str] | None = None) -> Iterator[str]:
            for held in self._documents(part):
                if groups is None or held.document.group in groups:
                    yield held.document.text

        held_out = {name: texts(name) for name in (split.DEV, split.TEST)}
        return drift_notices(texts(split.TRAIN, reference), texts(split.TRAIN, probe), held_out)

    def _read_extra(self, index: HeldIndex, groups: HeldGroups, sizes: dict[str, SplitSize]) -> tuple[ExtraSize, ...]:
        room = self.sizes.train - sizes[split.TRAIN].byte_count
        found = []
        for number, table in enumerate(self.recipe.data.extra):
            self.progress(f"reading auxiliary text from {table.source}")
            extra = Extra(table, self.scratch / f"extra-{number}.jsonl")
            found.append(extra.read(workspace_of(self.staging.parent), self.spool, index, groups, room))
            room -= found[-1].byte_count * extra.copies
            self.extras.append(extra)
        return tuple(found)

    def _documents(self, part: str) -> Iterator[HeldDocument]:
        return heldout.read_split(self.parts, part)

    def _train_documents(self) -> Iterator[HeldDocument]:
        """What the model will read: train, then auxiliary text as often as it is repeated."""
        return chain(self._documents(split.TRAIN), *(extra.documents() for extra in self.extras))

    def _declared_split(self) -> str:
        """What the adapter says tokens may not cross; "auto" when it says nothing."""
        declared = getattr(self.adapter, "token_split", "auto")
        if declared not in ("auto", *TOKEN_SPLITS):
            raise DataError(
                f"adapter '{self.adapter.name}': token_split is {declared!r}",
                f"it must be one of {', '.join(TOKEN_SPLITS)}",
            )
        return str(declared)

    def _floors(self, train_bytes: int) -> dict[str, float]:
        """Floors on dev; what compressors are given of train holds no auxiliary text, which is of another kind."""
        tail_file = self.staging / "train.tail"
        skip = train_bytes - TRAIN_BYTES
        with tail_file.open("w", encoding="utf-8") as tail:
            for held in self._documents(split.TRAIN):
                skip -= len(held.document.text.encode("utf-8"))
                if skip < 0:
                    tail.write(heldout.to_json(held) + "\n")
        try:
            floors = measure_floors(tail_file, self.parts / f"{split.DEV}.jsonl")
            return {name: round(value, 4) for name, value in floors.items()}
        finally:
            tail_file.unlink()

    def _notices(self, drift: list[str]) -> tuple[str, ...]:
        """What the adapters tolerated, and what else a person should know of the data."""
        extra = chain.from_iterable(item.notices for item in self.extras)
        return (*getattr(self.adapter, "notices", ()), *self.spool.notices, *drift, *extra)

    def _warnings(
        self,
        sizes: dict[str, SplitSize],
        public: PublicPart,
        overlap: dict[str, Overlap],
        extra: tuple[ExtraSize, ...],
    ) -> tuple[str, ...]:
        warnings = []
        if self.is_against_time:
            warnings.append(
                f'the adapter would split this source by time; with split = "{self.rule.value}" in [data] train may '
                "hold later documents than those it is scored on"
            )
        hidden = sizes[split.HIDDEN].groups
        if hidden < 10:
            warnings.append(f"hidden holds {hidden} groups: too few to certify anything (10 needed, 30 wished)")
        elif hidden < 30:
            warnings.append(f"hidden holds {hidden} groups: certificates will carry a warning (30 wished)")
        if public.vocab_size < public.vocab_asked:
            warnings.append(f"the corpus ran out of merges: vocabulary {public.vocab_size}, asked {public.vocab_asked}")
        warnings += overlap_warnings(overlap, self.rule)
        for size, table in zip(extra, self.recipe.data.extra, strict=True):
            if size.is_cut:
                warnings.append(f"auxiliary text from {table.source} was cut: train is full (max_train_mb in [data])")
        return tuple(warnings)
