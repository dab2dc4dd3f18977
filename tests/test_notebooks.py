"""Every notebook keeps its form, and running notebooks fails early, clearly, and without leaving half a result."""

import ast
import json
import re

import matplotlib.pyplot as plt
import nbformat
import papermill
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from distill_lib import figures
from distill_lib.core import paths
from distill_lib.core.errors import UserError
from distill_lib.experiments import experiments
from distill_lib.publish import build, pages
from distill_lib.publish.kernel_server import Kernels

NOTEBOOKS = {p.experiment: p for p in pages.notebooks()}
PICTURES = [
    "skd/figure2_images",
    "uvit/figures5_7_samples",
    *(f"slfd/figure{n}" for n in ("4_images", "5_pathmnist", "6_uvit", "7_rank")),
]
CLAIM = ("found[0].claim", "found[-1].claim")
CHANGES = {  # what a reader may do with the line marked "change this line": what stands there, and what is put there
    "dgs/claims": CLAIM,
    "dgs/figure1_workflow": ("steps = 40", "steps = 20"),
    "dgs/figure2_difficulty": ('"code"  #', '"paper"  #'),
    "dgs/figure3_examples": ("8, 20", "3, 2"),
    "dgs/figure4_targets": ("ipc = 10", "ipc = 20"),
    "dgs/table1_imagewoof": ("ResNet-18", "ConvNet-6"),
    "dgs/table2_subsets": ("= 120", "= 20"),
    "dgs/table3_distributions": ("= 0.3", "= 0.6"),
    "dgs/table4_pool_size": ("ipc = 20", "ipc = 10"),
    "skd/ablations": ("[1.0, 2.0, 4.0]", "[0.5, 8.0]"),
    "skd/claims": CLAIM,
    "skd/fair_ranking": ('"SKD", "DM"', '"MTT", "DM"'),
    "skd/figure1_pipeline": ("2.0", "1.0"),
    "skd/figure2_images": ("epochs = 1", "epochs = 2"),
    "skd/gallery": ('"Herding", "DM"], 40', '"DM"], 10'),
    "skd/table1_accuracy": ("FashionMNIST", "MNIST"),
    "skd/table2_cross_architecture": ('"ConvNet", "ResNet18"', '"AlexNet"'),
    "skd/timelapse": ("lr_img = 1.0", "lr_img = 100.0"),
    "slfd/ablations": ("= 2.0", "= 1.0"),
    "slfd/claims": CLAIM,
    "slfd/figure1_correlation": ("(0.0, 0.3, 1.0, 3.0)", "(0.5, 5.0)"),
    "slfd/figure2_overview": ("-4.0", "-1.0"),
    "slfd/figure3_refined": ("[1.0, 0, 0]", "[3.0, 0, 0]"),
    "slfd/figure4_images": ("= 3", "= 1"),
    "slfd/figure5_pathmnist": ("= 2", "= 3"),
    "slfd/figure6_uvit": ("= 32", "= 64"),
    "slfd/figure7_rank": ("= 2", "= 1"),
    "slfd/table1_imagenet_subsets": ("layer = 3", "layer = 1"),
    "slfd/table2_highres": ("= 256", "= 128"),
    "slfd/table3_merged": ("SLFD-100", "ImageNette"),
    "slfd/table4_cifar10": ("= 16", "= 8"),
    "slfd/table5_pathmnist": ("= 6", "= 3"),
    "slfd/table6_uvit": ("width=64", "width=32"),
    "slfd/table7_covariance_rank": ("= 10", "= 20"),
    "uvit/accuracy_budget": ("[5, 10, 20, 50]", "[8, 100]"),
    "uvit/claims": CLAIM,
    "uvit/figure1_overview": ("600, 60", "60, 60"),
    "uvit/figure2_architecture": ("= 4", "= 2"),
    "uvit/figure4_leaderboard": ('"CIFAR100": 0.5', '"CIFAR100": 1.0'),
    "uvit/figures5_7_samples": ("= 2", "= 1"),
    "uvit/table1_configurations": ("256, 8", "128, 8"),
    "uvit/table2_fid": ("[70, 150, 300, 700]", "[100, 500]"),
    "book/skd": ("2.0, 0.01", "1.0, 0.1"),
    "book/uvit": ("= 50", "= 20"),
    "book/dgs": ("1, 1, 5", "0, 0, 5"),
    "book/slfd": ("[0, 1.0, 0]", "[0, 3.0, 0]"),
}
FIRST = 'profile: str = "recorded"  # recorded | smoke | small | full\nn: int = 3  # how many'


def write(root, name, *sources):
    """A notebook with a title, a parameters cell and the given code cells."""
    cells = [new_markdown_cell("# A table"), new_code_cell(FIRST, metadata={"tags": ["parameters"]})]
    file = root / "notebooks" / f"{name}.ipynb"
    file.parent.mkdir(parents=True, exist_ok=True)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[*cells, *map(new_code_cell, sources)], metadata=kernel), file)
    return pages.Page(root, f"notebooks/{name}")


