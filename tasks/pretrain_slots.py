"""The pretraining tasks over prepared data: one slot per data set of the OFA paper (SPEC 4.2).

A slot is a folder `{DATA_DIR}/<slot>/` that `python -m ofa_jax.prepare` fills; its record here says
what belongs into it and where a person gets it. Each slot gives the tasks `<slot>_<kind>`, such as
`cc12m_captioning`. docs/data.md has the commands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ofa_jax.data.selection_steps import CaptionsFrom, NameDataset
from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.task import Step
from tasks import families

CAPTIONS = ("captioning", "image_text_matching")
ANSWERS = ("vqa", "answer_matching")
REGIONS = ("visual_grounding", "grounded_captioning")


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place for one data set.

    Attributes:
      name: folder below `DATA_DIR`, and the beginning of the names of its tasks.
      title: as people call it.
      samples: kind of task (key of `tasks.families.KINDS`) to its samples in millions. They divide
        a family's rate among its slots and are published sizes, rounded; where SPEC 4.2 has a sum
        and the others are known, what remains.
      format: of `ofa_jax.prepare`, for what people usually have on disk.
      files: what lies on disk before preparation.
      obtain: where it comes from.
      licence: a hint, not advice; look before you train.
      captions_from: field whose texts serve as captions.
    """

    name: str
    title: str
    samples: Mapping[str, float]
    format: str
    files: str
    obtain: str
    licence: str
    captions_from: str = "captions"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the registered tasks."""
        return tuple(f"{self.name}_{kind}" for kind in self.samples)

    def first_steps(self, kind: str) -> tuple[Step, ...]:
        """Steps that bring a record into the form that a kind's chain reads."""
        named = (NameDataset(self.name),)
        if kind in CAPTIONS and self.captions_from != "captions":
            return (*named, CaptionsFrom(self.captions_from))
        return named


def _each(kinds: tuple[str, ...], samples: float) -> dict[str, float]:
    return dict.fromkeys(kinds, samples)


