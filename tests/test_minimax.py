"""Minimax and DiffFit: the loss by hand, memories, equality with plain fine-tuning, what trains; DGS's experiments on
top."""

import numpy as np
import pytest
import torch
from steps import in_steps
from torch.nn import functional as F

from distill_lib import experiments, figures, networks
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.experiments import Skip, Task
from distill_lib.experiments.papers import dgs as pages
from distill_lib.generators import dit
from distill_lib.generators import dit as generators_dit
from distill_lib.generators.diffusion.discrete import Schedule
from distill_lib.methods import METHODS, dgs, minimax
from distill_lib.methods import dit as dit_row
from distill_lib.methods.minimax import LatentMemory, Tuning, minimax_loss
from distill_lib.networks import names
from distill_lib.records import reported
from distill_lib.tables import dgs as tables_dgs

BASE = replace(generators_dit.Pretraining().smoke(), steps=4, batch=8, width=16, depth=2)
QUICK = replace(Tuning().smoke(), steps=6, batch=4, memory=3)


def memory(vectors, classes=1, size=64):
    found = LatentMemory(classes, size, 2, "cpu")
    found.add(torch.tensor(vectors), torch.zeros(len(vectors), dtype=torch.int64))
    return found


# --- the loss ---------------------------------------------------------------------------------------------------------
PREDICTED = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
REAL, MADE = [[1.0, 1.0], [0.0, 1.0], [3.0, 4.0]], [[1.0, 0.0], [-1.0, 1.0]]


def test_the_loss_of_two_predictions_by_hand():
    """Cosines to real memories: .7071 0 .6 / .7071 1 .8, the least is 0; to generated: 1 -.7071 / 0 .7071, the greatest
    is 1."""
    labels = torch.zeros(2, dtype=torch.int64)
    both = [memory(REAL), memory(MADE)]
    assert minimax_loss(PREDICTED, labels, *both, 0.002, 0.008).item() == pytest.approx(0.010)
    assert minimax_loss(PREDICTED, labels, *both, 0.002, 0.0).item() == pytest.approx(0.002)
    assert minimax_loss(PREDICTED[1:], labels[1:], *both, 1.0, 0.0).item() == pytest.approx(1 - 0.70710678)
    scaled = minimax_loss(
        PREDICTED * torch.tensor([[3.0], [0.1]]), labels, memory([[5.0, 5.0], *REAL[1:]]), both[1], 0.002, 0.008
    )
    assert scaled.item() == pytest.approx(0.010)


def test_the_loss_equals_plain_loops_over_classes_and_pairs():
    g = stream(0)
    predicted, labels = torch.randn(7, 3, 2, generator=g), torch.tensor([2, 0, 2, 1, 0, 2, 4])
    stores = [torch.randn(40, 3, 2, generator=g), torch.randn(40, 3, 2, generator=g)]
    of = torch.randint(0, 4, (40,), generator=g)  # class 4 has no memory
    memories = []
    for x in stores:
        memories.append(LatentMemory(5, 8, 6, "cpu"))
        memories[-1].add(x, of)
    total = 0.0
    for k in (0, 1, 2, 4):
        last = [x[of == k][-8:].flatten(1) for x in stores]
        mine = predicted[labels == k].flatten(1)
        cosines = [[[F.cosine_similarity(a, b, 0).item() for b in x] for a in mine] for x in last]
        if len(last[0]):
            total += 0.3 * (1 - min(map(min, cosines[0]))) + 0.7 * max(map(max, cosines[1]))
    assert minimax_loss(predicted, labels, *memories, 0.3, 0.7).item() == pytest.approx(total / 4, rel=1e-5)


def test_representativeness_pulls_and_diversity_pushes():
    labels = torch.zeros(2, dtype=torch.int64)
    for lambdas, store, sign in (((1.0, 0.0), REAL, 1), ((0.0, 1.0), MADE, -1)):
        z = PREDICTED.clone() + 0.1
        z.requires_grad_()
        cosine = lambda x, store=store: F.normalize(x, dim=1) @ F.normalize(torch.tensor(store), dim=1).T  # noqa: E731
        before = cosine(z.detach()).min() if sign > 0 else cosine(z.detach()).max()
        minimax_loss(z, labels, memory(REAL), memory(MADE), *lambdas).backward()
        after = cosine(z.detach() - 0.1 * z.grad)
        assert sign * float((after.min() if sign > 0 else after.max()) - before) > 0
        assert int(z.grad.abs().sum(1).gt(0).sum()) == 1  # one pair decides


