"""What the records say, in sentences: so that the prose of a page cannot disagree with its numbers.

    findings.of("skd")          # as the last line of a notebook's cell: a bullet list; elsewhere lines of text
    findings.headline("skd")    # the first thing to know, for people in a hurry

The functions of a paper take records and return sentences; besides them they read the published numbers, and what is
kept of DGS's Figure 2. What the small budget left untrained is no result: it is named, and its number is not used.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from statistics import fmean, median
from typing import Any

from .. import experiments, records
from ..core import store
from ..core.errors import unknown
from ..core.settings import from_dict, replace
from ..data import DATASETS, Dataset, sized
from ..evaluation import statistics
from ..evaluation.protocols import Protocol
from ..experiments import Skip
from ..experiments.papers import skd as table1_of
from ..records import Cell, Record, reported
from . import claims
from .dgs import difficulty_of
from .numbers import Findings, device, on_common_sets
from .ranks import mean_interval, rank_ranges

Found = dict[Cell, Record]  # the measured cells of a table, in its order
SPREAD = (
    "A difference is *outside the spread* if it is more than twice the larger deviation of the two rows. A row's "
    "deviation is that over its networks, or the standard error that its number of test images leaves, whichever is "
    "larger. *The spread of networks* is said where a row has one set: how far a set from another seed would be, is "
    "not known then."
)


def of(paper: str, profile: str = "small") -> Findings:
    """What the records of a profile say about a paper, its decided claims first, and which of its cells they leave out.

    Args:
        paper: skd, uvit, dgs or slfd.
    Raises: UserError: another paper; a damaged record.
    """
    say, _, names = _known(paper)
    tables = [measured(name, profile) for name in names]
    gaps = [text for name in names for text in (not_measured(absent(name, profile)), not_trained(name, profile))]
    tested = claims.decided(claims.of(paper)) if profile == "small" else []
    rests_on = basis([r for found in tables for r in found.values()])
    return Findings([*tested, *say(*tables), *filter(None, gaps), *rests_on])


def headline(paper: str, profile: str = "small") -> Findings:
    """The one finding of a paper to know, in plain words; what its claims say comes first.

    Raises: UserError: another paper; a damaged record.
    """
    _, say, names = _known(paper)
    parts = [decided(paper) if profile == "small" else "", say(*[measured(name, profile) for name in names])]
    return Findings([" ".join(filter(None, parts)) or "Nothing has been measured yet."])


def decided(paper: str) -> str:
    """What paired repeats decide of a paper's claims: how many, and the first of them; "" where they decide none."""
    found = claims.of(paper)
    done = [f for f in found if not f.provisional and f.word not in ("undecided", "not run")]
    if not done:
        return ""
    words = "; ".join(f"{said} in {n}" for said, n in Counter(f.verdict for f in done).items())
    first = f"*{done[0].verdict}*: “{done[0].claim.sentence}” {claims.difference(done[0])}."
    return f"Paired repeats decide {len(done)} of {len(found)} claims: {words}. The first of these, {first}"


def _known(paper: str) -> tuple[Callable[..., list[str]], Callable[..., str], list[str]]:
    if paper not in PAPERS:
        raise unknown("paper", paper, PAPERS)
    return PAPERS[paper]


def _records(name: str, profile: str) -> Found:
    cells = experiments.experiment(name).cells(experiments.check_parameters(name, {"profile": profile}))
    return {cell: record for cell in cells if (record := records.load(cell, profile))}


def measured(name: str, profile: str = "small") -> Found:
    """The records of an experiment's cells whose networks are trained."""
    return {cell: r for cell, r in _records(name, profile).items() if profile == "full" or not records.underfit(r)}


def absent(name: str, profile: str = "small") -> list[Cell]:
    """The cells that a profile would compute and that have no record."""
    this, params = experiments.experiment(name), experiments.check_parameters(name, {"profile": profile})
    wanted = [cell for cell in this.cells(params) if not isinstance(this.task(cell, params), Skip)]
    return [cell for cell in wanted if not records.path(cell, profile).exists()]


def not_trained(name: str, profile: str = "small") -> str:
    """Which cells were run and left their networks untrained, in a sentence; "" where there are none."""
    found = _records(name, profile).keys() - measured(name, profile).keys()
    if not found:
        return ""
    text = "; ".join(sorted(str(cell) for cell in found))
    return f"*{experiments.experiment(name).title}*: run, but the networks are hardly trained, so no result: {text}."


