"""Two hundred malformed parameters, records, settings and data files: each one clear error, and nothing written."""

import contextlib
import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_records import CELL, record

from distill_lib import __main__ as cli
from distill_lib import data, experiments, records
from distill_lib.core.errors import UserError
from distill_lib.core.settings import as_dict, build
from distill_lib.methods import METHODS
from distill_lib.records import record as records_record

NAME = "skd/table1_accuracy"
fifty = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
junk = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Folders of their own."""
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    return tmp_path


def refused(*words):
    """The one line with which the command line refuses."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["distill", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
            cli.main()
    finally:
        sys.argv = before
    said = err.getvalue()
    assert stop.value.code == 2, (words, said, out.getvalue())
    assert said.startswith("error: ") and len(said.splitlines()) == 1 and "Traceback" not in said + out.getvalue(), (
        words,
        said,
    )
    return said


# --- parameters --------------------------------------------------------------------------------------------------------
KNOWN = {"profile", "seed", "methods", "datasets", "ipcs"}
names = st.text(min_size=1, max_size=12).filter(lambda t: "=" not in t and t not in KNOWN)
values = {
    "profile": junk.filter(lambda v: v not in ("recorded", "smoke", "small", "full")),
    "seed": junk.filter(lambda v: isinstance(v, bool) or not isinstance(v, int) or v < 0),
    "methods": plain.filter(lambda v: v not in ("", *METHODS, "all")) | st.lists(st.integers(), min_size=1, max_size=3),
    "datasets": st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3).filter(lambda v: v != ["all"]),
    "ipcs": st.lists(st.integers(max_value=0) | st.floats() | st.none(), min_size=1, max_size=3),
}
bad_parameters = names.flatmap(lambda n: junk.map(lambda v: (n, v))) | st.sampled_from(sorted(values)).flatmap(
    lambda n: values[n].map(lambda v: (n, v))
)


@fifty
@given(bad=bad_parameters)
def test_malformed_parameters(place, bad):
    name, value = bad
    said = refused("run", NAME, "-p", f"{name}={json.dumps(value)}")
    assert "Parameters: " in said or "write name=value" in said or "profile" in said
    assert not list(place.rglob("*"))


# --- records -----------------------------------------------------------------------------------------------------------
FIELDS = [
    "cell",
    "test_accuracy_pct",
    "sets",
    "key",
    "metrics",
    "seconds",
    "memory_mb",
    "made_by",
    "cpu_seconds",
    "joules",
]
of_another_type = {
    "cell": junk,
    "test_accuracy_pct": junk,
    "sets": junk,
    "memory_mb": junk.filter(lambda v: not isinstance(v, (int, float)) or not 0 <= v < 1e300),
    **{
        name: junk.filter(lambda v: not isinstance(v, dict))
        for name in ("key", "metrics", "seconds", "made_by", "cpu_seconds", "joules")
    },
}


def signed(body):
    """The body with a checksum that holds: written by a program that is not this one."""
    body = {k: v for k, v in body.items() if k != "sha256"}
    return {**body, "sha256": records_record._digest(body)}


@st.composite
def damage(draw):
    """A function from the text of a record to another text."""
    kind = draw(st.sampled_from(["cut", "bytes", "edited", "missing", "type", "unknown"]))
    if kind == "cut":
        share = draw(st.floats(0, 0.99))
        return lambda text: text[: int(share * len(text))].encode()
    if kind == "bytes":
        noise = draw(st.binary(max_size=200))
        return lambda text: noise
    if kind == "edited":
        value = draw(st.floats(0, 100).filter(lambda v: v != 71.5))
        return lambda text: text.replace("71.5", repr(value), 1).encode()
    name, value = draw(st.sampled_from(FIELDS).flatmap(lambda n: st.tuples(st.just(n), of_another_type[n])))

    def change(text):
        body = json.loads(text)
        if kind == "type":
            body[name] = value
        elif kind == "unknown":
            body["no such field"] = value
        else:
            body.pop(draw_missing)
        return json.dumps(signed(body)).encode()

    draw_missing = draw(st.sampled_from(["format", "cell", "test_accuracy_pct", "sets", "key"]))
    return change


