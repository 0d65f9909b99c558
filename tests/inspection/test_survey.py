"""Counts and measures of records, and of records that are not as they should be."""

import numpy as np

from ofa_jax.inspection import charts, survey
from tests.data.sources.photographs import annotated

PHOTOGRAPH = annotated()[0]


def record(**fields):
    example = {
        "image": PHOTOGRAPH.image,
        "image_id": "one",
        "captions": ["a temple", "this is a temple"],
        "boxes": np.array([PHOTOGRAPH.box, PHOTOGRAPH.second_box], np.float32),
        "labels": ["temple", "sky"],
        "type": "detection",
    }
    return example | fields


class Records(list):
    """Records; an exception in the list is raised where it is read."""

    def __getitem__(self, index):
        found = super().__getitem__(index)
        if isinstance(found, Exception):
            raise found
        return found


def test_counts_lengths_and_sizes():
    records = Records([record(), record(captions=[], labels=["temple", "temple"])])
    found = survey.survey(records)
    assert found.total == 2
    assert found.complete
    assert found.types == {"detection": 2}
    captions = found.fields["captions"]
    assert (captions.present, captions.types["empty"], captions.entries) == (1, 1, [2])
    assert list(found.fields) == ["image", "image_id", "captions", "boxes", "labels", "type"]
    assert found.words["captions"] == [2, 4]
    assert found.frequent["labels"] == {"temple": 3, "sky": 1}
    assert found.widths == [PHOTOGRAPH.width] * 2
    assert found.heights == [PHOTOGRAPH.height] * 2
    assert found.formats == {"JPEG": 2}
    assert found.image_bytes == [len(PHOTOGRAPH.image)] * 2
    assert found.boxes == [2, 2]
    x0, y0, x1, y1 = PHOTOGRAPH.box
    share = (x1 - x0) * (y1 - y0) / (PHOTOGRAPH.width * PHOTOGRAPH.height)
    assert np.isclose(found.box_sides[0], np.sqrt(share))
    assert not found.faults


def test_faults_are_counted_and_named():
    nan = np.array([[0, 0, np.nan, 5]], np.float32)
    inverted = np.array([[50, 5, 10, 9]], np.float32)
    outside = np.array([[0, 0, 900, 9]], np.float32)
    records = Records(
        [
            record(),
            ValueError("line 7 is cut off"),
            record(image=PHOTOGRAPH.image[:40]),
            record(image=b"", boxes=inverted, labels=["x"]),  # no image, nothing to compare
            *(record(boxes=box, labels=["x"]) for box in (nan, inverted, outside)),
            record(labels=["only one"]),
            record(colour="red"),
        ]
    )
    found = survey.survey(records)
    counts = {name: fault.count for name, fault in found.faults.items()}
    assert counts == {
        "unreadable record": 1,
        "unreadable image": 1,
        "box inverted or outside its image": 3,
        "not as the schema says": 2,
    }
    assert found.faulty == 7
    assert found.faults["unreadable record"].examples == ["record 1: line 7 is cut off"]
    schema = " ".join(found.faults["not as the schema says"].examples)
    assert "1 labels for 2 boxes" in schema
    assert "unknown field 'colour'" in schema
    assert np.isfinite(found.box_sides).all()


def test_a_sample_is_evenly_spread_and_kept():
    records = Records([record(image_id=str(number)) for number in range(50)])
    kept = {}
    found = survey.survey(records, 5, keep=lambda number, one: kept.update({number: one}))
    assert found.sampled.tolist() == [0, 12, 24, 36, 49]
    assert not found.complete
    assert [one["image_id"] for one in kept.values()] == ["0", "12", "24", "36", "49"]
    assert survey.sample_numbers(3, 5).tolist() == [0, 1, 2]


def test_embedded_worlds_may_have_more_fields_and_types():
    records = Records([record(scene={"background": "white"}, type="scene")])
    assert survey.survey(records).faulty == 1
    found = survey.survey(records, extra_fields=("scene",), extra_types=("scene",))
    assert not found.faults
    assert found.fields["scene"].example == "background: white"


def test_bins_of_histograms():
    assert charts.edges_of(np.array([3.0, 3.0])).tolist() == [2.5, 3.5]
    assert charts.edges_of(np.array([1.0, 4.0])).tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    many = np.arange(1000.0)
    edges = charts.edges_of(many)
    assert len(edges) <= 42
    assert (np.diff(edges) == np.diff(edges)[0]).all()
    outlier = np.append(np.ones(999), 10_000.0)
    assert charts.edges_of(outlier)[-1] < 10, "one outlier does not flatten the rest"
    counts, _ = np.histogram(np.minimum(outlier, charts.edges_of(outlier)[-1] - 1e-9),
                             charts.edges_of(outlier))  # fmt: skip
    assert counts.sum() == 1000
    assert len(charts.edges_of(np.array([0.5, 0.5]))) == 41


def test_rows_without_truth_are_told_but_in_test_splits():
    records = [
        {"type": "qa", "question": "what?", "answers": answers} for answers in (["a"], [" "], [])
    ]
    found = survey.survey(records, split="train")
    [told] = [name for name in found.faults if "no answers: prepare drops it" in name]
    assert found.faults[told].count == 2
    assert not [name for name in survey.survey(records, split="testA").faults if "no ans" in name]


def test_a_quote_that_never_closes_is_told():
    records = Records([record(captions=['"a red bus', '"a" red bus', 'a 5" screen', '"'])])
    (fault,) = survey.survey(records).faults.values()
    assert (fault.what, fault.count) == ("a quote that opens a text and never closes", 2)
    assert "record 0 ('one'): captions" in fault.examples[0]
