"""The configuration in an exported fairseq file: what official code builds task and model from.

It reads `cfg.task` and `cfg.model` of the file alone, and options such as `--model-overrides`
change only fields that are there (SPEC 2.1, 8). So both sections are written whole: what the
weights decide, then what came in with an official file, then the official values. They are plain
dicts: the official loader takes them as it takes its own `argparse.Namespace`, and torch opens
the file without running code from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ofa_jax.checkpoint.layout import resnet_name, vocabulary_parts
from ofa_jax.checkpoint.task_facts import PRETRAINING, TaskFacts
from ofa_jax.model.config import HALF, OFAConfig
from ofa_jax.vocab import CHINESE

# Fields of every official task. Paths are given by whoever evaluates.
_COMMON = {
    **dict.fromkeys(("data", "selected_cols", "bpe", "bpe_dir", "constraint_range")),
    "imagenet_default_mean_and_std": False,
    "max_src_length": 128,
    "max_tgt_length": 30,
    "patch_image_size": 480,
}
_SHORT = {"max_src_length": 80, "max_tgt_length": 20}
_SCST = {"scst": False, "scst_args": "{}"}
_GENERATED = {"eval_args": "{}", "eval_print_samples": False}
_QUESTION = {"valid_batch_size": 20, "prompt_type": "prev_output"}
_YES_OR_NO = '{"no": 0, "yes": 1}'


def _glue(columns: str, labels: str = _YES_OR_NO) -> dict[str, Any]:
    fields = {"selected_cols": columns, "max_src_length": 512, "prompt_type": "src"}
    return {**fields, "ans2label_dict": labels}


# Official task -> its own fields, with the values of the official training scripts (SPEC 6.5, 8).
OFFICIAL_TASKS: Mapping[str, Mapping[str, Any]] = {
    "caption": {
        **_SHORT,
        **_GENERATED,
        **_SCST,
        "selected_cols": "0,4,2",
        "eval_bleu": False,
        "eval_cider": False,
        "eval_cider_cached_tokens": None,
    },
    "refcoco": {
        **_SHORT,
        **_GENERATED,
        **_SCST,
        "selected_cols": "0,4,2,3",
        "patch_image_size": 512,
        "max_image_size": 512,
        "eval_acc": False,
    },
    "vqa_gen": {
        **_QUESTION,
        "selected_cols": "0,5,2,3,4",
        "max_src_length": 80,
        "max_object_length": 30,
        "add_object": True,
        "ans2label_dict": _YES_OR_NO,
        "ans2label_file": None,
        "unconstrained_training": False,
        "uses_ema": False,
        "val_inference_type": "allcand",
        "eval_args": '{"beam":5,"unnormalized":true,"temperature":1.0}',
    },
    "snli_ve": {
        **_SHORT,
        **_QUESTION,
        "selected_cols": "0,2,3,4,5",
        "add_caption": True,
        "ans2label_dict": '{"no": 0, "yes":1, "maybe": 2}',
    },
    "image_classify": {
        "selected_cols": "0,2",
        "ans2label_dict": _YES_OR_NO,
        "ans2label_file": None,
        "valid_batch_size": 20,
        "uses_ema": False,
    },
    "image_gen": {
        **_SCST,
        "selected_cols": "0,2,1",
        "max_src_length": 64,
        "max_tgt_length": 1024,
        "sampling_times": 1,
        "eval_clip_method": "ti_sim",
        "eval_args": "{}",
        "gen_images_path": "",
        **dict.fromkeys(("vqgan_model_path", "vqgan_config_path", "clip_model_path")),
    },
    "gigaword": {
        **_GENERATED,
        "selected_cols": "0,1",
        "max_src_length": 512,
        "max_tgt_length": 64,
        "eval_rouge": False,
        "eval_detok": "space",
        "eval_detok_args": "{}",
        "noise_ratio": 0.2,
    },
    "ocr": {"selected_cols": "0,1,2", "is_document": False, "eval_args": "{}"},
    "cola": _glue("1,2"),
    "mnli": _glue("0,1,2", '{"maybe": 0, "yes": 1, "no": 2}'),
    "mrpc": _glue("0,1,2"),
    "qnli": _glue("1,2,3"),
    "qqp": _glue("3,4,5"),
    "rte": _glue("1,2,3"),
    "sst2": _glue("0,1", '{"negative": 0, "positive":1}'),
    PRETRAINING: {
        "selected_cols": "0,1,2,3,4,5,6,7",
        "max_src_length": 80,
        "patch_image_size": 384,
        "max_image_size": 512,
        **dict.fromkeys(("text_data", "image_data", "detection_data", "neg_sample_dir")),
        "text_selected_cols": "0,1",
        "image_selected_cols": "0,1,2",
        "detection_selected_cols": "0,1,2",
        "pretrain_seed": 7,
        "mask_ratio": 0.3,
        "random_ratio": 0.0,
        "keep_ratio": 0.0,
        "replace_length": 1,
        "mask_length": "span-poisson",
        "poisson_lambda": 3.0,
    },
}
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
    config: OFAConfig, task: TaskFacts, came_in: Mapping[str, Any], name: str = ""
) -> dict[str, Any]:
    """The `cfg` of an exported file.

    Args:
      config: the model.
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


