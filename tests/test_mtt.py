"""MTT: the loss and its derivatives against plain unrolling, experts on disk, the method's promises."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from steps import in_steps
from torch.nn import functional as F

from distill_lib import networks
from distill_lib.core.errors import UserError
from distill_lib.core.loop import Diverged, Loop
from distill_lib.core.rng import stream
from distill_lib.core.settings import as_dict, from_dict, replace
from distill_lib.data import ImageSet, augment
from distill_lib.methods import mtt
from distill_lib.methods.common import trajectories
from distill_lib.methods.common.trajectories import Experts, flat, unflat
from distill_lib.networks.gradients import Derivatives

pytestmark = pytest.mark.usefixtures("runs")
K = 3


def problem(name="ConvNetW4", shape=(1, 28, 28), images=6):
    """A network in float64, two sets of weights for it, images and labels."""
    rng = stream(0, name)
    network = networks.fresh(name, (shape, K), rng).double().requires_grad_(False)
    start = flat([p + 0.05 * torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in network.parameters()])
    target = start + 0.01 * torch.randn(start.shape, generator=rng, dtype=start.dtype)
    synthetic = torch.randn(images, *shape, generator=rng, dtype=torch.float64)
    return network, start, target, synthetic, torch.arange(images) % K


def unrolled(network, start, target, synthetic, labels, step_size, batches, draws, aug):
    """The student's steps with their graph kept, and one backward pass through all of them."""
    images, a = synthetic.clone().requires_grad_(), step_size.clone().requires_grad_()
    names, theta = [name for name, _ in network.named_parameters()], start.clone().requires_grad_()
    for index, draw in zip(batches, draws, strict=True):
        weights = dict(zip(names, unflat(theta, network), strict=True))
        loss = F.cross_entropy(
            torch.func.functional_call(network, weights, (aug.apply(images[index], draw),)), labels[index]
        )
        theta = theta - a * torch.autograd.grad(loss, theta, create_graph=True)[0]
    loss = (theta - target).square().sum() / (start - target).square().sum()
    by_images, by_step_size = torch.autograd.grad(loss, [images, a], allow_unused=True, materialize_grads=True)
    return loss.detach(), by_images, by_step_size


def step_by_step(network, start, target, synthetic, labels, step_size, batches, draws, aug):
    """As `unrolled`, with the weights before every step held fixed: no graph leads from one step to the next."""
    images, a = synthetic.clone().requires_grad_(), step_size.clone().requires_grad_()
    names, theta, gradients = [name for name, _ in network.named_parameters()], start, []
    for index, draw in zip(batches, draws, strict=True):
        leaf = theta.clone().requires_grad_()
        weights = dict(zip(names, unflat(leaf, network), strict=True))
        loss = F.cross_entropy(
            torch.func.functional_call(network, weights, (aug.apply(images[index], draw),)), labels[index]
        )
        gradients.append(torch.autograd.grad(loss, leaf, create_graph=True)[0])
        theta = theta - step_size * gradients[-1].detach()
    loss = (start - a * sum(gradients) - target).square().sum() / (start - target).square().sum()
    return loss.detach(), *torch.autograd.grad(loss, [images, a])


def steps_of(count, batch, steps, strategy, seed=0):
    rng = stream(seed, "steps")
    aug = augment.dsa(strategy)
    batches = trajectories.draw_batches(count, batch, steps, rng)
    return batches, [aug.draw(rng, images=len(index)) for index in batches], aug


# --- the loss ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["ConvNetW4", "MLP"])
@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("piece", [None, 2])
def test_loss_and_derivatives_equal_plain_unrolling(name, batch, piece):
    network, start, target, synthetic, labels = problem(name)
    step_size = torch.tensor(0.1, dtype=torch.float64)
    batches, draws, aug = steps_of(len(synthetic), batch, 4, "color_crop_flip_scale_rotate")
    wanted = unrolled(network, start, target, synthetic, labels, step_size, batches, draws, aug)
    found = trajectories.student_loss(
        Derivatives(network, piece), start, target, synthetic, labels, step_size, batches, draws, aug
    )
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)
    assert wanted[1].abs().max() > 0 and wanted[2].abs() > 0


