"""`infer` over many images, killed at three places: nothing is lost, nothing answered twice."""

import json

import numpy as np
import pytest
from PIL import Image

from ofa_jax.inference import image_stream
from ofa_jax.inference.image_stream import answer_images
from ofa_jax.inference.images import image_files
from ofa_jax.inference.questions import Prediction, Question

COUNT, BATCH = 60, 8


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


class Counting:
    """Answers with the sum of the pixels; counts how often it saw an image."""

    def __init__(self):
        self.seen: dict[int, int] = {}
        self.dies_at = -1

    def check_region(self, pixels, box):
        pass

    def answer(self, questions, task, *, number, **options):
        if number == self.dies_at:
            raise Killed
        sums = [int(np.asarray(question.image).sum()) for question in questions]
        for one in set(sums):
            self.seen[one] = self.seen.get(one, 0) + 1
        return [Prediction(str(one), None, -1.0, (one % 7,)) for one in sums]


@pytest.fixture
def images(tmp_path):
    paths = []
    for number in range(COUNT):
        paths.append(tmp_path / "images" / f"{number:02}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 3), (number, 0, 0)).save(paths[-1])
    paths[17].write_bytes(b"no image")
    return image_files([str(path) for path in paths])


def run(predictor, images, directory):
    asked = Question(None, "what does the image describe?")
    answer_images(predictor, images, asked, "", {}, str(directory), BATCH, inputs={}, facts={})


def rows(directory):
    text = (directory / "predictions" / "answers.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_sixty_images_killed_three_times(images, tmp_path, monkeypatch):
    whole = Counting()
    run(whole, images, tmp_path / "whole")
    predictor, killed = Counting(), tmp_path / "killed"
    # Between two batches.
    predictor.dies_at = 2
    with pytest.raises(Killed):
        run(predictor, images, killed)
    predictor.dies_at = -1
    assert len(rows(killed)) == 2 * BATCH

    # In the middle of a line.
    def torn(path, lines):
        lines = list(lines)
        if path.name == "answers.jsonl" and len(rows(killed)) >= 4 * BATCH - 1:
            with path.open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in lines[:3]) + '{"key": "')
            raise Killed
        append(path, lines)

    def die(*arguments):
        raise Killed

    append = image_stream.append_lines
    with monkeypatch.context() as patch:
        patch.setattr(image_stream, "append_lines", torn)
        with pytest.raises(Killed):
            run(predictor, images, killed)
    # Behind the last answer, before they are in order.
    with monkeypatch.context() as patch:
        patch.setattr(image_stream, "_in_order", die)
        with pytest.raises(Killed):
            run(predictor, images, killed)
    run(predictor, images, killed)
    assert rows(killed) == rows(tmp_path / "whole")
    assert [row["key"] for row in rows(killed)] == [
        image.key for number, image in enumerate(images) if number != 17
    ]
    for file in ("skipped.jsonl", "predictions/answers.jsonl"):
        assert (killed / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    # Only the batch that was torn is asked again.
    assert sum(predictor.seen.values()) - sum(whole.seen.values()) <= BATCH
