"""The eight pretraining tasks over the official TSV files (SPEC 4).

Files lie in the directory `DATA_DIR`, named as in the official release, and those of the validation
split under the same names in its directory `validation`; the vocabulary lies in
`VOCAB_DIR` (GPT-2's `encoder.json`, `vocab.bpe`, `dict.txt`, or a HuggingFace OFA directory).
The same tasks over prepared data sets, one set each: `tasks.pretrain_slots`.
"""

import functools

from ofa_jax.data.sources.tsv import TsvSource
from ofa_jax.data.tasks.registration import SPLITS

from . import families


def _source(file: str, layout: str, *types: str) -> TsvSource:
    paths = {"train": f"{{DATA_DIR}}/{file}", "validation": f"{{DATA_DIR}}/validation/{file}"}
    return TsvSource(tuple(paths.items()), layout, types)


_pairs = functools.partial(_source, "vision_language_examples.tsv", "vision_language")

SOURCES = {
    "visual_grounding": _pairs("visual_grounding"),
    "grounded_captioning": _pairs("visual_grounding"),
    "vqa": _pairs("qa"),
    "image_text_matching": _pairs("caption"),
    "answer_matching": _pairs("qa"),
    "captioning": _pairs("caption"),
    "detection": _source("detection_examples.tsv", "detection"),
    "image_infilling": _source("image_examples.tsv", "image"),
    "text_infilling": _source("text_examples.tsv", "text"),
}

for _family, _records in SOURCES.items():
    families.add_of_family(f"ofa_{_family}", _family, _records, splits=SPLITS)
