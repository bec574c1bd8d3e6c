"""Log-odds from the past, compiled, against the tensors' own operations: values, gradients, and what is left out."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronosae.kernels import absent, compiled_kernels, dense_only, firing_energy
from chronosae.objectives import CausalPredictionTerm
from chronosae.objectives.causal_head import PredictionHead, predict
from chronosae.objectives.history import EMPTY, History

F, WINDOW = 70, 3


def distinct(*shape: int, g: torch.Generator) -> Tensor:
    """Different features in each row."""
    return torch.rand(*shape[:-1], F, generator=g).topk(shape[-1], -1).indices


def case(seed: int, dtype: torch.dtype, tokens: int = 9, slots: int = 5) -> tuple[PredictionHead, History, Tensor]:
    """A head that has learned something, a past with unused slots, and targets that come twice."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    head = PredictionHead(CausalPredictionTerm(window=WINDOW, rank=3, entries=6), F).to(dtype)
    for parameter in head.parameters():
        parameter.data.normal_(std=0.7)
    head.mean_square.uniform_(0.3, 2)
    pair = torch.rand(F, F * WINDOW, generator=g).topk(6, -1).indices
    free = torch.rand(F, 6, generator=g) < 0.3
    head.source.copy_((pair % F).masked_fill(free, EMPTY))
    head.lag.copy_((pair // F + 1).masked_fill(free, 1))
    used = torch.rand(tokens, WINDOW, slots, generator=g) < 0.8
    past = distinct(tokens, WINDOW, slots, g=g)
    seen = History(
        features=distinct(tokens, slots, g=g),
        values=torch.rand(tokens, slots, generator=g).to(dtype),
        past_features=past * used,
        past_values=torch.where(used, torch.rand(used.shape, generator=g), 0).to(dtype),
        valid=torch.ones(tokens, WINDOW, dtype=torch.bool),
    )
    return head, seen, torch.randint(0, F, (tokens, 12), generator=g)


def with_gradients(head: PredictionHead, seen: History, targets: Tensor, slope: Tensor) -> list[Tensor]:
    logits = predict(head, seen, targets)
    return [logits.detach(), *torch.autograd.grad(logits, [*head.parameters()], slope)]


@given(st.integers(0, 200), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=20, deadline=None)
def test_log_odds_and_their_gradients_are_those_of_the_tensor_operations(seed: int, dtype: torch.dtype) -> None:
    head, seen, targets = case(seed, dtype)
    assert compiled_kernels(head.b)
    slope = torch.randn(targets.shape, dtype=dtype)
    slope[0] = 0
    fast = with_gradients(head, seen, targets, slope)
    with dense_only():
        slow = with_gradients(head, seen, targets, slope)
    bound = 1e-10 if dtype == torch.float64 else 2e-5
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=bound, atol=bound)


def test_gradients_of_the_log_odds_pass_gradcheck() -> None:
    head, seen, targets = case(1, torch.float64, tokens=3)

    def logits(*parameters: Tensor) -> Tensor:
        names = [name for name, _ in head.named_parameters()]
        return torch.func.functional_call(
            _Predict(head), dict(zip((f"head.{n}" for n in names), parameters, strict=True)), (seen, targets)
        )

    assert torch.autograd.gradcheck(
        logits, tuple(p.detach().requires_grad_() for p in head.parameters()), fast_mode=True
    )


class _Predict(torch.nn.Module):
    def __init__(self, head: PredictionHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, seen: History, targets: Tensor) -> Tensor:
        return predict(self.head, seen, targets)


def test_log_odds_are_the_same_at_every_number_of_threads() -> None:
    head, seen, targets = case(2, torch.float32, tokens=90)
    slope, threads, runs = torch.randn(targets.shape), torch.get_num_threads(), []
    for number in (1, 3):
        torch.set_num_threads(number)
        runs.append(with_gradients(head, seen, targets, slope))
    torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_many_candidates_that_fired_at_once_find_room() -> None:
    head, seen, _ = case(3, torch.float64, slots=1)
    seen.past_features.fill_(7)
    seen.past_values.fill_(1.5)
    head.source.fill_(7)
    head.source[:, WINDOW:] = EMPTY
    head.lag.copy_(torch.arange(6).remainder(WINDOW).add(1).expand_as(head.lag))
    everything = torch.arange(F).expand(len(seen.values), F)
    fast = predict(head, seen, everything)
    with dense_only():
        slow = predict(head, seen, everything)
    torch.testing.assert_close(fast, slow)


@given(st.integers(0, 200))
@settings(max_examples=20, deadline=None)
def test_what_fired_and_what_did_not_is_counted_as_tensors_count_it(seed: int) -> None:
    _, seen, drawn = case(seed, torch.float32)
    features, values = seen.past_features.flatten(0, 1), seen.past_values.flatten(0, 1)
    drawn = drawn.repeat_interleave(WINDOW, 0)
    mask = torch.rand(len(values)) < 0.8
    missing, (count, energy) = absent(features, values, drawn, F), firing_energy(features, values, mask, F)
    with dense_only():
        assert torch.equal(missing, absent(features, values, drawn, F))
        other_count, other_energy = firing_energy(features, values, mask, F)
    assert torch.equal(count, other_count)
    torch.testing.assert_close(energy, other_energy)


def test_new_candidates_are_looked_up_from_the_next_call_on() -> None:
    head, seen, targets = case(4, torch.float64)
    for change in (lambda: head.refresh(head.source.roll(1, 0), head.lag.roll(1, 0)), lambda: head.to(torch.float32)):
        predict(head, seen, targets)
        change()
        fast = predict(head, seen, targets)
        with dense_only():
            torch.testing.assert_close(fast, predict(head, seen, targets))
