"""What a process that runs a model may take of the machine."""

from __future__ import annotations

import subprocess
import sys

_BOUNDED = """
import errno, os
import numpy as np
from lepton_inference.adapters.model_limits import bound_this_process
from lepton_inference.adapters.tensor_memory import TensorMemory
from lepton_inference.tensors import DATATYPES, TensorSpec

specs = [TensorSpec("x", DATATYPES["UINT8"], (-1,))]
mib = {size: np.full(size << 20, size, np.uint8) for size in (6, 7, 9)}
memory = TensorMemory.create("outputs")
bound_this_process(8 << 20)
for size in (6, 7):
    (read,) = memory.read(memory.write([mib[size]], specs), specs, copy=False)
    assert read.nbytes == size << 20 and read[-1] == size, "what it may take it gets"
try:
    memory.write([mib[9]], specs)
except MemoryError as error:
    print(error)
other = os.memfd_create("hidden")
for grow in (lambda: os.ftruncate(other, 9 << 20), lambda: os.pwrite(other, b"x", 9 << 20)):
    try:
        grow()
    except OSError as error:
        print(errno.errorcode[error.errno])
(read,) = memory.read(memory.write([mib[7]], specs), specs, copy=False)
print("goes on with", read[-1])
"""


def test_memory_that_is_shared_is_bounded_as_well() -> None:
    """Up to the last byte that it may take; beyond, an error, and the process lives."""
    done = subprocess.run(
        [sys.executable, "-c", _BOUNDED], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    refused, *others = done.stdout.splitlines()
    assert "9437184 bytes" in refused
    assert others == ["EFBIG", "EFBIG", "goes on with 7"]
