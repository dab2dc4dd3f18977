"""Every form a set may lie in on disk, on small files written here; every way such a file can be wrong; the prepared
copies."""

import gzip
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import namedtuple
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill_lib import data
from distill_lib import data as distill_lib_data
from distill_lib.core import paths
from distill_lib.core.errors import UserError
from distill_lib.data import prepare


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty cache and one empty data folder; nothing else is looked at, nothing is downloaded."""
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DISTILL_OFFLINE", "1")
    monkeypatch.setattr(
        paths, "data_folders", lambda: [tmp_path / "data", tmp_path / "system", tmp_path / "cache" / "downloads"]
    )
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def prepared():
    """What lies in the cache, locks aside."""
    folder = paths.cache() / "prepared"
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock")) if folder.is_dir() else []


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def write_mnist(folder, suffix="", n=20, seed=0):
    labels = np.arange(n, dtype=np.uint8) % 10
    for stem, s in (("train", seed), ("t10k", seed + 1)):
        write_idx(folder / f"{stem}-images-idx3-ubyte{suffix}", pixels(n, 28, 28, seed=s))
        write_idx(folder / f"{stem}-labels-idx1-ubyte{suffix}", labels)
    return pixels(n, 28, 28, seed=seed), labels


def write_npz(path, classes=3, n=12, size=28, channels=3, **keys):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (n, size, size) if channels == 1 else (n, size, size, channels)
    labels = (np.arange(n, dtype=np.uint8) % classes)[:, None]
    arrays = {f"{s}_images": pixels(*shape, seed=i) for i, s in enumerate(("train", "val", "test"))}
    arrays |= {f"{s}_labels": labels for s in ("train", "val", "test")}
    arrays |= keys
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return arrays


def write_images(root, classes, n=2, size=(8, 8), mode="RGB", suffix="png"):
    """`n` images in a folder for each class; `size` (W, H)."""
    for k, c in enumerate(classes):
        (root / c).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            a = pixels(size[1], size[0], 3, seed=zlib.crc32(f"{root.name} {c} {i}".encode()))
            Image.fromarray(a).convert(mode).save(root / c / f"{c}_{i}.{suffix}")


# --- forms -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sub, suffix", [("MNIST/raw", ""), ("MNIST/raw", ".gz"), ("mnist", ".gz")])
def test_idx_files_plain_and_gzipped(place, sub, suffix):
    images, labels = write_mnist(place / sub, suffix)
    real, test = data.load("MNIST")
    assert np.array_equal(real.images[:, 0].numpy(), images) and real.labels.tolist() == labels.tolist()
    assert not torch.equal(test.images, real.images)
    assert any("train images of this copy (idx files) are not the official ones" in n for n in real.facts.notes)
    assert any("20 train images instead of 60,000" in n for n in real.facts.notes)


def test_debians_fashionmnist_is_found_among_the_system_packages(place):
    images, _ = write_mnist(place.parent / "system" / "fashion-mnist", ".gz")
    assert np.array_equal(data.load("FashionMNIST")[0].images[:, 0].numpy(), images)


def test_the_first_place_wins_and_an_explicit_folder_is_the_only_one(place):
    first, _ = write_mnist(place / "MNIST" / "raw", seed=1)
    write_mnist(place.parent / "system" / "mnist", seed=5)
    other, _ = write_mnist(place.parent / "other", seed=9)
    assert np.array_equal(data.load("MNIST")[0].images[:, 0].numpy(), first)
    assert np.array_equal(data.load("MNIST", folder=place.parent / "other")[0].images[:, 0].numpy(), other)
    with pytest.raises(UserError, match=rf"MNIST: not found.* in {place.parent}/empty\."):
        data.load("MNIST", folder=place.parent / "empty")


def write_cifar(folder, monkeypatch, name="CIFAR10"):
    from torchvision import datasets

    cls = getattr(datasets, name)
    folder.mkdir(parents=True)
    every, n = [], 20 if name == "CIFAR10" else 100
    for listing in ("train_list", "test_list"):
        new = []
        for file, _ in getattr(cls, listing):
            x = pixels(n, 3072, seed=len(every))
            y = {
                "labels" if name == "CIFAR10" else "fine_labels": [
                    i % (10 if name == "CIFAR10" else 100) for i in range(n)
                ]
            }
            raw = pickle.dumps({"data": x, **y})
            (folder / file).write_bytes(raw)
            new.append([file, md5(raw).hexdigest()])
            every.append(x)
        monkeypatch.setattr(cls, listing, new)
    raw = pickle.dumps({cls.meta["key"]: list(data.DATASETS[name].class_names)})
    (folder / cls.meta["filename"]).write_bytes(raw)
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": md5(raw).hexdigest()})
    return every


def test_cifar10_in_torchvisions_form(place, monkeypatch):
    every = write_cifar(place / "cifar-10-batches-py", monkeypatch)
    real, test = data.load("CIFAR10")
    assert np.array_equal(real.images.numpy(), np.concatenate(every[:5]).reshape(-1, 3, 32, 32))
    assert np.array_equal(test.images.numpy(), every[5].reshape(-1, 3, 32, 32))
    assert not any("compared" in n for n in real.facts.notes)  # its checksums were
    again = data.load("CIFAR10", folder=place / "cifar-10-batches-py")[0]
    assert torch.equal(again.images, real.images)


def test_cifar100_in_torchvisions_form(place, monkeypatch):
    every = write_cifar(place / "cifar-100-python", monkeypatch, "CIFAR100")
    real, _ = data.load("CIFAR100")
    assert np.array_equal(real.images.numpy(), every[0].reshape(-1, 3, 32, 32)) and real.num_classes == 100


def test_a_changed_cifar_file_is_never_opened(place, monkeypatch):
    folder = place / "cifar-10-batches-py"
    write_cifar(folder, monkeypatch)

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    (folder / "data_batch_3").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="data_batch_3: its md5 is not the published"):
        data.load("CIFAR10")
    (folder / "data_batch_3").unlink()
    with pytest.raises(UserError, match="data_batch_3 missing"):
        data.load("CIFAR10")
    assert prepared() == []


def test_an_archive_in_a_data_folder_is_unpacked_into_the_cache(place, monkeypatch):
    every = write_cifar(place / "cifar-10-batches-py", monkeypatch)
    with tarfile.open(place / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(place / "cifar-10-batches-py", "cifar-10-batches-py")
    shutil.rmtree(place / "cifar-10-batches-py")
    assert np.array_equal(data.load("CIFAR10")[1].images.numpy(), every[5].reshape(-1, 3, 32, 32))
    raw = (place / "cifar-10-python.tar.gz").read_bytes()
    (place / "cifar-10-python.tar.gz").write_bytes(raw[: len(raw) // 2])
    before = sorted((paths.cache() / "unpacked").iterdir())
    with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz: truncated or damaged archive"):
        data.load("CIFAR10")
    assert [p for p in sorted((paths.cache() / "unpacked").iterdir()) if p.suffix != ".lock"] == [
        p for p in before if p.suffix != ".lock"
    ]


@pytest.mark.parametrize("file", ["cifar10.npz", "CIFAR10.npz"])
def test_any_set_as_npz_with_medmnists_keys(place, file):
    arrays = write_npz(place / file, classes=10, n=20, size=32)
    real, test = data.load("CIFAR10")
    assert np.array_equal(real.images.numpy(), arrays["train_images"].transpose(0, 3, 1, 2))
    assert np.array_equal(test.images.numpy(), arrays["test_images"].transpose(0, 3, 1, 2))
    assert any("could not be compared with a published checksum" in n for n in real.facts.notes)
    val = data.load_with_validation("CIFAR10")[1]  # the file's own
    assert (
        np.array_equal(val.images.numpy(), arrays["val_images"].transpose(0, 3, 1, 2))
        and val.facts.split == "validation"
    )


def test_medmnist_takes_the_file_of_the_size_asked_for(place):
    small = write_npz(place / "pathmnist.npz", classes=9, n=18)
    large = write_npz(place / "pathmnist_64.npz", classes=9, n=18, size=64)
    real, _ = data.load("PathMNIST")
    assert real.shape == (3, 28, 28) and np.array_equal(
        real.images.numpy(), small["train_images"].transpose(0, 3, 1, 2)
    )
    real, _ = data.load("PathMNIST", 64)
    assert np.array_equal(real.images.numpy(), large["train_images"].transpose(0, 3, 1, 2))
    with pytest.raises(UserError, match=r"pathmnist_128\.npz.*or pass resize='bicubic' to enlarge the 28 px images"):
        data.load("PathMNIST", 128)


@pytest.mark.parametrize("resolution, options", [(64, {"resize": "bicubic"}), (128, {"resize": "bicubic"}), (256, {})])
def test_pathmnist_is_enlarged_bicubically_from_28_px(place, resolution, options):
    arrays = write_npz(place / "pathmnist.npz", classes=9, n=18)
    real, _ = data.load("PathMNIST", resolution, **options)
    for i in (0, 7):
        want = np.asarray(
            Image.fromarray(arrays["train_images"][i]).resize((resolution, resolution), Image.Resampling.BICUBIC)
        )
        assert np.array_equal(real.images[i].numpy(), want.transpose(2, 0, 1))
    assert any(f"resized from 28 px to {resolution} px" in n and "bicubic" in n for n in real.facts.notes)


def test_chestmnists_findings_are_joined_and_the_facts_say_so(place):
    marks = np.zeros((6, 14), np.uint8)
    marks[1, 3] = marks[4, [0, 13]] = 1
    write_npz(place / "chestmnist.npz", n=6, channels=1, train_labels=marks, val_labels=marks, test_labels=marks)
    real, _ = data.load("ChestMNIST")
    assert real.labels.tolist() == [0, 1, 0, 0, 1, 0] and real.facts.class_names == ("no finding", "any finding")
    assert any("14 findings" in n for n in real.facts.notes)


def test_a_verified_medmnist_file_carries_no_warning(place, monkeypatch):
    from medmnist.info import INFO

    write_npz(place / "breastmnist.npz", classes=2, channels=1)
    assert any("compared" in n for n in data.load("BreastMNIST")[0].facts.notes)
    shutil.rmtree(paths.cache())
    monkeypatch.setitem(INFO["breastmnist"], "MD5", md5((place / "breastmnist.npz").read_bytes()).hexdigest())
    assert not any("compared" in n for n in data.load("BreastMNIST")[0].facts.notes)


def test_an_image_folder_named_by_class_number_or_wnid(place):
    write_images(place / "mnist" / "train", [str(k) for k in range(10)], size=(28, 28), mode="L")
    write_images(place / "mnist" / "test", [str(k) for k in range(10)], size=(28, 28), mode="L", n=1)
    real, test = data.load("MNIST")
    assert real.shape == (1, 28, 28) and real.labels.tolist() == [k for k in range(10) for _ in range(2)]
    assert np.array_equal(test.images[3, 0].numpy(), np.asarray(Image.open(place / "mnist/test/3/3_0.png")))
    write_images(place / "BloodCells" / "TRAIN", ["NEUTROPHIL", "EOSINOPHIL", "MONOCYTE", "LYMPHOCYTE"], size=(64, 64))
    write_images(place / "BloodCells" / "TEST", ["NEUTROPHIL", "EOSINOPHIL", "MONOCYTE", "LYMPHOCYTE"], size=(64, 64))
    real, _ = data.load("BloodCells")
    want = np.asarray(Image.open(place / "BloodCells/TRAIN/NEUTROPHIL/NEUTROPHIL_0.png")).transpose(2, 0, 1)
    assert np.array_equal(real.images[real.class_index[3][0]].numpy(), want)


def test_tiny_imagenet_as_stanford_distributes_it(place):
    root = place / "tiny-imagenet-200"
    wnids = [f"n{k:08d}" for k in range(1000, 800, -4)] + [f"n{k:08d}" for k in range(2000, 1400, -4)]
    for w in wnids:
        write_images(root / "train" / w, ["images"], n=1, size=(64, 64), suffix="JPEG")
    (root / "val" / "images").mkdir(parents=True)
    for i in range(200):
        Image.fromarray(pixels(64, 64, 3, seed=i)).save(root / "val" / "images" / f"val_{i}.JPEG")
    lines = [f"val_{i}.JPEG\t{wnids[(i * 7) % 200]}\t0\t0\t62\t62\n" for i in range(200)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(wnids))
    (root / "words.txt").write_text("".join(f"{w}\tname {w}, other name\n" for w in wnids))
    real, test = data.load("TinyImageNet")
    assert real.facts.class_names == tuple(f"name {w}" for w in sorted(wnids))
    assert real.labels.tolist() == list(range(200)) == sorted(test.labels.tolist())
    label = sorted(wnids).index(wnids[7])
    want = np.asarray(Image.open(root / "val/images/val_1.JPEG")).transpose(2, 0, 1)
    assert np.array_equal(test.images[test.class_index[label][0]].numpy(), want)
    shutil.rmtree(root / "train" / wnids[0])
    with pytest.raises(UserError, match="199 class folders instead of 200"):
        data.load("TinyImageNet")


def write_sorted_tiny(root, images, table):
    """Tiny ImageNet with `val` sorted into class folders, as people's scripts leave it."""
    wnids = [f"n{k:08d}" for k in range(1000, 1200)]
    for k, w in enumerate(wnids):
        for file in (root / "train" / w / "images" / "0.JPEG", root / "val" / w / images / f"val_{k}.JPEG"):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (k, k, k)).save(file)
    write_images(root / "test", ["images"], n=1)
    if table:
        (root / "val" / "val_annotations.txt").write_text("".join(f"val_{k}.JPEG\t{w}\n" for k, w in enumerate(wnids)))
    return wnids


