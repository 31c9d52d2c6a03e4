"""Ceph RGW on loopback: a real S3 that checks signatures. One monitor, one OSD in memory.

Run as a script; prints nothing, serves until it is terminated. Needs the packages that
`.ci/servers` installs.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

PROGRAMS = (
    "radosgw",
    "radosgw-admin",
    "ceph-mon",
    "ceph-osd",
    "ceph",
    "monmaptool",
    "ceph-authtool",
)
ACCESS_KEY = "AKIAWEARABLETESTS000"
SECRET_KEY = "wearable-tests-secret-key-0000000000/+00"

_CONFIG = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = {folder}/keyring
mon cluster log file = {folder}/cluster.log
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid
crash dir = {folder}/crash
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mon data avail crit = 1
mon data avail warn = 1
ms bind ipv6 = false
# Each pool is some changes of the map, and a monitor otherwise gathers changes for a second.
paxos propose interval = 0.02
paxos min wait = 0.01

[mon]
mon data = {folder}/mon

[osd]
osd data = {folder}/osd
keyring = {folder}/osd/keyring
osd objectstore = memstore
memstore device bytes = 2147483648
osd class load list = *
osd class default list = *

[client]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw enable usage log = false
rgw enable ops log = false
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable quota threads = false
rgw run sync thread = false
rgw thread pool size = 32
rgw data = {folder}/rgw
rgw cache enabled = true
"""


def find_missing() -> list[str]:
    """Programs that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


def serve(folder: Path, port: int, mon_v1: int, mon_v2: int) -> None:
    """Runs the cluster until it is terminated or a daemon dies."""
    folder.mkdir(parents=True, exist_ok=True)
    fsid = str(uuid.uuid4())
    config = folder / "ceph.conf"
    config.write_text(
        _CONFIG.format(folder=folder, fsid=fsid, port=port, mon_v1=mon_v1, mon_v2=mon_v2)
    )
    for name in ("mon", "osd", "rgw", "crash"):
        (folder / name).mkdir(exist_ok=True)
    environment = {**os.environ, "CEPH_CONF": str(config)}

    def run(*command: str) -> str:
        return subprocess.run(
            command,
            check=True,
            env=environment,
            timeout=60,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ).stdout.strip()

    def start(*command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)

    # The gateway does not start without keys (`auth … = none` leaves it waiting for the monitor).
    keyring = str(folder / "keyring")
    grants = [part for daemon in ("mon", "osd", "mgr") for part in ("--cap", daemon, "allow *")]
    run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", *grants)
    run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *grants)
    monmap = str(folder / "monmap")
    addresses = f"[v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]"
    run("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", addresses, monmap)
    run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
    daemons = [start("ceph-mon", "-f", "-i", "a")]
    osd_id = str(uuid.uuid4())
    run("ceph", "--connect-timeout", "30", "osd", "new", osd_id, "0")
    osd_key = str(folder / "osd" / "keyring")
    run("ceph-authtool", "--create-keyring", osd_key, "--gen-key", "-n", "osd.0")
    osd_grants = ("mon", "allow profile osd", "osd", "allow *")
    run("ceph", "--connect-timeout", "30", "auth", "add", "osd.0", "-i", osd_key, *osd_grants)
    run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_id)
    daemons.append(start("ceph-osd", "-f", "-i", "0"))
    # The administrator's command makes the pools; it waits for the OSD by itself.
    run(
        *("radosgw-admin", "user", "create", "--uid", "tests", "--display-name", "tests"),
        *("--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY),
    )
    daemons.append(start("radosgw", "-f", "-n", "client.admin"))
    while all(daemon.poll() is None for daemon in daemons):
        time.sleep(0.5)
    sys.exit("a ceph daemon died")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mon-v1", type=int, required=True)
    parser.add_argument("--mon-v2", type=int, required=True)
    arguments = parser.parse_args()
    serve(arguments.folder, arguments.port, arguments.mon_v1, arguments.mon_v2)
