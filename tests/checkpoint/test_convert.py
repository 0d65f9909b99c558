"""The command line: every format to every other, bit for bit, and its error messages."""

import dataclasses
import json

import numpy as np
import pytest

from ofa_jax.checkpoint import imports, orbax_weights
from ofa_jax.checkpoint.exports import export_checkpoint, official_state_dict
from ofa_jax.checkpoint.huggingface import read_huggingface_directory, write_huggingface_directory
from ofa_jax.checkpoint.imports import import_checkpoint, initial_variables, read_stem
from ofa_jax.checkpoint.layout import (
    POSITION_INDEX,
    RESNET_PREFIX,
    SHARED_EMBEDDING,
    is_recomputed,
    resnet_shapes,
)
from ofa_jax.checkpoint.names import to_params, to_state_dict
from ofa_jax.checkpoint.torch_reader import read_torch_checkpoint
from ofa_jax.checkpoint.torch_writer import write_fairseq_checkpoint, write_torch_file
from ofa_jax.convert import main
from ofa_jax.model.config import SIZES
from ofa_jax.text.tokenizer import Tokenizer, load_tokenizer
from ofa_jax.text.trained_bpe import TrainedBPE
from ofa_jax.vocab import VocabLayout, swap_official_ids
from tests.checkpoint.official import SMALL, fixture_state_dict, random_state_dict


def convert(source, target, target_format, *more) -> int:
    arguments = ["--target", str(target), "--target_format", target_format, *map(str, more)]
    return main([*(("--source", str(source)) if source else ()), *arguments])


