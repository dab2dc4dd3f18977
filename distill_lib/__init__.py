"""Regenerate, read and extend papers on generative dataset distillation.

data.load -> methods.dm.distill -> evaluation.evaluate -> records.Record -> tables; experiments join them, publish makes
the book. A folder imports only what stands left of it: core, data, records and networks, evaluation, generators,
methods, experiments, tables, publish.
"""
