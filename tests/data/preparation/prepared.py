"""What tests of prepared directories share."""

import pathlib


def error_of(capsys, status):
    assert status == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    return lines[-1]


def failure_of(capsys, status):
    """The message of what went wrong after the work had started; its traceback is above."""
    assert status == 1
    text = capsys.readouterr().err
    assert "Traceback" in text
    return text.strip().splitlines()[-1]


def content(directory: pathlib.Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
