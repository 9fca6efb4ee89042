"""Where one optimizer step of ours spends its time: kernels, launches, traffic, waits of the device, clock; as JSON.

    python benchmarks/profile_step.py [--out profile.json]            8B in 4 bits, 2 x 512, on a CUDA GPU: run it first
    python benchmarks/profile_step.py --shape 3B --length 2048 --checkpointing
    python benchmarks/profile_step.py --device cpu --tiny              the same on a CPU, to try it

Needs no network: shapes and random weights are those of `gpu.py`. Steps of one micro-batch: some to warm up, ten that
are timed, one under torch's profiler, and one whose ops are counted as `traffic.py` says. On a CPU a kernel is an op,
and a gap is time between ops, which is Python's. Never run on a T4.
"""

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from gpu import SHAPES, TINY_SHAPES, config_of, write_random_base
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from traffic import OTHER, Traffic

from kaggle_runner.training.data.batches import collate
from kaggle_runner.training.data.instructions import load_rows
from kaggle_runner.training.data.tokens import encode
from kaggle_runner.training.finetune import attach, buffer_of, loss_of, training_layers, versions
from kaggle_runner.training.models.base_model import load_base

WARM_UP_STEPS, TIMED_STEPS = 3, 10
SHOWN = 12
CLOCK = "clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,power.draw,clocks_throttle_reasons.active"


def main() -> None:
    """Profile a step, print the largest kernels, and write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand weights, 2 x 32 tokens")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="8B")
    parser.add_argument("--length", type=int, default=512, help="tokens of each of the two rows")
    parser.add_argument("--checkpointing", action="store_true", help="compute every layer again from its input")
    parser.add_argument("--out", type=Path, default=Path("profile.json"))
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA GPU here, nothing was profiled; run this on a machine that has one, or try it with "
                 "--device cpu --tiny")
    with tempfile.TemporaryDirectory() as folder:
        report = profiled(arguments, Path(folder))
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    for kernel in report["kernels"][:SHOWN]:
        print(f"{kernel['total_ms']:9.2f} ms  {kernel['count']:5} x  {kernel['name'][:90]}")
    print(f"profile_step | {report['machine']} | {report['case']}: {report['step_ms']['median']:.0f} ms a step (of "
          f"{TIMED_STEPS}, {report['step_ms']['least']:.0f} to {report['step_ms']['most']:.0f}), "
          f"{report['launches_total']} launches, {report['moved_mb_a_token']:.1f} MB a token moved number by number, "
          f"device idle {report['gaps']['share']:.0%} of the profiled step; {report['layers']}")
    print(f"written to {arguments.out}")


def profiled(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return everything that is known of a step."""
    device = torch.device("cuda", 0) if arguments.device == "cuda" else torch.device("cpu")
    shape, length = ("tiny", 32) if arguments.tiny else (arguments.shape, arguments.length)
    config = config_of(write_random_base((TINY_SHAPES | SHAPES)[shape], folder / shape), str(length),
                       "checkpointing" if arguments.checkpointing else "plain", 1, folder)
    base = load_base(config, device)
    data = encode(load_rows(config, cache_directory=folder), base.tokenizer, config, cache_directory=folder)
    batch = collate(data.train, range(config.batch_size), pad_id=base.tokenizer.pad_token_id, completion_only=False)
    torch.manual_seed(0)
    adapted = attach(base, config)
    buffer = buffer_of(adapted, base)
    optimizer = torch.optim.AdamW([buffer.whole], fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=base.compute_dtype is torch.float16)
    with training_layers(base, config, buffer) as path:
        base.model.train()

        def step() -> None:
            scaler.scale(loss_of(base, batch) / len(batch.targets_N)).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_([buffer.whole], 1.0)
            scaler.step(optimizer)
            scaler.update()
            buffer.after_step()

        before = clock(device)
        milliseconds = [timed(step, device) for _ in range(WARM_UP_STEPS + TIMED_STEPS)][WARM_UP_STEPS:]
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
        with profile(activities=activities) as profiler:
            timed(step, device)
        with Traffic() as traffic:
            step()
    kernels = kernels_of(profiler, device)
    return {
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU",
        "versions": versions(), "case": f"{shape}, {config.batch_size} x {length}"
                                        f"{', checkpointing' if arguments.checkpointing else ''}",
        "layers": str(path), "tokens": batch.tokens,
        "step_ms": {"median": statistics.median(milliseconds), "least": min(milliseconds), "most": max(milliseconds)},
        "kernels": table(kernels), "launches_total": len(kernels), "gaps": gaps([(at, end) for _, at, end in kernels]),
        "ops": dict(traffic.launches), "moved_bytes": dict(traffic.moved_bytes),
        "moved_mb_a_token": traffic.moved_bytes[OTHER] / batch.tokens / 1e6,
        "clock_before": before, "clock_after": clock(device)}


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Run a step to its end on the device and return its milliseconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) * 1000


def kernels_of(profiler: Any, device: torch.device) -> list[tuple[str, int, int]]:
    """Return name, start and end in nanoseconds of all kernels; on a CPU of the ops that no other op called."""
    wanted = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
    events = sorted((event.start_ns(), -event.duration_ns(), event.name())
                    for event in profiler.profiler.kineto_results.events()
                    if event.device_type() == wanted and not event.name().startswith(("[memory]", "cuda", "Memset")))
    if device.type == "cuda":
        return [(name, start, start - less) for start, less, name in events]
    found, reached = [], 0
    for start, less, name in events:  # an outer op comes before those it calls
        is_op = name.startswith(("aten::", "bitsandbytes::"))
        if is_op and start >= reached:
            found.append((name, start, start - less))
            reached = start - less
    return found


def table(kernels: Iterable[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """Sum kernels by name, the longest first."""
    counts: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for name, start, end in kernels:
        counts[name] += 1
        total[name] += end - start
    return [{"name": name, "count": counts[name], "total_ms": nanoseconds / 1e6}
            for name, nanoseconds in total.most_common()]


def gaps(spans: Iterable[tuple[int, int]]) -> dict[str, float]:
    """Say how long nothing ran between the first kernel and the last."""
    ordered = sorted(spans)
    if not ordered:
        return {"count": 0, "total_ms": 0.0, "longest_ms": 0.0, "share": 0.0}
    holes, reached = [], ordered[0][1]
    for start, end in ordered[1:]:
        if start > reached:
            holes.append(start - reached)
        reached = max(reached, end)
    return {"count": len(holes), "total_ms": sum(holes) / 1e6, "longest_ms": max(holes, default=0) / 1e6,
            "share": sum(holes) / (reached - ordered[0][0])}


def clock(device: torch.device) -> str:
    """Return how fast the device runs now, and whether it is held back."""
    if device.type == "cpu":
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        rates = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
        return f"{statistics.fmean(rates):.0f} MHz" if rates else "unknown"
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown: no nvidia-smi"
    asked = subprocess.run([program, f"--query-gpu={CLOCK}", "--format=csv,noheader"], capture_output=True, text=True)
    return f"{CLOCK}: {asked.stdout.strip()}" if asked.returncode == 0 else f"unknown: {asked.stderr.strip()[:200]}"


if __name__ == "__main__":
    main()
