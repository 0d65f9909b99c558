"""Any checkpoint to our variables: fairseq, HuggingFace, state dicts, our own directories.

`import_checkpoint` finds out what a path or repository holds, reads it (`torch_reader`,
`huggingface`, `orbax_weights`), repairs it (`repairs`) and maps it (`names`). The dtypes of the
source travel along in a `SourceRecord`, so that `exports` can give back every tensor bit for bit.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import PyTree

from ofa_jax.atomic import JsonObject
from ofa_jax.checkpoint import bucket, orbax_weights, tuned
from ofa_jax.checkpoint.agreement import check_agreement
from ofa_jax.checkpoint.fingerprint import flatten_settings
from ofa_jax.checkpoint.finite import check_finite
from ofa_jax.checkpoint.huggingface import (
    VOCABULARY_FILES,
    fetch_repository,
    is_repository_id,
    no_such_path,
    read_huggingface_directory,
    read_safetensors,
)
from ofa_jax.checkpoint.huggingface_names import from_huggingface_name, is_huggingface_naming
from ofa_jax.checkpoint.layout import (
    RESNET_PREFIX,
    config_from_state_dict,
    infer_resnet,
    infer_tuning,
    resnet_shapes,
)
from ofa_jax.checkpoint.names import to_params, to_state_dict
from ofa_jax.checkpoint.orbax_weights import SourceRecord
from ofa_jax.checkpoint.repairs import CheckpointMismatchError, canonical_names, repair_state_dict
from ofa_jax.checkpoint.task_facts import TaskFacts, task_arguments
from ofa_jax.checkpoint.torch_archive import CheckpointFileError
from ofa_jax.checkpoint.torch_reader import StateDict, read_torch_checkpoint
from ofa_jax.model.config import LayerStack, OFAConfig, TuningConfig
from ofa_jax.model.ofa import OFA
from ofa_jax.vocab import CHINESE

__all__ = [
    "RUN_VOCABULARY",
    "ImportedCheckpoint",
    "ReportStage",
    "import_checkpoint",
    "initial_variables",
    "read_stem",
    "vocabulary_beside",
]

ReportStage = Callable[[str], None]


def _silent(line: str) -> None:
    del line


@dataclasses.dataclass(frozen=True)
class ImportedCheckpoint:
    """Weights in our form, with what is known about them.

    Attributes:
      variables: {"params", "batch_stats"}: nested dicts of float32 numpy arrays in
        `config.layer_stack`.
      config: the model they belong to.
      record: how they were stored, for an exact export.
      vocabulary_files: vocabulary files that lay beside them.
    """

    variables: dict[str, PyTree]
    config: OFAConfig
    record: SourceRecord
    vocabulary_files: tuple[pathlib.Path, ...] = ()

    @property
    def task(self) -> TaskFacts:
        """What the source says about its task: the defaults of evaluation and inference."""
        return self.record.task

    @property
    def cfg(self) -> JsonObject:
        """The configuration that came in: {} or "cfg" and "args" of a `.pt` as plain values."""
        return self.record.cfg


@dataclasses.dataclass(frozen=True)
class _ForeignWeights:
    state_dict: StateDict
    format: str
    config: OFAConfig | None = None
    vocabulary_files: tuple[pathlib.Path, ...] = ()
    task: TaskFacts = dataclasses.field(default_factory=TaskFacts)
    cfg: JsonObject = dataclasses.field(default_factory=dict)


def initial_variables(config: OFAConfig, seed: int = 0) -> dict[str, PyTree]:
    """Freshly initialized variables as numpy arrays.

    Args:
      seed: of the random numbers.

    Returns:
      {"params", "batch_stats"}.
    """
    side = config.resnet.stride
    batch = {
        "encoder_input_tokens": np.ones((1, 2), np.int32),
        "encoder_images": np.zeros((1, side, side, 3), np.uint8),
        "decoder_input_tokens": np.ones((1, 2), np.int32),
        "decoder_code_masks": np.zeros((1,), bool),
    }
    # The default generator takes minutes to compile for hundreds of parameters; this one seconds.
    key = jax.random.key(seed, impl="rbg")
    variables = jax.jit(OFA(config).init)(key, batch)
    return jax.tree.map(np.asarray, nn.unbox(dict(variables)))


# Where a training run keeps its vocabulary, below its directory.
RUN_VOCABULARY = "vocabulary"


def vocabulary_beside(directory: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """The vocabulary files in a directory."""
    return tuple(directory / name for name in VOCABULARY_FILES if (directory / name).is_file())


def _read_foreign(path: pathlib.Path, ema: bool | None) -> _ForeignWeights:
    if path.is_dir():
        if ema:
            raise CheckpointFileError(f"{path}: HuggingFace directories have no moving average")
        directory = read_huggingface_directory(path)
        return _ForeignWeights(
            directory.state_dict,
            "huggingface",
            directory.config,
            directory.vocabulary_files,
            directory.task,
        )
    if path.suffix == ".safetensors":
        if ema:
            raise CheckpointFileError(f"{path}: safetensors files have no moving average")
        found = _ForeignWeights(read_safetensors(path), "state_dict")
    else:
        file = read_torch_checkpoint(path, ema=ema)
        found = _ForeignWeights(file.state_dict, file.layout, task=file.task, cfg=file.cfg)
    if is_huggingface_naming(found.state_dict):
        tensors = found.state_dict.tensors.items()
        state_dict = StateDict({from_huggingface_name(name): t for name, t in tensors})
        found = dataclasses.replace(found, state_dict=state_dict, format="huggingface")
    return dataclasses.replace(found, vocabulary_files=vocabulary_beside(path.parent))


def read_stem(path: str | os.PathLike) -> StateDict:
    """Reads an ImageNet ResNet in torchvision's names, as OFA's stem (SPEC 2.3).

    Args:
      path: `.pth` or `.safetensors` file with a state dict.

    Returns:
      Official names (with prefix) -> arrays; layer4 and fc are left out.

    Raises:
      CheckpointMismatchError: not a bottleneck ResNet.
    """
    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        state_dict = read_safetensors(path)
    else:
        state_dict = read_torch_checkpoint(path).state_dict
    tensors, _ = canonical_names(state_dict)
    try:
        stem = infer_resnet({name: tuple(t.shape) for name, t in tensors.items()}, prefix="")
    except ValueError as error:
        raise CheckpointMismatchError(f"{path}: {error}") from error
    wanted = resnet_shapes(stem)
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise CheckpointMismatchError(f"{path}: lacks {missing[0]} of a ResNet {stem.stage_blocks}")
    return StateDict({RESNET_PREFIX + name: tensors[name] for name in wanted})


def _with_stem(tensors: Mapping[str, Any], stem: StateDict, config: OFAConfig) -> dict[str, Any]:
    """Replaces the stem's tensors; the shapes must be those of the configuration."""
    for name, shape in resnet_shapes(config.resnet).items():
        tensor = stem.tensors.get(RESNET_PREFIX + name)
        if tensor is None or tuple(tensor.shape) != shape:
            found = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
            raise CheckpointMismatchError(
                f"{name} of the stem is {found}, the model needs {shape}; its ResNet has "
                f"{config.resnet.stage_blocks} blocks"
            )
    rest = {name: t for name, t in tensors.items() if not name.startswith(RESNET_PREFIX)}
    return {**rest, **stem.tensors}


