"""Every core metric again, token by token, by the formulas as written; shares no code with `chronosae.evals`."""

import math

import torch
from torch import Tensor

from chronosae.activations import SequenceBatch
from chronosae.autoencoders import Autoencoder
from chronosae.subject import Subject


@torch.no_grad()
def oracle(subject: Subject, layer: int, sae: Autoencoder, batch: SequenceBatch, batch_size: int) -> dict[str, float]:
    """Metrics of a plain TopK/ReLU autoencoder at the output of `layer`, sequences cut into batches of `batch_size`."""
    codes, recon = _sae_by_hand(sae, batch.acts)
    where = [(s, p) for s in range(batch.n_sequences) for p in range(batch.tokens.shape[1]) if batch.mask[s, p]]
    tokens = [(batch.acts[w], recon[w], codes[w]) for w in where]
    out = _over_tokens(tokens)
    out |= _over_batches(batch, recon, batch_size)
    out |= _over_features(sae, codes, where)
    mean = torch.stack([x for x, _, _ in tokens]).mean(0)
    out["pca_explained_variance"] = _pca(torch.stack([x for x, _, _ in tokens]), round(out["l0"]))
    return out | _behaviour(subject, layer, batch, recon, mean)


def _sae_by_hand(sae: Autoencoder, acts: Tensor) -> tuple[Tensor, Tensor]:
    pre = (acts - sae.b_dec) @ sae.W_enc + sae.b_enc
    codes = pre.clamp_min(0)
    if sae.cfg.activation.kind == "topk":
        threshold = codes.sort(dim=-1, descending=True).values[..., sae.cfg.activation.k - 1 : sae.cfg.activation.k]
        codes = torch.where(codes >= threshold, codes, 0.0)
    return codes, codes @ sae.W_dec + sae.b_dec


def _over_tokens(tokens: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, float]:
    n, d = len(tokens), len(tokens[0][0])
    mean = sum(x for x, _, _ in tokens) / n
    error = [float(((x - y) ** 2).sum()) for x, y, _ in tokens]
    spread = [float(((x - mean) ** 2).sum()) for x, _, _ in tokens]
    return {
        "n_tokens": n,
        "explained_variance": 1 - sum(error) / sum(spread),
        "mse": sum(error) / (n * d),
        "cossim": sum(float(x @ y) / float(x.norm()) / float(y.norm()) for x, y, _ in tokens) / n,
        "l2_norm_in": sum(float(x.norm()) for x, _, _ in tokens) / n,
        "l2_norm_out": sum(float(y.norm()) for _, y, _ in tokens) / n,
        "l2_ratio": sum(float(y.norm() / x.norm()) for x, y, _ in tokens) / n,
        "relative_reconstruction_bias_pooled": sum(float(y @ y) for _, y, _ in tokens)
        / sum(float(x @ y) for x, y, _ in tokens),
        "l0": sum(int((f != 0).sum()) for _, _, f in tokens) / n,
        "novel_l0": sum(int((f != 0).sum()) for _, _, f in tokens) / n,
        "l1": sum(float(f.sum()) for _, _, f in tokens) / n,
    }


def _over_batches(batch: SequenceBatch, recon: Tensor, batch_size: int) -> dict[str, float]:
    n_total, mse, legacy, bias, errors, squares, per_dim = 0, [], [], [], [], [], []
    for start in range(0, batch.n_sequences, batch_size):
        rows = slice(start, start + batch_size)
        x, y = batch.acts[rows][batch.mask[rows]], recon[rows][batch.mask[rows]]
        n_total += len(x)
        e = ((x - y) ** 2).sum(1)
        mse += (e / len(x)).tolist()
        legacy += (1 - e / ((x - x.mean(0)) ** 2).sum(1)).tolist()
        bias.append(float((y**2).sum(1).mean() / (x * y).sum(1).mean()))
        errors.append(float(e.mean()))
        squares.append(float((x**2).sum(1).mean()))
        per_dim += (x**2).mean(0).tolist()
    average = lambda values: sum(values) / len(values)  # noqa: E731
    return {
        "mse_saebench": average(mse),
        "explained_variance_legacy": average(legacy),
        "explained_variance_saebench_060": 1 - average(errors) / (average(squares) - average(per_dim) ** 2),
        "relative_reconstruction_bias": average(bias),
    }


