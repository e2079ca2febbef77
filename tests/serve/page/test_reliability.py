"""How far levels can be relied on: graded hits, nothing relevant, a query unlike those of the calibration."""

import math
from itertools import pairwise

import numpy as np
import pytest

from relsdk.metrics import reliability_curve, reliability_curves
from tests.serve.page.looks import QUERY, answer, link, press, result, search, settled, texts, violations

pytestmark = pytest.mark.slow

QUERIES = [f"查询{n}" for n in range(6)]
EACH = 4
NAMES = {"dense": "videos · Dense", "hybrid": "videos · Hybrid"}
OUTCOMES = ["Most probable", "≥ 1", "≥ 2", "3"]


def oracle(curve):
    return [(bin.pairs, bin.confidence, bin.share, bin.low, bin.high) for bin in curve]


def same(curve, other):
    """Whether two lists of bins are the same but for rounding."""
    assert len(curve) == len(other)
    return np.asarray(curve) == pytest.approx(np.asarray(other), abs=1e-9)


def pairs_of(case):
    """Return the probabilities, outcomes and queries of a case."""
    rng = np.random.default_rng(case)
    count, queries = (int(rng.integers(1, 150)), int(rng.integers(1, 30)))
    given = rng.random(count) ** rng.choice([0.3, 1.0, 3.0])
    edges = rng.random(count) < 0.2
    given[edges] = rng.integers(0, 16, edges.sum()) / 15  # a bin ends here, and the next one begins
    happened = rng.random(count) < given
    of = rng.integers(0, queries, count)
    if case % 2:  # pairs of one query go together
        happened = (rng.random(queries) < 0.5)[of]
    return given, happened, of


def test_the_curve_is_that_of_the_metrics(visit):
    script = """async (cases) => {
        const { reliabilityCurve } = await import("/page/reliability.js");
        return cases.map(reliabilityCurve);
    }"""
    cases = [pairs_of(case) for case in range(60)]
    named = [
        [
            {"query": f"q{query}", "probability": float(p), "happened": bool(so)}
            for p, so, query in zip(*case, strict=True)
        ]
        for case in cases
    ]
    for curve, case in zip(visit().evaluate(script, named), cases, strict=True):
        drawn = [tuple(bin[key] for key in ("pairs", "probability", "share", "low", "high")) for bin in curve]
        assert same(drawn, oracle(reliability_curve(*case)))
        places = [math.floor(bin["place"] * 15) for bin in curve]
        assert all(one < other for one, other in pairwise(places))


def hits_of(query, mode):
    """Return hits whose probabilities are of any kind; a document has others in each mode."""
    rng = np.random.default_rng([QUERIES.index(query), len(mode)])
    made = []
    for n, probabilities in enumerate(rng.dirichlet([0.5] * 4, EACH).round(6).tolist()):
        level = int(np.argmax(probabilities))
        made.append({"id": f"{query} {n}", "title": f"标题{n}", "level": level, "level_name": "X"})
        made[-1] |= {"probabilities": probabilities, "expected_level": float(np.dot(range(4), probabilities))}
    return made


