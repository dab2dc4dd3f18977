"""What an experiment is: its cells, and the task that measures a cell in a profile."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pydantic

from .. import evaluation
from ..core.errors import unknown
from ..core.loop import Loop
from ..core.settings import as_dict
from ..data import ImageSet
from ..evaluation import protocols
from ..methods import METHODS
from ..records import Cell

Profile = Literal["recorded", "smoke", "small", "full"]


def _from_text(value: Any) -> Any:
    """papermill hands over `-p ipcs "[1, 10]"` as text: read it as the list it means; `-p methods DM,DC` as names."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value.replace("'", '"'))
    except json.JSONDecodeError:
        return [part.strip() for part in value.split(",") if part.strip()]


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

    return Annotated[list[str], pydantic.BeforeValidator(_from_text), pydantic.AfterValidator(check)]


Numbers = Annotated[list[pydantic.PositiveInt], pydantic.BeforeValidator(_from_text)]


class Parameters(pydantic.BaseModel):
    """What every notebook can be told. A notebook's own model adds its axes; unknown names and wrong types are
    errors."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    profile: Profile = "recorded"
    seed: pydantic.NonNegativeInt = 0


@dataclass(frozen=True)
class Task:
    """Everything that decides a cell's numbers in one profile."""

    cell: Cell
    config: Any  # the method's Config
    dataset: str  # what is loaded: the cell's data set or its stand-in
    protocol: str  # with its budget: vico_dsa@100ep
    num_eval: int = 5  # networks trained on each set
    num_sets: int = 1  # independently distilled sets
    seed: int = 0
    network: str | None = (
        None  # trained on the sets, where that is another than the table's heading says; None for the cell's
    )
    networks: tuple[str, ...] = ()  # where the cell is a mean over several architectures: all of them
    method: str | None = (
        None  # of METHODS, where the row has another name than the method that makes its set; None for the cell's
    )
    tested: int | None = None  # test images of every class that are tested on, drawn once; None for all
    scores: Any = (
        None  # settings of what the experiment measures of the sets besides, such as FID: see `Experiment.measure`
    )

    @property
    def maker(self) -> str:
        """The method, of METHODS, that makes the sets."""
        return self.method or self.cell.method

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
        printed:    whether the paper prints the cell; the others are measured beside it, under a second protocol for
        example. measure:    (task, synthetic, real, test, loop) -> further metrics of a set, lists by name, where the
        task has `scores`. counted:    a printed row -> our value where it follows from the code without a measurement,
        such as a number of parameters.
        claims:     where its cells are arms of claims: the claims; see `claims`.
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
