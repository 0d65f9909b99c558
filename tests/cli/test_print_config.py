"""The whole configuration of the two main runs, line by line.

After a change on purpose, write the files anew and read the difference:

    python -m tests.cli.test_print_config
"""

import contextlib
import io
import pathlib

import pytest

from tests.cli.conftest import QUICKSTART

GOLDEN = pathlib.Path(__file__).parent / "golden"
COMMANDS = {
    "quickstart": [QUICKSTART],
    "pretrain_base": [
        "--gin_file=gin_configs/models/base.gin",
        "--gin_file=gin_configs/runs/pretrain.gin",
        "--gin.DATA_DIR='data'",
        "--gin.VOCAB_DIR='vocabulary'",
        "--gin.MODEL_DIR='runs/pretrain'",
        "--gin.TRAIN_STEPS=100000",
        "--gin.BATCH_SIZE=2048",
    ],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_settings_are_those_of_the_golden_file(name, command_line, capsys):
    assert command_line([*COMMANDS[name], "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert printed == (GOLDEN / f"{name}.gin").read_text(), f"see the top of {__file__}"


def test_overrides_are_in_the_settings(command_line, capsys):
    assert command_line([QUICKSTART, "--gin.TRAIN_STEPS=77", "--print_config"]) == 0
    assert "\nTRAIN_STEPS = 77\n" in capsys.readouterr().out


def test_printed_settings_can_be_read_again(command_line, capsys, tmp_path):
    path = tmp_path / "again.gin"
    path.write_text((GOLDEN / "quickstart.gin").read_text())
    assert command_line([f"--gin_file={path}", "--print_config"]) == 0
    assert capsys.readouterr().out == path.read_text()


def write_golden_files() -> None:
    import gin

    from ofa_jax.cli import entry

    GOLDEN.mkdir(exist_ok=True)
    for name, command in COMMANDS.items():
        gin.clear_config()
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            assert entry.run_train([*command, "--print_config"]) == 0
        (GOLDEN / f"{name}.gin").write_text(output.getvalue())


if __name__ == "__main__":
    write_golden_files()