@pytest.mark.parametrize("name", ["ConvNetW4", "MLP"])
@pytest.mark.parametrize("batch", [None, 4])
def test_without_terms_between_steps_the_weights_before_a_step_are_fixed(name, batch):
    network, start, target, synthetic, labels = problem(name)
    batches, draws, aug = steps_of(len(synthetic), batch, 4, "color_crop_flip_scale_rotate")
    given = start, target, synthetic, labels, torch.tensor(0.1, dtype=torch.float64), batches, draws, aug
    wanted, exact = step_by_step(network, *given), unrolled(network, *given)
    for a, b in zip(trajectories.student_loss(Derivatives(network), *given, between_steps=False), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(wanted[0], exact[0])
    assert all(
        (a - b).norm() > 1e-3 * b.norm() for a, b in zip(wanted[1:], exact[1:], strict=True)
    )  # another derivative


def test_a_student_that_stays_where_it_is_loses_exactly_one():
    network, start, target, synthetic, labels = problem()
    d, zero = Derivatives(network), torch.tensor(0.0, dtype=torch.float64)
    loss, by_images, by_step_size = trajectories.student_loss(
        d, start, target, synthetic, labels, zero, [], [], augment.none()
    )
    assert loss.item() == pytest.approx(1, abs=1e-14) and not by_images.any() and by_step_size == 0
    batches, draws, aug = steps_of(len(synthetic), None, 2, "none")
    loss, by_images, by_step_size = trajectories.student_loss(
        d, start, target, synthetic, labels, zero, batches, draws, aug
    )
    assert loss.item() == pytest.approx(1, abs=1e-14) and not by_images.any() and by_step_size != 0


def test_a_student_on_the_experts_own_batches_arrives():
    """The same images, order and step size as the expert's, without augmentation: nothing is left of the way."""
    network, start, _, images, labels = problem(images=12)
    parameters, lr = [p.clone() for p in unflat(start, network)], 0.05
    batches = trajectories.draw_batches(12, 4, 6, stream(1))
    for index in batches:
        leaves = [p.clone().requires_grad_() for p in parameters]
        names = [name for name, _ in network.named_parameters()]
        loss = F.cross_entropy(
            torch.func.functional_call(network, dict(zip(names, leaves, strict=True)), (images[index],)), labels[index]
        )
        parameters = [p - lr * g for p, g in zip(parameters, torch.autograd.grad(loss, leaves), strict=True)]
    none = augment.none()
    draws = [none.draw(stream(0), images=len(index)) for index in batches]
    loss, _, _ = trajectories.student_loss(
        Derivatives(network),
        start,
        flat(parameters),
        images,
        labels,
        torch.tensor(lr, dtype=torch.float64),
        batches,
        draws,
        none,
    )
    assert loss < 1e-24


def test_the_step_sizes_derivative_is_the_slope_of_the_loss():
    """A linear model, so nothing but the chain through the steps is tested: finite differences in float64."""
    shape, rng = (1, 4, 4), stream(0, "linear")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, K)).double().requires_grad_(False)
    start, target = (torch.randn(16 * K + K, generator=rng, dtype=torch.float64) for _ in range(2))
    images, labels = torch.randn(5, *shape, generator=rng, dtype=torch.float64), torch.arange(5) % K
    batches, draws, aug = steps_of(5, 3, 6, "none")

    def at(a):
        return trajectories.student_loss(
            Derivatives(network),
            start,
            target,
            images,
            labels,
            torch.tensor(a, dtype=torch.float64),
            batches,
            draws,
            aug,
        )

    slope = (at(0.3 + 1e-5)[0] - at(0.3 - 1e-5)[0]) / 2e-5
    assert at(0.3)[2].item() == pytest.approx(slope.item(), rel=1e-6)


