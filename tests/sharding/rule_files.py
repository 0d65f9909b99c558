"""The files of gin_configs/sharding as settings."""

import pathlib

import gin

from ofa_jax.runs.settings import PartitionerConfig

DIRECTORY = pathlib.Path(__file__).resolve().parents[2] / "gin_configs" / "sharding"
RULE_FILES = sorted(path.stem for path in DIRECTORY.glob("*.gin"))


def partitioner(name: str) -> PartitionerConfig:
    """The settings that a rule file makes.

    Args:
      name: of the file, without directory and suffix.
    """
    gin.clear_config()
    if "partitioning.Partitioner" not in gin.config._REGISTRY:
        gin.external_configurable(PartitionerConfig, "Partitioner", module="partitioning")
    gin.parse_config_file(str(DIRECTORY / f"{name}.gin"))
    config = gin.get_configurable("partitioning.Partitioner")()
    gin.clear_config()
    return config
