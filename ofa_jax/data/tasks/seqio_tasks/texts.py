"""Text-to-text tasks that others declared with seqio, as tasks of ours.

Their preprocessors run once, in the order of their files and with one seed; what comes out,
"inputs" and "targets" as texts or as ids, is an example of a task without an image. Ids of the
run's own vocabulary stay as they are, those of another are decoded and tokenized anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import seqio

from ofa_jax import vocab
from ofa_jax.data.sources.example import Example, Source
from ofa_jax.data.sources.text_pairs import TextPairs
from ofa_jax.data.tasks.instruction import Instruction
from ofa_jax.data.tasks.seqio_tasks.task import OFASeqioTask, RecordSource, seqio_arguments
from ofa_jax.data.tasks.seqio_tasks.vocabulary import SeqioVocabulary
from ofa_jax.data.tasks.task import OFATask
from ofa_jax.text.tokenizer import Tokenizer

_SEED = 0
# Feature of the seqio task -> field of the example. Texts begin with a space, as those of ours do.
_FIELDS = {"inputs": "text", "targets": "answer"}
_LINE = " [TEXT:text] -> [TEXT:answer]"


def adapted(
    task: seqio.Task, tokenizer: Callable[[], Tokenizer] | None, *, mixture: str
) -> seqio.Task:
    """A seqio task in the form that our model and both executors read.

    Args:
      task: any seqio task; one of `add_task` comes back as it is.
      tokenizer: of the tasks beside it; None where there are none.
      mixture: what it is part of, for errors.

    Returns:
      A task of the same name, not registered, whose source holds an `OFATask`.

    Raises:
      ValueError: the task is not text to text, or nothing says which vocabulary the model has.
    """
    if isinstance(task.source, RecordSource):
        return task
    features = task.output_features
    if missing := [key for key in _FIELDS if key not in features or features[key].rank > 1]:
        raise ValueError(
            f"{mixture!r}: seqio task {task.name!r} has no text or ids {missing[0]!r} (it has "
            f"{', '.join(features)}); text-to-text tasks with inputs and targets can be mixed with "
            "ours, others are declared by ofa_jax.data.tasks.registration.add_task"
        )
    tokenizer = tokenizer or _own_tokenizer(task)
    if tokenizer is None:
        raise ValueError(
            f"{mixture!r}: nothing says which vocabulary the model has to read seqio task "
            f"{task.name!r} by; put a task made by add_task into the mixture, or make its features "
            "with ofa_jax.data.tasks.seqio_tasks.vocabulary.SeqioVocabulary"
        )
    mine = OFATask(
        name=task.name,
        family=task.name,
        instructions=(Instruction.parse(_LINE),),
        source=cast(Source, TextPairs(task.name, functools.partial(_pairs, task, tokenizer))),
        tokenizer=tokenizer,
        scorer="answer",
    )
    arguments = seqio_arguments(
        mine, task.splits, postprocess_fn=task.postprocessor, metric_fns=task.metric_fns
    )
    return OFASeqioTask(task.name, **arguments)


def _own_tokenizer(task: seqio.Task) -> Callable[[], Tokenizer] | None:
    vocabulary = task.output_features["targets"].vocabulary
    return vocabulary.tokenizer if isinstance(vocabulary, SeqioVocabulary) else None


def _pairs(task: seqio.Task, tokenizer: Callable[[], Tokenizer], split: str) -> Iterator[Example]:
    if split not in task.splits:
        raise ValueError(
            f"task {task.name!r} has no split {split!r}; it has {', '.join(task.splits)}"
        )
    vocabulary = SeqioVocabulary(tokenizer)
    try:
        dataset = task.get_dataset(
            split=split, shuffle=False, seed=_SEED, num_epochs=1, try_in_mem_cache=False
        )
    except Exception as error:  # whatever preprocessors of others raise
        raise ValueError(
            f"task {task.name!r}, split {split!r}: seqio could not read it without sequence "
            f"lengths: {type(error).__name__}: {error}"
        ) from error
    for element in dataset.as_numpy_iterator():
        yield _example(task, vocabulary, element)


def _example(task: seqio.Task, vocabulary: SeqioVocabulary, element: Example) -> Example:
    example: Example = {}
    ids: dict[str, list[int]] = {}
    for key, field in _FIELDS.items():
        theirs = task.output_features[key].vocabulary
        value = np.asarray(element[key])
        if value.dtype.kind not in "iu":
            example[field] = value.item().decode("utf-8")
        elif isinstance(theirs, seqio.PassThroughVocabulary):
            raise ValueError(
                f"task {task.name!r}: its {key} are ids of a PassThroughVocabulary, which has no "
                "texts; give the feature the vocabulary that made them"
            )
        elif theirs == vocabulary:
            specials = (vocab.PAD_ID, vocab.BOS_ID, vocab.EOS_ID)
            ids[field] = [number for number in value.tolist() if number not in specials]
            example[field] = vocabulary.decode(ids[field])
        else:
            example[field] = theirs.decode(value.tolist())
    return example | ({"token_ids": ids} if ids else {})
