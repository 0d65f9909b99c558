"""Vocabularies at the doors that take weights: `load` and `convert` decide alike."""

import dataclasses
import json

import numpy as np
import pytest

from ofa_jax.checkpoint.huggingface import write_huggingface_directory
from ofa_jax.checkpoint.imports import import_checkpoint
from ofa_jax.checkpoint.layout import SHARED_EMBEDDING
from ofa_jax.checkpoint.torch_archive import CheckpointFileError
from ofa_jax.checkpoint.torch_reader import read_torch_checkpoint
from ofa_jax.checkpoint.torch_writer import write_fairseq_checkpoint
from ofa_jax.checkpoint.vocabulary import open_vocabulary
from ofa_jax.convert import main
from ofa_jax.inference.loading import load
from ofa_jax.runs.engine import Engine
from ofa_jax.text.tokenizer import Tokenizer, load_tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.training.state import TrainState
from ofa_jax.vocab import CHINESE, ENGLISH, VocabLayout
from tests.checkpoint.official import SMALL, random_state_dict
from tests.shared import gpt2_dir, requires_gpt2, shared_dir

TEXT = TrainedBPE.train(["what does the image describe? a red circle"] * 3, num_merges=20)
LAYOUT = VocabLayout(num_text=TEXT.num_text, num_codes=4, num_bins=20, max_image_size=64)


def sized(vocab_size, **changes):
    changes = {"padded_vocab_size": None, "num_codes": 4, **changes}
    return dataclasses.replace(SMALL, vocab_size=vocab_size, **changes)


def write_weights(directory, vocab_size, **changes):
    config = sized(vocab_size, **changes)
    write_huggingface_directory(directory, random_state_dict(config), config)
    return directory


def write_text(directory, *, layout=None):
    directory.mkdir(exist_ok=True)
    Tokenizer(TEXT, layout or VocabLayout(TEXT.num_text)).save(directory)
    if layout is None:
        (directory / "vocab_layout.json").unlink()
    return directory


def convert(source, target, target_format, *more):
    arguments = ["--source", source, "--target", target, "--target_format", target_format, *more]
    return main([str(argument) for argument in arguments])


def test_what_is_left_is_never_called_bins(tmp_path, capsys):
    """84 rows that nobody named are no 84 bins, at neither door."""
    weights = write_weights(tmp_path / "weights", LAYOUT.size + 64)
    words = write_text(tmp_path / "words")
    with pytest.raises(ValueError, match="not fit the weights") as error:
        load(weights, vocabulary=words)
    assert f"{TEXT.num_text} text tokens with 4 codes and 1,000 bins make" in str(error.value)
    assert f"the weights have {LAYOUT.size + 64}" in str(error.value)
    assert convert(weights, tmp_path / "out", "orbax", "--vocabulary", words) == 2
    assert capsys.readouterr().err == f"error: {error.value}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target_format", ["orbax", "huggingface", "fairseq"])
def test_extra_rows_are_ignored_on_request(tmp_path, capsys, target_format):
    weights = write_weights(tmp_path / "weights", LAYOUT.size + 35)
    words = write_text(tmp_path / "words", layout=LAYOUT)
    with pytest.raises(ValueError, match="last 35 rows"):
        load(weights, vocabulary=words)
    predictor = load(weights, vocabulary=words, ignore_extra_rows=True)
    assert predictor.tokenizer.layout == LAYOUT
    assert predictor.config.vocab_size == LAYOUT.size
    target = tmp_path / "out"
    options = (target_format, "--vocabulary", words)
    assert convert(weights, target, *options) == 2
    assert "--ignore_extra_rows" in capsys.readouterr().err
    assert convert(weights, target, *options, "--ignore_extra_rows") == 0
    before = random_state_dict(sized(LAYOUT.size + 35))[SHARED_EMBEDDING[0]]
    if target_format == "fairseq":
        found = read_torch_checkpoint(target).state_dict
        np.testing.assert_array_equal(found[SHARED_EMBEDDING[1]], before[: LAYOUT.size])
    else:
        again = load(target)
        assert again.tokenizer.layout == LAYOUT
        rows = np.asarray(again._variables["params"]["token_embedding"]["embedding"])
        np.testing.assert_array_equal(rows[2 : LAYOUT.size], before[2 : LAYOUT.size])


def test_a_vocabulary_beside_the_weights_is_checked_too(tmp_path, capsys):
    weights = write_weights(tmp_path / "weights", LAYOUT.size + 2000)
    write_text(weights, layout=LAYOUT)
    assert convert(weights, tmp_path / "out", "orbax") == 2
    assert "vocabulary does not fit the weights" in capsys.readouterr().err
    # A fairseq file has no place for a vocabulary.
    assert convert(weights, tmp_path / "out.pt", "fairseq") == 0


