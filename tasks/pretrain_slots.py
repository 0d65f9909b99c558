"""The pretraining tasks over prepared data: one slot per data set of the OFA paper (SPEC 4.2).

A slot is a directory `{DATA_DIR}/<slot>/` that `python -m ofa_jax.prepare` fills; its record here
says what belongs into it and where a person gets it. Each slot gives the tasks `<slot>_<family>`,
such as `cc12m_captioning`. docs/data.md has the commands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.steps import Step
from ofa_jax.data.steps.selection import CaptionsFrom, NameDataset
from ofa_jax.data.steps.text import PlainAnswers

from . import families

CAPTIONS = ("captioning", "image_text_matching")
ANSWERS = ("vqa", "answer_matching")
REGIONS = ("visual_grounding", "grounded_captioning")
# Arguments of formats that name files and directories.
_PATHS = ("paths", "questions", "annotations", "refs", "instances", "boxes", "classes", "images")


@dataclasses.dataclass(frozen=True)
class DataSlot:
    """A place for one data set.

    Attributes:
      name: directory below `DATA_DIR`, and the beginning of the names of its tasks.
      title: as people call it.
      samples: family (key of `tasks.families.FAMILIES`) to its samples in millions. They divide
        a family's rate among its slots and are published sizes, rounded; where SPEC 4.2 has a sum
        and the others are known, what remains.
      format: of `ofa_jax.prepare`, for what people usually have on disk.
      arguments: of the format, for files in a directory `raw`.
      obtain: where it comes from.
      licence: a hint, not advice; look before you train.
      captions_from: field whose texts serve as captions.
    """

    name: str
    title: str
    samples: Mapping[str, float]
    format: str
    arguments: Mapping[str, str]
    obtain: str
    licence: str
    captions_from: str = "captions"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the registered tasks."""
        return tuple(f"{self.name}_{family}" for family in self.samples)

    @property
    def files(self) -> tuple[str, ...]:
        """What lies on disk before preparation: files and directories, `*` for several."""
        paths = (self.arguments[name] for name in _PATHS if name in self.arguments)
        return tuple(path for words in paths for path in words.split(","))

    @property
    def command(self) -> tuple[str, ...]:
        """Words of the command that fills the slot in a directory `data` from one called `raw`."""
        codes = ("--image_tokenizer=raw/codebook.npz",) if "image_infilling" in self.samples else ()
        return (
            *("python", "-m", "ofa_jax.prepare", f"--source={self.format}"),
            *(f"--{name}={value}" for name, value in self.arguments.items()),
            *codes,
            f"--out=data/{self.name}",
        )

    def first_steps(self, family: str) -> tuple[Step, ...]:
        """Steps that bring a record into the form that the chain of a family reads."""
        named = (NameDataset(self.name),)
        if family in CAPTIONS and self.captions_from != "captions":
            return (*named, CaptionsFrom(self.captions_from))
        return (*named, PlainAnswers()) if family in ANSWERS else named


def _each(names: tuple[str, ...], samples: float) -> dict[str, float]:
    return dict.fromkeys(names, samples)


_VISUAL_GENOME_IMAGES = "raw/visual_genome/VG_100K,raw/visual_genome/VG_100K_2"

