"""CAFE: the losses and their image gradient against the official joint pass, the rules of stopping by hand."""

from dataclasses import replace

import pytest
import torch
from cafe import plain  # the official joint pass

from distill_lib import networks
from distill_lib.core.device import Pieces
from distill_lib.core.errors import UserError
from distill_lib.core.loop import Diverged, Loop
from distill_lib.core.rng import stream
from distill_lib.methods import cafe

K, N, M = 3, 6, 2
WEIGHTS = [0.1, 0.1, 1.0, 1.0, 1.0]


def batches(seed=0, shape=(1, 28, 28)):
    rng = stream(seed, "cafe test")
    return torch.randn(K, N, *shape, generator=rng), torch.randn(K, M, *shape, generator=rng)


def network(shape=(1, 28, 28), name="ConvNetW32"):
    return networks.fresh(name, (shape, K), stream(0, "net")).requires_grad_(False)


@pytest.mark.parametrize(("images", "classes"), [(N, K), (4, K), (1, 2), (N, 1)])
def test_loss_and_image_gradient_equal_the_joint_pass_in_pieces_of_any_size(images, classes):
    net, (real, synthetic), cfg = network(), batches(), cafe.Config(ipc=M)
    loss, gradient = cafe.image_gradient(net, real, synthetic, WEIGHTS, cfg, Pieces(images), Pieces(classes))
    slow_loss, slow_gradient = plain(net.double(), real.double(), synthetic.double(), cfg)
    assert abs(loss - slow_loss) < 1e-5 * slow_loss
    assert (gradient - slow_gradient).norm() < 1e-4 * slow_gradient.norm()


def test_running_out_of_memory_gives_the_same_gradient(monkeypatch):
    net, (real, synthetic), cfg = network(), batches(), cafe.Config(ipc=M)
    whole = cafe.image_gradient(net, real, synthetic, WEIGHTS, cfg)
    maps_of = cafe.feature_maps(net, cfg)

    def narrow(x):
        if len(x) > 3:
            raise torch.OutOfMemoryError("not enough")
        return maps_of(x)

    monkeypatch.setattr(cafe, "feature_maps", lambda *args: narrow)
    with pytest.warns(UserWarning, match="out of memory"):
        parts = cafe.image_gradient(net, real, synthetic, WEIGHTS, cfg)
    assert torch.allclose(whole[0], parts[0], rtol=1e-5) and (whole[1] - parts[1]).norm() < 1e-4 * whole[1].norm()


def test_bfloat16_stays_within_its_stated_error():
    net, (real, synthetic), cfg = network(), batches(), cafe.Config(ipc=M)
    _, exact = cafe.image_gradient(net, real, synthetic, WEIGHTS, cfg)
    _, coarse = cafe.image_gradient(net, real, synthetic, WEIGHTS, replace(cfg, precision="bfloat16"))
    assert 0 < (coarse - exact).norm() < 0.1 * exact.norm()


