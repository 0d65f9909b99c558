"""The configuration of an exported fairseq file, which official code builds task and model from."""

import argparse
import dataclasses
import json
import re

import numpy as np
import pytest

from ofa_jax.checkpoint.exports import export_checkpoint
from ofa_jax.checkpoint.fairseq_cfg import OFFICIAL_TASKS, fairseq_cfg, official_task
from ofa_jax.checkpoint.imports import ImportedCheckpoint, import_checkpoint
from ofa_jax.checkpoint.layout import SHARED_EMBEDDING
from ofa_jax.checkpoint.names import to_params
from ofa_jax.checkpoint.orbax_weights import SourceRecord
from ofa_jax.checkpoint.task_facts import TaskFacts
from ofa_jax.checkpoint.torch_archive import read_torch_file
from ofa_jax.checkpoint.torch_reader import read_torch_checkpoint
from ofa_jax.checkpoint.torch_writer import write_fairseq_checkpoint
from ofa_jax.convert import main
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.model.config import SIZES, TuningConfig
from ofa_jax.vocab import CHINESE, ENGLISH
from tests.checkpoint.official import SMALL, random_state_dict, replace_none
from tests.shared import shared_dir

TINY = SIZES["tiny"]
# What `models/ofa` of the official code reads from its arguments without a default of its own.
ARGUMENTS = re.findall(
    r"\w+",
    """
_name activation_dropout activation_fn adaptive_input adaptive_softmax_cutoff
adaptive_softmax_dropout add_type_embedding arch attention_dropout attn_scale_factor bitfit
checkpoint_activations code_image_size code_layernorm_embedding cross_self_attention
decoder_attention_heads decoder_drop_path_rate decoder_embed_dim decoder_embed_path
decoder_ffn_embed_dim decoder_input_dim decoder_layerdrop decoder_layers decoder_layers_to_keep
decoder_learned_pos decoder_normalize_before decoder_output_dim decoder_prompt decoder_prompt_dim
decoder_prompt_length decoder_prompt_projection decoder_prompt_type disable_entangle dropout
encoder_attention_heads encoder_drop_path_rate encoder_embed_dim encoder_embed_path
encoder_ffn_embed_dim encoder_layerdrop encoder_layers encoder_layers_to_keep encoder_learned_pos
encoder_normalize_before encoder_prompt encoder_prompt_dim encoder_prompt_length
encoder_prompt_projection encoder_prompt_type entangle_position_embedding freeze_decoder_embedding
freeze_encoder_embedding image_bucket_size layernorm_embedding max_source_positions
max_target_positions min_params_to_wrap no_cross_attention no_scale_embedding
no_token_positional_embeddings offload_activations orig_patch_image_size patch_image_size
patch_layernorm_embedding pooler_activation_fn pooler_classifier pooler_dropout quant_noise_pq
quant_noise_pq_block_size quant_noise_scalar relu_dropout resnet_drop_path_rate resnet_type
scale_attn scale_fc scale_heads scale_resids share_all_embeddings share_decoder_input_output_embed
sync_bn tie_adaptive_weights token_bucket_size vocab_size
""",
)
# Fields of `OFAConfig` in the official `tasks/ofa_task.py`.
COMMON = re.findall(
    r"\w+",
    """
_name data selected_cols bpe bpe_dir max_source_positions max_target_positions max_src_length
max_tgt_length code_dict_size patch_image_size orig_patch_image_size num_bins
imagenet_default_mean_and_std constraint_range
""",
)


def imported(config=SMALL, **facts) -> ImportedCheckpoint:
    record = SourceRecord("trained", "run", task=TaskFacts(**facts))
    return ImportedCheckpoint(to_params(random_state_dict(config), config), config, record)


def written(path, checkpoint, **options):
    export_checkpoint(checkpoint, path, "fairseq", **options)
    return read_torch_checkpoint(path).cfg["cfg"]


