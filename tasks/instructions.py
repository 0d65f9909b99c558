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
