"""The measurement of 8-bit vectors at toy size."""

from bench.serving.index_int8 import measure


def test_both_ways_are_measured_and_find_the_same(tmp_path):
    found = measure(tmp_path, 600, 16, 1)
    assert found["bytes_searched"]["fp32"] == 128 + 600 * 16 * 4
    assert found["bytes_searched"]["int8"] == 2 * 128 + 600 * 16 + 600 * 4
    assert [row["allowed"] for row in found["searches"]] == [0.01, 0.1, 1.0]
    for row in found["searches"]:
        assert min(row["cpu_ms"].values()) > 0
        assert row["recall_at_10"] == {"fp32": 1.0, "int8": 1.0}
