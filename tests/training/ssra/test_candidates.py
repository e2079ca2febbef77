"""Existing queries for a document: the nearest by words and by meaning."""

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from relsdk_training.config.ssra import CandidateConfig
from relsdk_training.ssra.stages.candidates import _Candidates


@pytest.fixture(scope="module")
def texts(corpus):
    return corpus[:10]


def candidates(texts, checkpoint, **config):
    return _Candidates(texts, checkpoint, CandidateConfig(**config), 64)


def test_the_nearest_by_words_of_a_title_that_is_a_query(texts, toy_checkpoint):
    found = candidates(texts, toy_checkpoint, lexical=1, semantic=0).nearest(texts)
    assert found == [[text] for text in texts]
    few = candidates(texts, toy_checkpoint, lexical=2, semantic=0).nearest(["游戏第三关", "怎么做面包 bread"])
    assert [of_one[0] for of_one in few] == ["游戏攻略第三关怎么过", "How to make bread at home"]


def test_queries_without_a_word_in_common_are_no_candidates(toy_checkpoint, monkeypatch):
    monkeypatch.setattr(_Candidates, "_words", lambda self, texts: [list(text) for text in texts])
    finder = candidates(["甲乙", "丙丁", "甲丁丁丁"], toy_checkpoint, lexical=3, semantic=0)
    assert finder.nearest(["甲", "丁丙", "戊", ""]) == [["甲乙", "甲丁丁丁"], ["丙丁", "甲丁丁丁"], [], []]


def test_the_nearest_by_meaning_are_those_of_the_cosine(texts, toy_checkpoint):
    tokenizer, model = (
        AutoTokenizer.from_pretrained(toy_checkpoint),
        AutoModel.from_pretrained(toy_checkpoint),
    )

    def vector(text):
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            return torch.nn.functional.normalize(model(**inputs).last_hidden_state[0].mean(dim=0), dim=0)

    queries = torch.stack([vector(f"query: {text}") for text in texts])
    documents = ["大宅门 电视剧 演员", "面包 bread 怎么做", "手机"]
    found = candidates(texts, toy_checkpoint, lexical=0, semantic=10, most=10).nearest(documents)
    for document, queries_of in zip(documents, found, strict=True):
        cosines = queries @ vector(f"passage: {document}")
        gaps = cosines.sort().values.diff()
        assert gaps.min() > 1e-6  # the order is no accident of rounding
        assert queries_of == [texts[row] for row in cosines.argsort(descending=True)]
    few = candidates(texts, toy_checkpoint, lexical=0, semantic=3, most=10).nearest(documents)
    assert few == [queries_of[:3] for queries_of in found]


def test_words_and_meaning_take_turns_up_to_a_limit(texts, toy_checkpoint, monkeypatch):
    found = candidates(texts, toy_checkpoint, lexical=3, semantic=3, most=4)
    monkeypatch.setattr(found, "_lexical", lambda documents: [[0, 1, 2], [], [7]])
    monkeypatch.setattr(found, "_semantic", lambda documents: [[1, 3, 4], [5, 6], [7, 8, 9]])
    rows = [[0, 1, 3, 2], [5, 6], [7, 8, 9]]
    assert found.nearest(["", "", ""]) == [[texts[row] for row in of_one] for of_one in rows]


def test_no_more_candidates_than_queries_and_none_twice(texts, toy_checkpoint):
    found = candidates(texts[:3], toy_checkpoint, lexical=9, semantic=9, most=20).nearest(texts)
    assert all(sorted(of_one) == sorted(texts[:3]) for of_one in found)
    nothing = candidates(texts, toy_checkpoint, lexical=0, semantic=0).nearest(texts[:2])
    assert nothing == [[], []]
    capped = candidates(texts, toy_checkpoint, lexical=4, semantic=4, most=2).nearest(texts)
    assert all(len(set(of_one)) == 2 for of_one in capped)


def test_candidates_do_not_depend_on_their_company(texts, toy_checkpoint):
    finder = candidates(texts, toy_checkpoint)
    together = finder.nearest(texts)
    assert together == [finder.nearest([text])[0] for text in texts]
