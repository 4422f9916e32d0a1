"""A machine that knows RDMA, emulated: a stock Debian kernel under QEMU, with this host's files mounted read-only and
one shared folder that it may write. Needs neither KVM nor RDMA of the host.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "rdma"
PACKAGES = (
    "qemu-system-x86 busybox-static kmod cpio iproute2 python3-pyverbs rdma-core ibverbs-providers ibverbs-utils "
    "perftest"
)
MODULES = ("virtio_pci", "9p", "9pnet_virtio", "crc32_generic", "crc32c_generic", "ib_uverbs", "rdma_rxe")
NETWORK_MODULES = ("virtio_net", "sch_htb", "cls_u32")
PYVERBS = Path("/usr/lib/python3/dist-packages/pyverbs")
SKIPPED = 77
INIT = """#!/bin/busybox sh
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /new
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t devtmpfs dev /dev
for module in $($bb cat /modules/order); do $bb insmod /modules/$module; done
share="trans=virtio,version=9p2000.L,msize=1048576"
$bb mount -t 9p -o ro,cache=loose,$share root /new || $bb reboot -f
$bb mount -t 9p -o $share job /new/mnt
$bb mount -t tmpfs tmp /new/run
$bb mkdir -p /new/run/tmp
$bb mount -t proc proc /new/proc
$bb mount -t sysfs sys /new/sys
$bb mount -t devtmpfs dev /new/dev
$bb mkdir -p /new/dev/shm
$bb mount -t tmpfs shm /new/dev/shm
for word in $($bb cat /proc/cmdline); do case $word in job=*) job=${word#job=};; esac; done
exec $bb switch_root /new /bin/sh /mnt/$job.sh
"""
JOB = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run/tmp TMPDIR=/run/tmp
export PYTHONPATH=/mnt/site PYTHONDONTWRITEBYTECODE=1 NUMBA_DISABLE_JIT=1 DUALPATH_GUEST={name} DUALPATH_TOKEN={token}
ip link set lo up
{network}
{{ rdma link; ls /dev/infiniband; ibv_devices; }} > /mnt/{name}.devices 2>&1
ulimit -l unlimited
cd {root}
{program} > /mnt/{name}.output 2>&1
echo $? > /mnt/{name}.status
sync
echo o > /proc/sysrq-trigger
sleep 600
"""


@dataclass(frozen=True)
class Guest:
    """One emulated machine. `network`: shell that brings its links up; `devices`: QEMU's arguments for them."""

    name: str
    program: str
    network: str
    devices: tuple[str, ...] = ()
    cores: int = 2
    memory_mib: int = 4096


class Machines:
    """What guests boot from, and the folder that they share: /mnt, here `job`. Raises Missing."""

    def __init__(self, name: str, modules_wanted: Iterable[str]) -> None:
        if tools := missing():
            raise Missing(f"{', '.join(tools)} missing; apt-get install --no-install-recommends {PACKAGES}")
        self._work = WORK / name
        self._work.mkdir(parents=True, exist_ok=True)
        try:
            self._image, unpacked, version = kernel(WORK)
        except (subprocess.CalledProcessError, StopIteration) as error:
            raise Missing(f"no Debian kernel can be had: {error}") from None
        self._ramdisk = initramfs(self._work, modules(unpacked, version, modules_wanted))
        self.job = self._work / "job"
        shutil.rmtree(self.job, ignore_errors=True)
        (self.job / "site").mkdir(parents=True)
        (self.job / "site" / "pyverbs").symlink_to(PYVERBS)

    def boot(self, guest: Guest, limit_s: int, token: str = "") -> subprocess.Popen[bytes]:
        """It switches itself off when its program has ended; at limit_s it is ended."""
        script = JOB.format(root=ROOT, program=guest.program, network=guest.network, name=guest.name, token=token)
        (self.job / f"{guest.name}.sh").write_text(script)
        shares = []
        for tag, path, options in (("root", "/", ",readonly=on,multidevs=remap"), ("job", str(self.job), "")):
            shares += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none{options}"]
        command = [
            *("timeout", "--kill-after=5", str(limit_s)),
            *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(guest.cores)),
            *("-m", str(guest.memory_mib), "-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot"),
            *("-kernel", str(self._image), "-initrd", str(self._ramdisk)),
            *("-append", f"console=ttyS0 quiet panic=-1 mitigations=off job={guest.name}"),
            *guest.devices,
            *shares,
        ]
        with self._console(guest).open("wb") as console:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT)

    def has_booted(self, guest: Guest) -> bool:
        return (self.job / f"{guest.name}.devices").exists()

    def result(self, guest: Guest) -> int:
        """Print what its program said; its exit status, 1 where there is none."""
        output, status = self.job / f"{guest.name}.output", self.job / f"{guest.name}.status"
        if not status.exists():
            print(self._console(guest).read_text(errors="replace")[-4000:])
        print(output.read_text() if output.exists() else "no output", end="")
        if not status.exists():
            print(f"FAILED: guest {guest.name} gave no result in time; its console is in {self._console(guest)}")
            return 1
        return int(status.read_text())

    def _console(self, guest: Guest) -> Path:
        return self._work / f"{guest.name}.console"


