"""The workbook's figures: one function each, rows or a table -> a matplotlib Figure; `save` writes png, svg and csv.

An arm has one colour in every figure. Data that is empty or all missing gives a figure that says so. Figures are
pyplot's: a notebook shows them by itself where the cell does not end with one (`plots.reward_means(summary);`).
"""

from nbutils.report.plots.audit import rewrite_audit
from nbutils.report.plots.calibration import reward_calibration
from nbutils.report.plots.collection import collection_funnel, score_rounds, score_transitions
from nbutils.report.plots.evaluation import reward_distributions, reward_means, reward_variances, win_tie_lose
from nbutils.report.plots.frontier import reward_kl_frontier
from nbutils.report.plots.health import judge_health
from nbutils.report.plots.paper import grouped_rewards, grouped_variances, win_percentages
from nbutils.report.plots.parts import save
from nbutils.report.plots.standings import ratings
from nbutils.report.plots.training import preference_curves, training_curves
from nbutils.report.plots.transfer import transfer_heatmap
from nbutils.report.plots.watch import reward_watch

__all__ = [
    "collection_funnel",
    "grouped_rewards",
    "grouped_variances",
    "judge_health",
    "preference_curves",
    "ratings",
    "reward_calibration",
    "reward_distributions",
    "reward_kl_frontier",
    "reward_means",
    "reward_variances",
    "reward_watch",
    "rewrite_audit",
    "save",
    "score_rounds",
    "score_transitions",
    "training_curves",
    "transfer_heatmap",
    "win_percentages",
    "win_tie_lose",
]