def test_memories_keep_the_last_of_every_class():
    store = LatentMemory(2, 3, 2, "cpu")
    for i in range(5):
        store.add(torch.tensor([[1.0, float(i)], [float(i), -1.0]]), torch.tensor([0, 1]))
    wanted = F.normalize(torch.tensor([[1.0, 2.0], [1.0, 3.0], [1.0, 4.0]]), dim=1)
    kept = store.of(0)
    assert kept.shape == (3, 2) and torch.allclose(kept[kept[:, 1].argsort()], wanted[wanted[:, 1].argsort()])
    assert store.count.tolist() == [5, 5]


def test_the_first_appearance_of_a_class_adds_nothing():
    empty = LatentMemory(3, 4, 2, "cpu")
    z = PREDICTED.clone().requires_grad_()
    loss = minimax_loss(z, torch.tensor([0, 2]), empty, empty, 0.5, 0.5)
    assert loss.item() == 0 and not loss.requires_grad


# --- DiffFit ----------------------------------------------------------------------------------------------------------
def test_difffit_trains_biases_labels_and_scales_alone():
    network = dit.difffit(dit.DiT(dit.DiTArchitecture(side=8, channels=4, width=16, depth=4, heads=2, num_classes=3)))
    trained = {k for k, p in network.named_parameters() if p.requires_grad}
    assert all("bias" in k or "gamma" in k or "y_embed" in k for k in trained)
    gammas = [k for k in trained if "gamma" in k]
    assert len(gammas) == 2 * 4 and all(k.startswith(("blocks.0.", "blocks.1.")) for k in gammas)
    assert {p.numel() for k, p in network.named_parameters() if "gamma" in k} == {16, 48}
    assert {
        k for k, _ in network.named_parameters() if k.endswith("bias")
    } <= trained and "y_embedder.embedding_table.weight" in trained


def test_both_lambdas_at_zero_are_plain_difffit_bit_for_bit(real, runs):
    of = replace(QUICK, lambda_r=0.0, lambda_d=0.0)
    tuned = minimax.tuned(real, BASE, of).network
    start = generators_dit.base(real, BASE)
    network = dit.difffit(start.network).train()
    trained = {k: p for k, p in network.named_parameters() if p.requires_grad}
    average = {k: p.detach().clone() for k, p in trained.items()}
    optimizer = torch.optim.AdamW(list(trained.values()), lr=of.lr, weight_decay=0.0, fused=True)
    rng, schedule, pixels = stream(of.seed, "Minimax"), Schedule.linear(), real.pixels() * 2 - 1
    order = torch.randperm(len(real), generator=rng)
    for step in range(of.steps):
        index = order[4 * step : 4 * step + 4]
        z = pixels[index]
        t = torch.randint(1000, (4,), generator=rng)
        noise = torch.randn(z.shape, generator=rng)
        dropped = torch.rand(4, generator=rng) < of.drop
        z_t = schedule.noised(z, t, noise)
        answer = network(z_t, t, torch.where(dropped, 10, real.labels[index]))
        error, bound = schedule.losses(answer, z, z_t, t, noise)
        optimizer.zero_grad()
        (error.mean() + bound.mean()).backward()
        optimizer.step()
        for k, p in trained.items():
            average[k].lerp_(p.detach(), 1 - of.ema)
    found = dict(tuned.named_parameters())
    assert all(torch.equal(found[k], average[k]) for k in trained)
    frozen = dict(start.network.named_parameters())
    assert all(torch.equal(found[k], frozen[k]) for k in frozen if k not in trained)
    other = dict(minimax.tuned(real, BASE, QUICK).network.named_parameters())
    assert not all(torch.equal(found[k], other[k]) for k in trained)  # with them it is another run


def test_two_checkpoints_of_one_name_are_told_apart(real, tmp_path):
    checkpoint, places = tmp_path / "own.safetensors", set()
    for content in ("a", "another"):
        checkpoint.write_text(content)
        places.add(minimax.tuned_file(real, replace(BASE, weights=str(checkpoint)), QUICK))
    assert len(places) == 2


def test_fine_tuning_resumes_bit_for_bit(real, runs, monkeypatch):
    whole = minimax.tuned(real, BASE, QUICK).network
    kept = minimax.tuned_file(real, BASE, QUICK)
    monkeypatch.setenv("DISTILL_RUNS", str(runs / "other"))
    resumed, stops = in_steps(lambda loop: minimax.tuned(real, BASE, QUICK, loop).network, runs / "ckpt")
    assert stops == BASE.steps + QUICK.steps - 2
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert kept.parent.name.startswith("minimax-digits-")


