"""The simulation against numbers that were computed by hand, and the measurement at toy size."""

import json
import math
import re
import shlex
from dataclasses import asdict, fields, replace

import pytest
from click.testing import CliRunner

from bench.harness.machine import ROOT
from bench.pages.readme import fill
from bench.pages.scale import scale_parts
from bench.scale import __main__ as command
from bench.scale.committed import compare
from bench.scale.growth import Growth, graph_seconds
from bench.scale.inputs import open_corpus
from bench.scale.limits import find_limits, first_limit, most_workers
from bench.scale.rates import SMALL, measure
from bench.scale.records import PREMISES, Assumptions, BuildRates, Rates, assumption_texts
from bench.scale.results import read_stages
from bench.scale.simulation import query_costs, simulate, steps, storage
from tests.toys import FIXTURES

HOUR = 3600.0
BYTES = {
    "vectors, fp32": 1000.0,
    "vectors, int8": 250.0,
    "graph": 1500.0,
    "documents": 500.0,
    "words": 300.0,
    "fields to filter by": 100.0,
    "other": 0.0,
}


def built(documents, graph_s, peak, search_ms, opened):
    """A build whose graph takes so many seconds a document, and the rest a millisecond."""
    files = {kind: size * documents for kind, size in BYTES.items()}
    return BuildRates(documents, documents * (0.001 + graph_s), peak, files, search_ms, opened)


# A document of a graph takes 2 ms at 100, 4 ms at 10,000, so 6 ms at 1,000,000.
RATES = Rates(
    dimension=250,
    tokens_per_text=10.0,
    tokens_per_s=1000.0,
    query_ms=1.0,
    query_model="encoder",
    input_bytes_per_row=1000.0,
    plan_rows_per_s=10_000.0,
    skip_rows_per_s=20_000.0,
    rows_per_part=1000,
    part_bytes_per_row=1000.0,
    write_bytes_per_s=1e6,
    verify_bytes_per_s=1e7,
    rest_s_per_document=0.001,
    builds=(built(100, 0.002, 1.2e6, 1.0, 1.16e6), built(10_000, 0.004, 21e6, 2.0, 17e6)),
    exact_bytes_per_s=1e9,
    loader_documents_per_s=1000.0,
    loader_bytes_per_document=100.0,
    files_of_a_segment=7,
)
ASSUMED = Assumptions(
    price_core_hour=0.1,
    price_gb_month=2.0,
    machine_cores=4,
    machine_ram_gb=0.02,
    network_gb_s=1.0,
    storage_gb_s=0.5,
    worker_share=0.5,
    graph_thread_share=0.5,
    segment_documents=10_000,
    queries_per_s=1000.0,
)


def step(name, documents, cores, rates=RATES, assumed=ASSUMED):
    (found,) = [one for one in steps(rates, assumed, documents, cores) if one.name.startswith(name)]
    return found


def test_a_curve_goes_through_its_points_and_on_with_the_logarithm():
    curve = Growth.through((100, 2.0), (10_000, 4.0))
    assert [curve.at(n) for n in (100, 10_000, 1_000_000)] == pytest.approx([2.0, 4.0, 6.0])
    assert graph_seconds(RATES, 1_000_000) == pytest.approx(6000.0)
    # A second point that was faster by chance does not make a large index free.
    assert Growth.through((100, 2.0), (10_000, 1.5)).at(10**9) == 1.5


def test_planning_takes_one_core_whatever_there_is():
    for cores in (1, 8):
        found = step("plan", 1_000_000, cores)
        assert (found.hours, found.cores, found.cost) == pytest.approx((100 / HOUR, 1, 10 / HOUR))


