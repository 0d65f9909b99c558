"""Drawing: boxes land where they belong, curves keep their numbers."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from ofa_jax.report import images as report_images
from ofa_jax.report import plots
from ofa_jax.report.collect import collect


def _noise(width, height):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_small_images_are_enlarged_without_interpolation():
    image = _noise(32, 24)
    large = report_images.enlarge(image)
    assert large.size == (384, 288)
    np.testing.assert_array_equal(np.asarray(large)[::12, ::12], np.asarray(image))


def test_large_images_are_reduced():
    assert report_images.enlarge(_noise(800, 400)).size == (320, 160)
    assert report_images.enlarge(_noise(384, 100)).size == (384, 100)


def _has(image, colour, x, y, reach=3):
    """Whether a colour occurs within `reach` pixels of a place."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    part = np.asarray(image)[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
    return bool((part == wanted).all(axis=-1).any())


def test_boxes_are_drawn_at_their_places():
    image = Image.new("RGB", (32, 32), "#808080")
    boxes = [
        report_images.DrawnBox((4, 8, 12, 16), predicted=False),
        report_images.DrawnBox((20, 20, 28, 30), predicted=True),
    ]
    drawn = report_images.draw_boxes(image, boxes)
    assert _has(drawn, report_images.TRUE_COLOUR, 48, 140)
    assert _has(drawn, report_images.TRUE_COLOUR, 144, 100)
    assert _has(drawn, report_images.PREDICTED_COLOUR, 240, 240, reach=6)
    assert _has(drawn, report_images.PREDICTED_COLOUR, 336, 360, reach=6)
    assert not _has(drawn, report_images.PREDICTED_COLOUR, 48, 140)
    assert not _has(drawn, report_images.TRUE_COLOUR, 290, 300)
    # The same box, in pixels of an image of twice the size.
    doubled = [report_images.DrawnBox([2 * v for v in b.box], b.predicted) for b in boxes]
    assert report_images.draw_boxes(image, doubled, (64, 64)).tobytes() == drawn.tobytes()


def test_boxes_on_an_image_that_keeps_its_size():
    image = Image.new("RGB", (1200, 600), "#808080")
    box = report_images.DrawnBox((700, 200, 1000, 500), predicted=True, label="a dog")
    drawn = report_images.draw_boxes(image, [box], reduce=False)
    assert drawn.size == (1200, 600)
    assert _has(drawn, report_images.PREDICTED_COLOUR, 700, 350, reach=30)
    assert _has(drawn, report_images.PREDICTED_COLOUR, 715, 185)
    changed = (np.asarray(drawn) != 128).any(axis=-1)
    assert changed.mean() < 0.05, "lines and tags of large images stay thin"
    small = report_images.draw_boxes(Image.new("RGB", (32, 32)), [box], (1200, 600), reduce=False)
    assert small.size == (384, 384)


def test_boxes_beyond_the_border_are_drawn_at_it():
    image = Image.new("RGB", (32, 32), "#808080")
    box = report_images.DrawnBox((-50, -50, 90, 90), predicted=False, label="everything")
    drawn = report_images.draw_boxes(image, [box])
    assert drawn.size == (384, 384)
    assert _has(drawn, report_images.TRUE_COLOUR, 4, 200)
    assert _has(drawn, report_images.TRUE_COLOUR, 379, 200)


def test_flat_images_are_encoded_without_loss():
    image = report_images.enlarge(Image.new("RGB", (4, 4), "#12ab9f"))
    uri = report_images.data_uri(image)
    head, body = uri.split(",")
    assert head == "data:image/png;base64"
    decoded = Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB")
    assert decoded.tobytes() == image.tobytes()
    assert report_images.data_uri(_noise(64, 64)).startswith("data:image/jpeg;base64,")


def test_unreadable_image_is_none(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert report_images.load_image(tmp_path / "broken.png") is None
    assert report_images.load_image(tmp_path / "absent.png") is None


def test_smoothing_keeps_lines_and_means():
    line = np.arange(20.0)
    np.testing.assert_allclose(plots.smooth(line, 5)[2:-2], line[2:-2])
    np.testing.assert_allclose(plots.smooth(np.array([0.0, 3.0, 0.0]), 3), [1.5, 1.0, 1.5])


def test_panels_of_a_run(run_dir):
    record = collect(run_dir)
    loss, scores, speed = (
        make(record) for make in (plots.loss_group, plots.score_group, plots.speed_group)
    )
    assert len(loss.panels) == 11
    assert loss.panels[0].title == "All tasks"
    assert [panel.title for panel in scores.panels][:3] == [
        "Visual grounding",
        "Grounded captioning",
        "VQA",
    ]
    assert "79.0% after 4800 steps" in scores.panels[2].description
    assert len(speed.panels) == 4


@pytest.mark.parametrize("values", [[1.0], [-1.0, -2.0], [2.0] * 6, [0.0, 0.0], [1e-9, 1e9]])
def test_odd_curves_can_be_drawn(tmp_path, values):
    lines = [f'{{"step": {i}, "loss": {v}, "gradient_norm": {v}}}' for i, v in enumerate(values)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    record = collect(tmp_path)
    groups = [plots.loss_group(record), plots.speed_group(record)]
    paths = plots.save_groups(groups, tmp_path / "report")
    assert [path.name for path in paths] == ["loss.png", "speed.png"]
    assert all(Image.open(path).size[0] > 300 for path in paths)
    svg = base64.b64decode(plots.panel_svg(groups[0].panels[0]).split(",")[1]).decode()
    assert "system-ui" in svg
    assert "DejaVu" not in svg


def test_one_evaluation_says_that_it_is_one(tmp_path):
    rows = [{"step": 10, "eval/vqa/accuracy": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) for row in rows))
    [panel] = plots.score_group(collect(tmp_path)).panels
    assert panel.description == "VQA: accuracy 50.0% after 10 steps, one evaluation only"
