"""U-ViT's claims: what generated images are worth, one by one and for the seconds they take."""

from __future__ import annotations

from typing import Any

from ...core.settings import replace
from ...evaluation.metrics.generative import Scores
from ...methods import METHODS
from ..claims import Arm, Claim, Scale, Watched, against, experiment_of, more_than

DATASET, NETWORK = "FashionMNIST", "ConvNetW32"
# Sets of all sizes are trained on for as many optimiser steps.
SCALE = Scale(DATASET, "challenge_steps@300ep", num_eval=1, network=NETWORK, scores=Watched())
SAMPLES = replace(Scores().small(), samples=200)  # as many as a set has
FID = f"FID-{SAMPLES.trained.network}-{SAMPLES.samples}"  # as records name it
QUALITY = replace(SCALE, protocol="challenge_steps@100ep", scores=SAMPLES)
TIMES = replace(SCALE, protocol="challenge_steps@1ep", tested=10)
REPEATS = {1: 60, 10: 40, 50: 15}  # by images per class: random real images at few per class spread most
FEWER, TIMED = 10, 5
DELTA = 1.0  # points


def _uvit(ipc: int, **settings: Any) -> Arm:
    """Images of the generator that the small budget trains."""
    name = ", ".join(f"{value} {what}" for what, value in settings.items())
    return Arm("U-ViT", replace(METHODS["U-ViT"].of_profile(DATASET, "small", ipc), **settings), name)


def _real(ipc: int) -> Arm:
    return Arm("Random", METHODS["Random"].paper_config(DATASET, ipc))


def _matched(method: str) -> Arm:
    """Ten images per class, matched in the small budget's steps with the network that is trained on them."""
    config = METHODS[method].paper_config(DATASET, 10).small()
    if method == "MTT":
        return Arm(method, replace(config, experts=replace(config.experts, network=NETWORK)))
    return Arm(method, replace(config, network=NETWORK))


def _growing(method: str, ipc: int, **settings: Any) -> Arm:
    """A method with its published loops, but only a few rounds of them."""
    config = replace(METHODS[method].paper_config(DATASET, ipc), network=NETWORK, batch_real=64, **settings)
    return Arm(method, config, "published loops")


def _claim(name: str, sentence: str, source: str, ours: Arm, theirs: Arm, n: int, **more: Any) -> Claim:
    """A claim about accuracies, for which the paper prints no number."""
    return Claim(name, sentence, source, "no number", SCALE, against(ours, theirs), n, delta=DELTA, **more)


# Images per class that are drawn in no more seconds than a method takes for ten; `records/pilots.csv` has the seconds.
IN_THE_TIME_OF = {"DM": 15, "DC": 15, "MTT": 25}
GROWING = {"DC": {"iterations": 2}, "DM": {"iterations": 100}}
CLAIMS = [
    *(
        _claim(
            f"generated over real: IPC {ipc}",
            f"{ipc} generated image{'s per class train' if ipc > 1 else ' per class trains'} better networks than as "
            "many real ones.",
            "ours; Section 1 says only that diffusion models can capture the distribution",
            _uvit(ipc),
            _real(ipc),
            n,
            smoke=ipc == 10,
        )
        for ipc, n in REPEATS.items()
    ),
    *(
        _claim(
            f"more images: {many} over {few} per class",
            f"{many} generated images per class train better networks than {few}.",
            "Section 1: as many synthetic images as possible",
            _uvit(many),
            _uvit(few),
            REPEATS[many],
        )
        for few, many in ((1, 10), (10, 50))
    ),
    *(
        _claim(
            f"generation over {method}: equal seconds",
            f"In no more than the seconds that {method} takes for ten images per class, a generator that is trained "
            "already draws a set that trains better networks.",
            "ours; Section 1 claims only how the times grow with the number of images",
            _uvit(ipc),
            _matched(method),
            FEWER,
            title=f"generation over {method}: in no more seconds",
            in_no_more_seconds=True,
        )
        for method, ipc in IN_THE_TIME_OF.items()
    ),
    *(
        Claim(
            f"seconds of {method} grow faster",
            f"From 1 to 10 images per class the seconds of {method} grow more steeply than those of generation.",
            'Section 1: generation grows linearly, the cost of matching "may increase exponentially"',
            "no number",
            TIMES,
            more_than((_growing(method, 10, **few), _growing(method, 1, **few)), (_uvit(10), _uvit(1))),
            TIMED,
            quantity="doublings of seconds",
        )
        for method, few in GROWING.items()
    ),
    *(
        Claim(
            f"sampler steps: {many} over {few}",
            f"{many} sampler steps give a lower {FID} than {few}.",
            "Section 5.3, Table 2: 50 steps",
            "no other number of steps",
            QUALITY,
            against(_uvit(20, steps=few), _uvit(20, steps=many)),
            FEWER,
            quantity="FID",
        )
        for few, many in ((5, 10), (10, 20), (20, 50))
    ),
]
EXPERIMENTS = [experiment_of("uvit/claims", "U-ViT, claims", CLAIMS)]