# --- one record, two records ------------------------------------------------------------------------------------------
def mean_pct(record: Record) -> float:
    return statistics.mean(record.test_accuracy_pct)


def dataset(record: Record) -> Dataset:
    return DATASETS[sized(record.key["dataset"])[0]]


def classes(record: Record) -> int:
    return dataset(record).num_classes


def deviation(record: Record) -> float:
    """In points, the larger of the deviation over networks and the standard error of an accuracy on so many images."""
    share, tested = mean_pct(record) / 100, record.key.get("tested")
    images = tested * classes(record) if tested else dataset(record).counts["test"]
    return max(statistics.std(record.test_accuracy_pct), 100 * math.sqrt(share * (1 - share) / images))


def verdict(record: Record, other: Record) -> str:
    """Whether a mean is "above" or "below" another outside the spread, or "inside" it; "no spread" with one network."""
    if min(len(record.test_accuracy_pct), len(other.test_accuracy_pct)) < 2:
        return "no spread"
    difference = mean_pct(record) - mean_pct(other)
    if abs(difference) <= 2 * max(deviation(record), deviation(other)):
        return "inside"
    return "above" if difference > 0 else "below"


def which_spread(pairs: list[tuple[Record, Record]]) -> str:
    """What a difference is held against: where a row has one set, the deviation of its networks alone."""
    return "the spread of networks" if any(len(set(r.sets)) == 1 for pair in pairs for r in pair) else "the spread"


def versus(name: str, record: Record, other_name: str, other: Record) -> str:
    """'SKD is 2.8 points below CGAN, outside the spread of networks'."""
    difference, found = mean_pct(record) - mean_pct(other), verdict(record, other)
    side, what = "above" if difference > 0 else "below", which_spread([(record, other)])
    how = {"inside": f"inside {what}", "no spread": "of one network, which has no spread"}
    return f"{name} is {abs(difference):.1f} points {side} {other_name}, {how.get(found, f'outside {what}')}"


def tally(name: str, other_name: str, pairs: list[tuple[Record, Record]], what: str = "comparisons") -> str:
    """'SKD is above CGAN outside the spread of networks in 1 of 3 comparisons, and below in 1.'"""
    found, what_spread = [verdict(*pair) for pair in pairs], which_spread(pairs)
    above, below, alone = (found.count(v) for v in ("above", "below", "no spread"))
    said = (
        f"{name} is above {other_name} outside {what_spread} in {above} of {len(pairs)} {what}, and below in {below}."
    )
    return said + f" Of one network, and so without a spread, are {alone}." * bool(alone)


def rule(record: Record, budget: bool = True) -> tuple[Protocol, int, int]:
    """A record's protocol, with or without its budget; images per class and images of the set that it is applied to."""
    made, ipc, images = from_dict(Protocol, record.key["protocol"]), record.cell.ipc, record.cell.ipc * classes(record)
    made = made.settled(dataset(record).name, record.key["network"], ipc, classes(record))
    return made if budget else replace(made, budget=None), ipc, images


def steps(record: Record, budget: bool = True) -> int:
    """Optimiser steps of a network trained for a record; without the budget those of the whole protocol."""
    made, ipc, images = rule(record, budget)
    return made.num_epochs(ipc, images) * made.batches(images)


def training(found: list[Record]) -> str:
    """'120 optimiser steps (4,000 without the budget)'."""
    few, whole = (span((steps(r, budget) for r in found), 0) for budget in (True, False))
    return f"{few} optimiser steps ({whole} without the budget)"


# --- words ------------------------------------------------------------------------------------------------------------
def span(values: Iterable[float], digits: int = 1) -> str:
    """'10.0 to 18.4', or one number where all are written alike."""
    values = list(values)
    return " to ".join(dict.fromkeys(f"{v:,.{digits}f}" for v in (min(values), max(values))))


def signed(points: float) -> str:
    return f"{points:+z.1f}"


def ranking(rows: dict[str, Record]) -> str:
    """'CGAN 72.6, DiM 70.7': best first, in percent."""
    return ", ".join(f"{name} {mean_pct(r):.1f}" for name, r in sorted(rows.items(), key=lambda row: -mean_pct(row[1])))


def guessing(record: Record) -> str:
    return f"where guessing has {100 / classes(record):.0f} %"


def reached(found: Iterable[Record]) -> str:
    """The range over single networks, and not over the means that rows of a table show."""
    return f"single networks reach {span(v for r in found for v in r.test_accuracy_pct)} %"


