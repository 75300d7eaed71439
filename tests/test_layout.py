"""The house: who imports whom, and how large it is."""

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "lema"
# Each layer imports only from the ones before it (or from its own package).
LAYERS = [
    ["privacy", "launchers", "stopping"],
    ["console"],
    ["types", "grading"],
    ["config"],
    ["identity", "prompts", "data"],
    ["artifacts", "solving"],
    ["api", "models", "tracking"],
    ["engines"],
    ["correctors", "reporting", "compose"],
    ["sweeps", "cell"],
    ["stages", "card"],
    ["preflight", "run_folder", "apart"],
    ["pipeline"],
    ["cluster"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
HOMES = {
    "openai": {"api/client.py"},
    "httpx2": {"api/client.py"},
    "aiohttp": {"api/client.py"},
    "wandb": {"tracking"},
    "datasets": {"data/tasks.py"},
    "sympy": {"grading/algebra.py"},
    "latex2sympy2_extended": {"grading/algebra.py"},
    "rapidfuzz": {"grading/official.py"},
    "scipy": {"reporting/statistics.py"},
    "matplotlib": {"reporting/plots.py"},
    "torch": {"models", "preflight", "engines/transformers.py"},  # a folder: any file in it
    "transformers": {"models"},
}
FILES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text())
    for path in PACKAGE.rglob("*.py")
    if "plugins" not in path.parts  # which Hydra loads as it does run.py
}


def imported(tree: ast.AST) -> list[str]:
    """The dotted modules a file imports, wherever it does so."""
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def part(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def test_imports_go_downward_only() -> None:
    wrong = []
    for file, tree in FILES.items():
        for name in imported(tree):
            if name.startswith("lema.") and file != "__init__.py":
                target = name.split(".")[1]
                if target != part(file) and RANK[target] >= RANK[part(file)]:
                    wrong.append(f"{file} imports {name}")
    assert not wrong


def module(file: str) -> str:
    return "lema." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module(file): tree for file, tree in FILES.items() if file != "__init__.py"}


@cache
def needs(name: str) -> frozenset[str]:
    """The modules of the package that a module imports, inside functions too."""
    found = {each if each in MODULES else each.rpartition(".")[0] for each in imported(MODULES[name])}
    return frozenset(found & MODULES.keys() - {name})


@cache
def chain(name: str) -> tuple[str, ...]:
    """The longest chain of imports that begins with a module."""
    return (name, *max((chain(each) for each in needs(name)), key=len, default=()))


@cache
def packages(folder: str) -> tuple[str, ...]:
    """The longest chain of folders that begins with a folder, or with a module at the top."""
    inner = {each.split(".")[1] for name in MODULES if name.split(".")[1] == folder for each in needs(name)} - {folder}
    own = (folder,) if (PACKAGE / folder).is_dir() else ()
    return own + max((packages(each) for each in inner), key=len, default=())


def test_a_reader_follows_few_imports() -> None:
    longest = max(map(chain, MODULES), key=len)
    assert len(longest) <= 10, longest
    by_folder = max((packages(name.split(".")[1]) for name in MODULES), key=len)
    assert len(by_folder) <= 7, by_folder
    assert sum(len(needs(name)) for name in MODULES) / len(FILES) <= 3.5
    assert len([file for file in PACKAGE.glob("*.py") if file.name != "__init__.py"]) <= 12


def test_no_test_imports_another() -> None:
    for file in TESTS.rglob("*.py"):  # nor does a program that a test writes
        assert not re.search(r"^\s*(from|import) [\w.]*\btest_", file.read_text(), re.M), file


def test_stages_never_import_each_other() -> None:
    for file, tree in FILES.items():
        if file.startswith("stages/"):
            assert not [name for name in imported(tree) if name.startswith("lema.stages")], file


def test_each_heavy_package_has_one_home() -> None:
    for file, tree in FILES.items():
        for name in imported(tree):
            package = name.split(".")[0]
            assert {file, file.split("/")[0]} & HOMES.get(package, {file}), f"{file} imports {name}"


def test_every_module_says_its_idea_in_its_first_line() -> None:
    assert not [file for file, tree in FILES.items() if not ast.get_docstring(tree)]


def test_nothing_is_run_as_code() -> None:
    for file, tree in FILES.items():
        calls = [
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        assert not {"eval", "exec"} & set(calls), file


def test_no_file_grows_beyond_one_idea() -> None:
    assert not [path.name for path in PACKAGE.rglob("*.py") if len(path.read_text().splitlines()) > 350]


def test_no_function_is_longer_than_a_screen() -> None:
    for file, tree in FILES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{file}: {node.name}"
