"""Claims: whether a paper's idea helps, by how much, and how sure that is.

A claim sets arms against each other that share everything but the idea under test: data, generator, start, seeds and
networks. An arm is a cell, a repeat one of its distilled sets; set number i of every arm has the same seeds, so repeats
are paired. What is compared, how often (`n`), at which scale and against which smallest difference that matters
(`delta`) stands in the definition, before anything is run.

    skd_claims = experiment_of("skd/claims", "SKD: claims", [Claim(...), ...])  # `plan`, `run`, `fill` take its cells
    [f.verdict for f in findings(skd_claims, "small")]                          # in words, claim by claim

A claim has its verdict at the planned n; before that it is provisional.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pydantic

from .. import records
from ..core.errors import UserError, unknown
from ..core.loop import Loop
from ..core.settings import replace, settings
from ..data import ImageSet
from ..evaluation import effects
from ..evaluation.effects import Effect, Word
from ..evaluation.metrics.generative import Judge, Scores
from ..generators import cgan
from ..methods import METHODS, optional
from ..records import Cell, Record
from .definition import Experiment, Parameters, Skip, Task, names_of

SCALE = "small"  # the profile that claims are decided in
UNSEEN_NETWORKS = "unseen networks"  # in a cell: the mean over the architectures that its scale names
SMOKE_REPEATS = 2


# --- what is claimed ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scale:
    """What all arms of a claim share.

    Attributes:
        protocol: with its budget: vico_dsa@300ep.
        num_eval: networks trained on each set; a repeat is their mean.
        network:  trained on the sets; `networks`, where given, takes its place: each architecture `num_eval` times.
        tested:   test images of every class; None for all.
        scores:   settings of what is measured of each set besides accuracy: `Watched` or `Scores`.
        stand_in: what smoke computes on: real data inside the package.
    """

    dataset: str
    protocol: str
    num_eval: int = 2
    network: str = "ConvNet"
    networks: tuple[str, ...] = ()
    tested: int | None = None
    stand_in: str = "FashionMNIST-mini"
    scores: Any = None

    def __str__(self) -> str:
        trained = f" of each: {' and '.join(self.networks)}" if self.networks else f": {self.network}"
        few = f", {self.tested} test images of every class" if self.tested else ""
        a_set = f"{self.num_eval} network{'s' * (self.num_eval > 1)} a set"
        return f"{self.dataset}, {self.protocol}, {a_set}{trained}{few}"


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: `method` of METHODS under `config`; `name` tells it from others with that method, and
    pages show `title` in its place if there is one."""

    method: str
    config: Any
    name: str = ""
    title: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, [self.method, self.title or self.name]))

    def cell(self, experiment: str, scale: Scale) -> Cell:
        network = UNSEEN_NETWORKS if scale.networks else scale.network
        ipc = getattr(self.config, "ipc", None)
        return Cell(experiment, self.method, scale.dataset, ipc, network, scale.protocol, self.name)


def _accuracy(record: Record) -> dict[int, float]:
    return {i: statistics.fmean(v) for i, v in record.by_set().items()}


def _spread(record: Record) -> dict[int, float]:
    return {i: statistics.stdev(v) for i, v in record.by_set().items()}


def _spread_of_architectures(record: Record) -> dict[int, float]:
    each = [record.by_set(v) for k, v in record.metrics.items() if k.startswith("accuracy_pct, ")]
    return {i: statistics.stdev([statistics.fmean(of[i]) for of in each]) for i in record.done}


# How the metric that a quantity reads begins: the first that a record has. Seconds of distilling a set are the
# processor's where it ran on one, since other work lengthens them least.
_SECONDS = ("distill_cpu_seconds", "distill_seconds")
METRICS = {
    "difficulty of the pool": ("pool_difficulty_pct",),
    "FID": ("FID-",),
    "seconds": _SECONDS,
    "doublings of seconds": _SECONDS,
}


def metric_of(quantity: str, record: Record) -> str:
    """The name of the metric that a quantity reads from a record; "" if it reads none, or the record lacks it."""
    return next((k for start in METRICS.get(quantity, ()) for k in record.metrics if k.startswith(start)), "")


