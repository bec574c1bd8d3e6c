"""`Subject`: the language model under study, read and edited at named sites."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.config import SubjectConfig, UserError
from chronosae.subject.architectures import dissect
from chronosae.subject.chat import ChatTokens, chat_tokens
from chronosae.subject.hooks import Edit, StopForward, editing, reading, skipping, watching_output_type, with_fused_gelu
from chronosae.subject.info import SubjectInfo, check_sites, describe, fingerprint
from chronosae.subject.loading import load_hf_config, load_model, load_tokenizer, resolve_device
from chronosae.subject.sites import Site

AttentionMask = Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"]

# On a CPU, more tokens at once make intermediates that leave the cache and fault in fresh pages, which costs a fifth.
_PASS_TOKENS = 2048


class Subject:
    """A frozen Hugging Face causal language model.

    Every forward pass takes whole contexts without a key-value cache. `attention_mask` (1 or True at real tokens) is
    needed only where contexts are padded; positions then count real tokens, so padding on either side changes nothing
    at a real token. Without it all tokens are real.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, device: torch.device | None = None) -> None:
        """Wrap a model that is already loaded; `device` is where results go (the model's own when absent)."""
        self.name = name
        self.model = with_fused_gelu(model.eval().requires_grad_(False))
        self.tokenizer = tokenizer
        self.device: torch.device = device or model.device
        self.dtype: torch.dtype = model.dtype
        self.info: SubjectInfo = describe(model.config, sum(p.numel() for p in model.parameters()))
        self._anatomy = dissect(model)

    @classmethod
    def load(cls, cfg: SubjectConfig, name: str | None = None) -> "Subject":
        """Load from a local folder or the Hugging Face Hub, weights from safetensors only.

        `name` is what messages call the subject; absent, the folder's or the Hub's name.

        Raises:
            UserError: one line that names the key, whatever is wrong with the model, the tokenizer or the device.
        """
        device = resolve_device(cfg.device)
        config = load_hf_config(cfg)
        model = load_model(cfg, config, device)
        tokenizer = load_tokenizer(cfg, model.get_input_embeddings().num_embeddings)
        path = Path(cfg.model).expanduser()
        own_name = path.resolve().name if path.is_dir() else cfg.model
        return cls(model, tokenizer, name or own_name, device)

    @property
    def n_layers(self) -> int:
        """Decoder layers."""
        return self.info.n_layers

    @property
    def max_context(self) -> int:
        """Longest context the model was made for, in tokens."""
        return self.info.max_context

    @property
    def vocab_size(self) -> int:
        """Rows of the logits, which may exceed the tokenizer's vocabulary."""
        return self.info.vocab_size

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of configuration, vocabulary and a sample of every weight: equal means equal activations."""
        return fingerprint(self.model, self.tokenizer)

    def d_in(self, site: str) -> int:
        """Width of the activations at `site`."""
        self.check_sites([site])
        return self.info.d_model

    def check_sites(self, sites: Sequence[str]) -> None:
        """`UserError` that lists the legal names when one of `sites` isn't among them."""
        check_sites(self.info, sites)

    @torch.no_grad()
    def activations(
        self,
        tokens: Int[Tensor, "batch pos"],
        sites: Sequence[str],
        attention_mask: AttentionMask | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Float[Tensor, "batch pos d_in"]]:
        """Activations at `sites`, from forward passes that end at the last of them; in `dtype`, or the model's own."""
        parsed = check_sites(self.info, sites)
        tokens = self._checked(tokens)
        parts = self._passes(tokens)
        if len(parts) == 1:
            acts = self._read(tokens, parsed, attention_mask)
            return {str(site): acts[site].to(self.device, dtype) for site in parsed}
        shape = (*tokens.shape, self.info.d_model)
        whole = {site: torch.empty(shape, dtype=dtype or self.dtype, device=self.device) for site in parsed}
        for part in parts:
            acts = self._read(tokens[part], parsed, None if attention_mask is None else attention_mask[part])
            for site in parsed:
                whole[site][part] = acts[site]
        return {str(site): whole[site] for site in parsed}

    def _passes(self, tokens: Tensor) -> list[slice]:
        """Which sequences go through the model together."""
        batch, pos = tokens.shape
        each = max(1, _PASS_TOKENS // max(1, pos)) if self.device.type == "cpu" else max(1, batch)
        return [slice(start, start + each) for start in range(0, max(1, batch), each)]

    def _read(self, tokens: Tensor, sites: Sequence[Site], attention_mask: Tensor | None) -> dict[Site, Tensor]:
        with reading(self._anatomy, sites) as acts, contextlib.suppress(StopForward):
            self._forward(attention_mask, input_ids=tokens)
        return acts

    @torch.no_grad()
    def logits(
        self, tokens: Int[Tensor, "batch pos"], attention_mask: AttentionMask | None = None
    ) -> Float[Tensor, "batch pos vocab"]:
        """Logits of the unedited model."""
        return self._forward(attention_mask, input_ids=self._checked(tokens))

    def run_with(
        self,
        tokens: Int[Tensor, "batch pos"],
        edits: Mapping[str, Edit],
        attention_mask: AttentionMask | None = None,
    ) -> Float[Tensor, "batch pos vocab"]:
        """Logits of a full pass in which the activations `acts [batch pos d_in]` at each site become `edit(acts)`.

        Gradients flow through the edits where grad mode is on and they need any.
        """
        with editing(self._anatomy, self._parsed(edits)):
            return self._forward(attention_mask, input_ids=self._checked(tokens))

    def run_from(
        self,
        site: str,
        acts: Float[Tensor, "batch pos d_in"],
        tokens: Int[Tensor, "batch pos"] | None = None,
        attention_mask: AttentionMask | None = None,
    ) -> Float[Tensor, "batch pos vocab"]:
        """Logits when the activations at `site` are `acts`; gradients flow to `acts` where grad mode is on.

        From a residual site the layers before it aren't computed and `tokens` aren't needed. The output of attention
        or of an MLP doesn't determine the residual stream beside it: there `tokens` are needed, for a full pass.

        Raises:
            ValueError: tokens are needed and missing.
        """
        (parsed,) = check_sites(self.info, [site])
        replaced = {parsed: lambda _: acts}
        if parsed.kind in ("attn_out", "mlp_out"):
            if tokens is None:
                raise ValueError(f"run_from({site!r}) needs tokens: the site holds only what its branch adds")
            with editing(self._anatomy, replaced):
                return self._forward(attention_mask, input_ids=self._checked(tokens))
        skipped = self._anatomy.layers[: parsed.layer + (parsed.kind == "resid_post")]
        # The trunk builds masks and positions from the shape; skipped layers hand these values on, unused.
        placeholder = acts.detach().to(self.device, self.dtype)
        with skipping(skipped, self._layers_return_tuples), editing(self._anatomy, replaced):
            return self._forward(attention_mask, inputs_embeds=placeholder)

    @torch.no_grad()
    def generate(
        self,
        tokens: Int[Tensor, "batch pos"],
        max_new_tokens: int,
        edits: Mapping[str, Edit] | None = None,
        attention_mask: AttentionMask | None = None,
        **options: Any,
    ) -> Int[Tensor, "batch total"]:
        """Prompt and continuation by the model's own `generate` (greedy unless `options` say otherwise).

        With the key-value cache an edit sees the prompt at once and then each new token alone.
        """
        tokens = self._checked(tokens)
        mask = torch.ones_like(tokens) if attention_mask is None else attention_mask.to(self.device).long()
        if "pad_token_id" not in options and self.model.generation_config.pad_token_id is None:
            options["pad_token_id"] = self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0
        with editing(self._anatomy, self._parsed(edits or {})):
            return self.model.generate(
                tokens, attention_mask=mask, max_new_tokens=max_new_tokens, **{"do_sample": False, **options}
            )

    def chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = False) -> ChatTokens:
        """A conversation as tokens and roles, by the tokenizer's chat template; see `chat.chat_tokens`."""
        return chat_tokens(self.tokenizer, messages, add_generation_prompt)

    def _parsed(self, edits: Mapping[str, Edit]) -> dict[Site, Edit]:
        if not edits:
            return {}
        return dict(zip(check_sites(self.info, list(edits)), edits.values(), strict=True))

    def _checked(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] > self.max_context:
            raise UserError(f"a context of {tokens.shape[1]} tokens is longer than the model's {self.max_context}")
        return tokens.to(self.device)

    def _forward(self, attention_mask: Tensor | None, **inputs: Tensor) -> Tensor:
        if attention_mask is not None:
            mask = attention_mask.to(self.device).long()
            inputs |= {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        return self.model(**inputs, use_cache=False).logits.to(self.device)

    @functools.cached_property
    def _layers_return_tuples(self) -> bool:
        """Whether decoder layers wrap their output; differs between families up to transformers 4.57."""
        token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        with torch.no_grad(), watching_output_type(self._anatomy.layers[0]) as types, contextlib.suppress(StopForward):
            self._forward(None, input_ids=token)
        return issubclass(types[0], tuple)