@pytest.mark.parametrize("images", ["images", "."])
@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("given", ["above", "itself", "variable"])
def test_tiny_imagenet_with_its_validation_part_sorted(place, images, table, given):
    write_sorted_tiny(place / "tiny-imagenet-200", images, table)
    folder = {"above": place, "itself": place / "tiny-imagenet-200", "variable": None}[given]
    real, test = data.load("TinyImageNet", 8, folder=folder)
    assert real.labels.tolist() == test.labels.tolist() == list(range(200))
    assert (test.images[:, 0, 0, 0] - torch.arange(200)).abs().max() <= 4  # JPEG keeps the grey level nearly
    assert any("its own test part has no labels" in note for note in real.facts.notes)


def test_a_tiny_imagenet_that_contradicts_itself_is_refused(place):
    root = place / "tiny-imagenet-200"
    wnids = write_sorted_tiny(root, ".", True)
    (root / "val" / wnids[3] / "val_3.JPEG").rename(root / "val" / wnids[4] / "val_3.JPEG")
    with pytest.raises(
        UserError, match=rf"val_3\.JPEG: lies in another class than val_annotations.txt says \({wnids[3]}"
    ):
        data.load("TinyImageNet", 8)
    (root / "val" / wnids[4] / "val_3.JPEG").unlink()
    with pytest.raises(UserError, match="names val_3.JPEG, which is not under val"):
        data.load("TinyImageNet", 8)
    (root / "val" / "val_annotations.txt").unlink()
    with pytest.raises(UserError, match=f"class {wnids[3]} has no images in the test part"):
        data.load("TinyImageNet", 8)


