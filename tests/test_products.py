"""The ConvNet as matrix products equals the network it stands for, and so do its first and second derivatives."""

import pytest
import torch
from torch.nn import functional as F

from distill_lib import networks
from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.networks.winograd import Products, patches_at_once

CASES = [  # name, image shape: 28 pixels are lifted to 32, sides of 12 and 6 need the small tiles
    ("ConvNetW8", (1, 28, 28)),
    ("ConvNetW8", (3, 32, 32)),
    ("ConvNetD2W8", (3, 24, 12)),
    ("ConvNetD1W4", (2, 6, 10)),
    ("ConvNetW4", (3, 64, 64)),
]


def network_and_batch(name, shape, dtype=torch.float64):
    rng = stream(0, name, shape)
    network = networks.fresh(name, (shape, 5), rng).to(dtype)
    with torch.no_grad():
        for p in network.parameters():  # norm layers away from 1 and 0
            p += 0.2 * torch.randn(p.shape, generator=rng, dtype=dtype)
    images = torch.randn(6, *shape, generator=rng, dtype=dtype)
    return network, images, torch.tensor([0, 1, 2, 3, 4, 0]), rng


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_logits_and_both_derivatives_equal_the_networks(name, shape):
    network, images, labels, rng = network_and_batch(name, shape)
    products, parameters = Products(network), list(network.parameters())
    weights = [w.requires_grad_() for w in products.weights([p.detach()[None] for p in parameters])]
    plain_x, fast_x = images.clone().requires_grad_(), images.clone().requires_grad_()
    plain, fast = network(plain_x), products.logits(weights, fast_x)
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(products.embed(weights, images), network.embed(images), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(products.taps(weights, images), network.taps(images), rtol=1e-10, atol=1e-10)

    plain_g = torch.autograd.grad(F.cross_entropy(plain, labels), parameters, create_graph=True)
    fast_g = torch.autograd.grad(F.cross_entropy(fast, labels), weights, create_graph=True)
    for a, b in zip(plain_g, products.parameters(list(fast_g)), strict=True):
        torch.testing.assert_close(b[0], a, rtol=1e-8, atol=1e-10)

    direction = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in parameters]
    for block in network.blocks:  # instance norm removes the convolutions' biases: rounding is all their gradients are
        direction[[p is block[0].bias for p in parameters].index(True)].zero_()
    plain_h = torch.autograd.grad(
        sum((g * v).sum() for g, v in zip(plain_g, direction, strict=True)), [plain_x, *parameters]
    )
    fast_h = torch.autograd.grad(
        sum((g * v).sum() for g, v in zip(fast_g, products.weights([v[None] for v in direction]), strict=True)),
        [fast_x, *weights],
        allow_unused=True,
        materialize_grads=True,
    )
    torch.testing.assert_close(fast_h[0], plain_h[0], rtol=1e-8, atol=1e-10)
    for a, b in zip(plain_h[1:], products.parameters(list(fast_h[1:])), strict=True):
        torch.testing.assert_close(b[0], a, rtol=1e-7, atol=1e-9)


def test_groups_have_weights_of_their_own():
    shape = (1, 28, 28)
    nets = [network_and_batch("ConvNetW8", shape)[0], networks.fresh("ConvNetW8", (shape, 5), stream(1)).double()]
    images, labels = network_and_batch("ConvNetW8", shape)[1:3]
    products = Products(nets[0])
    each = [products.weights([p.detach()[None] for p in net.parameters()]) for net in nets]
    both = [torch.cat(pair, axis).requires_grad_() for *pair, axis in zip(*each, products.group_axes, strict=True)]
    logits = products.logits(both, images)
    torch.testing.assert_close(logits, torch.cat([nets[0](images[:3]), nets[1](images[3:])]), rtol=1e-10, atol=1e-10)
    gradients = products.parameters(list(torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), both)))
    for g, part in ((0, slice(0, 3)), (1, slice(3, 6))):
        plain = torch.autograd.grad(
            F.cross_entropy(nets[g](images[part]), labels[part], reduction="sum"), list(nets[g].parameters())
        )
        for a, b in zip(plain, gradients, strict=True):
            torch.testing.assert_close(b[g], a, rtol=1e-8, atol=1e-10)


def test_weights_and_parameters_are_adjoint_and_float32_is_close():
    network, images, _, rng = network_and_batch("ConvNetW8", (3, 32, 32))
    products = Products(network)
    p = [torch.randn(q.shape, generator=rng, dtype=q.dtype) for q in network.parameters()]
    w = products.weights([q[None] for q in p])
    v = [torch.randn(q.shape, generator=rng, dtype=q.dtype) for q in w]
    left = sum((a * b).sum() for a, b in zip(w, v, strict=True))
    right = sum((a * b[0]).sum() for a, b in zip(p, products.parameters(v), strict=True))
    torch.testing.assert_close(left, right)
    exact = network(images)
    single = products.logits(products.weights([q.detach().float()[None] for q in network.parameters()]), images.float())
    assert (single - exact).abs().max() < 2e-5 * exact.abs().max()


@pytest.mark.parametrize(
    ("name", "shape"),
    [("ConvNetBN", (1, 28, 28)), ("ConvNetMP", (1, 28, 28)), ("MLP", (1, 28, 28)), ("ConvNetD6W4", (3, 224, 224))],
)
def test_other_networks_are_refused(name, shape):
    network = networks.fresh(name, (shape, 10), stream(0))
    assert not Products.fits(network)
    with pytest.raises(UserError, match="ConvNet with instance norm"):
        Products(network)


@pytest.mark.parametrize("padding", [(1, 1), (3, 3)])
def test_neighbourhoods_on_a_gpu_are_those_of_unfold(padding):
    images = torch.randn(4, 3, 10, 10, generator=stream(0, "patches"), dtype=torch.float64, requires_grad=True)
    found, plain = patches_at_once(images, padding), F.unfold(images, 3, padding=padding)
    assert torch.equal(found, plain)
    weights = torch.randn(plain.shape, generator=stream(1, "patches"), dtype=torch.float64)
    grads = [torch.autograd.grad((p * weights).sum(), images)[0] for p in (found, plain)]
    assert torch.allclose(*grads, rtol=1e-12)
