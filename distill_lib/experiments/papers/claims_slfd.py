"""SLFD's claims: what sampled latent features add to GLaD."""

from __future__ import annotations

from typing import Any

from ...core.settings import replace
from ...methods import METHODS
from ..claims import Arm, Claim, Scale, against, experiment

DATASET, NETWORK = "CIFAR10", "ConvNetW32"
SCALE = Scale(DATASET, "vico_dsa@300ep", num_eval=3, network=NETWORK, stand_in="BloodCells-mini")
REPEATS = 30  # at the pilot's spread between paired sets, 0.6 points, the interval is then ±0.2 points wide


def _config(method: str, match: str, prior: str) -> Any:
    """GLaD or SLFD with DC or DM at the small budget, from a conditional GAN trained on the set or with random
    weights."""
    config = METHODS[method].paper_config(DATASET, 1, match)
    space = (
        replace(config.space, prior=replace(config.space.prior, weights=prior)) if prior == "random" else config.space
    )
    return replace(replace(config, space=space).small(), network=NETWORK)


def _arm(method: str, match: str, prior: str, name: str = "", **module: Any) -> Arm:
    config = _config(method, match, prior)
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
    return out


CLAIMS = _claims()
EXPERIMENTS = [experiment("slfd/claims", "SLFD, claims", CLAIMS)]