@pytest.mark.parametrize("name", OFFICIAL_TASKS)
def test_every_task_is_written_whole(name):
    cfg = fairseq_cfg(TINY, TaskFacts(), {}, name)
    task, model = cfg["task"], cfg["model"]
    assert set(task) >= set(COMMON) | set(OFFICIAL_TASKS[name])
    assert set(model) >= set(ARGUMENTS)
    assert (task["_name"], model["task"], model["_name"]) == (name, name, "ofa_tiny")
    assert (task["code_dict_size"], task["num_bins"]) == (8192, 1000)
    assert model["patch_image_size"] == task["patch_image_size"]
    for labels in filter(None, (task.get("ans2label_dict"), task.get("eval_args"))):
        assert isinstance(json.loads(labels), dict)
    json.dumps(cfg)  # plain values


def test_caption_is_what_the_official_trainer_writes():
    path = shared_dir() / "cases" / "official" / "export_cfg.json"
    if not path.is_file():
        pytest.skip("needs the cases from the field (set OFA_SHARED to their parent directory)")
    expected = json.loads(path.read_text())["cfg.task of the official trainer (caption)"]
    paths = {name: None for name, value in expected.items() if value == "..."}
    assert fairseq_cfg(TINY, TaskFacts(), {}, "caption")["task"] == expected | paths


def test_a_run_says_its_task_and_an_option_another(tmp_path, capsys):
    lines = []
    facts = {"name": "refcoco", "image_size": 64, "max_image_size": 96, "num_bins": 20}
    cfg = written(tmp_path / "a.pt", imported(**facts), progress=lines.append)
    wanted = {"_name": "refcoco", "patch_image_size": 64, "max_image_size": 96, "num_bins": 20}
    assert cfg["task"].items() >= wanted.items()
    assert (cfg["model"]["patch_image_size"], cfg["model"]["vocab_size"]) == (64, 300)
    assert "  for the official task refcoco" in lines

    cfg = written(tmp_path / "b.pt", imported(**facts), task="snli_ve")
    wanted = {"_name": "snli_ve", "patch_image_size": 480, "prompt_type": "prev_output"}
    assert cfg["task"].items() >= wanted.items()
    assert "max_image_size" not in cfg["task"]

    cfg = written(tmp_path / "c.pt", imported(), progress=lines.append)
    assert cfg["task"]["_name"] == "unify_task"
    assert "  for the official task unify_task; --task says another" in lines
    with pytest.raises(ValueError, match=r"task .*'vqa'"):
        export_checkpoint(imported(), tmp_path / "d.pt", "fairseq", task="vqa")

    export_checkpoint(imported(**facts), tmp_path / "run", "orbax")
    arguments = ["--source", tmp_path / "run", "--target", tmp_path / "e.pt"]
    arguments += ["--target_format", "fairseq", "--task", "mnli"]
    assert main([str(argument) for argument in arguments]) == 0
    task = read_torch_checkpoint(tmp_path / "e.pt").cfg["cfg"]["task"]
    assert (task["_name"], task["prompt_type"]) == ("mnli", "src")
    assert "for the official task mnli" in capsys.readouterr().out


def test_an_official_file_keeps_its_configuration(tmp_path):
    """What the trainer writes: sections of plain values, and the model as a Namespace."""
    task = {"_name": "caption", "data": "a.tsv,b.tsv", "bpe_dir": "../../utils/BPE"}
    task |= {"patch_image_size": 64, "eval_cider": True, "of_a_fork": [1, 2]}
    model = {"_name": "ofa_tiny", "arch": "ofa_tiny", "task": "caption", "lr": [1e-05]}
    model |= {"dropout": 0.1, "encoder_layers": 2, "freeze_encoder_embedding": True, "seed": 7}
    rest = {"criterion": {"_name": "scst_reward_criterion"}, "optimization": {"lr": [1e-05]}}
    path = tmp_path / "official.pt"
    write_fairseq_checkpoint(path, random_state_dict())
    replace_none(path, cfg={**rest, "task": task, "model": argparse.Namespace(**model)})
    export_checkpoint(import_checkpoint(path, config=SMALL), tmp_path / "run", "orbax")
    cfg = written(tmp_path / "back.pt", import_checkpoint(tmp_path / "run"))
    assert cfg.items() >= rest.items()
    assert cfg["task"].items() >= task.items()
    assert cfg["model"].items() >= model.items()
    assert set(cfg["model"]) >= set(ARGUMENTS)
    # Once more changes nothing.
    again = import_checkpoint(tmp_path / "back.pt", config=SMALL)
    assert written(tmp_path / "again.pt", again) == cfg
    # Another task has its own fields; those of the training that came in stay in the model's list.
    other = written(tmp_path / "other.pt", again, task="refcoco")
    assert (other["task"]["eval_acc"], other["model"]["seed"]) == (False, 7)
    assert "of_a_fork" not in other["task"]


