"""Exported directories as the transformers port of OFA reads them, and back bit for bit."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest

from ofa_jax.checkpoint.exports import export_checkpoint
from ofa_jax.checkpoint.huggingface import read_huggingface_directory
from ofa_jax.checkpoint.imports import ImportedCheckpoint, import_checkpoint
from ofa_jax.checkpoint.names import to_params
from ofa_jax.checkpoint.orbax_weights import SourceRecord
from ofa_jax.checkpoint.torch_reader import read_torch_checkpoint
from ofa_jax.convert import main
from ofa_jax.text.byte_bpe import byte_alphabet
from ofa_jax.text.gpt2_bpe import GPT2BPE
from ofa_jax.text.layouts import write_layout
from ofa_jax.text.tokenizer import Tokenizer, load_tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import VocabLayout
from tests.checkpoint.official import SMALL, random_state_dict
from tests.shared import bert_dir, gpt2_dir, requires_gpt2

INDEX = "decoder.image_position_idx"
WEIGHTS = {"config.json", "model.safetensors", "pytorch_model.bin"}
ENGLISH_FILES = {"vocab.json", "merges.txt", "tokenizer_config.json"}
TO_HUB = ("--target_format", "huggingface")
SENTENCES = ["", " low lower", "the low", " Ünï — 図 🙂\n", " <bin_3> low <code_1><mask> a"]


def imported(config=SMALL, files=()) -> ImportedCheckpoint:
    record = SourceRecord("initialized", "test")
    variables = to_params(random_state_dict(config), config)
    return ImportedCheckpoint(variables, config, record, tuple(files))


def fairseq_bpe(directory: pathlib.Path, line_end="\n") -> pathlib.Path:
    """GPT-2's three files with four merges, and a dictionary in another order than the BPE."""
    directory.mkdir()
    space = byte_alphabet()[32]
    merges = [("l", "o"), ("lo", "w"), (space, "low"), ("e", "r")]
    tokens = [*byte_alphabet().values(), *("".join(merge) for merge in merges), "<|endoftext|>"]
    numbers = {token: number for number, token in enumerate(tokens)}
    (directory / "encoder.json").write_text(json.dumps(numbers))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges), ""]
    (directory / "vocab.bpe").write_bytes(line_end.join(lines).encode())
    order = [*reversed(range(len(tokens))), "madeupword0000"]
    (directory / "dict.txt").write_text("".join(f"{symbol} 1\n" for symbol in order))
    return directory


def with_vocabulary(directory: pathlib.Path, layout: VocabLayout) -> ImportedCheckpoint:
    write_layout(directory, layout)
    config = dataclasses.replace(SMALL, vocab_size=layout.size, num_codes=layout.num_codes)
    config = dataclasses.replace(config, padded_vocab_size=None)
    return imported(config, directory.iterdir())


@pytest.mark.parametrize(("side", "length"), [(16, 773), (32, 785), (48, 805)])
def test_position_index_is_as_long_as_the_port_has_it(tmp_path, side, length):
    """1 + window^2 + 768 there; fairseq has one filler more."""
    source = imported(dataclasses.replace(SMALL, code_image_size=side))
    export_checkpoint(source, tmp_path / "a.pt", "fairseq")
    export_checkpoint(source, tmp_path / "hub", "huggingface")
    official = read_torch_checkpoint(tmp_path / "a.pt").state_dict
    for name in ("pytorch_model.bin", "model.safetensors"):
        if name == "model.safetensors":
            (tmp_path / "hub" / "pytorch_model.bin").unlink()
            found = read_huggingface_directory(tmp_path / "hub").state_dict[INDEX]
        else:
            found = read_torch_checkpoint(tmp_path / "hub" / name).state_dict[INDEX]
        assert found.shape == (length,)
        np.testing.assert_array_equal(found, official[INDEX][:-1])
    back = import_checkpoint(tmp_path / "hub")
    assert back.config == source.config
    export_checkpoint(back, tmp_path / "b.pt", "fairseq")
    again = read_torch_checkpoint(tmp_path / "b.pt").state_dict
    assert set(again) == set(official)
    for name, value in official.items():
        assert again[name].tobytes() == value.tobytes(), name
    # Shapes alone tell the window, too.
    (tmp_path / "hub" / "config.json").unlink()
    assert read_huggingface_directory(tmp_path / "hub").config.code_image_size == side


