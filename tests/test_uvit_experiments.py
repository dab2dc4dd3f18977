"""U-ViT's pages: their cells are the paper's, one generator serves them all, scores are measured and resumed, pictures
show what was kept."""

import json
import statistics
import time

import pytest
import torch

from distill_lib import experiments, figures, networks
from distill_lib.core.errors import TimeUp, UserError
from distill_lib.core.loop import Loop
from distill_lib.core.settings import as_dict, replace
from distill_lib.data import ImageSet
from distill_lib.evaluation import protocols
from distill_lib.evaluation.metrics.generative import Scores
from distill_lib.experiments import Skip, Task, compute, engine
from distill_lib.experiments.papers import uvit as pages
from distill_lib.experiments.sample_scores import Quality, score_samples
from distill_lib.figures import diagrams
from distill_lib.generators.uvit import UViT, UViTArchitecture
from distill_lib.methods import METHODS
from distill_lib.records import Cell, Record, reported
from distill_lib.tables import claims
from distill_lib.tables import uvit as tables_uvit

WITH_CELLS = [pages.TABLE2, pages.FIGURE4, pages.BUDGET]


def tasks(name, profile):
    params = experiments.check_parameters(name, {"profile": profile})
    definition = experiments.experiment(name)
    return [definition.task(cell, params) for cell in definition.cells(params)]


def recorded(name):
    return engine.run(name, experiments.check_parameters(name, {}))


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))
    return tmp_path


# --- cells and budgets ----------------------------------------------------------------------------
def test_figure4_measures_the_papers_own_entry():
    cells = pages.figure4_cells(experiments.check_parameters(pages.FIGURE4, {}))
    rows = [reported.lookup(pages.FIGURE4, c.method, c.dataset, c.ipc, c.network, c.variant) for c in cells]
    assert [(r["dataset"], r["value"], r["axes"]["team"]) for r in rows] == [
        ("CIFAR100", 37.56, "zheli"),
        ("TinyImageNet", 23.53, "zheli"),
    ]
    for task in tasks(pages.FIGURE4, "full"):
        assert (task.config.seconds, task.num_eval, task.protocol) == (600, 3, "challenge")


@pytest.mark.parametrize("name", WITH_CELLS)
def test_both_data_sets_are_judged_by_the_network_of_the_challenges_script(name):
    """Width 128 and depth 3, at 64 pixels too: the parameters of its ConvNet as its file defines it."""
    judged = {t.dataset: t.key["network"] for t in tasks(name, "full") if t.dataset in pages.IN_PAPER}
    shapes = {"CIFAR100": ((3, 32, 32), 100, 504_420), "TinyImageNet": ((3, 64, 64), 200, 1_938_120)}
    assert judged.keys() == shapes.keys()
    for dataset, (shape, classes, parameters) in shapes.items():
        network = networks.blank(judged[dataset], shape, classes)
        assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("name", WITH_CELLS)
@pytest.mark.parametrize("profile", ["smoke", "small", "full"])
def test_every_cell_has_a_task_or_a_reason(name, profile):
    found = tasks(name, profile)
    assert all(isinstance(t, Task | Skip) for t in found)
    measured = [t for t in found if isinstance(t, Task)]
    assert bool(measured) == (name != pages.FIGURE4 or profile == "full")
    for task in measured:
        assert ("@" in task.key["protocol"]["name"]) == (profile != "full")
        assert task.dataset == task.cell.dataset or profile == "smoke"
    assert profile != "full" or len(measured) == len(found)


@pytest.mark.parametrize("profile", ["small", "full"])
def test_one_generator_of_a_data_set_serves_all_pages(profile):
    stage1 = {}
    for name in WITH_CELLS:
        for task in tasks(name, profile):
            if isinstance(task, Task) and task.cell.method == "U-ViT":
                stage1.setdefault(task.dataset, []).append((as_dict(task.config.training), task.config.training_seed))
    assert stage1 and all(all(s == found[0] for s in found) for found in stage1.values())


