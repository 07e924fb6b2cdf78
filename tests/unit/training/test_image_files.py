"""Images as files: in folders, archives and tables; decoded, brought to one size, served raw."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from lepton_training.spec import JobSpecInvalid
from lepton_training.worker.data.cleaning import TooManyInvalid
from lepton_training.worker.data.idx import DatasetInvalid
from lepton_training.worker.data.image_resizing import Resizer
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.trainer import predict
from tests.training_jobs import PLAN, exported, spec_of, trained

HALVES = {"left": 0, "right": 1}


def drawn(label: str, seed: int, size: tuple[int, int], rgb: bool) -> np.ndarray:
    """An image whose left or right half is bright."""
    height, width = size
    image = np.random.default_rng(seed).integers(0, 60, (height, width, 3)).astype(np.uint8)
    half = width // 2
    image[:, half * HALVES[label] : half * (HALVES[label] + 1)] += 180
    return image if rgb else image[:, :, 0]


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, kind)
    return content.getvalue()


def pictures(
    count: int, *, sizes: tuple[tuple[int, int], ...] = ((8, 8),), rgb: bool = False
) -> dict[str, bytes]:
    """Files by path, in a folder for each class; every fourth one is a JPEG."""
    found = {}
    for number in range(count):
        label = ("left", "right")[number % 2]
        image = drawn(label, number, sizes[number % len(sizes)], rgb)
        kind, ending = ("JPEG", "jpg") if number % 4 == 3 else ("PNG", "png")
        found[f"{label}/{number:03d}.{ending}"] = encoded(image, kind)
    return found


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


@pytest.mark.parametrize("rgb", [False, True], ids=["grey", "rgb"])
@pytest.mark.parametrize("resize", ["stretch", "fit", "fill"])
def test_files_of_any_size_are_learnt_and_served_raw(
    rgb: bool, resize: str, tmp_path: Path
) -> None:
    """An endpoint takes an image of another size; what it answers is what training would say."""
    sizes = ((12, 16), (16, 12), (20, 20))
    write(tmp_path / "data", pictures(90, sizes=sizes, rgb=rgb))
    data = {"height": 8, "width": 8, "resize": resize, "test_share": 0.3, "scaling": "standard"}
    spec = spec_of(data, "mlp", epochs=8, batch_size=8, learning_rate=5e-3, hidden=16)
    problem = load_problem(tmp_path / "data", spec)
    assert problem.class_names == ("left", "right")
    assert problem.inputs[0].shape == ((-1, -1, -1, 3) if rgb else (-1, -1, -1))
    network = trained(problem, spec)
    found = predict(network, problem.test, problem.objective, PLAN)
    assert (found.argmax(1) == problem.test.targets.numpy()).mean() > 0.9

    report = exported(tmp_path / "export", problem, spec, network)
    assert report["agrees"], report
    shapes = {tuple(batch["row_shapes"]["images"][:2]) for batch in report["batches"]}
    assert shapes == {(8, 8), *sizes}
    session = onnxruntime.InferenceSession(tmp_path / "export" / "model.onnx")
    new = np.stack([drawn(label, 500, (30, 24), rgb) for label in HALVES])
    (answer,) = session.run(None, {"images": new})
    assert answer.argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize("size", [(28, 28), (10, 37), (64, 9), (5, 5)])
@pytest.mark.parametrize("rgb", [False, True], ids=["grey", "rgb"])
def test_stretching_is_what_pillow_does(size: tuple[int, int], rgb: bool) -> None:
    """Bilinear and antialiased, to within a level: Pillow rounds between its two passes."""
    image = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    image = image if rgb else image[:, :, 0]
    found = Resizer("images", 14, 14, how="stretch", rgb=rgb)(image[None])[0]
    wanted = np.asarray(Image.fromarray(image).resize((14, 14), Image.Resampling.BILINEAR))
    assert np.abs(found.astype(int) - wanted).max() <= 1


def test_other_proportions_are_filled_up_or_cut_off() -> None:
    """In the middle: black beside a wide image, or its sides gone."""
    image = np.full((1, 8, 16), 100, np.uint8)
    image[:, :, :4], image[:, :, 12:] = 10, 10
    fit = Resizer("images", 8, 8, how="fit", rgb=False)(image)[0]
    assert fit[[0, 1, 6, 7]].max() == 0 and fit[2:6].min() > 0
    fill = Resizer("images", 8, 8, how="fill", rgb=False)(image)[0]
    assert (fill == 100).all()


def packed(kind: str, directory: Path, files: dict[str, bytes]) -> None:
    directory.mkdir()
    if kind == "folders":
        write(directory, files)
    elif kind == "tar":
        with tarfile.open(directory / "images.tar.gz", "w:gz") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    elif kind == "zip":
        with zipfile.ZipFile(directory / "images.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        write(directory / "pixels", {name.replace("/", "-"): c for name, c in files.items()})
        rows = [f"{name.replace('/', '-')}\t{name.split('/')[0]}" for name in sorted(files)]
        (directory / "pixels" / "labels.tsv").write_text("\n".join(["path\tlabel", *rows]))


@pytest.mark.parametrize("kind", ["tar", "zip", "table"])
def test_archives_and_tables_are_read_like_folders(kind: str, tmp_path: Path) -> None:
    """The same images with the same labels; a table's paths are relative to it."""
    files = {**pictures(24), "README.png": b"in no folder, and so of no class"}
    found = []
    for one in ("folders", kind):
        kept = files if one != "table" else pictures(24)
        packed(one, tmp_path / one, kept)
        problem = load_problem(tmp_path / one, spec_of({}, "mlp"))
        found.append((problem.train.inputs(slice(None))[0], problem.train.targets))
    for expected, same in zip(*found, strict=True):
        assert expected.equal(same)


