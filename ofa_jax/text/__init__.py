"""Text to ids and back: byte-level BPE, Chinese wordpiece, clean-up of captions and questions.

First stop after `ofa_jax.vocab` in the flow of the data. Needs numpy and tiktoken only.
"""
