"""What a test reads off the page, and what it asks the server itself."""

from urllib.parse import quote

import pytest

from tests.serve.servers import post

__all__ = ["answer", "grades", "ids", "link", "press", "result", "search", "settled", "texts", "violations"]

QUERY = "红烧肉怎么做"


def link(query=QUERY, **parts):
    """Return the part of an address that holds a state; `a_index` stands for `a.index`."""
    pairs = [("q", query), *((name.replace("_", ".", 1), value) for name, value in parts.items())]
    return "#" + "&".join(
        f"{name}={quote(str(one), safe='')}" for name, value in pairs for one in many(value)
    )


def many(value):
    return value if isinstance(value, list) else [value]


def search(page, query):
    """Type a query, press Enter, and wait for the answer."""
    page.fill("#query", query)
    page.press("#query", "Enter")
    settled(page)


def settled(page):
    """Wait until no answer is awaited."""
    page.wait_for_selector(".answer[aria-busy]", state="detached")
    page.wait_for_selector("#progress:not(.on)", state="attached")


def texts(page, selector):
    """Return the texts of all elements, spaces joined."""
    return [" ".join(text.split()) for text in page.locator(selector).all_inner_texts()]


def ids(page, side="A"):
    """Return the ids of the documents of a side, in order."""
    return page.locator(f"#column-{side} .hit").evaluate_all("all => all.map(one => one.dataset.document)")


def answer(site, **body):
    """Return what the server finds, as the page asks by default: hybrid, with the scorer."""
    wanted = {"index": "videos", "query": QUERY, "mode": "hybrid", "scorer": "scorer", **body}
    return post(site.http, "/v1/search", wanted)["results"][0]


def press(page, keys):
    """Press keys one after another."""
    for key in keys:
        page.keyboard.press(key)


def grades(page, side="A"):
    """Return the grade shown on each hit; None where there is none."""
    found = f"#column-{side} .hit"
    shown = "all => all.map(one => one.querySelector('.grade[aria-pressed=true]')?.textContent ?? null)"
    return page.locator(found).evaluate_all(shown)


def result(query, hits):
    """Return what a server could have found: hits that a test makes, of fields that they leave out."""
    plain = {"text": "", "passage": None, "score": 1, "signals": None, "metadata": {}}
    plain |= {"level": None, "level_name": None, "probabilities": None, "expected_level": None}
    whole = {"query": query, "hits": [{**plain, **hit} for hit in hits], "order": "cosine"}
    whole |= {"matching": len(hits), "candidates": len(hits), "scored": 0, "skipped": 0, "scored_hits": 0}
    whole |= {"scanned": False, "elapsed_ms": 1, "steps": {}, "nothing_relevant": None}
    return whole | {"outside": [], "warnings": []}


def violations(page):
    """Return what axe-core finds wrong, by rule and element."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python"
    )
    found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        (one["id"], node["html"][:120], node["failureSummary"][:200])
        for one in found
        for node in one["nodes"]
    ]
