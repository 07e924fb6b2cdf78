"""Triton's own clients with tensors in shared memory; prints what each use gave, one JSON line.

python shared_memory_client.py grpc|http <door as JSON>
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.utils.shared_memory as shm
from public_client import Door, _grpc_tls, _http_tls, _let_in, _refusal
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

DTYPES = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
FLOATS = ("float16", "float32", "float64")
IMAGE = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
OFFSET = 64
SIZE = 4096
OTHER = {"authorization": "Bearer somebody-else"}


class Sharing:
    """A client with two regions: ``in``, and ``out put``, whose name wants quoting in a path."""

    def __init__(self, kind: str, door: Door) -> None:
        import tritonclient.grpc
        import tritonclient.http

        self.kind = kind
        self.token = door["token"]
        self.client = tritonclient.grpc if kind == "grpc" else tritonclient.http
        tls = _grpc_tls(door) if kind == "grpc" else _http_tls(door)
        self.triton = _let_in(self.client.InferenceServerClient(door["address"], **tls), door)
        self.name = f"lepton-test-{os.getpid()}"
        self.input = shm.create_shared_memory_region("in", f"/{self.name}-in", SIZE)
        self.output = shm.create_shared_memory_region("out put", f"/{self.name}-out", SIZE)

    def register(self) -> None:
        self.triton.register_system_shared_memory("in", f"/{self.name}-in", SIZE)
        self.triton.register_system_shared_memory("out put", f"/{self.name}-out", SIZE - 8, 8)

    def tensor(self, name: str, value: Any, offset: int = OFFSET, datatype: str = "") -> Any:
        """An input that is in the first region."""
        held = serialize_byte_tensor(value) if value.dtype == object else value
        size = len(held.item()) if value.dtype == object else value.nbytes
        shm.set_shared_memory_region(self.input, [held], offset)
        datatype = datatype or np_to_triton_dtype(value.dtype)
        tensor = self.client.InferInput(name, list(value.shape), datatype)
        tensor.set_shared_memory("in", size, offset)
        return tensor

    def wanted(self, name: str, size: int = 1024, region: str = "out put") -> Any:
        """An output that is to go to the second region."""
        wanted = self.client.InferRequestedOutput(name)
        wanted.set_shared_memory(region, size, OFFSET)
        return wanted

    def seen(self, value: Any) -> Any:
        """What is in the second region, in the place and of the kind of ``value``."""
        return shm.get_contents_as_numpy(self.output, value.dtype, value.shape, OFFSET + 8)

    def infer(self, model: str, inputs: Any, outputs: Any = None, **options: Any) -> Any:
        return self.triton.infer(model, inputs, outputs=outputs, **options)

    def regions(self, **options: Any) -> list[str]:
        found = self.triton.get_system_shared_memory_status(**options)
        if self.kind == "grpc":
            return sorted(found.regions)
        return sorted(region["name"] for region in found)

    def close(self) -> None:
        self.triton.unregister_system_shared_memory()
        shm.destroy_shared_memory_region(self.input)
        shm.destroy_shared_memory_region(self.output)
        self.triton.close()


def use(sharing: Sharing) -> dict[str, Any]:
    """Every datatype both ways, mixtures, what is refused, what others get."""
    triton = sharing.triton
    metadata = triton.get_server_metadata()
    extensions = metadata.extensions if sharing.kind == "grpc" else metadata["extensions"]
    sharing.register()
    seen: dict[str, Any] = {
        "extensions": [name for name in extensions if "shared_memory" in name],
        "status": sharing.regions(),
        "one": sharing.regions(region_name="out put"),
        "datatypes": {},
    }
    for dtype in (*DTYPES, *FLOATS):
        value = np.array([[1, 0], [1, 1]], dtype)
        name = np_to_triton_dtype(value.dtype).lower()
        result = sharing.infer(
            f"identity-{name}", [sharing.tensor("x", value)], [sharing.wanted("y")]
        )
        seen["datatypes"][name] = bool((sharing.seen(value) == value).all())
    bits = np.array([[0x3F00, 0xC040]], np.uint16)  # 0.5 and -3, which numpy has no type for
    sharing.infer(
        "identity-bf16", [sharing.tensor("x", bits, datatype="BF16")], [sharing.wanted("y")]
    )
    seen["datatypes"]["bf16"] = bool((sharing.seen(bits) == bits).all())
    text = np.array([["über".encode()], [b""]], dtype=object)
    result = sharing.infer("text", [sharing.tensor("x", text)], [sharing.wanted("y")])
    seen["datatypes"]["bytes"] = bool((sharing.seen(text) == text).all())
    output = result.get_output("y")
    if sharing.kind == "grpc":
        response = result.get_response()
        seen["raw"] = [len(raw) for raw in response.raw_output_contents]
        parameters = output.parameters
        seen["said"] = [
            parameters["shared_memory_region"].string_param,
            parameters["shared_memory_byte_size"].int64_param,
            parameters["shared_memory_offset"].int64_param,
        ]
    else:
        seen["raw"] = [len(output.get("data", []))]
        seen["said"] = list(output["parameters"].values())
    seen["mixed"] = mixed(sharing)
    seen["in_message"] = in_message(sharing)
    seen["streamed"] = streamed(sharing)
    seen["refused"] = refused(sharing)
    # A gateway knows its own tokens only.
    seen["others"] = None if sharing.token else others(sharing)
    triton.unregister_system_shared_memory("in")
    seen["left"] = sharing.regions()
    seen["unregistered"] = _refusal(
        lambda: sharing.infer("linear", [sharing.tensor("image", IMAGE)])
    )
    return seen


def mixed(sharing: Sharing) -> list[Any]:
    """One input of three in shared memory, one output of two."""
    client = sharing.client
    inputs = [sharing.tensor("b", np.full((2, 2), 10, np.float32))]
    for name, value in (
        ("n", np.array([[7], [8]], np.int64)),
        ("a", np.array([[1, 2], [3, 4]], np.float32)),
    ):
        tensor = client.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    outputs = [sharing.wanted("total"), client.InferRequestedOutput("count")]
    result = sharing.infer("two", inputs, outputs)
    total = sharing.seen(np.empty((2, 2), np.float32))
    return [total.tolist(), result.as_numpy("count").tolist()]


def in_message(sharing: Sharing) -> list[Any]:
    """The same request in the message first, as often as it takes to be remembered."""
    client = sharing.client
    tensor = client.InferInput("image", [2, 4], "FP32")
    tensor.set_data_from_numpy(IMAGE)
    totals = []
    for factor in (1, 2, 3):
        tensor.set_data_from_numpy(IMAGE * factor)
        sharing.infer("linear", [tensor], [sharing.wanted("scores")])
        totals.append(float(sharing.seen(np.empty((2, 3), np.float32))[0, 0]))
    return totals


def streamed(sharing: Sharing) -> Any:
    """What a stream's request put into the second region."""
    if sharing.kind != "grpc":
        return None
    answers: queue.Queue[Any] = queue.Queue()
    sharing.triton.start_stream(lambda result, error: answers.put((result, error)))
    image = sharing.tensor("image", IMAGE * 4)
    sharing.triton.async_stream_infer("linear", [image], outputs=[sharing.wanted("scores")])
    _, error = answers.get(timeout=20)
    sharing.triton.stop_stream()
    return str(error) if error else float(sharing.seen(np.empty((2, 3), np.float32))[0, 0])


