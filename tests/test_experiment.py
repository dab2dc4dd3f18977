"""The engine: parameters stop bad input before anything runs; cells are computed once, and again exactly when they must
be."""

import dataclasses
import json
import time

import pytest
import torch
from papermill.translators import PythonTranslator
from test_cli import call

from distill_lib import data, experiments, networks, records
from distill_lib.core.errors import TimeUp, UserError
from distill_lib.evaluation.metrics.generative import Scores
from distill_lib.experiments import Experiment, Parameters, Skip, Task, compute, engine, registry
from distill_lib.methods import METHODS, random_real
from distill_lib.records import Cell, Record

NAME = "skd/table1_accuracy"


class Counting:
    """A method that counts its runs and can be told to fail."""

    VERSION = 1
    Config = random_real.Config

    def __init__(self):
        self.calls, self.fail = [], False

    def distill(self, real, cfg, seed, loop=None):
        for _ in loop.steps("distill", 3, {}):
            time.sleep(0.01)
        self.calls.append((cfg.ipc, seed))
        if self.fail:
            raise RuntimeError("no such luck")
        return random_real.distill(real, cfg, seed)


class Axes(Parameters):
    ipcs: experiments.Numbers = [1, 2]


class Three(Axes):
    ipcs: experiments.Numbers = [1, 2, 3]  # the third is skipped


@pytest.fixture
def table(tmp_path, monkeypatch):
    """An experiment of two cells on the digits, and the method behind it."""
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    method = Counting()
    monkeypatch.setitem(METHODS, "Counting", method)

    def cells(params):
        return [Cell("toy/table", "Counting", "digits", ipc, "MLP", "vico_noaug") for ipc in params.ipcs]

    def task(cell, params):
        if cell.ipc > 2:
            return Skip("too many")
        return Task(cell, random_real.Config(ipc=cell.ipc), "digits", "vico_noaug@2ep", num_eval=2, seed=params.seed)

    toy = Experiment("toy/table", "Toy", Axes, cells, task)
    monkeypatch.setattr(registry, "experiments", lambda: {"toy/table": toy})
    return method


def go(**params):
    values = experiments.check_parameters("toy/table", {"profile": "small", **params})
    return engine.run("toy/table", values, say=lambda line: None)


def states(outcome):
    return [s.state for s in outcome]


def test_the_second_run_computes_nothing_and_says_so(table):
    assert states(go()) == ["computed", "computed"]
    again = go()
    assert states(again) == ["reused", "reused"] and len(table.calls) == 2
    assert "2 reused" in again.summary


def test_a_run_that_computes_nothing_needs_no_folder_to_write_to(table, monkeypatch):
    go()

    def refused(folder):
        raise UserError(f"cannot write {folder}")

    monkeypatch.setattr(engine, "check_writable", refused)
    assert set(states(go())) == {"reused"}
    with pytest.raises(UserError, match="cannot write"):
        go(seed=1)


def test_a_record_holds_every_network_with_settings_data_and_cost(table):
    record = go().statuses[0].record
    assert len(record.test_accuracy_pct) == 2 and record.sets == [0, 0]
    assert record.key["config"] == {"ipc": 1} and record.key["protocol"]["name"] == "vico_noaug@2ep"
    real, test = data.load("digits")
    assert record.key["data_sha256"] == {"train": real.sha256(), "test": test.sha256()}
    assert set(record.seconds) == set(record.cpu_seconds) == {"distill", "evaluate"} and record.memory_mb > 0
    assert (
        record.seconds["distill"] >= 3 * 0.01 > 0.001 < record.cpu_seconds["evaluate"]
    )  # the method sleeps, which takes no processor time
    assert not record.joules and record.made_by["seeds"] == {"distill": [0], "evaluate": [0]}
    assert {"commit", "lock_sha256", "device", "torch", "python", "at", "data"} <= record.made_by.keys()
    assert records.load(record.cell, "small") == record


def test_what_a_method_measures_itself_goes_into_the_record_beside_the_accuracy_of_networks(table, monkeypatch):
    def measure(self, synthetic, test, cfg):
        return {"kernel_accuracy_pct": [float(len(synthetic) + cfg.ipc + len(test) / 1000)]}

    monkeypatch.setattr(Counting, "measure", measure, raising=False)
    count = len(data.load("digits")[1]) / 1000
    assert [s.record.metrics["kernel_accuracy_pct"] for s in go()] == [[11 + count], [22 + count]]