def test_what_fid_is_measured_of_is_what_the_budget_page_trains_on():
    by_data = {t.dataset: t for t in tasks(pages.TABLE2, "small") if isinstance(t, Task)}
    assert set(by_data) == {"FashionMNIST", "CIFAR10"}
    for task in tasks(pages.BUDGET, "small"):
        if isinstance(task, Task) and (task.cell.method, task.cell.ipc) == ("U-ViT", 500):
            assert (task.config, task.protocol, task.num_eval) == (
                (other := by_data[task.dataset]).config,
                other.protocol,
                other.num_eval,
            )
            assert task.config.ipc * 10 == other.scores.scores.samples == 5000


def test_networks_are_trained_for_about_as_many_steps_whatever_the_size():
    names = {t.protocol for t in tasks(pages.BUDGET, "small") if isinstance(t, Task)}
    assert (
        names == {"challenge_steps@300ep"} == {t.protocol for t in tasks(pages.TABLE2, "small") if isinstance(t, Task)}
    )
    rule = protocols.protocol(names.pop())
    for ipc in (*pages.SMALL_IPCS, 173):
        assert 295 <= rule.num_epochs(ipc, 10 * ipc) * rule.batches(10 * ipc) <= 325


def test_seconds_are_seconds_and_a_name_of_features_reaches_the_record():
    timed = {t.cell.variant: t.config for t in tasks(pages.BUDGET, "full") if isinstance(t, Task) and t.cell.variant}
    assert {name: (c.seconds, c.ipc) for name, c in timed.items()} == {
        f"{s} s": (float(s), None) for s in pages.SECONDS
    }
    params = experiments.check_parameters(pages.TABLE2, {"profile": "full", "extractor": "ResNet-20"})
    task = pages.table2_task(pages.table2_cells(params)[0], params)
    assert task.key["scores"]["scores"]["extractor"] == "ResNet-20" and task.config.ipc == 500
    with pytest.raises(UserError, match="unknown dataset 'CIFAR'"):
        experiments.check_parameters(pages.TABLE2, {"datasets": ["CIFAR"]})


def test_table1_counts_what_is_built():
    table = tables_uvit.configurations().set_index("model")
    assert table["parameters"].to_dict() == {
        "Small, unconditional": "44,255,328",
        "Small, 100 classes": "44,307,040",
        "Mid, 1000 classes": "130,940,292",
        "Mid, 200 classes": "130,325,892",
        "Large, 1000 classes": "286,827,652",
        "ours for CPUs, 10 classes": "1,077,764",
    }
    assert table["blocks"].tolist() == [13, 13, 17, 17, 21, 5]
    assert table["tensors"].tolist()[:5] == [164, 165, 213, 213, 261]
    assert table.iloc[0]["paper: layers, hidden, MLP, heads, parameters"] == "13, 512, 2048, 8, 44 M"


# --- scores ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def scored(digits):
    """A task on digits with a generator of seconds, its set, and what an unbroken run measures."""
    config = METHODS["U-ViT"].paper_config("digits", 6).smoke()
    config = replace(config, training=replace(config.training, steps=20, looks=2, width=16, patch=4))
    of = Quality(replace(Scores().smoke(), memorised=20), looks=40)
    task = Task(
        Cell(pages.TABLE2, "U-ViT", "CIFAR10", None, "ConvNet", pages.STEPS),
        config,
        "digits",
        "vico_dsa@1ep",
        num_eval=1,
        scores=of,
    )
    synthetic = METHODS["U-ViT"].distill(digits[0], config, 0)
    return task, synthetic, score_samples(task, synthetic, *digits, Loop())


def test_scores_carry_their_features_and_number_and_the_curve_ends_with_the_final_weights(scored, digits):
    task, synthetic, found = scored
    network = task.scores.scores.trained.network
    assert {
        f"FID-{network}-60",
        f"KID-{network}-60",
        "precision",
        "coverage",
        "recognised_pct",
        "nearest_median",
    } <= set(found)
    assert all(isinstance(v, list) and len(v) == 1 for v in found.values())
    json.dumps(found)
    (curve,) = found["curve"]
    assert [p["step"] for p in curve] == [10, 20] and set(curve[0]) == {
        "step",
        f"FID-{network}-40",
        f"KID-{network}-40",
        "recognised_pct",
    }
    from distill_lib.evaluation.metrics.generative import Judge
    from distill_lib.generators import uvit

    labels, c = torch.arange(40) % 10, task.config
    model = METHODS["U-ViT"].prepare(digits[0], c, 0).model()
    images = uvit.generate(model, labels, 0, 0, c.steps, c.sampler, c.batch, c.precision)
    judge = Judge(digits[0], None, replace(task.scores.scores, samples=40))
    last = judge.distances(ImageSet(images, labels, digits[0].facts))
    assert {k: v for k, v in curve[-1].items() if k != "step"} == pytest.approx(last, rel=1e-4)


