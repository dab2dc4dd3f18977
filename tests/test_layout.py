"""The layout of the library: a folder imports only what stands left of it, no private names of another folder, and no
name that means two things."""

import ast
import gc

import pytest

from distill_lib.core import paths

# who may import whom: everything of an earlier line, and of its own folder
ORDER = [
    {"core"},
    {"data"},
    {"records", "networks", "figures"},
    {"evaluation"},
    {"generators"},
    {"methods"},
    {"experiments"},
    {"tables"},
    {"publish"},
    {"__main__"},
]
RANK = {name: i for i, names in enumerate(ORDER) for name in names}
ALLOWED: dict[tuple[str, str], str] = {}  # (importing file, imported module) -> why


def imports(package, within=ast.Module):
    """(file, folder, module imported, name) of every import of the package's own, TYPE_CHECKING blocks apart."""
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        tree = ast.parse(file.read_text())
        typing = {
            id(n)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for n in ast.walk(node)
        }
        for node in (n for part in ast.walk(tree) if isinstance(part, within) for n in ast.walk(part)):
            if not isinstance(node, (ast.Import, ast.ImportFrom)) or id(node) in typing:
                continue
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == package.name:
                        yield "/".join(parts), parts[0], alias.name.partition(".")[2], alias.name.rpartition(".")[2]
                continue
            here = [package.name, *parts][: -node.level] if node.level else []
            module = [*here, *(node.module.split(".") if node.module else [])]
            if module and module[0] == package.name:
                for alias in node.names:
                    yield "/".join(parts), parts[0], ".".join([*module[1:], alias.name]), alias.name


def problems(package):
    found = []
    for file, folder, target, name in imports(package):
        other = target.split(".")[0]
        if folder == "__init__" or other == folder or (file, target) in ALLOWED:
            continue
        if other not in RANK:
            found.append(f"{file}: imports {target}, which is in no folder of the layout")
        elif RANK[other] >= RANK[folder]:
            found.append(f"{file}: imports {target}; {folder} stands before {other}")
        elif name.startswith("_") and not name.startswith("__"):
            found.append(f"{file}: imports {target}, a private name of {other}")
    for file, folder, target, _ in imports(package, (ast.FunctionDef, ast.AsyncFunctionDef)):
        if folder != "__main__":
            found.append(f"{file}: imports {target} inside a function")
    return found


def circles(package):
    """Files that import each other at the top, one way round for every pair that starts a circle."""
    files = {
        ".".join(f.relative_to(package).with_suffix("").parts).removesuffix(".__init__") for f in package.rglob("*.py")
    }
    arrows = {}
    for file, _, target, _ in imports(package):
        to = target if target in files else target.rpartition(".")[0]
        arrows.setdefault(file.replace("/", ".").removesuffix(".__init__"), set()).add(to)
    found = []

    def walk(name, path):
        if name in path:
            found.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for to in sorted(arrows.get(name, ())):
                walk(to, [*path, name])
            done.add(name)

    done = set()
    for name in sorted(arrows):
        walk(name, [])
    return found


CONTRACT = {"paper_config", "distill", "stage1", "prepare", "measure"}  # what a method offers, next to `Config`


def ambiguous(package):
    """Public classes of two modules, and functions of two modules that are imported without their module.

    Apart: the commands of `__main__`, the contract of a method, and the pages in `experiments/papers`.
    """
    classes, functions, files = {}, {}, set()
    for file in sorted(package.rglob("*.py")):
        name = "/".join(file.relative_to(package).with_suffix("").parts)
        files.add(name.replace("/", ".").removesuffix(".__init__"))
        method, page = name.startswith("methods/"), name.startswith("experiments/papers/")
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                if not (method and node.name == "Config") and not (page and node.name.endswith("Parameters")):
                    classes.setdefault(node.name, []).append(name)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
                if not (name == "__main__" or page or (method and node.name in CONTRACT)):
                    functions.setdefault(node.name, []).append(name)
    found = [f"{' and '.join(where)}: define the class {name}" for name, where in classes.items() if len(where) > 1]
    for file, _, target, name in imports(package):
        if len(where := functions.get(name, ())) > 1 and target not in files and not file.endswith("__init__"):
            found.append(f"{file}: imports {name} without its module, which {', '.join(where)} define")
    return found


PACKAGE = paths.ROOT / "distill_lib"