def test_one_of_mnists_files_missing_is_named(place):
    write_mnist(place / "MNIST" / "raw", ".gz")
    (place / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"MNIST/raw: labels-idx1 of the test part missing; fetch the set again"):
        data.load("MNIST")


@pytest.mark.parametrize("wrap", ["", "download/", "a/b/"])
def test_a_named_sets_archive_may_wrap_it_in_folders(place, tmp_path, wrap):
    write_sorted_tiny(tmp_path / "in" / wrap / "tiny-imagenet-200", "images", False)
    shutil.make_archive(str(place / "tiny-imagenet-200"), "zip", tmp_path / "in")
    assert len(data.load("TinyImageNet", 8)[1]) == 200
    assert len(data.load("TinyImageNet", 8, folder=place / "tiny-imagenet-200.zip")[1]) == 200
    with zipfile.ZipFile(place / "tiny-imagenet-200.zip", "w") as z:
        z.writestr("other/readme.txt", "hello")
    with pytest.raises(UserError, match=r"tiny-imagenet-200\.zip: TinyImageNet is not in it; it holds other"):
        data.load("TinyImageNet", 8)


def test_class_folders_of_a_named_set_are_told_apart_or_refused(place):
    names = list(data.DATASETS["CIFAR10"].class_names)
    for part in ("Training_Set", "test-set"):
        write_images(place / "cifar10" / part, [*names[:9], "Truck", "eleventh", "@eaDir"], n=1, size=(32, 32))
    real, _ = data.load("CIFAR10")
    assert real.labels.tolist() == list(range(10))
    assert "left out of train, no class of the set: @eaDir, eleventh" in real.facts.notes
    write_images(place / "cifar10" / "Training_Set", ["TRUCK"], n=1)
    with pytest.raises(UserError, match="TRUCK, Truck may all be class truck; keep one of them"):
        data.load("CIFAR10")
    write_images(place / "mnist" / "train", ["²", *map(str, range(9)), "09"], n=1, size=(28, 28), mode="L")
    write_images(place / "mnist" / "test", [f"{k:02d}" for k in range(10)], n=1, size=(28, 28), mode="L")
    assert data.load("MNIST")[0].labels.tolist() == data.load("MNIST")[1].labels.tolist() == list(range(10))
    (place / "mnist" / "training").mkdir()
    with pytest.raises(UserError, match="train, training may all be the train part"):
        data.load("MNIST")


