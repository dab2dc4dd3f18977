"""Speed costs no truth: fast and plain paths end at the same accuracy, and the benchmarks fail where results differ."""

import functools
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import suite
import torch
from dm import augmented
from dm import plain as plain_loss
from evaluate import plain as plain_evaluation
from torch.nn import functional as F

from distill_lib import data, figures, networks
from distill_lib.core.errors import UserError
from distill_lib.core.loop import Loop
from distill_lib.core.native import convnet
from distill_lib.core.paths import ROOT
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.data import ImageSet, augment
from distill_lib.evaluation import evaluate
from distill_lib.methods import METHODS, dm
from distill_lib.records import benchmarks

NETWORK, SEEDS = "ConvNetD2W32", range(5)  # small, of the kind the compiled kernel serves
CONFIG = dm.Config(ipc=1, iterations=20, network=NETWORK, batch_real=16, dsa=augment.strategy_for("FashionMNIST"))
POINTS = 1.0  # tolerance of a paired difference of accuracies, in percentage points


# --- accuracy over five seeds -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def fashion():
    real, test = data.load("FashionMNIST-mini")
    return real, test.subset(test.draw_index(40, stream(0, "speed")).flatten())


@pytest.fixture
def kernel(compiler, monkeypatch):
    """The compiled kernel, which the other tests do without."""
    library = convnet.build()
    monkeypatch.setattr(convnet, "kernel", lambda lib=convnet.load(library): lib)


def plain_dm(real, cfg, seed):
    """DM as the paper writes it: class by class, the network's own layers."""
    rng = stream(seed, "DM")
    synthetic = real.initial_images(cfg.ipc, cfg.init, rng).requires_grad_()
    optimizer = torch.optim.SGD([synthetic], lr=cfg.lr_img, momentum=cfg.momentum_img)
    dsa = augment.dsa(cfg.dsa)
    for _ in range(cfg.iterations):
        network = networks.fresh(cfg.network, real, rng).requires_grad_(False)
        theirs = real.draw_classes(cfg.batch_real, rng)
        omega = dsa.draw(rng, groups=real.num_classes)
        optimizer.zero_grad()
        plain_loss(network, augmented(dsa, omega, theirs, synthetic)).backward()
        optimizer.step()
    return ImageSet.from_classes(synthetic.detach(), like=real)


def plain_accuracies(synthetic, test, seed):
    return plain_evaluation(synthetic, test, "vico_dsa@20ep", 2, "cpu", seed, NETWORK)


def fast_accuracies(synthetic, test, seed):
    return evaluate(
        synthetic, test, "vico_dsa@20ep", NETWORK, num_eval=2, seed=seed, device="cpu", loop=Loop(bar=False)
    ).test_accuracy_pct


def paired(ours, plain):
    """Mean difference of the seeds' accuracies, and its standard error."""
    gaps = np.mean(ours, 1) - np.mean(plain, 1)
    return gaps.mean(), gaps.std(ddof=1) / math.sqrt(len(gaps))


def same(ours, plain):
    """Equal within the tolerance: mean paired difference plus two standard errors inside +-POINTS."""
    gap, error = paired(ours, plain)
    return abs(gap) + 2 * error <= POINTS


def test_fast_and_plain_paths_end_at_the_same_accuracy_over_five_seeds(fashion, kernel, monkeypatch):
    real, test = fashion
    ours, plain, wrong = [], [], []
    for seed in SEEDS:
        ours.append(fast_accuracies(dm.distill(real, CONFIG, seed, Loop(bar=False)), test, seed))
        plain.append(plain_accuracies(plain_dm(real, CONFIG, seed), test, seed))
    right = dm.dm_loss
    monkeypatch.setattr(dm, "dm_loss", lambda *args: -right(*args))  # a step that goes the wrong way
    for seed in SEEDS:
        wrong.append(fast_accuracies(dm.distill(real, CONFIG, seed, Loop(bar=False)), test, seed))
    assert np.mean(plain) > 25  # well above chance: there is something to lose
    assert same(ours, plain), paired(ours, plain)
    assert not same(wrong, plain), paired(wrong, plain)  # is seen


