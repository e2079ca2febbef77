"""File formats: documents, their ids, queries, pairs, TREC qrels and runs.

Readers stream. They check the file when called and each row when it is reached; a wrong row is an
`InputError` that says `file:line: what is wrong; what to do`, and no row is dropped silently.
"""

from relsdk.formats.documents import (
    Query,
    document_from_mapping,
    read_documents,
    read_ids,
    read_queries,
    write_documents,
)
from relsdk.formats.pairs import (
    read_pairs,
    read_unlabelled_pairs,
    write_pairs,
    write_unlabelled_pairs,
)
from relsdk.formats.trec import read_qrels, read_run, run_lines, write_run

__all__ = [
    "Query",
    "document_from_mapping",
    "read_documents",
    "read_ids",
    "read_pairs",
    "read_qrels",
    "read_queries",
    "read_run",
    "read_unlabelled_pairs",
    "run_lines",
    "write_documents",
    "write_pairs",
    "write_run",
    "write_unlabelled_pairs",
]