def test_a_rotation_tag_in_a_named_set_is_noted_and_not_followed(place):
    write_imagenet(place / "imagenet", ["ImageNette"], size=(8, 8))
    exif = Image.Exif()
    exif[0x112] = 3
    file = next((place / "imagenet" / "train" / data.DATASETS["ImageNette"].wnids[0]).iterdir())
    with Image.open(file) as image:
        image.save(file, exif=exif, quality=95)
        want = np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1)
    real, _ = data.load("ImageNette", 8)
    assert np.array_equal(real.images[0].numpy(), want)
    assert "1 image has a rotation tag: not turned, as the papers read them" in real.facts.notes


def write_imagenet(root, names, size=(20, 12), train=1, val=1):
    wnids = sorted({w for n in names for w in data.DATASETS[n].wnids})
    write_images(root / "train", wnids, n=train, size=size, suffix="JPEG")
    write_images(root / "val", wnids, n=val, size=size, suffix="JPEG")


def test_imagenet_subsets_come_from_one_standard_folder(place):
    write_imagenet(place / "imagenet", ["SLFD-100"])
    for name, classes in (("ImNet-D", 10), ("SLFD-50", 50), ("SLFD-94", 94), ("SLFD-100", 100)):
        real, test = data.load(name, 8)
        assert real.shape == (3, 8, 8) and len(real) == len(test) == classes
        for k in range(0, classes, 7):
            d = data.DATASETS[name]
            file = next((place / "imagenet" / "val" / d.wnids[k]).iterdir())
            with Image.open(file) as im:
                want = np.asarray(im.resize((13, 8), Image.Resampling.BILINEAR).crop((2, 0, 10, 8))).transpose(2, 0, 1)
            assert np.array_equal(test.images[k].numpy(), want)
    pairs = [(i, j) for i in range(100) for j in range(i) if torch.equal(real.images[i], real.images[j])]
    assert len(pairs) == 6  # the six classes under two labels


