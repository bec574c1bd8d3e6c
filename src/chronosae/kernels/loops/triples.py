"""Co-activations (target, lag, source) judged where they occur, without a list of all of them."""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import bits_of, loop
from chronosae.kernels.loops.counting import active_past, cell_of


@loop
@no_type_check
def _worst(target, slots, marginals, since, z):
    """The least surprising slot, as `Candidates.surprise` has it; z of all of them go into a row of `z [F, m]`.

    since [m]: workspace.
    """
    sources, lags, counts, before, prior_counts, prior_expected = slots
    fired, fires, pairs = marginals
    flat, width, at = z.reshape(-1), np.uint64(z.shape[1]), np.uint64(target * z.shape[1])
    seen, past, source = counts.reshape(-1), before.reshape(-1), sources.reshape(-1)
    prior, thought = prior_counts.reshape(-1), prior_expected.reshape(-1)
    for s in range(z.shape[1]):
        m = lags[target, s] - 1
        since[s] = fired[m, max(sources[target, s], 0)]
        z[target, s] = fires[m, target] / max(pairs[m], 1.0)
    # Apart from what is gathered, so that a few slots share each of these slow operations.
    for s in range(width):
        own, e = (since[s] - past[at + s]) * flat[at + s], np.float64(thought[at + s])
        floor = np.float64(np.float32(1e-12))
        trust = 1 - own / (e if e > floor else floor)
        trust = trust if trust > 0 else 0.0
        trust = trust if trust < 1 else 1.0
        expected = own + trust * e
        count = np.float64(seen[at + s]) + trust * np.float64(prior[at + s])
        surprise = (count - expected) / np.sqrt(expected + 1)
        flat[at + s] = surprise if source[at + s] >= 0 else -np.inf
    worst = np.inf
    for s in range(width):
        worst = flat[at + s] if flat[at + s] < worst else worst
    return worst


@loop
@no_type_check
def _is_held(target, source, lag, slots):
    known = False
    for s in range(slots[0].shape[1]):
        known |= slots[0][target, s] == source and slots[1][target, s] == lag
    return known


@loop
@no_type_check
def challenge(
    features, values, past_features, past_values, d_sae, after, judged, slots, marginals, part, standing, best
):
    """Into `best [F, c]`, one a bucket, the most surprising triples that beat their target's worst slot.

    after: counts [rows, n, k, w past]. judged: marginals of the triples counted, what a cell holds of others' counts,
    the least count that says something. slots, marginals: what is held, and since when. standing: z of
    each target's worst slot, NaN until it is needed, and from then on of all. An entry packs z above source and lag.
    """
    ((fired, fires, pairs), load, least), (worst, z_held) = judged, standing
    (n, lags, past), k, rows = past_features.shape, features.shape[1], after.shape[0]
    width = np.uint64(lags * past)
    found, sources, often = np.empty(lags * past, np.int64), np.empty(lags * past, np.int64), np.empty(lags * past)
    lag, rates, notes = np.empty(lags * past, np.int64), np.empty(lags), after.reshape(-1)
    stride, since = np.uint64(n * k) * width, np.empty(z_held.shape[1])
    for t in range(n):
        active = np.uint64(active_past(past_features, past_values, t, d_sae, found))
        for q in range(active):
            lag[q], sources[q] = found[q] // d_sae, found[q] % d_sae
            often[q] = fired[lag[q], sources[q]]
        for i in range(k):
            target = features[t, i]
            if values[t, i] == 0 or target % part[1] != part[0]:
                continue
            at = np.uint64(t * k + i) * width
            for m in range(lags):
                rates[m] = fires[m, target] / max(pairs[m], 1.0)
            for q in range(active):
                count = notes[at + q]
                if rows > 1:
                    count = min(count, notes[at + q + stride])
                count -= load
                # Most are rare.
                if count < least:
                    continue
                m, source = lag[q], sources[q]
                expected = often[q] * rates[m]
                above, lowest = count - expected, worst[target]
                # Of the others, most are far from being surprising enough; NaN lets all pass.
                if not above > 0 or above * above < 0.999 * max(lowest, 0.0) * lowest * (expected + 1):
                    continue
                z = np.float32(above / np.sqrt(expected + 1))
                if np.isnan(lowest):
                    worst[target] = _worst(target, slots, marginals, since, z_held)
                if source == target or not z > worst[target] or _is_held(target, source, m + 1, slots):
                    continue
                code = source * lags + m
                bucket = (code * 40503 >> 4) % best.shape[1]
                best[target, bucket] = max(best[target, bucket], (np.int64(bits_of(z)) << 32) | code)