# --- the notebooks of the book ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_has_the_form_of_a_page(name):
    notebook = NOTEBOOKS[name].notebook()
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert sum("parameters" in c.metadata.get("tags", []) for c in code) == 1
    assert notebook.cells[0].source.startswith("# ")
    assert all(not c.outputs and c.execution_count is None for c in code), "commit notebooks without outputs"
    long = [line for c in code for line in c.source.splitlines() if len(line) > 79]
    assert not long, "the page cuts code lines of more than 79 characters"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_takes_exactly_the_parameters_of_its_model(name):
    assert name in experiments(), f"no experiment is called {name}"
    assert set(pages.parameter_names(NOTEBOOKS[name])) == set(experiments()[name].parameters.model_fields)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_other_cell_takes_the_name_of_a_parameter(name):
    """Run alone, the cell below the parameters would take another cell's variable for the parameter."""
    taken = set()
    for cell in NOTEBOOKS[name].notebook().cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    taken.add(node.id)
                elif isinstance(node, ast.alias):
                    taken.add(node.asname or node.name.partition(".")[0])
    assert not taken & set(experiments()[name].parameters.model_fields)


def test_every_notebook_is_in_the_contents_and_every_experiment_has_one():
    assert {p.name for p in NOTEBOOKS.values()} <= set(build._contents(paths.ROOT))
    assert set(experiments()) <= set(NOTEBOOKS)


@pytest.mark.parametrize(
    "file", [*(p.file for p in NOTEBOOKS.values()), *sorted((paths.ROOT / "book").glob("*.md"))], ids=lambda f: f.stem
)
def test_mathematics_has_single_backslashes(file):
    text = file.read_text()
    texts = (
        [c.source for c in nbformat.reads(text, 4).cells if c.cell_type == "markdown"]
        if file.suffix == ".ipynb"
        else [text]
    )
    assert not re.findall(r"\\\\[A-Za-z]\w*", "\n".join(texts)), (
        "two backslashes show a command's name in place of what it draws"
    )


def until_adapted(page):
    """The code of a page above *Adapt this*."""
    for cell in page.notebook().cells:
        if cell.cell_type == "code":
            yield cell.source
        elif "## Adapt this" in cell.source:
            return


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_titled_with_the_data_set_stored_in_their_file(name, monkeypatch):
    drawn = []

    def watched(draw):
        def look(what, *more, title="", **options):
            drawn.extend((images, title) for images in (what.values() if isinstance(what, dict) else [what]))
            return draw(what, *more, title=title, **options)

        return look

    for kind in ("film_strip", "image_grid", "samples_and_nearest"):
        monkeypatch.setattr(figures, kind, watched(getattr(figures, kind)))
    names = {"display": lambda shown: None}
    for source in until_adapted(NOTEBOOKS[name]):
        exec(source, names)
        assert "suptitle" not in source, "titles are given to the function that draws"
    plt.close("all")
    assert all(images.facts.name in title for images, title in drawn)
    assert bool(drawn) == any((paths.results(kept) / name).exists() for kept in ("full", "small"))


# --- running them as a reader does ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def kernels():
    with Kernels(threads=1) as started:
        yield started


def shown(cell):
    """What a cell puts on the page, without the time that a figure says it was drawn at."""
    found = [output.get("text") or output.get("data") for output in cell.outputs if output.get("name") != "stderr"]
    return re.sub(r"<dc:date>.*?</dc:date>", "", str(found))


@pytest.mark.parametrize("name", [*NOTEBOOKS, *(name for name in CHANGES if name not in NOTEBOOKS)])
def test_a_page_runs_again_in_its_kernel_and_shows_what_the_changed_line_asks_for(name, kernels):
    page = NOTEBOOKS.get(name) or pages.Page(paths.ROOT, name, ".md")
    code = [cell.source for cell in page.notebook().cells if cell.cell_type == "code"]
    (at,) = [i for i, source in enumerate(code) if "# change " in source]
    (line,) = [line for line in code[at].splitlines() if "# change " in line]
    old, new = CHANGES[name]
    assert old in line
    again = [*code[:at], code[at].replace(line, line.replace(old, new)), *code[at + 1 :]]
    twice = new_notebook(cells=[new_code_cell(source) for source in code + again])
    NotebookClient(
        twice, timeout=300, kernel_name="python3", kernel_manager_class=kernels.manager(page.file.parent)
    ).execute()
    first, second = shown(twice.cells[at]), shown(twice.cells[len(code) + at])
    assert "[]" not in (first, second) and first != second


def test_a_name_that_papermill_was_given_wrong_stops_the_notebook(tmp_path, kernels):
    page = NOTEBOOKS["skd/figure1_pipeline"]
    options = {
        "kernel_name": "python3",
        "progress_bar": False,
        "kernel_manager_class": kernels.manager(page.file.parent),
    }
    with pytest.raises(
        papermill.PapermillExecutionError,
        match="unknown parameter 'sead': did you mean seed.* Parameters: profile, seed",
    ):
        papermill.execute_notebook(page.file, tmp_path / "out.ipynb", {"sead": 1}, **options)
    papermill.execute_notebook(page.file, tmp_path / "out.ipynb", {"seed": 1}, **options)


