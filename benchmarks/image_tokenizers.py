"""A trained VQGAN beside the k-means patch codebook, at the same grid and number of codes.

    python -m ofa_jax.train --gin_file=gin_configs/runs/image_tokenizer.gin
    python -m benchmarks.image_tokenizers --run=runs/image_tokenizer

Both reconstruct the same held-out scenes. `readable` is the share of reconstructions that the scene
reader, which is no network, reads back as the very scene.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time

import numpy as np

from ofa_jax.data.ops.image_tokenizer import PatchCodebook, decode_all, encode_all
from ofa_jax.image_codes import load_vqgan
from ofa_jax.metrics.image import code_use, psnr
from ofa_jax.scenes.presets import preset
from ofa_jax.scenes.reader import read
from ofa_jax.scenes.source import ScenesSource

FITTED = 2048
SPLITS = ("validation", "compositions")
# A batch of the VQGAN on a CPU.
BATCH = 64


def reconstructed(tokenizer, images):
    """(reconstructions, codes) of uint8[n, y, x, 3]."""
    codes = np.concatenate([encode_all(tokenizer, p) for p in batches(images)])
    return np.concatenate([decode_all(tokenizer, part) for part in batches(codes)]), codes


def batches(values):
    return [values[start : start + BATCH] for start in range(0, len(values), BATCH)]


def readable(images, scenes, world):
    """Share of images that are read as their scene."""
    found = [read(image, world) == scene for image, scene in zip(images, scenes, strict=True)]
    return sum(found) / len(found)


def training_seconds(run):
    """Seconds of work that a run logged."""
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["time"]


def compare(run: pathlib.Path, world: str, splits: dict[str, int]) -> None:
    """Prints a line per tokenizer and split."""
    vqgan = load_vqgan(run / "last.ckpt")
    train = ScenesSource(world, "train").images(range(FITTED))
    start = time.perf_counter()
    means = PatchCodebook.fit(train, num_codes=vqgan.num_codes, patch=vqgan.patch)
    rows = {
        "k-means": (means, time.perf_counter() - start),
        "VQGAN": (vqgan, training_seconds(run)),
    }
    side = preset(world).pixels // vqgan.patch
    print(f"{world}: {side} x {side} codes of {vqgan.num_codes}")
    print("| tokenizer | seconds | split | PSNR, dB | codes used | perplexity | readable |")
    print("|---|---|---|---|---|---|---|")
    for split, count in splits.items():
        source = ScenesSource(world, split)
        images = source.images(range(count))
        scenes = [source.scene(index) for index in range(count)]
        for name, (tokenizer, seconds) in rows.items():
            shown, codes = reconstructed(tokenizer, images)
            use = code_use(codes, vqgan.num_codes)
            print(
                f"| {name} | {seconds:.0f} | {split} | {psnr(images, shown):.2f} "
                f"| {use['codes_used']:.0%} | {use['perplexity']:.1f} "
                f"| {readable(shown, scenes, world):.3f} |"
            )
        print(f"| original | | {split} | | | | {readable(images, scenes, world):.3f} |", flush=True)


def main() -> None:
    """Compares a run with k-means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=pathlib.Path, default=pathlib.Path("runs/image_tokenizer"))
    parser.add_argument("--world", default="tiny", help="preset of scenes")
    parser.add_argument("--count", type=int, default=512, help="held-out images")
    options = parser.parse_args()
    compare(
        options.run, options.world, {"validation": options.count, "compositions": options.count}
    )


if __name__ == "__main__":
    main()
