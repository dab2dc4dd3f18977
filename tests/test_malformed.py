"""Malformed parameters, records, settings, data files, folders, images, archives, environments and commands: each is
one clear error, and nothing is written."""

import contextlib
import dataclasses
import inspect
import io
import json
import os
import shutil
import struct
import sys
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy
from PIL import Image
from safetensors import torch as safetensors_torch
from test_records import CELL, record

from distill_lib import __main__ as cli
from distill_lib import data, experiments, records
from distill_lib.core import device
from distill_lib.core.errors import UserError
from distill_lib.core.settings import as_dict, from_dict
from distill_lib.methods import METHODS
from distill_lib.records import record as records_record

NAME = "skd/table1_accuracy"
fifty = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
junk = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def place(folders, monkeypatch):
    """Folders of their own, and neither data nor weights in them."""
    for folder in ("DISTILL_DATA", "DISTILL_WEIGHTS"):
        monkeypatch.setenv(folder, str(folders / "data"))
    return folders


def refused(*words):
    """The one line with which the command line refuses."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["distill", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
            cli.main()
    finally:
        sys.argv = before
    said = err.getvalue()
    assert stop.value.code == 2, (words, said, out.getvalue())
    assert said.startswith("error: ") and len(said.splitlines()) == 1 and "Traceback" not in said + out.getvalue(), (
        words,
        said,
    )
    return said


# --- parameters ------------------------------------------------------------------------------------------------------
KNOWN = {"profile", "seed", "methods", "datasets", "ipcs"}
names = st.text(min_size=1, max_size=12).filter(lambda t: "=" not in t and t not in KNOWN)
values = {
    "profile": junk.filter(lambda v: v not in ("recorded", "smoke", "small", "full")),
    "seed": junk.filter(lambda v: isinstance(v, bool) or not isinstance(v, int) or v < 0),
    "methods": plain.filter(lambda v: v not in ("", *METHODS, "all")) | st.lists(st.integers(), min_size=1, max_size=3),
    "datasets": st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3).filter(lambda v: v != ["all"]),
    "ipcs": st.lists(st.integers(max_value=0) | st.floats() | st.none(), min_size=1, max_size=3),
}
bad_parameters = names.flatmap(lambda n: junk.map(lambda v: (n, v))) | st.sampled_from(sorted(values)).flatmap(
    lambda n: values[n].map(lambda v: (n, v))
)


@fifty
@given(bad=bad_parameters)
def test_malformed_parameters(place, bad):
    name, value = bad
    said = refused("run", NAME, "-p", f"{name}={json.dumps(value)}")
    assert "Parameters: profile, seed, methods" in said or "say it as --profile" in said
    assert not list(place.rglob("*"))


# --- records ---------------------------------------------------------------------------------------------------------
FIELDS = "cell test_accuracy_pct sets key metrics seconds memory_mb made_by cpu_seconds joules".split()
of_another_type = {
    "cell": junk,
    "test_accuracy_pct": junk,
    "sets": junk,
    "memory_mb": junk.filter(lambda v: not isinstance(v, (int, float)) or not 0 <= v < 1e300),
    **{
        name: junk.filter(lambda v: not isinstance(v, dict))
        for name in ("key", "metrics", "seconds", "made_by", "cpu_seconds", "joules")
    },
}


def signed(body):
    """The body with a checksum that holds: written by a program that is not this one."""
    body = {k: v for k, v in body.items() if k != "sha256"}
    return {**body, "sha256": records_record._digest(body)}


@st.composite
def damage(draw):
    """A function from the text of a record to another text."""
    kind = draw(st.sampled_from(["cut", "bytes", "edited", "missing", "type", "unknown"]))
    if kind == "cut":
        share = draw(st.floats(0, 0.99))
        return lambda text: text[: int(share * len(text))].encode()
    if kind == "bytes":
        noise = draw(st.binary(max_size=200))
        return lambda text: noise
    if kind == "edited":
        value = draw(st.floats(0, 100).filter(lambda v: v != 71.5))
        return lambda text: text.replace("71.5", repr(value), 1).encode()
    name, value = draw(st.sampled_from(FIELDS).flatmap(lambda n: st.tuples(st.just(n), of_another_type[n])))

    def change(text):
        body = json.loads(text)
        if kind == "type":
            body[name] = value
        elif kind == "unknown":
            body["no such field"] = value
        else:
            body.pop(draw_missing)
        return json.dumps(signed(body)).encode()

    draw_missing = draw(st.sampled_from(["format", "cell", "test_accuracy_pct", "sets", "key"]))
    return change


@fifty
@given(damage=damage())
def test_malformed_records(place, damage):
    file = record(seconds={"distill": 1.0}, cpu_seconds={"distill": 1.0}, joules={"distill": 1.0}).save("small")
    file.write_bytes(damage(file.read_text()))
    before = file.read_bytes()
    with pytest.raises(UserError, match=file.name):
        records.load(CELL, "small")
    params = experiments.check_parameters(
        NAME, {"profile": "small", "methods": ["DM"], "datasets": ["FashionMNIST"], "ipcs": [10]}
    )
    assert [s.state for s in experiments.plan(NAME, params)] == ["damaged"]
    chosen = "-p methods=DM -p datasets=FashionMNIST -p ipcs=[10] --cells protocol=vico_dsa"
    assert "1 of 1 cells failed" in refused("run", NAME, "--profile", "small", *chosen.split())
    assert file.read_bytes() == before and [f for f in (place / "results").rglob("*") if f.is_file()] == [file]


# --- settings --------------------------------------------------------------------------------------------------------
@fifty
@given(data_=st.data())
def test_malformed_settings(data_):
    name = data_.draw(st.sampled_from(sorted(METHODS)).filter(lambda name: dataclasses.fields(METHODS[name].Config)))
    config = METHODS[name].Config
    good = as_dict(METHODS[name].paper_config("CIFAR10", 1))
    if data_.draw(st.booleans()):
        field, value = data_.draw(st.text(max_size=12).filter(lambda t: t not in good)), data_.draw(junk)
    else:  # nothing has a setting that is a dictionary of nonsense
        field, value = data_.draw(st.sampled_from(sorted(good))), {"nonsense": data_.draw(plain)}
    with pytest.raises(UserError, match="Valid fields: ") as error:
        from_dict(config, {**good, field: value})
    assert all(known in str(error.value) for known in list(good)[:1])


# --- data files ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A good file of every kind."""
    from safetensors.torch import save_file

    place, test = tmp_path_factory.mktemp("whole"), data.load("digits")[1]
    images, labels = test.images[:20].float() / 255, torch.arange(20) % 10
    np.savez(place / "a.npz", images=images.numpy(), labels=labels.numpy())
    torch.save({"images": images, "labels": labels}, place / "a.pt")
    save_file({"images": images, "labels": labels}, place / "a.safetensors")
    return {f.suffix: f.read_bytes() for f in place.iterdir()}


odd_arrays = st.sampled_from(
    [(0, 1, 8, 8), (3, 1, 8, 8), (10, 1, 9, 8), (10, 2, 8, 8), (10,), (10, 8), (1, 1, 1, 1, 1, 1)]
)


@fifty
@given(data_=st.data())
def test_malformed_data_files(place, whole, data_):
    ending = data_.draw(st.sampled_from([".npz", ".pt", ".safetensors", ".csv", ""]))
    file = Path(place / f"given{ending}")
    kind = data_.draw(st.sampled_from(["noise", "cut", "shape"]))
    if kind == "noise" or ending not in whole:
        file.write_bytes(data_.draw(st.binary(max_size=300)))
    elif kind == "cut":
        file.write_bytes(whole[ending][: int(data_.draw(st.floats(0, 0.95)) * len(whole[ending]))])
    else:
        images = np.zeros(data_.draw(odd_arrays), np.float32)
        if ending == ".npz":
            np.savez(file, images=images)
        elif ending == ".pt":
            torch.save({"images": torch.from_numpy(images)}, file)
        else:
            from safetensors.torch import save_file

            save_file({"images": torch.from_numpy(images)}, file)
    how = "--dataset digits --pixels --protocol vico_noaug@1ep --networks MLP --num-eval 1"
    said = refused("evaluate", str(file), *how.split())
    assert file.name in said
    file.unlink()
    assert not list(place.rglob("*"))


# --- folders, images, archives ---------------------------------------------------------------------------------------
def picture(file, seed=0, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, **options)
    return file


def good(root, *folders):
    for i, at in enumerate(folders or ("train/ant", "train/bee", "test/ant", "test/bee")):
        for k in range(2):
            picture(root / at / f"{k}.png", seed=2 * i + k)
    return root


def not_utf8(root):
    try:
        picture(good(root) / os.fsdecode(b"test/caf\xe9/0.png"))
    except OSError as err:
        pytest.skip(f"this file system refuses names that are not UTF-8: {err}")


def with_file(name, content):
    def make(root):
        (good(root) / name).write_bytes(content)

    return make


def with_link(name, target):
    return lambda root: (good(root) / name).symlink_to(target)


def with_image(name, image, **options):
    return lambda root: image.save(good(root) / name, **options)


def with_cut(ending, share):
    def make(root):
        file = picture(good(root) / "train" / "ant" / f"9.{ending}")
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])

    return make


def with_folders(*folders):
    return lambda root: good(root, *folders) if folders else None


def packed(change=lambda raw: raw, folders=("train/ant", "train/bee"), names=None):
    """A zip archive, its bytes changed; `names` are what its files are called instead."""

    def make(root):
        good(root.with_name("in"), *folders)
        files = sorted(f for f in root.with_name("in").rglob("*") if f.is_file())
        with zipfile.ZipFile(root.with_suffix(".zip"), "w") as z, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that come twice
            for i, file in enumerate(files):
                name = names[i % len(names)] if names else str(file.relative_to(root.with_name("in")))
                z.writestr(zipfile.ZipInfo(name), file.read_bytes())
        shutil.rmtree(root.with_name("in"))
        root.with_suffix(".zip").write_bytes(change(root.with_suffix(".zip").read_bytes()))

    return make


