"""What a model's grades are worth: confusion, corrected targets, what leaks."""

import math
import shutil

import numpy as np
import pytest

from relsdk.errors import InputError
from relsdk.formats import write_pairs
from relsdk.records import Document, LabelledPair
from relsdk_sample import generate
from relsdk_sample.annotator import annotate
from relsdk_training.config.settings import DataConfig
from relsdk_training.data.lessons import load_splits
from relsdk_training.data.opinions import compare_opinions, confusion_matrix
from relsdk_training.data.text import document_text

# Rows are human levels, columns opinions: half of the 0 are called 1; 60 % are right.
HABITS = np.array(
    [[0.5, 0.5, 0.0, 0.0], [0.1, 0.6, 0.2, 0.1], [0.0, 0.2, 0.6, 0.2], [0.0, 0.1, 0.2, 0.7]],
)


def pair(query, title, level):
    return LabelledPair(query, Document(title, title), level)


def write(folder, **splits):
    for name, pairs in splits.items():
        write_pairs(folder / f"{name}.jsonl", pairs)
    return {name: str(folder / f"{name}.jsonl") for name in splits}


def test_a_confusion_by_hand():
    # Opinion 1 twice, people say 0 and 1; opinion 3 twice, people say 3. Prior: 1/4, 1/4, 0, 1/2; strength 4.
    found = confusion_matrix([1, 1, 3, 3], [0, 1, 3, 3])
    prior = [0.25, 0.25, 0, 0.5]
    wanted = [prior, [2 / 6, 2 / 6, 0, 2 / 6], prior, [1 / 6, 1 / 6, 0, 4 / 6]]
    np.testing.assert_allclose(found, wanted)


def test_the_confusion_comes_near_the_true_one_as_pairs_grow():
    rng = np.random.default_rng(0)
    prior = np.array([0.4, 0.1, 0.2, 0.3])
    joint = prior[:, None] * HABITS
    true = (joint / joint.sum(axis=0)).T  # P(human | opinion)
    errors = []
    for count in (100, 1_000, 10_000, 100_000):
        labels = rng.choice(4, size=count, p=prior)
        draws = (rng.random(count)[:, None] > HABITS[labels].cumsum(axis=1)).sum(axis=1)
        errors.append(np.abs(confusion_matrix(draws, labels) - true).max())
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.25
    assert errors[-1] < 0.01


def spread(right):
    """Return the habits of an annotator that is right in a share of each level, and else a level beside."""
    habits = np.diag([right] * 4)
    for level in range(4):
        beside = [other for other in (level - 1, level + 1) if 0 <= other < 4]
        habits[level, beside] = (1 - right) / len(beside)
    return habits


@pytest.mark.parametrize(
    ("right", "count", "helps"), [(0.6, 40, True), (0.8, 40, True), (0.7, 20, True), (0.8, 20, False)]
)
def test_so_many_pairs_are_needed_because_fewer_make_good_opinions_worse(right, count, helps):
    """Squared distance to P(human level | opinion) of corrected rows, and of opinions as they are."""
    rng, habits = np.random.default_rng(0), spread(right)
    chances = habits.sum(axis=0) / 4  # of opinions, levels being as frequent as each other
    true = (habits / 4 / chances).T
    believed = chances @ np.square(np.eye(4) - true).sum(axis=1)
    corrected = []
    for _ in range(300):
        labels = rng.integers(4, size=count)
        opinions = (rng.random(count)[:, None] > habits[labels].cumsum(axis=1)).sum(axis=1).clip(max=3)
        corrected.append(chances @ np.square(confusion_matrix(opinions, labels) - true).sum(axis=1))
    assert (np.mean(corrected) < believed) == helps


def test_pairs_are_the_same_up_to_case_width_and_spaces_of_the_query():
    same = [pair("ＡＢＣ  红烧肉", "x", 1), pair("abc 红烧肉", "x ", 1)]
    weak = [*same, pair("abc 红烧肉", "X", 2), pair("b", "x", 3), pair("B", "x", 3), pair("b", "x", 2)]
    found = compare_opinions(weak, [pair("abc 红烧肉", "x", 0), pair("abc 红烧肉", "x", 2)])
    # An opinion that is repeated counts once, two different ones both; of two human labels the first does.
    others = [(p.query, p.document.title, p.level) for p in found.pairs]
    assert others == [("abc 红烧肉", "X", 2), ("b", "x", 3), ("b", "x", 2)]
    assert (found.opinions.tolist(), found.labels.tolist()) == ([1], [0])


