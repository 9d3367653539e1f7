"""Conversions that are killed or stopped, and those that go on with --resume.

usage: resume_test.py RESHARD MPIEXEC DATA KILLS [KILLED]
KILLS: random moments; KILLED: the program that dies before the call that RESHARD_KILL_AT names
"""

import filecmp
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from programs import Checks, Reshard

STOPPED, JOURNAL = 75, 8 << 20
INTERVAL = ["--memory", "8MiB", "--journal-interval", str(JOURNAL)]


def same(a, b):
    """Whether two folders hold the same files, hidden ones too."""
    compared = filecmp.dircmp(a, b, ignore=[])
    equal = filecmp.cmpfiles(a, b, compared.common_files, shallow=False)[0]
    return not compared.left_only and not compared.right_only and len(equal) == len(compared.common_files)


class Conversion:
    """One conversion, in several ways of being cut short."""

    def __init__(self, reshard, folder, *target):
        self.reshard, self.folder, self.flags = reshard, folder, [*target, *INTERVAL]
        self.source, self.target, self.wanted = (folder / name for name in ("source", "target", "wanted"))
        reshard.run("sample", self.source, "--family", "llama", "--to", "megatron", "--tp", "2", "--pp", "2", "--parameters", "1e8")
        begin = time.monotonic()
        reshard.convert(self.source, self.wanted, *self.flags, ranks=3)
        self.seconds = time.monotonic() - begin

    def start(self, ranks, *flags):
        launcher = [] if ranks == 1 else [self.reshard.mpiexec, "--oversubscribe", "-n", str(ranks)]
        command = [*launcher, self.reshard.binary, "convert", self.source, self.target, *self.flags, "--json", *flags]
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def begin(self, *flags):
        """A conversion on one rank that has a record in its journal more than there were."""
        before = len(self.journal())
        process = self.start(1, *flags)
        while process.poll() is None and len(self.journal()) <= before:
            time.sleep(0.001)
        return process

    def journal(self):
        return list(self.folder.glob(".target.reshard-*/journal/*-0-1"))

    def fails(self, ranks, *flags, code=2):
        """What a conversion that ends with a code has said."""
        process = self.start(ranks, *flags)
        said = "".join(process.communicate(timeout=300))
        assert process.returncode == code, f"exit {process.returncode}: {said}"
        return said

    def ranks_of(self, process, ranks):
        """Process ids of the ranks of a started conversion."""
        if ranks == 1:
            return [process.pid]
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [int(child) for child in children]

    def left(self):
        """What lies beside source and wanted."""
        return sorted(path.name for path in self.folder.iterdir() if path not in (self.source, self.wanted))

    def clear(self):
        for name in self.left():
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def resume(self, ranks):
        """Goes on, checks the result; the report."""
        process = self.start(ranks, "--resume")
        said, failed = process.communicate(timeout=300)
        assert process.returncode == 0, f"exit {process.returncode}: {said}{failed}"
        assert self.left() == ["target"], self.left()
        assert same(self.target, self.wanted), "other bytes"
        report = json.loads(said)
        if not report["already"]:
            assert report["resumed"] + report["written"]["sum"] == report["target_bytes"], report
        return report


def check_kills(conversion, checks, kills):
    """A random rank is killed at a random moment."""
    chance = random.Random(kills)
    for number in range(kills):
        ranks, again, moment = chance.choice([1, 2, 4]), chance.choice([1, 3]), chance.uniform(0.2, 1.1) * conversion.seconds
        with checks.case(f"kill {number}: one of {ranks} ranks, {again} go on, {conversion.flags[1]}"):
            process = conversion.start(ranks)
            time.sleep(moment)
            running = conversion.ranks_of(process, ranks) if process.poll() is None else []
            if running:
                os.kill(chance.choice(running), signal.SIGKILL)
            process.communicate(timeout=300)
            written = written_in(conversion.folder)
            report = conversion.resume(again) if conversion.left() != ["target"] else {"resumed": "all", "target_bytes": "", "already": True}
            assert same(conversion.target, conversion.wanted)
            if written and not report["already"]:  # what was written and is done again: a journal interval of each rank, and a tenth
                again = written - report["resumed"]
                assert again <= ranks * 2 * JOURNAL + 0.1 * report["target_bytes"], f"{again} bytes done again"
            checks.note(f"after {moment:.2f} s: resumed {report['resumed']} of {report['target_bytes']}")
        conversion.clear()


