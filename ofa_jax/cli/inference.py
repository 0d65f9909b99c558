"""The command lines of evaluation and inference.

The everyday options are short names of gin settings: both end in one function call that gin
configures, and any other setting can be given as `--gin.NAME=VALUE`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from ofa_jax.cli import shell

EVAL_FILE = "gin_configs/runs/eval.gin"
INFER_FILE = "gin_configs/runs/infer.gin"


def run_eval(arguments: Sequence[str]) -> int:
    """Parses the command line of `python -m ofa_jax.eval` and evaluates.

    Returns:
      Exit status, see `shell.run`.
    """
    parser = _parser("eval", "Evaluates a checkpoint on the splits of a task or mixture.")
    parser.add_argument(
        "--checkpoint",
        type=shell.path,
        help="run folder, gs:// address, .pt, HuggingFace or hub id",
    )
    parser.add_argument("--task", help="registered task or mixture")
    parser.add_argument("--module", action="append", help="module that registers it; repeatable")
    parser.add_argument("--split", action="append", help="repeatable; default validation")
    parser.add_argument("--output", type=shell.path, help="folder of the results")
    parser.add_argument("--data", type=shell.path, help="DATA_DIR, the folder of the task's files")
    parser.add_argument(
        "--vocabulary", type=shell.path, help="VOCAB_DIR; default beside the checkpoint"
    )
    parser.add_argument(
        "--prepared", type=shell.path, help="folder of prepared shards instead of the task's files"
    )
    parser.add_argument("--num_examples", type=shell.whole, help="the first so many; default all")
    parser.add_argument("--best", type=shell.whole, help="answers per example in the predictions")
    parser.add_argument(
        "--overwrite", action="store_true", help="predict anew what --output holds of other inputs"
    )
    parser.add_argument(
        "--image_tokenizer",
        type=shell.path,
        help="last.ckpt, codebook.npz or module:function: shows image codes",
    )
    parser.add_argument("--batch_size", type=shell.whole, help="over all devices")
    options, bindings = _options(parser, arguments)
    function = "eval_script.evaluate"
    locations = {"DATA_DIR": options.data, "VOCAB_DIR": options.vocabulary}
    chosen = {
        "CHECKPOINT": options.checkpoint,
        "MIXTURE_OR_TASK_NAME": options.task,
        "MIXTURE_OR_TASK_MODULE": options.module and tuple(options.module),
        "SPLITS": options.split and tuple(options.split),
        "OUTPUT_DIR": options.output,
        "LOCATIONS": {name: path for name, path in locations.items() if path} or None,
        "BATCH_SIZE": options.batch_size,
        f"{function}.prepared_data": options.prepared,
        f"{function}.num_examples": options.num_examples,
        f"{function}.best": options.best,
        f"{function}.overwrite": options.overwrite or None,
        f"{function}.image_tokenizer": options.image_tokenizer,
    }

    def load() -> Callable[..., Any]:
        from ofa_jax.evaluation.evaluate import evaluate

        return evaluate

    required = ("MIXTURE_OR_TASK_NAME", "OUTPUT_DIR")
    return _run(function, load, options, chosen, bindings, EVAL_FILE, required)


def run_infer(arguments: Sequence[str]) -> int:
    """Parses the command line of `python -m ofa_jax.infer` and answers.

    Returns:
      Exit status, see `shell.run`.
    """
    parser = _parser("infer", "Answers an instruction about pictures.")
    parser.add_argument(
        "--image", action="append", type=shell.path, help="file, folder or pattern; repeatable"
    )
    parser.add_argument("--instruction", help='such as "what does the image describe?"')
    parser.add_argument("--task", help="a task of the model instead, such as grounded_captioning")
    parser.add_argument(
        "--module", action="append", help="module that registers --task; repeatable; it is run"
    )
    parser.add_argument(
        "--field", action="append", type=_field, help="NAME=TEXT that the task reads; repeatable"
    )
    parser.add_argument(
        "--checkpoint",
        type=shell.path,
        help="run folder, gs:// address, .pt, HuggingFace or hub id",
    )
    parser.add_argument("--region", type=_numbers, help="x0,y0,x1,y1 in pixels, for {region}")
    parser.add_argument(
        "--answers", type=shell.path, help="allowed answers: a,b,c or a .txt, .json or .pkl file"
    )
    parser.add_argument(
        "--prepared", type=shell.path, help="folder of prepared shards whose pictures are used"
    )
    parser.add_argument("--split", help="of the prepared data set; default validation")
    parser.add_argument(
        "--best", type=shell.whole, help="so many answers, with their probabilities"
    )
    parser.add_argument("--output", type=shell.path, help="folder of the results")
    parser.add_argument(
        "--overwrite", action="store_true", help="throw away what --output holds of other inputs"
    )
    parser.add_argument("--vocabulary", type=shell.path, help="folder of the vocabulary")
    parser.add_argument(
        "--image_side", type=shell.whole, help="side of the model's input in pixels"
    )
    parser.add_argument(
        "--batch_size", type=shell.whole, help="pictures per step, over all devices"
    )
    parser.add_argument(
        "--image_tokenizer",
        type=shell.path,
        help="last.ckpt, codebook.npz or module:function: the answer is a picture",
    )
    parser.add_argument(
        "--without_image", action="store_true", help="the instruction is about text alone"
    )
    options, bindings = _options(parser, arguments)
    function = "infer_script.infer"
    chosen = {
        "CHECKPOINT": options.checkpoint,
        "INSTRUCTION": options.instruction,
        f"{function}.task": options.task,
        f"{function}.module": options.module and tuple(options.module),
        f"{function}.fields": dict(options.field) if options.field else None,
        f"{function}.best": options.best,
        f"{function}.overwrite": options.overwrite or None,
        "IMAGES": options.image and tuple(options.image),
        "OUTPUT_DIR": options.output,
        "BATCH_SIZE": options.batch_size,
        f"{function}.region": options.region,
        f"{function}.answers": options.answers,
        f"{function}.prepared_data": options.prepared,
        f"{function}.split": options.split,
        f"{function}.vocabulary": options.vocabulary,
        f"{function}.image_side": options.image_side,
        f"{function}.image_tokenizer": options.image_tokenizer,
        f"{function}.without_image": options.without_image or None,
    }

    def load() -> Callable[..., Any]:
        from ofa_jax.inference.infer import infer

        return infer

    return _run(function, load, options, chosen, bindings, INFER_FILE, ())


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m ofa_jax.{verb}",
        description=description,
        epilog="Any other setting can be given as --gin.NAME=VALUE.",
    )
    parser.add_argument("--gin_file", action="append", help="may be repeated")
    parser.add_argument("--print_config", action="store_true", help="print the settings and stop")
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
    load: Callable[[], Callable[..., Any]],
    options: argparse.Namespace,
    chosen: dict[str, Any],
    bindings: list[str],
    gin_file: str,
    required: Sequence[str],
) -> int:
    def run() -> None:
        shell.set_up_process()
        import gin

        from ofa_jax.cli import gin_files

        function = load()
        lines = [f"{key} = {value!r}" for key, value in chosen.items() if value is not None]
        module, _, short = name.rpartition(".")
        gin.clear_config()
        configurable = gin.external_configurable(function, short, module=module)
        gin_files.parse(
            [gin_file, *(options.gin_file or ())],
            [*lines, *bindings],
            {name: function},
            required=required,
        )
        if options.print_config:
            print(gin_files.resolved())
            return
        configurable()

    return shell.run(run)
