"""`--where`: its grammar, what it refuses and where, and that nothing else comes of any text."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.errors import InputError
from relsdk.index.filter_parser import parse_filter
from relsdk.index.filter_text import parse_where


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("author=老王", {"author": {"eq": "老王"}}),
        ("author==x", {"author": {"eq": "x"}}),
        ("author!=x", {"author": {"ne": "x"}}),
        ("d<>9", {"d": {"ne": 9}}),
        ("duration < 60", {"duration": {"lt": 60}}),
        ("n>=-1.5e3", {"n": {"gte": -1500.0}}),
        ("day>2024-05-01", {"day": {"gt": "2024-05-01"}}),
        ("author=New York", {"author": {"eq": "New York"}}),
        ('my field="a, b"', {"my field": {"eq": "a, b"}}),
        ('"a<b"=1', {"a<b": {"eq": 1}}),
        ('"or"=1', {"metadata.or": {"eq": 1}}),
        ("a.b exists", {"a.b": {"exists": True}}),
        ("a in (x y, 'c, d', 3, null)", {"a": {"in": ["x y", "c, d", 3, None]}}),
        ("a NOT IN (true)", {"a": {"nin": [True]}}),
        ("sku=007", {"sku": {"eq": "007"}}),
        ('sku="7"', {"sku": {"eq": "7"}}),
        ("a=NaN", {"a": {"eq": "NaN"}}),
        ("a=True", {"a": {"eq": "True"}}),
        ("a=it's", {"a": {"eq": "it's"}}),
        ('a="“双减”政策，一、二"', {"a": {"eq": "“双减”政策，一、二"}}),
        ("a in ('b，c', \"“d”\")", {"a": {"in": ["b，c", "“d”"]}}),
        ("a='it\\'s \"x\"'", {"a": {"eq": 'it\'s "x"'}}),
        ('a="\\u732b\\n"', {"a": {"eq": "猫\n"}}),
        ("a=in exists", {"a": {"eq": "in exists"}}),
        ("a=1 and b=2", {"and": [{"a": {"eq": 1}}, {"b": {"eq": 2}}]}),
        ("a=x y AND b=2", {"and": [{"a": {"eq": "x y"}}, {"b": {"eq": 2}}]}),
        ("a=1 or b=2 and not c=3",
         {"or": [{"a": {"eq": 1}}, {"and": [{"b": {"eq": 2}}, {"not": {"c": {"eq": 3}}}]}]}),
        ("(a=1 or b=2) and c=3",
         {"and": [{"or": [{"a": {"eq": 1}}, {"b": {"eq": 2}}]}, {"c": {"eq": 3}}]}),
        ("n>=1 and n<5", {"n": {"gte": 1, "lt": 5}}),
        ("n>=1 and n>2", {"and": [{"n": {"gte": 1}}, {"n": {"gt": 2}}]}),
        ("not gt=1 and not lt=2", {"and": [{"not": {"gt": {"eq": 1}}}, {"not": {"lt": {"eq": 2}}}]}),
    ],
)  # fmt: skip
def test_grammar(text, wanted):
    assert parse_where([text]) == wanted


def test_several_conditions_hold_together():
    assert parse_where([]) is None
    assert parse_where(["tag=a", "tag=b"]) == {"and": [{"tag": {"eq": "a"}}, {"tag": {"eq": "b"}}]}
    assert parse_where(["n>=1", "n<5"]) == {"n": {"gte": 1, "lt": 5}}
    assert parse_where(["a=1 or b=2", "c=3"]) == {
        "and": [{"or": [{"a": {"eq": 1}}, {"b": {"eq": 2}}]}, {"c": {"eq": 3}}]
    }


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("author", "at its end: an operator (= != < <= > >= in exists) is missing after 'author'"),
        ("duration 60", "is missing after 'duration 60'"),
        ("", "at its end: a field is expected"),
        ("=x", "at character 1, '=x': a field"),
        ("a=", "at its end: a value"),
        ("a=1 and", "at its end: a field"),
        ("title=a and b", "at its end: an operator (= != < <= > >= in exists) is missing after 'b'"),
        (
            "title=trick or treat",
            "at its end: an operator (= != < <= > >= in exists) is missing after 'treat'",
        ),
        ("url=http://x?a=b", "at character 15, '=b': this sign"),
        ("a=1 b=2", "at character 6, '=2': this sign"),
        ("a=C++ (2nd)", "at character 7, '(2nd)': this sign"),
        ("a=x)", "at character 4, ')'"),
        ("(a=1", "')' is expected, for '(' at character 1"),
        ("a in ()", "at character 7, ')': a value"),
        ("a in b", "'(' is expected"),
        ("a in (b", "',' or ')' is expected"),
        ("a='it", 'at character 3, "\'it": the quote is never closed'),
        ('a="x"y', "at character 6, 'y'"),
        ('a="\\d"', "a backslash starts an escape"),
        (
            "author=“老王”",
            "at character 8, '“老王”': write \" instead of “, or put a text that holds “ in double",
        ),
        ("author=老“王”", "at character 9, '“王”': write"),
        ("author in (＂a＂)", "at character 12, '＂a＂)': write \" instead of ＂"),
        ("tags in (家常菜，川菜)", "at character 13, '，川菜)': write , instead of ，"),
        ("tags not in (a, 家常菜、川菜)", "write , instead of 、"),
        ("author in (老王;小李)", "write , instead of ;"),
        ("author in (老王；小李)", "write , instead of ；"),
        ("author=老王，小李", "write , instead of ，"),
        ("author = 老王, 小李", "at character 12, ', 小李': for several values write FIELD in (A, B)"),
        ("tags in （家常菜）", "at character 9, '（家常菜）': write ( instead of （"),
        ("（a=1 or b=2)", "at character 1, '（a=1 or b=2)': write ( instead of （"),
        ("(a=1 or b=2）", "write ) instead of ）"),
        ("duration＜60", "at character 9, '＜60': write < instead of ＜"),
        ("author＝老王", "write = instead of ＝"),
        ("author！=老王", "write ! instead of ！"),
        ("author=‘老王’", "write ' instead of ‘"),
        ("and=1", "at character 1"),
        ("(" * 9 + "a=1" + ")" * 9, "nested more than 8 levels"),
        ("not " * 5000 + "a=1", "nested more than 8 levels"),
        ("a=" + "x" * 200_000, "200,002 characters"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text, place):
    with pytest.raises(InputError) as caught:
        parse_where([text])
    assert place in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.text(st.sampled_from("ab=<>!()\"'\\, andortisx1.[]\n\0\u2028猫"), max_size=30))
def test_any_text_is_a_filter_or_an_error(text):
    with contextlib.suppress(InputError):
        parse_filter(parse_where([text]))
