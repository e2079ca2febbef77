"""A living index measured: changes, filters, hybrid retrieval, peers: `python -m bench.living_index`.

`corpus` makes the documents, `contenders` what is measured, `worker` the processes it runs in, `stages_peers`
and `stages_million` what is done; `__main__` runs the stages one by one and writes the results after each.
"""
