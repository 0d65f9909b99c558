"""A model of random weights that says of itself that it knows tasks of the quickstart."""

import dataclasses
import pathlib

import pytest

import tasks.scenes  # noqa: F401  (registers the tasks)
from ofa_jax.checkpoint.exports import export_checkpoint
from ofa_jax.checkpoint.imports import ImportedCheckpoint, initial_variables
from ofa_jax.checkpoint.orbax_weights import SourceRecord
from ofa_jax.data.tasks.card import TaskCard, write_cards
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.demo.settings import DemoSettings
from tests.integration import finetuning_files

LENGTHS = {"inputs": 32, "targets": 8, "image": 32}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("demo")
    tokenizer = finetuning_files.write_vocabulary(directory)
    config = finetuning_files.small_config(tokenizer)
    record = SourceRecord("initialized", "random")
    imported = ImportedCheckpoint(initial_variables(config), config, record)
    export_checkpoint(imported, directory, "orbax")
    names = ("captioning", "vqa", "visual_grounding", "grounded_captioning", "detection")
    found = [task for name in names for task, _ in lookup(f"scenes_{name}")]
    write_cards(directory, "scenes", [TaskCard.of(task, LENGTHS) for task in found])
    return directory


@pytest.fixture(scope="session")
def settings(checkpoint) -> DemoSettings:
    return DemoSettings(
        str(checkpoint), max_file_mb=0.02, max_megapixels=0.01, max_characters=40, batch_size=4
    )


@pytest.fixture
def small(settings):
    """Settings with changes."""
    return lambda **changes: dataclasses.replace(settings, **changes)
