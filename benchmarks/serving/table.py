"""Results as Markdown: short tables for docs/speed.md, and a full one for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, BenchmarkError
from benchmarks.serving.answers import in_short
from benchmarks.serving.results import per_second

#: The page with the tables.
PAGE = ROOT / "docs" / "speed.md"


def short(document: Mapping[str, Any]) -> str:
    """Format a table for each workload, with a line for each target."""
    return "\n\n".join("\n".join(_short(name, result)) for name, result in document["workloads"].items())


def full(document: Mapping[str, Any]) -> str:
    """Format every figure, with a line for each target and number of clients."""
    head = (
        "workload", "target", "clients", "requests/s", "tokens/s", "p50 ms", "p99 ms", "CPU ms", "errors", "÷ bound",
        "÷ best peer", "start s", "MiB", "answers", "idle cores", "foreign cores",
    )  # fmt: skip
    lines = [_line(*head), _line("---", "---", *["---:"] * 11, "---", "---:", "---:")]
    for workload, result in document["workloads"].items():
        for about in result["targets"].values():
            for clients, figures in about["load"].items():
                lines.append(_full(workload, result, about, clients, figures))
    return "\n".join(lines)


def write_page(document: Mapping[str, Any], name: str = "bench", page: Path = PAGE) -> None:
    """Write the short tables between the marks of a name in a page.

    Raises:
        BenchmarkError: the page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    begin, end = _marks(name)
    if text.count(begin) != 1 or text.count(end) != 1:
        raise BenchmarkError(f"{page.name} must have the lines {begin} and {end} once, for the table between them")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    page.write_text(f"{before}{begin}\n{short(document)}\n{end}{after}", encoding="utf-8")


def table_in(page: str, name: str = "bench") -> str | None:
    """Return the text between the marks of a name in a page; None if there are no such marks."""
    begin, end = _marks(name)
    if begin not in page or end not in page:
        return None
    return page.split(begin)[1].split(end)[0].strip()


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def _short(workload: str, result: Mapping[str, Any]) -> Iterator[str]:
    columns, tail = [str(connections) for connections in result["connections"]], str(result["tail"])
    title = f"{workload}: {result['unit']} by clients"
    on_gpu = any("gpu_memory_mib" in about for about in result["targets"].values())
    memory = ("GPU MiB", "gpu_memory_mib") if on_gpu else ("MiB", "memory_mib")
    yield _line(title, *columns, "p50 alone, ms", f"p99 at {tail}, ms", "CPU ms a request", memory[0], "answers")
    yield _line("---", *["---:"] * (len(columns) + 4), "---")
    for about in result["targets"].values():
        load = about["load"]
        if any("requests_per_second" in figures for figures in load.values()):
            speeds = [_speed(result, load[clients]) for clients in columns]
            alone, loaded = load["1"], load[tail]
            yield _line(
                about["name"],
                *speeds,
                _number(alone.get("p50_ms")),
                _number(loaded.get("p99_ms")),
                _number(loaded.get("cpu_ms")),
                _number(about.get(memory[1])),
                in_short(workload, about["answers"]),
            )
    for key, offline in result["offline"].items():
        yield _offline(result, key, offline, len(columns))
    failed = {about["name"]: why for about in result["targets"].values() if (why := _failure(about))}
    if failed:
        yield ""
        yield "Not measured, or not to the end: " + "; ".join(f"{name} ({why})" for name, why in failed.items()) + "."


def _failure(about: Mapping[str, Any]) -> str | None:
    """Return the reason why a target has ended, or its error if it answered no clients at all."""
    refusals = [figures["failed"] for figures in about["load"].values() if "failed" in figures]
    if "failed" in about or not refusals or len(refusals) < len(about["load"]):
        return about.get("failed")
    return str(refusals[0]).removeprefix(f"{about['name']}: ")


def _offline(result: Mapping[str, Any], key: str, offline: Mapping[str, Any], columns: int) -> str:
    """Format a computation without clients, whose speed is the same for any number but one."""
    name = f"*{offline['name']}*" + (" (bound)" if key == result["bound"] else "")
    alone = {"requests_per_second": 1000 / offline["p50_ms"]}
    speeds = [_speed(result, alone), *[_speed(result, offline)] * (columns - 1)]
    return _line(name, *speeds, _number(offline["p50_ms"]), "", _number(offline.get("cpu_ms")), "", "")


def _full(workload: str, result: Mapping[str, Any], about: Mapping[str, Any], clients: str, figures: Any) -> str:
    if "failed" in figures:
        return _line(workload, about["name"], clients, figures["failed"], *[""] * 12)
    tokens = _speed(result, figures) if result["unit"].startswith("tokens") else ""
    ratios = [f"{figures[name]:.2f}" if name in figures else "" for name in ("to_bound", "to_best_peer")]
    return _line(
        workload,
        about["name"],
        clients,
        *map(_number, (figures["requests_per_second"],)),
        tokens,
        *(_number(figures[name]) for name in ("p50_ms", "p99_ms", "cpu_ms")),
        f"{figures['errors']}" + (f" ({figures['error']})" if figures["error"] else ""),
        *ratios,
        _number(about.get("start_seconds")),
        _number(about.get("memory_mib")),
        in_short(workload, about["answers"]),
        *(f"{figures[name]:.2f}" for name in ("idle_cores", "foreign_cores")),
    )


def _speed(result: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """Format requests or tokens per second, marked if some requests failed."""
    if "requests_per_second" not in figures:
        return "fails"
    return _number(per_second(result, figures)) + (" (errors)" if figures.get("errors") else "")


def _number(value: float | None) -> str:
    """Format three digits, or all digits before the point."""
    if value is None:
        return ""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