def test_what_the_checkpoint_names_fits_and_is_written_down(tmp_path):
    """Codes and bins of a `.pt`, and its pixels of the last bin, reach our directory."""
    config = sized(LAYOUT.size)
    task = {"_name": "refcoco", "code_dict_size": 4, "num_bins": 20, "max_image_size": 64}
    source = tmp_path / "official.pt"
    write_fairseq_checkpoint(source, random_state_dict(config), cfg={"task": task})
    words = write_text(tmp_path / "words")
    tokenizer, imported = open_vocabulary(import_checkpoint(source), words)
    assert tokenizer.layout == LAYOUT
    assert imported.config.num_codes == 4
    assert convert(source, tmp_path / "ours", "orbax", "--vocabulary", words) == 0
    assert load_tokenizer(tmp_path / "ours").layout == LAYOUT
    assert load(tmp_path / "ours", image_size=32).tokenizer.layout == LAYOUT


def test_places_without_a_vocabulary_are_named(tmp_path, capsys):
    weights = write_weights(tmp_path / "weights", LAYOUT.size)
    write_text(tmp_path / "words", layout=LAYOUT)
    with pytest.raises(FileNotFoundError, match="no vocabulary files beside"):
        load(weights)
    with pytest.raises(FileNotFoundError, match=r"wrds: .*there is .*words"):
        load(weights, vocabulary=tmp_path / "wrds")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no vocabulary in .*empty"):
        load(weights, vocabulary=tmp_path / "empty")
    assert convert(weights, tmp_path / "x", "orbax", "--vocabulary", tmp_path / "empty") == 2
    assert "no vocabulary in" in capsys.readouterr().err
    assert convert(weights, tmp_path / "x", "orbax", "--ignore_extra_rows") == 2
    # Weights alone can be converted, and so can files that are no whole vocabulary.
    (weights / "tokenizer_config.json").write_text("{}")
    assert convert(weights, tmp_path / "x", "orbax") == 0


@requires_gpt2
def test_released_english_files_find_their_vocabulary_on_the_hub(tmp_path, monkeypatch):
    weights = write_weights(tmp_path / "weights", ENGLISH.size, num_codes=8192)
    asked = []

    def fetch(repository, *, weights):
        asked.append((repository, weights))
        if len(asked) == 1:
            raise CheckpointFileError("no network")
        return gpt2_dir()

    monkeypatch.setattr("ofa_jax.checkpoint.vocabulary.fetch_repository", fetch)
    with pytest.raises(FileNotFoundError, match=r"beside the weights; .*cache"):
        open_vocabulary(import_checkpoint(weights))
    tokenizer, imported = open_vocabulary(import_checkpoint(weights))
    assert tokenizer.layout == ENGLISH
    assert len(imported.vocabulary_files) >= 3
    assert asked == [("OFA-Sys/ofa-base", False)] * 2


def test_chinese_directories_load_with_their_own_vocabulary(tmp_path):
    """A HuggingFace directory with vocab.txt and added_tokens.json, as they are published."""
    pieces = ["[PAD]", "[UNK]", "图", "片", "描", "述", "狗"]
    layout = VocabLayout(num_text=len(pieces), num_codes=4, num_bins=20)
    weights = write_weights(tmp_path / "weights", layout.size)
    rows = ["<s>", "<pad>", "</s>", "<unk>", *pieces]
    (weights / "vocab.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    added = {"<mask>": layout.mask_id}
    added |= {f"<code_{i}>": layout.code_start + i for i in range(4)}
    added |= {f"<bin_{i}>": layout.bin_start + i for i in range(20)}
    (weights / "added_tokens.json").write_text(json.dumps(added))
    predictor = load(weights)
    assert predictor.tokenizer.layout == layout
    assert predictor.tokenizer.encode("图片 <bin_3>") == [6, 7, layout.bin_start + 3]


def test_a_run_is_not_started_from_weights_of_another_vocabulary(tmp_path):
    """In English: the Chinese vocabulary is recognized whatever the model; in ours: any other."""
    chinese = write_weights(tmp_path / "chinese", CHINESE.size, num_codes=8192)
    other = write_weights(tmp_path / "other", LAYOUT.size)
    assert convert(other, tmp_path / "ours", "orbax") == 0
    model = sized(ENGLISH.size, num_codes=8192)
    engine = Engine(model, *[None] * (len(dataclasses.fields(Engine)) - 1))
    for source, there in ((chinese, "30,325"), (tmp_path / "ours", f"{LAYOUT.size}")):
        with pytest.raises(ValueError, match=f"vocabulary .*{there} .* 59,457"):
            engine.imported(str(source), TrainState(0, {}, {}, {}, None))


def test_the_published_case_loads(tmp_path):
    case = shared_dir() / "cases" / "cn_hf"
    if not case.is_dir():
        pytest.skip("needs the case cn_hf")
    config = import_config(case)
    write_huggingface_directory(tmp_path, random_state_dict(config), config)
    for path in case.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    predictor = load(tmp_path)
    assert predictor.tokenizer.layout.size == predictor.config.vocab_size == 30325


def import_config(directory):
    from ofa_jax.checkpoint.huggingface_names import config_from_huggingface

    return config_from_huggingface(json.loads((directory / "config.json").read_text()))