def assert_same_tensors(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        assert found[name].tobytes() == np.ascontiguousarray(value).tobytes(), name


@pytest.fixture
def small_source(tmp_path):
    """A HuggingFace-like directory is the only format that carries the odd sizes of SMALL."""
    directory = tmp_path / "small"
    write_huggingface_directory(directory, random_state_dict(), SMALL)
    return directory


@pytest.fixture(scope="module")
def initial():
    """Initialized once, since compiling takes most of these tests' time."""
    return initial_variables(SMALL)


@pytest.fixture
def initialized_once(monkeypatch, initial):
    def variables(config, seed=0):
        return initial if config == SMALL else small_variables(config)

    monkeypatch.setattr(imports, "initial_variables", variables)


def small_variables(config=SMALL):
    return to_params(random_state_dict(config), config)


def test_official_weights_survive_every_format_bit_for_bit(tmp_path, capsys):
    original, task = fixture_state_dict()
    source = tmp_path / "mini.pt"
    write_fairseq_checkpoint(source, original, cfg={"model": {}, "task": task})
    assert convert(source, tmp_path / "ours", "orbax") == 0
    assert convert(tmp_path / "ours", tmp_path / "back.pt", "fairseq") == 0
    assert_same_tensors(read_torch_checkpoint(tmp_path / "back.pt").state_dict, original)

    assert convert(tmp_path / "ours", tmp_path / "hub", "huggingface") == 0
    without_version = {k: v for k, v in original.items() if not k.endswith(".version")}
    # HuggingFace's class has one filler less.
    shorter = {POSITION_INDEX: original[POSITION_INDEX][:-1]}
    hub = read_huggingface_directory(tmp_path / "hub").state_dict
    assert_same_tensors(hub, without_version | shorter)
    assert convert(tmp_path / "hub", tmp_path / "again.pt", "fairseq") == 0
    again = dict(read_torch_checkpoint(tmp_path / "again.pt").state_dict)
    assert_same_tensors(
        {k: v for k, v in again.items() if not k.endswith(".version")}, without_version
    )
    tensors = read_torch_checkpoint(tmp_path / "back.pt").state_dict.tensors
    assert all(
        tensors[name].shares_storage_with(tensors[SHARED_EMBEDDING[0]]) for name in SHARED_EMBEDDING
    )
    config = orbax_weights.read_model_config(tmp_path / "ours")
    assert (config.width, config.num_codes, config.vocab_size) == (64, 64, 289)
    printed = capsys.readouterr().out
    for stage in ("reading", "repairing names and shapes", "mapping", "writing", "done"):
        assert stage in printed


def test_scanned_layers_and_embedding_rows(tmp_path):
    original, task = fixture_state_dict()
    source = tmp_path / "mini.pt"
    write_fairseq_checkpoint(source, original, cfg={"task": task}, legacy=True)
    assert convert(source, tmp_path / "scan", "orbax", "--layer_stack", "scan") == 0
    imported = import_checkpoint(tmp_path / "scan")
    assert imported.config.layer_stack == "scan"
    params = imported.variables["params"]
    assert set(params["encoder"]) >= {"layers"}
    rows = params["token_embedding"]["embedding"]
    assert rows.shape == (384, 64)
    assert rows.dtype == np.float32
    order = swap_official_ids(np.arange(289))
    np.testing.assert_array_equal(rows[:289][order], original[SHARED_EMBEDDING[0]])
    loop = import_checkpoint(tmp_path / "scan", layer_stack="loop")
    assert set(loop.variables["params"]["encoder"]) >= {"layers_0", "layers_1"}
    assert convert(tmp_path / "scan", tmp_path / "back.pt", "fairseq", "--legacy") == 0
    assert_same_tensors(read_torch_checkpoint(tmp_path / "back.pt").state_dict, original)


def test_mixed_dtypes_and_bfloat16_come_back(tmp_path):
    import ml_dtypes

    original = random_state_dict()
    for index, name in enumerate(sorted(original)):
        kind = (np.float32, np.float16, ml_dtypes.bfloat16)[index % 3]
        original[name] = original[name].astype(kind)
    original |= dict.fromkeys(SHARED_EMBEDDING, original[SHARED_EMBEDDING[0]])
    source = tmp_path / "mixed.pt"
    write_torch_file(source, original)
    imported = import_checkpoint(source, config=SMALL)
    export_checkpoint(imported, tmp_path / "ours", "orbax")
    again = import_checkpoint(tmp_path / "ours" / "checkpoint_0")
    assert again.record == imported.record
    found = official_state_dict(again)
    weights = {k: v for k, v in found.items() if not is_recomputed(k)}
    assert_same_tensors(weights, original)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_of_the_export_can_be_chosen(tmp_path, small_source, dtype):
    assert convert(small_source, tmp_path / "out.pt", "fairseq", "--dtype", dtype) == 0
    found = read_torch_checkpoint(tmp_path / "out.pt").state_dict.dtypes()
    assert found.pop("encoder.token_rp_bucket") == "int64"
    assert {v for k, v in found.items() if not is_recomputed(k)} == {dtype}


def test_moving_average_is_imported_on_request(tmp_path):
    model = random_state_dict()
    average = {name: value + 1 for name, value in model.items()}
    average |= dict.fromkeys(SHARED_EMBEDDING, average[SHARED_EMBEDDING[0]])
    source = tmp_path / "ema.pt"
    write_fairseq_checkpoint(source, model, ema=average)
    for ema, expected in ((False, model), (True, average)):
        imported = import_checkpoint(source, config=SMALL, ema=ema)
        found = official_state_dict(imported)
        np.testing.assert_array_equal(found[SHARED_EMBEDDING[1]], expected[SHARED_EMBEDDING[0]])
    variables = small_variables()
    directory = tmp_path / "run"
    orbax_weights.write_weights(
        directory, variables, SMALL, orbax_weights.SourceRecord("initialized", "x")
    )
    with pytest.raises(ValueError, match="has no moving average"):
        import_checkpoint(directory, ema=True)


def test_orbax_layout_is_that_of_t5x(tmp_path, small_source):
    assert convert(small_source, tmp_path / "ours", "orbax") == 0
    state = tmp_path / "ours" / "checkpoint_0" / "state"
    assert state.is_dir()
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True)) as reader:
        tree = reader.metadata(state).item_metadata.tree
    assert set(tree) == {"target", "state", "flax_mutables"}
    assert set(tree["flax_mutables"]) == {"batch_stats"}
    assert set(tree["state"]) == {"step"}
    assert json.loads((tmp_path / "ours" / "source.json").read_text())["format"] == "huggingface"


def test_damaged_directories_of_ours_are_one_clear_error(tmp_path, small_source, capsys):
    assert convert(small_source, tmp_path / "ours", "orbax") == 0
    state = tmp_path / "ours" / "checkpoint_0" / "state"
    for data in state.rglob("d/*"):
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    assert convert(tmp_path / "ours", tmp_path / "x.pt", "fairseq") == 2
    error = capsys.readouterr().err
    assert "incomplete copy" in error or "cannot be read" in error
    for path in state.iterdir():
        if path.is_file():
            path.unlink()
    assert convert(tmp_path / "ours", tmp_path / "x.pt", "fairseq") == 2
    assert "checkpoint_0" in capsys.readouterr().err