MODES = {"tar": "", "tgz": "gz", "tar.gz": "gz", "tar.bz2": "bz2", "tar.xz": "xz"}


def tarred(ending, change=lambda raw: raw, name="a.png", kind=tarfile.REGTYPE):
    def make(root):
        file = root.with_name(f"set.{ending}")
        with tarfile.open(file, f"w:{MODES[ending]}") as tar:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "/etc/hosts", 3000 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(np.random.default_rng(0).bytes(3000)))
        file.write_bytes(change(file.read_bytes()))

    return make


def patched(at, value):
    """Two bytes of every local and central header of a zip changed: its flags (6, 8) or its method (8, 10)."""

    def change(raw):
        raw = bytearray(raw)
        for start, offset in ((b"PK\3\4", at), (b"PK\1\2", at + 2)):
            found = raw.find(start)
            while found >= 0:
                raw[found + offset : found + offset + 2] = value.to_bytes(2, "little")
                found = raw.find(start, found + 4)
        return bytes(raw)

    return change


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 3\n"
PAGE = b"<!DOCTYPE html><html><title>503</title></html>"
UNKNOWN, UNREAD = "cannot be read as an image (not an image of a known kind)", "cannot be read as an image"
NOT_IMAGES = {  # under the name of a PNG
    "empty": (b"", f"{UNREAD} (the file is empty)"),
    "pointer": (POINTER, f"{UNREAD} (a Git LFS pointer, not the file itself; run: git lfs pull)"),
    "page": (PAGE, f"{UNREAD} (a web page"),
    "xml": (b"<?xml version='1.0'?><Error/>", f"{UNREAD} (a web page"),
    "text": (b"hello", UNKNOWN),
    "zeros": (bytes(500), UNKNOWN),
    "pickle": (b"\x80\x04N.", UNKNOWN),
    "npz": (b"PK\3\4", UNKNOWN),
    "png head": (b"\x89PNG\r\n\x1a\n", UNKNOWN),
    "jpeg head": (b"\xff\xd8\xff\xe0", UNKNOWN),
    "gif head": (b"GIF89a", UNKNOWN),
    "webp head": (b"RIFF\0\0\0\0WEBP", UNKNOWN),
    "bmp head": (b"BM", UNKNOWN),
    "tiff head": (b"II*\0", UNKNOWN),
    "ppm head": (b"P6 24 24 255\n", f"{UNREAD} (image file is truncated"),
    "heic": (b"\0\0\0 ftypheic\0\0\0\0mif1heic", UNKNOWN),
    "json": (b'{"error": 404}', UNKNOWN),
}


def written(kind, image=None, **options):
    """An image of another kind than its ending says."""

    def make():
        out = io.BytesIO()
        (image or Image.new("RGB", (24, 24), "red")).save(out, kind, **options)
        return out.getvalue()

    return make


def block(name, content, wrong=0):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content) ^ wrong)


def png_of(width, height, bits=8, kind=2, data=None, wrong=0):
    rows_ = b"".join(b"\0" + bytes(3 * width) for _ in range(height)) if data is None else data
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + block(b"IHDR", header, wrong)
        + block(b"IDAT", zlib.compress(rows_))
        + block(b"IEND", b"")
    )


def jpeg_2000_of_16_bits(**options):
    raw = bytearray(written("JPEG2000", **options)())
    at = raw.index(b"\xff\x4f\xff\x51") + 42
    raw[at], raw[at + 3], raw[at + 6] = 15, 15, 15
    return bytes(raw)


ODD_IMAGES = {  # under the name of a PNG
    "PostScript": (written("EPS"), UNKNOWN),
    "PDF": (written("PDF"), UNKNOWN),
    "icon": (written("ICO"), UNKNOWN),
    "PCX": (written("PCX"), UNKNOWN),
    "TGA": (written("TGA"), UNKNOWN),
    "DDS": (written("DDS"), UNKNOWN),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", UNKNOWN),
    "16-bit JPEG 2000": (jpeg_2000_of_16_bits, "more than 8 bits per channel (16 bits)"),
    "16-bit SGI": (written("SGI", bpc=2), "more than 8 bits per channel (SGI16)"),
    "16-bit colour PNG": (lambda: png_of(24, 24, bits=16), "more than 8 bits per channel (RGB;16B); convert"),
    "16-bit grey PNG with transparency": (lambda: png_of(24, 24, bits=16, kind=4), "more than 8 bits per channel"),
    "16-bit colour PNG with transparency": (lambda: png_of(24, 24, bits=16, kind=6), "more than 8 bits per channel"),
    "JPEG 2000 cut": (lambda: written("JPEG2000")()[:150], UNREAD),
    "AVIF cut": (lambda: written("AVIF")()[:-60], UNREAD),
    "GIF of many frames, cut": (
        lambda: written("GIF", save_all=True, append_images=[Image.new("RGB", (24, 24), "blue")] * 3)()[:40],
        UNREAD,
    ),
    "PNG of no pixels": (lambda: png_of(0, 0), UNREAD),
    "PNG with a wrong checksum": (lambda: png_of(24, 24, wrong=1), UNREAD),
    "PNG with half its rows": (lambda: png_of(24, 24, data=bytes(500)), UNREAD),
    "PNG whose pixels are no zlib stream": (
        lambda: png_of(24, 24).replace(zlib.compress(bytes(24 * 73)), bytes(len(zlib.compress(bytes(24 * 73))))),
        UNREAD,
    ),
    "PNG of four thousand million pixels": (lambda: png_of(65500, 65500, data=b""), UNREAD),
    "TIFF whose directory is outside": (b"II*\0" + struct.pack("<I", 10**6) + bytes(100), UNREAD),
    "TIFF of no size": (b"II*\0\x08\0\0\0" + struct.pack("<H", 0) + bytes(40), UNREAD),
    "BMP of an absurd width": (
        b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 2**30, 2**30, 1, 24, 0) + bytes(60),
        UNREAD,
    ),
    "PPM of words": (b"P6 a b 255\n" + bytes(50), UNREAD),
    "PPM of a colour too many": (b"P6 24 24 99999\n" + bytes(50), UNREAD),
    "JPEG without its tables": (b"\xff\xd8\xff\xc0\0\x11\x08\0\x18\0\x18\3\1\x11\0\2\x11\1\3\x11\1\xff\xd9", UNREAD),
}


def with_image_of(content):
    def make(root):
        (good(root) / "train/ant/9.png").write_bytes(content() if callable(content) else content)

    return make


