"""Estimates: operations are counted as by hand, and records of past runs say how long they take."""

import json
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from distill_lib import __main__ as cli
from distill_lib import experiments, records
from distill_lib.core import paths, progress
from distill_lib.core.errors import UserError
from distill_lib.core.settings import settings
from distill_lib.experiments import Status, Task, compute, estimate
from distill_lib.experiments.method_costs import WORK
from distill_lib.methods import METHODS, optional
from distill_lib.methods.contract import REQUIRED
from distill_lib.records import Cell, Record

NAME = "skd/table1_accuracy"


@settings
class Stage:
    seed: int = 0


def task(method, ipc=1, epochs=60, **changes):
    config = METHODS[method].paper_config("FashionMNIST", ipc).small()
    cell = Cell(NAME, method, "FashionMNIST", ipc, "ConvNet", "vico_dsa")
    return Task(cell, config, "FashionMNIST", f"vico_dsa@{epochs}ep", num_eval=2, **changes)


def record(of, distill, evaluate, device="a machine, 1 threads"):
    return Record(
        cell=of.cell,
        test_accuracy_pct=[50.0, 51.0],
        sets=[0, 0],
        key=of.key,
        metrics={},
        memory_mb=900.0,
        seconds={"distill": distill, "evaluate": evaluate},
        made_by={"device": device},
    )


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("distill_lib.experiments.estimate.describe", lambda device: "a machine, 1 threads")
    return tmp_path


def row(of):
    """A task as the row of a plan of its own."""
    return estimate.rows([Status(of.cell, "missing", "", of)], "small")[0]


def seconds(of):
    return row(of)["seconds"]


def test_operations_of_a_network_are_those_counted_by_hand():
    blocks = 2 * 9 * 128 * (3 * 32**2 + 128 * 16**2 + 128 * 8**2)  # three 3 x 3 convolutions on 32, 16 and 8 pixels
    assert estimate.per_image("ConvNet", (3, 32, 32), 10) == blocks + 2 * 128 * 4 * 4 * 10
    assert estimate.per_image("VGG11", (3, 8, 8), 10) == 0  # does not take them


def test_dm_passes_every_real_image_once_and_every_synthetic_one_there_and_back():
    cfg = METHODS["DM"].paper_config("FashionMNIST", 10)
    assert WORK["DM"](cfg, 10, 60_000) == 20_001 * 10 * (256 + 3 * 10)


def test_a_method_costs_what_its_own_network_costs_and_its_test_what_is_tested():
    mtt, herding = (METHODS[name].paper_config("CIFAR10", 1) for name in ("MTT", "Herding"))
    names = [estimate._network(c) for c in (mtt, mtt.small(), herding, METHODS["DM"].paper_config("CIFAR10", 1))]
    assert names == [mtt.experts.network, mtt.small().experts.network, herding.training.network, "ConvNet"]
    glad = METHODS["GLaD"].paper_config("CIFAR10", 1, "MTT")
    assert estimate._network(glad) == glad.students.experts.network
    whole, few = (estimate._operations(replace(task("DM"), tested=n))[1] for n in (None, 10))
    assert 0 < few < whole


@pytest.mark.parametrize("name", WORK)
def test_work_grows_with_the_budget(name):
    cfg = METHODS[name].paper_config("FashionMNIST", 10)
    stages = optional(METHODS[name], "stage1")
    full, small, smoke = (
        WORK[name](c, 10, 60_000) + sum(s.work(10, 60_000) for s in stages(c).values())
        for c in (cfg, cfg.small(), cfg.smoke())
    )
    assert full >= small >= smoke >= 0 and (full > small > 0 or name in ("Random", "Full data"))


def test_of_a_method_that_is_not_counted_the_time_is_unknown(results, monkeypatch):
    monkeypatch.setitem(METHODS, "Mine", METHODS["DM"])
    mine = task("Mine")
    assert row(mine)["seconds"] is row(mine)["memory_mb"] is None and "images" in row(mine)["memory_basis"]
    record(mine, distill=100.0, evaluate=30.0).save("small")
    assert row(mine)["seconds"] is None and "Mine" in row(mine)["basis"] and row(mine)["memory_mb"] == 900
    made = {part.key for part in compute.shared_parts(mine, 0)}
    parts = estimate.shares(mine, [0], estimate.rates("small"), made)
    assert estimate.total_seconds(parts) == pytest.approx(30.0)  # the set is there
    assert estimate.total([row(mine)]).startswith(
        "1 cells: 1 missing; to compute: time unknown; peak memory about 0.9 GB"
    )


