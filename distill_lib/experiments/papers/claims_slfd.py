"""SLFD's claims: what sampled latent features add to GLaD."""

from __future__ import annotations

from typing import Any

from ...core.settings import replace
from ...methods import METHODS
from ..claims import Arm, Claim, Scale, Watched, against, experiment

DATASET, NETWORK = "CIFAR10", "ConvNetW32"
SCALE = Scale(DATASET, "vico_dsa@300ep", num_eval=3, network=NETWORK, stand_in="BloodCells-mini")
UNSEEN = Scale(
    DATASET,
    "vico_dsa@300ep",
    num_eval=1,
    networks=("IDC-ThinResNet18", "VGG11", "ViTCIFAR", "AlexNet"),
    stand_in="BloodCells-mini",
)
TIMES = Scale(
    DATASET, "vico_dsa@1ep", num_eval=1, network=NETWORK, tested=10, stand_in="BloodCells-mini", scores=Watched()
)
LARGER = Scale("ImageNette@64px", "vico_dsa@300ep", num_eval=2, network=NETWORK, stand_in="BloodCells-mini")
REPEATS = 30  # at the pilot's spread between paired sets, 0.6 points, the interval is then ±0.2 points wide


def _config(method: str, match: str, prior: str, dataset: str) -> Any:
    """GLaD or SLFD with DC or DM at the small budget, from a conditional GAN trained on the set or with random
    weights."""
    config = METHODS[method].paper_config(dataset, 1, match)
    space = (
        replace(config.space, prior=replace(config.space.prior, weights=prior)) if prior == "random" else config.space
    )
    return replace(replace(config, space=space).small(), network=NETWORK)


def _arm(method: str, match: str, prior: str, name: str = "", dataset: str = DATASET, **module: Any) -> Arm:
    config = _config(method, match, prior, dataset)
    if module:
        config = replace(config, module=replace(config.module, **module))
    return Arm(method, config, ", ".join(part for part in (match, f"{prior} prior", name) if part))


def _claims() -> list[Claim]:
    table4, lost = "Section 4.3.2, Table 4", "lost in the source"
    slfd = {(match, prior): _arm("SLFD", match, prior) for match in ("DC", "DM") for prior in ("random", "trained")}
    out = [
        Claim(
            f"SLFD over GLaD: {match} with a {prior} prior",
            f"SLFD trains better networks than GLaD from the same start, matching by {match} with a {prior} prior.",
            table4 if match == "DC" else f"{table4}; Section 4.3.1, Table 1",
            lost,
            SCALE,
            against(ours, _arm("GLaD", match, prior)),
            REPEATS,
            smoke=(match, prior) == ("DM", "random"),
        )
        for (match, prior), ours in slfd.items()
    ]
    base = slfd["DC", "random"]
    for name, sentence, source, module in (
        (
            "low rank over full covariance",
            "A covariance of rank 10 is better than a full one.",
            "Section 4.4, Table 7",
            {"rank": None},
        ),
        (
            "rank 10 over rank 1",
            "Ten directions of correlation are better than one.",
            "Section 3.2; not measured in the paper",
            {"rank": 1},
        ),
        (
            "20 samples over 2",
            "Many samples are better than a pair.",
            "Section 3.3.1: several samples; their number is lost",
            {"samples": 2},
        ),
    ):
        other = _arm("SLFD", "DC", "random", name.rpartition("over ")[2], **module)
        out.append(Claim(f"{name}: DC", sentence, source, lost, SCALE, against(base, other), REPEATS))
    return out + _dearer(slfd)


NEVER = {"rank": 1, "samples": 2, "start_log_variance": -20.0, "eps": 1e-10}  # samples that hardly vary
TENTH = 0.14  # doublings: a tenth more
FEWER, TIMED = 10, 5  # repeats of what takes minutes each, and of seconds, which hardly spread


def _dearer(slfd: dict[tuple[str, str], Arm]) -> list[Claim]:
    """Samples without variance, networks that the distillation has not seen, larger images, and the seconds added."""
    base, lost = slfd["DC", "random"], "lost in the source"
    out = [
        Claim(
            "samples that vary over samples that hardly do: DC",
            "The samples' variance helps, and not the module alone.",
            "Section 3.2; not measured in the paper",
            lost,
            SCALE,
            against(base, _arm("SLFD", "DC", "random", "almost no variance", **NEVER)),
            REPEATS,
        )
    ]
    for match in ("DC", "DM"):
        ours, theirs = slfd[match, "random"], _arm("GLaD", match, "random")
        out += [
            Claim(
                f"SLFD over GLaD: {match} on unseen networks",
                f"SLFD trains better networks than GLaD, of architectures that it has not seen, matching by {match}.",
                "Section 4.1: cross-architecture accuracy; Table 4",
                lost,
                UNSEEN,
                against(ours, theirs),
                FEWER,
            ),
            Claim(
                f"seconds of SLFD over GLaD: {match}",
                f"SLFD takes longer than GLaD, matching by {match}; the paper calls the overhead minimal.",
                "Section 1",
                "no number",
                TIMES,
                against(ours, theirs),
                TIMED,
                delta=TENTH,
                quantity="doublings of seconds",
            ),
            Claim(
                f"SLFD over GLaD: {match} on ImageNette at 64 pixels",
                f"SLFD trains better networks than GLaD on ImageNette, matching by {match}.",
                "Section 4.2, Table 1",
                lost,
                LARGER,
                against(*(_arm(name, match, "random", dataset="ImageNette") for name in ("SLFD", "GLaD"))),
                FEWER,
            ),
        ]
    return out


CLAIMS = _claims()
EXPERIMENTS = [experiment("slfd/claims", "SLFD, claims", CLAIMS)]