def test_memory_does_not_grow_with_the_steps_but_for_the_weights():
    """Graphs alive at once: those of one step, however many there are."""
    network, start, target, synthetic, labels = problem()
    d = Derivatives(network)
    alive, most = [], []
    logits = d._twice(synthetic[None]).logits

    def counted(weights, images):
        import gc
        import weakref

        gc.collect()
        most.append(sum(ref() is not None for ref in alive))
        out = logits(weights, images)
        alive.append(weakref.ref(out))
        return out

    d._twice(synthetic[None]).logits = counted
    batches, draws, aug = steps_of(len(synthetic), None, 6, "none")
    trajectories.student_loss(
        d, start, target, synthetic, labels, torch.tensor(0.1, dtype=torch.float64), batches, draws, aug
    )
    assert len(alive) == 12 and max(most) <= 1  # 6 forwards, 6 again on the way back


def test_batches_pass_over_all_images_last_part_first():
    batches = trajectories.draw_batches(10, 4, 5, stream(0))
    assert [len(b) for b in batches] == [2, 4, 4, 2, 4]
    assert sorted(torch.cat(batches[:3]).tolist()) == list(range(10))
    assert [sorted(b.tolist()) for b in trajectories.draw_batches(3, None, 2, stream(0))] == [[0, 1, 2]] * 2


# --- experts ----------------------------------------------------------------------------------------------------------
def few(**changes):
    return replace(
        Experts(count=2, epochs=2, network="ConvNetD2W8", batch=16, per_epoch=40, dsa="color_crop"), **changes
    )


def test_the_papers_networks_have_their_sizes():
    for shape, size in (((3, 32, 32), 320_010), ((1, 28, 28), 317_706), ((3, 128, 128), 615_690)):
        network = networks.fresh("ConvNet", (shape, 10), stream(0))
        assert len(flat(list(network.parameters()))) == size
        back = unflat(flat([p.detach() for p in network.parameters()]), network)
        assert all(torch.equal(a, b) for a, b in zip(back, network.parameters(), strict=True))


def test_an_expert_is_plain_sgd_and_its_snapshots_are_copies(real):
    experts = few()
    found = trajectories.train_experts(real, experts)
    shots = load_file(found.file(1))["snapshots"]
    rng = stream(0, "expert", 1)
    network = networks.fresh("ConvNetD2W8", real, rng)
    assert torch.equal(shots[0], flat([p.detach() for p in network.parameters()]))
    optimizer, aug = torch.optim.SGD(network.parameters(), lr=0.01), augment.dsa("color_crop")
    for epoch in range(2):
        for index in torch.randperm(len(real), generator=rng)[:40].split(16):
            images, labels = real.take(index)
            optimizer.zero_grad()
            F.cross_entropy(network(aug(images, rng)), labels).backward()
            optimizer.step()
        torch.testing.assert_close(
            shots[epoch + 1], flat([p.detach() for p in network.parameters()]), rtol=1e-4, atol=1e-6
        )
    assert not torch.equal(shots[0], shots[1]) and not torch.equal(shots[1], shots[2])
    first, last = found.snapshots(1, 0, 2)
    assert torch.equal(first, shots[0]) and torch.equal(last, shots[2])


def test_experts_are_shared_and_more_of_them_are_added(real):
    found = trajectories.train_experts(real, few())
    times = {f: f.stat().st_mtime_ns for f in found.folder.glob("*.safetensors")}
    assert len(times) == 2
    more = trajectories.train_experts(real, few(count=3))
    assert more.folder == found.folder and len(list(found.folder.glob("*.safetensors"))) == 3
    assert all(f.stat().st_mtime_ns == t for f, t in times.items())
    assert trajectories.train_experts(real, few(lr=0.02)).folder != found.folder
    about = json.loads((found.folder / "settings.json").read_text())
    assert about["bytes_per_expert"] == found.expert_bytes == 3 * 4 * found.parameters
    assert about["settings"]["epochs"] == 2 and about["data_sha256"] == real.sha256()
    assert abs(found.file(0).stat().st_size - found.expert_bytes) < 200


