"""Records: written whole, read checked, never silently wrong."""

import hashlib
import json

import pytest

from distill_lib import records
from distill_lib.core import paths
from distill_lib.core.errors import UserError
from distill_lib.records import Cell, Record
from distill_lib.records import made_by as records_made_by
from distill_lib.records import record as records_record

CELL = Cell("skd/table1_accuracy", "DM", "FashionMNIST", 10)


def record(**changes):
    values = {
        "cell": CELL,
        "test_accuracy_pct": [71.5, 70.25],
        "sets": [0, 0],
        "key": {"config": {"ipc": 10}},
        **changes,
    }
    return Record(**values)


def test_a_record_reads_back_as_it_was_written(folders):
    file = record(metrics={"bytes": 31360}, seconds={"distill": 1.5}).save("small")
    assert file == folders / "results/small/skd/table1_accuracy/dm_fashionmnist_ipc10_convnet_vico-dsa.json"
    assert records.load(CELL, "small") == record(metrics={"bytes": 31360}, seconds={"distill": 1.5})


def test_a_record_made_before_processor_time_was_counted_still_reads(folders):
    old = record(seconds={"distill": 1.5})
    body = old.to_json()
    assert not {"cpu_seconds", "joules"} & body.keys()  # what was not measured is not stored
    new = record(
        cpu_seconds={"distill": 1.0, "evaluate": 2.0},
        joules={"distill": 30.0, "evaluate": 10.0},
        seconds={"distill": 1.5},
    )
    new.save("small")
    assert records.load(CELL, "small") == new
    assert records.cost(old) == "2 s, 0 MB" and records.cost(new) == "2 s, 3 s of processor time, 40 J, 0 MB"


def test_a_record_names_the_requirements_it_was_made_with(tmp_path, monkeypatch):
    from importlib import metadata

    made_by = records.provenance("cpu")
    lock = (paths.ROOT / "requirements.lock").read_bytes()
    assert made_by["lock_sha256"] == hashlib.sha256(lock).hexdigest() and isinstance(made_by["not_as_locked"], list)
    version = metadata.version("numpy")
    (tmp_path / "requirements.lock").write_text(
        f"numpy=={version} \\\n    --hash=sha256:0\ntorch==0.1 ; python_version > '3'\nnot-there==1\n"
    )
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    records.lock_state.cache_clear()
    try:
        assert records.lock_state()["not_as_locked"] == [f"torch {metadata.version('torch')}"]
        (tmp_path / "requirements.lock").unlink()
        records.lock_state.cache_clear()
        assert records.lock_state() == {"lock_sha256": "none"}
    finally:
        records.lock_state.cache_clear()


def test_smoke_records_never_lie_among_results(folders):
    assert folders / "runs" in record().save("smoke").parents


def test_a_missing_record_is_none(folders):
    assert records.load(CELL, "full") is None


def test_every_cell_has_its_own_file():
    cells = [
        CELL,
        Cell("skd/table1_accuracy", "DM", "FashionMNIST", 1),
        Cell("skd/table1_accuracy", "DM", "FashionMNIST"),
        Cell("skd/table1_accuracy", "DM", "FashionMNIST", 10, protocol="vico_noaug"),
        Cell("skd/table1_accuracy", "DM", "FashionMNIST", 10, variant="fixed"),
        Cell("skd/table1_accuracy", "DM", "FashionMNIST", 10, network="AlexNet"),
    ]
    assert len({records.path(c, "full") for c in cells}) == len(cells)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda body: body[: len(body) // 2], "not a readable record"),
        (lambda body: body.replace("71.5", "91.5"), "changed since it was written"),
        (lambda body: body.replace('"format": 1', '"format": 99'), "record format 99"),
        (lambda body: "[]", "not a readable record"),
        (lambda body: "", "not a readable record"),
    ],
)
def test_a_damaged_or_edited_record_is_reported(folders, damage, message):
    file = record().save("small")
    file.write_text(damage(file.read_text()))
    with pytest.raises(UserError, match=message):
        records.load(CELL, "small")


@pytest.mark.parametrize("values", [[], [float("nan")], [101.0], [50]])
def test_accuracies_that_are_no_percentages_are_refused(folders, values):
    record(test_accuracy_pct=values, sets=[0] * len(values)).save("small")
    with pytest.raises(UserError, match="not a record .test_accuracy_pct must be percentages"):
        records.load(CELL, "small")


def test_a_record_in_the_wrong_file_is_refused(folders):
    file = record().save("small")
    other = Cell("skd/table1_accuracy", "DM", "MNIST", 10)
    records.path(other, "small").write_text(file.read_text())
    with pytest.raises(UserError, match="record of another cell"):
        records.load(other, "small")


def test_a_full_disk_leaves_the_old_record(folders, monkeypatch):
    record().save("small")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        record(test_accuracy_pct=[1.0, 2.0]).save("small")
    monkeypatch.undo()
    monkeypatch.setenv("DISTILL_RESULTS", str(folders / "results"))
    assert records.load(CELL, "small").test_accuracy_pct == [71.5, 70.25]


def test_provenance_names_the_commit_and_the_device():
    made_by = records.provenance("cpu")
    assert {"device", "torch", "python", "at"} <= made_by.keys()
    assert "threads" in made_by["device"]
    json.dumps(made_by)


