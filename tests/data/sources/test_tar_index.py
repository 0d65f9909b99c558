"""Members of tars of every dialect, as the standard library sees them; damage is named."""

import io
import tarfile

import pytest

from ofa_jax.data.sources import tar_index
from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.tar_index import members

NAMES = ["a.jpg", "directory/b.txt", "n" * 90 + "/" + "m" * 80 + ".json", "é 漢字.png"]
LONG = "x" * 300 + ".jpg"


def write(path, names, form, *, mtime=0.0, directory=True):
    with tarfile.open(path, "w", format=form) as tar:
        if directory:
            info = tarfile.TarInfo("directory")
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 300 * number
            info.mtime = mtime
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
    return str(path)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mtime", [0.0, 1234567890.5])
@pytest.mark.parametrize("long", [False, True])
def test_members_of_all_dialects(tmp_path, form, mtime, long):
    names = [*NAMES[:2], LONG, *NAMES[2:]] if long and form != tarfile.USTAR_FORMAT else NAMES
    path = write(tmp_path / "a.tar", names, form, mtime=mtime)
    found = members(path)
    assert [member.name for member in found] == names
    with open(path, "rb") as file:
        for number, member in enumerate(found):
            file.seek(member.start)
            assert file.read(member.size) == bytes([number]) * 300 * number


def test_plain_tars_do_not_need_the_standard_library(tmp_path, monkeypatch):
    # A time with a fraction makes an extended header, which webdataset's own writer does.
    expected = {}
    for mtime in (0.0, 1.5):
        path = write(tmp_path / f"{mtime}.tar", NAMES[:2], tarfile.PAX_FORMAT, mtime=mtime)
        expected[path] = tar_index._all_members(path)
    monkeypatch.setattr(tar_index, "_all_members", None)
    for path, found in expected.items():
        assert members(path) == found


def test_damage_is_named(tmp_path):
    path = write(tmp_path / "a.tar", NAMES, tarfile.PAX_FORMAT, directory=False)
    with open(path, "rb") as file:
        data = file.read()
    last = members(path)[-1]
    for number, content in enumerate(
        (
            data[: last.start + 10],
            data[: last.start - 100],
            data[:700],
            data[:300],
            b"",
            b"no tar at all" * 100,
            data[:5] + b"X" + data[6:],
        )
    ):
        damaged = tmp_path / f"{number}.tar"
        damaged.write_bytes(content)
        with pytest.raises(SourceError, match=rf"{number}\.tar.* cut off"):
            members(str(damaged))
    assert members(write(tmp_path / "empty.tar", [], tarfile.PAX_FORMAT)) == []


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE, b"Z"])
@pytest.mark.parametrize("size", [b"-0000001000\0", (-1024).to_bytes(12, "big", signed=True)])
def test_a_negative_size_is_no_way_back(tmp_path, kind, size):
    """By it the next header would be this one again, without end."""
    info = tarfile.TarInfo("b.jpg")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = size
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * ord(" "))
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join([tarfile.TarInfo("a.jpg").tobuf(), header, bytes(2048)]))
    with pytest.raises(SourceError, match=r"a\.tar, file b\.jpg: a size of -\d+ bytes|cut off or"):
        members(str(path))
