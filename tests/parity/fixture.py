"""Reads a directory of official numbers and turns its cases into batches of ours.

The format is that of the oracle fixtures: `config.json`, `weights.npz`, `case_<name>.npz` and
others. Nothing of one directory is assumed: sizes, depths, ResNet, vocabulary and image sizes come
from its configuration.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ofa_jax.checkpoint.names import to_params
from ofa_jax.model.config import OFAConfig, ResNetConfig
from ofa_jax.vocab import VocabLayout, swap_official_ids

# What every checkpoint of OFA has (SPEC 1.1, 2); a model without it is another one.
_REQUIRED: dict[str, Any] = {
    **dict.fromkeys(
        (
            "add_type_embedding",
            "code_layernorm_embedding",
            "decoder_normalize_before",
            "disable_entangle",
            "encoder_normalize_before",
            "layernorm_embedding",
            "no_scale_embedding",
            "patch_layernorm_embedding",
            "scale_attn",
            "scale_fc",
            "scale_heads",
            "share_all_embeddings",
        ),
        True,
    ),
    **dict.fromkeys(
        (
            "adapter",
            "bitfit",
            "cross_self_attention",
            "decoder_prompt",
            "encoder_prompt",
            "entangle_position_embedding",
            "no_cross_attention",
            "no_token_positional_embeddings",
        ),
        False,
    ),
    "activation_fn": "gelu",
    "attn_scale_factor": 2,
}
# Both stacks have the same of these (SPEC 1.1).
_SHARED = ("embed_dim", "ffn_embed_dim", "attention_heads")
# `resnet_layers` of `resnet_type`, where a directory names only the type (SPEC 1.3).
_RESNETS = {
    "resnet18": (2, 2, 2),
    "resnet34": (3, 4, 6),
    "resnet50": (3, 4, 6),
    "resnet101": (3, 4, 23),
    "resnet152": (3, 8, 36),
}


def _check_architecture(args: Mapping[str, Any]) -> None:
    for name, wanted in _REQUIRED.items():
        if args.get(name, wanted) != wanted:
            raise ValueError(
                f"the fixture was made with {name} = {args[name]!r}; every checkpoint of OFA has "
                f"{wanted!r}"
            )
    for name in _SHARED:
        ours, theirs = args[f"encoder_{name}"], args.get(f"decoder_{name}")
        if theirs not in (None, ours):
            raise ValueError(
                f"the fixture has encoder_{name} {ours} and decoder_{name} {theirs}; OFA's two "
                "stacks have the same"
            )
    positions = args.get("max_source_positions"), args.get("max_target_positions")
    if None not in positions and positions[0] != positions[1]:
        raise ValueError(
            f"the fixture has max_source_positions and max_target_positions {positions}; OFA has "
            "the same of both"
        )


def config_from_fixture(config_json: Mapping[str, Any], **options: Any) -> OFAConfig:
    """Our configuration for a fixture.

    Args:
      config_json: the parsed `config.json` of a fixture directory.
      **options: official argument names that a case changes (`interpolate_position`, ...) and
        fields of `OFAConfig` that the caller wants (`layer_stack`, ...).

    Raises:
      ValueError: if the fixture has an architecture switch that OFA's checkpoints never use.
    """
    args = {**config_json["args"]}
    fields = {field.name for field in dataclasses.fields(OFAConfig)}
    overrides = {name: value for name, value in options.items() if name in fields}
    args.update({name: value for name, value in options.items() if name not in fields})
    _check_architecture(args)
    blocks = config_json.get("resnet_layers") or _RESNETS[args["resnet_type"]]
    # Rates do nothing in evaluation, so a directory need not list them.
    rates = {
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "activation_dropout": "activation_dropout",
        "encoder_drop_path": "encoder_drop_path_rate",
        "decoder_drop_path": "decoder_drop_path_rate",
        "resnet_drop_path": "resnet_drop_path_rate",
    }
    base = OFAConfig(
        vocab_size=config_json.get("vocab_size") or args["vocab_size"],
        num_codes=args["code_dict_size"],
        width=args["encoder_embed_dim"],
        ffn_dim=args["encoder_ffn_embed_dim"],
        num_heads=args["encoder_attention_heads"],
        encoder_layers=args["encoder_layers"],
        decoder_layers=args["decoder_layers"],
        resnet=ResNetConfig(stage_blocks=tuple(blocks)),
        token_bucket_size=args["token_bucket_size"],
        image_bucket_size=args["image_bucket_size"],
        max_positions=args["max_source_positions"],
        code_image_size=args["code_image_size"],
        orig_patch_image_size=args["orig_patch_image_size"],
        interpolate_position=args.get("interpolate_position", False),
        scale_resids=args.get("scale_resids", False),
        batch_norm_eps=1e-3 if args.get("sync_bn") else 1e-5,
        batch_norm="frozen" if args.get("freeze_resnet") else "batch",
        **{ours: args.get(theirs, 0.0) for ours, theirs in rates.items()},
    )
    return dataclasses.replace(base, **overrides)


class Fixture:
    """One fixture directory.

    Attributes:
      path: the directory.
      config: its parsed `config.json`.
    """

    def __init__(self, path: pathlib.Path | str) -> None:
        self.path = pathlib.Path(path)
        if not (self.path / "config.json").is_file():
            raise FileNotFoundError(f"{self.path} holds no config.json: not a fixture directory")
        self.config: dict[str, Any] = self._json("config.json")

    def _json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    def optional_json(self, name: str) -> Any | None:
        """A parsed file of the directory, or None where it has none of that name."""
        return self._json(name) if (self.path / name).is_file() else None

    def case_names(self) -> list[str]:
        """Names of all cases that have a file, in the order of the configuration, then by name."""
        found = {p.stem.removeprefix("case_") for p in self.path.glob("case_*.npz")}
        listed = [name for name in self._cases() if name in found]
        return listed + sorted(found - set(listed))

    def _cases(self) -> dict[str, Any]:
        return self.config.get("cases") or {}

    def facts(self, case: str) -> dict[str, Any]:
        """What the configuration says about a case: note, opts, fp32_noise; may be {}."""
        return self._cases().get(case) or {}

    def largest_noise(self) -> dict[str, float]:
        """The largest `fp32_noise` of all cases, per quantity; {} where none was measured."""
        largest: dict[str, float] = {}
        for name in self._cases():
            for quantity, value in (self.facts(name).get("fp32_noise") or {}).items():
                largest[quantity] = max(value, largest.get(quantity, 0.0))
        return largest

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

    def complete_gradients(self, case: str) -> dict[str, np.ndarray]:
        """Whole gradients of a case under official names; {} where the directory has none."""
        path = self.path / f"grads_{case}.npz"
        if not path.is_file():
            return {}
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays}

    def case(self, name: str) -> Case:
        """Reads one case, with inputs borrowed where its file does not repeat them.

        Raises:
          ValueError: inputs are missing and no other case is named that has them.
        """
        own = self._arrays(name)
        if "in.src_tokens" not in own:
            return Case(self, name, {**self._lent(name, "in.", "inputs"), **own})
        # More encoder tokens than text tokens: the official model saw images.
        saw_images = own["out.encoder_out"].shape[1] > own["in.src_tokens"].shape[1]
        if saw_images and "in.patch_images" not in own:
            own = {**self._lent(name, "in.patch_images", "images"), **own}
        return Case(self, name, own)

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.path / f"case_{name}.npz") as arrays:
            return {key: arrays[key] for key in arrays}

    def _lent(self, name: str, prefix: str, what: str) -> dict[str, np.ndarray]:
        """Arrays of the case that this one extends by a suffix, or that its note names."""
        others = [other for other in self.case_names() if other != name]
        note = re.findall(r"\w+", str(self.facts(name).get("note", "")))
        lenders = sorted((n for n in others if name.startswith(n + "_")), key=len, reverse=True)
        for lender in (*lenders, *(n for n in others if n in note)):
            lent = {k: v for k, v in self._arrays(lender).items() if k.startswith(prefix)}
            if lent:
                return lent
        raise ValueError(f"case {name} has no {what}, and no case of {others} is named as theirs")


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
        """Measured |float32 - float64| of the official run: "encoder_out", "logits"; may be {}.

        A case without a measurement has the largest of its directory, since the weights are the
        same.
        """
        listed = self.fixture.facts(self.name).get("fp32_noise")
        return self.fixture.largest_noise() if listed is None else listed

    def options(self) -> dict[str, Any]:
        """Official arguments that this case changes.

        `sample_patch_num` is left out: evaluation never samples, the kept patches are inputs.
        """
        listed = self.fixture.facts(self.name).get("opts") or {}
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