SLOTS = (
    DataSlot(
        name="cc12m",
        title="Conceptual 12M",
        samples=_each(CAPTIONS, 12.4),
        format="webdataset",
        arguments={"paths": "raw/cc12m/*.tar"},
        obtain="the list of addresses from github.com/google-research-datasets/conceptual-12m, "
        "downloaded with img2dataset --output_format webdataset",
        licence="the list is free to use; each image has its own owner",
    ),
    DataSlot(
        name="cc3m",
        title="Conceptual Captions 3M",
        samples=_each(CAPTIONS, 3.3),
        format="webdataset",
        arguments={"paths": "raw/cc3m/*.tar"},
        obtain="Train_GCC-training.tsv from ai.google.com/research/ConceptualCaptions, downloaded "
        "with img2dataset --output_format webdataset",
        licence="the list is free to use; each image has its own owner",
    ),
    DataSlot(
        name="sbu",
        title="SBU Captioned Photos",
        samples=_each(CAPTIONS, 1.0),
        format="webdataset",
        arguments={"paths": "raw/sbu/*.tar"},
        obtain="sbu-captions-all.json from www.cs.rice.edu/~vo9/sbucaptions, downloaded with "
        "img2dataset --output_format webdataset",
        licence="photographs of Flickr members, each with its own licence",
    ),
    DataSlot(
        name="coco_captions",
        title="COCO captions",
        samples=_each(CAPTIONS, 0.57),
        format="coco_captions",
        arguments={
            "annotations": "raw/coco/annotations/captions_train2014.json",
            "images": "raw/coco/train2014",
        },
        obtain="cocodataset.org, 2014 train images and annotations",
        licence="annotations CC BY 4.0; photographs under the terms of Flickr",
    ),
    DataSlot(
        name="vg_regions",
        title="Visual Genome regions",
        # One caption per image; the regions are what remains of the 3.20 million (SPEC 4.2).
        samples=_each(CAPTIONS, 0.11) | _each(REGIONS, 2.88),
        format="visual_genome_regions",
        arguments={
            "annotations": "raw/visual_genome/region_descriptions.json",
            "images": _VISUAL_GENOME_IMAGES,
        },
        obtain="homes.cs.washington.edu/~ranjay/visualgenome",
        licence="CC BY 4.0",
        captions_from="region_captions",
    ),
    DataSlot(
        name="vqav2",
        title="VQA v2",
        samples=_each(ANSWERS, 0.44),
        format="vqa",
        arguments={
            "questions": "raw/vqa/v2_OpenEnded_mscoco_train2014_questions.json",
            "annotations": "raw/vqa/v2_mscoco_train2014_annotations.json",
            "images": "raw/coco/train2014",
        },
        obtain="visualqa.org/download.html; images from cocodataset.org",
        licence="annotations CC BY 4.0; photographs under the terms of Flickr",
    ),
    DataSlot(
        name="vg_qa",
        title="Visual Genome questions",
        samples=_each(ANSWERS, 1.45),
        format="visual_genome_questions",
        arguments={
            "annotations": "raw/visual_genome/question_answers.json",
            "images": _VISUAL_GENOME_IMAGES,
        },
        obtain="homes.cs.washington.edu/~ranjay/visualgenome",
        licence="CC BY 4.0",
    ),
    DataSlot(
        name="gqa",
        title="GQA (balanced)",
        samples=_each(ANSWERS, 0.94),
        format="gqa",
        arguments={
            "questions": "raw/gqa/train_balanced_questions.json",
            "images": "raw/gqa/images",
        },
        obtain="cs.stanford.edu/people/dorarad/gqa/download.html",
        licence="CC BY 4.0",
    ),
    *(
        DataSlot(
            name=name,
            title=title,
            samples=_each(REGIONS, samples),
            format="refcoco",
            arguments={
                "refs": f"raw/{name}/{refs}",
                "instances": f"raw/{name}/instances.json",
                "images": "raw/coco/train2014",
            },
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
    DataSlot(
        name="openimages_boxes",
        title="Open Images, boxes",
        samples={"detection": 1.74},
        format="open_images",
        arguments={
            "boxes": "raw/openimages/oidv6-train-annotations-bbox.csv",
            "classes": "raw/openimages/class-descriptions-boxable.csv",
            "images": "raw/openimages/train",
        },
        obtain="storage.googleapis.com/openimages, or TFDS (open_images_v4), which downloads it",
        licence="annotations CC BY 4.0; photographs CC BY 2.0",
    ),
    DataSlot(
        name="openimages_codes",
        title="Open Images, image codes",
        # What remains of the 36.27 million (SPEC 4.2).
        samples={"image_infilling": 7.27},
        format="webdataset",
        arguments={"paths": "raw/openimages/*.tar", "kind": "image"},
        obtain="train_0.tar.gz ... train_f.tar.gz of github.com/cvdfoundation/open-images-dataset, "
        "unpacked with gunzip to tars",
        licence="photographs CC BY 2.0",
    ),
    DataSlot(
        name="objects365",
        title="Objects365",
        samples={"detection": 1.74},
        format="coco_instances",
        arguments={
            "annotations": "raw/objects365/zhiyuan_objv2_train.json",
            "images": "raw/objects365/train",
        },
        obtain="www.objects365.org",
        licence="annotations CC BY 4.0; photographs under the terms of Flickr",
    ),
    DataSlot(
        name="vg_objects",
        title="Visual Genome objects",
        samples={"detection": 0.11},
        format="visual_genome_objects",
        arguments={
            "annotations": "raw/visual_genome/objects.json",
            "images": _VISUAL_GENOME_IMAGES,
        },
        obtain="homes.cs.washington.edu/~ranjay/visualgenome",
        licence="CC BY 4.0",
    ),
    DataSlot(
        name="coco_objects",
        title="COCO objects",
        samples={"detection": 0.12},
        format="coco_instances",
        arguments={
            "annotations": "raw/coco/annotations/instances_train2017.json",
            "images": "raw/coco/train2017",
        },
        obtain="cocodataset.org, 2017 train images and annotations",
        licence="annotations CC BY 4.0; photographs under the terms of Flickr",
    ),
    DataSlot(
        name="yfcc100m",
        title="YFCC100M subset",
        samples={"image_infilling": 14.8},
        format="webdataset",
        arguments={"paths": "raw/yfcc100m/*.tar", "kind": "image"},
        obtain="the list of 15 million images that CLIP's authors published "
        "(github.com/openai/CLIP/blob/main/data/yfcc100m.md)",
        licence="Creative Commons, each photograph its own variant",
    ),
    DataSlot(
        name="imagenet21k",
        title="ImageNet-21K",
        samples={"image_infilling": 14.2},
        format="webdataset",
        arguments={"paths": "raw/imagenet21k/*.tar", "kind": "image"},
        obtain="image-net.org, after registration",
        licence="non-commercial research only",
    ),
    DataSlot(
        name="pile",
        title="Pile, or an open stand-in",
        samples={"text_infilling": 1.0},
        format="text",
        arguments={"paths": "raw/pile/*.jsonl.zst"},
        obtain="the Pile was withdrawn; c4, wikipedia or the Common Pile will do",
        licence="that of the texts you choose",
    ),
)

for _slot in SLOTS:
    for _family in _slot.samples:
        families.add_of_family(
            f"{_slot.name}_{_family}",
            _family,
            PreparedSource(f"{{DATA_DIR}}/{_slot.name}"),
            first_steps=_slot.first_steps(_family),
        )
