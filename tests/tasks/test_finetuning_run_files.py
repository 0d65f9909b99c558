"""Run files against the official table of hyper-parameters (SPEC 6.5)."""

import importlib
import pathlib
import re

import gin
import pytest

from ofa_jax.cli import entry, shell
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.model.tuning import TRAINED, frozen_except

DIRECTORY = pathlib.Path(__file__).parents[2] / "gin_configs" / "runs" / "finetune"
GLUE = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2")

# Run file -> learning rate, global batch (GPUs x batch x accumulation), steps, drop path, pixels.
TABLE = {
    "caption": (1e-5, 4 * 8 * 4, 8856, 0.1, 480),
    "caption_base": (1e-5, 4 * 8 * 4, 22140, 0.1, 480),
    "caption_encouraging": (1e-5, 4 * 8 * 4, 8856, 0.1, 480),
    "caption_scst": (1e-5, 8 * 2 * 4, 5313, 0.0, 480),
    "caption_scst_base": (1e-5, 8 * 2 * 4, 5313, 0.0, 480),
    "refcoco": (3e-5, 4 * 4 * 8, 9430, 0.2, 512),
    "refcoco_base": (5e-5, 4 * 4 * 8, 9430, 0.1, 512),
    "refcocoplus": (3e-5, 4 * 4 * 8, 9390, 0.2, 512),
    "refcocog": (3e-5, 4 * 4 * 8, 6290, 0.2, 512),
    "refcocog_base": (5e-5, 4 * 4 * 8, 7548, 0.1, 512),
    "refcoco_encouraging": (3e-5, 4 * 4 * 8, 9430, 0.2, 512),
    "refcoco_prefix": (0.03, 8 * 16 * 8, 11800, 0.2, 480),
    "refcoco_adapter": (1e-4, 8 * 16 * 8, 11800, 0.2, 480),
    "refcoco_bitfit": (1e-4, 8 * 16 * 8, 11800, 0.2, 480),
    "vqa": (5e-5, 32 * 4 * 4, 40000, 0.2, 480),
    "vqa_base": (5e-5, 32 * 4 * 4, 50000, 0.1, 480),
    "snli_ve": (2e-5, 8 * 4 * 8, 12414, 0.2, 480),
    "snli_ve_base": (5e-5, 8 * 4 * 8, 10345, 0.1, 480),
    "imagenet": (5e-5, 16 * 4 * 4, 160000, 0.1, 480),
    "image_generation": (1e-3, 32 * 4 * 4, 40000, 0.1, 16),
    "gigaword": (1e-4, 4 * 64 * 2, 44580, 0.1, 16),
    "glue_cola": (5e-5, 2 * 16 * 2, 938, 0.1, 16),
    "glue_mnli": (5e-5, 8 * 8 * 4, 10738, 0.1, 16),
    "glue_rte": (5e-5, 2 * 8 * 4, 273, 0.1, 16),
}
# Run files for own data: settings of small sets, and the metric that chooses the best checkpoint.
OWN = {"own_captioning": "cider_d", "own_grounding": "accuracy_at_0.5", "own_vqa": "vqa_score"}
# What else single rows of the table say.
EXTRAS = {
    "caption": {
        "LossConfig.drop_worst_ratio": 0.2,
        "LossConfig.drop_worst_after": 2500,
        "LossConfig.label_smoothing": 0.1,
        "OptimizerConfig.frozen": ("^token_embedding",),
        "ScheduleConfig.warmup_ratio": "WARMUP_RATIO",
        "WARMUP_RATIO": 0.06,
        "EVAL_PERIOD": 500,
    },
    "caption_base": {"LossConfig.drop_worst_after": 6000},
    "caption_encouraging": {
        "LossConfig.encouraging_log_end": 0.75,
        "LossConfig.drop_worst_ratio": 0.05,
    },
    "caption_scst": {
        "Trainer.scst": "@trainer.SCSTConfig()",
        "ScheduleConfig.end": 2e-7,
        "DROPOUT_RATE": 0.0,
    },
    "caption_scst_base": {"ScheduleConfig.end": 0.0},
    "refcoco_prefix": {"Tuning.encoder_prefix": 100, "Tuning.decoder_prefix": 100},
    "refcoco_adapter": {"Tuning.adapter_dim": 100},
    "refcoco_bitfit": {"OptimizerConfig.frozen": (frozen_except("bitfit"),)},
    "vqa": {
        "EMAConfig.decay": 0.9999,
        "WARMUP_STEPS": 1000,
        "WARMUP_RATIO": 0.0,
        "EvaluationConfig.batch_size": 20,
    },
    "vqa_base": {"WARMUP_STEPS": 0, "WARMUP_RATIO": 0.04},
    "imagenet": {"OFA.image_mean": (0.485, 0.456, 0.406), "WARMUP_STEPS": 1000},
    "image_generation": {
        "LossConfig.constraint_range": (50265, 58457),
        "WARMUP_STEPS": 2000,
        "OFA.code_image_size": 256,
    },
    "gigaword": {"LossConfig.label_smoothing": 0.1},
    "glue_mnli": {"EVAL_PERIOD": 1000},
    "glue_rte": {"EVAL_PERIOD": 10},
}


