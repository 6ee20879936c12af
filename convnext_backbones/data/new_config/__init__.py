"""A config of one's own, from what look() and keep() say of a folder: plan() decides, written() writes.

plan = planned(keep(look("BCCD"), "bccd_data"), Wishes(backbone="convnextv2_atto"))
Path("bccd.py").write_text(written(plan, "bccd.py"))
"""

from .plan import FRAMEWORKS, MODELS, Plan, Wishes, framework_for, planned
from .text import written

__all__ = ["FRAMEWORKS", "MODELS", "Plan", "Wishes", "framework_for", "planned", "written"]
