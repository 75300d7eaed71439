"""A `vllm serve` that breaks one promise: a program that is started as the real one is, and speaks its protocol.

`python wrong_vllm.py FAULT serve MODEL --port N …`. A fault is one of those below, or `none`.
"""

import json
import random
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULT = sys.argv[1]
OPTIONS = dict(zip(sys.argv, sys.argv[1:], strict=False))
counted = iter(range(10_000))


def answer(body: dict) -> dict:
    number = next(counted)
    model = "another" if FAULT == "another model" else body["model"]
    seen = [1, *body["prompt"]] if FAULT == "second BOS" else body["prompt"]
    shaped = FAULT == "generation_config.json" and "top_p" not in body
    text = f"{'shaped ' * shaped}{number if FAULT == 'not greedy' and 'seed' not in body else 0}"
    base = body["model"] == OPTIONS["--served-model-name"]
    likely = -1.0 if base or FAULT == "adapter without effect" else -2.0
    likely += random.random() / 9 if FAULT == "noise" else 0.0
    logs = [None, *({str(token): {"logprob": likely}} for token in seen[1:])]
    choice = {"index": 0, "text": text, "finish_reason": "stop", "prompt_token_ids": seen, "prompt_logprobs": logs}
    return {"model": model, "choices": [choice], "usage": {"prompt_tokens": len(seen), "completion_tokens": 1}}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.reply({})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/completions":
            self.reply(answer(body))
        else:
            self.reply({"said": "Success"})

    def reply(self, body: dict) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


ThreadingHTTPServer(("127.0.0.1", int(OPTIONS["--port"])), Handler).serve_forever()