def refused(sharing: Sharing) -> dict[str, str]:
    """What cannot be, each in a way of its own."""
    triton, image = sharing.triton, sharing.tensor("image", IMAGE)
    long = sharing.client.InferInput("image", [2, 4], "FP32")
    long.set_shared_memory("in", IMAGE.nbytes, SIZE - 8)
    lying = sharing.client.InferInput("image", [2, 4], "FP32")
    lying.set_shared_memory("in", 8)
    register = triton.register_system_shared_memory
    directory = Path("/dev/shm")
    (directory / f"{sharing.name}-link").symlink_to(f"/dev/shm/{sharing.name}-in")
    (directory / f"{sharing.name}-dir").mkdir()
    os.mkfifo(directory / f"{sharing.name}-fifo", 0o666)
    try:
        return {
            name: _refusal(call)
            for name, call in {
                "small": lambda: sharing.infer("linear", [image], [sharing.wanted("scores", 8)]),
                "nowhere": lambda: sharing.infer(
                    "linear", [image], [sharing.wanted("scores", region="nowhere")]
                ),
                "long": lambda: sharing.infer("linear", [long]),
                "lying": lambda: sharing.infer("linear", [lying]),
                "twice": lambda: register("in", f"/{sharing.name}-in", 8),
                "absent": lambda: register("x", f"/{sharing.name}-absent", 8),
                "link": lambda: register("x", f"/{sharing.name}-link", 8),
                "directory": lambda: register("x", f"/{sharing.name}-dir", 8),
                "fifo": lambda: register("x", f"/{sharing.name}-fifo", 8),
                "parent": lambda: register("x", "/../etc/passwd", 8),
                "dots": lambda: register("x", "..", 8),
                "slashes": lambda: register("x", f"//dev/shm/{sharing.name}-in", 8),
                "null": lambda: register("x", f"/{sharing.name}-in\0", 8),
                "envoy": lambda: register("x", "/envoy_shared_memory_0", 8),
                "beyond": lambda: register("x", f"/{sharing.name}-in", SIZE, 1),
                "huge": lambda: register("x", f"/{sharing.name}-in", 2**64 - 1),
                "empty": lambda: register("x", f"/{sharing.name}-in", 0),
                "status": lambda: triton.get_system_shared_memory_status("nowhere"),
                "cuda": lambda: triton.register_cuda_shared_memory("x", "AAAA", 0, 8),
            }.items()
        }
    finally:
        (directory / f"{sharing.name}-link").unlink()
        (directory / f"{sharing.name}-dir").rmdir()
        (directory / f"{sharing.name}-fifo").unlink()


