"""LitServe with ONNX Runtime and batching: GRPC_PORT (unused) HTTP_PORT NAME=FILE..."""

import base64
import sys

import litserve
import numpy as np
import onnxruntime

TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


class OnnxApi(litserve.LitAPI):
    def __init__(self, path, **options):
        super().__init__(**options)
        self._path = path

    def setup(self, device):
        self._session = onnxruntime.InferenceSession(self._path, providers=["CPUExecutionProvider"])
        (source,) = self._session.get_inputs()
        self._input, self._shape = source.name, source.shape[1:]
        self._dtype = TYPES[source.type]

    def decode_request(self, request):
        return np.frombuffer(base64.b64decode(request["images"]), self._dtype).reshape(self._shape)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, images):
        return self._session.run(None, {self._input: images})[0]

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"logits": output.tolist()}


def main():
    _, http_port, *models = sys.argv[1:]
    apis = []
    for pair in models:
        name, path = pair.split("=", 1)
        apis.append(OnnxApi(path, max_batch_size=64, batch_timeout=0.001, api_path=f"/{name}"))
    server = litserve.LitServer(apis, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(http_port), generate_client_file=False, log_level="warning"
    )


if __name__ == "__main__":
    main()
