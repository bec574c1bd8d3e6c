"""Autointerp against real HTTP servers: further tries, limits, what is kept, what is never written."""

import json
import logging
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from autointerp_tools import KEY, ChatServer, Reply, explains, options, planted, rule_judge, words, world_bench
from transformers.utils.import_utils import is_serve_available

from chronosae import world
from chronosae.config import UserError
from chronosae.evals.endpoint import Answer, Answers, Endpoint, Refused, Stopped
from chronosae.evals.envelope import Provenance, result_envelope, write_envelope
from chronosae.evals.evaluation import EvalResult
from chronosae.evals.workbench import ActivationCache, Workbench
from chronosae.subject import Subject

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return world_bench(tmp_path_factory.mktemp("acts"))


@pytest.fixture(scope="module")
def latents(bench: Workbench) -> list[int]:
    return words(bench.subject, [world.make_document("test", i).text for i in range(36)], at_least=7)[:5]


def run(bench: Workbench, server: ChatServer, latents: list[int], **more: Any) -> EvalResult:
    asked = options(server, override_latents=latents, **more)
    return asked.run(bench, {"a": planted(bench.subject)})["a"]


def endpoint(server: ChatServer, **more: Any) -> Endpoint:
    return Endpoint(server.base_url, **({"key": KEY, "timeout": 5.0, "retries": 3, "backoff": 0.01} | more))


LOST = [
    Reply("slow down", 429),
    Reply("overloaded", 500),
    Reply("bad gateway", 502),
    Reply(body=b"<html>not json"),
    Reply(body=b"{}"),
    Reply(body=b"{}", headers={"Content-Length": "999"}),
]


@pytest.mark.parametrize("lost", LOST, ids=lambda reply: f"{reply.status}-{reply.body}")
def test_a_request_that_is_lost_is_tried_again(lost: Reply) -> None:
    with ChatServer(lambda _, number: lost if number < 2 else "hello") as server:
        assert endpoint(server, timeout=3.0).ask(REQUEST) == Answer("hello", "stop", 100, 10)
        assert len(server.requests) == 3 and server.requests[0] == REQUEST
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}


def test_a_server_that_says_when_is_heeded() -> None:
    first = Reply("wait", 429, {"Retry-After": "0.3"})
    with ChatServer(lambda _, number: first if number == 0 else "x") as server:
        start = time.monotonic()
        endpoint(server, backoff=0.0).ask(REQUEST)
        assert time.monotonic() - start >= 0.3


def test_a_request_without_an_answer_is_lost() -> None:
    with ChatServer(lambda _, number: time.sleep(0.6 * (number == 0)) or "x") as server:
        assert endpoint(server, timeout=0.2).ask(REQUEST).text == "x"
        assert len(server.requests) == 2


def test_after_all_tries_one_line_says_what_happened() -> None:
    with ChatServer(lambda *_: Reply(f"overloaded, {KEY}", 503)) as server:
        with pytest.raises(UserError, match="503 overloaded") as error:
            endpoint(server, retries=1).ask(REQUEST)
        assert len(server.requests) == 2 and KEY not in str(error.value)
    with pytest.raises(UserError, match="connection failed") as error:
        endpoint(server, retries=0).ask(REQUEST)


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_a_wrong_setting_is_told_at_once(status: int) -> None:
    with ChatServer(lambda *_: Reply(f"no: {KEY}", status, {"Location": "http://127.0.0.1:9/"})) as server:
        with pytest.raises(UserError, match="base_url, model and key_env") as error:
            endpoint(server).ask(REQUEST)
        assert len(server.requests) == 1 and KEY not in str(error.value) and "\n" not in str(error.value)


def test_a_refused_request_is_not_tried_again_and_waiting_can_be_stopped() -> None:
    with ChatServer(lambda *_: Reply("content filter", 400)) as server:
        with pytest.raises(Refused, match="content filter"):
            endpoint(server).ask(REQUEST)
        assert len(server.requests) == 1
    with ChatServer(lambda *_: Reply("later", 429, {"Retry-After": "50"})) as server:
        waiting = endpoint(server)
        threading.Timer(0.2, waiting.stop).start()
        with pytest.raises(Stopped):
            waiting.ask(REQUEST)


def test_no_more_requests_are_under_way_than_allowed(bench: Workbench, latents: list[int]) -> None:
    with ChatServer(rule_judge, delay=0.05) as server:
        run(bench, server, latents, concurrency=2)
        assert server.most_at_once == 2 and len(server.requests) == 2 * len(latents)


def test_what_was_answered_once_is_never_asked_again(bench: Workbench, latents: list[int], tmp_path: Path) -> None:
    with ChatServer(rule_judge) as server:
        first = run(bench, server, latents, answers_dir=str(tmp_path))
        n = len(server.requests)
        again = run(bench, server, latents, answers_dir=str(tmp_path))
        assert len(server.requests) == n == 2 * len(latents)
        assert again.metrics == first.metrics and again.unstructured == first.unstructured
        assert again.block["asked"]["estimate"]["calls"] == 0 and again.block["asked"]["kept_answers"] == n
        run(bench, server, latents[:1], answers_dir=str(tmp_path), model="another")
        assert len(server.requests) == n + 2
        for file in tmp_path.rglob("*.json"):
            file.write_text("{damaged")
        run(bench, server, latents[:1], answers_dir=str(tmp_path))
        assert len(server.requests) == n + 4


