"""The seven GLUE tasks as questions with one-word answers (SPEC 8.7, 7.5)."""

from ofa_jax.data.steps.finetuning import LabelWord, Sentences
from ofa_jax.data.tasks.answering import Answering, AnswerList

from . import instructions
from .finetuning import add, files

# Class, as `ofa_jax.data.sources.tsv_layouts` names it, -> word.
WORDS = {
    "cola": {"unacceptable": "no", "acceptable": "yes"},
    "mnli": {"neutral": "maybe", "entailment": "yes", "contradiction": "no"},
    "mrpc": {"not_equivalent": "no", "equivalent": "yes"},
    "qnli": {"not_entailment": "no", "entailment": "yes"},
    "qqp": {"not_duplicate": "no", "duplicate": "yes"},
    "rte": {"not_entailment": "no", "entailment": "yes"},
    "sst2": {"negative": "negative", "positive": "positive"},
}
SCORERS = {"cola": "correlated_answer", "mrpc": "yes_or_no", "qqp": "yes_or_no"}


def source(name: str):
    """The official files of one task, in its own directory below `DATA_DIR`."""
    splits = {"train": "train", "validation": "dev", "test": "test"}
    return files(name, **{split: f"{name}/{file}.tsv" for split, file in splits.items()})


def answering(name: str, *, renormalize: bool = True) -> Answering:
    """The decoder reads the whole source again; the answer is one token without eos."""
    return Answering(
        decoder_prompt="source_and_eos",
        ends_with_eos=False,
        max_tokens=1,
        answers=AnswerList(tuple(WORDS[name].values())),
        method="candidates",
        renormalize=renormalize,
        submission="glue",
    )


for task, words in WORDS.items():
    add(
        f"glue_{task}",
        instructions.GLUE[task],
        family=f"glue_{task}",
        source=source(task),
        prepare=[Sentences(max_words=512), LabelWord.of(words)],
        scorer=SCORERS.get(task, "answer"),
        answering=answering(task),
    )
