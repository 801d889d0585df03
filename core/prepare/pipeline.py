"""prepare: a recipe and an adapter become shards in the workspace and held-out parts outside it.

Called by the command line before any training. Promises: one pass over the adapter, bounded memory (documents wait on
disk), dedup before the split, the tokenizer sees train alone, the manifest is written last, equal inputs touch nothing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from ..contracts import Adapter, DuplicatePolicy, SourceOptions, SplitRule
from ..errors import BudgetError, DataError
from ..recipe import Recipe
from . import heldout, split
from .floors import TRAIN_BYTES, measure_floors
from .heldout import HeldDocument
from .shards import BYTES_FILE, OFFSETS_FILE, TOKENS_FILE, ShardWriter, token_dtype
from .tokenizer import choose_split, cut_at_spans, encode_texts, load_tokenizer, train_tokenizer

FORMAT = 1
"""Bumped when the same documents would become other tokens or other splits."""
TOKENIZER_TRAIN_BYTES = 48_000_000
ENCODE_CHUNK_BYTES = 1_000_000
MANIFEST_FILE, TOKENIZER_FILE = "manifest.json", "tokenizer.json"
SHARD_FILES = (TOKENS_FILE, OFFSETS_FILE, BYTES_FILE, TOKENIZER_FILE)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SplitSize:
    """What one split holds."""

    groups: int = 0
    documents: int = 0
    byte_count: int = 0
    record_count: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """The facts of one prepared corpus; every number in it is counted, none is asked for."""

    key: str
    format: int
    adapter: str
    adapter_version: int
    split_rule: str
    splits: dict[str, SplitSize]
    vocab_size: int
    vocab_asked: int
    token_split: str
    token_dtype: str
    train_tokens: int
    bytes_per_token: float
    duplicates_dropped: int
    duplicates_kept: int
    groups_beyond_cap: int
    notices: tuple[str, ...]
    floors: dict[str, float]
    shard_digest: str
    held_digest: str
    warnings: tuple[str, ...] = field(default=())

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Manifest:
        facts = json.loads(text)
        facts["splits"] = {name: SplitSize(**size) for name, size in facts["splits"].items()}
        facts["notices"] = tuple(facts["notices"])
        facts["warnings"] = tuple(facts["warnings"])
        return Manifest(**facts)


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Where the public and the private part lie."""

    folder: Path
    held_folder: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """Names data and serialisation: equal digests, comparable scores."""
        return hashlib.sha256(f"{self.manifest.shard_digest} {self.manifest.held_digest}".encode()).hexdigest()[:16]


