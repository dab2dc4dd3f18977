"""SKD's claims: what self-knowledge distillation adds to a conditional GAN."""

from __future__ import annotations

import statistics
from typing import Any

from ...core.settings import replace
from ...generators.cgan import GAN
from ...methods import METHODS
from ..claims import Arm, Claim, Scale, against, experiment_of

# Stage 1, one GAN per data set for all arms and repeats: 6,400 steps of 32 images, a sixth as wide as DiM's code has it
# (the paper states no width); trained until a classifier of real images recognises no more of its samples.
WIDE = replace(GAN().small(), epochs=80)
EPOCHS = {1: 300, 10: 100}  # of evaluation under the fair protocol: the training loss is flat


def _config(method: str, dataset: str, ipc: int) -> Any:
    return replace(METHODS[method].paper_config(dataset, ipc).small(), gan=WIDE)


def _arms(dataset: str, ipc: int) -> dict[str, Arm]:
    """The arms at one number of images per class: all but `real` start from one GAN and take the same 200 steps."""
    skd = _config("SKD", dataset, ipc)
    arms = {method: Arm(method, _config(method, dataset, ipc)) for method in ("DiM", "SKD (no standardisation)")}
    return arms | {
        "SKD": Arm("SKD", skd),
        "GAN": Arm("CGAN", _config("CGAN", dataset, ipc)),
        "longer": Arm("CGAN", replace(_config("CGAN", dataset, ipc), longer=skd.matching), "trained on"),
        "one network": Arm("SKD", replace(skd, matching=replace(skd.matching, pool=("ConvNetW64",))), "one ConvNet"),
        "real": Arm("Random", METHODS["Random"].paper_config(dataset, ipc)),
    }


def _fair(dataset: str, ipc: int) -> Scale:
    """One protocol for all rows: a generator draws its images once, as many as others store."""
    return Scale(dataset, f"vico_dsa@{EPOCHS[ipc]}ep", num_eval=3)


# Name of an idea: our arm, theirs, what is claimed, and where the paper says it.
IDEAS = {
    "SKD over real images": (
        ("SKD", "real"),
        "As many images of SKD train better networks than real ones",
        "ours: no sentence claims it; Table 1 has the rows Random and Ours, but need not compare as many images",
    ),
    "SKD over DiM": (("SKD", "DiM"), "SKD trains better networks than DiM", "Section 3.2, Table 1"),
    "standardised logits": (
        ("SKD", "SKD (no standardisation)"),
        "Standardising the logits improves accuracy",
        "Section 3.2, Table 1, rows Ours and Ours (No Stand.)",
    ),
    "stage 2 over stage 1": (
        ("SKD", "GAN"),
        "Matching by SKD improves the GAN it starts from",
        "Section 2.1; Table 1, rows Ours and CGAN, a baseline: the paper does not say that SKD starts from it",
    ),
    "matching over training on": (
        ("SKD", "longer"),
        "Matching improves the GAN more than as many further steps of its training",
        "Section 2.1: without matching the set lacks information; no such row",
    ),
    "pool over one network": (
        ("SKD", "one network"),
        "Matching with a pool of networks trains better ConvNets than matching with one ConvNet",
        "Section 2.2, but there across architectures, here on the ConvNet alone; not measured in the paper",
    ),
    "steadier over networks": (
        ("DiM", "SKD"),
        "Networks trained on one set of SKD differ less than those on one set of DiM",
        "Section 3.3: the method increased the stability of the results",
    ),
    "steadier over architectures": (
        ("DiM", "SKD"),
        "Accuracies lie closer together on SKD's sets than on DiM's",
        "Section 3.3: the method increased the stability of the results",
    ),
}
OF_TABLE1 = [name for name in IDEAS if not name.startswith("steadier")]
_PRINTED = {  # accuracies of SKD, DiM, SKD without standardisation, the GAN and real images
    ("FashionMNIST", 1): ("85.5 ± 0.4", "84.5 ± 0.4", "85.0 ± 0.2", "81.5 ± 0.5", "51.4 ± 3.8"),
    ("FashionMNIST", 10): ("89.0 ± 0.5", "88.2 ± 0.2", "88.6 ± 0.4", "84.0 ± 0.2", "73.8 ± 0.7"),
    ("MNIST", 1): ("97.9 ± 0.2", "96.5 ± 0.6", "97.3 ± 0.1", "96.1 ± 0.7", "64.9 ± 3.5"),
    ("CIFAR10", 10): ("68.2 ± 0.4", "66.2 ± 0.5", "67.3 ± 0.5", "62.7 ± 0.9", "26.0 ± 1.2"),
}
_TABLE2 = {  # as printed: ConvNet3, ResNet18, AlexNet, VGG11; CIFAR10 at IPC 10
    "SKD": ("68.2 ± 0.4", "69.9 ± 0.3", "69.6 ± 0.3", "69.2 ± 0.1"),
    "DiM": ("66.2 ± 0.5", "69.2 ± 0.3", "67.3 ± 0.9", "66.8 ± 0.5"),
    "SKD (no standardisation)": ("67.3 ± 0.5", "69.6 ± 0.5", "68.9 ± 0.7", "68.2 ± 0.3"),
}


