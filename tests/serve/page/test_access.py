"""The page for everybody: keyboard, screen reader, phone, languages, themes, keys of the server."""

import pytest

from tests.serve.page.looks import QUERY, ids, link, search, settled, violations
from tests.serve.servers import READ_KEY, running

pytestmark = pytest.mark.slow
TWO = {"a_index": "videos", "a_mode": "dense", "b_index": "videos", "b_mode": "hybrid", "b_scorer": "scorer"}


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(visit, theme, locale, width):
    options = {"locale": locale, "color_scheme": theme, "viewport": {"width": width, "height": 900}}
    page = visit(**options, reduced_motion="reduce")
    assert violations(page) == []
    page = visit(link(count="topic", **TWO, **{"is": 'topic="做菜"'}), **options, reduced_motion="reduce")
    for key in ("j", "2", "w"):
        page.keyboard.press(key)
    assert violations(page) == []
    for key in ("g", "?"):
        page.keyboard.press(key)
        assert violations(page) == []
        page.keyboard.press("Escape")
    page.evaluate("document.querySelector('#filters').open = document.querySelector('#more').open = true")
    page.fill("#where", "author = and")
    page.press("#where", "Enter")
    page.wait_for_selector(".failed")
    assert violations(page) == []


def focused(page):
    """Return what a screen reader would call the element that has the focus."""
    name = "one => one.getAttribute('aria-label') ?? one.labels?.[0]?.textContent ?? one.textContent"
    return " ".join(page.evaluate(f"({name})(document.activeElement)").split())


def test_all_of_it_by_keys(visit):
    page = visit()
    page.keyboard.press("/")
    page.keyboard.type(QUERY)
    page.keyboard.press("Enter")
    settled(page)
    page.keyboard.press("ArrowDown")
    assert focused(page).startswith("Hit 1: ")
    page.keyboard.press("j")
    assert focused(page).startswith("Hit 2: ")
    page.keyboard.press("ArrowUp")
    assert focused(page).startswith("Hit 1: ")
    page.keyboard.press("w")
    assert page.locator(".why").first.is_visible()
    page.keyboard.press("c")
    settled(page)
    page.keyboard.press("j")
    page.keyboard.press("l")
    assert page.evaluate("document.activeElement.dataset.side") == "B"
    page.keyboard.press("h")
    assert page.evaluate("document.activeElement.dataset.side") == "A"
    page.keyboard.press("c")
    settled(page)
    page.keyboard.press("n")
    settled(page)
    assert page.locator(".place").first.inner_text() == "11"
    page.keyboard.press("p")
    settled(page)
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#keys").is_hidden()


@pytest.mark.parametrize(("key", "shown"), [("？", "#keys"), ("、", "#query:focus"), ("ｇ", "#grades")])
def test_a_chinese_input_method_may_be_on(visit, key, shown):
    page = visit(link())
    page.evaluate(
        f"document.body.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}}))"
    )
    assert page.locator(shown).is_visible()


def test_keys_in_a_field_are_text(visit):
    page = visit(link())
    page.focus("#query")
    page.keyboard.press("End")
    page.keyboard.type("jk/?u3")
    assert page.input_value("#query") == f"{QUERY}jk/?u3"
    assert page.inner_text("#grade-count") == "0"


def test_single_keys_can_be_switched_off(visit):
    page = visit(link())
    page.click("#open-keys")
    page.uncheck("#keys-on")
    page.keyboard.press("Escape")
    page.reload()
    page.wait_for_selector(".hit")
    page.locator(".hit").first.focus()
    for key in ("3", "w", "c", "g", "?"):
        page.keyboard.press(key)
    assert page.inner_text("#grade-count") == "0"
    assert page.locator("dialog[open], .columns.two").count() == 0
    page.keyboard.press("ArrowDown")  # no character: it stays
    assert focused(page).startswith("Hit 2: ")


def test_tab_reaches_everything_and_shows_where_it_is(visit):
    page = visit(link(k=5))
    names = []
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        names.append(focused(page))
        outline = page.evaluate(
            """() => { const one = document.activeElement;
            const shown = one.matches('.segments input') ? one.nextElementSibling : one;
            return getComputedStyle(shown).outlineStyle; }"""
        )
        assert outline != "none", names[-1]
    assert names[0] == "Skip to the results"
    wanted = [
        "Query",
        "Search",
        "Where",
        "Any",
        "Index",
        "Hybrid",
        "Scorer",
        "Compare",
        "0: Irrelevant",
        "3: Full",
        "Next",
    ]
    for name in wanted:
        assert any(one.startswith(name) for one in names), (name, names)
    hits = [name for name in names if name.startswith("Hit ")]
    assert len(hits) == 1  # one stop for the list; keys go on from there


def test_the_skip_link(visit):
    page = visit(link())
    address = page.url
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "work"
    assert page.url == address