def test_the_maps_of_the_published_network():
    maps = networks.fresh("ConvNet", ((3, 32, 32), 10), stream(0)).taps(torch.zeros(1, 3, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [(128, 32, 32), (128, 16, 16), (128, 8, 8), (128, 4, 4)]


def test_weights_for_the_published_depth_and_for_others():
    cfg = cafe.Config()
    assert cafe.layer_weights(network((3, 32, 32), "ConvNet"), cfg) == [0.1, 0.1, 1.0, 1.0, 1.0]
    assert cafe.layer_weights(network((3, 64, 64), "ConvNetW32"), cfg) == [0.1, 0.1, 0.1, 1.0, 1.0, 1.0]
    assert cafe.layer_weights(network((1, 8, 8), "ConvNetW32"), cfg) == [0.1, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "message"), [("AlexNet", "AlexNet is none"), ("ConvNetBN", "batch norm couples the classes")]
)
def test_networks_it_cannot_use_are_named(name, message):
    with pytest.raises(UserError, match=message):
        cafe.layer_weights(network((3, 32, 32), name), cafe.Config(network=name))


def test_the_embedding_repeats_the_last_map():
    net, (real, synthetic) = network(), batches()
    ours, theirs = cafe.class_means(net.taps, synthetic)[0], cafe.class_means(net.taps, real)[0]
    alone = [cafe.feature_loss(theirs, ours, w) for w in ([0, 0, 0, 1.0, 0], [0, 0, 0, 0, 1.0], [0, 0, 0, 1.0, 1.0])]
    dm = sum((net.embed(real[k]).mean(0) - net.embed(synthetic[k]).mean(0)).square().sum() for k in range(K))
    assert torch.allclose(alone[0], alone[1]) and torch.allclose(alone[2], 2 * dm, rtol=1e-4)


def test_equal_batches_have_no_feature_loss_and_classify_themselves():
    net, (real, _) = network(), batches()
    means, embedded = cafe.class_means(net.taps, real)
    assert cafe.feature_loss(means, means, WEIGHTS) == 0
    logits = torch.stack([embedded[k] @ means[-1].T for k in range(K)])
    by_hand = sum(torch.logsumexp(logits[k, i], 0) - logits[k, i, k] for k in range(K) for i in range(N))
    assert torch.allclose(cafe.discrimination_loss(embedded, means[-1]), by_hand, rtol=1e-3)


def test_a_watched_constant_leaks_a_tenth_in_the_official_code_and_none_when_fixed():
    for watcher, expected in (("official", [0.5, 0.55, 0.555]), ("fixed", [0.5, 0.5, 0.5])):
        watch = cafe.Watcher(cafe.Config(watcher=watcher), num_classes=10)
        for _ in range(3):
            watch.note(0.5)
        assert list(watch.held) == pytest.approx(expected) and watch.accuracy == 0.5


def test_the_window_decides_when_full_and_forgets_the_oldest():
    watch = cafe.Watcher(cafe.Config(watcher="fixed", window=3), 10)
    for accuracy, spread in ((0.1, None), (0.2, None), (0.4, 0.3), (0.3, 0.2), (0.35, 0.1)):
        watch.note(accuracy)
        assert watch.spread == (None if spread is None else pytest.approx(spread))


def test_with_the_leak_training_ends_at_once_when_the_window_is_full():
    """The first value watched is 0.11 a too low, so accuracies above 0.27 always "moved" by more than 0.03."""
    watch = cafe.Watcher(cafe.Config(), 10)
    for _ in range(10):
        watch.note(0.28)
    assert watch.spread > 0.03
    watch.note(0.28)
    assert watch.spread < 0.03


TINY = cafe.Config(
    ipc=1, iterations=1, network="ConvNetW32", batch_real=4, batch_query=2, window=3, max_updates=5, max_epochs=4
)


@pytest.mark.parametrize(
    ("settled", "moved", "updates", "epochs"),
    [(1.0, -1.0, 3, 3), (-1.0, -1.0, 5, 3), (-1.0, 1.0, 5, 4)],
    ids=["both rules at once", "updates end at their cap", "epochs end at theirs"],
)
def test_both_loops_end_by_rule_or_by_cap(real, monkeypatch, settled, moved, updates, epochs):
    calls = []

    def counted(name, function):
        return lambda *args, **options: calls.append(name) or function(*args, **options)

    monkeypatch.setattr(cafe, "image_gradient", counted("update", cafe.image_gradient))
    monkeypatch.setattr(cafe.matching, "train_epoch", counted("epoch", cafe.matching.train_epoch))
    cafe.distill(real, replace(TINY, settled=settled, moved=moved), seed=0)
    # the last update is not followed by training
    assert (calls.count("update"), calls.count("epoch")) == (updates, (updates - 1) * epochs)


def test_a_window_that_a_cap_does_not_let_fill_is_refused(real):
    with pytest.raises(UserError, match="window 3: max_updates 2 and max_epochs 4 must not be below it"):
        cafe.distill(real, replace(TINY, max_updates=2), seed=0)


def test_step_sizes():
    steps = {0: 0.1, 1199: 0.1, 1200: 0.05, 1600: 0.025, 1800: 0.0125, 2000: 0.0125}
    assert {i: cafe.step_size(cafe.Config(), i) for i in steps} == steps


def test_the_published_settings():
    assert cafe.paper_config("CIFAR10", 10) == cafe.Config(ipc=10, dsa="color_crop_cutout_flip_scale_rotate")
    assert cafe.paper_config("MNIST", 1).dsa == "none" and "flip" not in cafe.paper_config("MNIST", 10).dsa
    small = cafe.Config().small()
    assert small.discrimination * small.batch_real == pytest.approx(0.01 * 256)  # the sum over images keeps its weight


def test_distilling_lowers_the_loss_it_minimises(real):
    cfg = replace(TINY, iterations=12, batch_real=16, max_updates=3, max_epochs=3)
    net = networks.fresh(cfg.network, real, stream(7)).requires_grad_(False)
    target = real.draw_classes(50, stream(8))
    weights = cafe.layer_weights(net, cfg)
    start = real.initial_images(cfg.ipc, cfg.init, stream(0, "CAFE"))
    end = cafe.distill(real, cfg, seed=0).images.unflatten(0, (real.num_classes, 1))
    loss = [cafe.image_gradient(net, target, x, weights, cfg)[0] for x in (start, end)]
    assert loss[1] < 0.8 * loss[0]


@pytest.mark.parametrize(
    "field", ["ipc", "batch_real", "batch_train", "batch_query", "window", "max_updates", "max_epochs"]
)
def test_none_of_something_is_a_clear_error(field):
    with pytest.raises(UserError, match=rf"bad Config: {field}: .*greater than or equal to 1 \(got 0\)"):
        replace(TINY, **{field: 0})


def test_a_loss_that_explodes_stops_the_run(real):
    with pytest.raises(Diverged, match="loss = (nan|inf)"):
        cafe.distill(real, replace(TINY, lr_img=1e30, max_updates=3), seed=0, loop=Loop(check=1))
