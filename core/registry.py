"""Finds adapters by name through entry points, or by path in a person's own file.

Called by the command line and prepare. Names are listed without importing any adapter, so that a broken one harms
nobody but itself; `load_adapter` returns an adapter that has everything the Protocol asks for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from .contracts import Adapter, DuplicatePolicy, SplitRule, Task
from .errors import DISK_FULL, DataError, SlmArError, UsageError, did_you_mean
from .files import named_path

GROUP = "slm_ar.adapters"
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class AdapterEntry:
    """One line of a listing: the adapter, or why it cannot be had."""

    name: str
    distributions: tuple[str, ...]
    """Installed packages that register the name; more than one is a collision."""
    adapter: Adapter | None
    problem: str


def adapter_names() -> list[str]:
    """Registered names, sorted. Imports no adapter."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def list_adapters() -> list[AdapterEntry]:
    """Every registered adapter, loaded where that is possible."""
    entries = []
    for name in adapter_names():
        adapter, problem = None, ""
        try:
            adapter = load_adapter(name)
        except SlmArError as error:
            problem = error.message
        entries.append(
            AdapterEntry(name, tuple(_distributions(entry_points(group=GROUP, name=name))), adapter, problem)
        )
    return entries


def load_adapter(name: str, base: Path | None = None) -> Adapter:
    """The adapter registered as `name`, or the one in `path/to/file.py`, or the class in `path/to/file.py:ClassName`.

    A relative path counts from `base`, else from the current folder. Raises UsageError when there is no such adapter or
    two packages register it, DataError when it cannot be used.
    """
    if is_file_name(name):
        return _checked(_class_in_file(name, base or Path()), name)
    points = entry_points(group=GROUP, name=name)
    owners = _distributions(points)
    if not owners:
        hint = f"{did_you_mean(name, adapter_names())} A file of your own is written ./file.py".strip()
        raise UsageError(f"there is no adapter '{name}'", hint)
    if len(owners) > 1:
        raise UsageError(
            f"adapter '{name}' is registered by more than one package: {' and '.join(owners)}",
            f"Uninstall one of them: pip uninstall {owners[-1]}",
        )
    point = next(iter(points))
    try:
        loaded = point.load()
    except (Exception, SystemExit) as error:  # third-party code: whatever it raises, the person learns whose it is
        raise _import_error(f"'{name}' of package {owners[0]} ({point.value})", error) from error
    return _checked(loaded, name)


def _distributions(points: Iterable[EntryPoint]) -> list[str]:
    return sorted({point.dist.name if point.dist else "unknown package" for point in points})


def is_file_name(name: str) -> bool:
    """Whether `name` means a Python file, not a registered adapter."""
    return name.endswith(".py") or ".py:" in name


def adapter_file(name: str, base: Path | None = None) -> Path | None:
    """The file behind `name` when a person's own file is meant, whether or not it is there; None for other adapters."""
    return _file_and_class(name, base or Path())[0] if is_file_name(name) else None


def _file_and_class(name: str, base: Path) -> tuple[Path, str]:
    file_name, _, class_name = name.rpartition(":") if not name.endswith(".py") else (name, "", "")
    return named_path(file_name, base), class_name


def _class_in_file(name: str, base: Path) -> object:
    path, class_name = _file_and_class(name, base)
    if not path.is_file():
        raise UsageError(f"adapter '{name}': there is no file {path}", "Write it as ./file.py or ./file.py:ClassName.")
    module = _module_from(path.resolve(), name)
    classes = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    }
    if not class_name:
        adapters = [key for key, value in classes.items() if callable(getattr(value, "documents", None))]
        if len(adapters) != 1:
            words = f"it has {' and '.join(adapters)}" if adapters else "no class in it has a method documents()"
            example = f"For example: {path}:{adapters[0]}" if adapters else "`slm-ar adapters new NAME` writes one."
            raise UsageError(f"adapter '{name}': which class is it? {words}", example)
        class_name = adapters[0]
    if not hasattr(module, class_name):
        raise UsageError(f"adapter '{name}': {path} has no class {class_name}", did_you_mean(class_name, list(classes)))
    found: object = getattr(module, class_name)
    return found


