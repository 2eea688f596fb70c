"""What code decides a result: source files by their syntax, so that a comment makes nothing anew and a change does."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from unlearnkit.result import UsageError

_OURS = "unlearnkit"
# Of our own modules these decide no number: words, files, and the running of jobs.
_IDLE = {f"{_OURS}.{name}" for name in ("data", "fleet", "engines", "provenance", "result", "store")}
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Code:
    """The source that decides a result: a hash of its syntax, and the versions of the packages it imports."""

    digest: str
    versions: tuple[tuple[str, str], ...]


def code_of(*things: Any) -> Code:
    """The code behind import paths ("module:attribute"), functions or classes: their files, and what these import.

    Packages around a module count, for they run when it is imported; installed ones are not followed, their versions
    stand for them. Comments, docstrings and layout do not count. Nothing is imported in order to be looked at.
    An import path sees most: its module shows what a partial or a callable object was built with, the thing does not.

    Raises UsageError where there is no source: a change would go unseen.
    """
    importlib.invalidate_caches()  # a module may be seconds old
    found: dict[Path, str] = {}
    versions: dict[str, str] = {}
    waiting = [file for thing in things for file in _sources_of(thing)]
    while waiting:
        top, path = waiting.pop()
        real = path.resolve()
        if real in found:
            continue
        installed = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
        if installed and top != _OURS and (known := _versions(top)):
            versions |= known
            continue
        digest, imports = _read(real)
        found[real] = f"{path.name} {digest}"
        for dots, name in imports:
            # ours rest on torch, whose version every key holds
            waiting += [file for file in _loaded(dots, name, top, path) if top != _OURS or file[0] == _OURS]
    digest = hashlib.sha256("\n".join(sorted(found.values())).encode()).hexdigest()
    return Code(digest, tuple(sorted(versions.items())))


def _sources_of(thing: Any) -> list[tuple[str, Path]]:
    """The files that are loaded when the thing is imported, each with its outermost package."""
    if isinstance(thing, str):
        module = thing.partition(":")[0]
    else:
        while isinstance(thing, functools.partial):
            thing = thing.func
        thing = inspect.unwrap(thing)
        module = getattr(thing, "__module__", None) or type(thing).__module__
    files = list(_loaded(0, module))
    if not files and module.partition(".")[0] not in sys.stdlib_module_names:
        raise UsageError(
            f"{module}: its source file cannot be found, so that a change to it would go unseen; keep it in a .py file "
            "in the working directory, or install it"
        )
    return files


def _loaded(dots: int, name: str, top: str = "", path: Path = Path()) -> Iterator[tuple[str, Path]]:
    """What `import name` loads, with so many leading dots in a file of the package `top`: the module and the packages
    around it. Of our own the module alone: our packages only collect names."""
    parts = name.split(".") if name else []
    if not dots:
        top = parts.pop(0)
        if top in sys.stdlib_module_names or name in _IDLE:
            return
        file, folders = _outermost(top)
    else:
        file, folders = None, list(path.parents[dots - 1 : dots])
    for part in parts:
        if file and top != _OURS:
            yield top, file
        file, folders = _below(folders, part)
    if file:
        yield top, file


def _outermost(name: str) -> tuple[Path | None, list[Path]]:
    """The file of a module without dots, and the folders in which its submodules lie."""
    try:
        spec = importlib.util.find_spec(name)  # imports nothing: that, only a name with dots does
    except ValueError:  # a module without a spec, as the script that runs
        file = getattr(sys.modules[name], "__file__", None)
        return (Path(file) if file else None), []
    if spec is None:
        return None, []
    file = Path(spec.origin) if spec.origin and Path(spec.origin).is_file() else None
    return file, [Path(folder) for folder in spec.submodule_search_locations or ()]


def _below(folders: list[Path], name: str) -> tuple[Path | None, list[Path]]:
    """As `_outermost`, of a submodule. No file: a folder without `__init__.py`, or the name is no module."""
    for folder in folders:
        if (package := folder / name / "__init__.py").is_file():
            return package, [package.parent]
        for suffix in (".py", *EXTENSION_SUFFIXES):
            if (file := folder / f"{name}{suffix}").is_file():
                return file, []
    return None, [folder / name for folder in folders if (folder / name).is_dir()]


def _read(path: Path) -> tuple[str, set[tuple[int, str]]]:
    """A file's hash and its imports (dots, name)."""
    source = path.read_bytes()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # compiled, or for another Python: every byte counts
        return hashlib.sha256(source).hexdigest(), set()
    imports: set[tuple[int, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.update((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            imports.update((node.level, name) for name in (base, *(f"{base}.{a.name}".strip(".") for a in node.names)))
        elif isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports


@functools.lru_cache(maxsize=1)
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def _versions(package: str) -> dict[str, str]:
    """Versions of what was installed to bring a package: scikit-learn for sklearn."""
    return {name: importlib.metadata.version(name) for name in _distributions().get(package, ())}
