"""The comparison as JSON and CSV."""

import csv
import io
import json
from typing import Any

from chronosae.report.compare import Comparison, Row
from chronosae.report.statistics import L0_TOLERANCE, LEVEL


def to_json(compared: Comparison) -> str:
    """The comparison as JSON: every core metric as mean, interval and values, undefined ones null; never NaN."""
    rows = [_json_row(row) for row in compared.rows]
    data = {"schema": 1, "level": LEVEL, "l0_tolerance": L0_TOLERANCE, "rows": rows, "notes": list(compared.notes)}
    return json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False)


def _json_row(row: Row) -> dict[str, Any]:
    metrics = {
        name: None
        if found is None
        else {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n, "values": list(found.values)}
        for name, found in row.metrics.items()
    }
    differences = {
        name: {
            "baseline": one.baseline,
            "mean": one.found.mean,
            "low": one.found.low,
            "high": one.found.high,
            "n": one.found.n,
            "p_holm": one.p,
            "significant": one.significant,
        }
        for name, one in row.differences.items()
    }
    return {
        **_head(row),
        "seeds": list(row.seeds),
        "metrics": metrics,
        "over_examples": {name: {"low": low, "high": high} for name, (low, high) in row.over_examples.items()},
        "differences": differences,
        "flags": list(row.flags),
    }


def _head(row: Row) -> dict[str, Any]:
    return {
        "run": row.run,
        "title": row.title,
        "sae": row.sae,
        "preset": row.preset,
        "site": row.site,
        "d_sae": row.d_sae,
        "k": row.k,
        "target_l0": row.target_l0,
        "n": row.n,
        "l0_group": row.l0_group,
        "l0_matched": row.l0_matched,
    }


def to_csv(compared: Comparison) -> str:
    """The comparison as CSV: `<metric>`, `<metric>_low`, `<metric>_high`, `<metric>_n`; undefined is empty."""
    text = io.StringIO()
    lines = [_csv_row(row) for row in compared.rows]
    writer = csv.DictWriter(text, fieldnames=list(lines[0]) if lines else ["run"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_row(row: Row) -> dict[str, Any]:
    line = {**_head(row), "seeds": " ".join(str(seed) for seed in row.seeds if seed is not None)}
    for name, found in row.metrics.items():
        line[name] = None if found is None else found.mean
        line[f"{name}_low"] = None if found is None else found.low
        line[f"{name}_high"] = None if found is None else found.high
        line[f"{name}_n"] = 0 if found is None else found.n
    return {**line, "flags": "; ".join(row.flags)}
