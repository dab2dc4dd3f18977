"""DGS's claims: what choosing by difficulty adds to a pool."""

from __future__ import annotations

from typing import Any

from ...core.settings import replace
from ...methods import METHODS
from ...methods.dgs import Scoring
from ...networks.reference import Training
from ..claims import Arm, Claim, Scale, against, experiment, more_than
from ..definition import changed
from .claims_skd import WIDE

DATASET = "FashionMNIST"
# Sets differ by far more than networks trained on one of them (`records/pilots.csv`): so one network a set, many sets.
SCALE = Scale(DATASET, "vico_dsa@300ep", num_eval=1, network="ConvNetW32")
REPEATS = {10: 60, 50: 20}  # by images per class
AT = "(ImageWoof at IPC 10)"  # what the printed numbers are of
DELTA = 1.0  # points; the paper prints 0.6 to 2.7 for DGS over Minimax
# A narrow ConvNet on all real images, as the paper's scorer has seen those it scores; or one for each of three folds.
SCORER = Training(network="ConvNetW32", epochs=6, batch=64)
SCORING = {"trained": Scoring(scorer="trained", training=SCORER)}
SCORING["held out"] = Scoring(scorer="held_out", training=SCORER, folds=3)


def _arm(ipc: int, name: str, scoring: str = "trained", target: str = "", **settings: Any) -> Arm:
    """A rule on a pool of SKD's conditional GAN, or of real images. All start from one GAN, and from the same pool."""
    config = replace(METHODS["Pool"].paper_config(DATASET, ipc), gan=WIDE, scoring=SCORING[scoring], **settings)
    if target:
        config = changed(config, "sampler.target", target)
    return Arm("Pool", config, name)


def _target(name: str, ipc: int) -> Arm:
    return _arm(ipc, name, target=name)


def _claim(
    name: str, sentence: str, source: str, printed: str, ours: Arm, theirs: Arm, ipc: int = 10, **more: Any
) -> Claim:
    arms = against(ours, theirs)
    return Claim(f"{name}: IPC {ipc}", sentence, source, printed, SCALE, arms, REPEATS[ipc], delta=DELTA, **more)


TARGETS = {"hill": "35.8 ± 0.2", "ground": "36.7 ± 0.7", "slope": "37.8 ± 0.4", "cliff": "37.4 ± 0.6"}  # as printed
POOLS = {2: "37.9 ± 0.4", 3: "35.9 ± 0.8", 4: "38.4 ± 0.6", 6: "34.5 ± 0.8"}  # as printed, by images drawn for one kept


def _claims() -> list[Claim]:
    better, none = "Images chosen by difficulty train better networks than", "not measured in the paper"
    dgs = {ipc: _arm(ipc, "DGS") for ipc in REPEATS}
    random = {ipc: _arm(ipc, "random", rule="random") for ipc in REPEATS}
    real = _arm(10, "DGS, real pool", source="real")
    held_out = _arm(10, "DGS, held-out scorer", "held out")
    real_held_out = _arm(10, "DGS, real pool, held-out scorer", "held out", source="real")
    plain = _arm(10, "no logarithm")
    plain = replace(plain, config=changed(plain.config, "sampler.transform", "none"))
    return [
        *(
            _claim(
                "difficulty over chance",
                f"{better} as many from the same pool at random.",
                "Section 2.2",
                f"{none}, which sets DGS beside Minimax (37.4 ± 0.3 against 35.7 ± 0.3 at IPC 10)",
                dgs[ipc],
                random[ipc],
                ipc,
                smoke=ipc == 10,
            )
            for ipc in REPEATS
        ),
        _claim(
            "difficulty over the first images",
            f"{better} the first ones that the generator draws.",
            "Section 2.2, Table 1: Minimax draws no more than it keeps",
            f"37.4 ± 0.3 against 35.7 ± 0.3 {AT}",
            dgs[10],
            _arm(10, "first", rule="first"),
        ),
        _claim(
            "scores over shuffled scores",
            "The scores help, and not the form of the choice: the same choice by shuffled scores is worse.",
            "Section 2.2",
            none,
            dgs[10],
            _arm(10, "shuffled scores", rule="shuffled"),
        ),
        _claim(
            "held-out scorer",
            "Images chosen by a scorer that has not seen the real ones are better than random ones too.",
            "Section 2.2",
            none,
            held_out,
            random[10],
        ),
        _claim(
            "difficulty over chance among real images",
            "Images chosen by difficulty are better than random ones in a pool of real images too.",
            "Section 2.2",
            none,
            real,
            _arm(10, "random, real pool", rule="random", source="real"),
        ),
        _claim(
            "the logarithm",
            "The logarithmic transform of the scores makes the choice better.",
            "Section 2.3",
            "no number",
            dgs[10],
            plain,
        ),
        *(
            _claim(
                f"scale over {name}",
                f"The real images' histogram is a better target than {name}.",
                "Section 3.3, Table 3",
                f"37.4 ± 0.3 against {printed} {AT}",
                dgs[10],
                _target(name, 10),
            )
            for name, printed in TARGETS.items()
        ),
        *(
            _claim(
                f"a pool of 5 over {times} x IPC",
                f"A pool of five times the images kept is better than one of {times} times.",
                "Section 3.4, Table 4",
                f"37.4 ± 0.3 against {printed} {AT}",
                dgs[10],
                _arm(10, f"pool of {times} x IPC", pool=times),
            )
            for times, printed in POOLS.items()
        ),
        Claim(
            "easy at IPC 10 and hard at IPC 50",
            "Easy images help more at 10 images per class than at 50: cliff, the easiest target, gains on hill.",
            "Section 3.3, Table 3",
            "37.4 ± 0.6 against 35.8 ± 0.2 at IPC 10, 56.6 ± 0.8 against 56.9 ± 0.5 at IPC 50 (ImageWoof)",
            SCALE,
            more_than((_target("cliff", 10), _target("hill", 10)), (_target("cliff", 50), _target("hill", 50))),
            2 * REPEATS[50],
            delta=DELTA,
        ),
        *(
            _claim(
                f"generated images are easier{how}",
                f"The generator's pool is easier than real images, by a scorer that has {seen} the real ones.",
                "Section 2.3, Figure 2",
                "a drawing of two classes",
                of_real,
                of_gan,
                quantity="difficulty of the pool",
            )
            for how, seen, of_real, of_gan in (
                ("", "seen", real, dgs[10]),
                (" for a held-out scorer", "not seen", real_held_out, held_out),
            )
        ),
    ]


CLAIMS = _claims()
EXPERIMENTS = [experiment("dgs/claims", "DGS, claims", CLAIMS)]
