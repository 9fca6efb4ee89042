"""Tune language models on free GPUs: W&B and Optuna sweeps of 4-bit LoRA fine-tunes.

Importing this package imports nothing else: every command loads only what it needs.
"""

__version__ = "0.2.0"