def test_splits_are_told_apart_by_path(tmp_path: Path) -> None:
    """Two archives whose files have the same names are two sets of files."""
    for name, count in (("train.zip", 20), ("test.zip", 6)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path, content in pictures(count).items():
                archive.writestr(path, content)
    data = {"train": "train.zip/*", "test": "test.zip/*"}
    problem = load_problem(tmp_path, spec_of(data, "mlp"))
    assert (len(problem.train), len(problem.test)) == (20, 6)
    with pytest.raises(DatasetInvalid, match=r"data\.test \(u\*\)"):
        load_problem(tmp_path, spec_of({"test": "u*"}, "mlp"))


def test_a_table_says_which_archive_a_file_is_in(tmp_path: Path) -> None:
    """Where two have one of the same path, neither is taken for it."""
    archives = {"a.zip": pictures(20), "b.zip": pictures(4)}
    for name, files in archives.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
    rows = [f"{path},{path.split('/')[0]}" for path in archives["a.zip"]]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(DatasetInvalid, match=r"t\.csv line 2 names left/000\.png.*archive\.zip/l"):
        load_problem(tmp_path, spec_of({}, "mlp"))
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *(f"a.zip/{row}" for row in rows)]))
    problem = load_problem(tmp_path, spec_of({}, "mlp"))
    assert (len(problem.train), len(problem.test)) == (16, 4)


