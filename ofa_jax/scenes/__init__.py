"""`scenes`: the embedded, procedural data set. Numpy only; nothing is read from disk.

Coloured shapes on plain backgrounds, with everything that the eight pretraining tasks need, in
three sizes (`tiny`, `small`, `base`). Reading order: presets, world, renderer, reader, grammar,
truth, descriptions, questions, source, views, baselines.
"""

from ofa_jax.scenes.presets import PRESETS, ScenesConfig, preset
from ofa_jax.scenes.reader import read
from ofa_jax.scenes.source import ScenesSource, ScenesSplits, corpus
from ofa_jax.scenes.truth import GrammarError, parse, truth

__all__ = [
    "PRESETS",
    "GrammarError",
    "ScenesConfig",
    "ScenesSource",
    "ScenesSplits",
    "corpus",
    "parse",
    "preset",
    "read",
    "truth",
]
