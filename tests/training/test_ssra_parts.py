"""The parts of SSRA by hand: balance, consistency, priors, cleaning, candidates, judging, stages, filters."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from relsdk.calibration import fit_calibration
from relsdk.errors import InputError, LockedError, TrainingError
from relsdk.formats import read_pairs, write_pairs
from relsdk.records import Document, LabelledPair
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_checkpoint.scorer import ScoreModel
from relsdk_sample import generate
from relsdk_training.config.settings import ModelConfig
from relsdk_training.config.ssra import BalanceConfig, CandidateConfig
from relsdk_training.data.pairs import pair_arrays
from relsdk_training.data.text import normal_form
from relsdk_training.query_models.base import QueryRequest
from relsdk_training.ssra import stage_runner as stages_module
from relsdk_training.ssra.balance import balanced_choice, level_counts, write_balanced
from relsdk_training.ssra.candidates import Candidates
from relsdk_training.ssra.cleaning import cleaned, fault, scripts
from relsdk_training.ssra.judges import EndpointJudge, Group, ModelJudge, consistent, contradictions, named
from relsdk_training.ssra.records import distinct, document_of, drawn, new_record, pair_key
from relsdk_training.ssra.scoring import PairScorer, adjusted, fit_levels
from relsdk_training.ssra.stage_runner import (
    Stage,
    Stages,
    read_lines,
    read_stages,
    shard_paths,
    write_lines,
    write_shards,
)
from relsdk_training.ssra.synthesis import Filters, agreement, annotate, filtered, write

# ------------------------------------------------------------------------------------------------- balance

SHARES = (0.1, 0.2, 0.3, 0.4)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # Level 0 has more labels than its share, level 3 as many; the others are filled up.
        (50, [10, 10, 15, 20]),
        # 32 pairs of level 3 are 40 % of 80.
        (0, [10, 16, 24, 32]),
        # More than there is: 22, 31 and 32 are all of levels 1 to 3.
        (1000, [40, 22, 31, 32]),
        (1, [10, 2, 1, 20]),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_level_counts_by_hand(size, expected, scale):
    shares = [scale * share for share in SHARES]
    assert level_counts([10, 2, 1, 20], [30, 20, 30, 12], shares, size).tolist() == expected


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5), (0.5, 0.0, 0.3, 0.2), (0.5, 0.3, 0.3, -0.1), (1, 1, 1, np.nan), (np.inf, 1, 1, 1)]
)
def test_bad_shares(shares):
    with pytest.raises(InputError, match=r"balance.shares .*four numbers above 0"):
        level_counts([1] * 4, [1] * 4, shares, 0)


def test_a_balanced_choice_by_hand():
    #         0  1  2  3  4  5  6  7  8  9 10 11
    levels = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 0]
    labelled = [row in (1, 4, 11) for row in range(12)]
    # Level 2 has 2 pairs, a quarter of 8: level 0 keeps its two labelled, level 1 gets its second, 3 two.
    rows = balanced_choice(levels, labelled, [1, 1, 1, 1], 0, seed=0).tolist()
    assert rows[:5] == [1, 4, 5, 6, 7]
    assert rows == sorted(rows)
    assert rows[-1] == 11
    assert len(rows) == 8
    assert set(rows[5:7]) < {8, 9, 10}
    drawn = {tuple(balanced_choice(levels, labelled, [1, 1, 1, 1], 0, seed=seed)) for seed in range(20)}
    assert len(drawn) == 3  # two of three pairs of level 3, by chance
    again = balanced_choice(levels, labelled, [1, 1, 1, 1], 0, seed=0)
    assert again.tolist() == rows


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=60),
    shares=st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4),
    size=st.integers(0, 80),
    seed=st.integers(0, 5),
)
def test_a_choice_keeps_every_labelled_pair_and_invents_none(rows, shares, size, seed):
    levels, labelled = (list(column) for column in zip(*rows, strict=True))
    chosen = balanced_choice(levels, labelled, shares, size, seed)
    assert len(set(chosen.tolist())) == len(chosen)
    assert set(np.flatnonzero(labelled)) <= set(chosen.tolist()) <= set(range(len(rows)))
    have, all_of = (np.bincount(np.array(levels)[of], minlength=4) for of in (labelled, slice(None)))
    counts = np.bincount(np.array(levels)[chosen], minlength=4)
    assert counts.tolist() == level_counts(have.tolist(), (all_of - have).tolist(), shares, size).tolist()
    wanted = size * np.array(shares) / sum(shares)
    if size:  # a level that is off its share has no more to give, or nothing but labelled ones
        off = np.abs(counts - wanted) > 0.51
        assert (~off | (counts == all_of) | (counts == have)).all()


# --------------------------------------------------------------------------------------------- consistency


def test_contradictions_by_hand():
    #                          0 > 1: 0.5 <= 2.0; 0 > 2: 0.5 <= 0.8; 1 > 2: 2.0 > 0.8; 3 is level with 0
    found = contradictions([3, 2, 1, 3], np.array([0.5, 2.0, 0.8, 2.0]))
    assert np.argwhere(found).tolist() == [[0, 1], [0, 2], [3, 1]]  # equal is not more
    assert not contradictions([1, 1], np.array([0.0, 3.0])).any()


@pytest.mark.parametrize(
    ("pairs", "count", "kept"),
    [
        ([], 3, [0, 1, 2]),
        ([(0, 1), (0, 2), (0, 3)], 4, [1, 2, 3]),
        ([(1, 0)], 2, [0]),
        ([(0, 1), (0, 2), (3, 1)], 4, [0, 3]),  # 0 and 1 clash twice each: 1 goes; then of 0 and 2 the later
        ([(0, 1), (1, 2), (2, 3)], 4, [0, 3]),  # 2 goes of 1 and 2; then 1 of 0 and 1
        ([(0, 1), (1, 0)], 2, [0]),
    ],
)
def test_the_most_contradicted_go_first(pairs, count, kept):
    wrong = np.zeros((count, count), dtype=bool)
    for pair in pairs:
        wrong[pair] = True
    assert np.flatnonzero(consistent(wrong)).tolist() == kept


@given(
    st.integers(0, 8).flatmap(
        lambda n: st.tuples(
            arrays(np.int64, n, elements=st.integers(0, 3)),
            arrays(np.float64, n, elements=st.floats(0, 3).map(lambda x: round(x, 1))),
        )
    )
)
def test_what_stays_is_in_order(of_document):
    wanted, expected = of_document
    wrong = contradictions(wanted, expected)
    keep = consistent(wrong)
    assert not contradictions(wanted[keep], expected[keep]).any()
    assert (keep | wrong.any(axis=0) | wrong.any(axis=1)).all()  # nobody goes without a contradiction
    assert keep.any() or not len(keep)


# -------------------------------------------------------------------------------------------------- priors

PRIOR = np.array([0.1, 0.2, 0.3, 0.4])


def test_adjusted_by_hand():
    rows = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    # 4, 1.5, 2/3, 1/4 sum to 77/12; what only repeats the prior says nothing.
    np.testing.assert_allclose(adjusted(rows, PRIOR, 1.0), [np.array([48, 18, 8, 3]) / 77, [0.25] * 4])
    np.testing.assert_allclose(adjusted(rows, PRIOR, 0.0), rows)
    root = np.sqrt(PRIOR)
    np.testing.assert_allclose(adjusted(rows, PRIOR, 0.5)[1], root / root.sum())


def test_at_full_strength_levels_count_as_equally_frequent():
    """Bayes with the labels' prior, corrected, is Bayes with a flat one."""
    evidence = np.random.default_rng(2).uniform(0.01, 1.0, (50, 4))  # p(x | level)
    skewed, flat = (evidence * prior for prior in (PRIOR, np.full(4, 0.25)))
    skewed, flat = (rows / rows.sum(axis=1, keepdims=True) for rows in (skewed, flat))
    np.testing.assert_allclose(adjusted(skewed, PRIOR, 1.0), flat)
    assert (skewed.argmax(axis=1) != flat.argmax(axis=1)).any()


