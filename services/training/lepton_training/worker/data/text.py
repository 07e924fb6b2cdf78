"""Texts with a class each: tokens and codes by a graph that is fitted on training texts only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor

from lepton_mesh.texts import counted
from lepton_training.recipes.data import TextSettings, TextShape
from lepton_training.spec import JobSpec
from lepton_training.worker.data.archives import ARCHIVES, unpacked
from lepton_training.worker.data.cleaning import UNKNOWN as UNKNOWN_CLASS
from lepton_training.worker.data.cleaning import LeftOut, settle
from lepton_training.worker.data.examples import held_out
from lepton_training.worker.data.files import divide, read_tables, split_of
from lepton_training.worker.data.fitted import Fitted
from lepton_training.worker.data.identity import digest_of_texts
from lepton_training.worker.data.idx import DatasetInvalid
from lepton_training.worker.data.problem import PARITY_ROWS, Problem
from lepton_training.worker.objectives import Classification, class_weights
from lepton_training.worker.platform import TensorSpec
from lepton_training.worker.preprocessing import Graph, Preprocessor

INPUT, CODES = "text", "codes"
PADDING, UNKNOWN = 0, 1
"""Codes that are no token's."""
_TOKEN = r"[\p{L}\p{N}]+(?:'[\p{L}]+)?|[^\p{L}\p{N}\s\p{Z}]"  # noqa: S105 - a pattern
"""RE2: a word or number, with what follows an apostrophe, or one other sign."""
_TABLES = (".csv", ".tsv", ".parquet")
_LARGEST = 16 << 20
"""Bytes of one text; an archive may be a thousand times smaller than what is in it."""
_ROWS_AT_ONCE = 256


class _Text(NamedTuple):
    path: str
    text: str
    label: str
    place: str
    """For people who look for it: the path, and the line in a table."""


@dataclass
class _Split:
    texts: npt.NDArray[np.object_]
    """``[N, 1]``."""
    labels: npt.NDArray[np.int64]


class TextExamples:
    """``Examples`` of texts as codes; a batch is as long as its longest text."""

    def __init__(self, codes: Sequence[Tensor], targets: Tensor) -> None:
        self._codes = codes
        self.targets = targets

    def __len__(self) -> int:
        return len(self._codes)

    def inputs(self, rows: Tensor | slice) -> tuple[Tensor, ...]:
        chosen = (
            self._codes[rows]
            if isinstance(rows, slice)
            else [self._codes[row] for row in rows.tolist()]
        )
        padded = torch.nn.utils.rnn.pad_sequence(
            list(chosen), batch_first=True, padding_value=PADDING
        )
        return (padded.long(),)

    def augmentations(self, steps: int, generator: torch.Generator) -> Sequence[Any]:
        return [None] * steps

    def augmented(self, rows: Tensor, augmentation: Any) -> tuple[Tensor, ...]:
        return self.inputs(rows)

    def augmented_targets(self, rows: Tensor, augmentation: Any) -> Tensor:
        return self.targets[rows]


