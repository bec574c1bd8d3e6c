"""Can a language model say in words what a latent is active on? Explanations, judged by detection."""

import socket
import urllib.request
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import urlsplit

from chronosae.autoencoders import Autoencoder
from chronosae.config import UserError
from chronosae.corpora import open_source
from chronosae.evals.autointerp.data import NAME, AutointerpOptions
from chronosae.evals.autointerp.measure import measure
from chronosae.evals.autointerp.report import report
from chronosae.evals.endpoint import LOCAL, how_to_set, read_key
from chronosae.evals.evaluation import EVALUATIONS, EvalResult, Evaluation, Missing, Setting
from chronosae.evals.workbench import Workbench

CONNECT_SECONDS = 3.0


@EVALUATIONS.add
class Autointerp(AutointerpOptions, Evaluation):
    """A language model explains latents from examples and detects where they are active by its explanation.

    Explanation and detection (arXiv 2410.13928) by SAEBench's recipe, against any OpenAI-compatible endpoint.
    """

    name = NAME
    eval_type_id = NAME
    undefined = -1
    headline: ClassVar[Mapping[str, str]] = {"autointerp_score": "autointerp"}
    outward = ("base_url", "key_env", "data", "subset", "split", "text_field", "answers_dir")

    def preflight(self, setting: Setting) -> list[Missing]:
        """Everything that is missing. No request is made: a connection is opened and closed."""
        found = [_address(self), _key(self), _latents(self, setting), _text(self)]
        return [missing for missing in found if missing is not None]

    def run(self, bench: Workbench, saes: Mapping[str, Autoencoder]) -> dict[str, EvalResult]:
        """See `Evaluation.run`.

        Raises:
            UserError: no endpoint or key is given, the endpoint fails for good, or the estimated cost is above
                `max_cost`; answers until then are kept.
        """
        for name, sae in saes.items():
            _check_latents(self, name, sae.d_sae)
        measured = measure(self, bench, saes)
        return {name: report(self, bench, measured, name) for name in saes}


def _address(options: AutointerpOptions) -> Missing | None:
    absent = [name for name in ("base_url", "model") if not getattr(options, name)]
    if absent or options.base_url is None:
        return Missing(
            "an OpenAI-compatible endpoint",
            f"{' and '.join(f'evals.autointerp.{name}' for name in absent)} not set",
            "for instance --set evals.autointerp.base_url=https://api.openai.com/v1"
            " --set evals.autointerp.model=gpt-4o-mini (text of evals.autointerp.data is sent there)",
        )
    problem = _unreachable(options.base_url)
    if problem is None:
        return None
    return Missing(
        f"the endpoint {options.base_url}", problem, "start it, or correct it with --set evals.autointerp.base_url=URL"
    )


def _unreachable(base_url: str) -> str | None:
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if host not in LOCAL and parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return None  # the proxy will know
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as error:
        return f"can't be reached ({error.strerror or error})"
    return None


def _key(options: AutointerpOptions) -> Missing | None:
    try:
        read_key(options.key_env)
    except UserError as error:
        assert options.key_env is not None
        why = str(error).split(": ", 1)[1].split(";")[0]
        return Missing("the endpoint's key", why, how_to_set(options.key_env))
    return None


def _latents(options: AutointerpOptions, setting: Setting) -> Missing | None:
    for name, d_sae in setting.d_sae.items():
        try:
            _check_latents(options, name, d_sae)
        except UserError as error:
            return Missing("latents", str(error), "correct --set evals.autointerp.override_latents=[...]")
    return None


def _check_latents(options: AutointerpOptions, name: str, d_sae: int) -> None:
    """`UserError` where `override_latents` names one that an autoencoder doesn't have."""
    beyond = [latent for latent in options.override_latents or () if latent >= d_sae]
    if beyond:
        raise UserError(f"evals.autointerp.override_latents: {name} has latents 0 to {d_sae - 1}, so no {beyond[0]}")


def _text(options: AutointerpOptions) -> Missing | None:
    try:
        open_source(options.source, "evals.autointerp.data")
    except UserError as error:
        return Missing(
            f"the text {options.data}", str(error), "give a file or folder: --set evals.autointerp.data=PATH"
        )
    return None
