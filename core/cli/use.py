"""Commands that use a trained model on a person's rows: predict new answers, evaluate on data that came later."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from ..contracts import BITS_WITH_NGRAM, Adapter, Document, Questioner, SourceOptions, Span, SplitScore, TaskAnswer
from ..errors import DataError, UsageError, did_you_mean
from .door import parsed_options
from .lines import ANSWERED_ALONE
from .serving import ServedModel, data_of_model, find_model, mixer_of, served_model
from .unsafe import allow_unsafe
from .workspace import Workspace, checked_source, find_workspace

if TYPE_CHECKING:
    from ..prepare.heldout import HeldDocument
    from ..prepare.manifest import PreparedData
    from ..train.mixing import Mixer, Weights

EVALUATION_KB = 1000
PREDICTION_COLUMNS = ("document", "task", "answer", "probability")


@click.command()
@click.option("--input", "source", required=True, type=click.Path(path_type=Path), help="File or folder with new rows.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write: .jsonl, .csv or .tsv.")
@click.option("--task", help="Answer only this task; default: all that the rows ask.")
@click.option("--model", type=click.Path(path_type=Path), help="A model folder; default: the workspace's newest.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="A key of [data.options], changed.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@allow_unsafe
def predict(
    source: Path, out: Path, task: str | None, model: Path | None, options: tuple[str, ...], as_json: bool
) -> None:
    """Answer new rows with the model: same serialisation as in training, one answer and its probability per row."""
    from ..registry import careful
    from ..report.words import visible
    from ..tasks.predicting import answer_forms
    from ..tasks.predicting import predict as predicted

    workspace = find_workspace()
    checkpoint, _ = find_model(model)
    data = data_of_model(workspace, checkpoint)
    tasks = {known.name: known for known in data.manifest.tasks}
    if task is not None and task not in tasks:
        raise UsageError(f"there is no task '{task}' in these data", did_you_mean(task, list(tasks)))
    adapter = workspace.adapter()
    if not tasks or not isinstance(adapter, Questioner):
        raise UsageError(
            f"the adapter '{adapter.name}' asks no questions that a model could answer",
            "`slm-ar generate --prompt ...` continues any text",
        )
    given = checked_source(source)
    assert given is not None
    _check_out(out, given)
    asked = source_options(workspace, data, options)
    questions: Iterator[Document] = careful(adapter, lambda: adapter.questions(given, asked))
    if task is not None:
        questions = (document for document in questions if any(span.task == task for span in document.spans))
    forms = answer_forms(held_documents(data, "dev"), tasks.values())
    started = time.monotonic()
    count = 0
    with (
        served_model(checkpoint, threads=workspace.machine().threads) as served,
        served.open() as client,
        _answers_file(out, served.isolation) as write,
    ):
        loaded = time.monotonic()
        context = min(served.context, workspace.recipe.evaluation.context)
        for name, answer in predicted(client, served.tokenizer, context, questions, tasks, forms):
            write(name, answer)
            count += 1
        if not count:  # told before the file is put in place: an older one with answers stays
            raise DataError(f"{source}: no row asks for an answer", "give it rows whose answer is left out or empty")
    seconds = time.monotonic() - loaded
    notices = list(getattr(adapter, "notices", ()))
    if workspace.recipe.evaluation.mixture != "none":
        notices.append("answered by the model alone, without the n-gram that [evaluation] mixes in for texts")
    facts = {
        "rows": count,
        "seconds": round(seconds, 3),
        "rows_per_second": round(count / seconds, 1),
        "start_seconds": round(loaded - started, 3),
        "out": str(out),
        "isolation": served.isolation,
        "notices": notices,
    }
    if as_json:
        click.echo(json.dumps(facts))
    else:
        for line in notices:
            click.echo(f"  {visible(line, 400, single_line=True)}", err=True)
        speed = f"{count / seconds:,.0f} rows per second"
        click.echo(f"{out}: {count:,} answers in {seconds:.1f} s ({speed}), after {loaded - started:.1f} s of start-up")


def _check_out(out: Path, source: Path) -> None:
    """Refuse a place where answers cannot be written, or would replace or join the data. Raises UsageError."""
    if out.suffix not in (".jsonl", ".csv", ".tsv"):
        raise UsageError(f"--out {out}: the ending says the format", "end it in .jsonl, .csv or .tsv")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder", "name a file")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}", "make it first, or write somewhere else")
    place = out.resolve()
    if place == source or (out.exists() and out.samefile(source)):
        raise UsageError(f"--out {out} is the file of --input: its rows would be lost", "choose another name")
    if source.is_dir() and place.is_relative_to(source):
        raise UsageError(
            f"--out {out} lies inside the folder of --input: the answers would become data",
            "write them somewhere else",
        )


@click.command("eval")
@click.option("--source", required=True, type=click.Path(path_type=Path), help="File or folder with newer data.")
@click.option("--model", type=click.Path(path_type=Path), help="A model folder; default: the workspace's newest.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="A key of [data.options], changed.")
@click.option("--kb", default=EVALUATION_KB, show_default=True, type=click.IntRange(1), help="Score this much at most.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@allow_unsafe
def evaluate(source: Path, model: Path | None, options: tuple[str, ...], kb: int, as_json: bool) -> None:
    """Score the model on data that came later, beside the baselines, with slices; tells how far it drifted from dev."""
    from ..prepare.known import differences
    from ..report.exam import exam_lines, slice_lines
    from ..report.words import visible
    from ..tasks.exam import sit_exam
    from ..train.integrity import Watched

    workspace = find_workspace()
    checkpoint, _ = find_model(model)
    data = data_of_model(workspace, checkpoint)
    given = checked_source(source)
    assert given is not None
    adapter = workspace.adapter()
    given_options = source_options(workspace, data, options)
    documents, skipped, prepared = new_documents(workspace, data, adapter, given, given_options, kb * 1000)
    dev = held_documents(data, "dev")
    with served_model(checkpoint, threads=workspace.machine().threads) as served:
        notices = [*getattr(adapter, "notices", ()), *differences(data, served.tokenizer, documents)]
        context = min(served.context, workspace.recipe.evaluation.context)
        mixer = mixer_of(workspace, data, served.tokenizer)
        weights = mixer.fit_candidate(served.open, context) if mixer is not None else None
        score, dev_score = (
            _probed_score(served, name, held, context, mixer, weights)
            for name, held in (("new", documents), ("dev", dev))
        )

        def probed() -> Watched:
            return Watched(served.open)

        # Without [baselines]: their files answer the questions of the prepared splits, not these.
        results = sit_exam(probed, served.tokenizer, context, "new", documents, data, adapter)
        dev_results = sit_exam(probed, served.tokenizer, context, "dev", dev, data, adapter)
        retrieval = retrieval_lines(workspace, data, served, adapter)
    drift = score.bits_per_byte / dev_score.bits_per_byte - 1
    if as_json:
        facts = {
            "isolation": served.isolation,
            "documents": len(documents),
            "bytes": score.byte_count,
            "beyond_cap": skipped,
            "prepared_already": prepared,
            "notices": notices,
            "bits_per_byte": score.bits_per_byte,
            "dev_bits_per_byte": dev_score.bits_per_byte,
            **{f"{name}bits_per_byte_with_ngram": mixed for name, mixed in _with_ngram(score, dev_score).items()},
            "slices": {key: dict(values) for key, values in score.slices.items()},
            "tasks": [result.to_json() for result in results],
            "dev_tasks": [result.to_json() for result in dev_results],
            "retrieval": retrieval,
        }
        click.echo(json.dumps(facts, allow_nan=False, default=str))
        return
    lines = [f"{source}: {len(documents):,} documents, {score.byte_count:,} bytes scored"]
    if prepared:
        lines.append(f"  {prepared:,} more stand word for word in the prepared data already and were left out")
    if skipped:
        lines.append(f"  {skipped:,} more are beyond --kb {kb}; documents were chosen by hash")
    lines += [f"  {visible(line, 400, single_line=True)}" for line in notices]
    lines.append(f"{score.bits_per_byte:.4f} bits per byte; dev {dev_score.bits_per_byte:.4f} ({_drift_words(drift)})")
    if mixed := _with_ngram(score, dev_score):
        drift = mixed[""] / mixed["dev_"] - 1
        lines.append(f"{mixed['']:.4f} {BITS_WITH_NGRAM}; dev {mixed['dev_']:.4f} ({_drift_words(drift)})")
    for key, values in score.slices.items():
        first = list(values.items())[:8]
        shown = ", ".join(f"{visible(value, 60, single_line=True)} {bits:.3f}" for value, bits in first)
        whose = ", the model alone" if mixed else ""
        lines.append(
            f"  by {visible(key)}{whose}: {shown}" + (f", and {len(values) - 8} more" if len(values) > 8 else "")
        )
    lines += exam_lines(results)
    lines += [ANSWERED_ALONE] if results and mixer is not None else []
    by_name = {result.task.name: result for result in dev_results}
    for result in results:
        lines += slice_lines(result)
        before = by_name.get(result.task.name)
        if before is not None:
            metric = result.task.metric
            lines.append(f"  {metric} on dev was {before.score.metrics[metric]:.4f}")
    click.echo("\n".join(lines + retrieval))


def _probed_score(
    served: ServedModel,
    name: str,
    documents: list[HeldDocument],
    context: int,
    mixer: Mixer | None,
    weights: Weights | None,
) -> SplitScore:
    """Bits per byte, with the integrity probes of every score. Raises InvalidCheckpointError."""
    from ..train.integrity import Probes
    from ..train.mixing import Mixture
    from ..train.scorer import score_split
    from ..train.windows import encode_documents

    probes, mixture = Probes(), None
    if mixer is not None and weights is not None:
        mixture = Mixture(weights, mixer.counts, mixer.contexts(encode_documents(served.tokenizer, documents)))
    with served.open() as client:
        score = score_split(client, served.tokenizer, name, documents, context, probes=probes, mixture=mixture)
    probes.run(served.open)
    return score


def _with_ngram(score: SplitScore, dev_score: SplitScore) -> dict[str, float]:
    """Of the new data ("") and of dev ("dev_"): bits per byte with n-gram; empty where the recipe mixes none in."""
    if score.objective is None or dev_score.objective is None:
        return {}
    return {"": score.objective.value, "dev_": dev_score.objective.value}


def _drift_words(drift: float) -> str:
    if abs(drift) < 0.02:
        return "no drift"
    return f"drift: {abs(drift):.0%} {'more' if drift > 0 else 'fewer'} bits than on dev"


def held_documents(data: PreparedData, split: str) -> list[HeldDocument]:
    """Documents of a held-out split, for the harness."""
    from ..prepare.heldout import read_split

    return list(read_split(data.held_folder, split))


def source_options(workspace: Workspace, data: PreparedData, changed: tuple[str, ...]) -> SourceOptions:
    """The recipe's columns and options for another source, with what the one of training settled.

    Periods and judged queries belong to the old one. What a person changes is no longer settled.
    """
    from ..tasks.collection import OPTIONS

    table = workspace.recipe.data
    kept = {key: value for key, value in table.options.items() if key not in OPTIONS}
    new = parsed_options(changed)
    settled = {key: value for key, value in data.manifest.settled.items() if key not in new}
    return SourceOptions(columns=table.columns, options={**kept, **new}, settled=settled)


def new_documents(
    workspace: Workspace, data: PreparedData, adapter: Adapter, source: Path, options: SourceOptions, byte_cap: int
) -> tuple[list[HeldDocument], int, int]:
    """(documents to score in order, how many are beyond the cap, how many were prepared before and are left out).

    Left out is what the model has read, and what any preparation of this workspace holds out: hidden and test are
    opened by `finish` alone. Raises DataError when nothing is left.
    """
    import hashlib
    import heapq

    from ..prepare.heldout import HeldDocument, text_digest
    from ..prepare.known import held_digests, train_digests
    from ..prepare.spool import read_documents
    from ..prepare.tokenizer import cut_at_spans, encode_texts, load_tokenizer

    known, held_out = train_digests(data), held_digests(workspace.hidden_folder / "data")
    tokenizer = load_tokenizer(data.folder / "tokenizer.json")
    heap: list[tuple[int, int, HeldDocument]] = []
    total = beyond = prepared = 0
    for place, document in enumerate(read_documents(adapter, source, options)):
        ids = encode_texts(tokenizer, [cut_at_spans(document.text, document.spans)])[0]
        if known.holds(ids) or text_digest(document.text) in held_out:
            prepared += 1
            continue
        size = len(document.text.encode("utf-8"))
        rank = int.from_bytes(hashlib.sha256(document.id.encode()).digest()[:7], "big")
        heapq.heappush(heap, (-rank, place, HeldDocument(document, adapter.slices(document))))
        total += size
        while total > byte_cap and len(heap) > 1:
            _, _, dropped = heapq.heappop(heap)
            total -= len(dropped.document.text.encode("utf-8"))
            beyond += 1
    documents = [held for _, _, held in sorted(heap, key=lambda entry: entry[1])]
    if not documents:
        found = f"all {prepared:,} documents stand in the prepared data already" if prepared else "it has no documents"
        raise DataError(f"{source}: nothing to score: {found}", "name data that the model has not seen")
    return documents, beyond, prepared


def retrieval_lines(workspace: Workspace, data: PreparedData, served: ServedModel, adapter: Any) -> list[str]:
    """What expansions do to retrieval over the person's own documents; empty without documents and judgments."""
    from ..tasks.baselines import baseline_texts
    from ..tasks.collection import load_collection
    from ..tasks.predicting import answer_forms
    from ..tasks.predicting import predict as predicted
    from ..tasks.retrieval import evaluate_retrieval

    prompt_of = getattr(adapter, "prompt", None)
    tasks = {task.name: task for task in data.manifest.tasks if task.kind == "generate"}
    if prompt_of is None or len(tasks) != 1:
        return []
    collection = load_collection(workspace.source(lambda line: None), workspace.recipe.data.options)
    if collection is None:
        return []
    (task,) = tasks.values()
    # A file of queries may hold many times more than were judged; answers to the others would be thrown away.
    queries = {name: text for name, text in collection.queries.items() if name in collection.judgments}
    prompts = [prompt_of(query) for query in queries.values()]
    ends = [len(prompt.encode("utf-8")) for prompt in prompts]
    asked = [
        Document(query, prompt, query, spans=(Span(end, end, task.name),))
        for query, prompt, end in zip(queries, prompts, ends, strict=True)
    ]
    forms = answer_forms(held_documents(data, "dev"), [task])
    with served.open() as client:
        answers = predicted(client, served.tokenizer, served.context, asked, tasks, forms)
        expansions = {"the model": {answer.document: answer.answer for _, answer in answers}}
    for name, texts in baseline_texts(data, task, adapter, prompts).items():
        expansions[name] = dict(zip(queries, texts, strict=True))
    report = evaluate_retrieval(collection.texts(), collection.queries, collection.judgments, expansions)
    return ["retrieval with the expanded queries", *(f"  {line}" for line in report.lines())]


