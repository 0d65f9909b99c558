"""Which layout of ids a directory of vocabulary files states, and whether some weights have it.

Text alone says where codes and bins begin, not how many there are. A directory may say it
(`vocab_layout.json`, or the whole tokens that HuggingFace's files list), a checkpoint may, and the
released models have 8,192 codes and 1,000 bins. Nothing is ever counted off the rows that are left.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

from ofa_jax.schema import build, read_json
from ofa_jax.vocab import CHINESE, ENGLISH, VocabLayout

LAYOUT_FILE = "vocab_layout.json"
# Files of HuggingFace that may list `<mask>`, codes and bins with their ids.
_LISTS = ("added_tokens.json", "vocab.json")
_NUMBERED = re.compile(r"<(code|bin)_([0-9]{1,9})>")
# Embeddings are padded to a multiple of at most this, to divide over devices.
_MAX_PADDING = 1024
_RELEASED = {
    ENGLISH.size: f"the English models with {ENGLISH.num_text:,} text tokens (GPT-2 BPE)",
    CHINESE.size: f"the Chinese models with {CHINESE.num_text:,} text tokens (BERT)",
}


def write_layout(directory: str | pathlib.Path, layout: VocabLayout) -> None:
    """Saves a layout beside vocabulary files."""
    content = json.dumps(dataclasses.asdict(layout), indent=2)
    (pathlib.Path(directory) / LAYOUT_FILE).write_text(content + "\n", encoding="utf-8")


def read_layout(directory: str | pathlib.Path) -> VocabLayout | None:
    """Reads the layout that `write_layout` saved, or None where there is none.

    Raises:
      ValueError: the file is damaged.
    """
    path = pathlib.Path(directory) / LAYOUT_FILE
    if not path.is_file():
        return None
    return build(VocabLayout, read_json(path), f"{path}: is no layout of a vocabulary")


def stated_layout(directory: str | pathlib.Path, num_text: int) -> VocabLayout | None:
    """The layout that vocabulary files state, or None where they are silent about codes and bins.

    Args:
      num_text: text tokens of its vocabulary.

    Raises:
      ValueError: a list of tokens is damaged or gives them other ids than a layout can have.
    """
    if (saved := read_layout(directory)) is not None:
        return saved
    for name in _LISTS:
        path = pathlib.Path(directory) / name
        if path.is_file() and (layout := _listed_layout(path, num_text)) is not None:
            return layout
    return None


def _listed_layout(path: pathlib.Path, num_text: int) -> VocabLayout | None:
    listed = read_json(path, expected=dict)
    ids: dict[str, dict[int, int]] = {"code": {}, "bin": {}}
    for token, token_id in listed.items():
        if match := _NUMBERED.fullmatch(token):
            ids[match[1]][int(match[2])] = token_id
    if not ids["bin"]:
        return None
    layout = VocabLayout(num_text, num_codes=len(ids["code"]), num_bins=len(ids["bin"]))
    wanted = {
        "<mask>": layout.mask_id,
        **{f"<code_{i}>": layout.code_start + i for i in range(layout.num_codes)},
        **{f"<bin_{i}>": layout.bin_start + i for i in range(layout.num_bins)},
    }
    for token, right in wanted.items():
        if listed.get(token, right if token == "<mask>" else None) != right:
            raise ValueError(
                f"{path}: {token} has the id {listed.get(token, 'none')}, but behind "
                f"{num_text:,} text tokens, <mask> and {layout.num_codes:,} codes it is {right}"
            )
    return layout


def fitting_layout(
    num_text: int,
    vocab_size: int,
    *,
    name: str,
    stated: VocabLayout | None = None,
    own: VocabLayout | None = None,
    num_codes: int | None = None,
    num_bins: int | None = None,
    max_image_size: int | None = None,
    ignore_extra_rows: bool = False,
) -> VocabLayout:
    """Decides whether a vocabulary belongs to weights. What does not fit is never guessed.

    The layout is the one saved with the weights, else the one that the vocabulary's files state,
    else the text with the codes and bins that the checkpoint names, or the official 8,192 and
    1,000 where it names none. Its size must be that of the weights.

    Args:
      num_text: text tokens of the vocabulary.
      vocab_size: ids, that is rows of the embedding, that the weights have.
      name: of the vocabulary, for messages.
      stated: see `stated_layout`.
      own: layout saved with the weights.
      num_codes: image codes that the checkpoint names.
      num_bins: box bins that the checkpoint names.
      max_image_size: pixels of the last bin, where the checkpoint names them outside of `own`.
      ignore_extra_rows: the weights may have up to 1,023 rows more, as padding for devices; they
        are never read nor predicted.

    Returns:
      The layout; its `size` is at most `vocab_size`.

    Raises:
      ValueError: vocabulary and weights do not belong together; the message has the numbers.
    """
    if own is not None and own.num_text != num_text:
        raise ValueError(
            f"{name}: the vocabulary has {num_text:,} text tokens, the one that the weights were "
            f"trained with {own.num_text:,}; they do not belong together"
        )
    parts = ("num_codes", "num_bins")
    if stated and own and any(getattr(stated, part) != getattr(own, part) for part in parts):
        raise ValueError(
            f"{name}: the vocabulary has {stated.num_codes:,} codes and {stated.num_bins:,} bins, "
            f"the one that the weights were trained with {own.num_codes:,} and {own.num_bins:,}"
        )
    codes = ENGLISH.num_codes if num_codes is None else num_codes
    layout = own or stated or VocabLayout(num_text, codes, num_bins or ENGLISH.num_bins)
    if own is None and max_image_size:
        layout = dataclasses.replace(layout, max_image_size=max_image_size)
    extra = vocab_size - layout.size
    if extra == 0 or (ignore_extra_rows and 0 < extra < _MAX_PADDING):
        return layout
    message = (
        f"{name}: the vocabulary does not fit the weights: {layout.num_text:,} text tokens with "
        f"{layout.num_codes:,} codes and {layout.num_bins:,} bins make {layout.size:,} ids, the "
        f"weights have {vocab_size:,}"
    )
    if vocab_size in _RELEASED:
        raise ValueError(f"{message} as {_RELEASED[vocab_size]} have; give that vocabulary")
    if 0 < extra < _MAX_PADDING:
        raise ValueError(
            f"{message}; if the last {extra} rows are padding, ignore them: ignore_extra_rows=True "
            "(--ignore_extra_rows)"
        )
    right = vocab_size - (layout.size - layout.num_text)
    raise ValueError(
        f"{message}; a vocabulary of {right:,} text tokens would fit, or a {LAYOUT_FILE} beside "
        "it that says how many codes and bins the model has"
        if right > 0
        else f"{message}; a {LAYOUT_FILE} beside it must say how many codes and bins the model has"
    )
