"""Signals: a conversion that is asked to stop ends with exit code 75 and leaves nothing behind.

usage: signal_test.py RESHARD MPIEXEC DATA [CASE...]
"""

import pathlib
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from programs import Checks, Reshard

STOPPED = 75


def stop(reshard, folder, sent):
    """Sends a signal as soon as the target begins to grow; exit code, what was said, what is left."""
    command = [reshard.binary, "convert", folder / "source", folder / "target", "--to", "hf", "--memory", "1MiB"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None and not list(folder.glob("*.reshard-*/*")):
            time.sleep(0.001)
        process.send_signal(sent)
        said = process.communicate(timeout=300)[0]
    return process.returncode, said, sorted(path.name for path in folder.iterdir())


def main(binary, mpiexec, _data, *_cases):
    reshard, checks = Reshard(binary, mpiexec), Checks()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        reshard.run("sample", folder / "source", "--family", "llama", "--to", "megatron", "--parameters", "1e8")
        for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            with checks.case(sent.name):
                code, said, left = stop(reshard, folder, sent)
                assert code == STOPPED, f"exit {code}: {said}"
                assert "stopped: " in said and signal.strsignal(sent) in said, said
                assert left == ["source"], left
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
