"""Traces for other programs: Perfetto and Chrome, speedscope, CSV, Parquet. (Arrow it is already.)"""
