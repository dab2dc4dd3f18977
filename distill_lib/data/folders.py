"""Image folders: one look at the whole tree says what it is, before any image is read.

The tree is listed once. Its folders then have one reading (which are the parts, which the classes), or the user is told
the readings and the argument that chooses between them. The book's page `formats` shows the readings.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np

from ..core.errors import UserError, printable
from .read import Part, Source

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
WORDS = {  # of a folder's name -> the part it holds
    "train": ("train", "training", "trn", "trainval", "tr"),
    "val": ("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation", "va"),
    "test": ("test", "testing", "tests", "tst", "holdout", "heldout", "te"),
}
FILLERS = "set sets data dataset image images img imgs pic pics photos split part subset files folder samples x".split()
FOLD = re.compile(r"(k?fold|cv|split|part|round|batch|chunk|shard|subset)[ _-]*(\d+|[a-z])|\d+[ _-]*fold|k\d+", re.I)
NOT_DATA = re.compile(  # left by cameras, file servers, archives and notebooks
    r"\..*|~.*|__macosx|__pycache__|@ea.*|[#@]recycle|[#@]snapshot|@recently-snapshot|\$recycle\.bin|recycler|"
    r"recycle\.bin|system volume information|lost\+found|(ipynb_)?checkpoints|_?thumbnails|thumbs\.db|ehthumbs.*\.db|"
    r"desktop\.ini",
    re.I,
)
TABLES, ARCHIVES = (".csv", ".tsv", ".json", ".jsonl", ".xlsx"), (".zip", ".tar", ".gz", ".tgz", ".xz", ".7z", ".rar")

Parts = dict[str, dict[str, list["Folder"]]]  # part -> class -> its folders
Split = Mapping[str, "str | Sequence[str]"]  # what `split=` says: part -> folders, with * for the class


def split_of(name: str) -> tuple[str, str]:
    """The part that a folder or file is named after ("" for none), and what else its name says.

    >>> split_of("TrainingSet"), split_of("seg_test"), split_of("val2017"), split_of("dogs")
    (('train', ''), ('test', 'seg'), ('val', ''), ('', 'dogs'))
    """
    tokens = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    found, rest = [], []
    for token in tokens:
        word = re.sub(rf"^({'|'.join(FILLERS)})?(.*?)({'|'.join(FILLERS)})*$", r"\2", token.casefold())
        part = next((p for p, words in WORDS.items() if word in words), "")
        if part and len(word) < 3 and len(tokens) > 1:  # "tr" alone is a part, "tr_flag" is not
            part = ""
        if part:
            found.append(part)
        elif token.casefold() not in FILLERS:
            rest.append(token)
    if found == ["train", "val"]:
        found = ["train"]
    return (found[0], "_".join(rest)) if len(found) == 1 else ("", name)


# --- the tree --------------------------------------------------------------------------------------------------------
@dataclass
class Folder:
    """One folder of a tree; what is no data is not in it."""

    path: Path
    at: str  # below the top of the tree, "" for the top itself
    folders: dict[str, Folder] = field(default_factory=dict)
    images: list[Path] = field(default_factory=list)
    others: int = 0  # files that are not read, in it and below

    @cached_property
    def everything(self) -> list[Path]:
        """The images in it and below, sorted by path."""
        return sorted([*self.images, *(image for f in self.folders.values() for image in f.everything)])

    @cached_property
    def full(self) -> list[Folder]:
        """The folders in it that have images."""
        return [f for f in self.folders.values() if f.everything]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def flat(self) -> bool:
        """Whether the images lie in no class folders: directly, or in one folder called `images` or the like."""
        return all(f.name.casefold() in FILLERS and f.flat for f in self.full) and len(self.full) < 2

    def below(self) -> Iterator[Folder]:
        for f in self.full:
            yield f
            yield from f.below()

    @property
    def only(self) -> Folder | None:
        """The one folder in it, where there is nothing else but folders in that one."""
        return self.full[0] if len(self.full) == 1 and not self.images and self.full[0].full else None

    @property
    def opened(self) -> Folder:
        """The first folder, from this one down, that has images or several folders."""
        return self.only.opened if self.only else self

    def inner(self) -> Folder:
        """Where its classes lie: a part may be wrapped once more, as in `seg_train/seg_train/<class>`."""
        wraps = self.only and (
            self.only.name.casefold() in (self.name.casefold(), *FILLERS) or split_of(self.only.name)[0]
        )
        return self.only.inner() if wraps else self


class Tree:
    """Everything below a folder, listed once.

    Raises: UserError: a folder that may not be read, a link that leads nowhere.
    """

    def __init__(self, root: Path):
        self.path = root
        self.no_data: Counter[str] = Counter()  # files by the name that says they are no data
        self.endings: Counter[str] = Counter()  # files by an ending that is not read
        self.loops: list[str] = []
        self.tables: list[Path] = []  # parquet files
        self.chosen: tuple[str, ...] = ()  # the classes that the user names
        self.ids: dict[Path, object] = {}  # of every image: equal for two names of one file
        self.top = self._list(root, "", ())

    def _list(self, path: Path, at: str, above: tuple[tuple[int, int], ...]) -> Folder:
        folder = Folder(path, at)
        try:
            if len(above) > 64:
                raise OSError(0, "more than 64 folders deep")
            here = os.stat(path)
            entries = sorted(os.listdir(path))
        except OSError as err:
            raise UserError(f"{path}: cannot be read ({err.strerror})") from None
        above = (*above, (here.st_dev, here.st_ino))
        for name in entries:
            file, ending = path / name, os.path.splitext(name)[1].lower()
            if NOT_DATA.fullmatch(name):
                n = sum(len(f) for _, _, f in os.walk(file)) if file.is_dir() else 1
                self.no_data["._*" if name.startswith("._") else name] += n
                continue
            try:
                about = os.stat(file)
            except OSError as err:
                if file.is_symlink() and ending and ending not in IMAGE_SUFFIXES:
                    self.endings[ending] += 1
                    continue
                raise UserError(f"{file}: {_why_not(file, err)}") from None
            if stat.S_ISDIR(about.st_mode):
                if (about.st_dev, about.st_ino) in above:
                    self.loops.append(f"{at}/{name}".lstrip("/"))
                    continue
                folder.folders[name] = inside = self._list(file, f"{at}/{name}".lstrip("/"), above)
                folder.others += inside.others
            elif stat.S_ISREG(about.st_mode) and ending in IMAGE_SUFFIXES:
                folder.images.append(file)
                self.ids[file] = (about.st_dev, about.st_ino) if about.st_ino else file
            else:
                regular = stat.S_ISREG(about.st_mode)
                self.tables += [file] if regular and ending == ".parquet" else []
                self.endings[(ending or "without an ending") if regular else "pipe or device"] += 1
                folder.others += 1
        return folder

    def notes(self, used: set[Path]) -> list[str]:
        """What is in the tree and is not read: every file is counted in one of them."""
        notes = []
        if left := _unused(self.top, used):
            total = f"{_count(sum(n for _, n in left))}, " if len(left) > 6 else ""
            notes.append(f"left out: {total}{_some(f'{_count(n)} {where}' for where, n in left)}")
        if self.endings:
            kinds, n = _some(f"{n} {ending}" for ending, n in sorted(self.endings.items())), self.endings.total()
            notes.append(f"left out: {_count(n, 'file')} that {'is' if n == 1 else 'are'} not read: {kinds}")
        if self.no_data:
            names = _some(f"{name} ({n})" for name, n in sorted(self.no_data.items()))
            notes.append(f"left out, no data: {_count(self.no_data.total(), 'file')} in {names}")
        if self.loops:
            notes.append(f"left out, links to a folder above them: {_some(self.loops)}")
        return [printable(note) for note in notes]


def _count(n: int, what: str = "image") -> str:
    return f"{n:,} {what}" + "s" * (n != 1)


def _why_not(file: Path, err: OSError) -> str:
    if not file.is_symlink():
        return f"cannot be read ({err.strerror})"
    target = os.readlink(file)
    if isinstance(err, FileNotFoundError):
        return f"a link to {target}, which is not there; fetch that file (git annex get, dvc pull) or remove the link"
    return f"a link to {target} that cannot be followed ({err.strerror}); remove it"


def _unused(folder: Folder, used: set[Path]) -> list[tuple[str, int]]:
    """Where the images lie that no class took, and how many there are."""
    left = [image for image in folder.everything if image not in used]
    if not left:
        return []
    if len(left) == len(folder.everything) and folder.at:
        return [(f"in {folder.at}", len(left))]
    own = sum(image not in used for image in folder.images)
    beside = [(f"beside the folders{f' in {folder.at}' if folder.at else ''}", own)] if own else []
    return beside + [row for f in folder.full for row in _unused(f, used)]


# --- the readings ----------------------------------------------------------------------------------------------------
def image_folder(
    root: Path, split: Split | None = None, classes: Sequence[str] | None = None, tree: Tree | None = None
) -> Source:
    """Your own tree of images, with what is left out of it in the notes.

    Args:
        split:   which folders hold which part, in place of what their names say: {"train": ["a", "b"], "test": "c"}.
                 A * stands for the class: "*/train", "c/*" (which "c" is short for). "all" is a part still to be split.
        classes: the names of the class folders to read, in label order; by default all, sorted.
        tree:    of `root`, where it was listed already.
    Raises: UserError: no reading, or several: they are listed, each with the argument that chooses it.
    """
    strings = not isinstance(classes, str) and all(isinstance(name, str) for name in classes or [])
    if classes is not None and not (classes and strings):
        raise UserError(f"classes={classes!r}: give a list of folder names")
    tree = tree or Tree(root)
    tree.chosen = tuple(classes or ())
    notes: list[str] = []
    if split is not None:
        parts = _said(tree, split)
    elif classes and (holder := _holder(tree.top, classes)):
        parts = {"all": {name: [holder.folders[name]] for name in classes}}
    else:
        parts = _parts(tree, tree.top, notes)
    first = "train" if "train" in parts else "all"
    names = tuple(classes or sorted(parts[first]))
    _check_classes(tree, parts, names, first, chosen=classes is not None)
    parts = {part: {name: by[name] for name in names} for part, by in parts.items()}
    files, twins = _files(tree, parts)
    if twins:
        notes.append(f"{_count(len(twins))} reached by links too: read once")
    deep = [name for name in names if any(len(f.opened.full) > 1 for by in parts.values() for f in by[name])]
    if deep and split is None:
        notes.append(f"read as one class with all folders in it: {_some(deep)}")
    plain = Counter(map(_plain, names))
    if alike := [name for name in names if plain[_plain(name)] > 1]:
        notes.append(f"classes of their own, though their names are alike: {_some(alike)}")
    found = _source("image folder", root, files, names)
    found.notes = (*notes, *tree.notes({*found.files, *twins}))
    found.key = str([(part, [len(mine) for mine in classes]) for part, classes in files.items()])
    return found


def _source(form: str, root: Path, files: Mapping[str, Sequence[Sequence[Path]]], names: Sequence[str]) -> Source:
    """The source of the images of every part and class.

    Raises: UserError: a class without images.
    """
    for part, classes in files.items():
        if empty := [name for name, mine in zip(names, classes) if not mine]:
            where = "" if part == "all" else f" in the {part} part"
            looked = f"(looked for {', '.join(IMAGE_SUFFIXES)})"
            raise UserError(f"{root}: class {_some(empty)} has no images{where} {looked}")
    listed = [f for classes in files.values() for mine in classes for f in mine]
    return Source(form, root, listed, tuple(files), lambda part: folder_part(files[part]), tuple(names))


def _ambiguous(tree: Tree, why: str, readings: Mapping[str, str | list[str] | Split]) -> NoReturn:
    """Every reading with what chooses it: a split, the list of classes, or what else to do in words."""
    how = {dict: "split={}", list: "classes={}", str: "{}"}
    listed = "; ".join(f"{what}: {how[type(choice)].format(choice)}" for what, choice in readings.items())
    raise UserError(f"{tree.path}: {why}. Say which it is: {listed}")


def beside_tables(tree: Tree) -> None:
    """Raises: UserError: the tree can be read as an image folder too, besides the tables that lie in it."""
    try:
        parts = _parts(tree, tree.top, [])
        at = {part: {_every(f.at.rpartition("/")[0]) for fs in by.values() for f in fs} for part, by in parts.items()}
        split = {part: sorted(places) for part, places in at.items()}
        if any(_said(tree, split)[part].keys() != by.keys() for part, by in parts.items()):
            return
    except UserError:
        return
    tables = f"the path {tree.tables[0]}" if len(tree.tables) == 1 else "the path of a folder that holds them alone"
    why = f"holds {_some(str(f.relative_to(tree.path)) for f in tree.tables)} and"
    why = f"{why} {_count(len(tree.top.everything))} in class folders"
    _ambiguous(tree, why, {"the tables": tables, "the images": split})


def _every(at: str) -> str:
    """The pattern of every folder in one."""
    return f"{at}/*".lstrip("/")


def _said(tree: Tree, split: Split) -> Parts:
    """The parts as the user gives them."""
    if not isinstance(split, Mapping) or set(split) - {*WORDS, "all"} or not all(split.values()):
        raise UserError(f"split={split!r}: give the folders of each part: split={{'train': 'a', 'test': ['b', 'c']}}")
    parts: Parts = {}
    for part, patterns in split.items():
        by = parts.setdefault(part, {})
        for pattern in patterns if isinstance(patterns, list | tuple) else [patterns]:
            steps = [step for step in str(pattern).split("/") if step not in ("", ".")]
            if sum(step.count("*") for step in steps) > 1:
                raise UserError(f"split: {pattern!r} has more than one *; the one * stands for the class")
            found = _match(tree.top, steps if any("*" in step for step in steps) else [*steps, "*"])
            if not found:
                found = _some(tree.top.folders)
                raise UserError(f"split: no class folders in {tree.path} are at {pattern!r}; found {found}")
            for name, folder in found:
                by.setdefault(name, []).append(folder)
    if "train" not in parts and set(parts) != {"all"}:
        raise UserError(f"split={dict(split)!r}: name the folders of the train part, or of all images as 'all'")
    return parts


def _match(folder: Folder, steps: Sequence[str], name: str = "") -> list[tuple[str, Folder]]:
    if not steps:
        return [(name, folder)]
    before, star, after = steps[0].partition("*")
    found = []
    for f in folder.folders.values():
        fits = f.name.startswith(before) and f.name.endswith(after) and len(f.name) > len(before + after)
        if fits if star else f.name == steps[0]:
            found += _match(f, steps[1:], f.name[len(before) : len(f.name) - len(after)] if star else name)
    return found


def _holder(folder: Folder, classes: Sequence[str]) -> Folder | None:
    """The folder in which every class has a folder, at the top or in what wraps it."""
    if all(name in folder.folders for name in classes):
        return folder
    return _holder(folder.full[0], classes) if len(folder.full) == 1 and not folder.images else None


def _parts(tree: Tree, top: Folder, notes: list[str]) -> Parts:
    """Which folders below `top` are parts, and which are classes."""
    if not top.full:
        raise UserError(f"{tree.path}: {_needed(tree, top)}")
    only = top.full[0]
    empty = [f for f in top.folders.values() if not f.everything and not f.others]
    if len(top.full) == 1 and only.full and not empty and not split_of(only.name)[0]:
        notes.append(printable(f"read from the folder {only.at}"))
        return _parts(tree, only, notes)
    groups = _groups(top.full)
    named = {id(f) for group in groups for fs in group.values() for f in fs}
    rest = [f for f in top.full if id(f) not in named]
    if len(groups) > 1:
        if all(f.flat for f in top.full) and not rest and all(len(fs) == 1 for g in groups for fs in g.values()):
            return _by_part((part, split_of(fs[0].name)[1], fs) for group in groups for part, fs in group.items())
        first = [{part: fs[0].at for part, fs in g.items()} for g in groups]
        _ambiguous(tree, "several sets lie side by side", {f"the set of {one['train']}": one for one in first})
    group = groups[0] if groups else {}
    train, named = group.get("train", []), [f.name for fs in group.values() for f in fs]
    if any(not f.flat for f in train):
        return _of_splits(tree, top, group, rest, notes)
    if group and not rest:
        if "train" not in group:
            have = f"has {', '.join(named)}, but no train folder"
            raise UserError(f"{tree.path}: {have}; name it with split={{'train': 'its folder'}}")
        what = f"no class folders in it ({_count(len(train[0].everything))}); put those of each class into a folder"
        raise UserError(f"{train[0].path}: {what}{_hint(tree)}")
    if any(part != "train" for part in group) or any(not f.flat for f in rest if group):
        if len(rest) == 1 and not any(f.flat for f in top.full):
            parts = {"train": rest[0].at, **{part: fs[0].at for part, fs in group.items()}}
            why = f"{rest[0].at} may be the train part"
            _ambiguous(tree, why, {"it is": parts, "a class": {"all": _every(top.at)}})
        every = [f.name for f in top.full]
        without = [name for name in every if name not in named]
        why = f"{', '.join(named)} may be a class or a part without labels"
        _ambiguous(tree, why, {"a class": every, "a part, left out": without})
    notes += [printable(f"{f.at} is read as a class: it has images and no folders") for f in train]
    return _of_classes(tree, top)


def _groups(folders: Sequence[Folder]) -> list[dict[str, list[Folder]]]:
    """Folders named after parts: one group by the plain words, else one by what else the names of a train and a test
    folder have in common, as `seg_train` and `seg_test`."""
    more: dict[str, dict[str, list[Folder]]] = {}
    for f in folders:
        part, rest = split_of(f.name)
        if part:
            more.setdefault(rest, {}).setdefault(part, []).append(f)
    if plain := more.pop("", {}):  # then a part without a plain name may have a longer one
        longer = {part: [f for group in more.values() for f in group.get(part, [])] for part in WORDS}
        found = {part: plain.get(part) or longer[part] for part in WORDS}
        return [{part: fs for part, fs in found.items() if fs}]
    groups = [group for group in more.values() if "train" in group and len(group) > 1]
    once = {part: fs for group in more.values() for part, fs in group.items()}
    if not groups and "train" in once and sum(len(fs) for fs in once.values()) == len(folders) == len(once) > 1:
        groups = [once]  # as `my_train` and `public_test`, with nothing else beside them
    return [{part: group[part] for part in WORDS if part in group} for group in groups]


def _by_part(rows: Iterable[tuple[str, str, list[Folder]]]) -> Parts:
    parts: Parts = {}
    for part, name, folders in rows:
        parts.setdefault(part, {}).setdefault(name, []).extend(folders)
    return {part: parts[part] for part in (*WORDS, "all") if part in parts}


def _of_splits(tree: Tree, top: Folder, group: dict[str, list[Folder]], rest: list[Folder], notes: list[str]) -> Parts:
    """The folders are parts, each with a folder for every class."""
    for part, fs in group.items():
        if len(fs) > 1:
            one = {p: f[0].at for p, f in group.items()}
            why = f"{', '.join(f.name for f in fs)} are all named after the {part} part"
            _ambiguous(tree, why, {"one of them": one, "all": {**one, part: [f.at for f in fs]}})
    if rest and set(group) == {"train"}:
        train = group["train"][0]
        readings = {"a class": {"all": _every(top.at)}, "the train part": {"train": train.at}}
        _ambiguous(tree, f"{train.name} lies beside {_some(f.name for f in rest)}", readings)
    if empty := [f.at for f in top.folders.values() if not f.everything]:
        notes.append(printable(f"without images: {', '.join(empty)}"))
    parts: Parts = {}
    for part, (folder,) in group.items():
        if folder.flat:
            notes.append(printable(f"{folder.at} has no class folders, so its images have no labels"))
        else:
            parts[part] = _of_classes(tree, folder.inner(), group)["all"]
    return parts


def _of_classes(tree: Tree, top: Folder, inside: Mapping[str, list[Folder]] | None = None) -> Parts:
    """Every folder in `top` is a class, unless the folders in them say otherwise.

    Args:
        inside: the parts of the set, if `top` is one of them: what is proposed holds for each, if they have the same
                classes.
    """
    full = [f for f in top.full if not tree.chosen or f.name in tree.chosen]
    tops = {part: f.inner() for part, (f,) in (inside or {}).items() if not f.flat}
    if not tops or any(set(t.folders) != set(top.folders) for t in tops.values()):
        tops = {"all": top}
    every, beside = {part: _every(t.at) for part, t in tops.items()}, {f.name for f in full}
    below = {"classes, with all below them": every}
    for f in full:
        if copy := sorted({g.name for g in f.opened.full} & (beside - {f.name})):
            why = f"{f.at} holds folders named like those beside it ({_some(copy)})"
            _ambiguous(tree, why, {"a copy, left out": sorted(beside - {f.name}), "a class": every})
    inner = [{g.name for g in f.opened.full} for f in full]
    if not inside and all(inner) and all(_splits_of_class(f) for f in full):
        return _by_part((part, f.name, [g]) for f in full for part, g in _splits_of_class(f).items())
    shared = [name for name, n in Counter(name for names in inner for name in names).items() if n > 1]
    mixed = any(f.images and f.full for f in full)
    wrapped = len(shared) == 1 and all(names <= set(shared) for names in inner) and not mixed
    folds = len(full) > 1 and all(FOLD.fullmatch(f.name) for f in full)
    if folds or (shared and not (wrapped and not split_of(shared[0])[0])):
        readings: dict[str, str | list[str] | Split] = {}
        images = next((name for name in shared if name.casefold() in FILLERS), "")
        if images:
            readings[f"classes, images in {images}"] = {part: f"{at}/{images}" for part, at in every.items()}
        else:
            readings["one of them"] = f"the path {tree.path / full[0].at}"
        if not inside and any(split_of(name)[0] for name in shared):
            of = {part: [g.at for f in full for g in f.opened.full if split_of(g.name)[0] == part] for part in WORDS}
            readings["one set in several folders"] = {part: at for part, at in of.items() if at}
        elif not inside and not images and all(inner):
            names = [f.opened.at for f in full]
            train = names[:-1] if len(names) > 2 else names[0]
            readings["one set in several folders"] = {"all": names}
            readings["the last one tests"] = {"train": train, "test": names[-1]}
        why = f"hold folders of the same names ({_some(sorted(shared))})" if shared else "are numbered like folds"
        _ambiguous(tree, f"{_some(f.at for f in full)} {why}", readings | below)
    for f in full:
        if hidden := next((g for g in f.below() if split_of(g.name) in {(part, "") for part in WORDS}), None):
            why = f"{hidden.at} lies in a class and is named after a part"
            _ambiguous(tree, why, {**below, "a set of its own": f"the path {tree.path / f.at}"})
    return {"all": {f.name: [f] for f in top.folders.values()}}


def _splits_of_class(folder: Folder) -> dict[str, Folder]:
    """The parts in a class folder: all it has, each named by a plain word; {} where it is not so."""
    found = {split_of(g.name): g for g in folder.full}
    good = len(found) == len(folder.full) and all(part and not rest and g.flat for (part, rest), g in found.items())
    return {part: g for (part, _), g in found.items()} if good and not folder.images else {}


# --- checks ----------------------------------------------------------------------------------------------------------
def _check_classes(tree: Tree, parts: Parts, names: Sequence[str], first: str, chosen: bool) -> None:
    """Raises: UserError: fewer than two classes, or a class that a part has and another has not."""
    if len(set(names)) != len(names):
        raise UserError(f"classes={list(names)}: a name stands there twice")
    for part, by in parts.items():
        extra = [] if chosen else sorted(set(by) - set(names))
        for lacking, lacks in ((first, extra), (part, [name for name in names if name not in by])):
            if lacks:
                near = [n for n in parts[lacking] if _plain(n) in set(map(_plain, lacks))]
                has = f"; its {_some(near)} differs in case, accents' form, punctuation or zeros"
                has = has if near else f"; it has {_some(sorted(parts[lacking]))}"
                who = "" if lacking == "all" else f"the {lacking} part has "
                raise UserError(f"{tree.path}: {who}no folder for class {_some(lacks)}{has}")
    if len(names) < 2:
        found = f"{_some(names) or 'none'}{_hint(tree)}"
        raise UserError(f"{tree.path}: needs a folder for each of at least two classes; found {found}")
    if odd := [name for name in names if printable(name) != name]:
        raise UserError(f"{tree.path}: the name of the folder {odd[0]} is not UTF-8; rename the folder")


def _plain(name: str) -> str:
    """What is left of a name without case, accents' form, punctuation and leading zeros."""
    text = unicodedata.normalize("NFKC", name).casefold()
    return "_".join(token.lstrip("0") or "0" for token in re.findall(r"[^\W_]+", text)) or text


