"""SLFD: GLaD where there is no noise, the reconstruction's identities and worked example, readings and events, tables
and figures."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from distill_lib import data, experiments, networks
from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.experiments import Skip, Task, engine
from distill_lib.experiments.papers import slfd as pages
from distill_lib.methods import dm, glad, slfd
from distill_lib.methods.common import matching
from distill_lib.methods.slfd import Heads, Normal, StochasticModule, stochastic_loss
from distill_lib.networks.gradients import Derivatives
from distill_lib.records import Cell, Record, reported
from distill_lib.tables import slfd as tables_slfd


def config(**changes):
    module = {k: changes.pop(k) for k in list(changes) if k in StochasticModule.__dataclass_fields__}
    cfg = replace(slfd.paper_config("digits", 1).smoke(), **({"iterations": 3, "batch_real": 8} | changes))
    return replace(cfg, module=replace(cfg.module, **module))


# --- loss -------------------------------------------------------------------------------------------------------------
def test_the_worked_example():
    logits, labels = torch.tensor([[0.5, -0.5, 0.0]]), torch.tensor([0])
    samples = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]]])
    assert float(stochastic_loss(logits, labels, samples)) == pytest.approx(0.58001811, abs=1e-7)
    assert float(stochastic_loss(logits, labels, samples, StochasticModule(average="loss"))) == pytest.approx(
        0.63218790, abs=1e-7
    )
    # probabilities in place of logits, by hand
    p = torch.tensor([0.5, -0.5, 0.0]).softmax(0)
    by_hand = -torch.stack([(p + s).softmax(0)[0] for s in samples[0]]).mean().log()
    assert float(stochastic_loss(logits, labels, samples, StochasticModule(refine="probabilities"))) == pytest.approx(
        float(by_hand), abs=1e-6
    )


def test_one_sample_of_zero_is_the_cross_entropy():
    logits, labels = torch.randn(5, 7, generator=stream(0)), torch.arange(5)
    torch.testing.assert_close(
        stochastic_loss(logits, labels, torch.zeros(5, 1, 7)), F.cross_entropy(logits, labels, reduction="none")
    )


def test_the_gradient_is_the_weighted_mean_of_softmax_minus_label():
    rng = stream(1)
    logits = torch.randn(4, 6, generator=rng, dtype=torch.float64).requires_grad_()
    samples, labels = torch.randn(4, 9, 6, generator=rng, dtype=torch.float64), torch.tensor([0, 5, 2, 2])
    (found,) = torch.autograd.grad(stochastic_loss(logits, labels, samples).sum(), logits)
    refined = logits.detach()[:, None] + samples
    entropy = F.cross_entropy(refined.flatten(0, 1), labels.repeat_interleave(9), reduction="none").view(4, 9)
    weights = (-entropy).softmax(1)
    wanted = (weights[..., None] * (refined.softmax(2) - F.one_hot(labels, 6)[:, None])).sum(1)
    assert float((found - wanted).abs().max()) < 1e-12


def test_more_samples_do_not_raise_the_expected_loss_and_the_mean_of_losses_is_above():
    normal = Normal(torch.zeros(4000, 3), torch.ones(4000, 3), torch.zeros(4000, 3, 1))
    logits, labels = torch.zeros(4000, 3), torch.zeros(4000, dtype=torch.int64)
    draws = {
        m: normal.sample(StochasticModule(samples=m, antithetic=False), stream(0)).transpose(0, 1) for m in (1, 4, 16)
    }
    losses = [float(stochastic_loss(logits, labels, s).mean()) for s in draws.values()]
    assert losses == sorted(losses, reverse=True) and losses[0] - losses[-1] > 0.05
    assert float(stochastic_loss(logits, labels, draws[16], StochasticModule(average="loss")).mean()) > losses[-1]


# --- distributions ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("full", [False, True])
def test_samples_have_the_mean_and_the_covariance(full):
    rng = stream(2)
    mean, d = torch.randn(1, 4, generator=rng), 0.05 + 0.1 * torch.rand(1, 4, generator=rng)
    factor = 0.3 * torch.randn(1, 4, 4 if full else 2, generator=rng)
    normal = Normal(mean, d, factor.tril(-1) if full else factor, full)
    samples = normal.sample(StochasticModule(samples=40_000, rank=None if full else 2), stream(3))[:, 0]
    assert samples.shape == (40_000, 4) and torch.allclose(
        samples.mean(0), mean[0], atol=1e-4
    )  # antithetic: exact but for rounding
    assert float((torch.cov(samples.T) - normal.covariance[0]).abs().max()) < 0.02
    if full:
        lower = normal.factor[0] + torch.diag(d[0].sqrt())
        torch.testing.assert_close(torch.linalg.cholesky(normal.covariance[0]), lower)
    else:
        wanted = torch.distributions.LowRankMultivariateNormal(mean, factor, d).covariance_matrix
        torch.testing.assert_close(normal.covariance, wanted)


def test_images_share_noise_only_in_a_joint_event():
    normal = Normal(torch.zeros(2, 3), torch.full((2, 3), 1e-8), torch.ones(2, 3, 1))
    apart, joint = (
        normal.sample(StochasticModule(rank=1, event=e, samples=100), stream(0)) for e in ("logits", "joint")
    )
    assert torch.allclose(joint[:, 0], joint[:, 1], atol=1e-3) and not torch.allclose(
        apart[:, 0], apart[:, 1], atol=1e-1
    )


def test_the_layers_start_small_and_have_the_documented_sizes():
    heads = Heads(StochasticModule(), (27, 512), 10, stream(0))
    assert sum(p.numel() for p in heads.parameters()) == 1_659_000
    assert (
        sum(p.numel() for p in Heads(StochasticModule(event="codes"), (27, 512), 10, stream(0)).parameters()) == 61_560
    )
    normal = heads(torch.randn(3, 27, 512, generator=stream(1)))
    assert normal.mean.shape == (3, 10) and normal.factor.shape == (3, 10, 10)
    assert float(normal.mean.detach().abs().max()) < 0.01 and torch.allclose(
        normal.d.detach(), torch.tensor(math.exp(-4) + 1e-5), rtol=0.02
    )
    per_code = Heads(StochasticModule(event="codes"), (27, 512), 10, stream(0))(
        torch.randn(3, 27, 512, generator=stream(1))
    )
    assert per_code.mean.shape == (3, 27, 10) and per_code.sample(StochasticModule(event="codes"), stream(2)).shape == (
        20,
        3,
        10,
    )


@pytest.mark.parametrize(
    ("module", "problem"), [({"samples": 3}, "even number"), ({"event": "joint", "rank": None}, "give a rank")]
)
def test_a_module_that_contradicts_itself_is_refused(real, module, problem):
    with pytest.raises(UserError, match=problem):
        slfd.distill(real, config(**module), 0)


# --- matching ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("piece", [None, 3])
@pytest.mark.parametrize("name", ["ConvNetD1W32", "ConvNet"])
def test_gradients_of_the_stochastic_loss_equal_plain_autograd(name, piece):
    """By images and by samples, whole and in pieces."""
    rng = stream(4)
    like = ((3, 16, 16), 4)
    network = networks.fresh(name, like, rng).requires_grad_(False)
    real, synthetic = torch.randn(4, 5, 3, 16, 16, generator=rng), torch.randn(4, 2, 3, 16, 16, generator=rng)
    samples = torch.randn(4, 2, 6, 4, generator=rng)
    parameters = [p.detach() for p in network.parameters()]
    found = matching.match(
        Derivatives(network, piece), parameters, real, synthetic, loss=stochastic_loss, extra=samples
    )

    leaves = synthetic.clone().requires_grad_(), samples.clone().requires_grad_()
    network.requires_grad_(True)
    total = []
    for k in range(4):
        labels = torch.full((5,), k)
        target = torch.autograd.grad(F.cross_entropy(network(real[k]), labels), network.parameters())
        loss = stochastic_loss(network(leaves[0][k]), labels[:2], leaves[1][k]).mean()
        ours = torch.autograd.grad(loss, network.parameters(), create_graph=True)
        total.append(matching.row_distance([g[None] for g in ours], [g[None] for g in target]).sum())
    wanted = torch.autograd.grad(sum(total), leaves)
    torch.testing.assert_close(found[0], torch.stack(total).detach(), rtol=1e-4, atol=1e-3)
    for ours, theirs in zip(found[1:], wanted, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-3 and float(theirs.norm()) > 0


@pytest.mark.parametrize("network", ["ConvNet", "ConvNetD1W8LN"])
def test_without_noise_it_is_glad_step_by_step(real, network):
    silent = {"samples": 1, "antithetic": False, "start_std": 0.0, "start_log_variance": -60.0, "eps": 0.0, "lr": 0.0}
    ours = slfd.distill(real, config(iterations=4, network=network, **silent), seed=0)
    cfg = replace(glad.paper_config("digits", 1).smoke(), iterations=4, batch_real=8, network=network)
    theirs = glad.distill(real, cfg, seed=0)
    torch.testing.assert_close(ours.images, theirs.images, rtol=1e-5, atol=1e-5)
    other = slfd.distill(real, config(iterations=4, network=network), seed=0)
    assert not torch.allclose(other.images, theirs.images, rtol=1e-5, atol=1e-5)


def test_codes_learn_from_the_module_where_they_shall(real):
    near, far = (slfd.distill(real, config(reaches_codes=r, start_std=1.0), seed=0).images for r in (True, False))
    assert not torch.equal(near, far)


@pytest.mark.parametrize("name", ["ConvNetD1W32", "ConvNetD1W32BN"])
def test_the_readings_with_dm_are_what_they_say(real, name):
    """With batch norm all classes go through the network in one pass, as in DM."""
    rng = stream(5)
    network = networks.fresh(name, real, rng)
    x, s = real.draw_classes(4, rng), real.draw_classes(2, rng)
    plain = dm.dm_loss(network, x, s)
    for reading in ("logits", "embedding", "loss"):
        matcher = slfd.StochasticDistributions(real, config(match="DM", reading=reading, network=name), rng)
        samples = 0.3 * torch.randn(10, 2, 4, matcher.event, generator=rng)
        with torch.no_grad():
            found = matcher.loss(network, x, s, samples)
            e, target = (
                network.embed(s.flatten(0, 1)).unflatten(0, (10, 2)),
                network.embed(x.flatten(0, 1)).unflatten(0, (10, 4)).mean(1),
            )
            if reading == "embedding":
                wanted = torch.stack(
                    [(target - (e + samples[:, :, m]).mean(1)).square().sum() for m in range(4)]
                ).mean()
                assert matcher.event == network.embed_dim
            elif reading == "logits":
                mean = (network.classifier(e) + samples.mean(2)).mean(1)
                wanted = plain + (network.classifier(target) - mean).square().sum()
            else:
                labels = torch.arange(10).repeat_interleave(2)
                each = stochastic_loss(network.classifier(e).flatten(0, 1), labels, samples.flatten(0, 1))
                wanted = plain + each.view(10, 2).mean(1).sum()
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"rank": None},
        {"rank": 1, "event": "joint"},
        {"event": "codes"},
        {"inputs": "mean"},
        {"optimizer": "sgd"},
        {"mean_weight": 1.0},
        {"scaled": False},
        {"match": "DM"},
        {"match": "DM", "reading": "embedding"},
        {"match": "DM", "reading": "loss"},
    ],
)
def test_every_option_distils_and_says_how_the_module_changed(real, changes):
    made = slfd.distill(real, config(**changes), seed=0)
    kept = made.facts.extra["module"]
    assert torch.isfinite(made.images).all() and kept["step"] == [0, 1, 2, 3]
    assert len(kept["mean_norm"]) == len(kept["covariance_trace"]) == 4
    assert len(set(kept["mean_norm"])) > 1  # it learns
    if changes.get("reading") != "embedding":
        start = torch.tensor(kept["correlation"][0])
        assert start.shape == (10, 10) and torch.allclose(start.diagonal(), torch.ones(10), atol=1e-4)


def test_a_set_carries_its_distributions_through_a_file(real, tmp_path):
    made = slfd.distill(real, config(), seed=0)
    back = data.ImageSet.load(made.save(tmp_path / "set.safetensors"))
    normal = slfd.final(back)
    trace = torch.diagonal(normal.covariance, dim1=1, dim2=2).sum(1).mean()
    assert normal.mean.shape == (10, 10) and float(trace) == pytest.approx(
        made.facts.extra["module"]["covariance_trace"][-1], rel=1e-4
    )
    frame = tables_slfd.refined(back)
    assert list(frame["class"]) == list(real.facts.class_names)
    for column in ("alone", "refined"):
        assert float(frame[column].sum()) == pytest.approx(1, abs=1e-4)
    assert bool((frame["low"] <= frame["high"]).all())
    with pytest.raises(UserError, match="carries no distributions"):
        slfd.final(real)


# --- tables and figures -----------------------------------------------------------------------------------------------
TABLES = [pages.TABLE1, pages.TABLE2, pages.TABLE3, pages.TABLE4, pages.TABLE5, pages.TABLE6, pages.TABLE7]


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_the_papers_cells(name):
    this = experiments.experiment(name)
    cells = this.cells(experiments.check_parameters(name, {}))
    assert len({c.stem for c in cells}) == len(cells)
    printed = [
        reported.lookup(c.experiment, c.method, c.dataset, c.ipc, c.network, c.variant)
        for c in cells
        if this.printed(c)
    ]
    assert all(row and row["text"] == reported.LOST for row in printed)
    rows = reported.cells_of(name)
    means = (
        rows
        if name in (pages.TABLE1, pages.TABLE2, pages.TABLE5, pages.TABLE6, pages.TABLE7)
        else [r for r in rows if r["network"] == pages.MEAN]
    )
    assert len(printed) == len(means)  # of Tables 3 and 4 the average; its record has the networks


@pytest.mark.parametrize("name", [*TABLES, pages.ABLATIONS])
@pytest.mark.parametrize("profile", ["smoke", "small", "full"])
def test_every_cell_has_a_task_or_a_reason(name, profile):
    params = experiments.check_parameters(name, {"profile": profile})
    tasks = [experiments.experiment(name).task(c, params) for c in experiments.experiment(name).cells(params)]
    assert all(isinstance(t, Task | Skip) for t in tasks)
    made = [t for t in tasks if isinstance(t, Task)]
    assert made or (profile == "small" and name in (pages.TABLE2, pages.TABLE3, pages.TABLE6))
    for task in made:
        assert ("@" in task.protocol) == (profile != "full") and (task.tested is None) == (profile == "full")
        assert (len(task.networks) == 4) == (task.cell.network == pages.MEAN) and "ConvNet" not in task.networks
        assert data.sized(task.dataset)[0] in data.DATASETS
    assert profile != "full" or len(made) == len(tasks)


def test_rows_of_one_column_differ_in_method_alone():
    params = experiments.check_parameters(pages.TABLE1, {"profile": "small"})
    for match in ("DC", "DM"):
        rows = {}
        for method, space in ((match, "pixel"), ("GLaD", "latent"), ("SLFD", "latent")):
            cell = Cell(pages.TABLE1, method, "ImageNette", 1, pages.MEAN, "glad", f"match={match}, space={space}")
            rows[method] = pages.table1_task(cell, params)
        assert len({(t.config.iterations, t.config.batch_real, t.config.dsa) for t in rows.values()}) == 1
        assert rows["GLaD"].config.space == rows["SLFD"].config.space
        assert rows[match].maker == ("DSA" if match == "DC" else "DM") and rows["GLaD"].maker == "GLaD"
        assert len({(t.protocol, t.networks, t.tested, t.dataset) for t in rows.values()}) == 1


def test_random_and_trained_generators_have_the_same_layers():
    params = experiments.check_parameters(pages.TABLE4, {"profile": "small"})
    cells = (
        Cell(pages.TABLE4, "GLaD", "CIFAR10", 1, pages.MEAN, "glad", f"generator={g}") for g in ("random", "ImageNet")
    )
    random, trained = (pages.table4_task(cell, params).config.space for cell in cells)
    assert random.prior.gan == trained.prior.gan and random.layer == trained.layer
    assert (random.prior.weights, trained.prior.weights) == ("random", "trained")


@pytest.mark.parametrize("variant", list(pages.VARIANTS))
def test_a_variant_changes_what_it_says_and_the_budgets_keep_it(variant):
    base = slfd.paper_config("ImageNette", 1, "DM" if variant.startswith("DM") else "DC")
    cfg = pages.varied("ImageNette", variant)
    assert (cfg == base) == (variant in ("SLFD", "DM, logits"))
    assert (cfg.small() == base.small()) == (cfg == base)


def test_means_over_networks_show_each_network(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))
    cell = Cell(pages.TABLE5, "SLFD", "PathMNIST", 1, pages.MEAN, "glad", "resolution=64")
    key = {"dataset": "BloodCells@64px", "protocol": {"name": "vico_dsa@50ep"}, "network": pages.MEAN}
    metrics = {
        "accuracy_pct, ResNet18": [30.0, 40.0],
        "accuracy_pct, ViT": [50.0, 20.0],
        "module, step": [0, 5],
        "module, mean_norm": [0.1, 0.2],
        "module, covariance_trace": [1.0, 2.0],
    }
    Record(cell, [40.0, 30.0], [0, 0], key, metrics).save("small")
    outcome = engine.run(pages.TABLE5, experiments.check_parameters(pages.TABLE5, {}))
    (row,) = tables_slfd.by_network(outcome).to_dict("records")
    assert (row["row"], row["on"], row["average"]) == ("SLFD with DC", "ours, small, on BloodCells@64px", "35.0 ± 5.0")
    assert (row["ResNet18"], row["ViT"]) == ("35.0 ± 5.0", "35.0 ± 15.0")
    assert tables_slfd.history(outcome)["mean_norm"].tolist() == [0.1, 0.2]


def test_figures_show_what_is_kept_and_nothing_where_nothing_is(real, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))
    params = experiments.check_parameters(pages.FIGURE7, {})
    assert tables_slfd.images(pages.FIGURE7, params) == {}
    small = tables_slfd.shown_tasks(pages.FIGURE7, params.model_copy(update={"profile": "small"}))
    assert list(small) == ["ImNet-A, SLFD with DC, 128 px, rank 10", "ImNet-A, SLFD with DC, 128 px, rank full"]
    kept = slfd.distill(real, config(iterations=1), seed=0)
    kept.save(tables_slfd._artefact("small", pages.FIGURE7, list(small)[1]))
    ((title, shown),) = tables_slfd.images(pages.FIGURE7, params).items()
    assert title == "digits at 8 px, stand-in for ImNet-A at 128 px\nsmall: SLFD with DC, rank full"
    assert torch.equal(shown.images, kept.images)


def test_a_set_of_the_paper_s_data_stands_in_for_nothing(real):
    cell = Cell(pages.TABLE5, "SLFD", "PathMNIST", 1, pages.MEAN, "glad", "resolution=64")
    facts = dataclasses.replace(real.facts, name="PathMNIST")
    made = data.ImageSet(torch.zeros(10, 1, 64, 64, dtype=torch.uint8), torch.arange(10), facts)
    assert tables_slfd.title(made, cell, "full") == "PathMNIST at 64 px\nfull: SLFD with DC"