def test_a_stage_whose_settings_do_not_count_its_work_has_an_unknown_time(results, monkeypatch):
    names = {name: getattr(METHODS["DM"], name) for name in REQUIRED}
    method = SimpleNamespace(**names, stage1=lambda cfg: {"a stage": Stage()})
    monkeypatch.setitem(METHODS, "Staged", method)
    monkeypatch.setitem(WORK, "Staged", WORK["DM"])
    done = replace(record(task("Staged"), 100.0, 30.0), shared={"a stage-1": {"seconds": 50.0, "cpu_seconds": 50.0}})
    done.save("small")
    assert seconds(task("Staged")) is None


def test_a_task_costs_what_its_record_says_and_others_in_proportion(results):
    done = task("DM")
    record(done, distill=100.0, evaluate=30.0).save("small")
    same = row(done)
    assert same["seconds"] == pytest.approx(130.0) and "a machine" in same["basis"]
    assert seconds(task("DM", num_sets=2)) == pytest.approx(260.0)
    longer = seconds(task("DM", epochs=600))
    assert 100 + 2 * 30 < longer < 100 + 10 * 30  # ten times the training, the same test
    assert seconds(task("DC")) is None and "no record of DC" in row(task("DC"))["basis"]  # its evaluation is known
    assert seconds(task("Random")) == pytest.approx(30.0)  # it passes nothing through a network


def test_memory_is_that_of_the_most_similar_record_with_images_of_about_this_size(results):
    for ipc, memory_mb in ((1, 900.0), (50, 2000.0)):
        replace(record(task("DM", ipc), 100.0, 30.0), memory_mb=memory_mb).save("small")
    found = row(task("DM", ipc=10))
    assert found["memory_mb"] == 2000 and "IPC 50" in found["memory_basis"]
    assert row(task("DM", ipc=2))["memory_mb"] == 900
    assert row(task("DC"))["memory_mb"] == 900  # of another method
    larger = replace(task("DM"), dataset="ImageNette")
    assert row(larger)["memory_mb"] is None and "images of about this size" in row(larger)["memory_basis"]
    plan = estimate.total([found, row(larger)])
    assert "peak memory about 2.0 GB (measured for DM, FashionMNIST, IPC 50" in plan and plan.endswith("of 1 unknown")


def test_without_records_nothing_is_claimed(results):
    found = row(task("DM"))
    assert estimate.words(found["seconds"], found["memory_mb"]) == "time unknown"
    assert estimate.total([found]) == "1 cells: 1 missing; to compute: time unknown"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (59.4, "59 s"),
        (90, "1.5 min"),
        (3_600, "1.0 h"),
        (5 * 86_400, "5.0 days"),
        (3e7, "347.2 days"),
        (7.94e10, "2,516.0 years"),
    ],
)
def test_times_are_said_in_units_that_people_use(seconds, words):
    assert estimate.words(seconds, None) == f"about {words}"
    assert estimate.words(seconds, 2345.0) == f"about {words}, 2.3 GB"


def test_what_the_device_at_hand_has_no_record_of_costs_as_on_the_one_with_most(results, monkeypatch):
    monkeypatch.setattr("distill_lib.experiments.estimate.describe", lambda device: "here, 2 threads")
    for method in ("DC", "DSA"):
        record(task(method), distill=500.0, evaluate=30.0, device="there, 1 threads").save("small")
    record(task("DM"), distill=100.0, evaluate=20.0, device="here, 2 threads").save("small")
    own, borrowed = row(task("DM")), row(task("DC"))
    assert (own["seconds"], own["basis"]) == (pytest.approx(120.0), f"{task('DM').cell} on here, 2 threads")
    # made as there, judged as here
    assert (borrowed["seconds"], borrowed["basis"]) == (
        pytest.approx(250.0 + 20),
        f"{task('DC').cell} on there, 2 threads",
    )
    assert seconds(task("IDC")) is None


def test_processor_seconds_are_divided_by_the_threads_at_hand(results, monkeypatch):
    record(task("DM"), distill=100.0, evaluate=30.0).save("small")
    monkeypatch.setattr("distill_lib.experiments.estimate.describe", lambda device: "a machine, 2 threads")
    assert seconds(task("DM")) == pytest.approx(65.0) and row(task("DM"))["basis"].endswith("a machine, 2 threads")


