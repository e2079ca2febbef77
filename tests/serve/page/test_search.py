"""The page in a browser: searching, filtering, comparing, and what it says when something goes wrong."""

import json
from contextlib import suppress

import pytest

from relsdk.index.filter_text import parse_where
from tests.serve.page.conftest import EVIL
from tests.serve.page.looks import QUERY, answer, ids, link, search, settled, texts

pytestmark = pytest.mark.slow


def test_a_search_shows_what_the_server_found(visit, site):
    page = visit()
    assert "videos" in page.inner_text("#start")
    search(page, QUERY)
    found = answer(site)
    assert ids(page) == [hit["id"] for hit in found["hits"]]
    first, hit = page.locator(".hit").first, found["hits"][0]
    assert first.locator("h3").inner_text() == hit["title"]
    assert first.locator(".chip b").inner_text() == ["Irrelevant", "Partial", "Mostly", "Full"][hit["level"]]
    bar = first.locator("svg[role=img]").get_attribute("aria-label")
    assert bar.startswith("Probabilities: Full ")
    assert f"{hit['score']:.3f}" in first.inner_text()
    assert "红烧肉" in "".join(texts(page, ".hit mark"))
    assert f"of {found['matching']} documents" in page.inner_text(".summary")
    times = texts(page, ".latency li")
    assert times[0].endswith("ms round trip")
    assert any(time.startswith("retrieve ") for time in times)
    assert "10 hits in" in page.inner_text("#status")
    assert page.title() == f"{QUERY} · relsdk"


def test_the_reasons_of_a_hit(visit, site):
    page = visit(link())
    hit = answer(site)["hits"][0]
    first = page.locator(".hit").first
    first.get_by_role("button", name="Why").click()
    reasons = first.locator(".why").inner_text()
    signals = hit["signals"]
    assert f"{signals['cosine']:.4f}" in reasons
    assert f"{signals['bm25']:.2f} / {signals['best_possible']:.2f}" in reasons
    assert f"{hit['expected_level']:.2f}" in reasons
    assert hit["id"] in reasons
    assert hit["text"] in reasons
    first.get_by_role("button", name="Less").click()
    assert first.locator(".why").is_hidden()


def test_a_filter_holds_and_a_wrong_one_is_explained_beside_it(visit, site):
    page = visit(link())
    page.fill("#where", "duration < 60")
    page.press("#where", "Enter")
    settled(page)
    assert ids(page) == [hit["id"] for hit in answer(site, where="duration < 60")["hits"]]
    assert "of 6 documents" in page.inner_text(".summary")
    page.fill("#where", "author = and")
    page.press("#where", "Enter")
    settled(page)
    problem = page.inner_text("#where-error")
    assert "a value is expected" in problem
    assert page.get_attribute("#where", "aria-invalid") == "true"
    assert "The filter cannot be read" in page.inner_text(".failed p")
    page.fill("#where", "")
    page.press("#where", "Enter")
    settled(page)
    assert page.locator("#where-error").is_hidden()
    assert len(ids(page)) == 10


def test_order_groups_levels_and_sizes_reach_the_server(visit, site):
    page = visit(link())
    page.click("#more > summary")
    page.select_option("#sort", "-duration")
    settled(page)
    assert ids(page) == [hit["id"] for hit in answer(site, sort="-duration")["hits"]]
    page.select_option("#sort", "")
    page.select_option("#group", "author")
    page.select_option("#k", "5")
    settled(page)
    assert ids(page) == [hit["id"] for hit in answer(site, group_by="author", k=5)["hits"]]
    page.get_by_label("Full", exact=True).check()
    settled(page)
    wanted = answer(site, group_by="author", k=5, min_level=3)["hits"]
    assert ids(page) == [hit["id"] for hit in wanted]
    assert page.locator("#filter-count").inner_text() == "1"


def test_a_facet_is_a_filter_and_a_chip_takes_it_away(visit, site):
    page = visit(link())
    page.click("#more > summary")
    page.locator("#facet-fields").get_by_label("topic").check()
    settled(page)
    counts = {one["value"]: one["count"] for one in answer(site, facets=["topic"])["facets"]["topic"]}
    assert texts(page, "#facets .count-of") == [f"{value} {count}" for value, count in counts.items()]
    page.locator("#facets").get_by_role("button", name="旅游").click()
    settled(page)
    assert ids(page) == [hit["id"] for hit in answer(site, where='topic="旅游"')["hits"]]
    assert page.locator("#facets button[aria-pressed=true]").count() == 1
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"  # the focus stays
    page.get_by_role("button", name="Remove the filter").click()
    settled(page)
    assert len(ids(page)) == 10
    assert page.locator("#chips").is_hidden()


def test_a_value_among_the_reasons_is_a_filter(visit):
    page = visit(link(where="duration exists"))
    first = page.locator(".hit").first
    first.get_by_role("button", name="Why").click()
    author = first.locator(".metadata button[data-field=author]")
    name = author.inner_text()
    author.click()
    settled(page)
    assert texts(page, "#chips li") == [f'author="{name}" ×']
    assert set(texts(page, ".hit .fact:has-text('author')")) == {f"author {name}"}


