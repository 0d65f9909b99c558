"""Flags under which XLA compiles in less than half the time, into slower code."""

# Tests compile much and run little: fusions by the emitters alone cost a quarter of the time.
QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false"
)
