"""The process that a model is tried and run in; ``python -m`` this module starts it.

It is given three descriptors: a connection to whoever started it, memory that inputs come in, and
memory that outputs go to; other memory in the place of both may come with a batch. What follows
them is for those who list processes: whose model it is. It holds nothing but the model, may die of
it, and ends with whoever started it. What it imports is kept small, because a deployment waits
for it.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from lepton_inference.adapters import devices, onnx_runtime
from lepton_inference.adapters import model_messages as messages
from lepton_inference.adapters.gpu_session import GpuSession
from lepton_inference.adapters.measurement import is_memory_error
from lepton_inference.adapters.model_limits import bound_this_process
from lepton_inference.adapters.onnx_session import OnnxSession
from lepton_inference.adapters.tensor_memory import Place, TensorMemory
from lepton_inference.model_errors import InputRefused, MemoryLimit, ModelDoesNotFit
from lepton_mesh.errors import Internal, LeptonError


def main() -> None:
    """Loads the model that is named first, then runs one batch after another."""
    connection, inbox, outbox = (int(argument) for argument in sys.argv[1:4])
    worker = _Worker(socket.socket(fileno=connection), TensorMemory(inbox), TensorMemory(outbox))
    threading.Thread(target=worker.end_with_the_other, daemon=True).start()
    try:
        worker.work()
    except (EOFError, OSError):
        return


class _Worker:
    def __init__(
        self, connection: socket.socket, inbox: TensorMemory, outbox: TensorMemory
    ) -> None:
        self._connection = connection
        self._inbox = inbox
        self._outbox = outbox

    def work(self) -> None:
        """Ends with EOFError, when the other end is gone."""
        order = messages.LoadOrder.parse(messages.receive(self._connection))
        session = self._load(order)
        while session is not None:
            frame, memory = messages.receive_with_descriptors(self._connection)
            if memory:
                self._go_over_to(*memory)
            places = messages.answer_of(frame)["tensors"]
            messages.send(self._connection, self._run(session, places, order))

    def end_with_the_other(self) -> None:
        """Ends this process, whatever it computes, once the other end is closed."""
        poll = select.poll()
        poll.register(self._connection, 0)  # nothing but the hang-up, which needs no asking
        poll.poll()
        os._exit(0)

    def _go_over_to(self, inbox: int, outbox: int) -> None:
        """Has tensors come and go in other memory from now on."""
        self._inbox.close()
        self._outbox.close()
        self._inbox, self._outbox = TensorMemory(inbox), TensorMemory(outbox)

    def _load(self, order: messages.LoadOrder) -> OnnxSession | GpuSession | None:
        try:
            open_session = _opener(order)
            execution = order.settings.execution
            # CUDA reserves address space as it likes; a GPU's memory is bounded by its provider.
            on_cpu = not devices.choose(execution).devices
            bound_this_process(execution.memory_limit_mib << 20, limited=on_cpu)
            session = open_session()
            # Inputs come from the memory that is shared, whatever else there is.
            placement = replace(session.placement, pinned=False)
            answer = messages.found_frame((session.signature, placement))
        except MemoryError:
            session, answer = None, messages.error_frame(_does_not_fit(order))
        except LeptonError as error:
            session, answer = None, messages.error_frame(error)
        except Exception:
            traceback.print_exc()
            failure = Internal("the model could not be loaded; the service's log says why")
            session, answer = None, messages.error_frame(failure)
        messages.send(self._connection, answer)
        return session

    def _run(
        self,
        session: OnnxSession | GpuSession,
        places: list[Place],
        order: messages.LoadOrder,
    ) -> bytes:
        signature = session.signature
        try:
            arrays = self._inbox.read(places, signature.inputs, copy=False)
            names = [spec.name for spec in signature.inputs]
            outputs = session.run(dict(zip(names, arrays, strict=True)))
            return messages.tensors_frame(self._outbox.write(outputs, signature.outputs))
        except InputRefused as error:
            return messages.error_frame(error)
        # Whatever ONNX Runtime raises is this batch's.
        except Exception as error:
            if not is_memory_error(error):
                return messages.failure_frame(error)
            session.give_back_memory()
            return messages.error_frame(_too_much(order))


def _opener(order: messages.LoadOrder) -> Callable[[], OnnxSession | GpuSession]:
    """What opens the session, and first tries and measures it if nothing is known of it.

    Imports all that it takes: once memory is bounded, what there is belongs to the model.
    """
    if order.known is not None:
        instances = [order.instance]
        return partial(onnx_runtime.reopen, order.path, order.settings, order.known, instances)
    from lepton_inference.adapters.onnx_trial import try_out  # noqa: PLC0415  only a trial needs it

    return partial(try_out, order.path, order.settings)


def _does_not_fit(order: messages.LoadOrder) -> ModelDoesNotFit:
    limit = order.settings.execution.memory_limit_mib
    if limit:
        return ModelDoesNotFit(
            f"the model needs more than execution.memory_limit_mib, {limit} MiB, to load or to "
            "run on a sample",
            memory_limit_mib=limit,
        )
    return ModelDoesNotFit("the model does not fit into this machine's memory")


def _too_much(order: messages.LoadOrder) -> MemoryLimit:
    limit = order.settings.execution.memory_limit_mib
    return MemoryLimit(
        "the batch needs more memory than the model may take"
        + (f": execution.memory_limit_mib is {limit}" if limit else " of this machine"),
        memory_limit_mib=limit,
    )


if __name__ == "__main__":
    main()