@loop
@no_type_check
def admit(best, d_sae, hashing, counts, judged, slots, averages, fired_before, z_held, first, last):
    """Give the slots of each challenged target to the most surprising of what it holds and its challengers.

    What stays keeps its slot; newcomers take the others, both in order. averages: of interactions, and their
    steps. fired_before [w, F]: how often each source has fired. z_held: of every slot.
    """
    odds, bits, exact = hashing
    (fired, fires, pairs), load, _ = judged
    sources, lags, seen, before, prior_counts, prior_expected = slots
    room, width, w = best.shape[1], sources.shape[1], fired.shape[0]
    z, rivals = np.empty(width), np.empty(room)
    count, expected = np.empty(room, np.float32), np.empty(room, np.float32)
    leaves, enters = np.empty(width, np.bool_), np.empty(room, np.bool_)
    for target in range(first, last):
        rivalled = False
        for b in range(room):
            rivals[b], enters[b] = -np.inf, False
            if best[target, b] < 0:
                continue
            rivalled = True
            code = best[target, b] & 0xFFFFFFFF
            source, m = code // w, code % w
            cell = (target * w + m) * d_sae + source
            count[b] = counts[0, cell_of(cell, odds[0], bits, exact)]
            for row in range(1, counts.shape[0]):
                count[b] = min(count[b], counts[row, cell_of(cell, odds[row], bits, exact)])
            count[b] = max(count[b] - load, np.float32(0))
            expected[b] = fired[m, source] * (fires[m, target] / max(pairs[m], 1.0))
            rivals[b] = (np.float64(count[b]) - np.float64(expected[b])) / np.sqrt(np.float64(expected[b]) + 1)
        if not rivalled:
            continue
        for s in range(width):
            z[s], leaves[s] = z_held[target, s], False
        while True:
            b, s = np.argmax(rivals), 0
            for x in range(1, width):
                s = x if z[x] <= z[s] else s
            if not rivals[b] > z[s]:
                break
            enters[b], leaves[s], rivals[b], z[s] = True, True, -np.inf, np.inf
        s = 0
        for b in range(room):
            if not enters[b]:
                continue
            while not leaves[s]:
                s += 1
            leaves[s] = False
            code = best[target, b] & 0xFFFFFFFF
            source, m = code // w, code % w
            sources[target, s], lags[target, s], seen[target, s] = source, m + 1, 0
            before[target, s] = fired_before[m, source]
            prior_counts[target, s], prior_expected[target, s] = count[b], expected[b]
            averages[0][target, s], averages[1][target, s] = 0, 0


@loop
@no_type_check
def held_hits(features, values, past_features, past_values, source, lag, place, first, last, out):
    """Occurrences of held triples: token, slot among the token's targets, held slot, place in the past; how many.

    `out [4, room]`; where it is too small only the number is right. `place [w F]`: workspace of zeros, left as such.
    """
    lags, past, found, width = past_features.shape[1], past_features.shape[2], np.int64(0), source.shape[1]
    d_sae = place.shape[0] // lags
    for t in range(first, last):
        for m in range(lags):
            for j in range(past):
                if past_values[t, m, j] != 0:
                    place[m * d_sae + past_features[t, m, j]] = j + 1
        for i in range(features.shape[1]):
            if values[t, i] == 0:
                continue
            target = features[t, i]
            for s in range(width):
                wanted = source[target, s]
                if wanted < 0:
                    continue
                j = place[(lag[target, s] - 1) * d_sae + wanted]
                if j > 0:
                    if found < out.shape[1]:
                        out[0, found], out[1, found], out[2, found], out[3, found] = t, i, s, j - 1
                    found += 1
        for m in range(lags):
            for j in range(past):
                if past_values[t, m, j] != 0:
                    place[m * d_sae + past_features[t, m, j]] = 0
    return found
