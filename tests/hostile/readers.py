"""Every reader of foreign files as a function of bytes, small seeds for it, and hostile inputs.

The fuzz targets and the replay of the corpus share them. A reader gives a value or raises
ValueError or OSError with a message; whatever else it raises, and whatever it hangs on or fills the
memory with, is a bug.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import pathlib
import pickle
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator

import numpy as np

from ofa_jax.checkpoint.torch_archive import TorchTensor, read_torch_file
from ofa_jax.checkpoint.torch_writer import write_torch_file
from ofa_jax.data.sources.coco import CocoCaptions, CocoInstances
from ofa_jax.data.sources.tar_index import members
from ofa_jax.data.sources.text import TextSource
from ofa_jax.data.sources.tsv import TsvSource
from ofa_jax.data.sources.webdataset import WebdatasetSource
from ofa_jax.data.tasks.answering import read_answers
from ofa_jax.data.tasks.instruction import Instruction
from ofa_jax.restricted_pickle import load_restricted, plain_fields

Reader = Callable[[pathlib.Path, bytes], None]

# Records that one input is read for.
_MOST = 50


def _written(directory: pathlib.Path, name: str, data: bytes) -> str:
    path = directory / name
    path.write_bytes(data)
    return str(path)


def _records(source, split: str = "train") -> None:
    records = source.open(split)
    for index in range(min(len(records), _MOST)):
        with contextlib.suppress(ValueError, OSError):
            records[index]


def _torch(directory: pathlib.Path, data: bytes) -> None:
    def walk(value, depth: int = 4) -> None:
        if isinstance(value, TorchTensor):
            np.asarray(value)
        elif isinstance(value, dict) and depth:
            for one in list(value.values())[:_MOST]:
                walk(one, depth - 1)

    found = read_torch_file(_written(directory, "a.pt", data))
    walk(found)
    plain_fields(found)


def _pickle(directory: pathlib.Path, data: bytes) -> None:
    del directory
    plain_fields(load_restricted(data))


def _safetensors(directory: pathlib.Path, data: bytes) -> None:
    from ofa_jax.checkpoint.huggingface import read_safetensors

    tensors = read_safetensors(_written(directory, "a.safetensors", data))
    for name in tensors:
        np.asarray(tensors[name])


def _weights(directory: pathlib.Path, data: bytes) -> None:
    from ofa_jax.checkpoint.imports import import_checkpoint

    import_checkpoint(_written(directory, "a.safetensors", data))


def _tuned(directory: pathlib.Path, data: bytes) -> None:
    from ofa_jax.checkpoint.tuned import read_tuned

    read_tuned(_written(directory, "a.safetensors", data))


def _huggingface(directory: pathlib.Path, data: bytes) -> None:
    from ofa_jax.checkpoint.huggingface import read_huggingface_directory

    _written(directory, "config.json", data)
    _written(directory, "model.safetensors", _tensors(*_NAMES))
    read_huggingface_directory(directory)


def _index(directory: pathlib.Path, data: bytes) -> None:
    from ofa_jax.checkpoint.huggingface import read_huggingface_directory

    _written(directory, "model.safetensors.index.json", data)
    _written(directory, "a.safetensors", _tensors(*_NAMES))
    read_huggingface_directory(directory)


def _tsv(directory: pathlib.Path, data: bytes) -> None:
    path = _written(directory, "a.tsv", data)
    for layout in ("vision_language", "detection", "caption", "image"):
        with contextlib.suppress(ValueError, OSError):
            _records(TsvSource(path, layout))


def _coco(directory: pathlib.Path, data: bytes) -> None:
    path = _written(directory, "a.json", data)
    for source in (CocoCaptions, CocoInstances):
        with contextlib.suppress(ValueError, OSError):
            _records(source(annotations=path, images=str(directory)))


def _lines(directory: pathlib.Path, data: bytes) -> None:
    _records(TextSource(_written(directory, "a.jsonl", data)))


def _unpacked_lines(directory: pathlib.Path, data: bytes) -> None:
    _records(TextSource(_written(directory, "a.jsonl.gz", data)))


def _tar(directory: pathlib.Path, data: bytes) -> None:
    path = _written(directory, "a.tar", data)
    members(path)
    _records(WebdatasetSource(path))


def _instruction(directory: pathlib.Path, data: bytes) -> None:
    del directory
    Instruction.parse(data.decode("utf-8"))


def _answers(suffix: str) -> Reader:
    def read(directory: pathlib.Path, data: bytes) -> None:
        path = _written(directory, f"a{suffix}", data)
        read_answers.cache_clear()
        read_answers(path)

    return read


def _bins(directory: pathlib.Path, data: bytes) -> None:
    del directory
    tokenizer = _tokenizer()
    tokenizer.encode(data.decode("utf-8"))


def _gin(directory: pathlib.Path, data: bytes) -> None:
    from ofa_jax.cli import gin_files

    del directory
    _, bindings = gin_files.split_overrides([data.decode("utf-8")])
    # A gin text may import modules, which is code that its user gives.
    gin_files.parse((), [one for one in bindings if "import" not in one], {})


def _layout(directory: pathlib.Path, data: bytes) -> None:
    from ofa_jax.text.layouts import LAYOUT_FILE, read_layout

    _written(directory, LAYOUT_FILE, data)
    read_layout(directory)


def _vocabulary(directory: pathlib.Path, data: bytes) -> None:
    from ofa_jax.text.gpt2_bpe import GPT2BPE, HUGGINGFACE_FILES

    _written(directory, HUGGINGFACE_FILES[0], data)
    _written(directory, HUGGINGFACE_FILES[1], b"#version: 0.2\n")
    GPT2BPE(directory).encode("a bus")


def _card(directory: pathlib.Path, data: bytes) -> None:
    from ofa_jax.data.tasks.card import CARDS_FILE, read_cards

    _written(directory, CARDS_FILE, data)
    read_cards(directory)


def _manifest(directory: pathlib.Path, data: bytes) -> None:
    from ofa_jax.data.preparation import manifest
    from ofa_jax.data.preparation.storage import LocalStorage

    _written(directory, manifest.NAME, data)
    manifest.read(LocalStorage(directory))


def _frequencies(directory: pathlib.Path, data: bytes) -> None:
    from ofa_jax.metrics.caption import DocumentFrequency

    DocumentFrequency.load(_written(directory, "words.json", data))


def _answer_types(directory: pathlib.Path, data: bytes) -> None:
    from ofa_jax.data.steps import matching as matching_steps

    _written(directory, "type2ans.json", data)
    matching_steps._answers.cache_clear()
    matching_steps._answers(str(directory))


def _tokenizer():
    from ofa_jax.text.tokenizer import Tokenizer
    from ofa_jax.text.trained_bpe import TrainedBPE
    from ofa_jax.vocab import VocabLayout

    text = TrainedBPE(())
    return Tokenizer(text, VocabLayout(text.num_text, num_codes=8, num_bins=10))


READERS: dict[str, Reader] = {
    "torch": _torch,
    "pickle": _pickle,
    "safetensors": _safetensors,
    "weights": _weights,
    "tuned": _tuned,
    "huggingface": _huggingface,
    "index": _index,
    "tsv": _tsv,
    "coco": _coco,
    "jsonl": _lines,
    "jsonl_gz": _unpacked_lines,
    "tar": _tar,
    "instruction": _instruction,
    "answers_pickle": _answers(".pkl"),
    "answers_json": _answers(".json"),
    "bins": _bins,
    "gin": _gin,
    "layout": _layout,
    "vocabulary": _vocabulary,
    "card": _card,
    "manifest": _manifest,
    "frequencies": _frequencies,
    "answer_types": _answer_types,
}


# Readers of files, which name them.
FILES = READERS.keys() - {"pickle", "instruction", "bins", "gin"}


def read(name: str, directory: pathlib.Path, data: bytes) -> str:
    """What a reader says about an input: "" where it accepts it, else its message.

    Raises:
      Exception: of any other kind than a reader may raise.
    """
    message = ""
    try:
        READERS[name](directory, data)
        return ""
    except (ValueError, OSError) as error:
        message = str(error)
    longest = 1000 if name in FILES else 3 * len(data) + 1000
    if not message.strip() or len(message) > longest:
        raise RuntimeError(f"a message of {len(message)} characters")
    if name in FILES and str(directory) not in message:
        raise RuntimeError(f"without the file's name: {message}")
    return message


# Seeds: small files that are right, of own making.


def _torch_file() -> bytes:
    weights = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float16)}
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "a.pt")
        write_torch_file(path, {"model": weights, "cfg": {"a": [1, "x", None]}})
        return path.read_bytes()


_NAMES = ("encoder.embed_tokens.weight", "decoder.layers.0.fc1.weight")
_CONFIG = {"d_model": 2, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 2}


def _tensors(*names: str, **metadata: str) -> bytes:
    """A safetensors file of tensors of 2 x 2."""
    header: dict = {
        name: {"dtype": "F32", "shape": [2, 2], "data_offsets": [16 * place, 16 * place + 16]}
        for place, name in enumerate(names)
    }
    text = json.dumps(header | ({"__metadata__": metadata} if metadata else {})).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16 * len(names))


def _tuned_file(**changes: str) -> bytes:
    header = {"format": "ofa_jax tuned 1", "tuning": "{}", "batch_norm": "batch", "base": ""}
    return _tensors("params/a/bias", **{**header, "settings": "{}", "digest": "", **changes})


def _tar_file() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in (("0.jpg", b"\xff\xd8\xff"), ("0.txt", b"a bus"), ("0.json", b"{}")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _vision_language_row() -> bytes:
    cells = ["1", "aGk=", "a bus", "", "1.0,2,3,4", "bus&&car", "coco", "visual_grounding"]
    return "\t".join(cells).encode() + b"\n"


def seeds() -> dict[str, list[bytes]]:
    """Name of a reader to inputs that it accepts, or nearly."""
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 3, "height": 4}],
        "annotations": [
            {"image_id": 1, "caption": "a bus", "category_id": 1, "bbox": [0, 0, 2, 2], "id": 1}
        ],
        "categories": [{"id": 1, "name": "bus"}],
    }
    lines = b'{"text": "one"}\n{"text": "two \\u00e9"}\n'
    return {
        "torch": [_torch_file()],
        "pickle": [pickle.dumps({"a": (1, 2.5, {"x"}), "b": [None, b"c"]}, 2)],
        "safetensors": [_tensors("w")],
        "weights": [_tensors(*_NAMES)],
        "tuned": [_tuned_file()],
        "huggingface": [json.dumps(_CONFIG).encode()],
        "index": [json.dumps({"weight_map": {"w": "a.safetensors"}}).encode()],
        "tsv": [_vision_language_row(), b'"1"\t"aGk="\t"a ""red"" bus"\t""\n'],
        "coco": [json.dumps(coco).encode()],
        "jsonl": [lines],
        "jsonl_gz": [gzip.compress(lines, mtime=0)],
        "tar": [_tar_file()],
        "instruction": [
            b"[IMAGE:image] what does the image describe? -> [TEXT:caption]",
            b'[IMAGE:image] which region is " [TEXT:caption] "? -> [BOX:region]',
        ],
        "answers_pickle": [pickle.dumps({"yes": 0, "no": 1}, 2)],
        "answers_json": [b'["yes", "no"]', b'{"0": "yes", "1": "no"}'],
        "bins": [b"a bus <bin_1> <bin_9><code_3> <mask>"],
        "layout": [b'{"num_text": 300, "num_codes": 8}'],
        "vocabulary": [b'{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5}'],
        "card": [b'{"tasks": []}'],
        "manifest": [b'{"splits": {}}'],
        "frequencies": [b'{"num": 2, "counts": {"a": 1, "a bus": 1}}'],
        "answer_types": [b'{"color": ["red", "blue"], "yes/no": ["yes"]}'],
        "gin": [b"--gin.TRAIN_STEPS=100", b"--gin.utils.X.rates={'vqa': 2.0}"],
    }


def deflated(member: str, content: bytes) -> bytes:
    """A zip archive with one compressed member."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(member), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _op(code: bytes, value: int, size: int) -> bytes:
    return code + value.to_bytes(size, "little")