def test_a_broken_off_expert_goes_on_where_it_was(real, tmp_path, monkeypatch):
    whole = load_file(trajectories.train_experts(real, few(count=1)).file(0))["snapshots"]
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "again"))
    found, stops = in_steps(lambda loop: trajectories.train_experts(real, few(count=1), loop), tmp_path / "ckpt")
    assert stops == 5 and torch.equal(load_file(found.file(0))["snapshots"], whole)
    assert not list(found.folder.glob("*.unfinished"))  # the checkpoint goes when the expert is there


def test_whitened_experts_see_whitened_images(real):
    found = trajectories.train_experts(real, few(zca=True))
    assert found.real.whitening is not None and found.folder != trajectories.train_experts(real, few()).folder
    again = trajectories.train_experts(real, few(zca=True))
    assert again.real.whitening.equals(found.real.whitening)


def test_bad_experts_are_clear_errors(real, monkeypatch):
    with pytest.raises(UserError, match="count: .*greater than or equal to 1"):
        trajectories.train_experts(real, few(count=0))
    found = trajectories.train_experts(real, few(count=1))
    found.file(0).write_bytes(b"not it")
    with pytest.raises(UserError, match="expert_000.safetensors: damaged.*delete it"):
        found.snapshots(0, 0)
    monkeypatch.setattr(trajectories.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(UserError, match="2 experts of 0 MB take 0.0 GB.*DISTILL_RUNS"):
        trajectories.train_experts(real, few(lr=0.5))


# --- the method -------------------------------------------------------------------------------------------------------
def tiny(**changes):
    settings = {
        "ipc": 1,
        "iterations": 3,
        "syn_steps": 2,
        "expert_epochs": 1,
        "max_start_epoch": 2,
        "batch_syn": 6,
        "lr_lr": 1e-3,
        "experts": few(),
    }
    return mtt.Config(**{**settings, **changes})


def test_images_and_step_size_move_and_the_set_carries_the_latter(real):
    made = mtt.distill(real, tiny(), seed=0)
    start = real.initial_images(1, "real", stream(0, "MTT")).flatten(0, 1)
    assert (made.images - start).abs().max() > 1e-4
    assert made.facts.extra["lr_net"] != 0.001 and math.isfinite(made.facts.extra["lr_net"])


def test_one_update_is_the_algorithm_of_the_paper(real):
    cfg = tiny(iterations=1)
    made = mtt.distill(real, cfg, seed=0)
    found, rng = trajectories.train_experts(real, cfg.experts), stream(0, "MTT")
    synthetic = real.initial_images(cfg.ipc, cfg.init, rng).flatten(0, 1)
    network = networks.fresh("ConvNetD2W8", real, rng).double()
    expert = torch.randperm(2, generator=rng)[-1].item()
    epoch = torch.randint(2, (), generator=rng).item()
    start, target = (x.double() for x in found.snapshots(expert, epoch, epoch + 1))
    batches = trajectories.draw_batches(10, 6, 2, rng)
    aug = augment.dsa("color_crop")
    draws = [aug.draw(rng, images=len(index)) for index in batches]
    step_size = torch.tensor(0.001, dtype=torch.float64)
    _, by_images, by_step_size = unrolled(
        network, start, target, synthetic.double(), torch.arange(10), step_size, batches, draws, aug
    )
    torch.testing.assert_close(made.images, (synthetic - 100 * by_images).float(), rtol=1e-3, atol=1e-4)
    assert made.facts.extra["lr_net"] == pytest.approx(0.001 - 1e-3 * by_step_size.item(), rel=1e-3)


def test_a_whitened_set_travels_with_its_whitening(real, tmp_path):
    made = mtt.distill(real, tiny(experts=few(zca=True)), seed=0)
    back = ImageSet.load(made.save(tmp_path / "set.safetensors"))
    assert back.whitening.equals(made.whitening) and back.facts.extra["lr_net"] == made.facts.extra["lr_net"]


def test_killing_it_anywhere_changes_nothing(real, tmp_path, monkeypatch):
    whole = mtt.distill(real, tiny(), seed=0)
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "again"))
    resumed, stops = in_steps(lambda loop: mtt.distill(real, tiny(), seed=0, loop=loop), tmp_path / "ckpt")
    assert stops == 5 + 5 + 2 and torch.equal(whole.images, resumed.images)
    assert whole.facts.extra == resumed.facts.extra


