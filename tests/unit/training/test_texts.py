"""Texts: read from folders, archives and tables; tokens and codes in the served graph."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from lepton_training.recipes import RECIPES
from lepton_training.recipes.data import TextShape
from lepton_training.spec import JobSpecInvalid
from lepton_training.worker.data.idx import DatasetInvalid
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.preprocessing import Preprocessor
from lepton_training.worker.trainer import predict
from tests.training_jobs import PLAN, exported, spec_of, trained

NETWORKS = {
    "text_bag": {"dimensions": 8, "buckets": 500},
    "text_rnn": {"dimensions": 8, "hidden": 8},
    "text_transformer": {"dimensions": 8, "heads": 2, "layers": 1},
}


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Labels and texts; those of ``pos`` say that something is good."""
    random = np.random.default_rng(seed)
    words = ["the", "film", "was", "long", "and", "short", "a", "story"]
    found = []
    for _ in range(count):
        text = list(random.choice(words, random.integers(2, 9)))
        label, word = ("pos", "Good") if random.random() < 0.5 else ("neg", "BAD")
        text.insert(int(random.integers(0, len(text))), word)
        found.append((label, " ".join(text) + "!"))
    return found


def in_csv(directory: Path, pairs: list[tuple[str, str]], name: str = "t.csv") -> None:
    lines = ["label,text", *(f'{label},"{text}"' for label, text in pairs)]
    (directory / name).write_text("\n".join(lines))


@pytest.mark.parametrize("recipe", NETWORKS)
def test_texts_are_learnt_and_served_raw(recipe: str, tmp_path: Path) -> None:
    """Raw text to classes, in batches of any size; the served model agrees with the trained."""
    in_csv(tmp_path, sentences(200, 0))
    spec = spec_of(
        {"test_share": 0.25},
        recipe,
        epochs=12,
        batch_size=16,
        learning_rate=0.02,
        dropout=0.1,
        **NETWORKS[recipe],
    )
    problem = load_problem(tmp_path, spec)
    assert problem.class_names == ("neg", "pos")
    network = trained(problem, spec)
    found = predict(network, problem.test, problem.objective, PLAN)
    assert (found.argmax(1) == problem.test.targets.numpy()).mean() > 0.9

    report = exported(tmp_path / "export", problem, spec, network)
    assert report["agrees"], report
    session = onnxruntime.InferenceSession(tmp_path / "export" / "model.onnx")
    texts = np.array([["a GOOD story"], ["bad"], [""], ["never " * 50]], object)
    (together,) = session.run(None, {"text": texts})
    assert together[:2].argmax(1).tolist() == [1, 0]
    alone = np.concatenate([session.run(None, {"text": texts[i : i + 1]})[0] for i in range(4)])
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("text_bag", {"ngrams": 1}),
        ("text_bag", {"ngrams": 3}),
        ("text_rnn", {"cell": "lstm", "layers": 2}),
        ("text_rnn", {"bidirectional": False}),
        ("text_transformer", {"layers": 3}),
    ],
)
def test_what_follows_a_text_in_its_batch_changes_nothing(
    recipe: str, more: dict[str, Any]
) -> None:
    """Padding is no part of a text; a text without a token is answered too."""
    torch.manual_seed(0)
    declared = RECIPES[recipe]
    hyperparameters = declared.hyperparameters(**(NETWORKS[recipe] | more))
    network = declared.build(hyperparameters, TextShape(30, 2)).eval()
    codes = torch.randint(2, 30, (3, 12))
    codes[0, 5:], codes[2, :] = 0, 0
    with torch.inference_mode():
        together = network(codes)
        assert together[0] == pytest.approx(network(codes[:1, :6])[0], abs=1e-5)
        assert together.isfinite().all()


@pytest.mark.parametrize("ngrams", [1, 2, 3])
def test_what_training_never_saw_counts_nothing(ngrams: int) -> None:
    """In a bag: embeddings begin at zero, so that n-grams without examples add no noise."""
    torch.manual_seed(0)
    declared = RECIPES["text_bag"]
    network = declared.build(declared.hyperparameters(ngrams=ngrams), TextShape(30, 2)).eval()
    codes = torch.randint(2, 30, (3, 12))
    with torch.inference_mode():
        assert torch.equal(network(codes), network(torch.zeros_like(codes)))


