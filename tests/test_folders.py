"""Trees of images as people have them: each has one reading, or an error that says how to choose one."""

import ast
import os
import re
import shlex
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from distill_lib import __main__ as cli
from distill_lib import data
from distill_lib.core import paths
from distill_lib.core.errors import UserError
from distill_lib.data import folders, own

ANT_BEE = ("ant", "bee")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DISTILL_OFFLINE", "1")


def tree(root, *patterns, n=2, classes=ANT_BEE):
    """Files below `root`; `<class>` in a pattern is every class, and a name without an ending gets `n` images."""
    for pattern in patterns:
        for c in classes if "<class>" in pattern else [""]:
            at = root / pattern.replace("<class>", c).lstrip("/")
            assert at.is_relative_to(root)
            for file in [at] if at.suffix else [at / f"{i}.png" for i in range(n)]:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(os.fsencode(file))
    return root


def read(root, **choice):
    """What is read: part -> images per class, and the notes."""
    source = folders.image_folder(root, **choice)
    parts = {
        part: {source.class_names[k]: n for k, n in Counter(source.read(part).labels.tolist()).items()}
        for part in source.splits
    }
    for part in source.splits:  # every image lies under a folder that bears its class's name
        found = source.read(part)
        for image, label in zip(found.images, found.labels, strict=True):
            assert source.class_names[label] in str(image.relative_to(root))
    return parts, source.notes


# --- the page's table ------------------------------------------------------------------------------------------------
def rows():
    text = (paths.ROOT / "book" / "formats.md").read_text()
    table = text.partition("<!-- readings")[2].partition("<!-- end of readings")[0]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize(("there", "reading"), rows())
def test_the_pages_table_of_readings(there, reading, tmp_path):
    tree(tmp_path / "set", *re.findall(r"`([^`]+)`", there))
    kind, said = reading.partition(":")[0], re.findall(r"`([^`]+)`", reading)
    if kind in ("asks", "error"):
        with pytest.raises(UserError) as err:
            own.source(tmp_path / "set")
        text = str(err.value)
        assert said and ("Say which it is" in text) == (kind == "asks")
    else:
        source = own.source(tmp_path / "set")
        text = " ".join(source.notes)
        assert kind == ("train, held out" if "is held out" in text else ", ".join(source.splits))
    assert all(words in text for words in said), text


def test_the_page_names_every_ending():
    assert ", ".join(f"`{e}`" for e in folders.IMAGE_SUFFIXES) in (paths.ROOT / "book" / "formats.md").read_text()


# --- parts -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "pair",
    [
        *("train test", "Train Test", "TRAIN TEST", "training testing", "training_set test_set", "train_set test_set"),
        *("trainset testset", "TrainSet TestSet", "train_images test_images", "training_data testing_data", "tr te"),
        *("seg_train seg_test", "train-images test-images", "x_train x_test", "train.1 test.1", "cells_train test"),
        *("train2017 test2017", "my-train my-holdout", "01_train 02_test", "Training Images|Test Images"),
        *("imgs_train imgs_test", "train (1)|test (1)", "trn tst", "a_train b_test", "train holdout"),
    ],
)
def test_train_and_test_under_every_common_name(pair, tmp_path):
    train, test = pair.split("|") if "|" in pair else pair.split(" ")
    tree(tmp_path / "s", f"{train}/<class>", n=3)
    tree(tmp_path / "s", f"{test}/<class>", n=1)
    assert read(tmp_path / "s") == ({"train": {"ant": 3, "bee": 3}, "test": {"ant": 1, "bee": 1}}, ())


@pytest.mark.parametrize(
    "name",
    ["val", "Valid", "validation", "validation_set", "dev", "DevSet", "eval", "seg_val", "validation_data", "val2017"],
)
def test_a_validation_part_under_every_common_name(name, tmp_path):
    tree(tmp_path / "s", "train/<class>", "test/<class>", f"{name}/<class>")
    assert set(read(tmp_path / "s")[0]) == {"train", "val", "test"}


@pytest.mark.parametrize(
    "name", ["dogs", "trainer", "bullet train", "test_tube", "Valentine", "evaluate_me", "developer", "tr_flag", "text"]
)
def test_what_only_sounds_like_a_part_is_a_class(name, tmp_path):
    assert read(tree(tmp_path / "s", "<class>", name))[0] == {"all": {"ant": 2, "bee": 2, name: 2}}


