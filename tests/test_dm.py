"""DM: the batched loss against the per-class loop of the paper, and the loss's own properties."""

import pytest
import torch
from dm import plain
from test_speed_and_truth import plain_dm

from distill_lib import data, figures, networks
from distill_lib.core import paths
from distill_lib.core.loop import Loop
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.methods import dm
from distill_lib.publish import pages

K, N, M = 3, 6, 2


def batches(seed=0, shape=(1, 28, 28), n=N, m=M):
    rng = stream(seed, "dm test")
    return torch.randn(K, n, *shape, generator=rng), torch.randn(K, m, *shape, generator=rng)


def network(like=(1, 28, 28), width="ConvNet"):
    facts = data.Facts("toy", tuple("abc"), (0.0,) * like[0], (1.0,) * like[0])
    toy = data.ImageSet(torch.zeros(K, *like), torch.arange(K), facts)
    return networks.fresh(width, toy, stream(0, "net")).requires_grad_(False)


@pytest.mark.parametrize("name", ["ConvNetW32", "VGG11", "ConvNetW32BN", "AlexNetBN"])
def test_in_float64_the_loss_is_the_official_one_to_rounding(name):
    """Class by class; with batch norm all classes in one pass, real and synthetic images apart."""
    net, (real, synthetic) = network(width=name).double(), (x.double() for x in batches())
    found, slow = synthetic.clone().requires_grad_(), synthetic.clone().requires_grad_()
    loss = dm.dm_loss(net, real, found)
    target, mean = (net.embed(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1) for x in (real, slow))
    joint, apart = (target - mean).square().sum(), plain(net, zip(real, slow))
    reference = joint if "BN" in name else apart
    assert loss.dtype == torch.float64 and (abs(joint - apart) > 0.01 * apart) == ("BN" in name)
    torch.testing.assert_close(loss, reference, rtol=1e-10, atol=0)
    gradients = (torch.autograd.grad(x, of)[0] for x, of in ((loss, found), (reference, slow)))
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


def test_shifting_linear_features_adds_the_squared_shift_per_class():
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = torch.zeros(4)

        def embed(self, x):
            return x.flatten(1)[:, :4] + self.shift

    net, (real, _) = Linear(), batches()
    synthetic = real.clone() + 0
    synthetic.flatten(2)[..., :4] += torch.tensor([1.0, 2.0, 0.0, 0.0])
    loss = dm.dm_loss(net, real, synthetic)
    assert torch.allclose(loss, torch.tensor(K * 5.0), rtol=1e-5)


def test_the_published_settings():
    assert dm.paper_config("CIFAR10", 10) == dm.Config(ipc=10)
    assert dm.paper_config("CIFAR10", 10).iterations == 20_001
    assert dm.paper_config("CIFAR10", 200).lr_img == 10.0
    assert "flip" not in dm.paper_config("MNIST", 1).dsa and "flip" in dm.paper_config("FashionMNIST", 1).dsa


def test_distilling_lowers_the_loss_it_minimises():
    real, _ = data.load("digits")
    cfg = dm.Config(ipc=2, iterations=40, batch_real=32, dsa="none")
    net = networks.fresh(cfg.network, real, stream(7)).requires_grad_(False)
    target = real.draw_classes(100, stream(8))
    start = real.initial_images(cfg.ipc, cfg.init, stream(0, "DM"))
    end = dm.distill(real, cfg, seed=0).images.unflatten(0, (real.num_classes, cfg.ipc))
    assert dm.dm_loss(net, target, end) < 0.7 * dm.dm_loss(net, target, start)


def test_siamese_augmentation_treats_both_branches_alike():
    """Two steps end where those of the paper's loop do, which draws once for both."""
    real, _ = data.load("digits")
    dsa = "color_crop_cutout_flip_scale_rotate"
    cfg = dm.Config(ipc=2, iterations=2, network="ConvNetD2W32", batch_real=8, dsa=dsa)
    start = real.initial_images(cfg.ipc, cfg.init, stream(0, "DM")).flatten(0, 1)
    found, wanted = (distill(real, cfg, 0).images for distill in (dm.distill, plain_dm))
    assert (found - wanted).norm() < 1e-3 * (wanted - start).norm()


def test_the_first_page_draws_the_very_images_that_dm_starts_from(monkeypatch):
    starts, rows, distill = [], [], dm.distill

    def one_step(real, cfg, seed):
        loop = Loop(watch=lambda name, step, live: starts.append(live["synthetic"].detach().clone().flatten(0, 1)))
        return distill(real, replace(cfg, iterations=min(cfg.iterations, 1)), seed, loop)

    monkeypatch.setattr(dm, "distill", one_step)
    monkeypatch.setattr(figures, "film_strip", lambda frames, **options: rows.extend(frames.items()))
    names = {}
    for cell in pages.Page(paths.ROOT, "book/first", ".md").notebook().cells:
        if cell.cell_type == "code" and not rows:
            exec(cell.source, names)
    (above, start), (below, made) = rows
    assert (
        (above, below) == ("start", "DM")
        and torch.equal(start.images, starts[0])
        and not torch.equal(made.images, starts[0])
    )
    for k, image in enumerate(start.pixels()):  # real ones
        members = names["real"].subset(names["real"].class_index[k]).pixels()
        assert (members - image).abs().flatten(1).amax(1).min() < 1e-6
