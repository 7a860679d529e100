"""The single-step source: slow, always right, the ground truth.

Every monitored task executes one instruction at a time under ptrace; tasks without a scheduled event run freely.
"""