def test_images_of_the_test_part_are_never_trained_on(tmp_path):
    for name in ("seg_train", "seg_test"):
        for k, c in enumerate(ANT_BEE):
            (tmp_path / "s" / name / c).mkdir(parents=True)
            for i in range(3):
                value = 40 * (name == "seg_test") + 10 * k + i
                Image.new("L", (8, 8), value).save(tmp_path / "s" / name / c / f"{i}.png")
    real, test = data.load(tmp_path / "s")
    assert real.images[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12] and real.labels.tolist() == [0] * 3 + [1] * 3
    assert test.images[:, 0, 0, 0].tolist() == [40, 41, 42, 50, 51, 52] and real.facts.class_names == ANT_BEE


def test_parts_inside_every_class_and_in_the_names_of_classes(tmp_path):
    want = {"train": {"ant": 2, "bee": 2}, "test": {"ant": 2, "bee": 2}}
    assert read(tree(tmp_path / "a", "<class>/train", "<class>/test")) == (want, ())
    assert read(tree(tmp_path / "b", "ant/Train", "ant/test", "bee/training", "bee/TEST")) == (want, ())
    assert read(tree(tmp_path / "c", "<class>_train", "<class>_test")) == (want, ())
    assert read(tree(tmp_path / "d", "train_<class>", "test_<class>")) == (want, ())


def test_parts_wrapped_once_more_and_a_part_that_is_none(tmp_path):
    tree(tmp_path / "s", "seg_train/seg_train/<class>", "seg_test/seg_test/<class>", "seg_pred/seg_pred")
    parts, notes = read(tmp_path / "s")
    assert parts == {"train": {"ant": 2, "bee": 2}, "test": {"ant": 2, "bee": 2}}
    assert notes == ("left out: 2 images in seg_pred",)
    parts, notes = read(tree(tmp_path / "t", "x/y/train/<class>", "x/y/test/<class>"))
    assert parts["train"] == {"ant": 2, "bee": 2} and notes[-1] == "read from the folder x/y"


@pytest.mark.parametrize(
    ("patterns", "parts"),
    [
        (["Images/<class>", "Annotation/ant/1", "lists/file.mat"], {"all"}),  # Stanford Dogs
        (["Train/<class>", "Test", "Meta", "Test.csv"], {"train"}),  # GTSRB
        (["set/trainA", "set/trainB", "set/testA", "set/testB"], {"train", "test"}),  # CycleGAN's
        (["train_test_split/train/<class>", "train_test_split/test/<class>"], {"train", "test"}),
        (["x/images/<class>", "x/labels/a.txt"], {"all"}),
        (["data/TRAINING_SET/<class>", "data/TEST_SET/<class>", "LICENSE.txt"], {"train", "test"}),
        (["train/<class>", "test/<class>", "unlabelled"], {"train", "test"}),
        (["train/<class>", "val"], {"train"}),  # ILSVRC before its script
    ],
)
def test_trees_as_published_sets_have_them(patterns, parts, tmp_path):
    root = tree(tmp_path / "s", *(p for p in patterns if not p.startswith("Annotation")))
    if "Annotation/ant/1" in patterns:
        (root / "Annotation" / "ant").mkdir(parents=True)
        (root / "Annotation" / "ant" / "n1").write_text("x")
    found, _ = read(root)
    assert set(found) == parts and all(len(by) == 2 for by in found.values())


