"""An ONNX model as MLServer's own runtimes are written: a subclass of MLModel."""

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    async def load(self) -> bool:
        path = self.settings.parameters.uri
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._output = self._session.get_outputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {each.name: self.decode(each, NumpyCodec) for each in payload.inputs}
        (logits,) = self._session.run(None, inputs)
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output(self._output, logits)]
        )
