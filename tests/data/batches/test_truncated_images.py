"""Images that are cut off: bad records in training, decoded in evaluation, and always counted."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

import mixtures.scenes  # noqa: F401  (registers the tasks)
from ofa_jax.data.batches.pipeline import MixturePipeline, evaluation_row
from ofa_jax.data.ops.image import decode_picture
from ofa_jax.data.ops.image_files import BadImageError
from ofa_jax.data.sources.example import InstructionError
from ofa_jax.data.steps.image import DecodeImage, StretchToSquare
from ofa_jax.data.tasks.registration import lookup
from ofa_jax.evaluation.streaming import (
    FileLines,
    predict_split,
    score_split,
    truncated_count,
    write_split,
)
from ofa_jax.inference.answerer import Answers
from ofa_jax.inference.images import image_files
from tests.data.batches.numbered import LENGTHS, make_task

CUT = (2, 5)


def jpeg(number: int) -> bytes:
    """Every second cut one has an end marker behind the cut."""
    pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    data = buffer.getvalue()
    if number not in CUT:
        return data
    return data[: len(data) // 2] + (b"\xff\xd9" if number == CUT[1] else b"")


@dataclasses.dataclass(frozen=True)
class SomeCut:
    """Records of another source with these images."""

    source: object

    def open(self, split):
        records = self.source.open(split)

        class Records:
            def __len__(self):
                return 8

            def __getitem__(self, index):
                return {**records[index], "image": jpeg(index)}

        return Records()


def task():
    found = make_task("captions", prepare=(DecodeImage(), StretchToSquare()))
    return dataclasses.replace(found, source=SomeCut(found.source))


def mixture(**options):
    return MixturePipeline((task(),), (1.0,), LENGTHS, batch_size=8, **options)


def test_training_takes_them_for_bad_records(caplog):
    with pytest.raises(InstructionError, match=r"record \d: the .* is cut off"):
        mixture().batch(0)
    skipping = mixture(on_bad_record="skip")
    batch = next(skipping.iterate())
    assert batch["decoder_loss_weights"].any(axis=1).sum() == 6
    assert skipping.skipped.total == 2
    assert not skipping.skipped.truncated
    assert "cut off" in caplog.text


def test_training_decodes_them_by_setting_and_counts_them(caplog):
    decoding = mixture(truncated_images="decode")
    batch = next(decoding.iterate())
    assert batch["decoder_loss_weights"].any(axis=1).all()
    assert decoding.skipped.truncated == {"captions": 2}
    assert decoding.skipped.total == 0
    assert "task 'captions', record 5: its image is cut off" in caplog.text
    with pytest.raises(ValueError, match=r"truncated_images .*'ke"):
        mixture(truncated_images="keep")


def test_evaluation_decodes_them():
    one = task()
    records = one.source.open("validation")
    for index in range(8):
        example, row = evaluation_row(one, records, index, LENGTHS, seed=0)
        assert example.get("image_is_truncated", False) == (index in CUT)
        assert row["encoder_images"].any()
    with pytest.raises(ValueError, match="cut off"):
        evaluation_row(one, records, 2, LENGTHS, seed=0, truncated_images="drop")


@pytest.mark.parametrize(("treatment", "kept"), [("decode", 8), ("drop", 6)])
def test_a_streamed_evaluation_counts_them(tmp_path, treatment, kept):
    vqa = lookup("scenes_vqa")[0][0]
    steps = (DecodeImage(), StretchToSquare())
    vqa = dataclasses.replace(
        vqa,
        source=SomeCut(vqa.source),
        prepare=(*steps, *vqa.prepare),
        eval_prepare=(*steps, *(vqa.eval_prepare or vqa.prepare)),
    )
    work = FileLines(tmp_path / "work" / "it.jsonl")
    lengths = {"inputs": 28, "targets": 20, "image": 32}

    def oracle(task, rows, number):
        targets = rows["decoder_target_tokens"][:, None]
        return Answers(targets, np.zeros((4, 1)), np.zeros((4, 1)))

    tally = predict_split(
        vqa,
        oracle,
        lengths,
        split="validation",
        lines=work,
        batch_size=4,
        truncated_images=treatment,
    )
    assert (tally.examples, tally.skipped) == (8, 8 - kept)
    scored = score_split(vqa, [work])
    write_split(vqa, [work], scored, tmp_path, name="it", lengths=lengths, split="validation")
    assert scored.skipped == 8 - kept
    assert truncated_count([work]) == kept - 6
    rows = (tmp_path / "predictions" / "it.jsonl").read_text().splitlines()
    assert [json.loads(row)["index"] for row in rows] == [
        index for index in range(8) if treatment == "decode" or index not in CUT
    ]


def test_inference_answers_them_and_says_so(tmp_path, caplog):
    paths = []
    for number in range(3):
        paths.append(str(tmp_path / f"{number}.jpg"))
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    found = [image.read() for image in image_files(paths)]
    assert all(pixels.shape == (48, 64, 3) for _, pixels in found)
    assert caplog.text.count("is cut off") == 1


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(320, 240), (321, 243)], ids=["whole blocks", "odd"])
@pytest.mark.parametrize(
    "kind",
    [{}, {"restart_marker_blocks": 4}, {"restart_marker_rows": 1}, {"progressive": True}],
    ids=["plain", "restarts", "restarts of rows", "progressive"],
)
def test_a_cut_before_an_end_marker_is_seen(mode, size, kind):
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    waves = [100 + 90 * np.sin(columns / 17 + k) + 20 * np.cos(rows / 5) for k in range(3)]
    image = Image.fromarray(np.stack(waves, -1).clip(0, 255).astype(np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **kind)
    whole = buffer.getvalue()
    assert not decode_picture(whole, truncated="decode").truncated
    last_scan = whole.rfind(b"\xff\xda")
    # Of a progressive file, anywhere before its last scan.
    length = last_scan if "progressive" in kind else len(whole)
    for share in (0.3, 0.5, 0.7, 0.97):
        cut = whole[: int(length * share)] + b"\xff\xd9"
        assert decode_picture(cut, truncated="decode").truncated, share
        # Within a table, the marker is taken for a part of it.
        with pytest.raises(BadImageError, match=r"cut off|is truncated"):
            decode_picture(cut)
