"""Three kits in one program: a machine on our network, reporting into our Git tree.

The guest gets its address by DHCP, serves a page on port 80, mounts the repository over virtio-9p,
and commits what it found out; the host sees the commit as an event.

It needs the engine kvm (`hypervisor doctor`), for QEMU shares directories alone: demo.py serves the
same tree over TCP through the gateway, which works everywhere.
"""

import asyncio
import os

import uvloop

from dataflow import Repository
from hypervisor import Machine
from hypervisor.image.build import Spec, build
from hypervisor.image.cache import Cache, default_directory
from vpnstack import Gateway

INIT = b"""#!/bin/sh
. /lib/trikit/setup.sh
udhcpc -i eth0 -n -q && httpd -p 80 -h /etc
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 data /mnt
mkdir -p /mnt/branch/main/transactions/t && cd /mnt/branch/main/transactions/t
mkdir rw/results && uname -a >rw/results/uname && echo commit >ctl
while read line; do [ "$line" = quit ] && poweroff -f; done
"""


async def main() -> None:
    image = await asyncio.to_thread(build, Spec(init=INIT), Cache(default_directory(os.environ)))
    async with (
        Repository.open("state.git") as repo,
        Gateway("192.168.127.1/24", "fd00:127::1/64") as net,
        Machine(
            kernel=image.kernel,
            initrd=image.initrd,
            memory="256M",
            nics=[net.port("vm1")],
            shares={"data": repo},
        ) as vm,
    ):
        await net.publish("tcp", host=("127.0.0.1", 8080), guest=("vm1", 80))
        async for change in repo.branch("main").watch("results/"):
            print(change.commit, change.path, await repo.branch("main").read(change.path))
            vm.console.write(b"quit\n")
            break
        print(await vm.wait())


uvloop.run(main())