def test_dm_in_bfloat16_ends_at_the_same_accuracy_over_five_seeds(fashion):
    real, test = fashion
    found = {}
    for precision in ("bfloat16", "float32"):
        cfg = replace(CONFIG, precision=precision)
        found[precision] = [fast_accuracies(dm.distill(real, cfg, seed, Loop(bar=False)), test, seed) for seed in SEEDS]
    assert found["bfloat16"] != found["float32"]  # something was rounded
    assert same(found["bfloat16"], found["float32"]), paired(found["bfloat16"], found["float32"])


# --- the suite's own logic --------------------------------------------------------------------------------------------
def made(tolerance=1e-3, **changes):
    options = {"size": {}, "quick": {}, "tolerance": tolerance, "target": {"ratio": 4.0}, **changes}
    return suite.Benchmark("toy", "a toy step", "a loop", lambda side, device: None, **options)


def entry(of, ours, plain, seconds=None):
    first = {
        "ours": {"memory_mb": 10.0, "result": np.array(ours, float), "facts": {}},
        "plain": {"memory_mb": 30.0, "result": np.array(plain, float), "facts": {}, "operations": 4e9, "bytes": 1e9},
    }
    seconds = seconds or {"plain": [(4.0, 4.0), (6.0, 6.0), (5.0, 5.0)], "ours": [(1.0, 1.0), (1.5, 1.5), (1.0, 1.0)]}
    return suite.entry(of, "a toy step", first, seconds, (8e9, 2e9))


def test_an_entry_has_medians_quartiles_and_the_range_of_paired_ratios():
    e = entry(made(), [1, 2], [1, 2])
    assert (e["plain"]["median"], e["plain"]["q1"], e["plain"]["q3"], e["ours"]["median"]) == (5.0, 4.5, 5.5, 1.0)
    assert (e["ratio"], e["ratio_low"], e["ratio_high"]) == (5.0, 4.0, 5.0)
    assert benchmarks.rate(e, "ours") == 4e9 and benchmarks.rate(e, "plain") == 0.8e9
    assert benchmarks.target_met(e) and not benchmarks.target_met(e | {"ratio": 3.9})
    line = benchmarks.table([e]).iloc[0]
    assert line["of peak"] == "50 %" and line["target"] == "≥ 4.0×, met" and line["memory, plain"] == "30 MB"


def test_rows_with_a_target_come_first():
    rows = [
        entry(made(target=target), [1], [1]) | {"name": name}
        for name, target in [("a", {}), ("b", {"seconds": 1.0}), ("c", {"ratio": 2.0}), ("d", {"ratio": 2.0})]
    ]
    assert list(benchmarks.table(rows)["benchmark"]) == ["c", "d", "b", "a"]


def test_the_page_s_table_names_the_loop_that_a_row_is_compared_with():
    plain, alone = entry(made(), [1], [1]), entry(made(), [1], [1]) | {"plain": None}
    official = plain | {"what": "another", "compared": "the official code's loop", "ratio": 12.3}
    memory = alone | {"name": "memory", "target": {"off_pct": 20.0}}
    memory["facts"] = {"measured_mb": 900, "estimated_mb": 1000, "off_pct": 11}
    start = alone | {"ours": alone["ours"] | {"memory_mb": 0.0}}  # an old entry of a process apart
    others = benchmarks.alone([plain, alone, start, official, memory])
    assert others["seconds"].tolist() == ["1", "1", ""] and others["peak memory, MB"].tolist() == ["10", "", "900"]
    assert benchmarks.table([memory])["target"].tolist() == ["≤ 20.0 % off, met"]
    table = benchmarks.overview([plain, alone, official])
    assert table.values.tolist() == [["another", "", "12", "50 %", "toy"], ["a toy step", "5", "", "50 %", "toy"]]
    memory["what"] = "a step of KIP at IPC 50 on 9 images (ipc 1, batch_target 10): peak memory"
    assert benchmarks.alone([memory])["what"][0] == "a step of KIP at IPC 1 on 9 images (batch_target 10): peak memory"
    memory["what"] = "a step of DiT at IPC 50 on 9 images (ipc 1): peak memory"
    assert benchmarks.alone([memory])["what"][0] == "a step of DiT at IPC 1 on 9 images: peak memory"


