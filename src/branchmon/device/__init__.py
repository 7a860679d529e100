"""The processor's branch monitoring unit: registers, counters, predictor, last-branch records."""