def _metric(quantity: str, change: Callable[[float], float] = float) -> Callable[[Record], dict[int, float]]:
    """Reads a quantity's metric: its value for every set."""

    def of(record: Record) -> dict[int, float]:
        values = record.metrics.get(metric_of(quantity, record), [])
        return {i: change(v) for i, (v,) in record.by_set(values).items()} if values else {}

    return of


# what of a set is compared: (record) -> a number for each of its sets
QUANTITIES: dict[str, Callable[[Record], dict[int, float]]] = {
    "accuracy": _accuracy,
    "spread over networks": _spread,
    "spread over architectures": _spread_of_architectures,
    "difficulty of the pool": _metric("difficulty of the pool"),
    "FID": _metric("FID"),
    "seconds": _metric("seconds"),
    "doublings of seconds": _metric("doublings of seconds", math.log2),
}
FEWEST_TO_PREDICT = 5  # repeats; the spread of fewer does not tell how many would decide
UNITS_OF_EFFECTS = {  # of accuracies: points
    "FID": "FID",
    "seconds": "seconds",
    "doublings of seconds": "doublings",
    "difficulty of the pool": "points of difficulty",
    "spread over networks": "points of deviation",
    "spread over architectures": "points of deviation",
}
OF_NETWORKS = ("accuracy", "spread over networks", "spread over architectures")  # so the networks must be trained


@dataclass(frozen=True)
class Claim:
    """An idea of a paper as a comparison that can fail.

    Attributes:
        name:     short, without commas: how it is selected.
        sentence: what is claimed, so that "holds" means that it is true here.
        source:   where the paper says it; `printed`: what it printed.
        arms:     each with its weight in the difference. The weights above zero sum to 1, those below to -1; to 2
                  and -2 in a difference of differences.
        n:        repeats that are planned; `delta`: the smallest difference that matters, in the quantity's unit.
        quantity: of QUANTITIES, what of a set is compared.
        smoke:    whether the smoke budget computes it.
        title:    what figures and lists call it, if not by its name.
        in_no_more_seconds: the first arm's sets may not take longer to distil than the second's.

    Raises: UserError: arms or numbers that make no comparison.
    """

    name: str
    sentence: str
    source: str
    printed: str
    scale: Scale
    arms: tuple[tuple[Arm, float], ...]
    n: int
    delta: float = 0.5
    quantity: str = "accuracy"
    smoke: bool = False
    title: str = ""
    in_no_more_seconds: bool = False

    def __post_init__(self) -> None:
        def wrong(why: str) -> UserError:
            return UserError(f"claim {self.name!r}: {why}")

        weights = [weight for _, weight in self.arms]
        if not self.name or "," in self.name:
            raise wrong("a name without commas")
        if not (self.sentence and self.source and self.printed):
            raise wrong("it needs a sentence, its source, and what was printed")
        if len({arm for arm, _ in self.arms}) != len(self.arms) or len(self.arms) < 2:
            raise wrong("at least two arms, all different")
        above, below = (sum(abs(w) for w in weights if w * sign > 0) for sign in (1, -1))
        if not (math.isclose(above, below) and any(math.isclose(above, total) for total in (1, 2))):
            raise wrong(f"weights above zero sum to 1, those below to -1, or to 2 and -2; got {weights}")
        if any(arm.method not in METHODS for arm, _ in self.arms):
            raise unknown("method", next(arm.method for arm, _ in self.arms if arm.method not in METHODS), METHODS)
        if self.n < 3:
            raise wrong(f"{self.n} repeats: at least 3, or their spread is not known")
        if not self.delta > 0:
            raise wrong(f"delta {self.delta}: above zero")
        if self.quantity not in QUANTITIES:
            raise unknown("quantity", self.quantity, QUANTITIES)
        if self.quantity == "spread over networks" and self.scale.num_eval < 2:
            raise wrong("the spread of one network is not known; train at least two on each set")
        if self.quantity == "spread over architectures" and len(self.scale.networks) < 2:
            raise wrong("the spread over architectures needs at least two of them")

    @property
    def unit(self) -> str:
        return UNITS_OF_EFFECTS.get(self.quantity, "points")

    def cells(self, experiment: str) -> dict[Cell, float]:
        """The cells of its arms, each with its weight."""
        return {arm.cell(experiment, self.scale): weight for arm, weight in self.arms}


