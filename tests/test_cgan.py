"""The conditional GAN: DiM's networks to the parameter, its losses by hand, trained once, and a set that draws from
it."""

import copy
import json

import pytest
import torch
from steps import in_steps
from torch.nn import functional as F

from distill_lib import data
from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.core.settings import as_dict, replace
from distill_lib.data import Whitening
from distill_lib.evaluation import evaluate
from distill_lib.generators import cgan
from distill_lib.generators.cgan import GAN, Architecture, Discriminator, Generator, Pair
from distill_lib.generators.generated import GeneratedSet

pytestmark = pytest.mark.usefixtures("runs")
GREY28, RGB32 = Architecture((1, 28, 28), 10), Architecture((3, 32, 32), 10)
TINY = replace(GAN().smoke(), width=8, batch=8, per_epoch=48, looks=2, samples=40, gp_every=1)


def narrow(shape=(1, 28, 28), **changes):
    return cgan.redraw(Generator(replace(Architecture(shape, 10, width=8), **changes)), stream(0, "weights"))


# --- networks ---
@pytest.mark.parametrize(
    "of, generator, discriminator", [(RGB32, 3_559_363, 3_137_971), (GREY28, 3_286_921, 2_969_803)]
)
def test_the_networks_have_the_parameters_of_the_published_code(of, generator, discriminator):
    with torch.device("meta"):
        counts = [sum(p.numel() for p in network.parameters()) for network in (Generator(of), Discriminator(of))]
    assert counts == [generator, discriminator]


@pytest.mark.parametrize(
    "side, sides", [(28, [4, 7, 14, 28]), (32, [4, 8, 16, 32]), (8, [4, 8]), (64, [4, 8, 16, 32, 64])]
)
def test_every_map_has_the_side_it_should(side, sides):
    generator, seen = narrow((3, side, side)), [4]
    for layer in generator.body:
        if isinstance(layer, torch.nn.ConvTranspose2d):
            layer.register_forward_hook(lambda m, i, out: seen.append(out.shape[-1]))
    images = generator(generator.noise(4, stream(0)), torch.arange(4))
    assert seen == sides and images.shape == (4, 3, side, side) and images.abs().max() < 1
    scores, classes = Discriminator(generator.arch)(images)
    assert scores.shape == (4,) and classes.shape == (4, 10)


@pytest.mark.parametrize("label, inputs", [("overwrite", 100), ("concatenate", 110)])
def test_the_first_entries_of_the_input_are_the_label(label, inputs):
    generator, seen = narrow(label=label), []
    generator.first[0].register_forward_hook(lambda m, i, out: seen.append(i[0]))
    noise = generator.noise(10, stream(0))
    generator(noise, torch.arange(10))
    assert seen[0].shape == (10, inputs)
    assert torch.equal(seen[0][:, :10], torch.eye(10))
    assert torch.equal(seen[0][:, 10:], noise[:, 10:] if label == "overwrite" else noise)


def test_images_of_one_class_differ_and_do_not_depend_on_their_batch():
    generator = narrow()
    labels = torch.full((300,), 3)
    images = generator.draw(labels, stream(0))
    assert all(not torch.equal(images[0], other) for other in images[1:5])
    with torch.no_grad():
        alone = generator.eval()(generator.noise(300, stream(0))[270:272], labels[:2])
    assert torch.allclose(alone, images[270:272], atol=1e-5)
    assert not torch.allclose(images[:1], generator.draw(labels[:1] + 1, stream(0)), atol=1e-6)  # the class matters


def test_weights_come_from_the_given_generator_alone(real):
    before = torch.random.get_rng_state()
    first, again, other = (Pair(TINY, real, stream(seed)) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b, c in zip(
        first.generator.parameters(), again.generator.parameters(), other.generator.parameters(), strict=True
    ):
        assert torch.equal(a, b) and (a.ndim == 1 or not torch.equal(a, c))
    deconvolution = first.generator.body[0]
    assert (
        deconvolution.weight.abs().max() <= (8 * 16) ** -0.5
        and deconvolution.weight.abs().max() > 0.9 * (8 * 16) ** -0.5
    )


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"shape": (3, 48, 48)}, "48 x 48 pixels; works for squares of 8, 16, 28, 32, 64"),
        ({"shape": (3, 32, 28)}, "32 x 28"),
        ({"noise": 10}, "label='concatenate'"),
        ({"width": 0}, "at least 1"),
    ],
)
def test_shapes_no_network_fits_are_one_clear_error(changes, words):
    with pytest.raises(UserError, match=words):
        Generator(replace(GREY28, **changes))


