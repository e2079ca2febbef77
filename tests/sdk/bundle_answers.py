"""Open bundles and answer with them, one JSON line each: test_bundle_damage.py runs it in a process."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np

from relsdk import Embedder, RelevanceScorer
from relsdk.errors import RelsdkError

COSINES = np.linspace(-1, 1, 9)


def answer(folder, kind, texts, pairs):
    if kind == "scorer":
        scorer = RelevanceScorer(folder, variant="fp32", threads=1)
        found = scorer.predict([tuple(pair) for pair in pairs])
        values, model = [found.probabilities], scorer.model
    else:
        model = Embedder(folder, variant="fp32", threads=1)
        values = [model.encode_query(texts), model.encode_document(texts)]
        values.append(model.calibration.probabilities(COSINES))
    problems = model.verify().problems
    return {"values": [part.tolist() for part in values], "problems": list(problems)}


def main():
    fixtures = Path(__file__).resolve().parents[1] / "fixtures"
    expected = json.loads((fixtures / "expected-v1.json").read_text(encoding="utf-8"))
    for line in sys.stdin:
        case = json.loads(line)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = answer(case["folder"], case["kind"], expected["texts"], expected["pairs"])
        except RelsdkError as error:
            result = {"error": type(error).__name__, "message": str(error)}
        except BaseException as error:
            result = {"traceback": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