@fifty
@given(damage=damage())
def test_malformed_records(place, damage):
    file = record(seconds={"distill": 1.0}, cpu_seconds={"distill": 1.0}, joules={"distill": 1.0}).save("small")
    file.write_bytes(damage(file.read_text()))
    before = file.read_bytes()
    with pytest.raises(UserError, match=file.name):
        records.load(CELL, "small")
    params = experiments.check_parameters(
        NAME, {"profile": "small", "methods": ["DM"], "datasets": ["FashionMNIST"], "ipcs": [10]}
    )
    assert [s.state for s in experiments.plan(NAME, params)] == ["damaged"]
    assert "1 of 1 cells failed" in refused(
        "run",
        NAME,
        "--profile",
        "small",
        "-p",
        "methods=DM",
        "-p",
        "datasets=FashionMNIST",
        "-p",
        "ipcs=[10]",
        "--cells",
        "protocol=vico_dsa",
    )
    assert file.read_bytes() == before and [f for f in (place / "results").rglob("*") if f.is_file()] == [file]


# --- settings ----------------------------------------------------------------------------------------------------------
@fifty
@given(data_=st.data())
def test_malformed_settings(data_):
    name = data_.draw(st.sampled_from(sorted(METHODS)).filter(lambda name: dataclasses.fields(METHODS[name].Config)))
    config = METHODS[name].Config
    good = as_dict(METHODS[name].paper_config("CIFAR10", 1))
    if data_.draw(st.booleans()):
        field, value = data_.draw(st.text(max_size=12).filter(lambda t: t not in good)), data_.draw(junk)
    else:  # nothing has a setting that is a dictionary of nonsense
        field, value = data_.draw(st.sampled_from(sorted(good))), {"nonsense": data_.draw(plain)}
    with pytest.raises(UserError, match="Valid fields: ") as error:
        build(config, {**good, field: value})
    assert all(known in str(error.value) for known in list(good)[:1])


# --- data files --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A good file of every kind."""
    from safetensors.torch import save_file

    place, test = tmp_path_factory.mktemp("whole"), data.load("digits")[1]
    images, labels = test.images[:20].float() / 255, torch.arange(20) % 10
    np.savez(place / "a.npz", images=images.numpy(), labels=labels.numpy())
    torch.save({"images": images, "labels": labels}, place / "a.pt")
    save_file({"images": images, "labels": labels}, place / "a.safetensors")
    return {f.suffix: f.read_bytes() for f in place.iterdir()}


odd_arrays = st.sampled_from(
    [(0, 1, 8, 8), (3, 1, 8, 8), (10, 1, 9, 8), (10, 2, 8, 8), (10,), (10, 8), (1, 1, 1, 1, 1, 1)]
)


@fifty
@given(data_=st.data())
def test_malformed_data_files(place, whole, data_):
    ending = data_.draw(st.sampled_from([".npz", ".pt", ".safetensors", ".csv", ""]))
    file = Path(place / f"given{ending}")
    kind = data_.draw(st.sampled_from(["noise", "cut", "shape"]))
    if kind == "noise" or ending not in whole:
        file.write_bytes(data_.draw(st.binary(max_size=300)))
    elif kind == "cut":
        file.write_bytes(whole[ending][: int(data_.draw(st.floats(0, 0.95)) * len(whole[ending]))])
    else:
        images = np.zeros(data_.draw(odd_arrays), np.float32)
        if ending == ".npz":
            np.savez(file, images=images)
        elif ending == ".pt":
            torch.save({"images": torch.from_numpy(images)}, file)
        else:
            from safetensors.torch import save_file

            save_file({"images": torch.from_numpy(images)}, file)
    said = refused(
        "evaluate",
        str(file),
        "--dataset",
        "digits",
        "--pixels",
        "--protocol",
        "vico_noaug@1ep",
        "--networks",
        "MLP",
        "--num-eval",
        "1",
    )
    assert file.name in said
    file.unlink()
    assert not list(place.rglob("*"))
