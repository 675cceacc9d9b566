from .core import sageattn
