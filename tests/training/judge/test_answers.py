"""The level and the reason in what a model answers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relsdk_training.judge._answers import read_answer


@pytest.mark.parametrize(
    ("answer", "level", "reason"),
    [
        ('{"level": 2, "reason": "缺少剂量"}', 2, "缺少剂量"),
        ('好的：\n```json\n{"level": 0, "reason": "不同的病"}\n```\n希望有帮助', 0, "不同的病"),
        ('{"level": "３", "reason": "完全一致"}', 3, "完全一致"),
        ('{"level": "2分", "reason": ""}', 2, ""),
        ('{"level": "等级1"}', 1, ""),
        ('{"level": 2.0, "reason": null}', 2, ""),
        ('{"result": {"reason": "同一主题", "level": 1}}', 1, "同一主题"),
        ('{"level": 2, "reason": "第一行\n第二行"}', 2, "第一行 第二行"),
        ('{"level": 2, "reason": "没有写完', 2, "没有写完"),
        ("{'level': 2, 'reason': '单引号'}", 2, "单引号"),
        ('<think>\n等级：0？{"level": 0}\n</think>\n{"level": 3, "reason": "好"}', 3, "好"),
        ('先想一想，等级：0\n</think>{"level": 3}', 3, ""),
        ('{"level": 1, "reason": "a"} {"level": 1, "reason": "b"}', 1, "a"),
        ("2", 2, "2"),
        (" ３分。", 3, "3分。"),
        ("**等级**：**2**，理由：缺少剂量", 2, "缺少剂量"),
        ("相关性等级为 1。", 1, "相关性等级为 1。"),
        ("Level: 3\nReason: same question", 3, "same question"),
        ("The level is 2.", 2, "The level is 2."),
        ("等级应为2", 2, "等级应为2"),
        ("<think>level 0" + " or not" * 5_000 + "</think>Level: 2", 2, "Level: 2"),
        ("2级，因为只缺少次要的内容", 2, "2级，因为只缺少次要的内容"),
        ('{"level": 2, "reason": "a\\u0000b\\ud83d c"}', 2, "a b c"),
    ],
)
def test_what_is_understood(answer, level, reason):
    assert read_answer(answer) == (level, reason)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "抱歉，我无法判断。",
        '{"level": 4, "reason": "好"}',
        '{"level": -1}',
        '{"level": "-1"}',
        '{"level": 2.5}',
        '{"level": true}',
        '{"level": null}',
        '{"level": "2-3"}',
        '{"level": [2]}',
        '{"level": 1} {"level": 2}',
        '{"level": 等级, "reason": "理由"}',
        '{"reason": "等级未知"}',
        "等级：2.5",
        "等级：10",
        "等级 0-3",
        "得分：2/3",
        "level: -1",
        "不是等级3，而是等级2",
        "等级为 0 的条件不满足，所以是 2 分",
        '{"level": "不是3"}',
        '{"level": ">=2"}',
        "<think>" + "level 3 " * 4_000,  # was cut off while it thought
        "13分",
        "3分钟学会做菜",
        "2级伤残的赔偿标准",
        "1. 文档讲感冒\n2. 查询问咳嗽",
        '<think>{"level": 2}',
        '{"level": 4} 等级：2',  # what the object says counts, and it says nothing that can be
        "{" * 30_000,
        '{"a":' * 3_000,
    ],
)
def test_what_names_no_level_or_several(answer):
    assert read_answer(answer) is None


@given(st.text(max_size=200), st.integers(0, 3), st.text(max_size=50))
def test_any_text_is_read_and_any_reason_can_be_written(text, level, reason):
    read = read_answer(text)
    assert read is None or read[0] in range(4)
    answer = json.dumps({"level": level, "reason": reason})
    assert (read := read_answer(answer)) is not None
    assert read[0] == level
    assert json.loads(json.dumps(read[1], ensure_ascii=False).encode()) == read[1]
    assert "\0" not in read[1]
    assert "\n" not in read[1]