def test_grey_and_cmyk_photographs_of_a_colour_set_become_rgb(place):
    write_imagenet(place / "imagenet", ["ImageNette"])
    d = data.DATASETS["ImageNette"]
    for w, mode in ((d.wnids[0], "L"), (d.wnids[1], "CMYK")):
        write_images(place / "imagenet" / "train", [w], n=1, mode=mode, suffix="JPEG")
    real, _ = data.load("ImageNette", 8)
    assert torch.equal(real.images[0, 0], real.images[0, 2]) and not torch.equal(real.images[2, 0], real.images[2, 2])


def test_a_missing_class_and_a_flat_validation_folder_are_explained(place):
    write_imagenet(place / "imagenet", ["ImageNette"])
    wnid = data.DATASETS["ImageNette"].wnids[4]
    shutil.rmtree(place / "imagenet" / "train" / wnid)
    with pytest.raises(UserError, match=rf"no folder for 1 of 10 classes: church \({wnid}\)"):
        data.load("ImageNette", 8)
    write_imagenet(place / "imagenet", ["ImageNette"])
    shutil.rmtree(place / "imagenet" / "val")
    (place / "imagenet" / "val").mkdir()
    Image.new("RGB", (9, 9)).save(place / "imagenet" / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(UserError, match="the validation images lie flat: torchvision.datasets.ImageNet"):
        data.load("ImageNette", 8)


def test_fastais_archive_is_read_and_its_split_named(place, tmp_path):
    write_imagenet(tmp_path / "imagewoof2-160", ["ImageWoof"], train=2, val=3)
    with tarfile.open(place / "imagewoof2-160.tgz", "w:gz") as tar:
        tar.add(tmp_path / "imagewoof2-160", "imagewoof2-160")
    real, test = data.load("ImageWoof", 8)
    assert len(real) == 20 and len(test) == 30
    assert any("3 test images per class instead of ILSVRC-2012's 50: fastai's split" in n for n in real.facts.notes)


def test_ilsvrcs_own_validation_part_carries_no_note(place):
    write_imagenet(place / "imagenet", ["ImageIDC"], size=(9, 8), val=50)
    assert not any("fastai" in n for n in data.load("ImageIDC", 8)[1].facts.notes)


# --- resizing --------------------------------------------------------------------------------------------------------
def test_resize_rules_on_an_image_that_needs_no_scaling():
    a = pixels(4, 8, 3)  # height 4, width 8
    crop = np.asarray(distill_lib_data.resize(Image.fromarray(a), 4, "bilinear"))
    assert np.array_equal(crop, a[:, 2:6])
    assert np.array_equal(np.asarray(distill_lib_data.resize(Image.fromarray(a), 4, "bicubic")), a[:, 2:6])
    squeezed = np.asarray(distill_lib_data.resize(Image.fromarray(a), 4, "squeeze"))
    assert squeezed.shape == (4, 4, 3) and not np.array_equal(squeezed, crop)
    same = Image.fromarray(a[:, :4])
    assert distill_lib_data.resize(same, 4, "squeeze") is same


@pytest.mark.parametrize("w, h", [(5, 5), (7, 3), (3, 7), (333, 101), (101, 333), (1, 50)])
@pytest.mark.parametrize("rule", data.RESIZE)
def test_every_size_becomes_the_resolution(w, h, rule):
    assert distill_lib_data.resize(Image.new("RGB", (w, h)), 16, rule).size == (16, 16)


def test_halving_weighs_four_pixels_one_three_three_one():
    """PIL's antialiased bilinear filter, by hand: a triangle two pixels wide on either side."""
    a = pixels(16, 16)
    small = np.asarray(distill_lib_data.resize(Image.fromarray(a), 8, "bilinear")).astype(float)
    w = np.array([1, 3, 3, 1]) / 8
    for i in range(1, 7):
        for j in range(1, 7):
            assert abs(small[i, j] - w @ a[2 * i - 1 : 2 * i + 3, 2 * j - 1 : 2 * j + 3] @ w) <= 1


# --- wrong input -----------------------------------------------------------------------------------------------------
def damaged(path, how):
    raw = path.read_bytes()
    path.write_bytes({"half": raw[: len(raw) // 2], "empty": b"", "text": b"not data"}[how])


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("how", ["half", "empty", "text"])
def test_a_damaged_idx_file_is_named_and_the_cache_untouched(place, suffix, how):
    write_mnist(place / "MNIST" / "raw", suffix)
    damaged(place / f"MNIST/raw/train-images-idx3-ubyte{suffix}", how)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.*(truncated or damaged|not an idx file)"):
        data.load("MNIST")
    assert prepared() == []


@pytest.mark.parametrize("how", ["half", "empty", "text"])
def test_a_damaged_npz_is_named_and_the_cache_untouched(place, how):
    write_npz(place / "bloodmnist.npz", classes=8)
    damaged(place / "bloodmnist.npz", how)
    with pytest.raises(UserError, match=r"bloodmnist\.npz: cannot be read as plain arrays"):
        data.load("BloodMNIST")
    assert prepared() == []


def test_a_flipped_bit_in_an_npz_is_found_by_its_crc(place):
    write_npz(place / "bloodmnist.npz", classes=8)
    raw = bytearray((place / "bloodmnist.npz").read_bytes())
    raw[2000] ^= 1  # inside train_images
    (place / "bloodmnist.npz").write_bytes(raw)
    with pytest.raises(UserError, match=r"bloodmnist\.npz: truncated or damaged"):
        data.load("BloodMNIST")
    assert prepared() == []


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"train_labels": np.full(12, 8)}, "labels run from 8 to 8; the set has 8 classes, 0 to 7"),
        ({"train_labels": np.full(12, -1)}, "labels run from -1 to -1"),
        ({"train_labels": np.arange(12) % 7}, r"class 7 \(platelet\) has no images"),
        ({"train_labels": np.arange(11) % 8}, r"train_labels are int64 \(11,\)"),
        ({"train_labels": np.zeros((12, 2), np.uint8)}, r"train_labels are uint8 \(12, 2\)"),
        ({"train_labels": np.zeros(12)}, "train_labels are float64"),
        ({"train_images": pixels(12, 28, 28)}, "images have 1 channels; BloodMNIST has 3"),
        ({"train_images": pixels(12, 28, 28, 4)}, r"shape \(12, 28, 28, 4\)"),
        ({"train_images": np.zeros((12, 28, 28, 3))}, "train_images are float64; save them as uint8"),
        ({"train_images": np.array([None] * 12)}, "truncated or damaged|cannot be read"),
        ({"train_images": pixels(0, 28, 28, 3), "train_labels": np.zeros(0, np.uint8)}, "no images"),
        ({"test_images": None, "val_images": None}, "holds train; BloodMNIST needs"),
        ({"train_images": None}, "holds val, test; BloodMNIST needs"),
        ({"class_names": np.array(["a", "b"])}, "has 2 class names; BloodMNIST has 8 classes"),
    ],
)
def test_a_wrong_npz_is_one_clear_error(place, keys, message):
    arrays = {"train_labels": np.arange(12) % 8, **keys}
    write_npz(place / "bloodmnist.npz", classes=8, **arrays)
    with pytest.raises(UserError, match=message) as err:
        data.load("BloodMNIST")
    assert "bloodmnist.npz" in str(err.value) and prepared() == []