def test_a_flat_test_part_has_no_labels_and_is_left_out(tmp_path):
    parts, notes = read(tree(tmp_path / "s", "train/<class>", "test", "val/images"))
    assert parts == {"train": {"ant": 2, "bee": 2}}
    assert "test has no class folders, so its images have no labels" in notes
    assert notes[-1] == "left out: 2 images in test, 2 images in val"
    with pytest.raises(UserError, match=r"train: no class folders in it \(2 images\).*labels in a table"):
        read(tree(tmp_path / "t", "train", "test", "labels.csv"))


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        (
            ["train/<class>", "Training/<class>"],
            r"Training, train are all named after the train part.*'train': 'Training'.*\['Training', 'train'\]",
        ),
        (["train/<class>", "val/<class>", "validation/<class>"], r"'val': \['val', 'validation'\]"),
        (
            ["Training/<class>", "PublicTest/<class>", "PrivateTest/<class>"],
            "'test': 'PublicTest'|'test': 'PrivateTest'",
        ),
        (["40X/train/<class>", "40X/test/<class>", "100X/train/<class>", "100X/test/<class>"], "the path .*/100X"),
        (["day/<class>", "night/<class>"], r"split=\{'train': 'day', 'test': 'night'\}"),
        (
            ["<class>", "cells/<class>"],
            r"cells holds folders named like those beside it \(ant, bee\).*classes=\['ant', 'bee'\]",
        ),
        (["train/<class>", "train/train/<class>", "test/<class>"], "train/train holds folders named like those"),
        (["batch_1", "batch_2"], "numbered like folds"),
        (["Entrainement/<class>", "Test/<class>"], r"split=\{'train': 'Entrainement', 'test': 'Test'\}"),
        (
            ["images/train/<class>", "images/test/<class>", "masks/train/<class>"],
            "images/test lies in a class .*a set of its own: the path .*/images",
        ),
        (["a/day/<class>", "b/night/<class>"], r"'test': 'b/night'"),
        (["<class>/images", "<class>/masks"], r"split=\{'all': '\*/images'\}"),
        (["fold1/<class>", "fold2/<class>", "fold3/<class>"], r"'train': \['fold1', 'fold2'\], 'test': 'fold3'"),
        (["train/fold1/<class>", "train/fold2/<class>", "test/<class>"], "train/fold1, train/fold2 hold folders"),
        (["fold_1", "fold_2"], "numbered like folds"),
        (
            [f"{part}/<class>/{place}" for part in ("train", "test") for place in ("indoor", "outdoor")],
            r"split=\{'train': 'train/\*', 'test': 'test/\*'\}",
        ),
        (
            [f"{part}/<class>/{kind}" for part in ("train", "test") for kind in ("images", "masks")],
            r"split=\{'train': 'train/\*/images', 'test': 'test/\*/images'\}",
        ),
        (["<class>", "test"], r"classes=\['ant', 'bee', 'test'\].*classes=\['ant', 'bee'\]"),
        (["<class>", "train/<class>"], r"train lies beside ant, bee.*split=\{'all': '\*'\}"),
        (["<class>/1/train", "<class>/2/test"], "hold folders of the same names"),
        (["ant/old/train", "bee/new"], "ant/old/train lies in a class and is named after a part"),
        (["day_train/<class>", "day_test/<class>", "night_train/<class>", "night_test/<class>"], "side by side"),
    ],
)
def test_several_readings_are_listed_with_the_argument_that_chooses(patterns, says, tmp_path):
    with pytest.raises(UserError, match=says) as err:
        read(tree(tmp_path / "s", *patterns))
    if patterns[-1] in ("fold_2", "batch_2"):  # without classes inside, a fold can only be a class
        return
    for argument in re.findall(r"(split=\{.*?\}|classes=\[.*?\])", str(err.value)):  # and each of them works
        name, _, value = argument.partition("=")
        parts, _ = read(tmp_path / "s", **{name: ast.literal_eval(value)})
        assert sum(n for by in parts.values() for n in by.values()) > 0


