"""Scores of samples: closed forms, plain loops against every fast path, and what a reader concludes from the
numbers."""

import dataclasses
import hashlib
import itertools

import pytest
import torch
from fid import PlainResNet
from torch import nn
from torch.nn import functional as F

from distill_lib import data
from distill_lib.core import paths, weights
from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.data import ImageSet
from distill_lib.evaluation.metrics import features, generative, neighbours, pretrained
from distill_lib.evaluation.metrics.frechet import frechet_distance, moments
from distill_lib.evaluation.metrics.generative import Judge, Scores, kernel_distance, memorisation
from distill_lib.networks.reference import Training


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No weights are at hand, and nothing is kept."""
    monkeypatch.setenv("DISTILL_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(paths, "data_folders", list)
    (tmp_path / "weights").mkdir()
    return tmp_path


def published(name):
    if weights.find(name) is None:
        pytest.skip(f"the weights of {name} are not here: name their folder in DISTILL_WEIGHTS")
    return weights.find(name)


# --- Fréchet and kernel distance ------------------------------------------------------------------
@pytest.mark.parametrize(
    "first, second, expected",
    [
        (([0, 0], [[1, 0], [0, 1]]), ([1, 2], [[4, 0], [0, 4]]), 7.0),
        (([0, 0], [[2, 0.5], [0.5, 1]]), ([0, 0], [[1, -0.2], [-0.2, 3]]), 0.88381731),
        (([3, 1], [[2, 0.5], [0.5, 1]]), ([3, 1], [[2, 0.5], [0.5, 1]]), 0.0),
        (([0, 0], [[1, 0], [0, 0]]), ([0, 0], [[0, 0], [0, 1]]), 2.0),
    ],
)
def test_frechet_distance_in_closed_form(first, second, expected):
    pair = [tuple(torch.tensor(t, dtype=torch.float64) for t in side) for side in (first, second)]
    assert frechet_distance(*pair) == pytest.approx(expected, abs=1e-6)
    assert frechet_distance(*reversed(pair)) == pytest.approx(expected, abs=1e-6)


def test_moments_are_right_even_far_from_zero():
    x = (normal(50, 3).double() * torch.tensor([1.0, 2.0, 5.0]) + 1e6).float()
    whole = x.double()
    mean, covariance = moments(x)
    torch.testing.assert_close(mean, whole.mean(0), rtol=1e-14, atol=0)
    gaps = whole - whole.mean(0)
    torch.testing.assert_close(covariance, gaps.T @ gaps / 49, rtol=1e-9, atol=1e-9)
    assert moments(x[:, :1])[1].shape == (1, 1)


def test_distances_are_those_of_torchmetrics_and_of_a_plain_loop():
    real, fake = normal(60, 4), normal(40, 4, seed=1) * 1.5 + 0.3
    from torchmetrics.image.fid import FrechetInceptionDistance

    space = nn.Identity()
    space.num_features = 4
    reference = FrechetInceptionDistance(space).set_dtype(torch.float64)
    reference.update(real.double(), real=True)
    reference.update(fake.double(), real=False)
    assert frechet_distance(moments(real), moments(fake)) == pytest.approx(float(reference.compute()), rel=1e-6)

    def kernel(a, b):
        return (float(a @ b) / 4 + 1) ** 3

    x, y = real[:40], fake
    n = 40
    own = sum(kernel(s[i], s[j]) for s in (x, y) for i, j in itertools.permutations(range(n), 2)) / (n * (n - 1))
    expected = own - 2 * sum(kernel(a, b) for a in x for b in y) / n**2
    before = torch.get_rng_state()
    mean, std = kernel_distance(x, y, size=40, subsets=3)
    assert mean == pytest.approx(expected, rel=1e-4) and std == pytest.approx(0, abs=1e-4)
    assert (
        kernel_distance(real, fake, 20, seed=1)
        == kernel_distance(real, fake, 20, seed=1)
        != kernel_distance(real, fake, 20, seed=2)
    )
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(UserError, match="subsets of 41 from 60 real and 40 generated"):
        kernel_distance(real, fake, 41)


# --- neighbours -----------------------------------------------------------------------------------
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("tile", [2**24, 64])
def test_nearest_is_what_a_plain_search_finds(own, tile, monkeypatch):
    monkeypatch.setattr(neighbours, "TILE", tile)
    among = normal(700, 2, 3) + 5
    queries = among if own else torch.cat([normal(30, 2, 3, seed=1) + 5, among[[4, 650]]])
    distances, index = neighbours.nearest(queries, among, 3, own=own)
    gaps = (queries.flatten(1).double()[:, None] - among.flatten(1).double()[None]).norm(dim=2)
    if own:
        gaps.fill_diagonal_(torch.inf)
    expected = gaps.sort(1)
    torch.testing.assert_close(distances.double(), expected.values[:, :3], rtol=1e-5, atol=1e-6)
    assert torch.equal(index, expected.indices[:, :3])
    if not own:
        assert distances[-2:, 0].tolist() == [0, 0] and index[-2:, 0].tolist() == [4, 650]


def test_nearest_takes_pixels_and_names_what_it_cannot_do():
    real = torch.randint(256, (20, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    near = real[[7]].clone()
    near[0, 0, 0, 0] ^= 1
    distance, index = neighbours.nearest(near, real)
    assert index.item() == 7 and distance.item() == pytest.approx(1 / 255)
    with pytest.raises(UserError, match="3 nearest neighbours among 2"):
        neighbours.nearest(real[:3], real[:3], 3, own=True)


def test_overlap_of_two_sets_by_hand():
    real, fake = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [2.9], [9.0], [9.5]])
    # reach of the real points: 1, 1, 2; of the samples: 2.4, 2.4, 0.5, 0.5
    found = neighbours.support_scores(real, fake, k=1)
    assert found == {"precision": 2 / 4, "density": (2 + 1) / 4, "coverage": 3 / 3, "recall": 3 / 3}
    same = neighbours.support_scores(real, real, k=1)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1) and same["density"] > 1
    apart = neighbours.support_scores(real, real + 100, k=1)
    assert set(apart.values()) == {0}
    with pytest.raises(UserError, match="of one space"):
        neighbours.support_scores(real, torch.zeros(4, 2))


@pytest.mark.parametrize("tile", [2**24, 300])
def test_overlap_is_what_plain_loops_find(tile, monkeypatch):
    monkeypatch.setattr(neighbours, "TILE", tile)
    real, fake, k = normal(40, 5), normal(30, 5, seed=1) * 0.7 + 1.2, 3
    reach = [sorted((a - b).norm() for b in s)[k] for s in (real, fake) for a in s]
    in_real = [[bool((f - r).norm() <= reach[i]) for i, r in enumerate(real)] for f in fake]
    in_fake = [[bool((f - r).norm() <= reach[40 + j]) for j, f in enumerate(fake)] for r in real]
    found = neighbours.support_scores(real, fake, k)
    assert found["precision"] == pytest.approx(sum(map(any, in_real)) / 30)
    assert found["density"] == pytest.approx(sum(map(sum, in_real)) / 30 / k)
    assert found["coverage"] == pytest.approx(sum(map(any, zip(*in_real))) / 40)
    assert found["recall"] == pytest.approx(sum(map(any, in_fake)) / 40)
    assert 0 < found["precision"] < 1 and 0 < found["recall"] < 1


# --- extractors -----------------------------------------------------------------------------------
def test_a_resnet_with_folded_norms_computes_what_the_published_layers_do():
    plain, rng = PlainResNet(2).eval(), torch.Generator().manual_seed(0)
    for name, value in plain.state_dict().items():
        if value.is_floating_point():
            value.copy_(
                torch.rand(value.shape, generator=rng) + 0.5
                if "var" in name or "bn" in name
                else normal(*value.shape) * 0.1
            )
    tensors = {k: v for k, v in plain.state_dict().items() if "num_batches" not in k}
    x = normal(4, 3, 32, 32)
    with torch.no_grad():
        ours = pretrained.CIFARResNet.load(tensors)(x)
        torch.testing.assert_close(ours, plain.linear(plain(x)), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="not the tensors of a ResNet"):
        pretrained.CIFARResNet.load({"conv1.weight": tensors["conv1.weight"]})


@pytest.mark.parametrize(
    "name, values, least, most", [("ResNet-20", 271_098, 87, 96), ("ResNet-56", 857_082, 89, 97.5)]
)
def test_the_published_resnets_recognise_what_they_are_said_to(name, values, least, most):
    from safetensors.torch import load_file

    assert sum(t.numel() for t in load_file(published(name)).values()) == values
    try:
        real, test = data.load("CIFAR10", download=False)
    except UserError as err:
        pytest.skip(f"CIFAR10 is not here: {err}")
    some = test.subset(torch.arange(400))  # on all 10,000: 91.73 and 93.39 %
    by = features.extractor(name, real)
    assert least < by.class_accuracy_pct(by.features(some), some.labels) < most


def test_inception_has_the_size_and_the_poolings_of_fid():
    from torchvision.models import Inception3

    with torch.device("meta"):
        state = Inception3(1008, aux_logits=False, init_weights=False).state_dict()
    assert sum(v.numel() for k, v in state.items() if "running" not in k and "num_b" not in k) == 23_850_960
    rng = torch.Generator().manual_seed(0)
    state = {
        k: torch.rand(v.shape, generator=rng) * (1 if "running_var" in k else 0.05)
        for k, v in state.items()
        if "num_b" not in k
    }
    network = pretrained.inception(state)
    x = torch.rand(1, 192, 5, 5, generator=rng)
    counts = F.conv2d(
        torch.ones(1, 1, 5, 5), torch.ones(1, 1, 3, 3), padding=1
    )  # pixels of a window that are no padding
    averages = F.conv2d(x, torch.ones(192, 1, 3, 3), padding=1, groups=192) / counts
    with torch.no_grad():
        torch.testing.assert_close(
            network.Mixed_5b(x)[:, -32:], network.Mixed_5b.branch_pool(averages), rtol=1e-4, atol=1e-5
        )
        x = torch.rand(1, 2048, 2, 2, generator=rng)
        largest = x.amax((2, 3), keepdim=True).expand_as(x)
        torch.testing.assert_close(
            network.Mixed_7c(x)[:, -192:], network.Mixed_7c.branch_pool(largest), rtol=1e-4, atol=1e-5
        )
        images = torch.rand(1, 3, 299, 299, generator=rng)
        before = network(images)
        assert before.shape == (1, 2048)
        torch.testing.assert_close(pretrained.folded(network)(images), before, rtol=1e-3, atol=1e-4)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    with pytest.raises(UserError, match="Inception: 1 are missing"):
        pretrained.inception({k: v for k, v in state.items() if k != "fc.bias"})


def test_weights_are_looked_for_checked_and_explained(nowhere, digits):
    assert weights.find("ResNet-20") is None
    with pytest.raises(UserError, match="DISTILL_WEIGHTS"):
        weights.need("ResNet-20")
    with pytest.raises(UserError, match="unknown weights"):
        weights.find("ResNet-99")
    (nowhere / "weights" / "resnet20_cifar10.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match=f"SHA-256 {hashlib.sha256(b'other').hexdigest()[:16]}"):
        weights.find("ResNet-20")
    with pytest.raises(UserError, match="knows the classes of CIFAR10"):
        features.extractor("ResNet-20", digits[0])
    with pytest.raises(UserError, match="unknown network"):
        features.extractor("ResNet-57", digits[0])


# --- a real set, its samples, its scores ----------------------------------------------------------
OF = replace(
    Scores(samples=400, reference=1_000, support=300, memorised=200).smoke(),
    samples=400,
    reference=1_000,
    support=300,
    memorised=200,
)
OF = replace(OF, trained=replace(OF.trained, epochs=3, lr=0.05))


@pytest.fixture(scope="module")
def judge(digits):
    return Judge(*digits, OF)


def test_scores_tell_real_images_from_noise_and_are_called_after_their_features(judge, digits):
    real, test = digits
    noise = ImageSet(torch.randint(256, (300, 1, 8, 8), generator=stream(0)).byte(), torch.arange(300) % 10, real.facts)
    of_test, of_noise = judge(test.subset(torch.arange(300))), judge(noise)
    name = f"{OF.trained.network}-300"
    assert list(of_test)[:3] == [f"FID-{name}", f"KID-{name}", "recognised_pct"]
    assert of_test[f"FID-{name}"] < of_noise[f"FID-{name}"] / 5 and of_test[f"KID-{name}"] < of_noise[f"KID-{name}"] / 5
    assert of_test["recognised_pct"] > 70 and of_noise["recognised_pct"] < 30
    assert of_test["coverage"] > 0.7 > of_noise["coverage"] and of_test["precision"] > 0.7 > of_noise["precision"]
    assert judge.distances(noise) == {k: of_noise[k] for k in list(of_noise)[:3]}
    assert judge(noise) == of_noise


def test_samples_of_another_set_are_refused(judge, digits):
    real = digits[0]
    for other in (
        ImageSet(real.images.repeat(1, 3, 1, 1)[:, :1, ::2, ::2], real.labels, real.facts),
        ImageSet(real.images[:20], torch.arange(20) % 5, dataclasses.replace(real.facts, class_names=tuple("abcde"))),
    ):
        for score in (judge, judge.distances):
            with pytest.raises(UserError, match="must agree"):
                score(other)


def test_units_do_not_change_scores(judge, digits):
    some = digits[1].subset(torch.arange(100))
    images, labels = some.all()
    assert judge.distances(ImageSet(images, labels, some.facts)) == judge.distances(some)
    x = judge.extractor.features(some)
    torch.testing.assert_close(
        torch.cat([judge.extractor.features(some.images[i : i + 1]) for i in range(100)]), x, rtol=1e-4, atol=1e-5
    )
    with pytest.raises(UserError, match="uint8 pixels"):
        judge.extractor.features(images)


def test_memorised_images_are_seen_and_new_ones_are_not(digits):
    real, test = digits
    half = test.subset(torch.arange(0, len(test), 2)), test.subset(torch.arange(1, len(test), 2))
    copies = memorisation(real, test, real.subset(torch.arange(50)))
    assert copies["nearest_below_test_pct"] == 100 and copies["nearest_median"] == 0 == copies["nearest_minimum"]
    new = memorisation(real, *half)
    assert new["nearest_below_test_pct"] < 5 and new["nearest_median"] == pytest.approx(
        new["nearest_median_test"], rel=0.1
    )


def test_neighbours_stand_beside_their_samples(judge, digits):
    real, test = digits
    samples = real.subset(torch.tensor([5, 90]))
    for by in (None, judge.extractor):
        found = generative.neighbours_of(samples, real, test, by)
        assert found.index.tolist() == [5, 90] and found.distances.tolist() == [0, 0] and found.test > 0
        assert torch.equal(found.images, samples.images)
    assert generative.neighbours_of(samples, real, test).space == "pixels"


def test_any_number_of_samples_is_balanced(digits):
    real = digits[0].subset(torch.cat([m[: 3 + k] for k, m in enumerate(digits[0].class_index)]))
    some = Judge._some(real, 34)
    assert torch.bincount(some.labels).tolist() == [3, 4, 4, 4, 4, 3, 3, 3, 3, 3]
    assert Judge._some(real, len(real)) is real


def test_overlap_is_of_all_classes_whatever_the_order_of_the_samples(judge, digits):
    """A set stored class after class, more images than overlap is measured on."""
    real, every = digits[0], torch.cat([m[:12] for m in digits[0].class_index])
    cfg = dataclasses.replace(judge.cfg, support=40, neighbours=3)
    few = Judge(real, None, cfg)
    in_turns = every[Judge._turns(real.subset(every))]
    scores = [few(real.subset(index)) for index in (every, in_turns)]
    assert scores[0].keys() == scores[1].keys()
    for name in ("precision", "recall", "density", "coverage"):
        assert scores[0][name] == scores[1][name], name


def test_features_of_other_units_are_not_taken_for_these(digits, nowhere):
    """Equal pixels under another normalisation train another network."""
    other = data.load("digits", normalisation="half")[0]
    a, b = (features.recogniser(s, replace(Training(), epochs=1, network="ConvNetD1W8"), 0) for s in (digits[0], other))
    assert digits[0].sha256() == other.sha256() and a.key != b.key


def test_the_real_side_is_computed_once_and_kept(judge, digits, nowhere):
    real = digits[0]
    first = features.reference(real, judge.extractor, 500, keep=100)
    asked = dataclasses.replace(judge.extractor, embed=lambda x: 1 / 0)
    again = features.reference(real, asked, 500, keep=100)
    assert (
        again.n == 500
        and torch.equal(first.features, again.features)
        and torch.equal(first.moments[1], again.moments[1])
    )
    index = torch.randperm(len(real), generator=stream(0, "features", "real"))[:500]
    x = judge.extractor.features(real.subset(index))
    torch.testing.assert_close(again.moments[0], x.double().mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(again.features, x[:100], rtol=1e-5, atol=1e-6)
    (file,) = (nowhere / "runs" / "features").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        features.reference(real, asked, 500, keep=100)


def test_without_published_weights_a_classifier_of_ours_takes_their_place(digits, nowhere):
    colour = torch.randint(256, (80, 3, 32, 32), generator=stream(0)).byte()
    real = ImageSet(
        colour,
        torch.arange(80) % 10,
        data.Facts("CIFAR10", data.DATASETS["CIFAR10"].class_names, (0.5,) * 3, (0.25,) * 3),
    )
    cheap = replace(OF.trained, epochs=1, per_class=4, batch=16)
    by = features.extractor("auto", real, cheap)
    assert by.name == cheap.network and "trained by us" in by.about and by.features(real).shape == (80, 512)
