"""Reads a folder of official numbers and turns its cases into batches of ours.

The format is that of the oracle fixtures: `config.json`, `weights.npz`, `case_<name>.npz` and
others. Nothing of one folder is assumed: sizes, depths, ResNet, vocabulary and image sizes come
from its configuration.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from ofa_jax.checkpoint.names import to_params
from ofa_jax.model.config import OFAConfig, ResNetConfig
from ofa_jax.vocab import VocabLayout, swap_official_ids


def config_from_fixture(config_json: dict[str, Any], **options: Any) -> OFAConfig:
    """Our configuration for a fixture.

    Args:
      config_json: the parsed `config.json` of a fixture folder.
      **options: official argument names that a case changes (`interpolate_position`, ...) and
        fields of `OFAConfig` that the caller wants (`layer_stack`, ...).

    Raises:
      ValueError: if the fixture has an architecture switch that OFA's checkpoints never use.
    """
    args = {**config_json["args"]}
    fields = {field.name for field in dataclasses.fields(OFAConfig)}
    overrides = {name: value for name, value in options.items() if name in fields}
    args.update({name: value for name, value in options.items() if name not in fields})
    for name in ("add_type_embedding", "disable_entangle", "scale_attn", "scale_fc", "scale_heads"):
        if not args.get(name, True):
            raise ValueError(f"the fixture was made without {name}, which every checkpoint has")
    base = OFAConfig(
        vocab_size=config_json["vocab_size"],
        num_codes=args["code_dict_size"],
        width=args["encoder_embed_dim"],
        ffn_dim=args["encoder_ffn_embed_dim"],
        num_heads=args["encoder_attention_heads"],
        encoder_layers=args["encoder_layers"],
        decoder_layers=args["decoder_layers"],
        resnet=ResNetConfig(stage_blocks=tuple(config_json["resnet_layers"])),
        token_bucket_size=args["token_bucket_size"],
        image_bucket_size=args["image_bucket_size"],
        max_positions=args["max_source_positions"],
        code_image_size=args["code_image_size"],
        orig_patch_image_size=args["orig_patch_image_size"],
        interpolate_position=args.get("interpolate_position", False),
        scale_resids=args["scale_resids"],
        dropout=args["dropout"],
        attention_dropout=args["attention_dropout"],
        activation_dropout=args["activation_dropout"],
        encoder_drop_path=args["encoder_drop_path_rate"],
        decoder_drop_path=args["decoder_drop_path_rate"],
        resnet_drop_path=args["resnet_drop_path_rate"],
        batch_norm_eps=1e-3 if args["sync_bn"] else 1e-5,
        batch_norm="frozen" if args.get("freeze_resnet", False) else "batch",
    )
    return dataclasses.replace(base, **overrides)


class Fixture:
    """One fixture folder.

    Attributes:
      path: the folder.
      config: its parsed `config.json`.
    """

    def __init__(self, path: pathlib.Path | str) -> None:
        self.path = pathlib.Path(path)
        if not (self.path / "config.json").is_file():
            raise FileNotFoundError(f"{self.path} holds no config.json: not a fixture folder")
        self.config: dict[str, Any] = self._json("config.json")

    def _json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    def optional_json(self, name: str) -> Any | None:
        """A parsed file of the folder, or None where it has none of that name."""
        return self._json(name) if (self.path / name).is_file() else None

    def case_names(self) -> list[str]:
        """Names of all cases that have a file, in the order of the configuration, then by name."""
        found = {p.stem.removeprefix("case_") for p in self.path.glob("case_*.npz")}
        listed = [name for name in self.config.get("cases", {}) if name in found]
        return listed + sorted(found - set(listed))

    def vocab_subset(self) -> np.ndarray:
        """int[c] official ids of the columns that the cases' `out.logits` keep."""
        path = self.path / "vocab_subset.npy"
        return np.load(path) if path.is_file() else np.arange(self.config["vocab_size"])

    def layout(self) -> VocabLayout:
        """The vocabulary layout of the fixture."""
        config = self.config
        return VocabLayout(
            num_text=config["mask"] - 4,
            num_codes=config["bin_start"] - config["code_start"],
            num_bins=config["vocab_size"] - config["bin_start"],
        )

    def state_dict(self) -> dict[str, np.ndarray]:
        """The official state dict in float32, ties stored once."""
        with np.load(self.path / "weights.npz") as weights:
            return {name: weights[name].astype(np.float32) for name in weights}

    def case(self, name: str) -> Case:
        """Reads one case, with inputs borrowed where its file has outputs only."""
        with np.load(self.path / f"case_{name}.npz") as arrays:
            own = {key: arrays[key] for key in arrays}
        for lender in self._lenders(name, own):
            with np.load(self.path / f"case_{lender}.npz") as arrays:
                inputs = {k: arrays[k] for k in arrays if k.startswith("in.")}
            own = {**inputs, **own}
        return Case(self, name, own)

    def _lenders(self, name: str, own: dict[str, np.ndarray]) -> list[str]:
        """Cases whose inputs complete this one: the one named in front of its suffix."""
        if "in.src_tokens" in own and not name.endswith("_interp"):
            return []
        others = [n for n in self.case_names() if n != name and name.startswith(n + "_")]
        return sorted(others, key=len)[-1:]


