"""Several threads on one predictor: each has the answers that it would have alone."""

import concurrent.futures
import threading

import numpy as np
import pytest

import tasks.own  # noqa: F401  (registers the tasks)
from ofa_jax.data.tasks.card import TaskCard
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.sampling import SamplingConfig
from ofa_jax.inference.predictor import OFAPredictor
from ofa_jax.inference.questions import Question
from tests.integration import finetuning_files
from tests.model.small import make_config, make_variables

LENGTHS = {"inputs": 32, "targets": 12, "image": 32}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    tokenizer = finetuning_files.write_vocabulary(tmp_path_factory.mktemp("vocabulary"))
    layout = tokenizer.layout
    config = make_config(
        vocab_size=layout.size,
        padded_vocab_size=layout.padded_size,
        num_codes=layout.num_codes,
        max_positions=64,
    )
    cards = [TaskCard.of(task, LENGTHS) for task, _ in lookup("own_grounding")]
    return config, make_variables(config), tokenizer, cards


def jobs() -> dict:
    """Different questions, lengths, tasks, closed sets, and ways of decoding."""
    images = [np.full((30 + n, 40, 3), 80 * n, np.uint8) for n in range(2)]
    asked = [Question(image, "what does the image describe?") for image in images]
    long = [Question(image, "a red green blue square " * 4) for image in images]
    named = [Question(image, fields={"caption": "the red square"}) for image in images]
    few = {"decoding": BeamConfig(beam=2, max_len_b=3)}
    drawn = {"decoding": SamplingConfig(samples=2, max_len_b=3), "seed": 3, "best": 2}
    return {
        "captions": (asked, "", few),
        "long": (long, "", {"decoding": BeamConfig(beam=1, max_len_b=5)}),
        "sampled": (asked, "", drawn),
        "closed": (asked, "", {**few, "answers": ("red", "green", "blue")}),
        "grounding": (named, "visual_grounding", {}),
    }


@pytest.mark.slow  # compiles everything twice
def test_threads_have_the_answers_of_one(parts):
    """Programs are compiled while others run: nothing is asked before the threads start."""
    config, variables, tokenizer, cards = parts
    together = OFAPredictor(config, variables, tokenizer, cards=cards)
    rounds = [name for _ in range(3) for name in jobs()]
    ready = threading.Barrier(4)

    def ask(thread: int) -> dict:
        ready.wait()
        found = {}
        # Each thread goes through all of them, in an order of its own.
        for name in np.random.default_rng(thread).permutation(rounds):
            questions, task, options = jobs()[name]
            found.setdefault(str(name), []).append(together.answer(questions, task, **options))
        return found

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    alone = OFAPredictor(config, variables, tokenizer, cards=cards)
    for name, (questions, task, options) in jobs().items():
        expected = alone.answer(questions, task, **options)
        for found in answers:
            assert all(one == expected for one in found[name]), name