@given(
    arrays(np.float64, (3, 4), elements=st.floats(0.001, 1.0)),
    arrays(np.float64, 4, elements=st.floats(0.01, 1.0)),
    st.floats(0.0, 2.0),
)
def test_adjusted_rows_are_probabilities(raw, prior, strength):
    found = adjusted(raw / raw.sum(axis=1, keepdims=True), prior / prior.sum(), strength)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert (found > 0).all()


# ------------------------------------------------------------------------------------------------ cleaning


@pytest.mark.parametrize(
    ("raw", "clean"),
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
def test_cleaned(raw, clean):
    assert cleaned(raw) == clean
    assert cleaned(clean) == clean


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


@given(st.lists(st.integers()), st.integers(0, 10), st.integers())
def test_as_many_as_wanted_are_drawn_in_their_order(items, most, seed):
    numbered = list(enumerate(items))
    chosen = drawn(iter(numbered), most, seed)
    assert len(chosen) == min(most, len(items))
    assert chosen == sorted(set(chosen), key=lambda one: one[0])
    assert set(chosen) <= set(numbered)
    assert chosen == drawn(numbered, most, seed)


def test_every_item_is_drawn_equally_often():
    counts = np.bincount([x for seed in range(2000) for x in drawn(range(8), 2, seed)], minlength=8)
    assert abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


@given(st.lists(st.text(max_size=2)))
def test_the_first_of_equal_keys_is_kept(items):
    first = {}
    for item in items:
        first.setdefault(item.casefold(), item)
    assert list(distinct(items, str.casefold)) == list(first.values())


def test_normal_forms():
    assert normal_form(" Ａbc　Straße\n１２ ") == "abc strasse 12"
    assert normal_form("红烧肉") != normal_form("红烧鱼")


# ---------------------------------------------------------------------------------------------- candidates


@pytest.fixture(scope="module")
def texts(corpus):
    return corpus[:10]


def candidates(texts, checkpoint, **config):
    return Candidates(texts, checkpoint, CandidateConfig(**config), 64)


def test_the_nearest_by_words_of_a_title_that_is_a_query(texts, toy_checkpoint):
    found = candidates(texts, toy_checkpoint, lexical=1, semantic=0).nearest(texts)
    assert found == [[text] for text in texts]
    few = candidates(texts, toy_checkpoint, lexical=2, semantic=0).nearest(["游戏第三关", "怎么做面包 bread"])
    assert [of_one[0] for of_one in few] == ["游戏攻略第三关怎么过", "How to make bread at home"]


def test_queries_without_a_word_in_common_are_no_candidates(toy_checkpoint, monkeypatch):
    monkeypatch.setattr(Candidates, "_words", lambda self, texts: [list(text) for text in texts])
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


# ------------------------------------------------------------------------------------------------- scoring


def score_run(checkpoint, folder, head):
    torch.manual_seed(3)
    model = ScoreModel.load(checkpoint, head)
    torch.nn.init.normal_(model.transformer.classifier.weight)
    (folder / "best").mkdir()
    model.save(folder / "best")
    return folder


def dev_pairs():
    return pair_arrays(generate(seed=5, n_documents=200, n_queries=60).pairs)


def log_odds_by_hand(run, head, pairs):
    """log(e / (3 - e)) of the expected level e under a plain transformers model."""
    model = AutoModelForSequenceClassification.from_pretrained(run / "best").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "best")
    found = []
    for query, document in pairs:
        with torch.inference_mode():
            tokens = tokenizer(query, document, return_tensors="pt", truncation=True, max_length=64)
            logits = model(**tokens).logits[0].double()
        if head == "categorical":
            expected = float((logits.softmax(0) * torch.arange(4)).sum())
        else:
            expected = float(np.minimum.accumulate(1 / (1 + np.exp(-logits.numpy()))).sum())
        found.append(np.log(expected / (3 - expected)))
    return np.array(found)


