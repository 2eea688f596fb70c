"""What decides a result: an edit anywhere below it makes a new name, and a comment, a folder or an import does not."""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.metadata
import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from unlearnkit.methods.finetune import FineTune
from unlearnkit.methods.salun import SalUn
from unlearnkit.observing import observe
from unlearnkit.provenance import Code, code_of
from unlearnkit.result import UsageError
from unlearnkit.stacked import fit_stack
from unlearnkit.types import Method

ROOT = Path(__file__).parents[1]

TRAINER = """
    import math
    import around.within
    import lab.losses
    from lab.nets.small import Net
    def train(recipe, examples):
        from lab import schedule
        return Net(), lab.losses, schedule
"""
PROJECT = {
    "lab/__init__.py": "scale = 1",
    "lab/train.py": TRAINER,
    "lab/losses.py": "from . import weights\nfrom .nets import extra\nimport single",
    "lab/weights.py": "w = 1",
    "lab/schedule.py": "steps = 5",
    "lab/nets/__init__.py": "from .small import Net",
    "lab/nets/small.py": """
        from ..weights import w
        try:
            from ...outside import nothing
        except ImportError:  # more dots than packages
            nothing = None
        class Net: width = 8
    """,
    "lab/nets/extra.py": "depth = 2",
    "around/__init__.py": "runs = True",
    "around/within.py": "x = 1",
    "single.py": "import open_room.deep.part",
    "open_room/deep/part.py": "from .near import value",  # folders without __init__.py
    "open_room/deep/near.py": "value = 1",
}
UNUSED = {"lab/unused.py": "x = 1", "lab/nets/unused.py": "x = 1", "open_room/deep/unused.py": "x = 1"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder with a package, a module, and folders without `__init__.py`."""
    room = tmp_path / "project"
    for name, source in (PROJECT | UNUSED).items():
        path = room / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(room)
    before = set(sys.modules)
    yield room
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("around", "lab", "single", "open_room", "made"):
            del sys.modules[name]


def test_every_file_below_a_trainer_counts_and_no_other(project: Path):
    first = code_of("lab.train:train")
    for name in PROJECT | UNUSED:
        path = project / name
        source = path.read_text()
        path.write_text(source + "\nadded = 1\n")
        assert (code_of("lab.train:train") != first) == (name in PROJECT), name
        path.write_text(source)
    assert code_of("lab.train:train") == first


def test_nothing_is_imported_to_be_looked_at(project: Path):
    (project / "lab" / "__init__.py").write_text("raise RuntimeError('imported')")
    (project / "single.py").write_text("raise RuntimeError('imported')")
    before = set(sys.modules)
    code_of("lab.train:train")
    assert not {name for name in set(sys.modules) - before if name.startswith(("around", "lab", "single", "open_room"))}


def test_what_was_imported_before_is_irrelevant(project: Path):
    first = code_of("lab.train:train")
    train = importlib.import_module("lab.train").train
    assert code_of(train) == code_of("lab.train:train") == first
    program = "from unlearnkit.provenance import code_of; print(code_of('lab.train:train').digest)"
    env = os.environ | {"PYTHONPATH": f"{project}{os.pathsep}{ROOT}"}
    for imports in ("", "import lab.nets.small, single; ", "import torch, unlearnkit.jobs; "):
        done = subprocess.run([sys.executable, "-c", imports + program], env=env, capture_output=True, check=True)
        assert done.stdout.decode().strip() == first.digest


def test_the_folder_is_irrelevant(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = code_of("lab.train:train")
    project.rename(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    assert code_of("lab.train:train") == first


def test_files_that_change_places_are_a_change(project: Path):
    first = code_of("lab.train:train")
    one, two = project / "lab" / "schedule.py", project / "lab" / "nets" / "extra.py"
    texts = one.read_text(), two.read_text()
    one.write_text(texts[1])
    two.write_text(texts[0])
    assert code_of("lab.train:train") != first


SOURCE = """
class Net:
    width = 8

    def forward(self, x):
        return x * 2

async def later():
    return 1
"""
SAME = '''
"""A docstring."""
# a comment


class Net:
    """A docstring."""
    width = (8)
    def forward(self,  x):
        """A docstring
        of two lines."""
        return (x
            * 2)  # a comment
async def later():
    "A docstring."
    return 1
'''


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        (SOURCE, SAME, False),
        ("width = 8", "width = 9", True),
        ("x * 2", "2 * x", True),
        ("width", "height", True),
        ("return 1", 'return 1\n    "no docstring"', True),
        ("width = 8", "pass", True),
        ("async def", "def", True),
    ],
)
def test_what_is_a_change(project: Path, old: str, new: str, changes: bool):
    path = project / "made.py"
    path.write_text(SOURCE)
    first = code_of("made:Net")
    path.write_text(SOURCE.replace(old, new))
    assert (code_of("made:Net") != first) == changes


BUILT = """
    import functools
    from lab import losses
    from lab.nets.small import Net as borrowed

    def plain(recipe, examples, lr=0.1):
        return lr

    def logged(function):
        def inner(*arguments):
            return function(*arguments)
        return inner

    class Trainer:
        def __init__(self, lr):
            self.lr = lr
        def __call__(self, recipe, examples):
            return self.lr
        def method(self, recipe, examples):
            return self.lr

    partial = functools.partial(plain, lr=0.5)
    nested = functools.partial(partial, lr=0.5)
    wrapped = functools.wraps(plain)(lambda *a: plain(*a))
    decorated = logged(plain)
    callable_object = Trainer(lr=0.5)
    method = callable_object.method
    Inner = Trainer
"""
NAMES = ["plain", "partial", "nested", "wrapped", "decorated", "callable_object", "method", "Inner"]


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_trainer_is_followed(project: Path, name: str):
    path = project / "made.py"
    path.write_text(textwrap.dedent(BUILT))
    thing = getattr(importlib.import_module("made"), name)
    first = code_of(f"made:{name}")
    assert code_of(thing) == first
    for file, old, new in (("made.py", "0.5", "0.25"), ("lab/weights.py", "1", "2")):
        source = (project / file).read_text()
        (project / file).write_text(source.replace(old, new))
        assert code_of(f"made:{name}") != first
        assert code_of(thing) != first
        (project / file).write_text(source)


def test_an_import_path_shows_what_was_built_with_borrowed_code(project: Path):
    path = project / "made.py"
    path.write_text("import functools\nfrom lab.schedule import steps\nfrom lab.train import train\n")
    with path.open("a") as file:
        file.write("mine = functools.partial(train, lr=0.5)\n")
    first = code_of("made:mine")
    path.write_text(path.read_text().replace("0.5", "0.25"))
    assert code_of("made:mine") != first


def test_several_things_are_one_answer_in_any_order(project: Path):
    both = code_of("lab.schedule:steps", "lab.nets.extra:depth")
    assert both == code_of("lab.nets.extra:depth", "lab.schedule:steps", "lab.schedule:steps")
    assert both != code_of("lab.schedule:steps")


def test_installed_packages_count_by_version(project: Path, monkeypatch: pytest.MonkeyPatch):
    path = project / "made.py"
    path.write_text("import numpy.linalg\nfrom sklearn.svm import SVC\nimport json, math\nimport not_there.at_all\n")
    found = code_of("made:train")
    assert found.versions == tuple((n, importlib.metadata.version(n)) for n in ("numpy", "scikit-learn"))
    true = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0" if name == "scikit-learn" else true(name))
    after = code_of("made:train")
    assert after.digest == found.digest
    assert dict(after.versions)["scikit-learn"] == "0.0"
    assert code_of(nn.Linear).versions == (("torch", true("torch")),)
    assert code_of("torch.nn:Linear") == code_of(nn.Linear)


def test_built_in_functions_have_the_version_of_their_package():
    nothing = code_of().digest
    assert code_of(len) == code_of(math.sqrt) == code_of("math:sqrt") == Code(nothing, ())
    assert code_of(torch.relu) == Code(nothing, (("torch", importlib.metadata.version("torch")),))
    assert code_of(np.dot) == Code(nothing, (("numpy", importlib.metadata.version("numpy")),))


@pytest.mark.parametrize("source", ["def broken(:", "x = '\0'", "print 'Python 2'"])
def test_what_cannot_be_parsed_counts_by_its_bytes(project: Path, source: str):
    (project / "lab" / "weights.py").write_text(source)
    first = code_of("lab.train:train")
    (project / "lab" / "weights.py").write_text(source + "#")
    assert code_of("lab.train:train") != first


def test_compiled_modules_of_the_user_count_by_their_bytes(project: Path):
    fast = project / "lab" / f"fast{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    fast.write_bytes(b"\x7fELF one")
    (project / "lab" / "schedule.py").write_text("from . import fast")
    first = code_of("lab.train:train")
    fast.write_bytes(b"\x7fELF two")
    assert code_of("lab.train:train") != first


def test_a_module_that_appears_later_is_seen(project: Path):
    (project / "lab" / "schedule.py").write_text("try:\n    import made\nexcept ImportError:\n    made = None")
    first = code_of("lab.train:train")
    (project / "made.py").write_text("x = 1")
    assert code_of("lab.train:train") != first


def test_code_without_a_source_is_refused():
    homeless = type("Homeless", (), {"__module__": "module_of_nobody"})
    sentence = r"module_of_nobody: its source file cannot be found, so that a change .*; keep it in a .py file"
    with pytest.raises(UsageError, match=sentence):
        code_of(homeless)
    with pytest.raises(UsageError, match=sentence):
        code_of("module_of_nobody:train")


def test_the_script_that_runs_is_a_module(tmp_path: Path):
    script = tmp_path / "script.py"
    digests = []
    for number in (1, 2):
        script.write_text(
            f"import unlearnkit.provenance as p\ndef train(): return {number}\nprint(p.code_of(train).digest)"
        )
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, check=True)
        digests.append(done.stdout)
    assert len(set(digests)) == 2


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the files that were read, under the folder of the package."""
    names: set[str] = set()
    true = Path.read_bytes

    def spy(self: Path) -> bytes:
        names.add(str(self.relative_to(ROOT)))
        return true(self)

    monkeypatch.setattr(Path, "read_bytes", spy)
    return names


def test_of_our_own_code_only_what_decides_counts(read_files: set[str]):
    assert code_of(fit_stack).versions == ()
    assert {"unlearnkit/stacked.py", "unlearnkit/train.py", "unlearnkit/models.py"} <= read_files
    read_files.clear()
    code_of(observe)
    assert "unlearnkit/observing.py" in read_files
    idle = {f"unlearnkit/{name}.py" for name in ("__init__", "data", "fleet", "engines", "store", "result", "jobs")}
    assert not read_files & idle
    assert not [name for name in read_files if "methods" in name]


def test_of_methods_only_their_own_counts(read_files: set[str]):
    code_of(SalUn)
    assert {"unlearnkit/methods/salun.py", "unlearnkit/methods/random_label.py"} <= read_files
    assert not read_files & {"unlearnkit/methods/finetune.py", "unlearnkit/methods/__init__.py"}
    assert len({code_of(method) for method in (SalUn, FineTune, Method)}) == 3


def test_a_decorated_function_is_the_one_within(project: Path):
    (project / "made.py").write_text("def plain():\n    return 1\n")
    plain = importlib.import_module("made").plain

    @functools.wraps(plain)
    def outer() -> None:
        raise AssertionError

    assert code_of(outer) == code_of("made:plain")
