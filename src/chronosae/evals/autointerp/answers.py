"""Answers by the content of their request: what was asked once is never paid for again."""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chronosae.evals.autointerp.endpoint import Answer

FORMAT = 1


class Answers:
    """Answers under a hash of endpoint, model, prompt and parameters; neither prompt nor key is written.

    Arguments:
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
        if self._folder is None:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        temporary.write_text(json.dumps({"format": FORMAT, "answer": asdict(answer)}), encoding="utf-8")
        temporary.replace(path)

    def _key(self, request: Mapping[str, Any]) -> str:
        parts = {"format": FORMAT, "base_url": self._base_url, "request": dict(request)}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / key[:2] / f"{key}.json"
