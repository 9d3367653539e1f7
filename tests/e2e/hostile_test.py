"""Hostile files and folders given to inspect, convert and compare: refused in one message, in a second and 200 MB, and nothing is run or written.

usage: hostile_test.py RESHARD MPIEXEC DATA [--sanitized] [WORD...]   only cases whose name holds a word
"""

import concurrent.futures
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

SUPPORT = pathlib.Path(__file__).resolve().parents[1] / "support"
sys.path.insert(0, str(SUPPORT))
import hostile
from hostile_folders import FOLDERS, place_in
from programs import Checks

INPUT = 3
SECONDS, BYTES = 1.0, 200 << 20  # of one process on a machine of its own
SLOWED = 5  # by what else runs on it
MOST = 8 << 20  # bytes that are looked at of what one process prints, for this one must stay small
SANITIZED = 30  # times slower, and with memory of its own
LINES, TEXT = 24, 40_000  # of one message: a list of 20 problems at most
# What a terminal would obey: control characters but the newline, and marks that turn the direction of text.
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Run:
    """One process: its exit code, what it wrote, and what it needed."""

    def __init__(self, command, place, user=None):
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=error, cwd=place, user=user)
            late = threading.Timer(60, process.kill)
            late.start()
            _, status, usage = os.wait4(process.pid, 0)
            late.cancel()
            process.returncode = self.code = os.waitstatus_to_exitcode(status)
            out.seek(0), error.seek(0)
            self.out, self.error = out.read(MOST), error.read(MOST)
        self.seconds, self.bytes = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


class Tester:
    def __init__(self, binary, data, sanitized):
        self.binary, self.data, self.sanitized = binary, pathlib.Path(data), sanitized
        self.worst = {"seconds": (0, ""), "bytes": (0, "")}

    def check(self, command, place, codes, words, user=None):
        """Runs one command; what it may end with, and what a refusal must name."""
        before = listing(place)
        run = Run([self.binary, *command], place, user)
        what = command[0]
        assert run.code != -signal.SIGKILL, f"{what} hangs"
        said = run.error.decode(errors="surrogateescape")
        assert run.code in codes, f"{what} exits with {run.code}, wanted {codes}: {said[-500:]!r} {run.out[-200:]}"
        for stream in (run.out, run.error):
            found = RAW.search(stream.decode(errors="strict" if len(stream) < MOST else "ignore"))  # and it is UTF-8
            assert not found, f"{what} prints {found.group()!r}: {stream[max(0, found.start() - 200):found.end() + 100]!r}"
        if run.code:
            assert ("\n" + said).count("\nreshard: ") == 1 and said.count("\n") <= LINES and len(said) <= TEXT, f"{what} says {said[:500]!r} ... in {said.count(chr(10))} lines and {len(said)} characters"
            missing = [word for word in words if word not in said]
            assert not missing, f"{what} does not say {missing}: {said[-500:]!r}"
        left = listing(place) - before
        assert not left, f"{what} leaves {sorted(left)[:5]}"
        factor = SANITIZED if self.sanitized else SLOWED
        assert run.seconds <= SECONDS * factor, f"{what} takes {run.seconds:.2f} s"
        assert self.sanitized or run.bytes <= BYTES, f"{what} takes {run.bytes >> 20} MiB"
        for key in self.worst:
            self.worst[key] = max(self.worst[key], (getattr(run, key), f"{what} {place.name}"))

    def check_folder(self, place, folder, code, words, shown, user=None, copied=False):
        """The three commands; inspect shows what is in no way a checkpoint leaf by leaf, if it is harmless."""
        self.check(["inspect", folder], place, {0, code} if shown else {code}, words, user)
        self.check(["convert", folder, place / "target", "--to", "hf", "--quiet"], place, {code}, words, user)
        self.check(["compare", folder, folder, "--quiet"], place, {0 if copied else code}, words, user)

    def check_file(self, case, number, place):
        """The file where its format is looked for, and a pickle by itself too."""
        folder = place / "source"
        if case.large:  # this process would pass its size on to those that it starts
            maker = [sys.executable, SUPPORT / "hostile_folders.py", case.kind, case.name, str(number), folder, self.data]
            leaf = subprocess.run(maker, check=True, capture_output=True, text=True).stdout.strip()
        else:
            leaf = place_in(folder, self.data, case.kind, case.make(), number)
        shown = case.shown or case.kind in ("json", "index", "tracker", "metadata")
        self.check_folder(place, folder, INPUT, (leaf, *case.words), shown)
        if case.kind == "pickle" and not case.large:
            (place / "alone.pkl").write_bytes(case.make())
            self.check(["inspect", place / "alone.pkl"], place, {0, INPUT}, ("alone.pkl",))


def listing(place):
    """Every path below a folder that could be a target or what a pickle made."""
    found = set()
    for name in os.listdir(place):
        found.add(name)
        if name != "source" and (place / name).is_dir():
            found.update(str(path) for path in (place / name).rglob("*"))
    return found


def file_cases(tester):
    """(name, work) of every hostile file; large ones are made by the work."""
    for kind in hostile.KINDS:
        for number, case in enumerate(hostile.cases(kind)):
            yield str(case), lambda place, case=case, number=number: tester.check_file(case, number, place)


def folder_cases(tester):
    """(name, work) of every hostile folder, by a function that damages the copy of a fixture."""
    for case in FOLDERS:
        def work(place, case=case):
            folder = pathlib.Path(shutil.copytree(tester.data / case.fixture, place / "source", copy_function=shutil.copyfile))
            changes = case.damage(folder) or {}
            if "skip" in changes:
                return
            tester.check_folder(place, changes.get("source", folder), case.code, case.words, case.shown, changes.get("user"), case.copied)

        yield f"folder/{case.name}", work


def check_kept(data):
    """What the repository keeps is what the script makes."""
    kept = pathlib.Path(data) / "hostile"
    made = {str(path): content for path, content in hostile.small_files()}
    there = {str(path.relative_to(kept)): path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    assert made.keys() == there.keys(), f"not the same files: {sorted(made.keys() ^ there.keys())[:5]}"
    different = [path for path, content in made.items() if there[path] != content]
    assert not different, f"not the same bytes: {different[:5]}"


def main(binary, mpiexec, data, *words):
    tester = Tester(pathlib.Path(binary).resolve(), data, "--sanitized" in words)
    words = [word for word in words if not word.startswith("--")]
    chosen = [(name, work) for name, work in [*file_cases(tester), *folder_cases(tester)] if not words or any(word in name for word in words)]
    checks = Checks()

    def attempt(work):
        with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
            os.chmod(scratch, 0o777)
            begin = time.monotonic()
            try:
                work(pathlib.Path(scratch))
            except Exception as error:  # told when its turn comes
                return error, time.monotonic() - begin
        return None, time.monotonic() - begin

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for (name, _), (error, seconds) in zip(chosen, pool.map(attempt, [work for _, work in chosen])):
            with checks.case(name):
                checks.note(f"{seconds:.1f} s with waiting")
                if error is not None:
                    raise error
    with checks.case("kept files"):
        check_kept(data)
    print(f"most: {tester.worst}")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