def _described(config: OFAConfig) -> str:
    return (
        f"a model of width {config.width}, {config.encoder_layers}+{config.decoder_layers} layers, "
        f"{config.vocab_size} ids, ResNet {config.resnet.stage_blocks}"
    )


def _import_foreign(
    path: pathlib.Path,
    name: str,
    config: OFAConfig | None,
    *,
    ema: bool | None,
    tolerant: bool,
    dictionary_has_mask: bool,
    stem: StateDict | None,
    layer_stack: LayerStack | None,
    seed: int,
    progress: ReportStage,
) -> ImportedCheckpoint:
    foreign = _read_foreign(path, ema)
    tensors, renamed = canonical_names(foreign.state_dict)
    state_dict = StateDict(tensors)
    task = foreign.task
    if config is None:
        config = foreign.config or config_from_state_dict(
            state_dict.shapes(), task_arguments(foreign.cfg), **task.normalization
        )
    elif state_dict.shapes().get("encoder.embed_tokens.weight", (0,))[0] == CHINESE.size:
        config = dataclasses.replace(config, vocab_size=CHINESE.size, padded_vocab_size=None)
    if not infer_tuning(state_dict.shapes()).is_on:
        config = _untuned(config)
    config = _with_layer_stack(config, layer_stack)
    for line in _task_lines(task, config):
        progress(f"  {line}")
    progress(f"repairing names and shapes for {_described(config)}")
    dtypes = state_dict.dtypes()
    if stem is not None:
        state_dict = StateDict(_with_stem(tensors, stem, config))
    repaired, report = repair_state_dict(
        state_dict,
        config,
        initial=lambda: to_state_dict(initial_variables(config, seed), config),
        tolerant=tolerant,
        dictionary_has_mask=dictionary_has_mask,
        seed=seed,
    )
    report.renamed = renamed
    lines = report.lines()
    if "float64" in dtypes.values():
        lines.append("float64 tensors are rounded to float32")
    for line in lines:
        progress(f"  {line}")
    progress("mapping onto parameters")
    record = SourceRecord(
        foreign.format, name, dtypes, report.batches_tracked, tuple(lines), task, foreign.cfg
    )
    return ImportedCheckpoint(to_params(repaired, config), config, record, foreign.vocabulary_files)


