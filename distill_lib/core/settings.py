"""Settings as frozen, checked data: an unknown name or a wrong type is an error that lists what would work."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import replace
from typing import Annotated, Any, dataclass_transform

import pydantic
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as _dataclass

from .errors import UserError

Count = Annotated[int, pydantic.Field(ge=1)]  # at least one
Whole = Annotated[int, pydantic.Field(ge=0)]  # none or more


@dataclass_transform(frozen_default=True)
def settings(cls: type) -> type:
    """Class decorator: a frozen pydantic dataclass that refuses unknown fields and silent type changes with a
    `UserError`."""
    made = _dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))(cls)
    init = made.__init__

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **values: Any) -> None:
        try:
            init(self, *args, **values)
        except pydantic.ValidationError as err:
            raise _explained(made, err) from None

    made.__init__ = checked
    return made


def added(default: Any) -> Any:
    """A setting that came later: keys and records leave it out at its default, so that earlier ones stay valid."""
    return pydantic.Field(default=default, exclude_if=lambda value: value == default)


def lowered(cfg: Any, **most: int) -> Any:
    """The settings with each of these numbers at most as large as given."""
    return replace(cfg, **{name: min(getattr(cfg, name), value) for name, value in most.items()})


@functools.cache
def _adapter(cls: type) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(cls)


def as_dict(value: Any) -> dict[str, Any]:
    """Settings as plain JSON types, for records."""
    return _adapter(type(value)).dump_python(value, mode="json")


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """Settings from plain JSON types.

    Raises: UserError: naming every bad field and listing the valid ones.
    """
    try:
        return _adapter(cls).validate_python(values, strict=False)
    except pydantic.ValidationError as err:
        raise _explained(cls, err) from None


def _explained(cls: type, err: pydantic.ValidationError) -> UserError:
    names = ", ".join(f.name for f in dataclasses.fields(cls))
    problems = "; ".join(
        f"{'.'.join(map(str, e['loc'])) or cls.__name__}: {e['msg']} (got {e.get('input')!r})" for e in err.errors()
    )
    return UserError(f"bad {cls.__qualname__}: {problems}. Valid fields: {names}")
