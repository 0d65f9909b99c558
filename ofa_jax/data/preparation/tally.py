"""Counts of a preparation: what was kept, what was dropped and why. Tallies of shards add up."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable

from ofa_jax.atomic import JsonObject
from ofa_jax.data.preparation.reasons import Reason, RejectedExample
from ofa_jax.data.sources.box_units import OTHER_SHAPE
from ofa_jax.data.sources.left_out import LeftOut

# What is counted about images, whether their examples are kept or dropped, and about examples.
NO_TRUTH = "no_truth"
NOTES = {
    "rotation_tag": "images carry a rotation tag (EXIF)",
    "truncated_image": "images are cut off and stored with what there is of them",
    OTHER_SHAPE: "images have another shape than their annotations say",
    NO_TRUTH: "examples have no truth: they are predicted, neither trained nor scored",
}


@dataclasses.dataclass
class Tally:
    """Counts over some records, in record order.

    Attributes:
      records: records read.
      types: examples kept, by type.
      dropped: examples dropped, by reason; of the first of them `record` (number in the source),
        `id` (None where the record could not be read) and `detail`.
      removed_boxes: boxes removed from kept examples, by reason.
      notes: images and examples by what is noted about them, keys of `NOTES`.
    """

    records: int = 0
    types: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    dropped: LeftOut = dataclasses.field(default_factory=LeftOut)
    removed_boxes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    notes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @property
    def examples(self) -> int:
        """Examples kept."""
        return sum(self.types.values())

    def keep(
        self, example_type: str, removed_boxes: Iterable[Reason] = (), notes: Iterable[str] = ()
    ) -> None:
        """Counts an example that is stored."""
        self.records += 1
        self.types[example_type] += 1
        self.removed_boxes.update(reason.value for reason in removed_boxes)
        self.notes.update(notes)

    def drop(self, record: int, identifier: str | None, rejection: RejectedExample) -> None:
        """Counts an example that is not."""
        self.records += 1
        named = {"record": record, "id": identifier, "detail": rejection.detail}
        self.dropped.add(rejection.reason, named)
        self.notes.update(rejection.notes)

    def add(self, later: Tally) -> None:
        """Adds the counts of records that come after these."""
        self.records += later.records
        self.types.update(later.types)
        self.dropped.update(later.dropped)
        self.removed_boxes.update(later.removed_boxes)
        self.notes.update(later.notes)

    def as_dict(self) -> dict[str, object]:
        """The counts with sorted names, as the manifest shows them."""
        return {
            "records": self.records,
            "examples": self.examples,
            "kinds": dict(sorted(self.types.items())),
            "dropped": self.dropped.as_dict(),
            "removed_boxes": dict(sorted(self.removed_boxes.items())),
            "notes": dict(sorted(self.notes.items())),
        }

    @classmethod
    def from_dict(cls, values: JsonObject) -> Tally:
        """The inverse of `as_dict`; other entries are ignored."""
        return cls(
            records=values["records"],
            types=collections.Counter(values["kinds"]),
            dropped=LeftOut.from_dict(values["dropped"]),
            removed_boxes=collections.Counter(values["removed_boxes"]),
            notes=collections.Counter(values["notes"]),
        )
