"""What is compiled: the innermost loops, written in Numba's Python and in LLVM's own language."""