def test_what_the_user_says_about_parts_and_classes_is_done(tmp_path):
    tree(tmp_path / "s", "day/<class>", "night/<class>", "dusk/<class>", n=3)
    each = {"ant": 3, "bee": 3}
    assert read(tmp_path / "s", split={"train": "day", "test": "night"}) == (
        {"train": each, "test": each},
        ("left out: 6 images in dusk",),
    )
    assert read(tmp_path / "s", split={"train": ["day", "dusk"], "val": "night"})[0]["train"] == {"ant": 6, "bee": 6}
    assert read(tmp_path / "s", split={"all": "*"}) == ({"all": {"day": 6, "night": 6, "dusk": 6}}, ())
    parts, notes = read(tmp_path / "s", split={"all": "*/ant"}, classes=["night", "day"])
    assert list(parts["all"]) == ["night", "day"] and "left out: " in notes[0] and "6 images in dusk" in notes[0]
    train, test = data.load(images(tmp_path / "real" / "a", n=6).parent, split={"all": "a"}, classes=["bee", "ant"])
    assert train.facts.class_names == ("bee", "ant") and len(train) == 10 and len(test) == 2
    swapped = data.load(tmp_path / "real", split={"all": "a"})[0]
    assert swapped.facts.class_names == ANT_BEE and not (swapped.images == train.images).all()


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"split": "train"}, "give the folders of each part"),
        ({"split": {}}, "name the folders of the train part"),
        ({"split": {"train": 3}}, "no class folders in .* are at 3; found ant, bee"),
        ({"split": {"train": []}}, "give the folders of each part"),
        ({"split": {"learn": "a"}}, "give the folders of each part"),
        ({"split": {"test": "*"}}, "name the folders of the train part"),
        ({"split": {"train": "../s/*"}}, "no class folders"),
        ({"split": {"train": "*/*"}}, r"more than one \*"),
        ({"split": {"train": "*", "test": "*"}}, "are one file"),
        ({"classes": "ant"}, "give a list of folder names"),
        ({"classes": []}, r"classes=\[\]: give a list of folder names"),
        ({"classes": ["ant", "cat"]}, "no folder for class cat; it has ant, bee"),
        ({"classes": ["ant", "ant"]}, "stands there twice"),
        ({"classes": ["ant"]}, "at least two classes; found ant"),
        ({"classes": [1, 2]}, "give a list of folder names"),
    ],
)
def test_a_choice_that_does_not_fit_is_one_clear_error(choice, says, tmp_path):
    with pytest.raises(UserError, match=says):
        read(tree(tmp_path / "s", "<class>"), **choice)
    with pytest.raises(UserError, match="are for your own folder of images"):
        data.load("digits", **choice)
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8), labels=[0, 0, 1, 1])
    with pytest.raises(UserError, match="are for a folder of images"):
        data.load(tmp_path / "a.npz", **choice)