def against(ours: Arm, theirs: Arm) -> tuple[tuple[Arm, float], ...]:
    """The arms of a difference between two."""
    return ((ours, 1.0), (theirs, -1.0))


def more_than(ours: tuple[Arm, Arm], theirs: tuple[Arm, Arm]) -> tuple[tuple[Arm, float], ...]:
    """The arms of a difference of differences: how much more the first pair differs than the second."""
    return (*against(*ours), *against(*reversed(theirs)))


@settings
class Watched:
    """A record holds the seconds of each set, and how the GAN was trained that its sets start from, if any."""

    version: int = 1


def _gans(config: Any, method: str) -> list[cgan.GAN]:
    return [of for of in optional(METHODS[method], "stage1")(config).values() if isinstance(of, cgan.GAN)]


def measure_sets(task: Task, synthetic: ImageSet, real: ImageSet, test: ImageSet, loop: Loop) -> dict[str, list[Any]]:
    """What the task's `scores` ask for: distances of the set to real images, or of every look at the GAN in training
    its step, the share of its samples that a classifier of real images recognises, and their Fréchet distance."""
    if isinstance(task.scores, Scores):
        scores = task.scores
        if scores.extractor == "auto":  # not Inception where its weights are at hand: a claim's scale is fixed
            scores = replace(scores, extractor=scores.trained.network)
        judge = Judge(real, None, scores, task.seed, loop)
        return {name: [value] for name, value in judge.distances(synthetic).items()}
    names = ("step", "class_accuracy_pct", "frechet_distance")
    looks = [cgan.train(real, of, loop).health for of in _gans(task.config, task.maker)]
    return {"stage 1": [[{k: round(look[k], 1) for k in names} for look in looks[0]]]} if looks else {}


class Repeats(Task):
    """A task whose repeats are fixed before it is run. Their number is not in its key, so that a later plan may raise
    it."""

    def wanted(self, sets: int | None) -> int:
        return min(super().wanted(sets), self.num_sets)

    @functools.cached_property
    def key(self) -> dict[str, Any]:
        return {k: v for k, v in super().key.items() if k != "num_sets"}


def experiment_of(name: str, title: str, claims: Iterable[Claim]) -> Experiment:
    """The experiment whose cells are the arms of these claims; an arm that several claims share is measured once.

    Raises: UserError: two claims of one name, or two arms of one cell that differ in how it is measured.
    """
    claims = tuple(claims)
    names = [claim.name for claim in claims]
    if twice := {n for n in names if names.count(n) > 1}:
        raise UserError(f"{name}: {len(names)} claims with one name twice: {', '.join(sorted(twice))}")
    arms: dict[Cell, tuple[Arm, Claim]] = {}
    for claim in claims:
        for arm, _ in claim.arms:
            cell = arm.cell(name, claim.scale)
            known = arms.setdefault(cell, (arm, claim))
            if (known[0], known[1].scale) != (arm, claim.scale):
                raise UserError(f"{name}: {cell}: two arms of one name under other settings; name them apart")
    repeats = {cell: max(c.n for c in claims if cell in c.cells(name)) for cell in arms}
    in_smoke = {cell for claim in claims if claim.smoke for cell in claim.cells(name)}

    def cells(params: Any) -> list[Cell]:
        wanted = [claim for claim in claims if claim.name in params.claims]
        return list(dict.fromkeys(cell for claim in wanted for cell in claim.cells(name)))

    def task(cell: Cell, params: Parameters) -> Task | Skip:
        arm, scale = arms[cell][0], arms[cell][1].scale
        scores = scale.scores or (Watched() if _gans(arm.config, arm.method) else None)
        if params.profile == "full":
            return Skip("claims are decided at small; the paper's own scale is that of its tables")
        if params.profile == SCALE:
            return Repeats(
                cell,
                arm.config,
                scale.dataset,
                scale.protocol,
                num_eval=scale.num_eval,
                num_sets=repeats[cell],
                seed=params.seed,
                networks=scale.networks,
                tested=scale.tested,
                scores=scores,
            )
        if cell not in in_smoke:
            return Skip("smoke computes a claim or two of every paper")
        brief = scale.protocol.partition("@")[0] + "@2ep"
        return Repeats(
            cell,
            arm.config.smoke(),
            scale.stand_in,
            brief,
            num_eval=min(2, scale.num_eval),  # a spread needs two
            num_sets=SMOKE_REPEATS,
            seed=params.seed,
            network="ConvNetW32",
            tested=10,
            scores=scores.smoke() if isinstance(scores, Scores) else scores,
        )

    model = pydantic.create_model(
        "ClaimParameters", __base__=Parameters, claims=(names_of("claim", lambda: names), names)
    )
    return Experiment(name, title, model, cells, task, lambda cell: False, measure_sets, claims=claims)


