"""Long computations: resume equals an unbroken run, time limits, Ctrl-C, NaN, damaged checkpoints."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from distill_lib.core import paths
from distill_lib.core.errors import TimeUp, UserError
from distill_lib.core.files import atomically
from distill_lib.core.loop import Diverged, Loop
from distill_lib.core.rng import stream

SCRIPT = """
import sys, time, pathlib, torch
from distill_lib.core.loop import Loop
from distill_lib.core.rng import stream
from tests.test_loop import walk
result = walk(Loop(pathlib.Path(sys.argv[1]), every=0), pause=float(sys.argv[2]))
print(",".join(f"{v:.17g}" for v in result.tolist()))
"""


def walk(loop: Loop, steps: int = 60, pause: float = 0.0) -> torch.Tensor:
    """A small optimisation whose every step draws from a generator."""
    rng = stream(0, "walk")
    point = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([point], lr=0.1, momentum=0.5)
    for _ in loop.steps("walk", steps, {"point": point, "optimizer": optimizer, "rng": rng}):
        loss = (point - torch.randn(3, generator=rng, dtype=torch.float64)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.log(loss=loss)
        time.sleep(pause)
    return point.detach()


def test_resume_after_time_limits_equals_an_unbroken_run(tmp_path):
    stops = 0
    while True:
        try:
            end = walk(Loop(tmp_path, deadline=time.monotonic() + 0.03), pause=0.002)
            break
        except TimeUp:
            stops += 1
    assert stops > 0
    assert torch.equal(end, walk(Loop()))


def test_resume_after_sigkill_equals_an_unbroken_run(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    first = subprocess.Popen([*command, "0.05"], cwd=paths.ROOT, stdout=subprocess.PIPE)
    until = time.monotonic() + 60
    while not (tmp_path / "walk.ckpt").exists() and time.monotonic() < until:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (tmp_path / "walk.ckpt").exists()
    again = subprocess.run([*command, "0"], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    resumed = torch.tensor([float(v) for v in again.stdout.strip().split(",")], dtype=torch.float64)
    assert torch.equal(resumed, walk(Loop()))


def test_ctrl_c_stops_between_two_steps_with_the_state_saved(tmp_path):
    loop, seen = Loop(tmp_path), []
    point = torch.zeros(1)
    with pytest.raises(KeyboardInterrupt):
        for step in loop.steps("count", 100, {"point": point}):
            point += 1
            seen.append(step)
            if step == 4:
                os.kill(os.getpid(), signal.SIGINT)
    assert seen == [0, 1, 2, 3, 4]
    resumed = torch.zeros(1)
    assert next(iter(Loop(tmp_path).steps("count", 100, {"point": resumed}))) == 5
    assert resumed.item() == 5


def test_nan_stops_and_keeps_the_last_good_state(tmp_path):
    loop, value = Loop(tmp_path, check=1, every=0), torch.zeros(1)
    with pytest.raises(Diverged, match="loss = nan at step 3"):
        for step in loop.steps("walk", 10, {"value": value}):
            value += 1
            loop.log(loss=torch.tensor(float("nan") if step == 3 else 1.0))
    assert torch.load(tmp_path / "walk.ckpt", weights_only=True)["step"] == 3


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path):
    walk(Loop(tmp_path, key="a"))
    value = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    live = {"point": value, "optimizer": torch.optim.SGD([value], lr=0.1), "rng": stream(0)}
    assert next(iter(Loop(tmp_path, key="b").steps("walk", 60, live))) == 0
    assert (
        next(iter(Loop(tmp_path, key="a").steps("walk", 60, live | {"more": [0]}))) == 0
    )  # of a loop that held other things


def test_without_a_key_a_checkpoint_serves_only_what_starts_alike(tmp_path):
    def begin(seed=0, ipc=1, steps=10):
        point = torch.zeros(ipc, 3)
        return next(iter(Loop(tmp_path).steps("walk", steps, {"point": point, "rng": stream(seed), "seen": []})))

    with pytest.raises(TimeUp):
        live = {"point": torch.zeros(1, 3), "rng": stream(0), "seen": []}
        for step in Loop(tmp_path, deadline=time.monotonic()).steps("walk", 10, live):
            live["seen"].append(step)
            live["point"] += torch.rand(1, 3, generator=live["rng"])
    assert begin() == 1 and begin(seed=1) == begin(ipc=3) == begin(steps=11) == 0


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "walk.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="walk.ckpt: damaged checkpoint"):
        walk(Loop(tmp_path))


def test_history_has_every_look_once_across_a_resume(tmp_path):
    with pytest.raises(TimeUp):
        walk(Loop(tmp_path, check=10, deadline=time.monotonic() + 0.05), pause=0.004)
    loop = Loop(tmp_path, check=10)
    walk(loop)
    steps = [s for s, _ in loop.history["loss"]]
    assert steps == sorted(set(steps)) and steps[-1] == 59


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "record.json"
    atomically(target, lambda part: part.write_text("old"))

    def fail(part):
        part.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device; nothing was changed"):
        atomically(target, fail)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_named_generators_are_independent_of_each_other_and_of_order():
    a = torch.rand(4, generator=stream(0, "evaluate", 3))
    stream(0, "evaluate", 2)
    assert torch.equal(a, torch.rand(4, generator=stream(0, "evaluate", 3)))
    assert not torch.equal(a, torch.rand(4, generator=stream(0, "evaluate", 2)))
    assert not torch.equal(a, torch.rand(4, generator=stream(1, "evaluate", 3)))
