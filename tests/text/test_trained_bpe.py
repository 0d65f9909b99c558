"""The small BPE that is learnt from a corpus."""

import pickle
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_jax.text.tokenizer import Tokenizer, load_tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE

LANGUAGE = (
    "a small large red green blue yellow circle square triangle star left right above below "
    "what does the image describe which region text is are there how many color of yes no"
)
WORDS = LANGUAGE.split(" ")


def corpus(sentences: int = 2000) -> list[str]:
    draw = random.Random(0)
    return [" " + " ".join(draw.choices(WORDS, k=draw.randint(6, 14))) for _ in range(sentences)]


TRAINED = TrainedBPE.train(corpus(), vocab_size=400)


def test_words_of_the_corpus_become_single_tokens():
    assert TRAINED.num_text <= 400
    assert {word: len(TRAINED.encode(" " + word)) for word in WORDS} == dict.fromkeys(WORDS, 1)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_a_round_trip(text):
    ids = TRAINED.encode(text)
    assert TRAINED.decode(ids) == text
    assert all(4 <= i < 4 + TRAINED.num_text for i in ids)


def test_training_is_fast_and_deterministic():
    texts = corpus(20_000)
    start = time.process_time()
    first = TrainedBPE.train(texts, vocab_size=400)
    assert time.process_time() - start < 2
    assert TrainedBPE.train(reversed(texts), vocab_size=400).merged_tokens == first.merged_tokens


def test_the_most_frequent_pair_is_merged_first():
    trained = TrainedBPE.train(["abab"] * 3 + ["ac"] * 2, num_merges=2)
    assert trained.merged_tokens == (b"ab", b"abab")
    assert trained.num_text == 258
    assert TrainedBPE.train(["ab"] * 3, num_merges=5, min_count=4).merged_tokens == ()
    assert TrainedBPE.train(["abc", "abc"], num_merges=9).merged_tokens == (b"ab", b"abc")


def test_training_merges_as_encoding_does():
    """Every learnt token that stands for a whole word of the corpus is what encoding gives."""
    words = ["aab", "aba", "baab", "abab", "bbaa", "aabab"]
    trained = TrainedBPE.train(words * 4, num_merges=50)
    for word in words:
        assert len(trained.encode(word)) == 1, word


def test_word_starts_are_tokens_with_a_space_in_front():
    starts = TRAINED.word_starts()
    assert starts.shape == (4 + TRAINED.num_text,)
    assert starts[:4].all()
    assert starts[TRAINED.encode(" circle")].all()
    assert not starts[TRAINED.encode("circle")].any()


def test_saved_with_a_run_and_opened_again(tmp_path):
    tokenizer = Tokenizer(TRAINED)
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.layout == tokenizer.layout
    assert again.encode(" a red star <bin_3>") == tokenizer.encode(" a red star <bin_3>")
    assert pickle.loads(pickle.dumps(TRAINED)).merged_tokens == TRAINED.merged_tokens


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="either num_merges or vocab_size"):
        TrainedBPE.train([], num_merges=1, vocab_size=300)
    with pytest.raises(ValueError, match="at least 256"):
        TrainedBPE.train([], vocab_size=100)
    with pytest.raises(ValueError, match="not a saved TrainedBPE"):
        TrainedBPE.from_json("{}")
