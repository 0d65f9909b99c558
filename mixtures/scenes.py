"""Mixtures over the embedded `scenes` world.

`scenes_quickstart` is what `make quickstart` trains, with attributes learnt apart; `scenes_whole`
are the same eight tasks as they are; `scenes_pretrain` reproduces the official sample ratios
(SPEC 4.2); `scenes_without_<family>` leave one of the eight tasks out of the quickstart's mixture;
`scenes_composition` is what names, with attributes learnt apart;
`scenes_images` is text to image among the others, `scenes_image_prompts` what it is graded on. The
same for the larger worlds `scenes_small` and `scenes_base`.
"""

from ofa_jax.bundled.tasks import scenes_images  # which registers those of `scenes`, too
from ofa_jax.data.tasks.registration import add_mixture

from .rates import FAMILIES, of_tasks, official_rates, without

# More of what needs the words compared with the image, which is learnt last (grounding,
# questions, matching) and of captions, less of the long image codes. Attributes are learnt apart,
# and together late and less (docs/quickstart.md has what was tried,
# gin_configs/runs/quickstart.gin how the rates change).
QUICKSTART_RATES = {
    "visual_grounding": 1.4,
    "grounded_captioning_apart": 1.0,
    "vqa_apart": 1.6,
    "image_text_matching_apart": 1.8,
    "captioning_apart": 2.0,
    "detection_apart": 1.0,
    "image_infilling_apart": 0.4,
    "text_infilling_apart": 1.0,
    "grounded_captioning_together": 0.25,
    "vqa_together": 0.5,
    "image_text_matching_together": 1.0,
    "captioning_together": 0.6,
    "detection_together": 0.3,
    "image_infilling_together": 0.2,
    "text_infilling_together": 0.5,
}

# The eight as they are, from the start: what ablations change, which are too short to learn
# attributes apart first.
WHOLE_RATES = {
    "visual_grounding": 1.8,
    "grounded_captioning": 0.6,
    "vqa": 1.8,
    "image_text_matching": 1.6,
    "captioning": 0.7,
    "detection": 0.6,
    "image_infilling": 0.4,
    "text_infilling": 2.0,
}

# Text to image has the most to learn; matching ranks its images. Image infilling has images of
# another size, which one model does not write.
IMAGES_RATES = {
    "text_to_image": 6.0,
    "image_text_matching": 1.0,
    "visual_grounding": 0.6,
    "grounded_captioning": 0.2,
    "vqa": 0.4,
    "captioning": 0.3,
    "detection": 0.3,
    "text_infilling": 0.4,
}

# What names, with attributes that are learnt apart and, late and little, together; and grounding,
# which ties words to objects and names nothing.
COMPOSITION_RATES = {
    "grounded_captioning_apart": 1.0,
    "captioning_apart": 1.0,
    "detection_apart": 1.0,
    "grounded_captioning": 1.0,
    "captioning": 1.0,
    "detection": 1.0,
    "visual_grounding": 1.0,
}

for _prefix in ("scenes", "scenes_small", "scenes_base"):
    add_mixture(f"{_prefix}_quickstart", of_tasks(QUICKSTART_RATES, _prefix))
    add_mixture(f"{_prefix}_whole", of_tasks(WHOLE_RATES, _prefix))
    add_mixture(f"{_prefix}_composition", of_tasks(COMPOSITION_RATES, _prefix))
    add_mixture(f"{_prefix}_images", of_tasks(IMAGES_RATES, _prefix))
    add_mixture(
        f"{_prefix}_image_prompts",
        {f"{_prefix}_text_to_image_{variant}": 1.0 for variant in scenes_images.VARIANTS},
    )
    add_mixture(f"{_prefix}_pretrain", of_tasks(official_rates(), _prefix))
    for _family in FAMILIES:
        _rates = without(QUICKSTART_RATES, _family)
        add_mixture(f"{_prefix}_without_{_family}", of_tasks(_rates, _prefix))
