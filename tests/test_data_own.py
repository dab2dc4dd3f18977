"""The user's own data: npz files, image folders and Hugging Face folders the library has never seen."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_data import per_class

from distill_lib import data
from distill_lib.core import paths
from distill_lib.core.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))


def prepared():
    folder = paths.cache() / "prepared"
    return [p for p in folder.iterdir() if not p.name.endswith(".lock")] if folder.is_dir() else []


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(root, classes=("ant", "bee", "cat"), n=10, size=(20, 20), mode="RGB"):
    for k, c in enumerate(classes):
        (root / c).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(pixels(size[1], size[0], 3, seed=100 * k + i)).convert(mode).save(root / c / f"{i:03d}.png")
    return root


# --- npz -------------------------------------------------------------------------------------------------------------
def test_an_npz_of_images_and_labels_loses_a_fifth_of_every_class_to_a_test_set(tmp_path):
    x, y = pixels(50, 12, 12, 3), np.arange(50) % 5
    np.savez(tmp_path / "mine.npz", images=x, labels=y, class_names=np.array(list("abcde")))
    real, test = data.load(tmp_path / "mine.npz")
    assert real.facts.name == "mine" and real.facts.class_names == tuple("abcde") and real.shape == (3, 12, 12)
    assert per_class(real) == [8] * 5 and per_class(test) == [2] * 5
    assert any("20% of every class is held out as test set, seed 0" in n for n in real.facts.notes)
    whole = torch.cat([real.images, test.images]).flatten(1).sum(1).sort().values
    assert torch.equal(whole, torch.from_numpy(x).flatten(1).sum(1).sort().values)
    for s in (real, test):  # labels stay with their images
        for image, label in zip(s.images, s.labels, strict=True):
            assert y[(x.transpose(0, 3, 1, 2) == image.numpy()).all((1, 2, 3))] == [int(label)]
    assert real.facts.normalisation == "measured" and real.facts.mean[0] == pytest.approx(
        real.images[:, 0].double().mean().item() / 255
    )


def test_channels_first_and_grey_arrays_are_understood(tmp_path):
    x, y = pixels(20, 3, 9, 9), np.arange(20) % 2
    np.savez(tmp_path / "first.npz", train_images=x, train_labels=y, test_images=x[:4], test_labels=y[:4])
    assert np.array_equal(data.load(tmp_path / "first.npz")[0].images.numpy(), x)
    np.savez(tmp_path / "grey.npz", images=x[:, 0], labels=y)
    assert data.load(tmp_path / "grey.npz")[0].shape == (1, 9, 9)
    assert data.load(tmp_path / "grey.npz", channels=3)[0].shape == (3, 9, 9)


# --- image folders ---------------------------------------------------------------------------------------------------
def test_a_folder_with_train_val_and_test(tmp_path):
    write(tmp_path / "photos" / "train")
    write(tmp_path / "photos" / "validation", n=3)
    write(tmp_path / "photos" / "test", n=2)
    real, val, test = data.load_with_validation(tmp_path / "photos")
    assert (per_class(real), per_class(val), per_class(test)) == ([10] * 3, [3] * 3, [2] * 3)
    assert real.facts.class_names == ("ant", "bee", "cat") and real.facts.name == "photos" and real.shape == (3, 20, 20)
    assert np.array_equal(real.images[13].numpy(), pixels(20, 20, 3, seed=103).transpose(2, 0, 1))
    assert not real.facts.notes


def test_a_folder_of_class_folders_alone(tmp_path):
    real, test = data.load(write(tmp_path / "photos"))
    assert per_class(real) == [8] * 3 and per_class(test) == [2] * 3


def test_a_validation_part_serves_as_test_set_and_the_facts_say_so(tmp_path):
    write(tmp_path / "photos" / "train")
    write(tmp_path / "photos" / "val", n=3)
    real, test = data.load(tmp_path / "photos")
    assert per_class(test) == [3] * 3 and test.facts.split == "test"
    assert any("validation part of your data" in n for n in real.facts.notes)


def test_images_of_mixed_size_are_resized_by_the_stated_rule(tmp_path):
    root = write(tmp_path / "photos", n=5, size=(40, 30))
    Image.fromarray(pixels(26, 31, 3)).save(root / "ant" / "small.png")
    real, test = data.load(root)
    assert real.shape == test.shape == (3, 26, 26)  # the smallest shorter side
    assert any(
        "px to 26 px: shorter side to the resolution (bilinear, antialiased), then a centre crop" in n
        for n in real.facts.notes
    )
    assert data.load(root, 16)[1].shape == (3, 16, 16)
    assert data.load(root, 16)[0].sha256() != data.load(root, 16, resize="squeeze")[0].sha256()
    wide = write(tmp_path / "wide", n=5, size=(300, 200))
    assert data.load(wide)[0].shape == (3, 128, 128)  # never above 128 px unless asked
    assert data.load(wide, 150)[0].shape == (3, 150, 150)


def test_mixed_channels_are_refused_until_told_what_to_make_of_them(tmp_path):
    root = write(tmp_path / "photos")
    Image.fromarray(pixels(20, 20)).save(root / "bee" / "grey.png")
    with pytest.raises(
        UserError, match=r"mixed channels: \d+ grey and \d+ colour images; pass channels=1 or channels=3"
    ):
        data.load(root)
    assert prepared() == []
    assert data.load(root, channels=3)[0].shape == (3, 20, 20)
    assert data.load(root, channels=1)[0].shape == (1, 20, 20)
    with pytest.raises(UserError, match="channels=4: give 1"):
        data.load(root, channels=4)


def test_a_path_is_told_from_a_name(tmp_path, monkeypatch):
    write(tmp_path / "CIFAR10")
    monkeypatch.chdir(tmp_path)
    real, _ = data.load("./CIFAR10")
    assert real.facts.name == "CIFAR10-own" and real.num_classes == 3  # never mistaken for the named set
    assert data.load(str(tmp_path / "CIFAR10"))[0].sha256() == real.sha256()
    with pytest.raises(UserError, match="is a path already"):
        data.load("./CIFAR10", folder=tmp_path)
    with pytest.raises(UserError, match=r"unknown dataset 'photos': .* with a slash: \./photos"):
        data.load("photos")


# --- Hugging Face ----------------------------------------------------------------------------------------------------
FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}


def table(n, features=FEATURES, seed=0, label="label"):
    """An Arrow table as `datasets` writes it: encoded images, and the features in the schema's metadata."""
    import io

    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    rows = []
    for i in range(n):
        out = io.BytesIO()
        Image.fromarray(pixels(10, 10, 3, seed=seed + i)).save(out, "PNG")
        rows.append({"bytes": out.getvalue(), "path": None})
    image = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    t = pa.table({"image": image, label: pa.array([i % 2 for i in range(n)], pa.int64())})
    return t.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def save_to_disk(folder, tables):
    import pyarrow as pa

    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{len(tables):05d}.arrow" for i in range(len(tables))]
    for name, t in zip(names, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as f, pa.ipc.new_stream(f, t.schema) as out:
            out.write_table(t)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": n} for n in names]}))
    (folder / "dataset_info.json").write_text("{}")


def test_a_saved_dataset_dict(tmp_path):
    save_to_disk(tmp_path / "bugs" / "train", [table(6), table(4, seed=6)])
    save_to_disk(tmp_path / "bugs" / "test", [table(4, seed=50)])
    (tmp_path / "bugs" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    real, test = data.load(tmp_path / "bugs")
    assert real.facts.class_names == ("ant", "bee") and real.labels.tolist() == [0, 1] * 5 and len(test) == 4
    assert np.array_equal(real.images[7].numpy(), pixels(10, 10, 3, seed=7).transpose(2, 0, 1))
    assert real.facts.source == "your own Hugging Face folder"


def test_a_saved_dataset_without_splits_and_a_folder_of_parquet_files(tmp_path):
    save_to_disk(tmp_path / "one", [table(20)])
    real, test = data.load(tmp_path / "one")
    assert per_class(real) == [8, 8] and per_class(test) == [2, 2]
    import pyarrow.parquet as pq

    (tmp_path / "hub" / "data").mkdir(parents=True)
    pq.write_table(table(10), tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    pq.write_table(table(4, seed=50), tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet")
    real, test = data.load(tmp_path / "hub")
    assert len(real) == 10 and len(test) == 4 and any("validation part" in n for n in real.facts.notes)


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="needs pyarrow: pip install pyarrow"):
        data.load(tmp_path)
