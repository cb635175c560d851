"""Reinforcement learning on raw text, in JAX."""

__version__ = '0.1.0'