@dataclasses.dataclass(frozen=True)
class Case:
    """One case of a fixture: official inputs and outputs.

    Attributes:
      fixture: where it comes from.
      name: the case's name.
      arrays: "in.*", "out.*", "mid.*", "w.*" arrays with official ids and NCHW images.
    """

    fixture: Fixture
    name: str
    arrays: dict[str, np.ndarray]

    @property
    def noise(self) -> dict[str, float]:
        """Measured |float32 - float64| of the official run: "encoder_out", "logits"; may be {}."""
        return self.fixture.config.get("cases", {}).get(self.name, {}).get("fp32_noise", {})

    def options(self) -> dict[str, Any]:
        """Official arguments that this case changes.

        `sample_patch_num` is left out: evaluation never samples, the kept patches are inputs.
        """
        listed = self.fixture.config.get("cases", {}).get(self.name, {}).get("opts", {})
        options = {key: value for key, value in listed.items() if key != "sample_patch_num"}
        if any(key.endswith("w_resid") for key in self.arrays):
            options["scale_resids"] = True
        return options

    def model_config(self, **overrides: Any) -> OFAConfig:
        """The configuration of this case."""
        return config_from_fixture(self.fixture.config, **{**self.options(), **overrides})

    def variables(self, config: OFAConfig) -> dict[str, Any]:
        """Our variables with the fixture's weights and the case's additional ones."""
        extra = {
            key.removeprefix("w."): value.astype(np.float32)
            for key, value in self.arrays.items()
            if key.startswith("w.")
        }
        return to_params({**self.fixture.state_dict(), **extra}, config)

    def batch(self) -> dict[str, np.ndarray]:
        """The inputs as a batch of ours (see `ofa_jax.model.ofa.OFA`); images are float32."""
        arrays = self.arrays
        target = arrays.get("in.target", arrays["in.prev_output_tokens"])
        target = swap_official_ids(target.astype(np.int32))
        batch = {
            "encoder_input_tokens": swap_official_ids(arrays["in.src_tokens"].astype(np.int32)),
            "decoder_input_tokens": swap_official_ids(
                arrays["in.prev_output_tokens"].astype(np.int32)
            ),
            "decoder_target_tokens": target,
            "decoder_loss_weights": (target != 0).astype(np.float32),
        }
        if "in.code_masks" in arrays:
            batch["decoder_code_masks"] = arrays["in.code_masks"]
        if "in.patch_images" in arrays:
            images = arrays["in.patch_images"].astype(np.float32)
            batch["encoder_images"] = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
            batch["encoder_image_masks"] = arrays.get("in.patch_masks", np.ones(len(images), bool))
        return batch

    def patch_orders(self) -> np.ndarray | None:
        """int32[b, p] patches that the case keeps, or None."""
        return self.arrays.get("in.patch_orders")

    def output(self, name: str) -> np.ndarray:
        """An output array, e.g. "encoder_out", with official ids."""
        return self.arrays[f"out.{name}"]

    def has(self, name: str) -> bool:
        """Whether the case has this output."""
        return f"out.{name}" in self.arrays
