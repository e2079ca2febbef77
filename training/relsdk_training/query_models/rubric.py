"""The rubric: what the levels mean, as a language model is told that writes, compares or grades."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from relsdk.errors import InputError
from relsdk.files.folders import json_sha256

__all__ = ["BUILT_IN", "read_rubric", "rubric_hash"]

BUILT_IN = """\
相关性等级：
3：完全相关，文档完全满足查询的意图。
2：大部分相关，文档满足查询的主要意图，只缺少次要的内容。
1：少量相关，文档与查询的关键实体或主题相同，但没有满足查询的意图。
0：不相关，文档不满足查询的意图。"""


def read_rubric(path: str | os.PathLike[str]) -> str:
    """Read a team's own rubric.

    Args:
        path: A text file in UTF-8 that says what the levels 0-3 mean, and what else counts; empty for
            `BUILT_IN`.

    Raises:
        InputError: The file is missing, empty or no UTF-8.
    """
    if not os.fspath(path):
        return BUILT_IN
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise OSError(errno.EINVAL, "it is no regular file")
        text = Path(path).read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:  # ValueError: of Unicode, a NUL in the path
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InputError(f"the rubric {path} cannot be read: {reason}; name a text file in UTF-8") from error
    if not text or "\0" in text:
        raise InputError(f"the rubric {path} holds no text; say in it what the levels 0, 1, 2 and 3 mean")
    return text


def rubric_hash(path: str | os.PathLike[str]) -> str:
    """Return a hash of what a rubric says, "" for `BUILT_IN`: what it says changes answers, not where it is.

    Raises:
        InputError: As `read_rubric`.
    """
    text = read_rubric(path)
    return "" if text == BUILT_IN else json_sha256(text)
