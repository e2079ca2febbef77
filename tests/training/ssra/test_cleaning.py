"""What a written query must be: cleaned, of the domain's scripts, no echo of the title."""

import pytest

from relsdk_training.data.text import normal_form
from relsdk_training.ssra._cleaning import clean, fault, scripts


@pytest.mark.parametrize(
    ("raw", "query"),
    [
        ("红烧肉做法", "红烧肉做法"),
        ("  红烧肉 \t  做法  ", "红烧肉 做法"),
        ("“红烧肉做法”", "红烧肉做法"),
        ("“红烧肉做法。”", "红烧肉做法"),
        ("“红烧肉做法”。", "红烧肉做法"),
        ('"how to make bread."', "how to make bread"),
        ("「《红楼梦》」", "红楼梦"),
        ("《红楼梦》作者是谁", "《红楼梦》作者是谁"),
        ("“《红楼梦》作者是谁”", "《红楼梦》作者是谁"),
        ("谁写了《红楼梦》", "谁写了《红楼梦》"),
        ("《红楼梦》和《西游记》", "《红楼梦》和《西游记》"),
        ("“红烧肉做法", "红烧肉做法"),
        ("红烧肉做法」", "红烧肉做法"),
        ("what's new", "what's new"),
        ("iPhone 15 黑屏。。", "iPhone 15 黑屏"),
        ("\n\n 第一行 \n第二行", "第一行"),
        ("第一行\r\n第二行", "第一行"),
        ("", ""),
        (" \n ", ""),
        ("“”", ""),
        ("。", ""),
    ],
)
def test_cleaned(raw, query):
    assert clean(raw) == query
    assert clean(query) == query


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("红烧肉", ""),
        ("iPhone手机怎么截图", ""),
        ("Python 3.12 安装 pip", ""),
        ("哈哈哈", ""),
        ("1000000元能买什么", ""),  # numbers may repeat
        ("好好学习好好学习", ""),  # twice is no stutter
        ("1111号", ""),  # nor are digits
        ("肉", "cleaning"),
        ("", "cleaning"),
        ("？！…", "cleaning"),
        ("肉" + "？" * 5, "cleaning"),
        ("红烧？！", ""),  # half of it are letters
        ("红烧？！、", "cleaning"),
        ("红烧 ？ ！", ""),  # spaces do not count
        (
            "一二三四五六七八" * 2
            + "九十"
            + "abcdefghijklmnopqrstuvwxyz"
            + "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉",
            "",
        ),
        (
            "一二三四五六七八" * 2
            + "九十"
            + "abcdefghijklmnopqrstuvwxyz"
            + "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌",
            "cleaning",
        ),
        ("哈哈哈哈", "cleaning"),
        ("怎么办怎么办怎么办", "cleaning"),
        ("红烧肉做做做做法", "cleaning"),
        ("bread bread bread ", "cleaning"),
        ("红烧\ufffd肉做法", "cleaning"),
        ("How To Make Bread", "echo"),
        ("Ｈow to  make bread", "echo"),
        ("how to make breads", ""),
    ],
)
def test_faults(query, reason):
    assert fault(query, "how to make ｂread") == reason


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("红烧肉Ａbc", {"CJK", "LATIN"}),
        ("сборка", {"CYRILLIC"}),
        ("ラーメン の 作り方", {"KATAKANA", "HIRAGANA", "CJK"}),
        ("12 345？", set()),
    ],
)
def test_scripts(text, found):
    assert scripts(text) - {"KATAKANA-HIRAGANA"} == found  # the sound mark of both


def test_a_query_of_another_script_is_none_of_this_domain():
    for query, title, reason in (
        ("红烧肉怎么做", "", ""),
        ("привет мир", "", "script"),
        ("红烧肉 рецепт", "", "script"),
        ("привет мир", "Привет", ""),  # the document has it
        ("红烧肉 3 ？", "", ""),
    ):
        assert fault(query, title, {"CJK"}) == reason
        assert fault(query, title) == ""


def test_normal_forms():
    assert normal_form(" Ａbc　Straße\n１２ ") == "abc strasse 12"
    assert normal_form("红烧肉") != normal_form("红烧鱼")
