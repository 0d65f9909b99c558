"""OFA in plain numpy and float64, one sample at a time, written from SPEC 1 alone.

It shares neither code, names nor layout with `ofa_jax.model`: official state dict, official ids
(pad 1), NCHW images, every bias written out. So it can stand in for the official model at sizes
of which there are no official numbers (`synthetic`), and tells float32 noise from mistakes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import erf

PAD = 1


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Encoder output of one sample.

    Attributes:
      states: float64[n, d].
      keep: bool[n].
      positions: float64[n, d] normalized positions.
    """

    states: np.ndarray
    keep: np.ndarray
    positions: np.ndarray


def bilinear(table: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes [y, x, d] with half-pixel centers and no smoothing (SPEC 1.4)."""

    def resized(values: np.ndarray, size: int) -> np.ndarray:
        old = len(values)
        rows = []
        for i in range(size):
            place = max((i + 0.5) * old / size - 0.5, 0.0)
            low = min(math.floor(place), old - 1)
            share = place - low
            rows.append((1 - share) * values[low] + share * values[min(low + 1, old - 1)])
        return np.stack(rows)

    columns = resized(table, height).transpose(1, 0, 2)
    return resized(columns, width).transpose(1, 0, 2)


def text_bucket(distance: int, bucket_size: int) -> int:
    """Row of the relative text table for query minus key position (SPEC 1.6)."""
    middle, longest = bucket_size // 2, 1024
    if abs(distance) <= middle:
        return distance + bucket_size - 1
    ratio = math.log(abs(distance) / middle) / math.log((longest - 1) / middle)
    far = middle + math.ceil(ratio * (middle - 1))
    return (far if distance > 0 else -far) + bucket_size - 1


def image_bucket(query: int, key: int, side: int) -> int:
    """Row of the relative image table for two position ids (SPEC 1.6)."""
    span = 2 * side - 1
    if query == 0 or key == 0:
        return span * span + (2 if query == key else 0 if query == 0 else 1)
    (query_row, query_column), (key_row, key_column) = (
        divmod(query - 1, side),
        divmod(key - 1, side),
    )
    return (query_row - key_row + side - 1) * span + query_column - key_column + side - 1


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def convolve(images: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Cross-correlates [c, y, x] with OIHW, padded by half of the kernel."""
    margin = kernel.shape[-1] // 2
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[2:], axis=(1, 2))
    return np.einsum("cyxij,ocij->oyx", windows[:, ::stride, ::stride], kernel, optimize=True)