@pytest.mark.parametrize("width", [320, 360, 768, 1600])
@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_nothing_is_wider_than_the_window(visit, width, locale):
    page = visit(
        link(count=["topic", "author"], **TWO), viewport={"width": width, "height": 740}, locale=locale
    )
    page.keyboard.press("j")
    page.keyboard.press("w")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.keyboard.press("g")
    box = page.locator("#grades").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width


def test_a_phone_shows_one_configuration_at_a_time(visit):
    page = visit(link(**TWO), viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.locator("#column-A").is_visible()
    assert page.locator("#column-B").is_hidden()
    page.get_by_role("radio", name="Configuration B").check()
    assert page.locator("#column-B").is_visible()
    assert page.locator("#column-A").is_hidden()
    assert page.locator("#filters").get_attribute("open") is None
    page.click("#filters > summary")
    assert page.locator("#where").is_visible()
    grade = page.locator("#column-B .grade").first.bounding_box()
    assert min(grade["width"], grade["height"]) >= 24


def test_chinese_and_english(visit):
    page = visit(link(), locale="zh-CN")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.inner_text(".summary b") == "10 条结果"
    assert page.get_attribute("#query", "placeholder") == "像用户一样搜索"
    shown = ids(page)
    page.click("#language")
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.inner_text(".summary b") == "10 hits"
    assert ids(page) == shown
    assert page.locator(".hit h3").first.get_attribute("lang") == "zh-CN"  # the document's own language
    page.reload()
    page.wait_for_selector(".hit")
    assert page.inner_text(".summary b") == "10 hits"


def test_light_and_dark(visit):
    page = visit(color_scheme="dark")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(background)
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("html[data-theme=light]")
    light = page.evaluate(background)
    names = []
    for _ in range(3):
        page.click("#theme")
        names.append((page.get_attribute("#theme", "aria-label"), page.evaluate(background)))
    assert names == [("Theme: light", light), ("Theme: dark", dark), ("Theme: as the system", light)]
    page.click("#theme")
    page.click("#theme")
    page.reload()
    assert page.evaluate(background) == dark


def test_without_motion_nothing_moves(visit):
    page = visit(link(), reduced_motion="reduce")
    held = []
    page.route("**/v1/search", lambda route: held.append(route))
    page.fill("#query", "大理")
    page.press("#query", "Enter")
    page.wait_for_selector(".answer[aria-busy]")
    page.click("#open-keys")
    assert page.evaluate("document.getAnimations().length") == 0
    held[0].abort()


def test_the_key_of_the_server_stays_in_the_tab(visit, world):
    with running(*world, environment={"RELSDK_SERVE_KEYS": f"read:{READ_KEY}"}) as server:
        page = visit(link(), url=server.url, reduced_motion="reduce")
        assert page.locator("#key").is_visible()
        page.keyboard.press("Escape")
        assert page.locator("#key").is_visible()
        page.fill("#key-value", "钥匙")
        page.press("#key-value", "Enter")
        assert "ASCII" in page.inner_text("#key-error")
        page.fill("#key-value", "wrong-key-0123456789")
        page.press("#key-value", "Enter")
        page.wait_for_selector("#key-error:has-text('does not know this key')")
        assert violations(page) == []
        page.fill("#key-value", READ_KEY)
        page.press("#key-value", "Enter")
        page.wait_for_selector(".hit")
        page.reload()
        page.wait_for_selector(".hit")
        assert READ_KEY not in page.url
        assert page.evaluate("JSON.stringify(localStorage) + document.cookie").find(READ_KEY) == -1
        other = page.context.new_page()
        other.goto(page.url)
        other.wait_for_selector("#key[open]")


def test_a_server_of_models_grades_pairs(visit, encoder, scorer):
    with running(f"--model=encoder={encoder}", f"--model=scorer={scorer}") as server:
        page = visit(url=server.url, reduced_motion="reduce")
        assert page.locator("#search").is_hidden()
        assert "relsdk serve docs.idx" in page.inner_text("#start")
        assert violations(page) == []
        page.fill("#pair-query", QUERY)
        page.fill("#pair-first", "红烧肉的家常做法")
        page.fill("#pair-second", "大理旅游攻略")
        page.get_by_role("button", name="Grade", exact=True).click()
        page.wait_for_selector("#pair-result .card")
        assert page.locator("#pair-result .chip").count() == 2
        assert "Cosine between A and B" in page.inner_text("#pair-result")
        assert violations(page) == []
        assert page.locator("#pair-result .bar").count() == 2


def test_the_hits_are_landmarks_and_lists(visit):
    page = visit(link(**TWO))
    for role, name in (("main", None), ("banner", None), ("search", "Search"), ("complementary", "Filters")):
        assert page.get_by_role(role, **({"name": name} if name else {})).count() == 1, role
    assert page.get_by_role("list", name="Hits of configuration B").get_by_role("article").count() == 10
    search(page, "大理旅游")
    assert "A: 10 hits in" in page.inner_text("#status")
