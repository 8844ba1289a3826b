"""The layers live here, one file each: import a module, and use its Params, Acts, forward and backward.

`model` puts them together; among themselves they share linear, dropout and layernorm.
"""