TREES = {
    "nothing": ([], "needs train/<class>/"),
    "one class": (["ant"], "at least two classes; found ant"),
    "one class in parts": (["train/ant", "test/ant"], "at least two classes"),
    "flat": (["train", "test"], "no class folders in it"),
    "flat in images": (["train/images", "test/images"], "no class folders in it"),
    "train flat": (["train", "test/ant", "test/bee"], "train: no class folders in it"),
    "no train": (["test/ant", "test/bee"], "no train folder"),
    "only val and test": (["val/ant", "test/ant"], "no train folder"),
    "class without a test folder": (["train/1", "train/2", "test/1"], "no folder for class 2"),
    "class without a train folder": (
        ["train/1", "train/2", "test/1", "test/2", "test/3"],
        "train part has no folder for class 3",
    ),
    "class without a val folder": (["train/1", "train/2", "test/1", "test/2", "val/2"], "no folder for class 1"),
    "other case": (["train/A", "train/b", "test/a", "test/b"], "differs in case"),
    "zeros": (["train/1", "train/2", "test/01", "test/02"], "zeros"),
    "accents": (["train/caf\u00e9", "train/b", "test/cafe\u0301", "test/b"], "accents' form"),
    "two trains": (["train/a", "train/b", "Training/a", "Training/b"], "Say which it is"),
    "two tests": (["train/a", "train/b", "test/a", "test/b", "testing/a", "testing/b"], "Say which it is"),
    "two vals": (["train/a", "train/b", "val/a", "val/b", "dev/a", "dev/b"], "Say which it is"),
    "sets side by side": (["day/a", "day/b", "night/a", "night/b"], "Say which it is"),
    "sets with parts": (["x/train/a", "x/test/a", "y/train/a", "y/test/a"], "Say which it is"),
    "masks": (["a/images", "a/masks", "b/images", "b/masks"], "Say which it is"),
    "folds": (["fold1/a", "fold1/b", "fold2/a", "fold2/b"], "Say which it is"),
    "folds alone": (["fold1", "fold2", "fold3"], "numbered like folds"),
    "folds in train": (["train/f1/a", "train/f1/b", "train/f2/a", "train/f2/b", "test/a", "test/b"], "Say which it is"),
    "test beside classes": (["ant", "bee", "test"], "Say which it is"),
    "val beside classes": (["ant", "bee", "validation"], "Say which it is"),
    "train beside classes": (["ant", "bee", "train/x", "train/y"], "Say which it is"),
    "part in one class": (["ant/train", "ant/test", "bee"], "Say which it is"),
    "part deep in a class": (["ant/x/train", "bee/y"], "Say which it is"),
    "part lacking in a class": (["ant/train", "ant/test", "bee/train"], "no folder for class bee"),
    "nested classes": (["ant/2019", "bee/2019", "ant/2020", "bee/2020"], "Say which it is"),
}
FORMS = {
    **{f"image: {kind}": (with_file("train/ant/1.png", x), f"1.png: {says}") for kind, (x, says) in NOT_IMAGES.items()},
    **{
        f"cut {ending} at {share}": (with_cut(ending, share), f"9.{ending}: cannot be read as an image")
        for ending in ("png", "jpg", "bmp", "tif", "webp", "ppm")
        for share in (0.05, 0.5, 0.9)
    },
    **{f"tree: {kind}": (with_folders(*folders), says) for kind, (folders, says) in TREES.items()},
    **{f"image: {kind}": (with_image_of(made), f"9.png: {says}") for kind, (made, says) in ODD_IMAGES.items()},
    "empty class of one part": (lambda root: (good(root, "ant", "bee") / "dog").mkdir(), "class dog has no images"),
    "empty class": (lambda root: (good(root) / "train" / "cat").mkdir(), "no folder for class cat"),
    "grey 16 bit png": (with_image("train/ant/9.png", Image.new("I;16", (8, 8))), "more than 8 bits"),
    "grey 16 bit png, to colour": (
        lambda root: (Image.new("I;16", (8, 8)).save(good(root) / "train/ant/9.png"), ("--channels", "3"))[1],
        "9.png: more than 8 bits",
    ),
    "grey 16 bit tif": (with_image("train/ant/9.tif", Image.new("I;16", (8, 8))), "more than 8 bits"),
    "float tif": (with_image("train/ant/9.tif", Image.new("F", (8, 8))), "more than 8 bits"),
    "32 bit tif": (with_image("train/ant/9.tif", Image.new("I", (8, 8))), "more than 8 bits"),
    "16 bit pgm": (with_file("train/ant/9.pgm", b"P5 2 2 65535\n" + bytes(8)), "more than 8 bits"),
    "RGBA": (
        with_image("train/ant/9.png", Image.new("RGBA", (8, 8))),
        "1 images are RGBA; pass --channels 1 or --channels 3 to convert all (what is transparent becomes white)",
    ),
    "grey and alpha": (with_image("train/ant/9.png", Image.new("LA", (8, 8))), "pass --channels 1 or --channels 3"),
    "clear gif": (
        with_image("train/ant/9.gif", Image.new("P", (8, 8)), transparency=0),
        "pass --channels 1 or --channels 3",
    ),
    "clear png": (
        with_image("train/ant/9.png", Image.new("RGB", (8, 8)), transparency=(0, 0, 0)),
        "pass --channels 1 or --channels 3",
    ),
    "grey among colour": (with_image("train/ant/9.png", Image.new("L", (8, 8))), "mixed channels"),
    "colour test, grey train": (
        lambda root: [Image.new("L", (8, 8)).save(f) for f in (good(root) / "train").rglob("*.png")],
        "set (test): images have 3 channels; set has 1",
    ),
    "dead link": (with_link("train/ant/9.png", "/nowhere/9.png"), "a link to /nowhere/9.png, which is not there"),
    "dead link of git annex": (with_link("train/ant/9.png", "../.git/annex/objects/9.png"), "git annex get"),
    "dead link to a folder": (with_link("train/cat", "/nowhere"), "train/cat: a link to /nowhere, which is not there"),
    "link to itself": (with_link("train/ant/9.png", "9.png"), "9.png: a link to 9.png that cannot be followed"),
    "link between classes": (
        with_link("train/ant/9.png", "../bee/0.png"),
        "are one file: it can have one class in one part; remove the link",
    ),
    "link from test to train": (with_link("test/ant/9.png", "../../train/ant/0.png"), "are one file"),
    "class linked twice": (with_link("train/bee/more", "../ant"), "are one file"),
    "test linked to train": (
        lambda root: [shutil.rmtree(good(root) / "test"), (root / "test").symlink_to("train")],
        "are one file",
    ),
    "zip: empty file": (packed(lambda raw: b""), "the file is empty"),
    "zip: pointer": (packed(lambda raw: POINTER), "git lfs pull"),
    "zip: page": (packed(lambda raw: PAGE), "a web page"),
    "zip: text": (packed(lambda raw: b"hello"), "truncated or damaged"),
    **{
        f"zip: cut at {share}": (packed(lambda raw, s=share: raw[: int(s * len(raw))]), "truncated or damaged")
        for share in (0.01, 0.3, 0.6, 0.9, 0.99)
    },
    "zip: flipped": (packed(lambda raw: raw[:700] + bytes([raw[700] ^ 255]) + raw[701:]), "truncated or damaged"),
    "zip: password": (packed(patched(6, 1)), "protected by a password"),
    "zip: Deflate64": (packed(patched(8, 9)), "packed with Deflate64"),
    "zip: method 99": (packed(patched(8, 99)), "packed with method 99"),
    "zip: outside": (packed(names=["../a.png"]), "would write outside its folder"),
    "zip: absolute": (packed(names=["/etc/a.png"]), "would write outside its folder"),
    "zip: backslashes outside": (packed(names=["..\\..\\a.png"]), "would write outside its folder"),
    "zip: twice": (packed(names=["ant/0.png"]), "holds ant/0.png twice"),
    "zip: flat": (packed(names=["0.png", "1.png", "2.png", "3.png"]), "needs train/<class>/"),
    "zip: one class": (packed(folders=["ant"]), "at least two classes"),
    "zip: side by side": (packed(folders=["day/a", "day/b", "night/a", "night/b"]), "Say which it is"),
    "tar: flat": (tarred("tar"), "needs train/<class>/"),
    "tar: cut": (tarred("tar", lambda raw: raw[:1500]), "truncated or damaged"),
    "tar: text": (tarred("tar", lambda raw: b"hello"), "truncated or damaged"),
    "tar: pointer": (tarred("tar", lambda raw: POINTER), "git lfs pull"),
    "tar: page": (tarred("tar", lambda raw: PAGE), "a web page"),
    "tar: empty": (tarred("tar", lambda raw: b""), "the file is empty"),
    "tar: outside": (tarred("tar", name="../a.png"), "would write outside its folder"),
    "tar: link outside": (tarred("tar", kind=tarfile.SYMTYPE), "would write outside its folder"),
    "tar: device": (tarred("tar", kind=tarfile.CHRTYPE), "would write outside its folder"),
    "tgz: cut": (tarred("tgz", lambda raw: raw[:900]), "truncated or damaged"),
    "tgz: head": (tarred("tgz", lambda raw: raw[:20]), "truncated or damaged"),
    "tgz: page": (tarred("tgz", lambda raw: PAGE), "a web page"),
    "tgz: flipped": (tarred("tgz", lambda raw: flipped(raw, 1000)), "truncated or damaged"),
    "tgz: a zip": (tarred("tgz", lambda raw: zipped([("ant/0.png", b"")])), "at least two classes; found ant"),
    "tgz: inside a tgz": (tarred("tgz", name="set.tgz"), "needs train/<class>/"),
    "tar: hard link outside": (tarred("tar", kind=tarfile.LNKTYPE), "would write outside its folder"),
    "tar: pipe": (tarred("tar", kind=tarfile.FIFOTYPE), "would write outside its folder"),
    "tar: a table": (tarred("tar", name="labels.csv"), "labels in a table are not read"),
    "tar.bz2: cut": (tarred("tar.bz2", lambda raw: raw[:700]), "truncated or damaged"),
    "tar.xz: cut": (tarred("tar.xz", lambda raw: raw[:700]), "truncated or damaged"),
    "tar.xz: flipped": (tarred("tar.xz", lambda raw: flipped(raw, 700)), "truncated or damaged"),
    "zip: nothing": (packed(lambda raw: zipped([])), "needs train/<class>/"),
    "zip: inside a zip": (packed(lambda raw: zipped([("set.zip", raw)])), "give the path of the archive itself"),
    "zip: labels in a table": (packed(names=["a.csv", "b.csv", "c.csv", "d.csv"]), "labels in a table are not read"),
    "zip: images cut": (packed(lambda raw: zipped([(f"{c}/{i}.png", raw[:9]) for c in "ab" for i in "123"])), UNKNOWN),
    "zip: checksum": (packed(lambda raw: flipped(raw, raw.rfind(b"PK\1\2") + 16)), "truncated or damaged"),
    "zip: a name too long": (packed(names=["ant/" + "a" * 300 + ".png"]), "set.zip"),
    "zip: a tar": (packed(lambda raw: bytes(257) + b"ustar" + bytes(762)), "truncated or damaged"),
    "archive: 7z": (lambda root: root.with_suffix(".7z").write_bytes(b"7z\xbc\xaf"), "a .zip or .tar of one"),
    "archive: rar": (lambda root: root.with_suffix(".rar").write_bytes(b"Rar!"), "a .zip or .tar of one"),
    "archive: one gzip file": (lambda root: root.with_suffix(".gz").write_bytes(b"\x1f\x8b"), "a .zip or .tar of one"),
    "array alone": (lambda root: np.save(root.with_suffix(".npy"), np.zeros((4, 8, 8), np.uint8)), "give an .npz"),
    "table in text": (lambda root: root.with_suffix(".csv").write_text("a,b\n"), "not an .npz or .parquet file"),
    "HDF5 file": (lambda root: root.with_suffix(".h5").write_bytes(b"\x89HDF"), "not an .npz or .parquet file"),
    "one image": (lambda root: picture(root.with_suffix(".png")), "not an .npz or .parquet file"),
    "labels in a table": (
        lambda root: (picture(root / "0.png"), (root / "labels.csv").write_text("0\n"))[:0],
        "labels in a table",
    ),
    "archives in a folder": (lambda root: (root / "train.zip").write_bytes(b""), "give the path of the archive itself"),
    "shards": (lambda root: (root / "shard-000.tar").write_bytes(b""), "give the path of the archive itself"),
    "arrays in a folder": (lambda root: (root / "train.npz").write_bytes(b""), "give the path of the file itself"),
    "endings that are not read": (
        lambda root: [(good(root) / "train/cow").mkdir(), (root / "train/cow/1.heic").write_bytes(b"x")][:0],
        "class cow",
    ),
    "class not in UTF-8": (not_utf8, "no folder for class"),
    "sixty-five folders deep": (
        lambda root: (root / "/".join("a" * 66)).mkdir(parents=True),
        "more than 64 folders deep",
    ),
    "tables beside classes": (with_file("train/ant/t.parquet", b"PAR1"), "truncated or damaged"),
    **{
        f"choice: {' '.join(words)}": (lambda root, w=words: (good(root), w)[1], says)
        for words, says in {
            ("--split", "train"): "--split 'train': write part=folder, as in --split train=day,dusk --split test=night",
            ("--split", "learn=train"): "--split learn=train: give the folders of each part: --split train=a --split",
            ("--split", "train="): "give the folders of each part",
            ("--split", "test=train"): "name the folders of the train part",
            ("--split", "train=nothing"): "no class folders",
            ("--split", "train=*/*"): "more than one *",
            ("--split", "train=../set/train"): "no class folders",
            ("--split", "train=train", "--split", "test=train"): "are one file",
            ("--split", "train=train", "--classes", "ant,cow"): "no folder for class cow",
            ("--classes", "ant,cow"): "no folder for class cow; it has ant, bee",
            ("--classes", ""): "--classes '': give a list of folder names",
            ("--classes", '["ant", '): '["ant", : begins like a list; write ["a, b", "c"] as JSON',
            ("--classes", "train,train"): "stands there twice",
            ("--classes", "train"): "at least two classes",
            ("--channels", "2"): "--channels 2: give 1 (grey) or 3 (colour)",
            ("--resolution", "0"): "resolution 0",
            ("--resolution", "100000"): "resolution 100000",
        }.items()
    },
}


