"""Every metric by its value, read as Prometheus reads it; and no series that a client can make."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relsdk_serve._metrics import REJECTIONS, Metrics


@pytest.fixture
def metrics():
    return Metrics("1.2.3", routes=["/v1/search", "/v1/documents/{id}"], models=["m", "s"], indexes=["商店"])


def samples(metrics):
    """Return every sample: name and labels -> value."""
    content, kind = metrics.render()
    assert kind.startswith("text/plain; version=")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(content.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def value(metrics, name, **labels):
    return samples(metrics).get((f"relsdk_{name}", *sorted(labels.items())))


def test_requests(metrics):
    for seconds in (0.0004, 0.004, 4.0, 40.0):
        metrics.request("/v1/search", 200, seconds)
    metrics.request("/v1/search", 429, 0.0001)
    assert value(metrics, "requests_total", route="/v1/search", status="200") == 4
    assert value(metrics, "requests_total", route="/v1/search", status="429") == 1
    counts = {
        le: value(metrics, "request_seconds_bucket", route="/v1/search", le=le)
        for le in ("0.001", "0.005", "5.0", "10.0", "+Inf")
    }
    assert counts == {"0.001": 2, "0.005": 3, "5.0": 4, "10.0": 4, "+Inf": 5}
    assert value(metrics, "request_seconds_sum", route="/v1/search") == pytest.approx(44.0045)


def test_a_client_makes_no_series(metrics):
    metrics.request("/v1/search", 200, 0.1)
    metrics.request("/nobody", 404, 0.1)
    before = len(samples(metrics))
    for number in range(100):
        metrics.request(f"/nobody/{number}", 404, 0.1)
        metrics.batch(f"m{number}", texts=1, tokens=1, seconds=0.1)
        metrics.best_hit(f"i{number}", number, 0.5)
        metrics.rejected(f"because {number}")
    others = len(samples(metrics)) - before
    for number in range(100, 200):
        metrics.request(f"/nobody/{number}", 404 + 1000 * number, 0.1)
        metrics.batch(f"m{number}", texts=1, tokens=1, seconds=0.1)
        metrics.best_hit(f"i{number}", number, 0.5)
        metrics.rejected(f"because {number}")
    assert value(metrics, "requests_total", route="other", status="404") == 101
    assert value(metrics, "requests_total", route="other", status="other") == 100
    assert value(metrics, "rejected_total", reason="other") == 200
    assert len(samples(metrics)) - before == others + 1


def test_queue_batches_and_workers(metrics):
    metrics.queue("bulk", 300)
    metrics.queue("bulk", 200)
    metrics.waited("interactive", 0.003)
    metrics.batch("m", texts=3, tokens=50, seconds=0.02)
    metrics.batch("m", texts=5, tokens=40, seconds=0.01)
    metrics.truncated("m", 2)
    metrics.query_cache("m", hits=1, misses=1)
    metrics.query_cache("m", hits=3, misses=1)
    metrics.rejected("overloaded")
    metrics.workers(2)
    metrics.worker_restarted()
    metrics.log_lost("queries", 7)
    assert value(metrics, "queue_tokens", lane="bulk") == 200
    assert value(metrics, "queue_tokens", lane="interactive") == 0
    assert value(metrics, "queue_seconds_count", lane="interactive") == 1
    assert value(metrics, "batch_texts_sum", model="m") == 8
    assert value(metrics, "batch_tokens_bucket", model="m", le="32.0") == 0
    assert value(metrics, "batch_tokens_bucket", model="m", le="64.0") == 2
    assert value(metrics, "inference_seconds_sum", model="m") == pytest.approx(0.03)
    assert value(metrics, "truncated_texts_total", model="m") == 2
    assert value(metrics, "query_cache_total", model="m", result="hit") == 3
    assert value(metrics, "query_cache_total", model="m", result="miss") == 1
    assert value(metrics, "rejected_total", reason="overloaded") == 1
    assert value(metrics, "workers_alive") == 2
    assert value(metrics, "worker_restarts_total") == 1
    assert value(metrics, "log_lost_lines_total", log="queries") == 7


def test_what_an_index_finds_and_how_large_it_is(metrics):
    metrics.best_hit("商店", 3, 0.97)
    metrics.best_hit("商店", 0, 0.02)
    metrics.best_hit("商店", None, None)
    metrics.index("商店", documents=1000, segments=3, dead_rows=20, generation=7)
    metrics.index("商店", documents=1001, segments=1, dead_rows=0, generation=8)
    metrics.reload_failed("商店")
    metrics.drift("商店", "hybrid", {"level": 0.12, "cosine": 0.01})
    levels = {
        level: value(metrics, "best_hits_total", index="商店", level=level)
        for level in ("none", "0", "1", "2", "3")
    }
    assert levels == {"none": 1, "0": 1, "1": 0, "2": 0, "3": 1}
    assert value(metrics, "best_hit_probability_count", index="商店") == 2
    assert value(metrics, "best_hit_probability_bucket", index="商店", le="0.95") == 1
    sizes = [
        value(metrics, f"index_{name}", index="商店")
        for name in ("documents", "segments", "dead_rows", "generation")
    ]
    assert sizes == [1001, 1, 0, 8]
    assert value(metrics, "reload_failures_total", index="商店") == 1
    drift = [
        value(metrics, "drift_psi", index="商店", order="hybrid", kind=kind)
        for kind in ("level", "cosine", "tokens", "unknown")
    ]
    assert drift == [0.12, 0.01, None, None]  # nothing is said of what nothing is known of


def test_a_rate_of_nothing_is_0_and_not_absent(metrics):
    before = samples(metrics)
    for reason in REJECTIONS:
        assert before["relsdk_rejected_total", ("reason", reason)] == 0
    assert before["relsdk_worker_restarts_total",] == 0
    assert before["relsdk_reload_failures_total", ("index", "商店")] == 0
    assert before["relsdk_log_lost_lines_total", ("log", "requests")] == 0
    assert before["relsdk_info", ("version", "1.2.3")] == 1


def test_the_process_shows_its_memory(metrics):
    assert samples(metrics)["process_resident_memory_bytes",] > 1 << 20


def test_two_servers_in_one_process_count_apart(metrics):
    other = Metrics("1.2.3", routes=["/v1/search"], models=[], indexes=[])
    other.request("/v1/search", 200, 0.1)
    assert value(metrics, "requests_total", route="/v1/search", status="200") is None


def test_counting_costs_microseconds(metrics):
    started = time.thread_time()
    for _ in range(10_000):
        metrics.request("/v1/search", 200, 0.004)
    assert (time.thread_time() - started) / 10_000 < 20e-6  # 1.7 where nobody else computes