def test_a_task_may_train_another_network_than_the_cell_is_headed_with(table, monkeypatch):
    toy = registry.experiments()["toy/table"]
    other = dataclasses.replace(
        toy, task=lambda cell, params: dataclasses.replace(toy.task(cell, params), network="FRePoConvW32")
    )
    monkeypatch.setattr(registry, "experiments", lambda: {"toy/table": other})
    trained = []
    make = networks.fresh
    monkeypatch.setattr(networks, "fresh", lambda name, *args: (trained.append(name), make(name, *args))[1])
    record = go(ipcs=[1]).statuses[0].record
    assert record.key["network"] == "FRePoConvW32" and record.cell.network == "MLP" and set(trained) == {"FRePoConvW32"}


def test_a_mean_over_networks_keeps_the_accuracy_and_the_loss_of_each(table, monkeypatch):
    toy = registry.experiments()["toy/table"]
    both = ("MLP", "ConvNetD1W8")
    other = dataclasses.replace(
        toy, task=lambda cell, params: dataclasses.replace(toy.task(cell, params), networks=both)
    )
    monkeypatch.setattr(registry, "experiments", lambda: {"toy/table": other})
    record = go(ipcs=[1]).statuses[0].record
    each = [record.metrics[f"accuracy_pct, {name}"] for name in both]
    assert record.test_accuracy_pct == [pytest.approx(sum(pair) / 2) for pair in zip(*each, strict=True)]
    assert all(len(record.metrics[f"train_loss, {name}"]) == 2 for name in both)
    assert "ConvNetD1W8 at a training loss of" in records.underfit(record)  # after three steps


def test_changing_one_setting_recomputes_exactly_the_cells_it_touches(table, monkeypatch):
    go()
    toy = registry.experiments()["toy/table"]

    def changed(cell, params):
        task = toy.task(cell, params)
        return dataclasses.replace(task, num_eval=3) if cell.ipc == 2 else task

    monkeypatch.setattr(registry, "experiments", lambda: {"toy/table": dataclasses.replace(toy, task=changed)})
    params = experiments.check_parameters("toy/table", {"profile": "small"})
    assert [(s.state, s.why) for s in experiments.plan("toy/table", params)][1] == ("stale", "num_eval: 2 -> 3")
    assert states(go()) == ["reused", "computed"]


def test_a_new_code_version_makes_records_stale(table):
    go()
    table.VERSION = 2
    params = experiments.check_parameters("toy/table", {"profile": "small"})
    assert {s.why for s in experiments.plan("toy/table", params)} == {"code.Counting: 1 -> 2"}


def test_other_pixels_under_the_same_name_make_records_stale(table, monkeypatch):
    go()
    real, test = data.load("digits")
    flipped = data.ImageSet(real.images.flip(0), real.labels.flip(0), real.facts)
    monkeypatch.setattr(compute, "load_on", lambda name, device: (flipped, test))
    assert states(go()) == ["computed", "computed"]


def test_a_failed_cell_is_reported_and_the_others_go_on(table):
    table.fail = True
    with pytest.raises(UserError, match="2 of 2 cells failed: .*no such luck"):
        go()
    table.fail = False
    assert states(go()) == ["computed", "computed"]


def test_an_interrupted_run_continues_to_the_same_record(table):
    params = experiments.check_parameters("toy/table", {"profile": "small"})
    with pytest.raises(TimeUp):
        engine.run("toy/table", params, time_limit=0.005, say=lambda line: None)
    resumed = go().statuses[0].record
    fresh = compute.compute(resumed_task(resumed.cell, params), compute.Run("full"))
    assert resumed.test_accuracy_pct == fresh.test_accuracy_pct
    assert resumed.key == fresh.key


def resumed_task(cell, params):
    return registry.experiments()["toy/table"].task(cell, params)