def written_in(folder):
    """Bytes that a file system holds of what was begun there; holes are none."""
    return sum(path.stat().st_blocks * 512 for path in folder.glob(".target.reshard-*/unit/**/*") if path.is_file())


def check_each_call(reshard, killed, data, folder, checks):
    """A small conversion with --overwrite is killed before each call that changes a file or a name: at any time the
    target's name stands for all of the old or all of the new, or, where names cannot be exchanged, for nothing in
    the one gap between two renames; --resume always has the right bytes."""
    source = data / "megatron" / "llama-gqa" / "torch-tp2-pp2"
    old, wanted, target = folder / "old", folder / "wanted", folder / "target"
    flags = ["--to", "megatron", "--tp", "2", "--for-release", "--io-threads", "1", "--memory", "1MiB", "--journal-interval", "64KiB"]
    reshard.convert(source, old, "--to", "megatron", "--for-release", "--dtype", "fp32")
    reshard.convert(source, wanted, *flags)
    last = 0
    for exchange in (True, False):  # which differ in the last calls only
        with checks.case(f"killed before each call, {'names exchanged' if exchange else 'two renames'}"):
            environment = os.environ | ({} if exchange else {"RESHARD_NO_EXCHANGE": "1"})
            gaps, calls = 0, max(0, last - 15)
            while True:
                shutil.copytree(old, target)
                command = [killed, "convert", str(source), str(target), *flags, "--overwrite", "--quiet"]
                done = subprocess.run(command, env=environment | {"RESHARD_KILL_AT": str(calls)}, capture_output=True, text=True, timeout=60)
                if done.returncode == 0:
                    break
                assert done.returncode == -signal.SIGKILL, f"call {calls}: exit {done.returncode}: {done.stderr}"
                if not (target / "release").exists():
                    gaps += 1
                else:
                    assert same_trees(target / "release", old / "release") or same_trees(target / "release", wanted / "release"), f"call {calls}: neither old nor new"
                reshard.run("convert", source, target, *flags, "--overwrite", "--resume", "--quiet")
                assert same_trees(target, wanted), f"call {calls}: other bytes"
                shutil.rmtree(target)
                calls += 1
            assert same_trees(target, wanted) and calls > 30, calls
            kills, last = calls - max(0, last - 15), calls
            assert gaps == (0 if exchange else 1), f"the target had no name {gaps} times"
            shutil.rmtree(target)
            checks.note(f"{kills} kills, {gaps} in the gap")


def same_trees(a, b):
    """Whether all files below two folders are the same, hidden ones too."""
    trees = [{path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()} for root in (a, b)]
    return trees[0] == trees[1]


def check_stops(conversion, checks, signals):
    """A signal ends a conversion with 75; it leaves what can be gone on with, or nothing."""
    for sent in signals:
        with checks.case(f"{sent.name}, {conversion.flags[1]}"):
            process = conversion.start(1)
            while process.poll() is None and not list(conversion.folder.glob(".target.reshard-*/journal/0-*")):
                time.sleep(0.001)
            process.send_signal(sent)
            said = "".join(process.communicate(timeout=300))
            assert process.returncode == STOPPED, f"exit {process.returncode}: {said}"
            assert "stopped: " in said and signal.strsignal(sent) in said and "--resume" in said, said
            assert [name[:16] for name in conversion.left()] == [".target.reshard-"], conversion.left()
            assert conversion.resume(3)["resumed"] > 0
        conversion.clear()