def test_encoding_by_many_workers():
    found = step("encode into", 1_000_000, 8)
    # 1,000,000 / (100 x 8 x 0.5), then the pass of every worker, then 10^9 bytes written by 8.
    seconds = 2500 + 50 + 125
    assert found.hours * HOUR == pytest.approx(seconds)
    assert found.core_hours * HOUR == pytest.approx(seconds * 8)
    assert found.cost == pytest.approx(seconds * 8 / HOUR * 0.1)
    assert found.bytes_written == pytest.approx(1e9)
    alone = step("encode into", 1_000_000, 1)
    assert alone.hours * HOUR == pytest.approx(10_000 + 50 + 1000)


def test_encoding_waits_for_a_slow_file_system():
    slow = replace(ASSUMED, storage_gb_s=0.001)
    # Two machines read 10^9 bytes each, 10^9 are written, at 10^6 a second.
    assert step("encode into", 1_000_000, 8, assumed=slow).hours * HOUR == pytest.approx(3000)


def test_longer_documents_take_longer():
    longer = replace(ASSUMED, document_tokens=40.0)
    assert step("encode into", 1_000_000, 1, assumed=longer).hours * HOUR == pytest.approx(40_000 + 1050)


def test_folders_hold_what_fits_in_memory():
    # 20 MB hold 10,000 documents of 2,000 bytes, so there are two folders. Each: parts 1 s, the rest 10 s,
    # the graph 40 s / (4 x 0.5).
    one_machine, two_machines = step("index", 20_000, 4), step("index", 20_000, 8)
    assert one_machine.hours * HOUR == pytest.approx(2 * 31)
    assert two_machines.hours * HOUR == pytest.approx(31)
    assert one_machine.core_hours == two_machines.core_hours == pytest.approx(2 * 31 * 4 / HOUR)
    assert one_machine.bytes_written == pytest.approx(20_000 * 3400)
    assert "take a store" in one_machine.arithmetic
    assert step("index", 10_000, 1).hours * HOUR == pytest.approx(1 + 10 + 40)
    assert "take a store" not in step("index", 10_000, 1).arithmetic


def test_a_store_is_loaded_by_one_and_indexed_by_all():
    found = step("load", 20_000, 8)
    assert found.hours * HOUR == pytest.approx(20 + 80 / (8 * 0.5))
    assert found.core_hours * HOUR == pytest.approx(20 + 80 / 0.5)
    slow = replace(ASSUMED, network_gb_s=0.001)  # 20,000 x 2,000 bytes
    assert step("load", 20_000, 8, assumed=slow).hours * HOUR == pytest.approx(40 + 20)
    twice = replace(ASSUMED, replicas=2)
    assert step("load", 20_000, 8, assumed=twice).hours * HOUR == pytest.approx(20 + 40)


def test_a_new_model_costs_plan_encoding_and_load():
    names = ("plan", "encode into", "load")
    for key in ("hours", "core_hours", "cost", "bytes_written"):
        total = sum(getattr(step(name, 20_000, 8), key) for name in names)
        assert getattr(step("encode again", 20_000, 8), key) == pytest.approx(total)


def test_memory_is_at_least_the_graph():
    # Memory that was free before may hide what a small index takes.
    builds = tuple(replace(build, peak_bytes=1e6, open_bytes=0.0) for build in RATES.builds)
    reached = {limit.name: limit.documents for limit in find_limits(replace(RATES, builds=builds), ASSUMED)}
    for name in ("memory to build one folder", "memory to search one folder"):
        assert reached[name] == pytest.approx(20e6 / 1500)


def test_storage_by_kind():
    found = storage(RATES, replace(ASSUMED, months=3.0), 1_000_000)
    assert set(found) == {"input", "parts", *BYTES}
    assert found["graph"] == pytest.approx({"bytes": 1.5e9, "cost": 1.5 * 2.0 * 3.0})


