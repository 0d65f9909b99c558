"""A vocabulary of the prepared records of tests."""

import functools

from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import VocabLayout

LENGTHS = {"inputs": 64, "targets": 24, "image": 32}


@functools.cache
def tokenizer():
    text = TrainedBPE.train([" a red bus on the road and two dogs under a tree"], num_merges=32)
    layout = VocabLayout(text.num_text, num_codes=16, num_bins=16, max_image_size=32)
    return Tokenizer(text, layout)
