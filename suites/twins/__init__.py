"""The same layer, same parameters, in another framework, through its production code paths.

`torch_` and `jax_` each hold one registry `apply(layer, params, *inputs) -> outputs`.
"""
