"""What a data set is good for: the tasks that it can feed, and the commands that train on it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.sources.table import TableSource
from ofa_jax.inspection import splits
from ofa_jax.inspection.opening import OpenedData

# Type of example -> task and run file of fine-tuning on prepared data, and families of pretraining.
_FINETUNING = {"caption": "own_captioning", "visual_grounding": "own_grounding", "qa": "own_vqa"}
# Splits that they are evaluated on, the first that is there.
_EVALUATED = ("validation", "test", "train")
_WITHOUT_EVALUATION = (
    "--gin.EVAL_PERIOD=0 --gin.evaluation.EvaluationConfig.final_num_examples=0 --gin.BEST_METRIC="
)
_PRETRAINING = {
    "caption": "captioning, image_text_matching",
    "visual_grounding": "visual_grounding, grounded_captioning",
    "qa": "vqa, image_text_matching",
    "detection": "detection",
    "image": "image_infilling (with --image_tokenizer)",
    "text": "text_infilling",
}


def advice(opened: OpenedData, types: Mapping[str, int]) -> list[str]:
    """Lines about the tasks of a data set, and the commands that train and evaluate on it.

    Args:
      types: type of example to number.

    Returns:
      Lines; none for the embedded world, whose runs are the quickstart's.
    """
    if opened.scenes_preset:
        return []
    lines = ["", "tasks that these data can feed"]
    for example_type, count in types.items():
        tasks = [f"fine-tuning {_FINETUNING[example_type]}"] if example_type in _FINETUNING else []
        if example_type in _PRETRAINING:
            tasks.append(f"pretraining {_PRETRAINING[example_type]}")
        words = "; ".join(tasks) or "the official task of that file, see docs/finetuning.md"
        lines.append(f"  {example_type} {count:,}: {words}")
    best = max((k for k in types if k in _FINETUNING), key=lambda k: types[k], default=None)
    if best is None:
        return lines
    task = _FINETUNING[best]
    if isinstance(opened.source, PreparedSource):
        directory, there = opened.source.directory, opened.splits
    else:
        directory = f"data/{opened.name}"
        commands, there = _preparations(opened, directory)
        lines += ["", "to prepare it", *commands]
    evaluated = next((one for one in _EVALUATED if one in there), opened.split)
    split = "" if evaluated == _EVALUATED[0] else f" --split={evaluated}"
    # A run evaluates on `validation`, if it has some.
    without = "" if _EVALUATED[0] in there else f" {_WITHOUT_EVALUATION}"
    data = shlex.quote(f"--gin.DATA_DIR={directory}")
    lines += [
        "",
        "to train on it, and to evaluate",
        "  python -m ofa_jax.train --gin_file=gin_configs/models/base.gin \\",
        f"    --gin_file=gin_configs/runs/finetune/{task}.gin {data} \\",
        f"    --gin.INITIAL_CHECKPOINT_PATH=CHECKPOINT --gin.MODEL_DIR=runs/{task}" + without,
        f"  python -m ofa_jax.eval --checkpoint=runs/{task} --task={task} --module=tasks.own \\",
        f"    --data={shlex.quote(directory)} --output=runs/{task}/evaluation{split}",
    ]
    return lines


def _preparations(opened: OpenedData, directory: str) -> tuple[list[str], tuple[str, ...]]:
    """Commands that prepare all splits of a data set, and these splits."""
    arguments = dict(opened.facts)
    if isinstance(opened.source, TableSource):
        found = {opened.split: arguments}
        if opened.split == "train":
            found = splits.commands(opened.source, arguments, "train")
        if list(found) == ["train"]:
            held_out = opened.source.held_out or opened.source.split
            held = {} if held_out else {"held_out": "5"}
            found = {"train,validation": {**arguments, **held}}
    else:
        found = splits.commands(opened.source, arguments, opened.split)
    commands = []
    for names, given in found.items():
        words = [f"--source={opened.format.partition(':')[0]}"]
        words += [f"--{name}={value}" for name, value in given.items()]
        words += [] if names == "train" else [f"--split={names}"]
        commands.append(f"  python -m ofa_jax.prepare {shlex.join([*words, f'--out={directory}'])}")
    return commands, tuple(name for names in found for name in names.split(","))