@pytest.fixture(scope="module")
def world():
    return generate(seed=5, n_documents=600, n_queries=150)


@pytest.fixture(scope="module")
def files(world, tmp_path_factory):
    """Labelled pairs, what an annotator says of others and of dev, and written queries."""
    train, dev = world.split("train"), world.split("test")
    few, rest = train[:200], train[200:800]
    return write(
        tmp_path_factory.mktemp("opinions"),
        train=few,
        dev=dev[:400],
        weak=annotate(rest, confusion=HABITS),
        weak_dev=annotate(dev[:400], confusion=HABITS),
        written=train[800:850],
    )


def test_a_lesson_of_labels_corrected_opinions_and_written_queries(world, files):
    notes = []
    config = DataConfig(
        train=files["train"],
        dev=files["dev"],
        weak=(files["weak"], files["weak_dev"]),
        written=(files["written"],),
        weak_weight=0.5,
        written_weight=2.0,
    )
    splits = load_splits(config, 0, notes.append)
    lesson, train = splits.train, world.split("train")
    assert lesson.pairs.texts() == [(p.query, document_text(p.document)) for p in train[:850]]
    assert lesson.weights.tolist() == [1.0] * 200 + [0.5] * 600 + [2.0] * 50
    assert lesson.human.tolist() == [True] * 200 + [False] * 650
    certain = np.eye(4)[[int(p.level) for p in train[:850]]]
    np.testing.assert_array_equal(lesson.targets[:200], certain[:200])
    np.testing.assert_array_equal(lesson.targets[800:], certain[800:])
    dev = world.split("test")[:400]
    opinions, of_dev = (
        [int(p.level) for p in annotate(pairs, confusion=HABITS)] for pairs in (train[200:800], dev)
    )
    confusion = confusion_matrix(of_dev, [int(p.level) for p in dev])
    np.testing.assert_allclose(lesson.targets[200:800], confusion[opinions], rtol=1e-6)
    np.testing.assert_array_equal(lesson.pairs.labels[200:800], confusion[opinions].argmax(axis=1))
    np.testing.assert_allclose(lesson.targets.sum(axis=1), 1, rtol=1e-6)
    # Nearer to the truth than the opinions are.
    truth, believed = certain[200:800], np.eye(4)[opinions]
    assert np.square(lesson.targets[200:800] - truth).sum() < 0.8 * np.square(believed - truth).sum()
    note = next(note for note in notes if note.startswith("weak"))
    assert note.startswith("weak:  600 opinions, corrected by 400 pairs that people graded too: agreement ")
    assert ", ".join(f"{share:.2f}" for share in confusion.diagonal()) in note


def test_of_too_few_pairs_opinions_are_taken_as_they_are(world, files, tmp_path):
    notes, dev = [], world.split("test")
    more = write(tmp_path, weak_dev=dev[:39])
    config = DataConfig(train=files["train"], dev=files["dev"], weak=(files["weak"], more["weak_dev"]))
    lesson = load_splits(config, 0, notes.append).train
    assert len(lesson) == 800
    assert set(lesson.targets.ravel().tolist()) == {0.0, 1.0}
    assert any("taken as they are: 39 pairs" in note and "40 are needed" in note for note in notes)


def test_labels_that_are_not_used_correct_nothing(world, files, tmp_path):
    """With a limit of 100 labels, opinions of the other labelled pairs stay opinions."""
    own, notes = write(tmp_path, weak=world.split("train")[:200])["weak"], []
    config = DataConfig(train=files["train"], dev=files["dev"], weak=(own,), limit=100)
    lesson = load_splits(config, 0, notes.append).train
    assert (len(lesson), int(lesson.human.sum())) == (200, 100)
    assert any("corrected by 100 pairs" in note for note in notes)


@pytest.mark.parametrize("name", ["weak", "written"])
@pytest.mark.parametrize("held_out", ["dev", "test"])
def test_a_query_of_dev_or_test_leaks(world, files, tmp_path, name, held_out):
    test = write(tmp_path, test=world.split("test")[400:500])["test"]
    query = (world.split("test")[:400] if held_out == "dev" else world.split("test")[400:500])[0].query
    leak = write(tmp_path, leak=[pair(f" {query} ", "another document", 3)])["leak"]
    test = {"test": test} if held_out == "test" else {}
    dev = write(tmp_path, own_dev=[p for p in world.split("test")[:400] if p.query == query])["own_dev"]
    config = DataConfig(train=files["train"], dev=dev if held_out == "dev" else "", **test, **{name: (leak,)})
    with pytest.raises(InputError, match=f"1 queries are both in {name} and in {held_out}"):
        load_splits(config, 0, needs_dev=False)