def test_others_may_read_what_is_exported_as_far_as_the_user_lets_them(tmp_path):
    source = imported(SMALL)
    before = os.umask(0o027)
    try:
        export_checkpoint(source, tmp_path / "a.pt", "fairseq")
        export_checkpoint(source, tmp_path / "hub", "huggingface")
        export_checkpoint(source, tmp_path / "ours", "orbax")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}, files


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_english_vocabulary_is_written_as_the_port_opens_it(tmp_path, line_end):
    source = fairseq_bpe(tmp_path / "words", line_end)
    ours = Tokenizer(GPT2BPE(source), VocabLayout(262, num_codes=4, num_bins=9))
    export_checkpoint(with_vocabulary(source, ours.layout), tmp_path / "hub", "huggingface")
    directory = tmp_path / "hub"
    assert {p.name for p in directory.iterdir()} == WEIGHTS | ENGLISH_FILES | {"vocab_layout.json"}
    ids = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
    assert list(ids.values()) == list(range(4 + 262 + 1))
    specials = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<|endoftext|>": 4}
    assert ids.items() >= (specials | {"madeupword0000": 265, "<mask>": 266}).items()
    # The port drops the first line and what follows the last line feed.
    merges = (directory / "merges.txt").read_text(encoding="utf-8").split("\n")
    assert merges[0].startswith("#version")
    assert merges[1:] == ["l o", "lo w", "\u0120 low", "e r", ""]
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "OFATokenizer"
    assert settings["model_max_length"] == SMALL.max_positions
    theirs = load_tokenizer(directory)
    assert theirs.layout == ours.layout
    for text in SENTENCES:
        assert theirs.encode(text) == ours.encode(text), text
    # HuggingFace to HuggingFace: what lies there stays.
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "BartTokenizer"}')
    assert main(["--source", str(directory), "--target", str(tmp_path / "copy"), *TO_HUB]) == 0
    for name in ENGLISH_FILES:
        assert (tmp_path / "copy" / name).read_bytes() == (directory / name).read_bytes(), name


@pytest.mark.parametrize("layout_of", ["fairseq", "bert"])
def test_chinese_vocabulary_is_written_as_published_directories_have_it(tmp_path, layout_of):
    rows = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "图", "片", "a", "##b", "\u2028", "片段"]
    source = tmp_path / "words"
    source.mkdir()
    (source / "vocab.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    if layout_of == "fairseq":
        # Its dictionary cannot spell the separator.
        symbols = ["" if row.isspace() else row for row in rows]
        lines = "".join(f"{symbol} 1\n" for symbol in symbols)
        (source / "dict.txt").write_text(lines, encoding="utf-8")
    layout = VocabLayout(len(rows), num_codes=3, num_bins=5)
    export_checkpoint(with_vocabulary(source, layout), tmp_path / "hub", "huggingface")
    names = {"vocab.txt", "added_tokens.json", "tokenizer_config.json", "vocab_layout.json"}
    assert {p.name for p in (tmp_path / "hub").iterdir()} == WEIGHTS | names
    written = (tmp_path / "hub" / "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert written == ["<s>", "<pad>", "</s>", "<unk>", *rows, ""]
    added = json.loads((tmp_path / "hub" / "added_tokens.json").read_text())
    wanted = {"<mask>": 15, "<code_0>": 16, "<code_2>": 18, "<bin_0>": 19, "<bin_4>": 23}
    assert len(added) == 9
    assert added.items() >= wanted.items()
    ours, theirs = load_tokenizer(source), load_tokenizer(tmp_path / "hub")
    assert theirs.layout == layout
    for text in ("图片", "ab <bin_4> 片 zz", "图<mask>"):
        assert theirs.encode(text) == ours.encode(text)


def test_vocabularies_that_huggingface_does_not_know_are_copied(tmp_path):
    words = TrainedBPE.train(["low lower lowest"], num_merges=3)
    tokenizer = Tokenizer(words, VocabLayout(words.num_text, num_codes=0, num_bins=5))
    tokenizer.save(tmp_path / "words")
    export_checkpoint(
        with_vocabulary(tmp_path / "words", tokenizer.layout), tmp_path / "hub", "huggingface"
    )
    names = {"trained_bpe.json", "vocab_layout.json"}
    assert {p.name for p in (tmp_path / "hub").iterdir()} == WEIGHTS | names


@requires_gpt2
@pytest.mark.parametrize(("name", "size"), [("gpt2_bpe", 50265), ("bert_cn", 21132)])
def test_official_vocabularies(tmp_path, name, size):
    source = {"gpt2_bpe": gpt2_dir, "bert_cn": bert_dir}[name]()
    files = load_tokenizer(source).huggingface_files(1024)
    for file, content in files.items():
        (tmp_path / file).write_text(content, encoding="utf-8")
    first = next(iter(files))
    listed = json.loads(files[first]) if name == "gpt2_bpe" else files[first].split("\n")[:-1]
    assert len(listed) == size
    if name == "gpt2_bpe":
        assert [listed[token] for token in ("<mask>", "\u0120what", ".")] == [50264, 99, 4]
        assert files["merges.txt"] == (source / "vocab.bpe").read_text(encoding="utf-8")
    ours, theirs = load_tokenizer(source), load_tokenizer(tmp_path)
    assert theirs.layout == ours.layout
    for text in (*SENTENCES, " what does the image describe?", "图片上的文字是什么? <bin_999>"):
        assert theirs.encode(text) == ours.encode(text), text
