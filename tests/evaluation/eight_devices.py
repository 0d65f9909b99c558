"""Process of `test_eight_devices`: answers with sharded weights and with whole ones, as JSON.

Eight simulated devices; the weights are split over them as in a run with FSDP.
"""

import dataclasses
import json
import re
import sys

import jax
import numpy as np

from ofa_jax.data.tasks.answering import Answering
from ofa_jax.decoding import generate
from ofa_jax.inference.answerer import Answerer, Recipe
from ofa_jax.model.config import SIZES
from ofa_jax.model.ofa import OFA
from ofa_jax.sharding.layout import MeshLayout
from ofa_jax.sharding.mesh import build_mesh
from ofa_jax.sharding.placement import create_sharded
from ofa_jax.sharding.rules import build_rules
from ofa_jax.text.tokenizer import Tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import VocabLayout

BATCH = 16
WORDS = (" red", " green circle", " a blue cross", " yes", " no")


def rows():
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, 60, (BATCH, 12)).astype(np.int32)
    tokens[:, 0], tokens[:, -1] = 1, 2
    return {
        "encoder_input_tokens": tokens,
        "encoder_images": rng.integers(0, 256, (BATCH, 32, 32, 3)).astype(np.uint8),
        "encoder_image_masks": np.arange(BATCH) % 4 != 3,
    }


def gathered_elements(text):
    """The largest array that an all-gather of a program makes, in elements."""
    results = re.findall(r" = (.*?) all-gather\(", text)
    shapes = [s for result in results for s in re.findall(r"[a-z]+\d+\[([\d,]+)\]", result)]
    return max((int(np.prod([int(n) for n in s.split(",")])) for s in shapes), default=0)


def main():
    text = TrainedBPE.train([*WORDS, "what does the image describe?"] * 3, num_merges=60)
    layout = VocabLayout(num_text=text.num_text, num_codes=16, num_bins=32, max_image_size=32)
    tokenizer = Tokenizer(text, layout)
    # One block of the stem compiles in half the time; the weights of eight layers are split.
    one_block = {"stage_blocks": (1,), "stage_widths": (48,), "stage_strides": (2,)}
    config = dataclasses.replace(
        SIZES["nano"],
        resnet=dataclasses.replace(SIZES["nano"].resnet, **one_block),
        vocab_size=layout.size,
        padded_vocab_size=layout.padded_size,
        num_codes=16,
        encoder_layers=8,
        decoder_layers=8,
        layer_stack="scan",
    )
    model, batch = OFA(config), rows()
    sharded = MeshLayout(build_mesh("data=8"), build_rules("fsdp"))
    one = {name: value[:1] for name, value in batch.items()}
    one["decoder_input_tokens"] = one["encoder_input_tokens"]
    variables, _ = create_sharded(
        lambda key: dict(model.init(key, one)),
        jax.random.key(0),
        mesh=sharded.mesh,
        rules=sharded.rules,
    )
    whole = MeshLayout.local(1)
    copies = whole.replicate(jax.device_get(variables))
    ids = tuple(tuple(tokenizer.encode_text(word)) for word in WORDS)
    recipes = {
        "beam": Recipe(Answering(decoding={"beam": 3}), max_tokens=8),
        "candidates": Recipe(max_tokens=8, candidates=ids),
    }
    found = {}
    for name, recipe in recipes.items():
        answers = {}
        for kind, devices, weights in (("one", whole, copies), ("eight", sharded, variables)):
            method = "candidates" if name == "candidates" else ""
            answerer = Answerer(model, tokenizer, devices, method=method)
            # Not a multiple of eight: the answerer fills it up.
            part = {key: value[: BATCH - 3] for key, value in batch.items()}
            answer = answerer(weights, recipe, part, best=2)
            answers[kind] = {
                "tokens": answer.tokens.tolist(),
                "scores": np.where(np.isfinite(answer.scores), answer.scores, -1e9).tolist(),
            }
        found[name] = answers
    programs = {}
    placed = sharded.place(batch)
    encode = sharded.run(generate._encode.lower, model, variables, placed, sharded.rules)
    settings = recipes["beam"].settings(config, 1)
    encoded, code_masks = sharded.run(generate.encode, model, variables, placed)
    decode = sharded.run(
        generate._generate.lower,
        model, settings, 12, sharded.rules, variables, encoded, code_masks, None, None, None,
    )  # fmt: skip
    for name, lowered in (("encode", encode), ("decode", decode)):
        program = lowered.compile()
        memory = program.memory_analysis()
        programs[name] = {
            "arguments": memory.argument_size_in_bytes,
            "temporary": memory.temp_size_in_bytes,
            "gathered": gathered_elements(program.as_text()),
        }
    leaves = jax.tree.leaves(variables["params"])
    print(
        json.dumps(
            {
                "answers": found,
                "programs": programs,
                "parameter_bytes": sum(leaf.nbytes for leaf in leaves),
                "largest": max(leaf.size for leaf in leaves),
                "device_bytes": sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves),
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())
