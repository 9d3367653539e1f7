"""Runs reshard the way a user does, and counts what a test script checked."""

import contextlib
import os
import subprocess
import time


class Reshard:
    """The binary under test, started with mpiexec; a failing command raises with what it printed."""

    def __init__(self, binary, mpiexec):
        self.binary, self.mpiexec = str(binary), str(mpiexec)

    def run(self, *arguments, ranks=1):
        """Runs one command on so many ranks and returns what it wrote to stdout."""
        launcher = [] if ranks == 1 else [self.mpiexec, "--oversubscribe", "-n", str(ranks)]
        command = [*launcher, self.binary, *map(str, arguments)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        if done.returncode:
            said = (done.stderr + done.stdout).strip()[-2000:]
            raise AssertionError(f"exit {done.returncode}: {' '.join(command)}\n{said}")
        return done.stdout

    def convert(self, source, target, *flags, ranks=1):
        """Converts into a new folder whose parents are made."""
        os.makedirs(os.path.dirname(target), exist_ok=True)
        return self.run("convert", source, target, *flags, "--quiet", ranks=ranks)


class Checks:
    """Runs named cases, goes on after a failure, and gives the exit code at the end."""

    def __init__(self):
        self.passed, self.failed, self.notes = [], [], []

    def note(self, text):
        """Adds a remark to the line of the case that runs."""
        self.notes.append(text)

    @contextlib.contextmanager
    def case(self, name):
        """A failed assertion or any other error within fails this case only."""
        start, self.notes = time.monotonic(), []
        try:
            yield self
            self.passed.append(name)
            print(f"ok    {name} {'; '.join(self.notes)} ({time.monotonic() - start:.1f} s)", flush=True)
        except Exception as error:
            self.failed.append(name)
            print(f"FAIL  {name}: {type(error).__name__}: {error}", flush=True)

    def finish(self):
        """Prints the count; 0 when at least one case ran and none failed."""
        print(f"{len(self.passed)} passed, {len(self.failed)} failed {' '.join(self.failed)}")
        return 0 if self.passed and not self.failed else 1
