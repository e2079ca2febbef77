"""Other people's clients against the server: they change their address, and get the library's numbers."""

import asyncio
from dataclasses import replace

import httpx
import numpy as np
import pytest

from relsdk import Document, Embedder, RelevanceScorer
from tests.serve.servers import KEY, served
from tests.toys import CORPUS

CLIENTS = "needs the extra clients: pip install 'relsdk[clients]'"
QUERY = "红烧肉怎么做"


@pytest.fixture(scope="module")
def embedder(encoder):
    return Embedder(encoder, threads=1)


@pytest.fixture(scope="module")
def grades(scorer):
    return RelevanceScorer(scorer, threads=1).predict([(QUERY, text) for text in CORPUS])


@pytest.fixture
def address(toy_server):
    return f"{toy_server.url}/v1"


@pytest.fixture(scope="module")
def guarded(settings, tmp_path_factory):
    """A server that wants a key."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"{KEY}\n")
    file.chmod(0o600)
    with served(replace(settings, key_file=file)) as server:
        yield server.url


def assert_same(vectors, expected):
    np.testing.assert_allclose(np.array(vectors, dtype=np.float32), expected, rtol=0, atol=5e-7)


class TestOpenAI:
    @pytest.fixture
    def client(self, address):
        openai = pytest.importorskip("openai", reason="needs the extra llm: pip install 'relsdk[llm]'")
        with openai.OpenAI(base_url=address, api_key="any", max_retries=0) as client:
            yield client

    @pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
    def test_vectors(self, client, embedder, options):
        answer = client.embeddings.create(model="encoder", input=CORPUS, **options)
        assert_same([one.embedding for one in answer.data], embedder.encode(CORPUS))
        assert (answer.model, answer.object) == ("encoder", "list")
        assert answer.usage.total_tokens == sum(embedder.tokenize(CORPUS).lengths)

    def test_prompts_and_dimensions(self, client, embedder, encoder):
        for side in ("query", "document"):
            answer = client.embeddings.create(model="encoder", input=QUERY, extra_body={"input_type": side})
            assert_same(answer.data[0].embedding, getattr(embedder, f"encode_{side}")(QUERY))
        short = client.embeddings.create(model="encoder", input=QUERY, dimensions=8).data[0].embedding
        assert_same(short, Embedder(encoder, truncate_dim=8).encode(QUERY))

    def test_models(self, client, embedder):
        assert [model.id for model in client.models.list()] == ["encoder", "scorer"]
        assert client.models.retrieve("encoder").model_extra["fingerprint"] == embedder.fingerprint

    def test_mistakes(self, client):
        import openai

        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as caught:
            client.embeddings.create(model="encoder", input=[[1, 2], [3]])
        assert (caught.value.code, caught.value.param) == ("invalid_request", "input[0]")
        with pytest.raises(openai.NotFoundError, match="no model 'gpt'; this server has encoder, scorer"):
            client.embeddings.create(model="gpt", input="a")
        with pytest.raises(openai.NotFoundError, match="no such route"):
            client.chat.completions.create(model="encoder", messages=[{"role": "user", "content": "a"}])

    def test_keys(self, client, guarded):
        import openai

        client = client.with_options(base_url=f"{guarded}/v1")
        with pytest.raises(openai.AuthenticationError, match="none of this server"):
            client.models.list()
        assert len(client.with_options(api_key=KEY).models.list().data) == 2

    def test_asynchronously(self, client, address, embedder):
        import openai

        async def ask():
            async with openai.AsyncOpenAI(base_url=address, api_key="any", max_retries=0) as own:
                calls = [own.embeddings.create(model="encoder", input=text) for text in CORPUS]
                return await asyncio.gather(*calls)

        answers = asyncio.run(ask())
        assert_same([answer.data[0].embedding for answer in answers], embedder.encode(CORPUS))


class TestCohere:
    @pytest.fixture
    def connect(self):
        """Make a client of either version; it does not close its connections itself."""
        cohere = pytest.importorskip("cohere", reason=CLIENTS)
        with httpx.Client() as http:
            yield lambda kind, url, key="any": getattr(cohere, kind)(
                api_key=key, base_url=url, httpx_client=http
            )

    @pytest.fixture(params=["Client", "ClientV2"])
    def client(self, connect, toy_server, request):
        return connect(request.param, toy_server.url)

    def test_ranks(self, client, grades):
        answer = client.rerank(model="scorer", query=QUERY, documents=CORPUS, top_n=4)
        best = np.argsort(-grades.scores, kind="stable")[:4]
        assert [one.index for one in answer.results] == best.tolist()
        expected = grades.expected_levels[best] / 3
        np.testing.assert_allclose([one.relevance_score for one in answer.results], expected, atol=1e-6)
        probabilities = [one.probabilities for one in answer.results]
        np.testing.assert_allclose(probabilities, grades.probabilities[best], atol=1e-6)

    def test_mistakes(self, client, connect, guarded):
        import cohere

        with pytest.raises(cohere.NotFoundError) as caught:
            client.rerank(model="gpt", query=QUERY, documents=CORPUS)
        assert caught.value.body["message"] == "there is no model 'gpt'; this server has encoder, scorer"
        kind = type(client).__name__
        with pytest.raises(cohere.UnauthorizedError):
            connect(kind, guarded).rerank(model="scorer", query="a", documents=["b"])
        answer = connect(kind, guarded, KEY).rerank(model="scorer", query="a", documents=["b"])
        assert len(answer.results) == 1

    def test_documents_with_parts(self, connect, toy_server, scorer):
        client = connect("Client", toy_server.url)
        documents = [{"title": "红烧肉", "text": text} for text in CORPUS]
        answer = client.rerank(query=QUERY, documents=documents, model="scorer", return_documents=True)
        expected = RelevanceScorer(scorer, threads=1).rank(
            QUERY, [Document("", one["title"], one["text"]) for one in documents]
        )
        assert [one.index for one in answer.results] == [one.index for one in expected]
        assert answer.results[0].document.text == CORPUS[expected[0].index]


class TestHuggingFace:
    """Posts to the address as it is given, to its root too, as to text-embeddings-inference."""

    @pytest.fixture
    def client(self, toy_server, monkeypatch):
        hub = pytest.importorskip("huggingface_hub", minversion="1.0", reason="needs the extra backbone")
        monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
        yield lambda path="", url=toy_server.url: hub.InferenceClient(model=f"{url}{path}")
        hub.close_session()

    @pytest.mark.parametrize("path", ["", "/", "/embed"])
    def test_vectors(self, client, embedder, path):
        vectors = client(path).feature_extraction(CORPUS, prompt_name="query", normalize=True, truncate=True)
        assert vectors.dtype == np.float32
        assert_same(vectors, embedder.encode_query(CORPUS))
        assert_same(client(path).feature_extraction(QUERY), embedder.encode([QUERY]))

    @pytest.mark.parametrize("path", ["", "/similarity"])
    def test_similarities(self, client, embedder, path):
        found = client(path).sentence_similarity(QUERY, other_sentences=CORPUS)
        assert_same(found, embedder.encode(CORPUS) @ embedder.encode(QUERY))

    def test_classes(self, client, grades):
        """A pair, since the model reads a query and a document."""
        (best, *_) = client("/predict").text_classification([[QUERY, CORPUS[3]]])
        row = grades.probabilities[3]
        assert best.label == ["IRRELEVANT", "PARTIAL", "MOSTLY", "FULL"][row.argmax()]
        assert best.score == pytest.approx(row.max(), abs=1e-6)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"prompt_name": "no"}, "has no prompt 'no'"),
            ({"normalize": False}, "normalises inside the model"),
            ({"truncation_direction": "left"}, "cuts texts on the right: leave it out"),
        ],
    )
    def test_what_the_model_cannot_do_is_refused(self, client, options, said):
        from huggingface_hub.errors import HfHubHTTPError

        with pytest.raises(HfHubHTTPError) as caught:
            client().feature_extraction("a", **options)
        assert caught.value.response.status_code == 400
        assert said in caught.value.response.json()["error"]

    def test_a_scorer_alone_ranks_and_classifies_at_the_root(self, client, settings, scorer, grades):
        with served(replace(settings, models={"scorer": str(scorer)}, indexes={}, scorers={})) as server:
            rows = client(url=server.url).text_classification([[QUERY, CORPUS[3]]])
            assert rows[0].score == pytest.approx(grades.probabilities[3].max(), abs=1e-6)


class TestLangChain:
    @pytest.fixture
    def embeddings(self, address):
        chain = pytest.importorskip("langchain_openai", reason=CLIENTS)
        options = {"model": "encoder", "base_url": address, "api_key": "any", "max_retries": 0}
        opened = []

        def connect(**more):
            opened.append(chain.OpenAIEmbeddings(**options, **more))
            return opened[-1]

        yield connect
        for one in opened:
            one.client._client.close()

    def test_vectors(self, embeddings, embedder):
        client = embeddings(check_embedding_ctx_length=False)
        assert_same(client.embed_documents(CORPUS), embedder.encode(CORPUS))
        assert_same(client.embed_query(QUERY), embedder.encode(QUERY))
        more = {"extra_body": {"input_type": "query"}}
        asking = embeddings(check_embedding_ctx_length=False, model_kwargs=more)
        assert_same(asking.embed_query(QUERY), embedder.encode_query(QUERY))

    def test_tokens_of_another_vocabulary_are_refused_with_the_way_out(self, embeddings, monkeypatch):
        """As it is, LangChain cuts texts with OpenAI's vocabulary and sends numbers."""
        import openai
        import tiktoken

        pieces = {bytes([number]): number for number in range(256)}
        bytewise = tiktoken.Encoding("bytes", pat_str=r"(?s:.)", mergeable_ranks=pieces, special_tokens={})
        monkeypatch.setattr(tiktoken, "encoding_for_model", lambda _: bytewise)
        with pytest.raises(openai.BadRequestError, match=r"Embeddings\(check_embedding_ctx_length=False\)"):
            embeddings().embed_query(QUERY)


class TestLlamaIndex:
    def test_vectors(self, address, embedder):
        llama = pytest.importorskip("llama_index.embeddings.openai", reason=CLIENTS)
        options = {"model_name": "encoder", "api_base": address, "api_key": "any", "max_retries": 0}
        client = llama.OpenAIEmbedding(**options)
        assert_same(client.get_text_embedding_batch(CORPUS), embedder.encode(CORPUS))
        assert_same(client.get_query_embedding(QUERY), embedder.encode(QUERY))
        more = {"extra_body": {"input_type": "document"}}
        short = llama.OpenAIEmbedding(**options, dimensions=8, additional_kwargs=more)
        whole = embedder.encode_document(QUERY)[:8]
        assert_same(short.get_text_embedding(QUERY), whole / np.linalg.norm(whole))
        for one in (client, short):
            one._client.close()
