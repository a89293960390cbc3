"""Scorers, strategies, the leaderboard, the rules that choose from it, and what is said about the choice."""

from biofuse.search.attribution import Attribution, attribute
from biofuse.search.closed_form import ClosedForm, ClosedFormScorer
from biofuse.search.closed_form_cost import Work, estimate
from biofuse.search.cost import Cost
from biofuse.search.ensemble import Ensemble, choose_ensemble
from biofuse.search.finalists import finalists
from biofuse.search.leaderboard import Leaderboard, Row
from biofuse.search.modality import CrossModal, cross_modal
from biofuse.search.optimism import Optimism, correct_optimism
from biofuse.search.pareto import Budget, cheapest_within, pareto_front
from biofuse.search.plan import ValidationPlan, search_key
from biofuse.search.reduction import ReductionLoss, reduction_loss
from biofuse.search.runner import run_search
from biofuse.search.scorer import FoldScores, FoldwiseScorer, RefitScorer, Scorer, TableScorer
from biofuse.search.screen_plan import ScreenPlan, plan_screen
from biofuse.search.selection import Selection, greedy_path, select
from biofuse.search.sink import read_sink
from biofuse.search.strategies import STRATEGIES, Listed, Strategy, make_strategy, screening_strategy
from biofuse.search.subsets import Subset, label

__all__ = [
    "STRATEGIES",
    "Attribution",
    "Budget",
    "ClosedForm",
    "ClosedFormScorer",
    "Cost",
    "CrossModal",
    "Ensemble",
    "FoldScores",
    "FoldwiseScorer",
    "Leaderboard",
    "Listed",
    "Optimism",
    "ReductionLoss",
    "RefitScorer",
    "Row",
    "Scorer",
    "ScreenPlan",
    "Selection",
    "Strategy",
    "Subset",
    "TableScorer",
    "ValidationPlan",
    "Work",
    "attribute",
    "cheapest_within",
    "choose_ensemble",
    "correct_optimism",
    "cross_modal",
    "estimate",
    "finalists",
    "greedy_path",
    "label",
    "make_strategy",
    "pareto_front",
    "plan_screen",
    "read_sink",
    "reduction_loss",
    "run_search",
    "screening_strategy",
    "search_key",
    "select",
]
