"""SKD's claims: what self-knowledge distillation adds to a conditional GAN."""

from __future__ import annotations

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


def _of(dataset: str, ipc: int, printed: dict[str, str]) -> list[Claim]:
    """The claims on one data set at one number of images per class, each network trained on the same few images."""
    arms, scale = _arms(dataset, ipc), Scale(dataset, f"vico_dsa@{EPOCHS[ipc]}ep", num_eval=3)
    at = f"{dataset} at IPC {ipc}"

    def claim(name: str, ours: str, theirs: str, sentence: str, source: str, n: int, **more: Any) -> Claim:
        words = f"{printed[ours]} against {printed[theirs]}" if theirs in printed else printed.get(name, "no number")
        return Claim(
            f"{name}: {at}", sentence, source, f"{words} ({at})", scale, against(arms[ours], arms[theirs]), n, **more
        )

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
CLAIMS = [claim for (dataset, ipc), printed in _PRINTED.items() for claim in _of(dataset, ipc, printed)]
EXPERIMENTS = [experiment("skd/claims", "SKD, claims", CLAIMS)]
