#!/bin/sh
# Builds the C cores with the address and undefined-behaviour sanitizers in a throwaway copy and
# runs the fuzzers of parsing, sending, the framed stream, the express lanes, virtqueues, devices and
# disks and the 9P pump on it, then the tests of packing, backlogs, the vhost-user port and KVM: asan.sh [COUNT] [PYTHON].
# Each piece of a frame lies in its own allocation, so one byte too many is found.
set -eu
count=${1:-200000}
python=${2:-python3}
root=$(cd "$(dirname "$0")/../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$root/vpnstack" "$root/hypervisor" "$root/dataflow" "$root/setup.py" "$root/setup.cfg" \
    "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$root/tests" \
    "$root/examples" "$copy"
cd "$copy"
rm -f ./*/core/_core*.so
export CFLAGS="-g -fsanitize=address,undefined -fno-sanitize-recover=undefined"
"$python" setup.py -q build_ext --inplace
run() {
    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
        ASAN_OPTIONS=detect_leaks=0:handle_sigbus=0 PYTHONMALLOC=malloc PYTHONPATH="$copy" \
        "$python" "$@"
}
run -c "import hypervisor.core._core as h, vpnstack.core._core as v, dataflow.core._core as d
assert all(m.__file__.startswith('$copy') for m in (h, v, d)), 'another build is in the way'"
for target in fuzz_frame fuzz_send fuzz_framed fuzz_gro fuzz_udplane fuzz_lane; do
    run "tests/fuzz/$target.py" "$count"
done
run tests/fuzz/fuzz_vring.py "$((count / 10))"
run tests/fuzz/fuzz_mmio.py "$((count / 10))"
run tests/fuzz/fuzz_blk.py "$((count / 20))"
run tests/fuzz/fuzz_p9_pump.py "$((count / 10))"
run tests/fuzz/fuzz_virtio9p.py "$((count / 10))"
run tests/fuzz/fuzz_devices.py "$((count / 20))"
# Compiles uart.c by itself, with these very flags.
run tests/fuzz/fuzz_uart.py "$((count / 200))"
# Leaks of address space do not show: what is freed stays in quarantine.
run -m pytest -q -p no:cacheprovider -k "not leave_nothing" \
    tests/unit/hypervisor/test_split.py \
    tests/unit/hypervisor/test_vhost_port.py tests/unit/hypervisor/test_vhost_flows.py \
    tests/unit/hypervisor/core \
    tests/unit/hypervisor/devices \
    tests/unit/vpnstack/link/test_ports.py \
    tests/unit/vpnstack/core/test_pack.py
