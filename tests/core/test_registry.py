"""The registry: names, files, collisions, and adapters that are broken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from slm_ar.core import registry
from slm_ar.core.contracts import Adapter, SplitRule
from slm_ar.core.errors import DataError, UsageError

GOOD = """\
from dataclasses import dataclass

from slm_ar.core.contracts import Document, DuplicatePolicy, SplitRule


@dataclass
class Line:  # dataclasses look their module up while it is being imported
    text: str


class Toy:
    name = "toy"
    version = 1
    split = SplitRule.GROUP
    duplicates = DuplicatePolicy.EXACT
    tasks = ()
    slice_keys = ()
    options = {}

    def documents(self, source, options):
        yield Document("1", Line("a").text, "g")

    def slices(self, document):
        return {}

    def describe(self):
        return "shop_toys"

    def sample(self, seed, size):
        yield Document("1", "a", "g")
"""

Register = Callable[..., None]


@pytest.fixture
def adapter_file(tmp_path: Path) -> Path:
    path = tmp_path / "shop_toys.py"
    path.write_text(GOOD)
    return path


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Register]:
    """Replaces what is installed by (name, value, distribution) triples."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(*triples: tuple[str, str, str]) -> None:
        points = []
        for name, value, distribution in triples:
            point = EntryPoint(name, value, registry.GROUP)
            vars(point).update(dist=SimpleNamespace(name=distribution))
            points.append(point)

        def entry_points(group: str, name: str | None = None) -> list[EntryPoint]:
            assert group == "slm_ar.adapters"
            return [point for point in points if name in (None, point.name)]

        monkeypatch.setattr(registry, "entry_points", entry_points)

    yield install
    sys.modules.pop("shop_toys", None)


# --- entry points ---------------------------------------------------------------------------


def test_built_in_adapters_are_registered_like_any_other() -> None:
    assert {"transit", "text"} <= set(registry.adapter_names())


def test_names_are_listed_without_importing_anything(register: Register) -> None:
    register(("zoo", "no_such_module:Zoo", "a"), ("ant", "no_such_module:Ant", "a"))
    assert registry.adapter_names() == ["ant", "zoo"]


def test_an_adapter_is_loaded_by_name(register: Register, adapter_file: Path) -> None:
    register(("toy", "shop_toys:Toy", "toy-shop"))
    adapter = registry.load_adapter("toy")
    assert isinstance(adapter, Adapter) and adapter.split is SplitRule.GROUP


def test_an_unknown_name_suggests_the_nearest(register: Register) -> None:
    register(("transit", "x:X", "slm-ar"))
    with pytest.raises(UsageError, match="there is no adapter 'transti'") as caught:
        registry.load_adapter("transti")
    assert "Did you mean 'transit'?" in caught.value.hint
    assert "./file.py" in caught.value.hint


def test_two_packages_with_one_name_are_both_named(register: Register) -> None:
    register(("toy", "shop_toys:Toy", "toy-shop"), ("toy", "shop_toys:Toy", "rival-shop"))
    with pytest.raises(UsageError, match="rival-shop and toy-shop"):
        registry.load_adapter("toy")
    assert registry.adapter_names() == ["toy"]
    (entry,) = registry.list_adapters()
    assert entry.distributions == ("rival-shop", "toy-shop") and entry.adapter is None


@pytest.mark.parametrize("failure", ["import not_installed_anywhere", "raise SystemExit(3)", "1 / 0", "def"])
def test_a_broken_adapter_is_named_and_harms_no_other(
    register: Register, adapter_file: Path, tmp_path: Path, failure: str
) -> None:
    (tmp_path / "shop_broken.py").write_text(failure)
    register(("broken", "shop_broken:Broken", "bad-shop"), ("toy", "shop_toys:Toy", "toy-shop"))
    with pytest.raises(DataError, match=r"adapter 'broken' of package bad-shop .* cannot be imported") as caught:
        registry.load_adapter("broken")
    if "not_installed" in failure:
        assert caught.value.hint == "Install the package that provides 'not_installed_anywhere'."
    broken, toy = registry.list_adapters()
    assert broken.adapter is None and "cannot be imported" in broken.problem
    assert toy.adapter is not None and toy.problem == ""


def test_installed_distributions_with_one_name_collide(tmp_path: Path) -> None:
    """The same through real metadata, as pip writes it."""
    for shop in ("toy-shop", "rival-shop"):
        folder = tmp_path / f"{shop.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {shop}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text("[slm_ar.adapters]\ntoy = shop_toys:Toy\n")
    code = "from slm_ar.core.registry import load_adapter; load_adapter('toy')"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "UsageError: adapter 'toy' is registered by more than one package: rival-shop and toy-shop" in result.stderr


# --- files ----------------------------------------------------------------------------------