def test_all_parameters_may_be_tuned_and_early_timesteps_alone_enter(real, runs):
    full = minimax.tuned(real, BASE, replace(QUICK, parameters="all")).network
    assert full.arch.scaled == 0
    start = generators_dit.base(real, BASE).network
    changed = [
        k for (k, a), b in zip(full.named_parameters(), start.parameters(), strict=True) if not torch.equal(a, b)
    ]
    assert "blocks.0.mlp.fc1.weight" in changed and "pos_embed" not in changed
    none, all_ = (minimax.tuned(real, BASE, replace(QUICK, up_to=t)).network for t in (1, None))
    assert not all(torch.equal(a, b) for a, b in zip(none.parameters(), all_.parameters(), strict=True))


# --- rows -------------------------------------------------------------------------------------------------------------
def test_rows_share_their_stages_and_their_pool(real, runs):
    ipc = 2
    rows = [replace(m.paper_config("digits", ipc).smoke(), base=BASE) for m in (dit_row, minimax, dgs)]
    rows[1:] = [replace(c, tuning=QUICK) for c in rows[1:]]
    made = [m.distill(real, c, seed=0) for m, c in zip((dit_row, minimax, dgs), rows, strict=True)]
    folders = [sorted(p.name for p in (runs / kind).iterdir() if p.is_dir()) for kind in ("generators", "pools")]
    assert [n.split("-")[0] for n in folders[0]] == ["dit", "minimax"] and len(folders[1]) == 2
    report = made[2].facts.extra["dgs"]
    pool = minimax.draw_pool(real, BASE, QUICK, rows[2].sampling, 5 * ipc, 0)
    wanted = pool.pixels()[pool.class_index[3]][torch.tensor(report[3]["places"])]
    assert torch.allclose(made[2].pixels()[2 * 3 : 2 * 3 + 2], wanted, atol=1e-5)
    assert torch.allclose(made[1].pixels()[:2], pool.pixels()[:2], atol=1e-5)  # Minimax takes the first ones
    plain = dgs.distill(real, replace(rows[2], tuning=None), seed=0)  # the sampler on a pool of plain DiT
    assert not torch.equal(plain.images, made[2].images)


def test_settings_of_the_published_rows():
    cfg = minimax.paper_config("ImageWoof", 50)
    of = cfg.tuning
    assert (of.batch, of.lr, of.lambda_r, of.lambda_d, of.memory, of.ema, of.steps) == (
        8,
        1e-3,
        0.002,
        0.008,
        64,
        0.9999,
        12_000,
    )
    assert (cfg.sampling.steps, cfg.sampling.guidance, cfg.sampling.channels, cfg.base.side) == (
        50,
        4.0,
        "official",
        256,
    )
    assert minimax.paper_config("ImageWoof@64px", 10).small().base.autoencoder == "taef2"
    assert minimax.paper_config("digits", 10).base.autoencoder == "identity"


# --- experiments ------------------------------------------------------------------------------------------------------
TABLES = [pages.TABLE1, pages.TABLE2, pages.TABLE3, pages.TABLE4]


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_have_the_papers_cells(name):
    cells = experiments.experiment(name).cells(experiments.check_parameters(name, {}))
    found = [reported.lookup(name, c.method, c.dataset, c.ipc, c.network, c.variant) for c in cells]
    assert all(found) and len({c.stem for c in cells}) == len(cells)
    printed = {(r["method"], r["dataset"], r["ipc"], r["network"], r["variant"]) for r in reported.cells_of(name)}
    at = {c: [c.ipc] if c.ipc else (10, 20, 50) for c in cells}  # full data is printed again at every ipc
    ours = {(c.method, c.dataset, ipc, c.network, c.variant) for c in cells for ipc in at[c]}
    assert ours == printed and len(printed) == len(reported.cells_of(name))


@pytest.mark.parametrize("profile", ["smoke", "small", "full"])
@pytest.mark.parametrize("name", TABLES)
def test_every_cell_has_a_task_or_a_reason(name, profile):
    params = experiments.check_parameters(name, {"profile": profile})
    tasks = [experiments.experiment(name).task(c, params) for c in experiments.experiment(name).cells(params)]
    assert all(isinstance(t, Task | Skip) for t in tasks)
    assert any(isinstance(t, Task) for t in tasks) == (profile != "small" or name in (pages.TABLE1, pages.TABLE2))
    assert profile != "full" or not any(isinstance(t, Skip) for t in tasks)
    for task in (t for t in tasks if isinstance(t, Task)):
        assert networks.canonical(task.network) == task.network and ("@" in task.protocol) == (profile != "full")
        assert task.dataset == {"smoke": pages.COLOUR}.get(profile, f"{task.cell.dataset}@{pages.SIDE.get(profile)}px")
        shape = (3, {"smoke": 32, "small": 64, "full": 224}[profile], {"smoke": 32, "small": 64, "full": 224}[profile])
        with torch.device("meta"):
            names._resolve(task.network)[1](shape, 10)  # the network takes images of this size


