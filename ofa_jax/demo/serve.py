"""Loads the model and serves page and interface until the process is stopped."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import tempfile
from collections.abc import Iterator

from ofa_jax.data.ops.image_tokenizer import load_image_tokenizer
from ofa_jax.demo.settings import DemoSettings
from ofa_jax.errors import started
from ofa_jax.inference.loading import load
from ofa_jax.inference.weights import find_checkpoint

logger = logging.getLogger("ofa_jax")

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def serve(settings: DemoSettings) -> None:
    """Serves a model.

    Args:
      settings: the model, the address, the limits.

    Raises:
      ValueError: no model, or an address that is taken.
      ModuleNotFoundError: gradio is not installed.
    """
    # First, so that a missing extra is said at once.
    import gradio  # noqa: F401
    import uvicorn

    with _listening(settings) as sock, _private_uploads():
        app, model = application(settings)
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        logger.info("open http://%s:%d in a browser; Ctrl-C ends it", shown, settings.port)
        started()
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
        try:
            uvicorn.Server(config).run(sockets=[sock])
        finally:
            model.close()


def application(settings: DemoSettings):
    """The model of some settings and its ASGI application.

    Returns:
      (application, `DemoModel`).
    """
    import fastapi
    import gradio as gr
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from ofa_jax.demo.api import BodyLimit, add_routes
    from ofa_jax.demo.asking import DemoModel
    from ofa_jax.demo.page import CSS, build_page

    source = find_checkpoint(settings.checkpoint)
    predictor = load(
        source,
        vocabulary=settings.vocabulary or None,
        image_size=settings.image_side or None,
        devices=None,
        progress=logger.info,
        image_tokenizer=load_image_tokenizer(named)
        if (named := settings.image_tokenizer)
        else None,
    )
    model = DemoModel(predictor, settings, predictor.image_tokenizer)
    app = fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    add_routes(app, model)
    app.add_middleware(BodyLimit, most=settings.max_file_bytes)
    if _is_loopback(settings.host):
        # A page elsewhere cannot reach it under a name of its own.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(_LOOPBACK))
    page = build_page(model, os.path.basename(os.path.abspath(source)))
    # gradio checks that a file was uploaded only for pages that it thinks it serves itself.
    page.has_launched = True
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    gr.mount_gradio_app(
        app,
        page,
        "/",
        server_name=settings.host,
        server_port=settings.port,
        max_file_size=settings.max_file_bytes,
        show_error=False,
        footer_links=["api"],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        theme=theme,
        css=CSS,
    )
    return app, model


@contextlib.contextmanager
def _listening(settings: DemoSettings) -> Iterator[socket.socket]:
    """The socket, before the model is loaded: a taken port is known at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        sock = socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise ValueError(
            f"--host {settings.host} --port {settings.port} cannot be listened at: "
            f"{error.strerror or error}; another port is given by --port"
        ) from error
    with sock:
        yield sock


@contextlib.contextmanager
def _private_uploads() -> Iterator[None]:
    """Uploads lie in a directory that only this user reads, and that goes with the process."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="ofa_demo_") as directory:
        os.environ["GRADIO_TEMP_DIR"] = directory
        try:
            yield
        finally:
            os.environ.pop("GRADIO_TEMP_DIR")
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
