"""Clients that read slowly, or go away, hold up a model that generates, on both adapters."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import grpc
import numpy as np

from lepton.oip.v2 import open_inference_pb2 as pb
from tests.contract.inference_protocol.doors import Server

SERVICE = "/inference.GRPCInferenceService/"
WIDTH = 4096
STEPS = 4096
"""Whose answers, 128 MiB, are more than any buffer between here and there."""
_BOUND_SECONDS = 20.0


class Generation:
    """A request of very many answers, on a stream that stays open until it is let go."""

    def __init__(self, channel: grpc.Channel, sequence: str, steps: int = STEPS) -> None:
        self._more: queue.Queue[bytes | None] = queue.Queue()
        self._more.put(generate(sequence, steps))
        self.call = channel.stream_stream(SERVICE + "ModelStreamInfer")(iter(self._more.get, None))

    def close(self) -> None:
        self._more.put(None)

    def answers(self) -> Iterator[pb.ModelStreamInferResponse]:
        for answer in self.call:
            message = pb.ModelStreamInferResponse.FromString(answer)
            yield message
            if message.infer_response.parameters["triton_final_response"].bool_param:
                return


def generate(sequence: str, steps: int, *, start: bool = True) -> bytes:
    return pb.ModelInferRequest(
        model_name="wide-fibonacci",
        inputs=[
            pb.ModelInferRequest.InferInputTensor(name="x", datatype="INT64", shape=[1, WIDTH])
        ],
        parameters={
            "sequence_id": pb.InferParameter(string_param=sequence),
            "sequence_start": pb.InferParameter(bool_param=start),
            "max_steps": pb.InferParameter(int64_param=steps),
        },
        raw_input_contents=[np.ones((1, WIDTH), np.int64).tobytes()],
    ).SerializeToString()


def steps_run(channel: grpc.Channel) -> int:
    """By the model, so far."""
    statistics = channel.unary_unary(SERVICE + "ModelStatistics")
    asked = pb.ModelStatisticsRequest(name="wide-fibonacci").SerializeToString()
    answer = pb.ModelStatisticsResponse.FromString(statistics(asked, timeout=20))
    return int(answer.model_stats[0].inference_count)


def standstill(channel: grpc.Channel) -> int:
    """Steps run, once there are no more."""
    deadline = time.monotonic() + _BOUND_SECONDS
    before, after = -1, steps_run(channel)
    while before != after:
        assert time.monotonic() < deadline, "it does not stop"
        # Long beside a step: a model that ran on would have been seen to.
        threading.Event().wait(0.2)
        before, after = after, steps_run(channel)
    return after


def test_a_slow_reader_stops_the_model(server: Server) -> None:
    """It runs no further than a bounded way ahead, and to the end once its answers are read."""
    with server.channel() as channel, server.channel() as other:
        before = steps_run(other)
        generation = Generation(channel, "slow")
        answers = generation.answers()
        next(answers)
        ahead = standstill(other) - before
        assert ahead < STEPS
        assert sum(1 for _ in answers) == STEPS - 1
        assert steps_run(other) - before == STEPS
        generation.close()


def test_a_cancelled_stream_stops_the_model(server: Server) -> None:
    """And forgets its sequence, also where the client takes its channel with it."""
    for lose in (
        lambda generation, _: generation.call.cancel(),
        lambda _, channel: channel.close(),
    ):
        with server.channel() as channel, server.channel() as other:
            before = steps_run(other)
            generation = Generation(channel, "lost")
            answers = generation.answers()
            for _ in range(100):
                next(answers)
            lose(generation, channel)
            assert standstill(other) - before < STEPS
            generation.close()
            last = Generation(other, "other", steps=1)
            assert len(list(last.answers())) == 1
            assert _refusal(other) == "there is no sequence 'lost' of yours to go on with"
            last.close()


def _refusal(channel: grpc.Channel) -> str:
    stream = channel.stream_stream(SERVICE + "ModelStreamInfer")
    (answer,) = stream(iter([generate("lost", 1, start=False)]), timeout=20)
    return pb.ModelStreamInferResponse.FromString(answer).error_message.partition(":")[0]
