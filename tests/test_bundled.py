"""Tasks, mixtures and gin files: one copy, found from anywhere; the command `ofa`."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import types

import gin
import pytest

from ofa_jax import __main__ as command
from ofa_jax import bundled, extras
from ofa_jax.data.tasks.registration import import_modules, lookup
from ofa_jax.errors import SettingsError

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(directory, *words, code="import sys; from ofa_jax.__main__ import main; sys.exit(main())"):
    """A Python in another directory, with the library on its path and not the checkout."""
    site = directory.with_name(f"{directory.name}_site")
    site.mkdir()
    (site / "ofa_jax").symlink_to(ROOT / "ofa_jax")
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=False,
    )


def test_short_names_are_the_same_modules(tmp_path):
    code = (
        "import ofa_jax.bundled\n"
        "import mixtures.scenes, tasks.scenes\n"
        "from tasks import scenes\n"
        "import ofa_jax.bundled.tasks.scenes as whole\n"
        "assert whole is scenes is tasks.scenes\n"
        "assert whole.__spec__.name == whole.__name__ == 'ofa_jax.bundled.tasks.scenes'\n"
        "from ofa_jax.data.tasks.registration import import_modules, lookup\n"
        "import_modules(('mixtures.scenes', 'tasks.scenes'))\n"
        "print(len(lookup('scenes_pretrain')))\n"
    )
    finished = run(tmp_path, code=code)
    assert finished.stdout.strip() == "8", finished.stderr


@pytest.mark.parametrize("kind", ["package", "module"])
def test_a_users_own_tasks_stay_his_and_break_nothing(tmp_path, kind):
    file = tmp_path / ("tasks/__init__.py" if kind == "package" else "tasks.py")
    file.parent.mkdir(exist_ok=True)
    file.write_text("MINE = 1\n", encoding="utf-8")
    if kind == "package":
        (tmp_path / "tasks" / "vqa.py").write_text("raise SystemExit('not asked for')\n")
        (tmp_path / "tasks" / "mine.py").write_text("MINE = 2\n")
    code = (
        "import sys\nfrom ofa_jax.data.tasks.registration import import_modules, lookup\n"
        "import_modules(('mixtures.scenes', 'mixtures.pretrain', 'tasks.vqa'))\n"
        "import tasks\n"
        "assert tasks.MINE == 1 and tasks.__name__ == 'tasks'\n"
        "assert len(lookup('scenes_pretrain')) == 8 and len(lookup('vqa')) == 1\n"
    )
    if kind == "package":
        code += "import_modules(('tasks.mine',))\nassert sys.modules['tasks.mine'].MINE == 2\n"
    finished = run(tmp_path, code=code)
    assert finished.returncode == 0, finished.stderr


def test_whole_names():
    assert bundled.whole_name("tasks.vqa") == "ofa_jax.bundled.tasks.vqa"
    assert bundled.whole_name("mixtures.scenes") == "ofa_jax.bundled.mixtures.scenes"
    for name in ("tasks.of_mine", "tests.cli", "vqa", "tasks", "ofa_jax.vocab"):
        assert bundled.whole_name(name) == ("ofa_jax.bundled.tasks" if name == "tasks" else name)
    assert (bundled.DIRECTORY / "gin_configs" / "runs" / "quickstart.gin").is_file()


def test_steps_pickle_by_the_whole_name():
    import_modules(("tasks.vqa",))
    [(task, _)] = lookup("vqa")
    assert type(task.source).__module__.startswith("ofa_jax.")
    module = vars(sys.modules["ofa_jax.bundled.tasks.vqa"])
    own = [one for one in module.values() if isinstance(one, types.FunctionType)]
    assert all(one.__module__.startswith("ofa_jax.") for one in own)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), 0, "usage: ofa COMMAND"),
        (("--help",), 0, "  train "),
        (("--version",), 0, "ofa "),
        (("--completion", "bash"), 0, "complete -o filenames -F _ofa ofa"),
        (("--completion", "zsh"), 0, "bashcompinit"),
        (("--completion", "tcsh"), 2, "error: --completion: give bash or zsh"),
        (("trian",), 2, "error: there is no command 'trian'; did you mean train?"),
        (("x" * 40,), 2, "known: train, report"),
    ],
    ids=["nothing", "help", "version", "bash", "zsh", "tcsh", "trian", "unknown"],
)
def test_command(capsys, words, status, said):
    assert command.main(list(words)) == status
    assert said in "".join(capsys.readouterr())


def test_every_entry_point_is_a_command():
    files = {path.stem for path in (ROOT / "ofa_jax").glob("*.py")}
    entry_points = {
        name for name in files if "def main(" in (ROOT / f"ofa_jax/{name}.py").read_text("utf-8")
    }
    assert entry_points - {"__main__"} <= set(command.COMMANDS)
    for name in command.COMMANDS:
        source = importlib.util.find_spec(command._module(name)).origin
        assert "def main(" in pathlib.Path(source).read_text("utf-8"), name
    help_text = command._help()
    assert all(f"  {name} " in help_text for name in command.COMMANDS)


def test_a_wrong_task_is_said_before_anything_heavy_loads(tmp_path):
    words = ["train", "--gin_file=gin_configs/runs/quickstart.gin"]
    code = (
        "import sys\nfrom ofa_jax.__main__ import main\n"
        "status = main(sys.argv[1:])\n"
        "print(sorted({'jax', 'tensorflow', 'flax', 'clu'} & set(sys.modules)))\n"
        "sys.exit(status)"
    )
    finished = run(tmp_path, *words, "--gin.MIXTURE_OR_TASK_NAME=scenes_quikstart", code=code)
    assert finished.returncode == 2
    assert "'scenes_quikstart'; did you mean scenes_quickstart" in finished.stderr
    assert finished.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())


def test_completion_in_a_shell(tmp_path):
    script = tmp_path / "completion"
    script.write_text(command._COMPLETION.replace("COMMANDS", " ".join(command.COMMANDS)))
    lines = f"""
        ofa() {{ printf '  --gin_file F\\n  --print_config\\n'; }}
        source {script}
        COMP_WORDS=(ofa tr) COMP_CWORD=1; _ofa; echo "${{COMPREPLY[@]}}"
        COMP_WORDS=(ofa train --p) COMP_CWORD=2; _ofa; echo "${{COMPREPLY[@]}}"
        COMP_WORDS=(ofa train comp) COMP_CWORD=2; _ofa; echo "${{COMPREPLY[@]}}"
    """
    finished = subprocess.run(
        ["bash", "-c", lines], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert finished.stdout.split() == ["train", "--print_config", "completion"], finished.stderr


def test_missing_extras_are_one_line(monkeypatch, capsys):
    from ofa_jax.cli import shell
    from ofa_jax.errors import started

    def broken():
        started()
        raise ModuleNotFoundError("No module named 'grain'", name="grain")

    assert shell.run(broken) == 2
    # gin raises a copy, which has no name.
    with gin.unlock_config():
        assert shell.run(gin.external_configurable(broken, "broken_by_extras")) == 2
    assert capsys.readouterr().err.count("pip install 'ofa-jax[train]'\n") == 2
    assert extras.advice(ModuleNotFoundError(name="gradio.blocks")).endswith("'ofa-jax[demo]'")
    assert extras.advice(ModuleNotFoundError(name="of_the_user")) is None

    monkeypatch.setattr(extras, "TRAINING", ("grain", "nowhere_to_be_found"))
    monkeypatch.setitem(extras._EXTRAS, "nowhere_to_be_found", "train")
    with pytest.raises(SettingsError, match=r"nowhere_to_be_found .*installed"):
        extras.require_training()
