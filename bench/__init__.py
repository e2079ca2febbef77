"""Benchmarks: what relsdk's numbers are measured with. Run by `make bench` and `make real`."""
