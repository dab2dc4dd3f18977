"""Malformed parameters, records, settings, data files, folders, images, archives, environments and commands: each is
one clear error, and nothing is written."""

import contextlib
import dataclasses
import io
import json
import shutil
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import torch as safetensors_torch
from test_records import CELL, record

from distill_lib import __main__ as cli
from distill_lib import data, experiments, records
from distill_lib.core import device
from distill_lib.core.errors import UserError
from distill_lib.core.settings import as_dict, build
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
def place(tmp_path, monkeypatch):
    """Folders of their own."""
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    return tmp_path


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
    assert "Parameters: " in said or "write name=value" in said or "profile" in said
    assert not list(place.rglob("*"))


# --- records ---------------------------------------------------------------------------------------------------------
FIELDS = [
    "cell",
    "test_accuracy_pct",
    "sets",
    "key",
    "metrics",
    "seconds",
    "memory_mb",
    "made_by",
    "cpu_seconds",
    "joules",
]
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
    assert "1 of 1 cells failed" in refused(
        "run",
        NAME,
        "--profile",
        "small",
        "-p",
        "methods=DM",
        "-p",
        "datasets=FashionMNIST",
        "-p",
        "ipcs=[10]",
        "--cells",
        "protocol=vico_dsa",
    )
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
        build(config, {**good, field: value})
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
    said = refused(
        "evaluate",
        str(file),
        "--dataset",
        "digits",
        "--pixels",
        "--protocol",
        "vico_noaug@1ep",
        "--networks",
        "MLP",
        "--num-eval",
        "1",
    )
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


def tarred(ending, change=lambda raw: raw, name="a.png", kind=tarfile.REGTYPE):
    def make(root):
        file = root.with_name(f"set.{ending}")
        with tarfile.open(file, f"w:{'gz' if ending == 'tgz' else ''}") as tar:
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
NOT_IMAGES = {
    "empty": b"",
    "pointer": POINTER,
    "page": PAGE,
    "xml": b"<?xml version='1.0'?><Error/>",
    "text": b"hello",
    "zeros": bytes(500),
    "pickle": b"\x80\x04N.",
    "npz": b"PK\3\4",
    "png head": b"\x89PNG\r\n\x1a\n",
    "jpeg head": b"\xff\xd8\xff\xe0",
    "gif head": b"GIF89a",
    "webp head": b"RIFF\0\0\0\0WEBP",
    "bmp head": b"BM",
    "tiff head": b"II*\0",
    "ppm head": b"P6 24 24 255\n",
    "heic": b"\0\0\0 ftypheic\0\0\0\0mif1heic",
    "json": b'{"error": 404}',
}
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
    "class without a train folder": (["train/1", "train/2", "test/1", "test/2", "test/3"], "no folder for class 3"),
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
    **{f"image: {kind}": (with_file("train/ant/1.png", raw), "1.png: ") for kind, raw in NOT_IMAGES.items()},
    **{
        f"cut {ending} at {share}": (with_cut(ending, share), f"9.{ending}: cannot be read as an image")
        for ending in ("png", "jpg", "bmp", "tif", "webp", "ppm")
        for share in (0.05, 0.5, 0.9)
    },
    **{f"tree: {kind}": (with_folders(*folders), says) for kind, (folders, says) in TREES.items()},
    "empty class": (lambda root: (good(root) / "train" / "cat").mkdir(), "cat"),
    "grey 16 bit png": (with_image("train/ant/9.png", Image.new("I;16", (8, 8))), "more than 8 bits"),
    "grey 16 bit tif": (with_image("train/ant/9.tif", Image.new("I;16", (8, 8))), "more than 8 bits"),
    "float tif": (with_image("train/ant/9.tif", Image.new("F", (8, 8))), "more than 8 bits"),
    "32 bit tif": (with_image("train/ant/9.tif", Image.new("I", (8, 8))), "more than 8 bits"),
    "16 bit pgm": (with_file("train/ant/9.pgm", b"P5 2 2 65535\n" + bytes(8)), "more than 8 bits"),
    "RGBA": (with_image("train/ant/9.png", Image.new("RGBA", (8, 8))), "pass channels="),
    "grey and alpha": (with_image("train/ant/9.png", Image.new("LA", (8, 8))), "pass channels="),
    "clear gif": (with_image("train/ant/9.gif", Image.new("P", (8, 8)), transparency=0), "pass channels="),
    "clear png": (with_image("train/ant/9.png", Image.new("RGB", (8, 8)), transparency=(0, 0, 0)), "pass channels="),
    "grey among colour": (with_image("train/ant/9.png", Image.new("L", (8, 8))), "mixed channels"),
    "colour test, grey train": (
        lambda root: [Image.new("L", (8, 8)).save(f) for f in (good(root) / "train").rglob("*.png")],
        "images have 3 channels",
    ),
    "dead link": (with_link("train/ant/9.png", "/nowhere/9.png"), "a link to /nowhere/9.png, which is not there"),
    "dead link to a folder": (with_link("train/cat", "/nowhere"), "a link to /nowhere"),
    "link to itself": (with_link("train/ant/9.png", "9.png"), "cannot be followed"),
    "link between classes": (with_link("train/ant/9.png", "../bee/0.png"), "are one file"),
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
}


