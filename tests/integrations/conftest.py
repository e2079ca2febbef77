"""A toy encoder and a toy scorer with levels of every kind, an index, and coroutines as tests."""

import asyncio
import inspect
import os

import numpy as np
import pytest

from relsdk import Document, Embedder, Index
from tests.bundle_changes import read_description, write_description
from tests.toys import copy_bundle

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")  # read when it is imported

TITLES = [
    ("大宅门演员表", "电视剧 大宅门 全体演员和角色介绍", "影视", 95),
    ("红烧肉怎么做才不腻", "", "美食", 180),
    ("红烧肉的家常做法", "五花肉切块，冷水下锅焯水", "美食", 240),
    ("三天两夜大理旅游攻略", "洱海 古城 苍山 三天怎么玩", "旅游", 300),
    ("大理旅游攻略", "", "旅游", 45),
    ("手机黑屏打不开怎么办", "长按电源键十秒", "数码", 60),
    ("How to make bread at home", "Flour, water, salt and yeast", "美食", 420),
    ("健身新手一周训练计划", "", "运动", 15),
    ("金毛幼犬怎么训练定点上厕所", "每天固定时间带它去同一个地方", "宠物", 75),
    ("游戏攻略第三关怎么过", "先打左边的开关", "游戏", 130),
]
QUERIES = ["大理旅游攻略", "红烧肉怎么做", "手机黑屏", "训练计划"]
# As the encoder and the scorer order documents, levels fall from 3 to 0.
SLOPE = 4000.0


def pytest_pyfunc_call(pyfuncitem):
    """Run a coroutine as a test: the standard suites have some, and do not say who runs them."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(scope="session")
def documents():
    return [
        Document(f"v{number}", title, text, {"topic": topic, "duration": seconds, "level": "入门"})
        for number, (title, text, topic, seconds) in enumerate(TITLES)
    ]


@pytest.fixture(scope="session")
def encoder(documents, tmp_path_factory):
    """A toy encoder whose levels are the quarters of its cosines."""
    folder = copy_bundle("encoder-bundle-v1", tmp_path_factory.mktemp("parts") / "encoder", variants=["fp32"])
    embedder = Embedder(folder)
    cosines = embedder.encode_query(QUERIES) @ embedder.encode_document(documents).T
    content = read_description(folder)
    cuts = [SLOPE * cut for cut in np.quantile(cosines, [0.25, 0.5, 0.75]).tolist()]
    fit = {"method": "cumulative_link", "transform": "identity", "slope": SLOPE, "cuts": cuts}
    content["variants"][0]["calibrations"] = {"32": fit}
    write_description(folder, content)
    return folder


@pytest.fixture(scope="session")
def scorer(documents, tmp_path_factory):
    """A toy scorer that is sure of its levels, and gives every one."""
    folder = copy_bundle("scorer-bundle-v1", tmp_path_factory.mktemp("parts") / "scorer", variants=["fp32"])
    content = read_description(folder)
    fit = {"method": "bias_corrected_temperature", "temperature": 1.0, "ordinal": False, "biases": [0.0] * 4}
    content["variants"][0]["calibrations"] = {"pair": fit}
    write_description(folder, content)
    return folder


@pytest.fixture(scope="session")
def index_folder(documents, encoder, tmp_path_factory):
    """An index of the documents; shared, so nobody may change it."""
    folder = tmp_path_factory.mktemp("parts") / "videos.idx"
    Index.build(folder, documents, Embedder(encoder)).close()
    return folder