SLOTS = (
    Slot(
        name="cc12m",
        title="Conceptual 12M",
        samples=_each(CAPTIONS, 12.4),
        format="webdataset",
        files="00000.tar, 00001.tar, ... with KEY.jpg and KEY.txt",
        obtain="the list of addresses from github.com/google-research-datasets/conceptual-12m, "
        "downloaded with img2dataset --output_format webdataset",
        licence="the list is free to use; each picture has its own owner",
    ),
    Slot(
        name="cc3m",
        title="Conceptual Captions 3M",
        samples=_each(CAPTIONS, 3.3),
        format="webdataset",
        files="00000.tar, 00001.tar, ... with KEY.jpg and KEY.txt",
        obtain="Train_GCC-training.tsv from ai.google.com/research/ConceptualCaptions, downloaded "
        "with img2dataset --output_format webdataset",
        licence="the list is free to use; each picture has its own owner",
    ),
    Slot(
        name="sbu",
        title="SBU Captioned Photos",
        samples=_each(CAPTIONS, 1.0),
        format="webdataset",
        files="00000.tar, 00001.tar, ... with KEY.jpg and KEY.txt",
        obtain="sbu-captions-all.json from www.cs.rice.edu/~vo9/sbucaptions, downloaded with "
        "img2dataset --output_format webdataset",
        licence="photographs of Flickr members, each with its own licence",
    ),
    Slot(
        name="coco_captions",
        title="COCO captions",
        samples=_each(CAPTIONS, 0.57),
        format="coco_captions",
        files="annotations/captions_train2014.json and the folder train2014 (or dataset_coco.json "
        "of the Karpathy split, with train2014 and val2014)",
        obtain="cocodataset.org, 2014 train images and annotations",
        licence="annotations CC BY 4.0; photographs under the terms of Flickr",
    ),
    Slot(
        name="vg_regions",
        title="Visual Genome regions",
        # One caption per picture; the regions are what remains of the 3.20 million (SPEC 4.2).
        samples=_each(CAPTIONS, 0.11) | _each(REGIONS, 2.88),
        format="visual_genome_regions",
        files="region_descriptions.json, image_data.json, the folders VG_100K and VG_100K_2",
        obtain="homes.cs.washington.edu/~ranjay/visualgenome",
        licence="CC BY 4.0",
        captions_from="region_captions",
    ),
    Slot(
        name="vqav2",
        title="VQA v2",
        samples=_each(ANSWERS, 0.44),
        format="vqa",
        files="v2_OpenEnded_mscoco_train2014_questions.json, "
        "v2_mscoco_train2014_annotations.json, the folder train2014",
        obtain="visualqa.org/download.html; pictures from cocodataset.org",
        licence="annotations CC BY 4.0; photographs under the terms of Flickr",
    ),
    Slot(
        name="vg_qa",
        title="Visual Genome questions",
        samples=_each(ANSWERS, 1.45),
        format="visual_genome_questions",
        files="question_answers.json, image_data.json, the folders VG_100K and VG_100K_2",
        obtain="homes.cs.washington.edu/~ranjay/visualgenome",
        licence="CC BY 4.0",
    ),
    Slot(
        name="gqa",
        title="GQA (balanced)",
        samples=_each(ANSWERS, 0.94),
        format="gqa",
        files="train_balanced_questions.json and the folder images",
        obtain="cs.stanford.edu/people/dorarad/gqa/download.html",
        licence="CC BY 4.0",
    ),
    *(
        Slot(
            name=name,
            title=title,
            samples=_each(REGIONS, samples),
            format="refcoco",
            files=f"{refs}, instances.json, the folder train2014",
            obtain="github.com/lichengunc/refer; its host is often down, the Internet Archive and "
            "the released OFA files have copies",
            licence="expressions free for research; photographs under the terms of Flickr",
        )
        for name, title, samples, refs in (
            ("refcoco", "RefCOCO", 0.12, "refs(unc).p"),
            ("refcocoplus", "RefCOCO+", 0.12, "refs(unc).p"),
            ("refcocog", "RefCOCOg", 0.08, "refs(umd).p"),
        )
    ),
    Slot(
        name="openimages_boxes",
        title="Open Images, boxes",
        samples={"detection": 1.74},
        format="open_images",
        files="oidv6-train-annotations-bbox.csv, class-descriptions-boxable.csv, the folder train",
        obtain="storage.googleapis.com/openimages, or TFDS (open_images_v4), which downloads it",
        licence="annotations CC BY 4.0; photographs CC BY 2.0",
    ),
    Slot(
        name="openimages_codes",
        title="Open Images, image codes",
        # What remains of the 36.27 million (SPEC 4.2).
        samples={"image_infilling": 7.27},
        format="open_images",
        files="the same pictures; they are stored a second time, as squares with their codes",
        obtain="storage.googleapis.com/openimages, or TFDS (open_images_v4), which downloads it",
        licence="photographs CC BY 2.0",
    ),
    Slot(
        name="objects365",
        title="Objects365",
        samples={"detection": 1.74},
        format="coco_instances",
        files="zhiyuan_objv2_train.json and the folders patch0 ... patch50",
        obtain="www.objects365.org",
        licence="annotations CC BY 4.0; photographs under the terms of Flickr",
    ),
    Slot(
        name="vg_objects",
        title="Visual Genome objects",
        samples={"detection": 0.11},
        format="visual_genome_objects",
        files="objects.json, image_data.json, the folders VG_100K and VG_100K_2",
        obtain="homes.cs.washington.edu/~ranjay/visualgenome",
        licence="CC BY 4.0",
    ),
    Slot(
        name="coco_objects",
        title="COCO objects",
        samples={"detection": 0.12},
        format="coco_instances",
        files="annotations/instances_train2017.json and the folder train2017",
        obtain="cocodataset.org, 2017 train images and annotations",
        licence="annotations CC BY 4.0; photographs under the terms of Flickr",
    ),
    Slot(
        name="yfcc100m",
        title="YFCC100M subset",
        samples={"image_infilling": 14.8},
        format="webdataset",
        files="00000.tar, 00001.tar, ... with KEY.jpg",
        obtain="the list of 15 million pictures that CLIP's authors published "
        "(github.com/openai/CLIP/blob/main/data/yfcc100m.md)",
        licence="Creative Commons, each photograph its own variant",
    ),
    Slot(
        name="imagenet21k",
        title="ImageNet-21K",
        samples={"image_infilling": 14.2},
        format="webdataset",
        files="one tar per synset, n01440764.tar, ... with pictures",
        obtain="image-net.org, after registration",
        licence="non-commercial research only",
    ),
    Slot(
        name="pile",
        title="Pile, or an open stand-in",
        samples={"text_infilling": 1.0},
        format="text",
        files="00.jsonl.zst, 01.jsonl.zst, ... with a key text",
        obtain="the Pile was withdrawn; c4, wikipedia or the Common Pile will do",
        licence="that of the texts you choose",
    ),
)

for _slot in SLOTS:
    for _kind in _slot.samples:
        families.add_kind(
            f"{_slot.name}_{_kind}",
            _kind,
            PreparedSource(f"{{DATA_DIR}}/{_slot.name}"),
            first_steps=_slot.first_steps(_kind),
        )
