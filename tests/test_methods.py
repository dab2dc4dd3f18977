"""One contract, every method."""

import time

import pytest
import torch

from distill_lib import data
from distill_lib.core.errors import TimeUp, UserError
from distill_lib.core.loop import Loop
from distill_lib.core.settings import as_dict, build
from distill_lib.methods import METHODS

LEARNED = [name for name in METHODS if name not in ("Random", "Full data")]


@pytest.fixture(scope="module")
def real():
    return data.load("digits")[0]


def tiny(name, ipc=2):
    cfg = METHODS[name].paper_config("digits", ipc).smoke()
    changes = {f: v for f, v in {"iterations": 3, "batch_real": 8}.items() if hasattr(cfg, f)}
    return build(type(cfg), {**as_dict(cfg), **changes})


@pytest.mark.parametrize("name", [n for n in METHODS if n != "Full data"])
def test_every_method_keeps_the_contract(name, real, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    before = real.images.clone()
    first, again = (METHODS[name].distill(real, tiny(name), seed=0) for _ in range(2))
    per_class = 2 * getattr(tiny(name), "factor", 1) ** 2  # multi-formation: several images in each stored one
    assert first.shape == real.shape and len(first) == per_class * real.num_classes
    assert torch.bincount(first.hard_labels).tolist() == [per_class] * real.num_classes
    assert first.images.dtype in (torch.float32, torch.uint8) and torch.isfinite(first.images.float()).all()
    assert torch.equal(first.images, again.images)  # the seed decides everything
    assert not torch.equal(first.images, METHODS[name].distill(real, tiny(name), seed=1).images) or name in ("Herding", "K-Center")
    assert torch.equal(real.images, before)  # the real set is never written to
    assert first.facts.extra["method"] == name and first.facts.mean == real.facts.mean


@pytest.mark.parametrize("name", LEARNED)
def test_a_resumed_run_equals_an_unbroken_one(name, real, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    whole = METHODS[name].distill(real, tiny(name), seed=0)
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "other"))
    for _ in range(200):  # a deadline in the past stops after every step
        try:
            resumed = METHODS[name].distill(real, tiny(name), seed=0, loop=Loop(tmp_path / "ckpt", deadline=time.monotonic()))
            break
        except TimeUp:
            continue
    assert torch.equal(whole.images, resumed.images)


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_checked_and_survive_a_record(name):
    cfg = METHODS[name].paper_config("FashionMNIST", 1)
    assert build(type(cfg), as_dict(cfg)) == cfg
    with pytest.raises(UserError, match="Valid fields"):
        build(type(cfg), {**as_dict(cfg), "iteratons": 3})
    for smaller in (cfg.smoke(), cfg.small()):
        assert type(smaller) is type(cfg)


def test_the_full_data_row_is_the_real_set_itself(real):
    assert METHODS["Full data"].distill(real, METHODS["Full data"].Config(), seed=0) is real


def test_asking_for_more_images_than_a_class_has_draws_with_replacement():
    facts = data.Facts("toy", ("a", "b"), (0.0,), (1.0,))
    toy = data.ImageSet(torch.arange(3 * 16, dtype=torch.uint8).view(3, 1, 4, 4), torch.tensor([0, 0, 1]), facts)
    drawn = METHODS["Random"].distill(toy, METHODS["Random"].Config(ipc=5), seed=0)
    assert torch.bincount(drawn.labels).tolist() == [5, 5]


def test_a_distilled_set_is_one_file_that_needs_no_other(real, tmp_path):
    made = METHODS["Random"].distill(real, METHODS["Random"].Config(ipc=1), seed=0)
    back = data.ImageSet.load(made.save(tmp_path / "set.safetensors"))
    assert torch.equal(back.images, made.images) and torch.equal(back.labels, made.labels) and back.facts == made.facts


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00notjson!", b"PK\x03\x04"])
def test_a_damaged_set_file_is_one_clear_error(content, tmp_path):
    (tmp_path / "set.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="set.safetensors: cannot be read as an ImageSet"):
        data.ImageSet.load(tmp_path / "set.safetensors")