def test_a_step_size_that_explodes_stops_the_run(real, tmp_path):
    with pytest.raises(Diverged, match="loss = nan|loss = inf|step_size"):
        mtt.distill(real, tiny(iterations=60, lr_lr=1e30), seed=0, loop=Loop(tmp_path, check=1))


def test_epochs_the_experts_do_not_have_are_an_error(real):
    with pytest.raises(
        UserError, match="experts have 2 epochs.*max_start_epoch - 1 \\+ expert_epochs must be at most 2"
    ):
        mtt.distill(real, tiny(max_start_epoch=3), seed=0)
    with pytest.raises(UserError, match="batch_syn.*greater than or equal to 1"):
        tiny(batch_syn=0)
    with pytest.raises(UserError, match="syn_steps.*greater than or equal to 1"):
        mtt.distill(real, tiny(syn_steps=0), seed=0)


def test_published_settings():
    cfg = mtt.paper_config("CIFAR10", 10)
    assert (cfg.syn_steps, cfg.expert_epochs, cfg.max_start_epoch, cfg.batch_syn) == (30, 2, 20, None)
    assert (cfg.lr_img, cfg.lr_lr, cfg.lr_teacher, cfg.momentum_img, cfg.iterations) == (100.0, 1e-5, 0.001, 0.5, 5001)
    assert (cfg.experts.count, cfg.experts.epochs, cfg.experts.lr, cfg.experts.batch, cfg.experts.zca) == (
        100,
        50,
        0.01,
        256,
        True,
    )
    assert (
        cfg.source == "published"
        and mtt.paper_config("CIFAR10", 50).lr_img == 1000
        and not mtt.paper_config("CIFAR10", 50).experts.zca
    )
    assert mtt.paper_config("CIFAR10", 1).lr_lr == 1e-7 and mtt.paper_config("CIFAR100", 50).batch_syn == 125
    for name, strategy in (
        ("MNIST", "color_crop_cutout_scale_rotate"),
        ("FashionMNIST", "color_crop_cutout_flip_scale_rotate"),
    ):
        cfg = mtt.paper_config(name, 1)
        assert cfg.source == "reconstruction: CIFAR10, ipc 10, without whitening"
        assert not cfg.experts.zca and cfg.experts.dsa == strategy and cfg.syn_steps == 30 and cfg.lr_teacher == 0.001
    assert mtt.paper_config("ImageWoof", 1).source == "published" and mtt.paper_config("ImageWoof", 1).lr_lr == 1e-6
    for name in ("ImNet-A", "ImageNet-100", "SLFD-50"):
        assert (
            mtt.paper_config(name, 1).source == "reconstruction: ImageNet subsets, ipc 1"
            and mtt.paper_config(name, 1).lr_img == 1000
        )
    assert mtt.paper_config("ImageWoof", 10).source == "reconstruction: ImageNet subsets, ipc 1"
    assert mtt.paper_config("CIFAR10", 2).source == "reconstruction: CIFAR10, ipc 1"
    assert from_dict(mtt.Config, as_dict(cfg)) == cfg
