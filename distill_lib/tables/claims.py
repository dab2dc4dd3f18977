"""What the pages of claims show: where every claim stands, as a table, as a figure's rows and in sentences.

found = claims.of("skd")          # every claim of a paper, from its records
tables.show(claims.table(found))
figures.forest(claims.points(found))
claims.sentences(found)
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from typing import Any

import pandas as pd

from .. import experiments
from ..core import paths
from ..evaluation.effects import WORDS
from ..experiments.claims import Arm, Claim, Finding, findings
from ..experiments.definition import Parameters
from ..records import Cell, Record
from .numbers import Findings

TITLES = {"skd": "SKD", "uvit": "U-ViT", "dgs": "DGS", "slfd": "SLFD"}


def papers() -> list[str]:
    """The papers that have claims."""
    return [paper for paper in TITLES if f"{paper}/claims" in experiments.experiments()]


def of(paper: str, params: Parameters | None = None) -> list[Finding]:
    """Where the claims of a paper stand; those of `params.claims` alone where parameters are given."""
    this = experiments.experiment(f"{paper}/claims")
    found = findings(this, params.profile, params.seed) if params else findings(this, "recorded")
    return [f for f in found if params is None or f.claim.name in params.claims]


def table(found: list[Finding], source: bool = True) -> pd.DataFrame:
    """A row per claim: its verdict, what was measured, what the paper says. Those without a repeat are folded below."""
    columns = {
        "claim": lambda f: f.claim.sentence,
        "verdict": lambda f: f"{f.verdict}: {f.why}" if f.why else f.verdict,
        "difference and 95 % interval": difference,
        "p after Holm": _p_value,
        "δ": _delta,
        "repeats": lambda f: f"{f.effect.n} of {f.claim.n}",
        "IPC": _images_per_class,
        "scale": lambda f: str(f.claim.scale),
        "where the paper says it": lambda f: f.claim.source,
        "printed": lambda f: f.claim.printed,
    }
    shown = [name for name in columns if source or name not in ("where the paper says it", "printed")]
    run_first = sorted(found, key=_not_begun)
    frame = pd.DataFrame([{name: columns[name](f) for name in shown} for f in run_first])
    if left := sum(map(_not_begun, found)):
        frame.attrs["folded"] = left, f"{left} planned {'claims' if left > 1 else 'claim'} without a repeat so far"
    return frame


def _not_begun(found: Finding) -> bool:
    """Whether no repeat is recorded, not even one that is left out for a reason."""
    return not (found.effect.n or found.why)


def difference(found: Finding) -> str:
    """'+0.8 (+0.3 to +1.3) points'; with one repeat there is no interval."""
    effect, unit = found.effect, found.unit
    if not effect.n:
        return "not run"
    if effect.n < 2:
        return f"{effect.mean:+z.2f} {unit}, one repeat"
    return f"{effect.mean:+z.2f} ({effect.low:+z.2f} to {effect.high:+z.2f}) {unit}"


def _delta(found: Finding) -> str:
    size, unit = found.claim.delta, found.unit
    return f"{size:g} {unit.replace('points', 'point') if size == 1 else unit}"


def _p_value(found: Finding) -> str:
    """After Holm's correction over all claims of the paper; "" where one repeat or none gives no test."""
    if found.effect.n < 2:
        return ""
    return "< 0.001" if found.adjusted < 0.001 else f"{found.adjusted:.3f}"


def _images_per_class(found: Finding) -> str:
    """Of the arms: '10', or '15 and 10' where they differ."""
    return " and ".join(dict.fromkeys(str(arm.config.ipc) for arm, _ in found.claim.arms))


def title(claim: Claim) -> str:
    """What figures and lists call a claim: 'SKD over DiM, FashionMNIST at 10 images per class'."""
    return _in_words(_name(claim).replace(": ", ", "))


def _name(claim: Claim) -> str:
    return claim.title or claim.name


def _in_words(text: str) -> str:
    text = re.sub(r"(\d+) x IPC", r"\1 times the images kept", text)
    return re.sub(r"IPC (\d+)", lambda m: f"{m[1]} image{'s' * (m[1] != '1')} per class", text)


def points(found: list[Finding]) -> pd.DataFrame:
    """What `figures.forest` draws: a row per claim. What all names of a scale end with stands in the panel's title."""
    endings: dict[str, set[str]] = {}
    for f in found:
        endings.setdefault(str(f.claim.scale), set()).add(_name(f.claim).partition(": ")[2])
    rows = []
    for f in found:
        scale, (name, _, ending) = str(f.claim.scale), _name(f.claim).partition(": ")
        same = len(endings[scale]) == 1 and ending
        rows.append(
            {
                "panel": f"{_in_words(ending)} ({scale})" if same else scale,
                "name": _in_words(name) if same else title(f.claim),
                "mean": f.effect.mean,
                "low": f.effect.low if math.isfinite(f.effect.low) else math.nan,
                "high": f.effect.high if math.isfinite(f.effect.high) else math.nan,
                "delta": f.claim.delta,
                "word": f.word,
                "provisional": f.provisional,
                "repeats": f"{f.effect.n} of {f.claim.n}",
                "unit": f.unit,
            }
        )
    return pd.DataFrame(rows)


def sentences(found: list[Finding]) -> Findings:
    """What was found, claim by claim, in sentences; those without a repeat are counted in the last one."""
    out = []
    for f in found:
        if f.why and not f.effect.n:
            out.append(f"*{f.verdict}*: “{f.claim.sentence}” {f.why}.")
        elif f.effect.n:
            why = f" Reason: {f.why}." if f.why else ""
            done = f"after {f.effect.n} of {f.claim.n} repeats"
            out.append(f"*{f.verdict}*: “{f.claim.sentence}” {difference(f)} {done}.{why}")
    if left := sum(map(_not_begun, found)):
        out.append(f"No repeat of {left} of {len(found)} claims has been computed.")
    return Findings(out)


