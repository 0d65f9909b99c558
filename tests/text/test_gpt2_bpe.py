"""GPT-2 BPE against ids made by the official tokenizer."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_jax.text.byte_bpe import ByteBPE, byte_alphabet
from ofa_jax.text.gpt2_bpe import GPT2BPE, read_dictionary
from ofa_jax.text.tokenizer import Tokenizer, load_tokenizer
from ofa_jax.vocab import ENGLISH, UNK_ID, swap_official_ids
from tests.shared import fixtures_dir, gpt2_dir, requires_gpt2

pytestmark = requires_gpt2


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(gpt2_dir())


@pytest.fixture(scope="module")
def cases() -> dict:
    return json.loads((fixtures_dir() / "bpe_cases.json").read_text())


def test_encoding_equals_the_official_one(tokenizer, cases):
    assert len(cases["cases"]) > 60
    for case in cases["cases"]:
        assert tokenizer.encode_text(case["text"]) == case["ids"], case["text"]
        if "<" not in case["text"]:
            assert tokenizer.encode(case["text"]) == case["ids"], case["text"]


def test_decoding_equals_the_official_one(tokenizer, cases):
    for case in cases["cases"]:
        assert tokenizer.decode(case["ids"]) == case["decoded"], case["text"]
        internal = swap_official_ids(np.array(case["ids_bos_eos"]))
        assert tokenizer.decode(internal) == case["decoded"], case["text"]


def test_symbols_equal_the_official_dictionary(tokenizer, cases):
    layout = cases["vocab"]
    assert layout["size"] == tokenizer.layout.size == ENGLISH.size
    assert layout["mask"] == tokenizer.layout.mask_id
    assert layout["code_0"] == tokenizer.layout.code_start
    assert layout["bin_0"] == tokenizer.layout.bin_start
    for official_id, symbol in cases["symbols"].items():
        assert tokenizer.symbol(swap_official_ids(np.array(int(official_id)))) == symbol
    ids = {tokenizer.symbol(i): i for i in reversed(range(tokenizer.layout.size))}
    for case in cases["no_bpe"]:
        found = [ids.get(symbol, UNK_ID) for symbol in case["text"].split()]
        assert found == case["ids"], case["text"]


def test_word_starts_equal_the_official_ones(tokenizer, cases):
    starts = tokenizer.word_starts()
    expected = cases["whole_word_begin"]
    assert starts.shape == (4 + tokenizer.layout.num_text,)
    # The official table goes on over <mask>, codes and bins, none of which begins a word.
    assert starts.sum() == expected["sum"]
    zeros = np.flatnonzero(~starts[: expected["zeros_first_200"][-1] + 1])
    assert zeros.tolist() == expected["zeros_first_200"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (" what does the image describe?", [99, 473, 5, 2274, 6190, 116]),
        (' what is the complete text of " "?', [99, 16, 5, 1498, 2788, 9, 22, 22, 116]),
        ("  what does the region describe? region:", [1437, 99, 473, 5, 976, 6190, 116, 976, 35]),
        (
            ' what is the answer to question " q ". is " a "?',
            [99, 16, 5, 1948, 7, 864, 22, 2231, 43809, 16, 22, 10, 22, 116],
        ),
        (" yes", [4420]),
        (" no", [117]),
        (" maybe", [2085]),
    ],
)
def test_reference_encodings_of_the_specification(tokenizer, text, ids):
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids) == text


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_a_round_trip(text):
    tokenizer = _cached()
    ids = tokenizer.encode_text(text)
    assert tokenizer.decode(ids) == text
    assert all(4 <= i < tokenizer.layout.mask_id for i in ids)


_CACHE: list[Tokenizer] = []


def _cached() -> Tokenizer:
    # hypothesis does not like function arguments that are fixtures.
    if not _CACHE:
        _CACHE.append(load_tokenizer(gpt2_dir()))
    return _CACHE[0]


def test_huggingface_layout_gives_the_same_ids(tokenizer, tmp_path):
    """The vocab.json of BART and OFA holds the ids after the remap."""
    source = tokenizer.text_tokenizer
    encoder = json.loads((source.directory / "encoder.json").read_text())
    gpt2_name = {str(gpt2_id): token for token, gpt2_id in encoder.items()}
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    for row, symbol in enumerate(source.symbols):
        vocabulary[gpt2_name.get(symbol, symbol)] = 4 + row
    vocabulary["<mask>"] = 4 + len(source.symbols)
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    merges = (source.directory / "vocab.bpe").read_text(encoding="utf-8")
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")

    other = load_tokenizer(tmp_path)
    assert isinstance(other.text_tokenizer, GPT2BPE)
    assert other.layout == tokenizer.layout
    np.testing.assert_array_equal(other.word_starts(), tokenizer.word_starts())
    for text in (" a man's café, 3.5 km 你好 😀", "  two  spaces\n", "<|endoftext|>"):
        assert other.encode_text(text) == tokenizer.encode_text(text)
        assert other.decode(other.encode_text(text)) == text
    assert other.decode([50260]) == "<|endoftext|>"

    # Without <mask>, and with codes and bins listed, the text ids end at the same place.
    del vocabulary["<mask>"]
    vocabulary |= {"<code_0>": 50265, "<bin_0>": 58457}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    assert GPT2BPE(tmp_path).num_text == 50260


def test_plain_gpt2_files_are_refused(tokenizer, tmp_path):
    source = tokenizer.text_tokenizer.directory
    (tmp_path / "vocab.json").write_bytes((source / "encoder.json").read_bytes())
    (tmp_path / "merges.txt").write_bytes((source / "vocab.bpe").read_bytes())
    with pytest.raises(ValueError, match=r"GPT-2 .*dict\.txt"):
        GPT2BPE(tmp_path).encode("a")


def test_a_copy_for_a_worker_process_gives_the_same_ids(tokenizer):
    sent = pickle.dumps(tokenizer.text_tokenizer)
    assert len(sent) < 1000
    assert pickle.loads(sent).encode(" a dog") == tokenizer.encode(" a dog")


def test_saved_files_open_again(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "copy")
    tokenizer.save(tmp_path / "copy")
    again = load_tokenizer(tmp_path / "copy")
    assert again.layout == tokenizer.layout
    assert again.encode(" a dog <bin_3>") == tokenizer.encode(" a dog <bin_3>")
    again.save(tmp_path / "copy")  # onto itself
    assert load_tokenizer(tmp_path / "copy").encode(" a dog") == tokenizer.encode(" a dog")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"encoder\.json, vocab\.bpe, dict\.txt"):
        GPT2BPE(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"vocab\.txt"):
        load_tokenizer(tmp_path)


def test_a_broken_dictionary_is_named_with_its_line(tmp_path):
    path = tmp_path / "dict.txt"
    path.write_text("13 5\n262\n")
    with pytest.raises(ValueError, match="line 2"):
        read_dictionary(path)
    path.write_text("13 5\n262 4 #fairseq:overwrite\n")
    assert read_dictionary(path) == ["13", "262"]


def test_merges_of_another_vocabulary_are_refused(tmp_path):
    alphabet = {char: i for i, char in enumerate(byte_alphabet().values())}
    (tmp_path / "encoder.json").write_text(json.dumps(alphabet))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b\n")
    (tmp_path / "dict.txt").write_text("".join(f"{i} 1\n" for i in range(256)))
    with pytest.raises(ValueError, match="do not belong together"):
        GPT2BPE(tmp_path).encode("ab")


def test_inconsistent_tables_are_refused():
    tokens = [bytes([byte]) for byte in range(256)]
    with pytest.raises(ValueError, match="stands for both"):
        ByteBPE("test", tokens, [4] * 256, 256)
    with pytest.raises(ValueError, match="text ids are"):
        ByteBPE("test", tokens, range(5, 261), 256)
    with pytest.raises(ValueError, match="no token for the bytes"):
        ByteBPE("test", tokens[1:], range(255), 256)
    with pytest.raises(ValueError, match="two different merges"):
        ByteBPE("test", [*tokens, b"a"], range(257), 257)
    with pytest.raises(ValueError, match="256 tokens but 255 ids"):
        ByteBPE("test", tokens, range(255), 256)