def losses(found: Iterable[Record]) -> str:
    return f"training loss ends at {span((v for r in found for v in r.metrics['train_loss']), 2)}"


def images_per_class(ipc: int) -> str:
    return f"{ipc} image{'s' * (ipc > 1)} per class"


# --- any paper --------------------------------------------------------------------------------------------------------
def printed(cell: Cell) -> float | None:
    """The published mean in percent."""
    row = reported.lookup(cell.experiment, cell.method, cell.dataset, cell.ipc, cell.network, cell.variant)
    return row and row["value"]


def not_measured(cells: list[Cell]) -> str:
    """'*SKD, Table 1*: not measured yet at this budget: CIFAR10, 1 image per class: CGAN, DiM.'; '' without cells.

    Cells that the paper does not print are counted, where it prints others of the table.
    """
    if not cells:
        return ""
    this = experiments.experiment(cells[0].experiment)
    shown = [c for c in cells if this.printed(c)] or cells
    several = len({c.network for c in this.cells(experiments.check_parameters(this.name, {}))}) > 1
    parts: dict[str, dict[str, None]] = {}
    for cell in shown:
        of = [cell.dataset, *([images_per_class(cell.ipc)] if cell.ipc else []), *[cell.network] * several]
        row = cell.method + f" ({cell.variant})" * bool(cell.variant)
        parts.setdefault(", ".join(of), {})[row] = None
    text = "; ".join(f"{where}: {', '.join(rows)}" for where, rows in parts.items())
    beside = len(cells) - len(shown)
    more = f"; and {beside} cell{'s' * (beside > 1)} that the paper does not print" * bool(beside)
    return f"*{this.title}*: not measured yet at this budget: {text}{more}."


def basis(found: list[Record]) -> list[str]:
    """What the numbers rest on, and what `outside the spread` means; nothing without records."""
    if not found:
        return []
    one_set, one_network = sum(len(set(r.sets)) == 1 for r in found), sum(len(r.sets) == 1 for r in found)
    return [
        f"Of these {len(found)} numbers {one_set} rest on a single distilled set, so that their spread is that of the "
        f"trained networks alone, and {one_network} on a single network.",
        SPREAD,
    ]


def columns(found: Found, protocol: str | None = None) -> dict[tuple[str, int | None], dict[str, Record]]:
    """Records of a table by data set and images per class, then by row: the printed cells, or those of a protocol.

    Other readings of a row are left out.
    """
    out: dict[tuple[str, int | None], dict[str, Record]] = {}
    for cell, r in found.items():
        own = experiments.experiment(cell.experiment).printed(cell)
        if cell.protocol == protocol and not cell.variant if protocol else own:
            out.setdefault((cell.dataset, cell.ipc), {})[cell.method] = r
    return out


def by_network(found: Found) -> dict[str, dict[str, Record]]:
    """Records by evaluation network, then by row."""
    out: dict[str, dict[str, Record]] = {}
    for cell, r in found.items():
        out.setdefault(cell.network, {})[cell.method] = r
    return out


def looks(found: Iterable[Record]) -> list[str]:
    """How far the best look at the test set lies above the last epoch; nothing where no protocol looks."""
    some = [r for r in found if r.cell.ipc and "test_selected_pct" in r.metrics]
    if not some:
        return []
    pairs = [pair for r in some for pair in zip(r.metrics["test_selected_pct"], r.test_accuracy_pct, strict=True)]
    gains = [best - last for best, last in pairs]
    few, whole = (
        span((made.num_checks(ipc, images) for made, ipc, images in (rule(r, budget) for r in some)), 0)
        for budget in (True, False)
    )
    return [
        f"The best look at the test set (`test_selected_pct`) is {median(gains):.1f} points above the last epoch in "
        f"the median of {len(gains)} networks, and at most {max(gains):.1f}. The budget takes {few} looks where the "
        f"whole protocol takes {whole}, so it does not say what choosing among all of them would add."
    ]


def repeated(found: Iterable[Record]) -> list[str]:
    """Cells that share one run, because all their settings are the same, named together."""
    runs: dict[str, list[str]] = {}
    for r in found:
        name = " ".join(filter(None, [r.cell.experiment.split("/")[1], r.cell.method, r.cell.variant]))
        run = store.digest({"key": r.key, "values": r.test_accuracy_pct, "network": r.cell.network})
        runs.setdefault(run, []).append(f"`{name}`")
    same = [" = ".join(names) for names in runs.values() if len(names) > 1]
    return [f"One run stands in several tables: {'; '.join(same)}."] if same else []


