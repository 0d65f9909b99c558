"""The official instructions (SPEC 4.3, 7.10), one line each.

Plain strings, so that input workers can import them without seqio.
"""

VISUAL_GROUNDING = (
    '[IMAGE:image] which region does the text " [TEXT:caption] " describe? -> [BOX:region]'
)
# Two spaces in front: the official line starts so, and its ids differ from those with one space.
GROUNDED_CAPTIONING = (
    "[IMAGE:image]  what does the region describe? region: [BOX:region] -> [TEXT:caption]"
)
VQA = "[IMAGE:image] [TEXT:question] -> [TEXT:answer]"
IMAGE_TEXT_MATCHING = '[IMAGE:image] does the image describe " [TEXT:caption] "? -> [TEXT:answer]'
REGION_MATCHING = (
    '[IMAGE:image] does the region describe " [TEXT:region_caption] "? region: [BOX:region]'
    " -> [TEXT:answer]"
)
ANSWER_MATCHING = (
    '[IMAGE:image] what is the answer to question " [TEXT:question] ". is " [TEXT:candidate] "?'
    " -> [TEXT:answer]"
)
CAPTIONING = "[IMAGE:image] what does the image describe? -> [TEXT:caption]"
DETECTION = "[IMAGE:image] what are the objects in the image? -> [BOXES:boxes]"
IMAGE_INFILLING = "[MASKED_IMAGE:image] what is the image in the middle part? -> [CODE:image_codes]"
TEXT_INFILLING = ' what is the complete text of " [MASKED_TEXT:text] "? -> [TEXT:text]'

# Never trained: only the instruction is new (SPEC 7.10).
GROUNDED_VQA = "[IMAGE:image] [TEXT:question] region: [BOX:region] -> [TEXT:answer]"

# Fine-tuning (SPEC 8).
VISUAL_ENTAILMENT = (
    '[IMAGE:image] can image and text1 " [TEXT:caption] " imply text2 " [TEXT:hypothesis] "?'
    " -> [TEXT:answer]"
)
VISUAL_ENTAILMENT_WITHOUT_PREMISE = (
    '[IMAGE:image] does the image describe " [TEXT:hypothesis] "? -> [TEXT:answer]'
)
CLASSIFICATION = "[IMAGE:image] what does the image describe? -> [TEXT:answer]"
TEXT_TO_IMAGE = " what is the complete image? caption: [TEXT:text] -> [CODE:image_codes]"
# No space after the arrow: the target begins without one (SPEC 3.1).
SUMMARY = ' what is the summary of article " [TEXT:text] "? ->[TEXT:summary]'
WRITTEN_TEXT = "[IMAGE:image] what are the texts on the image? -> [TEXT:text]"

# Chinese (SPEC 8.9, 8.10); its tokenizer does not see the spaces around the slots.
CAPTIONING_CHINESE = "[IMAGE:image] 图片描述了什么内容? -> [TEXT:caption]"
VISUAL_GROUNDING_CHINESE = (
    '[IMAGE:image] 这段文字" [TEXT:caption] "描述的是哪个区域？ -> [BOX:region]'
)
WRITTEN_TEXT_CHINESE = "[IMAGE:image] 图片上的文字是什么? -> [TEXT:text]"

# GLUE task -> line (SPEC 8.7).
GLUE = {
    "cola": ' is the text " [TEXT:sentence1] " grammatically correct? -> [TEXT:answer]',
    "mnli": (' can text1 " [TEXT:sentence1] " imply text2 " [TEXT:sentence2] "? -> [TEXT:answer]'),
    "mrpc": (
        ' does text1 " [TEXT:sentence1] " and text2 " [TEXT:sentence2] " have the same semantics?'
        " -> [TEXT:answer]"
    ),
    "qnli": (
        ' does " [TEXT:sentence2] " contain the answer to question " [TEXT:sentence1] "?'
        " -> [TEXT:answer]"
    ),
    "qqp": (
        ' is question " [TEXT:sentence1] " and question " [TEXT:sentence2] " equivalent?'
        " -> [TEXT:answer]"
    ),
    "rte": (' can text1 " [TEXT:sentence1] " imply text2 " [TEXT:sentence2] "? -> [TEXT:answer]'),
    "sst2": (
        ' is the sentiment of text " [TEXT:sentence1] " positive or negative? -> [TEXT:answer]'
    ),
}