def _files(tree: Tree, parts: Parts) -> tuple[dict[str, list[list[Path]]], set[Path]]:
    """The images of every part and class, and the further names of files that have several.

    Raises: UserError: a file under two classes or in two parts.
    """
    owner: dict[object, tuple[Path, str]] = {}
    files: dict[str, list[list[Path]]] = {}
    twins: set[Path] = set()
    for part, by in parts.items():
        for name, folders in by.items():
            place, mine = f"{name}, {part}", []
            for image in (image for folder in folders for image in folder.everything):
                other, owned = owner.setdefault(tree.ids[image], (image, place))
                if owned != place:
                    both = f"{other} ({owned}) and {image} ({place})"
                    raise UserError(f"{both} are one file: it can have one class in one part; remove the link")
                if other == image and image not in twins:
                    mine.append(image)
                twins.add(image)
            files.setdefault(part, []).append(mine)
    return files, twins - {image for image, _ in owner.values()}


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _needed(tree: Tree, top: Folder) -> str:
    """What an image folder needs, and what was found in its place."""
    beside = [f"{_count(len(top.images))} in no folder"] if top.images else []
    endings = [f"{n} {ending}" for ending, n in sorted(tree.endings.items())]
    found = ", ".join([_some(top.folders) or "no folders", *beside, *endings[:6]])
    text = "needs train/<class>/ and test/<class>/, or a folder for each of at least two classes"
    return f"{text}; found {found}{_hint(tree)}"