@pytest.fixture(autouse=True, scope="module")
def nothing_is_collected_while_parsing():
    """A finaliser that fails inside `ast.parse` prints a traceback, which parses too: Python 3.11 mixes up the two."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_every_folder_imports_only_what_stands_before_it():
    assert problems(PACKAGE) == []


def test_no_files_import_each_other_in_a_circle():
    assert circles(PACKAGE) == []


def test_a_public_name_means_one_thing():
    assert ambiguous(PACKAGE) == []


def test_the_library_is_a_handful_of_folders():
    entries = [p.name for p in PACKAGE.iterdir() if p.suffix == ".py" or (p.is_dir() and list(p.rglob("*.py")))]
    assert len(entries) <= 13 and {e.removesuffix(".py") for e in entries} == {*RANK, "__init__"}
    tree = (paths.ROOT / "README.md").read_text().partition("distill_lib/\n")[2]
    assert all(f"  {name}" in tree for name in entries if name != "__init__.py")


def test_what_packages_hand_on_is_there():
    """A package's `__init__` defines nothing: it hands names on, and each is that of the module that defines it."""
    for file in sorted(PACKAGE.rglob("__init__.py")):
        defined = [n for n in ast.parse(file.read_text()).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
        assert not defined, f"{file}: defines {defined[0].name}"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"core/a.py": "from ..data import b", "data/b.py": ""}, "core stands before data"),
        ({"core/a.py": "def f():\n    from ..data.b import c", "data/b.py": "c = 1"}, "core stands before data"),
        ({"data/a.py": "def f():\n    from ..core.b import c", "core/b.py": "c = 1"}, "core.b.c inside a function"),
        ({"__main__.py": "def f():\n    from .core.b import c", "core/b.py": "c = 1"}, None),
        ({"core/a.py": "import toy.data.b", "data/b.py": ""}, "core stands before data"),
        ({"data/a.py": "from ..core.b import _c", "core/b.py": "_c = 1"}, "a private name of core"),
        ({"data/a.py": "from ..else_where import c", "else_where/b.py": ""}, "in no folder of the layout"),
        ({"data/a.py": "from .b import c", "data/b.py": "from .a import d"}, "data.a -> data.b -> data.a"),
        (
            {
                "data/a.py": "from __future__ import annotations\nif TYPE_CHECKING:\n    from ..methods import b",
                "methods/b.py": "",
            },
            None,
        ),
        ({"data/a.py": "from ..core import b", "core/b.py": ""}, None),
    ],
)
def test_an_arrow_that_runs_back_is_found(files, says, tmp_path):
    for name, text in files.items():
        (tmp_path / "toy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "toy" / name).write_text(text)
    found = problems(tmp_path / "toy") + circles(tmp_path / "toy")
    assert (found == []) if says is None else says in found[0]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"core/a.py": "class A: ...", "data/b.py": "class A: ..."}, "core/a and data/b: define the class A"),
        ({"methods/a.py": "class Config: ...", "core/b.py": "class Config: ..."}, None),
        ({f"methods/{m}.py": "class Config: ...\ndef distill(): ..." for m in "ab"}, None),
        ({"core/a.py": "class Config: ...", "data/b.py": "class Config: ..."}, "define the class Config"),
        ({f"experiments/papers/{p}.py": "class AParameters: ...\ndef f(): ..." for p in "ab"}, None),
        (
            {"core/a.py": "def f(): ...", "data/b.py": "def f(): ...", "data/c.py": "from ..core.a import f"},
            "data/c: imports f without its module, which core/a, data/b define",
        ),
        (
            {"core/a.py": "def f(): ...", "data/b.py": "def f(): ...\ndef g():\n    from ..core.a import f as other"},
            "data/b: imports f without its module",
        ),
        ({"core/a.py": "def f(): ...", "data/b.py": "def f(): ...", "data/c.py": "from ..core import a"}, None),
        ({"core/f.py": "def f(): ...", "data/b.py": "def f(): ...", "data/c.py": "from ..core import f"}, None),
        ({"core/a.py": "def f(): ...", "__main__.py": "from .core.a import f as g\ndef f(): ..."}, None),
        ({"core/a.py": "def f(): ...", "data/b.py": "def f(): ...", "data/__init__.py": "from .b import f"}, None),
    ],
)
def test_a_name_of_two_modules_is_found(files, says, tmp_path):
    for name, text in files.items():
        (tmp_path / "toy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "toy" / name).write_text(text)
    found = ambiguous(tmp_path / "toy")
    assert (found == []) if says is None else says in found[0]