def test_images_map_to_the_units_of_the_set_and_back(real):
    index = torch.arange(6)
    assert torch.allclose(cgan.normalised(real.signed(index), real), real.take(index)[0], atol=1e-6)
    ends = cgan.normalised(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1), real).flatten()
    assert torch.allclose(ends, torch.tensor([-real.facts.mean[0], 1 - real.facts.mean[0]]) / real.facts.std[0])


# --- losses ---
SCORES, CLASSES, LABELS = torch.tensor([1.0, -2.0]), torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1])
CE = (torch.log1p(torch.exp(torch.tensor(-2.0))) + torch.log(torch.tensor(2.0))) / 2


def test_the_wasserstein_losses_by_hand():
    assert torch.isclose(cgan.generator_loss("acwgan_gp", SCORES, CLASSES, LABELS), 0.5 + CE)
    real, fake = (SCORES, CLASSES, LABELS), (SCORES + 3, CLASSES.flip(1), LABELS)
    swapped = (torch.log1p(torch.exp(torch.tensor(2.0))) + torch.log(torch.tensor(2.0))) / 2
    assert torch.isclose(cgan.discriminator_loss("acwgan_gp", real, fake), 3 + CE + swapped)


def test_the_log_losses_by_hand():
    d = torch.sigmoid(torch.tensor([1.0 + 2.0, -2.0 + 1.0]))  # score plus the label's class logit
    assert torch.isclose(cgan.generator_loss("vanilla", SCORES, CLASSES, LABELS), -d.log().mean())
    value = d.log().mean() + (1 - d).log().mean()  # equation 1 of SKD, with the same images on both sides
    assert torch.isclose(
        cgan.discriminator_loss("vanilla", (SCORES, CLASSES, LABELS), (SCORES, CLASSES, LABELS)), -value
    )


@pytest.mark.parametrize("norm, penalty", [(1.0, 0.0), (3.0, 4.0), (0.0, 1.0)])
def test_the_gradient_penalty_of_a_linear_critic_is_its_norms_distance_from_one(norm, penalty):
    direction = F.normalize(torch.randn(2 * 4 * 4, generator=stream(0)), dim=0) * norm
    real, fake = (torch.randn(5, 2, 4, 4, generator=stream(i)) for i in (1, 2))
    got = cgan.gradient_penalty(
        lambda x: (x.flatten(1) @ direction, None), real, fake, torch.rand(5, generator=stream(3))
    )
    assert torch.isclose(got, torch.tensor(penalty), atol=1e-4)


def test_the_penalty_looks_at_points_between_each_pair():
    seen = []
    real, fake, alpha = torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), torch.tensor([0.25, 1.0])
    cgan.gradient_penalty(lambda x: (seen.append(x) or x.flatten(), None), real, fake, alpha)
    assert torch.equal(seen[0].flatten(), alpha)  # alpha of the real image