@pytest.mark.parametrize("what", ["truncated", "no image", "empty class", "no test"])
def test_a_wrong_image_folder_is_one_clear_error(place, what):
    root = place / "bloodcells"
    classes = data.DATASETS["BloodCells"].class_names
    write_images(root / "train", classes)
    if what != "no test":
        write_images(root / "test", classes)
    bad = root / "train" / "monocyte" / "monocyte_1.png"
    if what == "truncated":
        bad.write_bytes(bad.read_bytes()[:-60])
        message = r"monocyte_1\.png: cannot be read as an image \(.*truncated"
    elif what == "no image":
        bad.write_text("hello")
        message = r"monocyte_1\.png: cannot be read as an image"
    elif what == "empty class":
        shutil.rmtree(root / "train" / "lymphocyte")
        (root / "train" / "lymphocyte").mkdir()
        message = "class lymphocyte has no images in the train part"
    else:
        message = "bloodcells: has a train folder but neither val nor test"
    with pytest.raises(UserError, match=message):
        data.load("BloodCells", 8)
    assert prepared() == []


def test_not_found_names_the_file_the_places_and_the_command(place):
    with pytest.raises(UserError) as err:
        data.load("CIFAR10")
    text = str(err.value)
    assert "cifar-10-batches-py" in text and "cifar10.npz" in text and str(place) in text and "DISTILL_DATA" in text
    assert (
        f"curl -L --create-dirs -o '{place}/cifar-10-python.tar.gz' 'https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz'"
        in text
    )
    assert "Downloading is off" in text
    with pytest.raises(UserError, match="image-net.org"):
        data.load("ImNet-A")
    with pytest.raises(UserError, match="kaggle datasets download paultimothymooney/blood-cells"):
        data.load("BloodCells")


