"""The page in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from served_files import by_command_line, png

from omnifed.data.readers.dicom import read
from omnifed.data.readers.dicom_seg import read_mask


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium here")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, server: Any) -> Iterator[Any]:
    """The page; in the end, no request went elsewhere and nothing was complained of."""
    context = browser.new_context(color_scheme="dark", viewport={"width": 390, "height": 844})
    page = context.new_page()
    asked: list[str] = []
    trouble: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    page.goto(server.address)
    page.locator("#name", has_text="threshold").wait_for()
    yield page
    assert [url for url in asked if not url.startswith((server.address, "blob:" + server.address))] == []
    assert [text for text in trouble if "413" not in text] == []
    context.close()


def fetched(page: Any) -> None:
    page.wait_for_selector("#result:not([hidden])", timeout=60_000)
    page.wait_for_selector("#work", state="hidden", timeout=60_000)


def downloaded(page: Any) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        page.click("#download")
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def pixels(page: Any) -> np.ndarray:
    """The picture as the browser decoded it, (H, W, 3)."""
    script = """() => {
        const image = document.getElementById("picture");
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        const board = canvas.getContext("2d");
        board.drawImage(image, 0, 0);
        return [canvas.height, canvas.width, [...board.getImageData(0, 0, canvas.width, canvas.height).data]];
    }"""
    height, width, values = page.evaluate(script)
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def drop(page: Any, name: str, content: bytes) -> None:
    """What a mouse does: a file dropped on the page."""
    script = """([name, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name));
        for (const kind of ["dragenter", "dragover", "drop"])
            document.getElementById("drop").dispatchEvent(
                new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(script, [name, list(content)])


def test_an_image_is_dropped_seen_and_downloaded(page: Any, server: Any, model: Path, tmp_path: Path) -> None:
    png(tmp_path / "a.png")
    mask, drawn = by_command_line(model, tmp_path / "a.png", tmp_path / "out")
    drop(page, "Anna Müller.PNG", png())
    fetched(page)
    assert server.left() == []  # all is in the tab now
    np.testing.assert_array_equal(pixels(page), np.asarray(Image.open(drawn).convert("RGB")))
    assert downloaded(page) == ("Anna Müller_seg.png", mask.read_bytes())
    rows = [row.split() for row in page.inner_text("#legend").splitlines()]
    assert [row[0] for row in rows] == ["liver", "left"]
    assert page.get_attribute("#picture", "alt") == "The image with liver, left kidney drawn on it"
    assert not page.is_visible("#slice")


def test_a_series_is_leafed_through_by_keyboard(
    page: Any, server: Any, series: tuple[Path, Path, list[Path]], tmp_path: Path
) -> None:
    folder, seg, _ = series
    page.set_input_files("#folder", folder)
    fetched(page)
    assert server.left() == []
    assert page.inner_text("#slice-text") == "2 of 3"
    middle = page.get_attribute("#picture", "src")
    page.focus("#slice")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#slice-text") == "3 of 3"
    assert page.get_attribute("#slice", "aria-valuetext") == "slice 3 of 3"
    assert page.get_attribute("#picture", "src") not in (middle, None)
    name, content = downloaded(page)
    assert name == "series 7_seg.dcm"
    (tmp_path / "served.dcm").write_bytes(content)
    picture = read(folder)
    np.testing.assert_array_equal(read_mask(tmp_path / "served.dcm", picture), read_mask(seg, picture))
    # 64 + 128 + 192 voxels of 1 x 1 x 2 mm, without what the resizing leaves to the liver at the border
    volumes = page.eval_on_selector_all("#legend td", "cells => cells.map((cell) => cell.textContent)")
    total = sum(float(text.removesuffix(" ml")) for text in volumes if text != "not found")
    assert total == pytest.approx(0.768, abs=0.002)


def test_several_images_are_chosen_among(page: Any, server: Any, tmp_path: Path) -> None:
    for name in ("b.png", "c.png"):
        png(tmp_path / name)
    (tmp_path / "a.png").write_text("this is a text")
    page.set_input_files("#files", [tmp_path / name for name in ("b.png", "a.png", "c.png")])
    fetched(page)
    assert "Seen: a.png" in page.inner_text("#errors")  # the others are there all the same
    assert page.eval_on_selector_all("#pick option", "all => all.map((one) => one.textContent)") == [
        "b_seg.png", "c_seg.png",
    ]  # fmt: skip
    first = page.get_attribute("#picture", "src")
    page.select_option("#pick", "1")
    assert page.get_attribute("#picture", "src") not in (first, None)
    assert page.inner_text("#result-title") == "Result: c_seg.png"
    assert downloaded(page)[0] == "c_seg.png"
    assert server.left() == []


def test_a_text_named_png_shows_number_and_remedy(page: Any, server: Any, tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("this is a text")
    page.set_input_files("#files", tmp_path / "note.png")
    page.wait_for_selector(".error", timeout=60_000)
    text = page.inner_text("#errors")
    assert "OF211" in text
    assert "Seen: note.png" in text
    assert "What to do:" in text
    assert not page.is_visible("#result")
    page.wait_for_selector("#work", state="hidden")
    (tmp_path / "large.png").write_bytes(bytes(1_000_001))
    page.set_input_files("#files", tmp_path / "large.png")  # refused before a byte of it is sent
    page.locator("#errors", has_text="OF653").wait_for()
    assert server.left() == []


def test_a_job_is_cancelled(page: Any, server: Any, series: tuple[Path, Path, list[Path]]) -> None:
    page.set_input_files("#folder", series[0])
    page.locator("#status", has_text="Segmenting").wait_for()
    page.click("#cancel")
    page.wait_for_selector("#work", state="hidden")
    for _ in range(100):
        if not server.left():
            break
        page.wait_for_timeout(20)
    assert server.left() == []
    assert page.inner_text("#errors") == ""


def test_all_controls_are_reached_by_tab_and_have_names(page: Any) -> None:
    names = []
    for _ in range(3):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.textContent.trim()"))
    assert names == ["Choose files", "Choose a folder", "About the model"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing runs out of a phone's screen
    assert "not a medical device" in page.inner_text("#notice")
