"""TFDS: schemas by its mock data, values by a small data set stored in both file formats."""

import numpy as np
import pytest

from ofa_jax.data.sources import tfds as source_module
from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.schema import check_example
from ofa_jax.data.sources.tfds import TfdsSource
from tests.data.sources.checks import examples_of, same
from tests.data.sources.photographs import annotated
from tests.data.sources.tfds_store import store


def stacked(values):
    """A sequence of structures as TFDS yields it: a structure of lists."""
    if isinstance(values[0], dict):
        return {key: stacked([value[key] for value in values]) for key in values[0]}
    return values


@pytest.fixture(scope="module")
def tfds():
    return pytest.importorskip("tensorflow_datasets")


def coherent(tfds, feature, name=""):
    """A value of a feature as `as_data_source` yields it, images encoded.

    TFDS's own mock values will not do: the parts of a sequence have different lengths (DATA 2).
    """
    if isinstance(feature, tfds.features.Sequence):
        return stacked([coherent(tfds, feature.feature, name)] * 2)
    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: coherent(tfds, one, key) for key, one in feature.items()}
    if isinstance(feature, tfds.features.Image):
        return annotated()[0].image
    if isinstance(feature, tfds.features.BBoxFeature):
        return np.float32([0.25, 0.5, 0.75, 1.0])
    dtype = np.dtype(feature.np_dtype)
    return dtype.type(1) if dtype.kind in "biuf" else f"text of {name}".encode()


BOXES = np.float32([[80, 26.75, 160, 80.25]] * 2)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (
            "coco_captions",
            {"captions": ["text of text"] * 2, "type": "caption", "objects": ["1"]},
        ),
        ("coco/2017", {"boxes": BOXES, "labels": ["1", "1"], "type": "detection"}),
        ("open_images_v4/300k", {"boxes": BOXES, "type": "detection"}),
        ("open_images_challenge2019_detection/300k", {"boxes": BOXES, "type": "detection"}),
        (
            "ref_coco/refcoco_unc",
            {
                "boxes": BOXES,
                "refexps": ["text of raw"] * 4,
                "refexp_box_index": [0, 0, 1, 1],
                "type": "visual_grounding",
            },
        ),
        ("imagenet2012", {"label": "n01443537", "type": "classification"}),
        ("glue/cola", {"sentence1": "text of sentence", "label": "acceptable"}),
        ("glue/mnli", {"sentence1": "text of premise", "label": "neutral"}),
        ("glue/qnli", {"sentence2": "text of sentence", "label": "not_entailment"}),
        ("glue/qqp", {"sentence2": "text of question2", "label": "duplicate"}),
        ("glue/rte", {"sentence2": "text of sentence2", "label": "not_entailment"}),
        ("gigaword", {"text": "text of document", "summary": "text of summary"}),
    ],
)
def test_schemas_of_tfds(tfds, tmp_path, monkeypatch, name, fields):
    monkeypatch.setattr(source_module, "_open", source_module._open.__wrapped__)
    crowd = {"is_crowd": [np.bool_(False)] * 2}

    def records(self, split, decoders=None, **options):
        assert ("image" in self.info.features) == ("image" in (decoders or {}))
        example = coherent(tfds, self.info.features)
        if "is_crowd" in example.get("objects", {}):
            example["objects"] |= crowd
        return [example] * 2

    policy = tfds.testing.MockPolicy.USE_CODE
    with tfds.testing.mock_data(2, policy=policy, as_data_source_fn=records):
        found = TfdsSource(name, str(tmp_path)).open("train")
        assert len(found) == 2
        example = found[1]
        with pytest.raises(IndexError, match=r"index 2 .* 2 records"):
            found[2]
    check_example(example, name)
    assert example["dataset"] == name
    same({field: example[field] for field in fields}, fields)
    if "image" in example:
        assert example["image"] == annotated()[0].image


