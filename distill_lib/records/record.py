"""`Cell` (what a number is), `Record` (what was measured for it), and the files they live in."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic_core import from_json

from ..core import paths
from ..core.errors import UserError
from ..core.files import write_json
from ..core.settings import as_dict, from_dict, settings
from ..data import like

FORMAT = 1


@settings
class Cell:
    """One entry of a table or figure: what a number is, in the paper and here."""

    experiment: str  # skd/table1_accuracy: the notebook, the folder, the page
    method: str
    dataset: str  # as the paper names it; a profile may compute on a stand-in, which the record names
    ipc: int | None = None  # images per class; None for the full data set, or if a time decides how many
    network: str = "ConvNet"  # evaluation network
    protocol: str = "vico_dsa"
    variant: str = ""  # a further axis of the table: target distribution, pool size, sampling

    @functools.cached_property
    def stem(self) -> str:
        """File name without its ending: dm_fashionmnist_ipc10_convnet_vico-dsa."""
        size = "all" if self.ipc is None else f"ipc{self.ipc}"
        parts = [self.method, self.dataset, size, self.network, self.protocol, self.variant]
        return "_".join(_plain(p) for p in parts if p)

    @property
    def axes(self) -> dict[str, str]:
        """The variant's parts by name: "match=DC, space=pixel"; parts without a name are left out."""
        return dict(part.split("=", 1) for part in self.variant.split(", ") if "=" in part)

    def __str__(self) -> str:
        size = f"IPC {self.ipc}" if self.ipc else "full data" if self.method == "Full data" else ""
        return ", ".join(p for p in (self.method, self.dataset, size, self.network, self.protocol, self.variant) if p)


@functools.lru_cache(maxsize=4096)
def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


