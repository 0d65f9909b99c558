"""What a data set is good for: the tasks that it can feed, and the commands that train on it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from ofa_jax.data.sources.array_record import PreparedSource
from ofa_jax.data.sources.table import TableSource
from ofa_jax.inspection.opening import OpenedData

# Type of example -> task and run file of fine-tuning on prepared data, and families of pretraining.
_FINETUNING = {"caption": "own_captioning", "visual_grounding": "own_grounding", "qa": "own_vqa"}
_PRETRAINING = {
    "caption": "captioning, image_text_matching",
    "visual_grounding": "visual_grounding, grounded_captioning",
    "qa": "vqa, image_text_matching",
    "detection": "detection",
    "image": "image_infilling (with --image_tokenizer)",
    "text": "text_infilling",
}


def advice(opened: OpenedData, kinds: Mapping[str, int]) -> list[str]:
    """Lines about the tasks of a data set, and the commands that train and evaluate on it.

    Args:
      opened: the data set.
      kinds: type of example to number.

    Returns:
      Lines; none for the embedded world, whose runs are the quickstart's.
    """
    if opened.scenes_preset:
        return []
    lines = ["", "tasks that these data can feed"]
    for kind, count in kinds.items():
        tasks = [f"fine-tuning {_FINETUNING[kind]}"] if kind in _FINETUNING else []
        if kind in _PRETRAINING:
            tasks.append(f"pretraining {_PRETRAINING[kind]}")
        words = "; ".join(tasks) or "the official task of that file, see docs/finetuning.md"
        lines.append(f"  {kind} {count:,}: {words}")
    best = max((k for k in kinds if k in _FINETUNING), key=lambda k: kinds[k], default=None)
    if best is None:
        return lines
    task = _FINETUNING[best]
    if isinstance(opened.source, PreparedSource):
        folder = opened.source.folder
    else:
        folder = f"data/{opened.name}"
        words = [f"--source={opened.format.partition(':')[0]}"]
        words += [f"--{name}={value}" for name, value in opened.facts]
        if isinstance(opened.source, TableSource):
            held_out = opened.source.held_out or opened.source.split
            words += ["--split=train,validation", *([] if held_out else ["--held_out=5"])]
        words.append(f"--out={folder}")
        lines += ["", "to prepare it", f"  python -m ofa_jax.prepare {shlex.join(words)}"]
    data = shlex.quote(f'--gin.DATA_DIR="{folder}"')
    lines += [
        "",
        "to train on it, and to evaluate",
        "  python -m ofa_jax.train --gin_file=gin_configs/models/base.gin \\",
        f"    --gin_file=gin_configs/runs/finetune/{task}.gin {data} \\",
        f"""    --gin.INITIAL_CHECKPOINT_PATH='"CHECKPOINT"' --gin.MODEL_DIR='"runs/{task}"'""",
        f"  python -m ofa_jax.eval --checkpoint=runs/{task} --task={task} --module=tasks.own \\",
        f"    --data={shlex.quote(folder)} --output=runs/{task}/evaluation",
    ]
    return lines