def load(directory: Path, spec: JobSpec, fitted: Fitted | None = None) -> Problem:
    """The texts in ``directory``, to be classified.

    Raises:
        DatasetInvalid: A file is damaged, or there are no texts of two classes.
        TooManyInvalid: More texts cannot be used than the spec allows.
        JobSpecInvalid: There is not a weight for each class.
        WarmStartMismatch: There is what ``fitted`` does not know.
    """
    settings, hyperparameters = cast(TextSettings, spec.data), cast(Any, spec.hyperparameters)
    left_out = {"train": LeftOut(), "test": LeftOut()}
    texts = ((text.path, text) for text in _read(directory, settings, left_out))
    train_texts, test_texts = divide(texts, settings, seed=spec.seed, noun="text")
    classes = sorted({text.label for text in train_texts})
    if fitted is not None and fitted.class_names:
        fitted.require_known(classes)
        classes = list(fitted.class_names)
    known = set(classes)
    for text in test_texts:
        if text.label not in known:
            left_out["test"].add(UNKNOWN_CLASS, text.place)
    usable = [text for text in test_texts if text.label in known]
    cleaning = settle(
        {
            "train": (len(train_texts), left_out["train"]),
            "test": (len(usable), left_out["test"]),
        },
        max_invalid_fraction=settings.max_invalid_fraction,
    )
    if len(classes) < 2:
        raise DatasetInvalid(
            f"the training split has {counted(len(train_texts), 'text')} of "
            f"{counted(len(classes), 'class', 'classes')}; training needs two. Texts lie in a "
            "folder for each class, or in columns of CSV files named in data.text and data.target"
        )
    whole = _split(train_texts, classes)
    test = _split(usable, classes)
    if not len(test.labels):
        raise DatasetInvalid("the test split has no text of a class of the training split")
    kept, out = (
        rows.numpy() for rows in held_out(len(whole.labels), hyperparameters.validation, spec.seed)
    )
    train = _Split(whole.texts[kept], whole.labels[kept])

    if fitted is not None and fitted.preprocessing is not None:
        preprocessing, vocabulary = fitted.preprocessing, int(fitted.shape["vocabulary"])
        tokens = _tokens_of(preprocessing)
    else:
        tokens = _count_tokens(train.texts, settings)
        preprocessing, vocabulary = _graph(settings, tokens), len(tokens) + UNKNOWN + 1
    known_tokens = vocabulary - UNKNOWN - 1
    preprocessor = Preprocessor(preprocessing)

    def examples(texts: npt.NDArray[np.object_], labels: npt.NDArray[np.int64]) -> TextExamples:
        return TextExamples(list(_codes(preprocessor, texts)), torch.from_numpy(labels))

    return Problem(
        about=f"{len(kept)} training"
        + (f", {len(out)} validation" if len(out) else "")
        + f" and {len(test.labels)} test texts, {known_tokens} known tokens, "
        f"{len(classes)} classes",
        shape=TextShape(vocabulary=vocabulary, outputs=len(classes)),
        train=examples(train.texts, train.labels),
        validation=examples(whole.texts[out], whole.labels[out]) if len(out) else None,
        test=examples(test.texts, test.labels),
        objective=Classification(
            hyperparameters, class_weights(hyperparameters, train.labels, len(classes))
        ),
        inputs=(TensorSpec(INPUT, "BYTES", (-1, 1), "text as it was written, UTF-8"),),
        outputs=(
            TensorSpec("probabilities", "FP32", (-1, len(classes)), "probability of each class"),
        ),
        class_names=tuple(classes),
        raw_rows={INPUT: test.texts[:PARITY_ROWS]},
        test_digest=digest_of_texts(
            {"text": test.texts[:, 0], "class": [classes[label] for label in test.labels]}
        ),
        tokens=tuple(tokens),
        preprocessing=preprocessing,
        report={"cleaning": cleaning, "known_tokens": known_tokens},
    )


def _split(texts: Sequence[_Text], classes: list[str]) -> _Split:
    codes = {name: code for code, name in enumerate(classes)}
    return _Split(
        np.array([text.text for text in texts], object).reshape(-1, 1),
        np.array([codes[text.label] for text in texts], np.int64),
    )


def _read(directory: Path, settings: TextSettings, left_out: dict[str, LeftOut]) -> Iterator[_Text]:
    """All texts, in order of path; empty ones are left out of their split."""
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = file.relative_to(directory).as_posix()
        if name.endswith(_TABLES):
            table = read_tables([file], settings)
            if split := split_of(name, settings):
                left_out[split].include(table.left_out)
            for column in (settings.text, settings.target):
                if column not in table.columns:
                    raise DatasetInvalid(
                        f"{name} has no column '{column}'; it has {table.told}",
                        file=name,
                    )
            columns = (table.columns[settings.text], table.columns[settings.target])
            found: Iterator[_Text] = (
                _Text(name, text, label.strip(), table.places.name(row))
                for row, (text, label) in enumerate(zip(*columns, strict=True))
            )
        else:
            found = _in_folders(file, name)
        for text in found:
            if text.text.strip() and text.label:
                yield text
            elif split := split_of(text.path, settings):
                left_out[split].add("empty text or label", text.place)


