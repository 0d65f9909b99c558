"""A checkpoint is data: nothing that a run's directory names is imported, whoever asks for it."""

import json
import sys

import gin
import pytest

import ofa_jax
from ofa_jax.checkpoint.exports import export_checkpoint
from ofa_jax.checkpoint.imports import ImportedCheckpoint
from ofa_jax.checkpoint.names import to_params
from ofa_jax.checkpoint.orbax_weights import SourceRecord
from ofa_jax.checkpoint.task_facts import TaskFacts
from ofa_jax.cli import inference, shell
from ofa_jax.evaluation.evaluate import _lengths
from ofa_jax.inference.predictor import OFAPredictor
from ofa_jax.inference.questions import Prediction
from ofa_jax.inference.weights import trained_cards
from tests.checkpoint.official import random_state_dict
from tests.integration import finetuning_files

HOSTILE = """
MIXTURE_OR_TASK_MODULE = ('mixtures.scenes', 'planted')
MIXTURE_OR_TASK_NAME = 'planted_task'
TASK_FEATURE_LENGTHS = {'inputs': 30, 'targets': 20, 'image': 32}
evaluation.EvaluationConfig.image_tokenizer = 'planted:make'
eval_script.evaluate.extractors = 'planted:make'
import planted
include 'planted.gin'
"""
CARD = {
    "name": "planted_task",
    "family": "planted",
    "instruction": "[IMAGE:image] what? -> [TEXT:answer]",
    "task_feature_lengths": {"inputs": 30, "targets": 20, "image": 32},
    "answering": {"answers": None, "clean": None},
    "text_steps": [],
}


@pytest.fixture
def model(tmp_path):
    """The directory of a model, without a run."""
    directory = tmp_path / "model"
    tokenizer = finetuning_files.write_vocabulary(directory)
    config = finetuning_files.small_config(tokenizer)
    variables = to_params(random_state_dict(config), config)
    record = SourceRecord("initialized", "random")
    export_checkpoint(ImportedCheckpoint(variables, config, record), directory, "orbax")
    return directory


@pytest.fixture
def planted(model, monkeypatch, tmp_path):
    """A module in the directory, which can be imported, and says so when it is."""
    (model / "planted.py").write_text("raise SystemExit('planted code has run')\n")
    monkeypatch.syspath_prepend(model)
    monkeypatch.chdir(tmp_path)
    yield model
    assert "planted" not in sys.modules


@pytest.fixture
def command(monkeypatch, capsys):
    monkeypatch.setattr(shell, "set_up_process", lambda: None)
    for name in ("OFA_TRACEBACK", "OFA_VOCAB_DIR", "OFA_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    asked = []

    def answer(self, questions, task, **options):
        asked.append((task, self.cards, self.image_size))
        return [Prediction("yes", None, -1.0, (7,))]

    monkeypatch.setattr(OFAPredictor, "answer", answer)

    def run(function, *arguments):
        status = function([str(argument) for argument in arguments])
        return status, asked, capsys.readouterr().err

    yield run
    gin.clear_config()


IMPORTING = {
    "clean": {"answering": {"answers": None, "clean": "planted.make"}},
    "clean, whole": {"answering": {"answers": None, "clean": "planted:make"}},
    "step": {"text_steps": [{"step": "planted.Step"}]},
    "step with clean": {"text_steps": [{"step": "CleanText", "field": "a", "clean": "planted"}]},
    "private": {"answering": {"answers": None, "clean": "__loader__"}},
    "lengths": {"task_feature_lengths": {"inputs": 10**9, "targets": 20, "image": 32}},
    "endless": {"task_feature_lengths": {"inputs": 1e999, "targets": 20, "image": 32}},
    "other lengths": {"task_feature_lengths": {"inputs": 3}},
}


@pytest.mark.parametrize("change", IMPORTING)
def test_a_card_names_no_code(planted, change):
    (planted / "config.json").write_text(json.dumps({"tasks": [CARD | IMPORTING[change]]}))
    with pytest.raises(ValueError, match=r"config\.json .*not describe"):
        trained_cards(str(planted))


def test_no_command_imports_what_a_directory_names(planted, command):
    (planted / "config.gin").write_text(HOSTILE)
    assert ofa_jax.load(planted).cards == ()
    image = planted / "a.png"
    image.write_bytes(finetuning_files.picture("red"))
    common = (f"--checkpoint={planted}", f"--image={image}")
    status, asked, text = command(inference.run_infer, *common)
    assert (status, asked[-1][0]) == (0, ""), text
    arguments = (f"--checkpoint={planted}", "--task=planted_task", f"--output={planted / 'o'}")
    status, _, text = command(inference.run_eval, *arguments)
    assert status == 2
    assert "no task or mixture named 'planted_task'" in text
    # Named by the user, it is: that is what the option is for.
    with pytest.raises(SystemExit, match="planted code has run"):
        command(inference.run_infer, *common, "--task=planted_task", "--module=planted")


def test_a_task_of_a_module_that_the_user_names(model, command, tmp_path):
    image = tmp_path / "a.png"
    image.write_bytes(finetuning_files.picture("red"))
    common = (f"--checkpoint={model}", f"--image={image}")
    status, asked, text = command(
        inference.run_infer, *common, "--task=scenes_vqa", "--module=mixtures.scenes"
    )
    assert status == 0, text
    task, [card], side = asked[-1]
    assert (task, card.name, card.family) == ("scenes_vqa", "scenes_vqa", "vqa")
    assert card.lengths == {"inputs": 256, "targets": 256, "image": side}
    for arguments, message in (
        (("--task=scenes_vqaa", "--module=mixtures.scenes"), "--task: no task or mixture named"),
        (("--module=mixtures.scenes",), "--module registers tasks; name one by --task"),
        (("--task=a", "--module=mixtures.scnes"), "--module: no module 'mixtures.scnes'"),
    ):
        status, _, text = command(inference.run_infer, *common, *arguments)
        assert status == 2
        assert message in text


def test_lengths_follow_from_what_a_file_says_of_its_task(tmp_path):
    config = finetuning_files.small_config(finetuning_files.write_vocabulary(tmp_path))

    def found(given, **facts):
        record = SourceRecord("fairseq", "a.pt", task=TaskFacts(**facts))
        return _lengths(given, str(tmp_path / "a.pt"), ImportedCheckpoint({}, config, record))

    most = config.max_positions
    facts = {"image_size": 48, "max_source_length": 10, "max_target_length": 5}
    assert found(None, **facts) == {"image": 48, "inputs": min(52, most), "targets": 12}
    assert found({"image": 32}, **facts)["image"] == 32
    assert found(None, decoder_prompt="source", **facts)["targets"] == min(
        12 + min(52, most), most + 1
    )
    given = {"inputs": 8, "targets": 4}
    assert found(given, image_size=48) == given | {"image": 48}
    with pytest.raises(ValueError, match=r"not say image, .*lengths"):
        found(given)
    with pytest.raises(ValueError, match=r"task_feature_lengths .*inputs, targets, image, not p"):
        found({"patches": 3}, **facts)
