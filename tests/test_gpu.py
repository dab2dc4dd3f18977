"""What the CPU's tests assert, on a GPU: every method, the evaluation, and what rounding convolutions to TF32 costs."""

import numpy as np
import pytest
import torch

from distill_lib import data, networks
from distill_lib.core.device import pick, send, set_rounding
from distill_lib.core.loop import Loop
from distill_lib.core.rng import stream
from distill_lib.core.settings import as_dict, from_dict
from distill_lib.data import Facts, augment
from distill_lib.evaluation import evaluate
from distill_lib.methods import METHODS, dm
from distill_lib.records import provenance

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICE = "cuda"
COLOUR = Facts("toy", ("a", "b"), (0.49, 0.48, 0.44), (0.2, 0.21, 0.19))
EVERY = "none dsa idc idc:color_crop frepo dc dc:crop_noise imagenet dcbench:cifar_aug dcbench:randaug".split()


@pytest.fixture
def rounding():
    """Leaves PyTorch's settings as they were."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="module")
def small():
    """8 x 8 images that ship inside the package: scikit-learn, which has the digits, need not be on a GPU's machine."""
    return data.load("FashionMNIST-mini", resolution=8)


def tiny(name):
    cfg = METHODS[name].paper_config("digits", 2).smoke()
    changes = {f: v for f, v in {"iterations": 3, "batch_real": 8}.items() if hasattr(cfg, f)}
    return from_dict(type(cfg), {**as_dict(cfg), **changes})


@pytest.mark.parametrize(("wanted", "convolutions"), [(None, True), ("1", True), ("0", False)])
def test_choosing_a_gpu_decides_what_is_rounded(wanted, convolutions, rounding, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("DISTILL_TF32", raising=False)
    if wanted:
        monkeypatch.setenv("DISTILL_TF32", wanted)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = not convolutions, True
    assert pick("cuda").type == "cuda"
    assert torch.backends.cudnn.allow_tf32 is convolutions
    assert torch.backends.cuda.matmul.allow_tf32 is False  # kernel regressions need all bits


def test_choosing_the_cpu_leaves_the_settings_of_gpus_alone(rounding):
    torch.backends.cuda.matmul.allow_tf32 = True
    pick("cpu")
    assert torch.backends.cuda.matmul.allow_tf32 is True


@pytest.fixture
def copies(monkeypatch):
    """What is done with tensors on their way to a GPU that is not there."""
    seen, to = [], torch.Tensor.to

    def pretended(x, *args, **kwargs):
        if args and str(args[0]).startswith("cuda"):
            seen.append(kwargs)
            return x
        return to(x, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", pretended)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: seen.append("pinned") or x)
    return seen


def test_what_is_sent_to_a_gpu_does_not_wait_for_it(copies):
    sent = send(torch.arange(3), "cuda", torch.float64)
    assert (
        copies == ["pinned", {"non_blocking": True}] and sent.dtype == torch.float64
    )  # converted on the way, not there
    networks.fresh("ConvNetD1W8", ((1, 8, 8), 2), stream(0, "send")).to("cuda")
    assert copies == ["pinned", {"non_blocking": True}] * (
        1 + 6
    )  # weights and biases of the convolution, the norm, the last layer


def test_what_stays_on_the_cpu_is_not_copied(copies):
    x = torch.arange(3)
    assert send(x, "cpu") is x and send(x, torch.device("cpu"), torch.float32).dtype == torch.float32
    network = networks.fresh("ConvNetD1W8", ((1, 8, 8), 2), stream(0, "send"))
    assert network.to("cpu").to(torch.float64) is network and next(network.parameters()).dtype == torch.float64
    assert copies == []


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("name", EVERY)
def test_an_augmentation_gives_the_cpus_images(name):
    aug = augment.named(name, like=COLOUR)
    x = torch.randn(6, 5, 3, 32, 32, generator=stream(0, "images"))
    there = aug(x.to(DEVICE), stream(0))
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), aug(x, stream(0)), rtol=1e-4, atol=1e-4)


@gpu
@pytest.mark.gpu
def test_an_evaluation_ends_where_the_cpus_does(small):
    real, test = small
    few = METHODS["Random"].distill(real, METHODS["Random"].Config(ipc=10), seed=0)
    found = [
        evaluate(
            few, test, "vico_noaug@60ep", "ConvNetD2W32", num_eval=5, seed=0, device=d, loop=Loop(bar=False)
        ).test_accuracy_pct
        for d in ("cpu", DEVICE)
    ]
    assert np.mean(found[1]) == pytest.approx(np.mean(found[0]), abs=3.0)  # five networks of about 2 points' spread


@gpu
@pytest.mark.gpu
def test_tf32_costs_no_accuracy_over_five_seeds(rounding, monkeypatch):
    real, test = data.load("FashionMNIST-mini")
    real, test = real.to(DEVICE), test.to(DEVICE)
    cfg, found = dm.Config(ipc=1, iterations=100, batch_real=64), {}
    for wanted in ("1", "0"):
        monkeypatch.setenv("DISTILL_TF32", wanted)
        set_rounding()
        assert provenance(DEVICE)["convolutions"] == ("TF32" if wanted == "1" else "float32")
        sets = [dm.distill(real, cfg, seed, Loop(bar=False)) for seed in range(5)]
        found[wanted] = [
            np.mean(
                evaluate(
                    made, test, "vico_dsa@100ep", num_eval=2, seed=seed, device=DEVICE, loop=Loop(bar=False)
                ).test_accuracy_pct
            )
            for seed, made in enumerate(sets)
        ]
    gaps = np.subtract(found["1"], found["0"])
    assert abs(gaps.mean()) <= 1.0 + 2 * gaps.std(ddof=1) / 5**0.5


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize(
    "name", sorted((n for n in METHODS if n != "Full data"), key=lambda n: n not in ("DM", "DC", "DSA"))
)
def test_every_method_distils_on_a_gpu(name, small, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    made = METHODS[name].distill(small[0].to(DEVICE), tiny(name), seed=0)
    per_class = 2 * getattr(tiny(name), "factor", 1) ** 2
    assert torch.bincount(made.hard_labels.cpu()).tolist() == [per_class] * small[0].num_classes
    assert torch.isfinite(made.images.float()).all()
