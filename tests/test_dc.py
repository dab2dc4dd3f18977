"""DC and DSA: the distance, its derivative by the images against a slow float64 loop, the training on the way."""

import copy

import pytest
import torch
from torch.nn import functional as F

from distill_lib import data, networks
from distill_lib.core.loop import Loop
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.data import augment
from distill_lib.methods import METHODS, dc
from distill_lib.methods.common import matching
from distill_lib.networks.gradients import Derivatives

SHAPE, K = (1, 28, 28), 3


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")[0]


def batches(n=6, m=2, name="ConvNetW8"):
    """A network in float64, (K, n) real and (K, m) synthetic images."""
    rng = stream(0, name)
    network = networks.fresh(name, (SHAPE, K), rng).double().requires_grad_(False)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=rng, dtype=p.dtype), alpha=0.05)
    real, synthetic = (torch.randn(K, count, *SHAPE, generator=rng, dtype=torch.float64) for count in (n, m))
    return network, real, synthetic


def one_distance(a, b):
    """The paper's distance of two lists of gradients, row by row."""
    total = torch.zeros((), dtype=torch.float64)
    for x, y in zip(a, b, strict=True):
        if x.ndim > 1:
            for row, other in zip(x.reshape(len(x), -1), y.reshape(len(y), -1), strict=True):
                total = total + 1 - row @ other / (row.norm() * other.norm() + 1e-6)
    return total


def slow_match(network, real, synthetic):
    """Class by class with plain differentiation: (K,) distances and their derivative by the synthetic images."""
    network = copy.deepcopy(network).requires_grad_()
    parameters, images, distances = list(network.parameters()), synthetic.clone().requires_grad_(), []
    for k in range(K):
        loss_real = F.cross_entropy(network(real[k]), torch.full((real.shape[1],), k))
        loss_synthetic = F.cross_entropy(network(images[k]), torch.full((synthetic.shape[1],), k))
        theirs = torch.autograd.grad(loss_real, parameters)
        ours = torch.autograd.grad(loss_synthetic, parameters, create_graph=True)
        distances.append(one_distance(ours, theirs))
    return torch.stack(distances).detach(), torch.autograd.grad(sum(distances), images)[0]


def match(network, real, synthetic, **options):
    parameters = [p.detach() for p in network.parameters()]
    return matching.match(Derivatives(network, **options), parameters, real, synthetic)


# --- the distance -----------------------------------------------------------------------------------------------------
def test_row_distance_has_the_values_computed_by_hand():
    g = torch.arange(1.0, 25.0).reshape(2, 3, 2, 2)
    for other, value in ((g, 0.0), (-g, 4.0), (0 * g, 2.0), (g.flip(0), 0.0915445), (g**2, 0.0449169)):
        torch.testing.assert_close(
            matching.row_distance([g[None]], [other[None]]), torch.tensor([value]), atol=2e-6, rtol=0
        )


def test_row_distance_counts_rows_of_weights_only_and_keeps_its_epsilon():
    rng = stream(0, "rows")
    shapes = [(4, 3, 3, 3), (4,), (5, 6, 6), (7, 8), (7,)]  # convolution, bias, layer norm, linear, bias
    g = [torch.randn(2, *shape, generator=rng, dtype=torch.float64) for shape in shapes]
    rows, norms = 4 + 5 + 7, [x.flatten(2).norm(dim=2) for x in (g[0], g[2], g[3])]
    same = sum((1e-6 / (n**2 + 1e-6)).sum(1) for n in norms)
    torch.testing.assert_close(matching.row_distance(g, g), same)
    torch.testing.assert_close(matching.row_distance(g, [-x for x in g]), 2 * rows - same)
    torch.testing.assert_close(
        matching.row_distance(g, [10 * x for x in g]), torch.zeros(2, dtype=torch.float64), atol=1e-5, rtol=0
    )
    assert matching.row_distance([g[1], g[4]], [g[4][:, :4], g[1]]).tolist() == [0, 0]
    tiny = [torch.full((1, 1, 4), 1e-3)]
    assert matching.row_distance(tiny, tiny).item() == pytest.approx(0.2, abs=1e-4)  # equal rows, but short ones
    torch.testing.assert_close(
        matching.row_distance(g, [x.flip(1) for x in g]),
        torch.stack([one_distance([x[k] for x in g], [x[k].flip(0) for x in g]) for k in range(2)]),
    )


