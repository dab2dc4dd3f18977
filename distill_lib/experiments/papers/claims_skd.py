"""SKD's claims: what self-knowledge distillation adds to a conditional GAN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...core.settings import replace
from ...generators.cgan import GAN
from ...methods import METHODS
from ..claims import Arm, Claim, Scale, against, experiment

# Stage 1, one GAN per data set for all arms and repeats: 6,400 steps of 32 images, four times as wide as smoke's and a
# sixth as wide as the paper's; trained until a classifier of real images recognises no more of its samples.
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
    """A generator draws its images once."""
    return Scale(dataset, f"vico_dsa@{EPOCHS[ipc]}ep", num_eval=3)


def _maker(dataset: str, ipc: int, scale: Scale, how: str = "") -> Callable[..., Claim]:
    """What makes the claims on one data set at one number of images per class at one scale."""
    arms, at, printed = _arms(dataset, ipc), f"{dataset} at IPC {ipc}", _PRINTED[dataset, ipc]

    def claim(name: str, ours: str, theirs: str, sentence: str, source: str, n: int, **more: Any) -> Claim:
        words = f"{printed[ours]} against {printed[theirs]}" if theirs in printed else printed.get(name, "no number")
        words = more.pop("printed", f"{words} ({at})")
        return Claim(f"{name}: {at}{how}", sentence, source, words, scale, against(arms[ours], arms[theirs]), n, **more)

    return claim


def _of(dataset: str, ipc: int) -> list[Claim]:
    """The claims on one data set at one number of images per class, each network trained on the same few images."""
    claim = _maker(dataset, ipc, _fair(dataset, ipc))
    return [
        claim(
            "SKD over real images",
            "SKD",
            "real",
            "As many images of SKD train a better network than real ones.",
            "Table 1, rows Random and Ours",
            10,
        ),
        claim(
            "SKD over DiM",
            "SKD",
            "DiM",
            "SKD trains better networks than DiM.",
            "Section 3.2, Table 1",
            20,
            smoke=(dataset, ipc) == ("FashionMNIST", 1),
        ),
        claim(
            "standardised logits",
            "SKD",
            "SKD (no standardisation)",
            "Standardising the logits improves accuracy notably.",
            "Section 3.2, Table 1, rows Ours and Ours (No Stand.)",
            20,
        ),
        claim(
            "stage 2 over stage 1",
            "SKD",
            "GAN",
            "Matching by SKD improves the GAN it starts from.",
            "Section 2.1; Table 1, rows CGAN and Ours",
            20,
        ),
        claim(
            "matching over training on",
            "SKD",
            "longer",
            "The matching improves the GAN, not the further steps.",
            "Section 2.1: without matching the set lacks information; no such row",
            20,
        ),
        claim(
            "pool over one network",
            "SKD",
            "one network",
            "Matching with a pool of networks is better than with one ConvNet.",
            "Section 2.2; not measured in the paper",
            20,
        ),
    ]


_PRINTED = {
    ("FashionMNIST", 1): {
        "SKD": "85.5 ± 0.4",
        "real": "51.4 ± 3.8",
        "DiM": "84.5 ± 0.4",
        "SKD (no standardisation)": "85.0 ± 0.2",
        "GAN": "81.5 ± 0.5",
    },
    ("FashionMNIST", 10): {
        "SKD": "89.0 ± 0.5",
        "real": "73.8 ± 0.7",
        "DiM": "88.2 ± 0.2",
        "SKD (no standardisation)": "88.6 ± 0.4",
        "GAN": "84.0 ± 0.2",
    },
    ("MNIST", 1): {
        "SKD": "97.9 ± 0.2",
        "real": "64.9 ± 3.5",
        "DiM": "96.5 ± 0.6",
        "SKD (no standardisation)": "97.3 ± 0.1",
        "GAN": "96.1 ± 0.7",
    },
}
_PRINTED["CIFAR10", 10] = {
    "SKD": "68.2 ± 0.4",
    "DiM": "66.2 ± 0.5",
    "SKD (no standardisation)": "67.3 ± 0.5",
    "GAN": "62.7 ± 0.9",
}
FAIR = [("FashionMNIST", 1), ("FashionMNIST", 10), ("MNIST", 1)]
DIM = Scale("FashionMNIST", "dim@300ep", num_eval=2)  # the paper's: new images in every epoch
UNSEEN = Scale("FashionMNIST", "vico_dsa@300ep", num_eval=1, networks=("IDC-ThinResNet18", "AlexNet", "VGG11"))
FEWER = 10  # repeats of what takes minutes each


def _dearer() -> list[Claim]:
    """Claims whose repeats take longer: the paper's own protocol, other networks, CIFAR-10; and steadier results."""
    drawing = _maker("FashionMNIST", 1, DIM, " and new images in every epoch")
    others = _maker("FashionMNIST", 10, UNSEEN, " on unseen networks")
    colour = _maker("CIFAR10", 10, _fair("CIFAR10", 10))
    better, notably, table2 = "SKD trains better networks than DiM", "Standardising the logits improves", "Table 2"
    steady, lower = "Section 3.3: the method increased the stability of the results", "0.1 to 0.4 against 0.3 to 0.9"
    out = [
        drawing("SKD over DiM", "SKD", "DiM", f"{better} under the paper's protocol.", "Table 1", FEWER),
        drawing(
            "standardised logits",
            "SKD",
            "SKD (no standardisation)",
            f"{notably} accuracy under the paper's protocol.",
            "Table 1",
            FEWER,
        ),
        drawing(
            "stage 2 over stage 1",
            "SKD",
            "GAN",
            "Matching by SKD improves the GAN it starts from, under the paper's protocol.",
            "Table 1",
            FEWER,
        ),
        others(
            "SKD over DiM",
            "SKD",
            "DiM",
            f"{better}, of architectures that the matching has not seen.",
            table2,
            FEWER,
            printed="69.9 ± 0.3 against 69.2 ± 0.3 (CIFAR10 at IPC 10 with ResNet18)",
        ),
        others(
            "standardised logits",
            "SKD",
            "SKD (no standardisation)",
            f"{notably} accuracy on unseen architectures.",
            table2,
            FEWER,
            printed="69.9 ± 0.3 against 69.6 ± 0.5 (CIFAR10 at IPC 10 with ResNet18)",
        ),
        others(
            "steadier over architectures",
            "DiM",
            "SKD",
            "Accuracies of unseen architectures lie closer together on SKD's sets than on DiM's.",
            steady,
            FEWER,
            quantity="spread over architectures",
            printed=f"deviations of {lower} (Table 2)",
        ),
        colour("SKD over DiM", "SKD", "DiM", f"{better} on CIFAR-10.", "Table 1", FEWER),
        colour(
            "standardised logits",
            "SKD",
            "SKD (no standardisation)",
            f"{notably} accuracy on CIFAR-10.",
            "Table 1",
            FEWER,
        ),
        colour(
            "matching over training on",
            "SKD",
            "longer",
            "The matching improves the GAN on CIFAR-10, not the further steps.",
            "Section 2.1: without matching the set lacks information; no such row",
            FEWER,
        ),
    ]
    return out + [
        _maker(dataset, ipc, _fair(dataset, ipc))(
            "steadier over networks",
            "DiM",
            "SKD",
            "Networks trained on one set of SKD differ less than those on one set of DiM.",
            steady,
            20,
            delta=0.2,
            quantity="spread over networks",
            printed=f"deviations of {lower} (Table 2)",
        )
        for dataset, ipc in FAIR
    ]


CLAIMS = [*(claim for dataset, ipc in FAIR for claim in _of(dataset, ipc)), *_dearer()]
EXPERIMENTS = [experiment("skd/claims", "SKD, claims", CLAIMS)]
