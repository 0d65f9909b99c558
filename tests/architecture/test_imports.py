"""The dependency rule: which part of the library may import what (DESIGN, section 1)."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "ofa_jax"

INPUT_STACK = {"tensorflow", "seqio", "tensorflow_datasets", "tensorflow_text", "gin", "clu"}
ACCELERATOR = {"jax", "flax", "optax", "orbax"}

# Directory or file -> top-level packages that it must not import.
FORBIDDEN = {
    "vocab.py": INPUT_STACK | ACCELERATOR | {"grain", "matplotlib"},
    "text": INPUT_STACK | ACCELERATOR | {"grain", "matplotlib"},
    "scenes": INPUT_STACK | ACCELERATOR | {"grain", "matplotlib"},
    "metrics": INPUT_STACK | ACCELERATOR | {"grain", "matplotlib"},
    "report": INPUT_STACK | ACCELERATOR | {"grain"},
    "data": INPUT_STACK | ACCELERATOR,
    "inference": INPUT_STACK,
    "demo": INPUT_STACK,
    "evaluation": INPUT_STACK,
    "runs": INPUT_STACK - {"clu"},
    "ops": INPUT_STACK | {"orbax", "grain"},
    "model": INPUT_STACK | {"orbax", "grain"},
    "losses": INPUT_STACK | {"orbax", "grain"},
    "decoding": INPUT_STACK | {"orbax", "grain"},
    "sharding": INPUT_STACK | {"orbax", "grain"},
    "training": INPUT_STACK | {"orbax", "grain"},
    "checkpoint": INPUT_STACK | {"grain"},
}
# The only files below `data` that may import these.
EXCEPTIONS = {
    "data/tasks/seqio_tasks/__init__.py": {"seqio"},
    "data/tasks/seqio_tasks/registry.py": {"seqio"},
    "data/tasks/seqio_tasks/task.py": {"tensorflow", "seqio"},
    "data/tasks/seqio_tasks/texts.py": {"seqio"},
    "data/tasks/seqio_tasks/vocabulary.py": {"tensorflow", "seqio"},
    "data/sources/tfds.py": {"tensorflow_datasets"},
}


# Rooms in the order of import: each may import those before it, none behind it.
ROOMS = (
    *("errors", "schema", "lock", "vocab", "atomic", "digest", "progress", "provenance"),
    *("restricted_pickle", "bundled", "extras", "quiet_tensorflow"),
    *("ops", "model", "text"),
    "metrics",
    *("losses", "decoding", "sharding", "training", "checkpoint", "image_codes", "data", "scenes"),
    *("report", "inspection"),
    *("inference", "evaluation", "runs", "ablation", "demo", "cli", "t5x"),
)

# The same within `data`, which holds nothing else.
DATA_ROOMS = ("ops", "sources", "steps", "tasks", "batches", "preparation")


def python_files(part: str) -> list[pathlib.Path]:
    path = LIBRARY / part
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def imported_packages(path: pathlib.Path) -> set[str]:
    """Top-level names of every import of a file, those inside functions included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("part", FORBIDDEN)
def test_parts_import_only_what_they_may(part):
    files = python_files(part)
    assert files, f"no files in {part}"
    for path in files:
        name = path.relative_to(LIBRARY).as_posix()
        forbidden = FORBIDDEN[part] - EXCEPTIONS.get(name, set())
        found = imported_packages(path) & forbidden
        assert not found, f"ofa_jax/{name} must not import {', '.join(sorted(found))}"


def test_torch_and_t5x_are_nowhere_else():
    for path in sorted(LIBRARY.rglob("*.py")):
        name = path.relative_to(LIBRARY).as_posix()
        names = imported_packages(path)
        assert "torch" not in names, f"ofa_jax/{name} imports torch"
        if not name.startswith("t5x/"):
            assert "t5x" not in names, f"ofa_jax/{name} imports t5x"
        if not name.startswith(("cli/", "t5x/")):
            assert "gin" not in names, f"ofa_jax/{name} imports gin"


