"""Triton's server by nvidia-pytriton, dynamic batching on: GRPC_PORT HTTP_PORT NAME=FILE..."""

import sys

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


def bind(triton, name, path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (source,), (target,) = session.get_inputs(), session.get_outputs()

    @batch
    def infer(**inputs):
        return session.run(None, inputs)

    triton.bind(
        model_name=name,
        infer_func=infer,
        inputs=[Tensor(name=source.name, dtype=TYPES[source.type], shape=tuple(source.shape[1:]))],
        outputs=[Tensor(name=target.name, dtype=TYPES[target.type], shape=tuple(target.shape[1:]))],
        config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher()),
    )


def main():
    grpc_port, http_port, *models = sys.argv[1:]
    config = TritonConfig(
        grpc_port=int(grpc_port), http_port=int(http_port), allow_metrics=False, log_verbose=0
    )
    with Triton(config=config) as triton:
        for pair in models:
            bind(triton, *pair.split("=", 1))
        triton.serve()


if __name__ == "__main__":
    main()
