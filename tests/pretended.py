"""A GPU that is not there: tensors that say they lie on another device, and numbers that are computed all the same.

PyTorch's fake tensors on `cuda` have no numbers, and their backward pass asks for a driver; the library builds networks
on `meta`. So tensors here are on a device of their own, in the place that PyTorch keeps free for backends written in
Python. Every operation runs on the processor after a check, so whole methods do, both passes:

- operands on both devices raise, as on a GPU, where only numbers (tensors without dimensions) may be mixed; so does a
  stream of the processor that draws on the device;
- what makes Python wait for the device during a step of a `Loop` is noted in `waits`, with the function that did it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from unittest import mock

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from distill_lib.core import paths
from distill_lib.core.loop import Loop

NAME = "pretended"
PACKAGE = str(paths.ROOT / "distill_lib") + "/"
aten = torch.ops.aten
WAITS = {  # operations whose result, or the size of it, depends on the device's numbers
    aten._local_scalar_dense: "a number",
    aten.equal: "a number",
    aten.nonzero: "nonzero",
    aten.masked_select: "masked_select",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.unique_consecutive: "unique",
    aten.bincount: "bincount",
}
INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)


@functools.cache
def register() -> torch.device:
    """Make the device known to PyTorch, once in a process."""

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

    backend_registration._setup_privateuseone_for_python_backend(NAME, Module())
    return torch.device(NAME, 0)


class There(Tensor):
    """A tensor on the pretended device; `here` holds its numbers."""

    is_cuda = True  # what the library does on a GPU alone, it does here
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        about = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        made = Tensor._make_wrapper_subclass(cls, here.size(), device=register(), **about)
        made.here = here
        return made

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return Device.current.computed(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """While it is entered, tensors can be moved to the device, made there and computed with."""

    current: Device

    def __init__(self) -> None:
        super().__init__()
        self.device, self.steps = register(), 0
        self.waits: Counter[tuple[str, str]] = Counter()  # (function of the library, what it waits for)

    def __enter__(self) -> Device:
        Device.current, steps, this = self, Loop.steps, self

        def watched(loop, *args):
            for step in steps(loop, *args):
                this.steps += 1
                try:
                    yield step
                finally:
                    this.steps -= 1

        def enter(block):  # inference mode, in which no backend in Python works, as no_grad
            block.before = torch.is_grad_enabled()
            torch.set_grad_enabled(block.before and not block.mode)

        def leave(block, *args):
            torch.set_grad_enabled(block.before)

        self._patches = contextlib.ExitStack()
        self._patches.enter_context(mock.patch.object(Loop, "steps", watched))
        self._patches.enter_context(mock.patch.multiple(torch.inference_mode, __enter__=enter, __exit__=leave))
        self._lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) then asks for a move
        return super().__enter__()

    def __exit__(self, *args) -> None:
        super().__exit__(*args)
        torch._C._set_only_lift_cpu_tensors(self._lifted)
        self._patches.close()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.computed(func, args, kwargs or {})

    def computed(self, func, args, kwargs):
        """The operation on the processor, its result on the device where it belongs there."""
        leaves = tree_leaves((args, kwargs))
        there = [t for t in leaves if isinstance(t, There)]
        wanted = kwargs.get("device")
        wanted = None if wanted is None else torch.device(wanted)
        to_device = wanted is not None and wanted.type == NAME
        if not there and not to_device:
            return func(*args, **kwargs)
        self.check(func, leaves, there, args, wanted)
        inputs = {id(t.here): t for t in there}
        bare, options = tree_map(lambda x: x.here if isinstance(x, There) else x, (args, dict(kwargs)))
        if to_device:
            options["device"] = torch.device("cpu")
        out = func(*bare, **options)
        if wanted is not None and not to_device:
            return out
        if func.overloadpacket is aten.copy_:
            return args[0]

        def back(x):
            return x if not isinstance(x, Tensor) else inputs[id(x)] if id(x) in inputs else There(x)

        return tree_map(back, out)

    def check(self, func, leaves, there, args, wanted) -> None:
        """Note what waits. Raises: RuntimeError: operands that a GPU would refuse."""
        packet = func.overloadpacket
        here = [t for t in leaves if isinstance(t, Tensor) and not isinstance(t, There)]
        if packet in WAITS:
            self.note(WAITS[packet])
        if packet in (aten._to_copy, aten.copy_):
            if (wanted is not None and wanted.type == "cpu") or (
                packet is aten.copy_ and not isinstance(args[0], There)
            ):
                self.note("a copy to the processor")
            return
        if packet in INDEXED:
            indices = [i for i in args[1] if i is not None]
            if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
                self.note("an index by a mask")
            if isinstance(args[0], There):  # a GPU takes indices of the processor: it fetches them, and waits
                if any(not isinstance(i, There) for i in indices):
                    self.note("an index that is on the processor")
                here = [t for t in here if not any(t is i for i in indices)]
        if mixed := [tuple(t.shape) for t in here if t.dim()]:
            raise RuntimeError(f"{func}: tensors of shapes {mixed} were left on the processor")
        if any(isinstance(g, torch.Generator) for g in leaves):
            raise RuntimeError(f"{func}: draws on the device from a stream of the processor")

    def note(self, what: str) -> None:
        if not self.steps:
            return
        frame = sys._getframe()
        while frame and (not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_name.startswith("<")):
            frame = frame.f_back
        where = "backward"
        if frame:
            where = f"{frame.f_code.co_filename.removeprefix(PACKAGE)}: {frame.f_code.co_name}"
        self.waits[where, what] += 1
