"""Scorers, strategies, the leaderboard, the rules that choose from it, and what is said about the choice."""
