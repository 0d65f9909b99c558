"""Gigaword: the headline of an article's first sentence (SPEC 8.8, 7.8)."""

from ofa_jax.data.steps.finetuning import Article
from ofa_jax.data.tasks.answering import Answering
from ofa_jax.text.gigaword import gigaword_prediction

from . import instructions
from .finetuning import add, files

add(
    "gigaword",
    instructions.SUMMARY,
    family="summarisation",
    source=files("gigaword", train="train.tsv", validation="dev.tsv", test="test.tsv"),
    prepare=[Article()],
    scorer="summary",
    answering=Answering(
        decoding={
            "beam": 6,
            "length_penalty": 0.7,
            "max_len_b": 32,
            "no_repeat_ngram_size": 3,
        },
        decoder_input_noise=0.2,
        clean=gigaword_prediction,
        submission="gigaword",
    ),
)