# --- running them -----------------------------------------------------------------------------------------------------
def test_an_unknown_name_stops_before_anything_runs(tmp_path, runs):
    page = write(tmp_path, "demo/table1", "1 / 0")
    with pytest.raises(UserError, match=r"demo/table1: unknown parameter 'm': .*profile, n"):
        pages.run([page], "smoke", {"m": 1})
    with pytest.raises(UserError, match="unknown profile 'tiny'.*smoke"):
        pages.run([page], "tiny")
    with pytest.raises(UserError, match="did you mean demo/table1"):
        pages.notebooks(tmp_path, "demo/tabel1")
    assert not runs.exists()


def test_an_ill_typed_parameter_of_an_experiment_stops_before_anything_runs(runs):
    with pytest.raises(UserError, match="unknown method 'DMM'"):
        pages.run(pages.notebooks(only="skd/table1_accuracy"), "smoke", {"methods": ["DMM"]})
    assert not runs.exists()


def test_a_folder_selects_its_notebooks(tmp_path):
    for name in ("a/one", "a/two", "ab/three"):
        write(tmp_path, name)
    assert [p.experiment for p in pages.notebooks(tmp_path, "a")] == ["a/one", "a/two"]


def test_a_failed_cell_stops_the_run_and_keeps_the_copy_of_the_last_good_one(tmp_path, runs):
    wait = "import os, time\nwhile not os.path.exists('started'):\n    time.sleep(0.05)"
    bad = write(tmp_path, "demo/bad", wait, "print('before')\nundefined_name + 1", "print('after')")
    wait_on = "try:\n    time.sleep(300)\nexcept KeyboardInterrupt:\n    open('saved', 'w').close()\n    raise"
    save = f"import time\nopen('started', 'w').close()\n{wait_on}"
    slow = write(tmp_path, "demo/slow", save)
    bad.executed("smoke").parent.mkdir(parents=True)
    bad.executed("smoke").write_text("the last good copy")
    with pytest.raises(pages.PageFailed) as failed:
        pages.run([bad, slow], "smoke", jobs=2)
    message = str(failed.value)
    assert "notebooks/demo/bad.ipynb, cell 4: NameError: name 'undefined_name' is not defined" in message
    assert "Traceback" not in message and len(message.splitlines()) <= 4
    assert bad.executed("smoke").read_text() == "the last good copy"
    assert not slow.executed("smoke").exists() and (tmp_path / "notebooks" / "demo" / "saved").exists()


def test_a_kernel_that_dies_is_one_clear_error(tmp_path, runs):
    page = write(tmp_path, "demo/table1", "import os\nos._exit(1)")
    with pytest.raises(pages.PageFailed, match="notebooks/demo/table1.ipynb: the kernel died"):
        pages.run([page], "smoke")


NOTE = """\
import json, os
line = {"experiment": "demo", "cell": str(n), "state": "computed" if n == 5 else "reused", "seconds": 1}
with open(os.environ["DISTILL_SUMMARY"], "a") as f:
    f.write(json.dumps(line) + chr(10))
assert "seen" not in globals() and profile == "smoke"
seen = True
import matplotlib.pyplot as plt
plt.plot([n]);
"""


def test_pages_run_side_by_side_and_recorded_ones_only_when_something_they_depend_on_changed(
    tmp_path, runs, monkeypatch
):
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(paths, "ROOT", tmp_path / "repository")  # the library itself may change while tests run
    both = [write(tmp_path, f"demo/{name}", NOTE, "os.getcwd()") for name in ("one", "two")]
    still = write(tmp_path, "demo/still", "assert profile == 'recorded' and n == 3")
    results = pages.run(both, "smoke", {"n": 5}, jobs=2, recorded=[still])
    assert {r.page for r in results} == set(both) and all(r.computed == 1 and r.reused == 0 for r in results)
    for page in both:
        executed = nbformat.read(page.executed("smoke"), 4)
        shown = json.dumps([c.get("outputs") for c in executed.cells])
        assert "image/png" in shown and str(page.file.parent) in shown
        assert str(tmp_path) not in json.dumps(executed.metadata)

    assert [r.unchanged for r in pages.run([still], "recorded")] == [True]
    seen = {pages._stored_fingerprint(still, "recorded")}
    assert seen == set(pages._fingerprints([still]).values())
    for new in ("results/small/demo.json", "results/recomputed/demo.json", "repository/book/references.bib"):
        (tmp_path / new).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / new).write_text("{}")
        seen.add(pages._fingerprints([still])[still])
    (tmp_path / "repository" / "book" / "page.md").write_text("# A page of its own")
    assert len(seen) == 4 and pages._fingerprints([still])[still] in seen


def test_a_damaged_notebook_is_one_clear_error(tmp_path, runs):
    page = write(tmp_path, "demo/table1")
    page.file.write_text("{not json")
    with pytest.raises(UserError, match="notebooks/demo/table1.ipynb: not a readable notebook"):
        pages.run([page], "smoke")