def _task_lines(task: TaskFacts, config: OFAConfig) -> Iterator[str]:
    """What a user should know about the task of a foreign checkpoint."""
    if task.name:
        yield f"trained for {task}"
    if task.is_ema:
        yield "taking the moving average of the weights, which the file has beside the plain ones"
    elif task.has_ema:
        yield "the file has a moving average of the weights too; --ema (ema=True) takes it" + (
            f", as the official evaluation of {task.name} does"
            if task.is_evaluated_by_average
            else ""
        )
    for field, value in task.normalization.items():
        if getattr(config, field) != value:
            yield f"was trained with {field} {value}; this model has {getattr(config, field)}"


def _untuned(config: OFAConfig) -> OFAConfig:
    return dataclasses.replace(config, tuning=TuningConfig())


def _import_tuned(
    path: pathlib.Path, base: str, config: OFAConfig | None, **options: Any
) -> ImportedCheckpoint:
    """Trained parts on the model that they belong to."""
    weights = tuned.read_tuned(path)
    base = base or weights.base
    is_known = is_repository_id(base) or bucket.is_remote(base)
    if not base or not (is_known or pathlib.Path(base).exists()):
        where = f"{base}, which is not here" if base else "a model without a checkpoint"
        raise CheckpointFileError(f"{path}: was trained on {where}; give it as {path}@BASE")
    if config is not None and config.tuning != weights.tuning:
        raise CheckpointMismatchError(
            f"{path}: has the parts {weights.tuning}, the model {config.tuning}"
        )
    found = import_checkpoint(base, config=None if config is None else _untuned(config), **options)
    variables, tuned_config = tuned.apply_tuned(found.variables, found.config, weights, str(path))
    return dataclasses.replace(found, variables=variables, config=tuned_config)


def _with_layer_stack(config: OFAConfig, layer_stack: LayerStack | None) -> OFAConfig:
    if layer_stack is None:
        return config
    return dataclasses.replace(config, layer_stack=layer_stack)


def _differences(saved: OFAConfig | None, config: OFAConfig) -> str:
    """Settings in which a saved model differs, those first that its weights depend on most."""
    if saved is None:
        return ""
    there, here = (flatten_settings(dataclasses.asdict(one)) for one in (saved, config))
    names = [name for name in there if there[name] != here.get(name) and name not in _NO_SHAPE]
    return ", ".join(f"{name} is {there[name]} there and {here[name]} here" for name in names[:4])


# Settings that no weight depends on.
_NO_SHAPE = frozenset({
    *("dropout", "attention_dropout", "activation_dropout", "encoder_drop_path"),
    *("decoder_drop_path", "remat", "attention", "conv", "dtype", "batch_norm"),
})  # fmt: skip


def _import_own(
    path: pathlib.Path, config: OFAConfig | None, ema: bool | None, layer_stack: LayerStack | None
) -> ImportedCheckpoint:
    # The configuration lies in the run's directory; the path may be a checkpoint inside.
    homes = (path, path.absolute().parent)
    directories = tuple(directory for home in homes for directory in (home, home / RUN_VOCABULARY))
    saved = next((c for c in map(orbax_weights.read_model_config, homes) if c is not None), None)
    described = f"{orbax_weights.CONFIG_FILE} beside them" if config is None else "this model"
    config = config or saved
    if config is None:
        raise CheckpointFileError(
            f"{path}: has no {orbax_weights.CONFIG_FILE}; say which model it is (--size)"
        )
    if saved is not None and saved.vocab_size != config.vocab_size:
        raise CheckpointMismatchError(
            f"{path}: has a vocabulary of {saved.vocab_size:,} ids, the model one of "
            f"{config.vocab_size:,}"
        )
    config = _with_layer_stack(config, layer_stack)
    has = saved.tuning if saved is not None else config.tuning
    if not has.is_on:
        config = _untuned(config)
    elif dataclasses.replace(config.tuning, prefix_dropout=has.prefix_dropout) != has:
        raise CheckpointMismatchError(f"{path}: has tuned parts {has}, the model {config.tuning}")
    record = next((r for r in map(orbax_weights.read_source_record, homes) if r is not None), None)
    model = config

    def check(shapes: Mapping[str, PyTree]) -> None:
        try:
            check_agreement(shapes, model, str(path), described)
        except CheckpointMismatchError as error:
            if not (said := _differences(saved, model)):
                raise
            raise CheckpointMismatchError(f"{path}: weights of another model: {said}") from error

    variables = orbax_weights.read_weights(path, ema=ema, check=check)
    stacked = "layers" in variables["params"].get("encoder", {})
    if stacked != (config.layer_stack == "scan"):
        variables = to_params(to_state_dict(variables, config), config)
    vocabulary = next((v for v in map(vocabulary_beside, directories) if v), ())
    return ImportedCheckpoint(
        variables, config, record or SourceRecord("orbax", path.name), vocabulary
    )


