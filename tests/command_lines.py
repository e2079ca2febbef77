"""Command lines with bad values, made of the command tree itself, and a process that runs many of them.

    python -m tests.command_lines FOLDER < LINES > RESULTS

A line is a JSON list of words; a word `{name}` is a file of the workspace in FOLDER. Each result is one JSON
object: what was printed, the exit code, how long it took. Many lines share a process, since most of the time
of a command is imports; a line that kills it is found by the result that is missing.
"""

import contextlib
import faulthandler
import importlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import click

FIXTURES = Path(__file__).resolve().parent / "fixtures"
SECONDS = int(os.environ.get("RELSDK_TEST_SECONDS", "60"))  # a line that takes longer hangs
# Commands that import torch: seconds, before anything is looked at.
SLOW = ("train", "export", "model cut", "synth", "demo")

# What makes each command get as far as it can in milliseconds. Trainings and exports end at a checkpoint that
# is not there: what they do with one is tested elsewhere.
BASES = {
    "demo": (["--folder={file}", "--documents=200"], []),
    "index build": (["--model={encoder}", "--input={documents}", "--variant=fp32"], ["{new}"]),
    "index add": (["--model={encoder}", "--input={documents}", "--replace", "--variant=fp32"], ["{index}"]),
    # Ids and --where exclude each other: with neither each of them gets as far as it can.
    "index delete": ([], ["{index}"]),
    "index similar": ([], ["{index}", "v000001"]),
    "index facets": ([], ["{index}", "topic"]),
    "index get": ([], ["{index}", "v000001"]),
    "query": (["--variant=fp32"], ["{index}", "红烧肉怎么做"]),
    "encode": (["--variant=fp32"], ["{encoder}", "{queries}", "{new}"]),
    "score": (["--variant=fp32"], ["{scorer}", "红烧肉怎么做", "红烧肉的家常做法"]),
    "eval": (["--variant=fp32"], ["{encoder}", "{pairs}"]),
    "calibrate": (["--variant=fp32"], ["{encoder}", "{pairs}"]),
    "model cut": (["--corpus={documents}"], ["{missing}", "{new}"]),
    "model pull": ([], ["{missing}"]),
    "model info": ([], ["{encoder}"]),
    "model verify": ([], ["{encoder}"]),
    "mine": ([], ["{index}", "{pairs}", "{new}"]),
    "train embed": (["--set=model.checkpoint={missing}"], ["embed.toml"]),
    "train score": (["--set=model.checkpoint={missing}"], ["score.toml"]),
    "train query": (["--set=model.checkpoint={missing}"], ["query.toml"]),
    "train distill": (["--set=model.checkpoint={missing}"], ["distill.toml"]),
    "train ssra": (["--set=run.output={new}"], ["ssra.toml"]),
    "train few": (["--checkpoint={missing}", "--labels={pairs}", "--output={new}"], ["few.toml"]),
    "train mix": ([], ["{missing}", "{folder}", "{new}"]),
    "train plot": ([], ["{folder}"]),
    "judge": (["--model=qwen", "--replay={missing}", "--output={new}"], ["{pairs}"]),
    "synth inspect": ([], ["{folder}"]),
    "synth report": ([], ["{folder}"]),
    "export encoder": ([], ["{missing}", "{new}"]),
    "export scorer": ([], ["{missing}", "{new}"]),
    "bench": (
        ["--model={encoder}", "--queries={queries}", "--index={index}", "--seconds=0.01", "--repeats=1"],
        [],
    ),
    "doctor": (["--no-self-test", "--model={encoder}"], []),
    "serve": (["--check"], ["{index}"]),
}
# The only argument of commands that are not named above: those of `relsdk index`, whatever they will be.
USUAL = ([], ["{index}"])

PATHS = [
    *("{missing}", "{folder}", "{file}", "{documents}", "{queries}", "{pairs}", "{index}", "{encoder}"),
    *("{scorer}", "{encoder}/relsdk.json", "{link}", "{fifo}", "{file}/below", "", "-", ".", "./typo", "a/b"),
    *("/dev/null", "/dev/full", "/dev/zero", "a" * 300, "a" * 300 + "/b", "b/" * 2500, "a\0b", "~nobody/x"),
    *(os.fsdecode(b"\xff\xfe"), os.fsdecode(b"\xff.jsonl"), "a\x1b[31m\u202eb", "x.csv", "x.parquet", "x.gz"),
]
TEXTS = [
    *("", " ", "-", "x", "\x1b[2J\u202e", os.fsdecode(b"\xff"), "长" * 100_001, "a\0b", "{", "}", "[1", "%s"),
    *(
        "a=b",
        "a.b=[",
        "a<",
        ">1",
        "a=1 or",
        "((",
        "not",
        "model.max_tokens=nan",
        "run.seed=1e99",
        "1,2",
        "1,,",
    ),
]
INTEGERS = ["0", "-1", "1", "7", str(2**31), str(2**63), str(-(2**63)), "x", "1.5", "", " 2", "1e3", "nan"]
FLOATS = ["0", "-1", "0.5", "nan", "inf", "-inf", "1e400", "-1e-320", "x", "", "0x10", str(2**63)]