def test_the_page_on_speed_types_no_number_that_is_measured():
    prose = re.sub(r"```.*?```", "", (ROOT / "book/speed.md").read_text().split("# Speed", 1)[1], flags=re.DOTALL)
    units = r"(?:×|times\b|%|percent|s\b|ms\b|seconds?|minutes?|hours?|MB|GB|GFLOP)"
    assert not re.findall(rf"\d[\d.,]* ?{units}", prose)


@pytest.mark.parametrize(
    "kind, limit, met", [("seconds", 1.0, True), ("seconds", 0.9, False), ("added_seconds", -3.9, True)]
)
def test_targets_of_other_kinds(kind, limit, met):
    assert benchmarks.target_met(entry(made(target={kind: limit}), [1], [1])) is met


@pytest.mark.parametrize("ours, agree", [([1.0, -2.0005], True), ([1.0, -2.01], False), ([1.0, math.nan], False)])
def test_results_that_differ_disagree(ours, agree):
    assert benchmarks.agrees(entry(made(), ours, [1.0, -2.0])) is agree


def test_results_of_other_shapes_or_none_are_refused():
    with pytest.raises(suite.Failed, match="shapes"):
        entry(made(), [1, 2], [1, 2, 3])
    with pytest.raises(suite.Failed, match="nothing to compare"):
        first = {
            side: {"memory_mb": 1.0, "result": None, "facts": {}, "operations": 0, "bytes": 0}
            for side in ("plain", "ours")
        }
        suite.entry(made(), "", first, {"plain": [(1.0, 1.0)], "ours": [(1.0, 1.0)]}, (1.0, 1.0))


def test_measuring_again_replaces_an_entry_and_keeps_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))
    one, two = ({**entry(made(), [1], [1]), "name": name} for name in ("one", "two"))
    path = benchmarks.add("Some CPU (R) 9, 2 threads", 2, [one, two])
    assert path == benchmarks.file("Some CPU (R) 9, 1 threads", 2) and path.name == "some-cpu-r-9-2threads.json"
    benchmarks.add("Some CPU (R) 9, 2 threads", 2, [{**one, "ratio": 7.0}])
    (report,) = benchmarks.reports()
    assert report.entries == {"one": {**one, "ratio": 7.0}, "two": two} and (report.device, report.threads) == (
        "Some CPU (R) 9",
        2,
    )
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    path.write_text(json.dumps({"format": "other"}))
    with pytest.raises(UserError, match="not measurements"):
        benchmarks.reports()


def test_counted_operations_are_those_of_the_formulas():
    x, w, a = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 3, 3, requires_grad=True), torch.randn(4, 6)
    with suite.Counter() as counted:
        F.conv2d(x, w, padding=1)
    assert counted.operations == 2 * 2 * 5 * 64 * 27
    with suite.Counter() as counted:
        F.conv2d(x, w, padding=1).sum().backward()
    assert counted.operations == 2 * (2 * 2 * 5 * 64 * 27)  # again for the weights; the images need none
    with suite.Counter() as counted:
        a @ a.T
    assert counted.operations == 2 * 4 * 4 * 6 and counted.bytes == 4 * (
        24 + 24 + 16
    )  # the transposition moves nothing


def test_every_benchmark_says_what_it_compares_and_names_are_found():
    known = suite.load()
    for name, of in known.items():
        assert of.what.format(**of.size) and of.what.format(**of.quick), name
        assert (of.tolerance is None) or of.compared, name
        assert not of.growth or set(of.growth) | set(of.small) <= set(of.size), name
        assert not of.target or next(iter(of.target)) in ("ratio", "seconds", "added_seconds"), name
    targets = {name: of.target["ratio"] for name, of in known.items() if "ratio" in of.target}
    wanted = {"dm": 4.0, "dc": 3.0, "mtt": 2.0, "evaluate": 2.0, "augment-dsa": 5.0, "fid-features": 3.0}
    assert targets == {**wanted, "uvit-train": 1.5, "uvit-draw": 1.5, "uvit-solver": 1.5}
    assert {"memory-dm", "memory-dc", "memory-mtt"} <= {b.name for b in suite.chosen(["memory"])} < set(known)
    with pytest.raises(SystemExit, match="no benchmark 'dmm'; there are: .*evaluate"):
        suite.chosen(["dmm"])


