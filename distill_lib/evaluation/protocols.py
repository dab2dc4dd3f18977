"""Evaluation protocols: how a synthetic set is turned into an accuracy, as named frozen data. Book page:
book/protocols.md

    protocol("vico_dsa")              the preset
    protocol("vico_dsa@60ep")         the same with a budget of 60 epochs; its milestones move along
    protocol("vico_dsa+noaug")        the same without augmentation
    protocol("vico_dsa+soft@60ep")    cross-entropy with the set's soft labels, 60 epochs

Protocols move accuracies by more than most methods differ, so a number without its protocol's name is not comparable.
`departures` lists where a preset differs from `vico_noaug`, with the reasons that its values do not tell.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Annotated, Any, Literal

import pydantic

from ..core.errors import UserError, unknown
from ..core.settings import Count, Whole, added, from_dict, replace, settings
from ..data import like

Share = Annotated[float, pydantic.Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
Rows = tuple[tuple[Count, Count], ...]
DSA = "dsa:color_crop_cutout_flip_scale_rotate"
DSA_NO_FLIP = "dsa:color_crop_cutout_scale_rotate"


@settings
class Case:
    """Fields a protocol changes for some data sets, networks, sizes or numbers of classes.

    A condition that is left out matches everything.
    """

    change: dict[str, Any]
    datasets: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    ipc: int | None = None
    classes_from: int = 0
    soft_labels: bool | None = None

    def matches(self, dataset: str, network: str, ipc: int, classes: int, soft: bool) -> bool:
        return (
            (not self.datasets or like(dataset).name in self.datasets)
            and (not self.networks or network in self.networks)
            and (self.ipc is None or self.ipc == ipc)
            and classes >= self.classes_from
            and (self.soft_labels is None or self.soft_labels == soft)
        )

    def __str__(self) -> str:
        where = [*self.datasets, *self.networks]
        where += [f"IPC {self.ipc}"] * (self.ipc is not None)
        where += [f"{self.classes_from} classes or more"] * (self.classes_from > 0)
        where += ["soft labels" if self.soft_labels else "hard labels"] * (self.soft_labels is not None)
        changes = ", ".join(f"{field} {_said(value)}" for field, value in self.change.items())
        return f"{', '.join(where)}: {changes}"


@settings
class Protocol:
    """How networks are trained on a set and which of their weights are tested. The defaults are those of
    `vico_noaug`."""

    name: str
    # --- how long
    epochs: Count = 300  # nominal; `extra_epoch` adds the one that a loop "to epochs inclusive" runs
    # (up to this IPC, epochs), the last row for anything larger; replaces `epochs`
    epochs_by_ipc: Rows = ()
    steps_by_images: Rows = ()  # (up to this many images, optimiser steps); replaces `epochs`
    steps_of_ipc: Count | None = None  # as many optimiser steps as `epochs` of a set with this many images per class
    extra_epoch: bool = True
    budget: Count | None = None  # epochs of a budget variant, in place of the rules above
    # --- optimiser
    batch: Count = 256  # images; the last, partial batch of an epoch is kept
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Positive = 0.01
    lr_from_set: bool = False  # use the step size learned with the set (its facts.extra["lr_net"]) if it carries one
    lr_grid: tuple[Positive, ...] = ()  # train at each, keep the one with the best selection accuracy
    momentum: Share = 0.9  # sgd
    weight_decay: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 5e-4
    schedule: Literal["restart", "multistep", "warmup_cosine", "half_warmup_half_cosine", "constant"] = "restart"
    milestones: tuple[Share, ...] = ()  # multistep: fractions of the epochs
    gamma: Positive = 0.1  # factor on the learning rate at each milestone
    warmup_steps: Whole = 0  # warmup_cosine
    final_lr: Share = 0.0  # warmup_cosine: last learning rate as a fraction of the highest
    # --- images and labels
    augmentation: str = "none"
    cutmix: Share = 0.0  # probability per batch; box share from Beta(1, 1)
    mixup: Annotated[float, pydantic.Field(ge=0, le=0)] = 0.0  # no protocol here mixes; records hold the field
    # ce: hard labels (arg-max of soft ones); the others use soft labels as they are
    loss: Literal["ce", "soft_ce", "mse", "kl"] = "ce"
    temperature: Positive = 1.0  # kl
    fresh_images: bool = False  # a set backed by a generator draws new images every epoch; otherwise it is drawn once
    # --- what is tested
    ema: Share = 0.0  # > 0: test an exponential average of the weights, updated once per epoch
    checks: Whole = 0  # looks at the accuracy during training, of which the paper reports the best; a named extra here
    num_eval: Count = 20  # networks, if the caller names no number
    cases: tuple[Case, ...] = ()
    precision: Literal["float32", "bfloat16"] = added("float32")  # of multiplications; weights and losses are float32

    def settled(self, dataset: str, network: str, ipc: int, classes: int, soft: bool = False) -> Protocol:
        """This protocol with the cases for one evaluation applied.

        Args:
            ipc:  images per class.
            soft: whether the set has soft labels.
        """
        fields: dict[str, Any] = {}
        for case in self.cases:
            if case.matches(dataset, network, ipc, classes, soft):
                fields |= case.change
        if NO_FLIP in self.cases and not like(dataset).mirrors:
            fields |= NO_FLIP.change
        locked = {field for part in _variants(self.name) for field in VARIANTS[part]}  # what the name says comes first
        fields = {k: v for k, v in fields.items() if k not in locked}
        return from_dict(Protocol, {**_plain(self), **fields, "cases": ()})

    def nominal_epochs(self, ipc: int, images: int) -> int:
        """Epochs before `extra_epoch`; if steps are fixed, the budget counts epochs of the set that fixes them."""
        if self.steps_of_ipc:
            fixed = (self.budget or self.epochs) * self.batches(self.steps_of_ipc * round(images / ipc))
            return max(1, round(fixed / self.batches(images)))
        return self.budget or self.full_epochs(ipc, images)

    def full_epochs(self, ipc: int, images: int) -> int:
        """Epochs before `extra_epoch`, without a budget."""
        if self.steps_of_ipc:
            return replace(self, budget=None).nominal_epochs(ipc, images)
        if self.steps_by_images:
            return math.ceil(_row(self.steps_by_images, images) / self.batches(images))
        return _row(self.epochs_by_ipc, ipc) if self.epochs_by_ipc else self.epochs

    def num_epochs(self, ipc: int, images: int) -> int:
        """How often training passes over the set."""
        return self.nominal_epochs(ipc, images) + self.extra_epoch

    def batches(self, images: int) -> int:
        """Optimiser steps per epoch."""
        return math.ceil(images / self.batch)

    def num_checks(self, ipc: int, images: int) -> int:
        """How often accuracy is looked at during training; a budget lowers the number in proportion."""
        if not self.checks or not self.budget:
            return self.checks
        return max(1, min(self.budget, round(self.checks * self.budget / self.full_epochs(ipc, images))))

    def restarts_after(self, ipc: int, images: int) -> int | None:
        """Index of the epoch after which the optimiser is made anew with a tenth of its learning rate (schedule
        "restart")."""
        if self.schedule != "restart":
            return None
        return self.nominal_epochs(ipc, images) // 2 + 1

    def learning_rates(self, ipc: int, images: int, lr: float | None = None) -> list[float]:
        """The learning rate of every epoch, or of every optimiser step if the warm-up is counted in steps.

        Args:
            ipc:    images per class.
            images: in the set.
            lr:     base learning rate, by default the protocol's.
        """
        lr = self.lr if lr is None else lr
        nominal = self.nominal_epochs(ipc, images)
        total = self.num_epochs(ipc, images)
        if self.schedule == "restart":
            return [lr if e <= nominal // 2 + 1 else lr * self.gamma for e in range(total)]
        if self.schedule == "multistep":
            at = [math.floor(nominal * m + 1e-9) for m in self.milestones]
            return [lr * self.gamma ** sum(e >= m for m in at) for e in range(total)]
        if self.schedule == "half_warmup_half_cosine":
            # The highest twice: GLaD's code goes over to the cosine one epoch after the rise has ended.
            half, start = max(nominal // 2, 1), 1e-7  # the first epoch's learning rate, as a fraction
            rise = [start + (1 - start) * e / half for e in range(min(half + 1, total))]
            fall = [(1 + math.cos(math.pi * min(1, (e - half - 1) / half))) / 2 for e in range(half + 1, total)]
            return [lr * share for share in rise + fall]
        if self.schedule == "warmup_cosine":
            steps, warmup = total * self.batches(images), self.warmup_steps
            if self.budget:
                warmup = round(warmup * self.budget / self.full_epochs(ipc, images))
            rise = [s / warmup for s in range(min(warmup, steps))]
            angles = [math.pi * (s - warmup) / max(steps - warmup, 1) for s in range(warmup, steps)]
            fall = [self.final_lr + (1 - self.final_lr) * (1 + math.cos(angle)) / 2 for angle in angles]
            return [lr * share for share in rise + fall]
        return [lr] * total

    @property
    def about(self) -> str:
        """Whose protocol it is, in one line."""
        preset = self.name.split("@")[0].split("+")[0]
        return SOURCES.get(preset, "your own")

    @property
    def lr_per_step(self) -> bool:
        """Whether `learning_rates` counts optimiser steps instead of epochs."""
        return self.schedule == "warmup_cosine"


def _row(table: tuple[tuple[int, int], ...], value: int) -> int:
    return next((out for bound, out in table if value <= bound), table[-1][1])


def _plain(settings_: Any) -> dict[str, Any]:
    return {f.name: getattr(settings_, f.name) for f in dataclasses.fields(settings_)}


# --- presets --------------------------------------------------------------------------------------
# A mirrored digit is none. Records hold this case, so it stays as it is; `settled` applies it to every set of digits.
# Protocols without it mirror what their codes mirror: IDC all sets, FRePo all but MNIST and FashionMNIST.
NO_FLIP = Case({"augmentation": DSA_NO_FLIP}, datasets=("MNIST", "SVHN"))
# epochs of the IDC family at 10 classes; at 100 classes two thirds, rounded down to hundreds
IMAGENET_EPOCHS = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500), (10**9, 300))
IMAGENET_EPOCHS_100 = ((1, 2000), (10, 1300), (50, 1000), (200, 600), (500, 300), (10**9, 200))

_CHALLENGE = Protocol("challenge", epochs=1000, augmentation=DSA, num_eval=3, cases=(NO_FLIP,))
_IDC_SMALL = Protocol(
    "idc_small",
    epochs=1000,
    extra_epoch=False,
    batch=64,
    schedule="multistep",
    milestones=(2 / 3, 5 / 6),
    gamma=0.2,
    augmentation="idc:color_crop_flip_scale_rotate",
    cutmix=0.5,
    checks=4,
    num_eval=3,
    cases=(Case({"cutmix": 0.0}, datasets=("SVHN",), ipc=1),),
)
_IDC_IMAGENET = replace(
    _IDC_SMALL,
    name="idc_imagenet",
    epochs=300,
    epochs_by_ipc=IMAGENET_EPOCHS,
    augmentation="imagenet",
    cutmix=1.0,
    cases=(Case({"epochs_by_ipc": IMAGENET_EPOCHS_100}, classes_from=100),),
)
_DIM = Protocol(
    "dim",
    epochs=1000,
    extra_epoch=False,
    batch=64,
    schedule="constant",
    augmentation="idc:color_crop",
    fresh_images=True,
    checks=5,
    num_eval=5,
)
_PRESETS = [
    Protocol(
        "vico_noaug",
        cases=(
            Case({"augmentation": "dc:crop_scale_rotate", "epochs": 1000}, datasets=("MNIST",)),
            Case({"augmentation": "dc:crop_noise", "epochs": 1000}, networks=("ConvNetBN",)),
        ),
    ),
    Protocol("vico_dsa", epochs=1000, augmentation=DSA, cases=(NO_FLIP,)),
    Protocol(
        "glad_short",
        epochs=1000,
        augmentation=DSA,
        num_eval=5,
        cases=(NO_FLIP, Case({"lr": 0.001}, networks=("GLaD-VGG11",)), Case({"lr": 3e-4}, networks=("ViT",))),
    ),
    _CHALLENGE,
    replace(_CHALLENGE, name="challenge_steps", steps_of_ipc=10),
    Protocol("mtt", epochs=1000, augmentation=DSA, lr_from_set=True, num_eval=5, cases=(NO_FLIP,)),
    _IDC_SMALL,
    _IDC_IMAGENET,
    replace(_IDC_IMAGENET, name="minimax_imagenet", checks=100),
    Protocol(
        "glad",
        epochs=1000,
        extra_epoch=False,
        lr=0.001,
        schedule="half_warmup_half_cosine",
        augmentation=DSA,
        ema=0.995,
        num_eval=5,
        cases=(Case({"lr": 1e-4}, networks=("VGG11", "GLaD-VGG11")),),
    ),
    Protocol(
        "frepo_mse",
        steps_by_images=((10, 1000), (100, 2000), (500, 5000), (10**9, 10000)),
        extra_epoch=False,
        batch=500,
        optimizer="adam",
        lr=3e-4,
        momentum=0.0,
        weight_decay=0.0,
        schedule="warmup_cosine",
        warmup_steps=500,
        final_lr=0.01,
        augmentation="frepo:flip_color_crop_rotate_translate_cutout",
        loss="mse",
        num_eval=5,
        cases=(Case({"augmentation": "frepo:color_crop_rotate_translate_cutout"}, datasets=("MNIST", "FashionMNIST")),),
    ),
    _DIM,
    replace(_DIM, name="dim_fixed", fresh_images=False),
    Protocol(
        "dd_ranking",
        epochs=1000,
        extra_epoch=False,
        batch=128,
        lr_grid=(0.001, 0.005, 0.01, 0.05, 0.1),
        schedule="multistep",
        milestones=(0.5,),
        augmentation=DSA,
        checks=100,
        num_eval=5,
        cases=(NO_FLIP, Case({"checks": 50}, soft_labels=True)),
    ),
]
PROTOCOLS: dict[str, Protocol] = {p.name: p for p in _PRESETS}

SOURCES: dict[str, str] = {
    "vico_noaug": "Zhao et al., Dataset condensation with gradient matching, ICLR 2021, and its code: rows Random to "
    "DC",
    "vico_dsa": "Zhao and Bilen, ICML 2021 (DSA) and WACV 2023 (DM), and their code",
    "challenge": "First Dataset Distillation Challenge, ECCV 2024, public script of track 1: every image seen in each "
    "of 1001 epochs",
    "challenge_steps": "ours: the challenge's script with the steps that it takes at IPC 10, for sets of thousands of "
    "images",
    "mtt": "Cazenavette et al., CVPR 2022, and its code",
    "idc_small": "Kim et al., ICML 2022 (IDC), code, data sets of 28 and 32 pixels",
    "idc_imagenet": "Kim et al., ICML 2022 (IDC), code, ImageNet subsets",
    "minimax_imagenet": "Gu et al., CVPR 2024 (Minimax diffusion), code; DGS, Table 1",
    "glad": "Cazenavette et al., CVPR 2023 (GLaD), code",
    "glad_short": "ours, for few epochs on GLaD's networks: vico_dsa, with a smaller step size for the two that do not "
    "train at its own",
    "frepo_mse": "Zhou et al., NeurIPS 2022 (FRePo), code",
    "dim": "Wang et al. 2023 (DiM), code; the companion papers' generator rows",
    "dim_fixed": "ours: DiM's training on one fixed sample of the generator",
    "dd_ranking": "DD-Ranking 0.2.0, demo settings, hard labels",
}

# What the values of a preset do not tell.
_LONGER = {"epochs": "VICO's code trains longer with any augmentation"}
_NOT_INCLUSIVE = {"extra_epoch": "its loop ends one epoch earlier"}
_IDC = {**_NOT_INCLUSIVE, "schedule": "the momentum is kept", "milestones": "rounded down to whole epochs"}
_CHALLENGED = {
    **_LONGER,
    "num_eval": "the challenge's score is their mean",
    "cases": "the challenge has no data set of digits",
}
_AS_DIM = {
    **_NOT_INCLUSIVE,
    "batch": "at IPC 1 and batches of 32 DiM's tests during training draw 32 images, its script for testing none",
    "augmentation": "colour and crop for every image",
    "checks": "DiM reports the best of a test every 200 epochs",
    "num_eval": "DiM states none",
    "cases": "no augmentation depends on the data set",
}
REASONS: dict[str, dict[str, str]] = {
    "vico_dsa": {**_LONGER, "augmentation": "one operation per batch, parameters per image"},
    "glad_short": {**_LONGER, "cases": "these networks do not train at 0.01; GLaD's ViT has no LayerNorm"},
    "challenge": _CHALLENGED,
    "challenge_steps": {**_CHALLENGED, "steps_of_ipc": "as many optimiser steps for a set of any size"},
    "mtt": {**_LONGER, "lr_from_set": "the step size learned with the images; its usual start for a set without one"},
    "idc_small": {**_IDC, "checks": "IDC prints the best of four looks beside the last"},
    "idc_imagenet": {**_IDC, "checks": "best and last are printed; four looks, as on the small data sets"},
    "minimax_imagenet": {**_IDC, "checks": "Minimax reports the best of a look every hundredth of the training"},
    "glad": {
        **_NOT_INCLUSIVE,
        "schedule": "linear warm-up over the first half, cosine to zero over the second",
        "ema": "of the tested weights: after k updates, one per epoch, the decay is at most 1 - 1/(1 + k)",
    },
    "frepo_mse": {
        "extra_epoch": "counted in steps",
        "momentum": "Adam's own",
        "warmup_steps": "under a budget the same share of the steps",
        "final_lr": "as a fraction of the highest",
        "augmentation": "one of FRePo's own operations per batch",
        "loss": "half the squared distance to the learned labels; hard labels are centred one-hot vectors",
    },
    "dim": {**_AS_DIM, "fresh_images": "IPC is images per epoch, not storage"},
    "dim_fixed": _AS_DIM,
    "dd_ranking": {
        **_NOT_INCLUSIVE,
        "lr_grid": "the best counts; `evaluate` says which images choose it",
        "schedule": "the momentum is kept",
        "checks": "DD-Ranking reports the best of a test every 10 epochs, 20 with soft labels",
    },
}


def departures(name: str) -> list[dict[str, str]]:
    """Where a preset differs from `vico_noaug`: rows of protocol, field, here, `vico_noaug` and why."""
    return [
        {
            "protocol": name,
            "field": field,
            "here": _said(here),
            "vico_noaug": _said(there),
            "why": REASONS.get(name, {}).get(field, ""),
        }
        for field, (there, here) in differing_fields(name).items()
    ]


def _said(value: Any) -> str:
    """A field's value in words: rows (up to, value) as "up to 1: 3000, more: 300"."""
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return ", ".join([*(f"up to {bound}: {v}" for bound, v in value[:-1]), f"more: {value[-1][1]}"])
    if isinstance(value, tuple):
        return "; ".join(map(_said, value)) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# --- names ----------------------------------------------------------------------------------------