def test_two_configurations_and_where_each_document_moved(visit, site):
    page = visit(link(a_index="videos", a_mode="dense", b_index="videos", b_mode="lexical"))
    dense = [hit["id"] for hit in answer(site, mode="dense", scorer=False)["hits"]]
    lexical = [hit["id"] for hit in answer(site, mode="lexical", scorer=False)["hits"]]
    assert (ids(page, "A"), ids(page, "B")) == (dense, lexical)
    moves = texts(page, "#column-B .move .hide")
    for place, name in enumerate(lexical):
        if name not in dense:
            assert moves[place] == "Not on this page of A"
        else:
            by = dense.index(name) - place
            expected = f"{by} higher than in A" if by > 0 else f"{-by} lower than in A"
            assert moves[place] == (expected if by else "Same rank as in A")
    shared = len(set(dense) & set(lexical))
    assert f"{shared} shared" in page.inner_text("#difference")
    assert page.locator(".gutter path").count() == shared
    page.click("#close-A")
    settled(page)
    assert page.locator("#column-B").count() == 0
    assert ids(page) == lexical
    page.click("#compare")
    settled(page)
    assert ids(page, "A") == lexical
    page.select_option("#index-B", "few")
    settled(page)
    assert len(ids(page, "B")) == 8


def test_the_scorer_is_on_or_off(visit, site):
    page = visit(link())
    assert page.input_value("#scorer-A") == "scorer"
    assert "by scorer" in page.inner_text(".summary")
    page.select_option("#scorer-A", "")
    settled(page)
    assert ids(page) == [hit["id"] for hit in answer(site, scorer=False)["hits"]]


def test_pages(visit, site):
    page = visit(link(k=5))
    page.get_by_role("button", name="Next").click()
    settled(page)
    assert ids(page) == [hit["id"] for hit in answer(site, k=5, offset=5)["hits"]]
    assert page.locator(".place").first.inner_text() == "6"
    assert "Hits 6–10" in page.inner_text(".summary")
    assert ids(visit("#" + page.url.partition("#")[2])) == ids(page)
    page.get_by_role("button", name="Previous").click()
    settled(page)
    assert page.locator(".place").first.inner_text() == "1"
    assert page.get_by_role("button", name="Previous").is_disabled()


def test_a_link_restores_everything_and_back_goes_back(visit):
    first = visit(
        link(where="duration < 300", level=1, k=5, sort="duration", group="author", count=["topic", "tags"])
    )
    first.click("#compare")
    settled(first)
    first.locator("#column-B").get_by_label("Dense").check()
    settled(first)
    address = first.url
    second = visit("#" + address.partition("#")[2])
    for page in (first, second):
        assert page.input_value("#query") == QUERY
        assert page.input_value("#where") == "duration < 300"
        assert page.input_value("#sort") == "duration"
        assert page.input_value("#group") == "author"
        assert page.input_value("#k") == "5"
        assert page.locator("#min-level input:checked").input_value() == "1"
        assert page.locator("#column-B input[type=radio]:checked").input_value() == "dense"
        assert page.locator("#facet-fields input:checked").count() == 2
    assert (ids(first, "A"), ids(first, "B")) == (ids(second, "A"), ids(second, "B"))
    search(second, "大理旅游")
    second.go_back()
    second.wait_for_function("document.querySelector('#query').value === '红烧肉怎么做'")
    settled(second)
    assert ids(second) == ids(first)


def test_a_link_to_what_is_not_here_says_so(visit):
    page = visit(link(a_index="gone", a_mode="psychic"))
    assert "gone" in page.inner_text("#notice")
    assert page.input_value("#index-A") == "videos"
    assert len(ids(page)) == 10


@pytest.mark.parametrize(
    "state", ["", f"#q={EVIL}", link(EVIL, where=EVIL, sort=EVIL, count=[EVIL]), link(a_index=EVIL)]
)
def test_nothing_in_a_link_or_a_query_is_markup(visit, state):
    page = visit(state, wait=False)
    page.wait_for_selector("#search:not([hidden])")
    search(page, f"红烧肉{EVIL}")
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script, #rail img").count() == 0


def test_nothing_in_a_document_is_markup(visit):
    page = visit(link(f"红烧肉 {EVIL}", count="author", k=50))
    hit = page.locator(".hit", has=page.locator("h3", has_text="onerror")).first
    assert hit.locator("h3").inner_text() == f"红烧肉 {EVIL}"
    assert hit.get_attribute("data-document") == f"e{EVIL}"
    hit.get_by_role("button", name="Why").click()
    assert f"n{EVIL}" in hit.locator(".metadata").inner_text()
    hit.focus()
    page.keyboard.press("2")
    hit.locator(".metadata button[data-field=author]").click()
    settled(page)
    assert len(ids(page)) == 1  # the filter has quoted it
    assert json.dumps(EVIL) in page.inner_text("#chips")
    page.click("#open-grades")
    assert EVIL in page.inner_text("#grades-body")
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script, #rail img, dialog img").count() == 0