# --- SKD --------------------------------------------------------------------------------------------------------------
GENERATORS = ["CGAN", "DiM", "SKD (no standardisation)", "SKD"]


def skd(table1: Found, table2: Found, ablations: Found) -> list[str]:
    groups = columns(table1)
    sampled = {column: {m: rows[m] for m in GENERATORS if m in rows} for column, rows in groups.items()}
    sampled = {column: rows for column, rows in sampled.items() if len(rows) == len(GENERATORS)}
    out = []
    for other in GENERATORS[:-1] if sampled else ():
        pairs = [(rows["SKD"], rows[other]) for rows in sampled.values()]
        wins = sum(printed(a.cell) > printed(b.cell) for a, b in pairs)
        out.append(f"{tally('SKD', other, pairs, 'measured settings')} The paper prints it above in {wins} of them.")
    for (name, ipc), rows in sampled.items():
        this, every = rows["SKD"], groups[name, ipc].values()
        ranks = [1 + sum(value(r) > value(this) for r in every) for value in (mean_pct, _print_of)]
        out.append(
            f"{name}, {images_per_class(ipc)}, `{this.key['protocol']['name']}`: {ranking(rows)}. "
            f"{order({m: rows[m] for m in ('CGAN', 'DiM', 'SKD')})} {versus('SKD', this, 'CGAN', rows['CGAN'])}; "
            f"the printed difference is {signed(printed(this.cell) - printed(rows['CGAN'].cell))}. "
            f"Of the {len(every)} rows measured here, each under its own protocol, SKD has rank {ranks[0]}; "
            f"by the printed numbers it has rank {ranks[1]}."
        )
    out += [*fixed(table1), *from_print(groups), *augmented(table1), *looks(table1.values())]
    for network, rows in by_network(table2).items():
        some = list(rows.values())
        number = min(len(r.test_accuracy_pct) for r in some)
        out.append(
            f"Table 2, {network} on {some[0].key['dataset']}: {ranking(rows)}, of {number} network{'s' * (number > 1)} "
            f"each, trained for {training(some)}; the {losses(some)}."
        )
    variants = {cell.variant: r for cell, r in ablations.items()}
    default = variants.pop("default", None)
    if default and variants:
        pairs = [(r, default) for r in variants.values()]
        out.append(f"Ablations: {tally('a variant', 'the default', pairs, 'variants')}")
        place = 1 + sum(mean_pct(r) > mean_pct(default) for r in variants.values())
        told = [
            versus(f"*{v}*", variants[v], "the default", default) for v in ("lambda 0", "lambda 1") if v in variants
        ]
        out.append(
            f"Ablations: by its mean the default is number {place} of {1 + len(pairs)}"
            + f"; {', and '.join(told)}" * bool(told)
            + "."
        )
        if alone := [r for r in (default, *variants.values()) if len(set(r.sets)) == 1]:
            networks = span((len(r.test_accuracy_pct) for r in alone), 0)
            out.append(
                f"Ablations: one set of a variant, with {networks} networks, cannot tell what the setting does from "
                "how far sets of other seeds lie."
            )
    return out


def skd_first(table1: Found, table2: Found, ablations: Found) -> str:
    """The setting with the most images per class that has SKD and Random under one protocol: these, the best rows, and
    SKD's rank among all rows by their intervals and among the printed ones by their means."""
    groups: dict[tuple[str, int | None], dict[str, Record]] = {}
    for cell, r in table1.items():
        if cell.ipc and cell.protocol in (table1_of.FAIR, table1_of.LEARNED):
            labels = table1_of.labels(cell)
            row = cell.method if labels == "hard" else f"{cell.method} ({labels} labels)"
            groups.setdefault((cell.dataset, cell.ipc), {})[row] = r
    groups = {column: rows for column, rows in groups.items() if {"SKD", "Random"} <= rows.keys()}
    if not groups:
        return ""
    (name, ipc), rows = max(groups.items(), key=lambda group: group[0][1])
    said = {row: f"{mean_pct(r):.1f}" for row, r in rows.items()}
    top = f"{max(map(mean_pct, rows.values())):.1f}"
    best = [row for row in rows if said[row] == top]
    intervals = [mean_interval(r.test_accuracy_pct, r.sets)[1:] for r in rows.values()]
    first, last = dict(zip(rows, rank_ranges(*map(list, zip(*intervals))), strict=True))["SKD"]
    once = [r.cell for r in rows.values() if table1_of.labels(r.cell) != "learned"]  # else some rows count twice
    theirs = [value for cell in once if (value := printed(cell)) is not None]
    at = 1 + sum(value > printed(rows["SKD"].cell) for value in theirs)
    verb, ranks = "reach" if len(best) > 1 else "reaches", " to ".join(dict.fromkeys((str(first), str(last))))
    return (
        f"{name}, {images_per_class(ipc)}, all rows under one protocol: {' and '.join(best)} {verb} {top} %, random "
        f"real images {said['Random']} % and SKD {said['SKD']} %. By 95 % intervals, of networks where a row has one "
        f"set, SKD's rank is {ranks} of {len(rows)}; by the printed means, each row under its own protocol, it is "
        f"number {at} of {len(theirs)}."
    )


