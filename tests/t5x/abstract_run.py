"""Process of `test_sizes`: prepares runs of `t5x/train.py` up to the state, without allocating it.

Arguments: JSON lists, one for each run, of what follows `t5x/train.py` on its command line. Prints
one JSON line: what each run would train. Takes the place of t5x's script, so that gin files find
`train` in `__main__` as they do there.
"""

import json
import math
import sys

import gin
import jax
from t5x import gin_utils, utils

from ofa_jax.cli.gin_files import split_overrides

found = []


def train(*, model, partitioner, train_dataset_cfg, get_dataset_fn, trainer_cls, **others):
    """What t5x's `train` does with these settings before it makes arrays."""
    del others
    layout = partitioner.get_data_layout(train_dataset_cfg.batch_size)
    batches = get_dataset_fn(
        train_dataset_cfg, layout.shard_id, layout.num_shards, model.FEATURE_CONVERTER_CLS
    )
    spec = batches.element_spec
    initializer = utils.TrainStateInitializer(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes={key: value.shape for key, value in spec.items()},
        partitioner=partitioner,
        input_types={key: value.dtype for key, value in spec.items()},
    )
    shapes = initializer.global_train_state_shape
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes.state_dict())]
    is_axes = lambda x: x is None or isinstance(x, jax.sharding.PartitionSpec)  # noqa: E731
    axes = jax.tree.leaves(initializer.train_state_axes.state_dict(), is_leaf=is_axes)
    ways = [
        math.prod(partitioner.mesh.shape[name] for name in jax.tree.leaves(list(spec or ())))
        for spec in axes
    ]
    trainer = trainer_cls(
        model=model,
        train_state=shapes,
        partitioner=partitioner,
        eval_names=[],
        summary_dir=None,
        train_state_axes=initializer.train_state_axes,
        rng=None,
    )
    found.append(
        {
            "tasks": len(model.tasks.tasks),
            "trainer": type(trainer).__name__,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(shapes.params)),
            "share": sum(size / way for size, way in zip(sizes, ways, strict=True)) / sum(sizes),
            "batch": {key: list(value.shape) for key, value in spec.items()},
        }
    )


def main(runs):
    configured = gin.configurable(train)
    for run in runs:
        files, bindings = split_overrides(json.loads(run))
        gin.clear_config()
        gin_utils.parse_gin_flags(["."], [file.partition("=")[2] for file in files], bindings)
        configured()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
