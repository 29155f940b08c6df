"""Three kits in one program: a machine on our network, reporting into our Git tree.

The guest gets its address by DHCP, serves a page on port 80, mounts the repository over 9P through
the userspace TCP, and commits what it found out; the host sees the commit as an event.
"""

import asyncio
import os

import uvloop

from dataflow import Repository, Server, repository_root
from hypervisor import Machine
from hypervisor.image.build import Spec, build
from hypervisor.image.cache import Cache, default_directory
from vpnstack import Gateway

INIT = b"""#!/bin/sh
. /lib/trikit/setup.sh
udhcpc -i eth0 -n -q && httpd -p 80 -h /etc
mount -t 9p -o trans=tcp,port=564,version=9p2000.L,cache=none 192.168.127.1 /mnt
mkdir -p /mnt/branch/main/transactions/t && cd /mnt/branch/main/transactions/t
mkdir rw/results && uname -a >rw/results/uname && echo commit >ctl
while read line; do [ "$line" = quit ] && poweroff -f; done
"""


async def main() -> None:
    image = await asyncio.to_thread(build, Spec(init=INIT), Cache(default_directory(os.environ)))
    async with (
        Repository.open("state.git") as repo,
        Server(repository_root(repo)) as tree,
        Gateway("192.168.127.1/24", "fd00:127::1/64") as net,
    ):
        await net.start_server(tree.handle, 564)
        nic = net.port("vm1")
        await net.publish("tcp", host=("127.0.0.1", 8080), guest=("vm1", 80))
        changes = repo.branch("main").watch("results/")
        async with Machine(image.kernel, image.initrd, memory="256M", nics=[nic]) as vm:
            async for change in changes:
                print(change.commit, await repo.branch("main").read("results/uname"))
                vm.console.write(b"quit\n")
                break
            print(await vm.wait())


uvloop.run(main())