def import_checkpoint(
    source: str | os.PathLike | None,
    *,
    config: OFAConfig | None = None,
    ema: bool | None = False,
    tolerant: bool = False,
    dictionary_has_mask: bool = True,
    stem: str | os.PathLike | None = None,
    layer_stack: LayerStack | None = None,
    revision: str | None = None,
    seed: int = 0,
    initial: Callable[[], Mapping[str, PyTree]] | None = None,
    progress: ReportStage = _silent,
) -> ImportedCheckpoint:
    """Reads a checkpoint of any known kind.

    Args:
      source: a fairseq `.pt` or bare state dict, a `.safetensors` file, a HuggingFace directory or
        repository id, one of our directories, the gs:// address of any of these, or trained parts
        (`tuned.write_tuned`) as FILE or FILE@BASE; None starts from initialization and needs
        `config`.
      config: the model to be filled; None takes it from the source. The Chinese vocabulary of a
        foreign source is recognized and needs no other configuration. Parts of `config.tuning`
        that the source lacks are new.
      ema: take the moving average; None takes it where a checkpoint of ours has one, and from a
        `.pt` of VQA, whose average the official scripts evaluate.
      tolerant: see `repair_state_dict`.
      dictionary_has_mask: see `repair_state_dict`; False needs `config`.
      stem: torchvision ResNet weights that replace the stem.
      layer_stack: "loop" or "scan"; None keeps that of the configuration.
      revision: of a hub repository.
      seed: of whatever has to be initialized.
      initial: gives variables of `config` from which new parts are taken; None initializes them.
      progress: called with one line per stage.

    Returns:
      The weights in our form.

    Raises:
      FileNotFoundError: no such path.
      CheckpointFileError: the source cannot be read, or has values that are NaN or infinite.
      CheckpointMismatchError: the weights do not fit the configuration.
      ValueError: neither source nor configuration, or an impossible configuration.
    """
    stem_weights = None if stem is None else read_stem(stem)
    if source is not None and bucket.is_remote(source):
        source = bucket.local_copy(str(source))
    options: dict[str, Any] = {"layer_stack": layer_stack, "seed": seed}
    if source is None:
        if config is None:
            raise ValueError("without a source, a configuration (--size) is needed")
        config = _with_layer_stack(config, layer_stack)
        progress(f"initializing {_described(config)}")
        record = SourceRecord("initialized", "initialized")
        imported = ImportedCheckpoint(initial_variables(config, seed), config, record)
    elif (parts := tuned.split_source(source)) is not None:
        # Its parts are averages already where the run kept them; its base never is.
        imported = _import_tuned(
            *parts, config, tolerant=tolerant, revision=revision, progress=progress, **options
        )
    else:
        path, name = pathlib.Path(source), pathlib.Path(source).name
        if is_repository_id(str(source)):
            progress(f"looking for {source} on the HuggingFace hub")
            path, name = fetch_repository(str(source), revision=revision), str(source)
        if not path.exists():
            raise no_such_path(source)
        checkpoint = orbax_weights.step_directory(path)
        progress(f"reading {path if checkpoint is None else checkpoint}")
        if checkpoint is None:
            try:
                imported = _import_foreign(
                    path,
                    name,
                    config,
                    ema=ema,
                    tolerant=tolerant,
                    dictionary_has_mask=dictionary_has_mask,
                    stem=stem_weights,
                    progress=progress,
                    **options,
                )
            except ValueError as error:
                if str(path) in str(error):
                    raise
                raise CheckpointMismatchError(f"{path}: {error}") from error
            stem_weights = None
        else:
            imported = _import_own(path, config, ema, layer_stack)
    if stem_weights is not None:
        state_dict = to_state_dict(imported.variables, imported.config)
        state_dict = _with_stem(state_dict, stem_weights, imported.config)
        variables = to_params(StateDict(state_dict), imported.config)
        imported = dataclasses.replace(imported, variables=variables)
    check_finite(imported.variables, imported.config, str(source or stem or "initialized"))
    if config is None or imported.config.tuning.is_on or not config.tuning.is_on:
        return imported
    whole = dataclasses.replace(imported.config, tuning=config.tuning)
    fresh = initial_variables(whole, seed) if initial is None else initial()
    return dataclasses.replace(
        imported, config=whole, variables=tuned.with_new_parts(imported.variables, fresh)
    )