# --- downloads -------------------------------------------------------------------------------------------------------
def test_the_command_that_fetches_names_the_home_folder_itself(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("DISTILL_DATA", "~/sets")
    with pytest.raises(UserError) as error:
        data.load("CIFAR10", download=False)
    assert f"curl -L --create-dirs -o '{place}/sets/cifar-10-python.tar.gz'" in str(error.value)
    assert "'~" not in str(error.value)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A local stand-in for the network: `download_url` copies from this folder and checks the md5 as torchvision's
    does."""
    from torchvision.datasets import utils

    folder = tmp_path / "mirror"
    folder.mkdir()

    def fetch(url, root, filename, checksum):
        source = folder / Path(url.split("?")[0]).name
        if not source.is_file():
            raise OSError("no route to host")
        shutil.copy(source, Path(root) / filename)
        if not utils.check_integrity(str(Path(root) / filename), checksum):
            raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(utils, "download_url", fetch)
    return folder


def test_a_missing_set_is_downloaded_once_and_checked(place, mirror, monkeypatch):
    from medmnist.info import INFO

    write_npz(mirror / "octmnist.npz", classes=4, channels=1)
    monkeypatch.setitem(INFO["octmnist"], "MD5", md5((mirror / "octmnist.npz").read_bytes()).hexdigest())
    real, _ = data.load("OCTMNIST", download=True)
    assert real.shape == (1, 28, 28) and not any("compared" in n for n in real.facts.notes)
    shutil.rmtree(mirror)
    assert torch.equal(data.load("OCTMNIST", download=True)[0].images, real.images)


def test_a_download_with_a_wrong_checksum_leaves_nothing(place, mirror):
    write_npz(mirror / "octmnist.npz", classes=4, channels=1)
    with pytest.raises(
        UserError, match=r"OCTMNIST: not found.*Downloading failed: File not found or corrupted.*octmnist\.npz"
    ):
        data.load("OCTMNIST", download=True)
    assert [p for p in (paths.cache() / "downloads").iterdir() if p.suffix != ".lock"] == []


def test_without_a_network_the_error_says_what_to_fetch(place, mirror):
    with pytest.raises(
        UserError, match=r"MNIST: not found.*Downloading failed: no route to host.*curl -L.*train-images-idx3-ubyte\.gz"
    ):
        data.load("MNIST", download=True)


def test_every_downloadable_set_names_an_address_and_an_md5():
    free = [n for n, d in data.DATASETS.items() if d.family in ("idx", "cifar", "medmnist", "tiny")] + [
        "ImageNette",
        "ImageWoof",
    ]
    for name in free:
        for urls, place, checksum in distill_lib_data.downloads(data.DATASETS[name], 28):
            assert all(u.startswith("http") for u in urls) and len(checksum) == 32 and not Path(place).is_absolute()
            assert "curl" in distill_lib_data.how_to_fetch(data.DATASETS[name], 28)


# --- prepared copies -------------------------------------------------------------------------------------------------
def test_a_set_is_prepared_once_and_memory_mapped(place):
    write_npz(place / "cifar10.npz", classes=10, n=2000, size=32)
    real, _ = data.load("CIFAR10")
    files = prepared()
    assert len(files) == 2
    file = paths.cache() / "prepared" / next(f for f in files if "train" in f)
    stamp = file.stat().st_mtime_ns
    again, _ = data.load("CIFAR10")
    assert file.stat().st_mtime_ns == stamp and prepared() == files
    if sys.platform == "linux":
        assert str(file) in Path("/proc/self/maps").read_text()
    assert file.stat().st_size <= 1.3 * real.nbytes
    assert again.sha256() == real.sha256() == data.ImageSet(real.images, real.labels, real.facts).sha256()


def test_a_prepared_set_is_private_to_the_process(place):
    write_npz(place / "cifar10.npz", classes=10, n=20, size=32)
    real, _ = data.load("CIFAR10")
    before = real.images.clone()
    real.images.zero_()
    assert torch.equal(data.load("CIFAR10")[0].images, before)


def test_a_changed_source_is_prepared_again(place):
    write_npz(place / "cifar10.npz", classes=10, n=20, size=32)
    first = data.load("CIFAR10")[0]
    write_npz(place / "cifar10.npz", classes=10, n=30, size=32)
    assert len(data.load("CIFAR10")[0]) == 30 and len(first) == 20
    assert len(prepared()) == 2  # the earlier copy is gone from the disk, and still readable where it is open
    assert first.images.float().mean() > 0


def test_a_truncated_prepared_file_is_named(place):
    write_npz(place / "cifar10.npz", classes=10, n=20, size=32)
    data.load("CIFAR10")
    for f in prepared():
        file = paths.cache() / "prepared" / f
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"CIFAR10-train.*damaged .*; delete it to prepare it again"):
        data.load("CIFAR10")


def test_a_full_disk_and_a_folder_that_cannot_be_written_to_are_clear_errors(place, monkeypatch):
    write_npz(place / "cifar10.npz", classes=10, n=20, size=32)
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda _: namedtuple("usage", "total used free")(9, 9, 1000))
    with pytest.raises(UserError, match=r"bytes are needed, 1,000 are free; set DISTILL_CACHE"):
        data.load("CIFAR10")
    assert prepared() == []
    monkeypatch.undo()
    monkeypatch.setenv("DISTILL_CACHE", str(place / "cifar10.npz"))  # a file where a folder should be
    monkeypatch.setattr(paths, "data_folders", lambda: [place])
    with pytest.raises(UserError, match="set DISTILL_CACHE to a folder that can be written to"):
        data.load("CIFAR10")


def test_what_a_killed_process_left_is_removed(place):
    write_npz(place / "cifar10.npz", classes=10, n=20, size=32)
    data.load("CIFAR10")
    (name,) = [f for f in prepared() if "train" in f]
    folder = paths.cache() / "prepared"
    (folder / name).unlink()
    (folder / f".{name}-abc123").write_bytes(b"half")
    data.load("CIFAR10")
    assert (folder / name).is_file() and not (folder / f".{name}-abc123").exists()


LOADER = """
import sys
from distill_lib import data
real, test = data.load(sys.argv[1], 24)
print(real.sha256(), test.sha256())
"""


def test_two_processes_preparing_the_same_set_end_with_one_good_copy(place, tmp_path):
    root = tmp_path / "shapes"
    write_images(root / "train", ["a", "b", "c"], n=40, size=(40, 32))
    write_images(root / "test", ["a", "b", "c"], n=10, size=(40, 32))
    run = [
        subprocess.Popen([sys.executable, "-c", LOADER, str(root)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    out = [p.communicate(timeout=120)[0] for p in run]
    assert [p.returncode for p in run] == [0, 0] and out[0] == out[1] != ""
    assert len(prepared()) == 2 and not any(p.startswith(".") for p in prepared())
    real, test = data.load(root, 24)
    assert out[0].split() == [real.sha256(), test.sha256()]
    assert real.sha256() == data.ImageSet(real.images.clone(), real.labels, real.facts).sha256()


def test_zip_archives_are_unpacked_too(place, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as z:
        z.writestr("inside/file.txt", "hello")
    assert (distill_lib_data.unpacked(tmp_path / "x.zip") / "inside" / "file.txt").read_text() == "hello"
