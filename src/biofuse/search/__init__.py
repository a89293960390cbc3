"""Scorers, strategies, the leaderboard and the rules that choose from it."""

from biofuse.search.closed_form import ClosedForm, ClosedFormScorer
from biofuse.search.closed_form_cost import Work, estimate
from biofuse.search.cost import Cost
from biofuse.search.leaderboard import Leaderboard, Row
from biofuse.search.plan import ValidationPlan, search_key
from biofuse.search.runner import run_search
from biofuse.search.scorer import FoldScores, FoldwiseScorer, RefitScorer, Scorer, TableScorer
from biofuse.search.selection import Selection, greedy_path, select
from biofuse.search.sink import read_sink
from biofuse.search.strategies import STRATEGIES, Strategy, make_strategy
from biofuse.search.subsets import Subset, label

__all__ = [
    "STRATEGIES",
    "ClosedForm",
    "ClosedFormScorer",
    "Cost",
    "FoldScores",
    "FoldwiseScorer",
    "Leaderboard",
    "RefitScorer",
    "Row",
    "Scorer",
    "Selection",
    "Strategy",
    "Subset",
    "TableScorer",
    "ValidationPlan",
    "Work",
    "estimate",
    "greedy_path",
    "label",
    "make_strategy",
    "read_sink",
    "run_search",
    "search_key",
    "select",
]