# --- what was found -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Finding:
    """Where a claim stands.

    Attributes:
        effect:      of the repeats that are done, at most the planned ones.
        adjusted:    its p-value after Holm's correction over all claims of the paper.
        word:        the verdict.
        provisional: repeats are missing.
        why:         a reason why there is no verdict although there are repeats; "" else.
        arms:        the record of every arm that has one.
    """

    claim: Claim
    effect: Effect
    adjusted: float
    word: Word
    provisional: bool
    why: str = ""
    arms: dict[Arm, Record] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """Of the difference; of a Fréchet distance the metric's name, with its features and number of samples."""
        named = (metric_of("FID", record) for record in self.arms.values() if self.claim.quantity == "FID")
        return next(named, "") or self.claim.unit

    @property
    def verdict(self) -> str:
        """In words: the verdict, whether it is provisional, and of an undecided one the repeats that would decide."""
        if self.word == "not run":
            return "not run"
        said = self.word
        if said in ("holds", "reversed") and (size := abs(self.effect.mean)) - self.effect.half < self.claim.delta:
            said += ", by less than δ" if size + self.effect.half < self.claim.delta else ", perhaps by less than δ"
        if said == "undecided" and self.effect.n > 1 and not self.why:
            said += f" ({self._undecided()})" if self._undecided() else ""
        return f"provisional: {said}" if self.provisional else said

    def _undecided(self) -> str:
        """Why the interval does not decide, and how many repeats in all would; "" from too few to say."""
        n, more = self.effect.n, self.effect.needed
        if not self.effect.low <= 0 <= self.effect.high:
            inside = self.effect.needed_inside
            return "the interval leaves out zero, but Holm's correction is not passed" + (
                f"; about {inside} repeats in all would put it inside ±δ" if inside else ""
            )
        if n < FEWEST_TO_PREDICT:
            return ""
        return f"about {more} repeats in all would decide" if more else f"more than {effects.MOST} repeats would decide"


def _untrained(record: Record) -> str:
    """Why a record says nothing about an idea: its networks have not learned the set, or its GAN no classes."""
    if low := records.underfit(record):
        return f"networks are not trained: {low}"
    looks = record.metrics.get("stage 1", [[]])[0]
    classes = records.number_of_classes(record)
    if looks and classes and (share := looks[-1]["class_accuracy_pct"]) < records.ABOVE_CHANCE * 100 / classes:
        return f"the generator is not trained: a classifier of real images recognises {share:.1f} % of its samples"
    return ""


def _unlike(claim: Claim, arms: list[Record]) -> str:
    """Why the arms of a claim cannot be paired; "" if they can."""
    if len(names := {metric_of(claim.quantity, record) for record in arms}) > 1:
        return f"the arms were measured differently: {' and '.join(sorted(names)).strip()}"
    timed = claim.in_no_more_seconds or "seconds" in claim.quantity
    if timed and len(machines := {m for record in arms for m in _machines(record)}) > 1:
        return f"the arms were timed on different machines: {' and '.join(sorted(machines))}"
    if claim.in_no_more_seconds:
        if len(clocks := {metric_of("seconds", record) for record in arms[:2]}) > 1 or "" in clocks:
            return "the seconds of the arms' sets are not known, or not of one clock"
        ours, theirs = (QUANTITIES["seconds"](record) for record in arms[:2])
        both = ours.keys() & theirs.keys()
        if slower := [i for i in both if ours[i] > theirs[i]]:
            return f"{claim.arms[0][0]} took longer than {claim.arms[1][0]} in {len(slower)} of {len(both)} sets"
    if any(record.key.get("data_sha256") != arms[0].key.get("data_sha256") for record in arms):
        return "the arms were made from different pixels or labels"
    return ""


