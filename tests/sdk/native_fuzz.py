"""Random encoders and texts through the native engine; a checker of memory or threads may watch.

python -m tests.sdk.native_fuzz --library LIBRARY --cases 200
"""

import argparse
from dataclasses import replace

import numpy as np

from bench.harness.instruction_sets import INSTRUCTION_SETS, instruction_set
from tests.native_encoders import (
    Oracle,
    Shape,
    differences,
    hidden,
    random_encoder,
    random_texts,
    session,
)

# The oracle is slow: longer batches are compared among instruction sets and threads only.
ORACLE_TOKENS = 600


def check_case(library, seed, *, tokens=4096):
    """Compare one random case with the oracle, and with itself on other threads and in other batches.

    Args:
        library: The engine.
        seed: Makes the case.
        tokens: The most that a batch has.
    """
    rng = np.random.default_rng(seed)
    shape = random_shape(rng)
    model = random_encoder(shape, rng)
    length = int(2 ** rng.uniform(0, 9))
    texts = max(1, min(int(2 ** rng.uniform(0, 8)), tokens // length))
    kind = str(rng.choice(["right", "left", "holes"]))
    feed = random_texts(rng, texts, length, vocabulary=shape.vocabulary, kind=kind, types=shape.types)
    mask = feed["attention_mask"]
    expected = None
    if texts * length <= ORACLE_TOKENS:
        expected = Oracle(model)(*feed.values()) if shape.typed else Oracle(model)(*list(feed.values())[:2])
    for name in INSTRUCTION_SETS:
        with instruction_set(library, name) as available:
            if not available:
                continue
            found = hidden(session(model, library), feed)
            told = f"case {seed}, {name}: {shape}, {texts} texts of {length}, {kind}"
            assert np.isfinite(found).all(), told
            assert (found[mask == 0] == 0).all(), told
            for threads in (2, 4):
                again = hidden(session(model, library, threads=threads), feed)
                np.testing.assert_array_equal(again, found, err_msg=told)
            check_alone(session(model, library), feed, found, rng.integers(texts), told)
        expected = found if expected is None else expected
        roundings = length * shape.layers * (3 * shape.width + shape.inner)  # of one text
        check_close(found, expected, mask, told, few_roundings=texts >= 4 and roundings < 20_000)


def random_shape(rng):
    width = 16 * int(rng.integers(1, 9)) if rng.random() < 0.9 else 384
    heads = [heads for heads in range(1, width // 16 + 1) if width // 16 % heads == 0]
    shape = Shape(
        width=width,
        heads=int(rng.choice(heads)),
        inner=16 * int(rng.integers(1, 17)),
        layers=int(rng.integers(1, 4)),
        relu=bool(rng.integers(2)),
        padding=int(rng.choice([-1, 1])),
        largest=int(rng.choice([64, 127])),
        typed=bool(rng.integers(2)),
    )
    return replace(shape, types=1) if not shape.typed else shape


def check_alone(engine, feed, found, text, told):
    """A text has the same vectors alone and without its padding, to the last bit; holes stay."""
    real = np.flatnonzero(feed["attention_mask"][text])
    if len(real):
        alone = {name: values[text : text + 1, : real[-1] + 1] for name, values in feed.items()}
        np.testing.assert_array_equal(hidden(engine, alone)[0], found[text, : real[-1] + 1], err_msg=told)


def check_close(found, expected, mask, told, *, few_roundings):
    """A number close to the middle of two integers may be rounded to either, which moves its text a little.

    Of several texts with few numbers to round, most have no such number.
    """
    if not mask.any():
        return
    largest, cosine = differences(found, expected, mask)
    assert cosine.min() > 0.9999, f"{told}: cosine {cosine.min()}"
    assert largest.max() < 0.1, f"{told}: {largest.max()}"
    if few_roundings:
        assert np.median(largest) < 1e-5, f"{told}: {np.median(largest)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--library", required=True)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    arguments = parser.parse_args()
    for seed in range(arguments.first, arguments.first + arguments.cases):
        check_case(arguments.library, seed)
    print(f"{arguments.cases} cases")


if __name__ == "__main__":
    main()