def test_queries_in_a_folder_in_a_store_and_exact():
    found = query_costs(RATES, ASSUMED, 20_000)
    assert found["one folder"]["search_ms"] == pytest.approx(2.0 + math.log(2) / math.log(100))
    store = found["a store"]
    assert (store["graphs"], store["search_ms"], store["cores"]) == pytest.approx((2, 4.0, 5.0))
    # 32 MB in machines of 20, and 5 cores in machines of 4.
    assert (store["machines"], store["machines_for_memory"]) == (2, 2)
    assert store["cost"] == pytest.approx(2 * 4 * 730 * 0.1)
    assert store["memory_bytes"] == pytest.approx(32e6)
    assert found["exact"]["search_ms"] == pytest.approx(20.0)
    assert not found["one folder"]["fits"]
    assert query_costs(RATES, ASSUMED, 12_500)["one folder"]["fits"]


def test_limits_in_the_order_in_which_they_are_reached():
    limits = find_limits(RATES, ASSUMED)
    reached = {limit.name: limit.documents for limit in limits}
    assert reached["memory to build one folder"] == pytest.approx(10_000)
    assert reached["memory to search one folder"] == pytest.approx(20e6 / 1600)
    assert reached["exact search within 100 ms"] == pytest.approx(100_000)
    assert reached["memory of the process that loads a store, for ids"] == pytest.approx(200_000)
    assert reached["planning pass over the input within 1 h"] == pytest.approx(3.6e7)
    assert reached["verifying all parts at a second start within 1 h"] == pytest.approx(3.6e7)
    assert reached["one process that loads a store within 24 h"] == pytest.approx(8.64e7)
    assert reached["network of the machine that loads within 24 h"] == pytest.approx(86400 * 5e5)
    assert reached["part files in one folder"] == pytest.approx(1e8)
    most = reached["graph of one folder within 24 h"]
    assert graph_seconds(RATES, most) / 2 + most * 0.001 == pytest.approx(86_400)
    order = [limit.documents for limit in limits]
    assert order[:-1] == sorted(order[:-1])
    assert order[-1] is None
    assert first_limit(limits).name == "memory to build one folder"
    assert most_workers(RATES, ASSUMED) == pytest.approx(20_000 / 50)


def test_an_optional_limit_is_not_the_first():
    limits = find_limits(RATES, replace(ASSUMED, exact_ms=1.0))
    assert limits[0].name == "exact search within 1 ms"
    assert first_limit(limits) == limits[1]


def test_other_results_are_put_beside_what_the_rates_give():
    content = json.loads((ROOT / "bench/results/index.json").read_text())["stages"]
    compact, small = content["million-compact"]["result"], content["build"]["result"]["relsdk"]
    found = compare(replace(RATES, dimension=384))
    assert {one["file"] for one in found} == {"bench/results/index.json", "bench/results/million.json"}
    assert found[0]["measured"] == pytest.approx(compact["cpu_s"] / 9 / small["cpu_s"])
    # 6 ms at a million and 5 ms at 100,000, and the rest 1 ms.
    more = 0.006 + 0.002 * math.log(0.9) / math.log(100) + 0.001
    assert found[0]["predicted"] == pytest.approx(more / 0.006)
    assert (found[-1]["unit"], found[-1]["predicted"]) == ("ms", pytest.approx(3.0))


@pytest.fixture
def output(tmp_path):
    """A file of results that has rates."""
    rates = {"result": asdict(RATES), "toy": False, "loaded": False, "date": "2026-11-30", "cpu": "Z80"}
    path = tmp_path / "scale.json"
    path.write_text(json.dumps({"stages": {"rates": rates, "actors": {"result": 1}}}))
    return path


def run(*arguments):
    done = CliRunner().invoke(command.main, [str(one) for one in arguments], catch_exceptions=False)
    return done.output, done.exit_code


def test_the_command_keeps_other_stages_and_writes_every_assumption(output):
    run("simulate", "--output", output, "--documents", 20_000, "--cores", 8, "--machine-cores", 4)
    stages = read_stages(output)
    assert set(stages) == {"rates", "actors", "simulation"}
    result = stages["simulation"]["result"]
    assert result["assumptions"] == asdict(Assumptions(machine_cores=4))
    assert set(assumption_texts()) == {field.name for field in fields(Assumptions)}
    expected = simulate(RATES, Assumptions(machine_cores=4), (20_000,), (8,))
    assert result["collections"] == json.loads(json.dumps(expected["collections"]))


