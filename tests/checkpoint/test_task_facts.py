"""What a checkpoint says about its task: read without running code, kept, and used."""

import argparse
import dataclasses
import enum
import functools
import json
import sys
import time
import types

import jax
import numpy as np
import pytest

from ofa_jax.checkpoint.exports import export_checkpoint, official_state_dict
from ofa_jax.checkpoint.imports import import_checkpoint
from ofa_jax.checkpoint.layout import SHARED_EMBEDDING
from ofa_jax.checkpoint.task_facts import TaskFacts, task_arguments
from ofa_jax.checkpoint.torch_writer import write_fairseq_checkpoint
from ofa_jax.model.config import HALF
from ofa_jax.model.ofa import OFA
from ofa_jax.restricted_pickle import plain_fields
from tests.checkpoint.official import SMALL, random_state_dict, replace_none

# Names and values as the official trainer stores them; "model" is a Namespace there.
TASK = {
    "_name": "image_classify",
    "data": "somewhere.tsv",
    "max_src_length": 128,
    "max_tgt_length": 30,
    "code_dict_size": 0,
    "num_bins": 20,
    "patch_image_size": 32,
    "imagenet_default_mean_and_std": True,
    "ans2label_file": None,
}
MODEL = argparse.Namespace(_name="ofa_tiny", arch="ofa_tiny", task="image_classify", lr=[1e-05])
IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}


def written(path, cfg=None, args=None, **more):
    write_fairseq_checkpoint(path, random_state_dict(), **more)
    given = {name: value for name, value in (("cfg", cfg), ("args", args)) if value is not None}
    replace_none(path, **given)
    return path


def averaged(by=1.0):
    average = {name: value + np.float32(by) for name, value in random_state_dict().items()}
    return average | dict.fromkeys(SHARED_EMBEDDING, average[SHARED_EMBEDDING[0]])


def test_a_checkpoint_keeps_its_task_through_our_directory(tmp_path):
    source = written(tmp_path / "official.pt", cfg={"task": TASK, "model": MODEL})
    lines = []
    imported = import_checkpoint(source, progress=lines.append)
    facts = TaskFacts(
        name="image_classify",
        image_size=32,
        max_source_length=128,
        max_target_length=30,
        num_codes=0,
        num_bins=20,
        **IMAGENET,
    )
    assert imported.task == facts
    assert imported.cfg == {"cfg": {"task": TASK, "model": vars(MODEL)}}
    assert any("trained for image_classify, image_size 32" in line for line in lines)
    export_checkpoint(imported, tmp_path / "ours", "orbax")
    again = import_checkpoint(tmp_path / "ours")
    assert again.task == facts
    assert again.cfg == imported.cfg
    assert again.config == imported.config
    saved = json.loads((tmp_path / "ours" / "source.json").read_text())
    assert saved["task"]["name"] == "image_classify"


def test_the_task_goes_through_a_huggingface_directory(tmp_path):
    cfg = {"task": {**TASK, "_name": "vqa_gen", "prompt_type": "prev_output"}, "model": MODEL}
    source = written(tmp_path / "official.pt", cfg=cfg, ema=averaged())
    imported = import_checkpoint(source, ema=None)
    assert imported.task.is_ema
    export_checkpoint(imported, tmp_path / "hub", "huggingface")
    lines = []
    again = import_checkpoint(tmp_path / "hub", ema=None, progress=lines.append)
    # The directory has one set of weights.
    assert again.task == dataclasses.replace(imported.task, has_ema=False, is_ema=False)
    assert again.config == imported.config
    assert again.config.image_mean == IMAGENET["image_mean"]
    assert not any("average" in line for line in lines)


def test_pixels_are_normalized_as_the_checkpoint_says(tmp_path):
    plain = {**TASK, "imagenet_default_mean_and_std": False}
    sources = {name: written(tmp_path / f"{name}.pt", cfg={"task": task, "model": MODEL})
               for name, task in (("imagenet", TASK), ("half", plain))}  # fmt: skip
    imported = {name: import_checkpoint(source) for name, source in sources.items()}
    for found in imported.values():
        # So large that images matter to a model of random weights.
        encoder = found.variables["params"]["encoder"]
        loud = jax.tree.map(lambda a: a * 20 if a.ndim == 4 else a, encoder["resnet"])
        encoder["resnet"] = loud
        encoder["image_projection"]["kernel"] *= 20
    assert imported["half"].config.image_mean == imported["half"].config.image_std == HALF
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    mean, std = (np.array(IMAGENET[name]) for name in ("image_mean", "image_std"))

    def states(name):
        apply = jax.jit(functools.partial(OFA(imported[name].config).apply, method="encode"))

        def apply_to(image):
            tokens = np.array([[1, 7, 2]], np.int32)
            batch = {"encoder_input_tokens": tokens, "encoder_images": image}
            return np.asarray(apply(imported[name].variables, batch).states)

        return apply_to

    found, half = states("imagenet")(pixels), states("half")
    # Floats are taken as normalized already.
    np.testing.assert_allclose(found, half(((pixels / 255 - mean) / std).astype("f")), atol=1e-5)
    assert np.abs(found - half((pixels / 255 * 2 - 1).astype("f"))).max() > 1e-3