@pytest.mark.parametrize("head", ["categorical", "ordinal"])
def test_a_cross_encoders_levels_are_read_from_its_order(toy_checkpoint, corpus, tmp_path, head):
    config = ModelConfig(head=head, max_tokens=64)
    run = score_run(toy_checkpoint, tmp_path, head)
    dev = dev_pairs()
    told = fit_levels(run, "cross_encoder", config, dev)
    assert 0 <= told["accuracy"] <= 1
    pairs = [(query, document) for query in corpus[:3] for document in corpus[2:6]]
    on_dev = [(dev.queries[q], dev.documents[d]) for q, d in zip(dev.query_of, dev.document_of, strict=True)]
    calibration, _ = fit_calibration(
        log_odds_by_hand(run, head, on_dev), dev.labels, [str(query) for query in dev.query_of]
    )
    wanted = calibration.probabilities(log_odds_by_hand(run, head, pairs))
    scorer = PairScorer(run, "cross_encoder", config, adjust=0.0)
    found = scorer.probabilities(pairs)
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    order = np.random.default_rng(0).permutation(len(pairs))
    np.testing.assert_allclose(scorer.probabilities([pairs[row] for row in order]), found[order], atol=1e-6)
    prior = np.bincount(dev.labels, minlength=4) / len(dev)
    corrected = PairScorer(run, "cross_encoder", config, adjust=1.0).probabilities(pairs)
    np.testing.assert_allclose(corrected, adjusted(found, prior, 1.0), atol=1e-6)
    assert scorer.probabilities([]).shape == (0, 4)


def test_an_encoders_levels_are_read_from_its_cosine(toy_checkpoint, corpus, tmp_path):
    (tmp_path / "best").symlink_to(toy_checkpoint)
    config = ModelConfig(max_tokens=64)
    dev = dev_pairs()
    fit_levels(tmp_path, "encoder", config, dev)
    pairs = [(query, document) for query in corpus[:3] for document in corpus[2:6]]
    encoder = TextEncoder.load(toy_checkpoint, max_tokens=64).eval()
    tokenizer = AutoTokenizer.from_pretrained(toy_checkpoint)

    def cosines(some):
        sides = []
        for prompt, texts in zip(("query: ", "passage: "), zip(*some, strict=True), strict=True):
            rows = []
            for text in texts:
                tokens = tokenizer(prompt + text, return_tensors="pt", truncation=True, max_length=64)
                with torch.inference_mode():
                    rows.append(encoder(tokens)[0])
            sides.append(torch.nn.functional.normalize(torch.stack(rows), dim=1))
        return (sides[0] * sides[1]).sum(dim=1).double().numpy()

    on_dev = [(dev.queries[q], dev.documents[d]) for q, d in zip(dev.query_of, dev.document_of, strict=True)]
    calibration, _ = fit_calibration(cosines(on_dev), dev.labels, [str(query) for query in dev.query_of])
    found = PairScorer(tmp_path, "encoder", config, adjust=0.0).probabilities(pairs)
    np.testing.assert_allclose(found, calibration.probabilities(cosines(pairs)), atol=2e-3)


def test_a_folder_without_levels_is_told(tmp_path):
    with pytest.raises(InputError, match=r"levels\.json is missing; fit levels on dev again"):
        PairScorer(tmp_path, "encoder", ModelConfig(), adjust=0.0)


# -------------------------------------------------------------------------------------------------- judges


