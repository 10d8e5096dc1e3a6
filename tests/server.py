"""An OpenAI-compatible server that keeps its own ledger of billed requests and misbehaves on demand.

In a test: `with Server(fakes.collector, ledger) as server`, then `server.faults["the prompt's text"] = ["429", None]`.
As a process: `python tests/server.py --port 0 --ledger FILE --delay 0.05 --model collector --faults "500,silence"`
prints its port. Answers are a function of the request alone. The ledger is a file with one os.write per request that
was answered: a hash of its messages, seed and model, then `billed` or `not`, then the fault's name or `-`. A request is
in it before its answer leaves. Nothing else is kept of a request: no header, so no key.
"""

import argparse
import hashlib
import json
import os
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fakes

HTML = b"<html><body><h1>Welcome</h1><p>Your session has expired.</p></body></html>"


@dataclass(frozen=True)
class Fault:
    """One request answered badly. body: bytes, a JSON value, or None for the good answer; {key} in it is the caller's.

    cut: bytes of the response after which the connection is reset; drip: seconds between two bytes; late: seconds
    from bill to answer; silent: nothing ever. A fault is billed where a good answer was made, whatever became of it.
    """

    status: int = 200
    body: object = None
    headers: tuple = ()
    cut: int | None = None
    drip: float = 0.0
    late: float = 0.0
    silent: bool = False
    billed: bool = False


def _error(status, message, code=None, **headers):
    headers = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Fault(status, {"error": {"message": message, "code": code}}, headers)


def _choices(value, **more):
    return Fault(body={"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": value}, **more)


def _content(value, finish="stop", usage=None, **message):
    message = {"role": "assistant", "content": value} | message
    choices = [{"index": 0, "finish_reason": finish, "message": message, "error": {"message": "upstream stopped"}}]
    choices = choices if finish == "error" else [{**choices[0], "error": None}]
    return Fault(body={"id": "x", "object": "chat.completion", "choices": choices, "usage": usage}, billed=True)


FAULTS = {
    "429": _error(429, "slow down"),
    "quota": _error(429, "you have no money left", "insufficient_quota"),
    "402": _error(402, "payment required"),
    "401": _error(401, "Incorrect API key provided: {key}."),
    "403": _error(403, "{key} may not use this model"),
    "404": _error(404, "no such model"),
    "400": _error(400, "prompt too long, said {key}"),
    "422": _error(422, "odd, said {key}"),
    "500": _error(500, "oops, {key}"),
    "503": _error(503, "overloaded", retry_after="0"),
    "silence": Fault(silent=True),
    "drip": Fault(drip=0.05, billed=True),
    "reset": Fault(cut=120, billed=True),
    "reset before": Fault(cut=0, billed=True),
    "truncated JSON": Fault(body=b'{"id": "x", "choices": [{"index": 0, "mess', billed=True),
    "choices null": _choices(None, billed=True),
    "choices empty": _choices([], billed=True),
    "no message": _choices([{"index": 0, "finish_reason": "stop"}], billed=True),
    "content null": _content(None),
    "content empty": _content("", "stop"),
    "all thought": _content("", "length"),
    "filtered": _content(None, "content_filter"),
    "filtered half-way": _content("The otter is", "content_filter"),
    "thought cut": _content(None, "length", {"prompt_tokens": 5, "completion_tokens": 90}, reasoning_content="Hm"),
    "only thought": _content(None, reasoning_content="They ask for X.\n\n[[A]]"),
    "refused": _content(None, refusal="I can't help with that."),
    "refused in parts": _content([{"type": "refusal", "refusal": "No."}]),
    "broken off": _content("The otter is a", "error"),
    "late": Fault(late=3.0, billed=True),
    "html": Fault(body=HTML, headers=(("content-type", "text/html"),)),
    "html as JSON": Fault(body=HTML),
    "plain text": Fault(body=b"hello {key}", headers=(("content-type", "text/plain"),)),
}


def retry_after(value, status=429):
    """A 429 with this Retry-After header; a callable is called when the request comes (for dates)."""
    return Fault(status, {"error": {"message": "slow down", "code": None}}, (("retry-after", value),))


def http_date(seconds):
    """Retry-After as a date that many seconds from when the request comes, rounded up to its full second."""
    return lambda: formatdate(int(time.time() + seconds) + 1, usegmt=True)


