"""Whether the weights in a directory of ours are those of the model that is described beside them.

Names and shapes are compared before an array is read, so a description that was changed, or belongs
to another directory, is one line and costs no memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from flax import traverse_util

from ofa_jax.checkpoint.names import TOKENS, Path, entries
from ofa_jax.checkpoint.repairs import CheckpointMismatchError
from ofa_jax.model.config import OFAConfig

Shape = tuple[int, ...]
_SHOWN = 2
_MOST_LAYERS = 10_000
_LAYER = re.compile(r"layers_(\d+)")


def variable_shapes(config: OFAConfig) -> dict[Path, Shape]:
    """Path in our variables in layout "loop", collection first, to the shape there."""
    orders = {"dense": (1, 0), "conv": (2, 3, 1, 0)}
    found = {
        entry.path: tuple(
            entry.shape[axis] for axis in orders.get(entry.conversion, range(len(entry.shape)))
        )
        for entry in entries(config)
    }
    return found | {TOKENS: (config.embedding_rows, config.width)}


def check_agreement(tree: Mapping, config: OFAConfig, source: str, described: str) -> None:
    """Fails where weights have other names or shapes than a model.

    Args:
      tree: {"params", "batch_stats"} in either layer layout, of anything with a shape.
      source: of the weights, for messages.
      described: who says that it is this model, for messages, such as "model_config.json".

    Raises:
      CheckpointMismatchError: naming what differs first.
    """
    there: dict[Path, Shape] = {}
    for path, leaf in traverse_util.flatten_dict(dict(tree)).items():
        shape = tuple(getattr(leaf, "shape", ()))
        if "layers" in path and shape:
            place = path.index("layers")
            for layer in range(min(shape[0], _MOST_LAYERS)):
                there[(*path[:place], f"layers_{layer}", *path[place + 1 :])] = shape[1:]
        else:
            there[path] = shape
    # Counts first: what is described may have more layers than fit into memory by name.
    parts = {
        "encoder layers": (_layers(there, "encoder"), config.encoder_layers),
        "decoder layers": (_layers(there, "decoder"), config.decoder_layers),
    }
    differences = [
        f"{name}: {in_weights} in the weights, {in_config} in the model"
        for name, (in_weights, in_config) in parts.items()
        if in_weights != in_config
    ]
    if not differences and sum(config.resnet.stage_blocks) > len(there):
        differences.append(f"more ResNet blocks {config.resnet.stage_blocks} than weights")
    if not differences:
        here = variable_shapes(config)
        differences = [
            f"{'/'.join(path)}: {there.get(path, 'nothing')} in the weights, "
            f"{here.get(path, 'nothing')} in the model"
            for path in dict.fromkeys((*here, *there))
            if there.get(path) != here.get(path)
        ]
    if differences:
        more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise CheckpointMismatchError(
            f"{source}: the weights are not those of {described}: "
            f"{'; '.join(differences[:_SHOWN])}{more}"
        )


def _layers(there: Mapping[Path, Shape], stack: str) -> int:
    names = {part for path in there if stack in path[:2] for part in path if _LAYER.fullmatch(part)}
    return len(names)