def _hint(tree: Tree) -> str:
    hints = {
        ARCHIVES: "give the path of the archive itself, or unpack it",
        (".npz", ".arrow"): "give the path of the file itself",
        TABLES: "labels in a table are not read: move the images into class folders",
    }
    return next((f"; {hint}" for endings, hint in hints.items() if any(e in endings for e in tree.endings)), "")


# --- sets whose classes are known ------------------------------------------------------------------------------------
def folder_part(classes: Iterable[Sequence[Path]]) -> Part:
    """The images of every class, with the position of the class as label."""
    classes = list(classes)
    labels = np.repeat(np.arange(len(classes)), [len(mine) for mine in classes])
    return Part([image for mine in classes for image in mine], labels.astype(np.int64))


def class_folders(root: Path, class_names: Sequence[str], wnids: Sequence[str] = ()) -> list[Path]:
    """The folder of each class, in label order: named by wnid, or by class name or else label number.

    Raises: UserError: a class has no folder, or several, or shares one with another class.
    """
    there = [p for p in sorted(root.iterdir()) if p.is_dir() and not NOT_DATA.fullmatch(p.name)]
    ways = [str, str.casefold, _plain]  # exactly; in any case; in any punctuation
    folders, missing = [], []
    for k, name in enumerate(class_names):
        wanted = wnids[k] if wnids else name
        tries = [[p for p in there if way(p.name) == way(wanted)] for way in (ways[:2] if wnids else ways)]
        tries.append([p for p in there if not wnids and p.name.isdecimal() and int(p.name) == k])
        hits = next(filter(None, tries), [])
        if len(hits) > 1:
            raise UserError(f"{root}: {_some(p.name for p in hits)} may all be class {name}; keep one of them")
        folders += hits
        missing += [] if hits else [f"{name} ({wanted})" if wnids else name]
    if missing:
        flat = any(p.name.startswith("ILSVRC2012_val_") for p in list(root.iterdir())[:1])
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        how = "torchvision.datasets.ImageNet(root, split='val') sorts them into class folders"
        how = f"; the validation images lie flat: {how}" if flat else ""
        raise UserError(f"{root}: no folder for {len(missing)} of {len(class_names)} classes: {some}{how}")
    if twice := [p.name for p, n in Counter(folders).items() if n > 1 and not wnids]:
        raise UserError(f"{root}: {twice[0]} would be the folder of two classes; name the folders after the classes")
    return folders