def _in_folders(file: Path, name: str) -> Iterator[_Text]:
    """Texts whose class is the name of the folder that they lie in."""
    members: Iterator[tuple[str, bytes]]
    if name.endswith(ARCHIVES):
        within = f"{name}/"
        members = unpacked(file, name, (".txt",), largest=_LARGEST)
    else:
        within = ""
        members = iter([(name, file.read_bytes() if name.endswith(".txt") else b"")])
    for inner, content in members:
        folder = PurePosixPath(inner).parent.name
        if inner.endswith(".txt") and folder:
            path = within + inner
            yield _Text(path, _decoded(content), folder, path)


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _count_tokens(texts: npt.NDArray[np.object_], settings: TextSettings) -> list[str]:
    """The known tokens, commonest first: by the number of texts that have them."""
    graph = Graph()
    graph.output(_tokens(graph, settings), "tokens", "BYTES", ["batch", "length"])
    tokenizer = Preprocessor(graph.build())
    counts: Counter[str] = Counter()
    for begin in range(0, len(texts), _ROWS_AT_ONCE):
        (rows,) = tokenizer({INPUT: texts[begin : begin + _ROWS_AT_ONCE]})
        for row in rows:
            counts.update(set(row))
    del counts[""]
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [token for token, count in common if count >= settings.min_count][: settings.max_tokens]


def _tokens(graph: Graph, settings: TextSettings) -> str:
    """Tokens ``[batch, length]``, filled up with empty ones."""
    raw = graph.input(INPUT, "BYTES", ["batch", 1])
    flat = graph.add("Reshape", raw, graph.constant([-1], np.int64))
    if settings.lower:
        # The locale C is there everywhere, and changes nothing but ASCII.
        flat = graph.add(
            "StringNormalizer", flat, case_change_action="LOWER", is_case_sensitive=1, locale="C"
        )
    tokens = graph.add(
        "Tokenizer",
        flat,
        domain="com.microsoft",
        mark=0,
        mincharnum=1,
        pad_value="",
        tokenexp=_TOKEN,
    )
    # Without this, onnx 1.23 crashes when it infers the shape of the codes.
    return graph.told(tokens, "BYTES", ["batch", "tokens"])


def _graph(settings: TextSettings, tokens: Sequence[str]) -> bytes:
    """From texts to codes ``[batch, length]``, which end with at least two of padding."""
    graph = Graph()
    codes = graph.add(
        "LabelEncoder",
        _tokens(graph, settings),
        domain="ai.onnx.ml",
        keys_strings=["", *tokens],
        values_int64s=[PADDING, *range(UNKNOWN + 1, UNKNOWN + 1 + len(tokens))],
        default_int64=UNKNOWN,
    )
    if settings.max_length:
        codes = _shortened(graph, codes, settings)
    padding = graph.constant([0, 0, 0, 2], np.int64)
    codes = graph.add("Pad", codes, padding, graph.constant(PADDING, np.int64))
    graph.output(codes, CODES, "INT64", ["batch", "length"])
    return graph.build()


def _shortened(graph: Graph, codes: str, settings: TextSettings) -> str:
    """The first or last ``max_length`` codes of each text."""
    zero, limit = graph.constant([0], np.int64), graph.constant([settings.max_length], np.int64)
    one = graph.constant([1], np.int64)
    if settings.keep == "first":
        return graph.add("Slice", codes, zero, limit, one)
    length = graph.add("Min", graph.add("Shape", codes, start=1), limit)
    there = graph.add("Cast", graph.add("Greater", codes, graph.constant(PADDING, np.int64)), to=7)
    count = graph.add("ReduceSum", there, one, keepdims=1)
    first = graph.add("Max", graph.add("Sub", count, length), graph.constant(0, np.int64))
    scalar = graph.add("Squeeze", length)
    steps = graph.add("Range", graph.constant(0, np.int64), scalar, graph.constant(1, np.int64))
    return graph.add("GatherElements", codes, graph.add("Add", first, steps), axis=1)


def _tokens_of(preprocessing: bytes) -> list[str]:
    """The tokens that a graph of :func:`_graph` knows, in the order of their codes."""
    for node in onnx.load_from_string(preprocessing).graph.node:
        for attribute in node.attribute:
            if attribute.name == "keys_strings":
                return [key.decode() for key in attribute.strings][1:]
    raise ValueError("the graph has no codes")


def _codes(preprocessor: Preprocessor, texts: npt.NDArray[np.object_]) -> Iterator[Tensor]:
    """The codes of each text, INT32, without its padding but for two."""
    for begin in range(0, len(texts), _ROWS_AT_ONCE):
        (rows,) = preprocessor({INPUT: texts[begin : begin + _ROWS_AT_ONCE]})
        for row in rows:
            length = int((row != PADDING).sum())
            yield torch.from_numpy(row[: length + 2].astype(np.int32))
