# make demo    boot a guest on our network and our file tree, and show that it works
# make test    all tests: the fast lane, the real peers, and our monitor on KVM
# make test-kvm  the last of these: machines on KVM, in a nested machine where this host's cannot run them
# make check   format, lint, types and the fast tests
# make bench   benchmarks side by side with peers (BENCH=--quick for under a minute each)
# make fuzz    every fuzz target for FUZZ_SECONDS
# make asan    the C core under the address and undefined-behaviour sanitizers
# Each sets up what it needs by itself; see scripts/setup.

PYTHON_VENV := .venv/bin/python
FUZZ_SECONDS ?= 60
BENCH ?=
BENCHMARKS := $(wildcard $(patsubst %,benchmarks/%.py,peers tcp vhost scale hypervisor hypervisor_block dataflow))
PYTEST ?=
FAST := -m "not compat and not slow" tests/unit tests/packetdrill

# Python keeps what it compiled: each worker, and each program that a test starts, loads it.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-kvm check bench fuzz asan setup clean

demo:
	@scripts/setup demo
	@$(PYTHON_VENV) examples/demo.py

test:
	@scripts/setup test
	@scripts/tests $(PYTEST) tests/unit tests/packetdrill tests/compat tests/kvm

test-kvm:
	@scripts/setup test
	@scripts/tests $(PYTEST) tests/kvm

check:
	@scripts/setup test
	$(PYTHON_VENV) -m ruff format --check .
	$(PYTHON_VENV) -m ruff check .
	$(PYTHON_VENV) -m mypy
	scripts/tests -q -n auto --dist worksteal $(PYTEST) $(FAST)

bench:
	@scripts/setup test
	@set -e; for each in $(BENCHMARKS); do \
		name=$$(basename $$each .py); echo "== $$name"; \
		$(PYTHON_VENV) $$each $(BENCH) --json bench-$$name.json; done

fuzz:
	@scripts/setup fuzz || { echo "fuzz: without atheris, on seeded input"; scripts/setup test; }
	@$(PYTHON_VENV) scripts/fuzz.py $(FUZZ_SECONDS)

asan:
	@scripts/setup test
	@sh tests/fuzz/asan.sh 20000 $(PYTHON_VENV)

setup:
	@scripts/setup test

clean:
	rm -rf .venv build *.egg-info .cache .mypy_cache .ruff_cache .pytest_cache
	rm -f */core/_core.c */core/_core.*.so */core/*.o