def test_the_command_line_says_and_takes_what_the_library_does(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    for part in ("day", "night, late"):
        images(tmp_path / "s" / part)
    np.savez(tmp_path / "d.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=[0, 1])
    words = ["distill", "evaluate", str(tmp_path / "d.npz"), "--dataset", str(tmp_path / "s")]
    words += ["--protocol", "vico_noaug@1ep", "--networks", "MLP", "--num-eval", "1"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    assert """--split train=day --split 'test=["night, late"]'""" in said and "split={" not in said
    advice = re.search(r"the last one tests: (.*); classes", said)[1]
    monkeypatch.setattr("sys.argv", [*words, *shlex.split(advice), "--classes", "bee,ant"])
    assert cli.main() is None and " accuracy" in capsys.readouterr().out


# --- classes ---------------------------------------------------------------------------------------------------------
def test_classes_called_train_are_classes(tmp_path):
    parts, notes = read(tree(tmp_path / "s", "bus", "car", "train"))
    assert parts == {"all": {"bus": 2, "car": 2, "train": 2}} and notes[0].startswith("train is read as a class")
    parts, _ = read(tree(tmp_path / "t", *(f"{p}/{c}" for p in ("train", "test") for c in ("bus", "train", "test"))))
    assert parts == {p: {"bus": 2, "test": 2, "train": 2} for p in ("train", "test")}


@pytest.mark.parametrize(
    "names",
    [("1", "01"), ("3", "03", "003"), ("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("a-b", "a_b", "a b"), ("²", "2")],
)
def test_names_that_are_nearly_equal_stay_apart(names, tmp_path):
    for i, name in enumerate(names, 1):
        tree(tmp_path / "s", f"train/{name}", f"test/{name}", n=i)
    if len(os.listdir(tmp_path / "s" / "train")) < len(names):
        pytest.skip("this disk takes the names for one")
    parts, notes = read(tmp_path / "s")
    want = {name: i for i, name in enumerate(names, 1)}
    assert parts == {"train": want, "test": want}
    assert any("their names are alike" in note for note in notes)
    for name in names[1:]:
        with pytest.raises(UserError, match="no folder for class"):
            tree(tmp_path / name, f"train/{names[0]}", "train/x", f"test/{name}", "test/x")
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        (("1", "2", "3", "4"), ("1", "2", "4"), "the test part has no folder for class 3; it has 1, 2, 4"),
        (("1", "2"), ("1", "2", "3"), "the train part has no folder for class 3"),
        (("Cat", "dog"), ("cat", "dog"), "its Cat differs in case"),
        (("1", "2"), ("01", "2"), "its 1 differs in case, accents' form, punctuation or zeros"),
        (("ant",), ("ant",), "at least two classes; found ant"),
    ],
)
def test_a_class_that_a_part_lacks_is_named(train, test, says, tmp_path):
    tree(tmp_path / "s", *(f"train/{c}" for c in train), *(f"test/{c}" for c in test))
    with pytest.raises(UserError, match=says):
        read(tmp_path / "s")


# --- what is no data, links, rights ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    [
        *(".ipynb_checkpoints", "checkpoints", ".git", "@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "#recycle"),
        *("System Volume Information", "__pycache__", ".thumbnails", "thumbnails", "@Recycle", "RECYCLER"),
    ],
)
@pytest.mark.parametrize("where", ["", "train", "train/ant"])
def test_what_is_no_data_is_left_out_and_counted(name, where, tmp_path):
    tree(tmp_path / "s", "train/<class>", "test/<class>", f"{where}/{name}/ant")
    parts, notes = read(tmp_path / "s")
    assert parts == {"train": {"ant": 2, "bee": 2}, "test": {"ant": 2, "bee": 2}}
    assert notes == (f"left out, no data: 2 files in {name} (2)",)


def test_files_that_are_not_read_are_counted_by_ending(tmp_path):
    left = ["a.HEIC", "b.heic", "c.txt", "d.xcf"]
    tree(tmp_path / "s", "<class>", *(f"ant/{f}" for f in left), "0.png", "Thumbs.db")
    (tmp_path / "s" / "bee" / "IMG_1").write_bytes(b"")
    assert read(tmp_path / "s")[1] == (
        "left out: 1 image beside the folders",
        "left out: 5 files that are not read: 2 .heic, 1 .txt, 1 .xcf, 1 without an ending",
        "left out, no data: 1 file in Thumbs.db (1)",
    )


@pytest.mark.parametrize(
    ("link", "target", "note"),
    [
        ("everything", ".", "left out, links to a folder above them: everything"),
        ("ant/again", ".", "left out, links to a folder above them: ant/again"),
        ("ant/up", "..", "left out, links to a folder above them: ant/up"),
        ("ant/9.png", "0.png", "1 image reached by links too: read once"),
        ("ant/9.txt", "/nowhere/9.txt", "left out: 1 file that is not read: 1 .txt"),
    ],
)
def test_a_link_that_adds_nothing_is_read_once(link, target, note, tmp_path):
    tree(tmp_path / "s", "<class>")
    os.symlink(target, tmp_path / "s" / link)
    assert read(tmp_path / "s") == ({"all": {"ant": 2, "bee": 2}}, (note,))


def test_links_out_of_the_tree_are_followed(tmp_path):
    tree(tmp_path / "store", "<class>")
    (tmp_path / "s").mkdir()
    os.symlink(tmp_path / "store" / "ant", tmp_path / "s" / "ant")
    (tmp_path / "s" / "bee").mkdir()
    os.symlink(tmp_path / "store" / "bee" / "0.png", tmp_path / "s" / "bee" / "0.png")
    assert read(tmp_path / "s") == ({"all": {"ant": 2, "bee": 1}}, ())


def test_a_pipe_is_no_image_and_names_of_other_encodings_are_named(tmp_path):
    tree(tmp_path / "s", "<class>")
    os.mkfifo(tmp_path / "s" / "ant" / "pipe.png")
    assert read(tmp_path / "s")[1] == ("left out: 1 file that is not read: 1 pipe or device",)
    (tmp_path / "s" / "ant" / "pipe.png").unlink()
    try:
        (Path(os.fsdecode(os.fsencode(tmp_path / "s") + b"/ant/caf\xe9.png"))).write_bytes(b"1")
    except OSError as err:
        pytest.skip(f"this file system refuses names that are not UTF-8: {err}")
    assert read(tmp_path / "s")[0]["all"]["ant"] == 3
    Path(os.fsdecode(os.fsencode(tmp_path / "s") + b"/caf\xe9")).mkdir()
    tree(tmp_path / "s", os.fsdecode(b"caf\xe9"))
    with pytest.raises(UserError, match="not UTF-8; rename the folder") as err:
        read(tmp_path / "s")
    assert r"caf\udce9" in str(err.value)


def test_long_notes_are_cut_and_deep_trees_refused(tmp_path):
    tree(tmp_path / "s", "train/<class>", "test/<class>", *(f"x{i}" for i in range(9)))
    tree(tmp_path / "s", *(f"train/ant/._{i}.png" for i in range(30)), *(f"test/ant/a.{i:03d}" for i in range(20)))
    _, notes = read(tmp_path / "s")
    assert notes[0].startswith("left out: 18 images, 2 images in x0") and notes[0].endswith("and 3 more")
    assert "20 files that are not read" in notes[1] and notes[2] == "left out, no data: 30 files in ._* (30)"
    (tmp_path / "deep" / "/".join("a" * 70)).mkdir(parents=True)
    with pytest.raises(UserError, match="more than 64 folders deep"):
        read(tmp_path / "deep")


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    tree(tmp_path / "s", "<class>/deep")
    listdir = os.listdir

    def refuse(path):
        if str(path).endswith("bee/deep"):
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(UserError, match=r"bee/deep: cannot be read \(Permission denied\)"):
        read(tmp_path / "s")


# --- any tree --------------------------------------------------------------------------------------------------------
WORDS = ["train", "test", "val", "Train", "training_set", "seg_train", "seg_test", "fold1", "fold2", "images", "masks"]
OTHERS = ["ant", "bee", "cat", "Cat", "1", "01", "day", "night", ".git", "@eaDir", "data"]
NAMES = st.sampled_from(WORDS + OTHERS)
TREES = st.lists(
    st.tuples(st.lists(NAMES, max_size=3), st.sampled_from([".png", ".jpg", ".heic", ".txt", ""])), max_size=24
)


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(files=TREES, crossed=st.booleans(), names=st.lists(NAMES, min_size=2, max_size=3, unique=True))
def test_any_tree_is_read_whole_or_refused(files, crossed, names, tmp_path_factory):
    root = tmp_path_factory.mktemp("any")
    if crossed:  # the same class folders under several names, as real sets have them
        files = [*files, *(([a, b], ".png") for a in names for b in ("ant", "bee"))]
    for i, (at, ending) in enumerate(files):
        file = root.joinpath(*at, f"file{i}{ending}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(str(i).encode())
    try:
        source = folders.image_folder(root)
    except UserError as err:
        assert str(root) in str(err) and len(str(err).splitlines()) == 1
        return
    seen = {}
    for part in source.splits:
        found = source.read(part)
        assert set(found.labels.tolist()) == set(range(len(source.class_names)))
        for image, label in zip(found.images, found.labels, strict=True):
            assert image not in seen  # no image twice, so train and test never overlap
            seen[image] = part
            assert any(source.class_names[label] in step for step in image.relative_to(root).parts[:-1])
            if part == "train":
                assert not {"test", "val"} & {folders.split_of(p)[0] for p in image.relative_to(root).parts[:-2]}
    noted = 0
    for note in source.notes:
        if note.startswith("left out"):
            total = re.match(r"left out: (\d+) images, \d", note)  # said where the places are too many to list
            noted += sum(map(int, [total[1]] if total else re.findall(r"(\d+) (?:image|file)s?\b", note)))
    assert len(seen) + noted == sum(len(f) for _, _, f in os.walk(root))


# --- pixels ----------------------------------------------------------------------------------------------------------
def images(root, n=5, size=(8, 8), mode="RGB", classes=ANT_BEE):
    for k, c in enumerate(classes):
        (root / c).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            a = np.random.default_rng(100 * k + i).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
            Image.fromarray(a).convert(mode).save(root / c / f"{i}.png")
    return root


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("tag", [1, 2, 3, 4, 5, 6, 7, 8])
def test_photographs_are_turned_as_their_tag_says(tag, ending, tmp_path):
    root = images(tmp_path / "s", classes=("bee",), size=(32, 32))
    (root / "ant").mkdir()
    exif = Image.Exif()
    exif[0x112] = tag
    lying = Image.new("RGB", (64, 32))
    lying.paste((255, 0, 0), (0, 0, 32, 32))  # the left half is red
    for i in range(5):
        lying.save(root / "ant" / f"{i}.{ending}", exif=exif, **({"quality": 95} if ending in ("jpg", "webp") else {}))
    real, _ = data.load(root, 32, resize="squeeze")
    red = real.images[real.labels == 0][0, 0].float()
    edges = {"left": red[:, :8], "right": red[:, -8:], "top": red[:8], "bottom": red[-8:]}
    side = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[tag]
    assert edges[side].mean() > 240 and max(edges, key=lambda k: edges[k].mean()) == side
    assert any("a rotation tag: turned as it says" in note for note in real.facts.notes) == (tag > 1)


def clear(path, kind):
    """Red where one sees it, hidden green in the left half."""
    seen, hidden = (255, 0, 0), (0, 255, 0)
    rgb = Image.new("RGB", (8, 8), seen)
    rgb.paste(hidden, (0, 0, 4, 8))
    if kind == "RGBA":
        alpha = Image.new("L", (8, 8), 255)
        alpha.paste(0, (0, 0, 4, 8))
        rgb.putalpha(alpha)
        rgb.save(path)
    elif kind == "LA":
        grey = Image.new("LA", (8, 8), (76, 255))
        grey.paste((150, 0), (0, 0, 4, 8))
        grey.save(path)
    elif kind == "tRNS colour":
        rgb.save(path, transparency=hidden)
    elif kind == "tRNS grey":
        rgb.convert("L").save(path, transparency=rgb.convert("L").getpixel((0, 0)))
    else:  # palette
        small = rgb.quantize(2)
        small.save(path, transparency=small.getpixel((0, 0)))


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        *(("RGBA", "png"), ("RGBA", "webp"), ("RGBA", "tif"), ("LA", "png"), ("tRNS colour", "png")),
        *(("tRNS grey", "png"), ("palette", "png"), ("palette", "gif")),
    ],
)
def test_transparency_of_every_form_is_asked_about_and_then_white(kind, ending, tmp_path):
    root = images(tmp_path / "s", mode="L" if kind in ("LA", "tRNS grey") else "RGB")
    for i in range(5):
        clear(root / "ant" / f"clear{i}.{ending}", kind)
    with pytest.raises(UserError, match="pass channels=1 or channels=3"):
        data.load(root)
    real, test = data.load(root, channels=3)
    one = next(s for s in (real, test) for s in s.images if (s[:, :, 0] == 255).all())  # white, not the hidden colour
    assert one[1, 0, -1] < 110
    assert any("transparent parts: white there" in note for note in real.facts.notes)


@pytest.mark.parametrize("ending", ["gif", "tif", "webp", "png"])
def test_frames_and_pages_are_noted(ending, tmp_path):
    root = images(tmp_path / "s")
    frames = [Image.new("RGB", (8, 8), (k, k, k)) for k in (10, 100, 200)]
    for i in range(5):
        frames[0].save(root / "ant" / f"many{i}.{ending}", save_all=True, append_images=frames[1:])
    real, _ = data.load(root, channels=3)
    assert any("several frames or pages: the first is read" in note for note in real.facts.notes)


@pytest.mark.parametrize(("ending", "kind"), [("jfif", "JPEG"), ("jpe", "JPEG"), ("avif", "AVIF"), ("pbm", "PPM")])
def test_rarer_endings_are_read(ending, kind, tmp_path):
    root = images(tmp_path / "s", mode="L" if ending == "pbm" else "RGB")
    Image.new("1" if ending == "pbm" else "RGB", (8, 8)).save(root / "bee" / f"x.{ending}", kind)
    assert sum(map(len, data.load(root))) == 11


# --- archives --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "xztar"])
@pytest.mark.parametrize("wrap", ["", "set", "a/set"])
def test_an_archive_of_a_folder_is_read(kind, wrap, tmp_path):
    images(tmp_path / "in" / wrap / "train")
    images(tmp_path / "in" / wrap / "test", n=2)
    (tmp_path / "in" / "__MACOSX").mkdir()
    archive = shutil.make_archive(str(tmp_path / "photos"), kind, tmp_path / "in")
    real, test = data.load(archive)
    assert len(real) == 10 and len(test) == 4 and real.facts.class_names == ANT_BEE and real.facts.name == "photos"
    assert real.sha256() == data.load(tmp_path / "in" / wrap)[0].sha256()


def test_an_archive_written_by_windows_is_read(tmp_path):
    images(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as z:
        for f in sorted((tmp_path / "in").rglob("*.png")):
            z.writestr(f"w\\{f.parent.name}\\{f.name}", f.read_bytes())
    assert sum(map(len, data.load(tmp_path / "w.zip"))) == 10
