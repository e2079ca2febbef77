"""Grading by hand in a browser: by keys and buttons, kept for the tab, downloaded as pairs."""

import shutil

import pytest

from relsdk.formats import read_pairs
from tests.serve.page.conftest import documents, download
from tests.serve.page.looks import QUERY, answer, grades, ids, link, press, result, search, settled, texts

pytestmark = pytest.mark.slow


def test_grades_by_keys_download_as_pairs(visit):
    page = visit(link())
    press(page, ["j", "3", "j", "1", "ArrowDown", "0", "k", "2"])
    assert grades(page)[:4] == ["3", "2", "0", None]
    assert "Graded 2, Mostly" in page.inner_text("#status")
    graded = ids(page)[:3]
    press(page, ["g"])
    with download(page) as paths:
        page.click("#download")
    pairs = list(read_pairs(paths[0], "jsonl"))
    assert [(pair.query, pair.document.id, int(pair.level)) for pair in pairs] == [
        (QUERY, name, level) for name, level in zip(graded, (3, 2, 0), strict=True)
    ]
    known = {document.id: document for document in documents()}
    for pair in pairs:
        assert (pair.document.title, pair.document.text) == (
            known[pair.document.id].title,
            known[pair.document.id].text,
        )
        assert pair.document.metadata == {}


def test_calibrate_reads_what_was_downloaded(visit, encoder, tmp_path, relsdk):
    page = visit()
    for query in (QUERY, "大理旅游", "手机黑屏怎么办", "训练计划", "好吃的小吃"):
        search(page, query)
        press(page, [key for place in range(10) for key in ("ArrowDown", str(place % 4))])
    assert page.inner_text("#grade-count") == "50"
    page.locator(".hit").first.get_by_role("button", name="0: Irrelevant").click()  # takes it back
    press(page, ["g"])
    assert "at least 50 pairs of 5 queries" in page.inner_text("#grades-body")
    page.keyboard.press("Escape")
    press(page, ["u", "g"])
    assert "at least" not in page.inner_text("#grades-body")
    with download(page) as paths:
        page.click("#download")
    pairs = tmp_path / "grades.jsonl"
    pairs.write_bytes(paths[0].read_bytes())
    bundle = shutil.copytree(encoder, tmp_path / "bundle")
    code, out, err = relsdk("calibrate", bundle, pairs)
    assert code == 0, err
    assert "50" in out


def test_undo_goes_back_step_by_step(visit):
    page = visit(link())
    press(page, ["j", "3", "2", "j", "1"])
    assert grades(page)[:2] == ["2", "1"]
    press(page, ["u"])
    assert grades(page)[:2] == ["2", None]
    press(page, ["u"])
    assert grades(page)[:2] == ["3", None]
    press(page, ["u", "u"])
    assert grades(page)[:2] == [None, None]
    assert page.inner_text("#status") == "There is nothing to undo."
    assert page.inner_text("#grade-count") == "0"


def test_buttons_grade_and_the_same_button_takes_it_back(visit):
    page = visit(link())
    button = page.locator(".hit").nth(2).get_by_role("button", name="2: Mostly")
    button.click()
    assert grades(page)[2] == "2"
    button.click()
    assert grades(page)[2] is None


def test_a_grade_is_of_query_and_document_in_both_configurations(visit):
    page = visit(link(a_index="videos", a_mode="dense", b_index="videos", b_mode="dense"))
    press(page, ["j", "2"])
    assert grades(page, "A")[0] == grades(page, "B")[0] == "2"
    search(page, "大理旅游")
    assert set(grades(page)) == {None}


def test_grades_last_as_long_as_the_tab(visit):
    page = visit(link())
    press(page, ["j", "3"])
    page.reload()
    page.wait_for_selector(".hit")
    assert grades(page)[0] == "3"
    assert page.inner_text("#grade-count") == "1"
    assert page.evaluate("JSON.stringify(localStorage)").find("红烧肉") == -1
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector(".hit")
    assert grades(other)[0] is None


def test_agreement_with_each_configuration(visit, site):
    page = visit(link(a_index="videos", a_mode="hybrid", a_scorer="scorer"))
    levels = [hit["level"] for hit in answer(site)["hits"]]
    press(page, [key for level in (3, 1, 0) for key in ("j", str(level))])
    same = sum(level == mine for level, mine in zip(levels, (3, 1, 0), strict=False))
    near = sum(abs(level - mine) <= 1 for level, mine in zip(levels, (3, 1, 0), strict=False))
    bias = sum(level - mine for level, mine in zip(levels, (3, 1, 0), strict=False)) / 3
    page.select_option("#scorer-A", "")
    settled(page)
    press(page, ["g"])
    rows = {
        row[0]: row[1:]
        for row in (
            text.split("\t")
            for text in page.locator("#grades-body table").first.locator("tbody tr").all_inner_texts()
        )
    }
    assert rows["videos · Hybrid · scorer"] == [
        "3",
        f"{same / 3:.0%}",
        f"{near / 3:.0%}",
        f"{'+' if bias > 0 else ''}{bias:.2f}",
    ]
    again = [name for name in ids(page) if name in [hit["id"] for hit in answer(site)["hits"][:3]]]
    assert ("videos · Hybrid" in rows) == bool(again)  # what the second configuration found, too, is compared
    counts = texts(page, ".matrix tbody td")
    assert sum(map(int, counts)) == 3


def test_a_configuration_is_the_same_in_both_languages(visit):
    page = visit(link(), locale="zh-CN")
    press(page, ["j", "3"])
    page.click("#language")
    press(page, ["j", "j", "1", "g"])
    (row,) = texts(page, "#grades-body table:not(.matrix) tbody tr")
    assert row.startswith("videos · Hybrid · scorer 2 ")


def test_grades_can_be_removed(visit):
    page = visit(link())
    press(page, ["j", "3", "j", "2", "g"])
    page.locator(".graded-list button").first.click()
    assert page.locator(".graded-list li").count() == 1
    page.click("#clear")
    assert "Press again" in page.inner_text("#clear")
    page.click("#clear")
    assert "Nothing is graded yet" in page.inner_text("#grades-body")
    assert page.is_disabled("#download")
    assert set(grades(page)) == {None}


def test_a_passage_is_graded_without_the_id_of_its_document(visit):
    """What was graded is the passage: another one of the same document may have another grade."""
    page = visit()
    hit = {
        "id": "d1",
        "title": "标题",
        "text": "开头。红烧肉怎么做。结尾。",
        "passage": {"text": "红烧肉怎么做。", "start": 3, "end": 10},
    }
    page.route("**/v1/search", lambda route: route.fulfill(json={"results": [result(QUERY, [hit])]}))
    search(page, QUERY)
    press(page, ["ArrowDown", "w", "3", "g"])
    assert page.locator(".why .passage").inner_text() == "红烧肉怎么做。"
    assert page.locator(".hit .chip").inner_text() == "No level"
    with download(page) as paths:
        page.click("#download")
    (pair,) = read_pairs(paths[0], "jsonl")
    assert (pair.document.title, pair.document.text) == ("标题", "红烧肉怎么做。")
    assert pair.document.id != "d1"
