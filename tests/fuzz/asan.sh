#!/bin/sh
# Builds the C core with the address and undefined-behaviour sanitizers in a throwaway copy and
# runs the fuzzers of parsing, sending, the framed stream and the express lane on it:
# asan.sh [COUNT] [PYTHON].
# Each piece of a frame lies in its own allocation, so one byte too many is found.
set -eu
count=${1:-200000}
python=${2:-python3}
root=$(cd "$(dirname "$0")/../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$root/vpnstack" "$root/hypervisor" "$root/dataflow" "$root/setup.py" "$root/setup.cfg" \
    "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$root/tests" "$copy"
cd "$copy"
rm -f vpnstack/core/_core*.so
CFLAGS="-g -fsanitize=address,undefined -fno-sanitize-recover=undefined" \
    "$python" setup.py -q build_ext --inplace
for target in fuzz_frame fuzz_send fuzz_framed fuzz_gro fuzz_udplane fuzz_lane; do
    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
        ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH="$copy" \
        "$python" "tests/fuzz/$target.py" "$count"
done
