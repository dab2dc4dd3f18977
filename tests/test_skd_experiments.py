"""SKD's other pages: their cells are the paper's, their budgets are runnable, their pictures compare like with like."""

import pytest
import torch

from distill_lib import data, experiments, figures, records, tables
from distill_lib.core import paths
from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.core.settings import as_dict
from distill_lib.experiments import Skip, Task, compute, engine
from distill_lib.experiments.definition import changed
from distill_lib.experiments.papers import skd
from distill_lib.experiments.papers.skd import TABLE1
from distill_lib.figures import diagrams
from distill_lib.generators import cgan
from distill_lib.generators.generated import GeneratedSet
from distill_lib.methods import METHODS
from distill_lib.publish import pages as book_pages
from distill_lib.records import Cell, Record, record, reported
from distill_lib.tables import gallery
from distill_lib.tables import skd as tables_skd


def made(real, seed, ipc=1):
    of = cgan.Architecture(real.shape, real.num_classes, width=8)
    return GeneratedSet.made("SKD", real, cgan.redraw(cgan.Generator(of), stream(seed, "weights")), ipc, seed=seed)


def test_table2_has_the_papers_cells():
    cells = skd.table2_cells(experiments.check_parameters(skd.TABLE2, {}))
    printed = {(r["method"], r["network"]) for r in reported.cells_of(skd.TABLE2)}
    assert {(c.method, c.network) for c in cells} == printed and len(cells) == len(printed)
    assert all((c.dataset, c.ipc) == ("CIFAR10", 10) for c in cells)


@pytest.mark.parametrize("name", [skd.TABLE2, skd.ABLATIONS])
@pytest.mark.parametrize("profile", ["smoke", "small", "full"])
def test_every_cell_has_a_task_or_a_reason(name, profile):
    params = experiments.check_parameters(name, {"profile": profile})
    tasks = [experiments.experiment(name).task(c, params) for c in experiments.experiment(name).cells(params)]
    assert all(isinstance(t, Task | Skip) for t in tasks) and any(isinstance(t, Task) for t in tasks)
    for task in tasks:
        if isinstance(task, Task):
            assert ("@" in task.key["protocol"]["name"]) == (profile != "full")
            assert task.dataset == task.cell.dataset or profile != "full"
    assert profile != "full" or not any(isinstance(t, Skip) for t in tasks)


def test_small_table2_takes_the_generators_that_table1_and_no_others_make():
    params = experiments.check_parameters(skd.TABLE2, {"profile": "small"})
    task = skd.table2_task(Cell(skd.TABLE2, "SKD", "CIFAR10", 10, "ResNet18", "dim"), params)
    assert task.config == skd.table1_task(Cell(TABLE1, "SKD", "FashionMNIST", 10, "ConvNet", "dim"), params).config
    assert task.dataset == "FashionMNIST"


@pytest.mark.parametrize("variant", list(skd.VARIANTS))
def test_a_variant_changes_one_setting_and_the_budgets_keep_it(variant):
    base = METHODS["SKD"].paper_config("FashionMNIST", 10)
    config = changed(base, *skd.VARIANTS[variant])
    before, after = as_dict(base), as_dict(config)
    differs = records.differences(before, after)
    assert len(differs) == (0 if variant == "default" else 1)
    assert (config.small() == base.small()) == (variant == "default")


def test_an_unknown_variant_is_one_clear_error():
    with pytest.raises(UserError, match="unknown variant 'tau 3'"):
        experiments.check_parameters(skd.ABLATIONS, {"variants": ["tau 3"]})


def test_generators_draw_from_the_same_noise(real):
    first, again, other = (tables_skd.drawn(made(real, seed), 2, seed=0) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    assert first.images.dtype == torch.uint8 and torch.bincount(first.labels).tolist() == [2] * 10
    same = made(real, 1)
    fresh = GeneratedSet(same.generator, same.facts, 2, seed=0)
    assert (fresh.pixels() * 255 - first.images.float()).abs().max() <= 0.5


def test_figure2_shows_what_is_kept_and_nothing_where_nothing_is(real, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))
    params = experiments.check_parameters(skd.FIGURE2, {})
    assert tables_skd.samples(params) == {} and tables_skd.health_kept(params) == {}
    kept = tables_skd.drawn(made(real, 1), 3, seed=0)
    kept.save(paths.results("small") / tables_skd.artefact("MNIST", "SKD (no standardisation)"))
    (paths.results("small") / tables_skd.artefact("MNIST", "health", "csv")).write_text(
        "step,loss_generator,loss_discriminator,class_accuracy_pct,frechet_distance\n5,1,2,30,40\n9,1,1,60,20\n"
    )
    shown = tables_skd.samples(params)
    assert list(shown) == ["MNIST"] and torch.equal(shown["MNIST"]["SKD (no standardisation)"].images, kept.images)
    looks = tables_skd.health_kept(params)
    figure = figures.gan_health(looks)
    drawn = [line.get_ydata().tolist() for axis in figure.axes for line in axis.lines]
    assert drawn == [[1, 1], [2, 1], [30, 60], [40, 20]]