def _print_of(record: Record) -> float:
    return printed(record.cell)


def order(rows: dict[str, Record]) -> str:
    """How the order of rows by accuracy stands to the printed order, in a sentence."""
    ours = sorted(rows, key=lambda name: -mean_pct(rows[name]))
    theirs = sorted(rows, key=lambda name: -printed(rows[name].cell))
    if ours == theirs:
        return f"The order, {' above '.join(ours)}, is the printed one."
    how = "the reverse of" if ours == theirs[::-1] else "not"
    return f"The order, {' above '.join(ours)}, is {how} the printed one, {' above '.join(theirs)}."


def fixed(table1: Found) -> list[str]:
    """What one fixed set of a generator costs against fresh images in every epoch, by images per class."""
    fresh, once = columns(table1, "dim"), columns(table1, "dim_fixed")
    costs: dict[int, list[float]] = {}
    for column, rows in once.items():
        both = fresh.get(column, {})
        costs.setdefault(column[1], []).extend(
            mean_pct(both[name]) - mean_pct(r) for name, r in rows.items() if name in both
        )
    return [
        "One fixed set (`dim_fixed`) instead of fresh images in every epoch (`dim`) costs the generators "
        f"{span(lost)} points at {images_per_class(ipc)}."
        for ipc, lost in costs.items()
        if lost
    ]


def from_print(groups: dict[tuple[str, int | None], dict[str, Record]]) -> list[str]:
    """Ours minus the printed mean, row by row."""
    gaps: dict[str, list[float]] = {}
    for name, r in (row for rows in groups.values() for row in rows.items() if row[1].cell.ipc):
        gaps.setdefault(name, []).append(mean_pct(r) - printed(r.cell))
    middle = {name: median(values) for name, values in gaps.items()}
    text = ", ".join(f"{name} {signed(middle[name])}" for name in sorted(middle, key=lambda name: -middle[name]))
    said = f"Ours minus print, the median over the measured settings of a row, in points: {text}. "
    return [f"{said}A smaller budget and a fault of ours would look the same here."] if gaps else []


def augmented(table1: Found) -> list[str]:
    """What the same sets score under `vico_dsa` instead of the printed protocol, without its augmentation."""
    plain, again = columns(table1, "vico_noaug"), columns(table1, "vico_dsa")
    every, texts = [], []
    for (dataset, ipc), rows in again.items():
        if dataset == "MNIST":  # where `vico_noaug` has DC's augmentation
            continue
        both = [(r, other) for name, r in rows.items() if (other := plain.get((dataset, ipc), {}).get(name))]
        if pairs := [tuple(common) for pair in both if (common := on_common_sets(list(pair)))]:
            changes = [mean_pct(a) - mean_pct(b) for a, b in pairs]
            between = " to ".join(dict.fromkeys((signed(min(changes)), signed(max(changes)))))
            texts.append(f"{dataset}, {images_per_class(ipc)}, {between} (rows: {len(pairs)})")
            every += pairs
    said = f"The same sets under `vico_dsa` instead of `vico_noaug`, in points: {'; '.join(texts)}. "
    return [said + tally("`vico_dsa`", "`vico_noaug`", every)] if every else []


