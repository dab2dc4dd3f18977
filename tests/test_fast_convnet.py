"""The compiled ConvNet kernel against the network's own layers in float64: values, gradients, fallbacks."""

import copy

import pytest
import torch
from torch.nn import functional as F

from distill_lib import networks
from distill_lib.core import device
from distill_lib.core.native import build, convnet
from distill_lib.core.rng import stream
from distill_lib.networks import fast
from distill_lib.networks import fast as networks_fast

GREY28, RGB32 = (1, 28, 28), (3, 32, 32)


@pytest.fixture(autouse=True)
def compile_the_kernel(compiler, monkeypatch):
    """The suite compiles nothing; these tests do, once."""
    library = convnet.build()
    monkeypatch.setattr(convnet, "kernel", lambda lib=convnet.load(library): lib)


def case(name, shape, n, seed=0):
    """A network whose norms are not at their initial values, images, and a gradient of the embedding."""
    network, rng = networks.fresh(name, (shape, 10), stream(seed, "weights")), stream(seed, "case")
    with torch.no_grad():
        for key, p in network.named_parameters():
            if p.ndim == 1 and "classifier" not in key:
                p.add_(torch.randn(p.shape, generator=rng), alpha=0.2)
    return network, torch.randn(n, *shape, generator=rng), torch.randn(n, network.embed_dim, generator=rng)


def gradients(embed, network, x, grad):
    """Embedding, and its gradients against `grad` by images and by parameters."""
    x = x.clone().requires_grad_()
    parameters = [p for key, p in network.named_parameters() if "classifier" not in key]
    out = embed(network, x)
    return out.detach(), *torch.autograd.grad((out * grad).sum(), [x, *parameters])


@torch.no_grad()
def descend(loss, parameters, lr=0.1):
    for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        p.sub_(lr * g)


def error(found, wanted):
    return float((found.double() - wanted).norm() / wanted.norm())


CASES = [
    ("ConvNet", GREY28, 3),
    ("ConvNet", RGB32, 2),
    ("ConvNet", (1, 8, 8), 5),
    ("ConvNetNN", GREY28, 2),
    ("ConvNetD1W32", RGB32, 2),
    ("ConvNetD2W64", (3, 22, 30), 3),
    ("ConvNetD4W32", (3, 64, 64), 2),
    ("ConvNetD3W32", (2, 17, 9), 30),
    ("ConvNetD2W32NN", (4, 13, 13), 2),
    ("FRePoConv", GREY28, 2),
]


@pytest.mark.parametrize(("name", "shape", "n"), CASES)
def test_values_and_gradients_are_those_of_the_layers(name, shape, n):
    network, x, grad = case(name, shape, n)
    assert fast.blocks_of(network) is not None
    exact = copy.deepcopy(network).double()
    wanted = gradients(lambda net, x: net.embed(x), exact, x.double(), grad.double())
    found = gradients(fast.embed, network, x, grad)
    assert error(found[0], wanted[0]) < 5e-6
    assert error(found[1], wanted[1]) < 1e-5
    keys = [key for key, _ in network.named_parameters() if "classifier" not in key]
    inert = ["norm" in network.__dict__ and network.norm == "IN" and key.endswith(".0.bias") for key in keys]
    for key, is_inert, mine, theirs in zip(keys, inert, found[2:], wanted[2:], strict=True):
        assert not mine.any() if is_inert else error(mine, theirs) < 3e-5, (
            key
        )  # instance norm removes the biases before it


def test_it_is_the_kernel_that_computes(monkeypatch):
    network, x, _ = case("ConvNet", GREY28, 2)
    monkeypatch.setattr(type(network), "embed", None)
    assert networks_fast.embed(network, x).shape == (2, 2048) and networks.logits(network, x).shape == (2, 10)


def test_patches_that_nearly_cancel():
    """Images almost constant with a large offset: the statistics of the first block are small differences of large
    numbers."""
    network, x, grad = case("ConvNetD2W32", RGB32, 2)
    x = 1e-2 * x + 5
    wanted = gradients(lambda net, x: net.embed(x), copy.deepcopy(network).double(), x.double(), grad.double())
    found = gradients(fast.embed, network, x, grad)
    assert error(found[0], wanted[0]) < 2e-5 and error(found[1], wanted[1]) < 1e-3
    plain = gradients(lambda net, x: net.embed(x), network, x, grad)
    assert error(found[0], wanted[0]) < 10 * error(plain[0], wanted[0])


def test_constant_images_and_nan():
    network, _, _ = case("ConvNet", GREY28, 1)
    flat = torch.full((1, *GREY28), 0.3)
    torch.testing.assert_close(fast.embed(network, flat), network.embed(flat), rtol=1e-4, atol=1e-5)
    flat[0, 0, 5, 5] = torch.nan
    assert fast.embed(network, flat).isnan().any()


def test_an_image_is_embedded_alike_in_every_company_and_by_any_number_of_threads(monkeypatch):
    network, x, _ = case("ConvNetD3W32", RGB32, 23)
    whole = fast.embed(network, x)
    order = torch.randperm(23, generator=stream(3))
    assert torch.equal(fast.embed(network, x[order]), whole[order])
    assert torch.equal(fast.embed(network, x[4:9]), whole[4:9])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert torch.equal(fast.embed(network, x), whole)
    assert fast.embed(network, x[:0]).shape == (0, network.embed_dim)