def test_tolerant_import_keeps_initial_values_and_says_so(
    tmp_path, small_source, initial, initialized_once
):
    tensors = dict(read_huggingface_directory(small_source).state_dict.tensors)
    lost = "decoder.layers.0.fc1.bias"
    del tensors[lost]
    tensors["extra.weight"] = np.zeros(3, np.float32)
    source = tmp_path / "lacking.pt"
    write_torch_file(source, tensors)
    with pytest.raises(ValueError, match=r"decoder\.layers\.0\.fc1\.bias .*missing"):
        import_checkpoint(source, config=SMALL)
    lines = []
    imported = import_checkpoint(source, config=SMALL, tolerant=True, progress=lines.append)
    assert any(lost in line and "kept at initialization" in line for line in lines)
    assert any("extra.weight" in line and "dropped" in line for line in lines)
    assert any(lost in line for line in imported.record.repairs)
    expected = to_state_dict(initial, SMALL)[lost]
    np.testing.assert_array_equal(official_state_dict(imported)[lost], expected)


def test_one_row_too_many_is_cut_on_request(tmp_path, capsys, monkeypatch):
    import ofa_jax.convert as command

    source, target = tmp_path / "long.pt", tmp_path / "cut.pt"
    original = random_state_dict()
    write_torch_file(source, original)
    smaller = dataclasses.replace(SMALL, vocab_size=299, padded_vocab_size=None)
    monkeypatch.setattr(command, "SIZES", {"small": smaller})
    assert convert(source, target, "fairseq", "--size", "small") == 2
    assert "--dictionary_without_mask" in capsys.readouterr().err
    assert convert(source, target, "fairseq", "--size", "small", "--dictionary_without_mask") == 0
    assert "cut 300 rows to 299" in capsys.readouterr().out
    table = read_torch_checkpoint(target).state_dict[SHARED_EMBEDDING[0]]
    np.testing.assert_array_equal(table, original[SHARED_EMBEDDING[0]][:299])
    with pytest.raises(SystemExit):
        convert(source, target, "fairseq", "--dictionary_without_mask")
    assert "needs --size" in capsys.readouterr().err


def test_torchvision_stem(tmp_path, small_source, initialized_once):
    rng = np.random.default_rng(3)
    stem = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in resnet_shapes(SMALL.resnet).items()
    }
    extra = {
        "layer4.0.conv1.weight": np.zeros((8, 32, 1, 1), np.float32),
        "fc.weight": np.zeros((10, 32), np.float32),
        "bn1.num_batches_tracked": np.array(3),
    }
    path = tmp_path / "resnet.pth"
    write_torch_file(path, {**stem, **extra})
    assert set(read_stem(path)) == {RESNET_PREFIX + name for name in stem}
    assert convert(small_source, tmp_path / "ours", "orbax", "--stem", path) == 0
    found = official_state_dict(import_checkpoint(tmp_path / "ours"))
    before = official_state_dict(import_checkpoint(small_source))
    for name, value in found.items():
        if name.removeprefix(RESNET_PREFIX) in stem:
            value_before = stem[name.removeprefix(RESNET_PREFIX)]
        else:
            value_before = before[name]
        np.testing.assert_array_equal(value, value_before, err_msg=name)
    # On a fresh model and on a directory of ours too; a stem of other depth is refused.
    fresh = import_checkpoint(None, config=SMALL, stem=path)
    kernel = fresh.variables["params"]["encoder"]["resnet"]["stem"]["kernel"]
    np.testing.assert_array_equal(kernel, stem["conv1.weight"].transpose(2, 3, 1, 0))
    deeper = dataclasses.replace(SMALL.resnet, stage_blocks=(1, 2, 1))
    with pytest.raises(ValueError, match=r"layer2\.1\.conv1\.weight .*missing"):
        import_checkpoint(None, config=dataclasses.replace(SMALL, resnet=deeper), stem=path)
    write_torch_file(path, {"conv1.weight": np.zeros((4, 3, 7, 7), np.float32)})
    with pytest.raises(ValueError, match=r"resnet\.pth: .*ResNet"):
        read_stem(path)