def test_pictures_and_films_are_made_again_for_other_settings(real, tmp_path, monkeypatch):
    """A file that does not say what it was made with was made with the default settings."""
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))
    made = []

    def pictures(*task_and_params):
        made.append(task_and_params)
        return data.ImageSet(real.images[:10], torch.arange(10), real.synthetic_facts())

    monkeypatch.setattr(gallery, "_filmed", pictures)
    monkeypatch.setattr(gallery, "distilled", lambda task, *rest: (pictures(task), None))
    one = {"profile": "small", "methods": ["DM"], "datasets": ["FashionMNIST"]}
    runs = [(gallery.films, skd.TIMELAPSE, {}), (gallery.films, skd.TIMELAPSE, {"moments": 4})]
    runs += [(gallery.shelves, skd.GALLERY, {"ipcs": [1]}), (gallery.shelves, skd.GALLERY, {"ipcs": [1], "seed": 1})]
    for make, name, more in runs:
        params = experiments.check_parameters(name, {**one, **more})
        for count in (1, 0):
            made.clear()
            assert make(params) and len(made) == count, (more, count)
    recorded = {key: value for key, value in one.items() if key != "profile"}
    assert not gallery.films(experiments.check_parameters(skd.TIMELAPSE, recorded))  # what lies there is of 4 moments
    assert gallery.films(experiments.check_parameters(skd.TIMELAPSE, {**recorded, "moments": 4}))
    file = gallery._file("small", skd.GALLERY, "FashionMNIST", "DM")
    data.ImageSet(real.images[:10], torch.arange(10), real.synthetic_facts()).save(file)
    for more, count in (({}, 0), ({"seed": 1}, 1)):
        made.clear()
        assert gallery.shelves(experiments.check_parameters(skd.GALLERY, {**one, "ipcs": [1], **more}))
        assert len(made) == count
    with pytest.raises(UserError, match="moments"):
        experiments.check_parameters(skd.TIMELAPSE, {"moments": 1})


def test_the_pipeline_names_what_the_paper_names():
    words = " ".join(t.get_text() for t in diagrams.skd_pipeline().axes[0].texts)
    for part in ("noise", "label", "generator", "synthetic", "real", "ConvNet3, ResNet10", "standardised", "KL", "tau"):
        assert part in words


def test_numbers_stand_along_the_axis_they_vary_on(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))
    for method, network, values in (("SKD", "VGG11", [60.0, 62.0]), ("DiM", "ConvNet", [50.0])):
        key = {"dataset": "FashionMNIST", "protocol": {"name": "dim@30ep"}, "network": network}
        Record(Cell(skd.TABLE2, method, "CIFAR10", 10, network, "dim"), values, [0] * len(values), key).save("small")
    params = experiments.check_parameters(skd.TABLE2, {"methods": ["DiM", "SKD"], "networks": ["ConvNet", "VGG11"]})
    outcome = engine.run(skd.TABLE2, params)
    frame = tables.across(outcome, columns="network")
    ours = "ours, small, on FashionMNIST"
    assert list(frame.columns) == [("ConvNet", "paper"), ("ConvNet", ours), ("VGG11", "paper"), ("VGG11", ours)]
    assert frame.loc["SKD"].tolist() == ["68.2 ± 0.4", "not run", "69.2 ± 0.1", "61.0 ± 1.0"]
    assert frame.loc["DiM"].tolist() == ["66.2 ± 0.5", "50.0", "66.8 ± 0.5", "not run"]
    marks = tables.marks(outcome, panel="network")
    assert marks.groupby("panel")["data"].unique().map(list).to_dict() == {
        f"{network}\n{what}": [data]
        for network in ("ConvNet", "VGG11")
        for what, data in (("paper, CIFAR10", "CIFAR10"), ("ours, small; stand-in FashionMNIST", "FashionMNIST"))
    }
    ours = marks.loc[marks["who"] == "ours, small", ["method", "value"]]
    assert sorted(ours.values.tolist()) == [["DiM", 50.0], ["SKD", 61.0]]

    Record(
        Cell(skd.ABLATIONS, "SKD", "FashionMNIST", 10, "ConvNet", "dim", "tau 1"),
        [40.0],
        [0],
        key | {"network": "ConvNet"},
    ).save("small")
    params = experiments.check_parameters(skd.ABLATIONS, {"variants": ["default", "tau 1"]})
    outcome = engine.run(skd.ABLATIONS, params)
    assert tables.across(outcome, columns="dataset", rows="variant")["FashionMNIST"].values.tolist() == [
        ["not run"],
        ["40.0"],
    ]
    assert tables.details(outcome)["variant"].tolist() == ["tau 1"]


# --- Table 1 under one protocol -------------------------------------------------------------------
def fair_cells(**values):
    return skd.fair_cells(experiments.check_parameters(skd.RANKING, values))


