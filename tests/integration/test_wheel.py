"""A wheel in fresh environments, used in an empty directory: the core alone, then with `train`."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest
from PIL import Image

from tests.compiling import QUICK_TO_COMPILE

ROOT = pathlib.Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

QUICKSTART = (
    *(
        "train",
        "--gin_file=gin_configs/runs/quickstart.gin",
        "--gin.TRAIN_STEPS=5",
        "--gin.WARMUP_STEPS=1",
    ),
    *("--gin.BATCH_SIZE=8", "--gin.EVAL_PERIOD=0", "--gin.CHECKPOINT_PERIOD=5"),
    "--gin.evaluation.EvaluationConfig.final_num_examples=4",
    "--gin.evaluation.EvaluationConfig.extra_splits={}",
    "--gin.evaluation.EvaluationConfig.unseen_tasks=()",
)


class Environment:
    """A virtual environment with the wheel, used from a directory of its own."""

    def __init__(self, directory, wheel, extra):
        self.directory, self.bin = directory / "empty", directory / "venv" / "bin"
        self.directory.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", str(self.bin.parent)], check=True)
        constraints = ["-c", str(ROOT / "constraints.txt")]
        install = [str(self.bin / "python"), "-m", "pip", "install", "--quiet", *constraints]
        subprocess.run([*install, f"{wheel}{extra}"], check=True)

    def run(self, *words, status=0):
        """What a command of the environment prints, stdout and stderr together."""
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "JAX_PLATFORMS": "cpu",
        }
        variables["XLA_FLAGS"] = QUICK_TO_COMPILE
        done = subprocess.run(
            [str(self.bin / words[0]), *words[1:]],
            cwd=self.directory,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout[-4000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "."]
    subprocess.run([*build, str(ROOT)], cwd=directory, check=True)
    [path] = directory.glob("ofa_jax-*.whl")
    return path


@pytest.fixture(scope="module")
def trained(wheel, tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp("train"), wheel, "[train]")
    environment.run("ofa", *QUICKSTART)
    return environment


def test_only_the_library_is_in_the_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"ofa_jax"}
    inside = {name.removeprefix("ofa_jax/bundled/") for name in names if "/bundled/" in name}
    for directory, ending in (("tasks", "py"), ("mixtures", "py"), ("gin_configs", "gin")):
        files = {str(p.relative_to(ROOT)) for p in (ROOT / directory).rglob(f"*.{ending}")}
        assert files
        assert files <= inside
    assert "ofa_jax/py.typed" in names
    assert not any("__pycache__" in name or "tests/" in name for name in names)


def test_train_evaluate_answer_convert_in_an_empty_directory(trained):
    run = trained.directory / "runs" / "quickstart"
    assert (run / "report.html").is_file()
    assert (run / "checkpoint_5").is_dir()
    trained.run(
        *("ofa", "eval", "--checkpoint=runs/quickstart", "--task=scenes_captioning"),
        *("--output=scored", "--num_examples=4"),
    )
    assert (trained.directory / "scored" / "metrics.json").is_file()
    Image.new("RGB", (32, 32), "red").save(trained.directory / "red.png")
    ask = ("ofa", "infer", "--checkpoint=runs/quickstart", "--image=red.png", "--best=1")
    assert trained.run(*ask, "--instruction=what does the image describe?").strip()
    trained.run(
        *("ofa", "convert", "--source=runs/quickstart", "--target=nano.pt"),
        "--target_format=fairseq",
    )
    assert (trained.directory / "nano.pt").stat().st_size > 1_000_000
    # A package of the user whose name the library has inside.
    (trained.directory / "tasks.py").write_text("raise SystemExit('not asked for')\n")
    assert "finished" in trained.run("ofa", *QUICKSTART)
    assert trained.run("ofa", "--version").startswith("ofa 0.")


def test_the_core_answers_converts_counts_and_plans(wheel, trained, tmp_path):
    core = Environment(tmp_path, wheel, "")
    absent = "import importlib.util as u; print([n for n in {} if u.find_spec(n)])"
    names = ("tensorflow", "seqio", "clu", "grain", "matplotlib", "tasks", "mixtures")
    assert core.run("python", "-c", absent.format(names)).strip() == "[]"
    (core.directory / "run").symlink_to(trained.directory / "runs" / "quickstart")
    Image.new("RGB", (32, 32), "red").save(core.directory / "red.png")
    code = (
        "import ofa_jax, sys; model = ofa_jax.load('run');"
        "print('answer:', model.generate('red.png', 'what does the image describe?').text)"
    )
    assert "answer:" in core.run("python", "-c", code)
    assert core.run("ofa", "infer", "--checkpoint=run", "--image=red.png").strip()
    Image.new("RGB", (32, 32), "blue").save(core.directory / "blue.png")
    core.run("ofa", "infer", "--checkpoint=run", "--image=*.png", "--output=answers")
    assert (
        len((core.directory / "answers" / "predictions" / "answers.jsonl").read_text().splitlines())
        == 2
    )
    core.run("ofa", "convert", "--source=run", "--target=hf", "--target_format=huggingface")
    assert (core.directory / "hf" / "config.json").is_file()
    assert "182," in core.run("ofa", "sizes", "--size=base")
    files = ("--gin_file=gin_configs/runs/quickstart.gin", "--mesh=data=2")
    assert "all-reduce" in core.run("ofa", "plan", *files)
    for words in (QUICKSTART, ("report", "run"), ("inspect", "scenes")):
        said = core.run("ofa", *words, status=2)
        assert said.count("\n") == 1, said
        assert "pip install 'ofa-jax[train]'" in said