X, Y = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10
PICKLE = b"\x80\x04\x95\x00"
SETS = {  # content -> a word of the line that refuses it as a distilled set
    "labels one short": ({"images": X, "labels": Y[1:]}, "labels (19,)"),
    "labels out of range": ({"images": X, "labels": Y + 1}, "classes 0..9; subtract 1"),
    "labels absurd": ({"images": X, "labels": Y * 10**15}, "classes 0..9"),
    "labels negative": ({"images": X, "labels": Y - 1}, "labels -1..8"),
    "labels broken": ({"images": X, "labels": Y + 0.5}, "expected (20,) classes"),
    "labels that are no number": ({"images": X, "labels": Y * float("nan")}, "expected (20,) classes"),
    "labels with too many classes": ({"images": X, "labels": torch.rand(20, 11)}, "(20, 10) soft labels"),
    "soft labels infinite": ({"images": X, "soft_labels": torch.rand(20, 10) / 0}, "NaN or infinite"),
    "labels twice": ({"images": X, "one": Y, "two": Y.clone()}, "one (20,), two (20,)"),
    "no labels but something": ({"images": X, "momentum": torch.rand(3)}, "momentum (3,)"),
    "images twice": ({"first": X, "second": X.clone(), "labels": Y}, "several could be the images"),
    "images of no class": ({"images": X[:19]}, "19 images without labels"),
    "images too small": ({"images": X[..., :4], "labels": Y}, "has (N, 1, 8, 8)"),
    "images in colour": ({"images": X.expand(20, 3, 8, 8).clone(), "labels": Y}, "has (N, 1, 8, 8)"),
    "images without pixels": ({"images": X[:, :, :0], "labels": Y}, "has (N, 1, 8, 8)"),
    "images that are none": ({"images": Y, "labels": Y.clone()}, "has (N, 1, 8, 8)"),
    "no images": ({"labels": Y}, "expected images under one of"),
    "nothing": ({"nothing": torch.zeros(0)}, "expected images under one of"),
    "images yes or no": ({"images": X > 0.5, "labels": Y}, "torch.bool"),
    "images above 255": ({"images": (X * 900).int(), "labels": Y}, "expected uint8 pixels or floats"),
    "images of -1 to 1": ({"images": X * 2 - 1, "labels": Y}, "--signed"),
    "images of 0 to 255": ({"images": X * 255, "labels": Y}, "--bytes"),
    "images of no scale": ({"images": X * 900 - 450, "labels": Y}, "may be none of"),
    "images not a number": ({"images": X / 0, "labels": Y}, "NaN or infinite"),
    "four classes of ten": ({"images": X[:20].view(4, 5, 1, 8, 8)}, "10 classes need (10, ipc)"),
}
TORCH_SETS = {
    "a text": ("text", "holds a str"),
    "a list of text": (["a", "b"], "images are (2,)"),
    "three tensors of images": ([X, X, X], "a list of 3 tensors"),
    "a tensor of nothing": (torch.zeros(0), "images are (0,)"),
    "sparse images": ({"images": X.to_sparse(), "labels": Y}, "sparse or repeats its own memory"),
    "one image a million times": ({"images": X[:1].expand(10**6, 1, 8, 8), "labels": Y}, "repeats its own memory"),
    "complex images": ({"images": X + 1j, "labels": Y}, "complex64"),
    "complex labels": ({"images": X, "labels": Y + 1j}, "expected (20,) classes"),
    "a module": (torch.nn.Linear(2, 2), "files that hold code are never run"),
    "numpy's arrays": ({"images": X.numpy(), "labels": Y.numpy()}, "files that hold code are never run"),
    "labels in words that are no class": ([X, ["zero"] * 20], "labels -1..-1"),
    "classes that do not exist": ({10: X, 11: X}, "labels 10..11"),
}
RAW = {
    "a pointer": (POINTER, "git lfs pull"),
    "a page": (PAGE, "a web page"),
    "empty": (b"", "empty"),
    "a pickle": (PICKLE, "it is a Python pickle, which may hold code and is never run"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "an HDF5 file"),
}
HEADER = {"images": {"dtype": "F32", "shape": [20, 1, 8, 8], "data_offsets": [0, 5120]}}
LABEL_HEADER = {"labels": {"dtype": "I64", "shape": [20], "data_offsets": [5120, 5280]}}


def tensors(header, size=5280, length=None):
    """A safetensors file with this header, and `size` bytes of zeros."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + bytes(size)


SAFETENSORS = {
    "length beyond the file": (tensors(HEADER | LABEL_HEADER, length=10**6), "not a readable safetensors file"),
    "length of 2^60": (tensors(HEADER | LABEL_HEADER, length=2**60), "not a readable safetensors file"),
    "length of nothing": (tensors(b"", length=0), "not a readable safetensors file"),
    "cut in the length": (b"\x10\0\0", "not a readable safetensors file"),
    "header that is no JSON": (tensors(b"{images: 1}"), "not a readable safetensors file"),
    "header that is a list": (tensors([1, 2]), "not a readable safetensors file"),
    "header not UTF-8": (tensors(b'{"\xff": 1}'), "not a readable safetensors file"),
    "unknown type": (tensors({"images": HEADER["images"] | {"dtype": "F99"}}), "not a readable safetensors file"),
    "negative shape": (tensors({"images": HEADER["images"] | {"shape": [-20, 1, 8, 8]}}), "not a readable"),
    "shape of more than its bytes": (
        tensors({"images": HEADER["images"] | {"shape": [21, 1, 8, 8]}}),
        "not a readable",
    ),
    "offsets outside": (tensors(HEADER | LABEL_HEADER, size=100), "not a readable safetensors file"),
    "offsets that overlap": (
        tensors(HEADER | {"labels": LABEL_HEADER["labels"] | {"data_offsets": [0, 160]}}),
        "not a readable safetensors file",
    ),
    "offsets backwards": (tensors({"images": HEADER["images"] | {"data_offsets": [5120, 0]}}), "not a readable"),
    "bytes left over": (tensors(HEADER | LABEL_HEADER, size=6000), "not a readable safetensors file"),
    "no tensors": (tensors({}, size=0), "expected images under one of"),
    "facts missing": (
        tensors({"__metadata__": {"format": "distill_lib.ImageSet/1"}, **HEADER | LABEL_HEADER}),
        "cannot be read as an ImageSet ('facts')",
    ),
    "facts damaged": (
        tensors({"__metadata__": {"format": "distill_lib.ImageSet/1", "facts": "{"}, **HEADER | LABEL_HEADER}),
        "cannot be read as an ImageSet",
    ),
    "facts of another kind": (
        tensors({"__metadata__": {"format": "distill_lib.ImageSet/1", "facts": '{"a": 1}'}, **HEADER | LABEL_HEADER}),
        "cannot be read as an ImageSet",
    ),
    "format of the future": (
        tensors({"__metadata__": {"format": "distill_lib.ImageSet/9"}, **HEADER | LABEL_HEADER}),
        "not an ImageSet",
    ),
}


def zipped(members, **options):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def array(head, body=bytes(64), version=(1, 0)):
    """An array in numpy's format, whose header is written by hand."""
    text = (head if isinstance(head, str) else repr(head)).encode() + b"\n"
    return npy.magic(*version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text + body


def member(name, head, **options):
    return zipped([(name, array(head, **options))])


def described(shape, kind="<f4", **more):
    return {"descr": kind, "fortran_order": False, "shape": shape, **more}


def saved(**content):
    out = io.BytesIO()
    np.savez(out, **content)
    return out.getvalue()


PLAIN = "cannot be read as plain arrays"
NPZ = {
    "larger than any memory": (member("images.npy", described((10**12, 1, 8, 8))), f"{PLAIN} (an array of"),
    "negative shape": (member("images.npy", described((-5, 1, 8, 8))), f"{PLAIN} (an array of"),
    "shape that is no number": (member("images.npy", described(("a", 1))), PLAIN),
    "fewer bytes than the header says": (member("images.npy", described((4, 1, 8, 8))), PLAIN),
    "more bytes than the header says": (member("images.npy", described((1, 1, 2, 2))), PLAIN),
    "header that is code": (member("images.npy", "__import__('os').system('touch ran')"), PLAIN),
    "header without a shape": (member("images.npy", {"descr": "<f4"}), PLAIN),
    "header with a key too many": (member("images.npy", described((1, 1, 4, 4), more=1)), PLAIN),
    "unknown type": (member("images.npy", described((1, 1, 4, 4), kind="<q99")), PLAIN),
    "numpy's format 9": (member("images.npy", described((1, 1, 4, 4)), version=(9, 0)), PLAIN),
    "Python objects": (member("images.npy", described((8,), kind="|O")), "images holds Python objects"),
    "a member that is no array": (member("images.npy", "")[:30], PLAIN),
    "no member": (b"PK\5\6" + bytes(18), "expected images under one of"),
    "dates": (saved(images=np.zeros((20, 1, 8, 8), "M8[s]"), labels=Y.numpy()), "expected images under one of"),
    "records": (saved(images=np.zeros((20, 1, 8, 8), "f4,i4"), labels=Y.numpy()), "expected images under one of"),
    "words": (saved(images=np.full((20, 1, 8, 8), "a"), labels=Y.numpy()), "images"),
    "complex numbers": (saved(images=X.numpy() * 1j, labels=Y.numpy()), "expected images under one of"),
    "a zip of images": (lambda: zipped([("ant/0.png", png(0))]), "expected images under one of"),
    "a password": (lambda: patched(6, 1)(saved(images=X.numpy(), labels=Y.numpy())), PLAIN),
    "Deflate64": (lambda: patched(8, 9)(saved(images=X.numpy(), labels=Y.numpy())), PLAIN),
    "a flipped byte": (lambda: flipped(saved(images=X.numpy(), labels=Y.numpy()), 2000), "truncated or damaged"),
}


NPY = {
    "larger than any memory": (array(described((10**12, 1, 8, 8))), PLAIN),
    "Python objects": (array(described((8,), kind="|O")), "holds Python objects"),
    "header that is code": (array("__import__('os').system('touch ran')"), PLAIN),
    "cut in its header": (array(described((1, 1, 4, 4)))[:20], PLAIN),
    "an .npz": (lambda: saved(images=X.numpy(), labels=Y.numpy()), PLAIN),
}


def flipped(raw, at):
    return raw[:at] + bytes([raw[at] ^ 255]) + raw[at + 1 :]


def torch_file(change=lambda members: members):
    """What torch.save writes, with its members in the archive changed."""
    out = io.BytesIO()
    torch.save({"images": X, "labels": Y}, out)
    with zipfile.ZipFile(io.BytesIO(out.getvalue())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return zipped(change(members).items())


def without(part):
    return lambda: torch_file(lambda members: {k: v for k, v in members.items() if part not in k})


def script():
    out = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), out)
    return out.getvalue()