@pytest.fixture
def settings(monkeypatch, capsys):
    """Settings of a run file by name, as they are printed."""
    monkeypatch.setattr(shell, "set_up_process", lambda: None)

    def read(*names):
        status = entry.run_train(
            [
                "--gin_file=gin_configs/models/large.gin",
                *(f"--gin_file=gin_configs/runs/finetune/{name}.gin" for name in names),
                "--gin.MODEL_DIR='runs/it'",
                "--gin.DATA_DIR='data'",
                "--gin.VOCAB_DIR='vocabulary'",
                "--print_config",
            ]
        )
        assert status == 0
        text = capsys.readouterr().out.replace("\\\n", " ")
        found = {}
        for line in text.splitlines():
            if match := re.fullmatch(r"([\w.]+) = (.+)", line.strip()):
                value = match[2].strip()
                found[match[1]] = value[1:] if value.startswith("%") else eval_literal(value)
        return found

    yield read
    gin.clear_config()


def eval_literal(value):
    import ast

    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def test_there_is_no_other_file_to_check():
    names = {path.stem for path in DIRECTORY.glob("*.gin")} - {"finetune"}
    # These go on top of the others.
    names -= {f"tuning_{method}" for method in TRAINED}
    others = {
        *(f"{name}_base" for name in ("refcocoplus",)),
        *(f"{name}_encouraging" for name in ("refcocoplus", "refcocog")),
        *(f"{name}_cn" for name in ("refcoco", "refcocoplus", "refcocog")),
        *(f"glue_{task}" for task in GLUE),
        "caption_muge",
        "ocr",
        "vqa_open",
        *OWN,
    }
    assert names == set(TABLE) | others


@pytest.mark.parametrize("name", TABLE)
def test_numbers_are_official(name, settings):
    found = settings(name)
    rate, batch, steps, drop_path, pixels = TABLE[name]
    assert found["LEARNING_RATE"] == rate
    assert found["BATCH_SIZE"] == batch
    assert found["TRAIN_STEPS"] == steps
    assert found["OFA.encoder_drop_path"] == found["OFA.decoder_drop_path"] == drop_path
    assert found["TASK_FEATURE_LENGTHS"]["image"] == pixels
    assert found["BEST_METRIC"]
    if "LossConfig.label_smoothing" in found:
        assert found["LossConfig.label_smoothing"] == 0.1
    for key, value in EXTRAS.get(name, {}).items():
        assert found[key] == value, key


@pytest.mark.parametrize("name", OWN)
def test_own_data_are_learnt_gently(name, settings):
    found = settings(name)
    assert found["MIXTURE_OR_TASK_NAME"] == name
    assert found["OFA.batch_norm"] == "frozen"
    assert found["BATCH_SIZE"] == 8
    assert found["EVAL_PERIOD"] == found["CHECKPOINT_PERIOD"] == 50
    assert found["TRAIN_STEPS"] % found["EVAL_PERIOD"] == 0
    assert found["LEARNING_RATE"] <= 3e-5
    assert found["BEST_METRIC"] == OWN[name]


@pytest.mark.parametrize("method", TRAINED)
def test_tuning_goes_on_top(method, settings):
    found = settings("refcoco", f"tuning_{method}")
    assert found["MIXTURE_OR_TASK_NAME"] == "refcoco"
    assert found["OptimizerConfig.frozen"] == (frozen_except(method),)
    assert found["SAVE_TRAINED"] is True
    assert found["LEARNING_RATE"] == (0.03 if method == "prefix" else found["LEARNING_RATE"])
    parts = {"prefix": "encoder_prefix", "adapter": "adapter_dim", "lora": "lora_rank"}
    if method in parts:
        assert found["OFA.tuning"] == "@models.Tuning()"
        assert found[f"Tuning.{parts[method]}"] == {"lora": 8}.get(method, 100)


@pytest.mark.parametrize("name", sorted(path.stem for path in DIRECTORY.glob("*.gin")))
def test_every_file_names_a_task(name, settings):
    if name == "finetune" or name.startswith("tuning_"):
        return
    found = settings(name)
    importlib.import_module(found["MIXTURE_OR_TASK_MODULE"])
    [(task, _)] = lookup(found["MIXTURE_OR_TASK_NAME"])
    if task.answering.decoder_prompt != "none":
        lengths = found["TASK_FEATURE_LENGTHS"]
        assert lengths["targets"] >= lengths["inputs"]
