"""HDF5 files whose datasets pass a filter, written by all ranks together: their values, their bytes, failing ranks.

usage: hdf5_filter_test.py RESHARD MPIEXEC DATA FAILING [KILLED]
FAILING, KILLED: the program with writes that can be made to fail, and the one that is killed before a call
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py
import numpy
from programs import Checks, Reshard

FILTERS = {"fletcher32": [3], "deflate": [2, 1]}  # numbers that HDF5 has for them
MODEL = ["--family", "llama", "--parameters", "2e6", "--dtype", "bf16"]


def filters_of(dataset):
    """The numbers of a dataset's filters."""
    made = dataset.id.get_create_plist()
    return [made.get_filter(i)[0] for i in range(made.get_nfilters())]


def check_values(reshard, folder, name):
    """h5py reads what it reads of the contiguous file, at 1, 2, 3, 4 and 7 ranks the same bytes; it is proven and read back."""
    for ranks in (1, 2, 3, 4, 7) if name == "deflate" else (1, 3, 7):
        flags = ["--to", "hdf5", "--hdf5-filter", name, "--hdf5-chunk-size", "64KiB", "--memory", "4MiB"]
        report = json.loads(reshard.run("convert", folder / "source", folder / str(ranks), *flags, "--quiet", "--json", ranks=ranks))
        assert report["verified"] and report["rounds"] > 3, report
        same = [(folder / str(n) / file).read_bytes() for n in (1, ranks) for file in ("model.h5", "manifest.json")]
        assert same[:2] == same[2:], f"{ranks} ranks write other bytes"
    several = 0
    with h5py.File(folder / "plain" / "model.h5") as plain, h5py.File(folder / "7" / "model.h5") as file:
        assert dict(plain.attrs) == dict(file.attrs) and list(plain["tensors"]) and list(plain["metadata"]) == list(file["metadata"])
        assert set(plain["tensors"]) == set(file["tensors"])
        for tensor, dataset in file["tensors"].items():
            wanted = plain["tensors"][tensor]
            assert filters_of(dataset) == FILTERS[name] and dataset.chunks, tensor
            several += dataset.chunks != dataset.shape
            assert (dataset.dtype, dataset.shape) == (wanted.dtype, wanted.shape)
            assert numpy.array_equal(dataset.astype(numpy.float32)[()], wanted.astype(numpy.float32)[()], equal_nan=True), tensor
            assert {k: v.tolist() for k, v in dataset.attrs.items()} == {k: v.tolist() for k, v in wanted.attrs.items()}, tensor
        for inner in plain["metadata"]:
            assert numpy.array_equal(plain["metadata"][inner][()], file["metadata"][inner][()])
    assert several > 5, several
    report = json.loads(reshard.run("verify", folder / "3", "--json", ranks=2))
    assert report["findings"] == [] and report["bytes_read"] == report["bytes"], report
    reshard.run("compare", folder / "source", "--manifest", folder / "3", ranks=2)
    report = json.loads(reshard.run("convert", folder / "source", folder / "3", *flags, "--quiet", "--json"))
    assert report["already"], report
    reshard.convert(folder / "7", folder / "back", "--to", "megatron", "--tp", "2", ranks=3)
    reshard.run("compare", folder / "back", folder / "source", ranks=2)


def check_unproven(reshard, folder):
    """Without verification the file is the same but for its digests."""
    flags = ["--to", "hdf5", "--hdf5-filter", "deflate", "--no-verify"]
    for ranks in (1, 3):
        reshard.convert(folder / "source", folder / f"plain-{ranks}", *flags, ranks=ranks)
    assert (folder / "plain-1" / "model.h5").read_bytes() == (folder / "plain-3" / "model.h5").read_bytes()
    with h5py.File(folder / "plain-3" / "model.h5") as file:
        assert all({text.strip() for text in d.attrs["digests"]} == {b"not computed"} for d in file["tensors"].values())
    reshard.run("compare", folder / "plain-3", folder / "source", ranks=2)