def test_every_row_of_table_1_has_a_fair_cell():
    methods = [m for m in [*skd.ROWS, *skd.BESIDE] if m != "Full data"]
    cells = fair_cells()
    every = [(m, d, i) for m in methods for d in skd.DATASETS for i in skd.IPCS]
    assert sorted((c.method, c.dataset, c.ipc) for c in cells if c.protocol == skd.FAIR) == sorted(every)
    assert {c.method for c in cells if c.protocol != skd.FAIR} == {"KIP", "FRePo"}
    assert {c.experiment for c in cells} == {TABLE1} and set(cells) <= set(skd.table1_cells(skd.Table1Parameters()))


@pytest.mark.parametrize("profile", ["smoke", "small", "full"])
def test_fair_cells_have_one_protocol_and_one_network(profile):
    params = experiments.check_parameters(skd.RANKING, {"profile": profile})
    tasks = [t for c in skd.fair_cells(params) if isinstance(t := skd.table1_task(c, params), Task)]
    rules = {}
    for task in tasks:
        assert task.key["network"] == "ConvNet" and "networks" not in task.key
        protocol = {k: v for k, v in task.key["protocol"].items() if k not in ("name", "loss")}
        assert protocol == rules.setdefault((task.dataset, task.cell.ipc), protocol)
        assert not protocol["fresh_images"] and not protocol["lr_from_set"]
        assert task.key["protocol"]["loss"] == ("mse" if skd.labels(task.cell) == "learned" else "ce")
    assert {t.cell.method for t in tasks} >= (
        {"Random", "DM", "FRePo", "SKD"} if profile == "smoke" else {c.method for c in skd.fair_cells(params)}
    )


@pytest.mark.parametrize("method", ["KIP", "FRePo"])
def test_learned_labels_are_what_squared_error_and_arg_max_are_for(method, real):
    config = METHODS[method].paper_config("digits", 1).smoke()
    made = METHODS[method].distill(real, config, seed=0)
    assert made.labels.ndim == 2 and (made.labels.sum(1) - 1).abs().max() > 1e-3  # no probabilities
    learned, hard = (skd.labels(Cell(TABLE1, method, "MNIST", 1, protocol=p)) for p in (skd.LEARNED, skd.FAIR))
    assert (learned, hard, skd.labels(Cell(TABLE1, "DM", "MNIST", 1))) == ("learned", "arg-max of learned", "hard")


def test_fair_cells_change_no_record(monkeypatch):
    """The network of a row's own cell is still its own, and whatever is recorded belongs to a cell of the table."""
    params = experiments.check_parameters(TABLE1, {"profile": "small"})
    own = skd.table1_task(Cell(TABLE1, "FRePo", "MNIST", 1, protocol="frepo_mse"), params)
    assert own.key["network"] == "FRePoConvW64"
    monkeypatch.delenv("DISTILL_RESULTS", raising=False)
    stems = {c.stem for c in skd.table1_cells(params)}
    recorded = [f.stem for f in (paths.results("small") / TABLE1).glob("*.json")]
    assert set(recorded) <= stems
    states = [experiments.status(c, params) for c in skd.table1_cells(params)]
    assert not [s.why for s in states if s.state in ("stale", "damaged")]


def test_the_ranking_page_is_of_records_only(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    for method, values in (("DM", [70.0, 70.2, 70.4]), ("SKD", [60.0, 60.2, 60.4])):
        key = {
            "dataset": "MNIST",
            "protocol": {"name": "vico_dsa@300ep", "epochs": 1000, "budget": 300},
            "network": "ConvNet",
        }
        Record(Cell(TABLE1, method, "MNIST", 1), values, [0] * 3, key).save("small")
    params = experiments.check_parameters(skd.RANKING, {"datasets": ["MNIST"], "ipcs": [1]})
    monkeypatch.setattr(compute, "compute", lambda *a, **k: pytest.fail("computes"))
    frame = tables.ranking(engine.run(TABLE1, params, skd.fair_cells(params)), skd.labels)
    assert frame.dropna(subset="mean")[["method", "first", "last"]].values.tolist() == [["DM", 1, 1], ["SKD", 2, 2]]
    assert len(frame) == len(skd.fair_cells(params))


def test_the_ranking_page_runs_at_smoke(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    page = book_pages.notebooks(only=skd.RANKING)
    (result,) = book_pages.run(
        page, "smoke", {"methods": ["Random", "FRePo"], "datasets": ["FashionMNIST"], "ipcs": [1]}
    )
    assert result.computed == 3
    found = [record.read(f) for f in records.files("smoke")]
    assert sorted((r.cell.method, r.key["protocol"]["name"]) for r in found) == [
        ("FRePo", "vico_dsa+mse@40ep"),
        ("FRePo", "vico_dsa@40ep"),
        ("Random", "vico_dsa@40ep"),
    ]
    assert {r.key["network"] for r in found} == {"ConvNet"}
