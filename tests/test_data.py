"""Every source on small data, and every sentence a user can be told about it."""

from __future__ import annotations

import itertools
import pickle
import re
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset
from torchvision import datasets

from unlearnkit.data import Dataset, Mapped, examples_from, load, mapped_from, resolve, split
from unlearnkit.result import UsageError
from unlearnkit.types import Examples

N = 12


def examples(count: int = N, prefix: str = "train", dtype: torch.dtype = torch.uint8) -> Examples:
    x = torch.arange(count * 4).remainder(256).reshape(count, 1, 2, 2).to(dtype)
    return Examples(x, torch.arange(count) % 3, np.array([f"{prefix}/{row}" for row in range(count)]))


def dataset(
    train: Examples | None = None, test: Examples | None = None, classes: tuple[str, ...] = ("a", "b", "c")
) -> Dataset:
    return Dataset(
        examples() if train is None else train, examples(6, "test") if test is None else test, classes, "mine"
    )


def arrays(*, channels: int | None = None, dtype: str = "uint8", **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shape = (4, 5) if channels is None else (4, 5, channels)
    made = {
        "train_images": rng.integers(0, 256, (N, *shape)).astype(dtype),
        "train_labels": np.arange(N, dtype=np.uint8).reshape(-1, 1) % 3,
        "test_images": rng.integers(0, 256, (6, *shape)).astype(dtype),
        "test_labels": np.arange(6, dtype=np.uint8).reshape(-1, 1) % 3,
        "val_images": np.zeros((2, *shape)),
    } | changes
    return {name: value for name, value in made.items() if value is not None}


def npz(folder: Path, *, compressed: bool = False, **members: Any) -> str:
    path = folder / "data.npz"
    (np.savez_compressed if compressed else np.savez)(path, **members)
    return f"npz:{path}"


def image(path: Path, value: int = 0, mode: str = "RGB", size: tuple[int, int] = (5, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in "LP" else (value, 2, 3, 4)[: len(mode)]).save(path)


def class_folders(root: Path, per_class: int = 5, names: tuple[str, ...] = ("cat", "ant", "bee")) -> str:
    for number, name in enumerate(names):
        for row in range(per_class):
            image(root / name / f"{row}.png", value=10 * number + row)
    return f"folder:{root}"


_names = (f"room_{number}" for number in itertools.count())


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module into the working directory; its name never repeats, so that no import is a cached one."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        name = next(_names)
        imports = "import numpy as np\nimport torch\nfrom unlearnkit.types import Examples\n"
        (tmp_path / f"{name}.py").write_text(imports + text)
        return name

    yield write
    for name in [name for name in sys.modules if name.startswith("room_")]:
        del sys.modules[name]


# Dataset -------------------------------------------------------------------------------------------------------------


def test_dataset_says_its_shape_and_classes():
    data = dataset()
    assert (data.shape, data.num_classes, data.classes) == ((1, 2, 2), 3, ("a", "b", "c"))


def test_fingerprint_changes_with_one_byte_a_label_an_id_or_a_class_name_but_not_with_the_source():
    prints = [dataset().fingerprint]
    for change in ("x", "y", "ids"):
        train = examples()
        getattr(train, change)[3] = {"x": train.x[3] ^ 1, "y": 2, "ids": "other"}[change]
        prints.append(dataset(train).fingerprint)
    prints += [dataset(test=examples(7, "test")).fingerprint, dataset(classes=("a", "b", "d")).fingerprint]
    assert len(set(prints)) == 6
    assert Dataset(examples(), examples(6, "test"), ("a", "b", "c"), "elsewhere").fingerprint == prints[0]


def relabelled(value: int) -> Examples:
    part = examples()
    part.labels()[4] = value
    return part


def unlabelled(y: torch.Tensor | None) -> Examples:
    part = examples()
    return Examples(part.x, y, part.ids)


def poisoned() -> Examples:
    part = examples(dtype=torch.float32)
    part.x[5, 0, 1, 1] = torch.nan
    part.x[9] = torch.inf
    return part


def whole_numbers() -> Examples:
    part = examples()
    object.__setattr__(part, "x", part.x.long())  # past the check of shapes that only the tests switch on
    return part


FLOATS = examples(6, "test", torch.float32)
BAD_DATASETS = {
    "empty train": ({"train": examples(0)}, "mine: the training set is empty; it needs"),
    "empty test": ({"test": examples(0)}, "mine: the test set is empty; it needs"),
    "types": ({"train": examples(dtype=torch.float32)}, r"one shape and type, got float32 \[1, 2, 2\] and uint8"),
    "int inputs": ({"train": whole_numbers()}, "training set: inputs must be uint8 .* got torch.int64; convert"),
    "label too high": (
        {"train": relabelled(3)},
        r"lie in 0\.\.2, as there are 3 classes, got 3 for 'train/4' \(1 such",
    ),
    "label negative": ({"train": relabelled(-1)}, "got -1 for 'train/4'"),
    "no labels": ({"train": unlabelled(None)}, "whole numbers, got none"),
    "float labels": ({"train": unlabelled(torch.rand(N))}, "whole numbers, got torch.float32"),
    "one class": ({"test": examples(6, "test").take(np.array([1, 4]))}, "one-class test set: all 2 .* class 'b'; hold"),
    "id twice": ({"test": examples(6, "train")}, "6 ids more than once, the first is 'train/0'; rename"),
    "not finite": ({"train": poisoned(), "test": FLOATS}, "NaN or infinity in 2 of 12 .* first is 'train/5'; remove"),
}


@pytest.mark.parametrize(("parts", "sentence"), BAD_DATASETS.values(), ids=BAD_DATASETS)
def test_a_bad_dataset_is_refused_in_one_sentence(parts, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        dataset(**parts)
    assert "\n" not in str(caught.value)


def test_finite_inputs_are_looked_for_in_every_chunk(monkeypatch):
    monkeypatch.setattr("unlearnkit.data._CHUNK", 3 * 16)  # three examples at a time
    with pytest.raises(UsageError, match=r"2 of 12 .* 'train/5'"):
        dataset(poisoned(), FLOATS)


# digits --------------------------------------------------------------------------------------------------------------


def test_digits_are_the_embedded_images_scaled_to_bytes():
    data = load("digits")
    assert (len(data.train), len(data.test), data.shape, data.num_classes) == (1437, 360, (1, 8, 8), 10)
    from sklearn.datasets import load_digits

    bundled = load_digits()
    row = int(data.test.ids[7].removeprefix("digits/"))
    assert data.test.x[7, 0].tolist() == np.round(bundled.images[row] * 255 / 16).tolist()
    assert data.test.labels()[7] == bundled.target[row]
    assert data.train.x.max() == 255


def test_digits_are_split_class_by_class():
    counts = np.bincount(load("digits").test.labels().numpy()) / np.bincount(load("digits").train.labels().numpy())
    assert np.abs(counts - 0.25).max() < 0.01


def test_the_seed_alone_decides_the_split():
    first, again, other = load("digits"), load("digits", seed=0), load("digits", seed=1)
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
    assert set(first.test.ids) != set(other.test.ids)
    everything = np.sort(np.concatenate([first.train.ids, first.test.ids]))
    assert everything.tolist() == [f"digits/{row:04d}" for row in range(1797)]


def test_test_fraction_sets_the_size_of_the_test_set():
    assert len(load("digits", test_fraction=0.5).test) == 899
    for wrong in (0.0, 1.0, -3.0):
        with pytest.raises(UsageError, match=rf"test_fraction must lie between 0 and 1 .* got {wrong}"):
            load("digits", test_fraction=wrong)


# npz -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("memory_map", [False, True])
@pytest.mark.parametrize(("channels", "dtype"), [(None, "uint8"), (3, "uint8"), (3, "float32"), (1, "float64")])
def test_npz_gives_the_saved_values(tmp_path, compressed, memory_map, channels, dtype):
    saved = arrays(channels=channels, dtype=dtype)
    data = load(npz(tmp_path, compressed=compressed, **saved), memory_map=memory_map)
    assert data.shape == (channels or 1, 4, 5)
    assert data.classes == ("0", "1", "2")
    images = saved["train_images"].reshape(N, 4, 5, channels or 1)
    assert np.array_equal(data.train.x.permute(0, 2, 3, 1).numpy(), images)
    assert data.train.labels().tolist() == saved["train_labels"].ravel().tolist()
    assert data.test.ids.tolist() == [f"test/{row:07d}" for row in range(6)]


def test_npz_takes_flat_labels_class_names_and_ids(tmp_path):
    names = np.array([f"patient-{row}" for row in range(N)])
    labels = {"train_labels": np.arange(N) % 3, "test_labels": np.arange(6) % 2}
    data = load(npz(tmp_path, **arrays(**labels, class_names=np.array(["x", "y", "z"]), train_ids=names)))
    assert data.classes == ("x", "y", "z")
    assert data.train.ids.tolist() == names.tolist()
    assert load(npz(tmp_path, **arrays(classes=np.array(["p", "q", "r"])))).classes == ("p", "q", "r")


def test_npz_maps_column_order_too(tmp_path):
    saved = arrays()
    data = load(npz(tmp_path, **saved | {"train_images": np.asfortranarray(saved["train_images"])}))
    assert np.array_equal(data.train.x[:, 0].numpy(), saved["train_images"])


@pytest.mark.parametrize(
    ("compressed", "memory_map", "mapped"), [(False, True, True), (False, False, False), (True, True, False)]
)
def test_npz_inputs_share_their_memory_with_the_file(tmp_path, monkeypatch, compressed, memory_map, mapped):
    maps: list[np.memmap] = []
    real = np.memmap
    monkeypatch.setattr(np, "memmap", lambda *args: maps.append(real(*args)) or maps[-1])
    data = load(npz(tmp_path, compressed=compressed, **arrays(channels=3)), memory_map=memory_map)
    assert bool(maps) == mapped
    for part in (data.train, data.test):
        assert any(np.may_share_memory(part.x.numpy(), one) for one in maps) == mapped
    assert not any(np.may_share_memory(data.train.take(np.arange(3)).x.numpy(), one) for one in maps)


def test_what_is_written_to_a_mapped_set_never_reaches_the_file(tmp_path):
    source = npz(tmp_path, **arrays())
    data = load(source)
    data.train.x[0] = 77
    assert not (load(source).train.x[0] == 77).all()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("channels", "dtype"), [(None, "uint8"), (3, "uint8"), (3, "float32"), (1, "float64")])
def test_a_mapped_array_is_known_by_its_place_in_the_file(tmp_path, channels, dtype, order):
    saved = arrays(channels=channels, dtype=dtype)
    source = npz(tmp_path, **saved | {"train_images": np.asarray(saved["train_images"], order=order)})
    data = load(source)
    for part in (data.train, data.test):
        place = mapped_from(part.x.numpy())
        assert place is not None
        assert f"npz:{place.path}" == source
        again = pickle.loads(pickle.dumps(place)).open()
        assert (again.shape, again.dtype, again.strides) == (
            tuple(part.x.shape),
            part.x.numpy().dtype,
            part.x.numpy().strides,
        )
        assert np.array_equal(again, part.x.numpy())
        assert isinstance(again.base, np.memmap)


def test_views_of_a_mapped_array_are_known_too_and_copies_are_not(tmp_path):
    x = load(npz(tmp_path, **arrays(channels=3))).train.x.numpy()
    for view in (x[3:7], x[::2], x[:, 1:], x.transpose(2, 0, 1, 3), x[5]):
        place = mapped_from(view)
        assert place is not None
        assert np.array_equal(place.open(), view)
    for other in (x.copy(), x[[1, 4]], x[::-1], x[:0], np.zeros(3)):
        assert mapped_from(other) is None


def test_data_that_lie_in_memory_have_no_place(tmp_path):
    for data in (load("digits"), load(npz(tmp_path, compressed=True, **arrays()))):
        assert mapped_from(data.train.x.numpy()) is None
    assert mapped_from(load(npz(tmp_path, **arrays()), memory_map=False).train.x.numpy()) is None
    assert mapped_from(load(npz(tmp_path, **arrays())).train.labels().numpy()) is None  # a column, made one axis


def test_what_is_written_to_an_opened_place_stays_there(tmp_path):
    source = npz(tmp_path, **arrays())
    data = load(source)
    place = mapped_from(data.train.x.numpy())
    assert place is not None
    before = data.train.x.clone()
    place.open()[...] = 7
    assert torch.equal(data.train.x, before)
    assert torch.equal(load(source).train.x, before)
    assert Mapped(place.path, 0, np.dtype("uint8"), (0, 3), (3, 1)).open().shape == (0, 3)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident size where Linux keeps it")
def test_a_batch_of_a_mapped_set_touches_little(tmp_path):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    count = 48_000
    big = {"train_images": np.zeros((count, 32, 32), np.uint8), "train_labels": np.arange(count) % 3}
    source = npz(tmp_path, **arrays() | big | {"test_images": np.zeros((6, 32, 32), np.uint8)})
    size = big.pop("train_images").nbytes
    before = resident()
    data = load(source)
    data.train.take(np.arange(0, 64))
    assert resident() - before < size // 2  # ids and labels are in memory, 48 MB of images are not


ONE_BY_ONE = np.zeros((N, 3, 8, 8), np.uint8)
BAD_ARRAYS = {
    "missing": (
        {"test_labels": None},
        "member 'test_labels' is missing; needed are train_images, .* it holds test_images",
    ),
    "object": ({"train_labels": np.array([{}] * N)}, "member 'train_labels' is not a plain array .* never loaded"),
    "multi-label": (
        {"train_labels": np.zeros((N, 2), int)},
        r"train_labels must be one number .* int64 \[12, 2\]; multi",
    ),
    "float labels": ({"test_labels": np.zeros(6)}, r"test_labels must be one number .* got float64 \[6\]"),
    "shape": (
        {"train_images": np.zeros((N, 4), np.uint8)},
        r"train_images must be \[n, h, w\] .* got \[12, 4\]; reshape",
    ),
    "channels first": ({"train_images": ONE_BY_ONE}, r"channels last, got \[12, 3, 8, 8\]; reshape or transpose"),
    "ints": ({"train_images": np.zeros((N, 4, 5), int)}, "train_images: inputs must be uint8 .* or float, got int64"),
    "byte order": ({"train_images": np.zeros((N, 4, 5), ">f4")}, "train_images: inputs must be .* got >f4"),
    "lengths": ({"train_labels": np.zeros(3, int)}, r"train_labels must be .* \[12\] or \[12, 1\], got int64 \[3\]"),
    "ids": ({"train_ids": np.array(["a"])}, r"train_ids must name all images, got 1 names for 12 images"),
    "shapes": (
        {"test_images": np.zeros((6, 4, 4), np.uint8)},
        r"one shape and type, got uint8 \[1, 4, 5\] and uint8 \[1, 4, 4\]",
    ),
    "label gap": ({"train_labels": np.arange(N) * 10**8}, r"lie in 0\.\.18, .* got 100000000 for 'train/0000001'"),
    "negative": (
        {"train_labels": np.full(N, -2), "test_labels": np.full(6, -2)},
        r"lie in 0\.\.0, .* got -2 for 'train/0000000'",
    ),
    "names": (
        {"class_names": np.array(["a", "b"])},
        r"as there are 2 classes, got 2 for 'train/0000002' \(4 such labels\)",
    ),
    "empty": ({"test_images": np.zeros((0, 4, 5), np.uint8), "test_labels": np.zeros(0, int)}, "the test set is empty"),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("changes", "sentence"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays_are_refused_in_one_sentence(tmp_path, changes, sentence, compressed):
    with pytest.raises(UsageError, match=sentence):
        load(npz(tmp_path, compressed=compressed, **arrays(**changes)))


def test_npz_file_problems(tmp_path):
    path = tmp_path / "data.npz"
    with pytest.raises(UsageError, match=r"must name a file, but it does not exist; check the path"):
        load(f"npz:{path}")
    with pytest.raises(UsageError, match=r"must name a file, but it is a folder; did you mean folder:PATH"):
        load(f"npz:{tmp_path}")
    np.save(tmp_path / "plain.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(
        UsageError, match=r"is not an npz \(zip\) file; save the arrays with numpy.savez, pickles are never"
    ):
        load(f"npz:{tmp_path / 'plain.npy'}")
    npz(tmp_path, **arrays())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"zip file is truncated or damaged .*; fetch or save it again"):
        load(f"npz:{path}")


def test_npz_members_that_are_damaged(tmp_path):
    path = tmp_path / "data.npz"
    saved = arrays()
    np.savez_compressed(path, **saved)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("train_images.npy")
    raw = bytearray(path.read_bytes())
    middle = info.header_offset + 60 + info.compress_size // 2
    raw[middle : middle + 20] = bytes(20)
    path.write_bytes(bytes(raw))
    with pytest.raises(UsageError, match=r"truncated or damaged \(Bad CRC-32|'train_images' cannot be read"):
        load(f"npz:{path}")
    np.savez(path, **saved)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    for content, sentence in (
        (
            members["train_images.npy"][:-9],
            r"'train_images' cannot be read \(its length is not what its header says\); f",
        ),
        (
            pickle.dumps([1, 2, 3] * 9),
            "'train_images' is not a plain array .*; save numbers or strings, pickles are never",
        ),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for name, whole in members.items():
                archive.writestr(name, content if name == "train_images.npy" else whole)
        with pytest.raises(UsageError, match=sentence):
            load(f"npz:{path}")


# folder --------------------------------------------------------------------------------------------------------------


def test_folder_is_split_class_by_class_and_by_the_seed(tmp_path):
    source = class_folders(tmp_path)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    data, other = load(source), load(source, seed=1)
    assert data.classes == ("ant", "bee", "cat")
    assert (len(data.train), len(data.test), data.shape) == (12, 3, (3, 4, 5))
    assert np.bincount(data.test.labels()).tolist() == [1, 1, 1]
    assert load(source).fingerprint == data.fingerprint
    assert set(other.test.ids) != set(data.test.ids)
    for part in (data.train, data.test, other.test):
        for row, name in enumerate(part.ids):
            assert np.array_equal(part.x[row].permute(1, 2, 0).numpy(), np.asarray(Image.open(tmp_path / name)))
            assert data.classes[part.labels()[row]] == name.split("/")[0]


def test_folder_keeps_a_split_that_is_there(tmp_path):
    for row in range(3):
        image(tmp_path / "train" / "one" / f"{row}.png", row, mode="L")
        image(tmp_path / "train" / "two" / f"{row}.jpg", row, mode="L")
    image(tmp_path / "test" / "one" / "0.png", mode="L")
    image(tmp_path / "test" / "two" / "0.png", mode="L")
    data = load(f"folder:{tmp_path}")
    assert data.shape == (1, 4, 5)
    assert data.train.ids[[0, 3]].tolist() == ["train/one/0.png", "train/two/0.jpg"]
    assert data.test.ids.tolist() == ["test/one/0.png", "test/two/0.png"]
    assert data.test.labels().tolist() == [0, 1]
    image(tmp_path / "test" / "six" / "0.png", mode="L")
    with pytest.raises(UsageError, match=r"test/six is a class that train/ does not have; rename or move it"):
        load(f"folder:{tmp_path}")


def test_every_class_is_on_both_sides_of_a_small_split(tmp_path):
    for share in (0.01, 0.99):
        data = load(class_folders(tmp_path, per_class=2), test_fraction=share)
        assert np.bincount(data.train.labels()).tolist() == np.bincount(data.test.labels()).tolist() == [1, 1, 1]


def test_the_largest_remainders_are_rounded_up(tmp_path):
    for name, count in (("a", 4), ("b", 5), ("c", 6)):  # 0.3 of them: 1.2, 1.5, 1.8, together 4.5
        class_folders(tmp_path, per_class=count, names=(name,))
    assert np.bincount(load(f"folder:{tmp_path}", test_fraction=0.3).test.labels()).tolist() == [1, 2, 2]


def leads_out(root: Path) -> None:
    image(root.parent / "outside.png")
    (root / "ant" / "9.png").symlink_to(root.parent / "outside.png")


BAD_FOLDERS = {
    "size": (
        lambda root: image(root / "bee" / "9.png", size=(6, 4)),
        "bee/9.png is RGB 6x4, the others .* RGB 5x4; resize",
    ),
    "mode": (lambda root: image(root / "bee" / "9.png", mode="L"), "bee/9.png is L 5x4, the others before it RGB 5x4"),
    "palette": (
        lambda root: image(root / "ant" / "0.png", mode="P"),
        "mode L, RGB or RGBA, ant/0.png has P; convert it",
    ),
    "unreadable": (
        lambda root: (root / "cat" / "3.png").write_bytes(b"PNG"),
        "cat/3.png cannot be read as an image; replace",
    ),
    "cut": (
        lambda root: (root / "cat" / "3.png").write_bytes((root / "cat" / "3.png").read_bytes()[:45]),
        "cat/3.png cannot be read as an image",
    ),
    "other format": (
        lambda root: Image.new("RGB", (5, 4)).save(root / "cat" / "3.png", format="GIF"),
        "cat/3.png cannot be read as an image",
    ),
    "empty class": (
        lambda root: (root / "dog").mkdir(),
        "class folder 'dog' holds no image .* or have both train/ and test/",
    ),
    "leads out": (leads_out, "ant/9.png leads out of the folder; copy the image into it"),
    "lonely": (
        lambda root: image(root / "dog" / "1.png"),
        "two examples of every class, class 'dog' has one; add some",
    ),
}


@pytest.mark.parametrize(("spoil", "sentence"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_bad_folders_are_refused_in_one_sentence(tmp_path, spoil, sentence):
    source = class_folders(tmp_path / "images")
    spoil(tmp_path / "images")
    with pytest.raises(UsageError, match=sentence):
        load(source)


def test_folder_that_is_none(tmp_path):
    with pytest.raises(UsageError, match=r"must name a folder of images, but there is none; check the path"):
        load(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(UsageError, match=r"has no class folders; sort the images into one folder per class"):
        load(f"folder:{tmp_path}")


# torchvision ---------------------------------------------------------------------------------------------------------


class Tiny:
    """What torchvision keeps in memory: `.data`, `.targets` and items that are made from them."""

    classes = ("one", "two", "three")
    transform = None

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        assert root
        if not download:
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        self.data = np.arange((N if train else 6) * 90).reshape(-1, 6, 5, 3).astype(np.uint8)
        self.targets = [row % 3 for row in range(len(self.data))]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return Image.fromarray(self.data[row]), self.targets[row]


class Split(Tiny):
    """The other habit: split="train", channels first, `.labels`, no class names."""

    classes = None

    def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
        super().__init__(root, split == "train", download)
        self.data, self.labels = self.data.transpose(0, 3, 1, 2), np.array(self.targets)
        del self.targets

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return Image.fromarray(self.data[row].transpose(1, 2, 0).copy()), int(self.labels[row])


def test_torchvision_arrays_are_used_as_they_lie(monkeypatch):
    made: list[Tiny] = []
    monkeypatch.setattr(
        datasets, "CIFAR10", type("CIFAR10", (Tiny,), {"__len__": lambda s: made.append(s) or len(s.data)})
    )
    data = load("torchvision:CIFAR10", download=True)
    assert (data.classes, data.shape, len(data.test)) == (Tiny.classes, (3, 6, 5), 6)
    assert data.train.ids[3] == "train/0000003"
    assert np.may_share_memory(data.train.x.numpy(), made[0].data)
    assert np.array_equal(data.train.x.permute(0, 2, 3, 1).numpy(), made[0].data)


def test_torchvision_with_split_and_channels_first(monkeypatch):
    monkeypatch.setattr(datasets, "SVHN", Split)
    data = load("torchvision:SVHN", download=True)
    assert (data.classes, data.shape) == (("0", "1", "2"), (3, 6, 5))
    assert np.array_equal(data.test.x.numpy(), Split("data", "test", True).data)


def test_torchvision_reads_mnist_from_its_own_files(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    saved = {}
    for part, count in (("train", 20), ("t10k", 10)):
        saved[part] = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        head = struct.pack(">IIII", 0x803, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + saved[part].tobytes())
        labels = np.arange(count, dtype=np.uint8) % 10
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())
    data = load("torchvision:MNIST", root=tmp_path)
    assert (data.shape, data.num_classes, data.classes[3]) == ((1, 28, 28), 10, "3 - three")
    assert np.array_equal(data.train.x[:, 0].numpy(), saved["train"])
    assert np.array_equal(data.test.x[:, 0].numpy(), saved["t10k"])


def test_torchvision_problems(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "CIFAR10", Tiny)
    with pytest.raises(
        UsageError, match=r"not found under 'data'; allow the download with download=True, or name the fol"
    ):
        load("torchvision:CIFAR10")
    with pytest.raises(UsageError, match=re.escape(f"not found under {str(tmp_path)!r}; allow the download")):
        load("torchvision:CIFAR10", root=tmp_path)
    with pytest.raises(UsageError, match=r"torchvision.datasets has no 'cifar10'; did you mean 'CIFAR10'"):
        load("torchvision:cifar10")
    with pytest.raises(UsageError, match=r"torchvision:FakeData: has no training and test part"):
        load("torchvision:FakeData")
    with pytest.raises(UsageError, match=r"torchvision:EMNIST: .*; use module:function for a dataset that needs more"):
        load("torchvision:EMNIST", root=tmp_path)

    def offline(self: Any, root: str, train: bool = True, download: bool = False) -> None:
        raise OSError("no route")

    monkeypatch.setattr(datasets, "CIFAR10", type("CIFAR10", (Tiny,), {"__init__": offline}))
    with pytest.raises(UsageError, match=r"could not be fetched into 'data' \(no route\); try again"):
        load("torchvision:CIFAR10", download=True)


# map-style datasets --------------------------------------------------------------------------------------------------


def test_a_transform_is_applied_and_not_bypassed():
    tiny = Tiny("data", download=True)
    tiny.transform = "is set"
    tiny.data = tiny.data.copy()
    assert examples_from(tiny, "a").x.data_ptr() != tiny.data.ctypes.data


def test_arrays_that_are_not_what_the_dataset_hands_out_are_not_used():
    class Brighter(Tiny):
        def __getitem__(self, row: int) -> tuple[Any, int]:
            return Image.fromarray(255 - self.data[row]), self.targets[row]

    tiny = Brighter("data", download=True)
    assert np.array_equal(examples_from(tiny, "a").x.permute(0, 2, 3, 1).numpy(), 255 - tiny.data)


def test_items_are_read_one_by_one_where_there_are_no_arrays():
    x, y = torch.rand(5, 2, 3, 3), torch.arange(5)
    part = examples_from(TensorDataset(x, y), "mine")
    assert torch.equal(part.x, x)
    assert torch.equal(part.labels(), y)
    assert part.ids.tolist() == [f"mine/000000{row}" for row in range(5)]


PIXELS = torch.zeros(1, 2, 2)
BAD_ITEMS = {
    "empty": ([], "mine: the dataset is empty; hand over at least one"),
    "no label": ([PIXELS], r"mine: a dataset must hand out \(input, label\), got Tensor for row 0"),
    "label": ([(PIXELS, 1), (PIXELS, 0.5)], "mine: a label must be one whole number, row 1 has 0.5"),
    "shape": (
        [(PIXELS, 1), (PIXELS[:, :1], 0)],
        r"row 1 has torch.float32 \[1, 1, 2\], row 0 torch.float32 \[1, 2, 2\]; res",
    ),
    "type": ([(PIXELS.long(), 1)], "mine: inputs must be uint8 .* got torch.int64"),
    "array type": ([(np.zeros((2, 2), "U3"), 1)], "mine: inputs must be uint8 .* got <U3"),
}


@pytest.mark.parametrize(("items", "sentence"), BAD_ITEMS.values(), ids=BAD_ITEMS)
def test_bad_items_are_refused_in_one_sentence(items, sentence):
    with pytest.raises(UsageError, match=sentence):
        examples_from(items, "mine")


# import path ---------------------------------------------------------------------------------------------------------

PAIR = """
def part(name, count):
    x = torch.arange(count * 4).reshape(count, 1, 2, 2).to(torch.uint8)
    return Examples(x, torch.arange(count) % 2, np.array([f"{name}/{i}" for i in range(count)]))
"""


def test_a_callable_may_return_a_pair_of_examples(module):
    name = module(PAIR + "def make():\n    return part('a', 6), part('b', 4)\n")
    data = load(f"{name}:make")
    assert (data.classes, data.source, len(data.test), data.test.ids[1]) == (("0", "1"), f"{name}:make", 4, "b/1")


def test_a_callable_may_return_a_dataset(module):
    text = "def make():\n    return Dataset(part('a', 6), part('b', 4), ('no', 'yes'), 'hospital')\n"
    name = module("from unlearnkit.data import Dataset\n" + PAIR + text)
    assert (load(f"{name}:make").classes, load(f"{name}:make").source) == (("no", "yes"), "hospital")


def test_a_callable_may_return_a_pair_of_torch_datasets(module):
    text = "def sets():\n    one = torch.utils.data.TensorDataset(torch.rand(6, 3, 2, 2), torch.arange(6) % 2)\n"
    text += "    return one, one\n"
    data = load(f"{module(text)}:sets")
    assert (data.shape, data.train.ids[0], data.test.ids[5]) == ((3, 2, 2), "train/0000000", "test/0000005")


def test_the_working_directory_is_put_on_the_path_once(module):
    name, before = module("answer = 42\nclass Inner:\n    value = 43\n"), list(sys.path)
    assert (resolve(f"{name}:answer"), resolve(f"{name}:Inner.value")) == (42, 43)
    assert [entry for entry in sys.path if entry not in before] in ([], [str(Path.cwd())])  # once, and to stay
    with pytest.raises(UsageError):
        resolve("room_of_nobody:answer")
    assert len(sys.path) - len(before) <= 1


def test_the_working_directory_comes_first(module, tmp_path, monkeypatch):
    name = module("where = 'here'\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / f"{name}.py").write_text("where = 'elsewhere'\n")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    assert resolve(f"{name}:where") == "here"


def test_import_path_problems(module):
    name = module("def make_data():\n    return 3\nnumber = 4\n")
    with pytest.raises(UsageError, match=r"has no attribute 'make_date'; did you mean 'make_data'"):
        load(f"{name}:make_date")
    with pytest.raises(UsageError, match=r"must be callable without arguments, got int"):
        load(f"{name}:number")
    with pytest.raises(UsageError, match=r"must return a Dataset, or a pair \(train, test\) of Examples .* got int"):
        load(f"{name}:make_data")
    with pytest.raises(UsageError, match=r"nobody cannot be imported \(No module named 'nobody'\); run where it lies"):
        load("nobody:make")
    with pytest.raises(UsageError, match=r"room_.* cannot be imported .*No module named 'absent'"):
        resolve(f"{module('import absent')}:make")
    with pytest.raises(UsageError, match=r"room_.* cannot be imported .*invalid syntax"):
        resolve(f"{module('def def')}:make")
    with pytest.raises(UsageError, match=r"must read package.module:attribute, got 'no colon'"):
        resolve("no colon")


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("digit", "'digits'"),
        ("nzp:file.npz", "'npz'"),
        ("Folder:/x", "'folder'"),
        ("torchvison:MNIST", "'torchvision'"),
    ],
)
def test_a_mistyped_source_is_told_the_nearest(source, hint):
    with pytest.raises(UsageError, match=f"did you mean {hint}"):
        load(source)


@pytest.mark.parametrize("source", ["", "no such thing", "npz:", "a/b.npz"])
def test_an_unknown_source_is_told_the_forms(source):
    with pytest.raises(
        UsageError, match=r"must be digits, npz:PATH, folder:PATH, torchvision:NAME or module:function, got"
    ):
        load(source)


# split ---------------------------------------------------------------------------------------------------------------


def test_split_of_a_class_takes_twins_of_that_class():
    train, test = examples(), examples(6, "test")
    rows = np.flatnonzero(train.labels().numpy() == 1)
    splits = split(train, test, rows, forget_class=1)
    assert splits.forget.ids.tolist() == ["train/1", "train/4", "train/7", "train/10"]
    assert len(splits.retain) == 8
    assert splits.twins is not None
    assert splits.twins.ids.tolist() == ["test/1", "test/4"]
    assert splits.forget_class == 1
    assert split(train, test.take(np.array([0, 2])), rows, forget_class=1).twins is None


def test_split_of_examples_takes_the_test_set_or_the_given_twins():
    train, test = examples(), examples(6, "test")
    splits = split(train, test, np.array([5, 2]), forget_class=None)
    assert splits.forget.ids.tolist() == ["train/5", "train/2"]
    assert splits.twins is splits.test is test
    twins = test.take(np.array([0]))
    assert split(train, test, np.array([5, 2]), forget_class=None, twins=twins).twins is twins


@pytest.mark.parametrize("rows", [[0, 0], [-1], [N]])
def test_split_refuses_rows_that_are_none(rows):
    with pytest.raises(UsageError, match=r"rows must be distinct and lie in 0\.\.11; use the rows of a Deletion"):
        split(examples(), examples(6, "test"), np.array(rows), forget_class=None)
