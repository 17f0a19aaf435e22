"""Defensive distillation, replicated: temperature training, a batched JSMA, measurements and records."""

from distill.attacks.jsma import JSMAResult, Status, all_targets, best_pair, jsma
from distill.experiments import zoo
from distill.training import Recipe, defend

__version__ = "0.1.0"
__all__ = ["JSMAResult", "Recipe", "Status", "all_targets", "best_pair", "defend", "jsma", "zoo"]