class TableScorer:
    """Knows the probabilities of queries; `asked` is what it was asked."""

    def __init__(self, **table):
        self.table, self.asked = table, []

    def probabilities(self, pairs):
        self.asked += pairs
        return np.array([self.table[query] for query, _ in pairs], dtype=float).reshape(-1, 4)


def sure(level):
    return [0.9 if other == level else 0.1 / 3 for other in range(4)]


def test_a_model_judges_by_expected_levels():
    scorer = TableScorer(甲=[0, 0, 0, 1], 乙=[0.5, 0, 0, 0.5], 丙=[0, 0, 1, 0])  # 3, 1.5, 2
    groups = [
        Group("一", ["丙", "甲"], [2, 2]),
        Group("二", ["甲", "乙", "丙"], [3, 2, 1]),
        Group("三", ["乙"], [1]),
        Group("四", ["丙", "甲"], [3, 0]),
    ]
    found = ModelJudge(scorer).contradictions(groups)
    assert [np.argwhere(wrong).tolist() for wrong in found] == [[], [[1, 2]], [], [[0, 1]]]
    assert [len(wrong) for wrong in found] == [2, 3, 1, 2]
    assert scorer.asked == [("甲", "二"), ("乙", "二"), ("丙", "二"), ("丙", "四"), ("甲", "四")]
    assert [wrong.shape for wrong in ModelJudge(scorer).contradictions(groups[:1])] == [(2, 2)]


class Endpoint:
    model = "toy"

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def ask(self, messages, *, temperature, seed, samples=1):
        assert (temperature, samples) == (0.0, 1)
        self.asked.append(messages)
        return [self.answers.pop(0)]


def test_an_endpoint_is_asked_about_pairs_of_different_levels():
    # 乙 before 甲; 丙 before 乙, both ways round; always the letter B, which says nothing.
    endpoint = Endpoint("A", " b。", "a", "B", "B")
    groups = [Group("红烧肉", ["甲", "乙", "丙"], [1, 3, 1]), Group("面包", ["丁", "戊"], [0, 2])]
    found = EndpointJudge(endpoint).contradictions(groups)
    assert [np.argwhere(wrong).tolist() for wrong in found] == [[[1, 2]], []]
    assert endpoint.answers == []
    questions = [messages[-1]["content"] for messages in endpoint.asked]
    documents = ["红烧肉"] * 3 + ["面包"] * 2
    for question, document, one, other in zip(questions, documents, "乙乙丙戊丁", "甲丙乙丁戊", strict=True):
        assert f"文档：{document}\nA：{one}\nB：{other}\n" in question
    assert EndpointJudge(endpoint).contradictions([Group("面包", ["丁"], [1])])[0].tolist() == [[False]]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A", "A"),
        (" b。", "B"),
        ("**B**", "B"),
        ("答案：B", "B"),
        ("选B", "B"),
        ("<think>\nA or B? A is…\n</think>\nB", "B"),
        ("Both are equally good", ""),
        ("A 和 B 都可以", ""),
        ("I'm sorry, as a language model I cannot compare these.", ""),
        ("It is not a question of taste: B", "B"),
        ("", ""),
        ("<think>B", ""),
    ],
)
def test_the_letter_of_an_answer(answer, letter):
    assert named(answer) == letter


def test_a_judge_that_never_names_one_is_no_judge():
    group = Group("红烧肉", ["甲", "乙"], [1, 3])
    lost = EndpointJudge(Endpoint(*["都好"] * 20))
    with pytest.raises(TrainingError, match=r"hardly any answer of toy names A or B.*'都好'.*judge_name"):
        lost.contradictions([group] * 20)
    found = EndpointJudge(Endpoint("A", *["都好"] * 98)).contradictions([group] * 99)
    assert not np.any(found)


@pytest.mark.parametrize(("clear", "stops"), [(0, True), (1, True), (4, True), (5, False), (100, False)])
def test_a_judge_that_falls_silent_is_told(clear, stops):
    """After a hundred clear answers, of the next hundred so many are."""
    answers = [*["A"] * 100, *["A"] * clear, *["抱歉，我无法比较"] * (100 - clear)]
    judge = EndpointJudge(Endpoint(*answers))
    groups = [Group("红烧肉", ["甲", "乙"], [1, 3])] * 200
    if stops:
        with pytest.raises(TrainingError, match="无法比较"):
            judge.contradictions(groups)
    else:
        judge.contradictions(groups)


# -------------------------------------------------------------------------------------------------- stages