def hostile() -> Iterator[tuple[str, str, bytes]]:
    """(reader, what it is, input) of all that once hung, filled the memory or raised another kind.

    Small files of own making; those that unpack to gigabytes are made when they are asked for.
    """
    nested = b"\x80\x02)q\x00"
    nested += b"".join(b"h" + bytes([i, 104, i]) + b"\x86q" + bytes([i + 1]) for i in range(60))
    twice = b"\x80\x02]q\x00"
    twice += b"".join(b"]q" + bytes([i + 1, 40, 104, i, 104, i]) + b"e" for i in range(60))
    copies = pickle.dumps(list(range(20_000)), 2)[:-1]
    copies += b"q\x010c__builtin__\nlist\nq\x02" + b"0h\x02h\x01\x85R" * 50_000 + b"."
    for reader in ("pickle", "answers_pickle"):
        yield reader, "key of nested tuples", nested + b"}h\x3cNs."
        yield reader, "copies", copies
        yield reader, "empty sets", b"\x80\x04(" + b"\x8f" * (1 << 22) + b"l."
        yield reader, "memo of 2^30", _op(b"\x80\x02Nr", 1 << 30, 4) + b"."
        yield reader, "bytes of 2^60", _op(b"\x80\x04\x8e", 1 << 60, 8)
        yield reader, "number of 2^30 bytes", _op(b"\x80\x02\x8b", 1 << 30, 4)
        yield reader, "answer of nested lists", twice + b"]q\xff(h\x3ce."
        yield reader, "deep", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    yield "torch", "persistent id of nested lists", deflated("a/data.pkl", twice + b"Q.")
    storage = b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    for number in (1 << 62, -1):
        count = b"\x8a\x08" + number.to_bytes(8, "little", signed=True)
        size = storage + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + count + b"tQ."
        yield "torch", f"storage of {number}", deflated("a/data.pkl", size)
    yield "torch", "pickle that unpacks to 2 GB", deflated("a/data.pkl", bytes(1 << 26))
    yield "safetensors", "header of 2^60", struct.pack("<Q", 1 << 60) + b"{}"
    header = {"w": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    yield "safetensors", "shape of 2^80", struct.pack("<Q", len(text)) + text + bytes(8)
    # As many layers as a name or a number says.
    for number in (10**3, 10**9, 10**30, -1):
        for stack in ("encoder", "decoder"):
            name = f"{stack}.layers.{number}.fc1.weight"
            yield "weights", f"{stack} layer {number}", _tensors(*_NAMES, name)
            fields = {**_CONFIG, f"{stack}_layers": number, "d_model": 16}
            yield "huggingface", f"{stack} of {number}", json.dumps(fields).encode()
        deep = f"encoder.embed_images.layer3.{number}.conv1.weight"
        yield "weights", f"block {number}", _tensors(*_NAMES, deep)
    for field in ("d_model", "vocab_size", "resnet_type", "encoder_attention_heads"):
        for value in (10**12, "x", [], None, -1, 0.5):
            fields = {**_CONFIG, field: value}
            yield "huggingface", f"{field} {value!r}", json.dumps(fields).encode()
    ranks = ('{"lora_rank": 1e999}', '{"lora_rank": ' + "9" * 30 + "}", '{"lora_rank": -1}')
    for field in ("tuning", "settings"):
        for text in ("[" * 5000, "null", "[1]", *ranks):
            yield "tuned", f"{field} {text[:22]}", _tuned_file(**{field: text})
    for shards in ({"w": 1}, {"w": "../a"}, {"w": "/etc/passwd"}, [], {"w": "a\0b"}):
        yield "index", f"shards {shards}", json.dumps({"weight_map": shards}).encode()
    own = ("index", "huggingface", "layout", "vocabulary", "card", "manifest", "frequencies")
    own += ("answer_types",)
    for reader in own:
        for text in (b"", b"[1]", b"null", b'"a"', b'{"tasks": 1}', b'{"a": 1}', b"\xff\xfe{}"):
            yield reader, f"text {text!r}", text
    yield "layout", "bins of 10^40", b'{"num_bins": 1' + b"0" * 40 + b"}"
    yield "layout", "bins of 10^9", b'{"num_text": 300, "num_codes": 8, "num_bins": 1000000000}'
    yield "layout", "text", b'{"num_bins": "10"}'
    for number in (b"1e999", b"null", b"[]", b"-5", b"1" + b"0" * 30):
        specials = b'{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": '
        yield "vocabulary", f"id {number!r}", specials + number + b"}"
    yield "card", "odd task", b'{"tasks": [{"name": []}, 7]}'
    yield "frequencies", "odd counts", b'{"num": 2, "counts": {"a": [], "b": "c"}}'
    yield "frequencies", "infinite", b'{"num": 1e999, "counts": {}}'
    yield "answer_types", "numbers", b'{"color": [1, 2], "yes/no": "yes"}'
    for reader in ("coco", "jsonl", "answers_json", *own):
        yield reader, "deep", b"[" * 200_000
        yield reader, "deep objects", b'{"a":' * 100_000
        yield reader, "digits", b'{"images": [' + b"9" * 5000 + b"]}"
        yield reader, "cut in a string", b'{"images": [{"id": "'
    one = b'{"images": [{"id": 1, "file_name": "a.jpg", "width": 1e999, "height": 1}], '
    yield "coco", "infinite width", one + b'"annotations": []}'
    yield "coco", "null sections", b'{"images": null, "annotations": null, "categories": null}'
    yield "tsv", "codes", b"1\taGk=\t9999999999 1_0\n"
    yield "tsv", "boxes", b"1\taGk=\t1e999,2,3,\xef\xbc\x91\xef\xbc\x90,5,bus\n"
    tar = bytearray(_tar_file())
    for name, size in {
        "negative": b"-1000",
        "huge": b"77777777777",
        "base 256": b"\x80" + b"\xff" * 10,
    }.items():
        changed = bytearray(tar)
        changed[124:136] = size.ljust(12, b"\0")
        changed[148:156] = b" " * 8
        changed[148:156] = b"%06o\0 " % sum(changed[:512])
        yield "tar", f"size {name}", bytes(changed)
    line = gzip.compress(b'{"text": "' + b"a" * (1 << 25) + b'"}\n', 1, mtime=0)
    yield "jsonl_gz", "line of 32 MiB", line
    # Members of a gzip file follow one another: 4 GB of one line, in 4 MB.
    yield "jsonl_gz", "line of 4 GiB", gzip.compress(b"a" * (1 << 22), 6, mtime=0) * 1024
    yield "jsonl_gz", "blank lines of 4 GiB", gzip.compress(b"\n" * (1 << 22), 6, mtime=0) * 1024
    yield "jsonl_gz", "damaged", gzip.compress(b"a" * 5000, mtime=0)[:20] + b"\xff" * 50
    texts = (b"[" * 10_000, b"[TEXT:" * 5000, b"->" * 5000, b"[BOX:a] -> [BOX:" + b"9" * 5000)
    for text in texts:
        yield "instruction", f"brackets {text[:6]!r}", text
    yield "bins", "digits", b"<bin_" + b"9" * 5000 + b">"
    yield "bins", "full width", "<bin_１>".encode()
    for text in (
        "(",
        "(" * 5000,
        "'",
        '"""',
        "{" * 300,
        "@" * 50,
        "\\",
        "1 if",
        "lambda: 0",
        "9" * 5000,
        "\0",
    ):
        yield "gin", f"value {text[:3]!r} of {len(text)}", f"--gin.TRAIN_STEPS={text}".encode()
    for text in ("", "=", "a/" * 3000, "%", "include 'x'", "\n", "1"):
        yield "gin", f"name {text[:3]!r} of {len(text)}", f"--gin.{text}=1".encode()
