"""The HTTP interface: `POST /api/answer`, `GET /api/tasks`; every error is one line of JSON."""

from __future__ import annotations

import base64
import dataclasses
import io
import logging
import typing
from collections.abc import Mapping
from typing import Any

import fastapi
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.types import ASGIApp, Receive, Scope, Send

from ofa_jax import schema
from ofa_jax.atomic import JsonObject
from ofa_jax.data.tasks.card import TaskCard
from ofa_jax.demo.asking import AnswerSettings, Asked, BusyError, DemoModel, TooLargeError
from ofa_jax.demo.batching import StoppedError

logger = logging.getLogger("ofa_jax")

_OWN_NAMES = ("task", "image", "instruction", "region", "answers", "uncertain_below", "drawn")
# What a request may hold beside its file.
_ROOM_FOR_TEXT = 1 << 20
_STATUSES: Mapping[type[Exception], int] = {
    TooLargeError: 413,
    BusyError: 503,
    StoppedError: 503,
    ValueError: 400,
}


def message_of(error: Exception) -> tuple[int, str]:
    """The HTTP status and the one line for what went wrong; a bug goes to the log."""
    for error_type, status in _STATUSES.items():
        if isinstance(error, error_type):
            return status, " ".join(str(error).split())
    logger.error("a question failed", exc_info=error)
    return 500, "the demo failed at this question; its log says why"


def read_asked(form: Mapping[str, str], model: DemoModel) -> tuple[Asked, float | None]:
    """A question from texts, such as the fields of a form.

    Args:
      form: task or instruction, region, answers, uncertain_below, the fields of the task, and the
        attributes of `AnswerSettings`; what is missing or empty has its default.
      model: knows the tasks.

    Returns:
      (the question without its image, uncertain_below).

    Raises:
      ValueError: an unknown name, or a value that cannot be.
    """
    given = {name: text for name, text in form.items() if text.strip()}
    task = given.get("task", "")
    if task:
        schema.require_known("task", task, model.cards)
    fields = [name for name in model.cards[task].fields if name != "region"] if task else []
    types = typing.get_type_hints(AnswerSettings)
    known = [*_OWN_NAMES, *types, *fields]
    for name in given:
        schema.require_known("field", name, known)
    if bool(task) == ("instruction" in given):
        raise ValueError("give either a task or an instruction; GET /api/tasks lists the tasks")
    settings: JsonObject = {
        name: text if number_type not in (int, float) else _number(name, text, number_type)
        for name, number_type in types.items()
        if (text := given.get(name)) is not None
    }
    below = given.get("uncertain_below")
    asked = Asked(
        task,
        instruction=given.get("instruction", ""),
        region=read_region(given.get("region", "")),
        fields={name: given[name] for name in fields if name in given},
        answers=read_answers(given.get("answers", "")),
        settings=AnswerSettings(**settings),
    )
    return asked, None if below is None else _number("uncertain_below", below, float)


def read_region(text: str) -> tuple[float, ...] | None:
    """A region "x0,y0,x1,y1"; None for an empty text.

    Raises:
      ValueError: it is none.
    """
    if not text.strip():
        return None
    try:
        region = tuple(float(part) for part in text.split(","))
    except ValueError:
        region = ()
    if len(region) != 4:
        raise ValueError(f"region {text!r} is not x0,y0,x1,y1 in pixels of the image")
    return region


def read_answers(text: str) -> tuple[str, ...]:
    """Allowed answers, separated by commas or lines."""
    parts = (part.strip() for part in text.replace("\n", ",").split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def add_routes(app: fastapi.FastAPI, model: DemoModel) -> None:
    """Adds the interface to an application."""

    @app.get("/api/tasks")
    async def tasks() -> JsonObject:
        limits = ("max_file_mb", "max_megapixels", "max_characters", "max_waiting")
        return {
            "tasks": {name: _about(card) for name, card in model.cards.items()},
            "settings": {f.name: f.default for f in dataclasses.fields(AnswerSettings)},
            "limits": {name: getattr(model.settings, name) for name in limits},
        }

    @app.post("/api/answer")
    async def answer(request: fastapi.Request) -> JSONResponse:
        try:
            async with request.form(max_files=1, max_fields=50) as form:
                file, texts = None, {}
                for name, value in form.items():
                    if isinstance(value, UploadFile) and name == "image":
                        file = await value.read()
                    elif isinstance(value, str):
                        texts[name] = value
                    else:
                        raise ValueError(f"{name!r} is a file; only image may be one")
            if "image" in texts:
                raise ValueError("image is a text; send the file, with curl as -F image=@FILE")
            asked, below = read_asked(texts, model)
            answered = await model.ask(asked, file, below)
        except fastapi.HTTPException as error:  # of the form itself
            return JSONResponse({"error": str(error.detail)}, error.status_code)
        except Exception as error:
            status, line = message_of(error)
            headers = {"Retry-After": "1"} if status == 503 else None
            return JSONResponse({"error": line}, status, headers)
        data = answered.data
        wanted = model.makes_images(asked.task) or texts.get("drawn", "") in ("1", "true")
        if wanted and answered.image is not None:
            data = {**data, "image": _as_text(answered.image)}
        return JSONResponse(data)


class BodyLimit:
    """Refuses requests of more bytes than a file may have, before they are read."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        """Wraps an application.

        Args:
          app: what is asked otherwise.
          most: bytes of a file.
        """
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            length = dict(scope["headers"]).get(b"content-length")
            if length is None:
                line, status = "the request does not say its Content-Length", 411
            elif int(length) > self._most + _ROOM_FOR_TEXT:
                line = f"the file has {int(length) / 1e6:.1f} MB"
                line, status = f"{line}; at most {self._most / 1e6:g} are taken", 413
            else:
                return await self._app(scope, receive, send)
            return await JSONResponse({"error": line}, status)(scope, receive, send)
        return await self._app(scope, receive, send)


def _number(name: str, text: str, number_type: type) -> Any:
    try:
        return number_type(text)
    except ValueError:
        what = "a whole number" if number_type is int else "a number"
        raise ValueError(f"{name} must be {what}, got {schema.shown(text)}") from None


def _about(card: TaskCard) -> dict[str, object]:
    return {
        "instruction": card.instruction.text,
        "image": card.instruction.image_slot is not None,
        "fields": list(card.fields),
        "answers": None if card.answering.answers is None else len(card.answering.answers.load()),
    }


def _as_text(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
