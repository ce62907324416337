"""The tables of the benchmark."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.scale.load import Load, Measurements
from benchmarks.scale.memory import MemoryRecorder, growth

TARGET_MS = 100.0


def quantiles(times: list[float]) -> dict[str, float]:
    """Return median, p95, p99 and longest of milliseconds, and their number."""
    ordered = sorted(times)

    def at(part: float) -> float:
        return ordered[min(int(part * len(ordered)), len(ordered) - 1)]

    return {"count": len(ordered), "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "longest": ordered[-1]}


def memory_rows(recorder: MemoryRecorder) -> list[dict[str, float]]:
    """Return for each backend its memory at the start, in the middle and at the end, and its growth."""
    return [
        {
            "start": samples[0][1],
            "median": statistics.median(size for _, size in samples),
            "end": samples[-1][1],
            "growth_an_hour": growth(samples),
        }
        for samples in recorder.samples
    ]


def result(
    load: Load, measured: Measurements, memory: MemoryRecorder, audit: dict[str, int], machine: str, beside: str
) -> dict[str, Any]:
    """Return everything that was measured."""
    return {
        "machine": machine,
        "beside": beside,
        "load": vars(load),
        "requests": {kind: quantiles(times) for kind, times in sorted(measured.times.items())},
        "errors": dict(measured.errors.most_common(20)),
        "audit": audit,
        "memory": memory_rows(memory),
        "memory_samples": [
            [(round(at), round(size, 1)) for at, size in samples[:: max(len(samples) // 60, 1)]]
            for samples in memory.samples
        ],
    }


def markdown(found: dict[str, Any]) -> str:
    """Return the tables in Markdown."""
    load = found["load"]
    wrong = {name.removesuffix("_wrong"): count for name, count in found["audit"].items() if name.endswith("_wrong")}
    lines = [
        "# A lab at scale",
        "",
        f"Measured by `python -m benchmarks scale --write`: {load['replicas']} backends on PostgreSQL, "
        f"{load['workers']} workers with {load['slots']:,} slots, {load['queued']:,} queued runs of "
        f"{load['owners']} owners in {load['projects']} projects, one of them with a quota of no slots, "
        f"{load['dashboards']} open pages, for {load['seconds']:g} s. A run takes {load['run_seconds']:g} s and "
        f"reports every {load['report_seconds']:g} s. "
        "Clients and servers share the machine.",
        "",
        f"Machine: {found['machine']}. Beside it: {found['beside'] or 'nothing that was reported'}.",
        "",
        "| request | number | median ms | p95 ms | p99 ms | longest ms |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {kind} | {row['count']:,} | {row['p50']:.1f} | {row['p95']:.1f} | {row['p99']:.1f} | {row['longest']:.0f} |"
        for kind, row in found["requests"].items()
    ]
    errors = sum(found["errors"].values())
    audit = found["audit"]
    lines += [
        "",
        f"Errors: {errors}.",
        *(f"- {count} × {text}" for text, count in found["errors"].items()),
        "",
        f"Of {audit['runs']:,} runs, {audit['succeeded']:,} succeeded, {audit['training']:,} were training and "
        f"{audit['queued']:,} were queued at the end. "
        + (
            "No run was lost, claimed twice or started beyond a quota."
            if not any(wrong.values())
            else "WRONG: " + ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in wrong.items() if count)
        ),
        "",
        "| backend | at the start MiB | median MiB | at the end MiB | growth in the second half, MiB an hour |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {number} | {row['start']:.0f} | {row['median']:.0f} | {row['end']:.0f} | {row['growth_an_hour']:+.1f} |"
        for number, row in enumerate(found["memory"], start=1)
    ]
    claims = found["requests"].get("claim")
    if claims:
        met = "met" if claims["p95"] < TARGET_MS else "not met"
        lines += ["", f"The goal of claims, p95 below {TARGET_MS:g} ms, is {met}: {claims['p95']:.1f} ms."]
    return "\n".join(lines) + "\n"
