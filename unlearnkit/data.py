"""Data from where users keep it: digits, npz, image folder, torchvision or an import path -> one checked Dataset."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import math
import operator
import re
import struct
import sys
import weakref
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from unlearnkit.result import UsageError, nearest
from unlearnkit.types import Examples, Splits

__all__ = ["Dataset", "MapDataset", "examples_from", "load", "resolve", "split"]

_FORMS = {"digits": "digits", "npz": "npz:PATH", "folder": "folder:PATH", "torchvision": "torchvision:NAME"}
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_INPUT_TYPES = ("uint8", "float16", "float32", "float64")
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none of Pillow's readers that start a program
_CHUNK = 1 << 24  # bytes looked at once, so that a memory-mapped set is never in memory as a whole


@runtime_checkable
class MapDataset(Protocol):
    """A torch map-style dataset, said by what it can do: a length, and `(input, label, ...)` by row."""

    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> Any: ...


@dataclass(frozen=True)
class Mapped:
    """An array by where its bytes lie in a file, so that another process can map them instead of being sent them."""

    path: str
    offset: int  # bytes
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes

    def open(self) -> NDArray[Any]:
        """The array, mapped; what is written to it never reaches the file."""
        if not math.prod(self.shape):
            return np.empty(self.shape, self.dtype)
        end = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True)) + self.dtype.itemsize
        data = np.memmap(self.path, np.uint8, "c", self.offset, (end,))
        return np.ndarray(self.shape, self.dtype, data, 0, self.strides)


# Every array that lies in a file, while somebody holds it: a tensor made of it no longer knows its file.
_MAPS: weakref.WeakValueDictionary[int, np.memmap[Any, Any]] = weakref.WeakValueDictionary()


def mapped_from(array: NDArray[Any]) -> Mapped | None:
    """Where the array lies on disk, if it is a view of a file that `load` has mapped."""
    if not array.size or min(array.strides, default=0) < 0:
        return None
    start = array.ctypes.data
    for whole in list(_MAPS.values()):
        home = whole.ctypes.data
        if home <= start < home + whole.nbytes:
            offset = whole.offset + start - home
            return Mapped(str(whole.filename), offset, array.dtype, array.shape, array.strides)
    return None


@dataclass(frozen=True, eq=False)
class Dataset:
    """The training and the test examples of one source, checked once, on construction.

    classes: the name of each label in order, label 3 is `classes[3]`.
    source: how the user named it; no part of the fingerprint.
    """

    train: Examples
    test: Examples
    classes: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        _check_shapes(self.source, self.train, self.test)
        _check_labels(self.source, self.train, self.classes)
        _check_labels(self.source, self.test, self.classes)
        present = np.unique(self.test.labels().numpy())
        if present.size < 2:
            raise UsageError(
                f"{self.source}: one-class test set: all {len(self.test)} test examples are of class "
                f"{self.classes[present[0]]!r}; hold out examples of at least two classes"
            )
        _check_ids(self.source, np.concatenate([self.train.ids, self.test.ids]))
        _check_finite(self.source, self.train)
        _check_finite(self.source, self.test)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input: (c, h, w) for images."""
        return tuple(self.train.x.shape[1:])

    @property
    def num_classes(self) -> int:
        """How many classes have a name, whether or not they occur."""
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over both sets and the class names: the same data has it wherever it lies."""
        return hashlib.sha256(
            json.dumps([self.train.fingerprint, self.test.fingerprint, self.classes]).encode()
        ).hexdigest()


def load(
    source: str,
    *,
    seed: int = 0,
    root: Path | None = None,
    download: bool = False,
    test_fraction: float = 0.2,
    memory_map: bool = True,
) -> Dataset:
    """The data that `source` names: `digits`, `npz:PATH`, `folder:PATH`, `torchvision:NAME` or `module:function`.

    seed, test_fraction: how sources without a test set of their own (digits, PATH/CLASS/*) are split, class by class.
    root, download: where torchvision keeps its files ("data" if left out), and whether it may fetch missing ones.
    memory_map: whether uncompressed npz members (MedMNIST's layout, `val_` members ignored) stay on disk until read.
    """
    kind, _, rest = source.partition(":")
    if not 0 < test_fraction < 1:
        raise UsageError(f"data: test_fraction must lie between 0 and 1 (0.2 is a fifth), got {test_fraction}")
    if source == "digits":
        return _digits(seed, test_fraction)
    if kind == "npz" and rest:
        return _npz(source, Path(rest).expanduser(), memory_map)
    if kind == "folder" and rest:
        return _folder(source, Path(rest).expanduser(), seed, test_fraction)
    if kind == "torchvision" and rest:
        return _torchvision(source, rest, root or Path("data"), download)
    return _from_callable(source)


def split(
    train: Examples, test: Examples, rows: NDArray[np.int64], *, forget_class: int | None, twins: Examples | None = None
) -> Splits:
    """The sets of a deletion that names these rows of `train`; forget keeps the order of `rows`.

    twins: left out, they are the test examples of the forgotten class (None if it has none there), or the whole test
    set where no class is forgotten; matching those by class is the audit's.
    """
    if len(np.unique(rows)) < len(rows) or (len(rows) and not 0 <= rows.min() <= rows.max() < len(train)):
        raise UsageError(f"split: rows must be distinct and lie in 0..{len(train) - 1}; use the rows of a Deletion")
    keep = np.ones(len(train), dtype=bool)
    keep[rows] = False
    if twins is None and forget_class is None:
        twins = test
    elif twins is None:
        same = test.labels().numpy() == forget_class
        twins = test.take(same) if same.any() else None
    return Splits(train.take(rows), train.take(keep), test, forget_class, twins)


def resolve(path: str) -> object:
    """What an import path "package.module:attribute" names; the working directory counts, as for `python -m`."""
    if not _IMPORT_PATH.fullmatch(path):
        raise UsageError(f"import path: must read package.module:attribute, got {path!r}")
    module, _, attributes = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # it stays: what is imported may import its neighbors later, when it is called
    importlib.invalidate_caches()  # the module may be seconds old
    try:
        found: object = importlib.import_module(module)
    except (ImportError, SyntaxError) as error:
        raise UsageError(f"{path}: {module} cannot be imported ({error}); run where it lies, or install it") from error
    for name in attributes.split("."):
        if not hasattr(found, name):
            hint = nearest(name, [public for public in dir(found) if not public.startswith("_")])
            raise UsageError(f"{path}: {module} was imported, but has no attribute {attributes!r}{hint}")
        found = getattr(found, name)
    return found


def examples_from(dataset: MapDataset, prefix: str) -> Examples:
    """Examples of a torch map-style dataset with the ids prefix/0000000, prefix/0000001 ...

    Its arrays `.data` and `.targets` (or `.labels`) are used as they lie, without a copy, where no transform is set and
    the dataset hands out the same values; otherwise every item is read once, so a random transform is frozen.
    """
    if not len(dataset):
        raise UsageError(f"{prefix}: the dataset is empty; hand over at least one example")
    return _stored(dataset, prefix) or _iterated(dataset, prefix)


def _check_shapes(source: str, train: Examples, test: Examples) -> None:
    for name, part in (("training", train), ("test", test)):
        if not len(part):
            raise UsageError(f"{source}: the {name} set is empty; it needs at least one example")
        _check_type(f"{source}, {name} set", part.x.dtype)
    kinds = [f"{part.x.dtype} {list(part.x.shape[1:])}".removeprefix("torch.") for part in (train, test)]
    if kinds[0] != kinds[1]:
        raise UsageError(
            f"{source}: train and test must have one shape and type, got {' and '.join(kinds)}; convert one"
        )


def _check_type(where: str, dtype: np.dtype[Any] | torch.dtype) -> None:
    if str(dtype).removeprefix("torch.") not in _INPUT_TYPES:
        raise UsageError(f"{where}: inputs must be uint8 (0 to 255) or float, got {dtype}; convert and save them again")


def _check_labels(source: str, part: Examples, classes: Sequence[str]) -> None:
    if part.y is None or part.y.is_floating_point():
        got = "none" if part.y is None else str(part.y.dtype)
        raise UsageError(f"{source}: labels must be whole numbers, got {got}; number the classes from 0")
    y = part.labels().numpy()
    bad = np.flatnonzero((y < 0) | (y >= len(classes)))
    if bad.size:
        raise UsageError(
            f"{source}: labels must lie in 0..{len(classes) - 1}, as there are {len(classes)} classes, "
            f"got {y[bad[0]]} for {str(part.ids[bad[0]])!r} ({bad.size} such labels); number the classes from 0"
        )


def _check_ids(source: str, ids: Shaped[np.ndarray, " n"]) -> None:
    names, counts = np.unique(ids, return_counts=True)
    twice = np.flatnonzero(counts > 1)
    if twice.size:
        raise UsageError(
            f"{source}: every id must name one example, got {twice.size} ids more than once, the first is "
            f"{str(names[twice[0]])!r}; rename one of the examples"
        )


def _check_finite(source: str, part: Examples) -> None:
    if not part.x.is_floating_point():
        return
    step = max(1, _CHUNK // max(1, part.x[:1].numel() * part.x.element_size()))
    chunks = (part.x[start : start + step].numpy() for start in range(0, len(part), step))
    bad = np.flatnonzero(np.concatenate([~np.isfinite(chunk).reshape(len(chunk), -1).all(axis=1) for chunk in chunks]))
    if bad.size:
        raise UsageError(
            f"{source}: inputs must be finite, got NaN or infinity in {bad.size} of {len(part)} examples, the first is "
            f"{str(part.ids[bad[0]])!r}; remove or repair them"
        )


def _digits(seed: int, test_fraction: float) -> Dataset:
    from sklearn.datasets import load_digits  # imported where used: it costs a second

    bundled = load_digits()
    x = torch.from_numpy(np.round(bundled.images * 255 / 16).astype(np.uint8)).unsqueeze(1)
    y = bundled.target.astype(np.int64)
    everything = Examples(x, torch.from_numpy(y), np.array([f"digits/{row:04d}" for row in range(len(y))]))
    held = _held_out("digits", y, "0123456789", test_fraction, seed)
    return Dataset(everything.take(~held), everything.take(held), tuple("0123456789"), "digits")


def _held_out(
    source: str, y: NDArray[np.int64], classes: Sequence[str], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Which examples become the test set: each class gives its share, shares rounded by largest remainder."""
    counts = np.bincount(y)
    if counts.min() < 2:
        lonely = classes[int(counts.argmin())]
        raise UsageError(f"{source}: a split needs two examples of every class, class {lonely!r} has one; add some")
    exact = fraction * counts
    take = np.floor(exact).astype(int)
    short = math.ceil(exact.sum() - 1e-9) - take.sum()
    take[np.argsort(take - exact, kind="stable")[:short]] += 1
    take = np.clip(take, 1, counts - 1)  # no class may be missing on either side
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(y == label))[:share] for label, share in enumerate(take)]
    held = np.zeros(len(y), dtype=bool)
    held[np.concatenate(rows)] = True
    return held


def _npz(source: str, path: Path, memory_map: bool) -> Dataset:
    """MedMNIST layout: {train,test}_images [n, h, w] or [n, h, w, c] and {train,test}_labels [n] or [n, 1].

    Optional: class_names or classes, train_ids, test_ids. val_images and val_labels are ignored.
    """
    if not path.is_file():
        found = "is a folder; did you mean folder:PATH?" if path.is_dir() else "does not exist; check the path"
        raise UsageError(f"{source}: must name a file, but it {found}")
    try:
        with zipfile.ZipFile(path) as archive:
            present = {name.removesuffix(".npy") for name in archive.namelist()}
            needed = ("train_images", "train_labels", "test_images", "test_labels")
            missing = [name for name in needed if name not in present]
            if missing:
                raise UsageError(
                    f"{source}: member {missing[0]!r} is missing; needed are {', '.join(needed)}, "
                    f"it holds {', '.join(sorted(present)) or 'nothing'}"
                )
            optional = ("class_names", "classes", "train_ids", "test_ids")
            arrays = {n: _member(archive, path, n, memory_map) for n in (*needed, *optional) if n in present}
    except zipfile.BadZipFile as error:
        fault = "is not an npz (zip) file; save the arrays with numpy.savez, pickles are never loaded"
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                fault = f"the zip file is truncated or damaged ({error}); fetch or save it again"
        raise UsageError(f"{source}: {fault}") from error
    train, test = (_npz_half(source, half, arrays) for half in ("train", "test"))
    return Dataset(train, test, _class_names(arrays.get("class_names", arrays.get("classes")), train, test), source)


def _member(archive: zipfile.ZipFile, path: Path, name: str, memory_map: bool) -> NDArray[Any]:
    """One array of the archive: mapped where it is stored plainly, else read. A mapped one skips the zip checksum."""
    info = archive.getinfo(f"{name}.npy")
    try:
        with archive.open(info) as file:
            version = npy.read_magic(file)
            if not (memory_map and info.compress_type == zipfile.ZIP_STORED and version in ((1, 0), (2, 0))):
                file.seek(0)
                return npy.read_array(file, allow_pickle=False)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = header(file)
            if dtype.hasobject:
                raise ValueError("an object array")
            skip = file.tell()
        if skip + math.prod(shape) * dtype.itemsize != info.file_size:
            raise EOFError("its length is not what its header says")
        with path.open("rb") as plain:
            plain.seek(info.header_offset + 26)  # the lengths of name and extra field end the fixed local header
            start = info.header_offset + 30 + sum(struct.unpack("<HH", plain.read(4)))
        # mode c: torch wants writable memory, and what is written never reaches the file. Floats may lie unaligned
        # there (the zip header has an odd length); x86-64 and arm64 read them all the same.
        array = np.memmap(path, dtype, "c", start + skip, shape, "F" if fortran else "C")
        _MAPS[id(array)] = array
        return array
    except ValueError as error:
        raise UsageError(
            f"npz: member {name!r} is not a plain array ({error}); save numbers or strings, pickles are never loaded"
        ) from error
    except (EOFError, zlib.error, RuntimeError) as error:  # RuntimeError: encrypted, or an unknown compression
        raise UsageError(f"npz: member {name!r} cannot be read ({error}); fetch or save the file again") from error


def _npz_half(source: str, half: str, arrays: dict[str, NDArray[Any]]) -> Examples:
    images, labels = arrays[f"{half}_images"], arrays[f"{half}_labels"]
    _check_type(f"{source}, {half}_images", images.dtype)
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] > 4):
        raise UsageError(
            f"{source}: {half}_images must be [n, h, w] or [n, h, w, c], channels last, got {list(images.shape)}; "
            f"reshape or transpose and save again"
        )
    count = len(images)
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1)):
        raise UsageError(
            f"{source}: {half}_labels must be one number per image, [{count}] or [{count}, 1], got {labels.dtype} "
            f"{list(labels.shape)}; multi-label data are not supported"
        )
    ids = np.array(arrays.get(f"{half}_ids", _ids(half, count)), dtype=np.str_)
    if ids.shape != (count,):
        raise UsageError(f"{source}: {half}_ids must name all images, got {ids.size} names for {count} images")
    x, y = torch.from_numpy(images), torch.from_numpy(labels.reshape(-1).astype(np.int64))
    return Examples(x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2), y, ids)


def _folder(source: str, root: Path, seed: int, test_fraction: float) -> Dataset:
    """PATH/train/CLASS/* and PATH/test/CLASS/*, or PATH/CLASS/* which is split here; all images are read at once."""
    if not root.is_dir():
        raise UsageError(f"{source}: must name a folder of images, but there is none; check the path")
    ready = (root / "train").is_dir() and (root / "test").is_dir()
    train = _image_files(source, root, root / "train" if ready else root)
    test = _image_files(source, root, root / "test") if ready else []
    files = np.array([*train, *test])
    classes = sorted({file.parent.name for file in train})
    extra = sorted({file.parent.name for file in test} - set(classes))
    if extra:
        raise UsageError(f"{source}: test/{extra[0]} is a class that train/ does not have; rename or move it")
    number = {name: label for label, name in enumerate(classes)}
    y = np.array([number[file.parent.name] for file in files], dtype=np.int64)
    held = np.arange(len(files)) >= len(train) if ready else _held_out(source, y, classes, test_fraction, seed)
    order = np.argsort(held, kind="stable")  # training images first: both sets are views of one array
    ids = np.array([file.relative_to(root).as_posix() for file in files])[order]
    x, labels, cut = _read_images(source, root, files[order].tolist()), torch.from_numpy(y[order]), int((~held).sum())
    halves = Examples(x[:cut], labels[:cut], ids[:cut]), Examples(x[cut:], labels[cut:], ids[cut:])
    return Dataset(*halves, tuple(classes), source)


def _image_files(source: str, root: Path, base: Path) -> list[Path]:
    """The images under base/CLASS/, sorted; a link that leads out of `root` is refused."""
    files: list[Path] = []
    inside = root.resolve()
    for folder in sorted(entry for entry in base.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        found = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
        name = folder.relative_to(root).as_posix()
        if not found:
            raise UsageError(
                f"{source}: class folder {name!r} holds no image ({' '.join(_SUFFIXES)}); put images in every class "
                f"folder, or have both train/ and test/"
            )
        for file in found:
            if not file.resolve().is_relative_to(inside):
                raise UsageError(f"{source}: {name}/{file.name} leads out of the folder; copy the image into it")
        files += found
    if not files:
        raise UsageError(f"{source}: {base.name}/ has no class folders; sort the images into one folder per class")
    return files


def _read_images(source: str, root: Path, files: list[Path]) -> Tensor:
    """uint8 [n, c, h, w] of images that must all be like the first."""
    from PIL import Image

    x: NDArray[np.uint8] | None = None
    first = ""
    for row, file in enumerate(files):
        name = file.relative_to(root).as_posix()
        try:
            with Image.open(file, formats=_FORMATS) as image:
                pixels = np.atleast_3d(np.asarray(image))
        except (
            OSError,
            SyntaxError,
            ValueError,
            EOFError,
            Image.DecompressionBombError,
        ) as error:  # Pillow's own range
            raise UsageError(f"{source}: {name} cannot be read as an image; replace or remove it") from error
        kind = f"{image.mode} {image.width}x{image.height}"
        if image.mode not in ("L", "RGB", "RGBA"):
            raise UsageError(f"{source}: images must have mode L, RGB or RGBA, {name} has {image.mode}; convert it")
        if x is None:
            x, first = np.empty((len(files), *pixels.shape), dtype=np.uint8), kind
        if kind != first:
            raise UsageError(
                f"{source}: all images must have one mode and size, {name} is {kind}, the others before it {first}; "
                f"resize or convert them to one"
            )
        x[row] = pixels
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def _torchvision(source: str, name: str, root: Path, download: bool) -> Dataset:
    from torchvision import datasets

    if name not in datasets.__all__:
        raise UsageError(f"{source}: torchvision.datasets has no {name!r}{nearest(name, list(datasets.__all__))}")
    make = getattr(datasets, name)
    accepted = inspect.signature(make).parameters
    sides: dict[str, tuple[Any, Any]] = {"train": (True, False), "split": ("train", "test")}
    key = next((key for key in sides if key in accepted), None)
    if key is None or "root" not in accepted:
        raise UsageError(f"{source}: has no training and test part that unlearnkit knows; use module:function for it")
    fetch = {"download": download} if "download" in accepted else {}
    try:
        train, test = (make(root=str(root), **{key: side}, **fetch) for side in sides[key])
    except (RuntimeError, OSError) as error:
        how = "allow the download with download=True, or name the folder that holds it as root"
        fault = f"could not be fetched into {str(root)!r} ({error}); try again"
        raise UsageError(f"{source}: {fault if download else f'not found under {str(root)!r}; {how}'}") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{source}: {error}; use module:function for a dataset that needs more settings") from error
    return _paired(source, train, test)


def _from_callable(source: str) -> Dataset:
    hint = nearest(source.partition(":")[0], list(_FORMS))
    if not _IMPORT_PATH.fullmatch(source):
        raise UsageError(f"data: source must be {', '.join(_FORMS.values())} or module:function, got {source!r}{hint}")
    try:
        make = resolve(source)
    except UsageError as error:
        raise UsageError(f"{error}{hint}") from error
    if not callable(make):
        raise UsageError(f"{source}: must be callable without arguments, got {type(make).__name__}")
    made: Any = make()
    if isinstance(made, Dataset):
        return made
    pair = isinstance(made, tuple) and len(made) == 2
    if not pair or not all(isinstance(part, MapDataset | Examples) for part in made):
        raise UsageError(
            f"{source}: must return a Dataset, or a pair (train, test) of Examples or of torch map-style datasets, "
            f"got {type(made).__name__}"
        )
    return _paired(source, *made)


def _paired(source: str, train: MapDataset | Examples, test: MapDataset | Examples) -> Dataset:
    names = getattr(train, "classes", None)
    first = train if isinstance(train, Examples) else examples_from(train, "train")
    second = test if isinstance(test, Examples) else examples_from(test, "test")
    named = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return Dataset(first, second, _class_names(names if named else None, first, second), source)


def _class_names(given: Sequence[Any] | NDArray[Any] | None, train: Examples, test: Examples) -> tuple[str, ...]:
    """The given names, or "0", "1" ... to the highest label; more labels than examples are left to the label check."""
    if given is not None:
        return tuple(np.asarray(given).astype(str).reshape(-1).tolist())
    top = max([0, *(int(part.labels().max()) for part in (train, test) if part.y is not None and len(part))])
    return tuple(str(label) for label in range(min(top, len(train) + len(test)) + 1))


def _ids(prefix: str, count: int) -> Shaped[np.ndarray, " {count}"]:
    return np.array([f"{prefix}/{row:07d}" for row in range(count)], dtype=np.str_)


def _item(dataset: MapDataset, row: int, prefix: str) -> tuple[Tensor, int]:
    """One input as the dataset hands it out, images as [c, h, w], and its label."""
    item = dataset[row]
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise UsageError(f"{prefix}: a dataset must hand out (input, label), got {type(item).__name__} for row {row}")
    try:
        label = operator.index(item[1])
    except TypeError as error:
        raise UsageError(f"{prefix}: a label must be one whole number, row {row} has {item[1]!r}") from error
    x = item[0] if isinstance(item[0], Tensor) else np.array(item[0])
    _check_type(prefix, x.dtype)
    if isinstance(x, Tensor):
        return x, label
    return torch.from_numpy(np.moveaxis(np.atleast_3d(x), -1, 0) if x.ndim in (2, 3) else x), label


def _stored(dataset: MapDataset, prefix: str) -> Examples | None:
    """The arrays the dataset keeps, if they are what it hands out."""
    data, labels = getattr(dataset, "data", None), getattr(dataset, "targets", getattr(dataset, "labels", None))
    transformed = any(getattr(dataset, name, None) is not None for name in ("transform", "target_transform"))
    if transformed or labels is None or not isinstance(data, np.ndarray | Tensor):
        return None
    if str(data.dtype).removeprefix("torch.") not in _INPUT_TYPES:
        return None
    x, y = torch.as_tensor(data), np.asarray(labels)
    if y.dtype.kind not in "iu" or y.shape != (len(dataset),) or len(x) != len(dataset):
        return None
    if x.ndim == 3:
        x = x.unsqueeze(1)
    elif x.ndim == 4 and x.shape[3] <= 4 < x.shape[1]:
        x = x.permute(0, 3, 1, 2)
    for row in {0, len(y) // 2, len(y) - 1}:
        image, label = _item(dataset, row, prefix)
        if label != y[row] or image.dtype != x.dtype or not torch.equal(image, x[row]):
            return None
    return Examples(x, torch.from_numpy(y.astype(np.int64)), _ids(prefix, len(y)))


def _iterated(dataset: MapDataset, prefix: str) -> Examples:
    first, _ = _item(dataset, 0, prefix)
    x, y = first.new_empty((len(dataset), *first.shape)), torch.empty(len(dataset), dtype=torch.int64)
    for row in range(len(dataset)):
        image, label = _item(dataset, row, prefix)
        if image.shape != first.shape or image.dtype != first.dtype:
            raise UsageError(
                f"{prefix}: all inputs must have one shape and type, row {row} has {image.dtype} {list(image.shape)}, "
                f"row 0 {first.dtype} {list(first.shape)}; resize or convert them"
            )
        x[row], y[row] = image, label
    return Examples(x, y, _ids(prefix, len(dataset)))
