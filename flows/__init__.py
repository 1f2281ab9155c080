"""The flows: one night (`retrain`), and many dates on request (`backfill`).

A flow says in which order the stages run; what a stage does is in ml/pipeline.
"""