@dataclass(frozen=True)
class Record:
    """What one run measured for a cell.

    Attributes:
        cell:              what was measured.
        test_accuracy_pct: last-epoch accuracy of every network, in percent, set after set.
        sets:              for each network, which independently distilled set it was trained on.
        key:               everything the numbers depend on: settings, protocol, data, code versions, seed.
        metrics:           further measurements, each list as long as `test_accuracy_pct`, or a number.
        seconds:           wall seconds by phase ("distill", "evaluate").
        memory_mb:         peak memory over all phases.
        made_by:           commit, hash of the locked requirements, device, driver, versions, seeds, time.
        cpu_seconds:       processor seconds by phase, all threads of the process; empty in a record made before they
                           were counted.
        joules:            energy of the whole GPU by phase; empty if the device reports none.
        shared:            what was made once for several cells, such as a trained generator, with its cost (seconds,
                           cpu_seconds, memory_mb), which is not counted in `seconds`; empty in a record made before it
                           was counted apart.
    """

    cell: Cell
    test_accuracy_pct: list[float]
    sets: list[int]
    key: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    memory_mb: float = 0.0
    made_by: dict[str, Any] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    joules: dict[str, float] = field(default_factory=dict)
    shared: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def done(self) -> list[int]:
        """Numbers of the distilled sets it holds; `key["num_sets"]` says how many the protocol has."""
        return sorted(set(self.sets))

    def by_set(self, values: list[Any] | None = None) -> dict[int, list[Any]]:
        """Its accuracies, or other values of its networks or of its sets, by the number of the distilled set."""
        values = self.test_accuracy_pct if values is None else values
        sets = self.sets if len(values) == len(self.sets) else list(dict.fromkeys(self.sets))
        out: dict[int, list[Any]] = {i: [] for i in sets}
        for i, value in zip(sets, values, strict=True):
            out[i].append(value)
        return out

    def differs(self, other: Record, num_sets: bool = True) -> list[str]:
        """What is not the same in what the numbers of two records depend on, one line each; `num_sets`: also in how
        many sets there are to be."""
        left_out = {} if num_sets else {"num_sets": None}
        one, another = self.key | left_out, other.key | left_out
        changed = [f"cell: {self.cell} -> {other.cell}"] if self.cell != other.cell else []
        changed += differences(one, another)
        if one.get("data_sha256") != another.get("data_sha256"):
            changed.append("the data set's pixels or labels")
        return changed

    def joined(self, other: Record) -> Record:
        """This record with further sets of the same cell, measured later.

        Raises: UserError: other settings or data, or sets that are here already.
        """
        if changed := self.differs(other):
            raise UserError(f"{self.cell}: two records that do not belong together: {'; '.join(changed)}")
        if twice := set(self.sets) & set(other.sets):
            raise UserError(f"{self.cell}: two records that do not belong together: both hold sets {sorted(twice)}")
        joined = {
            k: v + other.metrics[k] if isinstance(v, list) else max(v, other.metrics[k])
            for k, v in self.metrics.items()
            if k in other.metrics
        }
        return dataclasses.replace(
            self,
            test_accuracy_pct=self.test_accuracy_pct + other.test_accuracy_pct,
            sets=self.sets + other.sets,
            metrics=joined,
            seconds=_sum(self.seconds, other.seconds),
            cpu_seconds=_sum(self.cpu_seconds, other.cpu_seconds),
            joules=_sum(self.joules, other.joules),
            memory_mb=max(self.memory_mb, other.memory_mb),
            made_by=self._made_with(other),
            shared=self.shared | other.shared,
        )

    def _made_with(self, other: Record) -> dict[str, Any]:
        """Who made this record and `other`, which was measured later: the latter's commit, device and so on; under
        `earlier`, those of this record's sets if they differ."""
        ours, theirs = self.made_by, other.made_by
        seeds, earlier = ours.get("seeds", {}), ours.get("earlier", [])
        here, there = ({k: v for k, v in by.items() if k not in ("seeds", "earlier")} for by in (ours, theirs))
        made_by = {**there, "seeds": {k: seeds.get(k, []) + v for k, v in theirs["seeds"].items()}}
        if {**here, "at": None, "sets": None} != {**there, "at": None, "sets": None}:
            told = {i for part in earlier for i in part["sets"]}
            earlier = [*earlier, {"sets": [i for i in self.done if i not in told], **here}]
        earlier = [*earlier, *theirs.get("earlier", [])]
        return {**made_by, "earlier": earlier} if earlier else made_by

    def save(self, profile: str) -> Path:
        """Write the record to its file in the profile's folder, whole or not at all."""
        return write_json(path(self.cell, profile), self.to_json())

    def to_json(self) -> dict[str, Any]:
        body = {
            "format": FORMAT,
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            "cell": as_dict(self.cell),
        }
        body = {k: v for k, v in body.items() if v or k not in ("cpu_seconds", "joules", "shared")}
        return {**body, "sha256": _digest(body)}


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What changed between two keys, one line each: 'config.iterations: 500 -> 20001'.

    A setting that is None is as one that is not there, so that one that came later and is off changes nothing. The
    data hash is not compared: the key of a cell that is yet to be computed does not hold it.
    """
    out = []
    for k in sorted(old.keys() | new.keys()):
        a, b = old.get(k), new.get(k)
        if k == "data_sha256" or a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            out += differences(a, b, f"{prefix}{k}.")
        else:
            out.append(f"{prefix}{k}: {a!r} -> {b!r}")
    return out


def path(cell: Cell, profile: str) -> Path:
    """The record file of a cell: results/full/skd/table1_accuracy/dm_cifar10_ipc10_convnet_vico-dsa.json."""
    return Path(f"{paths.results(profile)}/{cell.experiment}/{cell.stem}.json")


def files(profile: str) -> list[Path]:
    """Every record file of a profile, whatever it holds, in order."""
    return sorted(paths.results(profile).glob("*/*/*.json"))


def load(cell: Cell, profile: str) -> Record | None:
    """The cell's record, or None if there is none.

    Raises: UserError: the file is damaged or was edited by hand.
    """
    file = path(cell, profile)
    try:
        record = read(file)
    except FileNotFoundError:
        return None
    if record.cell != cell:
        raise UserError(
            f"{file}: holds the record of another cell ({record.cell}); delete the file to compute this one again"
        )
    return record


def read(file: Path) -> Record:
    """Read and check one record file.

    Raises: FileNotFoundError.  UserError: unreadable, not a record, of another format, or changed since it was written.
    """
    file = Path(file)
    try:
        body = from_json(file.read_bytes())
        stored, version = body.pop("sha256"), body.pop("format")
    except FileNotFoundError:
        raise
    except OSError as err:
        raise UserError(f"{file}: cannot be read: {err.strerror or err}") from None
    except (ValueError, KeyError, AttributeError, TypeError) as err:
        raise UserError(f"{file}: not a readable record ({err!r}); delete it to compute the cell again") from None
    if version != FORMAT:
        raise UserError(
            f"{file}: record format {version!r}, this version reads {FORMAT}; delete it to compute the cell again"
        )
    if stored != _digest({"format": version, **body}):
        raise UserError(
            f"{file}: changed since it was written (checksum differs); "
            "restore it or delete it to compute the cell again"
        )
    try:
        record = Record(**{**body, "cell": from_dict(Cell, body["cell"])})
    except (TypeError, KeyError, UserError) as err:
        raise UserError(f"{file}: not a record ({err}); delete it to compute the cell again") from None
    if problem := _problem(record):
        raise UserError(f"{file}: not a record ({problem}); delete it to compute the cell again")
    return record


def _problem(record: Record) -> str:
    """What is wrong with a record's values; "" if nothing is."""
    for name in (f.name for f in dataclasses.fields(Record) if f.name not in ("cell", "memory_mb")):
        value = getattr(record, name)
        if not isinstance(value, list if name in ("test_accuracy_pct", "sets") else dict):
            return f"{name} is {value!r}"
    if not all(isinstance(v, dict) for v in record.shared.values()):
        return f"shared is {record.shared!r}"
    memory = {"memory_mb": record.memory_mb}
    for costs in (record.seconds, record.cpu_seconds, record.joules, memory, *record.shared.values()):
        if not all(isinstance(v, (int, float)) and math.isfinite(v) and v >= 0 for v in costs.values()):
            return f"costs must be numbers from 0 on; got {costs}"
    values = record.test_accuracy_pct
    fine = all(isinstance(v, float) and math.isfinite(v) and 0 <= v <= 100 for v in values)
    if not values or len(values) != len(record.sets) or not fine:
        return f"test_accuracy_pct must be percentages, one per network; got {values}"
    return ""


