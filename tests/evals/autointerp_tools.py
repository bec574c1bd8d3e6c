"""A real HTTP server that speaks the chat-completions schema, and what answers its requests in tests."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from chronosae import world
from chronosae.autoencoders import Autoencoder, SparseCodes
from chronosae.config import SubjectConfig
from chronosae.evals.autointerp import Autointerp
from chronosae.evals.workbench import ActivationCache, Workbench
from chronosae.presets import build
from chronosae.subject import Subject

SITE = "blocks.0.hook_resid_pre"
KEY = "sk-secret-0123456789abcdef"


@dataclass
class Reply:
    """What a server says to one request."""

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    finish: str = "stop"
    body: bytes | None = None
    """The whole body, in place of a completion."""


@dataclass
class ChatServer:
    """Serves `reply(request, number of the request)` on a free port; notes what came in."""

    reply: Callable[[dict[str, Any], int], Reply | str]
    delay: float = 0.0
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def __enter__(self) -> "ChatServer":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that no longer waits is part of the tests
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
            self.headers.append(headers)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        time.sleep(self.delay)
        try:
            said = self.reply(request, number)
            return Reply(said) if isinstance(said, str) else said
        finally:
            with self._lock:
                self._now -= 1


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = server.answer(request, dict(self.headers))
            body = said.body if said.body is not None else json.dumps(completion(said)).encode()
            self.send_response(said.status)
            for name, value in {"Content-Length": str(len(body)), **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def completion(said: Reply) -> dict[str, Any]:
    """The chat-completions schema; an error's where the status says so."""
    if said.status != 200:
        return {"error": {"message": said.text, "type": "error"}}
    message = {"role": "assistant", "content": said.text}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": said.finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


def explains(request: dict[str, Any]) -> bool:
    """The request asks for an explanation, not for a judgement."""
    return request["messages"][1]["content"].startswith("The excerpts:")


def excerpts(request: dict[str, Any]) -> list[str]:
    """The excerpts of a request, read as JSON strings; every line of them must be one."""
    listed = request["messages"][1]["content"].partition("The excerpts:\n")[2].split("\n")
    found = []
    for number, line in enumerate(listed, start=1):
        start, quoted = line.split(". ", 1)
        assert start == str(number)
        found.append(json.loads(quoted))
    return found


def marked(request: dict[str, Any]) -> list[str]:
    """What stands between the marks of a request for an explanation."""
    opening, closing = re.search(r"between (\S+) and (\S+); these", request["messages"][0]["content"]).groups()
    inside = re.escape(opening) + "(.*?)" + re.escape(closing)
    return [token for text in excerpts(request) for token in re.findall(inside, text, re.DOTALL)]


def occurs(word: str, text: str) -> bool:
    """As a whole word."""
    return re.search(re.escape(word) + "(?![a-z])", text) is not None


def rule_judge(request: dict[str, Any], _number: int = 0) -> str:
    """Explains by the token that is marked most often; detects where that text occurs."""
    if explains(request):
        token = Counter(marked(request)).most_common(1)[0][0]
        return f"This feature is active on the text {json.dumps(token)}."
    explanation = json.loads(request["messages"][1]["content"].split("\n")[1])
    token = json.loads(explanation.removeprefix("the text "))
    numbers = [str(i) for i, text in enumerate(excerpts(request), start=1) if occurs(token, text)]
    return ", ".join(numbers) or "None"


def planted(subject: Any) -> Autoencoder:
    """One feature a token: feature i is active where token i is, and nowhere else."""
    embeddings = subject.model.get_input_embeddings().weight.detach().float()
    sae = build("topk", d_in=embeddings.shape[1], d_sae=len(embeddings), k=1)
    with torch.no_grad():
        sae.W_enc.copy_((embeddings / embeddings.norm(dim=1, keepdim=True)).T)
    return sae


class Scattered(Autoencoder):
    """The planted features, each as often active as before, at random other tokens of the batch."""

    def encode(self, acts: Any, mask: Any = None, **more: Any) -> SparseCodes:
        codes = super().encode(acts, mask, **more)
        assert isinstance(codes, SparseCodes) and mask is not None
        indices, values = codes.indices.clone(), codes.values.clone()
        order = torch.randperm(int(mask.sum()), generator=torch.Generator().manual_seed(0))
        indices[mask], values[mask] = indices[mask][order], values[mask][order]
        return SparseCodes(values, codes.scale, indices, codes.n_features)


def scattered(subject: Any) -> Autoencoder:
    """Features that mean nothing."""
    sae = planted(subject)
    sae.__class__ = Scattered
    return sae


def words(subject: Any, texts: list[str], at_least: int) -> list[int]:
    """Tokens that are a whole longer word and occur often: a rule can't mistake them for parts of others."""
    tokenizer = subject.tokenizer
    counts = Counter(i for row in tokenizer(texts, add_special_tokens=False)["input_ids"] for i in set(row))
    plain = [i for i, n in counts.items() if n >= at_least and re.fullmatch(r" [A-Za-z]{4,}", tokenizer.decode([i]))]
    return sorted(plain)


def world_bench(folder: Path) -> Workbench:
    """The embedded model at its embeddings; activations are kept in `folder`."""
    world.register()
    subject = Subject.load(SubjectConfig(model=str(world.model_folder()), device="cpu"), name="world")
    return Workbench(subject, SITE, cache=ActivationCache(folder))


def options(server: ChatServer, **more: Any) -> Autointerp:
    """Small and quick."""
    small = {
        "base_url": server.base_url,
        "model": "rule",
        "key_env": None,
        "backoff": 0.01,
        "tokens": 6000,
        "n_top_ex_for_generation": 3,
        "n_iw_sampled_ex_for_generation": 2,
        "n_top_ex_for_scoring": 1,
        "n_iw_sampled_ex_for_scoring": 1,
        "n_random_ex_for_scoring": 5,
    }
    return Autointerp(**(small | more))