# --- DGS --------------------------------------------------------------------------------------------------------------
def dgs(table1: Found, table2: Found, table3: Found, table4: Found) -> list[str]:
    out, nets = [], by_network(table1)
    chosen = [r for found in (table1, table3, table4) for r in found.values() if r.cell.ipc]
    if chosen:
        numbers = [str(n) for n, found in ((1, table1), (3, table3), (4, table4)) if found]
        out.append(
            f"Table{'s' * (len(numbers) > 1)} {', '.join(numbers)} ({chosen[0].key['dataset']}): networks are trained "
            f"for {training(chosen)}; {reached(chosen)}, {guessing(chosen[0])}; their {losses(chosen)}, "
            f"where guessing has {math.log(classes(chosen[0])):.2f}."
        )
    both = {n: rows for n, rows in nets.items() if {"Random", "Full data"} <= rows.keys()}
    ceilings = {n: (rows["Full data"], rows["Random"]) for n, rows in both.items()}
    if ceilings:
        above, below = next(iter(ceilings.values()))
        texts = [f"{n} {mean_pct(full):.1f} % ({printed(random.cell):.1f} %)" for n, (full, random) in ceilings.items()]
        out.append(
            f"On all images (`{above.key['protocol']['name']}`), and in brackets what the paper prints for random "
            f"images, {images_per_class(below.cell.ipc)}: {', '.join(texts)}."
        )
        if all(mean_pct(full) < printed(random.cell) for full, random in ceilings.values()):
            out.append("So the budget limits these rows, and not the sets: their order says nothing about the methods.")
    for other in ("Minimax", "Random"):
        pairs = [(rows["DGS"], rows[other]) for rows in nets.values() if {"DGS", other} <= rows.keys()]
        out += [f"Table 1: {tally('DGS', other, pairs)}"] if pairs else []
    for (name, ipc), rows in columns(table2).items():
        some = list(rows.values())
        out.append(
            f"Table 2, {some[0].key['dataset']}, {images_per_class(ipc)}: {ranking(rows)}, {guessing(some[0])}. "
            f"Networks are trained for {training(some)}; their {losses(some)}."
        )
        others = [other for other in ("Random", "Minimax") if {"DGS", other} <= rows.keys()]
        out += [f"Table 2, {name}: {versus('DGS', rows['DGS'], other, rows[other])}." for other in others]
    for number, found in ((3, table3), (4, table4)):
        rows = {f"*{cell.variant.partition('=')[2]}*": r for cell, r in found.items()}
        out += [f"Table {number}: {ranking(rows)}, {guessing(next(iter(rows.values())))}."] if rows else []
    shown = difficulty_of(experiments.check_parameters("dgs/figure2_difficulty", {}))
    every = [*table1.values(), *table2.values(), *table3.values(), *table4.values()]
    return [*out, *pool_difficulty(shown), *looks(every), *repeated(every)]


def pool_difficulty(shown: dict[str, Any]) -> list[str]:
    """Whether the pool of Figure 2 is easier than the real images, as the paper finds; nothing where it was not run."""
    if not shown:
        return []
    means = {name: (fmean(c["pool"]), fmean(c["real"])) for name, c in shown["classes"].items()}
    harder = sum(made > real for made, real in means.values())
    texts = [f"{name} {made:.2f} against {real:.2f}" for name, (made, real) in means.items()]
    met = {0: "That is the paper's premise", len(means): "The paper's premise, an easier pool, does not hold here"}
    return [
        f"Figure 2 ({shown['about']['data']}): the pool is harder than the real images in {harder} of {len(means)} "
        f"classes, by mean difficulty: {'; '.join(texts)}. "
        f"{met.get(harder, 'The paper has an easier pool in both')}."
    ]


def dgs_first(table1: Found, table2: Found, table3: Found, table4: Found) -> str:
    """Random real images as the floor, and DGS against it where it has been measured."""
    rows = {cell: r for cell, r in {**table1, **table2}.items() if cell.ipc}
    if not rows:
        return ""
    random = {cell: r for cell, r in rows.items() if cell.method == "Random"}
    parts = [f"{mean_pct(r):.1f} % ({r.key['dataset']}, {cell.network})" for cell, r in random.items()]
    many, chance = next(iter(rows)).ipc, guessing(next(iter(rows.values())))
    said = f"Networks trained on random real images, {many} per class, reach {' and '.join(parts)}, {chance}."
    said = said if parts else "Random real images have not been measured."
    pairs = [(r, random[other]) for c, r in rows.items() if c.method == "DGS" and (other := _like(c, random))]
    if not pairs:
        return f"{said} No generated set of its tables is measured yet."
    return f"{said} {tally('DGS', 'Random', pairs)}"


