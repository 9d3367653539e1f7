"""Targets whose names, or what lies below and beside them, are links: nothing is written, changed or removed at the end of a link.

usage: links_test.py RESHARD MPIEXEC DATA [WORD...]   only cases whose name holds a word
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from programs import Checks

USAGE, INPUT, IO, STOPPED = 2, 3, 4, 75
TRACKER = "latest_checkpointed_iteration.txt"
CASES = []


def case(*codes, to="hf", flags=(), wanted=""):
    """Registers a function that prepares a place with a folder `outside`; convert into its `target` ends with each of the codes:
    without --overwrite, then with it. The function may return what is to be checked after success."""

    def register(function):
        CASES.append((function.__name__.replace("_", " "), function, codes, to, flags, wanted))
        return function

    return register


def snapshot(folder):
    """Everything below a folder: kind, content, time of change."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path)] = (status.st_mode, status.st_mtime_ns, status.st_ino, content)
    return found


def is_model(folder):
    """Whether a folder that is no link holds a model of Hugging Face."""
    return not folder.is_symlink() and (folder / "config.json").is_file() and not (folder / "config.json").is_symlink()


# The unit itself.


@case(USAGE, 0, wanted="link")
def target_is_a_link_to_a_folder(place):
    (place / "target").symlink_to("outside")
    return lambda: is_model(place / "target")


@case(USAGE, 0, wanted="link")
def target_is_a_link_to_an_empty_folder(place):
    (place / "outside" / "empty").mkdir()
    (place / "target").symlink_to("outside/empty")
    return lambda: is_model(place / "target")


@case(USAGE, 0, wanted="link")
def target_is_a_link_to_a_file(place):
    (place / "target").symlink_to("outside/file")
    return lambda: is_model(place / "target")


@case(USAGE, 0, wanted="link")
def target_is_a_link_to_nothing(place):
    (place / "target").symlink_to("outside/new")
    return lambda: is_model(place / "target") and not (place / "outside" / "new").exists()


@case(INPUT, INPUT, wanted="target")
def target_is_a_link_to_itself(place):
    (place / "target").symlink_to("target")


@case(USAGE, 0, to="megatron", wanted="link")
def iteration_is_a_link(place):
    (place / "target").mkdir()
    (place / "target" / "iter_0000000").symlink_to(place / "outside")
    (place / "target" / "iter_0000001").symlink_to(place / "outside")
    (place / "target" / "release").symlink_to(place / "outside")
    return lambda: len([path for path in (place / "target").glob("*/mp_rank_00/model_optim_rng.pt") if not path.parents[1].is_symlink()]) == 1


@case(USAGE, USAGE, wanted="lie in one another")
def target_is_a_link_to_the_source(place):
    (place / "target").symlink_to("source")


@case(0, to="megatron")
def folder_above_the_iteration_is_a_link_of_the_users(place):
    (place / "real").mkdir()
    (place / "target").symlink_to("real")
    return lambda: next((place / "real").glob("*/mp_rank_00/model_optim_rng.pt")) and (place / "target").is_symlink()


@case(USAGE, 0, wanted="not empty")
def old_target_holds_links(place):
    (place / "target").mkdir()
    for name, end in {"config.json": "../outside/file", "model.safetensors": "/dev/null", "folder": "../outside", "above": "..", "itself": "itself"}.items():
        (place / "target" / name).symlink_to(end)
    return lambda: is_model(place / "target") and not (place / "target" / "folder").is_symlink()


# What lies beside it.


@case(IO, IO, wanted="lock")
def lock_is_a_link(place):
    (place / ".target.reshard-lock").symlink_to("outside/file")


@case(IO, IO, wanted="lock")
def lock_is_a_link_to_nothing(place):
    (place / ".target.reshard-lock").symlink_to("outside/new")


@case(IO, IO, wanted="lock")
def lock_is_a_fifo(place):
    os.mkfifo(place / ".target.reshard-lock")


@case(0)
def abandoned_staging_is_a_link(place):
    (place / ".target.reshard-1-1").symlink_to("outside")
    return lambda: is_model(place / "target") and (place / ".target.reshard-1-1").is_symlink()


@case(0, flags=("--resume",))
def staging_to_go_on_with_is_a_link(place):
    return abandoned_staging_is_a_link(place)


@case(0)
def abandoned_staging_holds_links(place):
    staging = place / ".target.reshard-1-1"
    (staging / "journal").mkdir(parents=True)
    (staging / "journal" / "identity").symlink_to("../../outside/file")
    for name, end in {"unit": "../outside", "old": "/", "itself": "itself", "nothing": "gone"}.items():
        (staging / name).symlink_to(end)
    return lambda: is_model(place / "target") and (staging / "unit").is_symlink()


@case(INPUT, wanted="identity")
def identity_is_a_fifo(place):
    (place / ".target.reshard-1-1" / "journal").mkdir(parents=True)
    os.mkfifo(place / ".target.reshard-1-1" / "journal" / "identity")


@case(0, to="megatron")
def tracker_is_a_link(place):
    (place / "target").mkdir()
    (place / "target" / TRACKER).symlink_to("../outside/tracker")
    return lambda: (place / "target" / TRACKER).is_file() and not (place / "target" / TRACKER).is_symlink()


