"""Pictures of the page of `relsdk serve` for docs/assets, by hand: python -m bench.pages.page_screenshots.

It needs Chromium, playwright, and fonts for Chinese and emoji: fonts-noto-cjk, fonts-noto-color-emoji and
fonts-inter of Debian.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import click
from PIL import Image

from bench.pages.showcase import run_demo
from relsdk.files.atomic import replaced_file
from relsdk.formats import read_pairs

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "docs/assets"
LARGEST = 200_000
QUERY = "红烧肉怎么做"

# What a page calls the system's face, here as on systems that have a modern one.
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><include ignore_missing="yes">/etc/fonts/fonts.conf</include>
<alias binding="same"><family>DejaVu Sans</family><prefer><family>Inter</family></prefer></alias>
<match target="pattern"><test name="family" qual="any"><string>sans</string></test>
<edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit></match>
<match target="pattern"><test name="family" qual="any"><string>system-ui</string></test>
<edit name="family" mode="assign" binding="strong"><string>Inter</string></edit></match>
</fontconfig>"""


@dataclass(frozen=True)
class Shot:
    """A picture.

    Attributes:
        name: Of the file.
        width: Of the window, in pixels.
        height: Of the window.
        locale: Language of the browser.
        theme: "light" or "dark".
        state: What is looked at, as the page's address holds it.
        keys: Pressed one after another.
        graded: How many queries of the test pairs are searched first; hits that have a label there get it.
    """

    name: str
    width: int
    height: int
    locale: str
    theme: str
    state: dict[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    graded: int = 0


ONE = {"q": QUERY, "a.index": "videos", "a.mode": "hybrid", "count": "topic"}
TWO = {**ONE, "a.mode": "dense", "b.index": "videos", "b.mode": "hybrid"}
SHOTS = (
    Shot("page-compare", 1600, 1000, "en-US", "light", TWO, ("j", "3", "j", "2", "k")),
    Shot("page-why", 1440, 900, "zh-CN", "dark", ONE, ("j", "w", "3")),
    Shot("page-grades", 1280, 1200, "en-US", "light", TWO, ("g",), graded=30),
    Shot("page-phone-light", 360, 760, "zh-CN", "light", ONE),
    Shot("page-phone-dark", 360, 760, "en-US", "dark", TWO, ("j",)),
)


@click.command()
@click.option("--demo", type=click.Path(exists=True, path_type=Path), help="A folder that relsdk demo made.")
def main(demo: Path | None) -> None:
    """Serve the demo's videos, and write docs/assets/page-*.png."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if demo is None:
            run_demo(folder)
            demo = folder / "relsdk-demo"
        shutil.copytree(demo, folder / "own")
        with serving(folder / "own") as address:
            labels = labels_of(folder / "own/world/pairs_test.jsonl")
            for shot, picture in pictures(address, folder, labels):
                content = small_png(picture)
                if len(content) > LARGEST:
                    raise click.ClickException(
                        f"{shot.name}.png has {len(content):,} bytes; the most is {LARGEST:,}"
                    )
                with replaced_file(ASSETS / f"{shot.name}.png") as stream:
                    stream.write(content)
                click.echo(f"{shot.name}.png  {len(content):,} bytes")


@contextmanager
def serving(demo: Path) -> Iterator[str]:
    """Fit the hybrid model of the demo's index, serve it, and yield the address."""
    relsdk = [sys.executable, "-m", "relsdk"]
    pairs, index = demo / "world/pairs_dev.jsonl", demo / "index"
    subprocess.run([*relsdk, "calibrate", demo / "bundle", pairs, "--index", index], check=True)
    command = [*relsdk, "serve", f"--index=videos={index}", f"--model=encoder={demo / 'bundle'}", "--port=0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr or ():
            if match := re.search(r"relsdk serve: (http://\S+)", line):
                yield match[1]
                return
        raise click.ClickException("relsdk serve has ended before it was ready")
    finally:
        server.terminate()
        server.wait(60)


def labels_of(pairs: Path) -> dict[str, dict[str, int]]:
    """Return for each query the levels of its documents."""
    labels: dict[str, dict[str, int]] = {}
    for pair in read_pairs(pairs, "jsonl"):
        labels.setdefault(pair.query, {})[pair.document.id] = int(pair.level)
    return labels


def pictures(address: str, folder: Path, labels: dict[str, dict[str, int]]) -> Iterator[tuple[Shot, bytes]]:
    """Yield each picture; what it shows is searched twice, so that its times are those of a warm server."""
    from playwright.sync_api import sync_playwright

    fonts = folder / "fonts.conf"
    fonts.write_text(FONTS, encoding="utf-8")
    environment: dict[str, str | float | bool] = {**os.environ, "FONTCONFIG_FILE": str(fonts)}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"], env=environment
        )
        for shot in SHOTS:
            context = browser.new_context(
                viewport={"width": shot.width, "height": shot.height},
                locale=shot.locale,
                color_scheme=shot.theme,  # type: ignore[arg-type]
                has_touch=shot.width < 500,
                reduced_motion="reduce",
            )
            page = context.new_page()
            page.goto(f"{address}/#{state_of(shot)}")
            for query in list(labels)[: shot.graded]:
                grade(page, query, labels[query])
            yield shot, picture(page, address, shot)
            context.close()
        browser.close()


def state_of(shot: Shot) -> str:
    """Return what the address of a shot holds behind its "#"."""
    return "&".join(f"{name}={quote(value)}" for name, value in shot.state.items())


def search(page: Any, query: str) -> None:
    """Type a query, and wait for the answer."""
    page.fill("#query", query)
    page.press("#query", "Enter")
    page.wait_for_selector(".answer[aria-busy]", state="detached")


def grade(page: Any, query: str, labels: dict[str, int]) -> None:
    """Search, and give the hits their labels."""
    search(page, query)
    for column in page.locator(".column").all():
        for hit in column.locator(".hit").all():
            button = hit.locator(f".grade[data-level='{labels.get(hit.get_attribute('data-document'))}']")
            if button.count() and button.get_attribute("aria-pressed") == "false":
                button.click()


def picture(page: Any, address: str, shot: Shot) -> bytes:
    """Open what the shot looks at, press its keys, and return the picture."""
    page.goto(f"{address}/#{state_of(shot)}")
    page.wait_for_selector(".hit")
    search(page, shot.state["q"])
    page.locator("#query").blur()
    for key in shot.keys:
        page.keyboard.press(key)
    page.wait_for_timeout(300)
    content: bytes = page.screenshot()
    return content


def small_png(content: bytes) -> bytes:
    """Return the picture with 256 colours: the commonest as they are, and those that come near all others."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    counted = sorted(image.getcolors(image.width * image.height) or [], reverse=True)
    common = [part for _, colour in counted[:128] for part in colour]  # type: ignore[union-attr]
    others = image.quantize(128, Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette((common + others)[: 3 * 256])
    out = io.BytesIO()
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


if __name__ == "__main__":
    main()
