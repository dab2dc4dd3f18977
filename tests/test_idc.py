"""IDC: multi-formation by hand, matching against a per-class float64 loop, the turns of the classes against torch's
SGD."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distill_lib import data, networks
from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.data import augment
from distill_lib.methods import METHODS, idc
from distill_lib.methods.common import matching
from distill_lib.networks.gradients import Derivatives

K, N, M = 3, 5, 2


def toy(shape=(1, 28, 28), per_class=20):
    rng = stream(0, "toy")
    images = torch.randint(256, (K * per_class, *shape), dtype=torch.uint8, generator=rng)
    facts = data.Facts("toy", tuple("abc"), (0.4,) * shape[0], (0.3,) * shape[0])
    return data.ImageSet(images, torch.arange(K).repeat(per_class), facts)


# --- multi-formation --------------------------------------------------------------------------------------------------
def test_factor_one_decodes_to_the_images_themselves():
    images = torch.rand(K, M, 3, 8, 8)
    assert idc.decode(images, 1) is images


@pytest.mark.parametrize(("side", "factor", "small"), [(32, 2, 16), (28, 2, 14), (224, 3, 75)])
def test_numbers_and_sizes_of_decoded_images(side, factor, small):
    images = torch.full((1, 1, 1, side, side), 0.5)
    decoded = idc.decode(images, factor)
    assert decoded.shape == (1, factor**2, 1, side, side)
    assert torch.equal(decoded, torch.full_like(decoded, 0.5))  # a constant stays the constant
    assert -(-side // factor) == small


def test_decoded_images_come_part_after_part():
    images = torch.zeros(1, 2, 1, 4, 4)
    images[0, 0, 0, :2, 2:] = 1.0  # first image, top right
    images[0, 1, 0, 2:, :2] = 2.0  # second image, bottom left
    assert idc.decode(images, 2).mean((-1, -2)).flatten().tolist() == [0, 0, 1, 0, 0, 2, 0, 0]


def test_decoding_equals_cutting_and_enlarging_one_by_one():
    images = torch.rand(1, 2, 3, 10, 10, generator=stream(0))  # no multiple of 3: padded to 12
    decoded, expected = idc.decode(images, 3), []
    padded = F.pad(images[0], (0, 2, 0, 2), value=0.5)
    for row in range(3):
        for column in range(3):
            for image in padded:
                part = image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                expected.append(F.interpolate(part[None], size=(10, 10), mode="bilinear", align_corners=False)[0])
    assert torch.allclose(decoded[0], torch.stack(expected), atol=1e-6)


def test_decoding_then_averaging_gives_back_a_smooth_part_and_spreads_its_gradient():
    ramp = torch.linspace(0, 1, 16).expand(16, 16)
    images = ramp.repeat(2, 2)[None, None, None].requires_grad_()
    decoded = idc.decode(images, 2)
    assert (F.avg_pool2d(decoded[0, 0], 2) - ramp)[..., 1:-1].abs().max() < 0.01
    gradient = torch.autograd.grad(decoded.sum(), images)[0]
    assert torch.allclose(
        gradient[..., 1:15, 1:15], torch.full((14, 14), 4.0)
    )  # each pixel is enlarged to factor² of them
    assert torch.allclose(gradient.sum(), torch.tensor(4.0 * 32 * 32))


def test_the_start_is_the_first_images_in_file_order():
    real = toy()
    start = idc.initial_images(real, idc.Config(ipc=2), stream(0))
    for k, members in enumerate(real.class_index):
        assert torch.equal(start[k], real.images[members[:2]].float() / 255)
    other = idc.initial_images(real, idc.Config(ipc=2, init="random"), stream(0))
    assert other.shape == start.shape and not torch.equal(other, start)


@pytest.mark.parametrize(
    ("side", "factor", "ipc", "sides"),
    [(28, 2, 2, [14, 14]), (32, 3, 2, [11, 11, 10]), (10, 4, 1, [3, 3, 2, 2]), (28, 3, 2, [10, 9, 9])],
)
def test_a_multi_formed_start_holds_the_first_images_small(side, factor, ipc, sides):
    """Part p of stored image m is image p * ipc + m, of a size of its own where the factor does not divide the side."""
    real = toy((3, side, side))
    start = idc.initial_images(real, idc.Config(ipc=ipc, factor=factor), stream(0))
    assert start.shape == (K, ipc, 3, side, side)
    for k, members in enumerate(real.class_index):
        for m in range(ipc):
            number = top = 0
            for height in sides:
                left = 0
                for width in sides:
                    source = real.images[members[number * ipc + m]].float()[None] / 255
                    small = F.interpolate(source, size=(height, width), mode="nearest")[0]
                    assert torch.allclose(start[k, m, :, top : top + height, left : left + width], small)
                    number, left = number + 1, left + width
                top += height


def test_more_parts_than_pixels_are_a_clear_error():
    with pytest.raises(UserError, match="factor 9 for images of 8 x 8 pixels.*at most 8"):
        idc.initial_images(toy((1, 8, 8), per_class=100), idc.Config(ipc=1, factor=9), stream(0))


def test_too_few_images_to_start_from_is_a_clear_error():
    with pytest.raises(UserError, match=r"class 'a' has 20 images; ipc 6 with factor 2 starts from 24"):
        idc.initial_images(toy(), idc.Config(ipc=6, factor=2), stream(0))


def test_a_random_part_of_many_decoded_images_takes_part():
    cfg = idc.Config(ipc=10, factor=2, batch_syn=7)
    subset = idc.decoded_subset(K, cfg, stream(0))
    assert subset.shape == (K, 7) and all(len(row.unique()) == 7 and row.max() < 40 for row in subset)
    images = torch.arange(K * 40.0).view(K, 40, 1, 1, 1)
    assert torch.equal(idc.take(images, subset)[1].flatten(), images[1, subset[1]].flatten())
    assert idc.decoded_subset(K, replace(cfg, batch_syn=40), stream(0)) is None  # all of them


@pytest.mark.parametrize(
    ("ipc", "factor", "most", "wanted"),
    [
        (20, 3, 128, [(3, 12), (2, 3), (1, 5)]),  # 108 + 12 + 5 images
        (50, 3, 128, [(3, 8), (2, 3), (1, 39)]),  # 72 + 12 + 39
        (10, 3, 128, [(3, 10)]),
        (128, 3, 128, [(1, 128)]),
        (200, 3, 128, [(1, 200)]),
        (10, 1, 128, [(1, 10)]),
    ],
)
def test_a_bound_cuts_fewer_images_into_parts(ipc, factor, most, wanted):
    cfg = idc.Config(ipc=ipc, factor=factor, batch_syn=most, decoding="bound")
    assert idc.formations(cfg) == wanted
    assert idc.formations(replace(cfg, decoding=None)) == [(factor, ipc)]
    assert (idc.decoded_subset(K, cfg, stream(0)) is None) == (ipc <= most)


def test_bounded_images_are_decoded_factor_by_factor():
    cfg = idc.Config(ipc=4, factor=3, batch_syn=18, decoding="bound")
    images = torch.rand(K, 4, 1, 12, 12, generator=stream(0))
    assert idc.formations(cfg) == [(3, 1), (2, 1), (1, 2)]
    wanted = torch.cat([idc.decode(images[:, :1], 3), idc.decode(images[:, 1:2], 2), images[:, 2:]], 1)
    assert torch.equal(idc.decode_to_match(images, cfg), wanted) and wanted.shape[1] == idc.decoded_images(cfg) == 15
    whole = replace(cfg, decoding=None)
    assert torch.equal(idc.decode_to_match(images, whole), idc.decode(images, 3))


# --- matching ---------------------------------------------------------------------------------------------------------
def slow_loss(net, real, images, cfg, omega, like):
    """Class by class, one pass per class and branch, in float64: the definition."""
    weights = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d)]
    images, augmentation, losses = images.clone().requires_grad_(), augment.idc(cfg.augment), []
    decoded = like.facts.normalise(idc.decode(images, cfg.factor))
    for k in range(len(real)):
        one = augment.Params(omega.choice[k : k + 1], omega.u[k : k + 1])
        gradients = []
        for batch in (real[k], decoded[k]):
            batch = augmentation.apply(batch, one)
            loss = F.cross_entropy(net(batch), torch.full((len(batch),), k))
            gradients.append(torch.autograd.grad(loss, weights, create_graph=True))
        gaps = [a.detach() - b for a, b in zip(*gradients, strict=True)]
        losses.append(sum(g.square().sum() if cfg.metric == "mse" else g.abs().sum() for g in gaps))
    return torch.stack(losses).detach(), torch.autograd.grad(sum(losses), images)[0]


@pytest.mark.parametrize("metric", ["mse", "l1"])
@pytest.mark.parametrize(
    ("name", "factor"), [("ConvNetW32", 1), ("ConvNetW32", 2), ("ResNetAP-10", 1), ("ConvNetW32BN", 1)]
)
def test_losses_and_image_gradient_equal_the_per_class_loop(metric, name, factor):
    """In float64 on both sides: with l1 the sign of a difference near zero decides, which float32 may get wrong."""
    like = toy()
    cfg = idc.Config(ipc=M, factor=factor, metric=metric)
    net = networks.fresh(name, like, stream(0, "net")).double()
    parameters, derivatives = [p.detach() for p in net.parameters()], Derivatives(net)
    images, batch = idc.initial_images(like, cfg, stream(0)).double(), like.draw_classes(N, stream(1)).double()
    augmentation = augment.idc(cfg.augment)
    omega = augmentation.draw(stream(2), groups=K)
    point = images.clone().requires_grad_()
    seen = augmentation.apply(like.facts.normalise(idc.decode(point, factor)), omega)
    losses, by_seen = matching.match(
        derivatives, parameters, augmentation.apply(batch, omega), seen.detach(), partial(idc.distance, metric=metric)
    )
    gradient = torch.autograd.grad(seen, point, by_seen)[0]
    slow_losses, slow_gradient = slow_loss(net, batch, images, cfg, omega, like)
    assert torch.allclose(losses, slow_losses, rtol=1e-9)
    assert (gradient - slow_gradient).norm() < 1e-6 * slow_gradient.norm()


@pytest.mark.parametrize("name", ["ConvNetD2W8", "ConvNetD2W8BN"])
def test_a_sweep_is_the_official_codes_loop_with_the_network_in_train_mode(real, name):
    """Class by class in float64: gradients of a network in train mode, one step of SGD, one momentum buffer for all."""
    cfg = replace(TINY, iterations=1, inner=1, network=name, lr_img=0.5, momentum_img=0.5)
    made = idc.distill(real, cfg, seed=0)
    rng = stream(0, "IDC")
    images = idc.initial_images(real, cfg, rng).double()
    net = networks.fresh(name, real, rng).redraw(rng).double()
    omega = augment.idc(cfg.augment).draw(rng, groups=real.num_classes)
    batch, velocity = real.draw_classes(cfg.batch_real, rng).double(), torch.zeros_like(images)
    for k in range(real.num_classes):
        gradient = slow_loss(net, batch, images, cfg, omega, real)[1]
        velocity *= cfg.momentum_img
        velocity[k] += gradient[k]
        images -= idc.step_size(cfg, real.shape) * velocity
    start, end = idc.initial_images(real, cfg, rng), made.images.unflatten(0, (-1, cfg.ipc))
    moved, wanted = (x - real.facts.normalise(start.double()) for x in (end, real.facts.normalise(images)))
    assert wanted.abs().max() > 1e-3 and (moved - wanted).norm() < 1e-3 * wanted.norm()


def test_only_convolutions_count_and_entries_are_summed():
    shapes = [p.shape for p in networks.fresh("ConvNet", ((3, 32, 32), 10), stream(0)).parameters()]
    ones, zeros = ([torch.full((1, *s), float(v)) for s in shapes] for v in (1, 0))
    for metric in ("mse", "l1"):
        assert idc.distance(ones, zeros, metric).item() == 3_456 + 147_456 + 147_456
        assert idc.distance(ones, ones, metric).item() == 0
    twos = [2 * g for g in ones]
    assert (
        idc.distance(twos, zeros, "mse").item() == 4 * 298_368 and idc.distance(twos, zeros, "l1").item() == 2 * 298_368
    )


# --- turns ------------------------------------------------------------------------------------------------------------
def test_a_sweep_equals_one_sgd_step_per_class_with_a_shared_momentum_buffer():
    classes, lr, momentum, rng = 4, 0.3, 0.5, stream(0)
    target = torch.randn(classes, 6, generator=rng)
    start = torch.randn(classes, 6, generator=rng)

    def loss(images):  # of every class, not linear in its images, no class in another's
        return ((images - target) ** 2).sum(1) + torch.sin(3 * images).sum(1)

    slow = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([slow], lr=lr, momentum=momentum)
    fast, velocity = start.clone(), torch.zeros_like(start)

    def gradient_at(point):
        point = point.detach().requires_grad_()
        return torch.autograd.grad(loss(point).sum(), point)[0]

    for _ in range(3):
        for k in range(classes):
            optimizer.zero_grad()
            loss(slow)[k].backward()
            optimizer.step()
        idc.sweep_classes(fast, velocity, gradient_at, lr, momentum)
        assert torch.allclose(fast, slow.detach(), atol=1e-5)
        assert torch.allclose(velocity, optimizer.state[slow]["momentum_buffer"], atol=1e-5)


def test_step_sizes_follow_images_per_class_and_pixels():
    assert idc.step_size(idc.paper_config("CIFAR10", 1), (3, 32, 32)) == pytest.approx(5e-4)
    assert idc.step_size(idc.paper_config("CIFAR10", 50), (3, 32, 32)) == pytest.approx(2.5e-2)
    assert idc.step_size(idc.paper_config("FashionMNIST", 10), (1, 28, 28)) == pytest.approx(1e-4 * (28 / 32) ** 2)
    assert idc.step_size(idc.paper_config("MNIST", 10), (1, 28, 28)) == pytest.approx(1e-4)
    assert idc.step_size(idc.paper_config("ImageWoof", 20), (3, 224, 224)) == pytest.approx(6e-3)


def test_the_published_settings():
    assert idc.paper_config("CIFAR10", 10) == idc.Config(ipc=10)
    mnist, several = idc.paper_config("MNIST", 10), idc.paper_config("MNIST", 10, factor=2)
    assert (mnist.metric, mnist.images_net, mnist.augment, mnist.cutmix) == ("l1", 500, "color_crop_cutout", 0.5)
    assert (several.augment, several.cutmix) == ("color_crop", 0.0)
    woof = idc.paper_config("ImageWoof", 10)
    assert idc.paper_config("FashionMNIST-mini", 10) == idc.paper_config("FashionMNIST", 10)
    assert idc.paper_config("SLFD-50", 10) == woof and METHODS["IDC"].paper_config("ImNet-A", 1).factor == 3
    bound = {(3, 20): "bound", (3, 50): "bound", (3, 10): None, (1, 20): None, (2, 20): None}
    assert all(idc.paper_config("ImageWoof", ipc, factor).decoding == way for (factor, ipc), way in bound.items())
    assert METHODS["IDC"].paper_config("CIFAR10", 50).decoding is None
    assert (woof.network, woof.metric, woof.iterations, woof.early_epochs, woof.cutmix) == (
        "ResNetAP-10",
        "l1",
        500,
        10,
        1.0,
    )


# --- the whole --------------------------------------------------------------------------------------------------------
TINY = idc.Config(ipc=2, iterations=2, inner=3, network="ConvNetW32", batch_real=8, batch_net=16, images_net=20)


def test_pixels_are_clamped_once_per_network(real, monkeypatch):
    seen, sweep = [], idc.sweep_classes

    def watch(images, *args, **options):
        seen.append((float(images.min()), float(images.max())))
        sweep(images, *args, **options)

    monkeypatch.setattr(idc, "sweep_classes", watch)
    idc.distill(real, replace(TINY, lr_img=50.0), seed=0)
    assert len(seen) == 6 and all(low >= 0 and high <= 1 for low, high in (seen[0], seen[3]))
    assert any(low < 0 or high > 1 for low, high in (seen[1], seen[2]))  # in between they may leave the range


def test_the_network_learns_real_images_while_the_images_are_matched(real):
    net = networks.fresh("ConvNetW32", real, stream(0))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    idc.train_network(net, optimizer, real, replace(TINY, cutmix=0.0), stream(1), images=1_000)
    assert (net.eval()(real.all()[0]).argmax(1) == real.labels).float().mean() > 0.5


def test_training_the_network_takes_whole_batches(real, monkeypatch):
    sizes, logits = [], networks.logits
    monkeypatch.setattr(idc.networks, "logits", lambda net, x: sizes.append(len(x)) or logits(net, x))
    net = networks.fresh("ConvNetW32", real, stream(0))
    idc.train_network(
        net, torch.optim.SGD(net.parameters(), lr=0.01), real, replace(TINY, batch_net=64), stream(1), images=100
    )
    assert sizes == [64, 64]


def test_a_bound_concerns_matching_alone(real, monkeypatch):
    seen, match = [], matching.match
    monkeypatch.setattr(
        matching, "match", lambda *given, **options: seen.append(given[3].shape[1]) or match(*given, **options)
    )
    made = idc.distill(real, replace(TINY, factor=2, batch_syn=6, decoding="bound"), seed=0)
    assert (
        set(seen) == {5} and len(made) == real.num_classes * 2 * 2**2
    )  # one image in four parts and one whole; then all parts


def test_distilling_lowers_the_distance_it_minimises(real):
    cfg = replace(TINY, iterations=1, inner=12, batch_real=16, metric="mse", lr_img=0.5, augment="color_crop_cutout")
    net = networks.fresh(cfg.network, real, stream(7))
    parameters, derivatives = [p.detach() for p in net.parameters()], Derivatives(net)
    target = real.draw_classes(100, stream(8))
    start = real.facts.normalise(idc.initial_images(real, cfg, stream(0)))
    end = idc.distill(real, cfg, seed=0).images.unflatten(0, (real.num_classes, -1))
    distances = [
        matching.match(derivatives, parameters, target, x, partial(idc.distance, metric="mse"))[0].sum()
        for x in (start, end)
    ]
    assert distances[1] < 0.9 * distances[0]


@pytest.mark.parametrize("field", ["ipc", "factor", "inner", "batch_real", "batch_syn", "batch_net"])
def test_none_of_something_is_a_clear_error(field):
    with pytest.raises(UserError, match=rf"bad Config: {field}: .*greater than or equal to 1 \(got 0\)"):
        replace(TINY, **{field: 0})