def commands():
    """Yield (path, command) of the whole tree."""
    from relsdk.cli import _relsdk

    def walk(command, path):
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                yield from walk(command.get_command(context, name), f"{path} {name}".strip())
        else:
            yield path, command

    return list(walk(_relsdk, ""))


# Parameters that may be a pipe, as `<(...)` is: one that nobody writes to is waited for.
_PIPES = ("source", "pairs", "documents", "corpus", "queries", "config", "output", "ids_file", "output_run")
_PIPES += ("key_file",)


def bad_values(parameter):
    """Return what to try for a parameter, by its type."""
    values = _bad_values(parameter)
    return [value for value in values if value != "{fifo}" or parameter.name not in _PIPES]


def _bad_values(parameter):
    kind = parameter.type
    if getattr(parameter, "is_flag", False):
        return []
    if isinstance(kind, click.Choice):
        return ["", "x", str(kind.choices[0]).upper(), "\x1b[31m", os.fsdecode(b"\xff")]
    if isinstance(kind, click.types.IntParamType):
        return INTEGERS
    if isinstance(kind, click.types.FloatParamType):
        return FLOATS
    return PATHS if isinstance(kind, click.Path) else [*PATHS, *TEXTS]


def _option(parameter):
    return max(parameter.opts, key=len)


def _with(options, parameter, value):
    """Replace or add an option; a multiple one is added."""
    name = _option(parameter)
    kept = options if parameter.multiple else [word for word in options if word.partition("=")[0] != name]
    return [*kept, f"{name}={value}"] if name.startswith("--") else [*kept, name, value]


def lines_of(path, command):
    """Yield every line of a command in which one value is bad."""
    options, arguments = BASES.get(path, USUAL)
    words, position = path.split(), 0
    yield [*words, *options, "--", *arguments]
    for parameter in command.params:
        for value in bad_values(parameter):
            if isinstance(parameter, click.Option):
                yield [*words, *_with(options, parameter, value), "--", *arguments]
            elif position <= len(arguments):
                changed = [*arguments[:position], value, *arguments[position + 1 :]]
                yield [*words, *options, "--", *changed]
        position += not isinstance(parameter, click.Option)


def random_line(draw, tree):
    """Draw a line: a command as it should be, then some of its words changed, left out or added."""
    path, command = draw.choice(tree)
    options, arguments = (list(part) for part in BASES.get(path, USUAL))
    for _ in range(draw.choice([0, 1, 1, 2, 2, 3])):
        parameter = draw.choice(command.params)
        values = bad_values(parameter)
        if isinstance(parameter, click.Option):
            if values:
                options = _with(options, parameter, draw.choice(values))
            else:
                options.append(draw.choice([*parameter.opts, *parameter.secondary_opts]))
        elif arguments:
            arguments[draw.randrange(len(arguments))] = draw.choice(values)
    if draw.random() < 0.1:
        word = draw.choice([*TEXTS, *PATHS])
        draw.choice([options, arguments]).append("{file}" if word == "{fifo}" else word)  # it is waited for
    if draw.random() < 0.1 and arguments:
        arguments.pop()
    return [*path.split(), *options, *["--"] * (draw.random() < 0.8), *arguments]


class Workspace:
    """Files that commands read, made afresh where a command changed them."""

    def __init__(self, folder):
        self.folder = folder
        self.names = {}
        self._number = 0

    def refresh(self):
        for name in ("encoder-bundle-v1", "scorer-bundle-v1", "index-v1"):
            target = self.folder / name.partition("-")[0]
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(FIXTURES / name, target)
            self.names[name.partition("-")[0]] = target

    def files(self):
        """Write the small ones, and return the names of all."""
        from relsdk_sample import generate

        if "documents" not in self.names:
            world = generate(seed=3, n_documents=200, n_queries=40)
            self._texts = {
                "documents.jsonl": [
                    {"_id": d.id, "title": d.title, **d.metadata} for d in world.documents[:5]
                ],
                "pairs.jsonl": [
                    {"query": p.query, "title": p.document.title, "label": int(p.level)}
                    for p in world.pairs[:100]
                ],
                "queries.jsonl": [{"_id": q.id, "text": q.text} for q in world.queries[:3]],
            }
        for name, rows in self._texts.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (self.folder / name).write_text(text)
            self.names[name.partition(".")[0]] = self.folder / name
        (self.folder / "file").write_text("some text\n")
        (self.folder / "folder").mkdir(exist_ok=True)
        results = FIXTURES.parents[1] / "bench" / "results" / "latency.json"
        names = {"file": "file", "folder": "folder", "missing": "missing", "link": "dangling", "fifo": "fifo"}
        self.names |= {name: self.folder / file for name, file in names.items()} | {"results": results}
        with contextlib.suppress(FileExistsError):
            (self.folder / "dangling").symlink_to(self.folder / "nowhere")
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self.folder / "fifo")
        self._number += 1
        return self.names | {"new": self.folder / f"new-{self._number}.jsonl"}