def quantised():
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will drop these numbers
        torch.save({"images": torch.quantize_per_tensor(X, 0.1, 0, torch.quint8), "labels": Y}, out)
    return out.getvalue()


TENSORS = "cannot be read as plain tensors"
PT = {
    "no pickle in it": (without("data.pkl"), TENSORS),
    "no storage in it": (without("data/0"), TENSORS),
    "a storage cut short": (
        lambda: torch_file(lambda m: {k: v[:100] if "data/0" in k else v for k, v in m.items()}),
        TENSORS,
    ),
    "a pickle cut short": (
        lambda: torch_file(lambda m: {k: v[:40] if "data.pkl" in k else v for k, v in m.items()}),
        TENSORS,
    ),
    "a script": (script, TENSORS),
    "a zip of images": (lambda: zipped([("ant/0.png", png(0))]), TENSORS),
    "a flipped byte": (lambda: flipped(torch_file(), 200), TENSORS),
    "an .npz": (lambda: saved(images=X.numpy(), labels=Y.numpy()), TENSORS),
    "a picture": (lambda: png(0), "it is a PNG image"),
    "quantised images": (quantised, "expected uint8 pixels or floats"),
    "a gzip archive": (b"\x1f\x8b" + bytes(30), "a gzip archive"),
    "text": (b"hello", TENSORS),
}
TORCH_SETS |= {
    "weights of a network": (torch.nn.Linear(2, 2).state_dict(), "expected images under one of"),
    "a number": (3, "holds a int"),
    "none": (None, "holds a NoneType"),
    "an empty list": ([], "holds a list"),
    "labels alone": (Y, "images are (20,)"),
    "images that need a device": ({"images": X.to("meta"), "labels": Y}, "sparse or repeats its own memory"),
    "sets of unequal length": ([[X, Y[:3]], [X, Y]], "beside 20 images it has labels (3,)"),
    "a class twice": ({"0": X, "00": X}, "two of its tensors are one class: 0, 00"),
}
SETS_OF = {
    ".npz": {**SETS, **RAW, **NPZ},
    ".npy": {**RAW, **NPY},
    ".pt": {**SETS, **TORCH_SETS, **RAW, **PT},
    ".pth": {"a pointer": RAW["a pointer"], "text": PT["text"]},
    ".safetensors": {**SETS, **RAW, **SAFETENSORS},
    ".csv": {"a table": (b"0,1\n", "cannot read .csv"), "a pointer": RAW["a pointer"]},
    ".mat": {"MATLAB's": (b"MATLAB 5.0 MAT-file", "cannot read .mat")},
    ".h5": {"HDF5": (RAW["HDF5"][0], "cannot read .h5")},
    ".pkl": {"a pickle": (PICKLE, "cannot read .pkl")},
    "": {"no ending": (b"hello", "a file without an ending")},
}


def distilled(ending, content):
    def make(place):
        file, made = (place / f"set{ending}", content() if inspect.isfunction(content) else content)
        if isinstance(made, bytes):
            file.write_bytes(made)
        elif ending == ".npz":
            np.savez(file, **{k: v.numpy() for k, v in made.items()})
        elif ending == ".pt":
            torch.save(made, file)
        else:
            safetensors_torch.save_file({k: v.contiguous() for k, v in made.items()}, file)
        return "evaluate", str(file), "--dataset", "digits", "--pixels", "--protocol", "vico_noaug@1ep"

    return make


def class_images(*names, image=lambda: Image.new("L", (8, 8)), ending="png"):
    def make(place):
        for name in names:
            (place / "set" / name).mkdir(parents=True)
            image().save(place / "set" / name / f"0.{ending}")
        return "evaluate", str(place / "set"), "--dataset", "digits"

    return make


DIGITS = [str(k) for k in range(10)]
SET_FOLDERS = {
    "nine of ten classes": (class_images(*DIGITS[:9]), "no folder for 1 of 10 classes: 9; name the folders after"),
    "eleven classes": (class_images(*DIGITS, "ten"), "ten is no class of digits"),
    "one number twice": (
        class_images("c01", *(f"c{k}" for k in range(10))),
        "c0, c01, c1, c2, c3: two folders have the same number; rename or join them",
    ),
    "numbers from 5": (class_images(*(f"c{k + 5}" for k in range(10))), "no folder for 10 of 10 classes"),
    "other letters before each number": (class_images(*(f"{'ab'[k % 2]}{k}" for k in range(10))), "or class000"),
    "a folder around it": (class_images(*(f"out/{k}" for k in range(10))), "perhaps you mean"),
    "transparent": (class_images(*DIGITS, image=lambda: Image.new("LA", (8, 8))), "10 images have transparent parts"),
    "16 bits": (class_images(*DIGITS, image=lambda: Image.new("I;16", (8, 8))), "more than 8 bits per channel"),
    "images of no kind that is read": (class_images(*DIGITS, ending="pcx"), "no images of class 0"),
    "normalised": (lambda place: (*class_images(*DIGITS)(place), "--normalised"), "image files hold pixels"),
    "signed": (lambda place: (*class_images(*DIGITS)(place), "--signed"), "image files hold pixels"),
    "empty": (
        lambda place: ((place / "set").mkdir(), "evaluate", str(place / "set"), "--dataset", "digits")[1:],
        "10 of 10",
    ),
}