def _like(cell: Cell, others: Found) -> Cell | None:
    """The cell among others that differs in its method alone."""
    return next((other for other in others if replace(other, method=cell.method) == cell), None)


# --- SLFD -------------------------------------------------------------------------------------------------------------
MEAN = "cross-architecture mean"  # over networks that the distillation has not seen


def slfd(table1: Found, table4: Found, table5: Found, table7: Found, ablations: Found) -> list[str]:
    out, tables = [], {**table1, **table4, **table5}
    groups: dict[tuple[bool, str], list[Record]] = {}
    for cell, r in {**tables, **ablations}.items():
        groups.setdefault((cell.network == MEAN, r.key["dataset"]), []).append(r)
    for (mean_of, name), some in sorted(groups.items(), key=lambda group: not group[0][0]):
        parts = [k for k in some[0].metrics if k.startswith("accuracy_pct, ")]
        each = [f"{k.partition(', ')[2]} {span(v for r in some for v in r.metrics[k])}" for k in parts]
        means = (
            f"one network of each of {len(each)} kinds reaches {span(v for r in some for v in r.test_accuracy_pct)} %"
        )
        out.append(
            f"Unseen networks on {name}: {means} in the mean ({', '.join(each)})"
            if mean_of
            else f"ConvNet on {name}: {reached(some)}"
        )
        out[-1] += f", {guessing(some[0])}, after {training(some)}."
    unseen = [r for cell, r in tables.items() if cell.network == MEAN]
    if unseen and all(steps(r) < 0.1 * steps(r, budget=False) for r in unseen):
        out.append(
            "Unseen networks see less than a tenth of the whole protocol's steps, which hardly trains them: their "
            "accuracies say little about the images."
        )
    plain = {cell: replace(cell, method="GLaD") for cell in tables if cell.method == "SLFD"}
    pairs = [(tables[cell], tables[other]) for cell, other in plain.items() if other in tables]
    if pairs:
        gap = max((mean_pct(a) - mean_pct(b) for a, b in pairs), key=abs)
        out.append(f"{tally('SLFD', 'GLaD', pairs)} The largest difference is {signed(gap)} points.")
    pixels = {(c.dataset, c.network, matching(c)): r for c, r in table1.items() if "space=pixel" in c.variant}
    latents = {(c.dataset, c.network, matching(c)): r for c, r in table1.items() if c.method == "GLaD"}
    pairs = [(r, pixels[key]) for key, r in latents.items() if key in pixels]
    out += [f"Table 1: {tally('GLaD', 'pixels with the same matching', pairs)}"] if pairs else []
    rows = {cell.variant: r for cell, r in ablations.items()}
    for match, control in {"DC": "GLaD", "DM": "GLaD, DM"}.items():
        others = [r for v, r in rows.items() if not v.startswith("GLaD") and v.startswith("DM") == (match == "DM")]
        if control in rows and others:
            out.append(
                f"Ablations with {match}: GLaD {mean_pct(rows[control]):.1f} %, SLFD {span(map(mean_pct, others))} % "
                f"over {len(others)} readings. "
                f"{tally('SLFD', 'GLaD', [(r, rows[control]) for r in others], 'readings')}"
            )
    if {"GLaD", "GLaD, DM"} <= rows.keys():
        out.append(f"Ablations: {versus('GLaD with DM', rows['GLaD, DM'], 'GLaD with DC', rows['GLaD'])}.")
    readings = {v: (r, rows["SLFD"]) for v, r in rows.items() if v.startswith("DM, ") and "SLFD" in rows}
    if readings:
        gains = ", ".join(f"*{v[4:]}* {signed(mean_pct(a) - mean_pct(b))}" for v, (a, b) in readings.items())
        out.append(
            f"Ablations: SLFD with DM minus SLFD with DC, by reading: {gains} points. "
            f"{tally('SLFD with DM', 'SLFD with DC', list(readings.values()), 'readings')}"
        )
    ranks = {cell.variant.partition("rank=")[2]: r for cell, r in table7.items()}
    if {"10", "full"} <= ranks.keys():
        out.append(f"Table 7: {versus('rank 10', ranks['10'], 'the full covariance', ranks['full'])}.")
    return [*out, *repeated([*tables.values(), *table7.values()])]