def test_glads_distance_is_the_same_but_for_layer_norm():
    rng = stream(0, "rows")
    shapes = [(4, 3, 3, 3), (4,), (5, 6, 6), (7, 8), (7,)]  # convolution, bias, layer norm, linear, bias
    a, b = ([torch.randn(2, *shape, generator=rng, dtype=torch.float64) for shape in shapes] for _ in range(2))
    others = [i for i, shape in enumerate(shapes) if len(shape) != 3]
    wanted = torch.stack([one_distance([a[i][k] for i in others], [b[i][k] for i in others]) for k in range(2)])
    torch.testing.assert_close(matching.glad_distance(a, b), wanted)
    assert (matching.row_distance(a, b) - wanted > 1).all()


def test_a_convnet_has_fourteen_parameters_four_of_them_matched():
    network = networks.fresh("ConvNet", (SHAPE, 10), stream(0))
    shapes = [p.shape for p in network.parameters()]
    assert len(shapes) == 14 and sum(len(s) > 1 for s in shapes) == 4
    assert sum(s[0] for s in shapes if len(s) > 1) == 394


# --- matching ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["ConvNetW8", "ConvNetLN", "LeNet", "MLP"])
def test_distance_and_image_gradient_equal_a_slow_loop(name):
    network, real, synthetic = batches(name=name if name != "ConvNetLN" else "ConvNetD2W4LN")
    wanted = slow_match(network, real, synthetic)
    for piece in (2, 4, 100):  # parts of a class, several classes, everything at once
        for found, value in zip(match(network, real, synthetic, piece=piece), wanted, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-9)


def test_float32_is_close_to_float64():
    network, real, synthetic = batches(name="ConvNetW32")
    distance, gradient = match(network, real, synthetic)
    distance32, gradient32 = match(network.float(), real.float(), synthetic.float())
    torch.testing.assert_close(distance32.double(), distance, rtol=1e-4, atol=1e-3)
    assert (gradient32 - gradient).norm() < 1e-2 * gradient.norm()


def test_the_same_images_are_at_no_distance_and_noise_is_far(digits):
    network = networks.fresh("ConvNet", digits, stream(0)).requires_grad_(False)
    rng = stream(0, "far")
    real, other = digits.draw_classes(32, rng), digits.draw_classes(32, rng)
    noise = torch.randn(10, 1, *digits.shape, generator=rng)
    same, near, far = (match(network, real, x)[0].mean().item() for x in (real, other, noise))
    rows = sum(len(p) for p in network.parameters() if p.ndim > 1)
    assert 0 <= same < 0.01 * far and near < 0.2 * far and far < 2 * rows


def test_batch_norm_is_frozen_on_real_statistics(digits):
    network = networks.fresh("ConvNetD2W4BN", digits, stream(0)).requires_grad_(False)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    matching.freeze_batch_norm(network, digits, stream(0))
    assert network.training and not any(m.training for m in norms)
    images = digits.draw_classes(16, stream(0)).flatten(0, 1)
    expected = 0.1 * network.blocks[0][0](images).mean((0, 2, 3))  # one batch at momentum 0.1
    torch.testing.assert_close(norms[0].running_mean, expected)
    plain = networks.fresh("ConvNetD2W4", digits, stream(0)).eval()
    matching.freeze_batch_norm(plain, digits, stream(0))
    assert not plain.training  # nothing to freeze, nothing changed