class Missing(Exception):
    """What must be had first, to try."""


def install() -> None:
    """What is missing, where this user may."""
    if missing() and os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *PACKAGES.split()]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)


def missing() -> list[str]:
    """What must be installed first."""
    tools = [tool for tool in ("qemu-system-x86_64", "busybox", "cpio", "depmod", "rdma") if shutil.which(tool) is None]
    return tools + ([] if PYVERBS.exists() else ["pyverbs"])


def kernel(work: Path) -> tuple[Path, Path, str]:
    """A stock kernel, unpacked and not installed: image, folder with its modules, version."""
    unpacked = work / "kernel"
    if not list(unpacked.glob("boot/vmlinuz-*")):
        shown = _output("apt-cache", "depends", "linux-image-amd64")
        package = next(word for word in shown.split() if word.startswith("linux-image-") and word[12].isdigit())
        with tempfile.TemporaryDirectory(dir=work) as download:
            subprocess.run(
                ["apt-get", "-o", "APT::Sandbox::User=root", "download", package],
                cwd=download,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            (archive,) = Path(download).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, unpacked], check=True)
    (image,) = unpacked.glob("boot/vmlinuz-*")
    version = image.name.removeprefix("vmlinuz-")
    subprocess.run(["depmod", "-b", unpacked, version], check=True)
    return image, unpacked, version


def modules(unpacked: Path, version: str, names: Iterable[str]) -> list[Path]:
    """Files of modules and of what they need, in the order in which they must be loaded."""
    found: list[Path] = []
    for name in names:
        shown = _output("modprobe", "-d", str(unpacked), "-S", version, "--show-depends", name)
        for line in shown.splitlines():
            kind, _, path = line.partition(" ")
            if kind == "insmod" and Path(path.split()[0]) not in found:
                found.append(Path(path.split()[0]))
    return found


def initramfs(work: Path, files: list[Path]) -> Path:
    """What the guest boots into: busybox, modules, init."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        tree = Path(folder)
        (tree / "bin").mkdir()
        (tree / "modules").mkdir()
        shutil.copy(shutil.which("busybox") or "", tree / "bin" / "busybox")
        for file in files:
            shutil.copy(file, tree / "modules")
        (tree / "modules" / "order").write_text("\n".join(file.name for file in files))
        (tree / "init").write_text(INIT)
        (tree / "init").chmod(0o755)
        names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        packed = subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"], input=names.encode(), cwd=tree, check=True, capture_output=True
        ).stdout
    target = work / "initramfs.gz"
    target.write_bytes(gzip.compress(packed, 1))
    return target


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
