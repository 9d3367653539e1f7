"""A real Slurm on this machine: munged, slurmctld and one slurmd for each of two nodes, as processes of the test.

The daemons live in a scratch folder with ports, keys and sockets of their own, beside any Slurm that the machine
may have; close() ends them and nothing else.
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "unshare")
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=1
KillWait=2
MinJobAge=600
OverTimeLimit=0
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


def missing():
    """Why a cluster cannot run here, or nothing."""
    path = os.environ["PATH"] + ":/usr/sbin"
    gone = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    if gone:
        return f"not installed: {' '.join(gone)}"
    if os.geteuid() != 0:
        return "daemons of several nodes need root, for mount namespaces"
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        return "this container may not make mount namespaces (unshare -m)"
    return ""


def free_ports(count):
    """Neighbouring ports that nothing listens on."""
    for first in range(17001 + os.getpid() % 1000 * 10, 60000, 10):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("", port))
            return first
        except OSError:
            continue
    raise RuntimeError("no free ports")


class Cluster:
    """Two nodes, n1 and n2, of four processors each."""

    def __init__(self, folder):
        self.folder, self.daemons = pathlib.Path(folder), []
        for name in ("state", "munge", "spool-n1", "spool-n2", "pmix"):
            (self.folder / name).mkdir(parents=True)
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self.environment["PATH"] += ":/usr/sbin"
        first = free_ports(3)
        host = socket.gethostname().split(".")[0]
        (self.folder / "slurm.conf").write_text(CONF.format(folder=self.folder, host=host, port=first, first=first + 1, last=first + 2))
        # Two slurmd of one machine would make the same folder here: each gets a tmpfs of its own.
        (self.folder / "mpi.conf").write_text(f"PMIxCliTmpDirBase={self.folder}/pmix\n")
        try:
            self.start()
        except Exception:
            self.close()
            raise

    def start(self):
        """Starts the daemons in the foreground, so that they are children, and waits for the nodes."""
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        munge = [f"--{name}={self.folder}/munge/{value}" for name, value in
                 (("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"))]  # fmt: skip
        self.daemon("munged", "--foreground", "--force", *munge)
        self.wait(lambda: (self.folder / "munge" / "socket").exists(), "munged")
        self.daemon("slurmctld", "-D", "-c")
        for node in ("n1", "n2"):
            # Nodes share no memory: Open MPI's segments in /dev/shm are named by host, job and rank of the node.
            mount = f'mount -t tmpfs tmpfs "{self.folder}/pmix" && mount -t tmpfs tmpfs /dev/shm && exec slurmd -D -c -N {node}'
            self.daemon("unshare", "-m", "sh", "-c", mount)
        self.wait(lambda: self.run("sinfo", "-h", "-o", "%T %D").stdout.split() == ["idle", "2"], "the nodes")

    def daemon(self, *command):
        """One process; what it prints is in out.log."""
        with open(self.folder / "out.log", "ab") as log:
            self.daemons.append(subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True))

    def run(self, *command, **options):
        """A command of the user, with its output."""
        return subprocess.run(list(map(str, command)), env={**self.environment, **options.pop("env", {})}, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=120, **options)  # fmt: skip

    def wait(self, condition, what, seconds=120):
        """Until something holds; says the daemons' logs when it never does."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                logs = "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in sorted(self.folder.glob("*.log")))
                raise AssertionError(f"waited {seconds} s for {what}\n{self.run('squeue').stdout}\n{logs}")
            time.sleep(0.1)

    def state(self, job):
        """PENDING, RUNNING, COMPLETED, ...; nothing once the controller has forgotten the job."""
        done = self.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")
        return done.stdout.split()[0] if done.stdout.split() else ""

    def close(self):
        """Ends what is left of jobs, and the daemons, the last started first."""
        self.run("scancel", "--user=root", "--signal=KILL", "--full") if self.daemons else None
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()
        self.daemons = []