class Run:
    """Two stages, b reads a; counts what is made."""

    def __init__(self, folder):
        self.made, self.notes = [], []
        self.stages = Stages(folder, self.notes.append)
        self.folder = folder

    def a(self, settings, content="一", log="log"):
        def make(work):
            self.made.append("a")
            (work / "text.txt").write_text(content, encoding="utf-8")
            (work / "log.jsonl").write_text(log)
            return {"settings": settings}

        return self.stages.done(Stage("01-a", settings, [], make))

    def b(self, a, settings=0):
        def make(work):
            self.made.append("b")
            (work / "deep").mkdir()
            (work / "deep" / "copy.txt").write_text((a / "text.txt").read_text(encoding="utf-8"))
            return {}

        return self.stages.done(Stage("02-b", settings, [a], make))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def test_a_stage_is_done_once(run):
    folder = run.a({"x": 1})
    assert folder == run.folder / "stages" / "01-a"
    assert run.b(folder) == run.folder / "stages" / "02-b"
    assert run.made == ["a", "b"]
    assert not any((run.folder / "work").iterdir())
    content = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    assert set(content["outputs"]) == {"text.txt"}  # a log differs each time
    assert run.stages.report(folder) == {"settings": {"x": 1}}
    run.stages.close()
    again = Run(run.folder)
    again.b(again.a({"x": 1}, content="another"))
    assert again.made == []
    assert again.notes == ["01-a: done before", "02-b: done before"]
    assert (folder / "text.txt").read_text(encoding="utf-8") == "一"


def test_what_reads_a_stage_is_done_again_only_if_its_outputs_changed(run):
    run.b(run.a(1))
    run.b(run.a(2, log="another"))  # other settings, same files
    assert run.made == ["a", "b", "a"]
    copy = run.b(run.a(3, content="二"))
    assert run.made == ["a", "b", "a", "a", "b"]
    assert (copy / "deep" / "copy.txt").read_text(encoding="utf-8") == "二"
    run.b(run.a(3), settings=1)
    assert run.made[5:] == ["b"]
    assert sorted(path.name for path in (run.folder / "stages").iterdir()) == ["01-a", "02-b"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_stage_that_fails_goes_on_where_it_stood(tmp_path, monkeypatch, error):
    clock = iter([0.0, 7.0, 100.0, 102.0, 200.0, 203.5])
    monkeypatch.setattr(stages_module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    notes, seen = [], []
    stages = Stages(tmp_path, notes.append)

    def make(work):
        shards = sorted(path.name for path in work.glob("shard-*"))
        seen.append(shards)
        (work / f"shard-{len(shards)}").write_text("x")
        if len(shards) < 2:
            raise error
        return {"shards": 3}

    stage = Stage("01-a", {}, [], make)
    for tries in (1, 2):
        with pytest.raises(error):
            stages.done(stage)
        assert not (tmp_path / "stages").exists()
        assert len(list((tmp_path / "work" / "01-a").glob("shard-*"))) == tries
    folder = stages.done(stage)
    assert seen == [[], ["shard-0"], ["shard-0", "shard-1"]]
    content = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    assert content["seconds"] == 12.5  # of all three tries
    assert sorted(content["outputs"]) == ["shard-0", "shard-1", "shard-2"]
    assert notes == ["01-a: begins", "01-a: goes on", "01-a: goes on", "01-a: done in 12 s"]


def fail(work):
    (work / "half").write_text("of the old settings")
    raise ValueError("half")


def test_other_settings_begin_anew(run):
    for settings in (1, 2):
        with pytest.raises(ValueError, match=r"^half$"):
            run.stages.done(Stage("01-a", settings, [], fail))
    assert run.notes == ["01-a: begins"] * 2
    folder = run.a(3)
    assert not (folder / "half").exists()
    # What was done is kept until its successor is done.
    with pytest.raises(ValueError, match=r"^half$"):
        run.stages.done(Stage("01-a", 4, [], fail))
    assert (folder / "text.txt").exists()
    run.a(3)
    assert run.made == ["a"]


def test_a_stage_that_was_killed_goes_on(run):
    """No handler ran: the work folder is as the kill left it."""
    with pytest.raises(ValueError, match=r"^half$"):
        run.stages.done(Stage("01-a", 1, [], fail))
    mark = run.folder / "work" / "01-a" / "identity"
    mark.write_text(mark.read_text(encoding="utf-8").split()[0] + " 100\n")
    os.utime(mark, (1000, 1000))  # it began after 100 s of earlier tries, and wrote for 50 s
    os.utime(mark.with_name("half"), (1050, 1050))
    folder = run.a(1)
    assert (folder / "half").exists()
    assert 150 <= json.loads((folder / "stage.json").read_text())["seconds"] < 170
    assert run.notes[1] == "01-a: goes on"
    assert not (folder / "identity").exists()


def test_one_process_at_a_time(run):
    with pytest.raises(LockedError, match="in use by another process"):
        Stages(run.folder)
    run.stages.close()
    Stages(run.folder).close()
    (run.folder / "file").write_text("")
    with pytest.raises(InputError, match="cannot be used as a run folder"):
        Stages(run.folder / "file")


def test_a_damaged_description_is_told(run):
    folder = run.a(1)
    for text in ("", '{"identity": "x"', "[]", "{}"):
        (folder / "stage.json").write_text(text)
        with pytest.raises(InputError, match=r"01-a/stage\.json"):
            run.a(1)
        with pytest.raises(InputError, match=r"01-a/stage\.json"):
            read_stages(run.folder)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("")])
def test_what_is_lost_or_changed_is_made_again(run, damage):
    folder = run.a(1)
    damage(folder / "text.txt")
    assert (run.a(1) / "text.txt").read_text(encoding="utf-8") == "一"
    assert run.made == ["a", "a"]
    assert run.notes[2] == "01-a: what it made is lost or changed, it is made again"