def prepare(recipe: Recipe, adapter: Adapter, source: Path, data_root: Path, progress: Progress) -> PreparedData:
    """Prepare `source` below `data_root`, or return what equal inputs made before.

    Raises DataError (source, split, leak) and BudgetError (disk).
    """
    if not source.exists():
        raise DataError(f"the source {source} does not exist", "set [data] source in recipe.toml, or pass --source DIR")
    if source.is_dir() and data_root.resolve().is_relative_to(source.resolve()):
        raise DataError(
            f"the workspace lies inside the source {source}, so its own files would become training text",
            "move the data into a folder of their own and name it in [data] source of recipe.toml",
        )
    progress("reading the source")
    key = _input_key(recipe, adapter, source)
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
        with heldout.private_scratch() as scratch:
            manifest = _Preparation(recipe, adapter, source, key, staging, scratch, progress).run()
        (staging / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
        shutil.rmtree(data_root / key, ignore_errors=True)
        staging.replace(data_root / key)
    except OSError as error:
        if error.errno == errno.ENOSPC:
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
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    held_folder = heldout.private_root() / "heldout" / manifest.held_digest
    whole = shards == manifest.shard_digest and _held_digest(held_folder) == manifest.held_digest
    return PreparedData(data_root / key, held_folder, manifest) if whole else None


def _held_digest(folder: Path) -> str:
    """The name that the files of a private part give it; empty when one is missing."""
    try:
        return heldout.digest_files(folder / f"{name}.jsonl" for name in (split.MIX, *split.HELD_OUT))[:16]
    except OSError:
        return ""


def newest_prepared(data_root: Path) -> PreparedData | None:
    """What was prepared last in this workspace, or None."""
    manifests = sorted(data_root.glob(f"*/{MANIFEST_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return open_prepared(data_root, manifests[0].parent.name) if manifests else None


def _input_key(recipe: Recipe, adapter: Adapter, source: Path) -> str:
    total = hashlib.sha256()
    data = recipe.data.model_dump(mode="json", exclude={"source"})
    inputs = [FORMAT, adapter.name, adapter.version, data, recipe.tokenizer.model_dump(mode="json")]
    total.update(json.dumps(inputs, sort_keys=True).encode())
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    if not files:
        raise DataError(f"the source folder {source} is empty", "put data files into it, or pass another --source DIR")
    for path in files:
        relative = path.name if path == source else path.relative_to(source).as_posix()
        total.update(relative.encode() + b"\0")
        try:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        except PermissionError as error:
            raise DataError(f"{path} cannot be read: permission denied", f"chmod u+r '{path}'") from error
    return total.hexdigest()[:16]


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
        self.staging, self.progress = staging, progress
        self.scratch = scratch
        self.spool = scratch / "documents.jsonl"
        """All documents, held-out ones too: never inside the workspace."""
        self.groups: dict[str, split.GroupInfo] = {}
        self.rule = SplitRule(recipe.data.split) if recipe.data.split != "auto" else adapter.split
        asked = recipe.data.duplicates
        self.policy = DuplicatePolicy(asked) if asked != "auto" else adapter.duplicates
        self.duplicates = 0

    def run(self) -> Manifest:
        self._spool_documents()
        dealt = self._deal()
        self.progress("checking that nothing held out stands in train")
        self._refuse_overlap(dealt)
        sizes, held_digest = self._write_held_out(dealt)
        self.progress("training the tokenizer on train alone")
        token_split = self._train_tokenizer(dealt)
        self.progress("encoding train")
        tokens, dtype, vocab_size = self._write_shards(dealt)
        self.progress("measuring what compressors reach on dev")
        floors = self._floors(dealt, heldout.private_root() / "heldout" / held_digest / "dev.jsonl")
        self.spool.unlink()
        train_bytes = sizes[split.TRAIN].byte_count
        return Manifest(
            key=self.key,
            format=FORMAT,
            adapter=self.adapter.name,
            adapter_version=self.adapter.version,
            split_rule=self.rule.value,
            splits=sizes,
            vocab_size=vocab_size,
            vocab_asked=self.recipe.tokenizer.vocab_size,
            token_split=token_split,
            token_dtype=dtype,
            train_tokens=tokens,
            bytes_per_token=round(train_bytes / max(1, tokens), 4),
            duplicates_dropped=self.duplicates if self.policy is DuplicatePolicy.EXACT else 0,
            duplicates_kept=self.duplicates if self.policy is DuplicatePolicy.REPORT else 0,
            groups_beyond_cap=self.beyond_cap,
            notices=tuple(getattr(self.adapter, "notices", ())),
            floors=floors,
            shard_digest=heldout.digest_files(self.staging / name for name in SHARD_FILES),
            held_digest=held_digest,
            warnings=self._warnings(sizes, vocab_size),
        )

    def _spool_documents(self) -> None:
        data = self.recipe.data
        options = SourceOptions(columns=data.columns, since=data.since, until=data.until, options=data.options)
        seen: set[bytes] = set()
        written = 0
        with self.spool.open("w", encoding="utf-8") as spool:
            for document in self.adapter.documents(self.source, options):
                if not document.text.strip():
                    continue
                digest = _text_digest(document.text)
                if digest in seen:
                    self.duplicates += 1
                    if self.policy is DuplicatePolicy.EXACT:
                        continue
                seen.add(digest)
                self._count_group(document.group, document.time, len(document.text.encode("utf-8")))
                spool.write(heldout.to_json(HeldDocument(document, self.adapter.slices(document))) + "\n")
                written += 1
                if written % 50_000 == 0:
                    self.progress(f"reading the source: {written:,} documents")
        if not written:
            raise DataError(
                f"{self.source} gave no documents through the adapter '{self.adapter.name}'",
                "check [data] in recipe.toml: source, since, until and [data.options]",
            )

    def _count_group(self, name: str, time: str | None, byte_count: int) -> None:
        known = self.groups.get(name)
        if known is None:
            self.groups[name] = split.GroupInfo(name, byte_count, time, len(self.groups))
        else:
            self.groups[name] = split.GroupInfo(name, known.byte_count + byte_count, known.time, known.order)

    def _deal(self) -> dict[str, str]:
        data = self.recipe.data
        groups = list(self.groups.values())
        if data.sample_groups is not None and data.sample_groups < len(groups):
            ranked = sorted(groups, key=lambda group: hashlib.sha256(group.name.encode()).digest())
            groups = sorted(ranked[: data.sample_groups], key=lambda group: group.order)
        sizes = split.SplitSizes(
            dev=data.dev_kb * 1000,
            hidden=data.hidden_kb * 1000,
            test=data.test_kb * 1000,
            mix=data.mix_kb * 1000,
            mix_share=data.mix_percent / 100,
            train=int(data.max_train_mb * 1e6),
        )
        dealt = split.deal(groups, self.rule, sizes)
        self.beyond_cap = len(self.groups) - len(dealt)
        return dealt

    def _documents(self, dealt: dict[str, str], wanted: str) -> Iterator[HeldDocument]:
        with self.spool.open(encoding="utf-8") as lines:
            for line in lines:
                held = heldout.from_json(line)
                if dealt.get(held.document.group) == wanted:
                    yield held

    def _refuse_overlap(self, dealt: dict[str, str]) -> None:
        held: dict[bytes, tuple[str, str]] = {}
        with self.spool.open(encoding="utf-8") as lines:
            for line in lines:
                document = heldout.from_json(line).document
                where = dealt.get(document.group)
                if where in split.HELD_OUT:
                    held[_text_digest(document.text)] = (document.id, str(where))
        leaks = [
            (held[digest], document.document.id)
            for document in self._documents(dealt, split.TRAIN)
            if (digest := _text_digest(document.document.text)) in held
        ]
        if leaks:
            (held_id, where), train_id = leaks[0]
            raise DataError(
                f"{len(leaks)} document(s) of train also stand in a held-out split: "
                f"'{held_id}' ({where}) has the same text as '{train_id}' (train)",
                'set [data] duplicates = "exact" in recipe.toml, or group the copies together in the adapter',
            )

    def _write_held_out(self, dealt: dict[str, str]) -> tuple[dict[str, SplitSize], str]:
        """Write mix, dev, hidden and test to the private folder; count every split on the way."""
        root = heldout.ensure_private(heldout.private_root() / "heldout")
        private = heldout.ensure_private(self.scratch / "held")
        counts: dict[str, list[int]] = {name: [0, 0, 0] for name in (split.TRAIN, split.MIX, *split.HELD_OUT)}
        files: dict[str, IO[str]] = {}
        try:
            for name in (split.MIX, *split.HELD_OUT):
                files[name] = (private / f"{name}.jsonl").open("w", encoding="utf-8")
            with self.spool.open(encoding="utf-8") as lines:
                for line in lines:
                    document = heldout.from_json(line).document
                    where = dealt.get(document.group)
                    if where is None:
                        continue
                    count = counts[where]
                    count[0] += 1
                    count[1] += len(document.text.encode("utf-8"))
                    count[2] += sum(1 for text in document.text.split("\n") if text.strip())
                    if where in files:
                        files[where].write(line)
            for file in files.values():
                file.close()
            digest = _held_digest(private)
            # File by file, so that a damaged part is mended while another workspace may be reading the whole ones.
            heldout.ensure_private(root / digest)
            for name in files:
                (private / f"{name}.jsonl").replace(root / digest / f"{name}.jsonl")
        finally:
            for file in files.values():
                file.close()
        group_counts = {name: sum(1 for where in dealt.values() if where == name) for name in counts}
        return {name: SplitSize(group_counts[name], *count) for name, count in counts.items()}, digest

    def _train_tokenizer(self, dealt: dict[str, str]) -> str:
        asked = self.recipe.tokenizer
        token_split: str = asked.split
        if token_split == "auto":
            token_split = choose_split(held.document.text for held in self._documents(dealt, split.TRAIN))

        def pieces() -> Iterator[str]:
            read = 0
            for held in self._documents(dealt, split.TRAIN):
                read += len(held.document.text)
                if read > TOKENIZER_TRAIN_BYTES:
                    return
                yield from cut_at_spans(held.document.text, held.document.spans)

        tokenizer = train_tokenizer(pieces(), asked.vocab_size, token_split)
        tokenizer.save(str(self.staging / TOKENIZER_FILE), pretty=False)
        return token_split

    def _write_shards(self, dealt: dict[str, str]) -> tuple[int, str, int]:
        tokenizer = load_tokenizer(self.staging / TOKENIZER_FILE)
        vocab_size = tokenizer.get_vocab_size()
        dtype = token_dtype(vocab_size)
        with ShardWriter(self.staging, dtype) as shards:
            chunk: list[list[str]] = []
            sizes: list[int] = []
            chunks = 0

            def flush() -> None:
                for ids, size in zip(encode_texts(tokenizer, chunk), sizes, strict=True):
                    shards.append(ids, size)
                chunk.clear()
                sizes.clear()

            for held in self._documents(dealt, split.TRAIN):
                chunk.append(cut_at_spans(held.document.text, held.document.spans))
                sizes.append(len(held.document.text.encode("utf-8")))
                if sum(sizes) > ENCODE_CHUNK_BYTES:
                    flush()
                    chunks += 1
                    if chunks % 20 == 0:
                        self.progress(f"encoding train: {shards.token_count:,} tokens")
            flush()
            return shards.token_count, dtype, vocab_size

    def _floors(self, dealt: dict[str, str], dev_file: Path) -> dict[str, float]:
        """Compressor floors on dev, given the end of train."""
        tail_file = self.staging / "train.tail"
        skip = (
            sum(group.byte_count for name, group in self.groups.items() if dealt.get(name) == split.TRAIN) - TRAIN_BYTES
        )
        with tail_file.open("wb") as tail:
            for held in self._documents(dealt, split.TRAIN):
                raw = held.document.text.encode("utf-8")
                skip -= len(raw)
                if skip < 0:
                    tail.write(raw)
        try:
            return {name: round(value, 4) for name, value in measure_floors(tail_file, dev_file).items()}
        finally:
            tail_file.unlink()

    def _warnings(self, sizes: dict[str, SplitSize], vocab_size: int) -> tuple[str, ...]:
        warnings = []
        hidden = sizes[split.HIDDEN].groups
        if hidden < 10:
            warnings.append(f"hidden holds {hidden} groups: too few to certify anything (10 needed, 30 wished)")
        elif hidden < 30:
            warnings.append(f"hidden holds {hidden} groups: certificates will carry a warning (30 wished)")
        if vocab_size < self.recipe.tokenizer.vocab_size:
            warnings.append(
                f"the corpus ran out of merges: vocabulary {vocab_size}, asked {self.recipe.tokenizer.vocab_size}"
            )
        return tuple(warnings)


def _text_digest(text: str) -> bytes:
    return hashlib.blake2b(text.rstrip().encode("utf-8"), digest_size=16).digest()