def test_skipped_cells_say_why_and_recorded_computes_nothing(table):
    assert [s.why for s in go(ipcs=[1, 3])][1] == "too many"
    calls = len(table.calls)
    shown = go(profile="recorded", ipcs=[1, 2])
    assert [(s.state, s.why) for s in shown] == [("recorded", "small"), ("missing", "not run")]
    assert len(table.calls) == calls


@pytest.mark.parametrize(
    "ipc, says", [(1, "is taken from its record"), (2, "cannot be computed: "), (3, "is not computed: too many")]
)
def test_explain_says_what_becomes_of_a_cell(ipc, says, table, monkeypatch, capsys):
    go()
    damaged = records.path(Cell("toy/table", "Counting", "digits", 2, "MLP", "vico_noaug"), "small")
    damaged.write_text(damaged.read_text()[:-20])
    toy = dataclasses.replace(registry.experiments()["toy/table"], parameters=Three)
    monkeypatch.setattr(registry, "experiments", lambda: {"toy/table": toy})
    cell = Cell("toy/table", "Counting", "digits", ipc, "MLP", "vico_noaug")
    status, out, _ = call(monkeypatch, capsys, "explain", cell.stem, "--profile", "small")
    assert status == 0 and f"[small] {says}" in out


def test_the_summary_file_gets_a_line_per_cell(table, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_SUMMARY", str(tmp_path / "summary.jsonl"))
    go()
    lines = [json.loads(line) for line in (tmp_path / "summary.jsonl").read_text().splitlines()]
    assert [line["state"] for line in lines] == ["computed", "computed"]


def several(monkeypatch, num_sets, seed=0):
    """The toy table with so many sets of every cell."""
    toy = registry.experiments()["toy/table"]
    task = lambda cell, params: dataclasses.replace(toy.task(cell, params), num_sets=num_sets)  # noqa: E731
    monkeypatch.setattr(registry, "experiments", lambda: {"toy/table": dataclasses.replace(toy, task=task)})
    return experiments.check_parameters("toy/table", {"profile": "small", "ipcs": [1]})


def test_a_record_grows_set_by_set_to_what_all_sets_at_once_give(table, monkeypatch, tmp_path):
    params = several(monkeypatch, 3)
    run = lambda sets=None: engine.run("toy/table", params, say=lambda line: None, sets=sets).statuses[0]  # noqa: E731
    first = run(1).record
    assert first.sets == [0, 0] and first.key["num_sets"] == 3 and records.load(first.cell, "small") == first
    (now,) = experiments.plan("toy/table", params)
    assert (now.state, now.why) == ("partial", "1 of 3 sets recorded")
    assert [s.state for s in experiments.plan("toy/table", params, sets=1)] == ["recorded"] and run(1).state == "reused"
    assert [s.state for s in experiments.plan("toy/table", params, sets=2)] == ["partial"]
    grown = run().record
    assert grown.sets == [0, 0, 1, 1, 2, 2] and table.calls == [(1, 0), (1, 1), (1, 2)]
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "elsewhere" / "runs"))
    at_once = run().record
    assert (
        at_once.test_accuracy_pct == grown.test_accuracy_pct
        and at_once.metrics == grown.metrics
        and at_once.key == grown.key
    )
    assert at_once.made_by["seeds"] == grown.made_by["seeds"] == {"distill": [0, 1, 2], "evaluate": [0, 1000, 2000]}
    assert "earlier" not in grown.made_by and set(grown.seconds) == {"distill", "evaluate"}
    assert all(v >= first.seconds[k] for k, v in grown.seconds.items())


def test_a_record_takes_more_sets_than_the_profile_plans(table, monkeypatch):
    params = several(monkeypatch, 1)
    run = lambda sets=None: engine.run("toy/table", params, say=lambda line: None, sets=sets).statuses[0]  # noqa: E731
    first = run().record
    (now,) = experiments.plan("toy/table", params, sets=3)
    assert (now.state, now.why) == ("partial", "1 of 3 sets recorded")
    grown = run(3).record
    assert grown.sets == [0, 0, 1, 1, 2, 2] and table.calls == [(1, 0), (1, 1), (1, 2)]
    assert grown.test_accuracy_pct[:2] == first.test_accuracy_pct and grown.key == first.key
    assert records.sets_and_networks(grown) == "3 of 3 sets x 2 networks"
    assert [s.state for s in experiments.plan("toy/table", params)] == ["recorded"] and run(2).state == "reused"
    assert len(table.calls) == 3


