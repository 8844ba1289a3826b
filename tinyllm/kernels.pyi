from kernels import *  # editors and type checkers only; see tinyllm/__init__.py