@pytest.fixture(scope="module")
def stored(tfds, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    store(tfds, directory)
    return directory


@pytest.mark.parametrize("form", ["array_record", "tfrecord"])
def test_stored_data(stored, monkeypatch, form):
    monkeypatch.setattr(source_module, "_BLOCK", 3)

    def source(kind, **more):
        return TfdsSource("photographs", str(stored / form), kind, **more)

    captions = examples_of(source("caption"))
    boxes = examples_of(source("detection"))
    expressions = examples_of(source("visual_grounding"))
    for number, one in enumerate(annotated()):
        picture = {"image": one.image, "image_id": str(one.number), "dataset": "photographs"}
        texts = {"captions": list(one.captions), "caption": one.captions[0]}
        same(captions[number], picture | texts | {"objects": ["other", "thing"], "type": "caption"})
        found = {"boxes": np.float32([one.box]), "labels": ["other"], "objects": ["other"]}
        same(boxes[number], picture | found | {"type": "detection"})
        corner = (0, 0, one.width / 2, one.height / 2)
        said = {
            "boxes": np.float32([one.box, corner]),
            "refexps": [f"the {one.label}", f"{one.label} here"],
            "refexp_box_index": [0, 0],
        }
        same(expressions[number], picture | said | {"type": "visual_grounding"})
    classes = examples_of(source("classification"))
    assert [one["label"] for one in classes] == ["n02", "n01", "n02", "n01"]

    names = stored / "names.txt"
    names.write_text("n01 tench, Tinca tinca\nn02 goldfish\n")
    found = examples_of(source("classification", label_names=str(names), dataset="imagenet"))
    assert [one["label"] for one in found[:2]] == ["goldfish", "tench, Tinca tinca"]
    assert found[0]["dataset"] == "imagenet"
    names = stored / "fewer.txt"
    names.write_text("n01 tench\n")
    records = source("classification", label_names=str(names)).open("train")
    with pytest.raises(SourceError, match=r"photographs, train, example 0: .*class 'n02'"):
        records[0]
    with pytest.raises(SourceError, match=r"no feature 'document'; .*'summary'"):
        source("summary").open("train")[0]
    with pytest.raises(SourceError, match="has no split 'test'"):
        source("caption").open("test")


def test_what_is_not_there_is_named(tfds, tmp_path):
    with pytest.raises(SourceError, match="no data set 'nowhere'"):
        TfdsSource("nowhere", str(tmp_path), "text").open("train")
    message = r"gigaword/1\.2\.0 is not prepared in .*; run: tfds build gigaword --file_format=arr"
    with pytest.raises(SourceError, match=message):
        TfdsSource("gigaword", str(tmp_path)).open("train")
    for place in ("gigaword/1.1.0", "glue/sst2/2.0.0", "glue/cola/1.0.0", "gigaword/1.3.0"):
        (tmp_path / place).mkdir(parents=True)
        if place != "gigaword/1.3.0":  # A preparation that was stopped.
            (tmp_path / place / "dataset_info.json").write_text("{}")
    for name, build, there in (
        ("glue", "glue/cola", "configuration .* named glue/cola:1.0.0 or glue/sst2:2.0.0"),
        ("glue/cola", "glue/cola", "version is prepared there, to be named glue/cola:1.0.0;"),
        ("glue/mrpc", "glue/mrpc", "another configuration is prepared there, to be named glue/c"),
    ):
        with pytest.raises(SourceError, match=f"{there}.* run: tfds build {build} "):
            TfdsSource(name, str(tmp_path)).open("train")
    message = (
        r"is not prepared in .*; another version is prepared there, to be named gigaword:1\.1\.0"
    )
    with pytest.raises(SourceError, match=message):
        TfdsSource("gigaword", str(tmp_path), dataset="again").open("validation")
    message = r"no data set 'gigaword:9\.9\.9': .*; another version .* named gigaword:1\.1\.0"
    with pytest.raises(SourceError, match=message):
        TfdsSource("gigaword:9.9.9", str(tmp_path)).open("train")


def test_declarations_are_checked():
    with pytest.raises(ValueError, match=r"'mnist' .*not known; giv"):
        TfdsSource("mnist")
    with pytest.raises(ValueError, match=r"kind 'captions'; .*caption"):
        TfdsSource("mnist", kind="captions")
    assert TfdsSource("mnist", kind="image").reader() == "image"
    assert TfdsSource("glue/mnli:2.0.0").reader() == "sentences"