def label_of(query, place):
    """Return the grade that the person gives."""
    return (3 * QUERIES.index(query) + 2 * place + place // 2) % 4


def answer_with_hits(page):
    def reply(route):
        asked = route.request.post_data_json
        hits = hits_of(asked["query"], asked["mode"])
        route.fulfill(json={"results": [result(asked["query"], hits)]})

    page.route("**/v1/search", reply)


def grade(page, queries):
    """Search, and grade each hit by keys."""
    for query in queries:
        search(page, query)
        press(page, [key for place in range(EACH) for key in ("ArrowDown", str(label_of(query, place)))])


def wanted(mode, queries=QUERIES):
    """Return the curves of relsdk.metrics, as the page orders what they are of."""
    rows = [(query, place, hit) for query in queries for place, hit in enumerate(hits_of(query, mode))]
    return reliability_curves(
        [label_of(query, place) for query, place, _ in rows],
        [hit["probabilities"] for *_, hit in rows],
        [query for query, *_ in rows],
    )


def drawn(page):
    """Read the bins off the diagram."""
    script = """() => {
        const of = (one, name) => Number(one.getAttribute(name));
        const all = (selector) => [...document.querySelectorAll(`.diagram ${selector}`)];
        const [axes] = all(".diagonal");
        const x = (value) => (value - of(axes, "x1")) / (of(axes, "x2") - of(axes, "x1"));
        const y = (value) => (value - of(axes, "y1")) / (of(axes, "y2") - of(axes, "y1"));
        const [counts, intervals] = [all(".pairs"), all(".interval")];
        return all(".point").map((point, at) => [
            Number(counts[at].textContent), x(of(point, "cx")), y(of(point, "cy")),
            y(of(intervals[at], "y1")), y(of(intervals[at], "y2")),
        ]);
    }"""
    return page.evaluate(script)


def percent(share):
    return "<1%" if 0 < share < 0.005 else f"{math.floor(100 * share + 0.5)}%"


def rows_of(curve):
    """Return the rows of the table of a curve."""
    return [
        f"{percent(bin.confidence)} {percent(bin.share)} {percent(bin.low)} – {percent(bin.high)} {bin.pairs}"
        for bin in curve
    ]


def test_the_diagram_and_its_table_are_of_the_graded_pairs(visit):
    page = visit()
    answer_with_hits(page)
    page.goto(
        page.url + link(QUERIES[0], a_index="videos", a_mode="dense", b_index="videos", b_mode="hybrid")
    )
    settled(page)
    grade(page, QUERIES)
    press(page, ["g"])
    for mode, name in NAMES.items():
        page.select_option("#grades-configuration", name)
        assert name in page.inner_text(".matrix caption")
        for outcome, curve in zip(OUTCOMES, wanted(mode), strict=True):
            page.get_by_role("radio", name=outcome, exact=True).check()
            assert same(drawn(page), oracle(curve))
            assert texts(page, ".reliability tbody tr") == rows_of(curve)
        assert page.get_by_role("img", name=f"Probability of level 3, {name}").count() == 1
    press(page, ["Escape", "g"])  # what was looked at is there again
    assert page.inner_text("#grades-configuration option:checked") == NAMES["hybrid"]
    assert page.get_by_role("radio", name="3", exact=True).is_checked()


def test_with_few_pairs_there_is_a_sentence_instead(visit):
    page = visit()
    answer_with_hits(page)
    grade(page, QUERIES[:4])
    press(page, ["g"])
    said = "needs at least 20 pairs of 5 queries; videos · Hybrid · scorer has 16 of 4 so far."
    assert said in page.inner_text("#grades-body")
    assert page.locator(".diagram").count() == 0
    press(page, ["Escape"])
    grade(page, QUERIES[4:5])
    press(page, ["g"])
    assert page.get_by_role("radio", name="≥ 2").is_checked()
    assert same(drawn(page), oracle(wanted("hybrid", QUERIES[:5])[2]))
    page.locator(".graded-list button").first.click()  # 19 are left
    assert page.locator(".diagram").count() == 0


@pytest.mark.parametrize(("width", "theme", "locale"), [(360, "dark", "en-US"), (1280, "light", "zh-CN")])
def test_axe_finds_nothing_and_a_phone_is_wide_enough(visit, width, theme, locale):
    options = {"color_scheme": theme, "locale": locale, "viewport": {"width": width, "height": 900}}
    page = visit(**options, reduced_motion="reduce")
    answer_with_hits(page)
    grade(page, QUERIES)
    press(page, ["g"])
    assert page.locator(".diagram").count() == 1
    assert violations(page) == []
    assert page.evaluate("document.querySelector('#grades').scrollWidth") <= width


def test_nothing_relevant_is_said_from_a_half_on(visit, site):
    page = visit(link())
    said = "probably nothing relevant"
    assert answer(site)["nothing_relevant"] < 0.5
    assert said not in page.inner_text(".summary")
    page.select_option("#scorer-A", "")
    settled(page)
    probability = answer(site, scorer=False)["nothing_relevant"]
    assert probability >= 0.5
    assert f"{said} ({percent(probability)})" in page.inner_text(".summary")


def test_a_query_unlike_those_of_the_calibration_is_told(visit, site):
    dense = {"a_index": "videos", "a_mode": "dense"}
    page = visit(link(**dense))
    assert answer(site, mode="dense", scorer=False)["outside"] == []
    assert page.locator(".outside").count() == 0
    long = QUERY * 20
    search(page, long)
    (told,) = answer(site, query=long, mode="dense", scorer=False)["outside"]
    assert "tokens, where the calibration had" in told
    assert page.inner_text(".outside") == f"The levels are less to be trusted for this query: {told}"
    page.click("#language")
    assert page.inner_text(".outside [lang=en]") == told  # the server's words are English