def test_pairs_with_an_unknown_token_are_left_out() -> None:
    """Of a bag: they say nothing of the token, and would take a bucket from those that do."""
    torch.manual_seed(0)
    declared = RECIPES["text_bag"]
    network = declared.build(declared.hyperparameters(ngrams=3), TextShape(30, 2)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    with torch.inference_mode():
        # Tokens 5 and 6 alone, in either order: unknown ones stand at both sides and between.
        found = network(torch.tensor([[5, 1, 6, 1], [1, 6, 1, 5], [5, 6, 0, 0]]))
        assert found[0] == pytest.approx(found[1], abs=1e-6)
        assert not torch.allclose(found[0], found[2])


def codes_of(tmp_path: Path, texts: list[str], **settings: Any) -> list[list[int]]:
    problem = load_problem(tmp_path, spec_of(settings, "text_bag"))
    assert problem.preprocessing is not None
    (codes,) = Preprocessor(problem.preprocessing)({"text": np.array(texts, object).reshape(-1, 1)})
    return [row[row != 0].tolist() for row in codes]


def test_tokens_are_words_numbers_and_signs(tmp_path: Path) -> None:
    """Small and capital letters are alike, in ASCII; what training did not see is unknown."""
    pairs = [("a", "It's 1 été, no?"), ("b", "it's 1 été, no?")] * 2
    in_csv(tmp_path, pairs, "train.csv")
    in_csv(tmp_path, [("a", "other")], "test.csv")
    settings = {"train": "train.csv", "test": "test.csv"}
    whole, parts, new = codes_of(tmp_path, ["IT'S 1 été, no?", "no ? 1", "new words"], **settings)
    assert len(whole) == len(set(whole)) == 6 and min(whole) >= 2
    assert parts == [whole[4], whole[5], whole[1]]
    assert new == [1, 1]


@pytest.mark.parametrize(
    ("keep", "expected"), [("first", [[2, 3], [2], []]), ("last", [[4, 5], [2], []])]
)
def test_long_texts_are_shortened(keep: str, expected: list[list[int]], tmp_path: Path) -> None:
    """To their first or last tokens, each text by itself."""
    in_csv(tmp_path, [("a", "t1"), ("b", "t1 t2"), ("b", "t1 t2 t3"), ("a", "t1 t2 t3 t4")] * 2)
    settings = {"max_length": 2, "keep": keep, "min_count": 1, "train": "t.csv", "test_share": 0.1}
    found = codes_of(tmp_path, ["t1 t2 t3 t4", "t1", ""], **settings)
    assert [len(row) for row in found] == [len(row) for row in expected]
    everything = codes_of(tmp_path, ["t1 t2 t3 t4"], min_count=1, test_share=0.1)[0]
    assert found[0] == (everything[:2] if keep == "first" else everything[2:])


def folders(kind: str, directory: Path) -> None:
    """The same texts in folders, in a tar archive, in a zip archive."""
    files = {f"{label}/{number}.txt": text for number, (label, text) in enumerate(sentences(40, 1))}
    files["README.txt"] = "no class"
    for name, text in files.items():
        if kind == "folders":
            path = directory / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if kind == "tar":
        with tarfile.open(directory / "texts.tar.gz", "w:gz") as tar:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                tar.addfile(member, io.BytesIO(text.encode()))
    if kind == "zip":
        with zipfile.ZipFile(directory / "texts.zip", "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_are_read_like_folders(kind: str, tmp_path: Path) -> None:
    """The class is the folder's name; files that lie in none are no texts."""
    found = []
    for one in ("folders", kind):
        directory = tmp_path / one
        directory.mkdir()
        folders(one, directory)
        problem = load_problem(directory, spec_of({"test_share": 0.25}, "text_bag"))
        found.append((len(problem.train), len(problem.test)))
    assert found == [(31, 10) if one == "folders" else (30, 10) for one in ("folders", kind)]


@pytest.mark.parametrize(
    ("files", "data", "message"),
    [
        ({"t.csv": "text,class\na,b\n"}, {}, "no column 'label'"),
        ({"t.csv": "label,text\na,b\n"}, {}, "has 1 text of 1 class;"),
        ({"t.tar.gz": "no archive"}, {}, "not an intact archive"),
        ({"t.zip": "no archive"}, {}, "not an intact archive"),
        ({"t.csv": "label,text\na,b\nb,c\n"}, {"test": "u.csv"}, "like data.test (u.csv)"),
    ],
)
def test_what_is_wrong_with_texts_is_said(
    files: dict[str, str], data: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """With the file or the setting."""
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(DatasetInvalid) as caught:
        load_problem(tmp_path, spec_of(data, "text_bag"))
    assert message in caught.value.message


def test_splits_may_be_archives(tmp_path: Path) -> None:
    """A text has the archive's name in its path, as an image has."""
    for name, count in (("train.zip", 20), ("test.zip", 6)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for number in range(count):
                label = ("good", "bad")[number % 2]
                archive.writestr(f"{label}/{number}.txt", f"a {label} text")
    data = {"train": "train.zip/*", "test": "test.zip/*"}
    problem = load_problem(tmp_path, spec_of(data, "text_bag"))
    assert (len(problem.train), len(problem.test)) == (20, 6)


def test_an_archive_that_is_damaged_inside_is_told(tmp_path: Path) -> None:
    """Its list of files may be whole all the same."""
    with zipfile.ZipFile(tmp_path / "t.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.txt", "a text " * 100)
    content = bytearray((tmp_path / "t.zip").read_bytes())
    content[30 + len("a/1.txt")] = 0xFF  # the first byte after the file's header: no such block
    (tmp_path / "t.zip").write_bytes(content)
    with pytest.raises(DatasetInvalid, match=r"t\.zip is not an intact archive"):
        load_problem(tmp_path, spec_of({}, "text_bag"))


@pytest.mark.parametrize(
    ("recipe", "data", "hyperparameters", "path"),
    [
        ("text_bag", {"keep": "last"}, {}, "spec.data.keep"),
        ("text_bag", {}, {"ngrams": 1, "buckets": 5}, "spec.hyperparameters.buckets"),
        ("text_transformer", {}, {"dimensions": 10}, "spec.hyperparameters.dimensions"),
        ("text_rnn", {"target": ""}, {}, "spec.data.target"),
    ],
)
def test_settings_that_do_not_go_together_are_faults(
    recipe: str, data: dict[str, Any], hyperparameters: dict[str, Any], path: str
) -> None:
    """Before any file is read."""
    with pytest.raises(JobSpecInvalid) as caught:
        spec_of(data, recipe, **hyperparameters)
    assert [fault.path for fault in caught.value.faults] == [path]
