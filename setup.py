"""The one thing setup.cfg cannot say: which cffi modules to build."""

from setuptools import setup

setup(
    cffi_modules=[
        "vpnstack/core/build.py:ffi",
        "hypervisor/core/build.py:ffi",
        "dataflow/core/build.py:ffi",
    ]
)
