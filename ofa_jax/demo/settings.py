"""The settings of the demo: the model, the address, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ofa_jax import schema
from ofa_jax.schema import Between


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """What `python -m ofa_jax.demo` is told.

    Attributes:
      checkpoint: what `ofa_jax.load` takes: a run, .pt, HuggingFace directory or hub id; without it
        the quickstart's run.
      vocabulary: its directory; without it the one beside the checkpoint.
      image_side: side in pixels of the model's input; 0 = as the checkpoint says.
      image_tokenizer: last.ckpt, codebook.npz or module:function, which makes images of codes;
        without it the run's own is taken, if it has one.
      host: address to listen at; others than this machine reach it only by another, 0.0.0.0 is
        all.
      port: of that address.
      batch_size: most questions that are answered at once.
      max_waiting: most questions that wait; the next is told to come back.
      max_file_mb: largest image file, in megabytes.
      max_megapixels: largest image, in millions of pixels.
      max_characters: longest text.
      uncertain_below: a box less probable than this is shown as uncertain, unless the asker says
        otherwise.
    """

    checkpoint: str = ""
    vocabulary: str = ""
    image_side: Annotated[int, Between(0, 1 << 16)] = 0
    image_tokenizer: str = ""
    host: str = "127.0.0.1"
    port: Annotated[int, Between(1, 65535)] = 7860
    batch_size: Annotated[int, Between(1, 1024)] = 8
    max_waiting: Annotated[int, Between(1, 10_000)] = 64
    max_file_mb: Annotated[float, Between(0.001, 1024)] = 10.0
    max_megapixels: Annotated[float, Between(0.001, 89)] = 40.0
    max_characters: Annotated[int, Between(1, 100_000)] = 500
    uncertain_below: Annotated[float, Between(0, 1)] = 0.05

    def __post_init__(self) -> None:
        schema.check(self, "demo")

    @property
    def max_file_bytes(self) -> int:
        """`max_file_mb` in bytes."""
        return int(self.max_file_mb * 1e6)