@case(0, to="megatron")
def new_tracker_is_a_link(place):
    (place / "target").mkdir()
    (place / "target" / f".{TRACKER}.reshard-new").symlink_to("../outside/file")
    return lambda: not (place / "target" / TRACKER).is_symlink() and not os.path.lexists(place / "target" / f".{TRACKER}.reshard-new")


@case(IO, to="megatron", wanted="lock")
def lock_of_the_tracker_is_a_link(place):
    (place / "target").mkdir()
    (place / "target" / f".{TRACKER}.reshard-lock").symlink_to("../outside/file")


@case(INPUT, INPUT, to="megatron", wanted=TRACKER)
def tracker_is_a_fifo(place):
    (place / "target").mkdir()
    os.mkfifo(place / "target" / TRACKER)


@case(INPUT, INPUT, to="megatron", wanted=TRACKER)
def tracker_leads_nowhere(place):
    (place / "target").mkdir()
    (place / "target" / TRACKER).symlink_to("../outside/new")


class Tester:
    def __init__(self, binary, data):
        self.binary, self.model = binary, pathlib.Path(data) / "huggingface" / "llama" / "hf"

    def prepare(self, place):
        """A source, and what must not change."""
        shutil.copytree(self.model, place / "source")
        (place / "outside").mkdir()
        (place / "outside" / "file").write_text("mine")
        (place / "outside" / "tracker").write_text("0")
        (place / "outside" / "config.json").write_text("mine too")
        for path in (place / "outside").iterdir():
            os.utime(path, (1, 1))

    def run(self, place, *flags):
        return subprocess.run([self.binary, "convert", place / "source", place / "target", *flags, "--quiet"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    def check(self, place, prepare, codes, to, flags, wanted):
        self.prepare(place)
        check = prepare(place)
        before = snapshot(place / "outside")
        for code, more in zip(codes, ([], ["--overwrite"])):
            done = self.run(place, "--to", to, *flags, *more)
            assert done.returncode == code, f"exit {done.returncode} {more}, wanted {code}: {done.stderr}"
            assert code == 0 or wanted in done.stderr, f"lacks {wanted!r}: {done.stderr}"
            assert snapshot(place / "outside") == before, f"changed at the end of a link {more}: {done.stderr}"
        assert not check or check(), [str(path) for path in place.rglob("*")]

    def stop(self, place):
        """A conversion that was stopped when its first record was in the journal; the staging folder."""
        command = [self.binary, "convert", place / "source", place / "target", "--to", "megatron", "--memory", "8MiB", "--journal-interval", "8MiB"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not list(place.glob("target/.*.reshard-*/journal/0-*")):
            time.sleep(0.001)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=60) == STOPPED, process.returncode
        return next(path for path in place.glob("target/.*.reshard-*") if path.is_dir())


def unit_is_moved(staging, outside):
    shutil.move(staging / "unit", outside / "unit")
    (staging / "unit").symlink_to(outside / "unit")


def rank_folder_is_moved(staging, outside):
    rank = next((staging / "unit").iterdir())
    shutil.move(rank, outside / "rank")
    rank.symlink_to(outside / "rank")


def file_is_moved(staging, outside):
    file = next((staging / "unit").glob("*/model_optim_rng.pt"))
    shutil.move(file, outside / "moved.pt")
    file.symlink_to(outside / "moved.pt")


def journal_is_moved(staging, outside):
    shutil.move(staging / "journal", outside / "journal")
    (staging / "journal").symlink_to(outside / "journal")


def staging_is_moved(staging, outside):
    shutil.move(staging, outside / "staging")
    staging.symlink_to(outside / "staging")


def check_resumed(tester, checks, words):
    """A stopped conversion, a part of which is put elsewhere and linked: --resume does not write there."""
    with tempfile.TemporaryDirectory() as scratch:
        source = pathlib.Path(scratch) / "large"
        subprocess.run([tester.binary, "sample", source, "--family", "llama", "--to", "hf", "--parameters", "5e7", "--quiet"], check=True)
        for change in (unit_is_moved, rank_folder_is_moved, file_is_moved, journal_is_moved, staging_is_moved):
            name = "going on: " + change.__name__.replace("_", " ")
            if words and not any(word in name for word in words):
                continue
            place = pathlib.Path(scratch) / change.__name__
            with checks.case(name):
                place.mkdir()
                tester.prepare(place)
                shutil.rmtree(place / "source")
                (place / "source").symlink_to(source)
                change(tester.stop(place), place / "outside")
                before = snapshot(place / "outside")
                done = tester.run(place, "--to", "megatron", "--resume")
                assert snapshot(place / "outside") == before, f"changed at the end of a link: exit {done.returncode}: {done.stderr}"
                assert done.returncode in (0, USAGE, IO), f"exit {done.returncode}: {done.stderr}"
                checks.note(f"exit {done.returncode}")
            shutil.rmtree(place, ignore_errors=True)


def main(binary, _mpiexec, data, *words):
    tester, checks = Tester(binary, data), Checks()
    for name, prepare, codes, to, flags, wanted in CASES:
        if words and not any(word in name for word in words):
            continue
        with tempfile.TemporaryDirectory() as scratch, checks.case(name):
            tester.check(pathlib.Path(scratch), prepare, codes, to, flags, wanted)
    check_resumed(tester, checks, words)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