def test_answers_are_kept_in_the_run_not_with_the_passing_activations(
    bench: Workbench, latents: list[int], tmp_path: Path
) -> None:
    own = replace(bench, cache=ActivationCache(tmp_path / "cache"), keep=tmp_path / "evals")
    with ChatServer(rule_judge) as server:
        run(own, server, latents)
        n = len(server.requests)
        shutil.rmtree(tmp_path / "cache")
        run(own, server, latents)
        assert len(server.requests) == n and list((tmp_path / "evals" / "autointerp" / "answers").rglob("*.json"))


def test_an_interrupted_run_goes_on_where_it_was(bench: Workbench, latents: list[int], tmp_path: Path) -> None:
    def breaks(request: dict[str, Any], number: int) -> Reply | str:
        return rule_judge(request) if number < 3 else Reply("the key was revoked", 401)

    with ChatServer(breaks) as server:
        with pytest.raises(UserError, match="revoked"):
            run(bench, server, latents, answers_dir=str(tmp_path), concurrency=1)
        server.reply = rule_judge
        n = len(server.requests)
        run(bench, server, latents, answers_dir=str(tmp_path))
        assert len(server.requests) - n == 2 * len(latents) - 3


def test_answers_keep_apart_what_differs(tmp_path: Path) -> None:
    answers = Answers(tmp_path, "http://a/v1")
    answers.put(REQUEST, Answer("x", "stop", 1, 1))
    assert Answers(tmp_path, "http://a/v1").get(REQUEST) == Answer("x", "stop", 1, 1)
    assert Answers(tmp_path, "http://b/v1").get(REQUEST) is None
    for change in ({"seed": 1}, {"model": "n"}, {"temperature": 0.5}):
        assert answers.get({**REQUEST, **change}) is None
    assert "hello" not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))


