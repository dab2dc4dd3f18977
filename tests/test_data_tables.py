"""Your own arrays (.npz) and tables (parquet): the right images under the right labels, or the one line that says what
is wrong where."""

import ast
import io

import numpy as np
import pytest
import torch
from PIL import Image
from test_data import per_class

from distill_lib import data
from distill_lib.core.errors import UserError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 3\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (10, 10, 3), dtype=np.uint8)


def png(seed):
    out = io.BytesIO()
    Image.fromarray(pixels(seed)).save(out, "PNG")
    return out.getvalue()


def table(n, seed=0, image="image", label="label", kind="struct", labels=None, **more):
    encoded = [png(seed + i) for i in range(n)]
    columns = {
        "struct": lambda: pa.array([{"bytes": b, "path": None} for b in encoded]),
        "binary": lambda: pa.array(encoded, pa.binary()),
        "large": lambda: pa.array(encoded, pa.large_binary()),
        "bytes in a list": lambda: pa.array([list(b) for b in encoded], pa.list_(pa.uint8())),
        "pixels in lists": lambda: pa.array([pixels(seed + i).tolist() for i in range(n)]),
    }
    labels = [i % 2 for i in range(n)] if labels is None else labels
    return pa.table({image: columns[kind](), label: labels, **more})


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path)
    return path


def same(s, seeds):
    return np.array_equal(s.images.numpy(), np.stack([pixels(i).transpose(2, 0, 1) for i in seeds]))


# --- parquet ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["struct", "binary", "large", "bytes in a list", "pixels in lists"])
def test_images_of_every_storage_are_read(kind, tmp_path):
    write(tmp_path / "set" / "train.parquet", table(6, kind=kind))
    write(tmp_path / "set" / "test.parquet", table(4, seed=50, kind=kind))
    real, test = data.load(tmp_path / "set")
    assert same(real, range(6)) and same(test, range(50, 54)) and real.labels.tolist() == [0, 1] * 3


@pytest.mark.parametrize(
    "train, test",
    [
        ("train.parquet", "test.parquet"),
        ("mnist-train.parquet", "mnist-test.parquet"),
        ("mnist_train.parquet", "mnist_test.parquet"),
        ("Train.parquet", "TEST.parquet"),
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("train/part-0.snappy.parquet", "test/part-0.snappy.parquet"),
        ("train.parquet", "holdout.parquet"),
        ("train.parquet", "dev.parquet"),
        ("my_training_set.parquet", "my_validation_set.parquet"),
    ],
)
def test_parts_are_told_apart_whatever_they_are_called(train, test, tmp_path):
    write(tmp_path / "set" / train, table(20))
    write(tmp_path / "set" / test, table(10, seed=50))
    real, judged = data.load(tmp_path / "set")
    assert same(real, range(20)) and same(judged, range(50, 60))


def test_shards_of_a_part_stay_together_and_a_part_may_name_its_columns_otherwise(tmp_path):
    for i in range(2):
        write(tmp_path / "set" / f"train-{i:05d}-of-00002.parquet", table(6, seed=10 * i))
    write(tmp_path / "set" / "test.parquet", table(4, seed=50, image="img", label="labels", extra=["x"] * 4))
    real, test = data.load(tmp_path / "set")
    assert same(real, [*range(6), *range(10, 16)]) and same(test, range(50, 54))


def test_one_file_by_itself(tmp_path, monkeypatch):
    write(tmp_path / "cells.parquet", table(20))
    real, test = data.load(tmp_path / "cells.parquet")
    assert per_class(real) == [8, 8] and per_class(test) == [2, 2] and real.facts.name == "cells"
    monkeypatch.chdir(tmp_path)
    assert data.load("cells.parquet")[0].sha256() == real.sha256()


def test_paths_in_a_table_count_from_its_folder(tmp_path, monkeypatch):
    (tmp_path / "set" / "img").mkdir(parents=True)
    for i in range(10):
        (tmp_path / "set" / "img" / f"{i}.png").write_bytes(png(i))
    names = [f"img/{i}.png" for i in range(10)]
    monkeypatch.chdir(tmp_path)
    as_text = pa.table({"image": names, "label": [0, 1] * 5})
    as_struct = pa.table({"image": [{"bytes": None, "path": n} for n in names], "label": [0, 1] * 5})
    for rows in (as_text, as_struct):
        write(tmp_path / "set" / "train.parquet", rows)
        assert per_class(data.load(tmp_path / "set")[0]) == [4, 4]


def test_a_struct_without_a_path_holds_its_images_alone(tmp_path):
    rows = [{"bytes": png(i), "filename": f"{i}.png"} for i in range(10)]
    write(tmp_path / "train.parquet", pa.table({"image": rows, "label": [0, 1] * 5}))
    assert per_class(data.load(tmp_path)[0]) == [4, 4]