def fingerprint(messages, seed, model="m") -> str:
    """The ledger's name of a request."""
    text = json.dumps([messages, seed, model], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def read_ledger(path) -> list[list[str]]:
    """[fingerprint, billed | not, fault] of every line."""
    return [line.split(" ", 2) for line in Path(path).read_text().splitlines()] if Path(path).exists() else []


def billed(path) -> Counter:
    """How often each fingerprint was billed."""
    return Counter(name for name, outcome, _ in read_ledger(path) if outcome == "billed")


class Server(ThreadingHTTPServer):
    """refuses: parameter, or `system role` → the fault of every request that has it, in place of any other.

    bodies: of all requests.
    faults: prompt text (or None: any) → faults of its next requests, in order: names of FAULTS, Fault, or None for a
    good answer; of "…" as the last, the one before it goes on for ever. capacity: requests at once above which one
    gets a 429. calls: (seconds since the epoch, requests then in flight, prompt text, status) of every request, as
    they came. lists: models that GET /models names, None for no such page; keys: those that get it (empty: any).
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, model, ledger, delay=0.0, port=0, capacity=None):
        super().__init__(("127.0.0.1", port), _Handler)
        self.model, self.delay, self.capacity = model, delay, capacity
        self.ledger = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self.ledger_path = ledger
        self.faults, self.refuses, self.calls, self.bodies, self.in_flight = {}, {}, [], [], 0
        self.lists, self.keys = (), ()
        self.lock, self.closing = threading.Lock(), threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that went away is no news."""

    def arrive(self, text):
        """The fault of a request that has just come, or None."""
        with self.lock:
            self.in_flight += 1
            full = self.capacity is not None and self.in_flight > self.capacity
            fault = FAULTS["429"] if full else self._scripted(text)
            self.calls.append((time.time(), self.in_flight, text, fault.status if fault else 200))
        return fault

    def _scripted(self, text):
        script = self.faults.get(text) or self.faults.get(None) or [None]
        step = script[0] if script[1:] == ["…"] else script.pop(0)
        return FAULTS[step] if isinstance(step, str) else step

    def leave(self):
        """Called before the answer is sent: what the client starts next cannot meet it in flight."""
        with self.lock:
            self.in_flight -= 1

    def write_ledger(self, body, is_billed, fault):
        name = next((name for name, known in FAULTS.items() if known is fault), "-")
        request = fingerprint(body["messages"], body.get("seed"), body["model"])
        line = f"{request} {'billed' if is_billed else 'not'} {name}\n"
        os.write(self.ledger, line.encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        """The list of models: free, so not in the ledger."""
        key = self.headers.get("authorization", "").removeprefix("Bearer ")
        guarded, content = self.server.keys, json.dumps({"data": [{"id": name} for name in self.server.lists or ()]})
        status = 404 if self.server.lists is None else 401 if guarded and key not in guarded else 200
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        self.wfile.write((head + content).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        fault = self.server.arrive(body["messages"][-1]["content"])
        has = {*body, *(f"{message['role']} role" for message in body["messages"])}
        fault = next((fault for name, fault in self.server.refuses.items() if name in has), fault)
        try:
            self.server.closing.wait(self.server.delay)
            raw = self._response(body, fault)
            self.server.write_ledger(body, fault is None or fault.billed, fault)
            if fault and (fault.silent or fault.late):
                self.server.closing.wait(None if fault.silent else fault.late)
        finally:
            self.server.leave()
        if not (fault and fault.silent):
            self._send(raw, fault or Fault())

    def _response(self, body, fault):
        """The whole response, as bytes."""
        fault = fault or Fault()
        content = fault.body if fault.body is not None else self._completion(body)
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        content = content.replace(b"{key}", self.headers.get("authorization", "").removeprefix("Bearer ").encode())
        headers = {"content-type": "application/json"} | dict(fault.headers) | {"content-length": len(content)}
        lines = [f"{name}: {value() if callable(value) else value}" for name, value in headers.items() if value != ""]
        return "\r\n".join([f"HTTP/1.1 {fault.status} X", *lines, "", ""]).encode() + content

    def _completion(self, body):
        text = self.server.model(body["messages"])
        message = {"role": "assistant", "content": text}
        return {
            "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 1, "completion_tokens": len(text.split()), "total_tokens": 2},
        }  # fmt: skip

    def _send(self, raw, fault):
        if fault.drip:
            for place in range(len(raw)):
                self.wfile.write(raw[place : place + 1])
                if self.server.closing.wait(fault.drip):
                    return
        elif fault.cut is not None:
            self.wfile.write(raw[: fault.cut])
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())  # with SO_LINGER 0: a reset, not an end
            self.close_connection = True
        else:
            self.wfile.write(raw)

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--model", default="collector", help="function in tests/fakes.py; judge: longer")
    parser.add_argument("--faults", default="", help=f"of the first requests, with commas: {', '.join(FAULTS)}")
    given = parser.parse_args()
    model = getattr(fakes, "longer" if given.model == "judge" else given.model)
    with Server(model, given.ledger, given.delay, given.port) as server:
        server.faults[None] = [name for name in given.faults.split(",") if name]
        print(server.server_port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
