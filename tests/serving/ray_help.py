"""What the tests of Ray Serve share: a free port, the processes of replicas, and a request."""

import socket
import time
from pathlib import Path

SURROUNDINGS = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
GENERATIONS = "/v1/images/generations"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def replica_processes(process):
    """Ids of the processes in which the replicas of a server run; Ray names them after the deployment."""
    return processes(process, "ServeReplica:openhart:Replica")


def processes(process, name):
    """Ids of the processes of a server whose command line contains a name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if name.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return [number for number in found if process.pid in ancestors(number)]


def ancestors(number):
    """Ids of the processes that started a process, directly or not."""
    while number > 1:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        number = int(fields[1])
        yield number


def image(server, **body):
    return server.post(GENERATIONS, json={"prompt": "a cat", "seed": 1, **body})


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def accepts(port):
    """Whether a process on this machine accepts connections on a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
