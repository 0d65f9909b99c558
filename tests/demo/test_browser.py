"""The page in a headless Chromium: upload, answer, a drawn region, mistakes, a phone's width."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from tests.integration.finetuning_files import picture

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]


@pytest.fixture(scope="module")
def address(checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    options = [f"--checkpoint={checkpoint}", f"--port={port}", "--max_characters=40"]
    server = subprocess.Popen([sys.executable, "-m", "ofa_jax.demo", *options])
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert server.poll() is None, "the demo did not start"
            try:
                urllib.request.urlopen(f"{address}/api/tasks").close()
                break
            except urllib.error.URLError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address, request):
    page = browser.new_page(viewport={"width": getattr(request, "param", 1280), "height": 900})
    page.set_default_timeout(120_000)
    asked, wrong = [], []
    page.on("request", lambda one: asked.append(one.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.get_by_text("In this scene").wait_for()
    yield page
    page.close()
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert (wrong, elsewhere) == ([], [])


def open_tab(page, name):
    tab = page.get_by_role("tab", name=name, exact=True)
    if tab.count() and tab.first.is_visible():
        tab.first.click()
    else:
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown button", has_text=re.compile(f"^{name}$")).click()


def visible(page, selector, **options):
    return page.locator(selector, **options).locator("visible=true").first


def test_an_upload_is_answered(page, tmp_path):
    (tmp_path / "red.png").write_bytes(picture("red"))
    page.get_by_label(re.compile("Clear|Remove Image")).first.click()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "red.png")
    visible(page, ".pixels img").wait_for()
    open_tab(page, "Question")
    page.get_by_label("Question").locator("visible=true").fill("what color is it")
    page.get_by_label("Allowed answers").locator("visible=true").fill("red, green")
    visible(page, "button", has_text="Ask").click()
    page.get_by_text("Probabilities of the answers").wait_for()
    assert page.get_by_label("Answer", exact=True).input_value() in ("red", "green")


@pytest.mark.parametrize("page", [1280, 390], indirect=True, ids=["desktop", "phone"])
def test_a_region_is_drawn_and_asked_about(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    open_tab(page, "Region")
    image = visible(page, ".region img")
    image.scroll_into_view_if_needed()
    edges = image.bounding_box()
    x, y, width, height = (edges[name] for name in ("x", "y", "width", "height"))
    at = [(x + share * width, y + share * height) for share in (0.25, 0.75)]
    page.mouse.move(*at[1])
    page.mouse.down()
    page.mouse.move(*at[0], steps=4)
    page.mouse.up()
    region = page.get_by_label("Region: left,top,right,bottom").locator("visible=true")
    sync_api.expect(region).to_have_value(re.compile(r"^(7\.9|8),(7\.9|8|8\.1),24(\.1)?,24(\.1)?$"))
    visible(page, "button", has_text="Ask").click()
    page.get_by_text("Probabilities of the answers").wait_for()
    # The rectangle follows what is written.
    region.fill("0,0,16,32")
    region.blur()
    frame = visible(page, ".region-box")
    page.wait_for_function("box => box.style.width === '50%'", arg=frame.element_handle())


def test_a_mistake_is_said(page):
    open_tab(page, "Question")
    for text, said in (("", "needs a question"), ("a" * 41, "a text has 41 characters")):
        page.get_by_label("Question").locator("visible=true").fill(text)
        visible(page, "button", has_text="Ask").click()
        page.get_by_text(said).first.wait_for()