def test_a_set_that_is_done_is_recorded_although_the_next_one_fails(table, monkeypatch):
    params = several(monkeypatch, 3)
    make = Counting.distill

    def distill(self, real, cfg, seed, loop=None):
        if seed == 1:
            raise RuntimeError("no such luck")
        return make(self, real, cfg, seed, loop)

    monkeypatch.setattr(Counting, "distill", distill)
    (failed,) = engine.run("toy/table", params, say=lambda line: None, strict=False)
    assert failed.state == "failed" and records.load(failed.cell, "small").sets == [0, 0]
    monkeypatch.setattr(Counting, "distill", make)
    (done,) = engine.run("toy/table", params, say=lambda line: None)
    assert done.record.done == [0, 1, 2] and table.calls == [(1, 0), (1, 1), (1, 2)]


def test_sets_of_another_machine_keep_their_provenance(table, monkeypatch):
    params = several(monkeypatch, 3)
    for sets, device in ((1, "first"), (2, "second"), (3, "second")):
        monkeypatch.setattr(
            records, "provenance", lambda place, device=device: {"commit": "c", "device": device, "at": device}
        )
        (now,) = engine.run("toy/table", params, say=lambda line: None, sets=sets)
    by = now.record.made_by
    assert by["device"] == "second" and [(e["sets"], e["device"], e["at"]) for e in by["earlier"]] == [
        ([0], "first", "first")
    ]


def test_records_that_do_not_belong_together_are_not_joined(table):
    one, other = (s.record for s in go())
    of_other_data = {**one.key, "data_sha256": {"train": "0", "test": "0"}}
    for wrong, why in (
        (one, r"both hold sets \[0\]"),
        (dataclasses.replace(other, sets=[1, 1]), "cell: "),
        (dataclasses.replace(one, sets=[1, 1], key={**one.key, "seed": 1}), "seed: 0 -> 1"),
        (dataclasses.replace(one, sets=[1, 1], key=of_other_data), "pixels or labels"),
    ):
        with pytest.raises(UserError, match=f"do not belong together: .*{why}"):
            one.joined(wrong)


def test_a_record_made_before_a_setting_came_takes_further_sets(table, monkeypatch):
    params = several(monkeypatch, 2)
    (now,) = engine.run("toy/table", params, say=lambda line: None, sets=1).statuses
    for old in ({**now.record.key, "later": None}, {k: v for k, v in now.record.key.items() if v is not None}):
        dataclasses.replace(now.record, key=old).save("small")
        assert [s.state for s in experiments.plan("toy/table", params)] == ["partial"]
        (grown,) = engine.run("toy/table", params, say=lambda line: None).statuses
        assert grown.state == "computed" and grown.record.done == [0, 1] and grown.record.key == old


