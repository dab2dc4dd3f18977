"""Every method, the evaluation and the metrics on a device that is not the processor: nothing is left behind on the
processor, and a step does not wait for the device but where it is known to.

See `pretended.py`: the device is not there, so these tests need no GPU. What a GPU computes they cannot tell.
"""

import pytest
import torch
from pretended import Device, There, register

from distill_lib import data
from distill_lib.core.loop import Loop
from distill_lib.core.rng import stream
from distill_lib.core.settings import as_dict, from_dict
from distill_lib.evaluation import evaluate, evaluator
from distill_lib.evaluation.metrics import difficulty
from distill_lib.evaluation.metrics.generative import Judge, Scores
from distill_lib.methods import METHODS
from distill_lib.networks.reference import Training

# function, what a step waits for -> why that is right
ONCE, LOOK = "once for a set, then kept", "a look at the state, a few times in a training"
WAITS = {
    ("data/imageset.py: class_index", "a copy to the processor"): ONCE,
    ("methods/selection.py: distill", "a copy to the processor"): "what was chosen, once for a class",
    ("methods/selection.py: herding", "a number"): "a choice depends on the one before it; a few choices in all",
    ("methods/selection.py: k_center", "a number"): "a choice depends on the one before it; a few choices in all",
    ("methods/cafe.py: query", "a number"): "the accuracy decides whether the network is trained on",
    ("methods/common/ntk.py: solve", "a number"): "a matrix that cannot be solved ends the run at once",
    ("methods/common/trajectories.py: _train_one", "a copy to the processor"): "an expert's weights, once an epoch",
    ("generators/cgan/training.py: _train", "a number"): LOOK,
    ("generators/cgan/training.py: _seen", "a number"): LOOK,
    ("evaluation/metrics/frechet.py: moments", "a number"): LOOK,
    ("evaluation/metrics/frechet.py: frechet_distance", "a number"): LOOK,
    ("methods/slfd.py: summary", "a number"): LOOK,
    ("methods/slfd.py: summary", "a copy to the processor"): LOOK,
    ("evaluation/evaluator.py: _accuracies", "a copy to the processor"): LOOK,
    ("generators/cgan/network.py: draw", "a number"): "labels are checked, once for all images that are drawn",
    ("generators/uvit/training.py: _mean", "a number"): LOOK,
    ("core/files.py: write_tensors", "a copy to the processor"): "weights that are kept at a few steps",
    ("generators/dit/drawing.py: _drawn", "a copy to the processor"): "a drawn pool is kept on the processor",
}


@pytest.fixture(scope="module")
def sets():
    return data.load("digits")


@pytest.fixture
def device(monkeypatch, tmp_path):
    """The pretended device, entered; afterwards the waits of the steps that were taken are known ones."""
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    monkeypatch.setattr(evaluator, "pick", lambda name=None: register())
    with Device() as there:
        yield there
    new = {place: n for place, n in there.waits.items() if place not in WAITS}
    assert not new, "a step waits for the device: keep the numbers there, or say in WAITS why it has to"


def tiny(name):
    cfg = METHODS[name].paper_config("digits", 2).smoke()
    changes = {f: v for f, v in {"iterations": 2, "batch_real": 8}.items() if hasattr(cfg, f)}
    return from_dict(type(cfg), {**as_dict(cfg), **changes})


@pytest.mark.parametrize("name", METHODS)
def test_every_method_leaves_nothing_on_the_processor(name, sets, device):
    made = METHODS[name].distill(sets[0].to(device.device), tiny(name), seed=0, loop=Loop(bar=False))
    assert made.device.type == device.device.type
    assert torch.isfinite(made.to("cpu").images.float()).all()


def test_a_run_without_a_key_is_told_by_what_it_starts_from(device, tmp_path):
    loop, network = Loop(tmp_path, bar=False), torch.nn.Linear(2, 2).to(device.device)
    assert list(loop.steps("a phase", 2, {"network": network})) == [0, 1]


@pytest.mark.parametrize("protocol", ["vico_dsa@2ep", "dim@2ep", "idc_small@2ep", "glad@2ep", "dd_ranking@2ep"])
def test_an_evaluation_leaves_nothing_on_the_processor(protocol, sets, device):
    real, test = (s.to(device.device) for s in sets)
    few = METHODS["Random"].distill(real, METHODS["Random"].Config(ipc=2), seed=0)
    found = evaluate(few, test, protocol, "ConvNetD2W8", num_eval=2, device="there", real=real, loop=Loop(bar=False))
    assert len(found.test_accuracy_pct) == 2


def test_scores_of_samples_leave_nothing_on_the_processor(sets, device):
    real, test = (s.to(device.device) for s in sets)
    judge = Judge(real, test, Scores().smoke(), loop=Loop(bar=False))
    found = judge(real.subset(real.draw_index(10, stream(0, "samples")).flatten()))
    assert {name.partition("-")[0] for name in found} >= {"FID", "KID", "precision", "coverage"}


@pytest.mark.parametrize("name", ["trained", "held_out"])
def test_difficulties_leave_nothing_on_the_processor(name, sets, device):
    real = sets[0].to(device.device)
    quick = Training(network="ConvNetD1W8", epochs=1, batch=64, per_class=20)
    score = difficulty.scorer(name, real, quick, folds=2, loop=Loop(bar=False))
    assert len(score.real) == len(real) and len(score(real.subset(torch.arange(30)))) == 30


# --- the device itself ------------------------------------------------------------------------------------------------
def test_numbers_and_derivatives_are_those_of_the_processor():
    x, w = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    found = []
    with Device() as device:
        for place in ("cpu", device.device):
            a, b = (t.clone().to(place).requires_grad_() for t in (x, w))
            torch.nn.functional.conv2d(a, b).relu().square().sum().backward()
            found.append((a.grad, b.grad))
        assert all(isinstance(g, There) for g in found[1])
        assert all(torch.equal(here, there.cpu()) for here, there in zip(*found))


@pytest.mark.parametrize(
    "left_behind",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.cat([x, torch.ones(3)]),
        lambda x: torch.ones(3)[x.argsort()],
        lambda x: torch.zeros(3).index_add(0, torch.arange(3), x),
        lambda x: torch.bernoulli(x.sigmoid(), generator=torch.Generator()),
        lambda x: torch.randn(3, device=x.device, generator=torch.Generator()),
    ],
)
def test_what_is_left_on_the_processor_is_found(left_behind):
    with Device() as device:
        x = torch.randn(3).to(device.device)
        assert isinstance(x + 1 + torch.tensor(2.0), There)
        with pytest.raises(RuntimeError, match="processor"):
            left_behind(x)


def test_waits_are_noted_in_steps_only():
    with Device() as device:
        x = torch.arange(4.0).to(device.device)
        float(x.sum())
        assert not device.waits
        for _ in Loop(bar=False).steps("toy", 2, {}):
            x.sum().item(), x.cpu(), x.tolist(), x[x > 1], x.nonzero(), x[torch.tensor([0])], bool(x[0])
        kinds = {what: n for (_, what), n in device.waits.items()}
        assert kinds == {
            "a number": 4,
            "a copy to the processor": 4,
            "an index by a mask": 2,
            "nonzero": 2,
            "an index that is on the processor": 2,
        }
