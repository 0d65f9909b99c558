"""The hypotheses of the official generator, through the real model (fixture generation.json)."""

import functools
import json

import numpy as np
import pytest

from ofa_jax.decoding.generate import generate
from ofa_jax.decoding.ranking import Candidates, rank
from ofa_jax.model.ofa import OFA
from ofa_jax.vocab import swap_official_ids
from tests.parity.fixture import Fixture
from tests.parity.generation import config_of, constraint_of, hypotheses_of
from tests.shared import fixtures_dir


def listed_settings():
    """(directory, case, setting) of every entry in every fixture directory.

    Each takes seconds to compile, so the default suite runs each setting on one case, the slow
    suite on the others.
    """
    entries, seen = [], set()
    for path in sorted(fixtures_dir().glob("*/generation.json")):
        for case, settings in json.loads(path.read_text()).items():
            for setting in settings:
                marks = [pytest.mark.slow] if setting in seen else []
                entries.append(pytest.param(path.parent.name, case, setting, marks=marks))
                seen.add(setting)
    return entries


@functools.cache
def loaded(directory, case):
    """(model, variables, batch, generation entry) of a case."""
    fixture = Fixture(fixtures_dir() / directory)
    opened = fixture.case(case)
    config = opened.model_config()
    entry = fixture.optional_json("generation.json")[case]
    return OFA(config), opened.variables(config), opened.batch(), entry


@pytest.mark.parametrize(("directory", "case", "setting"), listed_settings())
def test_hypotheses_equal_official(directory, case, setting):
    model, variables, batch, entries = loaded(directory, case)
    entry = entries[setting]
    found = generate(model, variables, batch, config_of(setting), constraint=constraint_of(entry))
    for sentence, expected in enumerate(hypotheses_of(entry)):
        lengths = np.asarray(found.lengths[sentence])
        assert (lengths > 0).sum() == len(expected)
        for place, hypothesis in enumerate(expected):
            tokens = np.asarray(found.tokens[sentence, place, : lengths[place]])
            assert swap_official_ids(tokens).tolist() == hypothesis["tokens"]
            np.testing.assert_allclose(
                found.scores[sentence, place], hypothesis["score"], atol=1e-4
            )
            np.testing.assert_allclose(
                found.positional_scores[sentence, place, : lengths[place]],
                hypothesis["positional_scores"],
                atol=1e-4,
            )


def test_ranking_agrees_with_the_official_trie_search():
    values = [entry.values for entry in listed_settings()]
    directory, case, setting = next(entry for entry in values if entry[2].startswith("trie"))
    model, variables, batch, entries = loaded(directory, case)
    # (These ids are the same in both orders.)
    answers = entries[setting]["answers"]
    scores = rank(model, variables, batch, Candidates.build(answers, chunk=4))
    for sentence, hypotheses in enumerate(entries[setting]["hyps"]):
        for hypothesis in hypotheses:
            place = answers.index(hypothesis["tokens"][:-1])
            total = hypothesis["score"] * len(hypothesis["tokens"])
            np.testing.assert_allclose(scores[sentence, place], total, atol=2e-4)