@pytest.mark.parametrize("loss", ["acwgan_gp", "vanilla"])
def test_a_step_equals_the_plain_one(real, loss):
    """Against the same algorithm written out: real and generated images apart, no network shared between the two
    halves."""
    of = replace(TINY, loss=loss, gp_every=2)
    pair, plain = Pair(of, real, stream(0)), Pair(of, real, stream(0))
    for p in (pair, plain):  # Adam turns gradients of rounding size into whole steps
        p.optimizers = [torch.optim.SGD(m.parameters(), lr=0.01) for m in p.modules]
    g, d = plain.generator, plain.discriminator
    by_g, by_d = plain.optimizers
    rng, rng_plain = stream(1), stream(1)
    for n in range(3):
        x, y = real.signed(torch.arange(8) + 8 * n), real.hard_labels[8 * n : 8 * n + 8]
        log = pair.step(x, y, rng)

        score, classes = d(g(torch.randn(8, 100, generator=rng_plain), y))
        if loss == "acwgan_gp":
            loss_g = -score.mean() + F.cross_entropy(classes, y)
        else:
            loss_g = -torch.sigmoid(score + classes[range(8), y]).log().mean()
        by_g.zero_grad()
        loss_g.backward()
        by_g.step()
        labels = torch.randint(10, (8,), generator=rng_plain)
        fake = g(torch.randn(8, 100, generator=rng_plain), labels).detach()
        (score_real, classes_real), (score_fake, classes_fake) = d(x), d(fake)
        if loss == "acwgan_gp":
            loss_d = (
                score_fake.mean()
                - score_real.mean()
                + F.cross_entropy(classes_fake, labels)
                + F.cross_entropy(classes_real, y)
            )
            alpha = torch.rand(8, generator=rng_plain).view(8, 1, 1, 1)
            if n % 2 == 0:
                middle = (alpha * x + (1 - alpha) * fake).requires_grad_()
                gradient = torch.autograd.grad(d(middle)[0].sum(), middle, create_graph=True)[0]
                loss_d = loss_d + 2 * 10 * (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        else:
            on_real, on_fake = (
                torch.sigmoid(s + c[range(8), k])
                for s, c, k in ((score_real, classes_real, y), (score_fake, classes_fake, labels))
            )
            loss_d = -on_real.log().mean() - (1 - on_fake).log().mean()
        by_d.zero_grad()
        loss_d.backward()
        by_d.step()
        assert torch.isclose(log["loss_generator"], loss_g, atol=1e-4)
        assert ("gradient_penalty" in log) == (loss == "acwgan_gp" and n % 2 == 0)
    for ours, theirs in zip(
        (*pair.generator.parameters(), *pair.discriminator.parameters()),
        (*g.parameters(), *d.parameters()),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


def test_gradients_in_bfloat16_are_those_in_float32_but_for_rounding():
    """Also the penalty's, which is a derivative of a derivative. Where the score's gradient has a norm near one, the
    penalty is near zero and its rounding errors are large beside it; here it is 1.13."""
    of = replace(RGB32, width=32)
    g, d = cgan.redraw(Generator(of), stream(0)), cgan.redraw(Discriminator(of), stream(0))
    x, fake = (2 * torch.rand(16, 3, 32, 32, generator=stream(i)) - 1 for i in (1, 2))
    y, noise, alpha = torch.arange(16) % 10, g.noise(16, stream(3)), torch.rand(16, generator=stream(4))
    found = []
    for g.precision in ("float32", "bfloat16"):
        d.precision = g.precision
        images = g(noise, y)
        assert images.dtype == d(images)[0].dtype == torch.float32
        loss = cgan.generator_loss("acwgan_gp", *d(images), y)
        penalty = cgan.gradient_penalty(d, x, fake, alpha)
        by_penalty = torch.autograd.grad(penalty, [p for p in d.body.parameters() if p.dim() > 1])
        found.append((flat(torch.autograd.grad(loss, list(g.parameters()))), flat(by_penalty)))
    # an untrained generator's maps hardly differ, and batch norm enlarges what they differ by, rounding included
    for exact, rounded, least in zip(*found, (0.9, 0.98), strict=True):
        assert not torch.equal(exact, rounded)
        assert torch.cosine_similarity(exact, rounded, dim=0) > least
        assert 0.95 < rounded.norm() / exact.norm() < 1.05


def test_layer_norm_in_channels_last_order_is_the_same_layer_norm():
    norm, x = cgan.network.LayerNorm([3, 4, 5]), torch.randn(2, 3, 4, 5, generator=stream(0))
    with torch.no_grad():
        norm.weight.copy_(torch.randn(3, 4, 5, generator=stream(1)))
        norm.bias.copy_(torch.randn(3, 4, 5, generator=stream(2)))
    last = norm(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last) and not last.is_contiguous()
    assert torch.allclose(norm(x), last, atol=1e-6)


def test_settings_at_their_first_default_keep_the_key_of_earlier_gans():
    assert (
        "precision" not in as_dict(GAN()) and as_dict(replace(GAN(), precision="bfloat16"))["precision"] == "bfloat16"
    )


# --- training once ---
def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_gan_is_trained_once_and_an_interrupted_training_ends_in_the_same_bits(real, runs, tmp_path, monkeypatch):
    whole = cgan.train(real, TINY)
    written = whole.file.stat().st_mtime_ns
    assert cgan.train(real, TINY).file.stat().st_mtime_ns == written
    assert len(whole.health) == 2 and [h["step"] for h in whole.health] == [3, 6]
    assert all(
        0 <= h["class_accuracy_pct"] <= 100 and h["frechet_distance"] > 0 and "gradient_penalty" in h
        for h in whole.health
    )
    body = json.loads((whole.folder / "settings.json").read_text())
    assert body["settings"]["width"] == 8 and body["dataset"] == "digits" and body["architecture"]["shape"] == [1, 8, 8]
    assert "ConvNetW32" in json.loads((whole.folder / "health.json").read_text())["feature_space"]
    assert cgan.train(real, replace(TINY, lr=2e-3)).folder != whole.folder

    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "again"))
    resumed, stops = in_steps(lambda loop: cgan.train(real, TINY, loop), tmp_path / "ckpt")
    assert stops >= 5
    assert same(resumed.pair().tensors(), whole.pair().tensors())
    assert [dict(h.items()) for h in resumed.health] == whole.health
    assert not list((tmp_path / "ckpt").glob("conditional_gan*"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_pair_read_back_goes_on_as_the_one_that_was_written(real, precision):
    of = replace(TINY, precision=precision)
    pair = Pair(of, real, stream(0))
    x, y = real.signed(torch.arange(8)), real.hard_labels[:8]
    pair.step(x, y, stream(1))
    back = Pair(of, real).read(pair.tensors())
    for p in (pair, back):
        p.step(x, y, stream(2))
    assert same(pair.tensors(), back.tensors()) and back.steps == [2]


def test_a_damaged_gan_is_one_clear_error(real):
    trained = cgan.train(real, TINY)
    trained.file.write_bytes(trained.file.read_bytes()[:2000])
    with pytest.raises(UserError, match="gan.safetensors: damaged .*delete it to train the GAN again"):
        trained.pair()


def test_settings_and_sets_no_gan_fits_are_one_clear_error(real):
    with pytest.raises(UserError, match="0 epochs of 48 images in batches of 8"):
        cgan.train(real, replace(TINY, epochs=0))
    with pytest.raises(UserError, match="a batch of 2 to 48"):
        cgan.train(real, replace(TINY, batch=64))
    whitening = Whitening(torch.zeros(64), torch.eye(64))
    with pytest.raises(UserError, match="without whitening"):
        cgan.train(real.under(whitening), TINY)


# --- a set that draws ---
@pytest.fixture
def drawn(real):
    return GeneratedSet.made("CGAN", real, narrow((1, 8, 8)), ipc=3, seed=5)


def test_a_set_draws_new_images_every_epoch_from_the_stream_it_is_given(drawn):
    first, again, other = (drawn.epoch(stream(i)) for i in (0, 0, 1))
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    assert not torch.equal(first.images, drawn.images)
    assert torch.bincount(first.labels).tolist() == [3] * 10 and first.facts == drawn.facts
    assert first.pixels().min() >= 0 and first.pixels().max() <= 1
    restored = (first.images * first.facts.std[0] + first.facts.mean[0]) * 2 - 1
    assert restored.abs().max() <= 1 + 1e-5  # the generator's range, in normalised units


def test_a_generated_set_is_one_file_that_needs_no_other(drawn, tmp_path):
    file = drawn.save(tmp_path / "set.safetensors")
    back = data.ImageSet.load(file)
    assert isinstance(back, GeneratedSet) and back.facts == drawn.facts and back.ipc == 3
    assert torch.equal(back.images, drawn.images) and torch.equal(
        back.epoch(stream(1)).images, drawn.epoch(stream(1)).images
    )
    numbers = sum(t.nbytes for t in narrow((1, 8, 8)).state_dict().values())
    assert back.nbytes == drawn.nbytes == numbers and abs(file.stat().st_size - numbers) < 10_000


def test_a_damaged_generator_file_is_one_clear_error(drawn, tmp_path):
    file = drawn.save(tmp_path / "set.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="set.safetensors: cannot be read as an ImageSet"):
        data.ImageSet.load(file)
    data.load("digits")[0].save(file)
    with pytest.raises(UserError, match="not a generator"):
        GeneratedSet.load(file)


def test_evaluation_draws_without_limit_or_one_fixed_set_and_counts_what_is_stored(drawn):
    test = data.load("digits")[1]
    before = copy.deepcopy(drawn.generator.state_dict())
    unlimited = evaluate(drawn, test, "dim@4ep", "ConvNetW32", num_eval=1)
    fixed = evaluate(drawn, test, "dim_fixed@4ep", "ConvNetW32", num_eval=1)
    assert unlimited.images_seen == fixed.images_seen == 4 * 30
    assert unlimited.bytes == {"generator": drawn.nbytes}
    assert fixed.bytes == {"images": 30 * 64 * 4, "labels": 30 * 8}
    assert unlimited.metrics["train_loss"] != fixed.metrics["train_loss"]
    assert same(before, drawn.generator.state_dict())


def test_sets_that_make_no_sense_are_one_clear_error(real):
    with pytest.raises(UserError, match="ipc 0: at least 1"):
        GeneratedSet.made("CGAN", real, narrow((1, 8, 8)), ipc=0, seed=0)
    with pytest.raises(UserError, match="has 10 classes, the generator 7"):
        GeneratedSet.made("CGAN", real, Generator(Architecture((1, 8, 8), 7, width=8)), ipc=1, seed=0)


def test_a_set_read_from_its_file_draws_as_the_set_that_was_made(tmp_path):
    real = data.load("digits")[0]
    gan = cgan.redraw(Generator(Architecture(real.shape, 10, width=8)), stream(0, "weights"))
    gan.precision = "bfloat16"
    made = GeneratedSet.made("CGAN", real, gan, 2, seed=0)
    back = GeneratedSet.load(made.save(tmp_path / "set.safetensors"))
    assert torch.equal(back.images, made.images)
    assert torch.equal(back.epoch(stream(1)).images, made.epoch(stream(1)).images)
