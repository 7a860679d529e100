"""What to do at a trip: one module an action, chosen by ``watch --on-trip``."""

from branchmon.actions.choose import ACTION_NAMES, Action, parse_actions

__all__ = ["ACTION_NAMES", "Action", "parse_actions"]