def _machines(record: Record) -> set[str]:
    """The devices that a record's sets were made on, with their instructions where they are known."""
    parts = [record.made_by, *record.made_by.get("earlier", ())]
    return {", ".join([str(by.get("device", "unknown")), *by.get("processor", [])]) for by in parts}


def paired_differences(claim: Claim, found: dict[Cell, Record], experiment: str) -> list[float]:
    """One difference for each repeat that all arms have, in order, at most as many as are planned; none of arms that
    cannot be paired."""
    arms = claim.cells(experiment)
    if not all(cell in found for cell in arms) or _unlike(claim, [found[cell] for cell in arms]):
        return []
    values = {cell: QUANTITIES[claim.quantity](found[cell]) for cell in arms}
    common = sorted(set.intersection(*(set(v) for v in values.values())))[: claim.n]
    return [math.fsum(weight * values[cell][i] for cell, weight in arms.items()) for i in common]


def findings(of: Experiment, profile: str, seed: int = 0) -> list[Finding]:
    """Where every claim of an experiment stands in a profile ("recorded" shows what small has recorded).

    Holm's family is all claims of the paper, those without repeats included. A record of other settings than the
    claim's, of another version of the code or another seed, is left out, and the finding says so.
    """
    params = of.parameters(profile=SCALE if profile in ("recorded", "full") else profile, seed=seed)
    found: dict[Cell, Record] = {}
    left_out: dict[Cell, str] = {}
    for cell in {cell for claim in of.claims for cell in claim.cells(of.name)}:
        task, record = of.task(cell, params), records.load(cell, params.profile)
        if record is None or isinstance(task, Skip):
            continue
        if changed := records.differences(record.key, task.key):
            left_out[cell] = f"a record of other settings is left out ({cell}: {'; '.join(changed)})"
        else:
            found[cell] = record
    each = [effects.paired(paired_differences(claim, found, of.name), claim.delta) for claim in of.claims]
    adjusted = effects.holm([effect.p_value for effect in each])
    out = []
    for claim, effect, p_value in zip(of.claims, each, adjusted, strict=True):
        word, why = effects.verdict(effect, p_value), ""
        if effect.n and profile != "smoke" and claim.quantity in OF_NETWORKS:
            each_arm = [found[cell] for cell in claim.cells(of.name)]
            if why := next(filter(None, map(_untrained, each_arm)), ""):
                word = "undecided"
        if not effect.n:
            arms = claim.cells(of.name)
            why = next((left_out[cell] for cell in arms if cell in left_out), "")
            why = why or (_unlike(claim, [found[cell] for cell in arms]) if all(c in found for c in arms) else "")
        arms = {arm: found[cell] for arm, _ in claim.arms if (cell := arm.cell(of.name, claim.scale)) in found}
        out.append(Finding(claim, effect, p_value, word, effect.n < claim.n, why, arms))
    return out


def order(
    of: Experiment, profile: str, seconds: dict[tuple[Cell, int], float]
) -> dict[tuple[Cell, int], tuple[float, int]]:
    """A rank for every missing repeat of an arm, lowest first: claims with the least left to compute, repeat by repeat.

    So the most claims are decided at any moment. Claims whose provisional verdict is clear come after those that are
    undecided. Work that claims share counts for the first of them alone.

    Args:
        seconds: of each missing repeat, (cell, number of sets after it) -> seconds; infinite where not known.
    Returns: (seconds until the claim is complete, place in the order).
    """
    clear = {f.claim.name for f in findings(of, profile) if f.word not in ("undecided", "not run")}
    out: dict[tuple[Cell, int], tuple[float, int]] = {}
    left, last = list(of.claims), 0.0

    def missing(claim: Claim) -> list[tuple[Cell, int]]:
        arms = claim.cells(of.name)
        return [job for job in seconds if job not in out and job[0] in arms and job[1] <= claim.n]

    while left:
        costs = {c.name: math.fsum(seconds[job] for job in missing(c)) for c in left}
        claim = min(left, key=lambda c: (c.name in clear, costs[c.name]))
        last = max(last, costs[claim.name])
        for job in sorted(missing(claim), key=lambda job: job[1]):
            out[job] = (last, len(out))
        left.remove(claim)
    return out