@pytest.mark.parametrize(
    "given, message",
    [
        ({"profil": "smoke"}, "unknown parameter 'profil': did you mean profile"),
        ({"profile": "fast"}, "unknown profile 'fast'.*recorded, smoke, small, full"),
        ({"methods": ["Randm"]}, "unknown method 'Randm': did you mean Random"),
        ({"datasets": "CIFAR"}, "unknown dataset 'CIFAR'"),
        ({"ipcs": ["ten"]}, "ipcs.*ten"),
        ({"ipcs": [0]}, "ipcs"),
        ({"seed": "a"}, "seed.*'a'"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_bad_parameters_stop_with_the_valid_names(given, message):
    with pytest.raises(UserError, match=message) as error:
        experiments.check_parameters(NAME, given)
    assert "Parameters: profile, seed, methods, datasets, ipcs" in str(error.value)


def test_lists_given_as_text_are_read_as_lists():
    params = experiments.check_parameters(NAME, {"ipcs": "[1, 10]", "methods": "DM,Random", "datasets": "['MNIST']"})
    assert (params.ipcs, params.methods, params.datasets) == ([1, 10], ["DM", "Random"], ["MNIST"])
    assert (
        len(experiments.check_parameters(NAME, {"methods": ["all"]}).methods) == 15 + 1 + 1
    )  # the paper's rows, full data, IDC-1


# --- a notebook's parameters ----------------------------------------------------------------------
PARAMETERS = 'profile: str = "smoke"  # recorded | smoke\nipcs: list = [1, 10]\nseed: int = 0\n'
CALL = f'params = experiment.parameters("{NAME}", globals())'
LATER = "ipc, points = 3, [1, 2]\nfor method in ['DM']:\n    text = method"


class Kernel:
    """What IPython does with cells, as far as it matters here: it keeps their sources, then runs them."""

    def __init__(self):
        self.names = {"__name__": "__main__", "_i": "a source", "In": [""], "Out": {}, "experiment": experiments}

    def run(self, *cells):
        for cell in cells:
            self.names["In"].append(cell)
            exec(cell, self.names)
        return self.names.get("params")


def injected(**given):
    return PythonTranslator.codify(given)


def test_a_script_s_plain_globals_are_its_parameters():
    namespace = {"profile": "smoke", "_i": "source", "__name__": "__main__", "torch": torch, "seed": 1}
    assert experiments.parameters(NAME, namespace).seed == 1
    with pytest.raises(UserError, match="unknown parameter 'ipc'"):
        experiments.parameters(NAME, {**namespace, "ipc": 1})


def test_a_notebook_runs_again_whatever_its_later_cells_and_its_reader_s_own_assign():
    kernel, own = Kernel(), 'folder = "data"\nepochs = 5'
    first = kernel.run(own, PARAMETERS, own, CALL, LATER)
    assert kernel.run(own, PARAMETERS, own, CALL, LATER) == first
    kernel.names["In"].append("%%bash this is not Python")
    assert kernel.run(LATER, CALL) == first  # single cells, in any order


def test_a_changed_parameter_takes_effect_when_its_cell_is_run_again():
    kernel = Kernel()
    assert kernel.run(PARAMETERS, CALL, LATER).ipcs == [1, 10]
    assert kernel.run(PARAMETERS.replace("[1, 10]", "[50]"), CALL, LATER).ipcs == [50]
    assert kernel.run("ipcs = [10]", CALL).ipcs == [10]  # a cell of the reader's own


@pytest.mark.parametrize("before", [(), (PARAMETERS, CALL, LATER), (PARAMETERS, injected(seed=2), CALL, LATER)])
def test_a_name_that_papermill_or_the_parameters_cell_gets_wrong_is_refused_in_every_run(before):
    for cells in (
        (PARAMETERS, injected(profile="smoke", ipc=[1])),
        (PARAMETERS + "ipc = [1]", injected(seed=1)),
        (PARAMETERS + "ipc = [1]",),
    ):
        kernel = Kernel()
        kernel.run(*before)
        for _ in range(2):
            with pytest.raises(
                UserError,
                match="unknown parameter 'ipc': did you mean ipcs.* Parameters: profile, seed, methods, datasets, ipcs",
            ):
                kernel.run(*cells, CALL)


def test_a_mended_typo_is_forgotten():
    kernel = Kernel()
    for wrong, right in ((PARAMETERS + "ipc = [1]", PARAMETERS), (injected(ipc=[1]), injected(ipcs=[1]))):
        kernel.run(PARAMETERS)
        with pytest.raises(UserError, match="'ipc'"):
            kernel.run(wrong, CALL)
        params = kernel.run(right, CALL)
    assert params.ipcs == [1]


def test_what_papermill_says_of_itself_is_no_parameter():
    given = injected(ipcs=[1], PAPERMILL_INPUT_PATH="a.ipynb", PAPERMILL_OUTPUT_PATH="b.ipynb")
    assert Kernel().run(PARAMETERS, given, CALL).ipcs == [1]


def test_a_parameter_of_another_type_is_never_passed_over():
    with pytest.raises(UserError, match=r"ipcs: Input should be a valid list \(got range\(1, 3\)\)"):
        Kernel().run(PARAMETERS, "ipcs = range(1, 3)", CALL)


def test_unknown_experiments_are_named():
    with pytest.raises(UserError, match="unknown experiment 'skd/table1': did you mean skd/table1_accuracy"):
        experiments.experiment("skd/table1")


def test_table_1_has_the_papers_cells():
    params = experiments.check_parameters(NAME, {})
    cells = experiments.experiment(NAME).cells(params)
    assert len(cells) == len(set(cells))
    own = [c for c in cells if experiments.experiment(NAME).printed(c)]
    assert len(own) == 15 * 9 + 3


def test_another_reading_of_a_row_differs_from_it_in_the_named_setting_alone():
    params = experiments.check_parameters(
        NAME, {"profile": "small", "methods": ["Forgetting"], "datasets": ["MNIST"], "ipcs": [1]}
    )
    plain, _, reading = experiments.experiment(NAME).cells(params)
    assert (reading.variant, reading.protocol) == ("never learned first", plain.protocol)
    one, other = (experiments.experiment(NAME).task(c, params).key for c in (plain, reading))
    assert records.differences(one, other) == ["config.never_learned: 'none' -> 'most'"]


def test_cells_that_differ_in_protocol_or_network_share_the_distilled_set(table, monkeypatch):
    toy = registry.experiments()["toy/table"]
    kinds = [("MLP", "vico_noaug"), ("MLP", "vico_dsa"), ("ConvNetD1W8", "vico_dsa")]

    def cells(params):
        return [Cell("toy/table", "Counting", "digits", 1, network, protocol) for network, protocol in kinds]

    def task(cell, params):
        return Task(
            cell, random_real.Config(ipc=1), "digits", f"{cell.protocol}@1ep", num_eval=1, num_sets=2, seed=params.seed
        )

    monkeypatch.setattr(
        registry, "experiments", lambda: {"toy/table": dataclasses.replace(toy, cells=cells, task=task)}
    )
    outcome = go()
    assert states(outcome) == ["computed"] * 3 and table.calls == [(1, 0), (1, 1)]
    first, *others = [s.record for s in outcome]
    assert first.seconds["distill"] >= 2 * 3 * 0.01  # each of the two sets slept three times
    assert all(
        o.seconds["distill"] == first.seconds["distill"] for o in others
    )  # what making the sets has cost, stated by every cell
    assert go(seed=1).statuses[0].state == "computed" and table.calls[2:] == [(1, 2)]


def test_a_generator_is_trained_once_and_serves_every_ipc(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    method, made = METHODS["CGAN"], []
    monkeypatch.setattr(method, "distill", lambda *a, __old=method.distill, **k: made.append(1) or __old(*a, **k))
    real = data.load("digits")[0]
    sets = []
    for ipc in (2, 3):
        cell = Cell("toy/table", "CGAN", "digits", ipc, "MLP", "dim_fixed")
        config = method.paper_config("digits", ipc).smoke()
        sets.append(compute.distilled(Task(cell, config, "digits", "dim_fixed@1ep"), 0, compute.Run("smoke"), real)[0])
    assert len(made) == 1 and [len(s) for s in sets] == [20, 30]
    states_ = [s.generator.state_dict() for s in sets]
    assert all(torch.equal(states_[0][k], states_[1][k]) for k in states_[0])
    (cost,) = (tmp_path / "runs" / "smoke" / "sets").glob("*.json")
    cost.unlink()  # as after a crash between the two files: a set of unknown cost is made again
    compute.distilled(Task(cell, config, "digits", "dim_fixed@1ep"), 0, compute.Run("smoke"), real)
    assert len(made) == 2 and cost.is_file()


def test_further_sets_are_measured_in_the_feature_space_of_those_before(monkeypatch, tmp_path):
    monkeypatch.setenv("DISTILL_WEIGHTS", str(tmp_path))
    cell = Cell("toy/table", "Random", "digits", 1, "MLP", "vico_noaug@2ep")
    task = Task(cell, random_real.Config(ipc=1), "digits", "vico_noaug@2ep", scores=Scores())
    of = lambda name: Record(cell, [50.0], [0], task.key, {f"FID-{name}-200": [9.0]})  # noqa: E731
    assert compute._measured_as(None, task).scores.extractor == "auto"
    assert compute._measured_as(of("ConvNetW32"), task).scores.extractor == "ConvNetW32"
    with pytest.raises(UserError, match="features of ResNet-56, whose weights are not here: put "):
        compute._measured_as(of("ResNet-56"), task)
