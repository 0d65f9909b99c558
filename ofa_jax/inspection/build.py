"""An inspection from beginning to end: reads, measures, draws, writes a directory."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np

from ofa_jax import schema
from ofa_jax.checkpoint.bucket import is_remote
from ofa_jax.data.sources import bucket_file, locations
from ofa_jax.data.sources.example import Example
from ofa_jax.errors import started
from ofa_jax.inspection import charts, summary
from ofa_jax.inspection.advice import advice
from ofa_jax.inspection.opening import OpenedData
from ofa_jax.inspection.page import page_html
from ofa_jax.inspection.sheet import Tile, save_sheet, tile
from ofa_jax.inspection.survey import Survey, sample_numbers, survey
from ofa_jax.inspection.tokens import TaskView, views
from ofa_jax.report.plots import save_groups
from ofa_jax.schema import Between

_LENGTHS = {"inputs": 1024, "targets": 1024}
_IMAGE_SIZE = 384
_NO_VOCABULARY = (
    "Token ids are not shown: they need the vocabulary. Give --vocab_dir=DIRECTORY (encoder.json, "
    "vocab.bpe and dict.txt, or a HuggingFace OFA directory)"
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What an inspection looks at.

    Attributes:
      limit: most records that are read; None reads all.
      examples: most records on the contact sheet.
      token_examples: records per task.
      image_size: pixels per side of the model input; None: 384, or what `scenes` has.
      vocab_dir: directory of the vocabulary; None takes `OFA_VOCAB_DIR`.
      data_dir: directory with `negative_sample`; None takes `OFA_DATA_DIR`, or the directory around
        the data.
      tasks: names of tasks or mixtures to try; none takes those that suit.
      modules: that register them.
      seed: of the preparation.
    """

    limit: Annotated[int, Between(1, 10**12)] | None = 1000
    examples: Annotated[int, Between(1, 10_000)] = 16
    token_examples: Annotated[int, Between(1, 10_000)] = 3
    image_size: Annotated[int, Between(1, 1 << 16)] | None = None
    vocab_dir: str | None = None
    data_dir: str | None = None
    tasks: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        schema.check(self, "")


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What came of it.

    Attributes:
      text: summary for the terminal.
      files: written files; the page comes first.
    """

    text: str
    files: tuple[pathlib.Path, ...]


def inspect_data(
    opened: OpenedData, directory: str | pathlib.Path, options: Options | None = None
) -> Inspection:
    """Inspects an opened split and writes the directory.

    Args:
      directory: gets `index.html`, `images.png`, `texts.png`, `examples.png`, `summary.txt`.
      options: what to look at.

    Returns:
      Summary and files.

    Raises:
      ValueError: the split is empty, a vocabulary cannot be loaded, or a task does not exist.
    """
    options = options or Options()
    total = len(opened.records)
    if not total:
        raise ValueError(f"{opened.name}: split {opened.split!r} has no records")
    wanted = set(_spread(total, options.limit, options.examples))
    kept: dict[int, Example] = {}

    def keep(number: int, example: Example) -> None:
        if number in wanted:
            kept[number] = example

    found = survey(
        opened.records,
        options.limit,
        extra_fields=opened.extra_fields,
        extra_types=opened.extra_types,
        split=opened.split,
        keep=keep,
    )
    tiles = [tile(number, example) for number, example in kept.items()]
    shown, notice = _token_views(opened, kept, options)
    started()
    return _write(opened, found, tiles, shown, notice, pathlib.Path(directory).expanduser())


def _spread(total: int, limit: int | None, count: int) -> list[int]:
    """`count` of the sampled numbers, evenly spread."""
    sampled = sample_numbers(total, limit)
    places = np.linspace(0, len(sampled) - 1, min(count, len(sampled))).astype(int)
    return sampled[places].tolist()


def has_vocabulary(opened: OpenedData, options: Options) -> bool:
    """Whether token ids can be made: there is a vocabulary, and so a use for TensorFlow."""
    return bool(opened.scenes_preset or options.vocab_dir or _is_set("{VOCAB_DIR}"))


def _token_views(
    opened: OpenedData, examples: Mapping[int, Example], options: Options
) -> tuple[list[TaskView], str]:
    if not has_vocabulary(opened, options):
        return [], _NO_VOCABULARY
    if options.vocab_dir:
        locations.assign("VOCAB_DIR", options.vocab_dir)
    if options.data_dir:
        locations.assign("DATA_DIR", options.data_dir)
    _find_negatives(opened)
    # The registry of tasks brings TensorFlow, an import of seconds.
    from ofa_jax.inspection.registry import candidates

    tasks = candidates(opened, options.tasks, options.modules)
    size = options.image_size or _IMAGE_SIZE
    if opened.scenes_preset:
        size = next(iter(examples.values()))["image"].shape[0]
    lengths = {**_LENGTHS, "image": size}
    shown = views(tasks, examples, lengths, seed=options.seed, most=options.token_examples)
    return shown, ""


def _is_set(template: str) -> bool:
    try:
        locations.resolve(template)
    except ValueError:
        return False
    return True


def _find_negatives(opened: OpenedData) -> None:
    """Takes the directory around the data for `DATA_DIR` where it holds wrong pairs."""
    if _is_set("{DATA_DIR}"):
        return
    place = getattr(opened.source, "directory", None) or dict(opened.facts).get("paths")
    if place and is_remote(locations.resolve(str(place))):
        around = locations.resolve(str(place)).rstrip("/").rpartition("/")[0]
        if around.count("/") > 2 and bucket_file.directory_files(f"{around}/negative_sample"):
            locations.assign("DATA_DIR", around)
    elif place:
        around = pathlib.Path(locations.resolve(str(place))).expanduser().resolve().parent
        if (around / "negative_sample").is_dir():
            locations.assign("DATA_DIR", str(around))


def _write(
    opened: OpenedData,
    found: Survey,
    tiles: Sequence[Tile],
    shown: Sequence[TaskView],
    notice: str,
    directory: pathlib.Path,
) -> Inspection:
    directory.mkdir(parents=True, exist_ok=True)
    groups = [charts.image_group(found), charts.text_group(found)]
    title = f"{opened.name}, split {opened.split} ({opened.format})"
    text = summary.text_of(title, found, opened.facts, shown)
    text = "\n".join([text, *advice(opened, found.types)])
    if notice:
        text += f"\n\n{notice}"
    page = directory / "index.html"
    page.write_text(page_html(opened, found, groups, tiles, shown, notice), encoding="utf-8")
    files = [page, *save_groups(groups, directory)]
    if save_sheet(tiles, directory / "examples.png"):
        files.append(directory / "examples.png")
    (directory / "summary.txt").write_text(text + "\n", encoding="utf-8")
    return Inspection(text, (*files, directory / "summary.txt"))
