"""Inputs taken apart: what is named, what differs, and what a model is asked without a part."""

from __future__ import annotations

import numpy as np
import pytest

from lepton.evaluation.parts import Elements, Patches, Words


def test_a_row_lacks_columns_by_having_the_baselines() -> None:
    """Numbers and categories; a column that is as the baseline's differs in nothing."""
    row = {
        "age": np.array([39.0], np.float32),
        "work": np.array(["Private"], object),
        "gain": np.array([np.nan], np.float32),
        "hours": np.array([40.0], np.float32),
    }
    baseline = {
        "age": np.array([37.0], np.float32),
        "work": np.array(["State"], object),
        "gain": np.array([np.nan], np.float32),
        "hours": np.array([40.0], np.float32),
    }
    parts = Elements(row, baseline)
    assert parts.names == ["age", "work", "gain", "hours"]
    assert parts.values == ["39", "Private", "nan", "40"]
    assert parts.differ.tolist() == [True, True, False, False]
    found = parts.inputs(np.array([[True, False, True, True], [False, True, False, False]]))
    assert found["age"].tolist() == [[39.0], [37.0]] and found["age"].dtype == np.float32
    assert found["work"].tolist() == [["State"], ["Private"]]


def test_each_step_of_a_window_is_a_part() -> None:
    """Named by its column and how long before the forecast it was."""
    window = np.arange(6, dtype=np.float32).reshape(3, 2)
    parts = Elements({"window": window}, {"window": np.zeros((3, 2), np.float32)}, ["cpu", "net"])
    assert parts.names[:3] == ["cpu, 3 before", "net, 3 before", "cpu, 2 before"]
    assert parts.differ.tolist() == [False, True, True, True, True, True]
    there = np.ones((1, 6), bool)
    there[0, 5] = False
    assert parts.inputs(there)["window"].tolist() == [[[0, 1], [2, 3], [4, 0]]]
    assert Elements({"x": np.zeros(3)}, {"x": np.ones(3)}).names == ["x[0]", "x[1]", "x[2]"]


def test_a_text_lacks_words_by_not_having_them() -> None:
    parts = Words("text", " not a\n good film. ")
    assert parts.names == ["word 1", "word 2", "word 3", "word 4"]
    assert parts.values == ["not", "a", "good", "film."]
    there = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
    assert parts.inputs(there)["text"].tolist() == [["not a\n good film."], ["a\n film."], [""]]


def test_a_long_text_has_runs_of_words() -> None:
    """A hundred, with all words, in order."""
    words = [f"w{number}" for number in range(250)]
    parts = Words("text", " ".join(words))
    assert len(parts.names) == 100
    assert parts.names[0] == "words 1-3" and parts.names[-1] == "words 249-250"
    assert " ".join(parts.values).split() == words
    assert not Words("text", " \n").names


@pytest.mark.parametrize("colors", [(), (3,)])
def test_an_image_lacks_patches_by_being_black_there(colors: tuple[int, ...]) -> None:
    """Of sides that eight does not divide; a patch that is black differs in nothing."""
    image = np.full((10, 20, *colors), 7, np.uint8)
    image[:1, :2] = 0
    parts = Patches("images", image)
    assert len(parts.names) == 64
    assert parts.names[0] == "rows 0-0, columns 0-1"
    assert parts.names[-1] == "rows 9-9, columns 18-19"
    assert parts.differ.tolist() == [False] + [True] * 63
    there = np.ones((2, 64), bool)
    there[1, -1] = False
    whole, without = parts.inputs(there)["images"]
    assert whole.dtype == np.uint8 and (whole == image).all()
    assert not without[9:, 18:].any() and (without[:9] == image[:9]).all()
    everything = parts.inputs(np.eye(64, dtype=bool))["images"].sum(axis=0)
    assert (everything == image).all()


def test_a_small_image_has_a_patch_for_each_pixel() -> None:
    assert len(Patches("images", np.ones((3, 5), np.uint8)).names) == 15
