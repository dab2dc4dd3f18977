"""Bytes are counted as they are alive, memory is measured and given back, and work in pieces has the same results."""

import os
from types import SimpleNamespace

import pytest
import torch

from distill_lib import data, networks
from distill_lib.core import memory
from distill_lib.core.device import keep_memory
from distill_lib.core.measure import give_back, measure
from distill_lib.core.native import convnet
from distill_lib.generators import cgan, prior, uvit
from distill_lib.generators.cgan import network as cgan_network
from distill_lib.generators.prior import Prior
from distill_lib.generators.uvit import training
from distill_lib.methods import METHODS
from distill_lib.methods.common.latents import CodeSpace, Latents
from distill_lib.networks import fast

CIFAR10 = SimpleNamespace(shape=(3, 32, 32), num_classes=10, device="cpu")  # what a generator asks of a set


def test_what_is_alive_is_counted_and_views_once():
    def run():
        a = torch.zeros(1000)
        b = a.view(10, 100) + 1  # 4000 more
        del a
        return b[:5].clone()  # 2000 more, the first 4000 are gone

    assert max(memory.course(run)) == 8000 and memory.course(run)[-1] == 6000


def test_the_bytes_of_an_image_are_those_that_one_more_adds():
    weights = torch.ones(500, 500)
    assert memory.bytes_per_image(lambda n: (torch.zeros(n, 500) @ weights).relu().sum()) == 4 * 2 * 500


def test_nothing_is_kept_for_a_backward_pass_that_does_not_come(compiler, monkeypatch):
    library = convnet.load(convnet.build())
    monkeypatch.setattr(convnet, "kernel", lambda: library)
    network = networks.fresh("ConvNet", ((3, 32, 32), 10), torch.Generator().manual_seed(0))
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        without = memory.course(lambda: fast.embed(network, x))
        plain = fast.embed(network, x)
    kept = memory.course(lambda: fast.embed(network, x))
    assert max(without) < 0.2 * max(kept) and torch.equal(plain, fast.embed(network, x))


def test_a_measured_block_may_hold_another():
    with measure("cpu") as outer:
        big = torch.ones(64 * 2**20)  # 256 MB
        del big
        with measure("cpu") as inner:
            torch.ones(2**20)
    assert outer.memory_mb >= inner.memory_mb and outer.memory_mb > 256
    with measure("cpu") as alone:
        pass
    assert alone.memory_mb < outer.memory_mb


def held_mb():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not keep_memory(), reason="memory of freed tensors is not kept on this system")
def test_what_is_kept_of_freed_tensors_can_be_given_back():
    before = held_mb()
    pieces = [torch.ones(2**18) for _ in range(300)]  # 1 MB each
    full = held_mb()
    del pieces[:-1]  # the last lies on top of those that are free
    kept = held_mb()
    give_back("cuda")  # nothing of the CPU's
    assert full > before + 200 and kept > full - 100 and held_mb() > full - 100
    give_back("cpu")
    assert held_mb() < full - 200


def test_the_largest_generator_goes_in_smaller_pieces():
    cfg = METHODS["SLFD"].paper_config("CIFAR10", 50)
    pieces = prior.at_once(cfg.space.prior, CIFAR10, cfg.space.layer, cfg.space.pieces)
    assert 1 <= pieces < cfg.space.pieces  # ten images of StyleGAN-XL would take 13 GB
    assert prior.at_once(Prior(), CIFAR10, 5, 10) == 10


def test_a_batch_of_a_uvit_in_pieces_has_the_same_gradients():
    cfg = uvit.UViTTraining(patch=4, width=32, depth=2, heads=2, precision="float32")
    of, rng = cfg.architecture(CIFAR10), torch.Generator().manual_seed(0)
    images, noise = (torch.randn(10, 3, 32, 32, generator=rng) for _ in range(2))
    t = torch.rand(10, generator=rng)
    found = []
    for piece in (10, 4):
        model = uvit.UViT(of, torch.Generator().manual_seed(1))
        loss = uvit.backward(model, uvit.Drawn(images, t, noise, torch.arange(10)), cfg, piece)
        found.append((loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    (one, whole), (two, parts) = found
    assert torch.isclose(one, two, rtol=1e-6) and (whole - parts).norm() < 1e-5 * whole.norm()


def test_published_uvit_batches_go_in_pieces_and_small_ones_do_not():
    for cfg in (uvit.UViTTraining(), uvit.UViTTraining().small()):
        of = cfg.architecture(CIFAR10)
        at_once = training.piece_size(of, cfg)
        assert at_once * training.image_bytes(of, cfg) <= training.PIECE_MB * 2**20
        assert (at_once < cfg.batch) == (cfg.batch == 1024)


def test_latents_in_smaller_pieces_draw_and_pull_the_same(monkeypatch):
    real = data.load("digits")[0]
    space = CodeSpace().smoke()
    made = prior.prepare(real, space.prior)
    found = []
    for pieces in (10, 3):
        monkeypatch.setattr(prior, "at_once", lambda *_, pieces=pieces: pieces)
        latents = Latents(made, real, space, 2, torch.Generator().manual_seed(0))
        images = latents.images()
        latents.pull(torch.ones_like(images))
        found.append((images, latents.w.grad, latents.f.grad))
    for whole, parts in zip(*found, strict=True):
        assert torch.allclose(whole, parts, rtol=1e-4, atol=1e-5 * whole.abs().max().item())


def test_a_wide_gan_draws_the_same_images_in_pieces(monkeypatch):
    wide = cgan.GAN().architecture(CIFAR10)
    assert (wide.drawn_at_once(gpu=False), wide.drawn_at_once(gpu=True)) == (41, 256)
    assert cgan.GAN().small().architecture(CIFAR10).drawn_at_once(gpu=False) == 256
    drawn = cgan.Pair(cgan.GAN(width=16), CIFAR10).generator
    labels, found = torch.arange(30) % 10, []
    for size_mb in (32, 0.5):
        monkeypatch.setattr(cgan_network, "DRAWN_MB", size_mb)
        found.append(drawn.draw(labels, torch.Generator().manual_seed(0)))
    assert drawn.arch.drawn_at_once(gpu=False) == 8 and torch.allclose(*found, atol=1e-5)
    kept = max(memory.course(lambda: drawn.draw(labels, torch.Generator().manual_seed(0))))
    monkeypatch.setattr(cgan_network, "DRAWN_MB", 32)
    assert kept < 0.5 * max(memory.course(lambda: drawn.draw(labels, torch.Generator().manual_seed(0))))
