"""The example methods of the book keep the contract of the library's own methods."""

import importlib.util
import time

import pytest
import torch

from distill_lib import data
from distill_lib.core import paths
from distill_lib.core.errors import TimeUp
from distill_lib.core.loop import Loop

FILES = sorted((paths.ROOT / "book" / "examples").glob("*.py"))


def load(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_an_example_method_keeps_the_contract(file, tmp_path):
    method, (real, _) = load(file), data.load("digits")
    config = method.paper_config("digits", ipc=2).smoke()
    first, again = (method.distill(real, config, seed=0) for _ in range(2))
    assert torch.bincount(first.labels).tolist() == [2] * 10 and first.shape == real.shape
    assert torch.equal(first.images, again.images) and torch.isfinite(first.images).all()
    assert not torch.equal(first.images, method.distill(real, config, seed=1).images)
    for _ in range(50):  # a deadline in the past stops after every step
        try:
            resumed = method.distill(real, config, seed=0, loop=Loop(tmp_path, deadline=time.monotonic()))
            break
        except TimeUp:
            continue
    assert torch.equal(resumed.images, first.images)


def test_pixel_means_are_means_of_the_images_nearest_to_them():
    method = load(paths.ROOT / "book" / "examples" / "pixel_means.py")
    real, _ = data.load("digits")
    one = method.distill(real, method.Config(ipc=1, iterations=1), seed=0)
    means = torch.stack([real.take(index)[0].mean(0) for index in real.class_index])
    assert torch.allclose(one.images, means, atol=1e-5)
    few, many = (spread(real, method.distill(real, method.Config(ipc=3, iterations=n), seed=0)) for n in (1, 10))
    assert many < few  # each of Lloyd's steps lowers it


def spread(real, centres):
    """Mean squared distance of real images to the nearest centre of their class."""
    pairs = zip(real.class_index, centres.class_index, strict=True)
    return sum(torch.cdist(real.take(a)[0].flatten(1), centres.images[b].flatten(1)).amin(1).square().sum().item() for a, b in pairs)


def test_the_example_is_as_long_as_the_book_says():
    lines = [line for line in (paths.ROOT / "book" / "examples" / "pixel_means.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 42
