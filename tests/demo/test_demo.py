"""The HTTP interface and the page's endpoints, in this process, on a model of random weights."""

import concurrent.futures
import io
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the extra `demo` is not installed")

from starlette.testclient import TestClient

from ofa_jax.demo.__main__ import main as run_demo
from ofa_jax.demo.answers import as_data, drawn
from ofa_jax.demo.page import new_scene
from ofa_jax.demo.serve import application
from ofa_jax.inference.questions import Prediction
from ofa_jax.scenes.presets import PRESETS


def image_file(width: int = 40, height: int = 30, kind: str = "PNG", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def client(settings, tmp_path_factory):
    uploads = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        app, model = application(settings)
        with TestClient(app, base_url="http://127.0.0.1:7860") as client:
            client.model = model
            yield client
        model.close()


def ask(client, file: bytes | None = None, **fields):
    files = {} if file is None else {"image": ("image.png", file)}
    return client.post("/api/answer", data=fields, files=files)


def test_the_tasks_and_limits_are_listed(client):
    listed = client.get("/api/tasks").json()
    assert listed["tasks"]["vqa"]["fields"] == ["question"]
    assert listed["tasks"]["grounded_captioning"]["fields"] == ["region"]
    assert listed["limits"]["max_characters"] == 40
    assert listed["settings"]["beams"] == 5


def test_a_question_with_closed_answers_has_the_probability_of_each(client):
    found = ask(client, image_file(), task="vqa", question="red?", answers="yes, no", best=2).json()
    assert {one["text"] for one in found["answers"]} == {"yes", "no"}
    assert sum(one["probability"] for one in found["answers"]) == pytest.approx(1, abs=1e-3)
    assert found["text"] == found["answers"][0]["text"]
    assert found["boxes"] == []


def test_concurrent_questions_have_the_answers_that_they_have_alone(client):
    files = [image_file(30 + number) for number in range(6)]

    def caption(file):
        answer = ask(client, file, task="captioning", method="beam", beams=2, best=2)
        assert answer.status_code == 200, answer.text
        return answer.json()

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        together = list(pool.map(caption, files))
    for file, found in zip(files, together):
        alone = caption(file)
        assert found["text"] == alone["text"]
        assert found["probability"] == pytest.approx(alone["probability"], rel=1e-4)


def test_what_is_drawn_by_a_seed_is_drawn_again(client):
    options = {"task": "captioning", "method": "sampling", "temperature": 2, "best": 2}
    first, again, other = (
        ask(client, image_file(), seed=seed, **options).json() for seed in (1, 1, 2)
    )
    assert first == again
    assert first["text"] != other["text"]


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"task": "vqa"}, 400, "task 'vqa' needs a question"),
        ({"task": "vqq", "question": "a"}, 400, "unknown task 'vqq'; did you mean vqa?"),
        ({"task": "vqa", "questoin": "a"}, 400, "unknown field 'questoin'; did you mean question?"),
        ({}, 400, "give either a task or an instruction; GET /api/tasks lists the tasks"),
        ({"task": "captioning", "beams": "many"}, 400, "beams must be a whole number, got 'many'"),
        (
            {"task": "captioning", "beams": "11"},
            400,
            "beams must be a whole number from 1 to 10, got 11",
        ),
        ({"task": "vqa", "question": "a" * 41}, 400, "a text has 41 characters; at most 40"),
        ({"task": "vqa", "question": "z q " * 10}, 400, "tokens; task 'vqa' reads at most 30"),
        ({"task": "grounded_captioning", "region": "1,2"}, 400, "region '1,2' is not x0,y0,x1,y1"),
        ({"task": "grounded_captioning"}, 400, "needs a region: draw it, or write x0,y0,x1,y1"),
        (
            {"task": "grounded_captioning", "region": "1,2,90,nan"},
            400,
            "region 1,2,90,nan is not inside the image of 40x30 pixels",
        ),
        ({"instruction": "what? {region}"}, 400, "a region takes the place of {region}"),
    ],
    ids=lambda value: None if isinstance(value, int) else str(value)[:24],
)
def test_a_mistake_is_one_line_of_json(client, fields, status, said):
    answer = ask(client, image_file(), **fields)
    assert answer.status_code == status
    line = answer.json()["error"]
    assert said in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("file", "status", "said"),
    [
        pytest.param(b"root:x:0:0", 400, "the image cannot be read", id="text"),
        pytest.param(b"", 400, "no bytes", id="empty"),
        pytest.param(None, 400, "task 'captioning' needs an image", id="none"),
        pytest.param(image_file(120, 90, "JPEG"), 413, "the image is too large", id="pixels"),
        pytest.param(b"\0" * 30_000, 413, "the file has 0.0 MB; at most 0.02", id="bytes"),
        pytest.param(b"\0" * 1_200_000, 413, "the file has 1.2 MB; at most 0.02", id="body"),
    ],
)
def test_a_bad_file_is_refused(client, file, status, said):
    answer = ask(client, file, task="captioning")
    assert (answer.status_code, answer.json().keys()) == (status, {"error"})
    assert said in answer.json()["error"]


