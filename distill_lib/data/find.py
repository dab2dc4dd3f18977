"""Where a named set lies: an explicit path, `DISTILL_DATA`, system packages, the user's cache, a download with
checksum."""

from __future__ import annotations

import errno
import functools
import glob
import hashlib
import lzma
import math
import os
import shutil
import socket
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import numpy as np
import torch

from ..core import paths, rng
from ..core.errors import UserError
from ..core.files import short, unwritable
from . import arrays, folders, read
from .catalogue import Dataset
from .read import Part, Source

BUNDLED_SHA256 = {
    "FashionMNIST-mini": "8f1d36bcc4a2cbbb498dc542a8f41d2c60e2e4433a795288e374604682b3ea32",
    "BloodCells-mini": "54aac56954545fd9ce1dc94c137f674d0e4e022b93e05696b3ab5b5267d7ad1f",
    "PneumoniaMNIST-mini": "3ecdf29e1d62c8695b5d0d0266ddf2d1fd5bc1e31603ee7cf6abe1b7e82dbdbb",
}
FASTAI = "https://s3.amazonaws.com/fast-ai-imageclas/"
FILES = {  # where a set is published, the file, its md5
    "TinyImageNet": [("http://cs231n.stanford.edu/", "tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de")],
    "ImageNette": [(FASTAI, "imagenette2-320.tgz", "3df6f0d01a2c9592104656642f5e78a3")],
    "ImageWoof": [(FASTAI, "imagewoof2-320.tgz", "0f46d997ec2264e97609196c95897a44")],
}
ARCHIVES = {  # file -> the folder inside it; read where one lies in a data folder
    "CIFAR10": {"cifar-10-python.tar.gz": "cifar-10-batches-py"},
    "CIFAR100": {"cifar-100-python.tar.gz": "cifar-100-python"},
    "TinyImageNet": {"tiny-imagenet-200.zip": "tiny-imagenet-200"},
    "ImageNette": {f"imagenette2{size}.tgz": f"imagenette2{size}" for size in ("", "-320", "-160")},
    "ImageWoof": {f"imagewoof2{size}.tgz": f"imagewoof2{size}" for size in ("", "-320", "-160")},
}
FOLDERS = {  # further names of a set's image folder, besides its own name
    "BloodCells": tuple(f"{at}dataset2-master/images" for at in ("bloodcells/dataset2-master/", "bloodcells/", "")),
    "ImageNette": tuple(ARCHIVES["ImageNette"].values()),
    "ImageWoof": tuple(ARCHIVES["ImageWoof"].values()),
}
DEBIAN = {"FashionMNIST": "fashion-mnist"}


# --- the sets that need no folder ------------------------------------------------------------------------------------
def bundled(dataset: Dataset) -> Source:
    """A set inside the package, checked against its stored sha256.

    Raises: UserError: the file is missing or was changed.
    """
    path = paths.bundled() / f"{dataset.name}.npz"
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as err:
        raise UserError(f"{path}: cannot be read ({err.strerror}); install distill_lib again") from None
    if found != (want := BUNDLED_SHA256[dataset.name]):
        remedy = "restore it (git checkout, or install distill_lib again)"
        raise UserError(f"{path}: damaged: its sha256 is {found}, not {want}; {remedy}")
    return arrays.npz(path)


def digits() -> Source:
    """scikit-learn's 8 x 8 digits, grey levels 0..16 spread over 0..255, with 50 images per class held out as test
    set."""

    def whole(split: str) -> Part:
        from sklearn.datasets import load_digits  # here: scikit-learn takes a second to import

        d = load_digits()
        part = Part(np.round(d.images * (255 / 16)).astype(np.uint8), d.target.astype(np.int64), verified=True)
        rest, held = hold_out(part.labels, 50, 0)
        return part.take(rest if split == "train" else held)

    return Source("scikit-learn", Path("scikit-learn"), [], ("train", "test"), whole)


