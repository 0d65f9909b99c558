"""Small data sets in the official fine-tuning formats, and a converted checkpoint to start from.

The images are coloured squares: the tests check that runs go through, not what they learn.
"""

import dataclasses
import io
import json
import pathlib
import pickle

import numpy as np
from PIL import Image

from ofa_jax.checkpoint.exports import export_checkpoint
from ofa_jax.checkpoint.imports import ImportedCheckpoint, initial_variables
from ofa_jax.checkpoint.orbax_weights import SourceRecord
from ofa_jax.data.sources import tsv_writer
from ofa_jax.model.config import SIZES, OFAConfig, ResNetConfig
from ofa_jax.text.tokenizer import Tokenizer, load_tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import VocabLayout
from tasks import glue, instructions

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 200)}
CHINESE_COLOURS = {"red": "红", "green": "绿", "blue": "蓝"}
ROWS = 6
LAYOUT = {"num_codes": 64, "num_bins": 32, "max_image_size": 32}


def picture(colour: str, *, width: int = 40, height: int = 30) -> bytes:
    pixels = np.full((height, width, 3), 230, np.uint8)
    pixels[8:22, 10:30] = COLOURS[colour]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def examples(kind: str, count: int = ROWS) -> list[dict]:
    """Rows of one kind of data set."""
    made = []
    for number in range(count):
        colour = list(COLOURS)[number % 3]
        chinese = CHINESE_COLOURS[colour]
        common = {
            "image": picture(colour),
            "image_id": str(100 + number),
            "example_id": str(1000 + number),
            "objects": ["square", "wall"],
        }
        box = {"boxes": [[10.0, 8.0, 30.0, 22.0]]}
        made.append(
            {
                "caption": {**common, "captions": [f"a {colour} square", f"one {colour} box."]},
                "caption_cn": {**common, "captions": [f"{chinese}方块"]},
                "refcoco": {**common, **box, "refexps": [f"the {colour} square"]},
                "refcoco_cn": {**common, **box, "refexps": [f"{chinese}方块"]},
                "vqa": {
                    **common,
                    "question": "what color is it",
                    "answers": [colour, "yes"],
                    "answer_conf": [1.0, 0.3],
                },
                "snli_ve": {
                    **common,
                    "captions": [f"a {colour} square"],
                    "hypothesis": "there is a red square",
                    "label": "entailment" if colour == "red" else "contradiction",
                },
                "imagenet": {**common, "label": f"{colour} square"},
                "image_gen": {
                    "image_id": str(number),
                    "captions": [f"a {colour} square"],
                    "image_codes": np.arange(16) * (1 + number % 3),
                },
                "gigaword": {
                    "text": f"a {colour} square was seen on the wall",
                    "summary": f"{colour} square seen",
                },
                "ocr": {**common, "captions": [f"{chinese}方"]},
            }.get(kind)
            or _sentences(kind, number, colour)
        )
    return made


def _sentences(task: str, number: int, colour: str) -> dict:
    labels = list(glue.WORDS[task])
    return {
        "image_id": str(number),
        "sentence1": f"a {colour} square",
        "sentence2": "there is a red square",
        "label": labels[number % len(labels)],
    }


