"""SLFD's claims: what sampled latent features add to GLaD."""

from __future__ import annotations

from typing import Any

from ...core.settings import replace
from ...methods import METHODS
from ..claims import Arm, Claim, Scale, Watched, against, experiment_of
from ..definition import changed
from .claims_skd import WIDE

DATASET, NETWORK = "CIFAR10", "ConvNetW32"
LOST, NO_ROW = "lost in the source", "no such row"  # what was printed, and what never was
SCALE = Scale(DATASET, "vico_dsa@300ep", num_eval=3, network=NETWORK, stand_in="BloodCells-mini")
UNSEEN = replace(SCALE, num_eval=1, networks=("IDC-ThinResNet18", "VGG11", "ViTCIFAR", "AlexNet"), network="ConvNet")
TIMES = replace(SCALE, protocol="vico_dsa@1ep", num_eval=1, tested=10, scores=Watched())
LARGER = replace(SCALE, dataset="ImageNette@64px", num_eval=2)
REPEATS = 30  # at the spread of the first three paired sets, 0.6 points, the interval is then ±0.2 points wide
FEWER, TIMED = 10, 5  # repeats of what takes minutes each, and of seconds, which hardly spread
NEVER = {"rank": 1, "samples": 2, "start_log_variance": -20.0, "eps": 1e-10}  # samples that hardly vary
TENTH = 0.14  # doublings: a tenth more
CONV = "Section 4.3.1, Table 1, rows GLaD-Conv and SLFD-Conv"  # the network that distils is the one evaluated, as here
TABLE4 = "Table 4 (unseen networks, matching not stated)"
MODULES = {  # name of a claim: what is claimed, where the paper says it, what it printed, and the other arm
    "low rank over full covariance": (
        "A covariance with the parameters of rank 10 is better than one with those of a full one; of ten logits both "
        "can be the same (the paper: on par or above).",
        "Section 4.4, Table 7",
        LOST,
        ("full covariance", "", {"rank": None}),
    ),
    "rank 10 over rank 1": (
        "Ten directions of correlation are better than one.",
        "Section 3.2; not measured in the paper",
        NO_ROW,
        ("rank 1", "", {"rank": 1}),
    ),
    "20 samples over 2": (
        "Many samples are better than a pair.",
        "Section 3.3.1: several samples; their number is lost",
        NO_ROW,
        ("2", "2 samples", {"samples": 2}),
    ),
    "samples that vary over samples that hardly do": (
        "The samples' variance helps, and not the module alone.",
        "Section 3.2; not measured in the paper",
        NO_ROW,
        ("almost no variance", "", NEVER),
    ),
}


def _arm(
    method: str, match: str, prior: str, name: str = "", shown: str = "", dataset: str = DATASET, **module: Any
) -> Arm:
    """GLaD or SLFD with DC or DM at the small budget, from a conditional GAN with random weights, or from one trained
    on the set as long as SKD's claims train theirs: that of the small budget learns no class of CIFAR-10.

    Args:
        name:  tells the arm's cell from others.
        shown: on pages, in place of `name`.
    """
    config = METHODS[method].paper_config(dataset, 1, match)
    if prior == "random":
        config = changed(config, "space.prior.weights", prior)
    config = replace(config.small(), network=NETWORK)
    if prior == "trained":
        config = changed(config, "space.prior.gan", WIDE)
    if module:
        config = replace(config, module=replace(config.module, **module))
    start = f"{match}, {prior} prior"
    return Arm(method, config, f"{start}, {name}" if name else start, f"{start}, {shown}" if shown else "")


def _over_glad(
    match: str, name: str, sentence: str, source: str, scale: Scale = SCALE, n: int = REPEATS, **more: Any
) -> Claim:
    """A claim about SLFD beside GLaD, from the same start: SLFD's value less GLaD's."""
    options = {"dataset": "ImageNette"} if scale is LARGER else {}
    prior = more.pop("prior", "random")
    arms = against(*(_arm(method, match, prior, **options) for method in ("SLFD", "GLaD")))
    return Claim(name, sentence, source, more.pop("printed", LOST), scale, arms, n, **more)


def _claims() -> list[Claim]:
    out = [
        _over_glad(
            match,
            f"SLFD over GLaD: {match} with a {prior} prior",
            f"SLFD trains better networks than GLaD from the same start, matching by {match} with a {prior} prior.",
            f"{CONV}; Section 4.3.2, {TABLE4}",
            prior=prior,
            smoke=(match, prior) == ("DM", "random"),
        )
        for match in ("DC", "DM")
        for prior in ("random", "trained")
    ]
    for name, (sentence, source, printed, (other, shown, module)) in MODULES.items():
        arms = against(_arm("SLFD", "DC", "random"), _arm("SLFD", "DC", "random", other, shown, **module))
        out.append(Claim(f"{name}: DC", sentence, source, printed, SCALE, arms, REPEATS))
    for match in ("DC", "DM"):
        out += [
            _over_glad(
                match,
                f"SLFD over GLaD: {match} on unseen networks",
                f"SLFD trains better networks than GLaD, of architectures that it has not seen, matching by {match} "
                "with a random prior.",
                f"Section 4.1: cross-architecture accuracy; {TABLE4}",
                UNSEEN,
                FEWER,
            ),
            _over_glad(
                match,
                f"seconds of SLFD over GLaD: {match}",
                f"SLFD takes longer than GLaD, matching by {match} with a random prior (the paper: hardly).",
                "Section 1: minimal computational overhead",
                TIMES,
                TIMED,
                printed="about 9 hours in total, a setup comparable to GLaD's (Section 4.2)",
                delta=TENTH,
                quantity="doublings of seconds",
                title=f"SLFD slower than GLaD: {match}",
            ),
            _over_glad(
                match,
                f"SLFD over GLaD: {match} on ImageNette at 64 pixels",
                f"SLFD trains better networks than GLaD on ImageNette, matching by {match} with a random prior.",
                CONV,
                LARGER,
                FEWER,
            ),
        ]
    return out


CLAIMS = _claims()
EXPERIMENTS = [experiment_of("slfd/claims", "SLFD, claims", CLAIMS)]