def test_what_a_training_goes_on_from_is_kept_until_its_stage_is_done(run):
    """The stage fails after its training, as at the fit of levels."""

    def make(work):
        if not (work / "state-1").exists():
            run.made.append("trained")
            for name in ("best", "last", "state-1"):
                (work / name).mkdir()
                (work / name / "weights").write_text("1")
            raise KeyboardInterrupt
        return {}

    stage = Stage("01-a", 0, [], make)
    with pytest.raises(KeyboardInterrupt):
        run.stages.done(stage)
    folder = run.stages.done(stage)
    assert run.made == ["trained"]
    assert sorted(path.name for path in folder.iterdir()) == ["best", "stage.json"]
    assert list(json.loads((folder / "stage.json").read_text())["outputs"]) == ["best/weights"]


@pytest.mark.parametrize("at", ["rmtree", "rename"])
def test_a_kill_while_a_stage_is_replaced_leaves_no_half_of_it(run, monkeypatch, at):
    folder = run.a(1)

    def killed(*_, **__):
        raise KeyboardInterrupt

    real = {"rmtree": stages_module.shutil.rmtree, "rename": type(folder).rename}
    # Of the old stage's removal the first file is gone; or it is aside and the new one not yet in its place.
    if at == "rmtree":
        calls = []

        def first_file(path, **options):
            if path.name == "replaced" and path.exists():
                calls.append(path)
                (path / "text.txt").unlink()
                killed()
            real["rmtree"](path, **options)

        monkeypatch.setattr(stages_module.shutil, "rmtree", first_file)
    else:
        monkeypatch.setattr(
            type(folder), "rename", lambda a, b: killed() if a.parent.name == "work" else real["rename"](a, b)
        )
    with pytest.raises(KeyboardInterrupt):
        run.a(2, content="二")
    monkeypatch.undo()
    run.stages.close()
    again = Run(run.folder)
    assert (again.a(2, content="二") / "text.txt").read_text(encoding="utf-8") == "二"
    assert (again.a(1) / "text.txt").read_text(encoding="utf-8") == "一"
    assert not any((run.folder / "work").iterdir())


def test_a_description_says_what_it_was_made_from(run):
    content = json.loads((run.b(run.a(1), settings={"x": [1, 2]}) / "stage.json").read_text(encoding="utf-8"))
    assert content["settings"] == {"x": [1, 2]}
    assert list(content["inputs"]) == ["stages/01-a"]
    assert content["relsdk"]


def test_a_configuration_inside_a_checkpoint_is_content(run):
    def make(work):
        (work / "best").mkdir()
        for name in ("best/config.json", "config.json", "result.json"):
            (work / name).write_text("{}")
        return {}

    folder = run.stages.done(Stage("01-a", 0, [], make))
    assert set(json.loads((folder / "stage.json").read_text())["outputs"]) == {"best/config.json"}


def test_stages_of_another_configuration_are_kept_and_not_shown(run):
    run.b(run.a(1))
    run.stages.close()
    again = Run(run.folder)
    again.a(1)
    assert [stage.name for stage in read_stages(run.folder)] == ["01-a"]
    again.stages.close()
    third = Run(run.folder)
    third.b(third.a(1))
    assert third.made == []
    assert [stage.name for stage in read_stages(run.folder)] == ["01-a", "02-b"]


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (3, [3]), (4, [4]), (9, [4, 4, 1])])
def test_lines_in_shards(tmp_path, count, sizes):
    lines = [{"n": number} for number in range(count)]
    assert write_shards(tmp_path, "lines", iter(lines), 4) == count
    written = [list(read_lines(path)) for path in sorted(tmp_path.iterdir())]
    assert [len(shard) for shard in written] == sizes
    assert [line for shard in written for line in shard] == lines


def test_a_cut_off_line_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(InputError, match=r"x\.jsonl:2: damaged"):
        list(read_lines(tmp_path / "x.jsonl"))


def test_lines_and_shards(tmp_path):
    lines = [{"query": "红烧肉\n\u2028", "level": 3}, {}]
    for number in (1, 0):
        write_lines(tmp_path / f"pairs-{number:05}.jsonl", lines if number == 0 else iter(lines[:1]))
    paths = shard_paths(tmp_path, "pairs")
    assert [path.name for path in paths] == ["pairs-00000.jsonl", "pairs-00001.jsonl"]
    assert [list(read_lines(path)) for path in paths] == [lines, lines[:1]]
    paths[0].unlink()
    with pytest.raises(InputError, match=r"has pairs-00001\.jsonl where pairs-00000\.jsonl should be"):
        shard_paths(tmp_path, "pairs")
    with pytest.raises(InputError, match="holds no queries"):
        shard_paths(tmp_path, "queries")


# ----------------------------------------------------------------------------------------------- synthesis

MEAT = {"id": "1", "title": "红烧肉怎么做", "text": "先焯水", "more": "not of a record"}
BREAD = {"id": "2", "title": "", "text": "how to make bread"}