def test_there_are_enough_malformed_folders_images_and_archives():
    assert len(FORMS) >= 100


@pytest.mark.parametrize("form", FORMS)
def test_malformed_folders_images_and_archives(form, place, monkeypatch):
    monkeypatch.setenv("DISTILL_CACHE", str(place / "cache"))
    make, says = FORMS[form]
    (place / "set").mkdir()
    make(place / "set")
    given = next((f for f in sorted(place.iterdir()) if f.is_file()), place / "set")
    before = sorted(f for f in place.rglob("*"))
    said = refused("evaluate", "any.pt", "--dataset", str(given), "--pixels")
    assert says in said and (str(given) in said or says.startswith("needs"))
    left = [f for f in sorted(place.rglob("*")) if f not in before and f.suffix != ".lock" and not f.is_dir()]
    assert left == [], left


# --- distilled sets, your own data, the environment and the command line ---------------------------------------------
def on_disk(folder):
    return {f: f.read_bytes() for f in folder.rglob("*") if f.is_file() and not f.name.endswith(".lock")}


X, Y = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 3\n"
PAGE, PICKLE = b"<!DOCTYPE html><html><title>404</title></html>", b"\x80\x04\x95\x00"
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
    "a pointer": (LFS, "git lfs pull"),
    "a page": (PAGE, "a web page"),
    "empty": (b"", "empty"),
    "a pickle": (PICKLE, ""),
}
CASES = [
    *((ending, name, *SETS[name]) for ending in (".npz", ".safetensors") for name in SETS),
    *((".pt", name, *case) for name, case in {**SETS, **TORCH_SETS}.items()),
    *((ending, name, *case) for ending in (".npz", ".npy", ".pt", ".safetensors") for name, case in RAW.items()),
]


@pytest.mark.parametrize("ending, name, content, says", CASES, ids=[f"{c[0]} {c[1]}" for c in CASES])
def test_malformed_distilled_sets(place, ending, name, content, says):
    file = place / f"set{ending}"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif ending == ".npz":
        np.savez(file, **{k: v.numpy() for k, v in content.items()})
    elif ending == ".pt":
        torch.save(content, file)
    else:
        safetensors_torch.save_file({k: v.contiguous() for k, v in content.items()}, file)
    before = on_disk(place)
    said = refused("evaluate", str(file), "--dataset", "digits", "--pixels", "--protocol", "vico_noaug@1ep")
    assert file.name in said and says in said and on_disk(place) == before
    assert not any(word in said for word in ("allow_pickle", "weights_only", "load it unsafely"))


