"""KServe's model server with ONNX Runtime: GRPC_PORT HTTP_PORT NAME=FILE..."""

import sys

import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class OnnxModel(Model):
    def __init__(self, name, path):
        super().__init__(name)
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._output = self._session.get_outputs()[0].name
        self.ready = True

    def predict(self, payload: InferRequest, headers=None) -> InferResponse:
        inputs = {each.name: each.as_numpy() for each in payload.inputs}
        (logits,) = self._session.run(None, inputs)
        output = InferOutput(self._output, list(logits.shape), "FP32")
        output.set_data_from_numpy(logits, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


def main():
    grpc_port, http_port, *models = sys.argv[1:]
    served = [OnnxModel(*pair.split("=", 1)) for pair in models]
    # The server parses the command line too, for settings that are not given here.
    del sys.argv[1:]
    ModelServer(http_port=int(http_port), grpc_port=int(grpc_port), workers=1).start(served)


if __name__ == "__main__":
    main()