def _task_fields(config: OFAConfig, name: str) -> dict[str, Any]:
    fields = {**_COMMON, **OFFICIAL_TASKS.get(name, {})}
    if config.vocab_size == CHINESE.size:
        fields["bpe"] = "bert"
    if name in ("image_gen", PRETRAINING):
        fields["code_image_size"] = config.code_image_size
    positions = ("max_source_positions", "max_target_positions")
    fields |= dict.fromkeys(positions, config.max_positions)
    return {**fields, "orig_patch_image_size": config.orig_patch_image_size}


def _shape(config: OFAConfig) -> dict[str, Any]:
    """Arguments that the weights decide, whatever came in."""
    tuning = config.tuning
    fields: dict[str, Any] = {
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


def _model_fields(config: OFAConfig) -> dict[str, Any]:
    """Every other argument that the official model reads, with its official value."""
    size = f"ofa_{_SIZES.get(config.width, 'base')}"
    on = (
        *("share_all_embeddings", "share_decoder_input_output_embed", "layernorm_embedding"),
        *("patch_layernorm_embedding", "code_layernorm_embedding", "add_type_embedding"),
        *("scale_attn", "scale_fc", "scale_heads", "disable_entangle", "no_scale_embedding"),
        *("encoder_normalize_before", "decoder_normalize_before"),
        *("encoder_learned_pos", "decoder_learned_pos"),
    )
    off = (
        *("adaptive_input", "bitfit", "checkpoint_activations", "cross_self_attention"),
        *("entangle_position_embedding", "freeze_decoder", "freeze_decoder_embedding"),
        *("freeze_encoder", "freeze_encoder_embedding", "no_cross_attention"),
        *("no_token_positional_embeddings", "offload_activations", "tie_adaptive_weights"),
    )
    absent = (
        *("adaptive_softmax_cutoff", "decoder_embed_path", "decoder_layers_to_keep"),
        *("encoder_embed_path", "encoder_layers_to_keep", "resnet_model_path"),
    )
    zero = (
        *("adaptive_softmax_dropout", "decoder_layerdrop", "encoder_layerdrop", "pooler_dropout"),
        *("quant_noise_pq", "quant_noise_scalar"),
    )
    return {
        "_name": size,
        "arch": size,
        **dict.fromkeys(on, True),
        **dict.fromkeys(off, False),
        **dict.fromkeys(absent),
        **dict.fromkeys(zero, 0),
        "activation_fn": "gelu",
        "pooler_activation_fn": "tanh",
        "pooler_classifier": "mlp",
        "attn_scale_factor": 2,
        "quant_noise_pq_block_size": 8,
        "min_params_to_wrap": 100_000_000,
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
