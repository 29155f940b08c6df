"""Masks over the CPUID leaves that KVM supports: what a guest's processor says it is.

Leaves: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E; Linux Documentation/virt/kvm/x86/
cpuid.rst.  The guest sees one package whose cores have one thread each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import UsageError
from . import layout

_ENTRY = struct.Struct("<7I12x")  # kvm_cpuid_entry2
ENTRY_SIZE = _ENTRY.size
SIGNIFICANT_INDEX = 1  # KVM_CPUID_FLAG_SIGNIFCANT_INDEX

# Leaf 1.
MONITOR, VMX, X2APIC, TSC_DEADLINE = 1 << 3, 1 << 5, 1 << 21, 1 << 24
OSXSAVE, HYPERVISOR = 1 << 27, 1 << 31  # all of ECX
HTT = 1 << 28  # EDX
# Leaf 0x80000001, ECX.
CMP_LEGACY, SVM = 1 << 1, 1 << 2
ARAT = 1 << 2  # leaf 6, EAX: the APIC's timer does not stop
_AMD = [int.from_bytes(name, "little") for name in (b"Auth", b"Hygo")]  # leaf 0, EBX


@dataclass(frozen=True, slots=True)
class Leaf:
    """One kvm_cpuid_entry2."""

    function: int
    index: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int


@dataclass(frozen=True, slots=True)
class Topology:
    """Processor `cpu` of `cpus`, AMD's or not; its APIC identifier is its number."""

    cpu: int
    cpus: int
    amd: bool = False

    @property
    def bits(self) -> int:
        """Bits of an APIC identifier that number the cores."""
        return (self.cpus - 1).bit_length()


def parse(entries: bytes) -> list[Leaf]:
    """Read an array of kvm_cpuid_entry2."""
    if len(entries) % ENTRY_SIZE:
        raise UsageError(f"expected CPUID entries of {ENTRY_SIZE} bytes, found {len(entries)}")
    return [Leaf(*fields) for fields in _ENTRY.iter_unpack(entries)]


def emit(leaves: list[Leaf]) -> bytes:
    """Write an array of kvm_cpuid_entry2."""
    return b"".join(
        _ENTRY.pack(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx) for e in leaves
    )


def masked(supported: bytes, cpu: int, cpus: int, *, nested: bool = False) -> bytes:
    """Turn KVM_GET_SUPPORTED_CPUID's entries into those of processor `cpu` of `cpus`.

    Hidden are the performance counters, MWAIT, and, unless `nested`, virtualization.
    """
    if not 0 <= cpu < cpus <= layout.MAX_CPUS:
        raise UsageError(
            f"expected CPU below {cpus}, itself at most {layout.MAX_CPUS}, found {cpu}"
        )
    found = parse(supported)
    topology = Topology(cpu, cpus, any(e.function == 0 and e.ebx in _AMD for e in found))
    leaves = []
    for leaf in found:
        if leaf.function in _TOPOLOGY_LEAVES:
            if leaf.index == 0:
                leaves += _levels(leaf.function, topology)
            continue
        change = _CHANGES.get(leaf.function)
        leaves.append(change(leaf, topology) if change else leaf)
    return emit(leaves if nested else [_without_virtualization(leaf) for leaf in leaves])


def _without_virtualization(leaf: Leaf) -> Leaf:
    if leaf.function == 1:
        return replace(leaf, ecx=leaf.ecx & ~VMX)
    if leaf.function == 0x80000001:
        return replace(leaf, ecx=leaf.ecx & ~SVM)
    return _zero(leaf, Topology(0, 1)) if leaf.function == 0x8000000A else leaf


def _zero(leaf: Leaf, _: Topology) -> Leaf:
    return replace(leaf, eax=0, ebx=0, ecx=0, edx=0)


def _features(leaf: Leaf, topology: Topology) -> Leaf:
    # KVM_GET_SUPPORTED_CPUID leaves the deadline timer out; with the in-kernel APIC it is there,
    # and saves the guest the calibration of its timer.
    ecx = leaf.ecx & ~(MONITOR | OSXSAVE) | HYPERVISOR | TSC_DEADLINE | X2APIC
    ebx = topology.cpu << 24 | (1 << topology.bits) << 16 | leaf.ebx & 0xFFFF
    edx = leaf.edx | HTT if topology.cpus > 1 else leaf.edx & ~HTT
    return replace(leaf, ebx=ebx, ecx=ecx, edx=edx)


def _caches(leaf: Leaf, topology: Topology) -> Leaf:
    """Say who shares a cache (leaf 4; AMD's 0x8000001D has the same fields but the last)."""
    if not leaf.eax & 0x1F:
        return leaf
    last = (leaf.eax >> 5 & 7) >= 3
    eax = leaf.eax & 0x3FFF | (((1 << topology.bits) - 1) << 14 if last else 0)
    if leaf.function == 4:
        eax |= ((1 << topology.bits) - 1) << 26
    return replace(leaf, eax=eax)


def _power(leaf: Leaf, _: Topology) -> Leaf:
    return replace(leaf, eax=leaf.eax & ARAT, ebx=0, ecx=0, edx=0)


def _levels(function: int, topology: Topology) -> list[Leaf]:
    """Return the extended topology (leaves 0xB and 0x1F): threads, cores, and the end."""

    def level(index: int, shift: int, count: int, kind: int) -> Leaf:
        ecx = index | kind << 8
        return Leaf(function, index, SIGNIFICANT_INDEX, shift, count, ecx, topology.cpu)

    return [level(0, 0, 1, 1), level(1, topology.bits, topology.cpus, 2), level(2, 0, 0, 0)]


def _amd_features(leaf: Leaf, topology: Topology) -> Leaf:
    # CMP_LEGACY says that HTT means cores.
    legacy = CMP_LEGACY if topology.amd and topology.cpus > 1 else 0
    return replace(leaf, ecx=leaf.ecx & ~CMP_LEGACY | legacy)


def _amd_sizes(leaf: Leaf, topology: Topology) -> Leaf:
    cores = topology.bits << 12 | topology.cpus - 1
    return replace(leaf, ecx=leaf.ecx & ~0xF0FF | cores) if topology.amd else leaf


def _amd_node(leaf: Leaf, topology: Topology) -> Leaf:
    return replace(leaf, eax=topology.cpu, ebx=topology.cpu, ecx=0)


_TOPOLOGY_LEAVES = (0xB, 0x1F)
_CHANGES: dict[int, Callable[[Leaf, Topology], Leaf]] = {
    1: _features,
    4: _caches,
    5: _zero,  # MWAIT
    6: _power,
    0xA: _zero,  # performance counters
    0x80000001: _amd_features,
    0x80000008: _amd_sizes,
    0x8000001D: _caches,
    0x8000001E: _amd_node,
    0x80000022: _zero,  # performance counters
}