# Task -> (kind of rows, layout, files by split).
FILES = {
    "caption_coco": (
        "caption",
        "caption_stage1",
        ("caption_stage1_train.tsv", "caption_val.tsv"),
    ),
    "caption_coco_scst": (
        "caption",
        "caption_stage2",
        ("caption_stage2_train.tsv", "caption_val.tsv"),
    ),
    "refcoco": ("refcoco", "refcoco", ("refcoco_train.tsv", "refcoco_val.tsv")),
    "refcocoplus": ("refcoco", "refcoco", ("refcocoplus_train.tsv", "refcocoplus_val.tsv")),
    "refcocog": ("refcoco", "refcoco", ("refcocog_train.tsv", "refcocog_val.tsv")),
    "vqa": ("vqa", "vqa", ("vqa_train.tsv", "vqa_val.tsv")),
    "vqa_open": ("vqa", "vqa", ("vqa_train.tsv", "vqa_val.tsv")),
    "snli_ve": ("snli_ve", "snli_ve", ("snli_ve_train.tsv", "snli_ve_dev.tsv")),
    "imagenet": ("imagenet", "imagenet", ("imagenet_1k_train.tsv", "imagenet_1k_val.tsv")),
    "text_to_image": ("image_gen", "image_gen", ("coco_vqgan_train.tsv", "coco_vqgan_dev.tsv")),
    "gigaword": ("gigaword", "gigaword", ("train.tsv", "dev.tsv")),
    "ocr_cn": ("ocr", "ocr", ("ocr_train.tsv", "ocr_val.tsv")),
    "caption_muge": ("caption_cn", "caption_muge", ("caption_train.tsv", "caption_val.tsv")),
    "refcoco_cn": ("refcoco_cn", "refcoco_cn", ("refcoco_cn_train.tsv", "refcoco_cn_val.tsv")),
    **{
        f"glue_{task}": (task, task, (f"{task}/train.tsv", f"{task}/dev.tsv"))
        for task in glue.WORDS
    },
}


def write_data(directory: pathlib.Path, task: str) -> None:
    """The official files of one task, with its list of answers."""
    kind, layout, names = FILES[task]
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tsv_writer.write(path, [tsv_writer.row(layout, example) for example in examples(kind)])
    colours = {colour: number for number, colour in enumerate([*COLOURS, "yes", "no"])}
    (directory / "trainval_ans2label.pkl").write_bytes(pickle.dumps(colours, protocol=2))
    classes = {f"{colour} square": number for number, colour in enumerate(COLOURS)}
    (directory / "class2label_new.pkl").write_bytes(pickle.dumps(classes, protocol=2))


def write_vocabulary(directory: pathlib.Path) -> Tokenizer:
    """A little vocabulary in which the words of the tests are single tokens."""
    lines = [*instructions.GLUE.values(), instructions.CAPTIONING, instructions.VISUAL_GROUNDING]
    words = " ".join(
        word
        for task in ("caption", "refcoco", "vqa", "gigaword")
        for example in examples(task, 3)
        for value in example.values()
        for word in (value if isinstance(value, list) else [value])
        if isinstance(word, str)
    )
    corpus = [*lines, words, " yes no maybe positive negative red green blue square"]
    text = TrainedBPE.train([f" {line}" for line in corpus] * 2, num_merges=400)
    Tokenizer(text, VocabLayout(num_text=text.num_text, **LAYOUT)).save(directory)
    return load_tokenizer(directory)


def write_chinese_vocabulary(directory: pathlib.Path) -> Tokenizer:
    """Chinese BERT files with the characters of the prompts and of the rows."""
    characters = set('图片描述了什么内容这段文字的是哪个区域上红绿蓝方块?"？')
    pieces = ["[PAD]", "[UNK]", *sorted(characters)]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (directory / "dict.txt").write_text(
        "".join(f"{piece} 1\n" for piece in pieces), encoding="utf-8"
    )
    layout = VocabLayout(num_text=len(pieces), **LAYOUT)
    (directory / "vocab_layout.json").write_text(json.dumps(dataclasses.asdict(layout)))
    return load_tokenizer(directory)


MICRO_RESNET = ResNetConfig(
    stage_blocks=(1,), stage_widths=(8,), stage_strides=(2,), stem_width=8, stem_kernel=5
)


def small_config(tokenizer: Tokenizer) -> OFAConfig:
    """The nano model with the changes of tests/micro.gin."""
    layout = tokenizer.layout
    return dataclasses.replace(
        SIZES["nano"],
        vocab_size=layout.size,
        padded_vocab_size=layout.padded_size,
        num_codes=layout.num_codes,
        encoder_layers=1,
        decoder_layers=1,
        resnet=MICRO_RESNET,
    )


def write_checkpoint(path: pathlib.Path, tokenizer: Tokenizer, seed: int = 0) -> OFAConfig:
    """Random weights as a fairseq file."""
    config = small_config(tokenizer)
    record = SourceRecord("initialized", "random")
    imported = ImportedCheckpoint(initial_variables(config, seed), config, record)
    export_checkpoint(imported, path, "fairseq")
    return config
