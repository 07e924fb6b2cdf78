"""The inference service."""

import os

# ONNX Runtime asks for it when it is imported, by whichever module of this package: whose models
# run here, and on what, is nobody else's business. Processes that are started inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
