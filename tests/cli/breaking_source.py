"""A task whose source breaks once, in the middle of a run, as a disk or the memory does.

OFA_TEST_BREAK is `FILE:NUMBER:WHAT`: reading record number NUMBER for training (counted in each
process, without those that are looked at before) raises an OSError (`error`) or kills the process
that reads (`kill`), unless FILE is there, which is made at that moment.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import signal
import threading

from ofa_jax.data.steps.selection import ChooseQuestion
from ofa_jax.data.tasks.registration import add_task
from ofa_jax.scenes.source import ScenesSplits
from ofa_jax.scenes.tokenizers import scenes_tokenizer
from tasks import instructions
from tasks.scenes import INSTRUCTIONS, SPLITS


class BreakingRecords:
    def __init__(self, records):
        self.records, self.numbers = records, itertools.count(1)

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        file, number, what = os.environ["OFA_TEST_BREAK"].split(":")
        # The input reads in threads of its own.
        is_input = threading.current_thread() is not threading.main_thread()
        if is_input and next(self.numbers) == int(number):
            with contextlib.suppress(FileExistsError):
                pathlib.Path(file).touch(exist_ok=False)
                if what == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(5, "Input/output error", "records.tsv")
        return self.records[index]


@dataclasses.dataclass(frozen=True)
class BreakingSplits(ScenesSplits):
    def open(self, split):
        records = super().open(split)
        return BreakingRecords(records) if split == "train" else records


add_task(
    "breaking_vqa",
    instructions.VQA,
    family="vqa",
    source=BreakingSplits("tiny"),
    tokenizer=functools.partial(scenes_tokenizer, "tiny", INSTRUCTIONS),
    splits=SPLITS,
    prepare=[ChooseQuestion()],
    scorer="answer_by_kind",
)
