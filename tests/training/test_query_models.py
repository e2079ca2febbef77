"""Query models: what a warm start is made of, likelihoods, sampling, folders; a toy learns levels."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from relsdk.errors import InputError
from relsdk.formats import read_pairs, write_pairs
from relsdk.records import Document, LabelledPair
from relsdk_sample import generate
from relsdk_training.config.files import load_config
from relsdk_training.config.settings import OptimiserConfig, QueryConfig, QueryModelConfig, RunConfig
from relsdk_training.data.lessons import label_targets
from relsdk_training.data.pairs import pair_arrays
from relsdk_training.engine._log import read_log
from relsdk_training.engine.loop import train
from relsdk_training.objectives.query import QueryObjective, examples_of
from relsdk_training.query_models._sampling import Guidance, Nucleus
from relsdk_training.query_models._warm_start import warm_start
from relsdk_training.query_models.base import REPEAT, QueryExample, QueryRequest
from relsdk_training.query_models.writer import QueryWriter
from relsdk_training.runs.query import train_query

CPU = torch.device("cpu")
EXAMPLES = [
    QueryExample("红烧肉怎么做才不腻", 3, "红烧肉做法"),
    QueryExample("三天两夜大理旅游攻略", 0, "感冒"),
    QueryExample("How to make bread at home", 2, "bread"),
    QueryExample("金毛幼犬怎么训练定点上厕所，健身新手一周训练计划", 1, "金毛幼犬怎么训练定点"),
]
REQUESTS = [QueryRequest(example.document, example.level) for example in EXAMPLES]


@pytest.fixture(scope="module")
def vocabulary(toy_checkpoint):
    return len(AutoTokenizer.from_pretrained(toy_checkpoint))


def joined(text):
    """A decoded text without the spaces that the toy tokenizer puts between its tokens."""
    return text.replace(" ", "").replace("▁", "")


@pytest.fixture(scope="module")
def folder_with(toy_checkpoint, tmp_path_factory):
    """Saves a model beside the toy tokenizer."""

    def save(model):
        folder = tmp_path_factory.mktemp("model")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(toy_checkpoint / name, folder)
        model.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def roberta(folder_with, vocabulary):
    """Counts positions from its pad token, unlike BERT."""
    torch.manual_seed(4)
    config = XLMRobertaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=130,
        initializer_range=0.3,
        pad_token_id=1,
    )
    return folder_with(XLMRobertaModel(config, add_pooling_layer=True))


@pytest.fixture(scope="module")
def t5(folder_with, vocabulary):
    torch.manual_seed(5)
    config = T5Config(
        vocab_size=vocabulary,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return folder_with(T5ForConditionalGeneration(config))


@pytest.fixture(scope="module")
def llama(folder_with, vocabulary):
    torch.manual_seed(6)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    return folder_with(LlamaForCausalLM(config))


@pytest.fixture(scope="module")
def gpt2(folder_with, vocabulary):
    """Has positions of its own, which padding on the left must not move."""
    torch.manual_seed(7)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    return folder_with(GPT2LMHeadModel(config))


@pytest.fixture(scope="module", params=["bert", "xlm-roberta"])
def encoder(request, toy_checkpoint):
    return toy_checkpoint if request.param == "bert" else request.getfixturevalue("roberta")


@pytest.fixture(scope="module")
def warm(encoder):
    """Settings of a warm start of one layer."""
    return QueryModelConfig(checkpoint=str(encoder), decoder_layers=(1,), max_query_tokens=12)


@pytest.fixture(scope="module")
def writer(warm):
    return QueryWriter.load(warm).eval()


def language_model(request, kind):
    folder = request.getfixturevalue({"seq2seq": "t5", "causal": "llama"}[kind])
    return QueryModelConfig(kind=kind, checkpoint=str(folder), max_query_tokens=12)


def likelihoods(writer, examples=EXAMPLES, rows=None, levels=None):
    """(B, L) of the true levels, or of others."""
    tokens = writer.tokenise(examples)
    rows = np.arange(len(examples)) if rows is None else np.array(rows)
    levels = [examples[row].level for row in rows] if levels is None else levels
    with torch.inference_mode():
        (found,) = writer.log_likelihoods(tokens, rows, [[writer.starts[level] for level in levels]], CPU)
    return found


# ---------------------------------------------------------------------------------------------- warm start


@pytest.mark.parametrize("layers", [(0,), (1,), (0, 1)])
def test_a_warm_start_is_made_of_the_encoders_weights(encoder, layers):
    source = AutoModel.from_pretrained(encoder)
    model = warm_start(encoder, layers)
    theirs = source.state_dict()
    mine = model.encoder.state_dict()
    assert mine
    assert not any(name.startswith("pooler") for name in mine)
    for name, weight in mine.items():
        assert torch.equal(weight, theirs[name]), name
    base = model.decoder.base_model
    for name, weight in source.embeddings.state_dict().items():
        assert torch.equal(base.embeddings.state_dict()[name], weight), name
    assert len(base.encoder.layer) == len(layers)
    for mine, number in zip(base.encoder.layer, layers, strict=True):
        found = mine.state_dict()
        wanted = source.encoder.layer[number].state_dict()
        assert {"attention.self.query.weight", "intermediate.dense.weight", "output.dense.bias"} <= set(
            wanted
        )
        for name, weight in wanted.items():
            assert torch.equal(found.pop(name), weight), name
            if name.startswith("attention."):
                assert torch.equal(found.pop(f"cross{name}"), weight), name
        assert not found
    assert torch.equal(model.decoder.get_output_embeddings().weight, source.embeddings.word_embeddings.weight)
    assert source.encoder.layer[0].attention.self.query.weight.std() > 0.1  # layers that can be told apart


def test_the_decoder_reads_the_document_and_writes_from_left_to_right(writer):
    """Cross-attention is there, and no token sees a later one."""
    model = writer.transformer
    ids = torch.tensor([[0, 10, 11, 12, 2]])
    query = torch.tensor([[0, 20, 21, 22]])
    with torch.inference_mode():
        logits = model(input_ids=ids, decoder_input_ids=query).logits
        other = model(input_ids=ids + 3, decoder_input_ids=query).logits
        changed = query.clone()
        changed[0, -1] = 30
        later = model(input_ids=ids, decoder_input_ids=changed).logits
    assert (logits - other).abs().max() > 0.1
    torch.testing.assert_close(logits[:, :-1], later[:, :-1])
    assert (logits[:, -1] - later[:, -1]).abs().max() > 0.1


@pytest.mark.parametrize("layers", [(), (2,), (1, 0), (0, 0), (-1, 0)])
def test_layers_that_the_encoder_lacks(toy_checkpoint, layers):
    with pytest.raises(InputError, match=r"decoder_layers .*rising numbers out of 0 to 1"):
        warm_start(toy_checkpoint, layers)


def test_an_architecture_without_a_decoder(folder_with, vocabulary):
    config = DistilBertConfig(vocab_size=vocabulary, dim=32, n_layers=1, n_heads=4, hidden_dim=48)
    with pytest.raises(InputError, match=r"distilbert.*bert, roberta, xlm-roberta.*seq2seq or causal"):
        warm_start(folder_with(DistilBertModel(config)), (0,))


def test_a_tokenizer_that_does_not_know_the_digits(toy_checkpoint, tmp_path, warm):
    folder = shutil.copytree(toy_checkpoint, tmp_path / "blind")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for piece in content["model"]["vocab"]:
        if {"2", "3"} & set(piece[0]):
            piece[0] = f"\ue000{piece[0]}"
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="does not tell the digits 0 to 3 apart"):
        QueryWriter.load(replace(warm, checkpoint=str(folder)))


# --------------------------------------------------------------------------------------------- likelihoods


def test_tokens_of_an_example(writer):
    tokens = writer.tokenise(EXAMPLES)
    tokenizer = AutoTokenizer.from_pretrained(writer.source)
    for example, source, query in zip(EXAMPLES, tokens.sources, tokens.queries, strict=True):
        assert source == tokenizer(example.document)["input_ids"]
        plain = tokenizer(example.query, add_special_tokens=False)["input_ids"]
        assert query == [*plain[:11], 2]
    assert tokens.levels.tolist() == [3, 0, 2, 1]
    assert tokens.lengths[1] == len(tokens.sources[1]) + len(tokens.queries[1])
    short = QueryWriter.load(replace(writer.settings, max_tokens=5, max_query_tokens=3)).tokenise(EXAMPLES)
    assert [len(source) for source in short.sources] == [5] * 4
    assert all(len(query) <= 3 and query[-1] == 2 for query in short.queries)


@pytest.mark.parametrize("levels", [None, [0, 1, 1, 2]])
def test_likelihoods_are_those_of_the_plain_model(writer, warm, levels):
    model = warm_start(Path(warm.checkpoint), (1,)).eval()
    tokenizer = AutoTokenizer.from_pretrained(warm.checkpoint)
    found = likelihoods(writer, levels=levels)
    for row, example in enumerate(EXAMPLES):
        level = example.level if levels is None else levels[row]
        start = tokenizer(str(level), add_special_tokens=False)["input_ids"][-1]
        query = [*tokenizer(example.query, add_special_tokens=False)["input_ids"][:11], 2]
        with torch.inference_mode():
            logits = model(
                input_ids=torch.tensor([tokenizer(example.document)["input_ids"]]),
                decoder_input_ids=torch.tensor([[start, *query[:-1]]]),
            ).logits
        wanted = torch.log_softmax(logits[0], dim=1).gather(1, torch.tensor(query)[:, None])[:, 0]
        torch.testing.assert_close(found[row, : len(query)], wanted, atol=1e-5, rtol=1e-5)
        assert (found[row, len(query) :] == 0).all()
    assert found.shape[1] == max(len(query) for query in writer.tokenise(EXAMPLES).queries)


def test_a_level_changes_the_likelihood_and_lists_of_starts_are_independent(writer):
    tokens, rows = writer.tokenise(EXAMPLES), np.arange(4)
    starts = [[writer.starts[level]] * 4 for level in range(4)]
    with torch.inference_mode():
        together = writer.log_likelihoods(tokens, rows, starts, CPU)
    for level in range(4):
        torch.testing.assert_close(together[level], likelihoods(writer, levels=[level] * 4))
    sums = torch.stack(together).sum(dim=2)  # (levels, B)
    assert (sums[0] - sums[3]).abs().min() > 1e-3


@pytest.mark.parametrize("kind", ["warm_start", "seq2seq", "causal"])
def test_padding_of_other_rows_changes_no_row(request, kind):
    if kind == "warm_start":
        writer = QueryWriter.load(
            QueryModelConfig(
                checkpoint=str(request.getfixturevalue("roberta")), decoder_layers=(0, 2), max_query_tokens=12
            )
        )
    else:
        writer = QueryWriter.load(language_model(request, kind))
    writer.eval()
    together = likelihoods(writer)
    for row in range(len(EXAMPLES)):
        alone = likelihoods(writer, rows=[row])
        torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-5)
        assert (together[row, alone.shape[1] :] == 0).all()
    backwards = likelihoods(writer, rows=[3, 2, 1, 0])
    torch.testing.assert_close(together, backwards.flip(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_likelihoods_of_language_models_are_their_own_loss(request, kind):
    settings = language_model(request, kind)
    writer = QueryWriter.load(settings).eval()
    tokenizer = AutoTokenizer.from_pretrained(settings.checkpoint)
    auto = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForCausalLM
    model = auto.from_pretrained(settings.checkpoint).eval()
    found = likelihoods(writer)
    for row, example in enumerate(EXAMPLES):
        name = settings.level_names[example.level]
        document = tokenizer.decode(tokenizer(example.document, add_special_tokens=False)["input_ids"])
        prompt = f"{document}\n写一个搜索词，与上文的相关程度为「{name}」：\n"
        source = tokenizer(prompt, add_special_tokens=kind == "seq2seq")["input_ids"]
        query = [*tokenizer(example.query, add_special_tokens=False)["input_ids"][:11], 2]
        if kind == "seq2seq":
            ids, labels = source, query
        else:
            ids, labels = source + query, [-100] * len(source) + query
        with torch.inference_mode():
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        assert float(found[row].sum()) == pytest.approx(-float(loss) * len(query), rel=1e-4)


# ------------------------------------------------------------------------------------------------ sampling


def logits_of(*probabilities):
    return torch.tensor([probabilities]).log()


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (1e-6, [1]),  # the most probable always stays
        (0.45, [1]),
        (0.55, [1, 3]),  # 0.5 is not enough
        (0.79, [1, 3]),
        (0.81, [0, 1, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_a_nucleus_is_the_fewest_tokens_that_hold_the_mass(top_p, kept):
    scores = logits_of(0.15, 0.5, 0.05, 0.3)
    found = Nucleus(1.0, top_p)(torch.zeros(1, 1), scores)
    assert torch.isfinite(found)[0].nonzero()[:, 0].tolist() == kept
    torch.testing.assert_close(found[0, kept], scores[0, kept])


def test_a_nucleus_is_measured_after_the_temperature():
    scores = logits_of(0.64, 0.16, 0.2)
    # At temperature 2 the probabilities are as 0.8 : 0.4 : 0.447, 0.486 : 0.243 : 0.272.
    found = Nucleus(2.0, 0.6)(torch.zeros(1, 1), scores)
    assert torch.isfinite(found).tolist() == [[True, False, True]]
    assert float(found[0, 0]) == pytest.approx(float(scores[0, 0]) / 2)
    assert torch.isfinite(Nucleus(1.0, 0.6)(torch.zeros(1, 1), scores)).tolist() == [[True, False, False]]


def test_a_nucleus_treats_rows_apart_and_holds_few_of_many():
    torch.manual_seed(0)
    scores = torch.cat([torch.zeros(1, 500), 30.0 * torch.eye(500)[:1]])
    found = torch.isfinite(Nucleus(1.0, 0.95)(torch.zeros(2, 1), scores))
    assert found.sum(dim=1).tolist() == [61, 1]  # of 64 looked at, 61 hold 0.95
    assert found[1, 0]


def test_guidance_by_hand(writer, warm):
    """Its logits without a level are those of a plain forward from the neutral start, cache and all."""
    torch.manual_seed(1)
    model = writer.transformer
    tokenizer = AutoTokenizer.from_pretrained(warm.checkpoint)
    ids = torch.tensor([tokenizer(EXAMPLES[0].document)["input_ids"]] * 2)
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    queries = torch.tensor([[writer.starts[3], 40, 41, 42], [writer.starts[0], 50, 2, 1]])
    neutral = torch.full((2, 1), tokenizer.cls_token_id)
    with torch.inference_mode():
        hidden = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        guides = [Guidance(model, hidden, mask, writer.neutral, strength) for strength in (0.0, 1.0, 2.5)]
        for length in range(1, 5):
            scores = torch.randn(2, model.config.decoder.vocab_size)
            whole = torch.cat([neutral, queries[:, 1:length]], dim=1)
            plain = model(input_ids=ids, attention_mask=mask, decoder_input_ids=whole).logits[:, -1]
            without, given = torch.log_softmax(plain, dim=1), torch.log_softmax(scores, dim=1)
            none, same, more = (guide(queries[:, :length], scores) for guide in guides)
            torch.testing.assert_close(none, without, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(same, given, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(more, 2.5 * given - 1.5 * without, atol=1e-3, rtol=1e-4)


def test_the_same_seed_writes_the_same(writer):
    once = writer.write(REQUESTS, samples=3, seed=1)
    assert [len(queries) for queries in once] == [3] * 4
    assert all(isinstance(query, str) for queries in once for query in queries)
    assert len({query for queries in once for query in queries}) > 3
    torch.manual_seed(77)
    state = torch.get_rng_state()
    assert writer.write(REQUESTS, samples=3, seed=1) == once
    assert torch.equal(torch.get_rng_state(), state)  # training goes on as if nothing was written
    assert writer.write(REQUESTS, samples=3, seed=2) != once
    assert writer.write([], samples=3, seed=1) == []


def test_more_requests_than_fit_at_once_come_back_in_their_order(writer):
    """A writer that copies: each request gets its own queries, whatever the batches are."""
    tokenizer = writer.tokenizer
    requests = [QueryRequest("大" * (1 + number % 7), number % 4) for number in range(70)]
    seen = []

    def generate(sources, levels, samples):
        seen.append(len(sources))
        return [
            f"{joined(tokenizer.decode(source, skip_special_tokens=True))}{level}{number}"
            for source, level in zip(sources, levels, strict=True)
            for number in range(samples)
        ]

    copying = QueryWriter(writer.transformer, writer.settings, writer.source)
    copying._generate = generate
    found = copying.write(requests, samples=2, seed=0)
    assert found == [[f"{r.document}{r.level}{number}" for number in range(2)] for r in requests]
    assert seen == [32, 32, 6]


def test_what_is_written_is_drawn_from_the_likelihoods(toy_checkpoint):
    """With a nucleus of one token, the query is the greedy one of the plain model."""
    settings = QueryModelConfig(
        checkpoint=str(toy_checkpoint), decoder_layers=(0, 1), max_query_tokens=6, top_p=1e-6
    )
    writer = QueryWriter.load(settings).eval()
    model = writer.transformer
    written = writer.write(REQUESTS, samples=2, seed=0)
    for request, queries in zip(REQUESTS, written, strict=True):
        ids = torch.tensor([writer.tokenizer(request.document)["input_ids"]])
        query = [writer.starts[request.level]]
        while len(query) < 7 and query[-1] != 2:
            with torch.inference_mode():
                logits = model(input_ids=ids, decoder_input_ids=torch.tensor([query])).logits
            query.append(int(logits[0, -1].argmax()))
        assert queries == [writer.tokenizer.decode(query[1:], skip_special_tokens=True)] * 2


def test_guidance_while_writing(writer, tmp_path):
    writer.save(tmp_path)
    opened = {
        strength: QueryWriter.open(tmp_path, guidance=strength) for strength in (0.0, 1.0, 1.0 + 1e-6, 4)
    }
    written = {strength: one.write(REQUESTS, samples=4, seed=3) for strength, one in opened.items()}
    assert written[1.0] == writer.write(REQUESTS, samples=4, seed=3)
    assert written[1.0 + 1e-6] == written[1.0]  # the way through `Guidance` adds nothing, either
    assert written[4] != written[1.0]
    low, high = ([QueryRequest(EXAMPLES[0].document, level)] for level in (0, 3))
    without, usual = opened[0.0], opened[1.0]
    assert without.write(low, samples=4, seed=3) == without.write(high, samples=4, seed=3)
    assert usual.write(low, samples=4, seed=3) != usual.write(high, samples=4, seed=3)


# ------------------------------------------------------------------------------------------------- folders


def test_what_is_saved_opens_again(writer, tmp_path):
    writer.save(tmp_path)
    opened = QueryWriter.open(tmp_path, temperature=0.5)
    assert not opened.training
    assert opened.settings == replace(writer.settings, checkpoint=str(tmp_path), temperature=0.5)
    torch.testing.assert_close(likelihoods(opened), likelihoods(writer), atol=1e-6, rtol=1e-6)
    again = QueryWriter.open(tmp_path)
    assert again.write(REQUESTS, samples=2, seed=9) == writer.write(REQUESTS, samples=2, seed=9)


def test_a_folder_without_a_writer(toy_checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"holds no query model.*relsdk train query"):
        QueryWriter.open(toy_checkpoint)
    with pytest.raises(InputError, match="no safetensors weights"):
        QueryWriter.load(QueryModelConfig(checkpoint=str(tmp_path)))


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_language_models_write_and_are_saved(request, kind, tmp_path):
    writer = QueryWriter.load(language_model(request, kind)).eval()
    written = writer.write(REQUESTS, samples=2, seed=1)
    assert [len(queries) for queries in written] == [2] * 4
    assert len({query for queries in written for query in queries}) > 4
    assert not any("写一个" in query for queries in written for query in queries)  # the prompt is cut off
    assert writer.write(REQUESTS, samples=2, seed=1) == written
    assert writer.write(REQUESTS, samples=2, seed=2) != written
    writer.save(tmp_path)
    opened = QueryWriter.open(tmp_path)
    torch.testing.assert_close(likelihoods(opened), likelihoods(writer), atol=1e-6, rtol=1e-6)
    assert opened.write(REQUESTS, samples=2, seed=1) == written


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_causal_model_writes_greedily_what_the_plain_one_would(request, name):
    """Left padding and the cut behind the prompt are right."""
    folder = request.getfixturevalue(name)
    writer = QueryWriter.load(
        QueryModelConfig(kind="causal", checkpoint=str(folder), max_query_tokens=6, top_p=1e-6)
    ).eval()
    for asked, (query,) in zip(REQUESTS, writer.write(REQUESTS, samples=1, seed=0), strict=True):
        ids = writer.tokenise([QueryExample(asked.document, asked.level, "")]).sources[0]
        found = []
        while len(found) < 6 and found[-1:] != [2]:
            with torch.inference_mode():
                logits = writer.transformer(input_ids=torch.tensor([[*ids, *found]])).logits
            found.append(int(logits[0, -1].argmax()))
        assert query == writer.tokenizer.decode(found, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["warm_start", "seq2seq", "causal"])
def test_low_rank_updates_are_all_that_is_trained_and_are_merged(request, kind, toy_checkpoint, tmp_path):
    pytest.importorskip("peft")
    if kind == "warm_start":
        settings = QueryModelConfig(checkpoint=str(toy_checkpoint), decoder_layers=(1,), max_query_tokens=12)
    else:
        settings = language_model(request, kind)
    before = likelihoods(QueryWriter.load(settings).eval())
    torch.manual_seed(0)
    writer = QueryWriter.load(replace(settings, lora_rank=2))
    torch.testing.assert_close(likelihoods(writer.eval()), before, atol=1e-5, rtol=1e-5)  # B starts at 0
    trained = {name: p for name, p in writer.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    fixed = {name: p.clone() for name, p in writer.named_parameters() if name not in trained}
    optimiser = torch.optim.Adam(trained.values(), lr=0.01)
    tokens, starts = writer.tokenise(EXAMPLES), [[writer.starts[example.level] for example in EXAMPLES]]
    for _ in range(15):
        (found,) = writer.log_likelihoods(tokens, np.arange(4), starts, CPU)
        (-found.sum()).backward()
        optimiser.step()
        optimiser.zero_grad()
    after = likelihoods(writer.eval())
    assert after.sum() > before.sum() + 5
    parameters = dict(writer.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in fixed.items())
    writer.save(tmp_path)
    opened = QueryWriter.open(tmp_path)
    assert opened.settings.lora_rank == 0
    assert not any("lora" in name for name in opened.state_dict())
    torch.testing.assert_close(likelihoods(opened), after, atol=1e-4, rtol=1e-4)
    assert len(writer.write(REQUESTS, samples=2, seed=0)[0]) == 2  # with the updates in place, too


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "causal", "prompt": "{document}\n查询："}, "lacks {document} or {level}"),
        ({"kind": "seq2seq", "prompt": "{level}"}, "lacks {document} or {level}"),
        ({"kind": "causal", "level_names": ("坏", "好")}, "2 names; 4 are needed"),
        ({"kind": "causal", "guidance": 2.0}, "for warm starts; kind is 'causal'"),
        ({"kind": "seq2seq", "contrast": 0.5}, "for warm starts; kind is 'seq2seq'"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"unconditioned": 1.0}, "unconditioned=1.0"),
    ],
)
def test_settings_that_make_no_writer(toy_checkpoint, change, message):
    with pytest.raises(InputError, match=message):
        QueryWriter.load(QueryModelConfig(checkpoint=str(toy_checkpoint), decoder_layers=(1,), **change))


# ----------------------------------------------------------------------------------------------- objective


def pairs_whose_level_decides(titles):
    """Level 3 asks for the title, 2 for its first half, 1 and 0 for a word that is always the same."""
    return pair_arrays(
        [
            LabelledPair(query, Document(title, title), level)
            for title in titles
            for level, query in enumerate(["感冒", "攻略", title[: len(title) // 2], title])
        ]
    )


@pytest.fixture(scope="module")
def titles(corpus):
    letters = sorted({character for text in corpus for character in text if character > "\u4e00"})
    rng = np.random.default_rng(8)
    return ["".join(rng.choice(letters, size=6)) for _ in range(60)]


def test_a_level_is_learned(toy_checkpoint, titles, tmp_path):
    settings = QueryModelConfig(
        checkpoint=str(toy_checkpoint), decoder_layers=(0, 1), contrast=0.5, dropout=0.0, max_query_tokens=10
    )
    run = RunConfig(output=str(tmp_path), batch_size=16, max_steps=140, evaluate_every=70, precision="fp32")
    torch.manual_seed(0)
    objective = QueryObjective(
        QueryWriter.load(settings),
        label_targets(pairs_whose_level_decides(titles[:50])),
        pairs_whose_level_decides(titles[50:]),
        run,
    )
    optimiser = OptimiserConfig(learning_rate=3e-3)
    result = train(objective, optimiser, run, metric="log_likelihood", identity="toy", about={})
    log = list(read_log(tmp_path / "log.jsonl"))
    before = next(line for line in log if line["kind"] == "dev")
    assert before["level_accuracy"] < 0.5
    assert result.best["level_accuracy"] > 0.8
    assert result.best["log_likelihood"] > before["log_likelihood"] + 1
    assert result.best["perplexity"] == pytest.approx(np.exp(-result.best["log_likelihood"]))
    steps = [line for line in log if line["kind"] == "step"]
    assert np.mean([s["accuracy"] for s in steps[-10:]]) > 0.75
    assert np.mean([s["token_loss"] for s in steps[-10:]]) < 0.5 * np.mean(
        [s["token_loss"] for s in steps[:3]]
    )
    # What it writes follows the level, too: the same word for every document, or none of it.
    writer = QueryWriter.open(tmp_path / "best", temperature=0.5)
    for level, word in enumerate(["感冒", "攻略"]):
        requests = [QueryRequest(title, level) for title in titles[50:]]
        written = [query for queries in writer.write(requests, samples=2, seed=0) for query in queries]
        assert np.mean([joined(query) == word for query in written]) > 0.5


def test_dev_measures_by_hand(writer, titles):
    pairs = pairs_whose_level_decides(titles[:6])
    objective = QueryObjective(writer, label_targets(pairs), pairs, RunConfig(batch_size=5))
    writer.eval()
    with torch.inference_mode():
        found = objective.evaluate(CPU)
    examples = examples_of(pairs)
    assert {(e.document, e.level, e.query) for e in examples} >= {(titles[0], 3, titles[0])}
    assert len(examples) == 24
    sums = torch.stack(
        [likelihoods(writer, examples, levels=[level] * 24).sum(dim=1) for level in range(4)], dim=1
    )
    levels = torch.tensor([example.level for example in examples])
    tokens = sum(len(query) for query in writer.tokenise(examples).queries)
    own = sums.gather(1, levels[:, None]).sum()
    assert found["log_likelihood"] == pytest.approx(float(own) / tokens, rel=1e-5)
    assert found["level_accuracy"] == pytest.approx(float((sums.argmax(dim=1) == levels).float().mean()))


def test_the_loss_by_hand(toy_checkpoint, titles):
    settings = QueryModelConfig(
        checkpoint=str(toy_checkpoint), decoder_layers=(1,), contrast=0.5, unconditioned=0.4
    )
    pairs = pairs_whose_level_decides(titles[:8])
    objective = QueryObjective(
        QueryWriter.load(settings), label_targets(pairs), pairs, RunConfig(batch_size=32)
    )
    writer, rows = objective.writer.eval(), np.arange(32)
    torch.manual_seed(3)
    loss, statistics = objective.loss(rows, CPU)
    torch.manual_seed(3)
    hidden = torch.rand(32) < 0.4
    other = (objective.train.levels + torch.randint(1, 4, (32,)).numpy()) % 4
    assert 5 < int(hidden.sum()) < 20
    assert (other != objective.train.levels).all()
    starts = [
        [
            writer.neutral if h else writer.starts[x]
            for h, x in zip(hidden, objective.train.levels, strict=True)
        ],
        [writer.starts[x] for x in other],
    ]
    true, wrong = writer.log_likelihoods(objective.train, rows, starts, CPU)
    token_loss = -true.sum() / sum(len(query) for query in objective.train.queries)
    margin = (true - wrong).sum(dim=1)[~hidden]
    wanted = token_loss - 0.5 * functional.logsigmoid(margin).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert statistics["token_loss"] == pytest.approx(token_loss.item(), rel=1e-5)
    assert statistics["accuracy"] == pytest.approx(float((margin > 0).float().mean()))


def test_batches_repeat_rare_levels(writer, titles):
    pairs = pair_arrays(
        [LabelledPair(title, Document(title, title), 3) for title in titles[:12]]
        + [LabelledPair("感冒", Document(title, title), 0) for title in titles[:4]]
    )
    objective = QueryObjective(writer, label_targets(pairs), pairs, RunConfig(batch_size=5, repeat=2.0))
    rows = np.concatenate(objective.batches(0))
    assert np.bincount(pairs.labels[rows]).tolist() == [8, 0, 0, 12]
    assert set(rows.tolist()) == set(range(16))
    assert not np.array_equal(rows, np.concatenate(objective.batches(1)))


def test_unlabelled_texts_are_repeated(toy_checkpoint, titles):
    settings = QueryModelConfig(checkpoint=str(toy_checkpoint), decoder_layers=(1,), contrast=0.5)
    pairs = pairs_whose_level_decides(titles[:3])  # 12 of them
    texts = titles[10:30]
    objective = QueryObjective(
        QueryWriter.load(settings),
        label_targets(pairs),
        pairs,
        RunConfig(batch_size=5),
        [*texts, titles[0] * 20],
    )
    writer = objective.writer.eval()
    batches = objective.batches(0)
    assert sorted(row for batch in batches for row in batch) == list(range(12 + 21))
    assert not np.array_equal(np.concatenate(batches), np.concatenate(objective.batches(1)))
    repeated = [batch for batch in batches if (objective.train.levels[batch] == REPEAT).all()]
    assert sum(map(len, repeated)) == 21  # no batch is of both kinds
    assert sum((objective.train.levels[batch] >= 0).all() for batch in batches) == len(batches) - len(
        repeated
    )
    assert max(map(len, objective.train.queries)) == settings.max_query_tokens  # a long text ends early
    rows = np.arange(12, 32)
    loss, statistics = objective.loss(rows, CPU)
    (found,) = writer.log_likelihoods(objective.train, rows, [[writer.end] * 20], CPU)
    tokens = sum(len(objective.train.queries[row]) for row in rows)
    assert loss.item() == pytest.approx(-found.sum().item() / tokens, rel=1e-5)
    assert statistics == {"repeat_loss": pytest.approx(loss.item())}
    examples = writer.tokenise([QueryExample(texts[0], REPEAT, texts[0])])
    assert examples.queries[0] == objective.train.queries[12]
    assert set(examples.queries[0][:-1]) <= set(examples.sources[0])


def test_fewer_layers_read(toy_checkpoint, tmp_path):
    settings = QueryModelConfig(checkpoint=str(toy_checkpoint), decoder_layers=(0, 1), encoder_layers=1)
    writer = QueryWriter.load(settings).eval()
    whole = QueryWriter.load(replace(settings, encoder_layers=0)).eval()
    assert [len(w.transformer.encoder.encoder.layer) for w in (writer, whole)] == [1, 2]
    assert len(writer.transformer.decoder.base_model.encoder.layer) == 2
    ids = torch.tensor([[0, 7, 8, 9, 2]])
    half = whole.transformer.encoder(ids, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(writer.transformer.encoder(ids).last_hidden_state, half)
    writer.save(tmp_path / "saved")
    again = QueryWriter.open(tmp_path / "saved")
    assert again.write(REQUESTS, samples=2, seed=3) == writer.write(REQUESTS, samples=2, seed=3)
    assert (
        QueryWriter.load(replace(settings, encoder_layers=6)).transformer.encoder.config.num_hidden_layers
        == 2
    )


DEPTHS = [(2, [0, 1]), (3, [0, 1, 2]), (6, [1, 2, 4, 5]), (12, [2, 5, 8, 11]), (24, [2, 5, 8, 11])]


@pytest.mark.parametrize(("layers", "wanted"), DEPTHS)
def test_the_usual_decoder_layers_fit_an_encoder_of_another_depth(layers, wanted):
    from transformers import BertConfig

    from relsdk_training.query_models._warm_start import _fit

    config = BertConfig(num_hidden_layers=layers)
    assert _fit(config, "here", QueryModelConfig().decoder_layers, 0) == (wanted, 0)


@pytest.fixture
def run_settings(tmp_path, toy_checkpoint):
    """Overrides of a run of a few seconds on the sample world."""
    world = generate(seed=13, n_documents=100, n_queries=40, pairs_per_query=4)
    for split, source in (("train", "train"), ("dev", "test")):
        write_pairs(tmp_path / f"{split}.jsonl", world.split(source))
    return [
        f"data.train={tmp_path / 'train.jsonl'}",
        f"data.dev={tmp_path / 'dev.jsonl'}",
        f"model.checkpoint={toy_checkpoint}",
        "model.decoder_layers=[0, 1]",
        "model.contrast=0.3",
        "model.max_tokens=24",
        f"run.output={tmp_path / 'run'}",
        "run.batch_size=16",
        "run.precision=fp32",
        "run.max_steps=10",
        "optimiser.learning_rate=1e-3",
    ]


def test_a_frozen_encoder_stays_as_it_was(run_settings, tmp_path, toy_checkpoint):
    train_query(load_config(QueryConfig, None, [*run_settings, "model.freeze_encoder=true"]))
    start = warm_start(toy_checkpoint, (0, 1)).state_dict()
    trained = QueryWriter.open(tmp_path / "run" / "last").transformer.state_dict()
    assert start.keys() == trained.keys()
    encoder = {name for name in start if name.startswith("encoder.")}
    assert encoder
    changed = {name for name in start if not torch.equal(start[name], trained[name])}
    assert not changed & encoder
    assert any("crossattention" in name for name in changed)
    assert "decoder.bert.embeddings.word_embeddings.weight" in changed  # its own, not the encoder's
    assert any(".encoder.layer.1.attention.self" in name for name in changed)


def test_resume_is_exact(run_settings, tmp_path):
    """Six steps equal three, a stop two steps later, and three more: dropout and hidden levels included."""
    whole = load_config(QueryConfig, None, [*run_settings, "run.max_steps=6", "run.checkpoint_every=3"])
    train_query(whole)
    torch.manual_seed(99)

    class Stop(Exception):
        pass

    def stop(step, steps, statistics):
        if step == 5:
            raise Stop

    halves = replace(whole, run=replace(whole.run, output=str(tmp_path / "halves")))
    with pytest.raises(Stop):
        train_query(halves, on_step=stop)
    torch.manual_seed(5)
    train_query(halves, resume=True)
    one, other = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("run", "halves"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs = [list(read_log(tmp_path / name / "log.jsonl")) for name in ("run", "halves")]
    first, second = ([{k: v for k, v in x.items() if k != "rows_per_second"} for x in log] for log in logs)
    assert first == second
    assert sum(line["kind"] == "step" for line in first) == 6


def test_texts_come_from_files(run_settings, tmp_path):
    (tmp_path / "texts.txt").write_text("红烧肉\n攻略\n红烧肉\n", encoding="utf-8")
    asked = [*run_settings, f"data.texts=['{tmp_path / 'texts.txt'}']", "run.max_steps=0", "run.epochs=1"]
    train_query(load_config(QueryConfig, None, [*asked, "run.batch_size=200"]))
    steps = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "step"]
    assert sum("repeat_loss" in step for step in steps) == 1
    assert sum("token_loss" in step for step in steps) == len(steps) - 1
    dev = next(iter(read_pairs(tmp_path / "dev.jsonl"))).query
    (tmp_path / "more.txt").write_text(f"{dev}\n红烧肉\n", encoding="utf-8")
    notes = []
    leaky = [*asked, f"data.texts=['{tmp_path / 'more.txt'}']", f"run.output={tmp_path / 'leaky'}"]
    train_query(load_config(QueryConfig, None, [*leaky, "run.max_steps=1"]), on_note=notes.append)
    assert notes[-1] == "texts: 1 to repeat, without 1 that dev or test asks"
    causal = [*asked, "model.kind=causal", "run.output=" + str(tmp_path / "other")]
    with pytest.raises(InputError, match=r"data.texts is for warm starts; model.kind is 'causal'"):
        train_query(load_config(QueryConfig, None, causal))


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_language_models_are_trained_by_the_same_command(request, kind, run_settings, tmp_path):
    settings = language_model(request, kind)
    changes = [f"model.kind={kind}", f"model.checkpoint={settings.checkpoint}", "model.contrast=0"]
    extra = ["run.max_steps=15", "optimiser.learning_rate=1e-2"]
    result = train_query(load_config(QueryConfig, None, [*run_settings, *changes, *extra]))
    dev = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "dev"]
    assert result.best["log_likelihood"] > dev[0]["log_likelihood"] + 0.3
    assert "level_accuracy" not in result.best
    assert len(QueryWriter.open(tmp_path / "run" / "best").write(REQUESTS, samples=1, seed=0)) == 4