def test_without_rates_it_says_what_to_run(tmp_path):
    (tmp_path / "scale.json").write_text('{"stages": {}}')
    text, code = run("simulate", "--output", tmp_path / "scale.json")
    assert code == 1
    assert "bench.scale rates" in text


def test_the_page_has_every_assumption_step_and_limit(output):
    page = "<!-- scale-limits -->\nnot yet\n<!-- /scale-limits -->\n"
    assert fill(page, scale_parts(None)) == page
    assert scale_parts(json.loads(output.read_text()) | {"stages": {}}) == {}
    run("simulate", "--output", output)
    content = json.loads(output.read_text())
    parts = scale_parts(content)
    result = content["stages"]["simulation"]["result"]
    assert "not yet" not in fill(page, parts)
    for name, text in assumption_texts().items():
        assert f"| {text} |" in parts["scale-assumptions"]
        assert f"`--{name.replace('_', '-')}`" in parts["scale-assumptions"]
    assert result["premises"] == PREMISES
    assert all(f"- {text}\n" in parts["scale-assumptions"] for text in PREMISES.values())
    assert all(limit["name"] in parts["scale-limits"] for limit in result["limits"])
    assert "\nZ80, 2026-11-30, " in parts["scale-rates"]
    assert f"**{result['first_limit']}**" in parts["scale-limits"]
    # 10,000,000 rows at 10,000 a second; 256 cores are the last column.
    plan = next(line for line in parts["scale-steps"].splitlines() if line.startswith("| plan"))
    assert plan == "| plan: check and count the input | 16.7 min | 16.7 min | 16.7 min |  | 0.01 |"
    for text in parts.values():
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) == 1


def test_the_measurement_at_toy_size(tmp_path, monkeypatch):
    monkeypatch.setattr("relsdk.index._segment_writer.GRAPH_ROWS", 100)  # so that small indexes have a graph
    sizes = replace(SMALL, builds=(200, 400), encoded=8, queries=4, exact=2, parts=1)
    corpus = open_corpus(tmp_path, tmp_path / "absent", 400, 8, 4)
    (tmp_path / "work").mkdir()
    found = measure(FIXTURES / "tower-bundle-v1", corpus, sizes, tmp_path / "work", apart=False)
    assert Rates.from_dict(json.loads(json.dumps(asdict(found)))) == found
    numbers = [value for value in asdict(found).values() if isinstance(value, int | float)]
    assert all(value > 0 for value in numbers)
    assert found.query_model == "query tower"
    large = found.builds[1].file_bytes
    assert large["vectors, fp32"] == pytest.approx(400 * 8 * 4, abs=200)  # and a header
    assert large["graph"] > large["vectors, fp32"]  # which it holds, too
    assert large["vectors, int8"] == pytest.approx(400 * (8 + 4), abs=600)  # and headers, of a smaller one
    assert (
        sum(large.values())
        == sum(path.stat().st_size for path in (tmp_path / "work/index-400").rglob("*") if path.is_file())
        + large["vectors, int8"]
    )
    path = tmp_path / "work/documents.jsonl"
    assert found.input_bytes_per_row == path.stat().st_size / 400
    assert found.part_bytes_per_row > 8 * 4


def test_the_page_shows_a_command_that_runs_and_has_a_place_for_every_table(output):
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    text = page[page.index("## How far it goes") :]
    (shown,) = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    words = shlex.split(shown)
    assert words[:4] == ["python", "-m", "bench.scale", "simulate"]
    words[words.index("--output") + 1] = output
    assert run(*words[3:])[1] == 0
    assumed = read_stages(output)["simulation"]["result"]["assumptions"]
    assert assumed == asdict(Assumptions(machine_ram_gb=256.0, price_core_hour=0.03))
    for name in scale_parts(json.loads(output.read_text())):
        assert f"<!-- {name} -->\n" in text
