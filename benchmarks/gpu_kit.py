"""What a machine with a GPU is asked in a few minutes: its tests, its speed, numbers under the papers' protocols.

    python benchmarks/gpu_kit.py collect KIT                              # where there is a network: a few MB to carry
    python benchmarks/gpu_kit.py run OUT --kit KIT --minutes 9            # on the GPU's machine, which needs none
    distill import OUT                                                    # at home

Every step has a share of the minutes; one that fails or is cut short is reported, and the next one begins. Its results
are packed after every step, so a run that is killed keeps them. A run whose OUT holds an earlier run's files goes on
from its checkpoint and keeps its records. Book page: book/scale_out.md

Only the standard library is imported here: the machine has PyTorch, torchvision, seaborn and typer, and what the kit
brings.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FORMAT = "distill_lib.gpu/1"
PYTHON = "3.12"
PACKAGES = {  # what the machine lacks: name in requirements.lock -> module
    "annotated-types": "annotated_types",
    "filelock": "filelock",
    "iniconfig": "iniconfig",
    "nvidia-ml-py": "pynvml",
    "packaging": "packaging",
    "platformdirs": "platformdirs",
    "pluggy": "pluggy",
    "psutil": "psutil",
    "pydantic": "pydantic",
    "pydantic-core": "pydantic_core",
    "pygments": "pygments",
    "pytest": "pytest",
    "safetensors": "safetensors",
    "tqdm": "tqdm",
    "typing-extensions": "typing_extensions",
    "typing-inspection": "typing_inspection",
}
DATA = ["MNIST", "FashionMNIST", "CIFAR10"]
FILE_BYTES = 16_000_000  # of every file in OUT
PARTS = 3  # files of the checkpoint; beside them lie manifest.json, results.zip and log.txt, 64 MB in all
GRACE_S = 15.0  # for a step to save its state once its time is up
CUT = "cut short: its time was up"
STOPPED = "stopped: its time was up, and its state is saved"
CHECKPOINTED = ("work", "sets", "made")  # below runs/<profile>


@dataclass(frozen=True)
class Step:
    """A command with its share of the time; `limited` if it stops by itself at a --time-limit."""

    name: str
    share: float
    command: list[str]
    limited: bool = False


def steps(device: str, tests: Path) -> list[Step]:
    """What is done, in order. What a step leaves of its time goes to the next one."""
    pytest = ["-m", "pytest", "-v", "tests/test_gpu.py", f"--junitxml={tests}", "-p", "no:cacheprovider"]

    def measure(command: str, cells: str, sets: int) -> list[str]:
        options = ["--cells", cells, "--sets", str(sets), "--device", device]
        return ["-m", "distill_lib", *command.split(), *options]

    if device == "cpu":  # the same chain at tiny sizes, from the data sets inside the package
        run = "run skd/table1_accuracy --profile smoke"
        return [
            Step("tests", 0.25, [*pytest, "-m", "not gpu"]),
            Step("benchmarks", 0.25, ["benchmarks", "dm", "--quick", "--device", device]),
            Step("Random", 0.25, measure(run, "method=Random,dataset=FashionMNIST,ipc=1", 1), True),
            Step(
                "SKD, stage 1", 0.25, measure(run, "method=SKD,dataset=FashionMNIST,ipc=1,protocol=vico_dsa", 1), True
            ),
        ]
    fill = "fill skd/table1_accuracy --profile full"
    names = ["dm", "dc", "mtt", "evaluate", "cgan-train", "skd", "uvit-train", "uvit-draw"]
    return [
        Step("tests", 0.15, [*pytest, "-m", "gpu"]),
        Step("benchmarks", 0.15, ["benchmarks", *names, "--repeats", "3", "--busy-anyway", "--device", device]),
        # one step: `fill` takes the cheapest printed numbers first, and starting it takes seconds
        Step("DC, DSA and DM", 0.5, measure(fill, "method=DC|DSA|DM,ipc=1|10|50", 1), True),
        Step("five sets", 0.1, measure(fill, "method=Random|Herding|K-Center|Forgetting|DM", 5), True),
        Step("SKD, stage 1", 0.1, measure(fill, "method=SKD,dataset=MNIST,ipc=1", 1), True),
    ]


# --- with a network ---------------------------------------------------------------------------------------------------
def collect(kit: Path) -> None:
    """Download the locked wheels for the GPU's machine, checked by their hashes, and note which commit this is.

    Raises: SystemExit: code that is not committed, whose numbers nobody could trace.
    """
    git = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
    if subprocess.run(["git", "status", "--porcelain", "--", "distill_lib"], **git).stdout.strip():
        raise SystemExit("distill_lib was changed since the last commit: commit it first, so that records can name it")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], **git).stdout.strip()[:12]
    shutil.rmtree(kit, ignore_errors=True)
    kit.mkdir(parents=True)
    entries = re.findall(r"^[A-Za-z0-9._-]+==(?:.*\\\n)*.*", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    wanted = kit / "requirements.txt"
    wanted.write_text("\n".join(e for e in entries if e.split("==")[0] in PACKAGES) + "\n")
    pip = ["-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    places = [f"--platform={p}_x86_64" for p in ("manylinux2014", "manylinux_2_17", "manylinux_2_28")]
    command = [sys.executable, *pip, "--python-version", PYTHON, *places, "--dest", kit, "--requirement", wanted]
    subprocess.run(command, check=True)
    (kit / "commit.json").write_text(json.dumps({"commit": commit, "code_sha256": code_sha256()}) + "\n")
    megabytes = sum(f.stat().st_size for f in kit.iterdir()) / 1e6
    print(f"{len(list(kit.glob('*.whl')))} wheels, {megabytes:.1f} MB, for commit {commit} in {kit}")


def code_sha256() -> str:
    """Hash of the names and contents of the library's files."""
    found = hashlib.sha256()
    for file in sorted((ROOT / "distill_lib").rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            found.update(f"{file.relative_to(ROOT).as_posix()}\0{sha256(file)}\n".encode())
    return found.hexdigest()


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# --- on the GPU's machine ---------------------------------------------------------------------------------------------
class Kit:
    """One run: its folders, its log, and what it packs."""

    def __init__(self, out: Path, kit: Path, minutes: float, device: str):
        self.start, self.minutes, self.device, self.out, self.kit = time.monotonic(), minutes, device, out, kit
        runs = Path(os.environ.get("DISTILL_RUNS") or ROOT / "runs").resolve()
        self.work = runs / "gpu"
        self.places = {"full": self.work / "results" / "full", "smoke": self.work / "runs" / "smoke" / "records"}
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "passive"}
        self.env |= {"DISTILL_RESULTS": str(self.work / "results"), "DISTILL_RUNS": str(self.work / "runs")}
        self.env |= {"DISTILL_COMPILE": "0", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # compiling takes half a minute
        self.env.setdefault("DISTILL_DATA", str(runs / "gpu_data"))
        self.report: dict[str, Any] = {"format": FORMAT, "minutes": minutes, "steps": []}
        out.mkdir(parents=True, exist_ok=True)
        self.finish_packing()
        others = [f for f in out.iterdir() if f.name != "log.txt" and f.suffix != ".part"]
        if others and not (out / "manifest.json").is_file():
            raise SystemExit(f"{out}: holds other files; give an empty folder, or an earlier run's to go on from")
        files = self.checked() if (out / "manifest.json").is_file() else None  # before anything is deleted
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        if (ROOT / "results" / "full").is_dir() and device != "cpu":
            shutil.copytree(ROOT / "results" / "full", self.places["full"])
        if files is not None:
            self.restore(files)

    def finish_packing(self) -> None:
        """Rename what a kill in the middle of `pack`'s renaming left, if it is whole."""
        manifest = self.out / "manifest.json.part"
        try:
            files = json.loads(manifest.read_text())["files"]
            parts = {n: p if (p := self.out / f"{n}.part").is_file() else self.out / n for n in files}
            whole = all(sha256(p) == files[n]["sha256"] for n, p in parts.items())
        except (OSError, ValueError, KeyError, TypeError):  # an unfinished part: the files before are whole
            whole = False
        if whole:
            for name, part in [*parts.items(), ("manifest.json", manifest)]:
                part.replace(self.out / name)
        for kind in ("manifest.json", "results.zip", "checkpoint.zip.*"):  # of a kill while they were written
            for part in self.out.glob(f"{kind}.part"):
                part.unlink()

    def say(self, line: str) -> None:
        with open(self.out / "log.txt", "a") as log:
            log.write(f"{line}\n")
        print(line, flush=True)

    def checked(self) -> list[str]:
        """The files of the earlier run in OUT. Raises: SystemExit: they are damaged."""
        try:
            files = json.loads((self.out / "manifest.json").read_text())["files"]
            if bad := [name for name, about in files.items() if sha256(self.out / name) != about["sha256"]]:
                raise OSError(f"{', '.join(bad)}: another checksum")
            return list(files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            raise SystemExit(f"{self.out}: an earlier run's files are damaged ({err}); give another folder") from None

    def restore(self, files: list[str]) -> None:
        """Records and checkpoint of the earlier run in OUT. Raises: SystemExit: they are damaged."""
        try:
            whole = self.work / "checkpoint.zip"
            whole.write_bytes(b"".join((self.out / name).read_bytes() for name in sorted(files) if ".zip." in name))
            for archive, place in ((self.out / "results.zip", self.work / "earlier"), (whole, self.work / "runs")):
                if archive.stat().st_size:
                    with zipfile.ZipFile(archive) as z:
                        z.extractall(place)
        except (OSError, zipfile.BadZipFile) as err:
            raise SystemExit(f"{self.out}: an earlier run's files are damaged ({err}); give another folder") from None
        brought = {f"records/{profile}": place for profile, place in self.places.items()}
        for name, place in {**brought, "benchmarks": self.work / "results" / "benchmarks"}.items():
            if (earlier := self.work / "earlier" / name).is_dir():
                shutil.copytree(earlier, place, dirs_exist_ok=True)

    def prepare(self) -> None:
        """Install what is missing, find the commit, and ask the library who measures.

        Raises: SystemExit: packages are missing and no kit has them, or the library does not start.
        """
        missing = [name for name, module in PACKAGES.items() if importlib.util.find_spec(module) is None]
        if missing:
            wheels = sorted(self.kit.glob("*.whl"))
            if not wheels:
                raise SystemExit(f"not installed: {', '.join(missing)}; make gpu-kit collects them into {self.kit}")
            target = self.work / "packages"
            pip = "-m pip install --isolated --quiet --no-compile --no-index --no-deps --find-links".split()
            if subprocess.run([sys.executable, *pip, self.kit, "--target", target, *wheels]).returncode:
                raise SystemExit(f"the wheels of {self.kit} cannot be installed: they are for Python {PYTHON} on Linux")
            self.env["PYTHONPATH"] = f"{target}{os.pathsep}{ROOT}"
        about = self.kit / "commit.json"
        if about.is_file():  # the library takes it where the machine has no git checkout
            known = json.loads(about.read_text())
            if known["code_sha256"] == code_sha256():
                self.env.setdefault("DISTILL_COMMIT", known["commit"])
                self.env.setdefault("GIT_DIR", os.devnull)  # the repository of a copy is not the one it was copied from
        ask = "import json, sys; from distill_lib import data, records; from distill_lib.core.device import pick"
        ask += f"; lacking = [why for name in {DATA} if (why := data.not_at_hand(name))]"
        ask += "; print(json.dumps([records.provenance(pick(sys.argv[1])), lacking]))"
        done = subprocess.run([sys.executable, "-c", ask, self.device], env=self.env, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or "no error").splitlines()[-1]
            raise SystemExit(f"the library does not start on {self.device}: {said}")
        by, lacking = json.loads(done.stdout.splitlines()[-1])
        if self.device != "cpu" and len(lacking) == len(DATA):
            raise SystemExit(f"no data set is here, looked for in {self.env['DISTILL_DATA']}: {'; '.join(lacking)}")
        self.report["data_not_here"] = lacking
        if self.device != "cpu" and (not by.get("commit") or by.get("changed_since_commit")):
            raise SystemExit(
                "no number of this run could be imported: the code is not that of a commit; commit first, and carry "
                f"the checkout unchanged with the folder {self.kit} that make gpu-kit made of it"
            )
        self.report |= {"made_by": by}

    def run(self) -> None:
        """Every step within its time, and what it brought packed."""
        self.prepare()
        by = self.report["made_by"]
        self.say(f"{by['device']}, torch {by['torch']}, commit {by.get('commit', 'unknown')}: {self.minutes:g} minutes")
        todo, reached = steps(self.device, self.work / "tests.xml"), 0.0
        for step in todo:
            reached += step.share
            self.one(step, self.start + 60 * self.minutes * 0.95 * reached)
            self.pack()
        bad = "".join(f"; {s['name']} failed" for s in self.report["steps"] if s["status"].startswith("failed"))
        print(f"{len(list(self.out.iterdir()))} files in {self.out} after {self.report['seconds']:.0f} s{bad}")

    def one(self, step: Step, until: float) -> None:
        """Run a step until its time is up; ask it to save, then end it."""
        began = time.monotonic()
        left = until - began - GRACE_S * step.limited
        about = {"name": step.name, "seconds": 0.0, "status": "not begun: no time left"}
        self.report["steps"].append(about)
        if left > 0:
            limit = ["--time-limit", f"{left:.0f}s"] if step.limited else []
            limit += ["--budget", f"{left * 0.8:.0f}"] if step.command[0] == "benchmarks" else []
            self.say(f"--- {step.name}, at most {until - began:.0f} s: {' '.join([*step.command, *limit])}")
            with open(self.out / "log.txt", "a") as log:
                command = [sys.executable, *step.command, *limit]
                how = {"cwd": ROOT, "env": self.env, "stdout": log, "stderr": log, "start_new_session": True}
                about["status"] = ended(subprocess.Popen(command, **how), until)
            about["seconds"] = round(time.monotonic() - began, 1)
            if step.limited and about["status"] == "done" and about["seconds"] >= left:
                about["status"] = STOPPED
        self.say(f"{step.name}: {about['status']}, {about['seconds']:.0f} s")
        if about["status"].startswith("failed"):  # the log may not come back
            print("\n".join((self.out / "log.txt").read_text(errors="replace").splitlines()[-15:]), flush=True)

    # --- what goes back ---
    def pack(self) -> None:
        """Write OUT: records that are new, benchmark records and the test report in results.zip; the checkpoint."""
        results = self.work / "results.zip"
        with zipfile.ZipFile(results, "w", zipfile.ZIP_DEFLATED) as z:
            for profile, place in self.places.items():
                for file in sorted(place.glob("*/*/*.json")):
                    name = file.relative_to(place).as_posix()
                    known = ROOT / "results" / profile / name
                    if not (known.is_file() and known.read_bytes() == file.read_bytes()):
                        z.write(file, f"records/{profile}/{name}")
            for file in sorted((self.work / "results" / "benchmarks").glob("*.json")):
                z.write(file, f"benchmarks/{file.name}")
            if (self.work / "tests.xml").is_file():
                z.write(self.work / "tests.xml", "tests.xml")
        made, self.report["not_carried"] = self.checkpoint()
        made["results.zip"] = results.read_bytes()
        log = self.out / "log.txt"
        if log.stat().st_size > FILE_BYTES:  # its end says what happened
            log.write_bytes(log.read_bytes()[-FILE_BYTES:])
        # a kill in here leaves the manifest of before with files of before: what is new is written beside, then renamed
        # at once; the log goes on growing, so it has no checksum
        files = {n: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for n, b in sorted(made.items())}
        self.report |= {"seconds": round(time.monotonic() - self.start, 1), "files": files}
        made["manifest.json"] = (json.dumps(self.report, indent=1) + "\n").encode()
        for name, data in made.items():
            (self.out / f"{name}.part").write_bytes(data)
        for part in self.out.glob("checkpoint.zip.*"):
            if part.suffix != ".part" and part.name not in made:
                part.unlink()
        for name in made:
            (self.out / f"{name}.part").replace(self.out / name)

    def checkpoint(self) -> tuple[dict[str, bytes], list[str]]:
        """What interrupted computations left, largest first, as files of at most 16 MB; and what did not fit."""
        runs, room, left_out = self.work / "runs", PARTS * FILE_BYTES * 0.99, []
        whole = self.work / "checkpoint.zip"
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z:
            for file in sorted(kept(runs), key=lambda f: -f.stat().st_size):
                name = file.relative_to(runs).as_posix()
                if (size := file.stat().st_size) > room:
                    left_out.append(f"{name}: {size / 1e6:.1f} MB")
                    continue
                z.write(file, name)
                room -= size
        data = whole.read_bytes() if z.namelist() else b""
        starts = range(0, len(data), FILE_BYTES)
        return {f"checkpoint.zip.{i // FILE_BYTES + 1}": data[i : i + FILE_BYTES] for i in starts}, left_out


def kept(runs: Path) -> Iterator[Path]:
    """Files that let an interrupted computation go on: those of the profiles, and what several sets share."""
    folders = [runs / profile / name for profile in ("full", "smoke") for name in CHECKPOINTED]
    made = [
        p for p in runs.glob("*") if p.is_dir() and p.name not in ("full", "smoke", "activity", "locks", "verified")
    ]
    for folder in [*folders, *made]:
        for file in folder.rglob("*"):
            if file.is_file() and file.suffix not in (".lock", ".part"):
                yield file


def ended(process: subprocess.Popen, until: float) -> str:
    """Wait for a step, or end it with all its processes; returns its status in words."""
    status = None
    for sign, patience in ((signal.SIGINT, until - time.monotonic()), (signal.SIGKILL, 10.0), (None, 5.0)):
        try:
            status = process.wait(max(patience, 1.0))
            break
        except subprocess.TimeoutExpired:
            if sign is not None:  # one that outlives this, such as a driver that is closing, is left behind
                os.killpg(process.pid, sign)
    if time.monotonic() > until:
        return CUT
    return {0: "done", 3: STOPPED}.get(status, f"failed: exit status {status}, see the log")


def main() -> None:
    options = argparse.ArgumentParser(prog="gpu_kit", description=__doc__.splitlines()[0])
    commands = options.add_subparsers(dest="command", required=True)
    of = commands.add_parser("collect", help="what to carry to a machine without a network")
    of.add_argument("kit", type=Path)
    of = commands.add_parser("run", help="the tests, the benchmarks, the numbers")
    of.add_argument("out", type=Path)
    of.add_argument("--kit", type=Path, default=ROOT / "runs" / "gpu_kit")
    of.add_argument("--minutes", type=float, default=9)
    of.add_argument("--device", default="cuda")
    args = options.parse_args()
    if args.command == "collect":
        collect(args.kit)
    elif args.minutes <= 0:
        raise SystemExit(f"--minutes {args.minutes:g}: a number above zero")
    else:
        Kit(args.out.resolve(), args.kit.resolve(), args.minutes, args.device).run()


if __name__ == "__main__":
    main()
