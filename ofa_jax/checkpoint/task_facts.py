"""What a checkpoint says about its task, from fairseq's `cfg` or `args` (SPEC 2.1, 8).

Evaluation and inference take these as their defaults. A converted directory keeps them in
`source.json`, with the configuration that they came from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ofa_jax import schema
from ofa_jax.atomic import JsonObject
from ofa_jax.checkpoint.torch_archive import CheckpointFileError

# What the official data sets put in place of 0.5 with `imagenet_default_mean_and_std`.
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Official `prompt_type` -> the decoder prompt of `ofa_jax.data.tasks.answering`.
_DECODER_PROMPTS = {"none": "none", "prev_output": "source", "src": "source_and_eos"}
# All official scripts that evaluate this task pass --ema-eval, and no other script does.
AVERAGED = "vqa_gen"
# Its images are crops of two sizes, neither of which is a size to ask questions at.
PRETRAINING = "unify_task"


@dataclasses.dataclass(frozen=True)
class TaskFacts:
    """What is known about the task of a checkpoint; None where the checkpoint does not say.

    Attributes:
      name: official name of the task, such as "caption", "vqa_gen" or "image_classify".
      image_size: side in pixels of the square that its images are stretched to; None after
        pretraining.
      max_image_size: pixels that the last box bin stands for.
      image_mean: of normalization, where it is not 0.5.
      image_std: of normalization, where it is not 0.5.
      decoder_prompt: what the decoder reads first: "none", "source" or "source_and_eos".
      max_source_length: words or tokens of an instruction, as the task counts.
      max_target_length: words or tokens of an answer, as the task counts.
      num_codes: image codes of the vocabulary.
      num_bins: box bins of the vocabulary.
      add_object: whether questions end with the names of objects (VQA).
      add_caption: whether hypotheses come with the image's caption (SNLI-VE).
      has_ema: whether a moving average lies beside the weights.
      is_ema: whether these weights are that average.
    """

    name: str | None = None
    image_size: int | None = None
    max_image_size: int | None = None
    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    decoder_prompt: str | None = None
    max_source_length: int | None = None
    max_target_length: int | None = None
    num_codes: int | None = None
    num_bins: int | None = None
    add_object: bool | None = None
    add_caption: bool | None = None
    has_ema: bool = False
    is_ema: bool = False

    @classmethod
    def from_arguments(cls, arguments: JsonObject, **known: Any) -> TaskFacts:
        """Reads a configuration.

        Args:
          arguments: `task_arguments` of a file.
          **known: fields that stand elsewhere in the file.
        """

        def value(name: str, expected: type) -> Any:
            found = arguments.get(name)
            # True is an int, but no size.
            return found if type(found) is expected else None

        name = arguments.get("task_name")
        imagenet = arguments.get("imagenet_default_mean_and_std") is True and name != PRETRAINING
        return cls(
            name=name,
            image_size=None if name == PRETRAINING else value("patch_image_size", int),
            max_image_size=value("max_image_size", int),
            image_mean=_IMAGENET_MEAN if imagenet else None,
            image_std=_IMAGENET_STD if imagenet else None,
            decoder_prompt=_DECODER_PROMPTS.get(str(arguments.get("prompt_type"))),
            max_source_length=value("max_src_length", int),
            max_target_length=value("max_tgt_length", int),
            num_codes=value("code_dict_size", int),
            num_bins=value("num_bins", int),
            add_object=value("add_object", bool),
            add_caption=value("add_caption", bool),
            **known,
        )

    def to_arguments(self) -> dict[str, object]:
        """Official arguments of what is known, but for the task's name and its pixels' mean."""
        prompts = {ours: theirs for theirs, ours in _DECODER_PROMPTS.items()}
        found = {
            "patch_image_size": self.image_size,
            "max_image_size": self.max_image_size,
            "prompt_type": prompts.get(str(self.decoder_prompt)),
            "max_src_length": self.max_source_length,
            "max_tgt_length": self.max_target_length,
            "code_dict_size": self.num_codes,
            "num_bins": self.num_bins,
            "add_object": self.add_object,
            "add_caption": self.add_caption,
        }
        return {name: value for name, value in found.items() if value is not None}

    @property
    def is_evaluated_by_average(self) -> bool:
        """Whether the official scripts evaluate the moving average of this file."""
        return self.has_ema and self.name == AVERAGED

    @property
    def normalization(self) -> dict[str, tuple[float, float, float]]:
        """`image_mean` and `image_std` as fields of `OFAConfig`; {} where they are 0.5."""
        fields = {"image_mean": self.image_mean, "image_std": self.image_std}
        return {name: value for name, value in fields.items() if value is not None}

    def to_json(self) -> JsonObject:
        """A JSON-able dict of what is known."""
        unknown = dataclasses.asdict(TaskFacts())
        return {k: v for k, v in dataclasses.asdict(self).items() if v != unknown[k]}

    @classmethod
    def from_json(cls, fields: object, name: object = "the task") -> TaskFacts:
        """Inverse of `to_json`; fields that a later version wrote are left out.

        Args:
          fields: the parsed object.
          name: file and place, for messages.

        Raises:
          CheckpointFileError: a field is of another type.
        """
        return schema.build(cls, fields, name, CheckpointFileError, unknown="ignore")

    def __str__(self) -> str:
        """For people: "caption, image_size 480, max_target_length 20"."""
        fields = {k: v for k, v in self.to_json().items() if k not in ("name", "has_ema", "is_ema")}
        return ", ".join([self.name or "an unnamed task", *(f"{k} {v}" for k, v in fields.items())])


def task_arguments(cfg: JsonObject) -> JsonObject:
    """All scalar arguments of model and task in one dict.

    Args:
      cfg: plain fields of a file: "cfg" (sections "task", "model", ...), "args" (flat), or both.

    Returns:
      name -> scalar, with "task_name" where the task is named; the section "task" wins.
    """
    found: JsonObject = {}
    # As in the official loader, `args` wins over `cfg` where a file has both.
    for fields in (cfg.get("cfg"), cfg.get("args")):
        sections = [fields, *(fields.get(name) for name in ("model", "task"))] if fields else []
        for section in sections:
            if isinstance(section, Mapping):
                found.update({k: v for k, v in section.items() if not isinstance(v, (dict, list))})
        if sections and isinstance(task := sections[-1], Mapping) and task.get("_name"):
            found["task"] = task["_name"]
    if isinstance(name := found.pop("task", None), str):
        found["task_name"] = name
    return found