def test_too_many_are_told_to_come_back(client, monkeypatch):
    monkeypatch.setattr(client.model, "_open", client.model.settings.max_waiting)
    answer = ask(client, image_file(), task="captioning")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json() == {"error": "64 questions wait already; ask again in a moment"}


def call(client, name: str, *data):
    """What gradio's own client does: an event, then its stream."""
    joined = client.post(f"/gradio_api/call/{name}", json={"data": list(data)})
    if joined.status_code != 200:
        return joined.json()
    stream = client.get(f"/gradio_api/call/{name}/{joined.json()['event_id']}").text
    kind, payload = stream.split("event: ")[-1].split("\ndata: ")
    return kind, json.loads(payload)


SETTINGS = ["task", 1, 5, 1, 0, 0, 0, 0.05]


def uploaded(client, file: bytes) -> dict:
    [path] = client.post("/gradio_api/upload", files={"files": ("a.png", file)}).json()
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_the_page_asks_too(client):
    kind, found = call(client, "captioning", uploaded(client, image_file()), *SETTINGS)
    assert kind == "complete"
    assert found[0] == found[3]["text"]
    kind, error = call(client, "vqa", uploaded(client, image_file()), " ", "", *SETTINGS)
    assert (kind, error["error"]) == ("error", "task 'vqa' needs a question")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "https://127.0.0.1/a.png", "../../etc/passwd"], ids=str
)
def test_no_file_is_read_but_uploads(client, path):
    given = {"path": path, "meta": {"_type": "gradio.FileData"}}
    kind, error = call(client, "captioning", given, *SETTINGS)
    assert kind == "error"
    assert "root:" not in str(error)
    answer = client.get(f"/gradio_api/file={path}", follow_redirects=False)
    assert answer.status_code in (302, 307, 400, 403, 404)
    assert "root:" not in answer.text


def test_inline_images_and_large_uploads_are_refused(client):
    given = {"url": "data:image/png;base64,AAAA", "meta": {"_type": "gradio.FileData"}}
    assert call(client, "captioning", given, *SETTINGS)[0] == "error"
    answer = client.post("/gradio_api/upload", files={"files": ("a.png", b"\0" * 30_000)})
    assert answer.status_code == 413


def test_another_host_name_is_refused(client):
    assert client.get("/api/tasks", headers={"Host": "evil.example"}).status_code == 400


def test_an_uncertain_box_is_marked_and_drawn_otherwise():
    image = np.full((60, 80, 3), 200, np.uint8)
    sure = Prediction("", (5, 5, 40, 40), 0.0, (), box_probability=0.5)
    data, doubtful = (as_data(sure, below) for below in (0.4, 0.6))
    assert [one["uncertain"] for one in data["boxes"] + doubtful["boxes"]] == [False, True]
    assert np.any(np.asarray(drawn(image, data)) != np.asarray(drawn(image, doubtful)))
    assert drawn(image, as_data(Prediction("a", None, 0.0, ()), 0.5)) is None


def test_a_new_scene_has_something_to_ask():
    image, said, values = new_scene(PRESETS["tiny"])
    assert image.size == (32, 32)
    assert said.startswith("In this scene: a")
    assert "<mask>" in values["text"]
    assert len(values["region"].split(",")) == 4


def test_a_taken_port_and_a_wrong_limit_are_one_line(capsys):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run_demo([f"--port={port}"]) == 2
    assert f"--port {port} cannot be listened at" in capsys.readouterr().err
    assert run_demo(["--max_waiting=0"]) == 2
    assert "max_waiting must be a whole number from 1 to 10,000, got 0" in capsys.readouterr().err