def check_others(conversion, checks):
    """Leftovers of another source or other options, a held lock, a run without --resume: what was done is never lost."""
    process = conversion.begin()
    with checks.case("a unit that is being written"):
        said = conversion.fails(1)
        assert "another conversion writes there now" in said, said
    process.kill()
    process.communicate(timeout=300)
    left = [name for name in conversion.left() if not name.endswith("lock")]
    with checks.case("other options do not go on"):
        assert "with other options" in conversion.fails(1, "--resume", "--dtype", "fp32")
        assert left[0] in conversion.left()
    with checks.case("without --resume what was left is told and not touched"):
        report = json.loads(conversion.reshard.run("convert", conversion.source, conversion.target, *conversion.flags, "--json"))
        assert any(left[0] in note and "--resume" in note and "bytes" in note for note in report["notes"]), report["notes"]
        assert report["resumed"] == 0 and conversion.left() == [*left, "target"], conversion.left()
    with checks.case("the journal of another folder is not gone on with, nor removed"):
        copied = conversion.folder / f"{left[0]}-copied"
        shutil.copytree(conversion.folder / left[0], copied)
        shutil.move(conversion.folder / left[0], conversion.folder / "kept")
        shutil.rmtree(conversion.target)
        assert "without a journal of its own" in conversion.fails(3, "--resume")
        assert copied.is_dir()
        shutil.rmtree(copied)
        shutil.move(conversion.folder / "kept", conversion.folder / left[0])
    with checks.case("a target that came into being meanwhile leaves what was done"):
        conversion.target.mkdir()
        (conversion.target / "README").write_text("mine")
        for ranks in (1, 3):
            assert "not empty" in conversion.fails(ranks, "--resume")
            assert conversion.left() == [*left, "target"], conversion.left()
    with checks.case("a damaged journal beside a good one removes neither"):
        shutil.rmtree(conversion.target)
        journal = conversion.folder / left[0] / "journal"
        shutil.copy(journal / "0-0-1", journal / "1-0-1")
        assert "written twice" in conversion.fails(1, "--resume", code=3)
        assert conversion.left() == left, conversion.left()
        (journal / "1-0-1").unlink()
    with checks.case("with --overwrite, and the source spelled otherwise, what was left goes on"):
        conversion.target.mkdir()
        (conversion.target / "README").write_text("mine")
        source, conversion.source = conversion.source, conversion.source / ".." / conversion.source.name
        other = conversion.start(1, "--resume", "--overwrite")
        said = "".join(other.communicate(timeout=300))
        conversion.source = source
        assert other.returncode == 0 and json.loads(said)["resumed"] > 0, said
        assert conversion.left() == ["target"] and same(conversion.target, conversion.wanted)
    conversion.clear()
    for flags, then in ((["--no-verify"], []), ([], ["--no-verify"])):
        with checks.case(f"begun with {flags}, gone on with {then}, and again without"):
            for more in (flags, ["--resume", *then]):
                process = conversion.begin(*more)
                process.kill()
                process.communicate(timeout=300)
            assert conversion.resume(3)["resumed"] > 0
        conversion.clear()
    process = conversion.begin()
    process.kill()
    process.communicate(timeout=300)
    with checks.case("a source that was changed and got its time back does not go on"):
        file = next(conversion.source.rglob("*.pt"))
        before = file.stat()
        os.utime(file)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert "given other rights since" in conversion.fails(1, "--resume")
        assert conversion.left(), "what was done is gone"
    conversion.clear()


def check_siblings(conversion, checks):
    """Iterations of one root that are written side by side: the tracker ends at the latest."""
    with checks.case("five iterations at once"):
        root = conversion.folder / "target"
        command = [conversion.reshard.binary, "convert", conversion.source, root, "--to", "megatron", "--quiet", "--iteration"]
        running = [subprocess.Popen([*map(str, command), str(n)], stderr=subprocess.PIPE) for n in (3, 5, 1, 4, 2)]
        for process in running:
            assert process.wait(timeout=300) == 0, process.stderr.read()
            process.stderr.close()
        assert (root / "latest_checkpointed_iteration.txt").read_text().strip() == "5"
        assert sorted(os.listdir(root)) == [f"iter_{n:07}" for n in range(1, 6)] + ["latest_checkpointed_iteration.txt"], os.listdir(root)
    conversion.clear()


def main(binary, mpiexec, data, kills, killed=None):
    checks = Checks()
    with tempfile.TemporaryDirectory() as temporary:
        conversion = Conversion(Reshard(binary, mpiexec), pathlib.Path(temporary), "--to", "hf")
        check_stops(conversion, checks, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP))
        check_others(conversion, checks)
        check_siblings(conversion, checks)
        check_kills(conversion, checks, int(kills))
        if killed:
            small = pathlib.Path(temporary, "small")
            small.mkdir()
            check_each_call(conversion.reshard, killed, pathlib.Path(data), small, checks)
    with tempfile.TemporaryDirectory() as temporary:  # whose digests are in the file itself
        conversion = Conversion(Reshard(binary, mpiexec), pathlib.Path(temporary), "--to", "hdf5")
        check_stops(conversion, checks, (signal.SIGINT,))
        check_kills(conversion, checks, max(2, int(kills) // 3))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
