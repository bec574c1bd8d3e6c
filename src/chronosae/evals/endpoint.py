"""A language model behind an OpenAI-compatible endpoint: its key, one request with further tries, answers kept."""

import hashlib
import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from chronosae.config import UserError
from chronosae.config.files import write_text

LOCAL = ("localhost", "127.0.0.1", "::1")
LONGEST_PAUSE = 60.0
LARGEST_ANSWER = 2**22
SHOWN = 200
"""Characters of a server's message that are shown."""
LATER = (408, 409, 425, 429)
WRONG_SETTING = (401, 402, 403, 404, 405)
HIDDEN = "[key]"
# A shorter one is a placeholder such as `none` or `EMPTY`; to blank it out would damage answers.
SECRET_LENGTH = 8
# Of the files of answers.
FORMAT = 1


def read_key(name: str | None) -> str | None:
    """The key in the environment variable `name`; None where no key is wanted.

    Raises:
        UserError: it is absent, empty, or can't be sent; its value is not shown.
    """
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise UserError(f"evals.autointerp.key_env: the environment variable {name} is not set; {how_to_set(name)}")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"evals.autointerp.key_env: what {name} holds is no key (a space, a line break, or a letter beyond ASCII)"
        )
    return key


def how_to_set(name: str) -> str:
    """For people."""
    return f"export {name}=..., or --set evals.autointerp.key_env=null for an endpoint that wants no key"


def _hide(text: str, key: str | None) -> str:
    """`text` without the key: servers have been known to repeat it."""
    return text.replace(key, HIDDEN) if key and len(key) >= SECRET_LENGTH else text


@dataclass(frozen=True)
class Answer:
    """What a model wrote."""

    text: str
    finish: str
    """`stop`, `length` (cut at the limit) ..."""
    prompt_tokens: int
    completion_tokens: int


class Refused(Exception):
    """The endpoint won't answer this request (a content filter, too long), whatever it does with others."""


class Stopped(Exception):
    """Another request failed for good, so this one isn't tried any more."""


