"""Files of which each node of `torchrun` has its own: rows travel once, and every process trains on all.

So what is trained does not depend on how rows lie on nodes: batches, steps and weights are those of one file
with the rows of all nodes, in the order of their numbers. Files may differ in length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from relsdk_training.engine.processes import gather_values, is_first_of_node, node, together, value_of

__all__ = ["read_rows"]

Row = TypeVar("Row")
# In the name of a file: the number of the node, from 0.
_NODE = "{node}"


def read_rows(path: str, read: Callable[[Path], Iterable[Row]]) -> Iterable[Row]:
    """Read a file, or the file of each node; every process must ask.

    Args:
        path: Where `{node}` is in it, the first process of each node reads the file of its number.
        read: Yields the rows of a file.

    Returns:
        The rows of the file, or of all nodes.

    Raises:
        InputError: The file is missing or bad, or nodes have no numbers.
        TrainingError: That of another node is.
    """
    if _NODE not in path:
        return read(Path(path))
    own: list[Row] = []
    reads = is_first_of_node()
    with together():
        if reads:
            own = list(read(Path(path.replace(_NODE, str(node())))))
    readers = [number for number, does in enumerate(gather_values(reads)) if does]
    return [row for number in readers for row in value_of(number, own)]