def test_weights_decide_what_they_know():
    came_in = {"cfg": {"model": {"encoder_layers": 6, "resnet_type": "resnet101", "dropout": 0.3}}}
    model = fairseq_cfg(TINY, TaskFacts(), came_in)["model"]
    assert (model["encoder_layers"], model["resnet_type"]) == (4, "resnet50")
    assert model["dropout"] == 0.3
    tuned = TuningConfig(encoder_prefix=5, adapter_dim=16)
    model = fairseq_cfg(dataclasses.replace(TINY, tuning=tuned), TaskFacts(), {})["model"]
    assert (model["encoder_prompt"], model["encoder_prompt_length"]) == (True, 5)
    assert (model["decoder_prompt"], model["adapter"], model["adapter_dim"]) == (False, True, 16)
    imagenet = dataclasses.replace(TINY, image_mean=(0.485, 0.456, 0.406))
    fields = fairseq_cfg(imagenet, TaskFacts(), {}, "image_classify")["task"]
    assert fields["imagenet_default_mean_and_std"]
    old = {"args": {"task": "caption", "dropout": 0.2, "max_src_length": 9}}
    cfg = fairseq_cfg(TINY, TaskFacts(name="caption"), old)
    assert (cfg["model"]["dropout"], cfg["task"]["max_src_length"]) == (0.2, 9)


def test_vocabularies():
    for layout, bpe in ((ENGLISH, None), (CHINESE, "bert")):
        config = dataclasses.replace(TINY, vocab_size=layout.size, padded_vocab_size=None)
        task = fairseq_cfg(config, TaskFacts(), {}, "image_gen")["task"]
        assert task["bpe"] == bpe
        assert task["constraint_range"] == f"{layout.code_start},{layout.bin_start}"


def test_official_scripts_of_vqa_find_an_average(tmp_path):
    export_checkpoint(imported(name="vqa_gen"), tmp_path / "vqa.pt", "fairseq")
    file = read_torch_file(tmp_path / "vqa.pt")
    average, model = file["extra_state"]["ema"], file["model"]
    assert list(average) == list(model)
    assert all(average[name].shares_storage_with(model[name]) for name in SHARED_EMBEDDING)
    np.testing.assert_array_equal(
        average["encoder.layer_norm.bias"], model["encoder.layer_norm.bias"]
    )
    export_checkpoint(imported(name="caption"), tmp_path / "caption.pt", "fairseq")
    assert "ema" not in read_torch_file(tmp_path / "caption.pt")["extra_state"]


def test_tasks_of_ours_have_official_names():
    modules = ("captioning", "refcoco", "vqa", "snli_ve", "imagenet", "gigaword", "glue", "ocr")
    for module in (*modules, "image_generation", "chinese"):
        __import__(f"tasks.{module}")
    names = {
        "caption_coco": "caption",
        "refcocoplus": "refcoco",
        "vqa_open": "vqa_gen",
        "snli_ve": "snli_ve",
        "imagenet": "image_classify",
        "gigaword": "gigaword",
        "glue_sst2": "sst2",
        "ocr_cn": "ocr",
        "text_to_image": "image_gen",
    }
    found = {name: official_task(task.family for task, _ in lookup(name)) for name in names}
    assert found == names
    assert official_task(["captioning", "vqa"]) == "unify_task"
    assert official_task(["detection"]) == "unify_task"
    assert official_task(["captioning", "captioning"]) == "caption"


def test_the_help_lists_the_tasks(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert ", ".join(OFFICIAL_TASKS) in shown
