"""The process that a model is tried in: ``python -m lepton_inference.adapters.model_worker FD``.

It holds nothing but the model, may die of it, and ends with whoever started it. What it imports
is kept small, because a deployment waits for it.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import traceback

from lepton_inference.adapters import model_messages as messages
from lepton_inference.adapters.model_limits import bound_this_process
from lepton_inference.adapters.onnx_checks import check_file
from lepton_inference.adapters.onnx_runtime import examine
from lepton_inference.model_errors import ModelDoesNotFit
from lepton_mesh.errors import Internal, LeptonError


def main() -> None:
    """Answers one order after another until the other end is gone."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    try:
        order = messages.LoadOrder.parse(messages.receive(connection))
        messages.send(connection, _answer(order))
        messages.receive(connection)
    except (EOFError, OSError):
        return


def _answer(order: messages.LoadOrder) -> bytes:
    try:
        bound_this_process(0)
        check_file(order.path)
        session = examine(order.path, order.settings)
        return messages.found_frame((session.signature, session.placement))
    except MemoryError:
        error: LeptonError = ModelDoesNotFit("the model does not fit into this machine's memory")
    except LeptonError as known:
        error = known
    except Exception:
        traceback.print_exc()
        error = Internal("the model could not be loaded; the service's log says why")
    return messages.error_frame(error)


def _end_with(connection: socket.socket) -> None:
    """Ends this process, whatever it computes, once the other end of the connection is closed."""
    poll = select.poll()
    poll.register(connection, 0)  # nothing but the hang-up, which needs no asking
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    main()