class _Later(Exception):
    """Try again, after `pause` seconds where the server said so."""

    def __init__(self, why: str, pause: float | None = None) -> None:
        super().__init__(why)
        self.pause = pause


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another place."""

    def redirect_request(self, *_args: Any, **_more: Any) -> None:
        return None


class Endpoint:
    """`POST base_url/chat/completions`. Safe to use from many threads.

    Args:
        key: sent as a bearer token; None sends none.
        timeout: seconds until a request without a whole answer counts as lost.
        retries: further tries after 429, 5xx, timeouts and lost connections.
        backoff: seconds before the first of them; doubles each time.
    """

    def __init__(self, base_url: str, key: str | None, *, timeout: float, retries: int, backoff: float) -> None:
        self.base_url, self._key = base_url, key
        self._timeout, self._retries, self._backoff = timeout, retries, backoff
        # A local server is never behind a proxy, whatever the environment says.
        direct = [urllib.request.ProxyHandler({})] if urlsplit(base_url).hostname in LOCAL else []
        self._opener = urllib.request.build_opener(_NoRedirect(), *direct)
        self._stop = threading.Event()

    def stop(self) -> None:
        """End all waiting: requests that would be tried again aren't."""
        self._stop.set()

    def ask(self, request: Mapping[str, Any]) -> Answer:
        """The answer to a chat-completions request.

        Raises:
            UserError: the endpoint can't be reached, refuses key, model or address, or all tries were lost.
            Refused: it refuses this request.
            Stopped: `stop` was called.
        """
        body = json.dumps(request).encode()
        # Spreads the threads' further tries; by content, so that no other randomness is touched.
        spread = random.Random(body)
        why = ""
        for attempt in range(self._retries + 1):
            if self._stop.is_set():
                raise Stopped
            try:
                return self._post(body)
            except _Later as problem:
                pause = min(LONGEST_PAUSE, self._backoff * 2**attempt) * spread.uniform(0.5, 1.0)
                pause = pause if problem.pause is None else min(problem.pause, LONGEST_PAUSE)
                why = str(problem)
            if attempt < self._retries:
                self._stop.wait(pause)
        raise UserError(
            f"autointerp: {self.base_url}: {why}, {self._retries + 1} times in a row; run again later (answers so far"
            " are kept where answers_dir or the activation cache is set), or lower evals.autointerp.concurrency"
        )

    def _post(self, body: bytes) -> Answer:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(f"{self.base_url}/chat/completions", body, headers, method="POST")
        deadline = time.monotonic() + self._timeout
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                text = _read(response, deadline)
        except urllib.error.HTTPError as error:
            with error:
                raise self._problem(error, deadline) from None
        except TimeoutError:
            raise _Later(f"no answer within {self._timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:  # refused, reset, cut off, name unknown ...
            reason = getattr(error, "reason", None) or error
            raise _Later(_hide(f"connection failed ({reason})", self._key)) from None
        return self._parse(text)

    def _problem(self, error: urllib.error.HTTPError, deadline: float) -> Exception:
        """What an HTTP error means for the request."""
        try:
            said = _message(_read(error, deadline))
        except (OSError, http.client.HTTPException):
            said = ""
        said = _hide(f"HTTP {error.code} {said}".strip(), self._key)[:SHOWN]
        if error.code in LATER or error.code >= 500:
            return _Later(said, _retry_after(error.headers.get("Retry-After")))
        if error.code in WRONG_SETTING or error.code < 400:
            return UserError(f"autointerp: {self.base_url}: {said}; check base_url, model and key_env")
        return Refused(said)

    def _parse(self, text: str) -> Answer:
        try:
            answer = json.loads(text)
            choice = answer["choices"][0]
            content = choice["message"].get("content")
            usage = answer.get("usage") or {}
            return Answer(
                _hide(content, self._key) if isinstance(content, str) else "",
                str(choice.get("finish_reason") or ""),
                int(usage.get("prompt_tokens") or 0),
                int(usage.get("completion_tokens") or 0),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Later("an answer that is no chat completion") from None


def _read(response: http.client.HTTPResponse | urllib.error.HTTPError, deadline: float) -> str:
    """The body; a server that drips it out, or sends without end, is cut off."""
    parts, size = [], 0
    # `read` would wait for all of it; `read1` hands out what has come.
    while part := response.read1(2**16):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline or size > LARGEST_ANSWER:
            raise TimeoutError
    return b"".join(parts).decode("utf-8", "replace")


def _message(text: str) -> str:
    """The message in an error's body, on one line."""
    try:
        found = json.loads(text)
        error = found.get("error", found)
        text = error if isinstance(error, str) else str(error.get("message") or error.get("detail") or "")
    except (ValueError, AttributeError):
        text = "" if text.lstrip().startswith("<") else text
    return " ".join(text.split())


def _retry_after(value: str | None) -> float | None:
    """Seconds, given as such or as a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


class Answers:
    """Answers under a hash of endpoint, model, prompt and parameters: what was asked once is never paid for again.

    Neither prompt nor key is written.

    Args:
        folder: where they are kept, one small file each; None keeps them in memory only.
    """

    def __init__(self, folder: Path | None, base_url: str) -> None:
        self._folder, self._base_url = folder, base_url
        self._known: dict[str, Answer] = {}
        self._lock = threading.Lock()

    def get(self, request: Mapping[str, Any]) -> Answer | None:
        """The answer that was given to an equal request; a damaged file counts as none."""
        key = self._key(request)
        with self._lock:
            if key in self._known:
                return self._known[key]
        if self._folder is None:
            return None
        try:
            answer = Answer(**json.loads(self._path(key).read_text(encoding="utf-8"))["answer"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        with self._lock:
            self._known[key] = answer
        return answer

    def put(self, request: Mapping[str, Any], answer: Answer) -> None:
        """Keep an answer; whole or not at all."""
        key = self._key(request)
        with self._lock:
            self._known[key] = answer
        if self._folder is not None:
            write_text(self._path(key), json.dumps({"format": FORMAT, "answer": asdict(answer)}))

    def _key(self, request: Mapping[str, Any]) -> str:
        parts = {"format": FORMAT, "base_url": self._base_url, "request": dict(request)}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / key[:2] / f"{key}.json"
