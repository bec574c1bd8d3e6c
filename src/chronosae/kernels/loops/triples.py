"""Co-activations (target, lag, source) counted and judged where they occur, without a list of all of them.

A triple's key is target w F + (lag - 1) F + source: what fired before a token is the same for all of its targets.
"""

from typing import no_type_check

import numpy as np

from chronosae.kernels.loops.bits import bits_of, loop


@loop
@no_type_check
def count_marginals(features, values, past_features, past_values, valid, source, target, pairs):
    """Add to how often each feature fired l positions before a token `source [w, F]` and at one `target [w, F]`."""
    n, lags, past = past_features.shape
    for t in range(n):
        for m in range(lags):
            if not valid[t, m]:
                continue
            pairs[m] += 1
            for j in range(past):
                if past_values[t, m, j] != 0:
                    source[m, past_features[t, m, j]] += 1
            for i in range(features.shape[1]):
                if values[t, i] != 0:
                    target[m, features[t, i]] += 1


@loop
@no_type_check
def _active_past(past_features, past_values, t, d_sae, found):
    """(lag - 1) F + source of what fired before token t, in `found`; how many."""
    lags, past, n = past_features.shape[1], past_features.shape[2], 0
    for m in range(lags):
        for j in range(past):
            if past_values[t, m, j] != 0:
                found[n] = m * d_sae + past_features[t, m, j]
                n += 1
    return n


@loop
@no_type_check
def _cell(key, odd, bits, exact):
    """Multiply-shift hashing: the product wraps, its top bits are the cell."""
    return np.uint64(key) if exact else (np.uint64(key) * odd) >> bits


@loop
@no_type_check
def count_triples(features, values, past_features, past_values, d_sae, odd, bits, exact, part, counts, after):
    """Add one to the cell of every triple, and note in `after [n, k, w past]` what it then holds; how many there were.

    bits: those of a product that are no part of the cell. part: (which, of how many) of the targets.
    """
    n, lags, past = past_features.shape
    k, width, total = features.shape[1], np.uint64(lags * past), np.int64(0)
    found, cells = np.empty(lags * past, np.int64), np.empty(lags * past, np.uint64)
    notes = after.reshape(-1)
    for t in range(n):
        active = np.uint64(_active_past(past_features, past_values, t, d_sae, found))
        for i in range(k):
            if values[t, i] == 0 or features[t, i] % part[1] != part[0]:
                continue
            key, at = features[t, i] * lags * d_sae, np.uint64(t * k + i) * width
            for q in range(active):
                cells[q] = _cell(key + found[q], odd, bits, exact)
            # Apart from the hashing: many of these far reads are then under way at once.
            for q in range(active):
                count = counts[cells[q]] + np.float32(1)
                counts[cells[q]] = count
                notes[at + q] = count
            total += np.int64(active)
    return total


@loop
@no_type_check
def _slot_surprise(target, s, slots, marginals):
    """z of a held triple, as `Candidates.surprise` has it."""
    sources, lags, counts, before, prior_counts, prior_expected = slots
    fired, fires, pairs = marginals
    source, m = sources[target, s], lags[target, s] - 1
    if source < 0:
        return -np.inf
    own = (fired[m, source] - before[target, s]) * (fires[m, target] / max(pairs[m], 1.0))
    prior = prior_expected[target, s]
    trust = min(max(1 - own / max(prior, np.float32(1e-12)), 0.0), 1.0)
    expected = own + trust * np.float64(prior)
    count = np.float64(counts[target, s]) + trust * np.float64(prior_counts[target, s])
    return (count - expected) / np.sqrt(expected + 1)


@loop
@no_type_check
def _worst(target, slots, marginals):
    worst = np.inf
    for s in range(slots[0].shape[1]):
        worst = min(worst, _slot_surprise(target, s, slots, marginals))
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
def challenge(features, values, past_features, past_values, d_sae, after, judged, slots, marginals, part, worst, best):
    """Into `best [F, c]`, one a bucket, the most surprising triples that beat their target's worst slot.

    after: counts [rows, n, k, w past]. judged: marginals of the triples counted, what a cell holds of others' counts,
    the least count that says something. slots, marginals: what is held, and since when. worst: of each target, NaN
    until it is needed. An entry packs z above source and lag.
    """
    (fired, fires, pairs), load, least = judged
    (n, lags, past), k, rows = past_features.shape, features.shape[1], after.shape[0]
    width = np.uint64(lags * past)
    found, sources, often = np.empty(lags * past, np.int64), np.empty(lags * past, np.int64), np.empty(lags * past)
    lag, rates, notes = np.empty(lags * past, np.int64), np.empty(lags), after.reshape(-1)
    stride = np.uint64(n * k) * width
    for t in range(n):
        active = np.uint64(_active_past(past_features, past_values, t, d_sae, found))
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
                    worst[target] = _worst(target, slots, marginals)
                if source == target or not z > worst[target] or _is_held(target, source, m + 1, slots):
                    continue
                code = source * lags + m
                bucket = (code * 40503 >> 4) % best.shape[1]
                best[target, bucket] = max(best[target, bucket], (np.int64(bits_of(z)) << 32) | code)


@loop
@no_type_check
def admit(best, d_sae, hashing, counts, judged, slots, averages, marginals, first, last):
    """Give the slots of each challenged target to the most surprising of what it holds and its challengers.

    What stays keeps its slot; newcomers take the others, both in order. averages: of interactions, and their steps.
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
            count[b] = counts[0, _cell(cell, odds[0], bits, exact)]
            for row in range(1, counts.shape[0]):
                count[b] = min(count[b], counts[row, _cell(cell, odds[row], bits, exact)])
            count[b] = max(count[b] - load, np.float32(0))
            expected[b] = fired[m, source] * (fires[m, target] / max(pairs[m], 1.0))
            rivals[b] = (np.float64(count[b]) - np.float64(expected[b])) / np.sqrt(np.float64(expected[b]) + 1)
        if not rivalled:
            continue
        for s in range(width):
            z[s], leaves[s] = _slot_surprise(target, s, slots, marginals), False
        while True:
            b, s = np.argmax(rivals), width - 1 - np.argmin(z[::-1])
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
            before[target, s] = marginals[0][m, source]
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
