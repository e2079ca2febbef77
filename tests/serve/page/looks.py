"""What a test reads off the page, and what it asks the server itself."""

from urllib.parse import quote

from tests.serve.servers import post

__all__ = ["answer", "ids", "link", "search", "settled", "texts"]

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
