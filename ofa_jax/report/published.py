"""The published results of OFA, as data (SPEC 7.3, 7.10, 8): numbers as the paper prints them.

Shares are in percent, CIDEr and BLEU times 100. `paper_tables` puts the rows of runs beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

# A row of numbers, in the order of the table's columns; None where nothing is published.
Values = tuple[float | None, ...]


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a published table.

    Attributes:
      head: what stands above it.
      task: registered name of the task whose runs can fill it.
      metric: key in the run's scores.
      split: split that it is about; "" = the row says which.
      scale: what a run's value is multiplied by; 100 for shares and for CIDEr-D.
    """

    head: str
    task: str
    metric: str
    split: str = ""
    scale: float = 100.0


@dataclasses.dataclass(frozen=True)
class PublishedTable:
    """A table of the paper.

    Attributes:
      name: of its files.
      title: heading.
      columns: after the column of models.
      rows: model to numbers.
      note: one sentence on what is compared.
      tuned: only runs of parameter-efficient tuning belong to it, and to no other table.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Mapping[str, Values]
    note: str = ""
    tuned: bool = False


def _grounding(names: Mapping[str, str], suffix: str = "") -> tuple[Column, ...]:
    columns = []
    for name, title in names.items():
        splits = ("validation", "test") if name == "refcocog" else ("validation", "testA", "testB")
        for split in splits:
            head = f"{title} {split.replace('validation', 'val')}"
            columns.append(Column(head, f"{name}{suffix}", "accuracy_at_0.5", split))
    return tuple(columns)


_REFCOCO = {"refcoco": "RefCOCO", "refcocoplus": "RefCOCO+", "refcocog": "RefCOCOg"}


def _captions(task: str, split: str = "") -> tuple[Column, ...]:
    metrics = {"BLEU-4": "bleu_4", "METEOR": "meteor", "CIDEr": "cider_d", "SPICE": "spice"}
    return tuple(Column(head, task, metric, split) for head, metric in metrics.items())


def _glue(prefix: str = "glue_", **metrics: str) -> tuple[Column, ...]:
    heads = {
        "sst2": "SST-2",
        "rte": "RTE",
        "mrpc": "MRPC",
        "qqp": "QQP",
        "qnli": "QNLI",
        "mnli": "MNLI",
        "cola": "CoLA",
    }
    return tuple(
        Column(head, f"{prefix}{task}", metrics.get(task, "accuracy"))
        for task, head in heads.items()
    )


PUBLISHED = (
    PublishedTable(
        "vqa_snli_ve",
        "Visual question answering and entailment",
        (
            Column("VQAv2 val", "vqa", "vqa_score", "validation"),
            Column("VQAv2 test-dev", "vqa", "vqa_score", "test-dev"),
            Column("VQAv2 test-std", "vqa", "vqa_score", "test-std"),
            Column("SNLI-VE val", "snli_ve", "accuracy", "validation"),
            Column("SNLI-VE test", "snli_ve", "accuracy", "test"),
        ),
        {
            "OFA-tiny": (None, 70.3, 70.4, 85.3, 85.2),
            "OFA-medium": (None, 75.4, 75.5, 86.6, 87.0),
            "OFA-base": (None, 78.0, 78.1, 89.3, 89.2),
            "OFA-large": (None, 80.4, 80.7, 90.3, 90.2),
            "OFA-large, cross entropy, all candidates": (80.82, 79.87, 80.02, None, None),
            "OFA-large, cross entropy, trie search": (80.15, 79.36, 79.48, None, None),
            "OFA-huge": (None, 82.0, 82.0, 91.0, 91.2),
        },
        "Test splits of VQAv2 are scored by the benchmark's server only.",
    ),
    PublishedTable(
        "captioning_cross_entropy",
        "COCO captioning, cross entropy",
        _captions("caption_coco"),
        {
            "OFA-tiny (test)": (35.9, 28.1, 119.0, 21.6),
            "OFA-medium (test)": (39.1, 30.0, 130.4, 23.2),
            "OFA-base (test)": (41.0, 30.9, 138.2, 24.2),
            "OFA-large (test)": (42.4, 31.5, 142.2, 24.5),
            "OFA-huge (test)": (43.9, 31.8, 145.3, 24.8),
        },
        "Karpathy's test split.",
    ),
    PublishedTable(
        "captioning_cider",
        "COCO captioning, rewarded by CIDEr",
        _captions("caption_coco_scst"),
        {
            "OFA-tiny (test)": (38.1, 29.2, 128.7, 23.1),
            "OFA-medium (test)": (41.4, 30.8, 140.7, 24.8),
            "OFA-base (test)": (42.8, 31.7, 146.7, 25.8),
            "OFA-large (test)": (43.6, 32.2, 150.7, 26.2),
            "OFA-huge (test)": (44.9, 32.5, 154.9, 26.6),
        },
        "Karpathy's test split. The paper's own text says 140.3 for medium, the slides 140.7.",
    ),
    PublishedTable(
        "grounding",
        "Referring expressions",
        _grounding(_REFCOCO),
        {
            "OFA-tiny": (80.20, 84.07, 75.00, 68.22, 75.13, 57.66, 72.02, 69.74),
            "OFA-medium": (85.34, 87.68, 77.92, 76.09, 83.04, 66.25, 78.76, 78.58),
            "OFA-base": (88.48, 90.67, 83.30, 81.39, 87.15, 74.29, 82.29, 82.31),
            "OFA-large": (90.05, 92.93, 85.26, 85.80, 89.87, 79.22, 85.89, 86.55),
            "OFA-huge": (92.04, 94.03, 88.44, 87.86, 91.70, 80.71, 88.07, 88.78),
        },
        "Accuracy at IoU 0.5.",
    ),
    PublishedTable(
        "glue",
        "GLUE",
        _glue(cola="matthews_correlation"),
        {"OFA-large": (96.6, 91.0, 91.7, 92.5, 94.8, 90.2, None)},
        "Development sets; accuracy, for CoLA Matthews correlation. Nothing is published for CoLA.",
    ),
    PublishedTable(
        "gigaword",
        "Gigaword summaries",
        tuple(
            Column(head, "gigaword", metric)
            for head, metric in (
                ("ROUGE-1", "rouge_1"),
                ("ROUGE-2", "rouge_2"),
                ("ROUGE-L", "rouge_l"),
            )
        ),
        {
            "OFA (test)": (39.81, 20.66, 37.11),
            "OFA-large, released checkpoint": (None, None, 36.43),
        },
    ),
    PublishedTable(
        "imagenet",
        "ImageNet-1K",
        (Column("Top-1", "imagenet", "accuracy"),),
        {
            "OFA-large, cross entropy (validation)": (85.0,),
            "OFA-large, encouraging loss (validation)": (85.6,),
        },
    ),
    PublishedTable(
        "text_to_image",
        "Text to image, COCO",
        (
            Column("FID (lower is better)", "text_to_image", "fid", scale=1.0),
            Column("CLIP score", "text_to_image", "clip_score", scale=1.0),
            Column("Inception score", "text_to_image", "inception_score", scale=1.0),
            Column("Right codes", "text_to_image", "code_accuracy"),
        ),
        {"OFA-large (test)": (10.5, 34.4, 31.1, None)},
        "The first three need the networks of an extractor.",
    ),
    PublishedTable(
        "zero_shot",
        "Zero-shot",
        (
            *_glue("zero_shot_", mrpc="f1", qqp="f1")[:-1],
            Column("SNLI-VE val", "zero_shot_snli_ve", "accuracy", "validation"),
            Column("SNLI-VE test", "zero_shot_snli_ve", "accuracy", "test"),
            Column("VQAv2 val", "zero_shot_vqa", "vqa_score", "validation"),
            *_grounding({f"zero_shot_{name}": title for name, title in _REFCOCO.items()})[:1],
        ),
        {"OFA-base": (71.6, 56.7, 79.5, 54.0, 51.4, 37.3, 49.71, 49.18, None, None)},
        "A pretrained model without fine-tuning. MRPC and QQP by F1.",
    ),
    PublishedTable(
        "prompt_tuning",
        "Parameter-efficient tuning",
        (
            *_grounding(_REFCOCO),
            Column("SNLI-VE val", "snli_ve", "accuracy", "validation"),
            Column("SNLI-VE test", "snli_ve", "accuracy", "test"),
            *_captions("caption_coco"),
            Column("VQAv2 test-dev", "vqa", "vqa_score", "test-dev"),
            Column("VQAv2 test-std", "vqa", "vqa_score", "test-std"),
        ),
        {
            "OFA-base, fine-tuned": (
                *(88.48, 90.67, 83.30, 81.39, 87.15, 74.29, 82.29, 82.31, 89.3, 89.2),
                *(41.0, 30.9, 138.2, 24.2, 78.0, 78.1),
            ),
            "OFA-base, prompt tuning": (
                *(84.53, 85.21, 77.36, 76.34, 81.44, 67.68, 75.61, 76.57, 88.18, 88.59),
                *(39.7, 30.1, 134.2, 23.5, 74.31, 74.47),
            ),
            "OFA-large, fine-tuned": (
                *(90.05, 92.93, 85.26, 85.80, 89.87, 79.22, 85.89, 86.55, 90.3, 90.2),
                *(42.4, 31.5, 142.2, 24.5, 80.4, 80.7),
            ),
            "OFA-large, prompt tuning": (
                *(90.05, 92.31, 85.59, 84.54, 89.40, 77.77, 85.27, 85.89, 90.04, 90.12),
                *(41.81, 31.51, 141.4, 24.42, 78.30, 78.53),
            ),
        },
        "Runs of prefixes, adapters, LoRA and BitFit. Published prompt tuning has 100 prefixes per "
        "stack; captions are of cross entropy.",
        tuned=True,
    ),
    PublishedTable(
        "chinese_captioning",
        "Chinese captioning, MUGE",
        (
            Column("BLEU-4", "caption_muge", "bleu_4"),
            Column("ROUGE-L", "caption_muge", "rouge_l"),
            Column("CIDEr-D", "caption_muge", "cider_d"),
        ),
        {
            "Transformer": (7.33, 51.51, 11.00),
            "M6": (16.19, 55.06, 30.75),
            "OFA-base": (26.23, 58.95, 50.70),
            "OFA-large": (27.32, 59.20, 53.51),
        },
    ),
    PublishedTable(
        "chinese_grounding",
        "Referring expressions in Chinese",
        _grounding(_REFCOCO, "_cn"),
        {
            "OFA-base, random weights": (30.13, 35.07, 25.03, 17.89, 20.90, 15.83, 20.30, 20.45),
            "OFA-base": (82.18, 86.07, 76.68, 69.38, 77.26, 60.14, 73.57, 72.53),
            "OFA-large": (82.84, 86.54, 76.50, 71.30, 78.56, 61.85, 71.96, 71.30),
        },
        "Accuracy at IoU 0.5.",
    ),
)