def test_another_normalization_than_that_of_the_run_is_told(tmp_path):
    source = written(tmp_path / "official.pt", cfg={"task": TASK})
    lines = []
    imported = import_checkpoint(source, config=SMALL, progress=lines.append)
    assert imported.config.image_mean == HALF
    assert any("was trained with image_mean (0.485, 0.456, 0.406)" in line for line in lines)


@pytest.mark.parametrize(
    ("task", "ema", "is_taken", "told"),
    [
        ("vqa_gen", None, True, "taking the moving average"),
        ("vqa_gen", False, False, "--ema (ema=True) takes it, as the official evaluation of vqa_"),
        ("caption", None, False, "has a moving average of the weights too; --ema (ema=True)"),
        ("caption", True, True, "taking the moving average"),
    ],
)
def test_the_average_is_taken_where_the_official_scripts_evaluate_it(
    tmp_path, task, ema, is_taken, told
):
    cfg = {"task": {**TASK, "_name": task, "prompt_type": "prev_output"}}
    source = written(tmp_path / "official.pt", cfg=cfg, ema=averaged())
    lines = []
    imported = import_checkpoint(source, config=SMALL, ema=ema, progress=lines.append)
    assert (imported.task.has_ema, imported.task.is_ema) == (True, is_taken)
    assert imported.task.decoder_prompt == "source"
    expected = averaged() if is_taken else random_state_dict()
    found = official_state_dict(imported)[SHARED_EMBEDDING[0]]
    np.testing.assert_array_equal(found, expected[SHARED_EMBEDDING[0]])
    assert any(told in line for line in lines)


def test_without_an_average_the_plain_weights_are_taken(tmp_path):
    source = written(tmp_path / "official.pt", cfg={"task": {**TASK, "_name": "vqa_gen"}})
    imported = import_checkpoint(source, config=SMALL, ema=None)
    assert (imported.task.has_ema, imported.task.is_ema) == (False, False)


def test_old_files_have_one_flat_namespace(tmp_path):
    args = argparse.Namespace(
        task="refcoco", patch_image_size=512, max_image_size=256, prompt_type=None, arch="ofa_base",
        num_bins=True, max_src_length=80,
    )  # fmt: skip
    imported = import_checkpoint(written(tmp_path / "old.pt", args=args), config=SMALL)
    assert imported.cfg == {"args": vars(args)}
    assert imported.task == TaskFacts(
        name="refcoco", image_size=512, max_image_size=256, max_source_length=80
    )


def test_pretraining_has_no_image_size_and_its_own_normalization():
    cfg = {"cfg": {"task": {**TASK, "_name": "unify_task"}}}
    facts = TaskFacts.from_arguments(task_arguments(cfg))
    assert facts.name == "unify_task"
    assert facts.image_size is None
    assert facts.normalization == {}


def test_args_win_over_cfg_and_nothing_is_no_error():
    cfg = {
        "cfg": {"task": {"_name": "caption", "patch_image_size": 480}},
        "args": {"task": "ocr", "patch_image_size": 64},
    }
    facts = TaskFacts.from_arguments(task_arguments(cfg))
    assert (facts.name, facts.image_size) == ("ocr", 64)
    assert TaskFacts.from_arguments(task_arguments({})) == TaskFacts()
    assert TaskFacts.from_json({"name": "ocr", "of_a_later_version": 1}) == TaskFacts(name="ocr")


def test_choices_of_an_enum_are_their_values(tmp_path, monkeypatch):
    module = types.ModuleType("fairseq_like")
    choices = enum.Enum("Choices", {"none": "none", "src": "src"}, module=module.__name__)
    module.Choices = choices
    monkeypatch.setitem(sys.modules, module.__name__, module)
    cfg = {"task": argparse.Namespace(_name="cola", prompt_type=choices.src)}
    path = written(tmp_path / "glue.pt", cfg=cfg)
    monkeypatch.delitem(sys.modules, module.__name__)
    imported = import_checkpoint(path, config=SMALL)
    assert imported.cfg["cfg"]["task"] == {"_name": "cola", "prompt_type": "src"}
    assert imported.task.decoder_prompt == "source_and_eos"


def test_a_configuration_of_billions_of_values_is_cut():
    bomb = ["x"] * 1000
    for _ in range(8):
        bomb = [bomb] * 1000
    start = time.monotonic()
    plain_fields({"task": bomb})
    assert time.monotonic() - start < 5