def test_a_record_names_the_commit_that_was_loaded_not_a_later_one(tmp_path, monkeypatch):
    """The checkout changes while a cell is computed: its record keeps the commit from before."""
    from distill_lib import experiments
    from distill_lib.experiments import engine

    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    records.code_state.cache_clear()
    before = records.code_state()
    records.code_state.cache_clear()
    monkeypatch.setattr(
        engine,
        "_one",
        lambda *_: (
            monkeypatch.setattr(records_made_by.subprocess, "run", None)
            or experiments.Status(cell, "skipped", "a trial")
        ),
    )
    params = experiments.check_parameters(
        "skd/table1_accuracy", {"profile": "smoke", "ipcs": [1], "methods": ["Random"]}
    )
    cell = experiments.experiment("skd/table1_accuracy").cells(params)[0]
    engine.run("skd/table1_accuracy", params, [cell])
    assert records.code_state() == before


# --- whether the networks were trained ------------------------------------------------------------
def judged(metrics, protocol=None, accuracy=(30.0, 32.0), dataset="FashionMNIST"):
    key = {"dataset": dataset, "network": "ConvNet", "protocol": protocol or {"loss": "ce"}}
    return records.underfit(record(metrics=metrics, key=key, test_accuracy_pct=list(accuracy)))


@pytest.mark.parametrize(
    "losses, protocol, trained",
    [
        ([2.30, 2.28], {}, False),
        ([1.99, 1.86], {}, False),
        ([1.38, 1.36], {}, True),  # 40 % of the way down from ln 10 is 1.38
        ([0.0, 2.2], {}, True),  # their average counts: at one image per class the last epoch is one batch
        ([float("nan")] * 2, {}, False),
        ([1.6, 1.6], {"cutmix": 0.5}, False),
        ([1.4, 1.4], {"cutmix": 0.5}, True),  # CutMix on half of the batches leaves 0.2 of the loss
        ([1.69, 1.61], {"cutmix": 1.0}, False),
        ([1.5, 1.5], {"cutmix": 1.0}, True),
        ([2.0, 2.0], {"loss": "kl"}, False),
        ([2.0, 2.0], {"loss": "soft_ce"}, False),
        ([2.0, 2.0], {"loss": "mse"}, True),  # to learned labels, whose size is not known: the accuracy decides
    ],
)
def test_networks_near_their_first_loss_are_not_trained(losses, protocol, trained):
    said = judged({"train_loss": losses}, {"loss": "ce", **protocol})
    assert (said == "") == trained
    assert trained or (said.startswith("ConvNet at a training loss of ") and said.endswith("2.30 before training"))


def test_without_a_training_loss_an_accuracy_near_guessing_says_so():
    assert (
        judged({}, accuracy=(14.0, 15.0)) == "ConvNet at 14.5 %, guessing at 10.0 %"
        and judged({}, accuracy=(15.0, 15.5)) == ""
    )
    each = {"accuracy_pct, ResNet18": [9.0, 12.0], "accuracy_pct, ViT": [30.0, 30.0]}
    assert judged(each) == "ResNet18 at 10.5 %, guessing at 10.0 %"
    assert judged(each | {"train_loss, ResNet18": [0.1, 0.1], "train_loss, ViT": [0.1, 0.1]}) == ""
    assert judged(each | {"train_loss, ResNet18": [0.1, 0.1], "train_loss, ViT": [2.0, 2.2]}).startswith(
        "ViT at a training loss of 2.10"
    )
    assert (
        judged({"per_class_accuracy_pct": [[10.0] * 4] * 2}, accuracy=(30.0, 32.0))
        == "ConvNet at 31.0 %, guessing at 25.0 %"
    )
    assert judged({}, accuracy=(1.0, 1.0), dataset="my own") == ""  # nothing says how many classes there are


def test_memorised_sets_are_trained_whatever_they_score():
    """Of the records here: some sets that networks learn by heart give accuracies near guessing, and are results."""
    found = map(records_record.read, records.files("small"))
    by_heart = [r for r in found if max(r.metrics.get("train_loss", [9.0])) < 0.5 and r.key["protocol"]["loss"] == "ce"]
    assert len(by_heart) > 50 and not any(map(records.underfit, by_heart))
    assert min(min(r.test_accuracy_pct) for r in by_heart) < 15


def test_how_much_was_measured_in_words():
    assert records.sets_and_networks(record(key={"num_sets": 1})) == "1 of 1 set x 2 networks"
    assert records.sets_and_networks(record()) == "1 set x 2 networks"  # an arm of a claim: its plan may grow
    assert records.sets_and_networks(record(sets=[0, 1], key={"num_sets": 5})) == "2 of 5 sets x 1 network"
    assert records.sets_and_networks(record(sets=[0, 0, 3], key={"num_sets": 5})) == "2 of 5 sets x 1 to 2 networks"
    several = record(key={"num_sets": 1, "networks": ["AlexNet", "ViT"]})
    assert records.sets_and_networks(several) == "1 of 1 set x 2 networks of each of 2 architectures"


def test_who_made_each_set_is_kept_when_parts_of_several_machines_are_joined():
    def part(sets, device, **more):
        by = {"device": device, "seeds": {"distill": sets}, **more}
        return record(sets=sets, test_accuracy_pct=[70.0] * len(sets), metrics={}, made_by=by)

    brought = part([1], "A").joined(part([2, 3], "B"))
    whole = part([0], "home").joined(brought)
    told = {tuple(p["sets"]): p["device"] for p in whole.made_by["earlier"]}
    assert told == {(0,): "home", (1,): "A"} and whole.made_by["device"] == "B"


def test_a_path_as_text_is_read_too(folders):
    file = record().save("small")
    assert records.read(str(file)) == records.read(file)