class Reference:
    """The official model of one fixture's configuration."""

    def __init__(
        self, weights: Mapping[str, np.ndarray], config_json: Mapping[str, Any], **options: Any
    ) -> None:
        """Takes weights and sizes.

        Args:
          weights: official names to arrays, ties stored once.
          config_json: the parsed `config.json` of a fixture directory.
          **options: arguments that a case changes.
        """
        self.weights = {name: np.asarray(array, np.float64) for name, array in weights.items()}
        self.args = {**config_json["args"], **options}
        self.blocks = config_json["resnet_layers"]
        self.heads = self.args["encoder_attention_heads"]
        self.side = self.args["image_bucket_size"]

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centered = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-5)
        return centered / deviation * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _split(self, x: np.ndarray) -> np.ndarray:
        """[n, d] to [h, n, k]."""
        return x.reshape(len(x), self.heads, -1).transpose(1, 0, 2)

    def _scaled_query(self, x: np.ndarray, name: str) -> np.ndarray:
        query = self._split(self._linear(x, name))
        return query * (2 * query.shape[-1]) ** -0.5

    def _position_bias(
        self, query: np.ndarray, key: np.ndarray, names: tuple[str, str]
    ) -> np.ndarray:
        """[h, t, n] absolute logits."""
        return self._scaled_query(query, names[0]) @ self._split(
            self._linear(key, names[1])
        ).transpose(0, 2, 1)

    def _attend(
        self, x: np.ndarray, memory: np.ndarray, bias: np.ndarray, keep: np.ndarray, name: str
    ) -> np.ndarray:
        """Attention of SPEC 1.7; keep [t, n] says which key a query may see."""
        key, value = (self._split(self._linear(memory, f"{name}.{p}_proj")) for p in "kv")
        logits = self._scaled_query(x, f"{name}.q_proj") @ key.transpose(0, 2, 1) + bias
        heads = softmax(np.where(keep, logits, -np.inf)) @ value
        heads = heads * self.weights[f"{name}.c_attn"][:, None, None]
        return self._linear(heads.transpose(1, 0, 2).reshape(len(x), -1), f"{name}.out_proj")

    def _feed_forward(self, x: np.ndarray, name: str) -> np.ndarray:
        y = self._linear(self._norm(x, f"{name}.final_layer_norm"), f"{name}.fc1")
        y = 0.5 * y * (1 + erf(y / math.sqrt(2)))
        y = self._linear(self._norm(y, f"{name}.ffn_layernorm"), f"{name}.fc2")
        if self.args.get("scale_resids"):
            x = x * self.weights[f"{name}.w_resid"]
        return x + y

    def _batch_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        weight, bias, mean, variance = (
            self.weights[f"{name}.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        eps = 1e-3 if self.args.get("sync_bn") else 1e-5
        return (x - mean) / np.sqrt(variance + eps) * weight + bias

    def resnet(self, image: np.ndarray) -> np.ndarray:
        """[3, y, x] to [1024, y / 16, x / 16] (SPEC 1.3)."""
        root = "encoder.embed_images"
        x = convolve(image, self.weights[f"{root}.conv1.weight"], 2)
        x = np.maximum(self._batch_norm(x, f"{root}.bn1"), 0)
        x = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
        x = windows[:, ::2, ::2].max(axis=(-2, -1))
        for stage, blocks in enumerate(self.blocks, 1):
            for block in range(blocks):
                name = f"{root}.layer{stage}.{block}"
                stride = 2 if stage > 1 and block == 0 else 1
                y = x
                for i in (1, 2, 3):
                    kernel = self.weights[f"{name}.conv{i}.weight"]
                    y = convolve(y, kernel, stride if i == 2 else 1)
                    y = self._batch_norm(y, f"{name}.bn{i}")
                    y = np.maximum(y, 0) if i < 3 else y
                if block == 0:
                    x = convolve(x, self.weights[f"{name}.downsample.0.weight"], stride)
                    x = self._batch_norm(x, f"{name}.downsample.1")
                x = np.maximum(x + y, 0)
        return x

    def encode(
        self,
        tokens: np.ndarray,
        image: np.ndarray | None = None,
        has_image: bool = True,
        order: np.ndarray | None = None,
    ) -> Encoded:
        """Encodes one sample (SPEC 1.4, 1.5, 1.8).

        Args:
          tokens: int[s] official ids, padded with 1.
          image: float[3, y, x] normalized pixels, or None in a batch without images.
          has_image: False masks the patches.
          order: int[p] flat patches to keep, or None.
        """
        w = self.weights
        s = len(tokens)
        types = w["encoder.type_embedding.weight"]
        x = w["encoder.embed_tokens.weight"][tokens] + types[0]
        x = self._norm(x, "encoder.layernorm_embedding")
        p = self._norm(w["encoder.embed_positions.weight"][:s], "encoder.pos_ln")
        keep, ids = tokens != PAD, np.zeros(0, int)
        if image is not None:
            features = self.resnet(image)
            _, height, width = features.shape
            ids = np.add.outer(np.arange(height) * self.side, np.arange(width) + 1).reshape(-1)
            patches = self._linear(features.reshape(len(features), -1).T, "encoder.image_proj")
            patches = self._norm(patches + types[1], "encoder.patch_layernorm_embedding")
            own = self._image_positions(height, width, ids)
            if order is not None:
                ids, patches, own = ids[order], patches[order], own[order]
            x = np.concatenate([patches, x])
            p = np.concatenate([self._norm(own, "encoder.image_pos_ln"), p])
            keep = np.concatenate([np.full(len(ids), has_image), keep])
        x = x * keep[:, None]
        absolute = self._position_bias(p, p, ("encoder.pos_q_linear", "encoder.pos_k_linear"))
        seen = np.broadcast_to(keep, (len(x), len(x)))
        for layer in range(self.args["encoder_layers"]):
            name = f"encoder.layers.{layer}"
            bias = absolute.copy()
            n = len(ids)
            bias[:, n:, n:] += self._text_bias("encoder", layer, s)
            bias[:, :n, :n] += self._image_bias("encoder", layer, ids)
            y = self._norm(x, f"{name}.self_attn_layer_norm")
            y = self._attend(y, y, bias, seen, f"{name}.self_attn")
            x = x + self._norm(y, f"{name}.attn_ln")
            x = self._feed_forward(x, name)
        return Encoded(self._norm(x, "encoder.layer_norm"), keep, p)

    def _image_positions(self, height: int, width: int, ids: np.ndarray) -> np.ndarray:
        table = self.weights["encoder.embed_image_positions.weight"]
        origin = self.args["orig_patch_image_size"] // 16
        if not self.args.get("interpolate_position") or height * width <= origin * origin:
            return table[ids]
        grid = np.add.outer(np.arange(origin) * self.side, np.arange(origin) + 1)
        return bilinear(table[grid], height, width).reshape(height * width, -1)

    def _text_bias(self, stack: str, layer: int, length: int) -> np.ndarray:
        table = self.weights[f"{stack}.token_rel_pos_table_list.{layer}.weight"]
        size = self.args["token_bucket_size"]
        rows = [[text_bucket(i - j, size) for j in range(length)] for i in range(length)]
        return table[np.array(rows, int).reshape(length, length)].transpose(2, 0, 1)

    def _image_bias(self, stack: str, layer: int, ids: np.ndarray) -> np.ndarray:
        table = self.weights[f"{stack}.image_rel_pos_table_list.{layer}.weight"]
        rows = [[image_bucket(int(i), int(j), self.side) for j in ids] for i in ids]
        return table[np.array(rows, int).reshape(len(ids), len(ids))].transpose(2, 0, 1)

    def decode(
        self, encoded: Encoded, tokens: np.ndarray, is_code: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Teacher forcing of one sample (SPEC 1.9).

        Args:
          encoded: from `encode`.
          tokens: int[t] official ids, bos first.
          is_code: whether the target is image codes.

        Returns:
          Decoder features float64[t, d] and logits float64[t, v].
        """
        w, t = self.weights, len(tokens)
        embedding = w["encoder.embed_tokens.weight"]
        window = self.args["code_image_size"] // 8
        ids = np.add.outer(np.arange(window) * self.side, np.arange(window) + 1).reshape(-1)
        ids = np.concatenate([[0], ids, np.full(t, 1024)])[:t]
        if is_code:
            x = self._norm(embedding[tokens], "decoder.code_layernorm_embedding")
            p = w["decoder.embed_image_positions.weight"][ids]
            p = self._norm(p, "decoder.image_pos_ln")
        else:
            x = self._norm(embedding[tokens], "decoder.layernorm_embedding")
            p = self._norm(w["decoder.embed_positions.weight"][:t], "decoder.pos_ln")
        own_names = ("decoder.self_pos_q_linear", "decoder.self_pos_k_linear")
        cross_names = ("decoder.cross_pos_q_linear", "decoder.cross_pos_k_linear")
        own_bias = self._position_bias(p, p, own_names)
        cross_bias = self._position_bias(p, encoded.positions, cross_names)
        causal = np.tril(np.ones((t, t), bool))
        seen = np.broadcast_to(encoded.keep, (t, len(encoded.keep)))
        for layer in range(self.args["decoder_layers"]):
            name = f"decoder.layers.{layer}"
            relative = (
                self._image_bias("decoder", layer, ids)
                if is_code
                else self._text_bias("decoder", layer, t)
            )
            y = self._norm(x, f"{name}.self_attn_layer_norm")
            y = self._attend(y, y, own_bias + relative, causal, f"{name}.self_attn")
            x = x + self._norm(y, f"{name}.self_attn_ln")
            y = self._norm(x, f"{name}.encoder_attn_layer_norm")
            y = self._attend(y, encoded.states, cross_bias, seen, f"{name}.encoder_attn")
            x = x + self._norm(y, f"{name}.cross_attn_ln")
            x = self._feed_forward(x, name)
        features = self._norm(x, "decoder.layer_norm")
        return features, features @ embedding.T
