"""Text to image from prepared pictures: codes of the whole square, the caption in front."""

import numpy as np
import pytest

import tasks.image_generation  # noqa: F401
from ofa_jax.data.sources.array_record import ShardWriter, encode_example, shard_name
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import EOS_ID, VocabLayout


@pytest.fixture
def tokenizer(tmp_path, monkeypatch):
    text = TrainedBPE.train(["what is the complete image? caption: a red bus"], num_merges=40)
    layout = VocabLayout(num_text=text.num_text, num_codes=24, num_bins=8, max_image_size=16)
    tokenizer = Tokenizer(text, layout)
    tokenizer.save(tmp_path / "vocabulary")
    monkeypatch.setenv("OFA_VOCAB_DIR", str(tmp_path / "vocabulary"))
    return tokenizer


def test_prepared_images(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setenv("OFA_DATA_DIR", str(tmp_path))
    example = {
        "type": "caption",
        "image_id": "7",
        "image": b"an image that nobody reads",
        "captions": ["a red bus"],
        "image_codes": np.arange(16, dtype=np.int32),
    }
    with ShardWriter(tmp_path / shard_name("train", 0, 1)) as writer:
        writer.write_record(encode_example(example))
    [(task, _)] = lookup("text_to_image_prepared")
    lengths = {"inputs": 40, "targets": 20, "image": 16}
    features = task.read(task.source.open("train"), 0, lengths, seed=0)
    start = tokenizer.layout.code_start
    assert features["targets"].tolist() == [*range(start, start + 16), EOS_ID]
    asked = tokenizer.decode(features["inputs"]).strip()
    assert asked == "what is the complete image? caption: a red bus"
    assert not features["image_mask"].any()
