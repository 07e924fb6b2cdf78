"""The training service, and the processes that train."""

import os

# ONNX Runtime asks for it when it is imported, by whichever module of this package: whose models
# are made here, and on what, is nobody else's business. Processes that are started with an
# environment of their own import this package before anything else.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