def _spread(method: str, first: int) -> str:
    """The deviation of Table 2's means over its networks from number `first` on."""
    return f"{statistics.stdev(float(text.partition(' ')[0]) for text in _TABLE2[method][first:]):.1f}"


SPREADS = {
    "steadier over networks": "no such number: ± is over five experiments (Section 3.2), not over networks of one set",
    "steadier over architectures": "no such number; from the means of Table 2 (CIFAR10 at IPC 10) follow deviations of "
    f"{_spread('SKD', 1)} against {_spread('DiM', 1)} over ResNet18, AlexNet and VGG11, and of {_spread('SKD', 0)} "
    f"against {_spread('DiM', 0)} with ConvNet3",
}
FAIR = [("FashionMNIST", 1), ("FashionMNIST", 10), ("MNIST", 1)]
DIM = Scale("FashionMNIST", "dim@300ep", num_eval=2)  # the paper's: new images in every epoch
UNSEEN = Scale("FashionMNIST", "vico_dsa@300ep", num_eval=1, networks=("IDC-ThinResNet18", "AlexNet", "VGG11"))
FEWER = 10  # repeats of what takes minutes each


FRESH, UNLIKE = " and new images in every epoch", " on unseen networks"
HOW = {"": "", FRESH: ", with new images in every epoch", UNLIKE: ", on architectures that the matching has not seen"}


def _claims(
    dataset: str, ipc: int, names: list[str], n: int = 20, scale: Scale | None = None, how: str = "", **more: Any
) -> list[Claim]:
    """Claims on one data set at one number of images per class; by default on a few fixed images for every network.

    Args:
        how: in which the scale differs from that, in words.
    """
    arms, at, out = _arms(dataset, ipc), f"{dataset} at IPC {ipc}", []
    numbers = dict(zip(["SKD", "DiM", "SKD (no standardisation)", "GAN", "real"], _PRINTED[dataset, ipc]))
    for name in names:
        (ours, theirs), sentence, source = IDEAS[name]
        printed = f"{numbers[ours]} against {numbers[theirs]} ({at})" if theirs in numbers else f"no number ({at})"
        options = {"smoke": (name, dataset, ipc, how) == ("SKD over DiM", "FashionMNIST", 1, "")} | more
        if name.startswith("steadier"):
            printed, options["quantity"] = SPREADS[name], name.replace("steadier", "spread")
        elif scale is UNSEEN:
            alexnet, vgg = (f"{_TABLE2[ours][i]} against {_TABLE2[theirs][i]}" for i in (2, 3))
            source = "Section 3.3, Table 2 (without ResNet18, which is in the paper's pool)"
            printed = f"{alexnet} (CIFAR10 at IPC 10 with AlexNet), {vgg} (with VGG11)"
        about = (f"{name}: {at}{how}", f"{sentence}{HOW[how]}.", source, printed)
        repeats = 10 if name == "SKD over real images" else n
        out.append(Claim(*about, scale or _fair(dataset, ipc), against(arms[ours], arms[theirs]), repeats, **options))
    return out


CLAIMS = [
    *(claim for dataset, ipc in FAIR for claim in _claims(dataset, ipc, OF_TABLE1)),
    *_claims("FashionMNIST", 1, ["SKD over DiM", "standardised logits", "stage 2 over stage 1"], FEWER, DIM, FRESH),
    *_claims(
        "FashionMNIST",
        10,
        ["SKD over DiM", "standardised logits", "steadier over architectures"],
        FEWER,
        UNSEEN,
        UNLIKE,
    ),
    *_claims("CIFAR10", 10, ["SKD over DiM", "standardised logits", "matching over training on"], FEWER),
    *(claim for dataset, ipc in FAIR for claim in _claims(dataset, ipc, ["steadier over networks"], delta=0.2)),
]
EXPERIMENTS = [experiment_of("skd/claims", "SKD, claims", CLAIMS)]
