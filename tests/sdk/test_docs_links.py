"""Links in README, CONTRIBUTING and docs/: each leads to a file and a heading that is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])


def text_of(page):
    """The page without its code."""
    return re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))


def anchors_of(page):
    """Anchors of the headings, as GitHub and the site make them."""
    titles = re.findall(r"(?m)^#+ (.+?)\s*$", text_of(page))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def fault(page, link):
    """What is wrong with a link of a page, or None."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.is_relative_to(ROOT) or not target.exists():
        return "no such file"
    if anchor and anchor not in anchors_of(target):
        return f"no such heading; there are {sorted(anchors_of(target))}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text_of(page)))
    wrong = {link: fault(page, link) for link in links if not re.match(r"https?://|mailto:", link)}
    assert {link: told for link, told in wrong.items() if told} == {}


def test_a_link_to_nowhere_is_a_fault(tmp_path):
    page = ROOT / "docs" / "concepts.md"
    assert fault(page, "install.md#without-a-network") is None
    assert fault(page, "../README.md") is None
    assert fault(page, "absent.md") == "no such file"
    assert fault(page, "../../elsewhere.md") == "no such file"
    assert "no such heading" in fault(page, "install.md#absent")


def test_every_page_is_on_the_site():
    listed = re.findall(
        r"- (?:\S+: )?(\S+\.md)$", (ROOT / "bench/pages/mkdocs.yml").read_text(), re.MULTILINE
    )
    assert sorted(listed) == sorted(
        str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")
    )
