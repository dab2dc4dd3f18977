"""What an experiment is: its cells, and the task that measures a cell in a profile."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Literal

import pydantic

from .. import evaluation
from ..core.errors import unknown
from ..core.loop import Loop
from ..core.settings import as_dict, replace
from ..data import ImageSet
from ..evaluation import protocols
from ..methods import METHODS
from ..records import Cell

Profile = Literal["recorded", "smoke", "small", "full"]


def _listed(value: Any) -> Any:
    """The list that a parameter means: a command line hands over `[1, 10]` and `1,10` as text, `1` as a number."""
    if isinstance(value, str):
        parts = (part.strip(" '\"") for part in value.strip(" ()[]").split(","))
        return [part for part in parts if part]
    return list(value) if isinstance(value, tuple) else [value] if isinstance(value, int | float) else value


def _as_names(value: Any) -> Any:
    """Names are text, also those that look like numbers: resolutions=64."""
    found = _listed(value)
    whole = isinstance(found, list) and all(isinstance(v, str | int) and not isinstance(v, bool) for v in found)
    return list(map(str, found)) if whole else found


def _as_numbers(value: Any) -> Any:
    found = _listed(value)
    if isinstance(found, list):
        return [int(v) if isinstance(v, str) and v.isdecimal() else v for v in found]
    return found


def names_of(kind: str, choices: Callable[[], list[str]]) -> Any:
    """A list-of-names type for parameter models: every name is one of `choices()`, or the error lists them; ["all"] is
    all."""

    def check(value: list[str]) -> list[str]:
        known = choices()
        if value == ["all"]:
            return known
        for name in value:
            if name not in known:
                raise unknown(kind, name, known)
        return value

    return Annotated[
        list[str], pydantic.Field(min_length=1), pydantic.BeforeValidator(_as_names), pydantic.AfterValidator(check)
    ]


Numbers = Annotated[list[pydantic.PositiveInt], pydantic.Field(min_length=1), pydantic.BeforeValidator(_as_numbers)]


class Parameters(pydantic.BaseModel):
    """What every notebook can be told. A notebook's own model adds its axes; unknown names and wrong types are
    errors."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    profile: Profile = "recorded"
    seed: pydantic.NonNegativeInt = 0


@dataclass(frozen=True)
class Task:
    """Everything that decides a cell's numbers in one profile.

    Attributes:
        config:   the method's `Config`.
        dataset:  what is loaded: the cell's data set or its stand-in.
        protocol: with its budget: vico_dsa@100ep.
        num_eval: networks trained on each set.
        num_sets: sets that are distilled, each with its own seed.
        network:  trained on the sets, if it is not the one that the table names; None for the cell's.
        networks: several architectures, of whose accuracies the cell is the mean; () for one.
        method:   of METHODS, makes the sets, if the row has another name; None for the cell's.
        tested:   test images of every class, drawn once; None for all.
        scores:   settings of what the experiment measures besides accuracy, such as FID: see `Experiment.measure`.
    """

    cell: Cell
    config: Any
    dataset: str
    protocol: str
    _: KW_ONLY
    num_eval: int = 5
    num_sets: int = 1
    seed: int = 0
    network: str | None = None
    networks: tuple[str, ...] = ()
    method: str | None = None
    tested: int | None = None
    scores: Any = None

    @property
    def maker(self) -> str:
        """The method, of METHODS, that makes the sets."""
        return self.method or self.cell.method

    @property
    def judges(self) -> tuple[str, ...]:
        """The networks that are trained on every set."""
        return self.networks or (self.network or self.cell.network,)

    def wanted(self, sets: int | None) -> int:
        """How many sets are asked for: `sets`, which may be more than planned; None for the planned ones."""
        return self.num_sets if sets is None else sets

    @functools.cached_property
    def key(self) -> dict[str, Any]:
        """What a record must agree with to be reused."""
        return {
            "config": as_dict(self.config),
            "dataset": self.dataset,
            "network": self.network or self.cell.network,
            "protocol": _rules(self.protocol),
            "num_eval": self.num_eval,
            "num_sets": self.num_sets,
            "seed": self.seed,
            "code": {self.maker: METHODS[self.maker].VERSION, "evaluate": evaluation.VERSION},
            **({"networks": list(self.networks)} if self.networks else {}),
            **({"method": self.method} if self.method else {}),
            **({"tested": self.tested} if self.tested else {}),
            **({"scores": as_dict(self.scores)} if self.scores else {}),
        }


@functools.lru_cache(maxsize=512)
def _rules(name: str) -> dict[str, Any]:
    return {"name": name, **as_dict(protocols.protocol(name))}


@dataclass(frozen=True)
class Skip:
    """A cell that a profile does not compute, and why."""

    reason: str


@dataclass(frozen=True)
class Experiment:
    """One table or figure.

    Attributes:
        name:       skd/table1_accuracy: also the notebook, the results folder, the rows of the reported numbers.
        title:      as on the page.
        parameters: the model its notebook's parameters are checked against.
        cells:      parameters -> the cells they select, in the paper's order.
        task:       (cell, parameters) -> how the profile measures the cell, or why it does not.
        printed:    whether the paper prints the cell; others are measured beside it, such as under a second protocol.
        measure:    (task, synthetic, real, test, loop) -> further metrics of a set, lists by name, if the task has
                    `scores`.
        counted:    a printed row -> our value, if it follows from the code without a measurement, such as a number of
                    parameters.
        claims:     of which its cells are the arms, if they are: see `claims`.
        no_cells:   why it has none, where it has none.
    """

    name: str
    title: str
    parameters: type[Parameters]
    cells: Callable[[Any], list[Cell]]
    task: Callable[[Cell, Any], Task | Skip]
    printed: Callable[[Cell], bool] = lambda cell: True
    measure: Callable[[Task, ImageSet, ImageSet, ImageSet, Loop], dict[str, list[Any]]] | None = None
    counted: Callable[[dict[str, Any]], float | None] = lambda row: None
    claims: tuple[Any, ...] = ()
    no_cells: str = ""


def cross(experiment: str, **axes: Any) -> list[Cell]:
    """The cells of every combination of values of fields of `Cell`: the first field varies slowest.

    A value that is not a list is that of all cells.
    """
    lists = [value if isinstance(value, list) else [value] for value in axes.values()]
    return [Cell(experiment, **dict(zip(axes, values, strict=True))) for values in itertools.product(*lists)]


def page(name: str, title: str, reason: str, parameters: type[Parameters] = Parameters, **more: Any) -> Experiment:
    """An experiment without cells of its own, and why it has none."""
    return Experiment(
        name, title, parameters, lambda params: [], lambda cell, params: Skip(reason), no_cells=reason, **more
    )


# --- settings in a profile ------------------------------------------------------------------------
# What smoke loads: real data inside the package, in grey and in colour.
GREY, COLOUR = "FashionMNIST-mini", "BloodCells-mini"
STAND_INS = {"FashionMNIST": GREY, "CIFAR10": COLOUR}


def at_budget(config: Any, profile: Profile) -> Any:
    """A method's settings at a profile's budget."""
    return config if profile == "full" else getattr(config, profile)()


def changed(config: Any, field: str, value: Any) -> Any:
    """Settings with one field changed, or with a field of a part: "matching.pairing"."""
    part, dot, inner = field.partition(".")
    return replace(config, **{part: changed(getattr(config, part), inner, value) if dot else value})
