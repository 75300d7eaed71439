"""A Slurm of one node on this machine: its real daemons, in a folder of their own, without systemd and accounting."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGES = "slurmctld slurmd slurm-client munge"  # Debian's
PARTITION, HIGHER = "main", "urgent"  # a job of the second one preempts one of the first
UNSEEN = "unseen"
GRACE = 20  # seconds between the signal of a preemption and the end of the job
_CONF = """
ClusterName=lema
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
{parameters}
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=5,batch_sched_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000
PartitionName={main} Nodes={host} Default=YES MaxTime=60 PriorityTier=1 GraceTime={grace}
PartitionName={higher} Nodes={host} MaxTime=60 PriorityTier=2 PreemptMode=off
"""


def needed() -> None:
    """Skip where a Slurm cannot be had; fail where it was only not installed."""
    if sys.platform != "linux" or os.geteuid() or not shutil.which("apt-get"):
        pytest.skip("a Slurm is started by root alone, from Debian's packages")
    if lacking := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]:
        pytest.fail(f"{', '.join(lacking)}: not found; apt-get install --no-install-recommends {PACKAGES}")


@contextlib.contextmanager
def cluster(cpus: int = 4, parameters: str = "") -> Iterator[Path]:
    """A Slurm whose node has idle CPUs; its commands find it by `SLURM_CONF`. Nothing of it is left at the end."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # its sockets' names may have 108 characters
    conf = folder / "slurm.conf"
    for name in ("state", "spool", UNSEEN):
        (folder / name).mkdir()
    options = {"parameters": parameters, "main": PARTITION, "higher": HIGHER, "grace": GRACE, "cpus": cpus}
    conf.write_text(_CONF.format(host=socket.gethostname().split(".")[0], ports=_free(2), folder=folder, **options))
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    of_munge = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munge.pid"}
    of_munge |= {"log-file": folder / "munge.log", "seed-file": folder / "munge.seed"}
    commands = [
        ["munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in of_munge.items())],
        ["slurmctld", "-D", "-f", str(conf)],
        # The node does not see what lies in this folder: another one lies over it.
        ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none {folder / UNSEEN} && exec slurmd -D -f {conf}"],
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(conf))
        try:
            for number, command in enumerate(commands):
                with (folder / f"{number}.out").open("wb") as out:
                    daemons.append(subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True))
                if number == 0:
                    _wait(lambda: (folder / "munge.socket").exists(), folder)
            _wait(lambda: asked("sinfo", "-h", "-o", "%T").split() == ["idle"], folder)
            yield folder
        finally:
            asked("scancel", "--signal=KILL", "--full", "-p", PARTITION, check=False)
            for daemon in reversed(daemons):
                daemon.send_signal(signal.SIGTERM)
            for daemon in daemons:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.wait(15)
                daemon.kill()
                daemon.wait()
            for pid in processes(conf):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


def processes(conf: Path) -> list[int]:
    """What this Slurm, its commands and its jobs have left: all that was started with its configuration, but us."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"SLURM_CONF={conf}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
    return [pid for pid in found if pid != os.getpid()]


def asked(*command: str, check: bool = True) -> str:
    """What a command of Slurm answers; without its controller it would wait for ever."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert not check or not done.returncode, done.stderr
    return done.stdout


def _wait(seen: Callable[[], object], folder: Path) -> None:
    end = time.monotonic() + 20
    while True:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            if seen():
                return
        logs = "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in folder.glob("*.out"))
        assert time.monotonic() < end, logs
        time.sleep(0.1)


def _free(count: int) -> list[int]:
    """So many ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
