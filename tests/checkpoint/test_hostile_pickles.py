"""Pickles that try to run code, allocate everything, or change our own objects."""

import builtins
import io
import os
import pickle
import subprocess
import zipfile

import numpy as np
import pytest

from ofa_jax.checkpoint.imports import import_checkpoint
from ofa_jax.checkpoint.torch_archive import CheckpointFileError, _rebuild_tensor, read_torch_file
from ofa_jax.checkpoint.torch_reader import read_torch_checkpoint
from ofa_jax.checkpoint.torch_writer import write_torch_file
from ofa_jax.restricted_pickle import Inert, UnsafePickleError, load_restricted
from tests.shared import requires_cases, shared_dir


class Reduce:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def as_global(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return b"c" + f"{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


@pytest.fixture
def witness(tmp_path, monkeypatch):
    """A file that an attack would create; checked to be absent afterwards."""
    path = tmp_path / "witness"
    calls = []
    for owner, name in ((os, "system"), (subprocess, "Popen"), (builtins, "eval")):
        monkeypatch.setattr(owner, name, lambda *a, **k: calls.append(a))
    yield path
    assert calls == []
    assert not path.exists()


# Pickled at import, before the fixture replaces the functions.
COMMAND = "touch attack_succeeded"
ATTACKS = {
    (protocol, function.__name__): pickle.dumps(Reduce(function, *arguments), protocol=protocol)
    for protocol in (0, 2, 4, 5)
    for function, *arguments in (
        (os.system, COMMAND),
        (eval, "open('attack_succeeded', 'w')"),
        (exec, "open('attack_succeeded', 'w')"),
        (open, "attack_succeeded", "w"),
        (subprocess.Popen, COMMAND),
        (__import__, "os"),
    )
}


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_reduce_runs_nothing(witness, tmp_path, monkeypatch, attack):
    monkeypatch.chdir(tmp_path)
    found = load_restricted(ATTACKS[attack])
    assert isinstance(found, Inert)
    assert len(found.arguments) >= 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["os.system", "posix.system", "nt.system", "builtins.eval", "builtins.exec",
     "__builtin__.eval", "builtins.open", "builtins.__import__", "subprocess.Popen",
     "subprocess.check_output", "shutil.rmtree", "runpy.run_path", "pickle.loads",
     "torch.load", "torch.hub.load", "numpy.load", "importlib.import_module",
     "functools.partial", "operator.attrgetter", "types.FunctionType", "ctypes.CDLL"],
)  # fmt: skip
def test_named_functions_are_inert(witness, name):
    data = b"\x80\x02" + call(as_global(name), text(f"touch {witness}")) + b"."
    found = load_restricted(data)
    assert isinstance(found, Inert)
    assert found.path == name
    # INST and OBJ, the old ways to build an object.
    module, _, attribute = name.rpartition(".")
    inst = b"(" + text(f"touch {witness}") + f"i{module}\n{attribute}\n.".encode()
    assert isinstance(load_restricted(inst), Inert)
    obj = b"(" + as_global(name) + text(f"touch {witness}") + b"o."
    assert isinstance(load_restricted(obj), Inert)


def test_getattr_chains_reach_nothing(witness):
    # getattr(getattr(__import__("os"), "system"))(...) and the walk over subclasses.
    imported = call(as_global("builtins.__import__"), text("os"))
    system = call(as_global("builtins.getattr"), imported, text("system"))
    found = load_restricted(b"\x80\x02" + call(system, text(f"touch {witness}")) + b".")
    assert isinstance(found, Inert)
    subclasses = call(
        as_global("builtins.getattr"), as_global("builtins.dict"), text("__subclasses__")
    )
    assert isinstance(load_restricted(b"\x80\x02" + call(subclasses) + b"."), Inert)
    # Dotted names of protocol 4 must not be resolved either.
    dotted = b"\x80\x04" + text("builtins") + text("dict.__class__.__subclasses__") + b"\x93)R."
    assert isinstance(load_restricted(dotted), Inert)
    dotted = b"\x80\x04" + text("collections") + text("OrderedDict.__init__") + b"\x93)R."
    assert isinstance(load_restricted(dotted), Inert)


@pytest.mark.parametrize(
    "target",
    ["collections.OrderedDict", "builtins.dict", "builtins.set", "torch._utils._rebuild_tensor_v2",
     "torch.FloatStorage", "_codecs.encode", "os.system", "torch.Size",
     "builtins.int", "builtins.float", "collections.defaultdict", "numpy.dtype",
     "numpy.core.multiarray.scalar"],
)  # fmt: skip
def test_build_cannot_change_classes_and_functions(tmp_path, target):
    before = (_rebuild_tensor.__defaults__, _rebuild_tensor.__kwdefaults__, dict(vars(Inert)))
    for state in (
        b"}(" + text("__setitem__") + as_global("os.system") + b"u",
        b"N}(" + text("__kwdefaults__") + b"}u\x86",
        b"N}(" + text("__call__") + as_global("os.system") + b"u\x86",
    ):
        data = b"\x80\x02" + as_global(target) + state + b"b."
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("archive/data.pkl", data)
        path = tmp_path / "build.pt"
        path.write_bytes(stream.getvalue())
        with pytest.raises(CheckpointFileError, match=r"build\.pt"):
            read_torch_file(path)
    after = (_rebuild_tensor.__defaults__, _rebuild_tensor.__kwdefaults__, dict(vars(Inert)))
    assert before == after