def test_the_row_dgs_is_the_same_set_in_three_tables():
    """One set of runs, as in the paper: Table 1's row, Table 3's Scale and Table 4's five times."""
    for profile in ("smoke", "full"):
        params = {n: experiments.check_parameters(n, {"profile": profile}) for n in TABLES}
        first = pages.table1_task(
            next(c for c in pages.table1_cells(params[TABLES[0]]) if (c.method, c.network) == ("DGS", "ResNetAP-10")),
            params[TABLES[0]],
        )
        scale = pages.table3_task(
            next(c for c in pages.table3_cells(params[TABLES[2]]) if "Scale" in c.variant), params[TABLES[2]]
        )
        five = pages.table4_task(
            next(c for c in pages.table4_cells(params[TABLES[3]]) if "5x" in c.variant), params[TABLES[3]]
        )
        assert first.config == scale.config == five.config and first.dataset == scale.dataset == five.dataset


def test_figures_show_what_is_kept_and_nothing_where_nothing_is(real, runs, monkeypatch):
    monkeypatch.setenv("DISTILL_RESULTS", str(runs / "results"))
    blank = experiments.check_parameters(pages.FIGURE2, {})
    assert (
        tables_dgs.difficulty_of(blank) == {}
        and tables_dgs.examples(experiments.check_parameters(pages.FIGURE3, {})) == {}
    )
    config = replace(METHODS["DGS"].paper_config("digits", 3).smoke(), base=BASE, tuning=QUICK)
    cell = pages.Cell(pages.TABLE1, "DGS", "ImageWoof", 3, "ResNetAP-10", pages.PROTOCOL)
    made, scores = dgs.distill(real, config, seed=0), dgs.scored(real, config.scoring).real
    task = Task(cell, config, "digits", pages.PROTOCOL)
    monkeypatch.setattr(tables_dgs, "_dgs", lambda params: (task, real, made, scores))
    params = experiments.check_parameters(pages.FIGURE2, {"profile": "small", "ipc": 3})
    found = tables_dgs.difficulty_of(params)
    assert (
        tables_dgs.difficulty_of(experiments.check_parameters(pages.FIGURE2, {"ipc": 3})) == found
    )  # recorded reads it back
    for k, c in enumerate(found["classes"].values()):
        assert (len(c["real"]), len(c["pool"]), len(c["places"]), len(set(c["plain"]))) == (
            len(real.class_index[k]),
            15,
            3,
            3,
        )
    figure = figures.difficulty_histograms(tables_dgs.histograms(found["classes"]))
    sums = [round(sum(bar.get_height() for bar in axis.patches)) for axis in figure.axes]  # percent of each set
    assert sums == [100] * 12
    means = [any("mean" in text.get_text() for text in axis.texts) for axis in figure.axes]
    assert means == ([True] * 3 + [False] * 3) * 2  # of the raw scores alone
    assert len(tables_dgs.variation(found)) == 2
    shown = tables_dgs.examples(experiments.check_parameters(pages.FIGURE3, {"profile": "small", "ipc": 3}))
    again = tables_dgs.examples(experiments.check_parameters(pages.FIGURE3, {"ipc": 3}))
    assert list(shown) == list(again) == ["0, original", "0, distilled", "1, original", "1, distilled"]
    images, values = shown["0, original"]
    assert len(images) == 10 and torch.equal(again["0, original"][0].images, images.images)
    own = scores[real.class_index[0]]
    assert values[5] == own[(own - 0.5).abs().argmin()].item()
    rows = figures.examples_by_difficulty(shown).axes  # a row per class and set: ten scores and its name
    assert [len(axis.texts) for axis in rows] == [11] * 4
    assert abs(values[5] - 0.5) > 0.1 and rows[0].texts[5].get_text() == "none"  # no image near that difficulty


def test_pre_defined_targets_are_drawn_from_their_counts():
    sums = [round(sum(bar.get_height() for bar in axis.patches)) for axis in figures.target_counts(dgs.PREDEFINED).axes]
    assert sums == [ipc for ipc in (10, 20, 50) for _ in range(4)]


def test_the_objective_map_marks_infinite_cells():
    values = np.array([[np.inf, 2.0], [1.0, np.nan]])
    axis = figures.objective_map(values).axes[0]
    assert sorted(t.get_position() for t in axis.texts if t.get_text() == "×") == [(0, 0), (1, 1)]
    assert axis.lines[0].get_xydata().tolist() == [[0, 1]]
