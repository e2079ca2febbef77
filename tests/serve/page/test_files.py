"""The files of the page: nothing from elsewhere, nothing inline, words in both languages, all shipped."""

import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads pyproject.toml")

ROOT = Path(__file__).resolve().parents[3]
PAGE = Path(str(files("relsdk_serve") / "page"))
FILES = sorted(PAGE.iterdir())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
WORDS = re.compile(r'^  "([\w.]+)": (\[?".*"\]?),$', re.M)


def words(language):
    return dict(WORDS.findall((PAGE / f"words_{language}.js").read_text(encoding="utf-8")))


def code():
    """The scripts that are no words."""
    return {path.name: path.read_text(encoding="utf-8") for path in SCRIPTS if "words_" not in path.name}


class Tags(HTMLParser):
    """Collects tags with their attributes, and the text inside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.inside, self.inline = [], None, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside and data.strip():
            self.inline.append(data)


@pytest.fixture(scope="module")
def html():
    return Tags((PAGE / "index.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_small_and_names_no_foreign_host(path):
    text = path.read_text(encoding="utf-8")
    hosts = set(re.findall(r"(?:https?:)?//[a-z][\w.-]*\.[a-z]+[^\s\"')]*", text))
    assert hosts <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert len(text.splitlines()) <= 350
    assert not re.search(r"@import|url\((?!\"data:)", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_makes_no_markup_of_data(path):
    text = path.read_text(encoding="utf-8")
    makes_markup = r"(inner|outer)HTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc"
    runs_text = r"\beval\(|new Function|javascript:"
    refused_by_the_policy = r'"style"|\.style\.'
    assert not re.search(f"{makes_markup}|{runs_text}|{refused_by_the_policy}", text)


def test_nothing_is_inline(html):
    assert html.inline == []
    for tag, attributes in html.tags:
        assert tag != "style"
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        assert tag != "script" or attributes["src"]


def test_what_is_named_is_there(html):
    named = [a.get("src") or a.get("href") for tag, a in html.tags if tag in ("script", "link")]
    modules = [name for text in code().values() for name in re.findall(r'from "\./([\w.]+)"', text)]
    names = {path.name for path in FILES}
    assert {name.removeprefix("page/") for name in named} | set(modules) <= names
    # The page itself, what starts it and what the page links: all others are imported by somebody.
    assert names == {name.removeprefix("page/") for name in named} | set(modules) | {"index.html"}


def test_ids_are_there_once_and_labels_reach_them(html):
    ids = [a["id"] for _, a in html.tags if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = {a["for"] for _, a in html.tags if "for" in a}
    wanted |= {one for _, a in html.tags for one in a.get("aria-describedby", "").split()}
    wanted |= {a["aria-labelledby"] for _, a in html.tags if "aria-labelledby" in a}
    assert wanted <= set(ids)
    used = {name for text in code().values() for name in re.findall(r'byId\("([\w-]+)"\)', text)}
    made = set(re.findall(r'\bid: "([\w-]+)"', "".join(code().values())))
    assert used <= set(ids) | made


def test_every_word_is_in_both_languages():
    english, chinese = words("en"), words("zh")
    assert list(english) == list(chinese)
    for language in ("en", "zh"):
        lines = (PAGE / f"words_{language}.js").read_text(encoding="utf-8").splitlines()
        assert len(lines) == len(words(language)) + 2  # none that the pattern above does not read, none twice
    for key in english:
        assert holes(english[key]) == holes(chinese[key]), key
        assert not re.search(r"[\u4e00-\u9fff]", english[key]) or key == "language"
        letters = re.sub(r"\{\w+\}|[\W\d_]", "", chinese[key])
        assert not letters or re.search(r"[\u4e00-\u9fff]", letters) or letters in ("BM", "English"), key


def holes(text):
    return set(re.findall(r"\{(\w+)\}", text))


def test_every_word_is_used_and_every_used_word_is_there(html):
    static = {
        a[name]
        for _, a in html.tags
        for name in ("data-t", "data-t-label", "data-t-placeholder")
        if name in a
    }
    text = "\n".join(code().values())
    used = static | set(re.findall(r'"([\w.]+)"', text))
    families = re.findall(r"t\(`([\w.]+)\.\$\{", text)
    keys = set(words("en"))
    assert {key for key in keys if key not in used and key.rpartition(".")[0] not in families} == set()
    assert set(re.findall(r'\bt\("([\w.]+)"', text)) | static <= keys


def test_every_file_is_package_data():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["relsdk_serve"]
    assert all(any(path.relative_to(PAGE.parent).match(one) for one in patterns) for path in FILES)
