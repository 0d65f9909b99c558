"""The configuration in an exported fairseq file: what official code builds task and model from.

It reads `cfg.task` and `cfg.model` of the file alone, and options such as `--model-overrides`
change only fields that are there (SPEC 2.1, 8). So both sections are written whole: what the
weights decide, then what came in with an official file, then the official values. They are plain
dicts: the official loader takes them as it takes its own `argparse.Namespace`, and torch opens
the file without running code from it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping

from ofa_jax.atomic import JsonObject
from ofa_jax.checkpoint.layout import resnet_name, vocabulary_parts
from ofa_jax.checkpoint.task_facts import PRETRAINING, TaskFacts
from ofa_jax.model.config import HALF, OFAConfig
from ofa_jax.schema import read_json
from ofa_jax.vocab import CHINESE

# Arguments of the official training scripts (SPEC 6.5, 8): those of every task, where whoever
# evaluates gives the paths; those of each task; what the model reads beside `_shape` and rates.
_OFFICIAL = read_json(pathlib.Path(__file__).with_name("official_arguments.json"), expected=dict)
OFFICIAL_TASKS: Mapping[str, JsonObject] = _OFFICIAL["tasks"]
# Family of a task of ours -> official task. Families that only pretraining has are not here.
_FAMILIES = {
    "captioning": "caption",
    "visual_grounding": "refcoco",
    "vqa": "vqa_gen",
    "visual_entailment": "snli_ve",
    "image_classification": "image_classify",
    "text_to_image": "image_gen",
    "summarisation": "gigaword",
    "ocr": "ocr",
}
# Official size by width.
_SIZES = {256: "tiny", 512: "medium", 768: "base", 1024: "large", 1280: "huge"}


def official_task(families: Iterable[str]) -> str:
    """The official name of what a run learns.

    Args:
      families: of its tasks.

    Returns:
      A key of `OFFICIAL_TASKS`; that of pretraining where tasks of several kinds are mixed.
    """
    names = {_FAMILIES.get(family, family.removeprefix("glue_")) for family in families}
    name = names.pop() if len(names) == 1 else PRETRAINING
    return name if name in OFFICIAL_TASKS else PRETRAINING


def fairseq_cfg(
    config: OFAConfig, task: TaskFacts, came_in: JsonObject, name: str = ""
) -> JsonObject:
    """The `cfg` of an exported file.

    Args:
      task: what is known about its task.
      came_in: "cfg" and "args" of the file that the weights came from, or {}.
      name: official task, where it should be another one than that of `task`.

    Returns:
      Section -> plain fields: "model", "task", and the other sections that came in.

    Raises:
      ValueError: `name` is no official task.
    """
    if name and name not in OFFICIAL_TASKS:
        raise ValueError(f"task must be one of {', '.join(OFFICIAL_TASKS)}, got {name!r}")
    cfg, args = came_in.get("cfg") or {}, came_in.get("args") or {}
    name = name or task.name or PRETRAINING
    fields = _task_fields(config, name)
    if name == task.name:
        fields |= {k: v for k, v in task.to_arguments().items() if k in fields}
        fields |= {k: v for k, v in args.items() if k in fields} | (cfg.get("task") or {})
    codes, bins = vocabulary_parts(
        config.vocab_size, {"code_dict_size": config.num_codes, "num_bins": task.num_bins}
    )
    fields |= {"_name": name, "code_dict_size": codes, "num_bins": bins}
    if name == "image_gen":
        end = config.vocab_size - bins
        fields["constraint_range"] = f"{end - codes},{end}"
    if name != PRETRAINING:
        fields["imagenet_default_mean_and_std"] = config.image_mean != HALF
    model = {**_model_fields(config), **(cfg.get("model") or {}), **args, **_shape(config)}
    # The official arguments are one flat list, of which each section keeps its own and others.
    model |= {"task": name} | {k: v for k, v in fields.items() if k != "_name"}
    return {**cfg, "model": model, "task": fields}


def _task_fields(config: OFAConfig, name: str) -> JsonObject:
    fields = {**_OFFICIAL["common"], **OFFICIAL_TASKS.get(name, {})}
    if config.vocab_size == CHINESE.size:
        fields["bpe"] = "bert"
    if name in ("image_gen", PRETRAINING):
        fields["code_image_size"] = config.code_image_size
    positions = ("max_source_positions", "max_target_positions")
    fields |= dict.fromkeys(positions, config.max_positions)
    return {**fields, "orig_patch_image_size": config.orig_patch_image_size}


def _shape(config: OFAConfig) -> JsonObject:
    """Arguments that the weights decide, whatever came in."""
    tuning = config.tuning
    fields: JsonObject = {
        "vocab_size": config.vocab_size,
        "resnet_type": resnet_name(config.resnet),
        "token_bucket_size": config.token_bucket_size,
        "image_bucket_size": config.image_bucket_size,
        "max_source_positions": config.max_positions,
        "max_target_positions": config.max_positions,
        "code_image_size": config.code_image_size,
        "orig_patch_image_size": config.orig_patch_image_size,
        "interpolate_position": config.interpolate_position,
        "scale_resids": config.scale_resids,
        "decoder_output_dim": config.width,
        "decoder_input_dim": config.width,
        "adapter": tuning.adapter_dim > 0,
        "adapter_dim": tuning.adapter_dim or 200,
    }
    for side in ("encoder", "decoder"):
        prefix = getattr(tuning, f"{side}_prefix")
        fields |= {
            f"{side}_embed_dim": config.width,
            f"{side}_ffn_embed_dim": config.ffn_width(side),
            f"{side}_attention_heads": config.num_heads,
            f"{side}_layers": getattr(config, f"{side}_layers"),
            f"{side}_prompt": prefix > 0,
            f"{side}_prompt_type": "prefix",
            f"{side}_prompt_length": prefix or 100,
            f"{side}_prompt_projection": tuning.prefix_hidden > 0,
            f"{side}_prompt_dim": tuning.prefix_hidden or 2 * config.width,
        }
    return fields


def _model_fields(config: OFAConfig) -> JsonObject:
    """Every other argument that the official model reads, with its official value."""
    size = f"ofa_{_SIZES.get(config.width, 'base')}"
    return {
        "_name": size,
        "arch": size,
        **_OFFICIAL["model"],
        "sync_bn": config.batch_norm_eps == 1e-3,  # SPEC 1.3
        "freeze_resnet": config.batch_norm == "frozen",
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "relu_dropout": config.activation_dropout,
        "encoder_drop_path_rate": config.encoder_drop_path,
        "decoder_drop_path_rate": config.decoder_drop_path,
        "resnet_drop_path_rate": config.resnet_drop_path,
    }
