"""SNLI-VE as published: `snli_ve_train.jsonl` beside the images of Flickr30k."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ofa_jax.data.sources import lines, split_paths
from ofa_jax.data.sources.annotated_images import AnnotatedImages, AnnotatedRow, MadeRows
from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.left_out import LeftOut
from ofa_jax.data.sources.tsv_layouts import ENTAILMENT_LABELS
from ofa_jax.data.sources.values import optional_text, text
from ofa_jax.schema import parse_json

# Where the people who labeled a claim do not agree.
_UNDECIDED = "-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SnliVe(AnnotatedImages):
    """One example per claim about an image.

    Attributes:
      annotations: the JSON-lines files.
    """

    annotations: split_paths.Paths

    def table(self, split: str, left_out: LeftOut) -> Sequence[AnnotatedRow]:
        """Rows made from their lines on demand."""
        del left_out
        paths = split_paths.files(self.annotations, split, "SNLI-VE rows")
        places = [(path, line) for path in paths for line in range(len(lines.spans(path)))]
        return MadeRows(_row, places)


def _row(place: tuple[str, int]) -> AnnotatedRow:
    path, line = place
    where = f"{path}, line {lines.number(path, int(lines.spans(path)[line][0]))}"
    try:
        entry = parse_json(lines.line(path, line), "the line", SourceError)
        premise = text(entry["sentence1"], "sentence1")
        label = optional_text(entry.get("gold_label"), "gold_label")
        if label not in (None, _UNDECIDED, *ENTAILMENT_LABELS):
            raise ValueError(f"the class {label!r} is not one of {', '.join(ENTAILMENT_LABELS)}")
        name = text(entry["Flickr30K_ID"], "Flickr30K_ID").removesuffix(".jpg")
        fields = {
            "image_id": name,
            "example_id": text(entry["pairID"], "pairID"),
            "captions": [premise],
            "caption": premise,
            "hypothesis": text(entry["sentence2"], "sentence2"),
            "type": "entailment",
        }
        if label in ENTAILMENT_LABELS:
            fields["label"] = label
    except KeyError as error:
        raise SourceError(f"{where}: it lacks {error}") from error
    except (ValueError, TypeError) as error:
        raise SourceError(f"{where}: {error}") from error
    return AnnotatedRow(where, f"{name}.jpg", fields)