def test_size_of_another_model_is_a_clear_error(tmp_path, small_source, capsys):
    assert convert(small_source, tmp_path / "x", "orbax", "--size", "tiny") == 2
    message = capsys.readouterr().err
    assert "has shape" in message
    assert "another model size than width 256" in message
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.pt", "nowhere.pt: no such file or directory"),
        ("empty", "no weights in this directory"),
        ("broken.pt", "broken.pt: the file is empty"),
    ],
)
def test_bad_sources_end_with_one_line(tmp_path, capsys, source, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.pt").write_bytes(b"")
    assert convert(tmp_path / source, tmp_path / "out", "orbax") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


def test_existing_targets_are_not_overwritten(tmp_path, small_source, capsys):
    for target_format, name in (("orbax", "a"), ("fairseq", "b.pt"), ("huggingface", "c")):
        assert convert(small_source, tmp_path / name, target_format) == 0
        assert convert(small_source, tmp_path / name, target_format) == 2
        assert "exists; give another target" in capsys.readouterr().err


def test_weights_without_configuration_ask_for_the_size(tmp_path, capsys):
    directory = tmp_path / "run"
    record = orbax_weights.SourceRecord("initialized", "x")
    config = SIZES["nano"]
    orbax_weights.write_weights(directory, small_variables(config), config, record, step=7)
    (directory / "model_config.json").unlink()
    assert convert(directory, tmp_path / "x.pt", "fairseq") == 2
    assert "--size" in capsys.readouterr().err
    assert convert(directory, tmp_path / "x.pt", "fairseq", "--size", "nano") == 0
    settings = {"model": dataclasses.asdict(config), "vocabulary": {}}
    (directory / "model_fingerprint.json").write_text(json.dumps(settings))
    assert orbax_weights.read_model_config(directory) == config
    directory.joinpath("model_config.json").write_text('{"width": 3}')
    assert convert(directory, tmp_path / "y.pt", "fairseq") == 2
    assert "model_config.json: OFAConfig.num_heads must be" in capsys.readouterr().err


DESCRIPTIONS = {
    "width": ({"width": 128}, "embedding: ("),
    "size": ({"width": 10**12}, "width must be a whole number from 1 to 1,048,576, got 10000000"),
    "heads": (
        {"num_heads": 2},
        "layers_0/attention/head_scale: (4,) in the weights, (2,) in the m",
    ),
    "depth": ({"decoder_layers": 1000}, "decoder layers: 2 in the weights, 1000 in the model"),
    "layers": ({"decoder_layers": 10**9}, "decoder_layers must be a whole number from 1 to 1,024"),
    "vocabulary": ({"vocab_size": 500, "padded_vocab_size": 512}, "params/token_embedding/embed"),
    "adapters": ({"tuning": {"adapter_dim": 4}}, "adapter/down/kernel: nothing in the weights, ("),
    "scales": ({"scale_resids": True}, "nothing in the weights, ("),
}


@pytest.mark.parametrize("layer_stack", ["loop", "scan"])
def test_a_description_of_another_model_is_refused(tmp_path, layer_stack, capsys):
    """Before anything is read; it was exported as if it were right."""
    directory, config = (
        tmp_path / "ours",
        dataclasses.replace(SIZES["nano"], layer_stack=layer_stack),
    )
    record = orbax_weights.SourceRecord("initialized", "x")
    orbax_weights.write_weights(directory, small_variables(config), config, record)
    path = directory / "model_config.json"
    right = json.loads(path.read_text())
    for changes, message in DESCRIPTIONS.values():
        fields = {**right, **changes}
        if "tuning" in changes:
            fields["tuning"] = {**right["tuning"], **changes["tuning"]}
        path.write_text(json.dumps(fields))
        assert convert(directory, tmp_path / "x.pt", "fairseq") == 2
        text = capsys.readouterr().err
        assert text.startswith(f"error: {directory}"), text
        assert path.name in text
        assert message in text
        assert len(text.splitlines()) == 1
    assert not (tmp_path / "x.pt").exists()


def test_vocabulary_files_travel_along(tmp_path, small_source):
    text = TrainedBPE.train(["a red circle"] * 3, num_merges=10)
    layout = VocabLayout(text.num_text, num_codes=0, num_bins=SMALL.vocab_size - text.num_text - 5)
    Tokenizer(text, layout).save(small_source)
    (small_source / "tokenizer_config.json").write_text("{}")
    assert convert(small_source, tmp_path / "ours", "orbax") == 0
    assert convert(tmp_path / "ours", tmp_path / "hub", "huggingface") == 0
    assert (tmp_path / "hub" / "tokenizer_config.json").read_text() == "{}"
    assert load_tokenizer(tmp_path / "hub").layout == layout
    other = tmp_path / "other"
    Tokenizer(text, layout).save(other)
    assert convert(small_source, tmp_path / "z", "orbax", "--vocabulary", other) == 0
    assert load_tokenizer(tmp_path / "z").layout == layout
    assert not (tmp_path / "z" / "tokenizer_config.json").exists()
