"""The one table of scorers: which exist, which examples each can score, what it needs.

Tasks name their scorer. Test splits without truth are not scored: `has_truth` says which examples
can be.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ofa_jax.data.instruction import Example
from ofa_jax.evaluation import finetuning_scoring, scoring
from ofa_jax.metrics import caption_server
from ofa_jax.metrics.dependency import require_package

SCORERS: Mapping[str, scoring.Scorer] = {
    "region": scoring.region,
    "answer": scoring.answer,
    "answer_by_kind": scoring.answer_by_kind,
    "region_answer": scoring.region_answer,
    "description": scoring.description,
    "true_caption": scoring.true_caption,
    "reference_caption": scoring.reference_caption,
    "objects": scoring.objects,
    "codes": scoring.codes,
    "filled_text": scoring.filled_text,
    "coco_caption": finetuning_scoring.coco_caption,
    "chinese_caption": finetuning_scoring.chinese_caption,
    "server_caption": finetuning_scoring.server_caption,
    "server_caption_with_spice": finetuning_scoring.server_caption_with_spice,
    "vqa_answer": finetuning_scoring.vqa_answer,
    "correlated_answer": finetuning_scoring.correlated_answer,
    "yes_or_no": finetuning_scoring.yes_or_no,
    "summary": finetuning_scoring.summary,
    "written_text": finetuning_scoring.written_text,
    "generated_codes": finetuning_scoring.generated_codes,
}

# Field without which an example cannot be scored.
_TRUTH = {
    "coco_caption": "captions",
    "chinese_caption": "captions",
    "server_caption": "captions",
    "server_caption_with_spice": "captions",
    "reference_caption": "captions",
    "vqa_answer": "answers",
    "correlated_answer": "answer",
    "yes_or_no": "answer",
    "answer": "answer",
    "answer_by_kind": "answer",
    "region_answer": "answer",
    "description": "caption",
    "summary": "reference",
    "written_text": "text",
    "generated_codes": "image_codes",
    "codes": "image_codes",
}


def has_truth(scorer: str, example: Example) -> bool:
    """Whether an example can be scored: files of test splits lack the truth.

    Args:
      scorer: its name.
      example: prepared.
    """
    if scorer == "region":
        return bool(np.any(np.asarray(example.get("region", 0.0))))
    if scorer == "objects":
        return "labels" in example
    field = _TRUTH.get(scorer)
    return field is None or len(example.get(field, ())) > 0


def check_installed(scorer: str) -> None:
    """Fails early where a scorer's package is missing.

    Raises:
      MissingDependencyError: names the package.
    """
    if scorer.startswith("server_caption"):
        caption_server.check_installed()
    if scorer == "summary":
        require_package("rouge_score.rouge_scorer", score="ROUGE")