@contextmanager
def _answers_file(path: Path, isolation: str) -> Iterator[Callable[[str, TaskAnswer], None]]:
    """Write answers beside `path` and put the file in place when all are there.

    Answers of a model that no walls were around say so, in a column of their own.
    """
    stamp = {"isolation": isolation} if isolation == "none" else {}
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            yield _writer(file, path.suffix, stamp)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _writer(file: TextIO, suffix: str, stamp: Mapping[str, str]) -> Callable[[str, TaskAnswer], None]:
    if suffix == ".jsonl":

        def write_line(task: str, answer: TaskAnswer) -> None:
            file.write(json.dumps({**_facts(task, answer), **stamp}, ensure_ascii=False) + "\n")

        return write_line
    delimiter = "," if suffix == ".csv" else "\t"
    rows = csv.DictWriter(file, (*PREDICTION_COLUMNS, *stamp), delimiter=delimiter, lineterminator="\n")
    rows.writeheader()

    def write_row(task: str, answer: TaskAnswer) -> None:
        rows.writerow({**_facts(task, answer), **stamp})

    return write_row


def _facts(task: str, answer: TaskAnswer) -> dict[str, Any]:
    probability = None if answer.probability is None else round(answer.probability, 6)
    values = (answer.document, task, answer.answer, probability)
    return dict(zip(PREDICTION_COLUMNS, values, strict=True))
