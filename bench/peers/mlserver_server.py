"""MLServer with ONNX Runtime and adaptive batching: GRPC_PORT HTTP_PORT NAME=FILE..."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path


def main():
    grpc_port, http_port, *models = sys.argv[1:]
    folder = Path("mlserver-models").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        metrics_port = free.getsockname()[1]
    settings = {
        "host": "127.0.0.1",
        "grpc_port": int(grpc_port),
        "http_port": int(http_port),
        "metrics_port": metrics_port,
        "grpc_max_message_length": 64 << 20,
        "debug": False,
        # Measured: its worker processes cost more than they give on two cores, and 1.7.1 does
        # not start them under uvloop 0.22 or newer.
        "parallel_workers": 0,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    shutil.copy(Path(__file__).with_name("mlserver_model.py"), folder)
    for pair in models:
        name, path = pair.split("=", 1)
        (folder / name).mkdir()
        model = {
            "name": name,
            "implementation": "mlserver_model.OnnxModel",
            "max_batch_size": 64,
            "max_batch_time": 0.001,
            "parameters": {"uri": path},
        }
        (folder / name / "model-settings.json").write_text(json.dumps(model))
    os.environ["PYTHONPATH"] = str(folder)
    os.execvp("mlserver", ["mlserver", "start", str(folder)])  # noqa: S606  no shell is meant


if __name__ == "__main__":
    main()