def filled(words, names):
    """Put the workspace's files into a line."""
    for name, path in names.items():
        words = [word.replace(f"{{{name}}}", str(path)) for word in words]
    return words


def _run_line(words):
    from relsdk.cli import main

    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    sys.stdin = io.TextIOWrapper(io.BytesIO(b""), encoding="utf-8")
    saved = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    started, code, raised = time.perf_counter(), 0, ""
    try:
        main(words)
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:
        raised = repr(error)
    finally:
        sys.stdout, sys.stderr = saved
    took = time.perf_counter() - started
    texts = [stream.buffer.getvalue().decode("utf-8", "backslashreplace") for stream in (out, err)]
    return {"code": code, "raised": raised, "seconds": took, "out": texts[0], "err": texts[1]}


def serve(folder):
    """Run the lines of stdin, one after the other."""
    import relsdk_export.backbones.pull as backbones
    from relsdk.errors import RelsdkError

    def pull(*_, **__):
        raise RelsdkError("no models are pulled in this test")

    backbones.pull = pull  # the network's edge, and minutes of work
    answers, lines = os.fdopen(os.dup(1), "w"), sys.stdin.read().splitlines()
    os.dup2(2, 1)
    heavy = any(" ".join(json.loads(line)[:2]).startswith(SLOW) for line in lines)
    if heavy and find_spec("torch") is not None:  # without it, these say what to install
        for name in ("relsdk_export.encoder", "relsdk_export.scorer", "relsdk_training.ssra.recipe"):
            importlib.import_module(name)  # torch: seconds that are no line's own, a minute on a busy machine
    workspace = Workspace(folder)
    os.chdir(folder)
    for number, line in enumerate(lines):
        if number % 200 == 0:
            workspace.refresh()
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)
        result = _run_line(filled(json.loads(line), workspace.files()))
        faulthandler.cancel_dump_traceback_later()
        for leftover in folder.glob("new-*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        answers.write(json.dumps(result) + "\n")
        answers.flush()


def run_lines(lines, folder):
    """Return (line, result) of each; of one that killed the process, the result is a text."""
    found, rest = [], list(lines)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "RELSDK_TRACEBACK": ""}
    while rest:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        done = subprocess.run(
            ["prlimit", f"--as={24 << 30}", sys.executable, "-m", "tests.command_lines", str(folder)],
            input="".join(json.dumps(line) + "\n" for line in rest),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=environment,
        )
        results = [json.loads(line) for line in done.stdout.splitlines()]
        found += zip(rest, results, strict=False)
        rest = rest[len(results) :]
        if rest:
            killed = f"the process ended with {done.returncode}: {done.stderr[-2000:]}"
            found.append((rest.pop(0), killed))
            if not results and "Timeout (" not in killed and done.returncode == 1:
                raise AssertionError(killed)
    return found


def faults(line, result):
    """Return what is wrong with how a line ended; "" where nothing is."""
    if isinstance(result, str):
        return result
    allowed = (0, 2)
    said = [text for text in result["err"].splitlines() if text.startswith("relsdk: error: ")]
    if result["raised"] or result["code"] not in allowed:
        return f"exit code {result['code']} {result['raised']} {result['err'][-600:]}"
    if len(said) != (result["code"] == 2):
        return f"{len(said)} error lines with exit code {result['code']}: {result['err'][-600:]}"
    if "Traceback" in result["out"] + result["err"]:
        return "a traceback"
    if "Usage:" in result["err"]:
        return "more than one line"
    if any(mark in result["out"] + result["err"] for mark in "\x1b\x9b\x07\u202e\u2066\0"):
        return "control characters reach the terminal"
    if said and len(said[0]) > 2100:
        return f"a message of {len(said[0])} characters"
    return ""


def sample(seed, count, lines):
    """Draw some of many lines."""
    return random.Random(seed).sample(lines, min(count, len(lines)))


if __name__ == "__main__":
    serve(Path(sys.argv[1]).resolve())
