"""Conversions against cp of the same bytes, at several rank counts, with peak memory: what ./dev bench prints.

usage: bench.py RESHARD FOLDER [--parameters 1e9] [--ranks 1,2,4] [--repeat 3]
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import time

MIB = 1024 * 1024


class Bench:
    """Runs commands in one folder and keeps what they took."""

    def __init__(self, reshard, folder):
        self.reshard, self.folder = str(reshard), pathlib.Path(folder)

    def run(self, ranks, *arguments):
        """One reshard command; its wall time and, with --json, its report."""
        launcher = [] if ranks == 1 else ["mpirun", "--oversubscribe", "-n", str(ranks)]
        command = [*launcher, self.reshard, *map(str, arguments)]
        start = time.monotonic()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.monotonic() - start
        return seconds, json.loads(done.stdout) if "--json" in arguments else {}

    def convert(self, ranks, source, flags):
        """Converts to a folder that is removed again."""
        target = self.folder / "out"
        shutil.rmtree(target, ignore_errors=True)
        result = self.run(ranks, "convert", self.folder / source, target, *flags, "--quiet", "--json")
        shutil.rmtree(target)
        return result

    def copy(self, ranks, source):
        """cp and sync (reshard syncs too) of the files by so many processes, sizes spread evenly."""
        target = self.folder / "copy"
        shutil.rmtree(target, ignore_errors=True)
        files = sorted((p for p in (self.folder / source).rglob("*") if p.is_file()), key=lambda p: -p.stat().st_size)
        lots = [[] for _ in range(ranks)]
        for file in files:
            min(lots, key=lambda lot: sum(p.stat().st_size for p in lot)).append(file)
        for number in range(ranks):
            (target / str(number)).mkdir(parents=True)
        start = time.monotonic()
        # Backups keep files of one name apart.
        processes = [
            subprocess.Popen(
                ["sh", "-c", 'for t; do :; done; cp --reflink=never --sparse=never --backup=numbered "$@" && sync "$t"/*', "cp"]
                + [str(file) for file in lot]
                + [str(target / str(number))]
            )
            for number, lot in enumerate(lots)
            if lot
        ]
        assert not any([process.wait() for process in processes]), "cp failed"
        seconds = time.monotonic() - start
        shutil.rmtree(target)
        return seconds


def size_of(folder):
    """Bytes of all files below folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(bench, ranks, repeat, copied, jobs):
    """Rows for one rank count; cp of a folder and the jobs alternate, so that what else the machine does hits all alike."""
    times, reports = {name: [] for name in ["cp", *jobs]}, {}
    for _ in range(repeat):
        times["cp"].append(bench.copy(ranks, copied))
        for name, (source, flags) in jobs.items():
            seconds, reports[name] = bench.convert(ranks, source, flags)
            times[name].append(seconds)
    base = statistics.median(times["cp"])
    print(f"{ranks:5}  {'cp, sync':34} {base:7.2f} s")
    for name in jobs:
        report, seconds = reports[name], statistics.median(times[name])
        needed = size_of(bench.folder / jobs[name][0])
        read, written, peak = report["read"]["sum"], report["written"]["sum"], report["peak_rss"]["max"]
        target = report["target_bytes"]
        print(
            f"{ranks:5}  {name:34} {seconds:7.2f} s  {seconds / base:5.2f} x cp  peak {peak / MIB:6.0f} MiB  "
            f"read {read / needed:4.2f}  written {written / target:4.2f}"
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("reshard")
    parser.add_argument("folder")
    parser.add_argument("--parameters", default="1e9")
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    bench = Bench(pathlib.Path(options.reshard).resolve(), pathlib.Path(options.folder).resolve())
    shutil.rmtree(bench.folder, ignore_errors=True)
    bench.folder.mkdir(parents=True)
    layout = ["--to", "megatron", "--tp", "2", "--pp", "2"]
    sample = ["--family", "llama", "--parameters", options.parameters, "--dtype", "bf16"]
    bench.run(2, "sample", bench.folder / "tp2pp2", *sample, *layout)
    bench.run(2, "convert", bench.folder / "tp2pp2", bench.folder / "hf", "--to", "hf", "--quiet")
    print(f"a llama of {options.parameters} parameters, {size_of(bench.folder / 'tp2pp2') / 1e9:.2f} GB")
    jobs = {}
    for suffix, extra in ((" ", []), (", no verify", ["--no-verify"])):
        jobs["same layout" + suffix] = ("tp2pp2", [*layout, *extra])
        jobs["tp2pp2 -> tp4pp1" + suffix] = ("tp2pp2", ["--to", "megatron", "--tp", "4", "--pp", "1", *extra])
        jobs["tp2pp2 -> hf" + suffix] = ("tp2pp2", ["--to", "hf", *extra])
        jobs["hf -> tp2pp2" + suffix] = ("hf", [*layout, *extra])
    jobs["tp2pp2 -> hf, --memory 64MiB"] = ("tp2pp2", ["--to", "hf", "--memory", "64MiB"])
    dist = ["--to", "megatron-dist", "--tp", "2", "--pp", "2"]
    bench.run(2, "convert", bench.folder / "hf", bench.folder / "dist", *dist, "--quiet")
    jobs["torch_dist tp2pp2 -> hf"] = ("dist", ["--to", "hf"])
    jobs["torch_dist tp2pp2 -> hf, no verify"] = ("dist", ["--to", "hf", "--no-verify"])
    jobs["hf -> torch_dist tp2pp2"] = ("hf", dist)
    jobs["hf -> hdf5"] = ("hf", ["--to", "hdf5"])
    jobs["hf -> hdf5, no verify"] = ("hf", ["--to", "hdf5", "--no-verify"])
    jobs["hf -> hdf5, fletcher32"] = ("hf", ["--to", "hdf5", "--hdf5-filter", "fletcher32"])
    for ranks in map(int, options.ranks.split(",")):
        measure(bench, ranks, options.repeat, "tp2pp2", jobs)
        measure(bench, ranks, 1, "tp2pp2", {"hf -> hdf5, deflate": ("hf", ["--to", "hdf5", "--hdf5-filter", "deflate"])})
    for name in ("tp2pp2", "hf", "dist"):
        shutil.rmtree(bench.folder / name)
    older_flows(bench, options)
    large_dataset(bench)
    for ranks in (1, 2, 4, 8):
        print(f"{ranks:5}  start-up (--version)             {bench.run(ranks, '--version')[0]:7.2f} s")
    plan_items(bench)
    plan_large(bench)
    shutil.rmtree(bench.folder)


def older_flows(bench, options):
    """A GPT-2 in fp32 the ways that Merak's users go: Megatron-DeepSpeed to Merak, Merak to Transformers."""
    mds = ["--to", "megatron-deepspeed", "--lineage", "bigscience", "--tp", "2", "--pp", "4"]
    merak = ["--to", "merak", "--merak-era", "1", "--tp", "4", "--pp", "4"]
    layers = max(4, round(24e-9 * float(options.parameters)))
    sizes = ["--layers", layers, "--hidden", 1280, "--heads", 20, "--ffn", 5120, "--vocab", 50304, "--positions", 1024]
    bench.run(2, "sample", bench.folder / "mds", "--family", "gpt2", *sizes, "--dtype", "fp32", *mds)
    bench.run(2, "convert", bench.folder / "mds", bench.folder / "merak", *merak, "--quiet")
    print(f"a GPT-2 of {layers} layers, {size_of(bench.folder / 'mds') / 1e9:.2f} GB")
    jobs = {"mds tp2pp4 -> merak tp4pp4": ("mds", merak), "merak tp4pp4 -> hf-bin": ("merak", ["--to", "hf-bin"])}
    for ranks in map(int, options.ranks.split(",")):
        measure(bench, ranks, options.repeat, "mds", jobs)


def large_dataset(bench):
    """A dataset above 4 GiB, written and read by 4 ranks, contiguous and in chunks; the source is a hole."""
    sizes = ["--layers", 1, "--hidden", 4096, "--heads", 32, "--ffn", 256, "--vocab", 540000, "--positions", 64]
    bench.run(2, "sample", bench.folder / "large", "--family", "gpt2", *sizes, "--dtype", "bf16", "--to", "hf", "--sparse")
    for filter in ("none", "fletcher32", "deflate"):
        flags = ["--to", "hdf5", "--hdf5-filter", filter, "--quiet", "--json"]
        seconds, report = bench.run(4, "convert", bench.folder / "large", bench.folder / "h5", *flags)
        print(f"    4  hf -> hdf5, above 4 GiB, {filter:10}  {seconds:7.2f} s, {report['target_bytes'] / 1e9:.2f} GB")
        seconds, _ = bench.convert(4, "h5", ["--to", "hf"])
        print(f"    4  hdf5 -> hf, above 4 GiB, {filter:10}  {seconds:7.2f} s")
        shutil.rmtree(bench.folder / "h5")
    shutil.rmtree(bench.folder / "large")


def plan_items(bench):
    """A distributed checkpoint of many small items in many files: planned by their headers, and inspected."""
    sizes = ["--layers", 120, "--hidden", 128, "--heads", 64, "--groups", 16, "--ffn", 256, "--vocab", 1024]
    layout = ["--to", "megatron-dist", "--tp", 16, "--pp", 8, "--dist-files", 4]
    folder = bench.folder / "items"
    bench.run(2, "sample", folder, "--family", "llama", *sizes, "--dtype", "bf16", *layout)
    files = len(list(folder.rglob("*.distcp")))
    seconds, report = bench.run(1, "plan", folder, bench.folder / "planned", "--to", "hf", "--json")
    inspected, _ = bench.run(1, "inspect", folder, "--json")
    items = 120 * (16 + 16 + 2 * 16 + 16 + 2) + 2 * 16 + 1
    print(f"       plan {items} items in {files} files of torch_dist, to hf {seconds:7.2f} s, {report['peak_rss'] / 2**20:.0f} MiB; inspect {inspected:.2f} s")
    shutil.rmtree(folder)


def plan_large(bench):
    """Plans for 4096 ranks of a 1 T parameter model, from headers alone."""
    megatron, hf = ["--to", "megatron", "--tp", "8", "--pp", "16", "--ep", "8"], ["--to", "hf"]
    sample = ["--family", "qwen3_moe", "--parameters", "1e12", "--dtype", "bf16", "--sparse"]
    ranks = ["--ranks", "4096", "--ranks-per-node", "32"]
    for source, target in ((megatron, hf), (hf, megatron)):
        folder = bench.folder / ("large-" + source[1])
        bench.run(2, "sample", folder, *sample, *source)
        seconds, report = bench.run(1, "plan", folder, bench.folder / "planned", *target, *ranks, "--json")
        print(f"       plan 1 T parameters, 4096 ranks, to {target[1]:10}{seconds:7.2f} s, {report['peak_rss'] / 2**20:.0f} MiB")
        for name in ("read", "sent", "received", "written", "all"):
            share = report[name]["sum"] / report["all"]["sum"]
            print(f"         {name:10}{share:5.0%} of all; max/mean of ranks {report[name]['max_over_mean']:.3f},"
                  f" of nodes {report[name]['max_over_mean_of_nodes']:.3f}")


if __name__ == "__main__":
    main()