PIXELS, LABELS = (X * 255).to(torch.uint8)[:, 0].numpy(), (Y % 2).numpy()
OWN = {  # arguments of numpy.savez, or bytes -> a word of the line
    "keys": ({"pictures": PIXELS, "labels": LABELS}, "has the keys labels, pictures; needs train_images"),
    "only a test part": ({"test_images": PIXELS, "test_labels": LABELS}, "holds test; a train part is needed"),
    "floats": ({"images": PIXELS / 255, "labels": LABELS}, "save them as uint8"),
    "no pixels": ({"images": PIXELS[:, :0], "labels": LABELS}, "images have shape (20, 0, 8); needed (N, H, W)"),
    "channels": ({"images": np.stack([PIXELS] * 2, -1), "labels": LABELS}, "1 or 3 channels"),
    "short": ({"images": PIXELS, "labels": LABELS[1:]}, "one whole number for each of 20 images"),
    "broken": ({"images": PIXELS, "labels": LABELS + 0.5}, "one whole number for each"),
    "text": ({"images": PIXELS, "labels": LABELS.astype(str)}, "one whole number for each"),
    "objects": ({"images": PIXELS, "labels": LABELS.astype(object)}, "labels holds Python objects"),
    "negative": ({"images": PIXELS, "labels": LABELS - 1}, "labels run from -1 to 0"),
    "absurd": ({"images": PIXELS, "labels": LABELS * 10**12}, "labels run from 0 to 1000000000000"),
    "large": ({"images": PIXELS, "labels": LABELS * 10**8}, "labels run from 0 to 100000000 in 20 images; needed 0"),
    "above 2^63": ({"images": PIXELS, "labels": LABELS.astype(np.uint64) + 2**63}, "labels run from 92233720"),
    "from one": ({"images": PIXELS, "labels": LABELS + 1}, "labels run from 1 to 2; numbers of classes begin at 0"),
    "one name": ({"images": PIXELS, "labels": LABELS, "classes": np.array("ant")}, "classes has shape ()"),
    "names as objects": (
        {"images": PIXELS, "labels": LABELS, "classes": np.array(["a", "b"], dtype=object)},
        "classes holds Python objects",
    ),
    "fewer names than classes": (
        {"images": PIXELS, "labels": Y.numpy() % 4, "classes": np.array(["a", "b"])},
        "labels run from 0 to 3; the set has 2 classes",
    ),
    "few names": ({"images": PIXELS, "labels": LABELS, "classes": np.array(["ant"])}, "at least two classes"),
    "names twice": ({"images": PIXELS, "labels": LABELS, "classes": np.array(["a", "a"])}, "names 'a' twice"),
    "pointer": (POINTER, "cannot be read as plain arrays (a Git LFS pointer, not the file itself; run: git lfs pull)"),
    "page": (PAGE, "cannot be read as plain arrays (a web page"),
    "empty": (b"", "cannot be read as plain arrays (the file is empty)"),
    "cut": (b"PK\x03\x04", "cannot be read as plain arrays (it is a zip archive, cut short"),
    "HDF5": (RAW["HDF5"][0], "cannot be read as plain arrays (it is an HDF5 file"),
}


OWN |= {
    "only a validation part": ({"val_images": PIXELS, "val_labels": LABELS}, "a train part is needed"),
    "a class of the test part alone": (
        {"train_images": PIXELS, "train_labels": LABELS, "test_images": PIXELS, "test_labels": LABELS * 2},
        "class 2 (2) has no images",
    ),
    "a test part in other channels": (
        {"x_train": PIXELS, "y_train": LABELS, "x_test": np.stack([PIXELS] * 3, -1), "y_test": LABELS},
        "images have 3 channels",
    ),
    "one class": ({"images": PIXELS, "labels": LABELS * 0}, "at least two classes"),
    "a class that is left out": ({"images": PIXELS, "labels": LABELS * 2}, "class 1 (1) has no images"),
    "a class of one image": (
        {"images": PIXELS, "labels": (np.arange(20) > 0) * 1},
        "cannot hold out 1 images of class 0",
    ),
    "no images": ({"images": PIXELS[:0], "labels": LABELS[:0]}, "no images"),
    "one name too many": ({"images": PIXELS, "labels": LABELS, "classes": np.array(["a", "b", "c"])}, "class 2 (c)"),
    "one hot": ({"images": PIXELS, "labels": np.eye(2)[LABELS]}, "one whole number for each"),
    "flat images": ({"images": PIXELS.reshape(20, 64), "labels": LABELS}, "needed (N, H, W)"),
    "five axes": ({"images": PIXELS[None, :, None], "labels": LABELS}, "needed (N, H, W)"),
    "signed bytes": ({"images": PIXELS.astype(np.int8), "labels": LABELS}, "save them as uint8"),
    "16 bits": ({"images": PIXELS.astype(np.uint16), "labels": LABELS}, "save them as uint8"),
    "words in place of images": ({"images": np.full((20, 8, 8), "a"), "labels": LABELS}, "save them as uint8"),
    "dates in place of labels": ({"images": PIXELS, "labels": LABELS.astype("M8[D]")}, "one whole number for each"),
    "names in bytes that are no text": (
        {"images": PIXELS, "labels": LABELS, "classes": np.array([b"\xff", b"a"])},
        "UTF-8",
    ),
    "a single array": (lambda: single(PIXELS), "a single array"),
    "a picture": (lambda: png(0), "it is a PNG image"),
    "a tensor file": (lambda: torch_file(), "has the keys (none)"),
    "promises": (NPZ["larger than any memory"][0], "cannot be read as plain arrays"),
    "a password": (NPZ["a password"][0], "cannot be read as plain arrays"),
}