VARIANTS: dict[str, dict[str, Any]] = {
    "noaug": {"augmentation": "none", "cutmix": 0.0, "mixup": 0.0},
    "dsa": {"augmentation": DSA},
    "dsa_noflip": {"augmentation": DSA_NO_FLIP},
    "hard": {"loss": "ce"},
    "soft": {"loss": "soft_ce"},
    "mse": {"loss": "mse"},
    "kl": {"loss": "kl"},
    "bfloat16": {"precision": "bfloat16"},
}
_BUDGET = re.compile(r"([1-9][0-9]*)ep")


def _variants(name: str) -> list[str]:
    """The known variants in a name; an own protocol may be called anything."""
    return [part for part in name.split("@")[0].split("+")[1:] if part in VARIANTS]


def protocol(name: str | Protocol) -> Protocol:
    """The protocol of a name: a preset, changed by `+variant`s and by a budget `@<n>ep`, which stay in its name.

    Args:
        name: such as "vico_dsa", "vico_dsa@60ep" or "vico_dsa+noaug@60ep"; a `Protocol` passes unchanged.
    Raises: UserError: an unknown preset or variant, or a budget that is not a number of epochs.
    """
    if isinstance(name, Protocol):
        try:
            known = protocol(name.name)
        except UserError:  # a name of one's own
            return name
        if not _is(name, known):
            raise UserError(f"protocol {name.name!r}: differs from the preset of that name; give yours another one")
        return name
    base, at, budget = name.partition("@")
    preset, *variants = base.split("+")
    if preset not in PROTOCOLS:
        raise unknown("protocol", preset, PROTOCOLS)
    fields: dict[str, Any] = {}
    for variant in variants:
        if variant not in VARIANTS:
            raise unknown(f"variant of {preset}", variant, VARIANTS)
        fields |= VARIANTS[variant]
    if at:
        number = _BUDGET.fullmatch(budget)
        if not number:
            raise UserError(f"protocol {name!r}: a budget is a number of epochs, such as {base}@60ep")
        fields["budget"] = int(number[1])
    return replace(PROTOCOLS[preset], name=name, **fields)


def _is(own: Protocol, known: Protocol) -> bool:
    """Whether a protocol is the one that its name stands for, perhaps with cases applied."""
    if own.cases not in ((), known.cases):
        return False
    own_fields, known_fields = _plain(replace(own, cases=())), _plain(replace(known, cases=()))
    applied = [from_dict(Protocol, {**known_fields, **case.change}) for case in known.cases if not own.cases]
    values = {k: [v, *(getattr(one, k) for one in applied)] for k, v in known_fields.items()}
    return all(v in values[k] for k, v in own_fields.items())


def differing_fields(name: str) -> dict[str, tuple[Any, Any]]:
    """Fields in which a preset differs from `vico_noaug`: {field: (vico_noaug's value, the preset's)}."""
    reference, other = _plain(PROTOCOLS["vico_noaug"]), _plain(protocol(name))
    return {k: (reference[k], v) for k, v in other.items() if k != "name" and v != reference[k]}