@pytest.mark.parametrize("name", ["ConvNetD2W8", "ConvNetD2W4BN"])
def test_training_the_network_equals_a_plain_optimiser(name, digits):
    network = networks.fresh(name, digits, stream(0)).requires_grad_(False)
    other = copy.deepcopy(network).requires_grad_().train()
    images, labels = digits.take(torch.arange(20))
    parameters = [p.detach() for p in network.parameters()]
    aug = augment.dsa("color_crop_flip")
    train_rng = stream(1)
    for _ in range(2):
        matching.train_epoch(
            Derivatives(network), parameters, images, labels, train_rng, batch=8, lr=0.1, augmentation=aug
        )

    rng, optimizer, sizes = stream(1), torch.optim.SGD(other.parameters(), lr=0.1), []
    for _ in range(2):
        for index in torch.randperm(20, generator=rng).split(8):
            sizes.append(len(index))
            loss = F.cross_entropy(other(aug(images[index], rng)), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert sizes == [8, 8, 4, 8, 8, 4]
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for a, b in zip(network.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


# --- siamese augmentation ---------------------------------------------------------------------------------------------
def aimed(strategy, seed=0):
    aug = augment.dsa(strategy)
    return aug, aug.draw(stream(seed, strategy), groups=K)


@pytest.mark.parametrize("strategy", ["color", "crop", "cutout", "flip", "scale", "rotate"])
def test_equal_images_stay_at_no_distance_under_every_operation(strategy):
    network, real, _ = batches()
    aug, omega = aimed(strategy)
    seen = aug.apply(real, omega)
    distance, _ = match(network, seen, aug.apply(real.clone(), omega))
    _, gradient = Derivatives(network).first(
        [p.detach() for p in network.parameters()], seen, torch.arange(K)[:, None].expand(seen.shape[:2])
    )
    torch.testing.assert_close(distance, matching.row_distance(gradient, gradient))


def test_a_draw_concerns_its_own_class():
    network, real, synthetic = batches()
    aug, omega = aimed("crop")
    other = aug.draw(stream(9), groups=K)
    mixed = augment.Params(omega.choice, torch.stack([omega.u[0], other.u[1], omega.u[2]]))
    first, again, changed = (
        match(network, aug.apply(real, w), aug.apply(synthetic, w))[0] for w in (omega, omega, mixed)
    )
    assert torch.equal(first, again)
    assert (first == changed).tolist() == [True, False, True]


@pytest.mark.parametrize("strategy", ["cutout", "crop"])
def test_pixels_that_the_network_does_not_see_have_no_gradient(strategy):
    network, real, synthetic = batches()
    aug, omega = aimed(strategy)
    pixels = torch.ones(K, 1, *SHAPE, dtype=torch.float64, requires_grad=True)
    aug.apply(pixels, omega).sum().backward()
    hidden = pixels.grad == 0  # inside the hole, or pushed outside the frame
    leaf = synthetic.clone().requires_grad_()
    seen = aug.apply(leaf, omega)
    seen.backward(match(network, aug.apply(real, omega), seen)[1])
    assert hidden.any() and not hidden.all()
    assert (leaf.grad[hidden.expand_as(leaf)] == 0).all() and (
        leaf.grad[~hidden.expand_as(leaf)] != 0
    ).float().mean() > 0.9


# --- the methods ------------------------------------------------------------------------------------------------------
DSA = METHODS["DSA"]


def tiny(method, **changes):
    return replace(
        method.paper_config("digits", 1),
        **{"iterations": 2, "outer_loop": 2, "inner_epochs": 1, "batch_real": 8, "network": "ConvNetD2W8", **changes},
    )


def test_one_step_of_dc_is_the_algorithm_of_the_paper(digits):
    """Noise, one network, one distance to real images, one step of SGD."""
    cfg = tiny(dc, iterations=1, outer_loop=1, ipc=2)
    made = dc.distill(digits, cfg, seed=0)
    rng = stream(0, "DC")
    images = torch.randn(10, 2, *digits.shape, generator=rng)
    network = networks.fresh(cfg.network, digits, rng)
    network.redraw(rng)
    real = digits.draw_classes(8, rng)
    leaf = images.double().requires_grad_()
    parameters = list(network.double().parameters())
    total = 0
    for k in range(10):
        theirs, ours = (
            torch.autograd.grad(F.cross_entropy(network(x), torch.full((len(x),), k)), parameters, create_graph=True)
            for x in (real[k].double(), leaf[k])
        )
        total = total + one_distance(ours, [g.detach() for g in theirs])
    expected = images - 0.1 * torch.autograd.grad(total, leaf)[0]
    torch.testing.assert_close(made.images, expected.flatten(0, 1).float(), rtol=1e-3, atol=1e-4)


def test_without_augmentation_dsa_is_dc(digits, monkeypatch):
    monkeypatch.setattr(dc, "stream", lambda seed, name: stream(seed))
    ours = DSA.distill(digits, tiny(DSA, dsa="none", init="noise"), seed=0)
    torch.testing.assert_close(ours.images, dc.distill(digits, tiny(dc), seed=0).images)


def test_networks_are_trained_between_updates_only(digits):
    """With one update per network none is trained; with two, the first update sees the weights as drawn."""
    for outer_loop in (1, 2):
        seen = []

        def watch(name, step, live, seen=seen):
            seen.append(live["network"].classifier.weight.clone())

        dc.distill(
            digits, tiny(dc, outer_loop=outer_loop, iterations=2, network="ConvNetD1W4"), seed=0, loop=Loop(watch=watch)
        )
        rng = stream(0, "DC")
        torch.randn(10, 1, *digits.shape, generator=rng)
        network = networks.fresh("ConvNetD1W4", digits, rng)
        network.redraw(rng)
        drawn = network.classifier.weight
        assert torch.equal(seen[1], drawn) == (outer_loop == 1)


def test_images_move_and_start_where_the_settings_say(digits):
    noise = digits.initial_images(3, dc.Config().init, stream(0))
    assert noise.shape == (10, 3, *digits.shape) and abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    start = digits.initial_images(3, DSA.paper_config("digits", 1).init, stream(0))
    whole = digits.all()[0]
    for k in range(10):
        members = whole[digits.labels == k]
        assert all(
            (members - image).abs().flatten(1).amax(1).min() < 1e-6 for image in start[k]
        )  # normalised in another batch
    made = DSA.distill(digits, tiny(DSA), seed=0)
    assert (
        made.images - digits.initial_images(tiny(DSA).ipc, "real", stream(0, "DSA")).flatten(0, 1)
    ).abs().max() > 1e-3


@pytest.mark.parametrize(
    "ipc, loops",
    [(1, (1, 1)), (2, (1, 1)), (10, (10, 50)), (20, (20, 25)), (30, (30, 20)), (40, (40, 15)), (50, (50, 10))],
)
def test_published_settings(ipc, loops):
    for method, init in ((dc, "noise"), (DSA, "real")):
        cfg = method.paper_config("CIFAR10", ipc)
        assert (cfg.outer_loop, cfg.inner_epochs) == loops
        assert (cfg.iterations, cfg.lr_img, cfg.momentum_img, cfg.lr_net, cfg.batch_real, cfg.batch_train) == (
            1001,
            0.1,
            0.5,
            0.01,
            256,
            256,
        )
        assert cfg.init == init and cfg.network == "ConvNet"
    assert DSA.paper_config("FashionMNIST", ipc).dsa == "color_crop_cutout_flip_scale_rotate"
    assert DSA.paper_config("MNIST", ipc).dsa == "color_crop_cutout_scale_rotate"
    large = DSA.paper_config("CIFAR10", 100)
    assert (large.outer_loop, large.inner_epochs) == (100, 2)
