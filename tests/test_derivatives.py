"""Derivatives in pieces equal plain differentiation, whichever form computes them."""

import pytest
import torch
from torch.nn import functional as F

from distill_lib import networks
from distill_lib.core.errors import UserError
from distill_lib.core.native import convnet
from distill_lib.core.rng import stream
from distill_lib.networks.gradients import Derivatives

SHAPE = (1, 28, 28)
FORMS = {  # name, options: matrix products, the network's layers, and another architecture
    "products": ("ConvNetW8", {}),
    "layers": ("ConvNetW8", {"plain": True}),
    "another network": ("LeNet", {}),
}


def problem(name, groups=3, n=5, dtype=torch.float64):
    rng = stream(0, name)
    network = networks.fresh(name, (SHAPE, 4), rng).to(dtype).requires_grad_(False)
    parameters = [p + 0.1 * torch.randn(p.shape, generator=rng, dtype=dtype) for p in network.parameters()]
    images = torch.randn(groups, n, *SHAPE, generator=rng, dtype=dtype)
    labels = torch.randint(4, (groups, n), generator=rng)
    direction = [torch.randn(groups, *p.shape, generator=rng, dtype=dtype) for p in parameters]
    if name.startswith(
        "ConvNet"
    ):  # instance norm removes the convolutions' biases: rounding is all their gradients are
        for bias in direction[1:-2:4]:
            bias.zero_()
    return network, parameters, images, labels, direction


def by_hand(network, parameters, images, labels, direction):
    """Group by group, with a graph: <gradients, direction>, gradients, derivatives of the first by images and
    parameters."""
    leaves, x = [p.clone().requires_grad_() for p in parameters], images.clone().requires_grad_()
    names = [name for name, _ in network.named_parameters()]
    gradients, total = [], 0.0
    for g in range(len(images)):
        loss = F.cross_entropy(
            torch.func.functional_call(network, dict(zip(names, leaves, strict=True)), (x[g],)), labels[g]
        )
        gradients.append(torch.autograd.grad(loss, leaves, create_graph=True))
        total = total + sum((a * v[g]).sum() for a, v in zip(gradients[-1], direction, strict=True))
    by_image, *by_parameter = torch.autograd.grad(total, [x, *leaves])
    return (
        total.detach(),
        [torch.stack([g[i].detach() for g in gradients]) for i in range(len(leaves))],
        by_image,
        by_parameter,
    )


def losses(network, parameters, images, labels):
    names = [name for name, _ in network.named_parameters()]
    run = torch.func.functional_call
    return [
        F.cross_entropy(run(network, dict(zip(names, parameters, strict=True)), (x,)), y)
        for x, y in zip(images, labels, strict=True)
    ]


def close(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("piece", [1, 4, 11, 100])  # parts of a group, one group, two groups, everything
def test_first_and_second_derivatives_in_pieces(form, piece):
    name, options = FORMS[form]
    network, parameters, images, labels, direction = problem(name)
    d = Derivatives(network, piece, **options)
    assert (d.products is not None) == (form == "products")
    value, first, by_image, by_parameter = by_hand(network, parameters, images, labels, direction)
    loss, gradient = d.first(parameters, images, labels)
    close([*loss, *gradient], [*losses(network, parameters, images, labels), *first])
    found = d.second(parameters, images, labels, direction)
    close([*found[:2], *found[2]], [value, by_image, *by_parameter])
    gradient, pull = d.gradient_and_pull(parameters, images, labels)
    close([*gradient, pull(direction)], [*first, by_image])


def test_the_compiled_kernel_is_asked_for_first_derivatives_only(monkeypatch):
    """Its own numbers are checked with it; here its place is taken by the same function in plain layers."""
    asked = []
    monkeypatch.setattr(convnet, "usable", lambda plan, x, parameters: plan is not None)
    monkeypatch.setattr(
        convnet, "run", lambda plan, x, parameters: (asked.append(len(x)), convnet.layers(plan, x, parameters))[1]
    )
    network, parameters, images, labels, direction = problem("ConvNetW32")
    _, first, by_image, _ = by_hand(network, parameters, images, labels, direction)
    d = Derivatives(network, piece=4)
    close(d.first(parameters, images, labels)[1], first)
    assert asked == [4, 1] * 3
    gradient, pull = d.gradient_and_pull(parameters, images, labels)
    close([*gradient, pull(direction)], [*first, by_image])
    assert asked == [4, 1] * 6


@pytest.mark.parametrize("form", FORMS)
def test_memory_that_runs_out_halves_the_pieces_and_changes_nothing(form, monkeypatch):
    name, options = FORMS[form]
    network, parameters, images, labels, direction = problem(name)
    value, first, by_image, by_parameter = by_hand(network, parameters, images, labels, direction)
    d = Derivatives(network, 100, **options)
    once = d._twice(images)
    compute = once.logits

    def short_of_memory(weights, x):
        if len(x) > 3:
            raise torch.OutOfMemoryError("no room")
        return compute(weights, x)

    monkeypatch.setattr(once, "logits", short_of_memory)
    with pytest.warns(UserWarning, match="out of memory"):
        close(d.first(parameters, images, labels)[1], first)
    found = d.second(parameters, images, labels, direction)
    close([*found[:2], *found[2]], [value, by_image, *by_parameter])
    whole = Derivatives(network, 100, **options)
    monkeypatch.setattr(whole._twice(images), "logits", short_of_memory)
    with pytest.warns(UserWarning, match="out of memory"):
        gradient, pull = whole.gradient_and_pull(parameters, images, labels)
    close([*gradient, pull(direction)], [*first, by_image])

    monkeypatch.setattr(
        once, "logits", lambda weights, x: (_ for _ in ()).throw(torch.OutOfMemoryError("no room at all"))
    )
    with pytest.raises(torch.OutOfMemoryError), pytest.warns(UserWarning):
        d.first(parameters, images, labels)


def test_batch_norm_in_train_mode_keeps_a_group_together():
    network, parameters, images, labels, direction = problem("ConvNetD1W4BN", groups=2, n=6)
    first = by_hand(network.train(), parameters, images, labels, direction)[1]
    close(Derivatives(network, piece=2).first(parameters, images, labels)[1], first)
    frozen = by_hand(network.eval(), parameters, images, labels, direction)[1]
    close(Derivatives(network, piece=2).first(parameters, images, labels)[1], frozen)
    assert not torch.allclose(first[0], frozen[0])


def test_dropout_is_refused():
    with pytest.raises(UserError, match="ViTCIFAR draws random numbers"):
        Derivatives(networks.fresh("ViTCIFAR", ((3, 32, 32), 10), stream(0)))
