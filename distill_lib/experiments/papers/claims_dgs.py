"""DGS's claims: what choosing by difficulty adds to a pool."""

from __future__ import annotations

from typing import Any

from ...core.settings import replace
from ...methods import METHODS
from ...methods.dgs import Scoring
from ...networks.reference import Training
from ..claims import Arm, Claim, Scale, against, experiment_of, more_than
from ..definition import changed
from .claims_skd import WIDE

DATASET = "FashionMNIST"
# Sets differ by far more than networks trained on one of them (`records/pilots.csv`): so one network a set, many sets.
SCALE = Scale(DATASET, "vico_dsa@300ep", num_eval=1, network="ConvNetW32")
REPEATS = {10: 60, 50: 20}  # by images per class
DELTA = 1.0  # points; the paper prints 0.6 to 2.7 for DGS over Minimax on ImageWoof, 0.1 to 1.7 on the other subsets
# A narrow ConvNet on all real images, as the paper's scorer has seen those it scores; or one for each of three folds.
SCORER = Training(network="ConvNetW32", epochs=6, batch=64)
SCORING = {
    "trained": Scoring(scorer="trained", training=SCORER),
    "held out": Scoring(scorer="held_out", training=SCORER, folds=3),
}
TARGETS = {"hill": "35.8 ± 0.2", "ground": "36.7 ± 0.7", "slope": "37.8 ± 0.4", "cliff": "37.4 ± 0.6"}  # as printed
POOLS = {2: "37.9 ± 0.4", 3: "35.9 ± 0.8", 4: "38.4 ± 0.6", 6: "34.5 ± 0.8"}  # as printed, by images drawn for one kept
# Rules on a pool of SKD's conditional GAN, or of real images: settings by name. All start from one GAN, and choose from
# the same pool.
ARMS: dict[str, dict[str, Any]] = {
    "DGS": {},
    "random": {"rule": "random"},
    "first": {"rule": "first"},
    "shuffled scores": {"rule": "shuffled"},
    "no logarithm": {"sampler.transform": "none"},
    "DGS, held-out scorer": {"scoring": SCORING["held out"]},
    "DGS, real pool": {"source": "real"},
    "DGS, real pool, held-out scorer": {"source": "real", "scoring": SCORING["held out"]},
    "random, real pool": {"source": "real", "rule": "random"},
    **{target: {"sampler.target": target} for target in TARGETS},
    **{f"pool of {times} x IPC": {"pool": times} for times in POOLS},
}


def _arm(name: str, ipc: int) -> Arm:
    config = replace(METHODS["Pool"].paper_config(DATASET, ipc), gan=WIDE, scoring=SCORING["trained"])
    for field, value in ARMS[name].items():
        config = changed(config, field, value)
    return Arm("Pool", config, name)


def _claim(
    name: str,
    sentence: str,
    ours: str,
    theirs: str,
    source: str = "ours; the hypothesis is in Section 2.2",
    printed: str = "not measured in the paper",
    ipc: int = 10,
    **more: Any,
) -> Claim:
    """A claim about two arms by name."""
    arms = against(_arm(ours, ipc), _arm(theirs, ipc))
    return Claim(f"{name}: IPC {ipc}", sentence, source, printed, SCALE, arms, REPEATS[ipc], delta=DELTA, **more)


BETTER = "Images chosen by difficulty train better networks than"
TABLE1 = {  # DGS against Minimax, as printed, by images per class
    ipc: f"{numbers} (ImageWoof at IPC {ipc}, ResNetAP-10)"
    for ipc, numbers in {10: "37.4 ± 0.3 against 35.7 ± 0.3", 50: "57.1 ± 0.9 against 54.4 ± 0.6"}.items()
}
CLAIMS = [
    *(
        _claim(
            "difficulty over chance",
            f"{BETTER} as many from the same pool at random.",
            "DGS",
            "random",
            printed=f"not measured in the paper, which sets DGS beside Minimax: {TABLE1[ipc]}",
            ipc=ipc,
            smoke=ipc == 10,
        )
        for ipc in REPEATS
    ),
    _claim(
        "difficulty over the first images",
        f"{BETTER} the first ones that the generator draws.",
        "DGS",
        "first",
        "Section 2.2, Table 1; that Minimax draws no more than it keeps is inferred",
        TABLE1[10],
    ),
    _claim(
        "scores over shuffled scores",
        "The scores help, and not the form of the choice: the same choice by shuffled scores is worse.",
        "DGS",
        "shuffled scores",
    ),
    _claim(
        "held-out scorer",
        "Images chosen by a scorer that has not seen the real ones are better than random ones too.",
        "DGS, held-out scorer",
        "random",
    ),
    _claim(
        "difficulty over chance among real images",
        "Images chosen by difficulty are better than random ones in a pool of real images too.",
        "DGS, real pool",
        "random, real pool",
    ),
    _claim(
        "the logarithm",
        "The logarithmic transform of the scores makes the choice better.",
        "DGS",
        "no logarithm",
        "Section 2.3",
        "no number",
    ),
    *(
        _claim(
            f"scale over {name}",
            f"The real images' histogram is a better target than {name}.",
            "DGS",
            name,
            "Section 3.3, Table 3",
            f"37.4 ± 0.3 against {printed} (ImageWoof at IPC 10)",
        )
        for name, printed in TARGETS.items()
    ),
    *(
        _claim(
            f"a pool of 5 over {times} x IPC",
            f"A pool of five times the images kept is better than one of {times} times.",
            "DGS",
            f"pool of {times} x IPC",
            'Section 3.4, Table 4: the "relatively best" size, "mainly on results under higher IPC settings"',
            f"37.4 ± 0.3 against {printed} (ImageWoof at IPC 10)",
        )
        for times, printed in POOLS.items()
    ),
    Claim(
        "easy at IPC 10 and hard at IPC 50",
        "Easy images help more at 10 images per class than at 50: cliff, the easiest target, gains more on hill or "
        "loses less.",
        "Section 3.3, Table 3",
        "37.4 ± 0.6 against 35.8 ± 0.2 at IPC 10, 56.6 ± 0.8 against 56.9 ± 0.5 at IPC 50 (ImageWoof)",
        SCALE,
        more_than((_arm("cliff", 10), _arm("hill", 10)), (_arm("cliff", 50), _arm("hill", 50))),
        2 * REPEATS[50],
        delta=DELTA,
    ),
    *(
        _claim(
            f"generated images are easier{how}",
            f"The generator's pool is easier than real images, by a scorer that has {seen} the real ones.",
            f"DGS, real pool{scorer}",
            f"DGS{scorer}",
            "Section 2.3, Figure 2",
            "a drawing of two classes",
            quantity="difficulty of the pool",
        )
        for how, seen, scorer in (("", "seen", ""), (" for a held-out scorer", "not seen", ", held-out scorer"))
    ),
]
EXPERIMENTS = [experiment_of("dgs/claims", "DGS, claims", CLAIMS)]