def test_the_key_is_in_no_file_and_no_message(
    bench: Workbench,
    latents: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AUTOINTERP_TEST_KEY", KEY)
    caplog.set_level(logging.DEBUG)

    def echoes(request: dict[str, Any], number: int) -> Reply | str:
        if number == 1:
            return Reply(f"you sent Bearer {KEY}", 500)
        return f"This feature is active on {KEY}" if explains(request) else f"{rule_answer(request)}"

    def rule_answer(request: dict[str, Any]) -> str:
        return KEY if len(request["messages"][1]["content"]) % 2 else "1"

    with ChatServer(echoes) as server:
        asked = options(
            server, override_latents=latents, key_env="AUTOINTERP_TEST_KEY", answers_dir=str(tmp_path / "answers")
        )
        sae = planted(bench.subject)
        result = asked.run(bench, {"a": sae})["a"]
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    provenance = Provenance("world", "f", "float32", "world", "c", 0, "cpu")
    write_envelope(result_envelope(asked, "a", sae, bench.site, result, provenance), tmp_path / "result.json")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > len(latents)
    for path in files:
        assert KEY not in path.read_text()
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err + caplog.text + repr(result) + repr(asked)


def test_a_key_that_cannot_be_sent_is_not_shown(
    bench: Workbench, latents: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ChatServer(rule_judge) as server:
        for value, says in ((KEY + "\nX-Other: 1", "no key"), ("", "not set")):
            monkeypatch.setenv("AUTOINTERP_TEST_KEY", value)
            with pytest.raises(UserError, match=says) as error:
                run(bench, server, latents, key_env="AUTOINTERP_TEST_KEY")
            assert KEY not in str(error.value)
        assert not server.requests


def test_nothing_is_asked_above_the_largest_cost(bench: Workbench, latents: list[int]) -> None:
    told: list[str] = []
    prices = {"price_in": 10.0, "price_out": 20.0}
    with ChatServer(rule_judge) as server:
        with pytest.raises(UserError, match=r"10 calls, about .* above evals\.autointerp\.max_cost"):
            run(bench, server, latents, max_cost=1e-6, **prices)
        assert not server.requests
        watched = Workbench(bench.subject, bench.site, cache=bench.cache, progress=lambda what, *_: told.append(what))
        result = run(watched, server, latents, max_cost=100.0, **prices)
    assert any("10 calls, about" in what and "at most" in what for what in told)
    asked = result.block["asked"]
    assert asked["spent"] == {"calls": 10, "prompt_tokens": 1000, "completion_tokens": 100, "cost": 0.012}
    assert asked["estimate"]["prompt_tokens"] >= 1000 and asked["estimate"]["cost"] > asked["spent"]["cost"]


def test_a_run_that_costs_more_than_was_estimated_is_stopped(bench: Workbench, latents: list[int]) -> None:
    body = {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 10**7, "completion_tokens": 1}}
    with ChatServer(lambda *_: Reply(body=json.dumps(body).encode())) as server:
        with pytest.raises(UserError, match="stopped after"):
            run(bench, server, latents, max_cost=5.0, price_in=1.0, price_out=1.0, concurrency=1)
        assert len(server.requests) < 4


def test_replies_that_cannot_be_read_are_counted_and_flagged(bench: Workbench, latents: list[int]) -> None:
    def mumbles(request: dict[str, Any], number: int) -> Reply | str:
        if explains(request):
            return ["", rule_judge(request)][number > 0]
        return "I think it is the first one" if number == 4 else Reply(rule_judge(request), finish="length")

    with ChatServer(mumbles) as server:
        result = run(bench, server, latents, concurrency=1)
    counts = result.block["latents"]
    assert counts["unanswered_no_explanation"] == 1 and counts["unanswered_unparsable"] == 1
    assert counts["scored"] == len(result.unstructured) == len(latents) - 2 and len(result.details) == len(latents)
    assert any(flag.startswith("no_explanation: 1 of 5") for flag in result.flags)
    assert any(flag.startswith("answers_cut") for flag in result.flags)


def test_a_few_refusals_are_flagged_and_nothing_but_refusals_is_an_error(bench: Workbench, latents: list[int]) -> None:
    with ChatServer(lambda q, number: Reply("content filter", 400) if number == 2 else rule_judge(q)) as server:
        result = run(bench, server, latents, concurrency=1)
        assert any(flag.startswith("refused: 1 of 5") for flag in result.flags)
    with ChatServer(lambda *_: Reply("unknown field max_tokens", 400)) as server:
        with pytest.raises(UserError, match="refuses every request: HTTP 400 unknown field max_tokens"):
            run(bench, server, latents, concurrency=1)
        assert 3 <= len(server.requests) <= 4  # one more may be under way when the third refusal is noticed


def test_options_decide_the_fields_that_are_sent(bench: Workbench, latents: list[int]) -> None:
    with ChatServer(rule_judge) as server:
        run(bench, server, latents[:1])
        assert set(server.requests[0]) == {"model", "messages", "max_tokens", "temperature", "seed"}
        run(bench, server, latents[:1], temperature=None, send_seed=False, token_limit="max_completion_tokens")
        assert set(server.requests[-1]) == {"model", "messages", "max_completion_tokens"}
        assert "Authorization" not in server.headers[-1]


def speaks(subject: Subject) -> Any:
    """The subject's own continuation of the conversation's end."""

    def reply(request: dict[str, Any], _number: int) -> Reply:
        prompt = "\n".join(message["content"] for message in request["messages"])
        rows = Workbench(subject, "blocks.0.hook_resid_pre").read([prompt[-600:]], 400)
        out = subject.generate(rows.tokens, min(6, request["max_tokens"]))
        return Reply(subject.tokenizer.decode(out[0, rows.tokens.shape[1] :]), finish="length")

    return reply


def test_the_embedded_model_itself_can_be_asked(bench: Workbench, latents: list[int], tmp_path: Path) -> None:
    with ChatServer(speaks(bench.subject)) as server:
        result = run(bench, server, latents[:2], answers_dir=str(tmp_path), concurrency=2)
    # It can't judge; what it says is counted for what it is.
    assert (
        sum(v for k, v in result.block["latents"].items() if k.startswith("unanswered")) + len(result.unstructured) == 2
    )
    assert {flag.split(":")[0] for flag in result.flags} >= {"answers_cut"}


TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


@pytest.fixture
def transformers_serve(tmp_path: Path) -> Iterator[str]:
    """Address of `transformers serve` with the embedded model, which is given a chat template."""
    if not is_serve_available():
        pytest.skip("needs pip install 'transformers[serving]'")
    folder = shutil.copytree(world.model_folder(), tmp_path / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu"]
    with (tmp_path / "serve.log").open("w") as log:
        server = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
        try:
            _wait_for(port, server)
            yield f"http://localhost:{port}/v1"
        finally:
            server.terminate()
            server.wait(30)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert server.poll() is None, "transformers serve ended"
        try:
            socket.create_connection(("localhost", port), 1).close()
            return
        except OSError:
            time.sleep(1)
    pytest.fail("transformers serve doesn't listen")


@pytest.mark.slow
def test_transformers_serve_can_be_asked(
    bench: Workbench, latents: list[int], transformers_serve: str, tmp_path: Path
) -> None:
    with ChatServer(rule_judge) as unused:
        asked = options(
            unused,
            base_url=transformers_serve,
            model=str(tmp_path / "model"),
            override_latents=latents[:2],
            n_top_ex_for_generation=1,
            n_iw_sampled_ex_for_generation=1,
            buffer=4,
            concurrency=1,
            answer_tokens=8,
        )
    result = asked.run(bench, {"a": planted(bench.subject)})["a"]
    spent = result.block["asked"]["spent"]
    assert spent["calls"] >= 2 and spent["prompt_tokens"] > 0 and not result.block["asked"]["refused"]
    assert len(result.details) == 2
