"""Converts checkpoints between fairseq, HuggingFace and our own format.

    python -m ofa_jax.convert --source ofa_base.pt --target runs/ofa_base --target_format orbax
    python -m ofa_jax.convert --source OFA-Sys/ofa-base --target ofa_base.pt \
        --target_format fairseq
    python -m ofa_jax.convert --size base --stem resnet101.pth --target runs/start \
        --target_format orbax

The source is recognized by its content. Import and export give back every tensor bit for bit:
directories of ours keep float32 and note the dtypes of the source, which `--dtype source` restores.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from ofa_jax.checkpoint.bucket import local_directory
from ofa_jax.checkpoint.exports import EXPORT_DTYPES, TARGET_FORMATS, export_checkpoint
from ofa_jax.checkpoint.fairseq_cfg import OFFICIAL_TASKS
from ofa_jax.checkpoint.imports import import_checkpoint
from ofa_jax.checkpoint.vocabulary import open_vocabulary
from ofa_jax.cli import shell
from ofa_jax.model.config import SIZES
from ofa_jax.sharding.mesh import require_devices
from ofa_jax.text.layouts import write_layout
from ofa_jax.text.tokenizer import load_tokenizer


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ofa_jax.convert",
        description="Convert OFA checkpoints between fairseq, HuggingFace and orbax.",
    )
    add = parser.add_argument
    add(
        "--source",
        type=shell.path,
        help=".pt file, HuggingFace directory or repository id, or a directory of ours",
    )
    add("--target", type=shell.path, required=True, help=".pt file (fairseq) or a new directory")
    add("--target_format", required=True, choices=TARGET_FORMATS)
    add(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="take the moving average of the weights; by default where the scores of our run were "
        "its own, or the official scripts evaluate it (VQA)",
    )
    add(
        "--tolerant",
        action="store_true",
        help="keep what the source lacks at initialization and drop what is unknown, and say so",
    )
    add(
        "--dictionary_without_mask",
        action="store_true",
        help="the source's dictionary lacks <mask>: cut a last embedding row beyond the model's "
        "(with --size)",
    )
    add("--size", choices=sorted(SIZES), help="the model; by default taken from the source")
    add("--dtype", default="source", choices=EXPORT_DTYPES, help="of exported tensors")
    add("--stem", type=shell.path, help="torchvision ResNet weights that replace the image stem")
    add("--layer_stack", choices=("loop", "scan"), help="layout of the layers (orbax)")
    add("--revision", help="branch, tag or commit of a HuggingFace repository")
    add(
        "--vocabulary",
        type=shell.path,
        help="directory or hub repository whose vocabulary files go to the target; they must fit "
        "the weights. By default those beside the source",
    )
    add(
        "--ignore_extra_rows",
        action="store_true",
        help="the embedding has up to 1,023 rows more than the vocabulary, as padding: cut them",
    )
    add("--legacy", action="store_true", help="fairseq: the file format of torch before 1.6")
    add(
        "--task",
        default="",
        choices=tuple(OFFICIAL_TASKS),
        metavar="NAME",
        help="fairseq: official task that the file is for; by default what the source says. One of "
        + ", ".join(OFFICIAL_TASKS),
    )
    add("--seed", type=shell.whole, default=0, help="of whatever is initialized")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one conversion.

    Args:
      arguments: command line without the program name; None = `sys.argv`.

    Returns:
      Exit status, see `shell.run`.
    """
    parser = _arguments()
    args = parser.parse_args(arguments)
    if args.source is None and args.size is None:
        parser.error("--source is needed (or --size, to start from initialization)")
    if args.dictionary_without_mask and args.size is None:
        parser.error("--dictionary_without_mask needs --size, which says how many rows are right")
    start = time.monotonic()

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {line}", flush=True)

    def run() -> None:
        require_devices()
        local_directory(args.target, "--target")
        imported = import_checkpoint(
            args.source,
            config=SIZES[args.size] if args.size else None,
            ema=args.ema,
            tolerant=args.tolerant,
            dictionary_has_mask=not args.dictionary_without_mask,
            stem=args.stem,
            layer_stack=args.layer_stack,
            revision=args.revision,
            seed=args.seed,
            progress=progress,
        )
        tokenizer = None
        asked = args.vocabulary or args.ignore_extra_rows
        try:
            if asked or args.target_format != "fairseq":
                tokenizer, imported = open_vocabulary(
                    imported, args.vocabulary, ignore_extra_rows=args.ignore_extra_rows
                )
        except FileNotFoundError:
            if asked:
                raise
        export_checkpoint(
            imported,
            args.target,
            args.target_format,
            dtype=args.dtype,
            legacy=args.legacy,
            task=args.task,
            progress=progress,
        )
        written = tokenizer is not None and args.target_format != "fairseq"
        # The files alone may not say how many codes and bins the weights have.
        if written and load_tokenizer(args.target).layout != tokenizer.layout:
            write_layout(args.target, tokenizer.layout)
        progress("done")

    return shell.run(run)


if __name__ == "__main__":
    sys.exit(main())
