"""Defensive distillation, replicated: temperature training, a batched JSMA, measurements and records."""

from distill.attacks.jsma import JSMAResult, Status, best_pair, jsma

__version__ = "0.1.0"
__all__ = ["JSMAResult", "Status", "best_pair", "jsma"]