def test_the_code_that_benchmarks_hand_to_another_process_names_modules_that_are_there():
    known = suite.load()
    imports = [f"import {size['modules']}" for size in (known["start-import"].size, known["start-import"].quick)]
    for code in [*imports, sys.modules["book"].RECORDED.partition("; build.")[0]]:
        exec(code, {})
    assert known["start-import"].elsewhere and "build.build(out=" in sys.modules["book"].RECORDED


def test_memory_is_measured_of_the_part_that_its_row_names():
    suite.load()
    memory = sys.modules["memory"]
    for method, part in memory.REDUCED.items():
        made = memory.changed(METHODS[method].paper_config("CIFAR10", 50), {**memory.ONE_STEP, **part})
        for name, value in part.items():  # also where the setting is None, which means all
            assert functools.reduce(getattr, name.split("."), made) == value, (method, name)


def test_two_benchmarks_run_and_nothing_is_written_by_a_quick_look(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks"), "dm", "kip-dense", "--quick", "--threads", "1"]
    environment = {**os.environ, "DISTILL_RESULTS": str(tmp_path / "results")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("dm ") and second.startswith("kip-dense ") and "ratio" in first and "difference" in second
    assert not list(tmp_path.rglob("*"))


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The command with one benchmark, of no work, on a machine that does nothing else."""
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))
    ran = {"memory_mb": 0.0, "result": np.ones(1), "facts": {}, "operations": 1, "bytes": 1}

    class Side:
        def __init__(self, target, *args):
            self.answer = lambda: (1e9, 1e9) if target is suite.peaks else ran

        def once(self):
            return 1.0, 1.0

        def end(self):
            pass

    monkeypatch.setattr(suite, "Side", Side)
    monkeypatch.setattr(suite, "chosen", lambda names: [made()])
    monkeypatch.setattr(suite, "SETTLE", 0.0)
    monkeypatch.setattr(suite, "busy_cores", lambda: 0.0)


def test_a_busy_machine_is_not_measured_unless_told_to(toy, monkeypatch):
    monkeypatch.setattr(suite, "busy_cores", lambda: 0.2)
    with pytest.raises(SystemExit, match="toy: other work takes 0.2 cores .*--busy-anyway"):
        suite.main(["toy", "--threads", "1"])
    assert not benchmarks.reports()
    suite.main(["toy", "--threads", "1", "--busy-anyway"])
    about = benchmarks.reports()[0].entries["toy"]["made_by"]
    assert about["busy_cores"] == 0.2
    assert ("avx2" in about["processor"]) == torch.cpu._is_avx2_supported()


def test_the_load_of_others_is_measured():
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert suite.busy_cores(0.5) > 0.5
    finally:
        spinning.kill()
        spinning.wait()


def test_disagreement_fails_and_is_not_recorded(toy, tmp_path, monkeypatch, capsys):
    found = entry(made(), [1.0], [2.0])
    monkeypatch.setattr(suite, "measured", lambda *args, **more: found)
    with pytest.raises(SystemExit, match="failed: toy"):
        suite.main(["toy", "--threads", "1"])
    assert "RESULTS DISAGREE" in capsys.readouterr().out and not list(tmp_path.rglob("*.json"))


def test_figures_show_what_was_measured():
    e = entry(made(), [1], [1])
    drawn = figures.roofline({"a machine": (benchmarks.roofline([e]), 8e9, 2e9)}).axes[0]
    marks = {tuple(line.get_xydata()[0]) for line in drawn.lines if line.get_marker() not in ("None", None, "")}
    assert marks == {(4.0, 0.8), (4.0, 4.0)}
    rows = [{**e, "group": "growth", "base": "toy", "axis": "ipc", "at": at} for at in (10, 1)]
    grown = benchmarks.growth(rows)
    assert list(grown["at"]) == [1, 10]
    assert len(figures.seconds_over_size(grown).axes) == 1
