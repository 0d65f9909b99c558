"""Every fine-tuning run file, from a converted checkpoint to a submission file.

Random weights, six rows in the official format, two evaluations: the run file's settings as they
are, but for sizes.
"""

import json

import gin
import jax
import numpy as np
import pytest
from flax import traverse_util

from ofa_jax.checkpoint.fairseq_cfg import official_task
from ofa_jax.checkpoint.imports import import_checkpoint
from ofa_jax.checkpoint.orbax_weights import read_source_record
from ofa_jax.cli import entry, shell
from tests.integration import finetuning_files

SMALL = "{'inputs': 64, 'targets': 80, 'image': 32}"
# Run file -> (task, further settings).
RUNS = {
    "caption": ("caption_coco", ["--gin.trainer.LossConfig.drop_worst_after=1"]),
    "caption_encouraging": ("caption_coco", []),
    "caption_scst": ("caption_coco_scst", ["--gin.trainer.SCSTConfig.max_length=6"]),
    "caption_scst_base": (
        "caption_coco_scst",
        [
            "--gin.trainer.SCSTConfig.max_length=6",
            '--gin.trainer.SCSTConfig.sampling="random"',
        ],
    ),
    "refcoco": ("refcoco", []),
    "refcocoplus": ("refcocoplus", []),
    "refcocog_base": ("refcocog", []),
    "vqa": ("vqa", []),
    "vqa_open": ("vqa_open", []),
    "snli_ve": ("snli_ve", []),
    "imagenet": ("imagenet", []),
    "image_generation": ("text_to_image", []),
    "gigaword": ("gigaword", []),
    "ocr": ("ocr_cn", []),
    "caption_muge": ("caption_muge", []),
    "refcoco_cn": ("refcoco_cn", []),
    **{
        f"glue_{task}": (f"glue_{task}", [])
        for task in ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2")
    },
}
CHINESE = {"ocr", "caption_muge", "refcoco_cn"}
DEFAULT = {"refcoco"}
SUBMISSIONS = {"glue": "validation_predict.tsv"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """(vocabulary directory, fairseq file) by language."""
    made = {}

    def get(chinese):
        if chinese not in made:
            directory = tmp_path_factory.mktemp("chinese" if chinese else "english")
            writer = (
                finetuning_files.write_chinese_vocabulary
                if chinese
                else finetuning_files.write_vocabulary
            )
            tokenizer = writer(directory / "vocabulary")
            finetuning_files.write_checkpoint(directory / "ofa.pt", tokenizer)
            made[chinese] = directory / "vocabulary", directory / "ofa.pt", tokenizer
        return made[chinese]

    return get


def cases():
    for name in RUNS:
        marks = () if name in DEFAULT else (pytest.mark.slow,)
        yield pytest.param(name, marks=marks, id=name)


@pytest.fixture
def train(monkeypatch):
    monkeypatch.setattr(shell, "set_up_process", lambda: None)
    monkeypatch.setenv("OFA_TRACEBACK", "1")
    yield entry.run_train
    gin.clear_config()


def arguments(directory, run_files, vocabulary, checkpoint, overrides=()):
    """The command line of a small run over `directory / "data"`, into `directory / "run"`."""
    return [
        "--gin_file=gin_configs/models/nano.gin",
        *(f"--gin_file=gin_configs/runs/finetune/{name}.gin" for name in run_files),
        f"--gin.MODEL_DIR='{directory / 'run'}'",
        f"--gin.DATA_DIR='{directory / 'data'}'",
        f"--gin.VOCAB_DIR='{vocabulary}'",
        f"--gin.INITIAL_CHECKPOINT_PATH='{checkpoint}'",
        f"--gin.TASK_FEATURE_LENGTHS={SMALL}",
        "--gin_file=tests/micro.gin",
        "--gin.TRAIN_STEPS=4",
        "--gin.BATCH_SIZE=4",
        "--gin.EVAL_PERIOD=2",
        "--gin.LEARNING_RATE=1e-3",
        "--gin.WARMUP_STEPS=0",
        "--gin.train_script.train.stats_period=1",
        "--gin.inputs.DatasetConfig.num_workers=0",
        "--gin.evaluation.EvaluationConfig.batch_size=6",
        *overrides,
    ]


@pytest.mark.parametrize("name", cases())
def test_run_file_goes_from_checkpoint_to_submission(name, tmp_path, checkpoints, train):
    task, overrides = RUNS[name]
    if name == "gigaword":
        pytest.importorskip("rouge_score", reason="ROUGE needs the extra 'eval'")
    vocabulary, checkpoint, tokenizer = checkpoints(name in CHINESE)
    finetuning_files.write_data(tmp_path / "data", task)
    layout = tokenizer.layout
    if name == "image_generation":
        overrides = [
            f"--gin.trainer.LossConfig.constraint_range=({layout.code_start}, {layout.bin_start})",
            "--gin.models.OFA.code_image_size=16",
        ]
    assert train(arguments(tmp_path, [name], vocabulary, checkpoint, overrides)) == 0
    run = tmp_path / "run"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 4
    if name.startswith("caption_scst"):
        # Captions of random weights may all be worth nothing, and then nothing changes.
        assert all(line["reward"] >= 0 for line in lines if "loss" in line)
    else:
        assert len(set(losses)) == 4, "weights change"

    # The best of the two evaluations is the one that the final scores belong to.
    results = json.loads((run / "metrics.json").read_text())
    [(family, entry_of_task)] = results["tasks"].items()
    # What an exported file will say about its task.
    record = read_source_record(run)
    assert record is not None
    assert record.task.name == {"refcoco": "refcoco", "glue_rte": "rte"}.get(
        name, official_task([family])
    )
    primary = entry_of_task["primary"]
    evaluated = {
        line["step"]: line[f"eval/{family}/{primary}"]
        for line in lines
        if f"eval/{family}/{primary}" in line
    }
    assert sorted(evaluated) == [2, 4]
    assert results["run"]["best_step"] in evaluated
    assert evaluated[results["run"]["best_step"]] == max(evaluated.values())
    assert entry_of_task[primary] == pytest.approx(max(evaluated.values()), abs=1e-6)
    assert (run / f"checkpoint_{results['run']['best_step']}").is_dir()

    rows = [
        json.loads(line)
        for line in (run / "predictions" / f"{family}.jsonl").read_text().splitlines()
    ]
    assert len(rows) == finetuning_files.ROWS
    [submission] = (run / "submissions" / family).iterdir()
    if submission.suffix == ".tsv":
        table = submission.read_text().splitlines()
        assert table[0] == "index\tprediction"
        assert len(table) == finetuning_files.ROWS + 1
    else:
        entries = json.loads(submission.read_text())
        assert len(entries) == finetuning_files.ROWS
        keys = {
            "captioning": {"image_id", "caption"},
            "visual_grounding": {"uniq_id", "box"},
            "vqa": {"question_id", "answer"},
            "visual_entailment": {"uniq_id", "answer"},
            "image_classification": {"uniq_id", "answer"},
            "text_to_image": {"uniq_id", "codes", "caption"},
            "summarisation": {"hyp", "ref"},
            "ocr": {"image_id", "ocr"},
        }[family]
        assert all(set(item) == keys for item in entries)
    closed = {"vqa": {*finetuning_files.COLOURS, "yes", "no"}, "snli_ve": {"yes", "no", "maybe"}}
    if name in closed:
        assert {row["prediction_text"] for row in rows} <= closed[name]


# Method -> (run file that it goes on top of, task, part of the paths of what trains). VQA keeps a
# moving average, which must not move what is frozen.
TUNING = {
    "prefix": ("refcoco", "refcoco", "prefix/"),
    "adapter": ("refcoco", "refcoco", "adapter/"),
    "bitfit": ("refcoco", "refcoco", "/bias"),
    "lora": ("vqa", "vqa", "/lora_"),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", TUNING)
def test_tuned_parts_are_the_run_s_best_checkpoint(method, tmp_path, checkpoints, train):
    """What a tuned run writes, read on top of the base model, is what it evaluated."""
    name, task, trained = TUNING[method]
    vocabulary, checkpoint, _ = checkpoints(False)
    finetuning_files.write_data(tmp_path / "data", task)
    assert train(arguments(tmp_path, [name, f"tuning_{method}"], vocabulary, checkpoint)) == 0
    run = tmp_path / "run"
    best = import_checkpoint(run, ema=None)
    tuned = import_checkpoint(run / "tuned.safetensors")
    assert (tuned.config.tuning, tuned.config.batch_norm) == (best.config.tuning, "frozen")
    assert jax.tree.structure(tuned.variables) == jax.tree.structure(best.variables)
    jax.tree.map(np.testing.assert_array_equal, tuned.variables, best.variables)
    base = traverse_util.flatten_dict(import_checkpoint(checkpoint).variables["params"], sep="/")
    after = traverse_util.flatten_dict(tuned.variables["params"], sep="/")
    changed = {
        path for path in after if path not in base or not np.array_equal(after[path], base[path])
    }
    assert changed
    assert all(trained in path for path in changed)
    assert (run / "tuned.safetensors").stat().st_size < 0.7 * checkpoint.stat().st_size
    results = json.loads((run / "metrics.json").read_text())
    assert results["run"]["best_step"] in (2, 4)