def test_an_interrupted_measurement_goes_on_where_it_was(scored, digits, tmp_path, monkeypatch):
    from distill_lib.generators import uvit

    task, synthetic, unbroken = scored
    drawn, original = [], uvit.generate

    def counted(*args, **options):
        drawn.append(1)
        return original(*args, **options)

    monkeypatch.setattr(uvit, "generate", counted)
    with pytest.raises(TimeUp, match="0 of 2 moments"):
        score_samples(task, synthetic, *digits, Loop(tmp_path, deadline=time.monotonic() - 1))
    (tmp_path / "curve.json").write_text(json.dumps(unbroken["curve"][0][:1]))
    assert score_samples(task, synthetic, *digits, Loop(tmp_path)) == unbroken and len(drawn) == 1


def test_a_cell_with_scores_records_them_beside_its_accuracy(scored, digits, results, monkeypatch):
    record = compute.compute(scored[0], compute.Run("smoke"))
    assert record.metrics["curve"] == scored[2]["curve"] and len(record.test_accuracy_pct) == 1
    assert set(record.seconds) == {"distill", "evaluate", "measure"} and record.key["scores"]["looks"] == 40
    assert record.metrics["images"] == [60]


# --- tables and figures ---------------------------------------------------------------------------
METRICS = {
    "features": ["ResNet-56: ..."],
    "FID-ResNet-56-5000": [12.5],
    "KID-ResNet-56-5000": [0.25],
    "recognised_pct": [71.0],
    "precision": [0.5],
    "recall": [0.25],
    "density": [0.75],
    "coverage": [0.125],
    "nearest_median": [0.1],
    "nearest_minimum": [0.05],
    "nearest_median_test": [0.11],
    "nearest_below_test_pct": [1.5],
    "images": [1500],
    "images_per_second": [25.0],
    "curve": [
        [
            {"step": 5, "FID-ResNet-56-1000": 30.0, "KID-ResNet-56-1000": 0.5, "recognised_pct": 20.0},
            {"step": 10, "FID-ResNet-56-1000": 20.0, "KID-ResNet-56-1000": 0.4, "recognised_pct": 60.0},
        ]
    ],
}


def keep(cell, values, profile="small", **key):
    key = {
        "dataset": cell.dataset,
        "protocol": {"name": f"{cell.protocol}@15ep"},
        "config": {"training": {"steps": 3000}},
        **key,
    }
    Record(cell, values, [0] * len(values), key, METRICS, made_by={"device": "a machine"}).save(profile)


def test_nothing_recorded_says_so(results):
    outcome = recorded(pages.TABLE2)
    table = tables_uvit.fid_table(outcome)
    assert table["ours"].tolist() == ["not run"] * 4 and table["paper"].tolist() == ["39.85", "41.51", "", ""]
    assert tables_uvit.curves(outcome) == {} and len(tables_uvit.nearest_table(outcome)) == 0
    assert (
        len(tables_uvit.budget_points(recorded(pages.BUDGET))) == 0
        and len(tables_uvit.beside_leaderboard("recorded")) == 0
    )
    assert tables_uvit.samples(experiments.check_parameters(pages.SAMPLES, {})) == {}
    assert (tables_uvit.leaderboard(recorded(pages.FIGURE4))["who"] == "printed").all()


def test_table2_shows_each_number_under_its_own_name(results):
    keep(Cell(pages.TABLE2, "U-ViT", "CIFAR10", None, "ConvNet", pages.STEPS), [40.0, 42.0])
    outcome = recorded(pages.TABLE2)
    row = tables_uvit.fid_table(outcome).iloc[3]
    assert (row["ours"], row["ours is called"], row["recognised (%)"], row["ConvNet's accuracy (%)"]) == (
        "12.5",
        "FID-ResNet-56-5000",
        "71.0",
        "41.0 ± 1.0",
    )
    assert tables_uvit.nearest_table(outcome).iloc[0].tolist() == ["CIFAR10", "small", "0.100", "0.110", "0.050", "1.5"]
    ((name, curve),) = tables_uvit.curves(outcome).items()
    axes = figures.fid_curves({name: curve}).axes
    assert name == "CIFAR10, small" and axes[0].get_ylabel() == "FID-ResNet-56-1000"
    assert [axis.lines[0].get_ydata().tolist() for axis in axes] == [[30, 20], [20, 60]]