def imported_modules(path: pathlib.Path, *, in_functions: bool = True) -> set[str]:
    """Dotted names of what a file imports of `ofa_jax`, without `ofa_jax.`"""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = set() if in_functions else {node for one in functions for node in ast.walk(one)}
    names = set()
    for node in set(ast.walk(tree)) - inside:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("ofa_jax.") for name in names if name.startswith("ofa_jax.")}


def imported_rooms(path: pathlib.Path) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(path)}


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_upward(room):
    paths = python_files(room if (LIBRARY / room).is_dir() else f"{room}.py")
    assert paths, f"no files in {room}"
    below = set(ROOMS[: ROOMS.index(room) + 1])
    for path in paths:
        if path.name == "__main__.py":  # an entry point, which stands above all rooms
            continue
        upward = imported_rooms(path) - below
        assert not upward, f"{path.relative_to(ROOT)} imports {', '.join(sorted(upward))}"


@pytest.mark.parametrize("room", DATA_ROOMS)
def test_no_room_of_data_imports_upward(room):
    below = {f"data.{name}" for name in DATA_ROOMS[: DATA_ROOMS.index(room) + 1]}
    for path in python_files(f"data/{room}"):
        names = {".".join(name.split(".")[:2]) for name in imported_modules(path)}
        upward = {name for name in names if name.startswith("data")} - below
        assert not upward, f"{path.relative_to(ROOT)} imports {', '.join(sorted(upward))}"


def test_data_holds_its_rooms_and_nothing_else():
    names = {path.name for path in (LIBRARY / "data").iterdir()} - {"__pycache__"}
    assert names == {"__init__.py", *DATA_ROOMS}


def test_no_modules_import_each_other_in_a_circle():
    files = {
        ".".join(path.relative_to(LIBRARY).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(LIBRARY.rglob("*.py"))
    }
    graph = {}
    for name, path in files.items():
        found = imported_modules(path, in_functions=False)
        graph[name] = {one if one in files else one.rpartition(".")[0] for one in found} - {name}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_every_directory_is_a_room():
    directories = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
    assert directories <= set(ROOMS)


def test_command_lines_hold_no_library():
    """`cli` is gin, argparse, settings and exit statuses; what does the work lies in a room."""
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in python_files("cli"))
    assert lines <= 1300


def test_library_never_imports_declarations():
    for path in sorted(LIBRARY.rglob("*.py")):
        names = imported_packages(path) & {"tasks", "mixtures", "tests"}
        assert not names, f"{path.relative_to(ROOT)} imports {names}"


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("ofa_jax.vocab, ofa_jax.text.tokenizer, ofa_jax.metrics.grounding", "jax tensorflow"),
        ("ofa_jax.scenes", "jax tensorflow grain"),
        ("ofa_jax.report.build", "jax tensorflow seqio"),
        ("ofa_jax.data.batches.pipeline, ofa_jax.data.steps", "tensorflow seqio"),
        (
            "mixtures.scenes, mixtures.pretrain, tasks.finetuning, ofa_jax.runs.story, "
            "ofa_jax.inference.infer, ofa_jax.evaluation.evaluate",
            "tensorflow seqio clu",
        ),
        (
            "ofa_jax.model.ofa, ofa_jax.training.loop, ofa_jax.training.step, "
            "ofa_jax.decoding.generate, ofa_jax.sharding.placement",
            "tensorflow seqio gin clu orbax grain",
        ),
    ],
)
def test_what_an_import_really_loads(modules, absent):
    """A bare JAX machine can import the model; an input worker stays small."""
    code = (
        f"import sys, {modules}\n"
        f"loaded = sorted(set({absent.split()!r}) & set(sys.modules))\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert finished.returncode == 0, finished.stderr[-2000:]


def test_files_stay_readable():
    """No file above 700 lines, and no name that says nothing."""
    for directory in ("ofa_jax", "tasks", "mixtures", "tests", "launch", "benchmarks"):
        for path in sorted((ROOT / directory).rglob("*.py")):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= 700, f"{path.relative_to(ROOT)} has {lines} lines"
            assert path.stem not in {"utils", "helpers", "common", "misc"}, path
