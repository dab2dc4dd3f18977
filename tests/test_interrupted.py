"""Runs that are killed, interrupted, or share a folder: what they leave equals what an unbroken run leaves, bit for
bit."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import toy
from safetensors import safe_open

from distill_lib import experiments
from distill_lib.experiments import engine, registry
from distill_lib.records import record

RUN = ["run", toy.NAME, "--profile", "small"]
KILLS = 20
PHASES = {"feature_network", "choose", "distill", "evaluate"}


@pytest.fixture(scope="module")
def server():
    return toy.context()


@pytest.fixture(scope="module")
def unbroken(server, tmp_path_factory):
    """What a run that nothing interrupts leaves, and its steps."""
    place = tmp_path_factory.mktemp("unbroken")
    ours, theirs = server.Pipe(duplex=False)
    process = start(server, place, theirs)
    told = listen(ours)
    process.join()
    assert process.exitcode == 0, (place / "printed.txt").read_text()
    assert {name.partition("-")[0] for name, _ in told} == PHASES
    return left(place), told


def start(server, place, steps, interrupted=""):
    process = server.Process(target=toy.command, args=(place, RUN, steps, interrupted))
    process.start()
    steps.close()
    return process


def listen(steps, count=None):
    """What a process tells of its steps, until it ends or has told `count` of them."""
    told = []
    while count is None or len(told) < count:
        try:
            told.append(steps.recv())
        except EOFError:
            break
    return told


def left(place: Path) -> dict[str, object]:
    """Stored tensors, bit for bit, with their metadata, and records without what they cost and when they were made."""
    found = {}
    for file in sorted(place.glob("runs/**/*.safetensors")):
        with safe_open(file, "np") as f:
            found[file.relative_to(place).as_posix()] = (
                f.metadata(),
                {k: (t := f.get_tensor(k)).tobytes() + str(t.dtype).encode() for k in f.keys()},
            )
    for file in sorted(place.glob("results/**/*.json")):
        record.read(file)
        body = json.loads(file.read_text())
        for name in ("seconds", "cpu_seconds", "memory_mb", "shared", "sha256"):
            body.pop(name, None)  # without processor seconds where the kill came between a set and what it had cost
        for name in ("at", "commit", "changed_since_commit"):  # the code may be committed in between
            body["made_by"].pop(name, None)
        found[file.relative_to(place).as_posix()] = body
    return found


def test_the_experiment_has_something_to_lose(unbroken):
    found, _ = unbroken
    kinds = [name.split("/")[1] for name in found]
    assert sorted(kinds) == ["feature_networks", "small", "small", "small", "small"], list(
        found
    )  # 1 network, 2 sets, 2 records


def test_a_run_killed_at_twenty_random_moments_and_resumed_equals_an_unbroken_one(server, unbroken, tmp_path):
    wanted, steps = unbroken
    rng = random.Random(0)
    kills, resumed, round_, done = [], 0, 0, False
    while len(kills) < KILLS or not done:
        place = tmp_path / str(round_)
        place.mkdir(exist_ok=True)
        ours, theirs = server.Pipe(duplex=False)
        process = start(server, place, theirs)
        # a moment: some steps, and then a part of a step, which may be in the midst of a write
        told = listen(ours, rng.randrange(len(steps) // 8) if len(kills) < KILLS else None)
        if len(kills) < KILLS:
            time.sleep(rng.random() * 0.03)
            process.kill()
        process.join()
        told += listen(ours)
        resumed += bool(told) and told[0][1] > 0
        done = process.exitcode == 0
        assert done or process.exitcode == -signal.SIGKILL, (place / "printed.txt").read_text()
        if done:
            assert left(place) == wanted
            round_ += 1
        else:
            kills.append(told[-1] if told else ("start", 0))
    assert resumed > 0, kills


def test_ctrl_c_saves_the_state_and_leaves_with_130(server, unbroken, tmp_path):
    wanted, steps = unbroken
    for phase in ("feature_network", "distill", "evaluate"):
        place = tmp_path / phase
        place.mkdir()
        ours, theirs = server.Pipe(duplex=False)
        process = start(server, place, theirs, interrupted=phase)
        told = listen(ours)
        process.join()
        assert told[-1][0].startswith(phase) and told[-1][1] == 1
        printed = (place / "printed.txt").read_text()
        assert process.exitcode == 130 and "what was computed is saved" in printed and "Traceback" not in printed
        again, theirs = server.Pipe(duplex=False)
        process = start(server, place, theirs)
        told = listen(again)
        process.join()
        assert process.exitcode == 0 and len(told) < len(steps)
        assert left(place) == wanted


# --- many at once ----------------------------------------------------------------------------------------------------
def work(place: Path, number: int, rounds: int, out) -> None:
    """One of several runners: rounds of the same four cells as the others compute, and one of its own."""
    os.environ |= toy.folders(place)
    registry.experiments = toy.experiments
    computed = []
    for round_ in range(rounds):
        variants = [f"round {round_}, {k}" for k in range(4)]
        variants = variants[number % 4 :] + variants[: number % 4] + [f"round {round_}, of process {number}"]
        params = experiments.check_parameters(
            toy.NAME, {"profile": "small", "methods": ["Random"], "variants": variants}
        )
        outcome = engine.run(toy.NAME, params, say=lambda line: None)
        computed += [s.cell.stem for s in outcome.of("computed")]
    out.send(computed)


def test_eight_processes_in_one_folder_damage_no_record_and_compute_no_cell_twice(server, tmp_path):
    rounds = int(os.environ.get("DISTILL_STRESS_ROUNDS", 3))
    pipes = [server.Pipe(duplex=False) for _ in range(8)]
    processes = [server.Process(target=work, args=(tmp_path, n, rounds, theirs)) for n, (_, theirs) in enumerate(pipes)]
    for process, (_, theirs) in zip(processes, pipes, strict=True):
        process.start()
        theirs.close()
    reads = 0
    while any(p.is_alive() for p in processes):  # whoever reads while others write sees whole records only
        for file in tmp_path.glob("results/small/*/*/*.json"):
            record.read(file)
            reads += 1
        time.sleep(0.05)
    computed = [stem for ours, _ in pipes for stem in ours.recv()]
    assert [p.exitcode for p in processes] == [0] * 8
    files = list(tmp_path.glob("results/small/*/*/*.json"))
    assert len(computed) == len(set(computed)) == len(files) == rounds * (4 + 8) and reads > 0
    assert {f.stem for f in files} == set(computed)
    assert not list(tmp_path.glob("results/**/.*"))
    made = [record.read(f) for f in files]
    assert len({tuple(r.test_accuracy_pct) for r in made}) == 1  # the variants differ in name alone
    print(f"{len(files)} cells, {reads} reads")
