"""Runs `pytest -m rdma` where there is RDMA: in a guest with a stock Debian kernel and its software RDMA device.

    python tests/rdma/guest.py [--work build/rdma-guest] [PYTEST ARGUMENTS]      what `make test-rdma` does
    python tests/rdma/guest.py --program "bench/rdma.py --seconds 3"             another program

The host's kernel need not know RDMA, nor have KVM: QEMU emulates a machine, the guest mounts this host's file system
read-only, loads `rdma_rxe` over its loopback, and runs the host's own Python and tests. Exit status: pytest's; 77 where
something is missing to try (which, is said).
"""

from __future__ import annotations

import argparse
import gzip
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "qemu-system-x86 busybox-static kmod cpio iproute2 python3-pyverbs rdma-core ibverbs-providers ibverbs-utils "
    "perftest"
)
MODULES = ("virtio_pci", "9p", "9pnet_virtio", "crc32_generic", "crc32c_generic", "ib_uverbs", "rdma_rxe")
PYVERBS = Path("/usr/lib/python3/dist-packages/pyverbs")
PYTEST = "-m pytest -m rdma -rs -p no:cacheprovider --basetemp=/run/tmp/pytest"
SKIPPED = 77
LIMIT_S = 600
MEMORY_MIB = 4096
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
exec $bb switch_root /new /bin/sh /mnt/job.sh
"""
JOB = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run/tmp TMPDIR=/run/tmp
export PYTHONPATH=/mnt/site PYTHONDONTWRITEBYTECODE=1 NUMBA_DISABLE_JIT=1 DUALPATH_GUEST=1
ip link set lo up
{{ rdma link add rxe0 type rxe netdev lo; rdma link; ls /dev/infiniband; ibv_devices; }} > /mnt/devices.txt 2>&1
ulimit -l unlimited
cd {root}
{python} {program} > /mnt/output.txt 2>&1
echo $? > /mnt/status
sync
echo o > /proc/sysrq-trigger
sleep 600
"""


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
            subprocess.run(["apt-get", "download", package], cwd=download, check=True, stdout=subprocess.DEVNULL)
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


def boot(work: Path, image: Path, ramdisk: Path, job: Path) -> None:
    """Until the guest switches itself off, or the time is up."""
    shares = []
    for tag, path, options in (("root", "/", ",readonly=on,multidevs=remap"), ("job", str(job), "")):
        shares += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none{options}"]
    command = [
        *("timeout", "--kill-after=5", str(LIMIT_S)),
        *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"),
        *("-m", str(MEMORY_MIB), "-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot"),
        *("-kernel", str(image), "-initrd", str(ramdisk)),
        *("-append", "console=ttyS0 quiet panic=-1 mitigations=off"),
        *shares,
    ]
    with (work / "console.txt").open("wb") as console:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT, check=False)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "rdma-guest")
    parser.add_argument("--program", help="instead of the tests: a program of this repository, and its arguments")
    parser.add_argument("--install", action="store_true", help="install what is missing, where this user may")
    options, arguments = parser.parse_known_args()
    if options.install and missing() and os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *PACKAGES.split()]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    if missing_tools := missing():
        print(f"SKIPPED: {', '.join(missing_tools)} missing; apt-get install --no-install-recommends {PACKAGES}")
        return SKIPPED
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        image, unpacked, version = kernel(work)
    except (subprocess.CalledProcessError, StopIteration) as error:
        print(f"SKIPPED: no Debian kernel can be had: {error}")
        return SKIPPED
    ramdisk = initramfs(work, modules(unpacked, version, MODULES))
    job = work / "job"
    shutil.rmtree(job, ignore_errors=True)
    (job / "site").mkdir(parents=True)
    (job / "site" / "pyverbs").symlink_to(PYVERBS)
    program = options.program or f"{PYTEST} {shlex.join(arguments)} tests/rdma"
    script = JOB.format(root=ROOT, python=sys.executable, program=program)
    (job / "job.sh").write_text(script)
    boot(work, image, ramdisk, job)
    if not (job / "status").exists():
        print((work / "console.txt").read_text(errors="replace")[-4000:])
        print((job / "output.txt").read_text() if (job / "output.txt").exists() else "no output")
        print(f"FAILED: the guest gave no result within {LIMIT_S} s; its console is in {work / 'console.txt'}")
        return 1
    print((job / "output.txt").read_text(), end="")
    return int((job / "status").read_text())


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