def test_an_opinion_of_a_test_pair_is_a_leak(world, files, tmp_path):
    splits = write(tmp_path, test=world.split("test")[400:500])
    config = DataConfig(train=files["train"], test=splits["test"], weak=(splits["test"],))
    with pytest.raises(InputError, match="both in weak and in test"):
        load_splits(config, 0, needs_dev=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weak_weight": 0.5}, r"data\.weak_weight=0\.5 would do nothing; name files in data\.weak"),
        ({"written_weight": 2.0}, r"data\.written_weight=2\.0 would do nothing"),
        ({"human_last": 0.3}, r"data\.human_last=0\.3 would do nothing: all pairs are of data\.train"),
        ({"human_last": 0.3, "weak": ("w",), "train": ""}, r"data\.human_last=0\.3 needs pairs that people"),
        ({"train": ""}, r"data\.train names no file"),
        ({"dev": "", "weak": ("{weak}",)}, r"data\.dev names no file"),
    ],
)
def test_settings_that_do_nothing_are_refused(files, settings, message):
    settings = {
        name: tuple(files.get(v.strip("{}"), v) for v in value) if isinstance(value, tuple) else value
        for name, value in settings.items()
    }
    with pytest.raises(InputError, match=message):
        load_splits(DataConfig(**{"train": files["train"], "dev": files["dev"], **settings}), 0)


def test_opinions_of_dev_alone_teach_nothing(files):
    with pytest.raises(InputError, match="there is nothing to learn from"):
        load_splits(DataConfig(dev=files["dev"], weak=(files["weak_dev"],)), 0)


@pytest.mark.parametrize("name", ["train", "dev", "test"])
def test_grades_of_a_judge_are_no_labels(files, tmp_path, name):
    said = {"probabilities": [0.0, 0.0, 1.0, 0.0], "reason": ""}
    graded = LabelledPair("another query", Document("d", "a title", "", said), 2)
    path = write(tmp_path, grades=[graded])["grades"]
    config = {"train": files["train"], "dev": files["dev"], name: path}
    with pytest.raises(InputError, match=rf"data\.{name}: .*grades\.jsonl holds grades of relsdk judge"):
        load_splits(DataConfig(**config), 0)
    assert load_splits(DataConfig(train=files["train"], dev=files["dev"], weak=(path,)), 0)


def test_no_file_counts_twice(files, tmp_path):
    link = tmp_path / "link.jsonl"
    link.symlink_to(files["weak"])
    for more in ({"weak": (files["weak"], str(link))}, {"weak": (files["weak"],), "written": (str(link),)}):
        with pytest.raises(InputError, match=r"weak\.jsonl is named twice in data\.weak and data\.written"):
            load_splits(DataConfig(train=files["train"], dev=files["dev"], **more), 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"weak_weight": 0.0},
        {"weak_weight": math.nan},
        {"weak_weight": math.inf},
        {"written_weight": -1.0},
        {"written_weight": 1e20},  # CoSENT overflows
        {"human_last": 1.0},
        {"human_last": -0.1},
        {"human_last": math.nan},
    ],
)
def test_settings_out_of_range(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        DataConfig(**settings)


def test_what_data_is_depends_on_opinions_and_their_correction(world, files, tmp_path):
    """Opinions that become the same level with other certainty are other data."""
    base = {"train": files["train"], "dev": files["dev"]}
    labels_alone = load_splits(DataConfig(**base), 0).content()
    assert len(labels_alone) == 2  # as before there were opinions: old folders are resumed
    corrected = load_splits(DataConfig(**base, weak=(files["weak"], files["weak_dev"])), 0).content()
    believed = load_splits(DataConfig(**base, weak=(files["weak"],)), 0).content()
    weighted = load_splits(DataConfig(**base, weak=(files["weak"],), weak_weight=0.5), 0).content()
    written = load_splits(DataConfig(**base, written=(files["weak"],)), 0).content()
    moved = shutil.copy(files["weak"], tmp_path / "moved.jsonl")
    assert load_splits(DataConfig(**base, weak=(str(moved),)), 0).content() == believed
    contents = [labels_alone, corrected, believed, weighted]
    assert all(one != other for at, one in enumerate(contents) for other in contents[at + 1 :])
    assert written == believed  # as they are, with the same weight, both are the same lesson
