"""A hook of mkdocs: links that lead out of docs/ become the names of files in the source tree."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["on_page_markdown"]

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)\s]*)\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replace the links of a page that lead to files which the site does not have.

    Args:
        markdown: The page's text.
        page: Its page of mkdocs; how deep it lies says which links lead outside.
    """
    depth = page.file.src_uri.count("/")

    def named(link: re.Match[str]) -> str:
        text, target = link.groups()
        if target.count("../") <= depth:
            return link[0]
        path = target.lstrip("./")
        return text if text in (path, f"`{path}`") else f"{text} (`{path}`)"

    return _OUTSIDE.sub(named, markdown)