def _sum(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    """The costs of two parts added up by phase; {} if one part has none."""
    return {k: round(v + b[k], 2) for k, v in a.items()} if a.keys() == b.keys() else {}


def cost(record: Record) -> str:
    """What a record has cost, in words: '237 s, 235 s of processor time, 930 MB'."""
    parts = [f"{sum(record.seconds.values()):.0f} s"]
    if record.cpu_seconds:
        parts.append(f"{sum(record.cpu_seconds.values()):.0f} s of processor time")
    if record.joules:
        parts.append(f"{sum(record.joules.values()):.0f} J")
    return ", ".join([*parts, f"{record.memory_mb:.0f} MB"])


def sets_and_networks(record: Record) -> str:
    """How much was measured: "2 of 5 sets x 5 networks" where two of the five sets to make have been evaluated; "2 sets
    x 5 networks" where the record does not say how many there are to be, as that of a claim's arm."""
    sizes = sorted({record.sets.count(i) for i in record.done})
    n = len(record.done)
    planned = max(n, record.key.get("num_sets", n))
    of = f"{n} of {planned}" if "num_sets" in record.key else str(n)
    each = " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))
    kinds = len(record.key.get("networks", ()))
    several = f" of each of {kinds} architectures" if kinds > 1 else ""
    return f"{of} set{'s' * (planned > 1)} x {each} network{'s' * (sizes[-1] > 1)}{several}"


LEARNED = 0.4  # of the way from the loss of a network that knows nothing to the lowest that CutMix leaves
ABOVE_CHANCE = 1.5  # times the accuracy of guessing


def underfit(record: Record) -> str:
    """Why the networks behind a record count as not trained; "" if they are trained, or if the record cannot tell.

    A network that knows nothing has a cross-entropy of ln K at K classes, with hard labels as with soft ones, and a KL
    divergence of at most that. CutMix mixes two labels by a uniform share, which leaves half a nat if they differ, in
    its part of the batches. Networks count as trained when their training loss of the last epoch, averaged over the
    networks, has come `LEARNED` of the way from ln K to what CutMix leaves. When this was chosen there were 156 records
    with a cross-entropy: 112 had come at least 52 % of the way, 44 at most 35 %, and none lay between. The average
    counts because at one image per class the last epoch is a single batch, with CutMix or without.

    A squared error is taken to learned labels, which the record does not hold, so its start is not known; and older
    records of a mean over several architectures hold no training loss. There an architecture counts as untrained if its
    mean accuracy is below `ABOVE_CHANCE` times that of guessing. This also rejects what trained networks learned from
    poor images: such a number cannot be told from that of an untrained network.
    """
    classes = number_of_classes(record)
    if classes is None:
        return ""
    rules, losses = record.key.get("protocol", {}), _by_network(record, "train_loss")
    if losses and rules.get("loss", "ce") != "mse":
        start = math.log(classes)
        bound = start - LEARNED * (start - rules.get("cutmix", 0.0) * (1 - 1 / classes) / 2)
        high = [f"{network} at a training loss of {mean:.2f}" for network, mean in losses.items() if not mean <= bound]
        return f"{', '.join(high)}, {start:.2f} before training" if high else ""
    each = _by_network(record, "accuracy_pct") or {_network(record): fmean(record.test_accuracy_pct)}
    low = [f"{network} at {mean:.1f} %" for network, mean in each.items() if mean < ABOVE_CHANCE * 100 / classes]
    return f"{', '.join(low)}, guessing at {100 / classes:.1f} %" if low else ""


def _network(record: Record) -> str:
    return record.key.get("network", record.cell.network)


def _by_network(record: Record, name: str) -> dict[str, float]:
    """Mean of a metric by architecture: of the only one, or of each behind a mean over several."""
    each = {k.removeprefix(f"{name}, "): fmean(v) for k, v in record.metrics.items() if k.startswith(f"{name}, ")}
    return each or ({_network(record): fmean(record.metrics[name])} if name in record.metrics else {})


def number_of_classes(record: Record) -> int | None:
    """Classes of the data set of a record; None if neither the record nor the catalogue says."""
    if per_class := record.metrics.get("per_class_accuracy_pct"):
        return len(per_class[0])
    return like(record.key.get("dataset", "")).num_classes or None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