def named_folder(root: Path, class_names: Sequence[str], wnids: Sequence[str] = ()) -> Source | None:
    """The folder of a named set: train, and val or test, each with one folder per class.

    Returns: None where `root` has no train folder.
    Raises:  UserError: neither test nor val folder beside it, several of one kind, or a class without a folder.
    """
    groups = _groups([p for p in sorted(root.iterdir()) if p.is_dir()]) if root.is_dir() else []
    if not groups or "train" not in groups[0]:
        return None
    group, notes = groups[0], []
    for part, paths in group.items():
        if len(paths) > 1:
            raise UserError(f"{root}: {_some(p.name for p in paths)} may all be the {part} part; keep one of them")
    if len(group) < 2:
        raise UserError(f"{root}: has a train folder but neither val nor test beside it")
    files: dict[str, list[list[Path]]] = {}
    for part, (path,) in group.items():
        if part == "test" and "val" in group and not any(p.is_dir() for p in path.iterdir()):
            notes.append(f"{path.name} has no class folders, so its images have no labels")
            continue
        folders = class_folders(path, class_names, wnids)
        trees = {p: Tree(p) for p in dict.fromkeys(folders)}
        files[part] = [trees[p].top.everything for p in folders]
        counts = [sum((getattr(tree, kind) for tree in trees.values()), Counter()) for kind in ("endings", "no_data")]
        notes += [f"left out of {part}: {n} {what}" for count in counts for what, n in sorted(count.items())]
        others = [p.name for p in path.iterdir() if p.is_dir() and p not in trees] if not wnids else []
        notes += [printable(f"left out of {part}, no class of the set: {_some(sorted(others))}")] if others else []
    found = _source("image folder", root, files, class_names)
    found.notes = tuple(notes)
    return found