def others(sharing: Sharing) -> dict[str, Any]:
    """What somebody else gets to see and do."""
    triton, image = sharing.triton, sharing.tensor("image", IMAGE)
    plain = sharing.client.InferInput("image", [2, 4], "FP32")
    plain.set_data_from_numpy(IMAGE)
    register = triton.register_system_shared_memory
    theirs = shm.create_shared_memory_region("in", f"/{sharing.name}-theirs", SIZE)
    try:
        seen = {
            "status": sharing.regions(headers=OTHER),
            "input": _refusal(lambda: sharing.infer("linear", [image], headers=OTHER)),
            "output": _refusal(
                lambda: sharing.infer("linear", [plain], [sharing.wanted("scores")], headers=OTHER)
            ),
            "object": _refusal(lambda: register("mine", f"/{sharing.name}-in", 8, headers=OTHER)),
            "length": _refusal(
                lambda: register("mine", f"/{sharing.name}-in", 1 << 20, headers=OTHER)
            ),
            "same_name": _refusal(
                lambda: register("in", f"/{sharing.name}-theirs", SIZE, headers=OTHER)
            ),
        }
        triton.unregister_system_shared_memory(headers=OTHER)
        return seen | {"mine": sharing.regions()}
    finally:
        shm.destroy_shared_memory_region(theirs)


def cut_short(sharing: Sharing) -> dict[str, Any]:
    """What becomes of a region whose object shrinks, and of one that is deleted."""
    sharing.register()
    image, wanted = sharing.tensor("image", IMAGE), sharing.wanted("scores")
    plain = sharing.client.InferInput("image", [2, 4], "FP32")
    plain.set_data_from_numpy(IMAGE)
    for end in ("in", "out"):
        os.truncate(f"/dev/shm/{sharing.name}-{end}", 16)
    seen = {
        "input": _refusal(lambda: sharing.infer("linear", [image])),
        "output": _refusal(lambda: sharing.infer("linear", [plain], [wanted])),
        "size": Path(f"/dev/shm/{sharing.name}-out").stat().st_size,
    }
    for end in ("in", "out"):
        os.truncate(f"/dev/shm/{sharing.name}-{end}", SIZE)
    with _while_it_changes(f"/dev/shm/{sharing.name}-in"):
        outcomes = {_refusal(lambda: sharing.infer("linear", [image]))[:20] for _ in range(100)}
    seen["changing"] = len(outcomes) <= 2
    shm.destroy_shared_memory_region(sharing.input)
    seen["deleted"] = _refusal(lambda: sharing.infer("linear", [image]))
    sharing.input = shm.create_shared_memory_region("in", f"/{sharing.name}-in", SIZE)
    seen["made_anew"] = _refusal(lambda: sharing.infer("linear", [image]))
    image = sharing.tensor("image", IMAGE)
    sharing.triton.register_system_shared_memory("in", f"/{sharing.name}-in", SIZE)
    seen["registered_anew"] = sharing.infer("linear", [image]).as_numpy("scores").tolist()
    return seen


@contextlib.contextmanager
def _while_it_changes(path: str) -> Iterator[None]:
    """Cuts the file short and back, over and over."""
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            os.truncate(path, 0)
            os.truncate(path, SIZE)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    sharing = Sharing(sys.argv[1], json.loads(sys.argv[2]))
    try:
        found = use(sharing)
        sharing.triton.unregister_system_shared_memory()
        found["cut_short"] = cut_short(sharing)
    finally:
        sharing.close()
    sys.stdout.write(json.dumps(found) + "\n")