PIXELS, LABELS = (X * 255).to(torch.uint8)[:, 0].numpy(), (Y % 2).numpy()
OWN = {  # arguments of numpy.savez, or bytes -> a word of the line
    "keys": ({"pictures": PIXELS, "labels": LABELS}, "has the keys labels, pictures"),
    "only a test part": ({"test_images": PIXELS, "test_labels": LABELS}, "a train part is needed"),
    "floats": ({"images": PIXELS / 255, "labels": LABELS}, "save them as uint8"),
    "no pixels": ({"images": PIXELS[:, :0], "labels": LABELS}, "needed (N, H, W)"),
    "channels": ({"images": np.stack([PIXELS] * 2, -1), "labels": LABELS}, "1 or 3 channels"),
    "short": ({"images": PIXELS, "labels": LABELS[1:]}, "one whole number for each of 20 images"),
    "broken": ({"images": PIXELS, "labels": LABELS + 0.5}, "one whole number for each"),
    "text": ({"images": PIXELS, "labels": LABELS.astype(str)}, "one whole number for each"),
    "objects": ({"images": PIXELS, "labels": LABELS.astype(object)}, "labels holds Python objects"),
    "negative": ({"images": PIXELS, "labels": LABELS - 1}, "labels run from -1 to 0"),
    "absurd": ({"images": PIXELS, "labels": LABELS * 10**12}, "labels run from 0 to 1000000000000"),
    "large": ({"images": PIXELS, "labels": LABELS * 10**8}, "needed 0, 1, 2, ... without gaps"),
    "from one": ({"images": PIXELS, "labels": LABELS + 1}, "subtract 1"),
    "one name": ({"images": PIXELS, "labels": LABELS, "classes": np.array("ant")}, "classes has shape ()"),
    "few names": ({"images": PIXELS, "labels": LABELS, "classes": np.array(["ant"])}, "the set has 1 classes"),
    "names twice": ({"images": PIXELS, "labels": LABELS, "classes": np.array(["a", "a"])}, "names 'a' twice"),
    "pointer": (LFS, "git lfs pull"),
    "page": (PAGE, "a web page"),
    "empty": (b"", "empty"),
    "cut": (b"PK\x03\x04", "cut short"),
}


@pytest.mark.parametrize("name", OWN)
def test_malformed_arrays_of_your_own(place, whole, name, monkeypatch):
    monkeypatch.setenv("DISTILL_CACHE", str(place / "cache"))
    content, says = OWN[name]
    own, judged = place / "own.npz", place / "set.npz"
    own.write_bytes(content) if isinstance(content, bytes) else np.savez(own, **content)
    judged.write_bytes(whole[".npz"])
    before = on_disk(place)
    said = refused("evaluate", str(judged), "--dataset", str(own), "--pixels")
    assert own.name in said and says in said and on_disk(place) == before


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
}


@pytest.mark.parametrize("variable, value", WRONG)
def test_malformed_environments(place, variable, value, monkeypatch):
    device.keep_memory.cache_clear()
    monkeypatch.setenv(variable, value)
    words = ["run", NAME, "--cells", "method=Random,dataset=FashionMNIST,ipc=1,protocol=vico_dsa"]
    if variable in ("DISTILL_DATA", "DISTILL_CACHE", "DISTILL_OFFLINE", "HOME"):
        words = ["evaluate", str(place / "none.pt"), "--dataset", "CIFAR10"]
        if variable == "HOME":
            monkeypatch.delenv("DISTILL_CACHE")
    assert WRONG[variable, value] in refused(*words)
    assert not list(place.rglob("*")) or variable == "DISTILL_DEVICE"


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
    ("run", NAME, "--time-limit", "nan"): "time limit 'nan'",
    ("run", NAME, "--time-limit", "-5s"): "time limit '-5s'",
    ("run", NAME, "--time-limit", "inf"): "time limit 'inf'",
    ("run", NAME, "--time-limit", "1h30m"): "time limit '1h30m'",
    ("run", NAME, "--time-limit", "s"): "time limit 's'",
    ("run", NAME, "--device", "mps:0.5"): "unknown device",
    ("run", NAME, "--device", "vulkan"): "unknown device",
    ("run", NAME, "--device", "cuda:-1"): "device",
    ("run", NAME, "--sets", "0"): "sets",
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
}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_malformed_commands(place, words):
    assert COMMANDS[words] in refused(*words)
    assert not list(place.rglob("*"))