def test_no_hits_say_why(visit):
    page = visit(link(where="duration < 60", level=3, a_index="videos", a_mode="lexical"), wait=False)
    search(page, "zzz qqq")
    words = page.inner_text(".empty")
    assert "No hits" in words
    assert "The filter leaves 6 documents." in words
    assert "Full" in words


def refuse(page, times, status=429, **headers):
    """Answer the first searches with a refusal; return the list of what was asked."""
    asked = []

    def reply(route):
        asked.append(route.request.post_data)
        if len(asked) > times:
            return route.continue_()
        error = {
            "message": "1,200 texts are waiting",
            "code": "overloaded",
            "type": "OverloadedError",
            "param": None,
        }
        return route.fulfill(status=status, headers=headers, body=json.dumps({"error": error}))

    page.route("**/v1/search", reply)
    return asked


@pytest.mark.parametrize(("status", "words"), [(429, "The server is busy"), (503, "The server is not ready")])
def test_a_server_is_asked_again_when_it_says(visit, status, words):
    page = visit()
    asked = refuse(page, 2, status, **{"retry-after": "1", "retry-after-ms": "150"})
    page.fill("#query", QUERY)
    page.press("#query", "Enter")
    page.wait_for_selector(f"#notice:has-text('{words}. Trying again in 0.2 s')")
    page.wait_for_selector(".hit")
    assert len(asked) == 3
    assert page.locator("#notice").is_hidden()


def test_a_gateway_may_serve_the_page_under_a_path(visit, site):
    page = visit()
    strip = f"{site.url}/rel/"
    page.route(f"{strip}**", lambda route: under(route, route.request.url.replace(strip, f"{site.url}/")))
    page.goto(f"{strip}{link()}")
    page.wait_for_selector(".hit")
    assert len(ids(page)) == 10
    asked = page.evaluate("performance.getEntriesByType('resource').map(one => one.name)")
    assert asked
    assert all(one.startswith(strip) for one in asked)


def under(route, address):
    route.fulfill(response=route.fetch(url=address))


def test_a_server_that_stays_busy_is_left_alone(visit):
    page = visit()
    asked = refuse(page, 5, **{"retry-after-ms": "50"})
    search(page, QUERY)
    assert len(asked) == 5
    assert page.inner_text(".failed p") == "1,200 texts are waiting"
    page.get_by_role("button", name="Try again").click()
    settled(page)
    assert len(ids(page)) == 10


def test_no_answer_and_a_gateway_in_between(visit):
    page = visit()
    page.route("**/v1/search", lambda route: route.abort())
    search(page, QUERY)
    assert "does not answer" in page.inner_text(".failed p")
    page.unroute("**/v1/search")
    page.route("**/v1/search", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".failed p:has-text('502')")
    assert page.locator(".failed h1").count() == 0


def test_an_old_answer_does_not_replace_a_new_one(visit):
    page = visit()
    held = []
    page.route("**/v1/search", lambda route: held.append(route) if not held else route.continue_())
    page.fill("#query", "手机黑屏")
    page.press("#query", "Enter")
    page.wait_for_selector(".skeleton")
    page.fill("#query", QUERY)
    page.press("#query", "Enter")
    page.wait_for_selector(".hit")
    shown = ids(page)
    with suppress(Exception):  # the page has given it up
        held[0].fulfill(status=200, json={"results": [{"hits": []}]})
    assert ids(page) == shown


@pytest.mark.parametrize(
    ("query", "text", "marked"),
    [
        ("红烧肉怎么做", "家常红烧肉：做法简单，怎么做都好吃", ["红烧肉", "怎么做"]),
        ("肉", "红烧肉的肉", ["肉", "肉"]),
        ("红肉", "红烧肉", []),
        ("x200 pro", "X200Pro，Ｘ200PRO 和 x20", ["X200Pro", "Ｘ200PRO", "x"]),
        ("Bread", "bread, breadth; BREAD", ["bread", "BREAD"]),
        ("😀𠮷野家", "吃𠮷野家😀", ["𠮷野家"]),
        ("<b>", "<b>b</b>", ["b", "b", "b"]),
        ("", "红烧肉", []),
    ],
)
def test_the_words_of_the_query_are_marked(visit, query, text, marked):
    page = visit()
    script = "async ([text, query]) => (await import('/page/mark.js')).markedPieces(text, query)"
    pieces = page.evaluate(script, [text, query])
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece, is_marked in pieces if is_marked] == marked


@pytest.mark.parametrize(
    ("field", "value", "condition", "read"),
    [
        ("author.name", "老王", 'author.name="老王"', None),
        ("作者", 'a "b" \\', '作者="a \\"b\\" \\\\"', None),
        ("odd (name)", 3, '"odd (name)"=3', None),
        ("not", True, '"not"=true', "metadata.not"),
    ],
)
def test_a_condition_is_quoted_as_the_filter_reads_it(visit, field, value, condition, read):
    page = visit()
    script = "async ([field, value]) => (await import('/page/state.js')).conditionOf(field, value)"
    assert page.evaluate(script, [field, value]) == condition
    assert parse_where([condition]) == {read or field: {"eq": value}}
