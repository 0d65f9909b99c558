"""Reading the text in an image, Chinese or English (SPEC 8.9)."""

import dataclasses

from ofa_jax.data.steps.finetuning import RememberSize, WrittenText
from ofa_jax.data.steps.image import DecodeImage, FitText
from ofa_jax.data.tasks.answering import Answering
from ofa_jax.text.cleaning import without_spaces

from . import instructions
from .finetuning import add, files

CHINESE = Answering(decoding={"beam": 5, "max_len_b": 64}, clean=without_spaces, submission="ocr")
ENGLISH = dataclasses.replace(CHINESE, clean=None)
SOURCE = files("ocr", train="ocr_train.tsv", validation="ocr_val.tsv", test="ocr_test.tsv")

for name, line, answering, document in (
    ("ocr_cn", instructions.WRITTEN_TEXT_CHINESE, CHINESE, False),
    ("ocr_cn_document", instructions.WRITTEN_TEXT_CHINESE, CHINESE, True),
    ("ocr_en", instructions.WRITTEN_TEXT, ENGLISH, False),
):
    text = WrittenText(chinese=answering is CHINESE)
    picture = (DecodeImage(), RememberSize())
    add(
        name,
        line,
        family="ocr",
        source=SOURCE,
        prepare=[*picture, FitText(document=document), text],
        eval_prepare=[*picture, FitText(document=document, random_place=False), text],
        scorer="written_text",
        answering=answering,
    )
