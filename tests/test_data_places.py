"""Where data lie and how they are packed: cut archives, odd names, links, shared caches, depths of pixels."""

import io
import json
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from test_data_own import pixels, prepared, write

from distill_lib import data
from distill_lib.core import paths
from distill_lib.core.errors import UserError
from distill_lib.data import DATASETS, ImageSet, catalogue, prepare
from distill_lib.data.distilled import read as read_distilled


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DISTILL_OFFLINE", "1")


def png(seed=0, mode="RGB"):
    out = io.BytesIO()
    Image.fromarray(pixels(8, 8, 3, seed=seed)).convert(mode).save(out, "PNG")
    return out.getvalue()


def zipped(file, names, flag=0x800):
    """A zip of images under these names in UTF-8, marked so (0x800) or not."""
    with zipfile.ZipFile(file, "w") as z:
        for i, name in enumerate(names):
            z.writestr(name, png(i))
    raw = file.read_bytes()
    for at, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = 0
        while (start := raw.find(at, start)) >= 0:
            raw = raw[: start + offset] + struct.pack("<H", flag) + raw[start + offset + 2 :]
            start += 4
    file.write_bytes(raw)
    return file


# --- archives --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_archive_is_whole_or_refused(ending, tmp_path):
    write(tmp_path / "set", n=3)
    file = tmp_path / f"set.{ending}"
    with tarfile.open(file, f"w:{ending[4:]}") as tar:
        tar.add(tmp_path / "set", "set")
    with tarfile.open(file) as tar:
        blocks = [member.offset for member in tar]
    assert len(data.load(file)[0]) == 6
    whole = file.read_bytes()
    cuts = [blocks[-2], blocks[-2] + 100, blocks[-1] + 512] if ending == "tar" else [len(whole) // 2, len(whole) - 9]
    for cut in cuts:  # at a member's begin, in its header, after it
        file.write_bytes(whole[:cut])
        with pytest.raises(UserError, match="truncated or damaged"):
            data.load(file)


@pytest.mark.parametrize("flag", [0, 0x800])
def test_names_in_utf8_are_read_with_and_without_their_mark(flag, tmp_path):
    file = zipped(tmp_path / "z.zip", [f"{c}/{i}.png" for c in ("Ameise", "Kühe") for i in range(4)], flag)
    assert data.load(file)[0].facts.class_names == ("Ameise", "Kühe")


def test_an_archive_of_one_npz(tmp_path):
    np.savez(tmp_path / "a.NPZ.npz", images=pixels(20, 8, 8, 3), labels=np.arange(20) % 2)
    (tmp_path / "a.NPZ.npz").rename(tmp_path / "a.NPZ")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as z:
        z.write(tmp_path / "a.NPZ", "a.NPZ")
    assert data.load(tmp_path / "z.zip")[0].sha256() == data.load(tmp_path / "a.NPZ")[0].sha256()


def test_what_was_unpacked_can_be_read_by_the_others_who_share_a_cache(tmp_path):
    data.load(zipped(tmp_path / "z.zip", [f"{c}/{i}.png" for c in "ab" for i in range(4)]))
    (folder,) = (p for p in (paths.cache() / "unpacked").iterdir() if p.is_dir())
    assert folder.stat().st_mode & 0o555 == 0o555


# --- names and links -------------------------------------------------------------------------------------------------
def test_a_link_to_a_file_without_an_ending(tmp_path):
    """As Hugging Face's cache and DVC keep files."""
    blob = tmp_path / "blobs" / "0abc"
    blob.parent.mkdir()
    table = {"image": [{"bytes": png(i), "path": None} for i in range(20)], "label": [i % 2 for i in range(20)]}
    pq.write_table(pa.table(table), blob)
    (tmp_path / "train.parquet").symlink_to(blob)
    assert len(data.load(tmp_path / "train.parquet")[0]) == 16


@pytest.mark.parametrize("name", ["字" * 70, os.fsdecode(b"caf\xe9")])
def test_folders_of_any_name(name, tmp_path):
    write(tmp_path / name, n=5)
    for _ in range(2):  # made, then from the cache
        real, _ = data.load(tmp_path / name)
        assert len(real) == 12 and real.facts.name.isprintable()
    ImageSet.from_classes(real.pixels()[:3, None], like=real).save(tmp_path / "s.safetensors")


@pytest.mark.parametrize("given", ["~nobody-of-this-name/x", "loop/x"])
def test_places_that_lead_nowhere(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    for load in (lambda: data.load(given), lambda: data.load("ImageNette", folder=given)):
        with pytest.raises(UserError):
            load()


def test_files_of_sets_may_lie_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    real = data.load("digits")[0]
    made = ImageSet.from_classes(
        real.pixels()[:10, None], like=real, rate=np.float32(0.5), at=Path("x"), lr=torch.ones(2)
    )
    made.save("~/sets/a.safetensors")
    assert (tmp_path / "sets" / "a.safetensors").is_file() and not (tmp_path / "~").exists()
    assert ImageSet.load("~/sets/a.safetensors").facts.extra == {"rate": 0.5, "at": "x", "lr": [1.0, 1.0]}


def test_a_folder_named_after_a_set_takes_the_sets_nature(tmp_path):
    real, _ = data.load(write(tmp_path / "MNIST", n=5))
    assert real.facts.name == "MNIST-own" and not catalogue.like("MNIST-own").mirrors
    assert DATASETS["CIFAR10"].mirrors and catalogue.like("CIFAR10-own").mirrors


# --- parts -----------------------------------------------------------------------------------------------------------
def test_choices_of_parts_keep_their_copies(tmp_path):
    for day in "abc":
        write(tmp_path / "set" / day, n=3)
    for _ in range(2):
        for test in "abc":
            split = {"train": [d for d in "abc" if d != test], "test": test}
            data.load(tmp_path / "set", split=split)
    assert len(prepared()) == 6


def test_a_named_sets_test_part_without_labels_is_left_out(tmp_path):
    wnids = DATASETS["ImageNette"].wnids
    for part in ("train", "val"):
        write(tmp_path / part, wnids, n=1)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "1.png").write_bytes(png())
    real, test = data.load("ImageNette", resolution=16, folder=tmp_path)
    assert (len(real), len(test)) == (10, 10) and any("test has no class folders" in n for n in real.facts.notes)


# --- tables ----------------------------------------------------------------------------------------------------------
def test_columns_said_to_be_classes_come_before_names_that_sound_so(tmp_path):
    features = {"image": {"_type": "Image"}, "species": {"_type": "ClassLabel", "names": ["ant", "bee"]}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    images = [{"bytes": png(i), "path": None} for i in range(20)]
    table = pa.table({"image": images, "species": [i % 2 for i in range(20)], "label": [0, 1] * 10})
    pq.write_table(table.replace_schema_metadata(about), tmp_path / "t.parquet")
    real = data.load(tmp_path / "t.parquet")[0]
    assert real.facts.class_names == ("ant", "bee") and any("label" in note for note in real.facts.notes)


def test_an_arrow_file_is_read_as_a_stream_is(tmp_path):
    table = pa.table({"image": [png(i) for i in range(20)], "label": [i % 2 for i in range(20)]})
    pa.feather.write_feather(table, tmp_path / "t.arrow", compression="uncompressed")
    pq.write_table(table, tmp_path / "t.parquet")
    assert data.load(tmp_path / "t.arrow")[0].sha256() == data.load(tmp_path / "t.parquet")[0].sha256()


# --- pixels ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("magic", ["P6", "P3", "P5"])
def test_more_than_8_bits_in_ppm_are_refused(magic, tmp_path):
    write(tmp_path / "set", n=5)
    head, channels = f"{magic} 20 20 65535\n".encode(), 1 if magic == "P5" else 3
    body = b"300 " * 1200 if magic == "P3" else b"\x01\x02" * 400 * channels
    (tmp_path / "set" / "ant" / "x.ppm").write_bytes(head + body)
    with pytest.raises(UserError, match="x.ppm: more than 8 bits"):
        data.load(tmp_path / "set")


@pytest.mark.skipif("AVIF" not in prepare._formats(), reason="this Pillow reads no AVIF")
def test_more_than_8_bits_in_avif_are_refused(tmp_path):
    write(tmp_path / "set", n=5)
    file = tmp_path / "set" / "ant" / "x.avif"
    Image.fromarray(pixels(20, 20, 3)).save(file)
    data.load(tmp_path / "set")
    raw = bytearray(file.read_bytes())
    raw[raw.find(b"av1C") + 6] |= 0x40  # as a file of 10 bits says, which Pillow cannot write
    with Image.open(file) as image:
        assert prepare._deep(image) == ""
        image.fp = io.BytesIO(raw)
        assert prepare._deep(image) == "10 or 12 bits"


def test_images_too_large_to_be_safe_say_what_to_do(tmp_path, monkeypatch):
    write(tmp_path / "set", n=5)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="megapixels: make it smaller first"):
        data.load(tmp_path / "set")


@pytest.mark.parametrize("kind", ["GIF", "AVIF", "TIFF"])
def test_damaged_images_name_their_file(kind, tmp_path):
    if kind not in prepare._formats():
        pytest.skip(f"Pillow here reads no {kind}")
    write(tmp_path / "set", n=5)
    frames = [Image.fromarray(pixels(20, 20, 3, seed=i)) for i in range(3)]
    more = {} if kind == "AVIF" else {"save_all": True, "append_images": frames[1:]}
    file, rng = tmp_path / "set" / "ant" / f"x.{kind.lower()}", np.random.default_rng(0)
    frames[0].save(file, **more)
    whole, refused = file.read_bytes(), 0
    for _ in range(60):
        raw = np.frombuffer(whole, np.uint8).copy()
        raw[rng.integers(len(raw), size=20)] = rng.integers(256, size=20)
        file.write_bytes(raw.tobytes())
        try:
            data.load(tmp_path / "set")
        except UserError as err:
            assert f"{tmp_path / 'set'}" in str(err)
            refused += 1
    assert refused > 5


# --- a set that was distilled before its folder grew -----------------------------------------------------------------
def test_a_set_of_measured_units_fits_its_folder_after_an_image_was_added(tmp_path):
    real, _ = data.load(write(tmp_path / "cells", n=10))
    shown = real.pixels()[:3].clone()
    ImageSet.from_classes(real.normalise(real.images[:3])[:, None], like=real).save(tmp_path / "s.safetensors")
    Image.fromarray(np.full((20, 20, 3), 255, np.uint8)).save(tmp_path / "cells" / "ant" / "new.png")
    grown, _ = data.load(tmp_path / "cells")
    assert grown.facts.mean != real.facts.mean
    back = read_distilled(tmp_path / "s.safetensors", grown)
    torch.testing.assert_close(back.pixels(), shown, atol=1e-5, rtol=0)
    assert back.facts.mean == grown.facts.mean and any("normalised anew" in note for note in back.facts.notes)