def _module_from(path: Path, name: str) -> ModuleType:
    # A name of its own, so that two files called adapter.py do not replace each other; dataclasses and pickle look
    # the module up in sys.modules.
    module_name = f"slm_ar_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"adapter '{name}': {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise _import_error(f"'{name}'", error) from error
    return module


def _import_error(who: str, error: BaseException) -> DataError:
    reason = f"{type(error).__name__}: {error}"
    place = _last_place(error, lambda frame: not _is_ours(frame))
    place = f" at {place}" if place else ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        hint = f"Install the package that provides '{error.name}'."
    else:
        hint = "The other adapters are not affected. Repair this one or uninstall its package."
    return DataError(f"adapter {who} cannot be imported: {reason}{place}", hint)


@contextmanager
def adapter_mistakes(adapter: object) -> Iterator[None]:
    """Inside, what the adapter raises by mistake becomes a DataError that names the adapter, the file and the line.

    Errors that are meant for people pass, and so do a full disk and a full memory, which are nobody's mistake. An
    adapter of slm-ar that breaks is our bug, and told as one.
    """
    try:
        yield
    except (SlmArError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        if type(adapter).__module__.startswith("slm_ar."):
            raise
        name = getattr(adapter, "name", type(adapter).__name__)
        home = _home_of(adapter)
        place = _last_place(error, lambda frame: Path(frame.filename).parent == home)
        raise DataError(
            f"the adapter '{name}' failed at {place}: {type(error).__name__}: {error}",
            "that is a mistake in the adapter; `slm-ar adapters check NAME --source FILE` finds others like it",
        ) from error


def careful(adapter: object, start: Callable[[], Iterable[Item]]) -> Iterator[Item]:
    """What `start()` yields, read under `adapter_mistakes`; what the reader of it raises is not the adapter's."""
    with adapter_mistakes(adapter):
        items = iter(start())
    while True:
        with adapter_mistakes(adapter):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def _home_of(adapter: object) -> Path | None:
    """The folder of the adapter's code."""
    try:
        return Path(inspect.getfile(type(adapter))).parent
    except (TypeError, OSError):  # made at run time
        return None


def _is_ours(frame: traceback.FrameSummary) -> bool:
    # what a dataclass makes has no file of its own
    return Path(frame.filename).parent == Path(__file__).parent or frame.filename.startswith("<")


def _last_place(error: BaseException, wanted: Callable[[traceback.FrameSummary], bool]) -> str:
    """FILE:LINE of the innermost wanted frame of the traceback, else of the innermost one."""
    frames = list(traceback.extract_tb(error.__traceback__))
    frame = next((frame for frame in reversed(frames) if wanted(frame)), frames[-1] if frames else None)
    return f"{frame.filename}:{frame.lineno}" if frame is not None else ""


def _checked(loaded: Any, name: str) -> Adapter:
    hint = "slm_ar.core.contracts.Adapter says what an adapter has."
    if not isinstance(loaded, type):
        raise DataError(f"adapter '{name}' is not a class but {type(loaded).__name__}", hint)
    try:
        adapter: Any = loaded()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"adapter '{name}' cannot be constructed without arguments: {reason}", hint) from error
    problems = _protocol_problems(adapter)
    if problems:
        raise DataError(f"adapter '{name}' ({loaded.__name__}) is not complete:\n  " + "\n  ".join(problems), hint)
    checked: Adapter = adapter
    return checked


def _protocol_problems(adapter: object) -> list[str]:
    """What the Protocol asks for and the adapter lacks, one line each; read from the Protocol itself."""
    methods = [key for key, value in vars(Adapter).items() if callable(value) and not key.startswith("_")]
    attributes = list(Adapter.__annotations__)
    problems = [f"missing: {key}" for key in attributes if not hasattr(adapter, key)]
    problems += [f"missing: {key}()" for key in methods if not hasattr(adapter, key)]
    problems += [f"not a method: {key}" for key in methods if not callable(getattr(adapter, key, len))]
    problems += [
        f"wrong: {key} must be {wanted}, not {getattr(adapter, key)!r}"
        for key, wanted in _ATTRIBUTE_WORDS.items()
        if hasattr(adapter, key) and not _fits(key, getattr(adapter, key))
    ]
    return problems


_ATTRIBUTE_WORDS = {
    "name": "a text",
    "version": "a whole number",
    "split": "a SplitRule",
    "duplicates": "a DuplicatePolicy",
    "tasks": "a tuple of Task",
    "slice_keys": "a tuple of texts",
    "options": "a mapping from option to what it does",
}


def _fits(key: str, value: object) -> bool:
    if key in ("tasks", "slice_keys"):
        member = Task if key == "tasks" else str
        return isinstance(value, tuple) and all(isinstance(item, member) for item in value)
    if key == "options":
        return isinstance(value, Mapping) and all(isinstance(text, str) for pair in value.items() for text in pair)
    kinds = {"name": str, "version": int, "split": SplitRule, "duplicates": DuplicatePolicy}
    return isinstance(value, kinds[key]) and not isinstance(value, bool)