def tiny_imagenet(root: Path) -> Source | None:
    """tiny-imagenet-200; its labelled `val` part is the test set.

    `val` lies as Stanford distributes it, with a table of labels, or sorted into class folders.
    """
    table = root / "val" / "val_annotations.txt"
    if not (root / "train").is_dir() or not (root / "val").is_dir():
        return None
    train, val = Tree(root / "train").top, Tree(root / "val").top
    wnids = sorted(train.folders)
    if not table.is_file() and not all(re.fullmatch(r"n\d{8}", w) for w in wnids):
        return None
    if len(wnids) != 200:
        raise UserError(f"{root / 'train'}: {len(wnids)} class folders instead of 200; fetch the set again")
    if table.is_file():
        place = {image.name: image for image in val.everything}
        lines = table.read_text(errors="replace").splitlines()
        rows = [(*line.split("\t"), "")[:2] for line in lines if line]
        for name, wnid in rows:
            if wnid not in train.folders:
                raise UserError(f"{table}: names {wnid}, which has no folder under train")
            if name not in place:
                raise UserError(f"{table}: names {name}, which is not under val; fetch the set again")
            if {wnid} != {wnid, *({*place[name].parts} & train.folders.keys())}:
                raise UserError(f"{place[name]}: lies in another class than {table.name} says ({wnid})")
        by = {w: sorted(place[name] for name, wnid in rows if wnid == w) for w in wnids}
    else:
        by = {p.name: val.folders[p.name].everything for p in class_folders(root / "val", wnids)}
    files = {"train": [train.folders[w].everything for w in wnids], "test": [by[w] for w in wnids]}
    words = root / "words.txt"
    lines = words.read_text(errors="replace").splitlines() if words.is_file() else []
    names = dict(line.split("\t", 1) for line in lines if "\t" in line)
    found = _source("Stanford's folder", root, files, [names.get(w, w).split(",")[0] for w in wnids])
    found.files = [*found.files, *([table] if table.is_file() else [])]
    return found
