"""Throughput, latency and refusals of `openhart serve` under open-loop load, with and without batching.

    python benchmarks/serving.py --seconds 60 -o benchmarks/results/serving.json

First the capacity is measured: images per second of the bare pipeline in batches. Then a server is started
per row, and requests arrive at random times (Poisson), with a mean rate of 0.5, 1, 2 and 10 times the
capacity, whether or not earlier ones are answered. Every request streams ``--previews`` partial images; with
0 it is answered by JSON. The load generator runs on the same machine and takes part of it: the variable
OMP_NUM_THREADS leaves cores to it and to the event loop, for the bare pipeline and the server alike. A
request is lost if it is neither answered nor refused; there must be none.
"""

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import torch

from openhart import from_pretrained

PROMPTS = ("a red apple", "a grinning face", "a mango", "a rose", "a pill", "a delivery truck")
LOADS = (0.5, 1.0, 2.0, 10.0)


def main() -> None:
    options = parse()
    capacity = bare_rate(options)
    report: dict[str, Any] = {"date": str(date.today()), "images per second, bare": round(capacity, 2)}
    report |= {"batch": max(options.batches), "seconds": options.seconds}
    report |= {"previews": options.previews, "threads": torch.get_num_threads(), "rows": []}
    for batch in options.batches:
        for load in options.loads:
            with server(options, batch) as (url, process):
                row = asyncio.run(offer(url, capacity * load, options, process.pid))
                row |= {"load": load, "largest batch": batch}
                row |= {"peak MB": memory(process.pid, "VmHWM")}
                row["share of bare throughput"] = round(row["images per second"] / capacity, 2)
            report["rows"].append(row)
            print(json.dumps(row), flush=True)
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="folder of the model (default: the packaged one)")
    parser.add_argument("--batches", type=int, nargs="+", default=(8, 1), help="largest batches (8 1)")
    parser.add_argument("--seconds", type=float, default=60, help="time of each row (default: 60)")
    parser.add_argument("--previews", type=int, default=1, help="partial images per request (default: 1)")
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS, help="multiples of the capacity")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    return parser.parse_args()


def bare_rate(options: argparse.Namespace) -> float:
    """Images per second of the pipeline in full batches."""
    pipeline: Any = from_pretrained(options.model)
    pipeline.optimize("exact")
    pipeline.set_progress_bar_config(disable=True)
    batch = max(options.batches)
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(batch)]
    pipeline(prompts)
    begin, runs = time.monotonic(), 0
    while time.monotonic() - begin < min(10.0, options.seconds):
        pipeline(prompts)
        runs += 1
    return runs * batch / (time.monotonic() - begin)


@contextmanager
def server(options: argparse.Namespace, batch: int) -> Any:
    words = [sys.executable, "-m", "openhart", "serve", "--port", "0", "--optimize", "exact"]
    words += ["--max-batch", str(batch), *(["--model", options.model] if options.model else [])]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        url = re.search(r"http://[\d.:]+", process.stdout.readline())
        process.stdout.readline()
        assert url is not None
        try:
            yield url[0], process
        finally:
            process.terminate()


def memory(pid: int, kind: str) -> int | None:
    """Memory of the server in MB, ``VmRSS`` at present or ``VmHWM`` at its peak; None if it is unknown."""
    status = Path(f"/proc/{pid}/status")
    found = re.search(rf"{kind}:\s+(\d+)", status.read_text()) if status.is_file() else None
    return int(found[1]) // 1024 if found else None


async def watch(pid: int, pause: float, found: list[int | None]) -> None:
    """Note the memory of the server in MB after each pause in seconds."""
    while True:
        await asyncio.sleep(pause)
        found.append(memory(pid, "VmRSS"))


async def offer(url: str, rate: float, options: argparse.Namespace, pid: int) -> dict[str, Any]:
    """Send requests at random times with a mean rate per second, and wait for all answers."""
    draw = random.Random(0)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await ask(client, 0, options.previews)
        begin, tasks, resident = time.monotonic(), [], list[int | None]()
        watcher = asyncio.create_task(watch(pid, options.seconds / 10.5, resident))
        arrival = 0.0
        while (arrival := arrival + draw.expovariate(rate)) < options.seconds:
            await asyncio.sleep(max(0.0, begin + arrival - time.monotonic()))
            tasks.append(asyncio.create_task(ask(client, len(tasks), options.previews)))
        watcher.cancel()
        results = await asyncio.gather(*tasks)
        total = time.monotonic() - begin
        sizes = (await client.get("/metrics")).text
    return summary(results, total) | {"mean batch": mean_batch(sizes), "MB over time": resident}


async def ask(client: httpx.AsyncClient, number: int, previews: int) -> tuple[str, float, float]:
    """What became of a request, its time, and the time to its partial image."""
    body: dict[str, Any] = {"prompt": PROMPTS[number % len(PROMPTS)], "seed": number}
    if previews:
        body |= {"stream": True, "partial_images": previews}
    begin, preview = time.monotonic(), 0.0
    try:
        async with client.stream("POST", "/v1/images/generations", json=body) as answer:
            if answer.status_code != 200:
                return ("refused" if answer.status_code == 429 else "failed"), time.monotonic() - begin, 0.0
            if not previews:
                await answer.aread()
                return "served", time.monotonic() - begin, 0.0
            async for line in answer.aiter_lines():
                if line == "event: image_generation.partial_image":
                    preview = time.monotonic() - begin
                if line == "event: image_generation.completed":
                    return "served", time.monotonic() - begin, preview
    except httpx.HTTPError:
        pass
    return "lost", time.monotonic() - begin, 0.0


def summary(results: list[tuple[str, float, float]], total: float) -> dict[str, Any]:
    served = [each for each in results if each[0] == "served"]
    refused = [each[1] for each in results if each[0] == "refused"]
    counts = {
        kind: sum(each[0] == kind for each in results) for kind in ("served", "refused", "failed", "lost")
    }
    row: dict[str, Any] = {**counts, "images per second": round(len(served) / total, 2)}
    row |= percentiles("latency", [each[1] for each in served])
    row |= percentiles("first preview", [each[2] for each in served if each[2]])
    return row | percentiles("refusal", refused)


def percentiles(name: str, values: list[float]) -> dict[str, float]:
    """50th, 95th and 99th percentile in seconds."""
    if len(values) < 2:
        return {}
    cuts = quantiles(values, n=100, method="inclusive")
    return {f"{name} p{share}": round(cuts[share - 1], 3) for share in (50, 95, 99)}


def mean_batch(metrics: str) -> float:
    total, count = (
        float(re.search(rf"^openhart_batch_size_{name} ([\d.]+)", metrics, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("sum", "count")
    )
    return round(total / count, 2)


if __name__ == "__main__":
    main()