def huge() -> bytes:
    """A PNG that says it has 80 million pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 10_000, 8_000, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + header + encoded(np.zeros((1, 2), np.uint8))[33:]


BAD = {
    "not a PNG or JPEG image": b"GIF89a is no PNG",
    "damaged image": encoded(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8))[:700],
    "more than 50,000,000 pixels": huge(),
    "one color throughout": encoded(np.full((8, 8), 7, np.uint8)),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_files_are_left_out_with_their_reason(reason: str, tmp_path: Path) -> None:
    """And a file that a decoder cannot be trusted with takes nothing down."""
    write(tmp_path, {**pictures(30), "left/bad.png": BAD[reason]})
    spec = spec_of({"train": "*/[0b]*", "test": "*/02*"}, "mlp")
    problem = load_problem(tmp_path, spec)
    assert problem.report["cleaning"]["splits"]["train"]["reasons"] == [
        {"reason": reason, "count": 1, "example": "left/bad.png"}
    ]
    spec = spec_of({"train": "*/[0b]*", "test": "*/02*", "max_invalid_fraction": 0.01}, "mlp")
    with pytest.raises(TooManyInvalid, match=r"left/bad\.png"):
        load_problem(tmp_path, spec)


def test_a_table_may_name_what_is_not_there(tmp_path: Path) -> None:
    """The line is told."""
    files = pictures(20)
    write(tmp_path, files)
    rows = [f"{name},{name.split('/')[0]}" for name in files]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows[:10], "gone.png,left", *rows]))
    (tmp_path / "v.csv").write_text(
        "\n".join(["path,label", *rows[:9], rows[9].split(",")[0] + ",new"])
    )
    problem = load_problem(tmp_path, spec_of({"train": "t.csv", "test": "v.csv"}, "mlp"))
    splits = problem.report["cleaning"]["splits"]
    assert splits["train"]["reasons"] == [
        {"reason": "no such file", "count": 1, "example": "t.csv line 12"}
    ]
    assert splits["test"]["reasons"] == [
        {"reason": "not a class of the training split", "count": 1, "example": "v.csv line 11"}
    ]


def test_images_are_read_upright_and_in_eight_bits(tmp_path: Path) -> None:
    """Cameras turn images by a tag; 16 bits of grey keep their upper eight."""
    files = pictures(10)
    sixteen = Image.fromarray((np.arange(64).reshape(8, 8) * 1024).astype(np.uint16))
    content = io.BytesIO()
    sixteen.save(content, "PNG")
    files["left/deep.png"] = content.getvalue()
    turned, content = Image.fromarray(drawn("left", 3, (8, 8), False)), io.BytesIO()
    tags = Image.Exif()
    tags[0x0112] = 3  # upside down
    turned.save(content, "PNG", exif=tags)
    files["right/turned.png"] = content.getvalue()
    write(tmp_path, files)
    data = {"train": "*", "test": "*/00[01].png"}
    images = load_problem(tmp_path, spec_of(data, "mlp")).train.inputs(slice(None))[0]
    assert (images[-2 if images[-1, 0, 0, 0] > 0.4 else -1] * 255).round().shape == (1, 8, 8)
    levels = (images * 255).round().int().flatten(1).tolist()
    assert [value * 4 for value in range(64)] in levels
    assert drawn("left", 3, (8, 8), False)[::-1, ::-1].flatten().tolist() in levels


@pytest.mark.parametrize(
    ("files", "data", "message"),
    [
        (pictures(8, sizes=((8, 8), (8, 9))), {}, "8x8, 8x9"),
        ({"left/0.png": pictures(1)["left/000.png"]}, {}, "it has 1 training image of 1 class"),
        ({"notes.txt": b""}, {}, "0 training images"),
        ({"t.csv": b"file,label\n"}, {}, "no rows"),
        ({"t.csv": b"file,label\na,b\n"}, {}, "no column 'path'"),
        ({"t.zip": b"no archive"}, {}, "not an intact archive"),
    ],
)
def test_what_is_wrong_with_files_is_said(
    files: dict[str, bytes], data: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """With the remedy."""
    write(tmp_path, files)
    with pytest.raises(DatasetInvalid) as caught:
        load_problem(tmp_path, spec_of(data, "mlp"))
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"height": 8}, "spec.data.width"),
        ({"width": 8}, "spec.data.height"),
        ({"resize": "fit"}, "spec.data.resize"),
        ({"features": ["edges", "edges"]}, "spec.data.features"),
    ],
)
def test_settings_that_do_not_go_together_are_faults(data: dict[str, Any], path: str) -> None:
    """Before any file is read."""
    with pytest.raises(JobSpecInvalid) as caught:
        spec_of(data, "cnn")
    assert [fault.path for fault in caught.value.faults] == [path]


def test_what_idx_files_say_themselves_is_a_fault(stripes: Path) -> None:
    """Their splits, and that they are grey."""
    with pytest.raises(JobSpecInvalid) as caught:
        load_problem(stripes, spec_of({"test": "a", "color": "rgb"}, "mlp"))
    assert [fault.path for fault in caught.value.faults] == ["spec.data.test", "spec.data.color"]


def test_idx_images_are_brought_to_a_size_too(stripes: Path, tmp_path: Path) -> None:
    """And an endpoint takes any."""
    spec = spec_of({"height": 6, "width": 4}, "mlp", epochs=1, batch_size=32, hidden=4)
    problem = load_problem(stripes, spec)
    assert problem.train.inputs(slice(2))[0].shape == (2, 1, 6, 4)
    report = exported(tmp_path / "export", problem, spec, trained(problem, spec))
    assert report["agrees"]
    assert [batch["row_shapes"]["images"] for batch in report["batches"]][-1] == [8, 8]