def _over_features(sae: Autoencoder, codes: Tensor, where: list[tuple[int, int]]) -> dict[str, float]:
    density = [sum(bool(codes[s, p, f] > 0) for s, p in where) / len(where) for f in range(sae.d_sae)]
    total = sum(density)
    return {
        "frac_alive": sum(v > 0 for v in density) / sae.d_sae,
        "freq_over_1_percent": sum(v > 0.01 for v in density) / sae.d_sae,
        "freq_over_10_percent": sum(v > 0.1 for v in density) / sae.d_sae,
        "normalized_freq_over_1_percent": sum(v for v in density if v > 0.01) / total,
        "normalized_freq_over_10_percent": sum(v for v in density if v > 0.1) / total,
        "average_max_encoder_cosine_sim": _average_max_cosine(sae.W_enc.T),
        "average_max_decoder_cosine_sim": _average_max_cosine(sae.W_dec),
        "decoder_cosine_separation": _mean_squared_cosine(sae.W_dec),
        "decoder_welch_floor": (sae.d_sae - sae.d_in) / (sae.d_in * (sae.d_sae - 1)),
    }


def _mean_squared_cosine(vectors: Tensor) -> float:
    n = len(vectors)
    cosines = torch.cosine_similarity(vectors.unsqueeze(0), vectors.unsqueeze(1), dim=-1)
    return float((cosines.square().sum() - n) / (n * (n - 1)))


def _average_max_cosine(vectors: Tensor) -> float:
    n = len(vectors)
    cos = lambda i, j: float(vectors[i] @ vectors[j] / vectors[i].norm() / vectors[j].norm())  # noqa: E731
    return sum(max(cos(i, j) for j in range(n) if j != i) for i in range(n)) / n


def _pca(x: Tensor, k: int) -> float:
    """Projects onto the leading right singular vectors and measures what is left."""
    centred = x - x.mean(0)
    basis = torch.linalg.svd(centred).Vh[:k]
    return 1 - float((centred - centred @ basis.T @ basis).square().sum() / centred.square().sum())


def _behaviour(subject: Subject, layer: int, batch: SequenceBatch, recon: Tensor, mean: Tensor) -> dict[str, float]:
    mask = batch.mask.unsqueeze(-1)
    swaps = {
        "clean": batch.acts,
        "sae": torch.where(mask, recon, batch.acts),
        "zero": torch.zeros_like(recon),
        "mean": torch.where(mask, mean, batch.acts),
    }
    logits = {name: _logits(subject, layer, batch.tokens, acts) for name, acts in swaps.items()}
    ce = {name: _ce(values, batch) for name, values in logits.items()}
    kl = {name: _kl(logits["clean"], values, batch) for name, values in logits.items()}
    return {
        "ce_loss_without_sae": ce["clean"],
        "ce_loss_with_sae": ce["sae"],
        "ce_loss_with_ablation": ce["zero"],
        "ce_loss_with_mean_ablation": ce["mean"],
        "ce_loss_score": (ce["zero"] - ce["sae"]) / (ce["zero"] - ce["clean"]),
        "ce_loss_score_mean_ablation": (ce["mean"] - ce["sae"]) / (ce["mean"] - ce["clean"]),
        "kl_div_with_sae": kl["sae"],
        "kl_div_with_ablation": kl["zero"],
        "kl_div_with_mean_ablation": kl["mean"],
        "kl_div_score": (kl["zero"] - kl["sae"]) / kl["zero"],
        "kl_div_score_mean_ablation": (kl["mean"] - kl["sae"]) / kl["mean"],
    }


def _logits(subject: Subject, layer: int, tokens: Tensor, acts: Tensor) -> Tensor:
    """A full pass of the Hugging Face model with its layer's output swapped by a hook of our own."""

    def swap(_module, _args, output):
        return (acts, *output[1:]) if isinstance(output, tuple) else acts

    handle = subject.model.transformer.h[layer].register_forward_hook(swap)
    try:
        return subject.model(tokens).logits
    finally:
        handle.remove()


def _ce(logits: Tensor, batch: SequenceBatch) -> float:
    losses = []
    for s in range(batch.n_sequences):
        for p in range(batch.tokens.shape[1] - 1):
            if batch.mask[s, p]:
                row = logits[s, p].tolist()
                losses.append(math.log(sum(math.exp(v) for v in row)) - row[batch.tokens[s, p + 1]])
    return sum(losses) / len(losses)


def _kl(clean: Tensor, edited: Tensor, batch: SequenceBatch) -> float:
    values = []
    for s in range(batch.n_sequences):
        for p in range(batch.tokens.shape[1]):
            if batch.mask[s, p]:
                a, b = clean[s, p].softmax(-1).tolist(), edited[s, p].softmax(-1).tolist()
                values.append(sum(x * math.log(x / y) for x, y in zip(a, b, strict=True)))
    return sum(values) / len(values)