def filters(table, **changes):
    settings = {
        "thresholds": [0.4] * 4,
        "by_score": True,
        "judge": None,
        "held_out": (),
        "scripts": ("CJK", "LATIN"),
    }
    return Filters(scorer=TableScorer(**table), **{**settings, **changes})


def fates(records):
    return [(record["query"], record["dropped_because"]) for record in records]


WRITTEN = [
    {
        "document": MEAT,
        "wanted": 3,
        "queries": [
            "“红烧肉做法”",
            "红烧肉做法。",  # the same when cleaned
            "肉",
            "红烧肉怎么做",  # its title
            "Ｉphone 截图",  # of dev
            "感冒药",  # another level
            "红烧肉窍门",  # the level, but unsure
        ],
    },
    {"document": MEAT, "wanted": 0, "queries": ["红烧肉做法", "感冒药", "感冒药"]},
    {"document": BREAD, "wanted": 3, "queries": ["红烧肉做法", "bread"]},
]
TABLE = {
    "红烧肉做法": sure(3),
    "感冒药": sure(0),
    "红烧肉窍门": [0.25, 0.2, 0.2, 0.35],
    "红烧肉怎么做": sure(3),
    "bread": sure(3),
}


def test_each_reason_drops_its_query():
    by = filters(TABLE, held_out={normal_form("iPhone 截图")})
    records = filtered(WRITTEN, by, round_number=2, model_hash="abc")
    assert fates(records) == [
        ("红烧肉做法", None),
        ("红烧肉做法", "duplicate"),
        ("肉", "cleaning"),
        ("红烧肉怎么做", "echo"),
        ("Ｉphone 截图", "held out"),
        ("感冒药", "score"),
        ("红烧肉窍门", "score"),
        ("红烧肉做法", "score"),  # of another wanted level: no duplicate
        ("感冒药", None),
        ("感冒药", "duplicate"),
        ("红烧肉做法", None),  # of another document
        ("bread", None),
    ]
    assert all(record["kept"] == (record["dropped_because"] is None) for record in records)
    assert records[0] == {
        "query": "红烧肉做法",
        "document": {"id": "1", "title": "红烧肉怎么做", "text": "先焯水"},
        "wanted": 3,
        "predicted": 3,
        "probabilities": [0.0333, 0.0333, 0.0333, 0.9],
        "judge": None,
        "kept": True,
        "dropped_because": None,
        "round": 2,
        "model": "abc",
        "source": "synthesised",
    }
    assert records[1]["predicted"] is None
    asked = [query for query, _ in by.scorer.asked]
    assert asked == ["红烧肉做法", "感冒药", "红烧肉窍门", "红烧肉做法", "感冒药", "红烧肉做法", "bread"]
    assert {document for _, document in by.scorer.asked} == {"红烧肉怎么做 先焯水", "how to make bread"}


@pytest.mark.parametrize(("threshold", "kept"), [(0.34, True), (0.36, False)])
def test_the_threshold_is_that_of_the_wanted_level(threshold, kept):
    lines = [{"document": MEAT, "wanted": 3, "queries": ["红烧肉窍门"]}]
    by = filters(TABLE, thresholds=[0.99, 0.99, 0.99, threshold])
    assert filtered(lines, by, round_number=1, model_hash="")[0]["kept"] is kept


def test_without_the_score_all_that_is_clean_stays():
    by = filters({**TABLE, "Ｉphone 截图": sure(0)}, by_score=False)
    records = filtered(WRITTEN, by, round_number=1, model_hash="")
    dropped = [record["dropped_because"] for record in records]
    assert [reason for reason in dropped if reason] == ["duplicate", "cleaning", "echo", "duplicate"]
    assert records[5]["predicted"] == 0  # measured all the same
    assert records[5]["kept"]


class OrderJudge:
    """Contradicts one pair of queries."""

    def __init__(self, high, low):
        self.high, self.low, self.groups = high, low, []

    def contradictions(self, groups):
        self.groups += groups
        return [
            np.array(
                [[one == self.high and other == self.low for other in g.queries] for one in g.queries],
                dtype=bool,
            )
            for g in groups
        ]


def test_the_judge_sees_what_is_left_document_by_document():
    judge = OrderJudge("红烧肉做法", "感冒药")
    lines = [
        {"document": MEAT, "wanted": 3, "queries": ["红烧肉做法", "肉"]},
        {"document": BREAD, "wanted": 3, "queries": ["bread"]},
        {"document": MEAT, "wanted": 0, "queries": ["感冒药", "红烧肉窍门"]},
        {"document": MEAT, "wanted": 2, "queries": ["家常菜"]},
    ]
    by = filters({**TABLE, "家常菜": sure(2)}, judge=judge)
    records = filtered(lines, by, round_number=1, model_hash="")
    assert judge.groups == [
        Group("红烧肉怎么做 先焯水", ["红烧肉做法", "感冒药", "家常菜"], [3, 0, 2]),
        Group("how to make bread", ["bread"], [3]),
    ]
    assert fates(records) == [
        ("红烧肉做法", None),
        ("肉", "cleaning"),
        ("bread", None),
        ("感冒药", "judge"),
        ("红烧肉窍门", "score"),
        ("家常菜", None),
    ]
    verdicts = [record["judge"] and record["judge"]["verdict"] for record in records]
    assert verdicts == ["contradicts", None, "not asked", "contradicts", None, "agrees"]


