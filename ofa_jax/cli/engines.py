"""The two engines' gin files: telling them apart, and the names of settings in both."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ofa_jax import bundled

# t5x's files import what they configure, or include one that does; the native runner's names are
# always there.
_OF_T5X = re.compile(
    r"^\s*(from t5x\b|import t5x\b|(from|import) ofa_jax\.t5x\b|import __main__\b"
    r"|include\s+.gin_configs/t5x/)",
    re.MULTILINE,
)
_OF_NATIVE = re.compile(
    r"^(train_script\.|MODEL\s*=\s*@models\.\w+\(\)|include\s+.gin_configs/native/)", re.MULTILINE
)

MESH = "partitioning.Partitioner.mesh, for example 'data=-1,model=4'"
_ALONE = "nothing: only python -m ofa_jax.train has it"
_OF_MODEL = ("optimizer", "trainer")
# What the native runner calls a setting (or all settings of a name) -> what t5x does.
_UNDER_T5X = {
    # Ours, which t5x's class of the name has not.
    "utils.DatasetConfig": "inputs.DatasetConfig",
    "checkpoints.CheckpointConfig.period": "CHECKPOINT_PERIOD",
    "checkpoints.CheckpointConfig.keep": "KEEP_CHECKPOINTS",
    "checkpoints.CheckpointConfig.initial_path": "INITIAL_CHECKPOINT_PATH",
    "checkpoints.CheckpointConfig": "CHECKPOINT_PERIOD and KEEP_CHECKPOINTS, in capitals",
    **dict.fromkeys(("log.LogConfig", "train_script.train.log_cfg"), _ALONE),
    "evaluation.LossEvaluationConfig": "train_script.train.train_eval_dataset_cfg",
    "train_script.train.loss_evaluation_cfg": "train_script.train.train_eval_dataset_cfg",
    "train_script.train": "train, as in --gin.train.eval_period=100",
    **{f"train_script.train.{name}": f"models.OFAModel.{name}" for name in _OF_MODEL},
    # t5x's own, where `partitioning` is ours.
    "partitioning.PjitPartitioner": MESH,
    **{f"partitioning.{one}Partitioner.num_partitions": MESH for one in ("", "Mesh")},
}
_UNDER_NATIVE = {
    "utils.DatasetConfig": "inputs.DatasetConfig",
    "utils.create_learning_rate_scheduler": "optimizers.ScheduleConfig",
    "utils.CheckpointConfig": "checkpoints.CheckpointConfig",
    "utils.SaveCheckpointConfig": "checkpoints.CheckpointConfig",
    "utils.RestoreCheckpointConfig": "checkpoints.CheckpointConfig.initial_path",
    "train_script.train.train_eval_dataset_cfg": "train_script.train.loss_evaluation_cfg",
    **{f"models.OFAModel.{name}": f"train_script.train.{name}" for name in _OF_MODEL},
    "trainer.StepTrainer": "trainer.Trainer",
    "trainer.Trainer.learning_rate_fn": "optimizers.ScheduleConfig",
    "partitioning.PjitPartitioner": MESH,
    "partitioning.MeshPartitioner": "partitioning.Partitioner",
    "partitioning.Partitioner.num_partitions": MESH,
}
# What both engines once called a setting -> what it is called.
_OF_LOSS = "label_smoothing drop_worst_ratio drop_worst_after encouraging_log_end constraint_range"
_RENAMED = {
    "SEED": "RANDOM_SEED",
    "CHECKPOINT": "CHECKPOINT_PATH",
    "OUTPUT_DIR": "EVAL_OUTPUT_DIR (of eval) or INFER_OUTPUT_DIR (of infer)",
    "utils.EvaluationConfig": "evaluation.EvaluationConfig",
    "utils.LossEvaluationConfig": "evaluation.LossEvaluationConfig",
    "utils.LogConfig": "log.LogConfig",
    "train_script.train.locations": "inputs.DatasetConfig.locations",
    "models.OFAModel.locations": "inputs.DatasetConfig.locations",
    **{f"trainer.Trainer.{name}": f"trainer.LossConfig.{name}" for name in _OF_LOSS.split()},
    "trainer.Trainer.loss_normalisation": "trainer.LossConfig.normalization",
    "trainer.LossConfig.normalisation": "trainer.LossConfig.normalization",
    "trainer.Trainer.ema_decay": "trainer.EMAConfig.decay",
    "trainer.Trainer.objective": "trainer.Trainer.scst = @trainer.SCSTConfig()",
    "trainer.Trainer.scst_samples": "trainer.SCSTConfig.samples",
    "trainer.Trainer.scst_sampling": "trainer.SCSTConfig.sampling",
}


def is_of_t5x(text: str) -> bool:
    """Whether the text of a gin file is for t5x's scripts."""
    return _OF_T5X.search(text) is not None


def check_files(files: Sequence[str], engine: str) -> None:
    """Checks that gin files are for an engine; those of models and runs are for both.

    Args:
      files: as given, in their order.
      engine: "native" or "t5x".

    Raises:
      ValueError: no such file, a file of the other engine, or t5x without a file of its own before
        the others.
    """
    texts = [bundled.gin_file(file).read_text("utf-8", errors="replace") for file in files]
    for file, text in zip(files, texts, strict=True):
        of = "t5x" if is_of_t5x(text) else "native" if _OF_NATIVE.search(text) else engine
        if of != engine:
            raise ValueError(
                f"{file} is a gin file of the engine {of}: give --engine={of}, or take one of "
                f"gin_configs/{'t5x' if engine == 't5x' else 'runs'}"
            )
    if engine == "t5x" and not is_of_t5x(texts[0]):
        raise ValueError(
            f"--engine=t5x: the first gin file is gin_configs/t5x/train.gin, not {files[0]}"
        )


def hint(name: str, *, t5x: bool) -> str:
    """What a setting of the other engine is called under this one.

    Args:
      name: such as "utils.EvaluationConfig.batch_size" or "CHECKPOINT_PERIOD"; "" has no hint.
      t5x: whether t5x's scripts read the file; else the native runner.
    """
    here, table = ("t5x", _UNDER_T5X) if t5x else ("python -m ofa_jax.train", _UNDER_NATIVE)
    table = _RENAMED | table
    words = name.split(".")  # A package may stand before the two that count.
    for start in range(len(words)):
        for end in range(len(words), start, -1):
            found = table.get(".".join(words[start:end]))
            if found is not None:
                rest = words[end:] if "." in found and " " not in found and end - start == 2 else []
                return f" Under {here} it is {'.'.join((found, *rest))}."
    return ""