def class_folders(root, *parts):
    for part in parts or [""]:
        for name in ("ant", "bee"):
            (root / part / name).mkdir(parents=True)
            for i in range(5):
                (root / part / name / f"{i}.png").write_bytes(png(len(part) + 10 * i + len(name)))


@pytest.mark.parametrize(
    "parts, tables, tells",
    [
        (
            [],
            ["meta.parquet"],
            r"holds meta\.parquet and 10 images .*the path .*/meta\.parquet; .*split=\{'all': \['\*'\]\}",
        ),
        ([], ["ant/meta.parquet"], r"holds ant/meta\.parquet and 10 images"),
        (["train", "test"], ["train.parquet", "test.parquet"], r"'train': \['train/\*'\], 'test': \['test/\*'\]"),
        (["x/train", "x/test"], ["data/train.parquet"], r"'train': \['x/train/\*'\], 'test': \['x/test/\*'\]"),
    ],
    ids=["one table beside classes", "in a class", "tables and parts", "each in a folder"],
)
def test_tables_beside_class_folders_are_asked_about(parts, tables, tells, tmp_path):
    class_folders(tmp_path / "set", *parts)
    for name in tables:
        write(tmp_path / "set" / name, table(10))
    with pytest.raises(UserError, match=tells) as error:
        data.load(tmp_path / "set")
    chosen = ast.literal_eval(str(error.value).rpartition("split=")[2])  # what the line advises works
    real, test = data.load(tmp_path / "set", split=chosen)
    assert real.facts.class_names == ("ant", "bee") and len(real) + len(test) == 10 * max(1, len(parts))
    assert f"left out: {len(tables)} file" in " ".join(real.facts.notes)
    assert sum(map(len, data.load(tmp_path / "set" / tables[0]))) == 10


def test_what_lies_beside_tables_is_counted(tmp_path):
    write(tmp_path / "set" / "train.parquet", table(6))
    write(tmp_path / "set" / "test.parquet", table(4))
    (tmp_path / "set" / "banner.png").write_bytes(png(0))
    (tmp_path / "set" / "README.md").write_text("hello")
    (tmp_path / "set" / ".cache").mkdir()
    (tmp_path / "set" / ".cache" / "train.parquet").write_bytes(b"old")
    real, _ = data.load(tmp_path / "set")
    assert len(real) == 6 and real.facts.notes == (
        "left out: 1 image beside the folders",
        "left out: 1 file that is not read: 1 .md",
        "left out, no data: 1 file in .cache (1)",
    )
    with pytest.raises(UserError, match="needs train/<class>/"):
        data.load(tmp_path / "set", classes=["ant", "bee"])


def encoded(array, kind, **options):
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG2000", "SGI", "WEBP", "BMP", "TIFF"])
def test_eight_bits_in_a_cell_are_read_in_every_format(kind, tmp_path):
    lossless = {"WEBP": {"lossless": True}}.get(kind, {})
    rows = [{"bytes": encoded(pixels(i), kind, **lossless), "path": None} for i in range(6)]
    write(tmp_path / "set" / "train.parquet", pa.table({"image": structs(*rows), "label": [0, 1] * 3}))
    write(tmp_path / "set" / "test.parquet", table(4))
    assert same(data.load(tmp_path / "set")[0], range(6))


def structs(*rows):
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


# --- npz -------------------------------------------------------------------------------------------------------------
X, Y = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8), np.arange(20) % 4


@pytest.mark.parametrize(
    "keys",
    [
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("x_train", "y_train", "x_test", "y_test"),
        ("images", "labels", "test_images", "test_labels"),
    ],
)
def test_an_npz_names_its_parts_in_one_of_three_ways(keys, tmp_path):
    arrays = dict(zip(keys, (X, Y, X[:8] // 2, Y[:8])))
    np.savez(tmp_path / "mine.npz", **arrays, class_names=np.array([b"ant", b"bee", b"cow", b"dog"]), more=np.ones(3))
    real, test = data.load(tmp_path / "mine.npz")
    assert np.array_equal(real.images[:, 0].numpy(), X) and np.array_equal(test.images[:, 0].numpy(), X[:8] // 2)
    assert real.facts.class_names == ("ant", "bee", "cow", "dog")
    assert "not read from mine.npz: more" in real.facts.notes


def test_images_that_a_table_names_belong_to_what_is_watched(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    rows = {"image": [f"{i}.png" for i in range(10)], "label": [0, 1] * 5, "target": [0] * 10}
    pq.write_table(pa.table(rows), tmp_path / "all.parquet")
    first = data.load(tmp_path / "all.parquet")[0]
    assert any("labels are those of column label; column target is not read" in note for note in first.facts.notes)
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(png(i + 10))
    assert not torch.equal(data.load(tmp_path / "all.parquet")[0].images, first.images)
