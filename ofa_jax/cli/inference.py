"""The command lines of evaluation and inference.

The everyday options are short names of gin settings: both end in one function call that gin
configures, and any other setting can be given as `--gin.NAME=VALUE`.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from ofa_jax.cli import shell

# Options that give macros; messages name them.
_FLAGS = {
    "CHECKPOINT_PATH": "--checkpoint",
    "MIXTURE_OR_TASK_NAME": "--task",
    "MIXTURE_OR_TASK_MODULE": "--module",
    "EVAL_OUTPUT_DIR": "--output",
    "INFER_OUTPUT_DIR": "--output",
    "DATA_DIR": "--data",
    "VOCAB_DIR": "--vocabulary",
    "BATCH_SIZE": "--batch_size",
    "INSTRUCTION": "--instruction",
    "SPLITS": "--split",
    "IMAGES": "--image",
}


def run_eval(arguments: Sequence[str]) -> int:
    """Parses the command line of `python -m ofa_jax.eval` and evaluates.

    Returns:
      Exit status, see `shell.run`.
    """
    parser = _parser("eval", "Evaluates a checkpoint on the splits of a task or mixture.")
    add = parser.add_argument
    add("--task", help="registered task or mixture")
    add("--split", action="append", help="repeatable; default validation")
    add("--data", type=shell.path, help="DATA_DIR, the directory of the task's files")
    add("--num_examples", type=shell.whole, help="the first so many; default all")
    options, bindings = _options(parser, arguments)
    function = "eval_script.evaluate"
    locations = {"DATA_DIR": options.data, "VOCAB_DIR": options.vocabulary}
    chosen = {
        "MIXTURE_OR_TASK_NAME": options.task,
        "MIXTURE_OR_TASK_MODULE": options.module and tuple(options.module),
        "SPLITS": options.split and tuple(options.split),
        "EVAL_OUTPUT_DIR": options.output,
        "LOCATIONS": {name: path for name, path in locations.items() if path} or None,
        f"{function}.num_examples": options.num_examples,
    }

    required = ("MIXTURE_OR_TASK_NAME", "EVAL_OUTPUT_DIR")
    return _run(function, "ofa_jax.evaluation.evaluate", options, chosen, bindings, required)


def run_infer(arguments: Sequence[str]) -> int:
    """Parses the command line of `python -m ofa_jax.infer` and answers.

    Returns:
      Exit status, see `shell.run`.
    """
    parser = _parser("infer", "Answers an instruction about images.")
    add = parser.add_argument
    add("--image", action="append", type=shell.path, help="file, directory or pattern; repeatable")
    add("--instruction", help='such as "what does the image describe?"')
    add("--task", help="a task of the model instead, such as grounded_captioning")
    add("--field", action="append", type=_field, help="NAME=TEXT that the task reads; repeatable")
    add("--region", type=_numbers, help="x0,y0,x1,y1 in pixels, for {region}")
    add("--answers", type=shell.path, help="allowed: a,b,c or a .txt, .json or .pkl file")
    add("--split", help="of the prepared data set; default validation")
    add("--image_side", type=shell.whole, help="side of the model's input in pixels")
    add("--without_image", action="store_true", help="the instruction is about text alone")
    options, bindings = _options(parser, arguments)
    function = "infer_script.infer"
    chosen = {
        "INSTRUCTION": options.instruction,
        f"{function}.task": options.task,
        f"{function}.module": options.module and tuple(options.module),
        f"{function}.fields": dict(options.field) if options.field else None,
        "IMAGES": options.image and tuple(options.image),
        "INFER_OUTPUT_DIR": options.output,
        f"{function}.region": options.region,
        f"{function}.answers": options.answers,
        f"{function}.split": options.split,
        f"{function}.vocabulary": options.vocabulary,
        f"{function}.image_side": options.image_side,
        f"{function}.without_image": options.without_image or None,
    }

    return _run(function, "ofa_jax.inference.infer", options, chosen, bindings)


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m ofa_jax.{verb}",
        description=description,
        epilog="Any other setting can be given as --gin.NAME=VALUE.",
    )
    add = parser.add_argument
    checkpoint = "run directory, gs:// address, .pt, HuggingFace or hub id"
    add("--checkpoint", type=shell.path, help=checkpoint)
    add("--module", action="append", help="module that registers --task; repeatable; it is run")
    add("--output", type=shell.path, help="directory of the results")
    add("--overwrite", action="store_true", help="throw away what --output holds of other inputs")
    add("--vocabulary", type=shell.path, help="its directory; default beside the checkpoint")
    add("--prepared", type=shell.path, help="directory of prepared shards, instead of files")
    add("--best", type=shell.whole, help="so many answers, with their probabilities")
    add("--batch_size", type=shell.whole, help="images per step, over all devices")
    tokenizer = "last.ckpt, codebook.npz or module:function: shows image codes as images"
    add("--image_tokenizer", type=shell.path, help=tokenizer)
    add("--gin_file", action="append", help="may be repeated")
    add("--print_config", action="store_true", help="print the settings and stop")
    return parser


def _options(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    from ofa_jax.cli import gin_files

    others, bindings = gin_files.split_overrides(arguments)
    return parser.parse_args(others), bindings


def _field(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=TEXT")
    return name, value


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(shell.real(part) for part in text.split(","))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not x0,y0,x1,y1") from error


def _run(
    name: str,
    home: str,
    options: argparse.Namespace,
    chosen: dict[str, object],
    bindings: list[str],
    required: Sequence[str] = (),
) -> int:
    def run() -> None:
        import gin

        from ofa_jax.cli import gin_files
        from ofa_jax.runs.settings import MACROS

        files = [f"gin_configs/native/{name.partition('_')[0]}.gin", *(options.gin_file or ())]
        both = {
            "CHECKPOINT_PATH": options.checkpoint,
            "BATCH_SIZE": options.batch_size,
            f"{name}.prepared_data": options.prepared,
            f"{name}.best": options.best,
            f"{name}.overwrite": options.overwrite or None,
            f"{name}.image_tokenizer": options.image_tokenizer,
        }
        given = {key: value for key, value in {**both, **chosen}.items() if value is not None}
        lines = [*(f"{key} = {value!r}" for key, value in given.items()), *bindings]
        gin_files.check_task(files, lines, _FLAGS)
        shell.set_up_process()
        module, _, short = name.rpartition(".")
        function = getattr(importlib.import_module(home), short)
        gin.clear_config()
        configurable = gin.external_configurable(function, short, module=module)
        more = {"required": required, "types": MACROS, "flags": _FLAGS}
        gin_files.parse(files, lines, {name: function}, **more)
        if options.print_config:
            print(gin_files.resolved())
            return
        configurable()

    return shell.run(run)