def test_processor_seconds_count_where_a_record_has_them(results):
    busy = record(task("DM"), distill=1000.0, evaluate=300.0)
    replace(busy, cpu_seconds={"distill": 100.0, "evaluate": 30.0}).save("small")
    assert seconds(task("DM")) == pytest.approx(130.0)


def test_the_nearest_of_the_newest_records_counts_and_another_protocol_s_only_without_one(results):
    def at(day, of, seconds):
        made_by = {"device": "a machine, 1 threads", "at": f"2026-01-0{day}"}
        replace(record(of, seconds, 3 * seconds), made_by=made_by).save("small")

    at(1, task("DM"), 400.0)  # the machine was slower
    for day, ipc in enumerate((10, 20, 30, 50), start=2):
        at(day, task("DM", ipc), 100.0)
    rate = 100.0 / estimate._operations(task("DM", ipc=10))[0]
    made, _ = estimate.rates("small").seconds([("distill", "DM")], 1.0)
    assert made == pytest.approx(rate)
    of_protocol = estimate.rates("small").seconds([("evaluate", "ConvNet, vico_dsa")], 1.0)
    assert of_protocol == estimate.rates("small").seconds([("evaluate", "ConvNet, mtt"), ("evaluate", "ConvNet")], 1.0)


def test_a_processor_with_other_instructions_is_another_device(results, monkeypatch):
    monkeypatch.setattr(estimate, "processor", lambda: ["avx2"])
    for ipc, distill, instructions in ((1, 900.0, ["avx2"]), (10, 100.0, ["avx2", "amx_bf16"])):
        one = record(task("DM", ipc), distill, evaluate=20.0)
        replace(one, made_by=one.made_by | {"processor": instructions}).save("small")
    assert estimate.rates("small").devices == ["a machine, avx2, any threads", "a machine, avx2 amx_bf16, any threads"]
    assert seconds(task("DM", 10)) > 900 and row(task("DM", 10))["basis"].endswith("on a machine, avx2, 1 threads")
    monkeypatch.setattr(estimate, "processor", lambda: ["avx2", "amx_bf16"])
    assert seconds(task("DM", 1)) < 900


def test_recorded_cells_are_predicted_from_the_others():
    """Leave one out: within a factor of two of what it took. Older records say wall seconds, and memory with that of
    cells before; those that say processor seconds are the yardstick too."""
    found = [records.read(file) for profile in paths.RESULT_PROFILES for file in records.files(profile)]
    if not found:
        pytest.skip("no records here")
    known = estimate.Rates()
    for one in sorted(found, key=lambda r: r.made_by["at"]):
        known.add(one)
    kinds = Counter(map(estimate.kind_of, found))
    hits = {"seconds": [], "memory": [], "seconds, counted": [], "memory, counted": []}
    for one in found:
        of, others = estimate._task_of(one), estimate.Rates(estimate.nearest_first(kinds, estimate.kind_of(one)))
        for mine, every in ((others.rates, known.rates), (others.peaks, known.peaks)):
            mine |= {
                key: [entry for entry in entries if entry.record != str(one.cell)] for key, entries in every.items()
            }
        making, judging = estimate._operations(of)
        names = [(kind, name) for kind in ("distill", "with stage") for name in estimate._makings(of)]
        made, _ = others.seconds(names, making)
        judged, _ = others.seconds(estimate._evaluations(of), judging)
        took = sum(estimate._spent(one, phase) for phase in ("distill", "evaluate")) / len(one.done)
        seconds, memory = made is not None and judged is not None and made + judged, others.memory(of)[0]
        for what, guess, truth in (("seconds", seconds, took), ("memory", memory, one.memory_mb)):
            hits[what].append(bool(guess) and 0.5 <= guess / truth <= 2)
            if one.cpu_seconds:
                hits[f"{what}, counted"].append(hits[what][-1])
    shares = {what: sum(each) / len(each) for what, each in hits.items()}
    assert min(shares.values()) > 0.65, shares


def test_damaged_records_do_not_stop_a_plan(results):
    file = record(task("DM"), 1.0, 1.0).save("small")
    file.write_text(file.read_text()[:-20])
    assert estimate.rates("small").devices == []
    (found,) = experiments.plan(NAME, experiments.check_parameters(NAME, {"profile": "small"}), [task("DM").cell])
    assert found.state == "damaged"