def test_the_claims_page_draws_every_arm_over_images_and_all_but_real_ones_over_seconds():
    found = claims.of("uvit")
    points = tables_uvit.claimed_points(found)
    arms = {r.cell: r for f in found if f.claim.quantity == "accuracy" for r in f.arms.values()}
    if not arms:
        pytest.skip("no record of an arm")
    over_images, over_seconds = (points[points["axis"] == axis] for axis in points["axis"].unique())
    assert len(over_images) == len(arms) and "Random" not in set(over_seconds["method"])
    for point, (cell, record) in zip(over_images.itertuples(), arms.items(), strict=True):
        assert (point.method, point.x, point.networks) == (cell.method, cell.ipc, len(record.done))
        assert point.value == pytest.approx(statistics.fmean(record.test_accuracy_pct))  # as many networks on each set
    ticks = [axis.get_xticks().tolist() for axis in figures.accuracy_over_budget(points).axes]
    for shown, drawn in zip(ticks, (over_images, over_seconds)):
        assert set(shown) <= set(drawn["x"]) and min(shown) == drawn["x"].min()


def test_the_budget_page_draws_accuracy_over_images_and_over_seconds(results):
    for method, ipc, value in (("U-ViT", 10, 30.0), ("U-ViT", 100, 40.0), ("Random", 10, 50.0)):
        keep(Cell(pages.BUDGET, method, "CIFAR10", ipc, "ConvNet", pages.STEPS), [value, value + 2])
    keep(Cell(pages.BUDGET, "U-ViT", "CIFAR10", None, "ConvNet", pages.STEPS, "60 s"), [45.0])
    points = tables_uvit.budget_points(recorded(pages.BUDGET))
    axes = figures.accuracy_over_budget(points).axes
    drawn = [
        {c.get_label(): (c[0].get_xdata().tolist(), c[0].get_ydata().tolist()) for c in axis.containers}
        for axis in axes
    ]
    assert drawn == [{"U-ViT": ([10, 100], [31, 41]), "Random": ([10], [51])}, {"U-ViT": ([60], [45])}]
    bars = [len(axis.containers[0][2][0].get_segments()[0]) for axis in axes]
    assert bars == [2, 0]  # of a single network there is no spread
    last = tables_uvit.budget_table(points).iloc[-1]
    assert (last["budget"], last["images"], last["images/s"], last["accuracy (%)"]) == (
        "60 seconds of generation",
        "1,500",
        "25.0",
        "45.0",
    )
    beside = tables_uvit.beside_leaderboard("recorded").iloc[0]
    assert (beside["data set"], beside["seconds of generation"], beside["test accuracy (%)"], beside["device"]) == (
        "CIFAR10",
        60,
        45.0,
        "a machine",
    )


def test_ours_enters_the_leaderboard_from_full_records_only(results):
    cell = Cell(pages.FIGURE4, "U-ViT", "CIFAR100", None, "ConvNet", pages.PROTOCOL, "track=2")
    keep(cell, [30.0], "small")
    assert (tables_uvit.leaderboard(recorded(pages.FIGURE4))["who"] == "printed").all()
    keep(cell, [30.0, 32.0], "full")
    entries = tables_uvit.leaderboard(recorded(pages.FIGURE4))
    (ours,) = entries[entries["who"] == "ours"].to_dict("records")
    assert ours == {"track": 2, "team": "ours, 600 s on a machine", "dataset": "CIFAR100", "value": 31.0, "who": "ours"}
    printed = entries[entries["who"] == "printed"]
    assert (
        len(printed) == 28
        and printed["value"].max() == pytest.approx(40.61)
        and "zheli (this paper)" in set(printed["team"])
    )
    figure = figures.leaderboard(entries, {"CIFAR100": 1.0, "TinyImageNet": 0.5})
    widths = sorted(round(bar.get_width(), 2) for bar in figure.axes[1].patches)
    assert widths == sorted(round(v, 2) for v in entries.loc[entries["track"] == 2, "value"])
    assert [bar.get_width() for bar in figure.axes[1].patches if bar.get_hatch()] == [31.0]