def slfd_first(table1: Found, table4: Found, table5: Found, table7: Found, ablations: Found) -> str:
    """SLFD's readings against GLaD with the same matching, in the ablations."""
    rows = {cell.variant: r for cell, r in ablations.items()}
    others = [r for v, r in rows.items() if not v.startswith(("GLaD", "DM"))]
    if "GLaD" not in rows or not others:
        return ""
    control = rows["GLaD"]
    return (
        f"{control.key['dataset']}, one image per class: networks reach {mean_pct(control):.1f} % on GLaD's images and "
        f"{span(map(mean_pct, others))} % on those of {len(others)} readings of SLFD, {guessing(control)}."
    )


def matching(cell: Cell) -> str:
    return cell.variant.partition("match=")[2].partition(",")[0]


# --- U-ViT ------------------------------------------------------------------------------------------------------------
def uvit(table2: Found, budget: Found) -> list[str]:
    out = []
    for cell, r in table2.items():
        m, distance = r.metrics, next((k for k in r.metrics if k.startswith("FID")), "")
        out.append(
            f"{cell.dataset}: a classifier of real images recognises {m['recognised_pct'][0]:.0f} % of "
            f"{m['images'][0]:,} "
            + (f"samples, and {distance} is {m[distance][0]:.1f}" if distance else "samples")
            + f". A ConvNet trained on them reaches {mean_pct(r):.1f} %."
        )
    for name in dict.fromkeys(cell.dataset for cell in budget):
        cells = {cell: r for cell, r in budget.items() if cell.dataset == name}
        some = [(cell.variant, r.metrics["images"][0], mean_pct(r)) for cell, r in cells.items() if cell.variant]
        timed = [f"{seconds}: {images:,} images, {accuracy:.1f} %" for seconds, images, accuracy in some]
        out += [f"{name}, accuracy of a ConvNet by seconds of generation: {'; '.join(timed)}."] if timed else []
        real = {cell.ipc: r for cell, r in cells.items() if cell.method == "Random"}
        pairs = [(r, real[cell.ipc]) for cell, r in cells.items() if cell.method != "Random" and cell.ipc in real]
        for made, drawn in [] if decided("uvit") else pairs:  # one set of each says less than paired repeats
            how = versus("the generated set", made, "as many random real images", drawn)
            out.append(f"{name}, {images_per_class(made.cell.ipc)}: {how}.")
        if not pairs:
            out.append(
                f"{name}: no set of real images has been measured beside a generated one of its size, so what the "
                "generator loses against them is not known."
            )
    timed = [r for cell, r in budget.items() if cell.variant]
    speeds = [v for r in timed for v in r.metrics.get("images_per_second", [])]
    if speeds:
        devices = " and ".join(sorted({device(r, "a device that is not named") for r in timed}))
        out.append(f"Generation with the small model: {span(speeds)} images a second on {devices}.")
    return out


def uvit_first(table2: Found, budget: Found) -> str:
    """How good samples are, how long they took, and what a ConvNet trained on them reaches."""
    parts = [
        f"{cell.dataset}: a ConvNet trained on {r.metrics['images'][0]:,} images, generated in "
        f"{r.metrics['generation_seconds'][0]:.0f} s, reaches {mean_pct(r):.1f} %, and a classifier of real images "
        f"recognises {r.metrics['recognised_pct'][0]:.0f} % of them"
        for cell, r in table2.items()
    ]
    known = {cell.dataset for cell in table2} & {"CIFAR100", "TinyImageNet"}
    own = "" if known or not parts else " Nothing has been measured on the paper's own data sets."
    return f"{'. '.join(parts)}.{own}" if parts else ""


# paper -> what it says, what it says first, and the tables that both take
PAPERS: dict[str, tuple[Callable[..., list[str]], Callable[..., str], list[str]]] = {
    "skd": (skd, skd_first, ["skd/table1_accuracy", "skd/table2_cross_architecture", "skd/ablations"]),
    "uvit": (uvit, uvit_first, ["uvit/table2_fid", "uvit/accuracy_budget"]),
    "dgs": (
        dgs,
        dgs_first,
        ["dgs/table1_imagewoof", "dgs/table2_subsets", "dgs/table3_distributions", "dgs/table4_pool_size"],
    ),
    "slfd": (
        slfd,
        slfd_first,
        ["slfd/table1_imagenet_subsets", "slfd/table4_cifar10", "slfd/table5_pathmnist", "slfd/table7_covariance_rank"]
        + ["slfd/ablations"],
    ),
}
