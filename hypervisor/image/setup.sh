# Sourced first by every /init: mounts, device nodes, drivers for the devices that are there, and a
# clean end when the host presses the power button.
export PATH=/usr/bin:/usr/sbin:/bin:/sbin HOME=/ TERM=${TERM:-vt100}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm /run /tmp
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
ln -sf /proc/self/fd /dev/fd

# A transport (virtio-mmio, virtio-pci) shows its devices only after it was loaded: two rounds.
coldplug() {
    find /sys/devices -name modalias -exec cat {} + 2>/dev/null | sort -u | xargs modprobe -aq 2>/dev/null
}
coldplug
coldplug
modprobe -aq button evdev 2>/dev/null
# -d: stays where it is and logs to stderr; as a daemon it was seen to end at once.
acpid -d >/dev/null 2>&1 </dev/null &
ifconfig lo up
hostname "$(sed -n 's/.*\bhostname=\([^ ]*\).*/\1/p' /proc/cmdline | grep . || echo guest)"