def test_samples_are_kept_with_their_neighbours_and_shown_again(results, digits, monkeypatch):
    monkeypatch.setattr(pages, "STAND_INS", {"FashionMNIST": "digits"})
    small = METHODS["U-ViT"].paper_config("FashionMNIST").smoke().training
    monkeypatch.setattr(
        pages,
        "config_of",
        lambda d, ipc, profile: METHODS["U-ViT"].Config(
            seconds=None,
            ipc=ipc,
            training=replace(small, steps=20, width=16),
            steps=4,
            sampler="dpm++2m",
            batch=100,
            precision="float32",
        ),
    )
    params = experiments.check_parameters(pages.SAMPLES, {"profile": "smoke", "per_class": 2, "seed": 3})
    ((name, (made, near)),) = tables_uvit.samples(params).items()
    assert (
        name == "digits, smoke"
        and made.labels.tolist() == sorted([*range(10)] * 2)
        and made.images.dtype == torch.uint8
    )
    extra, real = made.facts.extra, digits[0]
    index = torch.tensor(extra["nearest training images"])
    assert torch.equal(near.images, real.images[index]) and torch.equal(near.labels, real.labels[index])
    gaps = (made.pixels()[:, None] - real.pixels()[None]).square().mean((2, 3, 4)).sqrt()
    assert extra["distances"]["pixels"]["of each sample"] == pytest.approx(gaps.min(1).values.tolist(), abs=1e-4)
    assert extra["seed"] == 3 and 0 <= extra["recognised_pct"] <= 100 and extra["made_by"]["torch"]
    row = tables_uvit.samples_table({name: (made, near)}).iloc[0]
    assert row["images"] == 20 and row["training steps"] == 20
    figure = figures.samples_and_nearest(made, near, extra["distances"]["pixels"]["of each sample"])
    left, right = (axis.images[0].get_array()[..., 0] for axis in figure.axes)  # grey, and clear between images
    first = made.pixels()[:2, 0].numpy()
    assert (
        (left[:8, :8] == first[0]).all()
        and (left[:8, 11:19] == first[1]).all()
        and (right[:8, :8] == near.pixels()[0, 0].numpy()).all()
    )
    assert [t.get_text() for t in figure.axes[1].texts] == [
        f"{d:.2f}" for d in extra["distances"]["pixels"]["of each sample"]
    ]

    for free in (
        (),
        ("CC",),
    ):  # what a small run keeps is what the book shows; images go with it where the licence lets them
        monkeypatch.setattr(tables_uvit, "COPYABLE", free)
        ((_, at_hand),) = tables_uvit.samples(params).values()
        assert torch.equal(at_hand.images, near.images)
        for kind in ("samples", "nearest"):
            if (kept := tables_uvit._artefact("smoke", "FashionMNIST", kind)).exists():
                target = tables_uvit._artefact("small", "FashionMNIST", kind)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(kept.read_bytes())
        again, beside = tables_uvit.samples(experiments.check_parameters(pages.SAMPLES, {}))["digits, small"]
        assert torch.equal(again.images, made.images) and (beside is not None) == bool(free)
    assert torch.equal(beside.images, near.images)
    alone = figures.samples_and_nearest(again, None, extra["distances"]["pixels"]["of each sample"]).axes
    assert (
        len(alone) == 1
        and sum(t.get_text() == f"{extra['distances']['pixels']['of each sample'][0]:.2f}" for t in alone[0].texts) >= 1
    )


def test_drawings_name_what_the_paper_names_and_what_it_does_not_have():
    overview = " ".join(t.get_text() for t in diagrams.uvit_overview().axes[0].texts)
    for part in ("real set", "synthetic", "matched", "diffusion model", "ten minutes", "classifier"):
        assert part in overview
    words = [t.get_text() for t in diagrams.uvit_architecture(8).axes[0].texts]
    assert "no down- or upsampling" in " ".join(words) and words.count("8 blocks") == 2
    tokens = [b.numel() for b in UViT(UViTArchitecture(width=32, depth=2, heads=2, num_classes=10)).pos_embed]
    assert "[label, time, patches]" in " ".join(words) and tokens == [32 * (2 + 256)]
