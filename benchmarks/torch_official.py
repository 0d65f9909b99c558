"""Times the official PyTorch model for `benchmarks.train` and `benchmarks.decode`.

A child process (`benchmarks.peer`) in a Python that has torch and finds the official code: random
weights and inputs, float32, the switches of the official run scripts. It answers each request with
the seconds of one step ("step"), one encoding ("encoder") or one search ("search").
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch
from fairseq.data import Dictionary
from models import sequence_generator
from models.ofa import ofa

VOCABULARY = 59_457
# What the run scripts of every task switch on.
SWITCHES = (
    "add_type_embedding",
    "code_layernorm_embedding",
    "decoder_normalize_before",
    "disable_entangle",
    "encoder_normalize_before",
    "layernorm_embedding",
    "patch_layernorm_embedding",
    "scale_attn",
    "scale_fc",
    "scale_heads",
    "share_all_embeddings",
    "share_decoder_input_output_embed",
)
# No regularization, as in the steps that it is compared with.
RATES = (
    "activation_dropout",
    "attention_dropout",
    "decoder_drop_path_rate",
    "dropout",
    "encoder_drop_path_rate",
    "resnet_drop_path_rate",
)


class Task:
    """What the model asks a task for."""

    def __init__(self) -> None:
        words = Dictionary()
        for number in range(VOCABULARY - len(words)):
            words.add_symbol(f"word{number}")
        self.source_dictionary = self.target_dictionary = words


def official_model(size: str, images: int, task: Task) -> torch.nn.Module:
    """The model of one size, for square images of so many pixels."""
    args = argparse.Namespace(
        **dict.fromkeys(SWITCHES, True),
        **dict.fromkeys(RATES, 0.0),
        freeze_resnet=False,
        sync_bn=False,
        patch_image_size=images,
        orig_patch_image_size=images,
    )
    getattr(ofa, f"ofa_{size}_architecture")(args)
    return ofa.OFAModel.build_model(args, task)


class Official:
    """The model, its optimizer, and what can be asked of them."""

    def __init__(self, size: str, images: int) -> None:
        self._task = Task()
        self._model = official_model(size, images, self._task)
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=1e-4)
        self._made: dict[str, dict] = {}

    def _inputs(self, batch: int, image: int, source: int, target: int) -> dict:
        generator = torch.Generator().manual_seed(0)

        def tokens(length: int) -> torch.Tensor:
            made = torch.randint(4, VOCABULARY - 1000, (batch, length), generator=generator)
            made[:, 0] = 0
            return made

        return {
            "src_tokens": tokens(source),
            "src_lengths": torch.full((batch,), source),
            "prev_output_tokens": tokens(target),
            "targets": tokens(target),
            "patch_images": torch.rand(batch, 3, image, image, generator=generator) * 2 - 1,
            "patch_masks": torch.ones(batch, dtype=torch.bool),
        }

    def step(self, inputs: dict) -> None:
        """Loss, gradients, clipping and one step of Adam."""
        self._model.train()
        given = {name: inputs[name] for name in inputs if name != "targets"}
        logits, _ = self._model(**given)
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), inputs["targets"].flatten()
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()

    @torch.no_grad()
    def encoder(self, inputs: dict) -> None:
        """States of text and image."""
        self._model.eval()
        self._model.encoder(
            inputs["src_tokens"],
            inputs["src_lengths"],
            patch_images=inputs["patch_images"],
            patch_masks=inputs["patch_masks"],
        )

    @torch.no_grad()
    def stem(self, inputs: dict) -> None:
        """Features of the image."""
        self._model.eval()
        self._model.encoder.embed_images(inputs["patch_images"])

    @torch.no_grad()
    def search(self, inputs: dict, beam: int, tokens: int) -> None:
        """Exactly so many tokens and eos, without repeated 3-grams."""
        self._model.eval()
        generator = sequence_generator.SequenceGenerator(
            [self._model],
            self._task.target_dictionary,
            beam_size=beam,
            min_len=tokens,
            max_len_b=tokens,
            no_repeat_ngram_size=3,
        )
        given = ("src_tokens", "src_lengths", "patch_images", "patch_masks")
        generator.generate([self._model], {"net_input": {name: inputs[name] for name in given}})

    def answer(self, asked: dict) -> float:
        """Seconds of one request; its inputs are made before."""
        key = json.dumps(asked["inputs"])
        if key not in self._made:
            self._made[key] = self._inputs(**asked["inputs"])
        call = getattr(self, asked["what"])
        began = time.perf_counter()
        call(self._made[key], **asked.get("options", {}))
        return time.perf_counter() - began


def main() -> None:
    """Answers until the input ends."""
    threads, size, images = sys.argv[1:]
    torch.set_num_threads(int(threads))
    # The official code prints by the way; answers go where nothing else does.
    answers, sys.stdout = sys.stdout, sys.stderr
    model = Official(size, int(images))
    for line in sys.stdin:
        print(model.answer(json.loads(line)), file=answers, flush=True)


if __name__ == "__main__":
    main()
