"""Tensors from the pickles that StyleGAN's code writes, without running anything a pickle asks for.

    python -m distill_lib.generators.stylegan_xl.unpickle imagenet128.pkl imagenet128.safetensors

Such a file holds the source code of a module, which the usual reader executes. Here every name in the file stands for
an inert container that keeps what it is given, and tensors are built by code of this module: nothing is imported, and
nothing is called.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.files import write_tensors


class Inert(dict):
    """Stands for any object of a pickle: it keeps arguments, entries and state, and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        self[len(self)] = item

    def extend(self, items: Any) -> None:
        for item in items:
            self.append(item)


def _storage(data: bytes) -> Any:
    """A storage as plain pickles of tensors hold it: bytes of `torch.save`, read by the loader that accepts tensors
    alone."""
    return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    empty = torch.empty(0, dtype=storage.dtype)
    return empty.set_(storage._untyped_storage, offset, tuple(size), tuple(stride)).clone()


_KNOWN = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("collections", "OrderedDict"): OrderedDict,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _KNOWN.get((module, name)) or type(name, (Inert,), {})

    def persistent_load(self, key: Any) -> Any:
        raise UserError("a pickle that refers to objects outside of itself cannot be read here")


def read(file: Path | str, part: str = "G_ema") -> dict[str, Tensor]:
    """The parameters and buffers of one network of the file, by their full names.

    Args:
        part: entry of the file's dictionary; the published generators are `G_ema`.
    Raises: UserError: a file that is no such pickle, or without that entry.
    """
    try:
        with open(file, "rb") as f:
            content = _Reader(f).load()
    except UserError:
        raise
    except Exception as err:  # a damaged pickle can fail in any way
        raise UserError(f"{file}: not a pickle of StyleGAN's code ({type(err).__name__}: {err})") from None
    if not isinstance(content, dict) or part not in content:
        has = ", ".join(map(str, content)) if isinstance(content, dict) and content else "none"
        raise UserError(f"{file}: no entry {part!r}; it has {has}")
    tensors = dict(_tensors(content[part], ""))
    if not tensors:
        raise UserError(f"{file}: entry {part!r} holds no tensors")
    return tensors


def _tensors(node: Any, prefix: str) -> Any:
    """Names and tensors of a module's state, and of those in it."""
    state = node.state if isinstance(node, Inert) else None
    if isinstance(node, Inert) and node.args and isinstance(node.args[0], dict):
        state = node.args[0].get("state", state)
    if not isinstance(state, dict):
        return
    for kind in ("_parameters", "_buffers"):
        for name, tensor in (state.get(kind) or {}).items():
            if isinstance(tensor, Tensor):
                yield prefix + name, tensor
    for name, child in (state.get("_modules") or {}).items():
        yield from _tensors(child, f"{prefix}{name}.")


def convert(source: Path | str, target: Path | str, part: str = "G_ema") -> Path:
    """Write one network of a pickle as safetensors, under the names it had.

    Raises: UserError: see `read`; a target that cannot be written.
    """
    return write_tensors(Path(target), read(source, part))


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python -m distill_lib.generators.stylegan_xl.unpickle FILE.pkl FILE.safetensors [G_ema]")
    try:
        print(convert(*sys.argv[1:]))
    except UserError as err:
        sys.exit(str(err))
