"""The one-line instruction language: what a task reads and what it must say.

A line such as

    [IMAGE:image] which region does the text " [TEXT:caption] " describe? -> [BOX:region]

is parsed once into an `Instruction`, which turns an example into token ids and model features,
and generated ids back into a prediction. The ids equal the official ones, spaces included
(SPEC 3.1, 4.3): literal text and TEXT slots are joined and tokenized as one string, box and code
slots stand for whole tokens between two such strings.

Sits between the sources (`ofa_jax.data.sources`) and the padding to static shapes
(`ofa_jax.data.tasks.features`). Numpy only.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ofa_jax import vocab
from ofa_jax.data.ops import text_noise
from ofa_jax.data.sources.example import Example, InstructionError
from ofa_jax.text.tokenizer import Tokenizer

__all__ = [
    "SOURCE_MODALITIES",
    "TARGET_MODALITIES",
    "TEXT_CUT",
    "TEXT_WINDOW",
    "Features",
    "Instruction",
    "Piece",
    "Slot",
    "trim_at_eos",
]

Features = dict[str, np.ndarray]

SOURCE_MODALITIES = ("IMAGE", "MASKED_IMAGE", "TEXT", "MASKED_TEXT", "BOX")
TARGET_MODALITIES = ("TEXT", "BOX", "BOXES", "CODE")

# SPEC 4.3.8: a text is cut to 512 tokens and the last 256 of those are kept.
TEXT_CUT = 512
TEXT_WINDOW = 256

_SLOT = re.compile(r"\[([A-Z_]+):([a-z_][a-z0-9_]*)\]")
_ARROW = "->"


@dataclasses.dataclass(frozen=True)
class Slot:
    """A typed hole of an instruction.

    Attributes:
      modality: one of `SOURCE_MODALITIES` or `TARGET_MODALITIES`.
      field: key of the example that fills the slot.
    """

    modality: str
    field: str


Piece = str | Slot


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A parsed instruction line.

    Attributes:
      text: the line as written.
      source: literals and slots before the arrow.
      target: literals and slots after it.
    """

    text: str
    source: tuple[Piece, ...]
    target: tuple[Piece, ...]

    @classmethod
    def parse(cls, text: str) -> Instruction:
        """Parses a line of the instruction language.

        Spaces are significant: the text after an image slot starts with the space that stands
        there, and so does the target after the arrow. Exactly one space before a BOX or
        MASKED_TEXT slot is layout only.

        Args:
          text: for example `"[IMAGE:image] what does the image describe? -> [TEXT:caption]"`.

        Returns:
          The instruction.

        Raises:
          InstructionError: no arrow, an unknown or misplaced slot, or a target that is anything
            but one slot.
        """
        before, arrow, after = text.partition(_ARROW)
        if not arrow:
            raise InstructionError(f"instruction {text!r} has no '->' between source and target")
        source = _parse_pieces(before.rstrip(" "), SOURCE_MODALITIES, text)
        target = _parse_pieces(after, TARGET_MODALITIES, text)
        slots = [piece for piece in target if isinstance(piece, Slot)]
        if len(slots) != 1:
            raise InstructionError(
                f"instruction {text!r} must have exactly one target slot, one of "
                f"{', '.join(TARGET_MODALITIES)}; it has {len(slots)}"
            )
        if any(isinstance(piece, str) and piece.strip() for piece in target):
            raise InstructionError(
                f"instruction {text!r}: literal text in the target; the model's whole answer must "
                "be the slot, so that it can be compared with the field"
            )
        images = [p for p in source if isinstance(p, Slot) and "IMAGE" in p.modality]
        if len(images) > 1 or (images and source[0] != images[0]):
            raise InstructionError(f"instruction {text!r}: one image slot at most, in front")
        return cls(text, source, target)

    @property
    def target_slot(self) -> Slot:
        """The slot that the model fills."""
        return next(piece for piece in self.target if isinstance(piece, Slot))

    @property
    def image_slot(self) -> Slot | None:
        """The IMAGE or MASKED_IMAGE slot, or None where the task has no image."""
        first = self.source[0] if self.source else ""
        return first if isinstance(first, Slot) and "IMAGE" in first.modality else None

    def fields(self) -> frozenset[str]:
        """Keys of the example that this instruction reads."""
        pieces = (*self.source, *self.target)
        return frozenset(piece.field for piece in pieces if isinstance(piece, Slot))

    def empty_texts(self) -> dict[str, str]:
        """The fields of its texts, all empty: what is left then asks for anything."""
        slots = (piece for piece in self.source if isinstance(piece, Slot))
        return {slot.field: "" for slot in slots if slot.modality == "TEXT"}

    def empty_prompt(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Ids of the source without its texts, with bos and eos."""
        rng = np.random.default_rng(0)  # nothing is drawn for an empty text
        ids = _encode_pieces(self.source, self.empty_texts(), tokenizer, rng, {}, self.text)
        return (vocab.BOS_ID, *ids, vocab.EOS_ID)

    def room_for_text(self, tokenizer: Tokenizer, length: int) -> int:
        """How many tokens of a MASKED_TEXT fit into a source of `length` tokens.

        What surrounds the text counts, with bos and eos. Masks that the noise inserts do not: they
        hardly ever outweigh the words that it takes away.
        """
        return length - _frame_tokens(self, tokenizer)

    def encode(
        self,
        example: Example,
        tokenizer: Tokenizer,
        rng: np.random.Generator,
        *,
        image_size: int,
        max_text_tokens: int = TEXT_WINDOW,
        with_target: bool = True,
    ) -> Features:
        """Turns a prepared example into unpadded model features.

        Args:
          example: holds every field of `fields()`; images are uint8[image_size, image_size, 3],
            boxes float[4] or float[n, 4] in pixels of that image, codes int[...].
            `token_ids`, field to ids, may hold texts that are tokenized already.
          tokenizer: the run's tokenizer.
          rng: draws the noise of MASKED_TEXT.
          image_size: pixels per side of the model input; used where the task has no image.
          max_text_tokens: longest clean text of a MASKED_TEXT slot, in tokens.
          with_target: False leaves the target empty (inference on unlabeled data); a MASKED_TEXT
            then has its masks already, written `<mask>`.

        Returns:
          inputs int32[s], targets int32[t] (with eos, without bos), image uint8[y, x, 3],
          image_mask bool[1], image_hole int32[4] (pixels), code_mask bool[1].

        Raises:
          InstructionError: a missing field, an image of another size, or no room for a text.
        """
        clean = self._clean_text_ids(example, tokenizer, max_text_tokens, masked=not with_target)
        noise = rng if with_target else None
        inputs = _encode_pieces(self.source, example, tokenizer, noise, clean, self.text)
        targets: list[int] = []
        if with_target:
            if self.target_slot.field in clean:
                targets = list(clean[self.target_slot.field])
            else:
                targets = _encode_pieces(self.target, example, tokenizer, rng, {}, self.text)
        image, image_mask, hole = self._image_features(example, image_size)
        return {
            "inputs": np.array([vocab.BOS_ID, *inputs, vocab.EOS_ID], np.int32),
            "targets": np.array([*targets, vocab.EOS_ID], np.int32),
            "image": image,
            "image_mask": np.array([image_mask]),
            "image_hole": hole,
            "code_mask": np.array([self.target_slot.modality == "CODE"]),
        }

    def decode(self, ids: np.ndarray, tokenizer: Tokenizer) -> Any:
        """Turns generated ids into a prediction of the target's modality.

        Args:
          ids: int[t], without bos; everything from the first eos on is ignored.
          tokenizer: the run's tokenizer.

        Returns:
          TEXT: str, stripped. BOX: float32[4] pixels of the model input, or None where the ids
          are no box. BOXES: list of (float32[4], label). CODE: int32[codes]; ids that are no
          codes become -1.
        """
        ids = trim_at_eos(np.asarray(ids))
        modality = self.target_slot.modality
        if modality == "BOX":
            return tokenizer.decode_box(ids)
        if modality == "BOXES":
            return tokenizer.decode_objects(ids)
        if modality == "CODE":
            layout = tokenizer.layout
            return np.where(layout.is_code(ids), ids - layout.code_start, -1).astype(np.int32)
        return tokenizer.decode(ids).strip()

    def _clean_text_ids(
        self,
        example: Example,
        tokenizer: Tokenizer,
        max_text_tokens: int,
        *,
        masked: bool,
    ) -> dict[str, list[int]]:
        """Ids of each MASKED_TEXT field before noise: source and target share them."""
        window = min(TEXT_WINDOW, max_text_tokens)
        clean = {}
        for piece in self.source:
            if isinstance(piece, Slot) and piece.modality == "MASKED_TEXT":
                if window < 1:
                    raise InstructionError(
                        f"no room for a text in instruction {self.text!r}: its sequences hold "
                        f"{max_text_tokens} tokens of it"
                    )
                text = _field(example, piece, self.text)
                encode = tokenizer.encode if masked else tokenizer.encode_text
                clean[piece.field] = encode(f" {text}")[:TEXT_CUT][-window:]
        return clean

    def _image_features(
        self, example: Example, image_size: int
    ) -> tuple[np.ndarray, bool, np.ndarray]:
        hole = np.zeros(4, np.int32)
        slot = self.image_slot
        if slot is None:
            return np.zeros((image_size, image_size, 3), np.uint8), False, hole
        image = np.asarray(_field(example, slot, self.text))
        if image.shape != (image_size, image_size, 3) or image.dtype != np.uint8:
            raise InstructionError(
                f"field {slot.field!r} of instruction {self.text!r} is {image.dtype}"
                f"{list(image.shape)}; the model reads uint8[{image_size}, {image_size}, 3]: "
                "change task_feature_lengths['image'], or resize it in the task's preparation"
            )
        if slot.modality == "MASKED_IMAGE":
            # SPEC 4.3.7: the central half of each axis.
            low, high = image_size // 4, image_size // 4 * 3
            hole = np.array([low, low, high, high], np.int32)
        return image, True, hole


def trim_at_eos(ids: np.ndarray) -> np.ndarray:
    """Cuts int[t] before its first eos or pad."""
    ends = np.flatnonzero((ids == vocab.EOS_ID) | (ids == vocab.PAD_ID))
    return ids[: ends[0]] if ends.size else ids


@functools.lru_cache(maxsize=64)
def _frame_tokens(instruction: Instruction, tokenizer: Tokenizer) -> int:
    """Tokens of a source without its texts, bos and eos included."""
    blank = {slot.field: "" for slot in instruction.source if isinstance(slot, Slot)}
    clean: dict[str, list[int]] = {field: [] for field in blank}
    rng = np.random.default_rng(0)  # nothing is drawn for an empty text
    ids = _encode_pieces(instruction.source, blank, tokenizer, rng, clean, instruction.text)
    return len(ids) + 2


def _parse_pieces(text: str, allowed: tuple[str, ...], line: str) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    position = 0
    for match in _SLOT.finditer(text):
        if match.start() > position:
            pieces.append(text[position : match.start()])
        modality, field = match.groups()
        if modality not in allowed:
            raise InstructionError(
                f"instruction {line!r}: slot {match.group()!r} is not allowed here; "
                f"allowed are {', '.join(allowed)}"
            )
        pieces.append(Slot(modality, field))
        position = match.end()
    if position < len(text):
        pieces.append(text[position:])
    for piece in pieces:
        if isinstance(piece, str) and re.search(r"\[[A-Za-z_]+:", piece):
            raise InstructionError(
                f"instruction {line!r}: malformed slot in {piece!r}; write [MODALITY:field]"
            )
    return tuple(pieces)


def _field(example: Example, slot: Slot, line: str) -> Any:
    value = example.get(slot.field)
    if value is None:
        raise InstructionError(
            f"example {example.get('image_id', '?')!r} has no field {slot.field!r}, which "
            f"instruction {line!r} needs; it has {', '.join(sorted(example))}"
        )
    return value


def _encode_pieces(
    pieces: tuple[Piece, ...],
    example: Example,
    tokenizer: Tokenizer,
    rng: np.random.Generator | None,
    clean: Mapping[str, list[int]],
    line: str,
) -> list[int]:
    ids: list[int] = []
    pending = ""  # text that is tokenized as one string

    def flush(*, before_tokens: bool) -> None:
        nonlocal pending
        text = pending.removesuffix(" ") if before_tokens else pending
        if text:
            ids.extend(tokenizer.encode_text(text))
        pending = ""

    for piece in pieces:
        if isinstance(piece, str):
            pending += piece
            continue
        if "IMAGE" in piece.modality:
            continue
        value = _field(example, piece, line)
        own_ids = example.get("token_ids", {}).get(piece.field)
        if piece.modality == "TEXT" and own_ids is None:
            pending += str(value)
            continue
        flush(before_tokens=True)
        if own_ids is not None:
            ids.extend(own_ids)
        elif piece.modality == "BOX":
            ids.extend(tokenizer.encode_box(value))
        elif piece.modality == "BOXES":
            ids.extend(tokenizer.encode_boxes(value, _labels(example, piece, line)))
        elif piece.modality == "CODE":
            codes = np.asarray(value, np.int64).reshape(-1)
            if codes.size and not 0 <= codes.min() <= codes.max() < tokenizer.layout.num_codes:
                raise InstructionError(
                    f"field {piece.field!r} of example {example.get('image_id', '?')!r} holds "
                    f"codes {codes.min()}..{codes.max()}; the vocabulary has "
                    f"{tokenizer.layout.num_codes}"
                )
            ids.extend((codes + tokenizer.layout.code_start).tolist())
        elif rng is None:  # a MASKED_TEXT that has its masks already
            ids.extend(clean[piece.field])
        else:
            noised = text_noise.infill_noise(
                np.array(clean[piece.field], np.int32),
                tokenizer.word_starts(),
                tokenizer.layout.mask_id,
                rng,
            )
            ids.extend(noised.tolist())
    flush(before_tokens=False)
    return ids


def _labels(example: Example, slot: Slot, line: str) -> list[str]:
    labels = example.get("labels")
    if labels is None or len(labels) != len(example[slot.field]):
        raise InstructionError(
            f"example {example.get('image_id', '?')!r}: instruction {line!r} needs one entry of "
            f"'labels' per box of {slot.field!r}"
        )
    return list(labels)