def test_hostile_file_keeps_its_weights(tmp_path, witness):
    """A file with an attack beside the weights still imports, and the attack stays inert."""
    path = tmp_path / "hostile.pt"
    write_torch_file(path, {"model": {"w": np.arange(3, dtype=np.float32)}, "cfg": None})
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    attack = call(as_global("os.system"), text(f"touch {witness}"))
    name = "hostile/data.pkl"
    assert members[name].count(text("cfg") + b"N") == 1
    members[name] = members[name].replace(text("cfg") + b"N", text("cfg") + attack)
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    checkpoint = read_torch_checkpoint(path)
    assert checkpoint.state_dict["w"].tolist() == [0, 1, 2]
    assert isinstance(read_torch_file(path)["cfg"], Inert)


def test_an_attack_in_place_of_weights_is_named(tmp_path, witness):
    path = tmp_path / "attack.pt"
    with zipfile.ZipFile(path, "w") as archive:
        attack = call(as_global("os.system"), text(f"touch {witness}"))
        archive.writestr("attack/data.pkl", b"\x80\x02}" + text("model") + attack + b"s.")
    with pytest.raises(CheckpointFileError, match=r"'model' .*os\.system"):
        read_torch_checkpoint(path)


def number(kind: str, data: bytes, order: str = "<") -> bytes:
    """A number of numpy, with a type and bytes of any kind."""
    flags = b"I3\n" + text(order) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"
    dtype = call(as_global("numpy.dtype"), text(kind), b"I0\nI1\n") + b"(" + flags + b"tb"
    encoded = call(as_global("_codecs.encode"), text(data.decode("latin1")), text("latin1"))
    return b"\x80\x02" + call(as_global("numpy.core.multiarray.scalar"), dtype, encoded) + b"."


def test_numbers_of_numpy_become_plain():
    for value in (np.int64(-3), np.uint8(200), np.float32(1.5), np.str_("é"), np.bool_(True)):
        for protocol in (0, 2, 4, 5):
            found = load_restricted(pickle.dumps({"a": value}, protocol))["a"]
            assert (found, type(found)) == (value.item(), type(value.item()))
    assert load_restricted(number("i2", b"\x01\x02", ">")) == 258
    for kind, data in [("O", b"8" * 8), ("i8", b"123"), ("V9", b"9" * 9), ("i8,i8", b"6" * 16)]:
        with pytest.raises(UnsafePickleError):
            load_restricted(number(kind, data))
    with pytest.raises(UnsafePickleError):
        load_restricted(b"\x80\x02" + call(as_global("numpy.dtype"), text("i8")) + b"}b.")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02N" + b"r" + (1 << 30).to_bytes(4, "little") + b".",  # a memo of 2^30 entries
        b"\x80\x02\x8b" + (1 << 30).to_bytes(4, "little"),  # an integer of 2^30 bytes
        b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little"),  # bytes of 2^60
        b"\x80\x02X" + (1 << 31).to_bytes(4, "little") + b"a",
        b"\x80\x02h\x05.",  # a memo entry that was never set
        b"\x80\x02.",  # nothing on the stack
        b"\x80\x02tR.",
        b"\x80\x63N.",  # protocol 99
        b"\x80\x02Q.",
        b"\x80\x02" + text("x") + b"Q.",  # a persistent id of no known kind
        b"",
        b"\x00\x01\x02",
    ],
)
def test_malformed_pickles_are_one_kind_of_error(data):
    with pytest.raises(UnsafePickleError):
        load_restricted(data)


@requires_cases
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cfg_deep.pt", "not an OFA state dict"),
        ("stride0_rows_1048581.pt", r"elements, its storage 0 only 1; .* \(encoder\."),
        ("st_tuned_bad.safetensors", "tuned"),
        ("memo_67108864.pkl", "a pickle that torch did not write"),
    ],
)
def test_hostile_files_of_the_field(name, message):
    path = shared_dir() / "cases" / "hostile" / name
    with pytest.raises(ValueError, match=message) as error:
        import_checkpoint(path)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("part", [b"\x8f", b"]", b"}", b"h\x00)R", b"h\x01)\x81"], ids=str)
def test_a_pickle_makes_no_more_objects_than_its_size_allows(part):
    """Sets of one byte each took 216; named classes and calls take more."""
    start = b"\x80\x04c__builtin__\nset\nq\x000cx\ny\nq\x010"

    def pickled(size):
        return start + b"(" + part * (size // len(part)) + b"l."

    # A list is taken out again; the largest file of answers is refused before it is unpickled.
    assert len(load_restricted(pickled(1000))) == 1000 // len(part)
    with pytest.raises(UnsafePickleError, match=r"objects .*[\d,]+; at most [\d,]+"):
        load_restricted(pickled(1 << 22))
