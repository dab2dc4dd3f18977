"""What the pages of claims show: where every claim stands, as a table, as a figure's rows and in sentences.

found = claims.of("skd")          # every claim of a paper, from its records
tables.show(claims.table(found))
figures.forest(claims.points(found))
claims.sentences(found)
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pandas as pd

from .. import experiments
from ..core import paths
from ..evaluation.effects import WORDS
from ..experiments.claims import Finding, findings
from ..experiments.definition import Parameters
from ..records import Cell, Record
from .findings import Findings, mean_pct

PAPER_TITLES = {"skd": "SKD", "uvit": "U-ViT", "dgs": "DGS", "slfd": "SLFD"}


def papers() -> list[str]:
    """The papers that have claims."""
    return [paper for paper in PAPER_TITLES if f"{paper}/claims" in experiments.experiments()]


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
        "δ": lambda f: f"{f.claim.delta:g}",
        "repeats": lambda f: f"{f.effect.n} of {f.claim.n}",
        "scale": lambda f: str(f.claim.scale),
        "where the paper says it": lambda f: f.claim.source,
        "printed": lambda f: f.claim.printed,
    }
    shown = [name for name in columns if source or name not in ("where the paper says it", "printed")]
    run_first = sorted(found, key=lambda f: not f.effect.n)
    frame = pd.DataFrame([{name: columns[name](f) for name in shown} for f in run_first])
    if left := sum(not f.effect.n for f in found):
        frame.attrs["folded"] = left, f"{left} planned {'claims' if left > 1 else 'claim'} without a repeat so far"
    return frame


def difference(found: Finding) -> str:
    """'+0.8 (+0.3 to +1.3) points'; with one repeat there is no interval."""
    effect, unit = found.effect, found.claim.unit
    if not effect.n:
        return "not run"
    if effect.n < 2:
        return f"{effect.mean:+.2f} {unit}, one repeat"
    return f"{effect.mean:+.2f} ({effect.low:+.2f} to {effect.high:+.2f}) {unit}"


def points(found: list[Finding]) -> pd.DataFrame:
    """What `figures.forest` draws: a row per claim. What all names of a scale end with stands in the panel's title."""
    endings: dict[str, set[str]] = {}
    for f in found:
        endings.setdefault(str(f.claim.scale), set()).add(f.claim.name.partition(": ")[2])
    rows = []
    for f in found:
        scale, (name, _, ending) = str(f.claim.scale), f.claim.name.partition(": ")
        same = len(endings[scale]) == 1 and ending
        rows.append(
            {
                "panel": f"{ending} ({scale})" if same else scale,
                "name": name if same else f.claim.name,
                "mean": f.effect.mean,
                "low": f.effect.low if math.isfinite(f.effect.low) else math.nan,
                "high": f.effect.high if math.isfinite(f.effect.high) else math.nan,
                "delta": f.claim.delta,
                "word": f.word,
                "provisional": f.provisional,
                "repeats": f"{f.effect.n} of {f.claim.n}",
                "unit": f.claim.unit,
            }
        )
    return pd.DataFrame(rows)


def sentences(found: list[Finding]) -> Findings:
    """What was found, claim by claim, in sentences; those without a repeat are counted in the last one."""
    out = []
    for f in found:
        if f.effect.n:
            why = f" Reason: {f.why}." if f.why else ""
            out.append(
                f"{f.claim.sentence} *{f.verdict}*: {difference(f)} after {f.effect.n} of {f.claim.n} repeats.{why}"
            )
    if left := sum(not f.effect.n for f in found):
        out.append(f"No repeat of {left} of {len(found)} claims has been computed.")
    return Findings(out)


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
                "paper": PAPER_TITLES[paper],
                "claims": len(found),
                **words,
                "provisional": open_,
                "not run": sum(not f.effect.n for f in found),
            }
        )
    return pd.DataFrame(rows)


def overall() -> Findings:
    """How many claims are decided, in a sentence, and which; and where no repeat has been computed, by number."""
    every = {paper: of(paper) for paper in papers()}
    found = [f for claims in every.values() for f in claims]
    done = [f for f in found if not f.provisional]
    decided = [f for f in done if f.word not in ("undecided", "not run")]
    out = [
        f"Of {len(found)} planned claims {len(done)} have all their repeats, and {len(decided)} of these are decided."
    ]
    for word in ("holds", "reversed", "no effect larger than δ"):
        if some := [f.claim.name for f in decided if f.word == word]:
            out.append(f"*{word}*: {'; '.join(some)}.")
    left = {PAPER_TITLES[paper]: sum(not f.effect.n for f in claims) for paper, claims in every.items()}
    if texts := [f"{n} of {paper}" for paper, n in left.items() if n]:
        out.append(f"Not run yet: {', '.join(texts)}.")
    return Findings(out)


def run() -> pd.DataFrame:
    """Every claim with a repeat, as `figures.forest` takes it: a panel per paper and unit, decided claims first."""
    parts = [pd.DataFrame()]
    for paper in papers():
        some = sorted((f for f in of(paper) if f.effect.n), key=lambda f: (f.provisional, WORDS.index(f.word)))
        if some:
            named = points(some).assign(name=[f.claim.name for f in some])
            parts += [part.assign(panel=f"{PAPER_TITLES[paper]}, in {unit}") for unit, part in named.groupby("unit")]
    return pd.concat(parts)


def pilots() -> pd.DataFrame:
    """The short runs by which the scales of claims and their numbers of repeats were chosen."""
    return pd.read_csv(paths.reported().parent / "pilots.csv", keep_default_na=False)


# --- how well networks and generators were trained --------------------------------------------------------------------
def arms(found: list[Finding]) -> pd.DataFrame:
    """A row per arm with a record: its accuracy, the training loss its networks end at, how far the generator had come
    in the last fifth of its training, and the seconds of a repeat."""
    rows: dict[Cell, dict[str, Any]] = {}
    for f in found:
        for arm, record in f.arms.items():
            loss = [v for k, values in record.metrics.items() if k.startswith("train_loss") for v in values]
            rows[record.cell] = {
                "arm": str(arm),
                "IPC": record.cell.ipc,
                "scale": str(f.claim.scale),
                "sets": len(record.done),
                "accuracy (%)": f"{mean_pct(record):.1f}",
                "training loss": f"{sum(loss) / len(loss):.3f}" if loss else "not kept",
                "generator recognised (%)": recognised(record),
                "seconds a repeat": f"{sum(record.seconds.values()) / len(record.done):.0f}",
            }
    return pd.DataFrame(list(rows.values()))


def recognised(record: Record) -> str:
    """The share of a generator's samples that a classifier of real images recognises, at four fifths of its training
    and at its end: '93.1, then 93.4'."""
    looks = (record.metrics.get("stage 1") or [[]])[0]
    if not looks:
        return "no generator"
    last = looks[-1]["step"]
    before = next(look for look in looks if look["step"] >= 0.8 * last)
    return f"{before['class_accuracy_pct']:.1f}, then {looks[-1]['class_accuracy_pct']:.1f}"