def decided(found: list[Finding]) -> list[str]:
    """A sentence per verdict: the claims that all their repeats decide so, each with its difference."""
    groups: dict[str, list[str]] = {}
    for f in _clear(found):
        groups.setdefault(f.verdict, []).append(f"\n  - {title(f.claim)}: {difference(f)}")
    return [f"Claims that paired repeats decide, *{said}*:{';'.join(some)}." for said, some in groups.items()]


def _clear(found: list[Finding]) -> list[Finding]:
    """The claims that all their repeats decide, by verdict."""
    some = [f for f in found if not f.provisional and f.word not in ("undecided", "not run")]
    return sorted(some, key=lambda f: (WORDS.index(f.word), f.verdict))


def summary() -> pd.DataFrame:
    """A row per paper: its claims by verdict ("no effect": none larger than δ). Claims that lack repeats are counted
    apart."""
    rows = []
    for paper in papers():
        found = of(paper)
        final = Counter(f.word for f in found if not f.provisional)
        open_ = sum(f.provisional and f.effect.n > 0 for f in found)
        words = {word.removesuffix(" larger than δ"): final[word] for word in WORDS if word != "not run"}
        rows.append(
            {
                "paper": TITLES[paper],
                "claims": len(found),
                **words,
                "provisional": open_,
                "not run": sum(not f.effect.n for f in found),
            }
        )
    return pd.DataFrame(rows)


def overall() -> Findings:
    """How many claims are decided, in a sentence, and which, paper by paper; and of how many no repeat has been
    computed."""
    every = {paper: of(paper) for paper in papers()}
    found = [f for claims in every.values() for f in claims]
    done, clear = sum(not f.provisional for f in found), len(_clear(found))
    out = [f"Of {len(found)} planned claims {done} have all their repeats, and {clear} of these are decided."]
    for paper, claims in every.items():
        groups: dict[str, list[str]] = {}
        for f in _clear(claims):
            groups.setdefault(f.verdict, []).append(title(f.claim))
        listed = "".join(f"\n  - *{said}*: {'; '.join(names)}." for said, names in groups.items())
        many = f"{len(_clear(claims))}" if listed else "none"
        out.append(f"{TITLES[paper]}: {many} of {len(claims)} decided.{listed}")
    for said, belongs in (
        ("Not run yet", _not_begun),
        ("Recorded, but left out for the reason in the table", lambda f: bool(f.why) and not f.effect.n),
    ):
        left = {TITLES[paper]: sum(map(belongs, claims)) for paper, claims in every.items()}
        if texts := [f"{n} of {paper}" for paper, n in left.items() if n]:
            out.append(f"{said}: {', '.join(texts)}.")
    return Findings(out)


def run() -> pd.DataFrame:
    """Every claim with a repeat, as `figures.forest` takes it: a panel per paper and unit, decided claims first."""
    parts = [pd.DataFrame()]
    for paper in papers():
        some = sorted((f for f in of(paper) if f.effect.n), key=lambda f: (f.provisional, WORDS.index(f.word)))
        if some:
            named = points(some).assign(name=[title(f.claim) for f in some])
            parts += [part.assign(panel=f"{TITLES[paper]}, in {unit}") for unit, part in named.groupby("unit")]
    return pd.concat(parts)


def pilots() -> pd.DataFrame:
    """The short runs by which the scales of claims and their numbers of repeats were chosen."""
    return pd.read_csv(paths.reported().parent / "pilots.csv", keep_default_na=False)


# --- how well networks and generators were trained --------------------------------------------------------------------
def arms(found: list[Finding]) -> pd.DataFrame:
    """A row per arm with a record: its accuracy, the training loss its networks end at, how far the generator had come
    in the last fifth of its training, and the seconds of distilling a set and of a whole repeat."""
    rows: dict[Cell, dict[str, Any]] = {}
    for f in found:
        for arm, record in f.arms.items():
            cpu = record.metrics.get("distill_cpu_seconds")
            clock, spent = ("processor", record.cpu_seconds) if record.cpu_seconds else ("wall time", record.seconds)
            loss = [v for k, values in record.metrics.items() if k.startswith("train_loss") for v in values]
            rows[record.cell] = {
                "arm": str(arm),
                "IPC": record.cell.ipc,
                "scale": str(f.claim.scale),
                "sets": len(record.done),
                "accuracy (%)": f"{statistics.fmean(record.test_accuracy_pct):.1f}",
                "training loss": f"{sum(loss) / len(loss):.3f}" if loss else "not kept",
                "generator recognised (%)": recognised(arm, record),
                "distilling a set (processor s)": f"{statistics.fmean(cpu):.1f}" if cpu else "not kept",
                "a repeat": f"{sum(spent.values()) / len(record.done):.0f} s of {clock}",
            }
    return pd.DataFrame(list(rows.values()))


def recognised(arm: Arm, record: Record) -> str:
    """The share of a GAN's samples that a classifier of real images recognises, at four fifths of its training and at
    its end: '93.1, then 93.4'; of other generators, and of none, in words."""
    looks = (record.metrics.get("stage 1") or [[]])[0]
    if not looks:
        prior = getattr(getattr(arm.config, "space", None), "prior", None)
        if prior is not None and prior.weights == "random":
            return "random weights"
        return "not watched here" if arm.method == "U-ViT" else "no generator"
    last = looks[-1]["step"]
    before = next(look for look in looks if look["step"] >= 0.8 * last)
    return f"{before['class_accuracy_pct']:.1f}, then {looks[-1]['class_accuracy_pct']:.1f}"