def test_threads_share_out_the_gradient(monkeypatch):
    network, x, grad = case("ConvNetD2W32", RGB32, 7)
    alone = gradients(fast.embed, network, x, grad)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    several = [gradients(fast.embed, network, x, grad) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*several, strict=True))  # the same on every run
    for a, b in zip(alone, several[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_only_what_is_asked_for_gets_a_gradient():
    network, x, grad = case("ConvNetD2W32", GREY28, 2)
    both = gradients(fast.embed, network, x, grad)
    network.requires_grad_(False)
    inputs = x.clone().requires_grad_()
    fast.embed(network, inputs).backward(grad)
    assert torch.equal(inputs.grad, both[1]) and all(p.grad is None for p in network.parameters())
    network.requires_grad_(True)
    fast.embed(network, x).backward(grad)
    for p, wanted in zip((p for k, p in network.named_parameters() if "classifier" not in k), both[2:], strict=True):
        assert torch.equal(p.grad, wanted)


def test_images_that_are_views():
    network, x, _ = case("ConvNetD2W32", GREY28, 4)
    views = x.expand(3, *x.shape)[1].transpose(2, 3)
    assert not views.is_contiguous()
    torch.testing.assert_close(fast.embed(network, views), network.embed(views), rtol=1e-4, atol=1e-5)


def test_second_derivatives_are_the_layers():
    network, x, _ = case("ConvNetD2W32", GREY28, 2)
    found = []
    for embed in (fast.embed, lambda net, x: net.embed(x)):
        images = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(embed(network, images.transpose(2, 3)).square().sum(), images, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [images, network.blocks[1][0].weight]))
    for mine, theirs in zip(*found, strict=True):
        assert error(mine, theirs.double()) < 1e-3


OTHERS = "ConvNetBN ConvNetLN ConvNetGN ConvNetMP ConvNetNP ConvNetAS ConvNetW8 LeNet FRePoConvBN".split()


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_take_their_layers(name):
    network, x, _ = case(name, RGB32, 2)
    assert fast.blocks_of(network) is None
    network.eval()
    assert torch.equal(networks_fast.embed(network, x), network.embed(x)) and torch.equal(
        networks.logits(network, x), network(x)
    )


def test_networks_whose_filters_are_too_large_take_their_layers():
    assert fast.blocks_of(networks.fresh("ConvNetW1024", (RGB32, 10), stream(0))) is None


def test_float64_autocast_and_transforms_take_the_layers():
    network, x, _ = case("ConvNetD2W32", GREY28, 2)
    double = copy.deepcopy(network).double()
    assert torch.equal(fast.embed(double, x.double()), double.embed(x.double()))
    with torch.autocast("cpu", torch.bfloat16):
        assert fast.embed(network, x).dtype == network.embed(x).dtype
    mapped = torch.func.vmap(lambda image: fast.embed(network, image[None])[0])(x)
    torch.testing.assert_close(mapped, network.embed(x), rtol=1e-4, atol=1e-4)


def test_wrong_images_give_pytorchs_own_error():
    network, _, _ = case("ConvNetD2W32", RGB32, 1)
    with pytest.raises(RuntimeError, match="channels"):
        fast.embed(network, torch.zeros(2, *GREY28))


def test_a_stack_uses_it_and_trains_as_before(monkeypatch):
    alone = [networks.fresh("ConvNetD2W32", (GREY28, 10), stream(i)) for i in range(2)]
    x, y = torch.randn(2, 6, *GREY28, generator=stream(1)), torch.arange(12).view(2, 6) % 10
    found = []
    for kernel in (convnet.kernel, lambda: None):
        monkeypatch.setattr(convnet, "kernel", kernel)
        nets = networks.stack(alone)
        for _ in range(3):
            loss = F.cross_entropy(nets(x).flatten(0, 1), y.flatten())
            descend(loss, list(nets.params.values()))
        found.append(torch.cat([p.detach().flatten() for p in nets.params.values()]))
    assert error(found[0], found[1].double()) < 1e-5


def test_without_a_compiler_there_is_one_notice_and_the_layers(monkeypatch, tmp_path):
    monkeypatch.undo()  # the real `kernel`
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "can_compile", lambda: True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    convnet.kernel.cache_clear()
    network, x, _ = case("ConvNetD2W32", GREY28, 2)
    with pytest.warns(UserWarning, match="could not be compiled") as said:
        results = [fast.embed(network, x) for _ in range(2)]
    assert len(said) == 1 and all(torch.equal(r, network.embed(x)) for r in results)
    convnet.kernel.cache_clear()
    monkeypatch.setattr(build, "can_compile", lambda: False)  # DISTILL_COMPILE=0: nobody need be told
    assert convnet.kernel() is None
    convnet.kernel.cache_clear()


def test_the_compiled_kernel_is_kept(monkeypatch):
    library = convnet.build()
    monkeypatch.setattr(build.subprocess, "run", None)
    assert convnet.build() == library and device.can_compile() is False
