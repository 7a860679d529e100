"""What a trip tells an engineer: registers, stack, last branches, and facts that a count alone does not see."""