def test_documents_are_told_apart_by_text_and_not_by_id():
    """Two files may both number from 1."""
    other = {**BREAD, "id": MEAT["id"]}
    judge = OrderJudge("bread", "红烧肉做法")
    lines = [
        {"document": MEAT, "wanted": 0, "queries": ["感冒药"]},
        {"document": other, "wanted": 3, "queries": ["bread"]},
        {"document": other, "wanted": 0, "queries": ["感冒药"]},
    ]
    assert fates(filtered(lines, filters(TABLE, judge=judge), round_number=1, model_hash="")) == [
        ("感冒药", None),
        ("bread", None),
        ("感冒药", None),
    ]
    assert [group.document for group in judge.groups] == ["红烧肉怎么做 先焯水", "how to make bread"]


def test_agreement_is_of_the_wanted_levels():
    class Model:
        def write(self, requests, *, samples, seed):
            return [["红烧肉做法" if request.level == 3 else "感冒药"] for request in requests]

    found = agreement(Model(), TableScorer(**TABLE), ["肉", "面包"], levels=(1, 3), seed=0)
    assert found == {"levels": {"1": 0.0, "3": 1.0}, "mean": 0.5, "duplicate_rate": 0.5, "usable": 1.0}


def test_the_same_query_in_another_case_or_width_is_the_same_pair(tmp_path):
    document = Document(id="1", title="手机", text="")
    write_pairs(tmp_path / "labelled.jsonl", [LabelledPair("iPhone 15", document, 3)])
    asdict = {"id": "1", "title": "手机", "text": ""}
    made = [
        new_record(asdict, query, wanted=level, source="synthesised")
        for query, level in (("iphone 15", 1), ("ｉPhone 15", 2), ("安卓", 1))
    ]
    stage = tmp_path / "09-filter-1"
    stage.mkdir()
    write_lines(stage / "records-00000.jsonl", made)
    (tmp_path / "out").mkdir()
    unused = write_balanced(
        tmp_path / "out", tmp_path / "labelled.jsonl", [stage], BalanceConfig(size=100), seed=0
    )
    pairs = [(pair.query, int(pair.level)) for pair in read_pairs(tmp_path / "out/pairs.jsonl")]
    assert pairs == [("iPhone 15", 3), ("安卓", 1)]
    assert unused == [0, 0, 0, 0]
    known = {pair_key("IPHONE 15", "手机")}
    lines = [{"document": asdict, "queries": ["iphone 15"]}]
    assert annotate(lines, filters({}), known) == []


def test_nothing_usable_asks_nobody():
    by = filters({}, judge=OrderJudge("a", "b"))
    lines = [
        {"document": MEAT, "wanted": 3, "queries": ["肉", ""]},
        {"document": BREAD, "wanted": 1, "queries": []},
    ]
    assert fates(filtered(lines, by, round_number=1, model_hash="")) == [("肉", "cleaning"), ("", "cleaning")]
    assert by.scorer.asked == []
    assert by.judge.groups == []


def test_existing_queries_get_their_likeliest_level():
    lines = [
        {"document": MEAT, "queries": ["红烧肉做法", "感冒药", "红烧肉窍门"]},
        {"document": BREAD, "queries": ["红烧肉做法", "bread"]},
    ]
    known = {("感冒药", "红烧肉怎么做 先焯水"), ("bread", "how to make bread"), ("红烧肉做法", "another")}
    assert known == {pair_key(*pair) for pair in known}
    records = annotate(lines, filters(TABLE, thresholds=[0.4, 0.4, 0.4, 0.36]), known)
    assert fates(records) == [("红烧肉做法", None), ("红烧肉窍门", "score"), ("红烧肉做法", None)]
    assert [record["document"]["id"] for record in records] == ["1", "1", "2"]
    assert [record["predicted"] for record in records] == [3, 3, 3]
    assert {(record["wanted"], record["source"], record["round"]) for record in records} == {
        (None, "annotated", 0)
    }
    assert annotate(lines, filters(TABLE, thresholds=[0.4, 0.4, 0.4, 0.34]), known)[1]["kept"]


def test_every_document_is_asked_for_every_level():
    class Model:
        def write(self, requests, *, samples, seed):
            self.requests = list(requests)
            return [[f"{request.level}-{number}-{seed}" for number in range(samples)] for request in requests]

    model = Model()
    lines = write([MEAT, BREAD], model, levels=(3, 0), samples=2, seed=5)
    assert model.requests == [
        QueryRequest("红烧肉怎么做 先焯水", 3),
        QueryRequest("红烧肉怎么做 先焯水", 0),
        QueryRequest("how to make bread", 3),
        QueryRequest("how to make bread", 0),
    ]
    assert lines[1] == {"document": MEAT, "wanted": 0, "queries": ["0-0-5", "0-1-5"]}
    assert [line["wanted"] for line in lines] == [3, 0, 3, 0]
    assert document_of(BREAD) == "how to make bread"
