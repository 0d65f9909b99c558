"""A store of TFDS that tests write."""

import io

import numpy as np

from tests.data.sources.photographs import annotated


def store(tfds, directory, forms=("array_record", "tfrecord")):
    """The photographs with captions, boxes, expressions and classes, stored by TFDS itself."""
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/id": np.int64,
            "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(names=["thing", "other"]),
                    "is_crowd": np.bool_,
                    "refexp": tfds.features.Sequence({"raw": tfds.features.Text()}),
                }
            ),
            "label": tfds.features.ClassLabel(names=["n01", "n02"]),
        }
    )
    records = []
    for one in annotated():
        x0, y0, x1, y1 = one.box
        box = tfds.features.BBox(
            ymin=y0 / one.height, xmin=x0 / one.width, ymax=y1 / one.height, xmax=x1 / one.width
        )
        crowd = tfds.features.BBox(ymin=0.0, xmin=0.0, ymax=0.5, xmax=0.5)
        texts = [[f"the {one.label}", f"{one.label} here"], []]
        objects = {
            "bbox": [box, crowd],
            "label": [1, 0],
            "is_crowd": [False, True],
            "refexp": [{"raw": raw} for raw in texts],
        }
        records.append(
            {
                "image": io.BytesIO(one.image),
                "image/id": one.number,
                "captions": {"text": list(one.captions)},
                "objects": objects,
                "label": one.number % 2,
            }
        )
    for form in forms:
        data_dir = directory / form / "photographs" / "1.0.0"
        data_dir.mkdir(parents=True)
        identity = tfds.core.dataset_info.DatasetIdentity(
            name="photographs",
            version=tfds.core.Version("1.0.0"),
            data_dir=str(data_dir),
            module_name="tests",
        )
        info = tfds.core.DatasetInfo(builder=identity, features=features)
        writer = tfds.core.SequentialWriter(info, max_examples_per_shard=3, file_format=form)
        writer.initialize_splits(["train"])
        for record in records:
            record["image"].seek(0)
            writer.add_examples({"train": [record]})
        writer.close_all()
