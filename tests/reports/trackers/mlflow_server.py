"""A server that speaks as much of MLflow's REST API as is needed, and keeps what it was sent."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RUN = {"run_id": "r1", "run_uuid": "r1", "experiment_id": "7", "status": "RUNNING"}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []  # (path, body)
        self.refuses = False

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.server_port}"

    def sent(self, name):
        return [json.loads(body) for path, body in self.requests if path.endswith(name)]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.path, body))
        if self.server.refuses:
            return self._answer(400, {"error_code": "INTERNAL_ERROR", "message": "disk full"})
        return self._answer(
            200, self._content(self.path.partition("?")[0].rpartition("mlflow/")[2])
        )

    def _content(self, call):
        if call == "experiments/get-by-name":
            return {"experiment": {"experiment_id": "7", "name": "segfocal"}}
        if call.startswith("runs/"):
            info = {**RUN, "artifact_uri": "/nowhere", "lifecycle_stage": "active"}
            return {"run": {"info": info, "data": {}}, "run_info": info}
        return {}

    def _answer(self, status, content):
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def mlflow_server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
