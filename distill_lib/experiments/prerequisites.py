"""What an experiment needs from outside the package, checked before anything is computed.

check("dgs/table1_imagewoof", "full")      # names everything that is missing, and where to put it
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core import paths, weights
from ..core.errors import UserError
from ..core.weights import FOLDERS, find_folder, said_missing, weights_place, where_to_put
from ..data import side
from ..generators import prior
from ..generators.uvit.training import start_file
from .definition import Task


@dataclass(frozen=True)
class Need:
    """Weights and data sets of an experiment's rows in one profile."""

    rows: tuple[str, ...]  # methods that need the weights
    folders: tuple[str, ...] = ()  # of `weights.FOLDERS`
    files: tuple[str, ...] = ()  # of `weights.FILES`
    imagenet: bool = False


_DGS = ("DiT", "Minimax", "DGS")
NEEDS = {
    ("dgs", "full"): Need(_DGS, tuple(FOLDERS), ("ResNet-50",), imagenet=True),
    ("dgs", "small"): Need(_DGS, (), ("TAEF2 encoder", "TAEF2 decoder", "MobileNetV2")),
}


def check(experiment: str, profile: str, rows: list[str] | None = None) -> None:
    """Look for all that an experiment needs.

    Args:
        rows: methods to compute; None for all.
    Raises: UserError: one line for everything that is missing: what it is, and where to put it.
    """
    need = NEEDS.get((experiment.partition("/")[0], profile))
    wanted = {row.lower() for row in (["all"] if rows is None else rows)}
    if need is None or not wanted & {"all", *(row.lower() for row in need.rows)}:
        return
    lines = [
        f"{said_missing(n)}: {where_to_put(n)}"
        for n in need.folders
        if (at := find_folder(n)) is None or not (at / FOLDERS[n][1]).is_file()
    ]
    files = {n: weights.FILES[n] for n in need.files if weights.find(n) is None}
    lines += [f"{n} ({f.about}): put {f.names[0]} into {weights_place()}" for n, f in files.items()]
    if need.imagenet and not _has_imagenet():
        lines.append(
            "ImageNet (ILSVRC-2012): put imagenet/train/<wnid> and imagenet/val/<wnid> into the folder that "
            "DISTILL_DATA names"
        )
    if lines:
        raise UserError(f"{experiment} at {profile} needs what is not here:\n- " + "\n- ".join(lines))


def check_weights(task: Task) -> None:
    """Look for the files of weights that a task's settings name: a generator's, or those to train a U-ViT from.

    Raises: UserError: one of them is not here; where to put it.
    """
    space, training = (getattr(task.config, part, None) for part in ("space", "training"))
    if space is not None:
        prior.file_of(space.prior, side(task.dataset))
    if start := getattr(training, "start", None):
        start_file(start)


def _has_imagenet() -> bool:
    places = [folder / name / "train" for folder in paths.data_folders() for name in paths.IMAGENET_FOLDERS]
    return any(place.is_dir() and any(place.glob("n[0-9]*")) for place in places)
