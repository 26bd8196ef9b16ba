"""Quantisation-aware training: a model that trains with the rounding it will have once it is converted."""

from __future__ import annotations

from edgekern.qat.prepare import prepare_qat_, undo_qat_
from edgekern.qat.report import QATReport, QATRow
from edgekern.qat.task import QATError

__all__ = ["QATError", "QATReport", "QATRow", "prepare_qat_", "undo_qat_"]