def test_a_class_in_a_file_is_an_adapter(adapter_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.load_adapter(f"{adapter_file}:Toy").name == "toy"
    monkeypatch.chdir(adapter_file.parent)
    assert registry.load_adapter("shop_toys.py:Toy").name == "toy"
    assert "shop_toys" not in sys.modules, "a person's file must not shadow an installed module"


def test_the_only_adapter_of_a_file_need_not_be_named(adapter_file: Path, tmp_path: Path) -> None:
    assert registry.load_adapter(str(adapter_file)).name == "toy"
    assert registry.load_adapter(adapter_file.name, base=tmp_path).name == "toy"


def test_the_class_has_to_be_named_when_there_are_two_or_none(adapter_file: Path) -> None:
    adapter_file.write_text(GOOD + "\n\nclass Other(Toy):\n    pass\n")
    with pytest.raises(UsageError, match="which class is it") as caught:
        registry.load_adapter(str(adapter_file))
    assert "shop_toys.py:Toy" in caught.value.hint
    adapter_file.write_text("class Nothing:\n    pass\n")
    with pytest.raises(UsageError, match=r"no class in it has a method documents"):
        registry.load_adapter(str(adapter_file))


def test_a_misspelt_class_is_told(adapter_file: Path) -> None:
    with pytest.raises(UsageError, match="has no class Toi") as caught:
        registry.load_adapter(f"{adapter_file}:Toi")
    assert "Did you mean 'Toy'?" in caught.value.hint


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file .*nowhere\.py"):
        registry.load_adapter(f"{tmp_path}/nowhere.py:Toy")
    broken = tmp_path / "broken.py"
    broken.write_text("x = 1\nraise RuntimeError('no luck')\n")
    with pytest.raises(DataError, match=r"RuntimeError: no luck at .*broken\.py:2"):
        registry.load_adapter(f"{broken}:Toy")
    assert not [name for name in sys.modules if name.startswith("slm_ar_file_broken")]


def test_a_task_that_cannot_be_is_told_with_the_line_that_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "shop_typo.py"
    path.write_text(
        "from slm_ar.core.contracts import Task\n\n\nclass Typo:\n"
        "    tasks = (Task('label', kind='choise', metric='accuracy', direction='max'),)\n"
    )
    with pytest.raises(DataError, match=r"not 'choise' at .*shop_typo\.py:5\n"):
        registry.load_adapter(f"{path}:Typo")
    path.write_text(
        "from slm_ar.core.contracts import Task\n\n\nclass Typo:\n    def __init__(self):\n"
        "        self.tasks = (Task('label', 'choice', 'acuracy', 'max'),)\n"
    )
    with pytest.raises(DataError, match="cannot be constructed without arguments: ValueError: Task 'label': kind"):
        registry.load_adapter(f"{path}:Typo")


def test_a_mistake_of_an_adapter_is_told_with_its_own_line(adapter_file: Path) -> None:
    adapter_file.write_text(GOOD.replace('return "shop_toys"', "import json; return json.loads('{')"))
    adapter = registry.load_adapter(str(adapter_file))
    line = 1 + adapter_file.read_text().splitlines().index("        import json; return json.loads('{')")
    told = rf"the adapter 'toy' failed at .*shop_toys\.py:{line}: JSONDecodeError"
    with pytest.raises(DataError, match=told) as caught, registry.adapter_mistakes(adapter):
        adapter.describe()
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    "error", [DataError("told"), UsageError("told"), MemoryError(), OSError(28, "No space left"), KeyboardInterrupt()]
)
def test_what_is_no_mistake_of_an_adapter_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, registry.adapter_mistakes(object()):
        raise error
    assert caught.value is error


def test_only_own_files_have_a_file(tmp_path: Path) -> None:
    assert registry.adapter_file("text", tmp_path) is None
    assert registry.adapter_file("./mine.py:Mine", tmp_path) == tmp_path / "mine.py"


# --- the Protocol ---------------------------------------------------------------------------


def test_what_is_missing_is_listed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "half.py"
    path.write_text("class Half:\n    name = 'half'\n    version = '1'\n    tasks = ['a']\n    describe = 'text'\n")
    with pytest.raises(DataError) as caught:
        registry.load_adapter(f"{path}:Half")
    assert [line.strip() for line in caught.value.message.splitlines()[1:]] == [
        "missing: split",
        "missing: duplicates",
        "missing: slice_keys",
        "missing: options",
        "missing: documents()",
        "missing: slices()",
        "missing: sample()",
        "not a method: describe",
        "wrong: version must be a whole number, not '1'",
        "wrong: tasks must be a tuple of Task, not ['a']",
    ]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def adapter(): pass", "is not a class but function"),
        ("class adapter:\n    def __init__(self, path): pass", "cannot be constructed without arguments"),
    ],
)
def test_only_a_class_without_arguments_will_do(tmp_path: Path, code: str, message: str) -> None:
    path = tmp_path / "other.py"
    path.write_text(code)
    with pytest.raises(DataError, match=message):
        registry.load_adapter(f"{path}:adapter")


def test_every_member_of_the_protocol_is_checked(adapter_file: Path) -> None:
    """A member added to the Protocol must be asked for by the registry."""
    members = [name for name in dir(Adapter) if not name.startswith("_")] + list(Adapter.__annotations__)
    assert len(members) == 11
    for member in members:
        adapter_file.write_text(f"{GOOD}\n    del {member}\n")
        with pytest.raises(DataError, match="missing: " + member):
            registry.load_adapter(f"{adapter_file}:Toy")