def hold_out(
    labels: np.ndarray, per_class: int | float, seed: int, names: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Positions to keep and positions held out, `per_class` images (or that share, below 1) of every class, both in
    order. `names` of the classes are for the message.

    Raises: UserError: nothing to hold out, or a class too small to keep at least one image.
    """
    if not 0 < per_class < math.inf or (per_class >= 1 and per_class != int(per_class)):
        what = "give a number of images, or a share between 0 and 1"
        raise UserError(f"cannot hold out {per_class} images of each class: {what}")
    g, held = rng.stream(seed, "hold-out"), []
    for k in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == k)
        n = max(1, round(per_class * len(members))) if per_class < 1 else int(per_class)
        if n >= len(members):
            which = f"{k} ({names[k]})" if names and names[k] != str(k) else k
            has = f"it has {len(members)}, and at least one must stay"
            raise UserError(f"cannot hold out {n} images of class {which}: {has}")
        held.append(members[torch.randperm(len(members), generator=g)[:n].numpy()])
    held = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), held), held


# --- a set in a folder -----------------------------------------------------------------------------------------------
def wanted(dataset: Dataset, size: int) -> list[str]:
    """The names looked for in every folder, for messages."""
    low = dataset.name.lower()
    names = {
        "idx": [f"{dataset.name}/raw/train-images-idx3-ubyte[.gz]"],
        "cifar": list(ARCHIVES.get(dataset.name, {}).values()),
        "tiny": ["tiny-imagenet-200"],
        "imagenet": ["imagenet/train/<wnid> with imagenet/val/<wnid>"],
    }.get(dataset.family, [])
    folder = f"{low}/train/<class> with {low}/test/<class>"
    return [*names, *ARCHIVES.get(dataset.name, {}), _npz_names(dataset, size)[0], folder]


def _npz_names(dataset: Dataset, size: int) -> list[str]:
    suffix = "" if not dataset.sizes or size == 28 else f"_{size}"
    return list(dict.fromkeys((f"{dataset.name.lower()}{suffix}.npz", f"{dataset.name}{suffix}.npz")))


def in_folder(dataset: Dataset, folder: Path, size: int, itself: bool = False) -> Source | None:
    """The set in the first form it has under `folder`: torchvision's, npz, image folder, archive.

    Args:
        size:   px of the MedMNIST file wanted.
        itself: `folder` may also be the set's own folder or file, not only the one above it.
    """
    if folder.is_file():
        if folder.suffix.lower() == ".npz":
            return _npz(dataset, folder, size)
        if folder.name in ARCHIVES.get(dataset.name, {}):
            return _in_archive(dataset, folder, size)
        raise UserError(f"{folder}: not a folder, and not an .npz file")
    if not folder.is_dir():
        return None
    for reader, place in _forms(dataset, folder, size, itself):
        if source := reader(place):
            return source
    return None


def _forms(
    dataset: Dataset, folder: Path, size: int, itself: bool
) -> Iterator[tuple[Callable[[Path], Source | None], Path]]:
    """Every form that a set may have in a folder, in the order in which they are tried: how and where to read it."""
    name, here = dataset.name, (".",) if itself else ()
    folder_of = functools.partial(folders.named_folder, class_names=dataset.class_names, wnids=dataset.wnids)
    if dataset.family == "idx":
        for sub in (f"{name}/raw", DEBIAN.get(name, name.lower()), name.lower(), *here):
            yield read.idx_folder, folder / sub
    if dataset.family == "cifar":
        inside = next(iter(ARCHIVES[name].values()))
        own = folder.parent if itself and folder.name == inside else folder
        yield functools.partial(read.cifar_folder, name=name), own / inside
    if dataset.family == "imagenet":
        for sub in paths.IMAGENET_FOLDERS:
            if any((folder / sub / "train" / w).is_dir() for w in dataset.wnids):
                yield folder_of, folder / sub
    for file in _npz_names(dataset, size):
        if (folder / file).is_file():
            yield functools.partial(_npz, dataset, size=size), folder / file
    tiny = dataset.family == "tiny"
    subs = ("tiny-imagenet-200", "tinyimagenet", name) if tiny else (name, name.lower(), *FOLDERS.get(name, ()))
    for sub in (*subs, *here):
        yield folders.tiny_imagenet if tiny else folder_of, folder / sub
    for archive in ARCHIVES.get(name, {}):
        if (folder / archive).is_file():
            yield functools.partial(_in_archive, dataset, size=size), folder / archive


def _in_archive(dataset: Dataset, archive: Path, size: int) -> Source:
    """The set in an archive, also where further folders wrap it there."""
    inside = top = unpacked(archive)
    while True:
        if source := in_folder(dataset, inside, size, itself=True):
            return source
        deeper = [p for p in inside.iterdir() if p.is_dir() and not folders.NOT_DATA.fullmatch(p.name)]
        if len(deeper) != 1:
            found = ", ".join(sorted(p.name for p in top.iterdir())) or "nothing"
            raise UserError(f"{archive}: {dataset.name} is not in it; it holds {found}. Fetch it again")
        inside = deeper[0]


def _npz(dataset: Dataset, path: Path, size: int) -> Source:
    published = [lambda: downloads(dataset, size)[0][2]] if dataset.family == "medmnist" else []
    source = arrays.npz(path, *published, join_marks=dataset.name == "ChestMNIST")
    if "train" not in source.splits or not {"test", "val"} & set(source.splits):
        need = "train_images, train_labels, test_images, test_labels"
        raise UserError(f"{path}: holds {', '.join(source.splits)}; {dataset.name} needs {need}")
    if source.class_names and len(source.class_names) != dataset.num_classes:
        has = f"{dataset.name} has {dataset.num_classes} classes"
        raise UserError(f"{path}: has {len(source.class_names)} class names; {has}")
    return source


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a file's lock: whoever prepares the same file at once waits and finds it ready."""
    held = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except OSError as err:
        raise unwritable(path, err) from None
    try:
        yield
    finally:
        held.release()


def clear_stale(path: Path) -> None:
    """Remove what a killed process left under temporary names; call with the file's lock held."""
    for left in path.parent.glob(f".{glob.escape(path.name)}-*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def drop_outdated(path: Path) -> None:
    """Remove the copies prepared from earlier versions of the same files: the name says all but their fingerprint."""
    for old in path.parent.glob(f"{glob.escape(path.name.rsplit('-', 1)[0])}-*{path.suffix}"):
        if old != path:
            with suppress(OSError):  # still open in another process, on systems that mind
                old.unlink()
            old.with_name(f".{old.name}.lock").unlink(missing_ok=True)


def unpacked(archive: Path) -> Path:
    """The folder an archive was unpacked to in the user's cache; unpacks it the first time, complete or not at all.

    Raises: UserError: truncated or damaged, protected by a password, packed in a way Python cannot read.
    """
    stat = archive.stat()
    key = hashlib.sha256(f"{archive}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()[:16]
    target = paths.cache() / "unpacked" / f"{short(archive.name.split('.')[0])}-{key}"
    if target.is_dir():
        return target
    with lock(target):
        if not target.is_dir():
            clear_stale(target)
            part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
            try:
                _unpack(archive, part)
                part.chmod(0o755)  # as other files of a cache that several users share
                part.rename(target)
            except tarfile.FilterError as err:
                raise UserError(f"{archive}: not unpacked, it would write outside its folder ({err})") from None
            except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as err:
                if isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
                    raise unwritable(target, err) from None
                if isinstance(err, OSError) and err.errno:
                    raise UserError(f"{archive}: cannot be unpacked here ({err.strerror})") from None
                why = str(err).partition("\n")[0]
                raise UserError(f"{archive}: truncated or damaged archive ({why}); fetch it again") from None
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return target


def not_in(archive: Path, folder: Path, err: UserError) -> UserError:
    """An error about the archive that `folder` was unpacked from; what was unpacked is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    return UserError(str(err).replace(str(folder), str(archive)))


def _unpack(archive: Path, to: Path) -> None:
    with open(archive, "rb") as f:
        if why := read.instead(f.read(512)):
            raise UserError(f"{archive}: {why}")

    def once(member: tarfile.TarInfo, at: str) -> tarfile.TarInfo:
        if member.isfile() and (to / member.name).is_file():
            raise UserError(f"{archive}: holds {member.name} twice; unpack it yourself and give the folder")
        return tarfile.data_filter(member, at)

    if tarfile.is_tarfile(archive) or not (archive.suffix.lower() == ".zip" or zipfile.is_zipfile(archive)):
        with tarfile.open(archive) as tar:
            tar.extractall(to, filter=once)
            if tar.fileobj.tell() < tar.offset + tarfile.BLOCKSIZE:  # tarfile takes a cut in a header for the end
                raise tarfile.ReadError("no end of archive")
            while tar.fileobj.read(2**20):  # to the checksum of a gzip archive, at its end
                pass
        return
    with zipfile.ZipFile(archive) as z:
        for member in z.infolist():
            if not member.flag_bits & 0x800:  # not marked as UTF-8, which some tools forget
                with suppress(UnicodeError):
                    member.filename = member.filename.encode("cp437").decode()
            name = member.filename = member.filename.replace("\\", "/")  # some Windows tools write names so
            packing = "Deflate64" if member.compress_type == 9 else f"method {member.compress_type}"
            if name.startswith("/") or ".." in name.split("/"):
                raise UserError(f"{archive}: not unpacked, it would write outside its folder ({name})")
            wrong = {
                "protected by a password": member.flag_bits & 1,
                f"packed with {packing}, which Python cannot read": member.compress_type not in (0, 8, 12, 14),
                f"holds {name} twice": (to / name).is_file(),
            }
            if why := next((why for why, so in wrong.items() if so), ""):
                raise UserError(f"{archive}: {why}; unpack it yourself (7z x) and give the folder")
            z.extract(member, to)


# --- downloads -------------------------------------------------------------------------------------------------------
def downloads(dataset: Dataset, size: int) -> list[tuple[list[str], str, str]]:
    """What to fetch: addresses to try, the place below a data folder, the published md5."""
    if dataset.family in ("idx", "cifar"):
        from torchvision import datasets  # here: torchvision takes more than a second to import

        cls = getattr(datasets, dataset.name)
        if dataset.family == "cifar":
            return [([cls.url], cls.filename, cls.tgz_md5)]
        return [([m + f for m in cls.mirrors], f"{dataset.name}/raw/{f}", md5) for f, md5 in cls.resources]
    if dataset.family == "medmnist":
        from medmnist.info import INFO  # here: it imports pandas and scikit-learn, a second

        suffix = "" if size == 28 else f"_{size}"
        info = INFO[dataset.name.lower()]
        return [([info[f"url{suffix}"]], f"{dataset.name.lower()}{suffix}.npz", info[f"MD5{suffix}"])]
    return [([at + file], file, md5) for at, file, md5 in FILES.get(dataset.name, ())]


def how_to_fetch(dataset: Dataset, size: int) -> str:
    """The command that fetches a set by hand, or what to do where there is no direct address."""
    folder = next(iter(paths.given_data_folders()), paths.cache() / "downloads")
    if dataset.family == "imagenet" and dataset.name not in FOLDERS:
        where = f"{folder}/imagenet/train/<wnid>/ and val/<wnid>/"
        return f"get ILSVRC-2012 from image-net.org (registration needed) and unpack it to {where}"
    if dataset.name == "BloodCells":
        return f"kaggle datasets download paultimothymooney/blood-cells --unzip -p {folder}/bloodcells"
    files = [(folder / place, urls[0]) for urls, place, _ in downloads(dataset, size)]
    return " && ".join(f"curl -L --create-dirs -o '{place}' '{url}'" for place, url in files)


def download(dataset: Dataset, size: int) -> None:
    """Fetch a set into the user's cache; every file is checked against its md5 before it gets its name.

    Raises: OSError, RuntimeError: no network, or a wrong checksum.
    """
    from torchvision.datasets.utils import download_url  # here: torchvision takes more than a second to import

    root = paths.cache() / "downloads"
    for urls, place, md5 in downloads(dataset, size):
        target = root / place
        with lock(target):
            if target.is_file():
                continue
            clear_stale(target)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as part:
                for i, url in enumerate(urls):
                    try:
                        with _timeout(30):
                            download_url(url, part, target.name, md5)
                        break
                    except (OSError, RuntimeError):
                        if i == len(urls) - 1:
                            raise
                os.replace(Path(part) / target.name, target)


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# --- look-up order ---------------------------------------------------------------------------------------------------
def locate(dataset: Dataset, size: int, folder: Path | None, allow_download: bool) -> Source:
    """The set, from the first place that has it: `folder` alone if given, else `DISTILL_DATA`, system packages, cache,
    download.

    Raises: UserError: found nowhere; says which file was wanted, where it was looked for and how to fetch it.
    """
    if dataset.family == "bundled":
        return bundled(dataset)
    if dataset.family == "digits":
        return digits()
    places = [folder] if folder else paths.data_folders()
    for place in places:
        if source := in_folder(dataset, place, size, itself=folder is not None):
            return source
    why = ""
    if folder is None and allow_download and downloads(dataset, size):
        try:
            download(dataset, size)
            if source := in_folder(dataset, paths.cache() / "downloads", size):
                return source
        except (OSError, RuntimeError) as err:
            why = f" Downloading failed: {str(err).rstrip(chr(46))}."
    elif folder is None and not allow_download:
        why = " Downloading is off."
    looked = f"Wanted one of {'; '.join(wanted(dataset, size))} in {', '.join(map(str, places))}.{why}"
    more = "" if folder else " ; or set DISTILL_DATA to the folders that hold your data sets"
    more += "; or pass resize='bicubic' to enlarge the 28 px images" if dataset.sizes and size != 28 else ""
    raise UserError(f"{dataset.name}: not found. {looked} Fetch it with: {how_to_fetch(dataset, size)}{more}")