def single(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def arrays_of_your_own(content):
    def make(place):
        made = content() if callable(content) else content
        (place / "own.npz").write_bytes(made if isinstance(made, bytes) else saved(**made))
        return "evaluate", "any.pt", "--dataset", str(place / "own.npz"), "--pixels"

    return make


# --- tables of your own ----------------------------------------------------------------------------------------------
def png(seed, size=(8, 8), mode="RGB"):
    out = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(out, "PNG")
    return out.getvalue()


def deep(kind="JPEG2000"):
    """A grey picture of 16 bits."""
    out = io.BytesIO()
    picture = Image.fromarray(np.full((8, 8), 3000, np.uint16)) if kind != "SGI" else Image.new("RGB", (8, 8))
    picture.save(out, kind, **({"bpc": 2} if kind == "SGI" else {}))
    return out.getvalue()


GOOD = [{"bytes": png(i), "path": None} for i in range(4)]
NO_ROW = {"bytes": None, "path": None}
IMAGES_OF = {  # the second row -> a word of the line
    "null": (None, "row 1: no image (column image is null)"),
    "null fields": (NO_ROW, "row 1: no image (column image is null)"),
    "no bytes": ({"bytes": b"", "path": None}, "row 1: no image (column image is empty)"),
    "a path to nothing": ({"bytes": None, "path": "img/0.png"}, "own/img/0.png, and no such file is there"),
    "an absolute path to nothing": ({"bytes": None, "path": "/nowhere/0.png"}, "and no such file is there"),
    "a path to a folder": ({"bytes": None, "path": ".."}, "and no such file is there"),
    "text": ({"bytes": b"hello", "path": None}, "row 1: cannot be read as an image"),
    "half an image": ({"bytes": png(0)[:100], "path": None}, "row 1: cannot be read as an image"),
    "a pointer": ({"bytes": POINTER, "path": None}, "git lfs pull"),
    "a page": ({"bytes": PAGE, "path": None}, "a web page"),
    "a PostScript program": ({"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n", "path": None}, "not an image of a known kind"),
    "16 bits": ({"bytes": deep("PNG"), "path": None}, "row 1: more than 8 bits per channel"),
    "16 bits in JPEG 2000": ({"bytes": deep(), "path": None}, "row 1: more than 8 bits per channel"),
    "16 bits in JPEG 2000, colour": ({"bytes": jpeg_2000_of_16_bits(), "path": None}, "row 1: more than 8 bits"),
    "16 bits in JPEG 2000, bare": ({"bytes": jpeg_2000_of_16_bits(no_jp2=True), "path": None}, "row 1: more than 8"),
    "16 bits in SGI": ({"bytes": deep("SGI"), "path": None}, "row 1: more than 8 bits per channel"),
    "16 bits in SGI, grey": ({"bytes": written("SGI", Image.new("L", (8, 8)), bpc=2)(), "path": None}, "row 1: more"),
    "floats in TIFF": ({"bytes": written("TIFF", Image.new("F", (8, 8)))(), "path": None}, "row 1: more than 8 bits"),
    "transparency": ({"bytes": png(0, mode="RGBA"), "path": None}, "pass --channels 1 or --channels 3"),
    "grey among colour": ({"bytes": png(0, mode="L"), "path": None}, "mixed channels: "),
}
LABELS_OF = {
    "null": ([0, None, 0, 1], "row 1: no label (column label is null)"),
    "text": (["a", "b", "a", "b"], "column label: holds string; needed whole numbers"),
    "categories": (lambda: pa().array(["a", "b", "a", "b"]).dictionary_encode(), "column label: holds dictionary"),
    "broken numbers": ([0.0, 1.0, 0.0, 1.0], "column label: holds double"),
    "lists": ([[0], [1], [0], [1]], "column label: holds list"),
    "yes and no": ([True, False, True, False], "column label: holds bool"),
    "dates": (lambda: pa().array([0, 1, 0, 1], pa().timestamp("s")), "column label: holds timestamp"),
    "structs": ([{"id": 0}, {"id": 1}, {"id": 0}, {"id": 1}], "column label: holds struct"),
    "absurd": ([0, 1, 0, 2**40], "labels run from 0 to 1099511627776"),
    "above 2^63": (lambda: pa().array([0, 1, 0, 2**63 + 5], pa().uint64()), "labels run from 0 to 9223372036854775813"),
    "large": ([0, 1, 0, 90000], "labels run from 0 to 90000 in 4 images; needed 0, 1, 2, ... without gaps"),
    "from one": ([1, 2, 1, 2], "labels run from 1 to 2; numbers of classes begin at 0: subtract 1"),
    "negative": ([-1, 0, -1, 0], "labels run from -1 to 0"),
    "with a gap": ([0, 2, 0, 2], "class 1 (1) has no images"),
    "one class": ([0, 0, 0, 0], "at least two classes"),
    "one image of a class": ([0, 0, 0, 1], "cannot hold out 1 images of class 1"),
}


def pa():
    import pyarrow

    return pyarrow


def rows(labels=(0, 1, 0, 1), images=GOOD, features=None, **columns):
    arrow = pa()
    struct_ = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    of = {"image": arrow.array(images, struct_)} if images is not None else {}
    table = arrow.table({**of, **({"label": labels} if labels is not None else {}), **columns})
    about = {"huggingface": features if isinstance(features, str) else json.dumps({"info": {"features": features}})}
    return table.replace_schema_metadata(about) if features else table


def in_parquet(table):
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def in_arrow(table):
    out = io.BytesIO()
    with pa().ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    return out.getvalue()


def names_of(*names):
    return {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}


def whole_table():
    return in_parquet(rows())


def two_of_one_name():
    arrow, table = pa(), rows()
    return in_parquet(
        arrow.Table.from_arrays([table["image"], table["image"], table["label"]], ["image", "image", "label"])
    )


TABLES = {  # file name -> content or rows, and a word of the line
    **{
        f"image: {k}": ({"t": lambda row=row: rows(images=[GOOD[0], row, *GOOD[2:]])}, says)
        for k, (row, says) in IMAGES_OF.items()
    },
    **{
        f"labels: {k}": ({"t": lambda y=y: rows(labels=y() if callable(y) else y)}, says)
        for k, (y, says) in LABELS_OF.items()
    },
    "columns: no label": (
        {"t": lambda: rows(labels=None, species=[0, 1, 0, 1])},
        "species (int64); needed one image column and a column `label`",
    ),
    "columns: no image": ({"t": lambda: rows(images=None)}, "needed one image column"),
    "columns: two of images": ({"t": lambda: rows(photo=[b"x"] * 4)}, "needed one image column"),
    "columns: two of one name": ({"t": two_of_one_name}, "needed one image column"),
    "columns: none": ({"t": lambda: pa().table({})}, "needed one image column"),
    "pixels: out of range": (
        {"t": lambda: rows(images=None, image=[[[300, 2]]] * 4)},
        "row 0, column image: a list that is no (H, W)",
    ),
    "pixels: broken numbers": ({"t": lambda: rows(images=None, image=[[[0.5]]] * 4)}, "a list that is no (H, W)"),
    "pixels: ragged": ({"t": lambda: rows(images=None, image=[[[1, 2], [3]]] * 4)}, "a list that is no (H, W)"),
    "pixels: nothing": ({"t": lambda: rows(images=None, image=[[[]]] * 4)}, "a list that is no (H, W)"),
    "pixels: several sizes": (
        {"t": lambda: rows(images=None, image=[[[1]], [[1, 2]], [[1]], [[1]]])},
        "pixel lists of several sizes",
    ),
    "pixels: a list of bytes that is no image": (
        {"t": lambda: rows(images=None, image=[[1, 2]] * 4)},
        "cannot be read as an image",
    ),
    "pixels: a number": ({"t": lambda: rows(images=None, image=[1, 2, 3, 4])}, "row 0: column image holds int64"),
    "pixels: dates": (
        {"t": lambda: rows(images=None, image=pa().array([0, 1, 2, 3], pa().timestamp("s")))},
        "column image holds timestamp",
    ),
    "rows: none": ({"t": lambda: rows(labels=[], images=[])}, "null"),
    "parts: only a test part": ({"test": rows}, "a train part is needed"),
    "parts: only a validation part": ({"validation": rows}, "a train part is needed"),
    "parts: one without a name": ({"train": rows, "other": rows}, "other.parquet names no split beside train"),
    "parts: two sets": ({"a_train": rows, "b_train": rows}, "2 data sets side by side (a_train.parquet, b_"),
    "parts: two configurations": ({"en/train": rows, "de/train": rows}, "2 data sets side by side"),
    "parts: another column in the test part": (
        {"train": rows, "test": lambda: rows(labels=None, species=[0, 1, 0, 1])},
        "test.parquet: has the columns",
    ),
    "parts: other classes in the test part": (
        {"train": lambda: rows(features=names_of("ant", "bee")), "test": lambda: rows(features=names_of("bee", "ant"))},
        "train.parquet: its classes ('ant', 'bee') are not those of",
    ),
    "parts: a class more in the test part": ({"train": rows, "test": lambda: rows(labels=[0, 1, 2, 2])}, "class 2"),
    "parts: a test part in grey": (
        {"train": rows, "test": lambda: rows(images=[{"bytes": png(i, mode="L"), "path": None} for i in range(4)])},
        "images have 1 channels",
    ),
    "features: fewer names than classes": ({"t": lambda: rows(features=names_of("ant"))}, "at least two classes"),
    "features: more names than classes": ({"t": lambda: rows(features=names_of("ant", "bee", "cow"))}, "class 2 (cow)"),
    "features: no JSON": ({"t": lambda: rows(features="{")}, "description of its columns is damaged"),
    "features: a list": ({"t": lambda: rows(features="[1]")}, "description of its columns is damaged"),
    "features: no names": (
        {"t": lambda: rows(features={"label": {"_type": "ClassLabel"}})},
        "description of its columns is damaged",
    ),
    "file: cut": ({"t": lambda: whole_table()[:400]}, "truncated or damaged"),
    "file: its end cut": ({"t": lambda: whole_table()[:-20]}, "truncated or damaged"),
    "file: its head alone": ({"t": b"PAR1"}, "truncated or damaged"),
    "file: its description flipped": ({"t": lambda: flipped(whole_table(), -60)}, "t.parquet"),
    "file: its length flipped": ({"t": lambda: flipped(whole_table(), -7)}, "truncated or damaged"),
    "file: a pointer": ({"t": POINTER}, "damaged (a Git LFS pointer, not the file itself; run: git lfs pull)"),
    "file: a page": ({"t": PAGE}, "a web page"),
    "file: empty": ({"t": b""}, "the file is empty"),
    "file: a table in text": ({"t": b"image,label\n0.png,1\n"}, "truncated or damaged"),
    "file: an archive": ({"t": lambda: zipped([("0.png", png(0))])}, "truncated or damaged"),
    "file: an Arrow file": ({"t": b"ARROW1\0\0" + bytes(20)}, "an Arrow file"),
    "saved: a description of nothing": ({"state.json": b"{}"}, "not a complete Hugging Face data set folder"),
    "saved: a description that is no JSON": ({"state.json": b"{"}, "not a complete Hugging Face data set folder"),
    "saved: a list": ({"state.json": b"[]"}, "not a complete Hugging Face data set folder"),
    "saved: no files": ({"state.json": b'{"_data_files": []}'}, "no data files in it"),
    "saved: a file that is not there": ({"state.json": b'{"_data_files": [{"filename": "a.arrow"}]}'}, "a.arrow"),
    "saved: a file that is text": (
        {"state.json": b'{"_data_files": [{"filename": "a.arrow"}]}', "a.arrow": b"hello"},
        "a.arrow: truncated or damaged",
    ),
    "saved: a file cut short": (
        {"state.json": b'{"_data_files": [{"filename": "a.arrow"}]}', "a.arrow": lambda: in_arrow(rows())[:200]},
        "a.arrow: truncated or damaged",
    ),
    "saved: parts without names": (
        {
            "dataset_dict.json": b'{"splits": ["a", "b"]}',
            **{f"{n}/state.json": b'{"_data_files": [{"filename": "a"}]}' for n in "ab"},
        },
        "has the parts a, b",
    ),
    "saved: a part that is not there": ({"dataset_dict.json": b'{"splits": ["train"]}'}, "state.json: cannot be read"),
    "saved: no parts": ({"dataset_dict.json": b"{}"}, "not a complete Hugging Face data set folder"),
}


def tables_of_your_own(files, *more):
    def make(place):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        for name, content in files.items():
            file = place / "own" / (name if name.endswith((".json", ".arrow")) else f"{name}.parquet")
            file.parent.mkdir(parents=True, exist_ok=True)
            made = content() if callable(content) else content
            file.write_bytes(made if isinstance(made, bytes) else in_parquet(made))
        return "evaluate", "any.pt", "--dataset", str(place / "own"), "--pixels", *more

    return make


# --- the environment and the command line ----------------------------------------------------------------------------
WRONG = {  # a variable of the environment, and a value that is refused -> a word of the line
    ("DISTILL_DEVICE", "tpu"): "unknown device 'tpu'",
    ("DISTILL_DEVICE", "meta"): "unknown device 'meta'",
    ("DISTILL_DEVICE", "xpu"): "unknown device 'xpu'",
    ("DISTILL_DEVICE", "cuda:99"): "device 'cuda:99'",
    ("DISTILL_DEVICE", "mps:7"): "device 'mps:7'",
    ("DISTILL_RUNS", "~nobody_of_this_name/runs"): "write the whole path",
    ("DISTILL_CACHE", "~nobody_of_this_name/cache"): "write the whole path",
    ("DISTILL_DATA", "~nobody_of_this_name/data"): "write the whole path",
    ("DISTILL_OFFLINE", "perhaps"): "DISTILL_OFFLINE=perhaps: write 1 or 0",
    ("DISTILL_KEEP_MEMORY", "2"): "DISTILL_KEEP_MEMORY=2: write 1 or 0",
    ("DISTILL_RUNS", "/proc/none"): "set DISTILL_RUNS to a folder that can be written to",
    ("HOME", ""): "set DISTILL_CACHE to a folder that can be written to",
    ("DISTILL_DEVICE", "cuda:x"): "unknown device 'cuda:x'",
    ("DISTILL_DEVICE", "gpu"): "unknown device 'gpu'",
    ("DISTILL_DEVICE", "0"): "unknown device '0'",
    ("DISTILL_DATA", "/dev/null"): "CIFAR10: not found",
    ("DISTILL_DATA", "/nowhere:~nobody_of_this_name"): "write the whole path",
    ("DISTILL_CACHE", "/dev/null/cache"): "set DISTILL_CACHE to a folder that can be written to",
    ("DISTILL_CACHE", "/proc/none"): "set DISTILL_CACHE to a folder that can be written to",
    ("DISTILL_RUNS", "/dev/null/runs"): "set DISTILL_RUNS to a folder that can be written to",
    ("DISTILL_RESULTS", "~nobody_of_this_name/results"): "write the whole path",
}


EVALUATE = ("evaluate", "none.pt", "--dataset", "digits")
COMMANDS = {
    ("run", NAME, "-p", "ipcs="): "ipcs: an empty list",
    ("run", NAME, "-p", "ipcs=[]"): "ipcs: an empty list",
    ("run", NAME, "-p", "methods="): "methods: an empty list",
    ("run", NAME, "-p", "methods= , "): "methods: an empty list",
    ("run", NAME, "-p", "ipcs=1;10"): "ipcs.0",
    ("run", NAME, "-p", "ipcs=ten"): "ipcs.0",
    ("run", NAME, "-p", "ipcs=1.5"): "ipcs.0",
    ("run", NAME, "-p", "ipcs=true"): "ipcs.0",
    ("run", NAME, "-p", "ipcs={}"): "ipcs: Input should be a valid list",
    ("run", NAME, "-p", "ipcs=1e99"): "ipcs.0",
    ("run", NAME, "-p", "ipcs=[[1]]"): "ipcs.0",
    ("run", NAME, "-p", "methods=DM;DC"): "unknown method",
    ("run", NAME, "-p", "methods=1"): "unknown method '1'",
    ("run", NAME, "-p", "seed=1,2"): "seed",
    ("run", NAME, "-p", "upstream=1"): "unknown parameter 'upstream'",
    ("run", NAME, "--time-limit", "nan"): "time limit 'nan': write it as 90s, 9m or 2h",
    ("run", NAME, "--time-limit", "-5s"): "time limit '-5s'",
    ("run", NAME, "--time-limit", "inf"): "time limit 'inf'",
    ("run", NAME, "--time-limit", "1h30m"): "time limit '1h30m'",
    ("run", NAME, "--time-limit", "s"): "time limit 's'",
    ("run", NAME, "--device", "mps:0.5"): "unknown device",
    ("run", NAME, "--device", "vulkan"): "unknown device 'vulkan'",
    ("run", NAME, "--device", "cuda:-1"): "device",
    ("run", NAME, "--sets", "0"): "sets",
    ("run", NAME, "--profile", "fast"): "unknown profile 'fast'",
    ("run", NAME, "-p", "metods=DM"): "unknown parameter 'metods': did you mean methods",
    ("run", NAME, "-p", "profile=full"): "say it as --profile full",
    ("run", "skd/table1"): "unknown experiment 'skd/table1': did you mean skd/table1_accuracy?",
    ("run", NAME, "--engine", "das"): "unknown engine 'das': did you mean dask",
    ("plan", NAME, "--profile", "recorded"): "unknown profile 'recorded': choose one of smoke, small, full",
    ("recompute", NAME, "--profile", "recorded"): "unknown profile 'recorded'",
    ("explain", "dm_mnist_ipc1_convnet_vico-dsa", "--profile", "recorded"): "unknown profile 'recorded'",
    ("watch", "--every", "nan"): "--every nan: a number of seconds",
    ("fill", "skd/table1"): "did you mean skd/table1_accuracy",
    ("fill", "--cells", "ipc=7"): "no cell",
    ("fill", "--cells", ""): "no cell",
    ("fill", "--sets", "0"): "--sets",
    (*EVALUATE, "--pixels", "--normalised"): "exclude each other",
    (*EVALUATE, "--signed", "--bytes"): "--signed and --bytes exclude each other",
    (*EVALUATE, "--factor", "0"): "factor 0: at least 1",
    (*EVALUATE, "--order", "any"): "unknown order 'any'",
    (*EVALUATE, "--numbers", "any"): "unknown numbers 'any'",
    (*EVALUATE, "--channels", "3"): "only your own data",
    (*EVALUATE, "--resolution", "0"): "resolution 0",
    (*EVALUATE, "--protocol", ","): "protocol",
    (*EVALUATE, "--networks", "ConvNot"): "none.pt: no such file",
    EVALUATE: "none.pt: no such file; a distilled set is",
    ("evaluate", "none.pt"): "Missing option '--dataset'",
    ("evaluate",): "Missing argument 'file'",
    ("evaluate", "none.pt", "--dataset", "digit"): "unknown dataset 'digit': did you mean digits?",
    ("evaluate", "none.pt", "--dataset", "./nowhere"): "no such file or folder",
    ("evaluate", "none.pt", "--dataset", "/dev/null"): "not an .npz or .parquet file or an archive",
    ("evaluate", "none.pt", "--dataset", "digits@0px"): "resolution 0",
    (*EVALUATE, "--protocol", "vico"): "unknown protocol 'vico'",
    (*EVALUATE, "--protocol", "vico_dsa@0ep"): "vico_dsa@0ep",
    (*EVALUATE, "--resolution", "large"): "Invalid value for '--resolution'",
    (*EVALUATE, "--num-eval", "few"): "Invalid value for '--num-eval'",
    (*EVALUATE, "--split", "train=a"): "--split and --classes are for your own folder of images",
    (*EVALUATE, "--classes", "a,b"): "--split and --classes are for your own folder of images",
    (*EVALUATE, "--normalize"): "No such option: --normalize",
    ("list", "datasett"): "unknown kind 'datasett': did you mean datasets?",
    ("plan", "skd/table9"): "unknown experiment 'skd/table9'",
    ("plan", NAME, "--profile", "tiny"): "unknown profile 'tiny'",
    ("plan", NAME, "--cells", "methods=DM"): "methods",
    ("plan", NAME, "--cells", "method"): "method",
    ("explain", "nothing"): "nothing",
    ("fill", "--profile", "smoke"): "unknown profile 'smoke': choose one of small, full",
    ("fill", "--threads", "0"): "'--threads'",
    ("fill", "--time-limit", "a night"): "time limit 'a night'",
    ("run", "skd/table9"): "unknown experiment 'skd/table9'",
    ("run", NAME, "--engine", "spark"): "unknown engine 'spark'",
    ("run", NAME, "--workers", "2"): "--workers and --scheduler need --engine dask",
    ("run", NAME, "-p", "ipcs"): "write name=value",
    ("run", NAME, "--cells", "method=Nothing"): "Nothing",
    ("index", "--output", "/proc/none/index.csv"): "cannot write /proc/none/index.csv",
    ("uvit", "train", "CIFAR10", "--profile", "tiny"): "unknown profile 'tiny'",
    ("uvit", "train", "CIFAR9"): "unknown dataset 'CIFAR9': did you mean CIFAR10",
    ("uvit", "train", "CIFAR100"): "CIFAR100: not found",
    ("uvit", "generate"): "Missing option '--folder'",
    ("watch", "--every", "often"): "Invalid value for '--every'",
    ("evalute",): "No such command 'evalute'",
}


def environment(variable, value):
    def make(place):
        if variable in ("DISTILL_DATA", "DISTILL_CACHE", "DISTILL_OFFLINE", "HOME"):
            return "evaluate", str(place / "none.pt"), "--dataset", "CIFAR10"
        if variable == "DISTILL_RESULTS":
            return "plan", NAME, "--profile", "small"
        return "run", NAME, "--cells", "method=Random,dataset=FashionMNIST,ipc=1,protocol=vico_dsa"

    return make


def folder_of_your_own(form):
    def make(place):
        (place / "set").mkdir()
        more = form(place / "set")
        given = next((f for f in sorted(place.iterdir()) if f.is_file()), place / "set")
        return "evaluate", "any.pt", "--dataset", str(given), "--pixels", *(more if isinstance(more, tuple) else ())

    return make


INPUTS = {  # kind: how -> what writes it and says the command, a word of the line that refuses it
    **{f"distilled{e}: {k}": (distilled(e, x), says) for e, of in SETS_OF.items() for k, (x, says) in of.items()},
    **{f"distilled folder: {k}": case for k, case in SET_FOLDERS.items()},
    **{f"npz: {k}": (arrays_of_your_own(content), says) for k, (content, says) in OWN.items()},
    **{f"parquet: {k}": (tables_of_your_own(files), says) for k, (files, says) in TABLES.items()},
    "parquet: 16 bits, to colour": (
        tables_of_your_own({"t": lambda: rows(images=[{"bytes": deep("PNG"), "path": None}] * 4)}, "--channels", "3"),
        "row 0: more than 8 bits per channel",
    ),
    **{f"folder: {k}": (folder_of_your_own(form), says) for k, (form, says) in FORMS.items()},
    **{f"environment: {k}={v}": (environment(k, v), says) for (k, v), says in WRONG.items()},
    **{f"command: {' '.join(words)}": (lambda place, w=words: w, says) for words, says in COMMANDS.items()},
}


@pytest.mark.parametrize("name", INPUTS)
def test_a_malformed_input_is_one_line_and_leaves_nothing(name, place, monkeypatch):
    make, says = INPUTS[name]
    kind, _, what = name.partition(": ")
    monkeypatch.setenv("DISTILL_CACHE", str(place / "cache"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setattr(os, "nice", lambda by: None)  # what `distill fill` sets
    words = make(place)
    if kind == "environment":
        device.keep_memory.cache_clear()
        monkeypatch.setenv(*what.split("=", 1))
        if what == "HOME=":
            monkeypatch.delenv("DISTILL_CACHE")
        if what.startswith(("HOME", "DISTILL_CACHE")):  # fails before it fetches anything
            monkeypatch.delenv("DISTILL_OFFLINE")
    before = on_disk(place)
    said = refused(*words)
    assert says in said
    if kind not in ("environment", "command") and not what.startswith("choice"):
        assert Path(words[1] if kind.startswith("distilled") else words[3]).name in said or "needs train/" in said
    assert not any(word in said for word in ("allow_pickle", "weights_only", "load it unsafely"))
    assert on_disk(place) == before or what.startswith("DISTILL_DEVICE")  # where the log of the run begins


def on_disk(folder):
    return {f: f.read_bytes() for f in folder.rglob("*") if f.is_file() and not f.name.endswith(".lock")}