def test_a_plan_says_what_to_compute_and_what_it_costs(results):
    done, todo = task("DM"), task("DM", ipc=10)
    record(done, distill=100.0, evaluate=30.0).save("small")
    statuses = [Status(done.cell, "recorded", "", done), Status(todo.cell, "missing", "never computed", todo)]
    rows = estimate.rows(statuses, "small")
    assert rows[0]["seconds"] is None and rows[1]["seconds"] > 130
    assert json.loads(json.dumps(rows)) == rows
    assert "1 recorded, 1 missing" in estimate.total(rows) and "as on a machine" in estimate.total(rows)


def test_the_exceptions_of_a_protocol_are_counted(results):
    record(task("Random"), distill=1.0, evaluate=30.0).save("small")
    cell = Cell(NAME, "Random", "MNIST", 1, "ConvNet", "vico_noaug")
    config = METHODS["Random"].paper_config("MNIST", 1)
    mnist, fashion = (seconds(Task(cell, config, name, "vico_noaug")) for name in ("MNIST", "FashionMNIST"))
    per_image = 3 * 10  # forwards and backwards, ten images an epoch
    expected = (1001 * per_image + 10_000) / (301 * per_image + 10_000)
    assert mnist / fashion == pytest.approx(expected, rel=1e-3)


def test_what_cells_share_is_counted_once_in_a_plan(results):
    for method in ("Herding", "K-Center"):
        record(task(method), distill=1.0, evaluate=30.0).save("small")
    params = experiments.check_parameters(NAME, {"profile": "small"})
    selection = "method=Herding|K-Center|Forgetting,dataset=FashionMNIST,ipc=10"
    cells = [c for c in experiments.select(experiments.experiment(NAME).cells(params), selection) if not c.variant]
    rows = estimate.rows(experiments.plan(NAME, params, cells), "small")
    first, *others = [(r["seconds"], r["added_seconds"]) for r in rows]
    assert first[0] == first[1] and len(others) >= 5  # the first trains the network for all
    assert all(added < alone for alone, added in others)
    together = sum(r["added_seconds"] for r in rows)
    assert together < sum(r["seconds"] for r in rows)
    assert f"about {estimate.duration(together)}" in estimate.total(rows)


def test_a_stage_has_a_rate_of_its_own_and_leaves_the_methods_alone(results):
    of = task("SKD")
    spent = {"distill": 40.0, "evaluate": 30.0}
    stage = {"conditional GAN 0a1b2c3d": {"seconds": 999.0, "cpu_seconds": 500.0, "memory_mb": 900}}
    replace(record(of, distill=40.0, evaluate=30.0), cpu_seconds=spent, shared=stage).save("small")
    assert seconds(of) == pytest.approx(570.0)
    made = {compute.shared_parts(of, 0)[0].key}
    parts = estimate.shares(of, [0], estimate.rates("small"), made)
    assert estimate.total_seconds(parts) == pytest.approx(70.0)
    assert seconds(replace(of, num_sets=3)) == pytest.approx(500 + 3 * 70)  # the stage's seed is a setting: one for all


def test_a_record_that_may_include_its_stage_tells_the_method_s_seconds_all_the_same(results):
    record(task("Herding"), distill=60.0, evaluate=30.0).save("small")
    found = row(task("Herding"))
    assert found["seconds"] > 90 and found["basis"].endswith(" on a machine, 1 threads")


def test_a_cut_of_imagenet_is_counted_with_the_images_of_most_classes(results):
    config = METHODS["Random"].paper_config("ImageNette", 10)
    cell = Cell("dgs/table2_subsets", "Random", "ImageNette", 10, "ResNetAP-10", "minimax_imagenet")
    of = Task(cell, config, "ImageNette@64px", "minimax_imagenet@60ep", num_eval=1, network="ConvNetD6W32")
    record(task("Random"), distill=1.0, evaluate=30.0).save("small")
    assert seconds(of) > 0 and estimate._sizes("ImageNette@64px")[2] == 13_000 and estimate._sizes("digits")


# --- selections ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def cells():
    return experiments.experiment(NAME).cells(experiments.check_parameters(NAME, {}))