def check_refused(reshard, folder, flags, wanted):
    """A wish that cannot be followed: exit code 2, and why."""
    command = [reshard.binary, "convert", folder / "source", folder / "no", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and wanted in done.stderr, f"exit {done.returncode}: {done.stderr}"
    assert not (folder / "no").exists()


def check_resume(reshard, killed, folder):
    """What a run left that was killed, at one of several moments, is written from its begin, and that is said."""
    flags = ["--to", "hdf5", "--hdf5-filter", "fletcher32"]
    target, whole, begun = folder / "killed", folder / "whole", 0
    reshard.convert(folder / "source", whole, *flags)
    for call in (2, 5, 6, 7, 9):
        environment = {**os.environ, "RESHARD_KILL_AT": str(call)}
        died = subprocess.run([killed, "convert", folder / "source", target, *flags, "--quiet"], capture_output=True, env=environment)
        assert died.returncode == -signal.SIGKILL and not target.exists(), died
        begun += bool(list(folder.glob(".killed.reshard-*/unit/model.h5")))
        for unit in folder.glob(".killed.reshard-*/unit"):
            (unit / "model.h5.data.1").touch()  # as Open MPI has them for each further rank
        said = subprocess.run([reshard.binary, "convert", folder / "source", target, *flags, "--resume"], capture_output=True, text=True)
        assert said.returncode == 0 and "written from its begin, not gone on with" in said.stdout + said.stderr, said
        assert not list(folder.glob(".killed.*")) and sorted(os.listdir(target)) == sorted(os.listdir(whole)), os.listdir(target)
        for file in os.listdir(whole):
            assert (target / file).read_bytes() == (whole / file).read_bytes(), file
        shutil.rmtree(target)
    assert begun >= 3, begun


def check_failing(reshard, failing, folder, ranks, rank, call):
    """A rank whose write fails within HDF5 neither hangs the others nor leaves anything under the target's name."""
    command = [reshard.mpiexec, "--oversubscribe", "-n", ranks, failing, "convert", folder / "source", folder / "no"]
    flags = ["--to", "hdf5", "--hdf5-filter", "deflate", "--quiet"]
    environment = {**os.environ, "RESHARD_FAIL_WRITE": f"{rank} {call}"}
    done = subprocess.run([*map(str, command), *flags], capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 4, f"exit {done.returncode}: {done.stderr}"
    assert done.stderr.count("reshard: ") == 1 and "model.h5" in done.stderr and "H5Dwrite" in done.stderr, done.stderr
    assert not (folder / "no").exists()
    if ranks == 1:
        assert not list(folder.glob(".no.reshard-*")), "a rank alone cleans up"
    for left in folder.glob(".no.*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def main(binary, mpiexec, data, failing, killed=None):
    reshard, checks = Reshard(binary, mpiexec), Checks()
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        reshard.run("sample", root / "source", *MODEL, "--to", "megatron", "--tp", "2", "--pp", "2", ranks=2)
        reshard.convert(root / "source", root / "plain", "--to", "hdf5")

        def run(name, work, *arguments):
            folder = root / "case"
            folder.mkdir()
            for there in ("source", "plain"):
                (folder / there).symlink_to(root / there)
            with checks.case(name):
                work(reshard, *arguments)
            shutil.rmtree(folder)

        case = root / "case"
        for name in FILTERS:
            run(name, check_values, case, name)
        run("without verification", check_unproven, case)
        if killed:
            run("resume", check_resume, killed, case)
        run("zstd", check_refused, case, ["--to", "hdf5", "--hdf5-filter", "zstd"], "has no such filter, only: deflate, fletcher32")
        run("no chunks", check_refused, case, ["--to", "hdf5", "--hdf5-chunk-size", "1MiB"], "are contiguous")
        run("other formats", check_refused, case, ["--to", "hf", "--hdf5-filter", "deflate"], "only: hdf5")
        run("huge chunks", check_refused, case, ["--to", "hdf5", "--hdf5-filter", "deflate", "--hdf5-chunk-size", "1GiB"], "wanted 16 to")
        for ranks, rank, call in ((1, 0, 3), (2, 0, 2), (2, 1, 5), (3, 2, 1)):
            run(f"write {call} of rank {rank} of {ranks} fails", check_failing, failing, case, ranks, rank, call)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
