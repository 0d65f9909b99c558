"""Speed of decoding: greedy, beam 5, beam 5 in a trie, and every one of 3,129 answers.

    python -m benchmarks.decode [--sizes tiny base] [--image 480] [--rounds 6]
        [--official PYTHON CODE] [--json FILE]

The setting of the PyTorch figures: an image of 480 x 480 and 9 source tokens (909 encoder
positions), exactly 16 tokens and eos, beam 5 without repeated 3-grams, batch 1 and 4, random
weights. All settings run in turns in one process, so that ratios hold on a machine that others use
too; processor time (all threads) stands beside time by the clock, both as medians over the rounds
after one round that is not counted. Images are in memory; compilation is not counted.

`--parts image`: the 1,024 codes of an image of 256 pixels from 24 source tokens, drawn among the
256 likeliest, alone and with guidance, and how many programs were compiled for it.

Further: ten decoding steps at several positions of one cache, whose cost must not depend on the
position, and with caches of several lengths.

With `--official` the official PyTorch model encodes and searches in a process of its own, in turns
with ours (`torch_official.py`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import platform
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import PyTree

from benchmarks.peer import Peer, add_official_arguments, official_model
from benchmarks.turns import Measured, in_turns, report
from ofa_jax import vocab
from ofa_jax.decoding.beam import BeamConfig
from ofa_jax.decoding.constraints import IdRanges, Trie
from ofa_jax.decoding.generate import _generate, encode, generate, start
from ofa_jax.decoding.ranking import Candidates, rank
from ofa_jax.decoding.sampling import SamplingConfig
from ofa_jax.model import OFA, SIZES

SOURCE_TOKENS, NEW_TOKENS, ANSWERS = 9, 16, 3129
# Text to image, in the official vocabulary: what stands before the codes and behind them.
IMAGE_TOKENS, CODES_BEHIND, BINS = 24, 50_261, 1000
# Shares of answers of 1, 2, ... tokens; about those of the answers of VQAv2.
ANSWER_LENGTHS = (0.55, 0.3, 0.1, 0.05)
STEPS = 10
POSITIONS = (0, 18, 36, 54)
CACHES = (17, 64, 256)


def random_variables(model: OFA, batch: dict[str, np.ndarray]) -> dict[str, PyTree]:
    """Weights at the official scale; only shapes are traced, nothing is compiled."""
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))
    rng = np.random.default_rng(0)

    def fill(path: tuple[Any, ...], leaf: PyTree) -> np.ndarray:
        if path[-1].key in ("scale", "var", "head_scale"):
            return np.ones(leaf.shape, np.float32)
        return (0.02 * rng.standard_normal(leaf.shape, np.float32)).astype(np.float32)

    return jax.device_put(jax.tree_util.tree_map_with_path(fill, shapes))


def inputs(size: int, batch: int) -> dict[str, Any]:
    """Random images and sources."""
    rng = np.random.default_rng(1)
    source = rng.integers(4, 50000, (batch, SOURCE_TOKENS)).astype(np.int32)
    source[:, 0], source[:, -1] = vocab.BOS_ID, vocab.EOS_ID
    return {
        "encoder_input_tokens": source,
        "encoder_images": rng.integers(0, 256, (batch, size, size, 3)).astype(np.uint8),
        "decoder_input_tokens": np.full((batch, 2), vocab.BOS_ID, np.int32),
    }


def answers(lengths: np.ndarray) -> list[list[int]]:
    """Different random answers; frequent words come often, so that prefixes are shared."""
    rng = np.random.default_rng(2)
    made: dict[tuple[int, ...], None] = {}
    for length in lengths:
        answer: tuple[int, ...] = ()
        while not answer or answer in made:
            answer = tuple((4 + np.minimum(rng.zipf(1.2, length), 40000)).tolist())
        made[answer] = None
    return [list(answer) for answer in made]


def official_settings(official: Peer, size: int, batch: int) -> dict[str, Measured]:
    """The same work by the official model."""
    shape = {"batch": batch, "image": size, "source": SOURCE_TOKENS, "target": 1}

    def search(beam: int) -> Measured:
        options = {"beam": beam, "tokens": NEW_TOKENS}
        return Measured(official.call(what="search", inputs=shape, options=options))

    return {
        "encoder, official": Measured(official.call(what="encoder", inputs=shape)),
        "greedy, official": search(1),
        "beam 5, official": search(5),
    }


def whole_decoding(
    model: OFA,
    variables: PyTree,
    size: int,
    rounds: int,
    batches: tuple[int, ...],
    results: Any,
    official: Peer | None,
) -> None:
    """Encoder, greedy, beam, trie and candidates."""
    rng = np.random.default_rng(3)
    short = rng.choice(len(ANSWER_LENGTHS), ANSWERS, p=ANSWER_LENGTHS) + 1
    search = BeamConfig(beam=5, min_len=NEW_TOKENS, max_len_b=NEW_TOKENS, no_repeat_ngram_size=3)
    greedy = dataclasses.replace(search, beam=1)
    answer_search = BeamConfig(beam=5, max_len_b=len(ANSWER_LENGTHS), normalize_scores=False)
    # As long as the others: a trie is compared at the same number of steps.
    long_trie = Trie.build(answers(np.full(ANSWERS, NEW_TOKENS)))
    trie, candidates = Trie.build(answers(short)), Candidates.build(answers(short))
    for batch in batches:
        data = jax.device_put(inputs(size, batch))

        def decoding(config: BeamConfig, constraint: Trie | None = None, data: Any = data):
            return Measured(
                lambda: generate(model, variables, data, config, constraint=constraint).tokens
            )

        settings = {
            "encoder": Measured(lambda data=data: encode(model, variables, data)[0].states),
            "greedy": decoding(greedy),
            "beam 5": decoding(search),
            "beam 5, trie of 16 tokens": decoding(search, long_trie),
            "beam 5, trie of 3,129 answers": decoding(answer_search, trie),
        }
        if batch == batches[0]:
            settings["all 3,129 answers"] = Measured(
                lambda data=data: rank(model, variables, data, candidates)
            )
        if official is not None:
            settings |= official_settings(official, size, batch)
        in_turns(settings, rounds)
        report(f"batch {batch}", settings, "beam 5", results)
        for name in ("encoder", "greedy", "beam 5") if official is not None else ():
            ratio = settings[name].over(settings[f"{name}, official"])
            print(f"{name}, ours over official: {ratio}")


def whole_images(
    model: OFA, variables: PyTree, rounds: int, batches: tuple[int, ...], results: Any
) -> None:
    """Text to image: codes of whole images, without turning them into pixels."""
    model = OFA(dataclasses.replace(model.config, code_image_size=256))
    codes = IdRanges(((vocab.NUM_SPECIALS + CODES_BEHIND, model.config.vocab_size - BINS),))
    drawn = SamplingConfig(top_k=256, max_len_b=model.config.code_window**2, gen_code=True)
    rng = np.random.default_rng(4)
    for batch in batches:
        tokens = rng.integers(4, 50000, (batch, IMAGE_TOKENS)).astype(np.int32)
        data = jax.device_put({"encoder_input_tokens": tokens})

        def drawing(guidance: float, data: Any = data) -> Measured:
            def images() -> Any:
                return generate(
                    model,
                    variables,
                    data,
                    dataclasses.replace(drawn, guidance=guidance),
                    constraint=codes,
                    unconditional=data["encoder_input_tokens"][:, ::-1],
                    rng=jax.random.key(0),
                ).tokens

            return Measured(images)

        search: Any = _generate
        before = search._cache_size()
        settings = {"1,024 codes": drawing(1.0), "1,024 codes, guided": drawing(3.0)}
        in_turns(settings, rounds)
        report(f"images, batch {batch}", settings, "1,024 codes", results)
        print(f"programs of the search: {search._cache_size() - before}, one per setting")


def single_steps(model: OFA, variables: PyTree, size: int, rounds: int, results: Any) -> None:
    """Steps of five beams in one loop, as a search takes them: by position and by cache length."""
    encoded, code_masks = encode(model, variables, inputs(size, 1))

    @jax.jit
    def steps(variables: PyTree, cache: PyTree, first: jax.Array) -> Any:
        def step(number: jax.Array, carry: PyTree) -> Any:
            tokens, cache = jnp.full((1, 5), 7) + number, carry[1]
            return model.apply(variables, cache, tokens, first + number, method="decode_step")

        logits = jnp.zeros((1, 5, model.config.embedding_rows), jnp.float32)
        return jax.lax.fori_loop(0, STEPS, step, (logits, cache))[0]

    def measured(cache: PyTree, first: int) -> Measured:
        return Measured(lambda: steps(variables, cache, jnp.int32(first)))

    def cache_of(places: int) -> object:
        return start(model, variables, encoded, code_masks, beams=5, places=places)[1]

    long = cache_of(max(POSITIONS) + STEPS)
    settings = {f"from position {first}": measured(long, first) for first in POSITIONS}
    in_turns(settings, rounds)
    report(f"{STEPS} steps, cache of 64", settings, f"from position {POSITIONS[0]}", results)
    settings = {f"cache of {places}": measured(cache_of(places), 0) for places in CACHES}
    in_turns(settings, rounds)
    report(f"{STEPS} steps from position 0", settings, f"cache of {CACHES[0]}", results)


def measure(model: OFA, name: str, arguments: argparse.Namespace) -> dict[str, object]:
    """The chosen parts of one size."""
    size, rounds = arguments.image, arguments.rounds
    variables = random_variables(model, inputs(size, 1))
    print(
        f"OFA {name}, {size} pixels, jax {jax.__version__}, "
        f"{jax.devices()[0].device_kind}, {platform.processor() or platform.machine()}"
    )
    results: dict[str, Any] = {}
    if "steps" in arguments.parts:
        single_steps(model, variables, size, rounds, results)
    if "image" in arguments.parts:
        whole_images(model, variables, rounds, tuple(arguments.batches), results)
    if "whole" in arguments.parts:
        with official_model(arguments.official, name, size) as official:
            whole_decoding(
                model, variables, size, rounds, tuple(arguments.batches), results, official
            )
    return results


def main() -> None:
    """Measures and prints; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["tiny"], choices=sorted(SIZES))
    parser.add_argument("--image", type=int, default=480, help="pixels per side")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument(
        "--parts", nargs="+", default=["steps", "whole"], choices=["steps", "whole", "image"]
    )
    add_official_arguments(parser)
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    for name in arguments.sizes:
        results[name] = measure(OFA(SIZES[name]), name, arguments)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