def test_cells_are_selected_by_their_fields(cells):
    some = experiments.select(cells, "method=DM|dsa, ipc=10, dataset=*MNIST")
    assert {(c.method, c.ipc, c.dataset) for c in some} == {
        (m, 10, d) for m in ("DM", "DSA") for d in ("MNIST", "FashionMNIST")
    }
    assert experiments.select(cells, None) == cells
    assert {c.method for c in experiments.select(cells, "ipc=all")} == {"Full data"}


@pytest.mark.parametrize(
    "text, says",
    [
        ("method", "write field=value"),
        ("methods=DM", "did you mean method"),
        ("method=DN", "there are .*DM"),
        ("ipc=", "write field=value"),
    ],
)
def test_selections_that_select_nothing_say_why(cells, text, says):
    with pytest.raises(UserError, match=says):
        experiments.select(cells, text)


def test_a_cell_is_found_by_its_text_and_by_its_record(cells):
    for cell in cells[::17]:
        assert experiments.find(f"{NAME}: {cell}") == cell == experiments.find(f"results/full/{NAME}/{cell.stem}.json")
        assert experiments.find(f"{NAME}/{cell.stem}-full") == cell
    ends_like_a_profile = "idc-1_mnist_ipc1_convnet_idc-small"
    assert experiments.find(ends_like_a_profile).stem == ends_like_a_profile
    with pytest.raises(UserError, match="did you mean dm_mnist_ipc1_convnet_vico-dsa"):
        experiments.find("dm_mnist_ipc1_convnet_vico-dsb")


def test_explain_names_the_setting_that_differs(results, monkeypatch, capsys):
    cell = Cell(NAME, "DM", "FashionMNIST", 1, "ConvNet", "vico_dsa")
    stored = experiments.status(cell, experiments.check_parameters(NAME, {"profile": "small"})).task
    key = {**stored.key, "config": {**stored.key["config"], "iterations": 7}}
    Record(cell, [50.0], [0], key, seconds={"distill": 1.0, "evaluate": 1.0}).save("small")
    cli.explain(cell.stem, "small")
    out = capsys.readouterr().out
    assert "would be computed: config.iterations: 7 ->" in out and str(records.path(cell, "small")) in out


def test_watch_shows_what_runs_and_forgets_the_dead(results, capsys):
    cell = Cell(NAME, "DM", "FashionMNIST", 1, "ConvNet", "vico_dsa")
    activity = progress.Activity(cells=3)
    with activity.cell(cell, "small", 2):
        activity.tell("distill", 5, 40, {"loss": 0.25})
        activity._written = 0.0
        activity.tell("distill", 40, 40, {"loss": 0.125})
        (note,) = progress.running()
        assert (note["cell"], note["done"], note["total"], note["number"]) == (str(cell), 40, 40, 2)
        cli.watch(0.0)
        assert "40 of 40" in capsys.readouterr().out
        cli.watch(0.0, as_json=True)
        assert json.loads(capsys.readouterr().out) == [note]
        activity.file.with_name("other.json").write_text(json.dumps({**note, "pid": 2**22 + 1}))
        assert len(progress.running()) == 1 and not activity.file.with_name("other.json").exists()
    assert progress.running() == []
    log = progress.log_path(cell, "small").read_text()
    assert "started" in log and "distill 40 of 40, loss 0.125" in log


def test_seconds_are_added_up_and_not_lost_to_a_kill(tmp_path):
    spent = progress.Spent(tmp_path / "s.json")
    with spent.phase("distill", "cpu"):
        now = progress._running[-1]
        now.start, now.cpu, now.written = now.start - 100, now.cpu - 90, now.written - 100
        progress.tick()
        left = progress.Spent(tmp_path / "s.json")  # what a killed process leaves
        assert left.total >= 100 and 90 <= left.cpu_seconds["distill"] < 100
    (tmp_path / "s.json").write_text('{"seconds": {"distill": 5.0}, "memory_mb": 10}')
    again = progress.Spent(tmp_path / "s.json")
    with again.phase("distill", "cpu"):
        pass
    assert 5.0 <= again.seconds["distill"] < 6 and again.memory_mb >= 10
    inner = progress.Spent(tmp_path / "inner.json")
    with again.phase("evaluate", "cpu"), inner.phase("make", "cpu"):
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
    assert (
        inner.cpu_seconds["make"] >= 0.2 > again.cpu_seconds["evaluate"] >= 0
        and again.seconds["evaluate"] < 0.2 <= inner.seconds["make"]
    )
    (tmp_path / "s.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        progress.Spent(tmp_path / "s.json")
